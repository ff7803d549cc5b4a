"""HTTP/2 used against the service, frame by frame: a polite client notices nothing and memory stays where it was.

The server is a process of its own, as it runs in production; each attack goes on until a polite client has made all of
its calls.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest

from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.conftest import Running, Stub, serving, sqlite_settings
from tests.fakes.h2_client import (
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawLine,
    frame,
    lines,
    settings,
)

POLITE_CALLS = 12
POLITE_S = 1.0
"""Seconds that a polite call may take, as the median of all; a busy machine may hold up any single one."""
GROWTH_BYTES = 150 * 2**20
MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME = 3, 4, 5


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, str]]:
    folder: Path = tmp_path_factory.mktemp("abuse")
    with serving(sqlite_settings(folder), folder) as running:
        yield running, running.key("attacker")


@pytest.fixture
def port(attacked: tuple[Running, str]) -> int:
    return int(attacked[0].address.rpartition(":")[2])


@pytest.fixture
def polite(attacked: tuple[Running, str]) -> Callable[[], list[float]]:
    """Makes calls of another organization one after the other; answers the seconds of each."""
    running, key = attacked[0], attacked[0].key()

    def call() -> list[float]:
        taken = []
        stub = Stub(running.address, key)
        for number in range(POLITE_CALLS):
            began = time.monotonic()
            while (code := stub.code("List", pb.ListRequest())) is grpc.StatusCode.RESOURCE_EXHAUSTED:
                # It is told to try again in a moment, which counts as time like any other.
                assert time.monotonic() < began + 10
                time.sleep(0.1)
            assert code is grpc.StatusCode.OK
            taken.append(time.monotonic() - began)
            if number % 2:
                stub.close()
                stub = Stub(running.address, key)
        stub.close()
        return taken

    return call


@contextmanager
def held(attacked: tuple[Running, str], polite: Callable[[], list[float]]) -> Iterator[None]:
    """What is promised while the block attacks, and after it."""
    process = psutil.Process(attacked[0].process.pid)
    polite()
    before = process.memory_info().rss
    yield
    assert attacked[0].process.poll() is None
    grown = process.memory_info().rss - before
    assert grown < GROWTH_BYTES, f"{grown / 2**20:.0f} MiB"
    assert median(polite()) < POLITE_S


def median(taken: list[float]) -> float:
    return sorted(taken)[len(taken) // 2]


def attack(
    attacked: tuple[Running, str],
    polite: Callable[[], list[float]],
    open_lines: list[RawLine],
    once: Callable[[RawLine, int], bytes],
    *,
    rounds: int = 400,
) -> None:
    """Send what ``once`` makes for each round, by all lines at once, until a polite client has made its calls."""
    stop = threading.Event()

    def run(line: RawLine) -> None:
        for number in range(10**9):
            if stop.is_set() and number >= rounds:
                return
            if line.closed.is_set() or not line.send(once(line, number)):
                return

    with held(attacked, polite):
        threads = [threading.Thread(target=run, args=(line,), daemon=True) for line in open_lines]
        for thread in threads:
            thread.start()
        taken = polite()
        stop.set()
        for line in open_lines:
            line.close()
        for thread in threads:
            thread.join(30)
        assert median(taken) < POLITE_S, taken


def stream_of(number: int) -> int:
    return (2 * number + 1) % 2**31


KEY = ("authorization", "Bearer calkey_0123456789abcdef_" + "a" * 64)


def test_thousands_of_streams_are_begun_and_never_ended(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    with lines(port, 4) as opened:
        attack(attacked, polite, opened, lambda line, n: line.headers(stream_of(n), KEY))


def test_streams_are_begun_and_reset_at_once(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """CVE-2023-44487."""

    def once(line: RawLine, number: int) -> bytes:
        raw = b""
        for each in range(number * 20, number * 20 + 20):
            stream = stream_of(each)
            raw += line.headers(stream, KEY) + frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        return raw

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once, rounds=50)


def test_headers_are_as_large_as_they_come(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    with lines(port, 4) as opened:
        attack(
            attacked, polite, opened, lambda line, n: line.headers(stream_of(n), ("x-large", "a" * 12_000)), rounds=50
        )


def test_headers_go_on_and_on_in_continuations(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """CVE-2024-27316 and its kin: END_HEADERS never comes."""

    def once(line: RawLine, number: int) -> bytes:
        if number == 0:
            return frame(HEADERS, 0, 1, line.encoded((":method", "POST"), (":scheme", "http"), (":path", "/x")))
        return frame(CONTINUATION, 0, 1, line.encoded(*((f"x-{number}-{each}", "a" * 1000) for each in range(12))))

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once)


def test_continuations_are_empty(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    def once(line: RawLine, number: int) -> bytes:
        if number == 0:
            return frame(HEADERS, 0, 1, line.encoded((":method", "POST"), (":scheme", "http"), (":path", "/x")))
        return frame(CONTINUATION, 0, 1) * 100

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once)


def test_one_header_is_repeated_by_its_number_in_the_table(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """The HPACK bomb: one large entry in the dynamic table, named over and over by a byte."""
    entry = b"\x40" + b"\x01x" + b"\x7f\x80\x1e" + b"a" * 3967

    def once(line: RawLine, number: int) -> bytes:
        start = line.encoded((":method", "POST"), (":scheme", "http"), (":path", "/x"))
        return frame(HEADERS, END_HEADERS, stream_of(number), start + (entry if number == 0 else b"") + b"\xbe" * 8000)

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once, rounds=50)


def test_pings_come_by_the_thousand(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    with lines(port, 4) as opened:
        attack(attacked, polite, opened, lambda line, n: frame(PING, 0, 0, b"12345678") * 200)


def test_pings_come_by_the_thousand_and_the_answers_are_never_read(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    with lines(port, 4, reads=False) as opened:
        attack(attacked, polite, opened, lambda line, n: frame(PING, 0, 0, b"12345678") * 200)


def test_settings_come_by_the_thousand(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    def once(line: RawLine, number: int) -> bytes:
        return (settings((INITIAL_WINDOW, number % 2**16)) + frame(SETTINGS, 0, 0)) * 100

    with lines(port, 4, reads=False) as opened:
        attack(attacked, polite, opened, once)


def test_windows_are_updated_by_nothing_and_by_a_byte(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    with lines(port, 4) as opened:
        attack(attacked, polite, opened, lambda line, n: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 200)


def test_data_frames_are_empty(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """CVE-2019-9518."""

    def once(line: RawLine, number: int) -> bytes:
        return line.headers(1, KEY) if number == 0 else frame(DATA, 0, 1) * 200

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once)


def test_bodies_come_a_byte_at_a_time_and_never_end(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """Each of the streams announces a message and lets it drip, with a key that is believed."""
    good = ("authorization", f"Bearer {attacked[1]}")

    def once(line: RawLine, number: int) -> bytes:
        if number < 100:
            return line.headers(stream_of(number), good) + frame(
                DATA, 0, stream_of(number), b"\x00" + struct.pack(">I", 900_000)
            )
        time.sleep(0.001)
        return frame(DATA, 0, stream_of(number % 100), b"a")

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once)


def test_a_key_whose_calls_send_no_messages_is_told_so(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """Only that key is held up, and only for as long as it goes on."""
    good = ("authorization", f"Bearer {attacked[1]}")
    own = Stub(attacked[0].address, attacked[1])
    with lines(port, 1) as opened:
        for number in range(90):
            opened[0].send(opened[0].headers(stream_of(number), good))
        wait_for(lambda: own.code("List", pb.ListRequest()) is grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert median(polite()) < POLITE_S
    wait_for(lambda: own.code("List", pb.ListRequest()) is grpc.StatusCode.OK)
    own.close()


def wait_for(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.05)


def test_messages_are_announced_larger_than_any(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    good = ("authorization", f"Bearer {attacked[1]}")

    def once(line: RawLine, number: int) -> bytes:
        stream = stream_of(number)
        return line.headers(stream, good) + frame(DATA, 0, stream, b"\x00" + struct.pack(">I", 2**32 - 1) + b"a" * 1000)

    with lines(port, 4) as opened:
        attack(attacked, polite, opened, once, rounds=50)


def test_answers_find_no_window(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    """Whole calls whose answers may not be sent: the initial window is 0."""
    good = ("authorization", f"Bearer {attacked[1]}")

    def once(line: RawLine, number: int) -> bytes:
        return line.headers(stream_of(number), good) + frame(DATA, 1, stream_of(number), b"\x00" * 5)

    with lines(port, 4, first=[(INITIAL_WINDOW, 0)]) as opened:
        attack(attacked, polite, opened, once)


def test_many_connections_say_nothing(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    sockets: list[socket.socket] = []
    with held(attacked, polite):
        try:
            for _ in range(600):
                sockets.append(socket.create_connection(("127.0.0.1", port), timeout=20))
            assert median(polite()) < POLITE_S
        finally:
            for each in sockets:
                each.close()


def test_many_connections_begin_well_and_idle(attacked, polite, port) -> None:  # type: ignore[no-untyped-def]
    with held(attacked, polite), lines(port, 300, reads=False) as opened:
        for line in opened:
            line.send(line.headers(1, KEY))
        assert median(polite()) < POLITE_S


@pytest.mark.parametrize(
    "sent",
    [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 70_000, os.urandom(70_000)],
    ids=["http1", "tls", "zeros", "noise"],
)
def test_what_is_no_http2_ends_the_line(attacked, polite, port, sent: bytes) -> None:  # type: ignore[no-untyped-def]
    with held(attacked, polite), socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        try:
            connection.sendall(sent)
            while connection.recv(65536):
                pass
        except ConnectionError:
            pass


def test_calls_without_a_key_come_from_everywhere(attacked, polite) -> None:  # type: ignore[no-untyped-def]
    """A well-behaved library used badly: a thousand calls at once, without a key."""
    address = attacked[0].address
    with held(attacked, polite):
        channels = [grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(10)]
        calls = [
            channel.unary_unary(f"/{'calendars.v1.CalendarService'}/List").future(b"", timeout=20)
            for channel in channels * 100
        ]
        assert median(polite()) < POLITE_S
        for channel in channels:
            channel.close()
        del calls
