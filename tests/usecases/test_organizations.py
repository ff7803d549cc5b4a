"""What another organization owns is like what never was: in the error, in what is asked of the database, in time."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable

import pytest

from calendar_server.core.model import BookingId, Connection, ConnectionId, EventState, Interval, ProviderName
from calendar_server.errors import CalendarError, NotFound, ValidationError
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    BusyQuery,
    ConnectCommand,
    ListQuery,
    OAuthAccount,
    SyncCommand,
    Target,
    UpdateCommand,
)
from tests.usecases.conftest import HOME, HOUR, NOON, World, booking, cancelled
from tests.usecases.test_contract_edges import USES

Asked = Callable[[Callable[[], object]], list[str]]
WINDOW = Interval(NOON - HOUR, NOON + 3 * HOUR)
UNKNOWN = ConnectionId("cal_" + "0" * 24)
OWNER = "person-17"


def told(use: Callable[[], object]) -> tuple[str, str, str, dict[str, str]]:
    """How something ends, ids aside."""
    try:
        answer = use()
    except CalendarError as error:
        return type(error).__name__, error.reason, re.sub(r"cal_\w+", "cal_", error.message), dict(error.metadata)
    return "OK", "", repr(answer), {}


def same_to_a_stranger(
    world: World, statements: Asked, use: Callable[[World, Caller, ConnectionId], object], foreign: ConnectionId
) -> None:
    """A foreign id and an unknown one: the same answer, and the same statements sent to the database for it."""
    ends, asked = [], []
    for connection_id in (foreign, UNKNOWN):
        asked.append(
            statements(lambda id_=connection_id: ends.append(told(lambda: use(world, world.stranger, id_))))  # type: ignore[misc]
        )
    assert ends[0] == ends[1]
    assert ends[0][0] == "NotFound"
    assert asked[0] == asked[1]
    assert asked[0]


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_foreign_connection_takes_the_statements_of_an_unknown_one(
    world: World, statements: Asked, use: Callable[[World, Caller, ConnectionId], object]
) -> None:
    same_to_a_stranger(world, statements, use, world.connect().id)


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_foreign_connection_that_was_disconnected_does_too(
    world: World, statements: Asked, use: Callable[[World, Caller, ConnectionId], object]
) -> None:
    connection = world.connect()
    world.disconnect(connection)
    same_to_a_stranger(world, statements, use, connection.id)


def test_one_foreign_connection_among_ones_own_hides_as_well(world: World, statements: Asked) -> None:
    foreign = world.connect().id
    world.caller, world.stranger = world.stranger, world.caller
    own = world.connect("ben")
    ends, asked = [], []
    for other in (foreign, UNKNOWN):
        query = BusyQuery(Target((own.id, other)), WINDOW, allow_partial=True)
        use = lambda query=query: world.availability.get_busy(world.caller, query)  # noqa: E731
        asked.append(statements(lambda use=use: ends.append(told(use))))  # type: ignore[misc]
    assert ends[0] == ends[1]
    assert ends[0][0] == "NotFound"
    assert asked[0] == asked[1]


@pytest.mark.parametrize("foreign", [False, True])
def test_list_leaves_out_what_is_not_ones_own(world: World, foreign: bool) -> None:
    connection = world.connect()
    query = ListQuery(ids=(connection.id if foreign else UNKNOWN,))
    assert world.connections.list(world.stranger, query).connections == ()


def test_a_foreign_booking_is_like_one_that_never_was(world: World, statements: Asked) -> None:
    world.sync(booking(), world.connect())
    ends, asked = [], []
    for name in ("b", "never"):
        use = lambda name=name: world.bookings.get(world.stranger, BookingId(name))  # noqa: E731
        asked.append(statements(lambda use=use: ends.append(told(use))))  # type: ignore[misc]
    assert ends[0] == ends[1]
    assert ends[0][0] == "NotFound"
    assert asked[0] == asked[1]


def test_a_foreign_booking_is_neither_cancelled_nor_excluded_by_its_id(world: World) -> None:
    connection = world.connect()
    world.sync(booking(), connection)
    world.push()
    world.bookings.sync(world.stranger, SyncCommand(cancelled(99), Target(), wait_s=0))
    world.push()
    assert world.states() == [EventState.SYNCED]
    assert world.in_calendar() == [Interval(NOON, NOON + HOUR)]
    assert len(world.busy(connection).busy) == 1


def test_a_foreign_booking_id_excludes_nothing(world: World) -> None:
    """Both connected the same account; one's event is an ordinary one to the other, whatever ids it guesses."""
    world.sync(booking(), world.connect())
    world.push()
    theirs = world.connections.connect(world.stranger, connect_as("anna"))
    assert isinstance(theirs, Connection)
    query = BusyQuery(Target((theirs.id,)), WINDOW, exclude_booking_ids=(BookingId("b"),), max_staleness_s=0)
    busy = world.availability.get_busy(world.stranger, query).busy
    assert [(each.start, each.end) for each in busy] == [(NOON, NOON + HOUR)]


def connect_as(username: str, owner: str = "") -> ConnectCommand:
    from calendar_server.core.model import Preset
    from calendar_server.usecases.commands import CaldavAccount

    return ConnectCommand(CaldavAccount(Preset.CUSTOM, username, "right", "https://dav.example.org/"), owner=owner)


OWNER_USES: dict[str, Callable[[World, str], object]] = {
    "GetBusy": lambda world, owner: world.availability.get_busy(world.stranger, BusyQuery(Target(owner=owner), WINDOW)),
    "SyncBooking": lambda world, owner: world.bookings.sync(
        world.stranger, SyncCommand(booking(id=BookingId(f"of {owner}")), Target(owner=owner), wait_s=0)
    ),
    "List": lambda world, owner: world.connections.list(world.stranger, ListQuery(owner=owner)),
}


class TestAnOwner:
    @pytest.mark.parametrize("use", OWNER_USES.values(), ids=OWNER_USES.keys())
    def test_one_of_another_organization_has_no_connections_here(
        self, world: World, statements: Asked, use: Callable[[World, str], object]
    ) -> None:
        world.connect(owner=OWNER)
        ends, asked = [], []
        for owner in (OWNER, "nobody-11"):
            asked.append(statements(lambda owner=owner: ends.append(told(lambda: use(world, owner)))))  # type: ignore[misc]
        assert ends[0][0] == ends[1][0] == "OK"
        if use is not OWNER_USES["SyncBooking"]:
            assert ends[0] == ends[1]
            assert asked[0] == asked[1]

    def test_the_same_word_in_two_organizations_is_two_people(self, world: World) -> None:
        mine = world.connect(owner=OWNER)
        theirs = world.connections.connect(world.stranger, connect_as("ben", OWNER))
        assert isinstance(theirs, Connection)
        for caller, connection in ((world.caller, mine), (world.stranger, theirs)):
            listed = world.connections.list(caller, ListQuery(owner=OWNER)).connections
            assert [each.id for each in listed] == [connection.id]
            answer = world.availability.get_busy(caller, BusyQuery(Target(owner=OWNER), WINDOW))
            assert {each.connection_id for each in answer.calendars} == {connection.id}


class TestAPageToken:
    def test_one_of_another_organization_is_like_a_made_up_one(self, world: World, statements: Asked) -> None:
        for number in range(3):
            world.connect(f"user{number}")
        token = world.connections.list(world.caller, ListQuery(page_size=1)).next_page_token
        assert token
        made_up = token[:-6] + token[-6:][::-1]
        ends, asked = [], []
        for each in (token, made_up, "A" * len(token), "x"):
            use = lambda each=each: world.connections.list(world.stranger, ListQuery(page_size=1, page_token=each))  # noqa: E731
            asked.append(statements(lambda use=use: ends.append(told(use))))  # type: ignore[misc]
        assert all(end == ends[0] for end in ends)
        assert ends[0][0] == ValidationError.__name__
        assert asked == [[]] * 4

    def test_it_says_nothing_of_what_it_stands_at(self, world: World) -> None:
        connections = [world.connect(f"user{number}") for number in range(3)]
        token = world.connections.list(world.caller, ListQuery(page_size=1)).next_page_token
        plain = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode()
        parts = [part + "=" * (-len(part) % 4) for part in plain.split("|")]
        opened = plain.encode() + b"".join(base64.urlsafe_b64decode(part) for part in parts[2:])
        for connection in connections:
            assert connection.id.encode() not in opened


def test_renewing_a_foreign_connection_is_told_before_any_url(world: World) -> None:
    connection = world.connect()
    with pytest.raises(NotFound):
        world.connections.connect(
            world.stranger,
            ConnectCommand(OAuthAccount(ProviderName.GOOGLE, "https://app.example.org/"), connection_id=connection.id),
        )


def test_foreign_and_unknown_take_the_same_time(world: World) -> None:
    """Medians of many calls, one after the other in turns; a call to the provider or one statement more would show."""
    connection = world.connect()
    foreign, unknown = connection.id, UNKNOWN
    times: dict[str, list[float]] = {foreign: [], unknown: []}
    for _ in range(60):
        for connection_id in (foreign, unknown):
            began = time.perf_counter()
            with pytest.raises(NotFound):
                world.connections.update(world.stranger, UpdateCommand(ConnectionId(connection_id), HOME))
            times[connection_id].append(time.perf_counter() - began)
    medians = sorted(sorted(taken)[len(taken) // 2] for taken in times.values())
    assert medians[1] < 3 * medians[0] + 0.002
