"""`make bench`: prints each figure with its aim. Ratios come from one run; seconds and megabytes are this machine's."""

from __future__ import annotations

import datetime
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from calendar_client import CalendarClient
from deploy import local

DELAY_S = 0.1
CONNECTIONS = 10
ROUNDS = 15


def figure(what: str, value: float, unit: str, aim: float) -> bool:
    """Print a figure beside its aim."""
    held = value <= aim
    print(f"{what:<72} {value:8.2f}{unit:<3} aim ≤ {aim:g}{unit:<3} {'' if held else 'MISSED'}", flush=True)
    return held


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def spread(samples: list[float]) -> str:
    """Median with the middle half around it, in milliseconds."""
    low, middle, high = statistics.quantiles(samples, n=4)
    return f"{middle * 1000:.0f} ms ({low * 1000:.0f}–{high * 1000:.0f})"


def start_and_size(settings: dict[str, str], folder: Path) -> list[bool]:
    """From the command to SERVING, with a database that is there; then the memory of the idle processes."""
    with local.service(settings, folder / "first.log"):
        pass
    samples = []
    for number in range(3):
        began = time.perf_counter()
        with local.service(settings, folder / f"{number}.log") as process:
            samples.append(time.perf_counter() - began)
            if number == 2:
                time.sleep(3)
                tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                sizes = [(p.memory_info().rss / 1e6, " ".join(p.cmdline()[1:5])[:60]) for p in tree]
    print("idle:", "; ".join(f"{size:.0f} MB {name}" for size, name in sizes))
    return [
        figure("start to SERVING, median of 3", statistics.median(samples), " s", 2.0),
        figure("resident memory of an idle `serve`, largest process", max(size for size, _ in sizes), "MB", 150),
    ]


def parallel(settings: dict[str, str], folder: Path) -> list[bool]:
    """GetBusy over ten connections whose server takes 100 ms, against one of them alone."""
    port = local.free_port()
    slow = [sys.executable, "-m", "bench.slow_caldav", str(port), str(DELAY_S)]
    with (
        local.running(slow, os.environ, folder / "slow.log"),
        local.service(settings, folder / "service.log"),
        CalendarClient(settings["CALENDAR_GRPC_ADDRESS"], api_key=local.create_api_key(settings, "bench")) as client,
    ):
        reachable(port)
        ids = [
            client.connect_caldav(
                preset="custom", username=f"user{n}", password="x", server_url=f"http://127.0.0.1:{port}/"
            ).id
            for n in range(CONNECTIONS)
        ]
        start = datetime.datetime.now(datetime.UTC)
        window = {"start": start, "end": start + datetime.timedelta(days=7)}
        client.get_busy(connection_ids=ids, **window)
        alone = [
            timed(lambda n=n: client.get_busy(connection_ids=[ids[n % CONNECTIONS]], **window)) for n in range(ROUNDS)
        ]
        together = [timed(lambda: client.get_busy(connection_ids=ids, **window)) for _ in range(ROUNDS)]
    print(f"one connection: {spread(alone)}; ten: {spread(together)}")
    slowest = statistics.median(alone)
    return [
        figure("GetBusy over 10 connections of 100 ms, against one", statistics.median(together) / slowest, " ×", 1.3)
    ]


def reachable(port: int) -> None:
    """Wait until somebody listens on the port."""
    until = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main() -> int:
    """Measure everything; 1 when an aim is missed."""
    held: list[bool] = []
    for measure in (start_and_size, parallel):
        with tempfile.TemporaryDirectory(prefix="calendar-bench-") as name:
            folder = Path(name)
            settings = {
                "CALENDAR_DATABASE_URL": f"sqlite:///{folder / 'calendar.db'}",
                "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
                "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
                "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
            }
            try:
                held += measure(settings, folder)
            except subprocess.SubprocessError as error:
                sys.exit(f"{measure.__name__}: {error}")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
