"""Providers over real servers, started once for these tests, and the worlds that the contract suite runs in."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import StrangeAccount, event
from tests.contract.mirrors import Clock, Mirror, exact, settled
from tests.contract.worlds import CaldavWorld, MemoryWorld, Switch, World
from tests.contract.worlds_oauth import GoogleWorld, MicrosoftWorld
from tests.fakes import dav_servers
from tests.fakes.dav_servers import DavServer, OwnServer
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.strange_dav import WORK, StrangeDav, strange_dav

PASSWORD = 'pässword: with "quotes" and a colon'
USERS = {f"anna{number}": PASSWORD for number in range(150)}
_users = itertools.count()
OWN_SERVER = ["own_server"] if dav_servers.own_server() else []


@pytest.fixture(scope="session")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse("127.0.0.0/8,localhost"), exchange_s=10, answer_bytes=8_000_000)
    yield out
    out.close()


@pytest.fixture(scope="session")
def expander() -> Iterator[Expander]:
    children = Expander(processes=1, event_s=1.0, calendar_s=10.0, address_space_bytes=512_000_000)
    yield children
    children.close()


@pytest.fixture
def caldav(egress: Egress, expander: Expander) -> CaldavProvider:
    """One for each test: it remembers for a while which passwords were refused, and servers get ports anew."""
    return CaldavProvider(egress, expander, redirects=5, calendar_events=1000)


@pytest.fixture(scope="session")
def radicale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DavServer]:
    with dav_servers.radicale(tmp_path_factory.mktemp("radicale"), USERS) as server:
        yield server


@pytest.fixture(scope="session")
def xandikos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DavServer]:
    with dav_servers.xandikos(tmp_path_factory.mktemp("xandikos")) as server:
        yield server


@pytest.fixture
def username(radicale: DavServer) -> str:
    """A user of Radicale whom no other test has."""
    name = f"anna{next(_users)}"
    radicale.make_home(name)
    return name


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    """At its end everything that was said was proper, and nobody was sent mail."""
    with GoogleFake() as fake:
        yield fake
        fake.assert_clean()


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    """At its end everything that was said was proper, and nobody was sent mail."""
    with MicrosoftFake() as fake:
        yield fake
    assert fake.problems == []
    assert [user.mailbox.mails for user in fake.users.values() if user.mailbox.mails] == []


@pytest.fixture(scope="session")
def own_server() -> OwnServer:
    found = dav_servers.own_server()
    if found is None:
        pytest.skip("DAV_URL names no further server, see tests/fakes/dav_servers.py")
    return found


@pytest.fixture(params=["memory", "radicale", "xandikos", "google", "microsoft", *OWN_SERVER])
def world(request: pytest.FixtureRequest, switch: Switch) -> Iterator[World]:
    if request.param == "memory":
        yield MemoryWorld(switch)
        return
    if request.param == "google":
        yield GoogleWorld(request.getfixturevalue("egress"), request.getfixturevalue("google"), switch)
        return
    if request.param == "microsoft":
        yield MicrosoftWorld(request.getfixturevalue("egress"), request.getfixturevalue("microsoft"), switch)
        return
    provider: CaldavProvider = request.getfixturevalue("caldav")
    if request.param == "own_server":
        found: OwnServer = request.getfixturevalue("own_server")
        made = CaldavWorld.make(provider, found.server, found.home, found.username, found.password, switch, locks=False)
        yield made
        made.close()
        return
    server: DavServer = request.getfixturevalue(request.param)
    if request.param == "radicale":
        user: str = request.getfixturevalue("username")
        made = CaldavWorld.make(provider, server, f"/{user}/", user, PASSWORD, switch, locks=True)
    else:
        made = CaldavWorld.make(provider, server, "/user/calendars/", "anybody", "anything", switch, locks=False)
    yield made
    made.close()


@pytest.fixture
def dav() -> Iterator[StrangeDav]:
    with strange_dav() as server:
        yield server


@pytest.fixture
def account(dav: StrangeDav, caldav: CaldavProvider) -> StrangeAccount:
    return StrangeAccount(dav, caldav)


@pytest.fixture
def clock(account: StrangeAccount, egress: Egress, expander: Expander) -> Clock:
    """The provider's; before its first refresh."""
    made = Clock()
    account.provider = CaldavProvider(egress, expander, redirects=5, calendar_events=1000, clock=made)
    return made


@pytest.fixture
def looking(account: StrangeAccount) -> Mirror:
    """Of a calendar with nine events, refreshed until its signals are trusted; the log is empty."""
    for number in range(1, 10):
        account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
    account.dav.put(f"{WORK}todo.ics", event("todo", 3, component="VTODO"))
    return settled(account)


@pytest.fixture
def reporting(account: StrangeAccount, looking: Mirror) -> Mirror:
    """Of the same calendar, refreshed until a report alone is asked for; the log is empty."""
    return exact(account, looking)


@pytest.fixture(params=["looking", "reporting"])
def mirror(request: pytest.FixtureRequest) -> Mirror:
    """Either of both."""
    made: Mirror = request.getfixturevalue(request.param)
    return made
