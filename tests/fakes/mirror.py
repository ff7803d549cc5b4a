"""What a caller of ``refresh_calendar`` keeps between refreshes, and what it knows by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from calendar_server.core.model import BusyEvent, CalendarId, CalendarRead, Interval, UnreadableEvent
from calendar_server.core.packing import opened
from calendar_server.providers.base import MEMORY_BYTES, Deadline, Link, Provider, Remembered


class Mirror:
    """One calendar in one window, as it was last read, with the provider's memory of that."""

    def __init__(self, provider: Provider, link: Link, calendar_id: CalendarId, window: Interval):
        self.provider = provider
        self.link = link
        self.calendar_id = calendar_id
        self.window = window
        self.remembered: Remembered | None = None

    def refresh(self, deadline: Deadline | None = None) -> bool:
        """Bring it up to date. Whether the calendar was read again; nothing is kept of a refresh that fails."""
        within = deadline or Deadline.after(20)
        refreshed = self.provider.refresh_calendar(self.link, self.calendar_id, self.window, self.remembered, within)
        assert len(refreshed.memory) <= MEMORY_BYTES
        if refreshed.read is None:
            assert self.remembered is not None, "nothing is remembered that could still hold"
            assert refreshed.event_ids is not None or not self.remembered.full, "not everything was read"
            self.remembered = replace(self.remembered, memory=refreshed.memory, full=False)
            return False
        self.remembered = Remembered(self.window, replace(opened(refreshed.read), event_ids=None), refreshed.memory)
        return True

    def forget(self) -> None:
        """The next refresh is to read everything, whatever the feed says."""
        if self.remembered is not None:
            self.remembered = replace(self.remembered, full=True)

    @property
    def memory(self) -> bytes:
        assert self.remembered is not None
        return self.remembered.memory

    @memory.setter
    def memory(self, memory: bytes) -> None:
        assert self.remembered is not None
        self.remembered = replace(self.remembered, memory=memory)

    @property
    def known(self) -> Counter[BusyEvent | UnreadableEvent]:
        """What is remembered to be there."""
        assert self.remembered is not None
        return found_in(self.remembered.read)

    @property
    def true(self) -> Counter[BusyEvent | UnreadableEvent]:
        """What is there, by a read of everything."""
        return found_in(self.provider.read_calendar(self.link, self.calendar_id, self.window, Deadline.after(20)))


def found_in(read: CalendarRead) -> Counter[BusyEvent | UnreadableEvent]:
    """Everything that a read found, in whatever order."""
    return Counter([*read.events, *read.unreadable])
