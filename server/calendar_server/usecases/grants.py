"""The secret authority over accounts: sealed when stored, opened here and nowhere else."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from calendar_server.core.model import SECOND, Connection, ConnectionStatus, SyncStatus
from calendar_server.errors import (
    CalendarError,
    NeedsReauth,
    NotFound,
    PreconditionFailed,
    ProviderError,
    ProviderUnavailable,
)
from calendar_server.providers.base import Link, Secret
from calendar_server.store.store import Store
from calendar_server.vault import Vault, VaultError

_log = logging.getLogger(__name__)


class Grants:
    """Opens grants for the length of one use, and learns from how the conversation went."""

    def __init__(self, store: Store, vault: Vault):
        self._store = store
        self._vault = vault

    def seal(self, connection_id: str, secret: Secret) -> str:
        """Seal a secret for the row of this connection."""
        return self._vault.seal(
            json.dumps(dict(secret.values)), table="connections", row=connection_id, column="sealed_grant"
        )

    @contextmanager
    def use(self, connection: Connection) -> Iterator[Link]:
        """Open the connection's grant for a conversation with its provider.

        Raises ``NeedsReauth`` at once when that is known already, ``NotFound`` when it was disconnected. What the
        conversation raises passes through; a refused grant and any other failure are noted on the connection. A good
        end is noted by ``went_well``, which the caller may collect for several connections.
        """
        if connection.status is ConnectionStatus.NEEDS_REAUTH:
            raise NeedsReauth()
        link, version = self._open(connection)
        try:
            yield link
        except NeedsReauth as error:
            if not self._store.connections.note_refusal(connection.id, version, error.message):
                # The grant was renewed while the old one was in use: its refusal says nothing about the new one.
                raise ProviderUnavailable("The access was renewed at this moment. Try again.", retry_after_s=1) from error
            _log.warning("grant_refused", extra={"connection": connection.id, "provider": connection.provider})
            raise
        except PreconditionFailed:
            raise
        except ProviderError as error:
            self._store.connections.note_failure(connection.id, error.message)
            raise

    def went_well(self, connections: list[Connection]) -> None:
        """Note that the last conversation of these went well, in one transaction; at most once a second for each."""
        now = self._store.now()
        due = [
            connection
            for connection in connections
            if connection.sync_status is not SyncStatus.CONNECTED or now - (connection.last_sync_at or 0) >= SECOND
        ]
        if not due:
            return
        with self._store.transaction():
            for connection in due:
                self._store.connections.note_success(connection.id, now, connection.grant_version)

    def _open(self, connection: Connection) -> tuple[Link, int]:
        grant = self._store.connections.grant(connection.id)
        if grant is None:
            raise disconnected()
        try:
            text = self._vault.open(
                grant.sealed, table="connections", row=connection.id, column="sealed_grant"
            )
        except VaultError as error:
            _log.error("grant_unopenable", extra={"connection": connection.id})
            raise ProviderUnavailable(
                "The stored access of this connection cannot be opened. Connect the account again.", retry_after_s=3600
            ) from error

        def check() -> None:
            if not self._store.connections.is_live(connection.id):
                raise disconnected()

        return Link(connection, Secret(json.loads(text)), check), grant.version


def disconnected() -> CalendarError:
    """What every use of a disconnected connection says."""
    return NotFound("There is no such connection. List shows the ones there are.")
