"""The one way out: every byte to a provider goes through ``Egress``. The door of httpcore, the transport of httpx.

httpx itself would put URLs into the log, keep cookies, decode compressed bodies before their size is known, and read
proxies from the environment; what is needed of it is its transport, and that is httpcore.

One ``exchange`` is one request and one answer. Its bounds
    destination  https to public addresses at any port; anything else, and plain http, only by the allow-list. All
                 addresses of the name are judged, and one of those very addresses is dialled (``egress_gate``).
    time         ``exchange_s`` or the caller's deadline, whichever is sooner, from the look-up to the last byte.
    bytes        ``answer_bytes`` for head and body as they come in, of which the head (interim answers included) gets
                 ``HEAD_BYTES_MAX``; a body may come in at most ``PIECES_MAX`` chunks.
    form         HTTP/1.1, identity encoding; no cookies, no proxies, no redirects followed.

Lines (connections) are kept for further exchanges with the same origin, for at most ``LINE_AGE_S`` from dialling: so
long does a changed name or allow-list need to take effect. Trusted lines are never lent to untrusted exchanges.

Neither log lines nor messages of errors hold a header, a body, a URL or an address.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpcore

from calendar_server.errors import CalendarError, ForbiddenDestination, ProviderUnavailable
from calendar_server.providers.addresses import AllowList, UrlParts, canonical_host, parse_url
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress_gate import Gate, Resolver, system_resolver
from calendar_server.providers.egress_wire import (
    Allowance,
    AnswerTooLarge,
    PlainWire,
    TlsWire,
    Wire,
    client_context,
    dial,
)

__all__ = [
    "AllowList",
    "Answer",
    "AnswerTooLarge",
    "Egress",
    "Resolver",
    "UrlParts",
    "canonical_host",
    "parse_url",
    "system_resolver",
]

HEAD_BYTES_MAX = 100_000
PIECES_MAX = 100_000
# Links that servers hand out (sync tokens, pages) are longer than what people type.
LINK_BYTES_MAX = 16_384

LINE_AGE_S = 60.0
LINE_IDLE_S = 15.0
LINES_MAX = 64
LINES_PER_ORIGIN_MAX = 16

# What may be sent again when a kept line turns out to be dead: requests that change nothing (RFC 9110 §9.2.1).
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT"})
# Others ride only on a line that was in use just now: a server that is about to close it would leave us in doubt.
_FRESH_S = 2.0

_USER_AGENT = "calendar-service"
_OURS = frozenset({"host", "accept-encoding", "connection", "content-length", "transfer-encoding", "te", "upgrade"})


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A whole answer, whatever its status.

    Names in ``headers`` are lower case; repeated ones are joined by a comma (RFC 9110 §5.3). ``header_list`` keeps each
    as it came, in order: several ``www-authenticate`` stay apart. ``url`` is the one asked, in canonical spelling.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    header_list: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


class Egress:
    """Sends requests to providers. Shared by all threads; ``close`` ends the lines that are kept."""

    def __init__(
        self,
        *,
        allow: AllowList,
        exchange_s: float,
        answer_bytes: int,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """``tls`` replaces the authorities that servers' certificates are checked against. ``clock`` ages the lines."""
        self._gate = Gate(allow, resolver)
        self._exchange_s = exchange_s
        self._answer_bytes = answer_bytes
        self._tls = client_context() if tls is None else tls
        self._clock = clock
        self._lines = _Lines(clock)
        # At level debug httpcore writes the headers of answers into the log, whatever the level of the others.
        logging.getLogger("httpcore").setLevel(logging.WARNING)

    def check(self, url: str, deadline: Deadline | None = None) -> None:
        """Resolve the URL's host and judge it, without any exchange.

        Raises ``ForbiddenDestination`` (constant text) for a scheme, host or address that is not allowed and for what
        is no URL, ``ProviderUnavailable`` when the name does not resolve.
        """
        self._gate.addresses(_parts(url), self._limit(deadline))

    def plain_allowed(self, url: str, deadline: Deadline | None = None) -> bool:
        """Whether the URL's host and port stand on the allow-list, by name or by all addresses: only there may be http.

        Looks the name up if the list has networks; a name that does not resolve is not allowed.
        """
        try:
            return self._gate.lists(_parts(url), self._limit(deadline))
        except ForbiddenDestination:
            return False

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        deadline: Deadline,
        trusted: bool = False,
    ) -> Answer:
        """Send exactly one request and read its answer whole. A fragment in the URL stays here.

        Host, lengths and encodings are set by this method, whatever ``headers`` has. ``trusted`` is for URLs that the
        operator set: the address is not judged, all other bounds hold.

        Raises ``ForbiddenDestination``, and ``ProviderUnavailable`` for everything short of a whole answer: no route, a
        broken line, TLS that fails, the time over, a cut or malformed answer, one that is encoded, one over the limits
        (``AnswerTooLarge`` where its size alone is the matter).

        After that the request may or may not have reached the server. Only requests that change nothing are repeated
        here, once, when a kept line breaks before the first byte of an answer.
        """
        parts = _parts(url)
        limit = self._limit(deadline)
        limit.check()
        request = _request(method, parts, headers, content)
        line = self._lines.take(_Key(parts.scheme, parts.host, parts.port, trusted), method)
        if line is not None:
            try:
                return self._converse(line, request, parts, limit)
            except _StaleLine:
                if method not in _REPEATABLE:
                    raise _broken() from None
        line = _Line(_Key(parts.scheme, parts.host, parts.port, trusted), parts, self._gate, self._tls, self._clock())
        return self._converse(line, request, parts, limit)

    def close(self) -> None:
        """End the kept lines. Exchanges under way end by themselves; nothing is kept any more."""
        self._lines.close()

    def _limit(self, deadline: Deadline | None) -> Deadline:
        return Deadline.after(self._exchange_s) if deadline is None else deadline.sooner(self._exchange_s)

    def _converse(self, line: _Line, request: httpcore.Request, parts: UrlParts, limit: Deadline) -> Answer:
        """One request and its answer on this line, which is kept if it may be. Raises ``_StaleLine`` on used lines."""
        used = line.used
        line.used = True
        line.allowance = Allowance(
            limit, min(HEAD_BYTES_MAX, self._answer_bytes), on_wire_max=2 * self._answer_bytes + 256_000
        )
        try:
            answer = self._read(line, request, parts)
        except CalendarError:
            line.close()
            raise
        except Exception as error:
            # The door: whatever the parser and the socket raise at a hostile or broken server is told in our words. The
            # foreign error holds pieces of the answer and must not be shown, hence ``from None``.
            line.close()
            if used and line.allowance.received == 0:
                raise _StaleLine from None
            raise _malformed() if isinstance(error, httpcore.ProtocolError | ValueError) else _broken() from None
        except BaseException:
            line.close()
            raise
        self._lines.put(line)
        return answer

    def _read(self, line: _Line, request: httpcore.Request, parts: UrlParts) -> Answer:
        allowance = line.allowance
        response = line.connection.handle_request(request)
        try:
            if allowance.received == 0:
                # It lay there before we asked: an answer to something else.
                raise _StaleLine
            header_list = tuple((_text(name).lower(), _text(value)) for name, value in response.headers)
            headers = _joined(header_list)
            _check_head(request, response.status, headers, self._answer_bytes)
            allowance.bytes_max, allowance.in_head = self._answer_bytes, False
            body = bytearray()
            for pieces, piece in enumerate(response.iter_stream()):
                if pieces >= PIECES_MAX or len(body) + len(piece) > self._answer_bytes:
                    raise AnswerTooLarge
                allowance.seconds()
                body += piece
        finally:
            response.close()
        return Answer(response.status, headers, bytes(body), parts.url, header_list)


@dataclass(frozen=True, slots=True)
class _Key:
    """What a line may be used for."""

    scheme: str
    host: str
    port: int
    trusted: bool


class _Line(httpcore.NetworkBackend):
    """A connection to one origin, dialled at its first use. ``allowance`` is that of the exchange under way."""

    allowance: Allowance

    def __init__(self, key: _Key, parts: UrlParts, gate: Gate, tls: ssl.SSLContext, made_at: float):
        self.key = key
        self.made_at = made_at
        self.kept_at = made_at
        self.used = False
        self._parts = parts
        self._gate = gate
        self._stream: _Stream | None = None
        self.connection = httpcore.HTTPConnection(
            httpcore.Origin(parts.scheme.encode(), parts.host.encode(), parts.port),
            ssl_context=tls,
            network_backend=self,
        )

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Judge the origin's addresses and dial one of them, whatever else httpcore says."""
        addresses = self._gate.addresses(self._parts, self.allowance.deadline, trusted=self.key.trusted)
        self._stream = _Stream(dial(addresses, port, self.allowance), self)
        return self._stream

    def close(self) -> None:
        """End the line at whatever stage it is."""
        if self._stream is not None:
            self._stream.close()
        self.connection.close()


class _Stream(httpcore.NetworkStream):
    """A wire as httpcore wants it, under the allowance of its line. httpcore's time-outs are not used."""

    def __init__(self, wire: PlainWire, line: _Line):
        self._wire: Wire = wire
        self._line = line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        allowance = self._line.allowance
        data = self._wire.receive(min(max_bytes, allowance.room()), allowance)
        allowance.received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._wire.send(buffer, self._line.allowance)
        except OSError as error:
            # httpcore then still reads: a server may answer, and hang up, before it has read the whole request.
            raise httpcore.WriteError from error

    def close(self) -> None:
        self._wire.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._wire = TlsWire(self._wire, ssl_context, server_hostname or self._line.key.host, self._line.allowance)
        except (OSError, ValueError):
            self.close()
            raise ProviderUnavailable(
                "No secure connection to the server could be made: its certificate or its TLS cannot be accepted."
            ) from None
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._wire.stirs() if info == "is_readable" else None


class _Lines:
    """The lines that wait for a further exchange, newest last. Bounded in number, age and idleness."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[_Line] = []
        self._closed = False

    def take(self, key: _Key, method: str) -> _Line | None:
        """A line for this origin that is still whole, which is then the caller's; or None."""
        idle_s = LINE_IDLE_S if method in _REPEATABLE else _FRESH_S
        while True:
            with self._lock:
                ended = self._take_out_ended()
                fit = [line for line in self._waiting if line.key == key and self._clock() - line.kept_at <= idle_s]
                line = fit[-1] if fit else None
                if line is not None:
                    self._waiting.remove(line)
            _close_all(ended)
            if line is None or not line.connection.has_expired():
                return line
            line.close()

    def put(self, line: _Line) -> None:
        """Keep the line if it can be used again, else end it."""
        with self._lock:
            ended = self._take_out_ended()
            if self._closed or not line.connection.is_idle():
                ended.append(line)
            else:
                line.kept_at = self._clock()
                self._waiting.append(line)
                same = [other for other in self._waiting if other.key == line.key]
                crowd = same if len(same) > LINES_PER_ORIGIN_MAX else self._waiting
                if len(same) > LINES_PER_ORIGIN_MAX or len(self._waiting) > LINES_MAX:
                    ended.append(crowd[0])
                    self._waiting.remove(crowd[0])
        _close_all(ended)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            ended, self._waiting = self._waiting, []
        _close_all(ended)

    def _take_out_ended(self) -> list[_Line]:
        now = self._clock()
        ended = [
            line for line in self._waiting if now - line.made_at >= LINE_AGE_S or now - line.kept_at >= LINE_IDLE_S
        ]
        self._waiting = [line for line in self._waiting if line not in ended]
        return ended


class _StaleLine(Exception):
    """A line that was used before broke without a byte of an answer: most likely the server had closed it."""


def _close_all(lines: list[_Line]) -> None:
    for line in lines:
        line.close()


def _parts(url: str) -> UrlParts:
    try:
        return parse_url(url.partition("#")[0], bytes_max=LINK_BYTES_MAX)
    except ValueError:
        raise ForbiddenDestination from None


def _request(method: str, parts: UrlParts, headers: Mapping[str, str], content: bytes) -> httpcore.Request:
    if not (method.isascii() and method.isalpha() and method.isupper()) or method == "CONNECT":
        raise ValueError("The method must be an upper-case word other than CONNECT.")
    sent = [("Host", parts.authority), ("Accept-Encoding", "identity")]
    sent += [(name, value) for name, value in headers.items() if name.lower() not in _OURS]
    if not any(name.lower() == "user-agent" for name in headers):
        sent.append(("User-Agent", _USER_AGENT))
    if content or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        sent.append(("Content-Length", str(len(content))))
    return httpcore.Request(
        method,
        httpcore.URL(scheme=parts.scheme, host=parts.host, port=parts.port, target=parts.target),
        # Field values are bytes (RFC 9110 §5.5). Answers are read as Latin-1, so an etag goes back as it came.
        headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in sent],
        content=content,
    )


def _check_head(request: httpcore.Request, status: int, headers: Mapping[str, str], answer_bytes: int) -> None:
    """Refuse an answer by its head, before its body is read."""
    if status == 101:
        raise _malformed()
    length = headers.get("content-length", "")
    if request.method == b"HEAD" or status in (204, 304) or (length == "0" and "transfer-encoding" not in headers):
        return
    if length.isascii() and length.isdigit() and int(length) > answer_bytes:
        raise AnswerTooLarge
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise ProviderUnavailable("The server's answer is compressed, although it was asked to send it plain.")


def _joined(header_list: tuple[tuple[str, str], ...]) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for name, value in header_list:
        values.setdefault(name, []).append(value)
    return {name: ", ".join(several) for name, several in values.items()}


def _text(raw: bytes) -> str:
    return bytes(raw).decode("latin-1")


def _broken() -> ProviderUnavailable:
    return ProviderUnavailable("The connection to the server broke before its answer was whole.")


def _malformed() -> ProviderUnavailable:
    return ProviderUnavailable("The server's answer is not valid HTTP, or was cut.")
