"""Who is next at the children that read calendar text."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander_slot import Slot, Task


class Caller(Hashable, Protocol):
    """Who asks for slots. ``used_s``: seconds that it has had them so far."""

    @property
    def used_s(self) -> float: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """Who waits for a slot. ``message``: what it will ask there, where it is known. ``slot``, ``task``: what it got."""

    call: Caller
    deadline: Deadline
    message: bytes
    turn: threading.Condition
    slot: Slot | None = None
    task: Task[Any] | None = None


class Turnstile:
    """Gives slots to calls: to the one that has used least time in slots, and among equals to the first that came.

    Only the call whose turn it is is woken: to wake all of fifty each time took longer than reading their calendars. And
    until it has woken its child would do nothing; so who brings a slot back begins in it what the next will ask there.
    """

    def __init__(self, slots: Sequence[Slot]):
        self._free = deque(slots)
        self._lock = threading.Lock()
        self._waiting: dict[Caller, _Waiting] = {}
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
        """Give back a slot whose child is at nothing."""
        with self._lock:
            handed_over = False
            try:
                handed_over = self._hand_over(slot)
            finally:
                # Also when there is no memory for the message: a slot that is lost is lost for good.
                if not handed_over:
                    self._free.append(slot)
                    self._wake()

    def close(self) -> None:
        """Let nobody in any more. Who waits, and who comes, gets ``ProviderUnavailable``."""
        with self._lock:
            self._closed = True
            for waiting in self._waiting.values():
                waiting.turn.notify()

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderUnavailable("The service is shutting down.")

    def _next(self) -> _Waiting:
        return min(self._waiting.values(), key=lambda waiting: waiting.call.used_s)

    def _hand_over(self, slot: Slot) -> bool:
        """Begin in the slot what the next will ask there, and give it to the next."""
        if self._closed or not self._waiting:
            return False
        waiting = self._next()
        if not waiting.message or waiting.deadline.remaining() <= 0:
            return False
        waiting.task = slot.begin_at_once(waiting.message)
        if waiting.task is None:
            return False
        waiting.slot = slot
        del self._waiting[waiting.call]
        waiting.turn.notify()
        return True

    def _wake(self) -> None:
        """Whoever leaves or brings a slot wakes the next: what it was woken for may have been meant for another."""
        if self._free and self._waiting:
            self._next().turn.notify()
