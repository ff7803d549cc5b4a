"""Starts the parts of the demo and of `make run` on this machine: Radicale, the service; and stops them by their pid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_S = 20.0
PORTS = range(20_000, 32_768)
TRIES = 100


class _Given:
    """Which ports were given, to anybody of this machine: each is a locked byte of one file, for the life of its process.

    Between being given and being listened on lies the start of a server, seconds in which nobody else sees that the port has
    an owner; and a server that starts again wants the port that it had.
    """

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._lock = threading.Lock()
        self._file: int | None = None

    def takes(self, port: int) -> bool:
        """Take this port, if neither this process nor another has it. Raises ``OSError`` when the file cannot be used."""
        with self._lock:
            if port in self._own:
                return False
            if self._file is None:
                # One file for each user: nobody else could write it.
                path = Path(tempfile.gettempdir()) / f"calendar-ports-{os.getuid()}"
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            except (BlockingIOError, PermissionError):
                # `lockf(3)`: either says that another has it.
                return False
            self._own.add(port)
            return True


_GIVEN = _Given()


def free_port(ports: range = PORTS) -> int:
    """A port of the loopback interface that nobody listens on, and that nobody else is given while this process lives.

    None of those that the system hands out by itself (RFC 6056: 49152 and above; Linux: 32768 and above): one of them may go
    to any connection while whoever was given it has not started yet, or starts again. Raises ``OSError`` if ``TRIES``
    ports were taken.
    """
    # Not by `random`: tests set its seed, and two of them at once would look at the same ports.
    chance = random.SystemRandom()
    for _ in range(TRIES):
        port = chance.choice(ports)
        if _GIVEN.takes(port):
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                return port
    raise OSError(f"{TRIES} of the ports {ports.start} to {ports.stop - 1} of 127.0.0.1 were tried and all were taken")


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of another service, with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CALENDAR_")}
    return {**kept, **settings}


@contextlib.contextmanager
def running(arguments: list[str], env: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program, its output into ``log``, and stop it at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(arguments, env=dict(env), stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def radicale(folder: Path, users: Mapping[str, str]) -> Iterator[str]:
    """A real CalDAV server on loopback with these users and passwords; answers its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "users").write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
    port = free_port()
    (folder / "config").write_text(
        f"[server]\nhosts = 127.0.0.1:{port}\n"
        f"[auth]\ntype = htpasswd\nhtpasswd_filename = {folder / 'users'}\nhtpasswd_encryption = plain\ndelay = 0\n"
        f"[storage]\nfilesystem_folder = {folder / 'collections'}\n"
        "[rights]\ntype = owner_only\n"
    )
    arguments = [sys.executable, "-m", "radicale", "--config", str(folder / "config")]
    with running(arguments, os.environ, folder / "radicale.log") as process:
        url = f"http://127.0.0.1:{port}/"
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url, trust_env=False)
                break
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"Radicale did not start; see {folder / 'radicale.log'}")
            time.sleep(0.05)
        yield url


@contextlib.contextmanager
def service(settings: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`calendar-server serve` with these settings, up to SERVING."""
    arguments = [sys.executable, "-m", "calendar_server", "serve"]
    with running(arguments, environment(settings), log) as process:
        wait_serving(settings["CALENDAR_GRPC_ADDRESS"], process, log)
        yield process


def wait_serving(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the service's health says SERVING; give up when it ended or took too long."""
    until = time.monotonic() + START_S
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            with contextlib.suppress(grpc.RpcError):
                answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"The service did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)


def create_api_key(settings: Mapping[str, str], organization: str) -> str:
    """Make an API key with `calendar-server create-api-key`."""
    made = subprocess.run(
        [sys.executable, "-m", "calendar_server", "create-api-key", "--organization", organization],
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        sys.exit(f"No API key could be made:\n{made.stderr}")
    return made.stdout.strip()
