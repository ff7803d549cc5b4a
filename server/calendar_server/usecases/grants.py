"""The secret authority over accounts: sealed when stored, opened and renewed here and nowhere else."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress

from calendar_server.core.model import SECOND, Connection, ConnectionStatus, Instant, ProviderName, SyncStatus
from calendar_server.errors import (
    CalendarError,
    NeedsReauth,
    NotFound,
    PreconditionFailed,
    ProviderError,
    ProviderUnavailable,
    StoreUnavailable,
)
from calendar_server.observed import Conversation
from calendar_server.providers.base import Deadline, Link, Secret
from calendar_server.providers.oauth import OAuthClient
from calendar_server.store.rows import SealedGrant
from calendar_server.store.store import Store
from calendar_server.usecases.authorizations import secret_of
from calendar_server.vault import Vault, VaultError

_log = logging.getLogger(__name__)

LEASE_S = 30.0
"""Seconds one process may take to renew a grant before another may try."""
REFRESH_S = 12.0
"""Seconds for one request to a token endpoint, and for waiting for another's."""
LOOK_S = 0.05
"""Seconds between two looks at a grant that another is renewing."""


class Grants:
    """Opens grants for the length of one use, renews access tokens, and learns from how the conversation went."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        clients: Mapping[ProviderName, OAuthClient],
        conversation: Conversation = lambda provider, verb: nullcontext(),
    ):
        self._store = store
        self._conversation = conversation
        self._vault = vault
        self._clients = clients

    def seal(self, connection_id: str, secret: Secret) -> str:
        """Seal a secret for the row of this connection."""
        return self._vault.seal(
            json.dumps(dict(secret.values)), table="connections", row=connection_id, column="sealed_grant"
        )

    @contextmanager
    def use(
        self, connection: Connection, *, grant: SealedGrant | None = None, wait_s: float = REFRESH_S
    ) -> Iterator[Link]:
        """Open the connection's grant for a conversation with its provider; its renewal may take ``wait_s`` seconds.

        ``grant``: as it was read a moment ago, together with the connection; None: it is read now.

        Raises ``NeedsReauth`` at once when that is known already, ``NotFound`` when it was disconnected. What the
        conversation raises passes through; a refused grant and any other failure are noted on the connection. A good
        end is noted by ``went_well``, which the caller may collect for several connections.
        """
        if connection.status is ConnectionStatus.NEEDS_REAUTH:
            raise NeedsReauth()
        version = connection.grant_version
        try:
            _, version, secret = self._open(connection, grant)
            if connection.provider in self._clients:
                secret = self._fresh(connection, Secret({}), wait_s)
            yield Link(
                connection,
                secret,
                check=lambda: self._check(connection),
                renew=lambda refused: self._fresh(connection, refused, wait_s),
            )
        except NeedsReauth as error:
            if not self._store.connections.note_refusal(connection.id, version, error.message):
                # The grant was renewed while the old one was in use: its refusal says nothing about the new one.
                raise ProviderUnavailable(
                    "The access was renewed at this moment. Try again.", retry_after_s=1
                ) from error
            _log.warning("grant_refused", extra={"connection": connection.id, "provider": connection.provider})
            raise
        except PreconditionFailed:
            raise
        except ProviderError as error:
            # Only for people to see: a database that cannot take it must not hide what happened.
            with suppress(StoreUnavailable):
                self._store.connections.note_failure(connection.id, error.message)
            raise

    def went_well(self, connections: Sequence[Connection], now: Instant | None = None) -> None:
        """Note that the last conversation of these went well, in one transaction. ``now``: the database's time, if known."""
        now = self._store.now() if now is None else now
        worth = [connection for connection in connections if _worth_noting(connection, now)]
        if worth:
            # One statement needs no transaction of ours.
            with self._store.transaction() if len(worth) > 1 else nullcontext():
                self.note_well(worth, now)

    def note_well(self, connections: Sequence[Connection], now: Instant) -> None:
        """Note it in the caller's transaction; at most once a second for each."""
        # In the order of ids, as all who change several connections: two calls must not wait for each other.
        worth = sorted((each.id, each.grant_version) for each in connections if _worth_noting(each, now))
        self._store.connections.note_successes(worth, now)

    def opened(self, connection: Connection) -> Secret:
        """The grant as it is stored, without a conversation."""
        return self._open(connection)[2]

    def _check(self, connection: Connection) -> None:
        if not self._store.connections.is_live(connection.id):
            raise disconnected()

    def _open(self, connection: Connection, read: SealedGrant | None = None) -> tuple[str, int, Secret]:
        """The stored grant: sealed, its version, opened."""
        grant = read or self._store.connections.grant(connection.id)
        if grant is None:
            raise disconnected()
        try:
            text = self._vault.open(grant.sealed, table="connections", row=connection.id, column="sealed_grant")
        except VaultError as error:
            _log.error("grant_unopenable", extra={"connection": connection.id})
            raise ProviderUnavailable(
                "The stored access of this connection cannot be opened. Connect the account again.", retry_after_s=3600
            ) from error
        return grant.sealed, grant.version, Secret(json.loads(text))

    def _fresh(self, connection: Connection, refused: Secret, wait_s: float) -> Secret:
        """The grant with an access token that has not ended and is not the ``refused`` one.

        One process renews it, under a lease in the database; the others wait and read what it stored. A password cannot
        be renewed: it comes back as it is.
        """
        if connection.provider not in self._clients:
            return self._open(connection)[2]
        name = f"grant:{connection.id}"
        deadline = Deadline.after(wait_s)
        while True:
            secret = self._open(connection)[2]
            if self._usable(secret, refused):
                return secret
            token = self._store.leases.take(name, LEASE_S)
            if token is not None:
                try:
                    return self._renewed(connection, refused, deadline)
                finally:
                    self._store.leases.give_back(name, token)
            deadline.check()
            time.sleep(LOOK_S)

    def _renewed(self, connection: Connection, refused: Secret, deadline: Deadline) -> Secret:
        """Inside the lease: read again, renew, and store before anything uses the new tokens."""
        for _ in range(3):
            sealed, version, secret = self._open(connection)
            if self._usable(secret, refused):
                return secret
            current = self._store.connections.get(connection.organization_id, connection.id)
            if current is None:
                raise disconnected()
            if current.status is ConnectionStatus.NEEDS_REAUTH:
                # Whoever held the lease before us has learned that; asking again would only tell it again.
                raise NeedsReauth()
            try:
                with self._conversation(connection.provider, "renew"):
                    tokens = self._clients[connection.provider].refresh(
                        refresh_token=secret["refresh_token"], tenant=secret["tenant"], deadline=deadline
                    )
            except NeedsReauth:
                # Believed only while the refused refresh token is the one that is stored.
                if self._open(connection)[0] == sealed:
                    # Noted inside the lease, so that those who wait for it need not ask.
                    self._store.connections.note_refusal(connection.id, version, NeedsReauth().message)
                    raise
                continue
            renewed = secret_of(tokens, tenant=secret["tenant"], now=self._store.now(), before=secret)
            if self._store.connections.reseal(connection.id, sealed, self.seal(connection.id, renewed)):
                return renewed
            # Somebody stored another grant meanwhile (a renewal by its owner, a key rotation): theirs is the truth.
        raise ProviderUnavailable("The access to this account keeps changing at the moment. Try again.")

    def _usable(self, secret: Secret, refused: Secret) -> bool:
        if secret["access_token"] == refused.values.get("access_token"):
            return False
        return int(secret["renew_at"]) > self._store.now()


def _worth_noting(connection: Connection, now: Instant) -> bool:
    return connection.sync_status is not SyncStatus.CONNECTED or now - (connection.last_sync_at or 0) >= SECOND


def disconnected() -> CalendarError:
    """What every use of a disconnected connection says."""
    return NotFound("There is no such connection. List shows the ones there are.")
