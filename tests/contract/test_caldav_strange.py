"""CalDAV over a server that is strange on demand: reading is never a hole, writing is never a loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from email.utils import formatdate

import pytest

from calendar_server.core.model import CalendarId, EventId
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    NeedsReauth,
    PreconditionFailed,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline, RemoteEvent
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import PATH, UID, StrangeAccount, event
from tests.contract.worlds import WINDOW, at, soon
from tests.fakes.strange_dav import HOME, WORK, Shelf

DAV_XML = 'xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"'
EMPTY_LIST = f"<D:multistatus {DAV_XML}></D:multistatus>".encode()
ONE_BUSY = [(at(2, 9), at(2, 10))]


@pytest.fixture
def busy_account(account: StrangeAccount) -> StrangeAccount:
    """An account with one event in its calendar."""
    account.dav.put(f"{WORK}e.ics", event("e"))
    account.connect()
    account.dav.log.clear()
    return account


@pytest.fixture
def small_egress(expander: Expander) -> Iterator[CaldavProvider]:
    """A provider that takes answers of at most 60 000 bytes."""
    egress = Egress(allow=AllowList.parse("127.0.0.0/8"), exchange_s=10, answer_bytes=60_000)
    yield CaldavProvider(egress, expander, redirects=5, calendar_events=1000)
    egress.close()


class TestUnknownIsNotFree:
    @pytest.mark.parametrize("status", [500, 502, 503, 504, 507, 302, 304, 418, 429])
    @pytest.mark.parametrize("method", ["PROPFIND", "REPORT"])
    def test_a_failing_server_is_unavailable(self, busy_account: StrangeAccount, method: str, status: int) -> None:
        busy_account.dav.fail(method, status)
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("status", [403, 404, 410])
    def test_a_calendar_that_answers_no_longer_is_gone(self, busy_account: StrangeAccount, status: int) -> None:
        busy_account.dav.fail("PROPFIND", status)
        busy_account.dav.fail("REPORT", status)
        with pytest.raises(CalendarGone):
            busy_account.read()

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b" ",
            b"<html><head><title>Log in</title></head><body/></html>",
            b"<!DOCTYPE html><html><body>Log in<br></body></html>",
            b'<?xml version="1.0"?>',
            b"not xml at all",
            b"BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n",
            b'{"events": []}',
            b"<multistatus/>",
            b'<multistatus xmlns="dav:"/>',
            b'<D:error xmlns:D="DAV:"/>',
            b'<D:prop xmlns:D="DAV:"/>',
            f"<D:multistatus {DAV_XML}><D:response>".encode(),
            f"<D:multistatus {DAV_XML}><D:response></D:response></D:multistatus>".encode(),
            f"<!DOCTYPE D:multistatus><D:multistatus {DAV_XML}/>".encode(),
            f'<!DOCTYPE x [<!ENTITY a "b">]><D:multistatus {DAV_XML}>&a;</D:multistatus>'.encode(),
            f"<D:multistatus {DAV_XML}>{'<D:x>' * 100}{'</D:x>' * 100}</D:multistatus>".encode(),
            f"<D:multistatus {DAV_XML}/>trailing".encode(),
        ],
    )
    @pytest.mark.parametrize("status", [200, 207])
    @pytest.mark.parametrize("method", ["PROPFIND", "REPORT"])
    def test_what_is_no_whole_list_is_unavailable(
        self, busy_account: StrangeAccount, method: str, status: int, body: bytes
    ) -> None:
        busy_account.dav.fail(method, status, body)
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("status", [201, 202, 204, 206])
    def test_a_success_without_a_list_is_unavailable(self, busy_account: StrangeAccount, status: int) -> None:
        busy_account.dav.fail("REPORT", status, b"" if status == 204 else EMPTY_LIST)
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("method", ["PROPFIND", "REPORT"])
    def test_a_server_that_hangs_up_is_unavailable(self, busy_account: StrangeAccount, method: str) -> None:
        busy_account.dav.fail(method, 0, None)
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    def test_a_list_that_tells_of_an_error_about_something_else_is_no_list(self, busy_account: StrangeAccount) -> None:
        inside = (
            b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>/</D:href>'
            b"<D:status>HTTP/1.1 500 Internal Server Error</D:status></D:response></D:multistatus>"
        )
        busy_account.dav.fail("REPORT", 403, contains="calendar-query")
        busy_account.dav.fail("PROPFIND", 207, inside, contains="getcontenttype")
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    def test_a_body_that_is_cut_is_unavailable(self, busy_account: StrangeAccount) -> None:
        busy_account.dav.fail("REPORT", 207, EMPTY_LIST, cut=True)
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("status", [401, 403, 423, 500, 503, 507])
    def test_an_event_that_the_server_fails_to_hand_out_fails_the_read(
        self, busy_account: StrangeAccount, status: int
    ) -> None:
        busy_account.dav.put(f"{WORK}sick.ics", event("sick", 3))
        busy_account.dav.shelves[WORK].statuses["sick.ics"] = status
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("status", [403, 500, 507])
    def test_a_text_that_the_server_fails_to_hand_out_fails_the_read(
        self, busy_account: StrangeAccount, status: int
    ) -> None:
        busy_account.dav.shelves[WORK].data_statuses["e.ics"] = status
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("status", [500, 503, 507])
    def test_an_error_of_the_calendar_itself_inside_a_list_fails_the_read(
        self, busy_account: StrangeAccount, status: int
    ) -> None:
        busy_account.dav.shelves[WORK].own_status = status
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    def test_a_list_cut_at_a_limit_fails_the_read(self, busy_account: StrangeAccount) -> None:
        cut = f"<D:response><D:href>{WORK}</D:href><D:status>HTTP/1.1 507 Insufficient Storage</D:status></D:response>"
        busy_account.dav.fail("REPORT", 207, EMPTY_LIST.replace(b"></D:m", f">{cut}</D:m".encode()))
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("status", [403, 404])
    def test_a_calendar_that_says_itself_that_it_is_gone_is_gone(
        self, busy_account: StrangeAccount, status: int
    ) -> None:
        busy_account.dav.shelves[WORK].own_status = status
        with pytest.raises(CalendarGone):
            busy_account.read()

    def test_a_property_of_the_calendar_that_fails_fails_the_read(self, busy_account: StrangeAccount) -> None:
        busy_account.dav.quirks.add("failing_property")
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    def test_a_calendar_with_more_events_than_are_read_is_unavailable(self, busy_account: StrangeAccount) -> None:
        for number in range(1001):
            busy_account.dav.put(f"{WORK}{number}.ics", event(str(number)))
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    def test_no_answer_before_the_deadline_is_unavailable(self, busy_account: StrangeAccount) -> None:
        with pytest.raises(ProviderUnavailable):
            busy_account.provider.read_calendar(busy_account.link, CalendarId(WORK), WINDOW, Deadline.after(0))

    def test_something_else_where_the_calendar_was_is_gone(self, busy_account: StrangeAccount) -> None:
        with pytest.raises(CalendarGone):
            busy_account.provider.read_calendar(busy_account.link, CalendarId(HOME), WINDOW, soon())


class TestOneEventDoesNotBlindTheCalendar:
    @pytest.fixture(params=["", "no_calendar_query", "query_without_data"])
    def both_ways(self, busy_account: StrangeAccount, request: pytest.FixtureRequest) -> StrangeAccount:
        """Read by one query, by list and batches, and by query and batches."""
        busy_account.dav.quirks.add(request.param)
        return busy_account

    def test_the_events_are_read(self, both_ways: StrangeAccount) -> None:
        assert both_ways.busy() == ONE_BUSY

    def test_the_ids_of_all_events_are_told(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}far.ics", event("far", 28))
        assert both_ways.read().event_ids == {f"{WORK}e.ics", f"{WORK}far.ics"}

    def test_an_empty_text_is_a_named_event(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}empty.ics", "")
        read = both_ways.read()
        assert [found.event_id for found in read.unreadable] == [f"{WORK}empty.ics"]
        assert len(read.events) == 1

    def test_a_missing_text_is_a_named_event(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}missing.ics", event("missing"))
        both_ways.dav.shelves[WORK].data_statuses["missing.ics"] = 404
        assert [found.event_id for found in both_ways.read().unreadable] == [f"{WORK}missing.ics"]

    def test_a_named_event_is_among_the_ids(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}empty.ics", " ")
        assert EventId(f"{WORK}empty.ics") in (both_ways.read().event_ids or ())

    def test_an_event_deleted_at_this_moment_is_no_matter(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}gone.ics", event("gone"))
        both_ways.dav.shelves[WORK].statuses["gone.ics"] = 404
        assert both_ways.busy() == ONE_BUSY

    def test_a_batch_that_leaves_events_out_is_asked_again(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}f.ics", event("f", 3))
        both_ways.dav.quirks.add("multiget_forgets")
        assert len(both_ways.busy()) == 2

    def test_a_server_that_leaves_many_events_out_is_unavailable(self, busy_account: StrangeAccount) -> None:
        for number in range(60):
            busy_account.dav.put(f"{WORK}{number}.ics", event(str(number)))
        busy_account.dav.quirks.add("no_calendar_query")
        busy_account.dav.fail("REPORT", 207, EMPTY_LIST, contains="multiget")
        with pytest.raises(ProviderUnavailable):
            busy_account.read()

    @pytest.mark.parametrize("quirk", ["control_characters", "latin_1_bytes", "leading_newline", "lists_folder"])
    def test_small_faults_of_the_text_do_not_matter(self, both_ways: StrangeAccount, quirk: str) -> None:
        both_ways.dav.quirks.add(quirk)
        read = both_ways.read()
        assert (len(read.events), read.unreadable) == (1, ())

    def test_todos_do_not_matter(self, both_ways: StrangeAccount) -> None:
        both_ways.dav.put(f"{WORK}todo.ics", event("todo", component="VTODO"))
        both_ways.dav.quirks.add("query_answers_all")
        read = both_ways.read()
        assert (len(read.events), read.unreadable) == (1, ())

    def test_many_events_come_in_batches(self, both_ways: StrangeAccount) -> None:
        for number in range(250):
            both_ways.dav.put(f"{WORK}{number}.ics", event(str(number), 3))
        assert len(both_ways.read().events) == 251

    @pytest.mark.parametrize("status", [400, 403, 404, 405, 415, 501])
    def test_a_server_that_refuses_the_query_is_asked_otherwise(
        self, busy_account: StrangeAccount, status: int
    ) -> None:
        busy_account.dav.fail("REPORT", status, contains="calendar-query")
        assert busy_account.busy() == ONE_BUSY

    def test_an_answer_too_long_for_one_piece_is_asked_for_in_pieces(
        self, busy_account: StrangeAccount, small_egress: CaldavProvider
    ) -> None:
        for number in range(90):
            busy_account.dav.put(f"{WORK}{number}.ics", event(str(number), 3).replace("Something", "x" * 1000))
        busy_account.provider = small_egress
        assert len(busy_account.read().events) == 91

    def test_one_event_too_long_to_be_read_is_unavailable(
        self, busy_account: StrangeAccount, small_egress: CaldavProvider
    ) -> None:
        busy_account.dav.put(f"{WORK}long.ics", event("long").replace("Something", "x" * 70_000))
        busy_account.provider = small_egress
        with pytest.raises(ProviderUnavailable):
            busy_account.read()


class TestIdsAreStable:
    @pytest.mark.parametrize(
        "quirk", ["", "full_urls", "wrong_outer_name", "other_escapes", "no_final_slashes", "double_slashes"]
    )
    @pytest.mark.parametrize("way", ["", "no_calendar_query", "query_without_data"])
    def test_an_event_of_ours_has_one_id_however_it_is_spelled(
        self, account: StrangeAccount, quirk: str, way: str
    ) -> None:
        account.connect()
        account.dav.quirks |= {quirk, way}
        event_id = account.put().event_id
        read = account.read()
        assert read.event_ids == {event_id} == {account.provider.event_id(account.calendar_id, UID)}

    def test_a_resource_told_twice_counts_once(self, busy_account: StrangeAccount) -> None:
        told = (
            f"<D:response><D:href>{WORK}e.ics</D:href><D:propstat><D:prop><C:calendar-data>{event('e')}"
            "</C:calendar-data></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        )
        body = f"<D:multistatus {DAV_XML}>{told}{told.replace('/work/', '/w%6Frk/')}</D:multistatus>"
        busy_account.dav.fail("REPORT", 207, body.encode())
        assert busy_account.busy() == ONE_BUSY


class TestTheCalendarsZone:
    FLOATING = event("f").replace("090000Z", "090000").replace("100000Z", "100000")
    BERLIN = (
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nBEGIN:STANDARD\r\n"
        "DTSTART:19701025T030000\r\nTZOFFSETFROM:+0200\r\nTZOFFSETTO:+0100\r\nRRULE:FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU\r\n"
        "END:STANDARD\r\nBEGIN:DAYLIGHT\r\nDTSTART:19700329T020000\r\nTZOFFSETFROM:+0100\r\nTZOFFSETTO:+0200\r\n"
        "RRULE:FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU\r\nEND:DAYLIGHT\r\nEND:VTIMEZONE\r\nEND:VCALENDAR\r\n"
    )

    @pytest.mark.parametrize("quirk", ["", "time_zone_at_depth_0"])
    def test_floating_times_are_in_the_zone_of_the_calendar(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.quirks.add(quirk)
        account.dav.put(f"{WORK}f.ics", self.FLOATING)
        account.dav.shelves[WORK].properties["{urn:ietf:params:xml:ns:caldav}calendar-timezone"] = self.BERLIN
        assert account.busy() == [(at(2, 8), at(2, 9))]

    def test_a_zone_told_by_its_name_only_counts_too(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}f.ics", self.FLOATING)
        account.dav.shelves[WORK].properties["{urn:ietf:params:xml:ns:caldav}calendar-timezone-id"] = "Europe/Berlin"
        assert account.busy() == [(at(2, 8), at(2, 9))]


class TestAnswersOfTheOwner:
    def invitation(self, attendee: str) -> str:
        return event("i").replace(
            "SUMMARY", f"ORGANIZER:mailto:boss@example.com\r\nATTENDEE;PARTSTAT=DECLINED:{attendee}\r\nSUMMARY"
        )

    def test_what_the_owner_declined_does_not_block(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}i.ics", self.invitation("mailto:ANNA@example.com"))
        assert account.busy() == []

    def test_what_somebody_else_declined_blocks(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}i.ics", self.invitation("mailto:bob@example.com"))
        assert account.busy() == ONE_BUSY


PLAIN = [
    "",
    "no_put_etag",
    "no_get_etag",
    "weak_etags",
    "weakening_proxy",
    "incomparable_etags",
    "unquoted_etags",
    "no_etags",
    "rewrites_events",
    "strips_x_properties",
    "ignores_preconditions",
    "if_match_star_backwards",
    "one_uid_per_account",
]


class TestWriting:
    @pytest.mark.parametrize("quirk", PLAIN)
    def test_create_change_and_delete_leave_what_was_wanted(self, account: StrangeAccount, quirk: str) -> None:
        account.connect()
        account.dav.quirks.add(quirk)
        account.put()
        assert "DTSTART:20261202T100000Z" in account.ours()[EventId(PATH)]
        account.put(2, account.find(), start=at(3, 10), end=at(3, 11))
        assert "DTSTART:20261203T100000Z" in account.ours()[EventId(PATH)]
        known = account.find()
        assert known is not None
        account.delete(known)
        assert account.ours() == {}

    @pytest.mark.parametrize("quirk", [*PLAIN[:7], "rewrites_events", "ignores_preconditions"])
    def test_a_change_by_its_owner_in_between_is_seen(self, account: StrangeAccount, quirk: str) -> None:
        account.connect()
        account.dav.quirks.add(quirk)
        account.put()
        known = account.find()
        account.dav.put(PATH, account.ours()[EventId(PATH)].replace("SUMMARY:", "SUMMARY:mine "))
        with pytest.raises(PreconditionFailed):
            account.put(2, known)
        assert "mine" in account.ours()[EventId(PATH)]

    @pytest.mark.parametrize("quirk", ["demands_if_match"])
    def test_a_server_that_demands_the_version_gets_it(self, account: StrangeAccount, quirk: str) -> None:
        account.connect()
        account.dav.quirks.add(quirk)
        account.put()
        assert account.put(2, account.find()).revision == 2

    def test_every_write_is_fenced(self, account: StrangeAccount) -> None:
        account.put()
        known = account.find()
        account.put(2, known)
        account.delete(account.find() or known)  # type: ignore[arg-type]
        create, change = account.dav.asked("PUT")
        (delete,) = account.dav.asked("DELETE")
        assert create.headers["if-none-match"] == "*"
        assert change.headers["if-match"].startswith('"')
        assert delete.headers["if-match"].startswith('"')

    def test_deleting_tells_nobody(self, account: StrangeAccount) -> None:
        account.delete(account.put())
        assert account.dav.asked("DELETE")[0].headers["schedule-reply"] == "F"

    @pytest.mark.parametrize("quirk", ["renames_events", "renames_silently"])
    def test_an_event_that_the_server_renamed_is_followed(self, account: StrangeAccount, quirk: str) -> None:
        account.connect()
        account.dav.quirks.add(quirk)
        assert account.put().event_id == f"{WORK}renamed-{UID}.ics"

    @pytest.mark.parametrize(
        "quirk",
        ["one_uid_per_account", "uid_conflict_of_cards", "uid_conflict_without_place", "uid_conflict_is_400"],
    )
    def test_an_event_that_was_renamed_before_is_adopted(self, account: StrangeAccount, quirk: str) -> None:
        account.connect()
        account.dav.quirks |= {"renames_silently", quirk}
        account.put()
        renamed = account.put(2, None, title="Later")
        assert renamed.event_id == f"{WORK}renamed-{UID}.ics"
        assert "SUMMARY:Later" in account.ours()[renamed.event_id]
        assert len(account.ours()) == 1

    @pytest.mark.parametrize("search", ["search_finds_nothing", "query_answers_nothing", "no_calendar_query"])
    @pytest.mark.parametrize("quirk", ["uid_conflict_without_place", "uid_conflict_is_400"])
    def test_where_a_search_is_of_no_use_the_calendar_is_looked_through(
        self, account: StrangeAccount, search: str, quirk: str
    ) -> None:
        account.dav.put(f"{WORK}another.ics", event("another"))
        account.connect()
        account.dav.quirks |= {"renames_silently", search, quirk}
        renamed = account.put()
        assert renamed.event_id == f"{WORK}renamed-{UID}.ics"
        assert account.put(2, None).event_id == renamed.event_id
        assert list(account.ours()) == [renamed.event_id]

    def test_an_event_at_its_very_place_is_not_taken_for_a_renamed_one(self, account: StrangeAccount) -> None:
        account.connect()
        account.dav.quirks.add("uid_conflict_at_its_place")
        first = account.put()
        with pytest.raises(PreconditionFailed):
            account.put(2, None, title="Later")
        assert "SUMMARY:Later" not in account.ours()[first.event_id]

    def test_a_search_that_answers_everything_does_not_mislead(self, account: StrangeAccount) -> None:
        account.dav.put(f"{WORK}another.ics", event("another"))
        account.connect()
        account.dav.quirks |= {"renames_silently", "uid_conflict_without_place", "query_answers_all"}
        account.put()
        assert account.put(2).event_id == f"{WORK}renamed-{UID}.ics"

    @pytest.mark.parametrize("quirk", ["one_uid_per_account", "uid_conflict_of_cards", "uid_conflict_without_place"])
    def test_a_uid_that_another_calendar_holds_is_left_alone(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.shelves["/dav/home/other/"] = Shelf("Other")
        account.dav.put(f"/dav/home/other/{UID}.ics", event(UID))
        account.connect()
        account.dav.quirks.add(quirk)
        with pytest.raises(PreconditionFailed):
            account.put()
        assert list(account.ours()) == [f"/dav/home/other/{UID}.ics"]

    @pytest.mark.parametrize("quirk", ["swallows_events", "html_after_put"])
    def test_a_success_that_is_none_is_not_believed(self, account: StrangeAccount, quirk: str) -> None:
        account.connect()
        account.dav.quirks.add(quirk)
        with pytest.raises(ProviderUnavailable):
            account.put()

    def test_an_event_that_cannot_be_told_from_a_page_is_not_taken_for_missing(self, account: StrangeAccount) -> None:
        account.put()
        account.dav.fail("GET", 200, b"<html>log in</html>")
        with pytest.raises(ProviderUnavailable):
            account.find()

    @pytest.mark.parametrize("status", [404, 410])
    def test_deleting_what_is_gone_is_success(self, account: StrangeAccount, status: int) -> None:
        known = account.put()
        account.dav.fail("DELETE", status)
        account.delete(known)

    def test_what_is_forbidden_because_it_is_not_there_is_not_there(self, account: StrangeAccount) -> None:
        account.connect()
        account.dav.quirks.add("forbids_the_missing")
        assert account.find() is None
        known = account.put()
        assert account.find() is not None
        account.dav.shelves[WORK].resources.clear()
        account.delete(known)
        assert account.find() is None

    def test_what_is_forbidden_although_it_is_there_is_told(self, account: StrangeAccount) -> None:
        account.connect()
        account.put()
        account.dav.fail("GET", 403)
        with pytest.raises(CalendarReadOnly):
            account.find()

    def test_deleting_what_is_gone_is_success_where_its_fence_fails(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("fences_nothing")
        known = account.put()
        account.delete(known)
        account.delete(known)
        assert [asked.method for asked in account.dav.log[-2:]] == ["DELETE", "GET"]

    @pytest.mark.parametrize("quirks", [set(), {"forbids_the_unknown"}])
    def test_a_calendar_that_is_gone_is_not_one_to_be_read_only(
        self, account: StrangeAccount, quirks: set[str]
    ) -> None:
        account.dav.quirks |= quirks
        account.connect()
        account.dav.shelves.clear()
        with pytest.raises(CalendarGone):
            account.put()

    def test_reminders_and_colors_of_the_owner_survive_a_change(self, account: StrangeAccount) -> None:
        account.put()
        text = account.ours()[EventId(PATH)]
        added = "COLOR:red\r\nBEGIN:VALARM\r\nACTION:DISPLAY\r\nTRIGGER:-PT15M\r\nDESCRIPTION:Go\r\nEND:VALARM\r\n"
        account.dav.put(PATH, text.replace("END:VEVENT", f"{added}END:VEVENT"))
        account.put(2, account.find(), title="New")
        assert added in account.ours()[EventId(PATH)]
        assert "SUMMARY:New" in account.ours()[EventId(PATH)]

    def test_reminders_that_the_server_does_not_take_back_are_given_up(self, account: StrangeAccount) -> None:
        account.put()
        text = account.ours()[EventId(PATH)]
        account.dav.put(PATH, text.replace("END:VEVENT", "COLOR:red\r\nEND:VEVENT"))
        known = account.find()
        account.dav.fail("PUT", 400, contains="COLOR", times=1)
        assert account.put(2, known).revision == 2


MAKES_NO_SENSE = [400, 413, 415, 422, 507]


class TestRefusedWrites:
    @pytest.fixture(params=["create", "change", "delete"])
    def write(self, account: StrangeAccount, request: pytest.FixtureRequest) -> Callable[[], object]:
        """Each kind of write, ready to be done."""
        account.connect()
        if request.param == "create":
            return lambda: account.put()
        known: RemoteEvent = account.put()
        return (lambda: account.put(2, known)) if request.param == "change" else (lambda: account.delete(known))

    @pytest.fixture
    def refuse(self, account: StrangeAccount) -> Callable[..., None]:
        def refuse(status: int, body: str = "", **more: object) -> None:
            text = f"<D:error {DAV_XML}>{body}</D:error>" if body else ""
            for method in ("PUT", "DELETE"):
                account.dav.fail(method, status, text.encode(), **more)  # type: ignore[arg-type]

        return refuse

    @pytest.mark.parametrize("status", MAKES_NO_SENSE)
    def test_an_event_refused_as_such_is_refused_for_good(
        self, write: Callable[[], object], refuse: Callable[..., None], status: int
    ) -> None:
        refuse(status)
        with pytest.raises(ProviderRefused):
            write()

    @pytest.mark.parametrize(
        "name", ["valid-calendar-data", "max-resource-size", "supported-calendar-component", "max-date-time"]
    )
    def test_a_403_that_names_the_event_is_not_about_the_calendar(
        self, write: Callable[[], object], refuse: Callable[..., None], name: str
    ) -> None:
        refuse(403, f"<C:{name}/>")
        with pytest.raises(ProviderRefused):
            write()

    @pytest.mark.parametrize("body", ["", "<D:need-privileges/>"])
    def test_any_other_403_is_a_calendar_to_be_read_only(
        self, write: Callable[[], object], refuse: Callable[..., None], body: str
    ) -> None:
        refuse(403, body)
        with pytest.raises(CalendarReadOnly):
            write()

    def test_412_means_look_again(self, write: Callable[[], object], refuse: Callable[..., None]) -> None:
        refuse(412)
        with pytest.raises(PreconditionFailed):
            write()

    @pytest.mark.parametrize("status", [408, 423, 424, 500, 502, 503, 504])
    def test_everything_else_is_tried_again_later(
        self, write: Callable[[], object], refuse: Callable[..., None], status: int
    ) -> None:
        refuse(status)
        with pytest.raises(ProviderUnavailable):
            write()

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize(("told", "low", "high"), [("30", 30, 30), ("999999", 3600, 3600), ("-5", 1, 60)])
    def test_retry_after_in_seconds_is_obeyed(
        self, write: Callable[[], object], refuse: Callable[..., None], status: int, told: str, low: int, high: int
    ) -> None:
        refuse(status, headers=(("Retry-After", told),))
        with pytest.raises(ProviderUnavailable) as error:
            write()
        assert low <= (error.value.retry_after_s or 0) <= high
        assert isinstance(error.value, ProviderThrottled) or told == "-5"

    def test_retry_after_as_a_date_is_obeyed(self, write: Callable[[], object], refuse: Callable[..., None]) -> None:
        refuse(503, headers=(("Retry-After", formatdate(time.time() + 100, usegmt=True)),))
        with pytest.raises(ProviderThrottled) as error:
            write()
        assert 80 <= (error.value.retry_after_s or 0) <= 101

    def test_a_hang_up_is_unavailable(self, write: Callable[[], object], account: StrangeAccount) -> None:
        for method in ("PUT", "DELETE"):
            account.dav.fail(method, 0, None)
        with pytest.raises(ProviderUnavailable):
            write()

    def test_401_twice_needs_the_person(self, write: Callable[[], object], refuse: Callable[..., None]) -> None:
        refuse(401)
        with pytest.raises(NeedsReauth):
            write()

    def test_401_once_does_not(self, write: Callable[[], object], account: StrangeAccount) -> None:
        account.dav.fail("PUT", 401, times=1)
        account.dav.fail("DELETE", 401, times=1)
        write()

    @pytest.mark.parametrize("status", [404, 409])
    def test_a_calendar_that_is_gone_is_told_as_such(self, account: StrangeAccount, status: int) -> None:
        account.connect()
        del account.dav.shelves[WORK]
        account.dav.fail("PUT", status)
        with pytest.raises(CalendarGone):
            account.put()

    def test_messages_are_single_sentences_without_addresses(self, account: StrangeAccount) -> None:
        account.connect()
        for status in (400, 403, 409, 412, 500, 503):
            account.dav.recover()
            account.dav.fail("PUT", status, b"<html>10.0.0.1 secret</html>")
            with pytest.raises(CalendarError) as error:
                account.put()
            assert error.value.message.endswith(".")
            assert "10.0" not in error.value.message


@pytest.mark.parametrize("method", ["PROPFIND", "REPORT"])
def test_a_server_that_says_nothing_is_unavailable_when_the_time_is_over(
    busy_account: StrangeAccount, method: str
) -> None:
    busy_account.dav.fail(method, 207, stall=True)
    began = time.monotonic()
    with pytest.raises(ProviderUnavailable):
        busy_account.provider.read_calendar(busy_account.link, CalendarId(WORK), WINDOW, Deadline.after(0.4))
    assert time.monotonic() - began < 3
