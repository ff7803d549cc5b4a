"""What an operator sees of a running service: numbers, readiness, request ids that reach the worker."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from calendar_server.app import ProcessBeside
from calendar_server.metrics import ALL, PROCESS
from calendar_server.store.store import Store
from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import Person, Running, Stub, at, busy_request, serving, sqlite_settings, stamp
from tests.fakes.postgres import find_postgres

UNTIL_S = 30.0


def scraped(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels."""
    with httpx.Client(trust_env=False, timeout=10) as client:
        text = client.get(f"{url}/metrics").raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(url: str, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (found, have), value in scraped(url).items() if found == name and wanted <= have)


def eventually(true: Callable[[], object], every_s: float = 0.05) -> None:
    until = time.monotonic() + UNTIL_S
    while not true():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(every_s)


def book(stub: Stub, connection_id: str, booking_id: str, request_id: str = "") -> pb.SyncBookingResponse:
    request = pb.SyncBookingRequest(
        booking=booking_pb2.Booking(
            id=booking_id,
            revision=1,
            status=booking_pb2.BOOKING_STATUS_CONFIRMED,
            title="Secret interview",
            start_time=stamp(at(9)),
            end_time=stamp(at(10)),
        ),
        connection_ids=[connection_id],
        wait=Duration(seconds=20),
    )
    metadata = (*stub._metadata, *((("x-request-id", request_id),) if request_id else ()))
    answer = stub._stub.SyncBooking(request, metadata=metadata, timeout=30)
    assert isinstance(answer, pb.SyncBookingResponse)
    return answer


def test_a_scrape_tells_of_server_and_worker(service: Running, stub: Stub, person: Person) -> None:
    person.make_calendar()
    connection = stub.connect(person)
    stub("GetBusy", busy_request(connection.id))
    book(stub, connection.id, "metrics-1")
    assert total(service.http, "calendar_calls_total", process="server", rpc="GetBusy", code="OK") >= 1
    assert total(service.http, "calendar_busy_age_seconds_count", process="server") >= 1
    assert total(service.http, "calendar_mirror_questions_total", process="server", outcome="miss") >= 1
    assert total(service.http, "calendar_provider_conversations_total", process="server", verb="connect") >= 1
    # The push was stored before the call was answered; the worker counts it right after.
    eventually(lambda: total(service.http, "calendar_pushes_total", process="worker", outcome="synced") >= 1)
    assert total(service.http, "calendar_provider_conversations_total", process="worker", verb="put", reason="OK") >= 1
    assert total(service.http, "calendar_outbox_events", state="synced") >= 1
    assert total(service.http, "calendar_connections", provider="caldav", status="active") >= 1
    assert total(service.http, "calendar_process_up") == 2


def test_every_number_is_a_documented_one_and_names_nobody(service: Running, stub: Stub, person: Person) -> None:
    person.make_calendar()
    connection = stub.connect(person)
    stub("GetBusy", busy_request(connection.id))
    names = {name for measure in ALL for name in measure.scraped_names()}
    labels = {measure_name: {*m.labels, PROCESS, "le"} for m in ALL for measure_name in m.scraped_names()}
    for name, have in scraped(service.http):
        if name.startswith("process_"):
            continue
        assert name in names
        assert {label for label, _ in have} <= labels[name]
        for label, value in have:
            assert label == "le" or value.replace("_", "").replace("-", "").isalnum()
            assert connection.id not in value
            assert person.name not in value


def test_what_is_of_the_installation_is_told_once(service: Running) -> None:
    eventually(lambda: total(service.http, "calendar_process_up") == 2)
    lags = [labels for (name, labels) in scraped(service.http) if name == "calendar_outbox_lag_seconds"]
    assert lags == [frozenset({(PROCESS, "server")})]


def test_readiness_says_what_was_looked_at(service: Running) -> None:
    with httpx.Client(trust_env=False) as client:
        answer = client.get(f"{service.http}/readyz")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "failed": [],
        "passed": ["database", "migrations", "master keys", "worker"],
    }


def test_a_process_that_is_about_to_start_is_not_told_as_one_that_died(tmp_path: Path) -> None:
    environment = local.environment(sqlite_settings(tmp_path))
    beside = ProcessBeside(["worker", "--beside-server"], environment=environment, wait_s=UNTIL_S, name="worker")
    assert beside.alive()
    assert beside.numbers(time.monotonic()) is None
    beside.stop()


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=UNTIL_S).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_service_that_says_serving_is_ready_by_http_too(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    arguments = [sys.executable, "-m", "calendar_server", "serve"]
    with (
        local.running(arguments, local.environment(settings), tmp_path / "service.log"),
        httpx.Client(trust_env=False) as client,
    ):
        # A channel that had to try twice waits before it does; we want to know within milliseconds.
        eventually(lambda: listens(settings["CALENDAR_GRPC_ADDRESS"]), every_s=0.001)
        with grpc.insecure_channel(settings["CALENDAR_GRPC_ADDRESS"]) as channel:
            states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=UNTIL_S)
            assert any(state.status == health_pb2.HealthCheckResponse.SERVING for state in states)
            told = client.get(f"http://{settings['CALENDAR_HTTP_ADDRESS']}/readyz")
    assert told.json()["failed"] == []


def test_a_database_that_is_not_migrated_is_not_ready(tmp_path: Path) -> None:
    with serving(sqlite_settings(tmp_path), tmp_path) as running, httpx.Client(trust_env=False) as client:
        store = Store.open(running.settings["CALENDAR_DATABASE_URL"])
        store._database.run("DELETE FROM schema_migrations WHERE name = '007_request_ids'")
        store.close()
        eventually(lambda: client.get(f"{running.http}/readyz").status_code == 503)
        failed = client.get(f"{running.http}/readyz").json()["failed"]
    assert failed == [{"check": "migrations", "problem": "007_request_ids not applied; run `calendar-server migrate`"}]


def test_the_request_id_of_a_booking_is_in_the_worker_s_log(service: Running, stub: Stub, person: Person) -> None:
    person.make_calendar()
    connection = stub.connect(person)
    book(stub, connection.id, "logged-1", request_id="r-find-me-7")

    def pushes() -> list[dict[str, object]]:
        lines = [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "push" and line.get("request_id") == "r-find-me-7"]

    eventually(pushes)
    assert [(line["outcome"], line["reason"], line["connection"]) for line in pushes()] == [
        ("synced", "OK", connection.id)
    ]
    assert "Secret interview" not in service.log.read_text()


def test_a_lone_worker_serves_its_numbers_where_a_setting_says(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path, CALENDAR_WORKER_HTTP_ADDRESS=f"127.0.0.1:{local.free_port()}")
    url = f"http://{settings['CALENDAR_WORKER_HTTP_ADDRESS']}"
    arguments = [sys.executable, "-m", "calendar_server", "worker"]
    with (
        local.running(arguments, local.environment(settings), tmp_path / "worker.log") as process,
        httpx.Client(trust_env=False) as client,
    ):

        def up() -> bool:
            assert process.poll() is None, (tmp_path / "worker.log").read_text()
            try:
                return client.get(f"{url}/healthz").status_code == 200
            except httpx.TransportError:
                return False

        eventually(up)
        assert client.get(f"{url}/readyz").json()["passed"] == ["database", "migrations", "master keys"]
        assert total(url, "calendar_process_up", process="worker") == 1
        assert ("calendar_outbox_lag_seconds", frozenset({(PROCESS, "worker")})) in scraped(url)
        assert client.get(f"{url}/webhooks/google").status_code == 404


def test_a_worker_without_the_setting_listens_nowhere(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path)
    with local.running(
        [sys.executable, "-m", "calendar_server", "worker"], local.environment(settings), tmp_path / "worker.log"
    ) as process:
        eventually(lambda: '"working"' in (tmp_path / "worker.log").read_text() or process.poll() is not None)
        inodes = listening_inodes(process)
    assert inodes == set()


def listening_inodes(process: subprocess.Popen[bytes]) -> set[int]:
    """The ports that a process listens on."""
    import psutil

    return {
        connection.laddr.port
        for connection in psutil.Process(process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.timeout(240)
def test_with_several_processes_one_scrape_tells_of_all(tmp_path: Path) -> None:
    postgres = find_postgres()
    try:
        settings = sqlite_settings(
            tmp_path,
            CALENDAR_DATABASE_URL=postgres.url(postgres.database()),
            CALENDAR_PROCESSES="2",
            CALENDAR_MASTER_KEYS="k1:" + "C" * 43 + "=",
        )
        with serving(settings, tmp_path) as running:
            eventually(lambda: total(running.http, "calendar_process_up") == 3)
            found = {dict(labels)[PROCESS] for (name, labels) in scraped(running.http) if name == "calendar_process_up"}
    finally:
        postgres.stop()
    assert found == {"server", "server-2", "worker"}


def test_parked_pushes_are_listed_and_retried_while_the_service_runs(
    service: Running, stub: Stub, person: Person
) -> None:
    calendar = person.make_calendar()
    connection = stub.connect(person)
    with person.dav() as client:
        client.delete(calendar).raise_for_status()
    answer = book(stub, connection.id, "parked-1")
    assert answer.events[0].state == booking_pb2.BOOKING_EVENT_STATE_FAILED
    listed = service.command("bookings", "--parked", "--json", "--organization", "acme")
    (row,) = [each for each in json.loads(listed.stdout)["data"] if each["booking_id"] == "parked-1"]
    assert (row["connection_id"], row["state"], row["reason"]) == (connection.id, "failed", "CALENDAR_GONE")
    table = service.command("bookings", "--parked").stdout
    assert "parked-1" in table
    assert "Secret interview" not in table + listed.stdout
    person.make_calendar()
    retried = service.command("retry", "parked-1", "--organization", "acme")
    assert (retried.returncode, retried.stdout) == (0, "1 push is tried again now.\n")
    eventually(lambda: len(person.events(calendar)) == 1)


def test_what_cannot_be_retried_is_told(service: Running) -> None:
    answer = service.command("retry", "no-such-booking")
    assert (answer.returncode, answer.stderr) == (
        1,
        "There is no such booking. `calendar-server bookings --parked` lists those to retry.\n",
    )
