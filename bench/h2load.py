"""Debian's h2load (nghttp2-client), where it is there: a client that leaves nearly all of the machine to the servers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from bench.figures import BenchError

_RATE = re.compile(r"finished in [\d.]+m?s, ([\d.]+) req/s")
_COUNTS = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")


def found() -> bool:
    """Whether h2load can be run here."""
    return shutil.which("h2load") is not None


def per_s(
    address: str, api_key: str, path: str, request: bytes, folder: Path, *, connections: int, seconds: int
) -> float:
    """Calls in a second, each connection with one call at a time.

    h2load does not look at gRPC's own status: make sure with another client that the call is answered well.
    """
    body = folder / "h2load-request"
    # A message as gRPC frames it: not compressed, its length, itself.
    body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
    headers = {"content-type": "application/grpc", "te": "trailers", "authorization": f"Bearer {api_key}"}
    done = subprocess.run(
        [
            "h2load",
            *(f"--header={name}: {value}" for name, value in headers.items()),
            # Without a warm-up the time that the connections take would count.
            "--warm-up-time=1",
            f"--duration={seconds}",
            f"--clients={connections}",
            "--max-concurrent-streams=1",
            f"--data={body}",
            f"http://{address}{path}",
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
    )
    return parsed(done.stdout + done.stderr)


def parsed(told: str) -> float:
    """The rate that h2load printed. Raises ``BenchError`` when calls failed or nothing was printed."""
    rate, counts = _RATE.search(told), _COUNTS.search(told)
    if rate is None or counts is None:
        raise BenchError(f"h2load did not measure: {told[-500:]}")
    if any(int(count) for count in counts.groups()[1:]) or not int(counts[1]):
        raise BenchError(f"h2load met failures: {counts[0]}")
    return float(rate[1])
