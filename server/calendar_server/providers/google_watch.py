"""Google's notification channels (https://developers.google.com/calendar/api/guides/push).

A channel is for one calendar and cannot be extended. Its id and its token come back in the head of every notification,
which has no body. Nobody stops a channel but its end, or a request that names it with Google's id of what it watches.
"""

from __future__ import annotations

import json
import time

from calendar_server.core.model import SECOND, CalendarId, Instant
from calendar_server.errors import ProviderRefused, ProviderUnavailable
from calendar_server.providers.base import Watch
from calendar_server.providers.google_api import Doing, Talk, calendar_path, failure, json_of
from calendar_server.providers.google_events import Json, text_of

LIFE_S = 7 * 86_400
"""Seconds that are asked for; Google gives no more than a week to a calendar's events."""
SHORT_LIFE_S = 3600
"""Seconds that a channel is believed to live whose end Google does not tell."""
ID_BYTES_MAX = 512


def open_channel(talk: Talk, calendar_id: CalendarId, *, address: str, id: str, secret: str) -> Watch:
    """Open a channel under an id that was never used before."""
    content = {"id": id, "type": "web_hook", "address": address, "token": secret, "params": {"ttl": str(LIFE_S)}}
    answer = talk.exchange("POST", f"{calendar_path(calendar_id)}/events/watch", content=content)
    if answer.status == 400:
        # Such as pushNotSupportedForRequestedResource (a calendar of holidays), or an address that is not https.
        raise ProviderRefused("Google does not tell of changes in this calendar, or not at this address.")
    if answer.status not in (200, 201):
        raise failure(answer, Doing.READ)
    channel = json_of(answer, "api#channel", "resourceId")
    resource_id = text_of(channel, "resourceId")
    if text_of(channel, "id") != id or not 0 < len(resource_id) <= ID_BYTES_MAX:
        raise ProviderUnavailable("Google's answer could not be read.")
    return Watch(id, resource_id, _expiration(channel))


def stop_channel(talk: Talk, watch: Watch) -> None:
    """Stop a channel. One that is not there has been stopped, or has ended by itself."""
    answer = talk.exchange("POST", "channels/stop", content={"id": watch.id, "resourceId": watch.resource_id})
    if answer.status not in (200, 204, 404, 410):
        raise failure(answer, Doing.LIST)


def _expiration(channel: Json) -> Instant:
    """Milliseconds, as text."""
    told = channel.get("expiration")
    text = json.dumps(told) if isinstance(told, int) else told
    if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text) * (SECOND // 1000)
    return (int(time.time()) + SHORT_LIFE_S) * SECOND
