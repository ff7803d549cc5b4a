"""The store: every query by name, grouped by noun. Nothing of peewee or of a driver leaves it.

A named query commits by itself, or belongs to the transaction that its thread is in. All may raise ``StoreError``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from calendar_server.core.model import BookingId, ConnectionId, Instant, OrganizationId
from calendar_server.store import migrations
from calendar_server.store.bookings import Bookings, get_locked, number_of
from calendar_server.store.changes import Changes
from calendar_server.store.connections import Connections, named_locked
from calendar_server.store.database import Database
from calendar_server.store.errors import AlreadyThere, CommitUnknown, StoreError
from calendar_server.store.loads import Loads
from calendar_server.store.mirror import Mirror
from calendar_server.store.oauth import Leases, OAuthStates
from calendar_server.store.organizations import ApiKeys, Organizations, VaultKeys
from calendar_server.store.outbox import Outbox, of_booking_locked
from calendar_server.store.parked import Parked
from calendar_server.store.takeover import SqliteSource, take_over
from calendar_server.store.watches import Watches

Value = TypeVar("Value")

__all__ = ["AlreadyThere", "CommitUnknown", "Store", "StoreError"]


class Store:
    """One database, safe to use from any number of threads."""

    def __init__(self, database: Database):
        self._database = database
        self.organizations = Organizations(database)
        self.api_keys = ApiKeys(database)
        self.vault_keys = VaultKeys(database)
        self.connections = Connections(database)
        self.bookings = Bookings(database)
        self.outbox = Outbox(database)
        self.loads = Loads(database)
        self.parked = Parked(database)
        self.oauth_states = OAuthStates(database)
        self.leases = Leases(database)
        self.mirror = Mirror(database)
        self.changes = Changes(database)
        self.watches = Watches(database)

    @classmethod
    def open(cls, database_url: str) -> Store:
        """Open ``sqlite:///…`` (file and folder are made if missing) or ``postgresql://…``. Does not migrate."""
        return cls(Database.open(database_url))

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite: one machine, one writer."""
        return self._database.is_sqlite

    @property
    def path(self) -> Path | None:
        """SQLite's file, absolute."""
        return self._database.path

    def migrate(self) -> list[str]:
        """Bring the database up to date; answers the steps that this call applied. Safe twice, and at once."""
        return migrations.migrate(self._database)

    def pending_migrations(self) -> list[str]:
        """The steps that are not applied yet."""
        return migrations.pending(self._database)

    def now(self) -> Instant:
        """The database's time, which all replicas share."""
        return self._database.now()

    def data_version(self) -> int | None:
        """A number that changes with every commit, where the database has such a thing (SQLite); else None."""
        return self._database.data_version()

    def ping(self) -> None:
        """Raise ``StoreError`` when the database is out of reach."""
        self._database.value("SELECT 1")

    def take_over(self, source: SqliteSource) -> dict[str, int]:
        """Copy a whole SQLite database into this one, an empty Postgres; answers the rows of each table."""
        return take_over(source, self._database)

    def observe(
        self, waited: Callable[[str, float], None], transaction: Callable[[], AbstractContextManager[object]]
    ) -> None:
        """Tell ``waited`` what was waited for, and how many seconds; put ``transaction`` around every transaction."""
        self._database.waits.append(waited)
        self._database.observed = transaction

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, for the calling thread. Raises ``RuntimeError`` inside another one; repeats nothing."""
        return self._database.transaction()

    def atomically(self, work: Callable[[], Value]) -> Value:
        """Run this in a transaction, in the thread that commits for all who wait. See ``Database.atomically``."""
        return self._database.atomically(work)

    def atomically_about(
        self,
        organization_id: OrganizationId,
        booking_id: BookingId,
        target: tuple[Sequence[ConnectionId], str] | None,
        work: Callable[[], Value],
    ) -> Value:
        """The same, for work that asks for the booking for update, for its rows, and for the connections of ``target``
        (ids, or an owner) if there is one: on Postgres all of that comes with the beginning, in one round trip."""
        if self.is_sqlite:
            return self._database.atomically(work)
        ahead = [get_locked(organization_id, booking_id)]
        if target is not None:
            ahead.append(named_locked(organization_id, *target))
        ahead += [of_booking_locked(organization_id, booking_id), self._database.ask_clock]
        return self._database.atomically(work, number_of(organization_id, booking_id), ahead)

    def close(self) -> None:
        """Close all connections to the database."""
        self.changes.close()
        self._database.close()
