# mypy: disable-error-code="type-arg"
import datetime

from calendars.v1 import errors_pb2 as _errors_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BookingStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOOKING_STATUS_UNSPECIFIED: _ClassVar[BookingStatus]
    BOOKING_STATUS_CONFIRMED: _ClassVar[BookingStatus]
    BOOKING_STATUS_CANCELLED: _ClassVar[BookingStatus]

class BookingEventState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOOKING_EVENT_STATE_UNSPECIFIED: _ClassVar[BookingEventState]
    BOOKING_EVENT_STATE_PENDING: _ClassVar[BookingEventState]
    BOOKING_EVENT_STATE_SYNCED: _ClassVar[BookingEventState]
    BOOKING_EVENT_STATE_FAILED: _ClassVar[BookingEventState]
    BOOKING_EVENT_STATE_REMOVED: _ClassVar[BookingEventState]
    BOOKING_EVENT_STATE_GONE: _ClassVar[BookingEventState]
    BOOKING_EVENT_STATE_DETACHED: _ClassVar[BookingEventState]

class BookingEventDrift(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BOOKING_EVENT_DRIFT_UNSPECIFIED: _ClassVar[BookingEventDrift]
    BOOKING_EVENT_DRIFT_NONE: _ClassVar[BookingEventDrift]
    BOOKING_EVENT_DRIFT_MOVED: _ClassVar[BookingEventDrift]
    BOOKING_EVENT_DRIFT_EDITED: _ClassVar[BookingEventDrift]
    BOOKING_EVENT_DRIFT_DELETED: _ClassVar[BookingEventDrift]
BOOKING_STATUS_UNSPECIFIED: BookingStatus
BOOKING_STATUS_CONFIRMED: BookingStatus
BOOKING_STATUS_CANCELLED: BookingStatus
BOOKING_EVENT_STATE_UNSPECIFIED: BookingEventState
BOOKING_EVENT_STATE_PENDING: BookingEventState
BOOKING_EVENT_STATE_SYNCED: BookingEventState
BOOKING_EVENT_STATE_FAILED: BookingEventState
BOOKING_EVENT_STATE_REMOVED: BookingEventState
BOOKING_EVENT_STATE_GONE: BookingEventState
BOOKING_EVENT_STATE_DETACHED: BookingEventState
BOOKING_EVENT_DRIFT_UNSPECIFIED: BookingEventDrift
BOOKING_EVENT_DRIFT_NONE: BookingEventDrift
BOOKING_EVENT_DRIFT_MOVED: BookingEventDrift
BOOKING_EVENT_DRIFT_EDITED: BookingEventDrift
BOOKING_EVENT_DRIFT_DELETED: BookingEventDrift

class Booking(_message.Message):
    __slots__ = ("id", "revision", "status", "title", "description", "location", "start_time", "end_time", "time_zone", "attendees", "url")
    ID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    ATTENDEES_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    id: str
    revision: int
    status: BookingStatus
    title: str
    description: str
    location: str
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    time_zone: str
    attendees: _containers.RepeatedCompositeFieldContainer[Attendee]
    url: str
    def __init__(self, id: _Optional[str] = ..., revision: _Optional[int] = ..., status: _Optional[_Union[BookingStatus, str]] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., location: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., time_zone: _Optional[str] = ..., attendees: _Optional[_Iterable[_Union[Attendee, _Mapping]]] = ..., url: _Optional[str] = ...) -> None: ...

class Attendee(_message.Message):
    __slots__ = ("email", "name")
    EMAIL_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    email: str
    name: str
    def __init__(self, email: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class BookingEvent(_message.Message):
    __slots__ = ("connection_id", "calendar_id", "event_id", "state", "synced_revision", "web_link", "problem", "next_attempt_at", "attempts", "drift")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SYNCED_REVISION_FIELD_NUMBER: _ClassVar[int]
    WEB_LINK_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_AT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    calendar_id: str
    event_id: str
    state: BookingEventState
    synced_revision: int
    web_link: str
    problem: _errors_pb2.Problem
    next_attempt_at: _timestamp_pb2.Timestamp
    attempts: int
    drift: BookingEventDrift
    def __init__(self, connection_id: _Optional[str] = ..., calendar_id: _Optional[str] = ..., event_id: _Optional[str] = ..., state: _Optional[_Union[BookingEventState, str]] = ..., synced_revision: _Optional[int] = ..., web_link: _Optional[str] = ..., problem: _Optional[_Union[_errors_pb2.Problem, _Mapping]] = ..., next_attempt_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempts: _Optional[int] = ..., drift: _Optional[_Union[BookingEventDrift, str]] = ...) -> None: ...
