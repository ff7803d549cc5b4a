"""What is asked of the database and of other objects at every scrape."""

from __future__ import annotations

from enum import Enum

from calendar_server.core.model import SECOND
from calendar_server.metrics import (
    CONNECTIONS,
    EXPANDER_KILLS,
    MIRROR_LAG,
    OUTBOX,
    OUTBOX_LAG,
    PUSH_HOSTS,
    WATCHES,
    Metrics,
)
from calendar_server.providers.expander import Expander
from calendar_server.store.store import Store
from calendar_server.usecases.hosts import HostGate


class Scope(Enum):
    """What a process tells: its own numbers, or those of the whole installation as well."""

    PROCESS = "process"
    INSTALLATION = "installation"


def measure(
    metrics: Metrics, store: Store, expander: Expander, pushing: HostGate, scope: Scope, *, used_s: float
) -> None:
    """Have ``metrics`` ask these. ``used_s``: how long after the last question a connection counts as in use."""
    metrics.tell_of_process()
    metrics.told(EXPANDER_KILLS, lambda: {(): expander.killed})
    metrics.told(PUSH_HOSTS, lambda: {(state,): number for state, number in pushing.kept_from().items()})
    if scope is Scope.PROCESS:
        # The process that is scraped tells it, once.
        return

    def outbox_lag() -> dict[tuple[str, ...], float]:
        now = store.now()
        oldest = store.outbox.oldest_due(now)
        return {(): 0 if oldest is None else (now - oldest) / SECOND}

    def mirror_lag() -> dict[tuple[str, ...], float]:
        now = store.now()
        oldest = store.mirror.oldest(used_since=now - round(used_s * SECOND))
        return {(): 0 if oldest is None else max(0, now - oldest) / SECOND}

    metrics.told(OUTBOX, lambda: {(state,): number for state, number in store.outbox.counts().items()})
    metrics.told(OUTBOX_LAG, outbox_lag)
    metrics.told(MIRROR_LAG, mirror_lag)
    metrics.told(CONNECTIONS, lambda: {(*words,): number for words, number in store.connections.counts().items()})
    metrics.told(WATCHES, lambda: {(state,): number for state, number in store.watches.counts().items()})
