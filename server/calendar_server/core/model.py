"""The nouns of the service as values.

Vocabulary
    instant     microseconds since 1970-01-01T00:00:00Z, an ``int``. All instants are UTC.
    interval    half-open ``[start, end)`` of instants.
    connection  our link to one account; account, calendar, event, booking: see the proto comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, NewType

Instant = int
"""Microseconds since 1970-01-01T00:00:00Z."""

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

OrganizationId = NewType("OrganizationId", str)
ConnectionId = NewType("ConnectionId", str)
CalendarId = NewType("CalendarId", str)
EventId = NewType("EventId", str)
BookingId = NewType("BookingId", str)


class Interval(NamedTuple):
    """Half-open ``[start, end)``."""

    start: Instant
    end: Instant


class ProviderName(StrEnum):
    GOOGLE = "google"
    MICROSOFT = "microsoft"
    CALDAV = "caldav"


class Preset(StrEnum):
    """A named kind of CalDAV server."""

    APPLE = "apple"
    FASTMAIL = "fastmail"
    NEXTCLOUD = "nextcloud"
    CUSTOM = "custom"


class ConnectionStatus(StrEnum):
    """The authority that we hold."""

    ACTIVE = "active"
    NEEDS_REAUTH = "needs_reauth"


class SyncStatus(StrEnum):
    """How the last conversation with the provider went."""

    CONNECTED = "connected"
    EXPIRED = "expired"
    ERROR = "error"


class BusyView(StrEnum):
    MERGED = "merged"
    PER_CALENDAR = "per_calendar"
    EXPLAINED = "explained"


class BusyState(StrEnum):
    FRESH = "fresh"
    STALE = "stale"
    UNKNOWN = "unknown"


class BlockReason(StrEnum):
    """Why an event blocks or does not; the first group blocks (``BLOCKING``)."""

    BUSY = "busy"
    TENTATIVE = "tentative"
    OUT_OF_OFFICE = "out_of_office"
    FOCUS_TIME = "focus_time"
    TRAVEL = "travel"
    BOOKING = "booking"
    UNREADABLE = "unreadable"

    FREE = "free"
    CANCELLED = "cancelled"
    DECLINED = "declined"
    WORKING_ELSEWHERE = "working_elsewhere"
    BIRTHDAY = "birthday"
    ZERO_LENGTH = "zero_length"
    TENTATIVE_IGNORED = "tentative_ignored"
    BOOKING_EXCLUDED = "booking_excluded"

    @property
    def blocks(self) -> bool:
        return self in BLOCKING


BLOCKING = frozenset(
    {
        BlockReason.BUSY,
        BlockReason.TENTATIVE,
        BlockReason.OUT_OF_OFFICE,
        BlockReason.FOCUS_TIME,
        BlockReason.TRAVEL,
        BlockReason.BOOKING,
        BlockReason.UNREADABLE,
    }
)


class BookingStatus(StrEnum):
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"


class EventState(StrEnum):
    """Where a booking stands in one calendar (``BookingEventState``)."""

    PENDING = "pending"
    SYNCED = "synced"
    FAILED = "failed"
    REMOVED = "removed"
    GONE = "gone"
    DETACHED = "detached"


@dataclass(frozen=True, slots=True)
class Connection:
    """Our link to one account. ``settings`` are the provider's own facts about it, none of them secret."""

    id: ConnectionId
    organization_id: OrganizationId
    owner: str
    provider: ProviderName
    subject: str
    """The provider's identity of the account; never the e-mail or the user name."""
    account_email: str
    calendar_id: CalendarId
    """Receives bookings; empty when none is writable."""
    busy_calendar_ids: tuple[CalendarId, ...]
    status: ConnectionStatus
    sync_status: SyncStatus
    sync_error: str | None
    last_sync_at: Instant | None
    connected_at: Instant
    grant_version: int
    """Grows with every new grant, so that a late refusal of an old one harms nobody."""
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Calendar:
    """One calendar inside an account, as the provider tells it."""

    id: CalendarId
    name: str = ""
    time_zone: str = ""
    """IANA name, or empty."""
    primary: bool = False
    writable: bool = False
    color: str = ""
    """``#rrggbb``, or empty."""


@dataclass(frozen=True, slots=True)
class Attendee:
    email: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Booking:
    """The wanted state of one appointment. ``start`` and ``end`` are whole seconds; both 0 when never told."""

    id: BookingId
    revision: int
    status: BookingStatus
    title: str = ""
    description: str = ""
    location: str = ""
    start: Instant = 0
    end: Instant = 0
    time_zone: str = ""
    attendees: tuple[Attendee, ...] = ()
    url: str = ""


class BusyEvent(NamedTuple):
    """One occurrence of an event that touches a window, not clipped. A tuple: calendars have thousands.

    ``tentative`` is true for tentative events and those the owner answered tentatively, whatever ``reason`` says
    besides (an out-of-office that is tentative, say).
    """

    start: Instant
    end: Instant
    reason: BlockReason
    event_id: EventId
    tentative: bool = False


UNTOLD = EventId("")
"""Stands for the events of a time that a provider does not show."""


@dataclass(frozen=True, slots=True)
class UnreadableEvent:
    """An event that could not be read, may touch the window and may block.

    ``interval`` is its time where that much could be read, else None. ``message`` is for the log and for people. With the
    id ``UNTOLD`` it is whatever may be in that interval.
    """

    event_id: EventId
    message: str
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class CalendarRead:
    """What one read of one calendar found in a window. ``event_ids``: every event there, if the read was a full one."""

    events: tuple[BusyEvent, ...]
    unreadable: tuple[UnreadableEvent, ...] = ()
    event_ids: frozenset[EventId] | None = None
