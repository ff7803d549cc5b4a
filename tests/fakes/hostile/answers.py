"""Answers that never end, are too large, or are no HTTP."""

from __future__ import annotations

import contextlib
import functools
import gzip
import zlib

from tests.fakes.hostile.scene import CHUNKED, CLOSE, MB, OK, OPEN, XML, Scene, mode
from tests.fakes.raw_server import answer

# Time


@mode("dripped status line", ends="slow")
def _(scene: Scene) -> None:
    """The status line comes one byte at a time."""
    scene.line.drip(b"HTTP/1.1 207 " + b"x" * 10_000)


@mode("dripped headers", ends="slow")
def _(scene: Scene) -> None:
    """A header comes one byte at a time."""
    scene.line.drip(OK + b"X-Slow: " + b"x" * 10_000)


@mode("dripped body", ends="slow")
def _(scene: Scene) -> None:
    """The body comes one byte at a time, within a length that was told."""
    scene.line.drip(OK + b"Content-Length: 10000\r\n\r\n" + b" " * 10_000)


@mode("dripped interim answers", ends="slow")
def _(scene: Scene) -> None:
    """100 Continue again and again, slowly."""
    scene.line.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, every_s=0.002)


@mode("silence", ends="slow")
def _(scene: Scene) -> None:
    """The request is read and never answered."""
    scene.line.hang()


@mode("a head and then silence", ends="slow")
def _(scene: Scene) -> None:
    """A good head with a length, and no body."""
    scene.send(OK + b"Content-Length: 300\r\n\r\n", close=False)
    scene.line.hang()


@mode("half closed", ends="error")
def _(scene: Scene) -> None:
    """The server closes its side of the connection without an answer, and keeps ours open."""
    with contextlib.suppress(OSError):
        scene.line.socket.shutdown(1)
    scene.line.hang()


# Size


@mode("interim answers without end")
def _(scene: Scene) -> None:
    """100 Continue again and again, fast."""
    scene.flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3000)


@mode("early hints without end")
def _(scene: Scene) -> None:
    """103 with many headers again and again."""
    scene.flood(b"", b"HTTP/1.1 103 Early Hints\r\n" + b"Link: </x>\r\n" * 1000 + b"\r\n")


@mode("headers without end")
def _(scene: Scene) -> None:
    """Small headers, again and again."""
    scene.flood(OK, b"x: y\r\n" * 10_000)


@mode("a header of a megabyte")
def _(scene: Scene) -> None:
    """One header of a megabyte before a good body."""
    status, body, _ = scene.honest()
    scene.send(answer(status, body, [("X-Long", "x" * MB)]))


@mode("a status line of a megabyte")
def _(scene: Scene) -> None:
    """A reason phrase of a megabyte."""
    scene.send(b"HTTP/1.1 207 " + b"x" * MB + b"\r\nContent-Length: 0\r\n\r\n")


@mode("a body over the limit")
def _(scene: Scene) -> None:
    """Nine megabytes of blanks after a good beginning, with a length that says so."""
    scene.send(OK + b"Content-Length: 9000000\r\n\r\n" + XML + OPEN)
    scene.flood(b"", b" " * 60_000)


@mode("a body without end")
def _(scene: Scene) -> None:
    """No length, and blanks without end after a good beginning."""
    scene.flood(OK + b"\r\n" + XML + OPEN, b" " * 60_000)


@mode("chunks without end")
def _(scene: Scene) -> None:
    """Chunks of a good size without end."""
    scene.flood(CHUNKED, b"8000\r\n" + b" " * 0x8000 + b"\r\n")


@mode("tiny chunks without end")
def _(scene: Scene) -> None:
    """Chunks of one byte each."""
    scene.flood(CHUNKED, b"1\r\n \r\n" * 10_000)


@mode("a chunk of an exabyte")
def _(scene: Scene) -> None:
    """One chunk that says it has 2^60 bytes."""
    scene.flood(CHUNKED + b"1000000000000000\r\n", b" " * 60_000)


@mode("chunk extensions without end")
def _(scene: Scene) -> None:
    """A chunk whose extension does not end."""
    scene.flood(CHUNKED + b"1;", b"x" * 60_000)


@mode("trailers without end")
def _(scene: Scene) -> None:
    """A good end of the chunks, and trailers that do not end."""
    scene.flood(CHUNKED + b"0\r\n", b"x: y\r\n" * 10_000)


# Form


@mode("a length that is too long")
def _(scene: Scene) -> None:
    """The body ends before the length that was told."""
    status, body, _ = scene.honest()
    scene.send(answer(status, body, length=len(body) + 1000))


@mode("a length that cuts the body")
def _(scene: Scene) -> None:
    """The length that was told ends inside of the body."""
    status, body, _ = scene.honest()
    scene.send(answer(207 if status < 300 else status, (body or b"<x/>" * 9), length=20))


@mode("a negative length")
def _(scene: Scene) -> None:
    """A length below zero."""
    scene.send(OK + b"Content-Length: -1\r\n\r\n" + XML)


@mode("two lengths")
def _(scene: Scene) -> None:
    """Two lengths that contradict each other."""
    _, body, _ = scene.honest()
    scene.send(OK + f"Content-Length: {len(body)}\r\nContent-Length: 0\r\n\r\n".encode() + body)


@mode("a length that is no number")
def _(scene: Scene) -> None:
    """A length in letters."""
    scene.send(OK + b"Content-Length: lots\r\n\r\n" + XML)


@mode("chunks that are none")
def _(scene: Scene) -> None:
    """Garbage where the size of a chunk should be."""
    scene.send(CHUNKED + b"zz\r\nhello\r\n")


@mode("gzip")
def _(scene: Scene) -> None:
    """A compressed body, although identity was asked."""
    _, body, _ = scene.honest()
    scene.reply(207, gzip.compress(body), ("Content-Encoding", "gzip"))


@mode("a gzip bomb in a gzip bomb")
def _(scene: Scene) -> None:
    """A few kilobytes that become a gigabyte when unpacked twice."""
    scene.reply(207, _nested_gzip(), ("Content-Encoding", "gzip, gzip"))


@mode("a gzip bomb as a transfer coding")
def _(scene: Scene) -> None:
    """A compressed transfer coding that nobody asked for."""
    scene.send(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _chunk(_nested_gzip()) + b"0\r\n\r\n")


@mode("deflate")
def _(scene: Scene) -> None:
    """A deflated body, although identity was asked."""
    _, body, _ = scene.honest()
    scene.reply(207, zlib.compress(body), ("Content-Encoding", "deflate"))


@mode("brotli in name")
def _(scene: Scene) -> None:
    """A plain body that is called brotli."""
    _, body, _ = scene.honest()
    scene.reply(207, body or b"x", ("Content-Encoding", "br"))


@mode("TLS where plain is expected")
def _(scene: Scene) -> None:
    """The bytes of a TLS alert."""
    scene.send(b"\x15\x03\x03\x00\x02\x02\x28")


@mode("HTTP/0.9")
def _(scene: Scene) -> None:
    """A body without any head."""
    scene.send(XML + OPEN + CLOSE)


@mode("HTTP/2")
def _(scene: Scene) -> None:
    """A frame of HTTP/2."""
    scene.send(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\x00\x04\x00\x00\xff\xff")


@mode("a switch of protocols")
def _(scene: Scene) -> None:
    """101, and then whatever."""
    scene.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + XML + OPEN + CLOSE)


@mode("a reset")
def _(scene: Scene) -> None:
    """The connection is reset instead of an answer."""
    scene.line.reset()


@mode("a reset in the body")
def _(scene: Scene) -> None:
    """The connection is reset in the middle of the body."""
    scene.line.send(OK + b"Content-Length: 5000\r\n\r\n" + XML + OPEN)
    scene.line.reset()


@mode("headers folded and split")
def _(scene: Scene) -> None:
    """Line breaks, zero bytes and colons in places where HTTP has none."""
    scene.send(b"HTTP/1.1 207 X\r\n: nameless\r\nX\0Y: z\r\nnot a header\r\n\r\n" + XML + OPEN + CLOSE)


@mode("junk after the answer", "discovery", "list", "report", ends="exact")
def _(scene: Scene) -> None:
    """A good answer with an answer to nothing right behind it: the next request must not take it for its own."""
    status, body, headers = scene.honest()
    scene.line.send(answer(status, body, headers) + answer(207, XML + OPEN + CLOSE))


@mode("a line for each answer", ends="exact")
def _(scene: Scene) -> None:
    """Good answers, each at the end of its connection, so that every request has to dial anew."""
    scene.send(answer(*scene.honest()))


@mode("100 and then the answer", ends="exact")
def _(scene: Scene) -> None:
    """An interim answer before the good one."""
    status, body, headers = scene.honest()
    scene.line.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 3)
    scene.line.send(answer(status, body, headers))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.cache
def _nested_gzip() -> bytes:
    inner = zlib.compressobj(9, zlib.DEFLATED, 31)
    return gzip.compress(b"".join(inner.compress(bytes(MB)) for _ in range(100)) + inner.flush())
