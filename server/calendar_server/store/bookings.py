"""Named queries about bookings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import peewee

from calendar_server.core.model import (
    BookingId,
    BookingStatus,
    CalendarId,
    ConnectionId,
    EventId,
    EventState,
    Interval,
    OrganizationId,
)
from calendar_server.store.database import LOCKED, Database, Statement, chunks
from calendar_server.store.rows import BookingRow, OverlayRow
from calendar_server.store.tables import BOOKINGS as B
from calendar_server.store.tables import OUTBOX as O

NAMES = tuple(B._columns)
_GET = f"SELECT {', '.join(NAMES)} FROM bookings WHERE organization_id = ? AND id = ?"  # noqa: S608
_PUT = (
    f"INSERT INTO bookings ({', '.join(NAMES)}) VALUES ({', '.join('?' * len(NAMES))}) "  # noqa: S608
    "ON CONFLICT (organization_id, id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in NAMES if name not in ("organization_id", "id"))
)

BATCH = 200
"""Rows read at once when all are gone through."""


class Bookings:
    """The bookings of all organizations, the newest accepted revision of each."""

    def __init__(self, database: Database):
        self._database = database

    def get(self, organization_id: OrganizationId, booking_id: BookingId) -> BookingRow | None:
        """The booking, or None."""
        return self._one(organization_id, booking_id, "")

    def get_for_update(self, organization_id: OrganizationId, booking_id: BookingId) -> BookingRow | None:
        """The booking, or None, as nobody else will change or make it before the transaction ends."""
        # A booking that is not there yet has no row to lock; its name has.
        self._database.serialize(number_of(organization_id, booking_id))
        return self._one(organization_id, booking_id, self._database.locked)

    def _one(self, organization_id: OrganizationId, booking_id: BookingId, locked: str) -> BookingRow | None:
        rows = self._database.fetch(f"{_GET}{locked}", (organization_id, booking_id))
        return of_values(rows[0]) if rows else None

    def put(self, row: BookingRow) -> None:
        """Insert the booking, or replace it."""
        self._database.execute_later(
            _PUT,
            row.organization_id,
            row.id,
            row.revision,
            str(row.status),
            row.start,
            row.end,
            row.sealed_content,
            row.wanted_set,
            row.updated_at,
        )

    def overlay(self, connection_ids: Sequence[ConnectionId], window: Interval) -> list[OverlayRow]:
        """Confirmed bookings that touch the window and are wanted in these connections, wherever their push stands."""
        found: list[OverlayRow] = []
        for chunk in chunks(sorted(set(connection_ids))):
            query = (
                O.select(O.connection_id, O.calendar_id, O.booking_id, O.event_id, B.starts_at, B.ends_at)
                .join(B, on=(B.organization_id == O.organization_id) & (B.id == O.booking_id))
                .where(
                    O.connection_id.in_(chunk),
                    O.wanted == "present",
                    O.state != str(EventState.DETACHED),
                    B.status == str(BookingStatus.CONFIRMED),
                    B.starts_at < window.end,
                    B.ends_at > window.start,
                )
                .order_by(B.starts_at, O.id)
            )
            found += (
                OverlayRow(
                    connection_id=ConnectionId(row["connection_id"]),
                    calendar_id=CalendarId(row["calendar_id"]),
                    booking_id=BookingId(row["booking_id"]),
                    start=row["starts_at"],
                    end=row["ends_at"],
                    event_id=EventId(row["event_id"]),
                )
                for row in self._database.rows(query)
            )
        return found

    def sealed_contents(self) -> Iterator[tuple[OrganizationId, BookingId, str]]:
        """Every booking's sealed content, in batches: no connection to the database is held between them."""
        last = ("", "")
        while True:
            after = (B.organization_id > last[0]) | ((B.organization_id == last[0]) & (B.id > last[1]))
            query = B.select(B.organization_id, B.id, B.sealed_content).where(after)
            batch = self._database.rows(query.order_by(B.organization_id, B.id).limit(BATCH))
            for row in batch:
                yield OrganizationId(row["organization_id"]), BookingId(row["id"]), row["sealed_content"]
            if len(batch) < BATCH:
                return
            last = (batch[-1]["organization_id"], batch[-1]["id"])

    def sealed_with(self, prefix: str) -> bool:
        """Whether a booking's sealed content begins so."""
        begins = peewee.fn.SUBSTR(B.sealed_content, 1, len(prefix)) == prefix
        return self._database.row(B.select(B.id).where(begins).limit(1)) is not None

    def reseal(self, organization_id: OrganizationId, booking_id: BookingId, old_sealed: str, new_sealed: str) -> bool:
        """Replace the sealed content if it is still ``old_sealed``."""
        query = B.update({B.sealed_content: new_sealed}).where(
            B.organization_id == organization_id, B.id == booking_id, B.sealed_content == old_sealed
        )
        return self._database.change(query) == 1


def number_of(organization_id: OrganizationId, booking_id: BookingId) -> int:
    """64 bits that stand for a booking. Two that share a number would only wait for each other."""
    digest = hashlib.sha256(f"{len(organization_id)}:{organization_id}{booking_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def get_locked(organization_id: OrganizationId, booking_id: BookingId) -> Statement:
    """What ``get_for_update`` runs on Postgres."""
    return f"{_GET}{LOCKED}", (organization_id, booking_id)


def of_values(values: Sequence[Any]) -> BookingRow:
    """The booking of a row with all of ``NAMES``."""
    row = dict(zip(NAMES, values, strict=True))
    return BookingRow(
        organization_id=OrganizationId(row["organization_id"]),
        id=BookingId(row["id"]),
        revision=row["revision"],
        status=BookingStatus(row["status"]),
        start=row["starts_at"],
        end=row["ends_at"],
        sealed_content=row["sealed_content"],
        wanted_set=row["wanted_set"],
        updated_at=row["updated_at"],
    )
