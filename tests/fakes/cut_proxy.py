"""A TCP proxy on loopback under the test's control: it passes bytes on, cuts lines, keeps answers back.

    with CutProxy(port) as proxy:
        proxy.on_request = lambda data: Cut.ANSWER if b"COMMIT" in data else Cut.NOT
        ...proxy.port...

A *request* is what one read of the client's line gave, an *answer* the same of the server's. The verdict on a request
is about that line alone; ``proxy.cuts`` counts them.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from enum import Enum, auto
from types import TracebackType


class Cut(Enum):
    """What becomes of a request."""

    NOT = auto()
    """It goes through, and so does its answer."""
    REQUEST = auto()
    """The line is cut before it arrives."""
    MIDDLE = auto()
    """Half of it arrives, then the line is cut."""
    ANSWER = auto()
    """It arrives and is answered; the line is cut when the answer comes back."""
    BLIND = auto()
    """It arrives, and the line is cut on the client's side at once; the server may finish first or not."""


Verdict = Callable[[bytes], Cut]


class CutProxy:
    """Passes lines on to ``port`` of loopback. Use it as a context manager; the end cuts everything."""

    def __init__(self, port: int):
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.on_request: Verdict = lambda data: Cut.NOT
        self.refusing = False
        self.cuts = 0
        self._lines: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> CutProxy:
        threading.Thread(target=self._accept, name="cut-proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Reset every line that is open."""
        with self._lock:
            lines = list(self._lines)
        for line in lines:
            _reset(line)

    def _accept(self) -> None:
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), name="cut-line", daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        if self.refusing:
            _reset(client)
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target), 5)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        for line in (client, server):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._lines |= {client, server}
        try:
            self._converse(client, server)
        except OSError:
            pass
        finally:
            with self._lock:
                self._lines -= {client, server}
            _reset(client)
            with contextlib.suppress(OSError):
                server.close()

    def _converse(self, client: socket.socket, server: socket.socket) -> None:
        keep_back = False
        with selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ)
            ready.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.fileobj is server:
                        if keep_back:
                            return
                        client.sendall(data)
                        continue
                    verdict = self.on_request(data)
                    if verdict is not Cut.NOT:
                        with self._lock:
                            self.cuts += 1
                    if verdict is Cut.REQUEST:
                        return
                    server.sendall(data[: len(data) // 2] if verdict is Cut.MIDDLE else data)
                    if verdict in (Cut.MIDDLE, Cut.BLIND):
                        return
                    keep_back = keep_back or verdict is Cut.ANSWER


def _reset(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        line.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        line.close()
