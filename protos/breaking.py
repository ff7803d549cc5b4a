"""`buf breaking` against what the branch `main` holds: a wire-breaking change of the contract fails `make check`.

Passes, and says so, where there is nothing to compare with (no git, no such branch, no protos in it yet).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from workspace import BUF, workspace

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run buf; its findings are its own output."""
    for branch in ("origin/main", "main", "HEAD"):
        there = subprocess.run(
            ["git", "cat-file", "-e", f"{branch}:protos/buf.yaml"], cwd=ROOT, capture_output=True, check=False
        )
        if there.returncode == 0:
            return compare(branch)
    print("buf breaking: nothing to compare with yet")
    return 0


def compare(branch: str) -> int:
    """Hold the protos against those of the branch."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", branch, "protos"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        with workspace() as now, workspace(Path(folder) / "protos") as before:
            return subprocess.run(
                [str(BUF), "breaking", str(now), "--against", str(before)], cwd=now, check=False
            ).returncode


if __name__ == "__main__":
    sys.exit(main())
