"""`make audit` and `make release-check`: what they find wrong, and that nothing unknown counts as good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy import audit, release_check

ROOT = Path(__file__).parents[2]
HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize("name", audit.LOCKS)
def test_our_locks_are_whole(name: str) -> None:
    text = (ROOT / name).read_text()
    assert audit.requirements(text)
    assert audit.problems(text) == []


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (f"peewee>=4 {HASH}", "not pinned"),
        (f"peewee {HASH}", "not pinned"),
        ("peewee==4.5.3", "no hash"),
        ("peewee==4.5.3 \\\n    --hash=md5:00", "no hash"),
        (f"peewee @ https://example.org/peewee.whl {HASH}", "from an address"),
        ("--index-url https://example.org/", "an option"),
        ("-e .", "an option"),
    ],
)
def test_what_is_wrong_with_a_lock_is_found(entry: str, problem: str) -> None:
    good = f"# a comment\nclick==8.5.1 ; python_version >= '3' \\\n    {HASH}\n    # via x\n"
    assert audit.problems(good) == []
    (found,) = audit.problems(good + entry)
    assert problem in found


def test_a_dependency_that_is_not_locked_is_found() -> None:
    assert audit.missing(f"Foo_Bar==1 {HASH}", ["foo-bar>=1", "click[extra]>=2"]) == ["click"]


def test_what_was_not_looked_up_is_not_good() -> None:
    report = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": []},
            {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]},
            {"name": "c", "skip_reason": "Dependency not found"},
        ]
    }
    assert audit.verdict(json.dumps(report)) == (2, ["b 2: PYSEC-1, mended in 3"], ["c"])


def test_the_licence_of_every_runtime_package_that_is_installed_is_told() -> None:
    found = audit.licences((ROOT / audit.RUNTIME).read_text())
    assert sum(len(names) for names in found.values()) > 20
    assert "not told" not in found


def test_the_changelog_has_this_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert release_check.told(changes, release_check.version())
    assert not release_check.told(changes, "9.9.9")
    assert not release_check.told("## [9.9.9]\n", "9.9.9")


def test_the_version_stands_in_one_place() -> None:
    for path in [*(ROOT / "server").rglob("*.py"), *(ROOT / "clients").rglob("*.py")]:
        assert f'"{release_check.version()}"' not in path.read_text(), path
