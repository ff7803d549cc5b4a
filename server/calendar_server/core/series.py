"""When the occurrences of one event are: rules, added and removed dates, overrides (RFC 5545 section 3.8.5).

Vocabulary
    original  when an occurrence would be without overrides: what RECURRENCE-ID names.
    key       an original as it is matched: an instant, or a date where the event is all-day or the property a date.
    range     an override with RANGE=THISANDFUTURE: it moves and shapes all later occurrences too.

Decisions where RFC 5545 is silent
    - DTSTART always is an occurrence, also one that its rule does not give, or with an UNTIL before it.
    - A rule of hours, minutes or seconds without further parts runs in absolute time: every hour is every 60 minutes,
      whatever clocks do. One with further parts (BYHOUR, BYDAY …) runs on the wall clock, with both of repeated times.
    - UNTIL as a date-time at an all-day event: the later of the day that is written and the day in the calendar's zone.
    - A series that happens very often is told in blocks (`_often`): occurrences that touch each other are one.
    - A floating EXDATE, RDATE or RECURRENCE-ID belongs to its event's zone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import NamedTuple

from calendar_server.core.event import EAST, WEST, Context, Event, Unreadable
from calendar_server.core.ical import Component, Property
from calendar_server.core.model import DAY, HOUR, MINUTE, SECOND, Instant, Interval
from calendar_server.core.recurrence import (
    Rule,
    RuleError,
    TooMuchWork,
    Until,
    occurrences,
    parse_rule,
    runs,
    runs_of_days,
    walls,
    with_until,
)
from calendar_server.core.rule import Freq
from calendar_server.core.values import BadValue, Length, Moment, additions, moments
from calendar_server.core.zones import Zone, naive_instant, naive_local, wall_local

DATES_MAX = 10_000
"""Values of RDATE, and of EXDATE, in one event. A daily event for 27 years has as many occurrences."""

RULES_MAX = 16
"""RRULE lines, and EXRULE lines, in one event. RFC 5545 section 3.8.5.3 advises one."""

OFTEN = 500
"""Occurrences in the window from which on those that touch each other are told as one."""

COARSE_S = 15 * 60
"""Gaps of so many seconds are closed in a series whose occurrences are too many even so. Nobody books less time."""

DAYS_MAX = 4_000
"""Days looked at one by one for a rule within the day. Windows have at most five years."""

_STEP_S = {Freq.HOURLY: 3600, Freq.MINUTELY: 60, Freq.SECONDLY: 1}
RECURRENCE = frozenset({"RRULE", "RDATE", "EXDATE", "EXRULE"})
"""The properties of an event that may happen more than once."""
_LAST_SECOND = time(23, 59, 59)


@dataclass(slots=True)
class Keys:
    """A set of originals."""

    instants: set[Instant] = field(default_factory=set)
    dates: set[date] = field(default_factory=set)

    def add(self, written: Moment, event: Event, context: Context) -> None:
        """Add an original as it is written. Raises ``BadValue`` where its zone is not understood."""
        if written.is_date:
            self.dates.add(written.local.date())
        elif event.all_day:
            self.dates.add(_day_of(written, context))
        else:
            self.instants.add(instant_of(written, event, context))

    def has(self, instant: Instant, local: datetime) -> bool:
        return instant in self.instants or (bool(self.dates) and local.date() in self.dates)


@dataclass(frozen=True, slots=True)
class Range:
    """An override for its own occurrence and all later ones. ``since`` is its original, ``local`` that on the wall."""

    since: Instant
    local: datetime
    event: Event


class Occurrence(NamedTuple):
    """One occurrence, unclipped, and the event that shapes it."""

    start: Instant
    end: Instant
    event: Event


_tuple: Callable[[type[Occurrence], tuple[Instant, Instant, Event]], Occurrence] = tuple.__new__
"""Makes an occurrence in half the time that its own way takes."""


class _Originals(NamedTuple):
    """All originals of an event with their local times, and the ends of those that RDATE gives as a period."""

    locals: dict[Instant, datetime]
    ends: dict[Instant, Instant]


def original_of(written: Moment, event: Event, context: Context) -> tuple[Instant, datetime]:
    """The original that a date or time names, also in local time. Raises ``BadValue`` like ``instant_of``.

    A date beside an event with a time means the event's time on that day.
    """
    if event.all_day:
        local = datetime.combine(_day_of(written, context), time())
        return event.zone.instant(local), local
    if written.is_date:
        local = datetime.combine(written.local.date(), event.start.local.time())
        return event.zone.instant(local), local
    instant = instant_of(written, event, context)
    return instant, event.zone.local(instant)


def instant_of(written: Moment, event: Event, context: Context) -> Instant:
    """The instant of an original. Raises ``BadValue`` where its zone is not understood."""
    if written.is_utc:
        return naive_instant(written.local)
    if written.is_date or not written.tzid or written.tzid == event.start.tzid:
        return event.zone.instant(written.local)
    zone = context.zone(written)
    if zone is None:
        raise BadValue(f"the time zone {written.tzid[:60]!r} is not known")
    return zone.instant(written.local)


def expand(
    event: Event, component: Component, replaced: Keys, ranges: Sequence[Range], context: Context
) -> tuple[list[Occurrence], list[Unreadable]]:
    """The occurrences that touch the window (travel included), but those ``replaced``; and what could not be read.

    ``ranges`` ascend. Raises ``Unreadable`` where the occurrences are not known at all.
    """
    problems: list[Unreadable] = []
    if not ranges and component.properties.keys().isdisjoint(RECURRENCE):
        only = single(event)
        alone = touches_with_travel(only, reach(event, context)) and not replaced.has(only.start, event.start.local)
        return [only] if alone else [], problems
    search = _search(event, ranges, context)
    blocks = None if ranges else _often(event, component, replaced, search, context, problems)
    if blocks is not None:
        return blocks, problems
    written = component.properties
    removed = Keys()
    if "EXDATE" in written or "EXRULE" in written:
        removed = _removed(event, component, search, context, problems)
    exactly = None if event.length.days else event.length.seconds * SECOND
    window = reach(event, context)
    if exactly and not (ranges or event.travel or "RDATE" in written or removed.dates or replaced.dates):
        # What nearly all of them are: nothing but instants counts.
        since, until = window.start - exactly, window.end
        kept = _starts(event, component, search, context) - removed.instants - replaced.instants
        found = [_tuple(Occurrence, (at, at + exactly, event)) for at in sorted(kept) if since < at < until]
        if len(found) > context.limit:
            raise _too_much(event, component, f"it happens more than {context.limit} times")
        return found, problems
    originals, ends = _originals(event, component, search, context, problems)
    keep = originals
    if removed.instants or removed.dates:
        keep = {at: local for at, local in originals.items() if not removed.has(at, local)}
    replaces = bool(replaced.instants or replaced.dates)
    starts = [each.since for each in ranges]
    found = []
    for at in sorted(keep):
        local = keep[at]
        if replaces and replaced.has(at, local):
            continue
        governing = bisect_right(starts, at) if starts else 0
        if governing:
            occurrence = _moved(at, local, event, ranges[governing - 1])
            touching = touches_with_travel(occurrence, reach(occurrence.event, context))
        else:
            if exactly is not None and at not in ends:
                occurrence = Occurrence(at, at + exactly, event)
            else:
                occurrence = Occurrence(at, ends[at] if at in ends else event.end(at, local), event)
            touching = touches_with_travel(occurrence, window)
        if touching:
            found.append(occurrence)
            if len(found) > context.limit:
                raise _too_much(event, component, f"it happens more than {context.limit} times")
    return found, problems


def _often(
    event: Event, component: Component, replaced: Keys, search: Interval, context: Context, problems: list[Unreadable]
) -> list[Occurrence] | None:
    """The occurrences of a series that happens very often, as blocks; None for all others.

    A window of a year has half a million minutes, and one of a few days has as many occurrences as nobody minds: that
    the window is longer is no reason not to read the event. So this takes as long as there are blocks, not occurrences.
    Where there are too many blocks too, gaps of up to a quarter of an hour are closed: nothing busy is ever left out. A
    series that does not block is told as a whole then.
    """
    lines = component.all("RRULE")
    if len(lines) != 1 or event.all_day or "RDATE" in component.properties or "EXRULE" in component.properties:
        return None
    try:
        rule = parse_rule(lines[0].value)
    except RuleError:
        return None  # told where it is followed
    if not rule.within_day or not _happens_often(rule, event, search, context):
        return None
    found_problems: list[Unreadable] = []
    removed = _removed(event, component, search, context, found_problems)
    if removed.dates or replaced.dates:
        return None  # they take out days, not moments
    without = removed.instants | replaced.instants
    shortest = event.length.days * 23 * 3600 + event.length.seconds
    try:
        blocks = _blocks(rule, event, without, search, context, shortest)
        if blocks is not None and len(blocks) > context.limit:
            if not shortest:
                blocks = blocks[:1]  # which blocks nobody
            elif not event.standing.blocks:
                blocks = [Occurrence(blocks[0].start, max(each.end for each in blocks), event)]
            else:
                blocks = _blocks(rule, event, without, search, context, shortest + COARSE_S)
        if blocks is None:
            return None
        if len(blocks) > context.limit:
            raise TooMuchWork(f"it happens more than {context.limit} times")
    except (TooMuchWork, OverflowError) as error:
        raise _too_much(event, component, str(error)) from error
    first = event.first.start
    if first not in without:
        # DTSTART counts, also when the rule does not give it.
        blocks.append(single(event))
    problems += found_problems
    window = reach(event, context)
    return [each for each in _touching(blocks, event) if touches_with_travel(each, window)]


def _happens_often(rule: Rule, event: Event, search: Interval, context: Context) -> bool:
    step = timedelta(seconds=_STEP_S[rule.freq]) * min(rule.interval, 10**6)
    span = timedelta(microseconds=search.end - search.start)
    if (
        span / step * max(1, len(rule.by_second)) * (max(1, len(rule.by_minute)) if rule.freq is Freq.HOURLY else 1)
        <= OFTEN
    ):
        return False
    try:
        for number, _ in enumerate(_ruled_by(rule, event, search, context)):
            if number >= OFTEN:
                return True
    except (TooMuchWork, OverflowError):
        return True
    return False


def _touching(blocks: list[Occurrence], event: Event) -> list[Occurrence]:
    """The blocks by start, those that overlap or touch as one."""
    joined: list[Occurrence] = []
    for each in sorted(blocks, key=lambda block: block.start):
        if joined and each.start <= joined[-1].end:
            if each.end > joined[-1].end:
                joined[-1] = Occurrence(joined[-1].start, each.end, event)
        else:
            joined.append(each)
    return joined


def _blocks(
    rule: Rule, event: Event, without: set[Instant], search: Interval, context: Context, gap_s: int
) -> list[Occurrence] | None:
    """Runs of occurrences that are at most ``gap_s`` apart; one more than allowed when there are too many."""
    zone, found = event.zone, []
    if _is_even(rule):
        rule, start = _in_absolute_time(rule, event)
        taken = [naive_local(at) for at in without]
        told = runs(
            rule, start, naive_local(search.start + min(gap_s, 1)), naive_local(search.end), gap_s=gap_s, without=taken
        )
        if told is None:
            return None
        for low, high in told:
            last = naive_instant(high)
            found.append(Occurrence(naive_instant(low), event.end(last, zone.local(last)), event))
            if len(found) > context.limit:
                break
        return found
    rule, last_instant, first, stop = _on_wall_clock(rule, event, search, context)
    days = runs_of_days(rule, event.start.local, first, stop, gap_s=gap_s)
    if days is None:
        return None
    taken_out = sorted(without)
    for number, (midnight, times, parts) in enumerate(days):
        if number >= DAYS_MAX:
            raise TooMuchWork("the rule takes too many steps to work out")
        begins, ends = zone.instant(midnight), zone.instant(midnight + timedelta(days=1))
        noon = zone.instant(midnight + timedelta(hours=12))
        even = ends - begins == DAY and noon - begins == DAY // 2
        untouched = bisect_right(taken_out, ends) == bisect_left(taken_out, begins)
        if even and untouched and (last_instant is None or ends <= last_instant):
            spans = [(begins + low * SECOND, begins + high * SECOND) for low, high in parts]
        else:
            spans = [(at, at) for at in _one_by_one(midnight, times, last_instant, zone) if at not in without]
        for low_at, high_at in spans:
            found.append(Occurrence(low_at, event.end(high_at, zone.local(high_at)), event))
        if len(found) > context.limit:
            found = _touching(found, event)
            if len(found) > context.limit:
                break
    return found


def _one_by_one(midnight: datetime, times: Sequence[int], last: Instant | None, zone: Zone) -> Iterator[Instant]:
    """The instants of a day on which clocks are changed, or something is taken out."""
    for seconds in times:
        local = midnight + timedelta(seconds=seconds)
        at = zone.instant(local)
        for instant in (at, _repeated(at, local, zone)):
            if instant is not None and (last is None or instant <= last):
                yield instant


def reach(event: Event, context: Context) -> Interval:
    """The window, widened by as much as the event's times may be off."""
    if event.certain:
        return context.window
    return Interval(context.window.start - WEST, context.window.end + EAST)


def touches_with_travel(occurrence: Occurrence, window: Interval) -> bool:
    start = occurrence.start - occurrence.event.travel
    if start == occurrence.end:
        return window.start <= start < window.end
    return start < window.end and occurrence.end > window.start


def single(event: Event) -> Occurrence:
    """The event as if it did not repeat."""
    first = event.first
    return Occurrence(first.start, first.end, event)


def _moved(at: Instant, original: datetime, event: Event, governing: Range) -> Occurrence:
    """A later occurrence of a range: moved by as much as the range's own one, on the wall clock."""
    shape = governing.event
    if shape.all_day or event.all_day:
        day = original.date() + (shape.start.local.date() - governing.local.date())
        local = datetime.combine(day, shape.start.local.time())
    else:
        local = shape.zone.local(at) + (shape.start.local - shape.zone.local(governing.since))
    start = shape.zone.instant(local)
    return Occurrence(start, shape.end(start, local), shape)


def _search(event: Event, ranges: Sequence[Range], context: Context) -> Interval:
    """Where originals have to lie to touch the window."""
    window = reach(event, context)
    since, until = window.start - _longest(event.length), window.end + event.travel
    for each in ranges:
        window = reach(each.event, context)
        shift = each.event.first.start - each.since
        slack = 2 * DAY
        since = min(since, window.start - _longest(each.event.length) - shift - slack)
        until = max(until, window.end + each.event.travel - shift + slack)
    return Interval(since, until)


def _longest(length: Length) -> Instant:
    """A day too much for nominal days: they may have 25 hours, and once had 48."""
    return (length.days * 86_400 + length.seconds) * SECOND + (DAY if length.days else 0)


def _starts(event: Event, component: Component, search: Interval, context: Context) -> set[Instant]:
    """All originals of an event without dates of its own."""
    found = {event.first.start}
    try:
        for rule in _rules(component.all("RRULE")):
            if rule.within_day:
                found.update(at for at, _ in _ruled_by(rule, event, search, context))
            else:
                _, instants, last = _by_days(rule, event, search, context)
                found.update(instants if last is None else [at for at in instants if at <= last])
    except (RuleError, TooMuchWork, OverflowError) as error:
        raise _too_much(event, component, str(error)) from error
    return found


def _originals(
    event: Event, component: Component, search: Interval, context: Context, problems: list[Unreadable]
) -> _Originals:
    found, ends = {event.first.start: event.start.local}, {}
    rules, dates = component.all("RRULE"), component.all("RDATE")
    try:
        for at, local in _ruled(rules, event, search, context):
            found.setdefault(at, local)
    except (RuleError, TooMuchWork, OverflowError) as error:
        raise _too_much(event, component, str(error)) from error
    if sum(line.value.count(",") + 1 for line in dates) > DATES_MAX:
        raise _too_much(event, component, f"it has more than {DATES_MAX} dates of its own")
    for line in dates:
        try:
            for at, local, end in _added(line, event, context, problems):
                if end is not None:
                    found[at], ends[at] = local, end
                else:
                    found.setdefault(at, local)
        except (BadValue, OverflowError) as error:
            problems.append(Unreadable(f"An additional date of the event cannot be read: {error}."))
    return _Originals(found, ends)


def _too_much(event: Event, component: Component, why: str) -> Unreadable:
    """The rules cannot be followed. All occurrences are DTSTART's or later, unless dates are added."""
    first = event.first
    interval = Interval(first.start - event.travel, first.end)
    earliest = None if "RDATE" in component.properties else interval.start - (0 if event.certain else EAST)
    return Unreadable(f"The event's recurrence cannot be worked out: {why.rstrip('.')}.", earliest, None, interval)


def _added(
    line: Property, event: Event, context: Context, problems: list[Unreadable]
) -> Iterator[tuple[Instant, datetime, Instant | None]]:
    for addition in additions(line):
        try:
            at, local = original_of(addition.start, event, context)
        except BadValue as error:
            about = naive_instant(addition.start.local)
            length = _longest(addition.end if isinstance(addition.end, Length) else event.length)
            latest = None if isinstance(addition.end, Moment) else about + length + WEST
            problems.append(
                Unreadable(f"An additional date cannot be read: {error}.", about - event.travel - EAST, latest)
            )
            continue
        yield at, local, _period_end(at, local, addition.end, event, context)


def _period_end(
    at: Instant, local: datetime, end: Moment | Length | None, event: Event, context: Context
) -> Instant | None:
    if end is None:
        return None
    if isinstance(end, Moment):
        finish = instant_of(end, event, context)
    else:
        base = event.zone.instant(local + timedelta(days=end.days)) if end.days else at
        finish = base + end.seconds * SECOND
    if finish < at:
        raise BadValue("a period ends before it starts")
    return finish


def _removed(
    event: Event, component: Component, search: Interval, context: Context, problems: list[Unreadable]
) -> Keys:
    """What EXDATE and EXRULE take out. What of them cannot be read takes out nothing, and is named."""
    removed = Keys()
    lines = component.all("EXDATE")
    if sum(line.value.count(",") + 1 for line in lines) > DATES_MAX:
        problems.append(Unreadable(f"The event has more than {DATES_MAX} exception dates."))
        lines = []
    for line in lines:
        try:
            for written in moments(line):
                removed.add(written, event, context)
        except (BadValue, OverflowError) as error:
            problems.append(Unreadable(f"An exception date of the event cannot be read: {error}."))
    try:
        removed.instants.update(at for at, _ in _ruled(component.all("EXRULE"), event, search, context))
    except (RuleError, TooMuchWork, OverflowError) as error:
        problems.append(Unreadable(f"An exception rule of the event cannot be read: {error}"))
    return removed


def _ruled(
    lines: Sequence[Property], event: Event, search: Interval, context: Context
) -> Iterator[tuple[Instant, datetime]]:
    for rule in _rules(lines):
        yield from _ruled_by(rule, event, search, context)


def _rules(lines: Sequence[Property]) -> Iterator[Rule]:
    if len(lines) > RULES_MAX:
        raise RuleError("The event has too many rules.")
    for line in lines:
        yield parse_rule(line.value)


def _ruled_by(rule: Rule, event: Event, search: Interval, context: Context) -> Iterator[tuple[Instant, datetime]]:
    if not rule.within_day:
        found, instants, last = _by_days(rule, event, search, context)
        originals = zip(instants, map(wall_local, found), strict=True)
        return originals if last is None else ((at, local) for at, local in originals if at <= last)
    if _is_even(rule) and not event.all_day:
        return _evenly(rule, event, search, context)
    return _on_the_wall(rule, event, search, context)


def _is_even(rule: Rule) -> bool:
    """Whether the rule is one of hours, minutes or seconds that does not look at the wall clock."""
    looks = (rule.by_hour, rule.by_minute, rule.by_day, rule.by_month_day, rule.by_year_day, rule.by_month)
    return rule.within_day and not any(looks) and not rule.by_week_no


def _evenly(rule: Rule, event: Event, search: Interval, context: Context) -> Iterator[tuple[Instant, datetime]]:
    """The rule in absolute time."""
    rule, start = _in_absolute_time(rule, event)
    first, stop = naive_local(search.start), naive_local(search.end)
    ends = [stop] if rule.until is None else [stop, rule.until.value]
    if rule.count is None and not rule.by_set_pos:
        # What would be given up after twenty thousand occurrences can be known before the first.
        step = timedelta(seconds=_STEP_S[rule.freq] * min(rule.interval, 10**9))
        if (min(ends) - max(first, start)) / step > context.limit + 1:
            raise TooMuchWork(f"it happens more than {context.limit} times")
    found = occurrences(rule, start, first, stop, limit=context.limit + 1)
    for at in map(naive_instant, found):
        yield at, event.zone.local(at)


def _in_absolute_time(rule: Rule, event: Event) -> tuple[Rule, datetime]:
    """The rule with UNTIL, and DTSTART, in UTC."""
    if rule.until is not None:
        last = rule.until.value if rule.until.utc else naive_local(event.zone.instant(_last_of(rule.until)))
        rule = with_until(rule, last)
    return rule, naive_local(event.first.start)


def _by_days(
    rule: Rule, event: Event, search: Interval, context: Context
) -> tuple[Sequence[int], Sequence[Instant], Instant | None]:
    """A rule of days or more, in local time: walls, their instants, and the instant after which none of them counts."""
    rule, last, first, stop = _on_wall_clock(rule, event, search, context)
    found = walls(rule, event.start.local, first, stop, limit=_looser(context), all_day=event.all_day)
    return found, event.zone.instants(found), last


def _on_the_wall(rule: Rule, event: Event, search: Interval, context: Context) -> Iterator[tuple[Instant, datetime]]:
    """A rule within the day, in local time."""
    zone = event.zone
    rule, last, first, stop = _on_wall_clock(rule, event, search, context)
    for local in occurrences(rule, event.start.local, first, stop, limit=_looser(context), all_day=event.all_day):
        at = zone.instant(local)
        for instant in (at, _repeated(at, local, zone)):
            if instant is not None and (last is None or instant <= last):
                yield instant, local


def _looser(context: Context) -> int:
    """The additional days hold occurrences too; those in the window are counted exactly in `expand`."""
    return 2 * context.limit + 10_000


def _on_wall_clock(
    rule: Rule, event: Event, search: Interval, context: Context
) -> tuple[Rule, Instant | None, datetime, datetime]:
    """The rule with UNTIL on the wall clock, UNTIL as an instant if it is one, and where to search.

    A day too much on both sides: near changes of clocks local times are not in order.
    """
    zone, until, last = event.zone, rule.until, None
    if until is not None:
        if event.all_day:
            rule = with_until(rule, datetime.combine(_last_day(until, context), time()))
        elif until.utc:
            last = naive_instant(until.value)
            rule = with_until(rule, zone.local(last) + timedelta(days=1))
        else:
            rule = with_until(rule, _last_of(until))
    first, stop = zone.local(search.start) - timedelta(days=1), zone.local(search.end) + timedelta(days=1)
    return rule, last, first, stop


def _repeated(at: Instant, local: datetime, zone: Zone) -> Instant | None:
    """The second instant at which the wall shows ``local``, if there is one."""
    for later in (HOUR, 30 * MINUTE, 2 * HOUR):
        if zone.local(at + later) == local:
            return at + later
    return None


def _last_of(until: Until) -> datetime:
    """UNTIL on the wall clock: a date counts to its end."""
    return datetime.combine(until.value.date(), _LAST_SECOND) if until.date_only else until.value


def _last_day(until: Until, context: Context) -> date:
    """UNTIL of an all-day event."""
    if not until.utc:
        return until.value.date()
    return max(until.value, context.floating.local(naive_instant(until.value))).date()


def _day_of(written: Moment, context: Context) -> date:
    """The day that a date-time means beside an all-day event.

    UTC is converted where that gives midnight in the calendar's zone: then it is a converted date. Else the date is as
    written.
    """
    if written.is_utc:
        local = context.floating.local(naive_instant(written.local))
        if local.time() == time():
            return local.date()
    return written.local.date()
