"""An account at the strange server, as the tests use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from calendar_server.core.model import CalendarId, CalendarRead, EventId, Interval, Preset, ProviderName
from calendar_server.errors import CalendarError
from calendar_server.providers.base import Account, EventRef, Link, RemoteEvent, Secret
from calendar_server.providers.caldav import CaldavProvider
from tests.contract.worlds import WINDOW, booking, link_of, soon
from tests.fakes.strange_dav import PASSWORD, USERNAME, WORK, StrangeDav

UID = "a0b1c2d3e4f5g6h7i8j9k0l1m2n3o4p5q6r7s8t9u0v1a2b3c4d5"
PATH = f"{WORK}{UID}.ics"


def event(uid: str, day: int = 2, *, component: str = "VEVENT") -> str:
    """The text of an event in December 2026 from nine to ten."""
    return "\r\n".join(
        (
            "BEGIN:VCALENDAR",
            "VERSION:2.0",
            "PRODID:-//tests//EN",
            f"BEGIN:{component}",
            f"UID:{uid}",
            "DTSTAMP:20261101T000000Z",
            f"DTSTART:202612{day:02}T090000Z",
            *([f"DTEND:202612{day:02}T100000Z"] if component == "VEVENT" else []),
            "SUMMARY:Something",
            f"END:{component}",
            "END:VCALENDAR",
            "",
        )
    )


@dataclass
class StrangeAccount:
    """The provider against the strange server; connects when it is first used."""

    dav: StrangeDav
    provider: CaldavProvider
    connected: tuple[Account, Secret] | None = None
    check: Callable[[], None] = lambda: None

    def connect(
        self,
        path: str = "/",
        *,
        username: str = USERNAME,
        password: str = PASSWORD,
        preset: Preset = Preset.CUSTOM,
        url: str = "",
    ) -> Account:
        self.connected = self.provider.connect(
            preset=preset,
            username=username,
            password=password,
            server_url=url or f"{self.dav.url}{path}",
            deadline=soon(),
        )
        return self.connected[0]

    def refusal(self, path: str = "/", **more: str) -> CalendarError:
        """Why connecting does not work."""
        try:
            self.connect(path, **more)  # type: ignore[arg-type]
        except CalendarError as error:
            return error
        raise AssertionError("it did connect")

    @property
    def link(self) -> Link:
        if self.connected is None:
            self.connect()
        assert self.connected is not None
        return link_of(*self.connected, ProviderName.CALDAV, self.check)

    @property
    def calendar_id(self) -> CalendarId:
        return self.link.connection.calendar_id or CalendarId(WORK)

    @property
    def ref(self) -> EventRef:
        return EventRef(self.calendar_id, UID, self.provider.event_id(self.calendar_id, UID))

    def read(self) -> CalendarRead:
        return self.provider.read_calendar(self.link, self.calendar_id, WINDOW, soon())

    def busy(self) -> list[Interval]:
        return sorted(Interval(found.start, found.end) for found in self.read().events if found.reason.blocks)

    def find(self) -> RemoteEvent | None:
        return self.provider.find_event(self.link, self.ref, soon())

    def put(self, revision: int = 1, known: RemoteEvent | None = None, **more: object) -> RemoteEvent:
        return self.provider.put_event(self.link, self.ref, booking(revision, **more), known, soon())

    def delete(self, known: RemoteEvent) -> None:
        self.provider.delete_event(self.link, self.ref, known, soon())

    def ours(self) -> dict[EventId, str]:
        """What the server has of our uid, by path."""
        return {
            EventId(f"{place}{name}"): text
            for place, shelf in self.dav.shelves.items()
            for name, text in shelf.resources.items()
            if f"UID:{UID}" in text
        }
