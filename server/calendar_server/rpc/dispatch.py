"""Calls that come by another door than gRPC: the same methods, the same checks, in threads of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar, cast

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from calendar_server.errors import CalendarError, ServiceStopping, Unauthorized
from calendar_server.rpc.calls import Calls, CountingPool, call_id_of, check_response_size, key_of, overload
from calendar_server.rpc.servicer import CalendarServicer
from calendar_server.rpc.status import Answer
from calendars.v1 import calendar_service_pb2

R = TypeVar("R")

_SERVICE = calendar_service_pb2.DESCRIPTOR.services_by_name["CalendarService"]


class Serializable(Protocol):
    """What a method answers."""

    def SerializeToString(self) -> bytes: ...


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
        self,
        rpc: str,
        request_ids: Sequence[str],
        authorization: Sequence[str],
        peer: str,
        take: Callable[[], Message],
        give: Callable[[Message], R],
        refuse: Callable[[Answer], R],
        *,
        traceparent: str = "",
    ) -> tuple[str, Future[R]]:
        """Begin a call; answers its request id and what will be its end. Never waits.

        ``rpc`` is a name of ours; ``request_ids`` and ``authorization`` are the values that the caller sent, ``peer`` who
        it is to ``peers.peer_of``. In the call's thread, when the key is believed, ``take`` answers the request or raises
        ``CalendarError``; ``give`` or ``refuse`` makes of the call's end what the door sends. ``traceparent`` is the
        caller's place in a trace of its own.
        """
        call_id = call_id_of(request_ids)
        key = key_of(authorization)
        error = self._turned_away(key)
        ended: Future[R] = Future()
        if key is None or error is not None:
            refused = self._calls.refuse(rpc, call_id, error or Unauthorized(), peer)
            self._calls.later.after(refused.wait_s, _result(ended, refuse(refused)))
        else:
            self._pool.submit(self._answer, ended, rpc, call_id, key, peer, take, give, refuse, traceparent)
        return call_id, ended

    def _turned_away(self, key: str | None) -> CalendarError | None:
        """Why a call does not begin."""
        if key is None:
            return Unauthorized()
        if self._closed:
            return ServiceStopping()
        if self._pool.load >= 2 * self._threads:
            return overload()
        return None

    def _answer(
        self,
        ended: Future[R],
        rpc: str,
        call_id: str,
        key: str,
        peer: str,
        take: Callable[[], Message],
        give: Callable[[Message], R],
        refuse: Callable[[Answer], R],
        traceparent: str,
    ) -> None:
        def run(request: Message) -> R:
            return give(self._run(rpc, request))

        try:
            answer = self._calls.answer(rpc, call_id, key, peer, take, run, traceparent=traceparent)
            if isinstance(answer, Answer):
                self._calls.later.after(answer.wait_s, _result(ended, refuse(answer)))
            else:
                _result(ended, answer)()
        except BaseException as error:
            _failure(ended, error)
            raise

    def close(self) -> None:
        """Turn new calls away; those in progress go on."""
        self._closed = True

    def stop(self) -> None:
        """Let no call begin any more."""
        self.close()
        self._calls.later.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, rpc: str, request: Message) -> Message:
        method = cast("Callable[[Message, None], Serializable]", getattr(self._servicer, rpc))
        # The methods know their caller by the call's context; gRPC's they do not need.
        response = method(request, None)
        raw = response.SerializeToString()
        check_response_size(len(raw))
        if isinstance(response, Message):
            return response
        # A method may answer with bytes that are made already.
        return GetMessageClass(_SERVICE.methods_by_name[rpc].output_type).FromString(raw)


def _result(future: Future[R], result: R) -> Callable[[], None]:
    """What ends a call, unless nobody waits for its end any more."""

    def end() -> None:
        if future.set_running_or_notify_cancel():
            future.set_result(result)

    return end


def _failure(future: Future[R], error: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)
