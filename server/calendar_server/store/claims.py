"""Claiming due rows of the outbox: which ones, and the leases on them.

The statements are written out: a busy worker runs them many times a second, and building them costs more than running
them.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

from calendar_server.core.model import SECOND, Instant
from calendar_server.store.database import Database, Statement

CLAIMS = 0x63616C5F636C6169
"""The number that claims of all replicas queue at, so that the limit for a mailbox is counted exactly."""
SPARE = 4
"""Times as many rows as asked for are looked at: some may be locked, or gone by the time they are leased."""

FIRST = ("id", "connection_id")
"""The columns that ``claim`` itself reads: they come first."""

# 'pending' and '' stand in the text: partial indexes are only used where the planner sees the value. EXISTS, not IN:
# SQLite would go through all connections to find the few rows that are pending.
_PUSHABLE = (
    "EXISTS (SELECT 1 FROM connections c WHERE c.id = o.connection_id AND c.disconnected_at IS NULL "
    "AND c.status = 'active')"
)
_LEASED = "SELECT connection_id, COUNT(id) AS leases FROM outbox WHERE lease_token <> '' AND lease_until >"
# What has waited longest, whosoever it is: nearly always that is what can be claimed.
_OLDEST = "SELECT o.id, o.connection_id FROM outbox o WHERE {claimable} ORDER BY o.due_at, o.id LIMIT ?"
# Ids of claimable rows, no more of a connection than its mailbox has room for.
_DUE = f"""
    SELECT id, connection_id FROM (
        SELECT o.id, o.connection_id, o.due_at, COALESCE(l.leases, 0) AS leases,
            ROW_NUMBER() OVER (PARTITION BY o.connection_id ORDER BY o.due_at, o.id) AS place
        FROM outbox o
        LEFT JOIN ({_LEASED} {{clock}} GROUP BY connection_id) l ON l.connection_id = o.connection_id
        WHERE {{claimable}}
    ) ranked WHERE place + leases <= ? ORDER BY due_at, id LIMIT ?
"""  # noqa: S608 — placeholders alone
_NEXT_DUE = (
    "SELECT MIN(CASE WHEN o.due_at > o.lease_until THEN o.due_at ELSE o.lease_until END) FROM outbox o "  # noqa: S608
    f"WHERE o.state = 'pending' AND o.due_at IS NOT NULL AND {_PUSHABLE}"
)
_OLDEST_DUE = f"SELECT MIN(o.due_at) FROM outbox o WHERE o.state = 'pending' AND o.due_at <= ? AND {_PUSHABLE}"  # noqa: S608


def claim(
    database: Database, columns: Sequence[str], *, limit: int, lease_s: float, mailbox_limit: int, owner: str
) -> tuple[list[tuple[Any, ...]], str, Instant]:
    """See ``Outbox.claim``. Answers the rows as they were, and the token and end of their new lease.

    ``columns`` are those of the rows, and begin with ``FIRST``.
    """
    # Looked for without any lock: mostly nothing is due, and then no writer was held up.
    due = _due(database, limit, mailbox_limit)
    if not due:
        return [], "", 0
    clock, mailboxes = database.clock, sorted({mailbox for _, mailbox in due})
    rows_now: Statement = (
        f"SELECT {', '.join(f'o.{name}' for name in columns)} FROM outbox o WHERE o.id IN ({_marks(due)}) "  # noqa: S608 — names are our own
        f"AND {_claimable(clock)} ORDER BY o.due_at, o.id{database.locked_or_skipped('o')}",
        tuple(id for id, _ in due),
    )
    leased_now: Statement = (
        f"{_LEASED} {clock} AND connection_id IN ({_marks(mailboxes)}) GROUP BY connection_id",
        tuple(mailboxes),
    )
    # On Postgres all that is read comes with the beginning of the transaction, in one round trip.
    with database.transaction(CLAIMS, (database.ask_clock, rows_now, leased_now)):
        now = database.now()
        rows, leased = database.fetch(*rows_now), Counter(dict(database.fetch(*leased_now)))
        taken = _fitting(rows, leased, mailbox_limit)[:limit]
        if not taken:
            return [], "", 0
        token, until = f"{owner}.{secrets.token_hex(16)}", now + round(lease_s * SECOND)
        database.execute_later(
            "UPDATE outbox SET attempts = attempts + CASE WHEN lease_token <> '' THEN 1 ELSE 0 END, "  # noqa: S608 — placeholders alone
            f"lease_token = ?, lease_until = ? WHERE id IN ({_marks(taken)})",
            token,
            until,
            *(row[0] for row in taken),
        )
    return taken, token, until


def _due(database: Database, limit: int, mailbox_limit: int) -> list[tuple[str, str]]:
    """Ids and mailboxes of what may be claimed, oldest first, somewhat more than ``limit``."""
    most, clock = limit * SPARE, database.clock
    oldest = database.fetch(_OLDEST.format(claimable=_claimable(clock)), (most,))
    if not oldest:
        return []
    mailboxes = sorted({mailbox for _, mailbox in oldest})
    leased = database.fetch(
        f"{_LEASED} {clock} AND connection_id IN ({_marks(mailboxes)}) GROUP BY connection_id", mailboxes
    )
    fit = _fitting(oldest, Counter(dict(leased)), mailbox_limit)
    if len(fit) < limit and len(oldest) == most:
        # Few mailboxes have so much due that others are not among the oldest. To look at all that is due takes a while.
        fit = database.fetch(_DUE.format(claimable=_claimable(clock), clock=clock), (mailbox_limit, most))
    return [(row[0], row[1]) for row in fit]


def _fitting(rows: Sequence[tuple[Any, ...]], leased: Counter[str], mailbox_limit: int) -> list[tuple[Any, ...]]:
    """The rows, beginning with ``FIRST``, that their mailboxes have room for."""
    fit = []
    for row in rows:
        if leased[row[1]] < mailbox_limit:
            leased[row[1]] += 1
            fit.append(row)
    return fit


def _claimable(clock: str) -> str:
    # A query of its own is asked once, so that an index can be gone along to where it ends.
    now = f"(SELECT {clock})"
    return f"o.state = 'pending' AND o.due_at <= {now} AND o.lease_until <= {now} AND {_PUSHABLE}"


def next_due(database: Database) -> Instant | None:
    """See ``Outbox.next_due``."""
    return database.fetch(_NEXT_DUE)[0][0]  # type: ignore[no-any-return]


def oldest_due(database: Database, now: Instant) -> Instant | None:
    """See ``Outbox.oldest_due``."""
    return database.fetch(_OLDEST_DUE, (now,))[0][0]  # type: ignore[no-any-return]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
