"""Any history of edits, bookings, faults, lies, notifications and restarts: no answer on the way is wrong, and the end is exact.

``make truth`` plays long histories (``CALENDAR_TRUTH`` is how many times as many as usual). See `truth.py` for what is held
against what.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from calendar_server.core.model import DAY, Booking, BookingId, BookingStatus, BusyView, CalendarId, EventId, Interval
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.egress import Egress
from calendar_server.store.store import Store
from tests.contract.conftest import PASSWORD
from tests.contract.truth import DAYS, RECONCILE_S, SLOTS, Replica, Truth, running
from tests.contract.truth_owners import Entry
from tests.contract.truth_worlds import (
    DAV_VOICE,
    GOOGLE_VOICE,
    GRAPH_VOICE,
    TruthWorld,
    google_world,
    memory_world,
    microsoft_world,
    server_world,
    strange_world,
)
from tests.fakes.dav_servers import DavServer
from tests.fakes.faulty_line import FaultyLine, Kind
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.strange_dav import StrangeDav

LONGER = int(os.environ.get("CALENDAR_TRUTH", "1"))
"""How many times as many histories as usual; more than one also makes each longer."""

Make = Callable[[], AbstractContextManager[TruthWorld]]

_slots = st.integers(0, SLOTS - 60)
_lengths = st.integers(1, 12)
_windows = st.one_of(
    st.just((0, SLOTS)), st.tuples(st.integers(0, SLOTS - 1), st.integers(1, 200)).map(lambda w: (w[0], w[0] + w[1]))
)
_kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.HANG])


class Histories(RuleBasedStateMachine):
    """Everything that may happen, in any order."""

    make: ClassVar[Make]
    empty_database: ClassVar[Path]
    folder: ClassVar[Path]
    _numbers = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        world = self.stack.enter_context(type(self).make())
        path = self.folder / f"{next(self._numbers)}.db"
        shutil.copyfile(self.empty_database, path)
        self.truth: Truth = self.stack.enter_context(running(f"sqlite:///{path}", world))
        self.stack.callback(path.unlink)
        self.revision = itertools.count(1)
        self.bookings: list[BookingId] = []

    def teardown(self) -> None:
        with self.stack:
            self.truth.reconcile()

    # Pieces.

    @property
    def world(self) -> TruthWorld:
        return self.truth.world

    def calendar(self, second: bool) -> CalendarId:
        return self.world.second if second else self.world.work

    def replica(self, second: bool) -> Replica:
        return self.truth.replicas[second]

    def some(self, data: st.DataObject, wanted: Callable[[Entry], bool]) -> tuple[CalendarId, EventId, Entry] | None:
        """An event of the owner's, if there is such a one."""
        found = [
            (calendar_id, event_id, entry)
            for calendar_id in self.world.calendars
            for event_id, entry in self.truth.ledgers[calendar_id].entries.items()
            if wanted(entry)
        ]
        return found[data.draw(st.integers(0, len(found) - 1))] if found else None

    # The owner.

    @rule(
        second=st.booleans(),
        slot=_slots,
        length=_lengths,
        count=st.sampled_from([1, 1, 1, 2, 5]),
        free=st.sampled_from([False, False, True]),
        tentative=st.sampled_from([False, False, True]),
    )
    def add(self, second: bool, slot: int, length: int, count: int, free: bool, tentative: bool) -> None:
        span = self.truth.grid.span(slot, slot + length)
        entry = Entry(span.start, span.end, count=count, free=free, tentative=tentative)
        self.truth.add(self.calendar(second), entry)

    @rule(second=st.booleans(), day=st.integers(0, DAYS - 3), days=st.integers(1, 3), count=st.sampled_from([1, 1, 3]))
    def add_days(self, second: bool, day: int, days: int, count: int) -> None:
        span = self.truth.grid.span(day * 48, (day + days) * 48)
        self.truth.add(self.calendar(second), Entry(span.start, span.end, all_day=True, count=count))

    @rule(data=st.data(), slot=_slots, length=_lengths)
    def move(self, data: st.DataObject, slot: int, length: int) -> None:
        if found := self.some(data, lambda entry: entry.plain and not entry.all_day):
            span = self.truth.grid.span(slot, slot + length)
            self.truth.change(*found[:2], start=span.start, end=span.end)

    @rule(data=st.data(), free=st.booleans(), tentative=st.booleans(), count=st.sampled_from([1, 2, 4]))
    def alter(self, data: st.DataObject, free: bool, tentative: bool, count: int) -> None:
        if found := self.some(data, lambda entry: entry.plain):
            self.truth.change(*found[:2], free=free, tentative=tentative, count=count)

    @rule(data=st.data())
    def remove_occurrence(self, data: st.DataObject) -> None:
        if found := self.some(data, lambda entry: entry.count - len(entry.removed) > 1):
            calendar_id, event_id, entry = found
            left = [n for n in range(entry.count) if n not in entry.removed and n not in entry.moved]
            if left:
                number = data.draw(st.sampled_from(left))
                self.truth.change(calendar_id, event_id, removed=entry.removed | {number})

    @rule(data=st.data(), slot=_slots, length=_lengths)
    def move_occurrence(self, data: st.DataObject, slot: int, length: int) -> None:
        if found := self.some(data, lambda entry: entry.count > 1 and not entry.all_day):
            calendar_id, event_id, entry = found
            left = [n for n in range(entry.count) if n not in entry.removed and n not in entry.moved]
            if left:
                number, to = data.draw(st.sampled_from(left)), self.truth.grid.span(slot, slot + length)
                self.truth.change(calendar_id, event_id, moved={**entry.moved, number: to})

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if found := self.some(data, lambda entry: True):
            self.truth.delete(*found[:2])

    # Bookings.

    @rule(second=st.booleans(), slot=_slots, length=_lengths, new=st.booleans(), push=st.booleans(), data=st.data())
    def book(self, second: bool, slot: int, length: int, new: bool, push: bool, data: st.DataObject) -> None:
        """A new booking, or another time for one."""
        if new or not self.bookings:
            self.bookings.append(BookingId(f"b{len(self.bookings)}"))
            booking_id = self.bookings[-1]
        else:
            booking_id = data.draw(st.sampled_from(self.bookings))
        span = self.truth.grid.span(slot, slot + length)
        booking = Booking(
            booking_id, next(self.revision), BookingStatus.CONFIRMED, title="Interview", start=span.start, end=span.end
        )
        self.truth.sync(self.replica(second), booking)
        if push:
            self.replica(second).push()

    @precondition(lambda self: self.bookings)
    @rule(second=st.booleans(), push=st.booleans(), data=st.data())
    def cancel(self, second: bool, push: bool, data: st.DataObject) -> None:
        booking_id = data.draw(st.sampled_from(self.bookings))
        before = self.truth.places[booking_id].booking
        booking = Booking(
            booking_id, next(self.revision), BookingStatus.CANCELLED, title="Interview", start=before.start, end=before.end
        )
        self.truth.sync(self.replica(second), booking)
        if push:
            self.replica(second).push()

    @precondition(lambda self: self.bookings)
    @rule(second=st.booleans())
    def push(self, second: bool) -> None:
        self.replica(second).push()

    @precondition(lambda self: self.bookings)
    @rule(data=st.data(), slot=_slots, length=_lengths)
    def owner_moves_ours(self, data: st.DataObject, slot: int, length: int) -> None:
        self.truth.owner_moves(data.draw(st.sampled_from(self.bookings)), self.truth.grid.span(slot, slot + length))

    @precondition(lambda self: self.bookings)
    @rule(data=st.data())
    def owner_deletes_ours(self, data: st.DataObject) -> None:
        self.truth.owner_deletes(data.draw(st.sampled_from(self.bookings)))

    # Faults and lies.

    @rule(kind=_kinds, skip=st.integers(0, 4), times=st.sampled_from([1, 1, 2, 6]))
    def fail(self, kind: Kind, skip: int, times: int) -> None:
        self.truth.spoil(kind, skip, times)

    @rule(second=st.booleans(), skip=st.integers(0, 3), window=_windows)
    def hang(self, second: bool, skip: int, window: tuple[int, int]) -> None:
        """The provider says nothing, and the caller has little time."""
        self.truth.spoil(Kind.HANG, skip, 1)
        query = self.truth.query(self.truth.grid.span(*window), max_staleness_s=0, allow_partial=True)
        self.truth.ask(self.replica(second), query, seconds=0.3)
        self.truth.heal()

    @precondition(lambda self: self.truth.troubled)
    @rule()
    def heal(self) -> None:
        self.truth.heal()

    @precondition(lambda self: self.world.lies)
    @rule(data=st.data(), on=st.booleans())
    def lie(self, data: st.DataObject, on: bool) -> None:
        """The feed lies from now on; or it has lied, and from now on tells the truth about what changes."""
        self.truth.lied = True
        self.world.lies[data.draw(st.sampled_from(sorted(self.world.lies)))](on)

    @precondition(lambda self: self.world.strange)
    @rule(data=st.data(), on=st.booleans())
    def be_strange(self, data: st.DataObject, on: bool) -> None:
        self.world.strange[data.draw(st.sampled_from(sorted(self.world.strange)))](on)

    @rule()
    def expire_tokens(self) -> None:
        self.world.expire_tokens()

    # Time, notifications, processes.

    @rule(seconds=st.sampled_from([31, 61, 61, 61, RECONCILE_S + 1, 23 * 3600, 25 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.truth.pass_time(seconds)

    @rule(second=st.booleans(), times=st.integers(1, 2))
    def tell(self, second: bool, times: int) -> None:
        """A notification, or two of the same. Those that get lost are all the edits without one."""
        for _ in range(times):
            self.truth.tell(self.calendar(second))

    @rule(second=st.booleans())
    def restart(self, second: bool) -> None:
        self.truth.restart(second)

    @rule(second=st.booleans())
    def refresh_ahead(self, second: bool) -> None:
        """The worker's turn."""
        replica = self.replica(second)
        replica.store.mirror.use([self.truth.connection_id], replica.store.now())
        replica.turn()

    # Questions.

    @rule(
        second=st.booleans(),
        window=_windows,
        staleness=st.sampled_from([None, None, 0, 5, 60, 3600, 86_400]),
        partial=st.booleans(),
        view=st.sampled_from(BusyView),
        firm=st.booleans(),
        data=st.data(),
    )
    def ask(
        self,
        second: bool,
        window: tuple[int, int],
        staleness: int | None,
        partial: bool,
        view: BusyView,
        firm: bool,
        data: st.DataObject,
    ) -> None:
        excluded = frozenset(data.draw(st.lists(st.sampled_from(self.bookings), max_size=1)) if self.bookings else ())
        query = self.truth.query(
            self.truth.grid.span(*window),
            max_staleness_s=staleness,
            allow_partial=partial,
            view=view,
            ignore_tentative=firm,
            exclude_booking_ids=excluded,
        )
        self.truth.ask(self.replica(second), query)

    @rule(second=st.booleans(), days=st.sampled_from([1, 60, 500]))
    def ask_far(self, second: bool, days: int) -> None:
        """A window that reaches beyond the two weeks, and beyond what is kept by itself."""
        grid = self.truth.grid
        window = Interval(grid.start - DAY, grid.at(SLOTS) + days * DAY)
        self.truth.ask(self.replica(second), self.truth.query(window, allow_partial=True))

    @rule(skip=st.integers(0, 3), staleness=st.sampled_from([None, 0]))
    def ask_both(self, skip: int, staleness: int | None) -> None:
        self.truth.ask_all(self.truth.query(max_staleness_s=staleness, view=BusyView.PER_CALENDAR, allow_partial=True))

    @rule(
        second=st.booleans(),
        other=st.booleans(),
        skip=st.integers(0, 3),
        slot=_slots,
        staleness=st.sampled_from([None, 0]),
        data=st.data(),
    )
    def edit_within_a_read(
        self, second: bool, other: bool, skip: int, slot: int, staleness: int | None, data: st.DataObject
    ) -> None:
        """The owner does something while the calendar is read."""
        found = self.some(data, lambda entry: True)
        deletes = found is not None and data.draw(st.booleans())
        self.truth.pass_time(61)

        def edit() -> None:
            if found is not None and deletes:
                self.truth.delete(*found[:2])
            else:
                self.add(other, slot, 3, 1, False, False)

        self.world.orders.between(edit, skip=skip)
        query = self.truth.query(max_staleness_s=staleness, view=BusyView.PER_CALENDAR, allow_partial=True)
        self.truth.ask(self.replica(second), query)
        self.world.orders.forget_happenings()

    @rule(second=st.booleans(), other=st.booleans(), skip=st.integers(0, 3))
    def tell_within_a_read(self, second: bool, other: bool, skip: int) -> None:
        """A notification comes while the calendar is read: what is asked after that rests on a later read."""
        self.truth.pass_time(61)
        truth, calendar_id = self.truth, self.calendar(other)
        self.world.orders.between(
            lambda: truth.store.mirror.note_change(truth.connection_id, calendar_id, truth.store.now()), skip=skip
        )
        truth.ask(self.replica(second), truth.query(allow_partial=True))
        self.world.orders.forget_happenings()
        truth.ledgers[calendar_id].told_at = max(
            row.changed_at for row in truth.store.mirror.busy([truth.connection_id]) if row.calendar_id == calendar_id
        ) if truth.store.mirror.busy([truth.connection_id]) else 0
        truth.ask(self.replica(not second), truth.query(allow_partial=True))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that is up to date, to be copied."""
    path = tmp_path_factory.mktemp("truth") / "empty.db"
    store = Store.open(f"sqlite:///{path}")
    store.migrate()
    store.close()
    assert not path.with_name("empty.db-wal").exists()
    return path


@pytest.fixture
def play(empty_database: Path, tmp_path: Path) -> Callable[[Make, int], None]:
    """Plays histories in worlds of a kind."""

    def run(make: Make, examples: int) -> None:
        machine = type("Machine", (Histories,), {"make": staticmethod(make), "empty_database": empty_database, "folder": tmp_path})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples * LONGER,
                stateful_step_count=30 if LONGER == 1 else 60,
                deadline=None,
                print_blob=True,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )

    return run


Play = Callable[[Make, int], None]


def test_the_reference(play: Play) -> None:
    play(lambda: memory_world(), 60)


def test_radicale(play: Play, radicale: DavServer, username: str, caldav: CaldavProvider) -> None:
    with FaultyLine(radicale.url, DAV_VOICE) as line:
        play(lambda: server_world(radicale, line, caldav, f"/{username}/", username, PASSWORD), 10)


def test_xandikos(play: Play, xandikos: DavServer, caldav: CaldavProvider) -> None:
    with FaultyLine(xandikos.url, DAV_VOICE) as line:
        play(lambda: server_world(xandikos, line, caldav, "/user/calendars/", "anybody", "anything"), 10)


def test_a_strange_server(play: Play, dav: StrangeDav, caldav: CaldavProvider) -> None:
    with FaultyLine(dav.url, DAV_VOICE) as line:
        play(lambda: strange_world(dav, line, caldav), 20)


def test_google(play: Play, google: GoogleFake, egress: Egress) -> None:
    with FaultyLine(google.origin, GOOGLE_VOICE) as line:
        play(lambda: google_world(google, line, egress), 20)


def test_microsoft(play: Play, microsoft: MicrosoftFake, egress: Egress) -> None:
    with FaultyLine(microsoft.origin, GRAPH_VOICE) as line:
        play(lambda: microsoft_world(microsoft, line, egress), 20)
