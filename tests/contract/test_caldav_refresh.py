"""Refreshing a CalDAV calendar: one request when nothing changed, little when little did, and the same as a full read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from calendar_server.core.model import BusyEvent, CalendarId, CalendarRead, EventId, Interval, UnreadableEvent
from calendar_server.errors import CalendarGone, NeedsReauth, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline, Link, Refreshed, Remembered
from calendar_server.providers.caldav import CaldavProvider
from tests.contract.accounts import StrangeAccount, event
from tests.contract.worlds import WINDOW, at, soon
from tests.fakes.strange_dav import WORK, Asked

NO_SIGNALS = {"no_ctag", "no_sync"}


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
            self.remembered = replace(before, memory=self.last.memory)
        else:
            assert self.last.read.event_ids is not None
            self.event_ids = self.last.read.event_ids
            read = CalendarRead(self.last.read.events, self.last.read.unreadable)
            self.remembered = Remembered(WINDOW, read, self.last.memory)
        return replace(self.remembered.read, event_ids=self.event_ids)

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


@pytest.fixture
def mirror(account: StrangeAccount) -> Mirror:
    """Of a calendar with nine events, refreshed once; the log is empty."""
    for number in range(1, 10):
        account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
    account.dav.put(f"{WORK}todo.ics", event("todo", 3, component="VTODO"))
    made = Mirror(account.provider, account.link, CalendarId(WORK))
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


class TestNothingChanged:
    @pytest.mark.parametrize("missing", ["", "no_ctag", "no_sync"])
    def test_it_is_one_request(self, account: StrangeAccount, missing: str) -> None:
        account.dav.quirks.add(missing)
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        mirror.refresh()
        account.dav.log.clear()
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0"]

    def test_without_signals_the_list_of_etags_is_the_look(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks |= NO_SIGNALS
        mirror.refresh()
        account.dav.log.clear()
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0", "PROPFIND 1"]


class TestLittleChanged:
    def test_only_the_changed_event_is_fetched(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        read = mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "sync-collection", "calendar-multiget"]
        assert fetched(account) == ["e5.ics"]
        assert picture(read) == picture(mirror.fresh())
