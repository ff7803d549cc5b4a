"""Hints that answers about connections may have changed, across threads, processes and machines.

A hint only ever makes somebody look earlier. Whoever keeps answers looks at their versions before each use (`mirror`),
so a hint that is lost, late or doubled costs time, never truth.

SQLite: a commit of this process is told at once; others' are found by looking at the file's own counter. Postgres:
LISTEN and NOTIFY; a broken line is dialled anew, and everybody who waits is woken then, for something may have been missed.
The NOTIFY follows the commit in a transaction of its own: inside it, it would make all commits of the database queue.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

import psycopg

from calendar_server.store.database import Database
from calendar_server.store.errors import StoreError

_log = logging.getLogger(__name__)

CHANNEL = "calendar_changes"
LOOK_S = 0.05
"""Seconds between two looks at SQLite's counter, while somebody waits."""
STOP_S = 0.1
"""Seconds within which one who waits notices that it is to stop."""
REDIAL_S = 1.0
QUIET_S = 10.0
"""Seconds after which a silent line to Postgres is proved."""
TELL_S = 0.01
"""Seconds in which changes are gathered for one NOTIFY."""


class Changes:
    """Waits for changes, and tells of them. Its threads begin with the first ``wait`` or the first change to tell."""

    def __init__(self, database: Database):
        self._database = database
        self._condition = threading.Condition()
        self._count = 0
        self._closed = threading.Event()
        self._listener: threading.Thread | None = None
        self._teller: threading.Thread | None = None
        self._untold = threading.Event()
        self._waiting = 0
        database.told.append(self._own)

    @property
    def count(self) -> int:
        """Grows with every hint. Taken before a look, it tells ``wait`` what was seen already."""
        return self._count

    def wait(self, seen: int, seconds: float, stop: threading.Event) -> int:
        """Wait until there are more hints than ``seen``, at most ``seconds``, or until ``stop``. Answers the count."""
        self._listen()
        until = time.monotonic() + seconds
        with self._condition:
            self._waiting += 1
            try:
                while self._count == seen and not stop.is_set() and not self._closed.is_set():
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._condition.wait(min(left, STOP_S))
            finally:
                self._waiting -= 1
            return self._count

    def wake(self) -> None:
        """Let everybody who waits look."""
        with self._condition:
            self._count += 1
            self._condition.notify_all()

    def close(self) -> None:
        """End the threads and all waiting."""
        self._closed.set()
        self._untold.set()
        self.wake()
        for thread in (self._listener, self._teller):
            if thread is not None:
                thread.join(REDIAL_S + 5)

    def _own(self, connection_ids: set[str]) -> None:
        """A transaction of this process has changed answers."""
        self.wake()
        if self._database.is_sqlite or self._closed.is_set():
            return
        self._untold.set()
        with self._condition:
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell, name="tell", daemon=True)
                self._teller.start()

    def _tell(self) -> None:
        line: Any = None
        try:
            while not self._closed.is_set():
                self._untold.wait()
                self._closed.wait(TELL_S)
                self._untold.clear()
                if self._closed.is_set():
                    return
                try:
                    if line is None:
                        line = self._database.dial()
                        # Nothing is to be kept, so that no disk is waited for. This line is used for nothing else.
                        line.execute("SET synchronous_commit = off")
                    line.execute(f"NOTIFY {CHANNEL}")
                except (psycopg.Error, StoreError, OSError):
                    # The others look from time to time anyway.
                    _hang_up(line)
                    line = None
                    self._closed.wait(REDIAL_S)
        finally:
            _hang_up(line)

    def _listen(self) -> None:
        with self._condition:
            if self._listener is None and not self._closed.is_set():
                run = self._look if self._database.is_sqlite else self._hear
                self._listener = threading.Thread(target=run, name="listen", daemon=True)
                self._listener.start()

    def _look(self) -> None:
        seen: int | None = -1
        while not self._closed.wait(LOOK_S):
            if not self._waiting:
                continue
            with contextlib.suppress(StoreError):
                version = self._database.data_version()
                if version != seen:
                    seen = version
                    self.wake()

    def _hear(self) -> None:
        while not self._closed.is_set():
            raw: Any = None
            try:
                raw = self._database.dial()
                raw.execute(f"LISTEN {CHANNEL}")
                self.wake()
                heard = time.monotonic()
                while not self._closed.is_set():
                    for _ in raw.notifies(timeout=0.5, stop_after=1):
                        heard = time.monotonic()
                        self.wake()
                    if time.monotonic() - heard > QUIET_S:
                        raw.execute("SELECT 1")
                        heard = time.monotonic()
            except (psycopg.Error, StoreError, OSError):
                _log.warning("listening_broke")
                self._closed.wait(REDIAL_S)
            finally:
                _hang_up(raw)


def _hang_up(line: Any) -> None:
    if line is not None:
        with contextlib.suppress(psycopg.Error):
            line.close()
