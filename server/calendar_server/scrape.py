"""The numbers of the processes beside a server, through a pair of sockets that each of them is given at its start.

A question is one byte that tells which question it is; the answer repeats it, so that one which came too late for the
question before is not taken for the answer to this one.
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time

from calendar_server.metrics import Metrics

_log = logging.getLogger(__name__)

_HEAD = struct.Struct("!BI")
ANSWER_BYTES_MOST = 16 * 2**20
ANSWER_S = 2.0
"""Seconds that all processes beside together may take to answer a scrape."""


class Line:
    """The server's end. One question at a time."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._number = 0

    def close_theirs(self) -> None:
        """The other process has its own copy now."""
        self.theirs.close()

    def close(self) -> None:
        """End it."""
        self._ours.close()

    def ask(self, until: float) -> bytes | None:
        """What the other process dumps; None when it has not answered by ``until`` on the monotonic clock."""
        with self._lock:
            self._number = (self._number + 1) % 256
            try:
                self._limit(until)
                self._ours.sendall(bytes([self._number]))
                while True:
                    number, size = _HEAD.unpack(self._take(_HEAD.size, until))
                    if size > ANSWER_BYTES_MOST:
                        return None
                    dump = self._take(size, until)
                    if number == self._number:
                        return dump
            except OSError:
                # Too late, or it is dead. What is left in the line of an answer that was cut is of no use any more.
                return None

    def _take(self, size: int, until: float) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            self._limit(until)
            chunk = self._ours.recv(min(size - len(taken), 65536))
            if not chunk:
                raise ConnectionError
            taken += chunk
        return bytes(taken)

    def _limit(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._ours.settimeout(left)


def answer(descriptor: int, metrics: Metrics) -> None:
    """The other process's end: answer until the server ends the line. Runs in a thread of its own."""
    with socket.socket(fileno=descriptor) as line:
        try:
            while question := line.recv(1):
                try:
                    dump = metrics.dump()
                except Exception:
                    _log.exception("scrape_broke")
                    continue
                line.sendall(_HEAD.pack(question[0], len(dump)) + dump)
        except OSError:
            # The server is gone.
            return
