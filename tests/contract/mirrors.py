"""What a service keeps of one CalDAV calendar, as the tests of its refreshes use it, and what may happen meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from calendar_server.core.model import BusyEvent, CalendarId, CalendarRead, EventId, UnreadableEvent
from calendar_server.core.packing import opened
from calendar_server.providers.base import Deadline, Link, Refreshed, Remembered
from calendar_server.providers.caldav import CaldavProvider
from tests.contract.accounts import StrangeAccount, event
from tests.contract.worlds import WINDOW, soon
from tests.fakes.strange_dav import WORK, Asked

BERLIN = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//tests//EN\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nBEGIN:STANDARD\r\n"
    "DTSTART:19701025T030000\r\nTZOFFSETFROM:+0200\r\nTZOFFSETTO:+0100\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\n"
    "END:VCALENDAR\r\n"
)
NO_SIGNALS = {"no_ctag", "no_sync"}
ZONE = "{urn:ietf:params:xml:ns:caldav}calendar-timezone"


class Mirror:
    """What a service keeps of one calendar: it refreshes, and remembers what came of it, or nothing new on an error."""

    def __init__(self, provider: CaldavProvider, link: Link, calendar_id: CalendarId) -> None:
        self.provider, self.link, self.calendar_id = provider, link, calendar_id
        self.remembered: Remembered | None = None
        self.last: Refreshed | None = None

    def refresh(self, deadline: Deadline | None = None) -> CalendarRead:
        """What is held after a refresh."""
        before = self.remembered
        self.last = self.provider.refresh_calendar(self.link, self.calendar_id, WINDOW, before, deadline or soon())
        if self.last.read is None:
            assert before is not None
            if before.full:
                assert self.last.event_ids is not None
                self.event_ids = self.last.event_ids()
            self.remembered = replace(before, memory=self.last.memory, full=False)
        else:
            assert self.last.read.event_ids is not None
            self.event_ids = self.last.read.event_ids
            read = replace(opened(self.last.read), event_ids=None)
            self.remembered = Remembered(WINDOW, read, self.last.memory)
        return replace(self.remembered.read, event_ids=self.event_ids)

    def refresh_in_full(self) -> CalendarRead:
        """What is held after everything was read again, whatever signals say."""
        assert self.remembered is not None
        self.remembered = replace(self.remembered, full=True)
        return self.refresh()

    @property
    def unchanged(self) -> bool:
        """Whether the last refresh found nothing new."""
        return self.last is not None and self.last.read is None

    def fresh(self) -> CalendarRead:
        return self.provider.read_calendar(self.link, self.calendar_id, WINDOW, soon())


def picture(read: CalendarRead) -> tuple[list[BusyEvent], list[UnreadableEvent], frozenset[EventId] | None]:
    """A read, however its equals are ordered. Its events have to come by start."""
    assert [event.start for event in read.events] == sorted(event.start for event in read.events)
    return sorted(read.events, key=repr), sorted(read.unreadable, key=repr), read.event_ids


def assert_same(mirror: Mirror) -> None:
    """A refresh comes to what a fresh full read comes to."""
    assert picture(mirror.refresh()) == picture(mirror.fresh())


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def exact(account: StrangeAccount, mirror: Mirror, text: str = "") -> Mirror:
    """After changes that exact reports have told."""
    for told in (text or event("e1", 11), event("e1", 1)):
        account.dav.put(f"{WORK}e1.ics", told)
        mirror.refresh()
    account.dav.log.clear()
    return mirror


def settled(account: StrangeAccount) -> Mirror:
    """Of the calendar as it is. The first read is confirmed by the list of etags at the second."""
    made = Mirror(account.provider, account.link, CalendarId(WORK))
    made.refresh()
    made.refresh()
    account.dav.log.clear()
    return made


def fetched(account: StrangeAccount) -> list[str]:
    """The resources whose texts were asked for by name."""
    return [
        part.partition("<")[0].rpartition("/")[2]
        for asked in account.dav.asked("REPORT")
        if "calendar-multiget" in asked.body
        for part in asked.body.split("href>")[1::2]
    ]


def reports(account: StrangeAccount) -> list[str]:
    """What was asked, in order, by name."""
    return [_name(asked) for asked in account.dav.log]


def _name(asked: Asked) -> str:
    if asked.method != "REPORT":
        return f"{asked.method} {asked.headers.get('depth', '')}".strip()
    return next(name for name in ("sync-collection", "calendar-multiget", "calendar-query") if name in asked.body)


def in_zone(uid: str, day: int, zone: str = "") -> str:
    """An event on a day's morning: in a zone, or floating."""
    start = f"DTSTART;TZID={zone}:" if zone else "DTSTART:"
    return (
        event(uid, day)
        .replace("DTSTART:", start)
        .replace("T090000Z", "T090000")
        .replace(f"DTEND:202612{day:02}T100000Z", "DURATION:PT1H")
    )


@contextlib.contextmanager
def just_before(account: StrangeAccount, name: str, do: Callable[[], None]) -> Iterator[None]:
    """Something happens whenever this request comes, before it is answered."""

    class Acting(list[Asked]):
        def append(self, asked: Asked) -> None:
            super().append(asked)
            if name in asked.body:
                do()

    account.dav.log = Acting(account.dav.log)
    yield
    account.dav.log = list(account.dav.log)


@contextlib.contextmanager
def away(account: StrangeAccount, name: str, *, during: str) -> Iterator[None]:
    """An event is taken out when a request comes, and put back as it was after all is read."""
    resources = account.dav.shelves[WORK].resources
    taken: list[str] = []

    def take() -> None:
        if name in resources:
            taken.append(resources.pop(name))

    with just_before(account, during, take):
        yield
    [text] = taken
    resources[name] = text


@contextlib.contextmanager
def meanwhile(
    account: StrangeAccount, name: str, change: Callable[[], None], *, changes: bool = True
) -> Iterator[None]:
    """Somebody changes something right after the server has begun to answer this request.

    Without ``changes`` it is nothing in the calendar.
    """

    class Changing(list[Asked]):
        def append(self, asked: Asked) -> None:
            super().append(asked)
            if name in asked.body:
                account.dav.log = list(self)
                texts = dict(account.dav.shelves[WORK].resources)
                change()
                late.update(account.dav.shelves[WORK].resources)
                account.dav.shelves[WORK].resources = texts

    late: dict[str, str] = {}
    account.dav.log = Changing(account.dav.log)
    yield
    assert late
    if changes:
        account.dav.shelves[WORK].resources = late


def gone(name: str, token: str) -> bytes:
    """What a report says where a resource was taken out, and nothing else changed."""
    return (
        f'<D:multistatus xmlns:D="DAV:"><D:response><D:href>/dav/home/work/{name}</D:href>'
        f"<D:status>HTTP/1.1 404 Gone</D:status></D:response><D:sync-token>{token}</D:sync-token></D:multistatus>"
    ).encode()
