"""The main job through real ports, a real CalDAV server and real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import pytest

from calendars.v1 import booking_pb2, connection_pb2
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import (
    PASSWORD,
    Person,
    Running,
    Stub,
    at,
    busy_request,
    error_info,
    ical,
    intervals,
    serving,
    span,
    sqlite_settings,
    stamp,
)

CONFIRMED, CANCELLED = booking_pb2.BOOKING_STATUS_CONFIRMED, booking_pb2.BOOKING_STATUS_CANCELLED
SYNCED, REMOVED = booking_pb2.BOOKING_EVENT_STATE_SYNCED, booking_pb2.BOOKING_EVENT_STATE_REMOVED


def confirmed(booking_id: str, revision: int, start: float, end: float, **more: object) -> booking_pb2.Booking:
    return booking_pb2.Booking(
        id=booking_id,
        revision=revision,
        status=CONFIRMED,
        start_time=stamp(at(start)),
        end_time=stamp(at(end)),
        **more,  # type: ignore[arg-type]
    )


def sync(stub: Stub, booking: booking_pb2.Booking, *ids: str, **more: object) -> pb.SyncBookingResponse:
    return stub("SyncBooking", pb.SyncBookingRequest(booking=booking, connection_ids=ids, **more))  # type: ignore[arg-type,return-value]


def lines(text: str | None, *names: str) -> dict[str, str]:
    """The values of some properties of an event."""
    unfolded = (text or "").replace("\r\n ", "").splitlines()
    return {line.partition(":")[0]: line.partition(":")[2] for line in unfolded if line.startswith(names)}


def test_booked_moved_and_cancelled_in_the_calendar_itself(stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    connection = stub.connect(person)
    assert connection.calendar_id == calendar
    booking_id = f"interview-{connection.id}"
    booking = confirmed(
        booking_id,
        1,
        10,
        11,
        title="Interview; with Ben, at ten",
        description="Bring:\n\tyour notes",
        location="Room 2",
        time_zone="Europe/Berlin",
        url="https://example.org/b/1",
        attendees=[booking_pb2.Attendee(email="ben@example.org", name="Ben")],
    )
    answer = sync(stub, booking, connection.id)
    assert [(event.state, event.synced_revision) for event in answer.events] == [(SYNCED, 1)]
    event_id = answer.events[0].event_id
    assert person.events(calendar) == [event_id]
    written = person.get(event_id)
    told = lines(written, "UID", "DTSTART", "DTEND", "SUMMARY", "SEQUENCE", "LOCATION")
    assert told["UID"] == event_id.rpartition("/")[2].removesuffix(".ics")
    assert (told["DTSTART"], told["DTEND"]) == (ical(at(10)), ical(at(11)))
    assert told["SUMMARY"] == "Interview\\; with Ben\\, at ten"
    assert written is not None
    assert "ben@example.org" in written.replace("\r\n ", "")
    for never in ("ATTENDEE", "ORGANIZER", "METHOD"):
        assert f"\n{never}" not in written

    moved = sync(stub, confirmed(booking_id, 2, 16, 17, title="Interview"), connection.id)
    assert moved.events[0].event_id == event_id
    again = lines(person.get(event_id), "DTSTART", "SEQUENCE")
    assert again["DTSTART"] == ical(at(16))
    assert int(again["SEQUENCE"]) > int(told["SEQUENCE"])
    assert person.events(calendar) == [event_id]
    assert intervals(stub("GetBusy", busy_request(connection.id)).busy) == [(at(16), at(17))]

    cancelled = booking_pb2.Booking(id=booking_id, revision=3, status=CANCELLED)
    ended = sync(stub, cancelled)
    assert [event.state for event in ended.events] == [REMOVED]
    assert ended.booking.title == "Interview"
    assert person.events(calendar) == []
    assert not stub("GetBusy", busy_request(connection.id)).busy


def test_what_its_owner_deleted_is_made_again_by_the_next_revision(stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    connection = stub.connect(person)
    booking_id = f"again-{connection.id}"
    event_id = sync(stub, confirmed(booking_id, 1, 10, 11), connection.id).events[0].event_id
    person.delete(event_id)
    stub("GetBusy", busy_request(connection.id))
    known = stub("GetBooking", pb.GetBookingRequest(id=booking_id))
    assert [event.state for event in known.events] == [booking_pb2.BOOKING_EVENT_STATE_GONE]
    made = sync(stub, confirmed(booking_id, 2, 10, 11), connection.id).events[0]
    assert made.state == SYNCED
    assert person.events(calendar) == [made.event_id]
    person.delete(made.event_id)
    ended = sync(stub, booking_pb2.Booking(id=booking_id, revision=3, status=CANCELLED))
    assert [event.state for event in ended.events] == [REMOVED]


def test_a_slot_that_is_taken_is_refused(stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "held", span(at(10), at(11)))
    connection = stub.connect(person)
    with pytest.raises(grpc.RpcError) as refused:
        sync(stub, confirmed(f"slot-{connection.id}", 1, 10.5, 12), connection.id, require_free=True)
    assert refused.value.code() is grpc.StatusCode.ABORTED
    assert error_info(refused.value).reason == "SLOT_TAKEN"
    assert sync(stub, confirmed(f"slot-{connection.id}", 1, 11, 12), connection.id, require_free=True).events


def test_calendars_are_listed_and_chosen(stub: Stub, person: Person) -> None:
    work, home = person.make_calendar("work"), person.make_calendar("home")
    connection = stub.connect(person)
    listed = stub("ListCalendars", pb.ListCalendarsRequest(connection_id=connection.id)).calendars
    assert {calendar.id: (calendar.writable, calendar.blocks) for calendar in listed} == {
        work: (True, True),
        home: (True, True),
    }
    changed = stub(
        "UpdateConnection", pb.UpdateConnectionRequest(id=connection.id, calendar_id=home, busy_calendar_ids=[work])
    )
    assert (changed.calendar_id, list(changed.busy_calendar_ids)) == (home, [work])
    with pytest.raises(grpc.RpcError) as refused:
        stub("UpdateConnection", pb.UpdateConnectionRequest(id=connection.id, calendar_id="/nowhere/"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_one_organization_never_sees_anothers_anything(stub: Stub, other_stub: Stub, person: Person) -> None:
    person.make_calendar()
    connection = stub.connect(person)
    sync(stub, confirmed(f"ours-{connection.id}", 1, 10, 11), connection.id)
    assert connection.id not in [c.id for c in other_stub("List", pb.ListRequest()).data]
    texts = []
    for request, method in (
        (busy_request(connection.id), "GetBusy"),
        (pb.ListCalendarsRequest(connection_id=connection.id), "ListCalendars"),
        (pb.UpdateConnectionRequest(id=connection.id, busy_calendar_ids=["/x/"]), "UpdateConnection"),
        (pb.DisconnectRequest(id=connection.id), "Disconnect"),
        (pb.GetBookingRequest(id=f"ours-{connection.id}"), "GetBooking"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            other_stub(method, request)
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND, method
        texts.append(refused.value.details().replace(connection.id, ""))
        made_up = "cal_" + "0" * (len(connection.id) - 4)
        of_unknown = type(request).FromString(
            request.SerializeToString().replace(connection.id.encode(), made_up.encode())
        )
        with pytest.raises(grpc.RpcError) as unknown:
            other_stub(method, of_unknown)
        assert unknown.value.details().replace(made_up, "") == texts[-1]


def test_a_second_connect_is_a_conflict_that_names_the_first(stub: Stub, person: Person) -> None:
    person.make_calendar()
    connection = stub.connect(person)
    with pytest.raises(grpc.RpcError) as refused:
        stub.connect(person)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert error_info(refused.value).metadata["connectionId"] == connection.id


def test_an_account_without_calendars_is_refused_and_says_so(stub: Stub, person: Person) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.connect(person)
    assert error_info(refused.value).metadata["cause"] == "no_calendars"


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "https://169.254.169.254/",
        "http://[fd00::1]:5232/",
        "https://[::ffff:10.0.0.1]/",
        "https://167772161/",
        "https://0x0a000001/",
    ],
)
def test_a_private_address_that_is_not_allowed_is_refused_with_one_text(stub: Stub, url: str) -> None:
    account = connection_pb2.CaldavAccount(
        preset=connection_pb2.CALDAV_PRESET_CUSTOM, username="anna", password=PASSWORD, server_url=url
    )
    with pytest.raises(grpc.RpcError) as refused:
        stub("Connect", pb.ConnectRequest(caldav=account))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "caldav.server_url" in refused.value.details()
    assert "not one that this service may reach" in refused.value.details()


def test_google_and_microsoft_say_which_setting_is_missing(stub: Stub) -> None:
    for request, setting in (
        (
            pb.ConnectRequest(google=connection_pb2.GoogleAccount(redirect_uri="https://app.example.org/done")),
            "CALENDAR_GOOGLE_CLIENT_ID",
        ),
        (
            pb.ConnectRequest(microsoft=connection_pb2.MicrosoftAccount(redirect_uri="https://app.example.org/done")),
            "CALENDAR_MICROSOFT_CLIENT_ID",
        ),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub("Connect", request)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        info = error_info(refused.value)
        assert (info.reason, info.metadata["setting"]) == ("NOT_CONFIGURED", setting)


def test_the_sidecar_says_that_it_lives_and_is_ready_and_what_it_counts(service: Running, stub: Stub) -> None:
    stub("List", pb.ListRequest())
    with httpx.Client(base_url=service.http, trust_env=False) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert "calendar" in client.get("/metrics").text


class TestProcesses:
    def test_a_stop_lets_calls_finish_and_ends_with_0(self, tmp_path: Path) -> None:
        with serving(sqlite_settings(tmp_path), tmp_path) as running:
            stub = Stub(running.address, running.key())
            stub("List", pb.ListRequest())
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(30) == 0
            stub.close()

    def test_what_was_acknowledged_survives_a_kill_and_reaches_the_calendar(
        self, tmp_path: Path, person: Person
    ) -> None:
        calendar = person.make_calendar()
        settings = sqlite_settings(tmp_path)
        with serving(settings, tmp_path) as running:
            key = running.key()
            stub = Stub(running.address, key)
            connection = stub.connect(person)
            sync(stub, confirmed("b", 1, 10, 11), connection.id, wait={"seconds": 0})
            running.process.kill()
            running.process.wait()
            stub.close()
        settings["CALENDAR_LEASE_S"] = "20"
        with serving(settings, tmp_path) as running:
            stub = Stub(running.address, key)
            until = time.monotonic() + 90
            while stub("GetBooking", pb.GetBookingRequest(id="b")).events[0].state != SYNCED:
                assert time.monotonic() < until
                time.sleep(0.2)
            stub.close()
        assert len(person.events(calendar)) == 1

    def test_a_revoked_key_is_refused_within_five_seconds(self, service: Running) -> None:
        made = service.command("create-api-key", "--organization", "short")
        assert made.returncode == 0
        key, key_id = made.stdout.strip(), made.stderr.split("id: ")[1].split()[0]
        stub = Stub(service.address, key)
        stub("List", pb.ListRequest())
        assert service.command("revoke-api-key", key_id).returncode == 0
        until = time.monotonic() + 5
        while True:
            if stub.code("List", pb.ListRequest()) is grpc.StatusCode.UNAUTHENTICATED:
                break
            assert time.monotonic() < until
            time.sleep(0.1)
        stub.close()

    def test_settings_that_cannot_be_are_told_together(self, tmp_path: Path) -> None:
        settings = sqlite_settings(tmp_path, CALENDAR_LEASE_S="none", CALENDAR_LOG_LEVEL="loud", CALENDAR_PROCESSES="0")
        done = subprocess.run(
            [sys.executable, "-m", "calendar_server", "serve"],
            env=local.environment(settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 2
        assert "CALENDAR_LEASE_S" in done.stderr
        assert "CALENDAR_PROCESSES" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_wrong_master_key_is_refused_at_start_and_changes_nothing(self, tmp_path: Path) -> None:
        settings = sqlite_settings(tmp_path)
        local.create_api_key(settings, "acme")
        settings["CALENDAR_MASTER_KEYS"] = "k9:" + "B" * 43 + "="
        done = subprocess.run(
            [sys.executable, "-m", "calendar_server", "serve"],
            env=local.environment(settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 2
        assert "CALENDAR_MASTER_KEYS" in done.stderr

    def test_the_doctor_finds_nothing_where_nothing_is_wrong(self, tmp_path: Path) -> None:
        settings = sqlite_settings(tmp_path)
        local.create_api_key(settings, "acme")
        done = subprocess.run(
            [sys.executable, "-m", "calendar_server", "doctor"],
            env=local.environment(settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAIL" not in done.stdout
