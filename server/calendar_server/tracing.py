"""Spans for OpenTelemetry, where the extra ``otel`` is installed and the environment says where they go.

Otherwise nothing of OpenTelemetry is imported, and spans are nothing. A span has a name of ours and the attributes of
``KEYS``; no title, address, id of a connection or text of an exception can end up in one.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

_log = logging.getLogger(__name__)

KEYS = frozenset({"rpc", "code", "reason", "provider", "verb", "outcome", "attempts", "request_id", "database"})
"""The attributes that a span may have; each is shown as ``calendar.…``."""

Kind = Literal["server", "client", "internal"]
_WHERE = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Span:
    """A span under way; this one is nothing."""

    def set(self, **attributes: str | int) -> None:
        """Add attributes, of ``KEYS``."""

    def failed(self) -> None:
        """What it stands for went wrong."""


_NOWHERE = nullcontext(Span())


class Tracer:
    """Makes spans; this one makes nothing of them."""

    def span(
        self, name: str, *, kind: Kind = "internal", parent: str = "", link: str = "", **attributes: str | int
    ) -> AbstractContextManager[Span]:
        """Around a piece of work. ``parent`` and ``link``: a W3C ``traceparent`` that it belongs to, or was caused by."""
        return _NOWHERE

    def current(self) -> str:
        """The W3C ``traceparent`` of the span that this thread works in; empty when there is none."""
        return ""

    def close(self) -> None:
        """Send what is left."""


NO_TRACER = Tracer()


class _Otel(Span):
    def __init__(self, span: OtelSpan):
        self._span = span

    def set(self, **attributes: str | int) -> None:
        for name, value in _allowed(attributes).items():
            self._span.set_attribute(name, value)

    def failed(self) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR))


class OtelTracer(Tracer):
    """Makes spans by this provider of the SDK's."""

    def __init__(self, provider: TracerProvider):
        self._provider = provider
        self._tracer = provider.get_tracer("calendar_server")

    @contextmanager
    def span(
        self, name: str, *, kind: Kind = "internal", parent: str = "", link: str = "", **attributes: str | int
    ) -> Iterator[Span]:
        """See ``Tracer``. An exception that leaves marks the span as failed; its text stays out of it."""
        from opentelemetry.trace import Link, SpanKind, get_current_span

        context = _context(parent)
        linked = _context(link)
        links = [Link(get_current_span(linked).get_span_context())] if linked is not None else []
        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=SpanKind[kind.upper()],
            attributes=_allowed(attributes),
            links=links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            told = _Otel(span)
            try:
                yield told
            except BaseException:
                told.failed()
                raise

    def current(self) -> str:
        """See ``Tracer``."""
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def close(self) -> None:
        """See ``Tracer``."""
        self._provider.shutdown()


def open_tracer(process: str, environ: Mapping[str, str] | None = None) -> Tracer:
    """What the environment asks for: OpenTelemetry's own ``OTEL_…`` variables say where spans go, and which."""
    environ = os.environ if environ is None else environ
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    if off or not any(environ.get(name) for name in _WHERE):
        return NO_TRACER
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        _log.warning("tracing_not_installed")
        return NO_TRACER
    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "calendar-service"}
    provider = TracerProvider(resource=Resource.create({**named, "calendar.process": process}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _log.info("tracing")
    return OtelTracer(provider)


def traceparent_of(told: str) -> str:
    """The ``traceparent`` that a caller sent, if it is one (https://www.w3.org/TR/trace-context/); else empty."""
    return told if _TRACEPARENT.fullmatch(told) else ""


def _allowed(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {f"calendar.{name}": value for name, value in attributes.items() if name in KEYS}


def _context(traceparent: str) -> Any:
    """The context that a ``traceparent`` names; None without one: the context of the thread."""
    if not traceparent_of(traceparent):
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # An empty context to begin with: nothing of the thread's own spans may mix in.
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
