"""Two server processes against one, on one Postgres and the same port each."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench.figures import Sheet, ratio
from bench.stage import GET_BUSY, Dav, service, settings_for, varied

LOADS = 2
CALLERS = 8
"""Of each load process: enough connections for the kernel to spread over the processes."""


def processes(sheet: Sheet, folder: Path, dav: Dav, database_url: str) -> None:
    """Warm calls in a second, from two load processes."""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(service(settings_for(database_url), dav, folder, echo=False, worker=False))
        two = stack.enter_context(
            service(settings_for(database_url, CALENDAR_PROCESSES="2"), dav, folder, echo=False, worker=False)
        )
        ids = one.connect("slots", 3)
        requests = varied(ids, dav.base, 7)
        loads = {stage.address: [stack.enter_context(stage.load()) for _ in range(LOADS)] for stage in (one, two)}
        for group in loads.values():
            for load in group:
                load.prepare("warm", GET_BUSY, requests)
                load.run("warm", callers=CALLERS, seconds=0.5)
        pairs = []
        for _ in range(7):
            per_s = {}
            for address, group in loads.items():
                for load in group:
                    load.begin("warm", callers=CALLERS, seconds=1.0)
                per_s[address] = sum(load.end().per_s for load in group)
            pairs.append((per_s[two.address], per_s[one.address]))
    note = (
        f"the last round: {pairs[-1][0]:.0f} against {pairs[-1][1]:.0f} calls a second; the load needs processors too"
    )
    sheet.add(ratio("2 server processes against 1: throughput", pairs, aim=1.7, at_least=True, note=note))
