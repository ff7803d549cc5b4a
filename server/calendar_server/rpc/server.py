"""The gRPC server: limits, TLS, health, reflection, and a stop that lets calls in flight finish."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_reflection.v1alpha import reflection

from calendar_server.config import Config, ConfigError
from calendar_server.core.model import Instant
from calendar_server.metrics import WATCH_STREAMS, Metrics
from calendar_server.rpc.call import Authenticator
from calendar_server.rpc.calls import Calls, CountingPool
from calendar_server.rpc.dispatch import Dispatch
from calendar_server.rpc.interceptors import SERVICE, CallInterceptor, KeylessInterceptor, Patience, Streams
from calendar_server.rpc.servicer import (
    AvailabilityUseCase,
    BookingsUseCase,
    CalendarServicer,
    ConnectionsUseCase,
    wall_clock,
)
from calendar_server.rpc.watches import Watches
from calendar_server.tracing import NO_TRACER, Tracer
from calendars.v1 import calendar_service_pb2_grpc

_log = logging.getLogger(__name__)

HEALTH_SERVICES = ("", SERVICE)
MESSAGE_S = 10.0
"""Seconds a thread waits for the message of a call whose headers have come."""
LAME_DUCK_S = 1.0
"""Seconds that NOT_SERVING can be learned, while calls are in flight, before new ones are turned away."""
DOORSTEP_THREADS = 4
REFLECTION_STREAMS = 8
WATCHERS = 256
REFUSING_THREADS = 4
"""Threads beside those of the watches: they turn away whoever comes when all are open."""
WATCHES_WAITING = 64
"""Calls that may wait for such a thread."""
WATCH_END_S = 1.0
"""Seconds that the clients of watches have to take the news that we stop."""
CORE_MESSAGE_BYTES = 16 * 2**20
"""Above this grpc itself refuses a message, without our details."""
METADATA_BYTES = 16 * 1024


class Health(HealthServicer):  # type: ignore[misc]
    """``grpc.health.v1`` for the services there are."""

    def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[health_pb2.HealthCheckResponse], None],
    ) -> None:
        """Tell every change. A service that there is not stays unknown: nothing is kept for names that are made up."""
        if request.service in HEALTH_SERVICES:
            super().Watch(request, context, send_response_callback)
        else:
            send_response_callback(health_pb2.HealthCheckResponse(status="SERVICE_UNKNOWN"))


class RpcServer:
    """Made by ``build_server``. NOT_SERVING until told otherwise."""

    def __init__(
        self,
        config: Config,
        servicer: CalendarServicer,
        authenticator: Authenticator,
        metrics: Metrics,
        *,
        message_s: float,
        extra_handlers: Sequence[grpc.GenericRpcHandler],
        tracer: Tracer,
    ):
        self._config = config
        self._port = 0
        self._patience = Patience()
        calls = Calls(authenticator, metrics, tracer)
        self._later = calls.later
        self._pool = CountingPool(config.grpc_threads, "rpc")
        self._dispatch = Dispatch(servicer, calls, threads=config.grpc_threads)
        self._doorstep = ThreadPoolExecutor(DOORSTEP_THREADS, thread_name_prefix="doorstep")
        self._reflection = ThreadPoolExecutor(REFLECTION_STREAMS, thread_name_prefix="reflection")
        self._watches = Watches(authenticator, config.watches)
        metrics.told(WATCH_STREAMS, lambda: {(): len(self._watches)})
        self._watching = CountingPool(config.watches + REFUSING_THREADS, "watch")
        self._streams = (Streams(WATCHERS), Streams(REFLECTION_STREAMS))
        self._health = Health(experimental_non_blocking=True)
        self._server = grpc.server(
            self._pool,
            interceptors=(
                KeylessInterceptor(
                    patience=self._patience,
                    doorstep=self._doorstep,
                    reflection=self._reflection,
                    watchers=self._streams[0],
                    reflections=self._streams[1],
                ),
                CallInterceptor(
                    calls,
                    request_bytes=config.request_bytes,
                    message_s=message_s,
                    patience=self._patience,
                    doorstep=self._doorstep,
                    # As many may wait for a thread as have one.
                    overloaded=lambda: self._pool.load >= 2 * config.grpc_threads,
                    watches=self._watches,
                    watching=self._watching,
                    watchers_most=config.watches + WATCHES_WAITING,
                ),
            ),
            options=_options(config),
            # The last limit, when even refusals pile up; grpc answers RESOURCE_EXHAUSTED by itself.
            maximum_concurrent_rpcs=2 * config.grpc_threads + config.watches + 256,
        )
        calendar_service_pb2_grpc.add_CalendarServiceServicer_to_server(servicer, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers(tuple(extra_handlers))
        if config.reflection:
            names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        self.set_serving(False)

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before ``start``."""
        return self._port

    @property
    def load(self) -> int:
        """Calls that run or wait for a thread, by whatever door they came."""
        return self._pool.load + self._dispatch.load

    @property
    def dispatch(self) -> Dispatch:
        """The same methods for another door. It stops when this server does."""
        return self._dispatch

    @property
    def watches(self) -> int:
        """Streams of answers that are open."""
        return len(self._watches)

    def start(self) -> None:
        """Listen. Raises ``ConfigError`` when the address or the certificate cannot be used."""
        credentials = _credentials(self._config)
        address = self._config.grpc_address
        try:
            if credentials is None:
                self._port = self._server.add_insecure_port(address)
            else:
                self._port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise _not_listening(address) from error
        if not self._port:
            raise _not_listening(address)
        self._patience.start()
        self._watches.start()
        self._server.start()

    def set_serving(self, serving: bool) -> None:
        """What health answers from now on. After ``stop`` it stays NOT_SERVING."""
        status = "SERVING" if serving else "NOT_SERVING"
        for service in HEALTH_SERVICES:
            self._health.set(service, health_pb2.HealthCheckResponse.ServingStatus.Value(status))

    def stop(self, grace_s: float) -> None:
        """NOT_SERVING, then no new calls; those in flight get ``grace_s`` seconds, then they are cancelled."""
        ends_at = time.monotonic() + grace_s
        self._health.enter_graceful_shutdown()
        lame_duck_ends_at = time.monotonic() + min(LAME_DUCK_S, grace_s)
        while self.load and time.monotonic() < lame_duck_ends_at:
            time.sleep(0.02)
        self._dispatch.close()
        self._later.stop()
        for streams in self._streams:
            # They would never end by themselves.
            streams.end()
        # Nor would these. Ended now and not before: who calls again at once finds this address closed, not refusing.
        self._watches.end()
        stopped = self._server.stop(max(0.0, ends_at - time.monotonic()))
        stopped.wait(WATCH_END_S)
        self._watches.close()
        stopped.wait()
        while self._dispatch.load and time.monotonic() < ends_at:
            time.sleep(0.02)
        self._dispatch.stop()
        self._patience.stop()
        for pool in (self._pool, self._watching, self._doorstep, self._reflection):
            pool.shutdown(wait=False, cancel_futures=True)


def build_server(
    config: Config,
    *,
    connections: ConnectionsUseCase,
    availability: AvailabilityUseCase,
    bookings: BookingsUseCase,
    authenticator: Authenticator,
    metrics: Metrics,
    clock: Callable[[], Instant] = wall_clock,
    message_s: float = MESSAGE_S,
    extra_handlers: Sequence[grpc.GenericRpcHandler] = (),
    tracer: Tracer = NO_TRACER,
) -> RpcServer:
    """Make the server of these use cases; ``start`` makes it listen.

    ``extra_handlers`` are methods beside those of the contract, behind the same interceptors: measurements need one.
    """
    servicer = CalendarServicer(connections, availability, bookings, clock)
    return RpcServer(
        config, servicer, authenticator, metrics, message_s=message_s, extra_handlers=extra_handlers, tracer=tracer
    )


def _options(config: Config) -> list[tuple[str, int]]:
    return [
        # Without this, one client was able to take gigabytes in seconds [measured].
        ("grpc.max_concurrent_streams", 100),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.max_receive_message_length", max(CORE_MESSAGE_BYTES, config.request_bytes)),
        ("grpc.server_handshake_timeout_ms", 20_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping every ten seconds; more often, and they are sent away.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 3),
        # Connections end now and then, so that load spreads over new replicas. grpc varies the age by a tenth; the
        # grace is longer than any call.
        ("grpc.max_connection_age_ms", 3_600_000),
        ("grpc.max_connection_age_grace_ms", 120_000),
        ("grpc.max_connection_idle_ms", 900_000),
        # A second server on one port must be an error unless we are several on purpose.
        ("grpc.so_reuseport", int(config.processes > 1)),
    ]


def _not_listening(address: str) -> ConfigError:
    return ConfigError([f"CALENDAR_GRPC_ADDRESS: {address} cannot be listened on; is a server running there already?"])


def _credentials(config: Config) -> grpc.ServerCredentials | None:
    if not config.tls_cert:
        return None
    certificates = _Certificates(config)
    try:
        first = certificates.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            [
                "CALENDAR_TLS_CERT, CALENDAR_TLS_KEY, CALENDAR_TLS_CLIENT_CA: "
                "are not readable PEM files that belong together."
            ]
        ) from error
    return grpc.dynamic_ssl_server_credentials(
        first, certificates.renewed, require_client_authentication=bool(config.tls_client_ca)
    )


class _Certificates:
    """Certificate, key and client authority from their files; read again when a file has changed."""

    def __init__(self, config: Config):
        self._cert, self._key = Path(config.tls_cert), Path(config.tls_key)
        self._client_ca = Path(config.tls_client_ca) if config.tls_client_ca else None
        self._seen: tuple[int, ...] = ()

    def load(self) -> grpc.ServerCertificateConfiguration:
        """Read the files. Raises ``OSError`` or ``ssl.SSLError`` when they cannot be used."""
        self._seen = self._times()
        # grpc would notice a key that does not belong to the certificate only when a client comes.
        probe = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        probe.load_cert_chain(self._cert, self._key)
        if self._client_ca is not None:
            probe.load_verify_locations(self._client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._cert.read_bytes())],
            None if self._client_ca is None else self._client_ca.read_bytes(),
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake: the new files, or None to keep what there is."""
        try:
            if self._times() == self._seen:
                return None
            renewed = self.load()
        except (OSError, ssl.SSLError):
            # Half-way through a renewal, or a mistake: the old certificate goes on.
            _log.warning("certificate_not_renewed")
            return None
        _log.info("certificate_renewed")
        return renewed

    def _times(self) -> tuple[int, ...]:
        files = (self._cert, self._key, *([self._client_ca] if self._client_ca else []))
        return tuple(file.stat().st_mtime_ns for file in files)
