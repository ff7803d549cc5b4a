"""Anna's account at a Google with a memory, and what the tests of the provider ask of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from calendar_server.core.model import (
    SECOND,
    BlockReason,
    Booking,
    BookingId,
    BookingStatus,
    Calendar,
    CalendarId,
    CalendarRead,
    Instant,
    Interval,
    ProviderName,
)
from calendar_server.errors import NotFound
from calendar_server.providers.base import Deadline, EventRef, Link, RemoteEvent, Secret
from calendar_server.providers.google import PRIMARY, GoogleProvider
from tests.fakes.connections import connection_of
from tests.fakes.google import GoogleFake, GoogleUser
from tests.fakes.google_accounts import ALL_SCOPES
from tests.fakes.google_calendars import GoogleCalendar, Json

UID = "0123456789abcdefghijklmnopqrstuv0123456789abcdefghij"


BERLIN = ZoneInfo("Europe/Berlin")


def clock(day: int, hour: int = 0, minute: int = 0, zone: ZoneInfo | None = None) -> datetime:
    """What a clock shows in December 2026, in UTC unless told otherwise."""
    return datetime(2026, 12, day, hour, minute, tzinfo=zone or UTC)


def at(day: int, hour: int = 0, minute: int = 0, zone: ZoneInfo | None = None) -> Instant:
    """The same as an instant."""
    return int(clock(day, hour, minute, zone).timestamp()) * SECOND


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

    google: GoogleFake
    provider: GoogleProvider
    anna: GoogleUser
    scopes: frozenset[str] = ALL_SCOPES
    live: bool = True
    renewals: int = 0
    access_token: str = ""
    good_renewals: bool = True
    calendar_id: CalendarId = PRIMARY

    @property
    def primary(self) -> GoogleCalendar:
        return self.anna.primary

    @property
    def link(self) -> Link:
        self.access_token = self.access_token or self._token()
        connection = connection_of(ProviderName.GOOGLE, self.anna.user.sub, self.anna.email, self.calendar_id)
        return Link(connection, Secret({"access_token": self.access_token}), self._check, self._renew)

    def use(self, calendar: GoogleCalendar) -> Desk:
        """Work with this calendar from now on."""
        self.calendar_id = CalendarId(calendar.id)
        return self

    def shared(self, role: str, **more: str) -> GoogleCalendar:
        """Somebody else's calendar that Anna may use so far, which is worked with from now on."""
        calendar = self.google.calendars.add_calendar(
            "ben@gmail.example",
            "Ben",
            roles={self.anna.email: role},
            **more,
        )
        self.use(calendar)
        return calendar

    def calendars(self) -> list[Calendar]:
        return self.provider.list_calendars(self.link, soon())

    def read(self, window: Interval = WEEK) -> CalendarRead:
        return self.provider.read_calendar(self.link, self.calendar_id, window, soon())

    def busy(self, window: Interval = WEEK) -> list[tuple[Instant, Instant, BlockReason]]:
        read = self.read(window)
        assert read.unreadable == ()
        return sorted((event.start, event.end, event.reason) for event in read.events)

    def reason(self, **members: object) -> BlockReason:
        """Why an event with these members blocks, or does not."""
        self.primary.add(clock(2, 10), clock(2, 11), **members)
        ((_, _, reason),) = self.busy()
        return reason

    @property
    def ref(self) -> EventRef:
        return EventRef(self.calendar_id, UID, self.provider.event_id(self.calendar_id, UID))

    def find(self) -> RemoteEvent | None:
        return self.provider.find_event(self.link, self.ref, soon())

    def found(self) -> RemoteEvent:
        found = self.find()
        assert found is not None
        return found

    def put(self, wanted: Booking, known: RemoteEvent | None = None) -> RemoteEvent:
        return self.provider.put_event(self.link, self.ref, wanted, known, soon())

    def delete(self, known: RemoteEvent) -> None:
        self.provider.delete_event(self.link, self.ref, known, soon())

    @property
    def event(self) -> Json:
        """Our event as Google keeps it."""
        return self.primary.events[UID]

    def _token(self) -> str:
        return str(self.google.token_of(self.anna, self.scopes)["access_token"])

    def _check(self) -> None:
        if not self.live:
            raise NotFound("disconnected")

    def _renew(self, refused: Secret) -> Secret:
        self.renewals += 1
        self.access_token = self._token() if self.good_renewals else "refused"
        return Secret({"access_token": self.access_token})
