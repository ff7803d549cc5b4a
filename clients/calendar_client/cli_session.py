"""What all commands share: how the service is reached, how answers are printed, and the options for both."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import click
import grpc
from calendars.v1.connection_pb2 import Connection
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from calendar_client.cli_json import JsonValue, as_json, dump
from calendar_client.cli_time import Zone
from calendar_client.client import DEFAULT_ADDRESS, CalendarClient, TlsOptions
from calendar_client.errors import CalendarServiceError, Details, Unauthorized

CommandT = TypeVar("CommandT", bound=Callable[..., object])

IDS_MOST = 100
"""Ids that one List takes."""


@dataclass(slots=True)
class Session:
    """The options of one invocation, filled while the command line is read, and what follows from them."""

    address: str = ""
    api_key_file: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    plaintext: bool = False
    timeout_s: float | None = None
    json: bool = False
    zone_name: str = ""
    preset: str = ""
    """The CalDAV preset of this command, so that an error can name the right page."""
    labels: dict[str, str] = field(default_factory=dict)
    """What people call a connection, by its id."""

    def client(self) -> CalendarClient:
        """The client. Raises ``click.UsageError`` for options that do not fit, ``Unauthorized`` without a key."""
        try:
            tls = None
            if self.tls or self.tls_ca or self.tls_cert:
                tls = TlsOptions.from_files(self.tls_ca or None, self.tls_cert or None, self.tls_key or None)
            return CalendarClient(
                self.address_or_default, self._api_key(), tls=tls, plaintext=self.plaintext, timeout_s=self.timeout_s
            )
        except OSError as error:
            raise click.UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            text = str(error).replace("tls=TlsOptions()", "--tls").replace("plaintext=True", "--plaintext")
            raise click.UsageError(text) from error

    @property
    def address_or_default(self) -> str:
        """``--address``, else CALENDAR_ADDRESS, else this machine."""
        return self.address or os.environ.get("CALENDAR_ADDRESS", "").strip() or DEFAULT_ADDRESS

    def _api_key(self) -> str:
        path = self.api_key_file
        if path:
            key = Path(path).expanduser().read_text(errors="replace").strip()
            if not key:
                raise click.UsageError(f"{path} is empty; it should hold the API key.")
            return key
        key = os.environ.get("CALENDAR_API_KEY", "").strip()
        if not key:
            raise Unauthorized("There is no API key to call with.", Details(code=grpc.StatusCode.UNAUTHENTICATED))
        return key

    @property
    def zone(self) -> Zone:
        """``--zone``, else this machine's. Raises ``click.BadParameter``."""
        if not self.zone_name:
            return Zone.local()
        try:
            return Zone.named(self.zone_name)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--zone") from error

    @property
    def out(self) -> Console:
        """Where answers go. Colour on a terminal only, and never with NO_COLOR."""
        return _console(stderr=False)

    @property
    def err(self) -> Console:
        """Where errors and notes go."""
        return _console(stderr=True)

    def print_json(self, value: Message | Mapping[str, JsonValue]) -> None:
        click.echo(dump(as_json(value) if isinstance(value, Message) else dict(value)))

    def waiting(self, text: str) -> AbstractContextManager[object]:
        """A sign of life while a call takes long; on a terminal only."""
        console = self.err
        if self.json or not console.is_terminal:
            return nullcontext()
        return console.status(Text(text, style="dim"), spinner="dots")

    def learn_labels(self, client: CalendarClient, ids: Iterable[str]) -> None:
        """Ask for the accounts behind connections. Names are a courtesy: without them the ids are shown."""
        wanted = sorted(set(ids) - set(self.labels))
        for begin in range(0, len(wanted), IDS_MOST):
            try:
                page = client.list_page(ids=wanted[begin : begin + IDS_MOST], page_size=IDS_MOST)
            except CalendarServiceError:
                return
            self.labels.update({each.id: account_text(each) for each in page.data})

    def label(self, connection_id: str) -> str:
        return self.labels.get(connection_id, clean(connection_id))


def account_text(connection: Connection) -> str:
    """What people call the account: its e-mail address, or the id where there is none."""
    return clean(connection.account_email or connection.id)


def clean(text: str) -> str:
    """A text from elsewhere, safe to print: control and direction characters cannot move the cursor or hide things."""
    return "".join("�" if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") else each for each in text)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and not (stream.encoding or "").lower().startswith("utf"):
        # Better a question mark than a traceback in the middle of an answer.
        reconfigure(errors="replace")
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _store(name: str) -> Callable[[click.Context, click.Parameter, object], None]:
    def store(context: click.Context, parameter: click.Parameter, value: object) -> None:
        session = context.ensure_object(Session)
        if value not in (None, False, ""):
            setattr(session, name, value)

    return store


def _shared(name: str, *flags: str, help: str, **rest: object) -> Callable[[bool], Callable[[CommandT], CommandT]]:
    def hidden_or_not(hidden: bool) -> Callable[[CommandT], CommandT]:
        return click.option(  # type: ignore[call-overload, no-any-return]
            *flags, help=help, hidden=hidden, expose_value=False, callback=_store(name), **rest
        )

    return hidden_or_not


_REACH = (
    _shared("address", "--address", help=f"Host and port of the service. [CALENDAR_ADDRESS, or {DEFAULT_ADDRESS}]"),
    _shared(
        "api_key_file",
        "--api-key-file",
        type=click.Path(),
        help="File that holds the API key. Without it the environment variable CALENDAR_API_KEY is used. There is no "
        "option for the key itself: what stands on a command line is seen by every user of the machine.",
    ),
    _shared("tls", "--tls", is_flag=True, help="Speak TLS, trusting the usual authorities."),
    _shared("tls_ca", "--tls-ca", type=click.Path(), help="Speak TLS, trusting the authorities in this PEM file."),
    _shared("tls_cert", "--tls-cert", type=click.Path(), help="Client certificate, PEM; with --tls-key."),
    _shared("tls_key", "--tls-key", type=click.Path(), help="Private key of the client certificate, PEM."),
    _shared("plaintext", "--plaintext", is_flag=True, help="No TLS although the service is on another machine."),
    _shared("timeout_s", "--timeout", type=click.FloatRange(min=0.1), help="Seconds to wait for an answer."),
)
_SHOW = (
    _shared("json", "--json", is_flag=True, help="Print JSON for scripts; errors too, on standard error."),
    _shared(
        "zone_name",
        "--zone",
        metavar="ZONE",
        help="Time zone of what is shown and typed, such as Europe/Berlin. [yours]",
    ),
)


def group_options(command: CommandT) -> CommandT:
    """The shared options before the command's name."""
    for option in reversed(_REACH + _SHOW):
        command = option(False)(command)
    return command


def shared_options(command: CommandT) -> CommandT:
    """The shared options after the command's name; how to reach the service is explained once, by the group."""
    for option in reversed(_SHOW):
        command = option(False)(command)
    for option in reversed(_REACH):
        command = option(True)(command)
    return command
