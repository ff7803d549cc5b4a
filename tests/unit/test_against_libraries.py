"""Whole calendars against `icalendar` with `recurring_ical_events`: every occurrence, from start to end.

`test_busy.py` compares when occurrences start in a year. Here are their ends too, in windows anywhere in it: rules,
exceptions, additions, overrides and zones together. Events with a time have exact lengths here; what nominal days mean
across a change of clocks, and where the libraries are wrong, is told case by case in `tests/corpus`.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import icalendar
import recurring_ical_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calendar_server.core.busy import Reading, Resource, read_resource
from calendar_server.core.intervals import from_datetime, to_datetime
from calendar_server.core.model import DAY, SECOND, EventId, Instant, Interval
from tests.unit.test_busy import BEGINNING, calendar, event, series, year_from

LIMIT = 50_000


def theirs(text: str, window: Interval, zone: ZoneInfo) -> set[Interval]:
    first, last = (to_datetime(instant) for instant in window)
    with warnings.catch_warnings(action="ignore"):
        found = recurring_ical_events.of(icalendar.Calendar.from_ical(text)).between(
            first - timedelta(days=50), last + timedelta(days=50)
        )
    told = set()
    for occurrence in found:
        if str(occurrence.get("STATUS", "")) == "CANCELLED":
            continue
        start, end = occurrence["DTSTART"].dt, occurrence["DTEND"].dt
        if isinstance(start, datetime):
            # The library adds the length by the clock on the wall. What is told in hours is exact (RFC 5545 section 3.3.6).
            length = end.replace(tzinfo=None) - start.replace(tzinfo=None)
            told.add(Interval(instant(start), instant(start.astimezone(UTC) + length)))
        else:
            told.add(Interval(*(instant(datetime(one.year, one.month, one.day, tzinfo=zone)) for one in (start, end))))
    return told


def instant(moment: datetime) -> Instant:
    return from_datetime(moment.astimezone(UTC))


def touching(found: set[Interval], window: Interval) -> set[Interval]:
    return {one for one in found if one.start < window.end and window.start < one.end}


def test_the_second_implementation_is_told_what_hours_are():
    """Over a change of clocks, too, which random windows seldom hit: from half past midnight to the change itself."""
    times = ["DTSTART;TZID=Australia/Lord_Howe:20260404T003000", "DURATION:PT90M", "RRULE:FREQ=DAILY;COUNT=3"]
    text, zone = calendar(event(*times)), ZoneInfo("Australia/Lord_Howe")
    window = Interval(*(from_datetime(datetime(2026, 4, day, tzinfo=UTC)) for day in (1, 10)))
    found = read_resource(Resource(EventId("e"), text), Reading(window), zone.key, limit=LIMIT)
    assert {Interval(one.start, one.end) for one in found.events} == theirs(text, window, zone)
    assert {one.end - one.start for one in found.events} == {90 * 60 * SECOND}


@given(st.lists(series(), min_size=1, max_size=3), st.integers(0, 300), st.integers(1, 60))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_occurrence_starts_and_ends_when_a_second_implementation_says(calendars, since, days):
    begin = year_from(BEGINNING).start + since * DAY
    window = Interval(begin, begin + days * DAY)
    for number, each in enumerate(calendars):
        read = read_resource(Resource(EventId(f"e{number}"), each.text), Reading(window), each.zone, limit=LIMIT)
        assert read.unreadable == ()
        ours = {Interval(one.start, one.end) for one in read.events if one.reason.blocks}
        assert ours == touching(theirs(each.text, window, ZoneInfo(each.zone)), window)
