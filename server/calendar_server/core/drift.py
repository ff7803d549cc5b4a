"""What the owner of a calendar has done to an event of ours, as far as a read of the calendar shows it."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum

from calendar_server.core.intervals import touches
from calendar_server.core.model import BlockReason, BusyEvent, Interval


class Drift(StrEnum):
    """How an event differs from the revision that was written into it (``BookingEventDrift``)."""

    NONE = "none"
    MOVED = "moved"
    EDITED = "edited"
    DELETED = "deleted"


_AS_WRITTEN = BlockReason.BUSY
"""What a booking is written as: confirmed, and its owner is not free."""


def drift_of(wanted: Interval, found: Collection[BusyEvent], window: Interval, *, listed: bool | None) -> Drift | None:
    """Judge an event of ours by a read that began after it was written. None: this read does not tell.

    ``wanted`` is where the booking stands, ``found`` what the read found of the event within ``window``. ``listed``:
    whether the event is in the calendar at all, at whatever time; None where the read looked at the window alone.

    Reads hold no titles, so EDITED is what changes when its owner is busy: made free, tentative, cancelled or declined,
    repeated, or given time for travel.
    """
    if not found:
        if listed is False:
            return Drift.DELETED
        if not touches(wanted, window):
            return None
        # Not where it should be, in a window that was read: moved out of it, or deleted. Which, the next write finds out.
        return Drift.MOVED if listed else Drift.DELETED
    places = [event for event in found if Interval(event.start, event.end) == wanted]
    if not places:
        return Drift.MOVED
    return Drift.NONE if len(found) == 1 and _unchanged(places[0]) else Drift.EDITED


def _unchanged(event: BusyEvent) -> bool:
    return event.reason is _AS_WRITTEN and not event.tentative
