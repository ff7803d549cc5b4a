"""Reads calendar text in child processes with limits: the parent's side.

Vocabulary
    slot    one child (`expander_slot`).
    call    one ``expand``, that is one calendar. It takes slots for one slice of work at a time.
    slice   some resources read by a child until a fraction of a second of CPU time is used.

Who waits for a slot and has used least of them so far is next (`expander_turnstile`). So a calendar full of hostile text,
which pays for each slice with a second of CPU time, stands behind every calendar that is read in milliseconds; and time
spent waiting does not count against ``calendar_s``.

What happens to an event that is too much
    more CPU time than ``event_s``       broken off inside the child; named
    the same, deaf inside code in C      the kernel ends the child; the parent knows where it was; named, the rest again
    more memory than allowed             refused inside the child; named
    the child crashes                    like the second
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, TypeVarTuple

from calendar_server.core.busy import Reading, Resource, Vote, elected
from calendar_server.core.model import BlockReason, BusyEvent, CalendarRead, EventId, UnreadableEvent
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander_child import (
    TOO_MUCH,
    Packed,
    Slice,
    cast_votes,
    read_slice,
    understand_zone,
)
from calendar_server.providers.expander_slot import (
    ChildEnded,
    ChildTimedOut,
    Slot,
    Task,
    understood,
    wait_for_any,
    written,
)
from calendar_server.providers.expander_turnstile import Turnstile

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CHUNK_BYTES = 512 * 1024
CHUNK_RESOURCES = 400
"""Most text and most resources that are given to a child at once."""

OCCURRENCES_OF_CALENDAR = 500_000
"""Three hundred daily events have as many in a window of five years. They take about 100 MB."""

SLICE_S = 0.25
"""CPU seconds after which a child gives its slot back."""

_CULPRITS = 1_000
_CULPRIT_S = 600.0
"""How many texts that were too much are remembered, and for how long."""


@dataclass(frozen=True, slots=True)
class Expanded:
    """What reading some resources came to, and what it takes to read others later as if all had been read at once.

    ``floating`` is the zone of floating times that was used. ``votes`` is what each resource says about it, in the order
    given, where that is a matter of votes, else None. ``given_up`` were too much; at another time they may not be.
    ``zoneless``: some of it lies in that zone, and would lie elsewhere in another.
    """

    read: CalendarRead
    floating: str
    votes: tuple[Vote, ...] | None
    given_up: frozenset[EventId]
    zoneless: bool


class Expander:
    """Reads calendars in at most ``processes`` children.

    ``event_s`` is CPU time for one event, ``calendar_s`` time in children for one calendar, ``address_space_bytes`` the
    address space of a child, ``occurrences`` what one calendar may have in a window. ``modules`` have what is given to
    ``attempt``, so that children have them by then. No child runs before the first use, or ``warm``.
    """

    def __init__(
        self,
        *,
        processes: int,
        event_s: float,
        calendar_s: float,
        address_space_bytes: int,
        occurrences: int = OCCURRENCES_OF_CALENDAR,
        modules: Sequence[str] = (),
    ):
        self._calendar_s = calendar_s
        self._occurrences = occurrences
        self._slots = [Slot(event_s, address_space_bytes, modules) for _ in range(processes)]
        self._turnstile = Turnstile(self._slots)
        self._culprits = _Culprits()

    @property
    def killed(self) -> int:
        """Children that came to an end inside a task, so far."""
        return sum(slot.killed for slot in self._slots)

    def warm(self) -> None:
        """Start all children, and wait until they are there. Raises ``ProviderUnavailable`` when they do not start."""
        for slot in self._slots:
            slot.launch()
        for slot in self._slots:
            slot.wait_ready()

    def close(self) -> None:
        """End all children. Calls under way raise ``ProviderUnavailable``."""
        self._turnstile.close()
        for slot in self._slots:
            slot.close()

    def expand(self, resources: Sequence[Resource], reading: Reading, deadline: Deadline) -> CalendarRead:
        """Read a calendar. Events that touch the window are in the result, unclipped, by start.

        Raises ``ProviderUnavailable`` when the deadline passes, or when the calendar takes more than ``calendar_s``.
        """
        return self.expand_part(resources, reading, deadline, floating=None, voting=False).read

    def expand_part(
        self, resources: Sequence[Resource], reading: Reading, deadline: Deadline, *, floating: str | None, voting: bool
    ) -> Expanded:
        """As ``expand``, for some resources of a calendar whose zone of floating times is known to be ``floating``.

        None: these are all of them, the zone is found out. ``voting``: their votes are asked for even so.
        """
        call = _Call(resources, reading, floating, voting)
        for index, each in enumerate(resources):
            if self._culprits.has(each.text):
                call.name(index)
        call.cut()
        self._read(call, deadline)
        for index in call.culprits:
            self._culprits.add(resources[index].text)
        return call.result()

    def attempt(
        self,
        name: str,
        function: Callable[[*Ts], T | None],
        arguments: tuple[*Ts],
        reading: Reading,
        deadline: Deadline,
    ) -> T | None:
        """Another way of reading one calendar, in one task; None where it comes to nothing, and has to be read by its parts.

        Then it is not attempted again for a while under this ``name``: it would cost as much in vain each time. Raises
        ``ProviderUnavailable`` when there is no child to be had before the deadline.
        """
        if self._culprits.has(name):
            return None
        call = _Call((), reading)
        try:
            result = self._ask(call, deadline, function, arguments)
        except ProviderUnavailable:
            if not call.used_s:
                raise
            # It is too much for a child at once, or of another kind than expected. By its parts it will be known why.
            result = None
        if result is None:
            self._culprits.add(name)
        return result

    def _floating(self, call: _Call, deadline: Deadline) -> str:
        """The zone of floating times, from all of the calendar. One chunk alone finds it out by itself."""
        zone = self._ask(call, deadline, understand_zone, (call.reading.calendar_timezone,))
        if zone:
            return zone
        for chunk in call.chunks:
            call.take_votes(chunk, self._ask(call, deadline, cast_votes, (call.some(chunk),)))
        return elected(call.votes.values())

    def _ask(self, call: _Call, deadline: Deadline, function: Callable[[*Ts], T], arguments: tuple[*Ts]) -> T:
        """One task in one slot, all or nothing."""
        self._limit_s(call, deadline)
        message = written(function, arguments)
        try:
            slot, task = self._turnstile.take(call, deadline, message)
            try:
                answer = self._answer(call, deadline, message, slot, task)
            finally:
                self._turnstile.put_back(slot)
            result: T = understood(answer)
        except (ChildTimedOut, ChildEnded, MemoryError) as error:
            raise ProviderUnavailable("The calendar's text could not be read.") from error
        return result

    def _answer(self, call: _Call, deadline: Deadline, message: bytes, slot: Slot, task: Task[Any] | None) -> bytes:
        """The slot's answer to the message; ``task`` if it is at it already."""
        try:
            limit_s = self._limit_s(call, deadline)
            task = task or slot.begin(message, deadline.remaining())
        except BaseException:
            if task is not None:
                slot.renew()  # or it would answer whoever comes next
            raise
        try:
            return slot.answer(task, limit_s)
        finally:
            call.used_s += time.monotonic() - task.began

    def _read(self, call: _Call, deadline: Deadline) -> None:
        """Give the chunks to children: one at a time, and more while there are children that nobody waits for."""
        running: dict[Task[Slice], _Part] = {}
        try:
            while call.chunks or running:
                if call.floating is None and len(call.chunks) > 1 and not running:
                    call.floating = self._floating(call, deadline)
                while call.chunks:
                    slot = self._turnstile.take_free() if running else self._turnstile.take(call, deadline)[0]
                    if slot is None:
                        break
                    part = _Part(slot, call.chunks.popleft())
                    try:
                        part.limit_s = self._limit_s(call, deadline)
                        text = (
                            call.some(part.chunk),
                            call.reading,
                            call.floating,
                            call.awaits_votes(part.chunk),
                            SLICE_S,
                        )
                        task = slot.run(read_slice, text, deadline.remaining())
                    except BaseException:
                        self._turnstile.put_back(slot)
                        raise
                    part.began = time.monotonic()
                    running[task] = part
                wait_for_any(list(running), min(part.left_s() for part in running.values()))
                for task in [each for each, part in running.items() if each.done() or part.left_s() <= 0]:
                    part = running.pop(task)
                    try:
                        self._take_in(call, part, task)
                    finally:
                        self._turnstile.put_back(part.slot)
        finally:
            for part in running.values():
                part.slot.renew()
                self._turnstile.put_back(part.slot)

    def _take_in(self, call: _Call, part: _Part, task: Task[Slice]) -> None:
        chunk = part.chunk
        try:
            read = part.slot.result(task, part.left_s())
        except ChildTimedOut as error:
            raise ProviderUnavailable("The calendar takes too long to read.") from error
        except (ChildEnded, MemoryError) as error:
            at = error.progress if isinstance(error, ChildEnded) else None
            if at is None and len(chunk) > 1:
                # Not in reading: taking the texts in, or giving the results back, was too much. Half of it may not be.
                call.put_back(chunk[: len(chunk) // 2])
                call.put_back(chunk[len(chunk) // 2 :])
            else:
                # Events before it were read well, but their results are lost.
                call.name(chunk[at or 0])
                call.put_back(chunk[: at or 0])
                call.put_back(chunk[(at or 0) + 1 :])
        else:
            call.floating = read.floating
            call.zoneless |= read.zoneless
            if read.votes is not None:
                call.take_votes(chunk, read.votes)
            for index, packed in zip(chunk, read.results, strict=False):
                call.done[index] = packed
                call.occurrences += len(packed[0])
                if packed == TOO_MUCH:
                    call.culprits.append(index)
            if call.occurrences > self._occurrences:
                raise ProviderUnavailable(f"The calendar has more than the {self._occurrences} times that are read.")
            call.put_back(chunk[len(read.results) :])
        finally:
            call.used_s += time.monotonic() - part.began

    def _limit_s(self, call: _Call, deadline: Deadline) -> float:
        """Seconds that the call's next task may take. Raises ``ProviderUnavailable`` when there are none left."""
        deadline.check()
        left = self._calendar_s - call.used_s
        if left <= 0:
            raise ProviderUnavailable("The calendar takes too long to read.")
        return min(left, max(deadline.remaining(), 0.01))


@dataclass(slots=True)
class _Part:
    """A chunk in a child."""

    slot: Slot
    chunk: list[int]
    limit_s: float = 0.0
    began: float = field(default_factory=time.monotonic)

    def left_s(self) -> float:
        """Seconds that it may still take."""
        return max(0.0, self.began + self.limit_s - time.monotonic())


@dataclass(slots=True, eq=False)
class _Call:
    """One calendar on its way through the children. Resources are told by their index."""

    resources: Sequence[Resource]
    reading: Reading
    floating: str | None = None
    voting: bool = False
    used_s: float = 0.0
    """Time in slots, of all children together."""
    chunks: deque[list[int]] = field(default_factory=deque)
    done: dict[int, Packed] = field(default_factory=dict)
    culprits: list[int] = field(default_factory=list)
    votes: dict[int, Vote] = field(default_factory=dict)
    occurrences: int = 0
    zoneless: bool = False

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

    def some(self, chunk: Sequence[int]) -> list[tuple[str, str]]:
        """Plain tuples cost the pipe a fraction of what objects do."""
        return [(each.event_id, each.text) for each in map(self.resources.__getitem__, chunk)]

    def put_back(self, chunk: list[int]) -> None:
        if chunk:
            self.chunks.append(chunk)

    def name(self, index: int) -> None:
        """Give an event up."""
        self.done[index] = TOO_MUCH
        self.culprits.append(index)

    def awaits_votes(self, chunk: Sequence[int]) -> bool:
        return self.voting and any(index not in self.votes for index in chunk)

    def take_votes(self, chunk: Sequence[int], votes: Sequence[Vote]) -> None:
        self.votes.update(zip(chunk, votes, strict=True))

    def result(self) -> Expanded:
        events: list[BusyEvent] = []
        unreadable: list[UnreadableEvent] = []
        for index, each in enumerate(self.resources):
            found, problems = self.done[index]
            events.extend(
                BusyEvent(start, end, BlockReason(reason), each.event_id, tentative)
                for start, end, reason, tentative in found
            )
            unreadable.extend(UnreadableEvent(each.event_id, message, interval) for message, interval in problems)
        events.sort(key=lambda event: (event.start, event.end))
        votes = tuple(self.votes.get(index, ("", "")) for index in range(len(self.resources))) if self.votes else None
        return Expanded(
            CalendarRead(tuple(events), tuple(unreadable)),
            self.floating or "",
            votes,
            frozenset(self.resources[index].event_id for index in self.culprits),
            self.zoneless or bool(self.culprits),
        )


class _Culprits:
    """Texts that were too much a short while ago and attempts in vain: not made again at every read, at everybody's cost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: OrderedDict[int, float] = OrderedDict()

    def has(self, text: str) -> bool:
        return bool(self._until) and self._until.get(hash(text), 0.0) > time.monotonic()

    def add(self, text: str) -> None:
        with self._lock:
            if not self.has(text):
                self._until[hash(text)] = time.monotonic() + _CULPRIT_S
            while len(self._until) > _CULPRITS:
                self._until.popitem(last=False)
