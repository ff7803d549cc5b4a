"""From errors to gRPC statuses: the one table, and the details of ``google.rpc``.

Clients drop an answer whose trailing metadata is over 8 KB, and with it the reason. So everything here is cut to fit
``TRAILERS_MOST``, and what had to be left out is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from calendar_server import errors
from calendar_server.rpc import convert
from calendar_server.usecases.availability import BusyUnknown
from calendars.v1 import availability_pb2

TRAILERS_MOST = 5500
"""Bytes that message and details may take on the wire together."""
MESSAGE_MOST = 1000
SHORT_MESSAGE_MOST = 300
"""Bytes of a message inside the details."""
VALUE_MOST = 600
"""Bytes of a value in the metadata of the ErrorInfo: a path in a CalDAV server may be long."""
RETRY_MOST_S = 86_400.0
DETAILS_KEY = "grpc-status-details-bin"
INTERNAL_MESSAGE = "Something went wrong inside the service. Tell its operator the request id"

_Code = grpc.StatusCode

CODES: dict[type[errors.CalendarError], grpc.StatusCode] = {
    errors.ValidationError: _Code.INVALID_ARGUMENT,
    errors.Unauthorized: _Code.UNAUTHENTICATED,
    errors.NotFound: _Code.NOT_FOUND,
    errors.Conflict: _Code.ALREADY_EXISTS,
    errors.ProviderRefused: _Code.FAILED_PRECONDITION,
    errors.NeedsReauth: _Code.FAILED_PRECONDITION,
    errors.AccountMismatch: _Code.FAILED_PRECONDITION,
    errors.CalendarGone: _Code.FAILED_PRECONDITION,
    errors.CalendarReadOnly: _Code.FAILED_PRECONDITION,
    errors.AdminConsentRequired: _Code.FAILED_PRECONDITION,
    errors.ScopeMissing: _Code.FAILED_PRECONDITION,
    errors.EventUnreadable: _Code.UNAVAILABLE,
    errors.BookingUnreadable: _Code.UNAVAILABLE,
    errors.ProviderUnavailable: _Code.UNAVAILABLE,
    errors.NotConfigured: _Code.FAILED_PRECONDITION,
    errors.SlotTaken: _Code.ABORTED,
    errors.LimitExceeded: _Code.RESOURCE_EXHAUSTED,
    errors.StoreUnavailable: _Code.UNAVAILABLE,
    errors.ServiceStopping: _Code.UNAVAILABLE,
}
"""The code of each class of errors; a class that is not here has that of the class it is derived from.

Classes without either are unforeseen at this door: INTERNAL.
"""

_REPEATABLE = frozenset({errors.StoreUnavailable.reason, errors.ServiceStopping.reason})
"""UNAVAILABLE on our own side, which the next attempt may find mended."""

# Line separators are no control characters to Unicode, but end a line in many a log.
_UNSEEMLY = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ends that failed. ``details`` is a serialized ``google.rpc.Status``.

    It is not to be given before ``wait_s`` seconds have passed.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    details: bytes
    wait_s: float = 0.0


class _Wire(NamedTuple):
    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


class WireStatus(_Wire, grpc.Status):  # type: ignore[misc]
    """What ``ServicerContext.abort_with_status`` takes."""


def code_of(error: BaseException) -> grpc.StatusCode:
    """The code of an error; INTERNAL for what is not foreseen."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return _Code.INTERNAL


def answer_of(error: Exception, request_id: str) -> Answer:
    """The answer that an error becomes. What is unforeseen tells the request id and nothing else."""
    told = error.first if isinstance(error, BusyUnknown) else error
    code = code_of(told)
    if code is _Code.INTERNAL or not isinstance(told, errors.CalendarError):
        info = ErrorInfo(reason="INTERNAL", domain=errors.DOMAIN, metadata={"requestId": request_id})
        return _answer(_Code.INTERNAL, f"{INTERNAL_MESSAGE} {request_id}.", info, [])
    metadata = {key: shown(value, VALUE_MOST) for key, value in told.metadata.items()}
    info = ErrorInfo(reason=told.reason, domain=errors.DOMAIN, metadata=metadata)
    further: list[Message] = []
    if told.retry_after_s is not None:
        further.append(RetryInfo(retry_delay=_duration(told.retry_after_s)))
    message = shown(told.message, MESSAGE_MOST)
    if isinstance(told, errors.ValidationError):
        return _answer(code, message, info, further, violations=told.violations)
    if isinstance(error, BusyUnknown):
        calendars = [_failed_calendar(convert.calendar_busy(calendar)) for calendar in error.calendars]
        return _answer(code, message, info, further, calendars=calendars)
    return _answer(code, message, info, further)


def wire_status(answer: Answer, request_id: str) -> WireStatus:
    """The answer as gRPC aborts with it, with the request id beside it."""
    trailers: tuple[tuple[str, str | bytes], ...] = ((DETAILS_KEY, answer.details), ("x-request-id", request_id))
    if answer.code is grpc.StatusCode.UNAVAILABLE and answer.reason not in _REPEATABLE:
        # Standard clients repeat UNAVAILABLE within a second or two and know nothing of RetryInfo. A provider that is down
        # is not up again by then, and the repeat would end as DEADLINE_EXCEEDED, without the reason. A negative number
        # stops them (https://github.com/grpc/proposal/blob/master/A6-client-retries.md#pushback).
        trailers += (("grpc-retry-pushback-ms", "-1"),)
    return WireStatus(answer.code, answer.message, trailers)


def shown(value: str, bytes_most: int) -> str:
    """A text for the wire: valid Unicode, one line, cut at ``bytes_most`` bytes of UTF-8."""
    line = _UNSEEMLY.sub(" ", convert.text(value))
    raw = line.encode()
    if len(raw) <= bytes_most:
        return line
    return raw[: bytes_most - 3].decode(errors="ignore") + "…"


def _answer(
    code: grpc.StatusCode,
    message: str,
    info: ErrorInfo,
    further: Sequence[Message],
    *,
    violations: Sequence[errors.Violation] = (),
    calendars: Sequence[availability_pb2.CalendarBusy] = (),
) -> Answer:
    """Put together what fits: fewer violations and calendars first, then a shorter message."""
    keep, total = max(len(violations), len(calendars)), max(len(violations), len(calendars))
    while True:
        left_out = total - keep
        text = message
        if left_out:
            what = "calendars" if calendars else "wrong fields"
            text = f"{message} The details leave out {left_out} more {what}."
        details: list[Message] = [info, *further]
        if violations[:keep]:
            details.append(
                BadRequest(
                    field_violations=[
                        BadRequest.FieldViolation(
                            field=shown(violation.field, SHORT_MESSAGE_MOST),
                            description=shown(violation.description, SHORT_MESSAGE_MOST),
                        )
                        for violation in violations[:keep]
                    ]
                )
            )
        if calendars[:keep]:
            details.append(availability_pb2.BusyFailure(calendars=calendars[:keep]))
        status = Status(code=code.value[0], message=text, details=[_packed(detail) for detail in details])
        if _wire_bytes(status) <= TRAILERS_MOST:
            return Answer(code, info.reason, text, status.SerializeToString())
        if keep:
            keep = keep * 3 // 4
        elif len(message.encode()) > SHORT_MESSAGE_MOST:
            message = shown(message, SHORT_MESSAGE_MOST)
        else:
            # Only the metadata is left to be that large.
            longest = max(info.metadata, key=lambda key: len(info.metadata[key].encode()))
            info.metadata[longest] = shown(info.metadata[longest], len(info.metadata[longest].encode()) // 2)


def _failed_calendar(calendar: availability_pb2.CalendarBusy) -> availability_pb2.CalendarBusy:
    # The intervals are not what a failure tells; they may be many.
    calendar.ClearField("busy")
    calendar.ClearField("events")
    calendar.calendar_id = shown(calendar.calendar_id, VALUE_MOST)
    if calendar.HasField("problem"):
        calendar.problem.message = shown(calendar.problem.message, SHORT_MESSAGE_MOST)
    return calendar


def _wire_bytes(status: Status) -> int:
    """Bytes of the trailers: the message percent-encoded, the details in base64."""
    percent_encoded = quote(status.message, safe=" !\"#$&'()*+,/:;<=>?@[]^`{|}")
    return len(percent_encoded) + -(-len(status.SerializeToString()) // 3) * 4


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(round(min(max(seconds, 0.0), RETRY_MOST_S) * 1000))
    return duration
