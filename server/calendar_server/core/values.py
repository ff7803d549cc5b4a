"""Values of iCalendar's properties: dates, times, durations, periods (RFC 5545 section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from calendar_server.core.ical import Property

_USUAL = re.compile(r"\d{8}T\d{4}[0-5]\d(Z?)", re.ASCII)
"""Most dates with times: what ``_MOMENT`` reads as well, in a third more time."""
_MOMENT = re.compile(r"(\d{4})(\d{2})(\d{2})(?:[Tt](\d{2})(\d{2})(\d{2})([Zz]?))?", re.ASCII)
_DURATION = re.compile(
    r"([+-]?)P(?:(\d{1,9})W)?(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?", re.ASCII | re.I
)


class BadValue(ValueError):
    """A value is not what its property asks for."""


class Moment(NamedTuple):
    """A date, or a date with time, as written. ``local`` is naive, midnight for dates.

    ``tzid`` is empty for dates, for UTC (a ``Z`` beats a TZID, RFC 5545 section 3.3.5) and for floating times.
    """

    local: datetime
    is_date: bool = False
    is_utc: bool = False
    tzid: str = ""


class Length(NamedTuple):
    """How long something takes: nominal ``days`` first, then exact ``seconds`` (RFC 5545 section 3.3.6).

    A nominal day ends at the same time of the next day, and so has 23 or 25 hours when clocks change.
    """

    days: int = 0
    seconds: int = 0

    @property
    def rough(self) -> timedelta:
        """As if every day had 24 hours. Raises ``OverflowError``."""
        return timedelta(days=self.days, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class Addition:
    """One value of RDATE: a start, with a length of its own if it was a period."""

    start: Moment
    end: Moment | Length | None = None


def moment(text: str, tzid: str = "") -> Moment:
    """Read a DATE or DATE-TIME by its form. Raises ``BadValue``.

    The form decides, not VALUE: both ``VALUE=DATE`` with a time and dates without ``VALUE=DATE`` are met in the field.
    """
    if _USUAL.fullmatch(text):
        try:
            usual = datetime.fromisoformat(text[:15])
        except ValueError:
            raise BadValue("a date or time does not exist") from None
        return _tuple(Moment, (usual, False, True, "") if len(text) > 15 else (usual, False, False, tzid))
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise BadValue("a date or time cannot be read")
    year, month, day, hour, minute, second, utc = match.groups()
    try:
        if hour is None:
            return Moment(datetime(int(year), int(month), int(day)), is_date=True)
        # RFC 5545 section 3.3.12: who does not know leap seconds reads 60 as 59.
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59))
    except ValueError:
        raise BadValue("a date or time does not exist") from None
    if int(second) > 60:
        raise BadValue("a date or time does not exist")
    return Moment(local, is_utc=True) if utc else Moment(local, tzid=tzid)


_tuple: Callable[[type[Moment], tuple[datetime, bool, bool, str]], Moment] = tuple.__new__
"""Makes a moment in half the time that its own way takes."""


def length(text: str) -> Length:
    """Read a DURATION; it may be negative. Raises ``BadValue``."""
    # Most events of a calendar take one of a few.
    return _known_length(text) if len(text) < 40 else _length(text)


def _length(text: str) -> Length:
    stripped = text.strip()
    match = _DURATION.fullmatch(stripped)
    if match is None or stripped[-1:] in "PpTt":
        raise BadValue("a duration cannot be read")
    weeks, days, hours, minutes, seconds = (int(group or 0) for group in match.groups()[1:])
    sign = -1 if match[1] == "-" else 1
    return Length(sign * (weeks * 7 + days), sign * (hours * 3600 + minutes * 60 + seconds))


_known_length = lru_cache(maxsize=256)(_length)


def moments(line: Property) -> list[Moment]:
    """The values of one EXDATE line. Empty ones are passed over. Raises ``BadValue``."""
    tzid = line.parameter("TZID")
    return [moment(text, tzid) for text in line.value.split(",") if text.strip()]


def additions(line: Property) -> list[Addition]:
    """The values of one RDATE line. Empty ones are passed over. Raises ``BadValue``."""
    tzid = line.parameter("TZID")
    found = []
    for text in line.value.split(","):
        if not text.strip():
            continue
        start, slash, end = text.partition("/")
        if not slash:
            found.append(Addition(moment(start, tzid)))
        elif "P" in end.upper():
            found.append(Addition(moment(start, tzid), length(end)))
        else:
            found.append(Addition(moment(start, tzid), moment(end, tzid)))
    return found
