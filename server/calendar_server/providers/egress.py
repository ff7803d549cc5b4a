"""The one way out: every byte to a provider goes through ``Egress``.

One ``exchange`` is one request and one answer. Its bounds
    destination  https to public addresses at any port; anything else, and plain http, only by the allow-list. All
                 addresses of the name are judged, and one of those very addresses is dialled (``egress_gate``).
    time         ``exchange_s`` or the caller's deadline, whichever is sooner, from the look-up to the last byte.
    bytes        ``answer_bytes`` for head and body as they come in, of which the head (interim answers included) gets
                 ``HEAD_BYTES_MAX``; a body may not come in many tiny chunks (``PIECES_MAX``).
    memory       what all conversations hold of answers, ``held_bytes`` and a little for each (``egress_share``).
    form         HTTP/1.1, identity encoding; no cookies, no proxies, no redirects followed.

Lines (connections) are kept for further exchanges with the same origin, for at most ``LINE_AGE_S`` from dialling: so
long does a changed name or allow-list need to take effect. Trusted lines are never lent to untrusted exchanges.

Neither log lines nor messages of errors hold a header, a body, a URL or an address.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import lru_cache

from calendar_server.errors import ForbiddenDestination
from calendar_server.providers.addresses import AllowList, UrlParts, canonical_host, parse_url
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress_gate import Gate, Resolver, system_resolver
from calendar_server.providers.egress_http import Question
from calendar_server.providers.egress_line import Answer, Line, Origin, StaleLine, broken
from calendar_server.providers.egress_probe import Handshake, look
from calendar_server.providers.egress_share import Shares
from calendar_server.providers.egress_wire import Allowance, AnswerTooLarge, client_context

__all__ = [
    "AllowList",
    "Answer",
    "AnswerTooLarge",
    "Egress",
    "Resolver",
    "UrlParts",
    "canonical_host",
    "parse_url",
    "system_resolver",
]

HEAD_BYTES_MAX = 100_000
HELD_BYTES = 32_000_000
# What a handshake may take besides the answer, and what TLS adds to it.
TLS_BYTES = 256_000
# Links that servers hand out (sync tokens, pages) are longer than what people type.
LINK_BYTES_MAX = 16_384

LINE_AGE_S = 60.0
LINE_IDLE_S = 15.0
LINES_MAX = 192
LINES_PER_ORIGIN_MAX = 96
"""As many as may be read of one host at once: to dial costs more than an exchange, with TLS many times more."""
SWEEP_S = 1.0

# What may be sent again when a kept line turns out to be dead: requests that change nothing (RFC 9110 §9.2.1).
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PROPFIND", "REPORT"})
# Others ride only on a line that was in use just now: a server that is about to close it would leave us in doubt.
_FRESH_S = 2.0
# They ride on none, for so long, of a server that was seen to close one right after its answer without having said so.
_HASTY_S = 600.0
_HASTY_MOST = 1000


class Egress:
    """Sends requests to providers. Shared by all threads; ``close`` ends the lines that are kept."""

    def __init__(
        self,
        *,
        allow: AllowList,
        exchange_s: float,
        answer_bytes: int,
        held_bytes: int = HELD_BYTES,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """``tls`` replaces the authorities that servers' certificates are checked against. ``clock`` ages the lines."""
        self._gate = Gate(allow, resolver)
        self._exchange_s = exchange_s
        self._answer_bytes = answer_bytes
        self._shares = Shares(held_bytes)
        self._tls = client_context() if tls is None else tls
        self._clock = clock
        self._lines = _Lines(clock)

    def check(self, url: str, deadline: Deadline | None = None) -> None:
        """Resolve the URL's host and judge it, without any exchange.

        Raises ``ForbiddenDestination`` (constant text) for a scheme, host or address that is not allowed and for what
        is no URL, ``ProviderUnavailable`` when the name does not resolve.
        """
        self._gate.addresses(_parts(url), self._limit(deadline))

    def plain_allowed(self, url: str, deadline: Deadline | None = None) -> bool:
        """Whether the URL's host and port stand on the allow-list, by name or by all addresses: only there may be http.

        Looks the name up if the list has networks; a name that does not resolve is not allowed.
        """
        try:
            return self._gate.lists(_parts(url), self._limit(deadline))
        except ForbiddenDestination:
            return False

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        deadline: Deadline,
        trusted: bool = False,
    ) -> Answer:
        """Send exactly one request and read its answer whole. A fragment in the URL stays here.

        Host, lengths and encodings are set by this method, whatever ``headers`` has. ``trusted`` is for URLs that the
        operator set: the address is not judged, all other bounds hold.

        Raises ``ForbiddenDestination``, and ``ProviderUnavailable`` for everything short of a whole answer: no route, a
        broken line, TLS that fails, the time over, a cut or malformed answer, one that is encoded, one over the limits
        (``AnswerTooLarge`` where its size alone is the matter).

        After that the request may or may not have reached the server. Only requests that change nothing are repeated
        here, once, when a kept line breaks before the first byte of an answer.
        """
        if not (method.isascii() and method.isalpha() and method.isupper()) or method == "CONNECT":
            raise ValueError("The method must be an upper-case word other than CONNECT.")
        question = Question(method, _parts(url), headers, content)
        limit = self._limit(deadline)
        limit.check()
        origin = Origin.of(question.parts, trusted)
        line = self._lines.take(origin, method)
        if line is not None:
            try:
                return self._ask(line, question, limit)
            except StaleLine:
                self._lines.was_closed(line)
                if method not in _REPEATABLE:
                    raise broken() from None
        return self._ask(Line(origin, question.parts, self._gate, self._tls, self._clock()), question, limit)

    def conversation(self) -> AbstractContextManager[object]:
        """Around exchanges whose answers, or what is made of them, are held until the end of them all."""
        return self._shares.share()

    def probe(self, url: str, deadline: Deadline, *, trusted: bool = False) -> Handshake:
        """Look at the certificate of the URL's host, and ask nothing. Raises what ``check`` raises."""
        parts, limit = _parts(url), self._limit(deadline)
        addresses = self._gate.addresses(parts, limit, trusted=trusted)
        return look(addresses, parts.host, parts.port, self._tls, limit)

    def close(self) -> None:
        """End the kept lines. Exchanges under way end by themselves; nothing is kept any more."""
        self._lines.close()

    def _limit(self, deadline: Deadline | None) -> Deadline:
        return Deadline.after(self._exchange_s) if deadline is None else deadline.sooner(self._exchange_s)

    def _ask(self, line: Line, question: Question, limit: Deadline) -> Answer:
        """One request and its answer on this line, which is then kept if it may be."""
        head_bytes = min(HEAD_BYTES_MAX, self._answer_bytes)
        with self._shares.share() as share:
            allowance = Allowance(limit, head_bytes, on_wire_max=2 * self._answer_bytes + TLS_BYTES, share=share)
            answer = line.ask(question, allowance, self._answer_bytes)
        self._lines.put(line)
        return answer


class _Lines:
    """The lines that wait for a further exchange, newest last. Bounded in number, age and idleness."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[Origin, deque[Line]] = {}
        self._count = 0
        self._swept_at = clock()
        self._closed = False
        self._hasty: dict[Origin, float] = {}

    def was_closed(self, line: Line) -> None:
        """The server has closed a kept line. If it was in use just now, what changes something rides on none for a while."""
        if self._clock() - line.kept_at > _FRESH_S:
            return
        if len(self._hasty) >= _HASTY_MOST:
            self._hasty = {}
        self._hasty[line.origin] = self._clock() + _HASTY_S

    def take(self, origin: Origin, method: str) -> Line | None:
        """A line for this origin that is still whole, which is then the caller's; or None."""
        idle_s = LINE_IDLE_S if method in _REPEATABLE else _FRESH_S
        if method not in _REPEATABLE and self._clock() < self._hasty.get(origin, 0.0):
            return None
        while True:
            with self._lock:
                ended = self._sweep()
                waiting = self._waiting.get(origin)
                line = None
                if waiting and self._clock() - waiting[-1].kept_at <= idle_s:
                    line = self._out(origin, newest=True)
            _close_all(ended)
            if line is None:
                return None
            if not self._is_over(line):
                if line.is_whole():
                    return line
                self.was_closed(line)
            line.close()

    def put(self, line: Line) -> None:
        """Keep the line if it can be used again, else end it."""
        with self._lock:
            ended = self._sweep()
            if self._closed or not line.may_be_kept() or self._is_over(line):
                ended.append(line)
            else:
                line.kept_at = self._clock()
                same = self._waiting.setdefault(line.origin, deque())
                same.append(line)
                self._count += 1
                if len(same) > LINES_PER_ORIGIN_MAX:
                    ended.append(self._out(line.origin, newest=False))
                elif self._count > LINES_MAX:
                    oldest = min(self._waiting, key=lambda origin: self._waiting[origin][0].kept_at)
                    ended.append(self._out(oldest, newest=False))
        _close_all(ended)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            ended = [line for waiting in self._waiting.values() for line in waiting]
            self._waiting, self._count = {}, 0
        _close_all(ended)

    def _out(self, origin: Origin, *, newest: bool) -> Line:
        waiting = self._waiting[origin]
        line = waiting.pop() if newest else waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._waiting[origin]
        return line

    def _is_over(self, line: Line) -> bool:
        return self._clock() - line.made_at >= LINE_AGE_S

    def _sweep(self) -> list[Line]:
        """Take out what has waited too long, or was dialled too long ago; to look often would cost more than it saves."""
        now = self._clock()
        if now - self._swept_at < SWEEP_S:
            return []
        self._swept_at = now
        ended = []
        for origin, waiting in list(self._waiting.items()):
            kept = deque(line for line in waiting if not self._is_over(line) and now - line.kept_at < LINE_IDLE_S)
            ended += [line for line in waiting if line not in kept]
            self._count -= len(waiting) - len(kept)
            if kept:
                self._waiting[origin] = kept
            else:
                del self._waiting[origin]
        return ended


def _close_all(lines: list[Line]) -> None:
    for line in lines:
        line.close()


@lru_cache(maxsize=256)
def _parts(url: str) -> UrlParts:
    # A calendar is asked several things in a row.
    try:
        return parse_url(url.partition("#")[0], bytes_max=LINK_BYTES_MAX)
    except ValueError:
        raise ForbiddenDestination from None
