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
    """Pushes in a second against a provider that answers at once, by one worker and by more."""
    settings = settings_for(database_url)
    with service(settings, dav, folder, worker=False) as stage, stage.load() as load:
        ids = stage.connect("empty", MAILBOXES)
        load.prepare("book", SYNC_BOOKING, booking_requests(ids, dav.base))
        load.run("book", callers=CALLERS, calls=PUSHES)
        per_s: dict[int, list[float]] = {count: [] for count in WORKERS}
        for _ in range(2):
            for count in WORKERS:
                with _workers(stage, folder, count):
                    per_s[count].append(_drained_per_s(database_url, dav))
    one, most = WORKERS[0], WORKERS[-1]
    for count in WORKERS:
        what = f"outbox drain, Postgres, {count} worker{'s' if count > 1 else ''}"
        sheet.add(of_samples(what, per_s[count], unit="/s", aim=500, at_least=True))
    pairs = list(zip(per_s[most], per_s[one], strict=True))
    sheet.add(ratio(f"outbox drain, {most} workers against {one}", pairs, aim=1.2, at_least=True))


@contextlib.contextmanager
def _workers(stage: Stage, folder: Path, count: int) -> Iterator[None]:
    """So many `worker` processes, all of them looking for work."""
    import sys

    arguments = [sys.executable, "-m", "calendar_server", "worker"]
    logs = [folder / f"worker-{time.monotonic_ns()}-{number}.log" for number in range(count)]
    with contextlib.ExitStack() as stack:
        _reset(stage.settings["CALENDAR_DATABASE_URL"], due=False)
        for log in logs:
            stack.enter_context(local.running(arguments, local.environment(stage.settings), log))
        until(lambda: all("working" in log.read_text() for log in logs), "a worker did not start")
        yield


def _drained_per_s(database_url: str, dav: Dav) -> float:
    """Let everything be due; pushes in a second from the first look that finds some done until nothing is left.

    A worker that nobody tells of it looks once a second: that is another matter than how fast it is.
    """
    dav.forget()
    rows = _reset(database_url, due=True)
    looks: list[tuple[float, int]] = []
    with psycopg.connect(database_url, autocommit=True) as database:

        def done() -> bool:
            found = database.execute("SELECT count(*) FROM outbox WHERE state = 'pending'").fetchone()
            left = found[0] if found else rows
            if left < rows:
                looks.append((time.perf_counter(), left))
            return bool(left == 0)

        until(done, "the outbox never drained", pause_s=0.05)
        synced = database.execute("SELECT count(*) FROM outbox WHERE state = 'synced'").fetchone()
    if synced is None or synced[0] != rows:
        raise RuntimeError("not every push went well")
    (began, left), (ended, _) = looks[0], looks[-1]
    return left / (ended - began)


def _reset(database_url: str, *, due: bool) -> int:
    """Put every push back to its beginning: due now, or in a year."""
    due_at = int((time.time() + (0 if due else 365 * 86_400)) * 1e6)
    with psycopg.connect(database_url, autocommit=True) as database:
        return database.execute(
            "UPDATE outbox SET state = 'pending', due_at = %s, attempts = 0, pushed_revision = 0, pushed_at = 0,"
            " etag = '', lease_token = '', lease_until = 0",
            (due_at,),
        ).rowcount
