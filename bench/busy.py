"""GetBusy from what is kept, against an echo of the same sizes on the same server."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from bench.figures import Figure, Sheet, ratio
from bench.load import Load
from bench.stage import (
    GET_BUSY,
    Dav,
    Stage,
    busy_request,
    intervals_of,
    service,
    settings_for,
    side_by_side,
    sqlite,
    until,
    varied,
)

ROUNDS = 9
ROUND_S = 0.3
INTERVALS = 244
CALLERS = 8

CACHE_OFF = {"CALENDAR_CACHE_CONNECTIONS": "0"}
"""Settings of a service that keeps no answers in its process, so that every call reads the ``busy`` rows."""


def warm(sheet: Sheet, folder: Path, dav: Dav) -> None:
    """What callers get most of the time."""
    url = sqlite(folder)
    with service(settings_for(url), dav, folder) as stage, stage.load() as load:
        ids = stage.connect("slots", 10)
        small = varied(ids[:3], dav.base, 7)
        stage.echo_beside(load, "varied", GET_BUSY, small)
        what = "warm GetBusy, 3 connections × 7 days"
        sheet.add(p50(f"{what}: p50 against echo", load, "varied", 1.5))
        pairs = side_by_side(load, "varied", rounds=ROUNDS, seconds=ROUND_S, callers=CALLERS)
        per_s = [(ours.per_s, echo.per_s) for ours, echo in pairs]
        note = f"{CALLERS} callers; the last round: {per_s[-1][0]:.0f} against {per_s[-1][1]:.0f} calls a second"
        sheet.add(ratio(f"{what}: throughput against echo", per_s, aim=0.65, at_least=True, note=note))
        stage.echo_beside(load, "repeated", GET_BUSY, small[:1])
        sheet.add(p50("the same call repeated: p50 against echo", load, "repeated", 1.25))
        wide = varied(ids, dav.base, 60)
        found = intervals_of(stage, wide[0])
        if found != INTERVALS:
            sheet.say(f"Expected {INTERVALS} intervals, found {found}.")
        stage.echo_beside(load, "wide", GET_BUSY, wide)
        sheet.add(p50(f"10 connections × 60 days ({found} intervals out): p50 against echo", load, "wide", 2.0))
        sheet.add(_row_size(url, ids[0]))


def cache_miss(sheet: Sheet, folder: Path, dav: Dav, database_url: str, kind: str, aim: float) -> None:
    """What a call costs that finds nothing in its process and reads the database."""
    what = f"cache miss, {kind}: p50 against echo"
    with service(settings_for(database_url, **CACHE_OFF), dav, folder) as stage, stage.load() as load:
        ids = stage.connect("slots", 3)
        stage.echo_beside(load, "varied", GET_BUSY, varied(ids, dav.base, 7))
        sheet.add(p50(what, load, "varied", aim))


def p50(what: str, load: Load, name: str, aim: float) -> Figure:
    """The median call against the median echo."""
    load.run(name, seconds=ROUND_S)
    pairs = side_by_side(load, name, rounds=ROUNDS, seconds=ROUND_S)
    ours, echo = pairs[-1]
    note = f"one caller; the last round: {ours.p50_s * 1e6:.0f} against {echo.p50_s * 1e6:.0f} µs"
    return ratio(what, [(ours.p50_s, echo.p50_s) for ours, echo in pairs], aim=aim, note=note)


def beside_providers(sheet: Sheet, folder: Path, dav: Dav) -> None:
    """Whether warm calls suffer from calls that wait for providers, and from events being expanded."""
    with service(settings_for(sqlite(folder)), dav, folder) as stage, stage.load() as load, stage.load() as other:
        ids = stage.connect("slots", 3)
        load.prepare("warm", GET_BUSY, varied(ids, dav.base, 7))
        load.run("warm", seconds=ROUND_S)
        _waiting(sheet, stage, load, other)
        dav.delay(0)
        _expanding(sheet, stage, load, other)


def _waiting(sheet: Sheet, stage: Stage, load: Load, other: Load) -> None:
    calls = 32
    few = stage.connect("few", calls)
    other.prepare("bound", GET_BUSY, [busy_request([one], stage.dav.base, 7, staleness_s=0) for one in few])
    stage.dav.delay(1.0)
    pairs = []
    for _ in range(5):
        alone = load.run("warm", seconds=1.0)
        other.begin("bound", callers=calls, seconds=1.5)
        # In flight from when the first conversations have begun; some then end, and others begin.
        until(lambda: stage.dav.waiting() >= calls, f"{calls} calls were never in flight at once")
        pairs.append((load.run("warm", seconds=1.2).p50_s, alone.p50_s))
        other.end()
    what = f"warm p50 with {calls} provider-bound calls in flight, against alone"
    sheet.add(ratio(what, pairs, aim=1.3, note="providers that take 1 s for every answer"))


def _expanding(sheet: Sheet, stage: Stage, load: Load, other: Load) -> None:
    many = stage.connect("many", 1)
    # What makes the expansion begin is a read of a calendar in which everything is new.
    other.prepare("expand", GET_BUSY, [busy_request(many, stage.dav.base, 7, staleness_s=0)])
    pairs = []
    for _ in range(5):
        idle = load.run("warm", seconds=0.8)
        other.begin("expand", seconds=0.8)
        pairs.append((load.run("warm", seconds=0.8).p50_s, idle.p50_s))
        other.end(failing=True)
    sheet.add(ratio("warm p50 while 2 000 events are expanded, against idle", pairs, aim=2.0))


def _row_size(url: str, connection_id: str) -> Figure:
    """What one calendar of 100 intervals takes in the table that GetBusy reads."""
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        row = database.execute("SELECT * FROM busy WHERE connection_id = ?", (connection_id,)).fetchone()
    size = None if row is None else sum(_bytes(value) for value in row) / 1024
    note = "there is no row for the calendar" if row is None else ""
    return Figure("a calendar of 100 intervals in the `busy` row", size, "KB", 1.0, note=note)


def _bytes(value: object) -> int:
    """Bytes of a column; a number takes eight at most."""
    if isinstance(value, bytes):
        return len(value)
    return len(value.encode()) if isinstance(value, str) else 8
