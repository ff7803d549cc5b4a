"""Certificates: shown, renewed without a restart, asked for, and refused at the start."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from calendar_server.config import Config, ConfigError
from tests.e2e.rpc.world import CALL_S, running


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def serving(port: int, credentials: grpc.ChannelCredentials) -> int:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options=options) as channel:
        answered = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
        return int(answered.status)


def presented(port: int) -> str:
    """The certificate that the server shows now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=CALL_S) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        return ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")


def test_with_a_certificate_the_server_speaks_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    with running(Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key))) as world:
        assert serving(world.server.port, grpc.ssl_channel_credentials(cert.read_bytes())) == 1


def test_a_renewed_certificate_is_shown_without_a_restart(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    with running(Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key))) as world:
        first = presented(world.server.port)
        new_cert, new_key = certificate(tmp_path, "new")
        new_key.replace(key)
        new_cert.replace(cert)
        assert presented(world.server.port) != first
        assert presented(world.server.port) == cert.read_text()


def test_a_renewal_that_does_not_fit_together_leaves_the_old_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    with running(Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key))) as world:
        first = presented(world.server.port)
        certificate(tmp_path, "new")[0].replace(cert)
        assert presented(world.server.port) == first


def test_with_a_client_authority_a_client_without_certificate_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "server")
    client_cert, client_key = certificate(tmp_path, "client")
    config = Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(key), tls_client_ca=str(client_cert))
    with running(config) as world:
        mutual = grpc.ssl_channel_credentials(cert.read_bytes(), client_key.read_bytes(), client_cert.read_bytes())
        assert serving(world.server.port, mutual) == 1
        with pytest.raises(grpc.RpcError) as raised:
            serving(world.server.port, grpc.ssl_channel_credentials(cert.read_bytes()))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_key_of_another_certificate_is_told_at_the_start(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path, "server")
    _, other_key = certificate(tmp_path, "other")
    config = Config(grpc_address="127.0.0.1:0", tls_cert=str(cert), tls_key=str(other_key))
    with pytest.raises(ConfigError, match="CALENDAR_TLS_CERT"), running(config):
        pass
