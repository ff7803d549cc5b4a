"""Push from both providers through a whole service: watched after use, noted when told, stopped at Disconnect."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import connection_pb2
from tests.e2e.conftest import Running, Stub, at, busy_request, intervals, serving, sqlite_settings
from tests.fakes.google import GoogleFake, GoogleUser
from tests.fakes.microsoft import GraphUser, MicrosoftFake

LANDING = "https://app.example.org/connected"
WAIT_S = 40.0
STALE_S = 3000
"""So old may answers be: what is fresher comes by push alone."""


@dataclass
class Push:
    """A service whose providers are the fakes on this machine."""

    running: Running
    stub: Stub
    google: GoogleFake
    microsoft: MicrosoftFake
    database: Path
    people: int = 0

    def google_user(self) -> tuple[str, GoogleUser]:
        self.people += 1
        name = f"person{self.people}"
        user = self.google.add_user(name)
        account = connection_pb2.GoogleAccount(redirect_uri=LANDING)
        url = self.stub("Connect", pb.ConnectRequest(google=account)).authorization_url  # type: ignore[attr-defined]
        return self.landed(self.google.accounts.consent(url, name)), user

    def microsoft_user(self) -> tuple[str, GraphUser]:
        self.people += 1
        name = f"person{self.people}"
        user = self.microsoft.add_user(name)
        account = connection_pb2.MicrosoftAccount(redirect_uri=LANDING)
        url = self.stub("Connect", pb.ConnectRequest(microsoft=account)).authorization_url  # type: ignore[attr-defined]
        return self.landed(self.microsoft.entra.consent(url, name)), user

    def landed(self, back: str) -> str:
        answer = httpx.get(back, trust_env=False, follow_redirects=False)
        told = parse_qs(urlsplit(answer.headers["location"]).query)
        assert told["connected"] == ["true"], told
        return told["connection_id"][0]

    def busy(self, connection_id: str) -> list[tuple[object, object]]:
        return intervals(self.stub("GetBusy", busy_request(connection_id)).busy)  # type: ignore[attr-defined,return-value]

    def changed_at(self, connection_id: str) -> int:
        return self.value("SELECT max(changed_at) FROM busy WHERE connection_id = ?", connection_id)

    def active(self, connection_id: str) -> int:
        sql = "SELECT count(*) FROM watches WHERE connection_id = ? AND state = 'active'"
        return self.value(sql, connection_id)

    def value(self, sql: str, *values: object) -> int:
        database = sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)
        try:
            return int(database.execute(sql, values).fetchone()[0] or 0)
        finally:
            database.close()

    @property
    def requests(self) -> int:
        return len(self.google.exchanges) + len(self.microsoft.exchanges)

    def post(self, path: str, **more: object) -> httpx.Response:
        return httpx.post(f"{self.running.http}{path}", trust_env=False, timeout=30, **more)  # type: ignore[arg-type]


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def push(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Push]:
    folder = tmp_path_factory.mktemp("push")
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
            CALENDAR_REDIRECT_URIS=LANDING,
            CALENDAR_MAX_STALENESS_S=str(STALE_S),
        )
        settings["CALENDAR_PUBLIC_URL"] = f"http://{settings['CALENDAR_HTTP_ADDRESS']}"
        google.accounts.redirect_uris.add(f"{settings['CALENDAR_PUBLIC_URL']}/oauth/google/callback")
        microsoft.entra.redirect_uris.add(f"{settings['CALENDAR_PUBLIC_URL']}/oauth/microsoft/callback")
        with serving(settings, folder) as running:
            stub = Stub(running.address, running.key())
            yield Push(running, stub, google, microsoft, folder / "calendar.db")
            stub.close()
        google.assert_clean()
        assert microsoft.problems == []


def test_google_is_watched_after_use_heard_and_stopped(push: Push) -> None:
    connection_id, user = push.google_user()
    assert push.busy(connection_id) == []
    until(lambda: push.active(connection_id) == 1)
    push.google.deliveries.drain()
    assert push.changed_at(connection_id) == 0
    user.primary.add(at(9), at(10))
    push.google.channels.changed(user.primary.id)
    push.google.deliveries.drain()
    until(lambda: push.changed_at(connection_id) > 0)
    # Answers may be old for almost an hour; what has changed is read at once all the same.
    until(lambda: push.busy(connection_id) == [(at(9), at(10))])
    push.stub("Disconnect", pb.DisconnectRequest(id=connection_id))
    assert [c for c in push.google.channels.open.values() if c.email == user.email] == []
    assert push.value("SELECT count(*) FROM watches WHERE connection_id = ?", connection_id) == 0


def test_microsoft_is_watched_after_use_heard_and_stopped(push: Push) -> None:
    connection_id, user = push.microsoft_user()
    assert push.busy(connection_id) == []
    until(lambda: push.active(connection_id) == 1)
    assert all(answer.status == 200 for answer in push.microsoft.subscriptions.handshakes)
    user.mailbox.add(at(9).replace(tzinfo=None), at(10).replace(tzinfo=None))
    push.microsoft.subscriptions.changed(user.mailbox.default.id)
    push.microsoft.deliveries.drain()
    assert {status for _, status in push.microsoft.deliveries.sent} == {202}
    until(lambda: push.changed_at(connection_id) > 0)
    until(lambda: push.busy(connection_id) == [(at(9), at(10))])
    push.stub("Disconnect", pb.DisconnectRequest(id=connection_id))
    assert [s for s in push.microsoft.subscriptions.open.values() if s.owner == user.user.id] == []


def test_a_forged_notification_is_answered_like_a_true_one_and_causes_no_request(push: Push) -> None:
    connection_id, user = push.google_user()
    push.busy(connection_id)
    until(lambda: push.active(connection_id) == 1)
    push.google.deliveries.drain()
    (channel,) = [c for c in push.google.channels.open.values() if c.email == user.email]
    headers = {"X-Goog-Channel-ID": channel.id, "X-Goog-Resource-State": "exists"}
    asked = push.requests
    forged = [
        push.post("/webhooks/google", headers={**headers, "X-Goog-Channel-Token": f"{channel.id}.guess"}),
        push.post("/webhooks/google", headers=headers),
        push.post("/webhooks/google"),
        push.post("/webhooks/microsoft", json={"value": [{"clientState": f"{channel.id}.guess"}]}),
    ]
    assert [answer.status_code for answer in forged] == [200, 200, 200, 202]
    assert (push.changed_at(connection_id), push.requests) == (0, asked)
    true = push.post("/webhooks/google", headers={**headers, "X-Goog-Channel-Token": channel.token})
    assert (true.status_code, true.content) == (forged[0].status_code, forged[0].content)
    # The worker reads when it hears of the true one; had it heard of a forged one, it would have read before.
    until(lambda: push.changed_at(connection_id) > 0)


def test_repeated_notifications_end_in_what_is_true(push: Push) -> None:
    connection_id, user = push.google_user()
    push.busy(connection_id)
    until(lambda: push.active(connection_id) == 1)
    push.google.deliveries.repeat = 5
    for hour in (9, 11, 13):
        user.primary.add(at(hour), at(hour + 1))
        push.google.channels.changed(user.primary.id)
    push.google.deliveries.drain()
    push.google.deliveries.repeat = 1
    until(lambda: len(push.busy(connection_id)) == 3)
