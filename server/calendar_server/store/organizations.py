"""Named queries about organizations, their API keys, and the check texts of master keys."""

from __future__ import annotations

import secrets

import peewee

from calendar_server.core.model import Instant, OrganizationId
from calendar_server.store.database import Database
from calendar_server.store.rows import ApiKeyRow
from calendar_server.store.tables import API_KEYS, ORGANIZATIONS, VAULT_KEYS


class Organizations:
    """The organizations. Names are unique."""

    def __init__(self, database: Database):
        self._database = database

    def ensure(self, name: str) -> OrganizationId:
        """The organization of this name, made if there is none."""
        table = ORGANIZATIONS
        query = table.insert(
            {
                table.id: f"org_{secrets.token_hex(12)}",
                table.name: name,
                table.created_at: self._database.now(),
            }
        ).on_conflict(action="nothing", conflict_target=("name",))
        self._database.change(query)
        found = self.get_by_name(name)
        if found is None:
            raise AssertionError("an organization that was just made is not there")
        return found

    def get_by_name(self, name: str) -> OrganizationId | None:
        """The organization of this name, or None."""
        row = self._database.row(ORGANIZATIONS.select(ORGANIZATIONS.id).where(ORGANIZATIONS.name == name))
        return None if row is None else OrganizationId(row["id"])


class ApiKeys:
    """API keys, by the id that stands in them."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, key_id: str, organization_id: OrganizationId, secret_sha256: bytes, created_at: Instant) -> None:
        """Add a key of an organization."""
        table = API_KEYS
        self._database.change(
            table.insert(
                {
                    table.id: key_id,
                    table.organization_id: organization_id,
                    table.secret_sha256: secret_sha256,
                    table.created_at: created_at,
                    table.revoked_at: None,
                }
            )
        )

    def get(self, key_id: str) -> ApiKeyRow | None:
        """The key with this id, revoked or not."""
        row = self._database.row(API_KEYS.select().where(API_KEYS.id == key_id))
        if row is None:
            return None
        return ApiKeyRow(
            id=row["id"],
            organization_id=OrganizationId(row["organization_id"]),
            secret_sha256=bytes(row["secret_sha256"]),
            revoked_at=row["revoked_at"],
        )

    def revoke(self, key_id: str, at: Instant) -> bool:
        """End a key; one that is ended already keeps its time. False: there is none with this id."""
        first = peewee.fn.COALESCE(API_KEYS.revoked_at, at)
        return self._database.change(API_KEYS.update({API_KEYS.revoked_at: first}).where(API_KEYS.id == key_id)) == 1


class VaultKeys:
    """One sealed known text for each master key that ever wrote, by which a wrong key is noticed."""

    def __init__(self, database: Database):
        self._database = database

    def get(self, kid: str) -> str | None:
        """The sealed text of this key id."""
        row = self._database.row(VAULT_KEYS.select().where(VAULT_KEYS.kid == kid))
        return None if row is None else str(row["check_sealed"])

    def put(self, kid: str, check_sealed: str) -> None:
        """Store the sealed text of a key id that has none. One that is there stays: the first one counts."""
        query = VAULT_KEYS.insert({VAULT_KEYS.kid: kid, VAULT_KEYS.check_sealed: check_sealed})
        self._database.change(query.on_conflict(action="nothing", conflict_target=("kid",)))

    def all(self) -> dict[str, str]:
        """Every sealed text by key id."""
        return {row["kid"]: row["check_sealed"] for row in self._database.rows(VAULT_KEYS.select())}
