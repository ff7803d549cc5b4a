"""What servers said of log-ins a moment ago, shared by all conversations of this process.

Providers lock accounts after a few refused log-ins. One call may read several calendars of an account at once, and pushes
run beside it: each would try a password that is no longer good for itself. So of several conversations with one account
the first goes alone, and the others as soon as it was answered by anything else than a refusal. After a refusal whoever
got it tries once more, alone. If that is refused too, nobody tries this password again for a while, in which the
connection is marked as needing its owner.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline

ACCEPTED_S = 10.0
"""Seconds for which an answer that was no refusal lets everybody through at once."""
DEAD_S = 60.0
"""Seconds for which a password that was refused for good is not tried: until the connection is surely marked."""
STANDINGS_MOST = 10_000


class Standing:
    """How one password of one account stands."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._turn = threading.Lock()
        self._open_until = 0.0
        self._dead_until = 0.0

    @property
    def dead(self) -> bool:
        """Whether it was refused for good a short while ago."""
        return self._clock() < self._dead_until

    def answered(self) -> None:
        """The server let us in, or has other troubles than the password."""
        self._open_until = self._clock() + ACCEPTED_S

    def refused(self) -> None:
        """The server refused it, perhaps by mistake."""
        self._open_until = 0.0

    def bury(self) -> None:
        """The server refused it again."""
        self._open_until, self._dead_until = 0.0, self._clock() + DEAD_S

    @contextmanager
    def turn(self) -> Iterator[Callable[[Deadline], None]]:
        """Around the tries for one request. What it gives is called before each: it waits until we may go.

        That raises ``ProviderUnavailable`` when the deadline passes first.
        """
        alone = False

        def wait(deadline: Deadline) -> None:
            nonlocal alone
            if alone or self._clock() < self._open_until:
                return
            if not self._turn.acquire(timeout=deadline.remaining()):
                raise ProviderUnavailable("The provider took too long to answer.")
            if self._clock() < self._open_until:
                self._turn.release()  # whoever went before us was let in
            else:
                alone = True

        try:
            yield wait
        finally:
            if alone:
                self._turn.release()


class Logins:
    """The standing of every password that was in use lately, at most ``STANDINGS_MOST``. Holds no password."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._salt = secrets.token_bytes(16)
        self._standings: OrderedDict[bytes, Standing] = OrderedDict()

    def of(self, server: str, username: str, password: str, generation: int) -> Standing:
        """The standing of this password of this account at this server (its origin).

        ``generation`` grows when the account is connected again: the same password may then be good after all.
        """
        told = "\0".join((server, username, password, str(generation))).encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(told, key=self._salt, digest_size=16).digest()
        with self._lock:
            standing = self._standings.get(key)
            if standing is None:
                standing = self._standings[key] = Standing(self._clock)
            self._standings.move_to_end(key)
            while len(self._standings) > STANDINGS_MOST:
                self._standings.popitem(last=False)
            return standing
