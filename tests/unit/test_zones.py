"""From a TZID to a zone, and from local times to instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from icalendar.timezone.windows_to_olson import WINDOWS_TO_OLSON

from calendar_server.core.ical import parse
from calendar_server.core.intervals import from_datetime
from calendar_server.core.vtimezone import Zones
from calendar_server.core.windows_zones import WINDOWS_ZONES
from calendar_server.core.zones import (
    DAYS_MOST,
    IanaZone,
    NotedZone,
    Zone,
    described,
    naive_instant,
    naive_local,
    named,
    wall_local,
)

SUMMER = datetime(2026, 7, 1, 12)


def offset_h(tzid: str, local: datetime = SUMMER) -> float | None:
    zone = Zones().find(tzid)
    return None if zone is None else (naive_instant(local) - zone.instant(local)) / 3_600_000_000


@pytest.mark.parametrize(
    ("tzid", "name"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ('"Europe/Berlin"', "Europe/Berlin"),
        ("America/New York", "America/New_York"),
        ("US/Eastern", "US/Eastern"),
        ("/Europe/Berlin", "Europe/Berlin"),
        ("/mozilla.org/20070129_1/Europe/Berlin", "Europe/Berlin"),
        ("/citadel.org/20190914_1/America/Argentina/Buenos_Aires", "America/Argentina/Buenos_Aires"),
        ("/freeassociation.sourceforge.net/Tzfile/Asia/Tokyo", "Asia/Tokyo"),
        ("/softwarestudio.org/Olson_20011030_5/Europe/Paris", "Europe/Paris"),
        ("tzone://Microsoft/Utc", "UTC"),
        ("W. Europe Standard Time", "Europe/Berlin"),
        ("w. europe daylight time", "Europe/Berlin"),
        ("Eastern Standard Time", "America/New_York"),
    ],
)
def test_names_of_the_database_of_windows_and_behind_vendors_are_known(tzid, name):
    zone = named(tzid)
    assert zone is not None
    assert zone.name == name


@pytest.mark.parametrize(
    "tzid",
    [
        "",
        "Nowhere/Land",
        "localtime",
        "posixrules",
        "Factory",
        "Europe",
        "../../etc/localtime",
        "tzone://Microsoft/Custom",
        "Customized Time Zone",
        "Company/EST",
        "x" * 10_000,
    ],
)
def test_other_names_are_not_guessed(tzid):
    assert named(tzid) is None


@pytest.mark.parametrize(
    ("tzid", "hours"),
    [
        ("GMT+0100", 1),
        ("GMT-05:30", -5.5),
        ("UTC+2", 2),
        ("UTC +02.00", 2),
        ("+0200", 2),
        ("(UTC)", 0),
        ("(UTC-03:00)", -3),
        ("(UTC+01:00) Amsterdam, Berlin, Bern, Rome, Stockholm, Vienna", 2),
        ("(GMT+01.00) Sarajevo / Skopje / Warsaw / Zagreb", 2),
        ("(UTC-05:00) Eastern Time (US & Canada)", -4),
        ("(UTC) Dublin, Edinburgh, Lisbon, London", 1),
        ("(UTC+10:00) Canberra, Melbourne, Sydney", 10),
        ("(UTC+05:30) Chennai, Kolkata, Mumbai, New Delhi", 5.5),
        ("Pacific Time (US & Canada)", -7),
    ],
)
def test_ids_that_describe_a_zone_are_understood(tzid, hours):
    assert offset_h(tzid) == hours


@pytest.mark.parametrize("tzid", ["(UTC+01:00) Nowhere", "UTC+25", "GMT+01:75", "UTC-13", "(UTC+01:00) Tokyo"])
def test_an_offset_that_cannot_be_or_with_places_that_do_not_fit_is_no_zone(tzid):
    assert described(tzid) is None


def test_the_table_of_windows_names_agrees_with_a_second_source():
    assert len(WINDOWS_TO_OLSON) > 130
    for windows, iana in WINDOWS_TO_OLSON.items():
        ours, theirs = ZoneInfo(WINDOWS_ZONES[windows.casefold()]), ZoneInfo(iana)
        for month in range(1, 13):
            moment = datetime(2026, month, 15, tzinfo=UTC)
            assert moment.astimezone(ours).utcoffset() == moment.astimezone(theirs).utcoffset(), windows


def test_every_windows_name_is_a_zone():
    assert [name for name in WINDOWS_ZONES if named(name) is None] == []


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@given(minutes=st.integers(0, 365 * 24 * 60))
@settings(max_examples=60)
def test_an_instant_comes_back_from_local_time_unless_that_was_repeated(name, minutes):
    zone = named(name)
    assert zone is not None
    instant = from_datetime(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes))
    back = zone.instant(zone.local(instant))
    assert back == instant or (back < instant and zone.local(back) == zone.local(instant))


def test_the_first_and_the_last_years_can_be_converted():
    zone = named("Pacific/Auckland")
    assert zone is not None
    for local in (datetime.min, datetime.max):
        assert abs(zone.instant(local) - naive_instant(local)) < 14 * 3_600_000_000
    assert zone.local(10**30) == zone.local(naive_instant(datetime(9999, 12, 28)))
    assert naive_local(-(10**30)).year == 1


BERLIN = """BEGIN:VCALENDAR
BEGIN:VTIMEZONE
TZID:{tzid}
BEGIN:DAYLIGHT
DTSTART:19700329T020000
TZOFFSETFROM:+0100
TZOFFSETTO:+0200
RRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU
END:DAYLIGHT
BEGIN:STANDARD
DTSTART:19701025T030000
TZOFFSETFROM:+0200
TZOFFSETTO:+0100
RRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU
END:STANDARD
END:VTIMEZONE
END:VCALENDAR
"""


def own(text: str) -> Zones:
    return Zones(parse(text).calendars)


@given(minutes=st.integers(0, 20 * 365 * 24 * 60))
@settings(max_examples=100)
def test_a_zone_of_the_texts_own_works_like_the_databases(minutes):
    zone, berlin = own(BERLIN.format(tzid="Mine")).find("Mine"), named("Europe/Berlin")
    assert zone is not None
    assert berlin is not None
    local = datetime(2020, 1, 1) + timedelta(minutes=minutes)
    assert zone.instant(local) == berlin.instant(local)
    assert zone.local(naive_instant(local)) == berlin.local(naive_instant(local))


@pytest.mark.parametrize("hour", range(24))
def test_a_zone_of_the_texts_own_reads_gap_and_fold_like_the_databases(hour):
    zone, berlin = own(BERLIN.format(tzid="Mine")).find("Mine"), named("Europe/Berlin")
    assert zone is not None
    assert berlin is not None
    for day in (datetime(2026, 3, 29, hour, 30), datetime(2026, 10, 25, hour, 30)):
        assert zone.instant(day) == berlin.instant(day)


NAMES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "Asia/Beirut"]


def zones() -> dict[str, Zone]:
    found = {name: zone for name in NAMES if (zone := named(name)) is not None}
    mine, fixed = own(BERLIN.format(tzid="Mine")).find("Mine"), described("UTC+05:45")
    assert mine is not None
    assert fixed is not None
    return {**found, "mine": mine, "fixed": fixed, "noted": NotedZone(mine)}


@pytest.mark.parametrize("name", [*NAMES, "mine", "fixed", "noted"])
@given(
    days=st.lists(st.integers(0, 80 * 366), max_size=30),
    seconds=st.lists(st.integers(0, 86_399), min_size=1, max_size=5),
)
@settings(max_examples=60)
def test_many_local_times_at_once_are_read_as_each_of_them_is(name, days, seconds):
    zone = zones()[name]
    walls = [(datetime(1960, 1, 1).toordinal() - 1 + day) * 86_400 + second for day in days for second in seconds]
    assert zone.instants(walls) == [zone.instant(wall_local(wall)) for wall in walls]


@pytest.mark.parametrize("name", [*NAMES, "mine"])
def test_days_on_which_clocks_are_changed_are_read_by_the_hour(name):
    zone, first = zones()[name], datetime(2011, 12, 1).toordinal() - 1
    walls = [first * 86_400 + 1800 * half for half in range(48 * 400)]
    instants = [zone.instant(wall_local(wall)) for wall in walls]
    assert zone.instants(walls) == instants
    assert zone.instants(reversed(walls)) == instants[::-1]


def test_of_very_many_days_not_all_are_kept():
    zone = IanaZone("Europe/Berlin")
    walls = [day * 86_400 + 43_200 for day in range(700_000, 700_000 + DAYS_MOST + 100)]
    assert zone.instants(walls) == [zone.instant(wall_local(wall)) for wall in walls]
    assert zone.days_kept <= DAYS_MOST


def test_a_zone_that_was_asked_for_many_times_at_once_was_used():
    noted = NotedZone(zones()["mine"])
    assert not noted.used
    noted.instants([0])
    assert noted.used


def test_a_name_of_the_database_is_not_redefined_by_a_text():
    zone = own(BERLIN.format(tzid="Asia/Tokyo")).find("Asia/Tokyo")
    assert zone is not None
    assert naive_instant(SUMMER) - zone.instant(SUMMER) == 9 * 3_600_000_000


def test_a_definition_is_preferred_to_an_offset_in_the_name():
    zone = own(BERLIN.format(tzid="GMT+0100")).find("GMT+0100")
    assert zone is not None
    assert naive_instant(SUMMER) - zone.instant(SUMMER) == 2 * 3_600_000_000


def test_a_rule_that_ended_leaves_the_last_offset():
    text = BERLIN.format(tzid="Mine").replace("BYDAY=-1SU", "BYDAY=-1SU;UNTIL=20141026T010000Z")
    zone = own(text).find("Mine")
    assert zone is not None
    assert naive_instant(SUMMER) - zone.instant(SUMMER) == 3_600_000_000


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FREQ=YEARLY;BYMONTH=3", "FREQ=SECONDLY;BYMONTH=3"),
        ("TZOFFSETTO:+0200", "TZOFFSETTO:two hours"),
        ("DTSTART:19700329T020000", "DTSTART:spring"),
        ("FREQ=YEARLY;BYMONTH=3", "FREQ=DAILY"),
        ("END:DAYLIGHT", ""),
    ],
)
def test_a_definition_that_is_not_understood_is_no_zone(old, new):
    assert own(BERLIN.format(tzid="Mine").replace(old, new)).find("Mine") is None


def test_an_empty_definition_may_name_its_place():
    text = "BEGIN:VCALENDAR\nBEGIN:VTIMEZONE\nTZID:Mine\nX-LIC-LOCATION:Asia/Tokyo\nEND:VTIMEZONE\nEND:VCALENDAR\n"
    zone = own(text).find("Mine")
    assert zone is not None
    assert zone.name == "Asia/Tokyo"
