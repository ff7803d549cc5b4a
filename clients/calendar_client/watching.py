"""Reading a stream of answers: the newest only, for as long as it is known to live.

An answer that is no longer renewed must not be believed. So silence ends a stream like an error does, and a lost line is
taken up again only as long as the last answer is young enough to count.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Generic, Protocol, TypeVar

import grpc

from calendar_client.errors import (
    CalendarServiceError,
    Details,
    ServiceStopping,
    ServiceUnreachable,
    StoreUnavailable,
    from_rpc_error,
)

SILENCE_S = 45.0
"""Seconds without an answer after which a stream counts as dead. The service sends one at least every 30 s."""

RECONNECT_S = 30.0
"""Seconds since the last answer within which a lost line is taken up again."""

DEADLINE_SPARE_S = 5.0

_PAUSE_S, _PAUSE_MOST_S = 0.2, 4.0

LOST = (ServiceUnreachable, ServiceStopping, StoreUnavailable)
"""What says nothing about calendars: the line broke, or this server cannot answer at the moment."""

AnswerT = TypeVar("AnswerT")
AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Call(Protocol[AnswerT_co]):
    """A stream of answers, as grpcio has it."""

    def __iter__(self) -> Iterator[AnswerT_co]: ...
    def cancel(self) -> object: ...


def follow(
    begin: Callable[[float | None], Call[AnswerT]],
    *,
    for_s: float | None = None,
    silence_s: float = SILENCE_S,
    reconnect_s: float = RECONNECT_S,
) -> Generator[AnswerT]:
    """Yield the newest answer of a stream again and again; ``begin`` opens one, with a deadline in seconds or none.

    Ends after ``for_s`` seconds, if given. Raises ``CalendarServiceError``. A line that is lost after the first answer is
    taken up again, quietly, until ``reconnect_s`` seconds after the last answer; then its error is raised.
    """
    ends_at = math.inf if for_s is None else time.monotonic() + for_s
    answered_at: float | None = None
    failures = 0
    while True:
        left_s = ends_at - time.monotonic()
        # The end is ours to make; the deadline only tells the service that nobody comes back after it.
        newest = _Newest(begin(None if for_s is None else left_s + DEADLINE_SPARE_S))
        try:
            while time.monotonic() < ends_at:
                answer = newest.wait(max(0.0, min(silence_s, ends_at - time.monotonic())))
                if answer is not None:
                    answered_at, failures = time.monotonic(), 0
                    yield answer
                elif time.monotonic() < ends_at:
                    raise silent(silence_s)
        except LOST:
            if answered_at is None or time.monotonic() - answered_at >= reconnect_s:
                raise
        finally:
            newest.close()
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(pause_s(failures), left_s))
        failures += 1


class _Newest(Generic[AnswerT]):
    """Reads a stream in a thread of its own, so that answers which nobody took in time are replaced, not queued."""

    def __init__(self, call: Call[AnswerT]):
        self._call = call
        self._news = threading.Condition()
        self._answer: AnswerT | None = None
        self._error: CalendarServiceError | None = None
        threading.Thread(target=self._read, name="calendar-watch", daemon=True).start()

    def wait(self, seconds: float) -> AnswerT | None:
        """The newest answer that was not taken yet; None when none came in time. Raises what the stream ended with."""
        with self._news:
            self._news.wait_for(lambda: self._answer is not None or self._error is not None, seconds)
            # An error is newer than every answer: what the stream said before counts no more.
            if self._error is not None:
                raise self._error
            answer, self._answer = self._answer, None
            return answer

    def close(self) -> None:
        """End the stream, if it has not ended."""
        self._call.cancel()

    def _read(self) -> None:
        try:
            for answer in self._call:
                with self._news:
                    self._answer = answer
                    self._news.notify()
            ended: CalendarServiceError = ended_without_a_reason()
        except grpc.RpcError as error:
            ended = from_rpc_error(error)
            ended.__cause__ = error
        with self._news:
            self._error = ended
            self._news.notify()


def pause_s(failures: int) -> float:
    """Seconds before a lost line is taken up, after so many failures in a row.

    A server that stops says so to all of its clients in the same moment: they come back one by one.
    """
    spread = random.uniform(0.5, 1.5)  # noqa: S311 — spreads load, hides nothing
    return float(min(_PAUSE_S * 2**failures, _PAUSE_MOST_S)) * spread


def ended_without_a_reason() -> ServiceUnreachable:
    """What a stream that just ends means."""
    return ServiceUnreachable("The service ended the stream without a reason.", Details())


def silent(silence_s: float) -> ServiceUnreachable:
    """What a stream means that no longer says anything."""
    return ServiceUnreachable(
        f"Nothing was heard for {silence_s:g} s, so what was known counts no more.",
        Details(code=grpc.StatusCode.UNAVAILABLE),
    )
