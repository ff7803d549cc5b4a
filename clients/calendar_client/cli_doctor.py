"""``calendarctl doctor``: one connection, step by step, by the calls that everybody makes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import click
from rich.text import Text

from calendar_client.cli_completion import complete_connection
from calendar_client.cli_errors import PERSON, next_steps
from calendar_client.cli_json import JsonValue
from calendar_client.cli_session import Session, account_text, clean, shared_options
from calendar_client.client import CalendarClient
from calendar_client.errors import CalendarServiceError, NotFound
from calendars.v1 import booking_pb2, connection_pb2, errors_pb2
from calendars.v1.calendar_service_pb2 import SyncBookingResponse

Level = Literal["ok", "warning", "failed", "skipped"]

TITLE = "Write test of calendarctl (removed again)"
DAYS = 30
SKEW_MOST = timedelta(seconds=60)
WRITE_WAIT = timedelta(seconds=20)
_STYLES = {"ok": "bold green", "warning": "bold yellow", "failed": "bold red", "skipped": "dim"}
_WORDS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL", "skipped": "skip"}


@dataclass(frozen=True, slots=True)
class Finding:
    """How one step ended, and what to do about it."""

    step: str
    level: Level = "ok"
    code: str = ""
    message: str = ""
    remedies: tuple[str, ...] = ()


@click.command()
@click.argument("connection_id", metavar="CONNECTION", shell_complete=complete_connection)
@click.option("--no-write", is_flag=True, help="Leave out the test that writes an event and removes it again.")
@shared_options
@click.pass_obj
@click.pass_context
def doctor(context: click.Context, session: Session, connection_id: str, no_write: bool) -> None:
    """Look at one connection, step by step, and say what is wrong.

    Asks for the account, its calendars and its busy times as they are now, then writes an event of a minute of yesterday
    into the calendar that receives bookings and removes it again. Exit code 0: nothing failed; 5: something did.

    The service's operator sees more (names, certificates, clocks): `calendar-server doctor CONNECTION`.
    """
    found: list[Finding] = []
    with session.client() as client:
        for finding in _examined(client, session, connection_id, writes=not no_write):
            found.append(finding)
            if not session.json:
                _print(session, finding)
    ok = not any(finding.level == "failed" for finding in found)
    if session.json:
        session.print_json({"ok": ok, "findings": [_as_json(finding) for finding in found]})
    if not ok:
        context.exit(PERSON)


def _examined(client: CalendarClient, session: Session, connection_id: str, *, writes: bool) -> Iterator[Finding]:
    # What ends every command ends this one as well: no such connection, no key, nobody there.
    connection = next(client.list(ids=[connection_id]), None)
    if connection is None:
        raise NotFound("There is no such connection. `calendarctl list` shows the ones there are.")
    yield _of_connection(connection)
    listed = yield from _tried(session, "calendars", lambda: _calendars(client, connection))
    if not listed:
        return
    yield from _tried(session, "read", lambda: _read(client, connection))
    if not connection.calendar_id:
        yield Finding("write", "skipped", message="No calendar receives bookings; choose one: calendarctl choose")
    elif not writes:
        yield Finding("write", "skipped", message="Not asked for.")
    else:
        yield from _tried(session, "write", lambda: _write(client, connection))


def _tried(session: Session, step: str, act: Callable[[], list[Finding]]) -> Generator[Finding, None, bool]:
    """The findings of a step. Answers whether it could be made."""
    try:
        with session.waiting(f"{step} …"):
            found = act()
    except CalendarServiceError as error:
        yield Finding(
            step, "failed", error.reason or error.code.name, error.message, tuple(next_steps(error, session, "doctor"))
        )
        return False
    yield from found
    return True


def _of_connection(connection: connection_pb2.Connection) -> Finding:
    name = account_text(connection)
    if connection.status == connection_pb2.CONNECTION_STATUS_NEEDS_REAUTH:
        again = f"Connect the account again: calendarctl connect … --connection {clean(connection.id)}"
        return Finding("connection", "failed", "NEEDS_REAUTH", f"{name} is no longer let in.", (again,))
    if connection.sync_status == connection_pb2.SYNC_STATUS_ERROR:
        return Finding("connection", "warning", "", f"{name}: {connection.sync_error}")
    return Finding("connection", message=name)


def _calendars(client: CalendarClient, connection: connection_pb2.Connection) -> list[Finding]:
    calendars = {calendar.id: calendar for calendar in client.list_calendars(connection.id).calendars}
    found = [Finding("sign-in"), Finding("calendars", message=f"{len(calendars)} in the account")]
    choose = (f"Choose others: calendarctl choose {clean(connection.id)}",)
    if not calendars:
        found[1] = Finding("calendars", "failed", "NO_CALENDARS", "The account has none.", ("Make one there.",))
    gone = [each for each in connection.busy_calendar_ids if each not in calendars]
    if gone:
        told = f"{len(gone)} of {len(connection.busy_calendar_ids)} are gone."
        found.append(Finding("calendars that block", "failed", "CALENDAR_GONE", told, choose))
    target = calendars.get(connection.calendar_id)
    if connection.calendar_id and target is None:
        found.append(Finding("calendar for bookings", "failed", "CALENDAR_GONE", "It is gone.", choose))
    elif target is not None and not target.writable:
        found.append(
            Finding("calendar for bookings", "failed", "CALENDAR_READ_ONLY", "It cannot be written to.", choose)
        )
    return found


def _read(client: CalendarClient, connection: connection_pb2.Connection) -> list[Finding]:
    began = datetime.now(UTC)
    answer = client.get_busy(
        [connection.id],
        start=began,
        end=began + timedelta(days=DAYS),
        max_staleness=timedelta(),
        allow_partial=True,
        view="explained",
        allow_empty=True,
    )
    found: list[Finding] = []
    for number, calendar in enumerate(answer.calendars, 1):
        step = f"read ({number} of {len(answer.calendars)})"
        if calendar.HasField("problem"):
            found.append(Finding(step, "failed", _code(calendar.problem.reason), calendar.problem.message))
        else:
            found.append(Finding(step, message=f"{len(calendar.events)} events in the next {DAYS} days"))
    read_at = [calendar.as_of.ToDatetime(UTC) for calendar in answer.calendars if calendar.HasField("as_of")]
    if read_at:
        found.append(_clock(began, max(read_at)))
    return found or [Finding("read", "skipped", message="No calendar blocks; choose one: calendarctl choose")]


def _clock(began: datetime, read_at: datetime) -> Finding:
    """The service read after it was asked: an answer from long before, or from the future, is a matter of clocks."""
    early, late = began - read_at, read_at - datetime.now(UTC)
    if max(early, late) <= SKEW_MOST:
        return Finding("clock")
    seconds = round(max(early, late).total_seconds())
    told = f"The service's clock is {seconds} seconds {'behind' if early > late else 'ahead of'} this machine's."
    return Finding("clock", "warning", "CLOCK_SKEW", told, ("Set the clock of whichever is wrong by NTP.",))


def _write(client: CalendarClient, connection: connection_pb2.Connection) -> list[Finding]:
    """A minute of yesterday: whatever becomes of it, nobody is kept busy."""
    id = f"calendarctl-doctor-{secrets.token_hex(8)}"
    start = (datetime.now(UTC) - timedelta(days=1)).replace(second=0, microsecond=0)
    try:
        written = client.sync_booking(
            id,
            1,
            title=TITLE,
            start=start,
            end=start + timedelta(minutes=1),
            time_zone="UTC",
            connection_ids=[connection.id],
            wait=WRITE_WAIT,
        )
    finally:
        # Also when no answer came: it may be written all the same.
        removed = client.sync_booking(id, 2, status="cancelled", wait=WRITE_WAIT)
    wrong = _problem(written, booking_pb2.BOOKING_EVENT_STATE_SYNCED)
    if wrong:
        return [Finding("write", "failed", *wrong)]
    left = _problem(removed, booking_pb2.BOOKING_EVENT_STATE_REMOVED)
    if left:
        told = f"The event of the write test is not removed yet: {left[1]}"
        return [Finding("write", "failed", left[0], told, (f"See: calendarctl booking {id}",))]
    return [Finding("write", message="An event was written and removed again.")]


def _problem(answer: SyncBookingResponse, wanted: int) -> tuple[str, str] | None:
    """Code and message of the first event that is not in the wanted state."""
    for event in answer.events:
        if event.state != wanted:
            slow = "It was not done in time; the service goes on trying."
            return _code(event.problem.reason), event.problem.message or slow
    return None


def _code(reason: int) -> str:
    """The name of a reason as it stands on the wire; a number that is newer than this client as it is."""
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_number.get(reason)
    if not reason:
        return "PENDING"
    return str(reason) if value is None else value.name.removeprefix("ERROR_REASON_")


def _print(session: Session, finding: Finding) -> None:
    line = Text.assemble((_WORDS[finding.level], _STYLES[finding.level]), "  ", finding.step)
    if finding.message:
        line.append(f": {clean(finding.message)}")
    if finding.code:
        line.append(f" [{finding.code}]", style="dim")
    session.out.print(line, soft_wrap=True)
    for remedy in finding.remedies:
        session.out.print(Text.assemble("      ", ("→ ", "bold cyan"), clean(remedy)), soft_wrap=True)


def _as_json(finding: Finding) -> JsonValue:
    return {
        "step": finding.step,
        "level": finding.level,
        "code": finding.code,
        "message": finding.message,
        "remedies": list(finding.remedies),
    }
