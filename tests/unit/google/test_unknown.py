"""What Google does not tell is never free: pages, refusals, and calendars of which only free and busy times are told."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.intervals import merge
from calendar_server.core.model import DAY, SECOND, BlockReason, CalendarId, Interval
from calendar_server.errors import CalendarGone, NotFound, ProviderThrottled, ProviderUnavailable, ScopeMissing
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.google import GoogleProvider
from tests.fakes.google import Exchange, GoogleFake
from tests.fakes.google_accounts import ALL_SCOPES, AUTH
from tests.fakes.google_calendars import Json
from tests.fakes.raw_server import RawServer, answer
from tests.unit.google.desk import BERLIN, WEEK, Desk, at, clock, soon


class TestUnknownIsNotFree:
    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{}",
            b"[]",
            b"null",
            b"<html>Sign in</html>",
            b'{"kind": "calendar#events", "items": [',
            b'{"kind": "calendar#calendarList", "items": []}',
            b'{"kind": "calendar#events", "items": {}}',
            b'{"kind": "calendar#events", "items": null}',
            b'{"kind": "calendar#events", "items": ["e"]}',
            b'{"error": {"code": 500}}',
            b'{"kind": "calendar#events", "nextPageToken": 7}',
            b'{"kind": "calendar#events", "nextPageToken": ""}',
            b"[" * 100_000,
            b'{"kind": "calendar#events", "summary": "\xff"}',
        ],
    )
    def test_an_answer_that_is_no_listing_is_no_empty_one(self, desk: Desk, body: bytes) -> None:
        desk.google.fail_next(200, body=body)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_a_listing_may_leave_its_kind_out_but_not_all(self, desk: Desk) -> None:
        desk.google.fail_next(200, body=b'{"items": []}')
        assert desk.busy() == []

    @pytest.mark.parametrize("status", [204, 302, 400, 402, 405, 409, 412, 500, 502, 503, 504])
    def test_a_status_that_is_no_success_is_unavailable(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_an_empty_calendar_is_free(self, desk: Desk) -> None:
        assert desk.busy() == []

    def test_all_pages_are_read(self, desk: Desk) -> None:
        for number in range(7):
            desk.primary.add(clock(2, number), clock(2, number + 1))
        desk.google.page_most = 3
        assert len(desk.busy()) == 7

    @pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 500])
    def test_a_second_page_that_fails_fails_the_whole(self, desk: Desk, status: int) -> None:
        for number in range(4):
            desk.primary.add(clock(2, number), clock(2, number + 1))
        desk.google.page_most = 2
        desk.google.fail_next(status, within="pageToken", times=2)
        with pytest.raises((ProviderUnavailable, CalendarGone)):
            desk.read()

    def test_a_cut_second_page_fails_the_whole(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11))
        desk.primary.add(clock(3, 10), clock(3, 11))
        desk.google.page_most = 1
        for _ in range(2):
            desk.google.cut_next("GET", within="pageToken")
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_pages_without_end_are_unavailable(self, desk: Desk) -> None:
        body = b'{"kind": "calendar#events", "accessRole": "owner", "nextPageToken": "again"}'
        desk.google.fail_next(200, times=3, body=body)
        with pytest.raises(ProviderUnavailable, match="no end"):
            desk.read()

    def test_more_events_than_the_limit_are_unavailable(self, desk: Desk) -> None:
        for _ in range(501):
            desk.primary.add(clock(2, 10), clock(2, 11))
        with pytest.raises(ProviderUnavailable, match="more events"):
            desk.read()

    def test_a_page_over_our_limit_is_asked_for_in_smaller_ones(self, desk: Desk) -> None:
        guests = [{"email": f"guest{number}@b.example", "responseStatus": "accepted"} for number in range(15)]
        for _ in range(400):
            desk.primary.add(clock(2, 10), clock(2, 11), attendees=guests)
        assert len(desk.read().events) == 400
        assert [e.query["maxResults"] for e in desk.google.requests("GET", "/events")] == ["2500", "250", "250"]

    def test_a_disconnected_link_asks_nothing(self, desk: Desk) -> None:
        desk.live = False
        with pytest.raises(NotFound):
            desk.read()
        assert desk.google.exchanges == []

    def test_a_link_that_ends_between_pages_asks_no_further(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11))
        desk.primary.add(clock(3, 10), clock(3, 11))
        desk.google.page_most = 1

        def end(method: str, target: str) -> None:
            desk.live = False

        desk.google.on_request = end
        with pytest.raises(NotFound):
            desk.read()
        assert len(desk.google.exchanges) == 1

    def test_redirects_are_not_followed_with_the_token(self, egress: Egress, desk: Desk) -> None:
        with RawServer(lambda request, line: line.send(answer(200, b"{}"))) as elsewhere:
            moved = answer(302, headers=[("Location", elsewhere.url)])
            with RawServer(lambda request, line: line.send(moved)) as server:
                provider = GoogleProvider(egress, api_url=server.url, calendar_events=10)
                with pytest.raises(ProviderUnavailable):
                    provider.read_calendar(desk.link, CalendarId("primary"), WEEK, soon())
            assert elsewhere.requests == []


class TestRefusals:
    @pytest.mark.parametrize("reason", ["rateLimitExceeded", "userRateLimitExceeded"])
    def test_a_403_that_asks_to_slow_down_is_throttling(self, desk: Desk, reason: str) -> None:
        desk.google.fail_next(403, reason)
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert caught.value.retry_after_s == 30

    def test_a_used_up_quota_lasts_an_hour(self, desk: Desk) -> None:
        desk.google.fail_next(403, "quotaExceeded")
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert caught.value.retry_after_s == 3600

    @pytest.mark.parametrize(
        ("told", "seconds"), [("7", 7), ("86400", 3600), ("9" * 40, 3600), ("soon", 30), ("-5", 30), ("", 30)]
    )
    def test_it_waits_as_long_as_google_says_within_an_hour(self, desk: Desk, told: str, seconds: float) -> None:
        desk.google.fail_next(429, "rateLimitExceeded", retry_after=told)
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert caught.value.retry_after_s == seconds

    def test_a_date_may_say_how_long(self, desk: Desk) -> None:
        later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
        desk.google.fail_next(503, retry_after=later)
        with pytest.raises(ProviderThrottled) as caught:
            desk.read()
        assert 90 < (caught.value.retry_after_s or 0) <= 100

    def test_a_503_that_does_not_say_how_long_is_no_throttling(self, desk: Desk) -> None:
        desk.google.fail_next(503)
        with pytest.raises(ProviderUnavailable) as caught:
            desk.read()
        assert not isinstance(caught.value, ProviderThrottled)

    @pytest.mark.parametrize("scope", ["calendar.events"])
    def test_lost_consent_is_neither_throttling_nor_a_lost_calendar(self, desk: Desk, scope: str) -> None:
        desk.scopes = ALL_SCOPES - {AUTH + scope}
        with pytest.raises(ScopeMissing):
            desk.read()

    @pytest.mark.parametrize(
        "body",
        [
            {"error": {"code": 403, "status": "RESOURCE_EXHAUSTED"}},
            {"error": {"code": 403, "details": [{"reason": "RATE_LIMIT_EXCEEDED"}]}},
        ],
    )
    def test_newer_forms_of_throttling_are_known(self, desk: Desk, body: Json) -> None:
        desk.google.fail_next(403, body=json.dumps(body).encode())
        with pytest.raises(ProviderThrottled):
            desk.read()

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_a_calendar_that_shows_nothing_any_more_is_gone(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status, "forbidden" if status == 403 else "notFound")
        with pytest.raises(CalendarGone):
            desk.read()

    @pytest.mark.parametrize(
        "body", [b"", b"<html>Forbidden</html>", b"[]", b'{"error": "x"}', b'{"error": {"errors": 1}}']
    )
    def test_a_403_without_a_reason_is_a_lost_calendar(self, desk: Desk, body: bytes) -> None:
        desk.google.fail_next(403, body=body)
        with pytest.raises(CalendarGone):
            desk.read()

    def test_a_deleted_calendar_is_gone(self, desk: Desk) -> None:
        desk.google.calendars.drop(desk.shared("reader"))
        with pytest.raises(CalendarGone):
            desk.read()

    @pytest.mark.parametrize("calendar_id", ["", ".", "..", "nobody@gmail.example", "a/b?c=d#e", "%2e%2e", "ä ö"])
    def test_an_id_that_is_none_is_gone(self, desk: Desk, calendar_id: str) -> None:
        desk.calendar_id = CalendarId(calendar_id)
        with pytest.raises(CalendarGone):
            desk.read()

    def test_an_api_that_is_switched_off_is_unavailable(self, desk: Desk) -> None:
        desk.google.fail_next(403, "accessNotConfigured")
        with pytest.raises(ProviderUnavailable, match="switched off"):
            desk.read()


class TestFreeBusyOnly:
    @pytest.mark.parametrize("told_by", [200, 403, 404])
    def test_a_calendar_shared_without_details_is_read_by_free_busy(self, desk: Desk, told_by: int) -> None:
        shared = desk.shared("freeBusyReader", time_zone="Europe/Berlin")
        shared.add(clock(2, 10), clock(2, 11))
        shared.add(date(2026, 12, 4), date(2026, 12, 5))
        shared.add(clock(3, 10), clock(3, 11), transparency="transparent")
        desk.google.without_details = told_by
        assert desk.busy() == [
            (at(2, 10), at(2, 11), BlockReason.BUSY),
            (at(4, zone=BERLIN), at(5, zone=BERLIN), BlockReason.BUSY),
        ]

    def test_it_has_no_ids_and_is_no_full_listing(self, desk: Desk) -> None:
        desk.shared("freeBusyReader").add(clock(2, 10), clock(2, 11))
        read = desk.read()
        assert ([event.event_id for event in read.events], read.event_ids) == ([""], None)

    def test_a_free_one_is_free(self, desk: Desk) -> None:
        desk.shared("freeBusyReader")
        assert desk.busy() == []

    def test_a_calendar_that_may_be_read_is_never_asked_that_way(self, desk: Desk) -> None:
        desk.google.fail_next(404, "notFound", within="/events")
        with pytest.raises(CalendarGone):
            desk.read()
        assert desk.google.requests("POST", "freeBusy") == []

    def test_an_error_inside_a_good_answer_is_unavailable(self, desk: Desk) -> None:
        shared = desk.shared("freeBusyReader")
        desk.google.free_busy_errors[shared.id] = "internalError"
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_not_found_inside_a_good_answer_is_a_lost_calendar(self, desk: Desk) -> None:
        shared = desk.shared("freeBusyReader")
        desk.google.free_busy_errors[shared.id] = "notFound"
        with pytest.raises(CalendarGone):
            desk.read()

    @pytest.mark.parametrize(
        "calendars",
        [
            None,
            {},
            [],
            {"other@gmail.example": {"busy": []}},
            {"ID": None},
            {"ID": []},
            {"ID": {"busy": None}},
            {"ID": {"busy": {}}},
            {"ID": {"busy": [{"start": "2026-12-02T10:00:00Z"}]}},
            {"ID": {"busy": [{"start": "2026-12-02T10:00:00", "end": "2026-12-02T11:00:00Z"}]}},
            {"ID": {"busy": ["2026-12-02T10:00:00Z"]}},
            {"ID": {"busy": [], "errors": "backend"}},
            {"ID": {"busy": [], "errors": [{}]}},
            {"ID": {"busy": [], "errors": ["x"]}},
        ],
    )
    def test_an_answer_that_says_nothing_of_the_calendar_is_unavailable(self, desk: Desk, calendars: object) -> None:
        shared = desk.shared("freeBusyReader")
        text = json.dumps({"kind": "calendar#freeBusy", "calendars": calendars}).replace("ID", shared.id)
        desk.google.fail_next(200, within="freeBusy", body=text.encode())
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_one_piece_of_a_long_window_that_fails_fails_the_whole(self, desk: Desk) -> None:
        desk.shared("freeBusyReader")
        count = iter(range(10))

        def fail_the_third(method: str, target: str) -> None:
            if target == "freeBusy" and next(count) == 2:
                desk.google.fail_next(500, within="freeBusy")

        desk.google.on_request = fail_the_third
        with pytest.raises(ProviderUnavailable):
            desk.read(Interval(at(1), at(1) + 366 * DAY))

    @settings(max_examples=15, deadline=None)
    @given(start=st.integers(0, 10 * DAY), length=st.integers(1, 400 * DAY))
    def test_a_long_window_is_covered_without_gaps(self, start: int, length: int) -> None:
        window = Interval(at(1) + start, at(1) + start + length)
        pieces = asked_of_free_busy(window)
        assert all(0 < piece.end - piece.start <= 90 * DAY for piece in pieces)
        (whole,) = merge(pieces)
        assert whole.start <= window.start < window.end <= whole.end

    def test_an_event_over_the_seam_of_two_pieces_is_whole_when_merged(self, desk: Desk) -> None:
        shared = desk.shared("freeBusyReader")
        shared.add(clock(1) + timedelta(days=75), clock(1) + timedelta(days=85))
        read = desk.read(Interval(at(1), at(1) + 120 * DAY))
        assert merge(Interval(event.start, event.end) for event in read.events) == [
            Interval(at(1) + 75 * DAY, at(1) + 85 * DAY)
        ]


def asked_of_free_busy(window: Interval) -> list[Interval]:
    """What spans a read of this window asks about."""
    with GoogleFake() as google:
        out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=100_000)
        provider = GoogleProvider(out, api_url=google.api_url, calendar_events=10)
        desk = Desk(google, provider, google.add_user("anna"))
        desk.shared("freeBusyReader")
        desk.read(window)
        out.close()
        google.assert_clean()
        return [_span(exchange) for exchange in google.requests("POST", "freeBusy")]


def _span(exchange: Exchange) -> Interval:
    start, end = (datetime.fromisoformat(str(exchange.content[name])) for name in ("timeMin", "timeMax"))
    return Interval(int(start.timestamp()) * SECOND, int(end.timestamp()) * SECOND)
