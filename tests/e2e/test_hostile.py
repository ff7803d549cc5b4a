"""A whole service beside a CalDAV server that attacks it: everybody else's answers stay exact."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest

from calendars.v1 import availability_pb2 as availability
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import connection_pb2
from calendars.v1 import errors_pb2 as errors
from tests.e2e.conftest import Person, Stub, at, busy_request, error_info, intervals, span
from tests.fakes.hostile_dav import MODES, HostileDav, hostile_dav
from tests.fakes.strange_dav import PASSWORD, USERNAME, WORK

ATTACKS = [
    "a body without end",
    "a redirect to the trap",
    "a web page",
    "billion laughs",
    "depth",
    "a million siblings",
    "headers without end",
    "tiny chunks without end",
    "a challenge of blanks",
    "an event of no text",
    "an event of no calendar",
]
READERS = 3
ROUNDS = 4


@pytest.fixture
def hostile() -> Iterator[HostileDav]:
    with hostile_dav() as dav:
        dav.account.put(
            f"{WORK}e.ics",
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:e\r\nDTSTAMP:20260101T000000Z\r\n"
            + span(at(9), at(10)).replace("\n", "\r\n")
            + "\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
        )
        yield dav


def account_of(hostile: HostileDav, password: str = PASSWORD) -> connection_pb2.CaldavAccount:
    return connection_pb2.CaldavAccount(
        preset=connection_pb2.CALDAV_PRESET_CUSTOM,
        username=USERNAME,
        password=password,
        server_url=f"{hostile.url}/dav/",
    )


def connect(stub: Stub, hostile: HostileDav) -> connection_pb2.Connection:
    return stub("Connect", pb.ConnectRequest(caldav=account_of(hostile))).connection  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("mode", ATTACKS)
def test_beside_an_attacked_connection_others_stay_exact(
    stub: Stub, person: Person, hostile: HostileDav, mode: str
) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "good", span(at(15), at(16)))
    good, bad = stub.connect(person), connect(stub, hostile)
    assert intervals(stub("GetBusy", busy_request(bad.id)).busy) == [(at(9), at(10))]  # type: ignore[attr-defined]
    hostile.attack(mode, "report")
    over = threading.Event()
    seen: list[object] = []

    def read_the_attacked() -> None:
        while not over.is_set():
            try:
                seen.append(stub("GetBusy", busy_request(bad.id, max_staleness={"seconds": 0})))
            except grpc.RpcError as error:
                seen.append(error)

    readers = [threading.Thread(target=read_the_attacked) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(ROUNDS):
            answer = stub("GetBusy", busy_request(good.id, max_staleness={"seconds": 0}))
            assert intervals(answer.busy) == [(at(15), at(16))]  # type: ignore[attr-defined]
            assert answer.complete  # type: ignore[attr-defined]
        both = busy_request(good.id, bad.id, max_staleness={"seconds": 0}, allow_partial=True)
        partial = stub("GetBusy", both)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert (at(15), at(16)) in intervals(partial.busy)  # type: ignore[attr-defined]
    states = {one.connection_id: one for one in partial.calendars}  # type: ignore[attr-defined]
    assert states[good.id].state == availability.BUSY_STATE_FRESH
    assert states[good.id].problem.reason == errors.ERROR_REASON_UNSPECIFIED
    assert states[bad.id].problem.reason != errors.ERROR_REASON_UNSPECIFIED
    assert not partial.complete  # type: ignore[attr-defined]
    assert len(seen) >= READERS
    for failure in seen:
        assert isinstance(failure, grpc.RpcError), "an attacked calendar was told as known"
        info = error_info(failure)
        assert info.metadata["connectionId"] == bad.id
        assert info.metadata["calendarId"] == WORK
        assert info.reason in ("PROVIDER_UNAVAILABLE", "EVENT_UNREADABLE", "NEEDS_REAUTH", "CALENDAR_GONE")
    assert hostile.caught == 0


@pytest.mark.parametrize(
    ("mode", "stage"),
    [
        ("401 for ever", "discovery"),
        ("a body without end", "discovery"),
        ("a home at an inner address", "discovery"),
        ("ten thousand calendars", "list"),
        ("billion laughs", "list"),
        ("a redirect to the inner network", "list"),
    ],
)
def test_an_attacked_connect_stores_nothing(stub: Stub, hostile: HostileDav, mode: str, stage: str) -> None:
    before = {one.id for one in stub("List", pb.ListRequest(page_size=200)).data}  # type: ignore[attr-defined]
    hostile.attack(mode, MODES[mode].stages[MODES[mode].stages.index(stage)])  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as failed:
        connect(stub, hostile)
    assert error_info(failed.value).reason in ("PROVIDER_REFUSED", "PROVIDER_UNAVAILABLE")
    assert {one.id for one in stub("List", pb.ListRequest(page_size=200)).data} == before  # type: ignore[attr-defined]
    hostile.calm_down()
    assert connect(stub, hostile).id not in before


def test_a_refused_password_is_sent_twice_and_then_never_again(stub: Stub, hostile: HostileDav) -> None:
    for name in ("a", "b", "c"):
        hostile.account.shelves[f"/dav/home/{name}/"] = type(hostile.account.shelves[WORK])()
    connection = connect(stub, hostile)
    assert len(connection.busy_calendar_ids) == 4
    hostile.account.password, hostile.account.refused_logins = "another", 0
    hostile.account.log.clear()
    with pytest.raises(grpc.RpcError) as failed:
        stub("GetBusy", busy_request(connection.id))
    assert error_info(failed.value).reason == "NEEDS_REAUTH"
    assert hostile.account.refused_logins == 2
    asked = len(hostile.account.log)
    for method, request in (
        ("GetBusy", busy_request(connection.id, max_staleness={"seconds": 0})),
        ("ListCalendars", pb.ListCalendarsRequest(connection_id=connection.id)),
        ("UpdateConnection", pb.UpdateConnectionRequest(id=connection.id, busy_calendar_ids=[WORK])),
    ):
        with pytest.raises(grpc.RpcError) as failed:
            stub(method, request)
        assert error_info(failed.value).reason == "NEEDS_REAUTH"
    assert len(hostile.account.log) == asked
    renewed = stub("Connect", pb.ConnectRequest(caldav=account_of(hostile, "another"), connection_id=connection.id))
    assert renewed.connection.id == connection.id  # type: ignore[attr-defined]
    assert stub("GetBusy", busy_request(connection.id)).complete  # type: ignore[attr-defined]


def test_passwords_cannot_be_guessed_through_us(stub: Stub, other_stub: Stub, hostile: HostileDav) -> None:
    codes = []
    for number in range(12):
        with pytest.raises(grpc.RpcError) as failed:
            stub("Connect", pb.ConnectRequest(caldav=account_of(hostile, f"guess {number}")))
        codes.append(failed.value.code())
    assert codes == [grpc.StatusCode.FAILED_PRECONDITION] * 10 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert error_info(failed.value).reason == "LIMIT_EXCEEDED"
    assert hostile.account.refused_logins == 10
    assert other_stub("Connect", pb.ConnectRequest(caldav=account_of(hostile))).connection.id  # type: ignore[attr-defined]
