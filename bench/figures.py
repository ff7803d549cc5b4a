"""Figures beside their aims. A ratio is the median of what the rounds of one run gave, never of two runs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO


class BenchError(Exception):
    """What was to be measured did not happen, so that its time means nothing."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. ``low`` and ``high`` are the quartiles of the rounds; without an aim it only informs.

    ``at_least`` says which side of the aim is good. ``value`` None: it could not be measured, for the reason in ``note``;
    that is a miss as well, unless there is no aim.
    """

    what: str
    value: float | None
    unit: str = "×"
    aim: float | None = None
    at_least: bool = False
    low: float | None = None
    high: float | None = None
    rounds: int = 1
    note: str = ""

    @property
    def held(self) -> bool:
        """Whether the aim is reached."""
        if self.aim is None:
            return True
        if self.value is None:
            return False
        return self.value >= self.aim if self.at_least else self.value <= self.aim

    def line(self) -> str:
        """The figure as a row of the table."""
        value = "not measured" if self.value is None else f"{_short(self.value)} {self.unit}"
        spread = "" if self.low is None or self.high is None else f"({_short(self.low)}–{_short(self.high)})"
        aim = "" if self.aim is None else f"aim {'≥' if self.at_least else '≤'} {self.aim:.3g} {self.unit}"
        verdict = "" if self.held else "MISSED"
        row = f"{self.what:<86} {value:>14} {spread:<18} {aim:<14} {verdict}".rstrip()
        return f"{row}\n    {self.note}" if self.note else row


class Sheet:
    """All figures of a run: printed as they come, kept for the end."""

    def __init__(self, out: TextIO):
        self._out = out
        self.figures: list[Figure] = []

    def add(self, figure: Figure) -> None:
        """Print a figure and keep it."""
        self.figures.append(figure)
        print(figure.line(), file=self._out, flush=True)

    def say(self, text: str) -> None:
        """Print a line that is not a figure."""
        print(text, file=self._out, flush=True)

    @property
    def missed(self) -> list[Figure]:
        """The figures that did not reach their aims."""
        return [figure for figure in self.figures if not figure.held]

    def numbers(self) -> list[dict[str, object]]:
        """All figures as plain values, for ``--json``."""
        return [{**dataclasses.asdict(figure), "held": figure.held} for figure in self.figures]


def ratio(
    what: str,
    pairs: Sequence[tuple[float, float]],
    *,
    aim: float | None = None,
    at_least: bool = False,
    note: str = "",
) -> Figure:
    """A figure of rounds that each measured (ours, the yardstick) side by side: the median of the rounds' ratios."""
    if not pairs:
        raise BenchError(f"{what}: no round was measured")
    ratios = [ours / yardstick for ours, yardstick in pairs]
    return of_samples(what, ratios, unit="×", aim=aim, at_least=at_least, note=note)


def of_samples(
    what: str, samples: Sequence[float], *, unit: str, aim: float | None = None, at_least: bool = False, note: str = ""
) -> Figure:
    """A figure of several samples: their median, with the quartiles as the spread."""
    low, high = quartiles(samples)
    return Figure(what, statistics.median(samples), unit, aim, at_least, low, high, len(samples), note)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """Between which values the middle half lies. Of a single sample: itself, twice."""
    if len(samples) < 2:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def percentile(samples: Iterable[float], share: float) -> float:
    """The value that ``share`` (0 to 1) of the samples do not exceed (nearest rank)."""
    ordered = sorted(samples)
    if not ordered:
        raise BenchError("no call was made")
    rank = -int(-share * len(ordered) // 1)
    return ordered[min(len(ordered), max(1, rank)) - 1]


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
