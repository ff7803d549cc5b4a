"""Waiting with many for one thing, without standing in each other's way afterwards.

A hundred threads that wake at once take as long to get the interpreter from one another as they take to answer. So those
who wait for a landing are let on a few at a time, each by one who went before.
"""

from __future__ import annotations

import threading
from collections import deque

ABREAST = 2
"""So many are let on at once."""


class Landing:
    """Something that is under way until it has landed. It never takes off again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._landed = False

    @property
    def landed(self) -> bool:
        """Whether it has landed."""
        return self._landed

    def land(self) -> None:
        """Let those go on who wait for it, the first of them now. Whoever comes later need not wait. It lands once."""
        with self._lock:
            if self._landed:
                return
            self._landed = True
        for _ in range(ABREAST):
            self.let_on()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has landed and somebody lets this thread on, at most so long. Answers whether it has landed."""
        with self._lock:
            if self._landed:
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if turn.acquire(timeout=min(max(0.0, timeout_s), threading.TIMEOUT_MAX)):
            return True
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
                return self._landed
        return True

    def let_on(self) -> None:
        """Let the next of those go on who wait; nobody before it has landed."""
        with self._lock:
            turn = self._waiting.popleft() if self._landed and self._waiting else None
        if turn is not None:
            turn.release()


class Turn:
    """One thread's part in it: whoever was let on lets on another, as soon as it has done what it came for.

    Used in a ``with``, whose end is the latest moment for that. For one thread.
    """

    def __init__(self) -> None:
        self._owed: Landing | None = None

    def wait(self, landing: Landing, timeout_s: float) -> bool:
        """``Landing.wait``, after the end of the turn so far."""
        if landing.landed:
            return True
        self.end()
        self._owed = landing
        return landing.wait(timeout_s)

    def end(self) -> None:
        """Let another on, if one is owed that."""
        owed, self._owed = self._owed, None
        if owed is not None:
            owed.let_on()

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
