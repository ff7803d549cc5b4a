"""A watch over a world that is changed while it looks: what it tells, and when it asks."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import pytest

from calendar_server.core.model import BusyState, CalendarId, ConnectionId, Interval, OrganizationId
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, CalendarBusy, Problem, Target
from calendar_server.usecases.watching import ASK_S, Watching

CALLER = Caller(OrganizationId("org_1"), request_id="r-1")
QUERY = BusyQuery(Target(), Interval(0, 1000))
HEARTBEAT_S, ASK_EVERY_S = 15.0, 5.0


@dataclass
class World:
    """A calendar, its reads, and the time. While a watch waits, the next of ``events`` happens."""

    busy: tuple[Interval, ...] = ()
    problem: Problem | None = None
    error: Exception | None = None
    now: float = 100.0
    reads: int = 0
    count: int = 0
    callers: list[Caller] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    events: list[Callable[[World], None]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def get_busy(self, caller: Caller, query: BusyQuery) -> BusyAnswer:
        if self.error is not None:
            raise self.error
        self.callers.append(caller)
        self.reads += 1
        problem = self.problem and dataclasses.replace(self.problem, retry_at=self.reads * 1000)
        calendar = CalendarBusy(ConnectionId("cal_1"), CalendarId("/w/"), BusyState.FRESH, self.reads, problem)
        return BusyAnswer(self.busy, problem is None, (calendar,))

    def wait(self, seen: int, seconds: float, stop: threading.Event) -> int:
        """Something happens, or the time passes. What happened since ``seen`` ends it at once."""
        if seen != self.count:
            return self.count
        self.waited.append(seconds)
        if self.events:
            self.events.pop(0)(self)
        else:
            self.now += seconds
        return self.count

    def watch(self) -> Iterator[BusyAnswer]:
        watching = Watching(
            self.get_busy,
            self,
            heartbeat_s=HEARTBEAT_S,
            at_most_every_s=0,
            ask_every_s=ASK_EVERY_S,
            clock=lambda: self.now,
        )
        return watching.watch(CALLER, QUERY, self.stop)


def becomes(*busy: Interval) -> Callable[[World], None]:
    def event(world: World) -> None:
        world.busy = busy

    return event


def nothing(world: World) -> None:
    world.now += 0.001


def test_the_present_answer_comes_without_waiting() -> None:
    world = World((Interval(1, 2),))
    assert next(world.watch()).busy == (Interval(1, 2),)
    assert world.waited == []


def test_each_change_is_told_once() -> None:
    world = World(events=[becomes(Interval(1, 2)), nothing, nothing, becomes(Interval(3, 4)), becomes()])
    told = [answer.busy for answer in islice(world.watch(), 4)]
    assert told == [(), (Interval(1, 2),), (Interval(3, 4),), ()]


def test_a_newer_read_is_no_change_but_a_heartbeat_tells_it() -> None:
    world = World()
    watch = world.watch()
    next(watch)
    again = next(watch)
    assert world.now - 100 == HEARTBEAT_S
    assert again.calendars[0].as_of == world.reads > 2


def test_when_to_try_again_is_no_change_either() -> None:
    world = World(problem=Problem("PROVIDER_UNAVAILABLE", "No."))
    watch = world.watch()
    next(watch)
    next(watch)
    assert world.now - 100 == HEARTBEAT_S


def test_a_problem_that_appears_is_a_change() -> None:
    def breaks(world: World) -> None:
        world.problem = Problem("PROVIDER_UNAVAILABLE", "No.")

    world = World(events=[nothing, breaks])
    assert [answer.complete for answer in islice(world.watch(), 2)] == [True, False]
    assert world.now < 101


def test_without_a_signal_it_asks_every_few_seconds() -> None:
    world = World()
    list(islice(world.watch(), 3))
    assert max(world.waited) <= ASK_EVERY_S
    assert world.reads == 1 + 2 * HEARTBEAT_S / ASK_EVERY_S


def test_an_error_ends_it_whenever_it_comes() -> None:
    def breaks(world: World) -> None:
        world.error = ProviderUnavailable("No.")

    world = World(events=[nothing, breaks])
    watch = world.watch()
    next(watch)
    with pytest.raises(ProviderUnavailable):
        next(watch)


def test_it_ends_when_it_is_stopped() -> None:
    world = World()
    world.events = [lambda world: world.stop.set()]
    assert len(list(world.watch())) == 1


def test_an_answer_that_comes_after_the_stop_is_not_told() -> None:
    world = World()

    def ask(caller: Caller, query: BusyQuery) -> BusyAnswer:
        world.stop.set()
        return world.get_busy(caller, query)

    assert list(Watching(ask, world).watch(CALLER, QUERY, world.stop)) == []


def test_who_reads_slowly_gets_the_newest_and_none_between() -> None:
    world = World()
    watch = world.watch()
    next(watch)
    for minute in range(60):
        world.busy = (Interval(minute, minute + 1),)
        world.now += 60
    assert next(watch).busy == (Interval(59, 60),)


def test_each_question_has_a_deadline_of_its_own() -> None:
    world = World()
    caller = dataclasses.replace(CALLER, deadline=Deadline(0))
    watching = Watching(world.get_busy, world, at_most_every_s=0, clock=lambda: world.now)
    next(watching.watch(caller, QUERY, world.stop))
    asked = world.callers[0]
    assert asked.deadline is not None
    assert 0 < asked.deadline.remaining() <= ASK_S
    assert (asked.organization_id, asked.request_id) == ("org_1", "r-1")


def test_signals_without_end_do_not_make_it_ask_more_often_than_it_may() -> None:
    world = World(events=[nothing] * 1000)
    started = time.monotonic()
    watching = Watching(world.get_busy, world, heartbeat_s=0.2, at_most_every_s=0.1)
    list(islice(watching.watch(CALLER, QUERY, world.stop), 3))
    assert world.reads <= 1 + (time.monotonic() - started) / 0.1


def test_a_change_during_the_question_is_not_lost() -> None:
    world = World()

    def ask(caller: Caller, query: BusyQuery) -> BusyAnswer:
        answer = world.get_busy(caller, query)
        if world.reads == 2:
            # Too late for this answer, and told while nobody waits.
            world.busy, world.count = (Interval(1, 2),), 1
        return answer

    watch = Watching(ask, world, at_most_every_s=0, clock=lambda: world.now).watch(CALLER, QUERY, world.stop)
    assert [answer.busy for answer in islice(watch, 2)] == [(), (Interval(1, 2),)]
    assert len(world.waited) == 1
