"""Series that happen very often are read in blocks: as fast, and as exactly, as if the window were short."""

from __future__ import annotations

import itertools
import tracemalloc
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from calendar_server.core.busy import Reading, Resource, ResourceBusy, read_resource
from calendar_server.core.intervals import clip, from_datetime, merge
from calendar_server.core.model import DAY, HOUR, MINUTE, SECOND, BlockReason, EventId, Interval

YEAR = Interval(*(from_datetime(datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=days)) for days in (0, 400)))
LIMIT = 50_000


def series(*lines: str, more: tuple[str, ...] = ()) -> str:
    events = ["BEGIN:VEVENT", "UID:1", *lines, "END:VEVENT"]
    for start in more:
        events += [
            "BEGIN:VEVENT",
            "UID:1",
            f"RECURRENCE-ID:{start}",
            f"DTSTART:{start}",
            "STATUS:CANCELLED",
            "END:VEVENT",
        ]
    return "\r\n".join(["BEGIN:VCALENDAR", *events, "END:VCALENDAR", ""])


def read(text: str, window: Interval = YEAR, limit: int = LIMIT) -> ResourceBusy:
    return read_resource(Resource(EventId("e"), text), Reading(window), "UTC", limit=limit)


def busy(found: ResourceBusy, window: Interval) -> list[Interval]:
    assert found.unreadable == ()
    return clip(merge(Interval(one.start, one.end) for one in found.events if one.reason.blocks), window)


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=SECONDLY",
        "FREQ=MINUTELY;BYSECOND=0,1,2,3,4,5,6,7,8,9,10,20,30,40,50",
        "FREQ=MINUTELY",
        "FREQ=HOURLY",
        "FREQ=MINUTELY;INTERVAL=60",
        "FREQ=SECONDLY;INTERVAL=7",
    ],
)
def test_occurrences_that_touch_each_other_are_one_block_that_costs_nothing(rule):
    text = series("DTSTART:20200101T000000Z", "DURATION:PT1H", f"RRULE:{rule}")
    tracemalloc.start()
    found = read(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert busy(found, YEAR) == [YEAR]
    assert len(found.events) == 1
    assert peak < 2_000_000


def test_an_exception_makes_a_hole_of_its_own_size():
    text = series(
        "DTSTART:20260301T000000Z",
        "DURATION:PT1S",
        "RRULE:FREQ=SECONDLY",
        "EXDATE:20260310T120000Z,20260310T120001Z,20270101T000000Z,20260310T120000",
        more=("20260401T080000Z",),
    )
    holes = [
        Interval(one.end, two.start) for one, two in zip(*[busy(read(text), YEAR)[n:] for n in (0, 1)], strict=False)
    ]
    expected = [
        (datetime(2026, 3, 10, 12, tzinfo=UTC), 2),
        (datetime(2026, 4, 1, 8, tzinfo=UTC), 1),
        (datetime(2027, 1, 1, tzinfo=UTC), 1),
    ]
    assert holes == [Interval(from_datetime(at), from_datetime(at) + long * SECOND) for at, long in expected]


def test_working_hours_told_by_the_minute_are_a_block_a_day():
    text = series(
        "DTSTART;TZID=Europe/Berlin:20260302T090000",
        "DURATION:PT1M",
        "RRULE:FREQ=MINUTELY;BYHOUR=9,10,11,12,13,14,15,16;BYDAY=MO,TU,WE,TH,FR",
    )
    found = busy(read(text), YEAR)
    assert {one.end - one.start for one in found} == {8 * HOUR}
    assert len(found) == 57 * 5


@pytest.mark.parametrize(("minute", "seconds"), [("1329", 59), ("1330", 0), ("1330", 30)])
def test_an_until_in_utc_ends_working_hours_on_the_minute(minute, seconds):
    start = "DTSTART;TZID=America/New_York:20260316T090000"
    until = f"20260410T{minute}{seconds:02}Z"
    rule = f"RRULE:FREQ=MINUTELY;BYHOUR=9,10;BYDAY=MO,TU,WE,TH,FR;UNTIL={until}"
    *_, last = busy(read(series(start, "DURATION:PT1M", rule)), YEAR)
    day = from_datetime(datetime(2026, 4, 10, 13, tzinfo=UTC))
    assert last == Interval(day, day + (30 + (minute == "1330")) * MINUTE)


def test_an_exception_in_working_hours_makes_a_hole_in_its_day():
    text = series(
        "DTSTART;TZID=Europe/Berlin:20260302T090000",
        "DURATION:PT1M",
        "RRULE:FREQ=MINUTELY;BYHOUR=9,10,11,12,13,14,15,16",
        "EXDATE;TZID=Europe/Berlin:20260310T103000",
    )
    found = busy(read(text), YEAR)
    holes = [Interval(one.end, two.start) for one, two in itertools.pairwise(found)]
    begin = from_datetime(datetime(2026, 3, 10, 9, 30, tzinfo=UTC))
    assert [hole for hole in holes if hole.end - hole.start < HOUR] == [Interval(begin, begin + MINUTE)]


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 22, 3), (3, 29, 2), (10, 25, 4), (11, 1, 3)])
def test_a_night_in_which_clocks_change_is_shorter_or_longer(month, day, hours):
    text = series(
        "DTSTART;TZID=Europe/Berlin:20260301T010000", "DURATION:PT1M", "RRULE:FREQ=MINUTELY;BYHOUR=1,2,3;BYDAY=SU"
    )
    noon = from_datetime(datetime(2026, month, day, 12, tzinfo=UTC))
    window = Interval(noon - 300 * DAY, noon + 100 * DAY)
    night = Interval(noon - DAY, noon)
    assert sum(one.end - one.start for one in clip(busy(read(text, window), window), night)) == hours * HOUR


def test_a_series_that_was_fine_in_a_week_is_fine_in_five_years():
    five_years = Interval(YEAR.start, YEAR.start + 5 * 366 * DAY)
    text = series("DTSTART:20260301T000000Z", "DURATION:PT30M", "RRULE:FREQ=HOURLY")
    found = busy(read(text, five_years), five_years)
    assert {one.end - one.start for one in found} == {30 * MINUTE}
    assert len(found) == 5 * 366 * 24


def test_too_many_blocks_close_gaps_of_a_quarter_of_an_hour_and_no_more():
    text = series("DTSTART:20260301T080000Z", "DURATION:PT1M", "RRULE:FREQ=MINUTELY;INTERVAL=5;BYHOUR=8,9")
    exact, coarse = busy(read(text), YEAR), busy(read(text, limit=5_000), YEAR)
    assert len(exact) == 400 * 24
    assert [one.end - one.start for one in coarse] == [116 * MINUTE] * 400
    assert merge([*exact, *coarse]) == coarse


def test_what_is_too_much_even_so_is_named():
    text = series("DTSTART:20260301T000000Z", "DURATION:PT1M", "RRULE:FREQ=MINUTELY;INTERVAL=30")
    found = read(text, limit=5_000)
    assert found.events == ()
    assert [one.message for one in found.unreadable] == [
        "The event's recurrence cannot be worked out: it happens more than 5000 times."
    ]


@pytest.mark.parametrize("duration", ["PT0S", "PT1S"])
def test_what_blocks_nobody_blocks_nobody_however_often_it_happens(duration):
    free = "TRANSP:OPAQUE" if duration == "PT0S" else "TRANSP:TRANSPARENT"
    found = read(series("DTSTART:20260301T000000Z", f"DURATION:{duration}", "RRULE:FREQ=SECONDLY;INTERVAL=2", free))
    assert busy(found, YEAR) == []
    assert [one.reason for one in found.events] == [BlockReason.ZERO_LENGTH if duration == "PT0S" else BlockReason.FREE]


@pytest.mark.parametrize(
    "rule", ["SECONDLY;BYMONTH=2;BYMONTHDAY=30", "MINUTELY;BYHOUR=3;BYDAY=MO;BYMONTH=2;BYMONTHDAY=31"]
)
def test_a_rule_that_never_happens_has_its_start_alone(rule):
    found = read(series("DTSTART:20260310T000000Z", "DURATION:PT1M", f"RRULE:FREQ={rule}"))
    assert len(found.events) == 1


def test_dates_of_its_own_beside_such_a_rule_are_counted_one_by_one():
    text = series(
        "DTSTART:20260301T000000Z", "DURATION:PT1S", "RRULE:FREQ=SECONDLY;COUNT=900", "RDATE:20260401T000000Z"
    )
    assert [one.end - one.start for one in busy(read(text), YEAR)] == [900 * SECOND, SECOND]


@st.composite
def frequent(draw: st.DrawFn) -> tuple[str, Interval]:
    """A series that happens often in its window, which is a day or two around a change of clocks, or not."""
    freq = draw(st.sampled_from(["SECONDLY", "MINUTELY", "MINUTELY", "HOURLY"]))
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.sampled_from([1, 1, 2, 3, 7, 13, 59, 61]))}"]
    numbers = st.sets(st.integers(0, 59), min_size=1, max_size=40).map(lambda found: ",".join(map(str, sorted(found))))
    if freq != "SECONDLY" and draw(st.booleans()):
        parts.append(f"BYSECOND={draw(numbers)}")
    if draw(st.integers(0, 3)) == 0:
        parts.append(f"BYMINUTE={draw(numbers)}")
    if draw(st.integers(0, 3)) == 0:
        parts.append(f"BYHOUR={','.join(map(str, sorted(draw(st.sets(st.integers(0, 23), min_size=1)))))}")
    if draw(st.integers(0, 4)) == 0:
        parts.append(f"BYDAY={draw(st.sampled_from(['SU', 'SA,SU', 'MO,SU']))}")
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]))
    day = draw(
        st.sampled_from([datetime(2026, 3, 29), datetime(2026, 10, 25), datetime(2026, 4, 5), datetime(2026, 7, 5)])
    )
    start = day - timedelta(seconds=draw(st.integers(0, 100_000)))
    if draw(st.integers(0, 3)) == 0:
        parts.append(f"UNTIL={day + timedelta(seconds=draw(st.integers(0, 90_000))):%Y%m%dT%H%M%SZ}")
    elif draw(st.integers(0, 3)) == 0:
        parts.append(f"COUNT={draw(st.integers(1, 30_000))}")
    lines = [
        f"DTSTART;TZID={zone}:{start:%Y%m%dT%H%M%S}",
        f"DURATION:PT{draw(st.sampled_from([1, 30, 59, 60, 61, 300]))}S",
    ]
    out = [day + timedelta(seconds=draw(st.integers(-50_000, 80_000))) for _ in range(draw(st.integers(0, 3)))]
    out += [start + timedelta(seconds=60 * draw(st.integers(0, 1_000)))]
    lines += [f"EXDATE;TZID={zone}:{','.join(f'{one:%Y%m%dT%H%M%S}' for one in out)}", f"RRULE:{';'.join(parts)}"]
    begin = from_datetime(day.replace(tzinfo=UTC)) - draw(st.integers(0, 20)) * HOUR
    return series(*lines), Interval(begin, begin + draw(st.integers(1, 4)) * HOUR)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(frequent())
def test_blocks_are_what_short_windows_find_one_by_one(case):
    text, window = case
    whole = read(text, window, limit=10**6)
    assume(whole.unreadable == ())
    pieces = []
    for start in range(window.start, window.end, 5 * MINUTE):
        piece = Interval(start, start + 5 * MINUTE)
        pieces += busy(read(text, piece), piece)
    assert busy(whole, window) == clip(merge(pieces), window)
