"""What pushes begin with: connections, grants and bookings, in one statement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from calendar_server.core.model import SECOND, Connection, Instant
from calendar_server.store import bookings, connections
from calendar_server.store.database import Database, chunks
from calendar_server.store.rows import BookingRow, OutboxRow, SealedGrant

# As written: every push runs it.
_LOAD = (
    f"SELECT {{clock}}, o.id, {', '.join(f'c.{name}' for name in connections.NAMES)}, c.sealed_grant, "  # noqa: S608 — names are our own
    f"{', '.join(f'b.{name}' for name in bookings.NAMES)} FROM outbox o "
    "JOIN connections c ON c.id = o.connection_id AND c.organization_id = o.organization_id "
    "JOIN bookings b ON b.organization_id = o.organization_id AND b.id = o.booking_id "
    "WHERE o.id IN ({marks}) AND c.disconnected_at IS NULL"
)
_CONNECTION = 2
_GRANT = _CONNECTION + len(connections.NAMES)


@dataclass(frozen=True, slots=True)
class Load:
    """What was stored at one moment: ``at`` by the database's clock, ``since`` by this process's monotonic one."""

    connection: Connection
    grant: SealedGrant
    booking: BookingRow
    at: Instant
    since: float

    @property
    def age_s(self) -> float:
        """Seconds since it was read."""
        return time.monotonic() - self.since

    @property
    def now(self) -> Instant:
        """The database's time, as far as this process can tell without asking."""
        return self.at + int(self.age_s * SECOND)


class Loads:
    """What rows of the outbox refer to."""

    def __init__(self, database: Database):
        self._database = database

    def of(self, rows: Sequence[OutboxRow]) -> dict[str, Load]:
        """What the pushes of these rows begin with, by the rows' ids.

        Those that are not there are disconnected, gone, or no longer of the connection that they were of.
        """
        since, loads = time.monotonic(), {}
        for chunk in chunks(rows):
            connection_of = {row.id: row.connection_id for row in chunk}
            marks = ", ".join("?" * len(chunk))
            sql = _LOAD.format(clock=self._database.clock, marks=marks)
            for values in self._database.fetch(sql, list(connection_of)):
                connection = connections.of_values(values[_CONNECTION:_GRANT])
                if connection.id == connection_of[values[1]]:
                    loads[values[1]] = Load(
                        connection,
                        SealedGrant(values[_GRANT], connection.grant_version),
                        bookings.of_values(values[_GRANT + 1 :]),
                        values[0],
                        since,
                    )
        return loads
