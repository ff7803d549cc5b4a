"""The reader of calendars under texts that were broken on purpose, for as long as one likes.

The corpus is broken by `tests/fakes/broken_ical.py`, the same way each time; `make fuzz-reader` goes on for longer, from
another seed, which is printed. ``FUZZ_SEED`` repeats it, and ``FUZZ_CASE`` one case of it.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

import pytest

from calendar_server.core.busy import (
    PROBLEMS_MAX,
    Reading,
    Resource,
    ResourceBusy,
    floating_zone,
    own_zone,
    read_resource,
    zone_vote,
)
from calendar_server.core.intervals import clip, from_datetime, merge
from calendar_server.core.model import HOUR, BlockReason, EventId, Interval
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander import Expander
from tests.fakes.broken_ical import DAMAGE, lines_of, noisy, whole
from tests.unit.test_corpus import CASES, Case

LONG = "FUZZ_SECONDS" in os.environ
SECONDS = float(os.environ.get("FUZZ_SECONDS", "5"))
"""Seconds for all of it."""
SEED = int(os.environ.get("FUZZ_SEED", "1"))
ONLY = os.environ.get("FUZZ_CASE")
EVENT_S = 1.0
"""CPU seconds for one text: the setting's default. More is what children are ended for."""
LIMIT = 20_000
WINDOW = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
OWNER = frozenset({"anna@example.org"})
TEXTS = [case.text for case in CASES]
WHOLE = [case for case in CASES if not case.unreadable and case.events]

_UNFORESEEN = re.compile(r"^The event cannot be read \(\w+\)\.$")


class TooLong(BaseException):
    """A text took more than ``EVENT_S``."""


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    """Breaks off a read as the children do."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGPROF, ring)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def read(text: str, case: Case) -> ResourceBusy | None:
    """What the reader makes of a text; None when that takes too long, which a child tells by itself."""
    signal.setitimer(signal.ITIMER_PROF, EVENT_S)
    try:
        resource = Resource(EventId("e"), text)
        floating = floating_zone([resource], case.zone)
        return read_resource(resource, Reading(case.window, case.zone, case.owner), floating, limit=LIMIT)
    except TooLong:
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def busy(found: ResourceBusy, window: Interval) -> list[Interval]:
    return clip(merge(Interval(event.start, event.end) for event in found.events if event.reason.blocks), window)


def covered(wanted: list[Interval], there: list[Interval]) -> bool:
    return all(any(each.start <= one.start and one.end <= each.end for each in there) for one in wanted)


@dataclass
class Tally:
    """What a run did."""

    texts: int = 0
    slow: int = 0
    named: int = 0
    exact: int = 0


def for_a_while(share: float, one: Callable[[random.Random, Tally], None]) -> Tally:
    """Try case after case for a share of the time. A failure tells how to repeat it."""
    tally = Tally()
    ends = time.monotonic() + SECONDS * share
    numbers = iter(range(10**9)) if ONLY is None else iter([int(ONLY)])
    for number in numbers:
        if time.monotonic() > ends:
            break
        try:
            one(random.Random(f"{SEED}-{number}"), tally)
        except AssertionError as error:
            raise AssertionError(f"FUZZ_SEED={SEED} FUZZ_CASE={number}: {error}") from error
        tally.texts += 1
    if LONG:
        print(f"\nseed {SEED}: {tally}")
    return tally


def shape(found: ResourceBusy, window: Interval, text: str) -> None:
    """What holds for every answer."""
    for each in found.unreadable:
        assert not _UNFORESEEN.match(each.message), (each.message, text)
        assert each.event_id == "e"
        assert 0 < len(each.message) < 300, text
        assert "\n" not in each.message, text
    assert len(found.unreadable) <= PROBLEMS_MAX, text
    assert list(found.events) == sorted(
        found.events, key=lambda event: (event.start, event.end, event.reason, event.tentative)
    )
    for event in found.events:
        assert event.start <= event.end, text
        assert event.start < window.end, text
        assert event.end >= window.start, text
        assert event.start != event.end or event.reason is BlockReason.ZERO_LENGTH or not event.reason.blocks, text


def test_what_was_busy_stays_busy_or_is_named_whatever_is_damaged() -> None:
    def one(rng: random.Random, tally: Tally) -> None:
        case = rng.choice(WHOLE)
        before = read(case.text, case)
        damage = rng.choice(DAMAGE)
        text = damage(case.text, rng)
        if text is None or before is None:
            return
        found = read(text, case)
        if found is None:
            tally.slow += 1
            return
        shape(found, case.window, text)
        tally.named += bool(found.unreadable)
        tally.exact += not found.unreadable
        if not found.unreadable:
            told = (case.name, damage.__name__, text)
            assert covered(busy(before, case.window), busy(found, case.window)), told

    tally = for_a_while(0.35, one)
    assert ONLY or tally.named > tally.texts / 10


def test_nothing_breaks_the_reader_and_a_harmless_event_stays_busy_or_is_named() -> None:
    def one(rng: random.Random, tally: Tally) -> None:
        case = rng.choice(CASES)
        start = case.window.start + (case.window.end - case.window.start) // 2
        text = with_a_harmless_event(noisy(case.text, TEXTS, rng), start, rng)
        found = read(text, case)
        assert found == read(text, case) or found is None, text
        zone_vote(Resource(EventId("e"), text))
        own_zone(text[:20_000])
        if found is None:
            tally.slow += 1
            return
        shape(found, case.window, text)
        tally.named += bool(found.unreadable)
        tally.exact += not found.unreadable
        cancels = any(line.upper().startswith("METHOD") and "CANCEL" in line.upper() for line in _unfolded(text))
        if not found.unreadable and not cancels:
            assert covered(clip([Interval(start, start + HOUR)], case.window), busy(found, case.window)), (
                case.name,
                text,
            )

    tally = for_a_while(0.4, one)
    assert ONLY or min(tally.named, tally.exact) > tally.texts / 20


def _unfolded(text: str) -> list[str]:
    return lines_of(re.sub(r"[\r\n]+[ \t]", "", text))


def with_a_harmless_event(text: str, start: int, rng: random.Random) -> str:
    """The text with an event that nobody touched, in front, at the end, or where another one begins."""

    def stamp(at: int) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at // 1_000_000))

    event = [
        "BEGIN:VEVENT",
        f"UID:harmless-{rng.randrange(10**9)}",
        "DTSTAMP:20260101T000000Z",
        f"DTSTART:{stamp(start)}",
        f"DTEND:{stamp(start + HOUR)}",
        "END:VEVENT",
    ]
    lines = lines_of(text)
    begins = [at for at, line in enumerate(lines) if line == "BEGIN:VEVENT"]
    ends = [at + 1 for at, line in enumerate(lines) if line == "END:VEVENT"]
    places = [at for at in (*begins, *ends) if at < len(lines) and not lines[at].startswith((" ", "\t"))]
    if not places or rng.random() < 0.1:
        return whole(["BEGIN:VCALENDAR", *event, *lines, "END:VCALENDAR"])
    at = rng.choice(places)
    return whole([*lines[:at], *event, *lines[at:]])


def test_real_children_stay_within_their_limits_and_name_what_is_too_much() -> None:
    expander = Expander(processes=1, event_s=0.25, calendar_s=30, address_space_bytes=512_000_000)
    window = Interval(*map(from_datetime, WINDOW))
    start = window.start + 10 * 24 * HOUR
    harmless = Resource(EventId("harmless"), with_a_harmless_event("", start, random.Random(1)))

    def one(rng: random.Random, tally: Tally) -> None:
        texts = [noisy(rng.choice(TEXTS), TEXTS, rng) for _ in range(40)]
        resources = [harmless, *(Resource(EventId(f"e{number}"), text) for number, text in enumerate(texts))]
        began = time.monotonic()
        try:
            found = expander.expand(resources, Reading(window, "", OWNER), Deadline.after(60))
        except ProviderUnavailable:
            # A calendar over its limit is no answer. That is seldom: few texts are hostile enough.
            tally.slow += 1
            return
        finally:
            assert time.monotonic() - began < 60
        tally.named += bool(found.unreadable)
        tally.exact += 1
        assert any(event.event_id == "harmless" and event.start == start for event in found.events)
        ids = {event.event_id for event in found.events} | {each.event_id for each in found.unreadable}
        assert ids <= {resource.event_id for resource in resources}
        assert not [each for each in found.unreadable if _UNFORESEEN.match(each.message)], texts

    try:
        expander.warm()
        tally = for_a_while(0.25, one)
    finally:
        expander.close()
    assert ONLY or tally.exact > tally.slow
