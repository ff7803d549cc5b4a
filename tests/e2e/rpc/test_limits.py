"""What is too much is refused with a reason, and the next call is answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2

from calendar_server.config import Config
from calendar_server.core.model import Interval
from calendar_server.usecases.commands import BusyAnswer
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.rpc.world import CALL_S, KEY, SERVICE, World, busy_request, failure, running


def test_a_string_of_ten_megabytes_is_refused_with_a_reason(world: World) -> None:
    failed = failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="x" * 10_000_000)))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


def test_even_larger_messages_are_refused(world: World) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        world.call("GetBooking", pb.GetBookingRequest(id="x" * 20_000_000))
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_after_a_message_that_is_too_large_the_next_call_is_answered(world: World) -> None:
    failure(lambda: world.call("GetBooking", pb.GetBookingRequest(id="x" * 10_000_000)))
    assert list(world.call("List", pb.ListRequest()).data) == []


def test_oversized_metadata_is_refused(world: World) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        world.call("List", pb.ListRequest(), ("x-large", "x" * 40_000))
    assert raised.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)


def test_an_answer_that_clients_would_not_take_says_so(world: World) -> None:
    world.availability.answer = BusyAnswer(tuple(Interval(i * 10**9, i * 10**9 + 5) for i in range(300_000)), True, ())
    failed = failure(lambda: world.call("GetBusy", busy_request()))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


def test_a_call_whose_message_never_comes_does_not_keep_its_thread() -> None:
    silent = threading.Event()

    def nothing() -> Iterator[bytes]:
        silent.wait(CALL_S)
        yield from ()

    with running(Config(grpc_address="127.0.0.1:0"), message_s=0.3) as world:
        call = world.channel.stream_unary(f"/{SERVICE}/List")
        with pytest.raises(grpc.RpcError) as raised:
            call(nothing(), metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S)
        silent.set()
        assert raised.value.code() is grpc.StatusCode.CANCELLED


def test_a_call_without_a_message_is_refused(world: World) -> None:
    call = world.channel.stream_unary(f"/{SERVICE}/List")
    failed = failure(lambda: call(iter(()), metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S))
    assert (failed.code.name, failed.info.reason) == ("INVALID_ARGUMENT", "VALIDATION_ERROR")


@pytest.fixture
def crowded() -> Iterator[tuple[World, ThreadPoolExecutor]]:
    """A server of which every thread is taken and as many calls wait."""
    with running(Config(grpc_address="127.0.0.1:0", grpc_threads=8)) as world, ThreadPoolExecutor(16) as callers:
        world.availability.gate = threading.Event()
        for _ in range(16):
            callers.submit(world.call, "GetBusy", busy_request())
        for _ in range(8):
            assert world.availability.arrived.acquire(timeout=CALL_S)
        deadline = time.monotonic() + CALL_S
        while world.server.load < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
        yield world, callers
        world.availability.gate.set()


def test_too_many_calls_at_once_are_told_to_come_again(crowded: tuple[World, ThreadPoolExecutor]) -> None:
    world, _ = crowded
    failed = failure(lambda: world.call("List", pb.ListRequest()))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert failed.detail(RetryInfo).retry_delay.seconds == 1


def test_health_is_answered_while_every_thread_is_taken(crowded: tuple[World, ThreadPoolExecutor]) -> None:
    world, _ = crowded
    assert world.health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S / 4).status == 1
