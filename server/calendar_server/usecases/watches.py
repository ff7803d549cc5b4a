"""Watches: providers tell us of changes, so that a refresh comes early.

They are a convenience: notifications get lost, and what is lost costs freshness until the next look, never truth. A
watch that cannot be made is therefore no failure of its connection. Life of a watch:

    making ── made ──▶ active ── due ──▶ extended, or another is made and then this one is ending
       │                 │
       ▼                 ▼ nobody wants it, or another is there
    failed ◀─ dropped  ending ── stopped, or over ──▶ forgotten

A row is stored before its provider is asked, and its id is in every notification: so the first one, which may come before
the answer does, is known.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import random
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from calendar_server.core.model import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    ProviderName,
)
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
from calendar_server.providers.base import Deadline, Link, Secret, Watch, Watcher
from calendar_server.store.store import Store
from calendar_server.store.watches import WatchedConnection, WatchRow
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.notes import Changed, Notes

_log = logging.getLogger(__name__)

USED_S = 86_400.0
"""Seconds after the last GetBusy that a calendar is worth watching: longer than it is kept fresh, for a watch costs less."""
CALENDARS_MOST = 50
"""Calendars of one connection that are watched. Any more are found by looking."""
CONNECTIONS_MOST = 64
"""Connections that one turn looks after, of the due ones and of the unwatched ones each."""
THREADS = 8
LEASE_S = 120.0
"""Seconds that one worker may look after a connection before another may."""
VISIT_S = 40.0
"""Seconds for all requests of one visit. Well below the lease, so that its holder is the only one."""
END_S = 3.0
"""Seconds that Disconnect waits for all watches of a connection to be stopped."""
END_THREADS = 8
LOOK_S = 0.05
"""Seconds between two looks at a connection that a worker is looking after."""
RENEW_AT = (0.7, 0.9)
"""The part of its life after which a watch is renewed: a random point between, so that not all are due at once."""
LIFE_MOST = 31 * DAY
"""No watch is believed to live longer, whatever its provider says."""
REFUSED = DAY
"""How long a refusal that trying again cannot help is believed."""
WAIT = 10 * MINUTE
"""How often a watch is looked at whose successor cannot be made at the moment."""
ASLEEP = HOUR
"""How often the watches of a connection are looked at whose grant is refused."""
RETRY = (MINUTE, 6 * HOUR)
"""The first and the longest pause after a failure; it doubles each time."""
UNKNOWN = hashlib.sha256(b"").digest()

_ID = re.compile(r"[0-9a-f]{32}")
_SECRET_MOST = 128
"""Characters; Graph takes no longer `clientState`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A provider that tells of changes, and the address that it can reach us at."""

    watcher: Watcher
    address: str


def reaches(api_url: str, public_url: str) -> bool:
    """Whether the provider whose API is at ``api_url`` can reach us at ``public_url``.

    Not when that is an address of this machine alone, unless the provider is on it as well (development and tests).
    """
    return not _is_local(public_url) or _is_local(api_url)


def _is_local(url: str) -> bool:
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return True
    if host in ("", "localhost") or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


class Watches:
    """Keeps calendars in use watched, and takes what their providers tell.

    ``sources``: the providers that can reach us; with none of them nothing is ever asked or known. ``changed`` notes
    that a calendar has changed; it must be cheap. A calendar is in use for ``used_s`` seconds after GetBusy asked for it.
    """

    def __init__(
        self,
        store: Store,
        grants: Grants,
        sources: Mapping[ProviderName, Source],
        *,
        changed: Changed,
        used_s: float = USED_S,
        connections_most: int = CONNECTIONS_MOST,
    ):
        self._store = store
        self._grants = grants
        self._sources = dict(sources)
        self._notes = Notes(changed)
        self._used = round(used_s * SECOND)
        self._connections_most = connections_most
        self._after = ConnectionId("")

    def close(self) -> None:
        """Write down what is noted and not yet written."""
        self._notes.close()

    # What the worker does.

    def keep(self, now: Instant) -> int:
        """One turn: make, renew and stop what is due. Answers how many connections were looked at.

        Bounded; it is to be called again at once when it answers more than nothing, else after a second or so.
        """
        if not self._sources:
            return 0
        connections = {found.connection_id: found for found in (*self._unwatched(now), *self._due(now))}
        if not connections:
            return 0
        with ThreadPoolExecutor(min(THREADS, len(connections)), thread_name_prefix="watch") as threads:
            visited = list(threads.map(lambda found: self._visit(found, now), connections.values()))
        return sum(visited)

    def _due(self, now: Instant) -> Sequence[WatchedConnection]:
        return self._store.watches.due(now, self._connections_most)

    def _unwatched(self, now: Instant) -> Sequence[WatchedConnection]:
        """A part of all, and the next part at the next turn: a connection that cannot be helped holds up no other."""
        found = self._store.watches.unwatched(
            now,
            used_since=now - self._used,
            addresses={name: source.address for name, source in self._sources.items()},
            after=self._after,
            limit=self._connections_most,
        )
        self._after = found[-1].connection_id if len(found) == self._connections_most else ConnectionId("")
        return found

    def _visit(self, found: WatchedConnection, now: Instant) -> bool:
        """Look after one connection, if nobody else does. False: there was nothing to do, or not for us.

        Never raises for a provider's sake.
        """
        name = f"watch:{found.connection_id}"
        try:
            if not self._planned(found, now):
                return False
            token = self._store.leases.take(name, LEASE_S)
            if token is None:
                return False
            try:
                self._look_after(found, now)
            finally:
                self._store.leases.give_back(name, token)
        except StoreUnavailable:
            _log.warning("store_unavailable")
            return False
        except Exception:
            _log.exception("watch_broke", extra={"connection": found.connection_id})
            self._put_off_all(found.connection_id, now)
            return False
        return True

    def _put_off_all(self, connection_id: ConnectionId, now: Instant) -> None:
        """What breaks must not break at every turn."""
        try:
            for row in self._store.watches.of_connection(connection_id):
                if row.due_at <= now:
                    self._store.watches.put_off(row.id, now + ASLEEP)
        except StoreUnavailable:
            _log.warning("store_unavailable")

    def _look_after(self, found: WatchedConnection, now: Instant) -> None:
        """Inside the lease: look again, then act."""
        planned = self._planned(found, now)
        if planned is None:
            return
        connection, source, plan = planned
        self._store.watches.remove(plan.forget)
        self._store.watches.wait(plan.wait, now + WAIT)
        if not (plan.make or plan.renew or plan.stop):
            return
        visit = _Visit(self._store, connection, source, now)
        try:
            with self._grants.use(connection) as link:
                visit.carry_out(plan, link)
        except NotFound:
            # Disconnected under our hands.
            self._store.watches.remove_connection(connection.id)
        except NeedsReauth:
            self._put_off_all(connection.id, now)
        except StoreUnavailable:
            raise
        except CalendarError as error:
            # The grant could not be renewed just now; nothing was asked.
            visit.halt(error)
            visit.carry_out(plan, Link(connection, Secret({})))

    def _planned(self, found: WatchedConnection, now: Instant) -> tuple[Connection, Source, Plan] | None:
        """What is to be done for a connection; None when that is nothing. Only reads where it can."""
        connection = self._store.connections.get(found.organization_id, found.connection_id)
        if connection is None:
            self._store.watches.remove_connection(found.connection_id)
            return None
        rows = self._store.watches.of_connection(found.connection_id)
        source = self._sources.get(connection.provider)
        if source is None or connection.status is not ConnectionStatus.ACTIVE:
            # Nothing can be asked: let them end, and look again later.
            self._store.watches.remove([row.id for row in rows if 0 < row.expires_at <= now])
            self._put_off_all(connection.id, now)
            return None
        wanted = self._store.watches.in_use(connection.id, now - self._used).intersection(connection.busy_calendar_ids)
        plan = plan_of(rows, sorted(wanted)[:CALENDARS_MOST], source.address, now)
        return (connection, source, plan) if plan != Plan() else None

    # What Disconnect does.

    def end(self, connection: Connection) -> None:
        """Stop all watches of a connection that is about to be disconnected, as far as ``END_S`` seconds allow.

        What is not stopped ends by itself; nobody knows its notifications any more.
        """
        source = self._sources.get(connection.provider)
        if source is None or connection.status is not ConnectionStatus.ACTIVE:
            return
        if not self._store.watches.of_connection(connection.id):
            return
        deadline = Deadline.after(END_S)
        name = f"watch:{connection.id}"
        token = self._store.leases.take(name, LEASE_S)
        while token is None and deadline.remaining() > END_S / 2:
            # A worker may be making one at this moment, which is to be stopped as well.
            time.sleep(LOOK_S)
            token = self._store.leases.take(name, LEASE_S)
        try:
            with self._grants.use(connection, wait_s=deadline.remaining()) as link:
                self._end_all(source.watcher, link, deadline)
        except StoreUnavailable:
            raise
        except CalendarError as error:
            _log.warning("unwatch_failed", extra={"connection": connection.id, "reason": error.reason})
        finally:
            if token is not None:
                self._store.leases.give_back(name, token)

    def _end_all(self, watcher: Watcher, link: Link, deadline: Deadline) -> None:
        rows = [row for row in self._store.watches.of_connection(link.connection.id) if row.remote_id]

        def stop(row: WatchRow) -> None:
            try:
                watcher.unwatch(link, _watch(row), deadline)
            except CalendarError as error:
                _log.warning("unwatch_failed", extra={"connection": link.connection.id, "reason": error.reason})

        with ThreadPoolExecutor(END_THREADS, thread_name_prefix="unwatch") as threads:
            list(threads.map(stop, rows))

    # What providers tell.

    def notified_google(self, headers: Mapping[str, str]) -> None:
        """Take one notification, of which Google says all in the head. ``headers`` by lower-case name.

        Returns alike for a true one and a forged one. Raises ``StoreUnavailable`` when it could not be noted: it should
        come again then.
        """
        id = headers.get("x-goog-channel-id", "")
        row = self._verified([(id, headers.get("x-goog-channel-token", ""))]).get(id)
        # "sync" says that the channel was opened, and nothing has changed.
        if row is not None and headers.get("x-goog-resource-state", "") != "sync":
            self._notes.note(row.connection_id, row.calendar_id)

    def notified_microsoft(self, body: object) -> None:
        """Take one request, which may hold notifications of several subscriptions. See ``notified_google``."""
        told: dict[str, tuple[str, set[str]]] = {}
        for item in _items(body):
            secret, event = item.get("clientState"), item.get("lifecycleEvent", "")
            if isinstance(secret, str):
                _, events = told.setdefault(secret, (secret.partition(".")[0], set()))
                events.add(event if isinstance(event, str) else "")
        rows = self._verified([(id, secret) for secret, (id, _) in told.items()])
        for id, events in told.values():
            row = rows.get(id)
            if row is not None:
                self._take(row, events)

    def _take(self, row: WatchRow, events: set[str]) -> None:
        """https://learn.microsoft.com/graph/change-notifications-lifecycle-events"""
        if "subscriptionRemoved" in events:
            self._store.watches.lost(row.id, self._store.now())
        elif "reauthorizationRequired" in events:
            self._store.watches.make_due(row.id, self._store.now())
        # Whatever else is told, also what we do not know, may mean that something has changed.
        if events != {"reauthorizationRequired"}:
            self._notes.note(row.connection_id, row.calendar_id)

    def _verified(self, told: Sequence[tuple[str, str]]) -> dict[str, WatchRow]:
        """The watches whose id and secret these are. An unknown id costs the same comparison as a wrong secret."""
        sent = {id: secret for id, secret in told if _ID.fullmatch(id) and len(secret) <= _SECRET_MOST}
        if not sent:
            return {}
        rows = {row.id: row for row in self._store.watches.get_many(list(sent))}
        found: dict[str, WatchRow] = {}
        for id, secret in sent.items():
            row = rows.get(id)
            if hmac.compare_digest(_sha256(secret), row.secret_sha256 if row else UNKNOWN) and row is not None:
                found[id] = row
        return found


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


class _Visit:
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
            secret_sha256=_sha256(secret),
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
        answer = self._asked(lambda: self._source.watcher.extend(link, _watch(row), self._deadline), row.attempts)
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
        answer = self._asked(lambda: self._source.watcher.unwatch(link, _watch(row), self._deadline), attempts)
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


def _watch(row: WatchRow) -> Watch:
    return Watch(row.remote_id, row.resource_id, row.expires_at)


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _items(body: object) -> list[Mapping[str, object]]:
    """The notifications in a request of Graph's; what is none is left out."""
    value = body.get("value") if isinstance(body, Mapping) else None
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
