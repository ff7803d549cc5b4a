"""``calendarctl busy``: when people are busy, drawn as days of hours. ``cli_watch.py`` draws the same again and again."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from calendar_client.cli_completion import complete_connection
from calendar_client.cli_errors import INCOMPLETE
from calendar_client.cli_session import CommandT, Session, clean, shared_options
from calendar_client.cli_state import calendar_text
from calendar_client.cli_time import (
    Zone,
    day_text,
    instant,
    length_text,
    moment_text,
    parse_day,
    span_text,
)
from calendar_client.cli_week import ASCII, UNICODE, Doubt, Glyphs, Span, draw, draw_month, legend
from calendar_client.words import word
from calendars.v1 import availability_pb2
from calendars.v1.calendar_service_pb2 import GetBusyResponse

DAYS, DAYS_MOST = 7, 366

_STATES = availability_pb2.BusyState.DESCRIPTOR
_REASONS = availability_pb2.BlockReason.DESCRIPTOR

REASON_TEXTS = {
    "busy": "busy",
    "tentative": "tentative",
    "out_of_office": "out of office",
    "focus_time": "focus time",
    "travel": "travel before an event",
    "booking": "booking",
    "unreadable": "could not be read, so it may block",
    "free": "marked free",
    "cancelled": "cancelled",
    "declined": "declined by its owner",
    "working_elsewhere": "where they work, not when",
    "birthday": "birthday",
    "zero_length": "has no length",
    "tentative_ignored": "tentative, ignored as asked",
    "booking_excluded": "excluded as asked: booking",
}


_QUESTION = (
    click.option(
        "--start", metavar="DAY", default="today", help="First day: 2026-03-17, today, tomorrow or monday. [today]"
    ),
    click.option("--days", type=click.IntRange(1, DAYS_MOST), metavar="N", help="How many days. [7]"),
    click.option("--month", is_flag=True, help="The whole month that the first day is in."),
    click.option(
        "--connection",
        "connections",
        multiple=True,
        metavar="ID",
        shell_complete=complete_connection,
        help="Only this connection; repeatable.",
    ),
    click.option("--owner", metavar="ID", help="The connections of this owner. [those without an owner]"),
    click.option("--exclude", multiple=True, metavar="BOOKING", help="A booking that does not count; repeatable."),
    click.option("--ignore-tentative", is_flag=True, help="Tentative events do not count."),
    click.option(
        "--partial", is_flag=True, help="Show what is known when a calendar cannot be read. Exit code 9 then."
    ),
)


def question_options(command: CommandT) -> CommandT:
    """What is asked: the days, of whom, and what does not count."""
    for option in reversed(_QUESTION):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Days:
    """The days that are asked about, in the session's zone."""

    days: Sequence[date]
    window: Span
    month: bool = False

    @classmethod
    def read(cls, start: str, count: int | None, zone: Zone, *, month: bool = False) -> Days:
        """``start`` as a person types it. Raises ``click.BadParameter``."""
        if month and count is not None:
            raise click.UsageError("Use --days or --month, not both.")
        try:
            first = parse_day(start, zone)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--start") from error
        if month:
            first = first.replace(day=1)
            count = monthrange(first.year, first.month)[1]
        count = DAYS if count is None else count
        days = [first + timedelta(days=each) for each in range(count)]
        return cls(days, Span(zone.midnight(first), zone.midnight(first + timedelta(days=count))), month)


@click.command()
@question_options
@click.option("--explain", is_flag=True, help="List every event and why it blocks or not.")
@click.option("--fresh", is_flag=True, help="Read the calendars now, whatever was read before.")
@shared_options
@click.pass_obj
def busy(
    session: Session,
    start: str,
    days: int | None,
    month: bool,
    connections: Sequence[str],
    owner: str | None,
    exclude: Sequence[str],
    ignore_tentative: bool,
    partial: bool,
    explain: bool,
    fresh: bool,
) -> None:
    """Show when people are busy.

    A row for each day, with the times in a list below; with --month a calendar page.

    A calendar that cannot be read fails the command, for unknown is not free. With --partial the rest is shown, and time
    that nobody knows is hatched.
    """
    if connections and owner is not None:
        raise click.UsageError("Use --connection or --owner, not both.")
    asked = Days.read(start, days, session.zone, month=month)
    with session.client() as client:
        with session.waiting("Reading the calendars …"):
            answer = client.get_busy(
                connection_ids=connections,
                owner=owner,
                start=asked.window.start,
                end=asked.window.end,
                max_staleness=timedelta() if fresh else None,
                exclude_booking_ids=exclude,
                ignore_tentative=ignore_tentative,
                allow_partial=partial,
                view="explained" if explain else "per_calendar",
            )
        if not session.json:
            session.learn_labels(client, [each.connection_id for each in answer.calendars])
    if session.json:
        session.print_json(answer)
    else:
        print_answer(session.out, answer, asked, session, explain=explain)
    if not answer.complete:
        click.get_current_context().exit(INCOMPLETE)


def doubt_of(answer: GetBusyResponse) -> Doubt:
    """How far the time between busy intervals may be taken for free."""
    if answer.complete:
        return Doubt.NONE
    if any(
        each.state not in (availability_pb2.BUSY_STATE_FRESH, availability_pb2.BUSY_STATE_STALE)
        for each in answer.calendars
    ):
        return Doubt.UNKNOWN
    return Doubt.PARTLY


def print_answer(console: Console, answer: GetBusyResponse, asked: Days, session: Session, *, explain: bool) -> None:
    """Draw the days, list what blocks, and say how sure that is."""
    days, window = asked.days, asked.window
    zone, doubt = session.zone, doubt_of(answer)
    glyphs = glyphs_for(console)
    spans = [Span(instant(each.start_time), instant(each.end_time)) for each in answer.busy]
    console.print()
    console.print(_title(days, zone, window))
    console.print()
    if doubt is not Doubt.NONE:
        _print_doubt(console, answer, doubt, session)
    picture = draw_month if asked.month else draw
    for line in picture(days, zone, spans, doubt, width=console.width, glyphs=glyphs):
        console.print(line)
    console.print(legend(doubt, glyphs, month_width=console.width if asked.month else None))
    console.print()
    if explain:
        _print_events(console, answer, session)
    elif asked.month and spans:
        _print_month_sources(console, answer, session)
    else:
        _print_spans(console, answer, spans, doubt, session)
    _print_calendars(console, answer, session)


def glyphs_for(console: Console) -> Glyphs:
    """Blocks where the terminal can show them."""
    return UNICODE if (console.encoding or "").lower().startswith("utf") else ASCII


def _title(days: Sequence[date], zone: Zone, window: Span) -> Text:
    first, last = days[0], days[-1]
    if first == last:
        when = f"{first:%A}, {first.day} {first:%B %Y}"
    elif first.year != last.year:
        when = f"{first.day} {first:%B %Y} – {last.day} {last:%B %Y}"
    elif first.month != last.month:
        when = f"{first.day} {first:%B} – {last.day} {last:%B %Y}"
    else:
        when = f"{first.day} – {last.day} {last:%B %Y}"
    return Text.assemble("   ", (when, "bold"), (f"   {zone.label(window.start, window.end)}", "dim"))


def _print_doubt(console: Console, answer: GetBusyResponse, doubt: Doubt, session: Session) -> None:
    """Say loudly, in words, that the picture is not whole, and why."""
    fresh = availability_pb2.BUSY_STATE_FRESH
    bad = [each for each in answer.calendars if each.state != fresh or each.HasField("problem")]
    count = len(answer.calendars)
    subject = "The calendar is" if count == 1 else f"{len(bad)} of {count} calendars {'is' if len(bad) == 1 else 'are'}"
    consequence = (
        "Hatched time is not known: do not take it for free."
        if doubt is Doubt.UNKNOWN
        else "Time that looks free was so when last read; it may not be."
    )
    loud = Text.assemble((" INCOMPLETE ", "bold reverse red"), (f"  {subject} not fully known.", "bold red"))
    console.print(_indented(loud))
    console.print(_indented(Text(consequence, style="bold red")))
    for calendar in bad:
        told = _state_text(calendar, word(_STATES, calendar.state), session.zone)
        console.print(_indented(Text.assemble((f"{_where(calendar, answer, session)}: ", "bold"), (told, "yellow"))))
    console.print()


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, 3), expand=False)


def _state_text(calendar: availability_pb2.CalendarBusy, state: str, zone: Zone) -> str:
    problem = clean(calendar.problem.message) if calendar.HasField("problem") else ""
    if state == "fresh":
        return problem or "read"
    if state == "stale":
        as_of = (
            f"as it was at {moment_text(instant(calendar.as_of), zone)}"
            if calendar.HasField("as_of")
            else "an earlier read"
        )
        return f"{as_of}. {problem}".strip()
    return f"unknown. {problem}".strip()


def _print_spans(
    console: Console, answer: GetBusyResponse, spans: Sequence[Span], doubt: Doubt, session: Session
) -> None:
    if not spans:
        texts = {
            Doubt.NONE: "Nothing blocks: all of it is free.",
            Doubt.PARTLY: "Nothing is known to block.",
            Doubt.UNKNOWN: "Nothing is known to block, and not all is known.",
        }
        console.print(Text(f"   {texts[doubt]}", style="" if doubt is Doubt.NONE else "yellow"))
        console.print()
        return
    zone = session.zone
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    several = len(answer.calendars) > 1
    if several:
        table.add_column(overflow="fold")
    previous = None
    for span in spans:
        day = span.start.astimezone(zone.tz).date()
        table.add_row(
            "" if day == previous else f"   {day_text(day)}",
            span_text(span.start, span.end, zone, with_day=False),
            Text(length_text(span.end - span.start), style="dim"),
            *([Text(", ".join(_sources(answer, span, session)), style="dim")] if several else []),
        )
        previous = day
    console.print(table)
    console.print()


def _print_month_sources(console: Console, answer: GetBusyResponse, session: Session) -> None:
    """Which calendars make the month busy, with how many hours each; the list of times would be too long."""
    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True, justify="right")
    for calendar in answer.calendars:
        length = sum((instant(each.end_time) - instant(each.start_time) for each in calendar.busy), timedelta())
        if length:
            table.add_row(f"   {_where(calendar, answer, session)}", Text(length_text(length), style="dim"))
    console.print(table)
    console.print(Text("   The times of a week: calendarctl busy --start DAY", style="dim"))
    console.print()


def _sources(answer: GetBusyResponse, span: Span, session: Session) -> list[str]:
    """The calendars that make a span busy, each once."""
    found = [
        _where(calendar, answer, session)
        for calendar in answer.calendars
        if any(instant(each.start_time) < span.end and span.start < instant(each.end_time) for each in calendar.busy)
    ]
    return list(dict.fromkeys(found))


def _where(calendar: availability_pb2.CalendarBusy, answer: GetBusyResponse, session: Session) -> str:
    """The calendar in as few words as tell it from the others of this answer."""
    account, name = session.label(calendar.connection_id), calendar_text(calendar.calendar_id)
    connections = {each.connection_id for each in answer.calendars}
    siblings = [each for each in answer.calendars if each.connection_id == calendar.connection_id]
    if not name or (len(siblings) == 1 and len(connections) > 1):
        return account
    return name if len(connections) == 1 and len(siblings) > 1 else f"{account} · {name}"


def _print_events(console: Console, answer: GetBusyResponse, session: Session) -> None:
    """Every event of every calendar, and why it blocks or not."""
    for calendar in answer.calendars:
        console.print(Text(f"   {_where(calendar, answer, session)}", style="bold"))
        if not calendar.events:
            known = calendar.state == availability_pb2.BUSY_STATE_FRESH
            console.print(Text("     no events" if known else "     not known", style="dim" if known else "yellow"))
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for event in calendar.events:
            timed = event.HasField("start_time") and event.HasField("end_time")
            when = "time not known" if not timed else _event_span(event, session.zone)
            style = "cyan" if event.blocks else "dim"
            table.add_row(
                f"     {when}",
                Text("■ blocks" if event.blocks else "□ free", style=style),
                _reason_text(event),
            )
        console.print(table)
        console.print()


def _event_span(event: availability_pb2.ExplainedEvent, zone: Zone) -> str:
    start, end = instant(event.start_time), instant(event.end_time)
    if start == end:
        return f"{day_text(start.astimezone(zone.tz).date())}  {start.astimezone(zone.tz):%H:%M}"
    return span_text(start, end, zone)


def _reason_text(event: availability_pb2.ExplainedEvent) -> Text:
    reason = word(_REASONS, event.reason)
    text = Text(REASON_TEXTS.get(reason, reason))
    if event.booking_id:
        text.append(f" {clean(event.booking_id)}", style="bold")
    # Only an event that its owner has to mend is named: ids are long, and --json has them all.
    if event.reason == availability_pb2.BLOCK_REASON_UNREADABLE and event.event_id:
        text.append(f"\n{clean(event.event_id)}", style="dim")
    return text


def _print_calendars(console: Console, answer: GetBusyResponse, session: Session) -> None:
    """One calm line about what the picture rests on."""
    reads = [instant(each.as_of) for each in answer.calendars if each.HasField("as_of")]
    count = len(answer.calendars)
    if not answer.complete or not count:
        return
    oldest: datetime | None = min(reads, default=None)
    when = (
        ""
        if oldest is None
        else f", read at {oldest.astimezone(session.zone.tz):%H:%M:%S}" + (" or later" if count > 1 else "")
    )
    noun = "1 calendar" if count == 1 else f"{count} calendars"
    console.print(Text(f"   {noun}{when}. Nothing is missing.", style="dim"))
    console.print()
