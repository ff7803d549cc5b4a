"""Lies of a calendar, and events that take for ever to read."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.hostile.scene import BOMB, MB, OK, OPEN, XML, Scene, mode
from tests.fakes.strange_dav import WORK


def _resource(href: str, text: str, etag: str = "1") -> str:
    return (
        f'<D:response><D:href>{href}</D:href><D:propstat><D:prop><D:getetag>"{etag}"</D:getetag>'
        f"<C:calendar-data>{text}</C:calendar-data></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
    )


def _with_honest(scene: Scene, *responses: str) -> None:
    """The honest list with these responses in front of its own."""
    _, body, _ = scene.honest()
    assert body.count(OPEN) == 1
    told = body.replace(OPEN, OPEN + "".join(responses).encode())
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
