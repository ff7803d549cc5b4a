"""What a push begins with: its connection, the grant and the booking, in one statement."""

from __future__ import annotations

from dataclasses import dataclass

from calendar_server.core.model import Connection
from calendar_server.store import bookings, connections
from calendar_server.store.database import Database
from calendar_server.store.rows import BookingRow, SealedGrant

# As written: every push runs it.
_LOAD = (
    f"SELECT {', '.join(f'c.{name}' for name in connections.NAMES)}, c.sealed_grant, "  # noqa: S608 — names are our own
    f"{', '.join(f'b.{name}' for name in bookings.NAMES)} FROM outbox o "
    "JOIN connections c ON c.id = o.connection_id AND c.organization_id = o.organization_id "
    "JOIN bookings b ON b.organization_id = o.organization_id AND b.id = o.booking_id "
    "WHERE o.id = ? AND c.id = ? AND c.disconnected_at IS NULL"
)
_GRANT = len(connections.NAMES)


@dataclass(frozen=True, slots=True)
class Load:
    """What was stored at one moment."""

    connection: Connection
    grant: SealedGrant
    booking: BookingRow


class Loads:
    """What rows of the outbox refer to."""

    def __init__(self, database: Database):
        self._database = database

    def of(self, row_id: str, connection_id: str) -> Load | None:
        """What the push of this row into this connection begins with. None: it is disconnected, or the row is gone."""
        rows = self._database.fetch(_LOAD, (row_id, connection_id))
        if not rows:
            return None
        values = rows[0]
        connection = connections.of_values(values[:_GRANT])
        return Load(
            connection,
            SealedGrant(values[_GRANT], connection.grant_version),
            bookings.of_values(values[_GRANT + 1 :]),
        )
