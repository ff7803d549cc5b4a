"""From errors to statuses: the table, and answers that fit what clients accept."""

from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server import errors
from calendar_server.core.model import BusyState, CalendarId, ConnectionId, Interval
from calendar_server.rpc.status import CODES, Answer, answer_of, code_of, shown, wire_status
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import CalendarBusy, Problem
from calendars.v1 import errors_pb2
from calendars.v1.availability_pb2 import BusyFailure

CLIENTS_TAKE = 8 * 1024

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.CalendarError)
    and kind not in (errors.CalendarError, errors.ProviderError, errors.PreconditionFailed)
]


def detail(answer: Answer, kind: type[BadRequest] | type[RetryInfo] | type[ErrorInfo] | type[BusyFailure]) -> object:
    found = [packed for packed in Status.FromString(answer.details).details if packed.Is(kind.DESCRIPTOR)]
    assert len(found) <= 1
    if not found:
        return None
    message = kind()
    found[0].Unpack(message)
    return message


def on_the_wire(answer: Answer, request_id: str = "r" * 64) -> int:
    """Bytes of the trailers as HTTP/2 counts them (RFC 9113 §6.5.2): name, value and 32 for each."""
    status = wire_status(answer, request_id)
    trailers = [("grpc-status", b"13"), ("grpc-message", percent_encoded(status.details)), *status.trailing_metadata]
    size = 0
    for name, value in trailers:
        raw = value.encode() if isinstance(value, str) else value
        size += len(name) + 32 + (-(-len(raw) // 3) * 4 if name.endswith("-bin") else len(raw))
    return size


def percent_encoded(message: str) -> str:
    return "".join(chr(b) if 0x20 <= b <= 0x7E and b != 0x25 else f"%{b:02X}" for b in message.encode())


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_of_errors_has_a_code(kind: type[errors.CalendarError]) -> None:
    assert any(base in CODES for base in kind.__mro__)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_reason_is_documented_in_the_protos(kind: type[errors.CalendarError]) -> None:
    assert errors_pb2.ErrorReason.Value(f"ERROR_REASON_{kind.reason}") > 0


def test_a_class_without_a_code_has_that_of_its_parent() -> None:
    assert code_of(errors.ForbiddenDestination()) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("error", [errors.PreconditionFailed("etag 7"), errors.CalendarError("x"), KeyError("secret")])
def test_what_should_never_leave_is_internal(error: Exception) -> None:
    answer = answer_of(error, "r-1")
    assert (answer.code, answer.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


def test_internal_tells_the_request_id_and_nothing_else() -> None:
    answer = answer_of(KeyError("secret"), "r-1")
    assert dict(detail(answer, ErrorInfo).metadata) == {"requestId": "r-1"}
    assert answer.message == "Something went wrong inside the service. Tell its operator the request id r-1."


def test_the_code_is_the_same_in_the_details() -> None:
    answer = answer_of(errors.SlotTaken("Taken."), "r")
    assert Status.FromString(answer.details).code == grpc.StatusCode.ABORTED.value[0]


def test_the_message_is_the_same_in_the_details() -> None:
    answer = answer_of(errors.SlotTaken("Taken\nby an event."), "r")
    assert Status.FromString(answer.details).message == answer.message == "Taken by an event."


def test_there_is_no_retry_info_where_waiting_does_not_help() -> None:
    assert detail(answer_of(errors.NotFound("No."), "r"), RetryInfo) is None


def test_a_fraction_of_a_second_is_told_too() -> None:
    delay = detail(answer_of(errors.ProviderThrottled("No.", retry_after_s=1.5), "r"), RetryInfo).retry_delay
    assert (delay.seconds, delay.nanos) == (1, 500_000_000)


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), 1e300])
def test_a_delay_beyond_reason_is_bounded(seconds: float) -> None:
    delay = detail(answer_of(errors.ProviderThrottled("No.", retry_after_s=seconds), "r"), RetryInfo).retry_delay
    assert 0 <= delay.seconds <= 86_400


def test_a_few_violations_are_all_told() -> None:
    violations = [errors.Violation(f"booking.attendees[{n}].email", "must be an e-mail address") for n in range(20)]
    answer = answer_of(errors.ValidationError(violations), "r")
    assert [told.field for told in detail(answer, BadRequest).field_violations] == [v.field for v in violations]


def test_violations_that_do_not_fit_are_counted() -> None:
    violations = [errors.Violation(f"booking.attendees[{n}].email", "must be an e-mail address") for n in range(500)]
    answer = answer_of(errors.ValidationError(violations), "r")
    told = len(detail(answer, BadRequest).field_violations)
    assert 20 < told < 500
    assert f"The details leave out {500 - told} more wrong fields." in answer.message


def busy_unknown(count: int, calendar_id: str = "/calendars/anna/work/") -> BusyUnknown:
    calendar = CalendarBusy(
        ConnectionId("cal_0123456789abcdef"),
        CalendarId(calendar_id),
        BusyState.UNKNOWN,
        None,
        Problem("PROVIDER_UNAVAILABLE", "The provider did not answer.", 5),
        busy=(Interval(1, 2),),
    )
    return BusyUnknown(errors.ProviderUnavailable("The provider did not answer."), (calendar,) * count)


def test_a_few_calendars_are_all_told() -> None:
    assert len(detail(answer_of(busy_unknown(10), "r"), BusyFailure).calendars) == 10


def test_calendars_that_do_not_fit_are_counted() -> None:
    answer = answer_of(busy_unknown(1000), "r")
    told = len(detail(answer, BusyFailure).calendars)
    assert 10 < told < 1000
    assert f"The details leave out {1000 - told} more calendars." in answer.message


def test_a_failed_calendar_tells_no_intervals() -> None:
    assert list(detail(answer_of(busy_unknown(1), "r"), BusyFailure).calendars[0].busy) == []


def test_calendars_have_the_reason_of_the_first_error() -> None:
    error = BusyUnknown(errors.CalendarGone("Gone."), busy_unknown(2).calendars)
    answer = answer_of(error, "r")
    assert (answer.code, answer.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CALENDAR_GONE")


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFound("ä" * 10_000),
        errors.EventUnreadable("\U0001f600" * 10_000),
        errors.CalendarGone("x", metadata={f"key{n}": "ü" * 5000 for n in range(12)}),
        errors.ValidationError([errors.Violation("ö" * 5000, "ß" * 5000)] * 300),
        busy_unknown(3000, "/€" * 5000),
        RuntimeError("x" * 100_000),
    ],
)
def test_every_answer_fits_what_clients_accept(error: Exception) -> None:
    assert on_the_wire(answer_of(error, "r" * 64)) < CLIENTS_TAKE


@given(
    message=st.text(max_size=3000),
    metadata=st.dictionaries(st.sampled_from(["eventId", "calendarId", "connectionId"]), st.text(max_size=3000)),
    retry_after_s=st.none() | st.floats(allow_nan=False),
)
@settings(max_examples=40, deadline=None)
def test_any_error_becomes_an_answer_that_fits(
    message: str, metadata: dict[str, str], retry_after_s: float | None
) -> None:
    error = errors.CalendarGone(message, metadata=metadata, retry_after_s=retry_after_s)
    answer = answer_of(error, "r" * 64)
    assert on_the_wire(answer) < CLIENTS_TAKE
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F for character in answer.message)


@pytest.mark.parametrize(
    ("told", "seen"),
    [
        ("a\r\nb", "a b"),
        ("a\x00\x7f\x85b", "a b"),
        ("a\u2028b", "a b"),
        ("\ud800", "?"),
        ("x" * 20, "xxxxxxx…"),
        ("ä" * 20, "äää…"),
    ],
)
def test_a_text_is_shown_as_one_line_of_unicode(told: str, seen: str) -> None:
    assert shown(told, 10) == seen
