"""Google's provider against a Google with a memory, and every word between them against Google's description."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.intervals import merge
from calendar_server.core.model import (
    DAY,
    HOUR,
    SECOND,
    Attendee,
    BlockReason,
    Booking,
    BookingId,
    BookingStatus,
    BusyEvent,
    Calendar,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    Instant,
    Interval,
    OrganizationId,
    ProviderName,
    SyncStatus,
    UnreadableEvent,
)
from calendar_server.core.zones import named
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    NeedsReauth,
    NotFound,
    PreconditionFailed,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
    ScopeMissing,
)
from calendar_server.providers.base import Account, Deadline, EventRef, Link, RemoteEvent, Secret
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.google import PRIMARY, GoogleProvider, calendar_key
from calendar_server.providers.google_events import busy_event
from calendar_server.providers.oauth import Tokens
from tests.fakes.google import Exchange, GoogleFake, GoogleUser
from tests.fakes.google_accounts import ALL_SCOPES, AUTH
from tests.fakes.google_calendars import GoogleCalendar, Json
from tests.fakes.raw_server import RawServer, answer

UID = "0123456789abcdefghijklmnopqrstuv0123456789abcdefghij"
BERLIN = ZoneInfo("Europe/Berlin")


def clock(day: int, hour: int = 0, minute: int = 0, zone: ZoneInfo | None = None) -> datetime:
    """What a clock shows in December 2026, in UTC unless told otherwise."""
    return datetime(2026, 12, day, hour, minute, tzinfo=zone or UTC)


def at(day: int, hour: int = 0, minute: int = 0, zone: ZoneInfo | None = None) -> Instant:
    """The same as an instant."""
    return int(clock(day, hour, minute, zone).timestamp()) * SECOND


WEEK = Interval(at(1), at(8))


def soon() -> Deadline:
    return Deadline.after(15)


def booking(revision: int = 1, **more: object) -> Booking:
    usual = Booking(
        BookingId("b1"),
        revision,
        BookingStatus.CONFIRMED,
        title="Meeting",
        description="About the plan.",
        location="Room 1",
        start=at(2, 10),
        end=at(2, 11),
        time_zone="Europe/Berlin",
    )
    return dataclasses.replace(usual, **more)  # type: ignore[arg-type]


@dataclass
class Desk:
    """Anna's account, with a link to it that renews its tokens as the service would."""

    google: GoogleFake
    provider: GoogleProvider
    anna: GoogleUser
    scopes: frozenset[str] = ALL_SCOPES
    live: bool = True
    renewals: int = 0
    access_token: str = ""
    good_renewals: bool = True
    calendar_id: CalendarId = PRIMARY

    @property
    def primary(self) -> GoogleCalendar:
        return self.anna.primary

    @property
    def link(self) -> Link:
        self.access_token = self.access_token or self._token()
        connection = Connection(
            id=ConnectionId("cal_1"),
            organization_id=OrganizationId("org_1"),
            owner="",
            provider=ProviderName.GOOGLE,
            subject=self.anna.user.sub,
            account_email=self.anna.email,
            calendar_id=self.calendar_id,
            busy_calendar_ids=(self.calendar_id,),
            status=ConnectionStatus.ACTIVE,
            sync_status=SyncStatus.CONNECTED,
            sync_error=None,
            last_sync_at=None,
            connected_at=0,
            grant_version=1,
        )
        return Link(connection, Secret({"access_token": self.access_token}), self._check, self._renew)

    def use(self, calendar: GoogleCalendar) -> Desk:
        """Work with this calendar from now on."""
        self.calendar_id = CalendarId(calendar.id)
        return self

    def shared(self, role: str, **more: str) -> GoogleCalendar:
        """Somebody else's calendar that Anna may use so far, which is worked with from now on."""
        calendar = self.google.calendars.add_calendar(
            "ben@gmail.example",
            "Ben",
            roles={self.anna.email: role},
            **more,
        )
        self.use(calendar)
        return calendar

    def calendars(self) -> list[Calendar]:
        return self.provider.list_calendars(self.link, soon())

    def read(self, window: Interval = WEEK) -> CalendarRead:
        return self.provider.read_calendar(self.link, self.calendar_id, window, soon())

    def busy(self, window: Interval = WEEK) -> list[tuple[Instant, Instant, BlockReason]]:
        read = self.read(window)
        assert read.unreadable == ()
        return sorted((event.start, event.end, event.reason) for event in read.events)

    def reason(self, **members: object) -> BlockReason:
        """Why an event with these members blocks, or does not."""
        self.primary.add(clock(2, 10), clock(2, 11), **members)
        ((_, _, reason),) = self.busy()
        return reason

    @property
    def ref(self) -> EventRef:
        return EventRef(self.calendar_id, UID, self.provider.event_id(self.calendar_id, UID))

    def find(self) -> RemoteEvent | None:
        return self.provider.find_event(self.link, self.ref, soon())

    def found(self) -> RemoteEvent:
        found = self.find()
        assert found is not None
        return found

    def put(self, wanted: Booking, known: RemoteEvent | None = None) -> RemoteEvent:
        return self.provider.put_event(self.link, self.ref, wanted, known, soon())

    def delete(self, known: RemoteEvent) -> None:
        self.provider.delete_event(self.link, self.ref, known, soon())

    @property
    def event(self) -> Json:
        """Our event as Google keeps it."""
        return self.primary.events[UID]

    def _token(self) -> str:
        return str(self.google.token_of(self.anna, self.scopes)["access_token"])

    def _check(self) -> None:
        if not self.live:
            raise NotFound("disconnected")

    def _renew(self, refused: Secret) -> Secret:
        self.renewals += 1
        self.access_token = self._token() if self.good_renewals else "refused"
        return Secret({"access_token": self.access_token})


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=200_000)
    yield out
    out.close()


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    with GoogleFake() as fake:
        yield fake
        fake.assert_clean()


@pytest.fixture
def make_desk(egress: Egress, google: GoogleFake) -> Callable[..., Desk]:
    provider = GoogleProvider(
        egress,
        api_url=google.api_url,
        userinfo_url=google.userinfo_url,
        revoke_url=google.revoke_url,
        calendar_events=500,
    )

    def make(**more: str) -> Desk:
        return Desk(google, provider, google.add_user("anna", **more))

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


class TestTheAccount:
    def account(self, desk: Desk) -> Account:
        return desk.provider.account(Tokens(desk.link.secret["access_token"], "r", 3600, None), soon())

    def test_its_subject_is_googles_own_and_not_the_e_mail(self, desk: Desk) -> None:
        account = self.account(desk)
        assert (account.subject, account.email) == (desk.anna.user.sub, desk.anna.email)

    def test_the_default_calendar_is_the_first_choice_for_both(self, desk: Desk) -> None:
        account = self.account(desk)
        assert (account.calendar_id, account.busy_calendar_ids) == ("primary", ("primary",))

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b'{"email": "a@b.example"}', b'{"sub": 7}', b'{"sub": ""}', b'"sub"']
    )
    def test_an_answer_without_a_subject_is_unavailable(self, desk: Desk, body: bytes) -> None:
        desk.google.fail_next(200, within="/v1/userinfo", body=body)
        with pytest.raises(ProviderUnavailable):
            self.account(desk)

    @pytest.mark.parametrize("status", [401, 404, 500, 503])
    def test_an_account_that_cannot_be_asked_is_unavailable(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status, within="/v1/userinfo")
        with pytest.raises(ProviderUnavailable):
            self.account(desk)


class TestRevoking:
    def secret(self, desk: Desk) -> Secret:
        given = desk.google.token_of(desk.anna)
        return Secret({name: str(given[name]) for name in ("access_token", "refresh_token")})

    def test_the_whole_grant_is_over(self, desk: Desk) -> None:
        secret = self.secret(desk)
        desk.provider.revoke(secret, soon())
        assert desk.google.accounts.bearer(f"Bearer {secret['access_token']}") is None

    def test_a_grant_that_is_over_already_is_no_error(self, desk: Desk) -> None:
        secret = self.secret(desk)
        desk.google.accounts.end_grant(desk.anna.user)
        desk.provider.revoke(secret, soon())

    def test_an_access_token_that_is_over_does_not_stand_in_the_way(self, desk: Desk) -> None:
        secret = self.secret(desk)
        desk.google.accounts.end_access_tokens()
        desk.provider.revoke(secret, soon())
        assert desk.google.accounts.revoked == [secret["refresh_token"]]

    def test_a_google_that_is_down_is_told(self, desk: Desk) -> None:
        desk.google.fail_next(503, within="/revoke")
        with pytest.raises(ProviderUnavailable):
            desk.provider.revoke(self.secret(desk), soon())


class TestTheCalendars:
    def test_the_default_calendar_goes_by_one_name(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(time_zone="Europe/Berlin")
        assert desk.calendars() == [
            Calendar(CalendarId("primary"), desk.anna.email, "Europe/Berlin", True, True, "#0088aa")
        ]

    @pytest.mark.parametrize("spelling", ["anna@gmail.example", "Anna@Gmail.example", "primary"])
    def test_the_e_mail_form_is_the_same_id(self, spelling: str) -> None:
        assert calendar_key(CalendarId(spelling), "anna@gmail.example") == "primary"

    def test_another_calendar_keeps_its_id(self) -> None:
        assert calendar_key(CalendarId("c_1@group.calendar.google.com"), "anna@gmail.example").startswith("c_1@")

    @pytest.mark.parametrize(
        ("role", "writable"),
        [
            ("owner", True),
            ("writer", True),
            ("writerWithoutPrivateAccess", True),
            ("reader", False),
            ("freeBusyReader", False),
        ],
    )
    def test_what_may_be_done_depends_on_the_role(self, desk: Desk, role: str, writable: bool) -> None:
        shared = desk.shared(role)
        assert [(c.id, c.writable) for c in desk.calendars()[1:]] == [(shared.id, writable)]

    def test_its_owners_own_name_for_it_goes_first(self, desk: Desk) -> None:
        desk.google.calendars.lists[desk.anna.email][0].override = "Mine"
        assert [calendar.name for calendar in desk.calendars()] == ["Mine"]

    def test_a_hidden_one_is_listed(self, desk: Desk) -> None:
        desk.google.calendars.lists[desk.anna.email][0].hidden = True
        assert len(desk.calendars()) == 1

    def test_a_deleted_one_is_not(self, desk: Desk) -> None:
        desk.google.calendars.lists[desk.anna.email][0].deleted = True
        assert desk.calendars() == []

    def test_all_pages_are_read(self, desk: Desk) -> None:
        for number in range(6):
            desk.google.calendars.add_calendar(desk.anna.email, f"Calendar {number}")
        desk.google.page_most = 3
        assert len(desk.calendars()) == 7

    def test_a_second_page_that_fails_fails_the_whole(self, desk: Desk) -> None:
        desk.google.calendars.add_calendar(desk.anna.email, "Other")
        desk.google.page_most = 1
        desk.google.fail_next(500, within="pageToken")
        with pytest.raises(ProviderUnavailable):
            desk.calendars()

    @pytest.mark.parametrize("item", [{"summary": "A"}, {"id": ""}, {"id": 7}, "primary", None])
    def test_an_entry_without_an_id_fails_the_whole(self, desk: Desk, item: object) -> None:
        body = json.dumps({"kind": "calendar#calendarList", "items": [item]}).encode()
        desk.google.fail_next(200, body=body)
        with pytest.raises(ProviderUnavailable):
            desk.calendars()

    def test_what_is_no_color_and_no_zone_is_left_out(self, desk: Desk) -> None:
        item = {
            "id": "c",
            "accessRole": "owner",
            "backgroundColor": "red",
            "timeZone": "Moon/Base",
            "summary": "\ud800",
        }
        body = json.dumps({"kind": "calendar#calendarList", "items": [item]}).encode()
        desk.google.fail_next(200, body=body)
        assert desk.calendars() == [Calendar(CalendarId("c"), "\N{REPLACEMENT CHARACTER}", writable=True)]

    def test_a_missing_scope_is_told(self, desk: Desk) -> None:
        desk.scopes = ALL_SCOPES - {f"{AUTH}calendar.calendarlist.readonly"}
        with pytest.raises(ScopeMissing):
            desk.calendars()


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


class TestTokens:
    def test_a_refused_token_is_renewed_once_and_the_request_repeated(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11))
        _ = desk.link
        desk.google.accounts.end_access_tokens()
        assert (len(desk.busy()), desk.renewals) == (1, 1)

    def test_the_renewed_token_is_kept_for_the_pages_that_follow(self, desk: Desk) -> None:
        for number in range(4):
            desk.primary.add(clock(2, number), clock(2, number + 1))
        desk.google.page_most = 1
        _ = desk.link
        desk.google.accounts.end_access_tokens()
        assert (len(desk.busy()), desk.renewals, len(desk.google.exchanges)) == (4, 1, 5)

    def test_a_second_refusal_is_unavailable_and_not_needs_reauth(self, desk: Desk) -> None:
        desk.access_token, desk.good_renewals = "refused", False
        with pytest.raises(ProviderUnavailable):
            desk.read()
        assert desk.renewals == 1

    def test_a_dead_grant_is_told_by_its_renewal(self, desk: Desk) -> None:
        def dead(refused: Secret) -> Secret:
            raise NeedsReauth

        link = dataclasses.replace(desk.link, secret=Secret({"access_token": "over"}), renew=dead)
        with pytest.raises(NeedsReauth):
            desk.provider.read_calendar(link, desk.calendar_id, WEEK, soon())


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


class TestWriting:
    def test_the_id_is_the_uid(self, desk: Desk) -> None:
        assert desk.put(booking()).event_id == UID
        assert list(desk.primary.events) == [UID]

    def test_the_event_shows_the_booking(self, desk: Desk) -> None:
        desk.put(booking(url="https://app.example.org/b/1?x=1&y=2"))
        assert desk.event["summary"] == "Meeting"
        assert desk.event["location"] == "Room 1"
        assert str(desk.event["description"]).startswith("About the plan.")
        assert desk.event["source"] == {"title": "Meeting", "url": "https://app.example.org/b/1?x=1&y=2"}
        assert desk.event["start"] == {"dateTime": "2026-12-02T10:00:00Z", "timeZone": "Europe/Berlin"}

    def test_a_booking_without_a_title_is_busy(self, desk: Desk) -> None:
        desk.put(booking(title=""))
        assert desk.event["summary"] == "Busy"

    def test_guests_are_text_and_nobody_is_invited(self, desk: Desk) -> None:
        desk.put(booking(attendees=(Attendee("guest@example.org", "Guest"),)))
        assert "attendees" not in desk.event
        assert "guest@example.org" in str(desk.event["description"])

    def test_every_write_asks_for_no_mail(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.delete(desk.put(booking(2), written))
        writes = [exchange for exchange in desk.google.exchanges if exchange.method != "GET"]
        assert [(w.method, w.query["sendUpdates"]) for w in writes] == [
            ("POST", "none"),
            ("PATCH", "none"),
            ("DELETE", "none"),
        ]

    @pytest.mark.parametrize(
        "url", ["", "javascript:alert(1)", "mailto:a@b.example", "http://", "http://[", "ftp://a.example/"]
    )
    def test_a_page_that_is_none_is_no_source(self, desk: Desk, url: str) -> None:
        desk.put(booking(url=url))
        assert "source" not in desk.event

    def test_it_blocks_and_is_found_with_its_revision(self, desk: Desk) -> None:
        written = desk.put(booking(3))
        assert desk.busy() == [(at(2, 10), at(2, 11), BlockReason.BUSY)]
        assert desk.find() == written
        assert written.revision == 3

    def test_its_link_leads_to_it(self, desk: Desk) -> None:
        assert desk.put(booking()).web_link == desk.event["htmlLink"]

    def test_what_was_never_written_is_not_there(self, desk: Desk) -> None:
        assert desk.find() is None

    def test_a_repeated_insert_makes_no_second_event(self, desk: Desk) -> None:
        desk.put(booking())
        with pytest.raises(PreconditionFailed):
            desk.put(booking())
        assert len(desk.primary.events) == 1

    def test_an_insert_whose_answer_was_lost_is_found(self, desk: Desk) -> None:
        desk.google.cut_next("POST")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())
        assert desk.found().revision == 1

    def test_an_update_whose_answer_was_lost_is_found(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.google.cut_next("PATCH")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking(2), written)
        assert desk.found().revision == 2

    def test_a_token_that_is_over_does_not_write_twice(self, desk: Desk) -> None:
        _ = desk.link
        desk.google.accounts.end_access_tokens()
        desk.put(booking())
        assert (len(desk.primary.events), desk.renewals) == (1, 1)

    def test_an_event_of_a_calendar_with_a_strange_id_is_written_there(self, desk: Desk) -> None:
        shared = desk.shared("writer")
        desk.put(booking())
        assert list(shared.events) == [UID]


class TestUpdating:
    def test_it_moves_in_place(self, desk: Desk) -> None:
        written = desk.put(booking())
        moved = desk.put(booking(2, start=at(3, 14), end=at(3, 15), title="Moved"), written)
        assert desk.busy() == [(at(3, 14), at(3, 15), BlockReason.BUSY)]
        assert (moved.event_id, moved.revision, moved.etag != written.etag) == (UID, 2, True)

    def test_what_its_owner_added_stays(self, desk: Desk) -> None:
        desk.put(booking())
        reminders = {"useDefault": False, "overrides": [{"method": "popup", "minutes": 7}]}
        desk.primary.change(UID, colorId="11", reminders=reminders, visibility="private")
        desk.put(booking(2, title="Other"), desk.found())
        kept = {name: desk.event[name] for name in ("colorId", "reminders", "visibility", "summary")}
        assert kept == {"colorId": "11", "reminders": reminders, "visibility": "private", "summary": "Other"}

    def test_guests_whom_its_owner_invited_are_neither_dropped_nor_sent_mail(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, attendees=[{"email": "ben@gmail.example", "responseStatus": "accepted"}])
        desk.put(booking(2), desk.found())
        assert (len(desk.event["attendees"]), desk.google.mails) == (1, [])  # type: ignore[arg-type]

    def test_properties_of_others_stay(self, desk: Desk) -> None:
        desk.put(booking())
        own = desk.event["extendedProperties"]
        assert isinstance(own, dict)
        own["private"]["other"] = "kept"
        desk.put(booking(2), desk.found())
        assert desk.event["extendedProperties"]["private"]["other"] == "kept"  # type: ignore[index]

    def test_what_the_booking_no_longer_has_is_taken_out(self, desk: Desk) -> None:
        written = desk.put(booking(url="https://app.example.org/b/1"))
        desk.put(booking(2, location="", description="", url=""), written)
        assert ("location" in desk.event, "source" in desk.event) == (False, False)

    def test_an_event_that_its_owner_made_all_day_has_a_time_again(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, start={"date": "2026-12-02"}, end={"date": "2026-12-03"})
        desk.put(booking(2), desk.found())
        assert desk.busy() == [(at(2, 10), at(2, 11), BlockReason.BUSY)]

    def test_an_event_that_its_owner_made_a_series_is_one_event_again(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, recurrence=["RRULE:FREQ=DAILY;COUNT=3"])
        assert len(desk.busy()) == 3
        desk.put(booking(2), desk.found())
        assert len(desk.busy()) == 1

    def test_an_event_that_its_owner_marked_free_blocks_again(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, transparency="transparent", status="tentative")
        desk.put(booking(2), desk.found())
        assert desk.busy() == [(at(2, 10), at(2, 11), BlockReason.BUSY)]

    def test_an_event_known_from_elsewhere_is_cleared_of_everything(self, desk: Desk) -> None:
        desk.put(booking(url="https://app.example.org/b/1"))
        desk.primary.change(UID, start={"date": "2026-12-02"}, end={"date": "2026-12-03"})
        found = desk.found()
        desk.put(booking(2), RemoteEvent(found.event_id, found.etag))
        assert ("source" in desk.event, desk.busy()) == (False, [(at(2, 10), at(2, 11), BlockReason.BUSY)])

    def test_an_event_that_was_changed_meanwhile_is_left_alone(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.primary.change(UID, summary="Its owner's")
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), written)
        assert desk.event["summary"] == "Its owner's"

    def test_an_event_that_was_deleted_meanwhile_is_looked_for_again(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.primary.delete(UID)
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), written)

    @pytest.mark.parametrize("revision", ["", "x", "-1", "9" * 30, "²"])
    def test_a_revision_that_is_no_number_is_none(self, desk: Desk, revision: str) -> None:
        desk.put(booking())
        desk.primary.change(UID, extendedProperties={"private": {"calendarsRevision": revision}})
        assert desk.found().revision == 0


class TestTombstones:
    def bury(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.delete(UID)

    def test_a_tombstone_is_no_event(self, desk: Desk) -> None:
        self.bury(desk)
        assert desk.find() is None

    def test_it_is_brought_back_to_life(self, desk: Desk) -> None:
        self.bury(desk)
        written = desk.put(booking(2, start=at(3, 10), end=at(3, 11)))
        assert (desk.find(), written.revision) == (written, 2)
        assert desk.busy() == [(at(3, 10), at(3, 11), BlockReason.BUSY)]

    def test_one_that_stays_dead_has_its_id_spent(self, desk: Desk) -> None:
        self.bury(desk)
        desk.primary.revives = False
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))
        assert desk.find() is None

    def test_one_that_nobody_can_see_any_more_has_its_id_spent(self, desk: Desk) -> None:
        self.bury(desk)
        desk.primary.forget(UID)
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))

    def test_a_new_generation_of_the_id_always_works(self, desk: Desk) -> None:
        self.bury(desk)
        desk.primary.forget(UID)
        other = EventRef(desk.calendar_id, UID[::-1], EventId(UID[::-1]))
        written = desk.provider.put_event(desk.link, other, booking(2), None, soon())
        assert written.event_id == UID[::-1]

    def test_one_that_others_revive_at_the_same_moment_is_left_to_them(self, desk: Desk) -> None:
        self.bury(desk)

        def others(method: str, target: str) -> None:
            if method == "PUT":
                desk.primary.change(UID, status="confirmed", summary="Theirs")

        desk.google.on_request = others
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))
        assert desk.event["summary"] == "Theirs"

    def test_an_update_that_is_said_to_work_and_does_not_has_its_id_spent(self, desk: Desk) -> None:
        self.bury(desk)
        desk.google.fail_next(200, method="PUT", body=json.dumps({**desk.event, "status": "cancelled"}).encode())
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))

    def test_a_revival_that_is_throttled_is_throttling(self, desk: Desk) -> None:
        self.bury(desk)
        desk.google.fail_next(403, "rateLimitExceeded", method="PUT")
        with pytest.raises(ProviderThrottled):
            desk.put(booking(2))


class TestDeleting:
    def test_it_is_gone(self, desk: Desk) -> None:
        desk.delete(desk.put(booking()))
        assert (desk.find(), desk.busy()) == (None, [])

    @pytest.mark.parametrize("how", ["delete", "forget"])
    def test_what_is_gone_already_is_a_success(self, desk: Desk, how: str) -> None:
        written = desk.put(booking())
        desk.primary.delete(UID)
        known = dataclasses.replace(written, etag=str(desk.event["etag"]))
        if how == "forget":
            desk.primary.forget(UID)
        desk.delete(known)

    def test_once_more_after_a_lost_answer_is_a_success(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.google.cut_next("DELETE")
        with pytest.raises(ProviderUnavailable):
            desk.delete(written)
        desk.delete(written)
        assert desk.find() is None

    def test_what_was_changed_meanwhile_is_left_alone(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.primary.change(UID, summary="Its owner's")
        with pytest.raises(PreconditionFailed):
            desk.delete(written)
        assert desk.event["status"] == "confirmed"

    def test_in_a_calendar_that_is_gone_there_is_nothing_to_delete(self, desk: Desk) -> None:
        shared = desk.shared("writer")
        written = desk.put(booking())
        desk.google.calendars.drop(shared)
        assert desk.find() is None
        desk.delete(written)


class TestRefusedWrites:
    @pytest.mark.parametrize("role", ["reader", "freeBusyReader"])
    def test_a_calendar_that_may_only_be_read_is_read_only(self, desk: Desk, role: str) -> None:
        desk.shared(role)
        with pytest.raises(CalendarReadOnly):
            desk.put(booking())

    def test_writing_to_a_calendar_that_is_gone_says_so(self, desk: Desk) -> None:
        desk.google.calendars.drop(desk.shared("writer"))
        with pytest.raises(CalendarGone):
            desk.put(booking())

    @pytest.mark.parametrize("status", [400, 413, 415, 422, 507])
    def test_an_event_that_is_refused_as_such_is_refused(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status, "invalid", method="POST")
        with pytest.raises(ProviderRefused):
            desk.put(booking())

    def test_a_zone_that_google_does_not_know_is_refused(self, desk: Desk) -> None:
        with pytest.raises(ProviderRefused):
            desk.put(booking(time_zone="Moon/Base"))

    @pytest.mark.parametrize("reason", ["rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"])
    def test_throttling_is_never_taken_for_read_only(self, desk: Desk, reason: str) -> None:
        desk.google.fail_next(403, reason)
        with pytest.raises(ProviderThrottled):
            desk.put(booking())

    def test_lost_consent_is_never_taken_for_read_only(self, desk: Desk) -> None:
        desk.scopes = ALL_SCOPES - {f"{AUTH}calendar.events"}
        with pytest.raises(ScopeMissing):
            desk.put(booking())

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 402, 405])
    def test_all_else_is_unavailable(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())

    @pytest.mark.parametrize("status", [400, 500, 503])
    def test_what_cannot_be_looked_for_is_not_absent(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.find()

    @pytest.mark.parametrize(
        "change",
        [{"etag": None}, {"etag": ""}, {"etag": 'a"\r\nX: y'}, {"id": "another"}, {"kind": "calendar#calendar"}],
    )
    def test_an_answer_about_another_event_or_without_an_etag_is_unavailable(self, desk: Desk, change: Json) -> None:
        desk.put(booking())
        desk.google.fail_next(200, body=json.dumps({**desk.event, **change}).encode())
        with pytest.raises(ProviderUnavailable):
            desk.find()
