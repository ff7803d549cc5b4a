"""Whole use cases over both databases and the provider in memory: everything but gRPC and the outside world."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest

from calendar_server.core.model import (
    SECOND,
    Booking,
    BookingId,
    BookingStatus,
    BusyEvent,
    Calendar,
    CalendarId,
    Connection,
    ConnectionId,
    EventId,
    EventState,
    Instant,
    Interval,
    Preset,
    ProviderName,
)
from calendar_server.core.model import BlockReason as Reason
from calendar_server.errors import ProviderRefused
from calendar_server.metrics import Metrics
from calendar_server.providers.base import Account, Deadline, Link, Provider, Secret
from calendar_server.providers.memory import MemoryProvider
from calendar_server.store.store import Store
from calendar_server.usecases.authorizations import Authorizations
from calendar_server.usecases.availability import Availability
from calendar_server.usecases.bookings import BookingContents, Bookings
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    BookingReport,
    BusyAnswer,
    BusyQuery,
    CaldavAccount,
    ConnectCommand,
    SyncCommand,
    Target,
)
from calendar_server.usecases.connections import Connections
from calendar_server.usecases.drift import Drifts
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.hosts import HostGate
from calendar_server.usecases.pushes import Pushes
from calendar_server.usecases.refresh import Refresher
from calendar_server.usecases.watches import Watches
from calendar_server.vault import Vault
from tests.contract_store.conftest import (  # noqa: F401 — the same fixtures
    database_url,
    migrated_url,
    postgres,
    postgres_url,
    sqlite_path,
    sqlite_url,
    store,
)

WORK, HOME, SHOWN = CalendarId("/work/"), CalendarId("/home/"), CalendarId("/shown/")
HOUR = 3600 * SECOND
NOON: Instant = 1_900_000_800 * SECOND
"""A whole hour of the year 2030."""


VAULT = Vault.from_keys("k1:" + "A" * 43 + "=")


class Accounts:
    """Makes accounts of user names, as CalDAV's connect does: the right password is `right`."""

    def __init__(self) -> None:
        self.read_only: set[str] = set()

    def connect(
        self, *, preset: Preset, username: str, password: str, server_url: str, deadline: Deadline
    ) -> tuple[Account, Secret]:
        if password != "right":
            raise ProviderRefused("The server does not accept these credentials.", cause="credentials")
        target = CalendarId("") if username in self.read_only else WORK
        # Everybody has a server of their own: what one suffers is nobody else's outage.
        settings = {"base": f"https://{username}.example.org/"}
        account = Account(f"{server_url}{username}", f"{username}@example.org", target, (WORK, HOME), settings)
        return account, Secret({"username": username, "password": password})


class Interrupted(MemoryProvider):
    """Lets a test do something in the middle of things: before the next exchange with the provider."""

    def __init__(self, calendars: Iterable[Calendar]):
        super().__init__(calendars)
        self.interruptions: list[Callable[[], object]] = []

    def _exchange(self, link: Link, deadline: Deadline) -> threading.Lock:
        with self._lock:
            interruption = self.interruptions.pop(0) if self.interruptions else None
        if interruption is not None:
            interruption()
        return super()._exchange(link, deadline)


@dataclasses.dataclass
class World:
    """The service without its doors, and what tests do with it."""

    store: Store
    provider: Interrupted
    accounts: Accounts
    connections: Connections
    refresher: Refresher
    availability: Availability
    bookings: Bookings
    pushes: Pushes
    caller: Caller
    stranger: Caller

    def connect(self, username: str = "anna", **more: str) -> Connection:
        connected = self.connections.connect(
            self.caller,
            ConnectCommand(
                CaldavAccount(Preset.CUSTOM, username, more.pop("password", "right"), "https://dav.example.org/"),
                owner=more.pop("owner", ""),
                connection_id=ConnectionId(more.pop("connection_id", "")),
            ),
        )
        assert isinstance(connected, Connection)
        return connected

    def disconnect(self, connection: Connection) -> None:
        self.connections.disconnect(self.caller, connection.id)

    def busy(self, *connections: Connection, window: Interval | None = None, **more: object) -> BusyAnswer:
        """Around noon, by reads that begin now unless told otherwise."""
        query = BusyQuery(
            Target(tuple(connection.id for connection in connections)),
            window or Interval(NOON - 4 * HOUR, NOON + 4 * HOUR),
            **{"max_staleness_s": 0, **more},  # type: ignore[arg-type]
        )
        return self.availability.get_busy(self.caller, query)

    def sync(self, booking: Booking, *connections: Connection, require_free: bool = False) -> BookingReport:
        target = Target(tuple(connection.id for connection in connections))
        return self.bookings.sync(self.caller, SyncCommand(booking, target, require_free, wait_s=0))

    def push(self) -> list[str]:
        """Push everything that is due, as a worker would; answers the outcomes."""
        outcomes = []
        while rows := self.store.outbox.claim(limit=10, lease_s=60, mailbox_limit=4):
            outcomes += [self.pushes.push(row) for row in rows]
        return outcomes

    def report(self, booking_id: str = "b") -> BookingReport:
        return self.bookings.get(self.caller, BookingId(booking_id))

    def states(self, booking_id: str = "b") -> list[EventState]:
        return [event.state for event in self.report(booking_id).events]

    def in_calendar(self, calendar_id: CalendarId = WORK) -> list[Interval]:
        """What stands in a calendar around noon, as its owner sees it."""
        return [Interval(event.start, event.end) for event in self.found(calendar_id)]

    def found(self, calendar_id: CalendarId = WORK) -> tuple[BusyEvent, ...]:
        shelf = self.provider._shelves[calendar_id]
        return tuple(event for events in shelf.events.values() for event in events)

    def owner_adds(self, start: Instant, end: Instant, name: str = "own", calendar_id: CalendarId = WORK) -> None:
        self.provider.add(calendar_id, BusyEvent(start, end, Reason.BUSY, EventId(name)))


def booking(revision: int = 1, **changes: object) -> Booking:
    """Noon to one, unless told otherwise."""
    values: dict[str, object] = {
        "id": BookingId("b"),
        "revision": revision,
        "status": BookingStatus.CONFIRMED,
        "title": "Interview",
        "start": NOON,
        "end": NOON + HOUR,
        **changes,
    }
    return Booking(**values)  # type: ignore[arg-type]


def cancelled(revision: int = 2, booking_id: str = "b") -> Booking:
    return Booking(BookingId(booking_id), revision, BookingStatus.CANCELLED)


def build_availability(
    store: Store,  # noqa: F811 — the fixture's name
    grants: Grants,
    providers: Mapping[ProviderName, Provider],
    *,
    call_s: float = 5,
    read_threads: int = 8,
    reconcile_s: float = 3600,
    cache_entries: int = 100,
    provider_calls: int = 112,
    metrics: Metrics | None = None,
) -> tuple[Availability, Refresher]:
    """Both over this store. Closed in this order."""
    refresher = Refresher(
        store,
        grants,
        providers,
        read_threads=read_threads,
        horizon_days=400,
        reconcile_s=reconcile_s,
        learn=Drifts(store).learn,
    )
    availability = Availability(
        store,
        refresher,
        call_s=call_s,
        max_staleness_s=60,
        unreadable_retry_s=60,
        cache_entries=cache_entries,
        provider_calls=provider_calls,
        metrics=metrics,
    )
    return availability, refresher


def build_world(store: Store, vault: Vault = VAULT) -> World:  # noqa: F811 — the fixture's name
    """Whole objects over this store."""
    provider = Interrupted(
        [
            Calendar(WORK, "Work", writable=True, primary=True),
            Calendar(HOME, "Home", writable=True),
            Calendar(SHOWN, "Holidays"),
        ]
    )
    providers = dict.fromkeys(ProviderName, provider)
    accounts, grants, contents = Accounts(), Grants(store, vault, {}), BookingContents(vault)
    availability, refresher = build_availability(store, grants, providers)
    watches = Watches(store, grants, {}, changed=lambda connection_id, calendar_id: None, used_s=86_400)
    authorizations = Authorizations(store, vault, {}, redirect_uris=[], public_url="http://127.0.0.1", call_s=5)

    def hasten(connection_ids: list[ConnectionId]) -> None:
        store.outbox.hasten(connection_ids, store.now())

    return World(
        store=store,
        provider=provider,
        accounts=accounts,
        connections=Connections(
            store, vault, grants, providers, accounts, authorizations, {}, watches, call_s=5, wake=lambda: None
        ),
        refresher=refresher,
        availability=availability,
        bookings=Bookings(store, contents, availability, providers, waiting_most=8, wake=lambda: None),
        pushes=Pushes(store, contents, grants, providers, HostGate(slow_most=4, opened=hasten), push_s=10),
        caller=Caller(store.organizations.ensure("acme")),
        stranger=Caller(store.organizations.ensure("other")),
    )


@pytest.fixture
def world(store: Store) -> Iterator[World]:  # noqa: F811 — the fixture's name
    world = build_world(store)
    yield world
    world.availability.close()
    world.refresher.close()


class Statements(logging.Handler):
    """The statements that threads of this process send to the database."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.sent: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.sent.append(record.msg[0] if isinstance(record.msg, tuple) else str(record.msg))


@pytest.fixture
def statements() -> Callable[[Callable[[], object]], list[str]]:
    """Does something and answers the statements, without their values, that it took."""

    def taken(do: Callable[[], object]) -> list[str]:
        logger, handler = logging.getLogger("peewee"), Statements()
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            do()
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        return handler.sent

    return taken


@dataclasses.dataclass
class Exchanges:
    """Counts a provider's exchanges by hooking in before each."""

    world: World
    count: int = 0

    def watch(self) -> None:
        """Count from now on."""
        self.count = 0
        self.world.provider.interruptions[:] = [self._one] * 1000

    def _one(self) -> None:
        self.count += 1


@pytest.fixture
def exchanges(world: World) -> Exchanges:
    return Exchanges(world)
