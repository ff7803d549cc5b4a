"""What is the asyncio client's own; test_client.py and test_client_watch.py hold both clients to the rest."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import calendar_client
from calendar_client import aio, errors
from calendar_client.watching_aio import follow
from clients.generate_aio import generate
from tests.fakes.fake_service import API_KEY, FakeService, running
from tests.unit.test_client_watch import Lost

ROOT = Path(__file__).parents[2]
NINE = datetime(2026, 3, 16, 9, tzinfo=UTC)
WEEK = {"start": NINE, "end": NINE + timedelta(days=7)}


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        service.add_connection("cal_1")
        yield service


def test_it_is_what_the_other_client_makes() -> None:
    script = ROOT / "clients" / "generate_aio.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_form_that_the_generator_does_not_know_is_refused() -> None:
    source = (ROOT / "clients" / "calendar_client" / "client.py").read_text()
    with pytest.raises(SystemExit, match="yield from"):
        generate(
            source.replace("yield from page.data\n", "yield from page.data\n                yield from page.data\n")
        )


def test_both_have_the_same_calls_with_the_same_arguments() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        public = {name: each for name, each in vars(client).items() if not name.startswith("_")}
        return {name: list(inspect.signature(each).parameters) for name, each in public.items()}

    assert calls(aio.CalendarClient) == calls(calendar_client.CalendarClient)


def test_calls_run_beside_each_other(service: FakeService) -> None:
    async def run() -> None:
        async with aio.CalendarClient(service.address, API_KEY) as client:
            service.stall("GetBooking")
            waiting = asyncio.create_task(client.get_booking("b"))
            assert [each.id async for each in client.list()] == ["cal_1"]
            assert not waiting.done()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    asyncio.run(run())


def test_watches_of_one_loop_run_beside_each_other(service: FakeService) -> None:
    async def run() -> None:
        async with aio.CalendarClient(service.address, API_KEY) as client:
            watches = [client.watch_busy(**WEEK) for _ in range(5)]
            await asyncio.gather(*(anext(each) for each in watches))
            assert service.watches == 5
            await asyncio.gather(*(each.aclose() for each in watches))

    asyncio.run(run())
    gone(service)


def test_a_cancelled_task_ends_its_stream(service: FakeService) -> None:
    async def watch(client: aio.CalendarClient, begun: asyncio.Event) -> None:
        async with aclosing(client.watch_busy(**WEEK)) as answers:
            async for _ in answers:
                begun.set()

    async def run() -> None:
        async with aio.CalendarClient(service.address, API_KEY) as client:
            begun = asyncio.Event()
            task = asyncio.create_task(watch(client, begun))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not [each for each in asyncio.all_tasks() if each.get_name() == "calendar-watch"]

    asyncio.run(run())
    gone(service)


def test_a_time_limit_of_the_caller_holds(service: FakeService) -> None:
    async def run() -> None:
        service.stall("WatchBusy")
        async with (
            aio.CalendarClient(service.address, API_KEY) as client,
            aclosing(client.watch_busy(**WEEK)) as answers,
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await anext(answers)

    asyncio.run(run())


class Script:
    """A stream that says 1, and once it is released 2 and its end."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[int]:
        yield 1
        await self.released.wait()
        yield 2
        raise Lost

    def cancel(self) -> None:
        self.released.set()


def test_an_end_comes_before_an_answer_that_was_not_taken() -> None:
    async def run() -> None:
        script = Script()
        answers = follow(lambda deadline_s: script, reconnect_s=0)
        assert await anext(answers) == 1
        script.released.set()
        [task] = [each for each in asyncio.all_tasks() if each.get_name() == "calendar-watch"]
        await asyncio.wait([task])
        with pytest.raises(errors.ServiceUnreachable, match="The line broke"):
            await anext(answers)

    asyncio.run(run())


def test_errors_are_those_of_the_other_client(service: FakeService) -> None:
    async def run() -> None:
        async with aio.CalendarClient(service.address, "calkey_9_other") as client:
            await client.get_booking("b")

    with pytest.raises(errors.Unauthorized) as caught:
        asyncio.run(run())
    assert caught.value.__cause__ is not None


def gone(service: FakeService) -> None:
    ends_at = time.monotonic() + 20
    while service.watches:
        assert time.monotonic() < ends_at
        time.sleep(0.01)
