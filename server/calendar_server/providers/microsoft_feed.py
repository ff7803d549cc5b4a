"""Graph's changes of a calendar view as a signal: did anything change since a read?

`calendarView/delta` (https://learn.microsoft.com/graph/api/event-delta) is a feed over one window: a first *round* of
pages that tells everything and ends with a link, and later rounds from that link that tell what changed. It is never
believed further than "something" or "nothing": occurrences come without what makes them block, events outside the window
as removed, a removed occurrence not at all (its series comes again). Any event in a round means that the window is read.

The first round tells every event whole, for `$select` is not taken here. So it is taken once a calendar is refreshed for
the second time, and before that read begins: a change in between is told at the next look, and read once too often. Some
mailboxes have feeds that never end or always fail. They are left alone for longer and longer, and read each time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from calendar_server.core.model import CalendarId
from calendar_server.errors import ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline, Link
from calendar_server.providers.microsoft_events import Json
from calendar_server.providers.microsoft_graph import Doing, Graph, failure

MARK_PAGES = 40
LOOK_PAGES = 10
"""The most requests of a round. Graph is known to answer empty pages before the last one."""
PAGE = 250
"""Events on a page, each with all its text."""
LINK_CHARS_MAX = 16_384
FAILED_MOST = 6
"""So many rounds in a row that came to nothing are counted. Each doubles how long a feed is left alone: from not at all
to 63 refreshes."""

_VERSION = 1
_PREFER = f'odata.maxpagesize={PAGE}, outlook.body-content-type="text"'


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of a read.

    ``link`` continues the feed from before the read; empty where there is none. ``zone`` is the mailbox's own name of
    its zone if all-day events were placed in it, else None. ``failed`` counts rounds in a row that came to nothing, and
    ``rest`` the refreshes for which the feed is still left alone.
    """

    calendar_id: CalendarId
    link: str = ""
    zone: str | None = None
    failed: int = 0
    rest: int = 0

    def looked(self, link: str) -> Note:
        """After a look that ended with ``link``; empty: it came to nothing."""
        return replace(self, link=link, failed=0) if link else self._failed()

    def marked(self, link: str) -> Note:
        """After a first round. That the feed works is only believed of a look."""
        return replace(self, link=link) if link else self._failed()

    def rested(self) -> Note:
        return replace(self, rest=self.rest - 1)

    def _failed(self) -> Note:
        return replace(self, link="", failed=min(self.failed + 1, FAILED_MOST), rest=2**self.failed - 1)

    def written(self) -> bytes:
        return json.dumps({"version": _VERSION, **asdict(self)}).encode()


def read_note(memory: bytes, calendar_id: CalendarId) -> Note | None:
    """The note in a memory; None when it is none of this version, or of another calendar."""
    try:
        values = json.loads(memory)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or values.pop("version", None) != _VERSION or values.keys() != _MEMBERS.keys():
        return None
    if not all(type(value) in _MEMBERS[name] for name, value in values.items()):
        return None
    note = Note(**values)
    known = 0 <= note.failed <= FAILED_MOST and 0 <= note.rest < 2**FAILED_MOST
    return note if known and note.calendar_id == calendar_id else None


_MEMBERS: dict[str, tuple[type, ...]] = {
    "calendar_id": (str,),
    "link": (str,),
    "zone": (str, type(None)),
    "failed": (int,),
    "rest": (int,),
}


@dataclass(frozen=True, slots=True)
class Round:
    """What a round came to. ``link`` begins the next one; empty: this one has not come to its end, and what it would
    have told counts as a change."""

    changed: bool
    link: str


_NOTHING = Round(True, "")


def first_round(graph: Graph, link: Link, path: str, deadline: Deadline) -> Round:
    """Take a mark. Raises as ``next_round`` does."""
    return _round(graph, link, path, MARK_PAGES, deadline)


def next_round(graph: Graph, link: Link, url: str, deadline: Deadline) -> Round:
    """What happened since the link ``url`` was given. Mostly one request.

    Raises what ``Graph.exchange`` raises for the account, and ``ProviderThrottled``. Any other failure is a round that
    came to nothing: the read that follows shows whether it is the calendar's or the feed's.
    """
    return _round(graph, link, url, LOOK_PAGES, deadline) if graph.trusts(url) else _NOTHING


def _round(graph: Graph, link: Link, path: str, pages: int, deadline: Deadline) -> Round:
    changed = False
    for _ in range(pages):
        try:
            answer = graph.exchange(link, "GET", path, deadline, prefer=_PREFER)
        except ProviderThrottled:
            raise
        except ProviderUnavailable:
            return _NOTHING
        if answer.status != 200:
            error = failure(answer, Doing.READ)
            if isinstance(error, ProviderThrottled):
                raise error
            # 410, whatever its code says: the link is too old. Everything else: not known to be unchanged.
            return _NOTHING
        try:
            page = json.loads(answer.body)
        except (ValueError, RecursionError):
            return _NOTHING
        if not isinstance(page, dict) or not isinstance(page.get("value"), list):
            return _NOTHING
        # Annotations may come and go; a member that nobody knows may be a change.
        changed = changed or page["value"] != [] or not all(name == "value" or name[:1] == "@" for name in page)
        path, ended = _onward(page)
        if not graph.trusts(path):
            return _NOTHING
        if ended:
            return Round(changed, path)
    return _NOTHING


def _onward(page: Json) -> tuple[str, bool]:
    """Where a round goes on from a page, and whether that is the next round already; empty when it does not say."""
    following, last = page.get("@odata.nextLink"), page.get("@odata.deltaLink")
    onward = last if following is None else following
    if (following is not None and last is not None) or not isinstance(onward, str) or len(onward) > LINK_CHARS_MAX:
        return "", True
    return onward, following is None
