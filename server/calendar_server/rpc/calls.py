"""What every call passes, by whatever door it comes: API key, request id, caller, errors, log line, metrics."""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import ParamSpec, TypeVar

from calendar_server.core.model import OrganizationId
from calendar_server.errors import CalendarError, LimitExceeded, Unauthorized
from calendar_server.metrics import Metrics
from calendar_server.providers.base import Deadline
from calendar_server.rpc.call import Authenticator, called_by
from calendar_server.rpc.failures import Failures, Later
from calendar_server.rpc.status import Answer, answer_of
from calendar_server.telemetry import request_id
from calendar_server.tracing import NO_TRACER, Span, Tracer, traceparent_of
from calendar_server.usecases.caller import Caller

_log = logging.getLogger(__name__)

RESPONSE_BYTES = 4 * 2**20
"""Bytes of an answer: what gRPC clients accept unless told otherwise."""
RETRY_OVERLOAD_S = 1.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BEARER = re.compile(r"bearer +(calkey_[!-~]{1,300})", re.IGNORECASE)

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")
R = TypeVar("R")


class CountingPool(ThreadPoolExecutor):
    """A pool that knows how many calls it runs and has waiting."""

    def __init__(self, threads: int, name: str):
        super().__init__(threads, thread_name_prefix=name)
        self._count = 0
        self._counting = threading.Lock()

    @property
    def load(self) -> int:
        """Calls that run or wait for a thread."""
        return self._count

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn`` in a thread, as soon as one is free."""
        with self._counting:
            self._count += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError:
            self._ended(None)
            raise
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: Future[T] | None) -> None:
        with self._counting:
            self._count -= 1


class Calls:
    """Answers calls, and tells log and metrics of each exactly once."""

    def __init__(self, authenticator: Authenticator, metrics: Metrics, tracer: Tracer = NO_TRACER):
        self._authenticator = authenticator
        self._metrics = metrics
        self._tracer = tracer
        self._failures = Failures()
        self.later = Later()
        """Gives the answers that have to wait."""

    def answer(
        self,
        rpc: str,
        call_id: str,
        key: str,
        peer: str,
        take: Callable[[], Q],
        run: Callable[[Q], R],
        *,
        deadline: Callable[[], Deadline | None] = lambda: None,
        active: Callable[[], bool] = lambda: True,
        gone: tuple[type[Exception], ...] = (),
        traceparent: str = "",
    ) -> R | Answer:
        """Believe the key; only then ``take`` the request, and ``run`` the method for the caller.

        What goes wrong becomes an ``Answer``, but for the exceptions ``gone``: then nobody is there to be answered.
        ``active`` says at the end whether the caller still is.
        """
        began = time.perf_counter()
        token = request_id.set(call_id)
        organization = ""
        try:
            with self.span(rpc, call_id, traceparent) as span:
                try:
                    organization = self.authenticate(key)
                    request = take()
                    with called_by(Caller(OrganizationId(organization), deadline(), call_id)):
                        result = run(request)
                except gone:
                    self.tell(rpc, "CANCELLED", "", began, organization)
                    raise
                except Exception as error:
                    refused = answer_of(error, call_id)
                    span.set(code=refused.code.name, reason=refused.reason)
                    span.failed()
                    self.tell(rpc, refused.code.name, refused.reason, began, organization, error)
                    return refused if organization else self.slowed(refused, error, key, peer)
                else:
                    self.tell(rpc, "OK" if active() else "CANCELLED", "", began, organization)
                    return result
        finally:
            request_id.reset(token)

    def span(self, rpc: str, call_id: str, traceparent: str) -> AbstractContextManager[Span]:
        """Around a call. ``traceparent``: what the caller sent of its own trace, whatever that is."""
        return self._tracer.span(rpc, kind="server", parent=traceparent_of(traceparent), rpc=rpc, request_id=call_id)

    def refuse(self, rpc: str, call_id: str, error: CalendarError, peer: str) -> Answer:
        """The answer to a call that is turned away before it begins."""
        refused = answer_of(error, call_id)
        token = request_id.set(call_id)
        self.tell(rpc, refused.code.name, refused.reason, time.perf_counter(), "")
        request_id.reset(token)
        return self.slowed(refused, error, None, peer)

    def authenticate(self, key: str) -> OrganizationId:
        """The organization behind a key. Raises ``Unauthorized``."""
        organization = self._authenticator.authenticate(key)
        self._failures.good(key)
        return organization

    def proven(self, key: str) -> bool:
        """Whether the key was good when it was last checked here. Asks nobody."""
        return self._failures.proven(key)

    def slowed(self, refused: Answer, error: Exception, key: str | None, peer: str) -> Answer:
        """The answer to a call that did not begin: with a wait, if its key was not believed and its peer had many such."""
        if not isinstance(error, Unauthorized):
            return refused
        return replace(refused, wait_s=self._failures.bad(key, peer))

    def tell(
        self,
        rpc: str,
        code: str,
        reason: str,
        began: float,
        organization: str,
        error: Exception | None = None,
        count: int | None = None,
    ) -> None:
        """Tell log and metrics how a call ended that began at ``began``; ``count``: the answers of a stream."""
        seconds = time.perf_counter() - began
        self._metrics.call_ended(rpc, code, seconds, stream=count is not None)
        unforeseen = error if code == "INTERNAL" else None
        _log.log(
            logging.ERROR if unforeseen else logging.INFO,
            "call",
            exc_info=unforeseen,
            extra={
                "rpc": rpc,
                "code": code,
                "reason": reason or None,
                "duration_ms": round(seconds * 1000, 1),
                "organization": organization or None,
                "count": count,
            },
        )


def overload() -> LimitExceeded:
    """What a call hears when too many are in progress."""
    return LimitExceeded(
        "The service has too many calls in progress. Try again in a moment.", retry_after_s=RETRY_OVERLOAD_S
    )


def dawdling() -> LimitExceeded:
    """What a call hears whose key has too many calls open that do not send their messages."""
    return LimitExceeded(
        "Too many calls with this API key have not sent their messages yet. Try again in a moment.",
        retry_after_s=RETRY_OVERLOAD_S,
    )


def check_request_size(size: int, most: int) -> None:
    """Raises ``LimitExceeded`` for a request of more than ``most`` bytes."""
    if size > most:
        raise LimitExceeded(f"The request has {size} bytes; at most {most} are accepted. Send less at once.")


def check_response_size(size: int) -> None:
    """Raises ``LimitExceeded`` for an answer that clients would not take."""
    if size > RESPONSE_BYTES:
        raise LimitExceeded(
            f"The answer would have {size} bytes; at most {RESPONSE_BYTES} are sent. Ask for less at once."
        )


def call_id_of(told: Iterable[str]) -> str:
    """The caller's own ``x-request-id`` if it can be shown as it is, else a new one."""
    for value in told:
        if _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8)


def key_of(told: Sequence[str]) -> str | None:
    """The API key of the ``authorization`` values; None when there is none, more than one, or not the form of one.

    The scheme's case is free (RFC 9110 §11.1).
    """
    match = _BEARER.fullmatch(told[0]) if len(told) == 1 else None
    return match.group(1) if match else None
