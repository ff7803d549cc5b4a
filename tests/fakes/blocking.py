"""The asyncio client with the sync client's face, so that one suite holds both: its loop runs in a thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from calendar_client import CalendarClient, aio

ValueT = TypeVar("ValueT")


class _Loop:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="event loop", daemon=True)
        self._thread.start()

    def wait(self, coroutine: Coroutine[object, object, ValueT]) -> ValueT:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        self.wait(self._loop.shutdown_asyncgens())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


class _Blocking:
    def __init__(self, loop: _Loop, client: aio.CalendarClient):
        self._loop, self._client = loop, client

    def __repr__(self) -> str:
        return repr(self._client)

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self._client, name)

        def call(*arguments: object, **more: object) -> object:
            answer = method(*arguments, **more)
            if inspect.isasyncgen(answer):
                return self._each(answer)
            return self._loop.wait(answer)

        return call

    def _each(self, answers: AsyncGenerator[ValueT]) -> Generator[ValueT]:
        try:
            while True:
                try:
                    yield self._loop.wait(_next(answers))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.wait(_close(answers))


async def _next(answers: AsyncGenerator[ValueT]) -> ValueT:
    return await anext(answers)


async def _close(answers: AsyncGenerator[Any]) -> None:
    await answers.aclose()


@contextmanager
def blocking(address: str, api_key: str, **more: Any) -> Iterator[CalendarClient]:
    """``with CalendarClient(…)``, but it is the asyncio one that calls."""
    loop = _Loop()
    try:

        async def begin() -> aio.CalendarClient:
            return await aio.CalendarClient(address, api_key, **more).__aenter__()

        client = loop.wait(begin())
        yield _Blocking(loop, client)  # type: ignore[misc]
        loop.wait(client.__aexit__(None, None, None))
    finally:
        loop.close()
