"""The README is held against what is there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from calendar_server.config import Config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def settings_table() -> str:
    """The README's table of settings as it should be."""
    lines = ["| name | default | what |", "| --- | --- | --- |"]
    for field in dataclasses.fields(Config):
        default = ("on" if field.default else "off") if isinstance(field.default, bool) else field.default
        lines.append(
            f"| `{field.metadata['name']}` | {f'`{default}`' if default != '' else ''} | {field.metadata['help']} |"
        )
    return "\n".join(lines)


def test_the_readme_lists_every_setting_with_its_default() -> None:
    table = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0].strip()
    assert table == settings_table()


def test_every_make_target_that_the_readme_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b", README)) <= targets


def test_every_folder_of_the_tree_is_there() -> None:
    tree = README.split("## The tree")[1]
    for folder in re.findall(r"^([a-z]+)/ ", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
    for room in re.findall(r"^  ([a-z]+)/ ", tree, re.MULTILINE):
        assert (ROOT / "server" / "calendar_server" / room).is_dir(), room


def test_the_locks_name_no_host() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text(), lock.name
