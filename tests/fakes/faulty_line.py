"""The line to a provider, with faults on demand: a small HTTP server on loopback that passes everything on, or does not.

    with FaultyLine("http://127.0.0.1:5232", voice) as line:
        ...line.url...
        line.spoil(Kind.CUT, skip=1)         # the request after the next one
        line.between(lambda: ..., skip=0)    # something happens just before the next request is passed on
        line.heal()

``url`` takes the place of the server's own. What a server says of itself in its answers is changed to it.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

HANG_S = 30.0
"""Seconds after which a hanging request ends in any case."""


class Kind(Enum):
    """What becomes of a request."""

    UNAUTHORIZED = "it is refused with 401"
    FORBIDDEN = "it is refused with 403, which at Google is what a spent quota looks like"
    THROTTLED = "it is refused with 429 and Retry-After"
    GONE = "it is refused with 410"
    BROKEN = "it is answered with 500"
    UNAVAILABLE = "it is answered with 503"
    HANG = "nothing is answered, for as long as somebody waits"
    LOST = "it is done, and the line is cut before its answer"
    CUT = "it is done, and the line is cut within its answer"
    HALF = "it is done, and half of its answer comes as if it were the whole"
    INSIDE = "it is answered with success, and an error inside"
    EMPTY = "it is answered with success and nothing"
    PAGE = "it is answered with success and a page for people"


LOOKS = frozenset({"GET", "PROPFIND", "REPORT"})
DONE = frozenset({Kind.LOST, Kind.CUT, Kind.HALF})
"""Kinds that the server never hears of."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client gets."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Voice = Callable[[Kind, str], Answer]
"""How this kind of server refuses a request of this method."""


@dataclass(slots=True)
class _Order:
    skip: int
    times: int
    kind: Kind | None = None
    happening: Callable[[], object] | None = None


class Orders:
    """What is to happen to requests, in the order in which they come. Safe for any number of threads."""

    def __init__(self) -> None:
        self._orders: list[_Order] = []
        self._lock = threading.Lock()
        self._healed = threading.Event()

    def spoil(self, kind: Kind, *, skip: int = 0, times: int = 1) -> None:
        """After ``skip`` further requests, so many meet this fault."""
        with self._lock:
            self._healed.clear()
            self._orders.append(_Order(skip, times, kind))

    def between(self, happening: Callable[[], object], *, skip: int = 0) -> None:
        """Just before the request after ``skip`` further ones is passed on, this happens, once."""
        with self._lock:
            self._orders.append(_Order(skip, 1, None, happening))

    def heal(self) -> None:
        """Nothing that was ordered happens any more, and what hangs ends."""
        with self._lock:
            self._orders.clear()
            self._healed.set()

    def forget_happenings(self) -> None:
        """What was to happen between requests and has not yet does not."""
        with self._lock:
            self._orders = [order for order in self._orders if order.happening is None]

    def next(self) -> Kind | None:
        """What becomes of the request that is there now. Whatever is to happen before it has happened then."""
        happenings: list[Callable[[], object]] = []
        kind: Kind | None = None
        with self._lock:
            for order in list(self._orders):
                if order.skip > 0:
                    order.skip -= 1
                    continue
                if order.kind is not None and kind is not None:
                    continue
                if order.happening is not None:
                    happenings.append(order.happening)
                kind = kind or order.kind
                order.times -= 1
                if order.times <= 0:
                    self._orders.remove(order)
        for happening in happenings:
            happening()
        return kind

    def hang(self, timeout_s: float = HANG_S) -> None:
        """Until everything is healed, or so long."""
        self._healed.wait(timeout_s)


class FaultyLine:
    """See the module."""

    def __init__(self, server_url: str, voice: Voice):
        parts = urlsplit(server_url)
        self.there = (str(parts.hostname), int(parts.port or 80))
        self.voice = voice
        self.orders = Orders()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def pass_on(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Have the server do it; a look that it fails at of itself once more, for what fails here is what was ordered.

        Radicale answers with 500 where an event is taken out while it looks through the calendar.
        """
        answer = self._done(method, target, headers, body)
        return self._done(method, target, headers, body) if answer.status == 500 and method in LOOKS else answer

    def _done(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        there = "{}:{}".format(*self.there)
        with contextlib.closing(http.client.HTTPConnection(*self.there, timeout=HANG_S)) as connection:
            kept = {name: value for name, value in headers.items() if name.lower() not in _OF_THE_LINE}
            connection.request(method, target, body=body or None, headers=kept)
            answer = connection.getresponse()
            told = answer.read().replace(f"http://{there}".encode(), self.url.encode())
            return Answer(
                answer.status,
                told,
                {name: value for name, value in answer.getheaders() if name.lower() not in _OF_THE_LINE},
            )

    def close(self) -> None:
        self.orders.heal()
        self._server.shutdown()
        for line in list(self._server.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> FaultyLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_OF_THE_LINE = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, line: FaultyLine):
        self.line = line
        self.lines: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.lines.add(self.connection)

    def finish(self) -> None:
        self.server.lines.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = self.server.line
        kind = line.orders.next()
        if kind is Kind.HANG:
            line.orders.hang()
            self.close_connection = True
            return
        if kind is None or kind in DONE:
            answer = line.pass_on(self.command, self.path, dict(self.headers.items()), body)
        else:
            answer = line.voice(kind, self.command)
        if kind is Kind.LOST:
            self.close_connection = True
            return
        if kind is Kind.HALF:
            answer = Answer(answer.status, answer.body[: len(answer.body) // 2], answer.headers)
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        with contextlib.suppress(OSError):
            self.end_headers()
            if kind is Kind.CUT:
                self.wfile.write(answer.body[: len(answer.body) // 2])
                self.close_connection = True
            elif self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = do_PROPFIND = do_REPORT = do_OPTIONS = do_HEAD = do_any
    do_MKCALENDAR = do_PROPPATCH = do_any

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def refusals(inside: Answer, forbidden: Callable[[str], Answer], content_type: str = "application/json") -> Voice:
    """A voice. ``inside`` is this server's success with an error in it, ``forbidden`` its 403 by method."""

    def voice(kind: Kind, method: str) -> Answer:
        headers = {"Content-Type": content_type}
        if kind is Kind.UNAUTHORIZED:
            return Answer(401, b"{}", {**headers, "WWW-Authenticate": 'Basic realm="x"'})
        if kind is Kind.FORBIDDEN:
            return forbidden(method)
        if kind is Kind.THROTTLED:
            return Answer(429, b"{}", {**headers, "Retry-After": "30"})
        if kind is Kind.INSIDE:
            return inside
        if kind is Kind.EMPTY:
            return Answer(inside.status, b"", headers)
        if kind is Kind.PAGE:
            return Answer(200, b"<!doctype html><html><body>Sign in</body></html>", {"Content-Type": "text/html"})
        return Answer({Kind.GONE: 410, Kind.BROKEN: 500, Kind.UNAVAILABLE: 503}[kind], b"{}", headers)

    return voice
