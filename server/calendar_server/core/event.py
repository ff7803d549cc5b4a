"""One VEVENT as a value: when it starts, how long it takes, in which zone (RFC 5545 sections 3.6.1 and 3.8.2)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from calendar_server.core.blocking import Standing
from calendar_server.core.ical import Component
from calendar_server.core.model import HOUR, SECOND, Instant, Interval
from calendar_server.core.values import BadValue, Length, Moment, length, moment
from calendar_server.core.vtimezone import Zones
from calendar_server.core.zones import UTC_ZONE, Zone

EAST = 14 * HOUR
"""No place's clocks are further ahead of UTC: what they show may have been this much earlier."""

WEST = 12 * HOUR
"""No place's clocks are further behind UTC."""


class Context(NamedTuple):
    """What reading one calendar object depends on."""

    zones: Zones
    floating: Zone
    """Where dates and times without a zone belong: the calendar's zone."""
    window: Interval
    limit: int
    """Occurrences of one resource in the window, at most."""

    def zone(self, written: Moment) -> Zone | None:
        """The zone of a date or time; None where its TZID says nothing that is understood."""
        if written.is_utc:
            return UTC_ZONE
        return self.zones.find(written.tzid) if written.tzid else self.floating


class Unreadable(Exception):
    """An event cannot be read, in whole or in part.

    It happens at ``earliest`` or later and is over at ``latest``; None: not known. ``interval`` is the time of its
    first occurrence, where that much is known.
    """

    def __init__(
        self,
        message: str,
        earliest: Instant | None = None,
        latest: Instant | None = None,
        interval: Interval | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.earliest = earliest
        self.latest = latest
        self.interval = interval

    def may_touch(self, window: Interval) -> bool:
        return not (
            (self.earliest is not None and self.earliest >= window.end)
            or (self.latest is not None and self.latest <= window.start)
        )


class Event(NamedTuple):
    """A VEVENT that could be read. All-day events are in the calendar's zone.

    ``certain`` is False when a TZID is not understood: then all times are as if it were UTC, off by ``WEST`` or ``EAST``
    at most. ``travel`` (microseconds) comes before the start.
    """

    standing: Standing
    start: Moment
    zone: Zone
    length: Length
    travel: Instant
    certain: bool
    first: Interval
    """The first occurrence."""

    @property
    def all_day(self) -> bool:
        return self.start.is_date

    def end(self, start: Instant, local: datetime) -> Instant:
        """When an occurrence ends that starts at ``start``, which is ``local`` on the wall. Raises ``OverflowError``."""
        return _end(start, local, self.length, self.zone)


def _end(start: Instant, local: datetime, span: Length, zone: Zone) -> Instant:
    base = zone.instant(local + timedelta(days=span.days)) if span.days else start
    return base + span.seconds * SECOND


def read_event(component: Component, standing: Standing, context: Context) -> Event:
    """Read one VEVENT, its recurrence aside. Raises ``Unreadable``."""
    if component.damage:
        raise Unreadable(f"The event is damaged: {component.damage}.")
    try:
        start = _start(component)
        travel = _travel(component) if standing.blocks else 0
        zone = context.zone(start)
        begin = (zone or UTC_ZONE).instant(start.local)
    except (BadValue, OverflowError) as error:
        raise Unreadable(f"The event's start cannot be read: {error}.") from error
    repeats = "RRULE" in component.properties or "RDATE" in component.properties
    earliest = None if "RDATE" in component.properties else begin - travel - (0 if zone else EAST)
    try:
        span, certain = _length(component, start, zone, begin, context)
        first = Interval(begin, _end(begin, start.local, span, zone or UTC_ZONE))
    except (BadValue, OverflowError) as error:
        raise Unreadable(f"The event's end cannot be read: {error}.", earliest) from error
    if first.end < first.start:
        slack_before, slack_after = (0, 0) if certain else (EAST, WEST)
        if earliest is not None:
            earliest = first.end - travel - slack_before
        raise Unreadable("The event ends before it starts.", earliest, None if repeats else begin + slack_after)
    return Event(standing, start, zone or UTC_ZONE, span, travel, certain, first)


def _start(component: Component) -> Moment:
    start = _moment(component, "DTSTART")
    if start is None:
        raise BadValue("there is none")
    return start


def _moment(component: Component, name: str) -> Moment | None:
    """The one date or time of that name, however often it is told; None without any. Raises ``BadValue``."""
    lines = component.all(name)
    if not lines:
        return None
    told = moment(lines[0].value, lines[0].parameter("TZID"))
    if len(lines) > 1 and any(moment(line.value, line.parameter("TZID")) != told for line in lines[1:]):
        raise BadValue("there are several")
    return told


def _travel(component: Component) -> Instant:
    """Apple's way to say how long it takes to get there."""
    text = component.text("X-APPLE-TRAVEL-DURATION")
    if not text:
        return 0
    travel = length(text)
    return max(0, (travel.days * 86_400 + travel.seconds) * SECOND)


def _length(
    component: Component, start: Moment, zone: Zone | None, begin: Instant, context: Context
) -> tuple[Length, bool]:
    """How long the event takes, and whether all of its zones are understood.

    DTEND makes an exact length, DURATION a nominal one (RFC 5545 section 3.8.5.3). Both together are forbidden: DTEND
    counts, unless there are several, or it cannot be read.
    """
    end = _moment(component, "DTEND")
    if end is None:
        durations = {length(line.value) for line in component.all("DURATION")}
        if len(durations) > 1:
            raise BadValue("there are several durations")
        shortest = Length(days=1) if start.is_date else Length()
        span = durations.pop() if durations else shortest
        return _whole_day(span) if start.is_date else span, zone is not None
    if start.is_date and end.is_date:
        return _whole_day(Length(days=(end.local - start.local).days)), True
    # A date as the end of an event that starts at a time is forbidden; its midnight is taken where the start is.
    end_zone = zone if end.is_date or (end.tzid and end.tzid == start.tzid) else context.zone(end)
    finish = (end_zone or UTC_ZONE).instant(end.local)
    return Length(seconds=(finish - begin) // SECOND), zone is not None and end_zone is not None


def _whole_day(span: Length) -> Length:
    """An all-day event whose DTEND is its DTSTART: old programs mean the one day by that, and show it."""
    return Length(days=1) if span == (0, 0) else span
