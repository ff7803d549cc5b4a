"""Anna's account at a Microsoft with a memory, and what the tests of the provider ask of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime

from calendar_server.core.model import (
    SECOND,
    BlockReason,
    Booking,
    BookingId,
    BookingStatus,
    CalendarId,
    CalendarRead,
    EventId,
    Instant,
    Interval,
    ProviderName,
)
from calendar_server.errors import NotFound
from calendar_server.providers.base import Deadline, EventRef, Link, RemoteEvent, Secret
from calendar_server.providers.microsoft import MicrosoftProvider
from tests.fakes.connections import connection_of
from tests.fakes.entra import KNOWN_SCOPES
from tests.fakes.mailbox import Calendar, Event, Mailbox
from tests.fakes.microsoft import GraphUser, MicrosoftFake

UID = "0123456789abcdefghijklmnopqrstuv0123456789abcdefghij"


def local(day: int, hour: int = 0, minute: int = 0) -> datetime:
    """What a clock shows, in December 2026."""
    return datetime(2026, 12, day, hour, minute)


def at(day: int, hour: int = 0, minute: int = 0) -> Instant:
    """The same in UTC, as an instant."""
    return int(local(day, hour, minute).replace(tzinfo=UTC).timestamp()) * SECOND


WEEK = Interval(at(1), at(8))


def soon() -> Deadline:
    return Deadline.after(15)


def booking(revision: int = 1, **more: object) -> Booking:
    usual = Booking(
        BookingId("b1"),
        revision,
        BookingStatus.CONFIRMED,
        title="Meeting",
        description="About the plan.",
        location="Room 1",
        start=at(2, 10),
        end=at(2, 11),
        time_zone="Europe/Berlin",
    )
    return dataclasses.replace(usual, **more)  # type: ignore[arg-type]


@dataclass
class Desk:
    """Anna's account, with a link to it that renews its tokens as the service would."""

    microsoft: MicrosoftFake
    provider: MicrosoftProvider
    anna: GraphUser
    scopes: frozenset[str] = KNOWN_SCOPES
    live: bool = True
    renewals: int = 0
    access_token: str = ""
    calendar: Calendar = field(init=False)

    def __post_init__(self) -> None:
        self.calendar = self.anna.mailbox.default

    @property
    def mailbox(self) -> Mailbox:
        return self.anna.mailbox

    @property
    def link(self) -> Link:
        self.access_token = self.access_token or self._token()
        connection = connection_of(
            ProviderName.MICROSOFT, self.anna.user.id, "anna@contoso.example", CalendarId(self.calendar.id)
        )
        return Link(connection, Secret({"access_token": self.access_token}), self._check, self._renew)

    def read(self, window: Interval = WEEK, calendar: Calendar | None = None) -> CalendarRead:
        chosen = CalendarId((calendar or self.calendar).id)
        return self.provider.read_calendar(self.link, chosen, window, soon())

    def busy(self, window: Interval = WEEK) -> list[tuple[Instant, Instant, BlockReason]]:
        read = self.read(window)
        assert read.unreadable == ()
        return [(event.start, event.end, event.reason) for event in read.events]

    def ref(self, event_id: str = "", uid: str = UID) -> EventRef:
        return EventRef(CalendarId(self.calendar.id), uid, EventId(event_id))

    def find(self, event_id: str = "") -> RemoteEvent | None:
        return self.provider.find_event(self.link, self.ref(event_id), soon())

    def put(self, wanted: Booking, known: RemoteEvent | None = None) -> RemoteEvent:
        return self.provider.put_event(self.link, self.ref(), wanted, known, soon())

    def delete(self, known: RemoteEvent) -> None:
        self.provider.delete_event(self.link, self.ref(known.event_id), known, soon())

    def only(self) -> Event:
        (event,) = self.mailbox.events.values()
        return event

    def _token(self) -> str:
        return str(self.microsoft.token_of(self.anna, self.scopes)["access_token"])

    def _check(self) -> None:
        if not self.live:
            raise NotFound("disconnected")

    def _renew(self, refused: Secret) -> Secret:
        self.renewals += 1
        self.access_token = self._token()
        return Secret({"access_token": self.access_token})
