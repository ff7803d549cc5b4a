"""Google Calendar v3: calendars, busy times and events of an account.

`events.list` with `singleEvents` is the read: it names the events, so that bookings of our own can be told apart. Where
the account may only see free and busy, `freeBusy.query` is, which names none
(https://developers.google.com/calendar/api/v3/reference). An event of ours has an id of ours, so that a repeated insert
makes no second one. An id stays taken after its event was deleted: what then stands there is a *tombstone*, an event
whose status is cancelled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import urlencode

from calendar_server.core.intervals import chunk, touches
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
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    PreconditionFailed,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers.base import (
    Account,
    Deadline,
    EventRef,
    Link,
    Refreshed,
    Remembered,
    RemoteEvent,
    Secret,
    Watch,
)
from calendar_server.providers.egress import AnswerTooLarge, Egress
from calendar_server.providers.google_api import (
    Api,
    Doing,
    Talk,
    calendar_path,
    failure,
    items_of,
    json_of,
    segment,
)
from calendar_server.providers.google_events import (
    FoundEvent,
    Json,
    busy_event,
    event_changes,
    event_content,
    instant_of,
    remote_event,
    text_of,
    told,
    whole_seconds,
    zone_of,
)
from calendar_server.providers.google_feed import Mark, look, mark_of_note, mark_of_read
from calendar_server.providers.google_watch import open_channel, stop_channel
from calendar_server.providers.oauth import Tokens

PRIMARY = CalendarId("primary")
"""Google's own word for an account's default calendar, and the only id that we give it."""

CALENDARS_PAGE = 250
CALENDARS_MOST = 5000
EVENTS_PAGE = 2500
EVENTS_PAGE_SMALL = 250
"""Asked for when a page of the usual size is over our limit: events with hundreds of guests fill it early."""
FREE_BUSY_US = 80 * DAY
"""The longest span of one `freeBusy.query`. Google takes about 90 days."""

_EVENT_FIELDS = (
    "kind,timeZone,accessRole,nextPageToken,nextSyncToken,"
    "items(id,status,eventType,transparency,start,end,attendees(self,responseStatus))"
)
"""What is asked of `events.list`. No title, no place and no guest's name reaches this process."""
_NO_MAIL = {"sendUpdates": "none"}
_WRITES = frozenset({"owner", "writer", "writerWithoutPrivateAccess"})
_SEES_NO_EVENTS = frozenset({"freeBusyReader", "none"})
_COLOR = re.compile(r"#[0-9a-f]{6}")


def calendar_key(calendar_id: CalendarId, account_email: str) -> CalendarId:
    """The one id of a calendar: ``primary`` for the default calendar, which Google also takes by the account's e-mail."""
    return PRIMARY if account_email and calendar_id.casefold() == account_email.casefold() else calendar_id


class GoogleProvider:
    """A ``Provider`` for Google accounts. ``calendar_events`` is the most that is read of one calendar."""

    makes_once = False

    def __init__(
        self, egress: Egress, *, api_url: str, calendar_events: int, userinfo_url: str = "", revoke_url: str = ""
    ):
        self._egress = egress
        self._api = Api(egress, api_url)
        self._userinfo_url = userinfo_url
        self._revoke_url = revoke_url
        self._calendar_events = calendar_events

    def account(self, tokens: Tokens, deadline: Deadline) -> Account:
        """Whose tokens these are. Identity is ``sub``; the e-mail may change
        (https://developers.google.com/identity/openid-connect/openid-connect#obtainuserinfo)."""
        headers = {"Authorization": f"Bearer {tokens.access_token}", "Accept": "application/json"}
        answer = self._egress.exchange("GET", self._userinfo_url, headers=headers, deadline=deadline, trusted=True)
        if answer.status != 200:
            raise failure(answer, Doing.LIST)
        try:
            person = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise ProviderUnavailable("Google's answer about the account could not be read.") from error
        subject = text_of(person, "sub") if isinstance(person, dict) else ""
        if not subject:
            raise ProviderUnavailable("Google's answer about the account could not be read.")
        return Account(
            subject=subject, email=text_of(person, "email"), calendar_id=PRIMARY, busy_calendar_ids=(PRIMARY,)
        )

    def revoke(self, secret: Secret, deadline: Deadline) -> None:
        """End the grant, all of it: every token of this client and account. One that is over already is success
        (https://developers.google.com/identity/protocols/oauth2/web-server#tokenrevoke)."""
        token = secret.values.get("refresh_token") or secret["access_token"]
        answer = self._egress.exchange(
            "POST",
            self._revoke_url,
            headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
            content=urlencode({"token": token}).encode(),
            deadline=deadline,
            trusted=True,
        )
        # 400 is invalid_token: there is nothing left to revoke.
        if answer.status not in (200, 400):
            raise failure(answer, Doing.LIST)

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        """The account's calendars, also those that its owner hides from view: they may block all the same."""
        query: dict[str, str | int] = {"maxResults": CALENDARS_PAGE, "showHidden": "true"}
        calendars: list[Calendar] = []
        pages = self._api.talk(link, deadline).pages(
            "users/me/calendarList", query, "calendar#calendarList", Doing.LIST
        )
        for page in pages:
            calendars += [_calendar(item) for item in items_of(page) if item.get("deleted") is not True]
            if len(calendars) > CALENDARS_MOST:
                raise ProviderUnavailable("The account has more calendars than this service reads.")
        return calendars

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        """Read what stands in the window; only when it stands there, where the account may see no more than that."""
        return self._read(self._api.talk(link, deadline), calendar_id, window)[0]

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        """Ask the feed, in one small request; read again only if something may have changed.

        Half of the time is kept for the read. Where only free and busy are seen there is no feed: it would say that
        nothing changed.
        """
        talk = self._api.talk(link, deadline)
        mark = mark_of_note(before.memory, calendar_id) if before is not None and before.may_hold(window) else None
        if mark is not None:
            mark = look(talk, mark, deadline.sooner(deadline.remaining() / 2))
        if mark is not None:
            return Refreshed(None, mark.note())
        read, mark = self._read(talk, calendar_id, window)
        return Refreshed(read, b"" if mark is None else mark.note())

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        """The uid itself: it has the form that Google asks of ids, base32hex in lower case."""
        return EventId(uid)

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        """Look by the id. A tombstone is no event."""
        found = self._look(self._api.talk(link, deadline), ref)
        return None if found is None or _is_tombstone(found) else remote_event(found, _id(ref))

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """Insert under our own id, or patch in place. A tombstone under that id is brought back to life if it can be."""
        talk = self._api.talk(link, deadline)
        if known is None:
            content = {"id": _id(ref), **event_content(ref.uid, booking)}
            answer = talk.exchange("POST", f"{calendar_path(ref.calendar_id)}/events", _NO_MAIL, content)
            if answer.status == 409:
                return self._revive(talk, ref, booking)
        else:
            changes = event_changes(ref.uid, booking, known)
            answer = talk.exchange("PATCH", _event_path(ref), _NO_MAIL, changes, etag=known.etag)
            if answer.status in (404, 409, 410, 412):
                raise PreconditionFailed("The event changed meanwhile.")
        if answer.status not in (200, 201):
            raise failure(answer, Doing.WRITE)
        return _written(json_of(answer, "calendar#event", "id"), ref, booking)

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        """Take the event out. Nobody is told."""
        talk = self._api.talk(link, deadline)
        answer = talk.exchange("DELETE", _event_path(ref), _NO_MAIL, etag=known.etag)
        if answer.status in (409, 412):
            # A tombstone has another version too: then the event is gone, as was wanted.
            found = self._look(talk, ref)
            if found is None or _is_tombstone(found):
                return
            raise PreconditionFailed("The event changed meanwhile.")
        if answer.status not in (200, 204, 404, 410):
            raise failure(answer, Doing.WRITE)

    def watch(
        self, link: Link, calendar_id: CalendarId, *, address: str, id: str, secret: str, deadline: Deadline
    ) -> Watch:
        """Open a channel under this id."""
        return open_channel(self._api.talk(link, deadline), calendar_id, address=address, id=id, secret=secret)

    def extend(self, link: Link, watch: Watch, deadline: Deadline) -> Watch | None:
        """None: Google's channels end when they end."""
        return None

    def unwatch(self, link: Link, watch: Watch, deadline: Deadline) -> None:
        """Stop a channel."""
        stop_channel(self._api.talk(link, deadline), watch)

    def _look(self, talk: Talk, ref: EventRef) -> Json | None:
        answer = talk.exchange("GET", _event_path(ref))
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise failure(answer, Doing.FIND)
        return json_of(answer, "calendar#event", "id")

    def _revive(self, talk: Talk, ref: EventRef, booking: Booking) -> RemoteEvent:
        """The id is taken. Where a tombstone has it, update that to a living event; Google may refuse, and a new id
        helps then."""
        found = self._look(talk, ref)
        if found is None or not _is_tombstone(found):
            raise PreconditionFailed("The event stands there already.")
        tombstone = remote_event(found, _id(ref))
        content = event_content(ref.uid, booking)
        answer = talk.exchange("PUT", _event_path(ref), _NO_MAIL, content, etag=tombstone.etag)
        refused = None if answer.status in (200, 201) else failure(answer, Doing.WRITE)
        if answer.status in (409, 412) or isinstance(refused, (CalendarGone, CalendarReadOnly, ProviderRefused)):
            raise PreconditionFailed("The event's id is spent.")
        if refused is not None:
            raise refused
        event = json_of(answer, "calendar#event", "id")
        if _is_tombstone(event):
            raise PreconditionFailed("The event's id is spent.")
        return _written(event, ref, booking)

    def _read(self, talk: Talk, calendar_id: CalendarId, window: Interval) -> tuple[CalendarRead, Mark | None]:
        path = f"{calendar_path(calendar_id)}/events"
        try:
            try:
                found = self._read_events(talk, path, window, EVENTS_PAGE)
            except AnswerTooLarge:
                found = self._read_events(talk, path, window, EVENTS_PAGE_SMALL)
        except CalendarGone:
            if not self._may_see_free_busy_only(talk, calendar_id):
                raise
            found = None
        if found is None:
            return self._read_free_busy(talk, calendar_id, window), None
        read, heads, page_size = found
        return read, mark_of_read(calendar_id, page_size, heads)

    def _read_events(
        self, talk: Talk, path: str, window: Interval, page_size: int
    ) -> tuple[CalendarRead, list[Json], int] | None:
        """What was found, the pages without their items, and their size. None: the account sees free and busy only."""
        # Google does not say in which zone it compares dates with the window: a day more on each side has all of them.
        wide = whole_seconds(Interval(window.start - DAY, window.end + DAY))
        query: dict[str, str | int] = {
            "singleEvents": "true",
            "timeMin": told(wide.start),
            "timeMax": told(wide.end),
            "maxResults": page_size,
            "fields": _EVENT_FIELDS,
        }
        # Keys, not a list: an event that is moved while pages are read may stand on two of them.
        found: dict[BusyEvent | UnreadableEvent, None] = {}
        seen = 0
        heads: list[Json] = []
        for page in talk.pages(path, query, "calendar#events", Doing.READ):
            if text_of(page, "accessRole") in _SEES_NO_EVENTS:
                return None
            zone = zone_of(text_of(page, "timeZone"))
            items = items_of(page)
            seen += len(items)
            if seen > self._calendar_events:
                raise ProviderUnavailable("The calendar holds more events than this service reads.")
            judged = (busy_event(item, zone, window) for item in items)
            found.update((event, None) for event in judged if event is not None)
            heads.append({name: value for name, value in page.items() if name != "items"})
        read = CalendarRead(
            tuple(event for event in found if isinstance(event, BusyEvent)),
            tuple(event for event in found if isinstance(event, UnreadableEvent)),
        )
        return read, heads, page_size

    def _may_see_free_busy_only(self, talk: Talk, calendar_id: CalendarId) -> bool:
        """Whether a calendar that shows no events is one of those that were shared without their details."""
        answer = talk.exchange("GET", f"users/me/calendarList/{segment(calendar_id)}")
        if answer.status == 404:
            return False
        if answer.status != 200:
            raise failure(answer, Doing.LIST)
        return text_of(json_of(answer, "calendar#calendarListEntry", "id"), "accessRole") == "freeBusyReader"

    def _read_free_busy(self, talk: Talk, calendar_id: CalendarId, window: Interval) -> CalendarRead:
        found: dict[BusyEvent, None] = {}
        for piece in chunk(whole_seconds(window), FREE_BUSY_US):
            asked = {"timeMin": told(piece.start), "timeMax": told(piece.end), "items": [{"id": calendar_id}]}
            answer = talk.exchange("POST", "freeBusy", content=asked)
            if answer.status != 200:
                raise failure(answer, Doing.READ)
            for busy in _periods(json_of(answer, "calendar#freeBusy", "calendars"), calendar_id):
                if touches(busy, window):
                    found[BusyEvent(busy.start, busy.end, BlockReason.BUSY, EventId(""))] = None
        return CalendarRead(tuple(found))


def _periods(told_all: Json, calendar_id: CalendarId) -> Sequence[Interval]:
    """What `freeBusy` says about the calendar. An error stands inside an answer that is fine otherwise."""
    calendars = told_all.get("calendars")
    if not isinstance(calendars, dict):
        raise ProviderUnavailable("Google's answer could not be read.")
    # The default calendar may be answered under its e-mail; one was asked for, so one is there.
    only = next(iter(calendars.values())) if calendar_id == PRIMARY and len(calendars) == 1 else None
    entry = calendars.get(calendar_id, only)
    errors, busy = (entry.get("errors", []), entry.get("busy", [])) if isinstance(entry, dict) else (None, None)
    if not isinstance(errors, list) or not isinstance(busy, list):
        raise ProviderUnavailable("Google's answer could not be read.")
    if any(isinstance(error, dict) and error.get("reason") == "notFound" for error in errors):
        raise CalendarGone("The calendar is not there any more for this account. Choose another one.")
    if errors:
        raise ProviderUnavailable("Google could not tell when this calendar is busy. Try again.")
    try:
        return [Interval(instant_of(period["start"]), instant_of(period["end"])) for period in busy]
    except (ValueError, OverflowError, LookupError, TypeError) as error:
        raise ProviderUnavailable("Google's answer could not be read.") from error


def _calendar(item: Json) -> Calendar:
    calendar_id = text_of(item, "id")
    if not calendar_id:
        raise ProviderUnavailable("Google's answer could not be read.")
    primary = item.get("primary") is True
    color, zone = text_of(item, "backgroundColor").lower(), text_of(item, "timeZone")
    return Calendar(
        id=PRIMARY if primary else CalendarId(calendar_id),
        name=text_of(item, "summaryOverride") or text_of(item, "summary"),
        time_zone=zone if zone_of(zone) else "",
        primary=primary,
        writable=text_of(item, "accessRole") in _WRITES,
        color=color if _COLOR.fullmatch(color) else "",
    )


def _event_path(ref: EventRef) -> str:
    return f"{calendar_path(ref.calendar_id)}/events/{segment(_id(ref))}"


def _id(ref: EventRef) -> EventId:
    return ref.event_id or EventId(ref.uid)


def _is_tombstone(event: Json) -> bool:
    return event.get("status") == "cancelled"


def _written(event: Json, ref: EventRef, booking: Booking) -> RemoteEvent:
    written = remote_event(event, _id(ref))
    return FoundEvent(
        written.event_id, written.etag, booking.revision, written.sequence, written.web_link, written.leftovers
    )
