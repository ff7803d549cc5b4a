"""What owners do to our events is told by GetBooking after the next read, and set right by the next revision alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    DAY,
    UNTOLD,
    BlockReason,
    BookingId,
    BusyEvent,
    CalendarRead,
    Connection,
    EventId,
    EventState,
    Instant,
    Interval,
    UnreadableEvent,
)
from calendar_server.usecases.drift import Drifts
from calendar_server.usecases.refresh import Found
from tests.usecases.conftest import HOME, HOUR, NOON, WORK, World, booking

AT_NOON = Interval(NOON, NOON + HOUR)
WINDOW = Interval(NOON - DAY, NOON + DAY)


@dataclasses.dataclass
class Shown:
    """A booking that is in the calendar, and reads of it."""

    world: World
    connection: Connection
    event_id: EventId

    def event(self, start: Instant = NOON, reason: BlockReason = BlockReason.BUSY) -> BusyEvent:
        return BusyEvent(start, start + HOUR, reason, self.event_id)

    def learn(self, *events: BusyEvent, as_of: Instant | None = None, **more: object) -> None:
        read = CalendarRead(events, **more)  # type: ignore[arg-type]
        as_of = self.world.store.now() + 1 if as_of is None else as_of
        Drifts(self.world.store).learn([Found(self.connection.id, WORK, lambda: read, as_of, WINDOW)])

    @property
    def told(self) -> tuple[EventState, Drift]:
        (event,) = self.world.report().events
        return event.state, event.drift


@pytest.fixture
def shown(world: World) -> Shown:
    connection = world.connect()
    world.sync(booking(), connection)
    assert world.push() == ["synced"]
    (event,) = world.report().events
    assert (event.state, event.drift) == (EventState.SYNCED, Drift.NONE)
    return Shown(world, connection, event.event_id)


@pytest.mark.parametrize(
    ("start", "reason", "drift"),
    [
        (NOON, BlockReason.BUSY, Drift.NONE),
        (NOON + HOUR, BlockReason.BUSY, Drift.MOVED),
        (NOON, BlockReason.FREE, Drift.EDITED),
    ],
)
def test_a_read_of_the_service_tells_what_its_owner_did(
    shown: Shown, start: Instant, reason: BlockReason, drift: Drift
) -> None:
    world = shown.world
    world.provider.alter(WORK, shown.event_id, shown.event(start, reason))
    world.busy(shown.connection, max_staleness_s=0)
    assert shown.told == (EventState.SYNCED, drift)
    assert world.push() == [], "nothing is pushed because of it"


def test_what_a_server_took_and_did_not_keep_is_told_by_a_full_read_though_it_finds_nothing_new(world: World) -> None:
    connection = world.connect()
    world.owner_adds(NOON - HOUR, NOON)
    world.busy(connection, max_staleness_s=0)
    world.sync(booking(), connection)
    assert world.push() == ["synced"]
    (event,) = world.report().events
    world.provider.take_out(WORK, event.event_id)
    (before, *_) = world.store.mirror.busy([connection.id])
    world.busy(connection, max_staleness_s=0)
    (after, *_) = world.store.mirror.busy([connection.id])
    assert after.content_version == before.content_version
    assert world.states() == [EventState.GONE]


def test_the_next_revision_sets_it_right(shown: Shown) -> None:
    world = shown.world
    world.provider.alter(WORK, shown.event_id, shown.event(NOON + HOUR))
    world.busy(shown.connection, max_staleness_s=0)
    world.sync(booking(2), shown.connection)
    assert world.push() == ["synced"]
    assert shown.told == (EventState.SYNCED, Drift.NONE)
    assert world.in_calendar() == [AT_NOON]


def test_its_owner_may_set_it_right_too(shown: Shown) -> None:
    shown.learn(shown.event(NOON + HOUR))
    assert shown.told[1] is Drift.MOVED
    shown.learn(shown.event(NOON))
    assert shown.told[1] is Drift.NONE


def test_deleted_is_gone_where_the_read_lists_everything_and_otherwise_only_told(shown: Shown) -> None:
    shown.learn()
    assert shown.told == (EventState.SYNCED, Drift.DELETED)
    shown.learn(event_ids=frozenset())
    assert shown.told == (EventState.GONE, Drift.DELETED)


def test_a_read_that_began_before_the_write_says_nothing(shown: Shown) -> None:
    (row,) = shown.world.store.outbox.of_booking(shown.world.caller.organization_id, booking().id)
    shown.learn(as_of=row.pushed_at, event_ids=frozenset())
    assert shown.told == (EventState.SYNCED, Drift.NONE)


def test_an_older_read_does_not_overrule_a_later_one(shown: Shown) -> None:
    early = shown.world.store.now() + 1
    late = early + 1
    shown.learn(shown.event(NOON + HOUR), as_of=late)
    shown.learn(shown.event(NOON), as_of=early)
    assert shown.told[1] is Drift.MOVED


def test_what_could_not_be_read_tells_nothing(shown: Shown) -> None:
    shown.learn(unreadable=(UnreadableEvent(shown.event_id, "garbage"),))
    assert shown.told[1] is Drift.NONE


@pytest.mark.parametrize("start", [NOON - HOUR, NOON + HOUR // 2])
def test_what_may_be_where_a_provider_does_not_show_it_is_not_gone(shown: Shown, start: Instant) -> None:
    untold = (UnreadableEvent(UNTOLD, "not shown", Interval(start, NOON + DAY)),)
    shown.learn(unreadable=untold, event_ids=frozenset())
    assert shown.told == (EventState.SYNCED, Drift.NONE)


def test_what_is_not_where_a_provider_would_show_it_is_away(shown: Shown) -> None:
    untold = (UnreadableEvent(UNTOLD, "not shown", Interval(NOON + HOUR, NOON + DAY)),)
    shown.learn(unreadable=untold, event_ids=frozenset())
    assert shown.told == (EventState.SYNCED, Drift.DELETED)


def test_other_calendars_and_strangers_events_change_nothing(shown: Shown) -> None:
    shown.learn(shown.event(), BusyEvent(NOON, NOON + HOUR, BlockReason.FREE, EventId("own")))
    assert shown.told[1] is Drift.NONE


def test_a_pending_revision_is_not_judged_by_what_the_last_one_left(shown: Shown) -> None:
    shown.world.sync(booking(2, start=NOON + HOUR, end=NOON + 2 * HOUR), shown.connection)
    shown.learn(shown.event(NOON))
    assert shown.told == (EventState.PENDING, Drift.NONE)


def test_reads_that_began_together_take_one_query(shown: Shown, statements: Callable[..., list[str]]) -> None:
    world, other = shown.world, shown.world.connect("ben")
    world.sync(booking(id=BookingId("c")), other)
    world.push()
    as_of = world.store.now() + 1
    empty = CalendarRead((), event_ids=frozenset())
    reads = [
        Found(connection.id, calendar_id, lambda: empty, as_of, WINDOW)
        for connection in (shown.connection, other)
        for calendar_id in (WORK, HOME)
    ]
    sent = statements(lambda: Drifts(world.store).learn(reads))
    assert sum("FROM outbox" in each for each in sent) == 1
    assert world.states("b") == world.states("c") == [EventState.GONE]
