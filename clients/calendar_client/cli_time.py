"""Times as people type and read them, in one zone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from google.protobuf.timestamp_pb2 import Timestamp

YEARS = (1900, 9000)
"""Years that can be typed."""

_DAY_WORDS = {"today": 0, "tomorrow": 1}
_WEEKDAY_WORDS = {
    word: number
    for number, name in enumerate(("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"))
    for word in (name, name[:3])
}


@dataclass(frozen=True, slots=True)
class Zone:
    """A time zone and its name. ``iana`` is empty when the machine's zone has no name that others would know."""

    name: str
    iana: str
    tz: tzinfo

    @classmethod
    def named(cls, name: str) -> Zone:
        """The zone of an IANA name. Raises ``ValueError`` for others."""
        try:
            return cls(name, name, ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is not the name of a time zone, such as Europe/Berlin or UTC.") from None

    @classmethod
    def local(cls) -> Zone:
        """This machine's zone: ``TZ``, then /etc/localtime, then /etc/timezone, then its offset of today."""
        for name in _local_names():
            try:
                return cls.named(name)
            except ValueError:
                continue
        offset = datetime.now().astimezone().utcoffset() or timedelta()
        fixed = timezone(offset)
        return cls(str(fixed), "UTC" if not offset else "", fixed)

    def label(self, start: datetime, end: datetime) -> str:
        """The name with what the clock shows between two instants: ``Europe/Berlin (CET, UTC+1)``."""
        first, last = start.astimezone(self.tz), (end - timedelta(seconds=1)).astimezone(self.tz)
        shown = [_offset(first)]
        if last.utcoffset() != first.utcoffset():
            shown.append(_offset(last))
        abbreviations = " then ".join(shown)
        return self.name if abbreviations == self.name else f"{self.name} ({abbreviations})"

    def midnight(self, day: date) -> datetime:
        """The instant when a day begins here. Where clocks skip midnight, the first moment after the gap."""
        return datetime.combine(day, time(), self.tz).astimezone(UTC)

    def today(self) -> date:
        return datetime.now(self.tz).date()


def _local_names() -> list[str]:
    names = [os.environ.get("TZ", "").lstrip(":")]
    resolved = str(Path("/etc/localtime").resolve())
    if "/zoneinfo/" in resolved:
        names.append(resolved.rpartition("/zoneinfo/")[2].removeprefix("posix/").removeprefix("right/"))
    timezone_file = Path("/etc/timezone")
    if timezone_file.is_file():
        names.append(timezone_file.read_text(errors="replace").strip())
    # With TZ set to something else than a name, the files say what does not hold for this process.
    return [name for name in names if name] if not names[0] else [names[0]]


def _offset(moment: datetime) -> str:
    """``CET, UTC+1``; only the offset where the zone has no abbreviation of letters."""
    minutes = int((moment.utcoffset() or timedelta()).total_seconds() // 60)
    if not minutes:
        return "UTC"
    sign, size = ("+", minutes) if minutes > 0 else ("−", -minutes)
    offset = f"UTC{sign}{size // 60}" + (f":{size % 60:02}" if size % 60 else "")
    name = moment.tzname() or ""
    return f"{name}, {offset}" if name.isalpha() else offset


def parse_moment(text: str, zone: Zone) -> datetime:
    """Read ``2026-03-17T10:00``, in the zone unless it has an offset of its own. Raises ``ValueError``.

    The day may be a word: ``tomorrow 10:00``, ``friday 9:30``. A time that the clocks skip is refused; of a time that comes
    twice the first is meant.
    """
    try:
        moment = datetime.fromisoformat(_spelled_out(text.strip(), zone))
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time: write it as 2026-03-17T10:00, 2026-03-17T10:00Z or 'friday 10:00'."
        ) from None
    _check_year(moment)
    if len(text.strip()) <= len("2026-03-17"):
        raise ValueError(f"{text!r} has no time of day: write it as 2026-03-17T10:00.")
    if moment.utcoffset() is not None:
        return moment
    moment = moment.replace(tzinfo=zone.tz)
    if moment.astimezone(UTC).astimezone(zone.tz).replace(tzinfo=None) != moment.replace(tzinfo=None):
        raise ValueError(f"{text} does not exist in {zone.name}: the clocks go forward over it.")
    return moment


def parse_day(text: str, zone: Zone) -> date:
    """Read ``2026-03-17``, ``today``, ``tomorrow`` or a weekday, which is the next one. Raises ``ValueError``."""
    word = text.lower()
    today = zone.today()
    if word in _DAY_WORDS:
        return today + timedelta(days=_DAY_WORDS[word])
    if word in _WEEKDAY_WORDS:
        return today + timedelta(days=(_WEEKDAY_WORDS[word] - today.weekday()) % 7)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a day: write it as 2026-03-17, today, tomorrow or monday.") from None
    _check_year(day)
    return day


def _spelled_out(text: str, zone: Zone) -> str:
    """``friday 9:30`` with the day's date; other texts as they are."""
    day, _, clock = text.partition(" ")
    if day.lower() not in _DAY_WORDS and day.lower() not in _WEEKDAY_WORDS:
        return text
    return f"{parse_day(day, zone)}T{clock.strip():0>5}"


def _check_year(day: date) -> None:
    """Far years overflow when they are moved between zones, and no calendar has them."""
    if not YEARS[0] <= day.year <= YEARS[1]:
        raise ValueError(f"The year {day.year} is out of reach.")


def instant(message: Timestamp) -> datetime:
    """The message as an instant in UTC."""
    return message.ToDatetime(tzinfo=UTC)


def day_text(day: date) -> str:
    """``Mon 16 Mar``, always ten columns wide."""
    return f"{day:%a} {day.day:2} {day:%b}"


def length_text(length: timedelta) -> str:
    """``45 min``, ``1 h 30 min``, ``2 days``."""
    minutes = round(length.total_seconds() / 60)
    if minutes >= 24 * 60 and minutes % (24 * 60) == 0:
        days = minutes // (24 * 60)
        return "1 day" if days == 1 else f"{days} days"
    if minutes == 0 and length:
        return f"{round(length.total_seconds())} s"
    hours, minutes = divmod(minutes, 60)
    return " ".join([f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes or not hours))


def span_text(start: datetime, end: datetime, zone: Zone, *, with_day: bool = True) -> str:
    """``Mon 16 Mar  09:00 – 10:30``, ``Mon 16 Mar  all day``; the end's day is named where it is another."""
    first, last = start.astimezone(zone.tz), end.astimezone(zone.tz)
    day = f"{day_text(first.date())}  " if with_day else ""
    if first.time() == time() == last.time() and last.date() > first.date():
        final = last.date() - timedelta(days=1)
        return f"{day}all day" + ("" if final == first.date() else f", to {final:%a} {final.day} {final:%b}")
    if last.time() == time() and last.date() == first.date() + timedelta(days=1):
        return f"{day}{first:%H:%M} – 24:00"
    other_day = "" if last.date() == first.date() else f" {last:%a} {last.day} {last:%b}"
    return f"{day}{_clock(first)} – {_clock(last)}{other_day}"


def _clock(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"


def moment_text(moment: datetime, zone: Zone) -> str:
    """A moment of the record: ``10:42`` today, else ``Tue 17 Mar 10:42``, in another year with the year."""
    local = moment.astimezone(zone.tz)
    today = zone.today()
    if local.date() == today:
        return f"{local:%H:%M}"
    year = f" {local.year}" if local.year != today.year else ""
    return f"{local:%a} {local.day} {local:%b}{year} {local:%H:%M}"


def ago_text(moment: datetime) -> str:
    """How long ago: ``just now``, ``3 min ago``, ``2 h ago``, ``5 days ago``."""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    if seconds < 60:
        return "just now"
    for size, unit in ((86_400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size:
            count = int(seconds // size)
            plural = "s" if unit == "day" and count != 1 else ""
            return f"{count} {unit}{plural} ago"
    raise AssertionError("unreachable")
