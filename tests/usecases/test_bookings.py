"""SyncBooking and its pushes: every sentence of the contract about revisions, sets, states and owners who meddle."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest

from calendar_server.core.model import (
    SECOND,
    Attendee,
    Booking,
    BookingId,
    BusyEvent,
    Connection,
    EventId,
    EventState,
    Interval,
    ProviderName,
)
from calendar_server.core.model import BlockReason as Reason
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    NeedsReauth,
    NotFound,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
    SlotTaken,
    ValidationError,
)
from calendar_server.providers.base import Deadline, EventRef, Link, RemoteEvent
from calendar_server.providers.memory import MemoryProvider
from calendar_server.store.rows import OutboxRow
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.bookings import BookingContents
from calendar_server.usecases.commands import SyncCommand, Target
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.hosts import HostGate
from calendar_server.usecases.pushes import GONE_TRIES, Pushes
from tests.usecases.conftest import HOME, HOUR, NOON, VAULT, WORK, World, booking, cancelled

PENDING, SYNCED, FAILED = EventState.PENDING, EventState.SYNCED, EventState.FAILED
REMOVED, GONE, DETACHED = EventState.REMOVED, EventState.GONE, EventState.DETACHED


class TestRevisions:
    def test_it_is_pending_until_it_is_pushed_and_then_synced(self, world: World) -> None:
        connection = world.connect()
        report = world.sync(booking(), connection)
        assert [(event.state, event.synced_revision) for event in report.events] == [(PENDING, 0)]
        assert world.push() == ["synced"]
        event = world.report().events[0]
        assert (event.state, event.synced_revision, event.attempts) == (SYNCED, 1, 1)
        assert world.in_calendar() == [Interval(NOON, NOON + HOUR)]

    def test_a_new_revision_moves_the_event_in_place(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        event_id = world.report().events[0].event_id
        world.sync(booking(2, start=NOON + HOUR, end=NOON + 2 * HOUR), connection)
        world.push()
        assert world.in_calendar() == [Interval(NOON + HOUR, NOON + 2 * HOUR)]
        assert world.report().events[0].event_id == event_id

    def test_a_cancellation_takes_the_event_out_and_keeps_what_the_booking_said(self, world: World) -> None:
        connection = world.connect()
        guests = (Attendee("guest@example.org", "Guest"),)
        world.sync(booking(attendees=guests), connection)
        world.push()
        world.sync(cancelled(), connection)
        assert world.push() == ["removed"]
        assert world.in_calendar() == []
        report = world.report()
        assert (report.booking.title, report.booking.start, report.booking.attendees) == ("Interview", NOON, guests)
        assert [event.state for event in report.events] == [REMOVED]

    def test_revisions_that_came_before_the_push_are_one_push(self, world: World) -> None:
        connection = world.connect()
        for revision in (1, 2, 3):
            world.sync(booking(revision, start=NOON + revision * SECOND), connection)
        assert world.push() == ["synced"]
        assert world.in_calendar() == [Interval(NOON + 3 * SECOND, NOON + HOUR)]

    def test_a_lower_revision_changes_nothing_and_answers_the_newest(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(2), connection)
        report = world.sync(booking(1, title="Old"), connection)
        assert (report.booking.revision, report.booking.title) == (2, "Interview")

    def test_an_equal_revision_with_other_content_is_refused(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        with pytest.raises(ValidationError) as refused:
            world.sync(booking(title="Other"), connection)
        assert [violation.field for violation in refused.value.violations] == ["booking.revision"]
        assert world.report().booking.title == "Interview"

    def test_an_equal_revision_for_another_set_is_refused(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna)
        with pytest.raises(ValidationError):
            world.sync(booking(), ben)

    def test_order_and_doubles_of_the_set_do_not_count(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna, ben)
        report = world.sync(booking(), ben, anna, ben)
        assert len(report.events) == 2

    def test_an_equal_revision_leaves_a_synced_event_alone(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(booking(), connection)
        assert world.states() == [SYNCED]
        assert world.push() == []

    def test_a_first_revision_that_is_cancelled_keeps_a_later_lower_one_out(self, world: World) -> None:
        connection = world.connect()
        report = world.sync(cancelled(5))
        assert report.events == ()
        assert world.sync(booking(4), connection).events == ()
        assert world.push() == []

    def test_the_same_cancellation_again_is_fine(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        for _ in range(2):
            world.sync(cancelled(), connection)
            world.push()
        assert world.states() == [REMOVED]

    def test_a_booking_that_is_made_again_after_its_cancellation_gets_a_new_event(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        first = world.report().events[0].event_id
        world.sync(cancelled(2))
        world.push()
        world.sync(booking(3), connection)
        world.push()
        assert world.states() == [SYNCED]
        assert world.report().events[0].event_id != first
        assert len(world.in_calendar()) == 1

    def test_unknown_bookings_are_not_found_and_so_are_those_of_others(self, world: World) -> None:
        world.sync(cancelled(1))
        with pytest.raises(NotFound) as foreign:
            world.bookings.get(world.stranger, BookingId("b"))
        with pytest.raises(NotFound) as unknown:
            world.bookings.get(world.caller, BookingId("c"))
        assert foreign.value.message == unknown.value.message

    def test_two_first_revisions_at_once_are_one_booking(self, world: World) -> None:
        connection = world.connect()
        refused: list[ValidationError] = []

        def send(title: str) -> None:
            try:
                world.sync(booking(title=title), connection)
            except ValidationError as error:
                refused.append(error)

        threads = [threading.Thread(target=send, args=(f"title {n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) == 5
        assert len(world.report().events) == 1


class TestSets:
    def test_a_connection_that_a_revision_drops_loses_its_event(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna, ben)
        world.push()
        world.sync(booking(2), anna)
        world.push()
        assert {e.connection_id: e.state for e in world.report().events} == {anna.id: SYNCED, ben.id: REMOVED}
        assert len(world.in_calendar()) == 1

    def test_an_owner_stands_for_the_connections_that_are_there_and_can_be_written_to(self, world: World) -> None:
        world.accounts.read_only.add("ben")
        anna, _ben = world.connect("anna", owner="o"), world.connect("ben", owner="o")
        command = SyncCommand(booking(), Target(owner="o"), wait_s=0)
        report = world.bookings.sync(world.caller, command)
        assert [event.connection_id for event in report.events] == [anna.id]

    def test_no_writable_connection_at_all_is_fine_for_an_owner(self, world: World) -> None:
        report = world.bookings.sync(world.caller, SyncCommand(booking(), Target(owner="nobody"), wait_s=0))
        assert report.events == ()

    def test_a_named_connection_without_a_writable_calendar_is_refused_and_nothing_is_kept(self, world: World) -> None:
        world.accounts.read_only.add("ben")
        anna, ben = world.connect("anna"), world.connect("ben")
        with pytest.raises(CalendarReadOnly):
            world.sync(booking(), anna, ben)
        with pytest.raises(NotFound):
            world.report()

    def test_an_unknown_connection_is_not_found_and_nothing_is_kept(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.disconnect(ben)
        with pytest.raises(NotFound):
            world.sync(booking(), anna, ben)
        with pytest.raises(NotFound):
            world.report()

    def test_a_cancellation_reaches_every_event_whatever_set_it_names(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna, ben)
        world.push()
        world.sync(cancelled(), anna)
        world.push()
        assert world.states() == [REMOVED, REMOVED]
        assert world.in_calendar() == []


class TestOwnersWhoMeddle:
    def synced(self, world: World) -> tuple[Connection, EventId]:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        return connection, world.report().events[0].event_id

    def test_an_event_that_its_owner_deleted_is_gone_after_the_next_read(self, world: World) -> None:
        connection, event_id = self.synced(world)
        world.provider.take_out(WORK, event_id)
        world.busy(connection)
        assert world.states() == [GONE]
        assert world.push() == []

    def test_the_appointment_stands_although_its_event_is_gone(self, world: World) -> None:
        connection, event_id = self.synced(world)
        world.provider.take_out(WORK, event_id)
        for _ in range(2):
            assert world.busy(connection).busy == (Interval(NOON, NOON + HOUR),)

    def test_the_next_revision_makes_it_again_under_a_new_id(self, world: World) -> None:
        connection, event_id = self.synced(world)
        world.provider.take_out(WORK, event_id)
        world.sync(booking(2), connection)
        world.push()
        event = world.report().events[0]
        assert event.state is SYNCED
        assert event.event_id != event_id
        assert len(world.in_calendar()) == 1

    def test_one_that_is_hidden_for_a_moment_is_not_made_a_second_time(self, world: World) -> None:
        connection, event_id = self.synced(world)
        shelf = world.provider._shelves[WORK].written
        hidden = shelf[event_id]
        # The first look is answered falsely, then calendars are listed, and then it is there as it was.
        world.provider.interruptions = [
            lambda: shelf.pop(event_id),
            lambda: None,
            lambda: shelf.update({event_id: hidden}),
        ]
        world.sync(booking(2), connection)
        assert world.push() == ["synced"]
        assert [each.event_id for each in world.report().events] == [event_id]
        assert len(world.in_calendar()) == 1

    @pytest.mark.parametrize("failure", [ProviderUnavailable("down"), CalendarGone("gone"), ProviderRefused("no")])
    def test_a_server_that_has_lost_everything_for_a_moment_is_not_believed(
        self, world: World, failure: Exception
    ) -> None:
        connection, event_id = self.synced(world)
        shelf = world.provider._shelves[WORK].written
        hidden = shelf[event_id]

        def lost() -> None:
            shelf.update({event_id: hidden})
            raise failure

        world.provider.interruptions = [lambda: shelf.pop(event_id), lost]
        world.sync(booking(2), connection)
        assert world.push() == ["deferred"]
        (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
        world.store.outbox.put(dataclasses.replace(row, due_at=world.store.now()))
        assert world.push() == ["synced"]
        assert [each.event_id for each in world.report().events] == [event_id]
        assert len(world.in_calendar()) == 1

    def test_a_cancelled_one_that_is_hidden_for_a_moment_is_taken_out(self, world: World) -> None:
        _connection, event_id = self.synced(world)
        shelf = world.provider._shelves[WORK].written
        hidden = shelf[event_id]
        world.provider.interruptions = [
            lambda: shelf.pop(event_id),
            lambda: None,
            lambda: shelf.update({event_id: hidden}),
        ]
        world.sync(cancelled())
        assert world.push() == ["removed"]
        assert world.in_calendar() == []

    def test_one_that_stays_although_it_was_said_to_be_taken_out_is_taken_out(self, world: World) -> None:
        _connection, event_id = self.synced(world)
        shelf = world.provider._shelves[WORK].written
        hidden = shelf[event_id]
        # The DELETE is answered as if there were nothing, or by somebody on the way.
        world.provider.interruptions = [
            lambda: None,
            lambda: shelf.pop(event_id),
            lambda: shelf.update({event_id: hidden}),
        ]
        world.sync(cancelled())
        assert world.push() == ["removed"]
        assert world.in_calendar() == []

    def test_cancelling_what_is_gone_with_all_calendars_succeeds_in_the_end(self, world: World) -> None:
        _connection, event_id = self.synced(world)
        world.provider.take_out(WORK, event_id)
        world.sync(cancelled())

        def gone() -> None:
            raise CalendarGone("gone")

        world.provider.interruptions = [lambda: None, gone]
        assert world.push() == ["deferred"]
        (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
        world.store.outbox.put(dataclasses.replace(row, due_at=world.store.now(), attempts=GONE_TRIES - 1))
        world.provider.interruptions = [lambda: None, gone]
        assert world.push() == ["removed"]

    def test_cancelling_what_is_gone_succeeds(self, world: World) -> None:
        _connection, event_id = self.synced(world)
        world.provider.take_out(WORK, event_id)
        world.sync(cancelled())
        assert world.push() == ["removed"]

    def test_an_event_goes_with_its_calendar(self, world: World) -> None:
        self.synced(world)
        world.provider.drop(WORK)
        world.sync(cancelled())
        assert world.push() == ["removed"]

    def test_a_listed_calendar_that_is_said_to_be_gone_is_not_believed_to_have_taken_the_event_with_it(
        self, world: World
    ) -> None:
        connection, _event_id = self.synced(world)
        world.sync(cancelled())
        world.provider.fail_next(CalendarGone("gone"))
        assert world.push() == ["deferred"]
        assert world.report().events[0].state is PENDING
        world.sync(booking(3), connection)
        assert world.push() == ["synced"]
        assert world.in_calendar() == [Interval(NOON, NOON + HOUR)]

    def test_a_listed_calendar_that_stays_gone_is_told_in_the_end(self, world: World) -> None:
        self.synced(world)
        world.sync(cancelled())
        outcomes = []
        for _ in range(GONE_TRIES):
            world.provider.fail_next(CalendarGone("gone"))
            outcomes += world.push()
            (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
            world.store.outbox.put(dataclasses.replace(row, due_at=world.store.now()))
        assert outcomes == ["deferred"] * (GONE_TRIES - 1) + ["failed"]

    def test_an_event_that_its_owner_edited_is_set_right_by_the_next_revision(self, world: World) -> None:
        connection, event_id = self.synced(world)
        world.provider.touch(WORK, event_id)
        world.sync(booking(2, title="New"), connection)
        assert world.push() == ["synced"]

    def test_an_event_that_its_owner_edited_is_cancelled_all_the_same(self, world: World) -> None:
        _connection, event_id = self.synced(world)
        world.provider.touch(WORK, event_id)
        world.sync(cancelled())
        assert world.push() == ["removed"]
        assert world.in_calendar() == []


class TestFailures:
    def test_a_provider_that_is_down_is_tried_again_later(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(ProviderUnavailable("down"))
        assert world.push() == ["deferred"]
        event = world.report().events[0]
        assert event.state is PENDING
        assert event.problem is not None
        assert event.problem.reason == "PROVIDER_UNAVAILABLE"
        assert event.next_attempt_at is not None
        assert event.next_attempt_at > world.store.now()

    def test_a_provider_that_asks_for_patience_gets_it(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(ProviderThrottled("slow down", retry_after_s=600))
        world.push()
        due = world.report().events[0].next_attempt_at
        assert due is not None
        assert due >= world.store.now() + 590 * SECOND

    @pytest.mark.parametrize("error", [ProviderRefused("no"), CalendarGone("gone"), CalendarReadOnly("read only")])
    def test_what_trying_again_cannot_mend_has_failed_at_once(self, world: World, error: ProviderRefused) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(error)
        assert world.push() == ["failed"]
        event = world.report().events[0]
        assert event.state is FAILED
        assert event.problem is not None
        assert event.problem.reason == error.reason
        assert world.busy(connection).busy == (Interval(NOON, NOON + HOUR),)

    def test_sending_the_same_revision_again_tries_what_has_failed(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(ProviderRefused("no"))
        world.push()
        assert [event.state for event in world.sync(booking(), connection).events] == [PENDING]
        assert world.push() == ["synced"]

    def test_a_refused_grant_waits_for_the_renewal_and_goes_on(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(NeedsReauth())
        assert world.push() == ["deferred"]
        event = world.report().events[0]
        assert (event.state, event.next_attempt_at) == (PENDING, None)
        assert world.push() == []
        assert world.connect().id == connection.id
        assert world.push() == ["synced"]

    def test_one_connection_in_an_outage_does_not_keep_the_other(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna, ben)
        world.provider.fail_next(ProviderUnavailable("down"))
        assert sorted(world.push()) == ["deferred", "synced"]

    def test_a_lost_answer_makes_no_second_event(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        rows = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
        assert world.pushes.push(rows[0]) == "synced"
        # As if we had died before the outcome was stored.
        world.store.outbox.put(rows[0])
        world.store.outbox.release(rows[0].id, rows[0].lease_token)
        assert world.push() == ["synced"]
        assert len(world.in_calendar()) == 1

    def test_a_push_that_lost_its_lease_writes_nothing(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        world.store.outbox.release(late.id, late.lease_token)
        world.sync(booking(2, title="Newer"), connection)
        world.push()
        assert world.pushes.push(late) == "yielded"
        assert world.report().events[0].synced_revision == 2

    def test_the_first_write_needs_no_look_where_it_can_make_no_second_event(self, world: World) -> None:
        world.provider.makes_once = True
        connection = world.connect()
        world.sync(booking(), connection)
        asked: list[str] = []
        world.provider.interruptions += [lambda: asked.append("first"), lambda: asked.append("second")]
        assert world.push() == ["synced"]
        assert asked == ["first"]

    def test_after_a_try_whose_end_is_not_known_a_write_is_preceded_by_a_look(self, world: World) -> None:
        world.provider.makes_once = True
        connection = world.connect()
        world.sync(booking(), connection)
        world.provider.fail_next(ProviderUnavailable("gone silent"))
        assert world.push() == ["deferred"]
        world.store.outbox.make_due(connection.id, world.store.now())
        (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
        world.store.outbox.put(dataclasses.replace(row, attempts=1))
        asked: list[str] = []
        world.provider.interruptions += [lambda: asked.append("look"), lambda: asked.append("write")]
        assert world.push() == ["synced"]
        assert asked == ["look", "write"]

    def test_a_first_write_that_meets_its_own_event_changes_that_one(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
        assert world.push() == ["synced"]
        # As in a database that was restored from before the push.
        world.store.outbox.put(row)
        world.provider.makes_once = True
        assert world.push() == ["synced"]
        assert len(world.in_calendar()) == 1

    def test_a_lease_lost_right_before_the_first_write_keeps_it_from_being_written(self, world: World) -> None:
        world.provider.makes_once = True
        connection = world.connect()
        world.sync(booking(), connection)
        (late,) = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
        world.provider.interruptions.append(lambda: world.store.outbox.release(late.id, late.lease_token))
        assert world.pushes.push(late) == "yielded"
        assert world.in_calendar() == []

    def test_what_is_answered_at_once_is_what_is_stored(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        for sent, *to in ((booking(), anna, ben), (booking(2), ben), (booking(2), ben), (booking(1), anna)):
            assert world.sync(sent, *to) == world.report()
            world.push()
        world.disconnect(ben)
        ben = world.connect("ben")
        for sent in (booking(3), cancelled(4), cancelled(4)):
            assert world.sync(sent, *([ben] if sent.revision == 3 else [])) == world.report()

    def overtaken(self, world: World, late: OutboxRow, newer: Callable[[], object]) -> None:
        """Another worker takes the late one's row and pushes something newer, right before the late one looks."""

        def meanwhile() -> None:
            world.store.outbox.release(late.id, late.lease_token)
            newer()
            world.push()

        world.provider.interruptions.append(meanwhile)
        assert world.pushes.push(late) == "yielded"

    def test_a_push_that_slept_does_not_write_its_older_state_over_a_newer_one(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(booking(2, start=NOON + 60 * SECOND), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        self.overtaken(world, late, lambda: world.sync(booking(3, start=NOON + 120 * SECOND), connection))
        assert world.in_calendar() == [Interval(NOON + 120 * SECOND, NOON + HOUR)]
        assert world.report().events[0].synced_revision == 3

    def test_a_cancellation_that_slept_does_not_take_out_what_was_made_again(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(cancelled(2), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        self.overtaken(world, late, lambda: world.sync(booking(3), connection))
        assert world.in_calendar() == [Interval(NOON, NOON + HOUR)]
        assert world.states() == [SYNCED]

    def careless(self, world: World, late: OutboxRow, meanwhile: Callable[[], object]) -> None:
        """The late one writes when another has pushed something newer, at a server that heeds no versions."""

        class Careless(MemoryProvider):
            def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
                return world.provider.find_event(link, ref, deadline)

            def put_event(
                self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
            ) -> RemoteEvent:
                link.check()
                world.store.outbox.release(late.id, late.lease_token)
                meanwhile()
                free = dataclasses.replace(link, check=lambda: None)
                there = world.provider.find_event(free, ref, deadline)
                return world.provider.put_event(free, ref, booking, there, deadline)

        pushes = Pushes(
            world.store,
            BookingContents(VAULT),
            Grants(world.store, VAULT, {}),
            dict.fromkeys(ProviderName, Careless([])),
            HostGate(slow_most=4),
            push_s=10,
        )
        assert pushes.push(late) == "yielded"

    def test_what_was_written_after_the_lease_was_lost_is_looked_at_again(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]

        def meanwhile() -> None:
            world.sync(booking(2, start=NOON + 60 * SECOND), connection)
            assert world.push() == ["synced"]

        self.careless(world, late, meanwhile)
        assert world.in_calendar() == [Interval(NOON, NOON + HOUR)]
        assert world.push() == ["synced"]
        assert world.in_calendar() == [Interval(NOON + 60 * SECOND, NOON + HOUR)]
        assert world.report().events[0].synced_revision == 2

    def test_and_taken_out_if_the_booking_was_cancelled_meanwhile(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]

        def meanwhile() -> None:
            world.sync(cancelled(2), connection)
            assert world.push() == ["removed"]

        self.careless(world, late, meanwhile)
        assert len(world.in_calendar()) == 1
        assert world.push() == ["removed"]
        assert world.in_calendar() == []

    def test_also_when_another_is_just_pushing_it(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        pushing: list[threading.Timer] = []

        def meanwhile() -> None:
            world.sync(booking(2, start=NOON + 60 * SECOND), connection)
            other = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
            assert world.pushes.push(other) == "synced"
            # As if it had not ended yet.
            assert world.store.outbox.look_again(other.id)
            held = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
            ended = {"state": SYNCED, "due_at": None}
            pushing.append(threading.Timer(0.8, world.store.outbox.release, (held.id, held.lease_token), ended))
            pushing[0].start()

        self.careless(world, late, meanwhile)
        pushing[0].join()
        assert world.push() == ["synced"]
        assert world.in_calendar() == [Interval(NOON + 60 * SECOND, NOON + HOUR)]

    def test_a_detached_one_is_left_alone(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        late = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        self.careless(world, late, lambda: world.disconnect(connection))
        assert world.states() == [DETACHED]
        assert world.push() == []

    def test_a_revision_that_comes_during_a_push_is_pushed_after_it(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        first = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        world.sync(booking(2, start=NOON + 60 * SECOND), connection)
        assert world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4) == []
        assert world.pushes.push(first) == "yielded"
        assert world.push() == ["synced"]
        assert world.in_calendar() == [Interval(NOON + 60 * SECOND, NOON + HOUR)]


class TestDisconnect:
    def test_nothing_more_is_written_and_the_event_stays(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(booking(2, start=NOON + 60 * SECOND), connection)
        world.disconnect(connection)
        assert world.push() == []
        assert world.states() == [DETACHED]
        assert world.in_calendar() == [Interval(NOON, NOON + HOUR)]

    def test_a_push_in_progress_writes_nothing_more(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        row = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)[0]
        world.disconnect(connection)
        assert world.pushes.push(row) == "yielded"
        assert world.in_calendar() == []
        assert world.states() == [DETACHED]

    def test_a_cancellation_reaches_the_event_of_an_account_that_is_connected_again(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.disconnect(connection)
        again = world.connect()
        assert again.id != connection.id
        world.sync(cancelled())
        assert world.push() == ["removed"]
        assert world.in_calendar() == []
        assert [(event.connection_id, event.state) for event in world.report().events] == [(again.id, REMOVED)]

    def test_a_new_revision_finds_its_event_in_an_account_that_is_connected_again(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.disconnect(connection)
        again = world.connect()
        world.sync(booking(2, start=NOON + 60 * SECOND), again)
        assert world.push() == ["synced"]
        assert world.in_calendar() == [Interval(NOON + 60 * SECOND, NOON + HOUR)]

    def test_an_attempt_that_may_have_made_an_event_is_not_forgotten(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
        world.store.outbox.put(dataclasses.replace(row, attempts=3, event_id=EventId("")))
        world.disconnect(connection)
        world.sync(booking(2), world.connect())
        (row,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
        assert row.attempts == 1

    def test_a_revision_for_others_leaves_the_old_event_where_it_is(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna)
        world.push()
        world.disconnect(anna)
        world.connect("anna")
        world.sync(booking(2), ben)
        world.push()
        assert sorted(world.states()) == [DETACHED, SYNCED]


class TestRequireFree:
    def test_a_free_slot_is_taken(self, world: World) -> None:
        connection = world.connect()
        assert world.sync(booking(), connection, require_free=True).events[0].state is PENDING

    def test_a_slot_that_an_event_holds_is_refused_and_nothing_is_kept(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(NOON - HOUR, NOON + SECOND, calendar_id=HOME)
        with pytest.raises(SlotTaken) as taken:
            world.sync(booking(), connection, require_free=True)
        assert taken.value.metadata == {"connectionId": connection.id, "calendarId": HOME}
        with pytest.raises(NotFound):
            world.report()

    def test_what_only_meets_the_slot_does_not_hold_it(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(NOON - HOUR, NOON)
        world.owner_adds(NOON + HOUR, NOON + 2 * HOUR, "later")
        world.sync(booking(), connection, require_free=True)

    def test_a_booking_does_not_stand_in_its_own_way(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(booking(2, start=NOON + 60 * SECOND), connection, require_free=True)

    def test_a_committed_booking_holds_its_slot_before_it_is_pushed(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(id=BookingId("first")), connection)
        with pytest.raises(SlotTaken):
            world.sync(booking(), connection, require_free=True)

    def test_a_cancelled_booking_frees_its_slot_before_it_is_taken_out(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(id=BookingId("first")), connection)
        world.push()
        world.sync(cancelled(2, "first"))
        world.sync(booking(), connection, require_free=True)

    def test_what_cannot_be_read_is_not_free(self, world: World) -> None:
        connection = world.connect()
        world.provider.fail_next(ProviderUnavailable("down"))
        with pytest.raises(BusyUnknown):
            world.sync(booking(), connection, require_free=True)
        with pytest.raises(NotFound):
            world.report()

    def test_of_many_that_race_for_one_slot_one_wins(self, world: World) -> None:
        connection = world.connect()
        lost: list[SlotTaken] = []

        def send(name: str) -> None:
            try:
                world.sync(booking(id=BookingId(name)), connection, require_free=True)
            except SlotTaken as error:
                lost.append(error)

        threads = [threading.Thread(target=send, args=(f"b{n}",)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lost) == 5

    def test_an_accepted_revision_is_not_checked_again(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection, require_free=True)
        world.owner_adds(NOON, NOON + HOUR)
        world.sync(booking(), connection, require_free=True)


class TestSealed:
    def test_titles_and_guests_are_in_no_row(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(title="Canary title", attendees=(Attendee("canary@example.org"),)), connection)
        row = world.store.bookings.get(world.caller.organization_id, BookingId("b"))
        assert row is not None
        assert "anary" not in str(dataclasses.asdict(row))


def test_an_event_of_its_owner_is_not_ours_because_it_says_so(world: World) -> None:
    connection = world.connect()
    world.provider.add(WORK, BusyEvent(NOON, NOON + HOUR, Reason.BUSY, world.provider.event_id(WORK, "0" * 52)))
    answer = world.busy(connection, exclude_booking_ids=frozenset({BookingId("b")}))
    assert answer.busy == (Interval(NOON, NOON + HOUR),)
