"""The service's methods, three lines each: a command from the request, the use case, its answer for the wire.

GetBusy and WatchBusy, of which there are many, answer in bytes: ``Encoded`` instead of a message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

import grpc

from calendar_server.core.model import BookingId, Connection, ConnectionId, Instant
from calendar_server.rpc import convert
from calendar_server.rpc.call import caller, ended
from calendar_server.rpc.wire import Encoded, busy_wire
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
from calendars.v1 import calendar_service_pb2_grpc, connection_pb2


class ConnectionsUseCase(Protocol):
    """What callers do with connections."""

    def connect(self, caller: Caller, command: ConnectCommand, /) -> Connection | AuthorizationUrl: ...
    def list(self, caller: Caller, query: ListQuery, /) -> ConnectionPage: ...
    def disconnect(self, caller: Caller, connection_id: ConnectionId, /) -> None: ...
    def list_calendars(self, caller: Caller, connection_id: ConnectionId, /) -> tuple[ListedCalendar, ...]: ...
    def update(self, caller: Caller, command: UpdateCommand, /) -> Connection: ...


class AvailabilityUseCase(Protocol):
    """When connections are busy."""

    def get_busy(self, caller: Caller, query: BusyQuery, /) -> BusyAnswer: ...
    def watch(self, caller: Caller, query: BusyQuery, stop: threading.Event, /) -> Iterator[BusyAnswer]: ...


class BookingsUseCase(Protocol):
    """What callers do with bookings."""

    def sync(self, caller: Caller, command: SyncCommand, /) -> BookingReport: ...
    def get(self, caller: Caller, booking_id: BookingId, /) -> BookingReport: ...


def wall_clock() -> Instant:
    """Now, by this machine."""
    return time.time_ns() // 1000


class CalendarServicer(calendar_service_pb2_grpc.CalendarServiceServicer):
    """Runs behind the interceptors, which know the caller and turn errors into statuses."""

    def __init__(
        self,
        connections: ConnectionsUseCase,
        availability: AvailabilityUseCase,
        bookings: BookingsUseCase,
        clock: Callable[[], Instant] = wall_clock,
    ):
        self._connections = connections
        self._availability = availability
        self._bookings = bookings
        self._clock = clock

    def Connect(self, request: pb.ConnectRequest, context: grpc.ServicerContext) -> pb.ConnectResponse:
        command = convert.connect_command(request)
        return convert.connect_response(self._connections.connect(caller(), command))

    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ListResponse:
        query = convert.list_query(request)
        return convert.list_response(self._connections.list(caller(), query))

    def Disconnect(self, request: pb.DisconnectRequest, context: grpc.ServicerContext) -> pb.DisconnectResponse:
        connection_id = convert.disconnect_id(request)
        self._connections.disconnect(caller(), connection_id)
        return convert.disconnect_response(connection_id)

    def GetBusy(self, request: pb.GetBusyRequest, context: grpc.ServicerContext) -> Encoded:
        query = convert.busy_query(request, self._clock())
        return Encoded(busy_wire(self._availability.get_busy(caller(), query)))

    def WatchBusy(self, request: pb.GetBusyRequest, context: grpc.ServicerContext) -> Generator[Encoded]:
        query = convert.busy_query(request, self._clock())
        for answer in self._availability.watch(caller(), query, ended(context)):
            yield Encoded(busy_wire(answer))

    def SyncBooking(self, request: pb.SyncBookingRequest, context: grpc.ServicerContext) -> pb.SyncBookingResponse:
        command = convert.sync_command(request)
        return convert.sync_response(self._bookings.sync(caller(), command))

    def ListCalendars(
        self, request: pb.ListCalendarsRequest, context: grpc.ServicerContext
    ) -> pb.ListCalendarsResponse:
        connection_id = convert.list_calendars_id(request)
        return convert.list_calendars_response(self._connections.list_calendars(caller(), connection_id))

    def UpdateConnection(
        self, request: pb.UpdateConnectionRequest, context: grpc.ServicerContext
    ) -> connection_pb2.Connection:
        command = convert.update_command(request)
        return convert.connection_message(self._connections.update(caller(), command))

    def GetBooking(self, request: pb.GetBookingRequest, context: grpc.ServicerContext) -> pb.GetBookingResponse:
        booking_id = convert.get_booking_id(request)
        return convert.get_booking_response(self._bookings.get(caller(), booking_id))
