"""What chaos is let loose on: real processes, real calendars, callers who repeat what was not acknowledged.

The truth afterwards is what the calendars hold, read behind the back of the service: Radicale's own files, and the stores
of the fakes of Google and Microsoft. Every title is ``<booking> r<revision>``.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

import httpx
import psutil

from calendar_client import CalendarClient
from calendar_client.errors import CalendarServiceError
from deploy import local
from tests.e2e.conftest import at
from tests.fakes.google import GoogleFake, GoogleUser
from tests.fakes.microsoft import GraphUser, MicrosoftFake
from tests.fakes.postgres import OwnPostgres

PASSWORD = "a long password of the owner's"
PEOPLE = {f"person{number}": PASSWORD for number in range(40)}
LANDING = "https://app.example.org/connected"
SETTLE_S = 180.0
"""Seconds within which everything has to be quiet; nothing is measured by it."""
_TITLE = re.compile(r"(b\d+) r(\d+)")

Entry = tuple[str, int, datetime.datetime]
"""An event of ours in a calendar: booking, revision, start."""


class Shelf(Protocol):
    """One person's calendar, seen from behind."""

    def entries(self) -> list[Entry]: ...


@dataclass(frozen=True)
class RadicaleShelf:
    """A folder of Radicale's."""

    folder: Path

    def entries(self) -> list[Entry]:
        found = []
        for path in self.folder.glob("*.ics"):
            try:
                text = path.read_text()
            except FileNotFoundError:
                continue  # replaced at this moment
            title = _TITLE.search(text)
            start = re.search(r"DTSTART:(\d{8}T\d{6}Z)", text)
            assert title, text
            assert start, text
            moment = datetime.datetime.strptime(start[1], "%Y%m%dT%H%M%S%z")
            found.append((title[1], int(title[2]), moment))
        return found


@dataclass(frozen=True)
class GoogleShelf:
    user: GoogleUser

    def entries(self) -> list[Entry]:
        found = []
        for event in list(self.user.primary.events.values()):
            if event.get("status") == "cancelled":
                continue
            title, start = _TITLE.search(str(event["summary"])), event["start"]
            assert title
            assert isinstance(start, dict)
            moment = datetime.datetime.fromisoformat(str(start["dateTime"]))
            found.append((title[1], int(title[2]), moment.astimezone(datetime.UTC)))
        return found


@dataclass(frozen=True)
class MicrosoftShelf:
    user: GraphUser

    def entries(self) -> list[Entry]:
        mailbox = self.user.mailbox
        found = []
        for calendar_id in list(mailbox.calendars):
            for event in mailbox.listed(calendar_id):
                title = _TITLE.search(str(event.members["subject"]))
                assert title
                found.append((title[1], int(title[2]), event.when.start.replace(tzinfo=datetime.UTC)))
        return found


@dataclass
class Radicale:
    """A running Radicale with calendars for its people."""

    url: str
    folder: Path

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port
        return port

    def make(self, person: str) -> RadicaleShelf:
        """Make the person's calendar."""
        with httpx.Client(auth=(person, PASSWORD), trust_env=False) as client:
            client.request("MKCALENDAR", f"{self.url}{person}/work/").raise_for_status()
        return RadicaleShelf(self.folder / "collections" / "collection-root" / person / "work")


@contextlib.contextmanager
def radicale(folder: Path) -> Iterator[Radicale]:
    with local.radicale(folder, PEOPLE) as url:
        yield Radicale(url, folder)


@dataclass
class Service:
    """The service's processes, each stopped by its own id at the end."""

    folder: Path
    settings: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return self.settings["CALENDAR_GRPC_ADDRESS"]

    def run(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Begin `calendar-server` with these arguments and further settings. ``stdin`` is a pipe, held by the test."""
        log = self.folder / f"{'-'.join(arguments)}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "calendar_server", *arguments],
                env=local.environment({**self.settings, **more}),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        return process

    def serve(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Begin a server and wait until it serves."""
        process = self.run("serve", *arguments, **more)
        address = {**self.settings, **more}["CALENDAR_GRPC_ADDRESS"]
        local.wait_serving(address, process, self.folder / f"{'-'.join(('serve', *arguments))}.log")
        return process

    def worker_of(self, server: subprocess.Popen[bytes]) -> psutil.Process | None:
        """The worker that a server has beside it at this moment."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(server.pid).children():
                with contextlib.suppress(psutil.Error):
                    if "worker" in child.cmdline():
                        return child
        return None

    def client(self, address: str = "", timeout_s: float | None = None) -> CalendarClient:
        return CalendarClient(address or self.address, api_key=self.key, plaintext=True, timeout_s=timeout_s)

    @property
    def key(self) -> str:
        path = self.folder / "api_key"
        if not path.exists():
            path.write_text(local.create_api_key(self.settings, "chaos"))
        return path.read_text()

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                # Whatever was stopped by a signal could not hear another one.
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self.processes:
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9, and see it dead."""
    process.kill()
    process.wait()


@contextlib.contextmanager
def service(folder: Path, database_url: str = "", **settings: str) -> Iterator[Service]:
    """A service with nothing running yet."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "CALENDAR_DATABASE_URL": database_url or f"sqlite:///{folder / 'calendar.db'}",
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_MASTER_KEYS": "k1:" + "C" * 43 + "=",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
        "CALENDAR_LEASE_S": "3",
        **settings,
    }
    made = Service(folder, values)
    try:
        yield made
    finally:
        made.stop()


def own_database(server: OwnPostgres, port: int | None = None) -> str:
    """The URL of a fresh database, through ``port`` where a proxy stands."""
    return server.tcp_url(server.database(), port)


@dataclass
class Calendars:
    """Connections of the service, and what is behind each."""

    shelves: dict[str, Shelf] = field(default_factory=dict)

    def connect_caldav(self, client: CalendarClient, behind: Radicale, person: str, url: str = "") -> str:
        """Connect a person's account, at ``url`` where something stands in front."""
        shelf = behind.make(person)
        connected = client.connect_caldav(
            preset="custom",
            username=person,
            password=PASSWORD,
            server_url=f"{url or behind.url}{person}/",
            owner=person,
        )
        self.shelves[connected.id] = shelf
        return connected.id

    def connect_google(self, client: CalendarClient, google: GoogleFake, person: str) -> str:
        user = google.add_user(person)
        back = google.accounts.consent(client.connect_google(redirect_uri=LANDING, owner=person), person)
        connection_id = _landed(back)
        self.shelves[connection_id] = GoogleShelf(user)
        return connection_id

    def connect_microsoft(self, client: CalendarClient, microsoft: MicrosoftFake, person: str) -> str:
        user = microsoft.add_user(person)
        back = microsoft.entra.consent(client.connect_microsoft(redirect_uri=LANDING, owner=person), person)
        connection_id = _landed(back)
        self.shelves[connection_id] = MicrosoftShelf(user)
        return connection_id


def _landed(back: str) -> str:
    answer = httpx.get(back, trust_env=False, follow_redirects=False, timeout=60)
    told = parse_qs(urlsplit(answer.headers["location"]).query)
    assert told["connected"] == ["true"], told
    return told["connection_id"][0]


def oauth_settings(google: GoogleFake, microsoft: MicrosoftFake, http_address: str) -> dict[str, str]:
    """Settings of a service whose Google and Microsoft are these."""
    public = f"http://{http_address}"
    google.accounts.redirect_uris.add(f"{public}/oauth/google/callback")
    microsoft.entra.redirect_uris.add(f"{public}/oauth/microsoft/callback")
    return {
        "CALENDAR_HTTP_ADDRESS": http_address,
        "CALENDAR_PUBLIC_URL": public,
        "CALENDAR_REDIRECT_URIS": LANDING,
        "CALENDAR_GOOGLE_CLIENT_ID": google.accounts.client_id,
        "CALENDAR_GOOGLE_CLIENT_SECRET": google.accounts.client_secret,
        "CALENDAR_GOOGLE_AUTHORIZE_URL": google.authorize_url,
        "CALENDAR_GOOGLE_TOKEN_URL": google.token_url,
        "CALENDAR_GOOGLE_REVOKE_URL": google.revoke_url,
        "CALENDAR_GOOGLE_USERINFO_URL": google.userinfo_url,
        "CALENDAR_GOOGLE_API_URL": google.api_url,
        "CALENDAR_MICROSOFT_CLIENT_ID": microsoft.entra.client_id,
        "CALENDAR_MICROSOFT_CLIENT_SECRET": microsoft.entra.client_secret,
        "CALENDAR_MICROSOFT_AUTHORIZE_URL": microsoft.authorize_url,
        "CALENDAR_MICROSOFT_TOKEN_URL": microsoft.token_url,
        "CALENDAR_MICROSOFT_GRAPH_URL": microsoft.graph_url,
    }


@dataclass(frozen=True)
class Accepted:
    """The newest acknowledged revision of a booking. ``start`` None: cancelled."""

    revision: int
    connection_id: str
    start: datetime.datetime | None


@dataclass
class Load:
    """Callers who make bookings, change and cancel them, each until it is acknowledged."""

    client: Callable[[], CalendarClient]
    connection_ids: list[str]
    rng: random.Random
    accepted: dict[str, Accepted] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """What was answered other than OK, after the standard retries."""
    refused: list[str] = field(default_factory=list)
    """Answers that no repetition mends: there must be none."""
    ended: threading.Event = field(default_factory=threading.Event)
    enough: threading.Event = field(default_factory=threading.Event)
    """Set, callers who go on make no further bookings."""
    _threads: list[threading.Thread] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def begin(
        self, *, bookings: int, callers: int = 8, revisions: int = 4, first: int = 0, goes_on: bool = False
    ) -> None:
        """Begin the calls; ``join`` waits for their end. ``goes_on``: with further bookings, slowly, until ``enough``."""
        if not goes_on:
            self.enough.set()
        self._numbers = itertools.count(first + bookings)
        plans: list[list[tuple[str, list[Accepted]]]] = [[] for _ in range(callers)]
        for number in range(first, first + bookings):
            plans[number % callers].append((f"b{number}", self._plan(number, revisions)))
        self._threads = [threading.Thread(target=self._call, args=(plan,), name="caller") for plan in plans]
        for thread in self._threads:
            thread.start()

    def _plan(self, number: int, revisions: int) -> list[Accepted]:
        """What becomes of one booking: moved, moved again, cancelled, made again."""
        connection_id = self.connection_ids[number % len(self.connection_ids)]
        plan = []
        for revision in range(1, self.rng.randint(1, revisions) + 1):
            start = at(number % 24, day=number // 24) + datetime.timedelta(minutes=self.rng.randrange(0, 60, 5))
            gone = revision > 1 and self.rng.random() < 0.3
            plan.append(Accepted(revision, connection_id, None if gone else start))
        return plan

    def _call(self, plan: list[tuple[str, list[Accepted]]]) -> None:
        with self.client() as client:
            # Revisions of one booking lie apart, so that others come between them.
            for turn in range(max((len(steps) for _, steps in plan), default=0)):
                for booking_id, steps in plan:
                    if turn < len(steps):
                        self._until_acknowledged(client, booking_id, steps[turn])
            while not self.enough.is_set():
                number = next(self._numbers)
                for step in self._plan(number, 2):
                    self._until_acknowledged(client, f"b{number}", step)
                    self.enough.wait(0.3)

    def _until_acknowledged(self, client: CalendarClient, booking_id: str, wanted: Accepted) -> None:
        while not self.ended.is_set():
            try:
                sync(client, booking_id, wanted)
            except CalendarServiceError as error:
                self.failures.append(f"{booking_id} r{wanted.revision}: {type(error).__name__} {error}")
                if error.reason not in ("", "STORE_UNAVAILABLE", "PROVIDER_UNAVAILABLE"):
                    self.refused.append(self.failures[-1])
                    return
                self.ended.wait(0.1)
            else:
                self.accepted[booking_id] = wanted
                return

    @property
    def running(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait until every call is acknowledged."""
        self.enough.set()
        until = time.monotonic() + SETTLE_S * 10
        for thread in self._threads:
            thread.join(max(0, until - time.monotonic()))
        self.ended.set()
        assert not self.running
        assert not self.refused, self.refused[:5]


def sync(client: CalendarClient, booking_id: str, wanted: Accepted, wait_s: float = 0) -> object:
    """Send one revision."""
    wait = datetime.timedelta(seconds=wait_s)
    if wanted.start is None:
        return client.sync_booking(booking_id, wanted.revision, status="cancelled", wait=wait)
    return client.sync_booking(
        booking_id,
        wanted.revision,
        title=f"{booking_id} r{wanted.revision}",
        start=wanted.start,
        end=wanted.start + datetime.timedelta(minutes=30),
        connection_ids=[wanted.connection_id],
        wait=wait,
    )


@dataclass(frozen=True)
class Verdict:
    """What the calendars hold against what was acknowledged."""

    lost: list[str]
    doubled: list[str]
    stale: list[str]
    zombies: list[str]

    def __bool__(self) -> bool:
        return not (self.lost or self.doubled or self.stale or self.zombies)

    def __str__(self) -> str:
        names = ("lost", "doubled", "stale", "zombies")
        return ", ".join(f"{name} {len(getattr(self, name))} {getattr(self, name)[:5]}" for name in names)


def judge(accepted: Mapping[str, Accepted], shelves: Mapping[str, Shelf]) -> Verdict:
    """Hold every calendar against the newest acknowledged revisions."""
    there: dict[str, list[tuple[str, int, datetime.datetime]]] = defaultdict(list)
    for connection_id, shelf in shelves.items():
        for booking_id, revision, start in shelf.entries():
            there[booking_id].append((connection_id, revision, start))
    verdict = Verdict([], [], [], [])
    for booking_id in sorted({*accepted, *there}):
        wanted, found = accepted.get(booking_id), there.get(booking_id, [])
        if wanted is None or wanted.start is None:
            verdict.zombies.extend(f"{booking_id} {each}" for each in found)
        elif not found:
            verdict.lost.append(f"{booking_id} {wanted}")
        elif len(found) > 1:
            verdict.doubled.append(f"{booking_id} {found}")
        elif found[0] != (wanted.connection_id, wanted.revision, wanted.start):
            verdict.stale.append(f"{booking_id} {found[0]} wanted {wanted}")
    return verdict


def settle(accepted: Mapping[str, Accepted], shelves: Mapping[str, Shelf], within_s: float = SETTLE_S) -> Verdict:
    """Wait until the calendars hold what was acknowledged; answers the last verdict.

    ``within_s``: seconds without anything more coming to the calendars. How long all of it takes is up to the CalDAV server,
    too: with thousands of events in one calendar Radicale takes a dozen new ones a second.
    """
    until, fewest = time.monotonic() + within_s, sys.maxsize
    while True:
        verdict = judge(accepted, shelves)
        if len(verdict.lost) < fewest:
            until, fewest = time.monotonic() + within_s, len(verdict.lost)
        if verdict or time.monotonic() > until:
            return verdict
        time.sleep(0.1)


def eventually(claim: Callable[[], object], within_s: float = SETTLE_S) -> bool:
    """Whether something becomes true in good time."""
    until = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def long_form() -> bool:
    """Whether `make chaos` runs this, and not `make test`."""
    return os.environ.get("CALENDAR_CHAOS") == "long"
