"""Watches as rows, over both databases."""

from __future__ import annotations

from typing import Any

import pytest

from calendar_server.core.model import CalendarId, Connection, ConnectionId, OrganizationId, ProviderName
from calendar_server.store.store import Store
from calendar_server.store.tables import BUSY
from calendar_server.store.watches import WatchRow
from tests.contract_store.examples import add_connection

HERE = "https://calendar.example.org/webhooks/google"
ADDRESSES = {ProviderName.GOOGLE: HERE}
A, B = CalendarId("a"), CalendarId("b")


def add(store: Store, of: Connection, number: int = 1, **changes: Any) -> WatchRow:
    values: dict[str, Any] = {
        "id": f"{number:032}",
        "connection_id": of.id,
        "calendar_id": A,
        "address": HERE,
        "secret_sha256": bytes([number]) * 32,
        "remote_id": f"remote-{number}",
        "resource_id": "r",
        "state": "active",
        "expires_at": 1000,
        "due_at": 800,
        "attempts": 0,
        "created_at": number,
        **changes,
    }
    row = WatchRow(**values)
    store.watches.add(row)
    return row


def use(store: Store, of: Connection, calendar_id: CalendarId = A, at: int = 50) -> None:
    values = {getattr(BUSY, name): 0 for name in BUSY._columns}
    values |= {BUSY.connection_id: of.id, BUSY.calendar_id: calendar_id, BUSY.used_at: at}
    values |= {BUSY.intervals: b"", BUSY.problem_reason: "", BUSY.problem_message: ""}
    store._database.change(BUSY.insert(values))


def unwatched(store: Store, now: int = 100, *, after: str = "", limit: int = 10) -> list[ConnectionId]:
    found = store.watches.unwatched(now, used_since=50, addresses=ADDRESSES, after=ConnectionId(after), limit=limit)
    return [each.connection_id for each in found]


@pytest.fixture
def connection(store: Store, organization: OrganizationId) -> Connection:
    return add_connection(store, organization, provider=ProviderName.GOOGLE)


class TestRows:
    def test_a_row_comes_back_whole(self, store: Store, connection: Connection) -> None:
        row = add(store, connection)
        assert store.watches.get_many([row.id, "unknown"]) == [row]
        assert store.watches.of_connection(connection.id) == [row]
        assert store.watches.get_many([]) == []

    def test_what_is_made_is_active_unless_it_was_given_up(self, store: Store, connection: Connection) -> None:
        row = add(store, connection, state="making", remote_id="", resource_id="", expires_at=0, attempts=3)
        made = {"remote_id": "x", "resource_id": "y", "expires_at": 7, "due_at": 5}
        assert store.watches.made(row.id, **made)  # type: ignore[arg-type]
        (now,) = store.watches.get_many([row.id])
        assert (now.state, now.remote_id, now.resource_id, now.expires_at, now.due_at, now.attempts) == (
            ("active", "x", "y", 7, 5, 0)
        )
        assert not store.watches.made(row.id, **made)  # type: ignore[arg-type]
        store.watches.remove([row.id])
        assert not store.watches.made(row.id, **made)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("state", "after"), [("making", "failed"), ("active", "active"), ("ending", "ending")])
    def test_a_failure_is_counted_and_ends_only_a_making(
        self, store: Store, connection: Connection, state: str, after: str
    ) -> None:
        row = add(store, connection, state=state, attempts=1)
        store.watches.put_off(row.id, 900)
        (now,) = store.watches.get_many([row.id])
        assert (now.state, now.due_at, now.attempts) == (after, 900, 2)

    def test_only_an_active_one_is_extended_made_due_or_lost(self, store: Store, connection: Connection) -> None:
        ending = add(store, connection, state="ending")
        assert not store.watches.extended(ending.id, expires_at=9000, due_at=8000)
        assert not store.watches.make_due(ending.id, 5)
        assert not store.watches.lost(ending.id, 5)
        assert store.watches.get_many([ending.id]) == [ending]
        active = add(store, connection, 2, attempts=4)
        assert store.watches.extended(active.id, expires_at=9000, due_at=8000)
        assert store.watches.make_due(active.id, 5)
        assert not store.watches.make_due(active.id, 6)
        assert store.watches.lost(active.id, 7)
        (now,) = store.watches.get_many([active.id])
        assert (now.state, now.expires_at, now.due_at, now.attempts) == ("failed", 9000, 7, 0)

    def test_all_of_a_connection_are_forgotten_and_no_other(
        self, store: Store, connection: Connection, organization: OrganizationId
    ) -> None:
        other = add_connection(store, organization, 2)
        add(store, connection)
        kept = add(store, other, 2)
        store.watches.remove_connection(connection.id)
        assert store.watches.of_connection(connection.id) == []
        assert store.watches.of_connection(other.id) == [kept]


class TestDue:
    def test_a_connection_is_due_once_and_the_longest_due_first(
        self, store: Store, connection: Connection, organization: OrganizationId
    ) -> None:
        other = add_connection(store, organization, 2)
        add(store, connection, 1, due_at=30)
        add(store, connection, 2, due_at=90)
        add(store, other, 3, due_at=20)
        assert [each.connection_id for each in store.watches.due(100, 10)] == [other.id, connection.id]
        assert [each.connection_id for each in store.watches.due(100, 1)] == [other.id]
        assert store.watches.due(19, 10) == []

    def test_a_look_makes_only_active_ones_due(self, store: Store, connection: Connection) -> None:
        active, failed = add(store, connection, 1), add(store, connection, 2, state="failed")
        store.watches.look_at(connection.id, 5)
        assert {row.id: row.due_at for row in store.watches.of_connection(connection.id)} == {
            active.id: 5,
            failed.id: 800,
        }

    def test_what_waits_is_due_later_and_has_not_failed(self, store: Store, connection: Connection) -> None:
        row = add(store, connection, due_at=5)
        store.watches.wait([row.id], 50)
        (now,) = store.watches.get_many([row.id])
        assert (now.state, now.due_at, now.attempts) == ("active", 50, 0)


class TestUnwatched:
    def test_what_is_in_use_and_has_none_is_found(self, store: Store, connection: Connection) -> None:
        assert unwatched(store) == []
        use(store, connection, A, at=49)
        assert unwatched(store) == []
        use(store, connection, B, at=50)
        assert unwatched(store) == [connection.id]

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({}, False),
            ({"due_at": 90}, False),
            ({"due_at": 90, "expires_at": 100}, True),
            ({"due_at": 101, "expires_at": 100}, False),
            ({"state": "failed", "due_at": 101}, False),
            ({"state": "failed", "due_at": 100}, True),
            ({"state": "making", "due_at": 101}, False),
            ({"state": "ending", "due_at": 101}, True),
            ({"address": "https://former.example.org"}, True),
            ({"calendar_id": B}, True),
        ],
    )
    def test_a_watch_that_lives_or_is_put_off_is_enough(
        self, store: Store, connection: Connection, changes: dict[str, Any], found: bool
    ) -> None:
        use(store, connection)
        add(store, connection, **changes)
        assert unwatched(store) == ([connection.id] if found else [])

    def test_only_live_active_connections_of_these_providers(
        self, store: Store, organization: OrganizationId, connection: Connection
    ) -> None:
        ended = add_connection(store, organization, 2, provider=ProviderName.GOOGLE)
        refused = add_connection(store, organization, 3, provider=ProviderName.GOOGLE)
        caldav = add_connection(store, organization, 4)
        for each in (connection, ended, refused, caldav):
            use(store, each)
        store.connections.disconnect(organization, ended.id, 1)
        store.connections.note_refusal(refused.id, 1, "no")
        assert unwatched(store) == [connection.id]

    def test_they_come_in_parts(self, store: Store, organization: OrganizationId) -> None:
        made = [add_connection(store, organization, number, provider=ProviderName.GOOGLE) for number in range(1, 6)]
        for each in made:
            use(store, each, A)
            use(store, each, B)
        ids = [each.id for each in made]
        assert unwatched(store, limit=2) == ids[:2]
        assert unwatched(store, after=ids[1], limit=2) == ids[2:4]
        assert unwatched(store, after=ids[3], limit=2) == ids[4:]

    def test_which_calendars_are_in_use(self, store: Store, connection: Connection) -> None:
        use(store, connection, A, at=49)
        use(store, connection, B, at=50)
        assert store.watches.in_use(connection.id, 50) == {B}
