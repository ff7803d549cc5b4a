"""Events of Google Calendar v3 as JSON, to and fro: what one occurrence means, and what a booking looks like as an event.

Pure: decoded JSON comes in, nouns go out. Where an event leaves room for doubt, it blocks: an unknown kind, status or
transparency is busy, and a time that cannot be read makes an ``UnreadableEvent``. In this order, the first that holds
decides:
    cancelled          ``status``
    working elsewhere  ``eventType`` workingLocation
    birthday           ``eventType`` birthday
    declined           the answer of the calendar's owner (attendee ``self``), if it is their only one
    free               ``transparency``
    out of office, focus time   ``eventType``
    tentative          ``status``, or the owner's answer
    busy               all else
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from calendar_server.core.event import EAST, WEST
from calendar_server.core.intervals import from_datetime, to_datetime, touches
from calendar_server.core.model import (
    DAY,
    SECOND,
    BlockReason,
    Booking,
    BusyEvent,
    EventId,
    Instant,
    Interval,
    UnreadableEvent,
)
from calendar_server.core.zones import Zone, described, naive_instant, named
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import RemoteEvent
from calendar_server.providers.wording import event_text, event_title

Json = Mapping[str, object]

UID_PROPERTY = "calendarsUid"
REVISION_PROPERTY = "calendarsRevision"
"""Private extended properties (https://developers.google.com/calendar/api/guides/extended-properties) of events of ours:
which one it is, and which revision of the booking it shows."""

_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):(\d\d)(?:\.(\d{1,18}))?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_ETAG = re.compile(r"[\x21-\x7e]{1,1024}")


class _Unreadable(Exception):
    """A time says nothing that can be relied on. ``around`` is where it must lie, if that much could be read."""

    def __init__(self, message: str, around: Interval | None = None):
        super().__init__(message)
        self.around = around


def busy_event(item: Json, zone: Zone | None, window: Interval) -> BusyEvent | UnreadableEvent | None:
    """One item of ``events.list``, judged. None: it does not touch the window, or cannot be read and does not block.

    ``zone`` is the calendar's, where dates of all-day events lie. Where it is None they may lie anywhere on earth, and
    such an event cannot be read.
    """
    reason, tentative = _standing(item)
    event_id = EventId(text_of(item, "id"))
    try:
        start, end = _span(item, zone, window)
    except _Unreadable as error:
        if not reason.blocks or (error.around is not None and not touches(error.around, window)):
            return None
        return UnreadableEvent(event_id or EventId("unknown"), str(error), error.around)
    if not touches(Interval(start, end), window):
        return None
    if start == end and reason.blocks:
        reason = BlockReason.ZERO_LENGTH
    return BusyEvent(start, end, reason, event_id, tentative)


def _standing(item: Json) -> tuple[BlockReason, bool]:
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
    else:
        reason = BlockReason.TENTATIVE if tentative else BlockReason.BUSY
    return reason, tentative


def _own_answers(attendees: object) -> set[str]:
    """What the calendar's owner answered. Guests are not asked: only ``self`` stands for this copy of the event."""
    if not isinstance(attendees, list):
        return set()
    own = [guest for guest in attendees if isinstance(guest, Mapping) and guest.get("self") is True]
    return {text_of(guest, "responseStatus") for guest in own}


@dataclass(frozen=True, slots=True)
class _Moment:
    """A start or an end. Of a date it is the first instant, and ``next_day`` the first of the day after."""

    at: Instant
    next_day: Instant | None = None


def _span(item: Json, zone: Zone | None, window: Interval) -> Interval:
    told_end = item.get("end")
    try:
        start = _moment(item, "start", zone)
    except _Unreadable as error:
        # Where all-day dates lie may be told within a day or so, and that is enough for most windows.
        raise _Unreadable(str(error), _around(item) or _known_before(item, zone, window)) from error
    if told_end is None and start.next_day is not None:
        return Interval(start.at, start.next_day)
    try:
        end = _moment(item, "end", zone)
    except _Unreadable as error:
        beyond = Interval(start.at, start.at + SECOND) if start.at >= window.end else None
        raise _Unreadable(str(error), beyond) from error
    if start.next_day is not None and end.next_day is not None and end.at == start.at:
        # An end date is exclusive. Whoever writes the day itself there means that day.
        return Interval(start.at, start.next_day)
    if end.at < start.at:
        raise _Unreadable("The event ends before it starts.")
    return Interval(start.at, end.at)


def _moment(item: Json, name: str, zone: Zone | None) -> _Moment:
    value = item.get(name)
    if not isinstance(value, Mapping):
        raise _Unreadable(f"The event's {name} is missing.")
    moment, day = value.get("dateTime"), value.get("date")
    try:
        if isinstance(moment, str):
            return _Moment(_instant(moment, text_of(value, "timeZone")))
        if isinstance(day, str):
            first = _date(day)
            if zone is None:
                raise _Unreadable("The event is all-day in a calendar whose zone is not known.")
            return _Moment(zone.instant(first), zone.instant(first + timedelta(days=1)))
    except (ValueError, OverflowError) as error:
        raise _Unreadable(f"The event's {name} is no time.") from error
    raise _Unreadable(f"The event's {name} is no time.")


def _around(item: Json) -> Interval | None:
    """Where an event between two dates lies whatever its zone is."""
    start, end = item.get("start"), item.get("end")
    if not isinstance(start, Mapping) or not isinstance(end, Mapping):
        return None
    try:
        first, last = _date(text_of(start, "date")), _date(text_of(end, "date"))
    except ValueError:
        return None
    if last < first:
        return None
    return Interval(naive_instant(first) - EAST, max(naive_instant(last), naive_instant(first) + DAY) + WEST)


def _known_before(item: Json, zone: Zone | None, window: Interval) -> Interval | None:
    """The end of an event without a start, where that is known to lie before the window."""
    try:
        end = _moment(item, "end", zone)
    except _Unreadable:
        return None
    return Interval(end.at - SECOND, end.at) if end.at <= window.start else None


def _instant(text: str, zone_name: str) -> Instant:
    """Read an RFC 3339 time. Without an offset it is one on the clocks of the zone that is named beside it."""
    local, offset = _rfc3339(text)
    if offset is not None:
        return naive_instant(local) - offset
    zone = zone_of(zone_name)
    if zone is None:
        raise ValueError("in an unknown zone")
    return zone.instant(local)


def instant_of(value: object) -> Instant:
    """An RFC 3339 time with its offset. Raises ``ValueError`` or ``OverflowError`` for anything else."""
    local, offset = _rfc3339(value if isinstance(value, str) else "")
    if offset is None:
        raise ValueError("without an offset")
    return naive_instant(local) - offset


def _rfc3339(text: str) -> tuple[datetime, Instant | None]:
    """What the clock shows, and the offset from UTC if it is told."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("no time of RFC 3339")
    day, clock, second, fraction, offset = match.groups()
    # A leap second is told as :60 (RFC 3339 section 5.7); it is the one after :59.
    leap = second == "60"
    local = datetime.fromisoformat(f"{day}T{clock}:{'59' if leap else second}")
    local += timedelta(seconds=leap, microseconds=int((fraction or "0")[:6].ljust(6, "0")))
    if offset is None:
        return local, None
    # The same instant as if it were UTC, less itself: the offset, read by those who know how.
    aware = datetime.fromisoformat(f"2000-01-01T00:00:00{offset.upper()}")
    return local, naive_instant(datetime(2000, 1, 1)) - from_datetime(aware)


def _date(text: str) -> datetime:
    """The midnight that begins a date, on whatever clock."""
    if not _DATE.fullmatch(text):
        raise ValueError("no date")
    return datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class FoundEvent(RemoteEvent):
    """An event of ours as Google has it. ``leftovers`` names what a patch has to clear: ``date``, ``recurrence`` and
    ``source`` stay in an event until they are taken out by name."""

    leftovers: frozenset[str] = frozenset()


_LEFTOVERS = frozenset({"date", "recurrence", "source"})


def remote_event(event: Json, event_id: EventId) -> FoundEvent:
    """An event of ours as it stands there. Raises ``ProviderUnavailable`` when it is another one, or has no etag."""
    etag = text_of(event, "etag")
    if text_of(event, "id") != event_id or not _ETAG.fullmatch(etag):
        raise ProviderUnavailable("Google's answer about an event could not be read.")
    leftovers = {name for name in ("recurrence", "source") if event.get(name)}
    if any("date" in _mapping(event, name) for name in ("start", "end")):
        leftovers.add("date")
    told = text_of(_mapping(_mapping(event, "extendedProperties"), "private"), REVISION_PROPERTY)
    revision = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
    sequence = event.get("sequence")
    return FoundEvent(
        event_id,
        etag,
        revision,
        sequence if isinstance(sequence, int) else 0,
        text_of(event, "htmlLink"),
        frozenset(leftovers),
    )


def event_content(uid: str, booking: Booking) -> dict[str, object]:
    """The event as the booking wants it, whole. Guests are text: an attendee would be sent mail."""
    content: dict[str, object] = {
        "summary": event_title(booking),
        "description": event_text(booking),
        "location": booking.location,
        "start": _time(booking.start, booking.time_zone),
        "end": _time(booking.end, booking.time_zone),
        "status": "confirmed",
        "transparency": "opaque",
        "extendedProperties": {"private": {UID_PROPERTY: uid, REVISION_PROPERTY: str(booking.revision)}},
    }
    if _is_page(booking.url):
        content["source"] = {"title": event_title(booking), "url": booking.url}
    return content


def event_changes(uid: str, booking: Booking, known: RemoteEvent) -> dict[str, object]:
    """The same as a patch: what its owner has added (colour, reminders, notes, guests) stays, for it is not named."""
    leftovers = known.leftovers if isinstance(known, FoundEvent) else _LEFTOVERS
    changes = event_content(uid, booking)
    if "date" in leftovers:
        # Its owner made it all-day. A patch joins members, and an event with a date and a time is refused.
        for name in ("start", "end"):
            changes[name] = {**_mapping(changes, name), "date": None}
    if "recurrence" in leftovers:
        changes["recurrence"] = []
    if "source" in leftovers:
        changes.setdefault("source", None)
    return changes


def _time(instant: Instant, zone_name: str) -> dict[str, object]:
    return {"dateTime": told(instant), "timeZone": zone_name or "UTC"}


def _is_page(url: str) -> bool:
    """``source`` takes http and https alone."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def told(instant: Instant) -> str:
    """An instant as Google takes it: whole seconds, UTC. Part of a second is cut off."""
    return f"{to_datetime(instant // SECOND * SECOND).replace(tzinfo=None).isoformat()}Z"


def whole_seconds(window: Interval) -> Interval:
    """The window, widened to whole seconds: Google ignores their parts."""
    return Interval(window.start // SECOND * SECOND, -(-window.end // SECOND) * SECOND)


def zone_of(name: str) -> Zone | None:
    """The zone that Google means by a name; None when nobody knows it."""
    return named(name) or described(name)


def text_of(values: Json, name: str) -> str:
    """The member's text; empty when there is none, or none that can be written down again."""
    value = values.get(name)
    if not isinstance(value, str) or not value.isprintable():
        return _cleaned(value) if isinstance(value, str) else ""
    return value


def _cleaned(text: str) -> str:
    """Half of a pair of surrogates is no character, and a NUL is none that a database takes."""
    return "".join("\N{REPLACEMENT CHARACTER}" if "\ud800" <= one <= "\udfff" or one == "\0" else one for one in text)


def _mapping(values: Json, name: str) -> Json:
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}
