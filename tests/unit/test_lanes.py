"""Threads that no one kind of work can use up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait

import pytest

from calendar_server.usecases.lanes import Lanes


@pytest.fixture
def lanes() -> Iterator[Lanes[int]]:
    lanes: Lanes[int] = Lanes(4, 3, "test")
    yield lanes
    lanes.close()


def test_a_lane_that_hangs_leaves_a_thread_to_the_others(lanes: Lanes[int]) -> None:
    over = threading.Event()
    hung = [lanes.submit("hung", lambda: int(over.wait(20))) for _ in range(20)]
    assert lanes.submit("other", lambda: 7).result(5) == 7
    assert sum(future.running() for future in hung) == 3
    over.set()
    assert [future.result(10) for future in hung] == [1] * 20


def test_within_a_lane_who_came_first_is_first(lanes: Lanes[int]) -> None:
    over, order = threading.Event(), list[int]()
    blocking = [lanes.submit("lane", lambda: int(over.wait(20))) for _ in range(3)]
    gate = threading.Lock()

    def note(number: int) -> int:
        with gate:
            order.append(number)
        return number

    one = Lanes[int](1, 1, "one")
    futures = [one.submit("lane", lambda number=number: note(number)) for number in range(50)]
    assert [future.result(10) for future in futures] == list(range(50))
    assert order == list(range(50))
    one.close()
    over.set()
    assert all(future.result(10) for future in blocking)


def test_what_is_cancelled_in_time_never_runs_and_holds_nobody_up(lanes: Lanes[int]) -> None:
    over, ran = threading.Event(), list[int]()
    blocking = [lanes.submit("lane", lambda: int(over.wait(20))) for _ in range(3)]
    cancelled = lanes.submit("lane", lambda: ran.append(1) or 1)
    after = lanes.submit("lane", lambda: 2)
    assert cancelled.cancel()
    over.set()
    assert after.result(10) == 2
    assert [future.result(10) for future in blocking] == [1, 1, 1]
    assert ran == []


def test_what_fails_tells_its_caller_and_holds_nobody_up(lanes: Lanes[int]) -> None:
    failed = lanes.submit("lane", lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(5)
    assert [lanes.submit("lane", lambda: 1).result(5) for _ in range(10)] == [1] * 10


def test_at_the_end_what_waits_is_cancelled() -> None:
    lanes: Lanes[int] = Lanes(1, 1, "test")
    over = threading.Event()
    running = lanes.submit("lane", lambda: int(over.wait(20)))
    waiting = lanes.submit("lane", lambda: 1)
    lanes.close()
    assert waiting.cancelled()
    # Whoever waits for several at once is told.
    assert wait([waiting], 5).done == {waiting}
    over.set()
    assert running.result(10) == 1
    assert lanes.submit("lane", lambda: 1).cancelled()
