"""JSON of the messages, as ``calendarctl --json`` prints it.

The proto's JSON mapping with its own field names (snake_case), with three differences that make it pleasant in scripts:
enums are lower-case words without prefix (``needs_reauth``), 64-bit numbers are numbers, and every field is there: what is
absent is ``null``, but for the members of a oneof, of which only the one that is set appears. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import json
from typing import cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_client.words import word

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def as_json(message: Message) -> dict[str, JsonValue]:
    """The message as a JSON object, see the module."""
    found: dict[str, JsonValue] = {}
    for field in message.DESCRIPTOR.fields:
        enum = cast("EnumDescriptor | None", field.enum_type)
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = [_value(enum, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(enum, value)
        elif field.containing_oneof is None or field.containing_oneof.name.startswith("_"):
            # The oneof of an `optional` field is the compiler's own; its name begins with an underscore.
            found[field.name] = None
    return found


def _value(enum: EnumDescriptor | None, value: object) -> JsonValue:
    if isinstance(value, Timestamp | Duration):
        return value.ToJsonString()
    if isinstance(value, Message):
        return as_json(value)
    if isinstance(value, int) and enum is not None:
        return word(enum, value)
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form.")


def dump(value: JsonValue) -> str:
    """The text that is printed: indented, in ASCII, so that no terminal and no locale can spoil it."""
    return json.dumps(value, indent=2)
