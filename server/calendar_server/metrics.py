"""What is counted, for Prometheus: every name and label once, in ``ALL``. docs/metrics.md is made of it and held by a test.

Label values are words of ours, never an id, a host or anything that a peer said: their number is bounded. What the
database tells (``told``) is asked at every scrape and is about the whole installation, whoever answers: several replicas
tell the same. All else counts one process and is to be summed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_log = logging.getLogger(__name__)

PROCESS = "process"
"""The label that every sample carries: ``server``, ``server-2`` and so on, ``worker``."""

Kind = Literal["counter", "histogram", "gauge"]
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
AGES = (1, 5, 10, 20, 30, 45, 60, 90, 120, 300, 900, 3600, 14_400, 86_400)


@dataclass(frozen=True, slots=True)
class Measure:
    """One thing that is measured. A counter is scraped with ``_total`` at its end, a histogram with ``_bucket``,
    ``_sum`` and ``_count``. ``labels``: each with the words it may be."""

    name: str
    kind: Kind
    help: str
    labels: Mapping[str, str]
    buckets: tuple[float, ...] = ()
    of_installation: bool = False

    def scraped_names(self) -> tuple[str, ...]:
        """The names that a scrape shows."""
        if self.kind == "counter":
            return (f"{self.name}_total",)
        if self.kind == "histogram":
            return tuple(f"{self.name}_{end}" for end in ("bucket", "sum", "count"))
        return (self.name,)


_PROVIDER = "google, microsoft, caldav"
_REASON = "OK, or the reason of the error (`ErrorReason` of the contract); CHANGED: the event changed under our hands"

CALLS = Measure(
    "calendar_calls",
    "counter",
    "Calls that ended.",
    {"rpc": "the method", "code": "OK, NOT_FOUND, …: the canonical code"},
)
CALL_SECONDS = Measure(
    "calendar_call_seconds",
    "histogram",
    "Seconds from a call's arrival in its thread to its answer. Streams of WatchBusy are not in it.",
    {"rpc": "the method"},
    SECONDS,
)
WATCH_STREAMS = Measure("calendar_watch_streams", "gauge", "Streams of WatchBusy that are open.", {})
BUSY_ANSWERS = Measure(
    "calendar_busy_answers", "counter", "Calendars told of by GetBusy.", {"state": "fresh, stale, unknown"}
)
BUSY_AGE = Measure(
    "calendar_busy_age_seconds",
    "histogram",
    "Seconds from the beginning of the oldest read that an answer of GetBusy rests on to the answer.",
    {},
    AGES,
)
MIRROR = Measure(
    "calendar_mirror_questions",
    "counter",
    "Calendars that GetBusy needed: known well enough (hit), or their provider had to be asked (miss).",
    {"outcome": "hit, miss"},
)
REFRESHES = Measure(
    "calendar_refreshes",
    "counter",
    "Calendars that were read again, by a call or ahead of time.",
    {
        "provider": _PROVIDER,
        "outcome": "unchanged (its provider said so), changed, full (read in full), failed",
        "reason": _REASON,
    },
)
CONVERSATIONS = Measure(
    "calendar_provider_conversations",
    "counter",
    "Conversations with providers. One may be several requests.",
    {
        "provider": _PROVIDER,
        "verb": "connect, renew, list, read, refresh, find, put, delete, watch, extend, unwatch",
        "reason": _REASON,
    },
)
CONVERSATION_SECONDS = Measure(
    "calendar_provider_conversation_seconds",
    "histogram",
    "Seconds of a conversation with a provider.",
    {"provider": _PROVIDER, "verb": "as above"},
    SECONDS,
)
PUSHES = Measure(
    "calendar_pushes",
    "counter",
    "Pushes of bookings into calendars.",
    {
        "provider": f"{_PROVIDER}; none: the connection is gone",
        "outcome": "synced, removed, failed, deferred (tried again), yielded (something newer is wanted)",
        "reason": _REASON,
    },
)
PUSH_WAIT = Measure(
    "calendar_push_wait_seconds",
    "histogram",
    "Seconds from a push's due time to the beginning of its first attempt.",
    {},
    (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200),
)
PUSH_HOSTS = Measure(
    "calendar_push_hosts",
    "gauge",
    "Hosts (CalDAV servers, Google, Microsoft) that pushes are kept from at this moment.",
    {"state": "closed (not answering: tried again after a pause), crowded (as many calls hang there as may)"},
)
NOTIFICATIONS = Measure(
    "calendar_notifications",
    "counter",
    "Notifications that providers sent, or somebody in their name.",
    {"provider": "google, microsoft", "outcome": "believed, forged (or of a watch that is not known any more)"},
)
EXPANDER_KILLS = Measure(
    "calendar_expander_kills", "counter", "Children killed while they read calendar text: they overran a limit.", {}
)
STORE_WAITS = Measure(
    "calendar_store_wait_seconds",
    "histogram",
    "Seconds that somebody had to wait for the database, where there was a wait at all.",
    {"what": "connection (the pool was empty), writer (SQLite's only one)"},
    SECONDS,
)
OUTBOX = Measure(
    "calendar_outbox_events",
    "gauge",
    "Events of bookings by how far they have come.",
    {"state": "pending, synced, failed, removed, gone, detached"},
    of_installation=True,
)
OUTBOX_LAG = Measure(
    "calendar_outbox_lag_seconds",
    "gauge",
    "Seconds since the oldest push that could be made now came due. 0: none waits.",
    {},
    of_installation=True,
)
MIRROR_LAG = Measure(
    "calendar_mirror_lag_seconds",
    "gauge",
    "Seconds since the oldest read that a calendar in use rests on began. 0: none is in use.",
    {},
    of_installation=True,
)
CONNECTIONS = Measure(
    "calendar_connections",
    "gauge",
    "Connections that are not disconnected.",
    {"provider": _PROVIDER, "status": "active, needs_reauth"},
    of_installation=True,
)
WATCHES = Measure(
    "calendar_watches",
    "gauge",
    "Watches: standing requests to be told of changes.",
    {"state": "making, active, failed, ending"},
    of_installation=True,
)
PROCESS_UP = Measure(
    "calendar_process_up",
    "gauge",
    "1: the process answered this scrape. 0: it is beside this one and did not (it may be starting).",
    {},
)

ALL: tuple[Measure, ...] = (
    CALLS,
    CALL_SECONDS,
    WATCH_STREAMS,
    BUSY_ANSWERS,
    BUSY_AGE,
    MIRROR,
    REFRESHES,
    MIRROR_LAG,
    CONVERSATIONS,
    CONVERSATION_SECONDS,
    PUSHES,
    PUSH_WAIT,
    PUSH_HOSTS,
    OUTBOX,
    OUTBOX_LAG,
    CONNECTIONS,
    WATCHES,
    NOTIFICATIONS,
    EXPANDER_KILLS,
    STORE_WAITS,
    PROCESS_UP,
)

Told = Callable[[], Mapping[tuple[str, ...], float]]
"""Answers the values of a measure now, by the values of its labels in order."""


class Metrics:
    """The numbers of one process, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counters = {m.name: self._counter(m) for m in ALL if m.kind == "counter" and m is not EXPANDER_KILLS}
        self._told: dict[str, Collector] = {}
        self._histograms = {m.name: self._histogram(m) for m in ALL if m.kind == "histogram"}
        # To look up the words costs more than to count, and there are few of them.
        self._counted: dict[tuple[str, ...], Counter] = {}
        self._observed: dict[tuple[str, ...], Histogram] = {}

    def _counter(self, measure: Measure) -> Counter:
        return Counter(measure.name, measure.help, list(measure.labels), registry=self._registry)

    def _histogram(self, measure: Measure) -> Histogram:
        return Histogram(
            measure.name, measure.help, list(measure.labels), registry=self._registry, buckets=measure.buckets
        )

    def count(self, measure: Measure, *words: str, by: float = 1) -> None:
        """Count one more, or ``by``. ``words`` are the values of its labels in order."""
        counter = self._counted.get((measure.name, *words))
        if counter is None:
            counter = self._counters[measure.name]
            counter = self._counted[measure.name, *words] = counter.labels(*words) if words else counter
        counter.inc(by)

    def observe(self, measure: Measure, value: float, *words: str) -> None:
        """Note one value, such as seconds."""
        histogram = self._observed.get((measure.name, *words))
        if histogram is None:
            histogram = self._histograms[measure.name]
            histogram = self._observed[measure.name, *words] = histogram.labels(*words) if words else histogram
        histogram.observe(value)

    def told(self, measure: Measure, told: Told) -> None:
        """Ask ``told`` at every scrape, and no longer who was asked before. While it raises, there are no values."""
        former = self._told.pop(measure.name, None)
        if former:
            self._registry.unregister(former)
        self._told[measure.name] = collector = _Told(measure, told)
        self._registry.register(collector)

    def tell_of_process(self) -> None:
        """Tell memory, CPU and open files of this process, too (``process_…``)."""
        ProcessCollector(registry=self._registry)

    # Words of what happens.

    def call_ended(self, rpc: str, code: str, seconds: float, *, stream: bool = False) -> None:
        """A call was answered with this code, such as ``OK`` or ``NOT_FOUND``."""
        self.count(CALLS, rpc, code)
        if not stream:
            self.observe(CALL_SECONDS, seconds, rpc)

    def conversation_ended(self, provider: str, verb: str, reason: str, seconds: float) -> None:
        """A conversation with a provider went well, or failed for this reason."""
        self.count(CONVERSATIONS, provider, verb, reason)
        self.observe(CONVERSATION_SECONDS, seconds, provider, verb)

    # Scrapes.

    def text(self, process: str = "server", beside: Mapping[str, bytes | None] | None = None) -> bytes:
        """Everything in Prometheus's text format (version 0.0.4).

        ``beside``: what the processes beside this one ``dump``; None where one did not answer. Each sample says of which
        process it is.
        """
        families: dict[str, Metric] = {}
        up = GaugeMetricFamily(PROCESS_UP.name, PROCESS_UP.help, labels=[PROCESS])
        families[PROCESS_UP.name] = up
        for name, dump in {process: self.dump(), **(beside or {})}.items():
            up.add_metric([name], 0 if dump is None else 1)
            for family in [] if dump is None else _loaded(dump):
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    known.add_sample(sample.name, {**sample.labels, PROCESS: name}, sample.value)
        merged = CollectorRegistry()
        merged.register(_Families(list(families.values())))
        return generate_latest(merged)

    def dump(self) -> bytes:
        """Everything, for ``text`` of another process."""
        return json.dumps(
            [
                [
                    family.name,
                    family.documentation,
                    family.type,
                    # When a counter began is of no use here: a process that is started again begins at 0, and is seen to.
                    [[s.name, s.labels, s.value] for s in family.samples if not s.name.endswith("_created")],
                ]
                for family in self._registry.collect()
            ]
        ).encode()


def _loaded(dump: bytes) -> Iterator[Metric]:
    for name, documentation, kind, samples in json.loads(dump):
        family = Metric(name, documentation, kind)
        for sample_name, labels, value in samples:
            family.add_sample(sample_name, labels, value)
        yield family


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]):
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Told(Collector):
    def __init__(self, measure: Measure, told: Told):
        self._measure = measure
        self._told = told

    def _family(self) -> GaugeMetricFamily | CounterMetricFamily:
        kind = CounterMetricFamily if self._measure.kind == "counter" else GaugeMetricFamily
        return kind(self._measure.name, self._measure.help, labels=list(self._measure.labels))

    def describe(self) -> Iterable[Metric]:
        """Known without asking, so that registering does not read the database."""
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        """Ask now."""
        try:
            values = self._told()
        except Exception:
            # The database may be out of reach just when an operator needs the other figures most.
            _log.warning("measure_unknown", exc_info=True)
            return
        family = self._family()
        for words, value in sorted(values.items()):
            family.add_metric(words, value)
        yield family


def table() -> str:
    """The table of docs/metrics.md."""
    lines = ["| name | kind | labels | what |", "| --- | --- | --- | --- |"]
    for measure in ALL:
        labels = "<br>".join(f"`{name}`: {words}" for name, words in measure.labels.items())
        scope = " Of the whole installation." if measure.of_installation else ""
        names = measure.scraped_names() if measure.kind == "counter" else (measure.name,)
        lines.append(f"| `{names[0]}` | {measure.kind} | {labels} | {measure.help}{scope} |")
    return "\n".join(lines)
