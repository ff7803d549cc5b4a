"""The way of a person through a real browser: Connect, the provider's consent page, our callback, the caller's page."""

from __future__ import annotations

import contextlib
import hashlib
import html
import sqlite3
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from calendar_server.core.model import SECOND
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import connection_pb2
from tests.e2e.conftest import Running, Stub, serving, sqlite_settings
from tests.fakes.browser import Browser, chromium
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)

APPROVE, DENY = "button[value=approve]", "button[value=deny]"
PROVIDERS = ["google", "microsoft"]


class CallersPage(BaseHTTPRequestHandler):
    """The caller's own page, which shows what it was told."""

    def do_GET(self) -> None:
        told = "".join(
            f"<li>{html.escape(name)}={html.escape(value)}</li>" for name, value in parse_qsl(urlsplit(self.path).query)
        )
        body = f"<!doctype html><title>Calendars</title><ul>{told}</ul>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def callers_page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), CallersPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/connected"
        server.shutdown()
        thread.join(5)


@dataclass
class Journey:
    """A person's browser, a service with both providers, and the page of a caller of it."""

    browser: Browser
    service: Running
    stub: Stub
    google: GoogleFake
    microsoft: MicrosoftFake
    landing: str
    people: int = 0

    def begin(self, provider: str) -> str:
        """The provider's page to open, as Connect answers it."""
        account = {
            "google": connection_pb2.GoogleAccount,
            "microsoft": connection_pb2.MicrosoftAccount,
        }[provider](redirect_uri=self.landing)
        request = pb.ConnectRequest(**{provider: account})
        return self.stub("Connect", request).authorization_url  # type: ignore[attr-defined,no-any-return]

    def ask(self, provider: str) -> str:
        """Open the consent page for somebody new; answers its address."""
        self.people += 1
        name = f"person{self.people}"
        if provider == "google":
            self.google.add_user(name)
        else:
            self.microsoft.add_user(name)
        url = self.begin(provider)
        self.browser.open(url)
        self.browser.choose("select[name=user]", name)
        return url

    def answer(self, button: str) -> dict[str, str]:
        """Press a button; answers what the caller's page shows of what it was told."""
        self.browser.click(button)
        self.browser.wait_for_url(f"{self.landing}?")
        return dict(line.split("=", 1) for line in self.browser.text().split("\n") if line)


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("browser")
    with (
        callers_page() as landing,
        GoogleFake() as google,
        MicrosoftFake() as microsoft,
        Browser(tmp_path_factory.mktemp("chromium")) as browser,
    ):
        settings = sqlite_settings(
            folder,
            CALENDAR_GOOGLE_CLIENT_ID=google.accounts.client_id,
            CALENDAR_GOOGLE_CLIENT_SECRET=google.accounts.client_secret,
            CALENDAR_GOOGLE_AUTHORIZE_URL=google.authorize_url,
            CALENDAR_GOOGLE_TOKEN_URL=google.token_url,
            CALENDAR_GOOGLE_REVOKE_URL=google.revoke_url,
            CALENDAR_GOOGLE_USERINFO_URL=google.userinfo_url,
            CALENDAR_GOOGLE_API_URL=google.api_url,
            CALENDAR_MICROSOFT_CLIENT_ID=microsoft.entra.client_id,
            CALENDAR_MICROSOFT_CLIENT_SECRET=microsoft.entra.client_secret,
            CALENDAR_MICROSOFT_AUTHORIZE_URL=microsoft.authorize_url,
            CALENDAR_MICROSOFT_TOKEN_URL=microsoft.token_url,
            CALENDAR_MICROSOFT_GRAPH_URL=microsoft.graph_url,
            CALENDAR_REDIRECT_URIS=landing,
        )
        settings["CALENDAR_PUBLIC_URL"] = f"http://{settings['CALENDAR_HTTP_ADDRESS']}"
        google.accounts.redirect_uris.add(f"{settings['CALENDAR_PUBLIC_URL']}/oauth/google/callback")
        microsoft.entra.redirect_uris.add(f"{settings['CALENDAR_PUBLIC_URL']}/oauth/microsoft/callback")
        with serving(settings, folder) as running:
            stub = Stub(running.address, running.key())
            yield Journey(browser, running, stub, google, microsoft, landing)
            stub.close()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_person_who_approves_lands_connected_at_the_callers_page(journey: Journey, provider: str) -> None:
    journey.ask(provider)
    told = journey.answer(APPROVE)
    assert (told["connected"], told["provider"]) == ("true", provider)
    listed = journey.stub("List", pb.ListRequest(ids=[told["connection_id"]])).data[0]  # type: ignore[attr-defined]
    assert listed.status == connection_pb2.CONNECTION_STATUS_ACTIVE


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_person_who_denies_lands_at_the_callers_page_with_that_reason(journey: Journey, provider: str) -> None:
    journey.ask(provider)
    told = journey.answer(DENY)
    assert (told["connected"], told["error"]) == ("false", "access_denied")


def test_a_box_that_a_person_unticks_at_google_is_told_as_a_missing_scope(journey: Journey) -> None:
    journey.ask("google")
    journey.browser.click('input[value="https://www.googleapis.com/auth/calendar.events"]')
    told = journey.answer(APPROVE)
    assert (told["connected"], told["error"]) == ("false", "scope_missing")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_state_that_ran_out_is_told_at_the_callers_page(journey: Journey, provider: str) -> None:
    url = journey.ask(provider)
    state = parse_qs(urlsplit(url).query)["state"][0]
    database = journey.service.settings["CALENDAR_DATABASE_URL"].removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        aged = connection.execute(
            "UPDATE oauth_states SET expires_at = expires_at - ? WHERE state_sha256 = ?",
            (601 * SECOND, hashlib.sha256(state.encode()).hexdigest()),
        )
        assert aged.rowcount == 1
    told = journey.answer(APPROVE)
    assert (told["connected"], told["error"]) == ("false", "expired")


class TestTheServicesOwnPage:
    @pytest.fixture
    def used(self, journey: Journey) -> Browser:
        """The browser at a link that it was at before."""
        url = f"{journey.service.http}/oauth/microsoft/callback?code=c0de&state="
        state = parse_qs(urlsplit(journey.begin("microsoft")).query)["state"][0]
        journey.browser.open(url + state)
        assert journey.browser.url().startswith(journey.landing)
        journey.browser.open(url + state)
        return journey.browser

    def test_a_used_link_is_answered_in_words_that_a_person_understands(self, used: Browser) -> None:
        assert "not valid any more" in used.text()

    def test_its_style_sheet_passes_its_own_policy(self, used: Browser) -> None:
        assert float(used.style("main", "border-top-left-radius").removesuffix("px")) > 4

    def test_it_is_not_blank(self, used: Browser, tmp_path: Path) -> None:
        assert different_rows(used.screenshot(tmp_path / "page.png")) > 40


def different_rows(png: bytes) -> int:
    """How many rows of a PNG differ as they are encoded: a blank page has two or three (PNG, section 5)."""
    place, data, width, channels = 8, b"", 0, 0
    while place < len(png):
        (size,) = struct.unpack_from("!I", png, place)
        kind, content = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        if kind == b"IHDR":
            width, channels = struct.unpack_from("!I", content)[0], {2: 3, 6: 4}[content[9]]
        elif kind == b"IDAT":
            data += content
        place += size + 12
    rows, length = zlib.decompress(data), width * channels + 1
    return len({rows[start : start + length] for start in range(0, len(rows), length)})
