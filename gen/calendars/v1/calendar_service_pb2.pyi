# mypy: disable-error-code="type-arg"
import datetime

from calendars.v1 import availability_pb2 as _availability_pb2
from calendars.v1 import booking_pb2 as _booking_pb2
from calendars.v1 import connection_pb2 as _connection_pb2
from google.api import annotations_pb2 as _annotations_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ConnectRequest(_message.Message):
    __slots__ = ("google", "microsoft", "caldav", "owner", "connection_id", "client_state")
    GOOGLE_FIELD_NUMBER: _ClassVar[int]
    MICROSOFT_FIELD_NUMBER: _ClassVar[int]
    CALDAV_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_STATE_FIELD_NUMBER: _ClassVar[int]
    google: _connection_pb2.GoogleAccount
    microsoft: _connection_pb2.MicrosoftAccount
    caldav: _connection_pb2.CaldavAccount
    owner: str
    connection_id: str
    client_state: str
    def __init__(self, google: _Optional[_Union[_connection_pb2.GoogleAccount, _Mapping]] = ..., microsoft: _Optional[_Union[_connection_pb2.MicrosoftAccount, _Mapping]] = ..., caldav: _Optional[_Union[_connection_pb2.CaldavAccount, _Mapping]] = ..., owner: _Optional[str] = ..., connection_id: _Optional[str] = ..., client_state: _Optional[str] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("authorization_url", "connection")
    AUTHORIZATION_URL_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    authorization_url: str
    connection: _connection_pb2.Connection
    def __init__(self, authorization_url: _Optional[str] = ..., connection: _Optional[_Union[_connection_pb2.Connection, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "ids", "owner", "provider", "status")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    provider: _connection_pb2.Provider
    status: _connection_pb2.ConnectionStatus
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ..., provider: _Optional[_Union[_connection_pb2.Provider, str]] = ..., status: _Optional[_Union[_connection_pb2.ConnectionStatus, str]] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("data", "has_more", "next_page_token")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    data: _containers.RepeatedCompositeFieldContainer[_connection_pb2.Connection]
    has_more: bool
    next_page_token: str
    def __init__(self, data: _Optional[_Iterable[_Union[_connection_pb2.Connection, _Mapping]]] = ..., has_more: _Optional[bool] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DisconnectRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class DisconnectResponse(_message.Message):
    __slots__ = ("id", "deleted")
    ID_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    id: str
    deleted: bool
    def __init__(self, id: _Optional[str] = ..., deleted: _Optional[bool] = ...) -> None: ...

class GetBusyRequest(_message.Message):
    __slots__ = ("connection_ids", "owner", "start_time", "end_time", "max_staleness", "exclude_booking_ids", "ignore_tentative", "allow_partial", "view")
    CONNECTION_IDS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_BOOKING_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_TENTATIVE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    connection_ids: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    max_staleness: _duration_pb2.Duration
    exclude_booking_ids: _containers.RepeatedScalarFieldContainer[str]
    ignore_tentative: bool
    allow_partial: bool
    view: _availability_pb2.BusyView
    def __init__(self, connection_ids: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_staleness: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., exclude_booking_ids: _Optional[_Iterable[str]] = ..., ignore_tentative: _Optional[bool] = ..., allow_partial: _Optional[bool] = ..., view: _Optional[_Union[_availability_pb2.BusyView, str]] = ...) -> None: ...

class GetBusyResponse(_message.Message):
    __slots__ = ("busy", "complete", "calendars")
    BUSY_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    CALENDARS_FIELD_NUMBER: _ClassVar[int]
    busy: _containers.RepeatedCompositeFieldContainer[_availability_pb2.BusyInterval]
    complete: bool
    calendars: _containers.RepeatedCompositeFieldContainer[_availability_pb2.CalendarBusy]
    def __init__(self, busy: _Optional[_Iterable[_Union[_availability_pb2.BusyInterval, _Mapping]]] = ..., complete: _Optional[bool] = ..., calendars: _Optional[_Iterable[_Union[_availability_pb2.CalendarBusy, _Mapping]]] = ...) -> None: ...

class SyncBookingRequest(_message.Message):
    __slots__ = ("booking", "connection_ids", "owner", "require_free", "wait")
    BOOKING_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_IDS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_FREE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    booking: _booking_pb2.Booking
    connection_ids: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    require_free: bool
    wait: _duration_pb2.Duration
    def __init__(self, booking: _Optional[_Union[_booking_pb2.Booking, _Mapping]] = ..., connection_ids: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ..., require_free: _Optional[bool] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SyncBookingResponse(_message.Message):
    __slots__ = ("booking", "events")
    BOOKING_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    booking: _booking_pb2.Booking
    events: _containers.RepeatedCompositeFieldContainer[_booking_pb2.BookingEvent]
    def __init__(self, booking: _Optional[_Union[_booking_pb2.Booking, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_booking_pb2.BookingEvent, _Mapping]]] = ...) -> None: ...

class ListCalendarsRequest(_message.Message):
    __slots__ = ("connection_id",)
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    def __init__(self, connection_id: _Optional[str] = ...) -> None: ...

class ListCalendarsResponse(_message.Message):
    __slots__ = ("calendars",)
    CALENDARS_FIELD_NUMBER: _ClassVar[int]
    calendars: _containers.RepeatedCompositeFieldContainer[_connection_pb2.Calendar]
    def __init__(self, calendars: _Optional[_Iterable[_Union[_connection_pb2.Calendar, _Mapping]]] = ...) -> None: ...

class UpdateConnectionRequest(_message.Message):
    __slots__ = ("id", "calendar_id", "busy_calendar_ids", "update_mask")
    ID_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_ID_FIELD_NUMBER: _ClassVar[int]
    BUSY_CALENDAR_IDS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    id: str
    calendar_id: str
    busy_calendar_ids: _containers.RepeatedScalarFieldContainer[str]
    update_mask: _field_mask_pb2.FieldMask
    def __init__(self, id: _Optional[str] = ..., calendar_id: _Optional[str] = ..., busy_calendar_ids: _Optional[_Iterable[str]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ...) -> None: ...

class GetBookingRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetBookingResponse(_message.Message):
    __slots__ = ("booking", "events")
    BOOKING_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    booking: _booking_pb2.Booking
    events: _containers.RepeatedCompositeFieldContainer[_booking_pb2.BookingEvent]
    def __init__(self, booking: _Optional[_Union[_booking_pb2.Booking, _Mapping]] = ..., events: _Optional[_Iterable[_Union[_booking_pb2.BookingEvent, _Mapping]]] = ...) -> None: ...
