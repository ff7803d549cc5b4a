"""The answer to a COMMIT is lost on its way from a real Postgres: it is looked for, then answered."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from calendar_server.core.model import BookingStatus, EventState
from calendar_server.errors import ValidationError
from calendar_server.store.database import Database
from calendar_server.store.store import CommitUnknown, Store, StoreError
from tests.fakes.cut_proxy import Cut, CutProxy
from tests.fakes.postgres import OwnPostgres, start_postgres
from tests.usecases.conftest import World, booking, build_world


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    server = start_postgres()
    yield server
    server.stop()


@pytest.fixture
def proxy(server: OwnPostgres) -> Iterator[CutProxy]:
    with CutProxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def url(server: OwnPostgres, proxy: CutProxy) -> str:
    name = server.database()
    store = Store.open(server.url(name))
    store.migrate()
    store.close()
    return server.tcp_url(name, proxy.port)


@pytest.fixture
def world(url: str) -> Iterator[World]:
    """A service that reaches its database through the proxy alone."""
    world = build_world(Store.open(url))
    yield world
    world.availability.close()
    world.store.close()


class CutCommits:
    """Cuts the next ``times`` COMMITs after a booking's wanted states were written, in one way."""

    def __init__(self, proxy: CutProxy, how: Cut, times: int = 1):
        self.left = times
        self._how = how
        self._written = False
        proxy.on_request = self

    def __call__(self, data: bytes) -> Cut:
        self._written = self._written or b"INTO outbox" in data
        if self._written and self.left and b"COMMIT" in data:
            self.left -= 1
            return self._how
        return Cut.NOT


@pytest.mark.parametrize("how", [Cut.ANSWER, Cut.REQUEST, Cut.MIDDLE, Cut.BLIND], ids=lambda how: how.name)
def test_a_booking_whose_commit_was_cut_is_acknowledged_and_there_once(world: World, proxy: CutProxy, how: Cut) -> None:
    connection = world.connect()
    cut = CutCommits(proxy, how)
    report = world.sync(booking(), connection)
    assert cut.left == 0
    assert (report.booking.revision, [event.state for event in report.events]) == (1, [EventState.PENDING])
    assert world.push() == ["synced"]
    assert len(world.in_calendar()) == 1


def test_one_that_is_cut_again_and_again_is_told_as_unknown_and_lands_when_it_is_sent_again(
    world: World, proxy: CutProxy
) -> None:
    connection = world.connect()
    cut = CutCommits(proxy, Cut.REQUEST, times=10_000)
    with pytest.raises(CommitUnknown):
        world.sync(booking(), connection)
    cut.left = 0
    assert world.sync(booking(), connection).booking.revision == 1
    assert world.push() == ["synced"]


def test_what_another_has_sent_under_the_same_revision_is_not_taken_for_ours(world: World, proxy: CutProxy) -> None:
    connection = world.connect()
    other = build_world(world.store)
    written = threading.Event()

    def cut_and_overtake(data: bytes) -> Cut:
        if b"INTO outbox" in data:
            written.set()
        if not written.is_set() or b"COMMIT" not in data:
            return Cut.NOT
        proxy.on_request = lambda data: Cut.NOT
        # Ours is dropped; the other's own revision 1 waits for the end of our transaction and lands.
        overtaking.start()
        return Cut.REQUEST

    def overtake() -> None:
        with contextlib.suppress(ValidationError):
            other.sync(booking(title="Theirs"), connection)

    overtaking = threading.Thread(target=overtake)
    proxy.on_request = cut_and_overtake
    try:
        world.sync(booking(title="Ours"), connection)
        won = "Ours"
    except ValidationError:
        won = "Theirs"
    overtaking.join()
    assert world.report().booking.title == won
    other.availability.close()


def test_a_required_slot_is_held_after_a_lost_answer(world: World, proxy: CutProxy) -> None:
    connection = world.connect()
    cut = CutCommits(proxy, Cut.ANSWER)
    report = world.sync(booking(), connection, require_free=True)
    assert cut.left == 0
    assert report.booking.status is BookingStatus.CONFIRMED
    assert len(report.events) == 1


def test_a_conflict_at_commit_is_known_not_to_have_happened(url: str) -> None:
    database = Database.open(url)
    database.run("CREATE TABLE once (id INT UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def twice() -> None:
        with database.transaction():
            database.run("INSERT INTO once VALUES (1)")
            database.run("INSERT INTO once VALUES (1)")

    with pytest.raises(StoreError) as refused:
        twice()
    assert not isinstance(refused.value, CommitUnknown)
    database.close()


def test_a_failure_that_somebody_swallowed_is_never_acknowledged(url: str) -> None:
    """Postgres answers such a COMMIT by rolling back, without an error."""
    database = Database.open(url)
    database.run("CREATE TABLE things (id INT UNIQUE)")

    def swallow() -> None:
        with database.transaction():
            database.run("INSERT INTO things VALUES (1)")
            with pytest.raises(StoreError):
                database.run("INSERT INTO things VALUES (1)")

    with pytest.raises(StoreError):
        swallow()
    assert database.value("SELECT count(*) FROM things") == 0
    database.close()


def test_a_line_that_says_nothing_is_given_up(url: str, proxy: CutProxy) -> None:
    database = Database.open(url)
    silent = threading.Event()

    def hold(data: bytes) -> Cut:
        if b"SELECT 4711" in data:
            silent.wait(60)
        return Cut.NOT

    proxy.on_request = hold
    raw = database._pool.take()
    raw.answer_s = 0.3
    database._pool.give_back(raw)
    began = time.monotonic()
    with pytest.raises(StoreError):
        database.value("SELECT 4711")
    assert time.monotonic() - began < 20
    silent.set()
    proxy.on_request = lambda data: Cut.NOT
    assert database.value("SELECT 12") == 12
    database.close()
