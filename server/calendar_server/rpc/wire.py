"""GetBusy's answers straight to the bytes that protobuf would make of them.

Building messages costs about 3 µs an interval, most of what a warm answer costs. The same intervals are told again and
again, so their bytes are kept; what is rare (problems, explained events) is left to protobuf. The bytes are equal to
those of ``convert.busy_response`` (https://protobuf.dev/programming-guides/encoding/), which a test holds.

Every field here has a number below 16, so that its tag is one byte: the number times 8, and 2 for what has a length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from calendar_server.core.model import SECOND, Instant, Interval
from calendar_server.rpc import convert
from calendar_server.usecases.commands import BusyAnswer, CalendarBusy
from calendars.v1 import availability_pb2

KEPT_MOST = 20_000
"""Intervals whose bytes are kept, about 300 bytes each."""

_ONE, _TWO, _THREE, _FOUR, _FIVE, _SIX, _SEVEN = (bytes([number << 3 | 2]) for number in range(1, 8))
_STATE_NUMBER = {name.removeprefix("BUSY_STATE_"): number for name, number in availability_pb2.BusyState.items()}
_COMPLETE = b"\x10\x01"
_FORM = "wire"
# Whole seconds from 1978 to 3058 take five bytes: two pairs that are not the last, and the last.
_FIVE_BYTES_FIRST, _FIVE_BYTES_LAST = 1 << 28, (1 << 35) - 1
_PAIRS = [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(1 << 14)]
_LAST = [bytes((number,)) for number in range(1 << 7)]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message that is bytes already."""

    raw: bytes

    def SerializeToString(self) -> bytes:
        return self.raw


def busy_wire(answer: BusyAnswer) -> bytes:
    """The bytes of the ``GetBusyResponse``."""
    forms = {} if answer.forms is None else answer.forms
    made = forms.get(_FORM)
    if made is None:
        calendars = [calendar_wire(calendar) for calendar in answer.calendars]
        made = forms[_FORM] = response_wire(intervals_wire(answer.busy), answer.complete, calendars)
    return made


def response_wire(busy: bytes, complete: bool, calendars: Iterable[bytes]) -> bytes:
    """The bytes of a ``GetBusyResponse`` from those of its parts, as the other functions here make them."""
    parts = [busy]
    if complete:
        parts.append(_COMPLETE)
    for calendar in calendars:
        parts += (_THREE, _varint(len(calendar)), calendar)
    return b"".join(parts)


def calendar_wire(calendar: CalendarBusy) -> bytes:
    """The bytes of a ``CalendarBusy``, without the tag and length that they have inside an answer."""
    if calendar.problem is not None or calendar.events:
        return convert.calendar_busy(calendar).SerializeToString()
    parts: list[bytes] = []
    for tag, told in ((_ONE, calendar.connection_id), (_TWO, calendar.calendar_id)):
        if told:
            text = told.encode("utf-8", "replace")
            parts += (tag, _varint(len(text)), text)
    # An enum is a varint: the tag ends in 0.
    parts.append(bytes((3 << 3, _STATE_NUMBER[calendar.state.name])))
    if calendar.as_of is not None:
        parts += (_FOUR, _timestamp(calendar.as_of))
    parts.append(_tagged(_SIX, calendar.busy))
    return b"".join(parts)


def intervals_wire(intervals: Sequence[Interval]) -> bytes:
    """The bytes of the intervals as the field ``busy`` of a ``GetBusyResponse``."""
    return _tagged(_ONE, intervals)


class _Kept(dict[Interval, bytes]):
    """The bytes of intervals, each with its length before it; made when first asked for."""

    def __missing__(self, interval: Interval) -> bytes:
        start, end = _timestamp(interval[0]), _timestamp(interval[1])
        made = b"".join((bytes((len(start) + len(end) + 2,)), _ONE, start, _TWO, end))
        if len(self) >= KEPT_MOST:
            # Rarely, and then what is in use comes back by itself. Other threads at worst make theirs again.
            self.clear()
        self[interval] = made
        return made


_kept = _Kept()


def _tagged(tag: bytes, intervals: Sequence[Interval]) -> bytes:
    if not intervals:
        return b""
    return tag + tag.join(map(_kept.__getitem__, intervals))


def _timestamp(instant: Instant) -> bytes:
    """A ``Timestamp`` with its length before it. Fields that are 0 are left out, nanos are never negative."""
    seconds, micros = divmod(instant, SECOND)
    if not micros and _FIVE_BYTES_FIRST <= seconds <= _FIVE_BYTES_LAST:
        return b"".join((b"\x06\x08", _PAIRS[seconds & 0x3FFF], _PAIRS[seconds >> 14 & 0x3FFF], _LAST[seconds >> 28]))
    body = b""
    if seconds:
        # Negative numbers are told as 64 bits in two's complement.
        body += b"\x08" + _varint(seconds & 0xFFFF_FFFF_FFFF_FFFF)
    if micros:
        body += b"\x10" + _varint(micros * convert.MICRO)
    return bytes((len(body),)) + body


def _varint(number: int) -> bytes:
    """A number that is not negative, seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes((number,))
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
