"""A loopback server that answers whatever bytes its test writes: cut, dripped, endless, or nothing at all.

``RawServer(handler)`` reads each request to its end, records it and calls ``handler(request, connection)``, which
writes raw bytes or none. When the handler returns, the next request on the connection is read, unless that was
closed. ``on_connect(connection)`` runs before anything is read, also before TLS. At exit everything is closed, and
whatever waits in ``connection.drip`` or ``connection.hang`` returns.

    with RawServer(lambda request, connection: connection.send(answer(200, b"hello"))) as server:
        ...server.url, server.requests...
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

Hook = Callable[["RawConnection"], None]
Handler = Callable[["RawRequest", "RawConnection"], None]


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request as it came in. Names of headers are lower case; ``path`` holds the query too."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def answer(
    status: int, body: bytes = b"", headers: Iterable[tuple[str, str]] = (), *, length: int | None = None
) -> bytes:
    """A well-formed answer. ``length`` lies about the body's."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers)]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


class RawConnection:
    """One accepted connection. ``number`` counts from 1; ``closed`` is set once it has ended on this side."""

    def __init__(self, accepted: socket.socket, number: int, stopped: threading.Event):
        self.socket = accepted
        self.number = number
        self.closed = threading.Event()
        self._stopped = stopped

    def send(self, data: bytes) -> None:
        """Write all bytes, and block while the other side does not read. Raises ``OSError`` once it has hung up."""
        self.socket.sendall(data)

    def flood(self, piece: bytes, pieces: int = 1_000_000) -> int:
        """Write the piece again and again until the other side hangs up. Answers how many bytes went out."""
        sent = 0
        for _ in range(pieces):
            if self._stopped.is_set():
                break
            try:
                self.socket.sendall(piece)
            except OSError:
                break
            sent += len(piece)
        return sent

    def drip(self, data: bytes, every_s: float = 0.05) -> None:
        """Write one byte at a time, until the end, the other side hangs up or the server stops."""
        for position in range(len(data)):
            try:
                self.socket.sendall(data[position : position + 1])
            except OSError:
                return
            if self._stopped.wait(every_s):
                return

    def hang(self) -> None:
        """Do nothing until the server stops."""
        self._stopped.wait()

    def close(self) -> None:
        """Close in order: the other side reads an end."""
        self.closed.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def reset(self) -> None:
        """Close so that the other side gets a connection reset."""
        self.closed.set()
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.socket.close()


class RawServer:
    """A TCP server on a free loopback port. ``tls`` serves https. Use it as a context manager."""

    def __init__(
        self,
        handler: Handler,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        on_connect: Hook | None = None,
    ):
        self.host = host
        self.requests: list[RawRequest] = []
        self.connections: list[RawConnection] = []
        self.errors: list[Exception] = []
        self.stopped = threading.Event()
        self._handler = handler
        self._tls = tls
        self._on_connect = on_connect
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((host, 0))
        self._listener.listen(64)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        """The origin, without a slash at its end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    def __enter__(self) -> RawServer:
        self._begin(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        # Shutting a listener down wakes the thread that accepts on it; closing alone does not on Linux.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        for connection in list(self.connections):
            connection.close()
        for thread in self._threads[1:]:
            thread.join(5)

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="raw-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopped.is_set():
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            connection = RawConnection(accepted, len(self.connections) + 1, self.stopped)
            self.connections.append(connection)
            self._begin(lambda connection=connection: self._serve(connection))  # type: ignore[misc]

    def _serve(self, connection: RawConnection) -> None:
        try:
            if self._on_connect is not None:
                self._on_connect(connection)
            if self._tls is not None and not connection.closed.is_set():
                connection.socket = self._tls.wrap_socket(connection.socket, server_side=True)
            stream = connection.socket.makefile("rb")
            with stream:
                while not connection.closed.is_set() and (request := _read_request(stream.readline, stream.read)):
                    self.requests.append(request)
                    self._handler(request, connection)
        except (OSError, ValueError):
            pass  # the other side hung up, or the test closed under our hands
        except Exception as error:
            self.errors.append(error)
        finally:
            connection.close()


def _read_request(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> RawRequest | None:
    """The next request, or None at the end of the connection."""
    first = readline()
    if not first.strip():
        return None
    method, path, _ = first.decode("latin-1").split(" ", 2)
    headers: dict[str, str] = {}
    while line := readline().decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return RawRequest(method, path, headers, _read_chunks(readline, read))
    return RawRequest(method, path, headers, read(int(headers.get("content-length", "0"))))


def _read_chunks(readline: Callable[[], bytes], read: Callable[[int], bytes]) -> bytes:
    body = b""
    while size := int(readline().split(b";")[0], 16):
        body += read(size)
        readline()
    while readline().strip():
        pass
    return body
