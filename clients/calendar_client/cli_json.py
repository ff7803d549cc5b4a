"""JSON of the messages, as ``calendarctl --json`` prints it.

The proto's JSON mapping with its own field names (snake_case), with three differences that make it pleasant in scripts:
enums are lower-case words without prefix (``needs_reauth``), 64-bit numbers are numbers, and every field is there: what is
absent is ``null``, but for the members of a oneof, of which only the one that is set appears. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import json

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from calendar_client.words import word

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]


def as_json(message: Message) -> dict[str, JsonValue]:
    """The message as a JSON object, see the module."""
    found: dict[str, JsonValue] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = [_value(field, each) for each in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(field, value)
        elif field.containing_oneof is None or field.containing_oneof.name.startswith("_"):
            # The oneof of an `optional` field is the compiler's own; its name begins with an underscore.
            found[field.name] = None
    return found


def _value(field: FieldDescriptor, value: object) -> JsonValue:
    if isinstance(value, Timestamp | Duration):
        return value.ToJsonString()
    if isinstance(value, Message):
        return as_json(value)
    if isinstance(value, int) and field.enum_type is not None:
        return word(field.enum_type, value)
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{field.full_name} has no JSON form.")


def dump(value: JsonValue) -> str:
    """The text that is printed: indented, in ASCII, so that no terminal and no locale can spoil it."""
    return json.dumps(value, indent=2)
