"""Calendar texts that were right, broken on purpose: by bytes, by lines, by components, by values.

Two kinds of breaking. *Damage* makes part of a text unreadable and adds nothing: what was busy is still busy afterwards, or
the reader says that it could not read. *Noise* is anything at all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

DATED = ("DTSTART", "DTEND", "DURATION", "RRULE", "RDATE", "EXDATE", "EXRULE", "RECURRENCE-ID")
_DATED = re.compile(rf"^(?:{'|'.join(DATED)})[;:]")
_SAYS_MORE = re.compile(r"^(?:STATUS|TRANSP|X-MICROSOFT|ATTENDEE|SEQUENCE|DTSTAMP|UID|X-APPLE|RDATE)")
"""Lines without which an event would be another, though no less readable."""
_FRAME = re.compile(r"^(?:BEGIN|END):")
_INSIDE = re.compile(r"^(?:BEGIN|END):(?:VEVENT|VCALENDAR)$")

GARBAGE = (
    "garbage",
    "2026",
    "20261399T990000",
    "00000000",
    ":::",
    "P",
    "PT",
    "-",
    ";",
    "\ufffd",
    "\udcff\x00",
    "NaN",
)
GARBAGE += (
    "20260310T0900",
    "20260310T090000Q",
    "2026-03-10T09:00:00Z",
    "FREQ=SOMETIMES",
    "FREQ=DAILY;INTERVAL=0",
    "x" * 5000,
)
"""Values that none of ``DATED`` may have."""

HOSTILE = (
    "RRULE:FREQ=SECONDLY",
    "RRULE:FREQ=MINUTELY;INTERVAL=999999999999",
    "RRULE:FREQ=DAILY;COUNT=999999999",
    "RRULE:FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
    "RRULE:FREQ=YEARLY;BYWEEKNO=53;BYDAY=MO;BYSETPOS=-1",
    "RRULE:FREQ=SECONDLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=23;BYMINUTE=59;BYSECOND=60",
    "RRULE:FREQ=HOURLY;BYSETPOS=366,-366;BYDAY=MO,TU,WE,TH,FR,SA,SU",
    "RRULE:FREQ=DAILY;UNTIL=99991231T235959Z",
    "RRULE:FREQ=DAILY;UNTIL=00010101",
    "RDATE:" + ",".join(["20260310T090000Z"] * 3000),
    "RDATE;VALUE=PERIOD:20260310T090000Z/P999999999W",
    "RDATE;VALUE=PERIOD:20260310T090000Z/-PT1H",
    "EXDATE:" + ",".join(["20260310T090000Z"] * 3000),
    "EXRULE:FREQ=SECONDLY",
    "DURATION:P999999999W",
    "DURATION:-P1D",
    "DURATION:PT0S",
    "DTSTART:00010101T000000Z",
    "DTSTART:99991231T235960Z",
    "DTEND:99991231T235959Z",
    "DTSTART;TZID=" + "A" * 3000 + ":20260310T090000",
    "DTSTART;TZID=../../etc/passwd:20260310T090000",
    'DTSTART;TZID="GMT+0530":20260310T090000',
    "DTSTART;TZID=Etc/GMT+14:99991231T235959",
    "DTSTART;VALUE=DATE:99991231",
    "DTSTART;VALUE=DATE:00010101",
    "RECURRENCE-ID;RANGE=THISANDFUTURE:20260310T090000Z",
    "RECURRENCE-ID;RANGE=THISANDPRIOR:20260310T090000Z",
    "X-APPLE-TRAVEL-DURATION;VALUE=DURATION:P999999999W",
    "X-APPLE-TRAVEL-DURATION:garbage",
    "SEQUENCE:" + "9" * 400,
    "SEQUENCE:-1",
    "SEQUENCE:²",
    "DTSTAMP:garbage",
    "TZOFFSETFROM:+9999",
    "TZOFFSETTO:-2400",
    "TZOFFSETTO:+000001",
    "TZID:",
    "UID:",
    "STATUS:CONFIRMED",
    "TRANSP:TRANSPARENT",
    "X-MICROSOFT-CDO-BUSYSTATUS:FREE",
    "ATTENDEE;PARTSTAT=DECLINED:mailto:anna@example.org",
    'ATTENDEE;CN="a:b;c',
    "METHOD:REQUEST",
    "BEGIN:VALARM",
    "END:VALARM",
    "BEGIN:VEVENT",
    "END:VEVENT",
    "BEGIN:VTIMEZONE",
    "END:VTIMEZONE",
    "BEGIN:STANDARD",
    "BEGIN:VCALENDAR",
    "END:VCALENDAR",
    "BEGIN:" + "X" * 2000,
    "BEGIN:",
    "\x00",
    "\ufeff",
    "\u2028",
    "\udc80\udcff",
    ":",
    ";",
    " ",
)
"""Lines that somebody could put anywhere."""


def lines_of(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def whole(lines: list[str]) -> str:
    return "\r\n".join(lines)


def _unfolded(text: str) -> list[str]:
    return lines_of(re.sub(r"\r?\n[ \t]", "", text))


def spoil_a_value(text: str, rng: random.Random) -> str | None:
    """A date, a duration or a rule of an event becomes garbage."""
    lines = _unfolded(text)
    there = [at for at, line in enumerate(lines) if _DATED.match(line) and _in_event(lines, at)]
    if not there:
        return None
    at = rng.choice(there)
    head = (
        lines[at].rpartition(":")[0] if not lines[at].startswith(("RRULE", "EXRULE")) else lines[at].partition(":")[0]
    )
    lines[at] = f"{head}:{rng.choice(GARBAGE)}"
    return whole(lines)


def join_two_lines(text: str, rng: random.Random) -> str | None:
    """The end of a line with a date is lost."""
    lines = _unfolded(text)
    there = [at for at, line in enumerate(lines[:-1]) if _DATED.match(line) and _in_event(lines, at)]
    there = [at for at in there if lines[at + 1] and not _SAYS_MORE.match(lines[at + 1])]
    if not there:
        return None
    at = rng.choice(there)
    lines[at : at + 2] = [lines[at] + lines[at + 1]]
    return whole(lines)


def lose_a_frame(text: str, rng: random.Random) -> str | None:
    """One line is lost that begins or ends a component; or its word is."""
    lines = lines_of(text)
    there = [at for at, line in enumerate(lines) if _FRAME.match(line)]
    if not there:
        return None
    at = rng.choice(there)
    if _INSIDE.match(lines[at]) and rng.random() < 0.5:
        lines[at] = lines[at].replace(":V", rng.choice([":X", ":V ", ":v-", ": ", ":"]), 1)
    else:
        del lines[at]
    return whole(lines)


def cut(text: str, rng: random.Random) -> str | None:
    """The text ends early. Of several calendars one may be lost without a trace: those are left alone."""
    end = text.rstrip().rfind("END:VCALENDAR") if text.count("BEGIN:VCALENDAR") == 1 else 0
    return text[: rng.randrange(end)] if end > 0 else None


def _in_event(lines: list[str], at: int) -> bool:
    """Whether a line stands directly inside an event."""
    opened = [line for line in lines[:at] if _FRAME.match(line)]
    return bool(opened) and (opened[-1] == "BEGIN:VEVENT" or opened[-1].startswith("END:VALARM"))


DAMAGE: tuple[Callable[[str, random.Random], str | None], ...] = (spoil_a_value, join_two_lines, lose_a_frame, cut)


def noisy(text: str, others: list[str], rng: random.Random) -> str:
    """Something between a calendar and nothing: a few changes of any kind."""
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        if text:
            text = rng.choice(NOISE)(text, others, rng)
    return text[:200_000]


def _a_line_more(text: str, others: list[str], rng: random.Random) -> str:
    lines = lines_of(text)
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(HOSTILE))
    return whole(lines)


def _a_line_instead(text: str, others: list[str], rng: random.Random) -> str:
    lines = lines_of(text)
    lines[rng.randrange(len(lines))] = rng.choice(HOSTILE)
    return whole(lines)


def _a_line_less(text: str, others: list[str], rng: random.Random) -> str:
    lines = lines_of(text)
    del lines[rng.randrange(len(lines))]
    return whole(lines)


def _lines_twice(text: str, others: list[str], rng: random.Random) -> str:
    lines = lines_of(text)
    start = rng.randrange(len(lines))
    piece = lines[start : start + rng.choice((1, 2, 5, 20))]
    at = rng.randrange(len(lines) + 1)
    lines[at:at] = piece * rng.choice((1, 1, 2, 50))
    return whole(lines)


def _lines_of_another(text: str, others: list[str], rng: random.Random) -> str:
    lines, foreign = lines_of(text), lines_of(rng.choice(others))
    start, at = rng.randrange(len(foreign)), rng.randrange(len(lines) + 1)
    lines[at:at] = foreign[start : start + rng.choice((1, 3, 10, 40))]
    return whole(lines)


def _a_value_of_another(text: str, others: list[str], rng: random.Random) -> str:
    lines, foreign = lines_of(text), lines_of(rng.choice(others))
    at = rng.randrange(len(lines))
    lines[at] = lines[at].partition(":")[0] + ":" + rng.choice(foreign).partition(":")[2]
    return whole(lines)


def _a_number_otherwise(text: str, others: list[str], rng: random.Random) -> str:
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return text
    match = rng.choice(numbers)
    same = len(match[0])
    other = rng.choice(
        ["0" * same, "9" * same, str(rng.randrange(10**same)).zfill(same), "", "1" * 30, "-1", "²" * same]
    )
    return text[: match.start()] + other + text[match.end() :]


def _a_character_otherwise(text: str, others: list[str], rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 3))):
        if not text:
            break
        at = rng.randrange(len(text))
        odd = rng.choice(
            ["", "\x00", "\n", "\r", "\n ", "\t", '"', ":", ";", ",", "=", "\udcff", "İ", "ſ", "😀", "/", "P", "Z"]
        )
        text = text[:at] + odd + text[at + rng.choice((0, 1)) :]
    return text


def _a_piece_moved(text: str, others: list[str], rng: random.Random) -> str:
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice((1, 10, 100, 1000)))
    at = rng.randrange(len(text) + 1)
    piece = text[start:end]
    rest = text[:start] + text[end:]
    return rest[:at] + piece + rest[at:]


def _end_early(text: str, others: list[str], rng: random.Random) -> str:
    return text[: rng.randrange(len(text) + 1)]


def _otherwise_written(text: str, others: list[str], rng: random.Random) -> str:
    return rng.choice(
        [text.lower(), text.swapcase(), text.replace("\r\n", "\n"), text.replace("\n", "\n\n"), text + text]
    )


NOISE: tuple[Callable[[str, list[str], random.Random], str], ...] = (
    _a_line_more,
    _a_line_more,
    _a_line_instead,
    _a_line_less,
    _lines_twice,
    _lines_of_another,
    _a_value_of_another,
    _a_number_otherwise,
    _a_number_otherwise,
    _a_character_otherwise,
    _a_piece_moved,
    _end_early,
    _otherwise_written,
)
