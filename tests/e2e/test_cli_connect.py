"""``calendarctl connect google`` and ``… microsoft`` through the whole service and the providers' fakes on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest

from deploy.local import free_port
from tests.e2e.conftest import serving, sqlite_settings
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake

Consent = Callable[..., str]


@dataclass
class World:
    """A service with both providers, for which a browser may end on this machine."""

    address: str
    key: str
    landing: str
    google: GoogleFake
    microsoft: MicrosoftFake

    def consent(self, provider: str) -> tuple[Consent, str]:
        """How somebody decides at the provider's page, and somebody new."""
        if provider == "google":
            self.google.add_user("gus")
            return self.google.accounts.consent, "gus"
        self.microsoft.add_user("mia")
        return self.microsoft.entra.consent, "mia"

    @contextmanager
    def connecting(self, provider: str, *more: str) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-m", "calendar_client.cli", "connect", provider, "--redirect-uri", self.landing]
        env = {**os.environ, "CALENDAR_ADDRESS": self.address, "CALENDAR_API_KEY": self.key}
        with subprocess.Popen(
            [*command, "--no-browser", *more], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            yield process
            process.kill()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("connecting")
    landing = f"http://127.0.0.1:{free_port()}/connected"
    with GoogleFake() as google, MicrosoftFake() as microsoft:
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
            yield World(running.address, running.key(), landing, google, microsoft)


def decide(process: subprocess.Popen[str], consent: Consent, user: str, **how: object) -> tuple[int, str, str]:
    """Open the page that was printed, decide there, and follow the redirects; answers how the command ended."""
    assert process.stdout is not None
    page = process.stdout.readline().strip()
    httpx.get(consent(page, user, **how), trust_env=False, follow_redirects=True).raise_for_status()
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize("provider", ["google", "microsoft"])
def test_a_person_signs_in_and_out_and_is_told_each_end(provider: str, world: World) -> None:
    consent, user = world.consent(provider)
    with world.connecting(provider) as process:
        code, _, err = decide(process, consent, user, approve=False)
    assert (code, "Access was denied" in err) == (5, True)
    with world.connecting(provider) as process:
        code, out, err = decide(process, consent, user)
    assert code == 0, err
    assert "Connected." in out
    connection_id = next(word for word in out.split() if word.startswith("cal_"))
    with world.connecting(provider) as process:
        code, _, err = decide(process, consent, user)
    assert (code, "connected already" in err) == (8, True)
    with world.connecting(provider, "--connection", connection_id) as process:
        code, out, err = decide(process, consent, user)
    assert code == 0, err
    assert "Renewed." in out
    assert connection_id in out
