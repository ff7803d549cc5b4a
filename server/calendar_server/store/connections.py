"""Named queries about connections. "Live" is one that was not disconnected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import peewee

from calendar_server.core.model import (
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.store.database import CHUNK, LOCKED, Database, Row, Statement, chunks
from calendar_server.store.errors import AlreadyThere
from calendar_server.store.rows import SealedGrant
from calendar_server.store.tables import CONNECTIONS as C

BATCH = 200
"""Rows read at once when all are gone through."""

_LIVE = C.disconnected_at.is_null()
NAMES = tuple(name for name in C._columns if name not in ("sealed_grant", "disconnected_at"))
_COLUMNS = tuple(getattr(C, name) for name in NAMES)
_SELECT = f"SELECT {', '.join(NAMES)} FROM connections WHERE disconnected_at IS NULL"  # noqa: S608
_GET = f"{_SELECT} AND organization_id = ? AND id = ?"
_OF_OWNER = f"{_SELECT} AND organization_id = ? AND owner = ? ORDER BY id"


class Connections:
    """The connections of all organizations.

    Inside a transaction, ``get_many``, ``of_owner``, ``get_for_update`` and ``lock`` keep what they answer from others'
    changes until it ends. They lock in the order of ids, so that two transactions do not wait for each other in a ring.
    """

    def __init__(self, database: Database):
        self._database = database

    def add(self, connection: Connection, sealed_grant: str) -> None:
        """Add a live one. Raises ``AlreadyThere`` for a second live one of the same account and owner.

        A transaction may go on after that: nothing was changed.
        """
        query = C.insert(
            {
                C.id: connection.id,
                C.organization_id: connection.organization_id,
                C.owner: connection.owner,
                C.provider: str(connection.provider),
                C.subject: connection.subject,
                C.account_email: connection.account_email,
                C.calendar_id: connection.calendar_id,
                C.busy_calendar_ids: json.dumps(connection.busy_calendar_ids),
                C.status: str(connection.status),
                C.sync_status: str(connection.sync_status),
                C.sync_error: connection.sync_error,
                C.last_sync_at: connection.last_sync_at,
                C.connected_at: connection.connected_at,
                C.grant_version: connection.grant_version,
                C.settings: json.dumps(dict(connection.settings)),
                C.sealed_grant: sealed_grant,
                C.disconnected_at: None,
            }
        ).on_conflict(
            action="nothing",
            conflict_target=("organization_id", "owner", "provider", "subject"),
            conflict_where=peewee.SQL("disconnected_at IS NULL"),
        )
        with self._database.joined():
            if not self._database.change(query):
                raise AlreadyThere()
            self._database.touch([connection.id])

    def get(self, organization_id: OrganizationId, connection_id: ConnectionId) -> Connection | None:
        """The live one with this id."""
        rows = self._database.fetch(_GET, (organization_id, connection_id))
        return of_values(rows[0]) if rows else None

    def find(self, connection_id: ConnectionId) -> Connection | None:
        """The live connection with this id, whoever's it is: for operators, never for callers."""
        return self._one(C.id == connection_id)

    def get_for_update(self, organization_id: OrganizationId, connection_id: ConnectionId) -> Connection | None:
        """The live one with this id, as nobody else will change it before the transaction ends."""
        query = C.select(*_COLUMNS).where(_LIVE, C.organization_id == organization_id, C.id == connection_id)
        row = self._database.row(self._database.locking(query))
        return None if row is None else _connection(row)

    def exists(self, organization_id: OrganizationId, connection_id: ConnectionId) -> bool:
        """Whether there is or ever was one with this id."""
        query = C.select(C.id).where(C.organization_id == organization_id, C.id == connection_id)
        return self._database.row(query) is not None

    def get_many(self, organization_id: OrganizationId, connection_ids: Sequence[ConnectionId]) -> list[Connection]:
        """The live ones among these ids, by id."""
        found: list[Connection] = []
        for chunk in chunks(sorted(set(connection_ids))):
            rows = self._database.fetch(*_get_many(organization_id, chunk, self._database.locked))
            found += map(of_values, rows)
        return found

    def of_owner(self, organization_id: OrganizationId, owner: str) -> list[Connection]:
        """The live ones of an owner, oldest first."""
        rows = self._database.fetch(f"{_OF_OWNER}{self._database.locked}", (organization_id, owner))
        found = map(of_values, rows)
        return sorted(found, key=lambda connection: (connection.connected_at, connection.id))

    def by_subject(
        self, organization_id: OrganizationId, owner: str, provider: ProviderName, subject: str
    ) -> Connection | None:
        """The live one of an account."""
        return self._one(
            C.organization_id == organization_id,
            C.owner == owner,
            C.provider == str(provider),
            C.subject == subject,
        )

    def successor(self, connection_id: ConnectionId) -> Connection | None:
        """The live one of the same organization, owner and account as this disconnected one."""
        former = C.alias("former")
        same = (
            (former.organization_id == C.organization_id)
            & (former.owner == C.owner)
            & (former.provider == C.provider)
            & (former.subject == C.subject)
        )
        query = (
            C.select(*_COLUMNS)
            .join(former, on=same)
            .where(_LIVE, former.id == connection_id, former.disconnected_at.is_null(False))
        )
        row = self._database.row(query)
        return None if row is None else _connection(row)

    def page(
        self,
        organization_id: OrganizationId,
        *,
        ids: Sequence[ConnectionId] = (),
        owner: str | None = None,
        provider: ProviderName | None = None,
        status: ConnectionStatus | None = None,
        before: tuple[Instant, str] | None = None,
        limit: int,
    ) -> list[Connection]:
        """At most ``limit`` live ones, newest first, that come after the key ``before``: (connected_at, id).

        No ``ids``: any. ``owner`` None: any; empty: those without one.
        """
        query = C.select(*_COLUMNS).where(_LIVE, C.organization_id == organization_id)
        if owner is not None:
            query = query.where(C.owner == owner)
        if provider is not None:
            query = query.where(C.provider == str(provider))
        if status is not None:
            query = query.where(C.status == str(status))
        if before is not None:
            at, connection_id = before
            # The first condition follows from the second; it is what the index can begin at.
            query = query.where(
                C.connected_at <= at, (C.connected_at < at) | ((C.connected_at == at) & (C.id < connection_id))
            )
        query = query.order_by(C.connected_at.desc(), C.id.desc()).limit(limit)
        asked = [query.where(C.id.in_(chunk)) for chunk in chunks(sorted(set(ids)))] if ids else [query]
        found = [_connection(row) for each in asked for row in self._database.rows(each)]
        return sorted(found, key=lambda connection: (connection.connected_at, connection.id), reverse=True)[:limit]

    def renew(
        self, connection_id: ConnectionId, *, sealed_grant: str, account_email: str, settings: Mapping[str, str]
    ) -> None:
        """Store a new grant: the connection is active again. Does nothing to a disconnected one."""
        self._update(
            connection_id,
            {
                C.sealed_grant: sealed_grant,
                C.account_email: account_email,
                C.settings: json.dumps(dict(settings)),
                C.grant_version: C.grant_version + 1,
                C.status: str(ConnectionStatus.ACTIVE),
                C.sync_status: str(SyncStatus.CONNECTED),
                C.sync_error: None,
            },
            shown=True,
        )

    def choose(
        self, connection_id: ConnectionId, *, calendar_id: CalendarId, busy_calendar_ids: Sequence[CalendarId]
    ) -> None:
        """Store which calendar receives bookings and which ones block."""
        self._update(
            connection_id,
            {C.calendar_id: calendar_id, C.busy_calendar_ids: json.dumps(list(busy_calendar_ids))},
            shown=True,
        )

    def note_success(self, connection_id: ConnectionId, at: Instant, grant_version: int) -> None:
        """A conversation with this grant went well. Says nothing of a newer grant, nor revives a refused one."""
        self.note_successes([(connection_id, grant_version)], at)

    def note_successes(self, grants: Sequence[tuple[ConnectionId, int]], at: Instant) -> None:
        """The same of several, each with the version of its grant."""
        self._database.execute_many(
            "UPDATE connections SET sync_status = 'connected', sync_error = NULL, last_sync_at = "
            "CASE WHEN last_sync_at > ? THEN last_sync_at ELSE ? END "
            "WHERE disconnected_at IS NULL AND id = ? AND status = 'active' AND grant_version = ?",
            [(at, at, connection_id, version) for connection_id, version in grants],
        )

    def note_failure(self, connection_id: ConnectionId, message: str) -> None:
        """A conversation failed for another reason than a refused grant."""
        self._update(
            connection_id,
            {C.sync_status: str(SyncStatus.ERROR), C.sync_error: message},
            C.status == str(ConnectionStatus.ACTIVE),
        )

    def note_refusal(self, connection_id: ConnectionId, grant_version: int, message: str) -> bool:
        """The provider refused this grant. False, and nothing changes, when there is a newer one."""
        return self._update(
            connection_id,
            {
                C.status: str(ConnectionStatus.NEEDS_REAUTH),
                C.sync_status: str(SyncStatus.EXPIRED),
                C.sync_error: message,
            },
            C.grant_version == grant_version,
            shown=True,
        )

    def grant(self, connection_id: ConnectionId) -> SealedGrant | None:
        """The grant as it is stored. None: disconnected, or unknown."""
        rows = self._database.fetch(
            "SELECT sealed_grant, grant_version FROM connections WHERE disconnected_at IS NULL AND id = ?",
            (connection_id,),
        )
        return SealedGrant(*rows[0]) if rows else None

    def grants(self, connection_ids: Sequence[ConnectionId]) -> dict[ConnectionId, SealedGrant]:
        """The grants as they are stored, of those among them that are live."""
        found: dict[ConnectionId, SealedGrant] = {}
        for chunk in chunks(sorted(set(connection_ids))):
            marks = ", ".join("?" * len(chunk))
            sql = (
                "SELECT id, sealed_grant, grant_version FROM connections "  # noqa: S608 — only marks are put in
                f"WHERE disconnected_at IS NULL AND id IN ({marks})"
            )
            found |= {row[0]: SealedGrant(*row[1:]) for row in self._database.fetch(sql, chunk)}
        return found

    def is_live(self, connection_id: ConnectionId) -> bool:
        """Whether it is known and was not disconnected."""
        # Before every exchange with a provider, so it is written out: building a query costs more than running it.
        sql = "SELECT 1 FROM connections WHERE disconnected_at IS NULL AND id = ?"
        return bool(self._database.fetch(sql, (connection_id,)))

    def blocking(self, connection_ids: Sequence[ConnectionId]) -> dict[ConnectionId, frozenset[CalendarId]]:
        """Which calendars block of each live one among them. The disconnected are left out."""
        found: dict[ConnectionId, frozenset[CalendarId]] = {}
        for chunk in chunks(sorted(set(connection_ids))):
            marks = ", ".join("?" * len(chunk))
            sql = f"SELECT id, busy_calendar_ids FROM connections WHERE disconnected_at IS NULL AND id IN ({marks})"  # noqa: S608
            found |= {row[0]: frozenset(json.loads(row[1])) for row in self._database.fetch(sql, chunk)}
        return found

    def shared(self, connection_id: ConnectionId) -> bool:
        """Whether another live connection, of any organization, holds the same account."""
        mine = self._database.row(C.select(C.provider, C.subject).where(C.id == connection_id))
        if mine is None:
            return False
        query = C.select(C.id).where(
            _LIVE, C.provider == mine["provider"], C.subject == mine["subject"], C.id != connection_id
        )
        return self._database.row(query.limit(1)) is not None

    def lock(self, connection_ids: Sequence[ConnectionId]) -> None:
        """Inside a transaction: nobody else changes these, nor locks them, before it ends."""
        if self._database.is_sqlite:
            # Whose only writer is this transaction.
            return
        for chunk in chunks(sorted(set(connection_ids))):
            self._database.rows(self._database.locking(C.select(C.id).where(C.id.in_(chunk)).order_by(C.id)))

    def disconnect(self, organization_id: OrganizationId, connection_id: ConnectionId, at: Instant) -> bool:
        """End a live one and wipe its grant and settings. False: it was ended already, or is unknown."""
        return self._update(
            connection_id,
            {C.disconnected_at: at, C.sealed_grant: None, C.settings: "{}"},
            C.organization_id == organization_id,
            shown=True,
        )

    def sealed_grants(self) -> Iterator[tuple[ConnectionId, str]]:
        """Every live one's sealed grant, in batches: no connection to the database is held between them."""
        last = ""
        while True:
            query = C.select(C.id, C.sealed_grant).where(_LIVE, C.id > last).order_by(C.id).limit(BATCH)
            batch = self._database.rows(query)
            for row in batch:
                yield ConnectionId(row["id"]), row["sealed_grant"]
            if len(batch) < BATCH:
                return
            last = batch[-1]["id"]

    def sealed_with(self, prefix: str) -> bool:
        """Whether a live one's sealed grant begins so."""
        begins = peewee.fn.SUBSTR(C.sealed_grant, 1, len(prefix)) == prefix
        return self._database.row(C.select(C.id).where(_LIVE, begins).limit(1)) is not None

    def reseal(self, connection_id: ConnectionId, old_sealed: str, new_sealed: str) -> bool:
        """Replace the sealed grant if it is still ``old_sealed``."""
        return self._update(connection_id, {C.sealed_grant: new_sealed}, C.sealed_grant == old_sealed)

    def counts(self) -> dict[tuple[str, str], int]:
        """How many live ones there are, of all organizations, by provider and status."""
        query = C.select(C.provider, C.status, peewee.fn.COUNT(C.id).alias("rows")).where(_LIVE)
        found = {(str(provider), str(status)): 0 for provider in ProviderName for status in ConnectionStatus}
        for row in self._database.rows(query.group_by(C.provider, C.status)):
            found[row["provider"], row["status"]] = row["rows"]
        return found

    def _one(self, *conditions: Any) -> Connection | None:
        row = self._database.row(C.select(*_COLUMNS).where(_LIVE, *conditions))
        return None if row is None else _connection(row)

    def _update(
        self, connection_id: ConnectionId, changes: dict[Any, Any], *conditions: Any, shown: bool = False
    ) -> bool:
        """``shown``: answers about the connection that were kept count no more."""
        query = C.update(changes).where(_LIVE, C.id == connection_id, *conditions)
        if not shown:
            return self._database.change(query) == 1
        with self._database.joined():
            changed = self._database.change(query) == 1
            self._database.touch([connection_id] if changed else [])
        return changed


def _get_many(organization_id: OrganizationId, ids: Sequence[ConnectionId], locked: str) -> Statement:
    marks = ", ".join("?" * len(ids))
    return f"{_SELECT} AND organization_id = ? AND id IN ({marks}) ORDER BY id{locked}", (organization_id, *ids)


def named_locked(organization_id: OrganizationId, ids: Sequence[ConnectionId], owner: str) -> Statement:
    """What ``get_many``, or without ids ``of_owner``, runs in a transaction of Postgres."""
    if ids:
        return _get_many(organization_id, sorted(set(ids))[:CHUNK], LOCKED)
    return f"{_OF_OWNER}{LOCKED}", (organization_id, owner)


def of_values(values: Sequence[Any]) -> Connection:
    """The connection of a row with all of ``NAMES``."""
    return _connection(dict(zip(NAMES, values, strict=True)))


def _connection(row: Row) -> Connection:
    return Connection(
        id=ConnectionId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        owner=row["owner"],
        provider=ProviderName(row["provider"]),
        subject=row["subject"],
        account_email=row["account_email"],
        calendar_id=CalendarId(row["calendar_id"]),
        busy_calendar_ids=tuple(json.loads(row["busy_calendar_ids"])),
        status=ConnectionStatus(row["status"]),
        sync_status=SyncStatus(row["sync_status"]),
        sync_error=row["sync_error"],
        last_sync_at=row["last_sync_at"],
        connected_at=row["connected_at"],
        grant_version=row["grant_version"],
        settings=json.loads(row["settings"]),
    )
