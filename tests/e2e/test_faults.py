"""GetBusy with a CalDAV server that fails in every way: never free, always named, nobody else touched."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest

from calendar_client import CalendarClient
from calendar_client.errors import ProviderUnavailable
from calendars.v1 import availability_pb2 as availability
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import connection_pb2
from tests.e2e.conftest import Person, Running, Stub, at, busy_request, error_info, intervals, span
from tests.fakes.strange_dav import PASSWORD, USERNAME, WORK, StrangeDav, strange_dav

FULL = (
    b'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav">'
    b"<D:response><D:href>/dav/home/work/a.ics</D:href><D:propstat><D:prop>"
)
FAULTS: dict[str, tuple[int, bytes | None, bool, str]] = {
    "401": (401, b"", False, "NEEDS_REAUTH"),
    "403": (403, b"", False, "CALENDAR_GONE"),
    "404": (404, b"", False, "CALENDAR_GONE"),
    "500": (500, b"", False, "PROVIDER_UNAVAILABLE"),
    "503": (503, b"", False, "PROVIDER_UNAVAILABLE"),
    "html": (200, b"<html><body>Please log in</body></html>", False, "PROVIDER_UNAVAILABLE"),
    "html in 207": (207, b"<html><body>Please log in</body></html>", False, "PROVIDER_UNAVAILABLE"),
    "empty body": (207, b"", False, "PROVIDER_UNAVAILABLE"),
    "cut body": (207, FULL * 20, True, "PROVIDER_UNAVAILABLE"),
    "cut xml": (207, FULL, False, "PROVIDER_UNAVAILABLE"),
    "doctype": (
        207,
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><D:multistatus xmlns:D="DAV:"/>',
        False,
        "PROVIDER_UNAVAILABLE",
    ),
    "no answer": (0, None, False, "PROVIDER_UNAVAILABLE"),
}


@pytest.fixture
def strange() -> Iterator[StrangeDav]:
    with strange_dav() as server:
        server.put(
            f"{WORK}a.ics",
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:a\r\nDTSTAMP:20260101T000000Z\r\n"
            + span(at(9), at(10)).replace("\n", "\r\n")
            + "\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n",
        )
        yield server


def connect(stub: Stub, strange: StrangeDav, owner: str = "") -> connection_pb2.Connection:
    account = connection_pb2.CaldavAccount(
        preset=connection_pb2.CALDAV_PRESET_CUSTOM,
        username=USERNAME,
        password=strange.password,
        server_url=f"{strange.url}/dav/",
    )
    return stub("Connect", pb.ConnectRequest(caldav=account, owner=owner)).connection


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_server_is_never_free_and_always_named(
    stub: Stub, person: Person, strange: StrangeDav, fault: str
) -> None:
    status, body, cut, reason = FAULTS[fault]
    connection = connect(stub, strange)
    assert intervals(stub("GetBusy", busy_request(connection.id)).busy) == [(at(9), at(10))]
    calendar = person.make_calendar()
    person.put(calendar, "other", span(at(15), at(16)))
    other = stub.connect(person)
    for method in ("REPORT", "PROPFIND", "GET"):
        strange.fail(method, status, body, cut=cut)
    with pytest.raises(grpc.RpcError) as failed:
        stub("GetBusy", busy_request(other.id, connection.id))
    info = error_info(failed.value)
    assert info.reason == reason
    assert (info.metadata["connectionId"], info.metadata["calendarId"]) == (connection.id, WORK)
    partial = stub("GetBusy", busy_request(other.id, connection.id, allow_partial=True))
    # What was read a moment ago is told, as stale: nothing that was busy then is called free.
    assert intervals(partial.busy) == [(at(9), at(10)), (at(15), at(16))]
    assert not partial.complete
    states = {entry.connection_id: entry.state for entry in partial.calendars}
    assert states == {other.id: availability.BUSY_STATE_FRESH, connection.id: availability.BUSY_STATE_STALE}


def test_a_server_that_never_answers_costs_its_connection_the_call_and_no_more_than_the_deadline(
    stub: Stub, strange: StrangeDav
) -> None:
    connection = connect(stub, strange)
    strange.fail("REPORT", 200, b"", times=1)
    with strange.lock:  # the server answers nobody while this is held
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as failed:
            stub("GetBusy", busy_request(connection.id), timeout=3)
        assert time.monotonic() - began < 3.5
    assert failed.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_changed_password_needs_a_new_one_and_goes_on_with_it(stub: Stub, strange: StrangeDav) -> None:
    connection = connect(stub, strange)
    strange.password = "changed"
    with pytest.raises(grpc.RpcError) as failed:
        stub("GetBusy", busy_request(connection.id))
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error_info(failed.value).reason == "NEEDS_REAUTH"
    listed = stub("List", pb.ListRequest(ids=[connection.id])).data[0]
    assert (listed.status, listed.sync_status) == (
        connection_pb2.CONNECTION_STATUS_NEEDS_REAUTH,
        connection_pb2.SYNC_STATUS_EXPIRED,
    )
    refused = strange.refused_logins
    with pytest.raises(grpc.RpcError):
        stub("GetBusy", busy_request(connection.id))
    assert strange.refused_logins == refused, "a grant that is known to be dead is not tried again"
    renewed = connect(stub, strange)
    assert renewed.id == connection.id
    assert intervals(stub("GetBusy", busy_request(connection.id)).busy) == [(at(9), at(10))]


def test_a_server_that_is_down_does_not_need_a_new_password(stub: Stub, strange: StrangeDav) -> None:
    connection = connect(stub, strange)
    for method in ("REPORT", "PROPFIND"):
        strange.fail(method, 503)
    with pytest.raises(grpc.RpcError):
        stub("GetBusy", busy_request(connection.id))
    listed = stub("List", pb.ListRequest(ids=[connection.id])).data[0]
    assert (listed.status, listed.sync_status) == (
        connection_pb2.CONNECTION_STATUS_ACTIVE,
        connection_pb2.SYNC_STATUS_ERROR,
    )
    assert listed.sync_error


def test_from_disconnect_on_nothing_is_asked_of_the_server(stub: Stub, strange: StrangeDav) -> None:
    connection = connect(stub, strange)
    stub("Disconnect", pb.DisconnectRequest(id=connection.id))
    asked = len(strange.log)
    with pytest.raises(grpc.RpcError) as failed:
        stub("GetBusy", busy_request(connection.id))
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(strange.log) == asked


def test_wrong_credentials_store_nothing(stub: Stub, strange: StrangeDav) -> None:
    strange.password = "other"
    account = connection_pb2.CaldavAccount(
        preset=connection_pb2.CALDAV_PRESET_CUSTOM,
        username=USERNAME,
        password=PASSWORD,
        server_url=f"{strange.url}/dav/",
    )
    with pytest.raises(grpc.RpcError) as refused:
        stub("Connect", pb.ConnectRequest(caldav=account, owner="nobody stored"))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    info = error_info(refused.value)
    assert (info.reason, info.metadata["cause"]) == ("PROVIDER_REFUSED", "credentials")
    assert not stub("List", pb.ListRequest(owner="nobody stored")).data


def test_a_client_that_retries_by_the_standard_hears_the_reason_at_once(
    service: Running, stub: Stub, strange: StrangeDav
) -> None:
    connection = connect(stub, strange)
    strange.fail("REPORT", 500)
    with pytest.raises(grpc.RpcError) as failed:
        stub("GetBusy", busy_request(connection.id))
    assert ("grpc-retry-pushback-ms", "-1") in failed.value.trailing_metadata()
    once = len(strange.asked("REPORT"))
    with CalendarClient(service.address, api_key=service.key()) as client, pytest.raises(ProviderUnavailable):
        client.get_busy(connection_ids=[connection.id], start=at(0), end=at(24))
    assert len(strange.asked("REPORT")) == 2 * once
