"""`make bench`: prints each figure beside its aim. Ratios come from one run; seconds and megabytes are this machine's."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import bookings, busy, cold, expansion, hostile, scale, start
from bench.figures import BenchError, Sheet, ratio
from bench.stage import Dav, caldav, postgres, sqlite

PARTS = ("start", "busy", "miss", "beside", "hostile", "cold", "expansion", "bookings", "drain", "processes")


class Bench:
    """One run: the places that its parts share, made when the first part needs them."""

    def __init__(self, sheet: Sheet, folder: Path, stack: contextlib.ExitStack):
        self._sheet = sheet
        self._folder = folder
        self._stack = stack
        self._dav: Dav | None = None
        self._database: Callable[[], str] | None = None
        self._no_postgres = ""

    def part(self, name: str) -> None:
        """Measure one part. What cannot be measured is told, and the others go on."""
        getattr(self, f"_{name}")()

    @property
    def dav(self) -> Dav:
        if self._dav is None:
            self._dav = self._stack.enter_context(caldav(self._folder))
        return self._dav

    def database(self) -> str:
        """The URL of a new database in Postgres."""
        if self._database is None:
            self._database = self._stack.enter_context(postgres())
        return self._database()

    def _start(self) -> None:
        start.start_and_size(self._sheet, self._folder)

    def _busy(self) -> None:
        busy.warm(self._sheet, self._folder, self.dav)

    def _miss(self) -> None:
        busy.cache_miss(self._sheet, self._folder, self.dav, sqlite(self._folder), "SQLite", 1.8)
        busy.cache_miss(self._sheet, self._folder, self.dav, self.database(), "Postgres", 3.3)

    def _beside(self) -> None:
        busy.beside_providers(self._sheet, self._folder, self.dav)

    def _hostile(self) -> None:
        hostile.hostile(self._sheet, self._folder, self.dav)

    def _cold(self) -> None:
        cold.cold(self._sheet, self._folder, self.dav)

    def _expansion(self) -> None:
        for samples in expansion.measure():
            # Told as how many times faster ours is: a hundredth is hard to read.
            pairs = list(zip(itertools.cycle(samples.theirs), samples.ours, strict=False))
            self._sheet.add(ratio(f"{samples.what}: faster", pairs, aim=1 / samples.aim, at_least=True))

    def _bookings(self) -> None:
        bookings.sync_booking(self._sheet, self._folder, self.dav, sqlite(self._folder), "SQLite")
        bookings.sync_booking(self._sheet, self._folder, self.dav, self.database(), "Postgres")

    def _drain(self) -> None:
        bookings.drain(self._sheet, self._folder, self.dav, self.database())

    def _processes(self) -> None:
        scale.processes(self._sheet, self._folder, self.dav, self.database())


def main() -> int:
    """Measure everything, or the parts that are named; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"all of them by default: {', '.join(PARTS)}")
    parser.add_argument(
        "--json", action="store_true", help="print the numbers as JSON, and the table on standard error"
    )
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    sheet = Sheet(sys.stderr if options.json else sys.stdout)
    began = time.monotonic()
    broken = []
    sheet.say(f"{os.cpu_count()} processors. The median of the rounds (middle half) beside its aim.")
    with tempfile.TemporaryDirectory(prefix="calendar-bench-") as name, contextlib.ExitStack() as stack:
        bench = Bench(sheet, Path(name), stack)
        for part in options.parts or PARTS:
            sheet.say(f"-- {part}")
            try:
                bench.part(part)
            except (BenchError, OSError, subprocess.SubprocessError) as error:
                broken.append(part)
                sheet.say(f"    could not be measured: {error}")
    missed = sheet.missed
    sheet.say(f"{len(sheet.figures)} figures, {len(missed)} missed, in {time.monotonic() - began:.0f} s.")
    if options.json:
        print(json.dumps({"figures": sheet.numbers(), "broken": broken}, indent=2))
    return 1 if missed or broken else 0


if __name__ == "__main__":
    sys.exit(main())
