"""Streams of answers on a real port, before a use case whose answers the tests decide."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from calendar_server import errors
from calendar_server.config import Config
from calendar_server.core.model import BusyState, CalendarId, ConnectionId, Interval
from calendar_server.usecases.commands import BusyAnswer, CalendarBusy
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.rpc.world import CALL_S, KEY, SERVICE, World, busy_request, failure, logged, running


@pytest.fixture
def world() -> Iterator[World]:
    """Two streams, and one thread for all other calls."""
    with running(Config(grpc_address="127.0.0.1:0", grpc_threads=1, watches=2)) as started:
        yield started


def watch(
    world: World, *, key: str = KEY, call_id: str = "mine", timeout: float | None = CALL_S
) -> Iterator[pb.GetBusyResponse]:
    metadata = (("authorization", f"Bearer {key}"), ("x-request-id", call_id))
    call: Iterator[pb.GetBusyResponse] = world.stub.WatchBusy(busy_request(), metadata=metadata, timeout=timeout)
    return call


def becomes(condition: Callable[[], bool]) -> None:
    """Return when it is so; fail when it does not become so in time."""
    until = time.monotonic() + CALL_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def answer(number: int, size: int = 0) -> BusyAnswer:
    """An answer that tells its number, of more than ``size`` bytes."""
    padding = CalendarBusy(ConnectionId("cal_1"), CalendarId("x" * size), BusyState.FRESH)
    return BusyAnswer((Interval(0, number),), True, (padding,))


def number(response: pb.GetBusyResponse) -> int:
    return response.busy[0].end_time.nanos // 1000


def test_answers_come_as_they_change(world: World) -> None:
    world.availability.answer = answer(1)
    call = watch(world)
    assert number(next(call)) == 1
    world.availability.answer = answer(2)
    assert number(next(call)) == 2


@pytest.mark.parametrize("size", [0, 1_000_000])
def test_who_reads_slowly_gets_few_answers_and_the_newest(world: World, size: int) -> None:
    world.availability.answer = answer(1, size)
    call = watch(world, timeout=None)
    next(call)
    changes = 100
    for change in range(2, changes + 1):
        world.availability.answer = answer(change, size)
        # Of small answers, the pace decides how many are sent; of large ones, how much the line holds.
        if size:
            world.availability.arrived.acquire(timeout=0.05)
    got = [number(next(call))]
    while got[-1] != changes:
        got.append(number(next(call)))
    assert got == sorted(got)
    assert len(got) < changes / 4


def test_the_streams_take_no_thread_from_other_calls(world: World) -> None:
    for _ in range(2):
        next(watch(world))
    assert world.call("GetBusy", busy_request()).complete


def test_one_too_many_is_refused_and_told_when_to_come_back(world: World) -> None:
    calls = [watch(world), watch(world)]
    for call in calls:
        next(call)
    failed = failure(lambda: next(watch(world)))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")
    assert failed.detail(RetryInfo).retry_delay.seconds > 0
    calls[0].cancel()  # type: ignore[attr-defined]
    becomes(lambda: world.server.watches == 1)
    next(watch(world))


def test_a_client_that_leaves_frees_its_thread_at_once(world: World) -> None:
    world.availability.ask_every_s = CALL_S
    call = watch(world)
    next(call)
    assert world.server.watches == 1
    began = time.monotonic()
    call.cancel()  # type: ignore[attr-defined]
    becomes(lambda: world.server.watches == 0)
    assert time.monotonic() - began < CALL_S / 2


def test_a_deadline_frees_the_thread(world: World) -> None:
    call = watch(world, timeout=1)
    with pytest.raises(grpc.RpcError) as ended:
        list(call)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    becomes(lambda: world.server.watches == 0)


def test_a_question_of_a_watch_does_not_have_the_deadline_of_the_stream(world: World) -> None:
    next(watch(world, timeout=3600))
    deadline = world.availability.callers[0].deadline
    assert deadline is not None
    assert deadline.remaining() < 60


def test_a_client_that_sends_no_request_is_sent_away() -> None:
    with running(Config(grpc_address="127.0.0.1:0", watches=1), message_s=0.2) as world:
        silent = threading.Event()

        def nothing() -> Iterator[bytes]:
            silent.wait(CALL_S)
            yield from ()

        call = world.channel.stream_stream(f"/{SERVICE}/WatchBusy")
        with pytest.raises(grpc.RpcError):
            list(call(nothing(), metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S))
        silent.set()
        becomes(lambda: world.server.watches == 0)
        next(watch(world))


# Ends


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (errors.NotFound("No."), "NOT_FOUND", "NOT_FOUND"),
        (errors.NeedsReauth(), "FAILED_PRECONDITION", "NEEDS_REAUTH"),
        (errors.StoreUnavailable(), "UNAVAILABLE", "STORE_UNAVAILABLE"),
        (RuntimeError("the password is hunter2"), "INTERNAL", "INTERNAL"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_error_ends_it_before_and_after_the_first_answer(
    world: World, first: bool, error: Exception, code: str, reason: str
) -> None:
    if first:
        world.availability.error = error
    call = watch(world)
    if not first:
        next(call)
        world.availability.error = error
    failed = failure(lambda: list(call))
    assert (failed.code.name, failed.info.reason) == (code, reason)
    assert ("x-request-id", "mine") in failed.error.trailing_metadata()
    assert "hunter2" not in str(failed.status)
    becomes(lambda: world.server.watches == 0)


def test_a_request_that_is_wrong_names_its_fields(world: World) -> None:
    call = world.stub.WatchBusy(pb.GetBusyRequest(), metadata=(("authorization", f"Bearer {KEY}"),), timeout=CALL_S)
    failed = failure(lambda: next(call))
    assert (failed.code.name, failed.info.reason) == ("INVALID_ARGUMENT", "VALIDATION_ERROR")


def test_an_answer_that_becomes_too_large_ends_it(world: World) -> None:
    call = watch(world)
    next(call)
    world.availability.answer = answer(1, 5_000_000)
    failed = failure(lambda: list(call))
    assert (failed.code.name, failed.info.reason) == ("RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")


@pytest.mark.parametrize("key", ["calkey_a_b", "nonsense"])
def test_without_a_key_nobody_watches(world: World, key: str) -> None:
    failed = failure(lambda: next(watch(world, key=key)))
    assert (failed.code.name, failed.info.reason) == ("UNAUTHENTICATED", "UNAUTHORIZED")


def test_without_a_key_the_answer_is_the_same_when_all_are_open(world: World) -> None:
    for _ in range(2):
        next(watch(world))
    failed = failure(lambda: next(watch(world, key="calkey_a_b")))
    assert failed.code is grpc.StatusCode.UNAUTHENTICATED


def test_a_revoked_key_ends_its_watches_within_seconds(world: World) -> None:
    call = watch(world)
    next(call)
    del world.keys.known[KEY]
    revoked_at = time.monotonic()
    failed = failure(lambda: list(call))
    assert time.monotonic() - revoked_at < 5
    assert (failed.code.name, failed.info.reason) == ("UNAUTHENTICATED", "UNAUTHORIZED")


def test_a_revoked_key_ends_a_watch_that_is_in_the_middle_of_a_question(world: World) -> None:
    world.availability.gate = threading.Event()
    call = watch(world)
    assert world.availability.arrived.acquire(timeout=CALL_S)
    del world.keys.known[KEY]
    failed = failure(lambda: list(call))
    world.availability.gate.set()
    assert failed.code is grpc.StatusCode.UNAUTHENTICATED


def test_a_key_that_cannot_be_checked_at_the_moment_is_not_revoked(world: World) -> None:
    call = watch(world)
    next(call)
    with logged() as lines:
        world.keys.error = errors.StoreUnavailable()
        becomes(lambda: any(line["event"] == "key_not_checked" for line in lines()))
    world.availability.answer = answer(7)
    assert number(next(call)) == 7


@pytest.mark.parametrize("in_question", [True, False])
def test_a_stop_ends_it_at_once_and_says_why(world: World, in_question: bool) -> None:
    if in_question:
        world.availability.gate = threading.Event()
    call = watch(world, timeout=None)
    assert world.availability.arrived.acquire(timeout=CALL_S)
    if not in_question:
        next(call)
    began = time.monotonic()
    world.server.stop(15.0)
    assert time.monotonic() - began < 5
    failed = failure(lambda: list(call))
    assert (failed.code.name, failed.info.reason) == ("UNAVAILABLE", "SERVICE_STOPPING")
    # The standard retry may go to another server.
    assert "grpc-retry-pushback-ms" not in dict(failed.error.trailing_metadata())
    if world.availability.gate is not None:
        world.availability.gate.set()


def test_a_reader_that_does_not_take_its_answer_does_not_hold_up_the_stop(world: World) -> None:
    call = watch(world, timeout=None)
    next(call)
    for change in range(20):
        world.availability.answer = answer(change, 1_000_000)
        world.availability.arrived.acquire(timeout=0.1)
    began = time.monotonic()
    world.server.stop(30.0)
    assert time.monotonic() - began < 10
    with pytest.raises(grpc.RpcError):
        list(call)


# What operators see


def ends_of(lines: list[dict[str, object]], call_id: str) -> list[dict[str, object]]:
    return [line for line in lines if line["event"] == "call" and line.get("request_id") == call_id]


def test_a_stream_is_one_line_in_the_log_and_one_in_the_metrics(world: World) -> None:
    with logged() as lines:
        call = watch(world, call_id="counted")
        next(call)
        world.availability.answer = answer(2)
        next(call)
        call.cancel()  # type: ignore[attr-defined]
        becomes(lambda: bool(ends_of(lines(), "counted")))
        told = ends_of(lines(), "counted")
    assert [(line["rpc"], line["code"], line["count"]) for line in told] == [("WatchBusy", "CANCELLED", 2)]
    assert told[0]["organization"] == "org_one"
    assert (
        'calendar_calls_total{code="CANCELLED",process="server",rpc="WatchBusy"} 1.0' in world.metrics.text().decode()
    )


def test_an_error_is_told_with_its_code_and_reason(world: World) -> None:
    with logged() as lines:
        call = watch(world, call_id="failed")
        next(call)
        world.availability.error = errors.NeedsReauth()
        failure(lambda: list(call))
        becomes(lambda: bool(ends_of(lines(), "failed")))
        told = ends_of(lines(), "failed")
    assert [(line["code"], line["reason"], line["count"]) for line in told] == [
        ("FAILED_PRECONDITION", "NEEDS_REAUTH", 1)
    ]
