"""A whole service and real CalDAV servers on loopback, each started for these tests and stopped by its own process id."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import calendar_service_pb2_grpc as rpc
from calendars.v1 import connection_pb2
from deploy import local

PASSWORD = "a long password of anna's"
USERS = {"typescript": PASSWORD, **{f"user{number}": PASSWORD for number in range(200)}}
_users = itertools.count()


@pytest.fixture(scope="session")
def radicale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real CalDAV server."""
    with local.radicale(tmp_path_factory.mktemp("radicale"), USERS) as url:
        yield url


@dataclass
class Person:
    """Somebody with an account and calendars at the CalDAV server, seen from the server's side."""

    url: str
    name: str
    calendars: dict[str, str] = field(default_factory=dict)

    @property
    def password(self) -> str:
        return PASSWORD

    def dav(self) -> httpx.Client:
        return httpx.Client(auth=(self.name, PASSWORD), trust_env=False, base_url=self.url)

    def make_calendar(self, name: str = "work") -> str:
        """Make a calendar; answers its path."""
        path = f"/{self.name}/{name}/"
        with self.dav() as client:
            client.request("MKCALENDAR", path).raise_for_status()
        return path

    def put(self, calendar: str, name: str, lines: str) -> str:
        """Put an event with these lines; answers its path."""
        text = (
            "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//tests//EN\nBEGIN:VEVENT\n"
            f"UID:{name}\nDTSTAMP:20260101T000000Z\n{lines}\nEND:VEVENT\nEND:VCALENDAR\n"
        )
        path = f"{calendar}{name}.ics"
        with self.dav() as client:
            client.put(path, content=text.replace("\n", "\r\n").encode()).raise_for_status()
        return path

    def get(self, path: str) -> str | None:
        """The text of an event; None when it is not there."""
        with self.dav() as client:
            answer = client.get(path)
        return None if answer.status_code == 404 else answer.raise_for_status().text

    def delete(self, path: str) -> None:
        with self.dav() as client:
            client.delete(path).raise_for_status()

    def events(self, calendar: str) -> list[str]:
        """The paths of all events in a calendar."""
        with self.dav() as client:
            answer = client.request("PROPFIND", calendar, headers={"Depth": "1"})
        paths = [part.split("</href>")[0] for part in answer.text.split("<href>")[1:]]
        return sorted({path for path in paths if path.endswith(".ics")})


@pytest.fixture
def person(radicale: str) -> Person:
    """Somebody new, without a calendar yet."""
    return Person(radicale, f"user{next(_users)}")


@dataclass
class Running:
    """A running service."""

    settings: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> str:
        return self.settings["CALENDAR_GRPC_ADDRESS"]

    @property
    def http(self) -> str:
        return f"http://{self.settings['CALENDAR_HTTP_ADDRESS']}"

    def key(self, organization: str = "acme") -> str:
        return local.create_api_key(self.settings, organization)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `calendar-server` with this service's settings."""
        return subprocess.run(
            [sys.executable, "-m", "calendar_server", *arguments],
            env=local.environment(self.settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def sqlite_settings(folder: Path, **more: str) -> dict[str, str]:
    return {
        "CALENDAR_DATABASE_URL": f"sqlite:///{folder / 'calendar.db'}",
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
        "CALENDAR_REFLECTION": "1",
        **more,
    }


@contextlib.contextmanager
def serving(settings: dict[str, str], folder: Path) -> Iterator[Running]:
    """A service with these settings."""
    log = folder / "service.log"
    with local.service(settings, log) as process:
        yield Running(settings, process, log)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service on SQLite that many tests share, each with people of its own."""
    folder = tmp_path_factory.mktemp("service")
    with serving(sqlite_settings(folder), folder) as running:
        yield running


class Stub:
    """The generated stub with a key: what a caller in any language has."""

    def __init__(self, address: str, key: str):
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_metadata_size", 16384)])
        self._stub = rpc.CalendarServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {key}"),)

    def __call__(self, method: str, request: object, timeout: float = 30) -> object:
        return getattr(self._stub, method)(request, metadata=self._metadata, timeout=timeout)

    def code(self, method: str, request: object) -> grpc.StatusCode:
        """How a call ends."""
        try:
            self(method, request)
        except grpc.RpcError as error:
            return error.code()  # type: ignore[no-any-return]
        return grpc.StatusCode.OK

    def close(self) -> None:
        self._channel.close()

    def connect(self, person: Person, **changes: str) -> connection_pb2.Connection:
        """Connect a person's account."""
        account = {"username": person.name, "password": person.password, "server_url": person.url}
        account.update({name: value for name, value in changes.items() if name in account})
        request = pb.ConnectRequest(
            caldav=connection_pb2.CaldavAccount(preset=connection_pb2.CALDAV_PRESET_CUSTOM, **account),
            **{name: value for name, value in changes.items() if name not in account},
        )
        return self("Connect", request).connection  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="session")
def shared_stub(service: Running) -> Iterator[Stub]:
    stub = Stub(service.address, service.key())
    yield stub
    stub.close()


@pytest.fixture
def stub(shared_stub: Stub) -> Stub:
    """A caller of the shared service, of the organization `acme`."""
    return shared_stub


@pytest.fixture(scope="session")
def other_stub(service: Running) -> Iterator[Stub]:
    """A caller of another organization."""
    stub = Stub(service.address, service.key("other"))
    yield stub
    stub.close()


TOMORROW = datetime.datetime.now(datetime.UTC).replace(hour=0, minute=0, second=0, microsecond=0) + datetime.timedelta(
    1
)


def at(hours: float, day: int = 0) -> datetime.datetime:
    """A moment of tomorrow (or ``day`` days after) in UTC."""
    return TOMORROW + datetime.timedelta(days=day, hours=hours)


def stamp(moment: datetime.datetime) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(moment.astimezone(datetime.UTC).replace(tzinfo=None))
    return made


def ical(moment: datetime.datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%SZ")


def span(start: datetime.datetime, end: datetime.datetime) -> str:
    """DTSTART and DTEND lines."""
    return f"DTSTART:{ical(start)}\nDTEND:{ical(end)}"


def intervals(busy: object) -> list[tuple[datetime.datetime, datetime.datetime]]:
    return [
        (i.start_time.ToDatetime(datetime.UTC), i.end_time.ToDatetime(datetime.UTC))
        for i in busy  # type: ignore[attr-defined]
    ]


def error_info(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    """The one ErrorInfo that every error carries."""
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    assert status is not None
    assert sum(detail.Unpack(info) for detail in status.details) == 1
    assert info.domain == "calendars.v1"
    return info


def busy_request(*ids: str, days: int = 1, **more: object) -> pb.GetBusyRequest:
    """GetBusy over tomorrow and ``days`` − 1 more, by reads that begin now unless told otherwise."""
    return pb.GetBusyRequest(
        connection_ids=ids,
        start_time=stamp(at(0)),
        end_time=stamp(at(0, day=days)),
        **{"max_staleness": Duration(), **more},  # type: ignore[arg-type]
    )


def pytest_configure() -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
