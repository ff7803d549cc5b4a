"""When connections are busy."""

from __future__ import annotations

from calendar_server.errors import CalendarError
from calendar_server.usecases.commands import CalendarBusy


class BusyUnknown(CalendarError):
    """Calendars could not be read: unknown is not free.

    ``first`` is the error that decides code, reason and metadata (with ``connectionId`` and ``calendarId``); it is the
    first that needs a person, else the first. ``calendars`` are all that could not be read.
    """

    def __init__(self, first: CalendarError, calendars: tuple[CalendarBusy, ...]):
        super().__init__(first.message, metadata=first.metadata, retry_after_s=first.retry_after_s)
        self.first = first
        self.calendars = calendars
