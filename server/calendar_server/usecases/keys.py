"""API keys: made, revoked, believed."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from dataclasses import dataclass

from calendar_server.core.model import OrganizationId
from calendar_server.errors import NotFound, Unauthorized
from calendar_server.store.store import Store

_KEY = re.compile(r"calkey_([0-9a-f]{16})_([0-9a-f]{64})")
BELIEVED_S = 2.0
"""Seconds a key is believed without asking the database: a revoked one is dead everywhere within that."""
_BELIEVED_MOST = 10_000


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. ``text`` is shown once and stored nowhere."""

    id: str
    text: str


class Keys:
    """The keys of all organizations. 256 random bits each; only the sha256 of the secret is stored."""

    def __init__(self, store: Store):
        self._store = store
        self._believed: dict[bytes, tuple[float, OrganizationId]] = {}
        self._lock = threading.Lock()

    def create(self, organization: str) -> NewKey:
        """Make a key for the organization of this name, and the organization if there is none."""
        key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
        with self._store.transaction():
            organization_id = self._store.organizations.ensure(organization)
            self._store.api_keys.add(key_id, organization_id, _sha256(secret), self._store.now())
        return NewKey(key_id, f"calkey_{key_id}_{secret}")

    def revoke(self, key_id: str) -> None:
        """End a key. Raises ``NotFound`` when there is none with this id; ending it twice is fine."""
        if not self._store.api_keys.revoke(key_id, self._store.now()):
            raise NotFound("There is no API key with this id. The id is what `create-api-key` printed as `id: …`.")

    def authenticate(self, key: str) -> OrganizationId:
        """The organization behind a key. Raises ``Unauthorized``, always with the same text."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise Unauthorized()
        key_id, secret = match.groups()
        fingerprint = _sha256(key)
        with self._lock:
            believed = self._believed.get(fingerprint)
        if believed and believed[0] > time.monotonic():
            return believed[1]
        row = self._store.api_keys.get(key_id)
        # An unknown id is compared as well, so that the time says nothing about which ids exist.
        expected = row.secret_sha256 if row else bytes(32)
        if not hmac.compare_digest(expected, _sha256(secret)) or row is None or row.revoked_at is not None:
            with self._lock:
                self._believed.pop(fingerprint, None)
            raise Unauthorized()
        with self._lock:
            if len(self._believed) >= _BELIEVED_MOST:
                self._believed.clear()
            self._believed[fingerprint] = (time.monotonic() + BELIEVED_S, row.organization_id)
        return row.organization_id


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
