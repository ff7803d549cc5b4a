"""Reads calendar text in child processes with limits: pebble's door.

Vocabulary
    slot    one child, kept in a pool of its own, so that what happens to it touches no other.
    call    one ``expand``, that is one calendar. It takes slots for one slice of work at a time.
    slice   some resources read by a child until a fraction of a second of CPU time is used.

Who waits for a slot and has used least of them so far is next. So a calendar full of hostile text, which pays for each
slice with a second of CPU time, stands behind every calendar that is read in milliseconds; and time spent waiting does
not count against ``calendar_s``.

What happens to an event that is too much
    more CPU time than ``event_s``       broken off inside the child; named
    the same, deaf inside code in C      the kernel ends the child; the parent knows where it was; named, the rest again
    more memory than allowed             refused inside the child; named
    the child crashes                    like the second
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.context
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pebble import ProcessExpired, ProcessPool

from calendar_server.core.busy import Reading, Resource
from calendar_server.core.model import BlockReason, BusyEvent, CalendarRead, UnreadableEvent
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander_child import (
    TOO_LONG,
    Packed,
    Slice,
    choose_floating,
    read_slice,
    ready,
    start,
)

CHUNK_BYTES = 512 * 1024
CHUNK_RESOURCES = 400
"""Most text and most resources that are given to a child at once."""

SLICE_S = 0.25
"""CPU seconds after which a child gives its slot back."""

_START_S = 10.0
"""Seconds that a child may take to start on a busy machine."""

_GRACE_S = 1.0
"""Seconds after a task's time-out until its pool is given up."""

_CULPRITS = 1_000
_CULPRIT_S = 600.0
"""How many texts that were too much are remembered, and for how long."""


class Expander:
    """Reads calendars in at most ``processes`` children.

    ``event_s`` is CPU time for one event, ``calendar_s`` time in children for one calendar, ``address_space_bytes`` the
    address space of a child. No child runs before the first use, or ``warm``.
    """

    def __init__(self, *, processes: int, event_s: float, calendar_s: float, address_space_bytes: int):
        self._calendar_s = calendar_s
        self._turnstile = _Turnstile([_Slot(event_s, address_space_bytes) for _ in range(processes)])
        self._culprits = _Culprits()
        self._lock = threading.Lock()
        self.killed = 0
        """Children that came to an end inside a task, so far."""

    def warm(self) -> None:
        """Start all children, and wait until they are there."""
        self._turnstile.warm()

    def close(self) -> None:
        """End all children. Calls under way raise ``ProviderUnavailable``."""
        self._turnstile.close()

    def expand(self, resources: Sequence[Resource], reading: Reading, deadline: Deadline) -> CalendarRead:
        """Read a calendar. Events that touch the window are in the result, unclipped, by start.

        Raises ``ProviderUnavailable`` when the deadline passes, or when the calendar takes more than ``calendar_s``.
        """
        call = _Call(resources, reading, self._calendar_s)
        for index, each in enumerate(resources):
            if self._culprits.has(each, reading):
                call.done[index] = _TOO_MUCH
        call.cut()
        try:
            if len(call.chunks) > 1:
                self._choose_floating(call, deadline)
            self._run(call, deadline)
        finally:
            self._turnstile.give_up(call)
        for index in call.culprits:
            self._culprits.add(resources[index], reading)
        return call.result()

    def _choose_floating(self, call: _Call, deadline: Deadline) -> None:
        slot = self._turnstile.take(call, deadline)
        try:
            call.floating = slot.run(
                choose_floating, (call.resources, call.reading.calendar_timezone), self._limit_s(call, deadline)
            ).result(self._limit_s(call, deadline) + _START_S)
        except Exception as error:
            self._count_killed(error)
            slot.renew()
            raise ProviderUnavailable("The calendar's text could not be read.") from error
        finally:
            self._turnstile.put_back(slot)

    def _run(self, call: _Call, deadline: Deadline) -> None:
        running: dict[Future[Slice], tuple[_Slot, list[int], float, float]] = {}
        try:
            while call.chunks or running:
                while call.chunks:
                    slot = self._turnstile.take(call, deadline) if not running else self._turnstile.take_free()
                    if slot is None:
                        break
                    chunk = call.chunks.popleft()
                    try:
                        limit_s = self._limit_s(call, deadline)
                        task = (call.some(chunk), call.reading, call.floating, SLICE_S)
                        future = slot.run(read_slice, task, limit_s)
                    except BaseException:
                        self._turnstile.put_back(slot)
                        raise
                    running[future] = (slot, chunk, time.monotonic(), limit_s)
                self._wait(running)
                for future in [future for future in running if future.done()]:
                    slot, chunk, began, _ = running.pop(future)
                    call.used_s += time.monotonic() - began
                    try:
                        self._take_in(call, slot, chunk, future)
                    finally:
                        self._turnstile.put_back(slot)
        finally:
            for slot, *_ in running.values():
                slot.renew()
                self._turnstile.put_back(slot)

    def _wait(self, running: dict[Future[Slice], tuple[_Slot, list[int], float, float]]) -> None:
        """Wait until a task is done. One that its pool forgot about ends here as well."""
        now = time.monotonic()
        latest = min(began + limit_s for _, _, began, limit_s in running.values()) + _START_S + _GRACE_S
        done, _ = wait(running, timeout=max(0.0, latest - now), return_when=FIRST_COMPLETED)
        if not done:
            raise ProviderUnavailable("The calendar's text could not be read in time.")

    def _take_in(self, call: _Call, slot: _Slot, chunk: list[int], future: Future[Slice]) -> None:
        try:
            part = future.result()
        except (TimeoutError, BrokenProcessPool) as error:
            self._count_killed(error)
            slot.renew()
            raise ProviderUnavailable("The calendar takes too long to read.") from error
        except ProcessExpired as error:
            self._count_killed(error)
            at = slot.progress.value
            if not 0 <= at < len(chunk):
                raise ProviderUnavailable("The calendar's text could not be read.") from error
            call.name(chunk[at])
            call.put_back(chunk[:at])
            call.put_back(chunk[at + 1 :])
        except MemoryError as error:
            # Not while reading, where that is caught, but in taking the task in or giving the result back.
            if len(chunk) == 1:
                call.name(chunk[0])
                return
            if call.used_s > self._calendar_s:
                raise ProviderUnavailable("The calendar takes too much memory to read.") from error
            call.put_back(chunk[: len(chunk) // 2])
            call.put_back(chunk[len(chunk) // 2 :])
        except Exception as error:
            raise ProviderUnavailable("The calendar's text could not be read.") from error
        else:
            call.floating = part.floating
            for index, packed in zip(chunk, part.results, strict=False):
                call.done[index] = packed
                if packed == _TOO_MUCH:
                    call.culprits.append(index)
            call.put_back(chunk[len(part.results) :])

    def _limit_s(self, call: _Call, deadline: Deadline) -> float:
        """Seconds that the call's next task may take. Raises ``ProviderUnavailable`` when there are none left."""
        deadline.check()
        left = self._calendar_s - call.used_s
        if left <= 0:
            raise ProviderUnavailable("The calendar takes too long to read.")
        return min(left, deadline.remaining() + 0.001)

    def _count_killed(self, error: BaseException) -> None:
        if isinstance(error, (TimeoutError, ProcessExpired, BrokenProcessPool)):
            with self._lock:
                self.killed += 1


_TOO_MUCH: Packed = ((), ((TOO_LONG, None),))


@dataclass(slots=True, eq=False)
class _Call:
    """One calendar on its way through the children. Resources are told by their index."""

    resources: Sequence[Resource]
    reading: Reading
    calendar_s: float
    floating: str | None = None
    used_s: float = 0.0
    """Time in slots."""
    chunks: deque[list[int]] = field(default_factory=deque)
    done: dict[int, Packed] = field(default_factory=dict)
    culprits: list[int] = field(default_factory=list)

    def cut(self) -> None:
        """Cut what is to be read into chunks."""
        chunk: list[int] = []
        size = 0
        for index, each in enumerate(self.resources):
            if index in self.done:
                continue
            if chunk and (size + len(each.text) > CHUNK_BYTES or len(chunk) >= CHUNK_RESOURCES):
                self.chunks.append(chunk)
                chunk, size = [], 0
            chunk.append(index)
            size += len(each.text)
        self.put_back(chunk)

    def some(self, chunk: Sequence[int]) -> list[Resource]:
        return [self.resources[index] for index in chunk]

    def put_back(self, chunk: list[int]) -> None:
        if chunk:
            self.chunks.append(chunk)

    def name(self, index: int) -> None:
        self.done[index] = _TOO_MUCH
        self.culprits.append(index)

    def result(self) -> CalendarRead:
        events: list[BusyEvent] = []
        unreadable: list[UnreadableEvent] = []
        for index, each in enumerate(self.resources):
            found, problems = self.done[index]
            events.extend(
                BusyEvent(start_, end, BlockReason(reason), each.event_id, tentative)
                for start_, end, reason, tentative in found
            )
            unreadable.extend(UnreadableEvent(each.event_id, message, interval) for message, interval in problems)
        events.sort(key=lambda event: (event.start, event.end))
        return CalendarRead(tuple(events), tuple(unreadable))


class _Culprits:
    """Texts that were too much a short while ago: they are not tried again at every read, at everybody's cost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: OrderedDict[int, float] = OrderedDict()

    def has(self, each: Resource, reading: Reading) -> bool:
        if not self._until:
            return False
        with self._lock:
            return self._until.get(hash((each, reading)), 0.0) > time.monotonic()

    def add(self, each: Resource, reading: Reading) -> None:
        with self._lock:
            self._until[hash((each, reading))] = time.monotonic() + _CULPRIT_S
            while len(self._until) > _CULPRITS:
                self._until.popitem(last=False)


class _Turnstile:
    """Gives slots to calls: to the one that has used least time in slots, and among equals to the first that came."""

    def __init__(self, slots: Sequence[_Slot]):
        self._slots = tuple(slots)
        self._free = deque(slots)
        self._waiting: list[_Call] = []
        self._changed = threading.Condition()
        self._closed = False

    def take(self, call: _Call, deadline: Deadline) -> _Slot:
        """Wait for a slot. Raises ``ProviderUnavailable`` when the deadline passes before there is one."""
        with self._changed:
            self._waiting.append(call)
            try:
                while not (self._free and self._next() is call):
                    if self._closed:
                        raise ProviderUnavailable("The service is shutting down.")
                    deadline.check()
                    self._changed.wait(deadline.remaining())
                return self._free.popleft()
            finally:
                self._waiting.remove(call)
                self._changed.notify_all()

    def take_free(self) -> _Slot | None:
        """A slot that nobody waits for, if there is one."""
        with self._changed:
            return self._free.popleft() if self._free and not self._waiting else None

    def put_back(self, slot: _Slot) -> None:
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def warm(self) -> None:
        for future in [slot.run(ready, (), None) for slot in self._slots]:
            future.result(_START_S)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for slot in self._slots:
            slot.close()

    def _next(self) -> _Call:
        return min(self._waiting, key=lambda call: call.used_s)
