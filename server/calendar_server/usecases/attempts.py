"""How often wrong credentials were tried lately: nobody may guess passwords through us, or lock accounts for others.

Counted in the memory of this process, per organization, server and user name. With several processes each has a count of
its own.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from calendar_server.core.model import OrganizationId, Preset
from calendar_server.errors import LimitExceeded, ProviderRefused
from calendar_server.providers.addresses import parse_url
from calendar_server.providers.base import Deadline

REFUSALS_MOST = 10
"""Refused log-ins within ``PERIOD_S``. Then no more are tried until the first of them is older."""
PERIOD_S = 600.0
ACCOUNTS_MOST = 10_000

Key = tuple[OrganizationId, str, str]
"""Organization, server, user name."""


@dataclass(slots=True)
class _Count:
    refused_at: deque[float] = field(default_factory=deque)
    under_way: int = 0


class Attempts:
    """Counts the tries to connect accounts by password. ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._changed = threading.Condition()
        self._counts: OrderedDict[Key, _Count] = OrderedDict()

    @contextmanager
    def counted(self, key: Key, deadline: Deadline) -> Iterator[None]:
        """Around one try. Raises ``LimitExceeded`` instead when there were too many.

        Tries under way count as if they were refused: further ones wait until it is known, so that many at once are no
        way around. A try that is accepted clears the count: whoever knows the password need not guess.
        """
        count = self._begin(key, deadline)
        refused = accepted = False
        try:
            yield
            accepted = True
        except ProviderRefused as error:
            refused = error.cause == "credentials"
            raise
        finally:
            with self._changed:
                count.under_way -= 1
                if refused:
                    count.refused_at.append(self._clock())
                if accepted:
                    count.refused_at.clear()
                self._changed.notify_all()

    def _begin(self, key: Key, deadline: Deadline) -> _Count:
        with self._changed:
            while True:
                count = self._count(key)
                if len(count.refused_at) >= REFUSALS_MOST:
                    raise LimitExceeded(
                        "This account's server has refused too many passwords. Wait, and check user name and password.",
                        retry_after_s=max(1.0, count.refused_at[0] + PERIOD_S - self._clock()),
                    )
                if len(count.refused_at) + count.under_way < REFUSALS_MOST:
                    count.under_way += 1
                    return count
                deadline.check()
                self._changed.wait(deadline.remaining())

    def _count(self, key: Key) -> _Count:
        """The count for this key, without what is too old. Forgets the oldest others when there are too many."""
        count = self._counts.setdefault(key, _Count())
        self._counts.move_to_end(key)
        while count.refused_at and count.refused_at[0] <= self._clock() - PERIOD_S:
            count.refused_at.popleft()
        while len(self._counts) > ACCOUNTS_MOST:
            self._counts.popitem(last=False)
        return count


def attempt_key(organization_id: OrganizationId, preset: Preset, server_url: str, username: str) -> Key:
    """What tries with these are counted under. The spelling of host and user name does not matter."""
    try:
        parts = parse_url(server_url)
        server = f"{parts.host}:{parts.port}"
    except ValueError:
        server = preset.value  # the preset's own, or nothing that could be dialled
    return organization_id, server, username.strip().casefold()
