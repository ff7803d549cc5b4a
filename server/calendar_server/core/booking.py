"""How a booking stands in one calendar: the state machine as a table, the identity of its event, when to try again."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from enum import Enum, auto

from calendar_server.core.model import Booking, EventState


class Happening(Enum):
    """What can happen to a booking's event in one calendar."""

    WANTED = auto()
    """A new revision wants it there."""
    UNWANTED = auto()
    """A new revision wants it away: cancelled, or its connection dropped."""
    REPEATED = auto()
    """The same revision was sent again."""
    PUSHED = auto()
    """The calendar shows the wanted revision."""
    TAKEN_OUT = auto()
    """The calendar no longer has it, as wanted."""
    REFUSED = auto()
    """The provider refused in a way that trying again cannot mend."""
    DEFERRED = auto()
    """It did not work this time."""
    DELETED = auto()
    """Its owner deleted it."""
    DISCONNECTED = auto()
    """Its connection was disconnected."""


_S, _H = EventState, Happening

MOVES: dict[tuple[EventState, Happening], EventState] = {
    (_S.PENDING, _H.WANTED): _S.PENDING,
    (_S.SYNCED, _H.WANTED): _S.PENDING,
    (_S.FAILED, _H.WANTED): _S.PENDING,
    (_S.REMOVED, _H.WANTED): _S.PENDING,
    (_S.GONE, _H.WANTED): _S.PENDING,
    (_S.DETACHED, _H.WANTED): _S.PENDING,  # its account was connected again
    (_S.PENDING, _H.UNWANTED): _S.PENDING,
    (_S.SYNCED, _H.UNWANTED): _S.PENDING,
    (_S.FAILED, _H.UNWANTED): _S.PENDING,
    (_S.GONE, _H.UNWANTED): _S.PENDING,
    (_S.REMOVED, _H.UNWANTED): _S.REMOVED,
    (_S.DETACHED, _H.UNWANTED): _S.PENDING,  # its account was connected again
    (_S.FAILED, _H.REPEATED): _S.PENDING,
    (_S.PENDING, _H.PUSHED): _S.SYNCED,
    (_S.PENDING, _H.TAKEN_OUT): _S.REMOVED,
    (_S.PENDING, _H.REFUSED): _S.FAILED,
    (_S.PENDING, _H.DEFERRED): _S.PENDING,
    (_S.SYNCED, _H.DELETED): _S.GONE,
    (_S.PENDING, _H.DISCONNECTED): _S.DETACHED,
    (_S.SYNCED, _H.DISCONNECTED): _S.DETACHED,
    (_S.FAILED, _H.DISCONNECTED): _S.DETACHED,
    (_S.GONE, _H.DISCONNECTED): _S.DETACHED,
    (_S.REMOVED, _H.DISCONNECTED): _S.REMOVED,
}
"""Legal moves. ``REPEATED`` leaves every state but FAILED as it is."""


def moved(state: EventState, happening: Happening) -> EventState:
    """The state after ``happening``. Raises ``ValueError`` for a move that must not happen."""
    if happening is Happening.REPEATED:
        return MOVES.get((state, happening), state)
    try:
        return MOVES[state, happening]
    except KeyError:
        raise ValueError(f"{happening.name} cannot happen to an event that is {state}") from None


def event_uid(
    organization_id: str, provider: str, subject: str, calendar_id: str, booking_id: str, generation: int
) -> str:
    """Our identity of an event: 52 characters ``a-v0-9``, the same whoever derives it.

    The alphabet is base32hex, which Google demands of own event ids
    (https://developers.google.com/calendar/api/v3/reference/events/insert) and every server takes as a UID. A generation
    of its own makes the event again where the old id is spent: a tombstone, a trash bin, a UID held by another calendar.
    """
    digest = hashlib.sha256()
    for part in (organization_id, provider, subject, calendar_id, booking_id, str(generation)):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return base64.b32hexencode(digest.digest()).decode().rstrip("=").lower()


def merged_cancellation(sent: Booking, before: Booking | None) -> Booking:
    """A cancellation with what it left empty kept from ``before``."""
    if before is None:
        return sent
    kept = {
        field.name: getattr(before, field.name)
        for field in dataclasses.fields(Booking)
        if field.name not in ("id", "revision", "status") and not getattr(sent, field.name)
    }
    return dataclasses.replace(sent, **kept)


FIRST_RETRY_S = 2.0
LAST_RETRY_S = 900.0


def retry_after_s(attempts: int, retry_after_s: float | None, jitter: float) -> float:
    """Seconds until the next attempt after ``attempts`` failed ones.

    Doubles from 2 s to 15 min, spread over half to one and a half of it by ``jitter`` (0..1), and is never sooner than
    the provider asked (``Retry-After``, capped at one hour).
    """
    backoff = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempts - 1, 20))
    return max(backoff * (0.5 + jitter), min(retry_after_s or 0.0, 3600.0))
