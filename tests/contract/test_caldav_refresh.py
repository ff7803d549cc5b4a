"""Refreshing a CalDAV calendar: one request when nothing changed, little when little did, and the same as a full read."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from calendar_server.core.model import BusyEvent, CalendarId, CalendarRead, EventId, Interval, UnreadableEvent
from calendar_server.core.packing import opened
from calendar_server.errors import CalendarGone, NeedsReauth, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline, Link, Refreshed, Remembered
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.caldav_reading import SIGNALS, look_at
from calendar_server.providers.caldav_refresh import LOOK_EVERY_S
from calendar_server.providers.egress import Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import StrangeAccount, event
from tests.contract.worlds import WINDOW, at, soon
from tests.fakes.strange_dav import WORK, Asked

BERLIN = (
    "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//tests//EN\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nBEGIN:STANDARD\r\n"
    "DTSTART:19701025T030000\r\nTZOFFSETFROM:+0200\r\nTZOFFSETTO:+0100\r\nEND:STANDARD\r\nEND:VTIMEZONE\r\n"
    "END:VCALENDAR\r\n"
)
ZONE = "{urn:ietf:params:xml:ns:caldav}calendar-timezone"
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
            read = replace(opened(self.last.read), event_ids=None)
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


class Clock:
    """Seconds since 1970, as the test says."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(account: StrangeAccount, egress: Egress, expander: Expander) -> Clock:
    """The provider's; before its first refresh."""
    made = Clock()
    account.provider = CaldavProvider(egress, expander, redirects=5, calendar_events=1000, clock=made)
    return made


@pytest.fixture
def looking(account: StrangeAccount) -> Mirror:
    """Of a calendar with nine events, refreshed until its signals are trusted; the log is empty."""
    for number in range(1, 10):
        account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
    account.dav.put(f"{WORK}todo.ics", event("todo", 3, component="VTODO"))
    return settled(account)


@pytest.fixture
def reporting(account: StrangeAccount, looking: Mirror) -> Mirror:
    """Of the same calendar, refreshed until a report alone is asked for; the log is empty."""
    return exact(account, looking)


def exact(account: StrangeAccount, mirror: Mirror, text: str = "") -> Mirror:
    """After changes that exact reports have told."""
    for told in (text or event("e1", 11), event("e1", 1)):
        account.dav.put(f"{WORK}e1.ics", told)
        mirror.refresh()
    account.dav.log.clear()
    return mirror


@pytest.fixture(params=["looking", "reporting"])
def mirror(request: pytest.FixtureRequest) -> Mirror:
    """Either of both."""
    made: Mirror = request.getfixturevalue(request.param)
    return made


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


class TestNothingChanged:
    @pytest.mark.parametrize("missing", ["", "no_ctag", "no_sync"])
    def test_it_is_one_request(self, account: StrangeAccount, missing: str) -> None:
        account.dav.quirks.add(missing)
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = settled(account)
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0"]

    @pytest.mark.parametrize("missing", ["", "no_ctag", "no_sync"])
    def test_a_first_read_takes_two_requests_and_the_next_confirms_it_by_the_list(
        self, account: StrangeAccount, missing: str
    ) -> None:
        account.dav.quirks.add(missing)
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        account.dav.log.clear()
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "calendar-query"]
        account.dav.log.clear()
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0", "PROPFIND 1"]

    def test_where_etags_cannot_confirm_a_first_read_it_looks_again(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("weak_etags")
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        account.dav.log.clear()
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "calendar-query", "PROPFIND 0"]
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
        assert reports(account)[-2:] == ["sync-collection", "calendar-multiget"]
        assert fetched(account) == ["e5.ics"]
        assert picture(read) == picture(mirror.fresh())

    @pytest.mark.parametrize("missing", ["", "no_ctag", "no_sync", "both"])
    def test_what_is_fetched_does_not_grow_with_the_calendar(self, account: StrangeAccount, missing: str) -> None:
        account.dav.quirks |= NO_SIGNALS if missing == "both" else {missing}
        for number in range(300):
            account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 1 + number % 28))
        mirror = settled(account)
        account.dav.put(f"{WORK}n7.ics", event("n7", 3))
        account.dav.put(f"{WORK}new.ics", event("new", 4))
        del account.dav.shelves[WORK].resources["n100.ics"]
        account.dav.log.clear()
        read = mirror.refresh()
        assert sorted(fetched(account)) == ["n7.ics", "new.ics"]
        # Where there are signals and no exact report, they are looked at again after the read.
        assert len(account.dav.log) == (4 if missing == "no_sync" else 3)
        assert picture(read) == picture(mirror.fresh())

    def test_an_event_that_is_taken_out_needs_no_fetch(self, account: StrangeAccount, mirror: Mirror) -> None:
        del account.dav.shelves[WORK].resources["e5.ics"]
        read = mirror.refresh()
        assert fetched(account) == []
        assert len(read.events) == 6
        assert read.event_ids is not None
        assert f"{WORK}e5.ics" not in read.event_ids

    def test_ids_of_events_outside_the_window_are_told_too(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}far.ics", event("far", 28))
        read = mirror.refresh()
        assert read.event_ids == {f"{WORK}e{number}.ics" for number in range(1, 10)} | {f"{WORK}far.ics"}

    def test_a_change_of_something_else_is_remembered_as_none(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}todo.ics", event("other", 4, component="VTODO"))
        mirror.refresh()
        assert mirror.unchanged
        account.dav.log.clear()
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0"]

    def test_a_todo_that_does_not_say_so_is_fetched_once(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks.add("no_sync")
        account.dav.shelves[WORK].kinds["todo.ics"] = "text/calendar"
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert mirror.refresh().event_ids == mirror.fresh().event_ids
        assert "todo.ics" in fetched(account)
        account.dav.log.clear()
        account.dav.put(f"{WORK}e6.ics", event("e6", 5))
        mirror.refresh()
        assert fetched(account) == ["e6.ics"]

    def test_an_event_that_becomes_a_todo_is_no_event(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 5, component="VTODO"))
        assert_same(mirror)

    def test_a_folder_in_the_calendar_is_no_event(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks |= {"lists_folder", "no_sync"}
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(mirror)
        assert fetched(account) == ["e5.ics"]

    @pytest.mark.parametrize("etag", [True, False])
    def test_only_a_full_read_tells_what_a_foreign_content_type_is(
        self, account: StrangeAccount, mirror: Mirror, etag: bool
    ) -> None:
        account.dav.put(f"{WORK}strange", event("strange", 4))
        account.dav.shelves[WORK].kinds["strange"] = "application/octet-stream"
        if not etag:
            account.dav.shelves[WORK].without_etag.add("strange")
        read = mirror.refresh()
        assert f"{WORK}strange" in (read.event_ids or ())
        assert picture(read) == picture(mirror.fresh())

    def test_a_foreign_thing_that_is_no_event_is_doubted_once(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}photo", event("photo", 4, component="VTODO"))
        account.dav.shelves[WORK].kinds["photo"] = "image/png"
        mirror.refresh()
        assert "calendar-query" in reports(account)
        account.dav.log.clear()
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        mirror.refresh()
        assert fetched(account) == ["e5.ics"]

    def test_when_most_has_changed_everything_is_read_at_once(self, account: StrangeAccount) -> None:
        for number in range(120):
            account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 1 + number % 28))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        mirror.refresh()
        for number in range(100):
            account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 2 + number % 7))
        account.dav.log.clear()
        read = mirror.refresh()
        assert reports(account)[-2:] == ["calendar-query", "PROPFIND 0"]
        assert picture(read) == picture(mirror.fresh())

    def test_hrefs_in_another_spelling_are_the_same_events(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks |= {"other_escapes", "full_urls", "double_slashes"}
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        read = mirror.refresh()
        assert len(fetched(account)) == 1
        assert picture(read) == picture(mirror.fresh())


class TestExactReports:
    """A report up to the token of the look, and texts with the etags that it tells: no look after the read."""

    def test_after_one_the_token_alone_is_asked_for_until_everything_is_read(
        self, account: StrangeAccount, looking: Mirror
    ) -> None:
        mirror = looking
        account.dav.put(f"{WORK}floating.ics", in_zone("floating", 3))  # so that it goes on looking
        mirror.refresh()
        mirror.remembered = None
        mirror.refresh()
        assert self.signals(account, mirror) == {"getctag", "sync-token"}
        for day in (6, 7):
            account.dav.put(f"{WORK}e5.ics", event("e5", day))
            account.dav.log.clear()
            assert_same(mirror)
            assert reports(account)[:3] == ["PROPFIND 0", "sync-collection", "calendar-multiget"]
            assert self.signals(account, mirror) == {"sync-token"}
        mirror.remembered = None
        assert self.signals(account, mirror) == {"getctag", "sync-token"}

    def test_one_of_what_was_taken_out_is_one(self, account: StrangeAccount, looking: Mirror) -> None:
        del account.dav.shelves[WORK].resources["e5.ics"]
        assert_same(looking)
        assert reports(account)[:2] == ["PROPFIND 0", "sync-collection"]
        account.dav.log.clear()
        looking.refresh()
        assert reports(account) == ["sync-collection"]

    def test_one_up_to_another_token_than_the_look_is_none(self, account: StrangeAccount, looking: Mirror) -> None:
        mirror = looking
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        with just_before(account, "sync-collection", lambda: account.dav.put(f"{WORK}e6.ics", event("e6", 2))):
            mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "sync-collection", "calendar-multiget", "PROPFIND 0"]
        assert self.signals(account, mirror) == {"getctag", "sync-token"}
        assert_same(mirror)

    def test_one_of_an_event_that_has_changed_again_is_none(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        with just_before(account, "calendar-multiget", lambda: account.dav.put(f"{WORK}e5.ics", event("e5", 2))):
            mirror.refresh()
        assert reports(account)[-3:] == ["sync-collection", "calendar-multiget", "PROPFIND 0"]
        account.dav.log.clear()
        assert_same(mirror)
        assert reports(account)[0] == "PROPFIND 0"

    def test_one_of_an_event_that_is_gone_when_it_is_fetched_is_none(
        self, account: StrangeAccount, mirror: Mirror
    ) -> None:
        account.dav.quirks |= {"hashed_signals", "multiget_404"}
        account.dav.put(f"{WORK}new.ics", event("new", 5))
        assert_same(mirror)
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        with away(account, "e5.ics", during="calendar-multiget"):
            assert f"{WORK}e5.ics" not in (mirror.refresh().event_ids or ())
        assert_same(mirror)

    @pytest.mark.parametrize("quirk", ["sync_without_etags", "weak_etags"])
    def test_one_without_strong_etags_is_none(self, account: StrangeAccount, mirror: Mirror, quirk: str) -> None:
        account.dav.quirks.add(quirk)
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        mirror.refresh()
        assert reports(account)[-2:] == ["calendar-multiget", "PROPFIND 0"]
        assert_same(mirror)

    def test_one_with_an_event_without_a_text_is_none(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e5.ics", "")
        assert len(mirror.refresh().unreadable) == 1
        account.dav.log.clear()
        assert len(mirror.refresh().unreadable) == 1
        assert fetched(account) == ["e5.ics"]

    @staticmethod
    def signals(account: StrangeAccount, mirror: Mirror) -> set[str]:
        """What the look of a refresh asks for."""
        account.dav.log.clear()
        mirror.refresh()
        return {name for name in ("getctag", "sync-token") if name in account.dav.log[0].body}


class TestReportsAlone:
    """After an exact report, where nothing lies in the calendar's own zone: no look before the next ones, for a while."""

    def test_one_says_that_nothing_has_changed(self, account: StrangeAccount, reporting: Mirror) -> None:
        for _ in range(2):
            reporting.refresh()
            assert reporting.unchanged
        assert reports(account) == ["sync-collection"] * 2

    def test_one_says_what_has_changed(self, account: StrangeAccount, reporting: Mirror) -> None:
        for day in (6, 7):
            account.dav.put(f"{WORK}e5.ics", event("e5", day))
            account.dav.put(f"{WORK}new{day}.ics", event("new", day))
            account.dav.shelves[WORK].resources.pop(f"e{day}.ics")
            account.dav.log.clear()
            read = reporting.refresh()
            assert reports(account) == ["sync-collection", "calendar-multiget"]
            assert picture(read) == picture(reporting.fresh())

    @pytest.mark.parametrize("text", [in_zone("e1", 11), event("e1", 11).replace("T090000Z", "")])
    def test_none_is_asked_for_where_an_event_lies_in_the_calendars_zone(
        self, account: StrangeAccount, looking: Mirror, text: str
    ) -> None:
        exact(account, looking, text)
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(looking)
        assert reports(account)[0] == "PROPFIND 0"

    def test_an_event_in_the_calendars_zone_is_placed_by_a_look(
        self, account: StrangeAccount, reporting: Mirror
    ) -> None:
        account.dav.shelves[WORK].properties[ZONE] = BERLIN
        account.dav.put(f"{WORK}e5.ics", in_zone("e5", 6))
        assert at(6, 8) in [one.start for one in reporting.refresh().events]
        assert_same(reporting)

    def test_a_look_comes_from_time_to_time(self, account: StrangeAccount, clock: Clock, looking: Mirror) -> None:
        exact(account, looking)
        times = (LOOK_EVERY_S - 1, LOOK_EVERY_S, 2 * LOOK_EVERY_S - 1, 2 * LOOK_EVERY_S)
        asked = dict(zip(times, ("sync-collection", "PROPFIND 0") * 2, strict=True))
        began = clock.now
        for passed in asked:
            clock.now = began + passed
            looking.refresh()
            assert looking.unchanged
        assert reports(account) == list(asked.values())

    def test_a_clock_that_was_put_back_brings_a_look(
        self, account: StrangeAccount, clock: Clock, looking: Mirror
    ) -> None:
        exact(account, looking)
        clock.now -= 1
        looking.refresh()
        assert reports(account) == ["PROPFIND 0"]

    @pytest.mark.parametrize("status", [200, 400, 403, 404, 500, 501])
    def test_one_that_is_refused_is_not_asked_for_again(
        self, account: StrangeAccount, reporting: Mirror, status: int
    ) -> None:
        account.dav.fail("REPORT", status, contains="sync-collection")
        for _ in range(2):
            reporting.refresh()
            assert reporting.unchanged
        assert reports(account) == ["sync-collection", "PROPFIND 0", "PROPFIND 0"]
        account.dav.recover()
        exact(account, reporting)
        reporting.refresh()
        assert reports(account) == ["sync-collection"]

    @pytest.mark.parametrize("quirk", ["any_token_is_newest", "tokens_expire", "sync_without_token", "sync_is_cut"])
    def test_a_server_that_begins_to_lie_is_looked_at(
        self, account: StrangeAccount, reporting: Mirror, quirk: str
    ) -> None:
        account.dav.quirks.add(quirk)
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        account.dav.put(f"{WORK}e7.ics", event("e7", 2))
        read = reporting.refresh()
        assert reports(account) == ["sync-collection", "PROPFIND 0", "PROPFIND 1", "calendar-multiget", "PROPFIND 0"]
        assert picture(read) == picture(reporting.fresh())

    def test_a_token_that_is_too_long_to_keep_is_none(self, account: StrangeAccount, reporting: Mirror) -> None:
        long = (
            '<D:multistatus xmlns:D="DAV:"><D:response><D:href>/dav/home/work/e5.ics</D:href>'
            "<D:status>HTTP/1.1 404 Gone</D:status></D:response>"
            f"<D:sync-token>{'x' * 5000}</D:sync-token></D:multistatus>"
        )
        account.dav.fail("REPORT", 207, long.encode(), contains="sync-collection")
        assert_same(reporting)
        assert reporting.remembered is not None
        assert len(reporting.remembered.memory) < 2000

    def test_one_with_members_but_no_other_token_says_nothing(self, account: StrangeAccount, reporting: Mirror) -> None:
        assert reporting.remembered is not None
        token = f"http://strange/{account.dav._signal(WORK)}"
        strange = (
            '<D:multistatus xmlns:D="DAV:"><D:response><D:href>/dav/home/work/e5.ics</D:href>'
            "<D:status>HTTP/1.1 404 Gone</D:status></D:response>"
            f"<D:sync-token>{token}</D:sync-token></D:multistatus>"
        )
        account.dav.fail("REPORT", 207, strange.encode(), contains="sync-collection")
        assert_same(reporting)
        assert reports(account)[:2] == ["sync-collection", "PROPFIND 0"]

    def test_one_up_to_a_time_of_about_now_is_not_relied_on(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("clock_signals")
        account.dav.clock_ahead_s = -1000
        for number in range(1, 7):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
        account.dav.clock_ahead_s = -900
        mirror = settled(account)
        account.dav.put(f"{WORK}e1.ics", event("e1", 7))
        account.dav.clock_ahead_s = -time.time() % 1
        mirror.refresh()
        account.dav.log.clear()
        for number in (5, 6):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number - 3))
            assert_same(mirror)
        assert reports(account)[0] == "sync-collection"

    def test_a_server_that_begins_to_take_any_token_for_its_own_is_believed_until_the_next_look(
        self, account: StrangeAccount, clock: Clock, looking: Mirror
    ) -> None:
        exact(account, looking)
        account.dav.quirks |= {"any_token_is_newest", "sync_same_token"}
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        looking.refresh()
        assert looking.unchanged
        clock.now += LOOK_EVERY_S
        assert_same(looking)


class TestSignalsThatAreTimes:
    """The second of the last change, as at SOGo: two changes in one second have the same one."""

    @pytest.fixture(params=[0, 3600, -86_400], ids=["right clock", "an hour ahead", "a day behind"])
    def mirror(self, account: StrangeAccount, request: pytest.FixtureRequest) -> Mirror:
        """Of a calendar whose last change was long ago; a second of the server begins now."""
        account.dav.quirks.add("clock_signals")
        account.dav.clock_ahead_s = request.param - 1000
        for number in (1, 2, 3):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
        account.dav.clock_ahead_s = request.param - time.time() % 1
        return settled(account)

    @pytest.mark.parametrize("quirk", ["", "sync_without_etags", "no_sync"])
    @pytest.mark.parametrize("refreshes", [1, 2])
    def test_a_change_in_the_second_of_another_shows(
        self, account: StrangeAccount, mirror: Mirror, quirk: str, refreshes: int
    ) -> None:
        account.dav.quirks.add(quirk)
        for day in (4, 5, 6):
            account.dav.put(f"{WORK}e1.ics", event("e1", day))
            for _ in range(refreshes):
                assert_same(mirror)

    def test_what_is_taken_out_in_the_second_of_a_change_is_gone(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e1.ics", event("e1", 4))
        mirror.refresh()
        del account.dav.shelves[WORK].resources["e2.ics"]
        account.dav.note(f"{WORK}e2.ics")
        assert_same(mirror)

    def test_once_their_second_is_over_they_are_one_request(self, account: StrangeAccount, mirror: Mirror) -> None:
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0"]
        account.dav.put(f"{WORK}e1.ics", event("e1", 4))
        mirror.refresh()
        account.dav.log.clear()
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "PROPFIND 1"]
        # Minutes later.
        account.dav.clock_ahead_s += 600
        account.dav.put(f"{WORK}e1.ics", event("e1", 5))
        account.dav.clock_ahead_s += 600
        for expected in (4, 1, 1):
            account.dav.log.clear()
            mirror.refresh()
            assert len(account.dav.log) == expected

    def test_dates_with_a_clock_are_such_times(self, account: StrangeAccount) -> None:
        for signal, young in (
            (f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}", True),
            (f"{time.time():.3f}", True),
            (f"{time.time() - 60:.0f}", False),
            (f"{datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=1):%Y%m%d-%H%M%S}", False),
            ("17", False),
            ("7" * 1000 + f"{time.time():.0f}", False),
            ("\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668\u0669\u0660", False),
        ):
            told = (
                '<D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:response>'
                "<D:href>/dav/home/work/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/><C:calendar/>"
                f"</D:resourcetype><D:sync-token>{signal}</D:sync-token></D:prop><D:status>HTTP/1.1 200 OK</D:status>"
                "</D:propstat></D:response></D:multistatus>"
            )
            account.dav.recover()
            account.dav.fail("PROPFIND", 207, told.encode(), path=WORK)
            session = account.provider._session(account.link, soon())
            assert look_at(session, CalendarId(WORK), SIGNALS).young is young, signal


class TestSignalsThatLie:
    @pytest.mark.parametrize(
        "quirk",
        [
            "any_token_is_newest",
            "tokens_expire",
            "sync_is_cut",
            "sync_without_token",
            "sync_same_token",
            "sync_without_etags",
            "sync_tells_calendar",
        ],
    )
    def test_a_strange_report_never_makes_a_wrong_picture(
        self, account: StrangeAccount, mirror: Mirror, quirk: str
    ) -> None:
        account.dav.quirks.add(quirk)
        for number in (2, 4):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number + 1))
        del account.dav.shelves[WORK].resources["e6.ics"]
        read = mirror.refresh()
        assert sorted(fetched(account)) == ["e2.ics", "e4.ics"]
        assert picture(read) == picture(mirror.fresh())

    @pytest.mark.parametrize("status", [200, 204, 302, 400, 403, 404, 405, 409, 410, 500, 501, 503, 507])
    @pytest.mark.parametrize("body", [b"", b"<html>", b'<D:multistatus xmlns:D="DAV:"/>'])
    def test_a_refused_report_is_made_up_for_by_the_list(
        self, account: StrangeAccount, mirror: Mirror, status: int, body: bytes
    ) -> None:
        account.dav.fail("REPORT", status, body, contains="sync-collection")
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        read = mirror.refresh()
        assert fetched(account) == ["e5.ics"]
        assert picture(read) == picture(mirror.fresh())

    def test_a_report_that_is_cut_is_made_up_for_by_the_list(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.fail("REPORT", 207, b'<D:multistatus xmlns:D="DAV:"></D:multistatus>', contains="sync-", cut=True)
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(mirror)

    def test_a_report_that_tells_nothing_new_is_not_believed(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        mirror.refresh()
        stale = (
            '<D:multistatus xmlns:D="DAV:"><D:response><D:href>/dav/home/work/e5.ics</D:href><D:propstat><D:prop>'
            f"<D:getetag>{account.dav._etag(event('e5', 6))}</D:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status>"
            "</D:propstat></D:response><D:sync-token>other</D:sync-token></D:multistatus>"
        )
        account.dav.fail("REPORT", 207, stale.encode(), contains="sync-collection")
        account.dav.put(f"{WORK}e7.ics", event("e7", 2))
        assert_same(mirror)

    def test_a_report_that_fails_for_any_part_is_not_believed(self, account: StrangeAccount, mirror: Mirror) -> None:
        for number in (2, 4):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number + 1))
        cut_short = (
            '<D:multistatus xmlns:D="DAV:"><D:response><D:href>/dav/home/work/e2.ics</D:href><D:propstat><D:prop>'
            '<D:getetag>"new"</D:getetag></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>'
            "<D:response><D:href>/dav/home/</D:href><D:status>HTTP/1.1 507 Cut</D:status></D:response>"
            "<D:sync-token>other</D:sync-token></D:multistatus>"
        )
        account.dav.fail("REPORT", 207, cut_short.encode(), contains="sync-collection")
        assert_same(mirror)

    @pytest.mark.parametrize("quirks", [{"frozen_signals"}, {"short_etags", "no_sync"}])
    def test_a_full_read_mends_what_was_a_lie(self, account: StrangeAccount, quirks: set[str]) -> None:
        account.dav.quirks |= quirks
        account.dav.put(f"{WORK}e.ics", event("e", 2))
        mirror = settled(account)
        account.dav.put(f"{WORK}e.ics", event("e", 3))
        assert picture(mirror.refresh()) != picture(mirror.fresh())
        mirror.remembered = None
        assert_same(mirror)

    @pytest.mark.parametrize("quirk", ["weak_etags", "no_etags"])
    def test_without_strong_etags_every_change_reads_everything(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.quirks.add(quirk)
        for number in range(3):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", 2 + number))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        mirror.refresh()
        account.dav.put(f"{WORK}e1.ics", event("e1", 6))
        account.dav.log.clear()
        read = mirror.refresh()
        assert sorted(fetched(account)) == ["e0.ics", "e1.ics", "e2.ics"]
        assert picture(read) == picture(mirror.fresh())

    def test_without_etags_and_signals_every_refresh_is_a_full_read(self, account: StrangeAccount) -> None:
        account.dav.quirks |= {"no_etags", *NO_SIGNALS}
        account.dav.put(f"{WORK}e.ics", event("e", 2))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        mirror.refresh()
        account.dav.log.clear()
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "calendar-query"]

    def test_an_event_without_an_etag_is_read_whenever_something_changed(
        self, account: StrangeAccount, mirror: Mirror
    ) -> None:
        account.dav.shelves[WORK].without_etag.add("e3.ics")
        mirror.remembered = None
        mirror.refresh()
        account.dav.log.clear()
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(mirror)
        assert sorted(fetched(account)) == ["e3.ics", "e5.ics"]

    def test_an_etag_that_only_the_list_tells_is_good_enough(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.shelves[WORK].without_etag |= {f"e{number}.ics" for number in range(1, 10)}
        mirror.remembered = None
        mirror.refresh()
        account.dav.shelves[WORK].without_etag.clear()
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        mirror.refresh()
        account.dav.log.clear()
        account.dav.put(f"{WORK}e6.ics", event("e6", 5))
        mirror.refresh()
        assert fetched(account) == ["e6.ics"]

    @pytest.mark.parametrize("status", [403, 500])
    def test_signals_that_fail_are_no_signals(self, account: StrangeAccount, status: int) -> None:
        told = (
            '<D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:response>'
            "<D:href>/dav/home/work/</D:href><D:propstat><D:prop><D:resourcetype><D:collection/><C:calendar/>"
            "</D:resourcetype></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat><D:propstat><D:prop>"
            '<S:getctag xmlns:S="http://calendarserver.org/ns/"/><D:sync-token/></D:prop>'
            f"<D:status>HTTP/1.1 {status} No</D:status></D:propstat></D:response></D:multistatus>"
        )
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        account.dav.fail("PROPFIND", 207, told.encode(), contains="getctag")
        mirror.refresh()
        account.dav.put(f"{WORK}e.ics", event("e", 3))
        assert_same(mirror)


def break_status(status: int) -> Callable[[StrangeAccount, str, str], None]:
    def fault(account: StrangeAccount, method: str, contains: str) -> None:
        account.dav.fail(method, status, contains=contains)

    return fault


def hang_up(account: StrangeAccount, method: str, contains: str) -> None:
    account.dav.fail(method, 0, None, contains=contains)


def cut(account: StrangeAccount, method: str, contains: str) -> None:
    whole = b'<D:multistatus xmlns:D="DAV:"></D:multistatus>'
    account.dav.fail(method, 207, whole, contains=contains, cut=True)


def stall(account: StrangeAccount, method: str, contains: str) -> None:
    account.dav.fail(method, 207, contains=contains, stall=True)


def other_answer(account: StrangeAccount, method: str, contains: str) -> None:
    account.dav.fail(method, 200, b"<html><body>Log in</body></html>", contains=contains)


FAULTS = [break_status(500), break_status(503), break_status(507), break_status(302), hang_up, cut, stall, other_answer]
STEPS = [("PROPFIND", "getctag"), ("PROPFIND", "getcontenttype"), ("REPORT", "calendar-multiget")]


class TestFaultsInTheMidst:
    @pytest.mark.parametrize("step", STEPS, ids=["look", "list", "fetch"])
    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: getattr(fault, "__name__", ""))
    def test_a_fault_is_an_error_and_the_next_refresh_is_right(
        self,
        account: StrangeAccount,
        mirror: Mirror,
        fault: Callable[[StrangeAccount, str, str], None],
        step: tuple[str, str],
    ) -> None:
        account.dav.quirks.add("no_sync")
        mirror.refresh()
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        del account.dav.shelves[WORK].resources["e2.ics"]
        held = mirror.remembered
        fault(account, *step)
        with pytest.raises(ProviderUnavailable):
            mirror.refresh(Deadline.after(0.7) if fault is stall else None)
        assert mirror.remembered is held
        account.dav.recover()
        assert_same(mirror)

    def test_a_report_that_never_comes_ends_at_the_deadline(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        stall(account, "REPORT", "sync-collection")
        with pytest.raises(ProviderUnavailable):
            mirror.refresh(Deadline.after(0.7))
        account.dav.recover()
        assert_same(mirror)

    @pytest.mark.parametrize("status", [401, 403, 423, 500, 503, 507])
    def test_an_event_that_the_server_fails_to_hand_out_fails_the_refresh(
        self, account: StrangeAccount, mirror: Mirror, status: int
    ) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        account.dav.shelves[WORK].statuses["e5.ics"] = status
        with pytest.raises(ProviderUnavailable):
            mirror.refresh()
        account.dav.shelves[WORK].statuses.clear()
        assert_same(mirror)

    @pytest.mark.parametrize("status", [403, 500, 507])
    def test_a_text_that_the_server_fails_to_hand_out_fails_the_refresh(
        self, account: StrangeAccount, mirror: Mirror, status: int
    ) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        account.dav.shelves[WORK].data_statuses["e5.ics"] = status
        with pytest.raises(ProviderUnavailable):
            mirror.refresh()

    @pytest.mark.parametrize("status", [500, 503, 507])
    @pytest.mark.parametrize("sync", [True, False])
    def test_an_error_of_the_calendar_itself_fails_the_refresh(
        self, account: StrangeAccount, mirror: Mirror, status: int, sync: bool
    ) -> None:
        if not sync:
            account.dav.quirks.add("no_sync")
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        account.dav.shelves[WORK].own_status = status
        with pytest.raises(ProviderUnavailable):
            mirror.refresh()

    @pytest.mark.parametrize("statuses", [None, 404])
    def test_a_changed_event_without_a_text_is_named_until_it_has_one(
        self, account: StrangeAccount, mirror: Mirror, statuses: int | None
    ) -> None:
        account.dav.put(f"{WORK}e5.ics", "" if statuses is None else event("e5", 6))
        if statuses:
            account.dav.shelves[WORK].data_statuses["e5.ics"] = statuses
        read = mirror.refresh()
        assert [one.event_id for one in read.unreadable] == [f"{WORK}e5.ics"]
        assert f"{WORK}e5.ics" in (read.event_ids or ())
        assert len(read.events) == 6
        account.dav.shelves[WORK].data_statuses.clear()
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(mirror)
        assert mirror.refresh().unreadable == ()

    def test_an_event_that_cannot_be_read_takes_its_old_times_along(
        self, account: StrangeAccount, mirror: Mirror
    ) -> None:
        account.dav.put(f"{WORK}e5.ics", event("e5").replace("DTSTART:", "DTSTART:x"))
        read = mirror.refresh()
        assert [one.event_id for one in read.unreadable] == [f"{WORK}e5.ics"]
        assert picture(read) == picture(mirror.fresh())

    def test_an_event_that_vanishes_before_it_is_fetched_is_gone(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks.add("multiget_404")
        account.dav.put(f"{WORK}gone.ics", event("gone", 6))
        del account.dav.shelves[WORK].resources["e5.ics"]
        read = mirror.refresh()
        assert len(read.events) == 6
        assert f"{WORK}gone.ics" not in (read.event_ids or ())

    def test_an_event_that_the_server_leaves_out_is_asked_for_alone(
        self, account: StrangeAccount, mirror: Mirror
    ) -> None:
        account.dav.quirks.add("multiget_forgets")
        for number in (2, 5):
            account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", 6))
        assert_same(mirror)

    def test_where_events_cannot_be_fetched_by_name_all_are_read(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks.add("no_multiget")
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(mirror)
        assert reports(account)[-1] == "calendar-query"

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_a_calendar_that_is_gone_is_gone(self, account: StrangeAccount, mirror: Mirror, status: int) -> None:
        account.dav.fail("PROPFIND", status)
        account.dav.fail("REPORT", status)
        with pytest.raises(CalendarGone):
            mirror.refresh()

    def test_a_refused_password_is_told(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.password = "another"
        with pytest.raises(NeedsReauth):
            mirror.refresh()

    @pytest.mark.parametrize("contains", ["getctag", "sync-collection", "calendar-multiget"])
    def test_a_server_that_asks_to_wait_is_obeyed(
        self, account: StrangeAccount, looking: Mirror, contains: str
    ) -> None:
        mirror = looking
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        method = "PROPFIND" if contains == "getctag" else "REPORT"
        account.dav.fail(method, 503, contains=contains, headers=(("Retry-After", "77"),))
        with pytest.raises(ProviderThrottled) as told:
            mirror.refresh()
        assert told.value.retry_after_s == 77
        assert account.dav.log[-1].method == method

    def test_a_change_during_the_read_shows_at_the_next_look(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}e.ics", event("e", 2))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        with meanwhile(account, "calendar-query", lambda: account.dav.put(f"{WORK}late.ics", event("late", 3))):
            mirror.refresh()
        assert_same(mirror)
        with meanwhile(account, "calendar-multiget", lambda: account.dav.put(f"{WORK}e.ics", event("e", 4))):
            account.dav.put(f"{WORK}other.ics", event("other", 5))
            mirror.refresh()
        assert_same(mirror)

    @pytest.mark.parametrize("quirks", [set(), {"no_ctag"}, {"no_sync"}])
    def test_an_event_that_was_away_just_when_it_was_first_read_shows_at_the_next_look(
        self, account: StrangeAccount, quirks: set[str]
    ) -> None:
        account.dav.quirks |= {"hashed_signals", *quirks}
        account.dav.put(f"{WORK}e.ics", event("e", 2))
        account.dav.put(f"{WORK}other.ics", event("other", 3))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        with away(account, "e.ics", during="calendar-query"):
            assert mirror.refresh().event_ids == {f"{WORK}other.ics"}
        assert_same(mirror)
        assert_same(mirror)
        assert mirror.unchanged

    @pytest.mark.parametrize("quirks", [set(), {"no_ctag"}, {"no_sync"}])
    @pytest.mark.parametrize("more", [0, 60])
    def test_an_event_that_was_away_just_when_a_change_was_read_shows_at_the_next_look(
        self, account: StrangeAccount, mirror: Mirror, quirks: set[str], more: int
    ) -> None:
        account.dav.quirks |= {"hashed_signals", *quirks}
        # With so many more everything is read again.
        for number in range(1 + more):
            account.dav.put(f"{WORK}new{number}.ics", event(f"new{number}", 5))
        found_by = "getcontenttype" if "no_sync" in quirks else "sync-collection"
        with away(account, "e5.ics", during=found_by):
            assert f"{WORK}e5.ics" not in (mirror.refresh().event_ids or ())
        assert_same(mirror)
        account.dav.log.clear()
        assert_same(mirror)
        assert mirror.unchanged

    def test_an_event_that_was_there_for_a_look_only_is_none_when_it_comes_back(
        self, account: StrangeAccount, mirror: Mirror
    ) -> None:
        account.dav.quirks.add("hashed_signals")
        account.dav.put(f"{WORK}new.ics", event("new", 5))
        with away(account, "new.ics", during="sync-collection"):
            mirror.refresh()
        assert_same(mirror)

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: getattr(fault, "__name__", ""))
    def test_a_look_after_the_read_that_fails_costs_no_more_than_the_list_next_time(
        self, account: StrangeAccount, mirror: Mirror, fault: Callable[[StrangeAccount, str, str], None]
    ) -> None:
        account.dav.quirks.add("no_sync")
        mirror.refresh()
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        with meanwhile(account, "calendar-multiget", lambda: fault(account, "PROPFIND", "getctag"), changes=False):
            read = mirror.refresh(Deadline.after(1.5) if fault is stall else None)
        account.dav.recover()
        assert picture(read) == picture(mirror.fresh())
        account.dav.log.clear()
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0", "PROPFIND 1"]


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


class TestWhatAnEventMeans:
    def test_another_zone_of_the_calendar_reads_everything_again(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}floating.ics", in_zone("floating", 3))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        assert [one.start for one in mirror.refresh().events] == [at(3, 9)]
        account.dav.shelves[WORK].properties[ZONE] = BERLIN
        assert [one.start for one in mirror.refresh().events] == [at(3, 8)]
        assert_same(mirror)

    def test_another_zone_that_most_events_name_reads_everything_again(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}floating.ics", in_zone("floating", 3))
        account.dav.put(f"{WORK}b.ics", in_zone("b", 4, "Europe/Berlin"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        assert next(one.start for one in mirror.refresh().events) == at(3, 8)
        for number in range(2):
            account.dav.put(f"{WORK}t{number}.ics", in_zone(f"t{number}", 5, "Asia/Tokyo"))
        assert next(one.start for one in mirror.refresh().events) == at(3, 0)
        account.dav.log.clear()
        account.dav.put(f"{WORK}t2.ics", in_zone("t2", 6, "Asia/Tokyo"))
        assert_same(mirror)
        assert fetched(account) == ["t2.ics"]
        for number in range(3):
            del account.dav.shelves[WORK].resources[f"t{number}.ics"]
        assert next(one.start for one in mirror.refresh().events) == at(3, 8)
        assert_same(mirror)

    def test_a_changed_floating_event_is_where_the_others_are(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}floating.ics", in_zone("floating", 3))
        account.dav.put(f"{WORK}b.ics", in_zone("b", 4, "Europe/Berlin"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        mirror.refresh()
        account.dav.put(f"{WORK}floating.ics", in_zone("floating", 5))
        assert at(5, 8) in [one.start for one in mirror.refresh().events]

    def test_other_addresses_of_the_owner_read_everything_again(self, account: StrangeAccount, mirror: Mirror) -> None:
        settings = {**mirror.link.connection.settings, "addresses": '["other@example.com"]'}
        mirror.link = replace(mirror.link, connection=replace(mirror.link.connection, settings=settings))
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "calendar-query", "PROPFIND 0"]

    @pytest.mark.parametrize("memory", [b"", b"x", b"caldav1\n", b"caldav1\n\x00\x00\x00\x05abcdefgh"])
    def test_a_memory_that_is_none_reads_everything_again(
        self, account: StrangeAccount, mirror: Mirror, memory: bytes
    ) -> None:
        assert mirror.remembered is not None
        mirror.remembered = replace(mirror.remembered, memory=memory)
        assert_same(mirror)
        assert reports(account)[:2] == ["PROPFIND 0", "calendar-query"]

    def test_half_a_memory_reads_everything_again(self, account: StrangeAccount, mirror: Mirror) -> None:
        assert mirror.remembered is not None
        mirror.remembered = replace(mirror.remembered, memory=mirror.remembered.memory[:-20])
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        assert_same(mirror)
        assert fetched(account) == []

    def test_another_window_reads_everything_again(self, account: StrangeAccount, mirror: Mirror) -> None:
        assert mirror.remembered is not None
        mirror.remembered = replace(mirror.remembered, window=Interval(at(1), at(2)))
        assert_same(mirror)

    def test_a_calendar_that_was_empty_fills(self, account: StrangeAccount) -> None:
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        assert mirror.refresh().events == ()
        mirror.refresh()
        assert mirror.unchanged
        account.dav.put(f"{WORK}floating.ics", in_zone("floating", 3))
        account.dav.put(f"{WORK}b.ics", in_zone("b", 4, "Europe/Berlin"))
        assert_same(mirror)
        account.dav.shelves[WORK].resources.clear()
        assert_same(mirror)
