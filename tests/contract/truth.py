"""The promise of the mirror, as something to run: a service of two replicas over one account, and a model of the account.

The model is a log of what each calendar's owner had there, and from when to when. An answer is held against it:

    honest    what was busy in every state of the calendar between ``as_of`` and now is busy, what was busy in none is not
    lying     the same, since the last read in full
    ours      a committed booking is busy at once, a cancelled one is not; where its owner moved it, too; while the feed
              lies, perhaps also where it was before

Times are slots of half an hour over two weeks, kept as the bits of one number, so that a busy set is an ``int``.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from calendar_server.core.intervals import touches
from calendar_server.core.model import (
    DAY,
    HOUR,
    SECOND,
    Booking,
    BookingId,
    BookingStatus,
    BusyState,
    BusyView,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    Instant,
    Interval,
    SyncStatus,
)
from calendar_server.providers.base import Deadline
from calendar_server.store.store import Store
from calendar_server.usecases.availability import Availability, BusyUnknown
from calendar_server.usecases.bookings import BookingContents, Bookings
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, CalendarBusy, SyncCommand, Target
from calendar_server.usecases.drift import Drifts
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.hosts import HostGate
from calendar_server.usecases.pushes import Pushes
from calendar_server.usecases.refresh import Refresher
from calendar_server.worker.refreshing import Refreshing
from tests.contract.truth_owners import Entry
from tests.contract.truth_worlds import TruthWorld
from tests.fakes.faulty_line import Kind
from tests.usecases.conftest import VAULT

SLOT = 1800 * SECOND
DAYS = 14
SLOTS = DAYS * 48
RECONCILE_S = 3600
STALENESS_S = 60
_names = itertools.count(1)

NEEDS_PERSON = frozenset({"NEEDS_REAUTH", "CALENDAR_GONE", "SCOPE_MISSING"})
DOCUMENTED = NEEDS_PERSON | {"PROVIDER_UNAVAILABLE", "PROVIDER_THROTTLED", "EVENT_UNREADABLE"}
"""Reasons for which a calendar may be unknown."""


@dataclass(frozen=True)
class Grid:
    """The two weeks that histories take place in."""

    start: Instant

    def at(self, slot: int) -> Instant:
        return self.start + slot * SLOT

    def span(self, first: int, end: int) -> Interval:
        return Interval(self.at(first), self.at(end))

    @property
    def whole(self) -> Interval:
        return self.span(0, SLOTS)

    def bits(self, intervals: Iterable[Interval]) -> int:
        """The slots that these fill. They begin and end with slots."""
        found = 0
        for each in intervals:
            first, odd = divmod(each.start - self.start, SLOT)
            end, odd_end = divmod(each.end - self.start, SLOT)
            assert not odd
            assert not odd_end
            first, end = max(first, 0), min(end, SLOTS)
            if first < end:
                found |= (1 << end) - (1 << first)
        return found

    def told(self, bits: int) -> str:
        """For people: day and clock of each run of slots."""
        runs = []
        for filled, group in itertools.groupby(range(SLOTS), lambda slot: bits >> slot & 1):
            slots = list(group)
            if filled:
                runs.append(f"{slots[0] / 48:.2f}..{(slots[-1] + 1) / 48:.2f}")
        return " ".join(runs) or "nothing"


@dataclass(frozen=True)
class State:
    """What stood in a calendar. It came to be between ``begun`` and ``ended``. ``firm`` leaves tentative events out."""

    begun: Instant
    ended: Instant
    busy: int
    firm: int


@dataclass
class Place:
    """A booking of ours as its caller wants it, and where its owner moved its event to after that was written."""

    booking: Booking
    tried: int = 0
    """Slots that any revision of it had."""
    moved: int = 0
    """Slots that its owner ever moved its event to."""
    moves: list[State] = field(default_factory=list)
    """Where its owner has it since this revision was written, if not where its caller wants it."""


def states_since(log: Sequence[State], instant: Instant) -> Sequence[State]:
    """Every state that may have been in force at or after this instant."""
    sure = [number for number, state in enumerate(log) if state.ended <= instant]
    return log[sure[-1] if sure else 0 :]


@dataclass
class Ledger:
    """One calendar as its owner knows it."""

    entries: dict[EventId, Entry] = field(default_factory=dict)
    log: list[State] = field(default_factory=list)
    told_at: Instant = 0
    """When its provider last told of a change, and was heard."""


class Replica:
    """One process of the service, without its doors."""

    def __init__(self, url: str, world: TruthWorld, *, read_threads: int):
        self.store = Store.open(url)
        providers = dict.fromkeys([world.name], world.provider)
        self.grants = Grants(self.store, VAULT, world.clients)
        self.refresher = Refresher(
            self.store,
            self.grants,
            providers,
            read_threads=read_threads,
            horizon_days=400,
            reconcile_s=RECONCILE_S,
            learn=Drifts(self.store).learn,
        )
        self.availability = Availability(
            self.store, self.refresher, call_s=15, max_staleness_s=STALENESS_S, unreadable_retry_s=60
        )
        contents = BookingContents(VAULT)
        self.bookings = Bookings(self.store, contents, self.availability, providers, waiting_most=2, wake=lambda: None)
        # A gate for each round: how long a host that failed is spared is no matter of these histories.
        self.pushes = lambda: Pushes(
            self.store,
            contents,
            self.grants,
            providers,
            HostGate(slow_most=4, opened=lambda connection_ids: None),
            push_s=10,
        )

    def turn(self) -> None:
        """One turn of the worker that keeps the mirror fresh, to its end."""
        refreshing = Refreshing(
            self.store, self.refresher, threads=2, max_staleness_s=STALENESS_S, used_s=7200, read_s=15, poll_s=1
        )
        refreshing._turn()
        refreshing._threads.shutdown(wait=True)

    def push(self) -> None:
        """Push all that is due."""
        pushes = self.pushes()
        while rows := self.store.outbox.claim(limit=10, lease_s=60, mailbox_limit=4):
            for row in rows:
                pushes.push(row)

    def close(self) -> None:
        self.availability.close()
        self.refresher.close()
        self.store.close()


class Truth:
    """See the module. ``url`` is of a database that is up to date."""

    def __init__(self, url: str, world: TruthWorld):
        self.url, self.world = url, world
        self.replicas = [self._replica(number) for number in (0, 1)]
        now = self.store.now()
        self.grid = Grid((now // DAY + 3) * DAY)
        self.caller = Caller(self.store.organizations.ensure(f"acme{next(_names)}"))
        self.connection_id = ConnectionId(f"cal_{next(_names):06}")
        self._connect(now)
        self.ledgers = {calendar_id: Ledger() for calendar_id in world.calendars}
        for ledger in self.ledgers.values():
            ledger.log.append(State(now - 30 * DAY, now - 30 * DAY, 0, 0))
        self.places: dict[BookingId, Place] = {}
        self.troubled = False
        """Whether an answer may be refused."""
        self.lied = False
        """Whether signals of changes may have lied since everything was last read in full."""

    def _replica(self, number: int) -> Replica:
        """The first one reads one calendar after the other, so that a history can be repeated with all its faults."""
        return Replica(self.url, self.world, read_threads=3 * number + 1)

    @property
    def store(self) -> Store:
        return self.replicas[0].store

    def _connect(self, now: Instant) -> None:
        account = self.world.account
        connection = Connection(
            id=self.connection_id,
            organization_id=self.caller.organization_id,
            owner="",
            provider=self.world.name,
            subject=account.subject,
            account_email=account.email,
            calendar_id=self.world.work,
            busy_calendar_ids=self.world.calendars,
            status=ConnectionStatus.ACTIVE,
            sync_status=SyncStatus.CONNECTED,
            sync_error=None,
            last_sync_at=None,
            connected_at=now,
            grant_version=1,
            settings=account.settings,
        )
        self.store.connections.add(connection, self._sealed())

    def _sealed(self) -> str:
        return self.replicas[0].grants.seal(self.connection_id, self.world.secret(self.store.now()))

    @property
    def connection(self) -> Connection:
        found = self.store.connections.get(self.caller.organization_id, self.connection_id)
        assert found is not None
        return found

    def close(self) -> None:
        self.world.orders.heal()
        for replica in self.replicas:
            replica.close()

    # What the owner does.

    def edit(self, calendar_id: CalendarId, do: Callable[[dict[EventId, Entry]], None]) -> None:
        """Do something at the provider that ``do`` also writes down in the entries it is given."""
        ledger = self.ledgers[calendar_id]
        begun = self.store.now()
        do(ledger.entries)
        busy = [each for entry in ledger.entries.values() if not entry.free for each in entry.occurrences()]
        firm = [
            each
            for entry in ledger.entries.values()
            if not entry.free and not entry.tentative
            for each in entry.occurrences()
        ]
        ledger.log.append(State(begun, self.store.now(), self.grid.bits(busy), self.grid.bits(firm)))

    def add(self, calendar_id: CalendarId, entry: Entry) -> None:
        def do(entries: dict[EventId, Entry]) -> None:
            entries[self.world.owner.add(calendar_id, entry)] = entry

        self.edit(calendar_id, do)

    def change(self, calendar_id: CalendarId, event_id: EventId, **changes: object) -> None:
        def do(entries: dict[EventId, Entry]) -> None:
            after = replace(entries[event_id], **changes)  # type: ignore[arg-type]
            self.world.owner.change(calendar_id, event_id, entries[event_id], after)
            entries[event_id] = after

        self.edit(calendar_id, do)

    def delete(self, calendar_id: CalendarId, event_id: EventId) -> None:
        def do(entries: dict[EventId, Entry]) -> None:
            self.world.owner.delete(calendar_id, event_id)
            del entries[event_id]

        self.edit(calendar_id, do)

    # Bookings.

    def sync(self, replica: Replica, booking: Booking) -> None:
        """Send a revision. From the acknowledgement on it counts."""
        replica.bookings.sync(
            self.caller, SyncCommand(booking, Target((self.connection_id,)), require_free=False, wait_s=0)
        )
        place = self.places.setdefault(booking.id, Place(booking))
        place.booking = booking
        place.moves = []
        if booking.status is BookingStatus.CONFIRMED:
            place.tried |= self.grid.bits([Interval(booking.start, booking.end)])

    def written(self, booking_id: BookingId) -> tuple[EventId, EventState]:
        """The provider's id of a booking's event, empty if it has none, and how far it is."""
        (row,) = self.store.outbox.of_booking(self.caller.organization_id, booking_id)
        return EventId(row.event_id), row.state

    def owner_moves(self, booking_id: BookingId, to: Interval) -> None:
        """The owner moves our event, if it is there."""
        event_id, state = self.written(booking_id)
        if not event_id or not self.world.owner.has(self.world.work, event_id):
            return
        begun = self.store.now()
        self.world.owner.move(self.world.work, event_id, to)
        self.places[booking_id].moved |= self.grid.bits([to])
        if state is EventState.SYNCED:
            self._moved(booking_id, begun, self.grid.bits([to]))

    def owner_deletes(self, booking_id: BookingId) -> None:
        """The owner deletes our event, if it is there. The appointment stands all the same."""
        event_id, _ = self.written(booking_id)
        if event_id and self.world.owner.has(self.world.work, event_id):
            begun = self.store.now()
            self.world.owner.delete(self.world.work, event_id)
            self._moved(booking_id, begun, 0)

    def _moved(self, booking_id: BookingId, begun: Instant, to: int) -> None:
        moves = self.places[booking_id].moves
        if not moves:
            moves.append(State(0, 0, 0, 0))
        moves.append(State(begun, self.store.now(), to, to))

    # Time, faults, processes.

    def pass_time(self, seconds: float) -> None:
        """Everything that was, was that much earlier."""
        earlier = round(seconds * SECOND)
        database = self.store._database
        with database.transaction():
            for table, columns in _INSTANTS.items():
                for column in columns:
                    database.execute(f"UPDATE {table} SET {column} = {column} - ? WHERE {column} > 0", earlier)
            database.touch([self.connection_id])
        for ledger in self.ledgers.values():
            ledger.log = [replace(each, begun=each.begun - earlier, ended=each.ended - earlier) for each in ledger.log]
            ledger.told_at -= earlier
        for place in self.places.values():
            place.moves = [
                replace(each, begun=each.begun - earlier, ended=each.ended - earlier) for each in place.moves
            ]

    def spoil(self, kind: Kind, skip: int, times: int) -> None:
        self.troubled = True
        self.world.orders.spoil(kind, skip=skip, times=times)

    def heal(self) -> None:
        """Nothing fails any more, and nobody has to wait because something failed."""
        self.world.orders.heal()
        if self.connection.status is ConnectionStatus.NEEDS_REAUTH:
            account = self.world.account
            with self.store.transaction():
                self.store.connections.renew(
                    self.connection_id,
                    sealed_grant=self._sealed(),
                    account_email=account.email,
                    settings=account.settings,
                )
                self.store.outbox.make_due(self.connection_id, self.store.now())
        self.pass_time(7200)
        self.troubled = False

    def tell(self, calendar_id: CalendarId) -> None:
        """The provider tells of a change, and the service hears it."""
        at = self.store.now()
        self.store.mirror.note_change(self.connection_id, calendar_id, at)
        self.ledgers[calendar_id].told_at = at

    def restart(self, number: int) -> None:
        """A process ends, and another one begins."""
        self.replicas[number].close()
        self.replicas[number] = self._replica(number)

    # Answers.

    def ask(self, replica: Replica, query: BusyQuery, *, seconds: float | None = None) -> BusyAnswer | None:
        """Ask, and hold what comes against the model. None: it was refused, as documented."""
        caller = self.caller if seconds is None else replace(self.caller, deadline=Deadline.after(seconds))
        asked_at = self.store.now()
        read_in_full = self._read_in_full()
        try:
            answer = replica.availability.get_busy(caller, query)
        except BusyUnknown as unknown:
            self._check_refusal(unknown, query, asked_at)
            return None
        self._check(answer, query, asked_at, read_in_full)
        return answer

    def ask_all(self, query: BusyQuery) -> None:
        """Ask all replicas at once."""
        with ThreadPoolExecutor(len(self.replicas)) as threads:
            list(threads.map(lambda replica: self.ask(replica, query), self.replicas))

    def query(self, window: Interval | None = None, **more: object) -> BusyQuery:
        return BusyQuery(Target((self.connection_id,)), window or self.grid.whole, **more)  # type: ignore[arg-type]

    def _read_in_full(self) -> dict[CalendarId, Instant]:
        return {row.calendar_id: row.full_at for row in self.store.mirror.busy([self.connection_id])}

    def _check_refusal(self, unknown: BusyUnknown, query: BusyQuery, asked_at: Instant) -> None:
        assert self.troubled, f"refused though nothing is wrong: {unknown.first!r}"
        assert not query.allow_partial
        assert unknown.first.reason in DOCUMENTED, unknown.first.reason
        assert unknown.metadata["connectionId"] == self.connection_id
        failed = {calendar.calendar_id: calendar for calendar in unknown.calendars}
        assert len(failed) == len(unknown.calendars)
        first = failed[CalendarId(unknown.metadata["calendarId"])]
        assert first.problem is not None
        assert first.problem.reason == unknown.first.reason
        reasons = []
        for calendar in unknown.calendars:
            assert calendar.problem is not None
            reasons.append(calendar.problem.reason)
            self._check_state(calendar, query, asked_at)
        assert (unknown.first.reason in NEEDS_PERSON) == bool(NEEDS_PERSON & set(reasons))

    def _check_state(self, calendar: CalendarBusy, query: BusyQuery, asked_at: Instant) -> None:
        assert calendar.connection_id == self.connection_id
        ledger = self.ledgers[calendar.calendar_id]
        assert calendar.problem is None or calendar.problem.reason in DOCUMENTED
        staleness = STALENESS_S if query.max_staleness_s is None else query.max_staleness_s
        if calendar.state is BusyState.FRESH:
            assert calendar.as_of is not None
            assert calendar.as_of >= asked_at - staleness * SECOND
            assert calendar.as_of > ledger.told_at, "an answer rests on a read before a change that it was told of"
            assert calendar.as_of <= self.store.now()
        elif calendar.state is BusyState.STALE:
            assert calendar.as_of is not None
            assert calendar.as_of > asked_at - 24 * HOUR
            assert calendar.problem is not None
        else:
            assert calendar.as_of is None
            assert calendar.problem is not None

    def _check(
        self, answer: BusyAnswer, query: BusyQuery, asked_at: Instant, read_in_full: dict[CalendarId, Instant]
    ) -> None:
        window = self.grid.bits([query.window])
        good = all(each.state is BusyState.FRESH and each.problem is None for each in answer.calendars)
        assert answer.complete == good
        assert answer.complete or (query.allow_partial and self.troubled)
        assert [each.calendar_id for each in answer.calendars] == list(self.world.calendars)
        least = most = 0
        for calendar in answer.calendars:
            self._check_state(calendar, query, asked_at)
            must, may = self.bounds(calendar, query, read_in_full.get(calendar.calendar_id, 0))
            least, most = least | must, most | may
            if query.view is not BusyView.MERGED:
                self._compare(self._bits(calendar.busy, query.window), must & window, may & window, calendar)
        self._compare(self._bits(answer.busy, query.window), least & window, most & window, answer)

    def _bits(self, busy: Sequence[Interval], window: Interval) -> int:
        for one, other in itertools.pairwise(busy):
            assert one.end < other.start, "not merged"
        for each in busy:
            assert window.start <= each.start < each.end <= window.end, "not clipped"
        return self.grid.bits(busy)

    def _compare(self, bits: int, must: int, may: int, told: object) -> None:
        assert not must & ~bits, f"told as free, but busy: {self.grid.told(must & ~bits)}{self._report(told)}"
        assert not bits & ~may, f"told as busy, but free: {self.grid.told(bits & ~may)}{self._report(told)}"

    def _report(self, told: object) -> str:
        """What is known of everything, in seconds from now and days of the grid."""
        now = self.store.now()

        def ago(instant: Instant) -> str:
            return f"{(instant - now) / SECOND:.3f}" if instant else "never"

        lines = [f"\nanswer {told}", f"troubled {self.troubled}, lied {self.lied}"]
        for row in self.store.mirror.busy([self.connection_id]):
            lines.append(
                f"row {row.calendar_id}: as of {ago(row.as_of)}, in full {ago(row.full_at)}, told {ago(row.changed_at)}, "
                f"failed {ago(row.failed_at)} {row.problem_reason} {row.failures}, version {row.content_version}"
            )
        for calendar_id, ledger in self.ledgers.items():
            lines += [
                f"{calendar_id} {ago(state.begun)}..{ago(state.ended)}: {self.grid.told(state.busy)}"
                for state in ledger.log
            ]
        for booking_id, place in self.places.items():
            lines.append(
                f"{booking_id} {place.booking.status} {self.grid.told(place.tried)}, {self.written(booking_id)}, moved "
                f"{[(ago(each.ended), self.grid.told(each.busy)) for each in place.moves]}"
            )
        return "\n".join(lines)

    def bounds(self, calendar: CalendarBusy, query: BusyQuery, full_at: Instant) -> tuple[int, int]:
        """What has to be busy in this calendar's answer, and what may be."""
        must = may = 0
        since: Instant | None = None
        lying = False
        if calendar.as_of is not None:
            read_now = query.max_staleness_s == 0 and calendar.state is BusyState.FRESH
            lying = self.lied and full_at > 0 and not read_now
            since = min(calendar.as_of, full_at) if lying else calendar.as_of
            states = states_since(self.ledgers[calendar.calendar_id].log, since)
            found = [state.firm if query.ignore_tentative else state.busy for state in states]
            must, may = functools.reduce(operator.and_, found), functools.reduce(operator.or_, found)
        if calendar.calendar_id == self.world.work:
            own_must, own_may = self._ours(since, query, lying=lying)
            if calendar.state is BusyState.STALE or lying:
                own_may |= functools.reduce(operator.or_, map(self._under_former_ids, self.places), 0)
            must, may = must | own_must, may | own_may
        return must, may

    def _ours(self, since: Instant | None, query: BusyQuery, *, lying: bool) -> tuple[int, int]:
        """The same for bookings. Where the feed is ``lying``, one that was moved may still be seen where it was before."""
        must = may = 0
        for booking_id, place in self.places.items():
            booking = place.booking
            may |= self._nameless(booking_id)
            if booking.status is not BookingStatus.CONFIRMED or booking_id in query.exclude_booking_ids:
                continue
            wanted = self.grid.bits([Interval(booking.start, booking.end)])
            must, may = must | wanted, may | wanted | (place.tried | place.moved if lying else 0)
            if place.moves and since is not None:
                found = [state.busy for state in states_since(place.moves, since)]
                must |= functools.reduce(operator.and_, found)
                may |= functools.reduce(operator.or_, found)
        return must, may

    def _under_former_ids(self, booking_id: BookingId) -> int:
        """Where an old read may have an event of ours under an id that it has no more: what stands there is read again,
        unless that fails or the feed says that nothing has changed."""
        (row,) = self.store.outbox.of_booking(self.caller.organization_id, booking_id)
        place = self.places[booking_id]
        return place.tried | place.moved if row.generation > 1 else 0

    def _nameless(self, booking_id: BookingId) -> int:
        """Where an event of ours may stand that nobody knows as ours yet: it was written, and the answer was lost."""
        event_id, state = self.written(booking_id)
        removed = state is EventState.REMOVED
        return 0 if self.world.knows_ids_ahead or event_id or removed else self.places[booking_id].tried

    # The end of a history.

    def reconcile(self) -> None:
        """Once everything works again, and was read in full once, answers are exactly what is there."""
        self.heal()
        replica = self.replicas[0]
        replica.push()
        self.pass_time(RECONCILE_S + 1)
        query = self.query(view=BusyView.EXPLAINED)
        answer = self.ask(replica, query)
        assert answer is not None
        assert answer.complete
        full_at = self._read_in_full()
        assert all(full_at[each.calendar_id] == each.as_of for each in answer.calendars)
        self.lied = False
        self._check_exactly(answer, query)
        # What was read in full holds for answers of the other replica, and of every view.
        for each in self.replicas:
            for view in BusyView:
                again = self.ask(each, replace(query, view=view))
                assert again is not None
                assert again.busy == answer.busy

    def _check_exactly(self, answer: BusyAnswer, query: BusyQuery) -> None:
        with self.replicas[0].grants.use(self.connection) as link:
            for calendar in answer.calendars:
                must, may = self.bounds(calendar, query, 0)
                for booking_id in self.places:
                    may &= ~self._nameless(booking_id) | must
                self._compare(self.grid.bits(calendar.busy), must, may, calendar)
                assert must == may, "the model knows no single truth"
                read = self.world.provider.read_calendar(link, calendar.calendar_id, query.window, Deadline.after(20))
                self._check_read(calendar, read, query.window)

    def _check_read(self, calendar: CalendarBusy, read: CalendarRead, window: Interval) -> None:
        """Against a fresh read of everything: others' events one by one, and all that blocks together."""
        ours = {self.written(booking_id)[0] for booking_id in self.places} - {EventId("")}
        ours |= {row.event_id for row in self.store.outbox.ours([self.connection_id])}
        there = Counter(
            (max(event.start, window.start), min(event.end, window.end), event.reason)
            for event in read.events
            if event.event_id not in ours and touches(Interval(event.start, event.end), window)
        )
        told = Counter(
            (event.interval.start, event.interval.end, event.reason)
            for event in calendar.events
            if not event.booking_id and event.interval is not None
        )
        assert told == there


_INSTANTS = {
    "busy": ("as_of", "full_at", "used_at", "changed_at", "failed_at", "retry_at"),
    "busy_content": ("read_at",),
    "outbox": ("due_at", "lease_until", "updated_at", "pushed_at"),
    "leases": ("lease_until",),
}


@contextmanager
def running(url: str, world: TruthWorld) -> Iterator[Truth]:
    truth = Truth(url, world)
    try:
        yield truth
    finally:
        truth.close()
