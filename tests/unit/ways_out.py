"""Ways out to servers of tests' own, with a resolver and a clock that do as they are told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence

from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import HELD_BYTES, AllowList, Answer, Egress
from calendar_server.providers.egress_wire import client_context
from tests.fakes.raw_server import Handler, RawConnection, RawRequest, answer

EXCHANGE_S = 0.4
# How much later than its time an exchange may end on a busy machine.
SLACK_S = 1.5
ANSWER_BYTES = 300_000
PUBLIC = "93.184.216.34"
HEAD = b"HTTP/1.1 200 OK\r\n"
# Reading the authorities of the whole world takes longer than most tests.
AUTHORITIES = client_context()
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Names:
    """A resolver with a script: each name has answers, one for each look-up; the last one stays."""

    def __init__(self, **answers: Sequence[Sequence[str]]):
        self._answers = {name.replace("_", "."): list(several) for name, several in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        several = self._answers.get(host)
        if several is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return list(several.pop(0) if len(several) > 1 else several[0])


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def hello(request: RawRequest, connection: RawConnection) -> None:
    connection.send(answer(200, b"hello"))


def sends(*pieces: bytes, close: bool = True) -> Handler:
    def write(request: RawRequest, connection: RawConnection) -> None:
        for piece in pieces:
            connection.send(piece)
        if close:
            connection.close()

    return write


def floods(begin: bytes, piece: bytes) -> Handler:
    def write(request: RawRequest, connection: RawConnection) -> None:
        connection.send(begin)
        connection.flood(piece)

    return write


@contextlib.contextmanager
def way_out(
    allow: str = "127.0.0.0/8",
    names: Names | None = None,
    exchange_s: float = 5.0,
    answer_bytes: int = ANSWER_BYTES,
    held_bytes: int = HELD_BYTES,
    tls: ssl.SSLContext | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Egress]:
    egress = Egress(
        allow=AllowList.parse(allow),
        exchange_s=exchange_s,
        answer_bytes=answer_bytes,
        held_bytes=held_bytes,
        resolver=names or Names(),
        tls=tls or AUTHORITIES,
        clock=clock,
    )
    try:
        yield egress
    finally:
        egress.close()


def get(egress: Egress, url: str, *, within_s: float = 10.0, trusted: bool = False) -> Answer:
    return egress.exchange("GET", url, headers={}, deadline=Deadline.after(within_s), trusted=trusted)
