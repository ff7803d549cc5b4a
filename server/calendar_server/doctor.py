"""`calendar-server doctor`: looks at what a server needs before it starts, and says what to do about what is missing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from calendar_server.app import open_vault
from calendar_server.config import Config, ConfigError
from calendar_server.errors import StoreUnavailable
from calendar_server.providers.egress import AllowList
from calendar_server.store.store import Store


def examine(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each step's name and what is wrong with it, empty when nothing is. Changes nothing."""
    yield "settings", ""
    yield "egress allow-list", _allow_list(config)
    try:
        if config.database_url.startswith("sqlite:///") and not Path(config.database_url[10:]).exists():
            yield "database", "there is none yet; `calendar-server migrate` makes it"
            return
        store = Store.open(config.database_url)
        store.ping()
    except StoreUnavailable as error:
        yield "database", error.message
        return
    yield "database", ""
    pending = store.pending_migrations()
    yield "migrations", f"{', '.join(pending)} not applied; run `calendar-server migrate`" if pending else ""
    if not config.master_keys and store.path and not store.path.with_name(f"{store.path.name}.key").exists():
        yield "master keys", "there are none yet; the first start makes them beside the database"
    elif not pending:
        try:
            open_vault(config, store)
            yield "master keys", ""
        except ConfigError as error:
            yield "master keys", str(error)
    store.close()
    for name, address in (("gRPC address", config.grpc_address), ("HTTP address", config.http_address)):
        yield name, _address(address)
    for provider, client_id in (("Google", config.google_client_id), ("Microsoft", config.microsoft_client_id)):
        yield f"{provider} ({'configured' if client_id else 'not configured'})", ""


def _allow_list(config: Config) -> str:
    try:
        AllowList.parse(config.egress_allow)
    except ValueError as error:
        return str(error)
    return ""


def _address(address: str) -> str:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            return ""
    except OSError as error:
        return f"cannot be listened on ({error.strerror}); is a server running already?"
