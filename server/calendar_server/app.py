"""The composition root: the only file that knows every room."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Generic, TypeVar

from calendar_server.config import Config, ConfigError
from calendar_server.core.model import ConnectionId, ProviderName
from calendar_server.errors import StoreUnavailable
from calendar_server.interpreter import give_large_back, keep_garbage_small, set_turns
from calendar_server.measures import Scope, measure
from calendar_server.metrics import STORE_WAITS, Metrics
from calendar_server.observed import ObservedConnects, ObservedProvider, ObservedWatcher, conversations
from calendar_server.providers.base import Provider, Watcher
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.caldav_same import reading_code
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from calendar_server.providers.google import GoogleProvider
from calendar_server.providers.microsoft import MAILBOX_REQUESTS, MicrosoftProvider
from calendar_server.providers.oauth import OAuthClient, OAuthSettings
from calendar_server.readiness import Readiness
from calendar_server.scrape import ANSWER_S, Line, answer
from calendar_server.store.sole import SoleServer
from calendar_server.store.store import Store
from calendar_server.tracing import Tracer, open_tracer
from calendar_server.usecases.authorizations import Authorizations, OAuthProvider
from calendar_server.usecases.availability import Availability
from calendar_server.usecases.bookings import BookingContents, Bookings
from calendar_server.usecases.connections import Connections
from calendar_server.usecases.diagnosis import Diagnosis, Upstream
from calendar_server.usecases.drift import Drifts
from calendar_server.usecases.grants import Grants
from calendar_server.usecases.hosts import HostGate
from calendar_server.usecases.keys import Keys
from calendar_server.usecases.pushes import Pushes
from calendar_server.usecases.refresh import Refresher
from calendar_server.usecases.rotation import check_retired
from calendar_server.usecases.watch_visits import Source
from calendar_server.usecases.watches import USED_S, Watches, reaches
from calendar_server.vault import Vault, VaultKeyError, check_keys, key_beside
from calendar_server.worker.loop import Worker
from calendar_server.worker.refreshing import Refreshing

if TYPE_CHECKING:
    import grpc
    from starlette.routing import BaseRoute

    from calendar_server.rpc.dispatch import Dispatch
    from calendar_server.sidecar.app import Sidecar

_log = logging.getLogger(__name__)

P = TypeVar("P")

SPARE_THREADS = 16
"""Threads of the gRPC server that waiting calls leave to others."""


@dataclass(frozen=True, slots=True)
class Service:
    """One process's whole objects."""

    config: Config
    store: Store
    vault: Vault
    metrics: Metrics
    tracer: Tracer
    keys: Keys
    authorizations: Authorizations
    connections: Connections
    refresher: Refresher
    availability: Availability
    bookings: Bookings
    pushes: Pushes
    watches: Watches
    diagnosis: Diagnosis
    egress: Egress
    expander: Expander

    def close(self) -> None:
        """End threads and children, close the database."""
        self.watches.close()
        self.availability.close()
        self.refresher.close()
        self.expander.close()
        self.egress.close()
        self.store.close()
        self.tracer.close()


def open_store(config: Config) -> Store:
    """Open the database and bring it up to date."""
    store = Store.open(config.database_url)
    store.migrate()
    return store


def open_vault(config: Config, store: Store) -> Vault:
    """The vault with the keys of the settings, held against what is stored. Raises ``ConfigError`` for wrong ones."""
    try:
        text = config.master_keys
        if not text:
            if store.path is None:
                raise ConfigError(["CALENDAR_MASTER_KEYS: is needed with this database."])
            # A new key beside a database that another one wrote would only hide that that one is missing.
            text = key_beside(store.path, make=not store.vault_keys.all())
        vault = Vault.from_keys(text)
        check_retired(store, vault)
        check_keys(vault, store)
    except (ValueError, VaultKeyError) as error:
        raise ConfigError([f"CALENDAR_MASTER_KEYS: {error}"]) from error
    return vault


def build(
    config: Config, store: Store, vault: Vault, *, wake: Callable[[], None], process: str = "server", alone: bool = True
) -> Service:
    """Make whole objects. Starts no thread and opens no connection but the store's.

    ``process`` is what its numbers and traces call it; ``alone``: it tells those of the whole installation, too.
    """
    try:
        allow = AllowList.parse(config.egress_allow)
    except ValueError as error:
        raise ConfigError([f"CALENDAR_EGRESS_ALLOW: {error}"]) from error
    metrics, tracer = Metrics(), open_tracer(process)
    egress = Egress(
        allow=allow, exchange_s=config.exchange_s, answer_bytes=config.answer_bytes, held_bytes=config.held_bytes
    )
    conversation = conversations(metrics, tracer, within=egress.conversation)
    expander = Expander(
        processes=config.expand_processes,
        event_s=config.expand_event_s,
        calendar_s=config.expand_s,
        address_space_bytes=config.expand_bytes,
        modules=("calendar_server.providers.caldav_whole",),
    )
    caldav = CaldavProvider(egress, expander, redirects=config.redirects, calendar_events=config.calendar_events)
    google, microsoft = _google(config, egress), _microsoft(config, egress)
    plain: dict[ProviderName, Provider] = {
        ProviderName.CALDAV: caldav,
        ProviderName.GOOGLE: google.accounts,
        ProviderName.MICROSOFT: microsoft.accounts,
    }
    providers: dict[ProviderName, Provider] = {
        name: ObservedProvider(name, provider, conversation) for name, provider in plain.items()
    }
    offered = {
        name: OAuthProvider(oauth.client, oauth.accounts)
        for name, oauth, client_id in (
            (ProviderName.GOOGLE, google, config.google_client_id),
            (ProviderName.MICROSOFT, microsoft, config.microsoft_client_id),
        )
        if client_id
    }
    clients = {ProviderName.GOOGLE: google.client, ProviderName.MICROSOFT: microsoft.client}
    grants = Grants(store, vault, clients, conversation)
    authorizations = Authorizations(
        store,
        vault,
        offered,
        redirect_uris=[uri.strip() for uri in config.redirect_uris.split(",") if uri.strip()],
        public_url=config.public_url,
        call_s=config.call_s,
    )
    watches = Watches(
        store,
        grants,
        {
            name: Source(ObservedWatcher(name, source.watcher, conversation), source.address)
            for name, source in _sources(config, google.accounts, microsoft.accounts).items()
        },
        # The new version of the connection's answer wakes the worker.
        changed=lambda connection_id, calendar_id: store.mirror.note_change(connection_id, calendar_id, store.now()),
        used_s=max(config.used_s, USED_S),
        metrics=metrics,
    )
    contents = BookingContents(vault)
    refresher = Refresher(
        store,
        grants,
        providers,
        read_threads=config.read_threads,
        horizon_days=config.horizon_days,
        reconcile_s=config.reconcile_s,
        learn=Drifts(store).learn,
        metrics=metrics,
    )
    availability = Availability(
        store,
        refresher,
        call_s=config.call_s,
        max_staleness_s=config.max_staleness_s,
        unreadable_retry_s=max(60, config.max_staleness_s),
        cache_entries=config.cache_connections,
        provider_calls=max(1, config.grpc_threads - SPARE_THREADS),
        watch_heartbeat_s=config.watch_heartbeat_s,
        metrics=metrics,
    )
    pushing = _push_gate(config, store)
    scope = Scope.INSTALLATION if alone else Scope.PROCESS
    measure(metrics, store, expander, pushing, scope, used_s=config.used_s)
    store.observe(lambda what, seconds: metrics.observe(STORE_WAITS, seconds, what), lambda: tracer.span("transaction"))
    return Service(
        config=config,
        store=store,
        vault=vault,
        metrics=metrics,
        tracer=tracer,
        keys=Keys(store),
        authorizations=authorizations,
        connections=Connections(
            store,
            vault,
            grants,
            providers,
            ObservedConnects(caldav, conversation),
            authorizations,
            {ProviderName.GOOGLE: google.accounts},
            watches,
            call_s=config.call_s,
            wake=wake,
        ),
        refresher=refresher,
        availability=availability,
        bookings=Bookings(
            store,
            contents,
            availability,
            providers,
            waiting_most=max(1, config.grpc_threads - SPARE_THREADS),
            wake=wake,
            tracer=tracer,
        ),
        pushes=Pushes(
            store,
            contents,
            grants,
            providers,
            pushing,
            push_s=config.push_s,
            metrics=metrics,
            tracer=tracer,
        ),
        watches=watches,
        diagnosis=Diagnosis(store, grants, providers, egress, _upstreams(config)),
        egress=egress,
        expander=expander,
    )


def _upstreams(config: Config) -> dict[ProviderName, Upstream]:
    """Where the doctor looks for OAuth providers."""
    consent_url = _admin_consent_url(config).replace("{tenant}", "organizations")
    return {
        ProviderName.GOOGLE: Upstream(config.google_api_url),
        ProviderName.MICROSOFT: Upstream(
            config.microsoft_graph_url, f"{consent_url}?client_id={config.microsoft_client_id}"
        ),
    }


def _admin_consent_url(config: Config) -> str:
    return config.microsoft_authorize_url.removesuffix("/oauth2/v2.0/authorize") + "/adminconsent"


def _sources(config: Config, google: GoogleProvider, microsoft: MicrosoftProvider) -> dict[ProviderName, Source]:
    watchers: dict[ProviderName, Watcher] = {ProviderName.GOOGLE: google, ProviderName.MICROSOFT: microsoft}
    return {name: Source(watchers[name], address) for name, address in webhook_addresses(config).items()}


def webhook_addresses(config: Config) -> dict[ProviderName, str]:
    """Where the providers that are configured and can reach us tell us of changes."""
    public_url = config.public_url.rstrip("/")
    return {
        name: f"{public_url}/webhooks/{name}"
        for name, client_id, api_url in (
            (ProviderName.GOOGLE, config.google_client_id, config.google_api_url),
            (ProviderName.MICROSOFT, config.microsoft_client_id, config.microsoft_graph_url),
        )
        if client_id and reaches(api_url, public_url)
    }


@dataclass(frozen=True, slots=True)
class _OAuth(Generic[P]):
    """One OAuth provider's client and the provider itself."""

    client: OAuthClient
    accounts: P


def _google(config: Config, egress: Egress) -> _OAuth[GoogleProvider]:
    scope = "https://www.googleapis.com/auth/calendar"
    settings = OAuthSettings(
        client_id=config.google_client_id,
        client_secret=config.google_client_secret,
        authorize_url=config.google_authorize_url,
        token_url=config.google_token_url,
        scopes=("openid", "email", f"{scope}.events", f"{scope}.calendarlist.readonly", f"{scope}.freebusy"),
        # Both are needed for a refresh token at every consent
        # (https://developers.google.com/identity/protocols/oauth2/web-server#offline).
        extra={"access_type": "offline", "prompt": "consent"},
    )
    provider = GoogleProvider(
        egress,
        api_url=config.google_api_url,
        userinfo_url=config.google_userinfo_url,
        revoke_url=config.google_revoke_url,
        calendar_events=config.calendar_events,
    )
    return _OAuth(OAuthClient(egress, settings), provider)


def _microsoft(config: Config, egress: Egress) -> _OAuth[MicrosoftProvider]:
    settings = OAuthSettings(
        client_id=config.microsoft_client_id,
        client_secret=config.microsoft_client_secret,
        authorize_url=config.microsoft_authorize_url,
        token_url=config.microsoft_token_url,
        scopes=("openid", "email", "offline_access", "User.Read", "Calendars.ReadWrite", "MailboxSettings.Read"),
        extra={"prompt": "select_account"},
        admin_consent_url=_admin_consent_url(config),
    )
    provider = MicrosoftProvider(
        egress,
        graph_url=config.microsoft_graph_url,
        calendar_events=config.calendar_events,
        # A mailbox takes four requests at a time, of all our processes on this machine together.
        mailbox_requests=max(1, MAILBOX_REQUESTS // (config.processes + 1)),
    )
    return _OAuth(OAuthClient(egress, settings), provider)


def _push_gate(config: Config, store: Store) -> HostGate:
    def opened(connection_ids: list[ConnectionId]) -> None:
        try:
            store.outbox.hasten(connection_ids, store.now())
        except StoreUnavailable:
            # They come due by themselves, only later.
            _log.warning("store_unavailable")

    return HostGate(slow_most=max(1, config.push_threads // 2), opened=opened)


def build_worker(service: Service, *, poll_s: float, owner: str) -> Worker:
    """The worker of this process. Whoever had the name ``owner`` before is dead."""
    config = service.config
    return Worker(
        service.store,
        service.pushes,
        push_threads=config.push_threads,
        mailbox_pushes=config.mailbox_pushes,
        lease_s=config.lease_s,
        # Whatever hangs beyond a push's own limit is not kept for ever.
        hold_s=config.push_s + config.exchange_s + config.lease_s,
        owner=owner,
        poll_s=poll_s,
        keep_days=config.push_keep_days,
    )


def build_refreshing(service: Service) -> Refreshing:
    """What keeps the mirror fresh in a worker."""
    config = service.config
    return Refreshing(
        service.store,
        service.refresher,
        threads=config.refresh_threads,
        max_staleness_s=config.max_staleness_s,
        used_s=config.used_s,
        read_s=config.call_s,
        poll_s=min(1.0, max(0.1, config.max_staleness_s / 10)),
    )


class ProcessBeside:
    """Another process of the service beside this one, started again when it dies.

    The end of its standard input, also by our death, stops it; for a worker, a byte there is a wake. ``name``: what its
    numbers call it, which it tells through a line of its own.
    """

    def __init__(self, arguments: Sequence[str], *, environment: Mapping[str, str], wait_s: float, name: str) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._line: Line | None = None
        self._wait_s = wait_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it from now on."""
        self._process = self._start()
        threading.Thread(target=self._keep, args=(self._process,), name="keeper", daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        line = Line()
        told = ["--process", self.name, "--scrape-fd", str(line.theirs.fileno())]
        process = subprocess.Popen(
            [sys.executable, "-m", "calendar_server", *self._arguments, *told],
            env=self._environment,
            stdin=subprocess.PIPE,
            pass_fds=(line.theirs.fileno(),),
            # Signals of the terminal go to the first process alone, which stops the others when its own calls have ended.
            start_new_session=True,
        )
        os.set_blocking(_pipe(process).fileno(), False)
        line.close_theirs()
        former, self._line = self._line, line
        if former:
            former.close()
        return process

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        pause = 0.5
        while True:
            code = process.wait()
            if self._stopping.is_set():
                return
            _log.error("process_died", extra={"code": code})
            self._stopping.wait(pause)
            pause = min(pause * 2, 30.0)
            with self._lock:
                if self._stopping.is_set():
                    return
                self._process = process = self._start()

    def alive(self) -> bool:
        """Whether it runs, or is about to for the first time: those who serve already are told of what has died."""
        process = self._process
        return process is None or process.poll() is None

    def numbers(self, until: float) -> bytes | None:
        """What it counts; None when it has not answered by ``until`` on the monotonic clock."""
        line = self._line
        return line.ask(until) if line and self.alive() else None

    def wake(self) -> None:
        """Tell the worker that something is due. Never waits; a worker that died finds it by itself."""
        process = self._process
        try:
            if process:
                os.write(_pipe(process).fileno(), b".")
        except (OSError, ValueError):
            # Full: it has wakes enough. Broken: it is being started again.
            return

    def stop(self) -> None:
        """Let it end what is in progress."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is None:
            return
        _pipe(process).close()
        try:
            process.wait(self._wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        raise ValueError("the worker has no standard input")
    return process.stdin


def serve(
    config: Config,
    *,
    with_worker: bool,
    beside_server: bool = False,
    process: str = "server",
    scrape_fd: int | None = None,
    extra_handlers: Sequence[grpc.GenericRpcHandler] = (),
) -> None:
    """Migrate, then run gRPC, sidecar and (``with_worker``) the worker until SIGTERM or SIGINT.

    With more than one process the others serve gRPC on the same port (SO_REUSEPORT), ``beside_server``: without sidecar
    and worker, until their standard input ends; ``scrape_fd`` is then the line that asks for their numbers.
    """
    # Imported here so that the other commands start without gRPC and the web server.
    from calendar_server.rpc.server import build_server

    set_turns()
    give_large_back()
    stop = _stop_event()
    store = Store.open(config.database_url)
    # SQLite has one server: caches and waits of two would not know of each other. Workers and commands may be many.
    sole = SoleServer(store.path) if store.path else None
    store.migrate()
    vault = open_vault(config, store)
    worker = _worker_beside(config) if with_worker else None
    service = build(
        config, store, vault, wake=worker.wake if worker else lambda: None, process=process, alone=not beside_server
    )
    server = build_server(
        config,
        connections=service.connections,
        availability=service.availability,
        bookings=service.bookings,
        authenticator=service.keys,
        metrics=service.metrics,
        extra_handlers=extra_handlers,
        tracer=service.tracer,
    )
    server.start()
    others = [
        ProcessBeside(
            ["serve", "--no-worker", "--beside-server"],
            environment=config.environment(),
            wait_s=config.drain_s + 10,
            name=f"server-{number + 2}",
        )
        for number in range(0 if beside_server else config.processes - 1)
    ]
    beside = [*others, *([worker] if worker else [])]
    sidecar = None if beside_server else _sidecar(service, server.dispatch, stop, beside)
    # After the sidecar: whoever waited for SERVING finds all of this process there.
    server.set_serving(True)
    # Started when we serve: they take seconds of CPU to begin.
    for other in beside:
        other.start()
    _log.info("serving", extra={"grpc": config.grpc_address, "http": config.http_address})
    threading.Thread(target=_warm, args=(service,), name="warm", daemon=True).start()
    if beside_server:
        threading.Thread(target=_listen, args=(lambda: None, stop), name="parent", daemon=True).start()
    _answer_scrapes(scrape_fd, service)
    while not stop.wait(HEALTH_EVERY_S):
        server.set_serving(not _not_ready(store, stop))
    _log.info("stopping")
    server.set_serving(False)
    for other in others:
        threading.Thread(target=other.stop, name="stop").start()
    server.stop(config.drain_s)
    if sidecar:
        sidecar.stop()
    for other in others:
        other.stop()
    if worker:
        worker.stop()
    service.close()
    if sole:
        sole.release()
    _log.info("stopped")


def _answer_scrapes(scrape_fd: int | None, service: Service) -> None:
    if scrape_fd is not None:
        threading.Thread(target=answer, args=(scrape_fd, service.metrics), name="scrape", daemon=True).start()


def _scraped(service: Service, beside: Sequence[ProcessBeside], process: str) -> Callable[[], bytes]:
    """What a scrape of this process answers, with those beside it."""

    def text() -> bytes:
        until = time.monotonic() + ANSWER_S
        return service.metrics.text(process, {other.name: other.numbers(until) for other in beside})

    return text


def _warm(service: Service) -> None:
    """What the first call should not have to wait for, once this process serves."""
    try:
        reading_code()
        service.expander.warm()
    finally:
        keep_garbage_small()


def _sidecar(service: Service, dispatch: Dispatch, stop: threading.Event, beside: Sequence[ProcessBeside]) -> Sidecar:
    from calendar_server.sidecar import api, oauth
    from calendar_server.sidecar.app import Sidecar
    from calendar_server.sidecar.openapi import document
    from calendar_server.sidecar.rates import rates_of
    from calendar_server.sidecar.webhooks import Webhooks
    from calendars.v1 import calendar_service_pb2

    routes: list[BaseRoute] = [
        *oauth.routes(lambda name, query: service.authorizations.finish(name, query, settles=service.connections)),
        *Webhooks(service.watches.notified_google, service.watches.notified_microsoft).routes,
    ]
    if service.config.http_api:
        routes += api.routes(
            calendar_service_pb2.DESCRIPTOR.services_by_name["CalendarService"],
            dispatch,
            document=document(),
            request_bytes=service.config.request_bytes,
        )
    readiness = Readiness(service.store, service.vault, stop, {other.name: other.alive for other in beside})
    sidecar = Sidecar(
        service.config.http_address,
        checks=readiness.checks,
        metrics=_scraped(service, beside, "server"),
        routes=routes,
        rates=rates_of(service.config),
    )
    sidecar.start()
    return sidecar


HEALTH_EVERY_S = 1.0
SIGNAL_S = 0.5
"""Seconds within which a signal that another thread was given is acted on."""


def _not_ready(store: Store, stop: threading.Event) -> list[str]:
    """Why this process should get no calls; empty when it should."""
    if stop.is_set():
        return ["stopping"]
    try:
        store.ping()
    except StoreUnavailable:
        return ["database out of reach"]
    return []


def _worker_beside(config: Config) -> ProcessBeside:
    # One name for all of its lives: it is started again when its predecessor is dead, and then takes over what that held.
    owner = secrets.token_hex(8)
    return ProcessBeside(
        ["worker", "--beside-server", "--owner", owner],
        environment=config.environment(),
        wait_s=config.push_s + config.exchange_s,
        name="worker",
    )


def work(
    config: Config, *, beside_server: bool, owner: str = "", process: str = "worker", scrape_fd: int | None = None
) -> None:
    """Run the worker until SIGTERM, SIGINT or, beside a server, the end of standard input.

    ``owner`` names its leases; those that a dead worker of that name has left are free at once.
    """
    set_turns()
    give_large_back()
    os.nice(5)
    stop = _stop_event()
    store = Store.open(config.database_url) if beside_server else open_store(config)
    vault = open_vault(config, store)
    service = build(config, store, vault, wake=lambda: None, process=process, alone=not beside_server)
    # Hints tell of what other processes and machines committed; looking once a second is for hints that get lost.
    worker = build_worker(service, poll_s=1.0, owner=owner or secrets.token_hex(8))
    refreshing = build_refreshing(service)
    if beside_server:
        threading.Thread(target=_listen, args=(worker.wake, stop), name="wake", daemon=True).start()
    threading.Thread(
        target=_pass_on, args=(store, (worker.wake, refreshing.wake), stop), name="hints", daemon=True
    ).start()
    keep_garbage_small()
    runners = [threading.Thread(target=each.run, name=type(each).__name__) for each in (worker, refreshing)]
    runners.append(threading.Thread(target=_keep_watches, args=(service, stop), name="watches"))
    for runner in runners:
        runner.start()
    _answer_scrapes(scrape_fd, service)
    sidecar = None if beside_server else _worker_sidecar(service, stop)
    _log.info("working")
    while not stop.wait(SIGNAL_S):
        pass
    worker.stop()
    refreshing.stop()
    for runner in runners:
        runner.join()
    if sidecar:
        sidecar.stop()
    service.close()


def _worker_sidecar(service: Service, stop: threading.Event) -> Sidecar | None:
    """Health and numbers of a worker that has no server beside it, where a setting says so."""
    address = service.config.worker_http_address
    if not address:
        return None
    from calendar_server.sidecar.app import Sidecar

    sidecar = Sidecar(
        address,
        checks=Readiness(service.store, service.vault, stop).checks,
        metrics=_scraped(service, (), "worker"),
        setting="CALENDAR_WORKER_HTTP_ADDRESS",
    )
    sidecar.start()
    return sidecar


HINTS_S = 0.02
"""Seconds in which hints are gathered after one was passed on."""


def _pass_on(store: Store, wakes: Sequence[Callable[[], None]], stop: threading.Event) -> None:
    """Wake the loops when something was committed, here or elsewhere."""
    seen = store.changes.count
    while not stop.is_set():
        count = store.changes.wait(seen, 5.0, stop)
        if count != seen:
            seen = count
            for wake in wakes:
                wake()
            # Our own pushes are hints, too, hundreds a second: each wake is for all that came meanwhile.
            stop.wait(HINTS_S)


KEEP_WATCHES_EVERY_S = 1.0


def _keep_watches(service: Service, stop: threading.Event) -> None:
    """Keep calendars in use watched until told to stop. In a thread of its own: pushes do not wait for it."""
    while not stop.is_set():
        try:
            busy = service.watches.keep(service.store.now()) > 0
        except StoreUnavailable:
            busy = False
        except Exception:
            _log.exception("watches_broke")
            busy = False
        if not busy:
            stop.wait(KEEP_WATCHES_EVERY_S)


def _listen(wake: Callable[[], None], stop: threading.Event) -> None:
    """Turn bytes on standard input into wakes; its end stops this process."""
    while os.read(0, 4096):
        wake()
    stop.set()


def _stop_event() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Wait for it with a time-out, again and again.

    A signal may be delivered to another thread (to one of a process that was just continued, say); Python acts on it in
    the main thread, which has to wake up for that.
    """
    stop = threading.Event()

    def told(number: int, frame: object) -> None:
        # In a thread of its own: the handler may run while the main thread holds the event's own lock, inside its `wait`.
        threading.Thread(target=stop.set, name="signal").start()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, told)
    return stop
