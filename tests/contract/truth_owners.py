"""What the owner of an account does in it, the same at every kind of provider, for histories that nobody thought of.

An ``Entry`` is an event as its owner sees it. ``Owner`` makes, changes and deletes it at the provider, behind the
service's back. Days belong to UTC.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Protocol

from calendar_server.core.model import DAY, SECOND, BlockReason, BusyEvent, CalendarId, EventId, Instant, Interval
from tests.contract.truth_memory import TruthMemory
from tests.fakes import mailbox
from tests.fakes.dav_servers import DavServer
from tests.fakes.google_calendars import GoogleCalendar, GoogleCalendars
from tests.fakes.mailbox import Mailbox, Occurrence
from tests.fakes.strange_dav import StrangeDav

_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event, or a series of ``count`` days in a row. ``removed`` and ``moved`` count occurrences from 0."""

    start: Instant
    end: Instant
    all_day: bool = False
    count: int = 1
    removed: frozenset[int] = frozenset()
    moved: Mapping[int, Interval] = dataclasses.field(default_factory=dict)
    free: bool = False
    tentative: bool = False

    @property
    def plain(self) -> bool:
        """No occurrence of it was changed by itself."""
        return not self.removed and not self.moved

    @property
    def untouched(self) -> list[int]:
        """The occurrences that are where the series has them."""
        return [number for number in range(self.count) if number not in self.removed and number not in self.moved]

    def occurrences(self) -> list[Interval]:
        return [
            self.moved.get(number, Interval(self.start + number * DAY, self.end + number * DAY))
            for number in range(self.count)
            if number not in self.removed
        ]


class Owner(Protocol):
    """See the module. ``calendar_id`` and ``event_id`` are the provider's."""

    def add(self, calendar_id: CalendarId, entry: Entry) -> EventId: ...

    def change(self, calendar_id: CalendarId, event_id: EventId, before: Entry, after: Entry) -> None:
        """All of an event that is ``plain``, or one further occurrence of a series."""
        ...

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None: ...
    def has(self, calendar_id: CalendarId, event_id: EventId) -> bool: ...
    def move(self, calendar_id: CalendarId, event_id: EventId, to: Interval) -> None:
        """An event of the service's."""
        ...


class MemoryOwner:
    def __init__(self, memory: TruthMemory):
        self.memory = memory

    def add(self, calendar_id: CalendarId, entry: Entry) -> EventId:
        event_id = EventId(f"own{next(_names)}")
        self.memory.add(calendar_id, *_occurring(event_id, entry))
        return event_id

    def change(self, calendar_id: CalendarId, event_id: EventId, before: Entry, after: Entry) -> None:
        self.memory.change(calendar_id, event_id, _occurring(event_id, after))

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self.memory.take_out(calendar_id, event_id)

    def has(self, calendar_id: CalendarId, event_id: EventId) -> bool:
        return self.memory.has(calendar_id, event_id)

    def move(self, calendar_id: CalendarId, event_id: EventId, to: Interval) -> None:
        self.memory.change(calendar_id, event_id, [BusyEvent(to.start, to.end, BlockReason.BUSY, event_id)])


def _occurring(event_id: EventId, entry: Entry) -> list[BusyEvent]:
    reason = BlockReason.FREE if entry.free else BlockReason.TENTATIVE if entry.tentative else BlockReason.BUSY
    return [BusyEvent(each.start, each.end, reason, event_id, entry.tentative) for each in entry.occurrences()]


class DavOwner:
    """At a CalDAV server: whole texts are put. How they get there, subclasses say."""

    def add(self, calendar_id: CalendarId, entry: Entry) -> EventId:
        name = f"own{next(_names)}"
        path = EventId(f"{calendar_id}{name}.ics")
        self.put(path, _text_of(name, entry))
        return path

    def change(self, calendar_id: CalendarId, event_id: EventId, before: Entry, after: Entry) -> None:
        self.put(event_id, _text_of(event_id.rpartition("/")[2].removesuffix(".ics"), after))

    def has(self, calendar_id: CalendarId, event_id: EventId) -> bool:
        return self.get(event_id) is not None

    def move(self, calendar_id: CalendarId, event_id: EventId, to: Interval) -> None:
        text = self.get(event_id)
        assert text is not None
        text, starts = re.subn(r"(?m)^DTSTART[:;].*$", f"DTSTART:{_stamp(to.start)}\r", text)
        text, ends = re.subn(r"(?m)^DTEND[:;].*$", f"DTEND:{_stamp(to.end)}\r", text)
        assert (starts, ends) == (1, 1)
        self.put(event_id, text)

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        raise NotImplementedError

    def put(self, path: str, text: str) -> None:
        raise NotImplementedError

    def get(self, path: str) -> str | None:
        raise NotImplementedError


class ServerOwner(DavOwner):
    """At a real server. One line is kept open: an edit is one small request."""

    def __init__(self, server: DavServer):
        self._line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._headers = {"Content-Type": "text/calendar; charset=utf-8"}
        if server.auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(":".join(server.auth).encode()).decode()

    def ask(self, method: str, path: str, text: str = "") -> tuple[int, str]:
        try:
            return self._asked(method, path, text)
        except ConnectionError:
            # SOGo closes its lines without a word. To put or take out the same once more changes nothing.
            self._line.close()
            return self._asked(method, path, text)

    def _asked(self, method: str, path: str, text: str) -> tuple[int, str]:
        self._line.request(method, path, body=text.encode() or None, headers=self._headers)
        answer = self._line.getresponse()
        return answer.status, answer.read().decode()

    def put(self, path: str, text: str) -> None:
        status, told = self.ask("PUT", path, text)
        assert status in (200, 201, 204), told

    def get(self, path: str) -> str | None:
        status, text = self.ask("GET", path)
        assert status in (200, 404), text
        return text if status == 200 else None

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        status, told = self.ask("DELETE", event_id)
        assert status in (200, 204, 404), told

    def close(self) -> None:
        self._line.close()


class StrangeOwner(DavOwner):
    def __init__(self, dav: StrangeDav):
        self.dav = dav

    def put(self, path: str, text: str) -> None:
        self.dav.put(path, text)

    def get(self, path: str) -> str | None:
        return self.dav.text(path)

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        with self.dav.lock:
            del self.dav.shelves[calendar_id].resources[event_id.rpartition("/")[2]]
            self.dav.note(event_id)


def _text_of(uid: str, entry: Entry) -> str:
    status = [
        f"TRANSP:{'TRANSPARENT' if entry.free else 'OPAQUE'}",
        f"STATUS:{'TENTATIVE' if entry.tentative else 'CONFIRMED'}",
    ]
    if entry.all_day:
        span = [f"DTSTART;VALUE=DATE:{_day(entry.start):%Y%m%d}", f"DTEND;VALUE=DATE:{_day(entry.end):%Y%m%d}"]
        stamp = "%Y%m%d"
    else:
        span = [f"DTSTART:{_stamp(entry.start)}", f"DTEND:{_stamp(entry.end)}"]
        stamp = "%Y%m%dT%H%M%SZ"
    master = [*span, *status]
    if entry.count > 1:
        master.append(f"RRULE:FREQ=DAILY;COUNT={entry.count}")
    kind = ";VALUE=DATE" if entry.all_day else ""
    master += [f"EXDATE{kind}:{_utc(entry.start + number * DAY):{stamp}}" for number in sorted(entry.removed)]
    events = [master]
    for number, to in sorted(entry.moved.items()):
        original = f"RECURRENCE-ID{kind}:{_utc(entry.start + number * DAY):{stamp}}"
        events.append([original, f"DTSTART:{_stamp(to.start)}", f"DTEND:{_stamp(to.end)}", *status])
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//tests//EN"]
    for event in events:
        lines += ["BEGIN:VEVENT", f"UID:{uid}", "DTSTAMP:20261101T000000Z", *event, "SUMMARY:Something", "END:VEVENT"]
    return "\r\n".join([*lines, "END:VCALENDAR", ""])


class GoogleOwner:
    def __init__(self, calendars: GoogleCalendars):
        self._calendars = calendars

    def add(self, calendar_id: CalendarId, entry: Entry) -> EventId:
        more: dict[str, object] = {}
        if entry.count > 1:
            more["recurrence"] = [f"RRULE:FREQ=DAILY;COUNT={entry.count}"]
        assert entry.plain
        return EventId(self._of(calendar_id).add(*_google_span(entry), **_google_status(entry), **more))

    def change(self, calendar_id: CalendarId, event_id: EventId, before: Entry, after: Entry) -> None:
        calendar = self._of(calendar_id)
        if before.plain and after.plain:
            repeats = [f"RRULE:FREQ=DAILY;COUNT={after.count}"] if after.count > 1 else None
            start, end = (_google_time(each) for each in _google_span(after))
            status = {"transparency": None, "status": "confirmed", **_google_status(after)}
            calendar.change(event_id, start=start, end=end, recurrence=repeats, **status)
        for number in after.removed - before.removed:
            calendar.make_exception(event_id, self._original(before, number), status="cancelled")
        for number in after.moved.keys() - before.moved.keys():
            to = after.moved[number]
            calendar.make_exception(event_id, self._original(before, number), start=_utc(to.start), end=_utc(to.end))

    @staticmethod
    def _original(entry: Entry, number: int) -> date:
        start = entry.start + number * DAY
        return _day(start) if entry.all_day else _utc(start)

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        calendar = self._of(calendar_id)
        for other_id, event in list(calendar.events.items()):
            if event.get("recurringEventId") == event_id and event["status"] != "cancelled":
                calendar.delete(other_id)
        calendar.delete(event_id)

    def has(self, calendar_id: CalendarId, event_id: EventId) -> bool:
        event = self._of(calendar_id).events.get(event_id)
        return event is not None and event["status"] != "cancelled"

    def move(self, calendar_id: CalendarId, event_id: EventId, to: Interval) -> None:
        self._of(calendar_id).change(event_id, start=_google_time(_utc(to.start)), end=_google_time(_utc(to.end)))

    def _of(self, calendar_id: CalendarId) -> GoogleCalendar:
        return self._calendars.calendars[calendar_id]


def _google_span(entry: Entry) -> tuple[date, date]:
    return (_day(entry.start), _day(entry.end)) if entry.all_day else (_utc(entry.start), _utc(entry.end))


def _google_time(at: date) -> dict[str, object]:
    if isinstance(at, datetime):
        return {"dateTime": at.strftime("%Y-%m-%dT%H:%M:%SZ"), "timeZone": "UTC"}
    return {"date": at.isoformat()}


def _google_status(entry: Entry) -> dict[str, object]:
    shown: dict[str, object] = {}
    if entry.free:
        shown["transparency"] = "transparent"
    if entry.tentative:
        shown["status"] = "tentative"
    return shown


class GraphOwner:
    def __init__(self, box: Mailbox):
        self._box = box

    def add(self, calendar_id: CalendarId, entry: Entry) -> EventId:
        event = self._box.add(
            _clock(entry.start),
            _clock(entry.end),
            calendar=self._box.calendar(calendar_id),
            all_day=entry.all_day,
            series=_graph_series(entry),
            showAs=_shown_as(entry),
        )
        return EventId(event.id)

    def change(self, calendar_id: CalendarId, event_id: EventId, before: Entry, after: Entry) -> None:
        with self._box._lock:
            self._box.event(event_id).all_day = after.all_day
            self._box.event(event_id).series = _graph_series(after)
            self._box.change(event_id, start=_clock(after.start), end=_clock(after.end), showAs=_shown_as(after))

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self._box.delete(event_id)

    def has(self, calendar_id: CalendarId, event_id: EventId) -> bool:
        return any(event_id in (each.id, each.moving_id) for each in self._box.listed(calendar_id))

    def move(self, calendar_id: CalendarId, event_id: EventId, to: Interval) -> None:
        self._box.change(event_id, start=_clock(to.start), end=_clock(to.end))


def _graph_series(entry: Entry) -> mailbox.Series | None:
    if entry.count == 1:
        return None
    moved = {number: Occurrence(_clock(to.start), _clock(to.end)) for number, to in entry.moved.items()}
    return mailbox.Series(entry.count, moved=moved, removed=set(entry.removed))


def _shown_as(entry: Entry) -> str:
    return "free" if entry.free else "tentative" if entry.tentative else "busy"


def _utc(instant: Instant) -> datetime:
    return datetime.fromtimestamp(instant // SECOND, UTC)


def _day(instant: Instant) -> date:
    return _utc(instant).date()


def _clock(instant: Instant) -> datetime:
    """What a clock in UTC shows."""
    return _utc(instant).replace(tzinfo=None)


def _stamp(instant: Instant) -> str:
    return f"{_utc(instant):%Y%m%dT%H%M%SZ}"
