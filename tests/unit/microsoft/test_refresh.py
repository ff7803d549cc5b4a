"""Microsoft's calendars are brought up to date by one small request, and read again whenever that leaves a doubt."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from calendar_server.core.model import BlockReason, CalendarId, Interval, ProviderName
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    NeedsReauth,
    NotFound,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline, Link, Secret
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.microsoft import MicrosoftProvider
from tests.fakes.connections import connection_of
from tests.fakes.mailbox import CUSTOM_ZONE, Calendar, Event, Mailbox, Occurrence, Series
from tests.fakes.microsoft import GraphUser, MicrosoftFake
from tests.fakes.mirror import Mirror
from tests.unit.microsoft.desk import WEEK, at, local

LOOK = "deltatoken="
"""In the address of a look; a further page of one, or of a mark, has a `skiptoken`."""


class Desk(Mirror):
    """Anna's calendar as it is remembered, and her account."""

    def __init__(self, egress: Egress, microsoft: MicrosoftFake):
        self.microsoft = microsoft
        self.anna: GraphUser = microsoft.add_user("anna")
        self.live = True
        self.good_renewals = True
        provider = MicrosoftProvider(egress, graph_url=microsoft.graph_url, calendar_events=1000)
        calendar_id = CalendarId(self.mailbox.default.id)
        connection = connection_of(ProviderName.MICROSOFT, self.anna.user.id, "anna@contoso.example", calendar_id)
        super().__init__(provider, Link(connection, self._secret(), self._check, self._renew), calendar_id, WEEK)

    @property
    def mailbox(self) -> Mailbox:
        return self.anna.mailbox

    def use(self, calendar: Calendar) -> Desk:
        """Mirror this calendar instead."""
        self.calendar_id = CalendarId(calendar.id)
        return self

    def marked(self) -> Desk:
        """It has been read twice, so that there is a feed to look at."""
        assert [self.refresh(), self.refresh()] == [True, True]
        self.microsoft.exchanges.clear()
        return self

    @property
    def asked(self) -> list[str]:
        """The requests since it was marked."""
        return [_kind(exchange.path) for exchange in self.microsoft.exchanges]

    def _secret(self) -> Secret:
        return Secret({"access_token": str(self.microsoft.token_of(self.anna)["access_token"])})

    def _check(self) -> None:
        if not self.live:
            raise NotFound("disconnected")

    def _renew(self, refused: Secret) -> Secret:
        if not self.good_renewals:
            raise NeedsReauth("Connect again.")
        return self._secret()


def _kind(path: str) -> str:
    if "/delta" in path:
        return "look" if LOOK in path else "more" if "skiptoken=" in path else "mark"
    return "read" if "/calendarView" in path else "zone" if "mailboxSettings" in path else "other"


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=400_000)
    yield out
    out.close()


@pytest.fixture
def desk(egress: Egress, microsoft: MicrosoftFake) -> Desk:
    return Desk(egress, microsoft)


def at_ten(desk: Desk, day: int = 2) -> Event:
    return desk.mailbox.add(local(day, 10), local(day, 11))


class TestWhatItCosts:
    def test_a_first_read_costs_no_more_than_the_read(self, desk: Desk) -> None:
        at_ten(desk)
        assert desk.refresh()
        assert desk.asked == ["read"]

    def test_the_second_refresh_takes_a_mark_before_it_reads(self, desk: Desk) -> None:
        at_ten(desk)
        assert [desk.refresh(), desk.refresh()] == [True, True]
        assert desk.asked == ["read", "mark", "read"]

    def test_from_then_on_an_unchanged_calendar_costs_one_request_each_time(self, desk: Desk) -> None:
        at_ten(desk)
        desk.marked()
        assert [desk.refresh() for _ in range(3)] == [False, False, False]
        assert desk.asked == ["look"] * 3

    def test_the_answer_to_a_look_is_small(self, desk: Desk) -> None:
        for hour in range(20):
            desk.mailbox.add(local(2, hour), local(2, hour + 1), subject="A long title" * 50)
        desk.marked().refresh()
        assert len(desk.microsoft.exchanges[0].answer) < 500

    def test_a_change_costs_the_look_and_the_read_and_it_is_cheap_again(self, desk: Desk) -> None:
        at_ten(desk.marked())
        assert [desk.refresh(), desk.refresh()] == [True, False]
        assert desk.asked == ["look", "read", "look"]

    def test_each_look_goes_on_from_the_one_before(self, desk: Desk) -> None:
        desk.marked().refresh()
        desk.microsoft.expire_delta_links(all_but=1)
        assert not desk.refresh()

    def test_where_days_are_remembered_the_zone_is_asked_for_too(self, desk: Desk) -> None:
        desk.mailbox.add(local(3), local(4), all_day=True)
        assert not desk.marked().refresh()
        assert desk.asked == ["look", "zone"]

    def test_a_mark_of_many_pages(self, desk: Desk) -> None:
        desk.microsoft.page_most = 2
        for hour in range(5):
            desk.mailbox.add(local(2, hour), local(2, hour + 1))
        assert not desk.marked().refresh()
        assert desk.asked == ["look"]

    def test_empty_pages_before_the_last_are_no_change(self, desk: Desk) -> None:
        at_ten(desk)
        desk.microsoft.empty_delta_pages = 3
        assert not desk.marked().refresh()
        assert desk.asked == ["look", "more", "more", "more"]

    def test_pages_of_a_feed_are_not_the_smallest(self, desk: Desk) -> None:
        desk.marked().refresh()
        assert "odata.maxpagesize=250" in desk.microsoft.exchanges[0].headers["prefer"]
        assert 'IdType="ImmutableId"' in desk.microsoft.exchanges[0].headers["prefer"]

    def test_another_window_is_read(self, desk: Desk) -> None:
        desk.marked().window = Interval(at(8), at(15))
        assert desk.refresh()
        assert desk.asked == ["read"]


def create(mailbox: Mailbox, event: Event) -> None:
    mailbox.add(local(3, 10), local(3, 11))


def move(mailbox: Mailbox, event: Event) -> None:
    mailbox.change(event.id, start=local(4, 10), end=local(4, 11))


def move_out(mailbox: Mailbox, event: Event) -> None:
    mailbox.change(event.id, start=datetime(2027, 12, 4, 10), end=datetime(2027, 12, 4, 11))


def move_to_another_calendar(mailbox: Mailbox, event: Event) -> None:
    mailbox.move(event.id, mailbox.add_calendar("another"))


def delete(mailbox: Mailbox, event: Event) -> None:
    mailbox.delete(event.id)


def free(mailbox: Mailbox, event: Event) -> None:
    mailbox.change(event.id, showAs="free")


def tentative(mailbox: Mailbox, event: Event) -> None:
    mailbox.change(event.id, showAs="tentative")


def decline(mailbox: Mailbox, event: Event) -> None:
    mailbox.change(event.id, responseStatus={"response": "declined", "time": "2026-11-25T00:00:00Z"})


def cancel(mailbox: Mailbox, event: Event) -> None:
    mailbox.change(event.id, isCancelled=True)


def repeat(mailbox: Mailbox, event: Event) -> None:
    mailbox.repeat(event.id, Series(3))


CHANGES = [create, move, move_out, move_to_another_calendar, delete, free, tentative, decline, cancel, repeat]


class TestEveryChangeIsSeen:
    @pytest.fixture
    def event(self, desk: Desk) -> Event:
        return at_ten(desk)

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_of_an_event(self, desk: Desk, event: Event, change: Callable[[Mailbox, Event], None]) -> None:
        known = desk.marked().known
        change(desk.mailbox, event)
        assert desk.refresh()
        assert desk.known == desk.true != known

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_between_two_looks(
        self, desk: Desk, event: Event, change: Callable[[Mailbox, Event], None]
    ) -> None:
        desk.marked().refresh()
        change(desk.mailbox, event)
        assert desk.refresh()
        assert desk.known == desk.true

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("before", ["mark", "read"])
    def test_a_change_before_the_mark_or_between_mark_and_read(
        self, desk: Desk, event: Event, change: Callable[[Mailbox, Event], None], before: str
    ) -> None:
        desk.refresh()

        def then(method: str, path: str) -> None:
            if _kind(path) == before:
                desk.microsoft.on_request = lambda method, path: None
                change(desk.mailbox, event)

        desk.microsoft.on_request = then
        assert desk.refresh()
        assert desk.known == desk.true

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_between_two_pages_of_the_read(
        self, desk: Desk, event: Event, change: Callable[[Mailbox, Event], None]
    ) -> None:
        at_ten(desk, day=5)
        desk.microsoft.page_most = 1
        desk.refresh()

        def then(method: str, path: str) -> None:
            if "/calendarView?" in path and "skiptoken" in path:
                desk.microsoft.on_request = lambda method, path: None
                change(desk.mailbox, event)

        desk.microsoft.on_request = then
        assert desk.refresh()
        assert desk.known != desk.true
        assert desk.refresh()
        assert desk.known == desk.true

    @pytest.mark.parametrize("change", CHANGES)
    def test_a_change_after_a_look_saw_one(
        self, desk: Desk, event: Event, change: Callable[[Mailbox, Event], None]
    ) -> None:
        """The look saw a change, and before the read somebody makes another."""
        at_ten(desk.marked(), day=6)

        def then(method: str, path: str) -> None:
            if _kind(path) == "read":
                desk.microsoft.on_request = lambda method, path: None
                change(desk.mailbox, event)

        desk.microsoft.on_request = then
        desk.refresh()
        desk.refresh()
        assert desk.known == desk.true

    @pytest.mark.parametrize(
        "changed",
        [
            {"removed": True},
            {"when": Occurrence(local(3, 15), local(3, 16))},
            {"when": Occurrence(datetime(2027, 3, 1, 15), datetime(2027, 3, 1, 16))},
            {"showAs": "free"},
            {"isCancelled": True},
        ],
    )
    def test_one_occurrence_changes(self, desk: Desk, changed: dict[str, object]) -> None:
        series = desk.mailbox.add(local(2, 10), local(2, 11), series=Series(5))
        known = desk.marked().known
        desk.mailbox.change_occurrence(series.id, 1, **changed)  # type: ignore[arg-type]
        assert desk.refresh()
        assert desk.known == desk.true != known

    def test_a_series_that_began_long_ago_is_touched(self, desk: Desk) -> None:
        began = datetime(2026, 6, 1, 10)
        series = desk.mailbox.add(began, began + timedelta(hours=1), series=Series(40, every_days=7))
        desk.marked().mailbox.change(series.id, showAs="free")
        assert desk.refresh()
        assert {event.reason for event in desk.known} == {BlockReason.FREE}  # type: ignore[union-attr]

    def test_more_changes_than_stand_on_one_page(self, desk: Desk) -> None:
        desk.marked().microsoft.page_most = 1
        for hour in (10, 12, 14):
            desk.mailbox.add(local(2, hour), local(2, hour + 1))
        assert desk.refresh()
        assert (sum(desk.known.values()), desk.refresh()) == (3, False)

    def test_more_changes_than_a_look_follows(self, desk: Desk) -> None:
        desk.marked().microsoft.page_most = 1
        for hour in range(20):
            desk.mailbox.add(local(2, hour), local(2, hour + 1))
        assert desk.refresh()
        assert desk.known == desk.true
        assert [desk.refresh(), desk.refresh()] == [True, False]

    def test_a_new_event_outside_the_window_leaves_what_is_known_true(self, desk: Desk) -> None:
        at_ten(desk)
        desk.marked().mailbox.add(datetime(2027, 5, 1, 10), datetime(2027, 5, 1, 11))
        desk.refresh()
        assert desk.known == desk.true

    def test_days_lie_elsewhere_when_the_zone_of_the_mailbox_changes(self, desk: Desk) -> None:
        desk.mailbox.add(local(3), local(4), all_day=True)
        known = desk.marked().known
        desk.mailbox.zone = "Tokyo Standard Time"
        assert desk.refresh()
        assert desk.known == desk.true != known
        assert not desk.refresh()

    def test_days_cannot_be_placed_once_nobody_knows_the_zone(self, desk: Desk) -> None:
        desk.mailbox.add(local(3), local(4), all_day=True)
        desk.marked().mailbox.zone = CUSTOM_ZONE
        assert desk.refresh()
        assert desk.known == desk.true
        desk.mailbox.zone = "UTC"
        assert desk.refresh()
        assert desk.known == desk.true

    def test_days_that_come_later_depend_on_the_zone_from_then_on(self, desk: Desk) -> None:
        desk.marked().mailbox.add(local(3), local(4), all_day=True)
        desk.refresh()
        desk.mailbox.zone = "Tokyo Standard Time"
        assert desk.refresh()
        assert desk.known == desk.true

    def test_another_calendar_of_the_mailbox_is_none_of_this_ones_business(self, desk: Desk) -> None:
        second = desk.mailbox.add_calendar("second")
        desk.marked().mailbox.add(local(2, 10), local(2, 11), calendar=second)
        assert not desk.refresh()


CONTEXT = "https://graph.microsoft.com/v1.0/$metadata#Collection(event)"


class TestADoubtIsAChange:
    """The calendar has changed, and the look is answered so: it must be read again."""

    @pytest.fixture
    def changed(self, desk: Desk) -> Desk:
        at_ten(desk.marked())
        return desk

    def page(self, desk: Desk, **members: object) -> bytes:
        """An answer to a look that says "nothing changed", but for these members; None takes one out."""
        link = json.loads(desk.memory)["link"]
        names = {"link": "@odata.deltaLink", "next": "@odata.nextLink", "context": "@odata.context"}
        whole = {"context": CONTEXT, "link": link, "value": [], **members}
        return json.dumps({names.get(name, name): value for name, value in whole.items() if value is not None}).encode()

    def seen(self, desk: Desk) -> None:
        """What is there is known, and after another mark it is cheap again."""
        assert desk.refresh()
        assert sum(desk.known.values()) == 1
        assert [desk.refresh(), desk.refresh()][-1] is False
        assert desk.known == desk.true

    def test_the_answer_that_the_others_differ_from_says_that_nothing_changed(self, changed: Desk) -> None:
        changed.microsoft.fail_next(200, within=LOOK, body=self.page(changed))
        assert not changed.refresh()

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"{}", b"[" * 100_000, b'{"value": []}'])
    def test_an_answer_that_is_none(self, changed: Desk, body: bytes) -> None:
        changed.microsoft.fail_next(200, within=LOOK, body=body)
        self.seen(changed)

    @pytest.mark.parametrize(
        "members",
        [
            {"link": None},
            {"link": ""},
            {"link": 7},
            {"link": "me/calendars/x/calendarView/delta?$deltatoken=x"},
            {"link": "https://elsewhere.example/v1.0/me"},
            {"next": ""},
            {"next": 7},
            {"value": None},
            {"value": {}},
            {"value": "none"},
            {"value": [7]},
            {"value": [{}]},
            {"value": [{"id": "x", "@removed": {"reason": "deleted"}}]},
            {"value": [{"id": "x", "type": "occurrence"}]},
            {"error": {"code": "x", "message": "x"}},
        ],
    )
    def test_an_answer_that_is_not_exactly_that(self, changed: Desk, members: dict[str, object]) -> None:
        changed.microsoft.fail_next(200, within=LOOK, body=self.page(changed, **members))
        self.seen(changed)

    def test_a_link_that_is_longer_than_any(self, changed: Desk) -> None:
        link = f"{changed.microsoft.graph_url}/me?$deltatoken={'x' * 20_000}"
        changed.microsoft.fail_next(200, within=LOOK, body=self.page(changed, link=link))
        self.seen(changed)

    def test_both_links_at_once(self, desk: Desk) -> None:
        desk.marked()
        desk.microsoft.fail_next(200, within=LOOK, body=self.page(desk, next=json.loads(desk.memory)["link"]))
        assert desk.refresh()

    def test_a_change_on_a_page_before_an_empty_one(self, desk: Desk) -> None:
        onward = json.loads(desk.marked().memory)["link"]
        body = self.page(desk, link=None, next=onward, value=[{"id": "x", "@removed": {"reason": "deleted"}}])
        desk.microsoft.fail_next(200, within=LOOK, body=body)
        assert desk.refresh()
        assert desk.asked == ["look", "look", "read"]

    def test_an_answer_that_is_cut_short(self, changed: Desk) -> None:
        changed.microsoft.fail_next(200, within=LOOK, body=self.page(changed)[:-3])
        self.seen(changed)

    def test_an_answer_larger_than_we_read(self, changed: Desk) -> None:
        changed.microsoft.fail_next(200, within=LOOK, body=b" " * 500_000)
        self.seen(changed)

    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (410, "SyncStateNotFound"),
            (410, "resyncRequired"),
            (410, ""),
            (400, "InvalidDeltaToken"),
            (404, "ErrorItemNotFound"),
            (403, "ErrorAccessDenied"),
            (500, "ErrorInternalServerError"),
            (501, "NotImplemented"),
            (503, "ServiceUnavailable"),
            (504, "UnknownError"),
            (302, "Moved"),
        ],
    )
    def test_a_link_that_is_refused(self, changed: Desk, status: int, code: str) -> None:
        changed.microsoft.fail_next(status, code=code, within=LOOK)
        self.seen(changed)

    def test_a_link_that_is_too_old(self, changed: Desk) -> None:
        changed.microsoft.expire_delta_links()
        self.seen(changed)

    def test_a_line_that_is_cut(self, changed: Desk) -> None:
        changed.microsoft.cut_next("GET", within=LOOK)
        self.seen(changed)

    def test_a_later_page_that_fails(self, changed: Desk) -> None:
        changed.microsoft.empty_delta_pages = 1
        changed.microsoft.fail_next(500, within="skiptoken=")
        self.seen(changed)

    def test_a_round_that_has_no_end(self, changed: Desk) -> None:
        changed.microsoft.endless_delta = True
        assert changed.refresh()
        assert changed.known == changed.true
        assert changed.asked.count("more") < 20

    @pytest.mark.parametrize("status", [403, 404, 500, 503])
    def test_a_zone_that_cannot_be_asked_for(self, desk: Desk, status: int) -> None:
        desk.mailbox.add(local(3), local(4), all_day=True)
        desk.marked().microsoft.fail_next(status, within="mailboxSettings")
        assert desk.refresh()
        assert desk.known == desk.true

    def test_a_look_that_is_never_answered_leaves_time_to_read(self, changed: Desk) -> None:
        def hang(method: str, path: str) -> None:
            if LOOK in path:
                held.wait(20)

        held = threading.Event()
        changed.microsoft.on_request = hang
        try:
            assert changed.refresh(Deadline.after(6))
        finally:
            held.set()
        assert sum(changed.known.values()) == 1


class TestAFeedThatDoesNotWork:
    def marks(self, desk: Desk, refreshes: int) -> int:
        """How often a mark is tried for in so many refreshes; each of them reads what is there."""
        desk.microsoft.exchanges.clear()
        for number in range(refreshes):
            desk.mailbox.add(local(3, number % 20), local(3, number % 20 + 1))
            assert desk.refresh()
            assert desk.known == desk.true
        return desk.asked.count("mark")

    def test_a_mark_that_is_refused_does_not_fail_the_refresh(self, desk: Desk) -> None:
        at_ten(desk)
        desk.refresh()
        desk.microsoft.fail_next(504, within="/delta")
        assert desk.refresh()
        assert desk.known == desk.true

    def test_it_is_left_alone_for_longer_and_longer(self, desk: Desk) -> None:
        desk.refresh()
        desk.microsoft.fail_next(504, times=1000, within="/delta")
        assert self.marks(desk, 40) == 6

    def test_one_that_marks_but_never_answers_a_look_is_left_alone_too(self, desk: Desk) -> None:
        desk.refresh()
        desk.microsoft.fail_next(504, times=1000, within=LOOK)
        assert self.marks(desk, 40) <= 6

    def test_one_that_works_again_is_used_again(self, desk: Desk) -> None:
        desk.refresh()
        desk.microsoft.fail_next(504, times=2, within="/delta")
        self.marks(desk, 4)
        assert not desk.refresh()

    def test_what_failed_before_it_worked_is_forgotten(self, desk: Desk) -> None:
        desk.refresh()
        desk.microsoft.fail_next(504, times=2, within="/delta")
        self.marks(desk, 4)
        desk.refresh()
        desk.microsoft.expire_delta_links()
        assert [desk.refresh(), desk.refresh(), desk.refresh()] == [True, True, False]

    def test_a_mark_without_an_end_is_given_up(self, desk: Desk) -> None:
        desk.refresh()
        desk.microsoft.endless_delta = True
        assert desk.refresh()
        assert desk.asked.count("more") < 45

    def test_links_to_elsewhere_are_never_followed(self, desk: Desk) -> None:
        desk.microsoft.next_links_to = "http://elsewhere.example"
        at_ten(desk)
        assert [desk.refresh(), desk.refresh()] == [True, True]
        assert b"elsewhere" not in desk.memory


class TestWhatIsSaidOfTheAccount:
    """Never "unchanged": the refresh raises what a read would, and what is remembered stays as it was."""

    @pytest.mark.parametrize(("status", "retry_after"), [(429, None), (429, "7"), (503, "7")])
    def test_slow_down(self, desk: Desk, status: int, retry_after: str | None) -> None:
        memory = desk.marked().memory
        at_ten(desk)
        desk.microsoft.fail_next(status, within=LOOK, retry_after=retry_after)
        with pytest.raises(ProviderThrottled) as caught:
            desk.refresh()
        assert caught.value.retry_after_s == (7 if retry_after else 30)
        assert (desk.memory, desk.asked) == (memory, ["look"])
        assert desk.refresh()
        assert desk.known == desk.true

    def test_slow_down_when_the_zone_is_asked_for(self, desk: Desk) -> None:
        desk.mailbox.add(local(3), local(4), all_day=True)
        desk.marked().microsoft.fail_next(429, within="mailboxSettings")
        with pytest.raises(ProviderThrottled):
            desk.refresh()

    def test_slow_down_when_a_mark_is_taken(self, desk: Desk) -> None:
        desk.refresh()
        desk.microsoft.fail_next(429, within="/delta")
        with pytest.raises(ProviderThrottled):
            desk.refresh()

    @pytest.mark.parametrize("status", [500, 502, 504])
    def test_a_graph_that_is_down(self, desk: Desk, status: int) -> None:
        memory = desk.marked().memory
        at_ten(desk)
        desk.microsoft.fail_next(status, times=2)
        with pytest.raises(ProviderUnavailable):
            desk.refresh()
        assert desk.memory == memory
        assert desk.refresh()
        assert desk.known == desk.true

    def test_an_access_token_that_is_over_is_renewed_and_the_look_is_repeated(self, desk: Desk) -> None:
        desk.marked().microsoft.fail_next(401, within=LOOK)
        assert not desk.refresh()
        assert desk.asked == ["look", "look"]

    def test_a_grant_that_is_dead_needs_its_owner(self, desk: Desk) -> None:
        desk.marked().good_renewals = False
        desk.microsoft.fail_next(401, within=LOOK)
        with pytest.raises(NeedsReauth):
            desk.refresh()

    def test_a_calendar_that_was_deleted_is_gone(self, desk: Desk) -> None:
        second = desk.mailbox.add_calendar("second")
        desk.use(second).marked()
        del desk.mailbox.calendars[second.id]
        with pytest.raises(CalendarGone):
            desk.refresh()

    @pytest.mark.parametrize("refreshes", [0, 1, 2])
    def test_nothing_is_asked_once_the_connection_is_disconnected(self, desk: Desk, refreshes: int) -> None:
        for _ in range(refreshes):
            desk.refresh()
        desk.microsoft.exchanges.clear()
        desk.live = False
        with pytest.raises(NotFound):
            desk.refresh()
        assert desk.asked == []

    def test_a_read_that_fails_after_a_change_loses_nothing(self, desk: Desk) -> None:
        at_ten(desk.marked())
        desk.microsoft.fail_next(500, within="calendarView?")
        with pytest.raises(ProviderUnavailable):
            desk.refresh()
        assert desk.refresh()
        assert desk.known == desk.true


class TestTheMemory:
    @pytest.fixture
    def changed(self, desk: Desk) -> Desk:
        at_ten(desk.marked())
        return desk

    @pytest.mark.parametrize(
        "memory", [b"", b"\xff\xfe", b"{}", b"[]", b"null", b"7", b'"link"', b"[" * 100_000, b'{"version": 1}']
    )
    def test_what_is_no_memory_of_ours_is_not_used(self, changed: Desk, memory: bytes) -> None:
        changed.memory = memory
        assert changed.refresh()
        assert changed.asked == ["read"]
        assert changed.known == changed.true

    def test_a_truncated_one_is_not_used(self, changed: Desk) -> None:
        whole = changed.memory
        for length in range(0, len(whole), 9):
            changed.memory = whole[:length]
            assert changed.refresh()
        assert set(changed.asked) == {"read"}

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("version", 2),
            ("version", "1"),
            ("calendar_id", "another"),
            ("link", None),
            ("link", 7),
            ("zone", 7),
            ("failed", "0"),
            ("failed", True),
            ("failed", -1),
            ("failed", 10**9),
            ("rest", None),
            ("rest", 10**9),
            ("more", "x"),
        ],
    )
    def test_one_of_another_version_or_calendar_is_not_used(self, changed: Desk, name: str, value: object) -> None:
        changed.memory = json.dumps({**json.loads(changed.memory), name: value}).encode()
        assert changed.refresh()
        assert changed.asked == ["read"]

    @pytest.mark.parametrize(
        "link",
        [
            "me/messages",
            "https://elsewhere.example/v1.0/me",
            "file:///etc/passwd",
            "http://a@127.0.0.1/",
            "http://[",
            "x",
        ],
    )
    def test_a_link_that_is_none_of_graphs_is_not_followed(self, changed: Desk, link: str) -> None:
        changed.memory = json.dumps({**json.loads(changed.memory), "link": link}).encode()
        assert changed.refresh()
        assert changed.asked == ["read"]

    def test_a_foreign_token_leads_to_a_read(self, changed: Desk) -> None:
        note = json.loads(changed.memory)
        changed.memory = json.dumps({**note, "link": note["link"] + "x"}).encode()
        assert changed.refresh()
        assert changed.asked == ["look", "read"]

    def test_it_holds_no_event(self, desk: Desk) -> None:
        event = desk.mailbox.add(local(2, 10), local(2, 11), subject="Secret plan")
        desk.marked()
        assert event.id.encode() not in desk.memory
        assert b"Secret" not in desk.memory
        assert len(desk.memory) < 1000


class TestAFeedThatLies:
    def test_it_costs_until_everything_is_read(self, desk: Desk) -> None:
        at_ten(desk.marked())
        desk.microsoft.delta_lies = True
        assert not desk.refresh()
        assert desk.known != desk.true
        desk.forget()
        assert desk.refresh()
        assert desk.known == desk.true


class RandomHistories(RuleBasedStateMachine):
    """Whatever happens, a refresh that succeeds leaves what is known equal to what is there."""

    egress: Egress

    def __init__(self) -> None:
        super().__init__()
        self.microsoft = MicrosoftFake()
        self.desk = Desk(self.egress, self.microsoft)
        self.series: list[Event] = []
        self.faults = 0

    def teardown(self) -> None:
        self.microsoft.close()
        assert self.microsoft.problems == []

    @property
    def events(self) -> list[Event]:
        """Those that stand alone."""
        return [event for event in self.desk.mailbox.events.values() if event not in self.series]

    @initialize(pages=st.sampled_from([1, 3, 1000]), empty=st.integers(0, 2))
    def start(self, pages: int, empty: int) -> None:
        self.microsoft.page_most, self.microsoft.empty_delta_pages = pages, empty

    @rule(day=st.integers(1, 12), hour=st.integers(0, 22))
    def add(self, day: int, hour: int) -> None:
        self.desk.mailbox.add(local(day, hour), local(day, hour + 1))

    @rule(day=st.integers(1, 9))
    def add_day(self, day: int) -> None:
        self.desk.mailbox.add(local(day), local(day + 1), all_day=True)

    @rule(day=st.integers(1, 8), count=st.integers(1, 6))
    def add_series(self, day: int, count: int) -> None:
        self.series.append(self.desk.mailbox.add(local(day, 10), local(day, 11), series=Series(count)))

    @precondition(lambda self: self.events)
    @rule(data=st.data(), change=st.sampled_from(CHANGES))
    def change(self, data: st.DataObject, change: Callable[[Mailbox, Event], None]) -> None:
        change(self.desk.mailbox, data.draw(st.sampled_from(self.events)))

    @precondition(lambda self: self.series)
    @rule(data=st.data(), shown=st.sampled_from(["free", "busy", "oof"]))
    def touch_series(self, data: st.DataObject, shown: str) -> None:
        self.desk.mailbox.change(data.draw(st.sampled_from(self.series)).id, showAs=shown)

    @precondition(lambda self: self.series)
    @rule(data=st.data(), removed=st.booleans(), day=st.integers(1, 12), number=st.integers(0, 5))
    def change_occurrence(self, data: st.DataObject, removed: bool, day: int, number: int) -> None:
        series = data.draw(st.sampled_from(self.series))
        when = None if removed else Occurrence(local(day, 15), local(day, 16))
        self.desk.mailbox.change_occurrence(series.id, number, when=when, removed=removed)

    @rule(zone=st.sampled_from(["UTC", "Tokyo Standard Time", "Pacific Standard Time", CUSTOM_ZONE]))
    def move_the_mailbox(self, zone: str) -> None:
        self.desk.mailbox.zone = zone

    @rule()
    def expire(self) -> None:
        self.microsoft.expire_delta_links()

    @rule(
        status=st.sampled_from([500, 429, 410, 404]),
        within=st.sampled_from([LOOK, "/delta", "calendarView?", "skiptoken", "mailboxSettings"]),
    )
    def fail(self, status: int, within: str) -> None:
        self.faults += 1
        self.microsoft.fail_next(status, within=within)

    @rule(within=st.sampled_from([LOOK, "skiptoken", "calendarView?"]))
    def cut(self, within: str) -> None:
        self.faults += 1
        self.microsoft.cut_next("GET", within=within)

    @rule()
    def refresh(self) -> None:
        try:
            self.desk.refresh()
        except CalendarError:
            assert self.faults
            return
        self.heal()
        assert self.desk.known == self.desk.true

    @rule(day=st.integers(1, 7), request=st.integers(1, 4))
    def refresh_while_it_changes(self, day: int, request: int) -> None:
        """Somebody writes an event in the middle of the refresh."""
        self.heal()
        left = [request]

        def write(method: str, path: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                self.add(day, 20)

        self.microsoft.on_request = write
        self.desk.refresh()
        self.microsoft.on_request = lambda method, path: None
        self.desk.refresh()
        assert self.desk.known == self.desk.true

    def heal(self) -> None:
        self.microsoft.forgive()
        self.faults = 0


def test_whatever_happens_what_is_known_is_what_is_there(egress: Egress) -> None:
    machine = type("Machine", (RandomHistories,), {"egress": egress})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
