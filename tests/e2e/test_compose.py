"""What the compose file says, without containers: three servers and two workers that share a Postgres and nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from calendar_client import CalendarClient
from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import Person, Stub, at, intervals, stamp
from tests.fakes import compose
from tests.fakes.postgres import find_postgres

SYNCED = booking_pb2.BOOKING_EVENT_STATE_SYNCED
REMOVED = booking_pb2.BOOKING_EVENT_STATE_REMOVED
CONFIRMED = booking_pb2.BOOKING_STATUS_CONFIRMED
CANCELLED = booking_pb2.BOOKING_STATUS_CANCELLED
LONG_S = 60.0


@dataclass
class Part:
    """One process, as one container would be."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Stack:
    """All of it. ``folder`` holds the secrets and the logs."""

    folder: Path
    cleanup: contextlib.ExitStack
    addresses: list[str] = field(default_factory=list)
    parts: dict[str, list[Part]] = field(default_factory=lambda: {"server": [], "worker": []})
    stubs: list[Stub] = field(default_factory=list)
    key: str = ""

    def settings(self, name: str) -> dict[str, str]:
        addresses = {
            "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
            "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
        }
        return compose.service(name).settings(self.folder, CALENDAR_EGRESS_ALLOW="127.0.0.1") | addresses

    def start(self, name: str) -> None:
        """Start one more of a service."""
        settings = self.settings(name)
        log = self.folder / f"{name}{len(self.parts[name])}.log"
        command = [sys.executable, "-m", "calendar_server", *compose.service(name).command]
        process = self.cleanup.enter_context(local.running(command, local.environment(settings), log))
        self.parts[name].append(Part(process, log))
        if name == "server":
            local.wait_serving(settings["CALENDAR_GRPC_ADDRESS"], process, log)
            self.addresses.append(settings["CALENDAR_GRPC_ADDRESS"])

    def run(self, name: str, *words: str) -> str:
        """Run a service to its end, with other words than its own if there are any."""
        command = [sys.executable, "-m", "calendar_server", *(words or compose.service(name).command)]
        environment = local.environment(self.settings(name))
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Everything up, in the compose file's order, with a caller for each server."""
    postgres = find_postgres()
    (tmp_path / "database_url").write_text(postgres.url(postgres.database()) + "\n")
    (tmp_path / "master_keys").write_text(f"k1:{'C' * 43}=\n")
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(postgres.stop)
        made = Stack(tmp_path, cleanup)
        assert "applied" in made.run("migrate")
        for name in ("server", "worker"):
            for _ in range(compose.service(name).replicas):
                made.start(name)
        made.key = made.run("migrate", "create-api-key", "--organization", "acme")
        made.stubs = [Stub(address, made.key) for address in made.addresses]
        for stub in made.stubs:
            cleanup.callback(stub.close)
        yield made
        for part in (*made.parts["server"], *made.parts["worker"]):
            assert "Traceback" not in part.log.read_text()


def booking(name: str, revision: int, hour: float, status: int = CONFIRMED) -> booking_pb2.Booking:
    return booking_pb2.Booking(
        id=name, revision=revision, status=status, start_time=stamp(at(hour)), end_time=stamp(at(hour + 1))
    )


def busy(stub: Stub, connection_id: str) -> list[tuple[object, object]]:
    """When a connection is busy tomorrow, as an ordinary caller asks: what was read in the last minute will do."""
    request = pb.GetBusyRequest(connection_ids=[connection_id], start_time=stamp(at(0)), end_time=stamp(at(24)))
    return intervals(stub("GetBusy", request).busy)


def eventually(claim: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_S
    while not claim():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_one_accepts_all_know_and_it_goes_on_when_some_are_killed(stack: Stack, person: Person) -> None:
    calendar = person.make_calendar()
    first, second, third = stack.stubs
    connection = first.connect(person)
    for stub in stack.stubs:
        assert busy(stub, connection.id) == []

    # Nobody waits: what A acknowledged is busy at B, whatever the workers are doing.
    request = pb.SyncBookingRequest(booking=booking("a", 1, 9), connection_ids=[connection.id], wait=Duration())
    first("SyncBooking", request)
    assert busy(second, connection.id) == [(at(9), at(10))]
    eventually(lambda: third("GetBooking", pb.GetBookingRequest(id="a")).events[0].state == SYNCED)
    assert len(person.events(calendar)) == 1

    third("SyncBooking", pb.SyncBookingRequest(booking=booking("a", 2, 9, CANCELLED), wait=Duration()))
    for stub in stack.stubs:
        assert busy(stub, connection.id) == []
    eventually(lambda: first("GetBooking", pb.GetBookingRequest(id="a")).events[0].state == REMOVED)
    assert person.events(calendar) == []

    stack.parts["server"][0].kill()
    stack.parts["worker"][0].kill()
    request = pb.SyncBookingRequest(
        booking=booking("b", 1, 11), connection_ids=[connection.id], wait=Duration(seconds=20)
    )
    assert [event.state for event in second("SyncBooking", request).events] == [SYNCED]
    assert busy(third, connection.id) == [(at(11), at(12))]

    # Without any worker what is accepted stands, and the next worker writes it.
    stack.parts["worker"][1].kill()
    request = pb.SyncBookingRequest(booking=booking("c", 1, 14), connection_ids=[connection.id], wait=Duration())
    third("SyncBooking", request)
    assert busy(second, connection.id) == [(at(11), at(12)), (at(14), at(15))]
    assert len(person.events(calendar)) == 1
    stack.start("worker")
    eventually(lambda: second("GetBooking", pb.GetBookingRequest(id="c")).events[0].state == SYNCED)
    assert len(person.events(calendar)) == 2


def test_a_client_that_knows_all_servers_uses_all_and_loses_no_call_when_one_is_killed(stack: Stack) -> None:
    addresses = f"ipv4:{','.join(stack.addresses)}"
    with CalendarClient(addresses, api_key=stack.key, plaintext=True) as client:

        def asked(part: Part) -> bool:
            assert list(client.list()) == []
            return '"List"' in part.log.read_text()

        for part in stack.parts["server"]:
            eventually(lambda part=part: asked(part))
        stack.parts["server"][1].kill()
        for _ in range(20):
            assert list(client.list()) == []
