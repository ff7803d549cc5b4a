"""What many ask at once is found by the first of them, and is the others' only where they might have found it themselves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from calendar_server.core.model import BusyView, CalendarId, Connection, Interval, ProviderName
from calendar_server.errors import LimitExceeded, NotFound, ProviderUnavailable
from calendar_server.metrics import BUSY_ANSWERS, Measure, Metrics
from calendar_server.providers.base import Deadline, Link
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, Target
from calendar_server.usecases.grants import Grants
from tests.usecases.conftest import HOME, HOUR, NOON, VAULT, WORK, World, booking, build_availability
from tests.usecases.mirrors import Slow, make_older
from tests.waiting import until

NOON_TO_ONE = Interval(NOON, NOON + HOUR)


@dataclass
class Crowd:
    """Callers who ask about one connection, whose provider answers when it is let go, and others, where it does at once."""

    world: World
    connection: Connection
    threads: ThreadPoolExecutor
    others: tuple[Connection, ...] = ()
    reads: list[CalendarId] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    fails: Callable[[], Exception | None] = lambda: None
    cache_entries: int = 100
    provider_calls: int = 112
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.availability, self.refresher = build_availability(
            self.world.store,
            Grants(self.world.store, VAULT, {}),
            {ProviderName.CALDAV: Slow(self._read)},
            cache_entries=self.cache_entries,
            provider_calls=self.provider_calls,
            metrics=self.metrics,
        )

    def close(self) -> None:
        """End its threads."""
        self.go.set()
        self.availability.close()
        self.refresher.close()

    def _read(self, link: Link, calendar_id: CalendarId, window: Interval) -> None:
        self.reads.append(calendar_id)
        assert link.connection.id != self.connection.id or self.go.wait(20)
        if (error := self.fails()) is not None:
            raise error

    def ask(self, *, caller: Caller | None = None, seconds: float | None = None, **more: object) -> Future[BusyAnswer]:
        """In a thread. ``seconds``: of the caller's own deadline."""
        who = caller or self.world.caller
        if seconds is not None:
            who = Caller(who.organization_id, Deadline.after(seconds))
        target = Target((self.connection.id, *(each.id for each in self.others)))
        # What more a query has is of many types, and each test names what it wants of it.
        query = BusyQuery(target, NOON_TO_ONE, **more)  # type: ignore[arg-type]
        return self.threads.submit(self.availability.get_busy, who, query)

    def until_reading(self, number: int = 2) -> None:
        """Until so many calendars are being read."""
        until(lambda: len(self.reads) == number)

    def until_waiting(self, number: int) -> None:
        """Until so many wait for what another finds."""
        until(lambda: self.waiting == number)

    @property
    def waiting(self) -> int:
        """How many wait for what another finds."""
        return sum(len(question.done._waiting) for question in self.availability._questions._open.values())


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as threads:
        yield threads


@pytest.fixture
def crowd(world: World, threads: ThreadPoolExecutor) -> Iterator[Crowd]:
    crowd = Crowd(world, world.connect(), threads)
    yield crowd
    crowd.close()


@pytest.mark.parametrize("view", BusyView)
def test_all_get_what_the_first_finds(crowd: Crowd, statements: Callable[..., list[str]], view: BusyView) -> None:
    first = crowd.ask(view=view)
    crowd.until_reading()

    def others_come() -> None:
        others.extend(crowd.ask(view=view) for _ in range(12))
        crowd.until_waiting(12)

    others: list[Future[BusyAnswer]] = []
    # They look at nothing before they wait.
    assert statements(others_come) == []
    crowd.go.set()
    assert first.result(20).complete
    assert all(each.result(20) is first.result() for each in others)
    # Its bytes are made once.
    assert first.result().forms is not None
    assert sorted(crowd.reads) == [HOME, WORK]
    counted = crowd.metrics.text().decode()
    assert f'calendar_busy_answers_total{{process="server",state="fresh"}} {2 * 13}' in counted


def test_nothing_is_kept_of_a_question_that_has_ended(crowd: Crowd) -> None:
    crowd.go.set()
    crowd.ask().result(20)
    assert not crowd.availability._questions._open


def test_another_organization_asks_a_question_of_its_own(crowd: Crowd) -> None:
    first = crowd.ask()
    crowd.until_reading()
    strange = crowd.ask(caller=crowd.world.stranger)
    until(lambda: strange.done() or crowd.waiting == 1)
    crowd.go.set()
    with pytest.raises(NotFound):
        strange.result(20)
    assert first.result(20).complete


class Held(Metrics):
    """Stops whoever has made an answer, and not given it yet, until it is let go: one, the first once it is ``armed``."""

    def __init__(self, *, armed: bool = True) -> None:
        super().__init__()
        self.armed = armed
        self.made, self.go = threading.Event(), threading.Event()

    def count(self, measure: Measure, *words: str, by: float = 1) -> None:
        if measure is BUSY_ANSWERS and self.armed and not self.made.is_set():
            self.made.set()
            assert self.go.wait(20)
        super().count(measure, *words, by=by)


def test_what_was_committed_before_a_call_is_in_its_answer(world: World, threads: ThreadPoolExecutor) -> None:
    """Also where it comes when the first has read everything and looked at what is committed, and not answered yet."""
    # Without a memory, what was just read is not known to suffice: the second waits for the first.
    held = Held()
    crowd = Crowd(world, world.connect(), threads, cache_entries=0, metrics=held)
    crowd.go.set()
    first = crowd.ask()
    assert held.made.wait(20)
    world.sync(booking(), crowd.connection)
    other = crowd.ask()
    crowd.until_waiting(1)
    held.go.set()
    assert first.result(20).busy == ()
    assert other.result(20).busy == (NOON_TO_ONE,)
    crowd.close()


def test_who_needs_no_provider_waits_for_nobody(world: World, threads: ThreadPoolExecutor) -> None:
    held = Held(armed=False)
    crowd = Crowd(world, world.connect(), threads, metrics=held)
    crowd.go.set()
    crowd.ask().result(20)
    held.armed = True
    first = crowd.ask()
    assert held.made.wait(20)
    second = crowd.ask()
    until(lambda: second.done() or crowd.waiting > 0)
    assert second.done()
    assert not first.done()
    held.go.set()
    assert first.result(20).complete
    crowd.close()


def test_a_failure_is_shared_and_the_provider_not_asked_again(crowd: Crowd) -> None:
    crowd.fails = lambda: ProviderUnavailable("down")
    first = crowd.ask()
    crowd.until_reading()
    others = [crowd.ask() for _ in range(12)]
    crowd.until_waiting(12)
    crowd.go.set()
    for each in (first, *others):
        assert isinstance(each.exception(20), BusyUnknown)
    assert sorted(crowd.reads) == [HOME, WORK]


def test_a_partial_answer_is_made_by_each_of_what_is_known_without_asking_again(crowd: Crowd) -> None:
    crowd.fails = lambda: ProviderUnavailable("down")
    first = crowd.ask(allow_partial=True)
    crowd.until_reading()
    others = [crowd.ask(allow_partial=True) for _ in range(6)]
    crowd.until_waiting(6)
    crowd.go.set()
    assert not any(each.result(20).complete for each in (first, *others))
    assert sorted(crowd.reads) == [HOME, WORK]


def test_who_has_more_time_than_the_first_had_asks_again(crowd: Crowd) -> None:
    failures = iter([ProviderUnavailable("The provider took too long to answer.")] * 2)
    crowd.fails = lambda: next(failures, None)
    hurried = crowd.ask(seconds=2)
    crowd.until_reading()
    patient = crowd.ask(seconds=60)
    crowd.until_waiting(1)
    crowd.go.set()
    assert isinstance(hurried.exception(20), BusyUnknown)
    assert patient.result(20).complete
    assert len(crowd.reads) == 4


def test_so_does_who_is_told_of_reads_that_are_late_enough_but_no_longer_true(crowd: Crowd) -> None:
    crowd.go.set()
    crowd.ask().result(20)
    for calendar_id in (WORK, HOME):
        assert crowd.world.store.mirror.note_change(crowd.connection.id, calendar_id, crowd.world.store.now())
    failures = iter([ProviderUnavailable("down")] * 4)
    crowd.fails = lambda: next(failures, None)
    # From here on it is known in memory, too, that they have changed.
    assert not crowd.ask(allow_partial=True).result(20).complete
    crowd.reads.clear()
    crowd.go.clear()
    hurried = crowd.ask(allow_partial=True, seconds=2)
    crowd.until_reading()
    patient = crowd.ask(allow_partial=True, seconds=60)
    crowd.until_waiting(1)
    crowd.go.set()
    assert not hurried.result(20).complete
    assert patient.result(20).complete


def test_a_failure_that_began_too_early_for_a_call_is_not_its_own(crowd: Crowd) -> None:
    failures = iter([ProviderUnavailable("down")] * 2)
    crowd.fails = lambda: next(failures, None)
    first = crowd.ask(max_staleness_s=1)
    began_at = time.monotonic()
    crowd.until_reading()
    until(lambda: time.monotonic() > began_at + 1.2)
    late = crowd.ask(max_staleness_s=1)
    crowd.until_waiting(1)
    crowd.go.set()
    assert isinstance(first.exception(20), BusyUnknown)
    assert late.result(20).complete


def test_a_failure_that_was_known_when_a_call_came_is_not_its_own(world: World, threads: ThreadPoolExecutor) -> None:
    """Its account may have been connected again before the call."""
    crowd = Crowd(world, world.connect("slow"), threads, (world.connect("failing"),))
    failures = iter([ProviderUnavailable("down")] * 2)
    crowd.fails = lambda: next(failures, None)
    first = crowd.ask()
    crowd.until_reading(4)
    until(lambda: list(crowd.refresher._flights) == [crowd.connection.id])
    late = crowd.ask()
    crowd.until_waiting(1)
    crowd.go.set()
    assert isinstance(first.exception(20), BusyUnknown)
    assert late.result(20).complete
    crowd.close()


def test_what_was_fresh_enough_for_the_first_only_is_read_again(crowd: Crowd) -> None:
    crowd.go.set()
    before = crowd.ask().result(20)
    crowd.go.clear()
    crowd.reads.clear()
    database = crowd.world.store._database
    with database.transaction():
        # One is fresh enough at this moment, and will not be when the other has been read.
        for calendar_id, seconds in ((WORK, 4), (HOME, 100)):
            database.execute(
                "UPDATE busy SET as_of = as_of - ? WHERE calendar_id = ?", seconds * 1_000_000, calendar_id
            )
        database.touch([crowd.connection.id])
    crowd.ask(max_staleness_s=200).result(20)
    first = crowd.ask(max_staleness_s=5)
    crowd.until_reading(1)
    assert crowd.reads == [HOME]
    other = crowd.ask(max_staleness_s=5)
    crowd.until_waiting(1)
    until(lambda: crowd.world.store.now() > as_of(before, WORK) + 1_500_000)
    came_at = crowd.world.store.now()
    crowd.go.set()
    assert as_of(first.result(20), WORK) < came_at - 5_000_000
    assert as_of(other.result(20), WORK) >= came_at - 5_000_000


def test_who_waits_ends_by_its_own_deadline(crowd: Crowd) -> None:
    first = crowd.ask(seconds=60)
    crowd.until_reading()
    hurried = crowd.ask(seconds=0.5)
    assert isinstance(hurried.exception(10), BusyUnknown)
    assert not first.done()


def test_those_who_wait_are_counted_among_the_calls_that_wait_for_providers(
    world: World, threads: ThreadPoolExecutor
) -> None:
    crowd = Crowd(world, world.connect(), threads, provider_calls=2)
    waiting = [crowd.ask()]
    crowd.until_reading()
    waiting.append(crowd.ask())
    crowd.until_waiting(1)
    with pytest.raises(LimitExceeded):
        crowd.ask().result(20)
    crowd.go.set()
    assert all(each.result(20).complete for each in waiting)
    make_older(crowd.world, crowd.connection, 100)
    assert crowd.ask().result(20).complete
    crowd.close()


def as_of(answer: BusyAnswer, calendar_id: CalendarId) -> int:
    found = {calendar.calendar_id: calendar.as_of for calendar in answer.calendars}[calendar_id]
    assert found is not None
    return found
