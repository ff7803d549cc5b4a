"""A query that leaves events out of its answer, all of them even, while the calendar's list has them (Stalwart 0.15)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from calendar_server.core.model import CalendarId, Interval
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.caldav_memory import unpack_known, unpack_signals
from tests.contract.accounts import StrangeAccount, event
from tests.contract.mirrors import Mirror, fetched, just_before, picture, reports, settled
from tests.contract.worlds import WINDOW, at, soon
from tests.fakes.strange_dav import WORK

SERVERS = [[], ["no_ctag"], ["no_sync"], ["no_ctag", "no_sync"], ["weak_etags"], ["hashed_signals"]]
ALL = {f"{WORK}e{number}.ics" for number in range(9)}


@pytest.fixture
def account(account: StrangeAccount) -> StrangeAccount:
    """With nine events."""
    account.connect()
    for number in range(9):
        account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", 1 + number))
    return account


def unread(account: StrangeAccount) -> Mirror:
    account.dav.log.clear()
    return Mirror(account.provider, account.link, CalendarId(WORK))


def starts(mirror: Mirror, full: bool = False) -> list[int]:
    read = mirror.refresh_in_full() if full else mirror.refresh()
    return [one.start for one in read.events]


NINE = [at(1 + number, 9) for number in range(9) if at(1 + number, 9) < WINDOW.end]


AFTERNOON = event("new", 4).replace("T090000Z", "T150000Z").replace("T100000Z", "T160000Z")


def by_name(mirror: Mirror) -> bool:
    """Whether it is remembered that this query cannot be relied on."""
    assert mirror.remembered is not None
    signals = unpack_signals(mirror.remembered.memory)
    assert signals is not None
    return signals.by_name


@pytest.mark.parametrize("hidden", [[3], [0, 8], range(9)], ids=["one", "two", "all"])
@pytest.mark.parametrize("quirks", SERVERS)
def test_what_is_only_in_the_list_is_read_by_name(
    account: StrangeAccount, quirks: list[str], hidden: Iterable[int]
) -> None:
    account.dav.quirks.update(quirks)
    names = account.dav.shelves[WORK].hidden = {f"e{number}.ics" for number in hidden}
    mirror = unread(account)
    assert starts(mirror) == NINE
    assert mirror.event_ids == ALL
    assert set(fetched(account)) == names
    assert starts(mirror) == NINE
    account.dav.put(f"{WORK}e3.ics", event("e3", 5))
    mirror.refresh()
    assert by_name(mirror)
    account.dav.log.clear()
    read = mirror.refresh_in_full()
    assert "calendar-query" not in reports(account)
    assert picture(read) == picture(mirror.fresh())


def test_many_that_are_left_out_are_read_in_batches(account: StrangeAccount) -> None:
    for number in range(300):
        account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 1 + number % 28))
    account.dav.quirks.add("query_answers_nothing")
    mirror = unread(account)
    assert len(mirror.refresh().event_ids or ()) == 309
    assert reports(account)[:2] == ["PROPFIND 0", "calendar-query"]
    assert by_name(mirror)
    assert len(mirror.refresh_in_full().event_ids or ()) == 309


@pytest.mark.parametrize("quirks", SERVERS)
def test_a_server_that_begins_to_leave_events_out_is_found_out(account: StrangeAccount, quirks: list[str]) -> None:
    account.dav.quirks.update(quirks)
    mirror = settled(account)
    account.dav.quirks.add("query_answers_nothing")
    assert starts(mirror, full=True) == NINE
    assert by_name(mirror)


def test_an_event_that_cannot_be_read_is_missed_as_well(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}bad.ics", event("bad", 4).replace("DTSTART:2026", "DTSTART:year"))
    mirror = settled(account)
    account.dav.shelves[WORK].hidden = {"bad.ics"}
    assert [each.event_id for each in mirror.refresh_in_full().unreadable] == [f"{WORK}bad.ics"]


def test_a_new_event_that_a_query_leaves_out_is_found_by_the_next_full_read(account: StrangeAccount) -> None:
    mirror = settled(account)
    mirror.refresh_in_full()
    account.dav.put(f"{WORK}new.ics", AFTERNOON)
    account.dav.shelves[WORK].hidden = {"new.ics"}
    assert at(4, 15) in starts(mirror, full=True)
    assert by_name(mirror)


@pytest.mark.parametrize("quirk", ["", "leading_newline"], ids=["in the same words", "in others"])
def test_an_answer_with_nothing_in_it_is_never_believed_by_itself(account: StrangeAccount, quirk: str) -> None:
    """Not even where signals and answer are as they were when there was nothing."""
    account.dav.quirks |= {"query_answers_nothing", "frozen_signals"}
    resources = dict(account.dav.shelves[WORK].resources)
    account.dav.shelves[WORK].resources.clear()
    mirror = unread(account)
    assert starts(mirror) == []
    assert starts(mirror, full=True) == []
    account.dav.shelves[WORK].resources.update(resources)
    account.dav.quirks.add(quirk)
    assert starts(mirror, full=True) == NINE


def test_what_came_while_it_was_read_says_nothing_about_the_query(account: StrangeAccount) -> None:
    mirror = unread(account)

    def put() -> None:
        # After the query was answered, before the list is.
        if "new.ics" not in account.dav.shelves[WORK].resources:
            account.dav.put(f"{WORK}new.ics", AFTERNOON)

    with just_before(account, "getcontenttype", put):
        assert at(4, 15) in starts(mirror)
    assert not by_name(mirror)
    account.dav.log.clear()
    mirror.refresh_in_full()
    assert "calendar-query" in reports(account)


def test_what_went_while_it_was_read_is_gone(account: StrangeAccount) -> None:
    mirror = unread(account)
    with just_before(account, "getcontenttype", lambda: account.dav.shelves[WORK].resources.pop("e3.ics", None)):
        read = mirror.refresh()
    assert f"{WORK}e3.ics" not in (read.event_ids or ())
    assert picture(mirror.refresh()) == picture(mirror.fresh())


@pytest.mark.parametrize("quirks", SERVERS)
def test_what_only_the_list_leaves_out_is_not_gone(account: StrangeAccount, quirks: list[str]) -> None:
    account.dav.quirks.update(quirks)
    account.dav.shelves[WORK].unlisted = {"e3.ics"}
    mirror = unread(account)
    assert starts(mirror) == NINE
    assert not by_name(mirror)


def test_what_is_no_event_and_gone_is_forgotten(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}photo", event("photo", 4, component="VTODO"))
    account.dav.shelves[WORK].kinds["photo"] = "image/png"
    mirror = settled(account)
    del account.dav.shelves[WORK].resources["photo"]
    account.dav.note(f"{WORK}photo")
    mirror.refresh()
    assert mirror.remembered is not None
    known = unpack_known(mirror.remembered.memory)
    assert known is not None
    assert known.others == {}


def test_a_todo_says_nothing_about_the_query(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}todo.ics", event("other", 4, component="VTODO"))
    account.dav.shelves[WORK].kinds["todo.ics"] = "text/calendar"
    mirror = unread(account)
    assert starts(mirror) == NINE
    assert fetched(account) == ["todo.ics"]
    assert not by_name(mirror)
    account.dav.log.clear()
    mirror.refresh()
    assert fetched(account) == []


def test_what_is_no_calendar_text_is_not_asked_for(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}photo", event("photo", 4, component="VTODO"))
    account.dav.shelves[WORK].kinds["photo"] = "image/png"
    mirror = unread(account)
    assert starts(mirror) == NINE
    assert reports(account) == ["PROPFIND 0", "calendar-query", "PROPFIND 1"]
    account.dav.log.clear()
    mirror.refresh()
    assert reports(account) == ["PROPFIND 0"]
    # Nor is there a doubt about it when something else changes.
    account.dav.quirks.add("any_token_is_newest")
    account.dav.put(f"{WORK}e3.ics", event("e3", 5))
    mirror.refresh()
    assert "calendar-query" not in reports(account)


def test_an_event_without_a_text_is_looked_at_again(account: StrangeAccount) -> None:
    account.dav.quirks.add("frozen_signals")
    text = account.dav.shelves[WORK].resources["e3.ics"]
    account.dav.shelves[WORK].resources["e3.ics"] = ""
    mirror = unread(account)
    assert [each.event_id for each in mirror.refresh().unreadable] == [f"{WORK}e3.ics"]
    account.dav.shelves[WORK].resources["e3.ics"] = text
    assert starts(mirror) == NINE


def test_where_the_list_tells_no_token_the_next_refresh_lists_again(account: StrangeAccount) -> None:
    account.dav.quirks.add("token_at_depth_0")
    mirror = unread(account)
    assert starts(mirror) == NINE
    account.dav.log.clear()
    assert starts(mirror) == NINE
    assert reports(account) == ["PROPFIND 0", "PROPFIND 1"]


def test_what_is_deleted_costs_a_full_read_one_list(account: StrangeAccount) -> None:
    mirror = settled(account)
    del account.dav.shelves[WORK].resources["e3.ics"]
    read = mirror.refresh_in_full()
    assert reports(account) == ["PROPFIND 0", "calendar-query", "PROPFIND 1"]
    assert picture(read) == picture(mirror.fresh())
    assert not by_name(mirror)


@pytest.mark.parametrize("more", [[], ["no_ctag", "no_sync"]], ids=["", "without signals"])
def test_where_there_is_no_report_by_name_a_few_are_asked_for_one_by_one(
    account: StrangeAccount, more: list[str]
) -> None:
    account.dav.quirks.update(["query_answers_nothing", "no_multiget", *more])
    mirror = unread(account)
    assert starts(mirror) == NINE
    assert len(account.dav.asked("GET")) == 9
    for _ in range(2):
        assert starts(mirror, full=True) == NINE
    assert starts(mirror) == NINE


def test_and_if_they_are_many_it_is_not_taken_for_an_empty_calendar(account: StrangeAccount) -> None:
    account.dav.quirks.update(["query_answers_nothing", "no_multiget"])
    for number in range(12):
        account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 1 + number))
    with pytest.raises(ProviderUnavailable):
        unread(account).refresh()


def test_a_new_event_of_such_a_server_is_found(account: StrangeAccount) -> None:
    account.dav.quirks.add("no_multiget")
    mirror = settled(account)
    account.dav.put(f"{WORK}new.ics", AFTERNOON)
    account.dav.shelves[WORK].hidden = {"new.ics"}
    assert at(4, 15) in starts(mirror)


def test_a_look_at_everything_has_them_too(account: StrangeAccount) -> None:
    account.dav.quirks.add("query_answers_nothing")
    read = account.provider.read_calendar(account.link, CalendarId(WORK), WINDOW, soon())
    assert read.event_ids == ALL


def test_another_window_begins_anew(account: StrangeAccount) -> None:
    """The server may have been mended: once a day it is asked again."""
    account.dav.quirks.add("query_answers_nothing")
    mirror = unread(account)
    mirror.refresh()
    account.dav.quirks.clear()
    assert mirror.remembered is not None
    mirror.remembered = replace(mirror.remembered, window=Interval(at(1), at(2)))
    account.dav.log.clear()
    mirror.refresh()
    assert "calendar-query" in reports(account)
    assert not by_name(mirror)
