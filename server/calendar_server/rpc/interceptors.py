"""What every call passes: request id, log line, metrics, errors, API key, size, deadline.

A call of ours is answered in this order, in its own thread: believe the key; only then take the message from the wire,
as bytes; check its size; only then parse it; run the method; turn what went wrong into a status; tell log and metrics.
``intercept_service`` itself runs in the one thread that accepts calls, so it only looks at what is there.

A call with a stream of answers passes the same, in threads of its own kind: it lives long and mostly waits, and must not
take a thread from those that do not. Each answer is checked and sent; an error ends it as it would any other call.

Health and reflection need no key. They have threads of their own, so that they answer while all others are taken, and
narrow limits, as anybody may call them.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import NamedTuple, Protocol

import grpc

from calendar_server.core.model import OrganizationId
from calendar_server.errors import CalendarError, Unauthorized, ValidationError, Violation
from calendar_server.peers import grpc_peer
from calendar_server.providers.base import Deadline
from calendar_server.rpc.call import called_by
from calendar_server.rpc.calls import (
    Calls,
    CountingPool,
    call_id_of,
    check_request_size,
    check_response_size,
    dawdling,
    key_of,
    overload,
)
from calendar_server.rpc.status import Answer, answer_of, wire_status
from calendar_server.rpc.watches import OpenWatch, Watches
from calendar_server.rpc.wire import Encoded
from calendar_server.telemetry import request_id
from calendar_server.usecases.caller import Caller

SERVICE = "calendars.v1.CalendarService"
DEADLINE_MOST_S = 600.0
NO_DEADLINE_S = 10 * 365 * 86_400.0
"""A call without a deadline has one in the far future, to grpcio."""
KEYLESS_BYTES = 1024


class Entry(Protocol):
    """One entry of a call's metadata."""

    key: str
    value: str | bytes


class Message(Protocol):
    """A message of the contract."""

    def SerializeToString(self) -> bytes: ...


class HandlerCallDetails(Protocol):
    """What is known of a call before it is answered."""

    method: str
    invocation_metadata: Sequence[Entry]


class Handler(Protocol):
    """What answers a method; of the four kinds of behaviour one is not None."""

    request_deserializer: Callable[[bytes], Message]
    response_serializer: Callable[[Message], bytes]
    unary_unary: Callable[[Message, grpc.ServicerContext], Message] | None
    unary_stream: Callable[..., Generator[Message]] | None
    stream_stream: Callable[..., Iterator[object]] | None


Continuation = Callable[[HandlerCallDetails], Handler | None]


class Patience:
    """Cancels calls that make a thread wait for too long: a client need not send what it announced.

    One caller's slow messages must not take the threads of all. Of one key at most ``slow_most`` calls may wait for longer
    than ``SLOW_S``; the others are cancelled, and while that many wait, no further call of this key begins.
    """

    LOOK_EVERY_S = 0.25
    SLOW_S = 0.5

    def __init__(self, slow_most: int = 16) -> None:
        self._slow_most = slow_most
        self._waiting: dict[int, _Wait] = {}
        self._dawdling: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._next = 0
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look at the clock from now on."""
        threading.Thread(target=self._look, name="patience", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def dawdles(self, key: str) -> bool:
        """Whether calls of this key keep as many threads waiting as one key may."""
        return key in self._dawdling

    @contextmanager
    def ends(self, context: grpc.ServicerContext, seconds: float, key: str = "") -> Iterator[None]:
        """Cancel the call when the block lasts longer than ``seconds``; of one key only so many may last long."""
        now = time.monotonic()
        with self._lock:
            self._next += 1
            ticket = self._next
            self._waiting[ticket] = _Wait(key, now, now + seconds, context)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(ticket, None)

    def _look(self) -> None:
        while not self._stopped.wait(self.LOOK_EVERY_S):
            now = time.monotonic()
            slow: dict[str, int] = defaultdict(int)
            with self._lock:
                late = []
                # The eldest first, as they were added.
                for ticket, wait in self._waiting.items():
                    if wait.key and wait.since < now - self.SLOW_S:
                        slow[wait.key] += 1
                    if wait.until < now or slow.get(wait.key, 0) > self._slow_most:
                        late.append(ticket)
                contexts = [self._waiting.pop(ticket).context for ticket in late]
                self._dawdling = frozenset(key for key, count in slow.items() if count >= self._slow_most)
            for context in contexts:
                context.cancel()


class _Wait(NamedTuple):
    """A call that makes a thread wait: whose it is, since when, and until when it may."""

    key: str
    since: float
    until: float
    context: grpc.ServicerContext


class Streams:
    """The open streams of anybody: at most ``most`` at once, and all can be ended."""

    def __init__(self, most: int):
        self._most = most
        self._open: set[grpc.ServicerContext] = set()
        self._lock = threading.Lock()

    def admits(self, context: grpc.ServicerContext) -> bool:
        """Count the stream until it ends; False when there are too many, or it has ended already."""
        with self._lock:
            if len(self._open) >= self._most or not context.add_callback(lambda: self._ended(context)):
                return False
            self._open.add(context)
            return True

    def end(self) -> None:
        """End all that are open."""
        with self._lock:
            contexts = list(self._open)
        for context in contexts:
            context.cancel()

    def _ended(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open.discard(context)


class CallInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Stands before every method of ours."""

    def __init__(
        self,
        calls: Calls,
        *,
        request_bytes: int,
        message_s: float,
        patience: Patience,
        doorstep: ThreadPoolExecutor,
        overloaded: Callable[[], bool],
        watches: Watches,
        watching: CountingPool,
        watchers_most: int,
    ):
        self._calls = calls
        self._request_bytes = request_bytes
        self._message_s = message_s
        self._patience = patience
        self._doorstep = doorstep
        self._overloaded = overloaded
        self._watches = watches
        self._watching = watching
        self._watchers_most = watchers_most

    def intercept_service(
        self, continuation: Continuation, details: HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Choose who answers: the method behind its checks, or a refusal on the doorstep."""
        handler = continuation(details)
        service, _, rpc = details.method.removeprefix("/").partition("/")
        if handler is None or service != SERVICE:
            return handler
        call_id = request_id_of(details.invocation_metadata)
        key = bearer_key(details.invocation_metadata)
        traceparent = traceparent_sent(details.invocation_metadata)
        if key is None:
            return self._refusal(rpc, call_id, Unauthorized())
        streams = handler.unary_stream is not None
        if self._watching.load >= self._watchers_most if streams else self._overloaded():
            return self._refusal(rpc, call_id, overload())
        if self._patience.dawdles(key):
            return self._refusal(rpc, call_id, dawdling())

        def watch(
            messages: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            with self._calls.span(rpc, call_id, traceparent):
                self._stream(rpc, call_id, key, handler, messages, context, OpenWatch(context, send, call_id))

        if streams:
            # With a callback for answers instead of an iterator, a stream can be ended while its thread waits.
            watch.experimental_non_blocking = True  # type: ignore[attr-defined]
            return grpc.stream_stream_rpc_method_handler(_in_pool(watch, self._watching))

        def answer(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
            return self._answer(rpc, call_id, key, handler, messages, context, traceparent)

        def answer_later(
            messages: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            self._answer_later(rpc, call_id, key, handler, messages, context, send, traceparent)

        if not self._calls.proven(key):
            # With a callback for the answer, one that has to wait can do so without a thread.
            answer_later.experimental_non_blocking = True  # type: ignore[attr-defined]
            return grpc.stream_stream_rpc_method_handler(answer_later)
        # A stream of requests lets us decide before the message is taken from the wire.
        return grpc.stream_unary_rpc_method_handler(answer)

    def _answer(
        self,
        rpc: str,
        call_id: str,
        key: str,
        handler: Handler,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        traceparent: str,
    ) -> bytes | None:
        ended = self._ended(rpc, call_id, key, handler, messages, context, traceparent)
        if isinstance(ended, bytes):
            context.set_trailing_metadata((("x-request-id", call_id),))
            return ended
        # Should it have to wait: it is a key that was good until now, and the next call with it does wait.
        context.abort_with_status(wire_status(ended, call_id))
        return None

    def _answer_later(
        self,
        rpc: str,
        call_id: str,
        key: str,
        handler: Handler,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        send: Callable[[bytes | None], None],
        traceparent: str,
    ) -> None:
        call = OpenWatch(context, send, call_id)
        ended = self._ended(rpc, call_id, key, handler, messages, context, traceparent)
        if isinstance(ended, Answer):
            refused = ended
            self._calls.later.after(refused.wait_s, lambda: call.end(refused))
        else:
            call.send(ended)
            call.end()

    def _ended(
        self,
        rpc: str,
        call_id: str,
        key: str,
        handler: Handler,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        traceparent: str,
    ) -> bytes | Answer:
        return self._calls.answer(
            rpc,
            call_id,
            key,
            grpc_peer(context.peer()),
            lambda: self._read(handler, messages, context, key),
            lambda request: self._run(handler, request, context),
            deadline=lambda: deadline_of(context),
            active=context.is_active,
            # The client is gone, or we ended the call.
            gone=(grpc.RpcError,),
            traceparent=traceparent,
        )

    def _stream(
        self,
        rpc: str,
        call_id: str,
        key: str,
        handler: Handler,
        messages: Iterator[bytes],
        context: grpc.ServicerContext,
        watch: OpenWatch,
    ) -> None:
        began = time.perf_counter()
        token = request_id.set(call_id)
        organization = ""
        sent = 0
        unforeseen: Exception | None = None
        waiting: Answer | None = None
        try:
            organization = self._calls.authenticate(key)
            with self._watches.admitted(watch, key):
                request = self._read(handler, messages, context, key)
                # The deadline is that of the whole stream, which grpc itself ends by it.
                with called_by(Caller(OrganizationId(organization), None, call_id)):
                    for raw in self._run_stream(handler, request, context):
                        sent += 1
                        if not watch.send(raw):
                            break
            finished = context.is_active() and watch.end()
        except grpc.RpcError:
            # The client is gone while it was to send its request.
            finished = False
        except Exception as error:
            answer = answer_of(error, call_id)
            if not organization:
                answer = waiting = self._calls.slowed(answer, error, key, grpc_peer(context.peer()))
            finished = not answer.wait_s and watch.end(answer)
            unforeseen = error
        if waiting is not None and waiting.wait_s:
            self._calls.later.after(waiting.wait_s, partial(watch.end, waiting))
        refused = watch.refused or waiting
        if refused is not None:
            self._calls.tell(rpc, refused.code.name, refused.reason, began, organization, unforeseen, sent)
        else:
            self._calls.tell(rpc, "OK" if finished else "CANCELLED", "", began, organization, None, sent)
        request_id.reset(token)

    def _read(self, handler: Handler, messages: Iterator[bytes], context: grpc.ServicerContext, key: str) -> Message:
        """Take the message from the wire, check its size, parse it."""
        with self._patience.ends(context, self._message_s, key):
            raw = next(messages, None)
        if raw is None:
            raise ValidationError([Violation("request", "is missing: the call ended without a message")])
        check_request_size(len(raw), self._request_bytes)
        try:
            return handler.request_deserializer(raw)
        except Exception as error:
            # protobuf raises its own DecodeError, and others for text that is not UTF-8.
            raise ValidationError([Violation("request", "must be a valid message of this method")]) from error

    @staticmethod
    def _run(handler: Handler, request: Message, context: grpc.ServicerContext) -> bytes:
        if handler.unary_unary is None:
            raise NotImplementedError("every method of the contract has one request and one response")
        return _raw(handler, handler.unary_unary(request, context))

    @staticmethod
    def _run_stream(handler: Handler, request: Message, context: grpc.ServicerContext) -> Iterator[bytes]:
        if handler.unary_stream is None:
            raise NotImplementedError("a stream of the contract has one request and many responses")
        with closing(handler.unary_stream(request, context)) as answers:
            for answer in answers:
                yield _raw(handler, answer)

    def _refusal(self, rpc: str, call_id: str, error: CalendarError) -> grpc.RpcMethodHandler:
        def refuse(
            messages: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            refused = self._calls.refuse(rpc, call_id, error, grpc_peer(context.peer()))
            self._calls.later.after(refused.wait_s, partial(OpenWatch(context, send, call_id).end, refused))

        refuse.experimental_non_blocking = True  # type: ignore[attr-defined]
        return grpc.stream_stream_rpc_method_handler(_in_pool(refuse, self._doorstep))


class KeylessInterceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Stands before health and reflection, which anybody may call."""

    REFLECTION_S = 60.0

    def __init__(
        self,
        *,
        patience: Patience,
        doorstep: ThreadPoolExecutor,
        reflection: ThreadPoolExecutor,
        watchers: Streams,
        reflections: Streams,
    ):
        self._patience = patience
        self._doorstep = doorstep
        self._reflection = reflection
        self._watchers = watchers
        self._reflections = reflections

    def intercept_service(
        self, continuation: Continuation, details: HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        """Put the method in its own threads and limits."""
        handler = continuation(details)
        if handler is None or details.method.startswith(f"/{SERVICE}/"):
            return handler
        make: Callable[..., grpc.RpcMethodHandler]
        if handler.unary_unary is not None:
            make, behaviour = grpc.unary_unary_rpc_method_handler, self._check(handler.unary_unary)
        elif handler.unary_stream is not None:
            make, behaviour = grpc.unary_stream_rpc_method_handler, self._watch(handler.unary_stream)
        elif handler.stream_stream is not None:
            make, behaviour = grpc.stream_stream_rpc_method_handler, self._reflect(handler.stream_stream)
        else:
            return handler
        return make(behaviour, _small(handler.request_deserializer), handler.response_serializer)

    def _check(self, check: Callable[[Message, grpc.ServicerContext], Message]) -> Callable[..., object]:
        def answer(request: Message, context: grpc.ServicerContext) -> Message:
            return check(request, context)

        return _in_pool(answer, self._doorstep)

    def _watch(self, watch: Callable[..., object]) -> Callable[..., object]:
        def answer(request: Message, context: grpc.ServicerContext, send: Callable[[object], None]) -> None:
            if not self._watchers.admits(context):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many watch the health of this service.")
            watch(request, context, send)

        # What grpc_health marks its own method with: no thread is held while nothing changes.
        answer.experimental_non_blocking = True  # type: ignore[attr-defined]
        return _in_pool(answer, self._doorstep)

    def _reflect(self, reflect: Callable[..., Iterator[object]]) -> Callable[..., object]:
        def answer(requests: Iterator[object], context: grpc.ServicerContext) -> Iterator[object]:
            if not self._reflections.admits(context):
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many ask for reflection.")
            with self._patience.ends(context, self.REFLECTION_S):
                yield from reflect(requests, context)

        return _in_pool(answer, self._reflection)


def request_id_of(metadata: Sequence[Entry]) -> str:
    """The caller's own ``x-request-id`` if it can be shown as it is, else a new one."""
    return call_id_of(_values(metadata, "x-request-id"))


def bearer_key(metadata: Sequence[Entry]) -> str | None:
    """The API key; None when there is none, more than one, or not the form of one."""
    return key_of(_values(metadata, "authorization"))


def traceparent_sent(metadata: Sequence[Entry]) -> str:
    """The caller's place in a trace of its own; empty when it has none."""
    return next(iter(_values(metadata, "traceparent")), "")


def _values(metadata: Sequence[Entry], key: str) -> list[str]:
    return [entry.value for entry in metadata if entry.key == key and isinstance(entry.value, str)]


def deadline_of(context: grpc.ServicerContext) -> Deadline | None:
    """The caller's deadline, at most ten minutes from now; None when the caller set none."""
    remaining = context.time_remaining()
    if remaining is None or remaining > NO_DEADLINE_S:
        return None
    return Deadline.after(min(remaining, DEADLINE_MOST_S))


def _raw(handler: Handler, answer: Message) -> bytes:
    """The answer's bytes. Raises ``LimitExceeded`` when they are more than clients take."""
    raw = answer.raw if isinstance(answer, Encoded) else handler.response_serializer(answer)
    check_response_size(len(raw))
    return raw


def _in_pool(behaviour: Callable[..., object], pool: ThreadPoolExecutor) -> Callable[..., object]:
    """Mark a behaviour so that grpcio runs it in this pool instead of the server's."""
    behaviour.experimental_thread_pool = pool  # type: ignore[attr-defined]
    return behaviour


def _small(deserializer: Callable[[bytes], Message]) -> Callable[[bytes], Message]:
    def parse(raw: bytes) -> Message:
        if len(raw) > KEYLESS_BYTES:
            raise ValueError("too large for a call without a key")
        return deserializer(raw)

    return parse
