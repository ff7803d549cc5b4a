"""Who is next at the children that read calendar text."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander_slot import Slot, Task

LIGHT_BYTES = 32 * 1024
"""A question of at most so many bytes waits behind another such one in a child: a pipe holds twice as much."""


class Caller(Hashable, Protocol):
    """Who asks for slots. ``used_s``: seconds that it has had them so far."""

    @property
    def used_s(self) -> float: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """Who waits for a slot. ``message``: what it will ask there, where it is known. ``slot``: what it got.

    ``task``: its own, begun; without a ``slot`` there is another before it in the child.
    """

    call: Caller
    deadline: Deadline
    message: bytes
    turn: threading.Condition
    slot: Slot | None = None
    task: Task[Any] | None = None

    @property
    def is_light(self) -> bool:
        return 0 < len(self.message) <= LIGHT_BYTES


class Turnstile:
    """Gives slots to calls: to the one that has used least time in slots, and among equals to the first that came.

    Only the call whose turn it is is woken: to wake all of fifty each time took longer than reading their calendars. And
    until it has woken its child would do nothing; so who brings a slot back begins in it what the next will ask there.
    Even that takes a while when many threads want the interpreter. So behind a question that is light another such one is
    put into the child at once, which goes on with it as soon as it has answered: fifty calendars were a fiftieth sooner.
    """

    def __init__(self, slots: Sequence[Slot]):
        self._slots = len(slots)
        self._free = deque(slots)
        self._lock = threading.Lock()
        self._waiting: dict[Caller, _Waiting] = {}
        self._light: set[Slot] = set()
        """Those whose children are at a light question, with none behind it."""
        self._behind: dict[Slot, tuple[_Waiting, Task[Any]]] = {}
        self._closed = False

    def take(self, call: Caller, deadline: Deadline, message: bytes = b"") -> tuple[Slot, Task[Any] | None]:
        """Wait for a slot; with a task where it is at the ``message`` already, which somebody has to take the answer to.

        Raises ``ProviderUnavailable`` when the deadline passes before there is one.
        """
        with self._lock:
            mine = self._waiting[call] = _Waiting(call, deadline, message, threading.Condition(self._lock))
            try:
                while mine.slot is None:
                    self._check_open()
                    if self._free and self._next() is mine:
                        mine.slot = self._free.popleft()
                        break
                    self._put_behind()
                    deadline.check()
                    mine.turn.wait(deadline.remaining())
                return mine.slot, mine.task
            finally:
                self._waiting.pop(call, None)
                self._wake()

    def take_free(self) -> Slot | None:
        """A slot that nobody waits for, if there is one."""
        with self._lock:
            return self._free.popleft() if self._free and not self._waiting and not self._closed else None

    def put_back(self, slot: Slot) -> None:
        """Give back a slot whose child is at nothing, but for what was put there behind what it was at."""
        with self._lock:
            self._light.discard(slot)
            handed_over = False
            try:
                handed_over = self._goes_on(slot) or self._hand_over(slot)
            finally:
                # Also when there is no memory for the message: a slot that is lost is lost for good.
                if not handed_over:
                    self._free.append(slot)
                    self._wake()
            self._put_behind()

    def close(self) -> None:
        """Let nobody in any more. Who waits, and who comes, gets ``ProviderUnavailable``."""
        with self._lock:
            self._closed = True
            for waiting in self._waiting.values():
                waiting.turn.notify()

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderUnavailable("The service is shutting down.")

    def _next(self) -> _Waiting | None:
        """The next of those who are not behind another already."""
        waiting = (each for each in self._waiting.values() if each.task is None)
        return min(waiting, key=lambda each: each.call.used_s, default=None)

    def _goes_on(self, slot: Slot) -> bool:
        """Give the slot to the one whose question stands behind the one that was answered."""
        waiting, task = self._behind.pop(slot, (None, None))
        if waiting is None or task is None:
            return False
        waiting.task = None
        if not slot.holds(task):
            return False  # its child is no more: it has to ask again
        if self._waiting.get(waiting.call) is not waiting:
            slot.renew()  # or it would answer whoever comes next
            return False
        self._give(waiting, slot, task)
        return True

    def _hand_over(self, slot: Slot) -> bool:
        """Begin in the slot what the next will ask there, and give it to the next."""
        waiting = None if self._closed else self._next()
        if waiting is None or not waiting.message or waiting.deadline.remaining() <= 0:
            return False
        task = slot.begin_at_once(waiting.message)
        if task is None:
            return False
        self._give(waiting, slot, task)
        return True

    def _give(self, waiting: _Waiting, slot: Slot, task: Task[Any]) -> None:
        task.began = time.monotonic()
        waiting.slot, waiting.task = slot, task
        del self._waiting[waiting.call]
        waiting.turn.notify()
        if waiting.is_light:
            self._light.add(slot)

    def _put_behind(self) -> None:
        """Put what the next will ask into a child that is at something light."""
        # Of a few, each has a child that comes free as soon as the one that it would be put into.
        many = len(self._waiting) - len(self._behind) > self._slots
        waiting = self._next() if many and self._light and not self._closed else None
        if waiting is None or not waiting.is_light or waiting.deadline.remaining() <= 0:
            return
        slot = self._light.pop()
        waiting.task = slot.begin_at_once(waiting.message)
        if waiting.task is not None:
            self._behind[slot] = waiting, waiting.task

    def _wake(self) -> None:
        """Whoever leaves or brings a slot wakes the next: what it was woken for may have been meant for another."""
        waiting = self._next() if self._free else None
        if waiting is not None:
            waiting.turn.notify()
