"""The bytes that are made without protobuf are those that protobuf makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calendar_server.core.model import (
    BlockReason,
    BookingId,
    BusyState,
    CalendarId,
    ConnectionId,
    EventId,
    Instant,
    Interval,
)
from calendar_server.rpc import convert, wire
from calendar_server.usecases.commands import BusyAnswer, CalendarBusy, ExplainedEvent, Problem
from calendars.v1 import availability_pb2
from calendars.v1.calendar_service_pb2 import GetBusyResponse

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The instants of the years 1 to 9999."""
NOW: Instant = 1_800_000_000_000_000
SECOND = 1_000_000

moments = st.one_of(
    st.integers(FIRST, LAST),
    st.integers(FIRST // SECOND, LAST // SECOND).map(lambda seconds: seconds * SECOND),
    # Around the places where numbers become a byte longer, and where they lose their sign.
    st.sampled_from(
        [1 << bits for bits in range(0, 58, 7)] + [(1 << bits) * SECOND for bits in range(0, 37, 7)]
    ).flatmap(lambda edge: st.integers(edge - 2, edge + 2)),
    st.integers(-2 * SECOND, 2 * SECOND),
)
instants = moments.filter(lambda instant: FIRST <= instant <= LAST)
intervals = st.builds(Interval, instants, instants)
texts = st.text(st.characters(), max_size=300)
problems = st.builds(
    Problem,
    st.sampled_from(["PROVIDER_UNAVAILABLE", "EVENT_UNREADABLE", "OF_A_NEWER_RELEASE"]),
    texts,
    st.none() | instants,
)
events = st.builds(ExplainedEvent, st.none() | intervals, st.sampled_from(BlockReason), texts, texts)
calendars = st.builds(
    CalendarBusy,
    texts.map(ConnectionId),
    texts.map(CalendarId),
    st.sampled_from(BusyState),
    st.none() | instants,
    st.none() | problems,
    st.lists(intervals, max_size=5).map(tuple),
    st.just(()) | st.lists(events, max_size=3).map(tuple),
)
answers = st.builds(
    BusyAnswer, st.lists(intervals, max_size=20).map(tuple), st.booleans(), st.lists(calendars, max_size=4).map(tuple)
)


@pytest.fixture(autouse=True)
def nothing_is_kept() -> Iterator[None]:
    wire._kept.clear()
    yield
    wire._kept.clear()


@given(answers)
@example(BusyAnswer((), False, ()))
@example(BusyAnswer((), True, ()))
@example(BusyAnswer((Interval(0, 0), Interval(-1, 0), Interval(0, 1)), True, ()))
def test_an_answer_is_the_bytes_of_its_message(answer: BusyAnswer) -> None:
    message = convert.busy_response(answer)
    for _ in ("made", "kept"):
        raw = wire.busy_wire(answer)
        assert GetBusyResponse.FromString(raw) == message
        assert raw == message.SerializeToString(deterministic=True)


@given(calendars)
def test_a_calendar_is_the_bytes_of_its_message(calendar: CalendarBusy) -> None:
    raw = wire.calendar_wire(calendar)
    assert availability_pb2.CalendarBusy.FromString(raw) == convert.calendar_busy(calendar)


@given(st.lists(intervals, max_size=20))
def test_intervals_are_the_bytes_of_an_answer_with_nothing_else(busy: list[Interval]) -> None:
    expected = convert.busy_response(BusyAnswer(tuple(busy), False, ()))
    assert GetBusyResponse.FromString(wire.intervals_wire(busy)) == expected


@given(answers)
def test_an_answer_can_be_put_together_from_parts_that_were_kept(answer: BusyAnswer) -> None:
    kept = [wire.calendar_wire(calendar) for calendar in answer.calendars]
    raw = wire.response_wire(wire.intervals_wire(answer.busy), answer.complete, kept)
    assert raw == wire.busy_wire(answer)


@pytest.mark.parametrize("length", [127, 128, 16_383, 16_384])
def test_lengths_are_told_where_they_become_longer(length: int) -> None:
    empty = CalendarBusy(ConnectionId(""), CalendarId(""), BusyState.FRESH)
    for calendar_id in ("x" * length, "x" * (length - 5)):
        answer = BusyAnswer((), True, (dataclasses.replace(empty, calendar_id=CalendarId(calendar_id)),))
        assert wire.busy_wire(answer) == convert.busy_response(answer).SerializeToString(deterministic=True)


def test_lone_surrogates_are_replaced() -> None:
    calendar = CalendarBusy(ConnectionId("a\ud800"), CalendarId("\udfffé"), BusyState.STALE)
    read = availability_pb2.CalendarBusy.FromString(wire.calendar_wire(calendar))
    assert (read.connection_id, read.calendar_id) == ("a?", "?é")


def test_what_is_kept_is_bounded_and_stays_right() -> None:
    step = 1800 * SECOND
    for block in range(3):
        begin = NOW + block * wire.KEPT_MOST * step
        many = [Interval(begin + n * step, begin + (n + 1) * step) for n in range(wire.KEPT_MOST - 1)]
        raw = wire.intervals_wire(many)
        assert len(wire._kept) <= wire.KEPT_MOST
    last = convert.busy_response(BusyAnswer(tuple(many), False, ()))
    assert raw == last.SerializeToString(deterministic=True)


def test_an_explained_event_is_told_in_full() -> None:
    event = ExplainedEvent(Interval(NOW, NOW + 1), BlockReason.BOOKING, BookingId("b1"), EventId("e1"))
    calendar = CalendarBusy(ConnectionId("c"), CalendarId("/w/"), BusyState.FRESH, NOW, None, (), (event,))
    read = availability_pb2.CalendarBusy.FromString(wire.calendar_wire(calendar))
    assert [(each.booking_id, each.event_id, each.blocks) for each in read.events] == [("b1", "e1", True)]
