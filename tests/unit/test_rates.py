"""How often one peer may call what needs no key, on a real port."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from calendar_server.config import Config
from calendar_server.sidecar.app import SECURITY_HEADERS, Sidecar
from calendar_server.sidecar.rates import rates_of

LIMIT = 3


class World:
    """A sidecar, and how many requests went through."""

    def __init__(self) -> None:
        self.through = 0
        config = Config(oauth_per_minute=LIMIT, webhooks_per_minute=LIMIT)
        routes = [
            Route("/oauth/google/callback", self.passes),
            Route("/webhooks/google", self.passes, methods=["POST"]),
            Route("/v1/busy", self.passes),
        ]
        self.sidecar = Sidecar("127.0.0.1:0", checks=list, metrics=bytes, routes=routes, rates=rates_of(config))
        self.sidecar.start()

    def passes(self, request: Request) -> Response:
        self.through += 1
        return PlainTextResponse("through")

    @contextmanager
    def peer(self, address: str = "127.0.0.1") -> Iterator[httpx.Client]:
        with httpx.Client(
            transport=httpx.HTTPTransport(local_address=address),
            base_url=f"http://127.0.0.1:{self.sidecar.port}",
            trust_env=False,
            timeout=20,
        ) as client:
            yield client


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.sidecar.stop()


PATHS = [("GET", "/oauth/google/callback"), ("POST", "/webhooks/google"), ("PUT", "/webhooks/none")]


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_over_the_limit_is_429_with_the_time_to_wait(world: World, method: str, path: str) -> None:
    with world.peer() as client:
        answers = [client.request(method, path, content=b"x" * 100) for _ in range(LIMIT + 1)]
    assert [answer.status_code == 429 for answer in answers] == [False] * LIMIT + [True]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    for name, value in SECURITY_HEADERS.items():
        assert answers[-1].headers[name] == value
    assert world.through in (0, LIMIT)


def test_another_peer_is_not_slowed(world: World) -> None:
    with world.peer() as client, world.peer("127.0.0.2") as other:
        for _ in range(LIMIT + 2):
            client.post("/webhooks/google")
        assert other.post("/webhooks/google").status_code == 200


def test_callbacks_and_webhooks_are_counted_apart(world: World) -> None:
    with world.peer() as client:
        for _ in range(LIMIT + 2):
            client.post("/webhooks/google")
        assert client.get("/oauth/google/callback").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/busy"])
def test_nothing_else_is_limited(world: World, path: str) -> None:
    with world.peer() as client:
        assert {client.get(path).status_code for _ in range(LIMIT * 5)} == {200}
