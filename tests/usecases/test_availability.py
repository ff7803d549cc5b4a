"""GetBusy over the provider in memory: unknown is never free, and what was acknowledged is busy."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from calendar_server.core.model import (
    DAY,
    UNTOLD,
    BlockReason,
    BookingId,
    BusyState,
    BusyView,
    Calendar,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    EventId,
    Interval,
    ProviderName,
    UnreadableEvent,
)
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    NeedsReauth,
    NotFound,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.memory import MemoryProvider
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import BusyQuery, Target, UpdateCommand
from calendar_server.usecases.grants import Grants
from tests.usecases.conftest import HOME, HOUR, NOON, SHOWN, VAULT, WORK, World, booking, build_availability, cancelled

FAILURES: list[CalendarError] = [
    ProviderUnavailable("down"),
    ProviderThrottled("slow down", retry_after_s=30),
    CalendarGone("gone"),
    NeedsReauth(),
]


def names(error: CalendarError) -> str:
    return error.reason


class TestUnknownIsNotFree:
    @pytest.mark.parametrize("failure", FAILURES, ids=names)
    def test_a_strict_call_fails_and_names_the_calendar(self, world: World, failure: CalendarError) -> None:
        connection = world.connect()
        world.provider.fail_next(failure)
        with pytest.raises(BusyUnknown) as unknown:
            world.busy(connection)
        assert unknown.value.first.reason == failure.reason
        assert unknown.value.metadata["connectionId"] == connection.id
        assert unknown.value.metadata["calendarId"] in (WORK, HOME)
        assert [calendar.state for calendar in unknown.value.calendars] == [BusyState.UNKNOWN]

    @pytest.mark.parametrize("failure", FAILURES, ids=names)
    def test_a_partial_answer_says_what_is_missing(self, world: World, failure: CalendarError) -> None:
        connection = world.connect()
        world.owner_adds(NOON, NOON + HOUR, calendar_id=WORK)
        world.owner_adds(NOON, NOON + HOUR, calendar_id=HOME)
        world.provider.fail_next(failure)
        answer = world.busy(connection, allow_partial=True)
        assert not answer.complete
        assert sorted(calendar.state for calendar in answer.calendars) == [BusyState.FRESH, BusyState.UNKNOWN]
        missing = next(calendar for calendar in answer.calendars if calendar.state is BusyState.UNKNOWN)
        assert missing.problem is not None
        assert missing.problem.reason == failure.reason
        assert missing.as_of is None
        assert answer.busy == (Interval(NOON, NOON + HOUR),)

    def test_a_failure_that_is_kept_keeps_nothing_of_the_read(self, world: World) -> None:
        """Frames hold whole answers of servers: megabytes, until somebody collects the garbage."""
        connection = world.connect()
        answers: list[weakref.ref[bytearray]] = []

        class Text(bytearray):
            """An answer as it came in."""

        def fails() -> None:
            answer = Text(b"not to be read")
            answers.append(weakref.ref(answer))
            raise ProviderUnavailable("down")

        world.provider.interruptions.append(fails)
        gc.disable()
        try:
            with pytest.raises(BusyUnknown):
                world.busy(connection)
            assert [answer() for answer in answers] == [None]
        finally:
            gc.enable()

    def test_what_needs_a_person_is_told_first(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.store.connections.note_refusal(ben.id, ben.grant_version, "refused")
        world.provider.fail_next(ProviderUnavailable("down"), times=2)
        with pytest.raises(BusyUnknown) as unknown:
            world.busy(anna, ben)
        assert unknown.value.first.reason == "NEEDS_REAUTH"
        assert unknown.value.metadata["connectionId"] == ben.id
        assert len(unknown.value.calendars) == 4

    def test_an_error_of_ours_is_unknown_too(self, world: World) -> None:
        connection = world.connect()
        world.provider.fail_next(RuntimeError("a bug"))  # type: ignore[arg-type]
        answer = world.busy(connection, allow_partial=True)
        assert sorted(calendar.state for calendar in answer.calendars) == [BusyState.FRESH, BusyState.UNKNOWN]

    def test_unknown_and_foreign_ids_fail_the_whole_call_even_a_partial_one(self, world: World) -> None:
        connection = world.connect()
        for ids in ((connection.id, ConnectionId("cal_unknown")), (ConnectionId("cal_unknown"),)):
            query = BusyQuery(Target(ids), Interval(NOON, NOON + HOUR), allow_partial=True)
            with pytest.raises(NotFound):
                world.availability.get_busy(world.caller, query)
        with pytest.raises(NotFound):
            world.availability.get_busy(
                world.stranger, BusyQuery(Target((connection.id,)), Interval(NOON, NOON + HOUR), allow_partial=True)
            )


class TestUnreadableEvents:
    def unreadable(self, world: World, interval: Interval | None = None) -> None:
        world.provider.add_unreadable(WORK, UnreadableEvent(EventId("/work/bad.ics"), "broken", interval))

    def test_a_strict_call_fails_and_names_the_event(self, world: World) -> None:
        connection = world.connect()
        self.unreadable(world)
        with pytest.raises(BusyUnknown) as unknown:
            world.busy(connection)
        assert unknown.value.first.reason == "EVENT_UNREADABLE"
        assert unknown.value.metadata["eventId"] == "/work/bad.ics"
        assert unknown.value.retry_after_s is not None
        assert unknown.value.retry_after_s >= 60

    def test_a_partial_answer_leaves_the_others_exact_and_names_it(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(NOON, NOON + HOUR)
        self.unreadable(world)
        answer = world.busy(connection, allow_partial=True, view=BusyView.EXPLAINED)
        assert answer.busy == (Interval(NOON, NOON + HOUR),)
        assert not answer.complete
        calendar = next(calendar for calendar in answer.calendars if calendar.calendar_id == WORK)
        assert calendar.state is BusyState.FRESH
        assert calendar.problem is not None
        assert calendar.problem.reason == "EVENT_UNREADABLE"
        assert ("/work/bad.ics", BlockReason.UNREADABLE) in [(e.event_id, e.reason) for e in calendar.events]


class TestWhatIsNotShown:
    @pytest.fixture
    def connection(self, world: World) -> Connection:
        """Whose provider shows nothing of a calendar from an hour after noon on."""
        told = UnreadableEvent(UNTOLD, "The server shows nothing of it.", Interval(NOON + HOUR, NOON + 100 * DAY))
        world.provider.add_unreadable(WORK, told)
        return world.connect()

    def test_it_is_not_free(self, world: World, connection: Connection) -> None:
        with pytest.raises(BusyUnknown) as unknown:
            world.busy(connection, window=Interval(NOON, NOON + 2 * HOUR))
        assert unknown.value.first.reason == "EVENT_UNREADABLE"
        assert "eventId" not in unknown.value.metadata
        assert unknown.value.message == (
            "The server shows nothing of it. Ask about another time, or with allow_partial."
        )

    def test_a_partial_answer_has_it_busy(self, world: World, connection: Connection) -> None:
        window = Interval(NOON, NOON + 2 * HOUR)
        answer = world.busy(connection, window=window, allow_partial=True, view=BusyView.EXPLAINED)
        assert answer.busy == (Interval(NOON + HOUR, NOON + 2 * HOUR),)
        assert not answer.complete

    def test_what_is_shown_is_exact(self, world: World, connection: Connection) -> None:
        world.owner_adds(NOON, NOON + HOUR // 2)
        answer = world.busy(connection, window=Interval(NOON, NOON + HOUR))
        assert answer.busy == (Interval(NOON, NOON + HOUR // 2),)
        assert answer.complete


class TestViews:
    def test_merged_tells_no_calendar_apart(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(NOON, NOON + HOUR)
        answer = world.busy(connection)
        assert [(c.busy, c.events) for c in answer.calendars] == [((), ()), ((), ())]

    def test_per_calendar_does(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(NOON, NOON + HOUR, calendar_id=HOME)
        answer = world.busy(connection, view=BusyView.PER_CALENDAR)
        assert {c.calendar_id: c.busy for c in answer.calendars} == {WORK: (), HOME: (Interval(NOON, NOON + HOUR),)}

    def test_a_connection_that_blocks_nothing_is_complete_and_has_no_entry(self, world: World) -> None:
        connection = world.connect()
        world.connections.update(world.caller, UpdateCommand(connection.id, busy_calendar_ids=()))
        answer = world.busy(connection)
        assert (answer.complete, answer.calendars) == (True, ())

    def test_a_read_is_as_of_after_the_call_arrived(self, world: World) -> None:
        connection = world.connect()
        before = world.store.now()
        as_of = [calendar.as_of for calendar in world.busy(connection).calendars]
        assert all(moment is not None and before <= moment <= world.store.now() for moment in as_of)

    def test_an_owner_stands_for_their_connections_and_nobody_else(self, world: World) -> None:
        anna = world.connect("anna", owner="o")
        world.connect("ben")
        query = BusyQuery(Target(owner="o"), Interval(NOON, NOON + HOUR))
        answer = world.availability.get_busy(world.caller, query)
        assert {calendar.connection_id for calendar in answer.calendars} == {anna.id}


class TestAcknowledgedIsBusy:
    def test_from_the_acknowledgement_on_also_where_nothing_can_be_read(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        assert world.busy(connection).busy == (Interval(NOON, NOON + HOUR),)
        world.provider.fail_next(ProviderUnavailable("down"), times=2)
        assert world.busy(connection, allow_partial=True).busy == (Interval(NOON, NOON + HOUR),)

    def test_until_its_cancellation_is_acknowledged(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.sync(cancelled())
        assert world.in_calendar() != []
        assert world.busy(connection).busy == ()

    def test_a_dropped_connection_is_free_before_its_event_is_taken_out(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna)
        world.sync(booking(2), ben)
        assert world.busy(anna).busy == ()

    def test_excluding_it_takes_out_the_booking_and_its_event(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        assert world.busy(connection, exclude_booking_ids=frozenset({BookingId("b")})).busy == ()

    def test_a_calendar_that_only_receives_bookings_has_an_entry_of_its_own(self, world: World) -> None:
        connection = world.connect()
        world.connections.update(world.caller, UpdateCommand(connection.id, busy_calendar_ids=(SHOWN,)))
        world.sync(booking(), connection)
        answer = world.busy(connection, view=BusyView.PER_CALENDAR)
        assert {c.calendar_id: c.busy for c in answer.calendars} == {
            SHOWN: (),
            CalendarId(WORK): (Interval(NOON, NOON + HOUR),),
        }
        assert answer.complete

    def test_a_disconnected_connection_blocks_nothing(self, world: World) -> None:
        anna, ben = world.connect("anna"), world.connect("ben")
        world.sync(booking(), anna, ben)
        world.disconnect(anna)
        assert world.busy(ben).busy == (Interval(NOON, NOON + HOUR),)


def test_connections_are_read_at_the_same_time(world: World) -> None:
    connections = [world.connect(f"user{number}") for number in range(4)]
    together = threading.Barrier(8)

    class Meeting(MemoryProvider):
        """Reads only once all eight calendars are being read."""

        def read_calendar(self, *arguments: object) -> CalendarRead:
            together.wait(5)
            return super().read_calendar(*arguments)  # type: ignore[arg-type]

    meeting = Meeting([Calendar(WORK), Calendar(HOME)])
    grants = Grants(world.store, VAULT, {})
    availability, refresher = build_availability(world.store, grants, {ProviderName.CALDAV: meeting})
    query = BusyQuery(Target(tuple(c.id for c in connections)), Interval(NOON, NOON + HOUR))
    assert availability.get_busy(world.caller, query).complete
    availability.close()
    refresher.close()
