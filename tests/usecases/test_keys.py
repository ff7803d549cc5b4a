"""API keys over both databases: long enough, shown once, stored as a hash, revoked everywhere at once."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable

import psycopg
import pytest

from calendar_server.errors import NotFound, Unauthorized
from calendar_server.store.store import Store
from calendar_server.usecases.keys import BELIEVED_S, Keys

REVOKED_WITHIN_S = 5.0
BITS_LEAST = 160


@pytest.fixture
def keys(store: Store) -> Keys:
    return Keys(store)


def refused(keys: Keys, text: str) -> str:
    with pytest.raises(Unauthorized) as raised:
        keys.authenticate(text)
    return f"{raised.value.reason} {raised.value.message} {raised.value.metadata} {raised.value.retry_after_s}"


class TestANewKey:
    def test_it_is_believed_as_its_organizations(self, keys: Keys, store: Store) -> None:
        assert keys.authenticate(keys.create("acme").text) == store.organizations.ensure("acme")

    def test_two_of_one_organization_are_both_believed(self, keys: Keys) -> None:
        first, second = keys.create("acme"), keys.create("acme")
        assert first.text != second.text
        assert keys.authenticate(first.text) == keys.authenticate(second.text)

    def test_its_secret_has_160_bits_or_more_that_no_other_key_shares(self, keys: Keys) -> None:
        secrets = [keys.create("acme").text.split("_")[2] for _ in range(40)]
        assert all(re.fullmatch("[0-9a-f]+", secret) for secret in secrets)
        assert min(len(secret) * math.log2(16) for secret in secrets) >= BITS_LEAST
        # Were a part of it fixed or counted, a column would have few different characters.
        for column in zip(*secrets, strict=True):
            assert len(set(column)) > 6

    def test_only_the_sha256_of_the_secret_is_stored(self, keys: Keys, store: Store) -> None:
        made = keys.create("acme")
        secret = made.text.split("_")[2]
        row = store.api_keys.get(made.id)
        assert row is not None
        assert row.secret_sha256 == hashlib.sha256(secret.encode()).digest()
        assert secret not in repr(row)

    def test_no_copy_of_the_database_holds_it(
        self, keys: Keys, store: Store, database_url: str, dump: Callable[[], bytes]
    ) -> None:
        made = keys.create("acme")
        secret = made.text.split("_")[2]
        held = dump()
        assert made.id.encode() in held
        for form in (secret.encode(), bytes.fromhex(secret), secret[:24].encode(), secret[-24:].encode()):
            assert form not in held


@pytest.fixture
def dump(store: Store, database_url: str) -> Callable[[], bytes]:
    """Reads all that a database holds."""

    def read() -> bytes:
        if store.path is not None:
            return b"".join(path.read_bytes() for path in store.path.parent.glob(f"{store.path.name}*"))
        with psycopg.connect(database_url) as connection:
            return repr(connection.execute("SELECT * FROM api_keys").fetchall()).encode()

    return read


class TestARefusedKey:
    def test_every_wrong_key_hears_the_same(self, keys: Keys) -> None:
        made = keys.create("acme")
        _, key_id, secret = made.text.split("_")
        revoked = keys.create("acme")
        keys.revoke(revoked.id)
        flipped = secret[:-1] + ("0" if secret[-1] != "0" else "1")
        told = {
            refused(keys, text)
            for text in (
                "",
                "calkey_",
                made.text[:-1],
                made.text + "0",
                made.text.upper(),
                f" {made.text}",
                f"calkey_{'0' * 16}_{secret}",
                f"calkey_{key_id}_{flipped}",
                f"calkey_{key_id}_{'0' * 64}",
                f"calkey_{revoked.id}_{secret}",
                revoked.text,
            )
        }
        assert len(told) == 1

    def test_an_unknown_id_is_asked_for_and_compared_as_a_known_one(
        self, keys: Keys, statements: Callable[[Callable[[], object]], list[str]]
    ) -> None:
        made = keys.create("acme")
        _, key_id, secret = made.text.split("_")
        asked = [
            statements(lambda text=text: refused(keys, text))  # type: ignore[misc]
            for text in (f"calkey_{key_id}_{'0' * 64}", f"calkey_{'0' * 16}_{secret}")
        ]
        assert asked[0] == asked[1]
        assert len(asked[0]) == 1

    def test_how_much_of_a_secret_is_right_cannot_be_told_by_the_time(self, keys: Keys) -> None:
        """The medians of many tries; a comparison that stops early differs by less, but a scheme with two steps by more."""
        made = keys.create("acme")
        _, key_id, secret = made.text.split("_")
        nearly, not_at_all, unknown = (
            f"calkey_{key_id}_{secret[:-1]}{'0' if secret[-1] != '0' else '1'}",
            f"calkey_{key_id}_{'0' * 64}",
            f"calkey_{'0' * 16}_{secret}",
        )
        times: dict[str, list[float]] = {nearly: [], not_at_all: [], unknown: []}
        for _ in range(60):
            for text, taken in times.items():
                began = time.perf_counter()
                refused(keys, text)
                taken.append(time.perf_counter() - began)
        medians = [sorted(taken)[len(taken) // 2] for taken in times.values()]
        assert max(medians) < 3 * min(medians) + 0.002


class TestARevokedKey:
    def test_it_is_refused_at_once_where_it_was_not_believed_before(self, keys: Keys, store: Store) -> None:
        made = keys.create("acme")
        keys.revoke(made.id)
        refused(Keys(store), made.text)

    def test_it_is_dead_in_every_process_within_five_seconds(self, keys: Keys, store: Store) -> None:
        """Another process is another ``Keys``: it has believed the key a moment ago, and nobody tells it."""
        made = keys.create("acme")
        others = [Keys(store) for _ in range(3)]
        for other in others:
            other.authenticate(made.text)
        keys.revoke(made.id)
        ends_at = time.monotonic() + REVOKED_WITHIN_S
        alive = list(others)
        while alive and time.monotonic() < ends_at:
            alive = [other for other in alive if believes(other, made.text)]
            time.sleep(0.05)
        assert not alive
        assert BELIEVED_S < REVOKED_WITHIN_S

    def test_use_does_not_keep_it_alive(self, keys: Keys) -> None:
        made = keys.create("acme")
        keys.authenticate(made.text)
        keys.revoke(made.id)
        ends_at = time.monotonic() + REVOKED_WITHIN_S
        while believes(keys, made.text):
            assert time.monotonic() < ends_at
            time.sleep(0.02)

    def test_others_of_its_organization_live_on(self, keys: Keys) -> None:
        made, other = keys.create("acme"), keys.create("acme")
        keys.revoke(made.id)
        refused(keys, made.text)
        keys.authenticate(other.text)

    def test_it_may_be_revoked_twice_but_not_one_that_never_was(self, keys: Keys) -> None:
        made = keys.create("acme")
        keys.revoke(made.id)
        keys.revoke(made.id)
        with pytest.raises(NotFound):
            keys.revoke("0" * 16)


def believes(keys: Keys, text: str) -> bool:
    try:
        keys.authenticate(text)
    except Unauthorized:
        return False
    return True
