"""Zones that a calendar text defines itself (VTIMEZONE, RFC 5545 section 3.6.5)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from calendar_server.core.ical import Component, Property
from calendar_server.core.model import Instant
from calendar_server.core.recurrence import RuleError, TooMuchWork, occurrences, parse_rule, with_until
from calendar_server.core.values import BadValue, Moment, additions, moment
from calendar_server.core.zones import Zone, described, naive_instant, naive_local, named, wall_instant

_LAST = datetime(2101, 1, 1)
"""Changes of clocks are worked out up to here. Windows end three years ahead."""

CHANGES_MAX = 2_000
"""Changes of clocks in one observance: more than twice a year from 1601 on."""

_OFFSET = re.compile(r"([+-]?)(\d{2}):?(\d{2}):?(\d{2})?", re.ASCII)


class BadZone(ValueError):
    """The text's definition of a zone cannot be understood."""


class _Observance(NamedTuple):
    """STANDARD or DAYLIGHT, as written: hashable, so that equal definitions in many events are worked out once."""

    start: str
    before: str
    after: str
    rules: tuple[str, ...]
    dates: tuple[Property, ...]


class _Change(NamedTuple):
    """At ``at`` the offset becomes ``after``; microseconds."""

    at: Instant
    before: int
    after: int


class OwnZone:
    """A zone made of changes, ascending; at least one. Before the first its ``before`` holds."""

    __slots__ = ("_at", "_offsets", "_walls", "name")

    def __init__(self, name: str, changes: list[_Change]):
        self.name = name
        self._at = [change.at for change in changes]
        # A change is seen on the wall when the larger of both offsets reaches it: then what is skipped is read with the
        # offset before, and what is repeated is the first of the two (RFC 5545 section 3.3.5).
        self._walls = [change.at + max(change.before, change.after) for change in changes]
        self._offsets = [changes[0].before, *(change.after for change in changes)]

    def instant(self, local: datetime) -> Instant:
        wall = naive_instant(local)
        return wall - self._offsets[bisect_right(self._walls, wall)]

    def instants(self, walls: Iterable[int]) -> list[Instant]:
        changes, offsets = self._walls, self._offsets
        return [wall - offsets[bisect_right(changes, wall)] for wall in map(wall_instant, walls)]

    def local(self, instant: Instant) -> datetime:
        return naive_local(instant + self._offsets[bisect_right(self._at, instant)])


class Zones:
    """The zones that one text can name: the database's first, then those it defines, then those told as an offset."""

    __slots__ = ("_by_id", "_calendars", "_found")

    def __init__(self, calendars: Sequence[Component] = ()):
        self._calendars = calendars
        self._by_id: dict[str, Component] | None = None
        self._found: dict[str, Zone | None] = {}

    def _defined(self) -> dict[str, Component]:
        """By their plain ids. Of two definitions of one zone the last counts. Most texts name zones of the database only."""
        if self._by_id is None:
            self._by_id = {
                _plain(component.text("TZID")): component
                for calendar in self._calendars
                for component in calendar.components
                if component.name == "VTIMEZONE"
            }
        return self._by_id

    def find(self, tzid: str) -> Zone | None:
        """The zone, or None where the id says nothing that is understood."""
        if tzid not in self._found:
            self._found[tzid] = named(tzid) or self._own(tzid) or described(tzid)
        return self._found[tzid]

    def only(self) -> Zone | None:
        """The first zone that the text defines: what ``CALDAV:calendar-timezone`` is about (RFC 4791 section 5.2.2)."""
        for tzid in self._defined():
            return self.find(tzid)
        return None

    def _own(self, tzid: str) -> Zone | None:
        component = self._defined().get(_plain(tzid))
        if component is None:
            return None
        try:
            return _zone(tzid, tuple(_observances(component)))
        except BadZone:
            # Some producers leave the rules out and name the place beside.
            return named(component.text("X-LIC-LOCATION"))


def _plain(tzid: str) -> str:
    return tzid.strip().strip('"').strip().casefold()


def _observances(component: Component) -> Iterable[_Observance]:
    if component.damage:
        raise BadZone(component.damage)
    for part in component.components:
        if part.name in ("STANDARD", "DAYLIGHT"):
            if part.damage:
                raise BadZone(part.damage)
            yield _Observance(
                part.text("DTSTART"),
                part.text("TZOFFSETFROM"),
                part.text("TZOFFSETTO"),
                tuple(line.value for line in part.all("RRULE")),
                tuple(part.all("RDATE")),
            )


@lru_cache(maxsize=256)
def _zone(name: str, observances: tuple[_Observance, ...]) -> OwnZone:
    """Work out the changes. Raises ``BadZone``."""
    changes: dict[Instant, _Change] = {}
    for observance in observances:
        try:
            for change in _changes(observance):
                changes[change.at] = change
        except (BadValue, RuleError, TooMuchWork, OverflowError) as error:
            raise BadZone(str(error)) from error
    if not changes:
        raise BadZone("The zone has no offset.")
    return OwnZone(name, sorted(changes.values()))


def _changes(observance: _Observance) -> Iterable[_Change]:
    start = moment(observance.start)
    before, after = _offset(observance.before or observance.after), _offset(observance.after or observance.before)
    locals_: set[datetime] = {start.local}
    for text in observance.rules:
        rule = parse_rule(text)
        if rule.within_day:
            raise BadZone("Clocks are not changed within the day, again and again.")
        if rule.until is not None and rule.until.utc:
            rule = with_until(rule, rule.until.value + timedelta(microseconds=before))
        locals_.update(occurrences(rule, start.local, start.local, _LAST, limit=CHANGES_MAX))
    for line in observance.dates:
        if line.value.count(",") > CHANGES_MAX:
            raise BadZone("The zone changes too often.")
        for addition in additions(line):
            locals_.add(_onset(addition.start, before))
    for local in locals_:
        yield _Change(naive_instant(local) - before, before, after)


def _onset(date: Moment, before: int) -> datetime:
    return date.local + timedelta(microseconds=before) if date.is_utc else date.local


def _offset(text: str) -> int:
    match = _OFFSET.fullmatch(text.strip())
    if match is None or int(match[2]) > 23 or int(match[3]) > 59 or int(match[4] or 0) > 59:
        raise BadZone("An offset cannot be read.")
    seconds = int(match[2]) * 3600 + int(match[3]) * 60 + int(match[4] or 0)
    return (-seconds if match[1] == "-" else seconds) * 1_000_000
