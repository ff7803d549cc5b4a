"""The servicer's methods, called through grpcio-testing: request in, use case, response out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import grpc
import grpc_testing
import pytest
from google.protobuf.message import Message

from calendar_server.core.model import (
    BookingId,
    Calendar,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    Interval,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.errors import CalendarError, NotFound, ValidationError
from calendar_server.rpc.call import called_by, caller
from calendar_server.rpc.servicer import CalendarServicer
from calendar_server.rpc.wire import Encoded
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    BookingReport,
    BusyAnswer,
    BusyQuery,
    ConnectCommand,
    ConnectionPage,
    ListedCalendar,
    ListQuery,
    SyncCommand,
    UpdateCommand,
)
from calendars.v1 import calendar_service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["CalendarService"]
WHO = Caller(OrganizationId("org_1"), None, "r-1")
NOW: Instant = 1_800_000_000_000_000


def connection(connection_id: str, organization_id: OrganizationId, owner: str = "") -> Connection:
    return Connection(
        id=ConnectionId(connection_id),
        organization_id=organization_id,
        owner=owner,
        provider=ProviderName.CALDAV,
        subject="s",
        account_email="",
        calendar_id=CalendarId("/work/"),
        busy_calendar_ids=(),
        status=ConnectionStatus.ACTIVE,
        sync_status=SyncStatus.CONNECTED,
        sync_error=None,
        last_sync_at=None,
        connected_at=NOW,
        grant_version=1,
    )


@dataclass
class House:
    """All use cases over one memory: connections and bookings by organization."""

    connections: dict[tuple[str, str], Connection] = field(default_factory=dict)
    bookings: dict[tuple[str, str], BookingReport] = field(default_factory=dict)

    def connect(self, caller: Caller, command: ConnectCommand) -> Connection | AuthorizationUrl:
        made = connection(f"cal_{len(self.connections) + 1}", caller.organization_id, command.owner)
        self.connections[caller.organization_id, made.id] = made
        return made

    def list(self, caller: Caller, query: ListQuery) -> ConnectionPage:
        mine = [row for (organization, _), row in self.connections.items() if organization == caller.organization_id]
        return ConnectionPage(tuple(mine[: query.page_size]), "more" if len(mine) > query.page_size else "")

    def disconnect(self, caller: Caller, connection_id: ConnectionId) -> None:
        if self.connections.pop((caller.organization_id, connection_id), None) is None:
            raise NotFound("There is no such connection.")

    def list_calendars(self, caller: Caller, connection_id: ConnectionId) -> tuple[ListedCalendar, ...]:
        row = self.connections[caller.organization_id, connection_id]
        return (ListedCalendar(Calendar(row.calendar_id, "Work"), True),)

    def update(self, caller: Caller, command: UpdateCommand) -> Connection:
        row = self.connections[caller.organization_id, command.id]
        changed = replace(row, calendar_id=command.calendar_id or row.calendar_id)
        self.connections[caller.organization_id, command.id] = changed
        return changed

    def get_busy(self, caller: Caller, query: BusyQuery) -> BusyAnswer:
        return BusyAnswer((Interval(query.window.start, query.window.start + 1_000_000),), True, ())

    def watch(self, caller: Caller, query: BusyQuery, stop: threading.Event) -> Iterator[BusyAnswer]:
        yield self.get_busy(caller, query)
        if not stop.is_set():
            yield BusyAnswer((), False, ())

    def sync(self, caller: Caller, command: SyncCommand) -> BookingReport:
        report = BookingReport(command.booking, ())
        self.bookings[caller.organization_id, command.booking.id] = report
        return report

    def get(self, caller: Caller, booking_id: BookingId) -> BookingReport:
        return self.bookings[caller.organization_id, booking_id]


class Called(CalendarServicer):
    """The servicer as the interceptors call it: for a known caller, its errors kept to be looked at."""

    def __init__(self, house: House):
        super().__init__(house, house, house, clock=lambda: NOW)
        self.raised: list[CalendarError] = []

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name == "WatchBusy":
            return self._stream_for_caller(found)
        return self._for_caller(found) if name in SERVICE.methods_by_name else found

    def _stream_for_caller(
        self, method: Callable[[Message, grpc.ServicerContext], Iterator[Message]]
    ) -> Callable[..., Iterator[Message]]:
        def call(request: Message, context: grpc.ServicerContext) -> Iterator[Message]:
            with called_by(WHO):
                try:
                    yield from method(request, context)
                except CalendarError as error:
                    self.raised.append(error)
                    context.abort(grpc.StatusCode.UNKNOWN, "raised")

        return call

    def _for_caller(self, method: Callable[[Message, grpc.ServicerContext], Message]) -> Callable[..., Message]:
        def call(request: Message, context: grpc.ServicerContext) -> Message:
            with called_by(WHO):
                try:
                    return method(request, context)
                except CalendarError as error:
                    self.raised.append(error)
                    context.abort(grpc.StatusCode.UNKNOWN, "raised")
                    raise

        return call


def message(answer: Message | Encoded) -> Message:
    """What the client makes of it."""
    return pb.GetBusyResponse.FromString(answer.raw) if isinstance(answer, Encoded) else answer


@dataclass
class World:
    house: House
    servicer: Called
    server: grpc_testing.Server

    def call(self, rpc: str, request: Message) -> Message:
        """The response, or the error that the method raised."""
        method = SERVICE.methods_by_name[rpc]
        response, _, code, details = self.server.invoke_unary_unary(method, (), request, None).termination()
        if self.servicer.raised:
            raise self.servicer.raised[-1]
        assert code is grpc.StatusCode.OK, details
        return message(response)

    def stream(self, rpc: str, request: Message) -> list[Message]:
        """All the responses, or the error that the method raised."""
        call = self.server.invoke_unary_stream(SERVICE.methods_by_name[rpc], (), request, None)
        _, code, details = call.termination()
        if self.servicer.raised:
            raise self.servicer.raised[-1]
        assert code is grpc.StatusCode.OK, details
        return [message(call.take_response()) for _ in range(2)]


@pytest.fixture
def world() -> World:
    house = House()
    servicer = Called(house)
    server = grpc_testing.server_from_dictionary({SERVICE: servicer}, grpc_testing.strict_real_time())
    return World(house, servicer, server)


def connect(world: World) -> str:
    account = {"preset": "CALDAV_PRESET_APPLE", "username": "anna", "password": "pw"}
    return world.call("Connect", pb.ConnectRequest(caldav=account, owner="o")).connection.id


def booking() -> dict[str, object]:
    start = datetime(2026, 12, 1, 9, tzinfo=UTC)
    return {
        "id": "b1",
        "revision": 3,
        "status": "BOOKING_STATUS_CONFIRMED",
        "start_time": start,
        "end_time": start + timedelta(hours=1),
    }


def test_connect_makes_a_connection_of_the_callers_organization(world: World) -> None:
    connection_id = connect(world)
    assert world.house.connections["org_1", connection_id].owner == "o"


def test_list_answers_a_page(world: World) -> None:
    connect(world)
    connect(world)
    page = world.call("List", pb.ListRequest(page_size=1))
    assert ([row.id for row in page.data], page.has_more, page.next_page_token) == (["cal_1"], True, "more")


def test_disconnect_ends_the_connection(world: World) -> None:
    answered = world.call("Disconnect", pb.DisconnectRequest(id=connect(world)))
    assert (answered, world.house.connections) == (pb.DisconnectResponse(id="cal_1", deleted=True), {})


def test_list_calendars_answers_what_is_inside(world: World) -> None:
    calendars = world.call("ListCalendars", pb.ListCalendarsRequest(connection_id=connect(world))).calendars
    assert [(calendar.name, calendar.blocks) for calendar in calendars] == [("Work", True)]


def test_update_connection_answers_the_connection_itself(world: World) -> None:
    answered = world.call("UpdateConnection", pb.UpdateConnectionRequest(id=connect(world), calendar_id="/home/"))
    assert (answered.id, answered.calendar_id) == ("cal_1", "/home/")


def test_get_busy_answers_intervals(world: World) -> None:
    start = datetime.fromtimestamp(NOW // 1_000_000, UTC)
    answered = world.call("GetBusy", pb.GetBusyRequest(start_time=start, end_time=start + timedelta(days=1)))
    assert [interval.start_time.ToDatetime(UTC) for interval in answered.busy] == [start]


def test_get_busy_bounds_the_window_by_the_servicers_clock(world: World) -> None:
    start = datetime.fromtimestamp(NOW // 1_000_000, UTC) + timedelta(days=4 * 366)
    with pytest.raises(ValidationError, match="end_time"):
        world.call("GetBusy", pb.GetBusyRequest(start_time=start, end_time=start + timedelta(days=1)))


def test_watch_busy_answers_one_after_the_other(world: World) -> None:
    start = datetime.fromtimestamp(NOW // 1_000_000, UTC)
    request = pb.GetBusyRequest(start_time=start, end_time=start + timedelta(days=1))
    first, second = world.stream("WatchBusy", request)
    assert first == world.call("GetBusy", request)
    assert second == pb.GetBusyResponse()


def test_watch_busy_checks_its_request_as_get_busy_does(world: World) -> None:
    with pytest.raises(ValidationError, match="start_time"):
        world.stream("WatchBusy", pb.GetBusyRequest())


def test_sync_booking_answers_the_newest_state(world: World) -> None:
    assert world.call("SyncBooking", pb.SyncBookingRequest(booking=booking())).booking.revision == 3


def test_get_booking_answers_what_was_accepted(world: World) -> None:
    world.call("SyncBooking", pb.SyncBookingRequest(booking=booking()))
    assert world.call("GetBooking", pb.GetBookingRequest(id="b1")).booking.id == "b1"


@pytest.mark.parametrize(
    "rpc", ["Connect", "Disconnect", "GetBusy", "SyncBooking", "ListCalendars", "UpdateConnection"]
)
def test_a_wrong_request_changes_nothing(world: World, rpc: str) -> None:
    empty = SERVICE.methods_by_name[rpc].input_type._concrete_class()
    with pytest.raises(ValidationError):
        world.call(rpc, empty)
    assert (world.house.connections, world.house.bookings) == ({}, {})


def test_an_error_of_the_use_case_comes_through_as_it_is(world: World) -> None:
    with pytest.raises(NotFound):
        world.call("Disconnect", pb.DisconnectRequest(id="cal_9"))


def test_outside_a_call_there_is_no_caller() -> None:
    with pytest.raises(LookupError):
        caller()


def test_after_a_call_there_is_no_caller() -> None:
    with called_by(WHO):
        assert caller() == WHO
    with pytest.raises(LookupError):
        caller()
