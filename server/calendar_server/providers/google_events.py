"""What an event of Google Calendar v3 means: when it is, and whether it blocks.

Pure: decoded JSON comes in, nouns go out. Where an event leaves room for doubt, it blocks: an unknown kind, status or
transparency is busy, and a time that cannot be read makes an ``UnreadableEvent``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from calendar_server.core.intervals import from_datetime, to_datetime, touches
from calendar_server.core.model import (
    DAY,
    HOUR,
    SECOND,
    BlockReason,
    BusyEvent,
    CalendarRead,
    EventId,
    Instant,
    Interval,
    UnreadableEvent,
)

FIELDS = (
    "kind,timeZone,accessRole,nextPageToken,"
    "items(id,status,eventType,transparency,start,end,attendees(self,responseStatus))"
)
"""What is asked of ``events.list``. No title, no place, no guest's name ever reaches this process."""

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d):(\d\d)(?:\.(\d{1,18}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII
)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ZONE_SPREAD = Interval(-14 * HOUR, 12 * HOUR)
"""How far a local time can lie from the same time in UTC: zones reach from UTC+14 to UTC-12."""


class _Unreadable(Exception):
    """A time says nothing that can be relied on. ``span`` is where it must lie, if that much could be read."""

    def __init__(self, message: str, span: Interval | None = None):
        super().__init__(message)
        self.span = span


def read_events(items: Iterable[Mapping[str, object]], zone_name: str, window: Interval) -> CalendarRead:
    """Judge the items of ``events.list``. ``zone_name`` is the calendar's zone: all-day dates are placed in it."""
    zone = zone_named(zone_name)
    events: list[BusyEvent] = []
    unreadable: list[UnreadableEvent] = []
    for item in items:
        found = _read(item, zone, window)
        if isinstance(found, BusyEvent):
            events.append(found)
        elif found is not None:
            unreadable.append(found)
    return CalendarRead(tuple(events), tuple(unreadable))


def _read(item: Mapping[str, object], zone: tzinfo | None, window: Interval) -> BusyEvent | UnreadableEvent | None:
    """One event; None when it does not touch the window, or has no place in time and is certain not to block."""
    reason, tentative = _reason(item)
    told = item.get("id")
    event_id = EventId(told) if isinstance(told, str) else EventId("")
    try:
        start, end = _span(item, zone)
    except _Unreadable as error:
        if not reason.blocks or (error.span is not None and not touches(error.span, window)):
            return None
        return UnreadableEvent(event_id or EventId("unknown"), str(error), error.span)
    if not touches(Interval(start, end), window):
        return None
    if start == end and reason.blocks:
        reason = BlockReason.ZERO_LENGTH
    return BusyEvent(start, end, reason, event_id, tentative)


def _reason(item: Mapping[str, object]) -> tuple[BlockReason, bool]:
    """Why the event blocks or does not, its length aside; and whether it is tentative, by itself or by its owner."""
    answers = _own_answers(item.get("attendees"))
    status, kind = item.get("status"), item.get("eventType")
    tentative = status == "tentative" or "tentative" in answers
    if status == "cancelled":
        reason = BlockReason.CANCELLED
    elif kind == "workingLocation":
        reason = BlockReason.WORKING_ELSEWHERE
    elif kind == "birthday":
        reason = BlockReason.BIRTHDAY
    elif answers == {"declined"}:
        reason = BlockReason.DECLINED
    elif item.get("transparency") == "transparent":
        reason = BlockReason.FREE
    elif kind == "outOfOffice":
        reason = BlockReason.OUT_OF_OFFICE
    elif kind == "focusTime":
        reason = BlockReason.FOCUS_TIME
    elif tentative:
        reason = BlockReason.TENTATIVE
    else:
        reason = BlockReason.BUSY
    return reason, tentative


def _own_answers(attendees: object) -> set[object]:
    """What the calendar's owner answered. Guests are not asked: only ``self`` stands for this copy of the event."""
    if not isinstance(attendees, list):
        return set()
    return {
        str(guest.get("responseStatus")) for guest in attendees if isinstance(guest, dict) and guest.get("self") is True
    }


def _span(item: Mapping[str, object], zone: tzinfo | None) -> Interval:
    start = _moment(item.get("start"), zone)
    told_end = item.get("end")
    if isinstance(told_end, dict) and "date" in told_end and start.all_day:
        end = _moment(told_end, zone).at
        if end == start.at:
            # An end date is exclusive. Whoever writes the day itself there means that day.
            end = start.next_day
    elif told_end is None and start.all_day:
        end = start.next_day
    else:
        end = _moment(told_end, zone).at
    if end < start.at:
        raise _Unreadable("The event ends before it starts.")
    return Interval(start.at, end)


class _Moment:
    """A start or an end. ``all_day`` ones are the first instant of a date in the calendar's zone."""

    __slots__ = ("all_day", "at", "next_day")

    def __init__(self, at: Instant, next_day: Instant = 0, *, all_day: bool = False):
        self.at = at
        self.next_day = next_day
        self.all_day = all_day


def _moment(told: object, zone: tzinfo | None) -> _Moment:
    if not isinstance(told, dict):
        raise _Unreadable("The event lacks a start or an end.")
    try:
        if isinstance(told.get("dateTime"), str):
            return _Moment(_instant(told["dateTime"], told.get("timeZone")))
        if isinstance(told.get("date"), str):
            return _day(told["date"], zone)
    except (ValueError, OverflowError) as error:
        raise _Unreadable("The event has a time that does not exist.") from error
    raise _Unreadable("The event has a start or an end without a time.")


def _instant(text: str, zone_name: object) -> Instant:
    """Read an RFC 3339 time. The zone is a field of its own where the text has no offset."""
    try:
        return instant_of(text)
    except NoOffset as without:
        zone = zone_named(zone_name)
        if zone is None:
            raise _Unreadable("The event has a time in a zone that is not known.", _spread(without.local)) from None
        return from_datetime(without.local.replace(tzinfo=zone))


def _day(text: str, zone: tzinfo | None) -> _Moment:
    if not _DATE.fullmatch(text):
        raise ValueError(text)
    day = date.fromisoformat(text)
    first = datetime(day.year, day.month, day.day)
    if zone is None:
        raise _Unreadable("The event is all-day in a calendar whose zone is not known.", _spread(first, DAY))
    # A midnight that the clocks skip is the moment of the change, one that comes twice is the first: ``fold=0`` says both.
    at, after = first.replace(tzinfo=zone), (first + timedelta(days=1)).replace(tzinfo=zone)
    return _Moment(from_datetime(at), from_datetime(after), all_day=True)


def _spread(local: datetime, length: int = 0) -> Interval | None:
    """Where a local time of an unknown zone lies at the widest. Its event may be long: no end can be told for a start."""
    if not length:
        return None
    at = from_datetime(local.replace(tzinfo=UTC))
    return Interval(at + _ZONE_SPREAD.start, at + length + _ZONE_SPREAD.end)


class NoOffset(ValueError):
    """A date-time without an offset. ``local`` is what it says on the clock."""

    def __init__(self, local: datetime):
        super().__init__("no offset")
        self.local = local


def instant_of(text: object) -> Instant:
    """Read an RFC 3339 date-time. Raises ``NoOffset`` where it has none, else ``ValueError`` or ``OverflowError``."""
    match = _RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("not a date-time of RFC 3339")
    day, clock, second, fraction, offset = match.groups()
    # A leap second (RFC 3339 section 5.7) is the one after :59.
    leap = 1 if second == "60" else 0
    local = datetime.fromisoformat(f"{day}T{clock}:{'59' if leap else second}")
    local += timedelta(seconds=leap, microseconds=int((fraction or "0")[:6].ljust(6, "0")))
    if offset is None:
        raise NoOffset(local)
    return from_datetime(local.replace(tzinfo=datetime.fromisoformat(f"2000-01-01T00:00:00{offset.upper()}").tzinfo))


def zone_named(name: object) -> tzinfo | None:
    """The zone with this IANA name, or None."""
    if not isinstance(name, str) or not name:
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        return None


def told(instant: Instant) -> str:
    """An instant as Google takes it: whole seconds, UTC. Part of a second is cut off."""
    return f"{to_datetime(instant // SECOND * SECOND):%Y-%m-%dT%H:%M:%SZ}"


def told_up(instant: Instant) -> str:
    """The same, with part of a second rounded up."""
    return told(instant + SECOND - 1)
