"""Organizations, API keys, check texts of master keys."""

from __future__ import annotations

import pytest

from calendar_server.core.model import OrganizationId
from calendar_server.store.rows import ApiKeyRow
from calendar_server.store.store import Store, StoreError
from tests.contract_store.examples import at_once


class TestOrganizations:
    def test_a_name_is_one_organization(self, store: Store) -> None:
        assert store.organizations.ensure("Alpha") == store.organizations.ensure("Alpha")

    def test_names_differ_by_case(self, store: Store) -> None:
        assert store.organizations.ensure("Alpha") != store.organizations.ensure("alpha")

    def test_an_unknown_name_is_none(self, store: Store) -> None:
        assert store.organizations.get_by_name("Alpha") is None

    def test_two_that_ensure_a_name_at_once_get_the_same(self, store: Store) -> None:
        found = at_once([lambda: store.organizations.ensure("Alpha")] * 8)
        assert found == [store.organizations.get_by_name("Alpha")] * 8


class TestApiKeys:
    def test_a_key_comes_back_as_it_was_added(self, store: Store, organization: OrganizationId) -> None:
        secret = bytes(range(256))[:32]
        store.api_keys.add("k", organization, secret, 7)
        assert store.api_keys.get("k") == ApiKeyRow("k", organization, secret, None)

    def test_an_unknown_key_is_none(self, store: Store) -> None:
        assert store.api_keys.get("k") is None

    def test_revoking_an_unknown_key_says_so(self, store: Store) -> None:
        assert store.api_keys.revoke("k", 1) is False

    def test_a_key_that_is_revoked_twice_keeps_the_first_time(self, store: Store, organization: OrganizationId) -> None:
        store.api_keys.add("k", organization, b"x" * 32, 7)
        assert store.api_keys.revoke("k", 10) is True
        assert store.api_keys.revoke("k", 20) is True
        row = store.api_keys.get("k")
        assert row is not None
        assert row.revoked_at == 10

    def test_a_key_of_no_organization_is_refused(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.api_keys.add("k", OrganizationId("org_none"), b"x" * 32, 7)

    def test_the_secret_is_in_no_text_of_the_row(self, store: Store, organization: OrganizationId) -> None:
        store.api_keys.add("k", organization, b"secret", 7)
        assert "secret'" not in repr(store.api_keys.get("k"))


class TestVaultKeys:
    def test_the_first_text_of_a_key_stays(self, store: Store) -> None:
        store.vault_keys.put("k1", "first")
        store.vault_keys.put("k1", "second")
        assert store.vault_keys.get("k1") == "first"

    def test_all_are_told_by_id(self, store: Store) -> None:
        store.vault_keys.put("k1", "one")
        store.vault_keys.put("k2", "two")
        assert store.vault_keys.all() == {"k1": "one", "k2": "two"}

    def test_an_unknown_id_is_none(self, store: Store) -> None:
        assert store.vault_keys.get("k1") is None
