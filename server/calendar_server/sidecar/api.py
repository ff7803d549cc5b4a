"""HTTP with JSON for callers without gRPC: every request becomes one call of the contract, answered by the same methods.

A request is answered in the order of every call: its path and verb choose the method; the key is believed; only then
the body is taken from the wire, up to the limits, and read. Nothing is served to pages of other origins (no CORS), and
nothing of a request stands in any answer but JSON.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import Receive, Scope, Send

from calendar_server.errors import CalendarError, LimitExceeded, ValidationError, Violation
from calendar_server.peers import client_of
from calendar_server.sidecar.bindings import Binding, bindings
from calendar_server.sidecar.transcode import BODY, JsonValue, answer_json, as_json, read_request
from calendars.v1 import availability_pb2

PREFIX = "/v1"
DOCUMENT = ["v1", "openapi.json"]
"""The path of the document, between its slashes. It needs no key."""
JSON = "application/json"
MEDIA_TYPE = f"{JSON}; charset=utf-8"
RECEIVE_S = 10.0
"""Seconds that a body may take to arrive."""
QUERY_BYTES = 8192

R = TypeVar("R")

PROVIDER_ERROR = (502, "provider_error")
STATUSES: Mapping[str, tuple[int, str]] = {
    "VALIDATION_ERROR": (400, "validation_error"),
    "UNAUTHORIZED": (401, "unauthorized"),
    "NOT_FOUND": (404, "not_found"),
    "CONFLICT": (409, "conflict"),
    "SLOT_TAKEN": (409, "slot_taken"),
    "PROVIDER_REFUSED": PROVIDER_ERROR,
    "NEEDS_REAUTH": PROVIDER_ERROR,
    "ACCOUNT_MISMATCH": PROVIDER_ERROR,
    "CALENDAR_GONE": PROVIDER_ERROR,
    "CALENDAR_READ_ONLY": PROVIDER_ERROR,
    "ADMIN_CONSENT_REQUIRED": PROVIDER_ERROR,
    "SCOPE_MISSING": PROVIDER_ERROR,
    "PROVIDER_UNAVAILABLE": PROVIDER_ERROR,
    "PROVIDER_THROTTLED": PROVIDER_ERROR,
    "EVENT_UNREADABLE": PROVIDER_ERROR,
    "LIMIT_EXCEEDED": (429, "limit_exceeded"),
    "NOT_CONFIGURED": (501, "not_configured"),
    "STORE_UNAVAILABLE": (503, "unavailable"),
    "SERVICE_STOPPING": (503, "unavailable"),
    "INTERNAL": (500, "internal"),
}
"""Status and word for each reason of an error: the one table of this door."""


class Refused(Protocol):
    """How a call ended that failed. ``details`` is a serialized ``google.rpc.Status``."""

    @property
    def reason(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def details(self) -> bytes: ...


class Calls(Protocol):
    """Runs calls of the service, behind the checks that every call passes."""

    def call(
        self,
        rpc: str,
        request_ids: Sequence[str],
        authorization: Sequence[str],
        peer: str,
        take: Callable[[], Message],
        give: Callable[[Message], R],
        refuse: Callable[[Refused], R],
        /,
        *,
        traceparent: str = "",
    ) -> tuple[str, Future[R]]:
        """Begin a call; answers its request id and what will be its end.

        In the call's own thread ``take`` answers the request, and ``give`` or ``refuse`` makes of its end what is sent.
        """
        ...


def routes(service: ServiceDescriptor, calls: Calls, *, document: bytes, request_bytes: int) -> list[BaseRoute]:
    """The API of a service below ``/v1``, with the OpenAPI ``document`` that describes it."""
    return [Mount(PREFIX, app=Api(service, calls, document=document, request_bytes=request_bytes))]


class Api:
    """The ASGI app of all bindings of a service."""

    def __init__(
        self,
        service: ServiceDescriptor,
        calls: Calls,
        *,
        document: bytes,
        request_bytes: int,
        receive_s: float = RECEIVE_S,
    ) -> None:
        self._bindings = bindings(service)
        self._calls = calls
        self._document = document
        self._request_bytes = request_bytes
        self._receive_s = receive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._answer(scope, receive)
        await response(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        segments = scope["raw_path"].decode("latin-1").removeprefix("/").split("/")
        verbs: list[str] = []
        if segments == DOCUMENT:
            if scope["method"] == "GET":
                return Response(self._document, media_type=MEDIA_TYPE)
            verbs.append("GET")
        for binding in self._bindings:
            try:
                variables = binding.match(segments)
            except UnicodeDecodeError:
                # No id of ours or of a caller's is anything but UTF-8.
                continue
            if variables is None:
                continue
            if binding.verb == scope["method"]:
                return await self._call(binding, variables, scope, receive)
            verbs.append(binding.verb)
        if verbs:
            allow = ", ".join(sorted(set(verbs)))
            message = f"This path takes {allow}."
            return _error(405, "method_not_allowed", message, [], {"allow": allow})
        message = f"There is no such path. /{'/'.join(DOCUMENT)} describes those there are."
        return _error(404, "not_found", message, [])

    async def _call(self, binding: Binding, variables: Sequence[str], scope: Scope, receive: Receive) -> Response:
        headers = Headers(scope=scope)
        intake = _Intake(binding, variables, scope, receive, self._request_bytes, self._receive_s)
        call_id, ending = self._calls.call(
            binding.method.name,
            headers.getlist("x-request-id"),
            headers.getlist("authorization"),
            client_of(scope),
            intake.take,
            lambda response: _json(binding.status, answer_json(binding, response)),
            lambda refused: _refusal(binding, refused, intake.status),
            traceparent=headers.get("traceparent", ""),
        )
        response = await asyncio.wrap_future(ending)
        response.headers["x-request-id"] = call_id
        return response


class _Intake:
    """Takes one request from the wire."""

    def __init__(
        self,
        binding: Binding,
        variables: Sequence[str],
        scope: Scope,
        receive: Receive,
        request_bytes: int,
        receive_s: float,
    ) -> None:
        self.status: tuple[int, str] | None = None
        """What the answer is when the request could not be taken, where the reason says too little."""
        self._binding = binding
        self._variables = variables
        self._request = Request(scope, receive)
        self._request_bytes = request_bytes
        self._receive_s = receive_s
        self._loop = asyncio.get_running_loop()

    def take(self) -> Message:
        """The request. Called in the thread of the call; the loop receives the body meanwhile."""
        query = self._request.scope["query_string"]
        if len(query) > QUERY_BYTES:
            self.status = (414, "uri_too_long")
            raise ValidationError([Violation("query", f"must be at most {QUERY_BYTES} bytes")])
        body = self._body()
        return read_request(self._binding, self._variables, query, body)

    def _body(self) -> bytes:
        headers = self._request.headers
        length = headers.get("content-length", "0")
        comes = length != "0" or "transfer-encoding" in headers
        if not self._binding.body:
            if comes:
                raise ValidationError([Violation(BODY, "must be empty: this call takes path and query only")])
            return b""
        kind, _, parameters = headers.get("content-type", "").partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if kind.strip().lower() != JSON or charset not in ("", "charset=utf-8"):
            self.status = (415, "unsupported_media_type")
            raise ValidationError([Violation("content-type", f"must be {JSON}, in UTF-8")])
        if headers.get("content-encoding", "identity").lower() != "identity":
            self.status = (415, "unsupported_media_type")
            raise ValidationError([Violation("content-encoding", "must be absent: send the body as it is")])
        if length.isdigit() and len(length) < 20 and int(length) > self._request_bytes:
            raise self._too_large()
        receiving = asyncio.run_coroutine_threadsafe(self._receive(), self._loop)
        try:
            return receiving.result(self._receive_s)
        except TimeoutError:
            receiving.cancel()
            self.status = (408, "timeout")
            raise ValidationError([Violation(BODY, f"must arrive within {self._receive_s:g} seconds")]) from None
        except ClientDisconnect:
            raise ValidationError([Violation(BODY, "is missing: the caller is gone")]) from None

    async def _receive(self) -> bytes:
        received = bytearray()
        async for chunk in self._request.stream():
            received += chunk
            if len(received) > self._request_bytes:
                raise self._too_large()
        return bytes(received)

    def _too_large(self) -> CalendarError:
        self.status = (413, "limit_exceeded")
        return LimitExceeded(f"The body has more than {self._request_bytes} bytes. Send less at once.")


def _refusal(binding: Binding, refused: Refused, status: tuple[int, str] | None) -> Response:
    code, word = status or STATUSES.get(refused.reason, STATUSES["INTERNAL"])
    info, retry, wrong, failure = ErrorInfo(), RetryInfo(), BadRequest(), availability_pb2.BusyFailure()
    told = Status.FromString(refused.details)
    present = {
        type(kind): any(detail.Unpack(kind) for detail in told.details) for kind in (info, retry, wrong, failure)
    }
    headers = {}
    if present[RetryInfo]:
        delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        headers["retry-after"] = str(max(1, math.ceil(delay_s)))
    if code == 401:
        headers["www-authenticate"] = "Bearer"
    if code in (408, 413):
        # What is left of the body is not waited for.
        headers["connection"] = "close"
    message = refused.message
    if wrong.field_violations:
        details: list[JsonValue] = []
        for violation in wrong.field_violations:
            field = binding.shown(violation.field)
            if message.startswith(f"{violation.field}: "):
                message = field + message.removeprefix(violation.field)
            details.append({"field": field, "description": violation.description})
        return _error(code, word, message, details, headers)
    detail: dict[str, JsonValue] = {
        "reason": refused.reason.lower(),
        "metadata": dict(sorted(info.metadata.items())),
        "retry_at": _moment_in(delay_s) if present[RetryInfo] else None,
    }
    if present[availability_pb2.BusyFailure]:
        detail["calendars"] = [as_json(calendar) for calendar in failure.calendars]
    return _error(code, word, message, [detail], headers)


def _moment_in(seconds: float) -> str:
    moment = Timestamp()
    moment.FromSeconds(math.ceil(time.time() + seconds))
    return moment.ToJsonString()


def _error(
    status: int, code: str, message: str, details: list[JsonValue], headers: Mapping[str, str] | None = None
) -> Response:
    return _json(status, {"error": {"code": code, "message": message, "details": details}}, headers)


def _json(status: int, value: JsonValue, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(value, ensure_ascii=False) + "\n"
    return Response(text, status, dict(headers or {}), MEDIA_TYPE)
