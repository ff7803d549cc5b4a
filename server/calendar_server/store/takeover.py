"""Takes over a whole SQLite database into an empty Postgres: the way from one machine to many.

Offline: SQLite's file is held so that no service can be using it. All or nothing: one transaction of Postgres, at whose
end every table is counted. The file is only read; it stays as it was.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from calendar_server.store import migrations
from calendar_server.store.database import Database
from calendar_server.store.errors import StoreError, translated

ROWS = 500
"""Rows that are in memory at once."""
LEFT = ("schema_migrations",)
"""Tables that are not copied: the new database has its own."""


class SqliteSource:
    """A SQLite database that nobody else has open."""

    def __init__(self, raw: sqlite3.Connection):
        self._raw = raw

    def tables(self) -> list[str]:
        """Its tables, in the order in which they were made: what a table refers to comes before it."""
        names = self._raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid")
        return [name for (name,) in names if not name.startswith("sqlite_") and name not in LEFT]

    def columns(self, table: str) -> list[str]:
        """A table's columns."""
        return [row[1] for row in self._raw.execute(f'PRAGMA table_info("{table}")')]

    def rows(self, table: str, columns: list[str]) -> Iterator[tuple[Any, ...]]:
        """All rows of a table."""
        names = ", ".join(f'"{column}"' for column in columns)
        cursor = self._raw.execute(f'SELECT {names} FROM "{table}"')  # noqa: S608 — names from the schema
        while rows := cursor.fetchmany(ROWS):
            yield from rows

    def check_texts(self) -> dict[str, str]:
        """The known texts by which a wrong master key is noticed."""
        return dict(self._raw.execute("SELECT kid, check_sealed FROM vault_keys"))

    def applied(self) -> set[str]:
        """The migrations that it has seen."""
        return {name for (name,) in self._raw.execute("SELECT name FROM schema_migrations")}


@contextmanager
def held(path: Path) -> Iterator[SqliteSource]:
    """Open the file for reading, and keep everybody else out. Raises ``StoreError`` that says what to do."""
    if not path.is_file():
        raise StoreError(f"There is no file {path}.")
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as raw:
            # In WAL mode every open connection holds a share of the file, used or not, so a service that runs is noticed.
            raw.execute("PRAGMA locking_mode = exclusive")
            raw.execute("BEGIN IMMEDIATE")
            source = SqliteSource(raw)
            if source.applied() != set(migrations.NAMES):
                raise StoreError(
                    f"{path} has not the form that this release works with. Run `calendar-server migrate` on it first."
                )
            yield source
            raw.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreError(f"{path} is in use. Stop the service that runs on it, then try again.") from error
        raise StoreError(f"{path} is not a database of this service, or cannot be read.") from error
    except sqlite3.DatabaseError as error:
        raise StoreError(f"{path} is not a database of this service, or cannot be read.") from error


def take_over(source: SqliteSource, database: Database) -> dict[str, int]:
    """Copy all rows into an empty, migrated Postgres; answers how many of each table.

    Raises ``StoreError`` when it is not empty, or when anything fails: then nothing was written.
    """
    copied: dict[str, int] = {}
    raw: psycopg.Connection[Any] = database.dial()
    with closing(raw), translated(), raw.transaction():
        # A large table takes longer than a statement of the service may.
        raw.execute("SET LOCAL statement_timeout = 0")
        raw.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        tables = source.tables()
        for table in tables:
            raw.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
            if _count(raw, table):
                raise StoreError("The database that CALENDAR_DATABASE_URL names is not empty. Nothing was copied.")
        for table in tables:
            columns = source.columns(table)
            statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
                sql.Identifier(table), sql.SQL(", ").join(sql.Identifier(column) for column in columns)
            )
            copied[table] = 0
            with raw.cursor().copy(statement) as copy:
                for row in source.rows(table, columns):
                    copy.write_row(row)
                    copied[table] += 1
            if _count(raw, table) != copied[table]:
                raise StoreError(f"Not all rows of {table} arrived. Nothing was copied.")
    return copied


def _count(raw: psycopg.Connection[Any], table: str) -> int:
    row = raw.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int(row[0]) if row else 0
