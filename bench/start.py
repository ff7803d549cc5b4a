"""How fast the service starts and how large it is."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from bench.figures import Figure, Sheet, of_samples
from bench.stage import settings_for, sqlite
from deploy import local


def start_and_size(sheet: Sheet, folder: Path) -> None:
    """From the command to SERVING, with a database that is there; then the memory of the idle processes."""
    settings = settings_for(sqlite(folder))
    with local.service(settings, folder / "first.log"):
        pass
    samples = []
    sizes: list[tuple[float, str]] = []
    for number in range(3):
        began = time.perf_counter()
        with local.service(settings, folder / f"{number}.log") as process:
            samples.append(time.perf_counter() - began)
            if number == 2:
                time.sleep(3)
                tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                sizes = [(p.memory_info().rss / 1e6, " ".join(p.cmdline()[1:5])[:60]) for p in tree]
    sheet.add(of_samples("start to SERVING", samples, unit="s", aim=2.0))
    note = "; ".join(f"{size:.0f} MB {name}" for size, name in sizes)
    largest = max(size for size, _ in sizes)
    sheet.add(Figure("resident memory of an idle `serve`, largest process", largest, "MB", 150, note=note))
