"""Graph's subscriptions (https://learn.microsoft.com/graph/change-notifications-delivery-webhooks), with a memory.

Before a subscription is made each of its addresses is asked, in the midst of the request, whether it wants notifications:
it has to answer with the token of the question. A subscription lives for a week at most and can be renewed.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, unquote

from tests.fakes.deliveries import Answer, Deliveries, Post, send

LIFE_MOST = timedelta(minutes=10_080)
CLIENT_STATE_MOST = 128
CHANGES = frozenset({"created", "updated", "deleted"})
NEEDED = frozenset({"changeType", "notificationUrl", "resource", "expirationDateTime"})
TAKEN = NEEDED | {"lifecycleNotificationUrl", "clientState", "latestSupportedTlsVersion"}
_RESOURCE = re.compile(r"/?me/calendars/([^/]+)/events")


class Invalid(Exception):
    """A request that Graph answers with 400."""


@dataclass(slots=True)
class Subscription:
    id: str
    owner: str
    calendar_id: str
    content: dict[str, str]
    expires_at: datetime

    def show(self) -> dict[str, object]:
        return {
            "id": self.id,
            **self.content,
            "expirationDateTime": told(self.expires_at),
            "applicationId": "24d3b144-21ae-4080-943f-7067b395b913",
            "creatorId": self.owner,
        }


class GraphSubscriptions:
    """All subscriptions of the fake."""

    def __init__(self, deliveries: Deliveries) -> None:
        self.open: dict[str, Subscription] = {}
        self.ended: list[str] = []
        self.renewals: list[str] = []
        self.handshakes: list[Answer] = []
        self.notify_early = False
        """Tell of a change before the request that makes the subscription is answered."""
        self.deliveries = deliveries

    def create(self, owner: str, calendars: Mapping[str, object], content: Mapping[str, object]) -> Subscription:
        unknown, missing = sorted(content.keys() - TAKEN), sorted(NEEDED - content.keys())
        if unknown or missing or not all(isinstance(value, str) for value in content.values()):
            raise Invalid(f"Could not process subscription creation payload: {unknown} {missing}")
        texts = {name: str(value) for name, value in content.items()}
        if len(texts.get("clientState", "")) > CLIENT_STATE_MOST:
            raise Invalid("clientState has at most 128 characters.")
        if not set(texts["changeType"].split(",")) <= CHANGES:
            raise Invalid("changeType is not supported.")
        match = _RESOURCE.fullmatch(texts["resource"])
        calendar_id = unquote(match[1]) if match else ""
        if calendar_id not in calendars:
            raise LookupError(calendar_id)
        expires_at = _end(texts["expirationDateTime"])
        for name in ("notificationUrl", "lifecycleNotificationUrl"):
            if name in texts:
                self._ask(texts[name])
        subscription = Subscription(str(uuid.uuid4()), owner, calendar_id, texts, expires_at)
        self.open[subscription.id] = subscription
        if self.notify_early:
            self._tell(subscription, "notificationUrl", _change(subscription))
            self.deliveries.drain()
        return subscription

    def renew(self, owner: str, id: str, content: Mapping[str, object]) -> Subscription:
        if set(content) != {"expirationDateTime"}:
            raise Invalid("Only expirationDateTime can be changed.")
        subscription = self._owned(owner, id)
        subscription.expires_at = _end(str(content["expirationDateTime"]))
        self.renewals.append(id)
        return subscription

    def end(self, owner: str, id: str) -> None:
        self._owned(owner, id)
        self.ended.append(id)
        del self.open[id]

    def changed(self, calendar_id: str) -> None:
        """Something in this calendar has changed: tell everybody who subscribed to it."""
        for subscription in list(self.open.values()):
            if subscription.calendar_id == calendar_id and subscription.expires_at > datetime.now(UTC):
                self._tell(subscription, "notificationUrl", _change(subscription))

    def lifecycle(self, id: str, event: str) -> None:
        """Tell what becomes of a subscription; one that is removed is not there any more."""
        subscription = self.open[id]
        if event == "subscriptionRemoved":
            del self.open[id]
        self._tell(subscription, "lifecycleNotificationUrl", {"lifecycleEvent": event})

    def _owned(self, owner: str, id: str) -> Subscription:
        subscription = self.open.get(id)
        if subscription is None or subscription.owner != owner:
            raise LookupError(id)
        return subscription

    def _ask(self, address: str) -> None:
        token = f"Validation: Testing client application + reachability/{secrets.token_urlsafe(20)}"
        url = f"{address}?validationToken={quote(token, safe='')}"
        try:
            answer = send(Post(url, {"Content-Type": "text/plain; charset=utf-8"}, b""))
        except OSError as error:
            raise Invalid("Subscription validation request failed. Notification endpoint must respond.") from error
        self.handshakes.append(answer)
        if answer.status != 200 or answer.body.decode() != token or not answer.content_type.startswith("text/plain"):
            raise Invalid("Subscription validation request failed. Must respond with 200 OK to this request.")

    def _tell(self, subscription: Subscription, where: str, told_more: Mapping[str, object]) -> None:
        item = {
            "subscriptionId": subscription.id,
            "subscriptionExpirationDateTime": told(subscription.expires_at),
            "tenantId": "84bd8158-6d4d-4958-8b9f-9d6445542f95",
            **({"clientState": subscription.content["clientState"]} if "clientState" in subscription.content else {}),
            **told_more,
        }
        headers = {"Content-Type": "application/json; charset=utf-8"}
        address = subscription.content.get(where)
        if address:
            self.deliveries.post(Post(address, headers, json.dumps({"value": [item]}).encode()))


def told(moment: datetime) -> str:
    """As Graph writes moments: seven decimals."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


def _end(text: str) -> datetime:
    try:
        end = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid("expirationDateTime is no moment.") from error
    if end.tzinfo is None or not datetime.now(UTC) < end <= datetime.now(UTC) + LIFE_MOST:
        raise Invalid("Subscription expiration can only be 10080 minutes in the future.")
    return end


def _change(subscription: Subscription) -> dict[str, object]:
    event_id = secrets.token_urlsafe(60)
    resource = f"Users/{subscription.owner}/Events/{event_id}"
    return {
        "changeType": "updated",
        "resource": resource,
        "resourceData": {"@odata.type": "#Microsoft.Graph.Event", "@odata.id": resource, "id": event_id},
    }
