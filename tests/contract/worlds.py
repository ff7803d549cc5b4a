"""Kinds of providers as the contract suite sees them: an account with calendars, and what its owner does there.

A world has two calendars that can be written to, maybe one that cannot, and an owner who adds, changes and deletes
behind the provider's back. Each kind of provider joins the suite by making such a world.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

from calendar_server.core.model import (
    SECOND,
    BlockReason,
    Booking,
    BookingId,
    BookingStatus,
    BusyEvent,
    Calendar,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    Instant,
    Interval,
    OrganizationId,
    Preset,
    ProviderName,
    SyncStatus,
    UnreadableEvent,
)
from calendar_server.errors import NotFound
from calendar_server.providers.base import Account, Deadline, Link, Provider, Secret
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.memory import MemoryProvider
from tests.fakes.dav_servers import DavServer

_names = itertools.count(1)


def at(day: int, hour: int = 0, minute: int = 0) -> Instant:
    """An instant in December 2026, UTC."""
    return int(datetime(2026, 12, day, hour, minute, tzinfo=UTC).timestamp()) * SECOND


WINDOW = Interval(at(1), at(8))


def soon() -> Deadline:
    """A deadline that no healthy provider misses."""
    return Deadline.after(20)


def booking(revision: int = 1, **more: object) -> Booking:
    """The wanted state of an appointment: on December 2 from 10 to 11, unless told otherwise."""
    usual = Booking(
        BookingId("b1"),
        revision,
        BookingStatus.CONFIRMED,
        title="Meeting",
        start=at(2, 10),
        end=at(2, 11),
        time_zone="Europe/Berlin",
    )
    return dataclasses.replace(usual, **more)  # type: ignore[arg-type]


def link_of(account: Account, secret: Secret, provider: ProviderName, check: Callable[[], None] = lambda: None) -> Link:
    """What the use cases would make of an account."""
    connection = Connection(
        id=ConnectionId("cal_1"),
        organization_id=OrganizationId("org_1"),
        owner="",
        provider=provider,
        subject=account.subject,
        account_email=account.email,
        calendar_id=account.calendar_id,
        busy_calendar_ids=account.busy_calendar_ids,
        status=ConnectionStatus.ACTIVE,
        sync_status=SyncStatus.CONNECTED,
        sync_error=None,
        last_sync_at=None,
        connected_at=0,
        grant_version=1,
        settings=account.settings,
    )
    return Link(connection, secret, check)


@dataclass(frozen=True)
class Series:
    """An event that repeats daily. ``removed`` and ``moved`` count occurrences from 0."""

    start: Instant
    end: Instant
    count: int
    removed: int | None = None
    moved: tuple[int, Instant, Instant] | None = None


class World(Protocol):
    """See the module. What not every kind of provider can do is a fact of its world, and the tests go by it."""

    @property
    def names_all_events(self) -> bool:
        """A read names every event of the calendar in ``event_ids``; otherwise it tells of the window alone."""
        ...

    @property
    def knows_ids_ahead(self) -> bool:
        """The provider's ids of our events follow from their uids; otherwise the first write tells."""
        ...

    @property
    def counts_changes(self) -> bool:
        """Events have a SEQUENCE; otherwise it is 0 always."""
        ...

    provider: Provider
    link: Link
    work: CalendarId
    second: CalendarId
    read_only: CalendarId | None

    def add(self, calendar_id: CalendarId, start: Instant, end: Instant, *, free: bool = False) -> EventId: ...
    def add_cancelled(self, calendar_id: CalendarId, start: Instant, end: Instant) -> EventId: ...
    def add_all_day(self, calendar_id: CalendarId, first: date, end: date) -> EventId:
        """In a calendar whose zone is UTC. ``end`` is the day after the last one."""
        ...

    def add_series(self, calendar_id: CalendarId, series: Series) -> EventId: ...
    def add_garbage(self, calendar_id: CalendarId) -> EventId | None:
        """Something that cannot be read; None where the server lets nobody store such a thing."""
        ...

    def change(self, calendar_id: CalendarId, event_id: EventId) -> None: ...
    def take_out(self, calendar_id: CalendarId, event_id: EventId) -> None: ...
    def drop(self, calendar_id: CalendarId) -> None: ...


@dataclass
class Switch:
    """Whether the connection is live."""

    live: bool = True

    def check(self) -> None:
        if not self.live:
            raise NotFound("There is no such connection.")


class MemoryWorld:
    """The reference."""

    names_all_events = True
    knows_ids_ahead = True
    counts_changes = True

    def __init__(self, switch: Switch) -> None:
        self.work, self.second = CalendarId("work"), CalendarId("second")
        self.read_only: CalendarId | None = CalendarId("locked")
        calendars = [
            Calendar(self.work, "work", primary=True, writable=True),
            Calendar(self.second, "second", writable=True),
            Calendar(CalendarId("locked"), "locked"),
        ]
        self.memory = MemoryProvider(calendars)
        self.provider: Provider = self.memory
        account = Account("memory", "anna@example.com", self.work, (self.work, self.second))
        self.link = link_of(account, Secret({}), ProviderName.CALDAV, switch.check)

    def add(self, calendar_id: CalendarId, start: Instant, end: Instant, *, free: bool = False) -> EventId:
        return self._add(calendar_id, [Interval(start, end)], BlockReason.FREE if free else BlockReason.BUSY)

    def add_cancelled(self, calendar_id: CalendarId, start: Instant, end: Instant) -> EventId:
        return self._add(calendar_id, [Interval(start, end)], BlockReason.CANCELLED)

    def add_all_day(self, calendar_id: CalendarId, first: date, end: date) -> EventId:
        return self.add(calendar_id, at(first.day), at(end.day))

    def add_series(self, calendar_id: CalendarId, series: Series) -> EventId:
        day = 86_400 * SECOND
        occurrences = [Interval(series.start + n * day, series.end + n * day) for n in range(series.count)]
        if series.moved:
            occurrences[series.moved[0]] = Interval(*series.moved[1:])
        if series.removed is not None:
            del occurrences[series.removed]
        return self._add(calendar_id, occurrences, BlockReason.BUSY)

    def add_garbage(self, calendar_id: CalendarId) -> EventId | None:
        event_id = EventId(f"garbage{next(_names)}")
        self.memory.add_unreadable(calendar_id, UnreadableEvent(event_id, "It cannot be read."))
        return event_id

    def change(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self.memory.touch(calendar_id, event_id)

    def take_out(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self.memory.take_out(calendar_id, event_id)

    def drop(self, calendar_id: CalendarId) -> None:
        self.memory.drop(calendar_id)

    def _add(self, calendar_id: CalendarId, occurrences: list[Interval], reason: BlockReason) -> EventId:
        event_id = EventId(f"event{next(_names)}")
        self.memory.add(calendar_id, *(BusyEvent(start, end, reason, event_id) for start, end in occurrences))
        return event_id


@dataclass
class CaldavWorld:
    """An account at a real CalDAV server. ``home`` is where its calendars are."""

    provider: Provider
    link: Link
    server: DavServer
    work: CalendarId
    second: CalendarId
    read_only: CalendarId | None = None
    made: list[str] = field(default_factory=list)
    names_all_events: bool = True
    knows_ids_ahead: bool = True
    counts_changes: bool = True

    @classmethod
    def make(
        cls,
        provider: CaldavProvider,
        server: DavServer,
        home: str,
        username: str,
        password: str,
        switch: Switch,
        *,
        locks: bool,
    ) -> CaldavWorld:
        """Make calendars and connect. ``locks``: the server hands out ``locked`` calendars for reading only."""
        number = next(_names)
        names = [f"work{number}", f"second{number}", *([f"locked{number}"] if locks else [])]
        made = [server.make_calendar(f"{home}{name}/") for name in names]
        account, secret = provider.connect(
            preset=Preset.CUSTOM, username=username, password=password, server_url=server.url, deadline=soon()
        )
        ids = [CalendarId(path) for path in made]
        return cls(
            provider,
            link_of(account, secret, ProviderName.CALDAV, switch.check),
            server,
            ids[0],
            ids[1],
            ids[2] if locks else None,
            made,
        )

    def add(self, calendar_id: CalendarId, start: Instant, end: Instant, *, free: bool = False) -> EventId:
        return self._put(
            calendar_id, [*_span(start, end), "TRANSP:TRANSPARENT" if free else "TRANSP:OPAQUE", "SUMMARY:Something"]
        )

    def add_cancelled(self, calendar_id: CalendarId, start: Instant, end: Instant) -> EventId:
        return self._put(calendar_id, [*_span(start, end), "STATUS:CANCELLED"])

    def add_all_day(self, calendar_id: CalendarId, first: date, end: date) -> EventId:
        return self._put(calendar_id, [f"DTSTART;VALUE=DATE:{first:%Y%m%d}", f"DTEND;VALUE=DATE:{end:%Y%m%d}"])

    def add_series(self, calendar_id: CalendarId, series: Series) -> EventId:
        lines = [*_span(series.start, series.end), f"RRULE:FREQ=DAILY;COUNT={series.count}"]
        if series.removed is not None:
            lines.append(f"EXDATE:{_text(series.start + series.removed * 86_400 * SECOND)}")
        override: list[str] = []
        if series.moved:
            number, start, end = series.moved
            override = [f"RECURRENCE-ID:{_text(series.start + number * 86_400 * SECOND)}", *_span(start, end)]
        return self._put(calendar_id, lines, override)

    def add_garbage(self, calendar_id: CalendarId) -> EventId | None:
        path = f"{calendar_id}garbage{next(_names)}.ics"
        text = _calendar([["UID:garbage", "DTSTAMP:20261101T000000Z", "DTSTART:20261203T100000Z", "DURATION:PTXM"]])
        answer = self.server.request("PUT", path, text, content_type="text/calendar")
        return EventId(path) if answer.is_success else None

    def change(self, calendar_id: CalendarId, event_id: EventId) -> None:
        text = self.server.get(event_id)
        assert text is not None
        self.server.put(event_id, text.replace("SUMMARY:", "SUMMARY:changed "))

    def take_out(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self.server.delete(event_id)

    def drop(self, calendar_id: CalendarId) -> None:
        self.server.delete(calendar_id)
        self.made.remove(calendar_id)

    def close(self) -> None:
        """Take away what was made."""
        for path in self.made:
            self.server.delete(path)

    def _put(self, calendar_id: CalendarId, *events: list[str]) -> EventId:
        uid = f"uid{next(_names)}"
        path = f"{calendar_id}{uid}.ics"
        full = [[f"UID:{uid}", "DTSTAMP:20261101T000000Z", *lines] for lines in events if lines]
        self.server.put(path, _calendar(full))
        return EventId(path)


def _calendar(events: list[list[str]]) -> str:
    lines = [line for event in events for line in ("BEGIN:VEVENT", *event, "END:VEVENT")]
    return "\r\n".join(("BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//tests//EN", *lines, "END:VCALENDAR", ""))


def _span(start: Instant, end: Instant) -> list[str]:
    return [f"DTSTART:{_text(start)}", f"DTEND:{_text(end)}"]


def _text(instant: Instant) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant):%Y%m%dT%H%M%SZ}"
