"""The pool: bounded in number and in time, never holding up others while it dials."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from calendar_server.store.errors import StoreError
from calendar_server.store.pool import Pool
from tests.contract_store.examples import at_once


class Line:
    """A connection that can break."""

    def __init__(self) -> None:
        self.open = True
        self.shut = False


class Exchange:
    """What is dialled. It counts its lines and can be out of order."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.down = False
        self.before: Callable[[], None] = lambda: None

    def dial(self) -> Line:
        self.before()
        if self.down:
            raise ConnectionError
        self.lines.append(Line())
        return self.lines[-1]

    def pool(self, most: int = 3, wait_s: float = 0.05) -> Pool[Line]:
        return Pool(
            dial=self.dial,
            usable=lambda line, idle_s: line.open,
            shut=lambda line: setattr(line, "shut", True),
            most=most,
            wait_s=wait_s,
        )


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


def test_a_line_that_came_back_is_lent_again(exchange: Exchange) -> None:
    pool = exchange.pool()
    first = pool.take()
    pool.give_back(first)
    assert pool.take() is first


def test_nobody_shares_a_line(exchange: Exchange) -> None:
    pool = exchange.pool()
    assert pool.take() is not pool.take()


def test_nobody_waits_for_ever_when_all_are_lent(exchange: Exchange) -> None:
    pool = exchange.pool(most=2)
    pool.take()
    pool.take()
    began = time.monotonic()
    with pytest.raises(StoreError, match="busy"):
        pool.take()
    assert 0.04 < time.monotonic() - began < 2


def test_who_waits_gets_the_line_that_comes_back(exchange: Exchange) -> None:
    pool = exchange.pool(most=1, wait_s=30)
    line = pool.take()
    threading.Timer(0.05, pool.give_back, [line]).start()
    assert pool.take() is line


def test_a_broken_line_is_shut_and_another_dialled(exchange: Exchange) -> None:
    pool = exchange.pool()
    first = pool.take()
    pool.give_back(first)
    first.open = False
    assert pool.take() is not first
    assert first.shut


def test_a_line_that_comes_back_broken_is_not_kept(exchange: Exchange) -> None:
    pool = exchange.pool(most=1)
    first = pool.take()
    first.open = False
    pool.give_back(first)
    assert first.shut
    assert pool.take() is not first


def test_an_outage_uses_no_slot_up(exchange: Exchange) -> None:
    pool = exchange.pool(most=1)
    exchange.down = True
    for _ in range(5):
        with pytest.raises(ConnectionError):
            pool.take()
    exchange.down = False
    assert pool.take() is exchange.lines[0]


def test_a_slow_dial_holds_up_no_other(exchange: Exchange) -> None:
    pool = exchange.pool(most=4, wait_s=30)
    together = threading.Barrier(4)
    # Every dial waits until all four dial: one after the other would never get past this.
    exchange.before = lambda: together.wait(10) and None
    assert all(isinstance(line, Line) for line in at_once([pool.take] * 4))


def test_closing_shuts_what_is_idle_now_and_what_is_lent_later(exchange: Exchange) -> None:
    pool = exchange.pool()
    idle, lent = pool.take(), pool.take()
    pool.give_back(idle)
    pool.close()
    assert idle.shut
    assert not lent.shut
    pool.give_back(lent)
    assert lent.shut
