"""Dashboard and alert rules speak of numbers that there are, by labels that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from calendar_server.metrics import ALL, PROCESS, Measure
from calendars.v1 import calendar_service_pb2, errors_pb2
from deploy.monitoring import dashboard

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
TARGET = {"job", "instance"}
"""What Prometheus adds to every sample."""
OF_CLIENT = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
WORDS = {
    "absent", "and", "by", "count", "histogram_quantile", "increase", "max", "min", "on", "or", "rate", "sum", "unless",
    "vector", "without",
}  # fmt: skip
MEASURES: dict[str, Measure] = {name: measure for measure in ALL for name in measure.scraped_names()}


def rules() -> list[dict[str, object]]:
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, object]]:
    found = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for rule in rules():
        yield str(rule["expr"])
    for panel in panels():
        for target in panel["targets"]:  # type: ignore[attr-defined]
            yield str(target["expr"])


def problems(expression: str) -> list[str]:
    """What is wrong with an expression: names and labels that there are not, words that are not a label's."""
    found = []
    names = []
    plain = re.sub(r"\[[^]]*\]", "", expression)
    for name, selector in re.findall(
        r"\b([a-z_]+)\s*(\{[^}]*\})?(?![a-z_(])", re.sub(r"(by|on)\s*\([^)]*\)", "", plain)
    ):
        if name in WORDS:
            continue
        if name not in MEASURES and name not in OF_CLIENT:
            found.append(f"{name} is not measured")
            continue
        names.append(name)
        for label, operator, value in re.findall(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"', selector):
            if label not in labels_of(name):
                found.append(f"{name} has no label {label}")
                continue
            found += [
                f"{label} of {name} is never {word}"
                for word in value.split("|")
                if operator and not value.startswith("$") and word not in words_of(name, label)
            ]
    for group in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", plain):
        known = set.union(*(labels_of(name) for name in names)) if names else set()
        found += [f"nothing has the label {label}" for label in re.split(r",\s*", group) if label not in known]
    return found


def labels_of(name: str) -> set[str]:
    own = set(MEASURES[name].labels) if name in MEASURES else set()
    return own | TARGET | {PROCESS} | ({"le"} if name.endswith("_bucket") else set())


def words_of(name: str, label: str) -> set[str]:
    """The words that a label may be, as they are documented; codes, methods and reasons are those of the contract."""
    if label == PROCESS:
        return {"server", "worker"}
    if label == "rpc":
        return {method.name for method in calendar_service_pb2.DESCRIPTOR.services_by_name["CalendarService"].methods}
    if label == "code":
        return {code.name for code in grpc.StatusCode}
    if label == "reason":
        reasons = errors_pb2.ErrorReason.keys()
        return {"OK", "CHANGED", "INTERNAL", *(reason.removeprefix("ERROR_REASON_") for reason in reasons)}
    told = MEASURES[name].labels[label]
    return set(re.findall(r"[a-z_]+", re.sub(r"\([^)]*\)", "", told)))


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_expression_speaks_of_what_is_measured(expression: str) -> None:
    assert problems(expression) == []
    assert expression.count("(") == expression.count(")")


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(rate(calendar_calls[5m]))", "calendar_calls is not measured"),
        ('sum(rate(calendar_calls_total{method="List"}[5m]))', "calendar_calls_total has no label method"),
        ('calendar_outbox_events{state="parked"}', "state of calendar_outbox_events is never parked"),
        ('rate(calendar_calls_total{code=~"OK|OKAY"}[5m])', "code of calendar_calls_total is never OKAY"),
        ("sum by (provider) (rate(calendar_calls_total[5m]))", "nothing has the label provider"),
    ],
)
def test_the_test_itself_would_notice(expression: str, problem: str) -> None:
    assert problem in problems(expression)


def test_counters_are_rated_and_what_is_of_the_installation_is_not_summed() -> None:
    for expression in expressions():
        for name in re.findall(r"\b(calendar_[a-z_]+_total)\b", expression):
            assert re.search(rf"(rate|increase)\({name}", expression), expression
        for measure in ALL:
            if measure.of_installation:
                assert not re.search(rf"sum( by \([^)]*\))? \({measure.name}\b", expression), expression


def test_every_measure_is_shown_somewhere() -> None:
    shown = " ".join(expressions())
    unseen = [m.name for m in ALL if not any(re.search(rf"\b{name}\b", shown) for name in m.scraped_names())]
    assert unseen == []


def test_the_dashboard_is_the_generated_one() -> None:
    assert (FOLDER / "dashboard.json").read_text() == dashboard.text()


def test_panels_lie_beside_each_other_and_have_titles() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"]
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y)  # type: ignore[index]
            for x in range(place["w"])  # type: ignore[index]
            for y in range(place["h"])  # type: ignore[index]
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24  # type: ignore[index]
        taken |= cells


def test_every_alert_says_how_grave_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")  # type: ignore[index]
        assert set(rule["annotations"]) == {"summary", "action"}  # type: ignore[call-overload]
