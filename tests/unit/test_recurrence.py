"""Recurrence rules: reading them, and when they happen."""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dateutil.rrule
import icalendar
import pytest
import recurring_ical_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calendar_server.core.recurrence import (
    Rule,
    RuleError,
    TooMuchWork,
    Until,
    occurrences,
    parse_rule,
    walls,
    with_until,
)
from calendar_server.core.zones import wall_local

NEW_YORK = ZoneInfo("America/New_York")
FEW = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def run(
    text: str, start: datetime, first: datetime | None = None, last: datetime = datetime(2100, 1, 1), **options: Any
) -> list[datetime]:
    asked = (parse_rule(text), start, first or start, last)
    found = list(occurrences(*asked, **{"limit": 100_000, **options}))
    assert [wall_local(wall) for wall in walls(*asked, **{"limit": 100_000, **options})] == found
    return found


def dates(text: str, clock: str = "09:00") -> list[datetime]:
    """``1997-09 2 4-6; 1997-10 1`` as datetimes at ``clock``."""
    hour, minute = map(int, clock.split(":"))
    found = []
    for group in text.split(";"):
        month, *days = group.split()
        for day in days:
            low, _, high = day.partition("-")
            year, number = map(int, month.split("-"))
            found += [datetime(year, number, n, hour, minute) for n in range(int(low), int(high or low) + 1)]
    return found


def to_new_york(rule: Rule) -> Rule:
    """What a caller does with an UNTIL in UTC."""
    if rule.until is None or not rule.until.utc:
        return rule
    return with_until(rule, rule.until.value.replace(tzinfo=UTC).astimezone(NEW_YORK).replace(tzinfo=None))


# RFC 5545 section 3.8.5.3, all of them, in America/New_York: rule, DTSTART (9:00 where no time is given), occurrences.
# Those that repeat for ever are compared as far as the list goes.
EVERY_DAY_OF_JANUARY = "1998-01 1-31;1999-01 1-31;2000-01 1-31"
TUESDAYS = "1997-09 2 9 16 23 30;1997-10 7 14 21 28;1997-11 4"
RFC_EXAMPLES = [
    ("FREQ=DAILY;COUNT=10", "1997-09-02", "1997-09 2-11"),
    ("FREQ=DAILY;UNTIL=19971224T000000Z", "1997-09-02", "1997-09 2-30;1997-10 1-31;1997-11 1-30;1997-12 1-23"),
    ("FREQ=DAILY;INTERVAL=2", "1997-09-02", "1997-09 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30;1997-10 2 4 6"),
    ("FREQ=DAILY;INTERVAL=10;COUNT=5", "1997-09-02", "1997-09 2 12 22;1997-10 2 12"),
    (
        "FREQ=YEARLY;UNTIL=20000131T140000Z;BYMONTH=1;BYDAY=SU,MO,TU,WE,TH,FR,SA",
        "1998-01-01",
        EVERY_DAY_OF_JANUARY,
    ),
    ("FREQ=DAILY;UNTIL=20000131T140000Z;BYMONTH=1", "1998-01-01", EVERY_DAY_OF_JANUARY),
    ("FREQ=WEEKLY;COUNT=10", "1997-09-02", TUESDAYS),
    ("FREQ=WEEKLY;UNTIL=19971224T000000Z", "1997-09-02", TUESDAYS + " 11 18 25;1997-12 2 9 16 23"),
    (
        "FREQ=WEEKLY;INTERVAL=2;WKST=SU",
        "1997-09-02",
        "1997-09 2 16 30;1997-10 14 28;1997-11 11 25;1997-12 9 23;1998-01 6 20;1998-02 3 17",
    ),
    (
        "FREQ=WEEKLY;UNTIL=19971007T000000Z;WKST=SU;BYDAY=TU,TH",
        "1997-09-02",
        "1997-09 2 4 9 11 16 18 23 25 30;1997-10 2",
    ),
    ("FREQ=WEEKLY;COUNT=10;WKST=SU;BYDAY=TU,TH", "1997-09-02", "1997-09 2 4 9 11 16 18 23 25 30;1997-10 2"),
    (
        "FREQ=WEEKLY;INTERVAL=2;UNTIL=19971224T000000Z;WKST=SU;BYDAY=MO,WE,FR",
        "1997-09-01",
        "1997-09 1 3 5 15 17 19 29;1997-10 1 3 13 15 17 27 29 31;1997-11 10 12 14 24 26 28;1997-12 8 10 12 22",
    ),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=8;WKST=SU;BYDAY=TU,TH", "1997-09-02", "1997-09 2 4 16 18 30;1997-10 2 14 16"),
    (
        "FREQ=MONTHLY;COUNT=10;BYDAY=1FR",
        "1997-09-05",
        "1997-09 5;1997-10 3;1997-11 7;1997-12 5;1998-01 2;1998-02 6;1998-03 6;1998-04 3;1998-05 1;1998-06 5",
    ),
    ("FREQ=MONTHLY;UNTIL=19971224T000000Z;BYDAY=1FR", "1997-09-05", "1997-09 5;1997-10 3;1997-11 7;1997-12 5"),
    (
        "FREQ=MONTHLY;INTERVAL=2;COUNT=10;BYDAY=1SU,-1SU",
        "1997-09-07",
        "1997-09 7 28;1997-11 2 30;1998-01 4 25;1998-03 1 29;1998-05 3 31",
    ),
    (
        "FREQ=MONTHLY;COUNT=6;BYDAY=-2MO",
        "1997-09-22",
        "1997-09 22;1997-10 20;1997-11 17;1997-12 22;1998-01 19;1998-02 16",
    ),
    ("FREQ=MONTHLY;BYMONTHDAY=-3", "1997-09-28", "1997-09 28;1997-10 29;1997-11 28;1997-12 29;1998-01 29;1998-02 26"),
    (
        "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=2,15",
        "1997-09-02",
        "1997-09 2 15;1997-10 2 15;1997-11 2 15;1997-12 2 15;1998-01 2 15",
    ),
    (
        "FREQ=MONTHLY;COUNT=10;BYMONTHDAY=1,-1",
        "1997-09-30",
        "1997-09 30;1997-10 1 31;1997-11 1 30;1997-12 1 31;1998-01 1 31;1998-02 1",
    ),
    ("FREQ=MONTHLY;INTERVAL=18;COUNT=10;BYMONTHDAY=10,11,12,13,14,15", "1997-09-10", "1997-09 10-15;1999-03 10-13"),
    (
        "FREQ=MONTHLY;INTERVAL=2;BYDAY=TU",
        "1997-09-02",
        "1997-09 2 9 16 23 30;1997-11 4 11 18 25;1998-01 6 13 20 27;1998-03 3 10 17 24 31",
    ),
    (
        "FREQ=YEARLY;COUNT=10;BYMONTH=6,7",
        "1997-06-10",
        ";".join(f"{year}-06 10;{year}-07 10" for year in range(1997, 2002)),
    ),
    (
        "FREQ=YEARLY;INTERVAL=2;COUNT=10;BYMONTH=1,2,3",
        "1997-03-10",
        "1997-03 10;" + ";".join(f"{year}-01 10;{year}-02 10;{year}-03 10" for year in (1999, 2001, 2003)),
    ),
    (
        "FREQ=YEARLY;INTERVAL=3;COUNT=10;BYYEARDAY=1,100,200",
        "1997-01-01",
        "1997-01 1;1997-04 10;1997-07 19;2000-01 1;2000-04 9;2000-07 18;2003-01 1;2003-04 10;2003-07 19;2006-01 1",
    ),
    ("FREQ=YEARLY;BYDAY=20MO", "1997-05-19", "1997-05 19;1998-05 18;1999-05 17"),
    ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", "1997-05-12", "1997-05 12;1998-05 11;1999-05 17"),
    (
        "FREQ=YEARLY;BYMONTH=3;BYDAY=TH",
        "1997-03-13",
        "1997-03 13 20 27;1998-03 5 12 19 26;1999-03 4 11 18 25",
    ),
    (
        "FREQ=YEARLY;BYDAY=TH;BYMONTH=6,7,8",
        "1997-06-05",
        "1997-06 5 12 19 26;1997-07 3 10 17 24 31;1997-08 7 14 21 28;1998-06 4 11 18 25;1998-07 2 9 16 23 30",
    ),
    ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "1997-09-02", "1998-02 13;1998-03 13;1998-11 13;1999-08 13;2000-10 13"),
    (
        "FREQ=MONTHLY;BYDAY=SA;BYMONTHDAY=7,8,9,10,11,12,13",
        "1997-09-13",
        "1997-09 13;1997-10 11;1997-11 8;1997-12 13;1998-01 10;1998-02 7;1998-03 7;1998-04 11;1998-05 9;1998-06 13",
    ),
    (
        "FREQ=YEARLY;INTERVAL=4;BYMONTH=11;BYDAY=TU;BYMONTHDAY=2,3,4,5,6,7,8",
        "1996-11-05",
        "1996-11 5;2000-11 7;2004-11 2",
    ),
    ("FREQ=MONTHLY;COUNT=3;BYDAY=TU,WE,TH;BYSETPOS=3", "1997-09-04", "1997-09 4;1997-10 7;1997-11 6"),
    (
        "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2",
        "1997-09-29",
        "1997-09 29;1997-10 30;1997-11 27;1997-12 30;1998-01 29;1998-02 26;1998-03 30",
    ),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", "1997-08-05", "1997-08 5 10 19 24"),
    ("FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", "1997-08-05", "1997-08 5 17 19 31"),
    ("FREQ=MONTHLY;BYMONTHDAY=15,30;COUNT=5", "2007-01-15", "2007-01 15 30;2007-02 15;2007-03 15 30"),
]


@pytest.mark.parametrize(("text", "start", "expected"), RFC_EXAMPLES)
def test_the_examples_of_the_rfc_come_out_as_printed(text: str, start: str, expected: str) -> None:
    begin = datetime.fromisoformat(start + "T09:00")
    ends = "COUNT" in text or "UNTIL" in text
    wanted = dates(expected)
    last = datetime(2100, 1, 1) if ends else wanted[-1] + timedelta(seconds=1)
    assert list(occurrences(to_new_york(parse_rule(text)), begin, begin, last, limit=1000)) == wanted


@pytest.mark.parametrize(
    ("text", "clocks"),
    [
        # Erratum 3883: the example prints UNTIL=19970902T170000Z, which is 13:00 in New York.
        ("FREQ=HOURLY;INTERVAL=3;UNTIL=19970902T210000Z", "09:00 12:00 15:00"),
        ("FREQ=MINUTELY;INTERVAL=15;COUNT=6", "09:00 09:15 09:30 09:45 10:00 10:15"),
        ("FREQ=MINUTELY;INTERVAL=90;COUNT=4", "09:00 10:30 12:00 13:30"),
    ],
)
def test_the_examples_of_the_rfc_within_a_day_come_out_as_printed(text: str, clocks: str) -> None:
    start = datetime(1997, 9, 2, 9)
    found = list(occurrences(to_new_york(parse_rule(text)), start, start, datetime(1999, 1, 1), limit=100))
    assert [f"{moment:%H:%M}" for moment in found] == clocks.split()


@pytest.mark.parametrize(
    "text",
    [
        "FREQ=DAILY;BYHOUR=9,10,11,12,13,14,15,16;BYMINUTE=0,20,40",
        "FREQ=MINUTELY;INTERVAL=20;BYHOUR=9,10,11,12,13,14,15,16",
    ],
)
def test_every_twenty_minutes_of_the_working_day_can_be_said_in_two_ways(text: str) -> None:
    found = run(text, datetime(1997, 9, 2, 9), last=datetime(1997, 9, 4))
    wanted = [datetime(1997, 9, day, hour, minute) for day in (2, 3) for hour in range(9, 17) for minute in (0, 20, 40)]
    assert found == wanted


# Against independent implementations


def numbers(low: int, high: int, most: int = 3, signed: bool = False) -> st.SearchStrategy[str]:
    values = st.integers(low, high)
    if signed:
        values = st.one_of(values, st.integers(-high, -low))
    return st.lists(values, min_size=1, max_size=most, unique=True).map(lambda found: ",".join(map(str, found)))


COARSE = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
FINE = ("HOURLY", "MINUTELY", "SECONDLY")
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
plain_days = st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=4, unique=True).map(",".join)


def nth_days(most: int) -> st.SearchStrategy[str]:
    nth = st.tuples(st.integers(-most, most).filter(bool), st.sampled_from(WEEKDAYS)).map(
        lambda pair: f"{pair[0]}{pair[1]}"
    )
    return st.lists(nth, min_size=1, max_size=3, unique=True).map(",".join)


@st.composite
def rule_texts(draw: st.DrawFn, freqs: tuple[str, ...], weeks: bool = False, skips: bool = False) -> str:
    freq = draw(st.sampled_from(freqs))
    parts = {"FREQ": freq}

    def maybe(name: str, values: st.SearchStrategy[str], chance: int) -> None:
        if draw(st.integers(1, 10)) <= chance:
            parts[name] = draw(values)

    maybe("INTERVAL", st.integers(1, 40 if freq in FINE else 5).map(str), 5)
    maybe("COUNT", st.integers(1, 40).map(str), 3)
    maybe("WKST", st.sampled_from(WEEKDAYS), 4)
    fine = freq in FINE
    maybe("BYMONTH", numbers(1, 12), 1 if fine else 3)
    maybe("BYMONTHDAY", numbers(1, 31, signed=True), 1 if fine or freq == "WEEKLY" else 3)
    maybe("BYYEARDAY", numbers(1, 366, most=12, signed=True), 1 if fine or freq == "DAILY" else 2)
    days = st.one_of(plain_days, nth_days(5 if freq == "MONTHLY" or "BYMONTH" in parts else 53))
    maybe("BYDAY", days if freq in ("MONTHLY", "YEARLY") and not weeks else plain_days, 5)
    maybe("BYHOUR", numbers(0, 23), 2)
    maybe("BYMINUTE", numbers(0, 59), 2)
    maybe("BYSECOND", numbers(0, 59), 2)
    if weeks:
        parts["BYWEEKNO"] = draw(numbers(1, 53, most=6, signed=True))
        parts.pop("COUNT", None)
    elif len(parts.keys() - {"FREQ", "INTERVAL", "COUNT", "WKST"}):
        maybe("BYSETPOS", numbers(1, 4, signed=True), 3)
    if skips:
        maybe("SKIP", st.sampled_from(("OMIT", "FORWARD", "BACKWARD")), 6)
    return ";".join(f"{name}={value}" for name, value in parts.items())


def by_dateutil(text: str, start: datetime, first: datetime, last: datetime) -> list[datetime]:
    """What dateutil says. Rules that never happen run it into the end of the year 9999: keep ``start`` near it."""
    found = []
    try:
        for moment in dateutil.rrule.rrulestr(text, dtstart=start):
            if moment >= last:
                break
            if moment >= first:
                found.append(moment)
    except (ValueError, OverflowError):
        pass  # never happens, or not again before the year 10000
    return found


def in_step(text: str, start: datetime) -> datetime:
    """Move DTSTART to the beginning of its week for BYSETPOS in weeks: dateutil counts from DTSTART in the first."""
    if "FREQ=WEEKLY" in text and "BYSETPOS" in text:
        wkst = re.search("WKST=(..)", text)
        return start - timedelta(days=(start.weekday() - WEEKDAYS.index(wkst[1] if wkst else "MO")) % 7)
    return start


@FEW
@given(
    rule_texts(COARSE),
    st.datetimes(datetime(9960, 1, 1), datetime(9985, 1, 1)).map(lambda moment: moment.replace(microsecond=0)),
    st.integers(0, 1500),
    st.integers(1, 800),
)
def test_a_random_rule_of_days_or_more_equals_dateutil(text: str, start: datetime, after: int, length: int) -> None:
    start = in_step(text, start)
    first = start + timedelta(days=after, hours=5)
    last = first + timedelta(days=length)
    assert run(text, start, first, last) == by_dateutil(text, start, first, last)


@settings(FEW, max_examples=100)  # dateutil takes its time over seconds
@given(
    rule_texts(FINE),
    st.datetimes(datetime(9999, 10, 20), datetime(9999, 11, 20)).map(lambda moment: moment.replace(microsecond=0)),
    st.integers(0, 100),
    st.integers(1, 30),
)
def test_a_random_rule_within_the_day_equals_dateutil(text: str, start: datetime, after: int, length: int) -> None:
    first = start + timedelta(minutes=after * 11)
    last = first + timedelta(minutes=length * 40)
    assert run(text, start, first, last) == by_dateutil(text, start, first, last)


@FEW
@given(
    rule_texts(COARSE, weeks=True),
    st.datetimes(datetime(9960, 1, 1), datetime(9985, 1, 1)).map(lambda moment: moment.replace(microsecond=0)),
    st.integers(0, 1500),
)
def test_a_random_rule_of_week_numbers_equals_dateutil_off_new_year(text: str, start: datetime, after: int) -> None:
    # dateutil misnumbers weeks that lie in two years when they are counted from the back, and for some WKST.
    def off_new_year(found: list[datetime]) -> list[datetime]:
        return [moment for moment in found if 7 < moment.timetuple().tm_yday < 359]

    first = start + timedelta(days=after)
    last = first + timedelta(days=800)
    assert off_new_year(run(text, start, first, last)) == off_new_year(by_dateutil(text, start, first, last))


@FEW
@given(
    st.integers(-53, 53).filter(bool),
    st.integers(1900, 2100),
    st.sampled_from((("WEEKLY", 4), ("YEARLY", 0), ("DAILY", 2))),
)
def test_week_numbers_are_those_of_iso_8601_when_weeks_begin_on_monday(
    number: int, year: int, kind: tuple[str, int]
) -> None:
    freq, weekday = kind
    start = datetime(year, 1, 1)
    found = run(f"FREQ={freq};BYDAY={WEEKDAYS[weekday]};BYWEEKNO={number}", start, last=datetime(year + 3, 1, 1))

    def matches(day: datetime) -> bool:
        iso = day.isocalendar()
        weeks = date(iso.year, 12, 28).isocalendar().week
        return day.weekday() == weekday and number in (iso.week, iso.week - weeks - 1)

    days = (start + timedelta(days=past) for past in range((datetime(year + 3, 1, 1) - start).days))
    assert found == [day for day in days if matches(day)]


@FEW
@given(
    rule_texts((*COARSE, *FINE), skips=True),
    st.datetimes(datetime(1990, 1, 1), datetime(2026, 1, 1)),
    st.integers(0, 2_000_000),
    st.integers(1, 500_000),
)
def test_seeking_finds_what_counting_up_from_the_start_finds(
    text: str, start: datetime, after: int, length: int
) -> None:
    unit = timedelta(seconds=1) if any(freq in text for freq in FINE) else timedelta(minutes=1)
    start = start.replace(microsecond=0)
    first = start + after % 100_000 * unit if unit < timedelta(minutes=1) else start + after * unit
    last = first + (length % 40_000 if unit < timedelta(minutes=1) else length) * unit
    everything = run(text, start, start, last, limit=1_000_000)
    assert run(text, start, first, last) == [moment for moment in everything if moment >= first]


@pytest.mark.parametrize(
    "rule",
    [
        "FREQ=WEEKLY;BYDAY=TH;COUNT=3",
        "FREQ=MONTHLY;BYMONTHDAY=15;COUNT=4",
        "FREQ=WEEKLY;BYDAY=TH;UNTIL=20260401T000000",
    ],
)
def test_a_start_that_does_not_fit_the_rule_comes_on_top_as_recurring_ical_events_has_it(rule: str) -> None:
    start = datetime(2026, 3, 2, 9)  # a Monday
    event = f"BEGIN:VEVENT\nUID:a\nDTSTART:20260302T090000\nDURATION:PT1H\nRRULE:{rule}\nEND:VEVENT"
    text = f"BEGIN:VCALENDAR\n{event}\nEND:VCALENDAR"
    calendar = icalendar.Calendar.from_ical(text)
    theirs = [event.start for event in recurring_ical_events.of(calendar).between((2026, 1, 1), (2027, 1, 1))]
    assert sorted({start, *run(rule, start)}) == theirs


# What the rule's parts mean where implementations differ


def test_count_is_spent_only_on_what_the_rule_gives() -> None:
    assert run("FREQ=WEEKLY;BYDAY=TH;COUNT=2", datetime(2026, 3, 2, 9)) == dates("2026-03 5 12")


def test_count_leaves_out_what_the_first_period_has_before_the_start() -> None:
    # 1 March is before the start: the three are 20 March, 1 April and 20 April.
    found = run("FREQ=MONTHLY;BYMONTHDAY=1,20;COUNT=3", datetime(2026, 3, 10, 9), datetime(2026, 4, 15))
    assert found == dates("2026-04 20")


def test_of_count_and_until_the_earlier_end_wins() -> None:
    start = datetime(2026, 3, 2, 9)
    assert run("FREQ=DAILY;COUNT=3;UNTIL=20260401T000000", start) == dates("2026-03 2-4")
    assert run("FREQ=DAILY;COUNT=30;UNTIL=20260303T235959", start) == dates("2026-03 2 3")


def test_positions_in_the_week_of_the_start_count_from_the_beginning_of_that_week() -> None:
    # Wednesday is the second of its week, though the start is that Wednesday; dateutil takes Friday.
    found = run("FREQ=WEEKLY;BYDAY=MO,WE,FR;BYSETPOS=2;COUNT=2", datetime(2026, 3, 4, 9))
    assert found == dates("2026-03 4 11")


def test_weekdays_with_and_without_ordinal_are_united() -> None:
    found = run("FREQ=MONTHLY;BYDAY=MO,1TU", datetime(2026, 3, 1, 9), last=datetime(2026, 4, 1))
    assert found == dates("2026-03 2 3 9 16 23 30")


def test_an_ordinal_in_a_weekly_rule_means_every_such_day() -> None:
    assert run("FREQ=WEEKLY;BYDAY=2MO;COUNT=2", datetime(2026, 3, 2, 9)) == dates("2026-03 2 9")


def test_the_fifth_monday_exists_in_some_months_only() -> None:
    found = run("FREQ=MONTHLY;BYDAY=5MO", datetime(2026, 3, 2, 9), last=datetime(2026, 9, 1))
    assert found == dates("2026-03 30;2026-06 29;2026-08 31")


def test_a_yearly_rule_on_the_29th_of_february_waits_for_leap_years() -> None:
    found = run("FREQ=YEARLY", datetime(2024, 2, 29, 9), last=datetime(2033, 1, 1))
    assert found == dates("2024-02 29;2028-02 29;2032-02 29")


def test_a_century_that_is_no_leap_year_has_no_29th_of_february() -> None:
    found = run("FREQ=YEARLY", datetime(2096, 2, 29, 9), last=datetime(2105, 1, 1))
    assert found == dates("2096-02 29;2104-02 29")


def test_month_days_of_a_yearly_rule_without_months_are_those_of_every_month() -> None:
    found = run("FREQ=YEARLY;BYMONTHDAY=13;COUNT=3", datetime(2026, 3, 13, 9))
    assert found == dates("2026-03 13;2026-04 13;2026-05 13")


def test_week_numbers_without_weekdays_are_whole_weeks() -> None:
    found = run("FREQ=YEARLY;BYWEEKNO=20", datetime(2026, 1, 1, 9), last=datetime(2027, 1, 1))
    assert found == dates("2026-05 11-17")


def test_week_53_exists_in_long_years_only() -> None:
    found = run("FREQ=YEARLY;BYWEEKNO=53;BYDAY=FR", datetime(2015, 1, 1, 9), last=datetime(2030, 1, 1))
    assert found == dates("2016-01 1;2021-01 1;2027-01 1")


def test_a_leap_second_is_read_as_the_second_before() -> None:
    found = run("FREQ=MINUTELY;BYSECOND=60;COUNT=1", datetime(2026, 3, 2, 9))
    assert found == [datetime(2026, 3, 2, 9, 0, 59)]


def test_an_until_is_inclusive() -> None:
    assert run("FREQ=DAILY;UNTIL=20260303T090000", datetime(2026, 3, 2, 9)) == dates("2026-03 2 3")


def test_an_until_a_second_before_an_occurrence_rules_it_out() -> None:
    assert run("FREQ=DAILY;UNTIL=20260303T085959", datetime(2026, 3, 2, 9)) == dates("2026-03 2")


def test_the_last_day_of_an_until_that_is_a_date_counts_for_a_timed_start() -> None:
    assert run("FREQ=DAILY;UNTIL=20260303", datetime(2026, 3, 2, 9)) == dates("2026-03 2 3")


def test_an_until_before_the_start_leaves_nothing() -> None:
    assert run("FREQ=DAILY;UNTIL=20260301", datetime(2026, 3, 2, 9)) == []


def test_replacing_the_until_moves_the_end() -> None:
    rule = with_until(parse_rule("FREQ=DAILY;UNTIL=20260302T080000Z"), datetime(2026, 3, 3, 9))
    start = datetime(2026, 3, 2, 9)
    assert list(occurrences(rule, start, start, datetime(2027, 1, 1), limit=10)) == dates("2026-03 2 3")


def test_the_window_includes_its_start_and_excludes_its_end() -> None:
    found = run("FREQ=DAILY", datetime(2026, 1, 1, 9), datetime(2026, 3, 2, 9), datetime(2026, 3, 4, 9))
    assert found == dates("2026-03 2 3")


def test_nothing_happens_before_the_start() -> None:
    found = run("FREQ=WEEKLY;BYDAY=MO,FR", datetime(2026, 3, 4, 9), datetime(2020, 1, 1), datetime(2026, 3, 10))
    assert found == dates("2026-03 6 9")


def test_every_other_week_keeps_in_step_over_sixteen_years() -> None:
    # From Monday 4 January 2010 to Monday 2 March 2026 are 843 weeks: an odd number.
    found = run("FREQ=WEEKLY;INTERVAL=2", datetime(2010, 1, 4, 9), datetime(2026, 3, 1), datetime(2026, 3, 31))
    assert found == dates("2026-03 9 23")


# Events of whole days


def test_a_rule_of_whole_days_gives_midnights_and_ignores_times() -> None:
    found = run("FREQ=DAILY;BYHOUR=9,17;BYMINUTE=30;COUNT=2", datetime(2026, 3, 2), all_day=True)
    assert found == dates("2026-03 2 3", "00:00")


def test_the_last_day_of_an_until_counts_for_whole_days() -> None:
    assert run("FREQ=DAILY;UNTIL=20260303", datetime(2026, 3, 2), all_day=True) == dates("2026-03 2 3", "00:00")


def test_a_rule_of_whole_days_that_repeats_by_the_hour_is_refused_at_once() -> None:
    with pytest.raises(RuleError, match="within the day"):
        occurrences(parse_rule("FREQ=HOURLY"), datetime(2026, 3, 2), datetime.min, datetime.max, limit=1, all_day=True)


# RFC 7529


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        ("OMIT", "2014-01 31;2014-03 31;2014-05 31"),
        ("BACKWARD", "2014-01 31;2014-02 28;2014-03 31;2014-04 30;2014-05 31"),
        ("FORWARD", "2014-01 31;2014-03 1 31;2014-05 1 31"),
    ],
)
def test_the_31st_of_a_shorter_month_is_where_skip_says(skip: str, expected: str) -> None:
    found = run(f"RSCALE=GREGORIAN;FREQ=MONTHLY;SKIP={skip}", datetime(2014, 1, 31, 9), last=datetime(2014, 6, 1))
    assert found == dates(expected)


@pytest.mark.parametrize(
    ("skip", "expected"),
    [("FORWARD", "2016-02 29;2017-03 1;2018-03 1"), ("BACKWARD", "2016-02 29;2017-02 28;2018-02 28")],
)
def test_the_29th_of_february_of_a_common_year_is_where_skip_says(skip: str, expected: str) -> None:
    found = run(f"RSCALE=GREGORIAN;FREQ=YEARLY;SKIP={skip};COUNT=3", datetime(2016, 2, 29, 9))
    assert found == dates(expected)


def test_a_day_that_skip_moves_onto_another_is_one_occurrence() -> None:
    text = "RSCALE=GREGORIAN;FREQ=MONTHLY;SKIP=FORWARD;BYMONTHDAY=1,31;BYHOUR=9,17;COUNT=8"
    found = run(text, datetime(2026, 4, 1, 9))
    wanted = sorted(dates("2026-04 1;2026-05 1 31;2026-06 1") + dates("2026-04 1;2026-05 1 31;2026-06 1", "17:00"))
    assert found == wanted


def test_a_day_that_skip_moves_into_the_window_is_found() -> None:
    text = "RSCALE=GREGORIAN;FREQ=MONTHLY;SKIP=FORWARD;BYMONTHDAY=31"
    found = run(text, datetime(2026, 1, 31, 9), datetime(2026, 5, 1), datetime(2026, 5, 2))
    assert found == dates("2026-05 1")


def test_another_calendar_scale_is_refused() -> None:
    with pytest.raises(RuleError, match="scale"):
        parse_rule("RSCALE=HEBREW;FREQ=YEARLY")


# Reading


@pytest.mark.parametrize(
    "sloppy",
    [
        "freq=weekly;byday=mo,fr;interval=2",
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR;",
        " FREQ = WEEKLY ; INTERVAL = 2 ; BYDAY = MO, FR ",
        "RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=FR,MO,MO",
        "INTERVAL=02;BYDAY=MO,FR;FREQ=WEEKLY",
        "FREQ=WEEKLY;FREQ=WEEKLY;;INTERVAL=2;BYDAY=MO,FR",
        "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR;X-COLOR=red;WKST=MO",
        "RSCALE=gregorian;SKIP=OMIT;FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR",
    ],
)
def test_sloppy_writing_that_can_mean_one_thing_only_is_read(sloppy: str) -> None:
    assert parse_rule(sloppy) == parse_rule("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR")


def test_a_plus_before_an_ordinal_says_nothing() -> None:
    assert parse_rule("FREQ=MONTHLY;BYDAY=+1MO") == parse_rule("FREQ=MONTHLY;BYDAY=1MO")


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("20260331", Until(True, datetime(2026, 3, 31), False)),
        ("2026-03-31", Until(True, datetime(2026, 3, 31), False)),
        ("20260331T235959", Until(False, datetime(2026, 3, 31, 23, 59, 59), False)),
        ("20260331T235959Z", Until(False, datetime(2026, 3, 31, 23, 59, 59), True)),
        ("20260331t235959z", Until(False, datetime(2026, 3, 31, 23, 59, 59), True)),
        ("2026-03-31T23:59:59Z", Until(False, datetime(2026, 3, 31, 23, 59, 59), True)),
        ("20261231T235960Z", Until(False, datetime(2026, 12, 31, 23, 59, 59), True)),
    ],
)
def test_an_until_is_a_date_or_a_moment_with_or_without_zone(text: str, until: Until) -> None:
    assert parse_rule(f"FREQ=DAILY;UNTIL={text}").until == until


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DAILY",
        "INTERVAL=2",
        "FREQ=FORTNIGHTLY",
        "FREQ=DAILY;FREQ=WEEKLY",
        "FREQ=DAILY;COUNT",
        "FREQ=DAILY;BYEASTER=1",
        "FREQ=DAILY;INTERVAL=0",
        "FREQ=DAILY;INTERVAL=-1",
        "FREQ=DAILY;INTERVAL=1.5",
        "FREQ=DAILY;INTERVAL=",
        "FREQ=DAILY;COUNT=0",
        "FREQ=DAILY;COUNT=-1",
        "FREQ=DAILY;COUNT=\u0661",
        "FREQ=DAILY;COUNT=" + "9" * 5000,
        "FREQ=DAILY;UNTIL=20260230",
        "FREQ=DAILY;UNTIL=20260301T250000",
        "FREQ=DAILY;UNTIL=20260301T101061",
        "FREQ=DAILY;UNTIL=20260301T100000+0100",
        "FREQ=DAILY;UNTIL=tomorrow",
        "FREQ=DAILY;UNTIL=00000101",
        "FREQ=WEEKLY;BYDAY=",
        "FREQ=WEEKLY;BYDAY=MON",
        "FREQ=WEEKLY;BYDAY=MO;BYDAY=TU",
        "FREQ=MONTHLY;BYDAY=0MO",
        "FREQ=MONTHLY;BYDAY=54MO",
        "FREQ=MONTHLY;BYMONTHDAY=0",
        "FREQ=MONTHLY;BYMONTHDAY=32",
        "FREQ=YEARLY;BYMONTH=13",
        "FREQ=YEARLY;BYMONTH=-1",
        "FREQ=YEARLY;BYMONTH=5L",
        "FREQ=YEARLY;BYYEARDAY=367",
        "FREQ=YEARLY;BYWEEKNO=54",
        "FREQ=YEARLY;BYWEEKNO=20;BYDAY=1MO",
        "FREQ=DAILY;BYHOUR=24",
        "FREQ=DAILY;BYMINUTE=60",
        "FREQ=DAILY;BYSECOND=61",
        "FREQ=DAILY;BYHOUR=9;BYSETPOS=0",
        "FREQ=WEEKLY;WKST=1MO",
        "RSCALE=GREGORIAN;SKIP=SIDEWAYS;FREQ=DAILY",
        "FREQ=DAILY;" + ";" * 20_000,
    ],
)
def test_a_rule_that_cannot_be_understood_is_refused(text: str) -> None:
    with pytest.raises(RuleError):
        parse_rule(text)


@FEW
@given(st.text(alphabet="FREQ=DAILY;BUNTCO0123456789-+,TZ \x00\u0661", max_size=60))
def test_no_text_raises_anything_but_a_rule_error(text: str) -> None:
    with contextlib.suppress(RuleError):
        parse_rule(text)


# The ends of time, and hostile rules


def test_the_last_second_of_the_year_9999_is_reached() -> None:
    found = run("FREQ=SECONDLY", datetime(9999, 12, 31, 23, 59, 58), last=datetime.max)
    assert found == [datetime(9999, 12, 31, 23, 59, 58), datetime(9999, 12, 31, 23, 59, 59)]


@pytest.mark.parametrize("freq", [*COARSE, *FINE])
@pytest.mark.parametrize("parts", ["", ";INTERVAL=999999999999999", ";BYDAY=SU,MO;WKST=WE", ";BYMONTH=12,1;BYSETPOS=1"])
@pytest.mark.parametrize("skip", ["", ";SKIP=FORWARD;BYMONTHDAY=31,-31;BYYEARDAY=366,-366,365,1;BYWEEKNO=1,-1"])
@pytest.mark.parametrize("start", [datetime(1, 1, 1), datetime(1, 1, 2, 3), datetime(9999, 12, 31, 22, 59)])
def test_no_rule_falls_off_the_ends_of_the_calendar(freq: str, parts: str, skip: str, start: datetime) -> None:
    for first, last in ((datetime.min, datetime(1, 3, 1)), (datetime(9999, 12, 1), datetime.max)):
        try:
            found = run(f"FREQ={freq}{parts}{skip}", start, first, last, limit=500)
        except TooMuchWork:
            continue
        assert all(max(first, start) <= moment < last for moment in found)


EVERY_SECOND = f"BYHOUR={','.join(map(str, range(24)))};BYMINUTE={','.join(map(str, range(60)))};BYSECOND=" + ",".join(
    map(str, range(60))
)
HOSTILE = [
    "FREQ=SECONDLY",
    "FREQ=SECONDLY;COUNT=1000000000",
    "FREQ=MINUTELY;COUNT=1000000000;BYDAY=MO",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=2",
    "FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=30",
    "FREQ=SECONDLY;INTERVAL=2;BYSECOND=1",
    "FREQ=SECONDLY;INTERVAL=86399;BYHOUR=3;COUNT=1000000000",
    "FREQ=SECONDLY;INTERVAL=7;BYSECOND=3;BYMINUTE=9;BYHOUR=23;COUNT=1000000000",
    "FREQ=HOURLY;INTERVAL=2;BYHOUR=1",
    "FREQ=DAILY;BYMONTH=1;COUNT=1000000000",
    "FREQ=YEARLY;COUNT=1000000000;BYWEEKNO=" + ",".join(map(str, range(1, 54))),
    "FREQ=YEARLY;COUNT=1000000000;BYSETPOS=-1;" + EVERY_SECOND,
    "FREQ=YEARLY;SKIP=FORWARD;BYMONTHDAY=31;" + EVERY_SECOND,
    "FREQ=WEEKLY;" + EVERY_SECOND,
    "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30;" + EVERY_SECOND,
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("start", [datetime(1970, 1, 1), datetime(1, 1, 1)])
@pytest.mark.parametrize("window", [(datetime(2026, 1, 1), datetime(2029, 1, 1)), (datetime.min, datetime.max)])
def test_a_hostile_rule_ends_soon(text: str, start: datetime, window: tuple[datetime, datetime]) -> None:
    begun = time.process_time()
    with contextlib.suppress(TooMuchWork):
        run(text, start, *window, limit=10_000)
    assert time.process_time() - begun < 3


def test_more_occurrences_than_the_limit_are_too_much_work() -> None:
    with pytest.raises(TooMuchWork):
        run("FREQ=DAILY;COUNT=11", datetime(2026, 1, 1), limit=10)


def test_as_many_occurrences_as_the_limit_are_not_too_much() -> None:
    assert len(run("FREQ=DAILY;COUNT=10", datetime(2026, 1, 1), limit=10)) == 10


def test_counting_a_billion_seconds_takes_no_time() -> None:
    # 1e9 seconds after 1970-01-01T00:00:00 is 2001-09-09T01:46:40.
    found = run("FREQ=SECONDLY;COUNT=1000000000", datetime(1970, 1, 1), datetime(2001, 9, 9, 1, 46, 38))
    assert found == [datetime(2001, 9, 9, 1, 46, 38), datetime(2001, 9, 9, 1, 46, 39)]


def test_a_rule_that_never_happens_has_no_occurrences() -> None:
    assert run("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", datetime(1970, 1, 1), last=datetime(2030, 1, 1)) == []
