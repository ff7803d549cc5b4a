"""Refreshing a CalDAV calendar: one request when nothing changed, little when little did, and the same as a full read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from calendar_server.core.model import CalendarId, Interval
from calendar_server.errors import CalendarGone, NeedsReauth, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline
from tests.contract.accounts import StrangeAccount, event
from tests.contract.mirrors import (
    BERLIN,
    NO_SIGNALS,
    ZONE,
    Mirror,
    assert_same,
    away,
    fetched,
    in_zone,
    meanwhile,
    picture,
    reports,
    settled,
)
from tests.contract.worlds import at
from tests.fakes.strange_dav import WORK


class TestNothingChanged:
    @pytest.mark.parametrize("missing", ["", "no_ctag", "no_sync"])
    def test_it_is_one_request(self, account: StrangeAccount, missing: str) -> None:
        account.dav.quirks.add(missing)
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = settled(account)
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0"]

    @pytest.mark.parametrize("quirk", ["", "no_ctag", "no_sync", "weak_etags"])
    def test_a_first_read_is_held_against_the_list_and_the_next_is_one_request(
        self, account: StrangeAccount, quirk: str
    ) -> None:
        account.dav.quirks.add(quirk)
        account.dav.put(f"{WORK}e.ics", event("e"))
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        account.dav.log.clear()
        mirror.refresh()
        assert reports(account) == ["PROPFIND 0", "calendar-query", "PROPFIND 1"]
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

    def test_where_there_are_only_todos_the_list_is_the_look(self, account: StrangeAccount) -> None:
        account.dav.quirks |= NO_SIGNALS
        mirror = Mirror(account.provider, account.link, CalendarId(WORK))
        account.dav.put(f"{WORK}todo.ics", event("other", 4, component="VTODO"))
        account.dav.shelves[WORK].kinds["todo.ics"] = "text/calendar"
        mirror.refresh()
        mirror.refresh()
        account.dav.log.clear()
        mirror.refresh()
        assert mirror.unchanged
        assert reports(account) == ["PROPFIND 0", "PROPFIND 1"]

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

    def test_what_is_known_to_be_gone_is_no_reason_to_doubt_a_query(self, account: StrangeAccount) -> None:
        for number in range(60):
            account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 1 + number % 9))
        mirror = settled(account)
        for number in range(60):
            account.dav.put(f"{WORK}n{number}.ics", event(f"n{number}", 2 + number % 8))
        del account.dav.shelves[WORK].resources["n1.ics"]
        mirror.refresh()
        assert reports(account)[-2:] == ["calendar-query", "PROPFIND 0"]

    def test_hrefs_in_another_spelling_are_the_same_events(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks |= {"other_escapes", "full_urls", "double_slashes"}
        account.dav.put(f"{WORK}e5.ics", event("e5", 6))
        read = mirror.refresh()
        assert len(fetched(account)) == 1
        assert picture(read) == picture(mirror.fresh())


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

    def test_a_list_that_is_cut_short_fails_the_refresh(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.quirks |= {"no_sync", "list_is_cut"}
        account.dav.put(f"{WORK}e1.ics", event("e1", 6))
        with pytest.raises(ProviderUnavailable):
            mirror.refresh()
        account.dav.quirks.discard("list_is_cut")
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
        read = mirror.refresh()
        assert "calendar-query" in reports(account)
        assert picture(read) == picture(mirror.fresh())

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
