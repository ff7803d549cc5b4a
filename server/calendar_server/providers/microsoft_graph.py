"""Requests to Microsoft Graph: tokens, at most four at a time for a mailbox, pages, and what a status means."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from enum import Enum
from urllib.parse import urlsplit

from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline, Link
from calendar_server.providers.egress import Answer, Egress
from calendar_server.providers.microsoft_events import Json

PAGES_MOST = 200
RETRY_S_MOST = 3600.0
RETRY_S = 30.0
"""Seconds to wait when Microsoft asks for it and does not say how long."""

_PREFER = 'outlook.timezone="UTC", IdType="ImmutableId"'
"""Sent with every request, the next pages' too: each answer is written by its own request's wishes."""


class Doing(Enum):
    """What a request is for, which decides what a refusal means."""

    READ = "read"
    FIND = "find"
    WRITE = "write"


class Graph:
    """Requests to one Graph. ``mailbox_requests`` is the most at a time for one mailbox, in this process."""

    def __init__(self, egress: Egress, graph_url: str, *, mailbox_requests: int, calendar_events: int):
        self._egress = egress
        self._root = graph_url.rstrip("/") + "/"
        self._origin = _origin(self._root)
        self._calendar_events = calendar_events
        self._mailboxes = _Mailboxes(mailbox_requests)

    def get(self, access_token: str, path: str, deadline: Deadline, *, mailbox: str = "") -> Json:
        """A JSON object, with a token that was got just now. Raises what the status means.

        ``mailbox`` is empty where none is asked.
        """
        with self._mailboxes.turn(mailbox, deadline) if mailbox else nullcontext():
            answer = self._send(access_token, "GET", path, deadline)
        if answer.status != 200:
            raise failure(answer, Doing.READ)
        return json_of(answer)

    def trusts(self, url: str) -> bool:
        """Whether a link that Graph gave lies at the configured host: only there may the token go."""
        return _origin(url) == self._origin

    def exchange(
        self,
        link: Link,
        method: str,
        path: str,
        deadline: Deadline,
        content: Json | None = None,
        *,
        etag: str = "",
        prefer: str = "",
    ) -> Answer:
        """One exchange, repeated once with a renewed token where the first was refused.

        ``prefer``: wishes besides the usual ones (RFC 7240).
        """
        with self._mailboxes.turn(link.connection.subject, deadline):
            secret = link.secret
            link.check()
            answer = self._send(secret["access_token"], method, path, deadline, content, etag, prefer)
            if answer.status == 401:
                secret = link.renew(secret)
                link.check()
                answer = self._send(secret["access_token"], method, path, deadline, content, etag, prefer)
            if answer.status == 401:
                raise ProviderUnavailable("Microsoft refuses the access that it has just renewed. Try again later.")
            return answer

    def pages(self, link: Link, path: str, deadline: Deadline, doing: Doing = Doing.READ) -> Iterator[Json]:
        """Every item of a listing, page by page. A page that fails fails the whole."""
        seen = 0
        for _ in range(PAGES_MOST):
            answer = self.exchange(link, "GET", path, deadline)
            if answer.status != 200:
                raise failure(answer, doing)
            page = json_of(answer)
            items = page.get("value")
            if not isinstance(items, list):
                raise ProviderUnavailable("Microsoft's answer could not be read.")
            for item in items:
                if not isinstance(item, Mapping):
                    raise ProviderUnavailable("Microsoft's answer could not be read.")
                seen += 1
                if seen > self._calendar_events:
                    raise ProviderUnavailable("The calendar holds more events than this service reads.")
                yield item
            following = page.get("@odata.nextLink")
            if following is None:
                return
            # Followed as it is given, but the token goes to the configured host alone.
            if not isinstance(following, str) or not self.trusts(following):
                raise ProviderUnavailable("Microsoft's next page lies at a foreign address.")
            path = following
        raise ProviderUnavailable("Microsoft's answer has no end.")

    def _send(
        self,
        access_token: str,
        method: str,
        path: str,
        deadline: Deadline,
        content: Json | None = None,
        etag: str = "",
        prefer: str = "",
    ) -> Answer:
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json", "Prefer": _PREFER}
        if prefer:
            headers["Prefer"] += f", {prefer}"
        if content is not None:
            headers["Content-Type"] = "application/json"
        if etag:
            headers["If-Match"] = etag
        # What is joined to the root is quoted and begins with "me"; only a next page begins with a scheme.
        return self._egress.exchange(
            method,
            path if path.startswith(("https://", "http://")) else self._root + path,
            headers=headers,
            content=b"" if content is None else json.dumps(content).encode(),
            deadline=deadline,
            trusted=True,
        )


class _Mailboxes:
    """Turns of requests, at most ``most`` at a time for a mailbox; forgets mailboxes that nobody waits for
    (https://learn.microsoft.com/graph/throttling-limits#outlook-service-limits)."""

    def __init__(self, most: int):
        self._most = most
        self._lock = threading.Lock()
        self._turns: dict[str, tuple[threading.Semaphore, int]] = {}

    @contextmanager
    def turn(self, mailbox: str, deadline: Deadline) -> Iterator[None]:
        with self._lock:
            turns, users = self._turns.get(mailbox) or (threading.Semaphore(self._most), 0)
            self._turns[mailbox] = turns, users + 1
        try:
            if not turns.acquire(timeout=deadline.remaining()):
                raise ProviderUnavailable("The mailbox is busy with other requests of ours. Try again.")
            try:
                yield
            finally:
                turns.release()
        finally:
            with self._lock:
                turns, users = self._turns.pop(mailbox)
                if users > 1:
                    self._turns[mailbox] = turns, users - 1


def failure(answer: Answer, doing: Doing) -> CalendarError:
    """What a status means (https://learn.microsoft.com/graph/errors)."""
    status = answer.status
    if status == 429 or (status == 503 and "retry-after" in answer.headers):
        return ProviderThrottled("Microsoft asks to slow down. Try again later.", retry_after_s=_retry_after_s(answer))
    if status == 403 and doing is not Doing.READ:
        return CalendarReadOnly("The calendar cannot be written to. Choose another one.")
    if status in (403, 404, 410) or (status == 400 and _code(answer) == "ErrorInvalidIdMalformed"):
        return CalendarGone("The calendar is not there any more for this account. Choose another one.")
    if status in (400, 413, 415, 422, 507) and doing is Doing.WRITE:
        return ProviderRefused("Microsoft refused the event as it is.")
    return ProviderUnavailable("Microsoft did not answer as it should.")


def json_of(answer: Answer) -> Json:
    """The JSON object of an answer. Raises ``ProviderUnavailable`` when it is none, or tells of an error, whatever its
    status was."""
    try:
        values = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise ProviderUnavailable("Microsoft's answer could not be read.") from error
    if not isinstance(values, dict) or "error" in values:
        raise ProviderUnavailable("Microsoft's answer could not be read.")
    return values


def _retry_after_s(answer: Answer) -> float:
    """Seconds or a date (RFC 9110 section 10.2.3), at most an hour."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), RETRY_S_MOST)
    try:
        seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError):
        return RETRY_S
    return min(max(seconds, 0.0), RETRY_S_MOST)


def _code(answer: Answer) -> str:
    """Graph's own name of an error; empty when it does not tell."""
    try:
        error = json.loads(answer.body)["error"]["code"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return ""
    return error if isinstance(error, str) else ""


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None when it is no URL, or one with a user's name in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("https", "http") or not parts.hostname or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)
