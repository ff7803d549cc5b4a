"""What the store answers besides ``Connection``: rows as values. Instants are microseconds since 1970, UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    BookingId,
    BookingStatus,
    CalendarId,
    ConnectionId,
    EventId,
    EventState,
    Instant,
    Interval,
    OrganizationId,
)

Wanted = Literal["present", "absent"]
"""What the newest revision wants of a booking's event in one calendar."""


@dataclass(frozen=True, slots=True)
class ApiKeyRow:
    """One API key. Of its secret only the sha256 is known."""

    id: str
    organization_id: OrganizationId
    secret_sha256: bytes = field(repr=False)
    revoked_at: Instant | None


@dataclass(frozen=True, slots=True)
class SealedGrant:
    """A connection's grant as it is stored, and which one it is: ``version`` grows with every renewal."""

    sealed: str = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True)
class BookingRow:
    """The newest accepted revision of a booking. ``start`` and ``end`` are both 0 when they were never told.

    ``wanted_set`` is the set of connections as its caller sent it, in the use cases' own spelling.
    """

    organization_id: OrganizationId
    id: BookingId
    revision: int
    status: BookingStatus
    start: Instant
    end: Instant
    sealed_content: str = field(repr=False)
    wanted_set: str
    updated_at: Instant


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """What should be, and what is, of one booking in one connection.

    Calendar, generation, uid and ``event_id`` are fixed before the first write, so that whoever repeats it meets the
    same event. ``due_at`` None: nothing is to be tried by itself. The lease says who pushes until when; an empty token
    with ``lease_until`` 0 is none. ``drift``: what the read that began at ``drift_at`` showed of the event.
    ``request_id`` and ``traceparent`` are of the call that made it due.
    """

    id: str
    organization_id: OrganizationId
    booking_id: BookingId
    connection_id: ConnectionId
    calendar_id: CalendarId
    generation: int
    uid: str
    event_id: EventId
    wanted: Wanted
    wanted_revision: int
    pushed_revision: int
    state: EventState
    etag: str
    web_link: str
    attempts: int
    due_at: Instant | None
    problem_reason: str
    problem_message: str
    lease_token: str
    lease_until: Instant
    updated_at: Instant
    pushed_at: Instant
    drift: Drift = Drift.NONE
    drift_at: Instant = 0
    request_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class OverlayRow:
    """A committed booking that blocks in a calendar, wherever its push stands. ``event_id`` may still be empty."""

    connection_id: ConnectionId
    calendar_id: CalendarId
    booking_id: BookingId
    start: Instant
    end: Instant
    event_id: EventId


@dataclass(frozen=True, slots=True)
class StandingRow:
    """An event of ours that shows the newest revision, with where that wants it and how it was last seen."""

    id: str
    event_id: EventId
    pushed_revision: int
    interval: Interval
    drift: Drift


@dataclass(frozen=True, slots=True)
class OursRow:
    """An event of ours in a calendar. ``counts``: its booking is confirmed and still wants to be there.

    ``shown_at``: when the newest revision was written into it; None while it shows none or an older one.
    """

    connection_id: ConnectionId
    calendar_id: CalendarId
    event_id: EventId
    booking_id: BookingId
    counts: bool
    shown_at: Instant | None = None
