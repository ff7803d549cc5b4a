"""The value of an RRULE property (RFC 5545 section 3.3.10, with RFC 7529's RSCALE and SKIP) as a value of ours.

Vocabulary
    freq      the unit that the rule counts in; ``interval`` of them make one step.
    period    one such unit: a year, a month, a week (from ``wkst``), a day, an hour, a minute, a second.
    BY part   a list such as BYDAY that expands a period to several occurrences, or limits which ones count.

What real calendars write although the RFC forbids it is read where it can mean one thing only: lower case, blanks
around separators, empty parts (``FREQ=DAILY;``), a leading ``RRULE:``, ``+1MO``, a part that is repeated word for word,
an UNTIL with dashes and colons, X- parts, both COUNT and UNTIL (the earlier end wins), a leap second (read as 59).
What could mean two things is refused, since a guess could make somebody look free.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from functools import lru_cache

INTERVAL_MAX = 10**12
"""No step is longer than this many units: even seconds leave the years 1 to 9999 at the first step."""

_TEXT_MAX = 10_000
"""Characters. A rule with every value of every BY part stays below."""


class RuleError(ValueError):
    """The rule cannot be understood. The message names the part."""


class Freq(IntEnum):
    """The unit of a rule, from coarse to fine: ``freq > Freq.DAILY`` are those within a day."""

    YEARLY = 0
    MONTHLY = 1
    WEEKLY = 2
    DAILY = 3
    HOURLY = 4
    MINUTELY = 5
    SECONDLY = 6


class Skip(StrEnum):
    """What becomes of a date that does not exist, such as 30 February (RFC 7529 section 4.1)."""

    OMIT = "OMIT"
    BACKWARD = "BACKWARD"
    FORWARD = "FORWARD"


@dataclass(frozen=True, slots=True)
class Until:
    """The last moment of a rule, inclusive.

    ``value`` is naive. With ``date_only`` it is midnight and the whole day counts. With ``utc`` it was written in UTC,
    so that a caller whose rule runs in another zone has to convert it (``with_until``).
    """

    date_only: bool
    value: datetime
    utc: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """A recurrence rule. BY parts are sorted, without doubles, and empty when the rule does not have them.

    ``by_day`` holds pairs of ordinal and weekday (Monday is 0): ``(0, 4)`` every Friday, ``(-1, 4)`` the last Friday.
    """

    freq: Freq
    interval: int = 1
    count: int | None = None
    until: Until | None = None
    by_second: tuple[int, ...] = ()
    by_minute: tuple[int, ...] = ()
    by_hour: tuple[int, ...] = ()
    by_day: tuple[tuple[int, int], ...] = ()
    by_month_day: tuple[int, ...] = ()
    by_year_day: tuple[int, ...] = ()
    by_week_no: tuple[int, ...] = ()
    by_month: tuple[int, ...] = ()
    by_set_pos: tuple[int, ...] = ()
    wkst: int = 0
    skip: Skip = Skip.OMIT

    @property
    def within_day(self) -> bool:
        """Whether the rule counts hours, minutes or seconds."""
        return self.freq > Freq.DAILY


def with_until(rule: Rule, until: datetime | None) -> Rule:
    """Replace the rule's UNTIL by a naive wall-clock moment, inclusive, or take it away."""
    return dataclasses.replace(rule, until=None if until is None else Until(False, until, False))


def parse_rule(text: str) -> Rule:
    """Read the value of an RRULE property. Raises ``RuleError`` when it cannot be understood."""
    # Most series of a calendar follow one of a few rules.
    return _known_rule(text) if len(text) < 60 else _parse_rule(text)


def _parse_rule(text: str) -> Rule:
    if len(text) > _TEXT_MAX:
        raise RuleError("The recurrence rule is too long.")
    parts = _split(text)
    try:
        freq = Freq[parts.pop("FREQ")]
    except KeyError as error:
        raise RuleError("The recurrence rule has no FREQ that is known.") from error
    skip = _skip(parts)
    interval = _positive("INTERVAL", parts.pop("INTERVAL", "1"))
    count, until = parts.pop("COUNT", None), parts.pop("UNTIL", None)
    by_day = tuple(sorted(_by_day(parts.pop("BYDAY"), freq))) if "BYDAY" in parts else ()
    wkst = parts.pop("WKST", "MO")
    if wkst not in _WEEKDAYS:
        raise RuleError(f"WKST is not a weekday: {wkst[:20]!r}.")
    numbers = {field: _numbers(name, parts.pop(name)) for name, field in _FIELDS.items() if name in parts}
    if parts:
        raise RuleError(f"The recurrence rule has a part that is not known: {next(iter(parts))[:20]!r}.")
    rule = Rule(
        freq=freq,
        interval=min(interval, INTERVAL_MAX),
        count=None if count is None else _positive("COUNT", count),
        until=None if until is None else _until(until),
        by_day=by_day,
        wkst=_WEEKDAYS[wkst],
        skip=skip,
        **numbers,
    )
    if rule.by_week_no and any(ordinal for ordinal, _ in rule.by_day):
        # RFC 5545 forbids it, and the readings that exist have nothing in common.
        raise RuleError("BYDAY has an ordinal beside BYWEEKNO.")
    return rule


_known_rule = lru_cache(maxsize=1024)(_parse_rule)

_WEEKDAYS = {name: number for number, name in enumerate(("MO", "TU", "WE", "TH", "FR", "SA", "SU"))}

_FIELDS = {
    "BYSECOND": "by_second",
    "BYMINUTE": "by_minute",
    "BYHOUR": "by_hour",
    "BYMONTHDAY": "by_month_day",
    "BYYEARDAY": "by_year_day",
    "BYWEEKNO": "by_week_no",
    "BYMONTH": "by_month",
    "BYSETPOS": "by_set_pos",
}

_BOUNDS = {
    # smallest and largest absolute value, and whether it may be negative
    "BYSECOND": (0, 60, False),
    "BYMINUTE": (0, 59, False),
    "BYHOUR": (0, 23, False),
    "BYMONTHDAY": (1, 31, True),
    "BYYEARDAY": (1, 366, True),
    "BYWEEKNO": (1, 53, True),
    "BYMONTH": (1, 12, False),
    "BYSETPOS": (1, 366, True),
}

_NUMBER = re.compile(r"([+-]?)([0-9]{1,20})", re.ASCII)
_DAY = re.compile(r"(?:([+-]?)([0-9]{1,2}))?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_UNTIL = re.compile(r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})(?:T([0-9]{2})(:?)([0-9]{2})\6([0-9]{2})(Z?))?", re.ASCII)


def _split(text: str) -> dict[str, str]:
    """Names and values in capitals. Parts that say nothing, and X- parts, are left out."""
    parts: dict[str, str] = {}
    for part in text.strip().upper().removeprefix("RRULE:").split(";"):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise RuleError(f"The recurrence rule has a part without a value: {name[:20]!r}.")
        if name.startswith("X-"):
            continue
        if parts.setdefault(name, value) != value:
            raise RuleError(f"The recurrence rule has two different {name[:20]}.")
    return parts


def _skip(parts: dict[str, str]) -> Skip:
    """Take RSCALE and SKIP out of the parts. SKIP alone is read as if RSCALE=GREGORIAN stood beside it."""
    scale = parts.pop("RSCALE", "GREGORIAN")
    if scale not in ("GREGORIAN", "GREGORY"):
        raise RuleError(f"The calendar scale is not supported: {scale[:20]!r}.")
    skip = parts.pop("SKIP", "OMIT")
    try:
        return Skip(skip)
    except ValueError as error:
        raise RuleError(f"SKIP is not known: {skip[:20]!r}.") from error


def _positive(name: str, value: str) -> int:
    match = _NUMBER.fullmatch(value)
    if not match or match[1] == "-" or int(match[2]) == 0:
        raise RuleError(f"{name} is not a positive number: {value[:20]!r}.")
    return int(match[2])


def _numbers(name: str, value: str) -> tuple[int, ...]:
    low, high, signed = _BOUNDS[name]
    found = set()
    for item in value.split(","):
        match = _NUMBER.fullmatch(item.strip())
        if not match or (match[1] == "-" and not signed) or not low <= int(match[2]) <= high:
            raise RuleError(f"{name} has a value that is not allowed: {item[:20]!r}.")
        number = int(match[1] + match[2])
        # RFC 5545 section 3.3.12: who knows no leap seconds reads second 60 as 59.
        found.add(59 if name == "BYSECOND" and number == 60 else number)
    return tuple(sorted(found))


def _by_day(value: str, freq: Freq) -> set[tuple[int, int]]:
    """Ordinals are dropped where RFC 5545 forbids them (neither MONTHLY nor YEARLY): every such weekday may block."""
    found = set()
    for item in value.split(","):
        match = _DAY.fullmatch("".join(item.split()))
        if not match or (match[2] and not 1 <= int(match[2]) <= 53):
            raise RuleError(f"BYDAY has a value that is not allowed: {item[:20]!r}.")
        ordinal = int(match[1] + match[2]) if match[2] and freq <= Freq.MONTHLY else 0
        found.add((ordinal, _WEEKDAYS[match[3]]))
    return found


def _until(value: str) -> Until:
    match = _UNTIL.fullmatch(value)
    if not match:
        raise RuleError(f"UNTIL is neither a date nor a date with time: {value[:30]!r}.")
    year, _, month, day, hour, _, minute, second, zone = match.groups()
    try:
        if hour is None:
            return Until(True, datetime(int(year), int(month), int(day)), False)
        moment = datetime(int(year), int(month), int(day), int(hour), int(minute), min(int(second), 59))
        if int(second) > 60:
            raise ValueError("second must be in 0..60")
    except ValueError as error:
        raise RuleError(f"UNTIL is a moment that does not exist: {value[:30]!r}.") from error
    return Until(False, moment, zone == "Z")
