"""Every text of `tests/corpus` means what the file beside it says; see its README."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import icalendar
import pytest
import recurring_ical_events

from calendar_server.core.busy import Reading, Resource, ResourceBusy, floating_zone, read_resource
from calendar_server.core.intervals import clip, from_datetime, merge, to_datetime
from calendar_server.core.model import BlockReason, BusyEvent, EventId, Interval

CORPUS = Path(__file__).parent.parent / "corpus"


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    window: Interval
    zone: str
    owner: frozenset[str]
    events: list[str]
    unreadable: list[str]
    differs: str
    second: str


def read_case(path: Path) -> Case:
    facts: dict[str, str] = {}
    events, unreadable = [], []
    for line in path.with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        key, colon, value = line.partition(": ")
        if line.startswith("#"):
            continue
        if colon and key in {"window", "zone", "owner", "differs", "second"}:
            facts[key] = value
        elif line.startswith("unreadable "):
            unreadable.append(line.removeprefix("unreadable "))
        else:
            events.append(line)
    start, end = (from_datetime(datetime.fromisoformat(text)) for text in facts["window"].split())
    return Case(
        name=path.stem,
        text=path.read_bytes().decode("utf-8", "surrogateescape"),
        window=Interval(start, end),
        zone="" if facts["zone"] == "none" else facts["zone"],
        owner=frozenset(filter(None, facts.get("owner", "").split(", "))),
        events=events,
        unreadable=unreadable,
        differs=facts.get("differs", ""),
        second=facts.get("second", ""),
    )


CASES = [read_case(path) for path in sorted(CORPUS.glob("*.ics"))]
each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def told(instant: int) -> str:
    moment = to_datetime(instant)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ" if moment.second else "%Y-%m-%dT%H:%MZ")


def told_event(event: BusyEvent) -> str:
    return f"{told(event.start)} {told(event.end)} {event.reason}" + (" +tentative" if event.tentative else "")


def told_time(interval: Interval | None) -> str:
    return f"{told(interval.start)} {told(interval.end)}" if interval else "?"


def read(case: Case) -> ResourceBusy:
    resource = Resource(EventId(case.name), case.text)
    zone = floating_zone([resource], case.zone)
    return read_resource(resource, Reading(case.window, case.zone, case.owner), zone, limit=20_000)


def test_the_corpus_has_at_least_eighty_texts():
    assert len(CASES) >= 80
    assert {path.stem for path in CORPUS.glob("*.txt")} == {case.name for case in CASES}


@each_case
def test_a_text_has_the_events_that_its_file_tells(case):
    assert [told_event(event) for event in read(case).events] == case.events


@each_case
def test_what_cannot_be_read_is_named(case):
    assert [told_time(each.interval) for each in read(case).unreadable] == case.unreadable


@each_case
def test_a_second_implementation_agrees_or_its_fault_is_known(case):
    if case.unreadable or case.second:
        pytest.skip(case.second or "the second implementation has no word for what cannot be read")
    expected = clip(merge(busy(case.events)), case.window)
    found: list[Interval] | Exception
    try:
        found = second_opinion(case)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        found = error
    assert (found == expected) == (not case.differs), found


def busy(lines: list[str]) -> Iterator[Interval]:
    for line in lines:
        start, end, reason = line.split()[:3]
        if BlockReason(reason).blocks:
            yield Interval(*(from_datetime(datetime.fromisoformat(text)) for text in (start, end)))


def second_opinion(case: Case) -> list[Interval]:
    """The busy times by `icalendar` and `recurring_ical_events`; which events block is decided here."""
    zone = ZoneInfo(case.zone or "Europe/Berlin")
    first, last = (to_datetime(instant) for instant in case.window)
    day = timedelta(days=1)
    found = []
    with warnings.catch_warnings(action="ignore"):
        calendar = icalendar.Calendar.from_ical(case.text)
        events = recurring_ical_events.of(calendar).between(first - day, last + day)
    for event in events:
        if event.name == "VEVENT" and blocks(event, case.owner):
            found.append(Interval(instant(event["DTSTART"].dt, zone), instant(event["DTEND"].dt, zone)))
    return clip(merge(found), case.window)


def blocks(event: icalendar.Event, owner: frozenset[str]) -> bool:
    attendees = event.get("ATTENDEE", [])
    answers = {
        str(attendee.params.get("PARTSTAT", "")).upper()
        for attendee in (attendees if isinstance(attendees, list) else [attendees])
        if str(attendee).lower().removeprefix("mailto:") in owner
    }
    status, transparency = str(event.get("STATUS", "")).upper(), str(event.get("TRANSP", "")).upper()
    microsoft = str(event.get("X-MICROSOFT-CDO-BUSYSTATUS", "")).upper()
    return not (
        status == "CANCELLED"
        or transparency == "TRANSPARENT"
        or answers == {"DECLINED"}
        or microsoft == "WORKINGELSEWHERE"
        or (microsoft == "FREE" and not transparency)
    )


def instant(value: date, zone: ZoneInfo) -> int:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return from_datetime((value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC))
