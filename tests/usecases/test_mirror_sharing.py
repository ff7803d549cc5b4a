"""Many who need the same reads share them: calls at once, processes, and those who come too late."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from calendar_server.core.model import (
    DAY,
    CalendarId,
    Instant,
    Interval,
    ProviderName,
)
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline, Link, Secret
from calendar_server.providers.memory import MemoryProvider
from calendar_server.usecases.commands import BusyQuery, Target
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.refresh import GRANT_S, Need, Outcome, Refresher
from tests.usecases.conftest import (
    HOME,
    HOUR,
    NOON,
    VAULT,
    WORK,
    Exchanges,
    World,
    build_availability,
)
from tests.usecases.mirrors import NOON_TO_ONE, Slow, kept, rows
from tests.waiting import until


class TestSharing:
    def test_many_overlapping_calls_make_one_read(self, world: World) -> None:
        connections = [world.connect(f"user{number}") for number in range(5)]
        everybody, asked, begun = threading.Event(), threading.Lock(), []
        total = 40

        def slowly(link: Link, calendar_id: CalendarId, window: Interval) -> None:
            with asked:
                begun.append((link.connection.id, calendar_id))
            everybody.wait(10)

        provider = Slow(slowly)
        grants = Grants(world.store, VAULT, {})
        availability, refresher = build_availability(
            world.store, grants, {ProviderName.CALDAV: provider}, read_threads=10
        )
        query = BusyQuery(Target(tuple(connection.id for connection in connections)), NOON_TO_ONE)
        with ThreadPoolExecutor(total) as callers:
            answers = [callers.submit(availability.get_busy, world.caller, query) for _ in range(total)]
            # All of them wait by now, for ten reads that none of them may repeat.
            until(lambda: len(begun) == 10)
            everybody.set()
            assert all(answer.result(20).complete for answer in answers)
        assert sorted(begun) == sorted((c.id, each) for c in connections for each in (WORK, HOME))
        availability.close()
        refresher.close()

    def test_what_fails_fails_at_once_for_all_who_waited(self, world: World) -> None:
        need, total, begun, everybody = Need(world.connect(), (WORK,)), 20, [], threading.Event()

        def fail(link: Link, calendar_id: CalendarId, window: Interval) -> None:
            begun.append(calendar_id)
            everybody.wait(10)
            raise ProviderUnavailable("down")

        refresher, ask = reading(world, Slow(fail))
        now = world.store.now()
        with ThreadPoolExecutor(total) as callers:
            # Each has until a little later than the one before.
            answers = [callers.submit(ask, [need], now) for _ in range(total)]
            until(lambda: waiting(refresher, need) == total - 1)
            everybody.set()
            assert all(answer.result(20).errors for answer in answers)
        assert begun == [WORK]
        refresher.close()

    def test_whoever_has_more_time_than_the_read_had_that_failed_reads_again(self, world: World) -> None:
        need, begun, both = Need(world.connect(), (WORK,)), [], threading.Event()

        def hang_once(link: Link, calendar_id: CalendarId, window: Interval) -> None:
            begun.append(calendar_id)
            if len(begun) == 1:
                both.wait(10)
                raise ProviderUnavailable("The provider took too long to answer.")

        refresher, ask = reading(world, Slow(hang_once))
        now = world.store.now()
        with ThreadPoolExecutor(2) as callers:
            hurried = callers.submit(ask, [need], now, seconds=10)
            until(lambda: begun == [WORK])
            patient = callers.submit(ask, [need], now, seconds=20)
            until(lambda: waiting(refresher, need) == 1)
            both.set()
            assert hurried.result(20).errors
            assert not patient.result(20).errors
        assert begun == [WORK, WORK]
        refresher.close()

    def test_whoever_has_no_time_left_begins_nothing(self, world: World) -> None:
        connection, begun = world.connect(), []
        refresher, ask = reading(world, Slow(lambda link, calendar_id, window: begun.append(calendar_id)))
        assert ask([Need(connection, (WORK,))], world.store.now(), seconds=0).errors
        assert begun == []
        assert rows(world, connection) == {}
        refresher.close()

    def test_whoever_has_to_read_more_holds_up_none_of_those_who_waited_with_it(self, world: World) -> None:
        anna, ben = (Need(world.connect(name), (WORK,)) for name in ("anna", "ben"))
        wide = Interval(NOON_TO_ONE.start, NOON + 1000 * DAY)
        gates = {
            (need.connection.id, window.end): threading.Event()
            for need in (anna, ben)
            for window in (NOON_TO_ONE, wide)
        }

        def slowly(link: Link, calendar_id: CalendarId, window: Interval) -> None:
            gates[link.connection.id, window.end].wait(20)

        refresher, ask = reading(world, Slow(slowly))
        now = world.store.now()

        def begin(window: Interval, *needs: Need) -> Future[Outcome]:
            return callers.submit(ask, needs, now, window=window)

        def until_waiting(need: Need, number: int) -> None:
            until(lambda: waiting(refresher, need) == number)

        with ThreadPoolExecutor(4) as callers:
            begin(NOON_TO_ONE, anna, ben)
            until_waiting(ben, 0)
            # As many as go on at once, and each has to read another calendar anew.
            more = [begin(wide, anna), begin(wide, ben, anna)]
            until_waiting(ben, 1)
            gates[ben.connection.id, NOON_TO_ONE.end].set()
            until_waiting(anna, 2)
            last = begin(NOON_TO_ONE, anna)
            until_waiting(anna, 3)
            gates[anna.connection.id, NOON_TO_ONE.end].set()
            last.result(10)
            assert not any(each.done() for each in more)
            for gate in gates.values():
                gate.set()
            for each in more:
                each.result(20)
        refresher.close()

    def test_what_is_known_of_many_small_calendars_takes_one_query(
        self, world: World, statements: Callable[..., list[str]]
    ) -> None:
        connections = [world.connect(owner) for owner in ("ann", "ben", "cid")]
        kept(world, *connections)
        sent = statements(lambda: world.busy(*connections, max_staleness_s=0))
        assert sum("FROM busy_content" in each for each in sent) == 1

    def test_what_is_known_of_a_large_one_counts_as_well(
        self, world: World, statements: Callable[..., list[str]]
    ) -> None:
        connection = world.connect()
        chance = random.Random(1)
        for _ in range(8000):
            start = NOON + chance.randrange(9 * HOUR)
            world.owner_adds(start, start + chance.randrange(1, HOUR))
        before = world.busy(connection, max_staleness_s=0)
        versions = {row.content_version for row in rows(world, connection).values()}
        sent = statements(lambda: world.busy(connection, max_staleness_s=0))
        assert sum("FROM busy_content" in each for each in sent) == 2
        assert {row.content_version for row in rows(world, connection).values()} == versions
        assert world.busy(connection, max_staleness_s=0).busy == before.busy

    def test_who_waits_long_for_a_thread_takes_the_grant_of_then(self, world: World) -> None:
        connections = sorted((world.connect(name) for name in ("anna", "ben")), key=lambda each: each.id)
        grants = Grants(world.store, VAULT, {})
        used = []

        def slowly(link: Link, calendar_id: CalendarId, window: Interval) -> None:
            if not used:
                # While the first is read, the second's password is changed.
                for other in connections:
                    if other.id != link.connection.id:
                        old = world.store.connections.grant(other.id)
                        assert old is not None
                        secret = Secret({"username": "", "password": "newer"})
                        world.store.connections.reseal(other.id, old.sealed, grants.seal(other.id, secret))
                # Longer than what was read for the whole round is used.
                time.sleep(GRANT_S + 0.1)
            used.append(link.secret["password"])

        provider = Slow(slowly)
        refresher = build_availability(world.store, grants, {ProviderName.CALDAV: provider}, read_threads=1)[1]
        needs = [Need(connection, (WORK,)) for connection in connections]
        now = world.store.now()
        refresher.refresh(needs, NOON_TO_ONE, not_before=now, full=True, deadline=Deadline.after(20))
        assert used == ["right", "newer"]

    def test_who_looked_too_early_finds_what_was_read_meanwhile(self, world: World, exchanges: Exchanges) -> None:
        connection, before = world.connect(), world.store.now()
        kept(world, connection)
        exchanges.watch()
        outcome = world.refresher.refresh(
            [Need(connection, (WORK, HOME))], NOON_TO_ONE, not_before=before, full=True, deadline=Deadline.after(5)
        )
        assert outcome.errors == {}
        assert exchanges.count == 0

    def test_another_process_that_reads_is_waited_for(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        token, taken = world.store.leases.take_many([f"refresh:{connection.id}"], 20)
        assert taken
        other, refresher = build_availability(
            world.store, Grants(world.store, VAULT, {}), dict.fromkeys(ProviderName, world.provider)
        )
        with ThreadPoolExecutor(1) as caller:
            answer = caller.submit(kept, world, connection)
            # Meanwhile the holder of the lease reads. Its result is what the waiting one answers with.
            now = world.store.now()
            need = Need(connection, (WORK, HOME))
            world.store.leases.give_back_many([f"refresh:{connection.id}"], token)
            refresher.refresh(
                [need], Interval(NOON - DAY, NOON + DAY), not_before=now, full=False, deadline=Deadline.after(5)
            )
            assert answer.result(20).complete
        other.close()
        refresher.close()

    def test_a_lease_whose_holder_died_costs_time_not_the_answer(self, world: World) -> None:
        connection = world.connect()
        world.store.leases.take_many([f"refresh:{connection.id}"], 600)
        availability, refresher = build_availability(
            world.store, Grants(world.store, VAULT, {}), dict.fromkeys(ProviderName, world.provider), call_s=1
        )
        assert availability.get_busy(world.caller, BusyQuery(Target((connection.id,)), NOON_TO_ONE)).complete
        availability.close()
        refresher.close()

    def test_leases_end_with_the_refresh(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        assert not world.store.leases.held(f"refresh:{connection.id}")

    def test_calls_beyond_the_limit_are_refused(self, world: World) -> None:
        connection, over, reading = world.connect(), threading.Event(), threading.Event()

        def hang() -> None:
            reading.set()
            over.wait(10)

        world.provider.interruptions.append(hang)
        world.availability._provider_calls = threading.BoundedSemaphore(1)
        with ThreadPoolExecutor(1) as caller:
            first = caller.submit(kept, world, connection)
            assert reading.wait(5)
            with pytest.raises(Exception, match="Too many calls wait for providers"):
                kept(world, world.connect("ben"))
            over.set()
            assert first.result(10).complete


def reading(world: World, provider: MemoryProvider) -> tuple[Refresher, Callable[..., Outcome]]:
    """A refresher over this provider, and how to ask it for what was read at some instant or later."""
    refresher = build_availability(world.store, Grants(world.store, VAULT, {}), {ProviderName.CALDAV: provider})[1]

    def ask(
        needs: Sequence[Need], not_before: Instant, *, window: Interval = NOON_TO_ONE, seconds: float = 20
    ) -> Outcome:
        within = Deadline.after(seconds)
        return refresher.refresh(needs, window, not_before=not_before, full=False, deadline=within)

    return refresher, ask


def waiting(refresher: Refresher, need: Need) -> int:
    """How many wait for the refresh of this connection that is under way; -1 when none is."""
    flight = refresher._flights.get(need.connection.id)
    return -1 if flight is None else len(flight.done._waiting)
