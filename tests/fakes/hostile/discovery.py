"""Lies about where the account's calendars are."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.hostile.scene import MB, HostileDav, Scene, mode
from tests.fakes.strange_dav import HOME, INBOX, PRINCIPAL, WORK


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
