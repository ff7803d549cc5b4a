"""Servers that show a part of a calendar, and say which (RFC 4791 sections 5.2.6 and 5.2.7): the rest is not free."""

from __future__ import annotations

import pytest

from calendar_server.core.model import DAY, UNTOLD, CalendarId, CalendarRead, Interval
from tests.contract.accounts import StrangeAccount, event
from tests.contract.mirrors import Mirror, exact, picture, reports, settled
from tests.contract.worlds import WINDOW, at, soon
from tests.fakes.strange_dav import WORK

MIN, MAX = (f"{{urn:ietf:params:xml:ns:caldav}}{name}-date-time" for name in ("min", "max"))
SERVERS = [[], ["no_ctag"], ["no_sync"], ["no_ctag", "no_sync"], ["query_without_data"], ["no_calendar_query"]]
EVER = WINDOW.end + 3 * 366 * DAY


@pytest.fixture
def account(account: StrangeAccount) -> StrangeAccount:
    """With an event on each of seven days, of which the server shows those until the fifth, and says so."""
    account.connect()
    for number in range(1, 8):
        account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
    shows(account, until=5)
    return account


def shows(account: StrangeAccount, *, since: int = 1, until: int = 8) -> None:
    """Only what is on these days of December."""
    shelf = account.dav.shelves[WORK]
    names = {f"e{number}.ics" for number in range(1, 8) if not since <= number < until}
    shelf.hidden, shelf.unlisted = names, names
    shelf.properties = {MIN: f"202612{since:02}T000000Z", MAX: f"202612{until:02}T000000Z"}


def spans(read: CalendarRead) -> list[Interval | None]:
    return [each.interval for each in read.unreadable if each.event_id == UNTOLD]


def starts(read: CalendarRead) -> list[int]:
    return [each.start for each in read.events]


@pytest.mark.parametrize("quirks", SERVERS)
def test_what_is_not_shown_is_not_known(account: StrangeAccount, quirks: list[str]) -> None:
    account.dav.quirks.update(quirks)
    mirror = Mirror(account.provider, account.link, CalendarId(WORK))
    for read in (mirror.refresh(), mirror.refresh(), mirror.refresh_in_full(), mirror.fresh()):
        assert starts(read) == [at(day, 9) for day in range(1, 5)]
        assert spans(read) == [Interval(at(5), EVER)]
    [told] = read.unreadable
    assert told.message == "The server shows nothing of this calendar from 2026-12-05 on."


@pytest.mark.parametrize("quirks", SERVERS)
def test_it_stays_so_when_something_changes(account: StrangeAccount, quirks: list[str]) -> None:
    account.dav.quirks.update(quirks)
    mirror = settled(account)
    for day in (4, 3, 4):
        account.dav.put(f"{WORK}e3.ics", event("e3", day))
        read = mirror.refresh()
        assert spans(read) == [Interval(at(5), EVER)]
        assert picture(read) == picture(mirror.fresh())


def test_a_report_alone_leaves_it_as_it_is(account: StrangeAccount) -> None:
    mirror = exact(account, settled(account))
    account.dav.put(f"{WORK}e3.ics", event("e3", 4))
    account.dav.log.clear()
    read = mirror.refresh()
    assert reports(account) == ["sync-collection", "calendar-multiget"]
    assert spans(read) == [Interval(at(5), EVER)]


@pytest.mark.parametrize("quirks", SERVERS)
def test_more_is_seen_as_soon_as_it_is_shown(account: StrangeAccount, quirks: list[str]) -> None:
    account.dav.quirks.update(quirks)
    mirror = settled(account)
    shows(account, until=7)
    read = mirror.refresh()
    assert starts(read) == [at(day, 9) for day in range(1, 7)]
    assert spans(read) == [Interval(at(7), EVER)]


@pytest.mark.parametrize("quirks", SERVERS)
def test_nor_is_what_lies_before(account: StrangeAccount, quirks: list[str]) -> None:
    account.dav.quirks.update(quirks)
    shows(account, since=3, until=7)
    mirror = settled(account)
    read = mirror.refresh_in_full()
    assert starts(read) == [at(day, 9) for day in range(3, 7)]
    assert spans(read) == [Interval(WINDOW.start, at(3)), Interval(at(7), EVER)]
    assert read.unreadable[0].message == "The server shows nothing of this calendar before 2026-12-03."
    assert picture(read) == picture(mirror.fresh())


def test_a_full_read_that_brings_the_same_still_finds_nothing_new(account: StrangeAccount) -> None:
    mirror = settled(account)
    mirror.refresh_in_full()
    account.dav.log.clear()
    mirror.refresh_in_full()
    assert mirror.unchanged
    assert reports(account) == ["PROPFIND 0", "calendar-query"]


def test_a_calendar_of_which_only_the_end_is_known_holds_nothing(account: StrangeAccount) -> None:
    account.dav.quirks.add("frozen_signals")
    resources = dict(account.dav.shelves[WORK].resources)
    account.dav.shelves[WORK].resources.clear()
    mirror = settled(account)
    mirror.refresh_in_full()
    account.dav.shelves[WORK].resources.update(resources)
    account.dav.quirks.add("query_answers_nothing")
    # The same answer as before, with nothing in it, is held against the list.
    assert starts(mirror.refresh_in_full()) == [at(day, 9) for day in (1, 2, 3, 4)]


def test_a_full_read_after_a_change_needs_no_list(account: StrangeAccount) -> None:
    mirror = settled(account)
    account.dav.put(f"{WORK}e3.ics", event("e3", 4))
    mirror.refresh_in_full()
    assert reports(account) == ["PROPFIND 0", "calendar-query"]


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("19700101T000000Z", "99991231T235959Z"),
        ("20261201T000000Z", "20300101T000000Z"),
        ("20261209T000000Z", "20261201T000000Z"),
        ("soon", ""),
        ("20261203", "20261205"),
        ("20261203T000000", "20261205T000000"),
        ("20261303T000000Z", "2026-12-05T00:00:00Z"),
    ],
    ids=["wide", "beyond all that matters", "nothing between", "words", "dates", "without a zone", "impossible"],
)
def test_bounds_that_bound_nothing_are_none(account: StrangeAccount, since: str, until: str) -> None:
    shows(account)
    account.dav.shelves[WORK].properties = {MIN: since, MAX: until}
    for read in (settled(account).refresh(), settled(account).fresh()):
        assert starts(read) == [at(day, 9) for day in range(1, 8)]
        assert read.unreadable == ()


def test_a_server_that_fails_to_tell_its_bounds_is_read(account: StrangeAccount) -> None:
    shows(account)
    account.dav.quirks.add("failing_bounds")
    read = settled(account).refresh()
    assert starts(read) == [at(day, 9) for day in range(1, 8)]
    assert read.unreadable == ()


def test_where_a_calendar_ends_after_the_window_is_known_as_well(account: StrangeAccount) -> None:
    """Events of ours may lie there: they are not gone."""
    shows(account, until=20)
    assert spans(settled(account).refresh()) == [Interval(at(20), EVER)]


def test_an_unchanged_calendar_costs_one_request(account: StrangeAccount) -> None:
    account.dav.quirks.add("no_sync")
    mirror = settled(account)
    account.dav.put(f"{WORK}e3.ics", event("e3", 4))
    mirror.refresh()
    account.dav.log.clear()
    mirror.refresh()
    assert reports(account) == ["PROPFIND 0"]


def test_a_later_window_ends_where_the_calendar_does(account: StrangeAccount) -> None:
    window = Interval(at(2), at(6))
    read = account.provider.read_calendar(account.link, CalendarId(WORK), window, soon())
    assert spans(read) == [Interval(at(5), window.end + 3 * 366 * DAY)]
