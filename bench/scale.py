"""Two server processes against one, on one Postgres, each service on a port of its own."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench import h2load
from bench.figures import Sheet, ratio
from bench.load import Load
from bench.stage import GET_BUSY, HOUR_S, Dav, Stage, busy_request, service, settings_for

LOADS = 2
CONNECTIONS = 16
"""Enough for the kernel to spread them over the processes."""
ROUNDS = 5


def processes(sheet: Sheet, folder: Path, dav: Dav, database_url: str) -> None:
    """Warm calls in a second."""
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(service(settings_for(database_url), dav, folder, echo=False, worker=False))
        two = stack.enter_context(
            service(settings_for(database_url, CALENDAR_PROCESSES="2"), dav, folder, echo=False, worker=False)
        )
        ids = one.connect("slots", 3)
        request = busy_request(ids, dav.base, 7, staleness_s=24 * HOUR_S)
        loads = {stage.address: [stack.enter_context(stage.load()) for _ in range(LOADS)] for stage in (one, two)}
        for group in loads.values():
            for load in group:
                load.prepare("warm", GET_BUSY, [request])
                load.run("warm", callers=CONNECTIONS // LOADS, seconds=0.5)

        def per_s(stage: Stage) -> float:
            if h2load.found():
                return h2load.per_s(
                    stage.address, stage.api_key, GET_BUSY, request, folder, connections=CONNECTIONS, seconds=1
                )
            return _per_s(loads[stage.address])

        pairs = [(per_s(two), per_s(one)) for _ in range(ROUNDS)]
    by = "h2load" if h2load.found() else f"{LOADS} Python processes, which need processors too (h2load needs less)"
    note = f"load by {by}; the last round: {pairs[-1][0]:.0f} against {pairs[-1][1]:.0f} calls a second"
    sheet.add(ratio("2 server processes against 1: throughput", pairs, aim=1.7, at_least=True, note=note))


def _per_s(group: list[Load]) -> float:
    for load in group:
        load.begin("warm", callers=CONNECTIONS // LOADS, seconds=1.0)
    return sum([load.end().per_s for load in group])
