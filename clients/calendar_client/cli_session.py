"""What all commands share: how the service is reached, how answers are printed, and the options for both."""

from __future__ import annotations

import codecs
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
from click.shell_completion import CompletionItem
from google.protobuf.message import Message
from rich.console import Console
from rich.text import Text

from calendar_client.channel import DEFAULT_ADDRESS, TlsOptions
from calendar_client.cli_config import Config, ConfigError, Profile
from calendar_client.cli_json import JsonValue, as_json, dump
from calendar_client.cli_time import Zone
from calendar_client.client import CalendarClient
from calendar_client.errors import CalendarServiceError, Details, Unauthorized
from calendars.v1.connection_pb2 import Connection

CommandT = TypeVar("CommandT", bound=Callable[..., object])
Completer = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

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
    profile_name: str = ""
    preset: str = ""
    """The CalDAV preset of this command, so that an error can name the right page."""
    redirect_uri: str = ""
    """Where the browser of this command ends, so that an error can name it."""
    labels: dict[str, str] = field(default_factory=dict)
    """What people call a connection, by its id."""

    def client(self) -> CalendarClient:
        """The client. Raises ``click.UsageError`` for options that do not fit, ``Unauthorized`` without a key.

        What an option says holds above the profile that was named, that above the environment, and the environment above
        the profile that is the file's default.
        """
        profile = self.profile
        try:
            tls = None
            ca, cert, key = (
                self.tls_ca or profile.tls_ca,
                self.tls_cert or profile.tls_cert,
                self.tls_key or profile.tls_key,
            )
            if self.tls or profile.tls or ca or cert or key:
                tls = TlsOptions.from_files(ca or None, cert or None, key or None)
            return CalendarClient(
                self.address_or_default,
                self._api_key(),
                tls=tls,
                plaintext=self.plaintext or profile.plaintext,
                timeout_s=self.timeout_s,
            )
        except OSError as error:
            raise click.UsageError(f"{error.filename} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            text = str(error).replace("tls=TlsOptions()", "--tls").replace("plaintext=True", "--plaintext")
            raise click.UsageError(text) from error

    @property
    def profile(self) -> Profile:
        """``--profile``, else CALENDAR_PROFILE, else the file's default; an empty one where there is none."""
        try:
            config = Config.read()
            name = self.profile_name or _environment("CALENDAR_PROFILE")
            if name:
                return config.profile(name)
            if not config.default:
                return Profile()
            default = config.profile(config.default)
        except ConfigError as error:
            raise click.UsageError(str(error)) from error
        # An address elsewhere has nothing to do with the default profile: its key and its TLS belong to its own address.
        address = self.address or _environment("CALENDAR_ADDRESS")
        if address and address != default.address:
            return Profile(zone=default.zone)
        return default

    @property
    def _profile_is_named(self) -> bool:
        return bool(self.profile_name or _environment("CALENDAR_PROFILE"))

    @property
    def address_or_default(self) -> str:
        """``--address``, else the named profile's, else CALENDAR_ADDRESS, else the default profile's, else this machine."""
        told, environment = self.profile.address, _environment("CALENDAR_ADDRESS")
        order = (told, environment) if self._profile_is_named else (environment, told)
        return next(filter(None, (self.address, *order, DEFAULT_ADDRESS)))

    def _api_key(self) -> str:
        told, environment = self.profile.api_key_file, _environment("CALENDAR_API_KEY")
        path = self.api_key_file or (told if self._profile_is_named or not environment else "")
        if path:
            key = Path(path).expanduser().read_text(errors="replace").strip()
            if not key:
                raise click.UsageError(f"{path} is empty; it should hold the API key.")
            return key
        if not environment:
            raise Unauthorized("There is no API key to call with.", Details(code=grpc.StatusCode.UNAUTHENTICATED))
        return environment

    @property
    def zone(self) -> Zone:
        """``--zone``, else the profile's, else this machine's. Raises ``click.BadParameter``."""
        name = self.zone_name or self.profile.zone
        if not name:
            return Zone.local()
        try:
            return Zone.named(name)
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


def _environment(name: str) -> str:
    return os.environ.get(name, "").strip()


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
        codecs.register_error("calendarctl", _plain)
        reconfigure(errors="calendarctl")
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


_PLAIN = str.maketrans(
    {"–": "-", "−": "-", "·": ".", "•": "*", "●": "*", "…": "...", "→": "->", "✓": "+", "✗": "x", "■": "#", "□": "."}
)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Signs of ours that a stream does not know, in ASCII; a question mark for the rest, and never a traceback."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    piece = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(each if each.isascii() else "?" for each in piece), error.end


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
    shell_complete: Completer | None = None

    def add(self, command: CommandT, *, hidden: bool) -> CommandT:
        option = click.option(
            self.flag,
            f"_{self.field}",
            type=self.type,
            is_flag=self.is_flag,
            metavar=self.metavar,
            shell_complete=self.shell_complete,
            help=self.help,
            hidden=hidden,
            expose_value=False,
            callback=_store(self.field),
        )
        return option(command)


def _complete_profile(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The names of profiles that begin so."""
    try:
        profiles = Config.read().profiles
    except ConfigError:
        return []
    return [CompletionItem(name, help=each.address) for name, each in profiles.items() if name.startswith(typed)]


_REACH = (
    _Option(
        field="profile_name",
        flag="--profile",
        metavar="NAME",
        shell_complete=_complete_profile,
        help="Profile of the configuration file, see `calendarctl profiles`. [CALENDAR_PROFILE, or the file's default]",
    ),
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
