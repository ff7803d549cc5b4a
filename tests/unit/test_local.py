"""What the demo, the tests and the benches share for starting programs on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import PORTS, free_port

ROOT = Path(__file__).parents[2]
RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
HANDED_OUT = tuple(map(int, RANGE.read_text().split())) if RANGE.exists() else (49_152, 65_535)


@pytest.mark.skipif(HANDED_OUT[0] < 32_768, reason="this machine was told to hand out more ports than Linux does")
def test_a_free_port_is_none_that_the_system_gives_to_a_connection() -> None:
    first, last = HANDED_OUT
    assert not set(range(first, last + 1)) & {free_port() for _ in range(50)}


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f"{port} to {port} .* taken"):
            free_port(range(port, port + 1))


def test_a_port_is_given_once() -> None:
    """Also while its server has not started yet, or starts again."""
    port = free_port()
    assert port in PORTS
    with pytest.raises(OSError, match=f"{port} to {port} .* taken"):
        free_port(range(port, port + 1))


def test_a_port_is_given_to_one_process_and_to_others_when_that_has_ended() -> None:
    program = "from deploy.local import free_port; print(free_port(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        with pytest.raises(OSError, match=f"{port} to {port} .* taken"):
            free_port(range(port, port + 1))
        other.communicate("end\n")
    assert free_port(range(port, port + 1)) == port
