"""Which HTTP request means which call: read from the ``google.api.http`` options of the protos, the only source.

A *binding* is one verb and path of a method. What its options do not say is derived:

- Where the path or the body names a member of the request's oneof (``/v1/calendars/google/connect``), that member is
  *chosen*: it is set, the others cannot be, and its fields go by their own names (``redirect_uri``).
- Fields that neither path nor body holds are query parameters; with the body ``*`` there are none.
- A POST that has effects makes something: 201. All else that succeeds is 200.

Methods that stream, and methods without the option, have no bindings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from urllib.parse import unquote_to_bytes

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

FieldPath = tuple[FieldDescriptor, ...]
"""Fields from the request's root down to one."""

TIMESTAMP, DURATION, FIELD_MASK = (f"google.protobuf.{name}" for name in ("Timestamp", "Duration", "FieldMask"))
WELL_KNOWN = (TIMESTAMP, DURATION, FIELD_MASK)
"""Messages whose JSON is a string."""

INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
_KINDS = (
    *INTEGERS,
    FieldDescriptor.TYPE_BOOL,
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_ENUM,
    FieldDescriptor.TYPE_MESSAGE,
)
UPDATE_MASK = "update_mask"

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)\}")
_MASK_ENTRY = re.compile(r"(update_mask)\.paths\[\d+\]")


@dataclass(frozen=True, slots=True)
class Binding:
    """One verb and path of a method."""

    method: MethodDescriptor
    verb: str
    segments: tuple[str | FieldPath, ...]
    """The path between its slashes: words, and the fields that stand there."""
    body: str
    """``*``, the name of the request's field that the body is, or empty: no body."""
    response_body: FieldDescriptor | None
    """The field of the response that is answered alone."""
    chosen: FieldDescriptor | None
    query: Mapping[str, FieldPath]
    status: int
    """When the call succeeds."""

    @property
    def request(self) -> Descriptor:
        """The request's type."""
        return self.method.input_type

    @property
    def variables(self) -> tuple[FieldPath, ...]:
        """The fields that stand in the path."""
        return tuple(segment for segment in self.segments if isinstance(segment, tuple))

    @property
    def path(self) -> str:
        """The path as people read it; a variable has its field's own name."""
        return "".join(
            f"/{segment}" if isinstance(segment, str) else f"/{{{segment[-1].name}}}" for segment in self.segments
        )

    @property
    def name(self) -> str:
        """A name of its own: the method's, with the chosen member where there is one."""
        return self.method.name + (self.chosen.name.capitalize() if self.chosen else "")

    def match(self, segments: Sequence[str]) -> tuple[str, ...] | None:
        """What stands in a path (as sent, between its slashes) where this one has fields; None: another path.

        Raises ``UnicodeDecodeError`` for a value that is not UTF-8.
        """
        if len(segments) != len(self.segments):
            return None
        values = []
        for here, sent in zip(self.segments, segments, strict=True):
            if isinstance(here, str):
                if here != sent:
                    return None
            elif not sent:
                return None
            else:
                values.append(unquote_to_bytes(sent).decode())
        return tuple(values)

    def shown(self, field: str) -> str:
        """A field's proto path as callers of this path know it."""
        for variable in self.variables:
            if field == dotted(variable):
                return variable[-1].name
        if self.chosen:
            field = field.removeprefix(f"{self.chosen.name}.")
        return _MASK_ENTRY.sub(r"\1", field)


def bindings(service: ServiceDescriptor) -> tuple[Binding, ...]:
    """All bindings of a service, paths with fewer variables first. Raises ``ValueError`` for what this does not know."""
    found = []
    for method in service.methods:
        if method.client_streaming or method.server_streaming:
            continue
        options = method.GetOptions()
        if not options.HasExtension(annotations_pb2.http):
            continue
        for message in (method.input_type, method.output_type):
            _check(message)
        rule = options.Extensions[annotations_pb2.http]
        found += [_binding(method, options, each) for each in (rule, *rule.additional_bindings)]
    return tuple(sorted(found, key=lambda binding: len(binding.variables)))


def dotted(path: FieldPath) -> str:
    """The proto path of a field."""
    return ".".join(field.name for field in path)


def fields_of(message: object) -> Sequence[FieldDescriptor]:
    """The fields of a message's descriptor, whichever of protobuf's two types of descriptors it is."""
    return cast("Descriptor", message).fields


def is_choice(field: FieldDescriptor) -> bool:
    """Whether it is a member of a oneof that somebody wrote; the compiler makes one of each ``optional`` field too."""
    return field.containing_oneof is not None and not field.containing_oneof.name.startswith("_")


def _binding(method: MethodDescriptor, options: MethodOptions, rule: http_pb2.HttpRule) -> Binding:
    kind = rule.WhichOneof("pattern")
    if kind is None or kind == "custom":
        raise ValueError(f"{method.full_name}: a binding needs get, put, post, delete or patch")
    request = method.input_type
    segments = tuple(_segments(request, getattr(rule, kind)))
    members = [field for field in request.fields if is_choice(field)]
    chosen = next((field for field in members if field.name == rule.body or field.name in segments), None)
    bound = {dotted(segment) for segment in segments if isinstance(segment, tuple)} | {rule.body}
    query: dict[str, FieldPath] = {}
    if rule.body != "*":
        for field in request.fields:
            if field.name in bound or (field in members and field is not chosen):
                continue
            if field is chosen and field.message_type is not None:
                query |= {inner.name: (field, inner) for inner in field.message_type.fields}
            else:
                query[field.name] = (field,)
    for path in query.values():
        if path[-1].message_type is not None and path[-1].message_type.full_name not in WELL_KNOWN:
            raise ValueError(f"{method.full_name}: {dotted(path)} cannot stand in a query")
    effects = options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    return Binding(
        method=method,
        verb=kind.upper(),
        segments=segments,
        body=rule.body,
        response_body=method.output_type.fields_by_name[rule.response_body] if rule.response_body else None,
        chosen=chosen,
        query=query,
        status=201 if kind == "post" and effects else 200,
    )


def _segments(request: Descriptor, template: str) -> Iterator[str | FieldPath]:
    for segment in template.removeprefix("/").split("/"):
        variable = _VARIABLE.fullmatch(segment)
        yield _field(request, variable.group(1)) if variable else segment


def _field(message: Descriptor, path: str) -> FieldPath:
    found: list[FieldDescriptor] = []
    for name in path.split("."):
        inside = found[-1].message_type if found else message
        if inside is None:
            raise ValueError(f"{message.full_name}: there is no {path}")
        found.append(inside.fields_by_name[name])
    if found[-1].type != FieldDescriptor.TYPE_STRING or found[-1].is_repeated:
        raise ValueError(f"{message.full_name}: {path} cannot stand in a path")
    return tuple(found)


def _check(message: Descriptor) -> None:
    """Raises ``ValueError`` where a field has a kind that has no JSON form here."""
    seen: set[str] = set()
    waiting = [message]
    while waiting:
        looked_at = waiting.pop()
        if looked_at.full_name in seen or looked_at.full_name in WELL_KNOWN:
            continue
        seen.add(looked_at.full_name)
        for field in looked_at.fields:
            if field.type not in _KINDS:
                raise ValueError(f"{field.full_name}: fields of this kind have no JSON form here")
            if field.message_type is not None:
                waiting.append(field.message_type)
