"""How connections, calendars and bookings look in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from calendar_client.cli_session import Session, account_text, clean
from calendar_client.cli_time import ago_text, instant, length_text, moment_text, span_text
from calendar_client.words import word
from calendars.v1 import booking_pb2, connection_pb2

_STATUS = connection_pb2.ConnectionStatus.DESCRIPTOR
_SYNC = connection_pb2.SyncStatus.DESCRIPTOR
_PROVIDER = connection_pb2.Provider.DESCRIPTOR
_STATE = booking_pb2.BookingEventState.DESCRIPTOR
_DRIFT = booking_pb2.BookingEventDrift.DESCRIPTOR

PROVIDER_NAMES = {"google": "Google", "microsoft": "Microsoft", "caldav": "CalDAV"}

STATE_SIGNS = {
    "pending": ("…", "yellow"),
    "synced": ("✓", "green"),
    "failed": ("✗", "red"),
    "removed": ("✓", "green"),
    "gone": ("✗", "yellow"),
    "detached": ("–", "dim"),
}

STATE_TEXTS = {
    "pending": "on its way; the service goes on trying",
    "synced": "is in the calendar",
    "failed": "refused",
    "removed": "taken out of the calendar",
    "gone": "deleted by the calendar's owner; a new revision makes it again",
    "detached": "its connection was disconnected; the event stays as it is",
}


DRIFT_TEXTS = {
    "moved": "its owner moved it; it blocks at both times until a new revision sets it right",
    "edited": "its owner made it free, tentative or otherwise different; a new revision sets it right",
    "deleted": "its owner deleted it or moved it far away; a new revision sets it right",
}


def calendar_text(calendar_id: str) -> str:
    """A short name of a calendar: the last part of a path, else the id."""
    parts = [part for part in calendar_id.split("/") if part]
    return clean(parts[-1] if "/" in calendar_id and parts else calendar_id)


def print_connection(console: Console, connection: connection_pb2.Connection, session: Session) -> None:
    """A connection as a few lines: the account and how it is, what is chosen, and what is wrong."""
    status, sync = word(_STATUS, connection.status), word(_SYNC, connection.sync_status)
    provider = word(_PROVIDER, connection.provider)
    dead = status == "needs_reauth"
    trouble = dead or sync in ("expired", "error")
    mark, style = ("✗", "red") if dead else ("!", "yellow") if trouble else ("●", "green")
    head = Text.assemble((f" {mark} ", style), (account_text(connection), "bold"))
    head.append(f"   {PROVIDER_NAMES.get(provider, provider)}", style="cyan")
    state = "must be connected again" if dead else "active" if status == "active" else status
    head.append(f"   {state}", style="red" if dead else "")
    if connection.HasField("last_sync_at"):
        head.append(f"   last answered {ago_text(instant(connection.last_sync_at))}", style="dim")
    console.print(head)
    facts = [connection.id]
    if connection.owner:
        facts.append(f"owner {clean(connection.owner)}")
    facts.append(f"since {moment_text(instant(connection.connected_at), session.zone)}")
    console.print(Text("   " + " · ".join(facts), style="dim"), soft_wrap=True)
    if connection.calendar_id:
        receives = f"bookings go to {calendar_text(connection.calendar_id)}"
    else:
        receives = "no calendar receives bookings"
    names = [calendar_text(each) for each in connection.busy_calendar_ids]
    blocks = (
        f"{' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} block" if names else "no calendar blocks"
    )
    if len(names) == 1:
        blocks += "s"
    console.print(Padding(Text(f"{receives} · {blocks}", style="dim"), (0, 0, 0, 3), expand=False))
    if connection.HasField("sync_error") and connection.sync_error:
        console.print(Padding(Text(clean(connection.sync_error), style=style), (0, 0, 0, 3), expand=False))
    if dead:
        console.print(
            Padding(
                Text(f"→ calendarctl connect {provider} --connection {connection.id}", style="cyan"),
                (0, 0, 0, 3),
                expand=False,
            ),
            soft_wrap=True,
        )


def print_calendars(
    console: Console, calendars: Sequence[connection_pb2.Calendar], receives: str, account: str
) -> None:
    """The calendars of one account, a line each, with the id beneath: people copy it."""
    if not calendars:
        console.print(Text(f" {account} has no calendars.", style="yellow"))
        return
    console.print(Text.assemble(" ", (account, "bold"), "\n"))
    for calendar in calendars:
        line = Text(" ")
        # A provider's colour goes to the terminal only if it is one.
        colour = calendar.color if _is_colour(calendar.color) else ""
        line.append("■ ", style=colour or "dim")
        line.append(clean(calendar.name) or calendar_text(calendar.id), style="bold")
        marks = []
        marks.append("blocks" if calendar.blocks else "does not block")
        if receives and _same_calendar(calendar, receives):
            marks.append("receives bookings")
        elif not calendar.writable:
            marks.append("read only")
        if calendar.primary:
            marks.append("default")
        line.append("   " + " · ".join(marks), style="" if calendar.blocks else "dim")
        if calendar.time_zone:
            line.append(f"   {clean(calendar.time_zone)}", style="dim")
        console.print(line)
        console.print(Text(f"   {clean(calendar.id)}", style="dim"), soft_wrap=True)


def _same_calendar(calendar: connection_pb2.Calendar, receives: str) -> bool:
    # "primary" is Google's word for the default calendar, whose id is the account's address.
    return calendar.id == receives or (receives == "primary" and calendar.primary)


def _is_colour(text: str) -> bool:
    return len(text) == 7 and text[0] == "#" and all(each in "0123456789abcdefABCDEF" for each in text[1:])


def print_booking(
    console: Console, booking: booking_pb2.Booking, events: Sequence[booking_pb2.BookingEvent], session: Session
) -> None:
    """A booking and where it stands in each calendar."""
    cancelled = booking.status == booking_pb2.BOOKING_STATUS_CANCELLED
    head = Text.assemble(" ", (clean(booking.title) or "(no title)", "bold strike" if cancelled else "bold"))
    if cancelled:
        head.append("   cancelled", style="yellow")
    head.append(f"   {clean(booking.id)} · revision {booking.revision}", style="dim")
    console.print(head)
    if booking.HasField("start_time") and booking.HasField("end_time"):
        start, end = instant(booking.start_time), instant(booking.end_time)
        day = start.astimezone(session.zone.tz)
        span = span_text(start, end, session.zone, with_day=False)
        when = Text(f" {day:%A}, {day.day} {day:%B %Y}, {span}   {length_text(end - start)}")
        when.append(f"   {session.zone.label(start, end)}", style="dim")
        console.print(when)
    if booking.location:
        console.print(Text(f" {clean(booking.location)}"))
    for attendee in booking.attendees:
        console.print(Text(f" with {clean(attendee.name)} <{clean(attendee.email)}>".replace("  ", " "), style="dim"))
    console.print()
    if not events:
        console.print(
            Text(" No calendar shows it: no connection has a calendar that can be written to.", style="yellow")
        )
        return
    console.print(events_table(events, session))


def events_table(events: Sequence[booking_pb2.BookingEvent], session: Session, *, moving: bool = False) -> Table:
    """Where a booking stands in each calendar. ``moving``: what is pending turns, for a picture that is drawn again."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(ratio=1)
    for event in events:
        state = word(_STATE, event.state)
        sign, style = STATE_SIGNS.get(state, ("?", ""))
        shown: RenderableType = Text(f" {sign} {state}", style=style)
        if moving and state == "pending":
            shown = Padding(Spinner("dots", Text(state, style=style), style=style), (0, 0, 0, 1))
        where = f"{session.label(event.connection_id)} · {calendar_text(event.calendar_id)}"
        table.add_row(shown, where, _event_text(event, state, session))
    return table


def _event_text(event: booking_pb2.BookingEvent, state: str, session: Session) -> Text:
    text = Text(STATE_TEXTS.get(state, ""), style="dim")
    if event.HasField("problem") and state in ("pending", "failed", "gone"):
        text = Text(clean(event.problem.message), style=STATE_SIGNS.get(state, ("", ""))[1])
    if event.HasField("next_attempt_at") and state == "pending" and event.HasField("problem"):
        text.append(f" Next attempt {moment_text(instant(event.next_attempt_at), session.zone)}.", style="dim")
    drift = DRIFT_TEXTS.get(word(_DRIFT, event.drift))
    if drift and state == "synced":
        text = Text(drift, style="yellow")
    if event.web_link:
        text.append(f"\n{clean(event.web_link)}", style="dim")
    return text
