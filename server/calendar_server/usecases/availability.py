"""When connections are busy. Unknown is not free: what could not be read is an error, or is told as unknown."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from calendar_server.core.availability import Options, Ours, Overlay, Verdict, blocked, unreadable, verdicts
from calendar_server.core.intervals import merge
from calendar_server.core.model import (
    SECOND,
    BookingId,
    BusyState,
    BusyView,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    EventId,
    Instant,
    Interval,
    ProviderName,
)
from calendar_server.errors import CalendarError, EventUnreadable, NotFound, ProviderUnavailable, StoreUnavailable
from calendar_server.providers.base import Deadline, Provider
from calendar_server.store.store import Store
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, CalendarBusy, ExplainedEvent, Problem
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.targets import resolve
from calendar_server.usecases.watching import Changes, Signals, Watching

_log = logging.getLogger(__name__)

ANSWER_S = 0.2
"""Seconds of the caller's deadline that are kept for making the answer."""


class BusyUnknown(CalendarError):
    """Calendars could not be read: unknown is not free.

    ``first`` is the error that decides code, reason and metadata (with ``connectionId`` and ``calendarId``); it is the
    first that needs a person, else the first. ``calendars`` are all that could not be read.
    """

    def __init__(self, first: CalendarError, calendars: tuple[CalendarBusy, ...]):
        super().__init__(first.message, metadata=first.metadata, retry_after_s=first.retry_after_s)
        self.first = first
        self.calendars = calendars


Key = tuple[ConnectionId, CalendarId]
"""One calendar of one connection."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What a round of reads found, per calendar in the order asked: a read, or why there is none."""

    as_of: Instant
    found: Mapping[Key, CalendarRead | CalendarError]


class Availability:
    """Reads calendars in parallel and lays committed bookings over them."""

    def __init__(
        self,
        store: Store,
        grants: Grants,
        providers: Mapping[ProviderName, Provider],
        *,
        call_s: float,
        read_threads: int,
        unreadable_retry_s: float,
        watch_heartbeat_s: float = 15.0,
        changes: Changes | None = None,
    ):
        self._store = store
        self._grants = grants
        self._providers = providers
        self._call_s = call_s
        self._unreadable_retry_s = unreadable_retry_s
        self._threads = ThreadPoolExecutor(read_threads, thread_name_prefix="read")
        self._watching = Watching(self.get_busy, changes or Signals(), heartbeat_s=watch_heartbeat_s)

    def close(self) -> None:
        """End the reading threads; reads that have not begun are dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def get_busy(self, caller: Caller, query: BusyQuery) -> BusyAnswer:
        """When the target is busy. Raises ``BusyUnknown`` unless everything is known or the query allows partial answers.

        Every read is begun after the call arrived, so any ``max_staleness_s`` holds.
        """
        connections = resolve(self._store, caller.organization_id, query.target)
        reads = self.read(connections, query.window, self.deadline(caller))
        ended = {key[0] for key, outcome in reads.found.items() if isinstance(outcome, NotFound)}
        if ended:
            # Disconnected while we read. Who was named must be there; an owner has one connection less.
            connections = [c for c in resolve(self._store, caller.organization_id, query.target) if c.id not in ended]
            reads = Reads(reads.as_of, {key: found for key, found in reads.found.items() if key[0] not in ended})
        return self._answer(connections, query, reads)

    def watch(self, caller: Caller, query: BusyQuery, stop: threading.Event) -> Iterator[BusyAnswer]:
        """The answer of ``get_busy``, and again whenever it changes, until ``stop`` is set. See ``Watching``."""
        return self._watching.watch(caller, query, stop)

    def deadline(self, caller: Caller) -> Deadline:
        """Until when a call may converse with providers."""
        if caller.deadline is None:
            return Deadline.after(self._call_s)
        return Deadline(caller.deadline.at - ANSWER_S).sooner(self._call_s)

    def read(self, connections: Sequence[Connection], window: Interval, deadline: Deadline) -> Reads:
        """Read every blocking calendar of the connections now, in parallel. Never raises for a calendar's sake."""
        as_of = self._store.now()
        began: dict[Key, Future[CalendarRead]] = {}
        for connection in connections:
            for calendar_id in connection.busy_calendar_ids:
                context = contextvars.copy_context()
                began[connection.id, calendar_id] = self._threads.submit(
                    context.run, self._read, connection, calendar_id, window, deadline
                )
        wait(began.values(), timeout=deadline.remaining() + ANSWER_S / 2)
        found = {key: self._outcome(future) for key, future in began.items()}
        self._learn(connections, found, as_of)
        return Reads(as_of, found)

    def _read(
        self, connection: Connection, calendar_id: CalendarId, window: Interval, deadline: Deadline
    ) -> CalendarRead:
        deadline.check()
        with self._grants.use(connection) as link:
            return self._providers[connection.provider].read_calendar(link, calendar_id, window, deadline)

    @staticmethod
    def _outcome(future: Future[CalendarRead]) -> CalendarRead | CalendarError:
        if not future.done():
            future.cancel()
            return ProviderUnavailable("The provider took too long to answer.")
        try:
            return future.result()
        except StoreUnavailable:
            # Our own database, not this calendar: the whole call cannot be answered.
            raise
        except CalendarError as error:
            return error
        except Exception:
            # Whatever went wrong in reading, the calendar is unknown; it must not take the others with it.
            _log.exception("read_failed")
            return ProviderUnavailable("The calendar could not be read, for a reason inside this service.")

    def _learn(
        self, connections: Sequence[Connection], found: Mapping[Key, CalendarRead | CalendarError], as_of: Instant
    ) -> None:
        """Note which conversations went well, and which events of ours their owners have deleted."""
        failed = {key[0] for key, outcome in found.items() if isinstance(outcome, CalendarError)}
        asked = {key[0] for key in found}
        self._grants.went_well([c for c in connections if c.id in asked and c.id not in failed])
        listed = {
            key: outcome.event_ids
            for key, outcome in found.items()
            if isinstance(outcome, CalendarRead) and outcome.event_ids is not None
        }
        if not listed:
            return
        for ours in self._store.outbox.ours([key[0] for key in listed]):
            there = listed.get((ours.connection_id, ours.calendar_id))
            if there is not None and ours.counts and ours.event_id not in there:
                self._store.outbox.note_missing(ours.connection_id, ours.event_id, before=as_of, at=self._store.now())

    def _answer(self, connections: Sequence[Connection], query: BusyQuery, reads: Reads) -> BusyAnswer:
        # Asked after the reads: what was committed meanwhile is laid over them, what was cancelled meanwhile is not.
        ids = [connection.id for connection in connections]
        ours, overlays = self._ours(ids, reads.as_of), self._overlays(ids, query.window)
        options = Options(query.exclude_booking_ids, query.ignore_tentative)
        calendars: list[CalendarBusy] = []
        failures: list[tuple[CalendarError, CalendarBusy]] = []
        busy: list[Interval] = []
        complete = True
        now = self._store.now()
        for key, outcome in (*reads.found.items(), *_written_only(overlays, reads.found)):
            read = outcome if isinstance(outcome, CalendarRead) else None
            judged = verdicts(read, overlays.get(key, ()), ours.get(key, {}), query.window, options)
            intervals = blocked(judged, query.window)
            busy.extend(intervals)
            error = self._error(outcome, ours.get(key, {}), query.window, options)
            calendar = CalendarBusy(
                connection_id=key[0],
                calendar_id=key[1],
                state=BusyState.UNKNOWN if read is None else BusyState.FRESH,
                as_of=None if read is None else reads.as_of,
                problem=problem_of(error, now) if error else None,
                busy=() if query.view is BusyView.MERGED else tuple(intervals),
                events=_explained(judged) if query.view is BusyView.EXPLAINED else (),
            )
            calendars.append(calendar)
            if error:
                complete = False
                failures.append((error, dataclasses.replace(calendar, busy=(), events=())))
        if failures and not query.allow_partial:
            self.refuse(failures)
        return BusyAnswer(tuple(merge(busy)), complete, tuple(calendars))

    @staticmethod
    def refuse(failures: Sequence[tuple[CalendarError, CalendarBusy]]) -> None:
        """Raise what strict calls get: the first failure that needs a person, else the first, and all of them."""
        first, calendar = next((failure for failure in failures if failure[0].needs_person), failures[0])
        first.metadata.update(connectionId=calendar.connection_id, calendarId=calendar.calendar_id)
        raise BusyUnknown(first, tuple(calendar for _, calendar in failures))

    def require_free(
        self, connections: Sequence[Connection], window: Interval, booking_id: BookingId, reads: Reads
    ) -> Key | None:
        """The first calendar that something other than this booking blocks in the window; None when all are free.

        Called inside the transaction that commits the booking, with reads begun before it, so that of two bookings for
        one slot the second sees the first. Raises ``BusyUnknown`` when a calendar could not be read.
        """
        ids = [connection.id for connection in connections]
        ours, overlays = self._ours(ids, reads.as_of), self._overlays(ids, window)
        options = Options(excluded=frozenset({booking_id}))
        failures: list[tuple[CalendarError, CalendarBusy]] = []
        taken: Key | None = None
        now = self._store.now()
        for key, outcome in (*reads.found.items(), *_written_only(overlays, reads.found)):
            read = outcome if isinstance(outcome, CalendarRead) else None
            judged = verdicts(read, overlays.get(key, ()), ours.get(key, {}), window, options)
            error = self._error(outcome, ours.get(key, {}), window, options)
            if error:
                state = BusyState.UNKNOWN if read is None else BusyState.FRESH
                as_of = None if read is None else reads.as_of
                failures.append((error, CalendarBusy(*key, state, as_of, problem_of(error, now))))
            if taken is None and blocked(judged, window):
                taken = key
        if failures:
            self.refuse(failures)
        return taken

    def _error(
        self,
        outcome: CalendarRead | CalendarError,
        ours: Mapping[EventId, Ours],
        window: Interval,
        options: Options,
    ) -> CalendarError | None:
        if isinstance(outcome, CalendarError):
            return outcome
        event = unreadable(outcome, ours, window, options)
        return None if event is None else EventUnreadable(event.event_id, retry_after_s=self._unreadable_retry_s)

    def _ours(self, ids: Sequence[ConnectionId], as_of: Instant) -> Mapping[Key, Mapping[EventId, Ours]]:
        """Our events, as reads that began at ``as_of`` have to be understood."""
        found: dict[Key, dict[EventId, Ours]] = defaultdict(dict)
        for row in self._store.outbox.ours(ids):
            current = row.shown_at is not None and row.shown_at < as_of
            found[row.connection_id, row.calendar_id][row.event_id] = Ours(row.booking_id, row.counts, current)
        return found

    def _overlays(self, ids: Sequence[ConnectionId], window: Interval) -> Mapping[Key, list[Overlay]]:
        found: dict[Key, list[Overlay]] = defaultdict(list)
        for row in self._store.bookings.overlay(ids, window):
            found[row.connection_id, row.calendar_id].append(
                Overlay(row.booking_id, Interval(row.start, row.end), row.event_id)
            )
        return found


def _written_only(
    overlays: Mapping[Key, Sequence[Overlay]], found: Mapping[Key, CalendarRead | CalendarError]
) -> list[tuple[Key, CalendarRead]]:
    """Calendars that only receive bookings: they are not read, but what we committed to them blocks."""
    return [(key, CalendarRead(())) for key in sorted(overlays) if key not in found]


def _explained(judged: Sequence[Verdict]) -> tuple[ExplainedEvent, ...]:
    return tuple(
        ExplainedEvent(verdict.interval, verdict.reason, verdict.booking_id, verdict.event_id) for verdict in judged
    )


def problem_of(error: CalendarError, now: Instant) -> Problem:
    """An error as part of an answer."""
    waits = error.retry_after_s
    return Problem(error.reason, error.message, None if waits is None else now + int(waits * SECOND))
