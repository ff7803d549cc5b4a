"""Following a booking until every calendar shows it: on a terminal with a line for each calendar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.live import Live
from rich.padding import Padding
from rich.text import Text

from calendar_client.cli_session import Session, clean
from calendar_client.cli_state import events_table
from calendar_client.client import CalendarClient
from calendar_client.errors import CalendarServiceError
from calendars.v1 import booking_pb2
from calendars.v1.calendar_service_pb2 import SyncBookingResponse

FIRST_S = 1.5
"""Seconds until a person is shown where each calendar stands; most are done by then."""

LOOK_S = 0.5
"""Seconds between two looks at a booking."""


def settle(
    session: Session,
    client: CalendarClient,
    booking_id: str,
    send: Callable[[timedelta], SyncBookingResponse],
    *,
    text: str,
    wait_s: float,
) -> SyncBookingResponse:
    """Send a revision and follow it for ``wait_s`` seconds, or until nothing is pending; answers the last state.

    ``send`` takes how long the service may wait before it answers. Once it has answered the booking is stored, so what
    goes wrong afterwards ends the looking only.
    """
    ends_at = time.monotonic() + wait_s
    known = f"calendarctl booking {clean(booking_id)}"
    try:
        with session.waiting(text):
            answer = send(timedelta(seconds=min(wait_s, FIRST_S)))
    except KeyboardInterrupt:
        session.err.print(
            Text(f"Whether it was stored is not known yet. To look: {known}", style="dim"), soft_wrap=True
        )
        raise
    if not _pending(answer) or time.monotonic() >= ends_at:
        return answer
    if not session.json:
        session.learn_labels(client, [each.connection_id for each in answer.events])
    try:
        with _shown(session) as show:
            show(answer.events)
            while _pending(answer) and time.monotonic() < ends_at:
                time.sleep(max(0.0, min(LOOK_S, ends_at - time.monotonic())))
                try:
                    seen = client.get_booking(booking_id)
                except CalendarServiceError:
                    return answer
                answer = SyncBookingResponse(booking=seen.booking, events=seen.events)
                show(answer.events)
    except KeyboardInterrupt:
        session.err.print(Text(f"It is stored and will be done. To look: {known}", style="dim"), soft_wrap=True)
        raise
    return answer


def sentence(answer: SyncBookingResponse, done: str) -> Text:
    """What came of it, in one sentence. ``done`` is the verb: Booked, Moved, Changed, Cancelled."""
    states = [each.state for each in answer.events if each.state != booking_pb2.BOOKING_EVENT_STATE_DETACHED]
    cancelled = answer.booking.status == booking_pb2.BOOKING_STATUS_CANCELLED
    if not cancelled:
        # A calendar that a revision dropped is no longer among those that should show it.
        states = [each for each in states if each != booking_pb2.BOOKING_EVENT_STATE_REMOVED]
    count = len(states)
    if not count:
        ends = "no calendar had it." if cancelled else "but no calendar shows it."
        return Text(
            f"{done}: {ends}" if cancelled else f"{done}, {ends}", style="green" if cancelled else "bold yellow"
        )
    missing = {
        booking_pb2.BOOKING_EVENT_STATE_FAILED: ("refused it", "bold red"),
        booking_pb2.BOOKING_EVENT_STATE_GONE: ("had it deleted by its owner", "bold yellow"),
    }
    for state, (what, style) in missing.items():
        bad = states.count(state)
        if bad and not (cancelled and state == booking_pb2.BOOKING_EVENT_STATE_GONE):
            who = "the calendar" if count == 1 else f"{bad} of {count} calendars"
            return Text(f"{done}, but {who} {what}.", style=style)
    late = states.count(booking_pb2.BOOKING_EVENT_STATE_PENDING)
    if late:
        who = "the calendar follows" if count == 1 else f"{count - late} of {count} calendars so far, the rest follows"
        return Text(f"{done}: {who}.", style="bold yellow")
    if cancelled:
        who = "the calendar no longer has it" if count == 1 else f"none of {count} calendars has it any more"
    else:
        who = "the calendar shows it" if count == 1 else f"all {count} calendars show it"
    return Text(f"{done}: {who}.", style="bold green")


def _pending(answer: SyncBookingResponse) -> bool:
    return any(each.state == booking_pb2.BOOKING_EVENT_STATE_PENDING for each in answer.events)


@contextmanager
def _shown(session: Session) -> Iterator[Callable[[Sequence[booking_pb2.BookingEvent]], None]]:
    """Show events as they come to stand: drawn in place, as lines where nothing can be drawn, or not at all in a pipe."""
    console = session.err
    if session.json or not console.is_terminal:
        yield lambda events: None
        return
    if console.is_dumb_terminal:
        told: dict[tuple[str, str], int] = {}

        def lines(events: Sequence[booking_pb2.BookingEvent]) -> None:
            news = [each for each in events if told.get((each.connection_id, each.calendar_id)) != each.state]
            told.update({(each.connection_id, each.calendar_id): each.state for each in news})
            if news:
                console.print(events_table(news, session))

        yield lines
        return
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        yield lambda events: live.update(Padding(events_table(events, session, moving=True), (1, 0)))
