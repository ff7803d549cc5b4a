"""Redirects that lead away, and demands for credentials."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.hostile.scene import MB, Scene, mode
from tests.fakes.strange_dav import WORK

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
