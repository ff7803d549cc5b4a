"""Microsoft Graph v1.0: calendars, busy times and events of personal and work accounts.

`calendarView` is the read that works for every account (https://learn.microsoft.com/graph/api/calendar-list-calendarview):
`getSchedule` is not for personal ones, and delta answers bare stubs for occurrences. Times are asked for in UTC; all-day
events stay midnight to midnight whatever is asked for, so their dates are placed in the mailbox's zone. An event of ours
carries its uid and revision in two extended properties, by which it is found again; it never has attendees, for Exchange
would send them mail.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote, urlencode, urlsplit

from calendar_server.core.intervals import from_datetime, to_datetime, touches
from calendar_server.core.model import (
    DAY,
    BlockReason,
    Booking,
    BusyEvent,
    Calendar,
    CalendarId,
    CalendarRead,
    EventId,
    Interval,
    UnreadableEvent,
)
from calendar_server.core.zones import iana_name, local_instant
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    PreconditionFailed,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Account, Deadline, EventRef, Link, RemoteEvent
from calendar_server.providers.egress import Answer, Egress
from calendar_server.providers.oauth import Tokens
from calendar_server.providers.wording import event_text, event_title

MAILBOX_REQUESTS = 4
"""Requests at a time for one mailbox (https://learn.microsoft.com/graph/throttling-limits#outlook-service-limits)."""
PAGE = 1000
PAGES_MOST = 200

_PROPERTY = "String {6b1d4d6e-3f0a-4c1e-9d4b-5f0c8b6f6a51} Name "
UID_PROPERTY = _PROPERTY + "CalendarsUid"
REVISION_PROPERTY = _PROPERTY + "CalendarsRevision"

_PREFER = 'outlook.timezone="UTC", IdType="ImmutableId"'
_VIEW_FIELDS = "id,start,end,isAllDay,isCancelled,showAs,responseStatus"
_EVENT_FIELDS = "id,webLink,createdDateTime"

_SHOWN = {
    "free": BlockReason.FREE,
    "tentative": BlockReason.TENTATIVE,
    "busy": BlockReason.BUSY,
    "oof": BlockReason.OUT_OF_OFFICE,
    "workingElsewhere": BlockReason.WORKING_ELSEWHERE,
}
"""What ``showAs`` means. Unknown or absent blocks."""

Json = Mapping[str, object]


class MicrosoftProvider:
    """A ``Provider`` for Microsoft accounts."""

    def __init__(self, egress: Egress, *, graph_url: str, calendar_events: int):
        self._egress = egress
        self._root = graph_url.rstrip("/") + "/"
        self._calendar_events = calendar_events
        self._mailboxes: dict[str, threading.BoundedSemaphore] = {}
        self._lock = threading.Lock()

    def account(self, tokens: Tokens, deadline: Deadline) -> Account:
        """Whose tokens these are. Identity is Graph's id with the tenant; ``mail`` may be null."""
        graph = _Graph(self._egress, self._root, tokens.access_token, deadline)
        me = graph.get("me?$select=id,mail,userPrincipalName")
        calendar = graph.get("me/calendar?$select=id")
        user_id, calendar_id = _text(me, "id"), _text(calendar, "id")
        if not user_id or not calendar_id:
            raise ProviderUnavailable("Microsoft's answer about the account could not be read.")
        tenant = tokens.claims.get("tid")
        return Account(
            subject=f"{tenant if isinstance(tenant, str) else ''}:{user_id}",
            email=_text(me, "mail") or _text(me, "userPrincipalName"),
            calendar_id=CalendarId(calendar_id),
            busy_calendar_ids=(CalendarId(calendar_id),),
        )

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        """The account's calendars. Their zone is the mailbox's."""
        zone = self._mailbox_zone(link, deadline)
        path = "me/calendars?" + urlencode({"$top": 100, "$select": "id,name,isDefaultCalendar,canEdit,hexColor"})
        return [
            Calendar(
                id=CalendarId(_text(item, "id")),
                name=_text(item, "name"),
                time_zone=zone,
                primary=item.get("isDefaultCalendar") is True,
                writable=item.get("canEdit") is True,
                color=_text(item, "hexColor").lower(),
            )
            for item in self._pages(link, path, deadline)
            if _text(item, "id")
        ]

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        """Read what stands in the window, a day more on each side for the sake of all-day events."""
        path = f"me/calendars/{quote(calendar_id, safe='')}/calendarView?" + urlencode(
            {
                "startDateTime": _utc(window.start - DAY),
                "endDateTime": _utc(window.end + DAY),
                "$top": PAGE,
                "$select": _VIEW_FIELDS,
            }
        )
        items = list(self._pages(link, path, deadline))
        zone = self._mailbox_zone(link, deadline) if any(item.get("isAllDay") is True for item in items) else ""
        events: list[BusyEvent] = []
        unreadable: list[UnreadableEvent] = []
        for item in items:
            read = _event(item, zone)
            if isinstance(read, UnreadableEvent):
                unreadable.append(read)
            elif read is not None and touches(Interval(read.start, read.end), window):
                events.append(read)
        return CalendarRead(tuple(sorted(events, key=lambda event: (event.start, event.end))), tuple(unreadable))

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        """Empty: Exchange makes the id."""
        return EventId("")

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        """Look by the id when it is known, and by the uid in the extended property otherwise or when that fails."""
        if ref.event_id:
            path = f"me/events/{quote(ref.event_id, safe='')}?{_expanded()}"
            answer = self._exchange(link, "GET", path, deadline)
            if answer.status == 200:
                event = _json(answer)
                return _remote(event)
            if answer.status not in (404, 410):
                raise _failure(answer, writing=True)
        calendar = f"me/calendars/{quote(ref.calendar_id, safe='')}/events"
        condition = f"singleValueExtendedProperties/Any(ep: ep/id eq '{UID_PROPERTY}' and ep/value eq '{ref.uid}')"
        query = f"{_expanded()}&$top=10&$filter={quote(condition, safe='')}"
        found = sorted(self._pages(link, f"{calendar}?{query}", deadline, writing=True), key=_age)
        return _remote(found[0]) if found else None

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """Create with our uid as ``transactionId`` (an equal repeated POST makes no second event), or patch in place."""
        content = _content(ref, booking)
        if known is None:
            path = f"me/calendars/{quote(ref.calendar_id, safe='')}/events"
            answer = self._exchange(link, "POST", path, deadline, {**content, "transactionId": ref.uid})
            if answer.status == 409:
                raise PreconditionFailed("The event stands there already.")
        else:
            path = f"me/events/{quote(known.event_id, safe='')}"
            answer = self._exchange(link, "PATCH", path, deadline, content, etag=known.etag)
            if answer.status in (404, 410, 409):
                raise PreconditionFailed("The event changed meanwhile.")
        if answer.status == 412:
            raise PreconditionFailed("The event changed meanwhile.")
        if answer.status not in (200, 201):
            raise _failure(answer, writing=True)
        written = _json(answer)
        event_id, etag = _text(written, "id"), _text(written, "@odata.etag")
        if not event_id:
            raise ProviderUnavailable("Microsoft's answer to a write could not be read.")
        return RemoteEvent(EventId(event_id), etag, booking.revision, 0, _text(written, "webLink"))

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        """Take the event out. Without attendees nobody is told."""
        answer = self._exchange(
            link, "DELETE", f"me/events/{quote(known.event_id, safe='')}", deadline, etag=known.etag
        )
        if answer.status in (412, 409):
            raise PreconditionFailed("The event changed meanwhile.")
        if answer.status not in (200, 204, 404, 410):
            raise _failure(answer, writing=True)

    def _mailbox_zone(self, link: Link, deadline: Deadline) -> str:
        """IANA name of the mailbox's zone; empty when it is one that nobody else knows."""
        answer = self._exchange(link, "GET", "me/mailboxSettings?$select=timeZone", deadline)
        if answer.status != 200:
            raise _failure(answer)
        return iana_name(_text(_json(answer), "timeZone")) or ""

    def _pages(self, link: Link, path: str, deadline: Deadline, *, writing: bool = False) -> Iterator[Json]:
        """Every item of a listing, page by page. A page that fails fails the whole."""
        seen = 0
        for _ in range(PAGES_MOST):
            answer = self._exchange(link, "GET", path, deadline)
            if answer.status != 200:
                raise _failure(answer, writing=writing)
            page = _json(answer)
            items = page.get("value")
            if not isinstance(items, Sequence) or isinstance(items, str):
                raise ProviderUnavailable("Microsoft's answer could not be read.")
            for item in items:
                if not isinstance(item, Mapping):
                    raise ProviderUnavailable("Microsoft's answer could not be read.")
                seen += 1
                if seen > self._calendar_events:
                    raise ProviderUnavailable("The calendar holds more events than this service reads.")
                yield item
            following = page.get("@odata.nextLink")
            if following is None:
                return
            # Followed as it is given, but the token goes to the configured host alone.
            if not isinstance(following, str) or _origin(following) != _origin(self._root):
                raise ProviderUnavailable("Microsoft's next page lies at a foreign address.")
            path = following
        raise ProviderUnavailable("Microsoft's answer has no end.")

    def _exchange(
        self,
        link: Link,
        method: str,
        path: str,
        deadline: Deadline,
        content: Json | None = None,
        *,
        etag: str = "",
    ) -> Answer:
        """One exchange, with a renewed token where the first was refused; at most four at a time for a mailbox."""
        with self._lock:
            mailbox = self._mailboxes.setdefault(
                link.connection.subject, threading.BoundedSemaphore(MAILBOX_REQUESTS)
            )
        if not mailbox.acquire(timeout=deadline.remaining()):
            raise ProviderUnavailable("The mailbox is busy with other requests of ours. Try again.")
        try:
            secret = link.secret
            for attempt in (1, 2):
                link.check()
                answer = _Graph(self._egress, self._root, secret["access_token"], deadline).exchange(
                    method, path, content, etag
                )
                if answer.status != 401:
                    return answer
                if attempt == 1:
                    secret = link.renew(secret)
            raise ProviderUnavailable("Microsoft refuses the access that it has just renewed. Try again later.")
        finally:
            mailbox.release()


class _Graph:
    """Requests with one access token."""

    def __init__(self, egress: Egress, root: str, access_token: str, deadline: Deadline):
        self._egress = egress
        self._root = root
        self._access_token = access_token
        self._deadline = deadline

    def get(self, path: str) -> Json:
        answer = self.exchange("GET", path)
        if answer.status != 200:
            raise _failure(answer)
        return _json(answer)

    def exchange(self, method: str, path: str, content: Json | None = None, etag: str = "") -> Answer:
        headers = {"Authorization": f"Bearer {self._access_token}", "Accept": "application/json", "Prefer": _PREFER}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if etag:
            headers["If-Match"] = etag
        return self._egress.exchange(
            method,
            path if path.startswith(self._root) or "://" in path else self._root + path,
            headers=headers,
            content=b"" if content is None else json.dumps(content).encode(),
            deadline=self._deadline,
            trusted=True,
        )


def _event(item: Json, zone: str) -> BusyEvent | UnreadableEvent | None:
    """One occurrence of calendarView, judged; unreadable where its times are not understood and it may block."""
    event_id = EventId(_text(item, "id"))
    reason = _reason(item)
    try:
        if item.get("isAllDay") is True:
            start, end = _date(item, "start", zone), _date(item, "end", zone)
        else:
            start, end = _moment(item, "start"), _moment(item, "end")
        if end < start:
            raise ValueError("ends before it starts")
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        return UnreadableEvent(event_id, str(error)) if reason.blocks else None
    if start == end:
        reason = BlockReason.ZERO_LENGTH if reason.blocks else reason
    return BusyEvent(start, end, reason, event_id, tentative=item.get("showAs") == "tentative")


def _reason(item: Json) -> BlockReason:
    if item.get("isCancelled") is True:
        return BlockReason.CANCELLED
    response = item.get("responseStatus")
    if isinstance(response, Mapping) and response.get("response") == "declined":
        return BlockReason.DECLINED
    return _SHOWN.get(str(item.get("showAs")), BlockReason.BUSY)


def _moment(item: Json, name: str) -> int:
    """A ``dateTimeTimeZone`` as an instant; in UTC as asked for, or in a zone that it names."""
    value = item[name]
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is missing")
    local = _local(str(value["dateTime"]))
    zone = str(value.get("timeZone") or "")
    if local.tzinfo is not None:
        return from_datetime(local)
    if zone in ("UTC", "Etc/UTC", "Etc/GMT"):
        return from_datetime(local.replace(tzinfo=datetime.UTC))
    known = iana_name(zone)
    if known is None:
        raise ValueError(f"{name} is in an unknown zone")
    return local_instant(local, known)


def _date(item: Json, name: str, zone: str) -> int:
    """Midnight of an all-day event's date in the mailbox's zone."""
    value = item[name]
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is missing")
    if not zone:
        raise ValueError("the mailbox's zone is not known")
    date = _local(str(value["dateTime"])).date()
    return local_instant(datetime.datetime.combine(date, datetime.time()), zone)


def _local(text: str) -> datetime.datetime:
    """Graph's seven decimals cut to microseconds."""
    whole, point, decimals = text.partition(".")
    if not point:
        return datetime.datetime.fromisoformat(text)
    digits = decimals.rstrip("Z")
    offset = "+00:00" if decimals.endswith("Z") else ""
    return datetime.datetime.fromisoformat(f"{whole}.{digits[:6].ljust(6, '0')}{offset}")


def _content(ref: EventRef, booking: Booking) -> dict[str, object]:
    """The event as the booking wants it. Guests are text: an attendee would be sent mail."""
    return {
        "subject": event_title(booking),
        "body": {"contentType": "text", "content": event_text(booking)},
        "start": {"dateTime": _utc(booking.start).removesuffix("Z"), "timeZone": "UTC"},
        "end": {"dateTime": _utc(booking.end).removesuffix("Z"), "timeZone": "UTC"},
        "isAllDay": False,
        "location": {"displayName": booking.location},
        "showAs": "busy",
        "singleValueExtendedProperties": [
            {"id": UID_PROPERTY, "value": ref.uid},
            {"id": REVISION_PROPERTY, "value": str(booking.revision)},
        ],
    }


def _expanded() -> str:
    condition = f"id eq '{UID_PROPERTY}' or id eq '{REVISION_PROPERTY}'"
    expansion = quote(f"singleValueExtendedProperties($filter={condition})", safe="")
    return f"$select={_EVENT_FIELDS}&$expand={expansion}"


def _remote(event: Json) -> RemoteEvent:
    event_id = _text(event, "id")
    if not event_id:
        raise ProviderUnavailable("Microsoft's answer about an event could not be read.")
    revision = 0
    properties = event.get("singleValueExtendedProperties")
    for entry in properties if isinstance(properties, Sequence) else ():
        if isinstance(entry, Mapping) and str(entry.get("id")).lower() == REVISION_PROPERTY.lower():
            text = str(entry.get("value"))
            revision = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return RemoteEvent(EventId(event_id), _text(event, "@odata.etag"), revision, 0, _text(event, "webLink"))


def _age(event: Json) -> tuple[str, str]:
    return _text(event, "createdDateTime"), _text(event, "id")


def _failure(answer: Answer, *, writing: bool = False) -> Exception:
    """What a status means (https://learn.microsoft.com/graph/errors)."""
    retry = _retry_after_s(answer)
    if answer.status == 429 or (answer.status == 503 and retry is not None):
        return ProviderThrottled("Microsoft asks to slow down. Try again later.", retry_after_s=min(retry or 30.0, 3600))
    if answer.status == 403:
        if writing:
            return CalendarReadOnly("The calendar cannot be written to. Choose another one.")
        return CalendarGone("The calendar is not there any more for this account. Choose another one.")
    if answer.status in (404, 410):
        return CalendarGone("The calendar is not there any more for this account. Choose another one.")
    if writing and answer.status in (400, 413, 415, 422, 507):
        return ProviderRefused("Microsoft refused the event as it is.")
    return ProviderUnavailable("Microsoft did not answer as it should.")


def _retry_after_s(answer: Answer) -> float | None:
    text = answer.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _json(answer: Answer) -> Json:
    try:
        values = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise ProviderUnavailable("Microsoft's answer could not be read.") from error
    if not isinstance(values, dict):
        raise ProviderUnavailable("Microsoft's answer could not be read.")
    return values


def _text(values: Json, name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _utc(instant: int) -> str:
    return to_datetime(instant).strftime("%Y-%m-%dT%H:%M:%SZ")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port
