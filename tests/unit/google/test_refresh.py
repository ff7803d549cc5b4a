"""Google's calendars are brought up to date by one small request, and read again whenever that leaves a doubt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from calendar_server.core.model import BlockReason, CalendarId, Interval, ProviderName
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    NeedsReauth,
    NotFound,
    ProviderThrottled,
    ProviderUnavailable,
    ScopeMissing,
)
from calendar_server.providers.base import Deadline, Link, Secret
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.google import PRIMARY, GoogleProvider
from tests.fakes.connections import connection_of
from tests.fakes.google import GoogleFake, GoogleUser
from tests.fakes.google_calendars import GoogleCalendar
from tests.fakes.mirror import Mirror
from tests.unit.google.desk import WEEK, at, clock

LOOK = "syncToken="


class Desk(Mirror):
    """Anna's calendar as it is remembered, and her account."""

    def __init__(self, egress: Egress, google: GoogleFake, time_zone: str = "UTC"):
        self.google = google
        self.anna: GoogleUser = google.add_user("anna", time_zone=time_zone)
        self.live = True
        self.good_renewals = True
        provider = GoogleProvider(egress, api_url=google.api_url, calendar_events=2000)
        connection = connection_of(ProviderName.GOOGLE, self.anna.user.sub, self.anna.email, PRIMARY)
        super().__init__(provider, Link(connection, self._secret(), self._check, self._renew), PRIMARY, WEEK)
        self.calendar = self.anna.primary

    def use(self, calendar: GoogleCalendar) -> Desk:
        """Mirror this calendar instead."""
        self.calendar, self.calendar_id = calendar, CalendarId(calendar.id)
        return self

    def share(self, role: str) -> GoogleCalendar:
        """A calendar of Ben's that Anna may see."""
        return self.google.calendars.add_calendar("ben@gmail.example", "Ben", roles={self.anna.email: role})

    def marked(self) -> Desk:
        """It has been read, and what a look needs is remembered."""
        assert self.refresh()
        self.google.exchanges.clear()
        return self

    @property
    def asked(self) -> list[str]:
        """The requests since it was marked: looks, pages of reads, and others."""
        targets = [exchange.target for exchange in self.google.exchanges]
        return ["look" if LOOK in target else "read" if "timeMin=" in target else "other" for target in targets]

    def expire_access(self) -> None:
        self.google.accounts.end_access_tokens()

    def _secret(self) -> Secret:
        return Secret({"access_token": str(self.google.token_of(self.anna)["access_token"])})

    def _check(self) -> None:
        if not self.live:
            raise NotFound("disconnected")

    def _renew(self, refused: Secret) -> Secret:
        if not self.good_renewals:
            raise NeedsReauth("Connect again.")
        return self._secret()


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=400_000)
    yield out
    out.close()


@pytest.fixture
def desk(egress: Egress, google: GoogleFake) -> Desk:
    return Desk(egress, google)


class TestWhatItCosts:
    def test_a_first_read_costs_no_more_than_the_read(self, desk: Desk) -> None:
        desk.calendar.add(clock(2, 10), clock(2, 11))
        assert desk.refresh()
        assert desk.asked == ["read"]

    def test_an_unchanged_calendar_costs_one_request_each_time(self, desk: Desk) -> None:
        desk.calendar.add(clock(2, 10), clock(2, 11))
        desk.marked()
        assert [desk.refresh() for _ in range(3)] == [False, False, False]
        assert desk.asked == ["look"] * 3

    def test_the_answer_to_a_look_is_small(self, desk: Desk) -> None:
        for hour in range(20):
            desk.calendar.add(clock(2, hour), clock(2, hour + 1), summary="A long title" * 50)
        desk.marked().refresh()
        assert len(desk.google.exchanges[0].answer) < 200

    def test_a_change_costs_the_look_and_the_read(self, desk: Desk) -> None:
        desk.marked().calendar.add(clock(2, 10), clock(2, 11))
        assert desk.refresh()
        assert desk.asked == ["look", "read"]

    def test_it_is_cheap_again_after_a_change(self, desk: Desk) -> None:
        desk.marked().calendar.add(clock(2, 10), clock(2, 11))
        assert [desk.refresh(), desk.refresh()] == [True, False]

    def test_each_look_goes_on_from_the_one_before(self, desk: Desk) -> None:
        desk.marked().refresh()
        desk.google.expire_sync_tokens(all_but=1)
        assert not desk.refresh()

    def test_a_touched_series_is_told_by_name_alone(self, desk: Desk) -> None:
        series = desk.calendar.add(clock(2, 10), clock(2, 11), recurrence=["RRULE:FREQ=DAILY;COUNT=900"])
        desk.marked().calendar.change(series, summary="Touched")
        assert desk.refresh()
        assert len(desk.google.requests("GET", LOOK)[0].answer) < 50_000

    def test_a_read_of_many_pages_can_be_looked_after(self, desk: Desk) -> None:
        desk.google.page_most = 2
        for hour in range(5):
            desk.calendar.add(clock(2, hour), clock(2, hour + 1))
        desk.marked()
        assert not desk.refresh()
        assert desk.asked == ["look"]

    def test_a_read_of_smaller_pages_can_be_looked_after(self, desk: Desk) -> None:
        guests = [{"email": f"guest{number}@example.com", "responseStatus": "accepted"} for number in range(300)]
        for hour in range(24):
            desk.calendar.add(clock(2), clock(3), attendees=guests, summary=str(hour))
        desk.google.fail_next(200, within="maxResults=2500", body=b" " * 500_000)
        desk.marked()
        assert not desk.refresh()

    def test_another_window_is_read(self, desk: Desk) -> None:
        desk.marked().window = Interval(at(8), at(15))
        assert desk.refresh()
        assert desk.asked == ["read"]


def create(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.add(clock(3, 10), clock(3, 11))


def move(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, start={"dateTime": "2026-12-04T10:00:00Z"}, end={"dateTime": "2026-12-04T11:00:00Z"})


def move_out(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, start={"dateTime": "2027-12-04T10:00:00Z"}, end={"dateTime": "2027-12-04T11:00:00Z"})


def delete(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.delete(event_id)


def free(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, transparency="transparent")


def tentative(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, status="tentative")


def decline(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, attendees=[{"email": calendar.owner, "self": True, "responseStatus": "declined"}])


def out_of_office(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, eventType="outOfOffice")


def repeat(calendar: GoogleCalendar, event_id: str) -> None:
    calendar.change(event_id, recurrence=["RRULE:FREQ=DAILY;COUNT=3"])


CHANGES = [create, move, move_out, delete, free, tentative, decline, out_of_office, repeat]


class TestEveryChangeIsSeen:
    @pytest.fixture
    def event_id(self, desk: Desk) -> str:
        return desk.calendar.add(clock(2, 10), clock(2, 11))

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_of_an_event(
        self, desk: Desk, event_id: str, change: Callable[[GoogleCalendar, str], None]
    ) -> None:
        known = desk.marked().known
        change(desk.calendar, event_id)
        assert desk.refresh()
        assert desk.known == desk.true != known

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_between_two_looks(
        self, desk: Desk, event_id: str, change: Callable[[GoogleCalendar, str], None]
    ) -> None:
        desk.marked().refresh()
        change(desk.calendar, event_id)
        assert desk.refresh()
        assert desk.known == desk.true

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_between_the_mark_and_the_end_of_the_read(
        self, desk: Desk, event_id: str, change: Callable[[GoogleCalendar, str], None]
    ) -> None:
        """The first page is made, then somebody changes what is on it, then the last page is asked for."""
        desk.google.page_most = 1
        desk.calendar.add(clock(5, 10), clock(5, 11))

        def then(method: str, target: str) -> None:
            if "pageToken" in target:
                desk.google.on_request = lambda method, target: None
                change(desk.calendar, event_id)

        desk.google.on_request = then
        desk.marked()
        assert desk.known != desk.true
        assert desk.refresh()
        assert desk.known == desk.true

    def test_one_occurrence_is_moved(self, desk: Desk) -> None:
        series = desk.calendar.add(clock(2, 10), clock(2, 11), recurrence=["RRULE:FREQ=DAILY;COUNT=5"])
        desk.marked().calendar.make_exception(series, clock(3, 10), start=clock(3, 15), end=clock(3, 16))
        assert desk.refresh()
        assert desk.known == desk.true

    def test_one_occurrence_is_taken_out(self, desk: Desk) -> None:
        series = desk.calendar.add(clock(2, 10), clock(2, 11), recurrence=["RRULE:FREQ=DAILY;COUNT=5"])
        desk.marked().calendar.make_exception(series, clock(3, 10), status="cancelled")
        assert desk.refresh()
        assert sum(desk.known.values()) == 4

    def test_a_series_that_began_long_ago_is_touched(self, desk: Desk) -> None:
        began = datetime(2024, 1, 1, 10, tzinfo=UTC)
        series = desk.calendar.add(began, began + timedelta(hours=1), recurrence=["RRULE:FREQ=WEEKLY"])
        desk.marked().calendar.change(series, transparency="transparent")
        assert desk.refresh()
        assert [event.reason for event in desk.known] == [BlockReason.FREE]  # type: ignore[union-attr]

    def test_a_series_is_deleted(self, desk: Desk) -> None:
        series = desk.calendar.add(clock(2, 10), clock(2, 11), recurrence=["RRULE:FREQ=DAILY;COUNT=5"])
        desk.marked().calendar.delete(series)
        assert desk.refresh()
        assert not desk.known

    def test_more_changes_than_stand_on_one_page(self, desk: Desk) -> None:
        desk.google.page_most = 1
        desk.marked()
        for hour in (10, 12):
            desk.calendar.add(clock(2, hour), clock(2, hour + 1))
        assert desk.refresh()
        assert (sum(desk.known.values()), desk.refresh()) == (2, False)

    def test_an_event_that_came_and_went_leaves_what_is_known_true(self, desk: Desk, event_id: str) -> None:
        desk.marked().calendar.delete(desk.calendar.add(clock(3, 10), clock(3, 11)))
        assert desk.refresh()
        assert desk.known == desk.true

    def test_days_lie_elsewhere_when_the_zone_of_the_calendar_changes(self, desk: Desk) -> None:
        desk.calendar.add(date(2026, 12, 3), date(2026, 12, 4))
        known = desk.marked().known
        desk.calendar.time_zone = "America/Los_Angeles"
        assert desk.refresh()
        assert desk.known == desk.true != known

    def test_the_zone_changes_while_pages_are_read(self, desk: Desk) -> None:
        desk.google.page_most = 1
        for day in (3, 4):
            desk.calendar.add(date(2026, 12, day), date(2026, 12, day + 1))

        def then(method: str, target: str) -> None:
            if "pageToken" in target:
                desk.calendar.time_zone = "Asia/Tokyo"

        desk.google.on_request = then
        desk.marked()
        desk.google.on_request = lambda method, target: None
        assert desk.refresh()
        assert desk.known == desk.true


class TestFreeAndBusyOnly:
    @pytest.mark.parametrize("status", [200, 403, 404])
    def test_it_is_read_each_time_for_its_feed_tells_nothing(self, desk: Desk, status: int) -> None:
        desk.google.without_details = status
        ben = desk.share("freeBusyReader")
        desk.use(ben).marked()
        assert desk.memory == b""
        ben.add(clock(2, 10), clock(2, 11))
        assert desk.refresh()
        assert sum(desk.known.values()) == 1
        assert "look" not in desk.asked

    @pytest.mark.parametrize("status", [200, 403, 404])
    def test_a_calendar_whose_details_are_hidden_from_now_on_is_read_again(self, desk: Desk, status: int) -> None:
        desk.google.without_details = status
        ben = desk.share("reader")
        ben.add(clock(2, 10), clock(2, 11))
        desk.use(ben).marked()
        ben.roles[desk.anna.email] = "freeBusyReader"
        assert desk.refresh()
        assert desk.known == desk.true
        ben.add(clock(3, 10), clock(3, 11))
        assert desk.refresh()
        assert sum(desk.known.values()) == 2

    def test_a_calendar_that_is_no_longer_shared_is_gone(self, desk: Desk) -> None:
        ben = desk.share("reader")
        desk.use(ben).marked()
        desk.google.calendars.drop(ben)
        with pytest.raises(CalendarGone):
            desk.refresh()


def page(**members: object) -> bytes:
    """An answer to a look that says "nothing changed", but for these members; None takes one out."""
    whole = {"kind": "calendar#events", "timeZone": "UTC", "accessRole": "owner", "nextSyncToken": "CPDA=", **members}
    return json.dumps({name: value for name, value in whole.items() if value is not None}).encode()


class TestADoubtIsAChange:
    """The calendar has changed, and the look is answered so: it must be read again."""

    @pytest.fixture
    def changed(self, desk: Desk) -> Desk:
        desk.marked().calendar.add(clock(2, 10), clock(2, 11))
        return desk

    def seen(self, desk: Desk) -> None:
        assert desk.refresh()
        assert sum(desk.known.values()) == 1
        assert not desk.refresh()

    def test_the_answer_that_the_others_differ_from_says_that_nothing_changed(self, changed: Desk) -> None:
        changed.google.fail_next(200, within=LOOK, body=page())
        assert not changed.refresh()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b"null",
            b"{}",
            b"[" * 100_000,
            page()[:-3],
            page(kind="calendar#calendarList"),
            page(kind=None),
            page(timeZone=None),
            page(timeZone="Europe/Berlin"),
            page(timeZone=7),
            page(accessRole=None),
            page(accessRole="reader"),
            page(nextSyncToken=None),
            page(nextSyncToken=""),
            page(nextSyncToken=7),
            page(nextSyncToken="x" * 5000),
            page(nextSyncToken="\n"),
            page(nextSyncToken=None, nextPageToken="CiAK"),
            page(nextPageToken="CiAK"),
            page(nextPageToken=""),
            page(items={}),
            page(items="none"),
            page(items=[7]),
            page(items=[{}]),
            page(items=[{"id": "other00001"}]),
            page(error={"code": 500}),
        ],
    )
    def test_an_answer_that_is_not_exactly_that(self, changed: Desk, body: bytes) -> None:
        changed.google.fail_next(200, within=LOOK, body=body)
        self.seen(changed)

    def test_an_answer_larger_than_we_read(self, changed: Desk) -> None:
        changed.google.fail_next(200, within=LOOK, body=b" " * 500_000)
        self.seen(changed)

    @pytest.mark.parametrize(
        ("status", "reason"), [(400, "invalid"), (400, "syncTokenWithRequestRestrictions"), (410, "fullSyncRequired")]
    )
    def test_a_token_that_is_refused(self, changed: Desk, status: int, reason: str) -> None:
        changed.google.fail_next(status, reason, within=LOOK)
        self.seen(changed)

    def test_a_token_that_is_too_old(self, changed: Desk) -> None:
        changed.google.expire_sync_tokens()
        self.seen(changed)

    def test_a_line_that_is_cut(self, changed: Desk) -> None:
        changed.google.cut_next("GET", within=LOOK)
        self.seen(changed)

    @pytest.mark.parametrize(("status", "reason"), [(403, "forbidden"), (404, "notFound")])
    def test_events_that_are_said_to_be_out_of_sight(self, changed: Desk, status: int, reason: str) -> None:
        changed.google.fail_next(status, reason, within=LOOK)
        self.seen(changed)

    def test_a_look_that_is_never_answered_leaves_time_to_read(self, changed: Desk) -> None:
        def hang(method: str, target: str) -> None:
            if LOOK in target:
                held.wait(20)

        held = threading.Event()
        changed.google.on_request = hang
        try:
            assert changed.refresh(Deadline.after(6))
        finally:
            held.set()
        assert sum(changed.known.values()) == 1


class TestWhatIsSaidOfTheAccount:
    """Never "unchanged": the look raises what a read would, and what is remembered stays as it was."""

    @pytest.mark.parametrize(
        ("status", "reason", "error"),
        [
            (403, "rateLimitExceeded", ProviderThrottled),
            (403, "quotaExceeded", ProviderThrottled),
            (429, "rateLimitExceeded", ProviderThrottled),
            (403, "insufficientPermissions", ScopeMissing),
            (403, "accessNotConfigured", ProviderUnavailable),
            (500, "backendError", ProviderUnavailable),
            (502, "backendError", ProviderUnavailable),
            (503, "backendError", ProviderUnavailable),
            (302, "moved", ProviderUnavailable),
            (204, "nothing", ProviderUnavailable),
        ],
    )
    def test_a_refusal(self, desk: Desk, status: int, reason: str, error: type[CalendarError]) -> None:
        memory = desk.marked().memory
        desk.calendar.add(clock(2, 10), clock(2, 11))
        desk.google.fail_next(status, reason, within=LOOK)
        with pytest.raises(error):
            desk.refresh()
        assert (desk.memory, desk.asked) == (memory, ["look"])
        assert desk.refresh()
        assert desk.known == desk.true

    def test_how_long_to_wait_is_passed_on(self, desk: Desk) -> None:
        desk.marked().google.fail_next(429, within=LOOK, retry_after="7")
        with pytest.raises(ProviderThrottled) as caught:
            desk.refresh()
        assert caught.value.retry_after_s == 7

    def test_an_access_token_that_is_over_is_renewed_and_the_look_is_repeated(self, desk: Desk) -> None:
        desk.marked().expire_access()
        assert not desk.refresh()
        assert desk.asked == ["look", "look"]

    def test_a_renewed_token_serves_the_read_too(self, desk: Desk) -> None:
        desk.marked().expire_access()
        desk.calendar.add(clock(2, 10), clock(2, 11))
        assert desk.refresh()
        assert desk.asked == ["look", "look", "read"]

    def test_a_grant_that_is_dead_needs_its_owner(self, desk: Desk) -> None:
        desk.marked().expire_access()
        desk.good_renewals = False
        with pytest.raises(NeedsReauth):
            desk.refresh()

    def test_a_calendar_that_was_deleted_is_gone(self, desk: Desk) -> None:
        second = desk.google.calendars.add_calendar(desk.anna.email, "second")
        desk.use(second).marked().google.calendars.drop(second)
        with pytest.raises(CalendarGone):
            desk.refresh()

    def test_nothing_is_asked_once_the_connection_is_disconnected(self, desk: Desk) -> None:
        desk.marked().live = False
        with pytest.raises(NotFound):
            desk.refresh()
        assert desk.asked == []

    def test_a_read_that_fails_after_a_change_loses_nothing(self, desk: Desk) -> None:
        desk.marked().calendar.add(clock(2, 10), clock(2, 11))
        desk.google.fail_next(500, within="timeMin")
        with pytest.raises(ProviderUnavailable):
            desk.refresh()
        assert desk.refresh()
        assert desk.known == desk.true


class TestTheMemory:
    @pytest.fixture
    def changed(self, desk: Desk) -> Desk:
        desk.marked().calendar.add(clock(2, 10), clock(2, 11))
        return desk

    @pytest.mark.parametrize(
        "memory", [b"", b"\xff\xfe", b"{}", b"[]", b"null", b"7", b'"token"', b"[" * 100_000, b'{"version": 1}']
    )
    def test_what_is_no_memory_of_ours_is_not_used(self, changed: Desk, memory: bytes) -> None:
        changed.memory = memory
        assert changed.refresh()
        assert changed.asked == ["read"]
        assert changed.known == changed.true

    def test_a_truncated_one_is_not_used(self, changed: Desk) -> None:
        whole = changed.memory
        for length in range(0, len(whole), 7):
            changed.memory = whole[:length]
            assert changed.refresh()
        assert "look" not in changed.asked

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("version", 2),
            ("version", "1"),
            ("calendar_id", "c_other@group.calendar.google.com"),
            ("page_size", "2500"),
            ("page_size", True),
            ("page_size", 0),
            ("page_size", None),
            ("token", None),
            ("token", 7),
            ("zone", None),
            ("role", []),
            ("more", "x"),
        ],
    )
    def test_one_of_another_version_or_calendar_is_not_used(self, changed: Desk, name: str, value: object) -> None:
        changed.memory = json.dumps({**json.loads(changed.memory), name: value}).encode()
        assert changed.refresh()
        assert changed.asked == ["read"]

    def test_one_with_a_foreign_token_leads_to_a_read(self, changed: Desk) -> None:
        changed.memory = json.dumps({**json.loads(changed.memory), "token": "foreign"}).encode()
        assert changed.refresh()
        assert changed.asked == ["look", "read"]

    def test_a_google_that_gives_no_token_is_read_each_time(self, desk: Desk) -> None:
        desk.google.gives_sync_tokens = False
        desk.marked()
        assert (desk.memory, desk.refresh(), desk.asked) == (b"", True, ["read"])

    def test_it_holds_no_event(self, desk: Desk) -> None:
        event_id = desk.calendar.add(clock(2, 10), clock(2, 11), summary="Secret plan")
        desk.marked()
        assert event_id.encode() not in desk.memory
        assert b"Secret" not in desk.memory
        assert len(desk.memory) < 1000


class TestAFeedThatLies:
    def test_it_costs_until_everything_is_read(self, desk: Desk) -> None:
        desk.marked().calendar.add(clock(2, 10), clock(2, 11))
        desk.google.sync_tokens_lie = True
        assert not desk.refresh()
        assert desk.known != desk.true
        desk.forget()
        assert desk.refresh()
        assert desk.known == desk.true


class RandomHistories(RuleBasedStateMachine):
    """Whatever happens, a refresh that succeeds leaves what is known equal to what is there."""

    egress: Egress

    def __init__(self) -> None:
        super().__init__()
        self.google = GoogleFake()
        self.desk = Desk(self.egress, self.google)
        self.events: list[str] = []
        self.series: list[str] = []
        self.faults = 0

    def teardown(self) -> None:
        self.google.close()
        self.google.assert_clean()

    @initialize(pages=st.sampled_from([1, 3, 2500]))
    def start(self, pages: int) -> None:
        self.google.page_most = pages

    @rule(day=st.integers(1, 12), hour=st.integers(0, 22))
    def add(self, day: int, hour: int) -> None:
        self.events.append(self.desk.calendar.add(clock(day, hour), clock(day, hour + 1)))

    @rule(day=st.integers(1, 9))
    def add_day(self, day: int) -> None:
        self.events.append(self.desk.calendar.add(date(2026, 12, day), date(2026, 12, day + 1)))

    @rule(day=st.integers(1, 8), count=st.integers(1, 6))
    def add_series(self, day: int, count: int) -> None:
        recurrence = [f"RRULE:FREQ=DAILY;COUNT={count}"]
        self.series.append(self.desk.calendar.add(clock(day, 10), clock(day, 11), recurrence=recurrence))

    @precondition(lambda self: self.events)
    @rule(data=st.data(), change=st.sampled_from(CHANGES))
    def change(self, data: st.DataObject, change: Callable[[GoogleCalendar, str], None]) -> None:
        change(self.desk.calendar, data.draw(st.sampled_from(self.events)))

    @precondition(lambda self: self.series)
    @rule(data=st.data(), free=st.booleans())
    def touch_series(self, data: st.DataObject, free: bool) -> None:
        shown = "transparent" if free else None
        self.desk.calendar.change(data.draw(st.sampled_from(self.series)), transparency=shown)

    @precondition(lambda self: self.series)
    @rule(data=st.data(), removed=st.booleans(), hour=st.integers(12, 22))
    def change_occurrence(self, data: st.DataObject, removed: bool, hour: int) -> None:
        series = data.draw(st.sampled_from(self.series))
        first = datetime.fromisoformat(str(self.desk.calendar.events[series]["start"]["dateTime"]))  # type: ignore[index]
        members = {"status": "cancelled"} if removed else {"start": clock(3, hour), "end": clock(3, hour + 1)}
        self.desk.calendar.make_exception(series, first, **members)

    @rule(zone=st.sampled_from(["UTC", "Asia/Tokyo", "America/Los_Angeles"]))
    def move_the_calendar(self, zone: str) -> None:
        self.desk.calendar.time_zone = zone

    @rule()
    def expire(self) -> None:
        self.google.expire_sync_tokens()

    @rule(
        fault=st.sampled_from(
            [(500, "backendError"), (429, "rateLimitExceeded"), (410, "fullSyncRequired"), (404, "x")]
        ),
        within=st.sampled_from([LOOK, "timeMin", "pageToken"]),
    )
    def fail(self, fault: tuple[int, str], within: str) -> None:
        self.faults += 1
        self.google.fail_next(*fault, within=within)

    @rule()
    def cut(self) -> None:
        self.faults += 1
        self.google.cut_next("GET", within=LOOK)

    @rule(fault=st.booleans())
    def refresh(self, fault: bool) -> None:
        try:
            self.desk.refresh()
        except CalendarError:
            assert self.faults
            return
        self.google.forgive()
        self.faults = 0
        assert self.desk.known == self.desk.true

    @rule(day=st.integers(1, 7))
    def refresh_while_it_changes(self, day: int) -> None:
        """Somebody writes an event in the middle of the refresh."""
        self.google.forgive()
        self.faults = 0

        def write(method: str, target: str) -> None:
            self.google.on_request = lambda method, target: None
            self.add(day, 20)

        self.google.on_request = write
        self.desk.refresh()
        self.desk.refresh()
        assert self.desk.known == self.desk.true


def test_whatever_happens_what_is_known_is_what_is_there(egress: Egress) -> None:
    machine = type("Machine", (RandomHistories,), {"egress": egress})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
