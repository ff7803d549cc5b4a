"""Requests to Google Calendar v3: tokens, pages, and what a refusal means.

Errors come as JSON with one or more reasons (https://developers.google.com/calendar/api/guides/errors), newer ones with
``google.rpc`` details beside them. A 403 may mean three things that must never be mixed: slow down, consent was taken
back, this calendar is not yours.
"""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from urllib.parse import quote, urlencode

from calendar_server.core.model import CalendarId
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
    ScopeMissing,
)
from calendar_server.providers.base import Deadline, Link
from calendar_server.providers.egress import Answer, Egress
from calendar_server.providers.google_events import Json, text_of

RETRY_S = 30.0
"""Seconds to wait when Google asks for it and does not say how long."""
RETRY_S_MOST = 3600.0
"""Also how long to wait for a user's quota, which Google gives back after hours."""
PAGE_TOKEN_BYTES_MAX = 4096

_SLOW_DOWN = frozenset(
    {
        "rateLimitExceeded",
        "userRateLimitExceeded",
        "variableTermLimitExceeded",
        "RATE_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
    }
)
_QUOTA = frozenset(
    {"quotaExceeded", "dailyLimitExceeded", "calendarUsageLimitsExceeded", "limitExceeded", "QUOTA_EXCEEDED"}
)
_NO_CONSENT = frozenset(
    {"insufficientPermissions", "insufficientScopes", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficient_scope"}
)
_SWITCHED_OFF = frozenset({"accessNotConfigured", "SERVICE_DISABLED", "domainPolicy"})
_OTHER_TIME = frozenset({"updatedMinTooLongAgo", "fullSyncRequired"})


class Doing(Enum):
    """What a request is for, which decides what a refusal means."""

    LIST = "list"
    """About the account, no calendar in particular."""
    READ = "read"
    FIND = "find"
    WRITE = "write"


class Api:
    """Requests to one Google Calendar API."""

    def __init__(self, egress: Egress, api_url: str):
        self._egress = egress
        self._root = api_url.rstrip("/") + "/"

    def talk(self, link: Link, deadline: Deadline) -> Talk:
        """A conversation over one link, for the length of one verb."""
        return Talk(self, link, deadline)

    def send(
        self, access_token: str, method: str, path: str, deadline: Deadline, content: Json | None, etag: str
    ) -> Answer:
        """One exchange. ``path`` is joined to the API's URL, so that the token goes to the operator's host alone."""
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if etag:
            headers["If-Match"] = etag
        return self._egress.exchange(
            method,
            self._root + path,
            headers=headers,
            content=b"" if content is None else json.dumps(content).encode(),
            deadline=deadline,
            trusted=True,
        )


class Talk:
    """Requests of one verb. An access token that was refused is renewed once, and the new one is kept to the end."""

    def __init__(self, api: Api, link: Link, deadline: Deadline):
        self._api = api
        self._link = link
        self._secret = link.secret
        self._renewed = False
        self._deadline = deadline

    def exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        content: Json | None = None,
        *,
        etag: str = "",
        deadline: Deadline | None = None,
    ) -> Answer:
        """One exchange, repeated once with a renewed token where the first was refused: a 401 changes nothing.

        ``deadline``: an earlier one than the verb's.
        """
        whole = f"{path}?{urlencode(query)}" if query else path
        while True:
            self._link.check()
            answer = self._api.send(
                self._secret["access_token"], method, whole, deadline or self._deadline, content, etag
            )
            if answer.status != 401:
                return answer
            if self._renewed:
                raise ProviderUnavailable("Google refuses the access that it has just renewed. Try again later.")
            self._secret, self._renewed = self._link.renew(self._secret), True

    def pages(self, path: str, query: Mapping[str, str | int], kind: str, doing: Doing) -> Iterator[Json]:
        """The pages of a listing. A page that fails fails the whole; so does one that comes again."""
        seen: set[str] = set()
        token = ""
        while True:
            answer = self.exchange("GET", path, {**query, "pageToken": token} if token else query)
            if answer.status != 200:
                raise failure(answer, doing)
            page = json_of(answer, kind, "items")
            yield page
            following = page.get("nextPageToken")
            if following is None:
                return
            if not isinstance(following, str) or not 0 < len(following) <= PAGE_TOKEN_BYTES_MAX or following in seen:
                raise ProviderUnavailable("Google's answer has no end.")
            seen.add(following)
            token = following


def items_of(page: Json) -> Sequence[Json]:
    """The items of a page. Google leaves empty arrays out."""
    items = page.get("items", [])
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise ProviderUnavailable("Google's answer could not be read.")
    return items


def json_of(answer: Answer, kind: str, member: str) -> Json:
    """The JSON object of an answer, which says of itself that it is of this kind, or has at least this member.

    Raises ``ProviderUnavailable`` when it is none, or something else: a page of a proxy is no empty calendar.
    """
    try:
        values = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise ProviderUnavailable("Google's answer could not be read.") from error
    if not isinstance(values, dict) or values.get("kind", kind if member in values else "") != kind:
        raise ProviderUnavailable("Google's answer could not be read.")
    return values


def calendar_path(calendar_id: CalendarId) -> str:
    """Where a calendar is. Raises ``CalendarGone`` for an id that would lead out of there: Google has no such one."""
    if calendar_id.strip(".") == "":
        raise _gone()
    return f"calendars/{segment(calendar_id)}"


def segment(text: str) -> str:
    """One segment of a path, whatever characters it holds."""
    return quote(text, safe="", errors="replace")


def failure(answer: Answer, doing: Doing) -> CalendarError:
    """What an answer means that is not the one we want."""
    status, reasons = answer.status, _reasons(answer)
    if reasons & _QUOTA and status in (403, 429):
        seconds = RETRY_S_MOST if "retry-after" not in answer.headers else _retry_after_s(answer)
        return ProviderThrottled("Google's quota for this account is used up. Try again later.", retry_after_s=seconds)
    if status == 429 or (status == 503 and "retry-after" in answer.headers) or (status == 403 and reasons & _SLOW_DOWN):
        return ProviderThrottled("Google asks to slow down. Try again later.", retry_after_s=_retry_after_s(answer))
    if status == 403 and reasons & _NO_CONSENT:
        return ScopeMissing("Access to the calendar was not granted. Connect again and leave every box ticked.")
    if status == 403 and reasons & _SWITCHED_OFF:
        return ProviderUnavailable(
            "Google Calendar is switched off for this service or this account. An administrator can turn it on.",
            retry_after_s=RETRY_S_MOST,
        )
    if doing is Doing.LIST or reasons & _OTHER_TIME:
        return ProviderUnavailable("Google did not answer as it should.")
    if status == 403 and doing is not Doing.READ:
        return CalendarReadOnly("The calendar cannot be written to. Choose another one.")
    if status in (403, 404, 410):
        return _gone()
    if status in (400, 413, 415, 422, 507) and doing is Doing.WRITE:
        return ProviderRefused("Google refused the event as it is.")
    return ProviderUnavailable("Google did not answer as it should.")


def _gone() -> CalendarGone:
    return CalendarGone("The calendar is not there any more for this account. Choose another one.")


def _reasons(answer: Answer) -> frozenset[str]:
    """Every name that Google gives an error: the old form's, the new form's, and that of RFC 6750 in the head."""
    found = (
        {"insufficient_scope"} if 'error="insufficient_scope"' in answer.headers.get("www-authenticate", "") else set()
    )
    error = _error(answer)
    found.add(text_of(error, "status"))
    for name in ("errors", "details"):
        entries = error.get(name)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, Mapping):
                found.add(text_of(entry, "reason"))
    return frozenset(found - {""})


def _error(answer: Answer) -> Json:
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}


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
