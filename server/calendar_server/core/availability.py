"""From what calendars hold to when people are busy: our bookings recognised and laid over, options applied, all merged.

Pure: reads come in, verdicts go out. *Ours* is an event whose id we stored; *overlay* is a committed booking that its
calendar is to show, wherever its push stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from calendar_server.core.intervals import clip, merge, touches
from calendar_server.core.model import (
    BlockReason,
    BookingId,
    BusyEvent,
    CalendarRead,
    EventId,
    Interval,
    UnreadableEvent,
)


@dataclass(frozen=True, slots=True)
class Ours:
    """An event id that we stored. ``stands`` is false once its booking is cancelled or has left this connection.

    ``current``: the calendar was read after the newest revision was written into it, so that the event's place there is
    what its owner made of that revision. Otherwise it is an older revision's, which counts no more.
    """

    booking_id: BookingId
    stands: bool
    current: bool = True


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
    for broken in read.unreadable if read else ():
        known = ours.get(broken.event_id)
        if broken.interval is not None and not touches(broken.interval, window):
            continue
        interval = None if broken.interval is None else _clipped(broken.interval, window)
        if known is not None and _passes(known, options):
            excluded = known.booking_id in options.excluded
            reason = BlockReason.BOOKING_EXCLUDED if excluded else BlockReason.CANCELLED
            judged.append(Verdict(interval, reason, known.booking_id, broken.event_id))
        else:
            judged.append(Verdict(interval, BlockReason.UNREADABLE, event_id=broken.event_id))
    seen = {(verdict.event_id, verdict.interval): at for at, verdict in enumerate(judged) if verdict.booking_id}
    for overlay in overlays:
        if not touches(overlay.interval, window):
            continue
        interval = _clipped(overlay.interval, window)
        excluded = overlay.booking_id in options.excluded
        reason = BlockReason.BOOKING_EXCLUDED if excluded else BlockReason.BOOKING
        verdict = Verdict(interval, reason, overlay.booking_id, overlay.event_id)
        shown_at = seen.get((overlay.event_id, interval))
        if shown_at is None:
            judged.append(verdict)
        else:
            # The calendar shows it where we want it. One line for it, and ours decides: its owner may have marked the
            # event free, but the appointment stands.
            judged[shown_at] = verdict
    return sorted(judged, key=lambda verdict: verdict.interval or Interval(window.start - 1, 0))


def unreadable(
    read: CalendarRead, ours: Mapping[EventId, Ours], window: Interval, options: Options
) -> UnreadableEvent | None:
    """The first event that could not be read and may block in the window.

    What is known to lie outside does not, nor does an event of a booking that is cancelled or excluded.
    """
    for event in read.unreadable:
        if event.interval is not None and not touches(event.interval, window):
            continue
        if not _passes(ours.get(event.event_id), options):
            return event
    return None


def _passes(ours: Ours | None, options: Options) -> bool:
    """Whether an event of ours is certain not to block, whatever it says."""
    return ours is not None and (not ours.stands or ours.booking_id in options.excluded)


def blocked(judged: Sequence[Verdict], window: Interval) -> list[Interval]:
    """When the verdicts make busy: merged, sorted, clipped."""
    return merge(clip((verdict.interval for verdict in judged if verdict.reason.blocks and verdict.interval), window))


def _judge(event: BusyEvent, ours: Ours | None, window: Interval, options: Options) -> Verdict:
    interval = _clipped(Interval(event.start, event.end), window)
    reason = event.reason
    if ours is not None:
        if ours.booking_id in options.excluded:
            reason = BlockReason.BOOKING_EXCLUDED
        elif not ours.stands or not ours.current:
            reason = BlockReason.CANCELLED
        elif reason.blocks:
            reason = BlockReason.BOOKING
        return Verdict(interval, reason, ours.booking_id, event.event_id)
    if options.ignore_tentative and event.tentative and reason.blocks:
        reason = BlockReason.TENTATIVE_IGNORED
    return Verdict(interval, reason, event_id=event.event_id)


def _clipped(interval: Interval, window: Interval) -> Interval:
    return Interval(max(interval.start, window.start), min(interval.end, window.end))
