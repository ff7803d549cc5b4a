"""Makes dashboard.json, Grafana's dashboard of the service: `python deploy/monitoring/dashboard.py`. A test holds it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("dashboard.json")
SELECTED = 'job=~"$job",instance=~"$instance"'
RATE = "$__rate_interval"
NEEDS_REAUTH, HIT = 'status="needs_reauth"', 'outcome="hit"'


@dataclass(frozen=True)
class Panel:
    """One picture: title, what it answers, its unit, and per line an expression with its legend."""

    title: str
    answers: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    stat: bool = False


def rate(name: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{{SELECTED}{',' + more if more else ''}}}[{RATE}]))"


def quantile(q: float, name: str, by: str = "") -> str:
    group = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({group}) (rate({name}_bucket{{{SELECTED}}}[{RATE}])))"


def largest(name: str, by: str = "", more: str = "") -> str:
    group = f" by ({by})" if by else ""
    return f"max{group} ({name}{{{SELECTED}{',' + more if more else ''}}})"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            Panel("Processes that do not answer", "Is everything running?", "short", (
                (f"count(calendar_process_up{{{SELECTED}}} == 0) or vector(0)", ""),), stat=True),
            Panel("Accounts that must be connected again", "How many people must act?", "short", (
                (f"sum({largest('calendar_connections', 'provider', NEEDS_REAUTH)})", ""),), stat=True),
            Panel("Oldest push that is due", "Are bookings written in time?", "s", (
                (largest("calendar_outbox_lag_seconds"), ""),), stat=True),
            Panel("Oldest read in use", "Are calendars kept fresh?", "s", (
                (largest("calendar_mirror_lag_seconds"), ""),), stat=True),
            Panel("Failed events", "How many bookings need a look (`calendar-server bookings --parked`)?", "short", (
                (largest("calendar_outbox_events", more='state="failed"'), ""),), stat=True),
        ),
    ),
    (
        "Calls",
        (
            Panel("Calls by method", "Who asks for what, and how much?", "reqps", (
                (rate("calendar_calls_total", "rpc"), "{{rpc}}"),)),
            Panel("Calls that did not end well", "What do callers meet?", "reqps", (
                (rate("calendar_calls_total", "rpc, code", 'code!="OK"'), "{{rpc}} {{code}}"),)),
            Panel("Latency", "How long do callers wait?", "s", (
                (quantile(0.5, "calendar_call_seconds", "rpc"), "{{rpc}} p50"),
                (quantile(0.99, "calendar_call_seconds", "rpc"), "{{rpc}} p99"),)),
            Panel("Open streams of WatchBusy", "How many watch?", "short", (
                (f"sum(calendar_watch_streams{{{SELECTED}}})", "streams"),)),
        ),
    ),
    (
        "Reading",
        (
            Panel("Age of what answers rest on", "How stale is what is served?", "s", (
                (quantile(0.5, "calendar_busy_age_seconds"), "p50"),
                (quantile(0.95, "calendar_busy_age_seconds"), "p95"),
                (quantile(0.99, "calendar_busy_age_seconds"), "p99"),)),
            Panel("Calendars told, by state", "How much is unknown or stale?", "reqps", (
                (rate("calendar_busy_answers_total", "state"), "{{state}}"),)),
            Panel("Known already", "What share needs no provider?", "percentunit", (
                (f"{rate('calendar_mirror_questions_total', 'job', HIT)} / "
                 f"{rate('calendar_mirror_questions_total', 'job')}", "hits"),)),
            Panel("Refreshes", "How are calendars read again?", "reqps", (
                (rate("calendar_refreshes_total", "provider, outcome"), "{{provider}} {{outcome}}"),)),
            Panel("Refreshes that failed", "Why could calendars not be read?", "reqps", (
                (rate("calendar_refreshes_total", "provider, reason", 'outcome="failed"'), "{{provider}} {{reason}}"),)),
            Panel("Children killed over calendar text", "Does somebody's calendar overrun limits?", "reqps", (
                (rate("calendar_expander_kills_total", "process"), "{{process}}"),)),
        ),
    ),
    (
        "Writing",
        (
            Panel("Pushes", "How do bookings get into calendars?", "reqps", (
                (rate("calendar_pushes_total", "provider, outcome"), "{{provider}} {{outcome}}"),)),
            Panel("Pushes that were put off or refused", "Why?", "reqps", (
                (rate("calendar_pushes_total", "provider, reason", 'reason!="OK"'), "{{provider}} {{reason}}"),)),
            Panel("Wait before the first attempt", "Is the worker fast enough?", "s", (
                (quantile(0.5, "calendar_push_wait_seconds"), "p50"),
                (quantile(0.99, "calendar_push_wait_seconds"), "p99"),)),
            Panel("Hosts that pushes are kept from", "Whose outage do bookings wait for?", "short", (
                (f"sum by (state) (calendar_push_hosts{{{SELECTED}}})", "{{state}}"),)),
            Panel("Events by state", "Where do bookings stand?", "short", (
                (largest("calendar_outbox_events", "state"), "{{state}}"),)),
        ),
    ),
    (
        "Providers",
        (
            Panel("Conversations that failed", "Which provider has trouble?", "reqps", (
                (rate("calendar_provider_conversations_total", "provider, reason", 'reason!~"OK|CHANGED"'),
                 "{{provider}} {{reason}}"),)),
            Panel("Time of conversations", "Which provider is slow?", "s", (
                (quantile(0.5, "calendar_provider_conversation_seconds", "provider"), "{{provider}} p50"),
                (quantile(0.95, "calendar_provider_conversation_seconds", "provider"), "{{provider}} p95"),)),
            Panel("Notifications", "Do providers tell of changes?", "reqps", (
                (rate("calendar_notifications_total", "provider, outcome"), "{{provider}} {{outcome}}"),)),
            Panel("Watches", "Are calendars watched?", "short", (
                (largest("calendar_watches", "state"), "{{state}}"),)),
            Panel("Connections", "How many accounts are connected, and let us in?", "short", (
                (largest("calendar_connections", "provider, status"), "{{provider}} {{status}}"),)),
        ),
    ),
    (
        "Inside",
        (
            Panel("Waits for the database", "Is the database the bottleneck?", "s", (
                (quantile(0.95, "calendar_store_wait_seconds", "what"), "{{what}} p95"),)),
            Panel("How often there is a wait", "And how often?", "reqps", (
                (rate("calendar_store_wait_seconds_count", "what"), "{{what}}"),)),
            Panel("Memory", "Does a process grow?", "bytes", (
                (f"max by (instance, process) (process_resident_memory_bytes{{{SELECTED}}})", "{{instance}} {{process}}"),)),
            Panel("CPU", "Is a process busy?", "percentunit", (
                (rate("process_cpu_seconds_total", "instance, process"), "{{instance}} {{process}}"),)),
        ),
    ),
)  # fmt: skip


def dashboard() -> dict[str, object]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, object]] = []
    y = 0
    for title, row in ROWS:
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": box(0, y, 24, 1), "panels": []})
        y += 1
        stat = row[0].stat
        across, height = (len(row), 4) if stat else (2, 8)
        width = 24 // across
        for index, panel in enumerate(row):
            place = box(index % across * width, y + index // across * height, width, height)
            panels.append(picture(panel, place))
        y += -(-len(row) // across) * height
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "uid": "calendar-service",
        "title": "Calendar service",
        "description": "What the numbers mean: docs/metrics.md.",
        "tags": ["calendar-service"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                },
                variable("job", "label_values(calendar_process_up, job)"),
                variable("instance", 'label_values(calendar_process_up{job=~"$job"}, instance)'),
            ]
        },
        "panels": panels,
    }


def variable(name: str, query: str) -> dict[str, object]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": source(),
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def box(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def picture(panel: Panel, place: dict[str, int]) -> dict[str, object]:
    targets = [
        {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": source()}
        for index, (expression, legend) in enumerate(panel.lines)
    ]
    return {
        "type": "stat" if panel.stat else "timeseries",
        "title": panel.title,
        "description": panel.answers,
        "datasource": source(),
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}}
        if panel.stat
        else {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
