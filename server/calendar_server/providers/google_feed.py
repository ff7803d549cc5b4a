"""Google's feed of changes as a signal: did anything change since a read?

The last page of `events.list` carries a sync token, also where only a window was asked for
(https://developers.google.com/calendar/api/guides/sync). It stands for the moment when the first page was asked for:
what changes while pages are read is not missed. So a read brings its own mark, and costs nothing for it. Asked with the
token, Google answers what has changed since, without regard to the window: one touched series is told with hundreds of
its occurrences. That is why the answer is only ever taken as "something" or "nothing", and the window is read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from calendar_server.core.model import CalendarId
from calendar_server.errors import CalendarGone, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.google_api import Doing, Talk, calendar_path, failure
from calendar_server.providers.google_events import Json, text_of

TOKEN_CHARS_MAX = 4096
_VERSION = 1
_LOOK_FIELDS = "kind,timeZone,accessRole,nextPageToken,nextSyncToken,items(id)"
"""What is asked of a look. The names of the changed events are all that is told of them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the feed stood when a read began, and what else the read rested on.

    ``zone`` is where all-day events were placed, and ``role`` decides what may be seen at all. ``page_size`` belongs to
    the token: Google wants the other parameters of a look to be those of the listing that gave the token.
    """

    calendar_id: CalendarId
    token: str
    page_size: int
    zone: str
    role: str

    def note(self) -> bytes:
        """The mark as it is kept between refreshes."""
        return json.dumps({"version": _VERSION, **asdict(self)}).encode()


def mark_of_read(calendar_id: CalendarId, page_size: int, pages: Iterable[Json]) -> Mark | None:
    """The mark of a read, from what its pages said of the calendar itself. None: they gave none, or did not agree."""
    shown, token = set(), ""
    for page in pages:
        shown.add((text_of(page, "timeZone"), text_of(page, "accessRole")))
        token = _token(page)
    if len(shown) != 1 or not token:
        return None
    ((zone, role),) = shown
    return Mark(calendar_id, token, page_size, zone, role) if zone and role else None


def mark_of_note(note: bytes, calendar_id: CalendarId) -> Mark | None:
    """The mark in a note; None when it is none of this version, or of another calendar."""
    try:
        values = json.loads(note)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.pop("version", None) != _VERSION:
        return None
    if {name: type(value) for name, value in values.items()} != _MEMBERS:
        return None
    mark = Mark(**values)
    return mark if mark.calendar_id == calendar_id and mark.page_size > 0 else None


_MEMBERS = {"calendar_id": str, "token": str, "page_size": int, "zone": str, "role": str}


def look(talk: Talk, mark: Mark, deadline: Deadline) -> Mark | None:
    """The mark moved on, if it is certain that nothing has changed since; None otherwise. One request.

    Raises what a read would raise for throttling, lost consent and 5xx: the next request would fare no better.
    """
    query: dict[str, str | int] = {
        "singleEvents": "true",
        "maxResults": mark.page_size,
        "syncToken": mark.token,
        "fields": _LOOK_FIELDS,
    }
    try:
        answer = talk.exchange("GET", f"{calendar_path(mark.calendar_id)}/events", query, deadline=deadline)
    except ProviderThrottled:
        raise
    except ProviderUnavailable:
        # Cut, late, or larger than we read.
        return None
    if answer.status in (400, 410):
        # 410: the token is too old; 400: it is no token here. Both mean: read everything again.
        return None
    if answer.status != 200:
        error = failure(answer, Doing.READ)
        if isinstance(error, CalendarGone):
            # Perhaps only the events are out of sight; whoever reads finds out.
            return None
        raise error
    try:
        page = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return _moved_on(mark, page) if isinstance(page, dict) else None


def _moved_on(mark: Mark, page: Json) -> Mark | None:
    token = _token(page)
    said = text_of(page, "kind"), text_of(page, "timeZone"), text_of(page, "accessRole")
    if not token or said != ("calendar#events", mark.zone, mark.role) or page.get("items", []) != []:
        return None
    if page.keys() - {"kind", "timeZone", "accessRole", "nextSyncToken", "items"}:
        return None
    return Mark(mark.calendar_id, token, mark.page_size, mark.zone, mark.role)


def _token(page: Json) -> str:
    """The sync token of a page; empty when it has none that can be kept."""
    token = page.get("nextSyncToken")
    usable = isinstance(token, str) and len(token) <= TOKEN_CHARS_MAX and token.isascii() and token.isprintable()
    return str(token) if usable else ""
