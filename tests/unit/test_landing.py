"""Those who wait for one thing go on a few at a time, and all of them do."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from calendar_server.usecases.landing import ABREAST, Landing, Turn

WAITERS = 12


class Waiters:
    """Threads that wait for a landing, and then hold their turn until they are told to end it."""

    def __init__(self, landing: Landing, threads: ThreadPoolExecutor):
        self._landing = landing
        self._lock = threading.Lock()
        self._held: list[threading.Event] = []
        self.all: list[Future[bool]] = [threads.submit(self._wait) for _ in range(WAITERS)]
        until(lambda: len(landing._waiting) == WAITERS)

    def _wait(self) -> bool:
        with Turn() as turn:
            landed = turn.wait(self._landing, 30)
            end = threading.Event()
            with self._lock:
                self._held.append(end)
            end.wait(30)
            return landed

    def until_on(self, number: int) -> None:
        """Wait until so many have been let on, and see that no more are."""
        until(lambda: len(self._held) >= number)
        time.sleep(0.05)
        assert len(self._held) == number

    def end(self, number: int) -> None:
        """Have this one end its turn."""
        self._held[number].set()


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.005)


@pytest.fixture
def landing() -> Landing:
    return Landing()


def test_a_few_go_on_at_once_and_each_lets_on_another(landing: Landing) -> None:
    with ThreadPoolExecutor(WAITERS) as threads:
        waiters = Waiters(landing, threads)
        waiters.until_on(0)
        landing.land()
        landing.land()
        for ended in range(WAITERS):
            waiters.until_on(min(WAITERS, ABREAST + ended))
            waiters.end(ended)
        assert all(each.result(20) for each in waiters.all)


def test_a_turn_that_ends_by_an_error_lets_on_another(landing: Landing) -> None:
    def fail() -> None:
        with Turn() as turn:
            turn.wait(landing, 30)
            raise RuntimeError("broken")

    with ThreadPoolExecutor(WAITERS) as threads:
        waiting = [threads.submit(fail) for _ in range(WAITERS)]
        until(lambda: len(landing._waiting) == WAITERS)
        landing.land()
        assert all(isinstance(each.exception(20), RuntimeError) for each in waiting)


def test_whoever_waits_for_something_else_ends_its_turn_first(landing: Landing) -> None:
    later = Landing()

    def both() -> bool:
        with Turn() as turn:
            return turn.wait(landing, 30) and turn.wait(later, 30)

    with ThreadPoolExecutor(WAITERS) as threads:
        waiting = [threads.submit(both) for _ in range(WAITERS)]
        until(lambda: len(landing._waiting) == WAITERS)
        landing.land()
        until(lambda: len(later._waiting) == WAITERS)
        later.land()
        assert all(each.result(20) for each in waiting)


def test_who_gives_up_takes_nobodys_place(landing: Landing) -> None:
    with Turn() as turn:
        assert not turn.wait(landing, 0.01)
    assert not landing.wait(-1)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(landing.wait, math.inf)
        until(lambda: len(landing._waiting) == 1)
        # Nobody is let on before it has landed, whoever tries.
        landing.let_on()
        with pytest.raises(TimeoutError):
            waiting.result(0.1)
        landing.land()
        assert waiting.result(20)


def test_who_comes_later_need_not_wait(landing: Landing) -> None:
    landing.land()
    assert landing.landed
    assert landing.wait(0)
    with Turn() as turn:
        assert turn.wait(landing, 0)
