"""One Exchange mailbox: calendars and events with a memory, as Graph shows them. No HTTP here.

Times inside are local times with a zone, as Exchange keeps them; a series repeats on its own clock. All-day events have
dates and no zone: they are shown midnight to midnight in whatever zone is asked for, and are compared with a window as
if they lay in UTC. Every change is remembered, so that a feed can tell what has changed since.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

WINDOWS_ZONES = {
    "UTC": "UTC",
    "W. Europe Standard Time": "Europe/Berlin",
    "Pacific Standard Time": "America/Los_Angeles",
    "New Zealand Standard Time": "Pacific/Auckland",
    "Tokyo Standard Time": "Asia/Tokyo",
}
CUSTOM_ZONE = "tzone://Microsoft/Custom"


class NotThere(Exception):
    """There is no such calendar or event."""


class OtherVersion(Exception):
    """The event was changed since."""


class TransactionTaken(Exception):
    """Another event was made under this transaction id."""


class ReadOnly(Exception):
    """The calendar cannot be written to."""


@dataclass(frozen=True)
class Occurrence:
    """When something stands in a calendar: local times, or dates if it is all-day."""

    start: datetime
    end: datetime


@dataclass
class Series:
    """Every ``every_days`` days, ``count`` times. ``moved`` and ``removed`` count occurrences from 0."""

    count: int
    every_days: int = 1
    moved: dict[int, Occurrence] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    shown: dict[int, Mapping[str, object]] = field(default_factory=dict)
    """Members of single occurrences that differ from the series, such as ``showAs``."""


@dataclass
class Calendar:
    id: str
    name: str
    default: bool
    can_edit: bool
    hex_color: str = ""


@dataclass(frozen=True)
class Change:
    """One change of an event in a calendar, by both ids that the event had there."""

    calendar_id: str
    id: str
    moving_id: str


@dataclass
class Event:
    """An event or a series. ``members`` are Graph's, apart from times and identity."""

    id: str
    moving_id: str
    calendar_id: str
    when: Occurrence
    zone: str
    all_day: bool
    members: dict[str, object]
    properties: dict[str, str]
    transaction_id: str | None
    created: datetime
    series: Series | None = None
    version: int = 1

    @property
    def etag(self) -> str:
        """Graph's is weak, and holds quotes."""
        key = base64.b64encode(f"{self.id}/{self.version}".encode()).decode()
        return f'W/"{key}"'


class Mailbox:
    """A user's mailbox. ``zone`` is the setting: a Windows name, an IANA name, or ``tzone://Microsoft/Custom``."""

    def __init__(self, zone: str = "UTC"):
        self.zone = zone
        self.calendars: dict[str, Calendar] = {}
        self.events: dict[str, Event] = {}
        self.mails: list[str] = []
        """Addresses that Exchange has sent something to."""
        self.changes: list[Change] = []
        """Oldest first. Where a feed stands is a number of them."""
        self._transactions: dict[str, tuple[str, str]] = {}
        self._ids = itertools.count(1)
        self._seed = hashlib.sha256(str(id(self)).encode()).hexdigest()[:10]
        self._lock = threading.RLock()
        self.default = self.add_calendar("Calendar", default=True)

    def add_calendar(self, name: str, *, default: bool = False, can_edit: bool = True, hex_color: str = "") -> Calendar:
        with self._lock:
            calendar = Calendar(self._new_id("AAMkC"), name, default, can_edit, hex_color)
            self.calendars[calendar.id] = calendar
            return calendar

    def calendar(self, calendar_id: str) -> Calendar:
        calendar = self.calendars.get(calendar_id)
        if calendar is None:
            raise NotThere
        return calendar

    # What the mailbox's owner does in Outlook.

    def add(
        self,
        start: datetime,
        end: datetime,
        *,
        calendar: Calendar | None = None,
        zone: str = "UTC",
        all_day: bool = False,
        series: Series | None = None,
        **members: object,
    ) -> Event:
        """The owner makes an event. ``members`` are Graph's, such as ``showAs``; None leaves one out of answers."""
        with self._lock:
            event = Event(
                id=self._new_id("AAkALgAA"),
                moving_id=self._new_id("AAMkAD"),
                calendar_id=(calendar or self.default).id,
                when=Occurrence(start, end),
                zone=zone,
                all_day=all_day,
                members={**_USUAL, **members},
                properties={},
                transaction_id=None,
                created=datetime.now(UTC),
                series=series,
            )
            self.events[event.id] = event
            self._log(event)
            return event

    def change(self, event_id: str, **members: object) -> None:
        """The owner changes an event, ``start`` and ``end`` included."""
        with self._lock:
            event = self.event(event_id)
            start, end = members.pop("start", event.when.start), members.pop("end", event.when.end)
            assert isinstance(start, datetime)
            assert isinstance(end, datetime)
            event.when = Occurrence(start, end)
            event.members.update(members)
            self._touch(event)

    def repeat(self, event_id: str, series: Series | None) -> None:
        """The owner makes an event repeat, or no more."""
        with self._lock:
            event = self.event(event_id)
            event.series = series
            self._touch(event)

    def change_occurrence(
        self, event_id: str, number: int, *, when: Occurrence | None = None, removed: bool = False, **members: object
    ) -> None:
        """The owner moves one occurrence of a series, takes it out, or changes it."""
        with self._lock:
            event = self.event(event_id)
            assert event.series is not None
            if when is not None:
                event.series.moved[number] = when
            if removed:
                event.series.removed.add(number)
            if members:
                event.series.shown[number] = {**event.series.shown.get(number, {}), **members}
            self._touch(event)

    def delete(self, event_id: str) -> None:
        """The owner deletes an event."""
        with self._lock:
            event = self.event(event_id)
            del self.events[event.id]
            self._log(event)

    def move(self, event_id: str, calendar: Calendar) -> None:
        """The owner moves an event: the immutable id stays, the other one changes."""
        with self._lock:
            event = self.event(event_id)
            self._log(event)
            event.calendar_id, event.moving_id = calendar.id, self._new_id("AAMkAD")
            self._touch(event)

    def copy(self, event_id: str) -> Event:
        """The owner copies an event: whatever is in it is copied too, but who it is."""
        with self._lock:
            event = self.event(event_id)
            copied = dataclasses.replace(
                event,
                id=self._new_id("AAkALgAA"),
                moving_id=self._new_id("AAMkAD"),
                properties=dict(event.properties),
                members=dict(event.members),
                transaction_id=None,
                created=datetime.now(UTC) + timedelta(seconds=1),
            )
            self.events[copied.id] = copied
            self._log(copied)
            return copied

    def forget_transactions(self) -> None:
        """Transaction ids are not kept for ever."""
        with self._lock:
            self._transactions.clear()

    # What Graph does.

    def event(self, event_id: str) -> Event:
        """By either of its ids."""
        with self._lock:
            for event in self.events.values():
                if event_id in (event.id, event.moving_id):
                    return event
        raise NotThere

    def create(self, calendar_id: str, content: Mapping[str, object]) -> Event:
        """An equal repetition under one transaction id answers the first event."""
        with self._lock:
            self._writable(calendar_id)
            transaction = content.get("transactionId")
            told = json.dumps([calendar_id, content], sort_keys=True)
            if isinstance(transaction, str) and transaction in self._transactions:
                event_id, before = self._transactions[transaction]
                if before != told or event_id not in self.events:
                    raise TransactionTaken
                return self.events[event_id]
            start, zone = _read_time(content["start"])
            end, _ = _read_time(content["end"])
            event = self.add(start, end, calendar=self.calendars[calendar_id], zone=zone)
            event.transaction_id = transaction if isinstance(transaction, str) else None
            self._write(event, content)
            if event.transaction_id:
                self._transactions[event.transaction_id] = event.id, told
            return event

    def patch(self, event_id: str, content: Mapping[str, object], if_match: str | None) -> Event:
        with self._lock:
            event = self._fenced(event_id, if_match)
            self._write(event, content)
            self._touch(event)
            return event

    def remove(self, event_id: str, if_match: str | None) -> None:
        with self._lock:
            event = self._fenced(event_id, if_match)
            if event.members.get("attendees"):
                self._mail(event)
            del self.events[event.id]
            self._log(event)

    def listed(self, calendar_id: str) -> list[Event]:
        """Single events and series, not expanded."""
        with self._lock:
            self.calendar(calendar_id)
            return [event for event in self.events.values() if event.calendar_id == calendar_id]

    def view(
        self, calendar_id: str, start: datetime, end: datetime, zone: str, *, immutable: bool
    ) -> list[dict[str, object]]:
        """Occurrences that touch the window, series expanded, in order."""
        with self._lock:
            found = [
                (occurrence_start, shown)
                for event in self.listed(calendar_id)
                for occurrence_start, shown in self._occurrences(event, start, end, zone, immutable)
            ]
        return [shown for _, shown in sorted(found, key=lambda pair: pair[0])]

    def changed_since(
        self, position: int | None, calendar_id: str, start: datetime, end: datetime, zone: str, *, immutable: bool
    ) -> tuple[list[dict[str, object]], int]:
        """What a feed over a window tells, and where it stands then. ``position`` None: everything.

        A changed series comes whole, its occurrences as stubs, those that were removed not at all. What lies outside
        the window, even if it is new, is told as removed.
        """
        with self._lock:
            self.calendar(calendar_id)
            changes = [c for c in self.changes[position or 0 :] if c.calendar_id == calendar_id]
            told: list[dict[str, object]] = []
            for change in dict.fromkeys(changes):
                event = self.events.get(change.id)
                there = event if event is not None and event.calendar_id == calendar_id else None
                found = self._fed(there, start, end, zone, immutable) if there else []
                if not found and position is not None:
                    found = [{"id": change.id if immutable else change.moving_id, "@removed": {"reason": "deleted"}}]
                told += found
            return told, len(self.changes)

    def _fed(self, event: Event, start: datetime, end: datetime, zone: str, immutable: bool) -> list[dict[str, object]]:
        occurrences = [shown for _, shown in self._occurrences(event, start, end, zone, immutable)]
        if event.series is None or not occurrences:
            return occurrences
        stubs = [
            {name: value for name, value in shown.items() if name in _STUB} if shown["type"] == "occurrence" else shown
            for shown in occurrences
        ]
        return [self.show(event, zone, immutable=immutable), *stubs]

    def show(self, event: Event, zone: str, *, immutable: bool, when: Occurrence | None = None) -> dict[str, object]:
        """An event as Graph tells it, all members, times in ``zone``."""
        event_id = event.id if immutable else event.moving_id
        shown: dict[str, object] = {
            "@odata.etag": event.etag,
            "id": event_id,
            "createdDateTime": event.created.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z",
            "type": "seriesMaster" if event.series else "singleInstance",
            "isAllDay": event.all_day,
            "start": _time((when or event.when).start, event, zone),
            "end": _time((when or event.when).end, event, zone),
            "webLink": f"https://outlook.office365.com/owa/?itemid={event_id}&exvsurl=1&path=/calendar/item",
            "transactionId": event.transaction_id,
            **event.members,
        }
        return {name: value for name, value in shown.items() if value is not None or name not in _NEVER_NULL}

    def _occurrences(
        self, event: Event, start: datetime, end: datetime, zone: str, immutable: bool
    ) -> Iterator[tuple[datetime, dict[str, object]]]:
        series = event.series
        for number in range(series.count if series else 1):
            if series is not None and number in series.removed:
                continue
            later = timedelta(days=number * series.every_days) if series else timedelta()
            when = Occurrence(event.when.start + later, event.when.end + later)
            moved = series.moved.get(number) if series else None
            when = moved or when
            since, until = _moment(when.start, event), _moment(when.end, event)
            if until <= start and not (since == until == start):
                continue
            if since >= end:
                continue
            shown = self.show(event, zone, immutable=immutable, when=when)
            if series is not None:
                own = series.shown.get(number, {})
                shown |= {
                    "id": f"{shown['id']}.{number}",
                    "type": "exception" if moved or own else "occurrence",
                    "seriesMasterId": shown["id"],
                    **own,
                }
            yield since, shown

    def _touch(self, event: Event) -> None:
        event.version += 1
        self._log(event)

    def _log(self, event: Event) -> None:
        self.changes.append(Change(event.calendar_id, event.id, event.moving_id))

    def _writable(self, calendar_id: str) -> None:
        if not self.calendar(calendar_id).can_edit:
            raise ReadOnly

    def _fenced(self, event_id: str, if_match: str | None) -> Event:
        event = self.event(event_id)
        self._writable(event.calendar_id)
        if if_match not in (None, "*", event.etag):
            raise OtherVersion
        return event

    def _write(self, event: Event, content: Mapping[str, object]) -> None:
        members = dict(content)
        members.pop("transactionId", None)
        properties = members.pop("singleValueExtendedProperties", ())
        assert isinstance(properties, Sequence)
        for entry in properties:
            event.properties[entry["id"]] = entry["value"]
        start, end = event.when.start, event.when.end
        if "start" in members:
            start, event.zone = _read_time(members.pop("start"))
        if "end" in members:
            end, _ = _read_time(members.pop("end"))
        event.when = Occurrence(start, end)
        event.all_day = members.pop("isAllDay", event.all_day) is True
        event.members.update(members)
        if event.members.get("attendees"):
            self._mail(event)

    def _mail(self, event: Event) -> None:
        attendees = event.members["attendees"]
        assert isinstance(attendees, Sequence)
        self.mails += [str(attendee["emailAddress"]["address"]) for attendee in attendees]

    def _new_id(self, prefix: str) -> str:
        # Ids of Exchange hold characters that have a meaning in URLs.
        return f"{prefix}{self._seed}/+{next(self._ids)}_=="


_STUB = frozenset({"@odata.etag", "id", "type", "seriesMasterId", "start", "end"})
"""What a feed tells of an occurrence: nothing of whether it blocks."""
_USUAL: dict[str, object] = {
    "subject": "",
    "body": {"contentType": "text", "content": ""},
    "isCancelled": False,
    "showAs": "busy",
    "responseStatus": {"response": "organizer", "time": "0001-01-01T00:00:00Z"},
    "attendees": [],
    "location": {"displayName": ""},
}
_NEVER_NULL = frozenset({"transactionId", *_USUAL})


def iana(zone: str) -> str:
    """The IANA name of a zone that Exchange knows. Raises ``ValueError`` for any other."""
    name = WINDOWS_ZONES.get(zone, zone)
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError(zone) from None
    return name


def _moment(local: datetime, event: Event) -> datetime:
    if event.all_day:
        return local.replace(tzinfo=UTC)
    return local.replace(tzinfo=ZoneInfo(iana(event.zone))).astimezone(UTC)


def _time(local: datetime, event: Event, zone: str) -> dict[str, str]:
    """``dateTimeTimeZone``: without ``Z``, seven decimals."""
    if not event.all_day:
        local = _moment(local, event).astimezone(ZoneInfo(iana(zone))).replace(tzinfo=None)
    return {"dateTime": f"{local:%Y-%m-%dT%H:%M:%S.%f}0", "timeZone": zone}


def _read_time(value: object) -> tuple[datetime, str]:
    assert isinstance(value, Mapping)
    zone = str(value["timeZone"])
    iana(zone)
    return datetime.fromisoformat(str(value["dateTime"])).replace(tzinfo=None), zone
