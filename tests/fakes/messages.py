"""Messages of the contract at their limits, made from the descriptors: new fields are fuzzed without anybody's help."""

from __future__ import annotations

import time
from collections.abc import Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

# What the contract has limits for (256, 512, 1 KiB, 8 KiB), one below, at and above each.
LENGTHS = (255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 8191, 8192, 8193)
COUNTS = (0, 1, 1, 2, 3, 99, 100, 101, 199, 200, 201)
ODD = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "a\r\nb",
    "\u2028",
    "\ufeff",
    "\u202ex",
    "ß" * 128,
    "😀" * 64,
    "😀" * 65,
    "../../etc/passwd",
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "{{7*7}}",
    "%00",
    "primary",
    "/work/",
    "/home/",
    "Europe/Vienna",
    "Europe/Nowhere",
    "UTC",
    "anna@example.org",
    "@",
    "https://example.org/",
    "http://127.0.0.1/",
    "http://[::1",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "common",
    "right",
)
INT32 = (0, 1, 2, 3, 4, 99, -1, 2**31 - 1, -(2**31))
INT64 = (0, 1, 2, 3, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
NANOS = (0, 1, -1, 500_000_000, 999_999_999, 1_000_000_000, 2**31 - 1, -(2**31))
TIMES = (0, -62135596800, -62135596801, 253402300799, 253402300800, 2**63 - 1, -(2**63))
DAY = 86_400


def messages(kind: Descriptor, ids: Sequence[str], *, depth: int = 0) -> st.SearchStrategy[Message]:
    """Messages of this kind. ``ids`` are values that mean something to the service."""
    if kind.full_name == "google.protobuf.Timestamp":
        return st.builds(GetMessageClass(kind), seconds=_seconds(), nanos=_nanos())
    if kind.full_name == "google.protobuf.Duration":
        spans = st.sampled_from((0, 0, 1, 5, 30, 31, 60, DAY, DAY + 1, -1, 315576000001, 2**63 - 1, -(2**63)))
        return st.builds(GetMessageClass(kind), seconds=spans, nanos=_nanos())
    if kind.full_name == "google.protobuf.FieldMask":
        paths = st.sampled_from(("calendar_id", "busy_calendar_ids", "*", "", "id", "calendar_id.x", "nothing"))
        return st.builds(GetMessageClass(kind), paths=st.lists(paths | _texts(ids), max_size=3))

    @st.composite
    def made(draw: st.DrawFn) -> Message:
        message = GetMessageClass(kind)()
        for field in kind.fields:
            if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
                continue
            if draw(st.integers(0, 3)):
                _fill(draw, message, field, ids, depth)
        for oneof in kind.oneofs:
            if len(oneof.fields) > 1 and draw(st.integers(0, 5)):
                _fill(draw, message, draw(st.sampled_from(list(oneof.fields))), ids, depth)
        return message

    return made()


def near(examples: Sequence[Message], ids: Sequence[str]) -> st.SearchStrategy[Message]:
    """One of these with a few of its fields, at any depth, set to something else, or to nothing."""

    @st.composite
    def made(draw: st.DrawFn) -> Message:
        message = type(examples[0])()
        message.CopyFrom(draw(st.sampled_from(examples)))
        for _ in range(draw(st.integers(0, 3))):
            part = message
            while True:
                field = draw(st.sampled_from(list(part.DESCRIPTOR.fields)))
                within = field.message_type is not None and not field.is_repeated and part.HasField(field.name)
                if not within or draw(st.booleans()):
                    break
                part = getattr(part, field.name)
            part.ClearField(field.name)
            if draw(st.integers(0, 4)):
                _fill(draw, part, field, ids, 0)
        return message

    return made()


def _fill(draw: st.DrawFn, message: Message, field: FieldDescriptor, ids: Sequence[str], depth: int) -> None:
    values = _values(field, ids, depth)
    if field.is_repeated:
        count = draw(st.sampled_from(COUNTS))
        several = [draw(values) for _ in range(min(count, 3))]
        if sum(_size(value) for value in several) > 1000:
            # Long texts many times over would only be slow to make.
            count = min(count, 3)
        for number in range(count):
            value = several[number % len(several)]
            getattr(message, field.name).append(value)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(draw(values))
    else:
        setattr(message, field.name, draw(values))


def _size(value: object) -> int:
    return len(value) if isinstance(value, str) else getattr(value, "ByteSize", lambda: 0)()


def _values(field: FieldDescriptor, ids: Sequence[str], depth: int) -> st.SearchStrategy[object]:
    if field.message_type is not None:
        return messages(field.message_type, ids, depth=depth + 1)
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, *known, len(known), -1, 2**31 - 1, -(2**31)])
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_SINT32):
        return st.sampled_from(INT32)
    if field.type == FieldDescriptor.TYPE_INT64:
        return st.sampled_from(INT64) | st.integers(1, 50)
    if field.type == FieldDescriptor.TYPE_STRING:
        return _texts(ids)
    raise NotImplementedError(f"{field.full_name}: say here how a field of this type is fuzzed")


def _texts(ids: Sequence[str]) -> st.SearchStrategy[str]:
    long = st.builds(
        lambda letter, length: (letter * length)[:length], st.sampled_from("aé€/"), st.sampled_from(LENGTHS)
    )
    return st.sampled_from([*ids, *ids, *ids, *ODD]) | long | st.text(st.characters(codec="utf-8"), max_size=20)


def _seconds() -> st.SearchStrategy[int]:
    now = int(time.time())
    near = st.integers(-3, 3).map(lambda hours: now + 3600 * hours)
    edges = [now + DAY * days for days in (-731, -730, -1, 366, 367, 1095, 1096)]
    return near | near | near | st.sampled_from([*edges, *TIMES])


def _nanos() -> st.SearchStrategy[int]:
    return st.just(0) | st.just(0) | st.sampled_from(NANOS)


# Bytes on the wire that no library would send

TAILS = (
    b"\x08",  # a varint that never comes
    b"\x0a\xff\xff\xff\xff\x0f",  # 4 GiB of text
    b"\x0a\x05ab",  # less text than announced
    b"\x0a\x02\xff\xfe",  # no UTF-8
    b"\x08" + b"\xff" * 9 + b"\x01",  # the largest varint
    b"\x08" + b"\xff" * 11,  # a varint that is too long
    b"\x0b\x0c",  # a group, empty
    b"\x0b" * 200,  # groups in groups
    b"\x0c",  # the end of a group that never began
    b"\x0b\x14",  # the end of another group
    b"\x0d\x00\x00\x00\x00",  # 32 bits where a text is
    b"\x09\x00\x00\x00\x00\x00\x00\x00\x00",  # 64 bits where a text is
    b"\x0e",  # a wire type that there is not
    b"\x0f",
    b"\x00\x01",  # field number 0
    b"\xfa\xff\xff\xff\x0f\x03abc",  # the highest field number, unknown
    b"\xc2\x3e\x03abc" * 300,  # many unknown fields
    b"\x12\x02\x12\x02" * 150,
)


class Raw(bytes):
    """Bytes that are told in short."""

    def __repr__(self) -> str:
        return f"bytes.fromhex({self[:400].hex()!r}){'' if len(self) <= 400 else f' and so on: {len(self)} bytes'}"


def garbage(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes that are hardly a message: cut, flipped, with something appended, or anything at all."""

    def cut(raw: bytes, at: int) -> bytes:
        return raw[: at % (len(raw) + 1)]

    def flip(raw: bytes, at: int, by: int) -> bytes:
        if not raw:
            return bytes([by])
        at %= len(raw)
        return raw[:at] + bytes([raw[at] ^ by]) + raw[at + 1 :]

    numbers = st.integers(0, 5000)
    made = (
        st.builds(cut, valid, numbers)
        | st.builds(flip, valid, numbers, st.integers(1, 255))
        | st.builds(lambda raw, tail: raw + tail, valid, st.sampled_from(TAILS))
        | st.builds(lambda raw, tail: tail + raw, valid, st.sampled_from(TAILS))
        | st.binary(max_size=300)
    )
    return made.map(Raw)
