"""Named queries about watches. "In use" is a calendar that GetBusy asked for since a moment that the caller gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import peewee

from calendar_server.core.model import CalendarId, ConnectionId, ConnectionStatus, Instant, OrganizationId, ProviderName
from calendar_server.store.database import Database, Row, chunks
from calendar_server.store.tables import BUSY, CONNECTIONS
from calendar_server.store.tables import WATCHES as W

WatchState = Literal["making", "active", "failed", "ending"]
"""``making``: the provider is being asked; ``failed``: it was, in vain; ``ending``: nobody wants it any more."""


@dataclass(frozen=True, slots=True)
class WatchRow:
    """A watch of one calendar.

    ``id`` is ours; ``remote_id`` is the provider's and empty until it has answered. ``due_at`` is when it is to be
    renewed (active), tried again (failed), stopped (ending), or given up as dead (making). ``attempts`` counts failures
    in a row. ``expires_at`` is 0 until the provider has told it.
    """

    id: str
    connection_id: ConnectionId
    calendar_id: CalendarId
    address: str
    secret_sha256: bytes = field(repr=False)
    remote_id: str
    resource_id: str
    state: WatchState
    expires_at: Instant
    due_at: Instant
    attempts: int
    created_at: Instant


@dataclass(frozen=True, slots=True)
class WatchedConnection:
    """Where to look for a connection that somebody should look after."""

    organization_id: OrganizationId
    connection_id: ConnectionId


class Watches:
    """The watches of all connections. A disconnected connection has none."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, row: WatchRow) -> None:
        """Add one."""
        self._database.change(
            W.insert(
                {
                    W.id: row.id,
                    W.connection_id: row.connection_id,
                    W.calendar_id: row.calendar_id,
                    W.address: row.address,
                    W.secret_sha256: row.secret_sha256,
                    W.remote_id: row.remote_id,
                    W.resource_id: row.resource_id,
                    W.state: row.state,
                    W.expires_at: row.expires_at,
                    W.due_at: row.due_at,
                    W.attempts: row.attempts,
                    W.created_at: row.created_at,
                }
            )
        )

    def get_many(self, ids: Sequence[str]) -> list[WatchRow]:
        """Those among these ids that are known."""
        found: list[WatchRow] = []
        for chunk in chunks(sorted(set(ids))):
            found += map(_watch, self._database.rows(W.select(*_COLUMNS).where(W.id.in_(chunk))))
        return found

    def of_connection(self, connection_id: ConnectionId) -> list[WatchRow]:
        """All of one connection, oldest first."""
        query = W.select(*_COLUMNS).where(W.connection_id == connection_id).order_by(W.created_at, W.id)
        return [_watch(row) for row in self._database.rows(query)]

    def made(self, id: str, *, remote_id: str, resource_id: str, expires_at: Instant, due_at: Instant) -> bool:
        """The provider has made it. False, and nothing changes, when it was given up meanwhile."""
        return self._update(
            id,
            {
                W.state: "active",
                W.remote_id: remote_id,
                W.resource_id: resource_id,
                W.expires_at: expires_at,
                W.due_at: due_at,
                W.attempts: 0,
            },
            W.state == "making",
        )

    def extended(self, id: str, *, expires_at: Instant, due_at: Instant) -> bool:
        """It lives longer. False, and nothing changes, when it is not active any more."""
        changes = {W.expires_at: expires_at, W.due_at: due_at, W.attempts: 0}
        return self._update(id, changes, W.state == "active")

    def put_off(self, id: str, due_at: Instant) -> bool:
        """What was due did not work. What was being made has failed; all else stays in its state."""
        failed = peewee.Case(None, [(W.state == "making", "failed")], W.state)
        return self._update(id, {W.state: failed, W.due_at: due_at, W.attempts: W.attempts + 1})

    def wait(self, ids: Sequence[str], due_at: Instant) -> None:
        """These are to be looked at again then; nothing has failed."""
        for chunk in chunks(ids):
            self._database.change(W.update({W.due_at: due_at}).where(W.id.in_(chunk)))

    def end(self, ids: Sequence[str], due_at: Instant) -> None:
        """Nobody wants these any more: from ``due_at`` on they are to be stopped."""
        for chunk in chunks(ids):
            self._database.change(W.update({W.state: "ending", W.due_at: due_at, W.attempts: 0}).where(W.id.in_(chunk)))

    def make_due(self, id: str, now: Instant) -> bool:
        """An active one is to be renewed now."""
        return self._update(id, {W.due_at: now}, W.state == "active", W.due_at > now)

    def lost(self, id: str, now: Instant) -> bool:
        """The provider has dropped an active one: another is to be made now."""
        return self._update(id, {W.state: "failed", W.due_at: now, W.attempts: 0}, W.state == "active")

    def look_at(self, connection_id: ConnectionId, now: Instant) -> None:
        """Something about the connection has changed: its watches are to be looked at now."""
        self._database.change(
            W.update({W.due_at: now}).where(W.connection_id == connection_id, W.state == "active", W.due_at > now)
        )

    def remove(self, ids: Sequence[str]) -> None:
        """Forget these."""
        for chunk in chunks(ids):
            self._database.change(W.delete().where(W.id.in_(chunk)))

    def remove_connection(self, connection_id: ConnectionId) -> None:
        """Forget all of one connection."""
        self._database.change(W.delete().where(W.connection_id == connection_id))

    def due(self, now: Instant, limit: int) -> list[WatchedConnection]:
        """At most ``limit`` connections with a watch that is due, the longest due first."""
        first = peewee.fn.MIN(W.due_at)
        query = (
            W.select(W.connection_id, CONNECTIONS.organization_id)
            .join(CONNECTIONS, on=(CONNECTIONS.id == W.connection_id))
            .where(W.due_at <= now)
            .group_by(W.connection_id, CONNECTIONS.organization_id)
            .order_by(first)
            .limit(limit)
        )
        return [_watched(row) for row in self._database.rows(query)]

    def unwatched(
        self,
        now: Instant,
        *,
        used_since: Instant,
        addresses: Mapping[ProviderName, str],
        after: ConnectionId,
        limit: int,
    ) -> list[WatchedConnection]:
        """At most ``limit`` live and active connections of these providers, by id and behind ``after``, that have a
        calendar in use which nothing watches at its provider's address, and which nobody has put off."""
        looked_after = (
            W.select(W.id)
            .where(
                W.connection_id == BUSY.connection_id,
                W.calendar_id == BUSY.calendar_id,
                W.state != "ending",
                W.address.in_(sorted(set(addresses.values()))),
                (W.due_at > now) | ((W.state == "active") & (W.expires_at > now)),
            )
            .limit(1)
        )
        query = (
            BUSY.select(BUSY.connection_id, CONNECTIONS.organization_id)
            .join(CONNECTIONS, on=(CONNECTIONS.id == BUSY.connection_id))
            .where(
                BUSY.used_at >= used_since,
                BUSY.connection_id > after,
                CONNECTIONS.disconnected_at.is_null(),
                CONNECTIONS.status == str(ConnectionStatus.ACTIVE),
                CONNECTIONS.provider.in_([str(provider) for provider in addresses]),
                ~peewee.fn.EXISTS(looked_after),
            )
            .group_by(BUSY.connection_id, CONNECTIONS.organization_id)
            .order_by(BUSY.connection_id)
            .limit(limit)
        )
        return [_watched(row) for row in self._database.rows(query)]

    def in_use(self, connection_id: ConnectionId, used_since: Instant) -> frozenset[CalendarId]:
        """The connection's calendars that are in use."""
        query = BUSY.select(BUSY.calendar_id).where(BUSY.connection_id == connection_id, BUSY.used_at >= used_since)
        return frozenset(CalendarId(row["calendar_id"]) for row in self._database.rows(query))

    def _update(self, id: str, changes: dict[Any, Any], *conditions: Any) -> bool:
        return self._database.change(W.update(changes).where(W.id == id, *conditions)) == 1


_COLUMNS = tuple(getattr(W, name) for name in W._columns)


def _watch(row: Row) -> WatchRow:
    return WatchRow(**{**row, "secret_sha256": bytes(row["secret_sha256"])})


def _watched(row: Row) -> WatchedConnection:
    return WatchedConnection(OrganizationId(row["organization_id"]), ConnectionId(row["connection_id"]))
