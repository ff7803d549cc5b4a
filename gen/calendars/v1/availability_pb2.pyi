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

class BusyView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUSY_VIEW_UNSPECIFIED: _ClassVar[BusyView]
    BUSY_VIEW_MERGED: _ClassVar[BusyView]
    BUSY_VIEW_PER_CALENDAR: _ClassVar[BusyView]
    BUSY_VIEW_EXPLAINED: _ClassVar[BusyView]

class BusyState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BUSY_STATE_UNSPECIFIED: _ClassVar[BusyState]
    BUSY_STATE_FRESH: _ClassVar[BusyState]
    BUSY_STATE_STALE: _ClassVar[BusyState]
    BUSY_STATE_UNKNOWN: _ClassVar[BusyState]

class BlockReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLOCK_REASON_UNSPECIFIED: _ClassVar[BlockReason]
    BLOCK_REASON_BUSY: _ClassVar[BlockReason]
    BLOCK_REASON_TENTATIVE: _ClassVar[BlockReason]
    BLOCK_REASON_OUT_OF_OFFICE: _ClassVar[BlockReason]
    BLOCK_REASON_FOCUS_TIME: _ClassVar[BlockReason]
    BLOCK_REASON_TRAVEL: _ClassVar[BlockReason]
    BLOCK_REASON_BOOKING: _ClassVar[BlockReason]
    BLOCK_REASON_UNREADABLE: _ClassVar[BlockReason]
    BLOCK_REASON_FREE: _ClassVar[BlockReason]
    BLOCK_REASON_CANCELLED: _ClassVar[BlockReason]
    BLOCK_REASON_DECLINED: _ClassVar[BlockReason]
    BLOCK_REASON_WORKING_ELSEWHERE: _ClassVar[BlockReason]
    BLOCK_REASON_BIRTHDAY: _ClassVar[BlockReason]
    BLOCK_REASON_ZERO_LENGTH: _ClassVar[BlockReason]
    BLOCK_REASON_TENTATIVE_IGNORED: _ClassVar[BlockReason]
    BLOCK_REASON_BOOKING_EXCLUDED: _ClassVar[BlockReason]
BUSY_VIEW_UNSPECIFIED: BusyView
BUSY_VIEW_MERGED: BusyView
BUSY_VIEW_PER_CALENDAR: BusyView
BUSY_VIEW_EXPLAINED: BusyView
BUSY_STATE_UNSPECIFIED: BusyState
BUSY_STATE_FRESH: BusyState
BUSY_STATE_STALE: BusyState
BUSY_STATE_UNKNOWN: BusyState
BLOCK_REASON_UNSPECIFIED: BlockReason
BLOCK_REASON_BUSY: BlockReason
BLOCK_REASON_TENTATIVE: BlockReason
BLOCK_REASON_OUT_OF_OFFICE: BlockReason
BLOCK_REASON_FOCUS_TIME: BlockReason
BLOCK_REASON_TRAVEL: BlockReason
BLOCK_REASON_BOOKING: BlockReason
BLOCK_REASON_UNREADABLE: BlockReason
BLOCK_REASON_FREE: BlockReason
BLOCK_REASON_CANCELLED: BlockReason
BLOCK_REASON_DECLINED: BlockReason
BLOCK_REASON_WORKING_ELSEWHERE: BlockReason
BLOCK_REASON_BIRTHDAY: BlockReason
BLOCK_REASON_ZERO_LENGTH: BlockReason
BLOCK_REASON_TENTATIVE_IGNORED: BlockReason
BLOCK_REASON_BOOKING_EXCLUDED: BlockReason

class BusyInterval(_message.Message):
    __slots__ = ("start_time", "end_time")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CalendarBusy(_message.Message):
    __slots__ = ("connection_id", "calendar_id", "state", "as_of", "problem", "busy", "events")
    CONNECTION_ID_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AS_OF_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    connection_id: str
    calendar_id: str
    state: BusyState
    as_of: _timestamp_pb2.Timestamp
    problem: _errors_pb2.Problem
    busy: _containers.RepeatedCompositeFieldContainer[BusyInterval]
    events: _containers.RepeatedCompositeFieldContainer[ExplainedEvent]
    def __init__(self, connection_id: _Optional[str] = ..., calendar_id: _Optional[str] = ..., state: _Optional[_Union[BusyState, str]] = ..., as_of: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., problem: _Optional[_Union[_errors_pb2.Problem, _Mapping]] = ..., busy: _Optional[_Iterable[_Union[BusyInterval, _Mapping]]] = ..., events: _Optional[_Iterable[_Union[ExplainedEvent, _Mapping]]] = ...) -> None: ...

class ExplainedEvent(_message.Message):
    __slots__ = ("start_time", "end_time", "blocks", "reason", "booking_id", "event_id")
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BOOKING_ID_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    blocks: bool
    reason: BlockReason
    booking_id: str
    event_id: str
    def __init__(self, start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., blocks: _Optional[bool] = ..., reason: _Optional[_Union[BlockReason, str]] = ..., booking_id: _Optional[str] = ..., event_id: _Optional[str] = ...) -> None: ...

class BusyFailure(_message.Message):
    __slots__ = ("calendars",)
    CALENDARS_FIELD_NUMBER: _ClassVar[int]
    calendars: _containers.RepeatedCompositeFieldContainer[CalendarBusy]
    def __init__(self, calendars: _Optional[_Iterable[_Union[CalendarBusy, _Mapping]]] = ...) -> None: ...
