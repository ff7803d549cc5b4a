"""What conversations hold of answers together has a bound, and nobody who waits for a place waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress_share import FREE_BYTES, STEP_BYTES, Share, Shares

WAIT_S = 20.0
STEPS = 4
"""Steps that fit."""


class Reader:
    """A conversation in a thread of its own that takes steps when told to."""

    def __init__(self, shares: Shares, deadline_s: float = WAIT_S):
        self._shares = shares
        self._deadline_s = deadline_s
        self._told = threading.Semaphore(0)
        self._ends = False
        self._goes = 0
        self.has = 0
        self.refused = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(ProviderUnavailable), self._shares.share() as share:
            share.add(FREE_BYTES, Deadline.after(0))
            while True:
                self._told.acquire()
                if self._ends:
                    return
                self._step(share)

    def _step(self, share: Share) -> None:
        try:
            share.add(STEP_BYTES, Deadline.after(self._deadline_s))
        except ProviderUnavailable:
            self.refused = True
            raise
        self.has += 1

    def wants(self, steps: int = 1) -> Reader:
        self._goes += steps
        self._told.release(steps)
        return self

    def gets(self) -> bool:
        """Whether all that it wanted is there, soon."""
        return eventually(lambda: self.has == self._goes)

    def ends(self) -> None:
        self._ends = True
        self._told.release()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()


def eventually(claim: Callable[[], bool], within_s: float = WAIT_S) -> bool:
    until = time.monotonic() + within_s
    while not claim() and time.monotonic() < until:
        time.sleep(0.005)
    return claim()


def never(claim: Callable[[], bool]) -> bool:
    return not eventually(claim, within_s=0.3)


@pytest.fixture
def shares() -> Shares:
    return Shares(STEPS * STEP_BYTES)


def test_a_little_of_each_is_free(shares: Shares) -> None:
    full = Reader(shares).wants(STEPS)
    assert full.gets()
    for _ in range(10):
        with shares.share() as share:
            share.add(FREE_BYTES, Deadline.after(0))
    full.ends()


def test_who_does_not_fit_may_go_on_beyond_the_bound_and_the_others_wait_until_it_has_ended(shares: Shares) -> None:
    one, two = Reader(shares).wants(2), Reader(shares).wants(2)
    assert one.gets()
    assert two.gets()
    # Both are in the middle and would wait for each other.
    assert one.wants(10).gets()
    two.wants()
    assert never(lambda: two.has > 2)
    one.ends()
    assert two.gets()
    two.ends()


def test_they_are_served_in_the_order_in_which_they_came(shares: Shares) -> None:
    beyond = Reader(shares).wants(STEPS + 1)
    assert beyond.gets()
    first = Reader(shares).wants(STEPS)
    assert never(lambda: first.has > 0)
    second = Reader(shares).wants()
    assert never(lambda: second.has > 0)
    beyond.ends()
    assert first.gets()
    # Only the bound is reached so far, so that the next may go beyond it.
    assert second.gets()
    first.ends()
    second.ends()


def test_one_that_lasts_does_not_keep_the_next_for_ever() -> None:
    shares = Shares(STEPS * STEP_BYTES, beyond_s=0.5)
    lasting = Reader(shares).wants(STEPS + 1)
    assert lasting.gets()
    assert Reader(shares).wants().gets()


def test_who_finds_no_place_in_time_is_told_so_and_keeps_nobody(shares: Shares) -> None:
    beyond = Reader(shares).wants(STEPS + 1)
    assert beyond.gets()
    late = Reader(shares, deadline_s=0.2).wants()
    assert eventually(lambda: late.refused)
    next_one = Reader(shares).wants()
    beyond.ends()
    assert next_one.gets()
    next_one.ends()


def test_what_is_inside_a_conversation_belongs_to_it(shares: Shares) -> None:
    with shares.share() as outer, shares.share() as inner:
        assert inner is outer
    with shares.share() as another:
        assert another is not outer


def test_an_end_gives_everything_back(shares: Shares) -> None:
    for _ in range(50):
        with shares.share() as share:
            share.add(FREE_BYTES + STEPS * STEP_BYTES, Deadline.after(0.1))
            assert not share.beyond
