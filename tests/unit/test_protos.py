"""The contract's protos: every name that callers are written against, every element commented, the house's rules."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodOptions,
    ServiceDescriptorProto,
)

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"

RPCS = {
    "Connect": (MethodOptions.IDEMPOTENCY_UNKNOWN, "ConnectRequest", "ConnectResponse"),
    "List": (MethodOptions.NO_SIDE_EFFECTS, "ListRequest", "ListResponse"),
    "Disconnect": (MethodOptions.IDEMPOTENT, "DisconnectRequest", "DisconnectResponse"),
    "GetBusy": (MethodOptions.NO_SIDE_EFFECTS, "GetBusyRequest", "GetBusyResponse"),
    "WatchBusy": (MethodOptions.NO_SIDE_EFFECTS, "GetBusyRequest", "GetBusyResponse"),
    "SyncBooking": (MethodOptions.IDEMPOTENT, "SyncBookingRequest", "SyncBookingResponse"),
    "ListCalendars": (MethodOptions.NO_SIDE_EFFECTS, "ListCalendarsRequest", "ListCalendarsResponse"),
    "UpdateConnection": (MethodOptions.IDEMPOTENT, "UpdateConnectionRequest", "Connection"),
    "GetBooking": (MethodOptions.NO_SIDE_EFFECTS, "GetBookingRequest", "GetBookingResponse"),
}

FIELDS = {
    "GoogleAccount": "redirect_uri",
    "MicrosoftAccount": "redirect_uri tenant",
    "CaldavAccount": "preset username password server_url",
    "ConnectRequest": "google microsoft caldav owner connection_id client_state",
    "ConnectResponse": "authorization_url connection",
    "Connection": "id provider calendar_id account_email connected_at status last_sync_at sync_status sync_error owner "
    "busy_calendar_ids",
    "ListRequest": "page_size page_token ids owner provider status",
    "ListResponse": "data has_more next_page_token",
    "DisconnectRequest": "id",
    "DisconnectResponse": "id deleted",
    "ListCalendarsRequest": "connection_id",
    "ListCalendarsResponse": "calendars",
    "Calendar": "id name time_zone primary writable blocks color",
    "UpdateConnectionRequest": "id calendar_id busy_calendar_ids update_mask",
    "GetBusyRequest": "connection_ids owner start_time end_time max_staleness exclude_booking_ids ignore_tentative "
    "allow_partial view",
    "GetBusyResponse": "busy complete calendars",
    "BusyInterval": "start_time end_time",
    "CalendarBusy": "connection_id calendar_id state as_of problem busy events",
    "ExplainedEvent": "start_time end_time blocks reason booking_id",
    "BusyFailure": "calendars",
    "SyncBookingRequest": "booking connection_ids owner require_free wait",
    "SyncBookingResponse": "booking events",
    "Booking": "id revision status title description location start_time end_time time_zone attendees url",
    "Attendee": "email name",
    "BookingEvent": "connection_id calendar_id event_id state synced_revision web_link problem next_attempt_at "
    "attempts",
    "GetBookingRequest": "id",
    "GetBookingResponse": "booking events",
    "Problem": "reason message retry_at",
}

OPTIONAL = {"Connection.last_sync_at", "Connection.sync_error", "ListRequest.owner", "Problem.retry_at"}

ONEOFS = {
    "ConnectRequest": {"account": ["google", "microsoft", "caldav"]},
    "ConnectResponse": {"result": ["authorization_url", "connection"]},
}

ENUMS = {
    "Provider": ("PROVIDER_", "GOOGLE MICROSOFT CALDAV"),
    "CaldavPreset": ("CALDAV_PRESET_", "APPLE FASTMAIL NEXTCLOUD CUSTOM"),
    "ConnectionStatus": ("CONNECTION_STATUS_", "ACTIVE NEEDS_REAUTH"),
    "SyncStatus": ("SYNC_STATUS_", "CONNECTED EXPIRED ERROR"),
    "BusyView": ("BUSY_VIEW_", "MERGED PER_CALENDAR EXPLAINED"),
    "BusyState": ("BUSY_STATE_", "FRESH STALE UNKNOWN"),
    "BlockReason": (
        "BLOCK_REASON_",
        "BUSY TENTATIVE OUT_OF_OFFICE FOCUS_TIME TRAVEL BOOKING UNREADABLE FREE CANCELLED DECLINED WORKING_ELSEWHERE "
        "BIRTHDAY ZERO_LENGTH TENTATIVE_IGNORED BOOKING_EXCLUDED",
    ),
    "BookingStatus": ("BOOKING_STATUS_", "CONFIRMED CANCELLED"),
    "BookingEventState": ("BOOKING_EVENT_STATE_", "PENDING SYNCED FAILED REMOVED GONE DETACHED"),
    "BookingEventDrift": ("BOOKING_EVENT_DRIFT_", "NONE MOVED EDITED DELETED"),
    "ErrorReason": (
        "ERROR_REASON_",
        "VALIDATION_ERROR UNAUTHORIZED NOT_FOUND CONFLICT PROVIDER_REFUSED NEEDS_REAUTH ACCOUNT_MISMATCH CALENDAR_GONE "
        "CALENDAR_READ_ONLY ADMIN_CONSENT_REQUIRED SCOPE_MISSING PROVIDER_UNAVAILABLE PROVIDER_THROTTLED "
        "EVENT_UNREADABLE NOT_CONFIGURED SLOT_TAKEN LIMIT_EXCEEDED SERVICE_STOPPING",
    ),
}


@pytest.fixture(scope="module")
def protos(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    out = tmp_path_factory.mktemp("protos") / "all.binpb"
    names = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--proto_path={Path(annotations_pb2.__file__).parents[2]}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            *names,
        ],
        check=True,
    )
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


@pytest.fixture(scope="module")
def service(protos: list[FileDescriptorProto]) -> ServiceDescriptorProto:
    services = [service for file in protos for service in file.service]
    assert [service.name for service in services] == ["CalendarService"]
    return services[0]


@pytest.fixture(scope="module")
def messages(protos: list[FileDescriptorProto]) -> dict[str, DescriptorProto]:
    return {message.name: message for file in protos for message in file.message_type}


@pytest.fixture(scope="module")
def enums(protos: list[FileDescriptorProto]) -> dict[str, EnumDescriptorProto]:
    return {enum.name: enum for file in protos for enum in file.enum_type}


def elements(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Every element that needs a comment: its path in the file (descriptor.proto, SourceCodeInfo) and its name."""
    yield (12,), f"the file {file.name}"
    for s, service in enumerate(file.service):
        yield (6, s), service.name
        for m, method in enumerate(service.method):
            yield (6, s, 2, m), f"{service.name}.{method.name}"
    for m, message in enumerate(file.message_type):
        yield (4, m), message.name
        for f, field in enumerate(message.field):
            yield (4, m, 2, f), f"{message.name}.{field.name}"
        real = {
            field.oneof_index for field in message.field if field.HasField("oneof_index") and not field.proto3_optional
        }
        for o in sorted(real):
            yield (4, m, 8, o), f"{message.name}.{message.oneof_decl[o].name}"
        assert not message.nested_type, "nested messages are not looked at"
        assert not message.enum_type, "nested enums are not looked at"
    for e, enum in enumerate(file.enum_type):
        yield (5, e), enum.name
        for v, value in enumerate(enum.value):
            yield (5, e, 2, v), value.name


def test_every_element_is_commented(protos: list[FileDescriptorProto]) -> None:
    missing = []
    for file in protos:
        commented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
        missing += [name for path, name in elements(file) if path not in commented]
    assert missing == []


def test_the_package_is_calendars_v1(protos: list[FileDescriptorProto]) -> None:
    assert {file.package for file in protos} == {"calendars.v1"}


def test_the_service_has_exactly_the_rpcs_of_the_contract(service: ServiceDescriptorProto) -> None:
    assert [method.name for method in service.method] == list(RPCS)


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_says_what_a_repeat_does(service: ServiceDescriptorProto, name: str) -> None:
    method = next(method for method in service.method if method.name == name)
    assert method.options.idempotency_level == RPCS[name][0]


@pytest.mark.parametrize("name", RPCS)
def test_an_rpc_has_its_request_and_response(service: ServiceDescriptorProto, name: str) -> None:
    method = next(method for method in service.method if method.name == name)
    _, request, response = RPCS[name]
    assert (method.input_type, method.output_type) == (f".calendars.v1.{request}", f".calendars.v1.{response}")


def test_only_watching_streams_and_only_answers(service: ServiceDescriptorProto) -> None:
    streams = {m.name: (m.client_streaming, m.server_streaming) for m in service.method}
    assert {name for name, kinds in streams.items() if kinds != (False, False)} == {"WatchBusy"}
    assert streams["WatchBusy"] == (False, True)


@pytest.mark.parametrize("name", FIELDS)
def test_a_message_has_the_fields_of_the_contract(messages: dict[str, DescriptorProto], name: str) -> None:
    assert set(FIELDS[name].split()) <= {field.name for field in messages[name].field}


def test_absent_and_empty_differ_only_where_the_contract_says_so(messages: dict[str, DescriptorProto]) -> None:
    optional = {f"{m.name}.{field.name}" for m in messages.values() for field in m.field if field.proto3_optional}
    assert optional == OPTIONAL


@pytest.mark.parametrize("name", ONEOFS)
def test_a_choice_is_a_oneof(messages: dict[str, DescriptorProto], name: str) -> None:
    message = messages[name]
    found: dict[str, list[str]] = {}
    for field in message.field:
        if field.HasField("oneof_index") and not field.proto3_optional:
            found.setdefault(message.oneof_decl[field.oneof_index].name, []).append(field.name)
    assert found == ONEOFS[name]


def test_a_page_is_numbered_as_every_page_is(messages: dict[str, DescriptorProto]) -> None:
    numbers = {field.name: field.number for field in messages["ListResponse"].field}
    assert numbers == {"data": 1, "has_more": 2, "next_page_token": 3}


def test_no_field_is_unsigned(messages: dict[str, DescriptorProto]) -> None:
    kind = FieldDescriptorProto
    unsigned = {kind.TYPE_UINT32, kind.TYPE_UINT64, kind.TYPE_FIXED32, kind.TYPE_FIXED64}
    assert [f"{m.name}.{f.name}" for m in messages.values() for f in m.field if f.type in unsigned] == []


def test_a_revision_has_64_bits(messages: dict[str, DescriptorProto]) -> None:
    revision = next(field for field in messages["Booking"].field if field.name == "revision")
    assert revision.type == FieldDescriptorProto.TYPE_INT64


def test_there_are_no_enums_besides_those_of_the_contract(enums: dict[str, EnumDescriptorProto]) -> None:
    assert set(enums) == set(ENUMS)


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_has_the_values_of_the_contract(enums: dict[str, EnumDescriptorProto], name: str) -> None:
    prefix, values = ENUMS[name]
    assert {prefix + value for value in values.split()} <= {value.name for value in enums[name].value}


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_begins_unspecified_at_zero(enums: dict[str, EnumDescriptorProto], name: str) -> None:
    first = enums[name].value[0]
    assert (first.name, first.number) == (f"{ENUMS[name][0]}UNSPECIFIED", 0)


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_prefixes_its_values(enums: dict[str, EnumDescriptorProto], name: str) -> None:
    assert [value.name for value in enums[name].value if not value.name.startswith(ENUMS[name][0])] == []


@pytest.mark.parametrize("name", ENUMS)
def test_an_enum_says_that_it_may_grow(protos: list[FileDescriptorProto], name: str) -> None:
    comments = [
        place.leading_comments
        for file in protos
        for e, enum in enumerate(file.enum_type)
        for place in file.source_code_info.location
        if enum.name == name and tuple(place.path) == (5, e)
    ]
    assert ["The enum may grow." in comment for comment in comments] == [True]


def test_the_stubs_are_what_the_protos_say() -> None:
    ran = subprocess.run(
        [sys.executable, str(PROTOS / "generate.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_stubs_that_differ_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("generate", PROTOS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    generate.generate(tmp_path)
    (tmp_path / "calendars/v1/errors_pb2.py").write_text("stale = True\n", encoding="utf-8")
    assert generate.check(tmp_path) == 1
    told = capsys.readouterr().err
    assert "make gen" in told
    assert "calendars/v1/errors_pb2.py: differs" in told
    assert "connection_pb2" not in told


@pytest.mark.parametrize("words", ["lint", "format --diff --exit-code", "build -o /dev/null"])
def test_buf_has_nothing_to_say(words: str) -> None:
    command = [sys.executable, str(PROTOS / "workspace.py"), *words.split()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
