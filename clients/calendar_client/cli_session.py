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
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from calendar_client.cli_json import JsonValue, as_json, dump
from calendar_client.cli_time import Zone
from calendar_client.client import DEFAULT_ADDRESS, CalendarClient, TlsOptions
from calendar_client.errors import CalendarServiceError, Details, Unauthorized
from calendars.v1.connection_pb2 import Connection

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
    redirect_uri: str = ""
    """Where the browser of this command ends, so that an error can name it."""
    labels: dict[str, str] = field(default_factory=dict)
    """What people call a connection, by its id."""

    def client(self) -> CalendarClient:
        """The client. Raises ``click.UsageError`` for options that do not fit, ``Unauthorized`` without a key."""
        try:
            tls = None
            if self.tls or self.tls_ca or self.tls_cert or self.tls_key:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """An option that fills a field of the session. Commands take it before and after the command's name."""

    field: str
    flag: str
    help: str
    type: click.ParamType[object] | None = None
    is_flag: bool = False
    metavar: str | None = None

    def add(self, command: CommandT, *, hidden: bool) -> CommandT:
        option = click.option(
            self.flag,
            f"_{self.field}",
            type=self.type,
            is_flag=self.is_flag,
            metavar=self.metavar,
            help=self.help,
            hidden=hidden,
            expose_value=False,
            callback=_store(self.field),
        )
        return option(command)


_REACH = (
    _Option(
        field="address",
        flag="--address",
        metavar="HOST:PORT",
        help=f"Where the service is. [CALENDAR_ADDRESS, or {DEFAULT_ADDRESS}]",
    ),
    _Option(
        field="api_key_file",
        flag="--api-key-file",
        metavar="FILE",
        help="File that holds the API key. Without it the environment variable CALENDAR_API_KEY is used. There is no "
        "option for the key itself: what stands on a command line is seen by every user of the machine.",
    ),
    _Option(field="tls", flag="--tls", is_flag=True, help="Speak TLS, trusting the usual authorities."),
    _Option(
        field="tls_ca", flag="--tls-ca", metavar="FILE", help="Speak TLS, trusting the authorities of this PEM file."
    ),
    _Option(field="tls_cert", flag="--tls-cert", metavar="FILE", help="Client certificate (PEM), with --tls-key."),
    _Option(field="tls_key", flag="--tls-key", metavar="FILE", help="Private key of the client certificate (PEM)."),
    _Option(
        field="plaintext", flag="--plaintext", is_flag=True, help="No TLS, although the service is on another machine."
    ),
    _Option(
        field="timeout_s",
        flag="--timeout",
        type=click.FloatRange(min=0.1),
        metavar="SECONDS",
        help="How long to wait for an answer.",
    ),
)
_SHOW = (
    _Option(field="json", flag="--json", is_flag=True, help="Print JSON, for scripts; errors too, on standard error."),
    _Option(
        field="zone_name",
        flag="--zone",
        metavar="ZONE",
        help="Time zone of what is shown and typed, such as Europe/Berlin. [yours]",
    ),
)


def group_options(command: CommandT) -> CommandT:
    """The shared options before the command's name."""
    for option in reversed(_REACH + _SHOW):
        command = option.add(command, hidden=False)
    return command


def shared_options(command: CommandT) -> CommandT:
    """The shared options after the command's name; how to reach the service is explained once, by the group."""
    for option in reversed(_SHOW):
        command = option.add(command, hidden=False)
    for option in reversed(_REACH):
        command = option.add(command, hidden=True)
    return command
