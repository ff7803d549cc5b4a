"""Between protos and values: requests to commands, answers to responses.

Each reading function checks the form of the whole request and raises one ``ValidationError`` that names every wrong
field by its proto path from the request's root. What needs the database or a provider is checked later.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_server.core.model import (
    DAY,
    MINUTE,
    SECOND,
    Attendee,
    Booking,
    BookingId,
    BookingStatus,
    BusyView,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    Interval,
    Preset,
    ProviderName,
)
from calendar_server.rpc.validate import CALENDAR_ID_BYTES, ID_BYTES, LIST_MOST, NANOS, Form, years_from
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    BookingEvent,
    BookingReport,
    BusyAnswer,
    BusyQuery,
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
from calendars.v1 import availability_pb2, booking_pb2, calendar_service_pb2, connection_pb2, errors_pb2

PAGE_SIZE, PAGE_SIZE_MOST = 50, 200
PAGE_TOKEN_BYTES = 4096
CLIENT_STATE_BYTES = 512
TENANT_BYTES = 256
USERNAME_BYTES, PASSWORD_BYTES = 256, 1024
WINDOW_DAYS_MOST = 366
YEARS_BACK, YEARS_AHEAD = 2, 3
CLOCK_TOLERANCE = MINUTE
"""The bounds of the window move with the clock, and the caller's may be a little off."""
STALENESS_MOST_S = 86_400.0
MICRO = 1000
"""Nanoseconds of an instant's step."""
INT32_MOST = 2**31 - 1
WAIT_S, WAIT_MOST_S = 5.0, 30.0
TITLE_BYTES, DESCRIPTION_BYTES, LOCATION_BYTES = 1024, 8192, 1024
ATTENDEES_MOST, ATTENDEE_NAME_BYTES = 200, 256
# A booking outside these is a slip of the caller's units, not an appointment: 1971-01-01 and 2200-01-01.
BOOKING_FIRST, BOOKING_LAST = 31_536_000 * NANOS, 7_258_118_400 * NANOS

Member = TypeVar("Member", bound=StrEnum)


def _members(values: EnumTypeWrapper, prefix: str, members: type[Member]) -> dict[int, Member]:
    """Our members by the number of the proto value of the same name. Raises ``ValueError`` where there is none."""
    return {values.Value(prefix + member.name): member for member in members}


_PROVIDERS = _members(connection_pb2.Provider, "PROVIDER_", ProviderName)
_PRESETS = _members(connection_pb2.CaldavPreset, "CALDAV_PRESET_", Preset)
_CONNECTION_STATUSES = _members(connection_pb2.ConnectionStatus, "CONNECTION_STATUS_", ConnectionStatus)
_BUSY_VIEWS = _members(availability_pb2.BusyView, "BUSY_VIEW_", BusyView)
_BOOKING_STATUSES = _members(booking_pb2.BookingStatus, "BOOKING_STATUS_", BookingStatus)
_REASONS = frozenset(errors_pb2.ErrorReason.keys())


# Requests


def connect_command(request: calendar_service_pb2.ConnectRequest) -> ConnectCommand:
    """The account to connect. Raises ``ValidationError``."""
    form = Form()
    account = _account(form, request)
    command = ConnectCommand(
        account=account,
        owner=form.text("owner", request.owner, ID_BYTES),
        connection_id=ConnectionId(form.text("connection_id", request.connection_id, ID_BYTES)),
        client_state=form.text("client_state", request.client_state, CLIENT_STATE_BYTES),
    )
    form.check()
    return command


def _account(form: Form, request: calendar_service_pb2.ConnectRequest) -> OAuthAccount | CaldavAccount:
    match request.WhichOneof("account"):
        case "google":
            return OAuthAccount(
                ProviderName.GOOGLE,
                form.page("google.redirect_uri", request.google.redirect_uri, required=True, fragment=False),
            )
        case "microsoft":
            microsoft = request.microsoft
            tenant = form.text("microsoft.tenant", microsoft.tenant, TENANT_BYTES)
            # A tenant is a GUID, a domain or a word such as `common`; it becomes part of an address's path.
            if tenant and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", tenant):
                form.wrong("microsoft.tenant", "must be a tenant's id or domain, or `common`")
            return OAuthAccount(
                ProviderName.MICROSOFT,
                form.page("microsoft.redirect_uri", microsoft.redirect_uri, required=True, fragment=False),
                tenant or "common",
            )
        case "caldav":
            return _caldav_account(form, request.caldav)
        case _:
            form.wrong("account", "is required: google, microsoft or caldav")
            return CaldavAccount(Preset.CUSTOM, "", "")


def _caldav_account(form: Form, caldav: connection_pb2.CaldavAccount) -> CaldavAccount:
    preset = form.member("caldav.preset", caldav.preset, _PRESETS, required=True)
    if preset in (Preset.APPLE, Preset.FASTMAIL):
        if caldav.server_url:
            form.wrong("caldav.server_url", f"must be empty: the preset {preset.name} has its own")
        server_url = ""
    else:
        server_url = form.server_url("caldav.server_url", caldav.server_url)
        if preset and not caldav.server_url:
            form.wrong("caldav.server_url", f"is required for the preset {preset.name}")
    return CaldavAccount(
        preset=preset or Preset.CUSTOM,
        username=form.text("caldav.username", caldav.username, USERNAME_BYTES, required=True),
        password=form.text("caldav.password", caldav.password, PASSWORD_BYTES, required=True),
        server_url=server_url,
    )


def list_query(request: calendar_service_pb2.ListRequest) -> ListQuery:
    """The page that is asked for. Raises ``ValidationError``."""
    form = Form()
    if request.page_size < 0:
        form.wrong("page_size", "must not be negative")
    query = ListQuery(
        page_size=min(request.page_size or PAGE_SIZE, PAGE_SIZE_MOST),
        page_token=form.text("page_token", request.page_token, PAGE_TOKEN_BYTES),
        ids=_connection_ids(form, "ids", request.ids),
        owner=form.text("owner", request.owner, ID_BYTES) if request.HasField("owner") else None,
        provider=form.member("provider", request.provider, _PROVIDERS),
        status=form.member("status", request.status, _CONNECTION_STATUSES),
    )
    form.check()
    return query


def disconnect_id(request: calendar_service_pb2.DisconnectRequest) -> ConnectionId:
    """The connection to end. Raises ``ValidationError``."""
    return ConnectionId(_required_id("id", request.id))


def list_calendars_id(request: calendar_service_pb2.ListCalendarsRequest) -> ConnectionId:
    """The connection whose calendars are asked for. Raises ``ValidationError``."""
    return ConnectionId(_required_id("connection_id", request.connection_id))


def get_booking_id(request: calendar_service_pb2.GetBookingRequest) -> BookingId:
    """The booking that is asked for. Raises ``ValidationError``."""
    return BookingId(_required_id("id", request.id))


def update_command(request: calendar_service_pb2.UpdateConnectionRequest) -> UpdateCommand:
    """The choice of calendars. Without a mask the populated fields are meant. Raises ``ValidationError``."""
    form = Form()
    connection_id = ConnectionId(form.text("id", request.id, ID_BYTES, required=True))
    calendar_id = CalendarId(form.text("calendar_id", request.calendar_id, CALENDAR_ID_BYTES))
    busy_ids = tuple(
        CalendarId(busy_id)
        for busy_id in form.ids("busy_calendar_ids", request.busy_calendar_ids, bytes_most=CALENDAR_ID_BYTES)
    )
    paths = request.update_mask.paths
    if len(paths) > LIST_MOST:
        form.wrong("update_mask.paths", f"must have at most {LIST_MOST} entries")
    else:
        for position, path in enumerate(paths):
            if path not in ("calendar_id", "busy_calendar_ids"):
                form.wrong(f"update_mask.paths[{position}]", "must be calendar_id or busy_calendar_ids")
    changes_calendar = "calendar_id" in paths if paths else bool(calendar_id)
    changes_busy = "busy_calendar_ids" in paths if paths else bool(busy_ids)
    if changes_calendar and not request.calendar_id:
        form.wrong("calendar_id", "must not be empty under the mask: a connection keeps a calendar for bookings")
    form.check()
    return UpdateCommand(
        id=connection_id,
        calendar_id=calendar_id if changes_calendar else None,
        busy_calendar_ids=busy_ids if changes_busy else None,
    )


def busy_query(request: calendar_service_pb2.GetBusyRequest, now: Instant) -> BusyQuery:
    """What is asked about when. ``now`` bounds the window. Raises ``ValidationError``."""
    form = Form()
    max_staleness_s = None
    if request.HasField("max_staleness"):
        max_staleness_s = form.duration_s("max_staleness", request.max_staleness, STALENESS_MOST_S)
    query = BusyQuery(
        target=_target(form, request.connection_ids, request.owner, exclusive=True),
        window=_window(form, request, now),
        max_staleness_s=max_staleness_s,
        exclude_booking_ids=frozenset(
            BookingId(booking_id) for booking_id in form.ids("exclude_booking_ids", request.exclude_booking_ids)
        ),
        ignore_tentative=request.ignore_tentative,
        allow_partial=request.allow_partial,
        view=form.member("view", request.view, _BUSY_VIEWS) or BusyView.MERGED,
    )
    form.check()
    return query


def _window(form: Form, request: calendar_service_pb2.GetBusyRequest, now: Instant) -> Interval:
    start = form.nanoseconds("start_time", _present(request, "start_time", request.start_time))
    end = form.nanoseconds("end_time", _present(request, "end_time", request.end_time))
    if start is not None and start < (years_from(now, -YEARS_BACK) - CLOCK_TOLERANCE) * MICRO:
        form.wrong("start_time", f"must be at most {YEARS_BACK} years back")
    if end is not None and end > (years_from(now, YEARS_AHEAD) + CLOCK_TOLERANCE) * MICRO:
        form.wrong("end_time", f"must be at most {YEARS_AHEAD} years ahead")
    if start is None or end is None:
        return Interval(0, 0)
    if end <= start:
        form.wrong("end_time", "must be after start_time")
    elif end - start > WINDOW_DAYS_MOST * DAY * MICRO:
        form.wrong("end_time", f"must be at most {WINDOW_DAYS_MOST} days after start_time")
    # Instants are microseconds: a window between two of them is widened, so that it loses nothing.
    return Interval(start // MICRO, -(-end // MICRO))


def sync_command(request: calendar_service_pb2.SyncBookingRequest) -> SyncCommand:
    """The wanted state of a booking. Raises ``ValidationError``."""
    form = Form()
    if request.HasField("booking"):
        booking = _booking(form, request.booking)
    else:
        form.wrong("booking", "is required")
        booking = Booking(BookingId(""), 1, BookingStatus.CONFIRMED)
    if request.require_free and booking.end - booking.start > WINDOW_DAYS_MOST * DAY:
        form.wrong("booking.end_time", f"must be at most {WINDOW_DAYS_MOST} days after start_time with require_free")
    wait_s = WAIT_S
    if request.HasField("wait"):
        wait_s = form.duration_s("wait", request.wait, WAIT_MOST_S)
    # A cancellation covers every event ever written, whatever set comes with it.
    exclusive = booking.status is not BookingStatus.CANCELLED
    command = SyncCommand(
        booking=booking,
        target=_target(form, request.connection_ids, request.owner, exclusive=exclusive),
        require_free=request.require_free,
        wait_s=wait_s,
    )
    form.check()
    return command


def _booking(form: Form, booking: booking_pb2.Booking) -> Booking:
    status = form.member("booking.status", booking.status, _BOOKING_STATUSES, required=True)
    if booking.revision < 1:
        form.wrong("booking.revision", "must be at least 1")
    start, end = _span(form, booking, required=status is BookingStatus.CONFIRMED)
    return Booking(
        id=BookingId(form.text("booking.id", booking.id, ID_BYTES, required=True)),
        revision=booking.revision,
        status=status or BookingStatus.CONFIRMED,
        title=form.text("booking.title", booking.title, TITLE_BYTES),
        description=form.text("booking.description", booking.description, DESCRIPTION_BYTES, lines=True),
        location=form.text("booking.location", booking.location, LOCATION_BYTES),
        start=start,
        end=end,
        time_zone=form.time_zone("booking.time_zone", booking.time_zone),
        attendees=_attendees(form, booking.attendees),
        url=form.page("booking.url", booking.url),
    )


def _span(form: Form, booking: booking_pb2.Booking, *, required: bool) -> tuple[Instant, Instant]:
    """Start and end, whole seconds; both 0 when neither is told and neither has to be."""
    if not required and not booking.HasField("start_time") and not booking.HasField("end_time"):
        return 0, 0
    moments = []
    for name, told in (("start_time", booking.start_time), ("end_time", booking.end_time)):
        field = f"booking.{name}"
        moment = form.nanoseconds(field, _present(booking, name, told))
        if moment is not None and moment % NANOS:
            form.wrong(field, "must be whole seconds")
            moment = None
        elif moment is not None and not BOOKING_FIRST <= moment <= BOOKING_LAST:
            form.wrong(field, "must be in the years 1971 to 2199")
            moment = None
        moments.append(moment)
    start, end = moments
    if start is None or end is None:
        return 0, 0
    if end <= start:
        form.wrong("booking.end_time", "must be after start_time")
    return start // MICRO, end // MICRO


def _attendees(form: Form, attendees: Collection[booking_pb2.Attendee]) -> tuple[Attendee, ...]:
    if len(attendees) > ATTENDEES_MOST:
        form.wrong("booking.attendees", f"must have at most {ATTENDEES_MOST} entries")
        return ()
    told = [
        Attendee(
            email=form.email(f"booking.attendees[{position}].email", attendee.email),
            name=form.text(f"booking.attendees[{position}].name", attendee.name, ATTENDEE_NAME_BYTES),
        )
        for position, attendee in enumerate(attendees)
    ]
    return tuple(dict.fromkeys(told))


def _target(form: Form, connection_ids: Collection[str], owner: str, *, exclusive: bool) -> Target:
    ids = _connection_ids(form, "connection_ids", connection_ids)
    told_owner = form.text("owner", owner, ID_BYTES)
    if exclusive and connection_ids and owner:
        form.wrong("owner", "must be empty when connection_ids are given")
    return Target(ids, told_owner)


def _connection_ids(form: Form, field: str, values: Collection[str]) -> tuple[ConnectionId, ...]:
    return tuple(ConnectionId(value) for value in form.ids(field, values))


def _required_id(field: str, value: str) -> str:
    form = Form()
    told = form.text(field, value, ID_BYTES, required=True)
    form.check()
    return told


def _present(message: Message, field: str, moment: Timestamp) -> Timestamp | None:
    return moment if message.HasField(field) else None


# Responses


def connect_response(result: Connection | AuthorizationUrl) -> calendar_service_pb2.ConnectResponse:
    """How a connection goes on."""
    if isinstance(result, AuthorizationUrl):
        return calendar_service_pb2.ConnectResponse(authorization_url=result.url)
    return calendar_service_pb2.ConnectResponse(connection=connection_message(result))


def list_response(page: ConnectionPage) -> calendar_service_pb2.ListResponse:
    """A page of connections."""
    return calendar_service_pb2.ListResponse(
        data=[connection_message(connection) for connection in page.connections],
        has_more=page.next_page_token != "",
        next_page_token=page.next_page_token,
    )


def disconnect_response(connection_id: ConnectionId) -> calendar_service_pb2.DisconnectResponse:
    """The connection that was ended."""
    return calendar_service_pb2.DisconnectResponse(id=connection_id, deleted=True)


def list_calendars_response(calendars: Iterable[ListedCalendar]) -> calendar_service_pb2.ListCalendarsResponse:
    """The calendars of a connection."""
    return calendar_service_pb2.ListCalendarsResponse(
        calendars=[
            connection_pb2.Calendar(
                id=text(listed.calendar.id),
                name=text(listed.calendar.name),
                time_zone=text(listed.calendar.time_zone),
                primary=listed.calendar.primary,
                writable=listed.calendar.writable,
                blocks=listed.blocks,
                color=text(listed.calendar.color),
            )
            for listed in calendars
        ]
    )


def connection_message(connection: Connection) -> connection_pb2.Connection:
    """A connection as callers see it: no secret, no settings, no subject."""
    sync_error = connection.sync_error
    return connection_pb2.Connection(
        id=connection.id,
        provider=f"PROVIDER_{connection.provider.name}",
        calendar_id=text(connection.calendar_id),
        account_email=text(connection.account_email),
        connected_at=timestamp(connection.connected_at),
        status=f"CONNECTION_STATUS_{connection.status.name}",
        last_sync_at=_timestamp_or_none(connection.last_sync_at),
        sync_status=f"SYNC_STATUS_{connection.sync_status.name}",
        sync_error=None if sync_error is None else text(sync_error),
        owner=text(connection.owner),
        busy_calendar_ids=[text(calendar_id) for calendar_id in connection.busy_calendar_ids],
    )


def busy_response(answer: BusyAnswer) -> calendar_service_pb2.GetBusyResponse:
    """When the target is busy."""
    response = calendar_service_pb2.GetBusyResponse(
        complete=answer.complete,
        calendars=[calendar_busy(calendar) for calendar in answer.calendars],
    )
    # Filled in place: messages made one by one and then copied into the list take five times as long.
    for interval in answer.busy:
        _fill(response.busy.add(), interval)
    return response


def calendar_busy(calendar: CalendarBusy) -> availability_pb2.CalendarBusy:
    """What is known of one calendar."""
    return availability_pb2.CalendarBusy(
        connection_id=text(calendar.connection_id),
        calendar_id=text(calendar.calendar_id),
        state=f"BUSY_STATE_{calendar.state.name}",
        as_of=_timestamp_or_none(calendar.as_of),
        problem=_problem_or_none(calendar.problem),
        busy=[_busy_interval(interval) for interval in calendar.busy],
        events=[_explained_event(event) for event in calendar.events],
    )


def _fill(message: availability_pb2.BusyInterval, interval: Interval) -> None:
    start, end = message.start_time, message.end_time
    start.seconds, micros = divmod(interval.start, SECOND)
    if micros:
        start.nanos = micros * MICRO
    end.seconds, micros = divmod(interval.end, SECOND)
    if micros:
        end.nanos = micros * MICRO


def _busy_interval(interval: Interval) -> availability_pb2.BusyInterval:
    return availability_pb2.BusyInterval(start_time=timestamp(interval.start), end_time=timestamp(interval.end))


def _explained_event(event: ExplainedEvent) -> availability_pb2.ExplainedEvent:
    interval = event.interval
    return availability_pb2.ExplainedEvent(
        start_time=None if interval is None else timestamp(interval.start),
        end_time=None if interval is None else timestamp(interval.end),
        blocks=event.reason.blocks,
        reason=f"BLOCK_REASON_{event.reason.name}",
        booking_id=text(event.booking_id),
        event_id=text(event.event_id),
    )


def sync_response(report: BookingReport) -> calendar_service_pb2.SyncBookingResponse:
    """The newest state of a booking."""
    return calendar_service_pb2.SyncBookingResponse(
        booking=_booking_message(report.booking), events=[_booking_event(event) for event in report.events]
    )


def get_booking_response(report: BookingReport) -> calendar_service_pb2.GetBookingResponse:
    """The newest state of a booking."""
    return calendar_service_pb2.GetBookingResponse(
        booking=_booking_message(report.booking), events=[_booking_event(event) for event in report.events]
    )


def _booking_message(booking: Booking) -> booking_pb2.Booking:
    # A cancellation that was never anything else has no times.
    timed = booking.start != 0 or booking.end != 0
    return booking_pb2.Booking(
        id=booking.id,
        revision=booking.revision,
        status=f"BOOKING_STATUS_{booking.status.name}",
        title=booking.title,
        description=booking.description,
        location=booking.location,
        start_time=timestamp(booking.start) if timed else None,
        end_time=timestamp(booking.end) if timed else None,
        time_zone=booking.time_zone,
        attendees=[booking_pb2.Attendee(email=attendee.email, name=attendee.name) for attendee in booking.attendees],
        url=booking.url,
    )


def _booking_event(event: BookingEvent) -> booking_pb2.BookingEvent:
    return booking_pb2.BookingEvent(
        connection_id=text(event.connection_id),
        calendar_id=text(event.calendar_id),
        event_id=text(event.event_id),
        state=f"BOOKING_EVENT_STATE_{event.state.name}",
        drift=f"BOOKING_EVENT_DRIFT_{event.drift.name}",
        synced_revision=event.synced_revision,
        web_link=text(event.web_link),
        problem=_problem_or_none(event.problem),
        next_attempt_at=_timestamp_or_none(event.next_attempt_at),
        attempts=min(event.attempts, INT32_MOST),
    )


def _problem_or_none(problem: Problem | None) -> errors_pb2.Problem | None:
    if problem is None:
        return None
    reason = f"ERROR_REASON_{problem.reason}"
    return errors_pb2.Problem(
        # While a newer release runs beside this one, it may have stored a reason that we do not know.
        reason=reason if reason in _REASONS else "ERROR_REASON_UNSPECIFIED",
        message=text(problem.message),
        retry_at=_timestamp_or_none(problem.retry_at),
    )


def timestamp(instant: Instant) -> Timestamp:
    """An instant on the wire."""
    seconds, micros = divmod(instant, SECOND)
    return Timestamp(seconds=seconds, nanos=micros * MICRO)


def _timestamp_or_none(instant: Instant | None) -> Timestamp | None:
    return None if instant is None else timestamp(instant)


def text(told: str) -> str:
    """A provider's text as protobuf takes it: JSON and XML can smuggle in lone surrogates, which are no Unicode."""
    return told if told.isascii() else told.encode("utf-8", "replace").decode()
