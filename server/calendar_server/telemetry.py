"""What operators read: JSON lines on standard error, with request ids. (What is counted: ``metrics.py``.)

A log line tells an event, which is a word of our own, and the keys of ``KEYS``; everything else is dropped. So no
header, body, title, password or address of a peer can end up in a log by accident, not even as an exception's message.
"""

from __future__ import annotations

import json
import logging
import math
import re
import select
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import TextIO

OURS = "calendar_server"
"""The root of our loggers. What other packages log may quote what peers sent, so only its place is told."""

KEYS = (
    "rpc",
    "code",
    "reason",
    "duration_ms",
    "request_id",
    "organization",
    "connection",
    "provider",
    "state",
    "outcome",
    "attempts",
    "count",
    "setting",
    "migration",
    "signal",
    "grpc",
    "http",
    "pid",
    "route",
    "wanted",
)
"""The keys a log line may have beside time, level, event and what is told of an exception."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the call that this thread works for; empty outside calls."""

_EVENT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VALUE_MOST = 200
_FRAMES_MOST = 30
WRITES_MOST = 16
"""Writes that a thread makes for others, each of many lines where many wait."""
LINES_WAITING_MOST = 1000
"""Lines that wait for a slow stream; from then on who has something to tell waits with them."""


# Logs


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Only the allow-listed keys of the record, ASCII, without a line break."""
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        ours = record.name == OURS or record.name.startswith(f"{OURS}.")
        if ours and isinstance(record.msg, str) and _EVENT.fullmatch(record.msg):
            line["event"] = record.msg
        else:
            line["event"] = "told_by_library"
            line["logger"] = record.name[:_VALUE_MOST]
            line["place"] = f"{record.filename}:{record.lineno}"
        current = request_id.get()
        if current:
            line["request_id"] = current
        if ours:
            for key in KEYS:
                value = record.__dict__.get(key)
                if value is not None:
                    line[key] = _shown(value)
        if record.exc_info and record.exc_info[1] is not None:
            line.update(_exception(record.exc_info[1]))
        return json.dumps(line)


class _Lines(logging.Handler):
    """Writes lines to a stream, and lets nobody wait for another's line as long as few are on their way.

    Who finds nobody writing writes, for a while also what others bring meanwhile. So a call's thread hands its line over
    and goes on: when a hundred calls ended at once, their threads stood in a queue here for longer than their answers took.

    A line that cannot be written is lost in silence, as the report would quote its arguments.
    """

    def __init__(self, stream: TextIO):
        super().__init__()
        self._stream = stream
        self._waiting: deque[str] = deque()
        self._writing = threading.Lock()

    def handle(self, record: logging.LogRecord) -> bool:
        """As the base's, without its lock."""
        told = bool(self.filter(record))
        if told:
            self.emit(record)
        return told

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record, here and now, and have it written."""
        try:
            self._waiting.append(self.format(record) + "\n")
        except Exception:
            # Whatever it is, the report of it would quote the record's arguments.
            return
        if not self._write(patient=len(self._waiting) > LINES_WAITING_MOST, most=WRITES_MOST):
            self._have_written()

    def flush(self) -> None:
        """Write all that waits, and wait for what another writes."""
        self._write(patient=True)
        with self._writing:
            pass

    def _write(self, *, patient: bool, most: float = math.inf) -> bool:
        """Write what waits, in at most so many writes. False: some is left that nobody writes."""
        writes = 0
        # Looked at again after the end of each turn: a line that came in its last moment has nobody else.
        while self._waiting and self._writing.acquire(blocking=patient):
            try:
                while writes < most and (lines := self._some()):
                    writes += 1
                    with suppress(Exception):
                        self._stream.write(lines)
                        self._stream.flush()
            finally:
                self._writing.release()
            if writes >= most:
                return not self._waiting
        return True

    def _have_written(self) -> None:
        """More comes than is written: no call's thread can do that for all the others."""
        helper = threading.Thread(target=self._write, kwargs={"patient": True}, name="log", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            # There are too many, or the process is ending.
            self._write(patient=True)

    def _some(self) -> str:
        """Lines for one write, of which those of other processes into the same pipe cannot fall into the middle."""
        some: list[str] = []
        size = 0
        while self._waiting and (not some or size + len(self._waiting[0]) <= select.PIPE_BUF):
            some.append(self._waiting.popleft())
            size += len(some[-1])
        return "".join(some)


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process as JSON lines to ``stream`` (standard error).

    ``level`` is for our own loggers; those of libraries tell warnings and worse.
    """
    lines = _Lines(stream or sys.stderr)
    lines.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [lines]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _thread_died


def tell_deaths_as_lines() -> None:
    """Have this process tell of what ends it, or of what Python ignores, as lines like all others.

    The interpreter's own report has the exception's message, which may quote a request or a setting.
    """
    sys.excepthook = _process_died
    sys.unraisablehook = _ignored


def _process_died(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(OURS).critical("process_broke", exc_info=(kind, error, frames))


def _ignored(told: sys.UnraisableHookArgs) -> None:
    if told.exc_value is not None:
        exception = (told.exc_type, told.exc_value, told.exc_traceback)
        logging.getLogger(OURS).error("exception_ignored", exc_info=exception)


def _thread_died(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is None or told.exc_type is SystemExit:
        return
    exception: tuple[type[BaseException], BaseException, TracebackType | None]
    exception = (told.exc_type, told.exc_value, told.exc_traceback)
    logging.getLogger(OURS).error("thread_died", exc_info=exception)


def _shown(value: object) -> str | int | float | bool:
    if isinstance(value, (bool, int, float)):
        return value
    text = str(value)
    return text if len(text) <= _VALUE_MOST else f"{text[:_VALUE_MOST]}…"


def _exception(error: BaseException) -> dict[str, object]:
    """The kinds of the exception and of its causes, and where it was raised. No message: it may quote a request."""
    kinds: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(kinds) < 5:
        kinds.append(f"{type(cause).__module__}.{type(cause).__qualname__}")
        cause = cause.__cause__ or cause.__context__
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES_MOST:]
    return {"exception": kinds, "traceback": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}
