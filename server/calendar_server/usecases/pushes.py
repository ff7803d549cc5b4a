"""Pushing a booking into a calendar: look, then write, fenced by the event's version and by our lease.

One push serves one row of the outbox, the wanted state of one booking in one calendar. It may die at any point and be
repeated by anyone: the identity of the event is fixed and stored before the first write, so that a repetition finds what
an earlier attempt has done.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import time
from collections.abc import Mapping
from contextlib import suppress

from calendar_server.core.booking import Happening, moved, retry_after_s
from calendar_server.core.drift import Drift
from calendar_server.core.model import (
    SECOND,
    Booking,
    CalendarId,
    Connection,
    ConnectionStatus,
    EventId,
    EventState,
    ProviderName,
)
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    NeedsReauth,
    NotFound,
    PreconditionFailed,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.metrics import PUSH_WAIT, PUSHES, Metrics
from calendar_server.providers.base import Deadline, EventRef, Link, Provider, RemoteEvent
from calendar_server.store.loads import Load
from calendar_server.store.outbox import NOW
from calendar_server.store.rows import BookingRow, OutboxRow
from calendar_server.store.store import Store
from calendar_server.telemetry import request_id
from calendar_server.tracing import NO_TRACER, Tracer
from calendar_server.usecases.bookings import BookingContents, may_stand_unknown, next_generation
from calendar_server.usecases.grants import Grants, disconnected
from calendar_server.usecases.hosts import HostClosed, HostGate, host_of

_log = logging.getLogger(__name__)

LOOKS_MOST = 4
"""Looks at one event in one push before it is put off."""
GENERATIONS_MOST = 3
"""New identities tried in one push when the provider says that an id is spent."""
GONE_TRIES = 8
"""Attempts after which it is believed that an event or its calendar is gone, although the account says otherwise."""
LOAD_S = 1.0
"""Seconds after which what a push begins with is read again."""
FREE_TRIES, FREE_S = 10, 0.5
"""Tries, and seconds between them, to have a row looked at again that another pushes at this moment."""
LOOK_S = 0.1
"""Seconds for which a look at the lease, before a write, also does for what is asked after it."""

_SHOWING = frozenset({EventState.PENDING, EventState.SYNCED, EventState.FAILED})
"""States of an event that is, or may be, in its calendar."""


class LeaseLost(Exception):
    """The row is somebody else's now, or wants something else: stop before writing."""


class Pushes:
    """Takes rows that the outbox leased to us to their end."""

    def __init__(
        self,
        store: Store,
        contents: BookingContents,
        grants: Grants,
        providers: Mapping[ProviderName, Provider],
        hosts: HostGate,
        *,
        push_s: float,
        metrics: Metrics | None = None,
        tracer: Tracer = NO_TRACER,
    ):
        self._store = store
        self._metrics = metrics or Metrics()
        self._tracer = tracer
        self._contents = contents
        self._grants = grants
        self._providers = providers
        self._hosts = hosts
        self._push_s = push_s

    def push(self, row: OutboxRow, load: Load | None = None) -> str:
        """Bring one wanted state into its calendar and store how it went. Never raises for a provider's sake.

        ``load``: what it begins with, if that was read already; one that is too old is read again.

        Answers one word for metrics: ``synced``, ``removed``, ``failed``, ``deferred`` or ``yielded``.
        """
        token = request_id.set(row.request_id)
        try:
            if load is None or load.age_s > LOAD_S:
                load = self._store.loads.of([row]).get(row.id)
            return self._told(row, load)
        finally:
            request_id.reset(token)

    def _told(self, row: OutboxRow, load: Load | None) -> str:
        """Push, and tell log, metrics and trace how it went."""
        began = time.perf_counter()
        provider = str(load.connection.provider) if load else "none"
        with self._tracer.span("push", link=row.traceparent, provider=provider, request_id=row.request_id) as span:
            outcome, reason = (self._yield(row), "OK") if load is None else self._push(row, load)
            span.set(outcome=outcome, reason=reason, attempts=row.attempts + 1)
            if reason != "OK":
                span.failed()
        self._metrics.count(PUSHES, provider, outcome, reason)
        _log.info(
            "push",
            extra={
                "organization": row.organization_id,
                "connection": row.connection_id,
                "provider": provider,
                "wanted": row.wanted,
                "outcome": outcome,
                "reason": reason,
                "attempts": row.attempts + 1,
                "duration_ms": round((time.perf_counter() - began) * 1000, 1),
            },
        )
        return outcome

    def _push(self, row: OutboxRow, load: Load) -> tuple[str, str]:
        """The outcome, and the reason of a failure."""
        connection = load.connection
        try:
            # Before anything is asked of the provider: what we cannot open is no failure of its.
            booking = self._booking(row, load.booking) if row.wanted == "present" else None
            with (
                self._hosts.call(host_of(connection), connection.id),
                self._grants.use(connection, grant=load.grant) as link,
            ):
                if row.attempts == 0 and row.due_at is not None:
                    # By this machine's clock: to ask the database is too much for a number.
                    self._metrics.observe(PUSH_WAIT, max(0.0, time.time() - row.due_at / SECOND))
                if booking is not None:
                    row, event = self._present(row, link, booking)
                    outcome = self._finish(row, Happening.PUSHED, event)
                else:
                    self._absent(row, link)
                    outcome = self._finish(row, Happening.TAKEN_OUT, None)
            self._grants.went_well([connection], load.now)
            return outcome, "OK"
        except HostClosed as error:
            return self._postpone(row, error), error.reason
        except LeaseLost:
            return self._yield(row), "OK"
        except NotFound:
            # Disconnected under our hands; the row is detached and no longer ours.
            return self._yield(row), "OK"
        except NeedsReauth as error:
            # It waits without a due time; the renewal of the connection makes it due.
            outcome = self._put_off(row, error, due_at=None)
            self._due_if_renewed(row)
            return outcome, error.reason
        except (CalendarGone, CalendarReadOnly, ProviderRefused) as error:
            if row.wanted == "absent" and isinstance(error, CalendarGone) and row.attempts + 1 < GONE_TRIES:
                return self._defer(row, error), error.reason
            return self._refused(row, error), error.reason
        except CalendarError as error:
            return self._defer(row, error), error.reason
        except Exception:
            _log.exception("push_broke", extra={"connection": row.connection_id})
            broken = ProviderUnavailable("The push failed for a reason inside this service.")
            return self._defer(row, broken), "INTERNAL"

    def _booking(self, row: OutboxRow, stored: BookingRow) -> Booking:
        if stored.revision != row.wanted_revision:
            raise LeaseLost
        return self._contents.open(stored)[0]

    def _present(self, row: OutboxRow, link: Link, booking: Booking) -> tuple[OutboxRow, RemoteEvent]:
        provider = self._providers[link.connection.provider]
        deadline = Deadline.after(self._push_s)
        spent = 0
        # What nobody has tried to write is not there; and were it there after all (a database that was restored, another
        # connection of the same account), the write says so, or meets that very event.
        untried = provider.makes_once and row.attempts == 0 and row.pushed_revision == 0
        for _ in range(LOOKS_MOST):
            known = None if untried else self._look(row, link, provider, deadline)
            if known is not None:
                row = self._identified(row, known)
            if known is None and row.pushed_revision > 0:
                # It stood there and is gone: its owner deleted it, and this revision makes it again. Deleted ids may
                # stay taken (Google's tombstones, trash bins), so the event gets a new one.
                row = self._regenerate(row, link.connection, provider)
                known = provider.find_event(link, _ref(row), deadline)
            # Whatever revision the event says it shows: what we hold the lease of is the newest that was acknowledged.
            # The event's own word may be its owner's, or older than a database that was restored.
            try:
                return row, provider.put_event(self._guarded(link, row), _ref(row), booking, known, deadline)
            except PreconditionFailed:
                untried = False
                if known is None and provider.find_event(link, _ref(row), deadline) is None:
                    # Not there, and yet it cannot be made: the id is spent, or another calendar holds it.
                    spent += 1
                    if spent >= GENERATIONS_MOST:
                        break
                    row = self._regenerate(row, link.connection, provider)
        raise ProviderUnavailable("The event keeps changing at the provider while it is written.")

    def _absent(self, row: OutboxRow, link: Link) -> None:
        """Take the event out. Raises ``CalendarGone`` where a calendar that is said to be gone is still listed.

        One answer is not enough to believe it: what is REMOVED is forgotten, and an event that stayed in the calendar
        after all would look like somebody else's, for good.
        """
        provider = self._providers[link.connection.provider]
        deadline = Deadline.after(self._push_s)
        try:
            self._take_out(row, link, provider, deadline)
        except CalendarGone:
            if any(calendar.id == row.calendar_id for calendar in provider.list_calendars(link, deadline)):
                raise

    def _take_out(self, row: OutboxRow, link: Link, provider: Provider, deadline: Deadline) -> None:
        for _ in range(LOOKS_MOST):
            if self._wanted_by_another(row):
                return
            known = self._look(row, link, provider, deadline)
            if known is None:
                return
            row = self._identified(row, known)
            # Looked at again whatever was answered: what stays behind after all would look like somebody else's, for good.
            with suppress(PreconditionFailed):
                provider.delete_event(self._guarded(link, row), _ref(row, known), known, deadline)
        raise ProviderUnavailable("The event keeps changing at the provider while it is taken out.")

    def _look(self, row: OutboxRow, link: Link, provider: Provider, deadline: Deadline) -> RemoteEvent | None:
        """The event as it stands; None where it does not.

        Of one that was written a single answer is not enough to believe that it is gone: made again under a new identity
        there would be two of it, and forgotten it would look like somebody else's. A server that has lost its way for a
        moment does not list calendars either.

        One that may have been made by an attempt without an answer, under an id that the provider gave, is looked for more
        often than once: unfound it would look like somebody else's.
        """
        try:
            known = provider.find_event(link, _ref(row), deadline)
        except (CalendarGone, CalendarReadOnly, ProviderRefused) as error:
            if may_stand_unknown(row) and row.attempts + 1 < GONE_TRIES:
                raise ProviderUnavailable(
                    "An earlier attempt may have made the event, and at this moment it cannot be seen."
                ) from error
            raise
        if known is None and row.pushed_revision > 0:
            try:
                provider.list_calendars(link, deadline)
            except (CalendarGone, CalendarReadOnly, ProviderRefused) as error:
                if row.attempts + 1 < GONE_TRIES:
                    raise ProviderUnavailable(
                        "The event is gone, and the account does not list its calendars."
                    ) from error
            known = provider.find_event(link, _ref(row), deadline)
        return known

    def _identified(self, row: OutboxRow, known: RemoteEvent) -> OutboxRow:
        """The row with the event's id, on disk before anything else is asked.

        It is new where the answer to the push that made the event got lost. Unknown, what is read of the event would look
        like somebody else's: until the next read if it is taken out now, and for good if the provider refuses that.
        """
        if known.event_id == row.event_id:
            return row
        if not self._store.outbox.hold(row.id, row.lease_token, event_id=known.event_id):
            raise LeaseLost
        return dataclasses.replace(row, event_id=known.event_id)

    def _wanted_by_another(self, row: OutboxRow) -> bool:
        """Whether the very same event is to stay for another connection: one account, connected by two owners."""
        return any(
            other.id != row.id and other.uid == row.uid and other.wanted == "present" and other.state in _SHOWING
            for other in self._store.outbox.of_booking(row.organization_id, row.booking_id)
        )

    def _guarded(self, link: Link, row: OutboxRow) -> Link:
        """The link for a write: right before its first exchange the lease is looked at once more, with the connection.

        The event's version fences what happens after this. What is asked after a write only needs a live connection: were
        the lease lost by then, what was written still has to be stored for whoever is next.
        """
        looked_at: float | None = None

        def check() -> None:
            nonlocal looked_at
            if looked_at is not None:
                if time.monotonic() - looked_at > LOOK_S:
                    link.check()
                return
            looked_at = time.monotonic()
            ours, live = self._store.outbox.stands(row, link.connection.id)
            if not live:
                raise disconnected()
            if not ours:
                raise LeaseLost

        return dataclasses.replace(link, check=check)

    def _regenerate(self, row: OutboxRow, connection: Connection, provider: Provider) -> OutboxRow:
        """Give the event a new identity, on disk before anything is written under it."""
        renewed = next_generation(row, connection, provider)
        if row.event_id:
            # The last read may hold the event under the id that we forget here, as if it were somebody else's.
            self._store.mirror.note_change(connection.id, CalendarId(row.calendar_id), self._store.now())
        held = self._store.outbox.hold(
            row.id,
            row.lease_token,
            generation=renewed.generation,
            uid=renewed.uid,
            event_id=renewed.event_id,
            pushed_revision=0,
            etag="",
            web_link="",
        )
        if not held:
            raise LeaseLost
        return renewed

    def _finish(self, row: OutboxRow, happening: Happening, event: RemoteEvent | None) -> str:
        written: dict[str, object] = {
            "pushed_revision": row.wanted_revision if event else 0,
            "etag": event.etag if event else "",
            "web_link": event.web_link if event else "",
            "pushed_at": NOW,
            # Whatever its owner had made of it, it is as it was written now.
            "drift": Drift.NONE,
            "drift_at": 0,
        }
        if event:
            written["event_id"] = event.event_id
        state = moved(row.state, happening)
        done = self._store.outbox.finish(
            row.id,
            row.lease_token,
            row.wanted_revision,
            row.wanted,
            state=state,
            due_at=None,
            attempts=row.attempts + 1,
            problem_reason="",
            problem_message="",
            updated_at=NOW,
            **written,
        )
        if not done:
            # A newer revision came while we wrote. It is due already; it only has to know what stands there now.
            return self._yield_written(row, **written)
        return str(state)

    def _refused(self, row: OutboxRow, error: CalendarError) -> str:
        done = self._store.outbox.finish(
            row.id,
            row.lease_token,
            row.wanted_revision,
            row.wanted,
            state=moved(row.state, Happening.REFUSED),
            due_at=None,
            attempts=row.attempts + 1,
            problem_reason=error.reason,
            problem_message=error.message,
            updated_at=NOW,
        )
        return "failed" if done else self._yield(row)

    def _defer(self, row: OutboxRow, error: CalendarError) -> str:
        asked = error.retry_after_s if isinstance(error, ProviderThrottled) else None
        seconds = retry_after_s(row.attempts + 1, asked, random.random())  # noqa: S311 — spreads retries
        return self._put_off(row, error, due_at=self._store.now() + int(seconds * SECOND))

    def _postpone(self, row: OutboxRow, error: HostClosed) -> str:
        """Nothing was asked of the host, so it was no attempt. The connection's other rows need not find that out."""
        until = self._store.now() + int((error.retry_after_s or 1) * SECOND)
        outcome = self._put_off(row, error, due_at=until, attempts=row.attempts)
        self._store.outbox.postpone(row.connection_id, until)
        return outcome

    def _put_off(self, row: OutboxRow, error: CalendarError, due_at: int | None, attempts: int | None = None) -> str:
        done = self._store.outbox.finish(
            row.id,
            row.lease_token,
            row.wanted_revision,
            row.wanted,
            state=moved(row.state, Happening.DEFERRED),
            due_at=due_at,
            attempts=row.attempts + 1 if attempts is None else attempts,
            problem_reason=error.reason,
            problem_message=error.message,
            updated_at=NOW,
        )
        # What is wanted has changed meanwhile. Whether this one was written is not known: the next push looks first.
        return "deferred" if done else self._yield_written(row, attempts=1)

    def _due_if_renewed(self, row: OutboxRow) -> None:
        """A renewal that came between the refusal and our storing of it has made nothing due that was not waiting yet."""
        connection = self._store.connections.get(row.organization_id, row.connection_id)
        if connection is not None and connection.status is ConnectionStatus.ACTIVE:
            self._store.outbox.make_due(row.connection_id, self._store.now())

    def _yield_written(self, row: OutboxRow, **changes: object) -> str:
        """Yield a row for which something was written, or may have been.

        If the lease was lost meanwhile, whoever has it since may have written before us. Versions fence that, but some
        servers heed none (SOGo), and show what is older now: so the row is looked at once more when it is free.
        """
        if not self._store.outbox.release(row.id, row.lease_token, **changes):
            for _ in range(FREE_TRIES):
                if self._store.outbox.look_again(row.id):
                    break
                # Whoever pushes it now may have written before us as well, and would end as if all were well.
                time.sleep(FREE_S)
            else:
                _log.warning("late_write_not_looked_at", extra={"connection": row.connection_id})
        return "yielded"

    def _yield(self, row: OutboxRow, **changes: object) -> str:
        self._store.outbox.release(row.id, row.lease_token, **changes)
        return "yielded"


def _ref(row: OutboxRow, known: RemoteEvent | None = None) -> EventRef:
    return EventRef(CalendarId(row.calendar_id), row.uid, known.event_id if known else EventId(row.event_id))
