"""What one calendar object makes busy: what the corpus has no place for, and what must hold for every series."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import icalendar
import pytest
import recurring_ical_events
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.busy import Reading, Resource, ResourceBusy, floating_zone, read_resource, zone_of
from calendar_server.core.intervals import from_datetime, to_datetime
from calendar_server.core.model import BlockReason, EventId, Interval

WINDOW = Interval(*(from_datetime(datetime(2026, month, 1, tzinfo=UTC)) for month in (3, 4)))
LIMIT = 20_000


def calendar(*lines: str) -> str:
    return "\r\n".join(["BEGIN:VCALENDAR", *lines, "END:VCALENDAR", ""])


def event(*lines: str, uid: str = "1") -> str:
    return "\r\n".join(["BEGIN:VEVENT", f"UID:{uid}", *lines, "END:VEVENT"])


def read(text: str, window: Interval = WINDOW, zone: str = "UTC", owner: str = "", limit: int = LIMIT) -> ResourceBusy:
    addresses = frozenset({owner} if owner else ())
    return read_resource(Resource(EventId("e"), text), Reading(window, zone, addresses), zone, limit=limit)


def reasons(*lines: str, owner: str = "") -> list[tuple[str, bool]]:
    text = calendar(event("DTSTART:20260310T090000Z", "DTEND:20260310T100000Z", *lines))
    return [(each.reason.value, each.tentative) for each in read(text, owner=owner).events]


def at(day: int, hour: int, minute: int = 0) -> int:
    return from_datetime(datetime(2026, 3, day, hour, minute, tzinfo=UTC))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("STATUS:CONFIRMED",), ("busy", False)),
        (("STATUS:WHATEVER",), ("busy", False)),
        (("TRANSP:WHATEVER",), ("busy", False)),
        (("TRANSP:TRANSPARENT", "TRANSP:OPAQUE"), ("busy", False)),
        (("STATUS:CANCELLED", "STATUS:CONFIRMED"), ("busy", False)),
        (("STATUS:TENTATIVE", "TRANSP:TRANSPARENT"), ("free", False)),
        (("STATUS:CANCELLED", "TRANSP:TRANSPARENT"), ("cancelled", False)),
        (("X-MICROSOFT-CDO-BUSYSTATUS:BUSY", "TRANSP:TRANSPARENT"), ("free", False)),
        (("X-MICROSOFT-CDO-BUSYSTATUS:BUSY",), ("busy", False)),
        (("X-MICROSOFT-CDO-BUSYSTATUS:WORKINGELSEWHERE", "TRANSP:OPAQUE"), ("working_elsewhere", False)),
        (("X-MICROSOFT-MSNCALENDAR-BUSYSTATUS:OOF",), ("out_of_office", False)),
    ],
)
def test_what_is_written_about_an_event_decides_whether_it_blocks(lines, expected):
    assert reasons(*lines) == [expected]


@pytest.mark.parametrize(
    "attendee",
    [
        "ATTENDEE;PARTSTAT=declined:mailto:anna@example.com",
        "attendee;partstat=DECLINED:MAILTO:ANNA@EXAMPLE.COM",
        "ATTENDEE;PARTSTAT=DECLINED:mailto:%61nna@example.com",
        'ATTENDEE;PARTSTAT="DECLINED";EMAIL="Anna@example.com":urn:uuid:1',
        "ATTENDEE;PARTSTAT=DECLINED:anna@example.com",
    ],
)
def test_the_owner_is_found_however_the_address_is_written(attendee):
    assert reasons(attendee, owner="anna@example.com") == [("declined", False)]


def test_without_known_addresses_nobody_has_declined():
    assert reasons("ATTENDEE;PARTSTAT=DECLINED:mailto:anna@example.com") == [("busy", False)]


def test_an_address_that_only_contains_the_owners_is_not_the_owners():
    attendee = "ATTENDEE;PARTSTAT=DECLINED:mailto:joanna@example.com"
    assert reasons(attendee, owner="anna@example.com") == [("busy", False)]


def test_events_are_told_by_start():
    text = calendar(
        event("DTSTART:20260312T090000Z", "DURATION:PT1H", uid="b"),
        event("DTSTART:20260310T090000Z", "DURATION:PT1H", "TRANSP:TRANSPARENT", uid="a"),
    )
    assert [each.start for each in read(text).events] == [at(10, 9), at(12, 9)]


def test_events_that_are_equally_new_and_differ_both_stay():
    text = calendar(
        event("DTSTART:20260310T090000Z", "DURATION:PT1H"), event("DTSTART:20260312T090000Z", "DURATION:PT1H")
    )
    assert [each.start for each in read(text).events] == [at(10, 9), at(12, 9)]


def test_events_without_uid_are_not_versions_of_each_other():
    first, second = (
        f"BEGIN:VEVENT\r\nDTSTART:202603{day}T090000Z\r\nDURATION:PT1H\r\nSEQUENCE:{day}\r\nEND:VEVENT"
        for day in (10, 12)
    )
    assert len(read(calendar(first, second)).events) == 2


@pytest.mark.parametrize(("freq", "times"), [("HOURLY", 744), ("DAILY", 31)])
def test_more_occurrences_than_the_limit_are_no_answer(freq, times):
    text = calendar(event("DTSTART:20260301T000000Z", "DURATION:PT1M", f"RRULE:FREQ={freq}"))
    assert len(read(text, limit=times).events) == times
    found = read(text, limit=times - 1)
    assert found.events == ()
    assert len(found.unreadable) == 1


@pytest.mark.parametrize("duration", ["PT1H", "P1D"])
def test_an_until_in_utc_ends_a_series_on_the_second(duration):
    start = ("DTSTART;TZID=America/New_York:20260310T090000", f"DURATION:{duration}")
    until = [(1, "20260312T125959Z"), (2, "20260312T130000Z")]
    for more, moment in until:
        found = read(calendar(event(*start, f"RRULE:FREQ=DAILY;UNTIL={moment}")))
        assert [each.start for each in found.events] == [at(10 + day, 13) for day in range(1 + more)]
        removed = read(calendar(event(*start, "RRULE:FREQ=DAILY;COUNT=5", f"EXRULE:FREQ=DAILY;UNTIL={moment}")))
        assert [each.start for each in removed.events] == [at(10 + day, 13) for day in range(1 + more, 5)]


def test_an_until_in_utc_ends_a_series_within_the_day_on_the_second():
    start = ("DTSTART;TZID=America/New_York:20260310T090000", "DURATION:PT5M")
    for until, times in (("20260310T135959Z", 1), ("20260310T140000Z", 2)):
        found = read(calendar(event(*start, f"RRULE:FREQ=HOURLY;BYHOUR=9,10,11;UNTIL={until}")))
        assert [each.start for each in found.events] == [at(10, 13 + hour) for hour in range(times)]


def test_of_two_versions_that_are_equally_new_each_time_is_told_once():
    texts = (event("DTSTART:20260310T090000Z", "DURATION:PT1H", f"RRULE:FREQ=DAILY;COUNT={times}") for times in (2, 3))
    assert [each.start for each in read(calendar(*texts)).events] == [at(day, 9) for day in (10, 11, 12)]


def test_occurrences_without_any_length_are_told_where_they_are():
    text = calendar(event("DTSTART:20260302T090000Z", "DTEND:20260302T090000Z", "RRULE:FREQ=DAILY"))
    found = read(text, Interval(at(10, 9), at(12, 9)))
    assert [(each.start, each.reason) for each in found.events] == [
        (at(day, 9), BlockReason.ZERO_LENGTH) for day in (10, 11)
    ]


def test_the_times_of_a_rule_mean_nothing_to_whole_days():
    text = calendar(event("DTSTART;VALUE=DATE:20260310", "RRULE:FREQ=DAILY;BYHOUR=9;BYMINUTE=30;COUNT=2"))
    assert [(each.start, each.end) for each in read(text).events] == [(at(10, 0), at(11, 0)), (at(11, 0), at(12, 0))]


def test_the_way_to_an_occurrence_after_the_window_may_lie_in_it():
    series = ("DTSTART:20260302T090000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY", "X-APPLE-TRAVEL-DURATION:PT30M")
    found = read(calendar(event(*series)), Interval(at(10, 8, 15), at(10, 8, 45)))
    assert [(each.start, each.end, each.reason) for each in found.events] == [
        (at(10, 8, 30), at(10, 9), BlockReason.TRAVEL)
    ]


@pytest.mark.parametrize("owner", ["MAILTO:Me@example.com", "me%40example.com", '"me@example.com"'])
def test_the_owner_s_own_address_may_be_told_in_any_way_as_well(owner):
    assert reasons("ATTENDEE;PARTSTAT=DECLINED:mailto:me@example.com", owner=owner) == [("declined", False)]


def test_more_dates_than_the_limit_are_no_answer():
    days = [f"202603{day:02}T090000Z" for day in range(2, 12)]
    text = calendar(event("DTSTART:20260302T090000Z", "DURATION:PT1H", f"RDATE:{','.join(days)}"))
    assert len(read(text, limit=10).events) == 10
    found = read(text, limit=9)
    assert not found.events
    assert found.unreadable


def test_a_free_series_with_more_occurrences_than_the_limit_is_told_as_a_whole():
    series = ("DTSTART:20260301T010000Z", "DURATION:PT1S", "RRULE:FREQ=SECONDLY;INTERVAL=7;BYHOUR=1,5")
    found = read(calendar(event(*series, "TRANSP:TRANSPARENT")))
    assert [(each.reason, each.event_id) for each in found.events] == [(BlockReason.FREE, "e")]
    assert found.unreadable == ()


def test_a_broken_series_keeps_its_overrides():
    text = calendar(
        event("DTSTART:20260310T090000Z", "DURATION:PT1H", "RRULE:FREQ=NEVER"),
        event("RECURRENCE-ID:20260312T090000Z", "DTSTART:20260312T120000Z", "DURATION:PT1H"),
    )
    found = read(text)
    assert [each.start for each in found.events] == [at(12, 12)]
    assert [each.interval for each in found.unreadable] == [Interval(at(10, 9), at(10, 10))]


def test_an_override_that_says_not_what_it_replaces_is_named_where_it_stands():
    text = calendar(
        event("DTSTART:20260310T090000Z", "DURATION:PT1H"),
        event("RECURRENCE-ID:garbage", "DTSTART:20260312T120000Z", "DURATION:PT1H"),
    )
    found = read(text)
    assert [each.start for each in found.events] == [at(10, 9), at(12, 12)]
    assert [each.interval for each in found.unreadable] == [Interval(at(12, 12), at(12, 13))]


def test_a_range_that_reaches_back_is_named():
    text = calendar(
        event("DTSTART:20260310T090000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY;COUNT=3"),
        event("RECURRENCE-ID;RANGE=THISANDPRIOR:20260312T090000Z", "DTSTART:20260312T120000Z", "DURATION:PT1H"),
    )
    assert len(read(text).unreadable) == 1


def test_travel_that_cannot_be_read_makes_the_event_unreadable():
    text = calendar(event("DTSTART:20260310T090000Z", "DURATION:PT1H", "X-APPLE-TRAVEL-DURATION:a while"))
    assert len(read(text).unreadable) == 1


def test_travel_is_as_tentative_as_its_event():
    text = calendar(
        event("DTSTART:20260310T090000Z", "DURATION:PT1H", "X-APPLE-TRAVEL-DURATION:PT30M", "STATUS:TENTATIVE")
    )
    assert [(each.reason, each.tentative) for each in read(text).events] == [
        (BlockReason.TRAVEL, True),
        (BlockReason.TENTATIVE, True),
    ]


def test_every_occurrence_has_its_travel():
    text = calendar(
        event(
            "DTSTART:20260310T090000Z",
            "DURATION:PT1H",
            "X-APPLE-TRAVEL-DURATION:PT30M",
            "RRULE:FREQ=DAILY;COUNT=3",
        )
    )
    assert sum(each.reason is BlockReason.TRAVEL for each in read(text).events) == 3


def test_an_additional_date_in_an_unknown_zone_is_named_beside_the_rest():
    text = calendar(event("DTSTART:20260310T090000Z", "DURATION:PT1H", "RDATE;TZID=Nowhere:20260320T090000"))
    found = read(text)
    assert [each.start for each in found.events] == [at(10, 9)]
    assert [each.interval for each in found.unreadable] == [Interval(at(19, 19), at(20, 22))]


def test_a_series_in_an_unknown_zone_is_outside_when_all_of_it_surely_is():
    text = calendar(event("DTSTART;TZID=Nowhere:20260101T090000", "DURATION:PT1H", "RRULE:FREQ=DAILY;COUNT=30"))
    assert read(text) == ResourceBusy()


def test_an_exception_in_the_same_unknown_zone_is_matched():
    text = calendar(
        event("DTSTART;TZID=Nowhere:20260310T090000", "DURATION:PT1H", "EXDATE;TZID=Nowhere:20260310T090000")
    )
    assert read(text) == ResourceBusy()


def test_an_unreadable_end_is_known_to_lie_after_the_window_by_its_start():
    text = calendar(event("DTSTART:20260401T000000Z", "DTEND:garbage"))
    assert read(text) == ResourceBusy()
    earlier = calendar(event("DTSTART:20260101T000000Z", "DTEND:garbage"))
    assert len(read(earlier).unreadable) == 1


@pytest.mark.parametrize(
    ("calendar_timezone", "expected"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (calendar("BEGIN:VTIMEZONE", "TZID:W. Europe Standard Time", "END:VTIMEZONE"), "Europe/Berlin"),
        ("", "America/New_York"),
        ("nonsense", "America/New_York"),
    ],
)
def test_the_calendars_own_zone_goes_before_what_its_events_name(calendar_timezone, expected):
    resources = [
        Resource(EventId("1"), calendar(event("DTSTART;TZID=America/New_York:20260310T090000"))),
        Resource(EventId("2"), calendar(event("DTSTART;VALUE=DATE-TIME;TZID=America/New_York:20260310T090000"))),
        Resource(EventId("3"), calendar(event("DTSTART;TZID=Asia/Tokyo:20260310T090000"))),
        Resource(EventId("4"), calendar(event("DTSTART:20260310T090000"))),
    ]
    assert floating_zone(resources, calendar_timezone) == expected


def test_x_wr_timezone_goes_before_the_zones_of_events():
    resources = [
        Resource(EventId("1"), calendar(event("DTSTART;TZID=America/New_York:20260310T090000"))),
        Resource(EventId("2"), calendar("X-WR-TIMEZONE:Asia/Tokyo")),
    ]
    assert floating_zone(resources, "") == "Asia/Tokyo"


def test_a_calendar_that_names_no_zone_is_in_utc():
    assert floating_zone([Resource(EventId("1"), "nonsense")], "") == "UTC"


def test_a_calendars_zone_that_only_its_text_defines_is_used():
    text = calendar(
        "BEGIN:VTIMEZONE",
        "TZID:Mine",
        "BEGIN:STANDARD",
        "DTSTART:19700101T000000",
        "TZOFFSETFROM:+0345",
        "TZOFFSETTO:+0345",
        "END:STANDARD",
        "END:VTIMEZONE",
    )
    assert zone_of(floating_zone([], text)).instant(datetime(2026, 3, 10, 9)) == at(10, 5, 15)


@given(st.text(max_size=300))
@settings(max_examples=100)
def test_no_text_raises_and_no_text_that_is_no_calendar_is_free(text):
    assert read(text).unreadable


PIECES = """
BEGIN:VEVENT
END:VEVENT
BEGIN:VALARM
END:VALARM
END:VCALENDAR
UID:1
SEQUENCE:x
DTSTAMP:x
DTSTART:20260310T090000Z
DTSTART;TZID=Asia/Tokyo:00010101T000000
DTSTART;TZID=X:99991231T235959
DTSTART:99991231
DTEND:x
DTEND;TZID=Asia/Tokyo:99991231T235959
DURATION:PT1H
DURATION:P999999999D
RRULE:FREQ=DAILY
RRULE:FREQ=HOURLY;UNTIL=99991231
RRULE:FREQ=MINUTELY;BYHOUR=1;UNTIL=99991231T235959Z
RRULE:x
EXRULE:FREQ=HOURLY
EXDATE:x
EXDATE:00010101T000000Z
RDATE:99991231T235959Z
RDATE;VALUE=PERIOD:00010101T000000Z/P999999999W,20260310T090000Z/20260309T090000Z
RECURRENCE-ID:20260310T090000Z
RECURRENCE-ID;RANGE=THISANDFUTURE:00010101
RECURRENCE-ID;RANGE=THISANDFUTURE:99991231T235959
X-APPLE-TRAVEL-DURATION:PT999999999H
BEGIN:VTIMEZONE
TZID:X
BEGIN:STANDARD
TZOFFSETTO:+2359
END:STANDARD
END:VTIMEZONE
\ufffd
""".strip().splitlines()


@given(st.lists(st.sampled_from(PIECES), max_size=14))
@settings(max_examples=300, deadline=None)
def test_no_arrangement_of_lines_is_unforeseen(lines):
    found = read(calendar("BEGIN:VEVENT", *lines, "END:VEVENT"), zone="Pacific/Auckland")
    assert not [each for each in found.unreadable if each.message.startswith("The event cannot be read (")]


@pytest.mark.parametrize(
    "lines", [("BEGIN:VEVENT", "END:VEVENT"), ("BEGIN:VEVENT", "UID:1", "RRULE:FREQ=DAILY", "END:VEVENT")]
)
def test_an_event_of_which_nothing_is_known_is_named(lines):
    assert len(read(calendar(*lines)).unreadable) == 1


# Random series against a second implementation, where both are defined.

BEGINNING = datetime(2026, 1, 1)
WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")


@dataclass(frozen=True)
class Series:
    text: str
    zone: str


@st.composite
def rules(draw: st.DrawFn, start: datetime, ended: str) -> str:
    freq = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.integers(1, 4))}"]
    days = ",".join(draw(st.lists(st.sampled_from(WEEKDAYS), min_size=1, max_size=3, unique=True)))
    if freq == "MONTHLY":
        last = draw(st.integers(-3, 31).filter(bool))
        parts += draw(st.sampled_from([[], [f"BYDAY={days}"], [f"BYDAY=-1{days[:2]}"], [f"BYMONTHDAY={last}"]]))
    elif freq == "YEARLY":
        parts += draw(st.sampled_from([[], ["BYMONTH=2,3,11"]]))
    else:
        parts += draw(st.sampled_from([[], [f"BYDAY={days}"]]))
    bounds = [[], [f"COUNT={draw(st.integers(1, 60))}"]]
    until = start + timedelta(days=draw(st.integers(1, 300)))
    bounds.append([f"UNTIL={until:%Y%m%dT%H%M%SZ}" if ended == "time" else f"UNTIL={until:%Y%m%d}"])
    return ";".join(parts + draw(st.sampled_from(bounds)))


@st.composite
def series(draw: st.DrawFn) -> Series:
    zone = draw(st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]))
    whole_days = draw(st.booleans())
    start = BEGINNING + timedelta(days=draw(st.integers(-200, 60)), minutes=15 * draw(st.integers(0, 95)))

    def written(name: str, moment: datetime) -> str:
        if whole_days:
            return f"{name};VALUE=DATE:{moment:%Y%m%d}"
        return f"{name};TZID={zone}:{moment:%Y%m%dT%H%M%S}"

    rule = draw(rules(start, "date" if whole_days else "time"))
    length = f"P{draw(st.integers(1, 3))}D" if whole_days else f"PT{15 * draw(st.integers(1, 40))}M"
    master = [written("DTSTART", start), f"DURATION:{length}", f"RRULE:{rule}"]
    offsets = st.lists(st.integers(0, 120), max_size=4, unique=True)
    master += [written("EXDATE", start + timedelta(days=days)) for days in draw(offsets)]
    master += [written("RDATE", start + timedelta(days=days)) for days in draw(offsets)]
    events = [event(*master)]
    for original in ours_local(master, zone, draw(st.lists(st.integers(0, 20), max_size=2, unique=True))):
        moved = original + timedelta(days=draw(st.integers(-40, 40)), minutes=15 * draw(st.integers(-20, 20)))
        state = draw(st.sampled_from(["STATUS:CONFIRMED", "STATUS:CANCELLED"]))
        events.append(event(written("RECURRENCE-ID", original), written("DTSTART", moved), f"DURATION:{length}", state))
    return Series(calendar(*events), zone)


def ours_local(master: list[str], zone: str, picks: list[int]) -> Iterator[datetime]:
    """Some occurrences of the series, in local time, for overrides to replace."""
    found = read(calendar(event(*master)), window=year_from(BEGINNING), zone=zone).events
    for pick in picks:
        if pick < len(found):
            yield to_datetime(found[pick].start).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def year_from(start: datetime) -> Interval:
    begin = from_datetime(start.replace(tzinfo=UTC))
    return Interval(begin, begin + 365 * 86_400_000_000)


@given(each=series())
@settings(max_examples=150, deadline=None)
def test_a_random_series_starts_when_a_second_implementation_says(each):
    window = year_from(BEGINNING)
    found = read(each.text, window=window, zone=each.zone)
    assert found.unreadable == ()
    ours = {
        (told.start, told.reason is not BlockReason.CANCELLED)
        for told in found.events
        if window.start <= told.start < window.end
    }
    zone = ZoneInfo(each.zone)
    first, last = (to_datetime(instant) for instant in window)
    with warnings.catch_warnings(action="ignore"):
        occurrences = recurring_ical_events.of(icalendar.Calendar.from_ical(each.text)).between(
            first - timedelta(days=5), last + timedelta(days=5)
        )
    theirs = set()
    for occurrence in occurrences:
        start = occurrence["DTSTART"].dt
        if not isinstance(start, datetime):
            start = datetime(start.year, start.month, start.day, tzinfo=zone)
        instant = from_datetime(start.astimezone(UTC))
        if window.start <= instant < window.end:
            theirs.add((instant, str(occurrence.get("STATUS", "")) != "CANCELLED"))
    assert ours == theirs


@given(
    start=st.integers(-400, 800),
    minutes=st.integers(1, 60 * 24 * 40),
    begin=st.integers(-400, 800),
    hours=st.integers(1, 24 * 60),
)
@settings(max_examples=100)
def test_a_window_shows_exactly_the_occurrences_that_touch_it(start, minutes, begin, hours):
    first = BEGINNING + timedelta(hours=start)
    window_start = from_datetime((BEGINNING + timedelta(hours=begin)).replace(tzinfo=UTC))
    window = Interval(window_start, window_start + hours * 3_600_000_000)
    text = calendar(event(f"DTSTART:{first:%Y%m%dT%H%M%SZ}", f"DURATION:PT{minutes}M", "RRULE:FREQ=DAILY;INTERVAL=3"))
    every = Interval(window.start - 200 * 86_400_000_000, window.end + 200 * 86_400_000_000)
    touching = [each for each in read(text, window=every).events if each.start < window.end and each.end > window.start]
    assert list(read(text, window=window).events) == touching
