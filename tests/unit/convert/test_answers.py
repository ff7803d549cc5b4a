"""Answers tell every field, and nothing that is not known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    SECOND,
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
from calendar_server.rpc import convert
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    BookingEvent,
    BookingReport,
    BusyAnswer,
    CalendarBusy,
    ConnectionPage,
    ExplainedEvent,
    ListedCalendar,
    Problem,
)
from calendars.v1 import availability_pb2, booking_pb2, connection_pb2, errors_pb2
from calendars.v1 import calendar_service_pb2 as pb
from tests.unit.convert.calls import sync

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
