"""What all conversations with providers hold of answers together.

An answer has a bound of its own, and so has the number of conversations; their product is more memory than a process should
take. So each conversation has a share: ``FREE_BYTES`` of answers cost nothing, whatever comes beyond them has to fit into
what all may hold together, until the conversation has ended. Who does not fit waits in line, and the server with it.

Nobody waits for ever for those who wait themselves: the first in line may go on beyond the bound, one after the other, and
each for ``BEYOND_S`` before the next may as well. So the bound is exceeded by little more than one conversation.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline

FREE_BYTES = 256_000
STEP_BYTES = 256_000
BEYOND_S = 5.0


class Share:
    """What one conversation holds. For one thread."""

    def __init__(self, shares: Shares):
        self._shares = shares
        self._received = 0
        self.taken = 0
        self.beyond = False

    def add(self, count: int, deadline: Deadline) -> None:
        """So many bytes more. Raises ``ProviderUnavailable`` when there is no place for them until the deadline."""
        self._received += count
        while self._received > FREE_BYTES + self.taken:
            self._shares.take(self, deadline)


_current: ContextVar[Share | None] = ContextVar("share", default=None)


class Shares:
    """The bytes, beyond what is free, that conversations may hold together."""

    def __init__(self, bytes_most: int, beyond_s: float = BEYOND_S):
        self._most = bytes_most
        self._beyond_s = beyond_s
        self._taken = 0
        self._changed = threading.Condition()
        self._line: deque[Share] = deque()
        self._beyond: Share | None = None
        self._beyond_since = 0.0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The share of the conversation that this thread is in, or one for what happens inside."""
        current = _current.get()
        if current is not None:
            yield current
            return
        share = Share(self)
        token = _current.set(share)
        try:
            yield share
        finally:
            _current.reset(token)
            self._end(share)

    def take(self, share: Share, deadline: Deadline) -> None:
        """``STEP_BYTES`` more for this share, as soon as they fit and it is first in line."""
        with self._changed:
            self._line.append(share)
            try:
                while not self._may(share):
                    left_s = deadline.remaining()
                    if left_s <= 0:
                        raise too_many_large()
                    self._changed.wait(min(left_s, self._beyond_s / 5))
            finally:
                self._line.remove(share)
                self._changed.notify_all()
            share.taken += STEP_BYTES
            self._taken += STEP_BYTES

    def _may(self, share: Share) -> bool:
        if share.beyond:
            return True
        if self._line[0] is not share:
            return False
        if self._taken + STEP_BYTES <= self._most:
            return True
        now = time.monotonic()
        if self._beyond is not None and now - self._beyond_since < self._beyond_s:
            return False
        self._beyond, self._beyond_since, share.beyond = share, now, True
        return True

    def _end(self, share: Share) -> None:
        if not share.taken:
            return
        with self._changed:
            self._taken -= share.taken
            if self._beyond is share:
                self._beyond = None
            self._changed.notify_all()


def too_many_large() -> ProviderUnavailable:
    """There is no place for a large answer, and was none for as long as it could wait."""
    return ProviderUnavailable("Too many large calendars are being read at the moment.")
