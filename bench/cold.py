"""GetBusy that has to ask providers: against the slowest of them alone."""

from __future__ import annotations

import time
from pathlib import Path

from bench.figures import Figure, Sheet, ratio
from bench.load import Load
from bench.stage import GET_BUSY, Dav, Stage, busy_request, service, settings_for, sqlite, until

DELAY_S = 0.1
STALE_S = 2
OVERLAPPING = 100


def cold(sheet: Sheet, folder: Path, dav: Dav) -> None:
    """Many providers of 100 ms at once, and many callers of the same ones. No worker: it reads ahead by itself."""
    with service(settings_for(sqlite(folder)), dav, folder, worker=False) as stage, stage.load() as load:
        calendars = {"as they were": stage.connect("few", 50), "all new": stage.connect("news", 50)}
        for ids in calendars.values():
            # A first read asks for a list besides: what is measured is what comes after it.
            load.prepare("first", GET_BUSY, [busy_request([one], dav.base, 7, staleness_s=0) for one in ids])
            load.run("first", calls=len(ids))
        dav.delay(DELAY_S)
        for kind, ids in calendars.items():
            load.prepare("one", GET_BUSY, [busy_request([one], dav.base, 7, staleness_s=0) for one in ids])
            for count, aim in ((10, 1.10), (50, 1.30)):
                load.prepare("many", GET_BUSY, [busy_request(ids[:count], dav.base, 7, staleness_s=0)])
                load.run("many", calls=2)
                pairs = [(load.run("many", calls=1).p50_s, _slowest(load)) for _ in range(9)]
                last = f"the last round: {pairs[-1][0] * 1000:.0f} against {pairs[-1][1] * 1000:.0f} ms"
                what = f"cold GetBusy over {count} providers of 100 ms, events {kind}, against one alone"
                sheet.add(ratio(what, pairs, aim=aim, note=last))
        _overlapping(sheet, stage, load, calendars["as they were"][:10])
        dav.delay(0)


def _slowest(load: Load) -> float:
    """What one provider takes, asked alone: the median of three, for a single sample has too much luck in it."""
    return load.run("one", calls=3).p50_s


def _overlapping(sheet: Sheet, stage: Stage, load: Load, ids: list[str]) -> None:
    """The same stale calendars, asked about by many at once."""
    dav = stage.dav
    load.prepare("stale", GET_BUSY, [busy_request([one], dav.base, 7, staleness_s=STALE_S) for one in ids])
    stage.echo_beside(load, "crowd", GET_BUSY, [busy_request(ids, dav.base, 7, staleness_s=STALE_S)])
    # So many connections take their time; all of them are there before anything is measured.
    load.run("echo crowd", callers=OVERLAPPING, calls=10 * OVERLAPPING)
    pairs, reads = [], []
    for _ in range(5):
        _grow_stale(dav)
        before = dav.requests()
        slowest = max(load.run("stale", calls=len(ids)).latencies_s)
        each = (dav.requests() - before) / len(ids)
        _grow_stale(dav)
        before = dav.requests()
        crowd = load.run("crowd", callers=OVERLAPPING, calls=OVERLAPPING)
        reads.append((dav.requests() - before) / each)
        echo = load.run("echo crowd", callers=OVERLAPPING, calls=OVERLAPPING)
        pairs.append((max(crowd.latencies_s), slowest))
    what = f"{OVERLAPPING} overlapping GetBusy on the same 10 stale connections"
    last = f"the last round: {max(crowd.latencies_s) * 1000:.0f} against {slowest * 1000:.0f} ms"
    note = f"{last}; median {crowd.p50_s * 1000:.0f} ms; {OVERLAPPING} echoes at once: {max(echo.latencies_s) * 1000:.0f} ms"
    sheet.add(ratio(f"{what}: the last, against the slowest alone", pairs, aim=1.5, note=note))
    note = "requests that the providers got, by those of one read"
    sheet.add(Figure(f"{what}: upstream reads", max(reads), "", 10, rounds=len(reads), note=note))


def _grow_stale(dav: Dav) -> None:
    until(lambda: not dav.waiting(), "the provider never came to rest")
    time.sleep(STALE_S + 0.1)
