"""Events of Microsoft Graph as JSON, to and fro: what one occurrence means, and what a booking looks like as an event."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from calendar_server.core.intervals import from_datetime, to_datetime
from calendar_server.core.model import (
    HOUR,
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
from calendar_server.providers.base import EventRef, RemoteEvent
from calendar_server.providers.wording import event_text, event_title

Json = Mapping[str, object]

_PROPERTY = "String {6b1d4d6e-3f0a-4c1e-9d4b-5f0c8b6f6a51} Name "
UID_PROPERTY = _PROPERTY + "CalendarsUid"
REVISION_PROPERTY = _PROPERTY + "CalendarsRevision"
"""Extended properties (https://learn.microsoft.com/graph/api/resources/extended-properties-overview) of events of ours:
which one it is, and which revision of the booking it shows."""

_SHOWN = {
    "free": BlockReason.FREE,
    "tentative": BlockReason.TENTATIVE,
    "busy": BlockReason.BUSY,
    "oof": BlockReason.OUT_OF_OFFICE,
    "workingElsewhere": BlockReason.WORKING_ELSEWHERE,
}
"""What ``showAs`` means. Unknown or absent blocks."""

EAST, WEST = 14 * HOUR, 12 * HOUR
"""How far a local day may lie before and after the day of that date in UTC."""


def busy_event(item: Json, mailbox: Zone | None) -> BusyEvent | UnreadableEvent | None:
    """One occurrence of ``calendarView``, judged. None: it cannot be read, and certainly does not block.

    ``mailbox`` is the zone where dates of all-day events lie. Where it is None they may lie anywhere on earth, and such
    an event cannot be read.
    """
    event_id = EventId(text_of(item, "id"))
    reason = _reason(item)
    around: Interval | None = None
    try:
        start, end = _local(item, "start"), _local(item, "end")
        if item.get("isAllDay") is True and _midnight(start) and _midnight(end):
            # Midnight to midnight whatever zone was asked for, and whatever zone it is said to be in.
            first, last = start.replace(tzinfo=None), end.replace(tzinfo=None)
            if mailbox is None:
                around = Interval(naive_instant(first) - EAST, naive_instant(last) + WEST)
                raise ValueError("the mailbox's zone is not known")
            since, until = mailbox.instant(first), mailbox.instant(last)
        else:
            since, until = _instant(item, "start", start), _instant(item, "end", end)
        if until < since:
            raise ValueError("ends before it starts")
    except (ValueError, OverflowError) as error:
        return UnreadableEvent(event_id, str(error), around) if reason.blocks else None
    if since == until and reason.blocks:
        reason = BlockReason.ZERO_LENGTH
    return BusyEvent(since, until, reason, event_id, tentative=item.get("showAs") == "tentative")


def event_content(ref: EventRef, booking: Booking) -> dict[str, object]:
    """The event as the booking wants it. Guests are text: an attendee would be sent mail."""
    return {
        "subject": event_title(booking),
        "body": {"contentType": "text", "content": event_text(booking)},
        "start": {"dateTime": utc_text(booking.start), "timeZone": "UTC"},
        "end": {"dateTime": utc_text(booking.end), "timeZone": "UTC"},
        "isAllDay": False,
        "location": {"displayName": booking.location},
        "showAs": "busy",
        "singleValueExtendedProperties": [
            {"id": UID_PROPERTY, "value": ref.uid},
            {"id": REVISION_PROPERTY, "value": str(booking.revision)},
        ],
    }


def remote_event(event: Json) -> RemoteEvent:
    """An event of ours as it stands there. Raises ``ProviderUnavailable`` when it has no id."""
    event_id = text_of(event, "id")
    if not event_id:
        raise ProviderUnavailable("Microsoft's answer about an event could not be read.")
    revision = 0
    properties = event.get("singleValueExtendedProperties")
    for entry in properties if isinstance(properties, Sequence) else ():
        if isinstance(entry, Mapping) and str(entry.get("id")).lower() == REVISION_PROPERTY.lower():
            told = str(entry.get("value"))
            revision = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
    return RemoteEvent(EventId(event_id), text_of(event, "@odata.etag"), revision, 0, text_of(event, "webLink"))


def shows_times_of(event: Json, booking: Booking) -> bool:
    """Whether the event, as answered to a write, stands where the booking wants it. What is not told counts as right."""
    try:
        told = [_instant(event, name, _local(event, name)) for name in ("start", "end") if event.get(name) is not None]
    except (ValueError, OverflowError):
        return True
    return len(told) < 2 or told == [booking.start, booking.end]


def zone_of(name: str) -> Zone | None:
    """The zone that Exchange means by a name: Windows', IANA's, or one that tells its offset."""
    return named(name) or described(name)


def utc_text(instant: Instant) -> str:
    """An instant as Graph writes local times: without a ``Z``."""
    return to_datetime(instant).replace(tzinfo=None).isoformat(timespec="seconds")


def text_of(values: Json, name: str) -> str:
    """The member's text; empty when there is none."""
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _reason(item: Json) -> BlockReason:
    if item.get("isCancelled") is True:
        return BlockReason.CANCELLED
    response = item.get("responseStatus")
    if isinstance(response, Mapping) and response.get("response") == "declined":
        return BlockReason.DECLINED
    return _SHOWN.get(str(item.get("showAs")), BlockReason.BUSY)


def _local(item: Json, name: str) -> datetime.datetime:
    """The time of a ``dateTimeTimeZone`` as it is written, with seven decimals or none; Python cuts them to six."""
    value = item.get(name)
    told = value.get("dateTime") if isinstance(value, Mapping) else None
    if not isinstance(told, str) or "T" not in told:
        raise ValueError(f"{name} is missing")
    return datetime.datetime.fromisoformat(told)


def _midnight(local: datetime.datetime) -> bool:
    return local.time() == datetime.time()


def _instant(item: Json, name: str, local: datetime.datetime) -> Instant:
    """A local time as an instant: in UTC as asked for, or in the zone that it names. An offset of its own beats both."""
    if local.tzinfo is not None:
        return from_datetime(local)
    value = item.get(name)
    zone = zone_of(text_of(value, "timeZone")) if isinstance(value, Mapping) else None
    if zone is None:
        raise ValueError(f"{name} is in an unknown zone")
    return zone.instant(local)
