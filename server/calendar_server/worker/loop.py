"""The worker's loop: lease what is due, push it in parallel, sleep until something is due or somebody wakes us.

Leases are short, so that what a dead worker held is soon taken by another. A second thread, the heart, lets the leases
of pushes in progress last longer, but none longer than ``hold_s``: what hangs is lost in the end.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from calendar_server.core.booking import retry_after_s
from calendar_server.core.model import DAY, SECOND
from calendar_server.errors import StoreUnavailable
from calendar_server.store.loads import Load
from calendar_server.store.rows import OutboxRow
from calendar_server.store.store import Store
from calendar_server.usecases.pushes import Pushes

_log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 60.0
SHORTEST_PAUSE_S = 0.02
BLOCKED_PAUSE_S = 0.25
"""Seconds to wait when rows are due and none can be claimed: their mailboxes are full, or somebody is changing them."""
GATHER_S = 0.02
"""Seconds in which threads that come free are gathered while most others are busy: one claim is for all of them."""
STORE_PAUSE_S = 1.0
"""Seconds to wait after the database was out of reach."""
AHEAD_S = 0.1
"""Seconds for which work is claimed ahead while there is a backlog: some times what a claim takes under load."""
AHEAD_MOST = 3
"""Times as many rows as pushes at once that are claimed ahead at most."""
SLOW_S = 2.0
"""Seconds after which a push counts as one that hangs."""
SLOW_THREADS = 3
"""Times as many threads as pushes at once: the rest is for pushes that hang."""
BEATS = 3
"""Beats of the heart within one lease: two may be missed."""


class Worker:
    """Runs pushes until told to stop. One thread leases, ``push_threads`` push, and more while some of them hang."""

    def __init__(
        self,
        store: Store,
        pushes: Pushes,
        *,
        push_threads: int,
        mailbox_pushes: int,
        lease_s: float,
        hold_s: float,
        owner: str,
        poll_s: float,
        keep_days: int,
        pushed: Callable[[OutboxRow, str], None] = lambda row, outcome: None,
    ):
        self._store = store
        self._pushes = pushes
        self._push_threads = push_threads
        self._mailbox_pushes = mailbox_pushes
        self._lease_s = lease_s
        self._hold_s = hold_s
        self._owner = owner
        self._poll_s = poll_s
        self._keep = keep_days * DAY
        self._pushed = pushed
        self._threads = ThreadPoolExecutor(push_threads * SLOW_THREADS, thread_name_prefix="push")
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._running: dict[tuple[str, str], tuple[OutboxRow, float]] = {}
        """By id and lease, the rows being pushed and when that began. One that hung may be there a second time."""
        self._queue: deque[tuple[OutboxRow, Load | None, float]] = deque()
        """Claimed ahead, and when: while there is a backlog, a thread that comes free goes on at once."""
        self._backlog = False
        self._done = 0
        """Pushes that ended since the last claim."""
        self._ahead = 0
        """Rows that the queue is to hold."""
        self._ending = False
        self._left: list[OutboxRow] = []
        """Rows whose push ended without an outcome on disk; our leases on them are still to be ended."""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heart", daemon=True)
        self._taken_over = False
        self._expired_at = 0.0
        self._claimed_at = 0.0

    def wake(self) -> None:
        """Something may have become due. Cheap, from any thread."""
        self._woken.set()

    def stop(self) -> None:
        """Begin nothing more. ``run`` returns when the pushes in progress have ended."""
        self._stopping.set()
        self._woken.set()

    def run(self) -> None:
        """Push until stopped."""
        self._heart.start()
        while True:
            # Cleared before anything is looked at, so that a wake or a stop that comes meanwhile is not lost.
            self._woken.clear()
            if self._stopping.is_set():
                break
            try:
                pause = self._turn()
            except StoreUnavailable:
                _log.warning("store_unavailable")
                pause = STORE_PAUSE_S
            except Exception:
                # The loop outlives whatever one turn meets: without it nothing would be pushed any more, silently.
                _log.exception("turn_broke")
                pause = STORE_PAUSE_S
            self._woken.wait(pause)
        with self._lock:
            self._ending = True
        self._threads.shutdown(wait=True)
        self._ended.set()
        self._heart.join()
        with suppress(StoreUnavailable):
            for row, _, _ in self._queue:
                # Nothing was tried.
                self._store.outbox.release(row.id, row.lease_token)
            self._give_back()

    def _turn(self) -> float:
        """Lease and begin what fits. Answers the seconds until the next turn makes sense."""
        if not self._taken_over:
            self._store.outbox.free(self._owner)
            self._taken_over = True
        self._give_back()
        if time.monotonic() - self._expired_at >= EXPIRE_EVERY_S:
            # Noted first: should it fail each time, pushes still get their turns.
            self._expired_at = time.monotonic()
            self._store.outbox.expire(self._store.now(), self._keep)
        with self._lock:
            free, queued = self._begin_queued(), len(self._queue)
            self._ahead = self._rows_ahead() if self._backlog else 0
        wanted = free + max(0, self._ahead - queued)
        if wanted <= 0 or self._plenty(queued):
            return self._poll_s
        left_s = self._claimed_at + GATHER_S - time.monotonic()
        if wanted * 2 < self._push_threads and left_s > 0:
            return left_s
        self._claimed_at = time.monotonic()
        with self._lock:
            self._done = 0
        rows = self._store.outbox.claim(
            limit=wanted, lease_s=self._lease_s, mailbox_limit=self._mailbox_pushes, owner=self._owner
        )
        loads = self._loaded(rows)
        with self._lock:
            self._queue.extend((row, loads.get(row.id), self._claimed_at) for row in rows)
            self._begin_queued()
        self._backlog = len(rows) == wanted
        if self._backlog:
            return self._poll_s
        due_at = self._store.outbox.next_due()
        if due_at is None:
            return self._poll_s
        left_s = (due_at - self._store.now()) / SECOND
        # What is due and was not claimed just now cannot be: to ask again and again would only load the database.
        shortest_s = BLOCKED_PAUSE_S if left_s <= 0 and not rows else SHORTEST_PAUSE_S
        return min(self._poll_s, max(shortest_s, left_s))

    def _rows_ahead(self) -> int:
        """What the queue is to hold where the last claim left something behind; beside idle workers more would be greed."""
        per_s = self._done / max(GATHER_S, time.monotonic() - self._claimed_at)
        return max(self._push_threads, min(round(per_s * AHEAD_S), self._push_threads * AHEAD_MOST))

    def _plenty(self, queued: int) -> bool:
        """Whether there is enough to go on with: the loop is not needed, and one larger claim is cheaper than two."""
        return queued * 2 > self._ahead

    def _begin_queued(self) -> int:
        """Under the lock: begin what is queued and fits, nothing after ``stop``. Answers how many more would fit."""
        if self._stopping.is_set():
            return 0
        now = time.monotonic()
        slow = sum(now - began > SLOW_S for _, began in self._running.values())
        # Pushes that hang do not count, so that they keep nobody else; but there is a limit on them, too.
        free = min(self._push_threads + slow, self._push_threads * SLOW_THREADS) - len(self._running)
        while free > 0 and self._queue:
            row, load, _ = self._queue.popleft()
            self._running[_lease(row)] = (row, now)
            self._threads.submit(self._run, row, load)
            free -= 1
        return free

    def _loaded(self, rows: Sequence[OutboxRow]) -> Mapping[str, Load]:
        """What these pushes begin with, read at once. A push that finds nothing here reads it for itself."""
        try:
            return self._store.loads.of(rows)
        except Exception:
            # They are claimed, so they have to begin, and to end: each reads for itself, and tells what is wrong.
            _log.warning("loads_missing", exc_info=True)
            return {}

    def _run(self, row: OutboxRow, load: Load | None) -> None:
        try:
            self._pushed(row, self._pushes.push(row, load))
        except StoreUnavailable:
            # Whether its outcome was stored is not known. What was written is found by its identity, by whoever is next.
            _log.warning("store_unavailable")
            self._leave(row)
        except Exception:
            _log.exception("push_broke")
            self._leave(row)
        finally:
            with self._lock:
                del self._running[_lease(row)]
                if not self._ending:
                    self._begin_queued()
                self._done += 1
                plenty = self._plenty(len(self._queue))
            if not plenty:
                self._woken.set()

    def _leave(self, row: OutboxRow) -> None:
        with self._lock:
            self._left.append(row)

    def _give_back(self) -> None:
        """End the leases of pushes that ended without an outcome, so that nobody has to wait for them to run out."""
        with self._lock:
            left, self._left = self._left, []
        for place, row in enumerate(left):
            seconds = retry_after_s(row.attempts + 1, None, random.random())  # noqa: S311 — spreads retries
            try:
                due_at = self._store.now() + int(seconds * SECOND)
                self._store.outbox.release(row.id, row.lease_token, due_at=due_at, attempts=row.attempts + 1)
            except StoreUnavailable:
                with self._lock:
                    self._left += left[place:]
                raise

    def _beat(self) -> None:
        while not self._ended.wait(self._lease_s / BEATS):
            now = time.monotonic()
            with self._lock:
                held = [row for row, began in self._running.values() if now - began < self._hold_s]
                held += [row for row, _, claimed in self._queue if now - claimed < self._hold_s]
            self._extend(held)

    def _extend(self, held: Sequence[OutboxRow]) -> None:
        try:
            if held:
                self._store.outbox.extend(held, self._lease_s)
        except StoreUnavailable:
            # The leases run out; every push looks at its own before it writes.
            _log.warning("store_unavailable")
        except Exception:
            _log.exception("heart_broke")


def _lease(row: OutboxRow) -> tuple[str, str]:
    return row.id, row.lease_token
