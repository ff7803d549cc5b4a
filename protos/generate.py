"""Make what is in `gen/` from the protos beside this file: the stubs, and the OpenAPI description of the HTTP API.

Run it to write gen/; with `--check` it writes nothing and exits with 1 when gen/ is not what the protos say.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from calendar_server.sidecar import openapi

PROTOS = Path(__file__).resolve().parent
GEN = PROTOS.parent / "gen"
INCLUDE = Path(annotations_pb2.__file__).resolve().parents[2]
"""Where protoc finds `google/api/annotations.proto`."""
PACKAGES = {
    "calendars": "Generated from `protos/`; never edited by hand.",
    "calendars/v1": "The stubs of the package `calendars.v1`.",
}
DIFF_LINES = 40


def main() -> int:
    """0: done, or nothing differs; 1: the protos do not compile, or something differs."""
    parser = argparse.ArgumentParser(description="Make the stubs in gen/ from the protos.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when gen/ is not what the protos say")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        generate(made)
        if options.check:
            return check(made)
        replace(made)
        return 0


def generate(target: Path) -> None:
    """Write everything below ``target``. The same protos and the same grpcio-tools give the same bytes."""
    names = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    descriptors = target / "descriptors.binpb"
    with _directory(PROTOS):
        code = protoc.main(
            [
                "protoc",
                "--proto_path=.",
                f"--proto_path={files('grpc_tools') / '_proto'}",
                f"--proto_path={INCLUDE}",
                f"--python_out={target}",
                f"--pyi_out={target}",
                f"--grpc_python_out={target}",
                "--include_imports",
                "--include_source_info",
                f"--descriptor_set_out={descriptors}",
                *names,
            ]
        )
    if code:
        sys.exit("The protos do not compile; protoc's words are above.")
    described = openapi.generate(FileDescriptorSet.FromString(descriptors.read_bytes()))
    (target / openapi.PACKAGE.replace(".", "/") / openapi.NAME).write_text(described, encoding="utf-8")
    descriptors.unlink()
    for package, docstring in PACKAGES.items():
        (target / package / "__init__.py").write_text(f'"""{docstring}"""\n', encoding="utf-8")
    for path in target.rglob("*_pb2.pyi"):
        # protoc leaves the arguments of Mapping out, which strict checking does not forgive.
        path.write_text(f'# mypy: disable-error-code="type-arg"\n{path.read_text(encoding="utf-8")}', encoding="utf-8")
    for path in target.rglob("*_pb2_grpc.py"):
        # Only the service's file says something; the others would be imported for nothing.
        if "_to_server" not in path.read_text(encoding="utf-8"):
            path.unlink()


def check(made: Path) -> int:
    """Tell what differs between the fresh stubs and gen/."""
    want, have = _texts(made), _texts(GEN)
    differing = sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))
    if not differing:
        return 0
    print("gen/ is not what the protos say. Run `make gen` and commit what it changes:", file=sys.stderr)
    for name in differing:
        kind = "missing" if name not in have else "left over" if name not in want else "differs"
        print(f"  {name}: {kind}", file=sys.stderr)
    lines = [
        line
        for name in differing
        for line in difflib.unified_diff(
            have.get(name, "").splitlines(),
            want.get(name, "").splitlines(),
            f"gen/{name}",
            f"fresh/{name}",
            n=1,
            lineterm="",
        )
    ]
    print("\n".join(line[:200] for line in lines[:DIFF_LINES]), file=sys.stderr)
    if len(lines) > DIFF_LINES:
        print(f"… and {len(lines) - DIFF_LINES} more lines", file=sys.stderr)
    return 1


def replace(made: Path) -> None:
    """Put the fresh stubs where the old ones were."""
    for package in {name.split("/")[0] for name in PACKAGES}:
        shutil.rmtree(GEN / package, ignore_errors=True)
        shutil.copytree(made / package, GEN / package)


def _texts(root: Path) -> dict[str, str]:
    """Every file below ``root`` but compiled ones, by its path."""
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    sys.exit(main())
