"""Arithmetic on half-open intervals of instants, and the way between instants and datetimes.

An interval ``[start, end)`` with ``start == end`` is empty: it covers no instant. One with ``end < start`` is a mistake
of the caller and counts as empty too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from calendar_server.core.model import SECOND, Instant, Interval

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_S = 86_400


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Join intervals that overlap or touch. The result is sorted, disjoint, and covers the same instants."""
    merged: list[Interval] = []
    for current in sorted(intervals):
        if current.end <= current.start:
            continue
        if merged and current.start <= merged[-1].end:
            if current.end > merged[-1].end:
                merged[-1] = Interval(merged[-1].start, current.end)
        else:
            merged.append(current)
    return merged


def clip(intervals: Iterable[Interval], window: Interval) -> list[Interval]:
    """Cut each interval down to its part inside ``window``, in the order given. Empty parts are left out."""
    clipped = []
    for interval in intervals:
        start, end = max(interval.start, window.start), min(interval.end, window.end)
        if start < end:
            clipped.append(Interval(start, end))
    return clipped


def touches(interval: Interval, window: Interval) -> bool:
    """Whether the interval has an instant in common with ``window``.

    One of zero length counts as its start: it touches when ``window.start <= start < window.end``.
    """
    if interval.start == interval.end:
        return window.start <= interval.start < window.end
    return max(interval.start, window.start) < min(interval.end, window.end)


def chunk(window: Interval, longest_us: int) -> list[Interval]:
    """Cut ``window`` into pieces of at most ``longest_us`` microseconds, without gap or overlap, in order.

    An empty window has no pieces. Raises ``ValueError`` when ``longest_us`` is not positive.
    """
    if longest_us <= 0:
        raise ValueError("A piece must be longer than nothing.")
    return [
        Interval(start, min(start + longest_us, window.end)) for start in range(window.start, window.end, longest_us)
    ]


def to_datetime(instant: Instant) -> datetime:
    """Turn an instant into an aware datetime in UTC. Raises ``OverflowError`` outside the years 1 to 9999."""
    return _EPOCH + timedelta(microseconds=instant)


def from_datetime(moment: datetime) -> Instant:
    """Turn an aware datetime, of whatever zone, into an instant. Raises ``ValueError`` for a naive one.

    Whole microseconds all the way: ``datetime.timestamp()`` is a float and loses them far from 1970.
    """
    if moment.utcoffset() is None:
        raise ValueError("A datetime without a zone names no instant.")
    since = moment - _EPOCH
    return (since.days * _DAY_S + since.seconds) * SECOND + since.microseconds
