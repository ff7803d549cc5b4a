"""The OpenAPI description: whole, commented, and true to what the protos and the door say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from calendar_server.sidecar.bindings import bindings
from calendar_server.sidecar.openapi import CODES, ERRORS, document
from calendar_server.sidecar.transcode import words
from calendars.v1 import calendar_service_pb2 as pb
from calendars.v1 import connection_pb2

DOCUMENT: dict[str, Any] = json.loads(document())
SCHEMAS = DOCUMENT["components"]["schemas"]
BINDINGS = bindings(pb.DESCRIPTOR.services_by_name["CalendarService"])

NEVER_ABSENT = {
    "BusyInterval.end_time",
    "BusyInterval.start_time",
    "Connection.connected_at",
    "GetBookingResponse.booking",
    "SyncBookingResponse.booking",
}
"""Fields of answers that could be absent in protobuf, and that the service always sets."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            yield verb.upper(), path, operation


def may_be_null(schema: dict[str, Any]) -> bool:
    return "null" in schema.get("type", []) or {"type": "null"} in schema.get("anyOf", [])


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for inner in node.values():
            yield from references(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from references(inner)


def test_it_has_every_path_and_no_other() -> None:
    told = {(verb, path, operation["operationId"]) for verb, path, operation in operations()}
    assert told == {(binding.verb, binding.path, binding.name) for binding in BINDINGS}


def test_every_reference_leads_somewhere_and_every_schema_is_used() -> None:
    used = {*references(DOCUMENT)}
    there = {
        f"#/components/{kind}/{name}" for kind in ("schemas", "responses") for name in DOCUMENT["components"][kind]
    }
    assert used == there


def test_everything_is_described() -> None:
    missing = [f"{verb} {path}" for verb, path, operation in operations() if not operation["summary"]]
    missing += [name for name, schema in SCHEMAS.items() if name != "Error" and not schema["description"].strip()]
    missing += [
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        if name != "Error"
        for field, told in schema.get("properties", {}).items()
        if not told["description"].strip()
    ]
    missing += [
        f"{verb} {path} {parameter['name']}"
        for verb, path, operation in operations()
        for parameter in operation.get("parameters", [])
        if not parameter["description"].strip()
    ]
    assert missing == []


def test_what_may_be_absent_in_an_answer_may_be_null() -> None:
    messages = {}
    waiting = [binding.method.output_type for binding in BINDINGS]
    while waiting:
        message = waiting.pop()
        if message.name in SCHEMAS and message.name not in messages:
            messages[message.name] = message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    optional = {
        f"{name}.{field.name}": may_be_null(SCHEMAS[name]["properties"][field.name])
        for name, message in messages.items()
        for field in message.fields
        if field.has_presence
    }
    assert {field for field, null in optional.items() if not null} == NEVER_ABSENT
    always = {
        f"{name}.{field.name}": may_be_null(SCHEMAS[name]["properties"][field.name])
        for name, message in messages.items()
        for field in message.fields
        if not field.has_presence
    }
    assert not any(always.values())


def test_an_answer_has_all_its_fields_and_a_request_no_others() -> None:
    assert SCHEMAS["Connection"]["required"] == list(SCHEMAS["Connection"]["properties"])
    assert SCHEMAS["CaldavAccount"]["required"] == ["preset", "username", "password"]
    taken = {name for name in SCHEMAS if name.endswith(("Input", "Request", "Account"))}
    assert {name for name in taken if "properties" in SCHEMAS[name]} == {
        name for name, schema in SCHEMAS.items() if schema.get("additionalProperties") is False
    }


def test_a_password_is_taken_and_never_answered() -> None:
    assert SCHEMAS["CaldavAccount"]["properties"]["password"]["writeOnly"] is True
    assert "password" not in {field for name in ("Connection", "Calendar") for field in SCHEMAS[name]["properties"]}


def test_the_id_in_the_path_is_not_wanted_in_the_body_again() -> None:
    assert "id" not in SCHEMAS["BookingInput"]["properties"]
    assert "id" not in SCHEMAS["UpdateConnectionRequest"]["properties"]
    assert "id" in SCHEMAS["Booking"]["properties"]


def test_words_are_those_of_the_door() -> None:
    assert SCHEMAS["CaldavPreset"]["enum"] == list(words(connection_pb2.CaldavPreset.DESCRIPTOR))
    assert "- `apple`: Apple iCloud. Needs an app-specific password." in SCHEMAS["CaldavPreset"]["description"]
    assert SCHEMAS["Error"]["properties"]["error"]["properties"]["code"]["enum"] == list(CODES)


def test_every_status_of_the_door_is_told() -> None:
    used = {status for _, _, operation in operations() for status in operation["responses"]}
    assert used == {str(status) for status in (200, 201, *ERRORS)}
    for verb, path, operation in operations():
        assert {"400", "401", "429", "500", "503"} <= set(operation["responses"])
        assert ("requestBody" in operation) == ("415" in operation["responses"]), f"{verb} {path}"


def test_every_call_needs_the_key() -> None:
    assert DOCUMENT["security"] == [{"api_key": []}]
    assert not [path for _, path, operation in operations() if "security" in operation]


def test_it_says_nothing_of_machines() -> None:
    assert DOCUMENT["servers"] == [{"url": "/"}]
    assert not re.search(r"/tmp/|/home/|localhost", json.dumps(DOCUMENT))
