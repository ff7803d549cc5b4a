"""Where a URL leads, and whether we may go there. Names are looked up here, and every address is judged.

A name's addresses are judged together: one that is forbidden forbids the name, so that a mixed answer cannot be played
against the order of dialling. Only addresses from the very look-up that was judged are dialled.

What a stranger can learn: a forbidden destination is refused before anything is dialled, in one constant text, so
hosts and ports of the inner network cannot be told apart, neither by words nor by time. Names that only an inner network
has (a single label, ``.internal``, ``.lan``, …) are refused without a look-up; others are looked up as absolute names, so
that the search list of a cluster does not make inner ones of them. Where the allow-list has networks, both have to be
looked up as the operator would; an inner name that then does not resolve is forbidden, too. What is left: a name under a
public suffix that does not resolve is told apart (``ProviderUnavailable``) from one that resolves to a forbidden address.
So names of a zone of both kinds, such as ``nas.example.com`` inside of the company, could be guessed: use a resolver
without inner zones where those are secret.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from calendar_server.errors import ForbiddenDestination, ProviderUnavailable
from calendar_server.providers.addresses import (
    Address,
    AllowList,
    UrlParts,
    is_inner_name,
    is_public,
    parse_address,
)
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


def absolute_resolver(host: str, port: int) -> list[str]:
    """As ``system_resolver``, for the name as it is: not one in the machine's own domains, nor in its hosts file."""
    return system_resolver(f"{host}.", port)


class NameUnknown(ProviderUnavailable):
    """The name does not resolve, for now or for good."""

    def __init__(self) -> None:
        super().__init__("The server's name is not known. Check it, or try again later.")


@dataclass(slots=True)
class _Lookup:
    """One look-up on its way. ``failed`` without addresses: the name does not resolve."""

    finished: threading.Event
    found: list[str]


class Gate:
    """Judges destinations by the allow-list. Shared by all threads.

    ``resolver`` looks up what the operator named or may have meant, ``absolute`` (by default the one that goes with it)
    what only a stranger named.
    """

    def __init__(
        self,
        allow: AllowList,
        resolver: Resolver,
        lookups_max: int = LOOKUPS_MAX,
        *,
        absolute: Resolver | None = None,
    ):
        self._allow = allow
        self._resolver = resolver
        self._absolute = absolute or (absolute_resolver if resolver is system_resolver else resolver)
        self._places = threading.BoundedSemaphore(lookups_max)

    def addresses(self, parts: UrlParts, deadline: Deadline, *, trusted: bool = False) -> list[Address]:
        """The addresses to dial, in order. ``trusted`` skips the verdict.

        Raises ``ForbiddenDestination``, and ``ProviderUnavailable`` when the name does not resolve in time.
        """
        if trusted:
            return [address for address in self._resolve(parts, deadline, absolute=False) if address is not None]
        listable = self._may_be_listed(parts)
        secret = is_inner_name(parts.host) and not self._allow.has_host(parts.host, parts.port)
        if (parts.scheme == "http" or secret) and not listable:
            raise ForbiddenDestination
        try:
            verdicts = self._verdicts(parts, self._resolve(parts, deadline, absolute=not listable))
        except NameUnknown:
            if secret:
                raise ForbiddenDestination from None
            raise
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
            addresses = self._resolve(parts, deadline, absolute=False)
        except ProviderUnavailable:
            return False
        listed = [address is not None and self._allow.has_address(address, parts.port) for address in addresses]
        return any(listed) if _is_localhost(parts.host) else all(listed)

    def _may_be_listed(self, parts: UrlParts) -> bool:
        return self._allow.has_networks or self._allow.has_host(parts.host, parts.port)

    def _verdicts(self, parts: UrlParts, addresses: list[Address | None]) -> list[tuple[Address | None, bool]]:
        named = self._allow.has_host(parts.host, parts.port)
        secure = parts.scheme == "https"
        return [
            (
                address,
                address is not None
                and (named or self._allow.has_address(address, parts.port) or (secure and is_public(address))),
            )
            for address in addresses
        ]

    def _resolve(self, parts: UrlParts, deadline: Deadline, *, absolute: bool) -> list[Address | None]:
        """All addresses of the host, at least one. None: the resolver named something that cannot be dialled.

        ``absolute``: the name as it is, not one in the machine's own domains, nor one in its hosts file.
        """
        try:
            return [parse_address(parts.host)]
        except ValueError:
            pass
        texts = list(_LOOPBACK) if _is_localhost(parts.host) else self._look_up(parts, deadline, absolute)
        addresses: list[Address | None] = []
        for text in texts:
            try:
                addresses.append(parse_address(text))
            except ValueError:
                addresses.append(None)
        return addresses

    def _look_up(self, parts: UrlParts, deadline: Deadline, absolute: bool) -> list[str]:
        """Ask the resolver in a thread of its own: the C library's look-up cannot be given a time."""
        deadline.check()
        host, port = parts.host, parts.port
        resolver = self._absolute if absolute else self._resolver
        if not self._places.acquire(blocking=False):
            raise ProviderUnavailable("Too many names are being looked up at the moment.")
        lookup = _Lookup(threading.Event(), [])

        def ask() -> None:
            try:
                lookup.found = resolver(host, port)
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
            raise NameUnknown
        if len(lookup.found) > ADDRESSES_MAX:
            raise ForbiddenDestination
        return lookup.found


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")
