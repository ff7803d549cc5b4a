"""WatchBusy of a whole service over real ports: what changes in calendars and bookings reaches who watches."""

from __future__ import annotations

import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from calendars.v1 import booking_pb2
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import calendar_service_pb2_grpc as rpc
from tests.e2e.conftest import (
    Person,
    Running,
    Stub,
    at,
    busy_request,
    error_info,
    intervals,
    serving,
    span,
    sqlite_settings,
    stamp,
)

HEARTBEAT_S = 2.0
WAIT_S = 30.0


class Watcher:
    """A caller that watches and reads in a thread of its own, as fast as answers come."""

    def __init__(self, address: str, key: str, request: pb.GetBusyRequest, *, timeout: float | None = None):
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.max_metadata_size", 16384), ("grpc.use_local_subchannel_pool", 1)]
        )
        self.call = rpc.CalendarServiceStub(self._channel).WatchBusy(
            request, metadata=(("authorization", f"Bearer {key}"),), timeout=timeout
        )
        self.answers: list[pb.GetBusyResponse] = []
        self.error: grpc.RpcError | None = None
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        error = None
        try:
            for answer in self.call:
                with self._news:
                    self.answers.append(answer)
                    self._news.notify_all()
        except grpc.RpcError as ended:
            error = ended
        with self._news:
            self.error, self._ended = error, True
            self._news.notify_all()

    def until(self, fits: Callable[[pb.GetBusyResponse], bool]) -> pb.GetBusyResponse:
        """The newest answer, as soon as it fits."""
        with self._news:
            assert self._news.wait_for(lambda: self._ended or bool(self.answers and fits(self.answers[-1])), WAIT_S)
            assert not self._ended, self.error
            return self.answers[-1]

    def end(self) -> grpc.RpcError:
        """The error that the stream ends with."""
        with self._news:
            assert self._news.wait_for(lambda: self._ended, WAIT_S)
            assert self.error is not None
            return self.error

    def close(self) -> None:
        self.call.cancel()
        self._thread.join(WAIT_S)
        self._channel.close()


Watch = Callable[..., Watcher]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose watches tell unchanged answers soon again, and of which there may be two."""
    folder = tmp_path_factory.mktemp("watched")
    settings = sqlite_settings(
        folder,
        CALENDAR_WATCH_HEARTBEAT_S=str(HEARTBEAT_S),
        CALENDAR_WATCHES="2",
        CALENDAR_EXCHANGE_S="3",
        # What is made in a calendar is to be seen within seconds.
        CALENDAR_MAX_STALENESS_S="1",
    )
    with serving(settings, folder) as running:
        yield running


@pytest.fixture(scope="module")
def key(watched: Running) -> str:
    return watched.key()


@pytest.fixture
def caller(watched: Running, key: str) -> Iterator[Stub]:
    stub = Stub(watched.address, key)
    yield stub
    stub.close()


@pytest.fixture
def watch(watched: Running, key: str) -> Iterator[Watch]:
    """Begins a watch, and ends it with the test."""
    begun: list[Watcher] = []

    def begin(request: pb.GetBusyRequest, *, key: str = key, timeout: float | None = None) -> Watcher:
        begun.append(Watcher(watched.address, key, request, timeout=timeout))
        return begun[-1]

    yield begin
    for watcher in begun:
        watcher.close()


def book(caller: Stub, connection_id: str, revision: int = 1, status: str = "CONFIRMED") -> None:
    caller(
        "SyncBooking",
        pb.SyncBookingRequest(
            booking=booking_pb2.Booking(
                id=f"b-{connection_id}",
                revision=revision,
                status=f"BOOKING_STATUS_{status}",
                start_time=stamp(at(14 + revision)),
                end_time=stamp(at(15 + revision)),
            ),
            connection_ids=[connection_id],
        ),
    )


def as_of(answer: pb.GetBusyResponse) -> datetime.datetime:
    return answer.calendars[0].as_of.ToDatetime(datetime.UTC)


def test_the_present_answer_comes_at_once_and_is_that_of_get_busy(caller: Stub, person: Person, watch: Watch) -> None:
    person.put(person.make_calendar(), "a", span(at(9), at(10)))
    connection = caller.connect(person)
    first = watch(busy_request(connection.id)).until(bool)
    asked = caller("GetBusy", busy_request(connection.id))
    for answer in (first, asked):
        answer.calendars[0].ClearField("as_of")
    assert first == asked
    assert intervals(first.busy) == [(at(9), at(10))]


def test_a_booking_appears_moves_and_disappears(caller: Stub, person: Person, watch: Watch) -> None:
    person.make_calendar()
    connection = caller.connect(person)
    watcher = watch(busy_request(connection.id))
    assert intervals(watcher.until(bool).busy) == []
    book(caller, connection.id)
    watcher.until(lambda answer: intervals(answer.busy) == [(at(15), at(16))])
    book(caller, connection.id, 2)
    watcher.until(lambda answer: intervals(answer.busy) == [(at(16), at(17))])
    book(caller, connection.id, 3, "CANCELLED")
    watcher.until(lambda answer: intervals(answer.busy) == [])


def test_an_event_made_in_the_calendar_appears(caller: Stub, person: Person, watch: Watch) -> None:
    calendar = person.make_calendar()
    watcher = watch(busy_request(caller.connect(person).id))
    assert intervals(watcher.until(bool).busy) == []
    person.put(calendar, "a", span(at(9), at(10)))
    watcher.until(lambda answer: intervals(answer.busy) == [(at(9), at(10))])


def test_while_nothing_changes_the_answer_comes_again_and_newer(caller: Stub, person: Person, watch: Watch) -> None:
    person.make_calendar()
    watcher = watch(busy_request(caller.connect(person).id))
    first = watcher.until(bool)
    again = watcher.until(lambda answer: answer is not first)
    assert as_of(again) - as_of(first) >= datetime.timedelta(seconds=HEARTBEAT_S * 0.9)
    again.calendars[0].as_of.CopyFrom(first.calendars[0].as_of)
    assert again == first


def test_a_calendar_that_can_no_longer_be_read_ends_a_strict_watch(caller: Stub, person: Person, watch: Watch) -> None:
    calendar = person.make_calendar()
    connection = caller.connect(person)
    watcher = watch(busy_request(connection.id))
    partial = watch(busy_request(connection.id, allow_partial=True))
    watcher.until(bool)
    assert partial.until(bool).complete
    person.delete(calendar)
    error = watcher.end()
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CALENDAR_GONE")
    assert error_info(error).metadata["connectionId"] == connection.id
    assert caller.code("GetBusy", busy_request(connection.id)) is error.code()
    told = partial.until(lambda answer: not answer.complete)
    assert told.calendars[0].problem.message


def test_a_disconnected_connection_ends_its_watch(caller: Stub, person: Person, watch: Watch) -> None:
    person.make_calendar()
    connection = caller.connect(person)
    watcher = watch(busy_request(connection.id))
    watcher.until(bool)
    caller("Disconnect", pb.DisconnectRequest(id=connection.id))
    assert watcher.end().code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.GetBusyRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (busy_request("cal_none"), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_what_get_busy_refuses_ends_the_watch_before_its_first_answer(
    request_: pb.GetBusyRequest, code: grpc.StatusCode, caller: Stub, watch: Watch
) -> None:
    watcher = watch(request_)
    assert watcher.end().code() is code
    assert watcher.answers == []
    with pytest.raises(grpc.RpcError) as asked:
        caller("GetBusy", request_)
    assert error_info(asked.value) == error_info(watcher.error)


def test_a_key_that_is_revoked_ends_its_watch(watched: Running, caller: Stub, person: Person, watch: Watch) -> None:
    person.make_calendar()
    connection = caller.connect(person)
    made = watched.command("create-api-key", "--organization", "acme")
    other = watch(busy_request(connection.id))
    watcher = watch(busy_request(connection.id), key=made.stdout.strip())
    watcher.until(bool)
    other.until(bool)
    assert watched.command("revoke-api-key", made.stderr.split("id: ")[1].split()[0]).returncode == 0
    revoked_at = time.monotonic()
    error = watcher.end()
    assert time.monotonic() - revoked_at < 5
    assert (error.code(), error_info(error).reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED")
    seen = other.until(bool)
    other.until(lambda answer: answer is not seen)


def test_one_watch_too_many_is_refused_and_may_come_back(caller: Stub, person: Person, watch: Watch) -> None:
    person.make_calendar()
    request = busy_request(caller.connect(person).id)
    first, second = watch(request), watch(request)
    first.until(bool)
    second.until(bool)
    refused = watch(request).end()
    assert (refused.code(), error_info(refused).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    status = rpc_status.from_call(refused)
    assert status is not None
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    # The others go on, and so do other calls.
    caller("GetBusy", request)
    first.close()
    until = time.monotonic() + WAIT_S
    while True:
        third = watch(request)
        try:
            third.until(bool)
            break
        except AssertionError:
            assert third.error is not None, "neither an answer nor an end"
            assert time.monotonic() < until


def test_a_deadline_ends_the_watch(caller: Stub, person: Person, watch: Watch) -> None:
    person.make_calendar()
    watcher = watch(busy_request(caller.connect(person).id), timeout=4)
    assert watcher.end().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert watcher.answers


def test_sigterm_ends_watches_at_once_and_the_process_with_them(tmp_path: Path, person: Person) -> None:
    person.make_calendar()
    with serving(sqlite_settings(tmp_path), tmp_path) as running:
        key = running.key()
        stub = Stub(running.address, key)
        watcher = Watcher(running.address, key, busy_request(stub.connect(person).id))
        watcher.until(bool)
        running.process.send_signal(signal.SIGTERM)
        error = watcher.end()
        assert (error.code(), error_info(error).reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_STOPPING")
        # Calls in flight would get 35 s; there are none that wait for anything.
        assert running.process.wait(20) == 0
        watcher.close()
        stub.close()
