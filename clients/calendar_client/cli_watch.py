"""``calendarctl watch``: when people are busy, drawn again whenever it changes."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing

import click
import grpc
from rich.text import Text

from calendar_client.cli_busy import Days, print_answer, question_options
from calendar_client.cli_errors import INCOMPLETE
from calendar_client.cli_json import as_json
from calendar_client.cli_session import Session, shared_options
from calendar_client.errors import CalendarServiceError, DeadlineExceeded, Details
from calendars.v1.calendar_service_pb2 import GetBusyResponse


@click.command()
@question_options
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to watch. [until Ctrl-C]",
)
@shared_options
@click.pass_obj
def watch(
    session: Session,
    start: str,
    days: int | None,
    month: bool,
    connections: Sequence[str],
    owner: str | None,
    exclude: Sequence[str],
    ignore_tentative: bool,
    partial: bool,
    for_s: float | None,
) -> None:
    """Watch when people are busy.

    On a terminal the picture of `calendarctl busy` is drawn anew whenever something changes. In a pipe each change is
    printed below the one before. With --json every answer is one line, also those that only say that nothing changed.

    A calendar that can no longer be read ends it with an error, unless --partial is given. A lost line is taken up again
    for half a minute. It ends after --for with exit code 0 (9 when the last answer was incomplete), by Ctrl-C with 130.
    """
    if connections and owner is not None:
        raise click.UsageError("Use --connection or --owner, not both.")
    asked = Days.read(start, days, session.zone, month=month)
    last: GetBusyResponse | None = None
    with session.client() as client:
        answers = client.watch_busy(
            connection_ids=connections,
            owner=owner,
            start=asked.window.start,
            end=asked.window.end,
            exclude_booking_ids=exclude,
            ignore_tentative=ignore_tentative,
            allow_partial=partial,
            view="per_calendar",
            for_s=for_s,
        )
        with closing(answers):
            try:
                with session.waiting("Reading the calendars …"):
                    first = next(answers, None)
                for answer in itertools.chain([] if first is None else [first], answers):
                    if not session.json:
                        session.learn_labels(client, [each.connection_id for each in answer.calendars])
                    _tell(session, answer, last, asked)
                    last = answer
            except BrokenPipeError:
                # Who read us has enough, as `head` does.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except CalendarServiceError:
                if last is not None and not session.json:
                    session.err.print(Text("What was shown counts no more.", style="bold red"))
                raise
    if last is None:
        raise DeadlineExceeded("No answer in time.", Details(code=grpc.StatusCode.DEADLINE_EXCEEDED))
    if not last.complete:
        click.get_current_context().exit(INCOMPLETE)


def _tell(session: Session, answer: GetBusyResponse, last: GetBusyResponse | None, asked: Days) -> None:
    """Print an answer, if it says something new to whoever reads."""
    console = session.out
    if session.json:
        click.echo(json.dumps(as_json(answer)))
        return
    live = console.is_terminal and not console.is_dumb_terminal
    if not live and last is not None and _essence(last) == _essence(answer):
        return
    # In one piece, so that a terminal does not flicker; and by echo, which tells when nobody reads any more.
    with console.capture() as drawn:
        if live:
            console.clear()
        print_answer(console, answer, asked, session, explain=False)
        if live:
            console.print(Text("   Watching. Ctrl-C ends.", style="dim"))
    click.echo(drawn.get(), nl=False, color=True)


def _essence(answer: GetBusyResponse) -> bytes:
    """The answer without the times that differ whenever it is told."""
    kept = GetBusyResponse()
    kept.CopyFrom(answer)
    for calendar in kept.calendars:
        calendar.ClearField("as_of")
        if calendar.HasField("problem"):
            calendar.problem.ClearField("retry_at")
    return kept.SerializeToString(deterministic=True)
