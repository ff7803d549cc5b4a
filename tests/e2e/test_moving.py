"""From SQLite to Postgres with `calendar-server import-sqlite`: keys, connections and bookings go on as if nothing were."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import Person, Stub, at, busy_request, intervals, serving, sqlite_settings, stamp
from tests.fakes.postgres import Postgres, find_postgres

SYNCED = booking_pb2.BOOKING_EVENT_STATE_SYNCED


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    found = find_postgres()
    yield found
    found.stop()


@pytest.fixture
def target(postgres: Postgres) -> Iterator[str]:
    """The URL of an empty database."""
    name = postgres.database()
    yield postgres.url(name)
    postgres.drop(name)


def command(settings: dict[str, str], *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "calendar_server", *(str(word) for word in words)],
        env=local.environment(settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def book(stub: Stub, connection_id: str, revision: int, hour: float) -> None:
    booking = booking_pb2.Booking(
        id="interview",
        revision=revision,
        status=booking_pb2.BOOKING_STATUS_CONFIRMED,
        start_time=stamp(at(hour)),
        end_time=stamp(at(hour + 1)),
    )
    request = pb.SyncBookingRequest(booking=booking, connection_ids=[connection_id])
    assert [event.state for event in stub("SyncBooking", request).events] == [SYNCED]


@pytest.fixture
def old(tmp_path: Path) -> dict[str, str]:
    """Settings of a service on SQLite that has been used; it does not run."""
    settings = sqlite_settings(tmp_path)
    assert command(settings, "create-api-key", "--organization", "acme").returncode == 0
    return settings


def new_settings(folder: Path, target: str) -> dict[str, str]:
    settings = sqlite_settings(folder)
    keys = (folder / "calendar.db.key").read_text().strip()
    return {**settings, "CALENDAR_DATABASE_URL": target, "CALENDAR_MASTER_KEYS": keys}


def test_everything_goes_on_in_the_new_database(tmp_path: Path, person: Person, target: str) -> None:
    calendar = person.make_calendar()
    with serving(sqlite_settings(tmp_path), tmp_path) as running:
        key = running.key()
        with contextlib.closing(Stub(running.address, key)) as stub:
            connection = stub.connect(person)
            book(stub, connection.id, 1, 9)
    (event,) = person.events(calendar)

    settings = new_settings(tmp_path, target)
    moved = command(settings, "import-sqlite", tmp_path / "calendar.db")
    assert moved.returncode == 0, moved.stderr
    assert "connections: 1" in moved.stdout
    assert "bookings: 1" in moved.stdout

    with serving(settings, tmp_path) as running, contextlib.closing(Stub(running.address, key)) as stub:
        assert [each.id for each in stub("List", pb.ListRequest()).data] == [connection.id]
        assert intervals(stub("GetBusy", busy_request(connection.id)).busy) == [(at(9), at(10))]
        # The same event is moved: its identity and the grant came along.
        book(stub, connection.id, 2, 11)
        assert person.events(calendar) == [event]
        assert intervals(stub("GetBusy", busy_request(connection.id)).busy) == [(at(11), at(12))]


def test_every_table_is_copied_whole(tmp_path: Path, old: dict[str, str], target: str, postgres: Postgres) -> None:
    moved = command(new_settings(tmp_path, target), "import-sqlite", tmp_path / "calendar.db")
    assert moved.returncode == 0, moved.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "calendar.db")) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    copied = {line.partition(":")[0] for line in moved.stdout.splitlines()[:-1]}
    assert copied == {name for name in tables if not name.startswith("sqlite_")} - {"schema_migrations"}


def test_a_database_in_use_is_left_alone(tmp_path: Path, target: str) -> None:
    with serving(sqlite_settings(tmp_path), tmp_path):
        moved = command(new_settings(tmp_path, target), "import-sqlite", tmp_path / "calendar.db")
    assert moved.returncode == 1
    assert "is in use. Stop the service" in moved.stderr


def test_a_database_that_is_not_empty_is_not_written_to(tmp_path: Path, old: dict[str, str], target: str) -> None:
    settings = new_settings(tmp_path, target)
    assert command(settings, "create-api-key", "--organization", "others").returncode == 0
    moved = command(settings, "import-sqlite", tmp_path / "calendar.db")
    assert moved.returncode == 1
    assert "is not empty" in moved.stderr


def test_other_master_keys_are_refused_and_nothing_is_copied(tmp_path: Path, old: dict[str, str], target: str) -> None:
    settings = new_settings(tmp_path, target)
    for keys, word in ((f"k1:{'C' * 43}=", "not the one"), (f"k2:{'C' * 43}=", "calendar.db.key"[-4:])):
        moved = command({**settings, "CALENDAR_MASTER_KEYS": keys}, "import-sqlite", tmp_path / "calendar.db")
        assert moved.returncode == 2
        assert word in moved.stderr
    assert command(settings, "import-sqlite", tmp_path / "calendar.db").returncode == 0


@pytest.mark.parametrize("made", ["missing", "text", "other"])
def test_what_is_no_database_of_ours_is_refused(tmp_path: Path, target: str, made: str) -> None:
    path = tmp_path / "x.db"
    if made == "text":
        path.write_text("no database at all, " * 100)
    if made == "other":
        with contextlib.closing(sqlite3.connect(path)) as raw:
            raw.execute("CREATE TABLE something (id INTEGER)")
    settings = {"CALENDAR_DATABASE_URL": target, "CALENDAR_MASTER_KEYS": f"k1:{'C' * 43}="}
    moved = command(settings, "import-sqlite", path)
    assert moved.returncode == 1
    assert str(path) in moved.stderr
    assert "Traceback" not in moved.stderr


def test_postgres_is_the_only_way_to_go(tmp_path: Path, old: dict[str, str]) -> None:
    moved = command(old, "import-sqlite", tmp_path / "calendar.db")
    assert moved.returncode == 2
    assert "must name the Postgres" in moved.stderr
