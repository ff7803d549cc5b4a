"""Learning from reads what owners have done to our events. Nothing is pushed because of it: the way is one-way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from calendar_server.core.drift import Drift, drift_of
from calendar_server.core.model import DAY, BusyEvent, CalendarId, CalendarRead, Connection, EventId, Instant, Interval
from calendar_server.store.store import Store


class Drifts:
    """Compares what calendars show with what was written into them. One query for a read, and writes for differences."""

    def __init__(self, store: Store):
        self._store = store

    def learn(
        self,
        connection: Connection,
        calendar_id: CalendarId,
        read_of: Callable[[], CalendarRead],
        as_of: Instant,
        window: Interval,
    ) -> None:
        """Note what a read of ``window`` that began at ``as_of`` shows of our events, until a day after their end.

        ``read_of`` unpacks it, and is called only if there are any.

        Only a read that lists every event of the calendar says for certain that one is gone.
        """
        outbox = self._store.outbox
        standing = outbox.standing(connection.id, calendar_id, ends_after=as_of - DAY, before=as_of)
        if not standing:
            return
        read = read_of()
        ids = {row.event_id for row in standing}
        broken = {event.event_id for event in read.unreadable}
        found: dict[EventId, list[BusyEvent]] = defaultdict(list)
        for event in read.events:
            if event.event_id in ids:
                found[event.event_id].append(event)
        for row in standing:
            listed = None if read.event_ids is None else row.event_id in read.event_ids
            if row.event_id in broken:
                continue
            drift = drift_of(row.interval, found.get(row.event_id, ()), window, listed=listed)
            if drift is Drift.DELETED and listed is False:
                outbox.mark_gone(row.id, pushed_revision=row.pushed_revision, before=as_of, at=self._store.now())
            elif drift is not None and drift is not row.drift:
                outbox.note_drift(row.id, pushed_revision=row.pushed_revision, drift=drift, before=as_of)
