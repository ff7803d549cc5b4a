"""Bookings are read strictly, and everything that is wrong is named at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_server.core.model import SECOND, Attendee, Booking, BookingId, BookingStatus, ConnectionId
from calendar_server.rpc import convert
from calendar_server.usecases.commands import SyncCommand, Target
from calendars.v1 import calendar_service_pb2 as pb
from tests.unit.convert.calls import CONTROL, START, instant, sync, wrong


def wrong_sync(request: pb.SyncBookingRequest) -> set[str]:
    return wrong(lambda: convert.sync_command(request))


def test_a_booking_is_read() -> None:
    request = sync(
        title="t",
        description="d",
        location="l",
        time_zone="Europe/Vienna",
        attendees=[{"email": "a@b.c", "name": "A"}],
        url="https://x.example/?a#b",
    )
    request.connection_ids.extend(["b", "a", "b"])
    request.require_free = True
    booking = Booking(
        BookingId("b1"),
        1,
        BookingStatus.CONFIRMED,
        "t",
        "d",
        "l",
        instant(START),
        instant(START) + 3600 * SECOND,
        "Europe/Vienna",
        (Attendee("a@b.c", "A"),),
        "https://x.example/?a#b",
    )
    assert convert.sync_command(request) == SyncCommand(
        booking, Target((ConnectionId("b"), ConnectionId("a"))), True, 5
    )


def test_no_booking_is_named() -> None:
    assert wrong_sync(pb.SyncBookingRequest()) == {"booking"}


def test_an_empty_booking_is_named_field_by_field() -> None:
    request = pb.SyncBookingRequest(booking={})
    assert wrong_sync(request) == {"booking.id", "booking.revision", "booking.status"}


def test_a_confirmed_booking_needs_its_times() -> None:
    request = pb.SyncBookingRequest(booking={"id": "b", "revision": 1, "status": "BOOKING_STATUS_CONFIRMED"})
    assert wrong_sync(request) == {"booking.start_time", "booking.end_time"}


def test_a_cancelled_booking_needs_id_revision_and_status() -> None:
    request = pb.SyncBookingRequest(booking={"id": "b", "revision": 2, "status": "BOOKING_STATUS_CANCELLED"})
    assert convert.sync_command(request).booking == Booking(BookingId("b"), 2, BookingStatus.CANCELLED)


def test_a_cancelled_booking_is_checked_in_what_it_tells() -> None:
    request = sync(status="BOOKING_STATUS_CANCELLED", title="\x00", end_time=START, time_zone="Nowhere/Land")
    assert wrong_sync(request) == {"booking.title", "booking.end_time", "booking.time_zone"}


def test_a_cancelled_booking_tells_both_times_or_none() -> None:
    request = sync(status="BOOKING_STATUS_CANCELLED")
    request.booking.ClearField("end_time")
    assert wrong_sync(request) == {"booking.end_time"}


def test_a_cancellation_takes_any_set_as_it_is_ignored() -> None:
    request = sync(status="BOOKING_STATUS_CANCELLED")
    request.connection_ids.append("a")
    request.owner = "o"
    assert wrong_sync(request) == set()


def test_a_confirmation_takes_ids_or_an_owner() -> None:
    request = sync()
    request.connection_ids.append("a")
    request.owner = "o"
    assert wrong_sync(request) == {"owner"}


@pytest.mark.parametrize("revision", [0, -1, -(2**63)])
def test_revisions_begin_at_one(revision: int) -> None:
    assert wrong_sync(sync(revision=revision)) == {"booking.revision"}


def test_the_largest_revision_is_taken() -> None:
    assert convert.sync_command(sync(revision=2**63 - 1)).booking.revision == 2**63 - 1


def test_an_unknown_status_is_refused() -> None:
    assert wrong_sync(sync(status=7)) == {"booking.status"}


def test_a_booking_ends_after_its_start() -> None:
    assert wrong_sync(sync(end_time=START)) == {"booking.end_time"}


def test_a_booking_has_whole_seconds() -> None:
    request = sync(
        start_time=Timestamp(seconds=1_800_000_000, nanos=1), end_time=Timestamp(seconds=1_800_000_060, nanos=1000)
    )
    assert wrong_sync(request) == {"booking.start_time", "booking.end_time"}


@pytest.mark.parametrize("year", [1, 1970, 2201, 9999])
def test_a_booking_in_another_age_is_refused(year: int) -> None:
    moment = datetime(year, 6, 1, tzinfo=UTC)
    request = sync(start_time=moment, end_time=moment + timedelta(hours=1))
    assert wrong_sync(request) == {"booking.start_time", "booking.end_time"}


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Vienna", "America/Argentina/Buenos_Aires", "Asia/Kolkata", "Etc/GMT+5"]
)
def test_a_zone_of_the_database_is_taken(zone: str) -> None:
    assert wrong_sync(sync(time_zone=zone)) == set()


@pytest.mark.parametrize(
    "zone",
    [
        "Vienna",
        "W. Europe Standard Time",
        "+01:00",
        "../etc/passwd",
        "/etc/localtime",
        "localtime",
        "Europe",
        "europe/x",
    ],
)
def test_a_zone_that_is_not_in_the_database_is_refused(zone: str) -> None:
    assert wrong_sync(sync(time_zone=zone)) == {"booking.time_zone"}


@pytest.mark.parametrize("email", ["a@b", "anna+x@münchen.example", '"a@b"@c.d', "o'neil@example.com"])
def test_an_address_is_taken_leniently(email: str) -> None:
    assert wrong_sync(sync(attendees=[{"email": email}])) == set()


@pytest.mark.parametrize("email", ["", "anna", "@b", "a@", "a b@c.d", "a@b c", "a@b\r\nBCC: x@y", "a@" + "b" * 319])
def test_what_is_no_address_is_refused(email: str) -> None:
    assert wrong_sync(sync(attendees=[{"email": "x@y"}, {"email": email}])) == {"booking.attendees[1].email"}


def test_an_attendee_is_named_by_position_and_field() -> None:
    attendees = [{"email": "x@y"}] * 3 + [{"email": "no", "name": "n" * 257}]
    assert wrong_sync(sync(attendees=attendees)) == {"booking.attendees[3].email", "booking.attendees[3].name"}


def test_attendees_are_bounded() -> None:
    assert wrong_sync(sync(attendees=[{"email": f"a{n}@b.c"} for n in range(200)])) == set()
    assert wrong_sync(sync(attendees=[{"email": ""}] * 201)) == {"booking.attendees"}


def test_equal_attendees_are_folded() -> None:
    attendees = [{"email": "a@b.c"}, {"email": "d@e.f"}, {"email": "a@b.c"}]
    assert convert.sync_command(sync(attendees=attendees)).booking.attendees == (Attendee("a@b.c"), Attendee("d@e.f"))


@pytest.mark.parametrize("url", ["javascript:alert(1)", "x.example", "ftp://x.example", "https://", "h" * 2049])
def test_a_page_is_an_absolute_http_address(url: str) -> None:
    assert wrong_sync(sync(url=url)) == {"booking.url"}


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [(None, 5.0), (Duration(), 0.0), (Duration(nanos=500_000_000), 0.5), (Duration(seconds=31), 30.0)],
)
def test_a_wait_is_lowered_to_thirty_seconds(wait: Duration | None, seconds: float) -> None:
    request = sync()
    if wait is not None:
        request.wait.CopyFrom(wait)
    assert convert.sync_command(request).wait_s == seconds


def test_a_negative_wait_is_refused() -> None:
    request = sync()
    request.wait.CopyFrom(Duration(nanos=-1))
    assert wrong_sync(request) == {"wait"}


def test_a_span_that_must_be_free_is_no_longer_than_a_window() -> None:
    request = sync(end_time=START + timedelta(days=367))
    assert wrong_sync(request) == set()
    request.require_free = True
    assert wrong_sync(request) == {"booking.end_time"}


# Text


@pytest.mark.parametrize("character", CONTROL)
def test_no_control_character_is_taken_in_a_title(character: str) -> None:
    assert wrong_sync(sync(title=f"a{character}b")) == {"booking.title"}


@pytest.mark.parametrize("character", [c for c in CONTROL if c not in "\t\n"])
def test_no_control_character_but_tab_and_line_feed_is_taken_in_a_description(character: str) -> None:
    assert wrong_sync(sync(description=f"a{character}b")) == {"booking.description"}


def test_tab_and_line_feed_are_taken_in_a_description() -> None:
    assert convert.sync_command(sync(description="a\tb\nc")).booking.description == "a\tb\nc"


@pytest.mark.parametrize(
    ("field", "most"),
    [("title", 1024), ("description", 8192), ("location", 1024), ("id", 256)],
)
def test_a_size_is_counted_in_bytes_of_utf8(field: str, most: int) -> None:
    assert wrong_sync(sync(**{field: "ü" * (most // 2)})) == set()
    assert wrong_sync(sync(**{field: "ü" * (most // 2) + "x"})) == {f"booking.{field}"}


@pytest.mark.parametrize("text", ["\U0001f600 família 日本", "\u202eabc", "a\u2028b"])
def test_all_other_characters_are_taken_as_they_are(text: str) -> None:
    assert convert.sync_command(sync(title=text)).booking.title == text
