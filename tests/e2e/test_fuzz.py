"""Every field at its limits, and bytes that are no message: each call ends as the contract says, whatever it holds.

The real server on a real port, before the real use cases and a real database, with the provider in memory. ``make fuzz``
makes many more calls than ``make test`` does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calendar_server.config import Config
from calendar_server.core.model import BookingId
from calendar_server.metrics import Metrics
from calendar_server.rpc.server import RpcServer, build_server
from calendar_server.store.store import Store
from calendar_server.usecases.keys import Keys
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import errors_pb2
from tests.fakes.messages import garbage, messages, near
from tests.usecases.conftest import World, booking, build_world

CALLS = int(os.environ.get("FUZZ_CALLS", "450"))
"""Calls in all."""
SERVICE = pb.DESCRIPTOR.services_by_name["CalendarService"]
METHODS = [method.name for method in SERVICE.methods]
CALL_S = 30.0

# The contract's table of errors.
CODES = {
    "VALIDATION_ERROR": "INVALID_ARGUMENT",
    "NOT_FOUND": "NOT_FOUND",
    "CONFLICT": "ALREADY_EXISTS",
    "PROVIDER_REFUSED": "FAILED_PRECONDITION",
    "NEEDS_REAUTH": "FAILED_PRECONDITION",
    "ACCOUNT_MISMATCH": "FAILED_PRECONDITION",
    "CALENDAR_GONE": "FAILED_PRECONDITION",
    "CALENDAR_READ_ONLY": "FAILED_PRECONDITION",
    "PROVIDER_UNAVAILABLE": "UNAVAILABLE",
    "PROVIDER_THROTTLED": "UNAVAILABLE",
    "EVENT_UNREADABLE": "UNAVAILABLE",
    "NOT_CONFIGURED": "FAILED_PRECONDITION",
    "SLOT_TAKEN": "ABORTED",
    "LIMIT_EXCEEDED": "RESOURCE_EXHAUSTED",
}

bounds = settings(
    max_examples=max(10, CALLS // (2 * len(METHODS))),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # The same calls each time in the short form; others each time in the long one, whose failure prints how to repeat it.
    derandomize="FUZZ_CALLS" not in os.environ,
    print_blob=True,
)


@dataclass
class Served:
    """The service, and a caller who sends bytes."""

    world: World
    server: RpcServer
    channel: grpc.Channel
    key: str
    ids: list[str]
    ended: dict[str, int] = field(default_factory=dict)

    def send(self, method: str, raw: bytes) -> tuple[str, bytes | None]:
        """Send bytes; answers the code, and the answer's bytes if there is one. Checks what every error must have."""
        raw = bytes(raw)
        described = SERVICE.methods_by_name[method]
        path = f"/{SERVICE.full_name}/{method}"
        metadata = (("authorization", f"Bearer {self.key}"),)
        try:
            if described.server_streaming:
                stream = self.channel.unary_stream(path)(raw, metadata=metadata, timeout=CALL_S)
                answer = next(iter(stream))
                stream.cancel()
            else:
                answer = self.channel.unary_unary(path)(raw, metadata=metadata, timeout=CALL_S)
        except grpc.RpcError as error:
            check(error)
            code = error.code().name
        else:
            code = "OK"
            GetMessageClass(described.output_type).FromString(answer)
        self.ended[f"{method} {code}"] = self.ended.get(f"{method} {code}", 0) + 1
        return code, answer if code == "OK" else None


def check(error: grpc.RpcError) -> None:
    """An error of the contract: a documented reason with its code, once, and the wrong fields where some are."""
    code, said = error.code().name, (error.code(), error.details())
    status = rpc_status.from_call(error)
    assert status is not None, said
    infos = [detail for detail in status.details if detail.Is(ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1, said
    info = ErrorInfo()
    infos[0].Unpack(info)
    assert info.domain == "calendars.v1"
    assert f"ERROR_REASON_{info.reason}" in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name, said
    assert CODES.get(info.reason) == code, (info.reason, *said)
    wrong = [detail for detail in status.details if detail.Is(BadRequest.DESCRIPTOR)]
    assert len(wrong) == (code == "INVALID_ARGUMENT"), said
    for detail in wrong:
        request = BadRequest()
        detail.Unpack(request)
        assert request.field_violations
        assert all(violation.field and violation.description for violation in request.field_violations)
    assert error.details()
    assert "\n" not in error.details()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("fuzz")
    store = Store.open(f"sqlite:///{folder / 'calendar.db'}")
    store.migrate()
    world = build_world(store)
    keys = Keys(store)
    server = build_server(
        Config(grpc_address="127.0.0.1:0"),
        connections=world.connections,
        availability=world.availability,
        bookings=world.bookings,
        authenticator=keys,
        metrics=Metrics(),
    )
    server.start()
    server.set_serving(True)
    connections = [world.connect(name) for name in ("anna", "ben")]
    owned = world.connect("carla", owner="person-1")
    world.accounts.read_only.add("shown")
    shown = world.connect("shown")
    gone = world.connect("gone")
    world.disconnect(gone)
    world.sync(booking(id=BookingId("kept")), *connections)
    stop = threading.Event()

    def push() -> None:
        while not stop.wait(0.02):
            world.push()

    worker = threading.Thread(target=push)
    worker.start()
    ids = [*(each.id for each in (*connections, owned, shown, gone)), "kept", "person-1", "anna"]
    options = [("grpc.max_metadata_size", 16384)]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield Served(world, server, channel, keys.create("acme").text, ids)
    stop.set()
    worker.join()
    server.stop(0)
    world.availability.close()
    world.refresher.close()
    store.close()


def requests(served: Served, method: str) -> st.SearchStrategy[object]:
    """Requests that would go well but for a few fields; and one in four of anything at all."""
    kind = SERVICE.methods_by_name[method].input_type
    good = near(examples(served, method), served.ids)
    return good | good | good | messages(kind, served.ids)


def examples(served: Served, method: str) -> list[Message]:
    """What each method would take as it is."""
    anna, ben = served.ids[:2]
    now = datetime.now(UTC).replace(microsecond=0)
    window = {"start_time": now, "end_time": now + timedelta(days=7)}
    account = {
        "preset": "CALDAV_PRESET_CUSTOM",
        "username": "dora",
        "password": "right",
        "server_url": "https://dav.a/",
    }
    wanted = {
        "id": "kept",
        "revision": 1,
        "status": "BOOKING_STATUS_CONFIRMED",
        "title": "Interview",
        "start_time": now,
        "end_time": now + timedelta(hours=1),
        "time_zone": "Europe/Vienna",
        "attendees": [{"email": "anna@example.org", "name": "Anna"}],
        "url": "https://example.org/b",
    }
    made: dict[str, list[Message]] = {
        "Connect": [
            pb.ConnectRequest(caldav=account, owner="person-2"),
            pb.ConnectRequest(caldav=account, connection_id=anna),
            pb.ConnectRequest(google={"redirect_uri": "https://app.example.org/"}, client_state="x"),
            pb.ConnectRequest(microsoft={"redirect_uri": "https://app.example.org/", "tenant": "common"}),
        ],
        "List": [pb.ListRequest(), pb.ListRequest(page_size=1, ids=[anna, ben]), pb.ListRequest(owner="person-1")],
        "Disconnect": [pb.DisconnectRequest(id=served.ids[4])],
        "GetBusy": [
            pb.GetBusyRequest(connection_ids=[anna, ben], view="BUSY_VIEW_EXPLAINED", **window),
            pb.GetBusyRequest(owner="person-1", max_staleness={"seconds": 0}, allow_partial=True, **window),
        ],
        "SyncBooking": [
            pb.SyncBookingRequest(
                booking={**wanted, "id": f"b{number}", "revision": number}, connection_ids=ids, **more
            )
            for number, ids, more in ((1, [anna], {}), (2, [anna, ben], {}), (3, [], {"owner": "person-1"}))
        ],
        "ListCalendars": [pb.ListCalendarsRequest(connection_id=anna)],
        "UpdateConnection": [
            pb.UpdateConnectionRequest(id=ben, calendar_id="/home/", busy_calendar_ids=["/work/", "/home/"]),
            pb.UpdateConnectionRequest(id=ben, update_mask={"paths": ["calendar_id"]}, calendar_id="/work/"),
        ],
        "GetBooking": [pb.GetBookingRequest(id="kept")],
    }
    made["WatchBusy"] = made["GetBusy"]
    return made[method]


def impatient(request: object) -> bytes:
    """The request's bytes. What would be waited for is not: waiting is tested elsewhere."""
    if isinstance(request, pb.SyncBookingRequest) and (not request.HasField("wait") or 0 <= request.wait.seconds <= 30):
        request.wait.Clear()
        request.wait.SetInParent()
    return request.SerializeToString()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(3000)
def test_every_field_at_its_limits(served: Served, method: str) -> None:
    @bounds
    @given(requests(served, method))
    def fuzz(request: object) -> None:
        served.send(method, impatient(request))

    fuzz()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.timeout(3000)
def test_bytes_that_are_no_message(served: Served, method: str) -> None:
    kind = SERVICE.methods_by_name[method].input_type
    read: Callable[[bytes], object] = GetMessageClass(kind).FromString

    @bounds
    @given(garbage(requests(served, method).map(impatient)))
    def fuzz(raw: bytes) -> None:
        try:
            request = read(raw)
        except Exception:
            code, _ = served.send(method, raw)
            assert code == "INVALID_ARGUMENT"
        else:
            # Still a message: with unknown fields, or other values.
            if impatient(request) == raw or method != "SyncBooking":
                served.send(method, raw)

    fuzz()


def test_the_fuzz_reached_the_methods_themselves(served: Served) -> None:
    """It would prove little if every call were refused at the door."""
    for method in ("GetBusy", "List", "SyncBooking", "WatchBusy"):
        if f"{method} OK" not in served.ended:
            test_every_field_at_its_limits(served, method)
    told = served.ended
    for method in ("GetBusy", "List", "SyncBooking", "WatchBusy"):
        assert f"{method} OK" in told, told
        assert f"{method} INVALID_ARGUMENT" in told, told


def test_the_service_is_whole_afterwards(served: Served) -> None:
    listed = pb.ListResponse.FromString(served.send("List", b"")[1] or b"")
    assert len(listed.data) >= 1
    report = served.world.report("kept")
    assert report.booking.id == "kept"
