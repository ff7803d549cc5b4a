"""``watching.py`` for asyncio: reading a stream of answers, the newest only, for as long as it is known to live."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Generic, Protocol, TypeVar

import grpc

from calendar_client.errors import CalendarServiceError, from_rpc_error
from calendar_client.watching import (
    DEADLINE_SPARE_S,
    LOST,
    RECONNECT_S,
    SILENCE_S,
    ended_without_a_reason,
    pause_s,
    silent,
)

AnswerT = TypeVar("AnswerT")
AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Call(Protocol[AnswerT_co]):
    """A stream of answers, as grpc.aio has it."""

    def __aiter__(self) -> AsyncIterator[AnswerT_co]: ...
    def cancel(self) -> object: ...


async def follow(
    begin: Callable[[float | None], Call[AnswerT]],
    *,
    for_s: float | None = None,
    silence_s: float = SILENCE_S,
    reconnect_s: float = RECONNECT_S,
) -> AsyncGenerator[AnswerT]:
    """``watching.follow``, whose rules hold here too."""
    ends_at = math.inf if for_s is None else time.monotonic() + for_s
    answered_at: float | None = None
    failures = 0
    while True:
        left_s = ends_at - time.monotonic()
        newest = _Newest(begin(None if for_s is None else left_s + DEADLINE_SPARE_S))
        try:
            while time.monotonic() < ends_at:
                answer = await newest.wait(max(0.0, min(silence_s, ends_at - time.monotonic())))
                if answer is not None:
                    answered_at, failures = time.monotonic(), 0
                    yield answer
                elif time.monotonic() < ends_at:
                    raise silent(silence_s)
        except LOST:
            if answered_at is None or time.monotonic() - answered_at >= reconnect_s:
                raise
        finally:
            await newest.close()
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            return
        await asyncio.sleep(min(pause_s(failures), left_s))
        failures += 1


class _Newest(Generic[AnswerT]):
    """Reads a stream in a task of its own, so that answers which nobody took in time are replaced, not queued."""

    def __init__(self, call: Call[AnswerT]):
        self._call = call
        self._news = asyncio.Event()
        self._answer: AnswerT | None = None
        self._error: CalendarServiceError | None = None
        self._task = asyncio.create_task(self._read(), name="calendar-watch")

    async def wait(self, seconds: float) -> AnswerT | None:
        """The newest answer that was not taken yet; None when none came in time. Raises what the stream ended with."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return None
        # An error is newer than every answer: what the stream said before counts no more.
        if self._error is not None:
            raise self._error
        answer, self._answer = self._answer, None
        self._news.clear()
        return answer

    async def close(self) -> None:
        """End the stream, if it has not ended."""
        self._call.cancel()
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self) -> None:
        try:
            async for answer in self._call:
                self._answer = answer
                self._news.set()
            ended: CalendarServiceError = ended_without_a_reason()
        except grpc.RpcError as error:
            ended = from_rpc_error(error)
            ended.__cause__ = error
        self._error = ended
        self._news.set()
