"""A CalDAV server for measurements: any user, one calendar each, what is in it told by the user's name.

    slots-N    100 events of an hour, every 355 minutes × 10, shifted by N: ten such calendars never overlap
    few-N      20 events of an hour, every eight hours
    news-N     the same; all of them new whenever the calendar is asked
    many-N     2000 events, every tenth of them a weekly series; all of them new whenever the calendar is asked
    empty-N    nothing, until somebody puts an event there

One thread, and texts that were made before: it costs little beside what is measured. ``/control`` is for whoever
measures: POST {"delay_s": 0.1} (before every answer), {"forget": true} (what was put there); GET tells the requests so
far per method, and how many wait now.
"""

from __future__ import annotations

import asyncio
import base64
import collections
import datetime
import functools
import json
import re
import sys
from dataclasses import dataclass, field
from urllib.parse import unquote

MULTISTATUS = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<d:multistatus xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav" xmlns:s="http://calendarserver.org/ns/">'
    "{}</d:multistatus>"
)
OK = "<d:status>HTTP/1.1 200 OK</d:status>"
SLOT_MINUTES = 355
"""244 slots begin within 60 days."""
SLOT_CALENDARS = 10
EVER_NEW = ("many", "news")
STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(slots=True)
class World:
    """What the server knows. ``base`` is when the events begin."""

    base: datetime.datetime
    delay_s: float = 0.0
    waiting: int = 0
    requests: collections.Counter[str] = field(default_factory=collections.Counter)
    put: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    readings: collections.Counter[str] = field(default_factory=collections.Counter)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def user(self) -> str:
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(value).decode().split(":")[0] if scheme == "Basic" else ""


def response(href: str, properties: str) -> str:
    return f"<d:response><d:href>{href}</d:href><d:propstat><d:prop>{properties}</d:prop>{OK}</d:propstat></d:response>"


@functools.lru_cache(maxsize=256)
def texts(kind: str, number: int, base: datetime.datetime) -> dict[str, str]:
    """The events of a calendar by the name of their resource."""
    minutes = datetime.timedelta(minutes=1)
    if kind == "slots":
        starts = [base + SLOT_MINUTES * minutes * (SLOT_CALENDARS * n + number % SLOT_CALENDARS) for n in range(100)]
    elif kind in ("few", "news"):
        starts = [base + 480 * minutes * n for n in range(20)]
    elif kind == "many":
        starts = [base + 90 * minutes * n for n in range(2000)]
    else:
        starts = []
    weekly = "RRULE:FREQ=WEEKLY;COUNT=50\r\n"
    return {
        f"{n}.ics": (
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//bench//EN\r\nBEGIN:VEVENT\r\n"
            f"UID:{kind}-{number}-{n}\r\nDTSTAMP:20260101T000000Z\r\nSUMMARY:Event {n}\r\n"
            f"DTSTART:{start:{STAMP}}\r\nDURATION:PT1H\r\n{weekly if kind == 'many' and n % 10 == 0 else ''}"
            "END:VEVENT\r\nEND:VCALENDAR\r\n"
        )
        for n, start in enumerate(starts)
    }


@functools.lru_cache(maxsize=256)
def members(kind: str, number: int, base: datetime.datetime, version: int, data: bool) -> dict[str, str]:
    """What a listing says of each event."""
    home = f"/{kind}-{number}/work/"
    return {
        name: response(
            home + name,
            f'<d:getetag>"{version}-{name}"</d:getetag><d:getcontenttype>text/calendar</d:getcontenttype><d:resourcetype/>'
            + (f"<c:calendar-data>{text}</c:calendar-data>" if data else ""),
        )
        for name, text in texts(kind, number, base).items()
    }


@functools.lru_cache(maxsize=256)
def whole(kind: str, number: int, base: datetime.datetime, version: int) -> bytes:
    """The answer of a query for everything."""
    return MULTISTATUS.format("".join(members(kind, number, base, version, True).values())).encode()


def answer(world: World, request: Request) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body for a request."""
    user = request.user
    kind, _, number = user.partition("-")
    if not number.isdigit():
        return 401, {"WWW-Authenticate": 'Basic realm="bench"'}, b""
    path = unquote(request.path)
    calendar = f"/{user}/work/"
    if path.startswith(calendar) and path != calendar:
        return of_event(world, request, path)
    of = (kind, int(number), world.base)
    version = world.readings[user] if kind in EVER_NEW else 0
    if request.method == "REPORT":
        if b"sync-collection" in request.body:
            listed = members(*of, version, False).values()
            token = f"<d:sync-token>urn:bench:{version}</d:sync-token>"
            asked = f"urn:bench:{version}".encode()
            return multistatus(("" if asked in request.body else "".join(listed)) + token)
        if b"calendar-multiget" in request.body:
            found = members(*of, version, True)
            names = re.findall(rf"{re.escape(calendar)}([^<]+)<", unquote(request.body.decode()))
            return multistatus("".join(found[name] for name in names if name in found))
        world.readings[user] += 1
        return 207, {}, whole(*of, version)
    if request.method != "PROPFIND":
        return 200, {"Allow": "OPTIONS, PROPFIND, REPORT, GET, PUT, DELETE"}, b""
    home = f"/{user}/"
    itself = response(
        calendar,
        "<d:resourcetype><d:collection/><c:calendar/></d:resourcetype><d:displayname>Work</d:displayname>"
        f"<d:current-user-principal><d:href>{home}</d:href></d:current-user-principal>"
        f"<s:getctag>{version}</s:getctag><d:sync-token>urn:bench:{version}</d:sync-token>",
    )
    deep = request.headers.get("depth") == "1"
    if path == calendar:
        if kind in EVER_NEW:
            world.readings[user] += 1
        return multistatus(itself + ("".join(members(*of, version, False).values()) if deep else ""))
    principal = response(
        home,
        f"<d:current-user-principal><d:href>{home}</d:href></d:current-user-principal>"
        "<d:resourcetype><d:collection/><d:principal/></d:resourcetype>"
        f"<c:calendar-home-set><d:href>{home}</d:href></c:calendar-home-set>",
    )
    return multistatus(principal + (itself if deep else ""))


def multistatus(inner: str) -> tuple[int, dict[str, str], bytes]:
    return 207, {}, MULTISTATUS.format(inner).encode()


def of_event(world: World, request: Request, path: str) -> tuple[int, dict[str, str], bytes]:
    """GET, PUT, DELETE of one event that was put here."""
    known = world.put.get(path)
    if request.method == "PUT":
        if known and request.headers.get("if-none-match") == "*":
            return 412, {}, b""
        etag = f'"{world.requests["PUT"]}"'
        world.put[path] = (etag, request.body)
        return (204 if known else 201), {"ETag": etag}, b""
    if known is None:
        return 404, {}, b""
    if request.method == "DELETE":
        del world.put[path]
        return 204, {}, b""
    return 200, {"ETag": known[0], "Content-Type": "text/calendar"}, known[1]


def control(world: World, request: Request) -> tuple[int, dict[str, str], bytes]:
    if request.method == "POST":
        told = json.loads(request.body)
        world.delay_s = told.get("delay_s", world.delay_s)
        if told.get("forget"):
            world.put.clear()
    return 200, {}, json.dumps({"requests": world.requests, "waiting": world.waiting}).encode()


class Connection(asyncio.Protocol):
    """One connection of HTTP/1.1, a request at a time."""

    def __init__(self, world: World):
        self._world = world
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, blank, rest = self._buffer.partition(b"\r\n\r\n")
            if not blank:
                return
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, path, _ = first.split(" ", 2)
            self._take(Request(method, path, headers, rest[:length]))

    def _take(self, request: Request) -> None:
        world = self._world
        if request.path == "/control":
            self._send(*control(world, request))
            return
        world.requests[request.method] += 1
        if not world.delay_s:
            self._send(*answer(world, request))
            return
        world.waiting += 1
        asyncio.get_running_loop().call_later(world.delay_s, self._late, request)

    def _late(self, request: Request) -> None:
        self._world.waiting -= 1
        self._send(*answer(self._world, request))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if status == 207:
            headers = {"Content-Type": "application/xml; charset=utf-8", **headers}
        lines = [f"HTTP/1.1 {status} -", "DAV: 1, calendar-access", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)


async def serve(port: int, base: datetime.datetime) -> None:
    world = World(base)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(world), "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), datetime.datetime.fromisoformat(sys.argv[2])))
