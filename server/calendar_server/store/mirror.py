"""Named queries about the mirror: what each calendar held when it was last read, and what answers are made of.

Vocabulary
    busy row  one calendar as last read: when that read began, for which window, when it is busy
    content   every event of that read, and the provider's memory of it; kept apart, for it changes less often
    version   a number of each connection that grows with whatever changes answers about it

The statements that GetBusy waits for are written out: building a query costs more than running it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import peewee

from calendar_server.core.model import (
    BookingId,
    BookingStatus,
    CalendarId,
    ConnectionId,
    ConnectionStatus,
    EventId,
    Instant,
    Interval,
    OrganizationId,
    ProviderName,
)
from calendar_server.store.database import Database, chunks
from calendar_server.store.rows import OursRow, OverlayRow
from calendar_server.store.tables import BUSY, BUSY_CONTENT, CONNECTIONS

SMALL_BYTES = 32 * 1024
SMALL_MOST = 512
"""Contents of so many bytes, and so many of them, are read at once: each by itself would cost as much again."""

_NEVER = Interval(0, 0)

_BUSY_COLUMNS = (
    "connection_id, calendar_id, as_of, full_at, window_start, window_end, content_version, intervals, "
    "used_at, changed_at, failed_at, failures, retry_at, problem_reason, problem_message"
)
_HEADS = (
    "SELECT c.id, c.provider, c.status, c.calendar_id, c.busy_calendar_ids, COALESCE(v.version, 0), "
    "EXISTS (SELECT 1 FROM outbox o WHERE o.connection_id = c.id){now} "
    "FROM connections c LEFT JOIN versions v ON v.connection_id = c.id "
    "WHERE c.disconnected_at IS NULL AND c.organization_id = ? AND "
)
_REPLACE = (
    "INSERT INTO busy (connection_id, calendar_id, as_of, full_at, window_start, window_end, content_version, intervals, "
    "used_at, changed_at, failed_at, failures, retry_at, problem_reason, problem_message) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, '', '') ON CONFLICT (connection_id, calendar_id) DO UPDATE SET "
    "as_of = excluded.as_of, full_at = excluded.full_at, window_start = excluded.window_start, "
    "window_end = excluded.window_end, content_version = excluded.content_version, intervals = excluded.intervals, "
    "failed_at = 0, failures = 0, retry_at = 0, problem_reason = '', problem_message = ''"
)
_REPLACE_CONTENT = (
    "INSERT INTO busy_content (connection_id, calendar_id, version, events, memory, read_at, read_version) "
    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (connection_id, calendar_id) DO UPDATE SET "
    "version = excluded.version, events = excluded.events, memory = excluded.memory, "
    "read_at = excluded.read_at, read_version = excluded.read_version"
)
_CONFIRM = (
    "UPDATE busy SET as_of = ?, full_at = ?, failed_at = 0, failures = 0, retry_at = 0, "
    "problem_reason = '', problem_message = '' WHERE connection_id = ? AND calendar_id = ?"
)
_CONTENT_COLUMNS = "version, events, memory, read_at, read_version"
_POSTGRES_NOW = ", (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"


@dataclass(frozen=True, slots=True)
class Head:
    """What an answer has to know of a connection before anything else. ``written``: the outbox has rows of it."""

    id: ConnectionId
    provider: ProviderName
    status: ConnectionStatus
    calendar_id: CalendarId
    busy_calendar_ids: tuple[CalendarId, ...]
    version: int
    written: bool


@dataclass(frozen=True, slots=True)
class BusyRow:
    """One calendar as last read. ``as_of`` 0: never. ``changed_at``: when its provider last told of a change."""

    connection_id: ConnectionId
    calendar_id: CalendarId
    as_of: Instant = 0
    full_at: Instant = 0
    window: Interval = _NEVER
    content_version: int = 0
    intervals: bytes = b""
    used_at: Instant = 0
    changed_at: Instant = 0
    failed_at: Instant = 0
    failures: int = 0
    retry_at: Instant = 0
    problem_reason: str = ""
    problem_message: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What a busy row was made of, packed, and the provider's memory. ``version`` is the row's ``content_version``.

    ``read_at``: when the read of it began; the row may have been confirmed since. None: by a release that did not note it.
    """

    version: int
    events: bytes
    memory: bytes
    read_at: Instant | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What a refresh found. ``content`` None: nothing has changed since ``before_version``, which still holds."""

    connection_id: ConnectionId
    calendar_id: CalendarId
    as_of: Instant
    window: Interval
    full: bool
    before_version: int = 0
    intervals: bytes = b""
    content: bytes | None = None
    memory: bytes | None = field(default=None, repr=False)
    """None: as before."""


@dataclass(frozen=True, slots=True)
class DueRow:
    """A calendar in use that has to be refreshed."""

    connection_id: ConnectionId
    organization_id: OrganizationId
    calendar_id: CalendarId
    as_of: Instant


class Mirror:
    """The mirror of all organizations."""

    def __init__(self, database: Database):
        self._database = database
        now = "" if database.is_sqlite else _POSTGRES_NOW
        self._heads = _HEADS.format(now=now)

    def heads(
        self, organization_id: OrganizationId, connection_ids: Sequence[ConnectionId], owner: str
    ) -> tuple[list[Head], Instant]:
        """The live connections with these ids, or of this owner when there are none, oldest first; and the time now."""
        rows: list[tuple[Any, ...]] = []
        if connection_ids:
            for chunk in chunks(connection_ids):
                marks = ", ".join("?" * len(chunk))
                rows += self._database.fetch(f"{self._heads}c.id IN ({marks})", (organization_id, *chunk))
        else:
            rows = self._database.fetch(
                f"{self._heads}c.owner = ? ORDER BY c.connected_at, c.id", (organization_id, owner)
            )
        now = self._database.now() if self._database.is_sqlite or not rows else int(rows[0][7])
        return [
            Head(
                id=row[0],
                provider=ProviderName(row[1]),
                status=ConnectionStatus(row[2]),
                calendar_id=row[3],
                busy_calendar_ids=tuple(json.loads(row[4])),
                version=row[5],
                written=bool(row[6]),
            )
            for row in rows
        ], now

    def busy(self, connection_ids: Sequence[ConnectionId]) -> list[BusyRow]:
        """The busy rows of these connections."""
        found: list[BusyRow] = []
        for chunk in chunks(connection_ids):
            marks = ", ".join("?" * len(chunk))
            sql = f"SELECT {_BUSY_COLUMNS} FROM busy WHERE connection_id IN ({marks})"  # noqa: S608 — placeholders alone
            found += map(_busy, self._database.fetch(sql, chunk))
        return found

    def content(self, connection_id: ConnectionId, calendar_id: CalendarId) -> Content | None:
        """What the busy row of a calendar was made of."""
        rows = self._database.fetch(
            f"SELECT {_CONTENT_COLUMNS} FROM busy_content WHERE connection_id = ? AND calendar_id = ?",  # noqa: S608 — columns of our own
            (connection_id, calendar_id),
        )
        return _content(rows[0]) if rows else None

    def small_contents(self, connection_ids: Sequence[ConnectionId]) -> dict[tuple[ConnectionId, CalendarId], Content]:
        """As ``content``, of many calendars at once: those that are small, and no more than memory is there for."""
        found: dict[tuple[ConnectionId, CalendarId], Content] = {}
        for chunk in chunks(connection_ids):
            marks = ", ".join("?" * len(chunk))
            sql = (
                f"SELECT {_CONTENT_COLUMNS}, connection_id, calendar_id FROM busy_content "  # noqa: S608 — columns of our own, and placeholders
                f"WHERE connection_id IN ({marks}) AND LENGTH(events) + LENGTH(memory) <= ? LIMIT ?"
            )
            rows = self._database.fetch(sql, (*chunk, SMALL_BYTES, SMALL_MOST - len(found)))
            found |= {(row[5], row[6]): _content(row) for row in rows}
        return found

    def ours(self, connection_id: ConnectionId, event_ids: Iterable[EventId]) -> list[OursRow]:
        """Which of these events of a connection are ours, by the ids that we stored."""
        found: list[OursRow] = []
        for chunk in chunks(sorted(set(event_ids))):
            marks = ", ".join("?" * len(chunk))
            sql = (
                "SELECT o.calendar_id, o.event_id, o.booking_id, o.wanted, o.wanted_revision, o.pushed_revision, "  # noqa: S608
                "o.pushed_at, b.status FROM outbox o "
                "JOIN bookings b ON b.organization_id = o.organization_id AND b.id = o.booking_id "
                f"WHERE o.connection_id = ? AND o.event_id IN ({marks}) ORDER BY o.id"
            )
            found += (
                OursRow(
                    connection_id=connection_id,
                    calendar_id=CalendarId(row[0]),
                    event_id=EventId(row[1]),
                    booking_id=BookingId(row[2]),
                    counts=row[7] == BookingStatus.CONFIRMED and row[3] == "present",
                    shown_at=row[6] if row[5] == row[4] else None,
                )
                for row in self._database.fetch(sql, (connection_id, *chunk))
            )
        return found

    def overlay(self, connection_id: ConnectionId, window: Interval) -> list[OverlayRow]:
        """Confirmed bookings that touch the window and are wanted in this connection, wherever their push stands."""
        rows = self._database.fetch(
            "SELECT o.calendar_id, o.booking_id, o.event_id, b.starts_at, b.ends_at FROM outbox o "
            "JOIN bookings b ON b.organization_id = o.organization_id AND b.id = o.booking_id "
            "WHERE o.connection_id = ? AND o.wanted = 'present' AND o.state <> 'detached' AND b.status = 'confirmed' "
            "AND b.starts_at < ? AND b.ends_at > ? ORDER BY b.starts_at, o.id",
            (connection_id, window.end, window.start),
        )
        return [
            OverlayRow(connection_id, CalendarId(row[0]), BookingId(row[1]), row[3], row[4], EventId(row[2]))
            for row in rows
        ]

    def learn(self, learned: Sequence[Learned]) -> None:
        """Store what refreshes found, as far as it is newer than what is known. In a transaction of the caller's.

        Whoever calls has locked the connections and seen that they live. What rests on a content that somebody replaced
        meanwhile is left out: theirs is newer, or the next refresh mends it.
        """
        known = self._known(sorted({each.connection_id for each in learned}))
        replaced: list[tuple[object, ...]] = []
        contents: list[tuple[object, ...]] = []
        confirmed: list[tuple[object, ...]] = []
        memories: list[tuple[object, ...]] = []
        touched: set[ConnectionId] = set()
        for each in sorted(learned, key=lambda each: (each.connection_id, each.calendar_id)):
            key = (each.connection_id, each.calendar_id)
            as_of, full_at, version = known.get(key, (0, 0, 0))
            if as_of >= each.as_of or (each.content is None and version != each.before_version):
                continue
            touched.add(each.connection_id)
            full_at = each.as_of if each.full else full_at
            if each.content is not None:
                replaced.append((*key, each.as_of, full_at, *each.window, version + 1, each.intervals))
                contents.append((*key, version + 1, each.content, each.memory or b"", each.as_of, version + 1))
                continue
            confirmed.append((each.as_of, full_at, *key))
            if each.memory is not None:
                memories.append((each.memory, *key))
        self._database.execute_many(_REPLACE, replaced)
        self._database.execute_many(_REPLACE_CONTENT, contents)
        self._database.execute_many(_CONFIRM, confirmed)
        self._database.execute_many(
            "UPDATE busy_content SET memory = ? WHERE connection_id = ? AND calendar_id = ?", memories
        )
        self._database.touch(touched)

    def _known(
        self, connection_ids: Sequence[ConnectionId]
    ) -> dict[tuple[ConnectionId, CalendarId], tuple[Instant, Instant, int]]:
        """As of when, in full when, and the content's version of each calendar that has a row."""
        found: dict[tuple[ConnectionId, CalendarId], tuple[Instant, Instant, int]] = {}
        for chunk in chunks(connection_ids):
            marks = ", ".join("?" * len(chunk))
            sql = (
                "SELECT connection_id, calendar_id, as_of, full_at, content_version FROM busy "  # noqa: S608
                f"WHERE connection_id IN ({marks})"
            )
            found |= {(row[0], row[1]): (row[2], row[3], row[4]) for row in self._database.fetch(sql, chunk)}
        return found

    def fail(
        self,
        connection_id: ConnectionId,
        calendar_id: CalendarId,
        *,
        at: Instant,
        retry_at: Instant,
        reason: str,
        message: str,
    ) -> None:
        """Note that a calendar could not be read. What it held before is kept. In a transaction of the caller's."""
        query = BUSY.select(BUSY.failures).where(BUSY.connection_id == connection_id, BUSY.calendar_id == calendar_id)
        row = self._database.row(self._database.locking(query))
        values: dict[Any, Any] = {
            BUSY.failed_at: at,
            BUSY.failures: min((row["failures"] if row else 0) + 1, 1000),
            BUSY.retry_at: retry_at,
            BUSY.problem_reason: reason,
            BUSY.problem_message: message,
        }
        self._put(connection_id, calendar_id, values, there=row is not None)

    def _put(
        self, connection_id: ConnectionId, calendar_id: CalendarId, values: dict[Any, Any], *, there: bool
    ) -> None:
        self._database.touch([connection_id])
        if there:
            self._database.change(
                BUSY.update(values).where(BUSY.connection_id == connection_id, BUSY.calendar_id == calendar_id)
            )
            return
        blank: Mapping[Any, Any] = {
            BUSY.connection_id: connection_id,
            BUSY.calendar_id: calendar_id,
            BUSY.as_of: 0,
            BUSY.full_at: 0,
            BUSY.window_start: 0,
            BUSY.window_end: 0,
            BUSY.content_version: 0,
            BUSY.intervals: b"",
            BUSY.used_at: 0,
            BUSY.changed_at: 0,
            BUSY.failed_at: 0,
            BUSY.failures: 0,
            BUSY.retry_at: 0,
            BUSY.problem_reason: "",
            BUSY.problem_message: "",
        }
        # Whoever inserts at the same moment has locked the connection before us, so that there is nobody.
        self._database.change(BUSY.insert({**blank, **values}))

    def use(self, connection_ids: Sequence[ConnectionId], at: Instant) -> None:
        """Note that answers about these connections are asked for."""
        for chunk in chunks(sorted(set(connection_ids))):
            self._database.change(
                BUSY.update({BUSY.used_at: at}).where(BUSY.connection_id.in_(chunk), BUSY.used_at < at)
            )

    def note_change(self, connection_id: ConnectionId, calendar_id: CalendarId, at: Instant) -> bool:
        """Its provider told that a calendar has changed. False: it is not mirrored, nothing has to be done."""
        query = BUSY.update({BUSY.changed_at: at}).where(
            BUSY.connection_id == connection_id, BUSY.calendar_id == calendar_id, BUSY.changed_at < at
        )
        with self._database.joined():
            changed = self._database.change(query) > 0
            self._database.touch([connection_id] if changed else [])
        return changed

    def due(self, *, used_since: Instant, read_before: Instant, now: Instant, limit: int) -> list[DueRow]:
        """Calendars in use of live, active connections whose last read began too long ago, or that have changed since.

        Oldest first. Those that failed and are not to be tried yet are left out.
        """
        wanted = (BUSY.as_of < read_before) | (BUSY.changed_at >= BUSY.as_of)
        query = (
            BUSY.select(BUSY.connection_id, CONNECTIONS.organization_id, BUSY.calendar_id, BUSY.as_of)
            .join(CONNECTIONS, on=CONNECTIONS.id == BUSY.connection_id)
            .where(
                BUSY.used_at > used_since,
                BUSY.retry_at <= now,
                wanted,
                CONNECTIONS.disconnected_at.is_null(),
                CONNECTIONS.status == str(ConnectionStatus.ACTIVE),
            )
            .order_by(BUSY.as_of, BUSY.connection_id, BUSY.calendar_id)
            .limit(limit)
        )
        return [DueRow(**row) for row in self._database.rows(query)]

    def in_use(self, *, used_since: Instant, limit: int) -> list[ConnectionId]:
        """Live, active connections that answers were asked about since then."""
        query = (
            BUSY.select(BUSY.connection_id, peewee.fn.MAX(BUSY.used_at).alias("used_at"))
            .join(CONNECTIONS, on=CONNECTIONS.id == BUSY.connection_id)
            .where(
                BUSY.used_at > used_since,
                CONNECTIONS.disconnected_at.is_null(),
                CONNECTIONS.status == str(ConnectionStatus.ACTIVE),
            )
            .group_by(BUSY.connection_id)
            .order_by(peewee.SQL("used_at").desc())
            .limit(limit)
        )
        return [ConnectionId(row["connection_id"]) for row in self._database.rows(query)]

    def keep_only(self, connection_id: ConnectionId, calendar_ids: Sequence[CalendarId]) -> None:
        """Forget what other calendars of a connection held, all of them at its end. In the transaction that chose."""
        for table in (BUSY, BUSY_CONTENT):
            others = table.calendar_id.not_in(list(calendar_ids)) if calendar_ids else peewee.SQL("1 = 1")
            self._database.change(table.delete().where(table.connection_id == connection_id, others))

    def oldest(self, *, used_since: Instant) -> Instant | None:
        """The beginning of the oldest read that connections in use rest on, for a gauge. None: nothing is in use."""
        query = (
            BUSY.select(peewee.fn.MIN(BUSY.as_of).alias("as_of"))
            .join(CONNECTIONS, on=CONNECTIONS.id == BUSY.connection_id)
            .where(
                BUSY.used_at > used_since,
                BUSY.as_of > 0,
                CONNECTIONS.disconnected_at.is_null(),
                CONNECTIONS.status == str(ConnectionStatus.ACTIVE),
            )
        )
        row = self._database.row(query)
        return None if row is None else row["as_of"]


def _content(row: Sequence[Any]) -> Content:
    version, events, memory, read_at, read_version = row[:5]
    return Content(version, bytes(events), bytes(memory), read_at if read_version == version else None)


def _busy(row: tuple[Any, ...]) -> BusyRow:
    return BusyRow(
        connection_id=ConnectionId(row[0]),
        calendar_id=CalendarId(row[1]),
        as_of=row[2],
        full_at=row[3],
        window=Interval(row[4], row[5]),
        content_version=row[6],
        intervals=bytes(row[7]),
        used_at=row[8],
        changed_at=row[9],
        failed_at=row[10],
        failures=row[11],
        retry_at=row[12],
        problem_reason=row[13],
        problem_message=row[14],
    )
