"""The Python client of the calendar service.

``client.py`` has the calls, ``requests.py`` makes their messages, ``watching.py`` follows a stream of answers,
``errors.py`` is what calls may end in, ``words.py`` turns enum values into words and back. These need grpcio, protobuf
and googleapis-common-protos only. ``cli*.py`` is ``calendarctl``, which needs click and rich as well.
"""

from __future__ import annotations

from calendar_client.channel import DEFAULT_ADDRESS, TlsOptions
from calendar_client.client import CalendarClient
from calendar_client.errors import (
    AccountMismatch,
    AdminConsentRequired,
    CalendarGone,
    CalendarReadOnly,
    CalendarServiceError,
    Conflict,
    DeadlineExceeded,
    EventUnreadable,
    InternalError,
    LimitExceeded,
    NeedsReauth,
    NoConnections,
    NotConfigured,
    NotFound,
    ProviderError,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
    ScopeMissing,
    ServiceStopping,
    ServiceUnreachable,
    SlotTaken,
    StoreUnavailable,
    TransportError,
    Unauthorized,
    Unimplemented,
    ValidationError,
    Violation,
)

__all__ = [
    "DEFAULT_ADDRESS",
    "AccountMismatch",
    "AdminConsentRequired",
    "CalendarClient",
    "CalendarGone",
    "CalendarReadOnly",
    "CalendarServiceError",
    "Conflict",
    "DeadlineExceeded",
    "EventUnreadable",
    "InternalError",
    "LimitExceeded",
    "NeedsReauth",
    "NoConnections",
    "NotConfigured",
    "NotFound",
    "ProviderError",
    "ProviderRefused",
    "ProviderThrottled",
    "ProviderUnavailable",
    "ScopeMissing",
    "ServiceStopping",
    "ServiceUnreachable",
    "SlotTaken",
    "StoreUnavailable",
    "TlsOptions",
    "TransportError",
    "Unauthorized",
    "Unimplemented",
    "ValidationError",
    "Violation",
]
