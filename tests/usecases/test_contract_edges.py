"""The contract's edges: what happens between two steps, to two at once, and to things that are in no normal state."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from calendar_server.core.model import (
    SECOND,
    Attendee,
    BlockReason,
    BookingId,
    BusyEvent,
    BusyState,
    BusyView,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    Interval,
    OrganizationId,
    ProviderName,
    SyncStatus,
    UnreadableEvent,
)
from calendar_server.errors import (
    AccountMismatch,
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    Conflict,
    NeedsReauth,
    NotConfigured,
    NotFound,
    ProviderRefused,
    ProviderUnavailable,
    SlotTaken,
    StoreUnavailable,
    ValidationError,
)
from calendar_server.providers.base import Account, Deadline, Link, Secret
from calendar_server.store.tables import BUSY_CONTENT
from calendar_server.usecases.authorizations import Authorizations
from calendar_server.usecases.availability import Availability, BusyUnknown
from calendar_server.usecases.bookings import BookingContents
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    BusyQuery,
    ConnectCommand,
    ListQuery,
    OAuthAccount,
    SyncCommand,
    Target,
    UpdateCommand,
)
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.hosts import HostGate
from calendar_server.usecases.pushes import Pushes
from tests.usecases.conftest import HOME, HOUR, NOON, VAULT, WORK, World, booking, build_availability, cancelled

Result = TypeVar("Result")

NOON_TO_ONE = Interval(NOON, NOON + HOUR)
LATER = Interval(NOON + 2 * HOUR, NOON + 3 * HOUR)


def now_of(world: World, connection: Connection) -> Connection:
    found = world.store.connections.get(connection.organization_id, connection.id)
    assert found is not None
    return found


def refuse_grant(world: World, connection: Connection) -> None:
    assert world.store.connections.note_refusal(connection.id, now_of(world, connection).grant_version, "refused")


class TestPlacesOfOurEvents:
    def synced(self, world: World) -> tuple[Connection, EventId]:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        return connection, world.report().events[0].event_id

    def moves(self, world: World, event_id: EventId, place: Interval) -> None:
        """As its owner would drag it in their calendar."""
        world.provider._shelves[WORK].events[event_id] = [BusyEvent(*place, BlockReason.BUSY, event_id)]

    def test_a_rescheduled_booking_frees_its_old_place_from_the_acknowledgement_on(self, world: World) -> None:
        connection, _ = self.synced(world)
        world.sync(booking(2, start=LATER.start, end=LATER.end), connection)
        assert world.in_calendar() == [NOON_TO_ONE]
        assert world.busy(connection).busy == (LATER,)

    def test_the_old_place_of_a_rescheduled_booking_can_be_booked_at_once(self, world: World) -> None:
        connection, _ = self.synced(world)
        world.sync(booking(2, start=LATER.start, end=LATER.end), connection)
        world.sync(booking(id=BookingId("other")), connection, require_free=True)

    def test_an_event_that_its_owner_moved_blocks_at_both_places(self, world: World) -> None:
        connection, event_id = self.synced(world)
        self.moves(world, event_id, LATER)
        assert world.busy(connection).busy == (NOON_TO_ONE, LATER)

    def test_from_the_next_revision_on_only_the_wanted_place_blocks(self, world: World) -> None:
        connection, event_id = self.synced(world)
        self.moves(world, event_id, LATER)
        world.sync(booking(2), connection)
        assert world.busy(connection).busy == (NOON_TO_ONE,)

    def test_a_read_that_began_before_the_push_does_not_bring_the_old_place_back(self, world: World) -> None:
        connection, event_id = self.synced(world)
        world.sync(booking(2, start=LATER.start, end=LATER.end), connection)

        def push_after_the_read_began() -> None:
            world.push()
            self.moves(world, event_id, NOON_TO_ONE)

        world.provider.interruptions.append(push_after_the_read_began)
        assert world.busy(connection).busy == (LATER,)

    def moved_on_behind_a_feed_that_lies(self, world: World) -> Connection:
        """A booking is read at noon, rescheduled and pushed; the provider's feed says that nothing has changed."""
        connection, _ = self.synced(world)
        assert world.busy(connection).busy == (NOON_TO_ONE,)
        signal = world.provider._changes
        world.sync(booking(2, start=LATER.start, end=LATER.end), connection)
        world.push()
        world.provider._changes = signal
        assert world.store.mirror.note_change(connection.id, WORK, world.store.now())
        return connection

    def test_a_feed_that_lies_does_not_bring_the_old_place_back(self, world: World) -> None:
        connection = self.moved_on_behind_a_feed_that_lies(world)
        assert world.busy(connection, max_staleness_s=60).busy == (LATER,)

    def test_what_a_former_release_read_counts_as_of_its_last_confirmation(self, world: World) -> None:
        """It does not note when it read a content. The more is busy then."""
        connection = self.moved_on_behind_a_feed_that_lies(world)
        table = BUSY_CONTENT
        world.store._database.change(table.update({table.read_version: 0}))
        assert world.busy(connection, max_staleness_s=60).busy == (NOON_TO_ONE, LATER)

    def test_an_event_of_ours_that_its_owner_marked_free_still_blocks(self, world: World) -> None:
        connection, event_id = self.synced(world)
        world.provider._shelves[WORK].events[event_id] = [BusyEvent(*NOON_TO_ONE, BlockReason.FREE, event_id)]
        answer = world.busy(connection, view=BusyView.EXPLAINED)
        assert answer.busy == (NOON_TO_ONE,)
        events = [event for calendar in answer.calendars for event in calendar.events]
        assert [(event.reason, event.booking_id) for event in events] == [(BlockReason.BOOKING, "b")]


class TestUnreadableEvents:
    def breaks(self, world: World, event_id: str, interval: Interval | None = None) -> None:
        world.provider.add_unreadable(WORK, UnreadableEvent(EventId(event_id), "broken", interval))

    def test_one_that_is_known_to_lie_outside_the_window_marks_nothing(self, world: World) -> None:
        connection = world.connect()
        self.breaks(world, "/work/bad.ics", Interval(NOON + 40 * HOUR, NOON + 41 * HOUR))
        answer = world.busy(connection)
        assert (answer.complete, answer.busy) == (True, ())

    def test_one_inside_the_window_blocks_for_those_who_take_partial_answers(self, world: World) -> None:
        connection = world.connect()
        self.breaks(world, "/work/bad.ics", NOON_TO_ONE)
        answer = world.busy(connection, allow_partial=True)
        assert (answer.complete, answer.busy) == (False, (NOON_TO_ONE,))

    def ours_is_broken(self, world: World) -> Connection:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        self.breaks(world, world.report().events[0].event_id)
        return connection

    def test_one_of_ours_marks_its_calendar_while_its_booking_stands(self, world: World) -> None:
        connection = self.ours_is_broken(world)
        with pytest.raises(BusyUnknown):
            world.busy(connection)

    def test_one_of_a_cancelled_booking_is_certain_not_to_block(self, world: World) -> None:
        connection = self.ours_is_broken(world)
        world.sync(cancelled())
        answer = world.busy(connection)
        assert (answer.complete, answer.busy) == (True, ())

    def test_one_of_an_excluded_booking_is_taken_out_with_it(self, world: World) -> None:
        connection = self.ours_is_broken(world)
        answer = world.busy(connection, exclude_booking_ids=frozenset({BookingId("b")}))
        assert (answer.complete, answer.busy) == (True, ())


class TestDisconnectedWhileReading:
    def busy_while_disconnecting(self, world: World, target: Target, connection: Connection) -> set[ConnectionId]:
        world.provider.interruptions.append(lambda: world.disconnect(connection))
        query = BusyQuery(target, Interval(NOON, NOON + HOUR), allow_partial=True)
        answer = world.availability.get_busy(world.caller, query)
        return {calendar.connection_id for calendar in answer.calendars}

    def test_a_named_connection_is_not_found_even_in_a_partial_answer(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        with pytest.raises(NotFound):
            self.busy_while_disconnecting(world, Target((anna.id, ben.id)), anna)

    def test_an_owner_has_one_connection_less(self, world: World) -> None:
        anna, ben = world.connect("anna", owner="o"), world.connect("ben", owner="o")
        assert self.busy_while_disconnecting(world, Target(owner="o"), anna) == {ben.id}


def test_a_database_out_of_reach_is_no_calendar_that_is_unknown(world: World) -> None:
    connection = world.connect()
    world.provider.fail_next(StoreUnavailable())
    with pytest.raises(StoreUnavailable):
        world.busy(connection, allow_partial=True)


class TestDeadlines:
    @pytest.fixture
    def hung(self, world: World) -> Iterator[World]:
        """The next exchange does not end before the test does."""
        over = threading.Event()
        world.provider.interruptions.append(lambda: over.wait(20))
        yield world
        over.set()

    def availability(self, world: World, call_s: float) -> Availability:
        providers = dict.fromkeys(ProviderName, world.provider)
        return build_availability(
            world.store, Grants(world.store, VAULT, {}), providers, call_s=call_s, read_threads=4
        )[0]

    def query(self, connection: Connection) -> BusyQuery:
        return BusyQuery(Target((connection.id,)), NOON_TO_ONE, allow_partial=True, max_staleness_s=0)

    def test_a_call_without_a_deadline_ends_by_itself(self, hung: World) -> None:
        availability, connection = self.availability(hung, 0.3), hung.connect()
        began = time.monotonic()
        answer = availability.get_busy(hung.caller, self.query(connection))
        assert time.monotonic() - began < 2
        assert sorted(calendar.state for calendar in answer.calendars) == [BusyState.FRESH, BusyState.UNKNOWN]
        availability.close()

    def test_a_call_answers_before_its_callers_deadline(self, hung: World) -> None:
        availability, connection = self.availability(hung, 15), hung.connect()
        deadline = Deadline.after(1.0)
        answer = availability.get_busy(dataclasses.replace(hung.caller, deadline=deadline), self.query(connection))
        assert deadline.remaining() > 0
        assert not answer.complete
        availability.close()

    def sync(self, world: World, wait_s: float, deadline: Deadline | None = None) -> float:
        command = SyncCommand(booking(), Target((world.connect().id,)), wait_s=wait_s)
        began = time.monotonic()
        report = world.bookings.sync(dataclasses.replace(world.caller, deadline=deadline), command)
        assert [event.state for event in report.events] == [EventState.PENDING]
        return time.monotonic() - began

    def test_a_booking_waits_as_long_as_it_was_told_and_not_a_second_longer(self, world: World) -> None:
        assert 0.3 <= self.sync(world, 0.3) < 1.3

    def test_a_booking_leaves_half_a_second_of_its_callers_deadline(self, world: World) -> None:
        deadline = Deadline.after(1.5)
        self.sync(world, 30, deadline)
        assert deadline.remaining() > 0.2


class TestRequireFree:
    def test_calendars_that_come_to_block_after_the_read_are_read_too(self, world: World) -> None:
        connection = world.connect()
        world.connections.update(world.caller, UpdateCommand(connection.id, busy_calendar_ids=(WORK,)))
        world.owner_adds(*NOON_TO_ONE, calendar_id=HOME)
        world.provider.interruptions.append(
            lambda: world.store.connections.choose(connection.id, calendar_id=WORK, busy_calendar_ids=(WORK, HOME))
        )
        with pytest.raises(SlotTaken) as taken:
            world.sync(booking(), connection, require_free=True)
        assert taken.value.metadata == {"connectionId": connection.id, "calendarId": HOME}

    def test_a_connection_that_comes_after_the_read_is_checked_and_written_to(self, world: World) -> None:
        anna = world.connect("anna", owner="o")
        world.provider.interruptions.append(lambda: world.connect("ben", owner="o"))
        command = SyncCommand(booking(), Target(owner="o"), require_free=True, wait_s=0)
        report = world.bookings.sync(world.caller, command)
        assert len(report.events) == 2
        assert anna.id in {event.connection_id for event in report.events}

    def test_one_that_ends_after_the_read_is_not_found_and_nothing_is_kept(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.provider.interruptions.append(lambda: world.disconnect(ben))
        with pytest.raises(NotFound):
            world.sync(booking(), anna, ben, require_free=True)
        with pytest.raises(NotFound):
            world.report()


class TestEqualRevisions:
    def test_order_and_doubles_of_attendees_do_not_count(self, world: World) -> None:
        connection, one, two = world.connect(), Attendee("one@example.org"), Attendee("two@example.org")
        world.sync(booking(attendees=(one, two)), connection)
        world.sync(booking(attendees=(two, one, two)), connection)

    def test_other_attendees_do(self, world: World) -> None:
        connection, one, two = world.connect(), Attendee("one@example.org"), Attendee("two@example.org")
        world.sync(booking(attendees=(one,)), connection)
        with pytest.raises(ValidationError):
            world.sync(booking(attendees=(one, two)), connection)

    def test_other_content_is_told_before_an_unknown_connection(self, world: World) -> None:
        world.sync(booking(), world.connect())
        command = SyncCommand(booking(title="Other"), Target((ConnectionId("cal_unknown"),)), wait_s=0)
        with pytest.raises(ValidationError):
            world.bookings.sync(world.caller, command)

    def test_a_lower_revision_is_fine_whatever_it_names(self, world: World) -> None:
        world.sync(booking(2), world.connect())
        command = SyncCommand(booking(1), Target((ConnectionId("cal_unknown"),)), require_free=True, wait_s=0)
        assert world.bookings.sync(world.caller, command).booking.revision == 2


class TestNeedsReauth:
    def test_a_booking_for_such_a_connection_says_what_it_waits_for(self, world: World) -> None:
        connection = world.connect()
        refuse_grant(world, connection)
        (event,) = world.sync(booking(), connection).events
        assert (event.state, event.next_attempt_at) == (EventState.PENDING, None)
        assert event.problem is not None
        assert event.problem.reason == "NEEDS_REAUTH"

    def test_it_is_pushed_after_the_renewal(self, world: World) -> None:
        connection = world.connect()
        refuse_grant(world, connection)
        world.sync(booking(), connection)
        assert world.push() == []
        world.connect()
        assert world.push() == ["synced"]
        assert world.report().events[0].problem is None

    def test_a_renewal_right_after_the_refusal_leaves_no_push_waiting_for_ever(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)

        class RenewedAtOnce(Grants):
            @contextmanager
            def use(self, connection: Connection, **more: Any) -> Iterator[Link]:
                try:
                    with super().use(connection, **more) as link:
                        yield link
                except NeedsReauth:
                    world.connect()
                    raise

        grants = RenewedAtOnce(world.store, VAULT, {})
        providers = dict.fromkeys(ProviderName, world.provider)
        pushes = Pushes(world.store, BookingContents(VAULT), grants, providers, HostGate(slow_most=4), push_s=10)
        world.provider.fail_next(NeedsReauth())
        (row,) = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=1)
        assert pushes.push(row) == "deferred"
        assert world.push() == ["synced"]

    def test_of_two_renewals_at_once_one_wins(self, world: World) -> None:
        connection = world.connect()
        refuse_grant(world, connection)
        renewed, lost = run_together([lambda: world.connect()] * 5)
        assert [each.id for each in renewed] == [connection.id]
        assert [type(error) for error in lost] == [Conflict] * 4


class TestPushes:
    def test_one_that_goes_well_clears_the_error_of_one_that_did_not(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(ProviderUnavailable("The server is down."))
        world.push()
        assert now_of(world, connection).sync_status is SyncStatus.ERROR
        world.store.outbox.make_due(connection.id, world.store.now())
        world.push()
        assert (now_of(world, connection).sync_status, now_of(world, connection).sync_error) == (
            SyncStatus.CONNECTED,
            None,
        )

    @pytest.mark.parametrize(("newer", "outcome"), [(booking(2), "synced"), (cancelled(2), "removed")])
    def test_what_an_event_says_of_its_revision_keeps_no_newer_one_out(
        self, world: World, newer: object, outcome: str
    ) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        written = world.provider._shelves[WORK].written
        for event_id, event in written.items():
            written[event_id] = dataclasses.replace(event, revision=1000)
        world.sync(newer, connection)  # type: ignore[arg-type]
        assert world.push() == [outcome]

    @pytest.mark.parametrize("refusal", [CalendarGone("gone"), CalendarReadOnly("read only")])
    def test_a_booking_that_was_never_written_follows_the_choice_of_calendar(
        self, world: World, refusal: CalendarError
    ) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(refusal)
        assert world.push() == ["failed"]
        world.connections.update(world.caller, UpdateCommand(connection.id, calendar_id=HOME))
        world.sync(booking(2), connection)
        assert world.push() == ["synced"]
        assert (world.in_calendar(WORK), world.in_calendar(HOME)) == ([], [NOON_TO_ONE])

    def test_a_booking_keeps_the_calendar_that_it_was_first_written_to(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.connections.update(world.caller, UpdateCommand(connection.id, calendar_id=HOME))
        world.sync(booking(2), connection)
        world.push()
        assert (world.in_calendar(WORK), world.in_calendar(HOME)) == ([NOON_TO_ONE], [])

    def test_an_account_that_two_owners_connected_keeps_the_event_of_the_one_who_stays(self, world: World) -> None:
        mine, theirs = world.connect(owner="a"), world.connect(owner="b")
        world.sync(booking(), mine, theirs)
        world.push()
        world.sync(booking(2), mine)
        world.push()
        assert world.in_calendar() == [NOON_TO_ONE]
        world.sync(cancelled(3))
        world.push()
        assert world.in_calendar() == []

    def test_no_call_to_the_provider_begins_after_a_disconnect_in_mid_push(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        (row,) = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=1)
        # The look is under way when it is disconnected; the write must not follow.
        world.provider.interruptions += [lambda: None, lambda: world.disconnect(connection)]
        assert world.pushes.push(row) == "yielded"
        assert world.in_calendar() == []
        assert world.states() == [EventState.DETACHED]


class TestCancelledWhileDisconnected:
    def test_the_event_leaves_the_account_once_that_is_connected_again(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.disconnect(connection)
        world.sync(cancelled())
        assert world.push() == []
        again = world.connect()
        assert world.push() == ["removed"]
        assert world.in_calendar() == []
        assert [(e.connection_id, e.state) for e in world.report().events] == [(again.id, EventState.REMOVED)]

    def test_a_cancellation_that_was_not_pushed_before_the_disconnect_is_pushed_then(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(cancelled())
        world.disconnect(connection)
        world.connect()
        assert world.push() == ["removed"]

    def test_the_account_of_another_owner_is_not_touched(self, world: World) -> None:
        connection = world.connect(owner="a")
        world.sync(booking(), connection)
        world.push()
        world.disconnect(connection)
        world.sync(cancelled())
        world.connect(owner="b")
        assert world.push() == []
        assert world.in_calendar() == [NOON_TO_ONE]

    def test_an_appointment_that_stands_is_left_where_it_is(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.disconnect(connection)
        world.connect()
        assert world.push() == []
        assert world.states() == [EventState.DETACHED]


class TestPrecedence:
    def test_credentials_are_proved_before_a_mismatch_is_told(self, world: World) -> None:
        anna = world.connect("anna")
        with pytest.raises(ProviderRefused):
            world.connect("ben", password="wrong", connection_id=anna.id)

    def test_credentials_are_proved_before_another_providers_connection_is_told(self, world: World) -> None:
        google = world.connections.settle(
            world.caller.organization_id,
            ProviderName.GOOGLE,
            Account("sub", "anna@example.org", CalendarId("primary"), (CalendarId("primary"),)),
            Secret({}),
            owner="",
            connection_id=ConnectionId(""),
        )
        with pytest.raises(ProviderRefused):
            world.connect(password="wrong", connection_id=google.id)
        with pytest.raises(AccountMismatch):
            world.connect(connection_id=google.id)

    @pytest.mark.parametrize(
        ("allowed", "expected"),
        [(["https://app.example.org/done"], ValidationError), ([], NotConfigured)],
    )
    def test_a_redirect_that_is_not_allowed_is_told_before_a_missing_setting(
        self, world: World, allowed: list[str], expected: type[CalendarError]
    ) -> None:
        authorizations = Authorizations(
            world.store, VAULT, {}, redirect_uris=allowed, public_url="http://127.0.0.1", call_s=5
        )
        account = OAuthAccount(ProviderName.GOOGLE, "https://elsewhere.example.org/done")
        with pytest.raises(expected):
            authorizations.begin(world.caller, ConnectCommand(account), account)

    def test_a_page_token_with_something_added_is_refused(self, world: World) -> None:
        for number in range(2):
            world.connect(f"user{number}")
        token = world.connections.list(world.caller, ListQuery(page_size=1)).next_page_token
        for changed in (f"{token}!", f" {token}", f"{token[:5]}\n{token[5:]}"):
            with pytest.raises(ValidationError):
                world.connections.list(world.caller, ListQuery(page_token=changed))


USES: dict[str, Callable[[World, Caller, ConnectionId], object]] = {
    "Connect": lambda world, caller, id_: world.connections.connect(
        caller, ConnectCommand(OAuthAccount(ProviderName.GOOGLE, "https://app.example.org/"), connection_id=id_)
    ),
    "Disconnect": lambda world, caller, id_: world.connections.disconnect(caller, id_),
    "ListCalendars": lambda world, caller, id_: world.connections.list_calendars(caller, id_),
    "UpdateConnection": lambda world, caller, id_: world.connections.update(caller, UpdateCommand(id_, HOME)),
    "GetBusy": lambda world, caller, id_: world.availability.get_busy(caller, BusyQuery(Target((id_,)), NOON_TO_ONE)),
    "SyncBooking": lambda world, caller, id_: world.bookings.sync(
        caller, SyncCommand(booking(), Target((id_,)), wait_s=0)
    ),
    "SyncBooking require_free": lambda world, caller, id_: world.bookings.sync(
        caller, SyncCommand(booking(), Target((id_,)), require_free=True, wait_s=0)
    ),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_foreign_connection_is_told_like_an_unknown_one(
    world: World, use: Callable[[World, Caller, ConnectionId], object]
) -> None:
    connection = world.connect()
    told = []
    for connection_id in (connection.id, ConnectionId("cal_unknown")):
        with pytest.raises(NotFound) as refused:
            use(world, world.stranger, connection_id)
        told.append((re.sub(r"cal_\w+", "cal_", refused.value.message), refused.value.metadata))
    assert told[0] == told[1]


def test_equal_ids_of_bookings_in_two_organizations_have_nothing_to_do_with_each_other(world: World) -> None:
    world.sync(booking(5), world.connect())
    foreign = world.bookings.sync(world.stranger, SyncCommand(booking(1, title="Theirs"), Target(), wait_s=0))
    assert (foreign.booking.title, foreign.events) == ("Theirs", ())
    assert world.report().booking.title == "Interview"


class TestTwoAtOnce:
    def test_good_news_of_the_same_connections_in_any_order(self, world: World) -> None:
        connections = [dataclasses.replace(world.connect(f"user{n}"), last_sync_at=None) for n in range(8)]
        grants = Grants(world.store, VAULT, {})

        def tell(order: int) -> None:
            for _ in range(25):
                grants.went_well(connections[::order])

        _, errors = run_together([lambda: tell(1), lambda: tell(-1)] * 2)
        assert errors == []

    def test_bookings_disconnects_and_renewals_end_in_no_ring(self, world: World) -> None:
        connections = [world.connect(f"user{n}") for n in range(4)]

        def book(name: str, order: int) -> None:
            for revision in range(1, 6):
                command = booking(revision, id=BookingId(name))
                world.sync(command, *connections[:3][::order])
            world.sync(cancelled(6, name))

        def renew(username: str, connection: Connection) -> None:
            for _ in range(5):
                world.connect(username, connection_id=connection.id)

        _, errors = run_together(
            [
                lambda: book("x", 1),
                lambda: book("y", -1),
                lambda: renew("user0", connections[0]),
                lambda: renew("user2", connections[2]),
                lambda: world.disconnect(connections[3]),
            ]
        )
        assert errors == []

    @pytest.mark.parametrize("attempt", range(6))
    def test_a_disconnect_and_a_booking_leave_nothing_to_push(self, world: World, attempt: int) -> None:
        connection = world.connect()
        works: list[Callable[[], object]] = [
            lambda: world.disconnect(connection),
            lambda: world.sync(booking(), connection),
        ]
        _, errors = run_together(works[:: 1 if attempt % 2 else -1])
        assert all(isinstance(error, NotFound) for error in errors)
        assert world.push() == []
        if not errors:
            assert world.states() == [EventState.DETACHED]

    def test_a_reconnect_race_makes_one_connection(self, world: World) -> None:
        made, lost = run_together([lambda: world.connect()] * 4)
        assert len(made) == 1
        assert all(isinstance(error, Conflict) for error in lost)
        live = world.store.connections.of_owner(OrganizationId(world.caller.organization_id), "")
        assert [(each.id, each.status) for each in live] == [(made[0].id, ConnectionStatus.ACTIVE)]


def run_together(works: Sequence[Callable[[], Result]]) -> tuple[list[Result], list[CalendarError]]:
    """Run all at the same time; what they answered, and the errors that they ended in."""
    answers: list[Result] = []
    errors: list[CalendarError] = []
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], Result]) -> None:
        gate.wait(10)
        try:
            answers.append(work())
        except CalendarError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) + len(errors) == len(works)
    return answers, errors


def test_an_instant_is_a_whole_number_of_seconds_in_a_booking(world: World) -> None:
    """What the calendar shows is what was acknowledged, to the second."""
    world.sync(booking(end=NOON + SECOND), world.connect())
    world.push()
    assert world.in_calendar() == [Interval(NOON, NOON + SECOND)]
