"""The reference provider: calendars in memory, every promise of ``Provider`` kept in the plainest way. Fails on demand.

For tests and for reading. What is read here is what every other provider has to amount to.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from calendar_server.core.model import (
    BlockReason,
    Booking,
    BusyEvent,
    Calendar,
    CalendarId,
    CalendarRead,
    EventId,
    Interval,
    UnreadableEvent,
)
from calendar_server.errors import CalendarError, CalendarGone, CalendarReadOnly, PreconditionFailed
from calendar_server.providers.base import Deadline, EventRef, Link, Refreshed, Remembered, RemoteEvent


@dataclass(slots=True)
class _Shelf:
    """One calendar: what blocks in it, what cannot be read in it, and where our own events stand."""

    calendar: Calendar
    events: dict[EventId, list[BusyEvent]] = field(default_factory=dict)
    unreadable: dict[EventId, UnreadableEvent] = field(default_factory=dict)
    written: dict[EventId, RemoteEvent] = field(default_factory=dict)


class MemoryProvider:
    """See ``Provider`` for what the verbs promise. The verbs that it does not have are for tests."""

    makes_once = False

    def __init__(self, calendars: Iterable[Calendar]):
        self._shelves = {calendar.id: _Shelf(calendar) for calendar in calendars}
        self._etags = itertools.count(1)
        self._failures: list[CalendarError] = []
        self._lock = threading.Lock()
        self._changes = 0

    def fail_next(self, error: CalendarError, times: int = 1) -> None:
        """Raise ``error`` in the next verbs instead of doing them."""
        self._failures += [error] * times

    def add(self, calendar_id: CalendarId, *events: BusyEvent) -> None:
        """Put occurrences into a calendar as its owner would."""
        self._changes += 1
        for event in events:
            self._shelves[calendar_id].events.setdefault(event.event_id, []).append(event)

    def add_unreadable(self, calendar_id: CalendarId, event: UnreadableEvent) -> None:
        """Put something into a calendar that cannot be read."""
        self._changes += 1
        self._shelves[calendar_id].unreadable[event.event_id] = event

    def take_out(self, calendar_id: CalendarId, event_id: EventId) -> None:
        """Delete an event as its owner would."""
        self._changes += 1
        shelf = self._shelves[calendar_id]
        for things in (shelf.events, shelf.unreadable, shelf.written):
            things.pop(event_id, None)

    def touch(self, calendar_id: CalendarId, event_id: EventId) -> None:
        """Change an event of ours as its owner would: it has another version afterwards."""
        self._changes += 1
        shelf = self._shelves[calendar_id]
        shelf.written[event_id] = replace(shelf.written[event_id], etag=self._next_etag())

    def alter(self, calendar_id: CalendarId, event_id: EventId, *occurrences: BusyEvent) -> None:
        """Give an event of ours other occurrences, as its owner would: it has another version afterwards."""
        self.touch(calendar_id, event_id)
        self._shelves[calendar_id].events[event_id] = list(occurrences)

    def drop(self, calendar_id: CalendarId) -> None:
        """Delete a calendar as its owner would."""
        self._changes += 1
        del self._shelves[calendar_id]

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        """Every calendar, in the order given."""
        with self._exchange(link, deadline):
            return [shelf.calendar for shelf in self._shelves.values()]

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        """What touches the window, unclipped; the ids of everything."""
        with self._exchange(link, deadline):
            shelf = self._shelf(calendar_id)
            touching = (
                event
                for events in shelf.events.values()
                for event in events
                if event.start < window.end and window.start < event.end
            )
            return CalendarRead(
                events=tuple(sorted(touching, key=lambda event: (event.start, event.end, event.event_id))),
                unreadable=tuple(shelf.unreadable.values()),
                event_ids=frozenset(shelf.events) | frozenset(shelf.unreadable),
            )

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        """The signal is a count of all changes that were ever made. What is read again in full is compared."""
        memory = str(self._changes).encode()
        if before is not None and before.memory == memory and not before.full:
            with self._exchange(link, deadline):
                self._shelf(calendar_id)
            return Refreshed(None, memory)
        read = self.read_calendar(link, calendar_id, window, deadline)
        if before is not None and before.full and replace(read, event_ids=None) == before.read:
            return Refreshed(None, memory, lambda: read.event_ids)
        return Refreshed(read, memory)

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        """An event is found by its uid."""
        return EventId(f"{calendar_id}{uid}")

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        """Look it up."""
        with self._exchange(link, deadline):
            return self._shelf(ref.calendar_id).written.get(self.event_id(ref.calendar_id, ref.uid))

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """Compare, then set."""
        with self._exchange(link, deadline):
            shelf = self._writable(ref.calendar_id)
            event_id = self.event_id(ref.calendar_id, ref.uid)
            self._changes += 1
            current = shelf.written.get(event_id)
            if (current.etag if current else None) != (known.etag if known else None):
                raise PreconditionFailed("The event has changed since it was looked at.")
            sequence = current.sequence + 1 if current else 0
            written = RemoteEvent(event_id, self._next_etag(), revision=booking.revision, sequence=sequence)
            shelf.written[event_id] = written
            shelf.events[event_id] = [BusyEvent(booking.start, booking.end, BlockReason.BUSY, event_id)]
            return written

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        """Compare, then take out. Gone is gone."""
        with self._exchange(link, deadline):
            if ref.calendar_id not in self._shelves:
                return
            shelf = self._writable(ref.calendar_id)
            current = shelf.written.get(known.event_id)
            if current is None:
                return
            if current.etag != known.etag:
                raise PreconditionFailed("The event has changed since it was looked at.")
            self.take_out(ref.calendar_id, known.event_id)

    def _exchange(self, link: Link, deadline: Deadline) -> threading.Lock:
        """What every verb begins with: is there time, is the connection live, is a failure due."""
        deadline.check()
        link.check()
        if self._failures:
            raise self._failures.pop(0)
        return self._lock

    def _shelf(self, calendar_id: CalendarId) -> _Shelf:
        if calendar_id not in self._shelves:
            raise CalendarGone("The calendar is no longer there. Choose another one with UpdateConnection.")
        return self._shelves[calendar_id]

    def _writable(self, calendar_id: CalendarId) -> _Shelf:
        shelf = self._shelf(calendar_id)
        if not shelf.calendar.writable:
            raise CalendarReadOnly("The calendar cannot be written to. Choose another one with UpdateConnection.")
        return shelf

    def _next_etag(self) -> str:
        return f'"{next(self._etags)}"'
