"""Real CalDAV servers on loopback: from PyPI, each a process of its own in a folder of its own, stopped by its pid; and any
other that the environment names, whose test account must have nothing in it that is worth keeping.

    DAV_URL     what people would enter: http://127.0.0.1:20000/SOGo/dav/
    DAV_HOME    where the account's calendars are: /SOGo/dav/anna/Calendar/
    DAV_LOGIN   name:password

Radicale has users with passwords (the set may be anything), lets each into their own calendars, and hands out
``locked`` calendars for reading only. Xandikos has one user and asks for no password.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.local import free_port

START_S = 30.0
ADMIN = "admin"
ADMIN_PASSWORD = "the administrator's own"

_RIGHTS = f"""\
[administrator]
user: {ADMIN}
collection: .*
permissions: RrWw

[root]
user: .+
collection:
permissions: R

[principal]
user: .+
collection: {{user}}
permissions: RW

[locked]
user: .+
collection: {{user}}/locked[^/]*
permissions: r

[calendars]
user: .+
collection: {{user}}/[^/]+
permissions: rw
"""


@dataclass(frozen=True, slots=True)
class DavServer:
    """A running server. ``url`` ends with a slash; ``auth`` may do everything."""

    url: str
    auth: tuple[str, str] | None

    @property
    def port(self) -> int:
        return int(httpx.URL(self.url).port or 80)

    @property
    def path(self) -> str:
        """Where at the server CalDAV begins."""
        return httpx.URL(self.url).path

    def request(self, method: str, path: str, content: str = "", **headers: str) -> httpx.Response:
        """Do something behind everybody's back."""
        with httpx.Client(
            auth=self.auth, trust_env=False, base_url=httpx.URL(self.url).join("/"), timeout=30
        ) as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.request(method, path, content=content.encode(), headers=named)

    def make_home(self, name: str) -> None:
        """Make the home of one of Radicale's users, which it would make itself at their first visit."""
        self.request("MKCOL", f"/{name}/").raise_for_status()

    def make_calendar(self, path: str, properties: str = "") -> str:
        """Make a calendar named as its last segment, in place of one that was left there; answers its path."""
        name = path.rstrip("/").rpartition("/")[2]
        body = (
            '<?xml version="1.0"?><C:mkcalendar xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav" '
            f'xmlns:I="http://apple.com/ns/ical/"><D:set><D:prop><D:displayname>{name}</D:displayname>{properties}</D:prop>'
            "</D:set></C:mkcalendar>"
        )
        answer = self.request("MKCALENDAR", path, body, content_type="application/xml")
        if answer.status_code in (405, 409):
            self.delete(path)
            answer = self.request("MKCALENDAR", path, body, content_type="application/xml")
        answer.raise_for_status()
        return path

    def put(self, path: str, text: str) -> None:
        """Put a resource, in place of the one there."""
        self.request("PUT", path, text, content_type="text/calendar; charset=utf-8").raise_for_status()

    def get(self, path: str) -> str | None:
        """The text of a resource; None if it is not there."""
        answer = self.request("GET", path)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.text

    def delete(self, path: str) -> None:
        """Take a resource or a calendar away."""
        self.request("DELETE", path).raise_for_status()


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that somebody else runs, with an account for tests."""

    server: DavServer
    home: str
    username: str
    password: str


def own_server() -> OwnServer | None:
    """The server that the environment names, see the module; None if it names none. Raises ``ValueError``."""
    told = [os.environ.get(f"DAV_{name}", "") for name in ("URL", "HOME", "LOGIN")]
    url, home, login = told
    if not any(told):
        return None
    username, colon, password = login.partition(":")
    if not (
        httpx.URL(url).host in ("127.0.0.1", "localhost") and url.startswith("http:") and home[-1:] == "/" and colon
    ):
        raise ValueError(
            "DAV_URL must be http://127.0.0.1:PORT/…, for faults are put between; DAV_HOME a path that "
            "ends with a slash, DAV_LOGIN name:password."
        )
    return OwnServer(DavServer(url, (username, password)), home, username, password)


@contextlib.contextmanager
def radicale(folder: Path, users: Mapping[str, str]) -> Iterator[DavServer]:
    """Radicale with these users and their passwords, and an administrator."""
    folder.mkdir(parents=True, exist_ok=True)
    everybody = {**users, ADMIN: ADMIN_PASSWORD}
    (folder / "users").write_text("".join(f"{name}:{password}\n" for name, password in everybody.items()))
    (folder / "rights").write_text(_RIGHTS)
    port = free_port()
    (folder / "config").write_text(
        f"[server]\nhosts = 127.0.0.1:{port}\n"
        f"[auth]\ntype = htpasswd\nhtpasswd_filename = {folder / 'users'}\nhtpasswd_encryption = plain\ndelay = 0\n"
        f"[storage]\nfilesystem_folder = {folder / 'collections'}\n"
        f"[rights]\ntype = from_file\nfile = {folder / 'rights'}\n"
    )
    arguments = [sys.executable, "-m", "radicale", "--config", str(folder / "config")]
    with _running(arguments, folder / "log", port):
        yield DavServer(f"http://127.0.0.1:{port}/", (ADMIN, ADMIN_PASSWORD))


@contextlib.contextmanager
def xandikos(folder: Path) -> Iterator[DavServer]:
    """Xandikos with its one user, who has the calendar ``/user/calendars/calendar/``."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    arguments = [sys.executable, "-m", "xandikos", "serve", "--no-detect-systemd", "--defaults"]
    arguments += ["-d", str(folder / "data"), "--state-dir", str(folder / "state"), "-l", "127.0.0.1", "-p", str(port)]
    with _running(arguments, folder / "log", port):
        yield DavServer(f"http://127.0.0.1:{port}/", None)


@contextlib.contextmanager
def _running(arguments: list[str], log: Path, port: int) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, env=dict(os.environ), stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=log.parent
        )
    try:
        until = time.monotonic() + START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"{arguments[2]} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
