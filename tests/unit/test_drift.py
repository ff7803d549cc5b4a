"""The table of what a read shows of an event of ours."""

from __future__ import annotations

import pytest

from calendar_server.core.drift import Drift, drift_of
from calendar_server.core.model import BlockReason, BusyEvent, EventId, Interval

WANTED, WINDOW, ELSEWHERE = Interval(100, 200), Interval(0, 1000), Interval(2000, 3000)
OURS = EventId("ours")


def shown(
    start: int = 100, end: int = 200, reason: BlockReason = BlockReason.BUSY, tentative: bool = False
) -> BusyEvent:
    return BusyEvent(start, end, reason, OURS, tentative)


TABLE: list[tuple[str, list[BusyEvent], Interval, bool | None, Drift | None]] = [
    ("as written", [shown()], WINDOW, None, Drift.NONE),
    ("as written, all listed", [shown()], WINDOW, True, Drift.NONE),
    ("as written, outside the window", [shown()], ELSEWHERE, True, Drift.NONE),
    ("later", [shown(150, 250)], WINDOW, None, Drift.MOVED),
    ("longer", [shown(100, 201)], WINDOW, True, Drift.MOVED),
    ("moved into the window", [shown(2100, 2200)], ELSEWHERE, None, Drift.MOVED),
    ("moved and made free", [shown(150, 250, BlockReason.FREE)], WINDOW, None, Drift.MOVED),
    ("moved out of the window", [], WINDOW, True, Drift.MOVED),
    ("not in the window that was read", [], WINDOW, None, Drift.DELETED),
    ("not in the calendar", [], WINDOW, False, Drift.DELETED),
    ("not in the calendar, wherever it was", [], ELSEWHERE, False, Drift.DELETED),
    ("there, where nobody looked", [], ELSEWHERE, True, None),
    ("nobody looked", [], ELSEWHERE, None, None),
    ("free", [shown(reason=BlockReason.FREE)], WINDOW, None, Drift.EDITED),
    ("cancelled", [shown(reason=BlockReason.CANCELLED)], WINDOW, None, Drift.EDITED),
    ("declined", [shown(reason=BlockReason.DECLINED)], WINDOW, None, Drift.EDITED),
    ("tentative", [shown(tentative=True)], WINDOW, None, Drift.EDITED),
    ("out of office", [shown(reason=BlockReason.OUT_OF_OFFICE)], WINDOW, None, Drift.EDITED),
    ("repeated", [shown(), shown(300, 400)], WINDOW, None, Drift.EDITED),
    ("with a way to it", [shown(50, 100, BlockReason.TRAVEL), shown()], WINDOW, None, Drift.EDITED),
]


@pytest.mark.parametrize(
    ("found", "window", "listed", "drift"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_what_a_read_shows(found: list[BusyEvent], window: Interval, listed: bool | None, drift: Drift | None) -> None:
    assert drift_of(WANTED, found, window, listed=listed) is drift
