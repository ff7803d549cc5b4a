"""One database, SQLite or Postgres, shared by many threads: connections, transactions, time.

A thread has a connection for the length of one query or one transaction and gives it back, so that threads may come and
go. What differs between the two databases is in ``_Sqlite`` and ``_Postgres`` below and nowhere else.

Limits: ``WAIT_S`` seconds for a connection, for SQLite's single writer and for a lock of Postgres; ``STATEMENT_S`` for
one statement of Postgres.
"""

from __future__ import annotations

import contextvars
import logging
import os
import select
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

import peewee
import psycopg
from psycopg.conninfo import conninfo_to_dict

from calendar_server.core.model import Instant
from calendar_server.store.errors import CommitUnknown, StoreError, translated, undone
from calendar_server.store.pool import Pool

WAIT_S = 10
STATEMENT_S = 20
ANSWER_S = STATEMENT_S + 5
"""Seconds after which a line of Postgres that says nothing is given up, though something on the way keeps it open."""
DIAL_S = 5
"""Seconds to reach Postgres, and for a dead line to be noticed while we wait for an answer."""
SQLITE_CONNECTIONS = 32
POSTGRES_CONNECTIONS = 20
"""Connections of one process. Postgres allows 100 by default, for all processes together."""
BUSY_S = 0.05
"""Seconds for which a connection counts as just used."""
QUIET_S = 30.0
"""Seconds after which an idle connection to Postgres is asked whether it still lives before it is lent."""

GROUP_MOST = 64
"""Callers whose changes SQLite commits at once."""
CHUNK = 500
"""Values in one list of a statement."""

_CLOCK = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

LOCKED = " FOR NO KEY UPDATE"
"""What ``Database.locked`` is in a transaction of Postgres."""

_peewee = logging.getLogger("peewee")
_BROKEN = psycopg.pq.TransactionStatus.INERROR

Row = dict[str, Any]
Statement = tuple[str, tuple[object, ...]]
"""A written-out statement with ``?`` for its values, and the values."""
Value = TypeVar("Value")


class _Handed(threading.local):
    """The driver's connection that a thread was lent, on its way into peewee."""

    raw: Any = None


class _Sqlite(peewee.SqliteDatabase):
    """SQLite with our settings on every connection. The one who dials is the pool."""

    def __init__(self, path: Path):
        self.handed = _Handed()
        super().__init__(
            str(path),
            timeout=WAIT_S,
            check_same_thread=False,
            autoconnect=False,
            pragmas={
                # Readers do not wait for the writer, nor it for them.
                "journal_mode": "wal",
                # FULL, not NORMAL: in WAL mode NORMAL may lose the last commits with the power
                # (https://sqlite.org/pragma.html#pragma_synchronous), and acknowledged means on disk.
                "synchronous": "full",
                "foreign_keys": "on",
                # Overwrites what is deleted: a disconnected account's grant is gone, not just unlinked.
                "secure_delete": "on",
            },
        )

    def dial(self) -> sqlite3.Connection:
        """Open the file. Two processes that turn a new file to WAL at once may refuse each other without waiting."""
        until = time.monotonic() + WAIT_S
        while True:
            try:
                raw: sqlite3.Connection = super()._connect()  # type: ignore[misc]
                raw.create_function("calendar_clock", 0, _machine_clock)
                return raw
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    @staticmethod
    def usable(raw: sqlite3.Connection, idle_s: float) -> bool:
        return not raw.in_transaction

    def _connect(self) -> sqlite3.Connection:
        raw: sqlite3.Connection = self.handed.raw
        return raw

    def _close(self, conn: object) -> None:
        """The pool keeps it."""


class _Line(psycopg.Connection[Any]):
    """A connection that does not wait for ever. Postgres limits its statements itself, as long as it can be heard."""

    answer_s: float = ANSWER_S

    def wait(self, gen: Generator[Any, Any, Value], *arguments: Any, **more: Any) -> Value:
        """Let the driver converse, until it has the answer or the time is over."""
        return super().wait(self._limited(gen), *arguments, **more)

    def _limited(self, gen: Generator[Any, Any, Value]) -> Generator[Any, Any, Value]:
        until = time.monotonic() + self.answer_s
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > until:
                    self.close()
                    raise psycopg.OperationalError("no answer in time")
                wanted = gen.send(ready)
        except StopIteration as end:
            value: Value = end.value
            return value


class _Postgres(peewee.PostgresqlDatabase):
    """Postgres through psycopg 3. The one who dials is the pool."""

    def __init__(self, parameters: Row):
        self.handed = _Handed()
        self._parameters = parameters
        super().__init__("postgres", autoconnect=False, prefer_psycopg3=True)

    def dial(self) -> psycopg.Connection[Any]:
        """Connect, with limits on every wait: nobody may hold a lock, or wait for one, for ever."""
        raw = _Line.connect(**self._parameters, autocommit=True)
        try:
            raw.execute(
                f"SET lock_timeout = '{WAIT_S}s'; SET statement_timeout = '{STATEMENT_S}s'; "
                f"SET idle_in_transaction_session_timeout = '{STATEMENT_S}s'"
            )
        except BaseException:
            raw.close()
            raise
        return raw

    @staticmethod
    def usable(raw: psycopg.Connection[Any], idle_s: float) -> bool:
        """Whether the line is open and nothing is under way.

        An idle server says nothing. If there is something to read, it is its farewell (shut down, restarted, backend
        terminated), and that costs no round trip to find out. A line that died without a word is found by asking.
        """
        if raw.closed or raw.pgconn.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            return False
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLIN)
        if poll.poll(0):
            return False
        if idle_s > QUIET_S:
            try:
                raw.execute("SELECT 1")
            except psycopg.Error:
                return False
        return True

    def _connect(self) -> psycopg.Connection[Any]:
        raw: psycopg.Connection[Any] = self.handed.raw
        return raw

    def _close(self, conn: object) -> None:
        """The pool keeps it."""


class _Thread(threading.local):
    """Whether this thread is inside a transaction, and which connections' answers that changes."""

    inside = False
    serialized: int | None = None
    """The number that the transaction began with, see ``serialize``."""

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.ahead: dict[Statement, list[tuple[Any, ...]]] = {}
        """Answers that came with the beginning of the transaction, as long as it has changed nothing."""
        self.later: list[Statement] = []
        """Changes that go with the next statement, or with the commit."""


class _Job(Generic[Value]):
    """Something to be done in a transaction, by whoever is the writer."""

    def __init__(self, work: Callable[[], Value]):
        self._work = work
        self._context = contextvars.copy_context()
        self._value: list[Value] = []
        self.error: BaseException | None = None
        self.ended = False

    def run(self) -> None:
        """Do it. What it raises is kept for ``outcome``."""
        try:
            self._value.append(self._context.run(self._work))
        except BaseException as error:
            self.error = error

    def outcome(self) -> Value:
        """What it answered, or raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._value[0]


class Database:
    """Runs queries, alone or in a transaction. Safe to use from any thread."""

    def __init__(self, engine: _Sqlite | _Postgres, path: Path | None):
        # Peewee logs every statement with its values at debug level, e-mail addresses among them.
        logging.getLogger("peewee").setLevel(logging.INFO)
        self.path = path
        self.is_sqlite = path is not None
        self._engine: Any = engine
        self.waits: list[Callable[[str, float], None]] = []
        """Who is told what somebody had to wait for, `connection` or `writer`, and for how many seconds."""
        self.observed: Callable[[], AbstractContextManager[object]] = nullcontext
        """Around every transaction."""
        self._pool: Pool[Any] = Pool(
            dial=engine.dial,
            usable=engine.usable,
            shut=_shut,
            most=SQLITE_CONNECTIONS if self.is_sqlite else POSTGRES_CONNECTIONS,
            wait_s=WAIT_S,
            waited=lambda seconds: self._waited("connection", seconds),
        )
        # SQLite has one writer. Threads of this process queue here, which is fair and costs nothing; other processes
        # are met in the file's own lock, which is polled.
        self._writer = threading.Lock()
        self._jobs: deque[_Job[Any]] = deque()
        self._jobs_lock = threading.Lock()
        self._thread = _Thread()
        # SQLite tells a connection of others' commits; this one makes none of its own.
        self._look: Any = None
        self._looking = threading.Lock()
        self.told: list[Callable[[set[str]], None]] = []
        """Who is told, after the commit and in the same thread, which connections' answers a transaction changed."""

    @classmethod
    def open(cls, url: str) -> Database:
        """Open by URL. SQLite's folder and file are made if missing; Postgres is dialled when first used."""
        if url.startswith("sqlite:///"):
            path = Path(url.removeprefix("sqlite:///")).absolute()
            _make_file(path)
            return cls(_Sqlite(path), path)
        return cls(_Postgres(_parameters(url)), None)

    def close(self) -> None:
        """Close all connections; those in use when their query ends."""
        self._pool.close()
        with self._looking:
            if self._look is not None:
                _shut(self._look)

    @property
    def in_transaction(self) -> bool:
        """Whether the calling thread is inside ``transaction()``."""
        return self._thread.inside

    @contextmanager
    def transaction(self, serialized: int | None = None, ahead: Sequence[Statement] = ()) -> Iterator[None]:
        """Commit what happens inside, or nothing of it when an exception leaves.

        SQLite: the only writer, from the beginning (``BEGIN IMMEDIATE``), so that it never has to give up half-way.
        Postgres: READ COMMITTED. ``serialized``: begin with ``serialize`` of this number, and run the reads ``ahead``
        after it, all in one round trip; ``fetch`` answers the same statements from it until something is changed.
        Raises ``RuntimeError`` inside another transaction of the same thread.
        """
        if self._thread.inside:
            raise RuntimeError("A transaction is open in this thread already.")
        with self.observed(), self._sole_writer(), self._connected():
            with translated():
                self._begin(serialized, ahead)
            self._thread.inside, self._thread.serialized = True, serialized
            try:
                yield
                self._bump()
            except BaseException:
                self._roll_back()
                raise
            else:
                self._commit()
            finally:
                self._thread.inside, self._thread.serialized = False, None
                self._thread.ahead, self._thread.later = {}, []
                touched, self._thread.touched = self._thread.touched, set()
        if touched:
            self._changed(touched)

    def atomically(
        self, work: Callable[[], Value], serialized: int | None = None, ahead: Sequence[Statement] = ()
    ) -> Value:
        """Run this in a transaction: committed when it answers, undone when it raises.

        ``serialized`` and ``ahead``: see ``transaction``.

        SQLite waits for the disk at each commit. So whoever gets to be the writer commits for all who wait with it, each in
        a savepoint of its own: what one of them raises undoes its own changes alone. ``work`` runs in whatever thread that
        is, in the context of its own. Inside a transaction it belongs to that.
        """
        if self._thread.inside:
            return work()
        if not self.is_sqlite:
            with self.transaction(serialized, ahead):
                return work()
        with self.observed():
            job: _Job[Value] = _Job(work)
            with self._jobs_lock:
                self._jobs.append(job)
            with self._sole_writer():
                while not job.ended:
                    self._commit_group()
        return job.outcome()

    def _commit_group(self) -> None:
        """Run the jobs that wait, in one transaction."""
        with self._jobs_lock:
            jobs = [self._jobs.popleft() for _ in range(min(len(self._jobs), GROUP_MOST))]
        touched: set[str] = set()
        try:
            with self._connected():
                with translated():
                    self._begin()
                self._thread.inside = True
                try:
                    for job in jobs:
                        touched |= self._in_savepoint(job)
                    self._thread.touched = touched
                    self._bump()
                except BaseException:
                    self._roll_back()
                    raise
                else:
                    self._commit()
                finally:
                    self._thread.inside = False
                    self._thread.touched = set()
        except StoreError as error:
            for job in jobs:
                job.error = error
        finally:
            for job in jobs:
                job.ended = True
        if touched:
            self._changed(touched)

    def _in_savepoint(self, job: _Job[Any]) -> set[str]:
        """Run a job; what it raises is its own. Answers what it touched."""
        self._thread.touched = set()
        with translated():
            self._engine.handed.raw.execute("SAVEPOINT job")
        job.run()
        with translated():
            if job.error is not None:
                self._engine.handed.raw.execute("ROLLBACK TO job")
            self._engine.handed.raw.execute("RELEASE job")
        return set() if job.error is not None else self._thread.touched

    @contextmanager
    def joined(self) -> Iterator[None]:
        """The transaction that the thread is in, or one of its own."""
        if self._thread.inside:
            yield
        else:
            with self.transaction():
                yield

    def touch(self, connection_ids: Iterable[str]) -> None:
        """Inside a transaction: with its commit, answers about these connections that were kept count no more."""
        if not self._thread.inside:
            raise RuntimeError("What a change touches is noted with the change, in one transaction.")
        self._thread.touched.update(connection_ids)

    def change_touching(self, sql: str, values: Sequence[object]) -> bool:
        """Run an UPDATE of the outbox that touches at most one row, and touch that row's connection. Whether there was one.

        ``sql`` ends in ``RETURNING connection_id``. On Postgres and outside of transactions it is one statement with the
        new version, one round trip.
        """
        if self.is_sqlite or self._thread.inside:
            raise RuntimeError("SQLite has no such statement, and transactions bump versions at their end.")
        rows = self.fetch(
            f"WITH changed AS ({sql}) INSERT INTO versions (connection_id, version) "  # noqa: S608 — the caller's own
            "SELECT connection_id, 1 FROM changed "
            "ON CONFLICT (connection_id) DO UPDATE SET version = versions.version + 1 RETURNING connection_id",
            values,
        )
        if rows:
            self._changed({rows[0][0]})
        return bool(rows)

    def _bump(self) -> None:
        # In one order, and after all else that this transaction locks, so that two never wait for each other in a ring.
        for chunk in chunks(sorted(self._thread.touched)):
            values = ", ".join("(?, 1)" for _ in chunk)
            self.execute_later(
                f"INSERT INTO versions (connection_id, version) VALUES {values} "  # noqa: S608 — placeholders alone
                "ON CONFLICT (connection_id) DO UPDATE SET version = versions.version + 1",
                *chunk,
            )

    def _changed(self, connection_ids: set[str]) -> None:
        for told in self.told:
            told(connection_ids)

    def _waited(self, what: str, seconds: float) -> None:
        for told in self.waits:
            told(what, seconds)

    def execute(self, sql: str, *values: object) -> int:
        """Run a statement with ``?`` for its values, inside the thread's transaction or by itself. Answers how many rows."""
        self._thread.ahead = {}
        with self._alone(writes=True):
            return int(self._run(sql, values, lambda cursor: cursor.rowcount))

    def execute_later(self, sql: str, *values: object) -> None:
        """Run a statement whose answer nobody needs, inside a transaction: before its next statement, or its commit.

        What Postgres refuses about it is raised there.
        """
        if self.is_sqlite or not self._thread.inside:
            self.execute(sql, *values)
            return
        _note(sql)
        self._thread.ahead = {}
        self._thread.later.append((sql, values))

    def execute_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of values, inside the thread's transaction or one of its own."""
        if not rows:
            return
        if len(rows) == 1:
            self.execute(sql, *rows[0])
            return
        with self.joined(), self._session(writes=True), translated():
            self._engine.cursor().executemany(self._spelled(sql), rows)

    def fetch(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a statement that only reads, with ``?`` for its values, as tuples.

        The hot path: building a query and going through peewee costs more than the query.
        """
        if self._thread.ahead:
            found = self._thread.ahead.get((sql, tuple(values)))
            if found is not None:
                return found
        return self._run(sql, values, _all)

    def _run(self, sql: str, values: Sequence[object], answer: Callable[[Any], Value]) -> Value:
        """Run a written-out statement on the thread's connection, or on one that is borrowed for it."""
        _note(sql)
        with translated():
            if self._thread.inside:
                if self._thread.later:
                    self._send_later()
                return answer(self._engine.handed.raw.execute(self._spelled(sql), values))
            raw = self._pool.take()
            try:
                return answer(raw.execute(self._spelled(sql), values))
            finally:
                self._pool.give_back(raw)

    def _alone(self, *, writes: bool) -> AbstractContextManager[None]:
        """What a statement outside of transactions waits for: SQLite's only writer."""
        return self._sole_writer() if writes and self.is_sqlite and not self._thread.inside else nullcontext()

    def _spelled(self, sql: str) -> str:
        return sql if self.is_sqlite else sql.replace("?", "%s")

    def dial(self) -> Any:
        """A connection of the driver's own, outside the pool. Whoever asks for it closes it."""
        with translated():
            return self._engine.dial()

    def data_version(self) -> int | None:
        """A number that changes with every commit to SQLite's file, by whomever; None where there is no such thing.

        A few microseconds: SQLite looks at shared memory (https://sqlite.org/pragma.html#pragma_data_version).
        """
        if not self.is_sqlite:
            return None
        with self._looking, translated():
            if self._look is None:
                self._look = self._engine.dial()
            return int(self._look.execute("PRAGMA data_version").fetchone()[0])

    def rows(self, query: Any) -> list[Row]:
        """All rows of a query."""
        with self._session(writes=False), translated():
            return list(query.execute(self._engine))

    def row(self, query: Any) -> Row | None:
        """The first row of a query, or None."""
        return next(iter(self.rows(query)), None)

    def change(self, query: Any) -> int:
        """Run an INSERT, UPDATE or DELETE. Answers how many rows it touched."""
        if isinstance(query, peewee.Insert):
            # Otherwise peewee answers the id of the last row that was inserted, which need not be this one.
            query = query.as_rowcount()
        with self._session(writes=True), translated():
            return int(query.execute(self._engine))

    def run(self, sql: str) -> None:
        """Run a statement without values or answer."""
        with self._session(writes=True), translated():
            self._engine.execute_sql(sql)

    def value(self, sql: str, *values: object) -> Any:
        """The first column of the first row of a statement that only reads. Placeholders are the driver's own."""
        with self._session(writes=False), translated():
            return self._engine.execute_sql(sql, values).fetchone()[0]

    def locking(self, query: Any) -> Any:
        """The query, locking the rows that it answers until the transaction ends, where that means anything.

        NO KEY UPDATE, which is what an UPDATE takes: rows that merely refer to the locked ones are not held up. SQLite
        needs none, for a transaction is the only writer.
        """
        if self.is_sqlite or not self._thread.inside:
            return query
        return query.for_update("FOR NO KEY UPDATE")

    @property
    def locked(self) -> str:
        """What ``locking`` adds, for statements that are written out."""
        return "" if self.is_sqlite or not self._thread.inside else LOCKED

    def skipping_locked(self, query: Any, table: Any) -> Any:
        """The query, leaving out rows of ``table`` that another transaction has locked, and locking the others."""
        return query if self.is_sqlite else query.for_update("FOR NO KEY UPDATE", of=table, skip_locked=True)

    def locked_or_skipped(self, table: str) -> str:
        """What ``skipping_locked`` adds, for statements that are written out."""
        return "" if self.is_sqlite else f" FOR NO KEY UPDATE OF {table} SKIP LOCKED"

    def serialize(self, number: int) -> None:
        """Inside a transaction: let nobody else with the same 64-bit number in until it ends."""
        if not self.is_sqlite and self._thread.inside and number != self._thread.serialized:
            self.fetch("SELECT pg_advisory_xact_lock(?)::text", (number,))

    def be_patient(self, seconds: int) -> None:
        """Inside a transaction: let statements and locks take this long until it ends."""
        if not self.is_sqlite and self._thread.inside:
            self.run(f"SET LOCAL statement_timeout = '{seconds}s'")
            self.run(f"SET LOCAL lock_timeout = '{seconds}s'")
            self._engine.handed.raw.answer_s = seconds + ANSWER_S - STATEMENT_S

    def now(self) -> Instant:
        """The database's time. SQLite has no clock but this machine's."""
        if self.is_sqlite:
            return _machine_clock()
        return int(self.fetch(*self.ask_clock)[0][0])

    ask_clock: Statement = (f"SELECT {_CLOCK}", ())
    """What ``now`` runs on Postgres."""

    @property
    def clock(self) -> str:
        """The database's time as an expression of SQL, so that a statement need not be told it."""
        return "calendar_clock()" if self.is_sqlite else _CLOCK

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[None]:
        """The thread's transaction, or a connection for one statement that commits by itself."""
        if self._thread.inside:
            self._thread.ahead = {}
            if self._thread.later:
                self._send_later()
            yield
            return
        with self._sole_writer() if writes else nullcontext(), self._connected():
            yield

    @contextmanager
    def _sole_writer(self) -> Iterator[None]:
        # Taken before a connection, so that waiting writers leave the connections to readers.
        if not self.is_sqlite:
            yield
            return
        if not self._writer.acquire(blocking=False):
            began = time.monotonic()
            taken = self._writer.acquire(timeout=WAIT_S)
            self._waited("writer", time.monotonic() - began)
            if not taken:
                raise StoreError("The service's database is busy. Try again.")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def _connected(self) -> Iterator[None]:
        with translated():
            raw = self._pool.take()
        try:
            self._engine.handed.raw = raw
            with translated():
                self._engine.connect()
            try:
                yield
            finally:
                self._engine.close()
        finally:
            self._engine.handed.raw = None
            self._pool.give_back(raw)

    def _begin(self, serialized: int | None = None, ahead: Sequence[Statement] = ()) -> None:
        if self.is_sqlite:
            self._engine.begin("IMMEDIATE")
            return
        raw = self._engine.handed.raw
        if serialized is None:
            raw.execute("BEGIN")
            return
        # One round trip. The lock is held before the statements that follow take their snapshots.
        with raw.pipeline():
            raw.execute("BEGIN")
            raw.execute("SELECT pg_advisory_xact_lock(%s)::text", (serialized,))
            answers = []
            for sql, values in ahead:
                _note(sql)
                answers.append(((sql, values), raw.execute(self._spelled(sql), values)))
        self._thread.ahead = {statement: cursor.fetchall() for statement, cursor in answers}

    def _send_later(self, *more: str) -> None:
        """Run the changes that were left for later, and these statements after them, in one round trip.

        Where one fails Postgres runs none of those behind it.
        """
        later, self._thread.later = self._thread.later, []
        raw = self._engine.handed.raw
        with translated(), raw.pipeline() if later else nullcontext():
            for sql, values in later:
                raw.execute(self._spelled(sql), values)
            for sql in more:
                raw.execute(sql)

    def _commit(self) -> None:
        if not self.is_sqlite and self._engine.handed.raw.pgconn.transaction_status == _BROKEN:
            # Postgres answers the COMMIT of a transaction in which a statement failed by rolling back, without an error.
            self._roll_back()
            raise StoreError("The service's database refused a change.")
        try:
            with translated():
                if self.is_sqlite:
                    self._engine.commit()
                else:
                    self._send_later("COMMIT")
        except StoreError as error:
            self._roll_back()
            if self.is_sqlite or undone(error.__cause__):
                raise
            raise CommitUnknown(error.message) from error
        finally:
            if not self.is_sqlite:
                self._engine.handed.raw.answer_s = ANSWER_S

    def _roll_back(self) -> None:
        # Where even this fails the connection is not usable any more; the pool closes it, which rolls back.
        with suppress(peewee.PeeweeException, sqlite3.Error, psycopg.Error):
            self._engine.rollback()


def _note(sql: str) -> None:
    """Tell of a statement as peewee tells of its own, but without values."""
    if _peewee.isEnabledFor(logging.DEBUG):
        _peewee.debug((sql, ()))


def _machine_clock() -> Instant:
    return time.time_ns() // 1000


def _all(cursor: Any) -> list[tuple[Any, ...]]:
    return list(cursor.fetchall())


def _shut(raw: Any) -> None:
    with suppress(sqlite3.Error, psycopg.Error):
        raw.close()


def _make_file(path: Path) -> None:
    """Make the database's folder and file, for its owner alone: SQLite gives its journals the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except (OSError, ValueError) as error:
        raise StoreError(
            "The service's database file cannot be opened. CALENDAR_DATABASE_URL must name a file in a folder that can "
            "be written to, such as sqlite:///var/calendar.db."
        ) from error


def _parameters(url: str) -> Row:
    """A Postgres URL as connection parameters, with a limit on waiting for the network."""
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error:
        # Without its cause, which would show the URL and the password in it.
        raise StoreError(
            "CALENDAR_DATABASE_URL cannot be read. It must be `sqlite:///…` or "
            "`postgresql://user:password@host:port/database`, with reserved characters percent-encoded."
        ) from None
    defaults = {
        "application_name": "calendar-server",
        "client_encoding": "utf8",
        "connect_timeout": DIAL_S,
        "keepalives_idle": 30,
        "tcp_user_timeout": DIAL_S * 1000,
    }
    return {**defaults, **given}


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """Parts that fit into one statement: older SQLite takes 999 values at most."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
