"""The doctor names what is wrong and what to do, for the installation and for single connections."""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from calendar_client.cli import cli
from calendar_server import app
from calendar_server.config import Config
from calendar_server.core.model import Connection, ConnectionId, Preset
from calendar_server.doctor import examine
from calendar_server.errors import ForbiddenDestination
from calendar_server.findings import REMEDIES, Finding
from calendar_server.health import ask
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.egress_probe import Fault
from calendar_server.store.store import Store
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import CaldavAccount, ConnectCommand
from calendar_server.usecases.diagnosis import _FAULTS, Diagnosis
from tests.e2e.conftest import Person, Running, Stub, at, serving, span, sqlite_settings
from tests.e2e.test_operation import eventually
from tests.fakes.strange_dav import PASSWORD, USERNAME, WORK, StrangeDav, strange_dav


@dataclass
class World:
    """A service's objects without its doors, and a CalDAV server that can be told to misbehave."""

    service: app.Service
    caller: Caller
    dav: StrangeDav

    def connect(self, preset: Preset = Preset.CUSTOM) -> Connection:
        account = CaldavAccount(preset, USERNAME, PASSWORD, self.dav.url)
        connected = self.service.connections.connect(self.caller, ConnectCommand(account))
        assert isinstance(connected, Connection)
        return connected

    def settle(self, connection: Connection, **changed: str) -> None:
        """Change what is stored of a connection's server."""
        settings = json.dumps({**connection.settings, **changed})
        self.service.store._database.execute(
            "UPDATE connections SET settings = ? WHERE id = ?", settings, connection.id
        )

    def examine(self, connection: Connection, **more: bool) -> dict[str, Finding]:
        findings = list(self.service.diagnosis.examine(connection.id, **more))
        assert len({finding.step for finding in findings}) == len(findings)
        return {finding.step: finding for finding in findings}

    def codes(self, connection: Connection) -> dict[str, str]:
        """What is wrong, by step, but for the plain http of the test's server."""
        found = self.examine(connection).values()
        return {each.step: each.code for each in found if each.code and each.code != "PLAIN_HTTP"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    config = Config(database_url=f"sqlite:///{tmp_path / 'calendar.db'}", egress_allow="127.0.0.1")
    store = app.open_store(config)
    service = app.build(config, store, app.open_vault(config, store), wake=lambda: None)
    with strange_dav() as dav:
        yield World(service, Caller(store.organizations.ensure("acme")), dav)
    service.close()


# One connection


def test_where_nothing_is_wrong_every_step_is_told(world: World) -> None:
    found = world.examine(world.connect())
    assert list(found) == [
        "connection",
        "stored access",
        "name",
        "certificate",
        "answer and clock",
        "sign-in",
        "calendars",
        "calendars that block",
        "calendar for bookings",
        "read (1 of 1)",
        "write",
    ]
    assert {each.level for each in found.values()} == {"ok", "warning"}
    assert found["certificate"].code == "PLAIN_HTTP"


def test_the_event_of_the_write_test_is_written_and_gone(world: World) -> None:
    connection = world.connect()
    assert world.examine(connection)["write"].level == "ok"
    assert len(world.dav.asked("PUT")) == 1
    assert len(world.dav.asked("DELETE")) == 1
    assert world.dav.shelves[WORK].resources == {}


def test_the_write_test_can_be_left_out(world: World) -> None:
    assert world.examine(world.connect(), writes=False)["write"].level == "skipped"
    assert world.dav.asked("PUT") == []


def test_an_event_that_could_not_be_removed_is_told(world: World) -> None:
    connection = world.connect()
    world.dav.fail("DELETE", 500)
    assert world.codes(connection) == {"write": "PROBE_LEFT"}


def test_what_a_failed_write_left_behind_is_removed(world: World) -> None:
    connection = world.connect()
    world.dav.quirks.add("html_after_put")
    assert world.examine(connection)["write"].level == "failed"
    assert world.dav.shelves[WORK].resources == {}


@pytest.mark.parametrize(
    ("preset", "code"),
    [
        (Preset.CUSTOM, "PASSWORD"),
        (Preset.APPLE, "APP_PASSWORD_APPLE"),
        (Preset.FASTMAIL, "APP_PASSWORD_FASTMAIL"),
        (Preset.NEXTCLOUD, "APP_PASSWORD_NEXTCLOUD"),
    ],
)
def test_a_refused_password_is_told_with_what_that_provider_wants(world: World, preset: Preset, code: str) -> None:
    connection = world.connect()
    world.settle(connection, preset=preset.value if preset is not Preset.APPLE else "apple")
    world.dav.password = "changed"
    if preset in (Preset.APPLE, Preset.FASTMAIL):
        # Their addresses are their own: what is stored of the refusal is what counts.
        world.service.store.connections.note_refusal(connection.id, connection.grant_version, "Refused.")
    assert world.codes(connection) == {"sign-in": code}
    assert "password" in REMEDIES[code]


def test_a_name_that_is_not_known_is_told(world: World) -> None:
    connection = world.connect()
    world.settle(connection, base="https://no-such-host.invalid")
    assert world.codes(connection)["name"] in ("NAME_UNKNOWN", "EGRESS_FORBIDDEN")
    assert "sign-in" in world.examine(connection)


def test_an_address_that_is_not_allowed_is_told(world: World) -> None:
    connection = world.connect()
    world.settle(connection, base="https://10.1.2.3")
    assert world.codes(connection) == {"name": "EGRESS_FORBIDDEN"}
    assert world.examine(connection)["sign-in"].level == "skipped"


def test_a_server_that_is_down_is_told(world: World) -> None:
    connection = world.connect()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    world.settle(connection, base=f"http://127.0.0.1:{port}")
    assert world.codes(connection) == {"answer and clock": "NOT_REACHED"}


@pytest.mark.parametrize("ahead_s", [600, -600])
def test_a_clock_that_is_wrong_is_told(world: World, ahead_s: int) -> None:
    connection = world.connect()
    world.dav.clock_ahead_s = ahead_s
    assert world.codes(connection) == {"answer and clock": "CLOCK_SKEW"}
    told = world.examine(connection)["answer and clock"].message
    assert ("ahead of" if ahead_s > 0 else "behind") in told


def test_an_account_without_calendars_is_told(world: World) -> None:
    connection = world.connect()
    world.dav.shelves.clear()
    assert world.codes(connection) == {"calendars": "NO_CALENDARS"}


def test_a_calendar_that_is_gone_is_told(world: World) -> None:
    connection = world.connect()
    world.dav.shelves["/dav/home/other/"] = world.dav.shelves.pop(WORK)
    assert world.codes(connection) == {
        "calendars that block": "CALENDAR_GONE",
        "calendar for bookings": "CALENDAR_GONE",
    }


def test_a_calendar_that_became_read_only_is_told(world: World) -> None:
    connection = world.connect()
    world.dav.shelves[WORK].privileges = ("read",)
    assert world.codes(connection) == {"calendar for bookings": "CALENDAR_READ_ONLY"}


def test_a_calendar_that_says_it_can_be_written_and_cannot_is_told(world: World) -> None:
    connection = world.connect()
    world.dav.fail("PUT", 403)
    assert world.codes(connection) == {"write": "CALENDAR_READ_ONLY"}


def test_a_calendar_that_cannot_be_read_is_told(world: World) -> None:
    connection = world.connect()
    world.dav.fail("REPORT", 500)
    assert world.codes(connection)["read (1 of 1)"] == "PROVIDER_UNAVAILABLE"


def test_a_key_that_is_lost_is_told(world: World) -> None:
    connection = world.connect()
    world.service.store._database.execute("UPDATE connections SET sealed_grant = 'v1|k1|AAAA|AAAA'")
    assert world.codes(connection) == {"stored access": "GRANT_UNOPENABLE"}


def test_a_connection_that_is_not_there_is_told(world: World) -> None:
    (found,) = world.service.diagnosis.examine(ConnectionId("cal_nothing"))
    assert (found.level, found.code) == ("failed", "NO_SUCH_CONNECTION")


# Certificates


@contextlib.contextmanager
def tls_server(folder: Path, *, name: str = "127.0.0.1", days: float = 90) -> Iterator[tuple[int, Path]]:
    """A server that shakes hands with a certificate of its own that ends in ``days``; its port and the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=365))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "tls.pem", folder / "tls.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def shake() -> None:
            while True:
                try:
                    raw, _ = listening.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), raw, context.wrap_socket(raw, server_side=True) as line:
                    line.recv(1)

        thread = threading.Thread(target=shake, daemon=True)
        thread.start()
        yield listening.getsockname()[1], cert_file
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def with_certificate(world: World, port: int, authority: Path | None) -> tuple[Connection, Diagnosis]:
    """A connection whose server is there, and a doctor that trusts this authority."""
    connection = world.connect()
    world.settle(connection, base=f"https://127.0.0.1:{port}")
    context = ssl.create_default_context(cafile=str(authority)) if authority else ssl.create_default_context()
    way = Egress(allow=AllowList.parse("127.0.0.1"), exchange_s=5, answer_bytes=10_000, tls=context)
    service = world.service
    return connection, Diagnosis(service.store, service.diagnosis._grants, service.diagnosis._providers, way, {})


@pytest.mark.parametrize(
    ("name", "days", "trusted", "code"),
    [
        ("127.0.0.1", -3.0, True, "CERTIFICATE_ENDED"),
        ("127.0.0.1", 3.5, True, "CERTIFICATE_ENDS_SOON"),
        ("127.0.0.1", 90.0, True, ""),
        ("127.0.0.2", 90.0, True, "CERTIFICATE_OTHER_NAME"),
        ("127.0.0.1", 90.0, False, "CERTIFICATE_UNTRUSTED"),
    ],
)
def test_a_certificate_is_judged(
    world: World, tmp_path: Path, name: str, days: float, trusted: bool, code: str
) -> None:
    with tls_server(tmp_path, name=name, days=days) as (port, certificate):
        connection, doctor = with_certificate(world, port, certificate if trusted else None)
        found = {each.step: each for each in doctor.examine(connection.id)}
    assert found["certificate"].code == code
    if name == "127.0.0.1" and trusted:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        assert end.date().isoformat() in found["certificate"].message


def test_a_port_that_speaks_no_tls_is_told(world: World) -> None:
    connection, doctor = with_certificate(world, world.dav.port, None)
    found = {each.step: each.code for each in doctor.examine(connection.id)}
    assert found["certificate"] == "NO_TLS"


def test_a_handshake_with_a_place_that_may_not_be_reached_is_not_made() -> None:
    egress = Egress(allow=AllowList.parse(""), exchange_s=5, answer_bytes=10_000)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.2)
        with pytest.raises(ForbiddenDestination):
            egress.probe(f"https://127.0.0.1:{listening.getsockname()[1]}", Deadline.after(5))
        with pytest.raises(TimeoutError):
            listening.accept()


def test_every_fault_of_a_handshake_has_words() -> None:
    assert {*get_args(Fault)} - {""} == _FAULTS.keys()
    assert {code for code, _ in _FAULTS.values()} <= REMEDIES.keys()


# At the command line, against a real server


def test_a_connection_to_a_real_server_passes(service: Running, stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "own", f"{span(at(9), at(10))}\nSUMMARY:Dentist")
    connection = stub.connect(person)
    done = service.command("doctor", connection.id)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok    write" in done.stdout
    assert "Dentist" not in done.stdout + done.stderr
    assert len(person.events(calendar)) == 1


def test_scripts_get_json_and_an_exit_code(service: Running, stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    connection = stub.connect(person)
    with person.dav() as client:
        client.delete(calendar).raise_for_status()
    done = service.command("doctor", connection.id, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["ok"] is False
    (gone,) = [each for each in told["findings"] if each["level"] == "failed"]
    assert (gone["step"], gone["code"], gone["remedy"]) == ("calendars", "NO_CALENDARS", REMEDIES["NO_CALENDARS"])


def test_the_installation_of_a_running_server_passes(service: Running) -> None:
    done = service.command("doctor")
    assert done.returncode == 0, done.stdout
    assert "ok    gRPC address: used by the server that runs" in done.stdout
    # The service of these tests is not where the setting says by default; nobody is sent there without OAuth.
    assert "WARN  public URL" in done.stdout


# The installation


def found_in(config: Config) -> dict[str, Finding]:
    return {finding.step: finding for finding in examine(config)}


def migrated(tmp_path: Path, **more: object) -> Config:
    settings = sqlite_settings(tmp_path)
    config = Config(
        database_url=settings["CALENDAR_DATABASE_URL"],
        grpc_address=settings["CALENDAR_GRPC_ADDRESS"],
        http_address=settings["CALENDAR_HTTP_ADDRESS"],
        **more,  # type: ignore[arg-type]
    )
    store = app.open_store(config)
    app.open_vault(config, store)
    store.close()
    return config


def test_a_database_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none" / "calendar.db"
    found = found_in(Config(database_url=f"sqlite:///{path}"))
    assert found["database"].code == "DATABASE_MISSING"
    assert not path.parent.exists()


def test_migrations_that_wait_are_told(tmp_path: Path) -> None:
    path = tmp_path / "calendar.db"
    Store.open(f"sqlite:///{path}").close()
    found = found_in(Config(database_url=f"sqlite:///{path}", master_keys="k1:" + "A" * 43 + "="))
    assert found["migrations"].code == "MIGRATIONS"


def test_another_master_key_is_told(tmp_path: Path) -> None:
    found = found_in(migrated(tmp_path))
    assert found["master keys"].level == "ok"
    config = Config(database_url=f"sqlite:///{tmp_path / 'calendar.db'}", master_keys="k9:" + "B" * 43 + "=")
    assert found_in(config)["master keys"].code == "MASTER_KEYS"


def test_a_public_url_that_leads_nowhere_fails_where_oauth_needs_it(tmp_path: Path, service: Running) -> None:
    config = Config(
        database_url=service.settings["CALENDAR_DATABASE_URL"],
        http_address=service.settings["CALENDAR_HTTP_ADDRESS"],
        public_url="http://127.0.0.1:1",
        google_client_id="id",
        google_client_secret="secret",
    )
    assert (found_in(config)["public URL"].level, found_in(config)["public URL"].code) == (
        "failed",
        "PUBLIC_URL_NOT_REACHED",
    )


WEBHOOKS = ["Google's webhook", "Microsoft's webhook"]
APPS = {
    "CALENDAR_GOOGLE_CLIENT_ID": "id",
    "CALENDAR_GOOGLE_CLIENT_SECRET": "secret",
    "CALENDAR_MICROSOFT_CLIENT_ID": "id",
    "CALENDAR_MICROSOFT_CLIENT_SECRET": "secret",
    # On this machine, so that they can reach it.
    "CALENDAR_GOOGLE_API_URL": "http://127.0.0.1:1/calendar",
    "CALENDAR_MICROSOFT_GRAPH_URL": "http://127.0.0.1:1/graph",
}


def test_webhooks_are_posted_to_as_providers_do(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path, **APPS)
    settings["CALENDAR_PUBLIC_URL"] = f"http://{settings['CALENDAR_HTTP_ADDRESS']}/"
    with serving(settings, tmp_path):
        # It serves calls a moment before it answers over HTTP.
        eventually(lambda: ask(settings["CALENDAR_HTTP_ADDRESS"]) == "")
        found = found_in(Config.from_environment(settings))
        assert [found[step].level for step in ("public URL", *WEBHOOKS)] == ["ok", "ok", "ok"]
        # Of this machine alone: providers elsewhere are not asked to tell of changes.
        elsewhere = {name: value for name, value in settings.items() if not name.endswith(("API_URL", "GRAPH_URL"))}
        found = found_in(Config.from_environment(elsewhere))
        assert found["public URL"].code == "PUBLIC_URL_LOCAL"
        assert [found[step].level for step in WEBHOOKS] == ["skipped", "skipped"]
        with page_for_everything() as url:
            found = found_in(Config.from_environment({**settings, "CALENDAR_PUBLIC_URL": url}))
            assert found["public URL"].level == "ok"
            assert [found[step].code for step in WEBHOOKS] == ["WEBHOOK_NOT_REACHED", "WEBHOOK_NOT_REACHED"]
    found = found_in(Config.from_environment(settings))
    assert [found[step].level for step in WEBHOOKS] == ["skipped", "skipped"], "nobody is there to answer"


@contextlib.contextmanager
def page_for_everything() -> Iterator[str]:
    """A proxy that passes `/healthz`, and shows a page of its own for all else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"ok\n" if self.path == "/healthz" else b"<h1>Welcome</h1>")

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            """Tell nobody."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_port_that_somebody_else_has_is_told(tmp_path: Path) -> None:
    config = migrated(tmp_path)
    port = int(config.grpc_address.rpartition(":")[2])
    assert found_in(config)["gRPC address"].level == "ok"
    with socket.create_server(("127.0.0.1", port)):
        assert found_in(config)["gRPC address"].code == "PORT_TAKEN"


@pytest.mark.parametrize("entry", ["0.0.0.0/0", "0.0.0.0/4", "::/0"])
def test_an_allow_list_that_lets_everything_through_is_told(tmp_path: Path, entry: str) -> None:
    assert found_in(migrated(tmp_path, egress_allow=entry))["egress allow-list"].code == "ALLOW_LIST_WIDE"


@pytest.mark.parametrize("entry", ["10.1.0.0/16", "dav.example.org", "fd00:1::/48", "10.0.0.0/8:8443"])
def test_an_allow_list_with_a_purpose_passes(tmp_path: Path, entry: str) -> None:
    assert found_in(migrated(tmp_path, egress_allow=entry))["egress allow-list"].level == "ok"


def test_a_public_url_without_tls_is_told(tmp_path: Path) -> None:
    found = found_in(migrated(tmp_path, public_url="http://calendar.example.org"))
    assert found["public URL"].code == "PUBLIC_URL_PLAIN"


@pytest.mark.parametrize(("days", "code"), [(-2.0, "TLS_ENDED"), (5.5, "TLS_ENDS_SOON"), (90.0, "")])
def test_tls_files_are_judged_by_their_end(tmp_path: Path, days: float, code: str) -> None:
    with tls_server(tmp_path, days=days):
        config = migrated(tmp_path, tls_cert=str(tmp_path / "tls.pem"), tls_key=str(tmp_path / "tls.key"))
    assert found_in(config)["TLS files"].code == code


def test_tls_files_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "tls.pem").write_text("nonsense")
    config = migrated(tmp_path, tls_cert=str(tmp_path / "tls.pem"), tls_key=str(tmp_path / "tls.pem"))
    assert found_in(config)["TLS files"].code == "TLS_FILES"


def test_redirect_uris_are_missed_only_where_a_provider_needs_them(tmp_path: Path) -> None:
    assert "redirect URIs" not in found_in(migrated(tmp_path))
    config = migrated(tmp_path, google_client_id="id", google_client_secret="secret")
    assert found_in(config)["redirect URIs"].code == "NO_REDIRECT_URIS"


# calendarctl


def calendarctl(service: Running, *arguments: str) -> Result:
    environment = {"CALENDAR_ADDRESS": service.address, "CALENDAR_API_KEY": service.key(), "COLUMNS": "200"}
    return CliRunner().invoke(cli, ["doctor", *arguments], env=environment)


def test_callers_can_look_at_a_connection_themselves(service: Running, stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "own", f"{span(at(9), at(10))}\nSUMMARY:Dentist")
    connection = stub.connect(person)
    done = calendarctl(service, connection.id)
    assert done.exit_code == 0, done.output
    steps = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert steps == [
        "ok    connection",
        "ok    sign-in",
        "ok    calendars",
        "ok    read (1 of 1)",
        "ok    clock",
        "ok    write",
    ]
    assert "Dentist" not in done.output
    assert len(person.events(calendar)) == 1


def test_callers_learn_what_is_wrong_and_what_to_do(service: Running, stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    connection = stub.connect(person)
    with person.dav() as client:
        client.delete(calendar).raise_for_status()
    done = calendarctl(service, connection.id, "--json")
    assert done.exit_code == 5
    told = json.loads(done.stdout)
    failed = {each["step"]: each["code"] for each in told["findings"] if each["level"] == "failed"}
    assert told["ok"] is False
    assert failed == {
        "calendars": "NO_CALENDARS",
        "calendars that block": "CALENDAR_GONE",
        "calendar for bookings": "CALENDAR_GONE",
        "read (1 of 1)": "CALENDAR_GONE",
        "write": "CALENDAR_GONE",
    }


def test_callers_are_told_of_a_connection_that_is_not_there(service: Running) -> None:
    done = calendarctl(service, "cal_nothing")
    assert done.exit_code == 3
    assert "There is no such connection" in done.output


def test_callers_can_leave_the_write_test_out(service: Running, stub: Stub, person: Person) -> None:
    person.make_calendar()
    connection = stub.connect(person)
    done = calendarctl(service, connection.id, "--no-write")
    assert (done.exit_code, "skip  write: Not asked for." in done.stdout) == (0, True)
