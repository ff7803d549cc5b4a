"""What a person is told when a call failed: the error, what to do next, and the exit code."""

from __future__ import annotations

import click
import grpc
from rich.text import Text

from calendar_client import errors
from calendar_client.cli_browser import SignInFailed
from calendar_client.cli_json import JsonValue, as_json, dump
from calendar_client.cli_session import Session, clean

OK, UNFORESEEN, USAGE, NOT_FOUND, UNAUTHORIZED, PERSON, AGAIN, TAKEN, CONFLICT, INCOMPLETE = range(10)

EXIT_CODES = {
    OK: "done",
    UNFORESEEN: "something unforeseen",
    USAGE: "the command or a value in it is wrong",
    NOT_FOUND: "there is no such thing, or no connection at all",
    UNAUTHORIZED: "no API key, or not a valid one",
    PERSON: "a person must act: connect again, choose another calendar, configure the service",
    AGAIN: "not reached or too busy at the moment: try again",
    TAKEN: "the time is taken",
    CONFLICT: "the account is connected already",
    INCOMPLETE: "accepted, but not all is there: a calendar is unknown, or not yet written",
}

# The first class that fits decides.
_CODES: tuple[tuple[type[errors.CalendarServiceError], int], ...] = (
    (errors.ValidationError, USAGE),
    (errors.NotFound, NOT_FOUND),
    (errors.Unauthorized, UNAUTHORIZED),
    (errors.EventUnreadable, AGAIN),
    (errors.ProviderUnavailable, AGAIN),
    (errors.ProviderError, PERSON),
    (errors.NotConfigured, PERSON),
    (errors.StoreUnavailable, AGAIN),
    (errors.ServiceStopping, AGAIN),
    (errors.LimitExceeded, AGAIN),
    (errors.ServiceUnreachable, AGAIN),
    (errors.DeadlineExceeded, AGAIN),
    (errors.SlotTaken, TAKEN),
    (errors.Conflict, CONFLICT),
)

PASSWORD_PAGES = {
    "apple": "Apple wants an app-specific password, not that of the Apple Account: "
    "make one at https://account.apple.com under Sign-In and Security → App-Specific Passwords.",
    "fastmail": "Fastmail wants an app password, not that of the account: make one under "
    "Settings → Privacy & Security → App passwords, with access to calendars (CalDAV).",
    "nextcloud": "Nextcloud works best with an app password (it must be one with two-factor sign-in): "
    "make one under Settings → Security → Devices & sessions.",
}
"""Where people get the password for a preset."""

CLIENT_PAGES = {
    "CALENDAR_GOOGLE_CLIENT_ID": "https://console.cloud.google.com/apis/credentials (a web application, with the redirect "
    "URI <CALENDAR_PUBLIC_URL>/oauth/google/callback)",
    "CALENDAR_MICROSOFT_CLIENT_ID": "https://entra.microsoft.com under App registrations (web, with the redirect URI "
    "<CALENDAR_PUBLIC_URL>/oauth/microsoft/callback)",
}
"""Where the operator of a service registers it as an OAuth client, by the setting that is empty without."""


def exit_code(error: errors.CalendarServiceError) -> int:
    """The exit code by kind, see ``EXIT_CODES``."""
    kind = error.like if isinstance(error, SignInFailed) else type(error)
    return next((code for cls, code in _CODES if issubclass(kind, cls)), UNFORESEEN)


def show(error: errors.CalendarServiceError, session: Session, command: str) -> None:
    """Print the error and what to do next to standard error. ``command`` is the command's name, such as ``book``."""
    steps = next_steps(error, session, command)
    if session.json:
        click.echo(dump({"error": _json(error, steps)}), err=True)
        return
    line = Text()
    line.append("Error: ", style="bold red")
    line.append(_message(error, session))
    session.err.print(line, soft_wrap=True)
    for violation in error.violations:
        session.err.print(
            Text.assemble("  ", (clean(violation.field), "bold"), "  ", clean(violation.description)), soft_wrap=True
        )
    for calendar in error.busy_failures:
        which = "  ".join(clean(each) for each in (calendar.connection_id, calendar.calendar_id) if each)
        session.err.print(Text.assemble("  ", (which, "bold")), soft_wrap=True)
        if calendar.problem.message not in ("", error.message):
            session.err.print(Text.assemble("    ", clean(calendar.problem.message)), soft_wrap=True)
    for step in steps:
        session.err.print(Text.assemble(("→ ", "bold cyan"), step), soft_wrap=True)


def _message(error: errors.CalendarServiceError, session: Session) -> str:
    if isinstance(error, errors.ServiceUnreachable):
        return f"No calendar service answers at {session.address_or_default}."
    if isinstance(error, errors.DeadlineExceeded):
        return "No answer in time."
    return clean(error.message)


def next_steps(error: errors.CalendarServiceError, session: Session, command: str) -> list[str]:
    """What the person does next, a sentence each. None where the error itself says it."""
    steps = _steps(error, session, command)
    if isinstance(
        error,
        errors.ProviderUnavailable | errors.StoreUnavailable | errors.ServiceStopping | errors.LimitExceeded,
    ):
        steps.append(_when(error.retry_after_s))
    if command in ("busy", "watch") and error.busy_failures:
        steps.append("To see what is known of the other calendars: add --partial.")
    if error.request_id and exit_code(error) in (UNFORESEEN, AGAIN):
        steps.append(f"The service's log has more, under the request id {clean(error.request_id)}.")
    return steps


def _steps(error: errors.CalendarServiceError, session: Session, command: str) -> list[str]:
    connection = clean(error.metadata.get("connectionId", "")) or "CONNECTION"
    again = f"calendarctl connect … --connection {connection}"
    choose = (
        f"calendarctl calendars {connection} shows what there is; calendarctl choose {connection} changes the choice."
    )
    match error:
        case SignInFailed():
            return [clean(each) for each in error.steps]
        case errors.ValidationError():
            if session.redirect_uri and any(each.field.endswith(".redirect_uri") for each in error.violations):
                return [f"The operator of the service must {_allow(session)} and start it again."]
            if command == "book" and any(each.field == "booking.revision" for each in error.violations):
                return [
                    "There is a booking with this id already. Change it with `calendarctl reschedule`, or use another id."
                ]
            return [f"`calendarctl {command} --help` explains the options."]
        case errors.NoConnections():
            return [
                "Nothing known is not the same as free. `calendarctl list` shows the connections; connections with an owner "
                "are asked by --owner or --connection.",
                "Connect a calendar: calendarctl connect caldav",
            ]
        case errors.NotFound():
            if command in ("booking", "reschedule", "cancel"):
                return ["A booking's id is the one that was given to `calendarctl book`."]
            return ["`calendarctl list` shows the connections there are."]
        case errors.Unauthorized():
            return [
                "Put the key into the environment variable CALENDAR_API_KEY, or name its file with --api-key-file.",
                "The operator makes one with: calendar-server create-api-key --organization NAME",
            ]
        case errors.Conflict():
            return [f"Use it: calendarctl calendars {connection}", f"To store a new password: {again}"]
        case errors.ProviderRefused():
            return _refused(error, session)
        case errors.NeedsReauth():
            return [f"Its owner must connect the account again: {again}"]
        case errors.AccountMismatch():
            return [
                "Sign in with the account of that connection, or leave out --connection to connect this one beside it."
            ]
        case errors.CalendarGone() | errors.CalendarReadOnly():
            return [f"Choose another calendar. {choose}"]
        case errors.AdminConsentRequired():
            return [
                "Ask an administrator of the account's organization to consent to this application, then connect again."
            ]
        case errors.ScopeMissing():
            return ["Connect again and leave all boxes about calendars ticked."]
        case errors.EventUnreadable() if "bookingId" in error.metadata:
            name, known = clean(error.metadata["bookingId"]), error.metadata.get("revision", "0")
            newer = int(known) + 1 if known.isdecimal() else 1
            return [f"Send it again with all that it says: calendarctl book {name} --revision {newer} …"]
        case errors.EventUnreadable():
            return [
                "Look at that event in the calendar: save it again, or delete it.",
                "To go on without it: add --partial." if command in ("busy", "watch") else "Then try again.",
            ]
        case errors.NotConfigured():
            setting = clean(error.setting) or "the setting"
            if session.redirect_uri and setting == "CALENDAR_REDIRECT_URIS":
                return [f"The operator of the service must {_allow(session)} and start it again."]
            if setting in CLIENT_PAGES:
                page = CLIENT_PAGES[setting]
                return [
                    f"The operator makes a client at {page}, sets {setting} and its secret, and starts the service again."
                ]
            return [f"The operator of the service must fill {setting} and start it again."]
        case errors.SlotTaken():
            return [
                "`calendarctl busy` shows what is free. Without --require-free the booking is written all the same."
            ]
        case errors.ServiceUnreachable():
            return [
                "Is it running? `calendar-server serve` starts it; --address or CALENDAR_ADDRESS says where it is.",
                "If it speaks TLS, add --tls or --tls-ca; if it does not, leave them out.",
            ]
        case errors.DeadlineExceeded():
            return ["Try again; repeating the command is safe. --timeout waits longer."]
        case errors.Unimplemented():
            return ["What answers there is not this service, or an older version of it: check the address."]
        case errors.InternalError():
            return ["Tell the operator of the service."]
        case _:
            return []


def _allow(session: Session) -> str:
    place = session.redirect_uri.partition("?")[0]
    return f"add {clean(place)} to CALENDAR_REDIRECT_URIS"


def _refused(error: errors.ProviderRefused, session: Session) -> list[str]:
    match error.cause:
        case "credentials":
            page = PASSWORD_PAGES.get(session.preset)
            return ["Check the user name and the password.", *([page] if page else [])]
        case "not_caldav":
            return ["Check --server-url: it is the address that the server's help names for CalDAV."]
        case "no_calendars":
            return ["Make a calendar in the account first, or give the address of one as --server-url."]
        case _:
            return []


def _when(retry_after_s: float | None) -> str:
    if retry_after_s is None:
        return "Try again in a moment."
    seconds = max(1, round(retry_after_s))
    return f"Try again in {seconds} s." if seconds < 120 else f"Try again in {round(seconds / 60)} min."


def _json(error: errors.CalendarServiceError, steps: list[str]) -> dict[str, JsonValue]:
    code: grpc.StatusCode = error.code
    return {
        "reason": error.reason.lower(),
        "code": code.name.lower(),
        "message": error.message,
        "metadata": dict(error.metadata),
        "retry_after_s": error.retry_after_s,
        "violations": [{"field": each.field, "description": each.description} for each in error.violations],
        "busy_failures": [as_json(each) for each in error.busy_failures],
        "request_id": error.request_id or None,
        "next": list(steps),
    }
