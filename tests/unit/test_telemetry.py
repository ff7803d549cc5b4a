"""Logs tell what is allowed and nothing else; request ids are shared."""

from __future__ import annotations

import io
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from calendar_server.telemetry import LINES_WAITING_MOST, WRITES_MOST, configure_logging, request_id


@dataclass
class Log:
    """What was written."""

    stream: io.StringIO

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def log() -> Iterator[Log]:
    root, ours = logging.getLogger(), logging.getLogger("calendar_server")
    handlers, level, our_level, hook = root.handlers[:], root.level, ours.level, threading.excepthook
    stream = io.StringIO()
    configure_logging("info", stream)
    yield Log(stream)
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    threading.excepthook = hook


OURS = logging.getLogger("calendar_server.somewhere")
FOREIGN = logging.getLogger("niquests.adapters")


def test_a_line_has_time_level_and_event(log: Log) -> None:
    OURS.info("serving")
    line = log.lines[0]
    assert str(line.pop("time")).endswith("Z")
    assert line == {"level": "info", "event": "serving"}


def test_allowed_keys_are_told(log: Log) -> None:
    OURS.info("call", extra={"rpc": "List", "duration_ms": 1.5, "attempts": 2})
    assert log.lines[0].items() >= {"rpc": "List", "duration_ms": 1.5, "attempts": 2}.items()


def test_other_keys_are_dropped(log: Log) -> None:
    OURS.info("call", extra={"password": "hunter2", "title": "Dentist", "rpc": "List"})
    assert "hunter2" not in log.text
    assert "Dentist" not in log.text


@pytest.mark.parametrize("event", ["user anna logged in", "Call", "", "a" * 100, "x\ny"])
def test_an_event_that_is_no_word_is_not_told(log: Log, event: str) -> None:
    OURS.warning(event)
    assert log.lines[0]["event"] == "told_by_library"


def test_arguments_are_never_formatted_in(log: Log) -> None:
    OURS.warning("call %s", "hunter2")
    assert "hunter2" not in log.text


def test_a_library_is_told_by_its_place_only(log: Log) -> None:
    FOREIGN.error("GET https://anna:hunter2@example.com/ failed", extra={"reason": "hunter2"})
    line = log.lines[0]
    assert (line["event"], line["logger"]) == ("told_by_library", "niquests.adapters")
    assert str(line["place"]).startswith("test_telemetry.py:")
    assert "hunter2" not in log.text


def test_chatter_of_libraries_is_left_out(log: Log) -> None:
    FOREIGN.info("request sent")
    assert log.lines == []


def test_our_level_is_the_configured_one(log: Log) -> None:
    OURS.debug("detail")
    assert log.lines == []


def test_an_exception_is_told_by_kind_and_place_not_by_message(log: Log) -> None:
    try:
        try:
            int("hunter2")
        except ValueError as error:
            raise RuntimeError("hunter2") from error
    except RuntimeError:
        OURS.exception("push_broke")
    line = log.lines[0]
    assert line["exception"] == ["builtins.RuntimeError", "builtins.ValueError"]
    assert "test_telemetry.py" in str(line["traceback"])
    assert "hunter2" not in log.text


def test_a_long_value_is_cut(log: Log) -> None:
    OURS.info("call", extra={"reason": "x" * 1000})
    assert len(str(log.lines[0]["reason"])) == 201


def test_a_line_break_in_a_value_does_not_break_the_line(log: Log) -> None:
    OURS.info("call", extra={"reason": "a\nb\u2028c"})
    assert len(log.text.splitlines()) == 1


def test_the_request_id_of_the_call_is_told(log: Log) -> None:
    token = request_id.set("r-7")
    OURS.info("call")
    request_id.reset(token)
    OURS.info("call")
    assert [line.get("request_id") for line in log.lines] == ["r-7", None]


def test_a_thread_that_dies_is_told_without_its_message(log: Log) -> None:
    def die() -> None:
        raise RuntimeError("hunter2")

    thread = threading.Thread(target=die)
    thread.start()
    thread.join()
    assert (log.lines[0]["event"], log.lines[0]["exception"]) == ("thread_died", ["builtins.RuntimeError"])
    assert "hunter2" not in log.text


@pytest.mark.parametrize(
    ("ending", "event", "code"),
    [
        ("raise RuntimeError('hunter2') from KeyError('hunter2')", "process_broke", 1),
        ("class Left:\n    def __del__(self): raise RuntimeError('hunter2')\nLeft()", "exception_ignored", 0),
    ],
)
def test_what_ends_a_process_is_told_without_its_message(ending: str, event: str, code: int) -> None:
    program = (
        "from calendar_server.telemetry import configure_logging, tell_deaths_as_lines\n"
        f"configure_logging('debug')\ntell_deaths_as_lines()\n{ending}\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    [line] = [json.loads(text) for text in done.stderr.splitlines()]
    assert (line["event"], done.returncode) == (event, code)
    assert "builtins.RuntimeError" in line["exception"]
    assert "hunter2" not in done.stderr + done.stdout


def test_a_warning_of_python_becomes_a_line(log: Log) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("hunter2", stacklevel=1)
    assert [line["logger"] for line in log.lines] == ["py.warnings"]
    assert "hunter2" not in log.text


def test_a_line_that_cannot_be_written_is_no_error(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    log.stream.close()
    OURS.info("call")
    assert capsys.readouterr().err == ""


class Slow(io.StringIO):
    """A stream whose writes wait until it flows, and which remembers what each of them brought."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.flows = threading.Event(), threading.Event()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.begun.set()
        assert self.flows.wait(20)
        self.writes.append(text)
        return len(text)


@pytest.fixture
def slow(log: Log) -> Slow:
    """The log's stream from now on, with one line on its way."""
    slow = Slow()
    configure_logging("info", slow)
    threading.Thread(target=OURS.info, args=("first",)).start()
    assert slow.begun.wait(20)
    return slow


def told(slow: Slow) -> list[str]:
    """The events that have been written."""
    return [json.loads(line)["event"] for line in "".join(slow.writes).splitlines()]


def wait_for(slow: Slow, number: int) -> None:
    ends_at = time.monotonic() + 20
    while len(told(slow)) < number:
        assert time.monotonic() < ends_at
        time.sleep(0.005)


def test_a_slow_stream_holds_nobody_up(slow: Slow) -> None:
    for number in range(200):
        OURS.info(f"call{number}")
    assert slow.writes == []
    slow.flows.set()
    wait_for(slow, 201)
    assert told(slow) == ["first", *(f"call{number}" for number in range(200))]


def test_lines_are_written_together_but_each_write_is_one_to_a_pipe(slow: Slow) -> None:
    for number in range(200):
        OURS.info(f"call{number}")
    slow.flows.set()
    wait_for(slow, 201)
    assert len(slow.writes) < 20
    assert all(len(text) <= select.PIPE_BUF and text.endswith("\n") for text in slow.writes)


def test_no_thread_writes_for_others_without_end(log: Log) -> None:
    by: list[str] = []

    class Busy(io.StringIO):
        """A stream that is never done, as somebody has another line with every write."""

        def write(self, text: str) -> int:
            by.append(threading.current_thread().name)
            if len(by) < 300:
                OURS.info("call")
            return len(text)

    configure_logging("info", Busy())
    telling = threading.Thread(target=OURS.info, args=("first",), name="telling")
    telling.start()
    telling.join(20)
    ends_at = time.monotonic() + 20
    while len(by) < 300:
        assert time.monotonic() < ends_at
        time.sleep(0.005)
    assert by == ["telling"] * WRITES_MOST + ["log"] * (300 - WRITES_MOST)


def test_not_many_lines_wait_for_a_slow_stream(slow: Slow) -> None:
    for _ in range(LINES_WAITING_MOST):
        OURS.info("call")
    last = threading.Thread(target=OURS.info, args=("last",))
    last.start()
    last.join(0.2)
    assert last.is_alive()
    slow.flows.set()
    last.join(20)
    assert not last.is_alive()
    wait_for(slow, LINES_WAITING_MOST + 2)


def test_the_end_of_the_process_waits_for_what_is_on_its_way(slow: Slow) -> None:
    ending = threading.Thread(target=logging.getLogger().handlers[0].flush)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    slow.flows.set()
    ending.join(20)
    assert told(slow) == ["first"]


def test_by_default_lines_go_to_standard_error(log: Log, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    OURS.info("call")
    assert json.loads(capsys.readouterr().err)["event"] == "call"
