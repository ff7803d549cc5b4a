"""From a TZID to a zone.

Vocabulary
    zone    the rules by which a place's clocks were and will be set; maps local times to instants and back.
    local   a naive ``datetime``, what a clock on the wall shows.
    wall    the same in whole seconds since the beginning of year 1: many local times at once, quickly.

Local times that a change of clocks skips or repeats follow RFC 5545 section 3.3.5: a repeated one is the first of the
two, a skipped one is read with the offset before the gap.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from calendar_server.core.model import Instant
from calendar_server.core.windows_zones import WINDOWS_DESCRIPTIONS, WINDOWS_ZONES

_EPOCH = datetime(1970, 1, 1)
_ORIGIN = datetime(1, 1, 1)
_EPOCH_WALL = (_EPOCH - _ORIGIN).days * 86_400
DAYS_MOST = 10_000
"""Days of one zone for which is kept what clocks show on them."""
_FIRST = datetime(1, 1, 3)
_LAST = datetime(9999, 12, 28)

_OFFSET = re.compile(r"(?:UTC|GMT)?\s*([+-])\s*(\d{1,2})(?:[:.]?(\d{2}))?", re.ASCII | re.I)
_DESCRIBED = re.compile(r"\((?:UTC|GMT)\s*(?:([+-])\s*(\d{1,2})(?:[:.]?(\d{2}))?)?\)\s*(.*)", re.ASCII | re.I | re.S)
_NOT_PLACES = frozenset({"Factory", "localtime", "posixrules"})
_AREAS = frozenset(
    "Africa America Antarctica Arctic Asia Atlantic Australia Europe Indian Pacific".split()  # noqa: SIM905
)


class Zone(Protocol):
    """Maps local times to instants and back. ``name`` is for messages."""

    @property
    def name(self) -> str: ...

    def instant(self, local: datetime) -> Instant: ...

    def instants(self, walls: Iterable[int]) -> list[Instant]:
        """The instant of each wall, as ``instant`` tells it of the same local time."""

    def local(self, instant: Instant) -> datetime: ...


def wall_local(wall: int) -> datetime:
    """The local time of a wall. Raises ``OverflowError`` after year 9999."""
    return _ORIGIN + timedelta(0, wall)


def wall_instant(wall: int) -> Instant:
    """A wall as if it were UTC's."""
    return (wall - _EPOCH_WALL) * 1_000_000


def naive_instant(local: datetime) -> Instant:
    """A local time as if it were UTC."""
    passed = local - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds


def naive_local(instant: Instant) -> datetime:
    """UTC's local time, within the first days of year 1 and the last of year 9999."""
    try:
        return min(max(_EPOCH + timedelta(microseconds=instant), _FIRST), _LAST)
    except OverflowError:
        return _FIRST if instant < 0 else _LAST


class FixedZone:
    """A zone whose clocks are never changed. ``offset_s`` seconds east of Greenwich."""

    __slots__ = ("_offset", "name")

    def __init__(self, name: str, offset_s: int):
        self.name = name
        self._offset = offset_s * 1_000_000

    def instant(self, local: datetime) -> Instant:
        return naive_instant(local) - self._offset

    def instants(self, walls: Iterable[int]) -> list[Instant]:
        return [wall_instant(wall) - self._offset for wall in walls]

    def local(self, instant: Instant) -> datetime:
        return naive_local(instant + self._offset)


class IanaZone:
    """A zone of the IANA database."""

    __slots__ = ("_days", "_rules", "name")

    def __init__(self, name: str):
        self.name = name
        self._rules = ZoneInfo(name)
        self._days: dict[int, int | None] = {}  # see `_of_day`

    def instant(self, local: datetime) -> Instant:
        # `fold` is 0: that is RFC 5545's reading of skipped and repeated times.
        # It looks at the fields alone, so the zone need not be put into each `local`, which would cost as much again.
        offset = self._rules.utcoffset(local)
        # Zones of the database always have an offset.
        passed = local - _EPOCH - offset if offset is not None else local - _EPOCH
        return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds

    def instants(self, walls: Iterable[int]) -> list[Instant]:
        # Series of all events meet on the same days: with each day's offset kept, a wall takes a fifth of the time.
        days, found = self._days, []
        for wall in walls:
            day = wall // 86_400
            try:
                epoch = days[day]
            except KeyError:
                epoch = self._of_day(day)
            found.append(self.instant(wall_local(wall)) if epoch is None else (wall - epoch) * 1_000_000)
        return found

    @property
    def days_kept(self) -> int:
        """How many days are kept; at most ``DAYS_MOST``."""
        return len(self._days)

    def _of_day(self, day: int) -> int | None:
        """What clocks showed that day (which its walls have in common) when the epoch was; None if they are changed on it.

        No place has ever changed them twice within two days.
        """
        first, last = (self._rules.utcoffset(wall_local(day * 86_400 + second)) for second in (0, 86_399))
        if len(self._days) >= DAYS_MOST:
            # Rarely, and then what is in use comes back by itself. Other threads at worst ask again.
            self._days.clear()
        # Zones of the database always have an offset.
        shown = None if first is None or first != last else _EPOCH_WALL + first.days * 86_400 + first.seconds
        self._days[day] = shown
        return shown

    def local(self, instant: Instant) -> datetime:
        return naive_local(instant).replace(tzinfo=UTC).astimezone(self._rules).replace(tzinfo=None)


class NotedZone:
    """Another zone; ``used`` says whether anybody has asked it by now."""

    __slots__ = ("_zone", "name", "used")

    def __init__(self, zone: Zone):
        self.name = zone.name
        self.used = False
        self._zone = zone

    def instant(self, local: datetime) -> Instant:
        self.used = True
        return self._zone.instant(local)

    def instants(self, walls: Iterable[int]) -> list[Instant]:
        self.used = True
        return self._zone.instants(walls)

    def local(self, instant: Instant) -> datetime:
        self.used = True
        return self._zone.local(instant)


UTC_ZONE: Zone = FixedZone("UTC", 0)


@lru_cache(maxsize=1024)
def named(tzid: str) -> Zone | None:
    """The zone of an IANA name (also an alias, in any case), a Windows name, or either behind a vendor's prefix.

    Only names of the database are looked for, never paths: ``localtime`` would be this machine's own zone.
    """
    name = tzid.strip().strip('"').strip()
    if not name or len(name) > 256:
        return None
    exact = _iana().get(name.casefold().replace(" ", "_"))
    if exact is not None:
        return IanaZone(exact)
    windows = _windows(name)
    if windows is not None:
        return IanaZone(windows)
    # "/mozilla.org/20070129_1/Europe/Berlin": the longest end that is a name. One word alone is taken for a name behind
    # what looks like a vendor only: "Company/EST" may well be a zone of the text's own.
    segments = name.strip("/").split("/")
    vendor = name.startswith("/") or "." in segments[0] or ":" in segments[0]
    for first in range(len(segments) if vendor else len(segments) - 1):
        ending = "/".join(segments[first:])
        found = _iana().get(ending.casefold().replace(" ", "_")) or _windows(ending)
        if found is not None:
            return IanaZone(found)
    return None


@lru_cache(maxsize=1024)
def described(tzid: str) -> Zone | None:
    """The zone of an id that tells an offset: ``GMT+0100``, ``UTC+2``, ``(UTC+01:00) Amsterdam, Berlin, Bern``.

    An offset together with places that are not known is no zone: whether their clocks change is not known either.
    """
    name = tzid.strip().strip('"').strip()[:256]
    if name.upper() in {"Z", "UTC", "GMT"}:
        return UTC_ZONE
    match = _OFFSET.fullmatch(name)
    if match is not None:
        return _fixed(name, match[1], match[2], match[3])
    match = _DESCRIBED.fullmatch(name)
    if match is None:
        known = WINDOWS_DESCRIPTIONS.get(name.casefold())
        return IanaZone(known) if known else None
    offset = _fixed(name, match[1] or "+", match[2] or "0", match[3])
    places = match[4].strip()
    if not places or offset is None:
        return offset
    known = WINDOWS_DESCRIPTIONS.get(places.casefold())
    if known:
        return IanaZone(known)
    names = [places]
    for place in re.split(r"\s*[,;/:]\s*", places):
        names += _cities().get(place.casefold().replace(" ", "_"), ())
    zones = filter(None, map(named, names))
    return next((zone for zone in zones if _standard_offset(zone) == -offset.instant(_EPOCH)), None)


def _fixed(name: str, sign: str, hours: str, minutes: str | None) -> FixedZone | None:
    seconds = int(hours) * 3600 + int(minutes or 0) * 60
    if int(minutes or 0) > 59 or seconds > 14 * 3600 or (sign == "-" and seconds > 12 * 3600):
        return None
    return FixedZone(name, -seconds if sign == "-" else seconds)


def _windows(name: str) -> str | None:
    folded = name.casefold()
    return WINDOWS_ZONES.get(folded) or WINDOWS_ZONES.get(folded.replace(" daylight time", " standard time"))


@cache
def _iana() -> dict[str, str]:
    """Every name of the database, by its case folded form."""
    names = importlib.resources.files("tzdata").joinpath("zones").read_text(encoding="ascii").split()
    return {name.casefold(): name for name in names if name not in _NOT_PLACES}


@cache
def _cities() -> dict[str, list[str]]:
    """The last part of each name, case folded → the names."""
    found: dict[str, list[str]] = {}
    for name in _iana().values():
        area, slash, _ = name.partition("/")
        if slash and area in _AREAS:
            found.setdefault(name.rpartition("/")[2].casefold(), []).append(name)
    return found


def _standard_offset(zone: Zone) -> Instant:
    """The smaller of the offsets that the zone has in January and in July."""
    return min(naive_instant(local) - zone.instant(local) for local in (datetime(2025, 1, 15), datetime(2025, 7, 15)))
