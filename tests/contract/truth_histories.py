"""Random histories of an account and the service, as lists of steps that can be played again, and made shorter.

A step is a rule's name and a number that all its choices follow from, so that a step stays much the same when others
before it are left out. A history that fails is shortened and told in full.
"""

from __future__ import annotations

import itertools
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from calendar_server.core.model import (
    DAY,
    Booking,
    BookingId,
    BookingStatus,
    BusyView,
    CalendarId,
    EventId,
    Interval,
)
from tests.contract.truth import DAYS, RECONCILE_S, SLOTS, Replica, Truth, running
from tests.contract.truth_owners import Entry
from tests.contract.truth_worlds import TruthWorld
from tests.fakes.faulty_line import Kind

MakeWorld = Callable[[], AbstractContextManager[TruthWorld]]

SHORTEN_S = 60.0
"""Seconds that making a failed history shorter may take."""
HANG_S = 0.3
"""Seconds of a caller's deadline while a provider hangs. It keeps most of them for the answer."""

WEIGHTS = {
    "add": 6,
    "add_days": 2,
    "move": 3,
    "alter": 3,
    "remove_occurrence": 2,
    "move_occurrence": 2,
    "delete": 3,
    "book": 6,
    "cancel": 2,
    "push": 3,
    "owner_moves_ours": 3,
    "owner_deletes_ours": 1,
    "fail": 6,
    "hang": 0.5,
    "heal": 3,
    "lie": 2,
    "be_strange": 2,
    "expire_tokens": 1,
    "time_passes": 7,
    "tell": 3,
    "restart": 1,
    "refresh_ahead": 3,
    "reconcile": 0.5,
    "ask": 16,
    "ask_far": 1,
    "ask_both": 3,
    "edit_within_a_read": 4,
    "tell_within_a_read": 2,
}


@dataclass(frozen=True, slots=True)
class Step:
    rule: str
    seed: int


def some_history(dice: random.Random, length: int) -> list[Step]:
    """Steps of a history. Some have no lies, some no faults: what is promised then is more. Some have no whole days."""
    weights = dict(WEIGHTS)
    if dice.random() < 0.6:
        weights["lie"] = 0
    if dice.random() < 0.3:
        weights["fail"] = weights["hang"] = 0
    rules = dice.choices(list(weights), list(weights.values()), k=length)
    steps = [Step(rule, dice.randrange(2**32)) for rule in rules]
    if dice.random() < 0.4:
        # Where nothing lies in the calendar's own zone, less is asked (`caldav_refresh`).
        steps = [step for step in steps if step.rule != "add_days"]
        for _ in range(4):
            steps.insert(dice.randrange(len(steps)), Step("by_and_by", dice.randrange(2**32)))
    return steps


class History:
    """One history under way. The rules are methods; each draws its choices from the dice it is given."""

    def __init__(self, truth: Truth):
        self.truth = truth
        self.world = truth.world
        self.revision = itertools.count(1)
        self.bookings: list[BookingId] = []
        self.lying: set[str] = set()

    def play(self, step: Step) -> None:
        getattr(self, step.rule)(random.Random(step.seed))

    # Choices.

    def calendar(self, dice: random.Random) -> CalendarId:
        return dice.choice(self.world.calendars)

    def replica(self, dice: random.Random) -> Replica:
        return dice.choice(self.truth.replicas)

    def span(self, dice: random.Random) -> Interval:
        first = dice.randrange(SLOTS - 60)
        return self.truth.grid.span(first, first + dice.randint(1, 12))

    def window(self, dice: random.Random) -> Interval:
        if dice.random() < 0.6:
            return self.truth.grid.whole
        first = dice.randrange(SLOTS)
        return self.truth.grid.span(first, first + dice.randint(1, 200))

    def event(
        self, dice: random.Random, wanted: Callable[[Entry], bool] = lambda entry: True
    ) -> tuple[CalendarId, EventId, Entry] | None:
        """An event of the owner's, if there is such a one."""
        found = [
            (calendar_id, event_id, entry)
            for calendar_id in self.world.calendars
            for event_id, entry in self.truth.ledgers[calendar_id].entries.items()
            if wanted(entry)
        ]
        return dice.choice(found) if found else None

    # The owner.

    def add(self, dice: random.Random) -> None:
        span = self.span(dice)
        entry = Entry(
            span.start,
            span.end,
            count=dice.choice([1, 1, 1, 2, 5]),
            free=dice.random() < 0.2,
            tentative=dice.random() < 0.3,
        )
        self.truth.add(self.calendar(dice), entry)

    def add_days(self, dice: random.Random) -> None:
        day, days = dice.randrange(DAYS - 3), dice.randint(1, 3)
        span = self.truth.grid.span(day * 48, (day + days) * 48)
        self.truth.add(self.calendar(dice), Entry(span.start, span.end, all_day=True, count=dice.choice([1, 1, 3])))

    def move(self, dice: random.Random) -> None:
        if found := self.event(dice, lambda entry: entry.plain and not entry.all_day):
            span = self.span(dice)
            self.truth.change(*found[:2], start=span.start, end=span.end)

    def alter(self, dice: random.Random) -> None:
        if found := self.event(dice, lambda entry: entry.plain):
            count = dice.choice([1, 2, 4])
            self.truth.change(*found[:2], free=dice.random() < 0.4, tentative=dice.random() < 0.4, count=count)

    def remove_occurrence(self, dice: random.Random) -> None:
        if found := self.event(dice, lambda entry: len(entry.untouched) > 1):
            calendar_id, event_id, entry = found
            self.truth.change(calendar_id, event_id, removed=entry.removed | {dice.choice(entry.untouched)})

    def move_occurrence(self, dice: random.Random) -> None:
        if found := self.event(dice, lambda entry: len(entry.untouched) > 1 and not entry.all_day):
            calendar_id, event_id, entry = found
            self.truth.change(
                calendar_id, event_id, moved={**entry.moved, dice.choice(entry.untouched): self.span(dice)}
            )

    def delete(self, dice: random.Random) -> None:
        if found := self.event(dice):
            self.truth.delete(*found[:2])

    def by_and_by(self, dice: random.Random) -> None:
        """One change after the other, each read soon after it."""
        self.truth.heal()
        for _ in range(dice.randint(3, 8)):
            dice.choice([self.add, self.move, self.alter, self.delete])(dice)
            self.truth.pass_time(61)
            self.truth.ask(self.replica(dice), self.truth.query(view=BusyView.PER_CALENDAR, allow_partial=True))

    # Bookings.

    def book(self, dice: random.Random) -> None:
        """A new booking, or another time for one."""
        if not self.bookings or dice.random() < 0.4:
            self.bookings.append(BookingId(f"b{len(self.bookings)}"))
            booking_id = self.bookings[-1]
        else:
            booking_id = dice.choice(self.bookings)
        self._send(dice, booking_id, BookingStatus.CONFIRMED, self.span(dice))

    def cancel(self, dice: random.Random) -> None:
        if self.bookings:
            booking_id = dice.choice(self.bookings)
            before = self.truth.places[booking_id].booking
            self._send(dice, booking_id, BookingStatus.CANCELLED, Interval(before.start, before.end))

    def _send(self, dice: random.Random, booking_id: BookingId, status: BookingStatus, span: Interval) -> None:
        replica = self.replica(dice)
        booking = Booking(
            booking_id, next(self.revision), status, title="Interview", start=span.start, end=span.end, time_zone="UTC"
        )
        self.truth.sync(replica, booking)
        if dice.random() < 0.5:
            replica.push()

    def push(self, dice: random.Random) -> None:
        self.replica(dice).push()

    def owner_moves_ours(self, dice: random.Random) -> None:
        if self.bookings:
            self.truth.owner_moves(dice.choice(self.bookings), self.span(dice))

    def owner_deletes_ours(self, dice: random.Random) -> None:
        if self.bookings:
            self.truth.owner_deletes(dice.choice(self.bookings))

    # Faults and lies.

    def fail(self, dice: random.Random) -> None:
        kind = dice.choice([kind for kind in Kind if kind is not Kind.HANG])
        self.truth.spoil(kind, dice.randint(0, 4), dice.choice([1, 1, 2, 6]))

    def hang(self, dice: random.Random) -> None:
        """The provider says nothing, and the caller has little time."""
        self.truth.spoil(Kind.HANG, dice.randint(0, 3), 1)
        query = self.truth.query(self.window(dice), max_staleness_s=0, allow_partial=True)
        self.truth.ask(self.replica(dice), query, seconds=HANG_S)
        self.truth.heal()

    def heal(self, dice: random.Random) -> None:
        self.truth.heal()

    def lie(self, dice: random.Random) -> None:
        """The feed lies from now on; or it has lied, and from now on tells the truth about what changes."""
        if self.world.lies:
            name, on = dice.choice(sorted(self.world.lies)), dice.random() < 0.6
            self.truth.lied = True
            self.world.lies[name](on)
            self.lying = self.lying | {name} if on else self.lying - {name}

    def be_strange(self, dice: random.Random) -> None:
        if self.world.strange:
            self.world.strange[dice.choice(sorted(self.world.strange))](dice.random() < 0.6)

    def expire_tokens(self, dice: random.Random) -> None:
        self.world.expire_tokens()

    # Time, notifications, processes.

    def time_passes(self, dice: random.Random) -> None:
        self.truth.pass_time(dice.choice([31, 61, 61, 61, 61, RECONCILE_S + 1, 23 * 3600, 25 * 3600]))

    def tell(self, dice: random.Random) -> None:
        """A notification, or two of the same. Those that get lost are all the edits without one."""
        calendar_id = self.calendar(dice)
        for _ in range(dice.randint(1, 2)):
            self.truth.tell(calendar_id)

    def restart(self, dice: random.Random) -> None:
        self.truth.restart(dice.randrange(len(self.truth.replicas)))

    def refresh_ahead(self, dice: random.Random) -> None:
        """The worker's turn."""
        replica = self.replica(dice)
        replica.store.mirror.use([self.truth.connection_id], replica.store.now())
        replica.turn()

    def reconcile(self, dice: random.Random) -> None:
        self.truth.reconcile()
        self.truth.lied = bool(self.lying)

    # Questions.

    def ask(self, dice: random.Random) -> None:
        excluded = dice.sample(self.bookings, 1) if self.bookings and dice.random() < 0.2 else []
        query = self.truth.query(
            self.window(dice),
            max_staleness_s=dice.choice([None, None, None, 0, 5, 3600, 86_400]),
            allow_partial=dice.random() < 0.5,
            view=dice.choice(list(BusyView)),
            ignore_tentative=dice.random() < 0.2,
            exclude_booking_ids=frozenset(excluded),
        )
        self.truth.ask(self.replica(dice), query)

    def ask_far(self, dice: random.Random) -> None:
        """A window that reaches beyond the two weeks, and beyond what is kept by itself."""
        grid = self.truth.grid
        window = Interval(grid.start - DAY, grid.at(SLOTS) + dice.choice([1, 60, 500]) * DAY)
        self.truth.ask(self.replica(dice), self.truth.query(window, allow_partial=True))

    def ask_both(self, dice: random.Random) -> None:
        staleness = dice.choice([None, 0])
        self.truth.ask_all(self.truth.query(max_staleness_s=staleness, view=BusyView.PER_CALENDAR, allow_partial=True))

    def edit_within_a_read(self, dice: random.Random) -> None:
        """The owner does something while the calendar is read."""
        found = self.event(dice)
        self.truth.pass_time(61)
        inner = random.Random(dice.randrange(2**32))

        def edit() -> None:
            if found is not None and inner.random() < 0.5:
                self.truth.delete(*found[:2])
            else:
                self.add(inner)

        self.world.orders.between(edit, skip=dice.randint(0, 3))
        query = self.truth.query(max_staleness_s=dice.choice([None, 0]), view=BusyView.PER_CALENDAR, allow_partial=True)
        self.truth.ask(self.replica(dice), query)
        self.world.orders.forget_happenings()

    def tell_within_a_read(self, dice: random.Random) -> None:
        """A notification comes while the calendar is read: what is asked after that rests on a later read."""
        truth, calendar_id, heard = self.truth, self.calendar(dice), list[int]()
        truth.pass_time(61)

        def hear() -> None:
            at = truth.store.now()
            if truth.store.mirror.note_change(truth.connection_id, calendar_id, at):
                heard.append(at)

        self.world.orders.between(hear, skip=dice.randint(0, 3))
        truth.ask(self.replica(dice), truth.query(allow_partial=True))
        self.world.orders.forget_happenings()
        if heard:
            truth.ledgers[calendar_id].told_at = heard[0]
        truth.ask(self.replica(dice), truth.query(allow_partial=True))


def play(make: MakeWorld, steps: Sequence[Step], database: Path) -> None:
    """Play a history over this database, which is up to date and empty, to its exact end."""
    with ExitStack() as stack:
        world = stack.enter_context(make())
        history = History(stack.enter_context(running(f"sqlite:///{database}", world)))
        for step in steps:
            history.play(step)
        history.truth.reconcile()


@dataclass(frozen=True)
class Player:
    """Plays histories in a folder. ``empty`` is a database that is up to date."""

    empty: Path
    folder: Path

    def play(self, make: MakeWorld, steps: Sequence[Step]) -> Exception | None:
        """What was found wrong, if anything was."""
        path = self.folder / "history.db"
        shutil.copyfile(self.empty, path)
        try:
            play(make, steps, path)
        except Exception as error:
            return error
        finally:
            for each in self.folder.glob("history.db*"):
                each.unlink()
        return None

    def play_all(self, make: MakeWorld, *, histories: int, length: int, seed: int) -> None:
        """Play so many. Raises ``AssertionError`` for the first that fails, with the shortest that was found for it."""
        for number in range(histories):
            steps = some_history(random.Random(f"{seed}/{number}"), length)
            error = self.play(make, steps)
            if error is not None:
                steps, error = self.shortened(make, steps, error)
                told = "\n".join(f"    Step({step.rule!r}, {step.seed})," for step in steps)
                raise AssertionError(
                    f"history {number} of seed {seed}, as short as it was found:\n{told}\n{error}"
                ) from error

    def shortened(self, make: MakeWorld, steps: list[Step], error: Exception) -> tuple[list[Step], Exception]:
        """Leave out what the failure does not need."""
        until = time.monotonic() + SHORTEN_S
        size = max(1, len(steps) // 2)
        while size:
            at = 0
            while at < len(steps) and time.monotonic() < until:
                fewer = steps[:at] + steps[at + size :]
                found = self.play(make, fewer)
                if found is not None and type(found) is type(error):
                    steps, error = fewer, found
                else:
                    at += size
            size //= 2
        return steps, error
