"""The gRPC server on a real port, before use cases that keep everything in memory."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from grpc_status import rpc_status

from calendar_server import errors
from calendar_server.config import Config
from calendar_server.core.model import (
    BookingId,
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
from calendar_server.rpc.server import RpcServer, build_server
from calendar_server.telemetry import configure_logging
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    BookingReport,
    BusyAnswer,
    BusyQuery,
    CaldavAccount,
    ConnectCommand,
    ConnectionPage,
    ListedCalendar,
    ListQuery,
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
