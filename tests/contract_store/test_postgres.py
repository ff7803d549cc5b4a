"""What holds for Postgres alone: limits, and lines that break."""

from __future__ import annotations

import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calendar_server.core.model import BookingId, ConnectionId, OrganizationId
from calendar_server.store.database import POSTGRES_CONNECTIONS, Database
from calendar_server.store.store import Store, StoreError
from tests.contract_store.examples import add_connection, at_once, booking
from tests.fakes.postgres import OwnPostgres, Postgres, local_binaries, start_postgres, wheel_binaries

B1 = BookingId("b1")
BACKENDS = "FROM pg_stat_activity WHERE application_name = 'calendar-server' AND datname LIKE 'calendar_test_%'"


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    store = Store.open(postgres_url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def own() -> Iterator[OwnPostgres]:
    """A server that may be killed."""
    server = start_postgres()
    yield server
    server.stop()


def terminate_all(server: Postgres) -> None:
    """End every backend of a store, and see them gone."""
    server.execute(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
    until = time.monotonic() + 10
    while server.execute(f"SELECT count(*) {BACKENDS}") != [(0,)]:
        assert time.monotonic() < until


class TestBrokenLines:
    def test_a_call_after_backends_were_terminated_works(self, store: Store, postgres: Postgres) -> None:
        at_once([store.ping] * 8)
        terminate_all(postgres)
        store.ping()

    def test_a_transaction_after_backends_were_terminated_works(
        self, store: Store, organization: OrganizationId, postgres: Postgres
    ) -> None:
        terminate_all(postgres)
        with store.transaction():
            store.bookings.put(booking(organization))
        assert store.bookings.get(organization, B1) is not None

    def test_a_transaction_whose_backend_was_terminated_fails_and_leaves_nothing(
        self, store: Store, organization: OrganizationId, postgres: Postgres
    ) -> None:
        def accept() -> None:
            with store.transaction():
                store.bookings.put(booking(organization))
                terminate_all(postgres)
                store.bookings.put(booking(organization, "b2"))

        with pytest.raises(StoreError):
            accept()
        assert store.bookings.get(organization, B1) is None

    def test_a_backend_that_dies_before_commit_fails_it(
        self, store: Store, organization: OrganizationId, postgres: Postgres
    ) -> None:
        def accept() -> None:
            with store.transaction():
                store.bookings.put(booking(organization))
                terminate_all(postgres)

        with pytest.raises(StoreError):
            accept()
        assert store.bookings.get(organization, B1) is None

    def test_what_a_caller_raises_comes_out_though_the_line_broke(self, store: Store, postgres: Postgres) -> None:
        def give_up() -> None:
            with store.transaction():
                terminate_all(postgres)
                raise LookupError

        with pytest.raises(LookupError):
            give_up()
        store.ping()

    def test_a_call_after_a_restart_works(self, own: OwnPostgres) -> None:
        store = Store.open(own.url("postgres"))
        at_once([store.ping] * 8)
        own.restart()
        store.ping()
        store.close()

    def test_a_call_after_a_crash_works(self, own: OwnPostgres) -> None:
        store = Store.open(own.tcp_url("postgres"))
        at_once([store.ping] * 8)
        own.kill()
        own.start()
        store.ping()
        store.close()

    def test_a_server_that_is_down_is_told_at_once_and_then_up_again(self, own: OwnPostgres) -> None:
        store = Store.open(own.tcp_url("postgres"))
        store.ping()
        own.shut()
        began = time.monotonic()
        for _ in range(50):
            with pytest.raises(StoreError):
                store.ping()
        assert time.monotonic() - began < 5
        own.start()
        store.ping()
        store.close()


class TestSafeMessages:
    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://ann:s3cret@127.0.0.1:{port}/calendar",
            "postgresql://ann:s3cret@127.0.0.1:99999999/calendar",
            "postgresql://ann:s3c%ret@127.0.0.1/calendar",
            "postgresql://ann:s3cret@[::1/calendar",
            "mysql://ann:s3cret@127.0.0.1/calendar",
        ],
    )
    def test_no_error_shows_the_password_nor_the_address(self, url: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(StoreError) as raised:
            Store.open(url.format(port=port)).ping()
        assert "s3c" not in "".join(traceback.format_exception(raised.value)).replace(url, "")
        assert "127.0.0.1" not in raised.value.message

    def test_a_wrong_password_is_a_store_error_without_it(self, own: OwnPostgres) -> None:
        url = own.tcp_url("postgres").replace("postgres:", "postgres:wr0ng", 1)
        store = Store.open(url)
        with pytest.raises(StoreError) as raised:
            store.ping()
        assert "wr0ng" not in "".join(str(error) for error in (raised.value, raised.value.__cause__))


class TestLimits:
    def test_a_crowd_uses_no_more_connections_than_the_pool_has(self, store: Store, postgres: Postgres) -> None:
        most = 0
        for _ in range(3):
            at_once([store.ping] * 150)
            ((count,),) = postgres.execute(f"SELECT count(*) {BACKENDS}")
            assert isinstance(count, int)
            most = max(most, count)
        assert 1 <= most <= POSTGRES_CONNECTIONS

    def test_closing_leaves_no_connection(self, store: Store, postgres: Postgres) -> None:
        at_once([store.ping] * 20)
        store.close()
        until = time.monotonic() + 10
        while postgres.execute(f"SELECT count(*) {BACKENDS}") != [(0,)]:
            assert time.monotonic() < until

    @pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"])
    def test_no_wait_in_the_server_is_without_end(self, postgres_url: str, setting: str) -> None:
        database = Database.open(postgres_url)
        assert database.value(f"SHOW {setting}") in ("10s", "20s")
        database.close()

    def test_a_lock_that_does_not_come_is_a_store_error(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)

        def hurry() -> None:
            with store.transaction():
                store._database.run("SET LOCAL lock_timeout = '50ms'")
                store.connections.lock([added.id])

        with store.transaction():
            store.connections.lock([added.id])
            (outcome,) = at_once([hurry])
        assert isinstance(outcome, StoreError)
        assert "busy" in outcome.message

    def test_two_that_wait_for_each_other_do_not_wait_for_ever(
        self, store: Store, organization: OrganizationId
    ) -> None:
        ids = [add_connection(store, organization, number).id for number in (1, 2)]
        both = threading.Barrier(2)

        def cross(first: ConnectionId, second: ConnectionId) -> None:
            with store.transaction():
                store.connections.lock([first])
                both.wait(30)
                store.connections.lock([second])

        outcomes = at_once([lambda: cross(ids[0], ids[1]), lambda: cross(ids[1], ids[0])])
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StoreError"]


@pytest.fixture
def organization(store: Store) -> OrganizationId:
    return store.organizations.ensure("Alpha")


class TestTheServerOfTheTests:
    @pytest.mark.parametrize("binaries", [local_binaries, wheel_binaries], ids=["installed", "wheel"])
    def test_it_starts_from_what_is_there(self, binaries: Callable[[], list[Path]]) -> None:
        if not binaries():
            pytest.skip("this machine has none of these")
        server = start_postgres(binaries())
        store = Store.open(server.tcp_url(server.database()))
        assert store.migrate()
        store.close()
        server.stop()

    def test_committed_rows_survive_its_crash_when_it_is_durable(self) -> None:
        server = start_postgres(durable=True)
        store = Store.open(server.url("postgres"))
        store.migrate()
        organization_id = store.organizations.ensure("Alpha")
        server.kill()
        server.start()
        assert store.organizations.get_by_name("Alpha") == organization_id
        store.close()
        server.stop()
