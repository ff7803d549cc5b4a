"""Documents that are none, or not what they seem."""

from __future__ import annotations

from tests.fakes.hostile.scene import CLOSE, MB, OPEN, XML, Scene, Stage, mode

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
