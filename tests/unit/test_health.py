"""`calendar-server health` against a real sidecar."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from calendar_server.config import Config
from calendar_server.health import ask
from calendar_server.sidecar.app import Sidecar
from calendar_server.telemetry import Metrics

REASONS: list[str] = []


@pytest.fixture(params=["127.0.0.1", "localhost"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a sidecar was told to listen, with the port that it got."""
    sidecar = Sidecar(Config(http_address=f"{request.param}:0"), ready=lambda: REASONS, metrics=Metrics())
    sidecar.start()
    REASONS.clear()
    yield f"{request.param}:{sidecar.port}"
    sidecar.stop()


def test_a_server_that_is_ready_is_healthy(address: str) -> None:
    assert ask(address) == ""


def test_one_that_should_get_no_calls_is_not_and_says_why(address: str) -> None:
    REASONS.append("database out of reach")
    assert ask(address) == "database out of reach"


def test_a_server_that_listens_everywhere_is_asked_on_this_machine(address: str) -> None:
    assert ask(f"0.0.0.0:{address.rpartition(':')[2]}") == ""


def test_nobody_there_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert ask(f"127.0.0.1:{port}") == f"there is no answer on 127.0.0.1:{port}"
