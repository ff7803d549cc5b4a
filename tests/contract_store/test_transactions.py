"""Transactions, threads and time, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path

import pytest

from calendar_server.core.model import SECOND, BookingId, OrganizationId
from calendar_server.errors import CalendarError, StoreUnavailable
from calendar_server.store.bookings import number_of
from calendar_server.store.database import Database
from calendar_server.store.rows import OutboxRow
from calendar_server.store.store import AlreadyThere, Store, StoreError
from tests.contract_store.examples import add_connection, add_push, at_once, booking
from tests.waiting import until

ROOT = Path(__file__).parents[2]
B1 = BookingId("b1")


class TestTogether:
    """Changes of several callers, which SQLite commits at once."""

    def run(self, store: Store, *works: Callable[[], object]) -> list[object]:
        """Let all of these wait for the writer, then let them go. What each answered or raised."""
        with ThreadPoolExecutor(len(works) + 1) as threads:
            held, go = threading.Event(), threading.Event()

            def hold() -> None:
                with store.transaction():
                    held.set()
                    go.wait(20)

            holder = threads.submit(hold)
            assert held.wait(10)
            futures = [threads.submit(store.atomically, work) for work in works]
            if store.is_sqlite:
                until(lambda: len(store._database._jobs) == len(works))
            go.set()
            holder.result(20)
            return [future.exception(20) or future.result(20) for future in futures]

    def test_each_has_its_own_answer(self, store: Store) -> None:
        works = [lambda name=name: store.organizations.ensure(name) for name in ("A", "B", "C", "D")]
        assert self.run(store, *works) == [store.organizations.get_by_name(name) for name in ("A", "B", "C", "D")]

    def test_what_one_raises_undoes_its_own_changes_alone(self, store: Store) -> None:
        def fails() -> None:
            store.organizations.ensure("Failed")
            raise LookupError("this one")

        answers = self.run(
            store, lambda: store.organizations.ensure("Before"), fails, lambda: store.organizations.ensure("After")
        )
        assert isinstance(answers[1], LookupError)
        assert store.organizations.get_by_name("Failed") is None
        assert [answers[0], answers[2]] == [store.organizations.get_by_name(name) for name in ("Before", "After")]

    def test_what_one_raises_changes_no_answer_that_was_kept(self, store: Store, organization: OrganizationId) -> None:
        added = add_connection(store, organization)
        seen = store.mirror.heads(organization, [added.id], "")[0][0].version

        def fails() -> None:
            store.connections.choose(added.id, calendar_id=added.calendar_id, busy_calendar_ids=())
            raise LookupError

        self.run(store, fails, lambda: store.organizations.ensure("Other"))
        assert store.mirror.heads(organization, [added.id], "")[0][0].version == seen
        self.run(store, lambda: store.connections.choose(added.id, calendar_id=added.calendar_id, busy_calendar_ids=()))
        assert store.mirror.heads(organization, [added.id], "")[0][0].version == seen + 1

    def test_a_commit_that_fails_is_told_to_all(self, store: Store) -> None:
        if store.is_sqlite:
            # Checked at the commit: a row that refers to nothing.
            def breaks() -> None:
                store._database.run("PRAGMA defer_foreign_keys = 1")
                store._database.execute("INSERT INTO api_keys VALUES ('k', 'org_none', x'00', 1, NULL)")

            answers = self.run(store, lambda: store.organizations.ensure("Good"), breaks)
            assert all(isinstance(answer, StoreError) for answer in answers)
            assert store.organizations.get_by_name("Good") is None
        assert store.atomically(lambda: store.organizations.ensure("Later")) == store.organizations.get_by_name("Later")

    def test_it_runs_in_its_own_context(self, store: Store) -> None:
        name: ContextVar[str] = ContextVar("name")

        def named(value: str) -> Callable[[], str]:
            context = copy_context()
            context.run(name.set, value)
            return lambda: str(context.run(store.atomically, name.get))

        values = ["a", "b", "c"]
        with ThreadPoolExecutor(3) as threads:
            assert [each.result(20) for each in [threads.submit(named(value)) for value in values]] == values

    def test_inside_a_transaction_it_belongs_to_that(self, store: Store) -> None:
        with suppress(LookupError), store.transaction():
            store.atomically(lambda: store.organizations.ensure("Inside"))
            raise LookupError
        assert store.organizations.get_by_name("Inside") is None

    def test_more_than_fit_at_once_are_all_done(self, store: Store) -> None:
        works = [lambda number=number: store.organizations.ensure(f"O{number}") for number in range(70)]
        assert len(set(self.run(store, *works))) == 70


class TestTransactions:
    def test_nothing_stays_of_one_that_failed(self, store: Store, organization: OrganizationId) -> None:
        put: list[OutboxRow] = []

        def give_up() -> None:
            with store.transaction():
                put.append(add_push(store, add_connection(store, organization)))
                raise LookupError

        with pytest.raises(LookupError):
            give_up()
        assert store.bookings.get(organization, B1) is None
        assert store.outbox.get(put[0].id) is None
        assert not store.connections.exists(organization, put[0].connection_id)

    def test_all_stays_of_one_that_ended_well(self, store: Store, organization: OrganizationId) -> None:
        with store.transaction():
            row = add_push(store, add_connection(store, organization))
        assert store.outbox.get(row.id) == row

    def test_it_sees_its_own_changes(self, store: Store, organization: OrganizationId) -> None:
        with store.transaction():
            store.bookings.put(booking(organization))
            assert store.bookings.get(organization, B1) == booking(organization)

    def test_what_was_left_for_later_and_is_refused_undoes_everything(
        self, store: Store, organization: OrganizationId
    ) -> None:
        def refer_to_nothing() -> None:
            store.bookings.put(booking(organization))
            store._database.execute_later("INSERT INTO api_keys VALUES ('k', 'org_none', ?, 1, NULL)", b"x")

        with pytest.raises(StoreError):
            store.atomically(refer_to_nothing)
        assert store.bookings.get(organization, B1) is None
        assert store.atomically(lambda: store.bookings.put(booking(organization))) is None
        assert store.bookings.get(organization, B1) is not None

    def test_what_came_with_the_beginning_is_what_the_lock_waited_for(
        self, store: Store, organization: OrganizationId
    ) -> None:
        account = add_connection(store, organization)
        number = number_of(organization, B1)

        def look() -> tuple[int, ...]:
            def work() -> tuple[int, ...]:
                found = store.bookings.get_for_update(organization, B1)
                rows = store.outbox.of_booking(organization, B1)
                assert [each.id for each in store.connections.get_many(organization, [account.id])] == [account.id]
                return (found.revision if found else 0, len(rows))

            return store.atomically_about(organization, B1, ([account.id], ""), work)

        with ThreadPoolExecutor(1) as threads:
            with store._database.transaction(number):
                later = threads.submit(look)
                add_push(store, account)
            assert later.result(20) == (1, 1)

    def test_what_came_with_the_beginning_is_not_told_after_a_change(
        self, store: Store, organization: OrganizationId
    ) -> None:
        def work() -> tuple[bool, int]:
            missing = store.bookings.get_for_update(organization, B1) is None
            store.bookings.put(booking(organization))
            found = store.bookings.get_for_update(organization, B1)
            return missing, found.revision if found else 0

        assert store.atomically_about(organization, B1, None, work) == (True, 1)

    def test_nobody_else_sees_them_before_the_end(
        self, store: Store, database_url: str, organization: OrganizationId
    ) -> None:
        with store.transaction():
            store.bookings.put(booking(organization))
            assert at_once([lambda: store.bookings.get(organization, B1)]) == [None]

    def test_readers_do_not_wait_for_a_writer(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization))
        with store.transaction():
            store.bookings.put(booking(organization, revision=2))
            began = time.monotonic()
            assert at_once([lambda: store.bookings.get(organization, B1)] * 4) == [booking(organization)] * 4
            assert time.monotonic() - began < 2

    def test_one_inside_another_is_refused(self, store: Store, organization: OrganizationId) -> None:
        with store.transaction():
            with pytest.raises(RuntimeError), store.transaction():
                pass
            store.bookings.put(booking(organization))
        assert store.bookings.get(organization, B1) is not None

    def test_other_threads_may_have_theirs_afterwards(self, store: Store, organization: OrganizationId) -> None:
        with pytest.raises(LookupError), store.transaction():
            raise LookupError
        with store.transaction():
            store.bookings.put(booking(organization))
        assert store.bookings.get(organization, B1) is not None

    def test_a_failed_query_fails_the_whole(self, store: Store, organization: OrganizationId) -> None:
        def accept() -> None:
            with store.transaction():
                store.bookings.put(booking(organization))
                store.bookings.put(booking(OrganizationId("org_none"), "b2"))

        with pytest.raises(StoreError):
            accept()
        assert store.bookings.get(organization, B1) is None

    def test_what_callers_raise_inside_comes_out_as_it_is(self, store: Store) -> None:
        with pytest.raises(OverflowError), store.transaction():
            raise OverflowError

    def test_writers_of_one_process_never_meet_a_locked_database(
        self, store: Store, organization: OrganizationId
    ) -> None:
        def write(thread: int) -> None:
            for number in range(50):
                with store.transaction():
                    store.bookings.get_for_update(organization, B1)
                    store.bookings.put(booking(organization, f"b{thread}-{number}"))

        assert at_once([lambda thread=thread: write(thread) for thread in range(8)]) == [None] * 8
        assert len(list(store.bookings.sealed_contents())) == 400

    def test_two_processes_that_write_lose_nothing(
        self, store: Store, database_url: str, organization: OrganizationId
    ) -> None:
        store.bookings.put(booking(organization, revision=1))
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", GROW, database_url, organization],
                cwd=ROOT,
                env={"PYTHONPATH": f"{ROOT / 'server'}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
            )
            for _ in range(2)
        ]
        assert [process.wait(60) for process in processes] == [0, 0]
        row = store.bookings.get(organization, B1)
        assert row is not None
        assert row.revision == 1 + 2 * 100


GROW = """
import dataclasses, sys
from calendar_server.core.model import BookingId
from calendar_server.store.store import Store
store = Store.open(sys.argv[1])
for _ in range(100):
    with store.transaction():
        row = store.bookings.get_for_update(sys.argv[2], BookingId("b1"))
        store.bookings.put(dataclasses.replace(row, revision=row.revision + 1))
store.close()
"""


class TestThreads:
    def test_a_connection_that_is_left_inside_a_transaction_is_not_lent_again(self, database_url: str) -> None:
        database = Database.open(database_url)
        raw = database._pool.take()
        raw.execute("BEGIN")
        database._pool.give_back(raw)
        again = database._pool.take()
        assert again is not raw
        database._pool.give_back(again)
        database.close()

    def test_a_crowd_of_threads_is_served(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization))

        def use() -> bool:
            for _ in range(3):
                store.bookings.get(organization, B1)
            return store.bookings.reseal(organization, B1, "never", "new")

        assert at_once([use] * 150) == [False] * 150

    def test_a_store_can_be_closed_twice(self, store: Store) -> None:
        store.ping()
        store.close()
        store.close()

    def test_a_closed_store_says_so(self, store: Store) -> None:
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.ping()


class TestTime:
    def test_database_time_is_in_microseconds(self, store: Store) -> None:
        assert abs(store.now() - time.time_ns() // 1000) < 10 * SECOND

    def test_it_goes_on_inside_a_transaction(self, store: Store) -> None:
        with store.transaction():
            first = store.now()
            threading.Event().wait(0.01)
            assert store.now() - first >= 9_000


class TestErrors:
    def test_an_outage_reaches_callers_as_unavailable(self) -> None:
        assert issubclass(StoreError, StoreUnavailable)
        assert issubclass(StoreError, CalendarError)
        assert issubclass(AlreadyThere, StoreError)

    def test_a_database_that_was_never_migrated_is_a_store_error(self, empty_url: str) -> None:
        store = Store.open(empty_url)
        with pytest.raises(StoreError):
            store.organizations.get_by_name("Alpha")
        store.close()
