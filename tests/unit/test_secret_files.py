"""Secrets of the settings may come as files, as container engines give them."""

from __future__ import annotations

from pathlib import Path

import pytest

from calendar_server.config import SECRETS, Config, ConfigError

URL = "postgresql://calendar:secret@db/calendar"
KEYS = f"k1:{'C' * 43}="


def test_a_secret_is_read_from_the_file_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "url").write_text(f"{URL}\n")
    environ = {"CALENDAR_DATABASE_URL_FILE": str(tmp_path / "url"), "CALENDAR_MASTER_KEYS": KEYS}
    assert Config.from_environment(environ).database_url == URL


def test_all_that_is_wrong_with_files_is_told_together_and_shows_no_secret(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "long").write_text("x" * 20_000)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    environ = {
        "CALENDAR_DATABASE_URL": URL,
        "CALENDAR_DATABASE_URL_FILE": str(tmp_path / "empty"),
        "CALENDAR_MASTER_KEYS_FILE": str(tmp_path / "missing"),
        "CALENDAR_GOOGLE_CLIENT_SECRET_FILE": str(tmp_path / "long"),
        "CALENDAR_MICROSOFT_CLIENT_SECRET_FILE": str(tmp_path / "bytes"),
    }
    with pytest.raises(ConfigError) as refused:
        Config.from_environment(environ)
    problems = refused.value.problems
    assert [problem.partition(":")[0] for problem in problems] == [*SECRETS]
    for problem, word in zip(problems, ["not both", "No such file", "longer than 16384", "no text"], strict=True):
        assert word in problem
        assert "secret@" not in problem
        assert "xxx" not in problem


def test_an_empty_file_is_a_mistake_and_not_a_default(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(ConfigError, match="which is empty"):
        Config.from_environment({"CALENDAR_DATABASE_URL_FILE": str(tmp_path / "empty")})


def test_settings_that_are_no_secrets_come_from_no_file(tmp_path: Path) -> None:
    (tmp_path / "level").write_text("debug")
    assert Config.from_environment({"CALENDAR_LOG_LEVEL_FILE": str(tmp_path / "level")}) == Config()


def test_a_process_beside_this_one_gets_what_was_read_and_asks_no_file_again() -> None:
    environment = Config(database_url=URL, master_keys=KEYS).environment()
    assert environment["CALENDAR_DATABASE_URL"] == URL
    assert environment["CALENDAR_MASTER_KEYS"] == KEYS
    assert "CALENDAR_GOOGLE_CLIENT_SECRET" not in environment
    assert not [name for name in environment if name.endswith("_FILE") and name.startswith("CALENDAR_")]
