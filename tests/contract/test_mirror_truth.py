"""Whatever happens to calendars, bookings, providers and processes: no answer on the way is wrong, and the end is exact.

``make truth`` plays longer histories, and many more. See `truth.py` for what is held against what, and
`truth_histories.py` for what happens in a history.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from calendar_server.core.model import Booking, BookingId, BookingStatus, EventState
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.egress import Egress
from calendar_server.providers.expander import Expander
from calendar_server.store.store import Store
from tests.contract.conftest import PASSWORD
from tests.contract.truth import Truth, running
from tests.contract.truth_histories import MakeWorld, Player
from tests.contract.truth_worlds import (
    DAV_VOICE,
    GOOGLE_VOICE,
    GRAPH_VOICE,
    google_world,
    memory_world,
    microsoft_world,
    server_world,
    strange_world,
)
from tests.fakes.dav_servers import DavServer, OwnServer
from tests.fakes.faulty_line import FaultyLine, Kind
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.strange_dav import StrangeDav

TIMES = int(os.environ.get("CALENDAR_TRUTH", "1"))
"""How many times as many histories as usual."""
SEED = int(os.environ.get("CALENDAR_TRUTH_SEED", "1"))
LENGTH = 60


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that is up to date, to be copied."""
    path = tmp_path_factory.mktemp("truth") / "empty.db"
    store = Store.open(f"sqlite:///{path}")
    store.migrate()
    store.close()
    assert not path.with_name("empty.db-wal").exists()
    return path


@pytest.fixture
def caldav(egress: Egress, expander: Expander) -> Callable[[], CaldavProvider]:
    """A provider for each history: it remembers for a while which passwords were refused."""
    return lambda: CaldavProvider(egress, expander, redirects=5, calendar_events=1000)


@pytest.fixture
def player(empty_database: Path, tmp_path: Path) -> Player:
    return Player(empty_database, tmp_path)


def play(player: Player, make: MakeWorld, histories: int) -> None:
    player.play_all(make, histories=histories * TIMES, length=LENGTH, seed=SEED)


def test_the_reference(player: Player) -> None:
    play(player, lambda: memory_world(), 12)


def test_radicale(player: Player, radicale: DavServer, username: str, caldav: Callable[[], CaldavProvider]) -> None:
    with FaultyLine(radicale.url, DAV_VOICE) as line:
        play(player, lambda: server_world(radicale, line, caldav(), f"/{username}/", username, PASSWORD), 3)


def test_xandikos(player: Player, xandikos: DavServer, caldav: Callable[[], CaldavProvider]) -> None:
    with FaultyLine(xandikos.url, DAV_VOICE) as line:
        play(player, lambda: server_world(xandikos, line, caldav(), "/user/calendars/", "anybody", "anything"), 3)


def test_own_server(player: Player, own_server: OwnServer, caldav: Callable[[], CaldavProvider]) -> None:
    server, home = own_server.server, own_server.home
    with FaultyLine(server.url, DAV_VOICE) as line:
        play(
            player,
            lambda: server_world(server, line, caldav(), home, own_server.username, own_server.password),
            3,
        )


def test_a_strange_server(player: Player, dav: StrangeDav, caldav: Callable[[], CaldavProvider]) -> None:
    with FaultyLine(dav.url, DAV_VOICE) as line:
        play(player, lambda: strange_world(dav, line, caldav()), 8)


def test_google(player: Player, google: GoogleFake, egress: Egress) -> None:
    with FaultyLine(google.origin, GOOGLE_VOICE) as line:
        play(player, lambda: google_world(google, line, egress), 8)


def test_microsoft(player: Player, microsoft: MicrosoftFake, egress: Egress) -> None:
    with FaultyLine(microsoft.origin, GRAPH_VOICE) as line:
        play(player, lambda: microsoft_world(microsoft, line, egress), 8)


@pytest.fixture
def at_microsoft(player: Player, microsoft: MicrosoftFake, egress: Egress) -> Iterator[Truth]:
    """A history of its own, with faults on the line where they are ordered."""
    database = player.folder / "history.db"
    shutil.copyfile(player.empty, database)
    with (
        FaultyLine(microsoft.origin, GRAPH_VOICE) as line,
        microsoft_world(microsoft, line, egress) as world,
        running(f"sqlite:///{database}", world) as truth,
    ):
        yield truth


def test_what_a_lost_answer_made_counts_no_more_once_it_is_taken_out(at_microsoft: Truth) -> None:
    """Microsoft gives the id of an event, and its answer got lost: what is read of it looks like somebody else's."""
    truth = at_microsoft
    replica, span = truth.replicas[0], truth.grid.span(10, 14)
    booking = Booking(BookingId("b0"), 1, BookingStatus.CONFIRMED, "Interview", start=span.start, end=span.end)
    truth.sync(replica, booking)
    # The look for it, and then the write.
    truth.world.orders.spoil(Kind.CUT, skip=1)
    replica.push()
    answer = truth.ask(replica, truth.query(max_staleness_s=0))
    assert answer is not None
    assert answer.busy == (span,)
    truth.sync(replica, dataclasses.replace(booking, revision=2, status=BookingStatus.CANCELLED))
    replica.push()
    answer = truth.ask(replica, truth.query(max_staleness_s=3600))
    assert answer is not None
    assert answer.busy == ()
    truth.reconcile()


@pytest.mark.parametrize("skip", [0, 1], ids=["the look", "the write"])
def test_what_a_lost_answer_made_is_ours_though_the_next_push_is_refused(at_microsoft: Truth, skip: int) -> None:
    """The event stands where the booking was. It is not somebody else's, whom the booking has to make room for."""
    truth = at_microsoft
    replica, span, later = truth.replicas[0], truth.grid.span(10, 14), truth.grid.span(20, 24)
    booking = Booking(BookingId("b0"), 1, BookingStatus.CONFIRMED, "Interview", start=span.start, end=span.end)
    truth.sync(replica, booking)
    truth.world.orders.spoil(Kind.CUT, skip=1)
    replica.push()
    truth.sync(replica, dataclasses.replace(booking, revision=2, start=later.start, end=later.end))
    truth.world.orders.spoil(Kind.FORBIDDEN, skip=skip)
    replica.push()
    truth.pass_time(3600)
    replica.push()
    answer = truth.ask(replica, truth.query(max_staleness_s=0))
    assert answer is not None
    assert answer.busy == (later,)
    truth.reconcile()


def test_what_a_lost_answer_made_is_not_forgotten_when_the_connection_is_renewed(at_microsoft: Truth) -> None:
    """One refusal of the look for it is not believed, as if there had been no renewal."""
    truth = at_microsoft
    replica, span = truth.replicas[0], truth.grid.span(10, 14)
    booking = Booking(BookingId("b0"), 1, BookingStatus.CONFIRMED, "Interview", start=span.start, end=span.end)
    truth.sync(replica, booking)
    truth.world.orders.spoil(Kind.CUT, skip=1)
    replica.push()
    truth.store.outbox.make_due(truth.connection_id, truth.store.now())
    truth.world.orders.spoil(Kind.FORBIDDEN, skip=0)
    replica.push()
    assert truth.written(booking.id)[1] is EventState.PENDING
    truth.pass_time(3600)
    replica.push()
    truth.reconcile()


def test_only_an_attempt_without_an_answer_counts_for_the_next_revision(at_microsoft: Truth) -> None:
    """What was refused has made nothing: the next revision begins anew."""
    truth = at_microsoft
    replica, span = truth.replicas[0], truth.grid.span(10, 14)
    for number, (kind, attempts) in enumerate(((Kind.FORBIDDEN, 0), (Kind.CUT, 1))):
        booking = Booking(BookingId(f"b{number}"), 1, BookingStatus.CONFIRMED, "Talk", start=span.start, end=span.end)
        truth.sync(replica, booking)
        truth.world.orders.spoil(kind, skip=1)
        replica.push()
        truth.sync(replica, dataclasses.replace(booking, revision=2))
        (row,) = truth.store.outbox.of_booking(truth.caller.organization_id, booking.id)
        assert row.attempts == attempts
        replica.push()
    truth.reconcile()
