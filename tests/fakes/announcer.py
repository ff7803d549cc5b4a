"""An HTTP forwarder that tells its test of every step of every request, and does nothing before the test lets it.

    with Announcer(port) as front:
        front.on_step = lambda step, request: kill() if step is Step.APPLIED and request.method == "PUT" else None
        ...front.port...

``on_step`` runs in the thread of the request's line. What it answers decides: None goes on, ``CUT`` ends the line.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import socket
import struct
import termios
import time
from collections.abc import Callable
from enum import Enum
from types import TracebackType

from tests.fakes.raw_server import RawConnection, RawRequest, RawServer, answer


class Step(Enum):
    """How far a request has come."""

    ARRIVED = "arrived"
    """It is here, and the server behind does not know of it."""
    APPLIED = "applied"
    """The server behind has answered; the answer is still here."""
    ANSWERED = "answered"
    """The answer has reached the caller's machine."""


CUT = "cut"
"""The line ends here, without an answer."""
TWICE = "twice"
"""Of ``ARRIVED``: the request is applied two times, as after a doubled packet; the first answer is given."""

Hook = Callable[[Step, RawRequest], str | None]
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Announcer:
    """Stands in front of ``port`` of loopback. Use it as a context manager."""

    def __init__(self, port: int):
        self._target = port
        self._server = RawServer(self._forward)
        self.on_step: Hook = lambda step, request: None

    @property
    def port(self) -> int:
        return self._server.port

    @property
    def url(self) -> str:
        return f"{self._server.url}/"

    def __enter__(self) -> Announcer:
        self._server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.on_step = lambda step, request: CUT
        self._server.__exit__(kind, error, trace)

    def _forward(self, request: RawRequest, connection: RawConnection) -> None:
        verdict = self.on_step(Step.ARRIVED, request)
        if verdict == CUT:
            connection.reset()
            return
        reply = self._ask(request)
        if verdict == TWICE:
            self._ask(request)
        if self.on_step(Step.APPLIED, request) == CUT:
            connection.reset()
            return
        connection.send(reply)
        _await_delivery(connection.socket)
        if self.on_step(Step.ANSWERED, request) == CUT:
            connection.reset()

    def _ask(self, request: RawRequest) -> bytes:
        line = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name not in _HOP}
            line.request(request.method, request.path, request.body, headers)
            reply = line.getresponse()
            body = reply.read()
            kept = [(name, value) for name, value in reply.getheaders() if name.lower() not in _HOP]
            return answer(reply.status, body, kept)
        except OSError:
            return answer(502)
        finally:
            line.close()


def _await_delivery(line: socket.socket) -> None:
    """Return when the other side's machine has acknowledged every byte, or has hung up."""
    until = time.monotonic() + 10
    with contextlib.suppress(OSError, ValueError):
        while struct.unpack("i", fcntl.ioctl(line.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]:
            if time.monotonic() > until:
                return
            time.sleep(0.001)
