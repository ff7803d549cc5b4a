"""The gate in front of hosts, with a clock that the test moves."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from calendar_server.core.model import (
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.errors import (
    CalendarGone,
    ForbiddenDestination,
    NeedsReauth,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.usecases.hosts import HOSTS_MOST, HostClosed, HostGate, host_of

ANNA, BERTA, CARLA = ConnectionId("cal_anna"), ConnectionId("cal_berta"), ConnectionId("cal_carla")
HOST, OTHER = "dav.example.org", "dav.example.net"


@dataclass
class World:
    now: float = 1000.0
    told: list[list[ConnectionId]] = field(default_factory=list)
    gate: HostGate = field(init=False)

    def __post_init__(self) -> None:
        self.gate = HostGate(
            slow_most=2,
            slow_s=2,
            failures=3,
            first_pause_s=1,
            last_pause_s=8,
            opened=self.told.append,
            clock=lambda: self.now,
        )

    def succeed(self, key: ConnectionId = ANNA, host: str = HOST) -> None:
        with self.gate.call(host, key):
            pass

    def fail(self, key: ConnectionId = ANNA, error: Exception | None = None) -> None:
        error = error or ProviderUnavailable("down")
        with pytest.raises(type(error)) as raised, self.gate.call(HOST, key):
            raise error
        assert raised.value is error, "it was not let through"

    def refused(self, key: ConnectionId = ANNA, host: str = HOST) -> float:
        """Seconds after which a refused call may come again."""
        with pytest.raises(HostClosed) as raised, self.gate.call(host, key):
            pytest.fail("it was let through")
        assert raised.value.retry_after_s is not None
        return raised.value.retry_after_s


@pytest.fixture
def world() -> World:
    return World()


def test_hosts_that_nobody_is_let_through_to_are_counted(world: World) -> None:
    assert world.gate.kept_from() == {"closed": 0, "crowded": 0}
    for key in (ANNA, BERTA, CARLA):
        world.fail(key)
    with ExitStack() as hanging:
        for key in (ANNA, BERTA):
            hanging.enter_context(world.gate.call(OTHER, key))
        assert world.gate.kept_from() == {"closed": 1, "crowded": 0}
        world.now += 3
        assert world.gate.kept_from() == {"closed": 1, "crowded": 1}
    world.succeed(ANNA)
    assert world.gate.kept_from() == {"closed": 0, "crowded": 0}


@pytest.fixture
def closed(world: World) -> World:
    for _ in range(3):
        world.fail()
    return world


class TestOutage:
    def test_a_few_failures_close_nothing(self, world: World) -> None:
        for _ in range(5):
            world.fail()
            world.fail()
            world.succeed()

    def test_failures_in_a_row_close_that_host_alone(self, closed: World) -> None:
        assert closed.refused(BERTA) == pytest.approx(1)
        closed.succeed(host=OTHER)

    def test_a_success_after_the_pause_opens_it_for_all(self, closed: World) -> None:
        closed.now += 1
        closed.succeed()
        closed.succeed(BERTA)

    def test_one_probe_at_a_time(self, closed: World) -> None:
        closed.now += 1
        with closed.gate.call(HOST, ANNA):
            closed.refused(BERTA)
        closed.succeed(BERTA)

    def test_the_pause_doubles_up_to_a_limit(self, closed: World) -> None:
        for pause in (1, 2, 4, 8, 8, 8):
            assert closed.refused() == pytest.approx(pause)
            closed.now += pause
            closed.fail()

    def test_after_an_opening_the_pause_is_short_again(self, closed: World) -> None:
        closed.now += 1
        closed.fail()
        closed.now += 2
        closed.succeed()
        for _ in range(3):
            closed.fail()
        assert closed.refused() == pytest.approx(1)

    def test_calls_that_were_under_way_do_not_lengthen_it(self, world: World) -> None:
        calls = [world.gate.call(HOST, ANNA) for _ in range(8)]
        for call in calls:
            call.__enter__()
        for call in calls:
            error = ProviderUnavailable("down")
            assert not call.__exit__(type(error), error, None)
        assert world.refused() == pytest.approx(1)

    @pytest.mark.parametrize("error", [NeedsReauth(), CalendarGone("gone")], ids=lambda error: type(error).__name__)
    def test_a_refusal_shows_that_the_host_lives(self, closed: World, error: Exception) -> None:
        closed.now += 1
        closed.fail(error=error)
        closed.succeed()

    @pytest.mark.parametrize(
        "error",
        [ProviderThrottled("slow down"), ForbiddenDestination(), LookupError("a bug")],
        ids=lambda error: type(error).__name__,
    )
    def test_what_says_nothing_about_the_host_changes_nothing(self, world: World, error: Exception) -> None:
        for _ in range(10):
            world.fail(error=error)
        world.fail()
        world.fail(error=error)
        world.fail()
        world.fail()
        world.refused()

    def test_a_broken_account_is_not_the_only_one_that_probes(self, closed: World) -> None:
        closed.refused(BERTA)
        closed.now += 1
        # Anna's calls fail whatever the host does, and hers come first.
        closed.refused(ANNA)
        closed.succeed(BERTA)
        closed.succeed(CARLA)

    def test_a_lonely_account_may_probe_again_and_again(self, closed: World) -> None:
        for pause in (1, 2, 4):
            closed.now += pause
            closed.fail(ANNA)

    def test_those_who_waited_are_told_when_it_opens(self, closed: World) -> None:
        closed.refused(BERTA)
        closed.now += 1
        closed.succeed(CARLA)
        assert closed.told == [[ANNA, BERTA]]
        closed.succeed(CARLA)
        assert len(closed.told) == 1

    def test_the_wait_can_be_asked_for(self, closed: World) -> None:
        assert closed.gate.wait_s(HOST) == pytest.approx(1)
        assert closed.gate.wait_s(OTHER) == 0
        closed.now += 1
        assert closed.gate.wait_s(HOST) == 0


class TestHanging:
    def test_slow_calls_fill_a_host_and_no_other(self, world: World) -> None:
        with world.gate.call(HOST, ANNA), world.gate.call(HOST, BERTA):
            world.now += 2.5
            assert world.refused(CARLA) > 0
            assert world.gate.slow() == 2
            world.succeed(CARLA, OTHER)
        assert world.gate.slow() == 0
        world.succeed(CARLA)

    def test_quick_calls_are_never_counted(self, world: World) -> None:
        with ExitStack() as calls:
            for _ in range(100):
                calls.enter_context(world.gate.call(HOST, ANNA))
            world.succeed(BERTA)


def test_what_is_remembered_has_a_limit(world: World) -> None:
    for number in range(HOSTS_MOST + 100):
        with pytest.raises(ProviderUnavailable), world.gate.call(f"host{number}", ANNA):
            raise ProviderUnavailable("down")
    assert len(world.gate._hosts) <= HOSTS_MOST


def test_a_host_in_order_is_not_remembered(world: World) -> None:
    world.succeed()
    assert world.gate._hosts == {}


@pytest.mark.parametrize(
    ("provider", "base", "host"),
    [
        (ProviderName.CALDAV, "https://dav.example.org:8443/dav/", "dav.example.org:8443"),
        (ProviderName.CALDAV, "", "caldav"),
        (ProviderName.GOOGLE, "", "google"),
        (ProviderName.MICROSOFT, "", "microsoft"),
    ],
)
def test_what_fails_together(provider: ProviderName, base: str, host: str) -> None:
    connection = Connection(
        id=ANNA,
        organization_id=OrganizationId("org"),
        owner="",
        provider=provider,
        subject="s",
        account_email="",
        calendar_id=CalendarId("c"),
        busy_calendar_ids=(),
        status=ConnectionStatus.ACTIVE,
        sync_status=SyncStatus.CONNECTED,
        sync_error=None,
        last_sync_at=None,
        connected_at=0,
        grant_version=1,
        settings={"base": base} if base else {},
    )
    assert host_of(connection) == host
