"""Hints that answers may have changed: across threads, processes and machines, and after a line broke."""

from __future__ import annotations

import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import psycopg
import pytest

from calendar_server.core.model import BookingId, ConnectionId
from calendar_server.store.changes import CHANNEL
from calendar_server.store.store import Store
from tests.contract_store.examples import SEALED, connection

NEVER = threading.Event()


@pytest.fixture
def other(database_url: str) -> Iterator[Store]:
    """Another process's store, as good as."""
    store = Store.open(database_url)
    yield store
    store.close()


def commit(store: Store) -> None:
    """Something that changes answers."""
    name = secrets.token_hex(4)
    added = connection(store.organizations.ensure("Alpha"), id=ConnectionId(f"cal_{name}"), subject=name)
    store.connections.add(added, SEALED)


def listening(store: Store) -> int:
    """Wait until the store hears what others commit, which it tells by one hint. Answers the count from then on."""
    seen = store.changes.wait(store.changes.count, 10, NEVER)
    assert seen
    return seen


def test_a_commit_of_this_process_is_told_at_once(store: Store) -> None:
    seen = store.changes.count
    commit(store)
    assert store.changes.count > seen


def test_a_transaction_that_is_rolled_back_tells_nothing(store: Store) -> None:
    seen = store.changes.count
    with suppress(KeyError), store.transaction():
        commit(store)
        raise KeyError
    assert store.changes.count == seen


def test_a_commit_of_another_process_is_heard(store: Store, other: Store) -> None:
    seen = listening(store)
    commit(other)
    assert store.changes.wait(seen, 10, NEVER) > seen


def test_waiting_ends_by_itself(store: Store) -> None:
    seen = listening(store)
    assert store.changes.wait(seen, 0.05, NEVER) == seen


def test_waiting_ends_when_it_is_told_to(store: Store) -> None:
    stop = threading.Event()
    stop.set()
    assert store.changes.wait(store.changes.count, 60, stop) == store.changes.count


def test_who_waits_is_let_go_at_the_end(database_url: str) -> None:
    store = Store.open(database_url)
    waiting = threading.Thread(target=lambda: store.changes.wait(store.changes.count, 60, NEVER))
    waiting.start()
    store.close()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_version_grows_with_what_changes_answers_and_with_nothing_else(store: Store) -> None:
    organization = store.organizations.ensure("Alpha")
    added = connection(organization)

    def version() -> int:
        heads, _ = store.mirror.heads(organization, [added.id], "")
        return heads[0].version if heads else -1

    store.connections.add(added, SEALED)
    first = version()
    store.connections.note_failure(added.id, "down")
    store.connections.note_success(added.id, 7, added.grant_version)
    assert version() == first
    store.connections.choose(added.id, calendar_id=added.calendar_id, busy_calendar_ids=())
    assert version() == first + 1
    store.connections.note_refusal(added.id, added.grant_version, "refused")
    assert version() == first + 2
    assert store.bookings.get(organization, BookingId("b")) is None


class TestPostgres:
    @pytest.fixture
    def hearing(self, postgres_url: str) -> Iterator[Store]:
        store = Store.open(postgres_url)
        yield store
        store.close()

    @pytest.fixture
    def telling(self, postgres_url: str) -> Iterator[Store]:
        store = Store.open(postgres_url)
        yield store
        store.close()

    def test_a_listener_whose_line_broke_hears_again(self, hearing: Store, telling: Store, postgres_url: str) -> None:
        seen = listening(hearing)
        with psycopg.connect(postgres_url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()",
                (f"LISTEN {CHANNEL}%",),
            )
        # It is woken when the line is there again, for it may have missed something meanwhile.
        seen_again = hearing.changes.wait(seen, 20, NEVER)
        assert seen_again > seen
        commit(telling)
        assert hearing.changes.wait(seen_again, 10, NEVER) > seen_again

    def test_acknowledged_commits_still_wait_for_the_disk(self, hearing: Store, postgres_url: str) -> None:
        seen = listening(hearing)
        telling = Store.open(f"{postgres_url}&options=-csynchronous_commit%3Don")
        commit(telling)
        # Told, which is done without waiting for the disk. Every line that commits still waits.
        assert hearing.changes.wait(seen, 10, NEVER) > seen
        with telling.transaction():
            assert telling._database.fetch("SHOW synchronous_commit") == [("on",)]
        telling.close()


def test_a_process_that_ends_leaves_no_thread_behind(database_url: str) -> None:
    code = (
        "import sys, threading; from calendar_server.store.store import Store; s = Store.open(sys.argv[1]); "
        "s.changes.wait(s.changes.count, 0.2, threading.Event()); s.close(); print('ended')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, database_url], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "ended\n"
