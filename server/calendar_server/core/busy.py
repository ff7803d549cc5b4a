"""When one calendar object resource makes its owner busy (RFC 4791 section 4.1, RFC 5545).

What cannot be read is never taken for free: it is named, unless it certainly lies outside the window or certainly does
not block. One broken override leaves the rest of its series exact.

Nothing here is fast enough for hostile text, nor safe from it: run it in a child process with limits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from calendar_server.core.blocking import Standing, judge
from calendar_server.core.event import EAST, WEST, Context, Event, Unreadable, read_event
from calendar_server.core.ical import Component, NotACalendar, parse
from calendar_server.core.intervals import touches
from calendar_server.core.model import BlockReason, BusyEvent, EventId, Instant, Interval, UnreadableEvent
from calendar_server.core.series import (
    RECURRENCE,
    Keys,
    Occurrence,
    Range,
    expand,
    original_of,
    reach,
    single,
    touches_with_travel,
)
from calendar_server.core.values import BadValue, Moment, moment
from calendar_server.core.vtimezone import Zones
from calendar_server.core.zones import UTC_ZONE, Zone, naive_instant, named

PROBLEMS_MAX = 20
"""Problems that are named of one resource."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One calendar object resource: its id, and its iCalendar text."""

    event_id: EventId
    text: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What is asked of a calendar."""

    window: Interval
    calendar_timezone: str = ""
    """The value of ``CALDAV:calendar-timezone`` (a VCALENDAR text) or an IANA id; empty when there is none."""
    addresses: frozenset[str] = frozenset()
    """The owner's calendar user addresses, lower case, without ``mailto:``."""


@dataclass(frozen=True, slots=True)
class ResourceBusy:
    """What one resource has in a window, by start: also what does not block, and what could not be read."""

    events: tuple[BusyEvent, ...] = ()
    unreadable: tuple[UnreadableEvent, ...] = ()


Vote = tuple[str, str]
"""What one resource says about the calendar's zone: its X-WR-TIMEZONE, and the zone in which it starts; empty where it
says nothing that is understood."""

_ABOVE_ALL_EVENTS = 10**9
_X_WR_TIMEZONE = re.compile(r"^X-WR-TIMEZONE(?:;[^:\r\n]*)?:([^\r\n]+)", re.I | re.M)
_START_ZONE = re.compile(r'^DTSTART;(?:[^:\r\n]*;)?TZID=("[^"\r\n]*"|[^;:\r\n]+)', re.I | re.M)


def floating_zone(resources: Iterable[Resource], calendar_timezone: str) -> str:
    """The zone of the calendar's dates and floating times: an IANA name, or a VCALENDAR text that defines one.

    The first that is understood: ``calendar_timezone``, X-WR-TIMEZONE, the zone that most of the events name, UTC.
    """
    return own_zone(calendar_timezone) or elected(map(zone_vote, resources))


def own_zone(calendar_timezone: str) -> str:
    """``floating_zone`` of a calendar without events; empty when ``calendar_timezone`` is not understood."""
    found = _calendar_zone(calendar_timezone)
    if found is None:
        return ""
    known = named(found.name)
    return known.name if known else calendar_timezone


def zone_vote(resource: Resource) -> Vote:
    """What a resource says about the calendar's zone."""
    upper = resource.text.upper()
    at = upper.find("DTSTART;")
    if len(upper) != len(resource.text):
        at = min(at, 0)  # some letters are two in capitals
    start = _START_ZONE.search(resource.text, at) if at >= 0 else None
    told = _X_WR_TIMEZONE.search(resource.text) if "X-WR-TIMEZONE" in upper else None
    zone = named(told[1]) if told else None
    return zone.name if zone else "", start[1] if start and named(start[1]) else ""


def elected(votes: Iterable[Vote]) -> str:
    """The IANA name of the zone with most votes: an X-WR-TIMEZONE comes before all events. Without votes UTC.

    Votes are all that it takes: who keeps one of each resource elects as if all of their texts were read again.
    """
    tally: Counter[str] = Counter()
    for (told, start), times in Counter(votes).items():
        if told:
            tally[told] += times * _ABOVE_ALL_EVENTS
        if start:
            tally[start] += times
    for tzid, _ in sorted(tally.items(), key=lambda vote: (-vote[1], vote[0])):
        if (zone := named(tzid)) is not None:
            return zone.name
    return UTC_ZONE.name


def zone_of(name_or_text: str) -> Zone:
    """The zone that ``floating_zone`` named. UTC for what is not understood."""
    return _calendar_zone(name_or_text) or UTC_ZONE


def read_resource(resource: Resource, reading: Reading, floating: Zone | str, *, limit: int) -> ResourceBusy:
    """When the resource's events are in the window. ``limit``: occurrences in the window, at most.

    Never raises for any text: what cannot be read is in the result.
    """
    try:
        return _read(resource, reading, zone_of(floating) if isinstance(floating, str) else floating, limit)
    except NotACalendar as error:
        return _unreadable(resource, str(error))
    except Exception as error:
        # A text that breaks the reader in a way that was not foreseen must not take the other events along.
        return _unreadable(resource, f"The event cannot be read ({type(error).__name__}).")


def _unreadable(resource: Resource, message: str) -> ResourceBusy:
    return ResourceBusy(unreadable=(UnreadableEvent(resource.event_id, message),))


def _calendar_zone(name_or_text: str) -> Zone | None:
    if "BEGIN:VTIMEZONE" not in name_or_text.upper():
        return Zones().find(name_or_text.strip())
    try:
        return Zones(parse(name_or_text).calendars).only()
    except NotACalendar:
        return None


def _read(resource: Resource, reading: Reading, floating: Zone, limit: int) -> ResourceBusy:
    document = parse(resource.text)
    context = Context(Zones(document.calendars), floating, reading.window, limit)
    report = _Report(resource.event_id, reading.window)
    for group in _by_uid(document.calendars, reading.addresses):
        _read_group(group, context, report)
    if document.damage and not report.unreadable:
        report.problem(Unreadable(document.damage))
    if len(report.events) > 2 * limit:
        return _unreadable(resource, f"The resource has more than {limit} occurrences.")
    return ResourceBusy(report.in_order(), tuple(report.unreadable))


_tuple: Callable[[type[BusyEvent], tuple[Instant, Instant, BlockReason, EventId, bool]], BusyEvent] = tuple.__new__
"""Makes an event in half the time that its own way takes."""

_OF_SERIES = RECURRENCE | {"RECURRENCE-ID"}


class _Piece(NamedTuple):
    """One VEVENT and its standing."""

    component: Component
    standing: Standing

    @property
    def may_block(self) -> bool:
        """Whether it may if it cannot be read. What makes a damaged one free may be a line of something else."""
        return self.standing.blocks or bool(self.component.damage)

    @property
    def version(self) -> tuple[int, datetime]:
        """SEQUENCE, then DTSTAMP: the highest is the newest (RFC 5546 section 2.1.5)."""
        sequence = self.component.text("SEQUENCE")
        try:
            stamp = moment(self.component.text("DTSTAMP")).local
        except BadValue:
            stamp = datetime.min
        return int(sequence) if sequence.isdecimal() and len(sequence) < 20 else 0, stamp


class _Report:
    """Collects what is found, as far as it touches the window."""

    __slots__ = ("_event_id", "_window", "events", "unreadable")

    def __init__(self, event_id: EventId, window: Interval):
        self._event_id = event_id
        self._window = window
        self.events: list[BusyEvent] = []
        self.unreadable: list[UnreadableEvent] = []

    def problem(self, problem: Unreadable) -> None:
        """Name a problem of something that blocks, unless it lies outside the window."""
        if not problem.may_touch(self._window):
            return
        interval = problem.interval
        if interval is None and problem.earliest is not None and problem.latest is not None:
            interval = Interval(problem.earliest, problem.latest)
        if interval is not None and not touches(interval, self._window):
            # The first occurrence is elsewhere, later ones may be here: the time is not known.
            interval = None
        named_already = UnreadableEvent(self._event_id, problem.message, interval)
        if named_already not in self.unreadable and len(self.unreadable) < PROBLEMS_MAX:
            self.unreadable.append(named_already)

    def occurrences(self, found: list[Occurrence]) -> None:
        """Note occurrences that touch the window, ways to them included."""
        doubtful: list[Occurrence] = []
        event_id, add = self._event_id, self.events.append
        for occurrence in found:
            start, end, event = occurrence
            if not event.certain:
                if event.standing.blocks:
                    doubtful.append(occurrence)
            elif start < end and not event.travel:
                # What nearly all of them are.
                standing = event.standing
                add(_tuple(BusyEvent, (start, end, standing.reason, event_id, standing.tentative)))
            else:
                self._add(start, end, event)
        if doubtful:
            self._doubt(doubtful)

    def _add(self, start: Instant, end: Instant, event: Event) -> None:
        reason, tentative = event.standing.reason, event.standing.tentative
        if start == end and reason.blocks:
            reason, tentative = BlockReason.ZERO_LENGTH, False
        if touches(Interval(start, end), self._window):
            self.events.append(BusyEvent(start, end, reason, self._event_id, tentative))
        way = Interval(start - event.travel, start)
        if event.travel and reason.blocks and touches(way, self._window):
            self.events.append(BusyEvent(way.start, way.end, BlockReason.TRAVEL, self._event_id, tentative))

    def _doubt(self, doubtful: list[Occurrence]) -> None:
        """Name occurrences of events whose zone is not known."""
        only = doubtful[0]
        tzid = only.event.start.tzid[:60]
        self.problem(
            Unreadable(
                f"The event's time zone {tzid!r} is not known." if tzid else "The event's time zone is not known.",
                interval=Interval(only.start - only.event.travel - EAST, only.end + WEST)
                if len(doubtful) == 1
                else None,
            )
        )

    def in_order(self) -> tuple[BusyEvent, ...]:
        """What was found by start, each once."""
        if len(self.events) < 2:
            return tuple(self.events)
        found = sorted(self.events)
        return (found[0], *[event for before, event in pairwise(found) if event != before])


def _by_uid(calendars: Iterable[Component], addresses: frozenset[str]) -> Iterable[list[_Piece]]:
    """The events, those of one series together. Events without UID belong together only if that is one series."""
    events: list[_Piece] = []
    for calendar in calendars:
        cancelled = "METHOD" in calendar.properties and calendar.text("METHOD").upper() == "CANCEL"
        for component in calendar.components:
            if component.name == "VEVENT":
                events.append(_Piece(component, judge(component, addresses, cancelled=cancelled)))
    if len(events) < 2:
        # One text holds one event, as a rule (RFC 4791 section 4.1).
        return [events] if events else []
    groups: dict[str, list[_Piece]] = {}
    for piece in events:
        groups.setdefault(piece.component.text("UID"), []).append(piece)
    apart: list[list[_Piece]] = []
    for uid, pieces in groups.items():
        if not uid and sum("RECURRENCE-ID" not in piece.component.properties for piece in pieces) > 1:
            apart += ([piece] for piece in pieces)
        else:
            apart.append(pieces)
    return apart


def _newest(pieces: list[_Piece]) -> list[_Piece]:
    """The newest version. Several that are equally new and differ stay: either may be the one that counts."""
    if len(pieces) < 2:
        return pieces
    version = max(piece.version for piece in pieces)
    newest: list[_Piece] = []
    for piece in pieces:
        if piece.version == version and not any(
            piece.component.properties == other.component.properties for other in newest
        ):
            newest.append(piece)
    return newest


@dataclass(frozen=True, slots=True)
class _Override:
    piece: _Piece
    original: Moment | None
    """None: RECURRENCE-ID cannot be read."""


def _read_group(pieces: list[_Piece], context: Context, report: _Report) -> None:
    """Read one series: masters (one, as a rule) and overrides."""
    if len(pieces) == 1 and pieces[0].component.properties.keys().isdisjoint(_OF_SERIES):
        _read_single(pieces[0], context, report)
        return
    masters: list[tuple[Event, Component]] = []
    for piece in _newest([piece for piece in pieces if "RECURRENCE-ID" not in piece.component.properties]):
        try:
            masters.append((read_event(piece.component, piece.standing, context), piece.component))
        except Unreadable as unreadable:
            if piece.may_block:
                report.problem(unreadable)
    base = masters[0][0] if masters else None
    replaced, ranges = Keys(), []
    for override in _overrides(pieces, base, context):
        event = _read_override(override, base, context, replaced, report)
        if event is not None and base is not None and override.original is not None and _is_range(override):
            ranges.append(Range(*original_of(override.original, base, context), event))
    ranges.sort(key=lambda each: each.since)
    for event, component in masters:
        try:
            found, problems = expand(event, component, replaced, ranges, context)
        except Unreadable as unreadable:
            found, problems = [], [unreadable]
        except OverflowError:
            found, problems = [], [Unreadable("The event reaches beyond the calendar's years.")]
        report.occurrences(found)
        # A range that blocks may follow a master that does not.
        if event.standing.blocks or any(each.event.standing.blocks for each in ranges):
            for problem in problems:
                report.problem(problem)


def _read_single(piece: _Piece, context: Context, report: _Report) -> None:
    """Read an event that happens once, which is what nearly all of them are."""
    try:
        occurrence = single(read_event(piece.component, piece.standing, context))
    except Unreadable as unreadable:
        if piece.may_block:
            report.problem(unreadable)
        return
    if touches_with_travel(occurrence, reach(occurrence.event, context)):
        report.occurrences([occurrence])


def _read_override(
    override: _Override, base: Event | None, context: Context, replaced: Keys, report: _Report
) -> Event | None:
    """Report an override's own occurrence, and note which one it replaces."""
    piece = override.piece
    if override.original is not None and base is not None:
        replaced.add(override.original, base, context)
    try:
        event = read_event(piece.component, piece.standing, context)
        occurrence = single(event)
        if touches_with_travel(occurrence, reach(event, context)):
            report.occurrences([occurrence])
        if override.original is None:
            # What it stands in for is not known and stays, so this is the only time that may be wrong.
            raise Unreadable(
                "A changed occurrence does not say which one it changes.", occurrence.start, occurrence.end
            )
        if _unknown_range(override):
            raise Unreadable("A change of several occurrences is not understood.")
        if base is None and _is_range(override):
            raise Unreadable("A change of several occurrences comes without its series.")
    except Unreadable as unreadable:
        if piece.may_block:
            if _range_of(override):
                # Whatever is known of its own occurrence, the later ones may be at any time.
                unreadable = Unreadable(unreadable.message)
            report.problem(unreadable)
        return None
    return event


def _overrides(pieces: list[_Piece], base: Event | None, context: Context) -> list[_Override]:
    """The newest version of each override, by what it replaces."""
    versions: dict[object, list[_Piece]] = {}
    originals: dict[object, Moment | None] = {}
    for piece in pieces:
        line = piece.component.first("RECURRENCE-ID")
        if line is None:
            continue
        key: object
        try:
            original: Moment | None = moment(line.value, line.parameter("TZID"))
            key = _key(original, base, context) if original is not None else None
        except BadValue:
            original, key = None, id(piece)
        versions.setdefault(key, []).append(piece)
        originals.setdefault(key, original)
    return [_Override(piece, originals[key]) for key, same in versions.items() for piece in _newest(same)]


def _key(original: Moment, base: Event | None, context: Context) -> object:
    if base is not None:
        return original_of(original, base, context)[0]
    zone = context.zone(original)
    return zone.instant(original.local) if zone else (original.tzid, naive_instant(original.local))


def _range_of(override: _Override) -> str:
    line = override.piece.component.first("RECURRENCE-ID")
    return line.parameter("RANGE").upper() if line is not None else ""


def _is_range(override: _Override) -> bool:
    return _range_of(override) == "THISANDFUTURE"


def _unknown_range(override: _Override) -> bool:
    """RFC 2445 had THISANDPRIOR; RFC 5545 section 3.2.13 took it out, and nobody shows it alike."""
    return _range_of(override) not in ("", "THISANDFUTURE")
