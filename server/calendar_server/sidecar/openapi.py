"""The OpenAPI description of the HTTP API, made from the protos: paths from their options, texts from their comments.

``make gen`` writes it beside the stubs, as comments are not there when the service runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from calendar_server.sidecar.bindings import (
    DURATION,
    FIELD_MASK,
    INTEGERS,
    TIMESTAMP,
    Binding,
    FieldPath,
    bindings,
    is_choice,
)
from calendar_server.sidecar.transcode import JsonValue, word, words

JsonObject = dict[str, JsonValue]

SERVICE = "calendars.v1.CalendarService"
PACKAGE, NAME = "calendars.v1", "openapi.json"
JSON = "application/json"

INTRODUCTION = """\

The same calls as by gRPC, as HTTP with JSON. The texts here are those of the protos: where they name a value in capitals
(`NEEDS_REAUTH`), JSON has it in lower case (`needs_reauth`); where they name a gRPC code, the answer has the status of the
table in docs/http-api.md. Names are in snake_case, times are RFC 3339, durations are seconds such as `"5s"`. Fields and
parameters that are not known are refused, and `null` is the same as nothing. Answers may grow fields and words."""

ERRORS: Mapping[int, str] = {
    400: "Something in the request is wrong; the details name each field.",
    401: "No API key, or not a valid one.",
    404: "There is no such thing in the key's organization.",
    408: "The body did not arrive in time.",
    409: "The account is connected already, or the slot is taken.",
    413: "The body is too large.",
    415: "The body must be JSON, as it is.",
    429: "Too much at once. With `Retry-After`, waiting helps; else ask for less.",
    500: "Unforeseen. The details hold the request id.",
    501: "The operator has not configured this.",
    502: "The provider refused, or could not be reached; the details say which.",
    503: "The service's own database is out of reach, or the service is stopping.",
}
_ALWAYS = (400, 401, 429, 500, 503)
_WITH_BODY = (408, 413, 415)
_FURTHER: Mapping[str, tuple[int, ...]] = {
    "List": (),
    "Disconnect": (404,),
    "GetBooking": (404,),
    "Connect": (404, 409, 501, 502),
    "SyncBooking": (404, 409, 501, 502),
}
"""What else a call may end with; a call that is not here: the last resort below."""
_FURTHER_OTHERWISE = (404, 501, 502)


def document() -> bytes:
    """The description that `make gen` wrote."""
    return (files(PACKAGE) / NAME).read_bytes()


def generate(protos: FileDescriptorSet) -> str:
    """The description of the service in these files, which hold their imports and comments."""
    pool = DescriptorPool()
    for file in protos.file:
        pool.Add(file)
    comments = dict(comment for file in protos.file if file.package == PACKAGE for comment in _comments(file))
    service = pool.FindServiceByName(SERVICE)
    made = _Document(bindings(service), comments).make(comments[service.file.name])
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def _comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """The comment of each element by its full name; that of the file by the file's name."""
    told = {
        tuple(place.path): "\n".join(line.removeprefix(" ") for line in place.leading_comments.strip("\n").split("\n"))
        for place in file.source_code_info.location
        if place.leading_comments
    }
    # The numbers are those of descriptor.proto.
    names: dict[tuple[int, ...], str] = {(12,): file.name}
    for s, service in enumerate(file.service):
        for m, method in enumerate(service.method):
            names[6, s, 2, m] = f"{file.package}.{service.name}.{method.name}"
    for m, message in enumerate(file.message_type):
        names[4, m] = f"{file.package}.{message.name}"
        for f, field in enumerate(message.field):
            names[4, m, 2, f] = f"{file.package}.{message.name}.{field.name}"
    for e, enum in enumerate(file.enum_type):
        names[5, e] = f"{file.package}.{enum.name}"
        for v, value in enumerate(enum.value):
            names[5, e, 2, v] = f"{file.package}.{enum.name}.{value.name}"
    for path, name in names.items():
        yield name, told.get(path, "").strip()


class _Document:
    """Collects the schemas that the operations refer to."""

    def __init__(self, found: tuple[Binding, ...], comments: Mapping[str, str]) -> None:
        self._bindings = found
        self._comments = comments
        self._schemas: dict[str, JsonValue] = {}
        self._in_path = {variable[-1].full_name for binding in found for variable in binding.variables}
        """Fields that bodies need not hold, as the path does."""
        self._answered = set(self._reachable())

    def make(self, introduction: str) -> JsonObject:
        """The whole."""
        paths: dict[str, JsonValue] = {}
        for binding in sorted(self._bindings, key=lambda binding: (binding.path, binding.verb)):
            operations = paths.setdefault(binding.path, {})
            if isinstance(operations, dict):
                operations[binding.verb.lower()] = self._operation(binding)
        reasons = next(enum for enum in self._enums() if enum.name == "ErrorReason")
        self._schemas["Error"] = self._error(reasons)
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "Calendar service",
                "version": "v1",
                "description": introduction + "\n" + INTRODUCTION,
            },
            "servers": [{"url": "/"}],
            "security": [{"api_key": []}],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "api_key": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "An API key, `calkey_…`. It belongs to one organization.",
                    }
                },
                "responses": {f"Error{status}": _error_response(status) for status in ERRORS},
                "schemas": dict(sorted(self._schemas.items())),
            },
        }

    def _operation(self, binding: Binding) -> JsonObject:
        summary, _, rest = self._comments[binding.method.full_name].partition("\n")
        statuses = {*_ALWAYS, *_FURTHER.get(binding.method.name, _FURTHER_OTHERWISE)}
        if binding.body:
            statuses |= set(_WITH_BODY)
        operation: JsonObject = {"operationId": binding.name, "summary": summary}
        if rest.strip():
            operation["description"] = rest.strip()
        parameters: list[JsonValue] = [
            *(self._parameter(path[-1].name, path, "path") for path in binding.variables),
            *(self._parameter(name, path, "query") for name, path in binding.query.items()),
        ]
        if parameters:
            operation["parameters"] = parameters
        if binding.body:
            message = binding.request
            if binding.body != "*":
                message = _message(binding.request.fields_by_name[binding.body])
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": self._taken(message)}}}
        operation["responses"] = {
            str(binding.status): {
                "description": "It went well.",
                "headers": {"x-request-id": _REQUEST_ID},
                "content": {JSON: {"schema": self._given(binding)}},
            },
            **{str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted(statuses)},
        }
        return operation

    def _parameter(self, name: str, path: FieldPath, place: str) -> JsonObject:
        field = path[-1]
        schema = self._scalar_taken(field, in_query=True)
        if place == "path":
            schema["minLength"] = 1
        if field.is_repeated:
            schema = {"type": "array", "items": schema}
        comment = self._comments[field.full_name]
        return {
            "name": name,
            "in": place,
            "required": place == "path" or comment.startswith("Required."),
            "description": comment,
            "schema": schema,
        }

    # What is sent to us

    def _taken(self, message: Descriptor) -> JsonObject:
        name = self._taken_name(message.name, message.full_name)
        if name not in self._schemas:
            self._schemas[name] = {}
            required: list[JsonValue] = []
            properties: JsonObject = {}
            for field in message.fields:
                if field.full_name in self._in_path:
                    continue
                comment = self._comments[field.full_name]
                needed = comment.startswith("Required.")
                if needed:
                    required.append(field.name)
                properties[field.name] = {**self._field_taken(field, needed), "description": comment}
            schema: JsonObject = {
                "type": "object",
                "description": self._comments[message.full_name],
                "properties": properties,
                "additionalProperties": False,
            }
            if required:
                schema["required"] = required
            self._schemas[name] = schema
        return {"$ref": f"#/components/schemas/{name}"}

    def _field_taken(self, field: FieldDescriptor, needed: bool) -> JsonObject:
        if field.message_type is not None and _is_object(field):
            schema = self._taken(_message(field))
        else:
            schema = self._scalar_taken(field, in_query=False)
        if field.is_repeated:
            schema = {"type": "array", "items": schema}
        return schema if needed else _or_null(schema)

    def _scalar_taken(self, field: FieldDescriptor, *, in_query: bool) -> JsonObject:
        if field.enum_type is not None:
            name = self._taken_name(field.enum_type.name, field.enum_type.full_name)
            self._schemas[name] = self._enum(field.enum_type, unspecified=False)
            return {"$ref": f"#/components/schemas/{name}"}
        if field.type in INTEGERS and not in_query:
            return {"type": ["integer", "string"], "format": _format(field), "pattern": r"^-?\d{1,19}$"}
        schema = self._scalar(field)
        if "Input only." in self._comments.get(field.full_name, ""):
            schema |= {"format": "password", "writeOnly": True}
        return schema

    def _taken_name(self, name: str, full_name: str) -> str:
        return f"{name}Input" if full_name in self._answered else name

    # What we answer

    def _given(self, binding: Binding) -> JsonObject:
        response = binding.method.output_type
        if binding.response_body is not None:
            return self._answer(_message(binding.response_body))
        if binding.chosen is None:
            return self._answer(response)
        # Of the members of the response's oneof the one without a message is what remains to be answered here.
        field = next(field for field in response.fields if field.message_type is None)
        return {
            "type": "object",
            "properties": {field.name: {**self._scalar(field), "description": self._comments[field.full_name]}},
            "required": [field.name],
        }

    def _answer(self, message: Descriptor) -> JsonObject:
        if message.name not in self._schemas:
            self._schemas[message.name] = {}
            properties: JsonObject = {}
            for field in message.fields:
                comment = self._comments[field.full_name]
                schema = self._field_answered(field)
                if field.has_presence and ("Absent" in comment or "Required when" in comment):
                    schema = _or_null(schema)
                properties[field.name] = {**schema, "description": comment}
            self._schemas[message.name] = {
                "type": "object",
                "description": self._comments[message.full_name],
                "properties": properties,
                "required": [field.name for field in message.fields if not is_choice(field)],
            }
        return {"$ref": f"#/components/schemas/{message.name}"}

    def _field_answered(self, field: FieldDescriptor) -> JsonObject:
        if field.enum_type is not None:
            self._schemas[field.enum_type.name] = self._enum(field.enum_type, unspecified=True)
            schema: JsonObject = {"$ref": f"#/components/schemas/{field.enum_type.name}"}
        elif field.message_type is not None and _is_object(field):
            schema = self._answer(_message(field))
        else:
            schema = self._scalar(field)
        return {"type": "array", "items": schema} if field.is_repeated else schema

    def _scalar(self, field: FieldDescriptor) -> JsonObject:
        if field.message_type is not None:
            kind = field.message_type.full_name
            if kind == TIMESTAMP:
                return {"type": "string", "format": "date-time"}
            if kind == DURATION:
                return {"type": "string", "pattern": r"^-?\d{1,12}(\.\d{1,9})?s$", "examples": ["5s"]}
            return {"type": "string", "examples": ["calendar_id,busy_calendar_ids"]}
        if field.type == FieldDescriptor.TYPE_BOOL:
            return {"type": "boolean"}
        if field.type in INTEGERS:
            return {"type": "integer", "format": _format(field)}
        return {"type": "string"}

    def _enum(self, enum: EnumDescriptor, *, unspecified: bool) -> JsonObject:
        known: list[JsonValue] = [*words(enum)]
        if unspecified:
            known.append(word(enum, 0))
        comments = {word(enum, value.number): self._comments[f"{enum.full_name}.{value.name}"] for value in enum.values}
        lines = [f"- `{each}`: {' '.join(comments[str(each)].split())}" for each in known]
        description = "\n".join([self._comments[enum.full_name], "", *lines])
        return {"type": "string", "enum": known, "description": description}

    def _error(self, reasons: EnumDescriptor) -> JsonObject:
        codes: list[JsonValue] = [*CODES]
        violation: JsonObject = {
            "type": "object",
            "description": "A wrong field, parameter or header, and what would be right.",
            "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            "required": ["field", "description"],
            "additionalProperties": False,
        }
        self._schemas["ErrorReason"] = self._enum(reasons, unspecified=True)
        detail: JsonObject = {
            "type": "object",
            "description": "What went wrong.",
            "properties": {
                "reason": {"$ref": "#/components/schemas/ErrorReason"},
                "metadata": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "What the reason's description names, by those keys.",
                },
                "retry_at": {
                    "type": ["string", "null"],
                    "format": "date-time",
                    "description": "When trying again makes sense. Null when waiting does not help.",
                },
                "calendars": {
                    "type": "array",
                    "items": self._answer(self._failed_calendar()),
                    "description": "Busy times that could not be read: every calendar that is the cause.",
                },
            },
            "required": ["reason", "metadata", "retry_at"],
        }
        return {
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string", "enum": codes},
                        "message": {"type": "string", "description": "One sentence for a person. It may change."},
                        "details": {"type": "array", "items": {"anyOf": [violation, detail]}},
                    },
                    "required": ["code", "message", "details"],
                }
            },
            "required": ["error"],
        }

    # What there is

    def _failed_calendar(self) -> Descriptor:
        return next(message for message in self._messages() if message.name == "CalendarBusy")

    def _messages(self) -> Iterator[Descriptor]:
        for binding in self._bindings:
            yield from _below(binding.method.output_type)

    def _enums(self) -> Iterator[EnumDescriptor]:
        for message in self._messages():
            yield from (field.enum_type for field in message.fields if field.enum_type is not None)

    def _reachable(self) -> Iterator[str]:
        yield from (message.full_name for message in self._messages())
        yield from (enum.full_name for enum in self._enums())


CODES = (
    "validation_error",
    "unauthorized",
    "not_found",
    "method_not_allowed",
    "timeout",
    "conflict",
    "slot_taken",
    "limit_exceeded",
    "unsupported_media_type",
    "internal",
    "not_configured",
    "provider_error",
    "unavailable",
)
"""The words of ``error.code``."""

_REQUEST_ID: JsonObject = {"description": "Names the call in the service's log.", "schema": {"type": "string"}}


def _error_response(status: int) -> JsonObject:
    headers: JsonObject = {"x-request-id": _REQUEST_ID}
    if status in (429, 502, 503):
        headers["retry-after"] = {"description": "Seconds, where waiting helps.", "schema": {"type": "integer"}}
    return {
        "description": ERRORS[status],
        "headers": headers,
        "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def _below(message: Descriptor) -> Iterator[Descriptor]:
    """A message and all inside it."""
    found = {message.full_name: message}
    waiting = [message]
    while waiting:
        for field in waiting.pop().fields:
            if field.message_type is not None and _is_object(field) and field.message_type.full_name not in found:
                inside = _message(field)
                found[inside.full_name] = inside
                waiting.append(inside)
    return iter(found.values())


def _message(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise ValueError(f"{field.full_name} is no message")
    return field.message_type


def _is_object(field: FieldDescriptor) -> bool:
    return _message(field).full_name not in (TIMESTAMP, DURATION, FIELD_MASK)


def _format(field: FieldDescriptor) -> str:
    return "int32" if field.type == FieldDescriptor.TYPE_INT32 else "int64"


def _or_null(schema: JsonObject) -> JsonObject:
    kind = schema.get("type")
    if isinstance(kind, str):
        return {**schema, "type": [kind, "null"]}
    if isinstance(kind, list):
        return {**schema, "type": [*kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}
