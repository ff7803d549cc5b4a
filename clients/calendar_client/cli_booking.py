"""``calendarctl book``, ``reschedule``, ``cancel`` and ``booking``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr
from typing import TypeVar

import click
from rich.text import Text

from calendar_client.cli_completion import complete_connection
from calendar_client.cli_errors import CONFLICT, INCOMPLETE, OK, PERSON
from calendar_client.cli_progress import sentence, settle
from calendar_client.cli_session import Session, clean, shared_options
from calendar_client.cli_state import print_booking
from calendar_client.cli_time import Zone, instant, parse_moment
from calendar_client.client import CalendarClient
from calendar_client.requests import WAIT_MOST_S
from calendars.v1 import booking_pb2
from calendars.v1.calendar_service_pb2 import GetBookingResponse, SyncBookingResponse

CommandT = TypeVar("CommandT", bound=Callable[..., object])

DEFAULT_MINUTES = 30
MINUTES_MOST = 366 * 24 * 60

_WRITING = "Writing into the calendars …"

_start = "Start, such as 2026-03-17T10:00 or 'friday 10:00', in your zone unless it ends in an offset or Z."
_id = click.argument("booking_id", metavar="ID")
_end = click.option("--end", metavar="TIME", help="End, written like the start.")
_minutes = click.option("--minutes", type=click.IntRange(1, MINUTES_MOST), help="Length, instead of --end.")
_connections = click.option(
    "--connection",
    "connections",
    multiple=True,
    metavar="ID",
    shell_complete=complete_connection,
    help="Write into this connection; repeatable.",
)
_owner = click.option("--owner", metavar="ID", help="Write into the connections of this owner.")
_free = click.option(
    "--require-free", is_flag=True, help="Only if nothing else blocks the time. Exit code 7 if it is taken."
)
_wait = click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, WAIT_MOST_S),
    default=10.0,
    help="Seconds to wait until the calendars show it; 0: do not wait. [10]",
)


@click.command()
@_id
@click.option("--title", default="", help="The event's title.")
@click.option("--start", required=True, metavar="TIME", help=_start)
@_end
@_minutes
@click.option("--description", default="", help="The event's text.")
@click.option("--location", default="", help="Where it takes place.")
@click.option(
    "--attendee",
    "attendees",
    multiple=True,
    metavar="WHO",
    help='"Anna <anna@example.org>"; repeatable. Text only: nobody is invited.',
)
@click.option("--url", default="", help="A page about it.")
@click.option("--revision", type=click.IntRange(min=1), default=1, help="Revision, grows with each change. [1]")
@_connections
@_owner
@_free
@_wait
@shared_options
@click.pass_obj
def book(
    session: Session,
    booking_id: str,
    title: str,
    start: str,
    end: str | None,
    minutes: int | None,
    description: str,
    location: str,
    attendees: Sequence[str],
    url: str,
    revision: int,
    connections: Sequence[str],
    owner: str | None,
    require_free: bool,
    wait_s: float,
) -> None:
    """Write an appointment into the calendars.

    The id is your own; `reschedule`, `cancel` and `booking` know it by that.

    Without --connection and --owner it goes to the connections that have no owner. Running it again is harmless.
    """
    _check_target(connections, owner)
    zone = session.zone
    begins = _moment(start, zone, "--start")
    ends = _end_of(begins, end, minutes, zone) or begins.astimezone(UTC) + timedelta(minutes=DEFAULT_MINUTES)
    with session.client() as client:

        def send(wait: timedelta) -> SyncBookingResponse:
            return client.sync_booking(
                booking_id,
                revision,
                title=title,
                description=description,
                location=location,
                start=begins,
                end=ends,
                time_zone=zone.iana,
                attendees=[_attendee(each) for each in attendees],
                url=url,
                connection_ids=connections,
                owner=owner,
                require_free=require_free,
                wait=wait,
            )

        answer = settle(session, client, booking_id, send, text=_WRITING, wait_s=wait_s)
        _finish(session, client, answer, revision, wait_s, "Booked")


@click.command()
@_id
@click.option("--start", metavar="TIME", help=_start)
@_end
@_minutes
@click.option("--title", help="A new title.")
@click.option("--location", help="A new place.")
@click.option("--description", help="A new text.")
@_connections
@_owner
@_free
@_wait
@shared_options
@click.pass_obj
def reschedule(
    session: Session,
    booking_id: str,
    start: str | None,
    end: str | None,
    minutes: int | None,
    title: str | None,
    location: str | None,
    description: str | None,
    connections: Sequence[str],
    owner: str | None,
    require_free: bool,
    wait_s: float,
) -> None:
    """Move a booking, or change what it says.

    What is not given stays; so does its length when only --start is given.
    """
    _check_target(connections, owner)
    if all(each is None for each in (start, end, minutes, title, location, description, owner)) and not connections:
        raise click.UsageError("Nothing to change: give --start, for one.")
    zone = session.zone
    with session.client() as client:
        known = client.get_booking(booking_id)
        booking = known.booking
        if booking.status == booking_pb2.BOOKING_STATUS_CANCELLED:
            raise click.UsageError(
                f"{clean(booking_id)} is cancelled. To make it again: "
                f"calendarctl book {clean(booking_id)} --revision {booking.revision + 1} …"
            )
        begins = instant(booking.start_time) if start is None else _moment(start, zone, "--start")
        ends = _end_of(begins, end, minutes, zone)
        if ends is None:
            stays = start is None
            ends = (
                instant(booking.end_time)
                if stays
                else begins.astimezone(UTC) + (instant(booking.end_time) - instant(booking.start_time))
            )

        def send(wait: timedelta) -> SyncBookingResponse:
            return client.sync_booking(
                booking_id,
                booking.revision + 1,
                title=booking.title if title is None else title,
                description=booking.description if description is None else description,
                location=booking.location if location is None else location,
                start=begins,
                end=ends,
                time_zone=booking.time_zone,
                attendees=booking.attendees,
                url=booking.url,
                connection_ids=connections or (() if owner is not None else _shown_in(known)),
                owner=owner,
                require_free=require_free,
                wait=wait,
            )

        answer = settle(session, client, booking_id, send, text=_WRITING, wait_s=wait_s)
        done = "Moved" if start or end or minutes else "Changed"
        _finish(session, client, answer, booking.revision + 1, wait_s, done)


@click.command()
@_id
@_wait
@shared_options
@click.pass_obj
def cancel(session: Session, booking_id: str, wait_s: float) -> None:
    """Take a booking out of the calendars again."""
    with session.client() as client:
        known = client.get_booking(booking_id).booking

        def send(wait: timedelta) -> SyncBookingResponse:
            return client.sync_booking(booking_id, known.revision + 1, status="cancelled", wait=wait)

        answer = settle(session, client, booking_id, send, text="Taking it out of the calendars …", wait_s=wait_s)
        _finish(session, client, answer, known.revision + 1, wait_s, "Cancelled")


@click.command()
@_id
@shared_options
@click.pass_obj
def booking(session: Session, booking_id: str) -> None:
    """Show a booking and where it stands."""
    with session.client() as client:
        answer = client.get_booking(booking_id)
        if session.json:
            session.print_json(answer)
            return
        session.learn_labels(client, [each.connection_id for each in answer.events])
    print_booking(session.out, answer.booking, answer.events, session)


def outcome(answer: SyncBookingResponse, wait_s: float) -> int:
    """The exit code for where the booking stands: a refused calendar needs a person, a late or missing one is incomplete."""
    states = {each.state for each in answer.events}
    cancelled = answer.booking.status == booking_pb2.BOOKING_STATUS_CANCELLED
    if booking_pb2.BOOKING_EVENT_STATE_FAILED in states:
        return PERSON
    if booking_pb2.BOOKING_EVENT_STATE_GONE in states and not cancelled:
        return PERSON
    if booking_pb2.BOOKING_EVENT_STATE_PENDING in states and wait_s:
        return INCOMPLETE
    return OK if cancelled or states else INCOMPLETE


def _finish(
    session: Session, client: CalendarClient, answer: SyncBookingResponse, revision: int, wait_s: float, done: str
) -> None:
    """Print where the booking stands, and leave with the exit code that fits."""
    code = outcome(answer, wait_s)
    superseded = answer.booking.revision != revision
    if session.json:
        session.print_json(answer)
    else:
        session.learn_labels(client, [each.connection_id for each in answer.events])
        if superseded:
            text = f"Revision {answer.booking.revision} is there already, so this one changed nothing. The booking as it is:"
            session.out.print(Text(text, style="bold yellow"))
        print_booking(session.out, answer.booking, answer.events, session)
        if not superseded:
            session.out.print()
            session.out.print(Text.assemble(" ", sentence(answer, done)))
        _print_rest(session, answer, code)
    click.get_current_context().exit(CONFLICT if superseded else code)


def _print_rest(session: Session, answer: SyncBookingResponse, code: int) -> None:
    """What is left to do, if anything."""
    booking_id = clean(answer.booking.id)
    if any(each.state == booking_pb2.BOOKING_EVENT_STATE_PENDING for each in answer.events):
        session.out.print(
            Text(f" It is stored and will be done. To look again: calendarctl booking {booking_id}", style="dim"),
            soft_wrap=True,
        )
    if code == PERSON:
        session.out.print(Text(" A calendar does not take it. When its owner has mended that, send a new revision:"))
        session.out.print(Text(f" calendarctl reschedule {booking_id} …", style="cyan"))
    if not answer.events and code == INCOMPLETE:
        session.out.print(
            Text(" Choose a calendar for bookings with `calendarctl choose`, then reschedule.", style="dim")
        )


def _shown_in(known: GetBookingResponse) -> list[str]:
    """The connections that a booking stands in, for a revision that keeps them. Raises ``click.UsageError`` for none."""
    left = (booking_pb2.BOOKING_EVENT_STATE_REMOVED, booking_pb2.BOOKING_EVENT_STATE_DETACHED)
    ids = [each.connection_id for each in known.events if each.state not in left]
    if not ids:
        raise click.UsageError("No calendar shows this booking. Say where it goes with --connection or --owner.")
    return list(dict.fromkeys(ids))


def _check_target(connections: Sequence[str], owner: str | None) -> None:
    if connections and owner is not None:
        raise click.UsageError("Use --connection or --owner, not both.")


def _moment(text: str, zone: Zone, option: str) -> datetime:
    try:
        return parse_moment(text, zone)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _end_of(begins: datetime, end: str | None, minutes: int | None, zone: Zone) -> datetime | None:
    """The end that was given, or None. Minutes are real minutes, also over a change of the clocks."""
    if end is not None and minutes is not None:
        raise click.UsageError("Use --end or --minutes, not both.")
    if minutes is not None:
        return begins.astimezone(UTC) + timedelta(minutes=minutes)
    return None if end is None else _moment(end, zone, "--end")


def _attendee(text: str) -> tuple[str, str]:
    name, address = parseaddr(text)
    if not address:
        raise click.BadParameter(
            f'{text!r} is not an address: write "Anna <anna@example.org>".', param_hint="--attendee"
        )
    return address, name
