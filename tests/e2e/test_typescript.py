"""The TypeScript example, built by what its README says and run against the whole service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import Person, Running, Stub, at, span

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "clients" / "examples" / "typescript"
PARTS = ("package.json", "package-lock.json", ".npmrc", "tsconfig.json", "src")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, built."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed (Debian: apt-get install nodejs npm)")
    root = tmp_path_factory.mktemp("typescript")
    folder = root / "clients" / "examples" / "typescript"
    folder.mkdir(parents=True)
    (root / "protos").symlink_to(ROOT / "protos")
    for name in PARTS:
        source = EXAMPLE / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("generated"))
        else:
            shutil.copy(source, folder / name)
    installed = npm(folder, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline")
    if installed.returncode and npm(folder, "ping").returncode:
        pytest.skip("npm reaches no registry, and the example's packages are not in its cache")
    assert installed.returncode == 0, installed.stderr
    made = npm(folder, "run", "--silent", "build")
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def npm(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["npm", *arguments], cwd=folder, capture_output=True, text=True, timeout=110, check=False)


@dataclass
class Example:
    """Runs the example as one caller of the service, who has one account with one event, at nine tomorrow."""

    folder: Path
    address: str
    key: str
    connection_id: str

    def __call__(self, *arguments: str, key: str = "") -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "CALENDAR_ADDRESS": self.address, "CALENDAR_API_KEY": key or self.key}
        command = ["node", str(self.folder / "dist" / "main.js"), *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def example(built: Path, service: Running, radicale: str) -> Iterator[Example]:
    key = service.key("typescript")
    person = Person(radicale, "typescript")
    calendar = person.make_calendar()
    person.put(calendar, "nine", span(at(9), at(10)))
    stub = Stub(service.address, key)
    yield Example(built, service.address, key, stub.connect(person).id)
    stub.close()


def test_it_lists_the_connection(example: Example) -> None:
    done = example("list")
    assert done.stderr == ""
    assert done.stdout.split()[0] == example.connection_id
    assert done.stdout.split()[-1] == "CONNECTION_STATUS_ACTIVE"


def test_it_shows_when_the_account_is_busy_and_books_what_is_free(example: Example) -> None:
    day = f"{at(0):%Y-%m-%dT%H:%MZ}"
    assert example("busy", day, "1").stdout.splitlines() == [
        f"{at(9):%Y-%m-%dT%H}:00:00.000Z {at(10):%Y-%m-%dT%H}:00:00.000Z"
    ]
    booked = example("book", "ts-1", f"{at(14):%Y-%m-%dT%H:%MZ}", "45")
    assert booked.stderr == ""
    assert booked.stdout.split()[0] == example.connection_id
    assert booked.stdout.strip().endswith("BOOKING_EVENT_STATE_SYNCED")
    assert f"{at(14):%Y-%m-%dT%H}:00:00.000Z" in example("busy", day, "1").stdout


def test_a_refusal_is_told_with_its_reason_and_its_fields(example: Example) -> None:
    taken = example("book", "ts-2", f"{at(9):%Y-%m-%dT%H:%MZ}", "30")
    assert (taken.returncode, taken.stderr.split(":")[0]) == (1, "ABORTED SLOT_TAKEN")
    wrong = example("book", "", f"{at(16):%Y-%m-%dT%H:%MZ}", "30")
    assert wrong.stderr.startswith("INVALID_ARGUMENT VALIDATION_ERROR: ")
    assert "  booking.id: " in wrong.stderr
    assert example("list", key="calkey_1_none").stderr.startswith("UNAUTHENTICATED UNAUTHORIZED: ")


def test_versions_are_exact_and_the_lock_names_no_registry() -> None:
    package = json.loads((EXAMPLE / "package.json").read_text())
    versions = {**package["dependencies"], **package["devDependencies"]}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", each) for each in versions.values()), versions
    lock = (EXAMPLE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
