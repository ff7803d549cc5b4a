"""Streams of answers that are open: how many there may be, and what ends them from outside.

A stream's own thread mostly waits. So what ends a stream from outside (its key was revoked, the process stops) is told to
the client by whoever noticed, at once; the thread finds out when it next looks.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from calendar_server.errors import CalendarError, LimitExceeded, ServiceStopping, Unauthorized
from calendar_server.rpc.call import Authenticator
from calendar_server.rpc.status import Answer, answer_of, wire_status

_log = logging.getLogger(__name__)

RETRY_FULL_S = 10.0


class OpenWatch:
    """One stream of answers. It ends once, by whoever is first."""

    def __init__(self, context: grpc.ServicerContext, send: Callable[[bytes | None], None], call_id: str):
        self._context = context
        self._send = send
        self._call_id = call_id
        self._lock = threading.Lock()
        self._ended = False
        self.refused: Answer | None = None
        """The error that it ended with, once it has."""

    def send(self, raw: bytes) -> bool:
        """Send an answer. Waits while the client's side is full; False when nobody is there any more."""
        self._send(raw)
        return bool(self._context.is_active())

    def end(self, refused: Answer | None = None) -> bool:
        """Tell the client that this is the end, and why. False when it had ended already. Never waits."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self.refused = refused
        trailers: tuple[tuple[str, str | bytes], ...] = (("x-request-id", self._call_id),)
        if refused is not None:
            status = wire_status(refused, self._call_id)
            self._context.set_code(status.code)
            self._context.set_details(status.details)
            trailers = status.trailing_metadata
        self._context.set_trailing_metadata(trailers)
        self._send(None)
        return True

    def fail(self, error: CalendarError) -> None:
        """End with an error."""
        self.end(answer_of(error, self._call_id))

    def cancel(self) -> None:
        """Drop what the client has not taken."""
        self._context.cancel()


class Watches:
    """The open streams: at most ``most``. Looks now and then whether their keys are still valid."""

    LOOK_EVERY_S = 1.0
    """With the seconds that a key is believed without asking, a revoked one ends its watches within five."""

    def __init__(self, authenticator: Authenticator, most: int):
        self._authenticator = authenticator
        self._most = most
        self._open: dict[OpenWatch, str] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._stopped = threading.Event()

    def __len__(self) -> int:
        return len(self._open)

    def start(self) -> None:
        """Look at keys from now on."""
        threading.Thread(target=self._look, name="watches", daemon=True).start()

    @contextmanager
    def admitted(self, watch: OpenWatch, key: str) -> Iterator[None]:
        """Count the stream inside the block. Raises ``LimitExceeded`` when there are too many."""
        with self._lock:
            if self._stopping:
                raise ServiceStopping()
            if len(self._open) >= self._most:
                full = "Too many calls of WatchBusy are open here. End one, or try again later."
                raise LimitExceeded(full, retry_after_s=RETRY_FULL_S)
            self._open[watch] = key
        try:
            yield
        finally:
            with self._lock:
                del self._open[watch]

    def end(self) -> None:
        """End all that are open, and admit no more."""
        with self._lock:
            self._stopping = True
            watches = list(self._open)
        for watch in watches:
            watch.fail(ServiceStopping())

    def close(self) -> None:
        """Cancel those whose clients do not take their end, and look no more."""
        self._stopped.set()
        with self._lock:
            watches = list(self._open)
        for watch in watches:
            watch.cancel()

    def _look(self) -> None:
        while not self._stopped.wait(self.LOOK_EVERY_S):
            by_key: dict[str, list[OpenWatch]] = defaultdict(list)
            with self._lock:
                for watch, key in self._open.items():
                    by_key[key].append(watch)
            for key, watches in by_key.items():
                try:
                    self._authenticator.authenticate(key)
                except Unauthorized as error:
                    for watch in watches:
                        watch.fail(error)
                except Exception:
                    # Not knowing is not a no. Where the database is out of reach, the watches themselves find out.
                    _log.warning("key_not_checked", exc_info=True)
