"""Where a URL leads, and whether we may go there. Names are looked up here, and every address is judged.

A name's addresses are judged together: one that is forbidden forbids the name, so that a mixed answer cannot be played
against the order of dialling. Only addresses from the very look-up that was judged are dialled.

What a stranger can learn: a forbidden destination is refused before anything is dialled, in one constant text, after
no more than the look-up of its name. A name that does not resolve is told apart from a forbidden one
(``ProviderUnavailable``), so the names, not the hosts and ports, that the operator's resolver knows could be guessed:
use a resolver without inner zones where those are secret.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from calendar_server.errors import ForbiddenDestination, ProviderUnavailable
from calendar_server.providers.addresses import Address, AllowList, UrlParts, is_public, parse_address
from calendar_server.providers.base import Deadline

Resolver = Callable[[str, int], list[str]]
"""Answers the addresses of a host name, in the order to try. Raises ``OSError`` when there are none."""

LOOKUPS_MAX = 256
ADDRESSES_MAX = 64

# RFC 6761 §6.3: these names are the own machine, whatever a resolver says.
_LOOPBACK = ("127.0.0.1", "::1")


def system_resolver(host: str, port: int) -> list[str]:
    """The addresses that the operating system knows for the name, without doubles."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    internet = (socket.AF_INET, socket.AF_INET6)
    return list(dict.fromkeys(str(address[0]) for family, _, _, _, address in found if family in internet))


@dataclass(slots=True)
class _Lookup:
    """One look-up on its way. ``failed`` without addresses: the name does not resolve."""

    finished: threading.Event
    found: list[str]


class Gate:
    """Judges destinations by the allow-list. Shared by all threads."""

    def __init__(self, allow: AllowList, resolver: Resolver, lookups_max: int = LOOKUPS_MAX):
        self._allow = allow
        self._resolver = resolver
        self._places = threading.BoundedSemaphore(lookups_max)

    def addresses(self, parts: UrlParts, deadline: Deadline, *, trusted: bool = False) -> list[Address]:
        """The addresses to dial, in order. ``trusted`` skips the verdict.

        Raises ``ForbiddenDestination``, and ``ProviderUnavailable`` when the name does not resolve in time.
        """
        if trusted:
            return [address for address in self._resolve(parts, deadline) if address is not None]
        if parts.scheme == "http" and not self._may_be_listed(parts):
            raise ForbiddenDestination
        verdicts = self._verdicts(parts, deadline)
        if _is_localhost(parts.host):
            # Both loopback addresses are tried on our own account: an allow-list with one of them is enough.
            verdicts = [(address, allowed) for address, allowed in verdicts if allowed]
        if not verdicts or not all(allowed for _, allowed in verdicts):
            raise ForbiddenDestination
        return [address for address, _ in verdicts if address is not None]

    def lists(self, parts: UrlParts, deadline: Deadline) -> bool:
        """Whether the destination is on the allow-list, by its name or by all of its addresses."""
        if not self._may_be_listed(parts):
            return False
        if self._allow.has_host(parts.host, parts.port):
            return True
        try:
            addresses = self._resolve(parts, deadline)
        except ProviderUnavailable:
            return False
        listed = [address is not None and self._allow.has_address(address, parts.port) for address in addresses]
        return any(listed) if _is_localhost(parts.host) else all(listed)

    def _may_be_listed(self, parts: UrlParts) -> bool:
        return self._allow.has_networks or self._allow.has_host(parts.host, parts.port)

    def _verdicts(self, parts: UrlParts, deadline: Deadline) -> list[tuple[Address | None, bool]]:
        named = self._allow.has_host(parts.host, parts.port)
        secure = parts.scheme == "https"
        return [
            (
                address,
                address is not None
                and (named or self._allow.has_address(address, parts.port) or (secure and is_public(address))),
            )
            for address in self._resolve(parts, deadline)
        ]

    def _resolve(self, parts: UrlParts, deadline: Deadline) -> list[Address | None]:
        """All addresses of the host, at least one. None: the resolver named something that cannot be dialled."""
        try:
            return [parse_address(parts.host)]
        except ValueError:
            pass
        texts = list(_LOOPBACK) if _is_localhost(parts.host) else self._look_up(parts.host, parts.port, deadline)
        addresses: list[Address | None] = []
        for text in texts:
            try:
                addresses.append(parse_address(text))
            except ValueError:
                addresses.append(None)
        return addresses

    def _look_up(self, host: str, port: int, deadline: Deadline) -> list[str]:
        """Ask the resolver in a thread of its own: the C library's look-up cannot be given a time."""
        deadline.check()
        if not self._places.acquire(blocking=False):
            raise ProviderUnavailable("Too many names are being looked up at the moment.")
        lookup = _Lookup(threading.Event(), [])

        def ask() -> None:
            try:
                lookup.found = self._resolver(host, port)
            except (OSError, UnicodeError):
                lookup.found = []
            finally:
                self._places.release()
                lookup.finished.set()

        # A daemon: an unanswered look-up must not keep the process from ending.
        threading.Thread(target=ask, name="lookup", daemon=True).start()
        if not lookup.finished.wait(deadline.remaining()):
            raise ProviderUnavailable("The server's name could not be looked up in time.")
        if not lookup.found:
            raise ProviderUnavailable("The server's name is not known. Check it, or try again later.")
        if len(lookup.found) > ADDRESSES_MAX:
            raise ForbiddenDestination
        return lookup.found


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")
