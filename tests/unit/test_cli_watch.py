"""``calendarctl watch`` as a process of its own: on a terminal, in a pipe, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from click.testing import CliRunner, Result

from calendar_client.cli import cli
from calendars.v1 import availability_pb2
from tests.fakes.fake_service import API_KEY, Event, Failure, FakeService, running

WORK = "/dav/anna/work/"
NINE = datetime(2026, 3, 16, 9, tzinfo=UTC)
QUESTION = ("watch", "--start", "2026-03-16", "--days", "2", "--zone", "UTC")
WAIT_S = 30.0


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        service.add_connection()
        yield service


def environment(service: FakeService) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "PYTHONIOENCODING": "utf-8",
        "CALENDAR_ADDRESS": service.address,
        "CALENDAR_API_KEY": API_KEY,
        "COLUMNS": "80",
        "TERM": "xterm",
    }


def ctl(service: FakeService, *more: str) -> Result:
    """Run it to its end in this process."""
    return CliRunner().invoke(cli, [*QUESTION, *more], env=environment(service))


def busy_at(service: FakeService, hour: int) -> None:
    service.events["cal_1", WORK] = [Event(NINE.replace(hour=hour), NINE.replace(hour=hour) + timedelta(hours=1))]
    service.changed()


class Run:
    """It runs; what it prints is read as it comes."""

    def __init__(self, process: subprocess.Popen[bytes], output: int):
        self.process = process
        self._output = output
        self.shown = ""

    def until(self, text: str) -> str:
        """All that was shown since the last time, as soon as this is in it."""
        ends_at = time.monotonic() + WAIT_S
        raw = b""
        while text not in raw.decode(errors="ignore"):
            assert time.monotonic() < ends_at, raw
            if select.select([self._output], [], [], 0.2)[0]:
                piece = os.read(self._output, 65536)
                assert piece, raw
                raw += piece
        return raw.decode()

    def interrupt(self) -> int:
        """Ctrl-C; answers the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(WAIT_S)


@contextmanager
def piped(service: FakeService, *more: str) -> Iterator[Run]:
    command = [sys.executable, "-m", "calendar_client.cli", *QUESTION, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(service)) as process:
        assert process.stdout is not None
        yield Run(process, process.stdout.fileno())
        process.kill()


@contextmanager
def on_a_terminal(service: FakeService, *more: str) -> Iterator[Run]:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "calendar_client.cli", *QUESTION, *more]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=environment(service), start_new_session=True
    ) as process:
        os.close(child)
        yield Run(process, parent)
        process.kill()
    os.close(parent)


def test_json_is_one_answer_in_each_line(service: FakeService) -> None:
    done = ctl(service, "--json", "--for", "1")
    assert done.exit_code == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) > 1
    assert all(answer["complete"] for answer in answers)
    times = [answer["calendars"][0]["as_of"] for answer in answers]
    assert times == sorted(set(times))


def test_what_is_asked_is_sent(service: FakeService) -> None:
    service.add_connection("cal_2")
    ctl(service, "--for", "0.5", "--connection", "cal_2", "--exclude", "b1", "--ignore-tentative", "--partial")
    sent = service.received["WatchBusy"]
    assert (list(sent.connection_ids), list(sent.exclude_booking_ids)) == (["cal_2"], ["b1"])
    assert sent.ignore_tentative
    assert sent.allow_partial
    assert sent.start_time.ToDatetime(UTC) == NINE.replace(hour=0)
    assert sent.end_time.ToDatetime(UTC) - sent.start_time.ToDatetime(UTC) == timedelta(days=2)


def test_in_a_pipe_every_change_is_told_once(service: FakeService) -> None:
    service.heartbeat_s = 0.05
    with piped(service) as run:
        run.until("Nothing is missing.")
        busy_at(service, 10)
        told = run.until("Nothing is missing.")
        assert told.count("10:00 – 11:00") == 1
        assert "\x1b" not in told
        seen = service.told
        while service.told < seen + 5:
            time.sleep(0.01)
        busy_at(service, 12)
        told = run.until("Nothing is missing.")
        assert (told.count("12:00 – 13:00"), told.count("10:00 – 11:00")) == (1, 0)


def test_a_pipe_that_is_closed_ends_it_quietly(service: FakeService) -> None:
    with piped(service, "--json") as run:
        run.until("\n")
        assert run.process.stdout is not None
        run.process.stdout.close()
        assert run.process.wait(WAIT_S) == 0
        assert run.process.stderr is not None
        assert run.process.stderr.read() == b""


def test_a_terminal_is_drawn_anew(service: FakeService) -> None:
    with on_a_terminal(service) as run:
        first = run.until("Ctrl-C ends.")
        assert "1 calendar, read at" in first
        busy_at(service, 10)
        drawn = run.until("10:00 – 11:00")
        assert "\x1b[2J" in drawn
        assert run.interrupt() == 130


def test_ctrl_c_ends_it_without_a_traceback(service: FakeService) -> None:
    with piped(service) as run:
        run.until("Nothing is missing.")
        assert run.interrupt() == 130
        assert run.process.stderr is not None
        assert run.process.stderr.read() == b"Stopped.\n"
    ends_at = time.monotonic() + WAIT_S
    while service.watches:
        assert time.monotonic() < ends_at
        time.sleep(0.01)


def test_an_incomplete_picture_ends_with_its_code(service: FakeService) -> None:
    service.unknown["cal_1", WORK] = (availability_pb2.BUSY_STATE_UNKNOWN, "The server answered 503.")
    done = ctl(service, "--partial", "--for", "0.5")
    assert done.exit_code == 9
    assert "INCOMPLETE" in done.stdout


def test_a_calendar_that_cannot_be_read_ends_it_with_a_way_on(service: FakeService) -> None:
    service.unknown["cal_1", WORK] = (availability_pb2.BUSY_STATE_UNKNOWN, "The server answered 503.")
    done = ctl(service)
    assert done.exit_code == 6
    assert "The server answered 503." in done.stderr
    assert "--partial" in done.stderr
    assert done.stdout == ""


def test_an_end_says_that_the_picture_counts_no_more(service: FakeService) -> None:
    with piped(service) as run:
        run.until("Nothing is missing.")
        service.end_watches(Failure(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED", "A valid API key is required."))
        assert run.process.wait(WAIT_S) == 4
        assert run.process.stderr is not None
        told = run.process.stderr.read().decode()
    assert "What was shown counts no more." in told
    assert "A valid API key is required." in told


def test_no_answer_in_the_time_that_was_given_is_an_error(service: FakeService) -> None:
    service.stall("WatchBusy")
    done = ctl(service, "--for", "0.3")
    assert (done.exit_code, done.stdout) == (6, "")
    assert "No answer in time." in done.stderr


def test_a_set_and_an_owner_exclude_each_other(service: FakeService) -> None:
    assert ctl(service, "--connection", "cal_1", "--owner", "u").exit_code == 2
