"""What is in the mirror, and providers that do something of their own, for the tests of it."""

from __future__ import annotations

from collections.abc import Callable

from calendar_server.core.model import (
    SECOND,
    Calendar,
    CalendarId,
    Connection,
    Interval,
)
from calendar_server.providers.base import Deadline, Link, Refreshed, Remembered
from calendar_server.providers.memory import MemoryProvider
from calendar_server.store.mirror import BusyRow
from calendar_server.usecases.commands import BusyAnswer
from tests.usecases.conftest import (
    HOME,
    HOUR,
    NOON,
    WORK,
    World,
)

NOON_TO_ONE = Interval(NOON, NOON + HOUR)


def kept(world: World, *connections: Connection, **more: object) -> BusyAnswer:
    """What the mirror says: reads of the last minute are good enough."""
    return world.busy(*connections, **{"max_staleness_s": 60, **more})


def rows(world: World, connection: Connection) -> dict[CalendarId, BusyRow]:
    return {row.calendar_id: row for row in world.store.mirror.busy([connection.id])}


def make_older(world: World, connection: Connection, seconds: float) -> None:
    """As if everything about the connection had been read that much earlier."""
    earlier = round(seconds * SECOND)
    database = world.store._database
    with database.transaction():
        database.execute(
            "UPDATE busy SET as_of = as_of - ?, full_at = full_at - ? WHERE connection_id = ?",
            earlier,
            earlier,
            connection.id,
        )
        database.touch([connection.id])


class Slow(MemoryProvider):
    """Does something before each read of a calendar: waits, say."""

    def __init__(self, before: Callable[[Link, CalendarId, Interval], None]):
        super().__init__([Calendar(WORK), Calendar(HOME)])
        self._before = before

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        self._before(link, calendar_id, window)
        return super().refresh_calendar(link, calendar_id, window, before, deadline)


class Telling(MemoryProvider):
    """Answers a refresh by what ``tell`` makes of what is remembered; where that is None, by the truth."""

    def __init__(self, tell: Callable[[Remembered | None], Refreshed | None]):
        super().__init__([Calendar(WORK), Calendar(HOME)])
        self._tell = tell

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        told = self._tell(before)
        return told or super().refresh_calendar(link, calendar_id, window, before, deadline)
