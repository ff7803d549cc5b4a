"""One server for one SQLite file, as real processes: the second is refused, everything else works beside the first."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import Person, Running, Stub, at, serving, sqlite_settings, stamp

SERVE = [sys.executable, "-m", "calendar_server", "serve"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sole")
    with serving(sqlite_settings(folder), folder) as running:
        yield running


def refused(settings: Mapping[str, str], cwd: Path | None = None) -> str:
    """Start another server, which ends by itself; answers what it says."""
    moved = {
        **settings,
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
    }
    done = subprocess.run(
        SERVE, env=local.environment(moved), cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


def database(running: Running) -> Path:
    return Path(running.settings["CALENDAR_DATABASE_URL"].removeprefix("sqlite:///"))


def test_a_second_server_is_told_who_is_there_and_what_to_do(first: Running) -> None:
    said = refused(first.settings)
    assert len(said.strip().splitlines()) == 1
    assert f"process {first.process.pid} " in said
    assert "Postgres" in said


def test_another_spelling_of_the_path_is_the_same_file(first: Running, tmp_path: Path) -> None:
    path = database(first)
    (tmp_path / "link.db").symlink_to(path)
    (tmp_path / "folder").symlink_to(path.parent)
    for url in (
        "sqlite:///link.db",
        "sqlite:///folder/calendar.db",
        f"sqlite:///{path.parent}/../{path.parent.name}/calendar.db",
    ):
        assert "is served by" in refused({**first.settings, "CALENDAR_DATABASE_URL": url}, cwd=tmp_path)


def test_without_a_worker_it_is_a_server_all_the_same(first: Running) -> None:
    moved = {**first.settings, "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}"}
    done = subprocess.run(
        [*SERVE, "--no-worker"], env=local.environment(moved), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1


def test_the_commands_work_beside_a_server(first: Running) -> None:
    made = first.command("create-api-key", "--organization", "beside")
    assert made.returncode == 0, made.stderr
    key_id = made.stderr.split("id: ")[1].split()[0]
    for arguments in (["migrate"], ["rotate-keys"], ["revoke-api-key", key_id]):
        done = first.command(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert "database" in first.command("doctor").stdout


def test_the_lock_ends_with_its_holder_also_by_a_kill(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    with serving(settings, tmp_path) as running:
        running.process.kill()
        running.process.wait()
        # Its worker may still be ending.
        with serving(settings, tmp_path):
            pass


def test_a_server_and_workers_of_their_own_share_a_file(tmp_path: Path, person: Person) -> None:
    """Pushes are leased, so that workers may be many."""
    calendar = person.make_calendar()
    settings = sqlite_settings(tmp_path)
    env = local.environment(settings)
    with local.running([*SERVE, "--no-worker"], env, tmp_path / "server.log") as server:
        local.wait_serving(settings["CALENDAR_GRPC_ADDRESS"], server, tmp_path / "server.log")
        stub = Stub(settings["CALENDAR_GRPC_ADDRESS"], local.create_api_key(settings, "acme"))
        connection = stub.connect(person)
        worker = [sys.executable, "-m", "calendar_server", "worker"]
        with (
            local.running(worker, env, tmp_path / "worker0.log") as one,
            local.running(worker, env, tmp_path / "worker1.log") as two,
        ):
            for number in range(10):
                wanted = booking_pb2.Booking(
                    id=f"b{number}",
                    revision=1,
                    status=booking_pb2.BOOKING_STATUS_CONFIRMED,
                    start_time=stamp(at(number)),
                    end_time=stamp(at(number + 1)),
                )
                stub("SyncBooking", pb.SyncBookingRequest(booking=wanted, connection_ids=[connection.id]))
            until = time.monotonic() + 60
            while len(person.events(calendar)) < 10:
                assert time.monotonic() < until
                time.sleep(0.1)
            assert one.poll() is None
            assert two.poll() is None
        stub.close()
    assert len(person.events(calendar)) == 10
