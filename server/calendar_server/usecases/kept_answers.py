"""Answers that are given again: the last ones that were plain and complete.

Callers ask the same question again and again. While what is known of the calendars stays, its answer stays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from calendar_server.core.model import BusyView, Instant, Interval
from calendar_server.errors import CalendarError
from calendar_server.usecases.commands import BusyAnswer, BusyQuery
from calendar_server.usecases.refresh import Key
from calendar_server.usecases.snapshots import Group

ANSWERS_MOST = 128
INTERVALS_MOST = 500
"""In one answer; longer ones are made anew each time."""


class KeptAnswers:
    """At most ``ANSWERS_MOST`` of them. Safe for any number of threads: at worst an answer is made twice."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Group, Interval], tuple[Instant, BusyAnswer]] = {}

    def get(
        self, group: Group, query: BusyQuery, not_before: Instant, asked: Mapping[Key, CalendarError | None]
    ) -> BusyAnswer | None:
        """The answer to this question by this group, if it is kept, and all that it rests on was read at ``not_before``
        or later. ``asked`` are the calendars that had to be asked for it: where one failed, another answer is due."""
        if not _plain(query) or any(asked.values()):
            return None
        oldest, answer = self._answers.get((group, query.window), (0, None))
        return answer if oldest >= not_before else None

    def keep(self, group: Group, query: BusyQuery, answer: BusyAnswer) -> BusyAnswer:
        """Keep the answer, if it will be the same the next time. Answers it as it is to be given."""
        if not _plain(query) or not answer.complete or len(answer.busy) > INTERVALS_MOST:
            return answer
        if len(answer.calendars) != sum(len(each.head.busy_calendar_ids) for each in group.snapshots):
            # Calendars that are only written to are told as they are at this moment.
            return answer
        if any(each.head.written and query.window.start < each.overlay_from for each in group.snapshots):
            # What was committed for so long ago is asked for each time.
            return answer
        if len(self._answers) >= ANSWERS_MOST:
            # Rarely, and then what is in use comes back by itself.
            self._answers.clear()
        kept = dataclasses.replace(answer, forms={})
        oldest = min((each.as_of or 0 for each in kept.calendars), default=0)
        self._answers[group, query.window] = oldest, kept
        return kept


def _plain(query: BusyQuery) -> bool:
    return query.view is BusyView.MERGED and not query.exclude_booking_ids and not query.ignore_tentative
