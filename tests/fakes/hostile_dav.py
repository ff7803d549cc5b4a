"""A CalDAV server that attacks whoever asks it: bombs, drips, redirects, foreign places, log-in loops and lies.

It is an honest server with one account (``strange_dav``) until a mode is set. Then every answer of one stage comes from
the mode, which writes raw bytes:

    discovery   PROPFIND of depth 0 outside of the calendar: entrance, principal, inbox
    list        PROPFIND of depth 1 on the home
    report      whatever reads the calendar's events: REPORT, its list, GET
    put         whatever is asked about single events: PUT, GET, PROPFIND, and searches for them

``MODES`` has them all; the first line of each says what it does. ``ends`` is how a call must end that meets it:

    error   by an error, as soon as the limits for size or sense are reached
    slow    by an error, when the time for one exchange is over
    exact   well: the answer is the honest one, or names what it could not read
    login   by an error about the credentials

``dav.trap`` is another server at another address and port. Nobody may ever come there.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gzip
import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.fakes.raw_server import RawConnection, RawRequest, RawServer, answer
from tests.fakes.strange_dav import HOME, INBOX, PASSWORD, PRINCIPAL, USERNAME, WORK, Asked, StrangeDav

Stage = Literal["discovery", "list", "report", "put"]
Ends = Literal["error", "slow", "exact", "login"]
STAGES: tuple[Stage, ...] = ("discovery", "list", "report", "put")

OK = b"HTTP/1.1 207 Multi-Status\r\nContent-Type: application/xml\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
XML = b'<?xml version="1.0" encoding="utf-8"?>'
OPEN = b'<D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav">'
CLOSE = b"</D:multistatus>"
MB = 1_000_000
SENT_MOST = 20 * MB
"""What a mode without end sends at most to one request, so that a reader without limits is found out, not filled up."""

BOMB = f"{WORK}bomb.ics"


@dataclass(frozen=True, slots=True)
class Scene:
    """One request that a mode answers."""

    dav: HostileDav
    request: RawRequest
    line: RawConnection
    stage: Stage

    def send(self, *pieces: bytes, close: bool = True) -> None:
        """Write these bytes, then hang up."""
        for piece in pieces:
            self.line.send(piece)
        if close:
            self.line.close()

    def flood(self, begin: bytes, piece: bytes) -> None:
        """Write the beginning, then the piece again and again."""
        self.line.send(begin)
        self.line.flood(piece, max(1, SENT_MOST // len(piece)))
        self.line.close()

    def reply(self, status: int, body: bytes = b"", *headers: tuple[str, str]) -> None:
        """Write a well-formed answer; the line stays."""
        self.line.send(answer(status, body, headers))

    def honest(self) -> tuple[int, bytes, list[tuple[str, str]]]:
        """What the honest server would say."""
        return self.dav.honest(self.request)

    def multistatus(self, *responses: str) -> None:
        self.reply(207, XML + OPEN + "".join(responses).encode() + CLOSE, ("Content-Type", "application/xml"))


Act = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to attack. ``does`` says it in a sentence."""

    name: str
    does: str
    stages: tuple[Stage, ...]
    ends: Ends
    act: Act


MODES: dict[str, Mode] = {}


def mode(name: str, *stages: Stage, ends: Ends = "error") -> Callable[[Act], Act]:
    """Register a mode; its docstring is what it does."""

    def register(act: Act) -> Act:
        assert name not in MODES
        assert act.__doc__
        MODES[name] = Mode(name, act.__doc__, stages or STAGES, ends, act)
        return act

    return register


class HostileDav:
    """See the module."""

    def __init__(self) -> None:
        self.mode: Mode | None = None
        self.stage: Stage = "discovery"
        self.account = StrangeDav()
        self.server = RawServer(self._answer)
        self.trap = RawServer(self._caught, host="127.0.0.2")
        self.struck = 0
        """Requests that the mode has answered."""
        self.passwords = 0
        """Requests with credentials that the mode has answered."""
        self.nonces = itertools.count()

    @property
    def url(self) -> str:
        return self.server.url

    def attack(self, name: str, stage: Stage) -> None:
        """Answer this stage by this mode from now on."""
        self.mode, self.stage, self.struck, self.passwords = MODES[name], stage, 0, 0

    def calm_down(self) -> None:
        """Be honest from now on."""
        self.mode = None

    @property
    def caught(self) -> int:
        """Connections that somebody made to the trap."""
        return len(self.trap.connections)

    def honest(self, request: RawRequest) -> tuple[int, bytes, list[tuple[str, str]]]:
        whole = self.account.answer(
            Asked(request.method, request.path, dict(request.headers), request.body.decode("utf-8", "replace"))
        )
        return whole.status, whole.body or b"", whole.headers

    def _answer(self, request: RawRequest, line: RawConnection) -> None:
        stage = _stage(request)
        if self.mode is None or stage != self.stage:
            status, body, headers = self.honest(request)
            line.send(answer(status, body, headers) if status != 204 else b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        self.struck += 1
        self.passwords += "authorization" in request.headers
        self.mode.act(Scene(self, request, line, stage))

    @staticmethod
    def _caught(request: RawRequest, line: RawConnection) -> None:
        line.send(answer(200, b"welcome"))


def _stage(request: RawRequest) -> Stage | None:
    path = request.path
    inside = path.startswith(WORK) and path != WORK
    if inside and (request.method == "PUT" or not path.endswith("e.ics")):
        return "put"
    if request.method == "REPORT":
        return "put" if b"text-match" in request.body else "report"
    if path.startswith(WORK):
        return "report" if inside or request.headers.get("depth") == "1" else None
    return "list" if request.headers.get("depth") == "1" else "discovery"


@contextlib.contextmanager
def hostile_dav() -> Iterator[HostileDav]:
    """A hostile server in its honest state, and its trap."""
    dav = HostileDav()
    with dav.server, dav.trap:
        dav.account.port = dav.server.port
        yield dav


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


# Documents

XML_STAGES: tuple[Stage, ...] = ("discovery", "list", "report")


@mode("billion laughs", *XML_STAGES)
def _(scene: Scene) -> None:
    """Entities that become a billion letters."""
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (n + 1, b"&l%d;" % n * 10) for n in range(9))
    scene.reply(207, XML + b'<!DOCTYPE x [<!ENTITY l0 "ha">' + laughs + b"]>" + OPEN + b"&l9;" + CLOSE)


@mode("an external entity", *XML_STAGES)
def _(scene: Scene) -> None:
    """An entity that names a file of the reader's machine."""
    body = b'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>' + OPEN + b"<D:x>&f;</D:x>" + CLOSE
    scene.reply(207, XML + body)


@mode("an external document type", *XML_STAGES)
def _(scene: Scene) -> None:
    """A document type that is to be loaded from the trap."""
    scene.reply(207, XML + f'<!DOCTYPE x SYSTEM "{scene.dav.trap.url}/x.dtd">'.encode() + OPEN + CLOSE)


@mode("an inclusion", *XML_STAGES)
def _(scene: Scene) -> None:
    """XInclude and a style sheet that name the trap."""
    trap = scene.dav.trap.url.encode()
    style = b'<?xml-stylesheet type="text/xsl" href="%s/x.xsl"?>' % trap
    scene.reply(207, XML + style + b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="%s/x"/>' % trap)


@mode("depth", *XML_STAGES)
def _(scene: Scene) -> None:
    """A hundred thousand elements inside of each other."""
    scene.reply(207, XML + OPEN + b"<D:x>" * 100_000 + b"</D:x>" * 100_000 + CLOSE)


@mode("a million siblings", *XML_STAGES)
def _(scene: Scene) -> None:
    """A million elements beside each other."""
    scene.reply(207, XML + OPEN + b"<a/>" * MB + CLOSE)


@mode("a million attributes", *XML_STAGES)
def _(scene: Scene) -> None:
    """Hundreds of thousands of attributes on one element."""
    told = b" ".join(b'a%d=""' % n for n in range(500_000))
    scene.reply(207, XML + OPEN + b"<D:response " + told + b"/>" + CLOSE)


@mode("an attribute of megabytes", *XML_STAGES)
def _(scene: Scene) -> None:
    """One attribute of seven megabytes in a response without a place."""
    scene.reply(207, XML + OPEN + b'<D:response a="' + b"x" * (7 * MB) + b'"/>' + CLOSE)


@mode("a million comments", *XML_STAGES)
def _(scene: Scene) -> None:
    """A million empty comments."""
    scene.reply(207, XML + OPEN + b"<!---->" * MB + CLOSE)


@mode("UTF-16 without a declaration", *XML_STAGES)
def _(scene: Scene) -> None:
    """A document type hidden from who looks for it in ASCII."""
    scene.reply(207, ('<!DOCTYPE x [<!ENTITY a "b">]>' + OPEN.decode() + "&a;" + CLOSE.decode()).encode("utf-16"))


@mode("UTF-7", *XML_STAGES)
def _(scene: Scene) -> None:
    """An encoding that hides the angle brackets."""
    scene.reply(207, b'<?xml version="1.0" encoding="utf-7"?>' + OPEN + CLOSE)


@mode("NUL bytes", *XML_STAGES)
def _(scene: Scene) -> None:
    """A megabyte of zero bytes."""
    scene.reply(207, bytes(MB))


@mode("bytes that are no text", *XML_STAGES)
def _(scene: Scene) -> None:
    """Bytes of no encoding where the list should be."""
    scene.reply(207, b"\xff\xc0\x80\xfe" * 10_000)


@mode("a web page")
def _(scene: Scene) -> None:
    """200 and a page that asks to log in."""
    scene.reply(200, b"<html><head><title>Log in</title></head><body>Log in</body></html>")


@mode("an empty body")
def _(scene: Scene) -> None:
    """207 and nothing."""
    scene.reply(207)


@mode("a cut document", *XML_STAGES)
def _(scene: Scene) -> None:
    """The first half of the good document, with a length that fits."""
    status, body, _ = scene.honest()
    scene.reply(status, body[: len(body) // 2])


@mode("two documents", *XML_STAGES)
def _(scene: Scene) -> None:
    """A second document behind the first."""
    scene.reply(207, XML + OPEN + CLOSE + OPEN + CLOSE)


def _inner(status: str, *stages: Stage) -> None:
    @mode(f"an inner {status.split()[0]}", *stages)
    def act(scene: Scene) -> None:
        """207 in which the thing asked for has a status of its own."""
        path = scene.request.path
        scene.multistatus(f"<D:response><D:href>{path}</D:href><D:status>HTTP/1.1 {status}</D:status></D:response>")


for _status in ("507 Insufficient Storage", "500 Broken", "401 Unauthorized", "302 Found", "999 What"):
    _inner(_status, "discovery", "list", "report")


@mode("another thing's answer", "discovery", "report")
def _(scene: Scene) -> None:
    """The list is about a place that nobody asked about."""
    odd = "<D:response><D:href>/elsewhere/</D:href><D:status>HTTP/1.1 500 No</D:status></D:response>"
    scene.multistatus(odd, odd)


@mode("a response without a place", *XML_STAGES)
def _(scene: Scene) -> None:
    """A response that does not say what it is about."""
    scene.multistatus("<D:response><D:propstat><D:prop/></D:propstat></D:response>")


@mode("403 for everything")
def _(scene: Scene) -> None:
    """Every request is forbidden."""
    scene.reply(403)


@mode("204 for everything", "discovery", "list", "report")
def _(scene: Scene) -> None:
    """Every request is a success without a word."""
    scene.line.send(b"HTTP/1.1 204 No Content\r\n\r\n")


@mode("throttling for ever")
def _(scene: Scene) -> None:
    """429 that asks to come back in 10^18 seconds."""
    scene.reply(429, b"", ("Retry-After", "9" * 18))


@mode("a date of blanks")
def _(scene: Scene) -> None:
    """503 whose Retry-After is 80 kilobytes of brackets."""
    scene.reply(503, b"", ("Retry-After", "(" * 80_000))


# Redirects


def _redirects(name: str, target: Callable[[Scene], str], does: str, status: int = 302) -> None:
    def act(scene: Scene) -> None:
        scene.reply(status, b"", ("Location", target(scene)))

    act.__doc__ = does
    mode(name)(act)


_redirects("a redirect to itself", lambda scene: scene.request.path, "A redirect to the same place.")
_redirects(
    "redirects without end",
    lambda scene: f"{scene.request.path.rstrip('/')}/{next(scene.dav.nonces)}/".replace(WORK, f"{WORK}e.ics/"),
    "Each redirect leads one deeper.",
    307,
)
_redirects("a redirect to the trap", lambda scene: scene.dav.trap.url + scene.request.path, "To another address.", 308)
_redirects(
    "a redirect to another port",
    lambda scene: f"http://127.0.0.1:{scene.dav.trap.port}{scene.request.path}",
    "To the same address at another port.",
    301,
)
_redirects(
    "a redirect without a scheme",
    lambda scene: f"//127.0.0.2:{scene.dav.trap.port}/",
    "A network path: to another address by the same scheme.",
)
_redirects(
    "a redirect with user information",
    lambda scene: f"{scene.dav.url.replace('//', '//anna@127.0.0.2:1@')}/",
    "An address that readers of URLs disagree about.",
)
_redirects(
    "a redirect with a backslash",
    lambda scene: f"{scene.dav.trap.url}\\@127.0.0.1:{scene.dav.server.port}/",
    "Another address that readers of URLs disagree about.",
)
_redirects(
    "a redirect to the inner network", lambda scene: "http://169.254.169.254/latest/meta-data/", "To what clouds tell."
)
_redirects("a redirect to a file", lambda scene: "file:///etc/passwd", "To a file of the reader's machine.")
_redirects("a redirect to gopher", lambda scene: f"gopher://127.0.0.2:{scene.dav.trap.port}/_x", "To another scheme.")
_redirects("a redirect to data", lambda scene: "data:text/xml,<x/>", "To the address itself as the answer.")
_redirects("a redirect of kilobytes", lambda scene: "/" + "x" * 90_000, "A place of 90 kilobytes.")
_redirects("a redirect of a megabyte", lambda scene: "/" + "x" * MB, "A place of a megabyte.")
_redirects("a redirect to nowhere", lambda scene: "", "A redirect that does not say where to.")
_redirects("a redirect with a line break in escapes", lambda scene: "/%0d%0aX-Evil:%20yes/../" * 300, "A long escape.")


# Logging in


@mode("401 for ever", ends="login")
def _(scene: Scene) -> None:
    """Every password is refused."""
    scene.reply(401, b"", ("WWW-Authenticate", 'Basic realm="x"'))


@mode("a stray 401", "report", ends="exact")
def _(scene: Scene) -> None:
    """One refusal for no reason, then honest answers."""
    if scene.dav.struck == 1:
        scene.reply(401)
    else:
        scene.reply(*scene.honest()[:2])


@mode("401 without a challenge", ends="login")
def _(scene: Scene) -> None:
    """Every password is refused, and no way to log in offered."""
    scene.reply(401)


@mode("a new nonce each time", ends="login")
def _(scene: Scene) -> None:
    """Digest with a new nonce at every refusal."""
    scene.reply(401, b"", ("WWW-Authenticate", f'Digest realm="x", qop="auth", nonce="{next(scene.dav.nonces)}"'))


@mode("a stale nonce each time", ends="login")
def _(scene: Scene) -> None:
    """Digest that says every time that the password was right and only the nonce too old."""
    told = f'Digest realm="x", qop="auth", stale=true, nonce="{next(scene.dav.nonces)}"'
    scene.reply(401, b"", ("WWW-Authenticate", told))


@mode("Basic and Digest in turns", ends="login")
def _(scene: Scene) -> None:
    """Each refusal offers the other way to log in."""
    count = next(scene.dav.nonces)
    told = 'Basic realm="x"' if count % 2 else f'Digest realm="x", qop="auth", nonce="{count}"'
    scene.reply(401, b"", ("WWW-Authenticate", told))


@mode("MD5-sess that lies", ends="login")
def _(scene: Scene) -> None:
    """Digest with a session key, an unknown quality and an algorithm spelled oddly."""
    told = f'Digest realm="x", qop="auth, auth-int, auth-x", algorithm=md5-SESS, nonce="{next(scene.dav.nonces)}"'
    scene.reply(401, b"", ("WWW-Authenticate", told))


@mode("ten thousand challenges", ends="login")
def _(scene: Scene) -> None:
    """Ten thousand ways to log in, in one header."""
    scene.reply(401, b"", ("WWW-Authenticate", ", ".join(f"A{n} b=c" for n in range(8_000))))


@mode("a challenge of blanks", ends="login")
def _(scene: Scene) -> None:
    """A challenge with 90 kilobytes of blanks before something that is no word."""
    scene.reply(401, b"", ("WWW-Authenticate", "Digest a=b," + " " * 90_000 + '"'))


@mode("a realm of kilobytes", ends="login")
def _(scene: Scene) -> None:
    """Digest with a realm of 90 kilobytes."""
    scene.reply(401, b"", ("WWW-Authenticate", f'Digest realm="{"x" * 90_000}", qop="auth", nonce="n"'))


@mode("a realm of a megabyte")
def _(scene: Scene) -> None:
    """Digest with a realm that is over the limit for a head."""
    scene.reply(401, b"", ("WWW-Authenticate", f'Digest realm="{"x" * MB}", qop="auth", nonce="n"'))


@mode("a nonce of two lines")
def _(scene: Scene) -> None:
    """Digest whose nonce would put another header into our requests."""
    scene.reply(401, b"", ("WWW-Authenticate", 'Digest realm="x", nonce="a\tb\xff", qop="auth"'))


# Lies of discovery


def _principal(homes: str = "", addresses: str = "", principal: str = PRINCIPAL, inbox: str = INBOX) -> str:
    return (
        f"<D:response><D:href>{principal}</D:href><D:propstat><D:prop>"
        f"<D:current-user-principal><D:href>{principal}</D:href></D:current-user-principal>"
        f"<C:calendar-home-set>{homes or f'<D:href>{HOME}</D:href>'}</C:calendar-home-set>"
        f"<C:calendar-user-address-set>{addresses}</C:calendar-user-address-set>"
        f"<C:schedule-inbox-URL><D:href>{inbox}</D:href></C:schedule-inbox-URL>"
        "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


FOREIGN: dict[str, Callable[[HostileDav], str]] = {
    "another host": lambda dav: "https://dav.example.com/dav/home/work/",
    "the trap": lambda dav: f"{dav.trap.url}{WORK}",
    "an inner address": lambda dav: "http://169.254.169.254/latest/",
    "a network path": lambda dav: f"//127.0.0.2:{dav.trap.port}/x/",
    "user information": lambda dav: f"http://anna:x@127.0.0.2:{dav.trap.port}/x/",
    "a script": lambda dav: "javascript:alert(1)",
    "a file": lambda dav: "file:///etc/passwd",
    "eight kilobytes": lambda dav: "/" + "x" * 8_000 + "/",
    "two megabytes": lambda dav: "/" + "x" * (2 * MB) + "/",
    "two megabytes of dots": lambda dav: "/" + "a/../" * 400_000,
}
"""Places that a server may name and nobody may visit."""


def _foreign(name: str, href: Callable[[HostileDav], str]) -> None:
    @mode(f"a principal at {name}", "discovery")
    def principal(scene: Scene) -> None:
        """The account's principal is somewhere else."""
        scene.multistatus(_principal(principal=href(scene.dav)).replace(href(scene.dav), scene.request.path, 1))

    @mode(f"a home at {name}", "discovery")
    def home(scene: Scene) -> None:
        """The account's calendars are somewhere else."""
        scene.multistatus(_principal(f"<D:href>{href(scene.dav)}</D:href>"))

    @mode(f"a calendar at {name}", "list")
    def calendar(scene: Scene) -> None:
        """One of the account's calendars is somewhere else."""
        scene.multistatus(_calendar(HOME, plain=True), _calendar(WORK), _calendar(href(scene.dav)))

    @mode(f"an inbox at {name}", "discovery", ends="exact")
    def inbox(scene: Scene) -> None:
        """The place that would tell the default calendar is somewhere else."""
        scene.multistatus(_principal(inbox=href(scene.dav)))


def _calendar(href: str, *, plain: bool = False, name: str = "Work") -> str:
    types = "<D:collection/>" if plain else "<D:collection/><C:calendar/>"
    return (
        f"<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:resourcetype>{types}</D:resourcetype>"
        f"<D:displayname>{name}</D:displayname></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


for _name, _href in FOREIGN.items():
    _foreign(_name, _href)


@mode("a principal that leads in a circle", "discovery")
def _(scene: Scene) -> None:
    """Every principal names another one, and no home."""
    path = f"/p/{next(scene.dav.nonces)}/"
    told = f"<D:current-user-principal><D:href>{path}</D:href></D:current-user-principal>"
    scene.multistatus(
        f"<D:response><D:href>{scene.request.path}</D:href><D:propstat><D:prop>{told}</D:prop>"
        "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


@mode("ten thousand homes", "discovery")
def _(scene: Scene) -> None:
    """A home set of ten thousand places."""
    scene.multistatus(_principal("".join(f"<D:href>{HOME}{n}/</D:href>" for n in range(10_000))))


@mode("thirty homes", "discovery")
def _(scene: Scene) -> None:
    """The real home, and more others than anybody has: what is left out would look free."""
    scene.multistatus(_principal(f"<D:href>{HOME}</D:href>" + "".join(f"<D:href>/{n}/</D:href>" for n in range(30))))


@mode("ten thousand addresses", "discovery", ends="exact")
def _(scene: Scene) -> None:
    """Ten thousand addresses of the owner, and one of a megabyte."""
    told = "".join(f"<D:href>mailto:anna{n}@example.com</D:href>" for n in range(10_000))
    scene.multistatus(_principal(addresses=f"<D:href>mailto:{'x' * MB}@example.com</D:href>{told}"))


@mode("a home that is the principal", "discovery", ends="exact")
def _(scene: Scene) -> None:
    """The home set holds the real home and the principal itself, many times."""
    scene.multistatus(_principal(f"<D:href>{HOME}</D:href>" + f"<D:href>{HOME[:-1]}</D:href>" * 1000))


@mode("ten thousand calendars", "list")
def _(scene: Scene) -> None:
    """A home with ten thousand calendars."""
    scene.multistatus(_calendar(HOME, plain=True), *(_calendar(f"{HOME}{n}/") for n in range(10_000)))


@mode("one calendar ten thousand times", "list", ends="exact")
def _(scene: Scene) -> None:
    """The same calendar again and again, spelled in two ways."""
    scene.multistatus(_calendar(HOME, plain=True), *(_calendar(WORK), _calendar(WORK[:-1])) * 5_000)


@mode("a calendar with a name of a megabyte", "list", ends="exact")
def _(scene: Scene) -> None:
    """A calendar with a name of a megabyte."""
    scene.multistatus(_calendar(HOME, plain=True), _calendar(WORK, name="x" * MB))


@mode("a calendar by traversal", "list", ends="exact")
def _(scene: Scene) -> None:
    """The calendar again, by dot segments and by escaped ones."""
    tricks = [f"{HOME}../home/work/", f"{HOME}%2e%2e/home/work/", f"/..{WORK}", f"{HOME}./work/"]
    scene.multistatus(_calendar(HOME, plain=True), _calendar(WORK), *(_calendar(trick) for trick in tricks))


# Lies of a calendar


def _resource(href: str, text: str, etag: str = "1") -> str:
    return (
        f'<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:getetag>"{etag}"</D:getetag>'
        f"<C:calendar-data>{text}</C:calendar-data></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


def _with_honest(scene: Scene, *responses: str) -> None:
    """The honest list with these responses in front of its own."""
    _, body, _ = scene.honest()
    beginning = OPEN.replace(b" xmlns:C", b" xmlns:C")
    assert body.count(beginning) == 1
    told = body.replace(beginning, beginning + "".join(responses).encode())
    scene.reply(207, told, ("Content-Type", "application/xml"))


def _event(lines: str, *, start: str = "DTSTART:20261202T120000Z", before: str = "", uid: str = "bomb") -> str:
    return (
        f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n{before}BEGIN:VEVENT\r\nUID:{uid}\r\n"
        f"DTSTAMP:20261101T000000Z\r\n{start}\r\n{lines}END:VEVENT\r\nEND:VCALENDAR\r\n"
    )


HOUR = "DURATION:PT1H\r\n"
ZONE = (
    "BEGIN:VTIMEZONE\r\nTZID:Odd\r\nBEGIN:STANDARD\r\nDTSTART:16010101T000000\r\nTZOFFSETFROM:+0000\r\n"
    "TZOFFSETTO:+0000\r\n{rule}END:STANDARD\r\nEND:VTIMEZONE\r\n"
)
BOMBS: dict[str, tuple[str, Callable[[], str]]] = {
    "every second": (
        "A series of every second since 1970.",
        lambda: _event("DURATION:PT1S\r\nRRULE:FREQ=SECONDLY\r\n", start="DTSTART:19700101T000000Z"),
    ),
    "a count of a billion": (
        "A series that has to be counted to a billion.",
        lambda: _event(f"{HOUR}RRULE:FREQ=MINUTELY;COUNT=1000000000\r\n", start="DTSTART:19700101T000000Z"),
    ),
    "a rule that never holds": (
        "A series of the 30th of February, with every other part in use.",
        lambda: _event(
            f"{HOUR}RRULE:FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30;BYSECOND=59\r\nRDATE:20261202T120000Z\r\n",
            start="DTSTART:19700101T000000Z",
        ),
    ),
    "an interval of zero": ("A series that stands still.", lambda: _event(f"{HOUR}RRULE:FREQ=DAILY;INTERVAL=0\r\n")),
    "lists of by": (
        "A rule with all values of all lists.",
        lambda: _event(
            f"{HOUR}RRULE:FREQ=YEARLY;BYMONTH={_numbers(1, 13)};BYMONTHDAY={_numbers(1, 32)};BYHOUR={_numbers(0, 24)};"
            f"BYMINUTE={_numbers(0, 60)};BYSECOND={_numbers(0, 60)};BYSETPOS={_numbers(-366, 0)}\r\n"
            "RDATE:20261202T120000Z\r\n",
            start="DTSTART:19700101T000000Z",
        ),
    ),
    "a hundred thousand dates": (
        "A series with a hundred thousand further dates.",
        lambda: _event(HOUR + "RDATE:20261202T120000Z\r\n" * 100_000),
    ),
    "a line of dates": (
        "A million further dates in one line, cut at the limit of an answer.",
        lambda: _event(f"{HOUR}RDATE:{','.join(['20261203T120000Z'] * 300_000)}\r\n"),
    ),
    "an endless duration": (
        "An event that lasts for longer than there are numbers.",
        lambda: _event(f"DURATION:P{'9' * 5000}D\r\n"),
    ),
    "a hundred thousand alarms": (
        "An event with a hundred thousand reminders.",
        lambda: _event(f"{HOUR}" + "BEGIN:VALARM\r\nACTION:DISPLAY\r\nEND:VALARM\r\n" * 100_000),
    ),
    "a line of megabytes": ("A summary of five megabytes.", lambda: _event(f"{HOUR}SUMMARY:{'x' * 5 * MB}\r\n")),
    "a folded line of megabytes": (
        "A line that is folded a million times.",
        lambda: _event(f"{HOUR}SUMMARY:x" + "\r\n x" * MB + "\r\n"),
    ),
    "parameters without end": (
        "A property with a hundred thousand parameters and no value.",
        lambda: _event(f"{HOUR}SUMMARY" + ';A="b"' * 300_000 + "\r\n"),
    ),
    "components inside of each other": (
        "A hundred thousand components that are opened and not closed.",
        lambda: "BEGIN:VCALENDAR\r\n" + "BEGIN:VEVENT\r\n" * 100_000,
    ),
    "a time zone of every second": (
        "A time zone that changes every second since 1601.",
        lambda: _event(
            HOUR, start="DTSTART;TZID=Odd:20261202T120000", before=ZONE.format(rule="RRULE:FREQ=SECONDLY\r\n")
        ),
    ),
    "a time zone of a hundred thousand changes": (
        "A time zone with a hundred thousand changes.",
        lambda: _event(
            HOUR,
            start="DTSTART;TZID=Odd:20261202T120000",
            before=ZONE.format(rule="RDATE:20261202T120000\r\n" * 100_000),
        ),
    ),
    "ten thousand time zones": (
        "Ten thousand time zones before one event.",
        lambda: _event(HOUR, start="DTSTART;TZID=Odd:20261202T120000", before=ZONE.format(rule="") * 10_000),
    ),
    "ten thousand overrides": (
        "Ten thousand changed occurrences of a series that is not there.",
        lambda: (
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\n"
            + "".join(
                f"BEGIN:VEVENT\r\nUID:bomb\r\nRECURRENCE-ID:20261202T12{n // 60 % 60:02}{n % 60:02}Z\r\n"
                f"DTSTART:20261202T120000Z\r\n{HOUR}END:VEVENT\r\n"
                for n in range(10_000)
            )
            + "END:VCALENDAR\r\n"
        ),
    ),
    "a year of a thousand digits": (
        "A start whose year has a thousand digits.",
        lambda: _event(HOUR, start=f"DTSTART:{'9' * 1000}T000000Z"),
    ),
    "no text": ("An event with nothing in it.", lambda: ""),
    "no calendar": ("A page where the event should be.", lambda: "&lt;html>Log in&lt;/html>"),
}
"""Texts of one event: what each does, and the text. Each would be on December 2, 2026 from twelve to one."""


def _bomb(name: str, does: str, text: Callable[[], str]) -> None:
    def act(scene: Scene) -> None:
        if b"bomb.ics" in scene.request.body:
            scene.multistatus(_resource(BOMB, text()))
        else:
            _with_honest(scene, _resource(BOMB, text()))

    act.__doc__ = does
    mode(f"an event of {name}", "report", ends="exact")(act)


for _name, (_does, _text) in BOMBS.items():
    _bomb(_name, _does, _text)


@mode("a hundred thousand events", "report")
def _(scene: Scene) -> None:
    """A hundred thousand events are listed."""
    text = _event(HOUR)
    if scene.request.method == "REPORT":
        text = ""
    _with_honest(scene, *(_resource(f"{WORK}{n}.ics", text) for n in range(20_001)))


@mode("one event a hundred thousand times", "report")
def _(scene: Scene) -> None:
    """The same event again and again."""
    _with_honest(scene, *[_resource(f"{WORK}e.ics", "")] * 40_000)


@mode("events of megabytes each", "report")
def _(scene: Scene) -> None:
    """Forty events that can only be had one by one, each with megabytes of wide letters."""
    if scene.request.method != "REPORT":
        _with_honest(scene, *(_resource(f"{WORK}{n}.ics", "") for n in range(40)))
    elif b"multiget" not in scene.request.body:
        scene.reply(403)
    elif scene.request.body.count(b"href>") > 2:
        scene.flood(OK + b"\r\n" + XML + OPEN, b" " * 60_000)
    else:
        place = scene.request.body.split(b"href>")[1].split(b"<")[0].decode()
        scene.multistatus(_resource(place, _event(f"{HOUR}SUMMARY:\N{PARTY POPPER}{'x' * 4 * MB}\r\n", uid=place)))


@mode("an event with two texts", "report", ends="exact")
def _(scene: Scene) -> None:
    """The honest event again, with a text that is free."""
    _with_honest(scene, _resource(f"{WORK}e.ics", _event(f"{HOUR}TRANSP:TRANSPARENT\r\n", uid="e")))


@mode("events of another calendar", "report", ends="exact")
def _(scene: Scene) -> None:
    """Events whose places lie outside of the calendar, at the trap, and nowhere."""
    hrefs = (f"{scene.dav.trap.url}/x.ics", "/other/x.ics", f"{WORK}../../x.ics", "javascript:x", "//127.0.0.2/x.ics")
    _with_honest(scene, *(_resource(href, _event(HOUR, uid=f"far{n}")) for n, href in enumerate(hrefs)))


@mode("an event at a place of megabytes", "report")
def _(scene: Scene) -> None:
    """An event whose place has seven megabytes."""
    _with_honest(scene, _resource(f"{WORK}{'x' * 7 * MB}.ics", "x"))


@mode("properties of other namespaces", "report", ends="exact")
def _(scene: Scene) -> None:
    """Properties with the right names in the wrong namespaces say that the event is free."""
    told = '<X:calendar-data xmlns:X="urn:x">BEGIN:VCALENDAR</X:calendar-data><calendar-data xmlns="DAV:"/>'
    _with_honest(
        scene,
        f"<D:response><D:href>{WORK}e.ics</D:href><D:propstat><D:prop>{told}</D:prop>"
        "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>",
    )


@mode("an etag of kilobytes", "put")
def _(scene: Scene) -> None:
    """The version of an event has 90 kilobytes."""
    status, body, _ = scene.honest()
    scene.reply(status, body, ("ETag", f'"{"x" * 90_000}"'))


@mode("a location at the trap", "put", ends="exact")
def _(scene: Scene) -> None:
    """The answer to a write says that the event is somewhere else."""
    status, body, headers = scene.honest()
    scene.reply(status, body, ("Location", f"{scene.dav.trap.url}/x.ics"), *headers)


@mode("a success that is none", "put")
def _(scene: Scene) -> None:
    """A write is answered with success and thrown away; what is looked for is not there."""
    scene.reply(201 if scene.request.method == "PUT" else 404)


@mode("another event in its place", "put")
def _(scene: Scene) -> None:
    """A write is answered with success; another event stands in its place."""
    status = 201 if scene.request.method == "PUT" else 200
    scene.reply(status, _event(HOUR, uid="another").encode())


@mode("an endless name in its place", "put")
def _(scene: Scene) -> None:
    """A write is answered with success; in its place is an event with a property whose name does not end."""
    status = 201 if scene.request.method == "PUT" else 200
    scene.reply(status, _event(f"{HOUR}X;{'a' * 2 * MB}\r\n", uid="another").encode())


def _numbers(first: int, end: int) -> str:
    return ",".join(map(str, range(first, end)))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@functools.cache
def _nested_gzip() -> bytes:
    inner = zlib.compressobj(9, zlib.DEFLATED, 31)
    return gzip.compress(b"".join(inner.compress(bytes(MB)) for _ in range(100)) + inner.flush())


def basic(username: str = USERNAME, password: str = PASSWORD) -> str:
    """What logs in, for looking for it in places where it must not be."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()
