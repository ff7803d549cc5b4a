"""Reading one calendar in full: every event's text, or a reason why not. A hole is never taken for free time.

One ``calendar-query`` without a time range is asked first. Servers that refuse that form, or whose answer would be over
our limits, are asked for a list and then for the texts in batches. ``expand`` and ``free-busy-query`` are never used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from calendar_server.core.model import CalendarId, EventId
from calendar_server.errors import CalendarGone, ProviderUnavailable
from calendar_server.providers import caldav_protocol as protocol
from calendar_server.providers.caldav_address import member_id
from calendar_server.providers.caldav_discovery import own
from calendar_server.providers.caldav_protocol import Member, multistatus
from calendar_server.providers.caldav_session import Session, failure
from calendar_server.providers.egress import Answer, AnswerTooLarge

BATCH = 100
"""Events asked for in one multiget."""
TEXT_MOST = 40_000_000
"""Bytes of memory for the texts of one read: a letter takes from one to four."""
SINGLE_LOOKS_MOST = 20
"""Events asked for one by one in one read."""

_GONE = frozenset({403, 404, 410})
# What servers answer that do not support the report, or not in this form.
_OTHER_FORM = frozenset({400, 403, 404, 405, 406, 409, 415, 422, 501})


@dataclass(slots=True)
class Texts:
    """What a full read brought. ``empty`` are events without a text; ``hrefs`` how the server spells them."""

    found: dict[EventId, list[str]] = field(default_factory=dict)
    empty: dict[EventId, str] = field(default_factory=dict)
    size: int = 0

    def add(self, event_id: EventId, text: str) -> None:
        """Take a text. A resource that is told twice with the same text counts once."""
        known = self.found.setdefault(event_id, [])
        if text not in known:
            known.append(text)
            self.size += sys.getsizeof(text)
        if self.size > TEXT_MOST:
            raise ProviderUnavailable("The calendar is larger than this service reads.")

    @property
    def event_ids(self) -> frozenset[EventId]:
        return frozenset(self.found) | frozenset(self.empty)


@dataclass(frozen=True, slots=True)
class _Listed:
    event_id: EventId
    href: str


def read_time_zone(session: Session, calendar_id: CalendarId) -> str:
    """The calendar's own time zone: iCalendar text with a VTIMEZONE, else an IANA name, else empty.

    Proves on the way that the calendar is there. Raises ``CalendarGone`` if it is not.
    """
    url = session.reach.url_of(calendar_id)
    answer = session.propfind(url, (protocol.RESOURCE_TYPE, protocol.TIME_ZONE, protocol.TIME_ZONE_ID), 0)
    _there(answer)
    itself = own(multistatus(answer.body, answer.status), answer, session.reach)
    if itself is None:
        raise ProviderUnavailable("The server's answer is not about the calendar that was asked for.")
    _whole(itself)
    types = itself.found.get(protocol.RESOURCE_TYPE)
    if types is not None and protocol.CALENDAR not in types.tags:
        raise CalendarGone("The calendar is no longer there. Choose another one with UpdateConnection.")
    return itself.text(protocol.TIME_ZONE) or itself.text(protocol.TIME_ZONE_ID)


def read_texts(session: Session, calendar_id: CalendarId, events_most: int) -> Texts:
    """The text of every event of a calendar. Raises ``CalendarGone``, ``ProviderUnavailable``, ``NeedsReauth``."""
    texts = Texts()
    members = _queried(session, calendar_id, events_most)
    if members is None:
        _fetch(session, calendar_id, _listed(session, calendar_id, events_most), texts, events_most)
        return texts
    unanswered = []
    for listed, member in members:
        if not _take(listed, member, texts):
            unanswered.append(listed)
    if unanswered:
        # Some servers leave the text out of a query; whatever is empty when asked for by name is an unreadable event.
        events = [one for one in unanswered if not (one.href.endswith("/") and _is_folder(session, one))]
        _fetch(session, calendar_id, events, texts, events_most)
    return texts


def _queried(session: Session, calendar_id: CalendarId, events_most: int) -> list[tuple[_Listed, Member]] | None:
    """Everything in one query; None where the server wants to be asked otherwise."""
    try:
        answer = session.report(session.reach.url_of(calendar_id), protocol.calendar_query())
    except AnswerTooLarge:
        return None
    if answer.status in _OTHER_FORM:
        # Whether the calendar itself is gone is seen when it is listed.
        return None
    if not 200 <= answer.status < 300:
        raise failure(answer)
    return _members(session, calendar_id, answer, events_most)


def _listed(session: Session, calendar_id: CalendarId, events_most: int) -> list[_Listed]:
    """Every event in the calendar, without texts."""
    url = session.reach.url_of(calendar_id)
    answer = session.propfind(url, (protocol.CONTENT_TYPE, protocol.RESOURCE_TYPE), 1)
    _there(answer)
    listed = []
    for one, member in _members(session, calendar_id, answer, events_most):
        types = member.found.get(protocol.RESOURCE_TYPE)
        if member.gone or (types is not None and protocol.COLLECTION in types.tags):
            continue
        if _may_be_event(member):
            listed.append(one)
    return listed


def _members(
    session: Session, calendar_id: CalendarId, answer: Answer, events_most: int
) -> list[tuple[_Listed, Member]]:
    """The members of the calendar in an answer about it; the calendar itself must be well."""
    members = multistatus(answer.body, answer.status)
    itself = own(members, answer, session.reach, alone=False)
    if itself is not None:
        if itself.gone:
            raise CalendarGone("The calendar is no longer there. Choose another one with UpdateConnection.")
        if itself.broken or any(status != 404 for status in itself.failed.values()):
            raise ProviderUnavailable("The server could not tell all that is in the calendar.")
    if len(members) - (itself is not None) > events_most:
        raise ProviderUnavailable(f"The calendar has more than the {events_most} events that are read.")
    found = []
    for member in members:
        if member is not itself:
            id = member_id(calendar_id, session.reach.id_in(member.href, answer.url))
            found.append((_Listed(EventId(id), member.href), member))
    return found


def _fetch(
    session: Session, calendar_id: CalendarId, listed: Sequence[_Listed], texts: Texts, events_most: int
) -> None:
    """Ask for the texts of these events by name, in batches."""
    url = session.reach.url_of(calendar_id)
    singles = 0
    waiting = list({one.event_id: one for one in listed}.values())
    size = BATCH
    while waiting:
        batch, waiting = waiting[:size], waiting[size:]
        try:
            answer = session.report(url, protocol.calendar_multiget(one.href for one in batch))
        except AnswerTooLarge:
            if size == 1:
                raise
            waiting, size = [*batch, *waiting], max(1, size // 4)
            continue
        if not 200 <= answer.status < 300:
            if answer.status in _OTHER_FORM:
                _there_at_all(session, calendar_id)
            raise failure(answer)
        told = {one.event_id: member for one, member in _members(session, calendar_id, answer, events_most)}
        for one in batch:
            member = told.get(one.event_id)
            if member is None:
                # RFC 4791 section 7.9 wants an answer for each. Silence may mean deleted, or left out for its length.
                singles += 1
                if singles > SINGLE_LOOKS_MOST:
                    raise ProviderUnavailable("The server leaves events out of its answers.")
                _fetch_single(session, one, texts)
            elif not _take(one, member, texts):
                texts.empty[one.event_id] = one.href


def _fetch_single(session: Session, one: _Listed, texts: Texts) -> None:
    answer = session.exchange("GET", session.reach.url_of(one.event_id), {"accept": "text/calendar"})
    if answer.status in (404, 410):
        return
    if answer.status != 200:
        raise failure(answer, "The server could not hand out one of the events.")
    text = answer.body.decode("utf-8", "replace")
    if text.strip():
        texts.add(one.event_id, text)
    else:
        texts.empty[one.event_id] = one.href


def _is_folder(session: Session, one: _Listed) -> bool:
    """Whether something that looks like a collection inside the calendar is one."""
    answer = session.propfind(session.reach.url_of(one.event_id), (protocol.RESOURCE_TYPE,), 0)
    if answer.status != 207:
        return False
    itself = own(multistatus(answer.body, answer.status), answer, session.reach)
    types = itself.found.get(protocol.RESOURCE_TYPE) if itself else None
    return types is not None and protocol.COLLECTION in types.tags


def _take(one: _Listed, member: Member, texts: Texts) -> bool:
    """Take what an answer says of one event. False: it has no text, and nothing says that it is gone."""
    if member.gone:
        return True
    if member.broken or any(status not in (404, 410) for tag, status in member.failed.items() if tag == protocol.DATA):
        raise ProviderUnavailable("The server could not hand out one of the events.")
    text = member.found[protocol.DATA].text if protocol.DATA in member.found else ""
    if not text.strip():
        return False
    texts.add(one.event_id, text)
    return True


def _may_be_event(member: Member) -> bool:
    """Whether a listed resource can be an event: RFC 4791 section 4.1 allows nothing else, but servers do."""
    kind = member.text(protocol.CONTENT_TYPE).lower()
    main, _, parameters = kind.partition(";")
    if not kind or member.href.lower().endswith(".ics"):
        main = "text/calendar"
    component = parameters.replace(" ", "").replace('"', "").partition("component=")[2].partition(";")[0]
    return main.strip() == "text/calendar" and component in ("", "vevent")


def _there(answer: Answer) -> None:
    if answer.status in _GONE:
        raise CalendarGone(
            "The calendar is no longer there for this account. Choose another one with UpdateConnection."
        )
    if not 200 <= answer.status < 300:
        raise failure(answer)


def _there_at_all(session: Session, calendar_id: CalendarId) -> None:
    """Raise ``CalendarGone`` if the calendar is not there."""
    _there(session.propfind(session.reach.url_of(calendar_id), (protocol.RESOURCE_TYPE,), 0))


def _whole(itself: Member) -> None:
    """The calendar's own answer, with nothing in it that failed."""
    if itself.gone or itself.status == 403:
        raise CalendarGone(
            "The calendar is no longer there for this account. Choose another one with UpdateConnection."
        )
    if itself.broken or any(status != 404 for status in itself.failed.values()):
        raise ProviderUnavailable("The server could not tell about the calendar.")
