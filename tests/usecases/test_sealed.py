"""Sealed values over both databases: what was tampered with fails alone, and keys change while the service works."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from calendar_server import app
from calendar_server.config import Config, ConfigError
from calendar_server.core.model import BookingId, Connection, EventState, Interval
from calendar_server.errors import BookingUnreadable, SlotTaken
from calendar_server.store.store import Store
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.bookings import BookingContents
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.rotation import rotate
from calendar_server.vault import Vault
from tests.usecases.conftest import HOUR, NOON, VAULT, World, booking, build_world, cancelled

K1 = "k1:" + "A" * 43 + "="
K2 = "k2:" + "B" * 42 + "A="
OTHER_K1 = "k1:" + "C" * 42 + "A="


def grant_of(world: World, connection: Connection) -> str:
    grant = world.store.connections.grant(connection.id)
    assert grant is not None
    return grant.sealed


def put_grant(world: World, connection: Connection, sealed: str) -> None:
    """Change the stored grant as somebody with the database in his hands would."""
    assert world.store.connections.reseal(connection.id, grant_of(world, connection), sealed)


def content_of(world: World, name: str = "b") -> str:
    row = world.store.bookings.get(world.caller.organization_id, BookingId(name))
    assert row is not None
    return row.sealed_content


def put_content(world: World, sealed: str, name: str = "b") -> None:
    """Change what is stored of a booking."""
    organization = world.caller.organization_id
    assert world.store.bookings.reseal(organization, BookingId(name), content_of(world, name), sealed)


def stored_states(world: World, name: str = "b") -> list[EventState]:
    """The states of a booking's events, whether it can be told or not."""
    return [row.state for row in world.store.outbox.of_booking(world.caller.organization_id, BookingId(name))]


def flipped(sealed: str) -> str:
    """The same with one character of the ciphertext changed."""
    middle = len(sealed) - 20
    return sealed[:middle] + ("A" if sealed[middle] != "A" else "B") + sealed[middle + 1 :]


TAMPERED: dict[str, Callable[[str], str]] = {
    "flipped": flipped,
    "truncated": lambda sealed: sealed[:-4],
    "cut to its head": lambda sealed: sealed[:10],
    "of another key": lambda sealed: sealed.replace("v1|k1|", "v1|k9|"),
    "of another version": lambda sealed: sealed.replace("v1|", "v2|"),
    "empty": lambda sealed: "",
}


class TestATamperedGrant:
    @pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
    def test_it_fails_for_its_connection_only(self, world: World, tamper: Callable[[str], str]) -> None:
        world.owner_adds(NOON, NOON + HOUR)
        broken, whole = world.connect("anna"), world.connect("ben")
        put_grant(world, broken, tamper(grant_of(world, broken)))
        with pytest.raises(BusyUnknown, match="Connect the account again"):
            world.busy(broken)
        assert len(world.busy(whole).busy) == 1
        partial = world.busy(broken, whole, allow_partial=True)
        assert (len(partial.busy), partial.complete) == (1, False)

    def test_two_that_were_swapped_both_fail_and_a_third_is_exact(self, world: World) -> None:
        world.owner_adds(NOON, NOON + HOUR)
        anna, ben, carla = (world.connect(name) for name in ("anna", "ben", "carla"))
        of_anna, of_ben = grant_of(world, anna), grant_of(world, ben)
        put_grant(world, anna, of_ben)
        put_grant(world, ben, of_anna)
        for swapped in (anna, ben):
            with pytest.raises(BusyUnknown, match="Connect the account again"):
                world.busy(swapped)
        assert [(busy.start, busy.end) for busy in world.busy(carla).busy] == [(NOON, NOON + HOUR)]

    def test_connecting_again_mends_it(self, world: World) -> None:
        broken = world.connect("anna")
        put_grant(world, broken, flipped(grant_of(world, broken)))
        world.connect("anna", connection_id=broken.id)
        assert world.busy(broken).complete

    def test_a_booking_waits_for_it_and_is_pushed_when_it_is_mended(self, world: World) -> None:
        broken = world.connect("anna")
        sealed = grant_of(world, broken)
        put_grant(world, broken, flipped(sealed))
        world.sync(booking(), broken)
        world.push()
        assert world.states() == [EventState.PENDING]
        assert world.in_calendar() == []
        world.connect("anna", connection_id=broken.id)
        world.push()
        assert world.states() == [EventState.SYNCED]


class TestATamperedBooking:
    def test_two_that_were_swapped_are_not_shown_as_each_other(self, world: World) -> None:
        connection = world.connect()
        for name in ("a", "b", "c"):
            world.sync(booking(id=BookingId(name), title=f"title of {name}"), connection)
        bookings, organization = world.store.bookings, world.caller.organization_id
        sealed = {row[1]: row[2] for row in bookings.sealed_contents()}
        a, b = BookingId("a"), BookingId("b")
        assert bookings.reseal(organization, a, sealed[a], sealed[b])
        assert bookings.reseal(organization, b, sealed[b], sealed[a])
        for name in ("a", "b"):
            with pytest.raises(Exception, match="cannot be opened"):
                world.report(name)
        assert world.report("c").booking.title == "title of c"
        world.push()
        assert world.states("c") == [EventState.SYNCED]

    @pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
    def test_a_newer_revision_takes_its_place(self, world: World, tamper: Callable[[str], str]) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        put_content(world, tamper(content_of(world)))
        with pytest.raises(BookingUnreadable, match="revision higher than 1") as told:
            world.report()
        assert told.value.metadata == {"bookingId": "b", "revision": "1"}
        world.sync(booking(2, title="New", start=NOON + HOUR, end=NOON + 2 * HOUR), connection)
        world.push()
        assert world.report().booking.title == "New"
        assert world.states() == [EventState.SYNCED]
        # It is the same event still, moved.
        assert world.in_calendar() == [Interval(NOON + HOUR, NOON + 2 * HOUR)]

    @pytest.mark.parametrize("revision", [1, 2])
    def test_no_other_revision_changes_it(self, world: World, revision: int) -> None:
        connection = world.connect()
        world.sync(booking(2), connection)
        world.push()
        put_content(world, flipped(content_of(world)))
        before = content_of(world)
        with pytest.raises(BookingUnreadable):
            world.sync(booking(revision), connection)
        assert content_of(world) == before
        assert stored_states(world) == [EventState.SYNCED]

    def test_it_can_be_cancelled_and_keeps_its_times(self, world: World) -> None:
        world.sync(booking(), world.connect())
        world.push()
        put_content(world, flipped(content_of(world)))
        world.sync(cancelled())
        world.push()
        assert world.states() == [EventState.REMOVED]
        assert world.in_calendar() == []
        told = world.report().booking
        assert (told.start, told.end, told.title) == (NOON, NOON + HOUR, "")

    def test_pushes_of_others_go_on_and_its_own_when_it_is_mended(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        whole = content_of(world)
        put_content(world, flipped(whole))
        for number in range(8):
            # Again and again: what is ours to blame must not look like a provider that fails.
            world.store.outbox.hasten([connection.id], world.store.now())
            world.sync(booking(id=BookingId(f"other{number}")), connection)
            world.push()
            assert world.states(f"other{number}") == [EventState.SYNCED]
            assert stored_states(world) == [EventState.PENDING]
        assert len(world.in_calendar()) == 8
        again = world.store.connections.get(world.caller.organization_id, connection.id)
        assert again is not None
        assert again.sync_error is None
        put_content(world, whole)
        world.store.outbox.make_due(connection.id, world.store.now())
        world.push()
        assert world.states() == [EventState.SYNCED]

    def test_it_blocks_its_time_as_before(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        put_content(world, flipped(content_of(world)))
        answer = world.busy(connection)
        assert answer.complete
        assert [(each.start, each.end) for each in answer.busy] == [(NOON, NOON + HOUR)]
        with pytest.raises(SlotTaken):
            world.sync(booking(id=BookingId("second")), connection, require_free=True)

    def test_a_title_is_in_the_database_sealed_only(self, world: World, database_url: str, tmp_path: Path) -> None:
        secret = booking(title="Zwölf Geschworene", description="Streng geheim", location="Kabinett 9")
        world.sync(secret, world.connect())
        world.push()
        held = everything(world.store, database_url)
        assert b"cal_" in held
        for text in ("Zwölf", "Geschworene", "Streng", "Kabinett"):
            assert text.encode() not in held
            assert text.encode("utf-16-le") not in held


def everything(store: Store, database_url: str) -> bytes:
    """Every byte of SQLite's files; every row of Postgres."""
    if store.path is not None:
        return b"".join(path.read_bytes() for path in store.path.parent.glob(f"{store.path.name}*"))
    with psycopg.connect(database_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return "\n".join(
            str(row[0])
            for (table,) in tables
            for row in connection.execute(f'SELECT t::text FROM "{table}" t').fetchall()
        ).encode()


class TestRotation:
    def test_everything_is_sealed_anew_and_the_old_key_opens_nothing(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        ring = Vault.from_keys(f"{K2},{K1}")
        outcome = rotate(world.store, ring)
        assert (outcome.kid, outcome.resealed, outcome.unreadable) == ("k2", 2, ())
        assert rotate(world.store, ring).resealed == 0
        only_new = Vault.from_keys(K2)
        assert Grants(world.store, only_new, {}).opened(connection)["password"] == "right"
        row = world.store.bookings.get(world.caller.organization_id, BookingId("b"))
        assert row is not None
        assert BookingContents(only_new).open(row)[0].title == "Interview"

    def test_what_no_key_opens_is_named_and_left_as_it_is(self, world: World) -> None:
        connection = world.connect()
        tampered = flipped(grant_of(world, connection))
        put_grant(world, connection, tampered)
        outcome = rotate(world.store, Vault.from_keys(f"{K2},{K1}"))
        assert outcome.unreadable == (f"connection {connection.id}",)
        assert grant_of(world, connection) == tampered

    def test_calls_and_pushes_go_on_while_it_runs(self, world: World, store: Store) -> None:
        """Two processes: one has the new ring already, one still writes with the old key and can read both."""
        connections = [world.connect(f"user{number}") for number in range(6)]
        # What writes with the old key knows the new one: it was given to every process first.
        old = build_world(store, Vault.from_keys(f"{K1},{K2}"))
        new = build_world(store, Vault.from_keys(f"{K2},{K1}"))
        stop, failed, done = threading.Event(), [], [0, 0]

        def work(side: World, number: int) -> None:
            revision = 0
            mine = BookingId(f"b{number}")
            while not stop.is_set() or revision < 3:
                revision += 1
                try:
                    side.sync(booking(revision, id=mine, title=f"title {revision}"), connections[number])
                    side.push()
                    assert side.busy(connections[number]).complete
                    assert side.report(mine).booking.title == f"title {revision}"
                    side.connect(f"user{number}", connection_id=connections[number].id)
                except Exception as error:
                    failed.append(error)
                    return
                done[number] = revision

        threads = [threading.Thread(target=work, args=(side, number)) for number, side in enumerate((old, new))]
        for thread in threads:
            thread.start()
        for _ in range(5):
            rotate(store, Vault.from_keys(f"{K2},{K1}"))
        stop.set()
        for thread in threads:
            thread.join()
        for side in (old, new):
            side.availability.close()
            side.refresher.close()
        assert failed == []
        assert min(done) >= 3
        # The old process has gone: one more rotation, and the old key may leave.
        assert rotate(store, Vault.from_keys(f"{K2},{K1}")).unreadable == ()
        only_new = Vault.from_keys(K2)
        for connection in connections:
            assert Grants(store, only_new, {}).opened(connection)["password"] == "right"


def settings(database_url: str, keys: str) -> Config:
    return Config.from_environment({"CALENDAR_DATABASE_URL": database_url, "CALENDAR_MASTER_KEYS": keys})


class TestStartingWithKeys:
    @pytest.fixture
    def used(self, world: World, database_url: str) -> World:
        """A database that k1 wrote, with a grant and a booking in it."""
        app.open_vault(settings(database_url, K1), world.store)
        world.sync(booking(), world.connect())
        return world

    @pytest.mark.parametrize(
        ("keys", "told"),
        [
            (OTHER_K1, "k1 is not the one"),
            (f"{K2},{OTHER_K1}", "k1 is not the one"),
            (K2, "it was k1"),
            ("", "CALENDAR_MASTER_KEYS"),
        ],
    )
    def test_a_wrong_or_missing_key_fails_at_once_and_overwrites_nothing(
        self, used: World, database_url: str, keys: str, told: str
    ) -> None:
        used.report()  # SQLite notes in a file of its own up to where readers have read
        before = everything(used.store, database_url)
        with pytest.raises(ConfigError, match=told):
            app.open_vault(settings(database_url, keys), used.store)
        assert everything(used.store, database_url) == before
        used.report()

    def test_a_key_in_use_cannot_leave(self, used: World, database_url: str) -> None:
        app.open_vault(settings(database_url, f"{K2},{K1}"), used.store)
        for _ in range(2):
            with pytest.raises(ConfigError, match=r"k1 is still in use.*rotate-keys"):
                app.open_vault(settings(database_url, K2), used.store)

    @pytest.mark.parametrize("left", ["connection", "booking"])
    def test_one_row_is_enough_to_keep_it(self, used: World, database_url: str, left: str) -> None:
        ring = app.open_vault(settings(database_url, f"{K2},{K1}"), used.store)
        rotate(used.store, ring)
        old = build_world(used.store, VAULT)
        if left == "connection":
            old.connect("late")
        else:
            old.sync(booking(id=BookingId("late")))
        old.availability.close()
        old.refresher.close()
        with pytest.raises(ConfigError, match="k1 is still in use"):
            app.open_vault(settings(database_url, K2), used.store)

    def test_after_a_rotation_it_may(self, used: World, database_url: str) -> None:
        rotate(used.store, app.open_vault(settings(database_url, f"{K2},{K1}"), used.store))
        app.open_vault(settings(database_url, K2), used.store)

    def test_a_key_whose_name_only_begins_like_it_is_another(self, used: World, database_url: str) -> None:
        k11 = K2.replace("k2:", "k11:")
        rotate(used.store, app.open_vault(settings(database_url, f"{k11},{K1}"), used.store))
        app.open_vault(settings(database_url, k11), used.store)
