"""Whoever sends many wrong API keys waits for the answers, by either door; nobody else notices."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import grpc
import httpx
import pytest

from calendar_server.rpc.failures import FREE, WAIT_MOST_S, Failures, Later
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import calendar_service_pb2_grpc
from tests.e2e.rpc.world import CALL_S, KEY, OTHER_KEY, World, failure, running
from tests.unit import test_api
from tests.unit.test_peers import Clock

WRONG = "calkey_0123456789abcdef_" + "c" * 64
SLOW_S = WAIT_MOST_S * 0.8


def seconds_of(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def own_channel(world: World) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{world.server.port}", options=[("grpc.use_local_subchannel_pool", 1)])


def refused(world: World, *, key: str | None = WRONG) -> object:
    return failure(lambda: world.call("List", pb.ListRequest(), key=key)).status


def use_up(world: World) -> list[object]:
    """Fail as often as is free, at once.

    Room for the next comes by the second. So its answer comes a second after the first of these, and not a second after its
    question: measure from before these, or a slow machine has waited already.
    """
    return [refused(world) for _ in range(FREE)]


@pytest.mark.parametrize("key", [WRONG, None, "calkey_nonsense"])
def test_after_some_failures_the_next_waits_and_says_the_same(world: World, key: str | None) -> None:
    began = time.monotonic()
    first = use_up(world)
    last = refused(world, key=key)
    assert time.monotonic() - began > SLOW_S
    assert last == first[0]


def test_a_good_key_of_the_same_peer_is_answered_at_once(world: World) -> None:
    world.call("List", pb.ListRequest(), key=KEY)
    use_up(world)
    for key in (KEY, OTHER_KEY):
        assert seconds_of(lambda key=key: world.call("List", pb.ListRequest(), key=key)) < SLOW_S  # type: ignore[misc]


def test_answers_that_wait_hold_no_thread(world: World) -> None:
    """More wait at once than there are threads, and a good call passes them all."""
    use_up(world)
    ended = threading.Semaphore(0)
    calls = []
    # Each channel is a connection, and one connection may have a hundred calls at once.
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(own_channel(world)) for _ in range(4)]
        for channel in channels[:3]:
            for _ in range(90):
                call = calendar_service_pb2_grpc.CalendarServiceStub(channel).List.future(
                    pb.ListRequest(), metadata=(("authorization", f"Bearer {WRONG}"),), timeout=CALL_S
                )
                call.add_done_callback(lambda _: ended.release())
                calls.append(call)
        good = calendar_service_pb2_grpc.CalendarServiceStub(channels[3])
        metadata = (("authorization", f"Bearer {KEY}"),)
        assert seconds_of(lambda: good.List(pb.ListRequest(), metadata=metadata, timeout=CALL_S)) < SLOW_S
        assert not all(call.done() for call in calls)
        for _ in calls:
            assert ended.acquire(timeout=60)
    assert {call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}


def test_a_watch_with_a_wrong_key_waits_as_well(world: World) -> None:
    began = time.monotonic()
    use_up(world)
    with pytest.raises(grpc.RpcError) as raised:
        list(world.stub.WatchBusy(pb.GetBusyRequest(), metadata=(("authorization", f"Bearer {WRONG}"),)))
    assert time.monotonic() - began > SLOW_S
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_key_that_was_revoked_waits_from_its_second_failure_on(world: World) -> None:
    world.call("List", pb.ListRequest())
    began = time.monotonic()
    use_up(world)
    del world.keys.known[KEY]
    refused(world, key=KEY)
    refused(world, key=KEY)
    assert time.monotonic() - began > SLOW_S


def test_a_stop_waits_for_no_such_answer() -> None:
    with running() as world:
        use_up(world)
        call = world.stub.List.future(pb.ListRequest(), metadata=(("authorization", f"Bearer {WRONG}"),))
        deadline = time.monotonic() + 20
        while not len(world.server._later) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert seconds_of(lambda: world.server.stop(20)) < SLOW_S
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


class TestWhatIsRemembered:
    def test_failures_of_the_last_minute_count(self) -> None:
        clock = Clock()
        failures = Failures(clock=clock)
        assert [failures.bad(WRONG, "a") for _ in range(FREE)] == [0] * FREE
        assert failures.bad(WRONG, "a") == WAIT_MOST_S
        assert failures.bad(WRONG, "b") == 0
        clock.now += 120
        assert failures.bad(WRONG, "a") == 0

    def test_a_key_is_proven_until_it_fails(self) -> None:
        failures = Failures()
        assert not failures.proven(KEY)
        failures.good(KEY)
        assert failures.proven(KEY)
        failures.bad(KEY, "a")
        assert not failures.proven(KEY)

    def test_what_is_too_much_to_wait_is_run_at_once(self) -> None:
        later = Later(most=1)
        ran: list[int] = []
        later.after(60, lambda: ran.append(1))
        later.after(60, lambda: ran.append(2))
        assert ran == [2]
        later.stop()
        later.after(60, lambda: ran.append(3))
        assert 3 in ran

    def test_the_soonest_is_run_first_and_one_that_breaks_stops_no_other(self) -> None:
        later = Later()
        ran: list[int] = []
        done = threading.Event()
        later.after(0.3, lambda: (ran.append(3), done.set()))
        later.after(0.1, lambda: ran.append(1))
        later.after(0.2, lambda: 1 // 0)
        assert done.wait(20)
        assert ran == [1, 3]
        later.stop()


def test_the_http_door_counts_with_the_other_and_waits_the_same() -> None:
    with test_api.running() as world:
        world.rpc.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{world.rpc.port}")
        began = time.monotonic()
        stub = calendar_service_pb2_grpc.CalendarServiceStub(channel)
        for _ in range(FREE):
            with pytest.raises(grpc.RpcError) as raised:
                stub.List(pb.ListRequest(), metadata=(("authorization", f"Bearer {WRONG}"),), timeout=CALL_S)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        channel.close()
        answers: list[httpx.Response] = []
        for seconds, key in enumerate((WRONG, None)):
            answers.append(world.call("GET", "/v1/calendars", key=key))
            assert time.monotonic() - began > SLOW_S + seconds
            assert (answers[-1].status_code, answers[-1].json()["error"]["code"]) == (401, "unauthorized")
        assert answers[0].json() == answers[1].json()
        assert seconds_of(lambda: answers.append(world.call("GET", "/v1/calendars"))) < SLOW_S
        assert answers[-1].status_code == 200
