# mypy: disable-error-code="type-arg"
import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_VALIDATION_ERROR: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHORIZED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_FOUND: _ClassVar[ErrorReason]
    ERROR_REASON_CONFLICT: _ClassVar[ErrorReason]
    ERROR_REASON_PROVIDER_REFUSED: _ClassVar[ErrorReason]
    ERROR_REASON_NEEDS_REAUTH: _ClassVar[ErrorReason]
    ERROR_REASON_ACCOUNT_MISMATCH: _ClassVar[ErrorReason]
    ERROR_REASON_CALENDAR_GONE: _ClassVar[ErrorReason]
    ERROR_REASON_CALENDAR_READ_ONLY: _ClassVar[ErrorReason]
    ERROR_REASON_ADMIN_CONSENT_REQUIRED: _ClassVar[ErrorReason]
    ERROR_REASON_SCOPE_MISSING: _ClassVar[ErrorReason]
    ERROR_REASON_PROVIDER_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_PROVIDER_THROTTLED: _ClassVar[ErrorReason]
    ERROR_REASON_EVENT_UNREADABLE: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_CONFIGURED: _ClassVar[ErrorReason]
    ERROR_REASON_SLOT_TAKEN: _ClassVar[ErrorReason]
    ERROR_REASON_LIMIT_EXCEEDED: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_SERVICE_STOPPING: _ClassVar[ErrorReason]
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_VALIDATION_ERROR: ErrorReason
ERROR_REASON_UNAUTHORIZED: ErrorReason
ERROR_REASON_NOT_FOUND: ErrorReason
ERROR_REASON_CONFLICT: ErrorReason
ERROR_REASON_PROVIDER_REFUSED: ErrorReason
ERROR_REASON_NEEDS_REAUTH: ErrorReason
ERROR_REASON_ACCOUNT_MISMATCH: ErrorReason
ERROR_REASON_CALENDAR_GONE: ErrorReason
ERROR_REASON_CALENDAR_READ_ONLY: ErrorReason
ERROR_REASON_ADMIN_CONSENT_REQUIRED: ErrorReason
ERROR_REASON_SCOPE_MISSING: ErrorReason
ERROR_REASON_PROVIDER_UNAVAILABLE: ErrorReason
ERROR_REASON_PROVIDER_THROTTLED: ErrorReason
ERROR_REASON_EVENT_UNREADABLE: ErrorReason
ERROR_REASON_NOT_CONFIGURED: ErrorReason
ERROR_REASON_SLOT_TAKEN: ErrorReason
ERROR_REASON_LIMIT_EXCEEDED: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_SERVICE_STOPPING: ErrorReason

class Problem(_message.Message):
    __slots__ = ("reason", "message", "retry_at")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AT_FIELD_NUMBER: _ClassVar[int]
    reason: ErrorReason
    message: str
    retry_at: _timestamp_pb2.Timestamp
    def __init__(self, reason: _Optional[_Union[ErrorReason, str]] = ..., message: _Optional[str] = ..., retry_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
