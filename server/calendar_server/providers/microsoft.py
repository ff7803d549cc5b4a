"""Microsoft Graph v1.0: calendars, busy times and events of personal and work accounts.

`calendarView` is the read that works for every account (https://learn.microsoft.com/graph/api/calendar-list-calendarview):
`getSchedule` is not for personal ones, and delta answers bare stubs for occurrences. Times are asked for in UTC; all-day
events stay midnight to midnight whatever is asked for, so their dates are placed in the mailbox's zone. An event of ours
carries its uid and revision in two extended properties, by which it is found again; it never has attendees, for Exchange
would send them mail.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote, urlencode

from calendar_server.core.intervals import touches
from calendar_server.core.model import (
    DAY,
    Booking,
    BusyEvent,
    Calendar,
    CalendarId,
    CalendarRead,
    EventId,
    Interval,
    UnreadableEvent,
)
from calendar_server.errors import CalendarGone, PreconditionFailed, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Account, Deadline, EventRef, Link, Refreshed, Remembered, RemoteEvent, Watch
from calendar_server.providers.egress import Egress
from calendar_server.providers.microsoft_events import (
    REVISION_PROPERTY,
    UID_PROPERTY,
    Json,
    busy_event,
    event_content,
    remote_event,
    shows_times_of,
    text_of,
    utc_text,
    zone_of,
)
from calendar_server.providers.microsoft_feed import Note, first_round, next_round, read_note
from calendar_server.providers.microsoft_graph import Doing, Graph, failure, json_of
from calendar_server.providers.microsoft_watch import renew, subscribe, unsubscribe
from calendar_server.providers.oauth import Tokens

MAILBOX_REQUESTS = 4
"""Requests at a time for one mailbox (https://learn.microsoft.com/graph/throttling-limits#outlook-service-limits)."""
PAGE = 1000

_VIEW_FIELDS = "id,start,end,isAllDay,isCancelled,showAs,responseStatus"
_EVENT_FIELDS = "id,webLink,createdDateTime"
_NO_MORE: Mapping[str, str | int] = {}
_COLOR = re.compile(r"#[0-9a-f]{6}")


class MicrosoftProvider:
    """A ``Provider`` for Microsoft accounts.

    ``mailbox_requests`` is this process's share of the four requests that one mailbox takes at a time.
    """

    makes_once = False

    def __init__(
        self, egress: Egress, *, graph_url: str, calendar_events: int, mailbox_requests: int = MAILBOX_REQUESTS
    ):
        self._graph = Graph(egress, graph_url, mailbox_requests=mailbox_requests, calendar_events=calendar_events)

    def account(self, tokens: Tokens, deadline: Deadline) -> Account:
        """Whose tokens these are. Identity is Graph's id with the tenant; ``mail`` may be null."""
        token = tokens.access_token
        # Who it is comes from the directory; the mailbox is asked only after that.
        me = self._graph.get(token, "me?$select=id,mail,userPrincipalName", deadline)
        user_id = text_of(me, "id")
        subject = f"{text_of(tokens.claims, 'tid')}:{user_id}"
        calendar = self._graph.get(token, "me/calendar?$select=id", deadline, mailbox=subject) if user_id else {}
        calendar_id = text_of(calendar, "id")
        if not calendar_id:
            raise ProviderUnavailable("Microsoft's answer about the account could not be read.")
        return Account(
            subject=subject,
            email=text_of(me, "mail") or text_of(me, "userPrincipalName"),
            calendar_id=CalendarId(calendar_id),
            busy_calendar_ids=(CalendarId(calendar_id),),
        )

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        """The account's calendars. Their zone is the mailbox's."""
        zone = zone_of(self._mailbox_zone(link, deadline))
        path = "me/calendars?" + urlencode({"$top": 100, "$select": "id,name,isDefaultCalendar,canEdit,hexColor"})
        return [
            Calendar(
                id=CalendarId(text_of(item, "id")),
                name=text_of(item, "name"),
                time_zone=zone.name if zone else "",
                primary=item.get("isDefaultCalendar") is True,
                writable=item.get("canEdit") is True,
                color=_color(item),
            )
            for item in self._graph.pages(link, path, deadline)
            if text_of(item, "id")
        ]

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        """Read what stands in the window, a day more on each side for the sake of all-day events."""
        return self._read(link, calendar_id, window, deadline)[0]

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        """Ask the feed, which is mostly one small request; read again only if something may have changed.

        Where all-day events are remembered it is two: the mailbox's zone, where they lie, has no feed. Half of the time
        is kept for the read.
        """
        note = read_note(before.memory, calendar_id) if before is not None and before.may_hold(window) else None
        sooner = deadline.sooner(deadline.remaining() / 2)
        if note is None:
            note = Note(calendar_id)
        elif note.link:
            seen = next_round(self._graph, link, note.link, sooner)
            note = note.looked(seen.link)
            if not seen.changed and self._zone_stays(link, note.zone, sooner):
                return Refreshed(None, note.written())
        elif note.rest > 0:
            note = note.rested()
        else:
            path = _view_path(calendar_id, "calendarView/delta", window)
            note = note.marked(first_round(self._graph, link, path, sooner).link)
        read, zone = self._read(link, calendar_id, window, deadline)
        return Refreshed(read, replace(note, zone=zone).written())

    def _read(
        self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline
    ) -> tuple[CalendarRead, str | None]:
        """What stands in the window, and the name of the mailbox's zone if there are all-day events."""
        path = _view_path(calendar_id, "calendarView", window, {"$top": PAGE, "$select": _VIEW_FIELDS})
        items = list(self._graph.pages(link, path, deadline))
        all_day = any(item.get("isAllDay") is True for item in items)
        zone_name = self._mailbox_zone(link, deadline) if all_day else None
        zone = None if zone_name is None else zone_of(zone_name)
        # A set: an event that is moved while pages are read may stand on two of them.
        events: set[BusyEvent] = set()
        unreadable: list[UnreadableEvent] = []
        for item in items:
            read = busy_event(item, zone)
            if isinstance(read, UnreadableEvent):
                if read.interval is None or touches(read.interval, window):
                    unreadable.append(read)
            elif read is not None and touches(Interval(read.start, read.end), window):
                events.add(read)
        ordered = sorted(events, key=lambda event: (event.start, event.end, event.event_id))
        return CalendarRead(tuple(ordered), tuple(unreadable)), zone_name

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        """Empty: Exchange makes the id."""
        return EventId("")

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        """Look by the id when it is known, and by the uid in the extended property otherwise or when that fails."""
        if ref.event_id:
            answer = self._graph.exchange(link, "GET", f"{_event_path(ref.event_id)}?{_expanded()}", deadline)
            if answer.status == 200:
                return remote_event(json_of(answer))
            if answer.status not in (400, 404, 410):
                raise failure(answer, Doing.FIND)
        condition = f"singleValueExtendedProperties/Any(ep: ep/id eq '{UID_PROPERTY}' and ep/value eq '{ref.uid}')"
        query = f"{_expanded()}&$top=10&$filter={quote(condition, safe='')}"
        path = f"me/calendars/{quote(ref.calendar_id, safe='')}/events?{query}"
        # Whoever copies an event in Outlook copies its properties: the oldest is ours.
        found = sorted(self._graph.pages(link, path, deadline, Doing.FIND), key=_age)
        return remote_event(found[0]) if found else None

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """Create with our uid as ``transactionId`` (an equal repeated POST makes no second event), or patch in place."""
        content = event_content(ref, booking)
        if known is None:
            path = f"me/calendars/{quote(ref.calendar_id, safe='')}/events"
            answer = self._graph.exchange(link, "POST", path, deadline, {**content, "transactionId": ref.uid})
            elsewhere = answer.status in (409, 412)
        else:
            answer = self._graph.exchange(
                link, "PATCH", _event_path(known.event_id), deadline, content, etag=known.etag
            )
            elsewhere = answer.status in (404, 409, 410, 412)
        if elsewhere:
            raise PreconditionFailed("The event changed meanwhile.")
        if answer.status not in (200, 201):
            raise failure(answer, Doing.WRITE)
        event = json_of(answer)
        written = remote_event(event)
        if not shows_times_of(event, booking):
            # The answer to an earlier POST under this transactionId: the event shows an earlier revision.
            raise PreconditionFailed("The event stands there already, with other times.")
        return RemoteEvent(written.event_id, written.etag, booking.revision, 0, written.web_link)

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        """Take the event out. Without attendees nobody is told."""
        answer = self._graph.exchange(link, "DELETE", _event_path(known.event_id), deadline, etag=known.etag)
        if answer.status in (409, 412):
            raise PreconditionFailed("The event changed meanwhile.")
        if answer.status not in (200, 204, 404, 410):
            raise failure(answer, Doing.WRITE)

    def watch(
        self, link: Link, calendar_id: CalendarId, *, address: str, id: str, secret: str, deadline: Deadline
    ) -> Watch:
        """Subscribe. Graph gives the subscription an id of its own."""
        return subscribe(self._graph, link, calendar_id, address=address, secret=secret, deadline=deadline)

    def extend(self, link: Link, watch: Watch, deadline: Deadline) -> Watch | None:
        """Renew the subscription in place."""
        return renew(self._graph, link, watch, deadline)

    def unwatch(self, link: Link, watch: Watch, deadline: Deadline) -> None:
        """End the subscription."""
        unsubscribe(self._graph, link, watch, deadline)

    def _zone_stays(self, link: Link, zone: str | None, deadline: Deadline) -> bool:
        """Whether the mailbox's zone is still this one. None: nothing depends on it."""
        try:
            return zone is None or self._mailbox_zone(link, deadline) == zone
        except ProviderThrottled:
            raise
        except (ProviderUnavailable, CalendarGone):
            return False

    def _mailbox_zone(self, link: Link, deadline: Deadline) -> str:
        """The mailbox's own name of its zone: Windows', IANA's, or one that nobody else knows
        (`tzone://Microsoft/Custom`)."""
        answer = self._graph.exchange(link, "GET", "me/mailboxSettings?$select=timeZone", deadline)
        if answer.status != 200:
            raise failure(answer, Doing.READ)
        told = json_of(answer)
        zone = told.get("timeZone")
        if "timeZone" not in told or not isinstance(zone, str | None):
            raise ProviderUnavailable("Microsoft did not tell the mailbox's time zone.")
        return zone or ""


def _view_path(calendar_id: CalendarId, view: str, window: Interval, more: Mapping[str, str | int] = _NO_MORE) -> str:
    query = {
        "startDateTime": utc_text(window.start - DAY) + "Z",
        "endDateTime": utc_text(window.end + DAY) + "Z",
        **more,
    }
    return f"me/calendars/{quote(calendar_id, safe='')}/{view}?{urlencode(query)}"


def _event_path(event_id: EventId) -> str:
    return f"me/events/{quote(event_id, safe='')}"


def _expanded() -> str:
    condition = f"id eq '{UID_PROPERTY}' or id eq '{REVISION_PROPERTY}'"
    expansion = quote(f"singleValueExtendedProperties($filter={condition})", safe="")
    return f"$select={_EVENT_FIELDS}&$expand={expansion}"


def _age(event: Json) -> tuple[str, str]:
    return text_of(event, "createdDateTime"), text_of(event, "id")


def _color(item: Json) -> str:
    color = text_of(item, "hexColor").lower()
    return color if _COLOR.fullmatch(color) else ""
