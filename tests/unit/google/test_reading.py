"""What Google's events mean: when they block, and what cannot be known. Every word is held against Google's description."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from calendar_server.core.model import (
    DAY,
    HOUR,
    SECOND,
    BlockReason,
    BusyEvent,
    EventId,
    Instant,
    Interval,
    UnreadableEvent,
)
from calendar_server.core.zones import named
from calendar_server.providers.google_events import busy_event
from tests.fakes.google_calendars import Json
from tests.unit.google.desk import BERLIN, WEEK, Desk, at, booking, clock


class TestWhatBlocks:
    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({}, BlockReason.BUSY),
            ({"transparency": "opaque"}, BlockReason.BUSY),
            ({"transparency": "transparent"}, BlockReason.FREE),
            ({"status": "tentative"}, BlockReason.TENTATIVE),
            ({"status": "tentative", "transparency": "transparent"}, BlockReason.FREE),
            ({"eventType": "outOfOffice"}, BlockReason.OUT_OF_OFFICE),
            ({"eventType": "focusTime"}, BlockReason.FOCUS_TIME),
            ({"eventType": "workingLocation", "transparency": "transparent"}, BlockReason.WORKING_ELSEWHERE),
            ({"eventType": "birthday", "transparency": "transparent"}, BlockReason.BIRTHDAY),
            ({"eventType": "fromGmail"}, BlockReason.BUSY),
            ({"eventType": "fromGmail", "transparency": "transparent"}, BlockReason.FREE),
            ({"eventType": "somethingNew"}, BlockReason.BUSY),
            ({"visibility": "private"}, BlockReason.BUSY),
        ],
    )
    def test_an_event_is_judged_by_its_marks(self, desk: Desk, members: dict[str, object], reason: BlockReason) -> None:
        assert desk.reason(**members) is reason

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ("declined", BlockReason.DECLINED),
            ("tentative", BlockReason.TENTATIVE),
            ("needsAction", BlockReason.BUSY),
            ("accepted", BlockReason.BUSY),
        ],
    )
    def test_what_its_owner_answered_decides(self, desk: Desk, answer: str, reason: BlockReason) -> None:
        own = {"email": desk.anna.email, "self": True, "responseStatus": answer}
        other = {"email": "ben@gmail.example", "responseStatus": "accepted"}
        assert desk.reason(attendees=[other, own]) is reason

    def test_a_guest_who_declined_frees_nobody_else(self, desk: Desk) -> None:
        guest = {"email": "ben@gmail.example", "responseStatus": "declined"}
        assert desk.reason(attendees=[guest]) is BlockReason.BUSY

    @pytest.mark.parametrize(
        ("members", "tentative"),
        [
            ({"status": "tentative"}, True),
            ({"eventType": "outOfOffice", "status": "tentative"}, True),
            ({"attendees": [{"email": "a@b.example", "self": True, "responseStatus": "tentative"}]}, True),
            ({}, False),
        ],
    )
    def test_tentative_is_told_beside_the_reason(self, desk: Desk, members: dict[str, object], tentative: bool) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11), **members)
        assert [event.tentative for event in desk.read().events] == [tentative]

    def test_zero_length_blocks_nothing(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 10))
        assert desk.busy() == [(at(2, 10), at(2, 10), BlockReason.ZERO_LENGTH)]

    def test_a_cancelled_event_that_is_told_blocks_nothing(self) -> None:
        item = {"id": "e", "status": "cancelled", "start": {"dateTime": "2026-12-02T10:00:00Z"}}
        item |= {"end": {"dateTime": "2026-12-02T11:00:00Z"}}
        read = busy_event(item, named("UTC"), WEEK)
        assert read == BusyEvent(at(2, 10), at(2, 11), BlockReason.CANCELLED, EventId("e"))

    def test_a_cancelled_event_may_have_no_times(self) -> None:
        assert busy_event({"id": "e", "status": "cancelled"}, named("UTC"), WEEK) is None

    def test_events_carry_their_ids(self, desk: Desk) -> None:
        event_id = desk.primary.add(clock(2, 10), clock(2, 11))
        assert [event.event_id for event in desk.read().events] == [event_id]

    def test_an_own_booking_is_read_under_its_stored_id(self, desk: Desk) -> None:
        written = desk.put(booking())
        assert [event.event_id for event in desk.read().events] == [written.event_id]


class TestTimes:
    def test_an_offset_counts(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(time_zone="Asia/Kolkata")
        desk.primary.add(clock(2, 10, zone=BERLIN), clock(2, 11, zone=BERLIN))
        assert desk.busy() == [(at(2, 9), at(2, 10), BlockReason.BUSY)]

    @pytest.mark.parametrize("zone", ["America/Los_Angeles", "Pacific/Kiritimati", "Europe/Berlin"])
    def test_all_day_lies_in_the_calendars_zone(self, make_desk: Callable[..., Desk], zone: str) -> None:
        desk = make_desk(time_zone=zone)
        desk.primary.add(date(2026, 12, 2), date(2026, 12, 4))
        there = ZoneInfo(zone)
        assert desk.busy() == [(at(2, zone=there), at(4, zone=there), BlockReason.BUSY)]

    @pytest.mark.parametrize(
        ("zone", "day", "hours"),
        [
            ("Europe/Berlin", date(2026, 3, 29), 23),
            ("Europe/Berlin", date(2026, 10, 25), 25),
            ("Asia/Beirut", date(2026, 3, 29), 23),
            ("America/Havana", date(2026, 11, 1), 25),
        ],
    )
    def test_a_day_when_clocks_change_is_as_long_as_it_is(
        self, make_desk: Callable[..., Desk], zone: str, day: date, hours: int
    ) -> None:
        desk = make_desk(time_zone=zone)
        desk.primary.add(day, day + timedelta(days=1))
        noon = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()) * SECOND
        ((start, end, _),) = desk.busy(Interval(noon - 2 * DAY, noon + 2 * DAY))
        assert end - start == hours * HOUR

    @pytest.mark.parametrize("dates_in_utc", [True, False])
    def test_an_all_day_event_at_the_windows_edge_is_seen_however_google_compares(
        self, make_desk: Callable[..., Desk], dates_in_utc: bool
    ) -> None:
        desk = make_desk(time_zone="Pacific/Kiritimati")
        desk.primary.dates_in_utc = dates_in_utc
        desk.primary.add(date(2026, 12, 8), date(2026, 12, 9))
        assert desk.busy() == [(at(7, 10), at(8, 10), BlockReason.BUSY)]

    @pytest.mark.parametrize("end", [{"date": "2026-12-02"}, None])
    def test_a_date_with_no_later_end_is_that_day(self, end: object) -> None:
        item = {"id": "e", "start": {"date": "2026-12-02"}, **({"end": end} if end else {})}
        assert busy_event(item, named("UTC"), WEEK) == BusyEvent(at(2), at(3), BlockReason.BUSY, EventId("e"))

    @pytest.mark.parametrize(
        ("text", "moment"),
        [
            ("2026-12-02T10:00:00Z", at(2, 10)),
            ("2026-12-02t10:00:00z", at(2, 10)),
            ("2026-12-02T10:00:00.5Z", at(2, 10) + SECOND // 2),
            ("2026-12-02T10:00:00.123456789Z", at(2, 10) + 123_456),
            ("2026-12-02T15:30:00+05:30", at(2, 10)),
            ("2026-12-01T22:00:00-12:00", at(2, 10)),
            ("2026-12-02T09:59:60Z", at(2, 10)),
        ],
    )
    def test_every_form_of_rfc_3339_is_read(self, text: str, moment: Instant) -> None:
        item = {"id": "e", "start": {"dateTime": text}, "end": {"dateTime": "2026-12-02T12:00:00Z"}}
        read = busy_event(item, named("UTC"), WEEK)
        assert isinstance(read, BusyEvent)
        assert read.start == moment

    def test_a_time_without_an_offset_is_in_the_zone_beside_it(self) -> None:
        item = {
            "id": "e",
            "start": {"dateTime": "2026-12-02T10:00:00", "timeZone": "Europe/Berlin"},
            "end": {"dateTime": "2026-12-02T11:00:00", "timeZone": "Europe/Berlin"},
        }
        read = busy_event(item, named("America/New_York"), WEEK)
        assert read == BusyEvent(at(2, 9), at(2, 10), BlockReason.BUSY, EventId("e"))

    def test_a_series_is_expanded_with_what_became_of_its_occurrences(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(time_zone="Europe/Berlin")
        start = clock(1, 10, zone=BERLIN)
        series = desk.primary.add(start, start + timedelta(hours=1), recurrence=["RRULE:FREQ=DAILY;COUNT=4"])
        desk.primary.make_exception(series, start + timedelta(days=1), status="cancelled")
        moved = clock(5, 8, zone=BERLIN)
        desk.primary.make_exception(
            series, start + timedelta(days=2), start=moved, end=moved + timedelta(hours=2), transparency="transparent"
        )
        assert desk.busy() == [
            (at(1, 9), at(1, 10), BlockReason.BUSY),
            (at(4, 9), at(4, 10), BlockReason.BUSY),
            (at(5, 7), at(5, 9), BlockReason.FREE),
        ]

    def test_a_series_keeps_its_time_on_the_clock_when_clocks_change(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(time_zone="Europe/Berlin")
        start = datetime(2026, 10, 24, 10, tzinfo=BERLIN)
        desk.primary.add(start, start + timedelta(hours=1), recurrence=["RRULE:FREQ=DAILY;COUNT=2"])
        first = int(start.timestamp()) * SECOND
        starts = [event.start for event in desk.read(Interval(first - DAY, first + 5 * DAY)).events]
        assert starts == [first, first + 25 * HOUR]

    @pytest.mark.parametrize(
        ("start", "end"),
        [(clock(1) - timedelta(hours=2), clock(1)), (clock(8), clock(8, 1)), (clock(30), clock(30, 1))],
    )
    def test_what_only_meets_the_window_is_left_out(self, desk: Desk, start: datetime, end: datetime) -> None:
        desk.primary.add(start, end)
        assert desk.busy() == []

    def test_what_reaches_over_the_window_is_not_clipped(self, desk: Desk) -> None:
        desk.primary.add(clock(1) - timedelta(days=3), clock(20))
        assert desk.busy() == [(at(1) - 3 * DAY, at(20), BlockReason.BUSY)]

    def test_a_part_of_a_second_at_the_windows_edge_is_read(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11))
        assert len(desk.busy(Interval(at(2, 9), at(2, 10) + 1))) == 1

    def test_google_is_asked_for_no_title_no_place_and_no_guest(self, desk: Desk) -> None:
        desk.primary.add(
            clock(2, 10), clock(2, 11), summary="Secret", location="Secret", attendees=[{"email": "secret@b.example"}]
        )
        desk.read()
        (exchange,) = desk.google.requests("GET", "/events")
        assert b"ecret" not in exchange.answer


GOOD: Json = {"id": "e", "start": {"dateTime": "2026-12-02T10:00:00Z"}, "end": {"dateTime": "2026-12-02T11:00:00Z"}}


class TestUnreadable:
    @pytest.mark.parametrize(
        "change",
        [
            {"start": None},
            {"start": {}},
            {"start": "2026-12-02T10:00:00Z"},
            {"start": {"dateTime": "yesterday"}},
            {"start": {"dateTime": "2026-13-02T10:00:00Z"}},
            {"start": {"dateTime": "2026-12-02T24:00:00Z"}},
            {"start": {"dateTime": "2026-12-02T10:00:00"}},
            {"start": {"dateTime": "2026-12-02T10:00:00", "timeZone": "Moon/Base"}},
            {"start": {"dateTime": 1796205600}},
            {"start": {"date": "20261202"}},
            {"start": {"date": "0000-00-00"}},
            {"start": {"dateTime": "2026-12-02T12:00:00Z"}},
            {"end": None},
            {"end": {"dateTime": "9999-12-31T23:59:60-12:00x"}},
            {"end": {"date": ""}},
        ],
    )
    def test_times_that_cannot_be_read_name_the_event(self, change: Json) -> None:
        read = busy_event({**GOOD, **change}, named("UTC"), WEEK)
        assert isinstance(read, UnreadableEvent)
        assert (read.event_id, read.interval) == ("e", None)

    @pytest.mark.parametrize(
        "marks",
        [
            {"transparency": "transparent"},
            {"status": "cancelled"},
            {"eventType": "workingLocation"},
            {"eventType": "birthday"},
            {"attendees": [{"self": True, "responseStatus": "declined"}]},
        ],
    )
    def test_what_certainly_does_not_block_need_not_be_read(self, marks: Json) -> None:
        assert busy_event({**GOOD, "start": None, **marks}, named("UTC"), WEEK) is None

    @pytest.mark.parametrize(
        "marks",
        [
            {"transparency": 7},
            {"status": []},
            {"attendees": "me"},
            {"attendees": ["me", None, {"self": "true", "responseStatus": "declined"}]},
            {"attendees": [{"self": True, "responseStatus": r} for r in ("declined", "accepted")]},
            {"eventType": None},
        ],
    )
    def test_marks_that_make_no_sense_block(self, marks: Json) -> None:
        read = busy_event({**GOOD, **marks}, named("UTC"), WEEK)
        assert isinstance(read, BusyEvent)
        assert read.reason is BlockReason.BUSY

    @pytest.mark.parametrize(
        "change",
        [
            {"start": {"dateTime": "2026-12-09T10:00:00Z"}, "end": None},
            {"start": None, "end": {"dateTime": "2026-11-30T10:00:00Z"}},
        ],
    )
    def test_what_certainly_lies_elsewhere_need_not_be_read(self, change: Json) -> None:
        assert busy_event({**GOOD, **change}, named("UTC"), WEEK) is None

    def test_dates_in_an_unknown_zone_lie_within_a_day_or_so(self) -> None:
        item = {"id": "e", "start": {"date": "2026-12-02"}, "end": {"date": "2026-12-03"}}
        read = busy_event(item, None, WEEK)
        assert isinstance(read, UnreadableEvent)
        assert read.interval == Interval(at(2) - 14 * HOUR, at(3) + 12 * HOUR)

    def test_dates_in_an_unknown_zone_far_from_the_window_are_no_matter(self) -> None:
        item = {"id": "e", "start": {"date": "2026-12-10"}, "end": {"date": "2026-12-11"}}
        assert busy_event(item, None, WEEK) is None

    def test_one_such_event_leaves_the_others_exact(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11))
        bad = {"id": "bad", "start": {}, "end": {}}
        body = json.dumps({"kind": "calendar#events", "accessRole": "owner", "items": [GOOD, bad]}).encode()
        desk.google.fail_next(200, body=body)
        read = desk.read()
        assert [event.event_id for event in read.events] == ["e"]
        assert [event.event_id for event in read.unreadable] == ["bad"]

    def test_an_event_without_an_id_blocks_all_the_same(self) -> None:
        read = busy_event({**GOOD, "id": None}, named("UTC"), WEEK)
        assert read == BusyEvent(at(2, 10), at(2, 11), BlockReason.BUSY, EventId(""))
