"""The disk of SQLite's file is full: nothing acknowledged is lost, reads go on, and it heals by itself."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from calendar_client import CalendarClient
from calendar_client.errors import CalendarServiceError
from tests.chaos import world
from tests.chaos.world import Accepted, Calendars, Load, Service, settle, sync
from tests.e2e.conftest import at

LONG = world.long_form()


class SmallDisk:
    """A file system of a few megabytes, which a ballast fills."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, service: Service) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while ballast.write(b"\0" * size) == size:
                        pass
            os.fsync(ballast.fileno())

    def empty(self, service: Service) -> None:
        self._ballast.unlink()


class LimitedFiles:
    """For machines where nobody may mount: files of the service's processes can grow no further."""

    def __init__(self, folder: Path):
        self.folder = folder

    def fill(self, service: Service) -> None:
        wal = self.folder / "calendar.db-wal"
        self._limit(service, wal.stat().st_size)

    def empty(self, service: Service) -> None:
        self._limit(service, resource.RLIM_INFINITY)

    def _limit(self, service: Service, size: int) -> None:
        (server,) = service.processes
        worker = service.worker_of(server)
        assert worker
        for pid in (server.pid, worker.pid):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk | LimitedFiles]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        yield LimitedFiles(folder)
        return
    yield SmallDisk(folder)
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_loses_nothing_and_heals(
    disk: SmallDisk | LimitedFiles, folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str]
) -> None:
    with world.service(folder, f"sqlite:///{disk.folder / 'calendar.db'}") as service:
        service.serve()
        calendars = Calendars()
        with service.client() as client:
            connection_id = calendars.connect_caldav(client, radicale, next(people))
            load = Load(service.client, [connection_id], rng)
            load.begin(bookings=300 if LONG else 20, revisions=2)
            load.join()
            assert settle(load.accepted, calendars.shelves)
            for turn in range(5 if LONG else 1):
                # What was read before is answered from what is kept of it.
                assert world.eventually(lambda: busy_answers(client, connection_id))
                disk.fill(service)
                full = Load(service.client, [connection_id], rng)
                # Some may still find room; sooner or later none does.
                full.begin(bookings=2000, callers=2, revisions=1, first=10_000 * (turn + 1))
                assert world.eventually(lambda full=full: len(full.failures) >= 2)
                reason = refusal(client, connection_id, 10_000 * (turn + 1) + 5000)
                assert reason in ("", "STORE_UNAVAILABLE")
                some = next(iter(load.accepted))
                assert client.get_booking(some).booking.revision == load.accepted[some].revision
                assert [each.id for each in client.list()] == [connection_id]
                assert busy_answers(client, connection_id)
                disk.empty(service)
                full.ended.wait(1)
                full.ended.set()
                for thread in full._threads:
                    thread.join()
                load.accepted.update(full.accepted)
                # It takes bookings again.
                again = f"b{10_000 * (turn + 1) + 9999}"
                load.accepted[again] = Accepted(1, connection_id, at(2))
                assert world.eventually(lambda again=again: accepted(client, again, load.accepted[again]))
        verdict = judge_of_known(load, calendars)
        print(f"{type(disk).__name__}: {len(load.accepted)} bookings: {verdict}")
        assert verdict, str(verdict)


def busy_answers(client: CalendarClient, connection_id: str) -> bool:
    """Whether GetBusy answers from what is kept, an hour old at most."""
    try:
        hour = datetime.timedelta(hours=1)
        return client.get_busy([connection_id], start=at(0), end=at(24), max_staleness=hour).complete
    except CalendarServiceError:
        return False


def refusal(client: CalendarClient, connection_id: str, first: int) -> str:
    """The reason that bookings are refused with, sooner or later."""
    for number in range(first, first + 1000):
        try:
            sync(client, f"b{number}", Accepted(1, connection_id, at(1)))
        except CalendarServiceError as error:
            return error.reason
    raise AssertionError("there was room for all of them")


def accepted(client: CalendarClient, booking_id: str, wanted: Accepted) -> bool:
    """Whether the revision is acknowledged this time."""
    try:
        sync(client, booking_id, wanted)
    except CalendarServiceError:
        return False
    return True


def judge_of_known(load: Load, calendars: Calendars) -> world.Verdict:
    """The verdict on what was acknowledged. What was not may have been stored all the same: that is told as unknown."""
    known = {shelf_id: _Known(shelf, load) for shelf_id, shelf in calendars.shelves.items()}
    return settle(load.accepted, known)


class _Known:
    """A shelf, of bookings that were acknowledged."""

    def __init__(self, shelf: world.Shelf, load: Load):
        self._shelf = shelf
        self._load = load

    def entries(self) -> list[world.Entry]:
        return [entry for entry in self._shelf.entries() if entry[0] in self._load.accepted]
