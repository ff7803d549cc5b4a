"""Writing one event of ours: look, write fenced by the exact version, and look again where the server did not tell.

Preconditions lie at several servers. ``If-None-Match: *`` goes with every creation and ``If-Match`` with every change
and deletion, but what is relied on is the look before. ``If-Match: *`` is never sent: one big server reads it wrongly.
The first write of an event is the exception: nobody else uses its address, where there can be one event only. Once it
was tried, there is a look before the next try.

Weak versions (``W/"…"``) never match by RFC 9110 section 13.1.1. Behind them stands a strong one that a proxy weakened,
or a server that compares letters, or one that cannot compare at all. They are tried in this order, each time only while
the event still has the version that was known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from calendar_server.core.model import Booking, CalendarId, EventId
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    PreconditionFailed,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers import caldav_protocol as protocol
from calendar_server.providers.base import EventRef, RemoteEvent
from calendar_server.providers.caldav_address import canonical, member_id
from calendar_server.providers.caldav_events import ICS_TYPE, Standing, standing, written
from calendar_server.providers.caldav_members import own
from calendar_server.providers.caldav_protocol import error_names, multistatus
from calendar_server.providers.caldav_reading import read_all_texts
from calendar_server.providers.caldav_session import Session, failure
from calendar_server.providers.egress import Answer

EVENTS_MOST = 20_000
"""Events of a calendar that is looked through for one of ours."""
ETAG_MOST = 1_000
"""Characters of an event's version, which is stored and sent back."""

# Preconditions of a PUT (RFC 4791 section 5.3.2.1, RFC 4331 section 6) that say: not this event, ever.
_REFUSING = frozenset(
    protocol.CALDAV + name
    for name in (
        "calendar-collection-location-ok",
        "max-attendees-per-instance",
        "max-date-time",
        "max-instances",
        "max-resource-size",
        "min-date-time",
        "supported-calendar-component",
        "supported-calendar-data",
        "valid-calendar-data",
        "valid-calendar-object-resource",
    )
) | {protocol.DAV + "quota-not-exceeded", protocol.DAV + "sufficient-disk-space"}
# One server names the precondition of address books instead (Purelymail).
_UID_TAKEN = frozenset({protocol.CALDAV + "no-uid-conflict", "{urn:ietf:params:xml:ns:carddav}no-uid-conflict"})
_REFUSED_STATUSES = frozenset({400, 413, 414, 415, 422, 507})


@dataclass(frozen=True, slots=True)
class Found:
    """An event of ours at the server."""

    event: RemoteEvent
    standing: Standing


def find(session: Session, event_id: EventId) -> Found | None:
    """Look at one event. None: it is not there."""
    answer = session.exchange("GET", session.reach.url_of(event_id), {"accept": "text/calendar"})
    if answer.status in (404, 410):
        return None
    if answer.status == 403:
        if _is_missing(session, event_id):
            return None
        raise CalendarReadOnly("The server lets us no longer see this event. Choose another calendar.")
    if answer.status != 200:
        raise failure(answer)
    told = standing(answer.body.decode("utf-8", "replace"))
    if told is None:
        raise ProviderUnavailable("The server answered with something else than the event that was asked for.")
    etag = _version(answer) or _bounded(_etag(session, event_id))
    return Found(RemoteEvent(event_id, etag, revision=told.revision, sequence=told.sequence), told)


def _is_missing(session: Session, event_id: EventId) -> bool:
    """Whether a server that forbids to look at what is not there (Robur) says so when asked by name."""
    folder = f"{event_id.rpartition('/')[0]}/"
    answer = session.report(session.reach.url_of(folder), protocol.calendar_multiget([event_id]))
    if answer.status != 207:
        return False
    told = {canonical(session.reach.id_in(member.href, answer.url)): member for member in multistatus(answer.body, 207)}
    member = told.get(canonical(event_id))
    return member is not None and member.gone


def put(session: Session, ref: EventRef, booking: Booking, known: RemoteEvent | None) -> RemoteEvent:
    """Create the event, or replace the known version of it in place."""
    if known is None:
        return _create(session, ref, booking)
    before = find(session, known.event_id)
    if before is None or not _same(before.event.etag, known.etag):
        raise PreconditionFailed("The event has changed since it was looked at.")
    return _replace(session, ref, booking, before)


def delete(session: Session, ref: EventRef, known: RemoteEvent) -> None:
    """Take out the known version of the event, without any message to anybody (RFC 6638 section 8.1)."""
    try:
        answer = _fenced(session, "DELETE", known, {"schedule-reply": "F"}, b"")
    except PreconditionFailed:
        # RFC 9110 section 13.1.1: If-Match is false for what is not there.
        if find(session, known.event_id) is None:
            return
        raise
    if answer.status in (404, 410) or (answer.status == 403 and find(session, known.event_id) is None):
        return
    if answer.status == 207:
        # RFC 4918 section 9.6.1: what could not be deleted, and why. An empty list would be a contradiction.
        statuses = {member.status or 500 for member in multistatus(answer.body, answer.status)}
        if statuses and all(status in (404, 410) or 200 <= status < 300 for status in statuses):
            return
        raise ProviderUnavailable("The server could not take out the event.")
    if 200 <= answer.status < 300:
        return
    raise _refusal(session, ref.calendar_id, answer, known)


def _create(session: Session, ref: EventRef, booking: Booking) -> RemoteEvent:
    body = written(ref.uid, booking, sequence=0, now=time.time())
    headers = {"content-type": ICS_TYPE, "if-none-match": "*"}
    answer = session.exchange("PUT", session.reach.url_of(ref.event_id), headers, body)
    if 200 <= answer.status < 300:
        return _confirmed(session, ref, booking, ref.event_id, answer, sequence=0, created=True)
    names, hrefs = error_names(answer.body)
    if names & _UID_TAKEN or answer.status == 409:
        _there(session, ref.calendar_id)
        return _adopt(session, ref, booking, hrefs, answer)
    if answer.status == 400 and _find_uid(session, ref):
        # One server says a taken uid in its own words.
        return _adopt(session, ref, booking, (), answer)
    raise _refusal(session, ref.calendar_id, answer, None)


def _adopt(session: Session, ref: EventRef, booking: Booking, hrefs: tuple[str, ...], refused: Answer) -> RemoteEvent:
    """Our uid stands in this calendar under another name: the server renamed it. Show the booking there.

    Raises ``PreconditionFailed`` if it does not: some other calendar holds the uid, or it stands at its very place, where a
    look will find it.
    """
    candidates = [member_id(ref.calendar_id, session.reach.id_in(href, refused.url)) for href in hrefs]
    here = next((EventId(id) for id in candidates if _is_in(ref.calendar_id, id)), None)
    here = here or _find_uid(session, ref)
    if here is None or canonical(here) == canonical(ref.event_id):
        raise PreconditionFailed("The server says that this event stands somewhere else already.")
    before = find(session, here)
    if before is None or before.standing.uid != ref.uid or before.event.revision > booking.revision:
        raise PreconditionFailed("The server says that this event stands somewhere else already.")
    return _replace(session, ref, booking, before)


def _replace(session: Session, ref: EventRef, booking: Booking, before: Found) -> RemoteEvent:
    known = before.event
    sequence = max(known.sequence, before.standing.sequence) + 1
    body = written(ref.uid, booking, sequence=sequence, now=time.time(), before=before.standing)
    answer = _fenced(session, "PUT", known, {"content-type": ICS_TYPE}, body)
    if answer.status in (400, 403, 415, 422) and before.standing.kept:
        # Perhaps it is what the owner added that the server does not take back; the booking matters more.
        bare = written(ref.uid, booking, sequence=sequence, now=time.time())
        answer = _fenced(session, "PUT", known, {"content-type": ICS_TYPE}, bare)
    if 200 <= answer.status < 300:
        return _confirmed(session, ref, booking, known.event_id, answer, sequence=sequence)
    raise _refusal(session, ref.calendar_id, answer, known)


def _confirmed(
    session: Session,
    ref: EventRef,
    booking: Booking,
    event_id: EventId,
    answer: Answer,
    *,
    sequence: int,
    created: bool = False,
) -> RemoteEvent:
    """What stands there after a write.

    A change is believed if the server gave the version of exactly what we sent (RFC 4791 section 5.3.4). Else, and
    after every creation, the event is read back: some servers put a new one under another name without saying so, and
    we would then look for it in vain and write a second one.
    """
    place = _moved_to(session, ref, event_id, answer)
    etag = _version(answer)
    if etag and place == event_id and answer.status in (200, 201, 204) and not created:
        return RemoteEvent(event_id, etag, revision=booking.revision, sequence=sequence)
    found = find(session, place)
    if found is None:
        renamed = _find_uid(session, ref)
        found = find(session, renamed) if renamed else None
    if found is None:
        raise ProviderUnavailable("The server accepted the event, but does not show it.")
    if found.standing.uid not in ("", ref.uid) or found.event.revision not in (0, booking.revision):
        raise PreconditionFailed("The event was changed by somebody else while it was written.")
    return RemoteEvent(found.event.event_id, found.event.etag, revision=booking.revision, sequence=found.event.sequence)


def _moved_to(session: Session, ref: EventRef, event_id: EventId, answer: Answer) -> EventId:
    """Where the server says that it put the event; only a place in the same calendar is believed."""
    location = answer.headers.get("location", "")
    if not location:
        return event_id
    id = member_id(ref.calendar_id, session.reach.id_in(location, answer.url))
    if canonical(id) == canonical(event_id) or not _is_in(ref.calendar_id, id):
        return event_id
    return EventId(id)


def _fenced(session: Session, method: str, known: RemoteEvent, headers: Mapping[str, str], body: bytes) -> Answer:
    """Send a change of the known version. Raises ``PreconditionFailed`` if another one stands there."""
    fences = _fences(known.etag)
    for position, fence in enumerate(fences):
        if position:
            current = find(session, known.event_id)
            if current is None or not _same(current.event.etag, known.etag):
                break
        fenced = {**headers, "if-match": fence} if fence else dict(headers)
        answer = session.exchange(method, session.reach.url_of(known.event_id), fenced, body)
        if answer.status != 412:
            return answer
    raise PreconditionFailed("The event has changed since it was looked at.")


def _same(one: str, other: str) -> bool:
    """Weak comparison (RFC 9110 section 8.8.3.2): a proxy may weaken what the server itself called strong."""
    return one.removeprefix("W/").removeprefix("w/") == other.removeprefix("W/").removeprefix("w/")


def _fences(etag: str) -> tuple[str, ...]:
    """Values of ``If-Match`` to try; empty: no fence but the look before."""
    if etag.startswith(("W/", "w/")):
        return (etag[2:], etag, "")
    return (etag,)


def _refusal(session: Session, calendar_id: CalendarId, answer: Answer, known: RemoteEvent | None) -> CalendarError:
    """What a refused write means. May look at the calendar to tell it from the event."""
    names, _ = error_names(answer.body)
    if answer.status == 412 or names & _UID_TAKEN:
        return PreconditionFailed("The event has changed since it was looked at.")
    if names & _REFUSING or answer.status in _REFUSED_STATUSES:
        return ProviderRefused(f"The server refuses this event (status {answer.status}).")
    if answer.status in (403, 405):
        # Of what is not there some servers say that it is forbidden.
        _there(session, calendar_id)
        return CalendarReadOnly("The calendar cannot be written to. Choose another one with UpdateConnection.")
    if answer.status in (404, 409, 410):
        _there(session, calendar_id)
        if known is not None or answer.status == 409:
            return PreconditionFailed("The event has changed since it was looked at.")
        return CalendarGone("The calendar takes no events any more. Choose another one with UpdateConnection.")
    return failure(answer)


def _there(session: Session, calendar_id: CalendarId) -> None:
    """Raise ``CalendarGone`` or ``CalendarReadOnly`` if the calendar is not there, or not for us."""
    answer = session.propfind(session.reach.url_of(calendar_id), (protocol.RESOURCE_TYPE,), 0)
    status: int | None = answer.status
    if answer.status == 207:
        itself = own(multistatus(answer.body, answer.status), answer.url, session.reach)
        status = itself.status if itself and itself.status is not None else 207
    if status in (404, 410):
        raise CalendarGone("The calendar is no longer there. Choose another one with UpdateConnection.")
    if status == 403:
        raise CalendarReadOnly("The calendar cannot be written to. Choose another one with UpdateConnection.")
    if status is None or not 200 <= status < 300:
        raise failure(answer)


def _find_uid(session: Session, ref: EventRef) -> EventId | None:
    """Where in the calendar our uid stands; None if the server finds it nowhere or cannot search.

    Of a search that finds nothing many servers know no better (Bedework, iCloud for some properties, Stalwart 0.15). It is
    asked for seldom, so all of the calendar is looked through then.
    """
    answer = session.report(session.reach.url_of(ref.calendar_id), protocol.calendar_query(ref.uid))
    if answer.status >= 500 or answer.status == 429:
        raise failure(answer)
    members = multistatus(answer.body, answer.status) if answer.status == 207 else ()
    for member in members:
        id = member_id(ref.calendar_id, session.reach.id_in(member.href, answer.url))
        if member.gone or member.broken or not _is_in(ref.calendar_id, id):
            continue
        # Some servers answer a search with everything: only what carries the uid is ours.
        if protocol.DATA in member.found and _carries(member.found[protocol.DATA].text, ref.uid):
            return EventId(id)
    texts = read_all_texts(session, ref.calendar_id, EVENTS_MOST)
    return next((id for id, found in texts.found.items() if any(_carries(text, ref.uid) for text in found)), None)


def _carries(text: str, uid: str) -> bool:
    """Whether this is the text of the event with this uid. Ours are short: they stand on one line, or on two."""
    if uid[:20] not in text:
        return False
    told = standing(text)
    return told is not None and told.uid == uid


def _is_in(calendar_id: CalendarId, id: str) -> bool:
    return canonical(id).rpartition("/")[0] == canonical(calendar_id).rstrip("/")


def _version(answer: Answer) -> str:
    """The version that an answer tells of what it is about; empty if it tells none."""
    return _bounded(answer.headers.get("etag", "").strip())


def _bounded(etag: str) -> str:
    if len(etag) > ETAG_MOST:
        raise ProviderUnavailable("The server's names for versions are longer than this service reads.")
    return etag


def _etag(session: Session, event_id: EventId) -> str:
    """The version of an event that a GET did not tell; empty if the server has none."""
    answer = session.propfind(session.reach.url_of(event_id), (protocol.ETAG,), 0)
    if answer.status != 207:
        return ""
    itself = own(multistatus(answer.body, answer.status), answer.url, session.reach)
    return itself.text(protocol.ETAG) if itself else ""
