"""What runs inside the children that read calendar text: `expander` is the parent's side.

The child guards itself against each event: after ``event_s`` of CPU time the reading is broken off by an exception; if
that does not get through (code in C does not look at signals), the kernel ends the process soon after. ``progress`` is
shared with the parent, so that it knows which event the child was at.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import NamedTuple, TypeVar

from calendar_server.core.busy import (
    Reading,
    Resource,
    ResourceBusy,
    Vote,
    elected,
    own_zone,
    read_resource,
    zone_of,
    zone_vote,
)
from calendar_server.core.model import EventId, Interval
from calendar_server.core.zones import NotedZone
from calendar_server.interpreter import GARBAGE_OBJECTS
from calendar_server.private_memory import keep_memory_private

T = TypeVar("T")

OCCURRENCES_MAX = 50_000
"""Of one resource in a window. An hourly event in a window of five years has as many."""

_KILL_FACTOR = 1.5
"""The kernel ends the child after this many times ``event_s``."""

LIGHT_MOST = 4096
"""Characters of a resource that may be read together with others."""
TOGETHER_MOST = 32

TOO_LONG = "The event takes too long to read."

PackedEvent = tuple[int, int, str, bool]
PackedProblem = tuple[str, Interval | None]
Packed = tuple[tuple[PackedEvent, ...], tuple[PackedProblem, ...]]
"""A ``ResourceBusy`` without its event id. Plain tuples: they cost the parent a fraction of what objects do."""
TOO_MUCH: Packed = ((), ((TOO_LONG, None),))


class Slice(NamedTuple):
    """What a child got done: the first resources' results, in order. ``floating`` is the zone that was used.

    ``votes`` are those of all the resources, where the calendar's zone is a matter of votes, else None. ``zoneless``:
    some of the results would be others in another zone.
    """

    results: list[Packed]
    floating: str
    votes: list[Vote] | None
    zoneless: bool
    cpu_s: float


class _Overrun(BaseException):
    """The CPU time of one event is over. No `Exception`: nothing on the way may swallow it."""


class _Guard:
    """This process's limits; there is one, made by ``start``."""

    def __init__(self, event_s: float, progress: ctypes.c_long):
        self.event_s = event_s
        self.progress = progress
        self.armed = False

    def run(self, work: Callable[[], T]) -> T | None:
        """The result of ``work``; None when its CPU time was over."""
        try:
            self.armed = True
            # It rings again: a first exception can get lost where Python ignores exceptions (a finalizer).
            signal.setitimer(signal.ITIMER_PROF, self.event_s, max(self.event_s / 20, 0.01))
            signal.setitimer(signal.ITIMER_VIRTUAL, self.event_s * _KILL_FACTOR)
            result = work()
            self.armed = False
        except _Overrun:
            return None
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return result

    def ring(self, _signal: int, _frame: FrameType | None) -> None:
        if self.armed:
            self.armed = False
            raise _Overrun


_guard: _Guard | None = None


def start(event_s: float, address_space_bytes: int, progress: ctypes.c_long) -> None:
    """Set up this process before its first task: limits, signals, and its end when the parent ends."""
    global _guard
    keep_memory_private()
    # What is here by now stays: looking through it again and again for garbage would cost as much as reading.
    gc.collect()
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes, address_space_bytes))
    _guard = _Guard(event_s, progress)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ended at once, also inside code in C: there is nothing to clean up here.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, _guard.ring)
    threading.stack_size(256 * 1024)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


DONE, NO_MEMORY, FAILED = range(3)
"""What a task came to. Only with the first there is a value."""


def serve(
    asked: Connection,
    answers: Connection,
    event_s: float,
    address_space_bytes: int,
    progress: ctypes.c_long,
    modules: Sequence[str],
) -> None:
    """What a child does: tell that it is there, then task after task, a function and its arguments, until it is ended.

    ``modules`` have what it will be asked for besides what is here.
    """
    start(event_s, address_space_bytes, progress)
    answers.send_bytes(b"")
    # Without them, for want of memory say, it does all that needs none of them.
    with suppress(ImportError, MemoryError):
        for module in modules:
            importlib.import_module(module)
    gc.freeze()
    # What reading leaves behind is nearly all gone by itself.
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
    while True:
        try:
            request = asked.recv_bytes()
        except EOFError:
            return
        answers.send_bytes(_answer(request))


def _answer(request: bytes) -> bytes:
    kind = FAILED
    try:
        function, arguments = pickle.loads(request)  # noqa: S301 — from our own parent
        return pickle.dumps((DONE, function(*arguments)), pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        kind = NO_MEMORY
    except BaseException:
        # Whatever it was, it says nothing about the next task; and what it says about this one may be a private text.
        kind = FAILED
    return pickle.dumps((kind, None))


def guarded(work: Callable[[], T]) -> T | None:
    """The result of ``work``, in a child; None when it took longer than an event may."""
    assert _guard is not None
    return _guard.run(work)


def understand_zone(calendar_timezone: str) -> str:
    """``own_zone`` under guard: a zone that takes too long to understand is not understood."""
    return guarded(lambda: own_zone(calendar_timezone)) or ""


def cast_votes(texts: Sequence[tuple[str, str]]) -> list[Vote]:
    """What each of these resources, told by id and text, says about the calendar's zone."""
    return _cast_votes(_resources(texts))


def _resources(texts: Sequence[tuple[str, str]]) -> list[Resource]:
    return [Resource(EventId(event_id), text) for event_id, text in texts]


def _cast_votes(resources: Sequence[Resource]) -> list[Vote]:
    return guarded(lambda: [zone_vote(each) for each in resources]) or [("", "")] * len(resources)


def read_slice(
    texts: Sequence[tuple[str, str]], reading: Reading, floating: str | None, voting: bool, slice_s: float
) -> Slice:
    """``read_some`` of resources told by id and text, in a form for the way to the parent."""
    began = time.process_time()
    some = read_some(_resources(texts), reading, floating, voting, slice_s)
    results = [TOO_MUCH if read is None else _packed(read) for read in some.results]
    return Slice(results, some.floating, some.votes, some.zoneless, time.process_time() - began)


class Some(NamedTuple):
    """What a child got done: the first resources' results, in order; None for one that is too much. Else as ``Slice``."""

    results: list[ResourceBusy | None]
    floating: str
    votes: list[Vote] | None
    zoneless: bool


def read_some(
    resources: Sequence[Resource], reading: Reading, floating: str | None, voting: bool, slice_s: float
) -> Some:
    """Read resources, one after another until ``slice_s`` of CPU time are used; at least one.

    ``floating``: the zone for dates and floating times, None to choose it from these resources. ``voting``: ask for
    their votes though it is known.
    """
    assert _guard is not None
    began = time.process_time()
    votes: list[Vote] | None = None
    if floating is None:
        floating = understand_zone(reading.calendar_timezone)
        voting = not floating
    if voting:
        votes = _cast_votes(resources)
        floating = floating or elected(votes)
    zone = NotedZone(zone_of(floating))
    results: list[ResourceBusy | None] = []

    progress = _guard.progress

    def read(some: Sequence[Resource]) -> bool:
        for each in some:
            progress.value = len(results)
            results.append(read_resource(each, reading, zone, limit=OCCURRENCES_MAX))
        return True

    while len(results) < len(resources):
        at = len(results)
        together = resources[at : at + _together(resources, at)]
        # When the time is over, the one that it was at had all of it if it was the first, and else is the first now.
        if _guard.run(partial(read, together)) is None and len(results) == at:
            results.append(None)
        if time.process_time() - began > slice_s:
            break
    progress.value = -1
    return Some(results, floating, votes, zone.used or None in results)


def _together(resources: Sequence[Resource], at: int) -> int:
    """How many resources from ``at`` on, at least one, are read under one guard: those that cannot take long but by an
    attack. To set it up for each of them costs a tenth of what reading them does."""
    count = 0
    for each in resources[at : at + TOGETHER_MOST]:
        if len(each.text) > LIGHT_MOST or "RRULE" in each.text or "RDATE" in each.text:
            break
        count += 1
    return count or 1


def _packed(read: ResourceBusy) -> Packed:
    return (
        tuple((event.start, event.end, event.reason.value, event.tentative) for event in read.events),
        tuple((problem.message, problem.interval) for problem in read.unreadable),
    )
