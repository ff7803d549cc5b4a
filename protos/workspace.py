"""Run buf on the protos, with what they import beside them: `workspace.py lint`.

buf itself would fetch `google/api/annotations.proto` from a registry. The package googleapis-common-protos, which the
service needs anyway, brings the same file along, so that nothing is fetched.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.api import annotations_pb2

PROTOS = Path(__file__).resolve().parent
INCLUDE = Path(annotations_pb2.__file__).resolve().parents[2]
"""Where protoc finds `google/api/…`."""
IMPORTED = ("google/api/annotations.proto", "google/api/http.proto")
BUF = Path(sys.executable).with_name("buf")


@contextlib.contextmanager
def workspace(protos: Path = PROTOS) -> Iterator[Path]:
    """A folder that buf takes as it is: the files below ``protos`` and those that they import."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "protos"
        shutil.copytree(protos, target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        for name in IMPORTED:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(INCLUDE / name, target / name)
        yield target


def main() -> int:
    """Run buf with the words of the command line; its findings are its own output."""
    with workspace() as folder:
        return subprocess.run([str(BUF), *sys.argv[1:]], cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
