"""Named queries about connections."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from calendar_server.core.model import (
    CalendarId,
    ConnectionId,
    ConnectionStatus,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.store.rows import SealedGrant
from calendar_server.store.store import AlreadyThere, Store, StoreError
from tests.contract_store.examples import SEALED, add_connection, at_once, connection

NOBODY = ConnectionId("cal_none")


class TestAdding:
    def test_a_connection_comes_back_as_it_was_added(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization, sync_error="Ünterbrochen 🙂", last_sync_at=2**62)
        assert store.connections.get(organization, added.id) == added

    def test_a_second_live_one_of_an_account_is_already_there(self, store: Store, organization: OrganizationId) -> None:
        add_connection(store, organization, 1, subject="s")
        with pytest.raises(AlreadyThere):
            add_connection(store, organization, 2, subject="s")

    @pytest.mark.parametrize("change", [{"owner": "bob"}, {"owner": ""}, {"provider": ProviderName.GOOGLE}])
    def test_another_owner_or_provider_is_another_account(
        self, store: Store, organization: OrganizationId, change: dict[str, object]
    ) -> None:
        add_connection(store, organization, 1, subject="s")
        add_connection(store, organization, 2, subject="s", **change)
        assert store.connections.is_live(ConnectionId("cal_0002"))

    def test_another_organization_may_have_the_same_account(
        self, store: Store, organization: OrganizationId, stranger: OrganizationId
    ) -> None:
        add_connection(store, organization, 1, subject="s")
        add_connection(store, stranger, 2, subject="s")
        assert store.connections.is_live(ConnectionId("cal_0002"))

    def test_an_account_can_be_connected_again_after_it_was_disconnected(
        self, store: Store, organization: OrganizationId
    ) -> None:
        first = add_connection(store, organization, 1, subject="s")
        store.connections.disconnect(organization, first.id, 9)
        add_connection(store, organization, 2, subject="s")
        assert store.connections.is_live(ConnectionId("cal_0002"))

    def test_of_many_at_once_one_is_added(self, store: Store, organization: OrganizationId) -> None:
        outcomes = at_once(
            [lambda number=number: add_connection(store, organization, number, subject="s") for number in range(8)]
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AlreadyThere"] * 7 + ["Connection"]

    def test_the_loser_of_a_race_waits_for_the_winner_to_commit(
        self, store: Store, organization: OrganizationId
    ) -> None:
        added, outcome = threading.Event(), []

        def second() -> None:
            added.wait(30)
            try:
                add_connection(store, organization, 2, subject="s")
            except StoreError as error:
                outcome.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        with store.transaction():
            add_connection(store, organization, 1, subject="s")
            added.set()
            thread.join(0.2)
            assert outcome == []
        thread.join(30)
        assert [type(error) for error in outcome] == [AlreadyThere]

    def test_a_transaction_goes_on_after_already_there(self, store: Store, organization: OrganizationId) -> None:
        add_connection(store, organization, 1, subject="s")
        with store.transaction():
            with pytest.raises(AlreadyThere):
                add_connection(store, organization, 2, subject="s")
            add_connection(store, organization, 3)
        assert store.connections.is_live(ConnectionId("cal_0003"))

    def test_one_of_no_organization_is_refused(self, store: Store) -> None:
        with pytest.raises(StoreError):
            add_connection(store, OrganizationId("org_none"))


class TestOrganizationsAreApart:
    @pytest.mark.parametrize(
        "look",
        [
            lambda store, other, c: store.connections.get(other, c.id),
            lambda store, other, c: store.connections.get_for_update(other, c.id),
            lambda store, other, c: store.connections.exists(other, c.id),
            lambda store, other, c: store.connections.get_many(other, [c.id]),
            lambda store, other, c: store.connections.of_owner(other, c.owner),
            lambda store, other, c: store.connections.by_subject(other, c.owner, c.provider, c.subject),
            lambda store, other, c: store.connections.page(
                other, ids=[c.id], owner=None, provider=None, status=None, before=None, limit=10
            ),
            lambda store, other, c: store.connections.disconnect(other, c.id, 1),
        ],
        ids=["get", "get_for_update", "exists", "get_many", "of_owner", "by_subject", "page", "disconnect"],
    )
    def test_what_another_organization_has_is_not_there(
        self,
        store: Store,
        organization: OrganizationId,
        stranger: OrganizationId,
        look: Callable[..., object],
    ) -> None:
        theirs = add_connection(store, stranger)
        assert not look(store, organization, theirs)
        assert store.connections.get(stranger, theirs.id) == theirs


class TestDisconnecting:
    @pytest.mark.parametrize(
        "look",
        [
            lambda store, c: store.connections.get(c.organization_id, c.id),
            lambda store, c: store.connections.get_for_update(c.organization_id, c.id),
            lambda store, c: store.connections.get_many(c.organization_id, [c.id]),
            lambda store, c: store.connections.of_owner(c.organization_id, c.owner),
            lambda store, c: store.connections.by_subject(c.organization_id, c.owner, c.provider, c.subject),
            lambda store, c: store.connections.page(c.organization_id, limit=9),
            lambda store, c: store.connections.grant(c.id),
            lambda store, c: store.connections.is_live(c.id),
            lambda store, c: list(store.connections.sealed_grants()),
            lambda store, c: store.connections.reseal(c.id, SEALED, "new"),
            lambda store, c: store.connections.note_refusal(c.id, 1, "refused"),
        ],
        ids=[
            "get",
            "get_for_update",
            "get_many",
            "of_owner",
            "by_subject",
            "page",
            "grant",
            "is_live",
            "sealed_grants",
            "reseal",
            "note_refusal",
        ],
    )
    def test_nothing_finds_it_afterwards(
        self, store: Store, organization: OrganizationId, look: Callable[..., object]
    ) -> None:
        added = add_connection(store, organization)
        store.connections.disconnect(organization, added.id, 9)
        assert not look(store, added)

    def test_it_is_remembered_to_have_existed(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.disconnect(organization, added.id, 9)
        assert store.connections.exists(organization, added.id)

    def test_only_the_first_time_counts(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        outcomes = at_once([lambda: store.connections.disconnect(organization, added.id, 9)] * 4)
        assert sorted(outcomes) == [False, False, False, True]

    def test_an_unknown_one_says_so(self, store: Store, organization: OrganizationId) -> None:
        assert store.connections.disconnect(organization, NOBODY, 9) is False
        assert store.connections.exists(organization, NOBODY) is False

    def test_a_late_renewal_brings_no_secret_back(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.disconnect(organization, added.id, 9)
        store.connections.renew(added.id, sealed_grant="new", account_email="x", settings={})
        assert store.connections.grant(added.id) is None

    def test_grant_and_settings_are_wiped(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.disconnect(organization, added.id, 9)
        text = f"SELECT coalesce(sealed_grant, 'none') || settings FROM connections WHERE id = '{added.id}'"
        assert store._database.value(text) == "none{}"

    def test_its_successor_is_the_live_one_of_the_same_account(
        self, store: Store, organization: OrganizationId
    ) -> None:
        first = add_connection(store, organization, 1, subject="s")
        store.connections.disconnect(organization, first.id, 9)
        add_connection(store, organization, 2, subject="s", owner="bob")
        second = add_connection(store, organization, 3, subject="s")
        assert store.connections.successor(first.id) == second

    def test_there_is_no_successor_without_one(self, store: Store, organization: OrganizationId) -> None:
        first = add_connection(store, organization, 1, subject="s")
        store.connections.disconnect(organization, first.id, 9)
        assert store.connections.successor(first.id) is None

    def test_a_live_one_has_no_successor(self, store: Store, organization: OrganizationId) -> None:
        assert store.connections.successor(add_connection(store, organization).id) is None


class TestFinding:
    def test_many_are_found_in_one_call(self, store: Store, organization: OrganizationId) -> None:
        added = [add_connection(store, organization, number) for number in range(5)]
        ids = [ConnectionId(f"cal_{number:04}") for number in range(2000)]
        assert store.connections.get_many(organization, ids) == added

    def test_no_ids_find_none(self, store: Store, organization: OrganizationId) -> None:
        add_connection(store, organization)
        assert store.connections.get_many(organization, []) == []

    def test_an_owners_are_told_oldest_first(self, store: Store, organization: OrganizationId) -> None:
        for number, connected_at in ((1, 30), (2, 10), (3, 20), (4, 10)):
            add_connection(store, organization, number, connected_at=connected_at)
        add_connection(store, organization, 5, owner="bob")
        found = store.connections.of_owner(organization, "ann")
        assert [c.id for c in found] == ["cal_0002", "cal_0004", "cal_0003", "cal_0001"]

    def test_the_empty_owner_is_nobodys_not_anybodys(self, store: Store, organization: OrganizationId) -> None:
        add_connection(store, organization, 1)
        add_connection(store, organization, 2, owner="")
        assert [c.id for c in store.connections.of_owner(organization, "")] == ["cal_0002"]

    def test_an_account_is_found_by_its_subject(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization, subject="s")
        assert store.connections.by_subject(organization, "ann", ProviderName.CALDAV, "s") == added
        assert store.connections.by_subject(organization, "ann", ProviderName.CALDAV, "S") is None


class TestPages:
    def test_pages_walk_through_all_newest_first(self, store: Store, organization: OrganizationId) -> None:
        # Equal instants, so that the id decides between them.
        for number in range(10):
            add_connection(store, organization, number, connected_at=number // 3)
        seen: list[str] = []
        before = None
        while page := store.connections.page(organization, before=before, limit=3):
            seen += [c.id for c in page]
            before = (page[-1].connected_at, page[-1].id)
        assert seen == [f"cal_{number:04}" for number in reversed(range(10))]

    def test_rows_that_come_meanwhile_neither_repeat_nor_skip_others(
        self, store: Store, organization: OrganizationId
    ) -> None:
        for number in (2, 4, 6, 8):
            add_connection(store, organization, number)
        first = store.connections.page(organization, limit=2)
        add_connection(store, organization, 9)
        store.connections.disconnect(organization, first[-1].id, 1)
        second = store.connections.page(organization, before=(first[-1].connected_at, first[-1].id), limit=9)
        assert [c.id for c in first + second] == ["cal_0008", "cal_0006", "cal_0004", "cal_0002"]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"owner": ""}, ["cal_0003"]),
            ({"owner": "ann"}, ["cal_0004", "cal_0002", "cal_0001"]),
            ({"provider": ProviderName.GOOGLE}, ["cal_0002"]),
            ({"status": ConnectionStatus.NEEDS_REAUTH}, ["cal_0004"]),
            ({"ids": ["cal_0001", "cal_0003", "cal_none"]}, ["cal_0003", "cal_0001"]),
            ({"ids": ["cal_0001", "cal_0003"], "owner": "ann"}, ["cal_0001"]),
            ({}, ["cal_0004", "cal_0003", "cal_0002", "cal_0001"]),
        ],
    )
    def test_filters_leave_the_others_out(
        self, store: Store, organization: OrganizationId, filters: dict[str, object], expected: list[str]
    ) -> None:
        add_connection(store, organization, 1)
        add_connection(store, organization, 2, provider=ProviderName.GOOGLE)
        add_connection(store, organization, 3, owner="")
        add_connection(store, organization, 4, status=ConnectionStatus.NEEDS_REAUTH)
        found = store.connections.page(organization, limit=9, **filters)  # type: ignore[arg-type]
        assert [c.id for c in found] == expected

    def test_a_page_of_very_many_ids_is_in_order_and_limited(self, store: Store, organization: OrganizationId) -> None:
        for number in (1, 600, 1200):
            add_connection(store, organization, number)
        ids = [ConnectionId(f"cal_{number:04}") for number in range(1500)]
        found = store.connections.page(organization, ids=ids, limit=2)
        assert [c.id for c in found] == ["cal_1200", "cal_0600"]


class TestGrants:
    def test_a_grant_comes_with_its_version(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        assert store.connections.grant(added.id) == SealedGrant(SEALED, 1)

    def test_many_come_at_once(self, store: Store, organization: OrganizationId) -> None:
        added = [add_connection(store, organization, number) for number in range(3)]
        store.connections.disconnect(organization, added[1].id, 9)
        found = store.connections.grants([*(connection.id for connection in added), NOBODY])
        assert found == {added[0].id: SealedGrant(SEALED, 1), added[2].id: SealedGrant(SEALED, 1)}

    def test_an_unknown_one_has_none(self, store: Store) -> None:
        assert store.connections.grant(NOBODY) is None

    def test_a_renewal_makes_it_active_again(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.note_refusal(added.id, 1, "refused")
        store.connections.renew(added.id, sealed_grant="new", account_email="new@example.org", settings={"a": "b"})
        found = store.connections.get(organization, added.id)
        assert found == connection(organization, account_email="new@example.org", settings={"a": "b"}, grant_version=2)
        assert store.connections.grant(added.id) == SealedGrant("new", 2)

    def test_a_refusal_needs_the_owner(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        assert store.connections.note_refusal(added.id, 1, "refused") is True
        found = store.connections.get(organization, added.id)
        assert found is not None
        assert (found.status, found.sync_status, found.sync_error) == (
            ConnectionStatus.NEEDS_REAUTH,
            SyncStatus.EXPIRED,
            "refused",
        )

    def test_a_late_refusal_of_an_older_grant_harms_nobody(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.renew(added.id, sealed_grant="new", account_email="a", settings={})
        before = store.connections.get(organization, added.id)
        assert store.connections.note_refusal(added.id, 1, "refused") is False
        assert store.connections.get(organization, added.id) == before

    def test_sealed_grants_are_all_told(self, store: Store, organization: OrganizationId) -> None:
        for number in range(450):
            add_connection(store, organization, number)
        found = list(store.connections.sealed_grants())
        assert found == [(f"cal_{number:04}", SEALED) for number in range(450)]

    def test_resealing_while_going_through_them_works(self, store: Store, organization: OrganizationId) -> None:
        for number in range(3):
            add_connection(store, organization, number)
        for connection_id, sealed in store.connections.sealed_grants():
            assert store.connections.reseal(connection_id, sealed, "new")
        assert {sealed for _, sealed in store.connections.sealed_grants()} == {"new"}

    def test_resealing_loses_to_a_renewal(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.renew(added.id, sealed_grant="renewed", account_email="a", settings={})
        assert store.connections.reseal(added.id, SEALED, "new") is False
        assert store.connections.grant(added.id) == SealedGrant("renewed", 2)


class TestConversations:
    def test_a_success_clears_an_error(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.note_failure(added.id, "down")
        store.connections.note_success(added.id, 7, 1)
        assert store.connections.get(organization, added.id) == connection(organization, last_sync_at=7)

    def test_the_last_success_never_goes_back(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        for at in (5, 9, 7):
            store.connections.note_success(added.id, at, 1)
        assert store.connections.get(organization, added.id) == connection(organization, last_sync_at=9)

    def test_a_failure_keeps_the_last_success(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization, last_sync_at=5)
        store.connections.note_failure(added.id, "down")
        found = store.connections.get(organization, added.id)
        assert found == connection(organization, last_sync_at=5, sync_status=SyncStatus.ERROR, sync_error="down")

    @pytest.mark.parametrize("note", ["success", "failure"])
    def test_a_refused_grant_stays_expired(self, store: Store, organization: OrganizationId, note: str) -> None:
        added = add_connection(store, organization)
        store.connections.note_refusal(added.id, 1, "refused")
        before = store.connections.get(organization, added.id)
        if note == "success":
            store.connections.note_success(added.id, 7, 1)
        else:
            store.connections.note_failure(added.id, "down")
        assert store.connections.get(organization, added.id) == before

    def test_a_success_of_an_older_grant_says_nothing(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization, grant_version=2)
        store.connections.note_success(added.id, 7, 1)
        assert store.connections.get(organization, added.id) == added

    def test_the_choice_of_calendars_is_kept(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        store.connections.choose(added.id, calendar_id=CalendarId("c"), busy_calendar_ids=[])
        found = store.connections.get(organization, added.id)
        assert found == connection(organization, calendar_id="c", busy_calendar_ids=())


class TestLocking:
    @pytest.mark.parametrize(
        "lock",
        [
            lambda store, c: store.connections.lock([c.id]),
            lambda store, c: store.connections.get_for_update(c.organization_id, c.id),
            lambda store, c: store.connections.get_many(c.organization_id, [c.id]),
            lambda store, c: store.connections.of_owner(c.organization_id, c.owner),
        ],
        ids=["lock", "get_for_update", "get_many", "of_owner"],
    )
    def test_nobody_disconnects_it_before_the_transaction_ends(
        self, store: Store, organization: OrganizationId, lock: Callable[..., object]
    ) -> None:
        added = add_connection(store, organization)
        outcome: list[bool] = []
        thread = threading.Thread(
            target=lambda: outcome.append(store.connections.disconnect(organization, added.id, 9))
        )
        with store.transaction():
            lock(store, added)
            thread.start()
            thread.join(0.2)
            assert outcome == []
        thread.join(30)
        assert outcome == [True]

    def test_two_that_lock_the_same_in_another_order_both_go_on(
        self, store: Store, organization: OrganizationId
    ) -> None:
        ids = [add_connection(store, organization, number).id for number in range(6)]

        def lock(order: list[ConnectionId]) -> str:
            for _ in range(20):
                with store.transaction():
                    store.connections.lock(order)
            return "done"

        assert at_once([lambda: lock(ids), lambda: lock(ids[::-1])]) == ["done", "done"]

    def test_unknown_ones_are_no_harm(self, store: Store) -> None:
        with store.transaction():
            store.connections.lock([NOBODY])
            store.connections.lock([])
