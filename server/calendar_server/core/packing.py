"""What is kept of a calendar, as bytes: times and whether they block, no title, no place, no guest.

Two forms
    intervals  when the calendar is busy, merged: 8 bytes each where all are whole seconds, which nearly all are
    content    every event as it was read: for the explained view, for options, and to tell our own from others'

A form begins with its version, so that a row of another release is read anew rather than misunderstood.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from calendar_server.core.intervals import merge
from calendar_server.core.model import (
    SECOND,
    BlockReason,
    BusyEvent,
    CalendarRead,
    EventId,
    Instant,
    Interval,
    UnreadableEvent,
)

CONTENT_BYTES = 64 * 2**20
"""Bytes that packed content may unfold to: far more than the events that are read of one calendar."""

_SECONDS, _MICROSECONDS = b"s", b"u"
_VERSION = b"1"
_DOUBT = 0x01
_LITTLE_BITS = 12
_LITTLE = 1 << _LITTLE_BITS
_REASONS = tuple(BlockReason)
_REASON_INDEX = {reason: index for index, reason in enumerate(_REASONS)}


@dataclass(frozen=True, slots=True)
class PackedRead:
    """What was read of a calendar in both forms, as whoever read it packed it. ``event_ids`` as in ``CalendarRead``."""

    intervals: bytes
    content: bytes
    event_ids: frozenset[EventId] | None = None

    @classmethod
    def of(cls, read: CalendarRead) -> PackedRead:
        """A read, packed."""
        busy = merge(Interval(event.start, event.end) for event in read.events if event.reason.blocks)
        return cls(pack_track(Track.of(busy, doubt=bool(read.unreadable))), pack_content(read), read.event_ids)

    def opened(self) -> CalendarRead:
        """The way back. Raises ``Unpackable``."""
        return replace(unpack_content(self.content), event_ids=self.event_ids)


def opened(read: CalendarRead | PackedRead) -> CalendarRead:
    """A read that may come packed."""
    return read.opened() if isinstance(read, PackedRead) else read


class Unpackable(ValueError):
    """These bytes are of another release, or damaged. What they held has to be read again."""


_interval: Callable[[tuple[Instant, Instant]], Interval] = partial(tuple.__new__, Interval)


@dataclass(frozen=True, slots=True)
class Track:
    """Merged intervals as two columns, which is twice as fast to read and to search as a list of pairs.

    ``doubt``: the calendar also has events that could not be read, which only its content tells.
    """

    starts: Sequence[Instant]
    ends: Sequence[Instant]
    doubt: bool = False

    @classmethod
    def of(cls, intervals: Sequence[Interval], *, doubt: bool = False) -> Track:
        """A track of intervals that are merged and sorted."""
        return cls([each.start for each in intervals], [each.end for each in intervals], doubt)

    @classmethod
    def joined(cls, tracks: Iterable[Track]) -> Track:
        """What is busy in any of them."""
        pairs = sorted(pair for track in tracks for pair in zip(track.starts, track.ends, strict=True))
        starts: list[Instant] = []
        ends: list[Instant] = []
        for start, end in pairs:
            if ends and start <= ends[-1]:
                if end > ends[-1]:
                    ends[-1] = end
            else:
                starts.append(start)
                ends.append(end)
        return cls(starts, ends)

    def within(self, window: Interval) -> list[Interval]:
        """The parts inside the window."""
        first = bisect_right(self.ends, window.start)
        last = bisect_left(self.starts, window.end, lo=first)
        # Pair by pair through the class's own constructor this costs three times as much.
        found = list(map(_interval, zip(self.starts[first:last], self.ends[first:last], strict=True)))
        if found and found[0].start < window.start:
            found[0] = Interval(window.start, found[0].end)
        if found and found[-1].end > window.end:
            found[-1] = Interval(found[-1].start, window.end)
        return found


def pack_track(track: Track) -> bytes:
    """Pack merged intervals: all starts, then all ends."""
    flat = [*track.starts, *track.ends]
    if all(instant % SECOND == 0 and 0 <= instant // SECOND < 2**32 for instant in flat):
        unit, numbers = _SECONDS, array("I", (instant // SECOND for instant in flat))
    else:
        unit, numbers = _MICROSECONDS, array("q", flat)
    if sys.byteorder != "little":
        numbers.byteswap()
    return _VERSION + bytes([_DOUBT if track.doubt else 0]) + unit + numbers.tobytes()


def unpack_track(packed: bytes) -> Track:
    """The way back. Raises ``Unpackable``."""
    if packed[:1] != _VERSION or packed[2:3] not in (_SECONDS, _MICROSECONDS):
        raise Unpackable("intervals of another form")
    seconds = packed[2:3] == _SECONDS
    numbers = array("I" if seconds else "q")
    try:
        numbers.frombytes(packed[3:])
    except ValueError as error:
        raise Unpackable("intervals cut short") from error
    if len(numbers) % 2:
        raise Unpackable("intervals cut short")
    if sys.byteorder != "little":
        numbers.byteswap()
    flat = [number * SECOND for number in numbers] if seconds else list(numbers)
    half = len(flat) // 2
    return Track(flat[:half], flat[half:], bool(packed[1] & _DOUBT))


def pack_content(read: CalendarRead) -> bytes:
    """Pack what was read. Which events stand there besides (``event_ids``) is not kept."""
    ids: dict[EventId, int] = {}
    events = [
        (
            event.start,
            event.end,
            _REASON_INDEX[event.reason],
            int(event.tentative),
            ids.setdefault(event.event_id, len(ids)),
        )
        for event in read.events
    ]
    unreadable = [
        (ids.setdefault(each.event_id, len(ids)), each.message, *(each.interval or ())) for each in read.unreadable
    ]
    text = json.dumps([list(ids), events, unreadable], separators=(",", ":"))
    return _VERSION + squeezed(text.encode(), 3)


def squeezed(data: bytes, level: int) -> bytes:
    """``zlib.compress``, in a sixth of its time where there is little: that sets up 256 KB for whatever may come."""
    if len(data) > _LITTLE:
        return zlib.compress(data, level)
    # A window as large as the data, and memory in proportion: the result is as small.
    press = zlib.compressobj(level, zlib.DEFLATED, _LITTLE_BITS, 4)
    return press.compress(data) + press.flush()


def unpack_content(packed: bytes) -> CalendarRead:
    """The way back. Raises ``Unpackable``."""
    if packed[:1] != _VERSION:
        raise Unpackable("content of another form")
    try:
        unfolder = zlib.decompressobj()
        text = unfolder.decompress(packed[1:], CONTENT_BYTES)
        if not unfolder.eof:
            raise Unpackable("content cut short")
        ids, events, unreadable = json.loads(text)
        return CalendarRead(
            events=tuple(
                BusyEvent(start, end, _REASONS[reason], ids[at], bool(tentative))
                for start, end, reason, tentative, at in events
            ),
            unreadable=tuple(
                UnreadableEvent(ids[at], message, Interval(*span) if span else None)
                for at, message, *span in unreadable
            ),
        )
    except (zlib.error, ValueError, TypeError, LookupError) as error:
        raise Unpackable("content damaged") from error
