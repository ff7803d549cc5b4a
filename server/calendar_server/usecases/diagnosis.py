"""One connection, looked at step by step with the real provider code: what does not work, and who can mend it.

Nothing is changed but what every use changes (how the last conversation went), and one event of a minute in the past that
is written and removed again.
"""

from __future__ import annotations

import email.utils
import logging
import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from calendar_server.core.booking import event_uid
from calendar_server.core.model import (
    DAY,
    MINUTE,
    SECOND,
    UNTOLD,
    Booking,
    BookingId,
    BookingStatus,
    Calendar,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    Interval,
    ProviderName,
)
from calendar_server.errors import CalendarError, ForbiddenDestination, NeedsReauth, ProviderUnavailable
from calendar_server.findings import REMEDIES, Finding, failed, warning
from calendar_server.providers.base import Deadline, EventRef, Link, Provider, RemoteEvent
from calendar_server.providers.egress import Answer
from calendar_server.providers.egress_gate import NameUnknown
from calendar_server.providers.egress_probe import Handshake
from calendar_server.store.store import Store
from calendar_server.usecases.grants import Grants

_log = logging.getLogger(__name__)

STEP_S = 15.0
"""Seconds for one step."""
SOON = 14 * DAY
SKEW_S = 120
"""Seconds that a server's clock may differ: the Date header has whole seconds, and answers take time."""
TITLE = "Write test of the calendar service (removed again)"

_FAULTS = {
    "not_reached": ("NOT_REACHED", "No connection to the server could be made."),
    "no_tls": ("NO_TLS", "The server does not answer with TLS that can be accepted."),
    "expired": ("CERTIFICATE_ENDED", "The server's certificate ended on {end}."),
    "not_yet": ("CERTIFICATE_NOT_YET", "The server's certificate is not valid yet."),
    "other_name": ("CERTIFICATE_OTHER_NAME", "The server's certificate is for another name."),
    "untrusted": ("CERTIFICATE_UNTRUSTED", "The server's certificate is of an authority that is not trusted here."),
}
_APP_PASSWORDS = {
    "apple": ("APP_PASSWORD_APPLE", "This looks like the Apple ID's own password."),
    "fastmail": ("APP_PASSWORD_FASTMAIL", "This looks like the account's own password."),
    "nextcloud": ("APP_PASSWORD_NEXTCLOUD", "The server does not accept this password."),
}


class Way(Protocol):
    """The part of ``Egress`` that is needed to look at a server from outside."""

    def check(self, url: str, deadline: Deadline | None = None) -> None: ...

    def probe(self, url: str, deadline: Deadline, *, trusted: bool = False) -> Handshake: ...

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        deadline: Deadline,
        trusted: bool = False,
    ) -> Answer: ...


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a provider's calendars are, as the operator set it, and where an administrator consents."""

    url: str
    consent_url: str = ""


class Diagnosis:
    """Looks at connections. ``upstreams``: those of OAuth providers; a CalDAV connection has its own server."""

    def __init__(
        self,
        store: Store,
        grants: Grants,
        providers: Mapping[ProviderName, Provider],
        way: Way,
        upstreams: Mapping[ProviderName, Upstream],
    ):
        self._store = store
        self._grants = grants
        self._providers = providers
        self._way = way
        self._upstreams = upstreams

    def examine(self, connection_id: ConnectionId, *, writes: bool = True) -> Iterator[Finding]:
        """Every step in order. A step that the one before stands in the way of is skipped."""
        connection = self._store.connections.find(connection_id)
        if connection is None:
            yield failed("connection", "NO_SUCH_CONNECTION", "There is no such connection.")
            return
        yield Finding("connection", message=f"{connection.provider}, connected since {_day(connection.connected_at)}")
        try:
            self._grants.opened(connection)
            yield Finding("stored access")
        except CalendarError as error:
            yield failed("stored access", "GRANT_UNOPENABLE", error.message)
            return
        reached = yield from self._outside(connection)
        if connection.status is ConnectionStatus.NEEDS_REAUTH:
            yield self._refused(connection, NeedsReauth(), "sign-in")
            return
        if not reached:
            yield Finding("sign-in", "skipped", message="The server is not reached.")
            return
        yield from self._inside(connection, writes)

    # From outside: nothing of the account is used.

    def _outside(self, connection: Connection) -> Generator[Finding, None, bool]:
        """Whether the server is reached."""
        upstream = self._upstreams.get(connection.provider)
        url, trusted = (upstream.url, True) if upstream else (connection.settings.get("base", ""), False)
        try:
            if not trusted:
                self._way.check(url, Deadline.after(STEP_S))
            yield Finding("name")
        except NameUnknown as error:
            yield failed("name", "NAME_UNKNOWN", error.message)
            return False
        except ForbiddenDestination as error:
            yield failed("name", "EGRESS_FORBIDDEN", error.message)
            return False
        except CalendarError as error:
            yield failed("name", "PROVIDER_UNAVAILABLE", error.message)
            return False
        if url.startswith("http://"):
            yield warning("certificate", "PLAIN_HTTP", "The server is spoken to without TLS.")
        else:
            handshake = self._shake(url, trusted)
            yield _of_handshake(handshake, self._store.now())
            if handshake.fault:
                return False
        clock = self._clock(url, trusted)
        yield clock
        return clock.level != "failed"

    def _shake(self, url: str, trusted: bool) -> Handshake:
        try:
            return self._way.probe(url, Deadline.after(STEP_S), trusted=trusted)
        except CalendarError:
            return Handshake("not_reached")

    def _clock(self, url: str, trusted: bool) -> Finding:
        try:
            answer = self._way.exchange("OPTIONS", url, headers={}, deadline=Deadline.after(STEP_S), trusted=trusted)
        except CalendarError as error:
            return failed("answer and clock", "NOT_REACHED", error.message)
        try:
            told = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
        except ValueError:
            return Finding("answer and clock", message="The server does not tell its time.")
        skew = round(told - time.time())
        if abs(skew) > SKEW_S:
            way = "ahead of" if skew > 0 else "behind"
            return warning("answer and clock", "CLOCK_SKEW", f"Its clock is {abs(skew)} seconds {way} ours.")
        return Finding("answer and clock")

    # From inside: with the account's own access.

    def _inside(self, connection: Connection, writes: bool) -> Iterator[Finding]:
        provider = self._providers[connection.provider]
        try:
            with self._grants.use(connection) as link:
                calendars = provider.list_calendars(link, Deadline.after(STEP_S))
        except CalendarError as error:
            yield self._refused(connection, error, "sign-in")
            return
        yield Finding("sign-in")
        yield from _of_calendars(connection, calendars)
        there = {calendar.id for calendar in calendars}
        for number, calendar_id in enumerate(connection.busy_calendar_ids, 1):
            if calendar_id in there:
                step = f"read ({number} of {len(connection.busy_calendar_ids)})"
                yield self._tried(connection, step, partial(self._read, calendar_id=calendar_id))
        target = next((each for each in calendars if each.id == connection.calendar_id), None)
        if target is None or not target.writable:
            return
        if not writes:
            yield Finding("write", "skipped", message="Not asked for.")
            return
        yield self._tried(connection, "write", self._write)

    def _tried(self, connection: Connection, step: str, act: _Act) -> Finding:
        # Read again: an earlier step may have renewed the access, or learned that it is refused.
        current = self._store.connections.find(connection.id) or connection
        try:
            with self._grants.use(current) as link:
                found = act(link)
        except CalendarError as error:
            return self._refused(connection, error, step)
        except Exception:
            _log.exception("doctor_broke")
            return failed(step, "INTERNAL", "The step broke for a reason inside this service.")
        return Finding(step, found.level, found.code, found.message)

    def _read(self, link: Link, calendar_id: CalendarId) -> Finding:
        now = self._store.now()
        provider = self._providers[link.connection.provider]
        read = provider.read_calendar(link, calendar_id, Interval(now, now + 30 * DAY), Deadline.after(STEP_S))
        broken = [each for each in read.unreadable if each.event_id != UNTOLD]
        if broken:
            return warning("", "EVENT_UNREADABLE", f"{len(broken)} event(s) cannot be read.")
        return Finding("", message=f"{len(read.events)} event(s) in the next 30 days")

    def _write(self, link: Link) -> Finding:
        """Write an event, find it, remove it. It is a minute of yesterday: whatever becomes of it, nobody is kept busy."""
        connection, deadline = link.connection, Deadline.after(2 * STEP_S)
        provider = self._providers[connection.provider]
        name = BookingId(f"doctor-{secrets.token_hex(8)}")
        uid = event_uid(
            connection.organization_id, connection.provider, connection.subject, connection.calendar_id, name, 1
        )
        start = (self._store.now() - DAY) // MINUTE * MINUTE
        booking = Booking(
            name, 1, BookingStatus.CONFIRMED, title=TITLE, start=start, end=start + MINUTE, time_zone="UTC"
        )
        ref = EventRef(connection.calendar_id, uid, provider.event_id(connection.calendar_id, uid))
        known: RemoteEvent | None = None
        try:
            known = provider.put_event(link, ref, booking, None, deadline)
            return Finding("", message="An event was written and removed again.")
        finally:
            # Also after an answer that leaves in doubt whether it was written.
            self._remove(provider, link, ref, known)

    def _remove(self, provider: Provider, link: Link, ref: EventRef, known: RemoteEvent | None) -> None:
        deadline = Deadline.after(STEP_S)
        try:
            ours = ref if known is None else EventRef(ref.calendar_id, ref.uid, known.event_id)
            found = provider.find_event(link, ours, deadline)
            if found is not None:
                provider.delete_event(link, EventRef(ref.calendar_id, ref.uid, found.event_id), found, deadline)
        except CalendarError as error:
            if known is not None:
                raise _Left(error.message) from error

    def _refused(self, connection: Connection, error: CalendarError, step: str) -> Finding:
        if isinstance(error, _Left):
            return failed(step, "PROBE_LEFT", f"The event of the write test could not be removed: {error.message}")
        if isinstance(error, NeedsReauth) and connection.provider is ProviderName.CALDAV:
            preset = connection.settings.get("preset", "")
            code, message = _APP_PASSWORDS.get(
                preset, ("PASSWORD", "The server does not accept user name and password.")
            )
            return failed(step, code, message)
        code = error.reason if error.reason in REMEDIES else "PROVIDER_UNAVAILABLE"
        upstream = self._upstreams.get(connection.provider)
        link = upstream.consent_url if upstream and code == "ADMIN_CONSENT_REQUIRED" else ""
        return failed(step, code, error.message, link)


class _Act(Protocol):
    def __call__(self, link: Link, /) -> Finding: ...


class _Left(ProviderUnavailable):
    """The event of the write test stands in the calendar still."""


def _of_handshake(handshake: Handshake, now: Instant) -> Finding:
    end = _day(handshake.ends_at) if handshake.ends_at is not None else "an unknown day"
    if handshake.fault:
        code, message = _FAULTS[handshake.fault]
        return failed("certificate", code, message.format(end=end))
    if handshake.ends_at is not None and handshake.ends_at - now < SOON:
        return warning("certificate", "CERTIFICATE_ENDS_SOON", f"The server's certificate ends on {end}.")
    return Finding("certificate", message=f"valid until {end}")


def _of_calendars(connection: Connection, calendars: Sequence[Calendar]) -> Iterator[Finding]:
    if not calendars:
        yield failed("calendars", "NO_CALENDARS", "The account has no calendar.")
        return
    yield Finding("calendars", message=f"{len(calendars)} in the account")
    by_id = {calendar.id: calendar for calendar in calendars}
    missing = [each for each in connection.busy_calendar_ids if each not in by_id]
    if missing:
        number = f"{len(missing)} of {len(connection.busy_calendar_ids)}"
        yield failed("calendars that block", "CALENDAR_GONE", f"{number} calendars that block are gone.")
    else:
        yield Finding("calendars that block", message=str(len(connection.busy_calendar_ids)))
    if not connection.calendar_id:
        yield warning("calendar for bookings", "NO_WRITABLE_CALENDAR", "None is chosen.")
    elif connection.calendar_id not in by_id:
        yield failed("calendar for bookings", "CALENDAR_GONE", "The calendar that receives bookings is gone.")
    elif not by_id[connection.calendar_id].writable:
        yield failed("calendar for bookings", "CALENDAR_READ_ONLY", "It cannot be written to.")
    else:
        yield Finding("calendar for bookings")


def _day(instant: Instant) -> str:
    return datetime.fromtimestamp(instant / SECOND, UTC).date().isoformat()
