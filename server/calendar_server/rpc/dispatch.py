"""Calls that come by another door than gRPC: the same methods, the same checks, in threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import cast

from google.protobuf.message import Message

from calendar_server.errors import StoreUnavailable, Unauthorized
from calendar_server.rpc.calls import Calls, CountingPool, call_id_of, check_response_size, key_of, overload
from calendar_server.rpc.servicer import CalendarServicer
from calendar_server.rpc.status import Answer


class Dispatch:
    """Runs methods of the servicer. At most ``threads`` run at once, and as many wait for a thread."""

    def __init__(self, servicer: CalendarServicer, calls: Calls, *, threads: int):
        self._servicer = servicer
        self._calls = calls
        self._threads = threads
        self._pool = CountingPool(threads, "dispatch")
        self._closed = False

    @property
    def load(self) -> int:
        """Calls that run or wait for a thread."""
        return self._pool.load

    def call(
        self, rpc: str, request_ids: Sequence[str], authorization: Sequence[str], take: Callable[[], Message]
    ) -> tuple[str, Future[Message | Answer]]:
        """Begin a call; answers its request id and what will be its end. Never waits.

        ``rpc`` is a name of ours; ``request_ids`` and ``authorization`` are the values that the caller sent. ``take``
        is called in the call's thread when the key is believed; it answers the request, or raises ``CalendarError``.
        """
        call_id = call_id_of(request_ids)
        key = key_of(authorization)
        if key is None:
            return call_id, _ended(self._calls.refuse(rpc, call_id, Unauthorized()))
        if self._closed:
            stopping = StoreUnavailable("The service is stopping. Send the same call again in a moment.")
            return call_id, _ended(self._calls.refuse(rpc, call_id, stopping))
        if self._pool.load >= 2 * self._threads:
            return call_id, _ended(self._calls.refuse(rpc, call_id, overload()))
        return call_id, self._pool.submit(self._calls.answer, rpc, call_id, key, take, lambda m: self._run(rpc, m))

    def close(self) -> None:
        """Turn new calls away; those in progress go on."""
        self._closed = True

    def stop(self) -> None:
        """Let no call begin any more."""
        self.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, rpc: str, request: Message) -> Message:
        method = cast("Callable[[Message, None], Message]", getattr(self._servicer, rpc))
        # The methods know their caller by the call's context; gRPC's they do not need.
        response = method(request, None)
        check_response_size(response.ByteSize())
        return response


def _ended(answer: Answer) -> Future[Message | Answer]:
    future: Future[Message | Answer] = Future()
    future.set_result(answer)
    return future
