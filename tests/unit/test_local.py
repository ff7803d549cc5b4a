"""What the demo, the tests and the benches share for starting programs on this machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deploy.local import PORTS, free_port

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
HANDED_OUT = tuple(map(int, RANGE.read_text().split())) if RANGE.exists() else (49_152, 65_535)


@pytest.mark.skipif(HANDED_OUT[0] < 32_768, reason="this machine was told to hand out more ports than Linux does")
def test_a_free_port_is_none_that_the_system_gives_to_a_connection() -> None:
    first, last = HANDED_OUT
    assert not set(range(first, last + 1)) & {free_port() for _ in range(50)}


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    port = free_port()
    assert port in PORTS
    with socket.create_server(("127.0.0.1", port)), pytest.raises(OSError, match=f"{port} to {port} .* taken"):
        free_port(range(port, port + 1))
