"""One child process for reading calendar text, and its end when it overruns: pebble's door.

A slot is a pebble pool of one process. Pools of several share their pipes, and a child that dies in the wrong moment
takes the others' answers along.

Children are spawned, not forked: the parent has gRPC's threads. They inherit neither files nor sockets.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar, TypeVarTuple

from pebble import ProcessExpired, ProcessPool

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.expander_child import ready, start

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S = 10.0
"""Seconds that a child may take to start on a busy machine."""


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


class Slot:
    """One child. Only one caller uses it at a time; ``killed`` counts children that ended inside a task."""

    GRACE_S = 2.0
    """Seconds until a task that is over its time is given up together with its pool."""

    def __init__(self, event_s: float, address_space_bytes: int):
        self._progress: ctypes.c_long = multiprocessing.get_context("spawn").RawValue(ctypes.c_long, -1)
        self._limits = (event_s, address_space_bytes, self._progress)
        self._pool: ProcessPool | None = None
        self._starting: Future[int] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self.killed = 0

    def launch(self) -> None:
        """Start the child unless it is there; do not wait for it. Raises ``ProviderUnavailable``."""
        with self._lock:
            if self._closed:
                raise ProviderUnavailable("The service is shutting down.")
            if self._pool is None:
                self._pool = ProcessPool(max_workers=1, initializer=start, initargs=self._limits, context=_Spawn())
                self._starting = self._pool.schedule(ready)

    def wait_ready(self, start_s: float = START_S) -> None:
        """Wait until the child that was launched is there. Raises ``ProviderUnavailable``."""
        starting = self._starting
        if starting is None:
            return
        try:
            starting.result(min(start_s, START_S))
            self._starting = None
        except Exception as error:
            if not isinstance(error, TimeoutError) or start_s >= START_S:
                self.renew()
            raise ProviderUnavailable("Calendar text cannot be read at the moment.") from error

    def run(
        self, function: Callable[[*Ts], T], arguments: tuple[*Ts], limit_s: float, start_s: float = START_S
    ) -> Future[T]:
        """Begin a task, which is ended after ``limit_s``. The start of the child does not count; it may take ``start_s``.

        Raises ``ProviderUnavailable`` when there is no child to be had.
        """
        self.launch()
        self.wait_ready(start_s)
        pool = self._pool
        if pool is None:
            raise ProviderUnavailable("The service is shutting down.")
        self._progress.value = -1
        try:
            future: Future[T] = pool.schedule(function, args=arguments, timeout=limit_s)
        except RuntimeError as error:
            self.renew()
            raise ProviderUnavailable("Calendar text cannot be read at the moment.") from error
        return future

    def result(self, future: Future[T], limit_s: float) -> T:
        """The task's result. Raises ``ChildTimedOut``, ``ChildEnded``, and ``MemoryError`` as the child raised it."""
        try:
            return future.result(limit_s + self.GRACE_S if limit_s else 0)
        except (TimeoutError, CancelledError) as error:
            # Also when pebble ended it in time: a fresh pool is cheap, and surely has forgotten the task.
            self.renew()
            raise ChildTimedOut from error
        except (ProcessExpired, BrokenProcessPool) as error:
            at = self._progress.value
            self.renew()
            raise ChildEnded(at if at >= 0 else None) from error
        except MemoryError:
            raise
        except Exception as error:
            raise ProviderUnavailable("The calendar's text could not be read.") from error

    def renew(self) -> None:
        """Throw the child away. The next task gets a new one."""
        with self._lock:
            pool, self._pool, self._starting = self._pool, None, None
            if pool is not None:
                self.killed += 1
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            threading.Thread(target=pool.join, name="end-child", daemon=True).start()

    def close(self) -> None:
        """End the child, for good."""
        with self._lock:
            pool, self._pool, self._closed = self._pool, None, True
        if pool is not None:
            pool.stop()  # type: ignore[no-untyped-call]
            pool.join()
