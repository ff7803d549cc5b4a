"""What callers ask and are answered, as values. Fields have been checked for form before these are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    BlockReason,
    Booking,
    BookingId,
    BusyState,
    BusyView,
    Calendar,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    Instant,
    Interval,
    Preset,
    ProviderName,
)

# Connections


@dataclass(frozen=True, slots=True)
class OAuthAccount:
    """A Google or Microsoft account to be connected. ``tenant`` is empty for Google."""

    provider: Literal[ProviderName.GOOGLE, ProviderName.MICROSOFT]
    redirect_uri: str
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class CaldavAccount:
    """A CalDAV account to be connected. ``server_url`` is empty for presets that have their own."""

    preset: Preset
    username: str
    password: str
    server_url: str = ""

    def __repr__(self) -> str:
        return f"CaldavAccount({self.preset}, ***)"


@dataclass(frozen=True, slots=True)
class ConnectCommand:
    account: OAuthAccount | CaldavAccount
    owner: str = ""
    connection_id: ConnectionId = ConnectionId("")
    client_state: str = ""


@dataclass(frozen=True, slots=True)
class AuthorizationUrl:
    """The provider's page to open in the person's browser."""

    url: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """``page_size`` 1..200. ``owner`` None: any; empty: those without one."""

    page_size: int = 50
    page_token: str = ""
    ids: tuple[ConnectionId, ...] = ()
    owner: str | None = None
    provider: ProviderName | None = None
    status: ConnectionStatus | None = None


@dataclass(frozen=True, slots=True)
class ConnectionPage:
    connections: tuple[Connection, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class ListedCalendar:
    calendar: Calendar
    blocks: bool


@dataclass(frozen=True, slots=True)
class UpdateCommand:
    """None leaves a field as it is."""

    id: ConnectionId
    calendar_id: CalendarId | None = None
    busy_calendar_ids: tuple[CalendarId, ...] | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A set of connections: these ids, or all of an owner. Neither: those without an owner."""

    connection_ids: tuple[ConnectionId, ...] = ()
    owner: str = ""


# Availability


@dataclass(frozen=True, slots=True)
class BusyQuery:
    """``max_staleness_s`` None: the setting."""

    target: Target
    window: Interval
    max_staleness_s: float | None = None
    exclude_booking_ids: frozenset[BookingId] = frozenset()
    ignore_tentative: bool = False
    allow_partial: bool = False
    view: BusyView = BusyView.MERGED


@dataclass(frozen=True, slots=True)
class Problem:
    """``reason`` is a name of ``ErrorReason`` without its prefix."""

    reason: str
    message: str
    retry_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class ExplainedEvent:
    """``interval`` None: the event could not be read and its time is not known; it is in no ``busy``."""

    interval: Interval | None
    reason: BlockReason
    booking_id: str = ""
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class CalendarBusy:
    connection_id: ConnectionId
    calendar_id: CalendarId
    state: BusyState
    as_of: Instant | None = None
    problem: Problem | None = None
    busy: tuple[Interval, ...] = ()
    events: tuple[ExplainedEvent, ...] = ()


@dataclass(frozen=True, slots=True)
class BusyAnswer:
    busy: tuple[Interval, ...]
    complete: bool
    calendars: tuple[CalendarBusy, ...]
    forms: dict[str, bytes] | None = field(default=None, compare=False, repr=False)
    """What doors have made of it, by their names; None where it is given only once."""


# Bookings


@dataclass(frozen=True, slots=True)
class SyncCommand:
    """``wait_s`` 0..30. For CANCELLED, empty fields of ``booking`` keep what was before."""

    booking: Booking
    target: Target
    require_free: bool = False
    wait_s: float = 5.0


@dataclass(frozen=True, slots=True)
class BookingEvent:
    connection_id: ConnectionId
    calendar_id: CalendarId
    event_id: EventId
    state: EventState
    synced_revision: int
    web_link: str
    problem: Problem | None
    next_attempt_at: Instant | None
    attempts: int
    drift: Drift = Drift.NONE


@dataclass(frozen=True, slots=True)
class BookingReport:
    booking: Booking
    events: tuple[BookingEvent, ...]
