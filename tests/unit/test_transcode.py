"""JSON to requests and responses to JSON, by the bindings of the protos."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_server.errors import ValidationError
from calendar_server.sidecar.bindings import bindings
from calendar_server.sidecar.transcode import VIOLATIONS_MOST, answer_json, as_json, read_request, word, words
from calendars.v1 import availability_pb2, booking_pb2, connection_pb2, errors_pb2
from calendars.v1 import calendar_service_pb2 as pb

FILES = (pb, availability_pb2, booking_pb2, connection_pb2, errors_pb2)
BINDINGS = {binding.name: binding for binding in bindings(pb.DESCRIPTOR.services_by_name["CalendarService"])}

PATHS = {
    "ConnectGoogle": ("GET", "/v1/calendars/google/connect", 200),
    "ConnectMicrosoft": ("GET", "/v1/calendars/microsoft/connect", 200),
    "ConnectCaldav": ("POST", "/v1/calendars/caldav/connect", 201),
    "List": ("GET", "/v1/calendars", 200),
    "Disconnect": ("DELETE", "/v1/calendars/{id}", 200),
    "GetBusy": ("POST", "/v1/busy", 200),
    "SyncBooking": ("PUT", "/v1/bookings/{id}", 200),
    "GetBooking": ("GET", "/v1/bookings/{id}", 200),
    "ListCalendars": ("GET", "/v1/calendars/{connection_id}/calendars", 200),
    "UpdateConnection": ("PATCH", "/v1/calendars/{id}", 200),
}


def enums() -> Iterator[EnumDescriptor]:
    for file in FILES:
        yield from file.DESCRIPTOR.enum_types_by_name.values()


def read(name: str, *variables: str, query: str = "", body: object = None) -> Message:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(BINDINGS[name], variables, query.encode(), raw)


def wrong(name: str, *variables: str, query: str = "", body: object = None) -> dict[str, str]:
    """What is wrong with a request: descriptions by field."""
    with pytest.raises(ValidationError) as raised:
        read(name, *variables, query=query, body=body)
    return {violation.field: violation.description for violation in raised.value.violations}


# Paths


def test_every_path_of_the_contract_is_there() -> None:
    assert {b.name: (b.verb, b.path, b.status) for b in BINDINGS.values()} == PATHS


@pytest.mark.parametrize(
    ("name", "path", "values"),
    [
        ("List", "v1/calendars", ()),
        ("Disconnect", "v1/calendars/cal_1", ("cal_1",)),
        ("GetBooking", "v1/bookings/a%2Fb%20%C3%BC", ("a/b ü",)),
        ("GetBooking", "v1/bookings/", None),
        ("GetBooking", "v1/bookings", None),
        ("GetBooking", "v1/bookings/a/b", None),
        ("List", "v1/calendars/", None),
    ],
)
def test_a_path_is_matched_as_it_was_sent(name: str, path: str, values: tuple[str, ...] | None) -> None:
    assert BINDINGS[name].match(path.split("/")) == values


def test_a_word_goes_before_a_variable() -> None:
    order = [binding.path for binding in bindings(pb.DESCRIPTOR.services_by_name["CalendarService"])]
    assert order.index("/v1/calendars/google/connect") < order.index("/v1/calendars/{connection_id}/calendars")


def test_a_query_offers_neither_another_account_nor_what_path_and_body_hold() -> None:
    assert {name: sorted(binding.query) for name, binding in BINDINGS.items() if binding.query} == {
        "ConnectGoogle": ["client_state", "connection_id", "owner", "redirect_uri"],
        "ConnectMicrosoft": ["client_state", "connection_id", "owner", "redirect_uri", "tenant"],
        "ConnectCaldav": ["client_state", "connection_id", "owner"],
        "List": ["ids", "owner", "page_size", "page_token", "provider", "status"],
    }


@pytest.mark.parametrize(
    ("name", "field", "shown"),
    [
        ("ConnectCaldav", "caldav.server_url", "server_url"),
        ("ConnectGoogle", "google.redirect_uri", "redirect_uri"),
        ("ConnectGoogle", "owner", "owner"),
        ("SyncBooking", "booking.id", "id"),
        ("SyncBooking", "booking.attendees[3].email", "booking.attendees[3].email"),
        ("UpdateConnection", "update_mask.paths[1]", "update_mask"),
    ],
)
def test_a_wrong_field_has_the_name_that_its_caller_knows(name: str, field: str, shown: str) -> None:
    assert BINDINGS[name].shown(field) == shown


# Answers


def test_a_connection() -> None:
    connection = connection_pb2.Connection(
        id="cal_abc123",
        provider="PROVIDER_CALDAV",
        calendar_id="user@icloud.com",
        account_email="user@icloud.com",
        connected_at=Timestamp(seconds=1_773_568_800),
        status="CONNECTION_STATUS_ACTIVE",
        sync_status="SYNC_STATUS_CONNECTED",
    )
    assert list(as_json(connection).items()) == [
        ("id", "cal_abc123"),
        ("provider", "caldav"),
        ("calendar_id", "user@icloud.com"),
        ("account_email", "user@icloud.com"),
        ("connected_at", "2026-03-15T10:00:00Z"),
        ("status", "active"),
        ("last_sync_at", None),
        ("sync_status", "connected"),
        ("sync_error", None),
        ("owner", ""),
        ("busy_calendar_ids", []),
    ]


def test_a_page() -> None:
    assert as_json(pb.ListResponse()) == {"data": [], "has_more": False, "next_page_token": ""}


def test_a_disconnect() -> None:
    assert as_json(pb.DisconnectResponse(id="cal_abc123", deleted=True)) == {"id": "cal_abc123", "deleted": True}


def test_what_is_set_is_told() -> None:
    connection = connection_pb2.Connection(last_sync_at=Timestamp(seconds=1, nanos=500_000_000), sync_error="It broke.")
    told = as_json(connection)
    assert (told["last_sync_at"], told["sync_error"]) == ("1970-01-01T00:00:01.500Z", "It broke.")


def test_of_a_choice_only_what_is_set_is_told() -> None:
    url = pb.ConnectResponse(authorization_url="https://a.example")
    assert answer_json(BINDINGS["ConnectGoogle"], url) == {"authorization_url": "https://a.example"}


def test_a_caldav_connection_is_answered_alone() -> None:
    response = pb.ConnectResponse(connection=connection_pb2.Connection(id="cal_1"))
    assert answer_json(BINDINGS["ConnectCaldav"], response)["id"] == "cal_1"


def test_a_number_of_64_bits_is_a_number() -> None:
    told = as_json(booking_pb2.Booking(revision=2**63 - 1, attendees=[booking_pb2.Attendee(email="b@example.org")]))
    assert told["revision"] == 2**63 - 1
    assert told["attendees"] == [{"email": "b@example.org", "name": ""}]
    assert told["start_time"] is None


@pytest.mark.parametrize("enum", list(enums()), ids=lambda enum: enum.name)
def test_every_value_of_an_enum_has_a_word_and_back(enum: EnumDescriptor) -> None:
    known = words(enum)
    assert sorted(known.values()) == [value.number for value in enum.values if value.number]
    for told, number in known.items():
        assert word(enum, number) == told
        assert told == told.lower()
        assert enum.values_by_number[number].name.endswith(f"_{told.upper()}")
    assert word(enum, 0) == "unspecified"
    assert word(enum, 9999) == "unknown_9999"


def test_the_words_of_the_contract() -> None:
    assert list(words(connection_pb2.CaldavPreset.DESCRIPTOR)) == ["apple", "fastmail", "nextcloud", "custom"]
    assert list(words(connection_pb2.ConnectionStatus.DESCRIPTOR)) == ["active", "needs_reauth"]


# Bodies


@pytest.mark.parametrize("preset", words(connection_pb2.CaldavPreset.DESCRIPTOR))
def test_a_caldav_account_by_every_preset(preset: str) -> None:
    body = {"preset": preset, "username": "anna", "password": "s", "server_url": None}
    request = read("ConnectCaldav", query="owner=anna%40example.org", body=body)
    assert isinstance(request, pb.ConnectRequest)
    assert request.WhichOneof("account") == "caldav"
    assert request.caldav.preset == words(connection_pb2.CaldavPreset.DESCRIPTOR)[preset]
    assert (request.caldav.username, request.caldav.password, request.owner) == ("anna", "s", "anna@example.org")


def test_an_empty_account_is_still_the_one_of_the_path() -> None:
    request = read("ConnectCaldav", body={})
    assert isinstance(request, pb.ConnectRequest)
    assert request.WhichOneof("account") == "caldav"


def test_the_busy_times() -> None:
    request = read(
        "GetBusy",
        body={
            "connection_ids": ["cal_1", "cal_2"],
            "start_time": "2026-03-15T10:00:00+01:00",
            "end_time": "2026-03-16T10:00:00.5Z",
            "max_staleness": "0.5s",
            "ignore_tentative": True,
            "view": "per_calendar",
        },
    )
    assert request == pb.GetBusyRequest(
        connection_ids=["cal_1", "cal_2"],
        start_time=Timestamp(seconds=1_773_565_200),
        end_time=Timestamp(seconds=1_773_655_200, nanos=500_000_000),
        max_staleness={"nanos": 500_000_000},  # type: ignore[arg-type]
        ignore_tentative=True,
        view="BUSY_VIEW_PER_CALENDAR",
    )


def test_a_duration_of_nothing_is_not_an_absent_one() -> None:
    request = read("GetBusy", body={"max_staleness": "0s"})
    assert isinstance(request, pb.GetBusyRequest)
    assert request.HasField("max_staleness")


@pytest.mark.parametrize("revision", [7, "7", 7.0])
def test_a_booking(revision: object) -> None:
    body = {
        "booking": {"revision": revision, "status": "confirmed", "attendees": [{"email": "b@example.org"}]},
        "require_free": True,
    }
    assert read("SyncBooking", "a/b", body=body) == pb.SyncBookingRequest(
        booking=booking_pb2.Booking(
            id="a/b",
            revision=7,
            status="BOOKING_STATUS_CONFIRMED",
            attendees=[booking_pb2.Attendee(email="b@example.org")],
        ),
        require_free=True,
    )


def test_a_body_may_repeat_the_id_of_the_path_but_not_another() -> None:
    assert read("SyncBooking", "one", body={"booking": {"id": "one"}}) == read(
        "SyncBooking", "one", body={"booking": {}}
    )
    assert "booking.id" in wrong("SyncBooking", "one", body={"booking": {"id": "two"}})
    assert "id" in wrong("UpdateConnection", "cal_1", body={"id": "cal_2"})


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({"busy_calendar_ids": []}, ["busy_calendar_ids"]),
        ({"calendar_id": "a", "busy_calendar_ids": ["b"]}, ["calendar_id", "busy_calendar_ids"]),
        ({"id": "cal_1", "calendar_id": "a"}, ["calendar_id"]),
        ({"calendar_id": None, "busy_calendar_ids": []}, ["busy_calendar_ids"]),
        ({"calendar_id": "a", "busy_calendar_ids": ["b"], "update_mask": "calendar_id"}, ["calendar_id"]),
        ({"update_mask": "calendar_id,busy_calendar_ids"}, ["calendar_id", "busy_calendar_ids"]),
        ({}, []),
    ],
)
def test_a_patch_changes_what_it_names(body: object, paths: list[str]) -> None:
    request = read("UpdateConnection", "cal_1", body=body)
    assert isinstance(request, pb.UpdateConnectionRequest)
    assert list(request.update_mask.paths) == paths
    assert request.id == "cal_1"


def test_every_unknown_name_is_told_with_its_place() -> None:
    body = {"bookings": 1, "connectionIds": [], "booking": {"titel": "x", "attendees": [{}, {"mail": "y"}]}}
    assert set(wrong("SyncBooking", "a", body=body)) == {
        "bookings",
        "connectionIds",
        "booking.titel",
        "booking.attendees[1].mail",
    }


def test_the_members_of_another_account_are_not_known() -> None:
    assert set(wrong("ConnectCaldav", body={"caldav": {}, "google": {}, "tenant": "x"})) == {
        "caldav.caldav",
        "caldav.google",
        "caldav.tenant",
    }


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("connection_ids", "cal_1", "must be a list"),
        ("connection_ids", {}, "must be a list"),
        ("owner", 7, "must be a string"),
        ("owner", ["a"], "must be a string"),
        ("owner", "\ud800", "Unicode"),
        ("ignore_tentative", "true", "must be true or false"),
        ("ignore_tentative", 1, "must be true or false"),
        ("view", "MERGED", "must be one of merged, per_calendar, explained"),
        ("view", "BUSY_VIEW_MERGED", "must be one of"),
        ("view", "unspecified", "must be one of"),
        ("view", 1, "must be one of"),
        ("view", [], "must be one of"),
        ("start_time", "2026-03-15", "RFC 3339"),
        ("start_time", "2026-03-15T10:00:00", "RFC 3339"),
        ("start_time", "2026-02-30T10:00:00Z", "RFC 3339"),
        ("start_time", "2026-03-15T25:00:00Z", "RFC 3339"),
        ("start_time", "2026-03-15T10:00:00+25:00", "RFC 3339"),
        ("start_time", "0001-01-01T00:00:00+23:59", "RFC 3339"),
        ("start_time", "٢٠٢٦-03-15T10:00:00Z", "RFC 3339"),
        ("start_time", "2026-03-15T10:00:00Z\n", "RFC 3339"),
        ("start_time", 1773568800, "RFC 3339"),
        ("max_staleness", "5", '"5s"'),
        ("max_staleness", 5, '"5s"'),
        ("max_staleness", "5m", '"5s"'),
        ("max_staleness", "999999999999s", '"5s"'),
    ],
)
def test_a_value_of_another_type_is_told(field: str, value: object, says: str) -> None:
    assert says in wrong("GetBusy", body={field: value})[field]


@pytest.mark.parametrize("revision", [True, 1.5, "1.0", "", " 1", "٣", 2**63, -(2**63) - 1, "9" * 19, 1e300, {}])
def test_what_is_no_number_of_64_bits_is_told(revision: object) -> None:
    assert set(wrong("SyncBooking", "a", body={"booking": {"revision": revision}})) == {"booking.revision"}


def test_nothing_in_a_list_is_told() -> None:
    assert set(wrong("GetBusy", body={"connection_ids": ["a", None]})) == {"connection_ids[1]"}


def test_all_that_is_wrong_is_told_together() -> None:
    told = wrong("GetBusy", body={"owner": 1, "view": "x", "nothing": 1, "start_time": "now"})
    assert set(told) == {"owner", "view", "nothing", "start_time"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"a"',
        b"{",
        b"{} {}",
        b'{"owner": NaN}',
        b'{"owner": "\xff"}',
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"revision": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: body[:12].decode("latin-1"),
)
def test_what_is_no_json_object_is_told(body: bytes) -> None:
    assert set(wrong("GetBusy", body=body)) == {"body"}


def test_a_key_that_is_given_twice_is_told() -> None:
    assert wrong("GetBusy", body=b'{"owner": "a", "owner": "b"}') == {"owner": "must be given once only"}


def test_after_many_wrong_names_no_more_are_read() -> None:
    with pytest.raises(ValidationError) as raised:
        read("GetBusy", body={f"x{number}": 1 for number in range(10_000)})
    assert len(raised.value.violations) == VIOLATIONS_MOST


# Queries


def test_a_query() -> None:
    query = "page_size=20&ids=cal_1&ids=cal_2&owner=&provider=google&status=needs_reauth&page_token=a%2Bb+c"
    assert read("List", query=query) == pb.ListRequest(
        page_size=20,
        ids=["cal_1", "cal_2"],
        owner="",
        provider="PROVIDER_GOOGLE",
        status="CONNECTION_STATUS_NEEDS_REAUTH",
        page_token="a+b c",
    )


def test_an_owner_that_is_empty_is_not_an_absent_one() -> None:
    present, absent = read("List", query="owner="), read("List")
    assert isinstance(present, pb.ListRequest)
    assert isinstance(absent, pb.ListRequest)
    assert (present.HasField("owner"), absent.HasField("owner")) == (True, False)


def test_a_redirect_uri_is_the_one_of_the_account_in_the_path() -> None:
    query = "redirect_uri=https%3A%2F%2Fa.example%2Fdone%3Fx%3D1&client_state=s"
    google = read("ConnectGoogle", query=query)
    assert google == pb.ConnectRequest(
        google=connection_pb2.GoogleAccount(redirect_uri="https://a.example/done?x=1"), client_state="s"
    )
    microsoft = read("ConnectMicrosoft", query=f"{query}&tenant=common")
    assert isinstance(microsoft, pb.ConnectRequest)
    assert microsoft.microsoft.tenant == "common"


@pytest.mark.parametrize(
    ("name", "query", "field"),
    [
        ("List", "page_size=1&page_size=1", "page_size"),
        ("List", "owner=a&owner=b", "owner"),
        ("List", "page_size=", "page_size"),
        ("List", "page_size=ten", "page_size"),
        ("List", "page_size=4294967296", "page_size"),
        ("List", "provider=PROVIDER_GOOGLE", "provider"),
        ("List", "pagesize=1", "pagesize"),
        ("List", "=1", ""),
        ("List", "owner=%FF", "query"),
        ("ConnectGoogle", "tenant=common", "tenant"),
        ("ConnectGoogle", "caldav.password=x", "caldav.password"),
        ("ConnectGoogle", "redirect_uri=a&redirect_uri=b", "google.redirect_uri"),
        ("GetBusy", "owner=a", "owner"),
        ("Disconnect", "force=true", "force"),
    ],
)
def test_a_wrong_parameter_is_told(name: str, query: str, field: str) -> None:
    variables = ["cal_1"] * len(BINDINGS[name].variables)
    assert set(wrong(name, *variables, query=query, body={})) == {field}


def test_an_unknown_parameter_hears_which_there_are() -> None:
    assert "page_size, page_token, ids" in wrong("List", query="limit=5")["limit"]


def test_methods_that_stream_have_no_path() -> None:
    file = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    file.name, file.package = "streaming.proto", "streaming"
    file.dependency.append(pb.DESCRIPTOR.name)
    del file.message_type[:]
    methods = {method.name: method for method in file.service[0].method}
    methods["Connect"].server_streaming = True
    methods["GetBusy"].client_streaming = True
    made = descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    found = bindings(made.services_by_name["CalendarService"])
    still = {binding.method.name for binding in BINDINGS.values()} - {"Connect", "GetBusy"}
    assert {binding.method.name for binding in found} == still
