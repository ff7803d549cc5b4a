"""One question that many ask at once is answered once.

The first who asks it finds the answer; who asks the same before that is done waits for it, without having looked at
anything. Whether it is an answer for them as well is theirs to judge: of a question that has ended nothing is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from calendar_server.usecases.landing import Landing

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(slots=True, eq=False)
class Question(Generic[A]):
    """One that is being answered. ``found`` is what its first asker has found when it is ``done``, if anything."""

    done: Landing = field(default_factory=Landing)
    found: A | None = None


class Questions(Generic[Q, A]):
    """Those that are being answered, by what is asked. Safe for any number of threads."""

    def __init__(self) -> None:
        self._open: dict[Q, Question[A]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def asked(self, what: Q) -> Iterator[tuple[Question[A], bool]]:
        """The question in a ``with``, and whether to answer it: its first asker does, and it is done when that one's block
        ends, however it ends."""
        with self._lock:
            question = self._open.get(what)
            first = question is None
            if question is None:
                question = self._open[what] = Question()
        try:
            yield question, first
        finally:
            if first:
                with self._lock:
                    del self._open[what]
                question.done.land()
