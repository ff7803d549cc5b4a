"""The worker's other loop: calendars in use are read again before they go stale, and soon after their providers told of a
change. Idle ones rest."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

from calendar_server.core.model import SECOND, CalendarId, Connection, ConnectionId, Instant, OrganizationId
from calendar_server.errors import StoreUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.store.store import Store
from calendar_server.usecases.refresh import Need, Refresher

_log = logging.getLogger(__name__)

STORE_PAUSE_S = 2.0
SHORTEST_S = 5.0
"""Seconds between two reads of one calendar ahead of time, however short the greatest staleness is."""
GATHER_S = 0.2
"""Seconds between the beginnings of two turns: every push that ends is a hint, and few of them are about reading."""
AHEAD = 0.5
"""The share of the greatest staleness after which a calendar in use is read again: a failed try leaves time for another."""


class Refreshing:
    """Refreshes until told to stop.

    ``max_staleness_s`` 0: nothing is read ahead of time, for every call reads anyway. ``used_s``: how long after the last
    question a connection counts as in use. ``threads``: connections refreshed at once. ``read_s``: seconds for one of them.
    """

    def __init__(
        self,
        store: Store,
        refresher: Refresher,
        *,
        threads: int,
        max_staleness_s: float,
        used_s: float,
        read_s: float,
        poll_s: float,
    ):
        self._store = store
        self._refresher = refresher
        self._ahead_s = max(SHORTEST_S, max_staleness_s * AHEAD)
        self._idle = max_staleness_s <= 0
        self._used_s = used_s
        self._read_s = read_s
        self._poll_s = poll_s
        self._free = threads
        self._lock = threading.Lock()
        self._busy: set[ConnectionId] = set()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="refresh")
        self._woken = threading.Event()
        self._stopping = threading.Event()

    def wake(self) -> None:
        """A provider may have told of a change. Cheap, from any thread."""
        self._woken.set()

    def stop(self) -> None:
        """Begin nothing more. ``run`` returns when the refreshes in progress have ended."""
        self._stopping.set()
        self._woken.set()

    def run(self) -> None:
        """Refresh until stopped."""
        while True:
            self._woken.clear()
            if self._stopping.is_set():
                break
            pause, began = self._poll_s, time.monotonic()
            try:
                self._turn()
            except StoreUnavailable:
                _log.warning("store_unavailable")
                pause = STORE_PAUSE_S
            except Exception:
                # The loop outlives whatever one turn meets: without it every calendar would go stale, silently.
                _log.exception("turn_broke")
                pause = STORE_PAUSE_S
            self._woken.wait(pause)
            self._stopping.wait(max(0.0, began + GATHER_S - time.monotonic()))
        self._threads.shutdown(wait=True)

    def _turn(self) -> None:
        with self._lock:
            free = self._free - len(self._busy)
        if free <= 0 or self._idle:
            return
        now = self._store.now()
        due = self._store.mirror.due(
            used_since=now - round(self._used_s * SECOND),
            read_before=now - round(self._ahead_s * SECOND),
            now=now,
            # A connection has several calendars, and those being refreshed are still due.
            limit=(free + len(self._busy)) * 4,
        )
        calendars: dict[tuple[OrganizationId, ConnectionId], list[CalendarId]] = defaultdict(list)
        for row in due:
            calendars[row.organization_id, row.connection_id].append(row.calendar_id)
        for (organization_id, connection_id), ids in calendars.items():
            with self._lock:
                if connection_id in self._busy or len(self._busy) >= self._free:
                    continue
            connection = self._store.connections.get(organization_id, connection_id)
            if connection is None:
                continue
            blocking = tuple(each for each in ids if each in connection.busy_calendar_ids)
            if not blocking:
                continue
            with self._lock:
                self._busy.add(connection_id)
            self._threads.submit(self._refresh, connection, blocking, now)

    def _refresh(self, connection: Connection, calendar_ids: tuple[CalendarId, ...], now: Instant) -> None:
        try:
            horizon = self._refresher.horizon(connection.id, now)
            # Any read that is not older than a turn serves, so that a caller's own is shared, not repeated.
            self._refresher.refresh(
                [Need(connection, calendar_ids)],
                horizon,
                not_before=now - SECOND,
                full=False,
                deadline=Deadline.after(self._read_s),
            )
        except StoreUnavailable:
            _log.warning("store_unavailable")
        except Exception:
            _log.exception("refresh_broke")
        finally:
            with self._lock:
                self._busy.discard(connection.id)
