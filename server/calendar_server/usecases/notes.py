"""Noting that calendars have changed, however often their providers say so."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from calendar_server.core.model import CalendarId, ConnectionId
from calendar_server.errors import StoreUnavailable

_log = logging.getLogger(__name__)

Changed = Callable[[ConnectionId, CalendarId], object]
"""Notes that a calendar has changed at its provider, as of now."""

QUIET_S = 1.0
"""Seconds after a note of a calendar in which another one is kept back; it is written at their end."""
NOTES_MOST = 10_000
"""Calendars whose last note is remembered. Beyond them notes are written at once, which costs no more than writes."""

_Key = tuple[ConnectionId, CalendarId]


class Notes:
    """Writes the first note of a calendar at once, and of those that follow within ``QUIET_S`` the last one.

    The last is always written after it came: a refresh that began in between has not seen what it tells of. While notes
    are kept back there is a thread, else none.
    """

    def __init__(self, changed: Changed, *, quiet_s: float = QUIET_S):
        self._changed = changed
        self._quiet_s = quiet_s
        self._lock = threading.Lock()
        self._written_at: dict[_Key, float] = {}
        self._kept: set[_Key] = set()
        self._timer: threading.Timer | None = None
        self._closed = False

    def note(self, connection_id: ConnectionId, calendar_id: CalendarId) -> None:
        """This calendar has changed. Raises what ``changed`` raises; then nothing is noted."""
        key = (connection_id, calendar_id)
        with self._lock:
            now = time.monotonic()
            if key in self._written_at and now - self._written_at[key] < self._quiet_s and not self._closed:
                self._kept.add(key)
                self._begin_waiting()
                return
            if len(self._written_at) >= NOTES_MOST:
                self._written_at = {k: at for k, at in self._written_at.items() if now - at < self._quiet_s}
            if len(self._written_at) < NOTES_MOST:
                self._written_at[key] = now
        try:
            self._changed(*key)
        except BaseException:
            with self._lock:
                self._written_at.pop(key, None)
            raise

    def close(self) -> None:
        """Write what is kept back; keep nothing back from now on."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self._write_kept()

    def _begin_waiting(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(self._quiet_s, self._write_kept)
            self._timer.daemon = True
            self._timer.start()

    def _write_kept(self) -> None:
        with self._lock:
            keys, self._kept, self._timer = self._kept, set(), None
            now = time.monotonic()
            self._written_at.update(dict.fromkeys(keys, now))
        for key in keys:
            try:
                self._changed(*key)
            except StoreUnavailable:
                _log.warning("store_unavailable")
                self._keep_again(key)
            except Exception:
                # Its freshness waits for the next look; the other calendars' must not.
                _log.exception("note_broke", extra={"connection": key[0]})

    def _keep_again(self, key: _Key) -> None:
        with self._lock:
            if not self._closed:
                self._kept.add(key)
                self._begin_waiting()
