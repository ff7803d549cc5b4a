"""Microsoft Graph's subscriptions (https://learn.microsoft.com/graph/api/resources/subscription).

A subscription is for one calendar, has an id that Graph gives it, and is extended in place, which also renews Graph's
authority to look. Before it is made Graph asks its address, in the midst of our request, whether it wants it. The secret
comes back as `clientState` in every notification.
"""

from __future__ import annotations

import datetime
import time
from urllib.parse import quote

from calendar_server.core.intervals import from_datetime
from calendar_server.core.model import SECOND, CalendarId, Instant
from calendar_server.errors import ProviderRefused, ProviderUnavailable
from calendar_server.providers.base import Deadline, Link, Watch
from calendar_server.providers.egress import Answer
from calendar_server.providers.microsoft_events import Json, text_of, utc_text
from calendar_server.providers.microsoft_graph import Doing, Graph, failure, json_of

LIFE_S = (10_080 - 60) * 60
"""Seconds that are asked for: an hour less than the most for events, as the two clocks may differ."""
REFUSED_RETRY_S = 3600.0
"""Seconds to wait after a 400, which may mean no more than that Graph did not reach our address at that moment."""
ID_BYTES_MAX = 128


def subscribe(
    graph: Graph, link: Link, calendar_id: CalendarId, *, address: str, secret: str, deadline: Deadline
) -> Watch:
    """Subscribe to every change in a calendar, and to what becomes of the subscription itself."""
    content = {
        "changeType": "created,updated,deleted",
        "notificationUrl": address,
        "lifecycleNotificationUrl": address,
        # A path inside JSON. Usual ids stand in it as they are; what could lead out of the calendar is quoted.
        "resource": f"me/calendars/{quote(calendar_id, safe='=')}/events",
        "expirationDateTime": _end(),
        "clientState": secret,
    }
    answer = graph.exchange(link, "POST", "subscriptions", deadline, content)
    if answer.status not in (200, 201):
        raise _failure(answer)
    watch = _watch(json_of(answer))
    if watch is None:
        raise ProviderUnavailable("Microsoft's answer could not be read.")
    return watch


def renew(graph: Graph, link: Link, watch: Watch, deadline: Deadline) -> Watch | None:
    """Let a subscription live longer. None: it is not there any more."""
    answer = graph.exchange(link, "PATCH", _path(watch), deadline, {"expirationDateTime": _end()})
    if answer.status in (404, 410):
        return None
    if answer.status != 200:
        raise _failure(answer)
    renewed = _watch(json_of(answer))
    if renewed is None or renewed.id != watch.id:
        raise ProviderUnavailable("Microsoft's answer could not be read.")
    return renewed


def unsubscribe(graph: Graph, link: Link, watch: Watch, deadline: Deadline) -> None:
    """End a subscription. One that is not there has been ended."""
    answer = graph.exchange(link, "DELETE", _path(watch), deadline)
    if answer.status not in (200, 204, 404, 410):
        raise _failure(answer)


def _failure(answer: Answer) -> Exception:
    error = failure(answer, Doing.READ)
    if answer.status in (413, 415, 422):
        return ProviderRefused("Microsoft does not tell of changes in this calendar.")
    if answer.status == 400 and isinstance(error, ProviderUnavailable):
        return ProviderUnavailable(
            "Microsoft did not accept the address for its notifications.", retry_after_s=REFUSED_RETRY_S
        )
    return error


def _path(watch: Watch) -> str:
    return f"subscriptions/{quote(watch.id, safe='')}"


def _end() -> str:
    return utc_text((int(time.time()) + LIFE_S) * SECOND) + "Z"


def _watch(subscription: Json) -> Watch | None:
    id = text_of(subscription, "id")
    if not 0 < len(id) <= ID_BYTES_MAX or not id.isprintable():
        return None
    try:
        expires_at = _instant(text_of(subscription, "expirationDateTime"))
    except (ValueError, OverflowError):
        return None
    return Watch(id, "", expires_at)


def _instant(text: str) -> Instant:
    moment = datetime.datetime.fromisoformat(text)
    return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC))
