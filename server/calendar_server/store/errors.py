"""What the store raises, and how drivers' exceptions become it: by type and code, never by their text.

StoreError (a ``StoreUnavailable``)
├── AlreadyThere    the account has a live connection already
├── CommitUnknown   the answer to a COMMIT was lost: look, then answer
└── ServedAlready   another server has this SQLite file (``sole.py``)

Messages hold no value of a row, no address and no password; the driver's own exception is the ``__cause__``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import peewee
import psycopg

from calendar_server.errors import StoreUnavailable


class StoreError(StoreUnavailable):
    """The database is out of reach, refused, or cannot be used. Whether a change was stored is not known."""


class AlreadyThere(StoreError):
    """A live connection of the same account, owner and organization is there already."""

    def __init__(self) -> None:
        super().__init__("This account is connected already.")


class CommitUnknown(StoreError):
    """The line broke between a COMMIT and its answer: it may have happened, may yet happen, or never will.

    Whoever locks what the transaction had locked waits for its end, and sees what became of it.
    """


_FOREIGN = (peewee.PeeweeException, sqlite3.Error, psycopg.Error, OverflowError, UnicodeEncodeError)

_REFUSALS = (
    *(peewee.IntegrityError, peewee.DataError, psycopg.IntegrityError, psycopg.DataError),
    *(sqlite3.IntegrityError, sqlite3.DataError, OverflowError, UnicodeEncodeError),
)

_SQLITE = {
    sqlite3.SQLITE_BUSY: "The service's database is busy. Try again.",
    sqlite3.SQLITE_FULL: "The disk of the service's database is full. Its operator must make room.",
    sqlite3.SQLITE_READONLY: "The service's database file is read-only. Its operator must mend its permissions.",
    sqlite3.SQLITE_CANTOPEN: "The service's database file cannot be opened. Its operator must mend its permissions.",
    sqlite3.SQLITE_CORRUPT: "The service's database file is damaged. Its operator must restore a backup.",
    sqlite3.SQLITE_NOTADB: "The service's database file is not one. Its operator must look at CALENDAR_DATABASE_URL.",
}
"""By primary result code (https://sqlite.org/rescode.html)."""

_POSTGRES = {
    "42P01": "The service's database is not up to date. Its operator must run `calendar-server migrate`.",
    "40P01": "The service's database is busy. Try again.",
    "55P03": "The service's database is busy. Try again.",
    "57014": "The service's database is busy. Try again.",
    "53100": "The disk of the service's database is full. Its operator must make room.",
    "25006": "The service's database cannot be written to at the moment. Try again.",
}
"""By SQLSTATE: undefined table, deadlock, lock time-out, statement time-out, disk full, read-only transaction."""

_REFUSED = "The service's database refused a change."


_UNDONE = ("23", "40")
"""Classes of SQLSTATE by which Postgres says that it rolled back: a constraint, a conflict with another transaction."""


def undone(error: BaseException | None) -> bool:
    """Whether the driver's exception for a COMMIT says for certain that nothing was committed."""
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return state is not None and state[:2] in _UNDONE


@contextmanager
def translated() -> Iterator[None]:
    """Turn what peewee and the drivers raise into ``StoreError``."""
    try:
        yield
    except _FOREIGN as error:
        raise StoreError(*_message(error)) from error


def _message(error: BaseException) -> tuple[str, ...]:
    """The sentence for an exception; none: the one of ``StoreUnavailable``."""
    origin = getattr(error, "orig", error)
    code = getattr(origin, "sqlite_errorcode", None)
    if code is not None and (code & 0xFF) in _SQLITE:
        return (_SQLITE[code & 0xFF],)
    state = getattr(origin, "sqlstate", None)
    if state in _POSTGRES:
        return (_POSTGRES[state],)
    if isinstance(error, _REFUSALS):
        return (_REFUSED,)
    return ()
