"""Everything a call can end in, as one tree.

CalendarServiceError         ``reason``, ``code``, ``message``, ``metadata``, ``retry_after_s``, ``request_id``, …
├── ValidationError          fields of the request are wrong; ``violations`` names all of them
├── Unauthorized             no API key, or not a valid one
├── NotFound                 there is no such thing in the key's organization
│   └── NoConnections        made here: GetBusy had nothing to ask, which is not the same as free
├── Conflict                 the account is connected already; ``connection_id`` says where
├── ProviderError            the provider, or the account at it, stands in the way
│   ├── ProviderRefused      wrong credentials, no consent, no CalDAV there; ``cause``
│   ├── NeedsReauth          the grant is dead; only the account's owner can mend it
│   ├── AccountMismatch      another account signed in than the one to be renewed
│   ├── CalendarGone         the calendar is no longer there
│   ├── CalendarReadOnly     the calendar cannot be written to
│   ├── AdminConsentRequired an administrator must consent first
│   ├── ScopeMissing         not all that is needed was granted
│   ├── EventUnreadable      an event could not be read and may block
│   └── ProviderUnavailable  no answer, or none that can be relied on
│       └── ProviderThrottled    asked to slow down
├── NotConfigured            the operator has not filled ``setting``
├── SlotTaken                something else blocks the span that was required to be free
├── LimitExceeded            too large, or too much at once
├── StoreUnavailable         the service's database is out of reach; the same call may be sent again
├── ServiceStopping          this server is being stopped; another one answers the next call
├── InternalError            unforeseen; ``request_id`` names the call in the service's log
└── TransportError           no answer of the service's own
    ├── ServiceUnreachable   nobody answers at the address
    ├── DeadlineExceeded     no answer within the call's deadline; whether a change was made is not known
    └── Unimplemented        what answers there does not know the call

There is a class for each value of ``calendars.v1.ErrorReason``; a reason that is newer than this library, or a status
without one, is the plain ``CalendarServiceError``. The gRPC error is the ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from calendars.v1.availability_pb2 import BusyFailure, CalendarBusy

DOMAIN = "calendars.v1"

_DETAILS_KEY = "grpc-status-details-bin"
_REQUEST_ID_KEY = "x-request-id"


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its proto path from the request's root, and what would be right."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Details:
    """What an error carries besides its message."""

    reason: str = ""
    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    violations: tuple[Violation, ...] = ()
    busy_failures: tuple[CalendarBusy, ...] = ()
    request_id: str = ""


class CalendarServiceError(Exception):
    """Root of the tree.

    ``reason`` is the machine name (a value of ``ErrorReason`` without its prefix; empty if the service gave none),
    ``metadata`` has lowerCamel keys, ``retry_after_s`` is set where waiting helps, ``busy_failures`` are the calendars
    that made GetBusy fail, ``request_id`` names the call in the service's log (empty if not told).
    """

    default_reason: ClassVar[str] = ""

    def __init__(self, message: str, details: Details | None = None):
        super().__init__(message)
        details = details or Details()
        self.message = message
        self.reason = details.reason or self.default_reason
        self.code: grpc.StatusCode = details.code
        self.metadata = dict(details.metadata)
        self.retry_after_s = details.retry_after_s
        self.violations = details.violations
        self.busy_failures = details.busy_failures
        self.request_id = details.request_id


class ValidationError(CalendarServiceError):
    """Fields of the request are wrong; ``violations`` names all of them."""

    default_reason = "VALIDATION_ERROR"


class Unauthorized(CalendarServiceError):
    """No API key, or one that is not (or no longer) valid."""

    default_reason = "UNAUTHORIZED"


class NotFound(CalendarServiceError):
    """There is no such thing in the key's organization."""

    default_reason = "NOT_FOUND"


class NoConnections(NotFound):
    """GetBusy had no calendar to ask. Nothing is known, so nothing is free. Raised here, never sent by the service."""

    default_reason = "NO_CONNECTIONS"


class Conflict(CalendarServiceError):
    """The account is connected and active already."""

    default_reason = "CONFLICT"

    @property
    def connection_id(self) -> str:
        """The connection that holds the account; empty if not told."""
        return self.metadata.get("connectionId", "")


class ProviderError(CalendarServiceError):
    """The provider, or the account at it, stands in the way."""


class ProviderRefused(ProviderError):
    """The provider refused, and trying the same again cannot help."""

    default_reason = "PROVIDER_REFUSED"

    @property
    def cause(self) -> str:
        """``credentials``, ``not_caldav``, ``no_calendars`` or empty."""
        return self.metadata.get("cause", "")


class NeedsReauth(ProviderError):
    """The provider no longer accepts the grant. Its owner must connect the account again."""

    default_reason = "NEEDS_REAUTH"


class AccountMismatch(ProviderError):
    """The account that signed in is not the one of the connection that was to be renewed."""

    default_reason = "ACCOUNT_MISMATCH"


class CalendarGone(ProviderError):
    """The calendar is no longer there for this account. Choose another by ``update_connection``."""

    default_reason = "CALENDAR_GONE"


class CalendarReadOnly(ProviderError):
    """The calendar cannot be written to. Choose another by ``update_connection``."""

    default_reason = "CALENDAR_READ_ONLY"


class AdminConsentRequired(ProviderError):
    """An administrator of the account's organization must consent first."""

    default_reason = "ADMIN_CONSENT_REQUIRED"


class ScopeMissing(ProviderError):
    """The person did not grant all that is needed."""

    default_reason = "SCOPE_MISSING"


class EventUnreadable(ProviderError):
    """An event could not be read and may block; its owner can mend it."""

    default_reason = "EVENT_UNREADABLE"

    @property
    def event_id(self) -> str:
        """The provider's id of the event; empty if not told."""
        return self.metadata.get("eventId", "")


class ProviderUnavailable(ProviderError):
    """The provider did not answer, or not in a way that can be relied on. Trying again may help."""

    default_reason = "PROVIDER_UNAVAILABLE"


class ProviderThrottled(ProviderUnavailable):
    """The provider asks to slow down for ``retry_after_s`` seconds."""

    default_reason = "PROVIDER_THROTTLED"


class NotConfigured(CalendarServiceError):
    """The operator of the service has not configured this."""

    default_reason = "NOT_CONFIGURED"

    @property
    def setting(self) -> str:
        """The setting that is missing; empty if not told."""
        return self.metadata.get("setting", "")


class SlotTaken(CalendarServiceError):
    """Something else blocks the span that was required to be free. Nothing was stored."""

    default_reason = "SLOT_TAKEN"


class LimitExceeded(CalendarServiceError):
    """Too large, or too much at once."""

    default_reason = "LIMIT_EXCEEDED"


class StoreUnavailable(CalendarServiceError):
    """The service's own database is out of reach. Sending the same call again is safe."""

    default_reason = "STORE_UNAVAILABLE"


class ServiceStopping(CalendarServiceError):
    """This server is being stopped. Sending the same call again is safe: another server answers."""

    default_reason = "SERVICE_STOPPING"


class InternalError(CalendarServiceError):
    """Unforeseen. ``request_id`` names the call in the service's log."""

    default_reason = "INTERNAL"


class TransportError(CalendarServiceError):
    """The call ended without an answer of the service's own."""


class ServiceUnreachable(TransportError):
    """Nobody answers at the address, or the line broke."""


class DeadlineExceeded(TransportError):
    """No answer within the call's deadline. Whether a change was made is not known: sending it again is safe."""


class Unimplemented(TransportError):
    """What answers at the address does not know the call: another service, or an older one."""


BY_REASON: Mapping[str, type[CalendarServiceError]] = {
    cls.default_reason: cls
    for cls in (
        ValidationError,
        Unauthorized,
        NotFound,
        Conflict,
        ProviderRefused,
        NeedsReauth,
        AccountMismatch,
        CalendarGone,
        CalendarReadOnly,
        AdminConsentRequired,
        ScopeMissing,
        EventUnreadable,
        ProviderUnavailable,
        ProviderThrottled,
        NotConfigured,
        SlotTaken,
        LimitExceeded,
        StoreUnavailable,
        ServiceStopping,
        InternalError,
    )
}
"""The class for each reason that the service sends."""

# A status without an ErrorInfo comes from gRPC itself, or from a proxy between.
_BY_CODE: Mapping[grpc.StatusCode, type[CalendarServiceError]] = {
    grpc.StatusCode.UNAVAILABLE: ServiceUnreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.UNAUTHENTICATED: Unauthorized,
    grpc.StatusCode.INVALID_ARGUMENT: ValidationError,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INTERNAL: InternalError,
}

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_rpc_error(error: grpc.RpcError) -> CalendarServiceError:
    """Translate a gRPC error into this tree. Raise the answer ``from`` the error."""
    code: grpc.StatusCode = error.code()
    message: str = error.details() or ""
    trailing = _texts_and_bytes(error.trailing_metadata())
    status = status_pb2.Status()
    raw = trailing.get(_DETAILS_KEY)
    if isinstance(raw, bytes):
        # Details that cannot be read must not hide the error they came with.
        try:
            status = status_pb2.Status.FromString(raw)
        except DecodeError:
            status = status_pb2.Status()
    details = _details(status, _CODES.get(status.code, code) if status.code else code, trailing)
    cls = BY_REASON.get(details.reason) if details.reason else _BY_CODE.get(code)
    return (cls or CalendarServiceError)(message or f"The call ended with {code.name}.", details)


def _texts_and_bytes(metadata: object) -> dict[str, str | bytes]:
    """gRPC's metadata as a mapping; the last of equal keys wins. It is a tuple of pairs, for asyncio a type of its own."""
    found: dict[str, str | bytes] = {}
    if isinstance(metadata, Iterable):
        for key, value in metadata:
            found[str(key)] = value if isinstance(value, bytes) else str(value)
    return found


def _details(status: status_pb2.Status, code: grpc.StatusCode, trailing: Mapping[str, str | bytes]) -> Details:
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    failure = BusyFailure()
    messages: tuple[Message, ...] = (info, retry, bad, failure)
    retry_after_s: float | None = None
    for detail in status.details:
        for message in messages:
            if detail.Is(message.DESCRIPTOR):
                try:
                    detail.Unpack(message)
                except DecodeError:
                    message.Clear()
    if retry.HasField("retry_delay"):
        retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    # A reason of another domain, a proxy's say, means something else.
    ours = info.domain == DOMAIN
    metadata = dict(info.metadata) if ours else {}
    request_id = metadata.get("requestId") or trailing.get(_REQUEST_ID_KEY, "")
    return Details(
        reason=info.reason if ours else "",
        code=code,
        metadata=metadata,
        retry_after_s=retry_after_s,
        violations=tuple(Violation(each.field, each.description) for each in bad.field_violations),
        busy_failures=tuple(failure.calendars),
        request_id=request_id if isinstance(request_id, str) else "",
    )
