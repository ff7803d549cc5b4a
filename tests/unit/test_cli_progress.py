"""``calendarctl book``, ``reschedule`` and ``cancel`` follow a booking until the calendars show it."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from calendar_client.cli_progress import sentence
from calendars.v1 import booking_pb2
from calendars.v1.calendar_service_pb2 import SyncBookingResponse
from tests.fakes.fake_service import API_KEY, Failure, FakeService, running

WAIT_S = 30.0
BOOK = ("book", "b1", "--title", "Interview", "--start", "2026-03-17T10:00", "--minutes", "45", "--zone", "UTC")

PENDING = booking_pb2.BOOKING_EVENT_STATE_PENDING
SYNCED = booking_pb2.BOOKING_EVENT_STATE_SYNCED
FAILED = booking_pb2.BOOKING_EVENT_STATE_FAILED
REMOVED = booking_pb2.BOOKING_EVENT_STATE_REMOVED
GONE = booking_pb2.BOOKING_EVENT_STATE_GONE
DETACHED = booking_pb2.BOOKING_EVENT_STATE_DETACHED


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        service.add_connection("cal_1")
        service.add_connection("cal_2", account_email="bo@example.org")
        service.push_state = PENDING
        yield service


def environment(service: FakeService, term: str = "xterm") -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "PYTHONIOENCODING": "utf-8",
        "CALENDAR_ADDRESS": service.address,
        "CALENDAR_API_KEY": API_KEY,
        "COLUMNS": "80",
        "TERM": term,
    }


def until(true: Callable[[], object]) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def come_to_stand(service: FakeService, connection_id: str, state: int) -> None:
    """The push into one calendar ends so."""
    for event in service.booking_events["b1"]:
        if event.connection_id == connection_id:
            event.state = state  # type: ignore[assignment]
            event.ClearField("problem")


@contextmanager
def piped(service: FakeService, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "calendar_client.cli", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(service)
    ) as process:
        yield process
        process.kill()


class Screen:
    """A terminal on which the command runs."""

    def __init__(self, process: subprocess.Popen[bytes], output: int):
        self.process, self._output = process, output
        self.shown = ""

    def until(self, *texts: str) -> None:
        """Until all of these have been shown since the last call."""
        raw, ends_at = b"", time.monotonic() + WAIT_S
        while not all(text in raw.decode(errors="ignore") for text in texts):
            assert time.monotonic() < ends_at, raw
            if select.select([self._output], [], [], 0.2)[0]:
                raw += os.read(self._output, 65536)
        self.shown += raw.decode(errors="ignore")


@contextmanager
def on_a_terminal(service: FakeService, *arguments: str, term: str = "xterm") -> Iterator[Screen]:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "calendar_client.cli", *arguments]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=environment(service, term), start_new_session=True
    ) as process:
        os.close(child)
        yield Screen(process, parent)
        process.kill()
    os.close(parent)


def test_it_ends_when_every_calendar_shows_it(service: FakeService) -> None:
    with piped(service, *BOOK, "--wait", "30") as process:
        until(lambda: service.arrivals["GetBooking"])
        come_to_stand(service, "cal_1", SYNCED)
        looks = service.arrivals["GetBooking"]
        until(lambda: service.arrivals["GetBooking"] > looks + 1)
        assert process.poll() is None
        come_to_stand(service, "cal_2", SYNCED)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert "Booked: all 2 calendars show it." in out
    assert out.count("✓ synced") == 2
    assert err == ""


def test_scripts_get_the_last_state(service: FakeService) -> None:
    with piped(service, *BOOK, "--wait", "30", "--json") as process:
        until(lambda: service.arrivals["GetBooking"])
        come_to_stand(service, "cal_1", SYNCED)
        come_to_stand(service, "cal_2", FAILED)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 5
    assert [each["state"] for each in json.loads(out)["events"]] == ["synced", "failed"]


def test_a_terminal_shows_each_calendar_meanwhile(service: FakeService) -> None:
    with on_a_terminal(service, *BOOK, "--wait", "30") as screen:
        screen.until("pending", "anna@example.org", "bo@example.org")
        come_to_stand(service, "cal_1", SYNCED)
        screen.until("✓ synced")
        assert screen.process.poll() is None
        come_to_stand(service, "cal_2", SYNCED)
        screen.until("Booked: all 2 calendars show it.")
        assert screen.process.wait(WAIT_S) == 0


def test_a_terminal_that_cannot_draw_gets_a_line_for_each_change(service: FakeService) -> None:
    with on_a_terminal(service, *BOOK, "--wait", "30", term="dumb") as screen:
        screen.until("… pending  anna@example.org", "… pending  bo@example.org")
        come_to_stand(service, "cal_1", SYNCED)
        screen.until("✓ synced")
        come_to_stand(service, "cal_2", SYNCED)
        screen.until("Booked: all 2 calendars show it.")
        assert screen.process.wait(WAIT_S) == 0
    assert "\x1b" not in screen.shown


def test_what_takes_longer_than_the_wait_is_told(service: FakeService) -> None:
    with piped(service, *BOOK, "--wait", "0.6") as process:
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 9
    assert "Booked: 0 of 2 calendars so far, the rest follows." in out
    assert "It is stored and will be done. To look again: calendarctl booking b1" in out
    assert service.arrivals["GetBooking"]


def test_a_look_that_fails_does_not_make_the_booking_fail(service: FakeService) -> None:
    service.fail("GetBooking", Failure(grpc.StatusCode.INTERNAL, "INTERNAL"))
    with piped(service, *BOOK, "--wait", "30") as process:
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 9
    assert "It is stored and will be done." in out
    assert err == ""


def test_ctrl_c_says_that_it_is_stored(service: FakeService) -> None:
    with piped(service, *BOOK, "--wait", "30") as process:
        until(lambda: service.arrivals["GetBooking"])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert err == "It is stored and will be done. To look: calendarctl booking b1\nStopped.\n"
    assert out == ""


def test_ctrl_c_before_the_answer_says_that_it_is_not_known(service: FakeService) -> None:
    service.stall("SyncBooking")
    with piped(service, *BOOK, "--wait", "30") as process:
        until(lambda: service.arrivals["SyncBooking"])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert err.startswith("Whether it was stored is not known yet. To look: calendarctl booking b1")


def test_another_revision_meanwhile_ends_it_as_a_conflict(service: FakeService) -> None:
    with piped(service, *BOOK, "--wait", "30") as process:
        until(lambda: service.arrivals["GetBooking"])
        service.bookings["b1"].revision = 2
        come_to_stand(service, "cal_1", SYNCED)
        come_to_stand(service, "cal_2", SYNCED)
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 8
    assert "Revision 2 is there already" in out


@pytest.mark.parametrize(
    ("states", "cancelled", "expected"),
    [
        ([SYNCED], False, "Done: the calendar shows it."),
        ([SYNCED, SYNCED, REMOVED, DETACHED], False, "Done: all 2 calendars show it."),
        ([SYNCED, PENDING, PENDING], False, "Done: 1 of 3 calendars so far, the rest follows."),
        ([PENDING], False, "Done: the calendar follows."),
        ([SYNCED, FAILED, PENDING], False, "Done, but 1 of 3 calendars refused it."),
        ([FAILED], False, "Done, but the calendar refused it."),
        ([GONE], False, "Done, but the calendar had it deleted by its owner."),
        ([], False, "Done, but no calendar shows it."),
        ([REMOVED], True, "Done: the calendar no longer has it."),
        ([REMOVED, GONE], True, "Done: none of 2 calendars has it any more."),
        ([REMOVED, PENDING], True, "Done: 1 of 2 calendars so far, the rest follows."),
        ([DETACHED], True, "Done: no calendar had it."),
    ],
)
def test_the_end_is_a_sentence(states: list[int], cancelled: bool, expected: str) -> None:
    status = booking_pb2.BOOKING_STATUS_CANCELLED if cancelled else booking_pb2.BOOKING_STATUS_CONFIRMED
    answer = SyncBookingResponse(
        booking=booking_pb2.Booking(status=status),
        events=[booking_pb2.BookingEvent(state=each) for each in states],  # type: ignore[arg-type]
    )
    assert sentence(answer, "Done").plain == expected
