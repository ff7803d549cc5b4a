"""The outbox: the wanted state of each booking in each connection, and who is pushing it.

Vocabulary
    due     pending, and its time has come: ``due_at`` <= now
    lease   a random token and an end. Whoever holds it pushes; once it has ended, anyone may claim the row anew.
    claim   take due rows under a fresh lease
    finish  store how a push went and end the lease, if lease and wanted revision still stand
    hold    store something under the lease without ending it
    release end the lease although something newer is wanted
    extend  let a lease that has not ended last longer
    owner   the worker that a lease's token names; ``free`` ends what a dead one held

Every change by a pusher is a compare-and-set on its token, so that one who slept too long changes nothing.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import peewee

from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    SECOND,
    BookingId,
    BookingStatus,
    CalendarId,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    Instant,
    Interval,
    OrganizationId,
)
from calendar_server.errors import ProviderUnavailable
from calendar_server.store import claims
from calendar_server.store.database import LOCKED, Database, Row, Statement, chunks
from calendar_server.store.rows import OursRow, OutboxRow, StandingRow, Wanted
from calendar_server.store.tables import BOOKINGS as B
from calendar_server.store.tables import CONNECTIONS as C
from calendar_server.store.tables import OUTBOX as O

_FIELDS = tuple(field.name for field in dataclasses.fields(OutboxRow))
_COLUMNS = (*claims.FIRST, *(name for name in _FIELDS if name not in claims.FIRST))
_CHANGEABLE = frozenset(_COLUMNS) - {"id", "lease_token", "lease_until"}

# Written out: every call and every push run these, and building them costs more than running them. Names are our own.
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM outbox"  # noqa: S608
_GET = f"{_SELECT} WHERE id = ?"
_OF_BOOKING = f"{_SELECT} WHERE organization_id = ? AND booking_id = ? ORDER BY id"
_PUT = (
    f"INSERT INTO outbox ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' for _ in _COLUMNS)}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS if name != 'id')}"
)


class _Now:
    """Stands for the database's time."""


NOW: Final = _Now()
"""As the value of a column that changes under a lease: the database's time at that moment."""

_SHOWN = _CHANGEABLE - {
    *("due_at", "attempts", "problem_reason", "problem_message", "etag", "web_link", "updated_at", "drift", "drift_at"),
    *("request_id", "traceparent"),
}
"""What answers of GetBusy are made of, among the columns."""

# Written into the statement, not bound to it: partial indexes are only used where the planner sees the value.
_PENDING_WORD = peewee.SQL("'pending'")
_PENDING = O.state == _PENDING_WORD
_LEASED = O.lease_token != peewee.SQL("''")
_ANEW = peewee.Case(None, [((O.attempts > 0) & (O.pushed_revision == 0) & (O.event_id == ""), 1)], 0)
"""``attempts`` of a row that begins anew: 1 where one of those so far may have made an event that we have no id of."""


class Outbox:
    """The outbox of all organizations. Inside a transaction, ``of_booking`` keeps what it answers from changing."""

    def __init__(self, database: Database):
        self._database = database

    def of_booking(self, organization_id: OrganizationId, booking_id: BookingId) -> list[OutboxRow]:
        """The rows of a booking, oldest first (ids sort by creation)."""
        lock = self._database.locked
        rows = self._database.fetch(f"{_OF_BOOKING}{lock}", (organization_id, booking_id))
        return [_of_values(row) for row in rows]

    def put(self, row: OutboxRow) -> None:
        """Insert the row, or replace the one with its id."""
        with self._database.joined():
            self._database.execute_later(_PUT, *(_plain(getattr(row, name)) for name in _COLUMNS))
            self._database.touch([row.connection_id])

    def get(self, row_id: str) -> OutboxRow | None:
        """The row with this id."""
        rows = self._database.fetch(_GET, (row_id,))
        return _of_values(rows[0]) if rows else None

    def ours(self, connection_ids: Sequence[ConnectionId]) -> list[OursRow]:
        """Every event of ours in these connections that ever got an id."""
        found: list[OursRow] = []
        for chunk in chunks(sorted(set(connection_ids))):
            query = (
                O.select(
                    O.connection_id,
                    O.calendar_id,
                    O.event_id,
                    O.booking_id,
                    O.wanted,
                    O.wanted_revision,
                    O.pushed_revision,
                    O.pushed_at,
                    B.status,
                )
                .join(B, on=(B.organization_id == O.organization_id) & (B.id == O.booking_id))
                .where(O.connection_id.in_(chunk), O.event_id != "")
                .order_by(O.id)
            )
            found += (
                OursRow(
                    connection_id=ConnectionId(row["connection_id"]),
                    calendar_id=CalendarId(row["calendar_id"]),
                    event_id=EventId(row["event_id"]),
                    booking_id=BookingId(row["booking_id"]),
                    counts=row["status"] == BookingStatus.CONFIRMED and row["wanted"] == "present",
                    shown_at=row["pushed_at"] if row["pushed_revision"] == row["wanted_revision"] else None,
                )
                for row in self._database.rows(query)
            )
        return found

    def standing(
        self, connection_ids: Sequence[ConnectionId], *, ends_after: Instant, before: Instant
    ) -> dict[tuple[ConnectionId, CalendarId], list[StandingRow]]:
        """The events of ours that show the newest revision, written before ``before`` and not yet over, by calendar."""
        found: dict[tuple[ConnectionId, CalendarId], list[StandingRow]] = defaultdict(list)
        for chunk in chunks(connection_ids):
            marks = ", ".join("?" * len(chunk))
            rows = self._database.fetch(
                "SELECT o.connection_id, o.calendar_id, o.id, o.event_id, o.pushed_revision, o.drift, "  # noqa: S608
                "b.starts_at, b.ends_at "
                "FROM outbox o JOIN bookings b ON b.organization_id = o.organization_id AND b.id = o.booking_id "
                f"WHERE o.connection_id IN ({marks}) AND o.state = 'synced' AND o.wanted = 'present' "
                "AND o.wanted_revision = o.pushed_revision AND o.event_id <> '' AND o.pushed_at < ? AND b.ends_at > ? "
                "ORDER BY o.id",
                (*chunk, before, ends_after),
            )
            for row in rows:
                found[ConnectionId(row[0]), CalendarId(row[1])].append(
                    StandingRow(
                        id=row[2],
                        event_id=EventId(row[3]),
                        pushed_revision=row[4],
                        interval=Interval(row[6], row[7]),
                        drift=Drift(row[5]),
                    )
                )
        return found

    def note_drift(self, row_id: str, *, pushed_revision: int, drift: Drift, before: Instant) -> bool:
        """Store what a read that began at ``before`` showed of an event.

        False, and nothing changes, when something else is wanted by now, it was written after that read began, or a
        later read has spoken.
        """
        query = O.update({O.drift: str(drift), O.drift_at: before}).where(
            O.id == row_id,
            O.state == str(EventState.SYNCED),
            O.wanted_revision == pushed_revision,
            O.pushed_revision == pushed_revision,
            O.pushed_at < before,
            O.drift_at < before,
        )
        return self._database.change(query) > 0

    def claim(self, *, limit: int, lease_s: float, mailbox_limit: int, owner: str = "") -> list[OutboxRow]:
        """Lease at most ``limit`` due rows of live, active connections for ``lease_s`` seconds, oldest due first.

        At most ``mailbox_limit`` rows of one connection are leased at once, by whomever. ``owner`` (letters and digits)
        is whom ``free`` knows the leases by. A lease that ran out, or was freed, counts as an attempt: what came of it is
        not known. A transaction of its own.
        """
        rows, token, until = claims.claim(
            self._database, _COLUMNS, limit=limit, lease_s=lease_s, mailbox_limit=mailbox_limit, owner=owner
        )
        return [_claimed(_of_values(row), token, until) for row in rows]

    def finish(self, row_id: str, lease_token: str, wanted_revision: int, wanted: Wanted, **changes: object) -> bool:
        """Store how a push went and end its lease. False: lease or wanted state no longer stand; nothing changed."""
        still = {"wanted_revision": wanted_revision, "wanted": wanted}
        return self._under_lease(row_id, lease_token, changes, still, ends=True)

    def release(self, row_id: str, lease_token: str, **changes: object) -> bool:
        """End the lease and store ``changes``, whatever is wanted now. False: it no longer stands."""
        return self._under_lease(row_id, lease_token, changes, {}, ends=True)

    def stands(self, row: OutboxRow, connection_id: ConnectionId) -> tuple[bool, bool]:
        """Whether the lease of a row stands and wants what it wanted, and whether its connection is still live."""
        rows = self._database.fetch(
            f"SELECT o.lease_token = ? AND o.lease_until > {self._database.clock} AND o.wanted_revision = ?, "  # noqa: S608
            "c.disconnected_at IS NULL FROM outbox o JOIN connections c ON c.id = ? WHERE o.id = ?",
            (row.lease_token, row.wanted_revision, connection_id, row.id),
        )
        return (bool(rows[0][0]), bool(rows[0][1])) if rows and row.lease_token else (False, True)

    def hold(self, row_id: str, lease_token: str, **changes: object) -> bool:
        """Store ``changes`` under a lease that has not ended, and keep it. False: it is lost; nothing changed."""
        return self._under_lease(row_id, lease_token, changes, {}, ends=False)

    def extend(self, rows: Sequence[OutboxRow], lease_s: float) -> int:
        """Let the leases of these rows, as claimed, end ``lease_s`` seconds from now. Answers how many still stood."""
        now, extended = self._database.now(), 0
        for chunk in chunks(sorted(rows, key=lambda row: row.id)):
            query = O.update({O.lease_until: now + round(lease_s * SECOND)}).where(
                O.id.in_([row.id for row in chunk]),
                O.lease_token.in_({row.lease_token for row in chunk}),
                O.lease_until > now,
            )
            extended += self._database.change(query)
        return extended

    def free(self, owner: str) -> int:
        """End every lease of an owner that is known to be dead. Answers how many rows."""
        name = f"{owner}."
        named = peewee.fn.SUBSTR(O.lease_token, 1, len(name)) == name
        ended = {O.lease_token: "", O.lease_until: 0, O.attempts: O.attempts + 1}
        return self._database.change(O.update(ended).where(_LEASED, named))

    def make_due(self, connection_id: ConnectionId, at: Instant) -> int:
        """Let the pending rows of a connection be tried at ``at``, nearly as if for the first time. Answers how many.

        That an attempt may have made an event under an id that only the provider knows is still to be known.
        """
        query = O.update({O.due_at: at, O.attempts: _ANEW}).where(O.connection_id == connection_id, _PENDING)
        return self._database.change(query)

    def look_again(self, row_id: str) -> bool:
        """Let a row be pushed once more, though it may be done: what stands in the calendar is in doubt.

        False: somebody pushes it at this moment. One that is detached, or gone, stays as it is.
        """
        now = self._database.now()
        free = (O.id == row_id) & ((O.lease_token == "") | (O.lease_until <= now))
        again = {
            O.state: str(EventState.PENDING),
            O.due_at: now,
            O.attempts: peewee.Case(None, [(O.attempts > 0, O.attempts)], 1),
        }
        shown = [str(EventState.PENDING), str(EventState.SYNCED), str(EventState.REMOVED), str(EventState.FAILED)]
        if self._database.change(O.update(again).where(free, O.state.in_(shown))):
            return True
        row = self._database.row(O.select(O.state).where(O.id == row_id))
        return row is None or row["state"] not in shown

    def postpone(self, connection_id: ConnectionId, until: Instant) -> int:
        """Let the due rows of a connection that nobody pushes wait: its host is in outage. Answers how many."""
        now = self._database.now()
        query = O.update({O.due_at: until}).where(
            O.connection_id == connection_id, _PENDING, O.due_at < until, O.lease_until <= now
        )
        return self._database.change(query)

    def hasten(self, connection_ids: Sequence[ConnectionId], at: Instant) -> int:
        """Let rows that wait because their provider did not answer be tried at ``at``: it does again. Answers how many."""
        hastened = 0
        for chunk in chunks(sorted(set(connection_ids))):
            query = O.update({O.due_at: at}).where(
                O.connection_id.in_(chunk),
                _PENDING,
                O.due_at > at,
                O.problem_reason.in_(["", ProviderUnavailable.reason]),
            )
            hastened += self._database.change(query)
        return hastened

    def detach(self, connection_id: ConnectionId, at: Instant) -> int:
        """Let go of a disconnected connection's rows, but those REMOVED. Leases end: late pushers store nothing."""
        ended = [str(EventState.REMOVED), str(EventState.DETACHED)]
        query = O.update(
            {
                O.state: str(EventState.DETACHED),
                O.due_at: None,
                O.lease_token: "",
                O.lease_until: 0,
                O.updated_at: at,
            }
        ).where(O.connection_id == connection_id, O.state.not_in(ended))
        with self._database.joined():
            self._database.touch([connection_id])
            return self._database.change(query)

    def take_over_cancelled(self, connection_id: ConnectionId, at: Instant) -> int:
        """Let a new connection take out the events of cancelled bookings that disconnected ones of its account left.

        Of the same organization and owner. Inside the transaction that adds it. Answers how many.
        """
        former, heir = C.alias("former"), C.alias("heir")
        same = (
            (former.organization_id == heir.organization_id)
            & (former.owner == heir.owner)
            & (former.provider == heir.provider)
            & (former.subject == heir.subject)
        )
        query = (
            O.select(O.id, O.booking_id)
            .join(B, on=(B.organization_id == O.organization_id) & (B.id == O.booking_id))
            .join(former, on=former.id == O.connection_id)
            .join(heir, on=same)
            .where(
                heir.id == connection_id,
                former.disconnected_at.is_null(False),
                O.state == str(EventState.DETACHED),
                B.status == str(BookingStatus.CANCELLED),
            )
            .order_by(O.id.desc())
        )
        # A connection has one row of a booking: the newest, should there be several.
        newest = {row["booking_id"]: row["id"] for row in reversed(self._database.rows(query))}
        revision = B.select(B.revision).where(B.organization_id == O.organization_id, B.id == O.booking_id)
        taken = 0
        for chunk in chunks(sorted(newest.values())):
            taken += self._database.change(
                O.update(
                    {
                        O.connection_id: connection_id,
                        O.state: str(EventState.PENDING),
                        O.wanted: "absent",
                        O.wanted_revision: revision,
                        O.due_at: at,
                        O.attempts: _ANEW,
                        O.problem_reason: "",
                        O.problem_message: "",
                        O.updated_at: at,
                    }
                ).where(O.id.in_(chunk), O.state == str(EventState.DETACHED))
            )
        return taken

    def next_due(self) -> Instant | None:
        """When the next row can be claimed, as far as its own time and lease go. None: nothing is waiting."""
        return claims.next_due(self._database)

    def mark_gone(self, row_id: str, *, pushed_revision: int, before: Instant, at: Instant) -> bool:
        """Its owner deleted the event, as seen by a read that began at ``before``.

        False, and nothing changes, when something else is wanted by now or it was written after that read began.
        """
        return self._gone(at, O.id == row_id, O.pushed_revision == pushed_revision, O.pushed_at < before)

    def note_missing(self, connection_id: ConnectionId, event_id: EventId, before: Instant, at: Instant) -> bool:
        """Like ``mark_gone``, by what a calendar calls it."""
        if not event_id:
            return False
        return self._gone(at, O.connection_id == connection_id, O.event_id == event_id, O.pushed_at < before)

    def expire(self, now: Instant, keep_us: int) -> int:
        """Give up on rows that wait for a new grant ``keep_us`` microseconds after their booking's end."""
        row = O.alias("row")
        over = (
            row.select(row.id)
            .join(C, on=C.id == row.connection_id)
            .join(B, on=(B.organization_id == row.organization_id) & (B.id == row.booking_id))
            .where(
                row.state == _PENDING_WORD,
                row.lease_until <= now,
                C.disconnected_at.is_null(),
                C.status == str(ConnectionStatus.NEEDS_REAUTH),
                B.ends_at < now - keep_us,
            )
        )
        # Rows that somebody is changing are passed over: to wait for several of them might be to wait in a ring.
        query = O.update(
            {
                O.state: str(EventState.FAILED),
                O.due_at: None,
                O.problem_reason: "NEEDS_REAUTH",
                O.problem_message: "The account was not connected again in time. Connect it, then send the booking.",
                O.updated_at: now,
            }
        ).where(O.id.in_(self._database.skipping_locked(over, row)))
        return self._database.change(query)

    def counts(self) -> dict[str, int]:
        """How many rows are in each state, of all organizations."""
        query = O.select(O.state, peewee.fn.COUNT(O.id).alias("rows")).group_by(O.state)
        found = {str(state): 0 for state in EventState}
        found.update({row["state"]: row["rows"] for row in self._database.rows(query)})
        return found

    def oldest_due(self, now: Instant) -> Instant | None:
        """Since when the oldest of the rows that can be pushed at ``now`` is due, for a gauge. None: none waits."""
        return claims.oldest_due(self._database, now)

    def _gone(self, at: Instant, *conditions: Any) -> bool:
        query = O.update({O.state: str(EventState.GONE), O.due_at: None, O.updated_at: at}).where(
            *conditions,
            O.state == str(EventState.SYNCED),
            O.wanted == "present",
            O.wanted_revision == O.pushed_revision,
        )
        return self._database.change(query) > 0

    def _under_lease(
        self, row_id: str, lease_token: str, changes: dict[str, object], still: Mapping[str, object], *, ends: bool
    ) -> bool:
        unknown = changes.keys() - _CHANGEABLE
        if unknown:
            raise TypeError(f"the outbox has no changeable column {', '.join(sorted(unknown))}")
        if not lease_token:
            return False
        clock = self._database.clock
        # Written over itself where nothing else changes: an UPDATE needs a column.
        ended = {"lease_token": "", "lease_until": 0} if ends else {"lease_token": lease_token}
        values: dict[str, object] = {**changes, **ended}
        conditions = {"id": row_id, "lease_token": lease_token, **still}
        assigned = ", ".join(f"{name} = {clock if value is NOW else '?'}" for name, value in values.items())
        sql = f"UPDATE outbox SET {assigned} WHERE {' AND '.join(f'{name} = ?' for name in conditions)}"  # noqa: S608
        if not ends:
            sql += f" AND lease_until > {clock}"
        bound = [*(_plain(value) for value in values.values() if value is not NOW), *conditions.values()]
        if not changes.keys() & _SHOWN:
            return self._database.execute(sql, *bound) == 1
        if not self._database.is_sqlite and not self._database.in_transaction:
            return self._database.change_touching(f"{sql} RETURNING connection_id", bound)

        def change() -> bool:
            if self._database.execute(sql, *bound) != 1:
                return False
            for (connection_id,) in self._database.fetch("SELECT connection_id FROM outbox WHERE id = ?", (row_id,)):
                self._database.touch([connection_id])
            return True

        return self._database.atomically(change)


def of_booking_locked(organization_id: OrganizationId, booking_id: BookingId) -> Statement:
    """What ``of_booking`` runs in a transaction of Postgres."""
    return f"{_OF_BOOKING}{LOCKED}", (organization_id, booking_id)


def _claimed(row: OutboxRow, token: str, until: Instant) -> OutboxRow:
    attempts = row.attempts + bool(row.lease_token)
    return dataclasses.replace(row, lease_token=token, lease_until=until, attempts=attempts)


def _plain(value: object) -> object:
    """A value as a driver takes it: enumerations as their text."""
    return str(value) if isinstance(value, (EventState, Drift)) else value


def _outbox(row: Row) -> OutboxRow:
    return OutboxRow(**{**row, "state": EventState(row["state"]), "drift": Drift(row["drift"])})


def _of_values(values: Sequence[Any]) -> OutboxRow:
    return _outbox(dict(zip(_COLUMNS, values, strict=True)))
