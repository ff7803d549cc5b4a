"""Moving from SQLite to Postgres: everything is taken along, under the master keys that sealed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from calendar_server.store.store import Store
from calendar_server.store.takeover import SqliteSource, held
from calendar_server.vault import Vault, VaultKeyError, check_keys


@dataclass(slots=True)
class _CheckTexts:
    """Check texts of a database that is only read."""

    texts: dict[str, str] = field(default_factory=dict)

    @property
    def vault_keys(self) -> _CheckTexts:
        return self

    def get(self, kid: str) -> str | None:
        return self.texts.get(kid)

    def put(self, kid: str, check_sealed: str) -> None:
        self.texts.setdefault(kid, check_sealed)

    def all(self) -> dict[str, str]:
        return dict(self.texts)


def move(path: Path, store: Store, vault: Vault) -> dict[str, int]:
    """Copy a SQLite database that nobody uses into an empty Postgres; answers the rows of each table.

    Raises ``VaultKeyError`` when the ring is not the one that sealed what is there, ``StoreError`` for all else that is in
    the way. Nothing is written then, and never anything to the file.
    """
    with held(path) as source:
        _check(vault, source)
        return store.take_over(source)


def _check(vault: Vault, source: SqliteSource) -> None:
    texts = source.check_texts()
    missing = sorted(texts.keys() - set(vault.kids))
    if missing:
        raise VaultKeyError(
            f"the database was written with {', '.join(missing)} too. Without a setting the key stands in the file "
            "`<database>.key`; give it as it stands there."
        )
    check_keys(vault, _CheckTexts(texts))
