"""Learning from reads what owners have done to our events. Nothing is pushed because of it: the way is one-way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from calendar_server.core.drift import Drift, drift_of
from calendar_server.core.intervals import touches
from calendar_server.core.model import DAY, UNTOLD, BusyEvent, EventId, Instant
from calendar_server.store.rows import StandingRow
from calendar_server.store.store import Store
from calendar_server.usecases.refresh import Found


class Drifts:
    """Compares what calendars show with what was written into them. One query for reads that began together, and writes
    for differences."""

    def __init__(self, store: Store):
        self._store = store

    def learn(self, reads: Sequence[Found]) -> None:
        """Note what these reads show of our events, until a day after their end.

        Only a read that lists every event of the calendar says for certain that one is gone; none does where the provider
        does not show all of it.
        """
        together: dict[Instant, list[Found]] = defaultdict(list)
        for each in reads:
            together[each.as_of].append(each)
        for as_of, shown in together.items():
            ids = sorted({each.connection_id for each in shown})
            standing = self._store.outbox.standing(ids, ends_after=as_of - DAY, before=as_of)
            for each in shown:
                if rows := standing.get((each.connection_id, each.calendar_id)):
                    self._compare(each, rows)

    def _compare(self, shown: Found, standing: Sequence[StandingRow]) -> None:
        outbox, read = self._store.outbox, shown.read()
        ids = {row.event_id for row in standing}
        broken = {event.event_id for event in read.unreadable}
        untold = [event.interval for event in read.unreadable if event.event_id == UNTOLD and event.interval]
        found: dict[EventId, list[BusyEvent]] = defaultdict(list)
        for event in read.events:
            if event.event_id in ids:
                found[event.event_id].append(event)
        for row in standing:
            if row.event_id in broken or any(touches(row.interval, each) for each in untold):
                continue
            listed = None if read.event_ids is None else row.event_id in read.event_ids
            if untold and not listed:
                listed = None
            drift = drift_of(row.interval, found.get(row.event_id, ()), shown.window, listed=listed)
            if drift is Drift.DELETED and listed is False:
                outbox.mark_gone(row.id, pushed_revision=row.pushed_revision, before=shown.as_of, at=self._store.now())
            elif drift is not None and drift is not row.drift:
                outbox.note_drift(row.id, pushed_revision=row.pushed_revision, drift=drift, before=shown.as_of)
