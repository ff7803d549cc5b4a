"""`calendar-server health` against a real sidecar."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from calendar_server.health import ask
from calendar_server.readiness import Check
from calendar_server.sidecar.app import Sidecar

FOUND: list[Check] = []


@pytest.fixture(params=["127.0.0.1", "localhost"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a sidecar was told to listen, with the port that it got."""
    sidecar = Sidecar(f"{request.param}:0", checks=lambda: FOUND, metrics=bytes)
    sidecar.start()
    FOUND.clear()
    yield f"{request.param}:{sidecar.port}"
    sidecar.stop()


def test_a_server_that_is_ready_is_healthy(address: str) -> None:
    assert ask(address) == ""


def test_one_that_should_get_no_calls_is_not_and_says_why(address: str) -> None:
    FOUND.extend(
        [Check("database", "is out of reach"), Check("worker", "is not running", keeps_calls=True), Check("keys")]
    )
    assert ask(address) == "database: is out of reach; worker: is not running"


def test_a_server_that_listens_everywhere_is_asked_on_this_machine(address: str) -> None:
    assert ask(f"0.0.0.0:{address.rpartition(':')[2]}") == ""


def test_nobody_there_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert ask(f"127.0.0.1:{port}") == f"there is no answer on 127.0.0.1:{port}"
