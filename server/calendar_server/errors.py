"""Everything that can go wrong, as one tree. It knows no gRPC and no HTTP.

CalendarError
├── ValidationError          fields of the request are wrong
├── Unauthorized             no API key, or not a valid one
├── NotFound                 there is no such thing in the caller's organization
├── Conflict                 the account is connected already
├── ProviderError            the other side
│   ├── ProviderRefused      wrong credentials, no consent, no CalDAV, no calendars
│   ├── NeedsReauth          the grant is dead; only the account's owner can mend it
│   ├── AccountMismatch      another account signed in than the one to be renewed
│   ├── CalendarGone         the calendar is no longer there
│   ├── CalendarReadOnly     the calendar cannot be written to
│   ├── AdminConsentRequired an administrator must consent first
│   ├── ScopeMissing         not all that is needed was granted
│   ├── EventUnreadable      an event could not be read and may block
│   └── ProviderUnavailable  no answer, or none that can be relied on
│       ├── ProviderThrottled      asked to slow down
│       └── ForbiddenDestination   an address that we do not dial
├── BookingUnreadable        what was stored of a booking cannot be opened
├── NotConfigured            the operator has not filled a setting
├── SlotTaken                something else blocks the span
├── LimitExceeded            too large, or too much at once
├── StoreUnavailable         our own database is out of reach
├── ServiceStopping          this process is being stopped
└── PreconditionFailed       an event changed under our hands (stays inside: look, then write)

Each class has its ``reason``, the name of the value of ``calendars.v1.ErrorReason`` without its prefix. The message is
one sentence for a person and says what to do; it holds no secret and no address of the inner network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

DOMAIN = "calendars.v1"


class CalendarError(Exception):
    """Root of the tree. ``metadata`` keys are lowerCamel; ``retry_after_s`` is set where waiting helps."""

    reason: ClassVar[str] = "INTERNAL"
    needs_person: ClassVar[bool] = False

    def __init__(self, message: str, *, metadata: dict[str, str] | None = None, retry_after_s: float | None = None):
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after_s = retry_after_s

    def without_frames(self) -> Self:
        """Itself, to be kept: it forgets how it came about. Frames hold all that was in them, whole answers of servers."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field: its proto path from the request's root, and a sentence that says what would be right."""

    field: str
    description: str


class ValidationError(CalendarError):
    """Fields of the request are wrong; ``violations`` names all of them."""

    reason = "VALIDATION_ERROR"

    def __init__(self, violations: list[Violation]):
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}")
        self.violations = list(violations)


class Unauthorized(CalendarError):
    """One and the same text for none, malformed, unknown and revoked keys."""

    reason = "UNAUTHORIZED"

    def __init__(self) -> None:
        super().__init__("A valid API key is required: send the metadata `authorization: Bearer <API key>`.")


class NotFound(CalendarError):
    """There is no such thing in the caller's organization, whoever else may have one."""

    reason = "NOT_FOUND"


class Conflict(CalendarError):
    """The account is connected and active already."""

    reason = "CONFLICT"

    def __init__(self, connection_id: str):
        super().__init__(
            f"This account is connected already, as {connection_id}. Use that connection, or disconnect it first.",
            metadata={"connectionId": connection_id},
        )
        self.connection_id = connection_id


class ProviderError(CalendarError):
    """The provider, or the account at it, stands in the way."""


Cause = Literal["credentials", "not_caldav", "no_calendars"]


class ProviderRefused(ProviderError):
    """The provider refused, and trying the same again cannot help."""

    reason = "PROVIDER_REFUSED"
    needs_person = True

    def __init__(self, message: str, *, cause: Cause | None = None):
        super().__init__(message, metadata={"cause": cause} if cause else None)
        self.cause = cause


class NeedsReauth(ProviderError):
    """The provider no longer accepts our grant. Only the account's owner can mend it, by connecting again."""

    reason = "NEEDS_REAUTH"
    needs_person = True

    def __init__(self, message: str = "The provider no longer accepts our access. Connect the account again."):
        super().__init__(message)


class AccountMismatch(ProviderError):
    """Another account signed in than the one of the connection that was to be renewed."""

    reason = "ACCOUNT_MISMATCH"


class CalendarGone(ProviderError):
    """The calendar is no longer there for this account."""

    reason = "CALENDAR_GONE"
    needs_person = True


class CalendarReadOnly(ProviderError):
    """The calendar cannot be written to."""

    reason = "CALENDAR_READ_ONLY"
    needs_person = True


class AdminConsentRequired(ProviderError):
    """An administrator of the account's organization must consent first."""

    reason = "ADMIN_CONSENT_REQUIRED"
    needs_person = True


class ScopeMissing(ProviderError):
    """The person did not grant all that is needed."""

    reason = "SCOPE_MISSING"
    needs_person = True


class EventUnreadable(ProviderError):
    """An event could not be read and may block. Retrying helps once its owner has mended it.

    Without an ``event_id`` it is whatever may be in a time that the provider does not show; ``message`` says so.
    """

    reason = "EVENT_UNREADABLE"

    def __init__(self, event_id: str, *, message: str = "", retry_after_s: float = 60):
        super().__init__(
            f"The event {event_id} could not be read and may block. Mend it in the calendar, or ask with allow_partial."
            if event_id
            else f"{message} Ask about another time, or with allow_partial.",
            metadata={"eventId": event_id} if event_id else {},
            retry_after_s=retry_after_s,
        )
        self.event_id = event_id


class BookingUnreadable(CalendarError):
    """What was stored of a booking cannot be opened. What its caller sends anew takes its place.

    Its reason is that of events: what it says is not known, and it blocks.
    """

    reason = "EVENT_UNREADABLE"

    def __init__(self, booking_id: str, revision: int, *, retry_after_s: float = 3600):
        super().__init__(
            f"What was stored of the booking {booking_id} cannot be opened. Send it again by SyncBooking, whole and with a "
            f"revision higher than {revision}, or cancel it so; until then it blocks its time.",
            metadata={"bookingId": booking_id, "revision": str(revision)},
            retry_after_s=retry_after_s,
        )
        self.booking_id = booking_id


class ProviderUnavailable(ProviderError):
    """The provider did not answer, or not in a way that can be relied on."""

    reason = "PROVIDER_UNAVAILABLE"

    def __init__(self, message: str, *, retry_after_s: float | None = None):
        super().__init__(message, retry_after_s=5 if retry_after_s is None else retry_after_s)


class ProviderThrottled(ProviderUnavailable):
    """The provider asks us to slow down for ``retry_after_s`` seconds."""

    reason = "PROVIDER_THROTTLED"


class ForbiddenDestination(ProviderUnavailable):
    """An address that this service does not dial. One constant text: it must not map the inner network."""

    def __init__(self) -> None:
        super().__init__("The server's address is not one that this service may reach.")


class NotConfigured(CalendarError):
    """The operator has not filled ``setting``."""

    reason = "NOT_CONFIGURED"

    def __init__(self, setting: str, message: str):
        super().__init__(message, metadata={"setting": setting})
        self.setting = setting


class SlotTaken(CalendarError):
    """Something else blocks the span that was required to be free."""

    reason = "SLOT_TAKEN"


class LimitExceeded(CalendarError):
    """Too large, or too much at once."""

    reason = "LIMIT_EXCEEDED"


class StoreUnavailable(CalendarError):
    """Our own database is out of reach. Whether a change was stored is not known: send the same call again."""

    reason = "STORE_UNAVAILABLE"

    def __init__(self, message: str = "The service's database cannot be reached at the moment. Try again."):
        super().__init__(message, retry_after_s=2)


class ServiceStopping(CalendarError):
    """This process is being stopped and ends what would not end by itself. Another one answers the next call."""

    reason = "SERVICE_STOPPING"

    def __init__(self) -> None:
        super().__init__("This server is being stopped. Call again in a moment.", retry_after_s=1)


class PreconditionFailed(CalendarError):
    """The event is not in the state that the write was fenced by. Look again, then decide. Never leaves the service."""
