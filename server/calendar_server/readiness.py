"""Whether a process should get calls, and what an operator should know although it should."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from calendar_server.errors import StoreUnavailable
from calendar_server.store.store import Store
from calendar_server.vault import Vault

_log = logging.getLogger(__name__)

KEEP_S = 1.0
"""Seconds that an answer is told again: anybody may ask, and the database is not theirs."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``problem``: empty when all is well. ``keeps_calls``: calls can be answered rightly
    all the same."""

    name: str
    problem: str = ""
    keeps_calls: bool = False


class Readiness:
    """Looks at what calls need. ``alive``: by name, whether a process beside this one runs.

    A worker that is down makes nobody unready: what is acknowledged is stored, and pushed when it is back. It is told
    nevertheless.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        stopping: threading.Event,
        alive: Mapping[str, Callable[[], bool]] | None = None,
    ):
        self._store = store
        self._vault = vault
        self._stopping = stopping
        self._alive = dict(alive or {})
        self._lock = threading.Lock()
        self._kept: tuple[float, list[Check]] | None = None

    def checks(self) -> list[Check]:
        """Everything, looked at within the last second. Never raises."""
        if self._stopping.is_set():
            return [Check("process", "this process is being stopped")]
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] >= KEEP_S:
                self._kept = (time.monotonic(), [*self._of_store(), *self._of_processes()])
            return self._kept[1]

    def _of_store(self) -> Sequence[Check]:
        try:
            self._store.ping()
        except StoreUnavailable:
            return [Check("database", "the database is out of reach")]
        try:
            pending = self._store.pending_migrations()
            known = self._store.vault_keys.all() if not pending else {}
        except StoreUnavailable as error:
            return [Check("database"), Check("migrations", error.message)]
        if pending:
            waiting = f"{', '.join(pending)} not applied; run `calendar-server migrate`"
            return [Check("database"), Check("migrations", waiting)]
        wrong = [kid for kid in self._vault.kids if kid not in known or not self._vault.opens_check(kid, known[kid])]
        problem = f"the key {', '.join(wrong)} is not the one that this database was written with" if wrong else ""
        return [Check("database"), Check("migrations"), Check("master keys", problem)]

    def _of_processes(self) -> Sequence[Check]:
        return [
            Check(name, "" if alive() else "is not running; it is being started again", keeps_calls=True)
            for name, alive in self._alive.items()
        ]


def ready(checks: Sequence[Check]) -> bool:
    """Whether calls can be answered rightly."""
    return not any(check.problem and not check.keeps_calls for check in checks)
