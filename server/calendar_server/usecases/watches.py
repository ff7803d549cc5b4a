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
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from urllib.parse import urlsplit

from calendar_server.core.model import (
    HOUR,
    MINUTE,
    SECOND,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    ProviderName,
)
from calendar_server.errors import (
    CalendarError,
    NeedsReauth,
    NotFound,
    StoreUnavailable,
)
from calendar_server.providers.base import Deadline, Link, Secret, Watcher
from calendar_server.store.store import Store
from calendar_server.store.watches import WatchedConnection, WatchRow
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.notes import Changed, Notes
from calendar_server.usecases.watch_visits import LEASE_S, Plan, Source, Visit, plan_of, sha256_of, watch_of

_log = logging.getLogger(__name__)

USED_S = 86_400.0
"""Seconds after the last GetBusy that a calendar is worth watching: longer than it is kept fresh, for a watch costs less."""
CALENDARS_MOST = 50
"""Calendars of one connection that are watched. Any more are found by looking."""
CONNECTIONS_MOST = 64
"""Connections that one turn looks after, of the due ones and of the unwatched ones each."""
THREADS = 8
END_S = 3.0
"""Seconds that Disconnect waits for all watches of a connection to be stopped."""
END_THREADS = 8
LOOK_S = 0.05
"""Seconds between two looks at a connection that a worker is looking after."""
WAIT = 10 * MINUTE
"""How often a watch is looked at whose successor cannot be made at the moment."""
ASLEEP = HOUR
"""How often the watches of a connection are looked at whose grant is refused."""
UNKNOWN = hashlib.sha256(b"").digest()

_ID = re.compile(r"[0-9a-f]{32}")
_SECRET_MOST = 128
"""Characters; Graph takes no longer `clientState`."""


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
        visit = Visit(self._store, connection, source, now)
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
                watcher.unwatch(link, watch_of(row), deadline)
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
            if hmac.compare_digest(sha256_of(secret), row.secret_sha256 if row else UNKNOWN) and row is not None:
                found[id] = row
        return found


def _items(body: object) -> list[Mapping[str, object]]:
    """The notifications in a request of Graph's; what is none is left out."""
    value = body.get("value") if isinstance(body, Mapping) else None
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
