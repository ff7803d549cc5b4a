"""Accounts for histories: a provider behind a line with faults, its owner, and how the service is connected to it.

Each has two calendars of its own, ``work`` and ``second``. ``lies`` are ways in which its signal of changes can be made to
lie; ``strange`` are ways of the server that cost work, but not truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from calendar_server.core.model import Calendar, CalendarId, Instant, Preset, ProviderName
from calendar_server.providers.base import Account, Provider, Secret
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.egress import Egress
from calendar_server.providers.google import GoogleProvider
from calendar_server.providers.microsoft import MicrosoftProvider
from calendar_server.providers.oauth import OAuthClient, OAuthSettings, Tokens
from calendar_server.usecases.authorizations import secret_of
from tests.contract.truth_memory import TruthMemory
from tests.contract.truth_owners import GoogleOwner, GraphOwner, MemoryOwner, Owner, ServerOwner, StrangeOwner
from tests.contract.worlds import soon
from tests.fakes.dav_servers import DavServer
from tests.fakes.entra import WORK_TENANT
from tests.fakes.faulty_line import Answer, FaultyLine, Kind, Orders, refusals
from tests.fakes.google import GoogleFake
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.strange_dav import PASSWORD as STRANGE_PASSWORD
from tests.fakes.strange_dav import USERNAME, Shelf, StrangeDav

_names = itertools.count(1)

Toggle = Callable[[bool], None]
"""Turns a way of the server on or off."""


@dataclass
class TruthWorld:
    """See the module. ``secret`` makes a grant as it is stored after a sign-in."""

    name: ProviderName
    provider: Provider
    clients: Mapping[ProviderName, OAuthClient]
    orders: Orders
    owner: Owner
    account: Account
    secret: Callable[[Instant], Secret]
    work: CalendarId
    second: CalendarId
    knows_ids_ahead: bool = True
    lies: Mapping[str, Toggle] = field(default_factory=dict)
    strange: Mapping[str, Toggle] = field(default_factory=dict)
    expire_tokens: Callable[[], None] = lambda: None

    @property
    def calendars(self) -> tuple[CalendarId, CalendarId]:
        return self.work, self.second


MakeWorld = Callable[[], "contextmanager[TruthWorld]"]


@contextmanager
def memory_world() -> Iterator[TruthWorld]:
    """The reference."""
    work, second = CalendarId("work"), CalendarId("second")
    orders = Orders()
    memory = TruthMemory([Calendar(work, writable=True), Calendar(second, writable=True)], orders)

    def lie(on: bool) -> None:
        memory.lies = on

    try:
        yield TruthWorld(
            ProviderName.CALDAV,
            memory,
            {},
            orders,
            MemoryOwner(memory),
            Account("memory", "anna@example.com", work, (work, second)),
            lambda now: Secret({}),
            work,
            second,
            lies={"unchanged": lie},
        )
    finally:
        orders.heal()


_DAV_INSIDE = (
    b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>/</D:href>'
    b"<D:status>HTTP/1.1 500 Internal Server Error</D:status></D:response></D:multistatus>"
)
DAV_VOICE = refusals(
    Answer(207, _DAV_INSIDE, {"Content-Type": "application/xml; charset=utf-8"}),
    lambda method: Answer(403, b"", {"Content-Type": "text/plain"}),
    "text/plain",
)


def _google_error(status: int, reason: str) -> bytes:
    return (
        f'{{"error": {{"code": {status}, "message": "no", "errors": [{{"domain": "global", "reason": "{reason}"}}]}}}}'
    ).encode()


GOOGLE_VOICE = refusals(
    Answer(200, _google_error(500, "backendError"), {"Content-Type": "application/json"}),
    lambda method: Answer(403, _google_error(403, "rateLimitExceeded"), {"Content-Type": "application/json"}),
)
GRAPH_VOICE = refusals(
    Answer(200, b'{"error": {"code": "ErrorInternalServerError"}}', {"Content-Type": "application/json"}),
    lambda method: Answer(403, b'{"error": {"code": "ErrorAccessDenied"}}', {"Content-Type": "application/json"}),
)


@contextmanager
def server_world(
    server: DavServer, line: FaultyLine, provider: CaldavProvider, home: str, username: str, password: str
) -> Iterator[TruthWorld]:
    """Two new calendars at a real server."""
    owner = ServerOwner(server)
    number = next(_names)
    work, second = (CalendarId(server.make_calendar(f"{home}{name}{number}/")) for name in ("work", "second"))
    account, secret = provider.connect(
        preset=Preset.CUSTOM,
        username=username,
        password=password,
        server_url=f"{line.url}{server.path}",
        deadline=soon(),
    )
    try:
        yield TruthWorld(
            ProviderName.CALDAV, provider, {}, line.orders, owner, account, lambda now: secret, work, second
        )
    finally:
        line.orders.heal()
        for calendar_id in (work, second):
            owner.ask("DELETE", calendar_id)
        owner.close()


@contextmanager
def strange_world(dav: StrangeDav, line: FaultyLine, provider: CaldavProvider) -> Iterator[TruthWorld]:
    """Two new calendars at the strange server."""
    number = next(_names)
    work, second = CalendarId(f"/dav/home/work{number}/"), CalendarId(f"/dav/home/second{number}/")
    with dav.lock:
        dav.quirks.clear()
        dav.log.clear()
        dav.shelves.clear()
        dav.shelves.update({work: Shelf("Work"), second: Shelf("Second")})
    account, secret = provider.connect(
        preset=Preset.CUSTOM, username=USERNAME, password=STRANGE_PASSWORD, server_url=line.url, deadline=soon()
    )

    # One that hands out no text in any way is no CalDAV server, and rightly not read. One that says of any token that
    # nothing has changed since, and that it is its own, lies.
    excluded = {
        "any_token_is_newest": {"sync_same_token"},
        "sync_same_token": {"any_token_is_newest"},
        "no_multiget": {"query_without_data", "no_calendar_query", "query_answers_nothing"},
        "query_without_data": {"no_multiget"},
        "no_calendar_query": {"no_multiget"},
        "query_answers_nothing": {"no_multiget"},
    }

    def quirk(name: str) -> Toggle:
        def toggle(on: bool) -> None:
            dav.quirks.discard(name)
            if on:
                dav.quirks.difference_update(excluded.get(name, ()))
                dav.quirks.add(name)

        return toggle

    costly = (
        *("any_token_is_newest", "tokens_expire", "sync_is_cut", "sync_without_token", "sync_same_token", "no_ctag"),
        *("sync_without_etags", "sync_tells_calendar", "no_sync", "no_multiget", "no_etags", "query_without_data"),
        *("no_calendar_query", "full_urls", "weak_etags", "no_put_etag", "query_answers_all", "rewrites_events"),
        *("query_answers_nothing", "hashed_signals", "clock_signals", "fences_nothing"),
        "forbids_the_missing",
    )
    try:
        yield TruthWorld(
            ProviderName.CALDAV,
            provider,
            {},
            line.orders,
            StrangeOwner(dav),
            account,
            lambda now: secret,
            work,
            second,
            lies={"frozen_signals": quirk("frozen_signals"), "short_etags": quirk("short_etags")},
            strange={name: quirk(name) for name in costly},
        )
    finally:
        line.orders.heal()
        dav.quirks.clear()


@contextmanager
def google_world(google: GoogleFake, line: FaultyLine, egress: Egress) -> Iterator[TruthWorld]:
    """A new account at Google."""
    anna = google.add_user(f"anna{next(_names)}")
    work = CalendarId(google.calendars.add_calendar(anna.email, "work").id)
    second = CalendarId(google.calendars.add_calendar(anna.email, "second").id)
    provider = GoogleProvider(egress, api_url=f"{line.url}{urlsplit(google.api_url).path}", calendar_events=5000)
    client = OAuthClient(
        egress,
        OAuthSettings(
            google.accounts.client_id,
            google.accounts.client_secret,
            google.authorize_url,
            google.token_url,
            ("openid",),
        ),
    )

    def lie(on: bool) -> None:
        google.sync_tokens_lie = on

    def small_pages(on: bool) -> None:
        google.page_most = 3 if on else 2500

    def no_tokens(on: bool) -> None:
        google.gives_sync_tokens = not on

    try:
        yield TruthWorld(
            ProviderName.GOOGLE,
            provider,
            {ProviderName.GOOGLE: client},
            line.orders,
            GoogleOwner(google.calendars),
            Account(anna.user.sub, anna.email, work, (work, second)),
            lambda now: secret_of(_tokens(google.token_of(anna)), tenant="", now=now),
            work,
            second,
            lies={"sync_tokens_lie": lie},
            strange={"small_pages": small_pages, "no_tokens": no_tokens},
            expire_tokens=google.expire_sync_tokens,
        )
    finally:
        line.orders.heal()
        lie(False)
        small_pages(False)
        no_tokens(False)
        google.exchanges.clear()


@contextmanager
def microsoft_world(microsoft: MicrosoftFake, line: FaultyLine, egress: Egress) -> Iterator[TruthWorld]:
    """A new mailbox."""
    anna = microsoft.add_user(f"anna{next(_names)}")
    work, second = (CalendarId(anna.mailbox.add_calendar(name).id) for name in ("work", "second"))
    provider = MicrosoftProvider(egress, graph_url=f"{line.url}/v1.0", calendar_events=5000)
    client = OAuthClient(
        egress,
        OAuthSettings(
            microsoft.entra.client_id,
            microsoft.entra.client_secret,
            microsoft.authorize_url,
            microsoft.token_url,
            ("openid", "offline_access", "Calendars.ReadWrite"),
        ),
    )

    def lie(on: bool) -> None:
        microsoft.delta_lies = on

    def small_pages(on: bool) -> None:
        microsoft.page_most = 3 if on else 1000

    def empty_pages(on: bool) -> None:
        microsoft.empty_delta_pages = 2 if on else 0

    def endless(on: bool) -> None:
        microsoft.endless_delta = on

    try:
        yield TruthWorld(
            ProviderName.MICROSOFT,
            provider,
            {ProviderName.MICROSOFT: client},
            line.orders,
            GraphOwner(anna.mailbox),
            Account(anna.user.id, "anna@contoso.example", work, (work, second), {"tid": WORK_TENANT}),
            lambda now: secret_of(_tokens(microsoft.token_of(anna)), tenant="common", now=now),
            work,
            second,
            knows_ids_ahead=False,
            lies={"delta_lies": lie},
            strange={"small_pages": small_pages, "empty_pages": empty_pages, "endless": endless},
            expire_tokens=microsoft.expire_delta_links,
        )
    finally:
        line.orders.heal()
        for toggle in (lie, small_pages, empty_pages, endless):
            toggle(False)
        microsoft.exchanges.clear()


def _tokens(told: Mapping[str, object]) -> Tokens:
    return Tokens(str(told["access_token"]), str(told["refresh_token"]), 3600, None)


KINDS = tuple(Kind)
