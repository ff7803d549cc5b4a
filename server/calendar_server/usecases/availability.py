"""When connections are busy: from what was read of them, late enough. Unknown is not free: what could not be read is an
error, or is told as unknown."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from calendar_server.core.availability import Options, Ours, Overlay, Verdict, blocked, unreadable, verdicts
from calendar_server.core.intervals import merge, touches
from calendar_server.core.model import (
    HOUR,
    SECOND,
    BookingId,
    BusyState,
    BusyView,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    Instant,
    Interval,
    OrganizationId,
    UnreadableEvent,
)
from calendar_server.core.packing import Unpackable, unpack_content
from calendar_server.errors import (
    CalendarError,
    EventUnreadable,
    LimitExceeded,
    NeedsReauth,
    ProviderThrottled,
    ProviderUnavailable,
    StoreUnavailable,
)
from calendar_server.metrics import BUSY_AGE, BUSY_ANSWERS, MIRROR, Metrics
from calendar_server.providers.base import Deadline
from calendar_server.store.store import Store
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, CalendarBusy, ExplainedEvent, Problem
from calendar_server.usecases.kept_answers import KeptAnswers
from calendar_server.usecases.landing import Turn
from calendar_server.usecases.questions import Question, Questions
from calendar_server.usecases.refresh import Key, Need, Outcome, Refresher, Unsaved
from calendar_server.usecases.snapshots import Group, Held, Outdated, Snapshot, Snapshots
from calendar_server.usecases.watching import Watching

_log = logging.getLogger(__name__)

ANSWER_S = 0.2
"""Seconds of the caller's deadline that are kept for making the answer."""
STALE_MOST = 24 * HOUR
"""How old a read may be to be told as stale; what is older says nothing any more."""
USED_EVERY_S = 20.0
"""Seconds between two notes that a connection is in use."""
ROUNDS_MOST = 4
"""Times that an answer is begun again because what it rests on was replaced meanwhile."""
THROTTLED_S, THROTTLED_TIMES = 5.0, 3
"""Once a provider has asked that many times in a row to slow down, callers' questions are passed on again only after these
seconds. The worker waits as long as the provider says, from the first time on."""


class BusyUnknown(CalendarError):
    """Calendars could not be read: unknown is not free.

    ``first`` is the error that decides code, reason and metadata (with ``connectionId`` and ``calendarId``); it is the
    first that needs a person, else the first. ``calendars`` are all that could not be read.
    """

    def __init__(self, first: CalendarError, calendars: tuple[CalendarBusy, ...]):
        super().__init__(first.message, metadata=first.metadata, retry_after_s=first.retry_after_s)
        self.first = first
        self.calendars = calendars


@dataclass(frozen=True, slots=True)
class Seen:
    """One calendar as a read that began at ``as_of`` found it."""

    as_of: Instant
    read: CalendarRead


Reads = Mapping[Key, Seen | CalendarError]
"""What a round of reads found, per calendar in the order asked: a read, or why there is none."""


@dataclass(slots=True)
class _Call:
    """One call on its way to an answer: it came at ``came_at`` (``time.monotonic``) and had ``time_s`` seconds.

    ``asked``: what providers were asked about for it, with the error where there was one; ``failed_at``: when it was known
    where it came of a read; ``unsaved``: what could not be stored. ``since`` (``time.monotonic``): what was committed by
    then has to be in the answer. ``now``: the database's time of its last look. ``has_place``: it is counted already among
    those that wait for providers.
    """

    caller: Caller
    query: BusyQuery
    staleness_s: float
    deadline: Deadline
    turn: Turn
    came_at: float
    time_s: float
    since: float
    has_place: bool = False
    now: Instant = 0
    not_before: Instant | None = None
    asked: dict[Key, CalendarError | None] = field(default_factory=dict)
    failed_at: dict[Key, float] = field(default_factory=dict)
    unsaved: dict[Key, Unsaved] = field(default_factory=dict)
    answer: BusyAnswer | None = None

    @property
    def full(self) -> bool:
        return self.staleness_s <= 0


Failure = tuple[CalendarError, CalendarBusy]


class Availability:
    """Answers from the mirror, has it refreshed where it is not fresh enough, and lays committed bookings over it.

    ``max_staleness_s``: how old what an answer rests on may be when the call does not say. ``cache_entries``: connections
    kept in memory. ``provider_calls``: calls that may wait for providers at once; more are refused, so that calls that
    need none always find a thread.
    """

    def __init__(
        self,
        store: Store,
        refresher: Refresher,
        *,
        call_s: float,
        max_staleness_s: float,
        unreadable_retry_s: float,
        cache_entries: int = 20_000,
        provider_calls: int = 112,
        watch_heartbeat_s: float = 15.0,
        metrics: Metrics | None = None,
    ):
        self._store = store
        self._metrics = metrics or Metrics()
        self._refresher = refresher
        self._snapshots = Snapshots(store, entries=cache_entries)
        self._kept = KeptAnswers()
        self._questions: Questions[tuple[OrganizationId, BusyQuery], _Call] = Questions()
        self._call_s = call_s
        self._max_staleness_s = max_staleness_s
        self._unreadable_retry_s = unreadable_retry_s
        self._provider_calls = threading.BoundedSemaphore(provider_calls)
        self._used: dict[ConnectionId, float] = {}
        self._notes = ThreadPoolExecutor(1, thread_name_prefix="used")
        self._watching = Watching(self.get_busy, store.changes, heartbeat_s=watch_heartbeat_s)

    def close(self) -> None:
        """End the thread that notes what is in use."""
        self._notes.shutdown(wait=True, cancel_futures=True)

    def get_busy(self, caller: Caller, query: BusyQuery) -> BusyAnswer:
        """When the target is busy. Raises ``BusyUnknown`` unless everything is known or the query allows partial answers.

        Nothing in the answer rests on a read begun before now less ``max_staleness_s`` unless it is told as stale. With 0
        every calendar is read in full after the call arrived.
        """
        staleness_s = self._max_staleness_s if query.max_staleness_s is None else query.max_staleness_s
        came_at, deadline = time.monotonic(), self.deadline(caller)
        with Turn() as turn:
            call = _Call(caller, query, staleness_s, deadline, turn, came_at, deadline.remaining(), since=came_at)
            # With a place of its own from the start: those who wait for it cannot take the last.
            call.has_place = self._may_lack(call) and self._provider_calls.acquire(blocking=False)
            if not call.has_place:
                return self._answered(call)
            try:
                with self._questions.asked((caller.organization_id, query)) as (question, first):
                    if first:
                        question.found = call
                        return self._answered(call, shares=True)
                return self._shared(call, question) or self._answered(call)
            finally:
                self._provider_calls.release()

    def _may_lack(self, call: _Call) -> bool:
        """Whether providers will probably have to be asked: by what was last known, without a look."""
        known = self._snapshots.last_known(call.caller.organization_id, call.query.target)
        if known is None:
            return True
        group, now = known
        not_before = now - round(call.staleness_s * SECOND)
        return bool(_lacking(group.snapshots, call.query.window, not_before, False, {}))

    def _shared(self, call: _Call, question: Question[_Call]) -> BusyAnswer | None:
        """The answer that another finds to the same question; None when this call has to find its own."""
        call.turn.wait(question.done, call.deadline.remaining())
        other = question.found if question.done.landed else None
        if other is None or other.since < call.came_at:
            # What was committed before this call need not be in it.
            return None
        answer = other.answer
        if answer is not None and answer.complete:
            # By the time of that look, which was after this call came: more than was promised.
            not_before = other.now - round(call.staleness_s * SECOND)
            if all(each.as_of is not None and each.as_of >= not_before for each in answer.calendars):
                self._count(answer, len(other.asked), other.now)
                return answer
        if other.time_s >= call.deadline.remaining() and other.came_at >= call.came_at - call.staleness_s:
            # What could not be read for the other, with as much time, is not asked for again by each of those who waited.
            failed_at = other.failed_at
            call.asked |= {key: other.asked[key] for key in failed_at if failed_at[key] >= call.came_at}
        return None

    def _answered(self, call: _Call, *, shares: bool = False) -> BusyAnswer:
        """The answer that this call finds; others wait for it where it ``shares``."""
        for _ in range(ROUNDS_MOST):
            try:
                answer = self._round(call)
            except Outdated:
                call.since = time.monotonic()
                continue
            if answer is not None:
                if shares and answer.forms is None:
                    # It will be given more than once.
                    answer = dataclasses.replace(answer, forms={})
                call.answer = answer
                return answer
        raise StoreUnavailable("What is known of these calendars is changing all the time at this moment. Try again.")

    def _round(self, call: _Call) -> BusyAnswer | None:
        """The answer by what is known; None: providers were asked, look again. Raises ``Outdated``."""
        query = call.query
        group, now = self._snapshots.of(call.caller.organization_id, query.target, call.since, crowded=bool(call.asked))
        call.now = now
        if call.unsaved:
            group = self._snapshots.with_unsaved(group, call.unsaved, now)
        if call.not_before is None:
            call.not_before = now - round(call.staleness_s * SECOND)
        lacking = _lacking(group.snapshots, query.window, call.not_before, call.full, call.asked)
        if lacking:
            self._ask(call, group.snapshots, lacking, call.not_before, now)
            return None
        answer = self._kept.get(group, query, call.not_before, call.asked)
        if answer is None:
            answer = self._kept.keep(group, query, self._answer(group, query, call.not_before, call.asked, now))
        self._note_use(group.snapshots, now)
        self._count(answer, len(call.asked), now)
        return answer

    def _count(self, answer: BusyAnswer, asked: int, now: Instant) -> None:
        # Answers of the mirror come by the thousands: what is complete is fresh throughout, and needs no looking.
        number = len(answer.calendars)
        states = {BusyState.FRESH: number} if answer.complete else Counter(each.state for each in answer.calendars)
        for state, times in states.items():
            self._metrics.count(BUSY_ANSWERS, state, by=times)
        if asked:
            self._metrics.count(MIRROR, "miss", by=asked)
        if number > asked:
            self._metrics.count(MIRROR, "hit", by=number - asked)
        oldest = min((each.as_of for each in answer.calendars if each.as_of is not None), default=None)
        if oldest is not None:
            self._metrics.observe(BUSY_AGE, max(0, now - oldest) / SECOND)

    def watch(self, caller: Caller, query: BusyQuery, stop: threading.Event) -> Iterator[BusyAnswer]:
        """The answer of ``get_busy``, and again whenever it changes, until ``stop`` is set. See ``Watching``."""
        return self._watching.watch(caller, query, stop)

    def deadline(self, caller: Caller) -> Deadline:
        """Until when a call may converse with providers."""
        if caller.deadline is None:
            return Deadline.after(self._call_s)
        return Deadline(caller.deadline.at - ANSWER_S).sooner(self._call_s)

    def read(self, connections: Sequence[Connection], window: Interval, deadline: Deadline) -> Reads:
        """Read every blocking calendar of the connections in full now. Never raises for a calendar's sake."""
        now = self._store.now()
        needs = [Need(connection, connection.busy_calendar_ids) for connection in connections]
        errors = self._waiting(needs, window, now, True, deadline).errors
        rows = {
            (row.connection_id, row.calendar_id): row
            for row in self._store.mirror.busy([need.connection.id for need in needs])
        }
        reads: dict[Key, Seen | CalendarError] = {}
        for need in needs:
            for calendar_id in need.calendar_ids:
                key = (need.connection.id, calendar_id)
                row = rows.get(key)
                content = self._store.mirror.content(*key) if row is not None and key not in errors else None
                if row is None or content is None or row.as_of < now:
                    reads[key] = errors.get(key) or ProviderUnavailable(
                        "The calendar could not be read at this moment."
                    )
                    continue
                try:
                    reads[key] = Seen(row.as_of, unpack_content(content.events))
                except Unpackable:
                    reads[key] = ProviderUnavailable("The calendar could not be read at this moment.")
        return reads

    def _ask(
        self,
        call: _Call,
        snapshots: Sequence[Snapshot],
        lacking: Mapping[ConnectionId, tuple[CalendarId, ...]],
        not_before: Instant,
        now: Instant,
    ) -> None:
        """Have what is lacking refreshed."""
        asked: dict[Key, CalendarError | None] = {}
        for snapshot in snapshots:
            refused = NeedsReauth() if snapshot.head.status is ConnectionStatus.NEEDS_REAUTH else None
            for calendar_id in lacking.get(snapshot.head.id, ()):
                asked[snapshot.head.id, calendar_id] = refused or _throttled(snapshot.held.get(calendar_id), now)
        connections = self._snapshots.connections(call.caller.organization_id, list(lacking), call.since)
        needs = [
            Need(connection, calendar_ids)
            for connection in connections
            if (calendar_ids := tuple(each for each in lacking[connection.id] if asked[connection.id, each] is None))
        ]
        if needs:
            outcome = self._waiting(
                needs, call.query.window, not_before, call.full, call.deadline, call.turn, has_place=call.has_place
            )
            asked |= outcome.errors
            call.failed_at |= outcome.failed_at
            call.unsaved |= outcome.unsaved
            call.since = max(call.since, outcome.landed_at)
        call.asked |= asked

    def _waiting(
        self,
        needs: Sequence[Need],
        window: Interval,
        not_before: Instant,
        full: bool,
        deadline: Deadline,
        turn: Turn | None = None,
        *,
        has_place: bool = False,
    ) -> Outcome:
        if not has_place and not self._provider_calls.acquire(blocking=False):
            raise LimitExceeded("Too many calls wait for providers at this moment. Try again.", retry_after_s=1)
        try:
            return self._refresher.refresh(
                needs, window, not_before=not_before, full=full, deadline=deadline, turn=turn
            )
        finally:
            if not has_place:
                self._provider_calls.release()

    def _answer(
        self,
        group: Group,
        query: BusyQuery,
        not_before: Instant,
        asked: Mapping[Key, CalendarError | None],
        now: Instant,
        *,
        joins: bool = True,
    ) -> BusyAnswer:
        options = Options(query.exclude_booking_ids, query.ignore_tentative)
        window = query.window
        calendars: list[CalendarBusy] = []
        failures: list[Failure] = []
        # All that is plain is joined already, where nothing says otherwise.
        joins = joins and query.view is BusyView.MERGED and not query.ignore_tentative and not any(asked.values())
        busy: list[Sequence[Interval]] = [group.joined().within(window)] if joins else []
        written_only: list[tuple[Key, Sequence[Overlay]]] = []
        for snapshot in group.snapshots:
            head = snapshot.head
            overlays = self._snapshots.overlays(snapshot, window)
            for calendar_id in head.busy_calendar_ids:
                held = snapshot.held.get(calendar_id)
                error = asked.get((head.id, calendar_id))
                if error is None and not (held and held.row.as_of >= not_before and held.covers(window)):
                    error = ProviderUnavailable("The calendar could not be read at this moment.")
                    if joins:
                        # What it holds may not count, and it is among what is joined.
                        return self._answer(group, query, not_before, asked, now, joins=False)
                known = held
                if error is not None and not (held and held.covers(window) and held.row.as_of > now - STALE_MOST):
                    known = None
                own = overlays.get(calendar_id, ())
                if joins and error is None and known is not None and not own and not known.judged:
                    calendars.append(known.told)
                    continue
                state = BusyState.FRESH if error is None else BusyState.STALE if known else BusyState.UNKNOWN
                intervals, judged = self._judged(snapshot, known, own, window, options, query.view)
                busy.append(intervals)
                if error is None and known is not None:
                    error = self._unreadable(known, window, options)
                calendar = CalendarBusy(
                    connection_id=head.id,
                    calendar_id=calendar_id,
                    state=state,
                    as_of=known.row.as_of if known else None,
                    problem=problem_of(error, now) if error else None,
                    busy=() if query.view is BusyView.MERGED else tuple(intervals),
                    events=_explained(judged) if query.view is BusyView.EXPLAINED else (),
                )
                calendars.append(calendar)
                if error:
                    failures.append((error, dataclasses.replace(calendar, busy=(), events=())))
            written_only += (
                ((head.id, calendar_id), written)
                for calendar_id, written in overlays.items()
                if calendar_id not in head.busy_calendar_ids
            )
        for key, written in sorted(written_only, key=lambda each: each[0]):
            # A calendar that only receives bookings: it is not read, but what we committed to it blocks.
            touching = [overlay for overlay in written if touches(overlay.interval, window)]
            if not touching:
                continue
            judged = verdicts(None, touching, {}, window, options)
            intervals = blocked(judged, window)
            busy.append(intervals)
            calendars.append(
                CalendarBusy(
                    connection_id=key[0],
                    calendar_id=key[1],
                    state=BusyState.FRESH,
                    as_of=now,
                    busy=() if query.view is BusyView.MERGED else tuple(intervals),
                    events=_explained(judged) if query.view is BusyView.EXPLAINED else (),
                )
            )
        if failures and not query.allow_partial:
            self.refuse(failures)
        return BusyAnswer(tuple(_joined(busy)), not failures, tuple(calendars))

    def _judged(
        self,
        snapshot: Snapshot,
        held: Held | None,
        overlays: Sequence[Overlay],
        window: Interval,
        options: Options,
        view: BusyView,
    ) -> tuple[list[Interval], list[Verdict]]:
        """When one calendar is busy; and, for the explained view, what every event in the window means."""
        if view is BusyView.EXPLAINED:
            whole = self._snapshots.whole(snapshot, held) if held else None
            judged = verdicts(whole, overlays, held.ours if held else {}, window, options)
            return blocked(judged, window), judged
        plain: list[Interval] = []
        if held is not None:
            track = self._snapshots.firm(snapshot, held) if options.ignore_tentative else held.plain
            plain = track.within(window)
        special = held.special if held else None
        if not overlays and not (special and (special.events or special.unreadable)):
            return plain, []
        judged = verdicts(special, overlays, held.ours if held else {}, window, options)
        own = blocked(judged, window)
        return (merge([*plain, *own]) if own else plain), judged

    def _unreadable(self, held: Held, window: Interval, options: Options) -> CalendarError | None:
        if not held.special.unreadable:
            return None
        event = unreadable(held.special, held.ours, window, options)
        return None if event is None else self._event_unreadable(event)

    def _event_unreadable(self, event: UnreadableEvent) -> EventUnreadable:
        return EventUnreadable(event.event_id, message=event.message, retry_after_s=self._unreadable_retry_s)

    def _note_use(self, snapshots: Sequence[Snapshot], now: Instant) -> None:
        """Note now and then that connections are in use, beside the call: the worker keeps those fresh."""
        moment = time.monotonic()
        due = [s.head.id for s in snapshots if moment - self._used.get(s.head.id, -USED_EVERY_S) >= USED_EVERY_S]
        if not due:
            return
        if len(self._used) > 100_000:
            self._used.clear()
        self._used.update(dict.fromkeys(due, moment))
        try:
            self._notes.submit(self._use, due, now)
        except RuntimeError:
            # This process is ending.
            return

    def _use(self, ids: Sequence[ConnectionId], now: Instant) -> None:
        try:
            self._store.mirror.use(ids, now)
        except StoreUnavailable:
            _log.warning("use_not_noted")

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
        # Asked after the reads: what was committed meanwhile is laid over them, what was cancelled meanwhile is not.
        ours, overlays = self._ours(ids, reads), self._overlays(ids, window)
        options = Options(excluded=frozenset({booking_id}))
        failures: list[Failure] = []
        taken: Key | None = None
        now = self._store.now()
        for key in (*reads, *(key for key in sorted(overlays) if key not in reads)):
            seen = reads.get(key)
            read = seen.read if isinstance(seen, Seen) else None
            judged = verdicts(read, overlays.get(key, ()), ours.get(key, {}), window, options)
            error: CalendarError | None = seen if isinstance(seen, CalendarError) else None
            if read is not None and (event := unreadable(read, ours.get(key, {}), window, options)) is not None:
                error = self._event_unreadable(event)
            if error:
                state = BusyState.UNKNOWN if read is None else BusyState.FRESH
                as_of = seen.as_of if isinstance(seen, Seen) else None
                failures.append((error, CalendarBusy(*key, state, as_of, problem_of(error, now))))
            if taken is None and blocked(judged, window):
                taken = key
        if failures:
            self.refuse(failures)
        return taken

    def _ours(self, ids: Sequence[ConnectionId], reads: Reads) -> Mapping[Key, Mapping[EventId, Ours]]:
        """Our events, as these reads have to be understood."""
        found: dict[Key, dict[EventId, Ours]] = defaultdict(dict)
        for row in self._store.outbox.ours(ids):
            seen = reads.get((row.connection_id, row.calendar_id))
            current = isinstance(seen, Seen) and row.shown_at is not None and row.shown_at < seen.as_of
            found[row.connection_id, row.calendar_id][row.event_id] = Ours(row.booking_id, row.counts, current)
        return found

    def _overlays(self, ids: Sequence[ConnectionId], window: Interval) -> Mapping[Key, list[Overlay]]:
        found: dict[Key, list[Overlay]] = defaultdict(list)
        for row in self._store.bookings.overlay(ids, window):
            found[row.connection_id, row.calendar_id].append(
                Overlay(row.booking_id, Interval(row.start, row.end), row.event_id)
            )
        return found


def _lacking(
    snapshots: Sequence[Snapshot],
    window: Interval,
    not_before: Instant,
    full: bool,
    asked: Mapping[Key, CalendarError | None],
) -> dict[ConnectionId, tuple[CalendarId, ...]]:
    """The calendars that an answer cannot rest on yet, and that nobody was asked about for it."""
    lacking: dict[ConnectionId, tuple[CalendarId, ...]] = {}
    for snapshot in snapshots:
        head = snapshot.head
        for calendar_id in head.busy_calendar_ids:
            held = snapshot.held.get(calendar_id)
            if (full or held is None or not held.fresh(window, not_before)) and (head.id, calendar_id) not in asked:
                lacking[head.id] = (*lacking.get(head.id, ()), calendar_id)
    return lacking


def _throttled(held: Held | None, now: Instant) -> CalendarError | None:
    """A provider that keeps asking to slow down is not asked again at once for a caller's sake."""
    if held is None or held.row.problem_reason != ProviderThrottled.reason or held.row.failures < THROTTLED_TIMES:
        return None
    until = min(held.row.retry_at, held.row.failed_at + round(THROTTLED_S * SECOND))
    if now >= until:
        return None
    return ProviderThrottled(held.row.problem_message, retry_after_s=(held.row.retry_at - now) / SECOND)


def _joined(busy: Sequence[Sequence[Interval]]) -> Sequence[Interval]:
    """All calendars' intervals merged. Each of the lists is merged already."""
    some = [each for each in busy if each]
    if len(some) < 2:
        return some[0] if some else ()
    return merge([interval for each in some for interval in each])


def _explained(judged: Sequence[Verdict]) -> tuple[ExplainedEvent, ...]:
    return tuple(
        ExplainedEvent(verdict.interval, verdict.reason, verdict.booking_id, verdict.event_id) for verdict in judged
    )


def problem_of(error: CalendarError, now: Instant) -> Problem:
    """An error as part of an answer."""
    waits = error.retry_after_s
    return Problem(error.reason, error.message, None if waits is None else now + int(waits * SECOND))
