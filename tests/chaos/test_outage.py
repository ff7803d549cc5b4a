"""Providers that are down or hang: what waits for them drains afterwards, and nobody else notices."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import world
from tests.chaos.world import Accepted, Calendars, Load, RadicaleShelf, settle, sync
from tests.e2e.conftest import at
from tests.fakes.cut_proxy import Cut, CutProxy

LONG = world.long_form()


@pytest.mark.parametrize("how", ["down", "hangs"])
def test_a_backlog_drains_after_an_outage_and_the_others_never_wait_for_it(
    how: str, folder: Path, rng: random.Random, radicale: world.Radicale, people: Iterator[str]
) -> None:
    over = threading.Event()

    def outage(data: bytes) -> Cut:
        if how == "down":
            return Cut.NOT if over.is_set() else Cut.REQUEST
        over.wait(world.SETTLE_S * 10)
        return Cut.NOT

    with (
        # Of its own: lines that hang in front of a server take up its connections, and the others would wait for those.
        world.radicale(folder / "sick") as behind,
        CutProxy(behind.port) as front,
        world.service(folder, CALENDAR_EXCHANGE_S="4") as service,
    ):
        service.serve()
        sick, well = Calendars(), Calendars()
        with service.client() as client:
            for _ in range(4):
                sick.connect_caldav(client, behind, next(people), f"http://127.0.0.1:{front.port}/")
            for _ in range(2):
                well.connect_caldav(client, radicale, next(people))
        front.on_request = outage
        backlog = Load(service.client, list(sick.shelves), rng)
        backlog.begin(bookings=10_000 if LONG else 100, revisions=1)
        backlog.join()
        healthy = Load(service.client, list(well.shelves), rng)
        healthy.begin(bookings=500 if LONG else 10, revisions=2, first=100_000)
        healthy.join()
        verdict = settle(healthy.accepted, well.shelves)
        assert verdict, str(verdict)
        assert not any(shelf.entries() for shelf in sick.shelves.values()), "it is down"
        delays = [latency(service, well, number) for number in range(50 if LONG else 5)]
        began = time.monotonic()
        over.set()
        verdict = settle(backlog.accepted, sick.shelves, within_s=world.SETTLE_S * (10 if LONG else 1))
        took = time.monotonic() - began
        print(
            f"{how}: {len(backlog.accepted)} waited and drained in {took:.1f} s; meanwhile the others' bookings took "
            f"{statistics.median(delays):.2f} s to the calendar, p95 {sorted(delays)[int(len(delays) * 0.95)]:.2f} s"
        )
        assert verdict, str(verdict)


def latency(service: world.Service, calendars: Calendars, number: int) -> float:
    """Seconds from the acknowledgement of a booking to its place in the calendar."""
    connection_id, shelf = next(iter(calendars.shelves.items()))
    assert isinstance(shelf, RadicaleShelf)
    booking_id = f"b{200_000 + number}"
    with service.client() as client:
        sync(client, booking_id, Accepted(1, connection_id, at(number % 24, day=number // 24)))
        began = time.monotonic()
        assert world.eventually(lambda: any(entry[0] == booking_id for entry in shelf.entries()))
        return time.monotonic() - began
