"""Traces: a call, what it caused, and nothing in them that is anybody's business."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from calendar_server.tracing import KEYS, NO_TRACER, OtelTracer, open_tracer, traceparent_of
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.conftest import Person, Stub, at, busy_request, serving, span, sqlite_settings
from tests.e2e.test_operation import book, eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter: InMemorySpanExporter) -> OtelTracer:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return OtelTracer(provider)


def test_a_span_belongs_to_the_caller_s_trace(tracer: OtelTracer, exporter: InMemorySpanExporter) -> None:
    with tracer.span("List", kind="server", parent=TRACEPARENT, rpc="List"):
        assert tracer.current().split("-")[1] == TRACE
    (made,) = exporter.get_finished_spans()
    assert f"{made.context.trace_id:032x}" == TRACE
    assert made.parent is not None
    assert f"{made.parent.span_id:016x}" == PARENT


def test_a_span_is_linked_to_what_caused_it_and_has_a_trace_of_its_own(
    tracer: OtelTracer, exporter: InMemorySpanExporter
) -> None:
    with tracer.span("push", link=TRACEPARENT):
        pass
    (made,) = exporter.get_finished_spans()
    assert [f"{link.context.trace_id:032x}" for link in made.links] == [TRACE]
    assert made.parent is None
    assert f"{made.context.trace_id:032x}" != TRACE


def test_other_attributes_than_ours_are_left_out(tracer: OtelTracer, exporter: InMemorySpanExporter) -> None:
    with tracer.span("push", title="hunter2", provider="caldav") as told:
        told.set(url="hunter2", outcome="synced")
    (made,) = exporter.get_finished_spans()
    assert dict(made.attributes or {}) == {"calendar.provider": "caldav", "calendar.outcome": "synced"}


def test_an_exception_marks_a_span_without_its_text(tracer: OtelTracer, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="hunter2"), tracer.span("push"):
        raise ValueError("hunter2")
    (made,) = exporter.get_finished_spans()
    assert not made.status.is_ok
    assert made.status.description is None
    assert made.events == ()
    assert "hunter2" not in made.to_json()


@pytest.mark.parametrize(
    "told",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"01-{TRACE}-{PARENT}-01",
        TRACEPARENT.upper(),
        f"{TRACEPARENT}\n",
        f"{TRACEPARENT}-x",
    ],
)
def test_what_is_no_traceparent_begins_a_new_trace(
    tracer: OtelTracer, exporter: InMemorySpanExporter, told: str
) -> None:
    assert traceparent_of(told) == ""
    with tracer.span("List", parent=told):
        pass
    assert exporter.get_finished_spans()[0].parent is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "calendar"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_traced_unless_the_environment_says_where_to(environment: dict[str, str]) -> None:
    assert open_tracer("server", environment) is NO_TRACER


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


def test_without_it_nothing_of_opentelemetry_is_imported() -> None:
    done = python(
        "import sys, calendar_server.app, calendar_server.rpc.server\n"
        "from calendar_server.tracing import open_tracer\n"
        "with open_tracer('server', {}).span('List', parent='x', rpc='List') as told: told.set(code='OK')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert done.stdout == "[]\n", done.stderr


def test_where_the_extra_is_missing_the_service_runs_and_says_so() -> None:
    done = python(
        "import sys, logging\n"
        "sys.modules['opentelemetry'] = None\n"
        "from calendar_server.tracing import NO_TRACER, open_tracer\n"
        "from calendar_server.telemetry import configure_logging\n"
        "configure_logging('info')\n"
        "print(open_tracer('server', {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:1'}) is NO_TRACER)"
    )
    assert done.stdout == "True\n"
    assert "tracing_not_installed" in done.stderr


# The whole service


@dataclass
class Collector:
    """Takes what OpenTelemetry sends, and keeps it."""

    port: int = 0
    raw: list[bytes] = field(default_factory=list)

    @property
    def spans(self) -> list[SentSpan]:
        found: list[SentSpan] = []
        for body in list(self.raw):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found += [each for scope in resource.scope_spans for each in scope.spans]
        return found

    def named(self, name: str) -> list[SentSpan]:
        return [each for each in self.spans if each.name == name]


@contextmanager
def collector() -> Iterator[Collector]:
    kept = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.raw.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.port = server.server_address[1]
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()


def test_a_booking_can_be_followed_from_its_call_into_the_calendar(tmp_path: Path, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "own", f"{span(at(7), at(8))}\nSUMMARY:Dentist")
    with collector() as sent:
        settings = sqlite_settings(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{sent.port}",
            OTEL_EXPORTER_OTLP_COMPRESSION="none",
            OTEL_BSP_SCHEDULE_DELAY="100",
            CALENDAR_HTTP_API="1",
        )
        with serving(settings, tmp_path) as running:
            stub = Stub(running.address, running.key())
            connection = stub.connect(person)
            stub("GetBusy", busy_request(connection.id))
            stub._metadata = (*stub._metadata, ("traceparent", TRACEPARENT))
            book(stub, connection.id, "traced-1", request_id="r-traced")
            assert stub.code("List", pb.ListRequest(page_size=-1)).name == "INVALID_ARGUMENT"
            headers = {"authorization": stub._metadata[0][1], "traceparent": TRACEPARENT}
            path = f"{running.http}/v1/bookings/traced-1"
            eventually(lambda: httpx.get(f"{running.http}/healthz", trust_env=False).is_success)
            httpx.get(path, headers=headers, trust_env=False).raise_for_status()
            for name in ("push", "SyncBooking", "provider put", "GetBooking"):
                eventually(partial(sent.named, name))
            stub.close()
        (call,) = sent.named("SyncBooking")
        (push,) = sent.named("push")
        assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
        (by_http,) = sent.named("GetBooking")
        assert (by_http.trace_id.hex(), by_http.parent_span_id.hex()) == (TRACE, PARENT)
        assert [(link.trace_id, link.span_id) for link in push.links] == [(call.trace_id, call.span_id)]
        assert any(each.parent_span_id == call.span_id for each in sent.named("transaction"))
        (put,) = sent.named("provider put")
        assert (put.trace_id, put.parent_span_id) == (push.trace_id, push.span_id)
        (read,) = [
            each for each in sent.named("provider refresh") if each.trace_id == sent.named("GetBusy")[0].trace_id
        ]
        assert {each.key: each.value.string_value for each in read.attributes} == {
            "calendar.provider": "caldav",
            "calendar.verb": "refresh",
            "calendar.reason": "OK",
        }
        allowed = {f"calendar.{key}" for key in KEYS}
        assert {attribute.key for each in sent.spans for attribute in each.attributes} <= allowed
        said = b"".join(sent.raw)
        for secret in ("Secret interview", "Dentist", person.name, person.password, connection.id, calendar, "Bearer"):
            assert secret.encode() not in said
