"""When connections are busy, told again whenever that changes.

A watch asks GetBusy's question again and again: soon after something may have changed, and every few seconds even when
nobody says so. Signals get lost; they make an answer early, never right.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from calendar_server.providers.base import Deadline
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BusyAnswer, BusyQuery

ASK_S = 15.0
"""Seconds that one question of a watch may take: what GetBusy has without a deadline."""


class Changes(Protocol):
    """Knows when it makes sense to ask again."""

    @property
    def count(self) -> int:
        """Grows with every hint that something may have changed."""
        ...

    def wait(self, seen: int, seconds: float, stop: threading.Event, /) -> int:
        """Wait until there are more hints than ``seen``, at most ``seconds``, or until ``stop``. Answers the count.

        To return too early costs a question; to return too late costs nothing but time, as the seconds end.
        """
        ...


class Watching:
    """Watches over a way to ask. Holds nothing: each watch lives in the thread that runs through it."""

    def __init__(
        self,
        get_busy: Callable[[Caller, BusyQuery], BusyAnswer],
        changes: Changes,
        *,
        heartbeat_s: float = 15.0,
        at_most_every_s: float = 1.0,
        ask_every_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._get_busy = get_busy
        self._changes = changes
        self._heartbeat_s = heartbeat_s
        self._at_most_every_s = at_most_every_s
        self._ask_every_s = ask_every_s
        self._clock = clock

    def watch(self, caller: Caller, query: BusyQuery, stop: threading.Event) -> Iterator[BusyAnswer]:
        """The present answer, then the newest whenever it has changed or ``heartbeat_s`` seconds have passed.

        Ends when ``stop`` is set. Raises what GetBusy raises, at any time: an answer that could not be renewed counts no
        more. Who takes answers slowly misses those between and gets the newest, for nothing is asked ahead. Questions
        are ``at_most_every_s`` apart, and so are answers; they come every ``ask_every_s`` even without a signal.
        """
        told: BusyAnswer | None = None
        told_at = 0.0
        while not stop.is_set():
            # Taken before the question, so that a change during it is not lost.
            seen, asked_at = self._changes.count, self._clock()
            # The call's deadline is for all of the watch, and it is its transport that ends it by that.
            answer = self._get_busy(dataclasses.replace(caller, deadline=Deadline.after(ASK_S)), query)
            if stop.is_set():
                return
            now = self._clock()
            if told is None or now - told_at >= self._heartbeat_s or _essence(answer) != _essence(told):
                told, told_at = answer, now
                yield answer
            if stop.wait(max(0.0, asked_at + self._at_most_every_s - self._clock())):
                return
            heartbeat_in = told_at + self._heartbeat_s - self._clock()
            self._changes.wait(seen, max(0.0, min(self._ask_every_s, heartbeat_in)), stop)


def _essence(answer: BusyAnswer) -> BusyAnswer:
    """The answer without what differs each time it is asked for: when it was read, and when to try again."""
    return dataclasses.replace(
        answer,
        calendars=tuple(
            dataclasses.replace(
                calendar,
                as_of=None,
                problem=calendar.problem and dataclasses.replace(calendar.problem, retry_at=None),
            )
            for calendar in answer.calendars
        ),
    )
