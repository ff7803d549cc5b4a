"""A gate in front of every host: one in outage, or one that hangs, must not delay the others.

Vocabulary
    host     what fails as one: a CalDAV server, or all of Google, or all of Microsoft
    key      who calls: a connection
    call     one conversation through the gate
    slow     a call that has run for longer than ``slow_s``
    closed   after ``failures`` failures in a row: nobody is let through until a pause is over, then one call, the probe.
             It opens the gate, or closes it for twice as long.

A host may have ``slow_most`` slow calls. Calls that end quickly are never counted, so that a healthy host which all
connections share is not throttled.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from calendar_server.core.model import Connection, ConnectionId, ProviderName
from calendar_server.errors import ForbiddenDestination, ProviderError, ProviderThrottled, ProviderUnavailable

HOSTS_MOST = 10_000
"""Hosts remembered. Beyond it, those that nobody talks to are forgotten, longest unused first."""
KEYS_MOST = 5_000
"""Connections of a closed host that are remembered, to be told when it opens."""
CROWDED_S = 1.0
"""Seconds after which to come again when a host has as many slow calls as it may."""


class HostClosed(ProviderUnavailable):
    """The gate is closed: nothing was asked of the host. ``retry_after_s`` says when to come again."""

    def __init__(self, retry_after_s: float):
        super().__init__(
            "The provider has not been answering. It is tried again shortly.", retry_after_s=max(0.1, retry_after_s)
        )


@dataclass(slots=True, eq=False)
class _Call:
    key: ConnectionId
    began: float


@dataclass(slots=True)
class _Host:
    failures: int = 0
    pause_s: float = 0.0
    closed_until: float = 0.0
    probe: _Call | None = None
    last_failed: ConnectionId | None = None
    others_asked: bool = False
    """Whether somebody else than who failed last would like to be the probe."""
    waiting: set[ConnectionId] = field(default_factory=set)
    calls: set[_Call] = field(default_factory=set)


class HostGate:
    """Lets calls through to hosts. Safe to use from any thread; nobody waits in it.

    ``opened`` is told, outside the gate's lock, which connections were kept waiting or failed when a host that was
    closed has answered again.
    """

    def __init__(
        self,
        *,
        slow_most: int,
        slow_s: float = 2.0,
        failures: int = 5,
        first_pause_s: float = 1.0,
        last_pause_s: float = 15.0,
        opened: Callable[[list[ConnectionId]], None] = lambda keys: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._slow_most = slow_most
        self._slow_s = slow_s
        self._failures = failures
        self._first_pause_s = first_pause_s
        self._last_pause_s = last_pause_s
        self._opened = opened
        self._clock = clock
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    @contextmanager
    def call(self, host: str, key: ConnectionId) -> Iterator[None]:
        """Let a conversation with the host through. Raises ``HostClosed`` when it must not begin now.

        What the conversation raises passes through and is learned from: ``ProviderUnavailable`` is a failure of the
        host, any other of the provider's answers shows that it lives, anything else says nothing.
        """
        call = self._enter(host, key)
        lives: bool | None = None
        try:
            yield
            lives = True
        except ProviderError as error:
            lives = _lives(error)
            raise
        finally:
            told = self._leave(host, call, lives)
            if told:
                self._opened(told)

    def wait_s(self, host: str) -> float:
        """Seconds for which nothing should be begun with the host; 0 when it may be tried. Changes nothing."""
        with self._lock:
            state, now = self._hosts.get(host), self._clock()
            return 0.0 if state is None else self._refusal_s(state, now)

    def kept_from(self) -> dict[str, int]:
        """How many hosts nobody is let through to at this moment: ``closed``, or ``crowded`` with slow calls."""
        with self._lock:
            now = self._clock()
            closed = sum(state.failures >= self._failures for state in self._hosts.values())
            crowded = sum(self._slow(state, now) >= self._slow_most for state in self._hosts.values())
            return {"closed": closed, "crowded": crowded}

    def slow(self) -> int:
        """How many calls, to all hosts, are slow at this moment."""
        with self._lock:
            now = self._clock()
            return sum(self._slow(state, now) for state in self._hosts.values())

    def _enter(self, host: str, key: ConnectionId) -> _Call:
        with self._lock:
            now = self._clock()
            state = self._hosts.pop(host, None) or _Host()
            # At the end: the order is that of last use.
            self._hosts[host] = state
            self._forget()
            refusal_s = self._refusal_s(state, now)
            closed = state.failures >= self._failures
            if not refusal_s and closed and key == state.last_failed and state.others_asked:
                # One broken account must not be the only one that ever asks.
                state.others_asked = False
                refusal_s = self._first_pause_s
            if refusal_s:
                if closed:
                    state.others_asked = state.others_asked or key != state.last_failed
                    _remember(state, key)
                raise HostClosed(refusal_s)
            call = _Call(key, now)
            state.calls.add(call)
            if closed:
                state.probe = call
            return call

    def _refusal_s(self, state: _Host, now: float) -> float:
        if state.failures >= self._failures:
            if state.probe is not None:
                return state.pause_s * (0.5 + random.random())  # noqa: S311 — spreads those who come again
            return max(0.0, state.closed_until - now)
        return CROWDED_S if self._slow(state, now) >= self._slow_most else 0.0

    def _slow(self, state: _Host, now: float) -> int:
        return sum(now - call.began > self._slow_s for call in state.calls)

    def _leave(self, host: str, call: _Call, lives: bool | None) -> list[ConnectionId]:
        with self._lock:
            state = self._hosts[host]
            state.calls.discard(call)
            probed = state.probe is call
            if probed:
                state.probe = None
            if lives:
                told = sorted(state.waiting) if state.failures >= self._failures else []
                state.failures, state.pause_s, state.waiting = 0, 0.0, set()
                state.last_failed, state.others_asked = None, False
                if not state.calls:
                    del self._hosts[host]
                return told
            if lives is None:
                return []
            _remember(state, call.key)
            if probed or state.failures < self._failures:
                state.failures += 1
                if state.failures >= self._failures:
                    state.pause_s = min(self._last_pause_s, state.pause_s * 2 or self._first_pause_s)
                    state.closed_until = self._clock() + state.pause_s
                    state.last_failed, state.others_asked = call.key, False
            return []

    def _forget(self) -> None:
        if len(self._hosts) > HOSTS_MOST:
            idle = next((name for name, state in self._hosts.items() if not state.calls), None)
            if idle is not None:
                del self._hosts[idle]


def host_of(connection: Connection) -> str:
    """What a connection fails together with: its CalDAV server, or its provider."""
    if connection.provider is ProviderName.CALDAV:
        return urlsplit(connection.settings.get("base", "")).netloc or str(connection.provider)
    return str(connection.provider)


def _lives(error: ProviderError) -> bool | None:
    if isinstance(error, (ForbiddenDestination, ProviderThrottled)):
        return None
    return not isinstance(error, ProviderUnavailable)


def _remember(state: _Host, key: ConnectionId) -> None:
    if len(state.waiting) < KEYS_MOST:
        state.waiting.add(key)
