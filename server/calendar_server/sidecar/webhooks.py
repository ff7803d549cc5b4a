"""Where Google and Microsoft tell of changes: verify, note, answer at once.

A forged notification is answered exactly as a true one. That tells nobody which watches there are; and a provider that
still speaks for a watch which we have forgotten (Disconnect could not stop it, say) is content: Microsoft would otherwise
repeat each notification for four hours. Only what is no notification at all gets a 4xx, whoever sends it. What could not be
noted is a 503, which both repeat (https://developers.google.com/calendar/api/guides/push#responding-to-notifications,
https://learn.microsoft.com/graph/change-notifications-delivery-webhooks).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from calendar_server.errors import StoreUnavailable

_log = logging.getLogger(__name__)

BODY_BYTES_MOST = 64 * 1024
TOKEN_CHARACTERS_MOST = 4096
"""Characters of a `validationToken`. Graph's have a few hundred."""
ANSWER_S = 2.0
"""Seconds for all of it. Microsoft calls an answer slow that takes three."""
THREADS = 4
WAITING_MOST = 64
"""Notifications that are being noted or wait for it. More are sent away, to come again."""

NotedGoogle = Callable[[Mapping[str, str]], None]
NotedMicrosoft = Callable[[object], None]


class _Refused(Exception):
    """No notification at all."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.answer = PlainTextResponse(f"{message}\n", status_code=status, headers={"connection": "close"})


class Webhooks:
    """The routes. ``google`` and ``microsoft`` verify and note; they may raise ``StoreUnavailable``.

    They run in threads of their own, so that a slow database holds up neither this process's other answers nor its loop.
    """

    def __init__(self, google: NotedGoogle, microsoft: NotedMicrosoft, *, answer_s: float = ANSWER_S):
        self._google = google
        self._microsoft = microsoft
        self._answer_s = answer_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self._waiting = 0

    @property
    def routes(self) -> list[Route]:
        """What providers post to."""
        return [
            Route("/webhooks/google", self._from_google, methods=["POST"]),
            Route("/webhooks/microsoft", self._from_microsoft, methods=["POST"]),
        ]

    def close(self) -> None:
        """Take nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _from_google(self, request: Request) -> Response:
        try:
            await _body(request, self._answer_s)
        except _Refused as refused:
            return refused.answer
        headers = {name.lower(): value for name, value in request.headers.items() if name.startswith("x-goog-")}
        return await self._noted(lambda: self._google(headers), 200)

    async def _from_microsoft(self, request: Request) -> Response:
        tokens = request.query_params.getlist("validationToken")
        if tokens:
            return _validated(tokens)
        try:
            content = _json(request, await _body(request, self._answer_s))
        except _Refused as refused:
            return refused.answer
        return await self._noted(lambda: self._microsoft(content), 202)

    async def _noted(self, note: Callable[[], None], status: int) -> Response:
        if self._waiting >= WAITING_MOST:
            return _later()
        self._waiting += 1
        work = asyncio.get_running_loop().run_in_executor(self._threads, note)
        work.add_done_callback(self._done)
        try:
            # Shielded: what has begun goes on, and is counted until it ends.
            await asyncio.wait_for(asyncio.shield(work), self._answer_s)
        except (TimeoutError, StoreUnavailable):
            return _later()
        except Exception:
            _log.exception("webhook_broke")
            return _later()
        return Response(status_code=status)

    def _done(self, work: asyncio.Future[None]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()


def _validated(tokens: list[str]) -> Response:
    """Microsoft asks whether this address wants its notifications: its token comes back as it is, decoded.

    As plain text that no browser takes for anything else (`nosniff` stands on every answer), and only here.
    """
    if len(tokens) != 1 or not 0 < len(tokens[0]) <= TOKEN_CHARACTERS_MOST:
        return PlainTextResponse("The validationToken must be one, of at most 4096 characters.\n", status_code=400)
    return PlainTextResponse(tokens[0])


def _json(request: Request, body: bytes) -> object:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Refused(415, "Notifications are application/json.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refused(400, "The body is no JSON.") from error


async def _body(request: Request, limit_s: float) -> bytes:
    """The body, which must be here in time and no larger than ``BODY_BYTES_MOST``."""
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or len(length) > 9 or int(length) > BODY_BYTES_MOST:
        raise _Refused(413, "Notifications have at most 65536 bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(limit_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MOST:
                    raise _Refused(413, "Notifications have at most 65536 bytes.")
    except (TimeoutError, ClientDisconnect) as error:
        raise _Refused(408, "The body did not come in time.") from error
    return bytes(body)


def _later() -> Response:
    """Without a body and without a reason: it may be that nothing is wrong but the time."""
    return Response(status_code=503, headers={"retry-after": "10"})
