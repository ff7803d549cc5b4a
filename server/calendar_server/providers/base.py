"""What every provider can do.

Vocabulary
    link     a connection together with its opened grant, for the length of one use. ``link.check()`` is called before
             every exchange and raises ``NotFound`` once the connection is disconnected.
    account  what a successful connect found out: identity, calendars, first choice.
    uid      our own identity of an event (lower-case letters a-v and digits, 52 characters), the same on every
             repetition of a write.
    etag     the provider's version of an event; every write is fenced by it.

Every verb takes a ``Deadline`` and ends by it. What verbs raise
    NeedsReauth           the stored grant was refused (a 401 is repeated once before that is believed)
    CalendarGone          the calendar is not there (reading: 403, 404, 410 on the collection; writing: 404, 410)
    CalendarReadOnly      writing: 403
    ProviderRefused       writing: the event was refused as such (400-class validation, 413, 415, 507)
    ProviderThrottled     429, or 503 with Retry-After; ``retry_after_s`` is at most one hour
    ProviderUnavailable   everything else: 5xx, time-outs, cut, empty or foreign answers, answers over our limits
A repetition of ``put_event`` or ``delete_event`` with the same arguments is harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from calendar_server.core.model import (
    Booking,
    Calendar,
    CalendarId,
    CalendarRead,
    Connection,
    EventId,
    Instant,
    Interval,
)
from calendar_server.core.packing import PackedRead
from calendar_server.errors import ProviderUnavailable


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, in seconds, by which work must have ended."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at - time.monotonic())

    def sooner(self, seconds: float) -> Deadline:
        """This deadline, or ``seconds`` from now, whichever comes first."""
        return Deadline(min(self.at, time.monotonic() + seconds))

    def check(self) -> None:
        """Raise ``ProviderUnavailable`` when the time is over."""
        if self.remaining() <= 0:
            raise ProviderUnavailable("The provider took too long to answer.")


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """An opened grant. It never shows itself."""

    values: Mapping[str, str]

    def __repr__(self) -> str:
        return "Secret(***)"

    def __getitem__(self, name: str) -> str:
        return self.values[name]


def _as_it_is(refused: Secret) -> Secret:
    return refused


@dataclass(frozen=True, slots=True)
class Link:
    """A connection together with its opened grant.

    ``renew`` answers the grant with a newer access token than the refused one (OAuth), or raises ``NeedsReauth`` when
    only the account's owner can mend it. A password cannot be renewed: it comes back as it is.
    """

    connection: Connection
    secret: Secret
    check: Callable[[], None] = lambda: None
    renew: Callable[[Secret], Secret] = _as_it_is


@dataclass(frozen=True, slots=True)
class Account:
    """What a successful connect found out."""

    subject: str
    email: str
    calendar_id: CalendarId
    busy_calendar_ids: tuple[CalendarId, ...]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventRef:
    """Where an event of ours is, or will be. ``event_id`` is empty while the provider has yet to give one."""

    calendar_id: CalendarId
    uid: str
    event_id: EventId


@dataclass(frozen=True, slots=True)
class RemoteEvent:
    """An event of ours as it stands at the provider.

    ``revision`` is the booking's revision that the event says it shows, 0 if it says none. ``sequence`` is the iCalendar
    SEQUENCE (0 where there is none).
    """

    event_id: EventId
    etag: str
    revision: int = 0
    sequence: int = 0
    web_link: str = ""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the last read of a calendar came to. ``memory`` is the provider's own note about it, opaque to all others.

    ``read`` is what was found in ``window``; it has no ``event_ids``, whoever needs them keeps them in the memory.

    ``full``: everything is to be read again, whatever signals say. What comes may be compared with what this came from.
    """

    window: Interval
    read: CalendarRead
    memory: bytes
    full: bool = False

    def may_hold(self, window: Interval) -> bool:
        """Whether a signal may say that this still is what stands in a window."""
        return self.window == window and not self.full


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh came to. ``read`` None: nothing has changed since, what is remembered still holds.

    It may come packed: what is to be stored needs no unpacking on the way.

    ``memory``, at most ``MEMORY_BYTES``, is to be given back at the next refresh; empty: there is nothing to remember.

    ``event_ids``: where everything was read again and is as before, how to get what ``CalendarRead`` has under that name.
    """

    read: CalendarRead | PackedRead | None
    memory: bytes = b""
    event_ids: Callable[[], frozenset[EventId] | None] | None = None


MEMORY_BYTES = 8 * 2**20
"""A provider that would have to remember more remembers nothing."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A promise of the provider to tell us of changes in a calendar: Google's channel, Microsoft's subscription.

    ``id`` is what notifications carry; ``resource_id`` whatever else the provider needs to end it.
    """

    id: str
    resource_id: str
    expires_at: Instant


class Provider(Protocol):
    """One kind of provider. See the module for the vocabulary and for what the verbs raise."""

    makes_once: bool
    """Whether to create an event that stands there already never makes a second one, even where a server ignores its
    precondition. Then the first write of an event needs no look before it."""

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        """Read the account's calendars now."""
        ...

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        """Read what stands in the window now. Events that only touch the window are included, unclipped."""
        ...

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        """Bring what is remembered of the calendar up to date, as cheaply as is safe.

        ``before``, if given, is of the same ``window``. The provider's own signal says whether anything changed; only if
        it may have, the window is read again (of CalDAV, the changed resources). Without ``before``, and where that is
        ``full``, everything is read.
        A doubt about the signal is a change. Raises what ``read_calendar`` raises.
        """
        ...

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        """The id that an event with this uid will have; empty if only the provider can tell."""
        ...

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        """Look for an event of ours. None: it is not there (not: could not be read)."""
        ...

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """Create the event (``known`` None) or replace the known version of it in place.

        Raises ``PreconditionFailed`` when the event stands there after all, or in another version, or when its uid is
        taken elsewhere: look again, then decide.
        """
        ...

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        """Take out the known version of the event. Not there any more is success; another version raises
        ``PreconditionFailed``."""
        ...


class Watcher(Protocol):
    """A provider that can tell of changes by itself (Google's push notifications, Microsoft's change notifications)."""

    def watch(
        self, link: Link, calendar_id: CalendarId, *, address: str, id: str, secret: str, deadline: Deadline
    ) -> Watch:
        """Ask to be told at the URL ``address`` of changes in a calendar.

        ``id`` is the id we would give it; a provider that gives its own answers that. ``secret`` comes back in every
        notification. Raises what the verbs of ``Provider`` raise; ``ProviderRefused``: not this address, or not ever.
        """
        ...

    def extend(self, link: Link, watch: Watch, deadline: Deadline) -> Watch | None:
        """Let a watch live longer. None: that cannot be, make another one first and end this one then."""
        ...

    def unwatch(self, link: Link, watch: Watch, deadline: Deadline) -> None:
        """End a watch. Success when it is gone already."""
        ...
