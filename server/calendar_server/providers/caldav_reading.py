"""Reading one calendar, in full or some events: their texts, or a reason why not. A hole is never taken for free time.

One ``calendar-query`` without a time range is asked first. Servers that refuse that form, or whose answer would be over
our limits, are asked for a list and then for the texts in batches. ``expand`` and ``free-busy-query`` are never used.

Some servers leave events out of what they answer to a query, all of them even (Stalwart 0.15), that stand in their list. So
what is in the list alone is asked for by name: see `caldav_refresh` for when there is such a look.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from calendar_server.core.model import DAY, UNTOLD, CalendarId, Instant, Interval, UnreadableEvent
from calendar_server.core.values import BadValue, moment
from calendar_server.core.zones import naive_instant, naive_local
from calendar_server.errors import CalendarGone, ProviderThrottled, ProviderUnavailable
from calendar_server.providers import caldav_protocol as protocol
from calendar_server.providers.caldav_members import (
    Kind,
    Listed,
    Texts,
    is_folder,
    kind_of,
    members_of,
    own,
    strong,
    take,
)
from calendar_server.providers.caldav_protocol import Member, multistatus
from calendar_server.providers.caldav_session import Session, failure
from calendar_server.providers.egress import Answer, AnswerTooLarge

BATCH = 100
"""Events asked for in one multiget."""
SINGLE_LOOKS_MOST = 20
"""Events asked for one by one in one read."""
TIME_MOST = 200
"""Characters of a signal in which a time is looked for. A server may send megabytes."""
YOUNG_S = 2
"""Seconds by which a signal that is a time has to differ from now for its second to be over, whatever the clocks say."""

AHEAD = 3 * 366 * DAY
"""How far beyond what is read it matters where a calendar ends: events of ours may lie there."""

_GONE = frozenset({403, 404, 410})
# What servers answer that do not support the report, or not in this form.
_OTHER_FORM = frozenset({400, 403, 404, 405, 406, 409, 415, 422, 501})


@dataclass(frozen=True, slots=True)
class Look:
    """What a calendar says about itself.

    ``zone`` is its own time zone: iCalendar text with a VTIMEZONE, else an IANA name, else empty. ``ctag`` and
    ``sync_token`` change with every change in the calendar; empty where the server has no such thing, or was not asked.

    ``young``: they are the time of the last change, and that is now. A further change in the same second would not show.

    ``since`` and ``until``: between which times the server takes events, where it says so (RFC 4791 sections 5.2.6 and
    5.2.7). Some have others besides, and do not show them (OX App Suite: nothing from the year after next on).
    """

    zone: str
    ctag: str = ""
    sync_token: str = ""
    young: bool = False
    since: Instant | None = None
    until: Instant | None = None

    def untold(self, window: Interval) -> tuple[UnreadableEvent, ...]:
        """What the server does not show of the window, or of the years after it, as if there was what cannot be read."""
        found: list[UnreadableEvent] = []
        # Bounds that leave nothing of the window are no bounds.
        if self.since is not None and window.start < self.since < window.end:
            message = f"The server shows nothing of this calendar before {naive_local(self.since):%Y-%m-%d}."
            found.append(UnreadableEvent(UNTOLD, message, Interval(window.start, self.since)))
        if self.until is not None and window.start < self.until < window.end + AHEAD:
            message = f"The server shows nothing of this calendar from {naive_local(self.until):%Y-%m-%d} on."
            found.append(UnreadableEvent(UNTOLD, message, Interval(self.until, window.end + AHEAD)))
        return tuple(found)


class NoMultiget(ProviderUnavailable):
    """The server does not hand out some events by name; it may hand out all of them."""


_BOUNDS = (protocol.MIN_TIME, protocol.MAX_TIME)
_ITSELF = (protocol.RESOURCE_TYPE, protocol.TIME_ZONE, protocol.TIME_ZONE_ID, *_BOUNDS)


def look_at(session: Session, calendar_id: CalendarId, signals: tuple[str, ...] = ()) -> Look:
    """Ask the calendar about itself, and for these signals.

    Proves on the way that the calendar is there. Raises ``CalendarGone`` if it is not.
    """
    url = session.reach.url_of(calendar_id)
    answer = session.propfind(url, (*_ITSELF, *signals), 0)
    _there(answer)
    itself = own(multistatus(answer.body, answer.status), answer.url, session.reach)
    if itself is None:
        raise ProviderUnavailable("The server's answer is not about the calendar that was asked for.")
    _whole(itself)
    types = itself.found.get(protocol.RESOURCE_TYPE)
    if types is not None and protocol.CALENDAR not in types.tags:
        raise CalendarGone("The calendar is no longer there. Choose another one with UpdateConnection.")
    ctag, sync_token = itself.text(protocol.CTAG), itself.text(protocol.SYNC_TOKEN)
    zone = itself.text(protocol.TIME_ZONE) or itself.text(protocol.TIME_ZONE_ID)
    young = _is_young(ctag, answer) or _is_young(sync_token, answer)
    return Look(zone, ctag, sync_token, young, *(_bound(itself.text(each)) for each in _BOUNDS))


def _bound(text: str) -> Instant | None:
    """A date and a time in UTC; None for anything else, which bounds nothing."""
    with suppress(BadValue):
        told = moment(text)
        if told.is_utc:
            return naive_instant(told.local)
    return None


def _is_young(signal: str, answer: Answer) -> bool:
    """Whether a signal is a time, in seconds since 1970 or as a date and a clock, of about now.

    SOGo's are: of two changes in one second the second does not show. What has the time in it and a counter besides is
    taken for such a one as well, which costs a list.
    """
    figures = "".join(filter(str.isdecimal, signal[:TIME_MOST]))
    if len(figures) < len("1700000000"):
        return False
    moments = {int(time.time())}
    with suppress(ValueError, TypeError, OverflowError):
        moments.add(int(parsedate_to_datetime(answer.headers.get("date", "")).timestamp()))
    near = (moment + more for moment in moments for more in range(-YOUNG_S, YOUNG_S + 1))
    return any(str(each) in figures or time.strftime("%Y%m%d%H%M%S", time.gmtime(each)) in figures for each in near)


def read_texts(session: Session, calendar_id: CalendarId, events_most: int, answer: Answer | None) -> Texts:
    """The text of every event of a calendar, by what ``query`` came to.

    Raises ``CalendarGone``, ``ProviderUnavailable``, ``NeedsReauth``.
    """
    texts = Texts()
    if answer is None:
        texts.by_name = True
        fetch(session, calendar_id, _listed(session, calendar_id, events_most), texts, events_most)
        return texts
    unanswered = []
    for listed, member in _members(session, calendar_id, answer, events_most):
        if not take(listed, member, texts):
            unanswered.append(listed)
    if unanswered:
        texts.by_name = True
        # Some servers leave the text out of a query; whatever is empty when asked for by name is an unreadable event.
        events = [one for one in unanswered if not (one.href.endswith("/") and _is_folder(session, one))]
        fetch(session, calendar_id, events, texts, events_most)
    return texts


def read_all_texts(session: Session, calendar_id: CalendarId, events_most: int) -> Texts:
    """The text of every event of a calendar: of those that a query tells, and of those that are only in its list."""
    answer = query(session, calendar_id)
    texts = read_texts(session, calendar_id, events_most, answer)
    if answer is not None:
        told = texts.event_ids | texts.others
        only_listed = [one for one in _listed(session, calendar_id, events_most) if one.event_id not in told]
        fetch(session, calendar_id, only_listed, texts, events_most, singly=True)
    return texts


def query(session: Session, calendar_id: CalendarId) -> Answer | None:
    """Ask for everything at once; None where the server wants to be asked otherwise."""
    try:
        answer = session.report(session.reach.url_of(calendar_id), protocol.calendar_query())
    except AnswerTooLarge:
        return None
    if answer.status in _OTHER_FORM:
        # Whether the calendar itself is gone is seen when it is listed.
        return None
    if not 200 <= answer.status < 300:
        raise failure(answer)
    return answer


def _listed(session: Session, calendar_id: CalendarId, events_most: int) -> list[Listed]:
    """Every event in the calendar, without texts."""
    return [
        one
        for one, member in list_members(session, calendar_id, events_most).members
        if not member.gone and not is_folder(member) and kind_of(member) is Kind.EVENT
    ]


class Listing(NamedTuple):
    """Every resource in a calendar, without texts; and what the same answer says of the calendar's signals, empty where
    nothing is said, or was asked for."""

    members: list[tuple[Listed, Member]]
    ctag: str = ""
    sync_token: str = ""


def list_members(session: Session, calendar_id: CalendarId, events_most: int, signals: tuple[str, ...] = ()) -> Listing:
    """Ask for every resource in the calendar, and for these signals of the calendar itself. Raises ``CalendarGone``."""
    url = session.reach.url_of(calendar_id)
    answer = session.propfind(url, (protocol.ETAG, protocol.CONTENT_TYPE, protocol.RESOURCE_TYPE, *signals), 1)
    _there(answer)
    members = multistatus(answer.body, answer.status, events_most)
    found = members_of(calendar_id, members, answer.url, session.reach, events_most)
    if any(member.broken and not listed.event_id.startswith(calendar_id) for listed, member in found):
        # An error about something else, its root say, is about the whole: it is no list of the calendar.
        raise ProviderUnavailable("The server could not tell what is in the calendar.")
    itself = own(members, answer.url, session.reach, alone=False) if signals else None
    if itself is None:
        return Listing(found)
    return Listing(found, itself.text(protocol.CTAG), itself.text(protocol.SYNC_TOKEN))


class Report(NamedTuple):
    """What a server says has changed since a sync token, up to ``token``. ``gone`` members were taken out.

    ``young``: see ``Look``.
    """

    found: list[tuple[Listed, Member]]
    token: str
    young: bool


def changed_since(session: Session, calendar_id: CalendarId, token: str, events_most: int) -> Report | None:
    """What the server says has changed since its sync token (RFC 6578).

    None where it says nothing that could be relied on: servers refuse tokens, or cut the list short. Some take any token
    for the newest: that nothing has changed since one says little. Raises ``ProviderThrottled``.
    """
    url = session.reach.url_of(calendar_id)
    try:
        answer = session.exchange(
            "REPORT", url, {"depth": "0", "content-type": protocol.XML_TYPE}, protocol.sync_collection(token)
        )
        if answer.status != 207:
            told = failure(answer)
            if isinstance(told, ProviderThrottled):
                raise told
            return None
        members, newer = protocol.synced(answer.body, answer.status, events_most)
        if not newer:
            return None
        found = members_of(calendar_id, members, answer.url, session.reach, events_most)
    except ProviderThrottled:
        raise
    except (ProviderUnavailable, CalendarGone):
        # Whether that is the calendar's end or only this report's is seen when it is listed.
        return None
    return None if any(member.broken for _, member in found) else Report(found, newer, _is_young(newer, answer))


def _members(
    session: Session, calendar_id: CalendarId, answer: Answer, events_most: int
) -> list[tuple[Listed, Member]]:
    """The members of the calendar in an answer about it; the calendar itself must be well."""
    members = multistatus(answer.body, answer.status, events_most)
    return members_of(calendar_id, members, answer.url, session.reach, events_most)


def fetch(
    session: Session,
    calendar_id: CalendarId,
    listed: Sequence[Listed],
    texts: Texts,
    events_most: int,
    *,
    singly: bool = False,
) -> None:
    """Ask for the texts of these events by name, in batches. Those that are not there are in no part of ``texts``.

    Raises ``NoMultiget`` where the server has no such report; ``singly``: only if they are too many for one by one.
    """
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
            if answer.status not in _OTHER_FORM:
                raise failure(answer)
            _there_at_all(session, calendar_id)
            if not singly or len(batch) + len(waiting) + singles > SINGLE_LOOKS_MOST:
                raise NoMultiget(failure(answer).message)
            for one in (*batch, *waiting):
                _fetch_single(session, one, texts)
            return
        told = {one.event_id: member for one, member in _members(session, calendar_id, answer, events_most)}
        for one in batch:
            member = told.get(one.event_id)
            if member is None:
                # RFC 4791 section 7.9 wants an answer for each. Silence may mean deleted, or left out for its length.
                singles += 1
                if singles > SINGLE_LOOKS_MOST:
                    raise ProviderUnavailable("The server leaves events out of its answers.")
                _fetch_single(session, one, texts)
            elif not take(one, member, texts):
                texts.empty[one.event_id] = one.href


def _fetch_single(session: Session, one: Listed, texts: Texts) -> None:
    answer = session.exchange("GET", session.reach.url_of(one.event_id), {"accept": "text/calendar"})
    if answer.status in (404, 410):
        return
    if answer.status != 200:
        raise failure(answer, "The server could not hand out one of the events.")
    text = answer.body.decode("utf-8", "replace")
    if text.strip():
        texts.add(one.event_id, text, strong(answer.headers.get("etag", "")))
    else:
        texts.empty[one.event_id] = one.href


def _is_folder(session: Session, one: Listed) -> bool:
    """Whether something that looks like a collection inside the calendar is one."""
    answer = session.propfind(session.reach.url_of(one.event_id), (protocol.RESOURCE_TYPE,), 0)
    if answer.status != 207:
        return False
    itself = own(multistatus(answer.body, answer.status), answer.url, session.reach)
    return itself is not None and is_folder(itself)


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


_OPTIONAL = frozenset({*protocol.SIGNALS, *_BOUNDS})


def _whole(itself: Member) -> None:
    """The calendar's own answer, with nothing in it that failed."""
    if itself.gone or itself.status == 403:
        raise CalendarGone(
            "The calendar is no longer there for this account. Choose another one with UpdateConnection."
        )
    if itself.broken or any(status != 404 for tag, status in itself.failed.items() if tag not in _OPTIONAL):
        raise ProviderUnavailable("The server could not tell about the calendar.")
