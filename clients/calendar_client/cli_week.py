"""Drawing days as rows of hours. Pure: it takes values and answers lines.

Busy is solid and free is empty with a dot for every hour. Time that nobody knows is hatched, never empty: unknown is not
free. A cell that is busy for a part of it is drawn as half a block, so that nothing busy ever looks free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, auto
from itertools import groupby

from rich.text import Text

from calendar_client.cli_time import Zone, day_text

_LABEL_COLUMNS = 14
_TOTAL_COLUMNS = 10
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open interval of instants."""

    start: datetime
    end: datetime


class Doubt(Enum):
    """How far time without a busy interval may be taken for free."""

    NONE = auto()
    """It is free."""
    PARTLY = auto()
    """It was free when a calendar was last read, or as far as its events could be read."""
    UNKNOWN = auto()
    """Nobody knows: a calendar could not be read."""


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The characters of one drawing."""

    busy: str
    left: str
    right: str
    hour: str
    quarter: str
    partly: str
    unknown: str
    mixed: str
    skipped: str
    today: str


UNICODE = Glyphs(
    busy="█", left="▌", right="▐", hour="·", quarter="┊", partly="╌", unknown="░", mixed="▓", skipped="×", today="▸"
)
ASCII = Glyphs(
    busy="#", left="#", right="#", hour=".", quarter=":", partly="-", unknown="?", mixed="#", skipped="x", today=">"
)


class _Half(Enum):
    FREE = auto()
    BUSY = auto()
    SKIPPED = auto()


def cell_minutes(width: int) -> int:
    """Minutes of one column, so that a day fits: 15 on wide terminals, 30 on usual ones, 60 on narrow ones."""
    room = width - _LABEL_COLUMNS - _TOTAL_COLUMNS
    return next((minutes for minutes in (15, 30) if _DAY_MINUTES // minutes <= room), 60)


def draw(
    days: Sequence[date], zone: Zone, busy: Sequence[Span], doubt: Doubt, *, width: int, glyphs: Glyphs = UNICODE
) -> list[Text]:
    """The days as lines, a scale above. ``busy`` is sorted and disjoint."""
    minutes = cell_minutes(width)
    lines = [_scale(minutes)]
    today = zone.today()
    for day in days:
        line = Text(no_wrap=True)
        weekend = day.weekday() >= 5
        line.append(f" {glyphs.today} " if day == today else "   ", style="bold cyan")
        line.append(f"{day_text(day)} ", style="bold" if day == today else "dim" if weekend else "")
        columns = range(0, _DAY_MINUTES, minutes)
        cells = (_cell(day, minute, minutes, zone, busy, doubt, glyphs) for minute in columns)
        for style, run in groupby(cells, key=lambda cell: cell[1]):
            line.append("".join(glyph for glyph, _ in run), style=style)
        line.append("  ")
        line.append(*_total(day, zone, busy, doubt))
        lines.append(line)
    return lines


def legend(doubt: Doubt, glyphs: Glyphs = UNICODE) -> Text:
    """What the characters mean; only those that are in the drawing."""
    line = Text(" " * _LABEL_COLUMNS, no_wrap=True)
    line.append(glyphs.busy * 2, style="cyan")
    line.append(" busy   ", style="dim")
    if doubt is Doubt.NONE:
        line.append(glyphs.hour + " ", style="dim")
        line.append("free", style="dim")
    elif doubt is Doubt.PARTLY:
        line.append(glyphs.partly * 2, style="yellow")
        line.append(" free as far as is known", style="dim")
    else:
        line.append(glyphs.unknown * 2, style="yellow")
        line.append(" not known", style="yellow")
    return line


def _scale(minutes: int) -> Text:
    step = {15: 2, 30: 3, 60: 6}[minutes]
    columns = 60 // minutes * step
    return Text(
        " " * _LABEL_COLUMNS + "".join(f"{hour:<{columns}}" for hour in range(0, 24, step)).rstrip(), style="dim"
    )


def _cell(
    day: date, minute: int, minutes: int, zone: Zone, busy: Sequence[Span], doubt: Doubt, glyphs: Glyphs
) -> tuple[str, str]:
    half = minutes / 2
    halves = [_half(day, minute + half * index, half, zone, busy) for index in (0, 1)]
    if halves == [_Half.BUSY, _Half.BUSY]:
        return glyphs.busy, "cyan"
    if _Half.BUSY in halves:
        if doubt is not Doubt.NONE:
            return glyphs.mixed, "cyan"
        return (glyphs.left if halves[0] is _Half.BUSY else glyphs.right), "cyan"
    if halves == [_Half.SKIPPED, _Half.SKIPPED]:
        return glyphs.skipped, "dim"
    if doubt is Doubt.UNKNOWN:
        return glyphs.unknown, "yellow"
    if doubt is Doubt.PARTLY:
        return glyphs.partly, "yellow"
    if minute % 360 == 0 and minute:
        return glyphs.quarter, "dim"
    return (glyphs.hour if minute % 60 == 0 else " "), "dim"


def _half(day: date, minute: float, length: float, zone: Zone, busy: Sequence[Span]) -> _Half:
    """Half a cell is a piece of the wall clock, which may come once, twice, or (clocks forward) never."""
    begin = datetime.combine(day, time()) + timedelta(minutes=minute)
    pieces = []
    for fold in (0, 1):
        local = begin.replace(tzinfo=zone.tz, fold=fold)
        start = local.astimezone(UTC)
        if start.astimezone(zone.tz).replace(tzinfo=None) == begin:
            pieces.append((start, start + timedelta(minutes=length)))
    if not pieces:
        return _Half.SKIPPED
    hit = any(span.start < end and start < span.end for start, end in pieces for span in busy)
    return _Half.BUSY if hit else _Half.FREE


def _total(day: date, zone: Zone, busy: Sequence[Span], doubt: Doubt) -> tuple[str, str]:
    start, end = zone.midnight(day), zone.midnight(day + timedelta(days=1))
    taken = sum(
        (min(end, span.end) - max(start, span.start) for span in busy if span.start < end and start < span.end),
        timedelta(),
    )
    hours, minutes = divmod(round(taken.total_seconds() / 60), 60)
    if taken >= end - start:
        return "all day", "cyan"
    if not taken:
        return {Doubt.NONE: ("free", "dim"), Doubt.PARTLY: ("free?", "yellow"), Doubt.UNKNOWN: ("unknown", "yellow")}[
            doubt
        ]
    text = f"{hours} h {minutes:02}" if minutes and hours else f"{hours} h" if hours else f"{minutes} min"
    return (text, "") if doubt is Doubt.NONE else (f"{text}+", "yellow")
