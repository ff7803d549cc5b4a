"""The HTTP sidecar on a real port."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from calendar_server.config import ConfigError
from calendar_server.metrics import Metrics
from calendar_server.readiness import Check
from calendar_server.sidecar.app import Sidecar

HEADERS = {
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


@dataclass
class World:
    """A running sidecar, and what was looked at."""

    found: list[Check] = field(default_factory=list)
    metrics: Metrics = field(default_factory=Metrics)
    port: int = 0

    def checks(self) -> list[Check]:
        return self.found

    def get(self, path: str, method: str = "GET", **headers: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=10) as client:
            return client.request(method, f"http://127.0.0.1:{self.port}{path}", headers=headers)

    def raw(self, sent: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(sent)
            received = b""
            while chunk := connection.recv(4096):
                received += chunk
            return received


@contextmanager
def running(*routes: BaseRoute) -> Iterator[World]:
    world = World()
    sidecar = Sidecar("127.0.0.1:0", checks=world.checks, metrics=world.metrics.text, routes=routes)
    sidecar.start()
    world.port = sidecar.port
    yield world
    sidecar.stop()


def breaks(request: Request) -> Response:
    raise RuntimeError("hunter2")


def framed(request: Request) -> Response:
    return PlainTextResponse("a page", headers={"content-security-policy": "default-src 'self'"})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with running(Route("/breaks", breaks), Route("/framed", framed)) as started:
        yield started


@pytest.fixture(autouse=True)
def ready(world: World) -> None:
    world.found = []


def test_the_process_lives_whatever_is_wrong(world: World) -> None:
    world.found = [Check("database", "is out of reach")]
    assert world.get("/healthz").status_code == 200


def test_with_no_reason_against_it_the_process_is_ready(world: World) -> None:
    world.found = [Check("database")]
    answer = world.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "failed": [], "passed": ["database"]})


def test_the_reasons_against_it_are_told(world: World) -> None:
    world.found = [Check("database"), Check("master keys", "the key k1 is another one")]
    answer = world.get("/readyz")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    assert answer.json() == {
        "ready": False,
        "failed": [{"check": "master keys", "problem": "the key k1 is another one"}],
        "passed": ["database"],
    }


def test_what_stops_no_call_is_told_without_turning_calls_away(world: World) -> None:
    world.found = [Check("database"), Check("worker", "is not running", keeps_calls=True)]
    answer = world.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert answer.json()["failed"] == [{"check": "worker", "problem": "is not running"}]


def test_readiness_that_cannot_be_learned_is_not_readiness() -> None:
    def unknown() -> list[Check]:
        raise RuntimeError("hunter2")

    sidecar = Sidecar("127.0.0.1:0", checks=unknown, metrics=bytes)
    sidecar.start()
    with httpx.Client(trust_env=False) as client:
        answer = client.get(f"http://127.0.0.1:{sidecar.port}/readyz")
    sidecar.stop()
    assert answer.status_code == 503
    assert answer.json()["failed"] == [{"check": "readiness", "problem": "is unknown; the log says more"}]


def test_metrics_are_told_as_prometheus_reads_them(world: World) -> None:
    world.metrics.call_ended("List", "OK", 0.1)
    answer = world.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'calendar_calls_total{code="OK",process="server",rpc="List"}' in answer.text


@pytest.mark.parametrize("path", ["/", "/healthz/", "/metrics/x", "/oauth", "/%2e%2e/etc/passwd", "//healthz"])
def test_an_unknown_path_is_404_in_plain_text(world: World, path: str) -> None:
    answer = world.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/plain; charset=utf-8")


def test_a_method_that_is_not_allowed_is_405(world: World) -> None:
    assert world.get("/healthz", "POST").status_code == 405


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/nothing", "/breaks"])
def test_every_answer_carries_the_security_headers(world: World, path: str, name: str) -> None:
    assert world.get(path).headers[name] == HEADERS[name]


def test_an_answer_may_set_its_own(world: World) -> None:
    assert world.get("/framed").headers.get_list("content-security-policy") == ["default-src 'self'"]


def test_a_route_that_breaks_tells_nothing(world: World) -> None:
    answer = world.get("/breaks")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")


def test_the_server_does_not_say_what_it_is(world: World) -> None:
    assert "server" not in world.get("/healthz").headers


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Large: " + b"x" * 20_000,
    ],
)
def test_what_is_no_http_is_400_with_the_same_headers(world: World, sent: bytes, name: str) -> None:
    head = world.raw(sent).decode().lower()
    assert head.startswith("http/1.1 400 ")
    assert f"{name}: {HEADERS[name]}\r\n" in head


def test_a_port_in_use_is_told_clearly(world: World) -> None:
    second = Sidecar(f"127.0.0.1:{world.port}", checks=world.checks, metrics=world.metrics.text)
    with pytest.raises(ConfigError, match=r"CALENDAR_HTTP_ADDRESS: 127\.0\.0\.1:\d+ cannot be listened on"):
        second.start()


def test_after_a_stop_nobody_is_answered() -> None:
    with running() as stopped:
        assert stopped.get("/healthz").status_code == 200
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", stopped.port), timeout=10)


def test_a_connection_that_says_nothing_does_not_hold_up_the_stop() -> None:
    with running() as stopped:
        silent = socket.create_connection(("127.0.0.1", stopped.port), timeout=10)
        assert stopped.get("/healthz").status_code == 200
    assert silent.recv(1) == b""
    silent.close()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: a\r\n"])
def test_a_connection_that_asks_for_nothing_whole_is_closed(world: World, sent: bytes) -> None:
    sidecar = Sidecar("127.0.0.1:0", checks=world.checks, metrics=world.metrics.text, idle_s=1)
    sidecar.start()
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=10) as slow:
        slow.sendall(sent)
        closed = slow.recv(1) == b""
    sidecar.stop()
    assert closed
