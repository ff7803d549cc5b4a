"""Children that read calendar text, as the tests of them need them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import psutil

from calendar_server.core.busy import Reading
from calendar_server.core.intervals import from_datetime
from calendar_server.core.model import Interval
from calendar_server.providers.base import Deadline
from calendar_server.providers.expander import Expander

WINDOW = Interval(*(from_datetime(datetime(2026, month, 1, tzinfo=UTC)) for month in (3, 4)))
READING = Reading(WINDOW, "UTC")
MEMORY = 512_000_000


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "spawn_main" in " ".join(each.cmdline())]


def until(true: Callable[[], bool], seconds: float = 10) -> bool:
    """Poll the world outside of this process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.01)
    return False


def attempt(expander: Expander, name: str, function: Callable[..., object], *arguments: object) -> object:
    return expander.attempt(name, function, arguments, READING, Deadline.after(20))
