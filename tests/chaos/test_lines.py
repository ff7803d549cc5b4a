"""Databases that stop, lines that are cut, requests that come twice or late, and servers that are replaced, in mid load."""

from __future__ import annotations

import datetime
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from calendar_client.errors import CalendarServiceError
from deploy import local
from tests.chaos import world
from tests.chaos.world import Calendars, Load, eventually, judge, settle
from tests.e2e.conftest import at
from tests.fakes.announcer import CUT, TWICE, Announcer, Step
from tests.fakes.cut_proxy import Cut, CutProxy
from tests.fakes.postgres import OwnPostgres
from tests.fakes.raw_server import RawRequest

LONG = world.long_form()
CUTS = [Cut.REQUEST, Cut.MIDDLE, Cut.ANSWER, Cut.BLIND]


def test_a_database_that_stops_at_once_loses_nothing_that_was_acknowledged(
    folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str], postgres: OwnPostgres
) -> None:
    with world.service(folder, world.own_database(postgres)) as service:
        service.serve()
        calendars = Calendars()
        with service.client() as client:
            for _ in range(2):
                calendars.connect_caldav(client, radicale, next(people))
        load = Load(service.client, list(calendars.shelves), rng)
        load.begin(bookings=1000 if LONG else 20, goes_on=True)
        stops = 20 if LONG else 2
        for _ in range(stops):
            time.sleep(rng.uniform(0.1, 1.0))
            # What `pg_ctl stop -m immediate` does: everybody is thrown out, nothing is written down, the log is replayed.
            postgres.shut(signal.SIGQUIT)
            time.sleep(rng.uniform(0, 1.0))
            postgres.start()
        load.join()
        verdict = settle(load.accepted, calendars.shelves)
        print(f"{len(load.accepted)} bookings, {stops} stops, {len(load.failures)} failed calls: {verdict}")
        assert verdict, str(verdict)


class Chance:
    """Cuts a share of what fits, in all ways."""

    def __init__(self, rng: random.Random, share: float, words: tuple[bytes, ...]):
        self.share = share
        self._rng = rng
        self._words = words
        self._lock = threading.Lock()
        self.cuts: Counter[str] = Counter()

    def __call__(self, data: bytes) -> Cut:
        if not any(word in data for word in self._words):
            return Cut.NOT
        with self._lock:
            if self._rng.random() >= self.share:
                return Cut.NOT
            how = self._rng.choice(CUTS)
            self.cuts[how.name] += 1
            return how


def test_lines_that_are_cut_around_writes_lose_and_double_nothing(
    folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str], postgres: OwnPostgres
) -> None:
    """Between the service and its database, and between the service and the calendars."""
    with (
        CutProxy(postgres.port) as to_database,
        CutProxy(radicale.port) as to_calendars,
        world.service(folder, world.own_database(postgres, to_database.port)) as service,
    ):
        service.serve()
        calendars = Calendars()
        with service.client() as client:
            for _ in range(3):
                url = f"http://127.0.0.1:{to_calendars.port}/"
                calendars.connect_caldav(client, radicale, next(people), url)
        database_cuts = Chance(rng, 0.05, (b"COMMIT", b"UPDATE", b"INSERT"))
        calendar_cuts = Chance(rng, 0.3, (b"PUT /", b"DELETE /"))
        to_database.on_request, to_calendars.on_request = database_cuts, calendar_cuts
        load = Load(service.client, list(calendars.shelves), rng)
        load.begin(bookings=1000 if LONG else 30)
        load.join()
        # What was acknowledged is pushed while lines are cut.
        assert eventually(lambda: sum(calendar_cuts.cuts.values()) >= 5 or judge(load.accepted, calendars.shelves))
        database_cuts.share = calendar_cuts.share = 0.0
        verdict = settle(load.accepted, calendars.shelves)
        print(
            f"{len(load.accepted)} bookings, cut to the database {dict(database_cuts.cuts)}, "
            f"to the calendars {dict(calendar_cuts.cuts)}, {len(load.failures)} failed calls: {verdict}"
        )
        assert database_cuts.cuts
        assert calendar_cuts.cuts
        assert verdict, str(verdict)


def test_requests_that_come_twice_or_late_or_get_no_answer_change_nothing(
    folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str]
) -> None:
    lock = threading.Lock()
    happened: Counter[str] = Counter()

    def meddle(step: Step, request: RawRequest) -> str | None:
        if request.method not in ("PUT", "DELETE") or step is Step.ANSWERED:
            return None
        with lock:
            fate = rng.random()
            wait_s = rng.uniform(0, 0.5)
        if step is Step.ARRIVED:
            # Late: the worker goes on waiting, and newer revisions are acknowledged meanwhile.
            what = "twice" if fate < 0.2 else "late" if fate < 0.4 else ""
            # Each happens at least once, whatever chance says.
            what = next((each for each in ("twice", "late") if not happened[each]), what)
            happened[what] += 1
            if what == "late":
                time.sleep(wait_s)
            return TWICE if what == "twice" else None
        if fate < 0.2 or not happened["no answer"]:
            happened["no answer"] += 1
            return CUT
        return None

    with Announcer(radicale.port) as front, world.service(folder) as service:
        service.serve()
        calendars = Calendars()
        with service.client() as client:
            for _ in range(3):
                calendars.connect_caldav(client, radicale, next(people), front.url)
        front.on_step = meddle
        load = Load(service.client, list(calendars.shelves), rng)
        load.begin(bookings=1000 if LONG else 30)
        load.join()
        verdict = settle(load.accepted, calendars.shelves)
        print(f"{len(load.accepted)} bookings, {dict(happened)}: {verdict}")
        assert happened["twice"]
        assert happened["late"]
        assert happened["no answer"]
        assert verdict, str(verdict)


def test_servers_are_replaced_one_after_the_other_and_no_call_fails(
    folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str], postgres: OwnPostgres
) -> None:
    with world.service(folder, world.own_database(postgres)) as service:
        addresses = [
            {
                "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
                "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
            }
            for _ in range(2)
        ]
        servers = [service.serve("--no-worker", **each) for each in addresses]
        service.run("worker")
        target = "ipv4:" + ",".join(each["CALENDAR_GRPC_ADDRESS"] for each in addresses)
        calendars = Calendars()
        with service.client(target) as client:
            for _ in range(2):
                calendars.connect_caldav(client, radicale, next(people))
        load = Load(lambda: service.client(target), list(calendars.shelves), rng)
        load.begin(bookings=2000 if LONG else 20, goes_on=True)
        for turn in range(10 if LONG else 1):
            old, each = servers[turn % 2], addresses[turn % 2]
            old.terminate()
            assert old.wait(60) == 0
            servers[turn % 2] = service.serve("--no-worker", **each)
        load.join()
        verdict = settle(load.accepted, calendars.shelves)
        print(f"{len(load.accepted)} bookings, {len(load.failures)} failed calls: {verdict}")
        assert load.failures == []
        assert verdict, str(verdict)


def test_of_two_bookings_that_race_for_one_slot_one_wins(
    folder: Path, radicale: world.Radicale, people: Iterator[str], postgres: OwnPostgres
) -> None:
    with world.service(folder, world.own_database(postgres)) as service:
        other = {
            "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{local.free_port()}",
            "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{local.free_port()}",
        }
        service.serve()
        service.serve("--no-worker", **other)
        calendars = Calendars()
        with service.client() as one, service.client(other["CALENDAR_GRPC_ADDRESS"]) as two:
            connection_id = calendars.connect_caldav(one, radicale, next(people))
            for slot in range(100 if LONG else 5):
                both = threading.Barrier(2)
                outcomes: dict[str, str] = {}

                def book(name: str, client: object, start: datetime.datetime) -> None:
                    both.wait()  # noqa: B023 — joined within the turn
                    try:
                        client.sync_booking(  # type: ignore[attr-defined]
                            name,
                            1,
                            title=f"{name} r1",
                            start=start,
                            end=start + datetime.timedelta(minutes=30),
                            connection_ids=[connection_id],
                            require_free=True,
                            wait=datetime.timedelta(0),
                        )
                        outcomes[name] = "OK"  # noqa: B023
                    except CalendarServiceError as error:
                        outcomes[name] = error.reason  # noqa: B023

                start = at(slot % 24, day=slot // 24)
                threads = [
                    threading.Thread(target=book, args=(f"b{2 * slot + number}", client, start))
                    for number, client in enumerate((one, two))
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert sorted(outcomes.values()) == ["OK", "SLOT_TAKEN"], outcomes
