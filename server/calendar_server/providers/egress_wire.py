"""Sockets that end by a deadline and carry a bounded number of bytes, plain or with TLS.

The time-outs of the usual libraries are for each read: a server that drips a byte a second holds them for ever. Here
one ``Allowance`` spans everything: dialling, the TLS handshake, writing, and every read until the answer's end.

TLS runs over memory buffers, not over ``SSLSocket``: OpenSSL answers for itself what a server sends between the lines
(session tickets, key updates) and would do so past any deadline while more keeps coming.

``OSError`` from here means that the line broke; ``ProviderUnavailable`` that the allowance is spent.
"""

from __future__ import annotations

import math
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol, TypeVar

import certifi

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.addresses import Address
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress_share import Share

READ_BYTES = 64 * 1024
DIALLED_MAX = 4

_Result = TypeVar("_Result")


class AnswerTooLarge(ProviderUnavailable):
    """The answer is larger than this service reads. Asking for less may help."""

    def __init__(self) -> None:
        super().__init__("The server's answer is larger than this service reads.")


@dataclass(slots=True)
class Allowance:
    """What one exchange may still take.

    ``bytes_max`` bounds the bytes of the answer (as HTTP sees them), ``received`` counts them; while ``in_head`` the
    bound is that of the head. ``on_wire_max`` and ``on_wire`` do the same for what comes in below TLS, where small
    records may double an honest answer.
    """

    deadline: Deadline
    bytes_max: int
    on_wire_max: int
    received: int = 0
    on_wire: int = 0
    in_head: bool = True
    share: Share | None = None
    """Where it counts what came in, for all conversations together."""

    def came(self, count: int) -> None:
        """So many bytes of the answer came in. Raises ``ProviderUnavailable`` when there is no place for more of them."""
        self.received += count
        if self.share is not None:
            self.share.add(count, self.deadline)

    def seconds(self) -> float:
        """Time left, more than 0. Raises ``ProviderUnavailable`` when it is over."""
        self.deadline.check()
        return max(self.deadline.remaining(), 0.001)

    def room(self) -> int:
        """Bytes that may still be read, more than 0. Raises ``ProviderUnavailable`` when there is no room left."""
        if self.received >= self.bytes_max:
            if self.in_head:
                raise head_too_large()
            raise AnswerTooLarge
        return self.bytes_max - self.received


class Wire(Protocol):
    """A connected line. ``receive`` answers b"" at its orderly end."""

    def receive(self, bytes_max: int, allowance: Allowance) -> bytes: ...
    def send(self, data: bytes, allowance: Allowance) -> None: ...
    def stirs(self) -> bool: ...
    def close(self) -> None: ...


class PlainWire:
    """A TCP connection.

    Not by the socket's own time-outs: each read or write by those is three calls to the system, before each of which the
    interpreter is given away, and with fifty conversations it takes long to get it back.
    """

    def __init__(self, connected: socket.socket):
        connected.setblocking(False)
        self._socket = connected
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    def receive(self, bytes_max: int, allowance: Allowance) -> bytes:
        if allowance.on_wire >= allowance.on_wire_max:
            raise AnswerTooLarge
        while True:
            _await(self._readable, allowance)
            try:
                data = self._socket.recv(min(bytes_max, READ_BYTES))
            except BlockingIOError:
                continue
            allowance.on_wire += len(data)
            return data

    def send(self, data: bytes, allowance: Allowance) -> None:
        rest = memoryview(data)
        while rest:
            allowance.seconds()
            try:
                rest = rest[self._socket.send(rest[:READ_BYTES]) :]
            except BlockingIOError:
                writable = select.poll()
                writable.register(self._socket, select.POLLOUT)
                _await(writable, allowance)

    def stirs(self) -> bool:
        """Whether bytes or the end have come in. On an idle line either means that it cannot be used again."""
        return bool(self._readable.poll(0))

    def close(self) -> None:
        self._socket.close()


def _await(poll: select.poll, allowance: Allowance) -> None:
    """Wait until the line is ready, broken or at its end."""
    if not poll.poll(math.ceil(allowance.seconds() * 1000)):
        raise _too_slow()


class TlsWire:
    """TLS over a connected wire. The handshake is done, and the certificate checked for ``name``, when this exists."""

    def __init__(self, below: Wire, context: ssl.SSLContext, name: str, allowance: Allowance):
        self._below = below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._run(self._tls.do_handshake, allowance)

    def receive(self, bytes_max: int, allowance: Allowance) -> bytes:
        try:
            return self._run(lambda: self._tls.read(min(bytes_max, READ_BYTES)), allowance)
        except ssl.SSLZeroReturnError:
            return b""
        # An end without TLS's own goodbye raises SSLEOFError: somebody on the way may have cut the answer.

    def send(self, data: bytes, allowance: Allowance) -> None:
        rest = memoryview(data)
        while rest:
            piece = rest[:READ_BYTES]
            sent = self._run(lambda piece=piece: self._tls.write(piece), allowance)  # type: ignore[misc]
            rest = rest[sent:]

    def stirs(self) -> bool:
        return self._tls.pending() > 0 or self._incoming.pending > 0 or self._below.stirs()

    def close(self) -> None:
        self._below.close()

    def _run(self, step: Callable[[], _Result], allowance: Allowance) -> _Result:
        """Repeat the step, carrying bytes between OpenSSL and the wire below, until it has a result."""
        while True:
            allowance.seconds()
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush(allowance)
                data = self._below.receive(READ_BYTES, allowance)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush(allowance)
                return result

    def _flush(self, allowance: Allowance) -> None:
        if self._outgoing.pending:
            self._below.send(self._outgoing.read(), allowance)


def dial(addresses: list[Address], port: int, allowance: Allowance) -> PlainWire:
    """Connect to the first address that answers, of at most ``DIALLED_MAX``. Each gets its share of the time left."""
    candidates = addresses[:DIALLED_MAX]
    for position, address in enumerate(candidates):
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        share = allowance.seconds() / (len(candidates) - position)
        try:
            return PlainWire(_connected(family, str(address), port, share))
        except OSError:
            continue
    allowance.seconds()
    raise ProviderUnavailable("The server cannot be reached: no connection could be made.")


def _connected(family: socket.AddressFamily, address: str, port: int, timeout_s: float) -> socket.socket:
    candidate = socket.socket(family, socket.SOCK_STREAM)
    try:
        candidate.settimeout(timeout_s)
        candidate.connect((address, port))
        candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        candidate.close()
        raise
    return candidate


def client_context() -> ssl.SSLContext:
    """TLS 1.2 or newer with certificates checked against certifi's authorities and the system's own.

    The system's own include what OpenSSL's variables SSL_CERT_FILE and SSL_CERT_DIR name: the way to add a private
    authority. Unlike the standard library's default context it never writes a key log.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


def head_too_large() -> ProviderUnavailable:
    return ProviderUnavailable("The head of the server's answer is larger than this service reads.")


def _too_slow() -> ProviderUnavailable:
    return ProviderUnavailable("The provider took too long to answer.")
