"""Lines to servers that are kept: when one is used again, when a request is repeated, and how many there are."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from calendar_server.errors import ForbiddenDestination, ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import LINES_MAX, LINES_PER_ORIGIN_MAX, Egress
from tests.fakes.raw_server import RawConnection, RawRequest, RawServer, answer
from tests.unit.ways_out import Clock, Names, get, hello, sends, way_out


def test_a_line_is_used_again(egress: Egress) -> None:
    with RawServer(hello) as server:
        for _ in range(3):
            get(egress, server.url)
        assert len(server.connections) == 1


def test_a_line_that_the_server_wants_closed_is_not_used_again(egress: Egress) -> None:
    with RawServer(sends(answer(200, b"", [("Connection", "close")]), close=False)) as server:
        get(egress, server.url)
        get(egress, server.url)
        assert len(server.connections) == 2


def test_an_origin_is_dialled_and_judged_anew_after_a_minute() -> None:
    clock, names = Clock(), Names(moving_example=[["127.0.0.1"], ["127.0.0.2"]])
    with RawServer(hello) as server, way_out("127.0.0.1", names, clock=clock) as egress:
        url = f"http://moving.example:{server.port}/"
        for _ in range(6):
            get(egress, url)
            clock.now += 10
        with pytest.raises(ForbiddenDestination):
            get(egress, url)


def test_a_line_that_was_idle_for_long_is_not_used_again() -> None:
    clock = Clock()
    with RawServer(hello) as server, way_out(clock=clock) as egress:
        get(egress, server.url)
        clock.now += 15
        get(egress, server.url)
        assert len(server.connections) == 2


def test_a_write_rides_only_on_a_line_that_was_in_use_just_now() -> None:
    clock = Clock()
    with RawServer(hello) as server, way_out(clock=clock) as egress:
        for pause in (0, 1, 3):
            clock.now += pause
            egress.exchange("PUT", server.url, headers={}, content=b"x", deadline=Deadline.after(5))
        assert [connection.number for connection in server.connections] == [1, 2]


def hangs_up_at_the_second(request: RawRequest, connection: RawConnection) -> None:
    """Answers the first request of the first connection, and hangs up upon the second one there."""
    if connection.number == 1 and request.path == "/second":
        connection.close()
    else:
        connection.send(answer(200, b"hello"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT"])
def test_a_request_that_changes_nothing_is_repeated_when_a_kept_line_breaks(egress: Egress, method: str) -> None:
    with RawServer(hangs_up_at_the_second) as server:
        get(egress, server.url)
        assert egress.exchange(method, server.url + "/second", headers={}, deadline=Deadline.after(5)).status == 200
    assert [request.path for request in server.requests] == ["/", "/second", "/second"]


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "MKCALENDAR"])
def test_a_request_that_changes_something_is_never_repeated(egress: Egress, method: str) -> None:
    with RawServer(hangs_up_at_the_second) as server:
        get(egress, server.url)
        with pytest.raises(ProviderUnavailable):
            egress.exchange(method, server.url + "/second", headers={}, content=b"x", deadline=Deadline.after(5))
    assert [request.path for request in server.requests] == ["/", "/second"]


def test_a_request_is_not_repeated_once_an_answer_has_begun(egress: Egress) -> None:
    def begins(request: RawRequest, connection: RawConnection) -> None:
        connection.send(b"HTTP/1" if request.path == "/second" else answer(200))
        if request.path == "/second":
            connection.close()

    with RawServer(begins) as server:
        get(egress, server.url)
        with pytest.raises(ProviderUnavailable):
            get(egress, server.url + "/second")
    assert [request.path for request in server.requests] == ["/", "/second"]


def test_a_request_is_repeated_only_once(egress: Egress) -> None:
    def hangs_up(request: RawRequest, connection: RawConnection) -> None:
        if request.path == "/second":
            connection.close()
        else:
            connection.send(answer(200))

    with RawServer(hangs_up) as server:
        get(egress, server.url)
        with pytest.raises(ProviderUnavailable):
            get(egress, server.url + "/second")
    assert len(server.requests) == 3


def test_a_line_that_the_server_has_closed_is_replaced_also_for_a_write(egress: Egress) -> None:
    ended = threading.Event()

    def closes(request: RawRequest, connection: RawConnection) -> None:
        connection.send(answer(200))
        if connection.number == 1:
            connection.close()
            ended.set()

    with RawServer(closes) as server:
        get(egress, server.url)
        assert ended.wait(5)
        assert egress.exchange("PUT", server.url, headers={}, content=b"x", deadline=Deadline.after(5)).status == 200


@pytest.mark.parametrize("seen", ["closed", "breaking"])
def test_a_write_rides_on_no_line_of_a_server_that_closes_them_without_a_word(seen: str) -> None:
    """SOGo does. Whether a write that meets the end of its line was done, nobody knows."""
    ended = threading.Event()
    clock = Clock()

    def closes(request: RawRequest, connection: RawConnection) -> None:
        if request.path == "/breaks":
            connection.close()
            return
        connection.send(answer(200))
        if request.path == "/closes":
            connection.close()
            ended.set()

    def write(egress: Egress) -> int:
        egress.exchange("PUT", server.url, headers={}, content=b"x", deadline=Deadline.after(5))
        return len(server.connections)

    with RawServer(closes) as server, way_out(clock=clock) as egress:
        get(egress, server.url)
        assert write(egress) == 1
        if seen == "closed":
            get(egress, server.url + "/closes")
            assert ended.wait(5)
            get(egress, server.url)
        else:
            with pytest.raises(ProviderUnavailable):
                get(egress, server.url + "/breaks")
            get(egress, server.url)
        before = len(server.connections)
        assert write(egress) == before + 1
        # Only what changes something needs that, and only for a while.
        get(egress, server.url)
        assert len(server.connections) == before + 1
        clock.now += 601
        get(egress, server.url)
        before = len(server.connections)
        assert write(egress) == before


def test_a_server_that_closes_idle_lines_is_none_of_these() -> None:
    clock = Clock()
    ended = threading.Event()

    def closes(request: RawRequest, connection: RawConnection) -> None:
        connection.send(answer(200))
        if request.path == "/closes":
            connection.close()
            ended.set()

    with RawServer(closes) as server, way_out(clock=clock) as egress:
        get(egress, server.url + "/closes")
        assert ended.wait(5)
        clock.now += 5
        get(egress, server.url)
        egress.exchange("PUT", server.url, headers={}, content=b"x", deadline=Deadline.after(5))
        assert len(server.connections) == 2


def test_an_answer_that_lay_there_before_the_request_is_not_its_answer(egress: Egress) -> None:
    def twice(request: RawRequest, connection: RawConnection) -> None:
        if connection.number == 1:
            connection.send(answer(200, b"first") + answer(200, b"smuggled"))
        else:
            connection.send(answer(200, b"second"))

    with RawServer(twice) as server:
        get(egress, server.url)
        assert get(egress, server.url).body == b"second"


def test_many_threads_go_out_at_once(egress: Egress) -> None:
    bodies: list[bytes] = []

    def echo(request: RawRequest, connection: RawConnection) -> None:
        connection.send(answer(200, request.path.encode()))

    def ask(number: int) -> None:
        for turn in range(5):
            path = f"/{number}/{turn}"
            if get(egress, server.url + path).body == path.encode():
                bodies.append(b"its own")

    with RawServer(echo) as server:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.connections) <= 8
    assert bodies == [b"its own"] * 40


class AtOnce:
    """Answers when so many requests have come, and counts the lines that ended after that."""

    def __init__(self, count: int):
        self.count = count
        self.barrier = threading.Barrier(count)
        self.ended = 0
        self._lock = threading.Lock()

    def __call__(self, request: RawRequest, connection: RawConnection) -> None:
        self.barrier.wait(20)
        connection.send(answer(200, b"hello"))
        if connection.socket.recv(1, socket.MSG_PEEK) == b"":
            with self._lock:
                self.ended += 1

    def wait_for_ends(self, count: int) -> None:
        """Wait for so many, and a moment longer: were there to be more, they would come then."""
        until = time.monotonic() + 10
        while self.ended < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.1)

    def ask(self, egress: Egress, url: str) -> None:
        with ThreadPoolExecutor(self.count) as threads:
            for each in [threads.submit(get, egress, url) for _ in range(self.count)]:
                assert each.result(20).body == b"hello"


def test_as_many_lines_as_were_needed_at_once_are_used_again(egress: Egress) -> None:
    handler = AtOnce(40)
    with RawServer(handler) as server:
        for _ in range(3):
            handler.ask(egress, server.url)
        assert len(server.connections) == 40


def test_there_is_a_bound_on_the_lines_that_are_kept_of_one_origin(egress: Egress) -> None:
    handler = AtOnce(LINES_PER_ORIGIN_MAX + 4)
    with RawServer(handler) as server:
        handler.ask(egress, server.url)
        handler.wait_for_ends(4)
        assert handler.ended == 4


def test_there_is_a_bound_on_the_lines_that_are_kept_of_all_origins(egress: Egress) -> None:
    handlers = [AtOnce(LINES_MAX // 3 + 4) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for handler in handlers:
            handler.ask(egress, stack.enter_context(RawServer(handler)).url)
        handlers[0].wait_for_ends(12)
        # The oldest go.
        assert [handler.ended for handler in handlers] == [12, 0, 0]


def test_closing_ends_the_kept_lines(egress: Egress) -> None:
    ended = threading.Event()

    def watches(request: RawRequest, connection: RawConnection) -> None:
        connection.send(answer(200))
        if connection.socket.recv(1) == b"":
            ended.set()

    with RawServer(watches) as server:
        get(egress, server.url)
        egress.close()
        assert ended.wait(5)


def test_a_line_that_is_only_old_was_not_closed_by_its_server() -> None:
    clock = Clock()
    with RawServer(hello) as server, way_out(clock=clock) as egress:
        # So that it is found old when it is taken, not when those that wait are looked through, once a second.
        clock.now += 0.5
        for _ in range(81):
            get(egress, server.url)
            clock.now += 0.75
        assert len(server.connections) == 2
        egress.exchange("PUT", server.url, headers={}, content=b"x", deadline=Deadline.after(5))
        assert len(server.connections) == 2
