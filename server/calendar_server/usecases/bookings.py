"""Bookings: accepted as wanted states, told how far they have come. Acknowledged is done: what is accepted is on disk."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from calendar_server.core.booking import Happening, event_uid, merged_cancellation, moved
from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    Attendee,
    Booking,
    BookingId,
    BookingStatus,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    Instant,
    Interval,
    OrganizationId,
    ProviderName,
)
from calendar_server.errors import (
    BookingUnreadable,
    CalendarGone,
    CalendarReadOnly,
    NeedsReauth,
    NotFound,
    ProviderUnavailable,
    SlotTaken,
    StoreUnavailable,
    ValidationError,
    Violation,
)
from calendar_server.providers.base import Deadline, Provider
from calendar_server.store.rows import BookingRow, OutboxRow
from calendar_server.store.store import CommitUnknown, Store
from calendar_server.tracing import NO_TRACER, Tracer
from calendar_server.usecases.availability import Availability, Reads
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import BookingEvent, BookingReport, Problem, SyncCommand, Target
from calendar_server.usecases.targets import resolve
from calendar_server.vault import Vault, VaultError

_log = logging.getLogger(__name__)

FIRST_LOOK_S = 0.01
LAST_LOOK_S = 0.1
"""Seconds between two looks of a waiting call: doubling from the first to the last."""
LOOK_AGAIN_S = 2.0
"""Seconds for finding out what became of a commit whose answer was lost, pausing ``LAST_LOOK_S`` between looks."""
READS_MOST = 3
"""Times that `require_free` reads when connections come, go or change their calendars meanwhile."""
DEADLINE_MARGIN_S = 0.5
"""Seconds of the caller's deadline that waiting leaves."""


class BookingContents:
    """What a booking says, sealed: titles and guests are in no row that can be read without a master key."""

    def __init__(self, vault: Vault):
        self._vault = vault

    def seal(self, organization_id: OrganizationId, booking: Booking, sent: Booking) -> str:
        """Seal the booking, and beside it what its caller sent (a cancellation keeps what it leaves empty)."""
        text = json.dumps([dataclasses.asdict(booking), dataclasses.asdict(sent)])
        return self._vault.seal(text, table="bookings", row=_row(organization_id, booking.id), column="sealed_content")

    def open(self, row: BookingRow) -> tuple[Booking, Booking]:
        """The booking, and what was sent. Raises ``BookingUnreadable``."""
        try:
            text = self._vault.open(
                row.sealed_content,
                table="bookings",
                row=_row(row.organization_id, row.id),
                column="sealed_content",
            )
        except VaultError as error:
            _log.error("booking_unopenable", extra={"organization": row.organization_id})
            raise BookingUnreadable(row.id, row.revision) from error
        booking, sent = json.loads(text)
        return _booking(booking), _booking(sent)

    def known(self, row: BookingRow) -> Booking:
        """The booking; where it cannot be opened, as much of it as is stored readable."""
        try:
            return self.open(row)[0]
        except BookingUnreadable:
            return Booking(row.id, row.revision, row.status, start=row.start, end=row.end)


class Bookings:
    """What callers do with bookings. ``wake`` tells the worker that pushes are due."""

    def __init__(
        self,
        store: Store,
        contents: BookingContents,
        availability: Availability,
        providers: Mapping[ProviderName, Provider],
        *,
        waiting_most: int,
        wake: Callable[[], None],
        tracer: Tracer = NO_TRACER,
    ):
        self._store = store
        self._tracer = tracer
        self._contents = contents
        self._availability = availability
        self._providers = providers
        self._wake = wake
        # A waiting call holds a thread of the server. Beyond this many, calls are answered PENDING at once.
        self._waiting = threading.BoundedSemaphore(waiting_most)

    def sync(self, caller: Caller, command: SyncCommand) -> BookingReport:
        """Accept a revision and wait for its pushes. Committed before it is acknowledged."""
        deadline = self._availability.deadline(caller)
        cause = Cause(caller.request_id, self._tracer.current())
        for _ in range(READS_MOST):
            reads = self._reads_for(caller, command, deadline) if command.require_free else None
            try:
                report = self._commit(caller.organization_id, command, reads, cause)
                break
            except _Outdated:
                continue
        else:
            raise ProviderUnavailable("The connections of this set keep changing at the moment. Try again.")
        self._wake()
        # Without waiting, what was committed is the answer: nobody has to read it again.
        return self.get(caller, command.booking.id) if self._waited(caller, command) else report

    def get(self, caller: Caller, booking_id: BookingId) -> BookingReport:
        """The newest state of a booking.

        Raises ``NotFound`` when the organization has none with this id, ``BookingUnreadable`` when it cannot be opened.
        """
        row = self._store.bookings.get(caller.organization_id, booking_id)
        if row is None:
            raise NotFound("There is no such booking. SyncBooking makes one.")
        events = self._store.outbox.of_booking(caller.organization_id, booking_id)
        return _report(self._contents.open(row)[0], events)

    def _reads_for(
        self, caller: Caller, command: SyncCommand, deadline: Deadline
    ) -> tuple[list[Connection], Reads] | None:
        """Read the span from the providers, before the transaction. None where the revision is not a new one."""
        booking = command.booking
        known = self._store.bookings.get(caller.organization_id, booking.id)
        if booking.status is not BookingStatus.CONFIRMED or (known and known.revision >= booking.revision):
            return None
        rows = self._store.outbox.of_booking(caller.organization_id, booking.id)
        connections = self._writable(resolve(self._store, caller.organization_id, command.target), rows, command.target)
        window = Interval(booking.start, booking.end)
        return connections, self._availability.read(connections, window, deadline)

    def _commit(
        self,
        organization_id: OrganizationId,
        command: SyncCommand,
        reads: tuple[list[Connection], Reads] | None,
        cause: Cause,
    ) -> BookingReport:
        """Accept the revision in a transaction. Where the answer to its COMMIT is lost: look, then answer.

        To accept once more is to look: it waits for the lost transaction's locks, changes nothing where the revision is
        there as it was sent, and commits it where it is not.
        """
        cancelled = command.booking.status is BookingStatus.CANCELLED
        target = None if cancelled else (command.target.connection_ids, command.target.owner)
        lost: CommitUnknown | None = None
        until = 0.0
        while True:
            try:
                return self._store.atomically_about(
                    organization_id,
                    command.booking.id,
                    target,
                    lambda: self._accept(organization_id, command, reads, cause),
                )
            except StoreUnavailable as error:
                if lost is None and isinstance(error, CommitUnknown):
                    lost, until = error, time.monotonic() + LOOK_AGAIN_S
                elif lost is None:
                    raise
                elif time.monotonic() >= until:
                    raise lost from error
                else:
                    time.sleep(LAST_LOOK_S)

    def _accept(
        self,
        organization_id: OrganizationId,
        command: SyncCommand,
        reads: tuple[list[Connection], Reads] | None,
        cause: Cause,
    ) -> BookingReport:
        sent = command.booking
        row = self._store.bookings.get_for_update(organization_id, sent.id)
        wanted_set = _wanted_set(command)
        if row is not None and sent.revision < row.revision:
            newest = self._contents.open(row)[0]
            return _report(newest, self._store.outbox.of_booking(organization_id, sent.id))
        if row is not None and sent.revision == row.revision:
            # Nobody can say whether what cannot be opened is what was sent: that takes a revision of its own.
            newest, sent_before = self._contents.open(row)
            if _orderless(sent) != _orderless(sent_before) or wanted_set != row.wanted_set:
                raise ValidationError(
                    [
                        Violation(
                            "booking.revision",
                            f"revision {sent.revision} was sent before with other content; send a higher revision",
                        )
                    ]
                )
            return _report(newest, self._repeated(self._store.outbox.of_booking(organization_id, sent.id), cause))
        cancelled = sent.status is BookingStatus.CANCELLED
        # A new revision says everything; only a cancellation may leave out what was there before.
        before = self._contents.known(row) if row is not None and cancelled else None
        booking = merged_cancellation(sent, before) if cancelled else sent
        # Connections are locked before rows, here as by Disconnect: the two must not wait for each other in a ring.
        asked = [] if cancelled else resolve(self._store, organization_id, command.target)
        # A booking that nobody has sent before has no rows either.
        rows = self._store.outbox.of_booking(organization_id, sent.id) if row else []
        connections = self._writable(asked, rows, command.target)
        if reads is not None and not cancelled:
            self._check_free(connections, booking, reads)
        now = self._store.now()
        self._store.bookings.put(
            BookingRow(
                organization_id=organization_id,
                id=booking.id,
                revision=booking.revision,
                status=booking.status,
                start=booking.start,
                end=booking.end,
                sealed_content=self._contents.seal(organization_id, booking, sent),
                wanted_set=wanted_set,
                updated_at=now,
            )
        )
        return _report(booking, self._want(organization_id, booking, rows, connections, now, cause))

    @staticmethod
    def _writable(connections: Sequence[Connection], rows: Sequence[OutboxRow], target: Target) -> list[Connection]:
        """Those of a set's connections that can show a booking which has these rows.

        Raises ``CalendarReadOnly`` for ids that were named; an owner's connections without a writable calendar are left out.
        """
        written = {row.connection_id for row in rows}
        lacking = [c for c in connections if not c.calendar_id and c.id not in written]
        if lacking and target.connection_ids:
            raise CalendarReadOnly(
                f"The connection {lacking[0].id} has no calendar that can be written to. "
                "Choose one by UpdateConnection, or leave the connection out.",
                metadata={"connectionId": lacking[0].id},
            )
        return [connection for connection in connections if connection not in lacking]

    def _check_free(
        self, connections: Sequence[Connection], booking: Booking, reads: tuple[list[Connection], Reads]
    ) -> None:
        read_connections, found = reads
        ids = [connection.id for connection in connections]
        self._store.connections.lock(ids)
        if _what_blocks(connections) != _what_blocks(read_connections):
            raise _Outdated
        taken = self._availability.require_free(connections, Interval(booking.start, booking.end), booking.id, found)
        if taken is not None:
            raise SlotTaken(
                "Something else blocks this time. Choose another, or send the booking without `require_free`.",
                metadata={"connectionId": taken[0], "calendarId": taken[1]},
            )

    def _repeated(self, rows: Sequence[OutboxRow], cause: Cause) -> list[OutboxRow]:
        """Let those that failed be tried again. Answers all as they are by then."""
        now = self._store.now()
        repeated = []
        for row in rows:
            state = moved(row.state, Happening.REPEATED)
            if state is not row.state:
                row = _due(row, state, now, cause)
                self._store.outbox.put(row)
            repeated.append(row)
        return repeated

    def _want(
        self,
        organization_id: OrganizationId,
        booking: Booking,
        rows: Sequence[OutboxRow],
        connections: Sequence[Connection],
        now: Instant,
        cause: Cause,
    ) -> list[OutboxRow]:
        """Turn the accepted revision into wanted states, one for each connection that has or is to have the event.

        ``rows`` are those of the booking so far. Answers all as they are by then.
        """
        stored = {row.id: row for row in rows}
        by_connection = {row.connection_id: row for row in rows}
        # The event of an account that was disconnected and is connected again goes on under its new connection.
        for row in rows:
            if row.state is EventState.DETACHED:
                successor = self._store.connections.successor(row.connection_id)
                if successor is not None and successor.id not in by_connection:
                    by_connection[successor.id] = dataclasses.replace(row, connection_id=successor.id)
                    del by_connection[row.connection_id]
        wanted_ids = {connection.id for connection in connections}
        for connection in connections:
            known = by_connection.get(connection.id)
            if known is None:
                row = self._new_row(organization_id, booking, connection, now)
            elif known.state in (EventState.REMOVED, EventState.GONE):
                row = self._regenerated(known, connection)
            elif _never_written(known) and connection.calendar_id not in ("", known.calendar_id):
                row = self._regenerated(dataclasses.replace(known, calendar_id=connection.calendar_id), connection)
            else:
                row = known
            row = dataclasses.replace(
                _due(row, moved(row.state, Happening.WANTED), now, cause),
                wanted="present",
                wanted_revision=booking.revision,
            )
            if connection.status is ConnectionStatus.NEEDS_REAUTH:
                # It waits for the renewal of the connection, which makes it due.
                refused = NeedsReauth()
                row = dataclasses.replace(
                    row, due_at=None, problem_reason=refused.reason, problem_message=refused.message
                )
            self._store.outbox.put(row)
            stored[row.id] = row
        for row in by_connection.values():
            if row.connection_id in wanted_ids or not self._store.connections.is_live(row.connection_id):
                continue
            if row.state is EventState.DETACHED and booking.status is not BookingStatus.CANCELLED:
                # Connected again but not asked for: its old event stays, as Disconnect promised.
                continue
            state = moved(row.state, Happening.UNWANTED)
            changed = dataclasses.replace(row, wanted="absent", wanted_revision=booking.revision, updated_at=now)
            changed = changed if state is EventState.REMOVED else _due(changed, state, now, cause)
            self._store.outbox.put(changed)
            stored[row.id] = changed
        return [stored[id] for id in sorted(stored)]

    def _new_row(
        self, organization_id: OrganizationId, booking: Booking, connection: Connection, now: Instant
    ) -> OutboxRow:
        blank = OutboxRow(
            id=f"{now:016x}{secrets.token_hex(8)}",
            organization_id=organization_id,
            booking_id=booking.id,
            connection_id=connection.id,
            calendar_id=connection.calendar_id,
            generation=0,
            uid="",
            event_id=EventId(""),
            wanted="present",
            wanted_revision=booking.revision,
            pushed_revision=0,
            state=EventState.PENDING,
            etag="",
            web_link="",
            attempts=0,
            due_at=now,
            problem_reason="",
            problem_message="",
            lease_token="",
            lease_until=0,
            updated_at=now,
            pushed_at=0,
        )
        return self._regenerated(blank, connection)

    def _regenerated(self, row: OutboxRow, connection: Connection) -> OutboxRow:
        if row.event_id:
            # The last read may hold the event under the id that we forget here, as if it were somebody else's.
            self._store.mirror.note_change(connection.id, CalendarId(row.calendar_id), self._store.now())
        return next_generation(row, connection, self._providers[connection.provider])

    def _waited(self, caller: Caller, command: SyncCommand) -> bool:
        """Wait until no event is PENDING, at most as long as the command says and the deadline allows.

        False: not at all.
        """
        until = time.monotonic() + command.wait_s
        if caller.deadline is not None:
            until = min(until, caller.deadline.at - DEADLINE_MARGIN_S)
        if until <= time.monotonic() or not self._waiting.acquire(blocking=False):
            return False
        try:
            pause = FIRST_LOOK_S
            while self._pending(caller.organization_id, command.booking.id):
                left = until - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(pause, left))
                pause = min(pause * 2, LAST_LOOK_S)
            return True
        finally:
            self._waiting.release()

    def _pending(self, organization_id: OrganizationId, booking_id: BookingId) -> bool:
        rows = self._store.outbox.of_booking(organization_id, booking_id)
        return any(row.state is EventState.PENDING for row in rows)


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """The call that makes events due, for whoever looks for what became of it."""

    request_id: str
    traceparent: str


class _Outdated(Exception):
    """What blocks in the set of connections changed between the reads and the transaction: read again."""


def _what_blocks(connections: Sequence[Connection]) -> set[tuple[ConnectionId, tuple[CalendarId, ...]]]:
    return {(connection.id, connection.busy_calendar_ids) for connection in connections}


def _orderless(booking: Booking) -> tuple[Booking, frozenset[Attendee]]:
    """What is compared of a booking: the order of its attendees says nothing, nor do doubles."""
    return dataclasses.replace(booking, attendees=()), frozenset(booking.attendees)


def _never_written(row: OutboxRow) -> bool:
    """Whether the event never came into its calendar, because that one is gone or takes none."""
    return (
        row.state is EventState.FAILED
        and row.pushed_at == 0
        and row.problem_reason in (CalendarGone.reason, CalendarReadOnly.reason)
    )


def next_generation(row: OutboxRow, connection: Connection, provider: Provider) -> OutboxRow:
    """The row with a new identity for its event: nothing of it has been written yet."""
    generation = row.generation + 1
    uid = event_uid(
        row.organization_id, connection.provider, connection.subject, row.calendar_id, row.booking_id, generation
    )
    return dataclasses.replace(
        row,
        generation=generation,
        uid=uid,
        event_id=provider.event_id(CalendarId(row.calendar_id), uid),
        pushed_revision=0,
        etag="",
        web_link="",
    )


def may_stand_unknown(row: OutboxRow) -> bool:
    """Whether an attempt that had no answer may have made the event under an id that only the provider knows."""
    return row.attempts > 0 and row.pushed_revision == 0 and not row.event_id


_UNDECIDED = frozenset({EventState.PENDING, EventState.DETACHED})
"""States in which what the last attempt came to may not be known."""


def _due(row: OutboxRow, state: EventState, now: Instant, cause: Cause) -> OutboxRow:
    """The row as it stands when a push of it becomes due. A lease that somebody holds stays: they finish, then yield."""
    return dataclasses.replace(
        row,
        state=state,
        due_at=now,
        # It is still to be known that there was one. Of what failed, the last attempt has seen that nothing stands there.
        attempts=int(row.state in _UNDECIDED and may_stand_unknown(row)),
        problem_reason="",
        problem_message="",
        updated_at=now,
        request_id=cause.request_id,
        traceparent=cause.traceparent,
    )


def _wanted_set(command: SyncCommand) -> str:
    """The set of connections as it was sent, in one spelling. A cancellation covers every event: its set is nothing."""
    if command.booking.status is BookingStatus.CANCELLED:
        return ""
    return json.dumps([sorted(set(command.target.connection_ids)), command.target.owner])


def _report(booking: Booking, rows: Sequence[OutboxRow]) -> BookingReport:
    return BookingReport(booking, tuple(_event(row) for row in rows))


def _event(row: OutboxRow) -> BookingEvent:
    waiting = row.state is EventState.PENDING
    due_at = row.due_at if waiting else None
    problem = None
    if row.problem_reason:
        problem = Problem(row.problem_reason, row.problem_message, due_at)
    return BookingEvent(
        connection_id=ConnectionId(row.connection_id),
        calendar_id=CalendarId(row.calendar_id),
        event_id=EventId(row.event_id),
        state=row.state,
        synced_revision=row.pushed_revision,
        web_link=row.web_link,
        problem=problem,
        next_attempt_at=due_at,
        attempts=row.attempts,
        drift=Drift.DELETED if row.state is EventState.GONE else row.drift,
    )


def _row(organization_id: OrganizationId, booking_id: BookingId) -> str:
    return json.dumps([organization_id, booking_id])


def _booking(values: dict[str, object]) -> Booking:
    fields = dict(values)
    attendees = tuple(Attendee(**attendee) for attendee in fields.pop("attendees"))  # type: ignore[attr-defined]
    status = BookingStatus(str(fields.pop("status")))
    return Booking(**fields, status=status, attendees=attendees)  # type: ignore[arg-type]
