"""A full read of a CalDAV calendar whose answer is that of the last one: nothing of it is read, and still it is true."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from calendar_server.core.model import DAY, CalendarId, Interval
from calendar_server.providers.caldav_memory import unpack_signals, with_signals
from calendar_server.providers.caldav_same import digest_of, reading_code, worked_out
from calendar_server.providers.egress import Answer
from tests.contract.accounts import StrangeAccount, event
from tests.contract.mirrors import BERLIN, ZONE, Mirror, in_zone, picture, reports, settled
from tests.fakes.strange_dav import WORK


@pytest.fixture(autouse=True)
def _hashed(account: StrangeAccount) -> None:
    """Signals and etags of what is there: what is put back has those that it had."""
    account.dav.quirks.add("hashed_signals")


@pytest.fixture(params=["looking", "reporting"])
def mirror(request: pytest.FixtureRequest, account: StrangeAccount) -> Mirror:
    """Of nine events, read in full a moment ago, and its signals trusted; the log is empty."""
    made: Mirror = request.getfixturevalue(request.param)
    made.refresh_in_full()
    made.refresh()
    account.dav.log.clear()
    return made


def same_as_fresh(mirror: Mirror) -> None:
    assert picture(mirror.refresh_in_full()) == picture(mirror.fresh())


def changed(account: StrangeAccount, name: str, text: str) -> None:
    """As only a full read can see: neither the calendar's signals nor the event's etag tell of it."""
    account.dav.quirks |= {"frozen_signals", "short_etags"}
    before = account.dav.shelves[WORK].resources[name]
    assert len(before) == len(text)
    account.dav.put(f"{WORK}{name}", text)


def test_the_same_answer_is_not_read_again(account: StrangeAccount, mirror: Mirror) -> None:
    before = mirror.refresh()
    account.dav.log.clear()
    read = mirror.refresh_in_full()
    assert mirror.unchanged
    assert reports(account) == ["PROPFIND 0", "calendar-query"]
    assert read == before
    assert picture(read) == picture(mirror.fresh())


def test_nor_is_it_where_all_events_are_outside_of_the_window(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}far.ics", event("far", 28))
    mirror = settled(account)
    mirror.refresh_in_full()
    assert mirror.unchanged
    assert reports(account) == ["PROPFIND 0", "calendar-query"]


def test_it_is_asked_about_afterwards_as_before(account: StrangeAccount, mirror: Mirror) -> None:
    mirror.refresh_in_full()
    account.dav.log.clear()
    mirror.refresh()
    assert reports(account) == ["PROPFIND 0"]


def test_a_first_read_that_is_repeated_in_full_is_confirmed_by_that(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}e.ics", event("e"))
    mirror = Mirror(account.provider, account.link, CalendarId(WORK))
    mirror.refresh()
    mirror.refresh_in_full()
    assert mirror.unchanged
    account.dav.log.clear()
    mirror.refresh()
    assert reports(account) == ["PROPFIND 0"]


def test_what_changes_besides_events_makes_no_difference(account: StrangeAccount, mirror: Mirror) -> None:
    account.dav.put(f"{WORK}todo.ics", event("todo", 5, component="VTODO"))
    mirror.refresh()
    assert mirror.unchanged
    mirror.refresh_in_full()
    assert mirror.unchanged


def test_what_signals_and_etags_do_not_tell_is_found(account: StrangeAccount) -> None:
    account.dav.quirks |= {"frozen_signals", "short_etags"}
    account.dav.put(f"{WORK}e.ics", event("e", 4))
    mirror = settled(account)
    changed(account, "e.ics", event("e", 5))
    mirror.refresh()
    assert mirror.unchanged
    same_as_fresh(mirror)
    assert not mirror.unchanged


@pytest.mark.parametrize("missing", ["", "no_sync", "no_ctag"])
def test_what_was_changed_and_put_back_is_found(account: StrangeAccount, mirror: Mirror, missing: str) -> None:
    account.dav.quirks.add(missing)
    former = account.dav.shelves[WORK].resources["e4.ics"]
    mirror.refresh_in_full()
    account.dav.put(f"{WORK}e4.ics", event("e4", 20))
    mirror.refresh()
    assert not mirror.unchanged
    account.dav.put(f"{WORK}e4.ics", former)
    same_as_fresh(mirror)
    assert not mirror.unchanged


def test_what_was_taken_out_and_put_back_is_found(account: StrangeAccount, mirror: Mirror) -> None:
    former = account.dav.shelves[WORK].resources["e4.ics"]
    mirror.refresh_in_full()
    del account.dav.shelves[WORK].resources["e4.ics"]
    mirror.refresh()
    account.dav.put(f"{WORK}e4.ics", former)
    same_as_fresh(mirror)


def test_the_same_events_in_another_zone_are_read_again(account: StrangeAccount) -> None:
    account.dav.put(f"{WORK}e.ics", in_zone("e", 4))
    mirror = settled(account)
    account.dav.shelves[WORK].properties[ZONE] = BERLIN
    same_as_fresh(mirror)
    assert not mirror.unchanged


def test_the_same_events_for_others_are_read_again(account: StrangeAccount) -> None:
    """Who has declined is free, and who that is the account says."""
    account.dav.put(f"{WORK}e.ics", event("e", 4))
    mirror = settled(account)
    link = mirror.link
    settings = {**link.connection.settings, "addresses": '["otto@example.com"]'}
    mirror.link = replace(link, connection=replace(link.connection, settings=settings))
    mirror.refresh_in_full()
    assert not mirror.unchanged


def test_another_window_is_read_again(account: StrangeAccount, mirror: Mirror) -> None:
    assert mirror.remembered is not None
    window = mirror.remembered.window
    mirror.remembered = replace(mirror.remembered, window=Interval(window.start - DAY, window.end))
    mirror.refresh_in_full()
    assert not mirror.unchanged


@pytest.mark.parametrize("quirk", ["query_without_data", "no_calendar_query"])
def test_texts_that_are_asked_for_by_name_are_read_again(account: StrangeAccount, quirk: str) -> None:
    account.dav.quirks |= {quirk, "short_etags", "frozen_signals"}
    account.dav.put(f"{WORK}e.ics", event("e", 4))
    mirror = settled(account)
    changed(account, "e.ics", event("e", 5))
    same_as_fresh(mirror)
    assert not mirror.unchanged


def test_what_has_no_etag_is_read_again(account: StrangeAccount) -> None:
    account.dav.quirks.add("no_etags")
    account.dav.put(f"{WORK}e.ics", event("e", 4))
    mirror = settled(account)
    mirror.refresh_in_full()
    assert not mirror.unchanged


@pytest.mark.parametrize("memory", [b"", b"caldav1\n\0\0", b"other"])
def test_without_a_sound_memory_it_is_read_again(account: StrangeAccount, mirror: Mirror, memory: bytes) -> None:
    assert mirror.remembered is not None
    mirror.remembered = replace(mirror.remembered, memory=memory)
    same_as_fresh(mirror)
    assert not mirror.unchanged


def test_what_an_older_release_has_read_is_read_again(account: StrangeAccount, mirror: Mirror) -> None:
    assert mirror.remembered is not None
    memory = mirror.remembered.memory
    signals = unpack_signals(memory)
    assert signals is not None
    assert signals.digest
    of_another = replace(signals, digest=digest_of(Answer(207, {}, b"", ""), b"another release"))
    mirror.remembered = replace(mirror.remembered, memory=with_signals(memory, of_another))
    mirror.refresh_in_full()
    assert not mirror.unchanged


def test_a_digest_stands_for_all_that_an_answer_is_read_by() -> None:
    answer = Answer(207, {"date": "now"}, b"<multistatus/>", "https://dav.example.com/work/")
    digests = {
        digest_of(answer),
        digest_of(replace(answer, status=200)),
        digest_of(replace(answer, body=b"<multistatus />")),
        digest_of(replace(answer, url="https://dav.example.com/home/")),
        digest_of(answer, b"another release"),
    }
    assert len(digests) == 5
    assert digest_of(replace(answer, headers={"date": "later"})) == digest_of(answer, reading_code())


def test_what_stands_for_the_code_is_worked_out_once_for_all_who_need_it_at_the_same_time() -> None:
    worked_out.cache_clear()
    ready = threading.Barrier(30)

    def ask(_: int) -> bytes:
        ready.wait(20)
        return reading_code()

    with ThreadPoolExecutor(30) as threads:
        assert len(set(threads.map(ask, range(30)))) == 1
    assert worked_out.cache_info().misses == 1
