"""How the service is reached: the address, the key, TLS, the options of the channel. Nothing is sent from here."""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

import grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"

SERVICE = "calendars.v1.CalendarService"

SERVICE_CONFIG = {
    # Where the address names several servers, as one of DNS may, all of them are used, and one that ends is left out.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.3s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # A server that ends says CANCELLED, and not UNAVAILABLE, of calls that it has not begun
                # (https://github.com/grpc/grpc/issues/41785). What the caller itself cancels is never tried again.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        },
        # Connect proves a password. Providers lock accounts that see too many trials, so a person decides to repeat it.
        {"name": [{"service": SERVICE, "method": "Connect"}]},
    ],
}
"""The standard retry policy: UNAVAILABLE and a server's CANCELLED, three attempts within the call's deadline.

Never for Connect. gRPC waits by this policy, not by RetryInfo: that one is in ``retry_after_s`` of the error, for callers
who try again later.
"""

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    # A server that was replaced is dialled again before the next one goes: within the time that the retry policy gives.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Names every calendar that could not be read, in the trailing metadata.
    ("grpc.max_metadata_size", 16 * 1024),
    # A year of a hundred connections, explained, is larger than gRPC's 4 MB.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # Notice a dead line while a call is in progress; an idle connection is left in peace.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
]


@dataclass(frozen=True, slots=True, repr=False)
class TlsOptions:
    """How to trust the service, and how to prove who we are. All are PEM bytes.

    ``ca`` None: the roots that gRPC brings. ``certificate_chain`` and ``private_key`` go together, for a service that
    demands client certificates. ``server_name`` replaces the name that the certificate is checked against.
    """

    ca: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("A client certificate and its private key go together: give both or none.")

    @classmethod
    def from_files(
        cls,
        ca: str | Path | None = None,
        certificate_chain: str | Path | None = None,
        private_key: str | Path | None = None,
        server_name: str = "",
    ) -> TlsOptions:
        """Read PEM files. Raises ``OSError`` when one cannot be read."""
        ca_pem, chain_pem, key_pem = (
            None if path is None else Path(path).read_bytes() for path in (ca, certificate_chain, private_key)
        )
        return cls(ca_pem, chain_pem, key_pem, server_name)

    def __repr__(self) -> str:
        return "TlsOptions(***)"


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """What a channel is made of. ``credentials`` None: plaintext."""

    address: str
    metadata: tuple[tuple[str, str], ...]
    options: list[tuple[str, int | str]]
    credentials: grpc.ChannelCredentials | None

    @classmethod
    def of(cls, address: str, api_key: str, tls: TlsOptions | None, plaintext: bool) -> Target:
        """Raises ``ValueError`` for a key that cannot be one, and where it would travel readable."""
        if not all("!" <= character <= "~" for character in api_key):
            raise ValueError("The API key holds spaces, line ends or characters that no key has. Copy it again.")
        if tls is None and not plaintext and not is_local(address):
            raise ValueError(
                f"{address} is not this machine, and without TLS the API key would travel readable: "
                "give tls=TlsOptions(), or plaintext=True if the network protects it."
            )
        options = list(_OPTIONS)
        if is_local(address):
            # A proxy of the environment has no business on this machine.
            options.append(("grpc.enable_http_proxy", 0))
        credentials = None
        if tls is not None:
            if tls.server_name:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.private_key, tls.certificate_chain)
        metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        return cls(address, metadata, options, credentials)


def is_local(address: str) -> bool:
    """Whether a gRPC target is certain to be on this machine: a loopback address, ``localhost``, or a Unix socket."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        address = address.removeprefix(scheme)
    host = address.rpartition(":")[0].strip("[]") or address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
