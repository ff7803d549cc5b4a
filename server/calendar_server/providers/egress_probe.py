"""What a server's TLS looks like, for the doctor. Nothing is asked of the server but its certificate."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Literal

from cryptography import x509

from calendar_server.core.model import SECOND, Instant
from calendar_server.providers.addresses import Address
from calendar_server.providers.base import Deadline

Fault = Literal["", "not_reached", "no_tls", "expired", "not_yet", "other_name", "untrusted"]

# https://docs.openssl.org/master/man1/openssl-verification-options/: X509_V_ERR_…
_VERDICTS: dict[int, Fault] = {9: "not_yet", 10: "expired", 62: "other_name", 64: "other_name"}


@dataclass(frozen=True, slots=True)
class Handshake:
    """How a handshake ended. ``ends_at``: when the server's certificate ends; None when none was seen."""

    fault: Fault
    ends_at: Instant | None = None


def look(addresses: list[Address], host: str, port: int, context: ssl.SSLContext, deadline: Deadline) -> Handshake:
    """Shake hands with the first of the addresses, which were judged before, that can be reached. Never raises."""
    for address in addresses:
        try:
            return _look(str(address), host, port, context, deadline)
        except OSError:
            continue
    return Handshake("not_reached")


def _look(address: str, host: str, port: int, context: ssl.SSLContext, deadline: Deadline) -> Handshake:
    try:
        with _reached(address, port, deadline) as raw, context.wrap_socket(raw, server_hostname=host) as line:
            return Handshake("", _end(line.getpeercert(binary_form=True)))
    except ssl.SSLCertVerificationError as error:
        fault = _VERDICTS.get(error.verify_code, "untrusted")
    except ssl.SSLError:
        return Handshake("no_tls")
    return Handshake(fault, _end_unverified(address, host, port, deadline))


def _end_unverified(address: str, host: str, port: int, deadline: Deadline) -> Instant | None:
    """When the certificate ends that was just refused. The line carries nothing and is closed at once."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with _reached(address, port, deadline) as raw, context.wrap_socket(raw, server_hostname=host) as line:
            return _end(line.getpeercert(binary_form=True))
    except OSError:
        return None


def _reached(address: str, port: int, deadline: Deadline) -> socket.socket:
    return socket.create_connection((address, port), timeout=max(0.01, deadline.remaining()))


def _end(certificate: bytes | None) -> Instant | None:
    if not certificate:
        return None
    try:
        return int(x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp()) * SECOND
    except ValueError:
        return None
