"""From what calendars hold to when people are busy: our bookings recognised and laid over, options applied, all merged.

Pure: reads come in, verdicts go out. *Ours* is an event whose id we stored; *overlay* is a committed booking that its
calendar is to show, wherever its push stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calendar_server.core.intervals import clip, merge, touches
from calendar_server.core.model import BlockReason, BookingId, BusyEvent, CalendarRead, EventId, Interval


@dataclass(frozen=True, slots=True)
class Ours:
    """An event id that we stored. ``stands`` is false once its booking is cancelled or has left this connection."""

    booking_id: BookingId
    stands: bool


@dataclass(frozen=True, slots=True)
class Overlay:
    """A committed booking over the calendar that it is written to. ``event_id`` may be empty before the first write."""

    booking_id: BookingId
    interval: Interval
    event_id: EventId


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller lets pass."""

    excluded: frozenset[BookingId] = frozenset()
    ignore_tentative: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One thing that touches the window, clipped, and why it blocks or does not. ``interval`` None: time not known."""

    interval: Interval | None
    reason: BlockReason
    booking_id: str = ""
    event_id: str = ""


def verdicts(
    read: CalendarRead | None,
    overlays: Iterable[Overlay],
    ours: Mapping[EventId, Ours],
    window: Interval,
    options: Options,
) -> list[Verdict]:
    """Judge everything that touches the window in one calendar; ``read`` None where it could not be read.

    Sorted by start; what has no known time comes first.
    """
    judged: list[Verdict] = []
    for event in read.events if read else ():
        if touches(Interval(event.start, event.end), window):
            judged.append(_judge(event, ours.get(event.event_id), window, options))
    for unreadable in read.unreadable if read else ():
        if unreadable.interval is None:
            judged.append(Verdict(None, BlockReason.UNREADABLE, event_id=unreadable.event_id))
        elif touches(unreadable.interval, window):
            interval = _clipped(unreadable.interval, window)
            judged.append(Verdict(interval, BlockReason.UNREADABLE, event_id=unreadable.event_id))
    seen = {(verdict.event_id, verdict.interval) for verdict in judged if verdict.booking_id}
    for overlay in overlays:
        if not touches(overlay.interval, window):
            continue
        interval = _clipped(overlay.interval, window)
        excluded = overlay.booking_id in options.excluded
        reason = BlockReason.BOOKING_EXCLUDED if excluded else BlockReason.BOOKING
        same = (overlay.event_id, interval)
        if same in seen:
            # The calendar shows it where we want it. One line for it, and ours decides: its owner may have marked the
            # event free, but the appointment stands.
            judged = [
                Verdict(interval, reason, overlay.booking_id, overlay.event_id)
                if (verdict.event_id, verdict.interval) == same and verdict.booking_id
                else verdict
                for verdict in judged
            ]
        else:
            judged.append(Verdict(interval, reason, overlay.booking_id, overlay.event_id))
    return sorted(judged, key=lambda verdict: verdict.interval or Interval(window.start - 1, 0))


def blocked(judged: Sequence[Verdict], window: Interval) -> list[Interval]:
    """When the verdicts make busy: merged, sorted, clipped."""
    return merge(
        clip((verdict.interval for verdict in judged if verdict.reason.blocks and verdict.interval), window)
    )


def _judge(event: BusyEvent, ours: Ours | None, window: Interval, options: Options) -> Verdict:
    interval = _clipped(Interval(event.start, event.end), window)
    reason = event.reason
    if ours is not None:
        if ours.booking_id in options.excluded:
            reason = BlockReason.BOOKING_EXCLUDED
        elif not ours.stands:
            reason = BlockReason.CANCELLED
        elif reason.blocks:
            reason = BlockReason.BOOKING
        return Verdict(interval, reason, ours.booking_id, event.event_id)
    if options.ignore_tentative and event.tentative and reason.blocks:
        reason = BlockReason.TENTATIVE_IGNORED
    return Verdict(interval, reason, event_id=event.event_id)


def _clipped(interval: Interval, window: Interval) -> Interval:
    return Interval(max(interval.start, window.start), min(interval.end, window.end))
