"""Secrets are planted everywhere and looked for everywhere: none is found outside the seal.

A whole journey with all providers, with failures, at the most talkative log level. Then everything that the service leaves
behind is searched for each secret, in every form that it may have taken.
"""

from __future__ import annotations

import base64
import re
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import grpc
import httpx
import psutil
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import Person, Running, Stub, at, busy_request, serving, span, sqlite_settings, stamp
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.postgres import OwnPostgres, Postgres, find_postgres

LANDING = "https://app.example.org/connected"
PIECE = 12
"""Characters of a secret that nobody may see in a row."""
LEAST = 40


@dataclass
class Canaries:
    """The secrets, by what they are."""

    planted: dict[str, str] = field(default_factory=dict)

    def new(self, what: str) -> str:
        """A secret that occurs nowhere else."""
        return self.keep(what, f"{what.replace(' ', '')[:6]}{secrets.token_hex(14)}")

    def keep(self, what: str, text: str) -> str:
        self.planted[f"{what} {len(self.planted)}"] = text
        return text

    def found(self, held: bytes) -> list[str]:
        """Which of them these bytes hold, whole or in part, as they are or encoded."""
        return [what for what, text in self.planted.items() if any(form in held for form in forms(text))]


def forms(text: str) -> set[bytes]:
    """Every piece of a secret in every form that it may have taken."""
    raw = text.encode()
    pieces = {raw[at : at + PIECE] for at in range(0, max(1, len(raw) - PIECE + 1), 4)} | {raw[-PIECE:]}
    made = {text.encode("utf-16-le"), raw.hex().encode(), quote(text, safe="").encode()}
    for shift in range(3):
        # Base64 depends on what stands before; its ends on what is beside.
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            made.add(encode(b"x" * shift + raw)[4:-4])
    return pieces | {form for form in made if len(form) >= PIECE}


class Urls:
    """Where a journey's secrets pass by: the values of queries."""

    def __init__(self, canaries: Canaries):
        self._canaries = canaries

    def keep(self, url: str, *names: str) -> str:
        for name, value in parse_qsl(urlsplit(url).query):
            if name in names:
                self._canaries.keep(name, value)
        return url


@dataclass(frozen=True)
class Stored:
    """A database, and how to get at everything that it holds: while it is worked with, and afterwards."""

    url: str
    dump: Callable[[], bytes]
    remains: Callable[[], bytes]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stored]:
    if request.param == "sqlite":
        path = tmp_path / "calendar.db"
        yield Stored(f"sqlite:///{path}", lambda: files_of(path), lambda: files_of(path))
        return
    server = find_postgres()
    name = server.database()
    url = server.url(name)
    # Of a server that somebody else runs the files may be anywhere, and hold anything.
    own = isinstance(server, OwnPostgres)
    yield Stored(url, lambda: rows(url), lambda: rows(url) + (raw_files(server, name) if own else b""))
    server.stop()


def files_of(path: Path) -> bytes:
    """SQLite's files with WAL, byte by byte."""
    return b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*") if each.suffix != ".key")


def raw_files(server: Postgres, database: str) -> bytes:
    """What Postgres has on disk: the files of this database, and all that it shares with others, with the WAL."""
    server.execute("CHECKPOINT")
    [[folder]] = server.execute("SHOW data_directory")
    [[number]] = server.execute(f"SELECT oid FROM pg_database WHERE datname = '{database}'")
    held = bytearray()
    for path in Path(str(folder)).rglob("*"):
        place = path.relative_to(str(folder)).parts
        if path.is_file() and (place[0] != "base" or place[1] == str(number)):
            # Most of it has never been written to.
            held += re.sub(rb"\x00{16,}", b"\0", path.read_bytes())
    return bytes(held)


def rows(database_url: str) -> bytes:
    """Every row of Postgres, bytes decoded."""
    held = bytearray()
    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (table,) in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"').fetchall():
                for value in row:
                    held += (bytes(value) if isinstance(value, (bytes, memoryview)) else str(value).encode()) + b"\n"
    return bytes(held)


def command_lines(process: psutil.Process) -> bytes:
    return b"\n".join(
        Path(f"/proc/{each.pid}/cmdline").read_bytes() for each in (process, *process.children(recursive=True))
    )


def family(running: Running) -> list[psutil.Process]:
    """The server, its worker, and what both have started."""
    root = psutil.Process(running.process.pid)
    return [root, *root.children(recursive=True)]


def readers(running: Running) -> list[psutil.Process]:
    """The children that read calendar text."""
    return [each for each in family(running) if "multiprocessing.spawn" in " ".join(each.cmdline())]


def environments(processes: list[psutil.Process]) -> bytes:
    """What these processes were given. Who may not look into them finds nothing, and that is as well."""
    held = b""
    for each in processes:
        try:
            held += Path(f"/proc/{each.pid}/environ").read_bytes()
        except PermissionError:
            continue
    return held


def core_limit(process: psutil.Process) -> list[str]:
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    return next(line for line in limits if line.startswith("Max core file size")).split()[4:6]


def reflected(address: str) -> bytes:
    """All that reflection tells: the names of services, and the files of each."""
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    held = b""
    with grpc.insecure_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [answer] = stub.ServerReflectionInfo(iter(requests), timeout=30)
        names = [service.name for service in answer.list_services_response.service]
        assert "calendars.v1.CalendarService" in names
        asked = [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in names]
        for each in (answer, *stub.ServerReflectionInfo(iter(asked), timeout=30)):
            held += each.SerializeToString()
    return held


def shown(call: object) -> bytes:
    """What an error tells, with all of its metadata."""
    with pytest.raises(grpc.RpcError) as raised:
        call()  # type: ignore[operator]
    error = raised.value
    held = f"{error.code()} {error.details()}".encode()
    return held + b"".join(
        value if isinstance(value, bytes) else value.encode() for _, value in error.trailing_metadata() or ()
    )


def secret_booking(canaries: Canaries, name: str, hour: float) -> booking_pb2.Booking:
    return booking_pb2.Booking(
        id=name,
        revision=1,
        status=booking_pb2.BOOKING_STATUS_CONFIRMED,
        title=canaries.new("title"),
        description=canaries.new("description"),
        location=canaries.new("location"),
        url=f"https://example.org/{canaries.new('link')}",
        attendees=[
            booking_pb2.Attendee(email=f"{canaries.new('guest')}@example.org", name=canaries.new("guestname"))
            for _ in range(2)
        ],
        start_time=stamp(at(hour)),
        end_time=stamp(at(hour + 1)),
    )


def environment(database: str, google: GoogleFake, microsoft: MicrosoftFake, master: str) -> dict[str, str]:
    made = {
        "CALENDAR_DATABASE_URL": database,
        "CALENDAR_MASTER_KEYS": f"k1:{master}",
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
        "CALENDAR_HTTP_API": "1",
        "CALENDAR_REFLECTION": "1",
        "CALENDAR_LOG_LEVEL": "debug",
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
        "CALENDAR_REDIRECT_URIS": LANDING,
    }
    made["CALENDAR_PUBLIC_URL"] = f"http://{made['CALENDAR_HTTP_ADDRESS']}"
    google.accounts.redirect_uris.add(f"{made['CALENDAR_PUBLIC_URL']}/oauth/google/callback")
    microsoft.entra.redirect_uris.add(f"{made['CALENDAR_PUBLIC_URL']}/oauth/microsoft/callback")
    return made


def connect_all(
    running: Running, stub: Stub, person: Person, google: GoogleFake, microsoft: MicrosoftFake, canaries: Canaries
) -> list[str]:
    """One account at each provider; a secret in an event of each."""
    urls = Urls(canaries)
    calendar = person.make_calendar()
    person.put(
        calendar, "a", f"{span(at(9), at(10))}\nSUMMARY:{canaries.new('event')}\nLOCATION:{canaries.new('place')}"
    )
    ids = [stub.connect(person).id]
    on_google, on_microsoft = google.add_user("gina"), microsoft.add_user("mona")
    on_google.primary.add(at(9), at(10), summary=canaries.new("event"), description=canaries.new("text"))
    on_microsoft.mailbox.add(at(9).replace(tzinfo=None), at(10).replace(tzinfo=None), subject=canaries.new("event"))
    for request, consent, name in (
        (pb.ConnectRequest(google={"redirect_uri": LANDING}), google.accounts.consent, "gina"),
        (pb.ConnectRequest(microsoft={"redirect_uri": LANDING}), microsoft.entra.consent, "mona"),
    ):
        url = urls.keep(stub("Connect", request).authorization_url, "state")  # type: ignore[attr-defined]
        back = urls.keep(consent(url, name), "code")
        answer = httpx.get(back, trust_env=False, follow_redirects=False)
        told = parse_qs(urlsplit(answer.headers["location"]).query)
        assert told["connected"] == ["true"], told
        ids.append(told["connection_id"][0])
        # A code that comes a second time is refused, and told to nobody.
        assert canaries.found(httpx.get(back, trust_env=False).content) == []
    return ids


def fail_everywhere(running: Running, stub: Stub, person: Person, canaries: Canaries, dav_id: str) -> bytes:
    """Calls that go wrong with secrets in them; all that they tell."""
    account = {"preset": "CALDAV_PRESET_CUSTOM", "username": person.name, "server_url": person.url}
    wrong = dict(account, password=canaries.new("password"))
    held = shown(lambda: stub("Connect", pb.ConnectRequest(caldav=wrong)))
    inside = dict(account, password=canaries.new("password"), server_url="https://10.0.0.1/")
    held += shown(lambda: stub("Connect", pb.ConnectRequest(caldav=inside)))
    bad = secret_booking(canaries, "bad", 12)
    bad.time_zone = canaries.new("zone")
    held += shown(lambda: stub("SyncBooking", pb.SyncBookingRequest(booking=bad, connection_ids=[dav_id])))
    unknown = f"calkey_{secrets.token_hex(8)}_{canaries.keep('unknown key', secrets.token_hex(32))}"
    other = Stub(running.address, unknown)
    held += shown(lambda: other("List", pb.ListRequest()))
    other.close()
    with httpx.Client(base_url=running.http, trust_env=False) as client:
        body = dict(account, password=canaries.new("password"), preset="none")
        held += client.post("/v1/calendars/caldav/connect", json=body, headers={"authorization": "Bearer x"}).content
        held += client.get(f"/oauth/google/callback?code={canaries.new('code')}&state={canaries.new('state')}").content
        held += client.post(
            "/webhooks/google",
            headers={
                "X-Goog-Channel-ID": "c",
                "X-Goog-Channel-Token": canaries.new("token"),
                "X-Goog-Resource-State": "x",
            },
        ).content
        held += client.post(
            "/webhooks/microsoft", json={"value": [{"subscriptionId": "s", "clientState": canaries.new("state")}]}
        ).content
        held += client.get(f"/{canaries.new('path')}").content
        held += client.get("/metrics").content + client.get("/readyz").content + client.get("/v1/openapi.json").content
    return held


def keep_what_the_providers_know(google: GoogleFake, microsoft: MicrosoftFake, canaries: Canaries) -> None:
    """Client secrets, verifiers, tokens, and the secrets of watches, as the providers saw them."""
    canaries.keep("client secret", google.accounts.client_secret)
    canaries.keep("client secret", microsoft.entra.client_secret)
    for form in (*microsoft.entra.token_requests, *google.accounts.token_requests):
        for name in ("code_verifier", "refresh_token"):
            if name in form:
                canaries.keep(name, form[name])
    for token in (*microsoft.entra._access, *microsoft.entra._refresh):
        canaries.keep("token", token)


@pytest.mark.timeout(240)
def test_no_secret_is_found_anywhere(database: Stored, person: Person, tmp_path: Path) -> None:
    canaries = Canaries()
    canaries.keep("caldav password", person.password)
    master = base64.b64encode(secrets.token_bytes(32)).decode()
    canaries.keep("master key", master)
    with GoogleFake() as google, MicrosoftFake() as microsoft:
        settings = environment(database.url, google, microsoft, master)
        with serving(settings, tmp_path) as running:
            key = running.key()
            canaries.keep("api key", key.split("_")[2])
            stub = Stub(running.address, key)
            ids = connect_all(running, stub, person, google, microsoft, canaries)
            assert stub("GetBusy", busy_request(*ids)).complete  # type: ignore[attr-defined]
            for number, connection_id in enumerate(ids):
                request = pb.SyncBookingRequest(
                    booking=secret_booking(canaries, f"b{number}", 11 + number),
                    connection_ids=[connection_id],
                    wait=Duration(seconds=20),
                )
                answer = stub("SyncBooking", request)
                assert [event.state for event in answer.events] == [booking_pb2.BOOKING_EVENT_STATE_SYNCED]  # type: ignore[attr-defined]
            held = fail_everywhere(running, stub, person, canaries, ids[0])
            explained = busy_request(*ids, view="BUSY_VIEW_EXPLAINED")
            held += stub("GetBusy", explained).SerializeToString()  # type: ignore[attr-defined]
            held += stub("List", pb.ListRequest()).SerializeToString()  # type: ignore[attr-defined]
            # Grants that end, and are renewed.
            microsoft.entra.end_access_tokens()
            assert stub("GetBusy", busy_request(ids[2])).complete  # type: ignore[attr-defined]
            keep_what_the_providers_know(google, microsoft, canaries)
            held += reflected(running.address)
            # What `ps` shows anybody. The environment, which holds what it was given, is root's alone (threat-model.md);
            # the children that read calendars are given nothing.
            listed = command_lines(psutil.Process(running.process.pid))
            assert b"calendar_server\0serve" in listed
            inherited = environments(readers(running))
            for each in family(running):
                assert core_limit(each) == ["0", "0"], each.cmdline()
            while_it_runs = database.dump()
            if database.url.startswith("sqlite"):
                assert (tmp_path / "calendar.db-wal").stat().st_size
            stub("Disconnect", pb.DisconnectRequest(id=ids[1]))
            stub.close()
    log = running.log.read_bytes()
    assert len(canaries.planted) >= LEAST
    assert b'"call"' in log
    assert b"cal_" in while_it_runs
    places = {"answers": held, "database": while_it_runs, "remains": database.remains(), "log": log}
    assert ids[0].encode() in places["remains"]
    for place, there in (places | {"listing": listed, "children": inherited}).items():
        assert canaries.found(there) == [], place


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and core dumps are off by Linux's own means")
@pytest.mark.timeout(240)
def test_what_dies_tells_no_secret(person: Person, tmp_path: Path) -> None:
    """A child, the worker and the server end in the worst way, each asked for a report of its death."""
    canaries = Canaries()
    canaries.keep("caldav password", person.password)
    master = base64.b64encode(secrets.token_bytes(32)).decode()
    canaries.keep("master key", master)
    settings = sqlite_settings(tmp_path, CALENDAR_MASTER_KEYS=f"k1:{master}", CALENDAR_LOG_LEVEL="debug")
    # Python tells on standard error where it was when it is aborted.
    with serving({**settings, "PYTHONFAULTHANDLER": "1"}, tmp_path) as running:
        key = running.key()
        canaries.keep("api key", key.split("_")[2])
        stub = Stub(running.address, key)
        calendar = person.make_calendar()
        person.put(calendar, "a", f"{span(at(9), at(10))}\nSUMMARY:{canaries.new('event')}")
        connection = stub.connect(person)
        assert stub("GetBusy", busy_request(connection.id)).complete  # type: ignore[attr-defined]
        request = pb.SyncBookingRequest(booking=secret_booking(canaries, "b", 11), connection_ids=[connection.id])
        stub("SyncBooking", request)
        assert readers(running)
        workers = [each for each in family(running) if "worker" in each.cmdline()]
        assert len(workers) == 1
        for deaths, each in enumerate((*readers(running)[:1], *workers, family(running)[0])):
            assert core_limit(each) == ["0", "0"]
            each.send_signal(signal.SIGABRT)
            # Python writes its report piece by piece, and the others write into the same file.
            until(lambda before=deaths: running.log.read_bytes().count(b"Fatal Python error: ") > before)  # type: ignore[misc]
        stub.close()
        running.process.wait(30)
    log = running.log.read_bytes()
    assert b"Current thread" in log
    assert canaries.found(log) == []
    assert not [path for folder in (tmp_path, Path.cwd()) for path in folder.glob("core*")]


def until(true: Callable[[], bool]) -> None:
    """Wait for the world outside of this process."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_search_finds_what_is_there() -> None:
    """Each form of a secret is found, also from its middle: the test above can fail."""
    canaries = Canaries()
    secret = canaries.new("title")
    raw = secret.encode()
    for held in (
        raw,
        raw[8:24],
        b"a" + base64.b64encode(b"pq" + raw + b"z"),
        base64.urlsafe_b64encode(b"p" + raw),
        secret.encode("utf-16-le"),
        raw.hex().encode(),
    ):
        assert canaries.found(b"before " + held + b" after") == ["title 0"], held
    assert canaries.found(raw[:8] + b"-" + raw[-8:]) == []
