"""When a recurrence rule happens inside a window (RFC 5545 section 3.3.10), by seeking instead of counting up.

Everything runs on naive wall-clock datetimes; zones are the caller's business.

Days and weeks keep their wall-clock time across a change of daylight saving, as they should. Rules within the day
(HOURLY, MINUTELY, SECONDLY) advance in wall-clock time too: that is what RFC 5545 describes (an occurrence is a local
time, read as section 3.3.5 reads any other) and what dateutil and recurring-ical-events do. So across a change the
spacing is off by the change: an occurrence in the gap falls on the same instant as the one an hour later, and the
repeated hour has occurrences the first time only. A caller who wants even spacing may, for a rule that has no BY part
but BYSECOND and BYSETPOS, convert DTSTART, window and UNTIL to UTC, run the rule there, and take the results as UTC:
nothing in such a rule depends on the zone. With other BY parts the wall clock is what was meant.

COUNT counts what the rule itself gives from DTSTART on. A DTSTART that does not fit the rule is not counted here (as in
dateutil) and is the caller's to add (as recurring-ical-events adds it): such a series has COUNT + 1 occurrences. RFC
5545 leaves that case undefined (section 3.8.5.3); a busy time too many is the lesser harm.

Known differences from dateutil 2.9, all in the RFC's favour
    - BYSETPOS in the week of DTSTART counts from the beginning of that week, not from DTSTART.
    - BYDAY with and without ordinals (``MO,1TU``) is their union, not their intersection.
    - Week numbers near New Year are those of the year that owns the week, also counted from the back.
    - Rules that never happen have no occurrences instead of raising.
    - UNTIL as a date includes its whole day.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice

from calendar_server.core.rule import Freq, Rule, RuleError, Skip, Until, parse_rule, with_until
from calendar_server.core.rule_days import DayParts, month_start, year_start
from calendar_server.core.zones import wall_local

__all__ = [
    "STEPS_MAX",
    "Rule",
    "RuleError",
    "TooMuchWork",
    "Until",
    "occurrences",
    "parse_rule",
    "runs",
    "runs_of_days",
    "walls",
    "with_until",
]

STEPS_MAX = 200_000
"""Steps that one call takes at most: periods looked at, days considered, times listed. Well below a second."""

_DAY_S = 86_400
_UNIT_S = {Freq.HOURLY: 3600, Freq.MINUTELY: 60, Freq.SECONDLY: 1}
_ORIGIN = datetime(1, 1, 1)
"""Moments are whole seconds since then, days are whole days: day 0 is a Monday."""

_END_S = (datetime.max - _ORIGIN).days * _DAY_S + _DAY_S

_Block = tuple[Sequence[int], Sequence[int]]
"""Days, and times of each of these days in seconds, both ascending: every day has every time."""


class TooMuchWork(Exception):
    """The rule has more occurrences in the window, or takes more steps to find them, than is allowed."""


def occurrences(
    rule: Rule, start: datetime, first: datetime, last: datetime, *, limit: int, all_day: bool = False
) -> Iterator[datetime]:
    """Occurrences ``t`` of ``rule`` from DTSTART ``start`` on with ``first <= t < last``, ascending, each once.

    All datetimes are naive and of one wall clock; fractions of a second in ``start`` are dropped. DTSTART is among the
    occurrences only if the rule gives it: the caller adds it, for it always counts. UNTIL is compared as it stands
    (``with_until`` first if it was written in UTC). With ``all_day`` the results are midnights; BYHOUR, BYMINUTE and
    BYSECOND are ignored, as the RFC demands.

    Raises ``RuleError`` at once for an all-day event that repeats within the day, and ``TooMuchWork`` at once or while
    iterating when there are more than ``limit`` occurrences or ``STEPS_MAX`` steps did not suffice.
    """
    return map(wall_local, _limited(_moments(rule, start, first, last, all_day), limit))


def walls(
    rule: Rule, start: datetime, first: datetime, last: datetime, *, limit: int, all_day: bool = False
) -> Sequence[int]:
    """As ``occurrences``, all at once, in whole seconds since the beginning of year 1: see ``zones``."""
    moments = _moments(rule, start, first, last, all_day)
    found = moments if isinstance(moments, range) else tuple(islice(moments, limit + 1))
    if len(found) > limit:
        raise _too_often(limit)
    return found


def runs(
    rule: Rule, start: datetime, first: datetime, last: datetime, *, gap_s: int, without: Iterable[datetime] = ()
) -> Iterator[tuple[datetime, datetime]] | None:
    """As ``occurrences``, told as runs: the first and the last of occurrences that are at most ``gap_s`` seconds apart.

    None for a rule whose periods are not all alike. It takes no more steps than there are runs, and those ``without``
    occurrences that are taken out. Neighbouring runs may be nearer than ``gap_s`` too.
    """
    work = _Work()
    begin = _seconds(start)
    grid = _grid(rule, begin, _times(rule, start, work), work)
    if grid is None:
        return None
    lower, stop = max(begin, _seconds(first, up=True)), min(_seconds(last, up=True), _after(rule.until))
    cuts = sorted({_seconds(one) for one in without if not one.microsecond})
    found = grid.runs(grid.counted(rule.count, begin, stop), lower, gap_s)
    return ((wall_local(low), wall_local(high)) for run in found for low, high in grid.cut(run, cuts))


def runs_of_days(
    rule: Rule, start: datetime, first: datetime, last: datetime, *, gap_s: int
) -> Iterator[tuple[datetime, Sequence[int], Sequence[tuple[int, int]]]] | None:
    """As ``runs``, for rules within the day that look at the wall clock: each day, its times, and the runs of these.

    Days come whole as soon as one of their times may be in ``[first, last)``; times are seconds of the day. None for
    other rules, and for those with COUNT.
    """
    work = _Work()
    begin = _seconds(start)
    times = _times(rule, start, work)
    if not rule.within_day or rule.count is not None or _grid(rule, begin, times, work) is not None:
        return None
    lower, stop = max(begin, _seconds(first, up=True)), min(_seconds(last, up=True), _after(rule.until))
    return _runs_of_days(rule, DayParts.of(rule, start), times, begin, lower, stop, gap_s, work)


def _runs_of_days(
    rule: Rule, parts: DayParts, times: Sequence[int], begin: int, lower: int, stop: int, gap_s: int, work: _Work
) -> Iterator[tuple[datetime, Sequence[int], Sequence[tuple[int, int]]]]:
    known: dict[int, Sequence[tuple[int, int]]] = {}
    for days, whole in _days_of_units(rule, parts, times, begin, lower, stop, work):
        for day in days:
            base = day * _DAY_S
            if base + whole[0] >= lower and base + whole[-1] < stop:
                if id(whole) not in known:
                    known[id(whole)] = _joined(whole, gap_s)
                yield wall_local(base), whole, known[id(whole)]
            elif inside := [time for time in whole if lower <= base + time < stop]:
                yield wall_local(base), inside, _joined(inside, gap_s)


def _joined(moments: Sequence[int], gap_s: int) -> list[tuple[int, int]]:
    """The first and the last of moments that are at most ``gap_s`` apart."""
    found: list[tuple[int, int]] = []
    for moment in moments:
        if found and moment - found[-1][1] <= gap_s:
            found[-1] = found[-1][0], moment
        else:
            found.append((moment, moment))
    return found


def _limited(moments: Iterable[int], limit: int) -> Iterator[int]:
    for found, moment in enumerate(moments):
        if found >= limit:
            raise _too_often(limit)
        yield moment


def _too_often(limit: int) -> TooMuchWork:
    return TooMuchWork(f"The rule happens more than {limit} times.")


class _Work:
    """Counts steps down to the point where we give up."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = STEPS_MAX

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise TooMuchWork("The rule takes too many steps to work out.")


def _moments(rule: Rule, start: datetime, first: datetime, last: datetime, all_day: bool) -> Iterable[int]:
    if all_day:
        if rule.within_day:
            raise RuleError("An event of whole days repeats within the day.")
        start = datetime(start.year, start.month, start.day)
    begin = _seconds(start)
    lower = max(begin, _seconds(first, up=True))
    stop = min(_seconds(last, up=True), _after(rule.until))
    if lower >= stop:
        return ()
    work = _Work()
    times = (0,) if all_day else _times(rule, start, work)
    grid = _grid(rule, begin, times, work)
    if grid is not None:
        return grid.moments(rule.count, begin, lower, stop)
    since = lower if rule.count is None else begin
    parts = DayParts.of(rule, start)
    if rule.within_day:
        blocks = _days_of_units(rule, parts, times, begin, since, stop, work)
    else:
        blocks = _blocks(rule, _periods(rule, parts, begin, since, stop, work), times, work)
    return _counted(blocks, rule.count, begin, lower, stop)


@dataclass(frozen=True, slots=True)
class _Grid:
    """A rule whose periods are all alike: at ``anchor + k * step`` begins a period with moments at ``offsets``."""

    anchor: int
    step: int
    offsets: Sequence[int]

    def moments(self, count: int | None, begin: int, lower: int, stop: int) -> Iterable[int]:
        """Moments in ``[lower, stop)``; neither seeking nor COUNT takes more than a division."""
        if not self.offsets:
            return ()
        stop = self.counted(count, begin, stop)
        if len(self.offsets) == 1:
            return range(self._at_or_after(lower), stop, self.step)
        return self._between(lower, stop)

    def _between(self, lower: int, stop: int) -> Iterator[int]:
        base = lower - (lower - self.anchor) % self.step
        while base < stop:
            for offset in self.offsets:
                moment = base + offset
                if moment >= stop:
                    return
                if moment >= lower:
                    yield moment
            base += self.step

    def counted(self, count: int | None, begin: int, stop: int) -> int:
        """``stop``, or the second after the last that COUNT lets pass."""
        if count is None or not self.offsets:
            return stop
        early = bisect_left(self.offsets, begin - self.anchor)
        periods, place = divmod(early + count - 1, len(self.offsets))
        return min(stop, self.anchor + periods * self.step + self.offsets[place] + 1)

    def runs(self, stop: int, lower: int, gap: int) -> Iterator[tuple[int, int]]:
        """Runs of moments in ``[lower, stop)`` that are at most ``gap`` apart."""
        if not self.offsets:
            return
        parts = _joined(self.offsets, gap)
        low, high = self._at_or_after(lower), self._before(stop)
        if low > high:
            return
        if len(parts) == 1 and self.step - (self.offsets[-1] - self.offsets[0]) <= gap:
            yield low, high
            return
        base = low - (low - self.anchor) % self.step
        while base <= high:
            for since, until in parts:
                if base + until >= low and base + since <= high:
                    yield max(base + since, low), min(base + until, high)
            base += self.step

    def cut(self, run: tuple[int, int], cuts: Sequence[int]) -> Iterator[tuple[int, int]]:
        """What is left of a run of moments when those in ``cuts``, ascending, are taken out."""
        low, high = run
        for place in range(bisect_left(cuts, low), len(cuts)):
            taken = cuts[place]
            if taken > high:
                break
            if (before := self._before(taken)) >= low:
                yield low, before
            low = self._at_or_after(taken + 1)
        if low <= high:
            yield low, high

    def _at_or_after(self, moment: int) -> int:
        periods, rest = divmod(moment - self.anchor, self.step)
        place = bisect_left(self.offsets, rest)
        if place == len(self.offsets):
            periods, place = periods + 1, 0
        return self.anchor + periods * self.step + self.offsets[place]

    def _before(self, moment: int) -> int:
        periods, rest = divmod(moment - self.anchor, self.step)
        place = bisect_left(self.offsets, rest) - 1
        if place < 0:
            periods -= 1
        return self.anchor + periods * self.step + self.offsets[place]


def _grid(rule: Rule, begin: int, times: Sequence[int], work: _Work) -> _Grid | None:
    """The rule as a grid, if it is one: no part about days but the weekdays of a week, none that thins out its unit."""
    if rule.by_month or rule.by_month_day or rule.by_year_day or rule.by_week_no:
        return None
    freq, day = rule.freq, begin // _DAY_S
    if rule.within_day:
        if rule.by_day or rule.by_hour or (freq > Freq.HOURLY and rule.by_minute):
            return None
        if freq is Freq.SECONDLY and rule.by_second:
            return None
        unit = _UNIT_S[freq]
        return _Grid(begin - begin % unit, unit * rule.interval, _picked(times, rule.by_set_pos))
    if freq is Freq.DAILY and not rule.by_day:
        return _Grid(day * _DAY_S, rule.interval * _DAY_S, _picked(times, rule.by_set_pos))
    # Every day that is one of these weekdays is every week on these weekdays.
    if freq is Freq.WEEKLY or (freq is Freq.DAILY and rule.interval == 1 and not rule.by_set_pos):
        weekdays = {weekday for _, weekday in rule.by_day} or {day % 7}
        work.spend(len(weekdays) * len(times))
        days = sorted((weekday - rule.wkst) % 7 * _DAY_S for weekday in weekdays)
        offsets = _picked([offset + time for offset in days for time in times], rule.by_set_pos)
        return _Grid((day - (day - rule.wkst) % 7) * _DAY_S, 7 * rule.interval * _DAY_S, offsets)
    return None


_STEPS = {Freq.YEARLY: 200, Freq.MONTHLY: 10, Freq.WEEKLY: 3, Freq.DAILY: 1}
"""What looking at one period costs at worst, in steps."""


def _periods(
    rule: Rule, parts: DayParts, begin: int, since: int, stop: int, work: _Work
) -> Iterator[tuple[int, Sequence[int]]]:
    """The first day of each period, and the days picked in it, from the period that holds ``since`` up to ``stop``."""
    freq, interval, steps = rule.freq, rule.interval, _STEPS[rule.freq]
    start, day = _date(begin // _DAY_S), since // _DAY_S
    if _spills(rule):
        # The period before can reach into the first day of this one, the one after into the last day.
        day, stop = max(day - 1, begin // _DAY_S), stop + _DAY_S
    seek = _date(day)
    if freq is Freq.YEARLY:
        for year in range(start.year + (seek.year - start.year) // interval * interval, 10_000, interval):
            if (first := year_start(year)) * _DAY_S >= stop:
                return
            work.spend(steps)
            yield first, parts.of_year(year)
    elif freq is Freq.MONTHLY:
        origin = start.year * 12 + start.month - 1
        past = (seek.year * 12 + seek.month - 1 - origin) // interval * interval
        for index in range(origin + past, 120_000, interval):
            year, month = index // 12, index % 12 + 1
            if (first := month_start(year, month)) * _DAY_S >= stop:
                return
            work.spend(steps)
            yield first, parts.of_month(year, month)
    elif freq is Freq.WEEKLY:
        origin = begin // _DAY_S - (begin // _DAY_S - rule.wkst) % 7
        for first in range(day - (day - origin) % (7 * interval), -(-stop // _DAY_S), 7 * interval):
            work.spend(steps)
            yield first, parts.of_week(first)
    else:
        origin = begin // _DAY_S
        for first in range(day - (day - origin) % interval, -(-stop // _DAY_S), interval):
            work.spend(steps)
            yield first, (first,) if parts.admits(first) else ()


def _blocks(
    rule: Rule, periods: Iterable[tuple[int, Sequence[int]]], times: Sequence[int], work: _Work
) -> Iterator[_Block]:
    """Days and times of each period, BYSETPOS applied."""
    held: set[int] = set()
    for first, days in periods:
        size = len(days) * len(times)
        block: Iterable[_Block] = ((days, times),) if size else ()
        if rule.by_set_pos:
            places = _places(size, rule.by_set_pos)
            block = [_single(days[place // len(times)] * _DAY_S + times[place % len(times)]) for place in places]
        if not _spills(rule):
            yield from block
            continue
        # SKIP can move a day into a neighbouring period. So what this one may still join or repeat is held back.
        work.spend(size)
        settled = sorted(moment for moment in held if moment < (first - 1) * _DAY_S)
        yield from map(_single, settled)
        held.difference_update(settled)
        held.update(day * _DAY_S + time for days, times in block for day in days for time in times)
    yield from map(_single, sorted(held))


def _spills(rule: Rule) -> bool:
    """Whether a period can pick a day outside of it: only months and years have days that do not exist."""
    return rule.skip is not Skip.OMIT and rule.freq <= Freq.MONTHLY


def _days_of_units(
    rule: Rule, parts: DayParts, times: Sequence[int], begin: int, since: int, stop: int, work: _Work
) -> Iterator[_Block]:
    """Days and their times for a rule within the day that has parts which leave out days or times."""
    unit = _UNIT_S[rule.freq]
    per_day = _DAY_S // unit
    within = _picked(times, rule.by_set_pos)
    patterns: dict[int, Sequence[int]] = {}
    day = since // _DAY_S
    while day * _DAY_S < stop:
        work.spend(1)
        # How many units into this day the next step falls.
        phase = (begin // unit - day * per_day) % rule.interval
        if phase >= per_day:
            day += phase // per_day
            continue
        if parts.admits(day):
            if phase not in patterns:
                patterns[phase] = _pattern(rule, range(phase, per_day, rule.interval), within)
            if patterns[phase]:
                yield (day,), patterns[phase]
        day += 1


def _pattern(rule: Rule, units: range, within: Sequence[int]) -> Sequence[int]:
    """The times of a day that has steps at ``units`` (hours, minutes or seconds of the day)."""
    unit = _UNIT_S[rule.freq]
    kept: Iterable[int] = units
    if rule.by_hour:
        hours = frozenset(rule.by_hour)
        kept = [number for number in kept if number * unit // 3600 in hours]
    if rule.by_minute and rule.freq > Freq.HOURLY:
        minutes = frozenset(rule.by_minute)
        kept = [number for number in kept if number * unit // 60 % 60 in minutes]
    if rule.by_second and rule.freq is Freq.SECONDLY:
        seconds = frozenset(rule.by_second)
        kept = [number for number in kept if number % 60 in seconds]
    return [number * unit + time for number in kept for time in within]


def _counted(blocks: Iterable[_Block], count: int | None, begin: int, lower: int, stop: int) -> Iterator[int]:
    """The moments of ``blocks`` in ``[lower, stop)``, of the first ``count`` from ``begin`` on."""
    for days, times in blocks:
        if days[-1] * _DAY_S + times[-1] < lower:
            if count is None:
                continue
            if days[0] * _DAY_S + times[0] >= begin:
                count -= len(days) * len(times)
                if count <= 0:
                    return
                continue
        for day in days:
            base, place = day * _DAY_S, 0
            if base + times[0] < lower:
                place = bisect_left(times, lower - base)
                if count is not None:
                    count -= place - bisect_left(times, begin - base)
                    if count <= 0:
                        return
            for time in times[place:] if place else times:
                if base + time >= stop:
                    return
                yield base + time
                if count is not None:
                    count -= 1
                    if count <= 0:
                        return


def _times(rule: Rule, start: datetime, work: _Work) -> Sequence[int]:
    """Seconds of the day, or of the hour or minute for a rule that counts these, ascending."""
    hours = (rule.by_hour or (start.hour,)) if rule.freq < Freq.HOURLY else (0,)
    minutes = (rule.by_minute or (start.minute,)) if rule.freq < Freq.MINUTELY else (0,)
    seconds = (rule.by_second or (start.second,)) if rule.freq < Freq.SECONDLY else (0,)
    work.spend(len(hours) * len(minutes) * len(seconds))
    return [hour * 3600 + minute * 60 + second for hour in hours for minute in minutes for second in seconds]


def _picked(moments: Sequence[int], positions: tuple[int, ...]) -> Sequence[int]:
    return [moments[place] for place in _places(len(moments), positions)] if positions else moments


def _places(size: int, positions: tuple[int, ...]) -> list[int]:
    """BYSETPOS as indexes into a set of ``size``, ascending."""
    places = {position - 1 if position > 0 else size + position for position in positions}
    return sorted(place for place in places if 0 <= place < size)


def _single(moment: int) -> _Block:
    return (moment // _DAY_S,), (moment % _DAY_S,)


def _after(until: Until | None) -> int:
    """The first second that UNTIL rules out."""
    if until is None:
        return _END_S
    moment = _seconds(until.value)
    return moment - moment % _DAY_S + _DAY_S if until.date_only else moment + 1


def _seconds(moment: datetime, *, up: bool = False) -> int:
    """Whole seconds since the year 1, rounded down, or ``up``."""
    since = moment - _ORIGIN
    return since.days * _DAY_S + since.seconds + (up and since.microseconds > 0)


def _date(day: int) -> date:
    return date.fromordinal(day + 1)
