"""Many who ask at once look at the database together, and nobody by a look that began too early for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from calendar_server.core.model import Connection, Interval
from calendar_server.errors import StoreUnavailable
from calendar_server.usecases.commands import Target
from calendar_server.usecases.snapshots import Group, Snapshots
from tests.usecases.conftest import HOUR, NOON, World, booking

NOON_TO_ONE = Interval(NOON, NOON + HOUR)


class Gated:
    """A store whose looks for a target stop when they have seen the database, until they are let go."""

    def __init__(self, store: Any):
        self._store = store
        self.looks = 0
        self.held = threading.Event()
        self.go = threading.Event()
        self.fails = False

    @property
    def mirror(self) -> Any:
        return self

    def heads(self, *arguments: Any) -> Any:
        self.looks += 1
        found = self._store.mirror.heads(*arguments)
        if self.looks == 1:
            self.held.set()
            assert self.go.wait(20)
            if self.fails:
                raise StoreUnavailable("out of reach")
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name) if hasattr(self._store, name) else getattr(self._store.mirror, name)


@pytest.fixture
def connection(world: World) -> Connection:
    connection = world.connect()
    world.busy(connection)
    return connection


@pytest.fixture
def gated(world: World) -> Gated:
    return Gated(world.store)


@pytest.fixture
def snapshots(gated: Gated) -> Snapshots:
    return Snapshots(gated, entries=10)  # type: ignore[arg-type] — it has all that they ask of a store


@pytest.fixture
def threads(gated: Gated) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads
        gated.go.set()


@pytest.fixture
def ask(world: World, connection: Connection, snapshots: Snapshots) -> Callable[[], Group]:
    """Asks for what was committed up to this moment."""
    target = Target((connection.id,))
    return lambda: snapshots.of(world.caller.organization_id, target, time.monotonic(), crowded=True)[0]


def until_waiting(snapshots: Snapshots, number: int) -> None:
    """Until so many have come for the look that is to follow, its own one among them."""
    ends_at = time.monotonic() + 20
    while not any(
        len(look.done._waiting) == number - 1 and math.isinf(look.began_at) for look in snapshots._looks.values()
    ):
        assert time.monotonic() < ends_at
        time.sleep(0.005)


def booked(group: Group) -> list[Interval]:
    return [each.interval for overlays in group.snapshots[0].overlays.values() for each in overlays]


def test_a_look_that_began_before_a_commit_is_not_for_who_comes_after_it(
    world: World,
    connection: Connection,
    gated: Gated,
    snapshots: Snapshots,
    ask: Callable[[], Group],
    threads: ThreadPoolExecutor,
) -> None:
    early = threads.submit(ask)
    assert gated.held.wait(20)
    world.sync(booking(), connection)
    late = [threads.submit(ask) for _ in range(8)]
    until_waiting(snapshots, 8)
    gated.go.set()
    assert all(booked(each.result(20)) == [NOON_TO_ONE] for each in late)
    early.result(20)
    # All who came while the first looked share the second look.
    assert gated.looks == 2


def test_whom_another_look_failed_looks_for_itself(
    world: World,
    connection: Connection,
    gated: Gated,
    snapshots: Snapshots,
    ask: Callable[[], Group],
    threads: ThreadPoolExecutor,
) -> None:
    gated.fails = True
    first = threads.submit(ask)
    assert gated.held.wait(20)
    others = [threads.submit(ask) for _ in range(4)]
    until_waiting(snapshots, 4)
    gated.go.set()
    assert isinstance(first.exception(20), StoreUnavailable)
    assert all(len(each.result(20).snapshots) == 1 for each in others)


def test_what_was_found_since_is_not_looked_for_again(
    world: World, connection: Connection, gated: Gated, snapshots: Snapshots
) -> None:
    gated.go.set()

    def ask(since: float) -> Group:
        return snapshots.of(world.caller.organization_id, Target((connection.id,)), since, crowded=True)[0]

    came_at = time.monotonic()
    group = ask(came_at)
    world.sync(booking(), connection)
    # Committed after it came: it may be in the answer, and need not be.
    assert ask(came_at) is group
    assert gated.looks == 1
    assert booked(ask(time.monotonic())) == [NOON_TO_ONE]
    assert gated.looks == 2


def test_whoever_is_not_crowded_does_not_wait_for_others_on_postgres(
    world: World, connection: Connection, gated: Gated, snapshots: Snapshots, threads: ThreadPoolExecutor
) -> None:
    if world.store.is_sqlite:
        pytest.skip("This is about Postgres, where every look is a query.")
    target = Target((connection.id,))
    first = threads.submit(snapshots.of, world.caller.organization_id, target, time.monotonic(), crowded=True)
    assert gated.held.wait(20)
    assert snapshots.of(world.caller.organization_id, target, time.monotonic())[0].snapshots
    assert not first.done()
    gated.go.set()
    first.result(20)


def test_nobody_waits_for_ever_for_a_look_of_another(
    world: World, connection: Connection, gated: Gated, threads: ThreadPoolExecutor
) -> None:
    snapshots = Snapshots(gated, entries=10, patience_s=0.2)  # type: ignore[arg-type] — as above
    target = Target((connection.id,))

    def ask() -> Group:
        return snapshots.of(world.caller.organization_id, target, time.monotonic(), crowded=True)[0]

    first = threads.submit(ask)
    assert gated.held.wait(20)
    assert all(each.result(10).snapshots for each in [threads.submit(ask) for _ in range(5)])
    assert not first.done()
