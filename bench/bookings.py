"""SyncBooking against an echo of the same sizes, and how fast what was promised reaches the calendars."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from bench.figures import Sheet, of_samples, ratio
from bench.stage import (
    SYNC_BOOKING,
    Dav,
    Stage,
    booking_requests,
    service,
    settings_for,
    side_by_side,
    until,
)
from deploy import local

CALLERS = 16
MAILBOXES = 40
"""Connections that the pushes spread over: each takes a few at once."""
PUSHES = 2400
WORKERS = (1, 2)
SLOW_PUSHES = 800
SLOW_S = 0.05
"""Seconds before each answer of a provider that does take its time. A push is two requests to it."""


def sync_booking(sheet: Sheet, folder: Path, dav: Dav, database_url: str, kind: str) -> None:
    """A new booking with each call, committed to disk before the answer. Nobody pushes meanwhile."""
    settings = settings_for(database_url)
    with service(settings, dav, folder, worker=False) as stage, stage.load() as load:
        ids = stage.connect("empty", 8)
        stage.echo_beside(load, "book", SYNC_BOOKING, booking_requests(ids, dav.base))
        load.run("book", calls=50)
        what = f"SyncBooking, {kind}"
        pairs = side_by_side(load, "book", rounds=5, calls=120)
        ours, echo = pairs[-1]
        note = f"one caller; the last round: {ours.p50_s * 1e3:.1f} against {echo.p50_s * 1e3:.2f} ms"
        p50 = [(ours.p50_s, echo.p50_s) for ours, echo in pairs]
        sheet.add(ratio(f"{what}: p50 against echo", p50, aim=4.0, note=note))
        pairs = side_by_side(load, "book", rounds=5, calls=400, callers=CALLERS)
        ours, echo = pairs[-1]
        note = f"{CALLERS} callers; the last round: {ours.per_s:.0f} against {echo.per_s:.0f} calls a second"
        per_s = [(ours.per_s, echo.per_s) for ours, echo in pairs]
        sheet.add(ratio(f"{what}: throughput against echo", per_s, aim=0.25, at_least=True, note=note))
        p99 = [(ours.p99_s, echo.p99_s) for ours, echo in pairs]
        note = f"the last round: {ours.p99_s * 1e3:.0f} against {echo.p99_s * 1e3:.0f} ms"
        sheet.add(ratio(f"{what}: p99 at {CALLERS} callers against echo's", p99, aim=5.0, note=note))


def drain(sheet: Sheet, folder: Path, dav: Dav, database_url: str) -> None:
    """Pushes in a second against a provider that answers at once, by one worker and by more.

    One worker and its Postgres fill two processors then. So what a second one adds is measured beside it against a
    provider that takes a while, as the real ones do.
    """
    settings = settings_for(database_url)
    with service(settings, dav, folder, worker=False) as stage, stage.load() as load:
        ids = stage.connect("empty", MAILBOXES)
        load.prepare("book", SYNC_BOOKING, booking_requests(ids, dav.base))
        load.run("book", callers=CALLERS, calls=PUSHES)
        at_once = _by_workers(stage, folder, dav, PUSHES)
        dav.delay(SLOW_S)
        slow = _by_workers(stage, folder, dav, SLOW_PUSHES)
        dav.delay(0)
    one, most = WORKERS[0], WORKERS[-1]
    for count in WORKERS:
        what = f"outbox drain, Postgres, {count} worker{'s' if count > 1 else ''}"
        sheet.add(of_samples(what, at_once[count], unit="/s", aim=500, at_least=True))
    pairs = list(zip(slow[most], slow[one], strict=True))
    what = f"outbox drain, provider of {SLOW_S * 1e3:.0f} ms, {most} workers against {one}"
    note = f"the last round: {slow[most][-1]:.0f} against {slow[one][-1]:.0f} /s"
    sheet.add(ratio(what, pairs, aim=1.7, at_least=True, note=note))


def _by_workers(stage: Stage, folder: Path, dav: Dav, pushes: int) -> dict[int, list[float]]:
    """Pushes in a second, by how many workers there are, each measured twice."""
    per_s: dict[int, list[float]] = {count: [] for count in WORKERS}
    for _ in range(2):
        for count in WORKERS:
            with _workers(stage, folder, count):
                per_s[count].append(_drained_per_s(stage.settings["CALENDAR_DATABASE_URL"], dav, pushes))
    return per_s


@contextlib.contextmanager
def _workers(stage: Stage, folder: Path, count: int) -> Iterator[None]:
    """So many `worker` processes, all of them looking for work."""
    import sys

    arguments = [sys.executable, "-m", "calendar_server", "worker"]
    logs = [folder / f"worker-{time.monotonic_ns()}-{number}.log" for number in range(count)]
    with contextlib.ExitStack() as stack:
        _reset(stage.settings["CALENDAR_DATABASE_URL"], due=0)
        for log in logs:
            stack.enter_context(local.running(arguments, local.environment(stage.settings), log))
        until(lambda: all("working" in log.read_text() for log in logs), "a worker did not start")
        yield


def _drained_per_s(database_url: str, dav: Dav, pushes: int) -> float:
    """Let so many be due; pushes in a second from the first look that finds some done until nothing is left.

    A worker that nobody tells of it looks once a second: that is another matter than how fast it is.
    """
    dav.forget()
    rows = _reset(database_url, due=pushes)
    looks: list[tuple[float, int]] = []
    with psycopg.connect(database_url, autocommit=True) as database:

        def done() -> bool:
            found = database.execute("SELECT count(*) FROM outbox WHERE state = 'pending'").fetchone()
            left = found[0] if found else rows
            if left < rows:
                looks.append((time.perf_counter(), left))
            return bool(left == 0)

        until(done, "the outbox never drained", pause_s=0.05)
        failed = database.execute("SELECT count(*) FROM outbox WHERE state <> 'synced'").fetchone()
    if failed is None or failed[0]:
        raise RuntimeError("not every push went well")
    (began, left), (ended, _) = looks[0], looks[-1]
    return left / (ended - began)


def _reset(database_url: str, *, due: int) -> int:
    """Put pushes back to their beginning: so many of them are due now, the others are done. Answers how many are due."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("UPDATE outbox SET state = 'synced', due_at = NULL, lease_token = '', lease_until = 0")
        return database.execute(
            "UPDATE outbox SET state = 'pending', due_at = %s, attempts = 0, pushed_revision = 0, pushed_at = 0,"
            " etag = '', lease_token = '', lease_until = 0 WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT %s)",
            (int(time.time() * 1e6), due),
        ).rowcount
