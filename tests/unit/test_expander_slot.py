"""One child that reads calendar text: its tasks, its limits, its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from calendar_server.providers.expander_slot import ChildEnded, ChildTimedOut, Slot, written
from tests.unit.children import MEMORY, until


@pytest.fixture
def slot() -> Iterator[Slot]:
    made = Slot(0.2, MEMORY)
    yield made
    made.close()


def test_a_task_over_its_time_ends_its_child_and_the_next_one_works(slot):
    with pytest.raises(ChildTimedOut):
        slot.result(slot.run(time.sleep, (60,)), 0.2)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1
    assert slot.killed == 1


def test_a_child_that_ends_while_nobody_asks_it_is_replaced_and_blames_no_task(slot):
    first = slot.result(slot.run(os.getpid, ()), 5)
    os.kill(first, signal.SIGKILL)
    # Its lines are closed when the last of its threads has ended.
    assert until(
        lambda: (
            psutil.Process(first).status() == psutil.STATUS_ZOMBIE
            and len(list(Path(f"/proc/{first}/task").iterdir())) == 1
        )
    )
    assert slot.result(slot.run(os.getpid, ()), 5) != first
    assert slot.killed == 0


def test_many_may_wait_for_the_start_of_one_child(slot):
    slot.launch()
    with ThreadPoolExecutor(8) as threads:
        for waiting in [threads.submit(slot.wait_ready) for _ in range(8)]:
            waiting.result()
    assert slot.killed == 0
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_texts_and_results_larger_than_a_pipe_go_through(slot):
    large = "x" * 3_000_000
    assert slot.result(slot.run(str.upper, (large,)), 20) == large.upper()


def test_a_task_that_is_begun_at_once_is_as_any_other_however_large(slot: Slot) -> None:
    assert slot.begin_at_once(written(abs, (-1,))) is None  # there is no child
    slot.launch()
    assert slot.begin_at_once(written(abs, (-1,))) is None  # it is still on its way
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 5))
    large = "x" * 3_000_000
    for text in ("x", large):
        task = slot.begin_at_once(written(str.upper, (text,)))
        assert task is not None
        assert slot.result(task, 20) == text.upper()
    child.suspend()
    task = slot.begin_at_once(written(str.upper, (large,)))
    assert task is not None
    with pytest.raises(ChildTimedOut):
        slot.result(task, 0.2)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_no_task_is_begun_at_once_in_a_child_that_has_ended(slot: Slot) -> None:
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 5))
    child.kill()
    assert until(lambda: slot.begin_at_once(written(abs, (-1,))) is None)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_a_child_that_does_not_take_a_task_in_or_answer_is_given_up(slot):
    child = psutil.Process(slot.result(slot.run(os.getpid, ()), 5))
    child.suspend()
    task = slot.run(abs, (-1,))
    with pytest.raises(ChildTimedOut):
        slot.result(task, 0.2)
    assert slot.result(slot.run(abs, (-1,)), 5) == 1


def test_a_child_that_crashes_is_told_from_one_that_is_slow(slot):
    with pytest.raises(ChildEnded):
        slot.result(slot.run(os.abort, ()), 5)


def test_a_crash_is_not_blamed_on_the_event_of_an_earlier_task(slot):
    progress = "__import__('calendar_server.providers.expander_child').providers.expander_child._guard.progress"
    slot.result(slot.run(eval, (f"setattr({progress}, 'value', 7)",)), 5)
    with pytest.raises(ChildEnded) as ended:
        slot.result(slot.run(os.abort, ()), 5)
    assert ended.value.progress is None


def test_code_that_is_deaf_to_signals_is_ended_by_the_kernel(slot):
    # The guard's exception waits for the sum, which takes hours.
    deaf = (
        "__import__('calendar_server.providers.expander_child').providers.expander_child._guard.run("
        "lambda: sum(range(10**13)))"
    )
    with pytest.raises(ChildEnded):
        slot.result(slot.run(eval, (deaf,)), 20)


def test_a_child_has_no_core_dumps_and_a_limit_of_memory(slot):
    limits = "[__import__('resource').getrlimit(each) for each in (4, 9)]"
    assert slot.result(slot.run(eval, (limits,)), 5) == [(0, 0), (MEMORY, MEMORY)]


def test_a_child_imports_no_calendar_library_and_nothing_of_the_servers(slot):
    modules = slot.result(slot.run(eval, ("sorted(__import__('sys').modules)",), 5), 5)
    heavy = {"grpc", "icalendar", "recurring_ical_events", "caldav", "lxml", "dateutil", "peewee", "httpx", "pytest"}
    assert heavy.isdisjoint(modules)
    assert "calendar_server.core.busy" in modules


def test_a_child_has_none_of_its_parents_files_and_sockets(slot):
    with socket.create_server(("127.0.0.1", 0)), Path(__file__).open():
        names = slot.result(
            slot.run(
                eval,
                (
                    "[__import__('os').readlink(f'/proc/self/fd/{n}') "
                    "for n in range(3, 64) if __import__('os').path.islink(f'/proc/self/fd/{n}')]",
                ),
            ),
            5,
        )
    assert not [name for name in names if name.startswith("socket:") or name.endswith(".py")]


def test_children_end_with_a_parent_that_is_killed_and_never_import_its_main_module(tmp_path):
    script = tmp_path / "main.py"
    # No `if __name__ == "__main__"`: were it imported again, it would start children without end.
    script.write_text(
        textwrap.dedent("""
        import time
        from calendar_server.providers.expander import Expander
        from calendar_server.providers.expander_slot import Slot
        expander = Expander(processes=2, event_s=1, calendar_s=2, address_space_bytes=512_000_000)
        expander.warm()
        slot = Slot(1, 512_000_000)
        slot.run(time.sleep, (100,))
        print("warm", flush=True)
        time.sleep(120)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "warm\n"
        inner = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(inner) >= 3
    assert until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in inner))
