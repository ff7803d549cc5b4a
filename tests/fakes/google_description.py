"""Holds conversations with Google Calendar v3 against Google's own description of it (`tests/data/README.md`).

``request_problems`` and ``answer_problems`` name every path, parameter, member, value and scope that the description does
not know, and every required one that is missing. What the description says in words only (members that are read-only, the
form of an event's id, how an error looks) is added here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

DESCRIPTION = Path(__file__).parent.parent / "data" / "calendar.v3.json"

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)?")
_EVENT_ID = re.compile(r"[a-v0-9]{5,1024}")
_NOT_WITH_SYNC_TOKEN = frozenset(
    {"iCalUID", "orderBy", "privateExtendedProperty", "q", "sharedExtendedProperty", "timeMin", "timeMax", "updatedMin"}
)
"""What `events.list` does not take together with `syncToken`."""
_WORD = re.compile(r"[A-Za-z]+|\*|[(),/]")

Fields = dict[str, "Fields"]
"""A selection of members; an empty one selects all that is below."""
Described = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the API. ``path`` matches what follows the root, percent-encoded as it is sent."""

    id: str
    http_method: str
    path: re.Pattern[str]
    parameters: Mapping[str, Described]
    request: str
    response: str
    scopes: frozenset[str]


class GoogleDescription:
    """Google's methods and types."""

    def __init__(self) -> None:
        document = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
        self.scopes = frozenset(document["auth"]["oauth2"]["scopes"])
        self._schemas: Mapping[str, Described] = document["schemas"]
        self._common: Mapping[str, Described] = document["parameters"]
        self._methods = [
            _method(described)
            for resource in document["resources"].values()
            for described in resource["methods"].values()
        ]
        # A fixed word in a path goes before a parameter in the same place: `events/import` is no event's id.
        self._methods.sort(key=lambda method: method.path.groups)

    def method(self, http_method: str, target: str) -> Method | None:
        """What a request asks for; ``target`` is what follows the root, with its query."""
        path = urlsplit(target).path
        fitting = (m for m in self._methods if m.http_method == http_method and m.path.fullmatch(path))
        return next(fitting, None)

    def request_problems(
        self, http_method: str, target: str, body: bytes = b"", scopes: frozenset[str] | None = None
    ) -> list[str]:
        """What is wrong with a request. ``scopes`` are those of its token, if that is known."""
        method = self.method(http_method, target)
        if method is None:
            return [f"{http_method} {urlsplit(target).path}: no such method"]
        found = [*self._query(method, target), *self._body(method, body)]
        if scopes is not None and not scopes & method.scopes:
            found.append("no scope of the token allows it")
        return [f"{method.id}: {problem}" for problem in found]

    def answer_problems(self, http_method: str, target: str, status: int, body: bytes) -> list[str]:
        """What is wrong with an answer to such a request."""
        method = self.method(http_method, target)
        if method is None:
            return [f"{http_method} {urlsplit(target).path}: no such method"]
        return [f"{method.id} {status}: {problem}" for problem in self._answer(method, status, body)]

    def fields_problems(self, schema: str, fields: Fields) -> list[str]:
        """Members of a selection that the type does not have."""
        return list(self._selected({"$ref": schema}, fields, schema))

    def _query(self, method: Method, target: str) -> Iterator[str]:
        pairs = parse_qsl(urlsplit(target).query, keep_blank_values=True)
        names = [name for name, _ in pairs]
        known = {n: d for n, d in method.parameters.items() if d["location"] == "query"} | dict(self._common)
        for name in sorted(
            name for name, described in known.items() if described.get("required") and name not in names
        ):
            yield f"{name} is missing"
        for name in sorted({name for name in names if names.count(name) > 1}):
            if not known.get(name, {}).get("repeated"):
                yield f"{name} is there twice"
        if method.id == "calendar.events.list" and "syncToken" in names:
            yield from (f"{name} does not go with syncToken" for name in sorted(_NOT_WITH_SYNC_TOKEN & set(names)))
            if ("showDeleted", "false") in pairs:
                yield "showDeleted=false does not go with syncToken"
        for name, value in pairs:
            if name not in known:
                yield f"{name} is no parameter"
                continue
            yield from _parameter(name, value, known[name])
            if name == "fields" and method.response:
                try:
                    selection = read_fields(value)
                except ValueError as error:
                    yield f"fields: {error}"
                else:
                    yield from self.fields_problems(method.response, selection)

    def _body(self, method: Method, body: bytes) -> Iterator[str]:
        if not method.request:
            if body:
                yield "a body is not taken"
            return
        try:
            content = json.loads(body)
        except ValueError:
            yield "the body is no JSON"
            return
        patch = method.http_method == "PATCH"
        yield from self._value({"$ref": method.request}, content, method.request, patch=patch, sent=True)
        if not isinstance(content, Mapping):
            return
        for name, described in _properties(self._schemas[method.request]).items():
            annotations = described.get("annotations", {})
            if (
                isinstance(annotations, Mapping)
                and method.id in annotations.get("required", ())
                and name not in content
            ):
                yield f"{name} is missing"
        if method.id == "calendar.events.insert" and "id" in content and not _EVENT_ID.fullmatch(str(content["id"])):
            yield f"{content['id']!r} cannot be an event's id"

    def _answer(self, method: Method, status: int, body: bytes) -> Iterator[str]:
        if status == 204 or not method.response:
            if body and status < 400:
                yield "a body is not expected"
            if status < 400:
                return
        try:
            content = json.loads(body)
        except ValueError:
            yield "is no JSON"
            return
        if status >= 400:
            yield from _error(content, status)
        else:
            yield from self._value({"$ref": method.response}, content, method.response)
            if isinstance(content, Mapping) and {"nextPageToken", "nextSyncToken"} <= content.keys():
                yield "has both nextPageToken and nextSyncToken"

    def _value(
        self, described: Described, value: object, at: str, *, patch: bool = False, sent: bool = False
    ) -> Iterator[str]:
        if value is None and patch:
            # A patch clears with null what has this name.
            return
        if "$ref" in described:
            described = self._schemas[str(described["$ref"])]
        kind = described["type"]
        if kind == "object":
            if not isinstance(value, Mapping):
                yield f"{at}: {value!r} is no object"
                return
            yield from self._members(described, value, at, patch, sent)
        elif kind == "array":
            if not isinstance(value, list):
                yield f"{at}: {value!r} is no array"
                return
            items = described["items"]
            assert isinstance(items, Mapping)
            for number, item in enumerate(value):
                yield from self._value(items, item, f"{at}[{number}]", patch=False, sent=sent)
        else:
            yield from (f"{at}: {problem}" for problem in _scalar(value, described))

    def _members(
        self, described: Described, value: Mapping[str, object], at: str, patch: bool, sent: bool
    ) -> Iterator[str]:
        properties, others = _properties(described), described.get("additionalProperties")
        for name, member in value.items():
            if name in properties:
                about = str(properties[name].get("description", "")).lower()
                if sent and "read-only." in about:
                    yield f"{at}.{name}: is read-only"
                yield from self._value(properties[name], member, f"{at}.{name}", patch=patch, sent=sent)
            elif isinstance(others, Mapping):
                yield from self._value(others, member, f"{at}.{name}", patch=patch, sent=sent)
            else:
                yield f"{at}: has no {name}"

    def _selected(self, described: Described, fields: Fields, at: str) -> Iterator[str]:
        while "$ref" in described or described.get("type") == "array":
            below = self._schemas[str(described["$ref"])] if "$ref" in described else described["items"]
            assert isinstance(below, Mapping)
            described = below
        properties, others = _properties(described), described.get("additionalProperties")
        for name, selection in fields.items():
            if name == "*":
                continue
            member = properties.get(name, others)
            if not isinstance(member, Mapping):
                yield f"fields: {at} has no {name}"
            elif selection:
                yield from self._selected(member, selection, f"{at}.{name}")


def read_fields(text: str) -> Fields:
    """Read a `fields` parameter: `a,b(c,d),e/f`. Raises ``ValueError`` when it is none."""
    words = _WORD.findall(text)
    if "".join(words) != text:
        raise ValueError(f"{text!r} is no selection")
    selection, rest = _read_selection(words)
    if rest:
        raise ValueError(f"{text!r} is no selection")
    return selection


def select(value: object, fields: Fields) -> object:
    """What a selection leaves of a value. Members that are not there stay away, and so do arrays left with nothing."""
    if not fields or "*" in fields:
        return value
    if isinstance(value, list):
        return [select(item, fields) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {name: select(member, fields[name]) for name, member in value.items() if name in fields}


def _read_selection(words: Sequence[str]) -> tuple[Fields, Sequence[str]]:
    fields: Fields = {}
    while True:
        if not words or words[0] in "(),/":
            raise ValueError("a name is missing")
        name, words = words[0], words[1:]
        into = fields.setdefault(name, {})
        while words and words[0] == "/":
            if len(words) < 2 or words[1] in "(),/":
                raise ValueError("a name is missing")
            into, words = into.setdefault(words[1], {}), words[2:]
        if words and words[0] == "(":
            below, words = _read_selection(words[1:])
            if not words or words[0] != ")":
                raise ValueError("a bracket is missing")
            into.update(below)
            words = words[1:]
        if not words or words[0] != ",":
            return fields, words
        words = words[1:]


def _method(described: Mapping[str, object]) -> Method:
    path = re.sub(r"\\{\w+\\}", r"([^/]+)", re.escape(str(described["path"])))
    request, response = described.get("request", {}), described.get("response", {})
    parameters, scopes = described.get("parameters", {}), described["scopes"]
    assert isinstance(request, Mapping)
    assert isinstance(response, Mapping)
    assert isinstance(parameters, Mapping)
    assert isinstance(scopes, list)
    return Method(
        id=str(described["id"]),
        http_method=str(described["httpMethod"]),
        path=re.compile(path),
        parameters=parameters,
        request=str(request.get("$ref", "")),
        response=str(response.get("$ref", "")),
        scopes=frozenset(scopes),
    )


def parameters_of(method: Method, target: str) -> list[str]:
    """What stands in a path in place of its parameters, in order."""
    match = method.path.fullmatch(urlsplit(target).path)
    assert match is not None
    return [unquote(part) for part in match.groups()]


def _properties(described: Described) -> Mapping[str, Described]:
    properties = described.get("properties", {})
    assert isinstance(properties, Mapping)
    return properties


def _parameter(name: str, value: str, described: Described) -> Iterator[str]:
    """Parameters are texts; the description says what they stand for."""
    read: object = value
    if described["type"] == "boolean":
        read = {"true": True, "false": False}.get(value, value)
    elif described["type"] == "integer" and re.fullmatch(r"-?\d{1,9}", value):
        read = int(value)
    yield from (f"{name}: {problem}" for problem in _scalar(read, described))
    if described.get("format") == "date-time" and not value.endswith("Z") and not re.search(r"[+-]\d\d:\d\d$", value):
        yield f"{name}: {value!r} has no offset"


def _scalar(value: object, described: Described) -> Iterator[str]:
    kind, form = described["type"], described.get("format")
    types = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}[str(kind)]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "boolean"):  # type: ignore[arg-type]
        yield f"{value!r} is no {kind}"
        return
    allowed = described.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        yield f"{value!r} is none of {', '.join(map(str, allowed))}"
    if kind == "integer" and isinstance(value, int):
        if value < int(str(described.get("minimum", value))):
            yield f"{value!r} is less than the minimum"
        if value > int(str(described.get("maximum", value))):
            yield f"{value!r} is more than the maximum"
    if form in ("date", "date-time"):
        try:
            if form == "date-time" and not _DATE_TIME.fullmatch(str(value)):
                raise ValueError(value)
            _ = date.fromisoformat(str(value)) if form == "date" else datetime.fromisoformat(str(value))
        except ValueError:
            yield f"{value!r} is no {form}"


def _error(content: object, status: int) -> Iterator[str]:
    """https://developers.google.com/calendar/api/guides/errors"""
    error = content.get("error") if isinstance(content, Mapping) and set(content) == {"error"} else None
    if not isinstance(error, Mapping):
        yield "is no error"
        return
    if error.get("code") != status or not isinstance(error.get("message"), str):
        yield "its code or message is missing"
    errors = error.get("errors")
    if not isinstance(errors, list) or not errors or not all({"domain", "reason", "message"} <= set(e) for e in errors):
        yield "tells no reason"
    for name in set(error) - {"code", "message", "errors", "status", "details"}:
        yield f"has no {name}"
