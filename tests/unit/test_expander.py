"""Real children that read real text: what hostile text costs, and whom."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from calendar_server.core.busy import Reading, Resource, floating_zone, read_resource
from calendar_server.core.intervals import from_datetime
from calendar_server.core.model import EventId, Interval
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander import CHUNK_RESOURCES, Expander
from calendar_server.providers.expander_child import LIGHT_MOST, TOGETHER_MOST, TOO_LONG
from calendar_server.providers.expander_slot import ChildEnded, ChildTimedOut, Slot, Task, written
from calendar_server.providers.expander_turnstile import Turnstile

EVENT_S = 0.25
WINDOW = Interval(*(from_datetime(datetime(2026, month, 1, tzinfo=UTC)) for month in (3, 4)))
READING = Reading(WINDOW, "UTC")
MEMORY = 512_000_000

_names = count()


def resource(*lines: str, event_id: str = "") -> Resource:
    name = event_id or f"e{next(_names)}"
    body = "\r\n".join(["BEGIN:VCALENDAR", "BEGIN:VEVENT", f"UID:{name}", *lines, "END:VEVENT", "END:VCALENDAR", ""])
    return Resource(EventId(name), body)


def meeting(day: int = 10) -> Resource:
    return resource(f"DTSTART:202603{day:02}T090000Z", "DURATION:PT1H")


def slow(times: int = 40, rule: str = "RRULE", since: int = 1600) -> Resource:
    """Takes ten seconds of CPU time to read, a quarter for each of its series, and is like no other text."""
    months = "BYMONTH=1,2,3,4,5,6,7,8,9,10,11,12"
    series = [f"DTSTART:{since}0101T090000Z", "DURATION:PT1H", f"{rule}:FREQ=DAILY;{months};COUNT=99999999"]
    lines = series
    for number in range(times):
        lines = [*lines, "END:VEVENT", "BEGIN:VEVENT", f"UID:{number}-{next(_names)}", *series]
    return resource(*lines)


def large() -> Resource:
    """Takes a lot of memory and time."""
    return resource("DTSTART:20260310T090000Z", "STATUS:CONFIRMED\r\n" * 2_000_000)


def secondly() -> Resource:
    return resource("DTSTART:19700101T000000Z", "DURATION:PT1S", "RRULE:FREQ=SECONDLY")


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    """Poll the world outside of this process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module")
def expander() -> Iterator[Expander]:
    made = Expander(processes=2, event_s=EVENT_S, calendar_s=2.5, address_space_bytes=MEMORY)
    made.warm()
    yield made
    made.close()


def starts(expander: Expander, *resources: Resource, reading: Reading = READING, seconds: float = 20) -> list[int]:
    return [event.start for event in expander.expand(resources, reading, Deadline.after(seconds)).events]


def test_a_child_reads_what_the_reader_reads(expander):
    texts = [meeting(10), meeting(3), resource("DTSTART:20260301T100000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY")]
    texts.append(resource("DTSTART:garbage"))
    found = expander.expand(texts, READING, Deadline.after(20))
    each = [read_resource(text, READING, "UTC", limit=20_000) for text in texts]
    assert sorted(found.events, key=repr) == sorted((event for one in each for event in one.events), key=repr)
    assert found.unreadable == each[3].unreadable
    assert found.event_ids is None


@pytest.mark.parametrize("before", [0, 1, 12, TOGETHER_MOST])
def test_a_slow_one_that_looks_light_is_named_and_those_read_with_it_stay_exact(expander, before):
    def sly() -> Resource:
        return slow(8, "rrule")

    texts = [*(meeting() for _ in range(before)), sly(), sly(), *(meeting(11) for _ in range(12))]
    assert all(len(text.text) < LIGHT_MOST for text in texts)
    found = expander.expand(texts, READING, Deadline.after(20))
    assert [event.event_id for event in found.unreadable] == [text.event_id for text in texts[before : before + 2]]
    assert {problem.message for problem in found.unreadable} == {TOO_LONG}
    assert sorted(event.event_id for event in found.events) == sorted(
        text.event_id for text in texts[:before] + texts[before + 2 :]
    )


def test_those_that_are_read_together_have_their_time_each(expander):
    # A fiftieth of a second each, more than one may take together.
    texts = [slow(0, "rrule", 1990) for _ in range(TOGETHER_MOST)]
    found = expander.expand(texts, READING, Deadline.after(20))
    assert not found.unreadable
    assert len(found.events) == 31 * TOGETHER_MOST


def test_events_come_by_start(expander):
    found = starts(expander, meeting(20), meeting(3), meeting(10))
    assert found == sorted(found)
    assert len(found) == 3


def test_a_calendar_of_more_times_than_allowed_is_no_answer():
    few = Expander(processes=1, event_s=1, calendar_s=2, address_space_bytes=MEMORY, occurrences=30)
    daily = resource("DTSTART:20260301T100000Z", "DURATION:PT1H", "RRULE:FREQ=DAILY;COUNT=30")
    try:
        assert len(starts(few, daily)) == 30
        with pytest.raises(ProviderUnavailable):
            starts(few, daily, meeting())
    finally:
        few.close()


def test_parts_of_a_calendar_are_read_in_the_zone_that_all_of_it_has(expander):
    texts = [resource("DTSTART:20260310T090000", "DURATION:PT1H"), resource("DTSTART;TZID=Asia/Tokyo:20260310T090000")]
    whole = expander.expand_part(texts, Reading(WINDOW), Deadline.after(20), floating=None, voting=False)
    assert whole.floating == "Asia/Tokyo"
    assert whole.votes == (("", ""), ("", "Asia/Tokyo"))
    for voting in (True, False):
        part = expander.expand_part(
            texts[:1], Reading(WINDOW), Deadline.after(20), floating="Asia/Tokyo", voting=voting
        )
        assert part.read.events[0] in whole.read.events
        assert part.votes == ((("", ""),) if voting else None)


ANCHORED = [
    ("DTSTART:20260310T090000Z", "DURATION:PT1H"),
    ("DTSTART;TZID=Asia/Tokyo:20260310T090000", "DTEND:20260310T090000Z", "RRULE:FREQ=DAILY;UNTIL=20260320"),
    ("DTSTART;TZID=Asia/Tokyo:20260310T090000", "RRULE:FREQ=DAILY;COUNT=5", "EXDATE:20260312T090000"),
    ("DTSTART;TZID=Nowhere:20260310T090000", "DURATION:PT1H"),
    ("DTSTART:garbage",),
]
LOOSE = [
    ("DTSTART:20260310T090000", "DURATION:PT1H"),
    ("DTSTART;VALUE=DATE:20260310",),
    ("DTSTART:20260310T090000Z", "DTEND:20260310T100000"),
]


@pytest.mark.parametrize(
    ("lines", "zoneless"), [*((each, False) for each in ANCHORED), *((each, True) for each in LOOSE)]
)
def test_a_calendar_is_zoneless_if_anything_in_it_would_lie_elsewhere_in_another_zone(expander, lines, zoneless):
    texts = [meeting(day % 28 + 1) for day in range(2 * CHUNK_RESOURCES)]
    texts[-1] = resource(*lines)
    found = [
        expander.expand_part(texts, Reading(WINDOW, zone), Deadline.after(30), floating=None, voting=False)
        for zone in ("Pacific/Kiritimati", "Etc/GMT+12")
    ]
    assert [each.zoneless for each in found] == [zoneless] * 2
    if not zoneless:
        assert found[0].read == found[1].read


def test_what_was_too_much_to_read_may_lie_anywhere(expander):
    found = expander.expand_part([meeting(), slow()], READING, Deadline.after(20), floating=None, voting=False)
    assert found.zoneless


def test_an_empty_calendar_is_read(expander):
    assert starts(expander) == []


def test_every_second_since_1970_is_one_block_within_three_seconds(expander):
    every = secondly()
    began = time.monotonic()
    found = expander.expand([meeting(), every, meeting(11)], READING, Deadline.after(20))
    assert time.monotonic() - began < 3
    assert [Interval(one.start, one.end) for one in found.events if one.event_id == every.event_id] == [WINDOW]
    assert len(found.events) == 3
    assert found.unreadable == ()


def test_a_text_that_takes_too_long_is_named_and_the_others_stay_exact(expander):
    bad, killed = slow(), expander.killed
    found = expander.expand([meeting(), bad, meeting(11)], READING, Deadline.after(20))
    assert len(found.events) == 2
    assert [each.event_id for each in found.unreadable] == [bad.event_id]
    assert expander.killed == killed


def test_a_text_that_was_too_much_is_not_tried_again_at_once(expander):
    bad = slow()
    expander.expand([bad], READING, Deadline.after(20))
    began = time.monotonic()
    again = expander.expand([bad, meeting()], READING, Deadline.after(20))
    assert time.monotonic() - began < EVENT_S / 2
    assert [each.event_id for each in again.unreadable] == [bad.event_id]
    assert len(again.events) == 1


def test_a_calendar_of_nothing_but_slow_texts_costs_its_own_limit(expander):
    began = time.monotonic()
    with pytest.raises(ProviderUnavailable):
        expander.expand([slow() for _ in range(30)], READING, Deadline.after(60))
    assert time.monotonic() - began < 8


def test_the_deadline_ends_a_call(expander):
    began = time.monotonic()
    with pytest.raises(ProviderUnavailable):
        expander.expand([slow() for _ in range(8)], READING, Deadline.after(0.3))
    assert time.monotonic() - began < 3
    assert len(starts(expander, meeting())) == 1


def test_a_deadline_that_has_passed_asks_no_child(expander):
    with pytest.raises(ProviderUnavailable):
        expander.expand([meeting()], READING, Deadline(0))


def test_hostile_calendars_neither_fail_nor_delay_the_others_for_long():
    one = Expander(processes=1, event_s=0.1, calendar_s=1, address_space_bytes=MEMORY)
    hostile = [[slow() for _ in range(9)] for _ in range(6)]
    longest = 0.0
    try:
        one.warm()
        first = time.monotonic()
        with ThreadPoolExecutor(len(hostile)) as threads:
            calls = [threads.submit(read_or_fail, one, texts) for texts in hostile]
            while not all(call.done() for call in calls):
                began = time.monotonic()
                assert len(starts(one, meeting(), meeting(11))) == 2
                longest = max(longest, time.monotonic() - began)
                wait(calls, timeout=0.02)
        total = time.monotonic() - first
    finally:
        one.close()
    # Were it not for who has used less, it would be the time of them all, six seconds; here it is that of one slice.
    assert longest < total / 2


def read_or_fail(expander: Expander, texts: list[Resource]) -> None:
    with contextlib.suppress(ProviderUnavailable):
        expander.expand(texts, READING, Deadline.after(30))


def test_a_large_calendar_is_read_whole_and_shares_one_zone(expander):
    texts = [
        resource("DTSTART;TZID=Asia/Tokyo:20260310T090000", "DURATION:PT1H") for _ in range(CHUNK_RESOURCES * 2 + 10)
    ]
    # In its own chunk this one would be alone with its zone.
    texts += [
        resource("DTSTART;VALUE=DATE:20260320"),
        resource("DTSTART;TZID=Europe/Paris:20260321T090000", "DURATION:PT1H"),
    ]
    found = expander.expand(texts, Reading(WINDOW), Deadline.after(30))
    assert floating_zone(texts, "") == "Asia/Tokyo"
    assert len(found.events) == len(texts)
    assert from_datetime(datetime(2026, 3, 19, 15, tzinfo=UTC)) in {event.start for event in found.events}


def test_more_memory_than_allowed_is_named_and_the_others_stay_exact():
    small = Expander(processes=1, event_s=20, calendar_s=40, address_space_bytes=220_000_000)
    try:
        bad = large()
        found = small.expand([meeting(), bad, meeting(11)], READING, Deadline.after(60))
        assert [each.event_id for each in found.unreadable] == [bad.event_id]
        assert len(found.events) == 2
    finally:
        small.close()


def test_a_child_that_dies_takes_only_the_event_along_that_it_was_at():
    alone = Expander(processes=1, event_s=20, calendar_s=40, address_space_bytes=2_000_000_000)
    known = {child.pid for child in children()}
    try:
        alone.warm()
        [child] = [child for child in children() if child.pid not in known]
        at_rest = sum(child.cpu_times()[:2])
        bad = slow()
        with ThreadPoolExecutor(1) as threads:
            call = threads.submit(alone.expand, [meeting(), bad, meeting(11)], READING, Deadline.after(60))
            assert until(lambda: sum(child.cpu_times()[:2]) > at_rest + 0.5)
            child.send_signal(signal.SIGKILL)
            found = call.result()
        assert [each.event_id for each in found.unreadable] == [bad.event_id]
        assert len(found.events) == 2
        assert alone.killed == 1
    finally:
        alone.close()


def test_nothing_runs_before_the_first_use_and_nothing_after_close():
    known = {child.pid for child in children()}
    made = Expander(processes=2, event_s=1, calendar_s=2, address_space_bytes=MEMORY)
    assert {child.pid for child in children()} == known
    made.warm()
    ours = [child for child in children() if child.pid not in known]
    assert len(ours) == 2
    made.close()
    assert until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in ours))
    with pytest.raises(ProviderUnavailable):
        made.expand([meeting()], READING, Deadline.after(5))


def attempt(expander: Expander, name: str, function: Callable[..., object], *arguments: object) -> object:
    return expander.attempt(name, function, arguments, READING, Deadline.after(20))


def test_what_was_attempted_in_vain_is_not_attempted_again_for_a_while(expander):
    killed = expander.killed
    assert attempt(expander, "one", abs, -1) == 1
    assert attempt(expander, "ends", os._exit, 1) is None
    assert attempt(expander, "fails", abs, "x") is None
    assert attempt(expander, "nothing", print) is None
    assert expander.killed == killed + 1
    for name in ("ends", "fails", "nothing"):
        assert attempt(expander, name, abs, -1) is None
    assert attempt(expander, "one", abs, -2) == 2


def test_an_attempt_that_no_child_was_there_for_is_not_held_against_it(expander):
    with pytest.raises(ProviderUnavailable):
        expander.attempt("late", abs, (-1,), READING, Deadline.after(-1))
    assert attempt(expander, "late", abs, -1) == 1


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
    time.sleep(0.1)
    assert not behind.first.line.stirs()
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


@pytest.mark.parametrize("more", [(), ("there.is.none",)])
def test_children_have_their_modules_before_they_are_asked(more):
    modules = ("colorsys", *more)
    made = Expander(processes=1, event_s=1, calendar_s=5, address_space_bytes=MEMORY, modules=modules)
    try:
        made.warm()
        assert attempt(made, "it", eval, "'colorsys' in __import__('sys').modules") is True
        assert len(starts(made, meeting())) == 1
    finally:
        made.close()


@pytest.fixture
def slot() -> Iterator[Slot]:
    made = Slot(0.2, MEMORY)
    yield made
    made.close()


def test_a_task_over_its_time_ends_its_child_and_the_next_one_works(slot):
    with pytest.raises(ChildTimedOut):
        slot.result(slot.run(time.sleep, (60,)), 0.2)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1
    assert slot.killed == 1


def test_a_child_that_ends_while_nobody_asks_it_is_replaced_and_blames_no_task(slot):
    first = slot.result(slot.run(os.getpid, ()), 5)
    os.kill(first, signal.SIGKILL)
    # Its lines are closed when the last of its threads has ended.
    assert until(
        lambda: (
            psutil.Process(first).status() == psutil.STATUS_ZOMBIE
            and len(list(Path(f"/proc/{first}/task").iterdir())) == 1
        )
    )
    assert slot.result(slot.run(os.getpid, ()), 5) != first
    assert slot.killed == 0


def test_many_may_wait_for_the_start_of_one_child(slot):
    slot.launch()
    with ThreadPoolExecutor(8) as threads:
        for waiting in [threads.submit(slot.wait_ready) for _ in range(8)]:
            waiting.result()
    assert slot.killed == 0
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_texts_and_results_larger_than_a_pipe_go_through(slot):
    large = "x" * 3_000_000
    assert slot.result(slot.run(str.upper, (large,)), 20) == large.upper()


def test_a_task_that_is_begun_at_once_is_as_any_other_however_large(slot: Slot) -> None:
    assert slot.begin_at_once(written(abs, (-1,))) is None  # there is no child
    slot.launch()
    assert slot.begin_at_once(written(abs, (-1,))) is None  # it is still on its way
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 5))
    large = "x" * 3_000_000
    for text in ("x", large):
        task = slot.begin_at_once(written(str.upper, (text,)))
        assert task is not None
        assert slot.result(task, 20) == text.upper()
    child.suspend()
    task = slot.begin_at_once(written(str.upper, (large,)))
    assert task is not None
    with pytest.raises(ChildTimedOut):
        slot.result(task, 0.2)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_no_task_is_begun_at_once_in_a_child_that_has_ended(slot: Slot) -> None:
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 5))
    child.kill()
    assert until(lambda: slot.begin_at_once(written(abs, (-1,))) is None)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_a_child_that_does_not_take_a_task_in_or_answer_is_given_up(slot):
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 5))
    child.suspend()
    task = slot.run(abs, (-1,))
    with pytest.raises(ChildTimedOut):
        slot.result(task, 0.2)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_a_child_that_crashes_is_told_from_one_that_is_slow(slot):
    with pytest.raises(ChildEnded):
        slot.result(slot.run(os.abort, ()), 5)


def test_a_crash_is_not_blamed_on_the_event_of_an_earlier_task(slot):
    progress = "__import__('calendar_server.providers.expander_child').providers.expander_child._guard.progress"
    slot.result(slot.run(eval, (f"setattr({progress}, 'value', 7)",)), 5)
    with pytest.raises(ChildEnded) as ended:
        slot.result(slot.run(os.abort, ()), 5)
    assert ended.value.progress is None


def test_code_that_is_deaf_to_signals_is_ended_by_the_kernel(slot):
    # The guard's exception waits for the sum, which takes hours.
    deaf = (
        "__import__('calendar_server.providers.expander_child').providers.expander_child._guard.run("
        "lambda: sum(range(10**13)))"
    )
    with pytest.raises(ChildEnded):
        slot.result(slot.run(eval, (deaf,)), 20)


def test_a_child_has_no_core_dumps_and_a_limit_of_memory(slot):
    limits = "[__import__('resource').getrlimit(each) for each in (4, 9)]"
    assert slot.result(slot.run(eval, (limits,)), 5) == [(0, 0), (MEMORY, MEMORY)]


def test_a_child_imports_no_calendar_library_and_nothing_of_the_servers(slot):
    modules = slot.result(slot.run(eval, ("sorted(__import__('sys').modules)",), 5), 5)
    heavy = {"grpc", "icalendar", "recurring_ical_events", "caldav", "lxml", "dateutil", "peewee", "httpx", "pytest"}
    assert heavy.isdisjoint(modules)
    assert "calendar_server.core.busy" in modules


def test_a_child_has_none_of_its_parents_files_and_sockets(slot):
    with socket.create_server(("127.0.0.1", 0)), Path(__file__).open():
        names = slot.result(
            slot.run(
                eval,
                (
                    "[__import__('os').readlink(f'/proc/self/fd/{n}') "
                    "for n in range(3, 64) if __import__('os').path.islink(f'/proc/self/fd/{n}')]",
                ),
            ),
            5,
        )
    assert not [name for name in names if name.startswith("socket:") or name.endswith(".py")]


def test_children_end_with_a_parent_that_is_killed_and_never_import_its_main_module(tmp_path):
    script = tmp_path / "main.py"
    # No `if __name__ == "__main__"`: were it imported again, it would start children without end.
    script.write_text(
        textwrap.dedent("""
        import time
        from calendar_server.providers.expander import Expander
        from calendar_server.providers.expander_slot import Slot
        expander = Expander(processes=2, event_s=1, calendar_s=2, address_space_bytes=512_000_000)
        expander.warm()
        slot = Slot(1, 512_000_000)
        slot.run(time.sleep, (100,))
        print("warm", flush=True)
        time.sleep(120)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "warm\n"
        inner = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(inner) >= 3
    assert until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in inner))
