"""Named queries for operators: pushes that failed or wait for long, and how they become due again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import peewee

from calendar_server.core.model import (
    BookingId,
    ConnectionId,
    ConnectionStatus,
    EventState,
    Instant,
    OrganizationId,
)
from calendar_server.store.database import Database, Row, chunks
from calendar_server.store.tables import BOOKINGS, CONNECTIONS, ORGANIZATIONS
from calendar_server.store.tables import OUTBOX as O

_ACTIVE = peewee.fn.EXISTS(
    CONNECTIONS.select(CONNECTIONS.id).where(
        CONNECTIONS.id == O.connection_id, CONNECTIONS.status == str(ConnectionStatus.ACTIVE)
    )
)


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """A push that needs a look. ``accepted_at``: when the revision that it should show was accepted."""

    id: str
    organization_id: OrganizationId
    organization: str
    connection_id: ConnectionId
    booking_id: BookingId
    state: EventState
    reason: str
    attempts: int
    due_at: Instant | None
    accepted_at: Instant


class Parked:
    """The parked pushes of all organizations, or of one."""

    def __init__(self, database: Database):
        self._database = database

    def page(
        self, *, accepted_before: Instant, organization_id: OrganizationId | None, after: str, limit: int
    ) -> list[ParkedRow]:
        """Failed pushes, and those pending whose revision was accepted before then. By id, behind ``after``."""
        waiting = (O.state == str(EventState.PENDING)) & (BOOKINGS.updated_at < accepted_before)
        query = (
            O.select(
                O.id,
                O.organization_id,
                ORGANIZATIONS.name.alias("organization"),
                O.connection_id,
                O.booking_id,
                O.state,
                O.problem_reason.alias("reason"),
                O.attempts,
                O.due_at,
                BOOKINGS.updated_at.alias("accepted_at"),
            )
            .join(BOOKINGS, on=(BOOKINGS.organization_id == O.organization_id) & (BOOKINGS.id == O.booking_id))
            .join(ORGANIZATIONS, on=ORGANIZATIONS.id == O.organization_id)
            .where(O.id > after, (O.state == str(EventState.FAILED)) | waiting, *_of(organization_id))
            .order_by(O.id)
            .limit(limit)
        )
        return [_parked(row) for row in self._database.rows(query)]

    def organizations_of(self, booking_id: BookingId) -> list[OrganizationId]:
        """Whose bookings have this id: it is unique in each organization only."""
        query = BOOKINGS.select(BOOKINGS.organization_id).where(BOOKINGS.id == booking_id)
        return sorted(OrganizationId(row["organization_id"]) for row in self._database.rows(query))

    def failed(self, organization_id: OrganizationId | None) -> list[str]:
        """The ids of all failed pushes."""
        query = O.select(O.id).where(O.state == str(EventState.FAILED), *_of(organization_id)).order_by(O.id)
        return [row["id"] for row in self._database.rows(query)]

    def of_booking(self, organization_id: OrganizationId, booking_id: BookingId) -> list[str]:
        """The ids of a booking's pushes that failed or are pending."""
        query = O.select(O.id).where(
            O.organization_id == organization_id,
            O.booking_id == booking_id,
            O.state.in_([str(EventState.FAILED), str(EventState.PENDING)]),
        )
        return [row["id"] for row in self._database.rows(query.order_by(O.id))]

    def make_due(self, row_ids: Sequence[str], now: Instant) -> int:
        """Have these tried again now; answers how many.

        One that is being pushed at this moment, or has moved on meanwhile, is left alone. Those of a connection whose
        grant is refused become pending without a due time: its renewal makes them due.
        """
        # A transaction each: the worker and callers come in between.
        return sum(self._make_due(chunk, now) for chunk in chunks(sorted(set(row_ids))))

    def _make_due(self, row_ids: Sequence[str], now: Instant) -> int:
        with self._database.transaction():
            query = O.select(O.id, O.connection_id).where(
                O.id.in_(row_ids),
                O.state.in_([str(EventState.FAILED), str(EventState.PENDING)]),
                O.lease_until <= now,
            )
            rows = self._database.rows(self._database.locking(query.order_by(O.id)))
            ids = [row["id"] for row in rows]
            if not ids:
                return 0
            changed = self._database.change(
                O.update(
                    {
                        O.state: str(EventState.PENDING),
                        O.due_at: peewee.Case(None, [(_ACTIVE, now)], None),
                        O.attempts: 0,
                        O.problem_reason: peewee.Case(None, [(_ACTIVE, "")], O.problem_reason),
                        O.problem_message: peewee.Case(None, [(_ACTIVE, "")], O.problem_message),
                        O.updated_at: now,
                    }
                ).where(O.id.in_(ids))
            )
            self._database.touch({row["connection_id"] for row in rows})
            return changed


def _of(organization_id: OrganizationId | None) -> tuple[Any, ...]:
    return () if organization_id is None else (O.organization_id == organization_id,)


def _parked(row: Row) -> ParkedRow:
    return ParkedRow(**{**row, "state": EventState(row["state"])})
