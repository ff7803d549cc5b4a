"""JSON and protobuf: requests from path, query and body; responses as JSON.

The proto's own JSON mapping with its own field names (snake_case), and three differences:

- Enums are lower-case words without their prefix (``needs_reauth``).
- In answers 64-bit numbers are numbers, and every field is there: what is absent is ``null``, but for the members of a
  oneof, of which only the one that is set appears.
- A PATCH without ``update_mask`` changes the fields that its body names.

Timestamps are RFC 3339, durations are seconds such as ``"5s"`` or ``"0.5s"``, a field mask is its paths joined by
commas. ``null`` in a request is the same as nothing. A name that is not known, a key or parameter that is given twice, a
value of another type are ``ValidationError``, which names all that are wrong by their proto paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_server.errors import ValidationError, Violation
from calendar_server.sidecar.bindings import (
    DURATION,
    FIELD_MASK,
    INTEGERS,
    TIMESTAMP,
    UPDATE_MASK,
    Binding,
    dotted,
    fields_of,
    is_choice,
)

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]

BODY = "body"
"""What a violation that concerns the body as a whole names."""
VIOLATIONS_MOST = 100
"""After so many nothing more is looked at: a body may hold a hundred thousand wrong names."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII)
_SECONDS = re.compile(r"-?\d{1,12}(\.\d{1,9})?s", re.ASCII)
_INTEGER = re.compile(r"-?\d{1,19}", re.ASCII)
_WRONG = object()


# Answers


def as_json(message: Message) -> dict[str, JsonValue]:
    """The message as a JSON object, see the module."""
    found: dict[str, JsonValue] = {}
    for field in fields_of(message.DESCRIPTOR):
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = [_told(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _told(field, value)
        elif not is_choice(field):
            found[field.name] = None
    return found


def answer_json(binding: Binding, response: Message) -> dict[str, JsonValue]:
    """What a call that succeeded answers."""
    alone = binding.response_body
    return as_json(response if alone is None else cast("Message", getattr(response, alone.name)))


def _told(field: FieldDescriptor, value: Any) -> JsonValue:
    if field.enum_type is not None:
        return word(field.enum_type, value)
    if field.message_type is None:
        return cast("JsonValue", value)
    if isinstance(value, (Timestamp, Duration)):
        return value.ToJsonString()
    if isinstance(value, FieldMask):
        return ",".join(value.paths)
    return as_json(value)


def words(enum: EnumDescriptor) -> dict[str, int]:
    """The enum's numbers by their words, without the unspecified one."""
    prefix = _prefix(enum)
    return {value.name.removeprefix(prefix).lower(): value.number for value in enum.values if value.number}


def word(enum: EnumDescriptor, number: int) -> str:
    """The word for a number. A number newer than this release is shown as ``unknown_<number>``."""
    value = enum.values_by_number.get(number)
    return f"unknown_{number}" if value is None else value.name.removeprefix(_prefix(enum)).lower()


def _prefix(enum: EnumDescriptor) -> str:
    # The zero value has the prefix too, and is always …_UNSPECIFIED.
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")


# Requests


def read_request(binding: Binding, variables: Sequence[str], query: bytes, body: bytes) -> Message:
    """The request that path, query and body say together. ``body`` is not looked at where the binding has none.

    Raises ``ValidationError``.
    """
    reading = _Reading()
    request = GetMessageClass(binding.request)()
    if binding.chosen is not None and binding.chosen.message_type is not None:
        getattr(request, binding.chosen.name).SetInParent()
    if binding.body:
        told = _parsed(body)
        place = "" if binding.body == "*" else binding.body
        reading.fill(getattr(request, place) if place else request, told, place)
        if binding.verb == "PATCH" and UPDATE_MASK in binding.request.fields_by_name and told.get(UPDATE_MASK) is None:
            bound = {path[0].name for path in binding.variables}
            request.update_mask.paths.extend(  # type: ignore[attr-defined]
                name for name, value in told.items() if value is not None and name not in {UPDATE_MASK, *bound}
            )
    reading.parameters(request, binding, query)
    for path, value in zip(binding.variables, variables, strict=True):
        reading.variable(request, path, value)
    reading.check()
    return request


class _Reading:
    """Fills a message from what was told, and collects what is wrong."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note that a field is wrong."""
        self._violations.append(Violation(field, description))
        if len(self._violations) >= VIOLATIONS_MOST:
            self.check()

    def check(self) -> None:
        """Raise ``ValidationError`` with everything that is wrong, if anything is."""
        if self._violations:
            raise ValidationError(self._violations)

    def fill(self, message: Message, told: dict[str, object], place: str) -> None:
        """Set the fields that a JSON object names. ``place`` is the proto path of the message, empty at the root."""
        fields = {field.name: field for field in fields_of(message.DESCRIPTOR)}
        for name, value in told.items():
            at = f"{place}.{name}" if place else name
            if name not in fields:
                self.wrong(at, "is not a field of this call; names are in snake_case")
            elif value is not None:
                self._set(message, fields[name], value, at)

    def parameters(self, request: Message, binding: Binding, query: bytes) -> None:
        """Set the fields that the query names."""
        given: dict[str, list[str]] = {}
        for pair in query.split(b"&") if query else ():
            raw_name, _, raw_value = pair.partition(b"=")
            try:
                name, value = (unquote_to_bytes(raw.replace(b"+", b" ")).decode() for raw in (raw_name, raw_value))
            except UnicodeDecodeError:
                self.wrong("query", "must be UTF-8, percent-encoded")
                return
            if name or value:
                given.setdefault(name, []).append(value)
        for name, values in given.items():
            path = binding.query.get(name)
            if path is None:
                known = ", ".join(binding.query) or "none"
                self.wrong(name, f"is not a query parameter of this call; there are: {known}")
                continue
            field, at = path[-1], dotted(path)
            message = request if len(path) == 1 else getattr(request, path[0].name)
            if field.is_repeated:
                self._set(message, field, [_typed(field, value) for value in values], at)
            elif len(values) > 1:
                self.wrong(at, "must be given once only")
            else:
                self._set(message, field, _typed(field, values[0]), at)

    def variable(self, request: Message, path: tuple[FieldDescriptor, ...], value: str) -> None:
        """Set a field that stands in the path; the body may hold it too, if it is the same."""
        message = request
        for step in path[:-1]:
            message = getattr(message, step.name)
        last = path[-1].name
        if getattr(message, last) not in ("", value):
            self.wrong(dotted(path), "must be the one of the path, or absent from the body")
        setattr(message, last, value)

    def _set(self, message: Message, field: FieldDescriptor, told: object, at: str) -> None:
        if not field.is_repeated:
            value = self._value(field, told, at)
            if value is _WRONG:
                return
            if field.message_type is None:
                setattr(message, field.name, value)
            else:
                getattr(message, field.name).CopyFrom(value)
            return
        if not isinstance(told, list):
            self.wrong(at, "must be a list")
            return
        for position, each in enumerate(told):
            value = self._value(field, each, f"{at}[{position}]")
            if value is not _WRONG:
                getattr(message, field.name).append(value)

    def _value(self, field: FieldDescriptor, told: object, at: str) -> object:
        """The value of one field, or of one entry of a list."""
        if field.enum_type is not None:
            known = words(field.enum_type)
            if isinstance(told, str) and told in known:
                return known[told]
            return self._refuse(at, f"must be one of {', '.join(known)}")
        if field.message_type is not None:
            return self._message(field.message_type, told, at)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return told if isinstance(told, bool) else self._refuse(at, "must be true or false")
        if field.type in INTEGERS:
            return self._integer(told, at, *INTEGERS[field.type])
        if not isinstance(told, str):
            return self._refuse(at, "must be a string")
        try:
            told.encode()
        except UnicodeEncodeError:
            return self._refuse(at, "must be valid Unicode, without lone surrogates")
        return told

    def _message(self, kind_of: Descriptor, told: object, at: str) -> object:
        kind = kind_of.full_name
        if kind == TIMESTAMP:
            return self._parsed(at, told, _MOMENT, Timestamp(), "a time as of RFC 3339, such as 2026-03-15T10:00:00Z")
        if kind == DURATION:
            return self._parsed(at, told, _SECONDS, Duration(), 'a duration in seconds, such as "5s" or "0.5s"')
        if kind == FIELD_MASK:
            if not isinstance(told, str):
                return self._refuse(at, "must be the names of fields, joined by commas")
            return FieldMask(paths=[path for path in told.split(",") if path])
        if not isinstance(told, dict):
            return self._refuse(at, "must be an object")
        message = GetMessageClass(kind_of)()
        self.fill(message, told, at)
        return message

    def _parsed(
        self, at: str, told: object, form: re.Pattern[str], value: Timestamp | Duration, what: str
    ) -> Timestamp | Duration | object:
        if isinstance(told, str) and form.fullmatch(told):
            try:
                value.FromJsonString(told)
            except ValueError:
                # The form is right, but there is no such day, or it is too far away.
                return self._refuse(at, f"must be {what}")
            return value
        return self._refuse(at, f"must be {what}")

    def _integer(self, told: object, at: str, least: int, most: int) -> object:
        number: int | None = None
        if isinstance(told, float) and told.is_integer():
            number = int(told)
        elif isinstance(told, int) and not isinstance(told, bool):
            number = told
        elif isinstance(told, str) and _INTEGER.fullmatch(told):
            number = int(told)
        if number is None or not least <= number <= most:
            return self._refuse(at, f"must be a whole number from {least} to {most}")
        return number

    def _refuse(self, at: str, description: str) -> object:
        self.wrong(at, description)
        return _WRONG


def _typed(field: FieldDescriptor, text: str) -> object:
    """A query parameter's text as JSON would have it. All but booleans are, or may be, strings there."""
    return {"true": True, "false": False}.get(text, text) if field.type == FieldDescriptor.TYPE_BOOL else text


def _parsed(body: bytes) -> dict[str, object]:
    """The JSON object that a body is. Raises ``ValidationError``."""
    try:
        told = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValidationError([Violation(BODY, "must be a JSON object, in UTF-8")]) from None
    if not isinstance(told, dict):
        raise ValidationError([Violation(BODY, "must be a JSON object, in UTF-8")])
    return told


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValidationError([Violation(twice, "must be given once only")])
    return found


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")
