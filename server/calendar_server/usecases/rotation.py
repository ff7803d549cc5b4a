"""Key rotation: everything that is sealed with an older key is sealed anew with the one that writes now."""

from __future__ import annotations

import json
from dataclasses import dataclass

from calendar_server.store.store import Store
from calendar_server.vault import Vault, VaultError


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
