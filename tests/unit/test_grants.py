"""Grants over a real database and a token endpoint with a memory: who renews, what is stored when, who is troubled."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from calendar_server.core.model import (
    SECOND,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    ProviderName,
    SyncStatus,
)
from calendar_server.errors import NeedsReauth, NotFound, ProviderUnavailable
from calendar_server.providers.base import Secret
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.oauth import OAuthClient, OAuthSettings, Tokens
from calendar_server.store.store import Store
from calendar_server.usecases.authorizations import EARLY_S, secret_of
from calendar_server.usecases.grants import Grants
from calendar_server.vault import Vault
from tests.fakes.entra import OAuthAnswer
from tests.fakes.microsoft import GraphUser, MicrosoftFake

VAULT = Vault.from_keys("k1:" + "A" * 43 + "=")


@dataclass
class World:
    """Anna's connection in a database that several replicas share."""

    microsoft: MicrosoftFake
    anna: GraphUser
    store: Store
    grants: Grants
    replica: Callable[[], Grants]
    """Makes another process's grants, with a database connection of its own."""
    connection: Connection

    def secret(self, *, left_s: int) -> Secret:
        """Good tokens of Anna's, as they are stored, of which the access token has so long to live."""
        tokens = self.microsoft.token_of(self.anna)
        return Secret(
            {
                "access_token": str(tokens["access_token"]),
                "refresh_token": str(tokens["refresh_token"]),
                "renew_at": str(self.store.now() + (left_s - EARLY_S) * SECOND),
                "tenant": "common",
            }
        )

    def store_secret(self, secret: Secret) -> Secret:
        """As a refresh stores it: the grant is still the same one."""
        sealed = self.store.connections.grant(self.connection.id)
        assert sealed is not None
        assert self.store.connections.reseal(
            self.connection.id, sealed.sealed, self.grants.seal(self.connection.id, secret)
        )
        return secret

    def renewed_by_its_owner(self) -> Secret:
        """The owner connected again: a new grant."""
        secret = self.secret(left_s=3600)
        self.store.connections.renew(
            self.connection.id,
            sealed_grant=self.grants.seal(self.connection.id, secret),
            account_email="anna@contoso.example",
            settings={},
        )
        return secret

    def now(self) -> Connection:
        """The connection as it stands."""
        found = self.store.connections.get(self.connection.organization_id, self.connection.id)
        assert found is not None
        return found

    def used(self, grants: Grants | None = None) -> str:
        """The access token that a conversation gets."""
        with (grants or self.grants).use(self.connection) as link:
            return link.secret["access_token"]

    @property
    def refreshes(self) -> int:
        return self.microsoft.entra.refreshes

    def accepts(self, access_token: str) -> bool:
        return self.microsoft.entra.bearer(f"Bearer {access_token}") is not None


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    with MicrosoftFake() as fake:
        yield fake


@pytest.fixture
def world(tmp_path: Path, microsoft: MicrosoftFake) -> Iterator[World]:
    url = f"sqlite:///{tmp_path}/calendar.db"
    egress = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=1_000_000)
    stores: list[Store] = []

    def replica() -> Grants:
        stores.append(Store.open(url))
        settings = OAuthSettings(
            microsoft.entra.client_id,
            microsoft.entra.client_secret,
            microsoft.authorize_url,
            microsoft.token_url,
            ("openid", "offline_access", "Calendars.ReadWrite"),
        )
        return Grants(stores[-1], VAULT, {ProviderName.MICROSOFT: OAuthClient(egress, settings)})

    grants = replica()
    store = stores[0]
    store.migrate()
    anna = microsoft.add_user("anna")
    connection = Connection(
        id=ConnectionId("cal_1"),
        organization_id=store.organizations.ensure("acme"),
        owner="",
        provider=ProviderName.MICROSOFT,
        subject=anna.user.id,
        account_email="anna@contoso.example",
        calendar_id=CalendarId("c"),
        busy_calendar_ids=(CalendarId("c"),),
        status=ConnectionStatus.ACTIVE,
        sync_status=SyncStatus.CONNECTED,
        sync_error=None,
        last_sync_at=None,
        connected_at=Instant(1),
        grant_version=1,
    )
    made = World(microsoft, anna, store, grants, replica, connection)
    store.connections.add(connection, grants.seal(connection.id, made.secret(left_s=3600)))
    yield made
    egress.close()
    for opened in stores:
        opened.close()


class TestWhenAGrantIsRenewed:
    def test_a_token_with_time_left_is_used_as_it_is(self, world: World) -> None:
        secret = world.store_secret(world.secret(left_s=EARLY_S + 30))
        assert (world.used(), world.refreshes) == (secret["access_token"], 0)

    @pytest.mark.parametrize("left_s", [EARLY_S - 1, 1, 0, -3600])
    def test_a_token_is_renewed_before_its_end(self, world: World, left_s: int) -> None:
        old = world.store_secret(world.secret(left_s=left_s))
        token = world.used()
        assert world.accepts(token)
        assert (token != old["access_token"], world.refreshes) == (True, 1)

    def test_a_renewed_token_serves_the_next_conversations(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        assert len({world.used() for _ in range(3)}) == 1
        assert world.refreshes == 1

    def test_a_refused_token_is_renewed_although_it_had_time_left(self, world: World) -> None:
        with world.grants.use(world.connection) as link:
            world.microsoft.entra.end_access_tokens()
            renewed = link.renew(link.secret)
        assert world.accepts(renewed["access_token"])

    def test_a_token_that_another_renewed_meanwhile_is_not_renewed_again(self, world: World) -> None:
        with world.grants.use(world.connection) as link:
            newer = world.store_secret(world.secret(left_s=3600))
            assert link.renew(link.secret)["access_token"] == newer["access_token"]
        assert world.refreshes == 0


class TestManyAtOnce:
    def test_three_replicas_with_many_calls_at_one_expiry_make_one_refresh(self, world: World) -> None:
        old = world.store_secret(world.secret(left_s=0))
        replicas = [world.grants, world.replica(), world.replica()]
        together = threading.Barrier(36)

        def call(number: int) -> str:
            together.wait(10)
            return world.used(replicas[number % 3])

        with ThreadPoolExecutor(36) as pool:
            tokens = set(pool.map(call, range(36)))
        assert world.refreshes == 1
        assert len(tokens) == 1
        assert old["access_token"] not in tokens

    def test_many_calls_that_are_refused_at_once_make_one_refresh(self, world: World) -> None:
        together = threading.Barrier(12)

        def call(_: int) -> str:
            with world.grants.use(world.connection) as link:
                together.wait(10)
                return link.renew(link.secret)["access_token"]

        with ThreadPoolExecutor(12) as pool:
            assert len(set(pool.map(call, range(12)))) == 1
        assert world.refreshes == 1

    def test_who_died_while_renewing_keeps_nobody_waiting_for_long(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        assert world.store.leases.take(f"grant:{world.connection.id}", 0.2)
        assert world.accepts(world.used())

    def test_a_failed_renewal_leaves_the_way_free_for_the_next(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        world.microsoft.entra.answers.append(OAuthAnswer(500))
        with pytest.raises(ProviderUnavailable):
            world.used()
        assert world.accepts(world.used())


class TestWhatIsStored:
    def test_a_new_token_is_stored_before_it_is_used(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        with world.grants.use(world.connection) as link:
            stored = world.replica().opened(world.connection)
            assert dict(stored.values) == dict(link.secret.values)

    def test_a_token_renewed_amid_a_conversation_is_stored_before_it_is_used(self, world: World) -> None:
        with world.grants.use(world.connection) as link:
            renewed = link.renew(link.secret)
            assert dict(world.replica().opened(world.connection).values) == dict(renewed.values)

    def test_a_rotated_refresh_token_takes_the_place_of_the_old_one(self, world: World) -> None:
        world.microsoft.entra.old_tokens_end = True
        old = world.store_secret(world.secret(left_s=0))
        world.used()
        new = world.grants.opened(world.connection)
        assert new["refresh_token"] != old["refresh_token"]

    def test_a_refresh_token_that_is_not_rotated_stays(self, world: World) -> None:
        world.microsoft.entra.rotates = False
        old = world.store_secret(world.secret(left_s=0))
        world.used()
        assert world.grants.opened(world.connection)["refresh_token"] == old["refresh_token"]

    def test_tokens_without_a_refresh_token_keep_the_one_from_before(self) -> None:
        before = Secret({"access_token": "a", "refresh_token": "kept", "renew_at": "0", "tenant": "common"})
        kept = secret_of(Tokens("b", "", 3600, None), tenant="common", now=0, before=before)
        assert kept["refresh_token"] == "kept"

    @pytest.mark.parametrize("rotates", [True, False])
    def test_renewal_follows_renewal(self, world: World, rotates: bool) -> None:
        world.microsoft.entra.rotates, world.microsoft.entra.old_tokens_end = rotates, True
        world.microsoft.entra.lifetime_s = 5000
        for _ in range(3):
            stored = world.grants.opened(world.connection)
            ended = {**stored.values, "renew_at": "0"}
            world.store_secret(Secret(ended))
            assert world.accepts(world.used())

    @pytest.mark.parametrize("lives_s", [1, 40, 60, 100, 3600])
    def test_a_token_is_good_for_three_quarters_of_its_life_at_least(self, lives_s: int) -> None:
        fresh = secret_of(Tokens("b", "r", lives_s, None), tenant="common", now=0)
        assert int(fresh["renew_at"]) >= lives_s * SECOND * 3 // 4
        assert int(fresh["renew_at"]) <= max(lives_s - min(EARLY_S, lives_s // 4), 1) * SECOND

    def test_what_is_stored_shows_no_token(self, world: World) -> None:
        secret = world.store_secret(world.secret(left_s=0))
        world.used()
        sealed = world.store.connections.grant(world.connection.id)
        assert sealed is not None
        assert secret["refresh_token"] not in sealed.sealed


class TestWhoIsTroubled:
    def test_a_revoked_grant_needs_its_owner(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        world.microsoft.entra.revoke(world.anna.user)
        with pytest.raises(NeedsReauth):
            world.used()
        assert (world.now().status, world.now().sync_status) == (ConnectionStatus.NEEDS_REAUTH, SyncStatus.EXPIRED)

    def test_who_needs_its_owner_is_not_asked_for_again(self, world: World) -> None:
        connection = dataclasses.replace(world.connection, status=ConnectionStatus.NEEDS_REAUTH)
        with pytest.raises(NeedsReauth), world.grants.use(connection):
            pass
        assert world.refreshes == 0

    def test_the_owner_connecting_again_ends_it(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        world.microsoft.entra.revoke(world.anna.user)
        with pytest.raises(NeedsReauth):
            world.used()
        secret = world.renewed_by_its_owner()
        assert world.now().status is ConnectionStatus.ACTIVE
        assert world.used() == secret["access_token"]

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503, 504])
    def test_nothing_but_a_dead_grant_needs_its_owner(self, world: World, status: int) -> None:
        world.store_secret(world.secret(left_s=0))
        body = b'{"error": "invalid_client"}' if status < 500 else b'{"error": "invalid_grant"}'
        world.microsoft.entra.answers.append(OAuthAnswer(status, body))
        with pytest.raises(ProviderUnavailable):
            world.used()
        assert (world.now().status, world.now().sync_status) == (ConnectionStatus.ACTIVE, SyncStatus.ERROR)

    def test_an_old_token_that_is_refused_while_a_newer_one_is_stored_troubles_nobody(self, world: World) -> None:
        old = world.store_secret(world.secret(left_s=0))
        newer: list[Secret] = []

        def meanwhile() -> None:
            world.microsoft.entra.before_token = lambda: None
            world.microsoft.entra.revoke_refresh_token(old["refresh_token"])
            newer.append(world.store_secret(world.secret(left_s=3600)))

        world.microsoft.entra.before_token = meanwhile
        assert world.used() == newer[0]["access_token"]
        assert world.now().status is ConnectionStatus.ACTIVE

    def test_a_refusal_of_the_old_grant_says_nothing_about_its_owners_new_one(self, world: World) -> None:
        old = world.store_secret(world.secret(left_s=0))

        def meanwhile() -> None:
            world.microsoft.entra.before_token = lambda: None
            world.microsoft.entra.revoke_refresh_token(old["refresh_token"])
            world.renewed_by_its_owner()

        world.microsoft.entra.before_token = meanwhile
        assert world.accepts(world.used())
        assert world.now().status is ConnectionStatus.ACTIVE

    def test_a_late_refusal_of_the_old_grant_harms_nobody(self, world: World) -> None:
        def converse() -> None:
            with world.grants.use(world.connection):
                world.renewed_by_its_owner()
                raise NeedsReauth

        with pytest.raises(ProviderUnavailable):
            converse()
        assert world.now().status is ConnectionStatus.ACTIVE

    def test_a_renewal_that_its_owner_overtakes_does_not_overwrite_the_new_grant(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        newer: list[Secret] = []

        def meanwhile() -> None:
            world.microsoft.entra.before_token = lambda: None
            newer.append(world.renewed_by_its_owner())

        world.microsoft.entra.before_token = meanwhile
        assert world.used() == newer[0]["access_token"]
        assert dict(world.grants.opened(world.connection).values) == dict(newer[0].values)

    def test_many_that_wait_for_a_dead_grant_ask_about_it_once(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))
        world.microsoft.entra.revoke(world.anna.user)

        def use() -> bool:
            with pytest.raises((NeedsReauth, ProviderUnavailable)):
                world.used()
            return True

        with ThreadPoolExecutor(12) as pool:
            assert all(pool.map(lambda _: use(), range(12)))
        assert world.refreshes == 1


class TestDisconnected:
    def disconnect(self, world: World) -> None:
        world.store.connections.disconnect(world.connection.organization_id, world.connection.id, world.store.now())

    def test_a_disconnected_account_has_no_grant(self, world: World) -> None:
        self.disconnect(world)
        with pytest.raises(NotFound):
            world.used()

    def test_a_link_notices_that_its_account_was_disconnected(self, world: World) -> None:
        with world.grants.use(world.connection) as link:
            self.disconnect(world)
            with pytest.raises(NotFound):
                link.check()

    def test_a_renewal_that_a_disconnect_overtakes_stores_nothing(self, world: World) -> None:
        world.store_secret(world.secret(left_s=0))

        def meanwhile() -> None:
            world.microsoft.entra.before_token = lambda: None
            self.disconnect(world)

        world.microsoft.entra.before_token = meanwhile
        with pytest.raises(NotFound):
            world.used()
        assert world.store.connections.grant(world.connection.id) is None
