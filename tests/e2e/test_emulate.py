"""The redirect flow against somebody else's Google and Entra sign-in: npm `emulate`.

It accepts any bearer token and grants whatever is asked for, so it proves the happy path only: that a server which was not
written with this client in mind takes its authorization URL, PKCE, code, secret and refresh token.
CALENDAR_TEST_EMULATE names a folder that keeps the installation; without it, it is installed anew.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
import pytest

from calendar_server.errors import ProviderRefused
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.oauth import OAuthClient, OAuthSettings, Tokens
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import connection_pb2
from deploy import local
from tests.e2e.conftest import Running, Stub, serving, sqlite_settings

LANDING = "https://app.example.org/connected"
PACKAGES = ("emulate@0.12.2", "node@24")
INSTALL_S = 80
START_S = 30
CLIENT_ID, CLIENT_SECRET = "calendar-service", "a secret of the calendar service"
EMAIL = {"google": "anna@example.com", "microsoft": "anna@outlook.example.com"}
TOKEN_PATH = {"google": "/oauth2/token", "microsoft": "/oauth2/v2.0/token"}
AUTHORIZE_PATH = {"google": "/o/oauth2/v2/auth", "microsoft": "/oauth2/v2.0/authorize"}
PROVIDERS = list(EMAIL)
VERIFIER = "a-verifier-of-at-least-forty-three-characters-0123"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What starts `emulate`, with the Node that it needs."""
    npm = shutil.which("npm")
    kept = os.environ.get("CALENDAR_TEST_EMULATE")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("emulate")
    node, script = folder / "node_modules/.bin/node", folder / "node_modules/.bin/emulate"
    if not (node.exists() and script.exists()):
        if npm is None:
            pytest.skip("npm is not installed, which installs `emulate`")
        folder.mkdir(parents=True, exist_ok=True)
        problem = installed(npm, folder)
        if problem:
            pytest.skip(f"npm could not install {' '.join(PACKAGES)}: {problem}")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run([node, "--version"], capture_output=True, timeout=30, check=False).returncode == 0:
            return [str(node), str(script)]
    pytest.skip("the Node that npm installed does not run on this machine")


def installed(npm: str, folder: Path) -> str:
    """Install into the folder; answers what went wrong, empty when nothing did."""
    log = folder / "npm.log"
    command = [npm, "install", "--no-audit", "--no-fund", "--fetch-retries=1", "--prefix", str(folder), *PACKAGES]
    with log.open("wb") as output:
        # A group of its own: what npm started ends with it when the time is over.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(INSTALL_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            return f"it took more than {INSTALL_S} seconds"
    return "" if status == 0 else " ".join(log.read_text(errors="replace").split())[:300] or f"exit status {status}"


@contextlib.contextmanager
def emulated(program: list[str], name: str, callback: str, folder: Path) -> Iterator[str]:
    """One provider's emulator with one person and one client; answers its address."""
    port = local.free_port()
    seed = folder / f"{name}.json"
    client = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "name": "Calendar service",
        "redirect_uris": [callback],
    }
    seed.write_text(json.dumps({name: {"users": [{"email": EMAIL[name], "name": "Anna"}], "oauth_clients": [client]}}))
    log = folder / f"{name}.log"
    arguments = [*program, "start", "--service", name, "--port", str(port), "--seed", str(seed)]
    url = f"http://127.0.0.1:{port}"
    with local.running(arguments, os.environ, log) as process:
        end = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url, trust_env=False, timeout=5)
                break
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"emulate did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield url


class Forms(HTMLParser):
    """The forms of a page with their fields, as a browser would send them."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = True
            self.found.append((known.get("action", ""), {}))
        elif tag == "input" and self._inside and "name" in known:
            self.found[-1][1][known["name"]] = known.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def signed_in(authorization_url: str, email: str) -> str:
    """What a person does at the emulator's page: choose the account; answers where the browser is sent."""
    with httpx.Client(trust_env=False, timeout=30) as browser:
        page = browser.get(authorization_url)
        assert page.status_code == 200, page.text
        # A form for each account, the emulator's own ones among them.
        ((action, fields),) = [form for form in Forms(page.text).found if form[1].get("email") == email]
        answer = browser.post(urljoin(authorization_url, action), data=fields)
    assert answer.is_redirect, answer.text
    return answer.headers["location"]


@dataclass
class Journey:
    """A service whose providers are the emulators."""

    service: Running
    stub: Stub
    urls: dict[str, str]
    callbacks: dict[str, str]

    def connect(self, provider: str) -> dict[str, str]:
        """The whole journey; answers what the caller's page is told."""
        account = {"google": connection_pb2.GoogleAccount, "microsoft": connection_pb2.MicrosoftAccount}[provider]
        request = pb.ConnectRequest(**{provider: account(redirect_uri=LANDING)})
        url = self.stub("Connect", request).authorization_url  # type: ignore[attr-defined]
        back = signed_in(url, EMAIL[provider])
        assert back.startswith(self.callbacks[provider])
        answer = httpx.get(back, trust_env=False, follow_redirects=False, timeout=60)
        assert answer.status_code == 303
        location = answer.headers["location"]
        assert location.startswith(LANDING)
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory, program: list[str]) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("emulated")
    settings = sqlite_settings(folder, CALENDAR_REDIRECT_URIS=LANDING)
    settings["CALENDAR_PUBLIC_URL"] = f"http://{settings['CALENDAR_HTTP_ADDRESS']}"
    callbacks = {name: f"{settings['CALENDAR_PUBLIC_URL']}/oauth/{name}/callback" for name in PROVIDERS}
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(emulated(program, name, callbacks[name], folder)) for name in PROVIDERS}
        for name, url in urls.items():
            settings |= {
                f"CALENDAR_{name.upper()}_CLIENT_ID": CLIENT_ID,
                f"CALENDAR_{name.upper()}_CLIENT_SECRET": CLIENT_SECRET,
                f"CALENDAR_{name.upper()}_AUTHORIZE_URL": url + AUTHORIZE_PATH[name],
                f"CALENDAR_{name.upper()}_TOKEN_URL": url + TOKEN_PATH[name],
            }
        settings |= {
            "CALENDAR_GOOGLE_REVOKE_URL": f"{urls['google']}/oauth2/revoke",
            "CALENDAR_GOOGLE_USERINFO_URL": f"{urls['google']}/oauth2/v2/userinfo",
            "CALENDAR_GOOGLE_API_URL": f"{urls['google']}/calendar/v3",
            "CALENDAR_MICROSOFT_GRAPH_URL": f"{urls['microsoft']}/v1.0",
        }
        running = stack.enter_context(serving(settings, folder))
        stub = Stub(running.address, running.key())
        yield Journey(running, stub, urls, callbacks)
        stub.close()


def test_google_connects_with_the_account_that_signed_in(journey: Journey) -> None:
    told = journey.connect("google")
    assert (told["connected"], told["provider"]) == ("true", "google"), told
    listed = journey.stub("List", pb.ListRequest(ids=[told["connection_id"]])).data[0]  # type: ignore[attr-defined]
    assert (listed.status, listed.account_email) == (connection_pb2.CONNECTION_STATUS_ACTIVE, EMAIL["google"])


def test_microsoft_without_a_mailbox_is_told_and_stores_nothing(journey: Journey) -> None:
    """The sign-in, the code's exchange and Graph's `me` succeed; the emulator has no `me/calendar` and answers 404, as
    Graph does for an account without a mailbox. The honest outcome is a refusal with a reason, and no connection."""
    told = journey.connect("microsoft")
    assert (told["connected"], told["error"]) == ("false", "provider_error")
    # It came as far as the calendar: a refused code or token has another reason.
    logged = [json.loads(line) for line in journey.service.log.read_text().splitlines() if "connect_failed" in line]
    assert [line["reason"] for line in logged] == ["CALENDAR_GONE"]
    found = journey.stub("List", pb.ListRequest()).data  # type: ignore[attr-defined]
    assert not [one for one in found if one.provider == connection_pb2.PROVIDER_MICROSOFT]


class TestTheClient:
    SCOPES: ClassVar = {
        "google": ("openid", "email"),
        "microsoft": ("openid", "email", "offline_access", "User.Read"),
    }

    @pytest.fixture
    def egress(self) -> Iterator[Egress]:
        out = Egress(allow=AllowList.parse("127.0.0.1"), exchange_s=30, answer_bytes=1_000_000)
        yield out
        out.close()

    def client(self, journey: Journey, egress: Egress, provider: str) -> OAuthClient:
        url = journey.urls[provider]
        settings = OAuthSettings(
            client_id=CLIENT_ID,
            client_secret=CLIENT_SECRET,
            authorize_url=url + AUTHORIZE_PATH[provider],
            token_url=url + TOKEN_PATH[provider],
            scopes=self.SCOPES[provider],
        )
        return OAuthClient(egress, settings)

    def tokens(self, journey: Journey, client: OAuthClient, provider: str, verifier: str) -> Tokens:
        """Tokens for a person who signed in, asked for with this verifier."""
        callback = journey.callbacks[provider]
        challenge = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
        url = client.authorization_url(callback=callback, state="a-state", challenge=challenge, tenant="common")
        back = signed_in(url, EMAIL[provider])
        code = parse_qs(urlsplit(back).query)["code"][0]
        return client.exchange(
            code=code, callback=callback, verifier=verifier, tenant="common", deadline=Deadline.after(30)
        )

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_a_refresh_gives_another_access_token(self, journey: Journey, egress: Egress, provider: str) -> None:
        client = self.client(journey, egress, provider)
        first = self.tokens(journey, client, provider, VERIFIER)
        second = client.refresh(refresh_token=first.refresh_token, tenant="common", deadline=Deadline.after(30))
        assert second.access_token not in ("", first.access_token)

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_the_challenge_is_held_against_the_verifier(self, journey: Journey, egress: Egress, provider: str) -> None:
        client = self.client(journey, egress, provider)
        with pytest.raises(ProviderRefused):
            self.tokens(journey, client, provider, VERIFIER[::-1])
