"""The drawing of days, and times as people type and read them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from calendar_client.cli_time import Zone, length_text, parse_day, parse_moment, span_text
from calendar_client.cli_week import ASCII, Doubt, Span, cell_minutes, draw, draw_month, legend, month_columns

BERLIN = Zone.named("Europe/Berlin")
UTC_ZONE = Zone.named("UTC")
MONDAY = date(2026, 3, 16)


def at(hour: int, minute: int = 0, day: date = MONDAY, zone: Zone = BERLIN) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone.tz).astimezone(UTC)


def row(busy: list[Span], doubt: Doubt = Doubt.NONE, day: date = MONDAY, zone: Zone = BERLIN, width: int = 80) -> str:
    """The line of one day: 48 columns of half an hour at the usual width."""
    return draw([day], zone, busy, doubt, width=width)[1].plain


def bar(busy: list[Span], doubt: Doubt = Doubt.NONE, day: date = MONDAY, zone: Zone = BERLIN) -> str:
    return row(busy, doubt, day, zone)[14:62]


class TestBar:
    def test_busy_time_is_solid_in_the_person_s_zone(self) -> None:
        span = Span(datetime(2026, 3, 16, 8, tzinfo=UTC), datetime(2026, 3, 16, 9, 30, tzinfo=UTC))
        assert [index for index, glyph in enumerate(bar([span])) if glyph == "█"] == [18, 19, 20]

    def test_a_quarter_is_half_a_block_on_its_own_side(self) -> None:
        assert bar([Span(at(9), at(9, 15))])[18] == "▌"
        assert bar([Span(at(9, 15), at(9, 30))])[18] == "▐"

    @pytest.mark.parametrize("seconds", [1, 60])
    def test_the_shortest_busy_time_never_looks_free(self, seconds: int) -> None:
        span = Span(at(9, 14) + timedelta(seconds=59 - seconds), at(9, 14) + timedelta(seconds=59))
        assert bar([span])[18] in "▌▐█"

    def test_time_up_to_the_start_of_a_cell_does_not_touch_it(self) -> None:
        assert bar([Span(at(9), at(10))])[20] == "·"

    def test_a_free_day_shows_every_hour(self) -> None:
        hours = bar([])[::2]
        assert hours == "······┊·····┊·····┊·····"

    def test_a_span_over_midnight_is_in_both_days(self) -> None:
        span = Span(at(23), at(1, day=date(2026, 3, 17)))
        assert bar([span]).endswith("██")
        assert bar([span], day=date(2026, 3, 17)).startswith("██")

    def test_an_all_day_span_fills_the_day_and_says_so(self) -> None:
        line = row([Span(at(0), at(0, day=date(2026, 3, 17)))])
        assert line[14:62] == "█" * 48
        assert line.endswith("all day")

    def test_unknown_time_is_hatched_and_nothing_is_blank(self) -> None:
        drawn = bar([Span(at(9), at(10))], Doubt.UNKNOWN)
        assert drawn == "░" * 18 + "██" + "░" * 28

    def test_a_cell_that_is_partly_busy_has_no_blank_half_where_the_rest_is_unknown(self) -> None:
        assert bar([Span(at(9), at(9, 15))], Doubt.UNKNOWN)[18] == "▓"

    def test_doubtful_time_does_not_look_free(self) -> None:
        assert set(bar([], Doubt.PARTLY)) == {"╌"}

    def test_the_hour_that_clocks_skip_is_crossed_out(self) -> None:
        spring = date(2026, 3, 29)
        assert bar([], day=spring)[4:6] == "××"
        assert bar([Span(at(1, 30, spring), at(3, 30, spring))], day=spring)[3:7] == "█××█"

    def test_the_hour_that_comes_twice_is_busy_if_either_is(self) -> None:
        autumn = date(2026, 10, 25)
        second = Span(datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC))
        assert bar([second], day=autumn)[4:6] == "█ "

    def test_zones_with_half_hours_are_placed_right(self) -> None:
        india = Zone.named("Asia/Kolkata")
        span = Span(datetime(2026, 3, 16, 4, 30, tzinfo=UTC), datetime(2026, 3, 16, 5, 30, tzinfo=UTC))
        assert bar([span], zone=india)[20:22] == "██"


class TestTotals:
    @pytest.mark.parametrize(
        ("busy", "doubt", "text"),
        [
            ([], Doubt.NONE, "free"),
            ([], Doubt.PARTLY, "free?"),
            ([], Doubt.UNKNOWN, "unknown"),
            ([Span(at(9), at(9, 45))], Doubt.NONE, "45 min"),
            ([Span(at(9), at(11, 5))], Doubt.NONE, "2 h 05"),
            ([Span(at(9), at(11)), Span(at(12), at(13))], Doubt.UNKNOWN, "3 h+"),
        ],
    )
    def test_the_end_of_the_line_sums_the_day(self, busy: list[Span], doubt: Doubt, text: str) -> None:
        assert row(busy, doubt)[62:].strip() == text

    def test_a_day_of_23_hours_is_full_with_23(self) -> None:
        spring = date(2026, 3, 29)
        assert row([Span(at(0, day=spring), at(0, day=date(2026, 3, 30)))], day=spring).endswith("all day")


class TestWidth:
    @pytest.mark.parametrize(("width", "minutes"), [(40, 60), (79, 30), (80, 30), (119, 30), (120, 15), (300, 15)])
    def test_the_cells_fit_the_terminal(self, width: int, minutes: int) -> None:
        assert cell_minutes(width) == minutes

    @pytest.mark.parametrize("width", [72, 80, 120, 200])
    def test_no_line_is_wider_than_the_terminal(self, width: int) -> None:
        days = [MONDAY + timedelta(days=each) for each in range(7)]
        busy = [Span(at(0), at(23, 45, date(2026, 3, 22)))]
        assert max(line.cell_len for line in draw(days, BERLIN, busy, Doubt.UNKNOWN, width=width)) <= width

    def test_a_terminal_without_unicode_gets_ascii(self) -> None:
        lines = draw([MONDAY], BERLIN, [Span(at(9), at(9, 15))], Doubt.UNKNOWN, width=80, glyphs=ASCII)
        assert all(line.plain.isascii() for line in [*lines, legend(Doubt.UNKNOWN, ASCII)])

    def test_the_legend_explains_what_is_drawn(self) -> None:
        assert "free" in legend(Doubt.NONE).plain
        assert "not known" in legend(Doubt.UNKNOWN).plain
        assert "free" not in legend(Doubt.UNKNOWN).plain


class TestMonth:
    MARCH = tuple(date(2026, 3, number) for number in range(1, 32))

    def page(self, busy: list[Span], doubt: Doubt = Doubt.NONE, width: int = 80) -> list[str]:
        return [line.plain for line in draw_month(self.MARCH, BERLIN, busy, doubt, width=width)]

    def place(self, page: list[str], day: int) -> tuple[int, int]:
        """The line and the column that a day begins at; the 1st of March 2026 is a Sunday."""
        week, weekday = divmod(day + 5, 7)
        return 1 + 3 * week, 3 + 10 * weekday

    def test_weeks_begin_on_monday_and_days_stand_below_their_name(self) -> None:
        page = self.page([])
        assert page[0].split() == ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
        for day in (1, 2, 8, 16, 31):
            line, column = self.place(page, day)
            assert page[line][column : column + 2] == f"{day:2}"
        assert page[0].index("Sun") == self.place(page, 1)[1]
        assert len(page) == 1 + 6 * 3

    def test_busy_time_is_drawn_and_summed_in_its_day(self) -> None:
        page = self.page([Span(at(9), at(12)), Span(at(13), at(13, 15))])
        line, column = self.place(page, 16)
        assert page[line][column : column + 8] == "16 3h15 "
        assert page[line + 1][column : column + 8] == "···█▌···"
        assert "".join(page).count("█") == 1

    def test_the_shortest_busy_time_never_looks_free(self) -> None:
        for width in (40, 60, 80, 120, 220):
            assert set("".join(self.page([Span(at(23, 59), at(0, day=MONDAY + timedelta(days=1)))], width=width))) & {
                "▐"
            }

    def test_unknown_time_is_hatched_on_every_day(self) -> None:
        page = self.page([], Doubt.UNKNOWN)
        assert "".join(page).count("░") == 31 * 8
        assert "·" not in "".join(page)
        assert "".join(page).count("?") == 31
        assert "".join(self.page([], Doubt.PARTLY)).count("╌") == 31 * 8

    def test_a_full_day_is_full(self) -> None:
        page = self.page([Span(at(0), at(0, day=MONDAY + timedelta(days=1)))])
        line, column = self.place(page, 16)
        assert page[line][column : column + 7] == "16 full"
        assert page[line + 1][column : column + 8] == "█" * 8

    @pytest.mark.parametrize(("width", "columns"), [(220, 24), (120, 12), (80, 8), (60, 6), (45, 4)])
    def test_seven_days_fit_the_terminal(self, width: int, columns: int) -> None:
        assert month_columns(width) == columns
        busy = [Span(at(0), at(23, 45, day=date(2026, 3, 31)))]
        assert max(len(line) for line in self.page(busy, Doubt.UNKNOWN, width)) <= width
        assert f"a column is {24 // columns} h" in legend(Doubt.NONE, month_width=width).plain


class TestTyping:
    def test_a_time_is_in_the_zone(self) -> None:
        assert parse_moment("2026-03-17T10:00", BERLIN).astimezone(UTC) == datetime(2026, 3, 17, 9, tzinfo=UTC)

    @pytest.mark.parametrize("text", ["2026-03-17T09:00Z", "2026-03-17T10:00+01:00", "2026-03-17 09:00:00+00:00"])
    def test_an_offset_beats_the_zone(self, text: str) -> None:
        assert parse_moment(text, Zone.named("Asia/Tokyo")) == datetime(2026, 3, 17, 9, tzinfo=UTC)

    def test_a_time_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ValueError, match="does not exist"):
            parse_moment("2026-03-29T02:30", BERLIN)

    def test_of_a_time_that_comes_twice_the_first_is_meant(self) -> None:
        assert parse_moment("2026-10-25T02:30", BERLIN).astimezone(UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)

    @pytest.mark.parametrize("text", ["2026-03-17", "tomorrow", "10:00", "", "9999-12-31T23:00", "0001-01-01T00:00"])
    def test_what_is_not_a_time_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_moment(text, BERLIN)

    def test_days_have_words_too(self) -> None:
        assert parse_day("2026-03-17", BERLIN) == date(2026, 3, 17)
        assert parse_day("tomorrow", BERLIN) - parse_day("today", BERLIN) == timedelta(days=1)

    @pytest.mark.parametrize(("word", "weekday"), [("monday", 0), ("Fri", 4), ("SUNDAY", 6)])
    def test_a_weekday_is_the_next_one(self, word: str, weekday: int) -> None:
        today = parse_day("today", BERLIN)
        day = parse_day(word, BERLIN)
        assert day.weekday() == weekday
        assert timedelta() <= day - today < timedelta(days=7)

    @pytest.mark.parametrize(("clock", "hour", "minute"), [("9:30", 9, 30), ("16:00", 16, 0)])
    def test_a_time_may_begin_with_the_word_of_a_day(self, clock: str, hour: int, minute: int) -> None:
        moment = parse_moment(f"friday {clock}", BERLIN)
        assert (moment.date(), moment.hour, moment.minute) == (parse_day("friday", BERLIN), hour, minute)
        assert moment.tzinfo is BERLIN.tz

    @pytest.mark.parametrize("text", ["17.3.2026", "9999-12-31", ""])
    def test_what_is_not_a_day_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            parse_day(text, BERLIN)

    @pytest.mark.parametrize("name", ["Mars/Olympus", "../../etc/passwd", "/etc/passwd", "", "a\0b"])
    def test_what_is_not_a_zone_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="not the name of a time zone"):
            Zone.named(name)


class TestReading:
    @pytest.mark.parametrize(
        ("start", "end", "text"),
        [
            (at(9), at(10, 30), "Mon 16 Mar  09:00 – 10:30"),
            (at(22), at(0, day=date(2026, 3, 17)), "Mon 16 Mar  22:00 – 24:00"),
            (at(22), at(2, day=date(2026, 3, 17)), "Mon 16 Mar  22:00 – 02:00 Tue 17 Mar"),
            (at(0), at(0, day=date(2026, 3, 17)), "Mon 16 Mar  all day"),
            (at(0), at(0, day=date(2026, 3, 19)), "Mon 16 Mar  all day, to Wed 18 Mar"),
            (at(9), at(9) + timedelta(seconds=30), "Mon 16 Mar  09:00 – 09:00:30"),
        ],
    )
    def test_a_span_reads_well(self, start: datetime, end: datetime, text: str) -> None:
        assert span_text(start, end, BERLIN) == text

    @pytest.mark.parametrize(
        ("minutes", "text"), [(45, "45 min"), (60, "1 h"), (90, "1 h 30 min"), (1440, "1 day"), (2880, "2 days")]
    )
    def test_a_length_reads_well(self, minutes: int, text: str) -> None:
        assert length_text(timedelta(minutes=minutes)) == text

    def test_the_zone_is_named_with_what_the_clock_shows(self) -> None:
        assert BERLIN.label(at(0), at(1)) == "Europe/Berlin (CET, UTC+1)"
        assert UTC_ZONE.label(at(0), at(1)) == "UTC"

    def test_a_change_of_the_clocks_is_named(self) -> None:
        start = at(0, day=date(2026, 3, 28))
        assert BERLIN.label(start, start + timedelta(days=3)) == "Europe/Berlin (CET, UTC+1 then CEST, UTC+2)"
