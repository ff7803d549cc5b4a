"""A calendar service with memory, on a real loopback port: the contract's shape without providers or a database.

It keeps connections, calendars, events and bookings. ``fail`` makes calls end in errors with their details; ``stall`` makes
them never answer. What callers sent is read back from its state.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from calendars.v1 import availability_pb2, booking_pb2, calendar_service_pb2, connection_pb2, errors_pb2
from calendars.v1.calendar_service_pb2_grpc import (
    CalendarServiceServicer,
    add_CalendarServiceServicer_to_server,
)

API_KEY = "calkey_1_secret"
PASSWORD = "app-password"
EPOCH = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Failure:
    """How a call is to end. ``code`` without ``reason``: a status without any details, as gRPC itself makes it."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "It did not work."
    metadata: tuple[tuple[str, str], ...] = ()
    retry_after_s: float | None = None
    violations: tuple[tuple[str, str], ...] = ()
    calendars: tuple[availability_pb2.CalendarBusy, ...] = ()
    request_id: str = ""
    domain: str = "calendars.v1"
    raw_details: bytes | None = None


class _WireStatus(NamedTuple):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class WireStatus(_WireStatus, grpc.Status):
    """What ``abort_with_status`` takes."""


@dataclass(frozen=True)
class Event:
    """An event in a calendar; ``end`` exclusive. ``start`` None: it could not be read."""

    start: datetime | None
    end: datetime | None = None
    reason: int = availability_pb2.BLOCK_REASON_BUSY
    event_id: str = "event-1.ics"
    booking_id: str = ""

    @property
    def blocks(self) -> bool:
        return 0 < self.reason <= availability_pb2.BLOCK_REASON_UNREADABLE


@dataclass
class FakeService(CalendarServiceServicer):
    """The servicer and its world."""

    connections: dict[str, connection_pb2.Connection] = field(default_factory=dict)
    calendars: dict[str, list[connection_pb2.Calendar]] = field(default_factory=dict)
    events: dict[tuple[str, str], list[Event]] = field(default_factory=lambda: defaultdict(list))
    """By connection and calendar."""
    unknown: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """Calendars that cannot be read: the state they are told to be in, and the problem's message."""
    bookings: dict[str, booking_pb2.Booking] = field(default_factory=dict)
    booking_events: dict[str, list[booking_pb2.BookingEvent]] = field(default_factory=dict)
    push_state: int = booking_pb2.BOOKING_EVENT_STATE_SYNCED
    """Where the next bookings come to stand."""
    disconnected: set[str] = field(default_factory=set)
    deadlines_s: dict[str, float] = field(default_factory=dict)
    """What was left of the deadline when the last call of each RPC arrived."""
    received: dict[str, Message] = field(default_factory=dict)
    """The last request of each RPC."""
    arrivals: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    address: str = ""
    _failures: dict[str, list[Failure]] = field(default_factory=lambda: defaultdict(list))
    _stalled: set[str] = field(default_factory=set)
    _released: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    heartbeat_s: float = 0.2
    """How often watches are told again what has not changed."""
    told: int = 0
    """Answers that watches were given."""
    _endings: list[Failure] = field(default_factory=list)
    _watches: int = 0
    _changed: int = 0
    _changes: threading.Condition = field(default_factory=threading.Condition)

    # What tests arrange

    @property
    def watches(self) -> int:
        """Streams of WatchBusy that are open."""
        return self._watches

    def changed(self) -> None:
        """Tell open watches that the world has changed."""
        with self._changes:
            self._changed += 1
            self._changes.notify_all()

    def end_watches(self, failure: Failure) -> None:
        """Let one open watch, or the next, end so."""
        self._endings.append(failure)
        self.changed()

    def fail(self, rpc: str, failure: Failure, *, times: int = 100) -> None:
        """Let the next ``times`` calls of an RPC end so."""
        self._failures[rpc] = [failure] * times

    def stall(self, rpc: str) -> None:
        """Let calls of an RPC hang until the service ends."""
        self._stalled.add(rpc)

    def add_connection(
        self,
        id: str = "cal_1",
        *,
        account_email: str = "anna@example.org",
        provider: int = connection_pb2.PROVIDER_CALDAV,
        status: int = connection_pb2.CONNECTION_STATUS_ACTIVE,
        sync_status: int = connection_pb2.SYNC_STATUS_CONNECTED,
        sync_error: str | None = None,
        owner: str = "",
        calendars: Sequence[str] = ("/dav/anna/work/",),
        blocks: Sequence[str] | None = None,
    ) -> connection_pb2.Connection:
        """Connect an account, each a minute after the one before."""
        connection = connection_pb2.Connection(
            id=id,
            provider=provider,
            calendar_id=calendars[0] if calendars else "",
            account_email=account_email,
            connected_at=stamp(EPOCH + timedelta(minutes=len(self.connections))),
            status=status,
            last_sync_at=stamp(datetime.now(UTC)),
            sync_status=sync_status,
            sync_error=sync_error,
            owner=owner,
            busy_calendar_ids=calendars if blocks is None else blocks,
        )
        self.connections[id] = connection
        self.calendars[id] = [
            connection_pb2.Calendar(
                id=each,
                name=each.strip("/").rpartition("/")[2].capitalize(),
                time_zone="Europe/Berlin",
                primary=index == 0,
                writable=index == 0,
                color="#3366cc",
            )
            for index, each in enumerate(calendars)
        ]
        return connection

    # The calls

    def Connect(self, request: calendar_service_pb2.ConnectRequest, context: grpc.ServicerContext) -> Message:
        self._begin("Connect", request, context)
        if request.WhichOneof("account") != "caldav":
            account = request.google if request.HasField("google") else request.microsoft
            return calendar_service_pb2.ConnectResponse(
                authorization_url=f"https://accounts.example.com/authorize?redirect_uri={account.redirect_uri}"
            )
        if request.caldav.password != PASSWORD:
            failure = Failure(
                grpc.StatusCode.FAILED_PRECONDITION,
                "PROVIDER_REFUSED",
                "The server does not accept this user name and password.",
                metadata=(("cause", "credentials"),),
            )
            self._abort(context, failure)
        for connection in self.connections.values():
            if connection.account_email == request.caldav.username and request.connection_id != connection.id:
                conflict = Failure(
                    grpc.StatusCode.ALREADY_EXISTS,
                    "CONFLICT",
                    f"This account is connected already, as {connection.id}.",
                    metadata=(("connectionId", connection.id),),
                )
                self._abort(context, conflict)
        id = request.connection_id or f"cal_{len(self.connections) + 1}"
        connection = self.add_connection(id, account_email=request.caldav.username, owner=request.owner)
        return calendar_service_pb2.ConnectResponse(connection=connection)

    def List(self, request: calendar_service_pb2.ListRequest, context: grpc.ServicerContext) -> Message:
        self._begin("List", request, context)
        found = [
            connection
            for connection in reversed(list(self.connections.values()))
            if (not request.ids or connection.id in request.ids)
            and (not request.HasField("owner") or connection.owner == request.owner)
            and request.provider in (0, connection.provider)
            and request.status in (0, connection.status)
        ]
        begin, size = int(request.page_token or 0), request.page_size or 50
        more = begin + size < len(found)
        return calendar_service_pb2.ListResponse(
            data=found[begin : begin + size], has_more=more, next_page_token=str(begin + size) if more else ""
        )

    def Disconnect(self, request: calendar_service_pb2.DisconnectRequest, context: grpc.ServicerContext) -> Message:
        self._begin("Disconnect", request, context)
        if request.id not in self.disconnected:
            self._connection(request.id, context)
            del self.connections[request.id]
            self.disconnected.add(request.id)
        return calendar_service_pb2.DisconnectResponse(id=request.id, deleted=True)

    def ListCalendars(
        self, request: calendar_service_pb2.ListCalendarsRequest, context: grpc.ServicerContext
    ) -> Message:
        self._begin("ListCalendars", request, context)
        connection = self._connection(request.connection_id, context)
        for calendar in self.calendars[connection.id]:
            calendar.blocks = calendar.id in connection.busy_calendar_ids
        return calendar_service_pb2.ListCalendarsResponse(calendars=self.calendars[connection.id])

    def UpdateConnection(
        self, request: calendar_service_pb2.UpdateConnectionRequest, context: grpc.ServicerContext
    ) -> Message:
        self._begin("UpdateConnection", request, context)
        connection = self._connection(request.id, context)
        if "calendar_id" in request.update_mask.paths:
            connection.calendar_id = request.calendar_id
        if "busy_calendar_ids" in request.update_mask.paths:
            connection.busy_calendar_ids[:] = request.busy_calendar_ids
        return connection

    def GetBusy(self, request: calendar_service_pb2.GetBusyRequest, context: grpc.ServicerContext) -> Message:
        self._begin("GetBusy", request, context)
        return self._busy(request, context)

    def WatchBusy(
        self, request: calendar_service_pb2.GetBusyRequest, context: grpc.ServicerContext
    ) -> Iterator[Message]:
        self._begin("WatchBusy", request, context)
        with self._lock:
            self._watches += 1
        try:
            while context.is_active() and not self._released.is_set():
                with self._changes:
                    seen = self._changed
                failure = self._endings.pop(0) if self._endings else None
                if failure is not None:
                    self._abort(context, failure)
                yield self._busy(request, context)
                self.told += 1
                self._wait(seen)
        finally:
            with self._lock:
                self._watches -= 1

    def _wait(self, seen: int) -> None:
        """Until something has changed since, or a heartbeat is due."""
        with self._changes:
            self._changes.wait_for(lambda: self._changed != seen, timeout=self.heartbeat_s)

    def _busy(self, request: calendar_service_pb2.GetBusyRequest, context: grpc.ServicerContext) -> Message:
        answer = calendar_service_pb2.GetBusyResponse(complete=True)
        window = (request.start_time.ToDatetime(UTC), request.end_time.ToDatetime(UTC))
        spans: list[tuple[datetime, datetime]] = []
        for connection in self._targets(request.connection_ids, request.owner, context):
            for calendar_id in connection.busy_calendar_ids:
                calendar = self._calendar_busy(connection.id, calendar_id, window)
                spans += [(each.start_time.ToDatetime(UTC), each.end_time.ToDatetime(UTC)) for each in calendar.busy]
                if request.view < availability_pb2.BUSY_VIEW_PER_CALENDAR:
                    calendar.ClearField("busy")
                if request.view < availability_pb2.BUSY_VIEW_EXPLAINED:
                    calendar.ClearField("events")
                answer.calendars.append(calendar)
        answer.busy.extend(_merged(spans))
        bad = [each for each in answer.calendars if each.HasField("problem")]
        if bad and not request.allow_partial:
            failure = Failure(
                grpc.StatusCode.UNAVAILABLE,
                "PROVIDER_UNAVAILABLE",
                bad[0].problem.message,
                metadata=(("connectionId", bad[0].connection_id), ("calendarId", bad[0].calendar_id)),
                retry_after_s=5,
                calendars=tuple(bad),
            )
            self._abort(context, failure)
        answer.complete = not bad
        return answer

    def SyncBooking(self, request: calendar_service_pb2.SyncBookingRequest, context: grpc.ServicerContext) -> Message:
        self._begin("SyncBooking", request, context)
        wanted = request.booking
        known = self.bookings.get(wanted.id)
        if known is not None and wanted.revision == known.revision and wanted != known:
            wrong = ("booking.revision", "was sent before with other content; send a higher one.")
            failure = Failure(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", wrong[1], violations=(wrong,))
            self._abort(context, failure)
        if known is None or wanted.revision > known.revision:
            cancelled = wanted.status == booking_pb2.BOOKING_STATUS_CANCELLED
            if cancelled and known is not None:
                kept = booking_pb2.Booking()
                kept.CopyFrom(known)
                kept.revision, kept.status = wanted.revision, wanted.status
                wanted = kept
            self.bookings[wanted.id] = wanted
            if cancelled:
                for event in self.booking_events.get(wanted.id, []):
                    event.state = booking_pb2.BOOKING_EVENT_STATE_REMOVED
                    event.synced_revision = wanted.revision
                    event.ClearField("problem")
                    event.ClearField("next_attempt_at")
            else:
                self.booking_events[wanted.id] = [
                    self._booking_event(connection, wanted)
                    for connection in self._targets(request.connection_ids, request.owner, context)
                ]
        return calendar_service_pb2.SyncBookingResponse(
            booking=self.bookings[wanted.id], events=self.booking_events.get(wanted.id, [])
        )

    def GetBooking(self, request: calendar_service_pb2.GetBookingRequest, context: grpc.ServicerContext) -> Message:
        self._begin("GetBooking", request, context)
        if request.id not in self.bookings:
            self._abort(context, Failure(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "There is no such booking."))
        return calendar_service_pb2.GetBookingResponse(
            booking=self.bookings[request.id], events=self.booking_events.get(request.id, [])
        )

    # Inside

    def release(self) -> None:
        """Let stalled calls go."""
        self._released.set()
        self.changed()

    def _begin(self, rpc: str, request: Message, context: grpc.ServicerContext) -> None:
        """Note the call, check the key, and end the call here if that was arranged."""
        with self._lock:
            self.arrivals[rpc] += 1
            self.received[rpc] = request
            self.deadlines_s[rpc] = context.time_remaining()
            failure = self._failures[rpc].pop(0) if self._failures[rpc] else None
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {API_KEY}":
            self._abort(
                context, Failure(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED", "A valid API key is required.")
            )
        if rpc in self._stalled:
            self._released.wait(timeout=30)
        if failure is not None:
            self._abort(context, failure)

    def _abort(self, context: grpc.ServicerContext, failure: Failure) -> None:
        trailing: list[tuple[str, str | bytes]] = []
        if failure.request_id:
            trailing.append(("x-request-id", failure.request_id))
        details: list[Message] = []
        if failure.reason:
            details.append(ErrorInfo(reason=failure.reason, domain=failure.domain, metadata=dict(failure.metadata)))
        if failure.retry_after_s is not None:
            retry = RetryInfo()
            retry.retry_delay.FromTimedelta(timedelta(seconds=failure.retry_after_s))
            details.append(retry)
        if failure.violations:
            details.append(
                BadRequest(
                    field_violations=[
                        BadRequest.FieldViolation(field=name, description=text) for name, text in failure.violations
                    ]
                )
            )
        if failure.calendars:
            details.append(availability_pb2.BusyFailure(calendars=failure.calendars))
        if failure.raw_details is not None:
            trailing.append(("grpc-status-details-bin", failure.raw_details))
        elif details:
            status = Status(code=failure.code.value[0], message=failure.message)
            status.details.extend(_packed(each) for each in details)
            trailing.append(("grpc-status-details-bin", status.SerializeToString()))
        context.abort_with_status(WireStatus(failure.code, failure.message, tuple(trailing)))

    def _connection(self, id: str, context: grpc.ServicerContext) -> connection_pb2.Connection:
        if id not in self.connections:
            self._abort(context, Failure(grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "There is no such connection."))
        return self.connections[id]

    def _targets(
        self, ids: Sequence[str], owner: str, context: grpc.ServicerContext
    ) -> list[connection_pb2.Connection]:
        if ids:
            return [self._connection(each, context) for each in ids]
        return [each for each in self.connections.values() if each.owner == owner]

    def _calendar_busy(
        self, connection_id: str, calendar_id: str, window: tuple[datetime, datetime]
    ) -> availability_pb2.CalendarBusy:
        calendar = availability_pb2.CalendarBusy(
            connection_id=connection_id,
            calendar_id=calendar_id,
            state=availability_pb2.BUSY_STATE_FRESH,
            as_of=stamp(datetime.now(UTC)),
        )
        if (connection_id, calendar_id) in self.unknown:
            state, message = self.unknown[(connection_id, calendar_id)]
            reason = (
                errors_pb2.ERROR_REASON_EVENT_UNREADABLE
                if state == availability_pb2.BUSY_STATE_FRESH
                else errors_pb2.ERROR_REASON_PROVIDER_UNAVAILABLE
            )
            calendar.problem.CopyFrom(errors_pb2.Problem(reason=reason, message=message))
            calendar.state = state
        if calendar.state == availability_pb2.BUSY_STATE_UNKNOWN:
            calendar.ClearField("as_of")
            return calendar
        spans = []
        for event in self.events[(connection_id, calendar_id)]:
            told = availability_pb2.ExplainedEvent(
                blocks=event.blocks, reason=event.reason, event_id=event.event_id, booking_id=event.booking_id
            )
            if event.start is not None and event.end is not None:
                start, end = max(event.start, window[0]), min(event.end, window[1])
                if start > end:
                    continue
                told.start_time.CopyFrom(stamp(start))
                told.end_time.CopyFrom(stamp(end))
                if event.blocks:
                    spans.append((start, end))
            calendar.events.append(told)
        calendar.busy.extend(_merged(spans))
        return calendar

    def _booking_event(
        self, connection: connection_pb2.Connection, booking: booking_pb2.Booking
    ) -> booking_pb2.BookingEvent:
        event = booking_pb2.BookingEvent(
            connection_id=connection.id,
            calendar_id=connection.calendar_id,
            event_id=f"{connection.calendar_id}{booking.id}.ics",
            state=self.push_state,
            attempts=1,
        )
        if self.push_state == booking_pb2.BOOKING_EVENT_STATE_SYNCED:
            event.synced_revision = booking.revision
        elif self.push_state == booking_pb2.BOOKING_EVENT_STATE_FAILED:
            event.problem.reason = errors_pb2.ERROR_REASON_CALENDAR_READ_ONLY
            event.problem.message = "The calendar cannot be written to."
        elif self.push_state == booking_pb2.BOOKING_EVENT_STATE_PENDING:
            event.problem.reason = errors_pb2.ERROR_REASON_PROVIDER_UNAVAILABLE
            event.problem.message = "The server did not answer."
            event.next_attempt_at.CopyFrom(stamp(datetime.now(UTC) + timedelta(minutes=1)))
        return event


@contextmanager
def running(service: FakeService | None = None) -> Iterator[FakeService]:
    """The service on a free loopback port, for the length of a ``with``."""
    service = service or FakeService()
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    add_CalendarServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield service
    finally:
        service.release()
        server.stop(grace=None).wait()


def stamp(moment: datetime) -> Timestamp:
    """An instant as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _merged(spans: list[tuple[datetime, datetime]]) -> list[availability_pb2.BusyInterval]:
    merged: list[tuple[datetime, datetime]] = []
    for start, end in sorted(spans):
        if start >= end:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return [availability_pb2.BusyInterval(start_time=stamp(start), end_time=stamp(end)) for start, end in merged]


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
