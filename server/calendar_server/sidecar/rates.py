"""How often one peer may call the routes that need no key: the callbacks of OAuth, and the webhooks.

Over the limit is 429 with Retry-After, before anything of the request is looked at. A proxy in front is one peer for all
that it brings, and Google and Microsoft come from few addresses: so the limits are wide, and settings. Nothing is lost for
good by one: a browser may try again, and calendars are read whether notifications come or not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from calendar_server.config import Config
from calendar_server.peers import Buckets, client_of


def rates_of(config: Config) -> dict[str, Buckets]:
    """The buckets of the settings, by the first part of a path. A minute's worth may come at once."""
    return {
        prefix: Buckets(burst=per_minute, per_minute=per_minute)
        for prefix, per_minute in (
            ("oauth", config.oauth_per_minute),
            ("webhooks", config.webhooks_per_minute),
        )
    }


class Rated:
    """An app whose paths are limited by their first part."""

    def __init__(self, app: ASGIApp, rates: Mapping[str, Buckets]):
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http":
            buckets = self._rates.get(scope["path"].lstrip("/").partition("/")[0])
            early_s = 0.0 if buckets is None else buckets.take(client_of(scope))
            if early_s:
                app = PlainTextResponse(
                    "Too many requests. Try again later.\n",
                    status_code=429,
                    headers={"retry-after": str(math.ceil(early_s)), "connection": "close"},
                )
        await app(scope, receive, send)
