"""How a booking reads to a person, the same in every kind of calendar. Guests are text: nobody is invited."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from calendar_server.core.model import SECOND, Booking

UNTITLED = "Busy"
"""The title of an event whose booking has none."""

# Not strftime: its names follow the locale of the process.
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def event_title(booking: Booking) -> str:
    """The title of the event; never empty."""
    return booking.title.strip() or UNTITLED


def event_text(booking: Booking) -> str:
    """The event's description as plain text: the booking's own, when it is, who comes, and where to read more."""
    parts = [booking.description.strip(), f"When: {when(booking)}"]
    if booking.attendees:
        guests = (f"{guest.name} <{guest.email}>" if guest.name else guest.email for guest in booking.attendees)
        parts.append("\n".join(("Guests:", *(f"- {guest}" for guest in guests))))
    parts.append(booking.url.strip())
    return "\n\n".join(part for part in parts if part)


def when(booking: Booking) -> str:
    """The booking's time as a person says it, in the booking's zone: one line."""
    zone, name = _zone(booking.time_zone)
    start = datetime.fromtimestamp(booking.start // SECOND, zone)
    end = datetime.fromtimestamp(booking.end // SECOND, zone)
    till = f"{end:%H:%M}" if end.date() == start.date() else f"{_day(end)}, {end:%H:%M}"
    return f"{_day(start)}, {start:%H:%M} – {till} ({name})"


def _day(moment: datetime) -> str:
    return f"{_DAYS[moment.weekday()]} {moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def _zone(name: str) -> tuple[tzinfo, str]:
    """The zone of this name, or UTC where this machine does not know it."""
    try:
        return ZoneInfo(name), name
    except (KeyError, ValueError, OSError):
        return UTC, "UTC"
