"""TLS on the way out: who is believed, and what ends it."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import AnswerTooLarge, Egress
from calendar_server.providers.egress_wire import client_context
from tests.fakes.raw_server import Handler, RawConnection, RawRequest, RawServer, answer
from tests.unit.ways_out import EXCHANGE_S, HEAD, SLACK_S, Names, floods, get, hello, sends, way_out


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of its own, and a server's identity under it."""

    client: ssl.SSLContext
    server: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("tls")
    root_key, root = _certificate("test authority", None, None)
    key, leaf = _certificate("cloud.example", root_key, root)
    (folder / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + _pem(key))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "leaf.pem")
    return Authority(_client(folder / "root.pem"), server)


def _client(root: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(root)
    return context


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate(
    name: str, issuer_key: ec.EllipticCurvePrivateKey | None, issuer: x509.Certificate | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            if issuer
            else x509.SubjectAlternativeName([x509.DNSName("authority.example")]),
            critical=False,
        )
    )
    return key, builder.sign(issuer_key or key, hashes.SHA256())


def cloud() -> Names:
    return Names(cloud_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]])


def test_https_reaches_a_server_whose_certificate_is_good(authority: Authority) -> None:
    with RawServer(hello, tls=authority.server) as server, way_out(names=cloud(), tls=authority.client) as egress:
        for _ in range(2):
            assert get(egress, f"https://cloud.example:{server.port}/").body == b"hello"
        assert len(server.connections) == 1


def test_https_sends_the_name_and_not_the_address(authority: Authority) -> None:
    told: list[str] = []
    context = authority.server
    context.sni_callback = lambda tls, name, context: told.append(name)
    with RawServer(hello, tls=context) as server, way_out(names=cloud(), tls=authority.client) as egress:
        get(egress, f"https://cloud.example:{server.port}/")
    context.sni_callback = None
    assert told == ["cloud.example"]


def test_https_to_an_address_checks_the_certificate_for_that_address(authority: Authority) -> None:
    with RawServer(hello, tls=authority.server) as server, way_out(tls=authority.client) as egress:
        assert get(egress, server.url).body == b"hello"


def test_a_large_body_goes_both_ways_over_tls(authority: Authority) -> None:
    body = bytes(range(256)) * 1000

    def echo(request: RawRequest, connection: RawConnection) -> None:
        connection.send(answer(200, request.body))

    with RawServer(echo, tls=authority.server) as server, way_out(tls=authority.client) as egress:
        found = egress.exchange("PUT", server.url, headers={}, content=body, deadline=Deadline.after(5))
    assert found.body == body


def test_a_certificate_of_another_name_is_refused_before_the_request(authority: Authority) -> None:
    with (
        RawServer(hello, tls=authority.server) as server,
        way_out(names=cloud(), tls=authority.client) as egress,
        pytest.raises(ProviderUnavailable, match="secure connection"),
    ):
        get(egress, f"https://other.example:{server.port}/")
    assert server.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority) -> None:
    with (
        RawServer(hello, tls=authority.server) as server,
        way_out(tls=client_context()) as egress,
        pytest.raises(ProviderUnavailable, match="secure connection"),
    ):
        get(egress, server.url)
    assert server.requests == []


def test_https_to_a_server_without_tls_is_unavailable(egress: Egress) -> None:
    with (
        RawServer(hello, on_connect=lambda connection: connection.send(b"220 hello\r\n")) as server,
        pytest.raises(ProviderUnavailable, match="secure connection"),
    ):
        get(egress, f"https://127.0.0.1:{server.port}/")


def test_an_answer_that_ends_without_the_end_of_tls_was_cut(authority: Authority) -> None:
    with (
        RawServer(sends(HEAD + b"\r\nhalf"), tls=authority.server) as server,
        way_out(tls=authority.client) as egress,
        pytest.raises(ProviderUnavailable),
    ):
        get(egress, server.url)


def test_an_answer_that_ends_with_the_end_of_tls_is_whole(authority: Authority) -> None:
    def ends(request: RawRequest, connection: RawConnection) -> None:
        connection.send(HEAD + b"\r\nwhole")
        assert isinstance(connection.socket, ssl.SSLSocket)
        connection.socket.unwrap()

    with RawServer(ends, tls=authority.server) as server, way_out(tls=authority.client) as egress:
        assert get(egress, server.url).body == b"whole"


@pytest.mark.parametrize(
    "handler",
    [
        lambda request, connection: connection.hang(),
        lambda request, connection: connection.drip(answer(200, b"x" * 999)),
    ],
)
def test_an_exchange_over_tls_ends_by_its_time(authority: Authority, handler: Handler) -> None:
    with (
        RawServer(handler, tls=authority.server) as server,
        way_out(tls=authority.client, exchange_s=EXCHANGE_S) as egress,
    ):
        begun = time.monotonic()
        with pytest.raises(ProviderUnavailable, match="too long"):
            get(egress, server.url)
        assert time.monotonic() - begun < EXCHANGE_S + SLACK_S


def test_an_endless_answer_over_tls_is_held_to_the_limit(authority: Authority) -> None:
    with (
        RawServer(floods(HEAD + b"\r\n", bytes(60_000)), tls=authority.server) as server,
        way_out(tls=authority.client) as egress,
        pytest.raises(AnswerTooLarge),
    ):
        get(egress, server.url)


def test_tiny_records_of_tls_are_held_to_a_limit(authority: Authority) -> None:
    # Each byte of the body comes in a record of its own, of twenty-three bytes. The answer itself is within the limit.
    pieces = [answer(200, length=100_000), *[b"x"] * 100_000]
    with (
        RawServer(sends(*pieces), tls=authority.server) as server,
        way_out(tls=authority.client, exchange_s=8) as egress,
        pytest.raises(AnswerTooLarge),
    ):
        get(egress, server.url)
