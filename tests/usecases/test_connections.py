"""Connections: by account, renewed in place, listed in pages, ended for good."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from calendar_server.core.model import CalendarId, ConnectionId, ConnectionStatus, ProviderName, SyncStatus
from calendar_server.errors import (
    AccountMismatch,
    CalendarReadOnly,
    Conflict,
    NeedsReauth,
    NotConfigured,
    NotFound,
    ProviderRefused,
    ProviderUnavailable,
    ValidationError,
)
from calendar_server.usecases.commands import ConnectCommand, ListQuery, OAuthAccount, UpdateCommand
from tests.usecases.conftest import HOME, SHOWN, WORK, World


class TestConnect:
    def test_a_connected_account_is_a_conflict_that_names_the_connection(self, world: World) -> None:
        connection = world.connect()
        with pytest.raises(Conflict) as conflict:
            world.connect()
        assert conflict.value.metadata == {"connectionId": connection.id}

    def test_the_same_account_of_another_owner_is_another_connection(self, world: World) -> None:
        assert world.connect(owner="a").id != world.connect(owner="b").id

    def test_wrong_credentials_are_told_before_anything_else(self, world: World) -> None:
        world.connect()
        with pytest.raises(ProviderRefused):
            world.connect(password="wrong")
        assert len(world.connections.list(world.caller, ListQuery()).connections) == 1

    def test_a_refused_grant_is_renewed_in_place(self, world: World) -> None:
        connection = world.connect()
        world.connections.update(world.caller, UpdateCommand(connection.id, busy_calendar_ids=(HOME,)))
        world.provider.fail_next(NeedsReauth())
        with pytest.raises(NeedsReauth):
            world.connections.list_calendars(world.caller, connection.id)
        assert world.store.connections.get(world.caller.organization_id, connection.id).status is (  # type: ignore[union-attr]
            ConnectionStatus.NEEDS_REAUTH
        )
        renewed = world.connect()
        assert (renewed.id, renewed.connected_at, renewed.busy_calendar_ids) == (
            connection.id,
            connection.connected_at,
            (HOME,),
        )
        assert (renewed.status, renewed.sync_status) == (ConnectionStatus.ACTIVE, SyncStatus.CONNECTED)

    def test_an_active_one_is_renewed_when_it_is_named(self, world: World) -> None:
        connection = world.connect()
        assert world.connect(connection_id=connection.id).grant_version == connection.grant_version + 1

    def test_another_account_cannot_renew_it(self, world: World) -> None:
        connection = world.connect("anna")
        with pytest.raises(AccountMismatch):
            world.connect("ben", connection_id=connection.id)

    def test_a_renewal_for_another_owner_is_refused(self, world: World) -> None:
        connection = world.connect(owner="a")
        with pytest.raises(ValidationError) as refused:
            world.connect(owner="b", connection_id=connection.id)
        assert [violation.field for violation in refused.value.violations] == ["owner"]

    def test_a_renewal_may_leave_the_owner_out(self, world: World) -> None:
        connection = world.connect(owner="a")
        assert world.connect(connection_id=connection.id).owner == "a"

    def test_an_unknown_one_cannot_be_renewed(self, world: World) -> None:
        with pytest.raises(NotFound):
            world.connect(connection_id="cal_unknown")

    def test_of_two_equal_connects_at_once_one_wins(self, world: World) -> None:
        lost: list[Conflict] = []

        def connect() -> None:
            try:
                world.connect()
            except Conflict as error:
                lost.append(error)

        threads = [threading.Thread(target=connect) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lost) == 4
        assert len({error.connection_id for error in lost}) == 1

    @pytest.mark.parametrize("provider", [ProviderName.GOOGLE, ProviderName.MICROSOFT])
    def test_a_provider_without_a_client_says_which_setting_is_missing(
        self, world: World, provider: ProviderName
    ) -> None:
        account = OAuthAccount(provider, "https://app.example.org/done")  # type: ignore[arg-type]
        with pytest.raises(NotConfigured) as missing:
            world.connections.connect(world.caller, ConnectCommand(account))
        assert missing.value.metadata == {"setting": f"CALENDAR_{provider.upper()}_CLIENT_ID"}


class TestList:
    def test_newest_first_in_pages_that_neither_repeat_nor_skip(self, world: World) -> None:
        made = [world.connect(f"user{n}").id for n in range(5)]
        first = world.connections.list(world.caller, ListQuery(page_size=2))
        world.connect("late")
        world.disconnect(first.connections[0])
        seen = list(first.connections)
        token = first.next_page_token
        while token:
            page = world.connections.list(world.caller, ListQuery(page_size=2, page_token=token))
            seen += page.connections
            token = page.next_page_token
        assert [connection.id for connection in seen] == made[::-1]

    def test_a_token_of_another_organization_or_with_other_filters_or_made_up_is_refused(self, world: World) -> None:
        for number in range(3):
            world.connect(f"user{number}")
        token = world.connections.list(world.caller, ListQuery(page_size=1)).next_page_token
        for caller, query in (
            (world.stranger, ListQuery(page_token=token)),
            (world.caller, ListQuery(page_token=token, owner="o")),
            (world.caller, ListQuery(page_token=token[:-2] + "AA")),
            (world.caller, ListQuery(page_token="made up")),
        ):
            with pytest.raises(ValidationError) as refused:
                world.connections.list(caller, query)
            assert [violation.field for violation in refused.value.violations] == ["page_token"]

    def test_unknown_and_foreign_ids_are_left_out(self, world: World) -> None:
        connection = world.connect()
        query = ListQuery(ids=(connection.id, ConnectionId("cal_unknown")))
        assert [c.id for c in world.connections.list(world.caller, query).connections] == [connection.id]
        assert world.connections.list(world.stranger, query).connections == ()


class TestDisconnect:
    def test_it_is_repeatable_and_then_not_found_everywhere(self, world: World) -> None:
        connection = world.connect()
        for _ in range(2):
            world.disconnect(connection)
        for use in (
            lambda: world.connections.list_calendars(world.caller, connection.id),
            lambda: world.connections.update(world.caller, UpdateCommand(connection.id)),
            lambda: world.busy(connection),
        ):
            with pytest.raises(NotFound):
                use()
        assert world.connections.list(world.caller, ListQuery()).connections == ()

    def test_what_never_existed_or_is_foreign_is_not_found(self, world: World) -> None:
        connection = world.connect()
        with pytest.raises(NotFound) as unknown:
            world.connections.disconnect(world.caller, ConnectionId("cal_unknown"))
        with pytest.raises(NotFound) as foreign:
            world.connections.disconnect(world.stranger, connection.id)
        assert unknown.value.message == foreign.value.message
        assert world.store.connections.is_live(connection.id)

    def test_the_secret_is_gone(self, world: World) -> None:
        connection = world.connect()
        world.disconnect(connection)
        assert world.store.connections.grant(connection.id) is None

    def test_the_account_can_be_connected_again_under_a_new_id(self, world: World) -> None:
        connection = world.connect()
        world.disconnect(connection)
        assert world.connect().id != connection.id


class TestChoice:
    def test_calendars_are_listed_with_what_blocks(self, world: World) -> None:
        connection = world.connect()
        listed = world.connections.list_calendars(world.caller, connection.id)
        assert [(c.calendar.id, c.calendar.writable, c.blocks) for c in listed] == [
            (WORK, True, True),
            (HOME, True, True),
            (SHOWN, False, False),
        ]

    def test_all_of_a_change_or_nothing(self, world: World) -> None:
        connection = world.connect()
        changed = world.connections.update(world.caller, UpdateCommand(connection.id, HOME, (SHOWN,)))
        assert (changed.calendar_id, changed.busy_calendar_ids) == (HOME, (SHOWN,))
        with pytest.raises(ValidationError) as refused:
            world.connections.update(
                world.caller, UpdateCommand(connection.id, CalendarId("/x/"), (WORK, CalendarId("/y/")))
            )
        assert [violation.field for violation in refused.value.violations] == ["calendar_id", "busy_calendar_ids[1]"]
        with pytest.raises(CalendarReadOnly):
            world.connections.update(world.caller, UpdateCommand(connection.id, SHOWN, (WORK,)))
        world.provider.fail_next(ProviderUnavailable("down"))
        with pytest.raises(ProviderUnavailable):
            world.connections.update(world.caller, UpdateCommand(connection.id, WORK, (WORK,)))
        kept = world.store.connections.get(world.caller.organization_id, connection.id)
        assert kept is not None
        assert (kept.calendar_id, kept.busy_calendar_ids) == (HOME, (SHOWN,))

    def test_a_failure_is_told_in_the_sync_status_and_a_success_clears_it(self, world: World) -> None:
        connection = world.connect()
        world.provider.fail_next(ProviderUnavailable("The server is down."))
        with pytest.raises(ProviderUnavailable):
            world.connections.list_calendars(world.caller, connection.id)
        failed = world.store.connections.get(world.caller.organization_id, connection.id)
        assert failed is not None
        assert (failed.status, failed.sync_status) == (ConnectionStatus.ACTIVE, SyncStatus.ERROR)
        assert failed.sync_error == "The server is down."
        world.connections.list_calendars(world.caller, connection.id)
        healed = world.store.connections.get(world.caller.organization_id, connection.id)
        assert healed is not None
        assert (healed.sync_status, healed.sync_error) == (SyncStatus.CONNECTED, None)


def test_a_sealed_grant_of_another_row_opens_for_nobody(world: World) -> None:
    anna, ben = world.connect("anna"), world.connect("ben")
    grants = [world.store.connections.grant(c.id) for c in (anna, ben)]
    assert grants[0] is not None
    assert grants[1] is not None
    world.store.connections.reseal(anna.id, grants[0].sealed, grants[1].sealed)
    with pytest.raises(ProviderUnavailable):
        world.connections.list_calendars(world.caller, anna.id)
    assert world.connections.list_calendars(world.caller, ben.id)


def test_a_password_is_in_no_row(world: World) -> None:
    connection = world.connect(username="canary")
    grant = world.store.connections.grant(connection.id)
    assert grant is not None
    assert "right" not in grant.sealed + str(dataclasses.asdict(connection))
