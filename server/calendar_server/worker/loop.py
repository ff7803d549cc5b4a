"""The worker's loop: lease what is due, push it in parallel, sleep until something is due or somebody wakes us."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from calendar_server.core.model import DAY, SECOND
from calendar_server.errors import StoreUnavailable
from calendar_server.store.rows import OutboxRow
from calendar_server.store.store import Store
from calendar_server.usecases.pushes import Pushes

_log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 60.0
SHORTEST_PAUSE_S = 0.02
BLOCKED_PAUSE_S = 0.25
"""Seconds to wait when rows are due and none can be claimed: their mailboxes are full, or somebody is changing them."""
STORE_PAUSE_S = 1.0
"""Seconds to wait after the database was out of reach."""


class Worker:
    """Runs pushes until told to stop. One thread leases, ``push_threads`` push."""

    def __init__(
        self,
        store: Store,
        pushes: Pushes,
        *,
        push_threads: int,
        mailbox_pushes: int,
        lease_s: int,
        poll_s: float,
        keep_days: int,
        pushed: Callable[[OutboxRow, str], None] = lambda row, outcome: None,
    ):
        self._store = store
        self._pushes = pushes
        self._push_threads = push_threads
        self._mailbox_pushes = mailbox_pushes
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._keep = keep_days * DAY
        self._pushed = pushed
        self._threads = ThreadPoolExecutor(push_threads, thread_name_prefix="push")
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._running = 0
        self._lock = threading.Lock()
        self._expired_at = 0.0

    def wake(self) -> None:
        """Something may have become due. Cheap, from any thread."""
        self._woken.set()

    def stop(self) -> None:
        """Lease nothing more. ``run`` returns when the pushes in progress have ended."""
        self._stopping.set()
        self._woken.set()

    def run(self) -> None:
        """Push until stopped."""
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
        self._threads.shutdown(wait=True)

    def _turn(self) -> float:
        """Lease and begin what fits. Answers the seconds until the next turn makes sense."""
        if time.monotonic() - self._expired_at >= EXPIRE_EVERY_S:
            # Noted first: should it fail each time, pushes still get their turns.
            self._expired_at = time.monotonic()
            self._store.outbox.expire(self._store.now(), self._keep)
        with self._lock:
            free = self._push_threads - self._running
        if free <= 0:
            return self._poll_s
        rows = self._store.outbox.claim(limit=free, lease_s=self._lease_s, mailbox_limit=self._mailbox_pushes)
        for row in rows:
            with self._lock:
                self._running += 1
            self._threads.submit(self._run, row)
        if len(rows) == free:
            return self._poll_s
        due_at = self._store.outbox.next_due()
        if due_at is None:
            return self._poll_s
        left_s = (due_at - self._store.now()) / SECOND
        # What is due and was not claimed just now cannot be: to ask again and again would only load the database.
        shortest_s = BLOCKED_PAUSE_S if left_s <= 0 and not rows else SHORTEST_PAUSE_S
        return min(self._poll_s, max(shortest_s, left_s))

    def _run(self, row: OutboxRow) -> None:
        try:
            self._pushed(row, self._pushes.push(row))
        except StoreUnavailable:
            # The lease runs out and somebody takes the row again; what was written is found by its identity.
            _log.warning("store_unavailable")
        except Exception:
            _log.exception("push_broke")
        finally:
            with self._lock:
                self._running -= 1
            self._woken.set()
