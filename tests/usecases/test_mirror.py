"""The mirror: answers from memory that are provably fresh enough, and reads that are shared by all who need them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator

import pytest

from calendar_server.core.model import (
    DAY,
    SECOND,
    BusyState,
    BusyView,
    CalendarId,
    Connection,
    ConnectionId,
    EventId,
    Interval,
    ProviderName,
    UnreadableEvent,
)
from calendar_server.errors import NeedsReauth, NotFound, ProviderThrottled, ProviderUnavailable, StoreUnavailable
from calendar_server.providers.base import Deadline, Refreshed, Remembered
from calendar_server.store.store import Store
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import BusyQuery, Target, UpdateCommand
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.refresh import Need
from calendar_server.worker.refreshing import Refreshing
from tests.usecases.conftest import (
    HOME,
    HOUR,
    NOON,
    VAULT,
    WORK,
    Exchanges,
    World,
    booking,
    build_availability,
    build_world,
    cancelled,
)
from tests.usecases.mirrors import NOON_TO_ONE, Telling, kept, make_older, rows
from tests.waiting import until


class TestStaleness:
    def test_a_second_answer_asks_nobody(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE)
        first = kept(world, connection)
        exchanges.watch()
        assert kept(world, connection) == first
        assert exchanges.count == 0
        assert first.busy == (NOON_TO_ONE,)

    def test_what_is_too_old_is_read_again(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        kept(world, connection)
        world.owner_adds(*NOON_TO_ONE)
        assert kept(world, connection).busy == ()
        make_older(world, connection, 61)
        exchanges.watch()
        answer = kept(world, connection)
        assert answer.busy == (NOON_TO_ONE,)
        assert exchanges.count == 2
        assert all(calendar.state is BusyState.FRESH for calendar in answer.calendars)

    @pytest.mark.parametrize("staleness", [0, 10, 59.5])
    def test_no_answer_rests_on_an_older_read_than_was_asked_for(self, world: World, staleness: float) -> None:
        connection = world.connect()
        kept(world, connection)
        make_older(world, connection, 60)
        before = world.store.now()
        answer = kept(world, connection, max_staleness_s=staleness)
        for calendar in answer.calendars:
            assert calendar.as_of is not None
            assert calendar.as_of >= before - staleness * SECOND

    def test_zero_reads_in_full_each_time_whatever_the_feed_says(self, world: World) -> None:
        connection = world.connect()
        feeds: list[bool] = []

        def note(before: Remembered | None) -> None:
            feeds.append(before is not None and not before.full)

        provider = Telling(note)
        grants = Grants(world.store, VAULT, {})
        availability, refresher = build_availability(world.store, grants, {ProviderName.CALDAV: provider})
        query = BusyQuery(Target((connection.id,)), NOON_TO_ONE, max_staleness_s=0)
        for _ in range(3):
            availability.get_busy(world.caller, query)
        assert feeds == [False] * 6
        availability.close()
        refresher.close()

    def test_an_unchanged_calendar_is_not_read_again(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        before = rows(world, connection)
        make_older(world, connection, 61)
        world.provider.fail_next(ProviderUnavailable("read"), times=0)
        kept(world, connection)
        after = rows(world, connection)
        for calendar_id, row in after.items():
            assert row.content_version == before[calendar_id].content_version
            assert row.as_of > before[calendar_id].as_of
            assert row.full_at < row.as_of

    def test_from_time_to_time_it_is_read_in_full(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        make_older(world, connection, 3601)
        kept(world, connection)
        for row in rows(world, connection).values():
            assert row.full_at == row.as_of

    def test_a_full_read_that_finds_nothing_new_is_one_all_the_same(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE)
        kept(world, connection)
        before = rows(world, connection)
        make_older(world, connection, 3601)
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        for calendar_id, row in rows(world, connection).items():
            assert row.content_version == before[calendar_id].content_version
            assert row.full_at == row.as_of > before[calendar_id].as_of - 3601 * SECOND

    def test_by_its_feed_alone_no_calendar_is_as_before_where_everything_was_to_be_read(self, world: World) -> None:
        provider = Telling(lambda before: None if before is None else Refreshed(None, before.memory))
        grants, connection = Grants(world.store, VAULT, {}), world.connect()
        availability, refresher = build_availability(world.store, grants, {ProviderName.CALDAV: provider})
        availability.get_busy(world.caller, BusyQuery(Target((connection.id,)), NOON_TO_ONE))
        with pytest.raises(BusyUnknown):
            availability.get_busy(world.caller, BusyQuery(Target((connection.id,)), NOON_TO_ONE, max_staleness_s=0))
        availability.close()
        refresher.close()

    def test_a_lying_feed_is_found_out_by_the_full_read(self, world: World) -> None:
        def lie(before: Remembered | None) -> Refreshed | None:
            return None if before is None or before.full else Refreshed(None, before.memory)

        provider = Telling(lie)
        grants, connection = Grants(world.store, VAULT, {}), world.connect()
        availability, refresher = build_availability(world.store, grants, {ProviderName.CALDAV: provider})
        query = BusyQuery(Target((connection.id,)), NOON_TO_ONE)
        assert availability.get_busy(world.caller, query).busy == ()
        world.provider, honest = provider, world.provider  # type: ignore[assignment]
        world.owner_adds(*NOON_TO_ONE)
        make_older(world, connection, 61)
        assert availability.get_busy(world.caller, query).busy == ()
        make_older(world, connection, 3601)
        assert availability.get_busy(world.caller, query).busy == (NOON_TO_ONE,)
        world.provider = honest
        availability.close()
        refresher.close()


class TestHorizon:
    def now_window(self, world: World, *, start: int, end: int) -> Interval:
        now = world.store.now()
        return Interval(now + start * DAY, now + end * DAY)

    def test_windows_inside_it_are_answered_from_one_read(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        kept(world, connection, window=self.now_window(world, start=0, end=1))
        exchanges.watch()
        now = world.store.now()
        for start, end in ((-1, 0), (0, 30), (390, 400), (-1, 400)):
            inside = self.now_window(world, start=start, end=end)
            kept(world, connection, window=Interval(max(inside.start, now - DAY + 1), inside.end))
        assert exchanges.count == 0

    @pytest.mark.parametrize(("start", "end"), [(0, 402), (-700, -699), (-700, 1000), (900, 901)])
    def test_windows_beyond_it_extend_it(self, world: World, start: int, end: int, exchanges: Exchanges) -> None:
        connection = world.connect()
        near = self.now_window(world, start=0, end=1)
        kept(world, connection, window=near)
        far = self.now_window(world, start=start, end=end)
        world.owner_adds(far.end - HOUR, far.end)
        assert kept(world, connection, window=far).busy == (Interval(far.end - HOUR, far.end),)
        exchanges.watch()
        kept(world, connection, window=far)
        kept(world, connection, window=near)
        assert exchanges.count == 0

    @pytest.mark.parametrize("wide", [(-700, 1), (0, 1000)])
    def test_a_full_read_takes_it_back_to_what_it_is_for_all(self, world: World, wide: tuple[int, int]) -> None:
        connection = world.connect()
        near = self.now_window(world, start=0, end=1)
        kept(world, connection, window=self.now_window(world, start=wide[0], end=wide[1]))
        make_older(world, connection, 3601)
        kept(world, connection, window=near)
        for row in rows(world, connection).values():
            assert row.window == world.refresher.horizon(connection.id, row.as_of)

    def test_it_moves_with_the_days(self, world: World) -> None:
        connection, now = world.connect(), world.store.now()
        horizons = {world.refresher.horizon(connection.id, now + hours * HOUR) for hours in range(48)}
        assert len(horizons) in (2, 3)
        for hours in range(48):
            at = now + hours * HOUR
            horizon = world.refresher.horizon(connection.id, at)
            assert horizon.start <= at - DAY
            assert horizon.end >= at + 400 * DAY

    def test_not_all_connections_move_at_once(self, world: World) -> None:
        now = world.store.now()
        hours = {world.refresher.horizon(ConnectionId(f"cal_{number}"), now).start % DAY for number in range(100)}
        assert len(hours) > 12


class TestFailures:
    @pytest.fixture
    def failing(self, world: World) -> Callable[[float], Connection]:
        """A connection with an event in its mirror, read that long ago, whose provider fails from now on."""

        def make(age_s: float) -> Connection:
            connection = world.connect()
            world.owner_adds(*NOON_TO_ONE)
            kept(world, connection)
            make_older(world, connection, age_s)
            world.provider.fail_next(ProviderUnavailable("down"), times=100)
            return connection

        return make

    def test_an_older_answer_is_told_as_stale(self, world: World, failing: Callable[[float], Connection]) -> None:
        connection = failing(3000)
        with pytest.raises(BusyUnknown) as unknown:
            kept(world, connection)
        assert {calendar.state for calendar in unknown.value.calendars} == {BusyState.STALE}
        answer = kept(world, connection, allow_partial=True)
        assert not answer.complete
        assert answer.busy == (NOON_TO_ONE,)
        for calendar in answer.calendars:
            assert calendar.state is BusyState.STALE
            assert calendar.as_of is not None
            assert calendar.problem is not None
            assert calendar.problem.reason == "PROVIDER_UNAVAILABLE"

    def test_after_a_day_it_says_nothing_any_more(self, world: World, failing: Callable[[float], Connection]) -> None:
        answer = kept(world, failing(24 * 3600 + 1), allow_partial=True)
        assert answer.busy == ()
        assert {calendar.state for calendar in answer.calendars} == {BusyState.UNKNOWN}

    def test_nor_for_a_window_that_it_does_not_cover(
        self, world: World, failing: Callable[[float], Connection]
    ) -> None:
        window = Interval(NOON + 3000 * DAY, NOON + 3001 * DAY)
        answer = kept(world, failing(100), allow_partial=True, window=window)
        assert {calendar.state for calendar in answer.calendars} == {BusyState.UNKNOWN}

    def test_fresh_enough_is_fresh_though_the_provider_fails(
        self, world: World, failing: Callable[[float], Connection]
    ) -> None:
        assert kept(world, failing(10)).complete

    def test_it_heals_with_the_next_call(self, world: World, failing: Callable[[float], Connection]) -> None:
        connection = failing(100)
        with pytest.raises(BusyUnknown):
            kept(world, connection)
        world.provider._failures.clear()
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        assert {row.failures for row in rows(world, connection).values()} == {0}

    def test_who_keeps_asking_to_slow_down_is_not_asked_again_at_once(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        world.provider.fail_next(ProviderThrottled("slow down", retry_after_s=40), times=6)
        for _ in range(3):
            with pytest.raises(BusyUnknown):
                kept(world, connection)
        exchanges.watch()
        with pytest.raises(BusyUnknown) as unknown:
            kept(world, connection)
        assert exchanges.count == 0
        assert unknown.value.first.reason == "PROVIDER_THROTTLED"
        assert unknown.value.retry_after_s is not None
        assert 30 < unknown.value.retry_after_s <= 40

    def test_a_refused_grant_is_not_tried_again(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        world.provider.fail_next(NeedsReauth(), times=2)
        with pytest.raises(BusyUnknown):
            kept(world, connection)
        exchanges.watch()
        with pytest.raises(BusyUnknown) as unknown:
            kept(world, connection)
        assert unknown.value.first.reason == "NEEDS_REAUTH"
        assert exchanges.count == 0

    def test_an_unreadable_event_stays_known(self, world: World) -> None:
        connection = world.connect()
        world.provider.add_unreadable(WORK, UnreadableEvent(EventId("bad"), "broken", NOON_TO_ONE))
        for _ in range(2):
            with pytest.raises(BusyUnknown) as unknown:
                kept(world, connection)
            assert unknown.value.first.reason == "EVENT_UNREADABLE"
        assert kept(world, connection, window=Interval(NOON + 2 * HOUR, NOON + 3 * HOUR)).complete


class TestFullDisk:
    @pytest.fixture
    def full(self, world: World) -> Iterator[Callable[[], None]]:
        """From then on the database takes nothing new into the mirror, until the test ends."""
        run, made = world.store._database.run, []

        def fill() -> None:
            made.append(True)
            if world.store.is_sqlite:
                for what in ("INSERT ON busy", "UPDATE ON busy", "INSERT ON leases"):
                    name = what.replace(" ", "_")
                    run(f"CREATE TRIGGER {name} BEFORE {what} BEGIN SELECT RAISE(ABORT, 'full'); END")
                return
            run("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''full''; END'")
            for table in ("busy", "leases"):
                run(f"CREATE TRIGGER full_{table} BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()")

        yield fill
        if made and not world.store.is_sqlite:
            run("DROP FUNCTION refuse() CASCADE")

    def test_reads_go_on(self, world: World, full: Callable[[], None]) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE)
        full()
        for _ in range(2):
            answer = kept(world, connection)
            assert answer.complete
            assert answer.busy == (NOON_TO_ONE,)
            assert {calendar.state for calendar in answer.calendars} == {BusyState.FRESH}

    def test_what_is_newer_than_the_mirror_counts(self, world: World, full: Callable[[], None]) -> None:
        connection = world.connect()
        world.sync(booking(start=NOON + HOUR, end=NOON + 2 * HOUR), connection)
        world.push()
        kept(world, connection)
        make_older(world, connection, 61)
        full()
        world.owner_adds(*NOON_TO_ONE)
        assert kept(world, connection).busy == (Interval(NOON, NOON + 2 * HOUR),)
        only_own = kept(world, connection, exclude_booking_ids=frozenset({"b"}))
        assert only_own.busy == (NOON_TO_ONE,)

    def test_failures_are_told_as_they_are(self, world: World, full: Callable[[], None]) -> None:
        connection = world.connect()
        full()
        world.provider.fail_next(ProviderUnavailable("down"), times=2)
        with pytest.raises(BusyUnknown) as unknown:
            kept(world, connection)
        assert unknown.value.first.reason == "PROVIDER_UNAVAILABLE"


class TestNotifications:
    def test_a_calendar_that_changed_is_read_again_though_it_is_young(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        world.owner_adds(*NOON_TO_ONE)
        assert world.store.mirror.note_change(connection.id, WORK, world.store.now())
        assert kept(world, connection).busy == (NOON_TO_ONE,)

    def test_one_that_is_not_mirrored_is_nobodys_business(self, world: World) -> None:
        assert not world.store.mirror.note_change(ConnectionId("cal_none"), WORK, world.store.now())

    def test_a_notification_during_the_read_is_not_lost(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        kept(world, connection)
        make_older(world, connection, 61)

        def change() -> None:
            world.store.mirror.note_change(connection.id, WORK, world.store.now())

        world.provider.interruptions.append(change)
        assert kept(world, connection).complete
        exchanges.watch()
        kept(world, connection)
        assert exchanges.count == 1


class TestOverlay:
    def test_a_booking_is_busy_at_once_in_what_is_kept(self, world: World) -> None:
        connection = world.connect()
        assert kept(world, connection).busy == ()
        world.sync(booking(), connection)
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        assert kept(world, connection, exclude_booking_ids=frozenset({"b"})).busy == ()
        world.sync(cancelled(), connection)
        assert kept(world, connection).busy == ()

    def test_on_every_replica(self, world: World, replica: World) -> None:
        connection = world.connect()
        caller = dataclasses.replace(replica.caller, organization_id=world.caller.organization_id)
        query = BusyQuery(Target((connection.id,)), NOON_TO_ONE)
        assert replica.availability.get_busy(caller, query).busy == ()
        world.sync(booking(), connection)
        assert replica.availability.get_busy(caller, query).busy == (NOON_TO_ONE,)
        world.push()
        assert replica.availability.get_busy(caller, query).busy == (NOON_TO_ONE,)
        world.sync(cancelled(), connection)
        assert replica.availability.get_busy(caller, query).busy == ()
        world.disconnect(connection)
        with pytest.raises(NotFound):
            replica.availability.get_busy(caller, query)

    def test_an_event_of_ours_that_was_read_counts_no_more_once_cancelled(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        world.busy(connection)
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        world.sync(cancelled(), connection)
        assert kept(world, connection).busy == ()

    def test_a_window_of_long_ago_has_its_bookings(self, world: World) -> None:
        connection, now = world.connect(), world.store.now() // SECOND * SECOND
        past = Interval(now - 30 * DAY, now - 30 * DAY + HOUR)
        world.sync(booking(start=past.start, end=past.end), connection)
        assert kept(world, connection, window=past).busy == (past,)

    def test_the_explained_view_is_of_the_same_read(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE)
        kept(world, connection)
        exchanges.watch()
        answer = kept(world, connection, view=BusyView.EXPLAINED)
        assert [event.event_id for calendar in answer.calendars for event in calendar.events] == ["own"]
        assert exchanges.count == 0

    def test_an_event_that_is_made_again_leaves_nothing_where_it_was(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        world.sync(cancelled(), connection)
        world.push()
        world.sync(booking(3, start=NOON + 2 * HOUR, end=NOON + 3 * HOUR), connection)
        assert kept(world, connection).busy == (Interval(NOON + 2 * HOUR, NOON + 3 * HOUR),)

    def test_nor_does_one_that_its_owner_had_deleted(self, world: World) -> None:
        connection = world.connect()
        world.sync(booking(), connection)
        world.push()
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        world.provider.take_out(WORK, world.report().events[0].event_id)
        world.sync(booking(2, start=NOON + 2 * HOUR, end=NOON + 3 * HOUR), connection)
        world.push()
        assert kept(world, connection).busy == (Interval(NOON + 2 * HOUR, NOON + 3 * HOUR),)


class TestChoice:
    def test_a_calendar_that_is_chosen_now_is_read(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE, calendar_id=CalendarId("/shown/"))
        assert kept(world, connection).busy == ()
        world.connections.update(
            world.caller, UpdateCommand(connection.id, busy_calendar_ids=(CalendarId("/shown/"), WORK))
        )
        assert kept(world, connection).busy == (NOON_TO_ONE,)
        assert rows(world, connection).keys() == {WORK, "/shown/"}

    def test_nothing_is_kept_of_a_disconnected_account(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        world.disconnect(connection)
        assert rows(world, connection) == {}
        assert world.store.mirror.content(connection.id, WORK) is None

    def test_nor_by_a_read_that_ends_later(self, world: World) -> None:
        connection = world.connect()
        world.provider.interruptions.append(lambda: world.disconnect(connection))
        with pytest.raises(NotFound):
            kept(world, connection)
        assert rows(world, connection) == {}


class TestWorker:
    @pytest.fixture
    def refreshing(self, world: World) -> Iterator[Refreshing]:
        refreshing = Refreshing(
            world.store, world.refresher, threads=4, max_staleness_s=60, used_s=900, read_s=5, poll_s=0.02
        )
        thread = threading.Thread(target=refreshing.run)
        thread.start()
        yield refreshing
        refreshing.stop()
        thread.join(10)
        assert not thread.is_alive()

    def used(self, world: World, connection: Connection) -> None:
        kept(world, connection)
        until(lambda: all(row.used_at for row in rows(world, connection).values()))

    def test_what_is_in_use_is_read_before_it_is_stale(self, world: World, refreshing: Refreshing) -> None:
        connection = world.connect()
        self.used(world, connection)
        world.owner_adds(*NOON_TO_ONE)
        make_older(world, connection, 31)
        until(lambda: kept(world, connection).busy == (NOON_TO_ONE,))

    def test_what_changed_is_read_soon(self, world: World, refreshing: Refreshing) -> None:
        connection = world.connect()
        self.used(world, connection)
        before = rows(world, connection)
        world.store.mirror.note_change(connection.id, WORK, world.store.now())
        until(lambda: rows(world, connection)[WORK].as_of > rows(world, connection)[WORK].changed_at)
        assert rows(world, connection)[HOME].as_of == before[HOME].as_of

    def test_idle_ones_rest(self, world: World, exchanges: Exchanges, refreshing: Refreshing) -> None:
        idle, used = world.connect("idle"), world.connect("used")
        for connection in (idle, used):
            self.used(world, connection)
        database = world.store._database
        database.execute("UPDATE busy SET used_at = used_at - ? WHERE connection_id = ?", 901 * SECOND, idle.id)
        for connection in (idle, used):
            make_older(world, connection, 31)
        before = rows(world, idle)
        old = rows(world, used)
        until(lambda: all(row.as_of > old[each].as_of for each, row in rows(world, used).items()))
        assert rows(world, idle) == before

    def test_what_fails_is_left_alone_for_a_while(self, world: World, exchanges: Exchanges) -> None:
        connection = world.connect()
        self.used(world, connection)
        make_older(world, connection, 31)
        world.provider.fail_next(ProviderUnavailable("down"), times=2)
        now = world.store.now()
        outcome = world.refresher.refresh(
            [Need(connection, (WORK, HOME))], NOON_TO_ONE, not_before=now, full=False, deadline=Deadline.after(5)
        )
        assert len(outcome.errors) == 2
        now = world.store.now()
        due = world.store.mirror.due(used_since=0, read_before=now, now=now, limit=10)
        assert due == []
        later = world.store.mirror.due(used_since=0, read_before=now, now=now + 6 * SECOND, limit=10)
        assert {row.calendar_id for row in later} == {WORK, HOME}


class TestCache:
    def test_without_memory_answers_are_the_same(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE)
        availability, refresher = build_availability(
            world.store, Grants(world.store, VAULT, {}), dict.fromkeys(ProviderName, world.provider), cache_entries=0
        )
        query = BusyQuery(Target((connection.id,)), NOON_TO_ONE)
        first = availability.get_busy(world.caller, query)
        assert availability.get_busy(world.caller, query) == first == kept(world, connection, window=NOON_TO_ONE)
        availability.close()
        refresher.close()

    def test_a_foreign_organization_is_not_answered_from_it(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        with pytest.raises(NotFound):
            world.availability.get_busy(world.stranger, BusyQuery(Target((connection.id,)), NOON_TO_ONE))

    def test_a_damaged_row_is_read_anew(self, world: World) -> None:
        connection = world.connect()
        world.owner_adds(*NOON_TO_ONE)
        kept(world, connection)
        database = world.store._database
        with database.transaction():
            database.execute(
                "UPDATE busy SET intervals = ? WHERE connection_id = ?", b"9 of another release", connection.id
            )
            database.touch([connection.id])
        assert kept(world, connection).busy == (NOON_TO_ONE,)

    def test_an_outage_of_the_database_is_told(self, world: World) -> None:
        connection = world.connect()
        kept(world, connection)
        world.store.close()
        with pytest.raises(StoreUnavailable):
            kept(world, connection)


@pytest.fixture
def replica(world: World, database_url: str) -> Iterator[World]:
    """Another process on the same database, as good as: with a store and caches of its own."""
    store = Store.open(database_url)
    replica = build_world(store)
    replica.provider = world.provider
    yield replica
    replica.availability.close()
    replica.refresher.close()
    store.close()
