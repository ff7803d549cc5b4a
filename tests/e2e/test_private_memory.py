"""Master keys and passwords stay in the processes that need them: no core dumps, no looking in, nothing on command lines.

The service runs as an ordinary user here, for to root everything is open.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deploy import local
from tests.e2e.conftest import sqlite_settings

USER = 65532
MASTER_KEY = "C" * 43 + "="
LONG_S = 60.0
PROCESSES = 4
"""`serve`, its worker and two children that read calendar text. (The worker's begin with the first calendar.)"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc, and core dumps are off by Linux's own means"
)


def as_user(arguments: list[str]) -> list[str]:
    """How to run a program as an ordinary user, who may read as far as to reach a Python in root's home."""
    if os.geteuid():
        return arguments
    may = "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *may, "--no-new-privs", *arguments]


@pytest.fixture(scope="module", params=["environment", "file"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[psutil.Process]]:
    """All processes of a whole service that was given its master key in the environment, or as a file."""
    folder = tmp_path_factory.mktemp("private")
    settings = sqlite_settings(folder)
    if request.param == "file":
        (folder / "key").write_text(f"k1:{MASTER_KEY}\n")
        settings["CALENDAR_MASTER_KEYS_FILE"] = str(folder / "key")
    else:
        settings["CALENDAR_MASTER_KEYS"] = f"k1:{MASTER_KEY}"
    if not os.geteuid():
        os.chown(folder, USER, USER)
    log = folder / "service.log"
    command = as_user([sys.executable, "-m", "calendar_server", "serve"])
    with local.running(command, local.environment(settings), log) as process:
        local.wait_serving(settings["CALENDAR_GRPC_ADDRESS"], process, log)
        root = psutil.Process(process.pid)
        until = time.monotonic() + LONG_S
        # Each process closes itself as the first thing it does, and is waited for until it has.
        while len(found := ours(root)) < PROCESSES or not all(closed(each) for each in found):
            assert time.monotonic() < until, [each.cmdline() for each in found]
            time.sleep(0.05)
        yield [root, *root.children(recursive=True)]


def ours(root: psutil.Process) -> list[psutil.Process]:
    """Those that hold secrets or people's calendars. multiprocessing's tracker of semaphores has neither."""
    return [
        each for each in [root, *root.children(recursive=True)] if "resource_tracker" not in " ".join(each.cmdline())
    ]


def limits(process: psutil.Process) -> bool:
    """Whether its core dumps may have no byte."""
    line = next(each for each in proc(process, "limits").read_text().splitlines() if each.startswith("Max core"))
    return line.split()[-3:-1] == ["0", "0"]


def closed(process: psutil.Process) -> bool:
    """Whether it belongs to root as far as others may look into it, as a process does that is not dumpable (proc(5))."""
    return all(proc(process, name).stat().st_uid == 0 for name in ("mem", "environ", "maps"))


def proc(process: psutil.Process, name: str) -> Path:
    return Path(f"/proc/{process.pid}") / name


def test_it_runs_as_an_ordinary_user(family: list[psutil.Process]) -> None:
    assert 0 not in {each.uids().real for each in family}


def test_no_process_writes_its_memory_down(family: list[psutil.Process]) -> None:
    for each in ours(family[0]):
        assert limits(each), each.cmdline()


def test_no_neighbour_of_the_same_user_may_look_into_a_process(family: list[psutil.Process]) -> None:
    for each in ours(family[0]):
        assert closed(each), each.cmdline()


def test_no_command_line_shows_a_secret(family: list[psutil.Process]) -> None:
    for each in family:
        assert MASTER_KEY not in " ".join(each.cmdline())


def test_children_that_read_calendars_do_not_inherit_secrets(family: list[psutil.Process]) -> None:
    if os.geteuid():
        pytest.skip("only root can look into these processes, which is what the test above is about")
    children = [each for each in family if "multiprocessing" in " ".join(each.cmdline())]
    assert len(children) >= PROCESSES - 2
    for each in children:
        environment = proc(each, "environ").read_text()
        assert "PATH=" in environment
        assert MASTER_KEY not in environment
