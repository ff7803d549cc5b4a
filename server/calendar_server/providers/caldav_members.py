"""What an answer says of the resources in a calendar: their ids, etags and texts. Nothing here touches the network, so that
the children that read calendar text can do it as well (`caldav_whole`)."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from calendar_server.core.busy import Resource
from calendar_server.core.ical import unfolded
from calendar_server.core.model import CalendarId, EventId
from calendar_server.errors import CalendarGone, ProviderUnavailable
from calendar_server.providers import caldav_protocol as protocol
from calendar_server.providers.caldav_address import Reach, canonical, member_id
from calendar_server.providers.caldav_protocol import Member

TEXT_MOST = 40_000_000
"""Bytes of memory for the texts of one read: a letter takes from one to four."""

# None of them is asked for, though free-busy times and availability could block: docs/caldav.md says so.
_OTHER_COMPONENT = re.compile("BEGIN:(VTODO|VJOURNAL|VFREEBUSY|VAVAILABILITY|VPOLL)")


@dataclass(slots=True)
class Texts:
    """What a read brought. ``empty`` are events without a text, ``others`` resources that hold no event.

    ``etags`` are those of the texts in ``found`` and of ``others``: strong ones, else empty. An etag is never newer than
    its text. ``as_listed`` are those whose text came together with the etag that they were listed with.

    ``by_name``: some had to be asked for, after the answer about everything.
    """

    found: dict[EventId, list[str]] = field(default_factory=dict)
    empty: dict[EventId, str] = field(default_factory=dict)
    others: set[EventId] = field(default_factory=set)
    etags: dict[EventId, str] = field(default_factory=dict)
    as_listed: set[EventId] = field(default_factory=set)
    size: int = 0
    by_name: bool = False

    def add(self, event_id: EventId, text: str, etag: str) -> None:
        """Take a text. A resource that is told twice with the same text counts once."""
        if not holds_event(text):
            self.others.add(event_id)
            self.etags[event_id] = etag
            return
        known = self.found.setdefault(event_id, [])
        if text not in known:
            self.etags[event_id] = "" if known else etag
            known.append(text)
            self.size += sys.getsizeof(text)
        if self.size > TEXT_MOST:
            raise ProviderUnavailable("The calendar is larger than this service reads.")

    @property
    def event_ids(self) -> frozenset[EventId]:
        return frozenset(self.found) | frozenset(self.empty)

    def resources(self) -> list[Resource]:
        """What there is to read."""
        return [Resource(event_id, text) for event_id, found in self.found.items() for text in found]


class Listed(NamedTuple):
    """An event, how the server spells it, and its strong etag, else empty."""

    event_id: EventId
    href: str
    etag: str = ""


def own(members: Sequence[Member], url: str, reach: Reach, *, alone: bool = True) -> Member | None:
    """The member of a multistatus that is about the URL that it came from.

    ``alone``: it was asked with depth 0, so an only member is the one meant, however it is spelled.
    """
    itself = _own([reach.id_in(member.href, url) for member in members], members, url, reach)
    return members[0] if itself is None and alone and len(members) == 1 else itself


def _own(ids: Sequence[str], members: Sequence[Member], url: str, reach: Reach) -> Member | None:
    wanted = canonical(reach.id_of(url))
    return next((member for id, member in zip(ids, members, strict=True) if canonical(id) == wanted), None)


def members_of(
    calendar_id: CalendarId, members: Sequence[Member], url: str, reach: Reach, most: int
) -> list[tuple[Listed, Member]]:
    """The members of a calendar in an answer about it that came from ``url``, at most ``most``.

    The calendar itself must be well. Raises ``CalendarGone``, ``ProviderUnavailable``.
    """
    ids = [reach.id_in(member.href, url) for member in members]
    itself = _own(ids, members, url, reach)
    if itself is not None:
        if itself.gone:
            raise CalendarGone("The calendar is no longer there. Choose another one with UpdateConnection.")
        if itself.broken or any(status != 404 for tag, status in itself.failed.items() if tag not in protocol.SIGNALS):
            raise _not_all()
    wanted = canonical(reach.id_of(url))
    if any(member.broken and canonical(id) == wanted for id, member in zip(ids, members, strict=True)):
        # Who cuts an answer short says so at its end, after what it says of the calendar (Stalwart; RFC 6578 section 3.6).
        raise _not_all()
    if len(members) - (itself is not None) > most:
        raise ProviderUnavailable(f"The calendar has more than the {most} events that are read.")
    found = []
    for id, member in zip(ids, members, strict=True):
        if member is not itself:
            event_id = EventId(member_id(calendar_id, id))
            found.append((Listed(event_id, member.href, strong(member.text(protocol.ETAG))), member))
    return found


def _not_all() -> ProviderUnavailable:
    return ProviderUnavailable("The server could not tell all that is in the calendar.")


def is_folder(member: Member) -> bool:
    """Whether the answer says that the resource is a collection."""
    types = member.found.get(protocol.RESOURCE_TYPE)
    return types is not None and protocol.COLLECTION in types.tags


def take(one: Listed, member: Member, texts: Texts) -> bool:
    """Take what an answer says of one event. False: it has no text, and nothing says that it is gone."""
    if member.gone:
        return True
    if member.broken or any(status not in (404, 410) for tag, status in member.failed.items() if tag == protocol.DATA):
        raise ProviderUnavailable("The server could not hand out one of the events.")
    text = member.found[protocol.DATA].text if protocol.DATA in member.found else ""
    if not text.strip():
        return False
    etag = strong(member.text(protocol.ETAG))
    texts.add(one.event_id, text, etag or one.etag)
    if etag and etag == one.etag:
        texts.as_listed.add(one.event_id)
    return True


def strong(etag: str) -> str:
    """A strong etag as it is; empty for a weak one (RFC 9110 section 8.8.1), which may stand for two texts, or none."""
    etag = etag.strip()
    return "" if etag[:2] in ("W/", "w/") or etag == '""' else etag


def holds_event(text: str) -> bool:
    """Whether a text may hold an event: False for to-dos, journals and the like only."""
    if "BEGIN:VEVENT" in text:
        return True
    whole = unfolded(text).upper()
    return "VEVENT" in whole or not _OTHER_COMPONENT.search(whole)


class Kind(Enum):
    """What a resource in a calendar is, as far as its content type tells."""

    EVENT = "an event, or it does not say"
    OTHER = "a to-do or the like"
    FOREIGN = "no calendar text"


def kind_of(member: Member) -> Kind:
    """What a listed resource is: RFC 4791 section 4.1 allows nothing but calendar text, but servers do."""
    kind = member.text(protocol.CONTENT_TYPE).lower()
    main, _, parameters = kind.partition(";")
    if not kind or member.href.lower().endswith(".ics"):
        main = "text/calendar"
    component = parameters.replace(" ", "").replace('"', "").partition("component=")[2].partition(";")[0]
    if main.strip() != "text/calendar":
        return Kind.FOREIGN
    return Kind.EVENT if component in ("", "vevent") else Kind.OTHER
