"""The database's form, as numbered steps. Each is applied once, in order, in a transaction of its own.

A step is a module with ``STATEMENTS``; ``{id}`` and ``{bytes}`` stand for what differs between the databases. A step
that was released is never changed. Each works with the previous release still running: it adds tables, indexes and
columns with a default; what is no longer used is dropped one release later.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from calendar_server.store.database import Database
from calendar_server.store.errors import StoreError
from calendar_server.store.tables import SCHEMA_MIGRATIONS

NAMES = (
    "001_accounts",
    "002_bookings",
    "003_oauth",
    "004_mirror",
    "005_watches",
    "006_drift",
    "007_request_ids",
    "008_content_reads",
    "009_outbox_oldest",
)

LOCK = 0x63616C5F6D696772
"""The number that replicas which migrate at once queue at."""
LOCK_S = 120
"""Seconds that one of them waits for the others."""

_SQLITE = {"id": "TEXT", "bytes": "BLOB"}
# "C" compares bytes, as SQLite does: ids sort alike in both, whatever the language of the database.
_POSTGRES = {"id": 'TEXT COLLATE "C"', "bytes": "BYTEA"}


def migrate(database: Database, names: Sequence[str] = NAMES) -> list[str]:
    """Apply what is pending of ``names``; answers what this call applied. Safe at once from several processes.

    Raises ``StoreError`` for a database that a newer release has changed; nothing is touched then.
    """
    applied: list[str] = []
    if not pending(database, names):
        return applied
    for name in names:
        with database.transaction():
            _await_turn(database)
            if name not in _applied(database, names):
                _apply(database, name)
                applied.append(name)
    return applied


def pending(database: Database, names: Sequence[str] = NAMES) -> list[str]:
    """What is not applied yet, in order. Raises ``StoreError`` like ``migrate``."""
    there = _applied(database, names) if _begun(database) else set()
    return [name for name in names if name not in there]


def _await_turn(database: Database) -> None:
    """Let one process at a time go on, until its transaction ends."""
    # A step may take longer than a query may, and the others wait for it.
    database.be_patient(LOCK_S)
    database.serialize(LOCK)
    database.run("CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY, applied_at BIGINT NOT NULL)")


def _apply(database: Database, name: str) -> None:
    words = _SQLITE if database.is_sqlite else _POSTGRES
    for statement in importlib.import_module(f"{__name__}.{name}").STATEMENTS:
        database.run(statement.format(**words))
    table = SCHEMA_MIGRATIONS
    database.change(table.insert({table.name: name, table.applied_at: database.now()}))


def _begun(database: Database) -> bool:
    if database.is_sqlite:
        return bool(database.value("SELECT count(*) FROM sqlite_master WHERE name = 'schema_migrations'"))
    return database.value("SELECT to_regclass('schema_migrations')::text") is not None


def _applied(database: Database, names: Sequence[str]) -> set[str]:
    there = {str(row["name"]) for row in database.rows(SCHEMA_MIGRATIONS.select())}
    newer = sorted(there - {*names, *NAMES})
    if newer:
        raise StoreError(
            f"The database was changed by a newer release ({', '.join(newer)}), which this one does not know. "
            "Run that release, or restore a backup from before it."
        )
    return there
