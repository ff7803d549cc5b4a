"""The package as a wheel: three packages that work outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_three_packages_and_works_outside_the_checkout(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    wheel = next(tmp_path.glob("*.whl"))
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {
        "calendar_client",
        "calendar_server",
        "calendars",
    }
    code = (
        "import sys, calendar_server.app, calendar_client, calendars.v1.booking_pb2 as b;"
        "assert calendar_server.__file__.startswith(sys.argv[1]), calendar_server.__file__;"
        "assert b.__file__.startswith(sys.argv[1]);"
        "from calendar_server.sidecar.openapi import document; assert document()"
    )
    site = Path(os.__file__).parent / "site-packages"
    installed = [path for path in sys.path if path.endswith("site-packages")] or [str(site)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(wheel), *installed])}
    # From the wheel itself: a zip file is a path to import from. -S keeps the checkout's own link out.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(wheel)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
