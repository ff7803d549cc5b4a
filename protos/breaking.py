"""`buf breaking` against what the branch `main` holds: a wire-breaking change of the contract fails `make check`.

Passes, and says so, where there is nothing to compare with (no git, no such branch, no protos in it yet).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run buf; its findings are its own output."""
    for branch in ("origin/main", "main", "HEAD"):
        there = subprocess.run(
            ["git", "cat-file", "-e", f"{branch}:protos/buf.yaml"], cwd=ROOT, capture_output=True, check=False
        )
        if there.returncode == 0:
            buf = Path(sys.executable).with_name("buf")
            commit = subprocess.run(
                ["git", "rev-parse", branch], cwd=ROOT, capture_output=True, text=True, check=True
            ).stdout.strip()
            against = f".git#ref={commit},subdir=protos"
            return subprocess.run(
                [str(buf), "breaking", "protos", "--against", against], cwd=ROOT, check=False
            ).returncode
    print("buf breaking: nothing to compare with yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
