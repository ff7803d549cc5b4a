"""Between protos and values: every bound, every wrong field by its path, every field of the answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    DAY,
    SECOND,
    Attendee,
    BlockReason,
    Booking,
    BookingId,
    BookingStatus,
    BusyState,
    BusyView,
    Calendar,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    Instant,
    Interval,
    OrganizationId,
    Preset,
    ProviderName,
    SyncStatus,
)
from calendar_server.errors import ValidationError
from calendar_server.rpc import convert
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    BookingEvent,
    BookingReport,
    BusyAnswer,
    CaldavAccount,
    CalendarBusy,
    ConnectCommand,
    ConnectionPage,
    ExplainedEvent,
    ListedCalendar,
    ListQuery,
    OAuthAccount,
    Problem,
    SyncCommand,
    Target,
    UpdateCommand,
)
from calendars.v1 import availability_pb2, booking_pb2, connection_pb2, errors_pb2
from calendars.v1 import calendar_service_pb2 as pb

NOW_AT = datetime(2026, 11, 25, 12, tzinfo=UTC)


def instant(moment: datetime) -> Instant:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


NOW = instant(NOW_AT)


def wrong(read: Callable[[], object]) -> set[str]:
    """The paths of the fields that are wrong; empty when none is."""
    try:
        read()
    except ValidationError as error:
        fields = [violation.field for violation in error.violations]
        return set(fields)
    return set()


CONTROL = [chr(n) for n in (0, 1, 9, 10, 13, 27, 31, 127, 128, 133, 159)]


# Connect


def caldav(**fields: object) -> pb.ConnectRequest:
    account = {
        "preset": "CALDAV_PRESET_CUSTOM",
        "username": "anna",
        "password": "pw",
        "server_url": "https://dav.example",
    }
    return pb.ConnectRequest(caldav={**account, **fields})


def wrong_connect(request: pb.ConnectRequest) -> set[str]:
    return wrong(lambda: convert.connect_command(request))


def test_a_caldav_account_is_read() -> None:
    request = pb.ConnectRequest(
        caldav={
            "preset": "CALDAV_PRESET_NEXTCLOUD",
            "username": "ä",
            "password": "p",
            "server_url": "https://c.example/x",
        },
        owner="o",
        connection_id="cal_1",
        client_state="s",
    )
    account = CaldavAccount(Preset.NEXTCLOUD, "ä", "p", "https://c.example/x")
    assert convert.connect_command(request) == ConnectCommand(account, "o", ConnectionId("cal_1"), "s")


def test_a_google_account_is_read() -> None:
    request = pb.ConnectRequest(google={"redirect_uri": "https://app.example/done?x=1"})
    account = OAuthAccount(ProviderName.GOOGLE, "https://app.example/done?x=1")
    assert convert.connect_command(request) == ConnectCommand(account)


@pytest.mark.parametrize(("told", "read"), [("", "common"), ("contoso.com", "contoso.com")])
def test_a_microsoft_account_is_read(told: str, read: str) -> None:
    request = pb.ConnectRequest(microsoft={"redirect_uri": "https://app.example/done", "tenant": told})
    account = OAuthAccount(ProviderName.MICROSOFT, "https://app.example/done", read)
    assert convert.connect_command(request) == ConnectCommand(account)


def test_no_account_is_named() -> None:
    assert wrong_connect(pb.ConnectRequest(owner="o")) == {"account"}


def test_an_empty_caldav_account_is_named_field_by_field() -> None:
    assert wrong_connect(pb.ConnectRequest(caldav={})) == {"caldav.preset", "caldav.username", "caldav.password"}


def test_everything_wrong_with_a_connect_is_named_at_once() -> None:
    request = pb.ConnectRequest(
        caldav={"preset": 77, "username": "\x00", "password": "p" * 1025, "server_url": "ftp://x"},
        owner="o" * 257,
        connection_id="\n",
        client_state="s" * 513,
    )
    assert wrong_connect(request) == {
        "caldav.preset",
        "caldav.username",
        "caldav.password",
        "caldav.server_url",
        "owner",
        "connection_id",
        "client_state",
    }


@pytest.mark.parametrize("preset", ["NEXTCLOUD", "CUSTOM"])
def test_a_preset_without_an_address_of_its_own_needs_one(preset: str) -> None:
    assert wrong_connect(caldav(preset=f"CALDAV_PRESET_{preset}", server_url="")) == {"caldav.server_url"}


@pytest.mark.parametrize("preset", ["APPLE", "FASTMAIL"])
def test_a_preset_with_an_address_of_its_own_takes_no_other(preset: str) -> None:
    assert wrong_connect(caldav(preset=f"CALDAV_PRESET_{preset}")) == {"caldav.server_url"}


@pytest.mark.parametrize("preset", ["APPLE", "FASTMAIL"])
def test_a_preset_with_an_address_of_its_own_needs_none(preset: str) -> None:
    assert wrong_connect(caldav(preset=f"CALDAV_PRESET_{preset}", server_url="")) == set()


@pytest.mark.parametrize(
    "url",
    [
        "https://dav.example.com",
        "https://dav.example.com:8443/remote.php/dav/",
        "http://127.0.0.1:5232/",
        "http://[::1]:5232/anna/work/",
        "HTTPS://DAV.EXAMPLE.COM/",
        "https://dav.example.com/a%20b/",
    ],
)
def test_a_server_url_is_taken(url: str) -> None:
    assert wrong_connect(caldav(server_url=url)) == set()


@pytest.mark.parametrize(
    "url",
    [
        "dav.example.com",
        "//dav.example.com/",
        "https://",
        "https:///dav",
        "ftp://dav.example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://anna:pw@dav.example.com/",
        "https://anna@dav.example.com/",
        "https://@dav.example.com/",
        "https://dav.example.com/?a=b",
        "https://dav.example.com/?",
        "https://dav.example.com/#work",
        "https://dav.example.com/#",
        "https://dav.example.com:99999/",
        "https://dav.example.com:port/",
        "https://dav.example.com\\@evil.example/",
        "https://dav.exa\nmple.com/",
        "https://dav.example.com/\x00",
        " https://dav.example.com/",
        "https://dav.example.com/" + "x" * 2048,
    ],
)
def test_a_server_url_that_could_mislead_is_refused(url: str) -> None:
    assert wrong_connect(caldav(server_url=url)) == {"caldav.server_url"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://anna:pw@dav.example.com/", "user name or password"),
        ("https://dav.example.com/?a=b", "query"),
        ("https://dav.example.com/#work", "fragment"),
        ("https://dav.example.com/\x00", "control characters"),
    ],
)
def test_a_wrong_server_url_is_told_what_is_wrong_with_it(url: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        convert.connect_command(caldav(server_url=url))


def test_a_forbidden_scheme_has_the_text_of_a_forbidden_address() -> None:
    with pytest.raises(ValidationError) as raised:
        convert.connect_command(caldav(server_url="gopher://dav.example.com/"))
    assert [violation.description for violation in raised.value.violations] == [
        "The server's address is not one that this service may reach."
    ]


@pytest.mark.parametrize(
    "uri", ["", "app.example/done", "javascript:alert(1)", "https://app.example/#x", "https:///x", "https://a b/"]
)
def test_a_redirect_uri_is_an_absolute_address_without_fragment(uri: str) -> None:
    assert wrong_connect(pb.ConnectRequest(google={"redirect_uri": uri})) == {"google.redirect_uri"}


@pytest.mark.parametrize("tenant", ["../common", "a/b", "a b", "-x", "ü"])
def test_a_tenant_cannot_leave_its_place_in_the_path(tenant: str) -> None:
    request = pb.ConnectRequest(microsoft={"redirect_uri": "https://app.example/", "tenant": tenant})
    assert wrong_connect(request) == {"microsoft.tenant"}


# Text


@pytest.mark.parametrize("character", CONTROL)
def test_no_control_character_is_taken_in_a_title(character: str) -> None:
    assert wrong_sync(sync(title=f"a{character}b")) == {"booking.title"}


@pytest.mark.parametrize("character", [c for c in CONTROL if c not in "\t\n"])
def test_no_control_character_but_tab_and_line_feed_is_taken_in_a_description(character: str) -> None:
    assert wrong_sync(sync(description=f"a{character}b")) == {"booking.description"}


def test_tab_and_line_feed_are_taken_in_a_description() -> None:
    assert convert.sync_command(sync(description="a\tb\nc")).booking.description == "a\tb\nc"


@pytest.mark.parametrize(
    ("field", "most"),
    [("title", 1024), ("description", 8192), ("location", 1024), ("id", 256)],
)
def test_a_size_is_counted_in_bytes_of_utf8(field: str, most: int) -> None:
    assert wrong_sync(sync(**{field: "ü" * (most // 2)})) == set()
    assert wrong_sync(sync(**{field: "ü" * (most // 2) + "x"})) == {f"booking.{field}"}


@pytest.mark.parametrize("text", ["\U0001f600 família 日本", "\u202eabc", "a\u2028b"])
def test_all_other_characters_are_taken_as_they_are(text: str) -> None:
    assert convert.sync_command(sync(title=text)).booking.title == text


# List


def test_an_empty_list_request_asks_for_the_first_page_of_all() -> None:
    assert convert.list_query(pb.ListRequest()) == ListQuery(page_size=50)


@pytest.mark.parametrize(("told", "read"), [(0, 50), (1, 1), (200, 200), (201, 200), (2**31 - 1, 200)])
def test_a_page_size_that_is_too_large_is_lowered(told: int, read: int) -> None:
    assert convert.list_query(pb.ListRequest(page_size=told)).page_size == read


def test_a_negative_page_size_is_refused() -> None:
    assert wrong(lambda: convert.list_query(pb.ListRequest(page_size=-1))) == {"page_size"}


def test_an_owner_that_is_present_and_empty_is_not_any_owner() -> None:
    assert (convert.list_query(pb.ListRequest(owner="")).owner, convert.list_query(pb.ListRequest()).owner) == (
        "",
        None,
    )


def test_filters_are_read() -> None:
    request = pb.ListRequest(
        ids=["b", "a", "b"],
        owner="o",
        provider="PROVIDER_CALDAV",
        status="CONNECTION_STATUS_NEEDS_REAUTH",
        page_token="t",
    )
    assert convert.list_query(request) == ListQuery(
        50, "t", (ConnectionId("b"), ConnectionId("a")), "o", ProviderName.CALDAV, ConnectionStatus.NEEDS_REAUTH
    )


def test_everything_wrong_with_a_list_is_named_at_once() -> None:
    request = pb.ListRequest(
        page_size=-5, page_token="\x00", ids=["a", "", "c" * 257], owner="\x07", provider=99, status=-1
    )
    assert wrong(lambda: convert.list_query(request)) == {
        "page_size",
        "page_token",
        "ids[1]",
        "ids[2]",
        "owner",
        "provider",
        "status",
    }


def test_a_list_that_is_too_long_is_named_itself() -> None:
    assert wrong(lambda: convert.list_query(pb.ListRequest(ids=[""] * 101))) == {"ids"}


# Ids


@pytest.mark.parametrize(
    ("read", "field"),
    [
        (lambda text: convert.disconnect_id(pb.DisconnectRequest(id=text)), "id"),
        (lambda text: convert.list_calendars_id(pb.ListCalendarsRequest(connection_id=text)), "connection_id"),
        (lambda text: convert.get_booking_id(pb.GetBookingRequest(id=text)), "id"),
        (lambda text: convert.update_command(pb.UpdateConnectionRequest(id=text)), "id"),
    ],
)
@pytest.mark.parametrize("text", ["", "x" * 257, "a\x00", "a\n"])
def test_an_id_is_required_and_bounded(read: Callable[[str], object], field: str, text: str) -> None:
    assert wrong(lambda: read(text)) == {field}


def test_an_id_of_no_known_form_is_left_to_be_unknown() -> None:
    assert convert.disconnect_id(pb.DisconnectRequest(id="../../日本")) == "../../日本"


# UpdateConnection


def update(**fields: object) -> UpdateCommand:
    return convert.update_command(pb.UpdateConnectionRequest(**{"id": "cal_1", **fields}))  # type: ignore[arg-type]


def test_without_a_mask_the_populated_fields_are_meant() -> None:
    assert update(calendar_id="c") == UpdateCommand(ConnectionId("cal_1"), CalendarId("c"), None)


def test_with_a_mask_only_its_fields_are_meant() -> None:
    command = update(calendar_id="c", busy_calendar_ids=["d"], update_mask=FieldMask(paths=["busy_calendar_ids"]))
    assert command == UpdateCommand(ConnectionId("cal_1"), None, (CalendarId("d"),))


def test_an_empty_choice_under_the_mask_means_that_none_blocks() -> None:
    assert update(update_mask=FieldMask(paths=["busy_calendar_ids"])).busy_calendar_ids == ()


def test_an_empty_mask_is_no_mask() -> None:
    assert update(busy_calendar_ids=["d", "d"], update_mask=FieldMask()).busy_calendar_ids == ("d",)


def test_nothing_to_change_is_no_error() -> None:
    assert update() == UpdateCommand(ConnectionId("cal_1"))


def test_a_connection_cannot_be_left_without_a_target() -> None:
    assert wrong(lambda: update(update_mask=FieldMask(paths=["calendar_id"]))) == {"calendar_id"}


@pytest.mark.parametrize("path", ["*", "owner", "calendarId", "id", ""])
def test_a_mask_names_only_what_can_change(path: str) -> None:
    assert wrong(lambda: update(update_mask=FieldMask(paths=["busy_calendar_ids", path]))) == {"update_mask.paths[1]"}


def test_the_calendars_that_block_are_bounded() -> None:
    assert wrong(lambda: update(busy_calendar_ids=[str(n) for n in range(101)])) == {"busy_calendar_ids"}


# GetBusy


def busy(**fields: object) -> pb.GetBusyRequest:
    window = {"start_time": NOW_AT, "end_time": NOW_AT + timedelta(days=7)}
    return pb.GetBusyRequest(**{**window, **fields})  # type: ignore[arg-type]


def wrong_busy(request: pb.GetBusyRequest) -> set[str]:
    return wrong(lambda: convert.busy_query(request, NOW))


def test_a_window_is_read_in_microseconds() -> None:
    assert convert.busy_query(busy(), NOW).window == Interval(NOW, NOW + 7 * DAY)


def test_a_window_between_two_microseconds_is_widened() -> None:
    second = NOW // SECOND
    request = busy(start_time=Timestamp(seconds=second, nanos=1999), end_time=Timestamp(seconds=second, nanos=2001))
    assert convert.busy_query(request, NOW).window == Interval(NOW + 1, NOW + 3)


def test_a_query_has_its_defaults() -> None:
    query = convert.busy_query(busy(), NOW)
    assert (query.target, query.max_staleness_s, query.view) == (Target(), None, BusyView.MERGED)
    assert (query.exclude_booking_ids, query.ignore_tentative, query.allow_partial) == (frozenset(), False, False)


def test_a_query_is_read() -> None:
    query = convert.busy_query(
        busy(
            connection_ids=["b", "a", "b"],
            max_staleness=Duration(seconds=1, nanos=500_000_000),
            exclude_booking_ids=["x", "x"],
            ignore_tentative=True,
            allow_partial=True,
            view="BUSY_VIEW_EXPLAINED",
        ),
        NOW,
    )
    assert query.target == Target((ConnectionId("b"), ConnectionId("a")))
    assert (query.max_staleness_s, query.exclude_booking_ids) == (1.5, {"x"})
    assert (query.ignore_tentative, query.allow_partial, query.view) == (True, True, BusyView.EXPLAINED)


def test_an_empty_query_is_named_field_by_field() -> None:
    assert wrong_busy(pb.GetBusyRequest()) == {"start_time", "end_time"}


def test_everything_wrong_with_a_query_is_named_at_once() -> None:
    request = pb.GetBusyRequest(
        connection_ids=["", "x"],
        owner="\x00",
        start_time=Timestamp(seconds=1, nanos=-1),
        max_staleness=Duration(seconds=-1),
        exclude_booking_ids=["y", ""],
        view=9,
    )
    assert wrong_busy(request) == {
        "connection_ids[0]",
        "owner",
        "start_time",
        "end_time",
        "max_staleness",
        "exclude_booking_ids[1]",
        "view",
    }


def test_ids_and_owner_do_not_go_together() -> None:
    assert wrong_busy(busy(connection_ids=["a"], owner="o")) == {"owner"}


@pytest.mark.parametrize("days", [0, -1])
def test_a_window_ends_after_its_start(days: int) -> None:
    assert wrong_busy(busy(end_time=NOW_AT + timedelta(days=days))) == {"end_time"}


def test_a_window_has_at_most_366_days() -> None:
    end = NOW_AT + timedelta(days=366)
    assert wrong_busy(busy(end_time=end)) == set()
    assert wrong_busy(busy(end_time=Timestamp(seconds=int(end.timestamp()), nanos=1))) == {"end_time"}


def test_a_window_begins_at_most_two_years_back() -> None:
    start = NOW_AT.replace(year=2024)
    assert wrong_busy(busy(start_time=start, end_time=start + timedelta(days=1))) == set()
    start -= timedelta(minutes=2)
    assert wrong_busy(busy(start_time=start, end_time=start + timedelta(days=1))) == {"start_time"}


def test_a_window_ends_at_most_three_years_ahead() -> None:
    end = NOW_AT.replace(year=2029)
    assert wrong_busy(busy(start_time=end - timedelta(days=1), end_time=end)) == set()
    end += timedelta(minutes=2)
    assert wrong_busy(busy(start_time=end - timedelta(days=1), end_time=end)) == {"end_time"}


def test_on_29_february_the_bounds_are_still_there() -> None:
    leap = datetime(2028, 2, 29, tzinfo=UTC)
    request = pb.GetBusyRequest(start_time=datetime(2026, 3, 1, tzinfo=UTC), end_time=datetime(2026, 3, 2, tzinfo=UTC))
    assert wrong(lambda: convert.busy_query(request, instant(leap))) == set()


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(nanos=1_000_000_000),
        Timestamp(nanos=-1),
    ],
)
def test_a_timestamp_that_is_none_is_refused(moment: Timestamp) -> None:
    assert "start_time" in wrong_busy(busy(start_time=moment))


@pytest.mark.parametrize(
    "duration",
    [
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=-1, nanos=1),
        Duration(nanos=1_000_000_000),
        Duration(seconds=315_576_000_001),
        Duration(seconds=2**63 - 1),
    ],
)
def test_a_duration_that_is_none_or_negative_is_refused(duration: Duration) -> None:
    assert wrong_busy(busy(max_staleness=duration)) == {"max_staleness"}


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(Duration(), 0.0), (Duration(seconds=86_400), 86_400.0), (Duration(seconds=86_401), 86_400.0)],
)
def test_a_staleness_above_a_day_is_lowered(duration: Duration, seconds: float) -> None:
    assert convert.busy_query(busy(max_staleness=duration), NOW).max_staleness_s == seconds


@pytest.mark.parametrize("field", ["connection_ids", "exclude_booking_ids"])
def test_lists_of_ids_are_bounded(field: str) -> None:
    ids = [str(n) for n in range(101)]
    assert wrong_busy(busy(**{field: ids[:100]})) == set()
    assert wrong_busy(busy(**{field: ids})) == {field}


@given(
    start=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    end=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    stale=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    view=st.integers(-(2**31), 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_numbers_are_read_or_named(
    start: tuple[int, int], end: tuple[int, int], stale: tuple[int, int], view: int
) -> None:
    request = pb.GetBusyRequest(
        start_time=Timestamp(seconds=start[0], nanos=start[1]),
        end_time=Timestamp(seconds=end[0], nanos=end[1]),
        max_staleness=Duration(seconds=stale[0], nanos=stale[1]),
        view=view,  # type: ignore[arg-type]
    )
    assert wrong_busy(request) <= {"start_time", "end_time", "max_staleness", "view"}


# SyncBooking

START = datetime(2026, 12, 1, 9, tzinfo=UTC)


def sync(**fields: object) -> pb.SyncBookingRequest:
    booking = {
        "id": "b1",
        "revision": 1,
        "status": "BOOKING_STATUS_CONFIRMED",
        "start_time": START,
        "end_time": START + timedelta(hours=1),
    }
    return pb.SyncBookingRequest(booking={**booking, **fields})


def wrong_sync(request: pb.SyncBookingRequest) -> set[str]:
    return wrong(lambda: convert.sync_command(request))


def test_a_booking_is_read() -> None:
    request = sync(
        title="t",
        description="d",
        location="l",
        time_zone="Europe/Vienna",
        attendees=[{"email": "a@b.c", "name": "A"}],
        url="https://x.example/?a#b",
    )
    request.connection_ids.extend(["b", "a", "b"])
    request.require_free = True
    booking = Booking(
        BookingId("b1"),
        1,
        BookingStatus.CONFIRMED,
        "t",
        "d",
        "l",
        instant(START),
        instant(START) + 3600 * SECOND,
        "Europe/Vienna",
        (Attendee("a@b.c", "A"),),
        "https://x.example/?a#b",
    )
    assert convert.sync_command(request) == SyncCommand(
        booking, Target((ConnectionId("b"), ConnectionId("a"))), True, 5
    )


def test_no_booking_is_named() -> None:
    assert wrong_sync(pb.SyncBookingRequest()) == {"booking"}


def test_an_empty_booking_is_named_field_by_field() -> None:
    request = pb.SyncBookingRequest(booking={})
    assert wrong_sync(request) == {"booking.id", "booking.revision", "booking.status"}


def test_a_confirmed_booking_needs_its_times() -> None:
    request = pb.SyncBookingRequest(booking={"id": "b", "revision": 1, "status": "BOOKING_STATUS_CONFIRMED"})
    assert wrong_sync(request) == {"booking.start_time", "booking.end_time"}


def test_a_cancelled_booking_needs_id_revision_and_status() -> None:
    request = pb.SyncBookingRequest(booking={"id": "b", "revision": 2, "status": "BOOKING_STATUS_CANCELLED"})
    assert convert.sync_command(request).booking == Booking(BookingId("b"), 2, BookingStatus.CANCELLED)


def test_a_cancelled_booking_is_checked_in_what_it_tells() -> None:
    request = sync(status="BOOKING_STATUS_CANCELLED", title="\x00", end_time=START, time_zone="Nowhere/Land")
    assert wrong_sync(request) == {"booking.title", "booking.end_time", "booking.time_zone"}


def test_a_cancelled_booking_tells_both_times_or_none() -> None:
    request = sync(status="BOOKING_STATUS_CANCELLED")
    request.booking.ClearField("end_time")
    assert wrong_sync(request) == {"booking.end_time"}


def test_a_cancellation_takes_any_set_as_it_is_ignored() -> None:
    request = sync(status="BOOKING_STATUS_CANCELLED")
    request.connection_ids.append("a")
    request.owner = "o"
    assert wrong_sync(request) == set()


def test_a_confirmation_takes_ids_or_an_owner() -> None:
    request = sync()
    request.connection_ids.append("a")
    request.owner = "o"
    assert wrong_sync(request) == {"owner"}


@pytest.mark.parametrize("revision", [0, -1, -(2**63)])
def test_revisions_begin_at_one(revision: int) -> None:
    assert wrong_sync(sync(revision=revision)) == {"booking.revision"}


def test_the_largest_revision_is_taken() -> None:
    assert convert.sync_command(sync(revision=2**63 - 1)).booking.revision == 2**63 - 1


def test_an_unknown_status_is_refused() -> None:
    assert wrong_sync(sync(status=7)) == {"booking.status"}


def test_a_booking_ends_after_its_start() -> None:
    assert wrong_sync(sync(end_time=START)) == {"booking.end_time"}


def test_a_booking_has_whole_seconds() -> None:
    request = sync(
        start_time=Timestamp(seconds=1_800_000_000, nanos=1), end_time=Timestamp(seconds=1_800_000_060, nanos=1000)
    )
    assert wrong_sync(request) == {"booking.start_time", "booking.end_time"}


@pytest.mark.parametrize("year", [1, 1970, 2201, 9999])
def test_a_booking_in_another_age_is_refused(year: int) -> None:
    moment = datetime(year, 6, 1, tzinfo=UTC)
    request = sync(start_time=moment, end_time=moment + timedelta(hours=1))
    assert wrong_sync(request) == {"booking.start_time", "booking.end_time"}


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Vienna", "America/Argentina/Buenos_Aires", "Asia/Kolkata", "Etc/GMT+5"]
)
def test_a_zone_of_the_database_is_taken(zone: str) -> None:
    assert wrong_sync(sync(time_zone=zone)) == set()


@pytest.mark.parametrize(
    "zone",
    [
        "Vienna",
        "W. Europe Standard Time",
        "+01:00",
        "../etc/passwd",
        "/etc/localtime",
        "localtime",
        "Europe",
        "europe/x",
    ],
)
def test_a_zone_that_is_not_in_the_database_is_refused(zone: str) -> None:
    assert wrong_sync(sync(time_zone=zone)) == {"booking.time_zone"}


@pytest.mark.parametrize("email", ["a@b", "anna+x@münchen.example", '"a@b"@c.d', "o'neil@example.com"])
def test_an_address_is_taken_leniently(email: str) -> None:
    assert wrong_sync(sync(attendees=[{"email": email}])) == set()


@pytest.mark.parametrize("email", ["", "anna", "@b", "a@", "a b@c.d", "a@b c", "a@b\r\nBCC: x@y", "a@" + "b" * 319])
def test_what_is_no_address_is_refused(email: str) -> None:
    assert wrong_sync(sync(attendees=[{"email": "x@y"}, {"email": email}])) == {"booking.attendees[1].email"}


def test_an_attendee_is_named_by_position_and_field() -> None:
    attendees = [{"email": "x@y"}] * 3 + [{"email": "no", "name": "n" * 257}]
    assert wrong_sync(sync(attendees=attendees)) == {"booking.attendees[3].email", "booking.attendees[3].name"}


def test_attendees_are_bounded() -> None:
    assert wrong_sync(sync(attendees=[{"email": f"a{n}@b.c"} for n in range(200)])) == set()
    assert wrong_sync(sync(attendees=[{"email": ""}] * 201)) == {"booking.attendees"}


def test_equal_attendees_are_folded() -> None:
    attendees = [{"email": "a@b.c"}, {"email": "d@e.f"}, {"email": "a@b.c"}]
    assert convert.sync_command(sync(attendees=attendees)).booking.attendees == (Attendee("a@b.c"), Attendee("d@e.f"))


@pytest.mark.parametrize("url", ["javascript:alert(1)", "x.example", "ftp://x.example", "https://", "h" * 2049])
def test_a_page_is_an_absolute_http_address(url: str) -> None:
    assert wrong_sync(sync(url=url)) == {"booking.url"}


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [(None, 5.0), (Duration(), 0.0), (Duration(nanos=500_000_000), 0.5), (Duration(seconds=31), 30.0)],
)
def test_a_wait_is_lowered_to_thirty_seconds(wait: Duration | None, seconds: float) -> None:
    request = sync()
    if wait is not None:
        request.wait.CopyFrom(wait)
    assert convert.sync_command(request).wait_s == seconds


def test_a_negative_wait_is_refused() -> None:
    request = sync()
    request.wait.CopyFrom(Duration(nanos=-1))
    assert wrong_sync(request) == {"wait"}


def test_a_span_that_must_be_free_is_no_longer_than_a_window() -> None:
    request = sync(end_time=START + timedelta(days=367))
    assert wrong_sync(request) == set()
    request.require_free = True
    assert wrong_sync(request) == {"booking.end_time"}


# Responses

CONNECTION = Connection(
    id=ConnectionId("cal_1"),
    organization_id=OrganizationId("org_1"),
    owner="o",
    provider=ProviderName.CALDAV,
    subject="secret subject",
    account_email="a@b.c",
    calendar_id=CalendarId("/work/"),
    busy_calendar_ids=(CalendarId("/work/"), CalendarId("/home/")),
    status=ConnectionStatus.NEEDS_REAUTH,
    sync_status=SyncStatus.EXPIRED,
    sync_error="The password was refused.",
    last_sync_at=1_700_000_000_123_456,
    connected_at=1_600_000_000_000_000,
    grant_version=3,
    settings={"home": "https://secret.example"},
)


def test_a_connection_is_told_with_every_field() -> None:
    assert convert.connection_message(CONNECTION) == connection_pb2.Connection(
        id="cal_1",
        provider="PROVIDER_CALDAV",
        calendar_id="/work/",
        account_email="a@b.c",
        connected_at=Timestamp(seconds=1_600_000_000),
        status="CONNECTION_STATUS_NEEDS_REAUTH",
        last_sync_at=Timestamp(seconds=1_700_000_000, nanos=123_456_000),
        sync_status="SYNC_STATUS_EXPIRED",
        sync_error="The password was refused.",
        owner="o",
        busy_calendar_ids=["/work/", "/home/"],
    )


def test_what_a_connection_does_not_know_is_absent() -> None:
    message = convert.connection_message(replace(CONNECTION, last_sync_at=None, sync_error=None))
    assert (message.HasField("last_sync_at"), message.HasField("sync_error")) == (False, False)


def test_a_connect_answers_an_address_or_a_connection() -> None:
    assert convert.connect_response(AuthorizationUrl("https://x.example")).authorization_url == "https://x.example"
    assert convert.connect_response(CONNECTION).connection.id == "cal_1"


@pytest.mark.parametrize("token", ["", "t"])
def test_there_is_more_exactly_when_there_is_a_token(token: str) -> None:
    response = convert.list_response(ConnectionPage((CONNECTION,), token))
    assert (response.has_more, response.next_page_token) == (token != "", token)
    assert [connection.id for connection in response.data] == ["cal_1"]


def test_a_disconnect_says_what_was_ended() -> None:
    assert convert.disconnect_response(ConnectionId("cal_1")) == pb.DisconnectResponse(id="cal_1", deleted=True)


def test_a_calendar_is_told_with_every_field() -> None:
    calendar = Calendar(CalendarId("/work/"), "Work", "Europe/Vienna", True, True, "#aabbcc")
    response = convert.list_calendars_response([ListedCalendar(calendar, True)])
    assert list(response.calendars) == [
        connection_pb2.Calendar(
            id="/work/",
            name="Work",
            time_zone="Europe/Vienna",
            primary=True,
            writable=True,
            blocks=True,
            color="#aabbcc",
        )
    ]


def test_a_busy_answer_is_told_with_every_field() -> None:
    interval = Interval(5 * SECOND, 7 * SECOND)
    answer = BusyAnswer(
        (interval,),
        False,
        (
            CalendarBusy(
                ConnectionId("cal_1"),
                CalendarId("/work/"),
                BusyState.FRESH,
                3 * SECOND,
                Problem("EVENT_UNREADABLE", "No.", 9 * SECOND),
                (interval,),
                (
                    ExplainedEvent(interval, BlockReason.BOOKING, "b1", "e1"),
                    ExplainedEvent(None, BlockReason.UNREADABLE, "", "e2"),
                    ExplainedEvent(interval, BlockReason.FREE),
                ),
            ),
        ),
    )
    told = availability_pb2.BusyInterval(start_time=Timestamp(seconds=5), end_time=Timestamp(seconds=7))
    assert convert.busy_response(answer) == pb.GetBusyResponse(
        busy=[told],
        complete=False,
        calendars=[
            availability_pb2.CalendarBusy(
                connection_id="cal_1",
                calendar_id="/work/",
                state="BUSY_STATE_FRESH",
                as_of=Timestamp(seconds=3),
                problem=errors_pb2.Problem(
                    reason="ERROR_REASON_EVENT_UNREADABLE", message="No.", retry_at=Timestamp(seconds=9)
                ),
                busy=[told],
                events=[
                    availability_pb2.ExplainedEvent(
                        start_time=Timestamp(seconds=5),
                        end_time=Timestamp(seconds=7),
                        blocks=True,
                        reason="BLOCK_REASON_BOOKING",
                        booking_id="b1",
                        event_id="e1",
                    ),
                    availability_pb2.ExplainedEvent(blocks=True, reason="BLOCK_REASON_UNREADABLE", event_id="e2"),
                    availability_pb2.ExplainedEvent(
                        start_time=Timestamp(seconds=5), end_time=Timestamp(seconds=7), reason="BLOCK_REASON_FREE"
                    ),
                ],
            )
        ],
    )


def test_what_a_calendar_does_not_know_is_absent() -> None:
    told = convert.calendar_busy(CalendarBusy(ConnectionId("cal_1"), CalendarId(""), BusyState.UNKNOWN))
    assert (told.HasField("as_of"), told.HasField("problem")) == (False, False)


def test_a_problem_that_waiting_does_not_mend_has_no_time() -> None:
    calendar = CalendarBusy(
        ConnectionId("cal_1"), CalendarId(""), BusyState.UNKNOWN, problem=Problem("NEEDS_REAUTH", "Connect again.")
    )
    assert not convert.calendar_busy(calendar).problem.HasField("retry_at")


def test_a_reason_of_a_newer_release_is_not_told() -> None:
    calendar = CalendarBusy(
        ConnectionId("cal_1"), CalendarId(""), BusyState.UNKNOWN, problem=Problem("OF_TOMORROW", "Something.")
    )
    assert convert.calendar_busy(calendar).problem.reason == errors_pb2.ERROR_REASON_UNSPECIFIED


REPORT = BookingReport(
    Booking(BookingId("b1"), 2, BookingStatus.CANCELLED),
    (
        BookingEvent(
            ConnectionId("cal_1"),
            CalendarId("/work/"),
            EventId("/work/x.ics"),
            EventState.PENDING,
            1,
            "https://x.example",
            Problem("PROVIDER_UNAVAILABLE", "No."),
            8 * SECOND,
            2**40,
            Drift.EDITED,
        ),
    ),
)


def test_a_booking_is_told_with_every_field_of_its_events() -> None:
    assert list(convert.sync_response(REPORT).events) == [
        booking_pb2.BookingEvent(
            connection_id="cal_1",
            calendar_id="/work/",
            event_id="/work/x.ics",
            state="BOOKING_EVENT_STATE_PENDING",
            synced_revision=1,
            web_link="https://x.example",
            problem=errors_pb2.Problem(reason="ERROR_REASON_PROVIDER_UNAVAILABLE", message="No."),
            next_attempt_at=Timestamp(seconds=8),
            attempts=2**31 - 1,
            drift="BOOKING_EVENT_DRIFT_EDITED",
        )
    ]


def test_both_answers_about_a_booking_are_the_same() -> None:
    assert convert.sync_response(REPORT).SerializeToString() == convert.get_booking_response(REPORT).SerializeToString()


def test_a_cancellation_that_was_never_anything_else_has_no_times() -> None:
    told = convert.get_booking_response(REPORT).booking
    assert (told.HasField("start_time"), told.HasField("end_time")) == (False, False)


def test_what_was_sent_is_what_is_told() -> None:
    request = sync(title="t", description="a\n", attendees=[{"email": "a@b.c"}], url="http://x.example")
    report = BookingReport(convert.sync_command(request).booking, ())
    assert convert.get_booking_response(report).booking == request.booking


@pytest.mark.parametrize("moment", [0, 1, -1, 1_700_000_000_999_999])
def test_an_instant_keeps_its_microseconds(moment: Instant) -> None:
    told = convert.timestamp(moment)
    assert told.seconds * SECOND + told.nanos // 1000 == moment
    assert 0 <= told.nanos < 10**9


def test_text_that_is_no_unicode_is_told_as_far_as_it_goes() -> None:
    calendar = Calendar(CalendarId("x"), "Büro \ud83d")
    assert convert.list_calendars_response([ListedCalendar(calendar, False)]).calendars[0].name == "Büro ?"


# Enums


@pytest.mark.parametrize(
    ("values", "prefix", "members"),
    [
        (connection_pb2.Provider, "PROVIDER_", ProviderName),
        (connection_pb2.CaldavPreset, "CALDAV_PRESET_", Preset),
        (connection_pb2.ConnectionStatus, "CONNECTION_STATUS_", ConnectionStatus),
        (connection_pb2.SyncStatus, "SYNC_STATUS_", SyncStatus),
        (availability_pb2.BusyView, "BUSY_VIEW_", BusyView),
        (availability_pb2.BusyState, "BUSY_STATE_", BusyState),
        (availability_pb2.BlockReason, "BLOCK_REASON_", BlockReason),
        (booking_pb2.BookingStatus, "BOOKING_STATUS_", BookingStatus),
        (booking_pb2.BookingEventState, "BOOKING_EVENT_STATE_", EventState),
    ],
)
def test_every_value_of_an_enum_has_its_member(values: object, prefix: str, members: object) -> None:
    names = {prefix + member.name for member in members} | {f"{prefix}UNSPECIFIED"}  # type: ignore[attr-defined]
    assert names == set(values.keys())  # type: ignore[attr-defined]
