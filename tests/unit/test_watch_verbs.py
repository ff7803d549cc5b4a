"""Making, extending and ending watches at Google and at Microsoft."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from calendar_server.core.model import DAY, SECOND, CalendarId, Connection, ProviderName
from calendar_server.errors import (
    CalendarGone,
    NotFound,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
    ScopeMissing,
)
from calendar_server.providers.base import Deadline, Link, Secret, Watch, Watcher
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.google import PRIMARY, GoogleProvider
from calendar_server.providers.microsoft import MicrosoftProvider
from tests.fakes.connections import connection_of
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.raw_server import RawServer, answer
from tests.fakes.webhook import WebhookServer

ID, SECRET = "0" * 32, "s" * 43


def soon() -> Deadline:
    return Deadline.after(15)


def answering(body: bytes) -> RawServer:
    """A provider that answers everything with this."""
    return RawServer(lambda request, line: line.send(answer(200, body)))


def connection(provider: ProviderName, subject: str) -> Connection:
    return connection_of(provider, subject, "anna@example.org", PRIMARY)


@dataclass
class Desk:
    """An account, its provider, and an address that takes notifications."""

    watcher: Watcher
    link: Link
    calendar_id: CalendarId
    webhook: WebhookServer

    def watch(self, id: str = ID) -> Watch:
        return self.watcher.watch(
            self.link, self.calendar_id, address=self.webhook.url, id=id, secret=SECRET, deadline=soon()
        )


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    egress = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=1_000_000)
    yield egress
    egress.close()


@pytest.fixture
def webhook() -> Iterator[WebhookServer]:
    with WebhookServer() as server:
        yield server


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    with GoogleFake() as fake:
        yield fake


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    with MicrosoftFake() as fake:
        yield fake


@pytest.fixture
def googles(egress: Egress, google: GoogleFake, webhook: WebhookServer) -> Desk:
    anna = google.add_user("anna")
    secret = Secret({"access_token": str(google.token_of(anna)["access_token"])})
    provider = GoogleProvider(egress, api_url=google.api_url, calendar_events=10)
    return Desk(provider, Link(connection(ProviderName.GOOGLE, anna.user.sub), secret), PRIMARY, webhook)


@pytest.fixture
def microsofts(egress: Egress, microsoft: MicrosoftFake, webhook: WebhookServer) -> Desk:
    anna = microsoft.add_user("anna")
    secret = Secret({"access_token": str(microsoft.token_of(anna)["access_token"])})
    provider = MicrosoftProvider(egress, graph_url=microsoft.graph_url, calendar_events=10)
    calendar_id = CalendarId(anna.mailbox.default.id)
    return Desk(provider, Link(connection(ProviderName.MICROSOFT, anna.user.id), secret), calendar_id, webhook)


class TestGoogle:
    def test_a_channel_is_opened_for_a_week_under_our_id(self, googles: Desk, google: GoogleFake) -> None:
        made = googles.watch()
        channel = google.channels.open[ID]
        assert (made.id, made.resource_id) == (ID, channel.resource_id)
        assert (channel.token, channel.address) == (SECRET, googles.webhook.url)
        assert abs(made.expires_at - time.time() * SECOND - 7 * DAY) < 60 * SECOND
        google.assert_clean()

    def test_it_tells_first_that_it_is_open_and_then_of_a_change(self, googles: Desk, google: GoogleFake) -> None:
        googles.watch()
        google.channels.changed(google.channels.open[ID].calendar_id)
        google.deliveries.drain()
        assert [post.headers["x-goog-resource-state"] for post in googles.webhook.posts] == ["sync", "exists"]

    def test_it_cannot_be_extended(self, googles: Desk) -> None:
        assert googles.watcher.extend(googles.link, googles.watch(), soon()) is None

    def test_it_is_stopped_and_stopping_it_again_is_success(self, googles: Desk, google: GoogleFake) -> None:
        made = googles.watch()
        for _ in range(2):
            googles.watcher.unwatch(googles.link, made, soon())
        assert (google.channels.open, google.channels.stopped) == ({}, [ID])
        google.assert_clean()

    def test_a_calendar_without_push_is_refused(self, googles: Desk, google: GoogleFake) -> None:
        google.channels.unsupported.add(google.users[googles.link.connection.subject].primary.id)
        with pytest.raises(ProviderRefused):
            googles.watch()

    @pytest.mark.parametrize(
        ("status", "reason", "raised"),
        [
            (404, "notFound", CalendarGone),
            (403, "forbidden", CalendarGone),
            (403, "rateLimitExceeded", ProviderThrottled),
            (403, "insufficientPermissions", ScopeMissing),
            (429, "rateLimitExceeded", ProviderThrottled),
            (500, "backendError", ProviderUnavailable),
        ],
    )
    def test_a_refusal_is_told_as_what_it_is(
        self, googles: Desk, google: GoogleFake, status: int, reason: str, raised: type[Exception]
    ) -> None:
        google.fail_next(status, reason)
        with pytest.raises(raised) as failed:
            googles.watch()
        assert type(failed.value) is raised

    def test_a_failing_stop_is_no_success(self, googles: Desk, google: GoogleFake) -> None:
        made = googles.watch()
        google.fail_next(500)
        with pytest.raises(ProviderUnavailable):
            googles.watcher.unwatch(googles.link, made, soon())

    def test_nothing_is_asked_for_a_disconnected_connection(self, googles: Desk, google: GoogleFake) -> None:
        def gone() -> None:
            raise NotFound("There is no such connection.")

        googles.link = Link(googles.link.connection, googles.link.secret, check=gone)
        with pytest.raises(NotFound):
            googles.watch()
        assert google.exchanges == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"[]",
            b'{"kind": "api#channel", "id": "another", "resourceId": "r"}',
            b'{"kind": "api#channel", "id": "%s"}' % ID.encode(),
            b'{"kind": "calendar#events", "resourceId": "r"}',
        ],
    )
    def test_an_answer_that_is_no_channel_is_none(self, egress: Egress, googles: Desk, body: bytes) -> None:
        with answering(body) as server:
            googles.watcher = GoogleProvider(egress, api_url=server.url, calendar_events=10)
            with pytest.raises(ProviderUnavailable, match="could not be read"):
                googles.watch()

    @pytest.mark.parametrize("told", [b"", b', "expiration": null', b', "expiration": "soon"', b', "expiration": "-1"'])
    def test_a_channel_whose_end_is_not_told_is_believed_for_an_hour(
        self, egress: Egress, googles: Desk, told: bytes
    ) -> None:
        body = b'{"kind": "api#channel", "id": "%s", "resourceId": "r"%s}' % (ID.encode(), told)
        with answering(body) as server:
            googles.watcher = GoogleProvider(egress, api_url=server.url, calendar_events=10)
            made = googles.watch()
        assert abs(made.expires_at - time.time() * SECOND - 3600 * SECOND) < 60 * SECOND


class TestMicrosoft:
    def test_a_subscription_is_made_for_a_little_less_than_a_week(
        self, microsofts: Desk, microsoft: MicrosoftFake
    ) -> None:
        made = microsofts.watch()
        subscription = microsoft.subscriptions.open[made.id]
        assert subscription.content["clientState"] == SECRET
        assert subscription.content["lifecycleNotificationUrl"] == microsofts.webhook.url
        assert subscription.calendar_id == microsofts.calendar_id
        assert 6 * DAY < made.expires_at - time.time() * SECOND < 7 * DAY
        assert microsoft.problems == []

    def test_it_is_extended_in_place(self, microsofts: Desk, microsoft: MicrosoftFake) -> None:
        made = microsofts.watch()
        extended = microsofts.watcher.extend(microsofts.link, made, soon())
        assert extended is not None
        assert (extended.id, microsoft.subscriptions.renewals) == (made.id, [made.id])
        assert extended.expires_at >= made.expires_at

    def test_one_that_was_removed_cannot_be_extended(self, microsofts: Desk, microsoft: MicrosoftFake) -> None:
        made = microsofts.watch()
        del microsoft.subscriptions.open[made.id]
        assert microsofts.watcher.extend(microsofts.link, made, soon()) is None

    def test_it_is_ended_and_ending_it_again_is_success(self, microsofts: Desk, microsoft: MicrosoftFake) -> None:
        made = microsofts.watch()
        for _ in range(2):
            microsofts.watcher.unwatch(microsofts.link, made, soon())
        assert (microsoft.subscriptions.open, microsoft.subscriptions.ended) == ({}, [made.id])
        assert microsoft.problems == []

    def test_an_address_that_does_not_answer_is_tried_again_later(
        self, microsofts: Desk, microsoft: MicrosoftFake
    ) -> None:
        microsofts.webhook.echo = False
        with pytest.raises(ProviderUnavailable) as failed:
            microsofts.watch()
        assert (failed.value.retry_after_s, microsoft.subscriptions.open) == (3600, {})

    @pytest.mark.parametrize(
        ("status", "raised"),
        [
            (404, CalendarGone),
            (403, CalendarGone),
            (415, ProviderRefused),
            (429, ProviderThrottled),
            (500, ProviderUnavailable),
        ],
    )
    def test_a_refusal_is_told_as_what_it_is(
        self, microsofts: Desk, microsoft: MicrosoftFake, status: int, raised: type[Exception]
    ) -> None:
        microsoft.fail_next(status)
        with pytest.raises(raised) as failed:
            microsofts.watch()
        assert type(failed.value) is raised

    @pytest.mark.parametrize("verb", ["extend", "unwatch"])
    def test_a_failure_is_neither_gone_nor_done(self, microsofts: Desk, microsoft: MicrosoftFake, verb: str) -> None:
        made = microsofts.watch()
        microsoft.fail_next(500)
        with pytest.raises(ProviderUnavailable):
            getattr(microsofts.watcher, verb)(microsofts.link, made, soon())

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"id": "", "expirationDateTime": "2026-12-01T00:00:00Z"}',
            b'{"id": "a", "expirationDateTime": "soon"}',
            b'{"id": "a\\nb", "expirationDateTime": "2026-12-01T00:00:00Z"}',
        ],
    )
    def test_an_answer_that_is_no_subscription_is_none(self, egress: Egress, microsofts: Desk, body: bytes) -> None:
        with answering(body) as server:
            microsofts.watcher = MicrosoftProvider(egress, graph_url=server.url, calendar_events=10)
            with pytest.raises(ProviderUnavailable, match="could not be read"):
                microsofts.watch()
