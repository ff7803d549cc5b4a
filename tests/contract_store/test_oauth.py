"""OAuth redirects under way and leases by name, over both databases."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from calendar_server.core.model import SECOND, ConnectionId, OrganizationId, ProviderName
from calendar_server.store.oauth import OAuthStateRow, OAuthStates
from calendar_server.store.store import Store
from tests.contract_store.examples import add_connection


@pytest.fixture
def row(store: Store, organization: OrganizationId) -> OAuthStateRow:
    return OAuthStateRow(
        state_sha256="a" * 64,
        organization_id=organization,
        owner="anna",
        provider=ProviderName.GOOGLE,
        tenant="",
        redirect_uri="https://app.example.org/done?x=1",
        client_state="mine",
        connection_id=ConnectionId(""),
        sealed_verifier="v1|k|n|c",
        expires_at=store.now() + 600 * SECOND,
    )


class TestStates:
    def test_a_state_is_taken_whole_and_once(self, store: Store, row: OAuthStateRow) -> None:
        store.oauth_states.add(row)
        assert store.oauth_states.take(row.state_sha256, ProviderName.GOOGLE) == row
        assert store.oauth_states.take(row.state_sha256, ProviderName.GOOGLE) is None

    def test_of_many_that_take_it_at_once_one_gets_it(self, store: Store, row: OAuthStateRow) -> None:
        store.oauth_states.add(row)
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _: store.oauth_states.take(row.state_sha256, ProviderName.GOOGLE), range(8)))
        assert sum(each is not None for each in taken) == 1

    def test_another_providers_callback_neither_gets_it_nor_uses_it_up(self, store: Store, row: OAuthStateRow) -> None:
        store.oauth_states.add(row)
        assert store.oauth_states.take(row.state_sha256, ProviderName.MICROSOFT) is None
        assert store.oauth_states.take(row.state_sha256, ProviderName.GOOGLE) is not None

    def test_one_that_has_ended_is_still_known_for_a_day_and_then_forgotten(
        self, store: Store, row: OAuthStateRow
    ) -> None:
        day = OAuthStates.KEPT_S * SECOND
        late = dataclasses.replace(row, state_sha256="b" * 64, expires_at=store.now() - day + 60 * SECOND)
        old = dataclasses.replace(row, state_sha256="c" * 64, expires_at=store.now() - day - 60 * SECOND)
        for each in (late, old, row):
            store.oauth_states.add(each)
        assert store.oauth_states.take(late.state_sha256, ProviderName.GOOGLE) == late
        assert store.oauth_states.take(old.state_sha256, ProviderName.GOOGLE) is None


class TestLeases:
    def test_one_holds_it_at_a_time(self, store: Store) -> None:
        with ThreadPoolExecutor(8) as pool:
            tokens = list(pool.map(lambda _: store.leases.take("grant:x", 30), range(8)))
        assert sum(token is not None for token in tokens) == 1

    def test_it_is_free_when_it_is_given_back(self, store: Store) -> None:
        token = store.leases.take("grant:x", 30)
        assert token is not None
        store.leases.give_back("grant:x", token)
        assert store.leases.take("grant:x", 30) is not None

    def test_it_is_free_when_its_time_is_over(self, store: Store) -> None:
        assert store.leases.take("grant:x", 0) is not None
        assert store.leases.take("grant:x", 30) is not None
        assert store.leases.take("grant:x", 30) is None

    def test_who_lost_it_does_not_end_it_for_the_next(self, store: Store) -> None:
        late = store.leases.take("grant:x", 0)
        assert late is not None
        assert store.leases.take("grant:x", 30) is not None
        store.leases.give_back("grant:x", late)
        assert store.leases.take("grant:x", 30) is None

    def test_leases_of_other_names_are_others(self, store: Store) -> None:
        assert store.leases.take("grant:x", 30) is not None
        assert store.leases.take("grant:y", 30) is not None


def test_an_account_is_shared_while_another_live_connection_of_any_organization_has_it(
    store: Store, organization: OrganizationId, stranger: OrganizationId
) -> None:
    mine = add_connection(store, organization, 1, subject="same")
    theirs = add_connection(store, stranger, 2, subject="same")
    assert store.connections.shared(mine.id)
    store.connections.disconnect(stranger, theirs.id, store.now())
    assert not store.connections.shared(mine.id)
