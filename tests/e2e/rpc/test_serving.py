"""Health, reflection, starting, stopping, and what is told of calls."""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from calendar_server.config import Config, ConfigError
from calendar_server.rpc.server import Health, build_server
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.rpc.world import CALL_S, KEY, SERVICE, NoContext, World, busy_request, failure, logged, running

# Health and reflection


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_follows_what_it_is_told(world: World, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    before = world.health.Check(request, timeout=CALL_S).status
    world.server.set_serving(False)
    after = world.health.Check(request, timeout=CALL_S).status
    assert (before, after) == (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING)


def test_a_server_is_not_serving_before_it_is_told() -> None:
    with running() as world:
        fresh = build_server(
            Config(grpc_address="127.0.0.1:0"),
            connections=world.connections,
            availability=world.availability,
            bookings=world.bookings,
            authenticator=world.keys,
            metrics=world.metrics,
        )
        fresh.start()
        with grpc.insecure_channel(f"127.0.0.1:{fresh.port}") as channel:
            checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        fresh.stop(0)
        assert checked.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_watch_tells_every_change(world: World) -> None:
    watch = world.health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_S)
    first = next(watch).status
    world.server.set_serving(False)
    second = next(watch).status
    watch.cancel()
    assert (first, second) == (1, 2)


def test_a_watch_of_an_unknown_service_says_so(world: World) -> None:
    watch = world.health.Watch(health_pb2.HealthCheckRequest(service="made.up"), timeout=CALL_S)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_nothing_is_kept_for_a_service_that_somebody_made_up() -> None:
    told = []

    def send(response: health_pb2.HealthCheckResponse) -> None:
        told.append(response.status)

    kept = weakref.ref(send)
    health, context = Health(), NoContext()
    health.Watch(health_pb2.HealthCheckRequest(service="made.up"), context, send)
    del send
    gc.collect()
    assert (told, kept()) == ([health_pb2.HealthCheckResponse.SERVICE_UNKNOWN], None)


def test_reflection_lists_the_services(world: World) -> None:
    services = ProtoReflectionDescriptorDatabase(world.channel).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)


def test_reflection_is_off_unless_set() -> None:
    with running(Config(grpc_address="127.0.0.1:0")) as world:
        with pytest.raises(grpc.RpcError) as raised:
            list(ProtoReflectionDescriptorDatabase(world.channel).get_services())
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_buf_curl_calls_through_reflection(world: World) -> None:
    account = {"preset": "CALDAV_PRESET_FASTMAIL", "username": "anna", "password": "secret"}
    world.call("Connect", pb.ConnectRequest(caldav=account))
    ran = subprocess.run(
        [
            str(Path(sys.executable).parent / "buf"),
            "curl",
            "--protocol=grpc",
            "--http2-prior-knowledge",
            f"--header=authorization: Bearer {KEY}",
            "--data={}",
            f"http://127.0.0.1:{world.server.port}/{SERVICE}/List",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    assert [connection["id"] for connection in json.loads(ran.stdout)["data"]] == ["cal_1"]


# Starting and stopping


def test_a_port_in_use_is_told_clearly(world: World) -> None:
    second = build_server(
        Config(grpc_address=f"127.0.0.1:{world.server.port}"),
        connections=world.connections,
        availability=world.availability,
        bookings=world.bookings,
        authenticator=world.keys,
        metrics=world.metrics,
    )
    with pytest.raises(ConfigError, match=r"CALENDAR_GRPC_ADDRESS: 127\.0\.0\.1:\d+ cannot be listened on"):
        second.start()


def test_a_call_in_flight_finishes_while_health_says_not_serving(world: World) -> None:
    world.availability.gate = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(world.call, "GetBusy", busy_request())
        assert world.availability.arrived.acquire(timeout=CALL_S)
        watch = world.health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopped = threads.submit(world.server.stop, 10.0)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not call.done()
        world.availability.gate.set()
        assert call.result(CALL_S).complete
        stopped.result(CALL_S)


def test_a_watcher_does_not_hold_up_the_stop(world: World) -> None:
    watch = world.health.Watch(health_pb2.HealthCheckRequest(), timeout=CALL_S)
    next(watch)
    began = time.monotonic()
    world.server.stop(15.0)
    assert time.monotonic() - began < 5


def test_a_stopped_server_takes_no_calls(world: World) -> None:
    port = world.server.port
    world.server.stop(0)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=CALL_S)


def test_a_call_that_outlasts_the_grace_is_cancelled(world: World) -> None:
    world.availability.gate = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(world.call, "GetBusy", busy_request())
        assert world.availability.arrived.acquire(timeout=CALL_S)
        world.server.stop(0.2)
        with pytest.raises(grpc.RpcError) as raised:
            call.result(CALL_S)
        world.availability.gate.set()
    assert raised.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


# Telling


def test_a_call_is_one_line_in_the_log(world: World) -> None:
    with logged() as lines:
        world.call("GetBusy", busy_request(owner="a person"), ("x-request-id", "r-2"))
        line = lines()[0]
    assert isinstance(line.pop("time"), str)
    assert isinstance(line.pop("duration_ms"), float)
    assert line == {
        "level": "info",
        "event": "call",
        "rpc": "GetBusy",
        "code": "OK",
        "request_id": "r-2",
        "organization": "org_one",
    }


def test_the_log_tells_where_the_unforeseen_happened_but_not_what_was_sent(world: World) -> None:
    world.availability.error = RuntimeError("the password is hunter2")
    with logged() as lines:
        failure(lambda: world.call("GetBusy", busy_request()))
        line = lines()[0]
    assert (line["level"], line["code"], line["exception"]) == ("error", "INTERNAL", ["builtins.RuntimeError"])
    assert any("get_busy" in frame for frame in line["traceback"])
    assert "hunter2" not in json.dumps(line)


def test_a_call_is_counted_with_its_code(world: World) -> None:
    world.call("List", pb.ListRequest())
    failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="none")))
    text = world.metrics.text().decode()
    assert 'calendar_calls_total{code="OK",process="server",rpc="List"} 1.0' in text
    assert 'calendar_calls_total{code="NOT_FOUND",process="server",rpc="GetBooking"} 1.0' in text
