"""What every provider promises, over every kind of provider. A bug found in one becomes a test of all."""

from __future__ import annotations

from datetime import date

import pytest

from calendar_server.core.model import BusyEvent, CalendarId, CalendarRead, EventId, Interval, UnreadableEvent
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    NotFound,
    PreconditionFailed,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline, EventRef, RemoteEvent
from tests.contract.worlds import WINDOW, MemoryWorld, Series, Switch, World, at, booking, soon
from tests.fakes.mirror import Mirror

UID = "a0b1c2d3e4f5g6h7i8j9k0l1m2n3o4p5q6r7s8t9u0v1a2b3c4d5"


def read(world: World, calendar_id: CalendarId | None = None, window: Interval = WINDOW) -> CalendarRead:
    return world.provider.read_calendar(world.link, calendar_id or world.work, window, soon())


def nothing(world: World) -> CalendarRead:
    """What a read of an empty calendar finds."""
    return CalendarRead((), (), frozenset() if world.names_all_events else None)


def blocks(found: CalendarRead) -> list[Interval]:
    return sorted(Interval(event.start, event.end) for event in found.events if event.reason.blocks)


def ref(world: World, calendar_id: CalendarId | None = None, uid: str = UID) -> EventRef:
    calendar_id = calendar_id or world.work
    return EventRef(calendar_id, uid, world.provider.event_id(calendar_id, uid))


def put(world: World, revision: int = 1, known: RemoteEvent | None = None, **more: object) -> RemoteEvent:
    return world.provider.put_event(world.link, ref(world), booking(revision, **more), known, soon())


def find(world: World, calendar_id: CalendarId | None = None) -> RemoteEvent | None:
    return world.provider.find_event(world.link, ref(world, calendar_id), soon())


def found(world: World) -> RemoteEvent:
    event = find(world)
    assert event is not None
    return event


class TestCalendars:
    def test_every_calendar_is_listed_with_its_id(self, world: World) -> None:
        ids = {calendar.id for calendar in world.provider.list_calendars(world.link, soon())}
        assert {world.work, world.second} <= ids

    def test_a_calendar_says_whether_it_can_be_written_to(self, world: World) -> None:
        writable = {calendar.id: calendar.writable for calendar in world.provider.list_calendars(world.link, soon())}
        assert writable[world.work]
        assert world.read_only is None or not writable[world.read_only]

    def test_a_calendar_that_was_deleted_is_no_longer_listed(self, world: World) -> None:
        world.drop(world.second)
        assert world.second not in {calendar.id for calendar in world.provider.list_calendars(world.link, soon())}


class TestReading:
    def test_an_empty_calendar_has_no_events(self, world: World) -> None:
        assert read(world) == nothing(world)

    def test_an_event_blocks_from_its_start_to_its_end(self, world: World) -> None:
        event_id = world.add(world.work, at(2, 9), at(2, 10, 30))
        (event,) = read(world).events
        assert (event.start, event.end, event.event_id, event.reason.blocks) == (
            at(2, 9),
            at(2, 10, 30),
            event_id,
            True,
        )

    def test_an_event_marked_free_does_not_block(self, world: World) -> None:
        world.add(world.work, at(2, 9), at(2, 10), free=True)
        assert blocks(read(world)) == []

    def test_a_cancelled_event_does_not_block(self, world: World) -> None:
        world.add_cancelled(world.work, at(2, 9), at(2, 10))
        assert blocks(read(world)) == []

    def test_an_event_that_reaches_into_the_window_is_there_unclipped(self, world: World) -> None:
        world.add(world.work, at(1) - 3_600_000_000, at(1, 2))
        assert blocks(read(world)) == [Interval(at(1) - 3_600_000_000, at(1, 2))]

    def test_an_event_that_ends_where_the_window_begins_is_not_in_it(self, world: World) -> None:
        world.add(world.work, at(1) - 3_600_000_000, at(1))
        assert read(world).events == ()

    def test_an_event_outside_the_window_is_known_to_be_there_where_a_read_names_all(self, world: World) -> None:
        event_id = world.add(world.work, at(20, 9), at(20, 10))
        answer = read(world)
        assert answer.events == ()
        assert answer.event_ids == (frozenset({event_id}) if world.names_all_events else None)

    def test_an_all_day_event_blocks_its_days(self, world: World) -> None:
        world.add_all_day(world.work, date(2026, 12, 3), date(2026, 12, 5))
        assert blocks(read(world)) == [Interval(at(3), at(5))]

    def test_a_series_blocks_with_each_occurrence_in_the_window(self, world: World) -> None:
        world.add_series(world.work, Series(at(6, 9), at(6, 10), count=5))
        assert blocks(read(world)) == [Interval(at(6, 9), at(6, 10)), Interval(at(7, 9), at(7, 10))]

    def test_a_series_that_began_long_before_the_window_blocks_in_it(self, world: World) -> None:
        year = 365 * 86_400_000_000
        world.add_series(world.work, Series(at(2, 9) - year, at(2, 10) - year, count=366))
        assert Interval(at(2, 9), at(2, 10)) in blocks(read(world))

    def test_an_occurrence_that_was_moved_blocks_only_where_it_went(self, world: World) -> None:
        world.add_series(world.work, Series(at(2, 9), at(2, 10), count=3, moved=(1, at(3, 15), at(3, 16))))
        assert blocks(read(world)) == [
            Interval(at(2, 9), at(2, 10)),
            Interval(at(3, 15), at(3, 16)),
            Interval(at(4, 9), at(4, 10)),
        ]

    def test_an_occurrence_that_was_removed_does_not_block(self, world: World) -> None:
        world.add_series(world.work, Series(at(2, 9), at(2, 10), count=3, removed=1))
        assert blocks(read(world)) == [Interval(at(2, 9), at(2, 10)), Interval(at(4, 9), at(4, 10))]

    def test_an_event_that_cannot_be_read_is_named_and_the_others_stay_exact(self, world: World) -> None:
        world.add(world.work, at(2, 9), at(2, 10))
        garbage = world.add_garbage(world.work)
        if garbage is None:
            pytest.skip("this server stores nothing that cannot be read")
        answer = read(world)
        assert [event.event_id for event in answer.unreadable] == [garbage]
        assert blocks(answer) == [Interval(at(2, 9), at(2, 10))]

    def test_each_calendar_has_its_own_events(self, world: World) -> None:
        world.add(world.work, at(2, 9), at(2, 10))
        world.add(world.second, at(3, 9), at(3, 10))
        assert blocks(read(world, world.second)) == [Interval(at(3, 9), at(3, 10))]

    def test_a_calendar_that_was_deleted_is_gone_and_not_free(self, world: World) -> None:
        world.drop(world.work)
        with pytest.raises(CalendarGone):
            read(world)

    def test_a_calendar_that_never_was_is_gone_and_not_free(self, world: World) -> None:
        with pytest.raises(CalendarGone):
            read(world, CalendarId(world.work.rstrip("/") + "-other/"))

    def test_a_read_does_not_begin_after_its_deadline(self, world: World) -> None:
        with pytest.raises(ProviderUnavailable):
            world.provider.read_calendar(world.link, world.work, WINDOW, Deadline.after(0))


class TestWriting:
    def test_nothing_is_found_before_it_was_written(self, world: World) -> None:
        assert find(world) is None

    def test_a_booking_blocks_its_time_once_it_is_written(self, world: World) -> None:
        put(world)
        assert blocks(read(world)) == [Interval(at(2, 10), at(2, 11))]

    def test_the_event_has_one_id_wherever_it_is_told(self, world: World) -> None:
        event = put(world)
        (seen,) = read(world).events
        assert event.event_id == seen.event_id == found(world).event_id

    def test_an_id_told_ahead_is_the_one_that_the_event_gets(self, world: World) -> None:
        ahead = world.provider.event_id(world.work, UID)
        assert ahead == (put(world).event_id if world.knows_ids_ahead else "")

    def test_what_was_written_is_found_with_its_revision_and_version(self, world: World) -> None:
        event = put(world, revision=7)
        assert (found(world).revision, found(world).etag) == (7, event.etag)

    def test_a_change_moves_the_event_in_place(self, world: World) -> None:
        before = put(world)
        after = put(world, 2, found(world), start=at(4, 8), end=at(4, 9))
        answer = read(world)
        assert blocks(answer) == [Interval(at(4, 8), at(4, 9))]
        assert before.event_id == after.event_id == answer.events[0].event_id

    def test_the_sequence_grows_with_each_change_where_there_is_one(self, world: World) -> None:
        put(world)
        first = found(world).sequence
        put(world, 2, found(world))
        second = found(world).sequence
        assert second > first if world.counts_changes else (first, second) == (0, 0)

    def test_the_version_changes_with_each_change(self, world: World) -> None:
        before = put(world).etag
        assert put(world, 2, found(world)).etag != before

    def test_creating_what_stands_there_is_refused_and_changes_nothing(self, world: World) -> None:
        put(world)
        with pytest.raises(PreconditionFailed):
            put(world, 2, None, start=at(5, 1), end=at(5, 2))
        assert blocks(read(world)) == [Interval(at(2, 10), at(2, 11))]

    def test_a_change_of_another_version_is_refused_and_changes_nothing(self, world: World) -> None:
        event = put(world)
        world.change(world.work, event.event_id)
        with pytest.raises(PreconditionFailed):
            put(world, 2, event, start=at(5, 1), end=at(5, 2))
        assert blocks(read(world)) == [Interval(at(2, 10), at(2, 11))]

    def test_a_change_of_what_its_owner_deleted_is_refused(self, world: World) -> None:
        event = put(world)
        world.take_out(world.work, event.event_id)
        with pytest.raises(PreconditionFailed):
            put(world, 2, event)
        assert find(world) is None

    def test_the_same_write_again_leaves_one_event(self, world: World) -> None:
        put(world)
        put(world, 1, found(world))
        assert blocks(read(world)) == [Interval(at(2, 10), at(2, 11))]

    def test_a_booking_without_a_title_or_anything_else_is_written(self, world: World) -> None:
        put(world, title="", time_zone="")
        assert blocks(read(world)) == [Interval(at(2, 10), at(2, 11))]

    def test_the_same_booking_stands_in_two_calendars(self, world: World) -> None:
        put(world)
        other = "b" + UID[1:]
        world.provider.put_event(world.link, ref(world, world.second, other), booking(), None, soon())
        assert blocks(read(world)) == blocks(read(world, world.second)) == [Interval(at(2, 10), at(2, 11))]

    def test_what_its_owner_deleted_is_not_found(self, world: World) -> None:
        event = put(world)
        world.take_out(world.work, event.event_id)
        assert find(world) is None

    def test_a_calendar_that_is_read_only_is_not_written_to(self, world: World) -> None:
        if world.read_only is None:
            pytest.skip("this server has no calendars that cannot be written to")
        with pytest.raises(CalendarReadOnly):
            world.provider.put_event(world.link, ref(world, world.read_only), booking(), None, soon())

    def test_a_calendar_that_was_deleted_cannot_be_written_to(self, world: World) -> None:
        world.drop(world.work)
        with pytest.raises(CalendarGone):
            put(world)


class TestDeleting:
    def test_a_deleted_event_is_gone_and_blocks_no_more(self, world: World) -> None:
        put(world)
        world.provider.delete_event(world.link, ref(world), found(world), soon())
        assert find(world) is None
        assert read(world) == nothing(world)

    def test_deleting_again_is_success(self, world: World) -> None:
        event = put(world)
        world.provider.delete_event(world.link, ref(world), event, soon())
        world.provider.delete_event(world.link, ref(world), event, soon())

    def test_another_version_is_not_deleted(self, world: World) -> None:
        event = put(world)
        world.change(world.work, event.event_id)
        with pytest.raises(PreconditionFailed):
            world.provider.delete_event(world.link, ref(world), event, soon())
        assert find(world) is not None

    def test_other_events_stay(self, world: World) -> None:
        other: EventId = world.add(world.work, at(2, 9), at(2, 10))
        world.provider.delete_event(world.link, ref(world), put(world), soon())
        events: tuple[BusyEvent, ...] = read(world).events
        assert [event.event_id for event in events] == [other]


@pytest.fixture
def mirror(world: World) -> Mirror:
    """The first calendar, as a caller of refreshes knows it."""
    return Mirror(world.provider, world.link, world.work, WINDOW)


class TestRefreshing:
    """Whatever is remembered and whatever the provider's signal says, what is known afterwards is what is there."""

    @pytest.mark.parametrize("refreshes", [1, 2, 3, 4])
    def test_an_unchanged_calendar_stays_as_it_was_read(self, world: World, mirror: Mirror, refreshes: int) -> None:
        world.add(world.work, at(2, 10), at(2, 11))
        for _ in range(refreshes):
            mirror.refresh()
        assert mirror.known == mirror.true
        assert sum(mirror.known.values()) == 1

    @pytest.mark.parametrize("refreshes", [1, 2, 3])
    def test_a_new_event_is_seen(self, world: World, mirror: Mirror, refreshes: int) -> None:
        for _ in range(refreshes):
            mirror.refresh()
        world.add(world.work, at(2, 10), at(2, 11))
        mirror.refresh()
        assert sum(mirror.known.values()) == 1

    @pytest.mark.parametrize("refreshes", [1, 2, 3])
    def test_a_deleted_event_is_no_longer_known(self, world: World, mirror: Mirror, refreshes: int) -> None:
        event_id = world.add(world.work, at(2, 10), at(2, 11))
        for _ in range(refreshes):
            mirror.refresh()
        world.take_out(world.work, event_id)
        mirror.refresh()
        assert not mirror.known

    def test_a_history_of_changes_is_followed(self, world: World, mirror: Mirror) -> None:
        changes = [
            lambda: world.add(world.work, at(2, 10), at(2, 11)),
            lambda: world.add(world.work, at(3, 10), at(3, 11), free=True),
            lambda: world.add(world.work, at(20, 10), at(20, 11)),
            lambda: world.add_cancelled(world.work, at(4, 10), at(4, 11)),
            lambda: world.add_all_day(world.work, date(2026, 12, 5), date(2026, 12, 6)),
            lambda: world.add_series(world.work, Series(at(2, 12), at(2, 13), 4, 1, (2, at(6, 1), at(6, 2)))),
            lambda: world.add(world.second, at(2, 14), at(2, 15)),
            lambda: put(world),
            lambda: put(world, 2, found(world), start=at(7, 8), end=at(7, 9)),
            lambda: world.provider.delete_event(world.link, ref(world), found(world), soon()),
        ]
        mirror.refresh()
        for change in changes:
            change()
            mirror.refresh()
            assert mirror.known == mirror.true
            mirror.refresh()
            assert mirror.known == mirror.true

    def test_a_history_of_changes_is_followed_by_full_reads(self, world: World, mirror: Mirror) -> None:
        event_id = world.add(world.work, at(2, 10), at(2, 11))
        changes = [
            lambda: None,
            lambda: world.add(world.work, at(3, 10), at(3, 11), free=True),
            lambda: world.take_out(world.work, event_id),
            lambda: world.add_all_day(world.work, date(2026, 12, 5), date(2026, 12, 6)),
            lambda: put(world),
            lambda: world.provider.delete_event(world.link, ref(world), found(world), soon()),
        ]
        mirror.refresh()
        for change in changes:
            change()
            for _ in range(2):
                mirror.forget()
                mirror.refresh()
                assert mirror.known == mirror.true

    def test_what_cannot_be_read_stays_known_as_that(self, world: World, mirror: Mirror) -> None:
        if world.add_garbage(world.work) is None:
            pytest.skip("this server lets nobody store such a thing")
        for _ in range(4):
            mirror.refresh()
            assert mirror.known == mirror.true
            assert any(isinstance(event, UnreadableEvent) for event in mirror.known)

    @pytest.mark.parametrize("memory", [b"", b"\x00\xff", b"{}", b"99999999999999999999"])
    def test_a_memory_that_is_none_leads_to_a_read(self, world: World, mirror: Mirror, memory: bytes) -> None:
        for _ in range(3):
            mirror.refresh()
        world.add(world.work, at(2, 10), at(2, 11))
        mirror.memory = memory
        assert mirror.refresh()
        assert sum(mirror.known.values()) == 1

    @pytest.mark.parametrize("refreshes", [0, 1, 2, 3])
    def test_a_calendar_that_was_deleted_is_gone_and_not_unchanged(
        self, world: World, mirror: Mirror, refreshes: int
    ) -> None:
        for _ in range(refreshes):
            mirror.refresh()
        world.drop(world.work)
        with pytest.raises(CalendarGone):
            mirror.refresh()


class TestDisconnected:
    def test_no_verb_reaches_the_provider_once_the_connection_is_disconnected(
        self, world: World, switch: Switch
    ) -> None:
        event = put(world)
        switch.live = False
        provider, link = world.provider, world.link
        for verb in (
            lambda: provider.list_calendars(link, soon()),
            lambda: provider.read_calendar(link, world.work, WINDOW, soon()),
            lambda: provider.refresh_calendar(link, world.work, WINDOW, None, soon()),
            lambda: provider.find_event(link, ref(world), soon()),
            lambda: provider.put_event(link, ref(world), booking(2), event, soon()),
            lambda: provider.delete_event(link, ref(world), event, soon()),
        ):
            with pytest.raises(NotFound):
                verb()
        switch.live = True
        assert found(world).revision == 1


class TestMemoryFails:
    def test_a_failing_provider_is_not_a_free_calendar(self, switch: Switch) -> None:
        world = MemoryWorld(switch)
        world.memory.fail_next(ProviderUnavailable("It is down."), times=2)
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                read(world)
        assert read(world).events == ()
