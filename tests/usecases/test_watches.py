"""Watches over both databases, with Google and Microsoft on loopback."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from calendar_server.core.model import (
    DAY,
    HOUR,
    MINUTE,
    SECOND,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.errors import ProviderRefused, ProviderThrottled, ProviderUnavailable, StoreUnavailable
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.google import PRIMARY, GoogleProvider
from calendar_server.providers.microsoft import MicrosoftProvider
from calendar_server.providers.oauth import OAuthClient, OAuthSettings
from calendar_server.store.store import Store
from calendar_server.store.tables import BUSY
from calendar_server.store.watches import WatchRow
from calendar_server.usecases.authorizations import Authorizations
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import UpdateCommand
from calendar_server.usecases.connections import Connections
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.notes import Notes
from calendar_server.usecases.watch_visits import Plan, Source, pause_after, plan_of, sha256_of
from calendar_server.usecases.watches import Watches, reaches
from tests.contract_store.conftest import (  # noqa: F401 — the same fixtures
    database_url,
    migrated_url,
    postgres,
    postgres_url,
    sqlite_path,
    sqlite_url,
    store,
)
from tests.contract_store.examples import connection as a_connection
from tests.fakes.google import GoogleFake, GoogleUser
from tests.fakes.graph_subscriptions import Subscription
from tests.fakes.microsoft import GraphUser, MicrosoftFake
from tests.fakes.webhook import WebhookServer
from tests.usecases.conftest import VAULT

FAR = 4_000_000_000 * SECOND


@dataclass
class Desk:
    """The use case between a database and both providers, and what tests do with it."""

    store: Store
    google: GoogleFake
    microsoft: MicrosoftFake
    webhook: WebhookServer
    caller: Caller
    grants: Grants
    sources: dict[ProviderName, Source]
    watches: Watches
    connections: Connections
    changed: list[tuple[ConnectionId, CalendarId]] = field(default_factory=list)
    people: dict[ConnectionId, GoogleUser | GraphUser] = field(default_factory=dict)

    def connect(
        self, provider: ProviderName = ProviderName.GOOGLE, *, calendars: int = 1, used: bool = True
    ) -> Connection:
        """A new account with so many calendars that block, which GetBusy has just asked for."""
        name = f"person{len(self.people)}"
        if provider is ProviderName.GOOGLE:
            user = self.google.add_user(name)
            ids = [PRIMARY]
            ids += [CalendarId(self.google.calendars.add_calendar(user.email, f"c{n}").id) for n in range(1, calendars)]
            subject_id, token, person = user.user.sub, self.google.token_of(user), user
        else:
            graph = self.microsoft.add_user(name)
            ids = [CalendarId(graph.mailbox.default.id)]
            ids += [CalendarId(graph.mailbox.add_calendar(f"c{n}").id) for n in range(1, calendars)]
            subject_id, token, person = graph.user.id, self.microsoft.token_of(graph), graph  # type: ignore[assignment]
        connection = Connection(
            id=ConnectionId(f"cal_{len(self.people):04}"),
            organization_id=self.caller.organization_id,
            owner="",
            provider=provider,
            subject=subject_id,
            account_email=f"{name}@example.org",
            calendar_id=ids[0],
            busy_calendar_ids=tuple(ids),
            status=ConnectionStatus.ACTIVE,
            sync_status=SyncStatus.CONNECTED,
            sync_error=None,
            last_sync_at=None,
            connected_at=1,
            grant_version=1,
        )
        self.people[connection.id] = person
        self.store.connections.add(connection, self.sealed(connection, str(token["access_token"])))
        if used:
            for calendar_id in ids:
                self.use(connection, calendar_id)
        return connection

    def other(self, sources: dict[ProviderName, Source] | None = None, *, connections_most: int = 64) -> Watches:
        """The use case as another process would have it, with other settings."""
        return Watches(
            self.store,
            self.grants,
            self.sources if sources is None else sources,
            changed=lambda *key: self.changed.append(key),
            used_s=86_400,
            connections_most=connections_most,
        )

    def sealed(self, connection: Connection, access_token: str) -> str:
        values = {"access_token": access_token, "refresh_token": "r", "renew_at": str(FAR), "tenant": "common"}
        return VAULT.seal(json.dumps(values), table="connections", row=connection.id, column="sealed_grant")

    def use(self, connection: Connection, calendar_id: CalendarId, at: Instant | None = None) -> None:
        """GetBusy asks for a calendar."""
        values = {getattr(BUSY, name): 0 for name in BUSY._columns}
        values |= {BUSY.connection_id: connection.id, BUSY.calendar_id: calendar_id}
        values |= {BUSY.intervals: b"", BUSY.problem_reason: "", BUSY.problem_message: ""}
        values |= {BUSY.used_at: self.store.now() if at is None else at}
        self.store._database.change(
            BUSY.insert(values).on_conflict(
                conflict_target=("connection_id", "calendar_id"), update={BUSY.used_at: values[BUSY.used_at]}
            )
        )

    def keep(self, after: Instant = 0) -> None:
        """Turns of the worker at this time from now, until there is nothing to do."""
        now = self.store.now() + after
        for connection_id in self.people:
            for row in self.store.watches.of_connection(connection_id):
                if after and self.store.connections.is_live(connection_id):
                    self.use_again(row, now)
        for _ in range(20):
            if not self.watches.keep(now):
                return
        raise AssertionError("there is no end to what is to be done")

    def use_again(self, row: WatchRow, now: Instant) -> None:
        in_use = BUSY.update({BUSY.used_at: now}).where(BUSY.connection_id == row.connection_id, BUSY.used_at > 0)
        self.store._database.change(in_use)

    def rows(self, connection: Connection) -> list[WatchRow]:
        return self.store.watches.of_connection(connection.id)

    def states(self, connection: Connection) -> list[str]:
        return [row.state for row in self.rows(connection)]

    @property
    def requests(self) -> int:
        """How often a provider's API was called."""
        return len(self.google.exchanges) + len(self.microsoft.exchanges)

    def subscription(self) -> Subscription:
        return next(iter(self.microsoft.subscriptions.open.values()))

    def disconnect(self, connection: Connection) -> None:
        self.connections.disconnect(self.caller, connection.id)

    def deliver(self) -> None:
        """Take what the providers have sent so far."""
        self.google.deliveries.drain()
        self.microsoft.deliveries.drain()
        while self.webhook.posts:
            post = self.webhook.posts.pop(0)
            if "x-goog-channel-id" in post.headers:
                self.watches.notified_google(post.headers)
            else:
                self.watches.notified_microsoft(json.loads(post.body))

    def owner_changes(self, connection: Connection) -> None:
        """The owner changes the first calendar, and its provider tells of it."""
        if connection.provider is ProviderName.GOOGLE:
            self.google.channels.changed(self.people[connection.id].primary.id)  # type: ignore[union-attr]
        else:
            self.microsoft.subscriptions.changed(connection.calendar_id)
        self.deliver()


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    egress = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=1_000_000)
    yield egress
    egress.close()


@pytest.fixture
def desk(store: Store, egress: Egress) -> Iterator[Desk]:  # noqa: F811 — the fixture's name
    with GoogleFake() as google, MicrosoftFake() as microsoft, WebhookServer() as webhook:
        googles = GoogleProvider(egress, api_url=google.api_url, revoke_url=google.revoke_url, calendar_events=10)
        microsofts = MicrosoftProvider(egress, graph_url=microsoft.graph_url, calendar_events=10)
        clients = {
            ProviderName.GOOGLE: client(
                egress, google.token_url, google.accounts.client_id, google.accounts.client_secret
            ),
            ProviderName.MICROSOFT: client(
                egress, microsoft.token_url, microsoft.entra.client_id, microsoft.entra.client_secret
            ),
        }
        grants = Grants(store, VAULT, clients)
        sources = {
            ProviderName.GOOGLE: Source(googles, webhook.url),
            ProviderName.MICROSOFT: Source(microsofts, webhook.url),
        }
        changed: list[tuple[ConnectionId, CalendarId]] = []
        watches = Watches(store, grants, sources, changed=lambda *key: changed.append(key), used_s=86_400)
        connections = Connections(
            store,
            VAULT,
            grants,
            {ProviderName.GOOGLE: googles, ProviderName.MICROSOFT: microsofts},
            None,  # type: ignore[arg-type]
            Authorizations(store, VAULT, {}, redirect_uris=[], public_url="http://127.0.0.1", call_s=5),
            {ProviderName.GOOGLE: googles},
            watches,
            call_s=5,
            wake=lambda: None,
        )
        caller = Caller(store.organizations.ensure("acme"))
        yield Desk(store, google, microsoft, webhook, caller, grants, sources, watches, connections, changed)
        watches.close()
        assert google.problems == []
        assert microsoft.problems == []


def client(egress: Egress, token_url: str, id: str, secret: str) -> OAuthClient:
    settings = OAuthSettings(
        client_id=id, client_secret=secret, authorize_url=token_url, token_url=token_url, scopes=(), extra={}
    )
    return OAuthClient(egress, settings)


both = pytest.mark.parametrize("provider", [ProviderName.GOOGLE, ProviderName.MICROSOFT])


class TestKeep:
    @both
    def test_every_blocking_calendar_in_use_gets_one_watch(self, desk: Desk, provider: ProviderName) -> None:
        connection = desk.connect(provider, calendars=3)
        desk.keep()
        assert sorted(row.calendar_id for row in desk.rows(connection)) == sorted(connection.busy_calendar_ids)
        assert desk.states(connection) == ["active"] * 3
        asked = desk.requests
        desk.keep()
        assert desk.requests == asked

    def test_what_nobody_asks_for_is_not_watched(self, desk: Desk) -> None:
        connection = desk.connect(used=False)
        desk.use(connection, PRIMARY, at=desk.store.now() - 2 * DAY)
        desk.keep()
        assert (desk.rows(connection), desk.requests) == ([], 0)

    def test_what_does_not_block_is_not_watched(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.use(connection, CalendarId("another@example.org"))
        desk.keep()
        assert [row.calendar_id for row in desk.rows(connection)] == [PRIMARY]

    def test_a_refused_grant_is_left_alone(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.store.connections.note_refusal(connection.id, 1, "no")
        desk.keep()
        assert desk.requests == 0

    def test_the_secret_is_long_random_and_stored_as_a_hash(self, desk: Desk) -> None:
        first, second = desk.connect(), desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        token = next(iter(desk.google.channels.open.values())).token
        state = desk.subscription().content["clientState"]
        assert token.partition(".")[2] != state.partition(".")[2]
        assert min(len(token.partition(".")[2]), len(state.partition(".")[2])) >= 43
        for connection, secret in ((first, token), (second, state)):
            (row,) = desk.rows(connection)
            assert row.secret_sha256 == sha256_of(secret)
            assert secret not in repr(dataclasses.astuple(row))

    @both
    def test_it_is_not_touched_before_its_time(self, desk: Desk, provider: ProviderName) -> None:
        desk.connect(provider)
        desk.keep()
        asked = desk.requests
        desk.keep(after=4 * DAY)
        assert desk.requests == asked

    def test_a_channel_is_replaced_before_its_end_and_without_a_gap(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        (old,) = desk.rows(connection)
        open_at_stop = []
        desk.google.on_request = lambda method, target: (
            open_at_stop.append(len(desk.google.channels.open)) if target == "channels/stop" else None
        )
        desk.keep(after=7 * DAY - HOUR)
        (new,) = desk.rows(connection)
        assert new.id != old.id
        assert list(desk.google.channels.open) == [new.id]
        assert open_at_stop == [2]

    def test_a_subscription_is_extended_in_place(self, desk: Desk) -> None:
        connection = desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        (old,) = desk.rows(connection)
        desk.keep(after=6 * DAY + 12 * HOUR)
        (new,) = desk.rows(connection)
        assert (new.id, new.remote_id) == (old.id, old.remote_id)
        assert desk.microsoft.subscriptions.renewals == [old.remote_id]

    def test_a_subscription_that_cannot_be_extended_is_replaced(self, desk: Desk) -> None:
        connection = desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        desk.microsoft.subscriptions.open.clear()
        desk.keep(after=6 * DAY + 12 * HOUR)
        (row,) = desk.rows(connection)
        assert list(desk.microsoft.subscriptions.open) == [row.remote_id]

    def test_renewals_are_spread_over_a_fifth_of_the_life(self, desk: Desk) -> None:
        connection = desk.connect(calendars=30)
        desk.keep()
        parts = [(row.due_at - row.created_at) / (row.expires_at - row.created_at) for row in desk.rows(connection)]
        assert all(0.69 < part < 0.91 for part in parts)
        assert max(parts) - min(parts) > 0.05

    def test_a_calendar_that_does_not_block_any_more_is_not_watched_any_more(self, desk: Desk) -> None:
        connection = desk.connect(calendars=2)
        desk.keep()
        desk.connections.update(desk.caller, UpdateCommand(connection.id, busy_calendar_ids=(PRIMARY,)))
        desk.keep()
        assert [row.calendar_id for row in desk.rows(connection)] == [PRIMARY]
        assert len(desk.google.channels.open) == 1

    def test_another_public_address_replaces_the_watches(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        (old,) = desk.rows(connection)
        source = desk.sources[ProviderName.GOOGLE]
        desk.watches = desk.other({ProviderName.GOOGLE: Source(source.watcher, f"{source.address}/new")})
        desk.keep()
        (new,) = desk.rows(connection)
        assert (new.address, list(desk.google.channels.open)) == (f"{source.address}/new", [new.id])
        assert desk.google.channels.stopped == [old.id]

    def test_one_worker_at_a_time_looks_after_a_connection(self, desk: Desk) -> None:
        connection = desk.connect(calendars=4)
        now = desk.store.now()
        threads = [threading.Thread(target=desk.watches.keep, args=(now,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert desk.states(connection) == ["active"] * 4
        assert len(desk.google.channels.open) == 4

    def test_a_watch_that_a_dying_worker_began_is_made_again(self, desk: Desk) -> None:
        connection = desk.connect()
        now = desk.store.now()
        desk.store.watches.add(
            row_of(connection, "making", due_at=now + MINUTE, address=desk.webhook.url, remote_id="")
        )
        desk.keep()
        assert desk.requests == 0
        desk.keep(after=2 * MINUTE)
        assert desk.states(connection) == ["active"]

    def test_one_that_was_given_up_while_it_was_made_is_stopped_again(self, desk: Desk) -> None:
        """A worker that took longer than its lease: another has begun anew."""
        connection = desk.connect()

        def give_up(method: str, target: str) -> None:
            if target.endswith("/watch"):
                desk.store.watches.remove([row.id for row in desk.rows(connection)])

        desk.google.on_request = give_up
        desk.watches.keep(desk.store.now())
        assert desk.google.channels.open == {}
        assert len(desk.google.channels.stopped) == 1

    def test_a_turn_is_bounded_and_the_next_one_goes_on(self, desk: Desk) -> None:
        desk.watches = desk.other(connections_most=2)
        made = [desk.connect() for _ in range(5)]
        assert desk.watches.keep(desk.store.now()) == 2
        desk.keep()
        assert all(desk.states(connection) == ["active"] for connection in made)

    def test_who_cannot_be_helped_holds_up_nobody(self, desk: Desk) -> None:
        desk.watches = desk.other(connections_most=1)
        stuck, after = desk.connect(used=False), desk.connect()
        desk.use(stuck, CalendarId("does-not-block"))
        for _ in range(3):
            desk.watches.keep(desk.store.now())
        assert desk.states(after) == ["active"]

    def test_without_a_source_nothing_is_asked(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.watches = desk.other({})
        desk.keep()
        desk.watches.end(connection)
        assert (desk.requests, desk.rows(connection)) == (0, [])


class TestFailures:
    def test_it_is_tried_again_after_a_pause_that_grows(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.google.fail_next(500, times=2)
        now = desk.store.now()
        desk.keep()
        (first,) = desk.rows(connection)
        assert first.state == "failed"
        assert 0.7 * MINUTE < first.due_at - now < 1.4 * MINUTE
        desk.keep(after=2 * MINUTE)
        (second,) = desk.rows(connection)
        assert second.due_at - now - 2 * MINUTE > 1.5 * MINUTE
        desk.keep(after=10 * MINUTE)
        assert desk.states(connection) == ["active"]

    def test_a_refusal_is_believed_for_a_day(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.google.channels.unsupported.add(desk.people[connection.id].primary.id)  # type: ignore[union-attr]
        desk.keep()
        asked = desk.requests
        desk.keep(after=23 * HOUR)
        assert desk.requests == asked
        desk.keep(after=25 * HOUR)
        assert desk.requests == asked + 1

    def test_a_throttled_provider_is_asked_nothing_more(self, desk: Desk) -> None:
        connection = desk.connect(calendars=4)
        desk.google.fail_next(429, "rateLimitExceeded", retry_after="600")
        desk.keep()
        assert desk.requests == 1
        now = desk.store.now()
        assert all(row.due_at - now > 9 * MINUTE for row in desk.rows(connection))
        desk.keep(after=30 * MINUTE)
        assert desk.states(connection) == ["active"] * 4

    def test_it_is_no_failure_of_the_connection(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.google.fail_next(500)
        desk.keep()
        stored = desk.store.connections.get(connection.organization_id, connection.id)
        assert stored is not None
        assert (stored.sync_status, stored.sync_error, stored.last_sync_at) == (SyncStatus.CONNECTED, None, None)

    def test_a_failing_replacement_leaves_the_old_one_and_is_tried_again(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        (old,) = desk.rows(connection)
        desk.google.fail_next(500, within="watch")
        desk.keep(after=6 * DAY + 12 * HOUR)
        (still,) = desk.rows(connection)
        assert (still.id, still.state, still.attempts) == (old.id, "active", 1)
        desk.keep(after=6 * DAY + 13 * HOUR)
        (new,) = desk.rows(connection)
        assert new.id != old.id

    def test_a_failing_stop_is_tried_again_until_the_watch_is_over(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        desk.google.fail_next(500, within="stop", times=1000)
        desk.keep(after=6 * DAY + 12 * HOUR)
        assert sorted(desk.states(connection)) == ["active", "ending"]
        desk.keep(after=8 * DAY)
        assert desk.states(connection) == ["active"]

    def test_a_grant_that_is_refused_meanwhile_ends_the_visit(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.google.accounts.end_access_tokens()
        desk.keep()
        stored = desk.store.connections.get(connection.organization_id, connection.id)
        assert stored is not None
        assert stored.status is ConnectionStatus.NEEDS_REAUTH
        asked = desk.requests
        desk.keep(after=HOUR)
        assert desk.requests == asked

    def test_pauses_grow_to_a_limit(self) -> None:
        error = ProviderUnavailable("no")
        pauses = [pause_after(error, attempts) for attempts in range(60)]
        assert pauses[0] < 2 * MINUTE
        assert 4 * HOUR < min(pauses[20:]) <= max(pauses) < 8 * HOUR
        assert pause_after(ProviderThrottled("no", retry_after_s=3600), 0) >= HOUR
        assert pause_after(ProviderRefused("no"), 0) == DAY


class TestNotifications:
    @both
    def test_a_change_is_noted_without_asking_the_provider(self, desk: Desk, provider: ProviderName) -> None:
        connection = desk.connect(provider)
        desk.keep()
        desk.deliver()
        asked = desk.requests
        assert desk.changed == []
        desk.owner_changes(connection)
        assert desk.changed == [(connection.id, connection.calendar_id)]
        assert desk.requests == asked

    @both
    @pytest.mark.parametrize("forged", ["secret", "id", "no secret", "long", "shape", "another's secret"])
    def test_a_forged_one_is_worth_nothing(self, desk: Desk, provider: ProviderName, forged: str) -> None:
        connection, another = desk.connect(provider), desk.connect(provider)
        desk.keep()
        desk.google.deliveries.drain()
        desk.webhook.posts.clear()
        (row,) = desk.rows(connection)
        (theirs,) = desk.rows(another)
        asked = desk.requests
        id, secret = {
            "secret": (row.id, f"{row.id}.{'x' * 43}"),
            "id": ("f" * 32, f"{'f' * 32}.{'x' * 43}"),
            "no secret": (row.id, ""),
            "long": (row.id, f"{row.id}.{'x' * 5000}"),
            "shape": ("' OR 1=1", "' OR 1=1"),
            "another's secret": (row.id, self.secret_of(desk, theirs).replace(theirs.id, row.id)),
        }[forged]
        if provider is ProviderName.GOOGLE:
            headers = {"x-goog-channel-id": id, "x-goog-channel-token": secret, "x-goog-resource-state": "exists"}
            desk.watches.notified_google(headers)
        else:
            events = ("", "subscriptionRemoved", "reauthorizationRequired", "missed")
            items = [{"subscriptionId": row.remote_id, "clientState": secret, "lifecycleEvent": e} for e in events]
            desk.watches.notified_microsoft({"value": items})
        assert (desk.changed, desk.requests, desk.rows(connection)) == ([], asked, [row])
        desk.keep()
        assert desk.requests == asked

    def secret_of(self, desk: Desk, row: WatchRow) -> str:
        if row.id in desk.google.channels.open:
            return desk.google.channels.open[row.id].token
        return desk.microsoft.subscriptions.open[row.remote_id].content["clientState"]

    @pytest.mark.parametrize(
        "body",
        [None, [], {}, "x", 5, {"value": None}, {"value": [None, 5, [], {}]}, {"value": [{"clientState": 5}]}],
    )
    def test_what_is_no_notification_is_none(self, desk: Desk, body: object) -> None:
        desk.watches.notified_microsoft(body)
        desk.watches.notified_google({})
        assert desk.changed == []

    def test_one_that_comes_before_the_answer_counts(self, desk: Desk) -> None:
        connection = desk.connect(ProviderName.MICROSOFT)
        desk.microsoft.subscriptions.notify_early = True
        # Taken before its sender goes on, and so before our request is answered.
        desk.webhook.on_post = lambda received: desk.watches.notified_microsoft(json.loads(received.body))
        desk.keep()
        assert desk.changed == [(connection.id, connection.calendar_id)]

    @both
    def test_what_comes_after_disconnect_is_unknown(self, desk: Desk, provider: ProviderName) -> None:
        connection = desk.connect(provider)
        desk.keep()
        desk.deliver()
        desk.google.fail_next(500, within="stop")
        desk.microsoft.fail_next(500, within="subscriptions")
        desk.disconnect(connection)
        asked = desk.requests
        desk.owner_changes(connection)
        assert (desk.changed, desk.requests) == ([], asked)

    def test_a_lost_one_costs_nothing_but_freshness(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        desk.deliver()
        desk.google.deliveries.lose = True
        desk.owner_changes(connection)
        desk.google.deliveries.lose = False
        desk.owner_changes(connection)
        assert desk.changed == [(connection.id, PRIMARY)]

    def test_a_reauthorization_renews_at_once(self, desk: Desk) -> None:
        desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        subscription = desk.subscription()
        desk.microsoft.subscriptions.lifecycle(subscription.id, "reauthorizationRequired")
        desk.deliver()
        assert desk.changed == []
        desk.keep()
        assert desk.microsoft.subscriptions.renewals == [subscription.id]

    def test_a_removed_one_is_made_again_and_what_was_missed_counts(self, desk: Desk) -> None:
        connection = desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        removed = desk.subscription()
        desk.microsoft.subscriptions.lifecycle(removed.id, "subscriptionRemoved")
        desk.deliver()
        desk.keep()
        assert desk.subscription().id != removed.id
        assert desk.states(connection) == ["active"]
        assert desk.changed == [(connection.id, connection.calendar_id)]

    @pytest.mark.parametrize("event", ["missed", "somethingNew"])
    def test_missed_ones_are_a_change(self, desk: Desk, event: str) -> None:
        connection = desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        desk.microsoft.subscriptions.lifecycle(desk.subscription().id, event)
        desk.deliver()
        assert desk.changed == [(connection.id, connection.calendar_id)]

    def test_one_request_with_many_is_taken_whole(self, desk: Desk) -> None:
        made = [desk.connect(ProviderName.MICROSOFT) for _ in range(3)]
        desk.keep()
        states = [s.content["clientState"] for s in desk.microsoft.subscriptions.open.values()]
        desk.watches.notified_microsoft({"value": [{"clientState": state} for state in [*states, *states, "x"]]})
        assert sorted(desk.changed) == sorted((c.id, c.calendar_id) for c in made)

    def test_what_cannot_be_noted_is_told_and_counts_when_it_comes_again(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        desk.google.deliveries.drain()
        desk.webhook.posts.clear()
        token = next(iter(desk.google.channels.open.values())).token
        headers = {
            "x-goog-channel-id": token.partition(".")[0],
            "x-goog-channel-token": token,
            "x-goog-resource-state": "exists",
        }
        out = [StoreUnavailable()]

        def changed(*key: object) -> None:
            if out:
                raise out.pop()
            desk.changed.append(key)  # type: ignore[arg-type]

        watches = Watches(desk.store, desk.grants, desk.sources, changed=changed, used_s=86_400)
        with pytest.raises(StoreUnavailable):
            watches.notified_google(headers)
        watches.notified_google(headers)
        assert desk.changed == [(connection.id, PRIMARY)]


class TestEnd:
    @both
    def test_disconnect_stops_every_watch_and_forgets_it(self, desk: Desk, provider: ProviderName) -> None:
        connection = desk.connect(provider, calendars=5)
        desk.keep()
        desk.disconnect(connection)
        assert (desk.google.channels.open, desk.microsoft.subscriptions.open) == ({}, {})
        assert len(desk.google.channels.stopped) + len(desk.microsoft.subscriptions.ended) == 5
        assert desk.rows(connection) == []
        asked = desk.requests
        desk.keep()
        desk.keep(after=10 * DAY)
        assert desk.requests == asked

    def test_they_are_stopped_before_the_grant_is_revoked(self, desk: Desk) -> None:
        connection = desk.connect()
        desk.keep()
        revoked_at_stop = []
        desk.google.on_request = lambda method, target: revoked_at_stop.append(len(desk.google.accounts.revoked))
        desk.disconnect(connection)
        assert revoked_at_stop == [0]

    def test_a_provider_that_refuses_does_not_hold_it_up(self, desk: Desk) -> None:
        connection = desk.connect(calendars=3)
        desk.keep()
        desk.google.fail_next(500, times=100)
        desk.disconnect(connection)
        assert not desk.store.connections.is_live(connection.id)
        assert desk.rows(connection) == []

    @pytest.mark.parametrize("fails", [True, False])
    def test_one_that_is_being_made_when_disconnect_comes_is_forgotten(self, desk: Desk, fails: bool) -> None:
        connection = desk.connect(calendars=3)
        if fails:
            desk.google.fail_next(500, within="watch")
        desk.google.on_request = lambda method, target: desk.disconnect(connection)
        desk.keep()
        assert desk.rows(connection) == []
        assert len(desk.google.exchanges) == 1

    def test_a_refused_grant_is_not_asked(self, desk: Desk) -> None:
        connection = desk.connect(ProviderName.MICROSOFT)
        desk.keep()
        desk.store.connections.note_refusal(connection.id, 1, "no")
        asked = desk.requests
        desk.disconnect(connection)
        assert (desk.requests, desk.rows(connection)) == (asked, [])

    def test_all_together_take_a_few_seconds_at_most(self, desk: Desk) -> None:
        connection = desk.connect(calendars=20)
        desk.keep()
        hangs = threading.Event()
        desk.google.on_request = lambda method, target: hangs.wait(60) and None
        began = time.monotonic()
        desk.watches.end(connection)
        took = time.monotonic() - began
        hangs.set()
        # One after the other, each as long as an exchange may be, would be minutes.
        assert took < 15

    def test_others_keep_theirs(self, desk: Desk) -> None:
        connection, other = desk.connect(), desk.connect()
        desk.keep()
        desk.disconnect(connection)
        assert desk.states(other) == ["active"]
        assert list(desk.google.channels.open) == [row.id for row in desk.rows(other)]


class TestPlan:
    """Whatever is due gets something to be done, or waits until later: nothing is looked at in every turn."""

    NOW, HERE = 1000, "here"

    def plan(self, connection: Connection, *rows: WatchRow) -> Plan:
        return plan_of(rows, connection.busy_calendar_ids, self.HERE, self.NOW)

    def test_what_is_due_waits_for_a_successor_that_cannot_be_made_yet(self) -> None:
        connection = a_connection(OrganizationId("org"), busy_calendar_ids=(PRIMARY,), calendar_id=PRIMARY)
        old = row_of(connection, "active", id="o" * 32, address="there", due_at=900, expires_at=5000)
        failed = row_of(connection, "failed", address=self.HERE, due_at=2000)
        assert self.plan(connection, old, failed) == Plan(wait=[old.id])

    @pytest.mark.parametrize("state", ["making", "active", "failed", "ending"])
    @pytest.mark.parametrize("address", ["here", "there"])
    @pytest.mark.parametrize("expires_at", [0, 500, 5000])
    @pytest.mark.parametrize("wanted", [True, False])
    @pytest.mark.parametrize("beside", [None, "active", "failed"])
    def test_nothing_that_is_due_is_left_out(
        self, state: str, address: str, expires_at: int, wanted: bool, beside: str | None
    ) -> None:
        connection = a_connection(OrganizationId("org"), busy_calendar_ids=(PRIMARY,), calendar_id=PRIMARY)
        calendar_id = PRIMARY if wanted else CalendarId("another")
        due = row_of(connection, state, calendar_id=calendar_id, address=address, expires_at=expires_at, due_at=1000)
        rows = [due]
        if beside:
            rows.append(row_of(connection, beside, id="b" * 32, address="here", expires_at=5000, due_at=2000))
        plan = self.plan(connection, *rows)
        replaced = [row.id for former in plan.make.values() for row in former]
        todo = [*plan.forget, *plan.wait, *(row.id for row in (*plan.stop, *plan.renew)), *replaced]
        assert todo.count(due.id) == 1


class TestReach:
    @pytest.mark.parametrize(
        "public_url",
        [
            "http://127.0.0.1:8080",
            "http://127.1.2.3",
            "http://localhost:8080/",
            "https://LOCALHOST",
            "https://localhost./",
            "https://a.localhost",
            "https://[::1]:8080",
            "https://[::ffff:127.0.0.1]",
            "https://0.0.0.0",
            "https://",
            "https://[",
        ],
    )
    def test_nobody_else_reaches_this_machine_by_its_own_name(self, public_url: str) -> None:
        assert not reaches("https://www.googleapis.com/calendar/v3", public_url)
        assert reaches("http://127.0.0.1:9/calendar/v3", public_url)

    @pytest.mark.parametrize(
        "public_url", ["https://calendar.example.org", "https://203.0.113.5", "https://localhost.example"]
    )
    def test_a_public_name_is_reached_by_all(self, public_url: str) -> None:
        assert reaches("https://www.googleapis.com/calendar/v3", public_url)
        assert reaches("http://localhost:9", public_url)


def row_of(connection: Connection, state: str, **more: object) -> WatchRow:
    values: dict[str, object] = {
        "id": "a" * 32,
        "connection_id": connection.id,
        "calendar_id": connection.calendar_id,
        "address": "http://127.0.0.1/none",
        "secret_sha256": b"x" * 32,
        "remote_id": "r",
        "resource_id": "",
        "state": state,
        "expires_at": 0,
        "due_at": 0,
        "attempts": 0,
        "created_at": 0,
        **more,
    }
    return WatchRow(**values)  # type: ignore[arg-type]


class TestNotes:
    def test_a_storm_is_written_once_and_its_end_once_more(self) -> None:
        written: list[str] = []
        notes = Notes(lambda connection_id, calendar_id: written.append(calendar_id), quiet_s=3600)
        for _ in range(500):
            notes.note(ConnectionId("c"), CalendarId("x"))
        assert written == ["x"]
        notes.close()
        assert written == ["x", "x"]

    def test_the_last_one_is_written_after_it_came(self) -> None:
        written: list[str] = []
        notes = Notes(lambda connection_id, calendar_id: written.append(calendar_id), quiet_s=3600)
        notes.note(ConnectionId("c"), CalendarId("x"))
        notes.note(ConnectionId("c"), CalendarId("x"))
        notes.note(ConnectionId("c"), CalendarId("y"))
        assert written == ["x", "y"]
        notes.close()
        assert written == ["x", "y", "x"]

    def test_what_could_not_be_written_is_not_taken_for_written(self) -> None:
        failures: list[Exception] = [StoreUnavailable()]
        written: list[str] = []

        def changed(connection_id: ConnectionId, calendar_id: CalendarId) -> None:
            if failures:
                raise failures.pop()
            written.append(calendar_id)

        notes = Notes(changed, quiet_s=3600)
        with pytest.raises(StoreUnavailable):
            notes.note(ConnectionId("c"), CalendarId("x"))
        notes.note(ConnectionId("c"), CalendarId("x"))
        assert written == ["x"]
        notes.close()

    def test_a_kept_one_that_could_not_be_written_is_tried_again(self) -> None:
        outcomes: list[Exception | None] = [None, StoreUnavailable(), None]
        done = threading.Event()

        def changed(connection_id: ConnectionId, calendar_id: CalendarId) -> None:
            outcome = outcomes.pop(0)
            if outcome is not None:
                raise outcome
            if not outcomes:
                done.set()

        notes = Notes(changed, quiet_s=0.05)
        notes.note(ConnectionId("c"), CalendarId("x"))
        notes.note(ConnectionId("c"), CalendarId("x"))
        assert done.wait(10)
        notes.close()
