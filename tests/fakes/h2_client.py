"""A client of HTTP/2 that does what no library would: frames by hand, on a raw socket."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
PATH = "/calendars.v1.CalendarService/List"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame (RFC 9113 §4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in pairs))


def call_headers(*more: tuple[str, str], path: str = PATH) -> list[tuple[str, str]]:
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *more,
    ]


class RawLine:
    """A connection whose answers are read and thrown away, so that the server is never held up by them."""

    def __init__(self, port: int, *, first: Sequence[tuple[int, int]] = (), reads: bool = True):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._encoder = hpack.Encoder()
        self._encoder.header_table_size = 0
        self.received = 0
        self.closed = threading.Event()
        self.send(PREFACE + settings(*first))
        if reads:
            threading.Thread(target=self._read, daemon=True).start()

    def send(self, raw: bytes) -> bool:
        """Send; False when the server has had enough."""
        try:
            self._socket.sendall(raw)
        except OSError:
            self.closed.set()
            return False
        return True

    def headers(self, stream: int, *more: tuple[str, str], end: bool = False, path: str = PATH) -> bytes:
        """The frame that begins a call."""
        block = self._encoder.encode(call_headers(*more, path=path), huffman=False)
        return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)

    def encoded(self, *headers: tuple[str, str]) -> bytes:
        return self._encoder.encode(list(headers), huffman=False)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.settimeout(None)
            while chunk := self._socket.recv(65536):
                self.received += len(chunk)
        self.closed.set()


@contextlib.contextmanager
def lines(
    port: int, count: int, *, first: Sequence[tuple[int, int]] = (), reads: bool = True
) -> Iterator[list[RawLine]]:
    """So many connections. Fewer when the server takes no more."""
    opened: list[RawLine] = []
    try:
        for _ in range(count):
            try:
                opened.append(RawLine(port, first=first, reads=reads))
            except OSError:
                break
        yield opened
    finally:
        for line in opened:
            line.close()
