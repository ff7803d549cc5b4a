"""HTTP's door on a real port, before use cases that keep everything in memory."""

from __future__ import annotations

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.routing import Mount

from calendar_server import errors
from calendar_server.config import Config, ConfigError
from calendar_server.core.model import BusyState, CalendarId, ConnectionId, Interval
from calendar_server.metrics import Metrics
from calendar_server.rpc.calls import Calls
from calendar_server.rpc.dispatch import Dispatch
from calendar_server.rpc.server import RpcServer, build_server
from calendar_server.rpc.servicer import CalendarServicer
from calendar_server.sidecar.api import STATUSES, Api
from calendar_server.sidecar.app import SECURITY_HEADERS, Sidecar
from calendar_server.sidecar.openapi import CODES, ERRORS
from calendar_server.telemetry import configure_logging
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import BusyAnswer, CalendarBusy, Problem
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import errors_pb2
from tests.e2e.rpc.world import KEY, OTHER_KEY, Availability, Bookings, Connections, Keys

ACCOUNT = {"preset": "custom", "username": "anna", "password": "hunter2", "server_url": "https://dav.example.org/"}
DOCUMENT = b'{"openapi": "3.1.0"}'
BYTES_MOST = 5000
THREADS = 8

EVERY_PATH = [
    ("GET", "/v1/calendars/google/connect"),
    ("GET", "/v1/calendars/microsoft/connect"),
    ("POST", "/v1/calendars/caldav/connect"),
    ("GET", "/v1/calendars"),
    ("DELETE", "/v1/calendars/cal_1"),
    ("PATCH", "/v1/calendars/cal_1"),
    ("GET", "/v1/calendars/cal_1/calendars"),
    ("POST", "/v1/busy"),
    ("PUT", "/v1/bookings/b"),
    ("GET", "/v1/bookings/b"),
]


@dataclass
class Encoded:
    """A message in its bytes."""

    raw: bytes

    def SerializeToString(self) -> bytes:
        return self.raw


@dataclass
class World:
    """A running sidecar with the API, and what lies behind it."""

    rpc: RpcServer
    keys: Keys
    connections: Connections
    availability: Availability
    bookings: Bookings
    metrics: Metrics
    client: httpx.Client
    port: int

    def call(self, method: str, path: str, *, key: str | None = KEY, **more: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        headers |= more.pop("headers", {})  # type: ignore[arg-type]
        return self.client.request(method, path, headers=headers, **more)  # type: ignore[arg-type]

    def busy(self, **more: object) -> httpx.Response:
        now = datetime.now(UTC).replace(microsecond=0)
        window = {"start_time": now.isoformat(), "end_time": (now + timedelta(days=1)).isoformat()}
        return self.call("POST", "/v1/busy", json=window, **more)

    def raw(self, sent: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(sent)
        return connection


@contextmanager
def running(receive_s: float = 10.0) -> Iterator[World]:
    keys, connections, availability, bookings, metrics = Keys(), Connections(), Availability(), Bookings(), Metrics()
    config = Config(grpc_address="127.0.0.1:0", grpc_threads=THREADS)
    rpc = build_server(
        config,
        connections=connections,
        availability=availability,
        bookings=bookings,
        authenticator=keys,
        metrics=metrics,
    )
    service = pb.DESCRIPTOR.services_by_name["CalendarService"]
    api = Api(service, rpc.dispatch, document=DOCUMENT, request_bytes=BYTES_MOST, receive_s=receive_s)
    sidecar = Sidecar("127.0.0.1:0", checks=list, metrics=metrics.text, routes=[Mount("/v1", app=api)])
    sidecar.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{sidecar.port}", trust_env=False, timeout=30) as client:
        yield World(rpc, keys, connections, availability, bookings, metrics, client, sidecar.port)
    rpc.stop(0)
    sidecar.stop()


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with running() as started:
        yield started


@pytest.fixture
def world(shared: World) -> World:
    """A world that has seen no call of a test before, but counts go on."""
    shared.connections.rows.clear()
    shared.bookings.rows.clear()
    shared.availability.error = None
    return shared


@pytest.fixture
def fresh() -> Iterator[World]:
    """A world of one test's own."""
    with running() as started:
        yield started


def told(answer: httpx.Response) -> tuple[int, str]:
    """How a call failed: status and code. The form is always the same."""
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body = answer.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "message", "details"]
    assert body["error"]["code"] in CODES
    return answer.status_code, body["error"]["code"]


def details(answer: httpx.Response) -> list[dict[str, object]]:
    return answer.json()["error"]["details"]  # type: ignore[no-any-return]


def fields(answer: httpx.Response) -> list[object]:
    return [detail["field"] for detail in details(answer)]


# Answers


def test_a_caldav_account_is_connected(world: World) -> None:
    answer = world.call("POST", "/v1/calendars/caldav/connect?owner=anna", json=ACCOUNT)
    assert answer.status_code == 201
    assert (answer.json()["id"], answer.json()["owner"]) == ("cal_1", "anna")
    assert ("org_one", "cal_1") in world.connections.rows


def test_a_method_may_answer_with_bytes_that_are_made_already() -> None:
    class Bytes(CalendarServicer):
        def GetBusy(self, request: pb.GetBusyRequest, context: object) -> pb.GetBusyResponse:
            return Encoded(pb.GetBusyResponse(complete=True).SerializeToString())  # type: ignore[return-value]

    servicer = Bytes(Connections(), Availability(), Bookings())
    dispatch = Dispatch(servicer, Calls(Keys(), Metrics()), threads=1)
    _, ending = dispatch.call("GetBusy", [], [f"Bearer {KEY}"], "192.0.2.1", pb.GetBusyRequest, str, str)
    assert ending.result(20) == "complete: true\n"
    dispatch.stop()


@pytest.mark.parametrize("provider", ["google", "microsoft"])
def test_the_url_for_a_browser_is_json_not_a_redirect(world: World, provider: str) -> None:
    answer = world.call("GET", f"/v1/calendars/{provider}/connect", params={"redirect_uri": "https://a.example/"})
    assert answer.status_code == 200
    assert answer.json() == {"authorization_url": f"https://accounts.example.com/{provider}"}


def test_what_another_organization_owns_is_not_there(world: World) -> None:
    world.call("POST", "/v1/calendars/caldav/connect", json=ACCOUNT)
    foreign = world.call("DELETE", "/v1/calendars/cal_1", key=OTHER_KEY)
    made_up = world.call("DELETE", "/v1/calendars/cal_2")
    assert told(foreign) == told(made_up) == (404, "not_found")
    assert foreign.json() == made_up.json()
    assert world.call("GET", "/v1/calendars", key=OTHER_KEY).json()["data"] == []
    assert world.call("DELETE", "/v1/calendars/cal_1").json() == {"id": "cal_1", "deleted": True}


def test_an_id_may_hold_whatever_a_url_can_carry(world: World) -> None:
    body = {"booking": {"revision": 1, "status": "cancelled"}}
    answer = world.call("PUT", "/v1/bookings/a%2Fb%3Fc%20%C3%BC%25", json=body)
    assert answer.json()["booking"]["id"] == "a/b?c ü%"
    assert world.call("GET", "/v1/bookings/a%2Fb%3Fc%20%C3%BC%25").json() == answer.json()


def test_text_is_utf8_as_it_is(world: World) -> None:
    body = {"booking": {"revision": 1, "status": "cancelled", "title": "Größe"}}
    assert "Größe".encode() in world.call("PUT", "/v1/bookings/a", json=body).content


def test_the_description_needs_no_key(world: World) -> None:
    answer = world.call("GET", "/v1/openapi.json", key=None)
    assert (answer.status_code, answer.content) == (200, DOCUMENT)


# Keys


@pytest.mark.parametrize(("method", "path"), EVERY_PATH)
def test_every_path_wants_a_key(world: World, method: str, path: str) -> None:
    answer = world.call(method, path, key=None)
    assert told(answer) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_every_bad_key_hears_the_same(world: World) -> None:
    unknown = "calkey_0123456789abcdef_" + "c" * 64
    values = [None, f"Bearer {unknown}", "Bearer x", "Basic YTpi", KEY, f"Bearer  {unknown}x", ""]
    answers = [
        world.call("GET", "/v1/calendars", key=None, headers={"authorization": value} if value is not None else {})
        for value in values
    ]
    answers.append(world.client.get("/v1/calendars", headers=[("authorization", f"Bearer {KEY}")] * 2))
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1


def test_a_key_is_believed_before_the_body_is_looked_at(world: World) -> None:
    for body in (b"{", b"x" * (BYTES_MOST + 1)):
        answer = world.call("POST", "/v1/busy", key="calkey_nobody", content=body)
        assert told(answer) == (401, "unauthorized")


# Errors


def every_error() -> dict[str, Exception]:
    return {
        "VALIDATION_ERROR": errors.ValidationError([errors.Violation("owner", "is too long")]),
        "UNAUTHORIZED": errors.Unauthorized(),
        "NOT_FOUND": errors.NotFound("There is no such thing."),
        "CONFLICT": errors.Conflict("cal_7"),
        "PROVIDER_REFUSED": errors.ProviderRefused("The password is wrong.", cause="credentials"),
        "NEEDS_REAUTH": errors.NeedsReauth(),
        "ACCOUNT_MISMATCH": errors.AccountMismatch("Another account."),
        "CALENDAR_GONE": errors.CalendarGone("It is gone."),
        "CALENDAR_READ_ONLY": errors.CalendarReadOnly("It cannot be written."),
        "ADMIN_CONSENT_REQUIRED": errors.AdminConsentRequired("An administrator must consent."),
        "SCOPE_MISSING": errors.ScopeMissing("Leave the boxes ticked."),
        "PROVIDER_UNAVAILABLE": errors.ProviderUnavailable("It did not answer."),
        "PROVIDER_THROTTLED": errors.ProviderThrottled("Slow down.", retry_after_s=90),
        "EVENT_UNREADABLE": errors.EventUnreadable("/work/a.ics"),
        "NOT_CONFIGURED": errors.NotConfigured("CALENDAR_GOOGLE_CLIENT_ID", "Set it."),
        "SLOT_TAKEN": errors.SlotTaken("Something else is there."),
        "LIMIT_EXCEEDED": errors.LimitExceeded("Too much."),
        "STORE_UNAVAILABLE": errors.StoreUnavailable(),
        "SERVICE_STOPPING": errors.ServiceStopping(),
        "INTERNAL": RuntimeError("hunter2"),
    }


EXPECTED = {
    "VALIDATION_ERROR": (400, "validation_error"),
    "UNAUTHORIZED": (401, "unauthorized"),
    "NOT_FOUND": (404, "not_found"),
    "CONFLICT": (409, "conflict"),
    "NOT_CONFIGURED": (501, "not_configured"),
    "SLOT_TAKEN": (409, "slot_taken"),
    "LIMIT_EXCEEDED": (429, "limit_exceeded"),
    "STORE_UNAVAILABLE": (503, "unavailable"),
    "SERVICE_STOPPING": (503, "unavailable"),
    "INTERNAL": (500, "internal"),
}
"""What is not here is the provider's: 502."""


def test_every_reason_has_a_status() -> None:
    reasons = {name.removeprefix("ERROR_REASON_") for name, _ in errors_pb2.ErrorReason.items()} - {"UNSPECIFIED"}
    assert set(STATUSES) == set(every_error()) == reasons
    assert {status for status, _ in STATUSES.values()} <= set(ERRORS)


@pytest.mark.parametrize("reason", every_error())
def test_an_error_by_the_table(world: World, reason: str) -> None:
    world.availability.error = every_error()[reason]
    answer = world.busy()
    assert told(answer) == EXPECTED.get(reason, (502, "provider_error"))
    if reason == "VALIDATION_ERROR":
        assert details(answer) == [{"field": "owner", "description": "is too long"}]
        return
    [detail] = details(answer)
    assert list(detail) == ["reason", "metadata", "retry_at"]
    assert detail["reason"] == reason.lower()


def test_the_metadata_of_an_error_is_told(world: World) -> None:
    world.availability.error = errors.Conflict("cal_7")
    assert details(world.busy())[0]["metadata"] == {"connectionId": "cal_7"}


def test_where_waiting_helps_it_is_told_twice(world: World) -> None:
    world.availability.error = errors.ProviderThrottled("Slow down.", retry_after_s=89.5)
    answer = world.busy()
    assert answer.headers["retry-after"] == "90"
    at = datetime.fromisoformat(str(details(answer)[0]["retry_at"]))
    assert timedelta(seconds=60) < at - datetime.now(UTC) <= timedelta(seconds=91)
    world.availability.error = errors.NeedsReauth()
    answer = world.busy()
    assert "retry-after" not in answer.headers
    assert details(answer)[0]["retry_at"] is None


def test_the_unforeseen_tells_the_request_id_and_nothing_else(world: World) -> None:
    world.availability.error = RuntimeError("hunter2")
    answer = world.busy(headers={"x-request-id": "mine-1"})
    assert "hunter2" not in answer.text
    assert details(answer) == [{"reason": "internal", "metadata": {"requestId": "mine-1"}, "retry_at": None}]


def test_busy_times_that_cannot_be_read_name_every_calendar(world: World) -> None:
    calendars = tuple(
        CalendarBusy(
            ConnectionId(f"cal_{number}"),
            CalendarId("/work/"),
            BusyState.UNKNOWN,
            problem=Problem("NEEDS_REAUTH", "Connect again."),
        )
        for number in (1, 2)
    )
    world.availability.error = BusyUnknown(errors.NeedsReauth(), calendars)
    answer = world.busy()
    assert told(answer) == (502, "provider_error")
    failed = details(answer)[0]["calendars"]
    assert isinstance(failed, list)
    assert [(each["connection_id"], each["state"], each["problem"]["reason"]) for each in failed] == [
        ("cal_1", "unknown", "needs_reauth"),
        ("cal_2", "unknown", "needs_reauth"),
    ]


def test_a_wrong_field_has_the_name_that_its_caller_sent(world: World) -> None:
    answer = world.call("POST", "/v1/calendars/caldav/connect", json={**ACCOUNT, "preset": "apple"})
    assert told(answer) == (400, "validation_error")
    assert fields(answer) == ["server_url"]
    assert answer.json()["error"]["message"].startswith("server_url: must be empty")
    assert fields(world.call("GET", "/v1/calendars/google/connect")) == ["redirect_uri"]
    assert fields(world.call("PATCH", "/v1/calendars/cal_1", json={"calendar_id": ""})) == ["calendar_id"]


def test_unknown_names_are_refused_by_name(world: World) -> None:
    assert fields(world.call("GET", "/v1/calendars?limit=5")) == ["limit"]
    assert fields(world.call("POST", "/v1/calendars/caldav/connect", json={**ACCOUNT, "pasword": "x"})) == ["pasword"]
    assert world.connections.rows == {}


# What is no call


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/calendars", "GET"),
        ("HEAD", "/v1/calendars", "GET"),
        ("OPTIONS", "/v1/calendars", "GET"),
        ("GET", "/v1/calendars/cal_1", "DELETE, PATCH"),
        ("PUT", "/v1/calendars/cal_1", "DELETE, PATCH"),
        ("BREW", "/v1/busy", "POST"),
        ("GET", "/v1/busy", "POST"),
        ("POST", "/v1/bookings/b", "GET, PUT"),
        ("POST", "/v1/openapi.json", "GET"),
    ],
)
def test_a_verb_that_a_path_does_not_take(world: World, method: str, path: str, allow: str) -> None:
    answer = world.call(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    if method != "HEAD":
        assert told(answer) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    ["/v1/", "/v1/nothing", "/v1/calendars/", "/v1/bookings/", "/v1/bookings/a/b", "/v1/bookings/%FF", "/v1//busy"],
)
def test_a_path_that_there_is_not(world: World, path: str) -> None:
    assert told(world.call("GET", path)) == (404, "not_found")


def test_no_answer_repeats_what_was_sent_but_names_in_json(world: World) -> None:
    for answer in (world.call("GET", "/v1/<script>"), world.call("GET", "/v1/calendars?%3Cscript%3E=1")):
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_a_body_is_json_as_it_is(world: World, headers: dict[str, str]) -> None:
    answer = world.call("POST", "/v1/busy", content=b"{}", headers=headers)
    assert told(answer) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json;charset=UTF-8", 'Application/JSON; charset="utf-8"']
)
def test_the_charset_may_be_named(world: World, kind: str) -> None:
    answer = world.call("POST", "/v1/busy", content=b"{", headers={"content-type": kind})
    assert (told(answer), fields(answer)) == ((400, "validation_error"), ["body"])


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/calendars"), ("DELETE", "/v1/calendars/cal_1")])
def test_a_call_without_a_body_takes_none(world: World, method: str, path: str) -> None:
    answer = world.call(method, path, content=b"{}", headers={"content-type": "application/json"})
    assert (told(answer), fields(answer)) == ((400, "validation_error"), ["body"])


# Limits


def test_a_body_that_says_it_is_too_large_is_not_read(world: World) -> None:
    head = f"POST /v1/busy HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    connection = world.raw(f"{head}content-length: {BYTES_MOST + 1}\r\n\r\n".encode())
    received = b""
    while chunk := connection.recv(4096):
        received += chunk
    connection.close()
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "limit_exceeded"' in received


def test_a_body_that_turns_out_too_large_is_refused(world: World) -> None:
    def chunks() -> Iterator[bytes]:
        yield b" " * BYTES_MOST
        yield b"{}"

    headers = {"content-type": "application/json"}
    assert told(world.call("POST", "/v1/busy", content=chunks(), headers=headers)) == (413, "limit_exceeded")
    whole = b" " * (BYTES_MOST - 2) + b"{}"
    assert told(world.call("POST", "/v1/busy", content=whole, headers=headers)) == (400, "validation_error")


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    with running(receive_s=0.2) as world:
        head = f"POST /v1/busy HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        connection = world.raw(f"{head}content-length: 100\r\n\r\n{{".encode())
        received = b""
        while chunk := connection.recv(4096):
            received += chunk
        connection.close()
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b'"code": "timeout"' in received


def test_a_caller_that_goes_away_leaves_nothing_behind(fresh: World) -> None:
    head = f"POST /v1/busy HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
    fresh.raw(f"{head}content-length: 100\r\n\r\n{{".encode()).close()
    until = time.monotonic() + 20
    while (
        b'calendar_calls_total{code="INVALID_ARGUMENT",process="server",rpc="GetBusy"} 1.0' not in fresh.metrics.text()
    ):
        assert time.monotonic() < until
    while fresh.rpc.load:
        assert time.monotonic() < until


def test_an_answer_that_would_be_too_large_is_refused(world: World) -> None:
    before = world.availability.answer
    world.availability.answer = BusyAnswer(tuple(Interval(n, n + 1) for n in range(0, 600_000, 2)), True, ())
    answer = world.busy()
    world.availability.answer = before
    assert told(answer) == (429, "limit_exceeded")
    assert "Ask for less at once." in answer.json()["error"]["message"]
    assert "retry-after" not in answer.headers


def test_a_query_that_is_too_long_is_refused(world: World) -> None:
    assert fields(world.call("GET", f"/v1/calendars?page_token={'x' * 8192}")) == ["query"]


def test_more_calls_than_may_run_and_wait_are_turned_away_at_once(fresh: World) -> None:
    fresh.availability.gate = threading.Event()
    with ThreadPoolExecutor(2 * THREADS) as callers:
        waiting = [callers.submit(fresh.busy) for _ in range(2 * THREADS)]
        for _ in range(THREADS):
            assert fresh.availability.arrived.acquire(timeout=20)
        until = time.monotonic() + 20
        while fresh.rpc.load < 2 * THREADS:
            assert time.monotonic() < until
        answer = fresh.call("GET", "/v1/calendars")
        assert told(answer) == (429, "limit_exceeded")
        assert answer.headers["retry-after"] == "1"
        assert fresh.client.get("/healthz").status_code == 200
        fresh.availability.gate.set()
        assert {each.result().status_code for each in waiting} == {200}
    assert fresh.call("GET", "/v1/calendars").status_code == 200


def test_a_stop_lets_calls_in_progress_finish_and_no_other_begin(fresh: World) -> None:
    gate = fresh.availability.gate = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(fresh.busy)
        assert fresh.availability.arrived.acquire(timeout=20)
        stopping = threads.submit(fresh.rpc.stop, 20)
        until = time.monotonic() + 20
        while (answer := fresh.call("GET", "/v1/calendars")).status_code == 200:
            assert time.monotonic() < until
        assert told(answer) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        assert not stopping.done()
        gate.set()
        assert waiting.result().status_code == 200
        stopping.result(20)


# Traces


def test_the_callers_request_id_comes_back(world: World) -> None:
    assert world.busy(headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    world.availability.error = errors.NotFound("No.")
    assert world.busy(headers={"x-request-id": "mine-2"}).headers["x-request-id"] == "mine-2"


def test_a_call_without_a_good_request_id_gets_one(world: World) -> None:
    given = [world.busy(headers=headers).headers["x-request-id"] for headers in ({}, {"x-request-id": "no good"})]
    assert all(len(each) == 16 for each in given)
    assert given[0] != given[1]


def test_a_call_is_told_like_any_other(fresh: World) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    configure_logging("info", stream)
    try:
        fresh.busy(headers={"x-request-id": "mine-1"})
        fresh.call("POST", "/v1/busy", json={"owner": 1})
        fresh.call("GET", "/v1/calendars", key=None)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["rpc"], line["code"], line.get("reason"), line.get("organization")) for line in lines] == [
        ("GetBusy", "OK", None, "org_one"),
        ("GetBusy", "INVALID_ARGUMENT", "VALIDATION_ERROR", "org_one"),
        ("List", "UNAUTHENTICATED", "UNAUTHORIZED", None),
    ]
    assert lines[0]["request_id"] == "mine-1"
    metrics = fresh.metrics.text().decode()
    assert 'calendar_calls_total{code="OK",process="server",rpc="GetBusy"} 1.0' in metrics
    assert 'calendar_calls_total{code="UNAUTHENTICATED",process="server",rpc="List"} 1.0' in metrics


@pytest.mark.parametrize("name", SECURITY_HEADERS)
@pytest.mark.parametrize("path", ["/v1/calendars", "/v1/nothing", "/v1/openapi.json", "/v1/busy"])
def test_every_answer_carries_the_security_headers(world: World, path: str, name: str) -> None:
    answer = world.call("GET", path, headers={"origin": "https://elsewhere.example"})
    assert answer.headers[name] == SECURITY_HEADERS[name]
    assert not [header for header in answer.headers if header.startswith("access-control")]


# The setting


def test_the_api_wants_loopback_or_tls_in_front() -> None:
    assert Config(http_api=True).problems() == []
    assert Config(http_address="0.0.0.0:8080").problems() == []
    assert Config(http_api=True, http_address="0.0.0.0:8080", plaintext=True).problems() == []
    with pytest.raises(ConfigError, match=r"CALENDAR_HTTP_API: .* API keys must not travel without TLS"):
        Config.from_environment({"CALENDAR_HTTP_API": "1", "CALENDAR_HTTP_ADDRESS": "0.0.0.0:8080"})
