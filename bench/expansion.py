"""How fast calendars are read and expanded, against the usual libraries and against `caldav`'s own search.

Every function answers samples in seconds, ours and theirs from one run, so that their ratio means something on any
machine. `python -m bench.expansion` prints them all.
"""

from __future__ import annotations

import datetime
import gc
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from calendar_server.core.busy import Reading, Resource, floating_zone, read_resource, zone_of
from calendar_server.core.intervals import from_datetime
from calendar_server.core.model import (
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    Interval,
    OrganizationId,
    Preset,
    ProviderName,
    SyncStatus,
)
from calendar_server.core.packing import opened
from calendar_server.providers.base import Deadline, Link, Remembered
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from tests.fakes import dav_servers
from tests.fakes.dav_servers import DavServer

EVENTS, SERIES, OVERRIDES = 2_000, 300, 150
START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
OCCURRENCES_MAX = 20_000
PASSWORD = "bench"


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds that the same work took, ours and the other's."""

    what: str
    aim: float
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return statistics.median(self.ours) / statistics.median(self.theirs)


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of this process, so that what else the machine does counts for neither side.

    Nor does the collection of garbage that was there before.
    """
    gc.collect()
    gc.freeze()
    began = time.process_time()
    call()
    return time.process_time() - began


def _zone(name: str, standard: str, daylight: str, to_standard: str, to_daylight: str) -> list[str]:
    """RFC 5545 section 3.6.5: every text defines the zones that it names."""
    told = ["BEGIN:VTIMEZONE", f"TZID:{name}"]
    for kind, before, after, rule, hour in (
        ("DAYLIGHT", standard, daylight, to_daylight, 2),
        ("STANDARD", daylight, standard, to_standard, 3),
    ):
        told += [f"BEGIN:{kind}", f"TZOFFSETFROM:{before}", f"TZOFFSETTO:{after}", f"TZNAME:{kind[0]}"]
        told += [f"DTSTART:19700101T{hour:02}0000", f"RRULE:FREQ=YEARLY;{rule}", f"END:{kind}"]
    return [*told, "END:VTIMEZONE"]


ZONES = {
    "Europe/Berlin": _zone("Europe/Berlin", "+0100", "+0200", "BYMONTH=10;BYDAY=-1SU", "BYMONTH=3;BYDAY=-1SU"),
    "America/New_York": _zone("America/New_York", "-0500", "-0400", "BYMONTH=11;BYDAY=1SU", "BYMONTH=3;BYDAY=2SU"),
}


def texts(seed: int = 1) -> list[str]:
    """A busy person's calendar: meetings over two years in two zones, series of the usual kinds, changed occurrences."""
    chance = random.Random(seed)
    found = []
    for number in range(EVENTS):
        series = number < SERIES
        day = START + datetime.timedelta(days=chance.randint(-300 if series else -100, 40 if series else 420))
        hour, zone = chance.randint(7, 18), chance.choice(("Europe/Berlin", "Europe/Berlin", "America/New_York"))
        lines = [
            "DTSTAMP:20260101T000000Z",
            f"DTSTART;TZID={zone}:{day:%Y%m%d}T{hour:02}0000",
            f"DTEND;TZID={zone}:{day:%Y%m%d}T{hour:02}4500",
            f"SUMMARY:Meeting {number}",
            "DESCRIPTION:" + "What we want to talk about. " * 6,
            "LOCATION:Room 4",
            "ORGANIZER:mailto:anna@example.com",
            "ATTENDEE;PARTSTAT=ACCEPTED:mailto:bob@example.com",
        ]
        rule, override = "", []
        if series:
            weekday = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")[day.weekday()]
            rule = chance.choice(
                (
                    f"RRULE:FREQ=WEEKLY;BYDAY={weekday}",
                    f"RRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY={weekday}",
                    "RRULE:FREQ=DAILY;COUNT=90",
                    "RRULE:FREQ=MONTHLY",
                    f"RRULE:FREQ=WEEKLY;UNTIL=20270301T000000Z;BYDAY={weekday}",
                )
            )
        if number < OVERRIDES:
            step = 14 if "INTERVAL=2" in rule else 1 if "DAILY" in rule else 7
            other = day + datetime.timedelta(days=0 if "MONTHLY" in rule else step * chance.randint(1, 20))
            override = [
                f"RECURRENCE-ID;TZID={zone}:{other:%Y%m%d}T{hour:02}0000",
                f"DTSTART;TZID={zone}:{other:%Y%m%d}T{hour + 2:02}0000",
                f"DTEND;TZID={zone}:{other:%Y%m%d}T{hour + 2:02}4500",
                "DTSTAMP:20260101T000000Z",
            ]
        found.append(_calendar(f"uid-{number}", ZONES[zone], [*lines, rule], override))
    return found


def _calendar(uid: str, zone: list[str], *events: list[str]) -> str:
    told = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//bench//EN", *zone]
    for lines in events:
        if lines:
            told += ["BEGIN:VEVENT", f"UID:{uid}", *filter(None, lines), "END:VEVENT"]
    return "\r\n".join([*told, "END:VCALENDAR", ""])


def window_of(days: int) -> Interval:
    return Interval(from_datetime(START), from_datetime(START + datetime.timedelta(days=days)))


def read(found: list[str], days: int) -> int:
    """Our reader, in this process. Answers how many occurrences there are."""
    resources = [Resource(EventId(str(number)), text) for number, text in enumerate(found)]
    zone = zone_of(floating_zone(resources, ""))
    reading = Reading(window_of(days))
    return sum(len(read_resource(each, reading, zone, limit=OCCURRENCES_MAX).events) for each in resources)


def read_by_libraries(found: list[str], days: int) -> int:
    """The same with `icalendar` and `recurring_ical_events`."""
    import icalendar
    import recurring_ical_events

    count = 0
    with warnings.catch_warnings(action="ignore"):
        for text in found:
            calendar = icalendar.Calendar.from_ical(text)
            until = START + datetime.timedelta(days=days)
            count += len(recurring_ical_events.of(calendar).between(START, until))
    return count


def against_libraries(days: int, rounds: int = 3) -> Samples:
    """Parse and expand the whole calendar."""
    found = texts()
    ours, theirs = read(found, days), read_by_libraries(found[:20], days)
    samples = Samples(f"parse and expand {EVENTS} events over {days} days, against the usual libraries", 1 / 15)
    for _ in range(rounds):
        samples.ours.append(timed(lambda: read(found, days)))
        samples.theirs.append(timed(lambda: read_by_libraries(found, days)))
    assert ours
    assert theirs
    return samples


def one_against_all(days: int = 400, rounds: int = 5) -> Samples:
    """One changed series against the whole calendar."""
    found = texts()
    samples = Samples("parse and expand one changed resource, against all of them", 1 / 500)
    zone, reading = zone_of("Europe/Berlin"), Reading(window_of(days))
    for number in range(rounds):
        samples.theirs.append(timed(lambda: read(found, days)))
        for each in range(number, SERIES, 40):
            resource = Resource(EventId("changed"), found[each])
            samples.ours.append(timed(lambda one=resource: read_resource(one, reading, zone, limit=OCCURRENCES_MAX)))
    return samples


def against_search(days: int = 400, rounds: int = 3, changes: int = 7) -> tuple[Samples, Samples]:
    """The same calendar at a real Radicale: our first read and our next one after a change, against `search`."""
    first = Samples("first read from a real server, against caldav's search(expand=True)", 1 / 2)
    later = Samples("next read after one change, against caldav's search(expand=True)", 1 / 50)
    # In memory where there is such a folder: Radicale waits for the disk after each of the events.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="calendar-bench-", dir=memory) as name:
        folder = Path(name)
        path = "/bench/work/"
        with dav_servers.radicale(folder, {"bench": PASSWORD}) as server:
            server.make_home("bench")
            server.make_calendar(path)
            _fill(server, path, texts())
            for _ in range(rounds):
                _search(server, path, days, first.theirs)
            later.theirs.extend(first.theirs)
            _ours(server, path, window_of(days), first.ours, later.ours, rounds, changes)
    return first, later


def _fill(server: DavServer, path: str, found: list[str]) -> None:
    """All events at once: Radicale takes a whole calendar in one PUT."""
    inner = "".join(line + "\r\n" for zone in ZONES.values() for line in zone)
    inner += "".join(text.partition("END:VTIMEZONE\r\n")[2].removesuffix("END:VCALENDAR\r\n") for text in found)
    whole = f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//bench//EN\r\n{inner}END:VCALENDAR\r\n"
    with httpx.Client(auth=server.auth, trust_env=False, base_url=server.url, timeout=600) as client:
        client.put(path, content=whole.encode(), headers={"content-type": "text/calendar"}).raise_for_status()


def _search(server: DavServer, path: str, days: int, samples: list[float]) -> None:
    import caldav

    with caldav.DAVClient(url=server.url, username="bench", password=PASSWORD) as client:
        calendar = client.calendar(url=f"{server.url.rstrip('/')}{path}")
        until = START + datetime.timedelta(days=days)
        began = time.perf_counter()
        events = calendar.search(start=START, end=until, event=True, expand=True)
        found = sum(1 for event in events if event.icalendar_component["DTSTART"])
        samples.append(time.perf_counter() - began)
        assert found > EVENTS


def _ours(
    server: DavServer,
    path: str,
    window: Interval,
    first: list[float],
    later: list[float],
    rounds: int,
    changes: int,
) -> None:
    egress = Egress(allow=AllowList.parse("127.0.0.0/8"), exchange_s=60, answer_bytes=64_000_000)
    expander = Expander(processes=1, event_s=1.0, calendar_s=10.0, address_space_bytes=512_000_000)
    try:
        expander.warm()
        provider = CaldavProvider(egress, expander, redirects=5, calendar_events=20_000)
        account, secret = provider.connect(
            preset=Preset.CUSTOM,
            username="bench",
            password=PASSWORD,
            server_url=server.url,
            deadline=Deadline.after(60),
        )
        link = Link(_connection(account.subject, account.settings), secret)
        id = CalendarId(path)
        for _ in range(rounds):
            began = time.perf_counter()
            done = provider.refresh_calendar(link, id, window, None, Deadline.after(120))
            first.append(time.perf_counter() - began)
        assert done.read is not None
        read = opened(done.read)
        # As the worker does a short while after a first read: it confirms it, once.
        before = Remembered(window, replace(read, event_ids=None), done.memory)
        done = provider.refresh_calendar(link, id, window, before, Deadline.after(120))
        assert done.read is None
        before = replace(before, memory=done.memory)
        for number in range(changes):
            assert read.event_ids is not None
            changed = sorted(read.event_ids)[number * 37]
            server.put(changed, (server.get(changed) or "").replace("Room 4", f"Room {number + 5}"))
            began = time.perf_counter()
            done = provider.refresh_calendar(link, id, window, before, Deadline.after(120))
            later.append(time.perf_counter() - began)
            assert done.read is not None
            read = opened(done.read)
            before = Remembered(window, replace(read, event_ids=None), done.memory)
    finally:
        expander.close()
        egress.close()


def _connection(subject: str, settings: object) -> Connection:
    return Connection(
        id=ConnectionId("cal_bench"),
        organization_id=OrganizationId("org_bench"),
        owner="",
        provider=ProviderName.CALDAV,
        subject=subject,
        account_email="",
        calendar_id=CalendarId(""),
        busy_calendar_ids=(),
        status=ConnectionStatus.ACTIVE,
        sync_status=SyncStatus.CONNECTED,
        sync_error=None,
        last_sync_at=None,
        connected_at=0,
        grant_version=1,
        settings=settings,  # type: ignore[arg-type]
    )


def measure() -> Iterator[Samples]:
    """Everything, one after another."""
    yield against_libraries(60)
    yield against_libraries(400)
    yield one_against_all()
    yield from against_search()


def main() -> None:
    for samples in measure():
        held = "" if samples.ratio <= samples.aim else "MISSED"
        ours, theirs = statistics.median(samples.ours), statistics.median(samples.theirs)
        print(
            f"{samples.what:<78} {ours * 1000:9.2f} ms / {theirs * 1000:8.0f} ms = 1/{1 / samples.ratio:<6.0f} "
            f"aim ≤ 1/{1 / samples.aim:g} {held}",
            flush=True,
        )


if __name__ == "__main__":
    main()
