"""Google's calendars with a memory: events, series, shares, tombstones, etags. No HTTP here.

An event is kept as Google's own resource. Exceptions of a series are events of their own, with `recurringEventId` and
`originalStartTime`, as they are at Google. What a reader is not told is taken out when it is shown. Every change is
remembered, so that a sync token can tell what has changed since it was given.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from dateutil.rrule import rrulestr

Json = dict[str, object]

FEED_END = datetime(2040, 1, 1, tzinfo=UTC)
"""How far a feed of changes tells the occurrences of a series."""
ROLES = ("none", "freeBusyReader", "reader", "writerWithoutPrivateAccess", "writer", "owner")
"""From the least to the most."""
_KEPT_BY_PUT = ("id", "created", "creator", "organizer", "iCalUID", "sequence", "eventType", "recurringEventId")


class Refused(Exception):
    """Google's refusal: the status, its reason, and what it says."""

    def __init__(self, status: int, reason: str, message: str):
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


def not_found() -> Refused:
    return Refused(404, "notFound", "Not Found")


@dataclass
class ListEntry:
    """A calendar in somebody's list."""

    calendar: GoogleCalendar
    primary: bool = False
    hidden: bool = False
    override: str = ""
    deleted: bool = False


@dataclass
class GoogleCalendar:
    """One calendar, and what its people do with it in Google's own pages."""

    id: str
    summary: str
    time_zone: str
    owner: str
    color: str = "#0088aa"
    roles: dict[str, str] = field(default_factory=dict)
    """Who may do what, by e-mail."""
    events: dict[str, Json] = field(default_factory=dict)
    mails: list[str] = field(default_factory=list)
    """Addresses that Google has sent something to."""
    revives: bool = True
    """Whether a tombstone can be updated back to life."""
    changes: list[str] = field(default_factory=list)
    """The ids of events that were changed, oldest first. A sync token is a number of them."""
    dates_in_utc: bool = False
    """Whether dates are compared with a window as if they lay in UTC. Google does not say in which zone it does so."""
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _versions: Iterator[int] = field(default_factory=lambda: itertools.count(3_400_000_000_000_001))
    _spent: set[str] = field(default_factory=set)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    def role_of(self, email: str) -> str:
        return "owner" if email == self.owner else self.roles.get(email, "none")

    # What its owner does.

    def add(self, start: date, end: date, /, **members: object) -> str:
        """A new event: aware datetimes, or dates for an all-day one. ``members`` are Google's. Answers its id."""
        with self._lock:
            event_id = f"own{next(self._ids):05}"
            content: Json = {"start": self._time(start), "end": self._time(end), "summary": "Something", **members}
            self._keep(event_id, content)
            return event_id

    def change(self, event_id: str, **members: object) -> None:
        """The owner changes an event; ``members`` are Google's, None takes one out."""
        with self._lock:
            event = self.events[event_id]
            for name, value in members.items():
                if value is None:
                    event.pop(name, None)
                else:
                    event[name] = value
            self._touch(event)

    def delete(self, event_id: str) -> None:
        """The owner deletes an event. Its id stays taken."""
        with self._lock:
            self.events[event_id]["status"] = "cancelled"
            self._touch(self.events[event_id])

    def forget(self, event_id: str) -> None:
        """A tombstone is forgotten: nobody can look at it any more, and the id is taken all the same."""
        with self._lock:
            del self.events[event_id]
            self._spent.add(event_id)

    def make_exception(self, series_id: str, original: date, **members: object) -> str:
        """One occurrence is changed, or taken out by ``status="cancelled"``; ``start`` and ``end`` move it."""
        with self._lock:
            series = self.events[series_id]
            length = self._at(series, "end") - self._at(series, "start")
            utc = original.astimezone(UTC) if isinstance(original, datetime) else original
            event_id = f"{series_id}_{utc:%Y%m%dT%H%M%SZ}" if isinstance(utc, datetime) else f"{series_id}_{utc:%Y%m%d}"
            for name in ("start", "end"):
                if isinstance(members.get(name), date):
                    members[name] = self._time(members[name])  # type: ignore[arg-type]
            content = {
                **{name: value for name, value in copy.deepcopy(series).items() if name != "recurrence"},
                "start": self._time(original),
                "end": self._time(original + length),
                "originalStartTime": self._time(original),
                "recurringEventId": series_id,
                **members,
            }
            self._keep(event_id, content)
            return event_id

    # What the API does.

    def get(self, event_id: str) -> Json:
        """Also a tombstone."""
        with self._lock:
            event = self.events.get(event_id)
            if event is None:
                raise not_found()
            return self._shown(event)

    def insert(self, content: Mapping[str, object], send_updates: str) -> Json:
        with self._lock:
            event_id = str(content.get("id") or f"made{next(self._ids):05}")
            if event_id in self.events or event_id in self._spent:
                raise Refused(409, "duplicate", "The requested identifier already exists.")
            self._check(content)
            event = self._keep(event_id, content)
            self._mail(event, send_updates)
            return self._shown(event)

    def patch(self, event_id: str, content: Mapping[str, object], if_match: str | None, send_updates: str) -> Json:
        """Objects are joined, arrays replaced, null takes out."""
        with self._lock:
            event = self._fenced(event_id, if_match)
            return self._write(event, _joined(event, content), send_updates)

    def update(self, event_id: str, content: Mapping[str, object], if_match: str | None, send_updates: str) -> Json:
        """The whole is replaced, but what cannot be changed."""
        with self._lock:
            event = self._fenced(event_id, if_match)
            kept = {name: event[name] for name in _KEPT_BY_PUT if name in event}
            return self._write(event, {**dict(content), **kept}, send_updates)

    def remove(self, event_id: str, if_match: str | None, send_updates: str) -> None:
        with self._lock:
            event = self._fenced(event_id, if_match)
            if event["status"] == "cancelled":
                raise Refused(410, "deleted", "Resource has been deleted")
            event["status"] = "cancelled"
            self._touch(event)
            self._mail(event, send_updates)

    def window(self, start: datetime, end: datetime, *, single_events: bool) -> list[Json]:
        """What ends after ``start`` and starts before ``end``, in no order that could be relied on."""
        with self._lock:
            found = []
            for event in list(self.events.values()):
                if event["status"] == "cancelled":
                    continue
                if "recurrence" in event and single_events:
                    found += [shown for shown in self._occurrences(event, end) if self._touches(shown, start, end)]
                elif self._touches(event, start, end):
                    found.append(self._shown(event))
            return found

    def changed_since(self, position: int, *, single_events: bool) -> list[Json]:
        """What a sync token tells: every changed event as it is now, whenever it takes place; deleted ones as such.

        A series comes with all its occurrences, or without it if single events are asked for.
        """
        with self._lock:
            found: dict[str, Json] = {}
            for event_id in dict.fromkeys(self.changes[position:]):
                event = self.events.get(event_id)
                if event is None:
                    continue
                if "recurrence" in event and single_events:
                    for shown in self._occurrences(event, FEED_END):
                        told = _tombstone(shown) if event["status"] == "cancelled" else shown
                        found[str(shown["id"])] = told
                else:
                    found[event_id] = _tombstone(event) if event["status"] == "cancelled" else self._shown(event)
            return list(found.values())

    def busy(self, start: datetime, end: datetime) -> list[tuple[datetime, datetime]]:
        """When it is busy, clipped and joined."""
        spans: list[tuple[datetime, datetime]] = []
        occupied = [e for e in self.window(start, end, single_events=True) if _occupies(e)]
        for since, until in sorted((self._moment(e, "start"), self._moment(e, "end")) for e in occupied):
            since, until = max(since, start), min(until, end)
            if spans and since <= spans[-1][1]:
                spans[-1] = spans[-1][0], max(spans[-1][1], until)
            elif since < until:
                spans.append((since, until))
        return spans

    def _write(self, event: Json, changed: Json, send_updates: str) -> Json:
        if event["status"] == "cancelled" and not (self.revives and changed.get("status") == "confirmed"):
            raise Refused(403, "forbidden", "Forbidden")
        self._check(changed)
        known = {"status": "confirmed", "reminders": {"useDefault": True}}
        event_id = event["id"]
        event.clear()
        event.update({**known, **changed, "id": event_id})
        sequence = event.get("sequence", 0)
        assert isinstance(sequence, int)
        event["sequence"] = sequence + 1
        self._touch(event)
        self._mail(event, send_updates)
        return self._shown(event)

    def _fenced(self, event_id: str, if_match: str | None) -> Json:
        event = self.events.get(event_id)
        if event is None:
            raise not_found()
        if if_match not in (None, "*", event["etag"]):
            raise Refused(412, "conditionNotMet", "Precondition Failed")
        return event

    def _keep(self, event_id: str, content: Mapping[str, object]) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        event: Json = {
            "kind": "calendar#event",
            "status": "confirmed",
            "htmlLink": f"https://www.google.com/calendar/event?eid={event_id}",
            "created": now,
            "creator": {"email": self.owner, "self": True},
            "organizer": {"email": self.id, "self": True},
            "iCalUID": f"{event_id}@google.com",
            "sequence": 0,
            "reminders": {"useDefault": True},
            "eventType": "default",
            **copy.deepcopy(dict(content)),
            "id": event_id,
        }
        # Google leaves out what is the default, and what is empty.
        event = {name: value for name, value in event.items() if value not in ("", [], None)}
        if event.get("transparency") == "opaque":
            del event["transparency"]
        self.events[event_id] = event
        self._touch(event)
        return event

    def _touch(self, event: Json) -> None:
        self.changes.append(str(event["id"]))
        event["etag"] = f'"{next(self._versions)}"'
        event["updated"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    def _mail(self, event: Json, send_updates: str) -> None:
        attendees = event.get("attendees", [])
        assert isinstance(attendees, list)
        if send_updates in ("all", "externalOnly"):
            self.mails += [guest["email"] for guest in attendees if not guest.get("self")]

    def _check(self, content: Mapping[str, object]) -> None:
        try:
            moments = [_moment_of(content[name], self.zone) for name in ("start", "end")]
        except (ValueError, KeyError, OSError) as error:
            raise Refused(400, "invalid", f"Invalid value: {error}") from error
        if moments[1] < moments[0]:
            raise Refused(400, "timeRangeEmpty", "The specified time range is empty.")

    def _shown(self, event: Mapping[str, object]) -> Json:
        """Times are told in the calendar's own zone."""
        shown = copy.deepcopy(dict(event))
        for name in ("start", "end", "originalStartTime"):
            time = shown.get(name)
            if isinstance(time, dict) and "dateTime" in time:
                try:
                    moment = _moment_of(time, self.zone).astimezone(self.zone)
                except (ValueError, KeyError, OSError):
                    continue
                time["dateTime"] = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
                time.setdefault("timeZone", self.time_zone)
        return shown

    def _occurrences(self, series: Json, until: datetime) -> Iterator[Json]:
        """Occurrences that nobody has changed: the others are events of their own."""
        start, length = self._at(series, "start"), self._at(series, "end") - self._at(series, "start")
        all_day = not isinstance(start, datetime)
        begin = datetime(start.year, start.month, start.day) if not isinstance(start, datetime) else start
        lines, last = series["recurrence"], until.replace(tzinfo=None) + timedelta(days=1) if all_day else until
        assert isinstance(lines, list)
        changed = {str(e.get("id")) for e in self.events.values() if e.get("recurringEventId") == series["id"]}
        for number, moment in enumerate(rrulestr("\n".join(lines), dtstart=begin, forceset=True, tzids=ZoneInfo)):
            if moment > last or number > 5000:
                return
            original: date = moment.date() if all_day else moment
            tail = f"{original:%Y%m%d}" if all_day else f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"
            event_id = f"{series['id']}_{tail}"
            if event_id not in changed:
                yield self._shown(
                    {
                        **{name: value for name, value in series.items() if name != "recurrence"},
                        "id": event_id,
                        "recurringEventId": series["id"],
                        "start": self._time(original),
                        "end": self._time(original + length),
                        "originalStartTime": self._time(original),
                    }
                )

    def _touches(self, event: Mapping[str, object], start: datetime, end: datetime) -> bool:
        zone = ZoneInfo("UTC") if self.dates_in_utc else self.zone
        try:
            return _moment_of(event["end"], zone) > start and _moment_of(event["start"], zone) < end
        except (ValueError, KeyError, OSError):
            # What cannot be read here is told all the same: that is what the fake is asked to keep it for.
            return True

    def _moment(self, event: Mapping[str, object], name: str) -> datetime:
        return _moment_of(event[name], self.zone)

    def _at(self, event: Mapping[str, object], name: str) -> date:
        """A date, or a time on the clocks of the event's own zone, which is where a series repeats."""
        time = event[name]
        assert isinstance(time, Mapping)
        if "date" in time:
            return date.fromisoformat(str(time["date"]))
        return _moment_of(time, self.zone).astimezone(ZoneInfo(str(time.get("timeZone", self.time_zone))))

    def _time(self, at: date) -> Json:
        if not isinstance(at, datetime):
            return {"date": at.isoformat()}
        zone = at.tzinfo.key if isinstance(at.tzinfo, ZoneInfo) else self.time_zone
        return {"dateTime": at.isoformat(timespec="seconds"), "timeZone": zone}


class GoogleCalendars:
    """All calendars, and everybody's list of them. ``primary`` and the e-mail name the same calendar."""

    def __init__(self) -> None:
        self.calendars: dict[str, GoogleCalendar] = {}
        self.lists: dict[str, list[ListEntry]] = {}
        self._numbers = itertools.count(1)

    def add_person(self, email: str, time_zone: str) -> GoogleCalendar:
        """Somebody new, with a default calendar."""
        calendar = GoogleCalendar(email, email, time_zone, email)
        self.calendars[email] = calendar
        self.lists[email] = [ListEntry(calendar, primary=True)]
        return calendar

    def add_calendar(
        self, owner: str, summary: str, *, time_zone: str = "UTC", roles: Mapping[str, str] | None = None
    ) -> GoogleCalendar:
        """A further calendar of ``owner``, in their list and in that of whom it is shared with."""
        calendar_id = f"c_{next(self._numbers):08x}@group.calendar.google.com"
        calendar = GoogleCalendar(calendar_id, summary, time_zone, owner, roles=dict(roles or {}))
        self.calendars[calendar_id] = calendar
        for email in (owner, *(roles or {})):
            if email in self.lists:
                self.lists[email].append(ListEntry(calendar))
        return calendar

    def drop(self, calendar: GoogleCalendar) -> None:
        """A calendar is deleted."""
        del self.calendars[calendar.id]
        for entries in self.lists.values():
            entries[:] = [entry for entry in entries if entry.calendar is not calendar]

    def calendar(self, calendar_id: str, email: str) -> GoogleCalendar:
        """The calendar as its person finds it. One that is not shared with them is not there."""
        found = self.calendars.get(email if calendar_id == "primary" else calendar_id)
        if found is None or found.role_of(email) == "none":
            raise not_found()
        return found

    def entry(self, calendar_id: str, email: str) -> ListEntry:
        wanted = email if calendar_id == "primary" else calendar_id
        for entry in self.lists[email]:
            if entry.calendar.id == wanted:
                return entry
        raise not_found()

    def show_entry(self, entry: ListEntry, email: str) -> Json:
        calendar = entry.calendar
        shown: Json = {
            "kind": "calendar#calendarListEntry",
            "etag": '"1700000000000000"',
            "id": calendar.id,
            "summary": calendar.summary,
            "timeZone": calendar.time_zone,
            "colorId": "15",
            "backgroundColor": calendar.color,
            "foregroundColor": "#000000",
            "selected": True,
            "accessRole": calendar.role_of(email),
            "summaryOverride": entry.override,
        }
        for name in ("primary", "hidden", "deleted"):
            if getattr(entry, name):
                shown[name] = True
        return {name: value for name, value in shown.items() if value != ""}


def _tombstone(event: Mapping[str, object]) -> Json:
    """What is told of a deleted event. Of an occurrence, also which one it was."""
    kept = ("kind", "etag", "id", "status", "recurringEventId", "originalStartTime")
    return {**{name: copy.deepcopy(event[name]) for name in kept if name in event}, "status": "cancelled"}


def at_least(role: str, needed: str) -> bool:
    return ROLES.index(role) >= ROLES.index(needed)


def _occupies(event: Mapping[str, object]) -> bool:
    attendees = event.get("attendees", [])
    assert isinstance(attendees, list)
    declined = any(guest.get("self") and guest.get("responseStatus") == "declined" for guest in attendees)
    free = event.get("transparency") == "transparent" or event.get("eventType") in ("workingLocation", "birthday")
    return not declined and not free


def _joined(before: Mapping[str, object], change: Mapping[str, object]) -> Json:
    joined = copy.deepcopy(dict(before))
    for name, value in change.items():
        under = joined.get(name)
        if value is None or value in ("", []):
            joined.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(under, Mapping):
            joined[name] = _joined(under, value)
        else:
            joined[name] = copy.deepcopy(value)
    return joined


def _moment_of(time: object, calendar_zone: ZoneInfo) -> datetime:
    """An `EventDateTime` as an instant. Raises ``ValueError`` when it is none."""
    if not isinstance(time, Mapping) or ("date" in time) == ("dateTime" in time):
        raise ValueError("a time is a date, or a dateTime")
    if "date" in time:
        day = date.fromisoformat(str(time["date"]))
        return datetime(day.year, day.month, day.day, tzinfo=calendar_zone).astimezone(UTC)
    moment = datetime.fromisoformat(str(time["dateTime"]))
    if "timeZone" in time:
        zone = ZoneInfo(str(time["timeZone"]))
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    if moment.tzinfo is None:
        raise ValueError("a dateTime has an offset or a zone")
    return moment.astimezone(UTC)
