"""From what a person enters to their calendars (RFC 6764 section 6, RFC 4791 section 6.2.1, RFC 6638 section 9.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from calendar_server.core.model import Calendar, CalendarId, Preset
from calendar_server.errors import (
    CalendarGone,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers import caldav_protocol as protocol
from calendar_server.providers.caldav_address import BadHref, Origin, canonical, collection_id
from calendar_server.providers.caldav_events import time_zone_name
from calendar_server.providers.caldav_members import own
from calendar_server.providers.caldav_protocol import Member, multistatus
from calendar_server.providers.caldav_session import LeadsElsewhere, Session, credentials_refused, failure
from calendar_server.providers.egress import Answer

BASES = {
    Preset.APPLE: "https://caldav.icloud.com/",
    Preset.FASTMAIL: "https://caldav.fastmail.com/dav/",
}
"""Where presets that need no ``server_url`` begin."""
NEXTCLOUD_PATH = "/remote.php/dav"
WELL_KNOWN = "/.well-known/caldav"

HOMES_MOST = 20
CALENDARS_MOST = 500
"""An account with more is not read at all: what was left out would look free."""
ADDRESSES_MOST = 100
ADDRESS_MOST = 320
"""Characters of an address of the owner: longer ones, and further ones, are none. What they declined then blocks."""
NAME_MOST = 250
"""Characters of a calendar's name."""
LOOKS_MOST = 50
"""Collections that are asked one by one for what their home did not tell."""
VAIN_LOOKS_MOST = 5
"""Of those, how many may know no more than their home did before the others are taken to be like them."""

_COLLECTION = (
    protocol.RESOURCE_TYPE,
    protocol.NAME,
    protocol.COMPONENTS,
    protocol.PRIVILEGES,
    protocol.OWNER,
    protocol.TRANSPARENCY,
    protocol.COLOR,
    protocol.TIME_ZONE,
    protocol.TIME_ZONE_ID,
)
# A collection's own answer may differ from what its home says of it; these decide something.
_DECISIVE = (protocol.COMPONENTS, protocol.PRIVILEGES, protocol.OWNER, protocol.TRANSPARENCY, protocol.TIME_ZONE)
_WRITING = frozenset(protocol.DAV + name for name in ("write", "write-content", "bind", "all"))
# Not there, or not for us: what a place answers that is not what we look for.
_NOT_HERE = frozenset({400, 403, 404, 405, 406, 409, 410, 415, 422, 501})


@dataclass(frozen=True, slots=True)
class Collection:
    """A calendar with what only connecting needs to know. ``owner`` is canonical, empty where it is not told."""

    calendar: Calendar
    owner: str
    transparent: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where an account's things are, as ids. Stored with the connection."""

    principal: str = ""
    homes: tuple[str, ...] = ()
    inbox: str = ""
    selected: str = ""
    """The calendar that was entered as ``server_url`` itself."""


@dataclass(frozen=True, slots=True)
class Discovered:
    place: Place
    addresses: tuple[str, ...]
    """What ``calendar-user-address-set`` holds, ``mailto:`` included."""
    selves: frozenset[str]
    """Canonical spellings of the account's principal."""


def base_url(preset: Preset, server_url: str) -> str:
    """Where discovery begins for what was entered."""
    if preset in BASES:
        return BASES[preset]
    if preset is Preset.NEXTCLOUD and not re.search(r"/remote\.php/(cal)?dav(/|$)", urlsplit(server_url).path):
        parts = urlsplit(server_url)
        return parts._replace(path=parts.path.rstrip("/") + NEXTCLOUD_PATH + "/", query="").geturl()
    return server_url


def discover(session: Session, url: str) -> Discovered:
    """Find the account's principal and what hangs on it, beginning at ``url``.

    Raises ``ProviderRefused`` with the cause ``credentials`` or ``not_caldav``, or because the way leads elsewhere.
    """
    origin = Origin.of(url)
    candidates = dict.fromkeys((url, f"{origin}{WELL_KNOWN}", f"{origin}/"))
    fallback: Discovered | None = None
    obstacle: ProviderRefused | None = None
    for candidate in candidates:
        try:
            found = _look(session, candidate, entered=candidate == url)
        except ProviderRefused as error:
            if error.cause == "credentials":
                raise
            # A home page may lead elsewhere while the well-known place of the same server is in order.
            obstacle = obstacle or error
            continue
        except ProviderUnavailable:
            if fallback is None:
                raise
            continue
        if found and found.place.principal:
            selected = fallback.place.selected if fallback else found.place.selected
            return replace(found, place=replace(found.place, selected=selected))
        fallback = fallback or found
    if fallback is None:
        raise obstacle or ProviderRefused(
            "There is no CalDAV server at this address. Check server_url.", cause="not_caldav"
        )
    return fallback


def _look(session: Session, url: str, *, entered: bool) -> Discovered | None:
    """Look at one place where discovery may begin; None if it says nothing."""
    answer = session.propfind(
        url, (protocol.PRINCIPAL, protocol.PRINCIPAL_URL, protocol.HOME_SET, protocol.RESOURCE_TYPE), 0
    )
    if answer.status != 207:
        if answer.status in _NOT_HERE or answer.status < 300:
            return None
        raise failure(answer)
    reach = session.reach
    here = own(multistatus(answer.body, answer.status), answer.url, reach)
    if here is None or (here.status is not None and not 200 <= here.status < 300):
        return None
    if protocol.PRINCIPAL in here.found and protocol.UNAUTHENTICATED in here.found[protocol.PRINCIPAL].tags:
        # RFC 5397 section 3: the server took us for nobody.
        raise credentials_refused()
    selected = collection_id(reach.id_in(here.href, answer.url)) if entered and _is_calendar(here) else ""
    principal = next(iter(here.hrefs(protocol.PRINCIPAL)), "")
    if principal:
        found = _principal(session, session.visitable(_located(session, principal, answer)))
    elif here.hrefs(protocol.HOME_SET):
        found = _principal(session, answer.url)
    elif selected:
        found = Discovered(Place(), (), frozenset())
    elif entered and _is_collection(here):
        # A server without principals: what was entered may be the home itself.
        found = Discovered(Place(homes=(reach.id_in(here.href, answer.url),)), (), frozenset())
    else:
        return None
    return replace(found, place=replace(found.place, selected=selected))


def _principal(session: Session, url: str) -> Discovered:
    reach = session.reach
    answer = session.propfind(
        url, (protocol.HOME_SET, protocol.ADDRESSES, protocol.INBOX, protocol.PRINCIPAL, protocol.PRINCIPAL_URL), 0
    )
    place = Place(principal=reach.id_of(url))
    if answer.status != 207:
        if answer.status in _NOT_HERE or answer.status < 300:
            return Discovered(place, (), frozenset({canonical(place.principal)}))
        raise failure(answer)
    here = own(multistatus(answer.body, answer.status), answer.url, reach)
    if here is None:
        raise ProviderUnavailable("The server's answer is not about the account that was asked for.")
    if here.broken:
        raise ProviderUnavailable("The server could not tell about the account.")
    told = tuple(dict.fromkeys(here.hrefs(protocol.HOME_SET)))
    if len(told) > HOMES_MOST:
        raise ProviderUnavailable(f"The account has more than the {HOMES_MOST} homes for calendars that are read.")
    homes = tuple(reach.id_in(href, answer.url) for href in told if session.visitable(_located(session, href, answer)))
    inbox = next(iter(here.hrefs(protocol.INBOX)), "")
    selves = {canonical(place.principal), canonical(reach.id_in(here.href, answer.url))}
    for href in (*here.hrefs(protocol.PRINCIPAL), *here.hrefs(protocol.PRINCIPAL_URL)):
        selves.add(canonical(reach.id_in(href, answer.url)))
    usable = [address for address in here.hrefs(protocol.ADDRESSES) if len(address) <= ADDRESS_MOST]
    addresses = tuple(dict.fromkeys(usable))[:ADDRESSES_MOST]
    return Discovered(
        replace(place, homes=homes, inbox=reach.id_in(inbox, answer.url) if inbox else ""), addresses, frozenset(selves)
    )


def speaks_caldav(session: Session, place: Place) -> bool:
    """Whether the server says that it is one for calendars (RFC 4791 section 5.1)."""
    answer = session.exchange("OPTIONS", session.reach.url_of(place.principal or "/"), {})
    told = ",".join(value for name, value in answer.header_list if name.lower() == "dav")
    return "calendar-access" in {word.strip().lower() for word in told.split(",")}


def collections(session: Session, place: Place) -> list[Collection]:
    """Every calendar that takes events, in the server's order; the default one for bookings is ``primary``.

    A home that is not there or not for us is left out as long as another one answers. Raises ``CalendarGone`` when none
    does.
    """
    found: dict[str, Collection] = {}
    refused: Answer | None = None
    reached = False
    if place.selected:
        own_answer = session.propfind(session.reach.url_of(place.selected), _COLLECTION, 0)
        reached = _gather(session, own_answer, found, only=place.selected)
        refused = None if reached else own_answer
    for home in place.homes:
        answer = session.propfind(session.reach.url_of(collection_id(home)), _COLLECTION, 1)
        if _gather(session, answer, found):
            reached = True
        else:
            refused = answer
    if refused is not None and not reached:
        raise CalendarGone("The account's calendars are no longer where they were. Connect the account again.")
    return _with_default(session, place, list(found.values()))


def _gather(session: Session, answer: Answer, found: dict[str, Collection], *, only: str = "") -> bool:
    """Add the calendars of an answer by canonical id. Answers whether it was one about calendars at all."""
    if answer.status in _NOT_HERE:
        return False
    if answer.status != 207:
        raise failure(answer)
    reach = session.reach
    members = multistatus(answer.body, answer.status)
    itself = own(members, answer.url, reach, alone=bool(only))
    if itself is not None and itself.gone:
        return False
    if itself is not None and itself.broken:
        raise ProviderUnavailable("The server could not list the calendars.")
    looks = vain = 0
    for member in members:
        if not _is_calendar(member):
            if _is_withheld(member):
                # It may be a calendar; a list without it would be taken for all there is.
                raise ProviderUnavailable("The server could not tell about one of the calendars.")
            continue
        id = CalendarId(collection_id(reach.id_in(member.href, answer.url)))
        if canonical(id) in found:
            continue
        session.visitable(reach.url_of(id))
        if len(found) >= CALENDARS_MOST:
            raise ProviderUnavailable(f"The account has more than the {CALENDARS_MOST} calendars that are read.")
        withheld = any(tag not in member.found for tag in _DECISIVE)
        if withheld and not only and looks < LOOKS_MOST and vain < VAIN_LOOKS_MOST:
            # DAViCal keeps calendar-timezone back at depth 1, and tells it at depth 0.
            before, member = member, _asked_itself(session, id, member)
            looks, vain = looks + 1, vain + (len(member.found) == len(before.found))
        if _takes_events(member):
            found[canonical(id)] = _collection(id, member, lambda href: canonical(reach.id_in(href, answer.url)))
    return True


def _asked_itself(session: Session, id: str, member: Member) -> Member:
    missing = [tag for tag in _COLLECTION if tag not in member.found]
    answer = session.propfind(session.reach.url_of(id), missing, 0)
    if answer.status != 207:
        if answer.status in _NOT_HERE:
            return member
        raise failure(answer)
    itself = own(multistatus(answer.body, answer.status), answer.url, session.reach)
    return member if itself is None else member._replace(found={**itself.found, **member.found})


def _collection(id: CalendarId, member: Member, canonical_of: Callable[[str], str]) -> Collection:
    types = member.found[protocol.RESOURCE_TYPE].tags
    privileges = member.found.get(protocol.PRIVILEGES)
    owner = next(iter(member.hrefs(protocol.OWNER)), "")
    transparency = member.found.get(protocol.TRANSPARENCY)
    return Collection(
        Calendar(
            id=id,
            name=member.text(protocol.NAME)[:NAME_MOST] or _last_segment(id),
            time_zone=_zone_name(member),
            writable=(privileges is None or bool(privileges.tags & _WRITING))
            and protocol.CALENDARSERVER + "subscribed" not in types,
            color=_color(member.text(protocol.COLOR)),
        ),
        owner=canonical_of(owner) if owner else "",
        transparent=transparency is not None and protocol.CALDAV + "transparent" in transparency.tags,
    )


def _with_default(session: Session, place: Place, found: list[Collection]) -> list[Collection]:
    """Mark the calendar that the server itself puts invitations in (RFC 6638 section 9.2)."""
    default = _default_calendar(session, place) if place.inbox and found else ""
    return [
        replace(one, calendar=replace(one.calendar, primary=canonical(one.calendar.id) == default)) if default else one
        for one in found
    ]


def _default_calendar(session: Session, place: Place) -> str:
    """The canonical id of the default calendar; empty if the inbox does not tell."""
    try:
        url = session.visitable(session.reach.url_of(place.inbox))
        answer = session.propfind(url, (protocol.DEFAULT_CALENDAR,), 0)
        if answer.status != 207:
            return ""
        inbox = own(multistatus(answer.body, answer.status), answer.url, session.reach)
    except (LeadsElsewhere, ProviderUnavailable, BadHref):
        # Only a preference: not worth a connection.
        return ""
    href = next(iter(inbox.hrefs(protocol.DEFAULT_CALENDAR)), "") if inbox else ""
    return canonical(session.reach.id_in(href, answer.url)) if href else ""


def _located(session: Session, href: str, answer: Answer) -> str:
    try:
        return session.reach.locate(href, answer.url)
    except BadHref:
        raise ProviderRefused("The server names an address that cannot be visited.", cause="not_caldav") from None


def _is_calendar(member: Member) -> bool:
    """Whether events in it may block. A calendar that is an outbox besides is one: at SOGo, everybody's main calendar."""
    types = member.found[protocol.RESOURCE_TYPE].tags if protocol.RESOURCE_TYPE in member.found else frozenset()
    return protocol.CALENDAR in types and not types & {
        protocol.CALDAV + "schedule-inbox",
        protocol.NEXTCLOUD + "deleted-calendar",
    }


def _is_withheld(member: Member) -> bool:
    """Whether the server failed, rather than refused, to tell what a resource is."""
    status = member.status or member.failed.get(protocol.RESOURCE_TYPE, 404)
    return not 200 <= status < 300 and status not in (401, 403, 404, 410)


def _is_collection(member: Member) -> bool:
    return protocol.RESOURCE_TYPE in member.found and protocol.COLLECTION in member.found[protocol.RESOURCE_TYPE].tags


def _takes_events(member: Member) -> bool:
    """A calendar that names what it takes must name events; one that names nothing takes all (RFC 4791 §5.2.3)."""
    told: Iterable[str] = member.found[protocol.COMPONENTS].names if protocol.COMPONENTS in member.found else ()
    names = {name.upper() for name in told}
    return not names or "VEVENT" in names


def _zone_name(member: Member) -> str:
    for name in (member.text(protocol.TIME_ZONE_ID), time_zone_name(member.text(protocol.TIME_ZONE))):
        try:
            if name and ZoneInfo(name):
                return name
        except (KeyError, ValueError, OSError):
            continue
    return ""


def _color(text: str) -> str:
    told = re.fullmatch(r"#([0-9A-Fa-f]{6})([0-9A-Fa-f]{2})?", text)
    return f"#{told[1].lower()}" if told else ""


def _last_segment(id: str) -> str:
    return canonical(id).rpartition("/")[2]
