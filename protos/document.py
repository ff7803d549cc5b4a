"""Make the pages that tell what the protos say, `docs/api.md` and `docs/errors.md`, the table of `docs/settings.md`, and
the list of all pages.

Run it to write the pages; with `--check` it writes nothing and exits with 1 when a page is not as it would be made. All
text stands in the protos' comments, in `config.py`, in the introductions below and, for the list, in each page's title.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc
from workspace import INCLUDE, PROTOS

from calendar_server.config import Config
from calendar_server.sidecar.api import STATUSES
from calendar_server.sidecar.bindings import bindings

DOCS = PROTOS.parent / "docs"
PACKAGE = "calendars.v1"
SERVICE_FILE = "calendars/v1/calendar_service.proto"
REASONS = "ErrorReason"
TODO = "What to do: "

API = """\
# API reference: every call, message and field

Made from the protos by `make gen`; change the comments there, not this page. The files themselves are in
[protos/calendars/v1](../protos/calendars/v1). The same calls by HTTP with JSON: [http-api.md](http-api.md).

Ids are plain strings, not resource names (AIP-122): callers keep them beside their own.

With [grpcurl](https://github.com/fullstorydev/grpcurl), while `make run` goes:

```console set
SERVER=https://dav.example.org/ NAME=anna@example.org PASSWORD=secret DAY=2026-12-04
```

```console run
call() { grpcurl -plaintext -H "authorization: Bearer $(cat var/api-key)" -d "$2" 127.0.0.1:50051 calendars.v1.CalendarService/$1; }
call Connect '{"caldav": {"preset": "CALDAV_PRESET_CUSTOM", "server_url": "'$SERVER'", "username": "'$NAME'", "password": "'"$PASSWORD"'"}}'
call List '{}'
call GetBusy '{"start_time": "'$DAY'T00:00:00Z", "end_time": "'$DAY'T23:59:59Z", "view": "BUSY_VIEW_EXPLAINED"}'
call SyncBooking '{"booking": {"id": "interview-9", "revision": 1, "status": "BOOKING_STATUS_CONFIRMED", "title": "Interview", "start_time": "'$DAY'T09:00:00Z", "end_time": "'$DAY'T09:45:00Z"}}'
call Disconnect '{"id": "'$(call List '{}' | grep -o 'cal_[0-9a-f]*' | head -1)'"}'
```
"""  # noqa: E501 — lines of a shell, to be pasted
ERRORS = """\
# Errors: every reason, and what to do

Made from the comments of [errors.proto](../protos/calendars/v1/errors.proto) by `make gen`; change them there, not here.

Every call that fails ends with a gRPC code and, in the details, exactly one `google.rpc.ErrorInfo`: its `reason` is a name
of this page, its `domain` is `calendars.v1`, its `metadata` holds the facts. Decide by the reason: it does not change. The
message is a sentence for a person, and may.

Beside it there may be

- a `google.rpc.RetryInfo`: waiting that long may help;
- a `google.rpc.BadRequest`: every wrong field, with [VALIDATION_ERROR](#validation_error);
- a [`BusyFailure`](api.md#busyfailure): every calendar that could not be read, when GetBusy fails. The metadata
  `connectionId` and `calendarId` then name the calendar that decided the reason: the first that needs a person, else the
  first.

The same reasons stand in the [`Problem`](api.md#problem) of answers that are not errors: of a calendar in a partial
answer, of a booking's event. By HTTP the reason is in lower case, with the status of the table; see
[http-api.md](http-api.md#errors).

gRPC itself ends some calls without details: with `DEADLINE_EXCEEDED` when the caller's own deadline has passed, with
`UNAVAILABLE` when no server could be reached. What became of the call is then not known: send it again as it was.
"""


INDEX = """\
# Documentation

The [README](../README.md) has the first steps. This list is made from the pages' titles by `make gen`.
"""
GROUPS = {
    "Understand": ("how-it-works.md", "busy.md", "bookings.md", "promises.md"),
    "Connect accounts": ("caldav.md", "google.md", "microsoft.md"),
    "Call it": ("python-client.md", "calendarctl.md", "http-api.md", "api.md", "errors.md"),
    "Run it": ("settings.md", "operating.md", "metrics.md", "growing.md", "upgrading.md"),
    "Trust it": ("../SECURITY.md", "threat-model.md", "benchmarks.md"),
}
"""In which order the pages are listed, those that are there; others come last."""


def main() -> int:
    """0: done, or nothing differs; 1: the protos do not compile, or a page differs."""
    parser = argparse.ArgumentParser(
        description="Make api.md, errors.md, README.md and the table of settings.md in docs/."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when a page is not as it would be made"
    )
    options = parser.parse_args()
    made = pages()
    if not options.check:
        for name, text in made.items():
            (DOCS / name).write_text(text, encoding="utf-8")
        return 0
    stale = [name for name, text in made.items() if _present(DOCS / name) != text]
    for name in stale:
        print(f"docs/{name} is not as it would be made. Run `make gen` and commit what it changes.", file=sys.stderr)
    return 1 if stale else 0


def pages() -> dict[str, str]:
    """Every page by its name."""
    protos = Protos(_compiled())
    made = {"api.md": protos.api(), "errors.md": protos.errors(), "settings.md": settings()}
    return {**made, "README.md": index({name: _title(text) for name, text in made.items()})}


def index(titles: Mapping[str, str]) -> str:
    """The list of the pages in docs/, and of those beside it. ``titles``: of pages that are made as well."""
    found = dict(titles)
    for path in (*DOCS.glob("*.md"), *DOCS.parent.glob("SECURITY.md")):
        name = path.name if path.parent == DOCS else f"../{path.name}"
        if name != "README.md":
            found.setdefault(name, _title(path.read_text(encoding="utf-8")))
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "More": tuple(sorted(found.keys() - grouped))}
    parts = [INDEX]
    for group, names in groups.items():
        if lines := [f"- [{found[name]}]({name})" for name in names if name in found]:
            parts += [f"## {group}", "\n".join(lines)]
    return _page(parts)


def settings() -> str:
    """The page of settings, with its table made anew."""
    before, _, rest = (DOCS / "settings.md").read_text(encoding="utf-8").partition("<!-- settings -->")
    after = rest.partition("<!-- /settings -->")[2]
    rows = []
    for field in dataclasses.fields(Config):
        default = ("on" if field.default else "off") if isinstance(field.default, bool) else field.default
        rows.append(
            (f"`{field.metadata['name']}`", f"`{default}`" if default != "" else "", field.metadata["help"]),
        )
    return f"{before}<!-- settings -->\n{_table(('name', 'default', 'what'), rows)}\n<!-- /settings -->{after}"


def _title(text: str) -> str:
    return text.split("\n", 1)[0].removeprefix("# ").strip()


def _compiled() -> FileDescriptorSet:
    names = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    roots = (PROTOS, files("grpc_tools") / "_proto", INCLUDE)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors.binpb"
        words = ["--include_imports", "--include_source_info", f"--descriptor_set_out={out}"]
        if protoc.main(["protoc", *(f"--proto_path={root}" for root in roots), *words, *names]):
            sys.exit("The protos do not compile; protoc's words are above.")
        return FileDescriptorSet.FromString(out.read_bytes())


class Protos:
    """The files of the package, and their comments."""

    def __init__(self, found: FileDescriptorSet) -> None:
        ours = [file for file in found.file if file.package == PACKAGE]
        # The service's file first: who reads from the top meets the calls before the things.
        self._files = sorted(ours, key=lambda file: file.name != SERVICE_FILE)
        self._comments = {name: text for file in ours for name, text in _comments(file)}
        pool = DescriptorPool()
        for file in found.file:
            pool.Add(file)
        self._paths: dict[str, list[str]] = {}
        for service in self._services():
            for binding in bindings(pool.FindServiceByName(f"{PACKAGE}.{service.name}")):
                self._paths.setdefault(binding.method.name, []).append(f"`{binding.verb} {binding.path}`")

    def api(self) -> str:
        """The reference."""
        parts = [API, self._comments[SERVICE_FILE]]
        for service in self._services():
            parts += ["## The calls", self._comments[service.name], self._overview(service)]
            parts += [self._method(service, method) for method in service.method]
        parts.append("## The messages")
        parts += [self._message(message) for file in self._files for message in file.message_type]
        parts.append("## The enums")
        parts += [self._enum(enum) for file in self._files for enum in file.enum_type]
        return _page(parts)

    def errors(self) -> str:
        """The error manual."""
        enum = next(enum for file in self._files for enum in file.enum_type if enum.name == REASONS)
        rows, sections = [], []
        for value in enum.value[1:]:
            reason = value.name.removeprefix("ERROR_REASON_")
            # The first sentence of each comment is the code alone.
            code, _, text = self._comments[value.name].partition(". ")
            about, _, todo = text.partition(TODO)
            status, word = STATUSES[reason]
            rows.append((f"[`{reason}`](#{reason.lower()})", f"`{code}`", f"{status} `{word}`", _one_line(about, 1)))
            sections += [f"### {reason}", f"`{code}`", about.strip(), f"**What to do:** {todo.strip()}"]
        table = _table(("reason", "gRPC code", "by HTTP", "what it means"), rows)
        return _page([ERRORS, "## The reasons", table, *sections])

    def _services(self) -> Iterator[ServiceDescriptorProto]:
        for file in self._files:
            yield from file.service

    def _overview(self, service: ServiceDescriptorProto) -> str:
        rows = [
            (f"[`{each.name}`](#{each.name.lower()})", _one_line(self._comments[f"{service.name}.{each.name}"], 1))
            for each in service.method
        ]
        return _table(("call", "does"), rows)

    def _method(self, service: ServiceDescriptorProto, method: MethodDescriptorProto) -> str:
        stream = "stream of " if method.server_streaming else ""
        paths = self._paths.get(method.name)
        facts = [
            f"- takes [`{_name(method.input_type)}`]({_anchor(method.input_type)}), "
            f"answers {stream}[`{_name(method.output_type)}`]({_anchor(method.output_type)})",
            f"- by HTTP: {', '.join(paths) if paths else 'not served'}",
        ]
        if method.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS:
            facts.append("- reads only")
        elif method.options.idempotency_level == MethodOptions.IDEMPOTENT:
            facts.append("- may be sent again as it is")
        return "\n\n".join([f"### {method.name}", self._comments[f"{service.name}.{method.name}"], "\n".join(facts)])

    def _message(self, message: DescriptorProto) -> str:
        rows = []
        for field in message.field:
            text = _one_line(self._comments[f"{message.name}.{field.name}"])
            if field.HasField("oneof_index") and not field.proto3_optional:
                group = message.oneof_decl[field.oneof_index].name
                text = f"One of `{group}`. {text}"
            rows.append((f"`{field.name}`", str(field.number), _type(field), text))
        return "\n\n".join(
            [f"### {message.name}", self._comments[message.name], _table(("field", "no.", "type", "what"), rows)]
        )

    def _enum(self, enum: EnumDescriptorProto) -> str:
        parts = [f"### {enum.name}", self._comments[enum.name]]
        if enum.name == REASONS:
            parts.append("Each with what to do about it: [errors.md](errors.md).")
        rows = []
        for value in enum.value:
            text = _one_line(self._comments[value.name], 1 if enum.name == REASONS else None)
            rows.append((f"`{value.name}`", str(value.number), text))
        return "\n\n".join([*parts, _table(("value", "no.", "what"), rows)])


def _comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """The comment of each element by its name; that of the file by the file's path."""
    told = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    # The numbers are those of descriptor.proto.
    names: dict[tuple[int, ...], str] = {(12,): file.name}
    for s, service in enumerate(file.service):
        names[6, s] = service.name
        for m, method in enumerate(service.method):
            names[6, s, 2, m] = f"{service.name}.{method.name}"
    for m, message in enumerate(file.message_type):
        names[4, m] = message.name
        for f, field in enumerate(message.field):
            names[4, m, 2, f] = f"{message.name}.{field.name}"
    for e, enum in enumerate(file.enum_type):
        names[5, e] = enum.name
        for v, value in enumerate(enum.value):
            names[5, e, 2, v] = value.name
    for path, name in names.items():
        lines = [line.strip() for line in told.get(path, "").split("\n")]
        yield name, "\n".join(line for line in lines if not line.startswith("buf:lint:")).strip()


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        shown = f"`{_name(field.type_name)}`"
        if field.type_name.startswith(f".{PACKAGE}."):
            shown = f"[{shown}]({_anchor(field.type_name)})"
    else:
        shown = f"`{FieldDescriptorProto.Type.Name(field.type).removeprefix('TYPE_').lower()}`"
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {shown}"
    return f"optional {shown}" if field.proto3_optional else shown


def _name(type_name: str) -> str:
    return type_name.rpartition(".")[2]


def _anchor(type_name: str) -> str:
    return f"#{_name(type_name).lower()}"


def _one_line(text: str, paragraphs: int | None = None) -> str:
    """The first paragraphs, or all of them, as a table's cell holds them."""
    kept = text.strip().split("\n\n")[:paragraphs]
    return " ".join(" ".join(kept).split()).replace("|", "\\|")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _page(parts: Sequence[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(parts)).strip() + "\n"


def _present(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
