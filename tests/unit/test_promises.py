"""The table of promises is held against the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = [
    line
    for line in (ROOT / "docs" / "promises.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| promise", "| ---"))
]
NAMED = re.compile(r"`(tests/[^`]+)`")


def there(name: str) -> bool:
    """Whether a test, a class of tests or a file with tests has this name."""
    path, *parts = name.split("::")
    file = ROOT / path
    if not file.is_file():
        return False
    body: list[ast.stmt] = ast.parse(file.read_text()).body
    for part in parts:
        found = [node for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == part]
        if not found:
            return False
        body = found[0].body
    return True


def test_every_promise_names_tests_that_are_there() -> None:
    assert LINES
    for line in LINES:
        names = NAMED.findall(line)
        assert names, line
        assert [name for name in names if not there(name)] == [], line


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert there("tests/unit/test_promises.py::test_a_test_that_is_not_there_is_noticed")
    for name in ("tests/unit/none.py", "tests/unit/test_promises.py::test_none", "tests/unit/test_vault.py::None::x"):
        assert not there(name)
