"""One visit to a connection: what is to be done about its watches, decided first, then done.

It is for the holder of the connection's lease.
"""

from __future__ import annotations

import hashlib
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from calendar_server.core.model import DAY, HOUR, MINUTE, SECOND, CalendarId, Connection, Instant
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    NeedsReauth,
    NotFound,
    ProviderRefused,
    ProviderThrottled,
    ScopeMissing,
    StoreUnavailable,
)
from calendar_server.providers.base import Deadline, Link, Watch, Watcher
from calendar_server.store.store import Store
from calendar_server.store.watches import WatchRow

_log = logging.getLogger(__name__)

LEASE_S = 120.0
"""Seconds that one worker may look after a connection before another may."""
VISIT_S = 40.0
"""Seconds for all requests of one visit. Well below the lease, so that its holder is the only one."""
RENEW_AT = (0.7, 0.9)
"""The part of its life after which a watch is renewed: a random point between, so that not all are due at once."""
LIFE_MOST = 31 * DAY
"""No watch is believed to live longer, whatever its provider says."""
REFUSED = DAY
"""How long a refusal that trying again cannot help is believed."""
RETRY = (MINUTE, 6 * HOUR)
"""The first and the longest pause after a failure; it doubles each time."""


@dataclass(frozen=True, slots=True)
class Source:
    """A provider that tells of changes, and the address that it can reach us at."""

    watcher: Watcher
    address: str


@dataclass(slots=True)
class Plan:
    """What one visit has to do. ``make``: calendars, each with the rows that the new watch replaces.

    ``wait``: what is due and waits for something else that is put off.
    """

    forget: list[str] = field(default_factory=list)
    stop: list[WatchRow] = field(default_factory=list)
    renew: list[WatchRow] = field(default_factory=list)
    make: dict[CalendarId, list[WatchRow]] = field(default_factory=dict)
    wait: list[str] = field(default_factory=list)

    def drop(self, row: WatchRow, now: Instant) -> None:
        """Nobody wants this one."""
        if row.state in ("making", "failed") or row.expires_at <= now:
            self.forget.append(row.id)
        elif row.state == "active" or row.due_at <= now:
            self.stop.append(row)


def plan_of(rows: Iterable[WatchRow], wanted: Sequence[CalendarId], address: str, now: Instant) -> Plan:
    """What is to be done so that every wanted calendar has one watch at this address, and nothing else has any.

    It is for the holder of the connection's lease: what is still being made was begun by somebody who died.
    """
    plan = Plan()
    candidates: dict[CalendarId, list[WatchRow]] = {calendar_id: [] for calendar_id in wanted}
    for row in rows:
        if row.state == "ending" or row.calendar_id not in candidates:
            plan.drop(row, now)
        else:
            candidates[row.calendar_id].append(row)
    for calendar_id, there in candidates.items():
        here = [row for row in there if row.address == address]
        live = [row for row in here if row.state == "active" and row.expires_at > now]
        if live:
            for row in there:
                if row is not live[-1]:
                    plan.drop(row, now)
            if live[-1].due_at <= now:
                plan.renew.append(live[-1])
        elif not any(row.state != "making" and row.due_at > now for row in here):
            plan.make[calendar_id] = there
        else:
            plan.wait += [row.id for row in there if row.due_at <= now]
    return plan


@dataclass(frozen=True, slots=True)
class _Later:
    """It did not work, and is to be tried again then."""

    at: Instant


class Visit:
    """The requests of one visit to one connection. ``NeedsReauth`` and ``NotFound`` end it."""

    def __init__(self, store: Store, connection: Connection, source: Source, now: Instant):
        self._store = store
        self._connection = connection
        self._source = source
        self._now = now
        self._deadline = Deadline.after(VISIT_S)
        self._halted: CalendarError | None = None

    def halt(self, error: CalendarError) -> None:
        """Ask nothing any more; put off what would have been asked."""
        self._halted = error

    def carry_out(self, plan: Plan, link: Link) -> None:
        """Make first, stop last: a gap costs freshness, a watch too many costs next to nothing."""
        for calendar_id, replaced in plan.make.items():
            self._make(link, calendar_id, replaced)
        for row in plan.renew:
            self._renew(link, row)
        for row in plan.stop:
            self._stop(link, row)

    def _make(self, link: Link, calendar_id: CalendarId, replaced: Sequence[WatchRow]) -> None:
        id = secrets.token_hex(16)
        secret = f"{id}.{secrets.token_urlsafe(32)}"
        attempts = max((row.attempts for row in replaced if row.address == self._source.address), default=0)
        row = WatchRow(
            id=id,
            connection_id=self._connection.id,
            calendar_id=calendar_id,
            address=self._source.address,
            secret_sha256=sha256_of(secret),
            remote_id="",
            resource_id="",
            state="making",
            expires_at=0,
            due_at=self._now + round(LEASE_S * SECOND),
            attempts=attempts,
            created_at=self._now,
        )
        former = [each for each in replaced if each.state == "active" and each.expires_at > self._now]
        with self._store.transaction():
            self._store.watches.remove([each.id for each in replaced if each not in former])
            self._store.watches.add(row)
        answer = self._asked(
            lambda: self._source.watcher.watch(
                link, calendar_id, address=self._source.address, id=id, secret=secret, deadline=self._deadline
            ),
            attempts,
        )
        if not isinstance(answer, Watch):
            self._not_made(row, former, answer)
            return
        expires_at, due_at = self._times(answer)
        kept = self._store.watches.made(
            id, remote_id=answer.id, resource_id=answer.resource_id, expires_at=expires_at, due_at=due_at
        )
        if not kept:
            # We took longer than our lease, and whoever came after us has given this one up.
            self._asked(lambda: self._source.watcher.unwatch(link, answer, self._deadline), 0)
        for each in former:
            self._stop(link, each)

    def _not_made(self, row: WatchRow, former: Sequence[WatchRow], answer: _Later | None) -> None:
        later = answer or _Later(self._now + REFUSED)
        current = [each for each in former if each.address == row.address]
        with self._store.transaction():
            if current:
                # There still is one. It is what was due, and what is due again.
                self._store.watches.remove([row.id])
            for each in current or [row]:
                self._store.watches.put_off(each.id, later.at)

    def _renew(self, link: Link, row: WatchRow) -> None:
        answer = self._asked(lambda: self._source.watcher.extend(link, watch_of(row), self._deadline), row.attempts)
        if isinstance(answer, _Later):
            self._store.watches.put_off(row.id, answer.at)
        elif answer is None:
            self._make(link, row.calendar_id, [row])
        else:
            expires_at, due_at = self._times(answer)
            self._store.watches.extended(row.id, expires_at=expires_at, due_at=due_at)

    def _stop(self, link: Link, row: WatchRow) -> None:
        if row.state != "ending":
            self._store.watches.end([row.id], self._now)
        attempts = row.attempts if row.state == "ending" else 0
        answer = self._asked(lambda: self._source.watcher.unwatch(link, watch_of(row), self._deadline), attempts)
        if isinstance(answer, _Later):
            self._store.watches.put_off(row.id, answer.at)
        else:
            self._store.watches.remove([row.id])

    def _asked(self, ask: Callable[[], Watch | None], attempts: int) -> Watch | _Later | None:
        """What the provider answers, or when to ask again. A throttled provider is asked nothing more."""
        try:
            if self._halted is not None:
                raise self._halted
            return ask()
        except (NeedsReauth, NotFound, StoreUnavailable):
            raise
        except CalendarError as error:
            if isinstance(error, (ProviderThrottled, ScopeMissing)):
                self._halted = error
            _log.info(
                "watch_failed",
                extra={
                    "connection": self._connection.id,
                    "provider": self._connection.provider,
                    "reason": error.reason,
                },
            )
            return _Later(self._now + pause_after(error, attempts))

    def _times(self, watch: Watch) -> tuple[Instant, Instant]:
        """When it ends, and when to renew it: fixed now, at a random point, so that not all are renewed at once."""
        expires_at = min(watch.expires_at, self._now + LIFE_MOST)
        part = random.uniform(*RENEW_AT)  # noqa: S311 — spreads load, keeps no secret
        return expires_at, max(self._now + MINUTE, self._now + round((expires_at - self._now) * part))


def pause_after(error: CalendarError, attempts: int) -> Instant:
    """How long to wait after a failure, ``attempts`` others having gone before it."""
    if isinstance(error, (ProviderRefused, CalendarGone, ScopeMissing)):
        return REFUSED
    first, longest = RETRY
    jitter = random.uniform(0.8, 1.2)  # noqa: S311 — spreads load, keeps no secret
    doubled = min(longest, first << min(attempts, 20))
    return max(round(doubled * jitter), round((error.retry_after_s or 0) * SECOND))


def watch_of(row: WatchRow) -> Watch:
    return Watch(row.remote_id, row.resource_id, row.expires_at)


def sha256_of(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()
