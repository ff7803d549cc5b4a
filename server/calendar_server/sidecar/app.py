"""The HTTP sidecar: a Starlette app on uvicorn, in a thread of its own.

``/healthz`` says that the process lives, ``/readyz`` whether it should get calls and what is wrong, ``/metrics`` what is
counted. Routes for browsers and providers are given from outside. Every answer, whoever makes it, carries
``SECURITY_HEADERS``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import cast

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from calendar_server.config import ConfigError
from calendar_server.peers import Buckets
from calendar_server.readiness import Check, ready
from calendar_server.sidecar.rates import Rated

_log = logging.getLogger(__name__)

SECURITY_HEADERS = {
    # Addresses of ours hold codes and states of OAuth.
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
CONNECTIONS_MOST = 256
HEADER_BYTES = 16 * 1024
IDLE_S = 10
"""Seconds that a connection may be open without a whole request, before the first one and between two."""
CLOSE_S = 2.0
"""Seconds for a peer to notice that it was answered, and to stop sending."""
UNREAD_BYTES = 256 * 1024
"""Bytes that are taken from a peer that sends on after its answer."""
STOP_S = 5
START_S = 10.0


def make_app(
    *,
    checks: Callable[[], list[Check]],
    metrics: Callable[[], bytes],
    routes: Sequence[BaseRoute] = (),
    rates: Mapping[str, Buckets] = MappingProxyType({}),
) -> ASGIApp:
    """The app. ``checks`` answers what was looked at, in words that anybody may read; ``metrics`` what is scraped.

    ``rates`` limits paths, by their first part.
    """

    def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(request: Request) -> Response:
        try:
            found = checks()
        except Exception:
            _log.exception("readiness_unknown")
            found = [Check("readiness", "is unknown; the log says more")]
        told = {
            "ready": ready(found),
            "failed": [{"check": check.name, "problem": check.problem} for check in found if check.problem],
            "passed": [check.name for check in found if not check.problem],
        }
        text = json.dumps(told, indent=2) + "\n"
        return Response(text, status_code=200 if told["ready"] else 503, media_type="application/json")

    def scrape(request: Request) -> Response:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
            *routes,
        ]
    )
    # A redirect would repeat the Host header of whoever asks.
    app.router.redirect_slashes = False
    return _Secured(Rated(app, rates))


class _Secured:
    """Adds the security headers to every answer that does not set its own."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_secured)


class _Connection(H11Protocol):
    """uvicorn's protocol, with limits that it lacks.

    By itself it waits for ever for a first request, takes in without end what nobody reads, answers nonsense without our
    headers, and closes so that whoever still sends may never see the answer.
    """

    def connection_made(self, transport: object) -> None:
        """Begin to look at the clock."""
        self._line = cast("asyncio.Transport", transport)
        super().connection_made(_Staged(self._line, self._close))  # type: ignore[arg-type]
        self._seen: object = None
        self._unread = 0
        self._closing: asyncio.TimerHandle | None = None
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        self._look.cancel()
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, as long as somebody wants it."""
        if self._closing is not None or self._answered:
            self._unread += len(data)
            if self._unread > UNREAD_BYTES:
                self._line.abort()
                return
        if self._closing is None:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too large, and close."""
        if self.cycle is not None:
            # Nobody is there any more for what the app may be about to say.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [
                *SECURITY_HEADERS.items(),
                ("content-type", "text/plain; charset=utf-8"),
                ("connection", "close"),
            ]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=b"Bad Request"),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def _answered(self) -> bool:
        """Whether the answer was given before the request was whole."""
        return self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY

    def _close(self) -> None:
        """Close in stages where more may be coming (RFC 9112 section 9.6): at once, it would be a reset, and the peer may
        lose the answer for it."""
        if self._closing is not None or self.conn.their_state not in (h11.SEND_BODY, h11.ERROR):
            self._line.close()
        elif not self._line.is_closing():
            try:
                self._line.write_eof()
            except OSError:
                # The peer has gone already.
                self._line.abort()
                return
            self._closing = self.loop.call_later(CLOSE_S, self._line.abort)
            self._line.resume_reading()

    def _look_later(self) -> None:
        self._look = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        between = self.cycle is None or self.cycle.response_complete
        if between and self._seen is self.cycle:
            self._line.close()
            return
        self._seen = self.cycle
        self._look_later()


class _Staged:
    """A transport whose ``close`` is ours."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]):
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


class Sidecar:
    """The app on a port. ``routes`` are added to its own, ``rates`` limits them; ``setting`` names the address to people."""

    def __init__(
        self,
        address: str,
        *,
        checks: Callable[[], list[Check]],
        metrics: Callable[[], bytes],
        routes: Sequence[BaseRoute] = (),
        rates: Mapping[str, Buckets] = MappingProxyType({}),
        idle_s: int = IDLE_S,
        setting: str = "CALENDAR_HTTP_ADDRESS",
    ):
        self._address = address
        self._setting = setting
        self._server = _Server(
            uvicorn.Config(
                make_app(checks=checks, metrics=metrics, routes=routes, rates=rates),
                http=_Connection,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                # Its warnings are about what peers send; everybody can make as many as they like.
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MOST,
                timeout_keep_alive=idle_s,
                timeout_graceful_shutdown=STOP_S,
                h11_max_incomplete_event_size=HEADER_BYTES,
            )
        )
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before ``start``."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen. Raises ``ConfigError`` when the address cannot be used."""
        host, _, port = self._address.rpartition(":")
        host = host.strip("[]")
        try:
            self._socket = socket.create_server(
                (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
            )
        except OSError as error:
            raise ConfigError(
                [f"{self._setting}: {self._address} cannot be listened on; is a server running there already?"]
            ) from error
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="sidecar", daemon=True
        )
        self._thread.start()
        if not self._server.up.wait(START_S):
            raise RuntimeError("the HTTP sidecar did not start")

    def stop(self) -> None:
        """Answer what is being asked, then listen no more."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_S + 5)
        if self._socket is not None:
            self._socket.close()


class _Server(uvicorn.Server):
    """A uvicorn server that says when it is up."""

    def __init__(self, config: uvicorn.Config):
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.up.set()
