"""The gRPC server on a real port, before use cases that keep everything in memory."""

from __future__ import annotations

import gc
import io
import json
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from calendar_server import errors
from calendar_server.config import Config, ConfigError
from calendar_server.core.model import (
    BookingId,
    BusyState,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Interval,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.metrics import Metrics
from calendar_server.rpc.server import Health, RpcServer, build_server
from calendar_server.telemetry import configure_logging
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    BookingReport,
    BusyAnswer,
    BusyQuery,
    CaldavAccount,
    CalendarBusy,
    ConnectCommand,
    ConnectionPage,
    ListedCalendar,
    ListQuery,
    Problem,
    SyncCommand,
    UpdateCommand,
)
from calendar_server.usecases.watching import Watching
from calendars.v1 import availability_pb2, calendar_service_pb2_grpc
from calendars.v1 import calendar_service_pb2 as pb

KEY = "calkey_0123456789abcdef_" + "a" * 64
OTHER_KEY = "calkey_fedcba9876543210_" + "b" * 64
SERVICE = "calendars.v1.CalendarService"
CALL_S = 20.0


# The world behind the server


@dataclass
class Keys:
    """Knows two keys, and how often it was asked."""

    known: dict[str, str] = field(default_factory=lambda: {KEY: "org_one", OTHER_KEY: "org_two"})
    error: Exception | None = None

    def authenticate(self, key: str) -> OrganizationId:
        if self.error is not None:
            raise self.error
        if key not in self.known:
            raise errors.Unauthorized()
        return OrganizationId(self.known[key])


@dataclass
class Connections:
    """Connections by organization and id."""

    rows: dict[tuple[str, str], Connection] = field(default_factory=dict)
    error: Exception | None = None

    def connect(self, caller: Caller, command: ConnectCommand) -> Connection | AuthorizationUrl:
        if self.error is not None:
            raise self.error
        if not isinstance(command.account, CaldavAccount):
            return AuthorizationUrl(f"https://accounts.example.com/{command.account.provider}")
        connection_id = ConnectionId(f"cal_{len(self.rows) + 1}")
        connection = Connection(
            id=connection_id,
            organization_id=caller.organization_id,
            owner=command.owner,
            provider=ProviderName.CALDAV,
            subject=command.account.username,
            account_email="",
            calendar_id=CalendarId("/work/"),
            busy_calendar_ids=(CalendarId("/work/"),),
            status=ConnectionStatus.ACTIVE,
            sync_status=SyncStatus.CONNECTED,
            sync_error=None,
            last_sync_at=None,
            connected_at=1_700_000_000_000_000,
            grant_version=1,
        )
        self.rows[caller.organization_id, connection_id] = connection
        return connection

    def list(self, caller: Caller, query: ListQuery) -> ConnectionPage:
        return ConnectionPage(tuple(row for (org, _), row in self.rows.items() if org == caller.organization_id), "")

    def disconnect(self, caller: Caller, connection_id: ConnectionId) -> None:
        if (caller.organization_id, connection_id) not in self.rows:
            raise errors.NotFound("There is no such connection.")
        del self.rows[caller.organization_id, connection_id]

    def list_calendars(self, caller: Caller, connection_id: ConnectionId) -> tuple[ListedCalendar, ...]:
        return ()

    def update(self, caller: Caller, command: UpdateCommand) -> Connection:
        row = self.rows[caller.organization_id, command.id]
        changed = replace(row, calendar_id=command.calendar_id or row.calendar_id)
        self.rows[caller.organization_id, command.id] = changed
        return changed


class Silence:
    """Nothing is told of changes: whoever waits for one waits as long as it said."""

    count = 0

    def wait(self, seen: int, seconds: float, stop: threading.Event) -> int:
        stop.wait(seconds)
        return seen


@dataclass
class Availability:
    """Answers what it was given; ``gate`` holds calls until it is opened."""

    error: Exception | None = None
    gate: threading.Event | None = None
    arrived: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    callers: list[Caller] = field(default_factory=list)
    ask_every_s: float = 0.02
    answer: BusyAnswer = field(default_factory=lambda: BusyAnswer((Interval(0, 1_000_000),), True, ()))

    def get_busy(self, caller: Caller, query: BusyQuery) -> BusyAnswer:
        self.callers.append(caller)
        self.arrived.release()
        if self.gate is not None:
            self.gate.wait(CALL_S)
        if self.error is not None:
            raise self.error
        return self.answer

    def watch(self, caller: Caller, query: BusyQuery, stop: threading.Event) -> Iterator[BusyAnswer]:
        watching = Watching(
            self.get_busy, Silence(), heartbeat_s=CALL_S, at_most_every_s=0.02, ask_every_s=self.ask_every_s
        )
        return watching.watch(caller, query, stop)


@dataclass
class Bookings:
    """Bookings by organization and id."""

    rows: dict[tuple[str, str], BookingReport] = field(default_factory=dict)

    def sync(self, caller: Caller, command: SyncCommand) -> BookingReport:
        report = BookingReport(command.booking, ())
        self.rows[caller.organization_id, command.booking.id] = report
        return report

    def get(self, caller: Caller, booking_id: BookingId) -> BookingReport:
        try:
            return self.rows[caller.organization_id, booking_id]
        except KeyError:
            raise errors.NotFound("There is no such booking.") from None


class NoContext:
    """A call that does not end."""

    def add_callback(self, callback: Callable[[], None]) -> bool:
        self.callback = callback
        return True


@dataclass
class World:
    """A running server and what lies behind it."""

    server: RpcServer
    keys: Keys
    connections: Connections
    availability: Availability
    bookings: Bookings
    metrics: Metrics
    channel: grpc.Channel

    @property
    def stub(self) -> calendar_service_pb2_grpc.CalendarServiceStub:
        return calendar_service_pb2_grpc.CalendarServiceStub(self.channel)

    @property
    def health(self) -> health_pb2_grpc.HealthStub:
        return health_pb2_grpc.HealthStub(self.channel)

    def call(self, rpc: str, request: object, *more: tuple[str, str], key: str | None = KEY) -> object:
        metadata = (*([("authorization", f"Bearer {key}")] if key else []), *more)
        return getattr(self.stub, rpc)(request, metadata=metadata, timeout=CALL_S)


@contextmanager
def running(config: Config | None = None, *, message_s: float = 10.0) -> Iterator[World]:
    config = config or Config(grpc_address="127.0.0.1:0", reflection=True)
    keys, connections, availability, bookings, metrics = Keys(), Connections(), Availability(), Bookings(), Metrics()
    server = build_server(
        config,
        connections=connections,
        availability=availability,
        bookings=bookings,
        authenticator=keys,
        metrics=metrics,
        message_s=message_s,
    )
    server.start()
    server.set_serving(True)
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield World(server, keys, connections, availability, bookings, metrics, channel)
    server.stop(0)


@pytest.fixture
def world() -> Iterator[World]:
    with running() as started:
        yield started


def busy_request(**fields: object) -> pb.GetBusyRequest:
    now = datetime.now(UTC)
    return pb.GetBusyRequest(**{"start_time": now, "end_time": now + timedelta(days=1), **fields})  # type: ignore[arg-type]


@dataclass
class Failure:
    """How a call failed, as its client sees it."""

    code: grpc.StatusCode
    message: str
    info: ErrorInfo
    status: Status
    error: grpc.RpcError

    def detail(self, kind: type[BadRequest] | type[RetryInfo] | type[availability_pb2.BusyFailure]) -> object:
        found = [detail for detail in self.status.details if detail.Is(kind.DESCRIPTOR)]
        assert len(found) == 1
        message = kind()
        found[0].Unpack(message)
        return message


def failure(call: Callable[[], object]) -> Failure:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    status = rpc_status.from_call(raised.value)
    assert status is not None, (raised.value.code(), raised.value.details())
    infos = [detail for detail in status.details if detail.Is(ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    info = ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "calendars.v1"
    return Failure(raised.value.code(), raised.value.details(), info, status, raised.value)


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


# Limits


def test_a_string_of_ten_megabytes_is_refused_with_a_reason(world: World) -> None:
    failed = failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="x" * 10_000_000)))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


def test_even_larger_messages_are_refused(world: World) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        world.call("GetBooking", pb.GetBookingRequest(id="x" * 20_000_000))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_after_a_message_that_is_too_large_the_next_call_is_answered(world: World) -> None:
    failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="x" * 10_000_000)))
    assert list(world.call("List", pb.ListRequest()).data) == []


def test_oversized_metadata_is_refused(world: World) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        world.call("List", pb.ListRequest(), ("x-large", "x" * 40_000))
    assert raised.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)


def test_an_answer_that_clients_would_not_take_says_so(world: World) -> None:
    world.availability.answer = BusyAnswer(tuple(Interval(i * 10**9, i * 10**9 + 5) for i in range(300_000)), True, ())
    failed = failure(lambda: world.call("GetBusy", busy_request()))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


def test_a_call_whose_message_never_comes_does_not_keep_its_thread() -> None:
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(CALL_S)
        yield from ()

    with running(Config(grpc_address="127.0.0.1:0"), message_s=0.3) as world:
        call = world.channel.stream_unary(f"/{SERVICE}/List")
        with pytest.raises(grpc.RpcError) as raised:
            call(nothing(), metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S)
        silent.set()
        assert raised.value.code() is grpc.StatusCode.CANCELLED


def test_a_call_without_a_message_is_refused(world: World) -> None:
    call = world.channel.stream_unary(f"/{SERVICE}/List")
    failed = failure(lambda: call(iter(()), metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S))
    assert (failed.code.name, failed.info.reason) == ("INVALID_ARGUMENT", "VALIDATION_ERROR")


@pytest.fixture
def crowded() -> Iterator[tuple[World, ThreadPoolExecutor]]:
    """A server of which every thread is taken and as many calls wait."""
    with running(Config(grpc_address="127.0.0.1:0", grpc_threads=8)) as world, ThreadPoolExecutor(16) as callers:
        world.availability.gate = threading.Event()
        for _ in range(16):
            callers.submit(world.call, "GetBusy", busy_request())
        for _ in range(8):
            assert world.availability.arrived.acquire(timeout=CALL_S)
        deadline = time.monotonic() + CALL_S
        while world.server.load < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
        yield world, callers
        world.availability.gate.set()


def test_too_many_calls_at_once_are_told_to_come_again(crowded: tuple[World, ThreadPoolExecutor]) -> None:
    world, _ = crowded
    failed = failure(lambda: world.call("List", pb.ListRequest()))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert failed.detail(RetryInfo).retry_delay.seconds == 1


def test_health_is_answered_while_every_thread_is_taken(crowded: tuple[World, ThreadPoolExecutor]) -> None:
    world, _ = crowded
    assert world.health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S / 4).status == 1


# Health and reflection


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_follows_what_it_is_told(world: World, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    before = world.health.Check(request, timeout=CALL_S).status
    world.server.set_serving(False)
    after = world.health.Check(request, timeout=CALL_S).status
    assert (before, after) == (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)


def test_a_server_is_not_serving_before_it_is_told() -> None:
    with running() as world:
        fresh = build_server(
            Config(grpc_address="127.0.0.1:0"),
            connections=world.connections,
            availability=world.availability,
            bookings=world.bookings,
            authenticator=world.keys,
            metrics=world.metrics,
        )
        fresh.start()
        with grpc.insecure_channel(f"127.0.0.1:{fresh.port}") as channel:
            checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        fresh.stop(0)
        assert checked.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_watch_tells_every_change(world: World) -> None:
    watch = world.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_S)
    first = next(watch).status
    world.server.set_serving(False)
    second = next(watch).status
    watch.cancel()
    assert (first, second) == (1, 2)


def test_a_watch_of_an_unknown_service_says_so(world: World) -> None:
    watch = world.health.Watch(health_pb2.HealthCheckRequest(service="made.up"), timeout=CALL_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_nothing_is_kept_for_a_service_that_somebody_made_up() -> None:
    told = []

    def send(response: health_pb2.HealthCheckResponse) -> None:
        told.append(response.status)

    kept = weakref.ref(send)
    health, context = Health(), NoContext()
    health.Watch(health_pb2.HealthCheckRequest(service="made.up"), context, send)
    del send
    gc.collect()
    assert (told, kept()) == ([health_pb2.HealthCheckResponse.SERVICE_UNKNOWN], None)


def test_reflection_lists_the_services(world: World) -> None:
    services = ProtoReflectionDescriptorDatabase(world.channel).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)


def test_reflection_is_off_unless_set() -> None:
    with running(Config(grpc_address="127.0.0.1:0")) as world:
        with pytest.raises(grpc.RpcError) as raised:
            list(ProtoReflectionDescriptorDatabase(world.channel).get_services())
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_buf_curl_calls_through_reflection(world: World) -> None:
    account = {"preset": "CALDAV_PRESET_FASTMAIL", "username": "anna", "password": "secret"}
    world.call("Connect", pb.ConnectRequest(caldav=account))
    ran = subprocess.run(
        [
            str(Path(sys.executable).parent / "buf"),
            "curl",
            "--protocol=grpc",
            "--http2-prior-knowledge",
            f"--header=authorization: Bearer {KEY}",
            "--data={}",
            f"http://127.0.0.1:{world.server.port}/{SERVICE}/List",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert [connection["id"] for connection in json.loads(ran.stdout)["data"]] == ["cal_1"]


# Starting and stopping


def test_a_port_in_use_is_told_clearly(world: World) -> None:
    second = build_server(
        Config(grpc_address=f"127.0.0.1:{world.server.port}"),
        connections=world.connections,
        availability=world.availability,
        bookings=world.bookings,
        authenticator=world.keys,
        metrics=world.metrics,
    )
    with pytest.raises(ConfigError, match=r"CALENDAR_GRPC_ADDRESS: 127\.0\.0\.1:\d+ cannot be listened on"):
        second.start()


def test_a_call_in_flight_finishes_while_health_says_not_serving(world: World) -> None:
    world.availability.gate = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(world.call, "GetBusy", busy_request())
        assert world.availability.arrived.acquire(timeout=CALL_S)
        watch = world.health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopped = threads.submit(world.server.stop, 10.0)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not call.done()
        world.availability.gate.set()
        assert call.result(CALL_S).complete
        stopped.result(CALL_S)


def test_a_watcher_does_not_hold_up_the_stop(world: World) -> None:
    watch = world.health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S)
    next(watch)
    began = time.monotonic()
    world.server.stop(15.0)
    assert time.monotonic() - began < 5


def test_a_stopped_server_takes_no_calls(world: World) -> None:
    port = world.server.port
    world.server.stop(0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=CALL_S)


def test_a_call_that_outlasts_the_grace_is_cancelled(world: World) -> None:
    world.availability.gate = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(world.call, "GetBusy", busy_request())
        assert world.availability.arrived.acquire(timeout=CALL_S)
        world.server.stop(0.2)
        with pytest.raises(grpc.RpcError) as raised:
            call.result(CALL_S)
        world.availability.gate.set()
    assert raised.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


# Telling


@contextmanager
def logged() -> Iterator[Callable[[], list[dict[str, object]]]]:
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("calendar_server")
    handlers, level, our_level, hook = root.handlers[:], root.level, ours.level, threading.excepthook
    configure_logging("info", stream)
    try:
        yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        ours.setLevel(our_level)
        threading.excepthook = hook


def test_a_call_is_one_line_in_the_log(world: World) -> None:
    with logged() as lines:
        world.call("GetBusy", busy_request(owner="a person"), ("x-request-id", "r-2"))
        line = lines()[0]
    assert isinstance(line.pop("time"), str)
    assert isinstance(line.pop("duration_ms"), float)
    assert line == {
        "level": "info",
        "event": "call",
        "rpc": "GetBusy",
        "code": "OK",
        "request_id": "r-2",
        "organization": "org_one",
    }


def test_the_log_tells_where_the_unforeseen_happened_but_not_what_was_sent(world: World) -> None:
    world.availability.error = RuntimeError("the password is hunter2")
    with logged() as lines:
        failure(lambda: world.call("GetBusy", busy_request()))
        line = lines()[0]
    assert (line["level"], line["code"], line["exception"]) == ("error", "INTERNAL", ["builtins.RuntimeError"])
    assert any("get_busy" in frame for frame in line["traceback"])
    assert "hunter2" not in json.dumps(line)


def test_a_call_is_counted_with_its_code(world: World) -> None:
    world.call("List", pb.ListRequest())
    failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="none")))
    text = world.metrics.text().decode()
    assert 'calendar_calls_total{code="OK",process="server",rpc="List"} 1.0' in text
    assert 'calendar_calls_total{code="NOT_FOUND",process="server",rpc="GetBooking"} 1.0' in text


# TLS


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def serving(port: int, credentials: grpc.ChannelCredentials) -> int:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options=options) as channel:
        answered = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        return int(answered.status)


def presented(port: int) -> str:
    """The certificate that the server shows now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=CALL_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")


def test_with_a_certificate_the_server_speaks_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    with running(Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key))) as world:
        assert serving(world.server.port, grpc.ssl_channel_credentials(cert.read_bytes())) == 1


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    with running(Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key))) as world:
        first = presented(world.server.port)
        new_cert, new_key = certificate(tmp_path, "new")
        new_key.replace(key)
        new_cert.replace(cert)
        assert presented(world.server.port) != first
        assert presented(world.server.port) == cert.read_text()


def test_a_renewal_that_does_not_fit_together_leaves_the_old_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    with running(Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key))) as world:
        first = presented(world.server.port)
        certificate(tmp_path, "new")[0].replace(cert)
        assert presented(world.server.port) == first


def test_with_a_client_authority_a_client_without_certificate_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    client_cert, client_key = certificate(tmp_path, "client")
    config = Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(client_cert))
    with running(config) as world:
        mutual = grpc.ssl_channel_credentials(cert.read_bytes(), client_key.read_bytes(), client_cert.read_bytes())
        assert serving(world.server.port, mutual) == 1
        with pytest.raises(grpc.RpcError) as raised:
            serving(world.server.port, grpc.ssl_channel_credentials(cert.read_bytes()))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_key_of_another_certificate_is_told_at_the_start(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path, "server")
    _, other_key = certificate(tmp_path, "other")
    config = Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(other_key))
    with pytest.raises(ConfigError, match="CALENDAR_TLS_CERT"), running(config):
        pass


def test_owner_and_account_reach_the_use_case(world: World) -> None:
    account = {"preset": "CALDAV_PRESET_APPLE", "username": "anna", "password": "secret"}
    world.call("Connect", pb.ConnectRequest(caldav=account, owner="person 1"))
    assert [(row.owner, row.subject) for row in world.connections.rows.values()] == [("person 1", "anna")]
