"""Whether servers that attack are felt by those who ask about other calendars, and how much memory they cost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.busy import CALLERS
from bench.figures import BenchError, Figure, Sheet, ratio
from bench.stage import GET_BUSY, Dav, busy_request, service, settings_for, sqlite, varied
from deploy import local
from tests.fakes.hostile_dav import MODES
from tests.fakes.strange_dav import PASSWORD, USERNAME

SERVERS = 8
ROUND_S = 1.5
EXCHANGE_S = 2.0
LOOK_S = 0.05
"""Seconds between two looks at the memory."""


def hostile(sheet: Sheet, folder: Path, dav: Dav) -> None:
    """Warm calls while others read from eight servers, which are honest or attack by one mode each; every mode once.

    Held against the honest ones: what many calls cost each other is another matter.
    """
    modes = [mode.name for mode in MODES.values() if "report" in mode.stages and mode.ends != "login"]
    settings = settings_for(sqlite(folder), CALENDAR_EXCHANGE_S=str(EXCHANGE_S))
    with (
        _servers() as servers,
        service(settings, dav, folder) as stage,
        stage.load() as load,
        stage.load() as attack,
    ):
        load.prepare("warm", GET_BUSY, varied(stage.connect("slots", 3), dav.base, 7))
        with stage.client() as client:
            ids = [
                client.connect_caldav(
                    preset="custom", username=USERNAME, password=PASSWORD, server_url=f"{url}/dav/"
                ).id
                for url in servers.urls
            ]
        attack.prepare("read", GET_BUSY, [busy_request([one], dav.base, 7, staleness_s=0) for one in ids])
        attack.run("read", callers=SERVERS, calls=4 * SERVERS)
        load.run("warm", seconds=ROUND_S)

        def beside(some: Sequence[str | None]) -> float:
            servers.be(some)
            attack.begin("read", callers=SERVERS, seconds=ROUND_S)
            found = load.run("warm", callers=CALLERS, seconds=ROUND_S).p99_s
            attack.end(failing=True)
            return found

        alone: list[tuple[float, float]] = []
        pairs: list[tuple[float, float]] = []
        worst = (0.0, "")
        with _Memory(stage.pid) as memory:
            for first in range(0, len(modes), SERVERS):
                some = modes[first : first + SERVERS]
                quiet = load.run("warm", callers=CALLERS, seconds=ROUND_S).p99_s
                honest = beside([None] * SERVERS)
                attacked = beside([*some, *[None] * (SERVERS - len(some))])
                alone.append((attacked, quiet))
                pairs.append((attacked, honest))
                worst = max(worst, (attacked / honest, ", ".join(some)))
    last = f"{pairs[-1][0] * 1e3:.1f} against {pairs[-1][1] * 1e3:.1f} ms"
    note = f"{len(modes)} modes; the last round: {last}; at worst {worst[0]:.1f} × by {worst[1]}"
    what = f"warm p99 beside {SERVERS} callers whose servers attack, against honest servers"
    sheet.add(ratio(what, pairs, aim=1.2, note=note))
    sheet.add(ratio("the same, against nobody beside", alone))
    what = f"memory that {SERVERS} attacks at once cost, all processes, for each"
    sheet.add(Figure(what, memory.growth_mb / SERVERS, "MB", 100.0, note=memory.most))


class _Servers:
    """The process of the servers. ``be`` sets the mode of each."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        self.urls: list[str] = json.loads(self._line())

    def be(self, modes: Sequence[str | None]) -> None:
        if self._process.stdin is None:
            raise BenchError("the hostile servers have no standard input")
        self._process.stdin.write(json.dumps(modes) + "\n")
        self._process.stdin.flush()
        self._line()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise BenchError("the hostile servers have died")
        return line


@contextlib.contextmanager
def _servers() -> Iterator[_Servers]:
    with subprocess.Popen(
        [sys.executable, "-m", "bench.hostile_server", str(SERVERS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=local.environment({}),
        text=True,
    ) as process:
        try:
            yield _Servers(process)
        finally:
            process.kill()


class _Memory:
    """Looks at the memory of a process and its children all the while."""

    def __init__(self, pid: int):
        self._process = psutil.Process(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._begun_mb = self._now_mb()
        self._most_mb = dict(self._begun_mb)
        self._total_mb = sum(self._begun_mb.values())

    def __enter__(self) -> _Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def growth_mb(self) -> float:
        """How far it went beyond what it was at the beginning."""
        return self._total_mb - sum(self._begun_mb.values())

    @property
    def most(self) -> str:
        """Each process at its beginning and at its most. One that took another's place began with nothing."""
        return "; ".join(f"{self._begun_mb.get(pid, 0):.0f} to {most:.0f} MB" for pid, most in self._most_mb.items())

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            now_mb = self._now_mb()
            self._total_mb = max(self._total_mb, sum(now_mb.values()))
            for pid, size in now_mb.items():
                self._most_mb[pid] = max(size, self._most_mb.get(pid, 0))

    def _now_mb(self) -> dict[int, float]:
        found = {}
        for process in [self._process, *self._process.children(recursive=True)]:
            # A child may end between the two looks.
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = process.memory_info().rss / 1e6
        return found
