"""Key rotation: everything that is sealed with an older key is sealed anew with the one that writes now."""

from __future__ import annotations

import json
from dataclasses import dataclass

from calendar_server.store.store import Store
from calendar_server.vault import Vault, VaultError, VaultKeyError, prefix_of


def check_retired(store: Store, vault: Vault) -> None:
    """Hold keys that wrote here once, and are not in the ring any more, against what is sealed with them.

    Raises ``VaultKeyError`` when anything still is. Verifiers of log-ins in progress do not count: they end in minutes.
    """
    known = set(store.vault_keys.all())
    retired = known - set(vault.kids)
    if retired == known:
        # None of the ring wrote here: that is told elsewhere.
        return
    for kid in sorted(retired):
        prefix = prefix_of(kid)
        if store.connections.sealed_with(prefix) or store.bookings.sealed_with(prefix):
            raise VaultKeyError(
                f"the key {kid} is still in use. Give it too, behind the one that writes, and run `rotate-keys` before "
                "it leaves; nothing was changed."
            )


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did. ``unreadable`` names rows that no key opens; they are left as they are."""

    kid: str
    resealed: int
    current: int
    unreadable: tuple[str, ...]


def rotate(store: Store, vault: Vault) -> Rotated:
    """Seal everything anew with the vault's writing key, row by row, while servers run.

    A row that changes meanwhile was sealed with the writing key by whoever changed it, so losing that race is fine.
    """
    resealed = current = 0
    unreadable: list[str] = []
    for connection_id, sealed in store.connections.sealed_grants():
        if vault.kid_of(sealed) == vault.writing_kid:
            current += 1
            continue
        where = {"table": "connections", "row": connection_id, "column": "sealed_grant"}
        try:
            fresh = vault.seal(vault.open(sealed, **where), **where)
        except VaultError:
            unreadable.append(f"connection {connection_id}")
            continue
        resealed += store.connections.reseal(connection_id, sealed, fresh)
    for organization_id, booking_id, sealed in store.bookings.sealed_contents():
        if vault.kid_of(sealed) == vault.writing_kid:
            current += 1
            continue
        row = json.dumps([organization_id, booking_id])
        where = {"table": "bookings", "row": row, "column": "sealed_content"}
        try:
            fresh = vault.seal(vault.open(sealed, **where), **where)
        except VaultError:
            unreadable.append(f"booking {booking_id}")
            continue
        resealed += store.bookings.reseal(organization_id, booking_id, sealed, fresh)
    return Rotated(vault.writing_kid, resealed, current, tuple(unreadable))
