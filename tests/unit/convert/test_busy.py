"""Requests for busy times are read strictly, and everything that is wrong is named at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.model import DAY, SECOND, BusyView, ConnectionId, Interval
from calendar_server.rpc import convert
from calendar_server.usecases.commands import Target
from calendars.v1 import calendar_service_pb2 as pb
from tests.unit.convert.calls import NOW, NOW_AT, instant, wrong


def busy(**fields: object) -> pb.GetBusyRequest:
    window = {"start_time": NOW_AT, "end_time": NOW_AT + timedelta(days=7)}
    return pb.GetBusyRequest(**{**window, **fields})  # type: ignore[arg-type]


def wrong_busy(request: pb.GetBusyRequest) -> set[str]:
    return wrong(lambda: convert.busy_query(request, NOW))


def test_a_window_is_read_in_microseconds() -> None:
    assert convert.busy_query(busy(), NOW).window == Interval(NOW, NOW + 7 * DAY)


def test_a_window_between_two_microseconds_is_widened() -> None:
    second = NOW // SECOND
    request = busy(start_time=Timestamp(seconds=second, nanos=1999), end_time=Timestamp(seconds=second, nanos=2001))
    assert convert.busy_query(request, NOW).window == Interval(NOW + 1, NOW + 3)


def test_a_query_has_its_defaults() -> None:
    query = convert.busy_query(busy(), NOW)
    assert (query.target, query.max_staleness_s, query.view) == (Target(), None, BusyView.MERGED)
    assert (query.exclude_booking_ids, query.ignore_tentative, query.allow_partial) == (frozenset(), False, False)


def test_a_query_is_read() -> None:
    query = convert.busy_query(
        busy(
            connection_ids=["b", "a", "b"],
            max_staleness=Duration(seconds=1, nanos=500_000_000),
            exclude_booking_ids=["x", "x"],
            ignore_tentative=True,
            allow_partial=True,
            view="BUSY_VIEW_EXPLAINED",
        ),
        NOW,
    )
    assert query.target == Target((ConnectionId("b"), ConnectionId("a")))
    assert (query.max_staleness_s, query.exclude_booking_ids) == (1.5, {"x"})
    assert (query.ignore_tentative, query.allow_partial, query.view) == (True, True, BusyView.EXPLAINED)


def test_an_empty_query_is_named_field_by_field() -> None:
    assert wrong_busy(pb.GetBusyRequest()) == {"start_time", "end_time"}


def test_everything_wrong_with_a_query_is_named_at_once() -> None:
    request = pb.GetBusyRequest(
        connection_ids=["", "x"],
        owner="\x00",
        start_time=Timestamp(seconds=1, nanos=-1),
        max_staleness=Duration(seconds=-1),
        exclude_booking_ids=["y", ""],
        view=9,
    )
    assert wrong_busy(request) == {
        "connection_ids[0]",
        "owner",
        "start_time",
        "end_time",
        "max_staleness",
        "exclude_booking_ids[1]",
        "view",
    }


def test_ids_and_owner_do_not_go_together() -> None:
    assert wrong_busy(busy(connection_ids=["a"], owner="o")) == {"owner"}


@pytest.mark.parametrize("days", [0, -1])
def test_a_window_ends_after_its_start(days: int) -> None:
    assert wrong_busy(busy(end_time=NOW_AT + timedelta(days=days))) == {"end_time"}


def test_a_window_has_at_most_366_days() -> None:
    end = NOW_AT + timedelta(days=366)
    assert wrong_busy(busy(end_time=end)) == set()
    assert wrong_busy(busy(end_time=Timestamp(seconds=int(end.timestamp()), nanos=1))) == {"end_time"}


def test_a_window_begins_at_most_two_years_back() -> None:
    start = NOW_AT.replace(year=2024)
    assert wrong_busy(busy(start_time=start, end_time=start + timedelta(days=1))) == set()
    start -= timedelta(minutes=2)
    assert wrong_busy(busy(start_time=start, end_time=start + timedelta(days=1))) == {"start_time"}


def test_a_window_ends_at_most_three_years_ahead() -> None:
    end = NOW_AT.replace(year=2029)
    assert wrong_busy(busy(start_time=end - timedelta(days=1), end_time=end)) == set()
    end += timedelta(minutes=2)
    assert wrong_busy(busy(start_time=end - timedelta(days=1), end_time=end)) == {"end_time"}


def test_on_29_february_the_bounds_are_still_there() -> None:
    leap = datetime(2028, 2, 29, tzinfo=UTC)
    request = pb.GetBusyRequest(start_time=datetime(2026, 3, 1, tzinfo=UTC), end_time=datetime(2026, 3, 2, tzinfo=UTC))
    assert wrong(lambda: convert.busy_query(request, instant(leap))) == set()


@pytest.mark.parametrize(
    "moment",
    [
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-(2**63)),
        Timestamp(nanos=1_000_000_000),
        Timestamp(nanos=-1),
    ],
)
def test_a_timestamp_that_is_none_is_refused(moment: Timestamp) -> None:
    assert "start_time" in wrong_busy(busy(start_time=moment))


@pytest.mark.parametrize(
    "duration",
    [
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=1, nanos=-1),
        Duration(seconds=-1, nanos=1),
        Duration(nanos=1_000_000_000),
        Duration(seconds=315_576_000_001),
        Duration(seconds=2**63 - 1),
    ],
)
def test_a_duration_that_is_none_or_negative_is_refused(duration: Duration) -> None:
    assert wrong_busy(busy(max_staleness=duration)) == {"max_staleness"}


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [(Duration(), 0.0), (Duration(seconds=86_400), 86_400.0), (Duration(seconds=86_401), 86_400.0)],
)
def test_a_staleness_above_a_day_is_lowered(duration: Duration, seconds: float) -> None:
    assert convert.busy_query(busy(max_staleness=duration), NOW).max_staleness_s == seconds


@pytest.mark.parametrize("field", ["connection_ids", "exclude_booking_ids"])
def test_lists_of_ids_are_bounded(field: str) -> None:
    ids = [str(n) for n in range(101)]
    assert wrong_busy(busy(**{field: ids[:100]})) == set()
    assert wrong_busy(busy(**{field: ids})) == {field}


@given(
    start=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    end=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    stale=st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**31), 2**31 - 1)),
    view=st.integers(-(2**31), 2**31 - 1),
)
@settings(max_examples=60, deadline=None)
def test_any_numbers_are_read_or_named(
    start: tuple[int, int], end: tuple[int, int], stale: tuple[int, int], view: int
) -> None:
    request = pb.GetBusyRequest(
        start_time=Timestamp(seconds=start[0], nanos=start[1]),
        end_time=Timestamp(seconds=end[0], nanos=end[1]),
        max_staleness=Duration(seconds=stale[0], nanos=stale[1]),
        view=view,  # type: ignore[arg-type]
    )
    assert wrong_busy(request) <= {"start_time", "end_time", "max_staleness", "view"}
