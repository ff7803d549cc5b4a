"""A sign-in in the person's browser, as seen from the command line: open the page, wait for it to come back.

The browser ends at a ``redirect_uri``. Where that is on this machine, a listener of ours takes it; the outcome that it
brings is a hint only, so callers confirm it with the service.
"""

from __future__ import annotations

import hmac
import os
import secrets
import sys
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from calendar_client import errors

DEFAULT_REDIRECT_URI = "http://127.0.0.1:8085/connected"
"""Where the browser ends unless told otherwise. The service's CALENDAR_REDIRECT_URIS must name it."""

WAIT_S = 600.0
"""Seconds until a page of Connect is no longer valid."""

_QUERY_BYTES = 8192
_REQUEST_S = 10.0
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1"}

_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;display:grid;place-content:center;min-height:90vh;text-align:center;
color-scheme:light dark}}</style><h1>{title}</h1><p>{text}</p></html>"""


@dataclass(frozen=True, slots=True)
class _Ending:
    """What an error word of the redirect means: in words, what to do, and the error whose exit code it shares."""

    message: str
    steps: tuple[str, ...]
    like: type[errors.CalendarServiceError]


_AGAIN = "Run the command again."

ENDINGS: Mapping[str, _Ending] = {
    "access_denied": _Ending(
        "Access was denied at the sign-in page; nothing was connected.",
        ("To connect after all, run the command again and allow access.",),
        errors.ProviderRefused,
    ),
    "scope_missing": _Ending(
        "Not all that is needed was allowed; nothing was connected.",
        ("Run the command again and leave all boxes about calendars ticked.",),
        errors.ScopeMissing,
    ),
    "admin_consent_required": _Ending(
        "The account's organization wants an administrator to consent first.",
        ("Ask an administrator of that organization to consent to this application, then run the command again.",),
        errors.AdminConsentRequired,
    ),
    "conflict": _Ending(
        "This account is connected already.",
        (
            "`calendarctl list` shows it.",
            "To renew it: calendarctl connect … --connection ID",
        ),
        errors.Conflict,
    ),
    "account_mismatch": _Ending(
        "Another account signed in than the one of the connection that was to be renewed.",
        ("Run the command again and choose that account, or leave out --connection to connect this one beside it.",),
        errors.AccountMismatch,
    ),
    "not_found": _Ending(
        "The connection that was to be renewed is no longer there.",
        ("Leave out --connection to connect the account anew.",),
        errors.NotFound,
    ),
    "expired": _Ending(
        "The page was open for too long: it is valid for ten minutes.", (_AGAIN,), errors.DeadlineExceeded
    ),
    "provider_error": _Ending(
        "The provider did not answer as it should.", ("Run the command again in a moment.",), errors.ProviderUnavailable
    ),
    "internal": _Ending(
        "Something unforeseen happened in the service.",
        ("Tell the operator of the service; its log has more.",),
        errors.InternalError,
    ),
}
"""Every error word of the redirect, see the service's contract."""

_UNKNOWN = _Ending("The sign-in did not end well.", (_AGAIN,), errors.CalendarServiceError)


class SignInFailed(errors.CalendarServiceError):
    """The browser came back without a connection, or not at all. ``reason`` is the redirect's error word, in capitals."""

    def __init__(self, word: str, admin_consent_url: str = ""):
        ending = ENDINGS.get(word, _UNKNOWN)
        super().__init__(ending.message, errors.Details(reason=word.upper()))
        self.like = ending.like
        page = admin_consent_url if admin_consent_url.startswith("https://") else ""
        self.steps = [*ending.steps, *([f"The page for the administrator: {page}"] if page else [])]


@dataclass(frozen=True, slots=True)
class Landing:
    """A place on this machine where a browser ends."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, redirect_uri: str) -> Landing | None:
        """The place, if we can listen there: plain http on a loopback address, with a port of its own."""
        try:
            parts = urlsplit(redirect_uri)
            host, port = _LOOPBACK.get(parts.hostname or ""), parts.port
        except ValueError:
            return None
        return cls(host, port, parts.path or "/") if parts.scheme == "http" and host and port else None


class Listener:
    """Waits for the browser at a landing. Only a request that knows ``state`` counts."""

    def __init__(self, landing: Landing, state: str):
        self.state = state
        self._outcome: dict[str, str] | None = None
        self._arrived = threading.Event()
        listener = self

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_S

            def do_GET(self) -> None:
                listener._take(self, landing.path)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet: what the browser asks for holds ids."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # On Windows it would let a second program listen beside us.
            allow_reuse_address = sys.platform != "win32"

            def handle_error(self, request: object, client_address: object) -> None:
                """Quiet: a browser that hangs up is no news."""

        self._server = Server((landing.host, landing.port), Handler)

    def wait(self, seconds: float) -> str:
        """The id of the connection that the browser says was made. Raises ``SignInFailed``."""
        if not self._arrived.wait(seconds) or self._outcome is None:
            raise SignInFailed("expired")
        if self._outcome.get("connected") == "true" and self._outcome.get("connection_id"):
            return self._outcome["connection_id"]
        raise SignInFailed(self._outcome.get("error", ""), self._outcome.get("admin_consent_url", ""))

    def _take(self, request: BaseHTTPRequestHandler, path: str) -> None:
        parts = urlsplit(request.path)
        told = dict(parse_qsl(parts.query, max_num_fields=32)) if len(parts.query) <= _QUERY_BYTES else {}
        known = hmac.compare_digest(told.get("client_state", "").encode(), self.state.encode())
        if parts.path != path or not known:
            _answer(request, 404, "Not found", "This page belongs to a sign-in that is not going on here.")
            return
        if told.get("connected") == "true":
            _answer(request, 200, "Connected", "You can close this window and go back to the terminal.")
        else:
            _answer(request, 200, "Not connected", "The terminal says why, and what to do. You can close this window.")
        if not self._arrived.is_set():
            self._outcome = told
            self._arrived.set()

    @contextmanager
    def running(self) -> Iterator[Listener]:
        """Answer browsers meanwhile."""
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="calendarctl-landing", daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(_REQUEST_S)


def new_state() -> str:
    """A value that only we and the browser of this sign-in know."""
    return secrets.token_urlsafe(24)


def open_page(url: str) -> bool:
    """Open the page in the person's browser. False where there is none that could show it."""
    graphical = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER", "WSL_DISTRO_NAME")
    )
    # Without a screen it would be a browser of text in this very terminal, which no sign-in page works in.
    try:
        return graphical and webbrowser.open(url)
    except (webbrowser.Error, OSError):
        return False


def _answer(request: BaseHTTPRequestHandler, status: int, title: str, text: str) -> None:
    body = _PAGE.format(title=title, text=text).encode()
    request.send_response(status)
    request.send_header("Content-Type", "text/html; charset=utf-8")
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Cache-Control", "no-store")
    request.send_header("Referrer-Policy", "no-referrer")
    request.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(body)
    request.wfile.flush()
