"""Drawing days as rows of hours, and months as weeks of days. Pure: it takes values and answers lines.

Busy is solid and free is empty with a dot for every hour. Time that nobody knows is hatched, never empty: unknown is not
free. A cell that is busy for a part of it is drawn as half a block, so that nothing busy ever looks free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, auto
from itertools import groupby

from rich.text import Text

from calendar_client.cli_time import Zone, day_text

_LABEL_COLUMNS = 14
_TOTAL_COLUMNS = 10
_DAY_MINUTES = 24 * 60
_MONTH_GAP = 2
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


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


def month_columns(width: int) -> int:
    """Columns of one day in a month, so that seven fit: of two hours each on wide terminals, of three on usual ones."""
    fits = (columns for columns in (24, 12, 8, 6) if 7 * (columns + _MONTH_GAP) + 1 <= width)
    return next(fits, 4)


def draw_month(
    days: Sequence[date], zone: Zone, busy: Sequence[Span], doubt: Doubt, *, width: int, glyphs: Glyphs = UNICODE
) -> list[Text]:
    """The days as weeks from Monday to Sunday: a line with numbers and totals, one with the day from midnight on."""
    columns = month_columns(width)
    minutes, cell = _DAY_MINUTES // columns, columns + _MONTH_GAP
    # A line every six hours would be half of what is seen.
    glyphs = replace(glyphs, quarter=glyphs.hour)
    today = zone.today()
    scale = Text("   " + "".join(f"{name:<{cell}}" for name in _WEEKDAYS).rstrip(), style="dim")
    lines = [scale]
    for _, week in groupby(days, key=lambda day: day.toordinal() - day.weekday()):
        in_week = list(week)
        before = " " * (3 + in_week[0].weekday() * cell)
        numbers, bars = Text(before, no_wrap=True), Text(before, no_wrap=True)
        for day in in_week:
            number = f"{day.day:2}"
            numbers.append(
                number, style="bold reverse cyan" if day == today else "dim" if day.weekday() >= 5 else "bold"
            )
            total, style = _short_total(day, zone, busy, doubt)
            room = cell - len(number) - 2
            numbers.append(f" {total if len(total) <= room else '':<{room + 1}}", style=style)
            for minute in range(0, _DAY_MINUTES, minutes):
                glyph, glyph_style = _cell(day, minute, minutes, zone, busy, doubt, glyphs)
                bars.append(glyph, style=glyph_style)
            bars.append(" " * _MONTH_GAP)
        numbers.rstrip()
        bars.rstrip()
        lines += [numbers, bars, Text("")]
    return lines


def legend(doubt: Doubt, glyphs: Glyphs = UNICODE, *, month_width: int | None = None) -> Text:
    """What the characters mean; only those that are in the drawing. ``month_width``: that of a month's drawing."""
    line = Text(" " * (_LABEL_COLUMNS if month_width is None else 3), no_wrap=True)
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
    if month_width is not None:
        line.append(f"   a column is {24 // month_columns(month_width)} h, from midnight on", style="dim")
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


def _taken(day: date, zone: Zone, busy: Sequence[Span]) -> tuple[timedelta, timedelta]:
    """How much of a day is busy, and how long the day is: 23 to 25 hours."""
    start, end = zone.midnight(day), zone.midnight(day + timedelta(days=1))
    taken = sum(
        (min(end, span.end) - max(start, span.start) for span in busy if span.start < end and start < span.end),
        timedelta(),
    )
    return taken, end - start


def _short_total(day: date, zone: Zone, busy: Sequence[Span], doubt: Doubt) -> tuple[str, str]:
    taken, length = _taken(day, zone, busy)
    if taken >= length:
        return "full", "cyan"
    if not taken:
        return {Doubt.NONE: ("", ""), Doubt.PARTLY: ("?", "yellow"), Doubt.UNKNOWN: ("?", "yellow")}[doubt]
    hours, minutes = divmod(round(taken.total_seconds() / 60), 60)
    text = f"{hours}h{minutes:02}" if minutes and hours else f"{hours}h" if hours else f"{minutes}m"
    return (text, "dim") if doubt is Doubt.NONE else (f"{text}+", "yellow")


def _total(day: date, zone: Zone, busy: Sequence[Span], doubt: Doubt) -> tuple[str, str]:
    taken, length = _taken(day, zone, busy)
    hours, minutes = divmod(round(taken.total_seconds() / 60), 60)
    if taken >= length:
        return "all day", "cyan"
    if not taken:
        return {Doubt.NONE: ("free", "dim"), Doubt.PARTLY: ("free?", "yellow"), Doubt.UNKNOWN: ("unknown", "yellow")}[
            doubt
        ]
    text = f"{hours} h {minutes:02}" if minutes and hours else f"{hours} h" if hours else f"{minutes} min"
    return (text, "") if doubt is Doubt.NONE else (f"{text}+", "yellow")
