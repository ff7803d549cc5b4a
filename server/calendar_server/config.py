"""Every setting once: name, default, unit, help. All problems are told together.

The table in docs/settings.md is held against this file by a test.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRETS = (
    "CALENDAR_DATABASE_URL",
    "CALENDAR_MASTER_KEYS",
    "CALENDAR_GOOGLE_CLIENT_SECRET",
    "CALENDAR_MICROSOFT_CLIENT_SECRET",
)
"""What ``<name>_FILE`` may name a file for: container engines hand secrets over as files, and an environment is easily
shown."""
SECRET_FILE_CHARACTERS = 16_384


class ConfigError(Exception):
    """The environment is not usable. ``problems`` has a sentence for each setting that is wrong."""

    def __init__(self, problems: list[str]):
        super().__init__("\n".join(problems))
        self.problems = problems


def setting(name: str, default: str | int | bool | float, help: str, *, low: float = 1, high: float = 1e12) -> Any:
    """Declare a setting. Numbers outside ``low``..``high`` (inclusive) are refused."""
    return dataclasses.field(default=default, metadata={"name": name, "help": help, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one process."""

    database_url: str = setting(
        "CALENDAR_DATABASE_URL",
        "sqlite:///var/calendar.db",
        "Where everything is stored: `sqlite:///relative.db`, `sqlite:////absolute.db` or `postgresql://…`.",
    )
    grpc_address: str = setting("CALENDAR_GRPC_ADDRESS", "127.0.0.1:50051", "Host and port of the gRPC server.")
    http_address: str = setting("CALENDAR_HTTP_ADDRESS", "127.0.0.1:8080", "Host and port of the HTTP sidecar.")
    http_api: bool = setting(
        "CALENDAR_HTTP_API",
        False,
        "1: the sidecar serves the calls as HTTP with JSON below `/v1`, see docs/http-api.md.",
    )
    worker_http_address: str = setting(
        "CALENDAR_WORKER_HTTP_ADDRESS",
        "",
        "Host and port where `worker` serves `/healthz`, `/readyz` and `/metrics`. Empty: nowhere.",
    )
    public_url: str = setting(
        "CALENDAR_PUBLIC_URL", "http://127.0.0.1:8080", "What browsers and providers reach the sidecar by."
    )
    master_keys: str = setting(
        "CALENDAR_MASTER_KEYS",
        "",
        "`kid:base64(32 bytes)`, comma between; the first one writes. Empty with SQLite: made beside the database.",
    )
    redirect_uris: str = setting(
        "CALENDAR_REDIRECT_URIS", "", "Allow-list of `redirect_uri` (scheme, host, port, path), comma between."
    )
    egress_allow: str = setting(
        "CALENDAR_EGRESS_ALLOW",
        "",
        "Private destinations that CalDAV may reach: `CIDR` or `host`, each with optional `:port`, comma between.",
    )
    google_client_id: str = setting("CALENDAR_GOOGLE_CLIENT_ID", "", "The OAuth client at Google. Empty: no Google.")
    google_client_secret: str = setting("CALENDAR_GOOGLE_CLIENT_SECRET", "", "Its secret.")
    google_authorize_url: str = setting(
        "CALENDAR_GOOGLE_AUTHORIZE_URL", "https://accounts.google.com/o/oauth2/v2/auth", "Google's consent page."
    )
    google_token_url: str = setting(
        "CALENDAR_GOOGLE_TOKEN_URL", "https://oauth2.googleapis.com/token", "Google's token endpoint."
    )
    google_revoke_url: str = setting(
        "CALENDAR_GOOGLE_REVOKE_URL", "https://oauth2.googleapis.com/revoke", "Where grants are revoked at Disconnect."
    )
    google_userinfo_url: str = setting(
        "CALENDAR_GOOGLE_USERINFO_URL",
        "https://openidconnect.googleapis.com/v1/userinfo",
        "Where Google tells whose tokens these are.",
    )
    google_api_url: str = setting(
        "CALENDAR_GOOGLE_API_URL",
        "https://www.googleapis.com/calendar/v3",
        "What `calendars/…`, `users/me/calendarList`, `freeBusy` are joined to.",
    )
    microsoft_client_id: str = setting("CALENDAR_MICROSOFT_CLIENT_ID", "", "The app at Entra. Empty: no Microsoft.")
    microsoft_client_secret: str = setting("CALENDAR_MICROSOFT_CLIENT_SECRET", "", "Its secret.")
    microsoft_authorize_url: str = setting(
        "CALENDAR_MICROSOFT_AUTHORIZE_URL",
        "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/authorize",
        "Entra's consent page, with `{tenant}`.",
    )
    microsoft_token_url: str = setting(
        "CALENDAR_MICROSOFT_TOKEN_URL",
        "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token",
        "Entra's token endpoint, with `{tenant}`.",
    )
    microsoft_graph_url: str = setting(
        "CALENDAR_MICROSOFT_GRAPH_URL", "https://graph.microsoft.com/v1.0", "What `me/…` is joined to."
    )
    max_staleness_s: int = setting(
        "CALENDAR_MAX_STALENESS_S",
        60,
        "Seconds: how old an answer of GetBusy may be when the call does not say.",
        low=0,
    )
    horizon_days: int = setting("CALENDAR_HORIZON_DAYS", 400, "Days ahead that are kept of each calendar.", high=1100)
    reflection: bool = setting("CALENDAR_REFLECTION", False, "1: serve gRPC reflection, without a key.")
    tls_cert: str = setting("CALENDAR_TLS_CERT", "", "PEM file of the certificate chain.")
    tls_key: str = setting("CALENDAR_TLS_KEY", "", "PEM file of its private key.")
    tls_client_ca: str = setting(
        "CALENDAR_TLS_CLIENT_CA", "", "PEM file: demand client certificates of this authority."
    )
    plaintext: bool = setting(
        "CALENDAR_PLAINTEXT", False, "1: gRPC and the HTTP API without TLS also on other than loopback."
    )
    processes: int = setting("CALENDAR_PROCESSES", 1, "Server processes; more than one needs Postgres.", high=64)
    log_level: str = setting("CALENDAR_LOG_LEVEL", "info", "`debug`, `info`, `warning` or `error`.")

    grpc_threads: int = setting("CALENDAR_GRPC_THREADS", 128, "Calls in progress at once.", low=8, high=512)
    watches: int = setting(
        "CALENDAR_WATCHES", 32, "Calls of WatchBusy open at once; each has a thread of its own.", low=0, high=4096
    )
    watch_heartbeat_s: float = setting(
        "CALENDAR_WATCH_HEARTBEAT_S",
        15.0,
        "Seconds after which WatchBusy tells an unchanged answer again.",
        low=0.1,
        high=30,
    )
    read_threads: int = setting("CALENDAR_READ_THREADS", 96, "Provider conversations at once.", low=4, high=512)
    push_threads: int = setting("CALENDAR_PUSH_THREADS", 16, "Pushes at once in a worker.", high=256)
    mailbox_pushes: int = setting("CALENDAR_MAILBOX_PUSHES", 4, "Pushes at once into one connection.", high=64)
    lease_s: int = setting(
        "CALENDAR_LEASE_S",
        15,
        "Seconds after which another worker may take a push whose worker died.",
        low=3,
        high=3600,
    )
    push_s: float = setting("CALENDAR_PUSH_S", 30.0, "Seconds for one push.", low=1, high=3600)
    push_keep_days: int = setting(
        "CALENDAR_PUSH_KEEP_DAYS", 7, "Days after its end that a booking waits for a new grant.", low=0, high=3650
    )
    exchange_s: float = setting("CALENDAR_EXCHANGE_S", 10.0, "Seconds for one exchange with a provider.", low=0.1)
    call_s: float = setting("CALENDAR_CALL_S", 14.0, "Seconds for the provider work of one call.", low=0.5, high=600)
    answer_bytes: int = setting("CALENDAR_ANSWER_BYTES", 8_000_000, "Bytes of one answer of a provider.", low=1000)
    held_bytes: int = setting(
        "CALENDAR_HELD_BYTES",
        32_000_000,
        "Bytes of answers that all provider conversations of a process may hold together, beyond 256 000 of each.",
        low=1e6,
    )
    reconcile_s: int = setting(
        "CALENDAR_RECONCILE_S",
        3600,
        "Seconds after which a calendar in use is read in full, whatever its provider says of changes.",
        low=1,
    )
    used_s: int = setting(
        "CALENDAR_USED_S", 900, "Seconds after the last GetBusy in which a connection is kept fresh.", low=0
    )
    refresh_threads: int = setting("CALENDAR_REFRESH_THREADS", 16, "Connections a worker refreshes at once.", high=256)
    cache_connections: int = setting(
        "CALENDAR_CACHE_CONNECTIONS", 20_000, "Connections whose busy times a process keeps in memory.", low=0
    )
    redirects: int = setting("CALENDAR_REDIRECTS", 5, "Redirects followed in one exchange.", low=0, high=20)
    calendar_events: int = setting("CALENDAR_EVENTS", 20_000, "Events read of one calendar.")
    expand_processes: int = setting("CALENDAR_EXPAND_PROCESSES", 2, "Children that read calendar text.", high=64)
    expand_event_s: float = setting(
        "CALENDAR_EXPAND_EVENT_S", 1.0, "CPU seconds for reading one event.", low=0.01, high=60
    )
    expand_s: float = setting(
        "CALENDAR_EXPAND_S", 2.5, "Seconds for reading the text of one calendar.", low=0.1, high=60
    )
    expand_bytes: int = setting(
        "CALENDAR_EXPAND_BYTES", 512_000_000, "Bytes of address space of a child that reads calendar text.", low=1e8
    )
    oauth_per_minute: int = setting(
        "CALENDAR_OAUTH_PER_MINUTE",
        120,
        "Requests a minute to the callbacks of OAuth from one address; a proxy in front is one address.",
    )
    webhooks_per_minute: int = setting(
        "CALENDAR_WEBHOOKS_PER_MINUTE", 6000, "Requests a minute to the webhooks from one address."
    )
    request_bytes: int = setting("CALENDAR_REQUEST_BYTES", 1_000_000, "Bytes of one request.", low=1000)
    drain_s: float = setting("CALENDAR_DRAIN_S", 35.0, "Seconds that calls in flight get after SIGTERM.", low=0)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Config:
        """Read ``environ`` (the process's by default). Raises ``ConfigError`` with every problem at once."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        problems: list[str] = []
        for field in dataclasses.fields(cls):
            name = field.metadata["name"]
            try:
                raw = _given(environ, name)
                if not raw:
                    continue
                values[field.name] = _read(raw, field.default, field.metadata["low"], field.metadata["high"])
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if problems:
            raise ConfigError(problems)
        config = cls(**values)
        problems = config.problems()
        if problems:
            raise ConfigError(problems)
        return config

    def environment(self) -> dict[str, str]:
        """This process's environment for another one of ours beside it, with the secrets as they were read."""
        named = {f"{name}_FILE" for name in SECRETS}
        kept = {name: value for name, value in os.environ.items() if name not in named}
        for field in dataclasses.fields(self):
            if field.metadata["name"] in SECRETS and (value := getattr(self, field.name)):
                kept[field.metadata["name"]] = value
        return kept

    def problems(self) -> list[str]:
        """What is wrong between the settings, a sentence each."""
        found = []
        if not self.database_url.startswith(("sqlite:///", "postgresql://", "postgres://")):
            found.append("CALENDAR_DATABASE_URL: must begin with `sqlite:///` or `postgresql://`.")
        addresses = [("GRPC", self.grpc_address), ("HTTP", self.http_address)]
        if self.worker_http_address:
            addresses.append(("WORKER_HTTP", self.worker_http_address))
        for name, address in addresses:
            host, colon, port = address.rpartition(":")
            if not colon or not host or not port.isdigit() or int(port) > 65535:
                found.append(f"CALENDAR_{name}_ADDRESS: must be `host:port`, such as 127.0.0.1:50051.")
        for name, url in (
            ("PUBLIC_URL", self.public_url),
            ("GOOGLE_AUTHORIZE_URL", self.google_authorize_url),
            ("GOOGLE_TOKEN_URL", self.google_token_url),
            ("GOOGLE_REVOKE_URL", self.google_revoke_url),
            ("GOOGLE_USERINFO_URL", self.google_userinfo_url),
            ("GOOGLE_API_URL", self.google_api_url),
            ("MICROSOFT_AUTHORIZE_URL", self.microsoft_authorize_url),
            ("MICROSOFT_TOKEN_URL", self.microsoft_token_url),
            ("MICROSOFT_GRAPH_URL", self.microsoft_graph_url),
        ):
            if not url.startswith(("https://", "http://")):
                found.append(f"CALENDAR_{name}: must begin with https:// or http://.")
        for name, client_id, secret in (
            ("GOOGLE", self.google_client_id, self.google_client_secret),
            ("MICROSOFT", self.microsoft_client_id, self.microsoft_client_secret),
        ):
            if bool(client_id) != bool(secret):
                found.append(f"CALENDAR_{name}_CLIENT_ID and CALENDAR_{name}_CLIENT_SECRET: set both or none.")
        if self.log_level not in ("debug", "info", "warning", "error"):
            found.append("CALENDAR_LOG_LEVEL: must be debug, info, warning or error.")
        if bool(self.tls_cert) != bool(self.tls_key):
            found.append("CALENDAR_TLS_CERT and CALENDAR_TLS_KEY: set both or none.")
        if self.tls_client_ca and not self.tls_cert:
            found.append("CALENDAR_TLS_CLIENT_CA: needs CALENDAR_TLS_CERT and CALENDAR_TLS_KEY.")
        if not self.tls_cert and not self.plaintext and not is_loopback(self.grpc_address):
            found.append(
                "CALENDAR_GRPC_ADDRESS: is not loopback; set CALENDAR_TLS_CERT and CALENDAR_TLS_KEY, "
                "or CALENDAR_PLAINTEXT=1 when something in front ends TLS."
            )
        if self.http_api and not self.plaintext and not is_loopback(self.http_address):
            found.append(
                "CALENDAR_HTTP_API: the sidecar's address is not loopback, and API keys must not travel without TLS; "
                "set CALENDAR_PLAINTEXT=1 when something in front ends TLS."
            )
        if self.processes > 1 and self.database_url.startswith("sqlite"):
            found.append("CALENDAR_PROCESSES: more than one needs Postgres; set CALENDAR_DATABASE_URL.")
        if not self.master_keys and not self.database_url.startswith("sqlite"):
            found.append(
                "CALENDAR_MASTER_KEYS: is needed with Postgres, such as "
                "`k1:$(head -c 32 /dev/urandom | base64)`; keep it somewhere safe."
            )
        return found


def is_loopback(address: str) -> bool:
    """Whether ``host:port`` listens on this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    return host == "localhost" or host == "::1" or host.startswith("127.")


def _given(environ: Mapping[str, str], name: str) -> str:
    """A setting's text; for secrets also from the file that ``<name>_FILE`` names. Raises ``ValueError``."""
    raw = environ.get(name, "").strip()
    path = environ.get(f"{name}_FILE", "").strip() if name in SECRETS else ""
    if not path:
        return raw
    if raw:
        raise ValueError(f"set this or {name}_FILE, not both.")
    try:
        with Path(path).open(encoding="utf-8") as file:
            raw = file.read(SECRET_FILE_CHARACTERS + 1).strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"{name}_FILE names {path}, which cannot be read ({reason}).") from error
    if not raw:
        raise ValueError(f"{name}_FILE names {path}, which is empty.")
    if len(raw) > SECRET_FILE_CHARACTERS:
        raise ValueError(f"{name}_FILE names {path}, which is longer than {SECRET_FILE_CHARACTERS} characters.")
    return raw


def _read(raw: str, default: object, low: float, high: float) -> str | int | bool | float:
    if isinstance(default, bool):
        if raw.lower() in ("1", "true", "yes", "on"):
            return True
        if raw.lower() in ("0", "false", "no", "off"):
            return False
        raise ValueError("must be 1 or 0.")
    if isinstance(default, (int, float)):
        kind = type(default)
        try:
            number = kind(raw)
        except ValueError:
            raise ValueError(f"must be a {'whole ' if kind is int else ''}number, not {raw[:40]!r}.") from None
        if not low <= number <= high:
            raise ValueError(f"must be from {low:g} to {high:g}.")
        return number
    return raw
