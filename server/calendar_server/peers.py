"""Who is at the other end of a line, and how much of something each may do: a bucket per peer, in bounded memory."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

PEERS_MOST = 10_000
"""Peers that are remembered. Whoever did nothing for the longest is forgotten first."""


class Buckets:
    """For each peer: ``burst`` at once, then ``per_minute``.

    ``spend`` counts one and answers the seconds until there is room for it: 0 within the limit. What is over the limit is
    counted as well, up to ``debt_s`` seconds, so that who goes on waits longer; ``take`` counts only what there is room for.
    """

    def __init__(
        self,
        *,
        burst: int,
        per_minute: float,
        debt_s: float = 0.0,
        peers_most: int = PEERS_MOST,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._each_s = 60.0 / per_minute
        # A peer's bucket is one number: the moment when it is empty of what was spent.
        self._room_s = (burst - 1) * self._each_s
        self._debt_s = debt_s
        self._peers_most = peers_most
        self._clock = clock
        self._empty_at: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._empty_at)

    def spend(self, peer: str) -> float:
        """Count one of this peer. Answers the seconds that it is too early: at most ``debt_s``."""
        with self._lock:
            now = self._clock()
            empty_at = max(self._empty_at.pop(peer, now), now)
            early_s = min(max(0.0, empty_at - now - self._room_s), self._debt_s)
            self._keep(peer, min(empty_at + self._each_s, now + self._room_s + self._debt_s + self._each_s))
        return early_s

    def take(self, peer: str) -> float:
        """Count one of this peer if there is room: then 0. Else the seconds after which there will be."""
        with self._lock:
            now = self._clock()
            empty_at = max(self._empty_at.pop(peer, now), now)
            early_s = max(0.0, empty_at - now - self._room_s)
            self._keep(peer, empty_at if early_s else empty_at + self._each_s)
        return early_s

    def _keep(self, peer: str, empty_at: float) -> None:
        self._empty_at[peer] = empty_at
        if len(self._empty_at) > self._peers_most:
            self._empty_at.popitem(last=False)


def peer_of(address: str) -> str:
    """The peer behind an IP address: the address; of IPv6 the /64, which one customer has; what is none, as it is."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if ip.version == 4:
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def grpc_peer(peer: str) -> str:
    """The peer of gRPC's own spelling: ``ipv4:192.0.2.1:5000``, ``ipv6:[2001:db8::1]:5000``, percent-encoded or not."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    return peer_of(rest.rpartition(":")[0].strip("[]"))


def client_of(scope: Mapping[str, Any]) -> str:
    """The peer that sent a request, of its ASGI scope."""
    client = scope.get("client")
    return peer_of(client[0]) if client else ""
