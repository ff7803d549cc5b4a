"""One child process for reading calendar text, and its end when it overruns.

The thread that wants something read writes it into a pipe and waits at another for the result. No thread stands between
them: pools of processes pass a task through three threads of their own, which cost as much as reading a small calendar and,
when fifty are read at once, wait for the interpreter each time.

Children are spawned, not forked: the parent has gRPC's threads. They inherit neither files nor sockets.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import select
import struct
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic, TypeVar, TypeVarTuple

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.expander_child import DONE, NO_MEMORY, serve

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S = 10.0
"""Seconds that a child may take to start on a busy machine."""
_SEND_S = 10.0
"""Seconds that a child may take to take a task in. It waits for one, and has them in milliseconds."""
_END_S = 5.0
"""Seconds that are waited for a child that was killed."""
_PIECE = 1024 * 1024
_PIPE_BYTES = 64 * 1024
"""What a pipe holds. For more at once than that memory is mapped, and given back, with each read."""
_LENGTH = struct.Struct("!i")
"""How ``multiprocessing`` writes the length of a message in front of it."""


class ChildTimedOut(Exception):
    """The task took longer than it may; its child was ended."""


class ChildEnded(Exception):
    """The child came to an end inside the task. ``progress``: the index of the event that it was at, if at any."""

    def __init__(self, progress: int | None):
        super().__init__("A child that reads calendar text has ended.")
        self.progress = progress


class _Child(SpawnProcess):
    """A spawned process that does not import the parent's main module.

    ``multiprocessing`` would import it (a console script imports the whole service) so that functions defined there can
    be found. Ours are not.
    """

    _launching = threading.Lock()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _Child._launching:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = types.ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = main


class _Spawn(SpawnContext):
    Process = _Child


class _Line:
    """A child, and the pipes to and from it. Every wait has an end; ``OSError`` and ``EOFError``: the child is no more."""

    def __init__(self, limits: tuple[float, int, ctypes.c_long, Sequence[str]]):
        context = _Spawn()
        (child_in, self._to), (self._from, child_out) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        self._process = context.Process(target=serve, args=(child_in, child_out, *limits), daemon=True)
        try:
            self._process.start()
        finally:
            # Only the child has these ends now, so that its end shows here.
            child_in.close()
            child_out.close()
        for each in (self._to, self._from):
            os.set_blocking(each.fileno(), False)
        self._came = bytearray()

    def offer(self, message: bytes) -> memoryview:
        """Write as much of a message as goes in at once; answers the rest."""
        rest = memoryview(_LENGTH.pack(len(message)) + message)
        with suppress(BlockingIOError):
            while rest:
                rest = rest[os.write(self._to.fileno(), rest[:_PIECE]) :]
        return rest

    def finish(self, rest: memoryview, until: float) -> None:
        """Write the rest of a message. Raises ``TimeoutError`` (an ``OSError``) when it is not taken in time."""
        while rest:
            if not _ready(self._to, select.POLLOUT, until):
                raise TimeoutError
            with suppress(BlockingIOError):
                rest = rest[os.write(self._to.fileno(), rest[:_PIECE]) :]

    def fileno(self) -> int:
        return self._from.fileno()

    def receive(self, until: float) -> bytes | None:
        """The next message; None when it has not come whole by then."""
        while (length := self._length()) is None or len(self._came) < _LENGTH.size + length:
            # It has to be worked out first, as a rule, so that to read before it is there would only cost a call.
            if not _ready(self._from, select.POLLIN, until):
                return None
            piece = os.read(self._from.fileno(), _PIPE_BYTES)
            if not piece:
                raise EOFError
            self._came += piece
        message = bytes(memoryview(self._came)[_LENGTH.size : _LENGTH.size + length])
        del self._came[: _LENGTH.size + length]
        return message

    def _length(self) -> int | None:
        return int(_LENGTH.unpack_from(self._came)[0]) if len(self._came) >= _LENGTH.size else None

    def stirs(self) -> bool:
        """Whether something has come in, be it the child's end."""
        return _ready(self._from, select.POLLIN, 0.0)

    def end(self, *, wait: bool = False) -> None:
        """Kill the child; ``wait`` until it is no more. Its pipes close with this object: others may wait at them."""
        self._process.kill()
        if wait:
            self._process.join(_END_S)
        else:
            threading.Thread(target=self._process.join, name="end-child", daemon=True).start()


def _ready(connection: Connection, event: int, until: float) -> bool:
    """Wait until the pipe can be read or written, or has ended; False when it is ``until`` (monotonic) before that."""
    poll = select.poll()
    poll.register(connection.fileno(), event)
    # Rounded up: a wait of less than a millisecond must not become a busy loop.
    return bool(poll.poll(max(0, -int((time.monotonic() - until) * 1000 // 1))))


class Task(Generic[T]):
    """Something that a child is doing since ``began`` (``time.monotonic``). It has not taken in the ``rest`` of it yet."""

    def __init__(self, line: _Line, rest: memoryview):
        self.line = line
        self.rest = rest
        self.began = time.monotonic()

    def done(self) -> bool:
        """Whether its result, or the child's end, is there."""
        return self.line.stirs()


def wait_for_any(tasks: Sequence[Task[T]], timeout_s: float) -> None:
    """Wait until one of the tasks is done, or for so long."""
    poll = select.poll()
    for task in tasks:
        poll.register(task.line.fileno(), select.POLLIN)
    poll.poll(max(0, -int(-timeout_s * 1000 // 1)))


class Slot:
    """One child. Only one caller uses it at a time; ``killed`` counts children that ended inside a task.

    ``modules``: see ``serve``.
    """

    def __init__(self, event_s: float, address_space_bytes: int, modules: Sequence[str] = ()):
        self._progress: ctypes.c_long = multiprocessing.get_context("spawn").RawValue(ctypes.c_long, -1)
        self._limits = (event_s, address_space_bytes, self._progress, modules)
        self._line: _Line | None = None
        self._is_ready = False
        self._lock = threading.Lock()
        self._starting = threading.Lock()
        self._closed = False
        self.killed = 0

    def launch(self) -> None:
        """Start the child unless it is there; do not wait for it. Raises ``ProviderUnavailable``."""
        with self._lock:
            if self._closed:
                raise _shutting_down()
            if self._line is not None and self._is_ready and self._line.stirs():
                # Nobody has asked it anything: it has ended by itself, or was ended for the memory it took.
                self._line.end()
                self._line = None
            if self._line is None:
                self._is_ready = False
                try:
                    self._line = _Line(self._limits)
                except OSError as error:
                    raise _not_now() from error

    def wait_ready(self, start_s: float = START_S) -> None:
        """Wait until the child that was launched is there. Raises ``ProviderUnavailable``."""
        until = time.monotonic() + min(start_s, START_S)
        # Two may wait, who warms it and who has the first task; its word that it is there comes once.
        if not self._starting.acquire(timeout=max(0.0, until - time.monotonic())):
            raise _not_now()
        try:
            line = self._line
            if line is None or self._is_ready:
                return
            if line.receive(until) is None:
                raise TimeoutError
            self._is_ready = True
        except (OSError, EOFError) as error:
            if not isinstance(error, TimeoutError) or start_s >= START_S:
                self.renew()
            raise _not_now() from error
        finally:
            self._starting.release()

    def run(self, function: Callable[[*Ts], T], arguments: tuple[*Ts], start_s: float = START_S) -> Task[T]:
        """Begin a task; whoever does ends it by ``result``. The start of the child may take ``start_s``.

        Raises ``ProviderUnavailable`` when there is no child to be had.
        """
        return self.begin(written(function, arguments), start_s)

    def begin(self, message: bytes, start_s: float = START_S) -> Task[Any]:
        """As ``run``, for what is ``written`` already."""
        self.launch()
        self.wait_ready(start_s)
        line = self._line
        if line is None:
            raise _shutting_down()
        self._progress.value = -1
        try:
            task: Task[Any] = Task(line, line.offer(message))
            line.finish(task.rest, time.monotonic() + _SEND_S)
        except OSError as error:
            self.renew()
            raise _not_now() from error
        task.rest = memoryview(b"")
        return task

    def begin_at_once(self, message: bytes) -> Task[Any] | None:
        """As ``begin``, without waiting for anything; None where there is no child that could take it in now.

        The child may be at another task: it answers them in order, and so have their results to be taken.
        """
        with self._lock:
            line = self._line if self._is_ready else None
        if line is None:
            return None
        try:
            return Task(line, line.offer(message))
        except OSError:
            return None  # it has ended, which the next to begin will see

    def holds(self, task: Task[Any]) -> bool:
        """Whether the task's child is still the slot's."""
        return task.line is self._line

    def result(self, task: Task[T], limit_s: float) -> T:
        """The task's result, which may take ``limit_s`` from now on; its child is ended when it takes longer.

        Raises ``ChildTimedOut``, ``ChildEnded``, and ``MemoryError`` where that is what the child met.
        """
        result: T = understood(self.answer(task, limit_s))
        return result

    def answer(self, task: Task[T], limit_s: float) -> bytes:
        """As ``result``, not ``understood`` yet: somebody else may have the slot meanwhile."""
        try:
            task.line.finish(task.rest, time.monotonic() + min(limit_s, _SEND_S))
            message = task.line.receive(time.monotonic() + limit_s)
        except TimeoutError:
            message = None
        except (OSError, EOFError) as error:
            at = self._progress.value
            self.renew()
            if self._closed:
                raise _shutting_down() from error
            raise ChildEnded(at if at >= 0 else None) from error
        if message is None:
            self.renew()
            raise ChildTimedOut
        return message

    def renew(self) -> None:
        """Throw the child away. The next task gets a new one."""
        with self._lock:
            line, self._line, self._is_ready = self._line, None, False
            if line is not None:
                self.killed += 1
        if line is not None:
            line.end()

    def close(self) -> None:
        """End the child, for good."""
        with self._lock:
            line, self._line, self._closed = self._line, None, True
        if line is not None:
            line.end(wait=True)


def written(function: Callable[[*Ts], T], arguments: tuple[*Ts]) -> bytes:
    """A task as it goes to a child."""
    return pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)


def understood(answer: bytes) -> Any:
    """What a child's answer says. Raises ``MemoryError`` where that is what it met, else ``ProviderUnavailable``."""
    kind, value = pickle.loads(answer)  # noqa: S301 — from a child of ours, which unpickles nothing but what we send
    if kind == DONE:
        return value
    if kind == NO_MEMORY:
        raise MemoryError
    raise ProviderUnavailable("The calendar's text could not be read.")


def _shutting_down() -> ProviderUnavailable:
    return ProviderUnavailable("The service is shutting down.")


def _not_now() -> ProviderUnavailable:
    return ProviderUnavailable("Calendar text cannot be read at the moment.")
