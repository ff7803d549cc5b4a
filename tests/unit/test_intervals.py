"""Arithmetic on intervals."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.intervals import chunk, clip, from_datetime, merge, to_datetime, touches
from calendar_server.core.model import Interval

small = st.integers(-30, 30)
intervals = st.builds(lambda start, length: Interval(start, start + length), small, st.integers(0, 12))
FEW = settings(max_examples=150, deadline=None)


def covered(found: list[Interval]) -> set[int]:
    return {instant for interval in found for instant in range(interval.start, interval.end)}


@FEW
@given(st.lists(intervals, max_size=12))
def test_merging_covers_exactly_the_same_instants(given_intervals: list[Interval]) -> None:
    assert covered(merge(given_intervals)) == covered(given_intervals)


@FEW
@given(st.lists(intervals, max_size=12))
def test_merged_intervals_are_sorted_and_never_touch(given_intervals: list[Interval]) -> None:
    merged = merge(given_intervals)
    assert all(before.end < after.start for before, after in itertools.pairwise(merged))
    assert all(interval.start < interval.end for interval in merged)


def test_intervals_that_only_touch_are_joined() -> None:
    assert merge([Interval(5, 9), Interval(1, 5)]) == [Interval(1, 9)]


def test_an_interval_inside_another_does_not_shorten_it() -> None:
    assert merge([Interval(0, 100), Interval(10, 20)]) == [Interval(0, 100)]


def test_an_empty_interval_is_not_busy() -> None:
    assert merge([Interval(3, 3)]) == []


@FEW
@given(st.lists(intervals, max_size=8), intervals)
def test_clipping_keeps_exactly_what_lies_in_the_window(given_intervals: list[Interval], window: Interval) -> None:
    clipped = clip(given_intervals, window)
    assert covered(clipped) == covered(given_intervals) & covered([window])
    assert all(interval.start < interval.end for interval in clipped)


@FEW
@given(intervals, intervals)
def test_an_interval_touches_a_window_when_they_share_an_instant(interval: Interval, window: Interval) -> None:
    instants = covered([interval]) or {interval.start}
    assert touches(interval, window) == bool(instants & covered([window]))


def test_an_interval_that_ends_where_the_window_starts_does_not_touch_it() -> None:
    assert not touches(Interval(0, 10), Interval(10, 20))


def test_a_zero_length_interval_touches_a_window_that_starts_there() -> None:
    assert touches(Interval(10, 10), Interval(10, 20))


def test_a_zero_length_interval_does_not_touch_a_window_that_ends_there() -> None:
    assert not touches(Interval(20, 20), Interval(10, 20))


@FEW
@given(intervals, st.integers(1, 15))
def test_chunks_cover_the_window_without_gap_or_overlap(window: Interval, longest_us: int) -> None:
    chunks = chunk(window, longest_us)
    edges = [window.start, *(piece.end for piece in chunks)]
    assert [piece.start for piece in chunks] == edges[:-1]
    assert edges[-1] == window.end
    assert all(0 < piece.end - piece.start <= longest_us for piece in chunks)


def test_chunks_of_no_length_are_refused() -> None:
    with pytest.raises(ValueError, match="longer than nothing"):
        chunk(Interval(0, 10), 0)


@FEW
@given(st.datetimes(timezones=st.sampled_from([UTC, ZoneInfo("Asia/Kolkata"), timezone(timedelta(hours=-9))])))
def test_a_datetime_survives_the_way_to_an_instant_and_back(moment: datetime) -> None:
    try:
        in_utc = moment.astimezone(UTC)
    except OverflowError:
        return
    assert to_datetime(from_datetime(moment)) == in_utc


def test_an_instant_keeps_its_last_microsecond_far_from_1970() -> None:
    assert from_datetime(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == 253_402_300_799_999_999


def test_the_hour_that_daylight_saving_repeats_is_two_instants() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    once = from_datetime(datetime(2026, 10, 25, 2, 30, tzinfo=berlin))
    again = from_datetime(datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=berlin))
    assert again - once == 3600 * 1_000_000


def test_a_datetime_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        from_datetime(datetime(2026, 1, 1))
