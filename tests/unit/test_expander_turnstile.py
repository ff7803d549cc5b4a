"""Who is next at the children that read calendar text, and whose answer is whose."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander import Expander
from calendar_server.providers.expander_slot import ChildEnded, ChildTimedOut, Slot, Task, written
from calendar_server.providers.expander_turnstile import Turnstile
from tests.unit.children import MEMORY, READING, attempt, until


@dataclass(frozen=True, slots=True)
class Passing(Deadline):
    """A deadline that has passed when it is looked at once more than so often."""

    looks: int
    looked: list[float] = field(default_factory=list)

    def remaining(self) -> float:
        self.looked.append(time.monotonic())
        return 20.0 if len(self.looked) <= self.looks else 0.0


WAITING_LOOKS = 4
"""How often an attempt that has to wait has looked at its deadline when it waits."""


@pytest.mark.parametrize(("looks", "begun"), [(WAITING_LOOKS + 1, 1), (WAITING_LOOKS, 0)])
def test_who_is_given_a_child_too_late_leaves_no_answer_in_it_for_the_next(
    looks: int, begun: int, tmp_path: Path
) -> None:
    """Also if the child was at it already, as whoever ended before had begun it there while there was time."""
    made = Expander(processes=1, event_s=5, calendar_s=10, address_space_bytes=MEMORY)
    try:
        made.warm()
        late = Passing(time.monotonic() + 20, looks)
        with ThreadPoolExecutor(3) as threads:
            here = f"open({str(tmp_path / 'here')!r}, 'w').close()"
            first = threads.submit(attempt, made, "first", eval, f"{here} or __import__('time').sleep(1) or 'first'")
            assert until((tmp_path / "here").exists)
            second = threads.submit(made.attempt, "second", eval, ("'second'",), READING, late)
            assert until(lambda: len(late.looked) == WAITING_LOOKS)
            third = threads.submit(attempt, made, "third", eval, "'third'")
            assert first.result(20) == "first"
            with pytest.raises(ProviderUnavailable):
                second.result(20)
            assert third.result(20) == "third"
        assert made.killed == begun
    finally:
        made.close()


@dataclass(eq=False)
class Somebody:
    used_s: float = 0.0


def test_two_children_that_come_free_at_once_go_to_the_two_who_wait() -> None:
    slots = [Slot(5, MEMORY) for _ in range(2)]
    turnstile = Turnstile(slots)

    def ask(letter: str, deadline: Deadline) -> tuple[Slot, object]:
        slot, task = turnstile.take(Somebody(), deadline, written(str.upper, (letter,)))
        return slot, task and slot.result(task, 20)

    def both_come_free(threads: ThreadPoolExecutor) -> None:
        for slot in slots:
            slot.result(slot.run(abs, (-1,)), 20)
            assert turnstile.take(Somebody(), Deadline.after(20)) == (slot, None)
        deadlines = [Passing(time.monotonic() + 20, 100) for _ in slots]
        waiting = [threads.submit(ask, *each) for each in zip("ab", deadlines, strict=True)]
        assert until(lambda: all(len(each.looked) == 2 for each in deadlines))
        for slot in slots:
            turnstile.put_back(slot)
        got = dict(each.result(20) for each in waiting)
        assert sorted(map(str, got.values())) == ["A", "B"]
        for slot in slots:
            turnstile.put_back(slot)

    try:
        with ThreadPoolExecutor(2) as threads:
            for _ in range(10):
                both_come_free(threads)
    finally:
        for slot in slots:
            slot.close()


@dataclass(frozen=True, slots=True)
class Looked(Deadline):
    """A deadline that knows when it was looked at."""

    looked: list[float] = field(default_factory=list)

    def remaining(self) -> float:
        self.looked.append(time.monotonic())
        return Deadline.remaining(self)


@dataclass
class Behind:
    """One child, at a question that takes until ``go`` is there; behind it one that says when it has been read."""

    slot: Slot
    turnstile: Turnstile
    threads: ThreadPoolExecutor
    folder: Path
    child: psutil.Process
    first: Task[str]

    def ask(self, text: str, seconds: float = 20) -> Future[object]:
        """Somebody waits to ask for this, and will bring the child back."""
        deadline = Looked(time.monotonic() + seconds)
        asked = self.threads.submit(self._asked, text, deadline)
        assert until(lambda: len(deadline.looked) > 0)
        return asked

    def _asked(self, text: str, deadline: Deadline) -> object:
        slot, task = self.turnstile.take(Somebody(), deadline, written(eval, (text,)))
        try:
            return slot.result(task or slot.run(eval, (text,)), 20)
        finally:
            self.turnstile.put_back(slot)

    def noting(self, name: str, then: str) -> str:
        return f"open({str(self.folder / name)!r}, 'w').close() or {then}"

    def go(self) -> None:
        (self.folder / "go").touch()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Behind]:
    slot = Slot(5, MEMORY)
    turnstile = Turnstile([slot])
    go = f"[each for each in iter(lambda: __import__('os').path.exists({str(tmp_path / 'go')!r}), True)] and 0 or 'first'"
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 20))
    with ThreadPoolExecutor(8) as threads:
        try:
            assert turnstile.take(Somebody(), Deadline.after(20)) == (slot, None)
            message, deadline = written(eval, (go,)), Passing(time.monotonic() + 20, 100)
            first = threads.submit(turnstile.take, Somebody(), deadline, message)
            assert until(lambda: len(deadline.looked) == 2)
            turnstile.put_back(slot)
            got, task = first.result(20)
            assert got is slot
            assert task is not None
            yield Behind(slot, turnstile, threads, tmp_path, child, task)
        finally:
            turnstile.close()
            slot.close()


def test_a_child_goes_on_with_the_next_before_its_answer_is_taken(behind: Behind) -> None:
    answers = [behind.ask(behind.noting(f"{number}", f"'{number}'")) for number in range(3)]
    behind.go()
    assert until((behind.folder / "0").exists)
    assert not (behind.folder / "1").exists()
    assert behind.slot.result(behind.first, 20) == "first"
    behind.turnstile.put_back(behind.slot)
    assert [each.result(20) for each in answers] == ["0", "1", "2"]
    assert behind.slot.killed == 0


def test_who_waits_no_more_behind_another_leaves_no_answer_for_the_next(behind: Behind) -> None:
    late = behind.ask(behind.noting("late", "'late'"), 0.5)
    others = [behind.ask(f"'{number}'") for number in range(3)]
    with pytest.raises(ProviderUnavailable):
        late.result(20)
    behind.go()
    assert behind.slot.result(behind.first, 20) == "first"
    behind.turnstile.put_back(behind.slot)
    assert [each.result(20) for each in others] == ["0", "1", "2"]


def test_who_waited_behind_a_child_that_was_ended_asks_again(behind: Behind) -> None:
    others = [behind.ask(f"'{number}'") for number in range(3)]
    with pytest.raises(ChildTimedOut):
        behind.slot.result(behind.first, 0.5)
    behind.turnstile.put_back(behind.slot)
    assert [each.result(20) for each in others] == ["0", "1", "2"]
    assert behind.slot.killed == 1


def test_who_ends_the_child_from_behind_ends_nobody_elses_answer(behind: Behind) -> None:
    ends = behind.ask("__import__('os').abort()")
    others = [behind.ask(f"'{number}'") for number in range(3)]
    behind.go()
    assert until(lambda: behind.child.status() == psutil.STATUS_ZOMBIE)
    assert behind.slot.result(behind.first, 20) == "first"
    behind.turnstile.put_back(behind.slot)
    with pytest.raises(ChildEnded):
        ends.result(20)
    assert [each.result(20) for each in others] == ["0", "1", "2"]


def test_each_time_it_is_the_next_that_stands_behind(behind: Behind) -> None:
    deadline = Looked(time.monotonic() + 20)
    question = written(eval, ("'second'",))
    second = behind.threads.submit(behind.turnstile.take, Somebody(), deadline, question)
    assert until(lambda: len(deadline.looked) > 0)
    others = [behind.ask(behind.noting(f"{number}", f"'{number}'")) for number in range(2)]
    behind.go()
    assert behind.slot.result(behind.first, 20) == "first"
    assert not (behind.folder / "0").exists()
    given_at = time.monotonic()
    behind.turnstile.put_back(behind.slot)
    slot, task = second.result(20)
    assert task is not None
    assert task.began >= given_at, "what was before it is not its own time"
    assert until((behind.folder / "0").exists)
    assert slot.result(task, 20) == "second"
    behind.turnstile.put_back(slot)
    assert [each.result(20) for each in others] == ["0", "1"]


def test_nothing_waits_behind_what_is_not_light(behind: Behind) -> None:
    behind.go()
    assert behind.slot.result(behind.first, 20) == "first"
    behind.turnstile.put_back(behind.slot)
    slot, task = behind.turnstile.take(Somebody(), Deadline.after(20))
    assert task is None
    others = [behind.ask(f"'{number}'") for number in range(3)]
    assert slot.result(slot.run(os.getpid, ()), 20) == behind.child.pid
    behind.turnstile.put_back(slot)
    assert [each.result(20) for each in others] == ["0", "1", "2"]


def test_nobody_is_asked_for_twice() -> None:
    made = Expander(processes=2, event_s=5, calendar_s=5, address_space_bytes=MEMORY)
    try:
        with ThreadPoolExecutor(40) as threads:
            asked = [threads.submit(attempt, made, f"{number}", abs, -number) for number in range(400)]
            assert [each.result(60) for each in asked] == list(range(400))
        assert made.killed == 0
    finally:
        made.close()


def test_nothing_large_waits_behind_another(behind: Behind) -> None:
    large = [behind.ask(f"len('{'x' * 40_000}')") for _ in range(3)]
    behind.go()
    assert behind.slot.result(behind.first, 20) == "first"
    # Were there anything in it, its answer would come first, or it would be taken for a child that has ended.
    assert behind.slot.result(behind.slot.run(os.getpid, ()), 20) == behind.child.pid
    behind.turnstile.put_back(behind.slot)
    assert [each.result(20) for each in large] == [40_000] * 3


class Full(Slot):
    """Has no memory for what is to be begun at once."""

    def begin_at_once(self, message: bytes) -> NoReturn:
        raise MemoryError


def test_a_slot_is_not_lost_when_nothing_can_be_begun_in_it() -> None:
    slot, deadline = Full(5, MEMORY), Passing(time.monotonic() + 20, 100)
    turnstile = Turnstile([slot])
    try:
        assert turnstile.take(Somebody(), Deadline.after(20)) == (slot, None)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(turnstile.take, Somebody(), deadline, written(abs, (-1,)))
            assert until(lambda: len(deadline.looked) == 2)
            with pytest.raises(MemoryError):
                turnstile.put_back(slot)
            assert waiting.result(20) == (slot, None)
    finally:
        slot.close()


def test_many_attempts_each_get_their_own_answer_also_when_children_end_in_between() -> None:
    made = Expander(processes=2, event_s=5, calendar_s=0.5, address_space_bytes=MEMORY)
    numbers = range(600)
    tasks = [f"'{number}'.ljust({number % 50 * 5_000 + 5})" for number in numbers]
    tasks[7] = tasks[31] = "__import__('os').abort()"
    tasks[19] = "__import__('time').sleep(5)"
    try:
        with ThreadPoolExecutor(40) as threads:
            asked = [threads.submit(attempt, made, f"{number}", eval, task) for number, task in enumerate(tasks)]
            answers = [each.result(60) for each in asked]
    finally:
        made.close()
    expected = [None if number in (7, 19, 31) else number for number in numbers]
    assert [int(each) if isinstance(each, str) else each for each in answers] == expected
    assert made.killed == 3
