"""A bounded pool of driver connections, the same for both databases.

It starts no threads, dials outside its lock, and fails at once when the database refuses: a caller learns of an outage
in the time of one dial, and the first call after the outage dials anew. (Peewee's own pool dials under a lock, so that
one unreachable host would hold up every thread in turn.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from calendar_server.store.errors import StoreError

Raw = TypeVar("Raw")


class Pool(Generic[Raw]):
    """Lends connections, each to one thread at a time.

    ``usable(raw, idle_s)`` says whether a connection can be lent (after ``idle_s`` seconds in the pool) or kept;
    ``most`` connections exist at once, and nobody waits longer than ``wait_s`` seconds for one; ``waited`` is told of each
    wait that there was.
    """

    def __init__(
        self,
        *,
        dial: Callable[[], Raw],
        usable: Callable[[Raw, float], bool],
        shut: Callable[[Raw], None],
        most: int,
        wait_s: float,
        waited: Callable[[float], None] = lambda seconds: None,
    ):
        self._dial = dial
        self._usable = usable
        self._shut = shut
        self._wait_s = wait_s
        self._waited = waited
        self._slots = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._idle: list[tuple[Raw, float]] = []
        self._closed = False

    def take(self) -> Raw:
        """Lend a connection. Raises ``StoreError`` when none comes free in time, and what dialling raises."""
        if not self._slots.acquire(blocking=False):
            began = time.monotonic()
            taken = self._slots.acquire(timeout=self._wait_s)
            self._waited(time.monotonic() - began)
            if not taken:
                raise StoreError("The service's database is busy. Try again.")
        try:
            raw = self._kept()
            return self._dial() if raw is None else raw
        except BaseException:
            self._slots.release()
            raise

    def give_back(self, raw: Raw) -> None:
        """Take a lent connection back; one that is not in order is closed."""
        try:
            usable = self._usable(raw, 0.0)
            with self._lock:
                keep = usable and not self._closed
                if keep:
                    self._idle.append((raw, time.monotonic()))
            if not keep:
                self._shut(raw)
        finally:
            self._slots.release()

    def close(self) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for raw, _ in idle:
            self._shut(raw)

    def _kept(self) -> Raw | None:
        """The connection used last that is still in order. The broken ones above it are closed."""
        while True:
            with self._lock:
                if self._closed:
                    raise StoreError("The service's database is closed.")
                if not self._idle:
                    return None
                raw, since = self._idle.pop()
            if self._usable(raw, time.monotonic() - since):
                return raw
            self._shut(raw)
