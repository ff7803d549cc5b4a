"""The package as a wheel and as an sdist: whole, without strays, and it works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from deploy import release_check

ROOT = Path(__file__).parents[2]


def test_the_wheel_holds_three_packages_and_works_outside_the_checkout(tmp_path: Path) -> None:
    wheel = release_check.build("wheel", tmp_path)
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


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(tmp_path: Path) -> None:
    sdist = release_check.build("sdist", tmp_path / "sdist")
    files = release_check.names(sdist)
    assert release_check.stray(files, release_check.SOURCES) == []
    assert {"pyproject.toml", "CHANGELOG.md", "protos/calendars/v1/calendar_service.proto"} <= set(files)
    with tarfile.open(sdist) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    again = release_check.build("wheel", tmp_path / "again", source)
    assert release_check.names(again) == release_check.names(release_check.build("wheel", tmp_path))


def test_the_metadata_is_what_a_registry_takes_and_people_look_for(tmp_path: Path) -> None:
    found = release_check.metadata(release_check.build("wheel", tmp_path))
    assert (found.name, str(found.version)) == ("calendar-service", release_check.version())
    assert str(found.requires_python) == ">=3.11"
    assert found.description_content_type == "text/markdown"
    assert found.summary


def test_strays_are_found() -> None:
    allowed = release_check.SOURCES
    for name in (
        "var/calendar.db",
        "server/x/__pycache__/y.pyc",
        "server/calendar.db.key",
        "server/.env",
        "secrets/url",
    ):
        assert release_check.stray([name, "server/calendar_server/app.py"], allowed) == [name]
