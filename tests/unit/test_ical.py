"""Content lines, components and values: what is read, and what is noted as damage."""

from __future__ import annotations

import re
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.ical import Component, NotACalendar, Property, parse, unfolded
from calendar_server.core.values import Addition, BadValue, Length, Moment, additions, length, moment, moments


def lines_of(text: str) -> list[str]:
    return [line for line in unfolded(text).split("\n") if line]


def calendar(*lines: str) -> Component:
    return parse("\r\n".join(["BEGIN:VCALENDAR", *lines, "END:VCALENDAR", ""])).calendars[0]


def event(*lines: str) -> Component:
    return calendar("BEGIN:VEVENT", *lines, "END:VEVENT").components[0]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_lines_are_unfolded_whatever_ends_them(end):
    assert lines_of(end.join(["A:1", " 2", "\t3", "", "B:4", ""])) == ["A:123", "B:4"]


def test_a_fold_after_a_blank_line_still_continues():
    assert lines_of("A:1\r\r\n 2\r\n") == ["A:12"]


@given(st.text(alphabet='ab:;" \t\r\n=,.TZID', max_size=60))
@settings(max_examples=150)
def test_no_text_breaks_the_reader(text):
    parsed = parse("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\n" + text)
    assert parsed.damage


@given(st.text(min_size=1, max_size=200, alphabet=st.characters(exclude_characters="\r\n")), st.integers(1, 75))
@settings(max_examples=100)
def test_folding_a_line_anywhere_changes_nothing(value, width):
    line = "UID:" + value
    folded = "\r\n ".join(line[at : at + width] for at in range(0, len(line), width))
    assert lines_of(folded) == [line]


def test_a_parameter_is_found_in_any_case_and_without_quotes():
    line = event('DtStart;value=DATE-TIME;tzid="Europe/Berlin":20260310T090000').first("DTSTART")
    assert line is not None
    assert line.parameter("TZID") == "Europe/Berlin"


def test_quoted_colons_and_semicolons_belong_to_the_parameter():
    line = event('ATTENDEE;CN="A: B; C";PARTSTAT=DECLINED:mailto:a@example.com').first("ATTENDEE")
    assert line is not None
    assert (line.parameter("PARTSTAT"), line.value) == ("DECLINED", "mailto:a@example.com")


def test_an_unquoted_colon_in_a_zone_does_not_reach_into_the_value():
    line = event("DTSTART;TZID=(UTC+01:00) Berlin:20260310T090000").first("DTSTART")
    assert line is not None
    assert (line.parameter("TZID"), line.value) == ("(UTC+01:00) Berlin", "20260310T090000")


def test_a_quote_that_never_ends_leaves_the_value_readable():
    line = event('ATTENDEE;CN="A;PARTSTAT=DECLINED:mailto:a@example.com').first("ATTENDEE")
    assert line is not None
    assert line.value == "mailto:a@example.com"


@pytest.mark.parametrize("description", ["", "long " * 50_000])
def test_a_line_without_its_value_is_damage_in_a_text_of_any_length(description):
    damaged = event(f"DESCRIPTION:{description}", "DTSTART", "UID:1")
    assert damaged.damage == "a line without a value"
    assert damaged.text("UID") == "1"


def test_nothing_of_an_alarm_is_kept():
    found = event("BEGIN:VALARM", "DURATION:PT5M", "END:VALARM", "UID:1")
    assert set(found.properties) == {"UID"}
    assert not found.damage


@pytest.mark.parametrize("text", ["", "\ufeff", "<html></html>", "BEGIN:VEVENT\r\nEND:VEVENT\r\n", "BEGIN:VCARD"])
def test_what_has_no_calendar_is_refused(text):
    with pytest.raises(NotACalendar):
        parse(text)


def test_deep_nesting_is_refused():
    with pytest.raises(NotACalendar):
        parse("BEGIN:VCALENDAR\r\n" + "BEGIN:X-A\r\n" * 100)


def test_a_missing_end_damages_what_was_open_and_nothing_else():
    parsed = calendar("BEGIN:VEVENT", "UID:1", "BEGIN:VALARM", "END:VEVENT", "BEGIN:VEVENT", "UID:2", "END:VEVENT")
    assert [bool(component.damage) for component in parsed.components] == [True, False]


def test_an_end_without_begin_damages_the_component_around_it():
    assert event("UID:1", "END:VALARM").damage


def test_an_event_inside_an_event_damages_the_outer_one():
    parsed = calendar("BEGIN:VEVENT", "UID:1", "BEGIN:VEVENT", "UID:2", "END:VEVENT")
    assert [(each.text("UID"), bool(each.damage)) for each in parsed.components] == [("1", True), ("2", False)]


def test_a_calendar_that_begins_in_another_is_damage():
    parsed = parse("BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nBEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n")
    assert parsed.damage
    assert parsed.calendars[0].components[0].damage


def test_an_event_behind_the_calendar_is_damage():
    assert parse("BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\nBEGIN:VEVENT\r\nEND:VEVENT\r\n").damage


def test_a_long_text_of_line_ends_is_read_in_no_time():
    assert parse("BEGIN:VCALENDAR" + "\r" * 3_000_000 + "END:VCALENDAR").damage == ""
    assert parse("BEGIN:VCALENDAR" + "\n" * 3_000_000 + " \nEND:VCALENDAR").damage == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260310", Moment(datetime(2026, 3, 10), is_date=True)),
        ("20260310T091500", Moment(datetime(2026, 3, 10, 9, 15), tzid="X")),
        ("20260310T091500Z", Moment(datetime(2026, 3, 10, 9, 15), is_utc=True)),
        ("20260310T091560Z", Moment(datetime(2026, 3, 10, 9, 15, 59), is_utc=True)),
        (" 20260310t091560z ", Moment(datetime(2026, 3, 10, 9, 15, 59), is_utc=True)),
    ],
)
def test_dates_and_times_are_told_by_their_form(text, expected):
    assert moment(text, "X") == expected


@pytest.mark.parametrize(
    "text",
    ["", "2026031", "20260230", "20260310T25000", "20260310T240000", "20260310T090061", "٢٠٢٦٠٣١٠", "2026-03-10"],
)
def test_what_is_no_date_is_refused(text):
    with pytest.raises(BadValue):
        moment(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PT1H30M", Length(0, 5400)),
        ("P1DT1S", Length(1, 1)),
        ("P2W", Length(14, 0)),
        ("-PT15M", Length(0, -900)),
        ("+P0D", Length()),
    ],
)
def test_durations_have_nominal_days_and_exact_seconds(text, expected):
    assert length(text) == expected


@pytest.mark.parametrize("text", ["", "P", "PT", "1H", "PT1", "P1H", "PT1.5H", "P1DT", "PT99999999999S"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(BadValue):
        length(text)


def test_a_list_of_dates_passes_over_empty_values():
    assert moments(Property("EXDATE", "EXDATE", "20260310,,20260311,")) == [moment("20260310"), moment("20260311")]


def test_an_additional_date_may_be_a_period():
    line = Property("RDATE", "RDATE;VALUE=PERIOD", "20260310T090000Z/PT1H,20260311T090000Z/20260311T100000Z")
    assert additions(line) == [
        Addition(moment("20260310T090000Z"), Length(0, 3600)),
        Addition(moment("20260311T090000Z"), moment("20260311T100000Z")),
    ]


ZONE_LINES = re.findall(
    r"\S+",
    "BEGIN:VCALENDAR BEGIN:VTIMEZONE END:VTIMEZONE END:VTIMEZONEX BEGIN:STANDARD END:STANDARD TZID:Here "
    "DTSTART:20260101T000000 BEGIN:VEVENT END:VEVENT DTSTART UID:1 END:VCALENDAR TZOFFSETTO:+0100",
)


@given(st.lists(st.sampled_from(ZONE_LINES), max_size=16), st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_definition_of_a_zone_that_was_met_before_is_read_the_same(lines, ended):
    whole = ["BEGIN:VTIMEZONE", "TZID:There", "BEGIN:STANDARD", "TZOFFSETTO:+0200", "END:STANDARD", "END:VTIMEZONE"]
    for inserted in ([], whole):
        text = "\n".join(["BEGIN:VCALENDAR", *lines, *inserted, *lines[::-1]]) + ("\n" if ended else "")
        assert outcome(text) == outcome(text.replace("BEGIN:VTIMEZONE", "begin:VTIMEZONE"))


def outcome(text: str) -> object:
    """What a text is, or why it is none: these may be nested too deep."""
    try:
        return parse(text)
    except NotACalendar as error:
        return str(error)
