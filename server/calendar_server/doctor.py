"""`calendar-server doctor`: looks at what a server needs, or at one connection, and says what to do about what is wrong."""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import shutil
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from calendar_server.config import Config, ConfigError, is_loopback
from calendar_server.core.model import SECOND, ConnectionId, ProviderName
from calendar_server.errors import StoreUnavailable
from calendar_server.findings import Finding, failed, warning
from calendar_server.providers.egress import AllowList
from calendar_server.store.store import Store

SOON_DAYS = 21
SKEW_S = 5.0
"""Seconds that this machine's clock may differ from the database's: leases and deadlines are in database time."""
SPACE_FAILS, SPACE_WARNS = 100 * 2**20, 1 * 2**30
ASK_S = 5.0
_MARKS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL", "skipped": "skip"}


def run(config: Config, options: argparse.Namespace) -> int:
    """Examine, print as it goes. 0: nothing failed; 1: something did."""
    findings = examine(config)
    if options.connection:
        findings = examine_connection(config, ConnectionId(options.connection), writes=not options.no_write)
    return tell(findings, as_json=options.json)


def tell(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings. 0: none failed; 1: one did."""
    found: list[Finding] = []
    for finding in findings:
        found.append(finding)
        if not as_json:
            print(_line(finding), flush=True)
    ok = not any(finding.level == "failed" for finding in found)
    if as_json:
        print(json.dumps({"ok": ok, "findings": [_as_json(finding) for finding in found]}, indent=2))
    return 0 if ok else 1


def _line(finding: Finding) -> str:
    lines = [f"{_MARKS[finding.level]}  {finding.step}{': ' + finding.message if finding.message else ''}"]
    if finding.code:
        lines.append(f"      {finding.code}: {finding.remedy}")
    if finding.link:
        lines.append(f"      {finding.link}")
    return "\n".join(lines)


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "step": finding.step,
        "level": finding.level,
        "code": finding.code,
        "message": finding.message,
        "remedy": finding.remedy,
        "link": finding.link,
    }


def examine_connection(config: Config, connection_id: ConnectionId, *, writes: bool) -> Iterator[Finding]:
    """Look at one connection, with the code that serves calls."""
    from calendar_server import app

    try:
        missing = _no_database(config)
        if missing:
            yield missing
            return
        store = Store.open(config.database_url)
        pending = store.pending_migrations()
        if pending:
            yield _pending(pending)
            return
        service = app.build(config, store, app.open_vault(config, store), wake=lambda: None, process="doctor")
    except StoreUnavailable as error:
        yield failed("database", "DATABASE", error.message)
        return
    except ConfigError as error:
        yield failed("master keys", "MASTER_KEYS", " ".join(error.problems))
        return
    try:
        yield from service.diagnosis.examine(connection_id, writes=writes)
    finally:
        service.close()


def examine(config: Config) -> Iterator[Finding]:
    """Look at the installation from this machine. Changes nothing."""
    yield Finding("settings")
    yield from _allow_list(config)
    yield from _database(config)
    yield from _tls_files(config)
    running = _healthy(f"http://{config.http_address}")
    for name, address in (("gRPC address", config.grpc_address), ("HTTP address", config.http_address)):
        yield _address(name, address, running)
    public = _public_url(config, running)
    yield public
    yield from _webhooks(config, public)
    for provider, client_id in (("Google", config.google_client_id), ("Microsoft", config.microsoft_client_id)):
        step = f"{provider}'s client"
        yield Finding(step) if client_id else Finding(step, "skipped", "NO_PROVIDER_CREDENTIALS", "None is set.")
    if config.google_client_id or config.microsoft_client_id:
        none = warning("redirect URIs", "NO_REDIRECT_URIS", "The allow-list is empty.")
        yield Finding("redirect URIs") if config.redirect_uris.strip() else none


def _allow_list(config: Config) -> Iterator[Finding]:
    step = "egress allow-list"
    try:
        AllowList.parse(config.egress_allow)
    except ValueError as error:
        yield failed(step, "ALLOW_LIST", str(error))
        return
    wide = [entry.strip() for entry in config.egress_allow.split(",") if _is_wide(entry.strip())]
    if wide:
        yield warning(step, "ALLOW_LIST_WIDE", f"{', '.join(wide)} lets callers reach most of the inner network.")
    else:
        yield Finding(step)


def _is_wide(entry: str) -> bool:
    network, slash, rest = entry.partition("/")
    length = rest.partition(":")[0].strip("]")
    return bool(slash) and length.isdigit() and int(length) < (32 if network.count(":") > 1 else 8)


def _no_database(config: Config) -> Finding | None:
    if config.database_url.startswith("sqlite:///") and not Path(config.database_url[10:]).exists():
        return failed("database", "DATABASE_MISSING", "There is none yet.")
    return None


def _pending(pending: list[str]) -> Finding:
    return failed("migrations", "MIGRATIONS", f"{', '.join(pending)} not applied.")


def _database(config: Config) -> Iterator[Finding]:
    missing = _no_database(config)
    if missing:
        yield missing
        return
    store: Store | None = None
    try:
        store = Store.open(config.database_url)
        store.ping()
        yield Finding("database")
        pending = store.pending_migrations()
        yield _pending(pending) if pending else Finding("migrations")
        yield _keys(config, store, bool(pending))
        began = time.time()
        skew = store.now() / SECOND - began
        late = f"The database's clock differs by {abs(skew):.0f} seconds from this machine's."
        bad = abs(skew) > SKEW_S + (time.time() - began)
        yield failed("clock", "DATABASE_CLOCK", late) if bad else Finding("clock")
        if store.path:
            yield _space(store.path.parent)
    except StoreUnavailable as error:
        yield failed("database", "DATABASE", error.message)
    finally:
        if store:
            store.close()


def _keys(config: Config, store: Store, pending: bool) -> Finding:
    from calendar_server.app import open_vault

    if not config.master_keys and store.path and not store.path.with_name(f"{store.path.name}.key").exists():
        return warning("master keys", "NO_MASTER_KEYS", "There are none yet.")
    if pending:
        return Finding("master keys", "skipped", message="The database is not up to date.")
    try:
        open_vault(config, store)
    except ConfigError as error:
        return failed("master keys", "MASTER_KEYS", " ".join(error.problems))
    return Finding("master keys")


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    told = f"{free / 2**30:.1f} GiB are free beside the database."
    if free < SPACE_FAILS:
        return failed("disk space", "DISK_SPACE", told)
    return warning("disk space", "DISK_SPACE", told) if free < SPACE_WARNS else Finding("disk space", message=told)


def _tls_files(config: Config) -> Iterator[Finding]:
    if not config.tls_cert:
        return
    step = "TLS files"
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.tls_cert, config.tls_key)
        if config.tls_client_ca:
            context.load_verify_locations(config.tls_client_ca)
        ends = x509.load_pem_x509_certificate(Path(config.tls_cert).read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        # ssl.SSLError is an OSError.
        yield failed(step, "TLS_FILES", "They are not readable PEM files that belong together.")
        return
    left = ends - datetime.now(UTC)
    if left.total_seconds() <= 0:
        yield failed(step, "TLS_ENDED", f"The certificate ended on {ends.date()}.")
    elif left.days < SOON_DAYS:
        yield warning(step, "TLS_ENDS_SOON", f"The certificate ends on {ends.date()}.")
    else:
        yield Finding(step, message=f"valid until {ends.date()}")


def _address(step: str, address: str, running: bool) -> Finding:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host.strip("[]"), int(port)), family=family):
            return Finding(step, message="free")
    except OSError as error:
        if running:
            return Finding(step, message="used by the server that runs")
        return failed(step, "PORT_TAKEN", f"{address} cannot be listened on ({error.strerror}).")


def _public_url(config: Config, running: bool) -> Finding:
    step = "public URL"
    parts = urlsplit(config.public_url)
    local = is_loopback(f"{parts.hostname or ''}:0")
    if parts.scheme != "https" and not local:
        return failed(step, "PUBLIC_URL_PLAIN", "Browsers bring codes to it, and providers post to https only.")
    if not running:
        return Finding(step, "skipped", message="No server runs here that could answer.")
    oauth = config.google_client_id or config.microsoft_client_id
    if not _healthy(config.public_url.rstrip("/")):
        # Without OAuth nobody is sent there.
        wrong = failed if oauth else warning
        return wrong(step, "PUBLIC_URL_NOT_REACHED", "It does not lead to the server that runs here.")
    if local and oauth and not _webhook_addresses(config):
        return warning(step, "PUBLIC_URL_LOCAL", "Providers cannot reach it to tell of changes.")
    return Finding(step)


def _webhooks(config: Config, public: Finding) -> Iterator[Finding]:
    """Whether what providers post gets through to the sidecar, as far as that shows from here."""
    configured = {
        ProviderName.GOOGLE: config.google_client_id,
        ProviderName.MICROSOFT: config.microsoft_client_id,
    }
    addresses = _webhook_addresses(config)
    for provider in [name for name, client_id in configured.items() if client_id]:
        step = f"{provider.capitalize()}'s webhook"
        address = addresses.get(provider)
        if public.level in ("failed", "skipped"):
            yield Finding(step, "skipped", message="The public URL is not known to lead here.")
        elif address is None:
            yield Finding(step, "skipped", message="It is not asked for: the public URL is of this machine alone.")
        elif _takes_notifications(provider, address):
            yield Finding(step)
        else:
            yield failed(step, "WEBHOOK_NOT_REACHED", f"What is posted to {address} does not get to the sidecar.")


def _webhook_addresses(config: Config) -> Mapping[ProviderName, str]:
    from calendar_server.app import webhook_addresses

    return webhook_addresses(config)


def _takes_notifications(provider: ProviderName, address: str) -> bool:
    if provider is ProviderName.MICROSOFT:
        # As Microsoft asks before each subscription; the token comes back.
        token = f"doctor-{secrets.token_hex(8)}"
        return _asked("POST", f"{address}?validationToken={token}") == (200, token.encode())
    # A notification of a channel that there is not. It is answered like a true one, and does nothing.
    return _asked("POST", address, {"x-goog-channel-id": "doctor", "x-goog-resource-state": "sync"}) == (200, b"")


def _healthy(url: str) -> bool:
    """Whether our sidecar answers there."""
    return _asked("GET", f"{url}/healthz") == (200, b"ok\n")


def _asked(method: str, url: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes] | None:
    """Status and the beginning of the answer; None without one. The URL is the operator's own."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=ASK_S)
        try:
            connection.request(method, f"{parts.path}{'?' if parts.query else ''}{parts.query}", headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read(64)
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return None
