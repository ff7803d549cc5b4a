"""The state machine, identity and patience of bookings."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calendar_server.core.booking import MOVES, Happening, event_uid, merged_cancellation, moved, retry_after_s
from calendar_server.core.model import Attendee, Booking, BookingId, BookingStatus, EventState

parts = st.text(min_size=0, max_size=8)


def booking(**changes: object) -> Booking:
    values: dict[str, object] = {"id": BookingId("b"), "revision": 1, "status": BookingStatus.CONFIRMED, **changes}
    return Booking(**values)  # type: ignore[arg-type]


class TestMoves:
    def test_a_removed_event_stays_removed_when_it_is_unwanted_again(self) -> None:
        assert moved(EventState.REMOVED, Happening.UNWANTED) is EventState.REMOVED

    def test_only_a_failed_event_is_tried_again_by_a_repetition(self) -> None:
        tried = {state for state in EventState if moved(state, Happening.REPEATED) is not state}
        assert tried == {EventState.FAILED}

    def test_a_finished_event_cannot_be_pushed_without_being_wanted_anew(self) -> None:
        for state in (EventState.SYNCED, EventState.FAILED, EventState.REMOVED, EventState.GONE, EventState.DETACHED):
            with pytest.raises(ValueError, match="cannot happen"):
                moved(state, Happening.PUSHED)

    def test_every_state_but_detached_can_be_disconnected(self) -> None:
        assert {state for state, happening in MOVES if happening is Happening.DISCONNECTED} == set(EventState) - {
            EventState.DETACHED
        }

    def test_every_state_can_be_wanted_again(self) -> None:
        assert {state for state, happening in MOVES if happening is Happening.WANTED} == set(EventState)


class TestEventUid:
    @given(parts, parts, parts, parts, parts, st.integers(1, 9))
    def test_it_is_52_characters_that_google_takes(self, a: str, b: str, c: str, d: str, e: str, g: int) -> None:
        assert re.fullmatch("[0-9a-v]{52}", event_uid(a, b, c, d, e, g))

    @given(st.lists(parts, min_size=5, max_size=5), st.lists(parts, min_size=5, max_size=5))
    def test_other_facts_give_another_uid_however_they_are_cut(self, one: list[str], other: list[str]) -> None:
        assert (event_uid(*one, 1) == event_uid(*other, 1)) == (one == other)  # type: ignore[call-arg]

    def test_a_generation_gives_another_uid(self) -> None:
        assert event_uid("o", "p", "s", "c", "b", 1) != event_uid("o", "p", "s", "c", "b", 2)


class TestCancellation:
    def test_what_it_leaves_empty_is_kept_from_before(self) -> None:
        before = booking(title="Interview", start=10, end=20, attendees=(Attendee("a@example.org"),))
        sent = booking(revision=2, status=BookingStatus.CANCELLED, title="Called off")
        merged = merged_cancellation(sent, before)
        assert (merged.revision, merged.status, merged.title) == (2, BookingStatus.CANCELLED, "Called off")
        assert (merged.start, merged.end, merged.attendees) == (10, 20, before.attendees)

    def test_the_first_revision_may_be_one(self) -> None:
        sent = booking(status=BookingStatus.CANCELLED)
        assert merged_cancellation(sent, None) == sent


class TestPatience:
    @given(st.integers(1, 10_000), st.floats(0, 1))
    def test_it_never_waits_longer_than_a_quarter_of_an_hour_and_a_half(self, attempts: int, jitter: float) -> None:
        assert 1.0 <= retry_after_s(attempts, None, jitter) <= 900 * 1.5

    @given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1e9))
    def test_it_waits_at_least_as_long_as_asked_but_an_hour(self, attempts: int, jitter: float, asked: float) -> None:
        assert retry_after_s(attempts, asked, jitter) >= min(asked, 3600)

    def test_it_doubles(self) -> None:
        assert [retry_after_s(attempts, None, 0.5) for attempts in (1, 2, 3, 4)] == [2, 4, 8, 16]
