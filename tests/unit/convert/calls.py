"""What the tests of reading requests and telling answers need."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from calendar_server.core.model import Instant
from calendar_server.errors import ValidationError
from calendars.v1 import calendar_service_pb2 as pb

NOW_AT = datetime(2026, 11, 25, 12, tzinfo=UTC)


def instant(moment: datetime) -> Instant:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


NOW = instant(NOW_AT)


def wrong(read: Callable[[], object]) -> set[str]:
    """The paths of the fields that are wrong; empty when none is."""
    try:
        read()
    except ValidationError as error:
        fields = [violation.field for violation in error.violations]
        return set(fields)
    return set()


CONTROL = [chr(n) for n in (0, 1, 9, 10, 13, 27, 31, 127, 128, 133, 159)]
START = datetime(2026, 12, 1, 9, tzinfo=UTC)


def sync(**fields: object) -> pb.SyncBookingRequest:
    booking = {
        "id": "b1",
        "revision": 1,
        "status": "BOOKING_STATUS_CONFIRMED",
        "start_time": START,
        "end_time": START + timedelta(hours=1),
    }
    return pb.SyncBookingRequest(booking={**booking, **fields})
