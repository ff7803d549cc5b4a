"""Calls by a caller with a key, without one, and what becomes of errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo

from calendar_server import errors
from calendar_server.core.model import BusyState, CalendarId, ConnectionId
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import CalendarBusy, Problem
from calendars.v1 import availability_pb2
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.rpc.world import CALL_S, KEY, OTHER_KEY, SERVICE, Failure, World, busy_request, failure

# Calls that go well


def test_a_connection_that_was_made_is_listed(world: World) -> None:
    account = {"preset": "CALDAV_PRESET_FASTMAIL", "username": "anna", "password": "secret"}
    made = world.call("Connect", pb.ConnectRequest(caldav=account))
    listed = world.call("List", pb.ListRequest())
    assert [connection.id for connection in listed.data] == [made.connection.id]


def test_one_organization_sees_nothing_of_another(world: World) -> None:
    account = {"preset": "CALDAV_PRESET_APPLE", "username": "anna", "password": "secret"}
    world.call("Connect", pb.ConnectRequest(caldav=account))
    assert list(world.call("List", pb.ListRequest(), key=OTHER_KEY).data) == []


def test_a_booking_comes_back_as_it_was_sent(world: World) -> None:
    start = datetime(2026, 12, 1, 9, tzinfo=UTC)
    booking = {
        "id": "b1",
        "revision": 1,
        "status": "BOOKING_STATUS_CONFIRMED",
        "title": "Zahnarzt – Prüfung",
        "start_time": start,
        "end_time": start + timedelta(hours=1),
        "time_zone": "Europe/Vienna",
        "attendees": [{"email": "anna@example.com", "name": "Anna"}],
    }
    world.call("SyncBooking", pb.SyncBookingRequest(booking=booking))
    answered = world.call("GetBooking", pb.GetBookingRequest(id="b1"))
    assert answered.booking == pb.SyncBookingRequest(booking=booking).booking


def test_the_callers_deadline_reaches_the_use_case(world: World) -> None:
    world.call("GetBusy", busy_request())
    deadline = world.availability.callers[0].deadline
    assert deadline is not None
    # Clients round the time-out that they send up.
    assert CALL_S - 5 < deadline.remaining() < CALL_S + 1


def test_a_call_without_a_deadline_has_none(world: World) -> None:
    world.stub.GetBusy(busy_request(), metadata=(("authorization", f"Bearer {KEY}"),))
    assert world.availability.callers[0].deadline is None


def test_the_callers_request_id_reaches_the_use_case(world: World) -> None:
    world.call("GetBusy", busy_request(), ("x-request-id", "mine-1.a_b"))
    assert world.availability.callers[0].request_id == "mine-1.a_b"


def test_the_request_id_is_answered(world: World) -> None:
    _, call = world.stub.List.with_call(
        pb.ListRequest(), metadata=(("authorization", f"Bearer {KEY}"), ("x-request-id", "mine")), timeout=CALL_S
    )
    assert ("x-request-id", "mine") in call.trailing_metadata()


def test_the_request_id_is_answered_with_an_error(world: World) -> None:
    failed = failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="none"), ("x-request-id", "mine")))
    assert ("x-request-id", "mine") in failed.error.trailing_metadata()


@pytest.mark.parametrize("sent", ["a b", "x" * 65, 'a"b'])
def test_a_request_id_that_cannot_be_shown_is_replaced(world: World, sent: str) -> None:
    world.call("GetBusy", busy_request(), ("x-request-id", sent))
    made = world.availability.callers[0].request_id
    assert made != sent
    assert len(made) == 16


def test_compressed_requests_are_understood(world: World) -> None:
    world.stub.GetBusy(
        busy_request(owner="o" * 200),
        metadata=(("authorization", f"Bearer {KEY}"),),
        compression=grpc.Compression.Gzip,
        timeout=CALL_S,
    )
    assert len(world.availability.callers) == 1


def test_owner_and_account_reach_the_use_case(world: World) -> None:
    account = {"preset": "CALDAV_PRESET_APPLE", "username": "anna", "password": "secret"}
    world.call("Connect", pb.ConnectRequest(caldav=account, owner="person 1"))
    assert [(row.owner, row.subject) for row in world.connections.rows.values()] == [("person 1", "anna")]


# API keys


def without_key(world: World, metadata: tuple[tuple[str, str], ...]) -> Failure:
    return failure(lambda: world.stub.List(pb.ListRequest(), metadata=metadata, timeout=CALL_S))


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", KEY),),
        (("authorization", f"Basic {KEY}"),),
        (("authorization", "Bearer calkey_0123456789abcdef_" + "c" * 64),),
        (("authorization", "Bearer calkey_0123456789abcdef"),),
        (("authorization", f"Bearer {KEY} "),),
        (("authorization", f"Bearer {KEY},Bearer {KEY}"),),
        (("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")),
        (("authorization", "Bearer calkey_" + "x" * 5000),),
        (("x-api-key", KEY),),
    ],
)
def test_without_one_valid_key_the_answer_is_always_the_same(
    world: World, metadata: tuple[tuple[str, str], ...]
) -> None:
    failed = without_key(world, metadata)
    assert (failed.code, failed.info.reason, dict(failed.info.metadata), failed.message) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "UNAUTHORIZED",
        {},
        "A valid API key is required: send the metadata `authorization: Bearer <API key>`.",
    )


def test_a_revoked_key_is_answered_like_an_unknown_one(world: World) -> None:
    world.call("List", pb.ListRequest())
    unknown = without_key(world, (("authorization", "Bearer calkey_0000000000000000_" + "d" * 64),))
    del world.keys.known[KEY]
    revoked = without_key(world, (("authorization", f"Bearer {KEY}"),))
    assert revoked.status == unknown.status


def test_the_scheme_may_be_written_in_any_case(world: World) -> None:
    world.stub.List(pb.ListRequest(), metadata=(("authorization", f"bearer {KEY}"),), timeout=CALL_S)


def test_without_a_key_not_even_nonsense_is_read(world: World) -> None:
    call = world.channel.unary_unary(f"/{SERVICE}/GetBusy")
    failed = failure(lambda: call(b"\xff\xff\xff", metadata=(("authorization", "Bearer calkey_a_b"),), timeout=CALL_S))
    assert failed.code is grpc.StatusCode.UNAUTHENTICATED


def test_without_a_key_the_answer_comes_before_the_message(world: World) -> None:
    silent = threading.Event()
    call = world.channel.stream_unary(f"/{SERVICE}/GetBusy")

    def nothing() -> Iterator[bytes]:
        silent.wait(CALL_S)
        yield from ()

    failed = failure(lambda: call(nothing(), metadata=(("authorization", "Bearer calkey_a_b"),), timeout=CALL_S))
    silent.set()
    assert failed.code is grpc.StatusCode.UNAUTHENTICATED


def test_a_database_out_of_reach_is_not_a_wrong_key(world: World) -> None:
    world.keys.error = errors.StoreUnavailable()
    failed = failure(lambda: world.call("List", pb.ListRequest()))
    assert (failed.code, failed.info.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")


# Errors


@pytest.mark.parametrize(
    ("error", "code", "reason", "metadata"),
    [
        (errors.NotFound("No."), "NOT_FOUND", "NOT_FOUND", {}),
        (errors.Conflict("cal_7"), "ALREADY_EXISTS", "CONFLICT", {"connectionId": "cal_7"}),
        (
            errors.ProviderRefused("No.", cause="credentials"),
            "FAILED_PRECONDITION",
            "PROVIDER_REFUSED",
            {"cause": "credentials"},
        ),
        (errors.NeedsReauth(), "FAILED_PRECONDITION", "NEEDS_REAUTH", {}),
        (errors.AccountMismatch("No."), "FAILED_PRECONDITION", "ACCOUNT_MISMATCH", {}),
        (errors.CalendarGone("No."), "FAILED_PRECONDITION", "CALENDAR_GONE", {}),
        (errors.CalendarReadOnly("No."), "FAILED_PRECONDITION", "CALENDAR_READ_ONLY", {}),
        (errors.AdminConsentRequired("No."), "FAILED_PRECONDITION", "ADMIN_CONSENT_REQUIRED", {}),
        (errors.ScopeMissing("No."), "FAILED_PRECONDITION", "SCOPE_MISSING", {}),
        (errors.ProviderUnavailable("No."), "UNAVAILABLE", "PROVIDER_UNAVAILABLE", {}),
        (errors.ProviderThrottled("No."), "UNAVAILABLE", "PROVIDER_THROTTLED", {}),
        (errors.ForbiddenDestination(), "UNAVAILABLE", "PROVIDER_UNAVAILABLE", {}),
        (errors.EventUnreadable("e1"), "UNAVAILABLE", "EVENT_UNREADABLE", {"eventId": "e1"}),
        (errors.BookingUnreadable("b", 3), "UNAVAILABLE", "EVENT_UNREADABLE", {"bookingId": "b", "revision": "3"}),
        (
            errors.NotConfigured("CALENDAR_X", "No."),
            "FAILED_PRECONDITION",
            "NOT_CONFIGURED",
            {"setting": "CALENDAR_X"},
        ),
        (errors.SlotTaken("No."), "ABORTED", "SLOT_TAKEN", {}),
        (errors.LimitExceeded("No."), "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED", {}),
        (errors.StoreUnavailable(), "UNAVAILABLE", "STORE_UNAVAILABLE", {}),
    ],
)
def test_an_error_has_its_code_and_reason(
    world: World, error: Exception, code: str, reason: str, metadata: dict[str, str]
) -> None:
    world.availability.error = error
    failed = failure(lambda: world.call("GetBusy", busy_request()))
    assert (failed.code.name, failed.info.reason, dict(failed.info.metadata)) == (code, reason, metadata)


def test_where_waiting_helps_the_answer_says_how_long(world: World) -> None:
    world.availability.error = errors.ProviderThrottled("Slow down.", retry_after_s=90)
    failed = failure(lambda: world.call("GetBusy", busy_request()))
    assert failed.detail(RetryInfo).retry_delay.seconds == 90


def test_all_wrong_fields_are_named_at_once(world: World) -> None:
    booking = {"id": "", "revision": 0, "attendees": [{"email": "a@b.c"}, {"email": "nobody"}], "title": "a\x00b"}
    request = pb.SyncBookingRequest(booking=booking, wait={"seconds": -1})
    failed = failure(lambda: world.call("SyncBooking", request))
    assert failed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in failed.detail(BadRequest).field_violations} == {
        "booking.id",
        "booking.revision",
        "booking.status",
        "booking.title",
        "booking.attendees[1].email",
        "wait",
    }


def test_unknown_calendars_are_all_named(world: World) -> None:
    first = errors.NeedsReauth()
    first.metadata.update(connectionId="cal_1", calendarId="/work/")
    problem = Problem("NEEDS_REAUTH", "Connect again.")
    world.availability.error = BusyUnknown(
        first,
        (
            CalendarBusy(ConnectionId("cal_1"), CalendarId("/work/"), BusyState.UNKNOWN, None, problem),
            CalendarBusy(ConnectionId("cal_2"), CalendarId("/home/"), BusyState.UNKNOWN, None, problem),
        ),
    )
    failed = failure(lambda: world.call("GetBusy", busy_request()))
    assert (failed.code.name, failed.info.reason) == ("FAILED_PRECONDITION", "NEEDS_REAUTH")
    assert dict(failed.info.metadata) == {"connectionId": "cal_1", "calendarId": "/work/"}
    named = failed.detail(availability_pb2.BusyFailure).calendars
    assert [calendar.connection_id for calendar in named] == ["cal_1", "cal_2"]


def test_the_unforeseen_shows_a_request_id_and_nothing_else(world: World) -> None:
    world.availability.error = RuntimeError("the password is hunter2")
    failed = failure(lambda: world.call("GetBusy", busy_request(), ("x-request-id", "r-1")))
    assert (failed.code.name, failed.info.reason) == ("INTERNAL", "INTERNAL")
    assert dict(failed.info.metadata) == {"requestId": "r-1"}
    assert len(failed.status.details) == 1
    assert "hunter2" not in str(failed.status)


def test_bytes_that_are_no_message_are_refused(world: World) -> None:
    call = world.channel.unary_unary(f"/{SERVICE}/GetBusy")
    failed = failure(lambda: call(b"\x0a\xff\xff", metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S))
    assert (failed.code.name, failed.info.reason) == ("INVALID_ARGUMENT", "VALIDATION_ERROR")


def test_text_that_is_not_utf8_is_refused(world: World) -> None:
    call = world.channel.unary_unary(f"/{SERVICE}/GetBooking")
    failed = failure(lambda: call(b"\x0a\x02\xc3\x28", metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S))
    assert (failed.code.name, failed.info.reason) == ("INVALID_ARGUMENT", "VALIDATION_ERROR")


def test_unknown_methods_are_unimplemented_without_a_key(world: World) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        world.channel.unary_unary(f"/{SERVICE}/Nothing")(b"", timeout=CALL_S)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
