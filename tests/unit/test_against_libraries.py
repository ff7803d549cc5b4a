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
from calendar_server.core.model import DAY, EventId, Interval
from tests.unit.test_busy import BEGINNING, series, year_from

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
        times = (occurrence["DTSTART"].dt, occurrence["DTEND"].dt)
        start, end = (
            from_datetime(
                (one if isinstance(one, datetime) else datetime(one.year, one.month, one.day, tzinfo=zone)).astimezone(
                    UTC
                )
            )
            for one in times
        )
        told.add(Interval(start, end))
    return told


def touching(found: set[Interval], window: Interval) -> set[Interval]:
    return {one for one in found if one.start < window.end and window.start < one.end}


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
