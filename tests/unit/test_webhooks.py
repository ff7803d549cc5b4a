"""The webhooks on a real port."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from calendar_server.config import Config
from calendar_server.errors import StoreUnavailable
from calendar_server.sidecar.app import Sidecar
from calendar_server.sidecar.webhooks import BODY_BYTES_MOST, THREADS, WAITING_MOST, Webhooks
from calendar_server.telemetry import Metrics

GOOGLE = {"X-Goog-Channel-ID": "c", "X-Goog-Channel-Token": "t", "X-Goog-Resource-State": "exists"}
ITEM = {"subscriptionId": "s", "clientState": "c"}


@dataclass
class World:
    """A sidecar, and what reached the use case. ``problem`` is raised there; ``gate`` closed, it waits."""

    google: list[Mapping[str, str]] = field(default_factory=list)
    microsoft: list[object] = field(default_factory=list)
    problem: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    port: int = 0

    def note_google(self, headers: Mapping[str, str]) -> None:
        self.google.append(headers)
        self.act()

    def note_microsoft(self, body: object) -> None:
        self.microsoft.append(body)
        self.act()

    def act(self) -> None:
        self.entered.release()
        self.gate.wait(60)
        if self.problem is not None:
            raise self.problem

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=60) as client:
            return client.post(f"{self.url}{path}", content=content, headers=dict(headers or {}))

    def graph(self, body: object, content_type: str = "application/json; charset=utf-8") -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.post("/webhooks/microsoft", content, {"Content-Type": content_type})

    @property
    def reached(self) -> int:
        return len(self.google) + len(self.microsoft)


@contextmanager
def running(answer_s: float = 10) -> Iterator[World]:
    world = World()
    world.gate.set()
    webhooks = Webhooks(world.note_google, world.note_microsoft, answer_s=answer_s)
    sidecar = Sidecar(Config(http_address="127.0.0.1:0"), ready=list, metrics=Metrics(), routes=webhooks.routes)
    sidecar.start()
    world.port = sidecar.port
    yield world
    world.gate.set()
    sidecar.stop()
    webhooks.close()


@pytest.fixture
def world() -> Iterator[World]:
    with running() as started:
        yield started


def test_google_is_heard_by_its_own_headers_alone(world: World) -> None:
    answer = world.post("/webhooks/google", headers={**GOOGLE, "Cookie": "x"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert world.google == [{name.lower(): value for name, value in GOOGLE.items()}]


def test_microsoft_is_heard(world: World) -> None:
    answer = world.graph({"value": [ITEM]})
    assert (answer.status_code, answer.content) == (202, b"")
    assert world.microsoft == [{"value": [ITEM]}]


@pytest.mark.parametrize(
    "token",
    [
        "abc",
        "Validation: Testing client application + reachability/%&=",
        "<script>alert(1)</script>",
        "ünï",
        "x" * 4096,
    ],
)
def test_a_validation_token_comes_back_as_it_is_and_as_plain_text(world: World, token: str) -> None:
    answer = httpx.post(
        f"{world.url}/webhooks/microsoft", params={"validationToken": token}, content=b"", trust_env=False
    )
    assert (answer.status_code, answer.content.decode()) == (200, token)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert world.reached == 0


@pytest.mark.parametrize(
    "query", [f"validationToken={'x' * 4097}", "validationToken=a&validationToken=b", "validationToken="]
)
def test_what_is_no_validation_is_not_echoed(world: World, query: str) -> None:
    answer = world.post(f"/webhooks/microsoft?{query}")
    assert answer.status_code == 400
    assert "xxx" not in answer.text


def test_only_microsofts_path_echoes(world: World) -> None:
    assert "abc" not in world.post("/webhooks/google?validationToken=abc").text
    assert httpx.get(f"{world.url}/webhooks/microsoft?validationToken=abc", trust_env=False).status_code == 405


@pytest.mark.parametrize("path", ["/webhooks/google", "/webhooks/microsoft"])
def test_a_body_over_the_limit_is_413_and_never_read_to_its_end(world: World, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=15) as line:
        line.sendall(head.encode())
        received = b""
        while chunk := line.recv(4096):
            received += chunk
    assert received.startswith(b"HTTP/1.1 413 ")
    assert world.reached == 0


@pytest.mark.parametrize("path", ["/webhooks/google", "/webhooks/microsoft"])
def test_a_body_of_unknown_length_ends_at_the_limit(world: World, path: str) -> None:
    pieces = 0
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.port), timeout=15) as line:
        line.sendall(head.encode())
        try:
            while pieces < 10_000:
                line.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
                pieces += 1
        except OSError:
            pass
    assert pieces < 10_000
    assert world.reached == 0


def test_a_body_of_the_largest_size_is_taken(world: World) -> None:
    frame = b'{"value": [], "x": ""}'
    body = frame[:-2] + b"x" * (BODY_BYTES_MOST - len(frame)) + frame[-2:]
    assert world.graph(body).status_code == 202
    assert world.graph(body + b" ").status_code == 413
    assert world.reached == 1


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 30_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b"{}", "application/x-www-form-urlencoded", 415),
        (b"{}", "", 415),
    ],
)
def test_what_is_no_json_is_told_so(world: World, body: bytes, content_type: str, status: int) -> None:
    assert world.graph(body, content_type).status_code == status
    assert world.reached == 0


def test_a_body_that_does_not_come_is_waited_for_only_so_long() -> None:
    with running(answer_s=0.2) as world:
        head = (
            b"POST /webhooks/microsoft HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 5\r\n"
        )
        with socket.create_connection(("127.0.0.1", world.port), timeout=15) as line:
            line.sendall(head + b"\r\n{")
            assert line.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("problem", [StoreUnavailable(), RuntimeError("hunter2")])
def test_what_could_not_be_noted_is_to_come_again(world: World, problem: Exception) -> None:
    world.problem = problem
    for answer in (world.post("/webhooks/google", headers=GOOGLE), world.graph({"value": [ITEM]})):
        assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, b"", "10")


def test_a_slow_database_holds_up_neither_the_answer_nor_the_rest() -> None:
    with running(answer_s=0.2) as world:
        world.gate.clear()
        assert world.graph({"value": [ITEM]}).status_code == 503
        assert httpx.get(f"{world.url}/healthz", trust_env=False).status_code == 200


def test_a_storm_waits_in_a_short_queue() -> None:
    with running(answer_s=60) as world:
        world.gate.clear()
        statuses: list[int] = []
        lock = threading.Lock()

        def ask() -> None:
            status = world.post("/webhooks/google", headers=GOOGLE).status_code
            with lock:
                statuses.append(status)

        threads = [threading.Thread(target=ask) for _ in range(WAITING_MOST + 20)]
        for thread in threads:
            thread.start()
        for _ in range(THREADS):
            assert world.entered.acquire(timeout=15)
        # Those that find no place are answered while all others still wait.
        for thread in threads:
            if len(statuses) >= 20:
                break
            thread.join(0.5)
        assert statuses == [503] * 20
        world.gate.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * WAITING_MOST + [503] * 20
        assert world.post("/webhooks/google", headers=GOOGLE).status_code == 200
