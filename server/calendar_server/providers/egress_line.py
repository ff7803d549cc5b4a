"""One line: a connection to one origin, and one request with its answer on it. The door of httpcore.

httpcore is the transport of httpx. httpx itself would put URLs into the log, keep cookies, decode compressed bodies
before their size is known and read proxies from the environment; its transport does none of that, and lets us dial.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpcore

from calendar_server.errors import CalendarError, ProviderUnavailable
from calendar_server.providers.addresses import UrlParts
from calendar_server.providers.egress_gate import Gate
from calendar_server.providers.egress_wire import Allowance, AnswerTooLarge, PlainWire, TlsWire, Wire, dial

PIECES_MAX = 10_000
PIECE_BYTES = 50
"""Chunks of one answer: each costs time to read, however small it is. More than ``PIECES_MAX`` must hold ``PIECE_BYTES``
on average."""

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


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """A request. Its headers may hold a password."""

    method: str
    parts: UrlParts
    headers: Mapping[str, str]
    content: bytes

    def __repr__(self) -> str:
        return f"Question({self.method}, ***)"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a line leads to. One that was dialled without a verdict (``trusted``) is another origin than one with it."""

    scheme: str
    host: str
    port: int
    trusted: bool

    @classmethod
    def of(cls, parts: UrlParts, trusted: bool) -> Origin:
        return cls(parts.scheme, parts.host, parts.port, trusted)


class StaleLine(Exception):
    """A line that was used before broke without a byte of an answer: most likely the server had closed it."""


class Line(httpcore.NetworkBackend):
    """A connection to one origin, dialled at its first use. For one thread at a time.

    ``made_at`` and ``kept_at`` (seconds on the owner's clock) are the owner's notes. ``allowance`` is that of the
    exchange under way.
    """

    allowance: Allowance

    def __init__(self, origin: Origin, parts: UrlParts, gate: Gate, tls: ssl.SSLContext, made_at: float):
        self.origin = origin
        self.made_at = made_at
        self.kept_at = made_at
        self._used = False
        self._parts = parts
        self._gate = gate
        self._stream: _Stream | None = None
        self._connection = httpcore.HTTPConnection(
            httpcore.Origin(parts.scheme.encode(), parts.host.encode(), parts.port),
            ssl_context=tls,
            network_backend=self,
        )

    def ask(self, question: Question, allowance: Allowance, answer_bytes: int) -> Answer:
        """Send the request and read its answer whole. ``allowance`` is for the head; the body gets ``answer_bytes``.

        Raises ``StaleLine``, ``ForbiddenDestination`` and ``ProviderUnavailable``, after which the line has ended.
        """
        used, self._used = self._used, True
        self.allowance = allowance
        try:
            return self._read(question, answer_bytes)
        except CalendarError:
            self.close()
            raise
        except Exception as error:
            # The door: whatever the parser and the socket raise at a hostile or broken server is told in our words. The
            # foreign error holds pieces of the answer and must not be shown, hence ``from None``.
            self.close()
            if used and allowance.received == 0:
                raise StaleLine from None
            raise malformed() if isinstance(error, httpcore.ProtocolError | ValueError) else broken() from None
        except BaseException:
            self.close()
            raise

    def may_be_kept(self) -> bool:
        """Whether the last answer ended so that another request can follow."""
        return self._connection.is_idle()

    def is_whole(self) -> bool:
        """Whether a waiting line can still be used: it is quiet. What stirs is its end, or an answer to nothing."""
        return self._connection.is_idle() and not self._connection.has_expired()

    def _read(self, question: Question, answer_bytes: int) -> Answer:
        response = self._connection.handle_request(_request(question))
        try:
            if self.allowance.received == 0:
                # It lay there before we asked: an answer to something else.
                raise StaleLine
            header_list = tuple((_text(name).lower(), _text(value)) for name, value in response.headers)
            headers = _joined(header_list)
            _check_head(question.method, response.status, headers, answer_bytes)
            self.allowance.bytes_max, self.allowance.in_head = answer_bytes, False
            body = bytearray()
            for pieces, piece in enumerate(response.iter_stream()):
                if pieces >= PIECES_MAX + len(body) // PIECE_BYTES or len(body) + len(piece) > answer_bytes:
                    raise AnswerTooLarge
                self.allowance.seconds()
                body += piece
        finally:
            response.close()
        return Answer(response.status, headers, bytes(body), question.parts.url, header_list)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Judge the origin's addresses and dial one of them, whatever else httpcore says."""
        addresses = self._gate.addresses(self._parts, self.allowance.deadline, trusted=self.origin.trusted)
        self._stream = _Stream(dial(addresses, port, self.allowance), self)
        return self._stream

    def close(self) -> None:
        """End the line at whatever stage it is."""
        if self._stream is not None:
            self._stream.close()
        self._connection.close()


class _Stream(httpcore.NetworkStream):
    """A wire as httpcore wants it, under the allowance of its line. httpcore's time-outs are not used.

    httpcore writes a request in pieces, its head and its body. They wait here until it wants to read: to send once, in
    one packet as a rule, costs half as much, and servers get requests whole.
    """

    def __init__(self, wire: PlainWire, line: Line):
        self._wire: Wire = wire
        self._line = line
        self._unsent: list[bytes] = []

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        allowance = self._line.allowance
        if self._unsent:
            request, self._unsent = b"".join(self._unsent), []
            # Broken or not, it is read: a server may answer, and hang up, before it has read the whole request.
            with suppress(OSError):
                self._wire.send(request, allowance)
        data = self._wire.receive(min(max_bytes, allowance.room()), allowance)
        allowance.received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            self._unsent.append(buffer)

    def close(self) -> None:
        self._wire.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._wire = TlsWire(
                self._wire, ssl_context, server_hostname or self._line.origin.host, self._line.allowance
            )
        except (OSError, ValueError):
            self.close()
            raise ProviderUnavailable(
                "No secure connection to the server could be made: its certificate or its TLS cannot be accepted."
            ) from None
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._wire.stirs() if info == "is_readable" else None


def keep_quiet() -> None:
    """Keep httpcore out of the log: at level debug it writes the headers of answers there."""
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def _request(question: Question) -> httpcore.Request:
    method, parts, content = question.method, question.parts, question.content
    sent = [("Host", parts.authority), ("Accept-Encoding", "identity")]
    sent += [(name, value) for name, value in question.headers.items() if name.lower() not in _OURS]
    if not any(name.lower() == "user-agent" for name in question.headers):
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


def _check_head(method: str, status: int, headers: Mapping[str, str], answer_bytes: int) -> None:
    """Refuse an answer by its head, before its body is read."""
    if status == 101:
        raise malformed()
    length = headers.get("content-length", "")
    if method == "HEAD" or status in (204, 304) or (length == "0" and "transfer-encoding" not in headers):
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


def broken() -> ProviderUnavailable:
    return ProviderUnavailable("The connection to the server broke before its answer was whole.")


def malformed() -> ProviderUnavailable:
    return ProviderUnavailable("The server's answer is not valid HTTP, or was cut.")
