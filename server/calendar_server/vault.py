"""Seals secrets and opens them: AES-256-GCM with a ring of master keys, each text bound to its place.

A sealed text is ``v1|kid|nonce|ciphertext`` (base64url). Table, row, column and key id are authenticated with it, so
that a sealed text that was moved to another row opens no more than one that was changed.

Nonces are 96 random bits. NIST SP 800-38D §8.3 allows 2^32 texts under one key, for then a repeated nonce is still less
likely than 2^-32. With one text for each change of a grant or booking and each page of a list, ten a second reach that
after thirteen years; `rotate-keys` with a new key begins anew.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = "v1"
KEY_BYTES = 32
NONCE_BYTES = 12
KEYS_MOST = 100
"""Master keys in one ring."""
KEY_FILE_BYTES = 16_384
"""Bytes of a key file that are read."""

_KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SEALED = re.compile(r"v1\|([A-Za-z0-9._-]{1,64})\|([A-Za-z0-9_-]{16})\|([A-Za-z0-9_-]{22,})")
_CHECK = "The master key of this id seals and opens."


class VaultError(Exception):
    """A sealed text cannot be opened. Always the same sentence: why it cannot is nobody's business."""

    def __init__(self) -> None:
        super().__init__("This sealed text cannot be opened here.")


class VaultKeyError(Exception):
    """The master keys are not the ones that the database was written with."""


class CheckTexts(Protocol):
    """The known texts, one sealed for each key id, by which a wrong key is noticed. ``put`` never replaces one."""

    def get(self, kid: str) -> str | None: ...

    def put(self, kid: str, check_sealed: str) -> None: ...

    def all(self) -> dict[str, str]: ...


class KeepsCheckTexts(Protocol):
    """What has check texts: the store."""

    @property
    def vault_keys(self) -> CheckTexts: ...


class Vault:
    """A ring of master keys. The first one seals, all of them open."""

    def __init__(self, keys: Mapping[str, bytes]):
        """``keys`` by id, 32 bytes each, the writing one first."""
        self._ciphers = {kid: AESGCM(key) for kid, key in keys.items()}
        self._writing_kid = next(iter(keys))

    def __repr__(self) -> str:
        return f"Vault({', '.join(self._ciphers)}, ***)"

    @classmethod
    def from_keys(cls, text: str) -> Vault:
        """Read ``kid:base64(32 bytes)``, comma between, the writing one first.

        Takes base64 in both alphabets, with or without padding. Raises ``ValueError`` that says what is wrong without
        showing a key.
        """
        keys: dict[str, bytes] = {}
        entries = [entry.strip() for entry in text.split(",")]
        for position, entry in enumerate(entries, 1):
            kid, colon, encoded = entry.partition(":")
            if not colon:
                raise ValueError(f"entry {position} must be `kid:base64(32 bytes)`; there is no colon in it.")
            if not _KID.fullmatch(kid):
                # Not shown: with the parts swapped it would be the key.
                raise ValueError(
                    f"entry {position} must begin with a key id of 1 to 64 letters, digits, `.`, `_`, `-`."
                )
            if kid in keys:
                raise ValueError(f"the key id {kid} is there twice.")
            keys[kid] = _key(kid, encoded.strip())
        if len(keys) > KEYS_MOST:
            raise ValueError(f"at most {KEYS_MOST} keys can be given.")
        if len(set(keys.values())) < len(keys):
            raise ValueError("two key ids have the same key.")
        return cls(keys)

    @property
    def writing_kid(self) -> str:
        """The id of the key that seals."""
        return self._writing_kid

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of all keys, the writing one first."""
        return tuple(self._ciphers)

    def seal(self, text: str, *, table: str, row: str, column: str) -> str:
        """Seal a text for one place. The same text never gives the same sealed text twice."""
        return self._seal(self._writing_kid, text, table, row, column)

    def open(self, sealed: str, *, table: str, row: str, column: str) -> str:
        """Open what was sealed for this place. Raises ``VaultError`` for anything else."""
        parts = _parts(sealed)
        cipher = self._ciphers.get(parts[0]) if parts else None
        if parts is None or cipher is None:
            raise VaultError()
        kid, nonce, ciphertext = parts
        try:
            return cipher.decrypt(nonce, ciphertext, _place(table, row, column, kid)).decode()
        except (InvalidTag, UnicodeDecodeError):
            # Without its cause: all failures look alike.
            raise VaultError() from None

    @staticmethod
    def kid_of(sealed: str) -> str:
        """The id of the key that sealed a text; empty when the text is none that a vault sealed."""
        parts = _parts(sealed)
        return parts[0] if parts else ""

    def seal_check(self, kid: str) -> str:
        """The known text, sealed with one key of the ring."""
        return self._seal(kid, _CHECK, "vault_keys", kid, "check_sealed")

    def opens_check(self, kid: str, sealed: str) -> bool:
        """Whether the known text was sealed with the key that the ring has for this id."""
        try:
            return self.open(sealed, table="vault_keys", row=kid, column="check_sealed") == _CHECK
        except VaultError:
            return False

    def _seal(self, kid: str, text: str, table: str, row: str, column: str) -> str:
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._ciphers[kid].encrypt(nonce, text.encode(), _place(table, row, column, kid))
        return "|".join((VERSION, kid, _encode(nonce), _encode(sealed)))


def prefix_of(kid: str) -> str:
    """What every text begins with that a key sealed."""
    return f"{VERSION}|{kid}|"


def check_keys(vault: Vault, store: KeepsCheckTexts) -> None:
    """Hold the ring against what the database was written with. A new key id leaves its check text there.

    Raises ``VaultKeyError`` when a key is another than the one that wrote under its id, or when others wrote here and
    none of the ring did. Nothing is overwritten, whatever happens.
    """
    known = store.vault_keys.all()
    if known and not known.keys() & set(vault.kids):
        raise VaultKeyError(
            f"none of these keys has written this database; it was {', '.join(sorted(known))}. "
            "Give that key too; the first one writes from now on."
        )
    for kid in vault.kids:
        if kid in known and not vault.opens_check(kid, known[kid]):
            raise _other_key(kid)
    for kid in vault.kids:
        if kid in known:
            continue
        store.vault_keys.put(kid, vault.seal_check(kid))
        # Another process may have been first, with another key: the text that stands there counts.
        if not vault.opens_check(kid, store.vault_keys.get(kid) or ""):
            raise _other_key(kid)


def _other_key(kid: str) -> VaultKeyError:
    return VaultKeyError(
        f"the key {kid} is not the one that this database was written with. Restore that one; nothing was changed."
    )


def key_beside(database_path: Path, *, make: bool = True) -> str:
    """The key in ``<database>.key``, made if there is no such file. For SQLite without a setting.

    The file is its owner's alone (0600); one that others can read is refused with ``ValueError``, and so is one without
    a key in it, or a missing one unless ``make``. Two processes that are first at once agree on one key. A copy of the
    file belongs where the database's backups are not.
    """
    path = database_path.with_name(f"{database_path.name}.key")
    try:
        if not path.exists():
            if not make:
                raise ValueError(
                    f"is not set, and the key file {path}, which this database was written with, is gone. "
                    "Restore it from a backup."
                )
            _make_key(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            raw = file.read(KEY_FILE_BYTES)
    except OSError as error:
        raise ValueError(
            f"is not set, and the key file {path} cannot be {'read' if path.exists() else 'made'} ({error.strerror})."
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"is not set, and the key file {path} can be used by others. Run `chmod 600 {path}`.")
    text = raw.decode("ascii", "replace").strip()
    if not text:
        raise ValueError(f"is not set, and the key file {path} is empty. Restore it from a backup.")
    return text


def _make_key(path: Path) -> None:
    """Make the key file, whole or not at all: written under another name, then linked, which only one can do."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"k1:{base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _key(kid: str, encoded: str) -> bytes:
    """Decode one key. The message names the id only."""
    plain = encoded.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"the key {kid} is not base64.") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key {kid} has {len(key)} bytes; it must have {KEY_BYTES}.")
    return key


def _place(table: str, row: str, column: str, kid: str) -> bytes:
    """What is authenticated beside the text. JSON keeps the parts apart, whatever is in them."""
    return json.dumps([VERSION, table, row, column, kid]).encode()


def _parts(sealed: str) -> tuple[str, bytes, bytes] | None:
    """Key id, nonce and ciphertext; None when the text is none that a vault sealed."""
    match = _SEALED.fullmatch(sealed)
    if match is None:
        return None
    kid, *encoded = match.groups()
    try:
        nonce, ciphertext = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in encoded)
    except binascii.Error:
        return None
    # Base64 has several spellings of the same bytes; one sealed text has one.
    if [_encode(nonce), _encode(ciphertext)] != encoded:
        return None
    return kid, nonce, ciphertext


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
