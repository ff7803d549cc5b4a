"""What CalDAV servers say of a whole calendar, in ctags, sync tokens and reports: when it is relied on, and when not."""

from __future__ import annotations

import datetime
import time

import pytest

from calendar_server.core.model import CalendarId
from calendar_server.providers.caldav_protocol import SIGNALS
from calendar_server.providers.caldav_reading import look_at
from calendar_server.providers.caldav_refresh import LOOK_EVERY_S
from tests.contract.accounts import StrangeAccount, event
from tests.contract.mirrors import (
    BERLIN,
    NO_SIGNALS,
    ZONE,
    Clock,
    Mirror,
    assert_same,
    away,
    exact,
    fetched,
    gone,
    in_zone,
    just_before,
    picture,
    reports,
    settled,
)
from tests.contract.worlds import at, soon
from tests.fakes.strange_dav import WORK


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
        account.dav.fail("REPORT", 207, gone("e5.ics", "x" * 5000), contains="sync-collection")
        assert_same(reporting)
        assert reporting.remembered is not None
        assert len(reporting.remembered.memory) < 2000

    def test_one_with_members_but_no_other_token_says_nothing(self, account: StrangeAccount, reporting: Mirror) -> None:
        assert reporting.remembered is not None
        token = f"http://strange/{account.dav._signal(WORK)}"
        account.dav.fail("REPORT", 207, gone("e5.ics", token), contains="sync-collection")
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

    def test_a_full_read_that_brings_nothing_new_in_that_second_trusts_it_no_more_than_before(
        self, account: StrangeAccount, mirror: Mirror
    ) -> None:
        account.dav.put(f"{WORK}e1.ics", event("e1", 4))
        for _ in range(3):
            mirror.refresh_in_full()
        assert mirror.unchanged
        account.dav.put(f"{WORK}e1.ics", event("e1", 5))
        assert_same(mirror)

    def test_a_first_read_in_that_second_does_not_trust_it(self, account: StrangeAccount, mirror: Mirror) -> None:
        account.dav.put(f"{WORK}e1.ics", event("e1", 4))
        first = Mirror(account.provider, account.link, CalendarId(WORK))
        first.refresh()
        account.dav.put(f"{WORK}e1.ics", event("e1", 5))
        assert_same(first)

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
