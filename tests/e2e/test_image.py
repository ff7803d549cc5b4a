"""The Dockerfile's steps are played without a container engine, and what they make runs as a closed container would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def may_mount() -> bool:
    if sys.platform != "linux" or os.geteuid():
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs root on Linux, for mounts in a namespace of its own")
def test_it_builds_runs_read_only_as_its_user_and_is_healthy() -> None:
    command = [sys.executable, str(ROOT / "deploy" / "replay.py"), "--offline"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{done.stdout[-1000:]}{done.stderr[-2000:]}"
    assert "runs read-only, as its numeric user, and is healthy" in done.stdout
