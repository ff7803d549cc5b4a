"""From what calendars hold to when people are busy."""

from __future__ import annotations

from calendar_server.core.availability import Options, Ours, Overlay, Verdict, blocked, verdicts
from calendar_server.core.model import (
    BlockReason,
    BookingId,
    BusyEvent,
    CalendarRead,
    EventId,
    Interval,
    UnreadableEvent,
)

WINDOW = Interval(100, 200)
BOOKING = BookingId("booking")
EVENT = EventId("event")


def read(*events: BusyEvent, unreadable: tuple[UnreadableEvent, ...] = ()) -> CalendarRead:
    return CalendarRead(events, unreadable)


def event(start: int, end: int, reason: BlockReason = BlockReason.BUSY, tentative: bool = False) -> BusyEvent:
    return BusyEvent(start, end, reason, EVENT, tentative)


def judge(
    found: CalendarRead | None,
    overlays: tuple[Overlay, ...] = (),
    ours: Ours | None = None,
    options: Options = Options(),  # noqa: B008 — frozen
) -> list[Verdict]:
    return verdicts(found, overlays, {EVENT: ours} if ours else {}, WINDOW, options)


def busy(judged: list[Verdict]) -> list[Interval]:
    return blocked(judged, WINDOW)


def test_an_event_is_clipped_to_the_window() -> None:
    assert busy(judge(read(event(50, 120)))) == [Interval(100, 120)]


def test_an_event_that_only_meets_the_window_is_not_in_it() -> None:
    assert judge(read(event(50, 100), event(200, 250))) == []


def test_a_tentative_event_blocks_unless_tentative_ones_are_ignored() -> None:
    found = read(event(110, 120, BlockReason.TENTATIVE, tentative=True))
    assert busy(judge(found)) == [Interval(110, 120)]
    ignoring = judge(found, options=Options(ignore_tentative=True))
    assert [verdict.reason for verdict in ignoring] == [BlockReason.TENTATIVE_IGNORED]


def test_a_tentative_out_of_office_is_ignored_as_well() -> None:
    found = read(event(110, 120, BlockReason.OUT_OF_OFFICE, tentative=True))
    assert busy(judge(found, options=Options(ignore_tentative=True))) == []


def test_a_declined_tentative_event_keeps_its_reason() -> None:
    found = read(event(110, 120, BlockReason.DECLINED, tentative=True))
    assert judge(found, options=Options(ignore_tentative=True))[0].reason is BlockReason.DECLINED


def test_a_committed_booking_blocks_before_it_is_written() -> None:
    judged = judge(read(), (Overlay(BOOKING, Interval(120, 130), EventId("")),))
    assert judged == [Verdict(Interval(120, 130), BlockReason.BOOKING, BOOKING, "")]


def test_a_committed_booking_blocks_over_an_unknown_calendar() -> None:
    assert busy(judge(None, (Overlay(BOOKING, Interval(120, 130), EVENT),))) == [Interval(120, 130)]


def test_a_written_booking_is_told_once() -> None:
    judged = judge(read(event(120, 130)), (Overlay(BOOKING, Interval(120, 130), EVENT),), Ours(BOOKING, stands=True))
    assert judged == [Verdict(Interval(120, 130), BlockReason.BOOKING, BOOKING, EVENT)]


def test_a_booking_that_its_owner_moved_blocks_at_both_places() -> None:
    judged = judge(read(event(150, 160)), (Overlay(BOOKING, Interval(120, 130), EVENT),), Ours(BOOKING, stands=True))
    assert busy(judged) == [Interval(120, 130), Interval(150, 160)]


def test_a_booking_that_its_owner_marked_free_stands_all_the_same() -> None:
    found = read(event(120, 130, BlockReason.FREE))
    judged = judge(found, (Overlay(BOOKING, Interval(120, 130), EVENT),), Ours(BOOKING, stands=True))
    assert busy(judged) == [Interval(120, 130)]


def test_excluding_a_booking_takes_out_both_its_places() -> None:
    judged = judge(
        read(event(150, 160)),
        (Overlay(BOOKING, Interval(120, 130), EVENT),),
        Ours(BOOKING, stands=True),
        Options(excluded=frozenset({BOOKING})),
    )
    assert busy(judged) == []
    assert {verdict.reason for verdict in judged} == {BlockReason.BOOKING_EXCLUDED}


def test_a_cancelled_booking_stops_blocking_while_its_event_still_stands() -> None:
    judged = judge(read(event(120, 130)), (), Ours(BOOKING, stands=False))
    assert [(verdict.reason, verdict.booking_id) for verdict in judged] == [(BlockReason.CANCELLED, BOOKING)]


def test_ignoring_tentative_events_does_not_touch_a_booking_of_ours() -> None:
    found = read(event(120, 130, BlockReason.TENTATIVE, tentative=True))
    judged = judge(found, (), Ours(BOOKING, stands=True), Options(ignore_tentative=True))
    assert busy(judged) == [Interval(120, 130)]


def test_an_unreadable_event_of_known_time_blocks_there() -> None:
    found = read(unreadable=(UnreadableEvent(EVENT, "broken rule", Interval(110, 120)),))
    assert busy(judge(found)) == [Interval(110, 120)]


def test_an_unreadable_event_of_unknown_time_is_named_and_leaves_the_others_exact() -> None:
    judged = judge(read(event(150, 160), unreadable=(UnreadableEvent(EventId("bad"), "no start"),)))
    assert judged[0] == Verdict(None, BlockReason.UNREADABLE, event_id="bad")
    assert busy(judged) == [Interval(150, 160)]
