"""What is counted: bounded in its labels, told per process, documented."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from calendar_server.metrics import (
    ALL,
    BUSY_ANSWERS,
    CALLS,
    EXPANDER_KILLS,
    OUTBOX,
    PROCESS,
    PROCESS_UP,
    PUSHES,
    REFRESHES,
    Metrics,
    table,
)
from calendar_server.scrape import Line, answer

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_calls_are_counted_by_method_and_code() -> None:
    metrics = Metrics()
    metrics.call_ended("List", "OK", 0.004)
    metrics.call_ended("List", "OK", 0.004)
    assert 'calendar_calls_total{code="OK",process="server",rpc="List"} 2.0' in metrics.text().decode()


def test_a_call_falls_into_the_bucket_of_its_time() -> None:
    metrics = Metrics()
    metrics.call_ended("List", "OK", 0.004)
    text = metrics.text().decode()
    assert 'calendar_call_seconds_bucket{le="0.0025",process="server",rpc="List"} 0.0' in text
    assert 'calendar_call_seconds_bucket{le="0.005",process="server",rpc="List"} 1.0' in text


def test_a_stream_is_counted_but_its_length_is_no_latency() -> None:
    metrics = Metrics()
    metrics.call_ended("WatchBusy", "OK", 600.0, stream=True)
    text = metrics.text().decode()
    assert 'calendar_calls_total{code="OK",process="server",rpc="WatchBusy"} 1.0' in text
    assert "calendar_call_seconds_count" not in text


def test_what_happened_is_counted_under_its_own_name() -> None:
    metrics = Metrics()
    metrics.conversation_ended("caldav", "refresh", "NEEDS_REAUTH", 0.1)
    metrics.count(PUSHES, "caldav", "synced", "OK")
    metrics.count(BUSY_ANSWERS, "fresh", by=3)
    text = metrics.text("worker").decode()
    for line in (
        'calendar_provider_conversations_total{process="worker",provider="caldav",reason="NEEDS_REAUTH",verb="refresh"} 1.0',
        'calendar_pushes_total{outcome="synced",process="worker",provider="caldav",reason="OK"} 1.0',
        'calendar_busy_answers_total{process="worker",state="fresh"} 3.0',
    ):
        assert line in text


def test_what_is_told_is_asked_at_every_scrape() -> None:
    depths = {("pending",): 3.0}
    metrics = Metrics()
    metrics.told(OUTBOX, lambda: depths)
    first = metrics.text().decode()
    depths["pending",] = 4.0
    second = metrics.text().decode()
    assert 'calendar_outbox_events{process="server",state="pending"} 3.0' in first
    assert 'calendar_outbox_events{process="server",state="pending"} 4.0' in second


def test_registering_does_not_ask() -> None:
    asked = []

    def depth() -> Mapping[tuple[str, ...], float]:
        asked.append(1)
        return {}

    Metrics().told(OUTBOX, depth)
    assert asked == []


def test_while_the_database_cannot_be_asked_the_rest_is_told() -> None:
    def depth() -> Mapping[tuple[str, ...], float]:
        raise OSError("no database")

    metrics = Metrics()
    metrics.told(OUTBOX, depth)
    metrics.told(EXPANDER_KILLS, lambda: {(): 1})
    text = metrics.text().decode()
    assert 'calendar_expander_kills_total{process="server"} 1.0' in text
    assert "calendar_outbox_events" not in text


def test_two_sets_of_metrics_do_not_share_anything() -> None:
    first, second = Metrics(), Metrics()
    first.count(CALLS, "List", "OK")
    assert "List" not in second.text().decode()


# Processes beside each other


@pytest.fixture
def beside() -> Iterator[tuple[Line, Metrics]]:
    """A line to another process's numbers."""
    line, metrics = Line(), Metrics()
    descriptor = line.theirs.detach()
    thread = threading.Thread(target=answer, args=(descriptor, metrics))
    thread.start()
    yield line, metrics
    line.close()
    thread.join(10)
    assert not thread.is_alive()


def test_one_scrape_tells_of_all_processes_apart(beside: tuple[Line, Metrics]) -> None:
    line, theirs = beside
    ours = Metrics()
    ours.count(REFRESHES, "caldav", "full", "OK")
    theirs.count(REFRESHES, "caldav", "full", "OK", by=2)
    text = ours.text("server", {"worker": line.ask(time.monotonic() + 10)}).decode()
    assert 'calendar_refreshes_total{outcome="full",process="server",provider="caldav",reason="OK"} 1.0' in text
    assert 'calendar_refreshes_total{outcome="full",process="worker",provider="caldav",reason="OK"} 2.0' in text
    assert text.count("# TYPE calendar_refreshes_total counter") == 1


def test_a_process_that_does_not_answer_is_told_as_down(beside: tuple[Line, Metrics]) -> None:
    text = Metrics().text("server", {"worker": None}).decode()
    up = {family.name: family for family in text_string_to_metric_families(text)}[PROCESS_UP.name]
    assert {sample.labels[PROCESS]: sample.value for sample in up.samples} == {"server": 1, "worker": 0}


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one() -> None:
    line = Line()
    with line.theirs as theirs:
        assert line.ask(time.monotonic() + 0.05) is None
        first = theirs.recv(1)

        def late() -> None:
            theirs.sendall(first + b"\0\0\0\3old")
            second = theirs.recv(1)
            theirs.sendall(second + b"\0\0\0\3new")

        thread = threading.Thread(target=late)
        thread.start()
        assert line.ask(time.monotonic() + 10) == b"new"
        thread.join()
    line.close()


def test_a_dead_process_is_no_answer() -> None:
    line = Line()
    line.close_theirs()
    assert line.ask(time.monotonic() + 10) is None
    line.close()


def test_the_server_s_death_ends_the_answering_thread() -> None:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=answer, args=(theirs.detach(), Metrics()))
    thread.start()
    ours.close()
    thread.join(10)
    assert not thread.is_alive()


# The document


def test_the_document_lists_every_measure_with_its_labels() -> None:
    text = DOCUMENT.read_text()
    assert text.split("<!-- metrics -->")[1].split("<!-- /metrics -->")[0].strip() == table()


def test_names_are_one_of_a_kind_and_end_in_their_unit() -> None:
    assert len({measure.name for measure in ALL}) == len(ALL)
    for measure in ALL:
        assert measure.name.startswith("calendar_")
        assert measure.kind != "histogram" or measure.name.endswith("_seconds")


def test_no_label_could_hold_an_id_or_a_host() -> None:
    allowed = {"rpc", "code", "state", "outcome", "provider", "verb", "reason", "what", "status"}
    assert {label for measure in ALL for label in measure.labels} <= allowed
