"""``calendarctl``: the service at the command line, for people and scripts.

``cli_connect.py``, ``cli_busy.py``, ``cli_watch.py`` and ``cli_booking.py`` have the larger commands,
``cli_session.py`` what all share, ``cli_errors.py`` what a failure says, ``cli_week.py`` and ``cli_state.py`` how things
look, ``cli_json.py`` what scripts get.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

import click
from rich.text import Text

from calendar_client.channel import DEFAULT_ADDRESS
from calendar_client.cli_booking import book, booking, cancel, reschedule
from calendar_client.cli_busy import busy
from calendar_client.cli_completion import PROGRAM, VARIABLE, complete_connection, completion
from calendar_client.cli_config import Config, ConfigError
from calendar_client.cli_connect import connect
from calendar_client.cli_doctor import doctor
from calendar_client.cli_errors import EXIT_CODES, exit_code, show
from calendar_client.cli_json import JsonValue, as_json
from calendar_client.cli_session import Session, account_text, clean, group_options, shared_options
from calendar_client.cli_state import print_calendars, print_connection
from calendar_client.cli_watch import watch
from calendar_client.errors import CalendarServiceError, NotFound
from calendar_client.words import words
from calendars.v1 import connection_pb2

INTERRUPTED = 130

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items())
_EPILOG += f"\n  {INTERRUPTED}  stopped by Ctrl-C"


class Calendarctl(click.Group):
    """The group at the root: it turns errors of calls into words and exit codes, whatever command they come from."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except CalendarServiceError as error:
            show(error, ctx.ensure_object(Session), ctx.invoked_subcommand or "")
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=Calendarctl, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="calendar-service", prog_name="calendarctl")
@group_options
def cli() -> None:
    """See when people are busy, and keep bookings in their calendars.

    The service is at --address; the API key comes from CALENDAR_API_KEY or --api-key-file. `calendarctl profiles` keeps
    both, for one service or several.
    """


@cli.command("list")
@click.option("--owner", metavar="ID", help='Only connections of this owner; "": those without one.')
@click.option("--provider", type=click.Choice(words(connection_pb2.Provider.DESCRIPTOR)), help="Only this provider.")
@click.option(
    "--status", type=click.Choice(words(connection_pb2.ConnectionStatus.DESCRIPTOR)), help="Only this status."
)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Only this connection; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many. [all]")
@shared_options
@click.pass_obj
def list_connections(
    session: Session, owner: str | None, provider: str | None, status: str | None, ids: Sequence[str], limit: int | None
) -> None:
    """List the connected accounts, newest first."""
    with session.client() as client:
        found = client.list(owner=owner, provider=provider, status=status, ids=ids)
        connections = list(itertools.islice(found, limit))
        has_more = limit is not None and next(found, None) is not None
    if session.json:
        session.print_json({"data": [as_json(each) for each in connections], "has_more": has_more})
        return
    if not connections:
        filtered = owner is not None or provider or status or ids
        session.out.print(Text("No connection fits." if filtered else "Nothing is connected yet.", style="bold"))
        session.out.print(Text("Connect a calendar: calendarctl connect caldav", style="dim"))
    for index, connection in enumerate(connections):
        if index:
            session.out.print()
        print_connection(session.out, connection, session)
    if has_more:
        session.out.print(Text("\nThere are more: raise --limit.", style="dim"))


@cli.command()
@click.argument("connection_id", metavar="CONNECTION", shell_complete=complete_connection)
@shared_options
@click.pass_obj
def calendars(session: Session, connection_id: str) -> None:
    """Show the calendars inside a connection."""
    with session.client() as client:
        with session.waiting("Asking the provider …"):
            answer = client.list_calendars(connection_id)
        if session.json:
            session.print_json(answer)
            return
        connection = next(client.list(ids=[connection_id]), None)
    receives = "" if connection is None else connection.calendar_id
    account = clean(connection_id) if connection is None else account_text(connection)
    print_calendars(session.out, answer.calendars, receives, account)


@cli.command()
@click.argument("connection_id", metavar="CONNECTION", shell_complete=complete_connection)
@click.option("--bookings", metavar="CALENDAR", help="The id of the calendar that receives bookings.")
@click.option("--blocks", multiple=True, metavar="CALENDAR", help="The id of a calendar that blocks; repeatable.")
@click.option("--blocks-none", is_flag=True, help="No calendar of this connection blocks.")
@shared_options
@click.pass_obj
def choose(
    session: Session, connection_id: str, bookings: str | None, blocks: Sequence[str], blocks_none: bool
) -> None:
    """Choose the calendars of a connection.

    Which of them block, and which one receives bookings.

    `calendarctl calendars CONNECTION` shows their ids. The calendars given with --blocks replace those of before.
    """
    if blocks and blocks_none:
        raise click.UsageError("Use --blocks or --blocks-none, not both.")
    if bookings is None and not blocks and not blocks_none:
        raise click.UsageError("Nothing to change: give --bookings, --blocks or --blocks-none.")
    with session.client() as client, session.waiting("Asking the provider …"):
        connection = client.update_connection(
            connection_id, calendar_id=bookings, busy_calendar_ids=blocks if blocks or blocks_none else None
        )
    if session.json:
        session.print_json(connection)
        return
    session.out.print(Text("Chosen.", style="bold green"))
    print_connection(session.out, connection, session)


@cli.command()
@click.argument("connection_id", metavar="[CONNECTION]", required=False, shell_complete=complete_connection)
@click.option("--all", "everything", is_flag=True, help="Disconnect every connection of the organization.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@shared_options
@click.pass_obj
def disconnect(session: Session, connection_id: str | None, everything: bool, yes: bool) -> None:
    """End a connection and forget its secrets. Events already written stay in the calendar."""
    if (connection_id is None) == (not everything):
        raise click.UsageError("Say which connection, or --all.")
    with session.client() as client:
        found = list(client.list(ids=[] if connection_id is None else [connection_id]))
        if connection_id is not None:
            # Not there any more: the service knows whether it ever was.
            ids = [connection_id]
        else:
            ids = [each.id for each in found]
            if not ids:
                raise NotFound("Nothing is connected.")
        names = {each.id: account_text(each) for each in found}
        _confirm(everything, yes, [names.get(each, clean(each)) for each in ids])
        ended: list[JsonValue] = []
        for each in ids:
            ended.append(as_json(client.disconnect(each)))
            if not session.json:
                line = Text.assemble(
                    ("Disconnected ", "bold green"), names.get(each, clean(each)), (f"   {clean(each)}", "dim")
                )
                session.out.print(line, soft_wrap=True)
    if session.json:
        one = ended[0]
        session.print_json(one if connection_id is not None and isinstance(one, dict) else {"data": ended})


@cli.command(short_help="Show the services that the configuration file names.")
@shared_options
@click.pass_obj
def profiles(session: Session) -> None:
    """Show the profiles: services and how to reach them, kept in a file.

    --profile or CALENDAR_PROFILE names the one to use, else the file's line `default` does.

    \b
      default = "work"
    \b
      [profiles.work]
      address = "calendars.example.org:443"
      api-key-file = "work.key"        # beside the file
      tls = true                       # also: tls-ca, tls-cert, tls-key, plaintext, zone
    """
    try:
        config = Config.read()
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    if session.json:
        kept: list[JsonValue] = [
            {"name": each.name, "address": each.address, "default": each.name == config.default}
            for each in config.profiles.values()
        ]
        session.print_json({"file": str(config.path), "profiles": kept})
        return
    if not config.profiles:
        session.out.print(Text("There are no profiles yet.", style="bold"))
        session.out.print(
            Text(f"`calendarctl profiles --help` shows what to write into {config.path}.", style="dim"), soft_wrap=True
        )
        return
    for each in config.profiles.values():
        mark = ("● ", "green") if each.name == config.default else ("  ", "")
        line = Text.assemble(" ", mark, (clean(each.name), "bold"), f"   {clean(each.address) or DEFAULT_ADDRESS}")
        session.out.print(line, soft_wrap=True)
    session.out.print(Text(f"\n   {config.path}", style="dim"), soft_wrap=True)


def _confirm(everything: bool, yes: bool, names: Sequence[str]) -> None:
    """Ask the person, if there is one; a script has made up its mind, but for ``--all``."""
    if yes:
        return
    if sys.stdin.isatty() and sys.stdout.isatty():
        what = names[0] if len(names) == 1 else f"{len(names)} accounts ({', '.join(names[:5])}…)"
        click.confirm(f"Disconnect {what}? Connecting again needs the password.", abort=True, err=True)
    elif everything:
        raise click.UsageError("--all needs --yes where nobody can be asked.")


for _command in (connect, busy, watch, book, reschedule, cancel, booking, doctor, completion):
    cli.add_command(_command)


def main() -> None:
    """The entry point of ``calendarctl``."""
    cli(prog_name=PROGRAM, complete_var=VARIABLE)


if __name__ == "__main__":
    main()
