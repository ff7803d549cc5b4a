"""Holds conversations with Graph against Microsoft's own description of its types (`tests/data/README.md`).

``GraphDescription.exchange_problems`` looks at one request and its answer, and names every member, parameter or value
that the description does not know. What the description leaves open (which path answers which type, which parameters a
path takes, how times are written, what only the server sets) is added here from Graph's reference pages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

SCHEMA = Path(__file__).parent.parent / "data" / "graph_calendar.schema.json"

_LOCAL_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?")
_ANSWERED_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")
_MOMENTS = frozenset({"createdDateTime", "lastModifiedDateTime", "originalStart"})
_PROPERTY_ID = re.compile(
    r"(String|Integer|Boolean|SystemTime|CLSID|Double) "
    r"\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\} (Name \S+|Id 0x[0-9A-Fa-f]+)"
)
_SERVERS = """
    id iCalUId changeKey createdDateTime lastModifiedDateTime webLink isOrganizer isCancelled isDraft type bodyPreview
    seriesMasterId originalStart originalStartTimeZone originalEndTimeZone organizer responseStatus onlineMeetingUrl
    hasAttachments cancelledOccurrences
"""
_EXPANDED = re.compile(r"(\w+)(?:\((.*)\))?")
_CONDITION = re.compile(r"id eq '([^']*)'")
_ANY = re.compile(r"singleValueExtendedProperties/Any\(ep: ep/id eq '([^']*)' and ep/value eq '([^']*)'\)")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path: the type it answers, in a page or alone, and what may be asked of it."""

    method: str
    path: re.Pattern[str]
    answers: str
    paged: bool = False
    parameters: frozenset[str] = frozenset({"$select", "$expand"})
    needed: frozenset[str] = frozenset()
    statuses: tuple[int, ...] = (200,)
    delta: bool = False
    """A feed of changes, in rounds of pages. Its links have everything in a token."""


_PAGED = frozenset({"$select", "$expand", "$filter", "$orderby", "$top", "$skip", "$count"})
_ID = r"[^/?]+"
_TOKENS = frozenset({"$deltatoken", "$skiptoken"})
ENDPOINTS = (
    Endpoint("GET", re.compile(r"me"), "User"),
    Endpoint("GET", re.compile(r"me/mailboxSettings"), "MailboxSettings"),
    Endpoint("GET", re.compile(r"me/calendar"), "Calendar"),
    Endpoint("GET", re.compile(r"me/calendars"), "Calendar", True, _PAGED),
    Endpoint("GET", re.compile(rf"me/calendars/{_ID}"), "Calendar"),
    Endpoint(
        "GET",
        re.compile(rf"me/calendars/{_ID}/calendarView"),
        "Event",
        True,
        _PAGED | {"startDateTime", "endDateTime"},
        frozenset({"startDateTime", "endDateTime"}),
    ),
    # https://learn.microsoft.com/graph/api/event-delta: no $select, $filter, $orderby or $search.
    Endpoint(
        "GET",
        re.compile(rf"me/calendars/{_ID}/calendarView/delta"),
        "Event",
        True,
        frozenset({"startDateTime", "endDateTime", *_TOKENS}),
        frozenset({"startDateTime", "endDateTime"}),
        delta=True,
    ),
    Endpoint("GET", re.compile(rf"me/calendars/{_ID}/events"), "Event", True, _PAGED),
    Endpoint("POST", re.compile(rf"me/calendars/{_ID}/events"), "Event", False, frozenset(), statuses=(201,)),
    Endpoint("GET", re.compile(rf"me/events/{_ID}"), "Event"),
    Endpoint("PATCH", re.compile(rf"me/events/{_ID}"), "Event", False, frozenset()),
    Endpoint("DELETE", re.compile(rf"me/events/{_ID}"), "", False, frozenset(), statuses=(204,)),
)


class GraphDescription:
    """Microsoft's types of calendars."""

    def __init__(self) -> None:
        self._types: Mapping[str, Mapping[str, object]] = json.loads(SCHEMA.read_text(encoding="utf-8"))["definitions"]

    def members(self, name: str) -> frozenset[str]:
        """The names of a type's members."""
        properties = self._types[name]["properties"]
        assert isinstance(properties, Mapping)
        return frozenset(properties)

    def value_problems(self, name: str, value: object, *, at: str = "", annotations: bool = True) -> list[str]:
        """What is wrong with a value of this type. ``annotations``: members such as ``@odata.etag`` may be there."""
        return list(self._value({"$ref": f"#/definitions/{name}"}, value, at or name, annotations))

    def request_problems(self, method: str, path: str, body: bytes = b"") -> list[str]:
        """What is wrong with a request; ``path`` is what follows the root, with its query."""
        parts = urlsplit(path)
        endpoint = _endpoint(method, parts.path)
        if endpoint is None:
            return [f"{method} {parts.path}: no such endpoint"]
        return [f"{method} {parts.path}: {problem}" for problem in self._request(endpoint, parts.query, body)]

    def answer_problems(self, method: str, path: str, status: int, body: bytes) -> list[str]:
        """What is wrong with an answer to such a request."""
        parts = urlsplit(path)
        endpoint = _endpoint(method, parts.path)
        if status >= 400:
            return [f"{method} {parts.path} {status}: {problem}" for problem in self._error(body)]
        if endpoint is None:
            return [f"{method} {parts.path}: no such endpoint"]
        return [f"{method} {parts.path} {status}: {problem}" for problem in self._answer(endpoint, status, body)]

    def _request(self, endpoint: Endpoint, query: str, body: bytes) -> Iterator[str]:
        pairs = parse_qsl(query, keep_blank_values=True)
        names = [name for name, _ in pairs]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{name} is there twice"
        followed = endpoint.delta and not _TOKENS.isdisjoint(names)
        if followed and len(names) > 1:
            yield "a link is followed as it is given"
        for name in sorted(frozenset() if followed else endpoint.needed - set(names)):
            yield f"{name} is missing"
        for name, value in pairs:
            if name not in endpoint.parameters:
                yield f"{name} is no parameter"
            else:
                yield from self._parameter(endpoint, name, value)
        if endpoint.method in ("POST", "PATCH"):
            try:
                content = json.loads(body)
            except ValueError:
                yield "the body is no JSON"
                return
            yield from self.value_problems(endpoint.answers, content, annotations=False)
            if isinstance(content, Mapping):
                for name in sorted(frozenset(_SERVERS.split()) & content.keys()):
                    yield f"{name} is set by the server alone"
                if endpoint.method == "PATCH" and "transactionId" in content:
                    yield "transactionId cannot be changed"
                if endpoint.method == "POST" and not {"subject", "start", "end"} <= content.keys():
                    yield "subject, start or end is missing"
        elif body:
            yield "a body is not taken"

    def _parameter(self, endpoint: Endpoint, name: str, value: str) -> Iterator[str]:
        members = self.members(endpoint.answers)
        if name == "$select":
            for member in value.split(","):
                if member not in members:
                    yield f"$select: {endpoint.answers} has no {member}"
        elif name == "$expand":
            match = _EXPANDED.fullmatch(value)
            if match is None or match[1] not in members:
                yield f"$expand: {endpoint.answers} has no {value}"
            elif match[1] == "singleValueExtendedProperties":
                inner = (match[2] or "").removeprefix("$filter=")
                for condition in inner.split(" or "):
                    asked = _CONDITION.fullmatch(condition)
                    if asked is None or not _PROPERTY_ID.fullmatch(asked[1]):
                        yield f"$expand: {condition!r} is no condition for an extended property"
        elif name == "$filter":
            match = _ANY.fullmatch(value)
            if match is None or not _PROPERTY_ID.fullmatch(match[1]):
                yield f"$filter: {value!r} is not understood"
        elif name in ("$top", "$skip"):
            if not value.isdigit() or (name == "$top" and not 1 <= int(value) <= 1000):
                yield f"{name} is {value}"
        elif name in ("startDateTime", "endDateTime") and not _MOMENT.fullmatch(value):
            yield f"{name} is {value}"

    def _answer(self, endpoint: Endpoint, status: int, body: bytes) -> Iterator[str]:
        if status not in endpoint.statuses:
            yield "such a status is not described"
        if not endpoint.answers:
            if body:
                yield "a body is not expected"
            return
        content = json.loads(body)
        if not isinstance(content, Mapping):
            yield "is no object"
            return
        if not endpoint.paged:
            yield from self._one(endpoint, content, endpoint.answers)
            return
        links = {"@odata.nextLink", "@odata.deltaLink"} if endpoint.delta else {"@odata.nextLink"}
        for name in content:
            if name not in ("value", "@odata.context", "@odata.count", *links):
                yield f"{name} is no member of a page"
        if endpoint.delta and len(links & content.keys()) != 1:
            yield "has not one link onward"
        items = content.get("value")
        if not isinstance(items, list):
            yield "value is no list"
            return
        for number, item in enumerate(items):
            if endpoint.delta and isinstance(item, Mapping) and "@removed" in item:
                yield from _removed(item, f"value[{number}]")
            else:
                yield from self._one(endpoint, item, f"value[{number}]")

    def _one(self, endpoint: Endpoint, value: object, at: str) -> Iterator[str]:
        yield from self.value_problems(endpoint.answers, value, at=at)
        if endpoint.answers == "Event" and isinstance(value, Mapping):
            if "@odata.etag" not in value:
                yield f"{at}: has no @odata.etag"
            for name in ("start", "end"):
                time = value.get(name)
                if isinstance(time, Mapping) and not _ANSWERED_TIME.fullmatch(str(time.get("dateTime"))):
                    yield f"{at}.{name}.dateTime: is not written with seven decimals and without a zone"

    def _error(self, body: bytes) -> Iterator[str]:
        content = json.loads(body)
        if not isinstance(content, Mapping) or set(content) != {"error"}:
            yield "is no error"
            return
        yield from self.value_problems("PublicError", content["error"], at="error")

    def _value(self, schema: Mapping[str, object], value: object, at: str, annotations: bool) -> Iterator[str]:
        """The part of JSON Schema that the description is written in."""
        reference = schema.get("$ref")
        if isinstance(reference, str):
            name = unquote(reference.removeprefix("#/definitions/"))
            yield from self._value(self._types[name], value, at, annotations)
            if isinstance(value, Mapping):
                yield from _details(name, value, at)
            return
        choices = schema.get("anyOf")
        if isinstance(choices, Sequence):
            found = [list(self._value(choice, value, at, annotations)) for choice in choices]
            if all(found):
                yield from max(found, key=len) if isinstance(value, (Mapping, list)) else found[0]
            return
        types = schema.get("type")
        kinds = [types] if isinstance(types, str) else types
        if isinstance(kinds, Sequence) and not _has_type(value, kinds):
            yield f"{at}: {value!r} is not {types}"
            return
        allowed = schema.get("enum")
        if isinstance(allowed, Sequence) and value not in allowed:
            yield f"{at}: {value!r} is none of {', '.join(map(str, allowed))}"
        if isinstance(value, Mapping):
            yield from self._members(schema, value, at, annotations)
        elif isinstance(value, list):
            items = schema.get("items")
            if isinstance(items, Mapping):
                for number, item in enumerate(value):
                    yield from self._value(items, item, f"{at}[{number}]", annotations)

    def _members(
        self, schema: Mapping[str, object], value: Mapping[str, object], at: str, annotations: bool
    ) -> Iterator[str]:
        properties = schema.get("properties", {})
        assert isinstance(properties, Mapping)
        for name, member in value.items():
            if name in properties:
                yield from self._value(properties[name], member, f"{at}.{name}", annotations)
            elif not (annotations and "@odata." in name):
                yield f"{at}: has no {name}"


def _removed(value: Mapping[str, object], at: str) -> Iterator[str]:
    """https://learn.microsoft.com/graph/delta-query-overview"""
    if value["@removed"] not in ({"reason": "deleted"}, {"reason": "changed"}) or not isinstance(value.get("id"), str):
        yield f"{at}: does not say what was removed, and why"
    for name in value.keys() - {"id", "@removed", "@odata.type"}:
        yield f"{at}: has no {name}"


def _details(name: str, value: Mapping[str, object], at: str) -> Iterator[str]:
    """How some members are written, which the description calls a string and no more."""
    if name == "DateTimeTimeZone":
        if not _LOCAL_TIME.fullmatch(str(value.get("dateTime"))):
            yield f"{at}.dateTime: {value.get('dateTime')!r} is no local time"
        if not value.get("timeZone"):
            yield f"{at}.timeZone: is missing"
    elif name == "SingleValueLegacyExtendedProperty" and not _PROPERTY_ID.fullmatch(str(value.get("id"))):
        yield f"{at}.id: {value.get('id')!r} names no extended property"
    elif name == "Event":
        for moment in sorted(_MOMENTS & value.keys()):
            if value[moment] is not None and not _MOMENT.fullmatch(str(value[moment])):
                yield f"{at}.{moment}: {value[moment]!r} is no moment"


def _has_type(value: object, types: Sequence[object]) -> bool:
    kinds: dict[object, type | tuple[type, ...]] = {
        "string": str,
        "boolean": bool,
        "number": (int, float),
        "integer": int,
        "object": Mapping,
        "array": list,
        "null": type(None),
    }
    return any(
        isinstance(value, kinds[kind]) and not (isinstance(value, bool) and kind in ("number", "integer"))
        for kind in types
    )


def _endpoint(method: str, path: str) -> Endpoint | None:
    fitting = (e for e in ENDPOINTS if e.method == method and e.path.fullmatch(path.strip("/")))
    return next(fitting, None)
