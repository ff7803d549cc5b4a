"""What a mode of the hostile server is, and the server that answers by one. See `hostile_dav`."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from tests.fakes.raw_server import RawConnection, RawRequest, RawServer, answer
from tests.fakes.strange_dav import PASSWORD, USERNAME, WORK, Asked, StrangeDav

Stage = Literal["discovery", "list", "report", "put"]
Ends = Literal["error", "slow", "exact", "login"]
STAGES: tuple[Stage, ...] = ("discovery", "list", "report", "put")

OK = b"HTTP/1.1 207 Multi-Status\r\nContent-Type: application/xml\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
XML = b'<?xml version="1.0" encoding="utf-8"?>'
OPEN = b'<D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav">'
CLOSE = b"</D:multistatus>"
MB = 1_000_000
SENT_MOST = 20 * MB
"""What a mode without end sends at most to one request, so that a reader without limits is found out, not filled up."""

BOMB = f"{WORK}bomb.ics"


@dataclass(frozen=True, slots=True)
class Scene:
    """One request that a mode answers."""

    dav: HostileDav
    request: RawRequest
    line: RawConnection
    stage: Stage

    def send(self, *pieces: bytes, close: bool = True) -> None:
        """Write these bytes, then hang up."""
        for piece in pieces:
            self.line.send(piece)
        if close:
            self.line.close()

    def flood(self, begin: bytes, piece: bytes) -> None:
        """Write the beginning, then the piece again and again."""
        self.line.send(begin)
        self.line.flood(piece, max(1, SENT_MOST // len(piece)))
        self.line.close()

    def reply(self, status: int, body: bytes = b"", *headers: tuple[str, str]) -> None:
        """Write a well-formed answer; the line stays."""
        self.line.send(answer(status, body, headers))

    def honest(self) -> tuple[int, bytes, list[tuple[str, str]]]:
        """What the honest server would say."""
        return self.dav.honest(self.request)

    def multistatus(self, *responses: str) -> None:
        self.reply(207, XML + OPEN + "".join(responses).encode() + CLOSE, ("Content-Type", "application/xml"))


Act = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to attack. ``does`` says it in a sentence."""

    name: str
    does: str
    stages: tuple[Stage, ...]
    ends: Ends
    act: Act


MODES: dict[str, Mode] = {}


def mode(name: str, *stages: Stage, ends: Ends = "error") -> Callable[[Act], Act]:
    """Register a mode; its docstring is what it does."""

    def register(act: Act) -> Act:
        assert name not in MODES
        assert act.__doc__
        MODES[name] = Mode(name, act.__doc__, stages or STAGES, ends, act)
        return act

    return register


class HostileDav:
    """See the module."""

    def __init__(self) -> None:
        self.mode: Mode | None = None
        self.stage: Stage = "discovery"
        self.account = StrangeDav()
        self.server = RawServer(self._answer)
        self.trap = RawServer(self._caught, host="127.0.0.2")
        self.struck = 0
        """Requests that the mode has answered."""
        self.passwords = 0
        """Requests with credentials that the mode has answered."""
        self.nonces = itertools.count()

    @property
    def url(self) -> str:
        return self.server.url

    def attack(self, name: str, stage: Stage) -> None:
        """Answer this stage by this mode from now on."""
        self.mode, self.stage, self.struck, self.passwords = MODES[name], stage, 0, 0

    def calm_down(self) -> None:
        """Be honest from now on."""
        self.mode = None

    @property
    def caught(self) -> int:
        """Connections that somebody made to the trap."""
        return len(self.trap.connections)

    def honest(self, request: RawRequest) -> tuple[int, bytes, list[tuple[str, str]]]:
        whole = self.account.answer(
            Asked(request.method, request.path, dict(request.headers), request.body.decode("utf-8", "replace"))
        )
        return whole.status, whole.body or b"", whole.headers

    def _answer(self, request: RawRequest, line: RawConnection) -> None:
        stage = _stage(request)
        if self.mode is None or stage != self.stage:
            status, body, headers = self.honest(request)
            line.send(answer(status, body, headers) if status != 204 else b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        self.struck += 1
        self.passwords += "authorization" in request.headers
        self.mode.act(Scene(self, request, line, stage))

    @staticmethod
    def _caught(request: RawRequest, line: RawConnection) -> None:
        line.send(answer(200, b"welcome"))


def _stage(request: RawRequest) -> Stage | None:
    path = request.path
    inside = path.startswith(WORK) and path != WORK
    if inside and (request.method == "PUT" or not path.endswith("e.ics")):
        return "put"
    if request.method == "REPORT":
        return "put" if b"text-match" in request.body else "report"
    if path.startswith(WORK):
        return "report" if inside or request.headers.get("depth") == "1" else None
    return "list" if request.headers.get("depth") == "1" else "discovery"


@contextlib.contextmanager
def hostile_dav() -> Iterator[HostileDav]:
    """A hostile server in its honest state, and its trap."""
    dav = HostileDav()
    with dav.server, dav.trap:
        dav.account.port = dav.server.port
        yield dav


def basic(username: str = USERNAME, password: str = PASSWORD) -> str:
    """What logs in, for looking for it in places where it must not be."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()
