"""kill -9: at random moments, and at every boundary of a push, one after the other."""

from __future__ import annotations

import dataclasses
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from calendar_client import CalendarClient
from calendars.v1 import booking_pb2
from deploy import local
from tests.chaos import world
from tests.chaos.world import Accepted, Calendars, Load, Service, eventually, judge, kill, settle, sync
from tests.e2e.conftest import at
from tests.fakes.announcer import CUT, Announcer, Step
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.raw_server import RawRequest

LONG = world.long_form()
PENDING = booking_pb2.BOOKING_EVENT_STATE_PENDING


@pytest.mark.parametrize("database", ["sqlite", "postgres"] if LONG else ["postgres"])
def test_killed_at_random_moments_every_booking_lands_once(
    database: str,
    folder: Path,
    rng: random.Random,
    radicale: world.Radicale,
    people: Iterator[str],
    request: pytest.FixtureRequest,
) -> None:
    url = world.own_database(request.getfixturevalue("postgres")) if database == "postgres" else ""
    http = f"127.0.0.1:{local.free_port()}"
    with GoogleFake() as google, MicrosoftFake() as microsoft:
        with world.service(folder, url, **world.oauth_settings(google, microsoft, http)) as service:
            server = service.serve()
            calendars = Calendars()
            with service.client() as client:
                for _ in range(3):
                    calendars.connect_caldav(client, radicale, next(people))
                calendars.connect_google(client, google, "gina")
                calendars.connect_microsoft(client, microsoft, "mike")
            load = Load(service.client, list(calendars.shelves), rng)
            load.begin(bookings=5000 if LONG else 30, goes_on=True)
            kills = 0
            while kills < (60 if LONG else 2):
                time.sleep(rng.uniform(0.1, 1.5))
                if rng.random() < 0.5 and (worker := service.worker_of(server)):
                    worker.kill()
                else:
                    kill(server)
                    server = service.serve()
                kills += 1
            load.join()
            verdict = settle(load.accepted, calendars.shelves)
            print(
                f"{database}: {len(load.accepted)} bookings, {kills} kills, {len(load.failures)} failed calls: {verdict}"
            )
            assert verdict, str(verdict)
            with service.client() as client:
                for booking_id in list(load.accepted)[:: 50 if LONG else 5]:
                    # The calendar shows it a moment before that is on disk.
                    assert eventually(lambda booking_id=booking_id: done(client, booking_id)), booking_id
        assert not google.problems
        assert not microsoft.problems


@dataclasses.dataclass
class Boundary:
    """Kills whoever made a request, at one step of the ``number``-th request of a push."""

    front: Announcer
    number: int
    step: Step
    kill: Callable[[], None]
    hold_database: Callable[[], Callable[[], None]]
    seen: int = 0
    reached: threading.Event = dataclasses.field(default_factory=threading.Event)
    requests: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, step: Step, request: RawRequest) -> str | None:
        if step is Step.ARRIVED:
            self.requests.append(request.method)
        if self.reached.is_set() or len(self.requests) != self.number:
            return None
        if self.step is Step.ANSWERED and step is Step.APPLIED:
            # From here on nothing can be stored, so that the outcome is known to the worker and to nobody else.
            self._release = self.hold_database()
        if step is not self.step:
            return None
        self.reached.set()
        self.kill()
        if step is Step.ANSWERED:
            self._release()
        return CUT


@dataclasses.dataclass
class Pushing:
    """A server without a worker, and workers that the test starts and kills, all of one name."""

    service: Service
    front: Announcer
    client: CalendarClient
    calendars: Calendars
    connection_id: str
    accepted: dict[str, Accepted] = dataclasses.field(default_factory=dict)
    kill: Callable[[], None] = lambda: None
    """Kills the worker that is running, if any is."""

    def work(self) -> None:
        """Start a worker."""
        # Its name is that of the one before, which is dead: what that held is free at once.
        process = self.service.run("worker", "--beside-server", "--owner", "chaos")
        self.kill = lambda: kill(process)

    @property
    def is_sqlite(self) -> bool:
        return self.service.settings["CALENDAR_DATABASE_URL"].startswith("sqlite")

    def hold(self) -> Callable[[], None]:
        """Let nobody write into the database until what is answered is called."""
        url = self.service.settings["CALENDAR_DATABASE_URL"]
        if self.is_sqlite:
            line = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
            line.execute("PRAGMA busy_timeout = 20000")
            line.execute("BEGIN IMMEDIATE")
            return line.close
        held = psycopg.connect(url)
        held.execute("LOCK TABLE outbox IN SHARE ROW EXCLUSIVE MODE")
        return held.close


@pytest.fixture(params=["sqlite", "postgres"])
def pushing(
    request: pytest.FixtureRequest, folder: Path, radicale: world.Radicale, people: Iterator[str]
) -> Iterator[Pushing]:
    url = world.own_database(request.getfixturevalue("postgres")) if request.param == "postgres" else ""
    with Announcer(radicale.port) as front, world.service(folder, url) as service:
        service.serve("--no-worker")
        with service.client() as client:
            calendars = Calendars()
            connection_id = calendars.connect_caldav(client, radicale, next(people), front.url)
            yield Pushing(service, front, client, calendars, connection_id)


Boundaries = list[tuple[str, int, Step]]
"""Kind of push, number of the request in it, step of that request."""

FEW: dict[str, Boundaries] = {
    "sqlite": [*(("create", 1, step) for step in Step), ("create", 2, Step.ANSWERED)],
    "postgres": [("create", 1, Step.APPLIED), ("create", 1, Step.ANSWERED)],
}
"""Of the short form: around the write, which is the first request for a new event."""


def test_killed_at_every_boundary_of_a_push_it_lands_once(pushing: Pushing) -> None:
    pushing.work()
    reached: list[str] = []
    if LONG:
        for kind in ("create", "move", "cancel"):
            request = 1
            # A push has as many requests as it makes.
            while all(reach(pushing, kind, request, step, reached) for step in Step):
                request += 1
            assert request > 2, "it looks besides writing"
    else:
        for kind, request, step in FEW["sqlite" if pushing.is_sqlite else "postgres"]:
            assert reach(pushing, kind, request, step, reached)
    print("boundaries:", ", ".join(reached))
    assert any("PUT answered" in each for each in reached)


def reach(pushing: Pushing, kind: str, request: int, step: Step, reached: list[str]) -> bool:
    """Kill a worker at one boundary; let another one end what it began. False: the push has no such request."""
    number = len(pushing.accepted)
    booking_id, day = f"b{number}", number // 24
    wanted = Accepted(1, pushing.connection_id, at(number % 24, day=day))
    pushing.front.on_step = lambda step, request: None
    if kind != "create":
        pushing.accepted[booking_id] = wanted
        sync(pushing.client, booking_id, wanted)
        assert eventually(lambda: done(pushing.client, booking_id))
        wanted = Accepted(2, pushing.connection_id, None if kind == "cancel" else at(number % 24 + 0.5, day=day))
    boundary = Boundary(pushing.front, request, step, pushing.kill, pushing.hold)
    pushing.front.on_step = boundary
    pushing.accepted[booking_id] = wanted
    sync(pushing.client, booking_id, wanted)
    assert eventually(lambda: boundary.reached.is_set() or done(pushing.client, booking_id))
    if boundary.reached.is_set():
        reached.append(f"{kind}: {boundary.requests[request - 1]} {step.value}")
        pushing.work()
        assert eventually(lambda: done(pushing.client, booking_id))
    verdict = judge(pushing.accepted, pushing.calendars.shelves)
    assert verdict, f"{reached[-1:]}: {verdict}"
    return boundary.reached.is_set()


def done(client: CalendarClient, booking_id: str) -> bool:
    """Whether nothing of the booking is pending."""
    return all(event.state != PENDING for event in client.get_booking(booking_id).events)
