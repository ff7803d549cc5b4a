"""API keys that were not believed: whoever sends many of them waits for each answer.

The keys themselves cannot be guessed (256 random bits); this keeps those who try from having our time. The key is checked
all the same, so that a good one from the same address, behind one proxy say, is answered at once, and the answer to a
wrong one stays the same to the letter. While such an answer waits it has no thread.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from calendar_server.peers import Buckets

_log = logging.getLogger(__name__)

FREE = 30
"""Failures of one peer that are answered at once."""
PER_MINUTE = 60.0
"""Failures of one peer that it may have in a minute after that."""
WAIT_MOST_S = 1.0
"""Seconds that an answer waits at most: enough to make guessing slow, and far less than any deadline."""
WAITING_MOST = 2048
"""Answers that may wait at once. Further ones are given at once: they must not take our memory."""
_PROVEN_MOST = 10_000


class Failures:
    """Counts the failures of each peer, and remembers which keys were good."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic):
        self._buckets = Buckets(burst=FREE, per_minute=PER_MINUTE, debt_s=WAIT_MOST_S, clock=clock)
        self._proven: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def proven(self, key: str) -> bool:
        """Whether the key was good when it was last checked here. It says nothing about now."""
        return _fingerprint(key) in self._proven

    def good(self, key: str) -> None:
        """Note that a key was believed."""
        fingerprint = _fingerprint(key)
        if fingerprint in self._proven:
            return
        with self._lock:
            self._proven[fingerprint] = None
            if len(self._proven) > _PROVEN_MOST:
                self._proven.popitem(last=False)

    def bad(self, key: str | None, peer: str) -> float:
        """Note that a key was not believed, or that there was none. Answers the seconds that the answer has to wait."""
        if key is not None:
            with self._lock:
                self._proven.pop(_fingerprint(key), None)
        return self._buckets.spend(peer)


class Later:
    """Runs what is due later, in a thread of its own. What it is given must not wait for anything."""

    def __init__(self, most: int = WAITING_MOST):
        self._most = most
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._ticket = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._due)

    def after(self, seconds: float, run: Callable[[], object]) -> None:
        """Run this after so many seconds; at once when there are none, when too much waits already, or after ``stop``."""
        with self._changed:
            if seconds > 0 and len(self._due) < self._most and not self._stopped:
                heapq.heappush(self._due, (time.monotonic() + seconds, next(self._ticket), run))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="later", daemon=True)
                    self._thread.start()
                self._changed.notify()
                return
        run()

    def stop(self) -> None:
        """Run all that waits now."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and (not self._due or self._due[0][0] > time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if not self._due:
                    return
                run = heapq.heappop(self._due)[2]
            try:
                run()
            except Exception:
                _log.exception("later_broke")


def _fingerprint(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
