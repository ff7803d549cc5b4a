"""``calendarctl connect``: caldav, google, microsoft."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

import click
from rich.text import Text

from calendar_client.cli_browser import (
    DEFAULT_REDIRECT_URI,
    WAIT_S,
    Landing,
    Listener,
    SignInFailed,
    new_state,
    open_page,
)
from calendar_client.cli_completion import complete_connection
from calendar_client.cli_errors import PASSWORD_PAGES
from calendar_client.cli_json import as_json
from calendar_client.cli_session import Session, shared_options
from calendar_client.cli_state import print_connection
from calendar_client.client import CalendarClient
from calendar_client.words import words
from calendars.v1 import connection_pb2

CommandT = TypeVar("CommandT", bound=Callable[..., object])

PRESETS = words(connection_pb2.CaldavPreset.DESCRIPTOR)
WITH_URL = ("nextcloud", "custom")

_owner = click.option("--owner", default="", metavar="ID", help="Your own id of the person whose account it is.")
_renew = click.option(
    "--connection",
    "connection_id",
    default="",
    metavar="ID",
    shell_complete=complete_connection,
    help="Renew this connection instead of making a new one.",
)
_redirect = click.option(
    "--redirect-uri",
    default=DEFAULT_REDIRECT_URI,
    metavar="URI",
    help="Where the browser ends; the service's CALENDAR_REDIRECT_URIS must name it. On this machine (http://127.0.0.1:…) "
    f"the command waits for it, elsewhere it only prints the page to open. [{DEFAULT_REDIRECT_URI}]",
)
_state = click.option("--client-state", default="", metavar="TEXT", help="Comes back to the redirect URI as it is.")
_no_browser = click.option(
    "--no-browser", is_flag=True, help="Print the page to open instead of opening it, and wait for the browser."
)
_no_wait = click.option("--no-wait", is_flag=True, help="Print the page to open, alone, and end.")


@click.group(short_help="Connect an account: caldav, google, microsoft.")
def connect() -> None:
    """Connect an account.

    CalDAV at once, Google and Microsoft through the browser.
    """


@connect.command(short_help="Apple, Fastmail, Nextcloud or another CalDAV server.")
@click.option("--preset", type=click.Choice(PRESETS, case_sensitive=False), help="Which kind of server. [asked]")
@click.option("--username", metavar="NAME", help="User name, for most an e-mail address. [asked]")
@click.option("--server-url", metavar="URL", default="", help="The server's address: for nextcloud and custom.")
@click.option("--password-stdin", is_flag=True, help="Read the password from the first line of standard input.")
@_owner
@_renew
@shared_options
@click.pass_obj
def caldav(
    session: Session,
    preset: str | None,
    username: str | None,
    server_url: str,
    password_stdin: bool,
    owner: str,
    connection_id: str,
) -> None:
    """Connect an account on a CalDAV server: Apple, Fastmail, Nextcloud or any other.

    The password is asked for, or read with --password-stdin; it never stands on the command line, where others could see
    it. Most providers want one made for this purpose (an app password), and this command says where.
    """
    preset = preset or _asked("--preset", password_stdin, "Server", type=click.Choice(PRESETS, case_sensitive=False))
    session.preset = preset
    if preset in WITH_URL and not server_url:
        server_url = _asked("--server-url", password_stdin, "Address of the server (https://…)")
    username = username or _asked("--username", password_stdin, "User name")
    password = _password(session, preset, password_stdin)
    with session.client() as client, session.waiting("Trying the password and looking for calendars …"):
        connection = client.connect_caldav(
            preset=preset,
            username=username,
            password=password,
            server_url=server_url,
            owner=owner,
            connection_id=connection_id,
        )
    _print_connected(session, connection, bool(connection_id))


@connect.command(short_help="A Google account, through the browser.")
@_redirect
@_no_browser
@_no_wait
@_owner
@_renew
@_state
@shared_options
@click.pass_obj
def google(
    session: Session,
    redirect_uri: str,
    no_browser: bool,
    no_wait: bool,
    owner: str,
    connection_id: str,
    client_state: str,
) -> None:
    """Connect a Google account: opens the sign-in page in your browser and waits for it."""

    def begin(client: CalendarClient, state: str) -> str:
        return client.connect_google(
            redirect_uri=redirect_uri, owner=owner, connection_id=connection_id, client_state=state
        )

    _sign_in(session, begin, redirect_uri, client_state, no_browser, no_wait, renewed=bool(connection_id))


@connect.command(short_help="A Microsoft account, through the browser.")
@_redirect
@_no_browser
@_no_wait
@click.option("--tenant", default="", metavar="TENANT", help="The Entra tenant to sign in at. [common]")
@_owner
@_renew
@_state
@shared_options
@click.pass_obj
def microsoft(
    session: Session,
    redirect_uri: str,
    no_browser: bool,
    no_wait: bool,
    tenant: str,
    owner: str,
    connection_id: str,
    client_state: str,
) -> None:
    """Connect a Microsoft account: opens the sign-in page in your browser and waits for it."""

    def begin(client: CalendarClient, state: str) -> str:
        return client.connect_microsoft(
            redirect_uri=redirect_uri, tenant=tenant, owner=owner, connection_id=connection_id, client_state=state
        )

    _sign_in(session, begin, redirect_uri, client_state, no_browser, no_wait, renewed=bool(connection_id))


def _sign_in(
    session: Session,
    begin: Callable[[CalendarClient, str], str],
    redirect_uri: str,
    client_state: str,
    no_browser: bool,
    no_wait: bool,
    *,
    renewed: bool,
) -> None:
    """Open the page and wait until the browser comes back, then ask the service what came of it."""
    session.redirect_uri = redirect_uri
    landing = Landing.of(redirect_uri)
    if landing is None or no_wait:
        with session.client() as client:
            _print_url(session, begin(client, client_state))
        return
    try:
        listener = Listener(landing, client_state or new_state())
    except OSError as error:
        raise click.UsageError(
            f"Nobody can listen on {landing.host}:{landing.port} ({error.strerror}). Choose another port with "
            "--redirect-uri (CALENDAR_REDIRECT_URIS must name it), or use --no-wait."
        ) from error
    with listener.running(), session.client() as client:
        url = begin(client, listener.state)
        try:
            _show_page(session, url, no_browser)
            with session.waiting("Waiting for the browser …"):
                connection_id = listener.wait(WAIT_S)
        except KeyboardInterrupt:
            session.err.print(Text("The page stays valid: `calendarctl list` shows who signed in there.", style="dim"))
            raise
        connection = next(client.list(ids=[connection_id]), None)
    if connection is None:
        # The redirect is a hint that any page could have sent; the service does not know of it.
        raise SignInFailed("internal")
    _print_connected(session, connection, renewed)


def _show_page(session: Session, url: str, no_browser: bool) -> None:
    """Bring the person to the page: by opening it, or by its address."""
    if no_browser and not session.json:
        session.err.print(Text("Open this page in a browser on this machine and sign in, within ten minutes:"))
        click.echo(url)
        return
    opened = not no_browser and open_page(url)
    says = "Sign in in your browser. If it shows nothing, open this page:" if opened else "Open this page and sign in:"
    session.err.print(Text(says))
    click.echo(url, err=True)


def _print_connected(session: Session, connection: connection_pb2.Connection, renewed: bool) -> None:
    if session.json:
        session.print_json({"connection": as_json(connection)})
        return
    session.out.print(Text("Renewed." if renewed else "Connected.", style="bold green"))
    print_connection(session.out, connection, session)


def _print_url(session: Session, url: str) -> None:
    if session.json:
        session.print_json({"authorization_url": url})
        return
    session.err.print(Text("Open this page within ten minutes and sign in; then `calendarctl list` shows the account:"))
    click.echo(url)


def _asked(option: str, password_stdin: bool, text: str, type: click.ParamType[str] | None = None) -> str:
    """Ask the person, if there is one. Raises ``click.UsageError`` in a script."""
    if password_stdin or not sys.stdin.isatty():
        raise click.UsageError(f"Missing option {option}.")
    return str(click.prompt(text, type=type, err=True))


def _password(session: Session, preset: str, password_stdin: bool) -> str:
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise click.UsageError("--password-stdin: the first line of standard input is empty.")
        return password
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask for the password: use --password-stdin.")
    if preset in PASSWORD_PAGES:
        session.err.print(Text(PASSWORD_PAGES[preset], style="dim"))
    return str(click.prompt("Password (not shown)", hide_input=True, err=True))
