"""The client library's stream of answers: the newest only, and never an answer that is no longer renewed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from calendar_client import CalendarClient, errors
from calendar_client.watching import follow
from calendars.v1 import availability_pb2
from calendars.v1.calendar_service_pb2 import GetBusyResponse
from tests.fakes.blocking import blocking
from tests.fakes.fake_service import API_KEY, Event, Failure, FakeService, running

NINE = datetime(2026, 3, 16, 9, tzinfo=UTC)
WEEK = {"start": NINE, "end": NINE + timedelta(days=7)}
WORK = "/dav/anna/work/"
WAIT_S = 20.0


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        service.add_connection()
        yield service


@pytest.fixture(params=["threads", "asyncio"])
def client(request: pytest.FixtureRequest, service: FakeService) -> Iterator[CalendarClient]:
    """Both clients: each test holds for either."""
    made = CalendarClient if request.param == "threads" else blocking
    with made(service.address, API_KEY) as client:
        yield client


def becomes(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def busy_from(service: FakeService, hour: int) -> None:
    service.events["cal_1", WORK] = [Event(NINE + timedelta(hours=hour), NINE + timedelta(hours=hour + 1))]
    service.changed()


def hours(answer: GetBusyResponse) -> list[int]:
    return [each.start_time.ToDatetime(UTC).hour - 9 for each in answer.busy]


def until(answers: Generator[GetBusyResponse], wanted: list[int]) -> int:
    """Read until the busy hours are these; answers how many answers that took."""
    for count, answer in enumerate(answers, 1):
        if hours(answer) == wanted:
            return count
    raise AssertionError("the stream ended")


def lost(reason: str = "") -> Failure:
    return Failure(grpc.StatusCode.UNAVAILABLE, reason, "The line broke.")


def test_the_first_answer_is_that_of_get_busy(client: CalendarClient, service: FakeService) -> None:
    busy_from(service, 1)
    first = next(client.watch_busy(view="explained", **WEEK))
    asked = client.get_busy(view="explained", **WEEK)
    for answer in (first, asked):
        answer.calendars[0].ClearField("as_of")
    assert first == asked


def test_changes_arrive(client: CalendarClient, service: FakeService) -> None:
    service.heartbeat_s = WAIT_S
    answers = client.watch_busy(**WEEK)
    assert hours(next(answers)) == []
    busy_from(service, 2)
    assert hours(next(answers)) == [2]


def test_a_slow_loop_sees_the_newest_and_not_all_between(client: CalendarClient, service: FakeService) -> None:
    service.heartbeat_s = 0.01
    answers = client.watch_busy(**WEEK)
    next(answers)
    for hour in range(1, 6):
        busy_from(service, hour)
    arrived = datetime.now(UTC)
    becomes(lambda: datetime.now(UTC) - arrived > timedelta(seconds=0.5))
    newest = next(answers)
    assert hours(newest) == [5]
    # Fifty answers came meanwhile; the one that is told is none of the first.
    assert newest.calendars[0].as_of.ToDatetime(UTC) - arrived > timedelta(seconds=0.3)


def test_leaving_the_loop_ends_the_stream(client: CalendarClient, service: FakeService) -> None:
    for _ in client.watch_busy(**WEEK):
        assert service.watches == 1
        break
    becomes(lambda: service.watches == 0)


def test_closing_ends_the_stream(client: CalendarClient, service: FakeService) -> None:
    answers = client.watch_busy(**WEEK)
    next(answers)
    answers.close()
    becomes(lambda: service.watches == 0)


def test_it_ends_after_the_time_that_was_asked_for(client: CalendarClient, service: FakeService) -> None:
    began = time.monotonic()
    answers = list(client.watch_busy(for_s=0.7, **WEEK))
    assert answers
    assert 0.7 <= time.monotonic() - began < 5
    becomes(lambda: service.watches == 0)


def test_arguments_are_checked_when_it_is_called(client: CalendarClient) -> None:
    with pytest.raises(ValueError, match="takes a list"):
        client.watch_busy("cal_1", **WEEK)


def test_nothing_to_watch_is_an_error_unless_it_is_allowed(client: CalendarClient) -> None:
    with pytest.raises(errors.NoConnections):
        next(client.watch_busy(owner="nobody", **WEEK))
    assert next(client.watch_busy(owner="nobody", allow_empty=True, **WEEK)).complete


# Errors


def test_what_get_busy_would_raise_is_raised_at_any_time(client: CalendarClient, service: FakeService) -> None:
    answers = client.watch_busy(for_s=WAIT_S, **WEEK)
    next(answers)
    service.unknown["cal_1", WORK] = (availability_pb2.BUSY_STATE_UNKNOWN, "The server answered 503.")
    service.changed()
    with pytest.raises(errors.ProviderUnavailable) as caught:
        until(answers, [99])
    assert [each.connection_id for each in caught.value.busy_failures] == ["cal_1"]
    assert service.arrivals["WatchBusy"] == 1


class Lost(grpc.RpcError):  # type: ignore[misc]
    """How a call ends without details."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "The line broke."

    def trailing_metadata(self) -> None:
        return None


@dataclass
class Script:
    """A stream that says 1, and once it is released 2 and its end."""

    released: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def __iter__(self) -> Iterator[int]:
        yield 1
        self.released.wait(WAIT_S)
        yield 2
        self.ended.set()
        raise Lost

    def cancel(self) -> None:
        self.released.set()


def test_an_end_comes_before_an_answer_that_was_not_taken() -> None:
    script = Script()
    answers = follow(lambda deadline_s: script, reconnect_s=0)
    assert next(answers) == 1
    script.released.set()
    assert script.ended.wait(WAIT_S)
    becomes(lambda: not [each for each in threading.enumerate() if each.name == "calendar-watch"])
    with pytest.raises(errors.ServiceUnreachable, match="The line broke"):
        next(answers)


@pytest.mark.parametrize("reason", ["", "SERVICE_STOPPING", "STORE_UNAVAILABLE"])
def test_a_lost_line_is_taken_up_again(client: CalendarClient, service: FakeService, reason: str) -> None:
    answers = client.watch_busy(for_s=WAIT_S, **WEEK)
    next(answers)
    service.end_watches(lost(reason))
    becomes(lambda: service.watches == 0)
    busy_from(service, 3)
    until(answers, [3])
    assert service.arrivals["WatchBusy"] == 2


def test_a_line_that_stays_lost_is_told_in_time(client: CalendarClient, service: FakeService) -> None:
    answers = client.watch_busy(reconnect_s=1, for_s=WAIT_S, **WEEK)
    next(answers)
    service.fail("WatchBusy", lost())
    began = time.monotonic()
    service.end_watches(lost())
    with pytest.raises(errors.ServiceUnreachable):
        until(answers, [99])
    # The last trial may itself take the standard retries' time.
    assert 1 <= time.monotonic() - began < 8


def test_before_the_first_answer_nothing_is_taken_up_again(client: CalendarClient, service: FakeService) -> None:
    service.fail("WatchBusy", lost("SERVICE_STOPPING"), times=100)
    with pytest.raises(errors.ServiceStopping):
        next(client.watch_busy(**WEEK))


def test_silence_is_a_lost_line(client: CalendarClient, service: FakeService) -> None:
    service.heartbeat_s = WAIT_S
    answers = client.watch_busy(silence_s=0.3, **WEEK)
    next(answers)
    next(answers)
    assert service.arrivals["WatchBusy"] == 2
    answers = client.watch_busy(silence_s=0.3, reconnect_s=0.3, **WEEK)
    next(answers)
    with pytest.raises(errors.ServiceUnreachable, match="Nothing was heard"):
        next(answers)
