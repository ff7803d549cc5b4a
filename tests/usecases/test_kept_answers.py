"""The same question gets the same answer as long as nothing that it rests on changes, and no longer."""

from __future__ import annotations

import pytest

from calendar_server.core.model import DAY, BookingId, BusyView, Connection, Interval
from calendar_server.errors import ProviderUnavailable
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, Target, UpdateCommand
from calendar_server.usecases.kept_answers import ANSWERS_MOST, INTERVALS_MOST, KeptAnswers
from calendar_server.usecases.snapshots import Group
from tests.usecases.conftest import HOME, HOUR, NOON, WORK, World, booking, cancelled
from tests.usecases.mirrors import kept, make_older

NOON_TO_ONE = Interval(NOON, NOON + HOUR)
AT_TWO = Interval(NOON + 2 * HOUR, NOON + 3 * HOUR)


@pytest.fixture
def connection(world: World) -> Connection:
    """A connection that is busy from noon to one, as it was just read."""
    connection = world.connect()
    world.owner_adds(*NOON_TO_ONE)
    kept(world, connection)
    return connection


def test_an_answer_is_given_again(world: World, connection: Connection) -> None:
    answer = kept(world, connection)
    assert answer.busy == (NOON_TO_ONE,)
    assert kept(world, connection) is answer


def test_another_window_is_another_question(world: World, connection: Connection) -> None:
    kept(world, connection)
    assert kept(world, connection, window=AT_TWO).busy == ()


@pytest.mark.parametrize("more", [{"view": BusyView.EXPLAINED}, {"ignore_tentative": True}])
def test_so_is_another_view(world: World, connection: Connection, more: dict[str, object]) -> None:
    assert kept(world, connection, **more) is not kept(world, connection)


def test_a_booking_counts_at_once_and_so_does_its_end(world: World, connection: Connection) -> None:
    kept(world, connection)
    world.sync(booking(start=AT_TWO.start, end=AT_TWO.end), connection)
    for _ in range(2):
        assert kept(world, connection).busy == (NOON_TO_ONE, AT_TWO)
    assert kept(world, connection, exclude_booking_ids=frozenset({BookingId("b")})).busy == (NOON_TO_ONE,)
    world.sync(cancelled(), connection)
    for _ in range(2):
        assert kept(world, connection).busy == (NOON_TO_ONE,)


def test_a_calendar_that_only_receives_bookings_is_told_as_it_is_now(world: World, connection: Connection) -> None:
    world.connections.update(world.caller, UpdateCommand(connection.id, busy_calendar_ids=(HOME,)))
    world.sync(booking(start=AT_TWO.start, end=AT_TWO.end), connection)
    before, after = kept(world, connection), kept(world, connection)
    assert before.busy == after.busy == (AT_TWO,)
    told = [{calendar.calendar_id: calendar.as_of or 0 for calendar in answer.calendars} for answer in (before, after)]
    assert told[0][WORK] < told[1][WORK]
    assert told[0][HOME] == told[1][HOME]


def test_what_is_read_anew_counts(world: World, connection: Connection) -> None:
    kept(world, connection)
    world.owner_adds(*AT_TWO, "later")
    assert kept(world, connection).busy == (NOON_TO_ONE,)
    make_older(world, connection, 61)
    assert kept(world, connection).busy == (NOON_TO_ONE, AT_TWO)


def test_one_that_is_too_old_is_not_given(world: World, connection: Connection) -> None:
    assert kept(world, connection).complete
    make_older(world, connection, 61)
    world.provider.fail_next(ProviderUnavailable("down"), times=10)
    with pytest.raises(BusyUnknown):
        kept(world, connection)
    assert not kept(world, connection, allow_partial=True).complete


def test_a_window_of_long_ago_is_asked_for_each_time(world: World) -> None:
    connection = world.connect()
    now = world.store.now()
    past = Interval(now - 10 * DAY, now - 9 * DAY)
    assert kept(world, connection, window=past).busy == ()
    kept(world, connection, window=past)
    held = booking(start=past.start + HOUR, end=past.start + 2 * HOUR)
    world.sync(held, connection)
    for _ in range(2):
        assert kept(world, connection, window=past).busy == (Interval(held.start, held.end),)
    assert kept(world, connection, window=past) is not kept(world, connection, window=past)


class TestBounds:
    """By itself, with a group of no connections."""

    GROUP = Group(())

    @staticmethod
    def question(number: int = 0) -> BusyQuery:
        return BusyQuery(Target(owner="anna"), Interval(NOON, NOON + number + 1))

    def test_what_was_read_too_early_is_not_given(self, world: World, connection: Connection) -> None:
        answers, query = KeptAnswers(), self.question()
        target = Target((connection.id,))
        group, _ = world.availability._snapshots.of(world.caller.organization_id, target, 0.0)
        answer = answers.keep(group, query, kept(world, connection))
        read_at = min(calendar.as_of or 0 for calendar in answer.calendars)
        assert answers.get(group, query, read_at, {}) is answer
        assert answers.get(group, query, read_at + 1, {}) is None
        assert answers.get(group, query, read_at, {(connection.id, HOME): ProviderUnavailable("down")}) is None
        assert answers.get(Group(group.snapshots), query, read_at, {}) is None

    def test_partial_and_long_ones_are_not_kept(self) -> None:
        answers, query = KeptAnswers(), self.question()
        long = tuple(Interval(NOON + 2 * n, NOON + 2 * n + 1) for n in range(INTERVALS_MOST + 1))
        for answer in (BusyAnswer((), False, ()), BusyAnswer(long, True, ())):
            assert answers.keep(self.GROUP, query, answer) is answer
            assert answers.get(self.GROUP, query, 0, {}) is None

    def test_there_are_not_many(self) -> None:
        answers = KeptAnswers()
        for number in range(10 * ANSWERS_MOST):
            answers.keep(self.GROUP, self.question(number), BusyAnswer((), True, ()))
            assert len(answers._answers) <= ANSWERS_MOST
        assert answers.get(self.GROUP, self.question(number), 0, {}) is not None
