"""docs/python-client.md: its examples run, in one program and against a service with memory, and its tables are true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from calendar_client import CalendarClient
from calendars.v1 import booking_pb2
from tests.fakes.fake_service import API_KEY, Event, FakeService, running

PAGE = (Path(__file__).parents[2] / "docs" / "python-client.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
WORK = "/dav/anna/work/"


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        service.add_connection("cal_1")
        service.events["cal_1", WORK] = [
            Event(datetime(2026, 3, 16, 9, tzinfo=UTC), datetime(2026, 3, 16, 10, tzinfo=UTC))
        ]
        yield service


def test_the_examples_run_as_they_stand_there(service: FakeService) -> None:
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "CALENDAR_ADDRESS": service.address,
        "CALENDAR_API_KEY": API_KEY,
    }
    program = "\n".join(EXAMPLES)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "2026-03-16 09:00:00+00:00 2026-03-16 10:00:00+00:00"
    assert "cal_2 bo@example.org" in lines
    assert "1 intervals" in lines
    assert "credentials" in lines
    assert "Connected already, as cal_2" in lines
    assert any(line.startswith("NOT_FOUND ") for line in lines)
    assert "1 3" in lines
    assert lines[-2:] == ["complete", "CalendarClient('calendars.example.org:443')"]
    assert service.bookings["interview-1"].status == booking_pb2.BOOKING_STATUS_CANCELLED


def test_every_call_is_in_the_table() -> None:
    table = PAGE.split("| --- | --- | --- |")[1].split("\n\n")[0]
    public = {name for name in vars(CalendarClient) if not name.startswith("_")} - {"close"}
    assert set(re.findall(r"`([a-z_]+)`", table)) - {"require_free", "for_s"} == public
