"""Threads that many kinds of work share, and that no one kind can use up: a host that hangs leaves some to the others."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Lanes(Generic[T]):
    """Runs work in ``threads`` threads, at most ``lane_most`` of one lane at once. The rest of a lane waits its turn,
    first come first served, without a thread."""

    def __init__(self, threads: int, lane_most: int, name: str):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lane_most = lane_most
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[Future[T], Callable[[], T]]]] = defaultdict(deque)

    def submit(self, lane: str, work: Callable[[], T]) -> Future[T]:
        """Run this as soon as its lane and a thread are free. Cancelled before that, it never runs."""
        future: Future[T] = Future()
        with self._lock:
            if self._running[lane] >= self._lane_most:
                self._waiting[lane].append((future, work))
                return future
            self._running[lane] += 1
        self._begin(lane, future, work)
        return future

    def close(self) -> None:
        """Begin nothing more. What waits is cancelled; what runs is not waited for."""
        with self._lock:
            waiting = [future for lane in self._waiting.values() for future, _ in lane]
            self._waiting.clear()
        for future in waiting:
            _cancel(future)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, lane: str, future: Future[T], work: Callable[[], T]) -> None:
        try:
            self._pool.submit(self._run, lane, future, work)
        except RuntimeError:
            # Closed.
            _cancel(future)
            self._ended(lane)

    def _run(self, lane: str, future: Future[T], work: Callable[[], T]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
        finally:
            self._ended(lane)

    def _ended(self, lane: str) -> None:
        """One of the lane has ended: the next has its place."""
        with self._lock:
            waiting = self._waiting.get(lane)
            if not waiting:
                self._waiting.pop(lane, None)
                self._running[lane] -= 1
                if not self._running[lane]:
                    del self._running[lane]
                return
            future, work = waiting.popleft()
        self._begin(lane, future, work)


def _cancel(future: Future[T]) -> None:
    """Cancel it, and tell those who wait for it."""
    if future.cancel():
        future.set_running_or_notify_cancel()
