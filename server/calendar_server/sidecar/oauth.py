"""Where Google and Microsoft send the browser back to.

Every answer is a redirect to the caller's own page, or, when the state is none of ours, a plain page that says what to
do. Nothing of the request is ever shown, and nothing of it is logged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from calendar_server.core.model import ProviderName
from calendar_server.sidecar.pages import PAGE_HEADERS, page

Finish = Callable[[ProviderName, Sequence[tuple[str, str]]], str | None]
"""Finishes a redirect: where the browser goes, or None when the state is none of ours."""

QUERY_BYTES_MOST = 16_384
"""Bytes of a query that are looked at; codes of Entra alone take about two thousand."""

UNKNOWN = page(
    "This link is not valid any more",
    "It was used before, or it did not come from this service. Nothing was connected or changed.",
    "Go back to where you came from and connect the calendar again.",
)

CONSENTED = page(
    "Thank you",
    "When the administrator has consented, people of this organization can connect their calendars.",
    "Go back to where you came from and connect the calendar again.",
)
"""Where Entra sends an administrator afterwards. It is a hint like any redirect: nothing is stored for it."""


def routes(finish: Finish) -> list[Route]:
    """The callbacks of both providers."""
    return [_route(name, finish) for name in (ProviderName.GOOGLE, ProviderName.MICROSOFT)]


def _route(name: ProviderName, finish: Finish) -> Route:
    async def callback(request: Request) -> Response:
        query = request.url.query
        pairs = request.query_params.multi_items() if len(query) <= QUERY_BYTES_MOST else []
        if name is ProviderName.MICROSOFT and "admin_consent" in dict(pairs) and "state" not in dict(pairs):
            return HTMLResponse(CONSENTED, headers=PAGE_HEADERS)
        destination = await run_in_threadpool(finish, name, pairs)
        if destination is None:
            return HTMLResponse(UNKNOWN, status_code=400, headers=PAGE_HEADERS)
        # 303: whatever the provider used, the caller's page is fetched by GET.
        return RedirectResponse(destination, status_code=303)

    return Route(f"/oauth/{name}/callback", callback, methods=["GET"])
