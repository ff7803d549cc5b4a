"""What Microsoft's events mean, page by page, and that what is not told is never free."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from calendar_server.core.model import DAY, HOUR, BlockReason, BusyEvent, CalendarId, Instant, Interval
from calendar_server.errors import CalendarGone, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import Egress
from calendar_server.providers.microsoft import MicrosoftProvider
from calendar_server.providers.microsoft_events import busy_event
from tests.fakes.mailbox import CUSTOM_ZONE, Occurrence, Series
from tests.fakes.raw_server import RawServer
from tests.unit.microsoft.desk import WEEK, Desk, at, local


class TestWhichEventsBlock:
    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ({"showAs": "busy"}, BlockReason.BUSY),
            ({"showAs": "free"}, BlockReason.FREE),
            ({"showAs": "tentative"}, BlockReason.TENTATIVE),
            ({"showAs": "oof"}, BlockReason.OUT_OF_OFFICE),
            ({"showAs": "workingElsewhere"}, BlockReason.WORKING_ELSEWHERE),
            ({"showAs": "unknown"}, BlockReason.BUSY),
            ({"showAs": None}, BlockReason.BUSY),
            ({"isCancelled": True}, BlockReason.CANCELLED),
            ({"responseStatus": {"response": "declined", "time": "0001-01-01T00:00:00Z"}}, BlockReason.DECLINED),
            ({"responseStatus": {"response": "notResponded", "time": "0001-01-01T00:00:00Z"}}, BlockReason.BUSY),
            ({"responseStatus": {"response": "tentativelyAccepted", "time": None}}, BlockReason.BUSY),
            ({"responseStatus": None}, BlockReason.BUSY),
        ],
    )
    def test_an_event_blocks_as_it_is_shown(self, desk: Desk, members: dict[str, object], reason: BlockReason) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10), **members)  # type: ignore[arg-type]
        assert desk.busy() == [(at(2, 9), at(2, 10), reason)]

    def test_a_tentative_event_says_so_besides(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10), showAs="tentative")
        assert [event.tentative for event in desk.read().events] == [True]

    def test_an_event_of_no_length_does_not_block(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 9))
        assert desk.busy() == [(at(2, 9), at(2, 9), BlockReason.ZERO_LENGTH)]

    def test_every_occurrence_of_a_series_blocks(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10), series=Series(count=3))
        assert [start for start, _, _ in desk.busy()] == [at(2, 9), at(3, 9), at(4, 9)]

    def test_a_moved_occurrence_blocks_where_it_was_moved_to(self, desk: Desk) -> None:
        moved = {1: Occurrence(local(6, 15), local(6, 16))}
        desk.mailbox.add(local(2, 9), local(2, 10), series=Series(count=3, moved=moved))
        assert [start for start, _, _ in desk.busy()] == [at(2, 9), at(4, 9), at(6, 15)]

    def test_a_removed_occurrence_is_not_there(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10), series=Series(count=2, removed={0}))
        assert [start for start, _, _ in desk.busy()] == [at(3, 9)]

    def test_one_occurrence_may_be_shown_as_free(self, desk: Desk) -> None:
        series = Series(count=2, shown={1: {"showAs": "free"}})
        desk.mailbox.add(local(2, 9), local(2, 10), series=series)
        assert [reason for _, _, reason in desk.busy()] == [BlockReason.BUSY, BlockReason.FREE]

    def test_a_series_keeps_its_own_clock_over_a_change_of_clocks(self, desk: Desk) -> None:
        start = datetime(2026, 10, 24, 9)
        desk.mailbox.add(start, start + timedelta(hours=1), zone="W. Europe Standard Time", series=Series(count=2))
        october = Interval(at(1) - 60 * DAY, at(1))
        first, second = (begin for begin, _, _ in desk.busy(october))
        assert second - first == 25 * HOUR


class TestTimes:
    def test_an_event_of_another_zone_is_read_as_the_instant_that_it_is(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10), zone="Tokyo Standard Time")
        assert desk.busy() == [(at(2, 0), at(2, 1), BlockReason.BUSY)]

    @pytest.mark.parametrize(
        ("zone", "start"),
        [("UTC", at(2)), ("W. Europe Standard Time", at(1, 23)), ("America/Los_Angeles", at(2, 8))],
    )
    def test_an_all_day_event_lies_in_the_mailboxs_zone(
        self, make_desk: Callable[..., Desk], zone: str, start: Instant
    ) -> None:
        desk = make_desk(zone)
        desk.mailbox.add(local(2), local(3), all_day=True)
        assert desk.busy() == [(start, start + DAY, BlockReason.BUSY)]

    def test_an_all_day_event_is_found_by_the_hours_that_its_zone_brings_forward(
        self, make_desk: Callable[..., Desk]
    ) -> None:
        desk = make_desk("New Zealand Standard Time")
        desk.mailbox.add(local(2), local(3), all_day=True)
        assert len(desk.busy(Interval(at(1, 11), at(1, 12)))) == 1

    def test_an_all_day_event_is_found_by_the_hours_that_its_zone_brings_back(
        self, make_desk: Callable[..., Desk]
    ) -> None:
        desk = make_desk("Pacific Standard Time")
        desk.mailbox.add(local(2), local(3), all_day=True)
        assert len(desk.busy(Interval(at(3, 7), at(3, 8)))) == 1

    def test_what_only_lies_in_the_days_around_the_window_is_left_out(self, desk: Desk) -> None:
        desk.mailbox.add(local(7, 23), local(8))
        desk.mailbox.add(local(8), local(8, 1))
        assert desk.busy(Interval(at(6), at(7))) == []

    def test_an_event_that_begins_before_the_window_is_told_whole(self, desk: Desk) -> None:
        start = datetime(2026, 11, 20)
        desk.mailbox.add(start, local(1, 1))
        assert desk.busy() == [(at(1) - 11 * DAY, at(1, 1), BlockReason.BUSY)]

    def test_the_mailboxs_zone_is_not_asked_for_without_need(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10))
        desk.read()
        assert desk.microsoft.requests("GET", "mailboxSettings") == []

    def test_an_all_day_event_in_an_unknown_zone_is_unreadable_and_not_free(
        self, make_desk: Callable[..., Desk]
    ) -> None:
        desk = make_desk(CUSTOM_ZONE)
        event = desk.mailbox.add(local(2), local(3), all_day=True)
        assert [unreadable.event_id for unreadable in desk.read().unreadable] == [event.id]

    def test_an_all_day_event_in_an_unknown_zone_is_known_to_lie_elsewhere(
        self, make_desk: Callable[..., Desk]
    ) -> None:
        desk = make_desk(CUSTOM_ZONE)
        desk.mailbox.add(local(4), local(5), all_day=True)
        assert desk.read(Interval(at(2), at(3, 9))).unreadable == ()

    def test_an_all_day_event_that_is_free_needs_no_zone(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(CUSTOM_ZONE)
        desk.mailbox.add(local(2), local(3), all_day=True, showAs="free")
        assert desk.read().unreadable == ()

    def test_the_other_events_of_such_a_mailbox_are_exact(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(CUSTOM_ZONE)
        desk.mailbox.add(local(2), local(3), all_day=True)
        desk.mailbox.add(local(4, 9), local(4, 10))
        assert [(event.start, event.end) for event in desk.read().events] == [(at(4, 9), at(4, 10))]

    @pytest.mark.parametrize(
        ("written", "zone", "hour"),
        [
            ("2026-12-02T09:00:00.0000000", "UTC", 9),
            ("2026-12-02T09:00:00", "UTC", 9),
            ("2026-12-02T09:00:00.0000000Z", "UTC", 9),
            ("2026-12-02T09:00:00.0000000+02:00", "UTC", 7),
            ("2026-12-02T09:00:00.0000000", "W. Europe Standard Time", 8),
            ("2026-12-02T09:00:00.0000000", "Europe/Berlin", 8),
        ],
    )
    def test_a_time_is_read_however_it_is_written(self, written: str, zone: str, hour: int) -> None:
        time = {"dateTime": written, "timeZone": zone}
        end = {"dateTime": "2026-12-02T20:00:00", "timeZone": "UTC"}
        read = busy_event({"id": "e", "start": time, "end": end, "showAs": "busy"}, None)
        assert isinstance(read, BusyEvent)
        assert read.start == at(2, hour)

    def test_decimals_are_kept_to_the_microsecond(self) -> None:
        time = {"dateTime": "2026-12-02T09:00:00.1234567", "timeZone": "UTC"}
        end = {"dateTime": "2026-12-02T20:00:00", "timeZone": "UTC"}
        read = busy_event({"id": "e", "start": time, "end": end}, None)
        assert isinstance(read, BusyEvent)
        assert read.start == at(2, 9) + 123_456

    @pytest.mark.parametrize(
        "start",
        [
            None,
            "2026-12-02T09:00:00",
            {},
            {"dateTime": None, "timeZone": "UTC"},
            {"dateTime": "2026-12-02", "timeZone": "UTC"},
            {"dateTime": "yesterday, at Tea", "timeZone": "UTC"},
            {"dateTime": "2026-12-02T09:00:00", "timeZone": CUSTOM_ZONE},
            {"dateTime": "2026-12-02T09:00:00", "timeZone": None},
            {"dateTime": "2026-12-02T23:00:00", "timeZone": "UTC"},
            {"dateTime": "2026-13-02T23:00:00", "timeZone": "UTC"},
        ],
    )
    @pytest.mark.parametrize(("show_as", "hidden"), [("busy", False), (None, False), ("free", True)])
    def test_an_event_without_times_is_unreadable_unless_it_cannot_block(
        self, start: object, show_as: str | None, hidden: bool
    ) -> None:
        end = {"dateTime": "2026-12-02T20:00:00", "timeZone": "UTC"}
        read = busy_event({"id": "e", "start": start, "end": end, "showAs": show_as}, None)
        assert (read is None) == hidden
        assert not isinstance(read, BusyEvent)


class TestPages:
    def test_every_page_is_read(self, desk: Desk) -> None:
        desk.microsoft.page_most = 3
        desk.mailbox.add(local(1, 9), local(1, 10), series=Series(count=7))
        desk.mailbox.add(local(2, 12), local(2, 13))
        assert len(desk.busy()) == 8

    def test_times_are_asked_for_in_utc_on_the_next_pages_too(self, desk: Desk) -> None:
        desk.microsoft.page_most = 1
        desk.mailbox.add(local(1, 9), local(1, 10), series=Series(count=3))
        desk.read()
        asked = [exchange.headers["prefer"] for exchange in desk.microsoft.requests("GET", "calendarView")]
        assert len(asked) == 3
        assert all('outlook.timezone="UTC"' in prefer for prefer in asked)

    @pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500, 502, 503, 504])
    def test_a_second_page_that_fails_fails_the_whole(self, desk: Desk, status: int) -> None:
        desk.microsoft.page_most = 1
        desk.mailbox.add(local(1, 9), local(1, 10), series=Series(count=3))
        desk.microsoft.fail_next(status, within="skiptoken", times=2)
        with pytest.raises((ProviderUnavailable, CalendarGone)):
            desk.read()

    def test_the_token_is_not_sent_to_another_host(self, desk: Desk) -> None:
        with RawServer(lambda request, connection: None) as stranger:
            desk.microsoft.page_most = 1
            desk.microsoft.next_links_to = stranger.url.rstrip("/")
            desk.mailbox.add(local(1, 9), local(1, 10), series=Series(count=3))
            with pytest.raises(ProviderUnavailable):
                desk.read()
            assert stranger.requests == []

    @pytest.mark.parametrize("link", ["", 7, "/v1.0/me", "http://[", "http://x:port/", "file:///etc/passwd"])
    def test_a_next_page_that_is_no_address_fails_the_whole(self, desk: Desk, link: object) -> None:
        body = json.dumps({"value": [], "@odata.nextLink": link}).encode()
        desk.microsoft.fail_next(200, body=body, within="calendarView")
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_an_address_with_a_users_name_in_it_is_foreign(self, desk: Desk) -> None:
        desk.microsoft.page_most = 1
        desk.microsoft.next_links_to = desk.microsoft.origin.replace("//", "//anna@")
        desk.mailbox.add(local(1, 9), local(1, 10), series=Series(count=3))
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_an_answer_without_end_is_unavailable(self, desk: Desk) -> None:
        again = f"{desk.microsoft.graph_url}/me/calendars/x/calendarView?$skiptoken=again"
        body = json.dumps({"value": [], "@odata.nextLink": again}).encode()
        desk.microsoft.fail_next(200, body=body, within="calendarView", times=1000)
        with pytest.raises(ProviderUnavailable):
            desk.read()
        # The fake did not give this address itself, and wonders.
        desk.microsoft.problems.clear()

    def test_more_events_than_we_read_are_an_unreadable_calendar(self, desk: Desk) -> None:
        for hour in range(20):
            desk.mailbox.add(local(1, hour), local(1, hour, 30), series=Series(count=30))
        with pytest.raises(ProviderUnavailable):
            desk.read(Interval(at(1), at(1) + 40 * DAY))

    def test_an_event_on_two_pages_is_told_once(self, desk: Desk) -> None:
        desk.microsoft.page_most = 1
        desk.mailbox.add(local(1, 9), local(1, 10))
        desk.mailbox.add(local(1, 9), local(1, 10))
        first, second = desk.mailbox.events.values()
        second.id = first.id
        assert len(desk.busy()) == 1


class TestUnknownIsNotFree:
    @pytest.mark.parametrize("status", [400, 402, 408, 500, 501, 502, 503, 504, 509])
    def test_a_failing_graph_is_unavailable(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_a_calendar_that_is_not_ours_any_more_is_gone(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status)
        with pytest.raises(CalendarGone):
            desk.read()

    def test_a_calendar_that_was_never_there_is_gone(self, desk: Desk) -> None:
        with pytest.raises(CalendarGone):
            desk.read(calendar=dataclasses.replace(desk.calendar, id="AAMkunknown"))

    def test_a_malformed_id_is_a_calendar_that_is_gone(self, desk: Desk) -> None:
        desk.microsoft.fail_next(400, code="ErrorInvalidIdMalformed")
        with pytest.raises(CalendarGone):
            desk.read()

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    def test_a_redirect_is_not_followed(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>Sign in</html>",
            b"[]",
            b"{}",
            b"null",
            b'{"value": {}}',
            b'{"value": "no"}',
            b'{"value": [1]}',
            b'{"value": null}',
            b'{"value": [',
            b'{"error": {"code": "ErrorInternalServerError"}}',
            b"[" * 100_000,
            b'{"value": "\xff"}',
        ],
    )
    def test_an_answer_that_is_no_page_is_unavailable(self, desk: Desk, body: bytes) -> None:
        desk.microsoft.fail_next(200, body=body)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_a_cut_answer_is_unavailable(self, desk: Desk) -> None:
        desk.microsoft.cut_next("GET")
        desk.microsoft.cut_next("GET")
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_mailbox_settings_that_fail_fail_the_read_of_an_all_day_event(self, desk: Desk) -> None:
        desk.mailbox.add(local(2), local(3), all_day=True)
        desk.microsoft.fail_next(500, within="mailboxSettings")
        with pytest.raises(ProviderUnavailable):
            desk.read()

    @pytest.mark.parametrize(
        "body",
        [
            b'{"error": {"code": "ErrorInternalServerError"}}',
            b'{"error": {"code": "ErrorInternalServerError"}, "timeZone": "UTC"}',
            b"{}",
            b'{"timeZone": 1}',
        ],
    )
    def test_mailbox_settings_that_tell_no_zone_fail_it_too(self, desk: Desk, body: bytes) -> None:
        # A zone that is told and not known is another matter: it stays so, and makes the event unreadable.
        desk.mailbox.add(local(2), local(3), all_day=True)
        desk.microsoft.fail_next(200, body=body, within="mailboxSettings")
        with pytest.raises(ProviderUnavailable):
            desk.read()

    @pytest.mark.parametrize("status", [429, 503])
    def test_being_asked_to_slow_down_tells_for_how_long(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status, retry_after="7")
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert caught.value.retry_after_s == 7

    @pytest.mark.parametrize(("retry_after", "seconds"), [(None, 30), ("soon", 30), ("99999999999999", 3600), ("", 30)])
    def test_a_strange_time_to_wait_is_taken_within_reason(
        self, desk: Desk, retry_after: str | None, seconds: float
    ) -> None:
        desk.microsoft.fail_next(429, retry_after=retry_after)
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert caught.value.retry_after_s == seconds

    def test_a_date_to_wait_until_is_understood(self, desk: Desk) -> None:
        moment = datetime.now(UTC) + timedelta(seconds=100)
        desk.microsoft.fail_next(429, retry_after=format_datetime(moment, usegmt=True))
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert caught.value.retry_after_s == pytest.approx(100, abs=5)


class TestAtOnce:
    def test_a_mailbox_gets_at_most_four_requests_at_a_time(self, desk: Desk) -> None:
        desk.microsoft.gate.clear()
        _ = desk.link
        with ThreadPoolExecutor(10) as pool:
            reads = [pool.submit(desk.read) for _ in range(10)]
            assert desk.microsoft.wait_for_requests(4)
            more = desk.microsoft.wait_for_requests(5, timeout_s=0.3)
            desk.microsoft.gate.set()
            assert [read.result().unreadable for read in reads] == [()] * 10
        assert not more
        assert desk.microsoft.at_once_most == 4

    def test_another_mailbox_does_not_wait(self, desk: Desk) -> None:
        ben = Desk(desk.microsoft, desk.provider, desk.microsoft.add_user("ben"))
        desk.microsoft.gate.clear()
        with ThreadPoolExecutor(6) as pool:
            waiting = [pool.submit(desk.read) for _ in range(4)]
            assert desk.microsoft.wait_for_requests(4)
            bens = pool.submit(ben.read)
            desk.microsoft.gate.set()
            assert bens.result().events == ()
            assert [read.result().events for read in waiting] == [()] * 4

    def test_who_waits_for_a_turn_ends_by_the_deadline(self, desk: Desk) -> None:
        desk.microsoft.gate.clear()
        link, calendar_id = desk.link, CalendarId(desk.calendar.id)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(desk.read) for _ in range(4)]
            assert desk.microsoft.wait_for_requests(4)
            with pytest.raises(ProviderUnavailable):
                desk.provider.read_calendar(link, calendar_id, WEEK, Deadline.after(0.2))
            desk.microsoft.gate.set()
            assert [read.result().events for read in waiting] == [()] * 4

    def test_a_smaller_share_of_the_four_is_kept(self, egress: Egress, desk: Desk) -> None:
        desk.provider = MicrosoftProvider(
            egress, graph_url=desk.microsoft.graph_url, calendar_events=500, mailbox_requests=2
        )
        _ = desk.link
        with ThreadPoolExecutor(6) as pool:
            for read in [pool.submit(desk.read) for _ in range(12)]:
                read.result()
        assert desk.microsoft.at_once_most <= 2
