"""Real children that read real text: what hostile text costs, and whom."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from itertools import count

import psutil
import pytest

from calendar_server.core.busy import Reading, Resource, floating_zone, read_resource
from calendar_server.core.intervals import from_datetime
from calendar_server.core.model import EventId, Interval
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander import CHUNK_RESOURCES, Expander
from calendar_server.providers.expander_child import LIGHT_MOST, TOGETHER_MOST, TOO_LONG
from tests.unit.children import MEMORY, READING, WINDOW, attempt, children, until

EVENT_S = 0.25

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
