"""HTTP/1.1 as far as one exchange needs it: what a request looks like, and an answer read whole (RFC 9112).

Own code, because it was measured: a parser for general use took two thirds of the time of an exchange, and what a server
can do to it for nothing (a chunk per byte, thousands of interim answers) took the interpreter away from all other calls.
It reads strictly: whatever could be understood in two ways is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.addresses import UrlParts
from calendar_server.providers.egress_wire import Allowance, AnswerTooLarge, Wire, head_too_large

LINES_MAX = 1_000
"""Lines of one head, or of what follows the last chunk."""
INTERIM_MAX = 20
"""Interim answers (RFC 9110 section 15.2) before the answer."""
PIECES_MAX = 5_000
PIECE_BYTES = 50
"""Chunks of one answer: each costs time to read, however small it is. More than ``PIECES_MAX`` must hold ``PIECE_BYTES``
on average."""
CHUNK_LINE_BYTES = 1_000
"""A chunk's size with its extensions, or a line after the last chunk."""

LENGTH_DIGITS = 20

_USER_AGENT = "calendar-service"
_OURS = frozenset({"host", "accept-encoding", "connection", "content-length", "transfer-encoding", "te", "upgrade"})

_HEAD_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\x00\r\n]*)?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_VALUES = re.compile("[\x00\r\x0b\x0c]")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[^\x00\r\n]*|[ \t]*)\r\n")


class Malformed(Exception):
    """What came is no HTTP/1.1 answer, or was cut."""


@dataclass(frozen=True, slots=True, repr=False)
class Question:
    """A request. Its headers may hold a password."""

    method: str
    parts: UrlParts
    headers: Mapping[str, str]
    content: bytes

    def __repr__(self) -> str:
        return f"Question({self.method}, ***)"


def spelled(question: Question) -> bytes:
    """The request as bytes. Raises ``ValueError`` for a header that would break out of its line."""
    method, parts, content = question.method, question.parts, question.content
    lines = [f"{method} {parts.target} HTTP/1.1", f"Host: {parts.authority}", "Accept-Encoding: identity"]
    agent = False
    for name, value in question.headers.items():
        lowered = name.lower()
        if lowered not in _OURS:
            agent = agent or lowered == "user-agent"
            lines.append(f"{name}: {value}")
    if not agent:
        lines.append(f"User-Agent: {_USER_AGENT}")
    if content or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        lines.append(f"Content-Length: {len(content)}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1 or "\x00" in head:
        raise ValueError("A header holds the end of a line.")
    # Field values are bytes (RFC 9110 section 5.5). Answers are read as Latin-1, so an etag goes back as it came.
    return head.encode("latin-1") + b"\r\n\r\n" + content


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer. Names in ``fields`` are lower case, in the order in which they came."""

    status: int
    fields: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    """Repeated fields are joined by a comma (RFC 9110 section 5.3)."""
    length: int | None
    """Bytes of the body, where the head tells."""
    chunked: bool
    persists: bool
    """Whether the line may be used again after this answer (RFC 9112 section 9.3), as far as the head tells."""


class Incoming:
    """One answer as it comes in on a line.

    ``ended``: it ended by its own framing and nothing came after it, so that another may follow. Raises ``Malformed``,
    ``ProviderUnavailable`` when the allowance is spent and ``OSError`` when the line breaks.
    """

    def __init__(self, wire: Wire, allowance: Allowance):
        self._wire = wire
        self._allowance = allowance
        self._buffer = bytearray()
        self._at = 0
        self._framed = False

    @property
    def ended(self) -> bool:
        return self._framed and not self._left

    @property
    def _left(self) -> int:
        return len(self._buffer) - self._at

    def head(self) -> Head:
        """Read until the head of the answer proper; interim ones are passed over."""
        for _ in range(INTERIM_MAX + 1):
            head = _head(self._head_text())
            # 101 is an answer to something that was not asked.
            if head.status == 101:
                raise Malformed
            if head.status >= 200:
                return head
        raise head_too_large()

    def body(self, method: str, head: Head, body_max: int) -> bytes:
        """Read the body, by the rules of RFC 9112 section 6.3. Raises ``AnswerTooLarge`` where it has over ``body_max``."""
        if method == "HEAD" or head.status in (204, 304):
            self._framed = True
            return b""
        if head.chunked:
            body = self._chunked(body_max)
            # Where a length is told as well, somebody on the way may have believed that one.
            self._framed = head.length is None
            return body
        if head.length is not None:
            body = self._sized(head.length, body_max)
            self._framed = True
            return body
        return self._until_end(body_max)

    def _fill(self) -> bool:
        """Take in more. False at the orderly end of the line."""
        allowance = self._allowance
        data = self._wire.receive(allowance.room(), allowance)
        allowance.came(len(data))
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data
        return bool(data)

    def _head_text(self) -> bytes:
        looked = self._at
        while True:
            end = _HEAD_END.search(self._buffer, looked)
            if end is not None:
                text = bytes(self._buffer[self._at : end.start()])
                self._at = end.end()
                return text
            # The end may be in two parts.
            looked = max(0, len(self._buffer) - self._at - 2)
            if not self._fill():
                raise Malformed

    def _sized(self, length: int, body_max: int) -> bytes:
        if length > body_max:
            raise AnswerTooLarge
        while self._left < length:
            if not self._fill():
                raise Malformed
        return self._take(length)

    def _until_end(self, body_max: int) -> bytes:
        while self._fill():
            if self._left > body_max:
                raise AnswerTooLarge
        return self._take(self._left)

    def _take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        with memoryview(self._buffer) as view:
            return bytes(view[start : self._at])

    def _chunked(self, body_max: int) -> bytes:
        body = bytearray()
        pieces = 0
        while size := self._chunk_size():
            pieces += 1
            if len(body) + size > body_max:
                raise AnswerTooLarge
            if pieces > PIECES_MAX + len(body) // PIECE_BYTES:
                # To ask for less would not help.
                raise ProviderUnavailable("The server's answer comes in too many tiny pieces.")
            # What is there goes over at once, so that a large chunk is not held twice.
            while size > self._left:
                size -= self._left
                body += self._buffer[self._at :]
                self._at = len(self._buffer)
                if not self._fill():
                    raise Malformed
            end = self._at + size
            body += self._buffer[self._at : end]
            if self._buffer[end : end + 2] == b"\r\n":
                self._at = end + 2
                continue
            self._at = end
            if self._line():
                raise Malformed
        self._trailers()
        return bytes(body)

    def _chunk_size(self) -> int:
        told = _CHUNK_LINE.match(self._buffer, self._at)
        if told is None:
            told = _CHUNK_LINE.fullmatch(self._line() + b"\r\n")
            if told is None:
                raise Malformed
        elif told.end() - self._at > CHUNK_LINE_BYTES:
            raise Malformed
        else:
            self._at = told.end()
        return int(told[1], 16)

    def _trailers(self) -> None:
        """Read the fields after the last chunk. They tell nothing that is used, but they have to be fields."""
        lines: list[bytes] = []
        while line := self._line():
            lines.append(line)
            if len(lines) >= LINES_MAX:
                raise Malformed
        _fields(lines)

    def _line(self) -> bytes:
        """A line of the framing, without its end, which has to be CR and LF."""
        while (end := self._buffer.find(b"\n", self._at, self._at + CHUNK_LINE_BYTES)) < 0:
            if self._left >= CHUNK_LINE_BYTES or not self._fill():
                raise Malformed
        line = bytes(self._buffer[self._at : end])
        if not line.endswith(b"\r"):
            raise Malformed
        self._at = end + 1
        return line[:-1]


def _head(text: bytes) -> Head:
    lines = [line.removesuffix(b"\r") for line in text.split(b"\n")]
    told = _STATUS_LINE.fullmatch(lines[0])
    if told is None:
        raise Malformed
    if len(lines) > LINES_MAX:
        raise head_too_large()
    fields = _fields(lines[1:])
    headers: dict[str, str] = {}
    for name, value in fields:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    closes = any(option.strip().lower() == "close" for option in headers.get("connection", "").split(","))
    coding = headers.get("transfer-encoding")
    if coding is not None and coding.lower() != "chunked":
        raise Malformed
    length = headers.get("content-length")
    return Head(
        int(told[2]),
        tuple(fields),
        headers,
        None if length is None else _length(length),
        coding is not None,
        told[1] == b"1" and not closes,
    )


def _fields(lines: list[bytes]) -> list[tuple[str, str]]:
    """Names, in lower case, and values."""
    fields: list[tuple[str, str]] = []
    for raw in _unfolded(lines):
        name, colon, value = raw.decode("latin-1").partition(":")
        if not colon or not _NAME.fullmatch(name) or _NOT_IN_VALUES.search(value):
            raise Malformed
        fields.append((name.lower(), value.strip(" \t")))
    return fields


def _unfolded(lines: list[bytes]) -> list[bytes]:
    """The fields, with those that go on in a second line (RFC 9112 section 5.2) in one."""
    unfolded: list[bytes] = []
    for line in lines:
        if line[:1] not in (b" ", b"\t"):
            unfolded.append(line)
        elif unfolded:
            unfolded[-1] += b" " + line.strip(b" \t")
        else:
            raise Malformed
    return unfolded


def _length(told: str) -> int:
    """The one length that a head tells, however often (RFC 9112 section 6.3)."""
    lengths = {length.strip() for length in told.split(",")}
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdigit() and len(length) <= LENGTH_DIGITS):
        raise Malformed
    return int(length)
