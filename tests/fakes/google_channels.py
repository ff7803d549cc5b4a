"""Google's notification channels (https://developers.google.com/calendar/api/guides/push), with a memory.

A channel is opened under an id of the client's, once, for a week at most; it tells `sync` at once and `exists` with every
change of its calendar. It cannot be extended, and is stopped by its id together with its resource's.
"""

from __future__ import annotations

import email.utils
import hashlib
import itertools
import time
from dataclasses import dataclass, field

from tests.fakes.deliveries import Deliveries, Post
from tests.fakes.google_calendars import Json, Refused

LIFE_MOST_S = 604_800
ID_MOST = 64
TOKEN_MOST = 256


@dataclass(slots=True)
class Channel:
    id: str
    resource_id: str
    calendar_id: str
    email: str
    address: str
    token: str
    expires_at: float
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


class GoogleChannels:
    """All channels of the fake."""

    def __init__(self, origin: str, deliveries: Deliveries) -> None:
        self.open: dict[str, Channel] = {}
        self.stopped: list[str] = []
        self.used: set[str] = set()
        self.life_s = LIFE_MOST_S
        """Seconds that a channel gets at most."""
        self.unsupported: set[str] = set()
        """Calendars that cannot be watched, such as those of holidays."""
        self.deliveries = deliveries
        self._origin = origin

    def watch(self, calendar_id: str, email: str, content: Json) -> Json:
        id, token = str(content.get("id", "")), str(content.get("token", ""))
        address, params = str(content.get("address", "")), content.get("params", {})
        assert isinstance(params, dict)
        if content.get("type") not in ("web_hook", "webhook"):
            raise Refused(400, "channelUnknown", "Unknown channel type")
        if calendar_id in self.unsupported:
            raise Refused(400, "pushNotSupportedForRequestedResource", "Push is not supported for this resource.")
        if not 0 < len(id) <= ID_MOST or len(token) > TOKEN_MOST:
            raise Refused(400, "invalid", "The channel's id or token is too long.")
        if id in self.used:
            raise Refused(400, "channelIdNotUnique", f"Channel id {id} not unique")
        if not address.startswith(("https://", "http://127.0.0.1:")):
            raise Refused(400, "push.webhookUrlNotHttps", f"WebHook callback must be HTTPS: {address}")
        life_s = min(int(str(params.get("ttl", LIFE_MOST_S))), self.life_s, LIFE_MOST_S)
        resource_id = hashlib.sha256(f"{email} {calendar_id}".encode()).hexdigest()[:27]
        channel = Channel(id, resource_id, calendar_id, email, address, token, time.time() + life_s)
        self.used.add(id)
        self.open[id] = channel
        self._tell(channel, "sync")
        return {
            "kind": "api#channel",
            "id": id,
            "resourceId": resource_id,
            "resourceUri": self._uri(channel),
            "token": token,
            "expiration": str(int(channel.expires_at * 1000)),
        }

    def stop(self, email: str, content: Json) -> None:
        channel = self.open.get(str(content.get("id", "")))
        if channel is None or channel.resource_id != content.get("resourceId") or channel.email != email:
            raise Refused(404, "notFound", f"Channel '{content.get('id')}' not found for project")
        self.stopped.append(channel.id)
        del self.open[channel.id]

    def changed(self, calendar_id: str) -> None:
        """Something in this calendar has changed: tell everybody who watches it."""
        for channel in list(self.open.values()):
            if channel.calendar_id == calendar_id:
                if channel.expires_at <= time.time():
                    del self.open[channel.id]
                else:
                    self._tell(channel, "exists")

    def _uri(self, channel: Channel) -> str:
        return f"{self._origin}/calendar/v3/calendars/{channel.calendar_id}/events?alt=json"

    def _tell(self, channel: Channel, state: str) -> None:
        headers = {
            "Content-Type": "application/json; utf-8",
            "Content-Length": "0",
            "User-Agent": "APIs-Google; (+https://developers.google.com/webmasters/APIs-Google.html)",
            "X-Goog-Channel-ID": channel.id,
            "X-Goog-Channel-Token": channel.token,
            "X-Goog-Channel-Expiration": email.utils.formatdate(channel.expires_at, usegmt=True),
            "X-Goog-Resource-ID": channel.resource_id,
            "X-Goog-Resource-URI": self._uri(channel),
            "X-Goog-Resource-State": state,
            "X-Goog-Message-Number": str(next(channel.numbers)),
        }
        self.deliveries.post(Post(channel.address, headers, b""))
