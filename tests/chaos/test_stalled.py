"""A worker that stands still in mid push for longer than its lease, and wakes up when another has pushed something newer."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import world
from tests.chaos.world import Accepted, Calendars, eventually, judge, settle, sync
from tests.e2e.conftest import at
from tests.fakes.announcer import Announcer, Step
from tests.fakes.raw_server import RawRequest

LONG = world.long_form()
AT_ONCE = 8


def _stands(task: Path) -> bool:
    """Whether a thread is stopped, or has ended meanwhile (proc(5), ``stat``: its name is in brackets before its state)."""
    try:
        return (task / "stat").read_text().rpartition(") ")[2][0] in "TXZ"
    except (FileNotFoundError, ProcessLookupError):
        return True


def stop_between_writes(pid: int, database: Path) -> None:
    """Stop a process, but not while it is SQLite's only writer: nobody could write as long as it sleeps."""
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        # A thread that is inside the kernel at that moment stops when it comes back, perhaps with the lock.
        assert eventually(lambda: all(_stands(task) for task in Path(f"/proc/{pid}/task").iterdir()))
        with contextlib.closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as line:
            try:
                line.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                continue
            line.execute("ROLLBACK")
            return
    pytest.fail("it was always writing")


@pytest.mark.parametrize("step", [Step.ARRIVED, Step.APPLIED] if LONG else [Step.ARRIVED], ids=lambda step: step.value)
def test_the_newer_revision_stays(
    step: Step, folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str]
) -> None:
    """``ARRIVED``: its writes are held on the wire and arrive at last. ``APPLIED``: its looks are, nothing is written."""
    held_method = "PUT" if step is Step.ARRIVED else "GET"
    rounds = (100 // AT_ONCE + 1) if LONG else 1
    with (
        Announcer(radicale.port) as front,
        world.service(folder, CALENDAR_MAILBOX_PUSHES="8", CALENDAR_PUSH_THREADS="8") as service,
    ):
        service.serve("--no-worker")
        calendars = Calendars()
        accepted: dict[str, Accepted] = {}
        with service.client() as client:
            connection_id = calendars.connect_caldav(client, radicale, next(people), front.url)
            for turn in range(rounds):
                names = [f"b{turn * AT_ONCE + number}" for number in range(AT_ONCE)]
                held = threading.Semaphore(0)
                let_go = threading.Event()
                stopped = threading.Event()

                def hold(at_step: Step, request: RawRequest) -> str | None:
                    if at_step is step and request.method == held_method and not stopped.is_set():  # noqa: B023
                        held.release()  # noqa: B023
                        let_go.wait(60)  # noqa: B023
                    return None

                front.on_step = hold
                for number, name in enumerate(names):
                    accepted[name] = Accepted(1, connection_id, at(number * 2, day=turn))
                    sync(client, name, accepted[name])
                sleeper = service.run("worker")
                for _ in names:
                    assert held.acquire(timeout=60)
                stop_between_writes(sleeper.pid, folder / "calendar.db")
                stopped.set()
                for number, name in enumerate(names):
                    accepted[name] = Accepted(2, connection_id, at(number * 2 + 1, day=turn))
                    sync(client, name, accepted[name])
                # The lease is 3 s, and no heart of the sleeper's lets it last longer.
                second = service.run("worker")
                assert not (verdict := settle(accepted, calendars.shelves)).lost, str(verdict)
                assert verdict, str(verdict)
                second.terminate()
                assert second.wait(60) == 0
                let_go.set()
                os.kill(sleeper.pid, signal.SIGCONT)
                sleeper.terminate()
                # It ends what it had begun, and finds that it is too late.
                assert sleeper.wait(60) == 0
                assert eventually(lambda: judge(accepted, calendars.shelves))
                verdict = judge(accepted, calendars.shelves)
                assert verdict, str(verdict)
        print(f"{len(accepted)} of {rounds * AT_ONCE}: {verdict}")
