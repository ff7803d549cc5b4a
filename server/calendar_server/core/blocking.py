"""Which events block, and why: from a VEVENT's properties to a reason.

In this order, the first that holds decides:
    cancelled          STATUS:CANCELLED, or the calendar's METHOD is CANCEL (RFC 5546 section 3.2.5)
    declined           PARTSTAT=DECLINED at every attendee that is the owner
    working elsewhere  X-MICROSOFT-CDO-BUSYSTATUS:WORKINGELSEWHERE, whatever TRANSP says: TRANSP has no word for it
    free               TRANSP:TRANSPARENT; or BUSYSTATUS:FREE when there is no TRANSP. Exchange writes FREE together with
                       TRANSPARENT ([MS-OXCICAL] section 2.1.3.1.1.20.25), so an OPAQUE beside FREE is the later word of
                       another program, and blocks
    out of office      BUSYSTATUS:OOF
    tentative          STATUS:TENTATIVE, BUSYSTATUS:TENTATIVE, or the owner's PARTSTAT=TENTATIVE
    busy               all else

A property that stands there twice frees only if all of its values do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote

from calendar_server.core.ical import Component, Property
from calendar_server.core.model import BlockReason

_BUSY_STATUS = ("X-MICROSOFT-CDO-BUSYSTATUS", "X-MICROSOFT-MSNCALENDAR-BUSYSTATUS")


@dataclass(frozen=True, slots=True)
class Standing:
    """Why an event blocks or does not, its length aside, and whether it is tentative besides."""

    reason: BlockReason
    tentative: bool = False

    @property
    def blocks(self) -> bool:
        return self.reason.blocks


def judge(event: Component, addresses: frozenset[str], *, cancelled: bool = False) -> Standing:
    """Judge one VEVENT for the owner of ``addresses``. ``cancelled``: the whole calendar object is a cancellation."""
    asked = addresses and "ATTENDEE" in event.properties
    if not cancelled and not asked and event.properties.keys().isdisjoint(_JUDGED):
        return _PLAIN
    status, transparency = _words(event, "STATUS"), _words(event, "TRANSP")
    busy_status = {word for name in _BUSY_STATUS for word in _words(event, name)}
    answers = _answers(event, addresses)
    if cancelled or status == {"CANCELLED"}:
        return Standing(BlockReason.CANCELLED)
    if answers == {"DECLINED"}:
        return Standing(BlockReason.DECLINED)
    if busy_status == {"WORKINGELSEWHERE"}:
        return Standing(BlockReason.WORKING_ELSEWHERE)
    if transparency == {"TRANSPARENT"} or (not transparency and busy_status == {"FREE"}):
        return Standing(BlockReason.FREE)
    tentative = "TENTATIVE" in status | busy_status | answers
    if busy_status & {"OOF", "OUTOFOFFICE"}:
        return Standing(BlockReason.OUT_OF_OFFICE, tentative)
    return Standing(BlockReason.TENTATIVE if tentative else BlockReason.BUSY, tentative)


_JUDGED = frozenset({"STATUS", "TRANSP", *_BUSY_STATUS})
_PLAIN = Standing(BlockReason.BUSY)


def plain_address(address: str) -> str:
    """A calendar user address in the form that is compared: lower case, without ``mailto:``."""
    plain = address.strip().strip('"').casefold().removeprefix("mailto:").strip()
    return (unquote(plain) if "%" in plain else plain).rstrip("/")


def _words(event: Component, name: str) -> set[str]:
    return {line.value.strip().upper() for line in event.all(name)} if name in event.properties else set()


def _answers(event: Component, addresses: frozenset[str]) -> set[str]:
    """What the owner answered. One that stands there under several addresses may have given several answers."""
    if not addresses or "ATTENDEE" not in event.properties:
        return set()
    owner = _plain_addresses(addresses)
    return {line.parameter("PARTSTAT").upper() or "NEEDS-ACTION" for line in event.all("ATTENDEE") if _is(line, owner)}


@lru_cache(maxsize=16)
def _plain_addresses(addresses: frozenset[str]) -> frozenset[str]:
    return frozenset(map(plain_address, addresses))


def _is(attendee: Property, owner: frozenset[str]) -> bool:
    if plain_address(attendee.value) in owner:
        return True
    # RFC 7986 section 6.2: the address to reach an attendee at, where the value is an opaque URI.
    email = attendee.parameter("EMAIL")
    return bool(email) and plain_address(email) in owner
