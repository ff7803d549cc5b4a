"""The reference provider with faults on demand, and with a feed that can lie."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from calendar_server.core.model import Booking, BusyEvent, Calendar, CalendarId, EventId, Interval
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    NeedsReauth,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline, EventRef, Link, Refreshed, Remembered, RemoteEvent
from calendar_server.providers.memory import MemoryProvider
from tests.fakes.faulty_line import DONE, Kind, Orders


class TruthMemory(MemoryProvider):
    """See the module. ``lies``: its feed says that nothing has changed."""

    def __init__(self, calendars: Iterable[Calendar], orders: Orders):
        super().__init__(calendars)
        self.orders = orders
        self.lies = False

    def change(self, calendar_id: CalendarId, event_id: EventId, occurrences: Sequence[BusyEvent]) -> None:
        """The owner changes an event; one of the service's has another version afterwards."""
        shelf = self._shelves[calendar_id]
        if event_id in shelf.written:
            self.touch(calendar_id, event_id)
        self._changes += 1
        shelf.events[event_id] = list(occurrences)

    def has(self, calendar_id: CalendarId, event_id: EventId) -> bool:
        return event_id in self._shelves[calendar_id].events

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        if before is not None and before.memory and not before.full and self.lies:
            with self._exchange(link, deadline):
                return Refreshed(None, before.memory)
        return super().refresh_calendar(link, calendar_id, window, before, deadline)

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """A fault that the server never hears of comes after the deed."""
        lost = self._fault(deadline)
        written = super().put_event(link, ref, booking, known, deadline)
        if lost:
            raise lost
        return written

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        lost = self._fault(deadline)
        super().delete_event(link, ref, known, deadline)
        if lost:
            raise lost

    def _exchange(self, link: Link, deadline: Deadline) -> threading.Lock:
        lost = self._fault(deadline)
        if lost:
            raise lost
        return super()._exchange(link, deadline)

    def _fault(self, deadline: Deadline) -> CalendarError | None:
        """The error to raise once the deed is done. One that prevents it is raised here."""
        kind = self.orders.next()
        if kind is None:
            return None
        if kind is Kind.HANG:
            self.orders.hang(deadline.remaining())
        if kind in DONE:
            return ProviderUnavailable("The line was cut.")
        raise {
            Kind.UNAUTHORIZED: NeedsReauth(),
            Kind.GONE: CalendarGone("The calendar is no longer there."),
            Kind.FORBIDDEN: ProviderThrottled("The quota is spent.", retry_after_s=30),
            Kind.THROTTLED: ProviderThrottled("Slow down.", retry_after_s=30),
        }.get(kind, ProviderUnavailable("The provider does not answer as it should."))
