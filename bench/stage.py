"""What is measured, set up: a CalDAV server, the service on a database of its own, connections, and the load beside it."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import itertools
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.figures import BenchError
from bench.load import NUMBER, Load, Sample
from bench.server import ECHO, echo_request
from calendar_client import CalendarClient
from calendars.v1 import availability_pb2, booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local

GET_BUSY = "/calendars.v1.CalendarService/GetBusy"
SYNC_BOOKING = "/calendars.v1.CalendarService/SyncBooking"
HOUR_S = 3600
WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Told:
    """What the CalDAV server tells about itself: requests so far per method, and how many wait now."""

    requests: dict[str, int]
    waiting: int


@dataclass(frozen=True, slots=True)
class Dav:
    """The CalDAV server that the service reads from."""

    port: int
    base: datetime.datetime

    def delay(self, seconds: float) -> None:
        """Let it think so long before every answer from now on."""
        self._control({"delay_s": seconds})

    def forget(self) -> None:
        """Take out what was put there."""
        self._control({"forget": True})

    def requests(self) -> int:
        """How many requests it has had."""
        return sum(self._control().requests.values())

    def waiting(self) -> int:
        """How many wait for their answer at this moment."""
        return self._control().waiting

    def _control(self, what: dict[str, object] | None = None) -> Told:
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            line.request("GET" if what is None else "POST", "/control", json.dumps(what or {}))
            return Told(**json.loads(line.getresponse().read()))
        finally:
            line.close()


@contextlib.contextmanager
def caldav(folder: Path) -> Iterator[Dav]:
    """The CalDAV server, its events beginning with this hour."""
    base = datetime.datetime.now(datetime.UTC).replace(minute=0, second=0, microsecond=0)
    port = local.free_port()
    arguments = [sys.executable, "-m", "bench.caldav_server", str(port), base.isoformat()]
    with local.running(arguments, os.environ, folder / "caldav.log"):
        until(lambda: _listens(port), "the CalDAV server did not start")
        yield Dav(port, base)


@dataclass(frozen=True, slots=True)
class Stage:
    """A running service with its settings and key."""

    settings: Mapping[str, str]
    api_key: str
    dav: Dav
    pid: int

    @property
    def address(self) -> str:
        return self.settings["CALENDAR_GRPC_ADDRESS"]

    def client(self) -> CalendarClient:
        return CalendarClient(self.address, api_key=self.api_key, timeout_s=60)

    def load(self) -> Load:
        return Load(self.address, self.api_key)

    def connect(self, kind: str, count: int, start: int = 0) -> list[str]:
        """Connect the calendars ``kind-start`` … and answer the ids."""
        self.dav.delay(0)
        with self.client() as client, ThreadPoolExecutor(4) as threads:
            return list(
                threads.map(
                    lambda n: (
                        client.connect_caldav(
                            preset="custom",
                            username=f"{kind}-{n}",
                            password="x",
                            server_url=f"http://127.0.0.1:{self.dav.port}/",
                        ).id
                    ),
                    range(start, start + count),
                )
            )

    def echo_beside(self, load: Load, name: str, path: str, requests: Sequence[bytes]) -> None:
        """Prepare the calls and, as ``echo NAME``, an echo with as many bytes each way."""
        load.prepare(name, path, requests)
        size = load.run(name, calls=1).answer_bytes
        load.prepare(f"echo {name}", ECHO, [echo_request(size, like=requests[0])])


@contextlib.contextmanager
def service(
    settings: Mapping[str, str], dav: Dav, folder: Path, *, echo: bool = True, worker: bool = True
) -> Iterator[Stage]:
    """The service up to SERVING. Without ``echo`` it is exactly `calendar-server serve`."""
    log = folder / f"service-{secrets.token_hex(3)}.log"
    program = ["bench.server"] if echo else ["calendar_server", "serve"]
    arguments = [sys.executable, "-m", *program, *([] if worker else ["--no-worker"])]
    key = local.create_api_key(settings, "bench")
    with local.running(arguments, local.environment(settings), log) as process:
        local.wait_serving(settings["CALENDAR_GRPC_ADDRESS"], process, log)
        yield Stage(settings, key, dav, process.pid)


def settings_for(database_url: str, **more: str) -> dict[str, str]:
    """Settings of a service on free ports of this machine."""
    return {
        "CALENDAR_DATABASE_URL": database_url,
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
        "CALENDAR_MASTER_KEYS": f"k1:{base64.b64encode(bytes(range(32))).decode()}",
        **more,
    }


def sqlite(folder: Path) -> str:
    """The URL of a new SQLite database."""
    return f"sqlite:///{folder / f'calendar-{secrets.token_hex(3)}.db'}"


@contextlib.contextmanager
def postgres() -> Iterator[Callable[[], str]]:
    """A Postgres that syncs to disk; gives URLs of new databases. Raises ``NoPostgres`` where none can be had."""
    from tests.fakes.postgres import find_postgres

    server = find_postgres(durable=True)
    made: list[str] = []

    def database() -> str:
        made.append(server.database())
        return server.url(made[-1])

    try:
        yield database
    finally:
        for name in made:
            server.drop(name)
        server.stop()


def busy_request(
    ids: Sequence[str], start: datetime.datetime, days: int, *, staleness_s: int, shift_s: tuple[int, int] = (0, 0)
) -> bytes:
    """GetBusy of a window that begins at ``start``, its ends moved by so many seconds."""
    request = pb.GetBusyRequest(connection_ids=ids)
    request.start_time.FromDatetime(start + datetime.timedelta(seconds=shift_s[0]))
    request.end_time.FromDatetime(start + datetime.timedelta(days=days, seconds=shift_s[1]))
    request.max_staleness.seconds = staleness_s
    return request.SerializeToString()


def varied(ids: Sequence[str], start: datetime.datetime, days: int, *, count: int = 20_000) -> list[bytes]:
    """GetBusy of windows that differ by seconds, so that no kept answer serves the next call."""
    side = int(count**0.5) + 1
    shifts = itertools.islice(itertools.product(range(side), range(side)), count)
    return [busy_request(ids, start, days, staleness_s=24 * HOUR_S, shift_s=shift) for shift in shifts]


def booking_requests(ids: Sequence[str], start: datetime.datetime) -> list[bytes]:
    """A new booking with every call, in turn for each of the connections; to be answered at once."""
    found = []
    for connection_id in ids:
        request = pb.SyncBookingRequest(connection_ids=[connection_id])
        booking = request.booking
        booking.id, booking.revision = f"bench-{NUMBER.decode()}", 1
        booking.status = booking_pb2.BOOKING_STATUS_CONFIRMED
        booking.title, booking.time_zone = "Interview", "Europe/Berlin"
        booking.description = "With the whole team. Bring questions."
        booking.attendees.add(email="anna@example.org", name="Anna")
        booking.start_time.FromDatetime(start + datetime.timedelta(days=30))
        booking.end_time.FromDatetime(start + datetime.timedelta(days=30, minutes=45))
        request.wait.seconds = 0
        found.append(request.SerializeToString())
    return found


def side_by_side(
    load: Load, name: str, *, rounds: int, callers: int = 1, seconds: float = 0.0, calls: int = 0
) -> list[tuple[Sample, Sample]]:
    """Rounds of (the calls, their echo), one after the other in turns, so that the machine's noise meets both."""
    pairs = []
    for number in range(rounds):
        order = [name, f"echo {name}"] if number % 2 else [f"echo {name}", name]
        found = {which: load.run(which, callers=callers, seconds=seconds, calls=calls) for which in order}
        pairs.append((found[name], found[f"echo {name}"]))
    return pairs


def intervals_of(stage: Stage, request: bytes) -> int:
    """How many busy intervals an answer has. Raises ``BenchError`` unless all is known."""
    with stage.client() as client:
        asked = pb.GetBusyRequest.FromString(request)
        answer = client.get_busy(
            start=asked.start_time.ToDatetime(datetime.UTC),
            end=asked.end_time.ToDatetime(datetime.UTC),
            connection_ids=list(asked.connection_ids),
            max_staleness=asked.max_staleness.ToTimedelta(),
        )
    fresh = all(calendar.state == availability_pb2.BUSY_STATE_FRESH for calendar in answer.calendars)
    if not answer.complete or not fresh:
        raise BenchError("not all calendars are known")
    return len(answer.busy)


def until(holds: Callable[[], bool], otherwise: str, pause_s: float = 0.02) -> None:
    """Wait for a condition. Raises ``BenchError`` when it does not come."""
    ends_at = time.monotonic() + WAIT_S
    while not holds():
        if time.monotonic() > ends_at:
            raise BenchError(otherwise)
        time.sleep(pause_s)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
