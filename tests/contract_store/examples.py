"""Rows that tests begin with, and ways to run things at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from calendar_server.core.model import (
    BookingId,
    BookingStatus,
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    OrganizationId,
    ProviderName,
    SyncStatus,
)
from calendar_server.store.rows import BookingRow, OutboxRow
from calendar_server.store.store import Store

SEALED = "v1|k1|nonce|ciphertext"


def connection(organization_id: OrganizationId, number: int = 1, **changes: Any) -> Connection:
    values: dict[str, Any] = {
        "id": ConnectionId(f"cal_{number:04}"),
        "organization_id": organization_id,
        "owner": "ann",
        "provider": ProviderName.CALDAV,
        "subject": f"https://dav.example.org/principals/{number}",
        "account_email": "ann@example.org",
        "calendar_id": CalendarId("/ann/work/"),
        "busy_calendar_ids": (CalendarId("/ann/work/"), CalendarId('/ann/privé, "x"/')),
        "status": ConnectionStatus.ACTIVE,
        "sync_status": SyncStatus.CONNECTED,
        "sync_error": None,
        "last_sync_at": None,
        "connected_at": 1_000_000 * number,
        "grant_version": 1,
        "settings": {"server_url": "https://dav.example.org/"},
        **changes,
    }
    return Connection(**values)


def booking(organization_id: OrganizationId, booking_id: str = "b1", **changes: Any) -> BookingRow:
    values: dict[str, Any] = {
        "organization_id": organization_id,
        "id": BookingId(booking_id),
        "revision": 1,
        "status": BookingStatus.CONFIRMED,
        "start": 100,
        "end": 200,
        "sealed_content": SEALED,
        "wanted_set": "[]",
        "updated_at": 5,
        **changes,
    }
    return BookingRow(**values)


def outbox_row(of: Connection, booking_id: str = "b1", **changes: Any) -> OutboxRow:
    values: dict[str, Any] = {
        "id": f"row-{of.id}-{booking_id}",
        "organization_id": of.organization_id,
        "booking_id": BookingId(booking_id),
        "connection_id": of.id,
        "calendar_id": of.calendar_id,
        "generation": 1,
        "uid": "uid",
        "event_id": EventId(f"event-{of.id}-{booking_id}"),
        "wanted": "present",
        "wanted_revision": 1,
        "pushed_revision": 0,
        "state": EventState.PENDING,
        "etag": "",
        "web_link": "",
        "attempts": 0,
        "due_at": 1,
        "problem_reason": "",
        "problem_message": "",
        "lease_token": "",
        "lease_until": 0,
        "updated_at": 5,
        "pushed_at": 0,
        **changes,
    }
    return OutboxRow(**values)


def add_connection(store: Store, organization_id: OrganizationId, number: int = 1, **changes: Any) -> Connection:
    added = connection(organization_id, number, **changes)
    store.connections.add(added, SEALED)
    return added


def add_push(store: Store, of: Connection, booking_id: str = "b1", **changes: Any) -> OutboxRow:
    """A booking, if it is not there yet, and its row in the outbox."""
    if store.bookings.get(of.organization_id, BookingId(booking_id)) is None:
        store.bookings.put(booking(of.organization_id, booking_id))
    row = outbox_row(of, booking_id, **changes)
    store.outbox.put(row)
    return row


def at_once(actions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Begin all at the same moment, each in a thread of its own. Answers what they returned or raised."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], Any]) -> Any:
        barrier.wait(30)
        try:
            return action()
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(actions)) as threads:
        return list(threads.map(run, actions))
