"""Keeping the mirror fresh: one refresh of a connection at a time, shared by all who need it.

Vocabulary
    need     calendars of one connection that somebody wants read, not earlier than some instant
    flight   the refresh of one connection under way in this process; who needs no more than it brings waits for it
    round    the flights that one caller begins together: their leases are taken, and their results stored, together
    full     reading a calendar without asking its feed whether that is necessary: feeds lie, and leave holes

Across processes a lease says who refreshes a connection. It saves requests; it is not what makes answers true: a result is
stored only over an older one, and who waited for another's lease in vain reads for itself.

``as_of`` of a result is the database's time before anything was asked.
"""

from __future__ import annotations

import contextvars
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from calendar_server.core.model import (
    DAY,
    SECOND,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    EventId,
    Instant,
    Interval,
    ProviderName,
)
from calendar_server.core.packing import PackedRead, Unpackable, opened, unpack_content, unpack_track
from calendar_server.errors import CalendarError, NotFound, ProviderUnavailable, StoreUnavailable
from calendar_server.metrics import REFRESHES, Metrics
from calendar_server.providers.base import MEMORY_BYTES, Deadline, Provider, Remembered
from calendar_server.store.mirror import BusyRow, Content, Learned
from calendar_server.store.rows import SealedGrant
from calendar_server.store.store import Store
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.hosts import host_of
from calendar_server.usecases.landing import Landing, Turn
from calendar_server.usecases.lanes import Lanes

_log = logging.getLogger(__name__)

Key = tuple[ConnectionId, CalendarId]
"""One calendar of one connection."""

LEASE_S = 20.0
"""Seconds that others leave a connection to whoever refreshes it; longer than a call converses with providers."""
LOOK_S = 0.05
"""Seconds between two looks at what another process is refreshing."""
GATHER_S = 0.02
"""Seconds in which results of a round are gathered before they are stored together."""
ANSWER_S = 0.05
"""Seconds past a caller's deadline within which a read that has just ended still counts."""
GRANT_S = 1.0
"""Seconds for which a grant that was read for the whole round is used. Whoever waits longer for a thread reads its own."""
BACKOFF_S, BACKOFF_MOST_S = 5.0, 600.0
"""Seconds before the worker tries a failing calendar again; doubled with each failure, up to the most."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a read of ``window`` that began at ``as_of`` found. ``read`` unpacks it, for those who need it."""

    connection_id: ConnectionId
    calendar_id: CalendarId
    read: Callable[[], CalendarRead]
    as_of: Instant
    window: Interval


Learn = Callable[[Sequence[Found]], None]
"""Told of the reads that went well."""


@dataclass(frozen=True, slots=True)
class Need:
    """Calendars of one connection that have to be read."""

    connection: Connection
    calendar_ids: tuple[CalendarId, ...]


@dataclass(frozen=True, slots=True)
class Unsaved:
    """What a read found and the database could not take: good for those who waited for it, and for nobody else."""

    row: BusyRow
    read: CalendarRead


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a refresh came to: the calendars that could not be read, and those whose reads could not be stored.

    ``landed_at`` (``time.monotonic``): all others were stored by then. ``failed_at``: when it was known of those that a
    read ended for in failure.
    """

    errors: dict[Key, CalendarError] = field(default_factory=dict)
    failed_at: dict[Key, float] = field(default_factory=dict)
    unsaved: dict[Key, Unsaved] = field(default_factory=dict)
    landed_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Flight:
    need: Need
    began_at: Instant
    not_before: Instant
    wanted: Interval
    """What its beginner wants to know. ``window``, what is read for it, holds that and the horizon."""
    window: Interval
    full: bool
    deadline: Deadline
    time_s: float
    """Seconds that there were at its beginning."""
    done: Landing = field(default_factory=Landing)
    landed_at: float = 0.0
    """``time.monotonic``; all that it brought was stored by then."""
    errors: dict[CalendarId, CalendarError] = field(default_factory=dict)
    unsaved: dict[CalendarId, Unsaved] = field(default_factory=dict)
    broken: BaseException | None = None

    def met_by(self, row: BusyRow | None) -> bool:
        """Whether this calendar has been read already as the flight is to read it, by another that ended meanwhile."""
        return (
            row is not None
            and row.as_of >= self.not_before
            and row.changed_at < row.as_of
            and (not self.full or row.full_at >= self.not_before)
            and row.window.start <= self.wanted.start
            and self.wanted.end <= row.window.end
            and _sound(row)
        )

    def serves(self, need: Need, window: Interval, not_before: Instant, full: bool) -> bool:
        """Whether whoever needs this may wait for the flight instead of beginning one."""
        return (
            self.began_at >= not_before
            and (self.full or not full)
            and set(need.calendar_ids) <= set(self.need.calendar_ids)
            and self.window.start <= window.start
            and window.end <= self.window.end
        )


class _Known(NamedTuple):
    """What is stored of a calendar. ``content`` None: there is none, or it is too large to be read with those of others."""

    row: BusyRow | None
    content: Content | None


@dataclass(frozen=True, slots=True)
class _Result:
    """What reading one calendar came to."""

    window: Interval
    full: bool
    before_version: int
    memory: bytes | None
    """None: as before."""
    found: CalendarRead | PackedRead
    """What stands there now. With ``content`` None it is what stood there before."""
    intervals: bytes
    content: bytes | None
    event_ids: Callable[[], frozenset[EventId] | None] | None = None
    """What ``found`` lacks."""

    def read(self) -> CalendarRead:
        """``found``, unpacked."""
        read = opened(self.found)
        return read if self.event_ids is None else replace(read, event_ids=self.event_ids())


class Refresher:
    """Reads calendars and stores what they hold.

    ``horizon_days``: how far ahead is read. ``reconcile_s``: after this many seconds a calendar is read in full, whatever
    its feed says. ``read_threads``: conversations with providers at once.
    """

    def __init__(
        self,
        store: Store,
        grants: Grants,
        providers: Mapping[ProviderName, Provider],
        *,
        read_threads: int,
        horizon_days: int,
        reconcile_s: float,
        learn: Learn,
        metrics: Metrics | None = None,
    ):
        self._store = store
        self._grants = grants
        self._providers = providers
        self._horizon = horizon_days * DAY
        self._reconcile = round(reconcile_s * SECOND)
        self._learn = learn
        self._metrics = metrics or Metrics()
        # Three quarters: a host that hangs, with however many connections, leaves the rest to the others.
        self._threads: Lanes[_Result] = Lanes(read_threads, max(1, read_threads * 3 // 4), "read")
        self._lock = threading.Lock()
        self._flights: dict[ConnectionId, _Flight] = {}

    def close(self) -> None:
        """End the reading threads; reads that have not begun are dropped."""
        self._threads.close()

    def horizon(self, connection_id: ConnectionId, now: Instant) -> Interval:
        """What is kept of a connection's calendars: from a day back, and a day more than the horizon ahead.

        It moves once a day, at an hour of the connection's own, so that not all are read anew at midnight.
        """
        hour = int.from_bytes(hashlib.sha256(connection_id.encode()).digest()[:4], "big") % 24
        start = (now - hour * DAY // 24) // DAY * DAY + hour * DAY // 24
        return Interval(start - DAY, start + self._horizon + DAY)

    def refresh(
        self,
        needs: Sequence[Need],
        window: Interval,
        *,
        not_before: Instant,
        full: bool,
        deadline: Deadline,
        turn: Turn | None = None,
    ) -> Outcome:
        """Bring calendars up to date by reads that begin at or after ``not_before``.

        What is read covers ``window``. Of those who waited for the same flights one goes on as another's ``turn`` ends.
        Raises ``StoreUnavailable`` when the database cannot even be read.
        """
        with nullcontext(turn) if turn is not None else Turn() as turn:
            outcome = Outcome()
            errors = outcome.errors
            landed_at = 0.0
            left = list(needs)
            while left:
                now = self._store.now()
                begun: list[_Flight] = []
                shared: list[tuple[Need, _Flight, bool]] = []
                with self._lock:
                    for need in left:
                        flight = self._flights.get(need.connection.id)
                        if flight is None and deadline.remaining() <= 0:
                            # Nothing is begun that cannot end well: it would count as its provider's failure.
                            errors.update(dict.fromkeys(_keys(need), _too_long()))
                        elif flight is None:
                            wide = _union(self.horizon(need.connection.id, now), window)
                            flight = _Flight(need, now, not_before, window, wide, full, deadline, deadline.remaining())
                            self._flights[need.connection.id] = flight
                            begun.append(flight)
                        else:
                            shared.append((need, flight, flight.serves(need, window, not_before, full)))
                if begun:
                    turn.end()
                    self._fly(begun, deadline)
                left = []
                for flight in begun:
                    if flight.broken is not None:
                        raise flight.broken
                    _gather(flight, outcome)
                    landed_at = max(landed_at, flight.landed_at)
                for need, flight, serves in shared:
                    landed = turn.wait(flight.done, deadline.remaining() + ANSWER_S)
                    if not landed:
                        errors.update(dict.fromkeys(_keys(need), _too_long()))
                    elif (
                        not serves
                        or flight.broken is not None
                        or (flight.errors and flight.time_s < deadline.remaining())
                    ):
                        # It brought less than is needed here, or failed with less time than is left here. Whoever came
                        # with as much time as the flight had has less by now, so a provider that is down is not asked
                        # again by one after another.
                        if deadline.remaining() > 0:
                            left.append(need)
                        else:
                            errors.update(dict.fromkeys(_keys(need), _too_long()))
                    else:
                        _gather(flight, outcome)
                        landed_at = max(landed_at, flight.landed_at)
            wanted_keys = {key for need in needs for key in _keys(need)}
            return Outcome(
                {key: error for key, error in errors.items() if key in wanted_keys},
                {key: at for key, at in outcome.failed_at.items() if key in wanted_keys},
                {key: unsaved for key, unsaved in outcome.unsaved.items() if key in wanted_keys},
                landed_at,
            )

    def _fly(self, flights: Sequence[_Flight], deadline: Deadline) -> None:
        """One round. Every flight has landed when this returns."""
        names = {_lease(flight): flight for flight in flights}
        token = ""
        try:
            try:
                token, taken = self._store.leases.take_many(list(names), LEASE_S)
            except StoreUnavailable:
                # It cannot be written to, a full disk say. Reads go on; at worst somebody else makes the same one.
                taken = set(names)
            mine = [flight for name, flight in names.items() if name in taken]
            others = [flight for name, flight in names.items() if name not in taken]
            self._read_all(mine, token, deadline)
            patience = deadline.remaining() / 2
            for flight in others:
                self._await_other(flight, deadline, time.monotonic() + patience)
        except BaseException as error:
            for flight in flights:
                if not flight.done.landed:
                    flight.broken = error
            with suppress(StoreUnavailable):
                self._store.leases.give_back_many(names, token)
        finally:
            self._land(flights)

    def _await_other(self, flight: _Flight, deadline: Deadline, until: float) -> None:
        """Another process refreshes this connection. Wait for what it brings; in vain, read here as well."""
        need, name = flight.need, _lease(flight)
        while True:
            rows = {row.calendar_id: row for row in self._store.mirror.busy([need.connection.id])}
            if all(flight.met_by(rows.get(each)) for each in need.calendar_ids):
                self._land([flight])
                return
            token, taken = self._store.leases.take_many([name], LEASE_S)
            if taken or time.monotonic() > until:
                self._read_all([flight], token, deadline)
                return
            time.sleep(min(LOOK_S, deadline.remaining()))

    def _read_all(self, flights: Sequence[_Flight], token: str, deadline: Deadline) -> None:
        """Read the calendars of these flights in parallel; store, and land each flight, as they end."""
        if not flights:
            return
        rows = {
            (row.connection_id, row.calendar_id): row
            for row in self._store.mirror.busy([flight.need.connection.id for flight in flights])
        }
        contents = self._store.mirror.small_contents([flight.need.connection.id for flight in flights])
        granted_at = time.monotonic()
        grants = self._store.connections.grants([flight.need.connection.id for flight in flights])
        running: dict[Future[_Result], tuple[_Flight, CalendarId]] = {}
        open_calendars: dict[_Flight, int] = {}
        results: dict[_Flight, dict[CalendarId, _Result | CalendarError]] = {}
        for flight in flights:
            connection = flight.need.connection
            # Whoever looked at the mirror before the last flight landed, and came here after, finds what it needs.
            lacking = [each for each in flight.need.calendar_ids if not flight.met_by(rows.get((connection.id, each)))]
            open_calendars[flight] = len(lacking)
            results[flight] = {}
            for calendar_id in lacking:
                context = contextvars.copy_context()
                known = _Known(rows.get((connection.id, calendar_id)), contents.get((connection.id, calendar_id)))
                grant = grants.get(connection.id)
                work = partial(context.run, self._read, flight, calendar_id, known, grant, granted_at)
                future = self._threads.submit(host_of(connection), work)
                running[future] = (flight, calendar_id)
        ended = [flight for flight in flights if not open_calendars[flight]]
        store_at = time.monotonic()
        while running or ended:
            if ended and (not running or time.monotonic() >= store_at):
                self._store_results(ended, results, token)
                self._land(ended)
                ended = []
                continue
            until = min(store_at, deadline.at + ANSWER_S) if ended else deadline.at + ANSWER_S
            # Seldom, for each time this thread has to get the interpreter from those that read.
            whole = ALL_COMPLETED if ended else FIRST_COMPLETED
            done, _ = wait(running, timeout=max(0.0, until - time.monotonic()), return_when=whole)
            if not done and time.monotonic() >= deadline.at + ANSWER_S:
                done = set(running)
            for future in done:
                flight, calendar_id = running.pop(future)
                results[flight][calendar_id] = _outcome(future)
                open_calendars[flight] -= 1
                if not open_calendars[flight]:
                    if not ended:
                        store_at = time.monotonic() + GATHER_S
                    ended.append(flight)

    def _read(
        self,
        flight: _Flight,
        calendar_id: CalendarId,
        known: _Known,
        grant: SealedGrant | None,
        granted_at: float,
    ) -> _Result:
        """Read one calendar, in a reading thread. ``grant`` was read at ``granted_at`` (``time.monotonic``)."""
        deadline, connection, row = flight.deadline, flight.need.connection, known.row
        deadline.check()
        before = self._remembered(flight, calendar_id, known)
        window = flight.window if before is None else before.window
        provider = self._providers[connection.provider]
        if time.monotonic() - granted_at > GRANT_S:
            grant = None
        with self._grants.use(connection, grant=grant) as link:
            refreshed = provider.refresh_calendar(link, calendar_id, window, before, deadline)
        version = 0 if row is None else row.content_version
        memory = refreshed.memory if len(refreshed.memory) <= MEMORY_BYTES else b""
        read = refreshed.read
        if read is None:
            if row is None or before is None or (before.full and refreshed.event_ids is None):
                raise ProviderUnavailable("The provider's answer rests on what is not known.")
            kept = None if memory == before.memory else memory
            return _Result(window, before.full, version, kept, before.read, row.intervals, None, refreshed.event_ids)
        packed = read if isinstance(read, PackedRead) else PackedRead.of(read)
        full = before is None or before.full
        return _Result(window, full, version, memory, read, packed.intervals, packed.content)

    def _remembered(self, flight: _Flight, calendar_id: CalendarId, known: _Known) -> Remembered | None:
        """What the provider may build upon, or compare with; None where there is nothing."""
        row, content = known
        if row is None or not row.as_of:
            return None
        full = flight.full or flight.began_at - row.full_at >= self._reconcile
        if full and row.window != flight.window:
            # What somebody once wanted to know far off is not read for ever.
            return None
        if not (row.window.start <= flight.window.start and flight.window.end <= row.window.end):
            return None
        if content is None:
            content = self._store.mirror.content(flight.need.connection.id, calendar_id)
        if content is None or content.version != row.content_version:
            return None
        if not _sound(row):
            return None
        try:
            return Remembered(row.window, unpack_content(content.events), content.memory, full)
        except Unpackable:
            return None

    def _store_results(
        self,
        flights: Iterable[_Flight],
        results: Mapping[_Flight, Mapping[CalendarId, _Result | CalendarError]],
        token: str,
    ) -> None:
        """Store what a number of flights brought, and end their leases; learn what it says of our events."""
        landed = sorted(flights, key=lambda flight: flight.need.connection.id)
        for flight in landed:
            found = results[flight].items()
            flight.errors = {each: result for each, result in found if isinstance(result, CalendarError)}
            for _, result in found:
                self._count(flight.need.connection, result)
        try:
            live = self._save(landed, results, token)
        except StoreUnavailable:
            # A full disk, say. What was read is true all the same, and answers those who wait for it.
            live = self._store.connections.blocking([flight.need.connection.id for flight in landed])
            _log.warning("reads_not_saved")
            for flight in landed:
                flight.unsaved = _unsaved(flight, results[flight])
        told: list[Found] = []
        for flight in landed:
            connection_id = flight.need.connection.id
            if connection_id not in live:
                flight.errors = dict.fromkeys(flight.need.calendar_ids, _disconnected())
                continue
            for calendar_id, result in results[flight].items():
                if isinstance(result, CalendarError) or flight.unsaved:
                    continue
                if result.full or result.content is not None:
                    told.append(Found(connection_id, calendar_id, result.read, flight.began_at, result.window))
        self._learn(told)

    def _save(
        self,
        landed: Sequence[_Flight],
        results: Mapping[_Flight, Mapping[CalendarId, _Result | CalendarError]],
        token: str,
    ) -> Mapping[ConnectionId, frozenset[CalendarId]]:
        """One transaction. Answers the connections that still live, and what blocks in them."""
        ids = [flight.need.connection.id for flight in landed]
        learned = [
            Learned(
                flight.need.connection.id,
                calendar_id,
                flight.began_at,
                result.window,
                result.full,
                result.before_version,
                result.intervals,
                result.content,
                result.memory,
            )
            for flight in landed
            for calendar_id, result in results[flight].items()
            if isinstance(result, _Result)
        ]
        with self._store.transaction():
            self._store.connections.lock(ids)
            live = self._store.connections.blocking(ids)
            now = self._store.now()
            # What has been disconnected meanwhile, or no longer blocks, is not kept.
            self._store.mirror.learn([each for each in learned if each.calendar_id in live.get(each.connection_id, ())])
            for flight in landed:
                self._note_failures(flight, live.get(flight.need.connection.id, frozenset()), now)
            self._grants.note_well([flight.need.connection for flight in landed if not flight.errors], now)
            self._store.leases.give_back_many([_lease(flight) for flight in landed], token)
        return live

    def _count(self, connection: Connection, result: _Result | CalendarError) -> None:
        provider = str(connection.provider)
        if isinstance(result, CalendarError):
            self._metrics.count(REFRESHES, provider, "failed", result.reason)
            _log.info(
                "refresh_failed", extra={"connection": connection.id, "provider": provider, "reason": result.reason}
            )
            return
        outcome = "full" if result.full else "unchanged" if result.content is None else "changed"
        self._metrics.count(REFRESHES, provider, outcome, "OK")

    def _note_failures(self, flight: _Flight, blocking: frozenset[CalendarId], now: Instant) -> None:
        failed = {each: error for each, error in flight.errors.items() if each in blocking}
        rows = self._store.mirror.busy([flight.need.connection.id]) if failed else []
        rows_by_id = {row.calendar_id: row for row in rows}
        for calendar_id, error in failed.items():
            failures = rows_by_id[calendar_id].failures if calendar_id in rows_by_id else 0
            wait_s = min(BACKOFF_S * 2.0 ** min(failures, 10), BACKOFF_MOST_S)
            if error.retry_after_s is not None:
                wait_s = max(wait_s, error.retry_after_s)
            self._store.mirror.fail(
                flight.need.connection.id,
                calendar_id,
                at=now,
                retry_at=now + round(wait_s * SECOND),
                reason=error.reason,
                message=error.message,
            )

    def _land(self, flights: Sequence[_Flight]) -> None:
        """Let those go on who wait for these flights; what these brought is stored."""
        at = time.monotonic()
        with self._lock:
            for flight in flights:
                flight.landed_at = flight.landed_at or at
                if self._flights.get(flight.need.connection.id) is flight:
                    del self._flights[flight.need.connection.id]
        for flight in flights:
            flight.done.land()


def _unsaved(flight: _Flight, results: Mapping[CalendarId, _Result | CalendarError]) -> dict[CalendarId, Unsaved]:
    connection_id = flight.need.connection.id
    return {
        calendar_id: Unsaved(
            BusyRow(connection_id, calendar_id, flight.began_at, window=result.window, intervals=result.intervals),
            result.read(),
        )
        for calendar_id, result in results.items()
        if isinstance(result, _Result)
    }


def _sound(row: BusyRow) -> bool:
    """Whether the row can be read. One of another release, or a damaged one, is replaced, not confirmed."""
    try:
        unpack_track(row.intervals)
    except Unpackable:
        return False
    return True


def _outcome(future: Future[_Result]) -> _Result | CalendarError:
    if not future.done():
        future.cancel()
        return _too_long()
    try:
        return future.result()
    except StoreUnavailable:
        # Our own database, not this calendar: the whole call cannot be answered.
        raise
    except CalendarError as error:
        return error.without_frames()
    except Exception:
        # Whatever went wrong in reading, the calendar is unknown; it must not take the others with it.
        _log.exception("read_failed")
        return ProviderUnavailable("The calendar could not be read, for a reason inside this service.")


def _gather(flight: _Flight, outcome: Outcome) -> None:
    connection_id = flight.need.connection.id
    outcome.errors.update({(connection_id, each): error for each, error in flight.errors.items()})
    outcome.failed_at.update({(connection_id, each): flight.landed_at for each in flight.errors})
    outcome.unsaved.update({(connection_id, each): unsaved for each, unsaved in flight.unsaved.items()})


def _keys(need: Need) -> list[Key]:
    return [(need.connection.id, calendar_id) for calendar_id in need.calendar_ids]


def _lease(flight: _Flight) -> str:
    return f"refresh:{flight.need.connection.id}"


def _union(one: Interval, other: Interval) -> Interval:
    return Interval(min(one.start, other.start), max(one.end, other.end))


def _too_long() -> CalendarError:
    return ProviderUnavailable("The provider took too long to answer.")


def _disconnected() -> CalendarError:
    return NotFound("There is no such connection. List shows the ones there are.")
