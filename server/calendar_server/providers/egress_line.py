"""One line: a connection to one origin, and one request with its answer on it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from calendar_server.errors import CalendarError, ProviderUnavailable
from calendar_server.providers.addresses import UrlParts
from calendar_server.providers.egress_gate import Gate
from calendar_server.providers.egress_http import Head, Incoming, Malformed, Question, spelled
from calendar_server.providers.egress_wire import Allowance, AnswerTooLarge, TlsWire, Wire, dial


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A whole answer, whatever its status.

    Names in ``headers`` are lower case; repeated ones are joined by a comma (RFC 9110 §5.3). ``header_list`` keeps each
    as it came, in order: several ``www-authenticate`` stay apart. ``url`` is the one asked, in canonical spelling.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    header_list: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Answer({self.status}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a line leads to. One that was dialled without a verdict (``trusted``) is another origin than one with it."""

    scheme: str
    host: str
    port: int
    trusted: bool

    @classmethod
    def of(cls, parts: UrlParts, trusted: bool) -> Origin:
        return cls(parts.scheme, parts.host, parts.port, trusted)


class StaleLine(Exception):
    """A line that was used before broke without a byte of an answer: most likely the server had closed it."""


class Line:
    """A connection to one origin, dialled at its first use. For one thread at a time.

    ``made_at`` and ``kept_at`` (seconds on the owner's clock) are the owner's notes.
    """

    def __init__(self, origin: Origin, parts: UrlParts, gate: Gate, tls: ssl.SSLContext, made_at: float):
        self.origin = origin
        self.made_at = made_at
        self.kept_at = made_at
        self._parts = parts
        self._gate = gate
        self._tls = tls
        self._wire: Wire | None = None
        self._rests = False

    def ask(self, question: Question, allowance: Allowance, answer_bytes: int) -> Answer:
        """Send the request and read its answer whole. ``allowance`` is for the head; the body gets ``answer_bytes``.

        Raises ``StaleLine``, ``ForbiddenDestination`` and ``ProviderUnavailable``, after which the line has ended.
        """
        used = self._wire is not None
        self._rests = False
        try:
            return self._read(question, allowance, answer_bytes)
        except CalendarError:
            self.close()
            raise
        except Exception as error:
            # The door: whatever the parser and the socket raise at a hostile or broken server is told in our words. The
            # foreign error holds pieces of the answer and must not be shown, hence ``from None``.
            self.close()
            if used and allowance.received == 0:
                raise StaleLine from None
            raise malformed() if isinstance(error, Malformed | ValueError) else broken() from None
        except BaseException:
            self.close()
            raise

    def may_be_kept(self) -> bool:
        """Whether the last answer ended so that another request can follow."""
        return self._rests

    def is_whole(self) -> bool:
        """Whether a waiting line can still be used: it is quiet. What stirs is its end, or an answer to nothing."""
        return self._rests and self._wire is not None and not self._wire.stirs()

    def _read(self, question: Question, allowance: Allowance, answer_bytes: int) -> Answer:
        request = spelled(question)
        if self._wire is None:
            self._wire = self._dialled(allowance)
        # Broken or not, it is read: a server may answer, and hang up, before it has read the whole request.
        with suppress(OSError):
            self._wire.send(request, allowance)
        incoming = Incoming(self._wire, allowance)
        head = incoming.head()
        _check_head(question.method, head, answer_bytes)
        allowance.bytes_max, allowance.in_head = answer_bytes, False
        body = incoming.body(question.method, head, answer_bytes)
        self._rests = head.persists and incoming.ended
        return Answer(head.status, head.headers, body, question.parts.url, head.fields)

    def _dialled(self, allowance: Allowance) -> Wire:
        """Judge the origin's addresses, dial one of those very addresses, and talk TLS where the scheme says so."""
        addresses = self._gate.addresses(self._parts, allowance.deadline, trusted=self.origin.trusted)
        wire = dial(addresses, self.origin.port, allowance)
        if self.origin.scheme != "https":
            return wire
        try:
            return TlsWire(wire, self._tls, self.origin.host, allowance)
        except (OSError, ValueError):
            wire.close()
            raise ProviderUnavailable(
                "No secure connection to the server could be made: its certificate or its TLS cannot be accepted."
            ) from None
        except BaseException:
            wire.close()
            raise

    def close(self) -> None:
        """End the line at whatever stage it is."""
        self._rests = False
        if self._wire is not None:
            self._wire.close()


def _check_head(method: str, head: Head, answer_bytes: int) -> None:
    """Refuse an answer by its head, before its body is read."""
    length = head.headers.get("content-length", "")
    chunked = "transfer-encoding" in head.headers
    if method == "HEAD" or head.status in (204, 304) or (length == "0" and not chunked):
        return
    if length.isascii() and length.isdigit() and int(length) > answer_bytes:
        raise AnswerTooLarge
    if head.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise ProviderUnavailable("The server's answer is compressed, although it was asked to send it plain.")


def broken() -> ProviderUnavailable:
    return ProviderUnavailable("The connection to the server broke before its answer was whole.")


def malformed() -> ProviderUnavailable:
    return ProviderUnavailable("The server's answer is not valid HTTP, or was cut.")
