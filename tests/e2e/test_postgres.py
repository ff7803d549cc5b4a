"""Several machines on one Postgres: servers without a worker, workers beside them, nothing shared but the database."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import grpc
import pytest

from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import Person, Stub, at, busy_request, error_info, intervals, stamp
from tests.fakes.postgres import find_postgres

SYNCED = booking_pb2.BOOKING_EVENT_STATE_SYNCED


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Stub]]:
    """Callers of two servers; one worker pushes for both."""
    folder = tmp_path_factory.mktemp("replicas")
    postgres = find_postgres()
    name = postgres.database()
    shared = {
        "CALENDAR_DATABASE_URL": postgres.url(name),
        "CALENDAR_MASTER_KEYS": "k1:" + "C" * 43 + "=",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
    }
    with contextlib.ExitStack() as stack:
        stack.callback(postgres.stop)
        settings = [shared | addresses() for _ in range(2)]
        for number, each in enumerate(settings):
            log = folder / f"server{number}.log"
            arguments = [sys.executable, "-m", "calendar_server", "serve", "--no-worker"]
            process = stack.enter_context(local.running(arguments, local.environment(each), log))
            local.wait_serving(each["CALENDAR_GRPC_ADDRESS"], process, log)
        worker = [sys.executable, "-m", "calendar_server", "worker"]
        stack.enter_context(local.running(worker, local.environment(settings[0]), folder / "worker.log"))
        key = local.create_api_key(settings[0], "acme")
        stubs = [Stub(each["CALENDAR_GRPC_ADDRESS"], key) for each in settings]
        for stub in stubs:
            stack.callback(stub.close)
        yield stubs
        assert "Traceback" not in (folder / "worker.log").read_text()


def addresses() -> dict[str, str]:
    return {
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
    }


def booking(name: str, revision: int, hour: float) -> booking_pb2.Booking:
    return booking_pb2.Booking(
        id=name,
        revision=revision,
        status=booking_pb2.BOOKING_STATUS_CONFIRMED,
        start_time=stamp(at(hour)),
        end_time=stamp(at(hour + 1)),
    )


def test_what_one_server_accepts_every_server_knows(replicas: list[Stub], person: Person) -> None:
    calendar = person.make_calendar()
    connection = replicas[0].connect(person)
    for revision, (stub, hour) in enumerate([(replicas[1], 9), (replicas[0], 11)], start=1):
        request = pb.SyncBookingRequest(booking=booking("b", revision, hour), connection_ids=[connection.id])
        assert [event.state for event in stub("SyncBooking", request).events] == [SYNCED]
    assert len(person.events(calendar)) == 1
    for stub in replicas:
        assert intervals(stub("GetBusy", busy_request(connection.id)).busy) == [(at(11), at(12))]


def test_two_servers_do_not_give_one_slot_away_twice(replicas: list[Stub], person: Person) -> None:
    person.make_calendar()
    connection = replicas[0].connect(person)
    first, second = (
        pb.SyncBookingRequest(booking=booking(name, 1, 14), connection_ids=[connection.id], require_free=True)
        for name in ("slot-a", "slot-b")
    )
    replicas[0]("SyncBooking", first)
    with pytest.raises(grpc.RpcError) as refused:
        replicas[1]("SyncBooking", second)
    assert error_info(refused.value).reason == "SLOT_TAKEN"


def test_from_disconnect_on_every_server_says_not_found(replicas: list[Stub], person: Person) -> None:
    person.make_calendar()
    connection = replicas[0].connect(person)
    replicas[0]("Disconnect", pb.DisconnectRequest(id=connection.id))
    assert replicas[1].code("GetBusy", busy_request(connection.id)) is grpc.StatusCode.NOT_FOUND
