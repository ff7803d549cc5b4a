"""Which days of a year, month or week a recurrence rule picks: the day rows of the table in RFC 5545 section 3.3.10.

Days are counted from 1 January of year 1, which is day 0 and a Monday, so that ``day % 7`` is the weekday.

Where the RFC leaves two readings, we take the one that picks more days, which is also dateutil's: an event that is
shown where another program would not show it costs less than one that is missing.
    - YEARLY with BYMONTHDAY and no BYMONTH, or with BYWEEKNO and no BYDAY, expands as the table says; DTSTART's month
      or weekday is not filled in.
    - BY parts where the table says N/A limit.
A week that lies in two years is cut at New Year: its days belong to the yearly period of the year in which they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

from calendar_server.core.rule import Freq, Rule, Skip

_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ALL_MONTHS = tuple(range(1, 13))
_EVERY_DAY = frozenset(range(7))
_DAYS_END = date.max.toordinal()


def year_start(year: int) -> int:
    """The day of 1 January, also for the years 0 and 10000, which ``datetime.date`` does not know."""
    past = year - 1
    return past * 365 + past // 4 - past // 100 + past // 400


def month_start(year: int, month: int) -> int:
    return date(year, month, 1).toordinal() - 1


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _year_length(year: int) -> int:
    return 366 if _is_leap(year) else 365


def _month_length(year: int, month: int) -> int:
    return 29 if month == 2 and _is_leap(year) else _MONTH_DAYS[month - 1]


@dataclass(frozen=True, slots=True)
class DayParts:
    """The day parts of one rule, completed by what its start says where the rule says nothing."""

    months: tuple[int, ...]
    month_days: tuple[int, ...]
    year_days: tuple[int, ...]
    week_numbers: frozenset[int]
    weekdays: frozenset[int]
    """Every such weekday; empty beside ``nth_weekdays`` and when BYDAY is not given."""
    nth_weekdays: tuple[tuple[int, int], ...]
    """Pairs of ordinal and weekday; the ordinal counts within the month or the year."""
    wkst: int
    skip: Skip

    @classmethod
    def of(cls, rule: Rule, start: datetime) -> DayParts:
        """Take the parts from ``rule``, and what is missing from ``start`` (DTSTART)."""
        months, month_days = rule.by_month, rule.by_month_day
        weekdays = frozenset(weekday for ordinal, weekday in rule.by_day if ordinal == 0)
        if not (rule.by_day or month_days or rule.by_year_day or rule.by_week_no):
            if rule.freq is Freq.YEARLY:
                months, month_days = months or (start.month,), (start.day,)
            elif rule.freq is Freq.MONTHLY:
                month_days = (start.day,)
            elif rule.freq is Freq.WEEKLY:
                weekdays = frozenset((start.weekday(),))
        return cls(
            months=months,
            month_days=month_days,
            year_days=rule.by_year_day,
            week_numbers=frozenset(rule.by_week_no),
            weekdays=weekdays,
            nth_weekdays=tuple(pair for pair in rule.by_day if pair[0]),
            wkst=rule.wkst,
            skip=rule.skip,
        )

    @property
    def limits(self) -> bool:
        """Whether anything but plain weekdays restricts the days of a week."""
        return bool(self.months or self.month_days or self.year_days or self.week_numbers)

    def of_month(self, year: int, month: int) -> Sequence[int]:
        """The days that the rule picks in a month of a MONTHLY rule, ascending.

        With SKIP a day can be the one before or after the month.
        """
        if self.months and month not in self.months:
            return ()
        first, length = month_start(year, month), _month_length(year, month)
        days: Sequence[int]
        if self.month_days:
            days = _counted(self.month_days, first, length, self.skip)
            if self._by_day:
                days = self._only_weekdays(days, self._weekdays_in(first, length))
        elif self._by_day:
            days = sorted(self._weekdays_in(first, length))
        else:
            days = range(first, first + length)
        if self.year_days:
            days = [day for day in days if self._is_year_day(day)]
        if self.week_numbers:
            days = [day for day in days if self._is_in_week(day)]
        return days

    def of_year(self, year: int) -> Sequence[int]:
        """The days that the rule picks in a year of a YEARLY rule, ascending.

        With SKIP a day can be the one before or after the year.
        """
        first, length = year_start(year), _year_length(year)
        months = [(month_start(year, month), _month_length(year, month)) for month in self.months or _ALL_MONTHS]
        days: Sequence[int]
        if self.year_days:
            days = _counted(self.year_days, first, length, self.skip)
            if self.months:
                days = [day for day in days if _date(day).month in self.months]
            if self.month_days:
                days = [day for day in days if self._is_month_day(day)]
        elif self.month_days:
            days = sorted({day for span in months for day in _counted(self.month_days, *span, self.skip)})
        else:
            days = [day for start, days_long in months for day in range(start, start + days_long)]
        if self._by_day:
            # RFC 5545: the ordinal is an offset within the month when BYMONTH is present, else within the year.
            scopes = months if self.months else [(first, length)]
            named = {day for scope in scopes for day in self._weekdays_in(*scope)}
            limits = self.month_days or self.year_days
            days = self._only_weekdays(days, named) if limits else sorted(named)
        if self.week_numbers:
            days = [day for day in days if self._is_in_week(day)]
        return days

    def of_week(self, first: int) -> Sequence[int]:
        """The days that the rule picks in the seven days from ``first``, ascending."""
        weekdays = self.weekdays or _EVERY_DAY
        days = [day for day in range(max(first, 0), min(first + 7, _DAYS_END)) if day % 7 in weekdays]
        return [day for day in days if self.admits(day)] if self.limits else days

    def admits(self, day: int) -> bool:
        """Whether the parts, taken as limits, let ``day`` pass. For rules that count weeks or less."""
        if self.weekdays and day % 7 not in self.weekdays:
            return False
        if self.months and _date(day).month not in self.months:
            return False
        if self.month_days and not self._is_month_day(day):
            return False
        if self.year_days and not self._is_year_day(day):
            return False
        return not self.week_numbers or self._is_in_week(day)

    @property
    def _by_day(self) -> bool:
        return bool(self.weekdays or self.nth_weekdays)

    def _weekdays_in(self, first: int, length: int) -> set[int]:
        """The days of BYDAY in a month or a year that begins on ``first``."""
        end = first + length
        days: set[int] = set()
        for weekday in self.weekdays:
            days.update(range(first + (weekday - first) % 7, end, 7))
        for ordinal, weekday in self.nth_weekdays:
            if ordinal > 0:
                day = first + (weekday - first) % 7 + (ordinal - 1) * 7
            else:
                day = end - 1 - (end - 1 - weekday) % 7 + (ordinal + 1) * 7
            if first <= day < end:
                days.add(day)
        return days

    def _only_weekdays(self, days: Sequence[int], named: set[int]) -> list[int]:
        """BYDAY as a limit. A day that SKIP moved out of the period is none of ``named``, but has a weekday too."""
        return [day for day in days if day in named or day % 7 in self.weekdays]

    def _is_month_day(self, day: int) -> bool:
        found = _date(day)
        return found.day in self.month_days or found.day - _month_length(found.year, found.month) - 1 in self.month_days

    def _is_year_day(self, day: int) -> bool:
        year = _date(day).year
        number = day - year_start(year) + 1
        return number in self.year_days or number - _year_length(year) - 1 in self.year_days

    def _is_in_week(self, day: int) -> bool:
        """BYWEEKNO. A week belongs to the year that holds at least four of its days, and so its fourth."""
        fourth = _fourth_day(day, self.wkst)
        year = _date(day).year
        if fourth < year_start(year):
            year -= 1
        elif fourth >= year_start(year + 1):
            year += 1
        number = (fourth - year_start(year)) // 7 + 1
        # 28 December lies in the last week of its year, whatever day weeks begin on.
        last_fourth = _fourth_day(year_start(year + 1) - 4, self.wkst)
        weeks = (last_fourth - year_start(year)) // 7 + 1
        return number in self.week_numbers or number - weeks - 1 in self.week_numbers


def _fourth_day(day: int, wkst: int) -> int:
    """The fourth day of the week in which ``day`` lies."""
    return day - (day - wkst) % 7 + 3


def _counted(numbers: tuple[int, ...], first: int, length: int, skip: Skip) -> list[int]:
    """Days by their number from the front (1 is ``first``) or from the back (-1 is the last), ascending.

    A number that the month or year does not have names the day that SKIP says.
    """
    days = set()
    for number in numbers:
        day = first + number - 1 if number > 0 else first + length + number
        if first <= day < first + length:
            days.add(day)
        elif skip is not Skip.OMIT:
            day = first + length if day >= first else first
            days.add(day - 1 if skip is Skip.BACKWARD else day)
    return sorted(day for day in days if 0 <= day < _DAYS_END)


def _date(day: int) -> date:
    return date.fromordinal(day + 1)
