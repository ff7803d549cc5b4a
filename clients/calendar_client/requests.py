"""Python values into request messages, and how long each call may take. No I/O.

Instants are ``datetime`` with a time zone; one without raises ``ValueError``, because nobody can know what it means.
Enums are lower-case words (``"caldav"``) or the generated values.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_client.words import value_name
from calendars.v1 import availability_pb2, booking_pb2, calendar_service_pb2, connection_pb2

STORED_S = 10.0
"""Seconds for calls that the service answers from its own database: List, Disconnect, GetBooking."""

PROVIDER_S = 20.0
"""Seconds for calls that talk with a provider: Connect, GetBusy, ListCalendars, UpdateConnection.

The service ends these by itself within 15 s, with an error that says more than a deadline does.
"""

WAIT_DEFAULT_S = 5.0
"""What the service waits in SyncBooking when the call does not say."""

WAIT_MOST_S = 30.0
"""What the service lowers the wait of SyncBooking to."""

AttendeeLike = str | tuple[str, str] | booking_pb2.Attendee
"""An e-mail address, an address with a name, or the message."""


def timestamp(value: datetime, name: str) -> Timestamp:
    """The instant as a message. Raises ``ValueError`` for a time without zone; ``name`` is the argument's."""
    if value.utcoffset() is None:
        raise ValueError(f"{name} has no time zone: use datetime(…, tzinfo=ZoneInfo('Europe/Berlin')) or UTC.")
    message = Timestamp()
    message.FromDatetime(value)
    return message


def duration(value: timedelta) -> Duration:
    """The length of time as a message."""
    message = Duration()
    message.FromTimedelta(value)
    return message


def sync_booking_s(wait: timedelta | None, require_free: bool) -> float:
    """Seconds for SyncBooking: the wait, a read from the provider where the span must be free, and some to spare."""
    wait_s = WAIT_DEFAULT_S if wait is None else min(max(wait.total_seconds(), 0.0), WAIT_MOST_S)
    return wait_s + 5.0 + (15.0 if require_free else 0.0)


def connect_google(
    *, redirect_uri: str, owner: str, connection_id: str, client_state: str
) -> calendar_service_pb2.ConnectRequest:
    return calendar_service_pb2.ConnectRequest(
        google=connection_pb2.GoogleAccount(redirect_uri=redirect_uri),
        owner=owner,
        connection_id=connection_id,
        client_state=client_state,
    )


def connect_microsoft(
    *, redirect_uri: str, tenant: str, owner: str, connection_id: str, client_state: str
) -> calendar_service_pb2.ConnectRequest:
    return calendar_service_pb2.ConnectRequest(
        microsoft=connection_pb2.MicrosoftAccount(redirect_uri=redirect_uri, tenant=tenant),
        owner=owner,
        connection_id=connection_id,
        client_state=client_state,
    )


def connect_caldav(
    *, preset: str | int, username: str, password: str, server_url: str, owner: str, connection_id: str
) -> calendar_service_pb2.ConnectRequest:
    account = connection_pb2.CaldavAccount(
        preset=value_name(connection_pb2.CaldavPreset.DESCRIPTOR, preset),
        username=username,
        password=password,
        server_url=server_url,
    )
    return calendar_service_pb2.ConnectRequest(caldav=account, owner=owner, connection_id=connection_id)


def list_connections(
    *,
    page_size: int,
    page_token: str,
    ids: Iterable[str],
    owner: str | None,
    provider: str | int | None,
    status: str | int | None,
) -> calendar_service_pb2.ListRequest:
    """``owner`` None: any; empty: those without one."""
    return calendar_service_pb2.ListRequest(
        page_size=page_size,
        page_token=page_token,
        ids=several(ids, "ids"),
        owner=owner,
        provider=value_name(connection_pb2.Provider.DESCRIPTOR, provider),
        status=value_name(connection_pb2.ConnectionStatus.DESCRIPTOR, status),
    )


def several(values: Iterable[str] | None, name: str) -> list[str]:
    """The values as a list. A bare string is refused: it would be taken for a list of its letters."""
    if isinstance(values, str):
        raise ValueError(f"{name} takes a list: write [{values!r}].")
    return list(values or ())


def get_busy(
    *,
    connection_ids: Iterable[str] | None,
    owner: str | None,
    start: datetime,
    end: datetime,
    max_staleness: timedelta | None,
    exclude_booking_ids: Iterable[str],
    ignore_tentative: bool,
    allow_partial: bool,
    view: str | int,
) -> calendar_service_pb2.GetBusyRequest:
    return calendar_service_pb2.GetBusyRequest(
        connection_ids=several(connection_ids, "connection_ids"),
        owner=owner or "",
        start_time=timestamp(start, "start"),
        end_time=timestamp(end, "end"),
        exclude_booking_ids=several(exclude_booking_ids, "exclude_booking_ids"),
        ignore_tentative=ignore_tentative,
        allow_partial=allow_partial,
        view=value_name(availability_pb2.BusyView.DESCRIPTOR, view),
        max_staleness=None if max_staleness is None else duration(max_staleness),
    )


def sync_booking(
    *,
    id: str,
    revision: int,
    status: str | int,
    title: str,
    description: str,
    location: str,
    start: datetime | None,
    end: datetime | None,
    time_zone: str,
    attendees: Iterable[AttendeeLike],
    url: str,
    connection_ids: Iterable[str] | None,
    owner: str | None,
    require_free: bool,
    wait: timedelta | None,
) -> calendar_service_pb2.SyncBookingRequest:
    booking = booking_pb2.Booking(
        id=id,
        revision=revision,
        status=value_name(booking_pb2.BookingStatus.DESCRIPTOR, status),
        title=title,
        description=description,
        location=location,
        start_time=None if start is None else timestamp(start, "start"),
        end_time=None if end is None else timestamp(end, "end"),
        time_zone=time_zone,
        attendees=_attendees(attendees),
        url=url,
    )
    return calendar_service_pb2.SyncBookingRequest(
        booking=booking,
        connection_ids=several(connection_ids, "connection_ids"),
        owner=owner or "",
        require_free=require_free,
        wait=None if wait is None else duration(wait),
    )


def update_connection(
    *, id: str, calendar_id: str | None, busy_calendar_ids: Iterable[str] | None
) -> calendar_service_pb2.UpdateConnectionRequest:
    """The mask names what was given: None leaves a field as it is, an empty value empties it."""
    paths = []
    if calendar_id is not None:
        paths.append("calendar_id")
    if busy_calendar_ids is not None:
        paths.append("busy_calendar_ids")
    if not paths:
        raise ValueError("Nothing to change: give calendar_id, busy_calendar_ids or both.")
    return calendar_service_pb2.UpdateConnectionRequest(
        id=id,
        calendar_id=calendar_id or "",
        busy_calendar_ids=several(busy_calendar_ids, "busy_calendar_ids"),
        update_mask=FieldMask(paths=paths),
    )


def _attendees(values: Iterable[AttendeeLike]) -> list[booking_pb2.Attendee]:
    if isinstance(values, str):
        raise ValueError(f"attendees takes a list: write [{values!r}].")
    return [_attendee(each) for each in values]


def _attendee(value: AttendeeLike) -> booking_pb2.Attendee:
    if isinstance(value, booking_pb2.Attendee):
        return value
    if isinstance(value, str):
        return booking_pb2.Attendee(email=value)
    # A mapping would be taken apart into its keys.
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(each, str) for each in value):
        return booking_pb2.Attendee(email=value[0], name=value[1])
    raise ValueError(f"An attendee is an address, (address, name) or an Attendee, not {value!r}.")
