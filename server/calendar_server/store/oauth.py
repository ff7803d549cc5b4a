"""Named queries about OAuth redirects under way, and about leases by name."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from calendar_server.core.model import SECOND, ConnectionId, Instant, OrganizationId, ProviderName
from calendar_server.store.database import Database, chunks
from calendar_server.store.tables import LEASES, OAUTH_STATES


@dataclass(frozen=True, slots=True)
class OAuthStateRow:
    """A redirect under way. ``connection_id`` is empty unless a connection is to be renewed."""

    state_sha256: str
    organization_id: OrganizationId
    owner: str
    provider: ProviderName
    tenant: str
    redirect_uri: str
    client_state: str
    connection_id: ConnectionId
    sealed_verifier: str
    expires_at: Instant


class OAuthStates:
    """Redirects under way. Each is used once."""

    KEPT_S = 86_400
    """Seconds after its end that a state is still known, so that who comes late is told so."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, row: OAuthStateRow) -> None:
        """Add a redirect, and forget those that ended long ago."""
        table = OAUTH_STATES
        self._database.change(table.delete().where(table.expires_at < self._database.now() - self.KEPT_S * SECOND))
        self._database.change(
            table.insert(
                {
                    table.state_sha256: row.state_sha256,
                    table.organization_id: row.organization_id,
                    table.owner: row.owner,
                    table.provider: str(row.provider),
                    table.tenant: row.tenant,
                    table.redirect_uri: row.redirect_uri,
                    table.client_state: row.client_state,
                    table.connection_id: row.connection_id,
                    table.sealed_verifier: row.sealed_verifier,
                    table.expires_at: row.expires_at,
                    table.used_at: None,
                }
            )
        )

    def take(self, state_sha256: str, provider: ProviderName) -> OAuthStateRow | None:
        """Use a redirect up. None when it is unknown, another provider's, or used already; of two takers one gets it."""
        table = OAUTH_STATES
        taken = self._database.change(
            table.update({table.used_at: self._database.now()}).where(
                table.state_sha256 == state_sha256, table.provider == str(provider), table.used_at.is_null()
            )
        )
        if not taken:
            return None
        row = self._database.row(table.select().where(table.state_sha256 == state_sha256))
        if row is None:
            return None
        row.pop("used_at")
        return OAuthStateRow(**{**row, "provider": ProviderName(row["provider"])})


class Leases:
    """Leases by name: one holder at a time across all processes, until an end by the database's clock."""

    def __init__(self, database: Database):
        self._database = database

    def take(self, name: str, lease_s: float) -> str | None:
        """Take the lease for ``lease_s`` seconds. Answers its token, or None when somebody holds it."""
        now = self._database.now()
        token, until = secrets.token_hex(16), now + round(lease_s * SECOND)
        query = LEASES.insert({LEASES.name: name, LEASES.token: token, LEASES.lease_until: until}).on_conflict(
            conflict_target=("name",),
            update={LEASES.token: token, LEASES.lease_until: until},
            where=(LEASES.lease_until <= now),
        )
        self._database.change(query)
        row = self._database.row(LEASES.select(LEASES.token).where(LEASES.name == name))
        return token if row is not None and row["token"] == token else None

    def take_many(self, names: Sequence[str], lease_s: float) -> tuple[str, set[str]]:
        """Take as many of these leases as nobody holds, under one token. Answers it, and which ones were taken."""
        token = secrets.token_hex(16)
        with self._database.joined():
            now = self._database.now()
            until = now + round(lease_s * SECOND)
            self._database.execute_many(
                "INSERT INTO leases (name, token, lease_until) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "token = excluded.token, lease_until = excluded.lease_until WHERE leases.lease_until <= ?",
                [(name, token, until, now) for name in sorted(names)],
            )
            taken: set[str] = set()
            for chunk in chunks(sorted(names)):
                marks = ", ".join("?" * len(chunk))
                sql = f"SELECT name FROM leases WHERE name IN ({marks}) AND token = ?"  # noqa: S608 — placeholders alone
                taken |= {row[0] for row in self._database.fetch(sql, (*chunk, token))}
        return token, taken

    def give_back_many(self, names: Iterable[str], token: str) -> None:
        """End these leases, as far as they are still under this token."""
        for chunk in chunks(sorted(names)):
            self._database.change(LEASES.delete().where(LEASES.name.in_(chunk), LEASES.token == token))

    def held(self, name: str) -> bool:
        """Whether somebody holds this lease."""
        query = LEASES.select(LEASES.name).where(LEASES.name == name, LEASES.lease_until > self._database.now())
        return self._database.row(query) is not None

    def give_back(self, name: str, token: str) -> None:
        """End the lease, if it is still this one."""
        self._database.change(LEASES.delete().where(LEASES.name == name, LEASES.token == token))
