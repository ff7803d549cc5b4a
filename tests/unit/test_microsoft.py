"""Microsoft's provider against a Graph with a memory, and every word between them against Microsoft's description."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

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
)
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    NeedsReauth,
    NotFound,
    PreconditionFailed,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline, EventRef, Link, RemoteEvent, Secret
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.microsoft import MicrosoftProvider
from calendar_server.providers.microsoft_events import UID_PROPERTY, busy_event
from calendar_server.providers.oauth import Tokens
from tests.fakes.entra import KNOWN_SCOPES, PERSONAL_TENANT, WORK_TENANT
from tests.fakes.mailbox import CUSTOM_ZONE, Calendar, Event, Mailbox, Occurrence, Series
from tests.fakes.microsoft import GraphUser, MicrosoftFake
from tests.fakes.raw_server import RawServer

UID = "0123456789abcdefghijklmnopqrstuv0123456789abcdefghij"


def local(day: int, hour: int = 0, minute: int = 0) -> datetime:
    """What a clock shows, in December 2026."""
    return datetime(2026, 12, day, hour, minute)


def at(day: int, hour: int = 0, minute: int = 0) -> Instant:
    """The same in UTC, as an instant."""
    return int(local(day, hour, minute).replace(tzinfo=UTC).timestamp()) * SECOND


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

    microsoft: MicrosoftFake
    provider: MicrosoftProvider
    anna: GraphUser
    scopes: frozenset[str] = KNOWN_SCOPES
    live: bool = True
    renewals: int = 0
    access_token: str = ""
    calendar: Calendar = field(init=False)

    def __post_init__(self) -> None:
        self.calendar = self.anna.mailbox.default

    @property
    def mailbox(self) -> Mailbox:
        return self.anna.mailbox

    @property
    def link(self) -> Link:
        self.access_token = self.access_token or self._token()
        connection = Connection(
            id=ConnectionId("cal_1"),
            organization_id=OrganizationId("org_1"),
            owner="",
            provider=ProviderName.MICROSOFT,
            subject=self.anna.user.id,
            account_email="anna@contoso.example",
            calendar_id=CalendarId(self.calendar.id),
            busy_calendar_ids=(CalendarId(self.calendar.id),),
            status=ConnectionStatus.ACTIVE,
            sync_status=SyncStatus.CONNECTED,
            sync_error=None,
            last_sync_at=None,
            connected_at=0,
            grant_version=1,
        )
        return Link(connection, Secret({"access_token": self.access_token}), self._check, self._renew)

    def read(self, window: Interval = WEEK, calendar: Calendar | None = None) -> CalendarRead:
        chosen = CalendarId((calendar or self.calendar).id)
        return self.provider.read_calendar(self.link, chosen, window, soon())

    def busy(self, window: Interval = WEEK) -> list[tuple[Instant, Instant, BlockReason]]:
        read = self.read(window)
        assert read.unreadable == ()
        return [(event.start, event.end, event.reason) for event in read.events]

    def ref(self, event_id: str = "", uid: str = UID) -> EventRef:
        return EventRef(CalendarId(self.calendar.id), uid, EventId(event_id))

    def find(self, event_id: str = "") -> RemoteEvent | None:
        return self.provider.find_event(self.link, self.ref(event_id), soon())

    def put(self, wanted: Booking, known: RemoteEvent | None = None) -> RemoteEvent:
        return self.provider.put_event(self.link, self.ref(), wanted, known, soon())

    def delete(self, known: RemoteEvent) -> None:
        self.provider.delete_event(self.link, self.ref(known.event_id), known, soon())

    def only(self) -> Event:
        (event,) = self.mailbox.events.values()
        return event

    def _token(self) -> str:
        return str(self.microsoft.token_of(self.anna, self.scopes)["access_token"])

    def _check(self) -> None:
        if not self.live:
            raise NotFound("disconnected")

    def _renew(self, refused: Secret) -> Secret:
        self.renewals += 1
        self.access_token = self._token()
        return Secret({"access_token": self.access_token})


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=8_000_000)
    yield out
    out.close()


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    with MicrosoftFake() as fake:
        yield fake
    assert fake.problems == []
    assert [user.mailbox.mails for user in fake.users.values() if user.mailbox.mails] == []


@pytest.fixture
def provider(egress: Egress, microsoft: MicrosoftFake) -> MicrosoftProvider:
    return MicrosoftProvider(egress, graph_url=microsoft.graph_url, calendar_events=500)


@pytest.fixture
def make_desk(microsoft: MicrosoftFake, provider: MicrosoftProvider) -> Callable[..., Desk]:
    def make(zone: str = "UTC", **more: object) -> Desk:
        anna = microsoft.add_user("anna", zone=zone, **more)  # type: ignore[arg-type]
        return Desk(microsoft, provider, anna)

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()


class TestTheAccount:
    def tokens(self, desk: Desk, tenant: str | None) -> Tokens:
        claims = {} if tenant is None else {"tid": tenant}
        return Tokens(desk.link.secret["access_token"], "r", 3600, None, claims)

    def test_a_work_account_is_its_graph_id_with_its_tenant(self, desk: Desk) -> None:
        account = desk.provider.account(self.tokens(desk, WORK_TENANT), soon())
        assert account.subject == f"{WORK_TENANT}:{desk.anna.user.id}"

    def test_the_e_mail_is_the_mail_where_there_is_one(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(mail="anna.alias@contoso.example")
        assert desk.provider.account(self.tokens(desk, WORK_TENANT), soon()).email == "anna.alias@contoso.example"

    def test_a_personal_account_without_mail_goes_by_its_principal_name(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(personal=True)
        assert desk.provider.account(self.tokens(desk, PERSONAL_TENANT), soon()).email == "anna@outlook.com"

    def test_the_default_calendar_is_the_first_choice_for_both(self, desk: Desk) -> None:
        desk.mailbox.add_calendar("Other")
        account = desk.provider.account(self.tokens(desk, WORK_TENANT), soon())
        default = CalendarId(desk.mailbox.default.id)
        assert (account.calendar_id, account.busy_calendar_ids) == (default, (default,))

    def test_an_account_that_cannot_be_asked_is_unavailable(self, desk: Desk) -> None:
        desk.microsoft.fail_next(500)
        with pytest.raises(ProviderUnavailable):
            desk.provider.account(self.tokens(desk, WORK_TENANT), soon())

    def test_an_account_without_an_id_is_unavailable(self, desk: Desk) -> None:
        desk.microsoft.fail_next(200, body=b'{"mail": "anna@contoso.example"}')
        with pytest.raises(ProviderUnavailable):
            desk.provider.account(self.tokens(desk, WORK_TENANT), soon())


class TestTheCalendars:
    def test_each_says_whether_it_is_the_default_one_and_can_be_written(self, desk: Desk) -> None:
        desk.mailbox.add_calendar("Holidays", can_edit=False)
        listed = desk.provider.list_calendars(desk.link, soon())
        assert [(c.name, c.primary, c.writable) for c in listed] == [
            ("Calendar", True, True),
            ("Holidays", False, False),
        ]

    def test_their_zone_is_the_mailboxs_by_its_iana_name(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk("W. Europe Standard Time")
        assert [c.time_zone for c in desk.provider.list_calendars(desk.link, soon())] == ["Europe/Berlin"]

    def test_a_zone_that_nobody_knows_is_no_zone(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(CUSTOM_ZONE)
        assert [c.time_zone for c in desk.provider.list_calendars(desk.link, soon())] == [""]

    def test_more_than_one_page_of_them_is_read(self, desk: Desk) -> None:
        desk.microsoft.page_most = 2
        for number in range(4):
            desk.mailbox.add_calendar(f"Calendar {number}")
        assert len(desk.provider.list_calendars(desk.link, soon())) == 5

    def test_a_color_is_told_in_small_letters_or_not_at_all(self, desk: Desk) -> None:
        desk.mailbox.add_calendar("Red", hex_color="#FF1A2B")
        assert [c.color for c in desk.provider.list_calendars(desk.link, soon())] == ["", "#ff1a2b"]


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


class TestTokens:
    def test_a_refused_token_is_renewed_once_and_the_request_repeated(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10))
        _ = desk.link
        desk.microsoft.entra.end_access_tokens()
        assert len(desk.busy()) == 1
        assert desk.renewals == 1

    def test_a_write_with_a_refused_token_is_repeated_and_made_once(self, desk: Desk) -> None:
        _ = desk.link
        desk.microsoft.entra.end_access_tokens()
        desk.put(booking())
        assert len(desk.mailbox.events) == 1

    def test_a_renewed_token_that_is_refused_is_no_reason_to_trouble_the_owner(self, desk: Desk) -> None:
        desk.microsoft.fail_next(401, times=2)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_a_renewal_that_needs_the_owner_says_so(self, desk: Desk) -> None:
        def refused(secret: Secret) -> Secret:
            raise NeedsReauth

        desk.microsoft.fail_next(401)
        link = dataclasses.replace(desk.link, renew=refused)
        with pytest.raises(NeedsReauth):
            desk.provider.read_calendar(link, CalendarId(desk.calendar.id), WEEK, soon())

    def test_nothing_is_asked_for_a_disconnected_account(self, desk: Desk) -> None:
        desk.live = False
        with pytest.raises(NotFound):
            desk.read()
        assert desk.microsoft.exchanges == []

    def test_nothing_is_repeated_for_an_account_that_was_disconnected_meanwhile(self, desk: Desk) -> None:
        def disconnect(method: str, path: str) -> None:
            desk.live = False

        desk.microsoft.on_request = disconnect
        desk.microsoft.fail_next(401)
        with pytest.raises(NotFound):
            desk.read()
        assert len(desk.microsoft.exchanges) == 1

    @pytest.mark.parametrize("scope", ["Calendars.ReadWrite", "MailboxSettings.Read"])
    def test_a_scope_that_was_taken_back_is_not_a_free_calendar(self, desk: Desk, scope: str) -> None:
        desk.mailbox.add(local(2), local(3), all_day=True)
        desk.scopes = KNOWN_SCOPES - {scope, "Calendars.Read"}
        with pytest.raises(CalendarGone):
            desk.read()

    def test_reading_alone_does_not_allow_to_write(self, desk: Desk) -> None:
        desk.scopes = KNOWN_SCOPES - {"Calendars.ReadWrite"}
        with pytest.raises(CalendarReadOnly):
            desk.put(booking())


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


class TestWriting:
    def test_an_event_shows_what_the_booking_says(self, desk: Desk) -> None:
        desk.put(booking())
        event = desk.only()
        assert (event.members["subject"], event.members["location"]) == ("Meeting", {"displayName": "Room 1"})
        assert (event.when, event.zone) == (Occurrence(local(2, 10), local(2, 11)), "UTC")

    def test_guests_are_text_and_nobody_is_sent_mail(self, desk: Desk) -> None:
        desk.put(booking(attendees=(Attendee("guest@example.org", "A Guest"),)))
        event = desk.only()
        assert event.members["attendees"] == []
        assert "guest@example.org" in str(event.members["body"])
        assert desk.mailbox.mails == []

    def test_a_booking_without_a_title_is_shown_as_busy(self, desk: Desk) -> None:
        desk.put(booking(title=""))
        assert desk.only().members["subject"] == "Busy"

    def test_what_was_written_is_found_by_its_uid(self, desk: Desk) -> None:
        written = desk.put(booking(3))
        found = desk.find()
        assert found is not None
        assert (found.event_id, found.revision, found.etag) == (written.event_id, 3, written.etag)

    def test_what_was_written_is_found_by_its_id(self, desk: Desk) -> None:
        written = desk.put(booking())
        assert desk.find(written.event_id) == desk.find()

    def test_the_web_link_is_told(self, desk: Desk) -> None:
        assert desk.put(booking()).web_link.startswith("https://outlook.office365.com/")

    def test_nothing_is_found_before_it_is_written(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 10), local(2, 11))
        assert desk.find() is None

    def test_an_event_with_another_uid_is_not_ours(self, desk: Desk) -> None:
        event = desk.mailbox.add(local(2, 10), local(2, 11))
        event.properties[UID_PROPERTY] = UID[::-1]
        assert desk.find() is None

    def test_a_change_is_made_in_place(self, desk: Desk) -> None:
        first = desk.put(booking())
        second = desk.put(booking(2, start=at(3, 10), end=at(3, 11)), first)
        assert second.event_id == first.event_id
        assert desk.only().when == Occurrence(local(3, 10), local(3, 11))

    def test_a_change_leaves_guests_alone_that_the_owner_invited(self, desk: Desk) -> None:
        first = desk.put(booking())
        guests = [{"emailAddress": {"address": "friend@example.org"}, "type": "required"}]
        desk.only().members["attendees"] = guests
        desk.put(booking(2), first)
        assert desk.only().members.pop("attendees") == guests
        desk.mailbox.mails.clear()

    def test_a_change_of_another_version_is_refused(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.change(known.event_id, subject="Mine")
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), known)
        assert desk.only().members["subject"] == "Mine"

    def test_a_change_of_what_was_deleted_means_to_look_again(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.delete(known.event_id)
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), known)

    def test_an_equal_repetition_makes_no_second_event(self, desk: Desk) -> None:
        assert desk.put(booking()).event_id == desk.put(booking()).event_id
        assert len(desk.mailbox.events) == 1

    def test_an_event_whose_answer_was_lost_is_found_again(self, desk: Desk) -> None:
        desk.microsoft.cut_next("POST")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())
        desk.mailbox.forget_transactions()
        found = desk.find()
        assert found is not None
        desk.put(booking(), found)
        assert len(desk.mailbox.events) == 1

    def test_a_uid_that_is_taken_means_to_look_again(self, desk: Desk) -> None:
        desk.put(booking())
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))

    def test_an_answer_with_the_times_of_an_earlier_revision_means_to_look_again(self, desk: Desk) -> None:
        earlier = (
            b'{"id": "e", "@odata.etag": "W/1", "start": {"dateTime": "2026-12-01T10:00:00.0000000", "timeZone": "UTC"},'
            b' "end": {"dateTime": "2026-12-01T11:00:00.0000000", "timeZone": "UTC"}}'
        )
        desk.microsoft.fail_next(201, body=earlier, method="POST")
        with pytest.raises(PreconditionFailed):
            desk.put(booking())

    def test_an_event_that_its_owner_moved_to_another_calendar_is_found_by_its_id(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.mailbox.move(written.event_id, desk.mailbox.add_calendar("Other"))
        found = desk.find(written.event_id)
        assert found is not None
        assert found.event_id == written.event_id

    def test_of_an_event_and_its_copy_the_older_one_is_ours(self, desk: Desk) -> None:
        written = desk.put(booking())
        copied = desk.mailbox.copy(written.event_id)
        copied.id = "A" + copied.id
        found = desk.find()
        assert found is not None
        assert found.event_id == written.event_id

    def test_an_id_that_is_not_known_any_more_leaves_the_uid_to_look_by(self, desk: Desk) -> None:
        written = desk.put(booking())
        found = desk.find("AAkALgAAanother")
        assert found is not None
        assert found.event_id == written.event_id

    def test_an_event_is_taken_out(self, desk: Desk) -> None:
        desk.delete(desk.put(booking()))
        assert desk.mailbox.events == {}

    def test_taking_out_what_is_gone_succeeds(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.delete(known.event_id)
        desk.delete(known)
        assert desk.mailbox.events == {}

    def test_another_version_is_not_taken_out(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.change(known.event_id, subject="Mine")
        with pytest.raises(PreconditionFailed):
            desk.delete(known)
        assert len(desk.mailbox.events) == 1

    def test_taking_out_whose_answer_was_lost_can_be_repeated(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.microsoft.cut_next("DELETE")
        with pytest.raises(ProviderUnavailable):
            desk.delete(known)
        desk.delete(known)
        assert desk.mailbox.events == {}

    def test_a_calendar_that_can_only_be_read_says_so(self, desk: Desk) -> None:
        desk.calendar = desk.mailbox.add_calendar("Holidays", can_edit=False)
        with pytest.raises(CalendarReadOnly):
            desk.put(booking())

    def test_a_calendar_that_was_deleted_is_gone(self, desk: Desk) -> None:
        del desk.mailbox.calendars[desk.calendar.id]
        with pytest.raises(CalendarGone):
            desk.put(booking())
        with pytest.raises(CalendarGone):
            desk.find()

    @pytest.mark.parametrize("status", [400, 413, 415, 422, 507])
    def test_an_event_that_is_refused_as_it_is_says_so(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status, method="POST")
        with pytest.raises(ProviderRefused):
            desk.put(booking())

    @pytest.mark.parametrize("status", [400, 500, 502, 504])
    def test_looking_that_fails_is_not_the_events_fault(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.find()

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_a_write_that_fails_may_be_tried_again(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status, method="POST")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())
        desk.put(booking())
        assert len(desk.mailbox.events) == 1

    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"id": 7}'])
    def test_a_write_whose_answer_cannot_be_read_is_unavailable(self, desk: Desk, body: bytes) -> None:
        desk.microsoft.fail_next(201, method="POST", body=body)
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())

    def test_two_writers_of_one_booking_make_one_event(self, desk: Desk) -> None:
        _ = desk.link
        together = threading.Barrier(2)

        def write() -> RemoteEvent:
            together.wait(5)
            return desk.put(booking())

        with ThreadPoolExecutor(2) as pool:
            written = [future.result() for future in [pool.submit(write) for _ in range(2)]]
        assert written[0].event_id == written[1].event_id == desk.only().id
