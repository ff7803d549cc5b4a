"""The worker's loop over real databases and the provider in memory."""

from __future__ import annotations

import dataclasses
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from calendar_server.core.model import DAY, SECOND, Booking, BookingId, Connection, EventState
from calendar_server.errors import ProviderUnavailable
from calendar_server.store.loads import Load
from calendar_server.store.rows import OutboxRow
from calendar_server.store.store import Store, StoreError
from calendar_server.worker.loop import AHEAD_MOST, Worker
from tests.usecases.conftest import HOUR, WORK, World, booking, build_world

WAIT_S = 20.0
"""Seconds that a test waits for something that should come at once."""
NEVER_S = 3600.0
"""A poll that does not come within a test."""


class Running:
    """A worker in a thread of its own, and what it pushed."""

    def __init__(self, world: World, store: Any = None, **more: Any):
        self._outcomes: queue.Queue[tuple[str, str]] = queue.Queue()
        settings = {
            "push_threads": 4,
            "mailbox_pushes": 4,
            "lease_s": 60,
            "hold_s": 120,
            "owner": secrets.token_hex(4),
        } | {
            "poll_s": NEVER_S,
            "keep_days": 7,
            **more,
        }
        self.worker = Worker(store or world.store, world.pushes, pushed=self._note, **settings)
        self._thread = threading.Thread(target=self.worker.run, name="worker")
        self._thread.start()

    def _note(self, row: OutboxRow, outcome: str) -> None:
        self._outcomes.put((row.booking_id, outcome))

    def next(self) -> tuple[str, str]:
        """Wait for the next push: its booking and how it went."""
        return self._outcomes.get(timeout=WAIT_S)

    def ended(self, within_s: float = WAIT_S) -> bool:
        self._thread.join(within_s)
        return not self._thread.is_alive()


class Outbox:
    """A store's outbox that counts claims and breaks some of them."""

    def __init__(self, store: Store):
        self._outbox = store.outbox
        self.failures: list[Exception] = []
        self.claims = 0
        self.limits: list[int] = []

    def claim(self, **arguments: Any) -> list[OutboxRow]:
        self.claims += 1
        self.limits.append(arguments["limit"])
        if self.failures:
            raise self.failures.pop(0)
        return self._outbox.claim(**arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outbox, name)


class Through:
    """A store with another outbox."""

    def __init__(self, store: Store, outbox: Outbox):
        self.outbox = outbox
        self.loads = store.loads
        self.now = store.now


@contextmanager
def working(world: World, **more: Any) -> Iterator[Running]:
    running = Running(world, **more)
    try:
        yield running
    finally:
        running.worker.stop()
        assert running.ended()


class Gate:
    """Holds an exchange with the provider until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        self._open.wait(WAIT_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(world: World) -> Iterator[Gate]:
    """The next exchange of any push stands still until the test lets it go on."""
    gate = Gate()
    yield gate
    gate.open()


def eventually(claim: Callable[[], bool]) -> bool:
    """Whether something becomes true in good time."""
    pause = threading.Event()
    return any(claim() or pause.wait(0.02) for _ in range(int(WAIT_S / 0.02)))


def named(name: str) -> Booking:
    return booking(id=BookingId(name))


class TestWhenItPushes:
    def test_it_pushes_when_it_is_woken(self, world: World) -> None:
        with working(world) as running:
            world.sync(booking(), world.connect())
            running.worker.wake()
            assert running.next() == ("b", "synced")

    def test_it_pushes_what_it_finds_when_it_starts(self, world: World) -> None:
        world.sync(booking(), world.connect())
        with working(world) as running:
            assert running.next() == ("b", "synced")

    def test_it_finds_by_itself_what_nobody_woke_it_for(self, world: World) -> None:
        with working(world, poll_s=0.05) as running:
            world.sync(booking(), world.connect())
            assert running.next() == ("b", "synced")

    def test_it_tries_again_when_that_is_due(self, world: World) -> None:
        world.sync(booking(), world.connect())
        world.provider.fail_next(ProviderUnavailable("down"))
        with working(world) as running:
            assert running.next() == ("b", "deferred")
            assert running.next() == ("b", "synced")

    def test_a_lease_that_ran_out_is_taken_over(self, world: World) -> None:
        world.sync(booking(), world.connect())
        # As if another worker had died with it.
        world.store.outbox.claim(limit=1, lease_s=0.3, mailbox_limit=1)
        with working(world) as running:
            assert running.next() == ("b", "synced")

    def test_more_than_it_can_push_at_once_is_pushed_after_another(self, world: World) -> None:
        connection = world.connect()
        names = {f"b{number}" for number in range(9)}
        for name in names:
            world.sync(named(name), connection)
        with working(world, push_threads=2, mailbox_pushes=1) as running:
            assert {running.next() for _ in names} == {(name, "synced") for name in names}


class TestBacklogs:
    ROWS = 40

    def claims(self, world: World, push_s: float) -> list[int]:
        """How many rows each claim asked for, by a worker of two threads whose pushes take so long."""
        connection, pushes, outbox = world.connect(), world.pushes, Outbox(world.store)
        names = {f"b{number}" for number in range(self.ROWS)}
        for name in names:
            world.sync(named(name), connection)

        class Lasting:
            def push(self, row: OutboxRow, load: Load | None = None) -> str:
                time.sleep(push_s)
                return pushes.push(row, load)

        lasting = dataclasses.replace(world, pushes=Lasting())  # type: ignore[arg-type]
        store = Through(world.store, outbox)
        with working(lasting, push_threads=2, mailbox_pushes=self.ROWS, store=store) as running:
            assert {running.next() for _ in names} == {(name, "synced") for name in names}
        return outbox.limits

    def test_slow_pushes_have_as_many_claimed_ahead_as_run(self, world: World) -> None:
        limits = self.claims(world, push_s=0.1)
        # Two that came free, and two for the queue.
        assert max(limits) == 4

    def test_quick_pushes_have_more_claimed_ahead_but_within_bounds(self, world: World) -> None:
        limits = self.claims(world, push_s=0)
        assert 4 < max(limits) <= 2 + 2 * AHEAD_MOST


class TestStopping:
    def test_a_push_in_progress_is_finished_and_nothing_more_is_begun(self, world: World, gate: Gate) -> None:
        connection = world.connect()
        world.sync(named("first"), connection)
        world.provider.interruptions.append(gate)
        running = Running(world, push_threads=1)
        assert gate.reached.wait(WAIT_S)
        world.sync(named("second"), connection)
        running.worker.stop()
        assert not running.ended(within_s=0.1)
        gate.open()
        assert running.ended()
        assert (world.states("first"), world.states("second")) == ([EventState.SYNCED], [EventState.PENDING])

    def test_one_that_comes_before_the_first_turn_is_not_lost(self, world: World) -> None:
        for _ in range(20):
            running = Running(world)
            running.worker.stop()
            assert running.ended()


class TestOutages:
    @pytest.mark.parametrize("failure", [StoreError(), RuntimeError("a bug")], ids=["store", "bug"])
    def test_it_outlives_a_turn_that_broke(self, world: World, failure: Exception) -> None:
        outbox = Outbox(world.store)
        outbox.failures = [failure]
        world.sync(booking(), world.connect())
        with working(world, store=Through(world.store, outbox)) as running:
            assert running.next() == ("b", "synced")

    def test_a_push_whose_outcome_could_not_be_stored_is_repeated_without_a_second_event(self, world: World) -> None:
        world.sync(booking(), world.connect())
        pushes, broken = world.pushes, [StoreError()]

        class DiesAfterwards:
            def push(self, row: OutboxRow, load: Load | None = None) -> str:
                if not broken:
                    return pushes.push(row, load)
                # Written at the provider, and then the database is gone.
                pushes.push(row)
                world.store.outbox.put(dataclasses.replace(row, lease_until=world.store.now() + SECOND // 5))
                raise broken.pop()

        hurt = dataclasses.replace(world, pushes=DiesAfterwards())  # type: ignore[arg-type]
        with working(hurt) as running:
            assert running.next() == ("b", "synced")
        assert len(world.in_calendar()) == 1

    def test_a_poison_booking_keeps_nobody_else(self, world: World) -> None:
        connection = world.connect()
        world.sync(named("poison"), connection)
        row = world.store.bookings.get(world.caller.organization_id, BookingId("poison"))
        assert row is not None
        assert world.store.bookings.reseal(row.organization_id, row.id, row.sealed_content, "v1|k1|AAAA|AAAA")
        world.sync(named("good"), connection)
        with working(world, push_threads=1, mailbox_pushes=1) as running:
            assert {running.next(), running.next()} >= {("poison", "deferred"), ("good", "synced")}


class TestMailboxes:
    def held(self, world: World, gate: Gate) -> Connection:
        """A mailbox whose only push stands still, with another one due."""
        anna = world.connect("anna")
        world.provider.interruptions.append(gate)
        world.sync(named("held"), anna)
        return anna

    def test_one_that_is_full_takes_no_more_and_keeps_no_other(self, world: World, gate: Gate) -> None:
        anna = self.held(world, gate)
        with working(world, mailbox_pushes=1) as running:
            assert gate.reached.wait(WAIT_S)
            world.sync(named("waiting"), anna)
            world.sync(named("other"), world.connect("ben"))
            running.worker.wake()
            assert running.next() == ("other", "synced")
            assert world.states("waiting") == [EventState.PENDING]
            gate.open()
            assert {running.next(), running.next()} == {("held", "synced"), ("waiting", "synced")}

    def test_one_that_is_full_is_not_asked_for_again_and_again(self, world: World, gate: Gate) -> None:
        anna, outbox = self.held(world, gate), Outbox(world.store)
        with working(world, mailbox_pushes=1, store=Through(world.store, outbox)) as running:
            assert gate.reached.wait(WAIT_S)
            world.sync(named("waiting"), anna)
            running.worker.wake()
            before = outbox.claims
            threading.Event().wait(1.0)
            assert outbox.claims - before <= 8
            gate.open()
            assert {running.next(), running.next()} == {("held", "synced"), ("waiting", "synced")}


class TestRefusedGrants:
    def refused(self, world: World, start: int) -> None:
        connection = world.connect()
        world.sync(booking(start=start, end=start + HOUR), connection)
        world.store.connections.note_refusal(connection.id, connection.grant_version, "refused")

    def test_a_booking_that_waited_too_long_has_failed_and_says_why(self, world: World) -> None:
        self.refused(world, world.store.now() // SECOND * SECOND - 8 * DAY)
        with working(world):
            assert eventually(lambda: world.states() == [EventState.FAILED])
        problem = world.report().events[0].problem
        assert problem is not None
        assert problem.reason == "NEEDS_REAUTH"

    def test_one_that_may_still_wait_is_pushed_after_the_renewal(self, world: World) -> None:
        self.refused(world, world.store.now() // SECOND * SECOND - 6 * DAY)
        with working(world) as running:
            world.connect()
            running.worker.wake()
            assert running.next() == ("b", "synced")


def test_two_workers_push_a_booking_once(world: World, database_url: str) -> None:
    connection = world.connect()
    names = [f"b{number}" for number in range(12)]
    for name in names:
        world.sync(named(name), connection)
    other = build_world(Store.open(database_url))
    other.provider._shelves = world.provider._shelves
    other.pushes._providers = world.pushes._providers
    with working(world, push_threads=2), working(other, push_threads=2):
        assert eventually(lambda: all(world.states(name) == [EventState.SYNCED] for name in names))
    other.availability.close()
    other.store.close()
    written = world.provider._shelves[WORK].written.values()
    assert [event.sequence for event in written] == [0] * len(names)


class TestLeases:
    def test_a_push_that_takes_longer_than_a_lease_keeps_it(self, world: World, gate: Gate) -> None:
        world.sync(booking(), world.connect())
        world.provider.interruptions.append(gate)
        with working(world, lease_s=0.6, poll_s=0.05) as running:
            assert gate.reached.wait(WAIT_S)
            (first,) = world.store.outbox.of_booking(world.caller.organization_id, BookingId("b"))
            assert eventually(lambda: world.store.now() > first.lease_until + SECOND)
            assert world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4) == []
            gate.open()
            assert running.next() == ("b", "synced")

    def test_a_push_that_hangs_loses_it_in_the_end(self, world: World, gate: Gate) -> None:
        world.sync(booking(), world.connect())
        world.provider.interruptions.append(gate)
        with working(world, lease_s=0.3, hold_s=0.3) as running:
            assert gate.reached.wait(WAIT_S)
            # Taken anew, here by the same worker.
            assert running.next() == ("b", "synced")
            gate.open()
            assert running.next() == ("b", "yielded")

    def test_of_a_backlog_as_much_again_is_claimed_ahead_kept_and_given_back(self, world: World, gate: Gate) -> None:
        connection = world.connect()
        names = [f"b{number}" for number in range(6)]
        for name in names:
            world.sync(named(name), connection)

        def rows() -> list[OutboxRow]:
            outbox, organization = world.store.outbox, world.caller.organization_id
            return [row for name in names for row in outbox.of_booking(organization, BookingId(name))]

        def leased() -> list[OutboxRow]:
            return [row for row in rows() if row.lease_token]

        world.provider.interruptions += [gate, gate]
        with working(world, push_threads=2, mailbox_pushes=9, lease_s=0.6, poll_s=0.05) as running:
            try:
                assert eventually(lambda: len(leased()) == 4)
                latest = max(row.lease_until for row in leased())
                # Not for long: after two seconds a host is slow, and what waits for it is given back.
                assert eventually(lambda: world.store.now() > latest + SECOND // 5)
                assert len(leased()) == 4
                assert world.store.outbox.claim(limit=9, lease_s=60, mailbox_limit=4) == []
            finally:
                # Both pushes end at the moment of the stop, and make room that nobody may take any more.
                with running.worker._lock:
                    gate.open()
                    assert eventually(lambda: [row.state for row in rows()].count(EventState.SYNCED) == 2)
                    running.worker.stop()
        assert leased() == []
        assert (
            sorted((row.state, row.attempts) for row in rows())
            == [(EventState.PENDING, 0)] * 4 + [(EventState.SYNCED, 1)] * 2
        )

    def test_what_a_dead_worker_held_is_free_at_once_for_the_next_of_its_name_alone(self, world: World) -> None:
        connection = world.connect()
        world.sync(named("ours"), connection)
        world.store.outbox.claim(limit=1, lease_s=3600, mailbox_limit=4, owner="dead")
        world.sync(named("theirs"), connection)
        world.store.outbox.claim(limit=1, lease_s=3600, mailbox_limit=4, owner="deadly")
        with working(world, owner="dead") as running:
            assert running.next() == ("ours", "synced")
        assert world.states("theirs") == [EventState.PENDING]

    def test_a_push_without_an_outcome_on_disk_is_tried_again_long_before_its_lease_ends(self, world: World) -> None:
        world.sync(booking(), world.connect())
        pushes, broken = world.pushes, [StoreError()]

        class LosesTheFirst:
            def push(self, row: OutboxRow, load: Load | None = None) -> str:
                if broken:
                    raise broken.pop()
                return pushes.push(row, load)

        hurt = dataclasses.replace(world, pushes=LosesTheFirst())  # type: ignore[arg-type]
        with working(hurt, lease_s=3600) as running:
            assert running.next() == ("b", "synced")


class TestHosts:
    def test_a_host_that_hangs_keeps_nobody_else(self, world: World, gate: Gate) -> None:
        hung = world.connect("hung")
        for number in range(6):
            world.sync(named(f"hung{number}"), hung)
            world.provider.interruptions.append(gate)
        with working(world, push_threads=2, mailbox_pushes=2, poll_s=0.05) as running:
            assert eventually(lambda: len(world.provider.interruptions) == 4)
            # Both threads hang; the next host gets one all the same, long before they end.
            world.provider.interruptions.clear()
            world.sync(named("b"), world.connect("anna"))
            running.worker.wake()
            assert running.next() == ("b", "synced")
            gate.open()

    def test_in_an_outage_few_are_tried_and_all_land_soon_after_it(self, world: World) -> None:
        connection = world.connect()
        names = {f"b{number}" for number in range(20)}
        for name in names:
            world.sync(named(name), connection)
        world.provider.fail_next(ProviderUnavailable("down"), times=40)
        with working(world, mailbox_pushes=1) as running:
            assert [running.next()[1] for _ in range(7)] == ["deferred"] * 7
            # Five found out; nearly all the others have asked nobody.
            assert 40 - len(world.provider._failures) <= 7
            world.provider._failures.clear()
            synced: set[str] = set()
            while synced != names:
                name, outcome = running.next()
                synced |= {name} if outcome == "synced" else set()
