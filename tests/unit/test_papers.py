"""What the papers for operators claim is held against the code: settings, commands, events, numbers, links."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from calendar_server.config import SECRETS, Config
from calendar_server.metrics import ALL
from calendar_server.providers.microsoft import MAILBOX_REQUESTS
from calendar_server.store import changes, database
from calendar_server.store.outbox import Outbox
from calendar_server.usecases import keys
from calendar_server.worker import refreshing

ROOT = Path(__file__).parents[2]
PATHS = [
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("growing", "operating", "threat-model", "upgrading")),
]
PAPERS = {path.name: path.read_text() for path in PATHS}
GROWING, OPERATION = PAPERS["growing.md"], PAPERS["operating.md"]
EVERY = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
SOURCE = "\n".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))


@EVERY
def test_every_setting_named_is_real(path: Path) -> None:
    real = {field.metadata["name"] for field in dataclasses.fields(Config)}
    real |= {f"{name}_FILE" for name in SECRETS} | {"CALENDAR_TEST_POSTGRES"}
    assert set(re.findall(r"CALENDAR_[A-Z][A-Z_]*", path.read_text())) <= real


@EVERY
def test_every_command_named_is_real(path: Path) -> None:
    usage = subprocess.run(
        [sys.executable, "-m", "calendar_server", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = set(re.findall(r"^    ([a-z-]+)", usage, re.MULTILINE))
    assert {"serve", "import-sqlite"} <= commands
    assert set(re.findall(r"calendar-server ([a-z-]+)", path.read_text())) <= commands
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", path.read_text())) <= targets


@EVERY
def test_every_link_and_file_named_is_there(path: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:deploy|tests|protos|docs)/[\w./-]*)`", path.read_text()):
        assert (ROOT / name).exists(), name


def test_what_is_to_be_watched_is_there() -> None:
    shown = {name for measure in ALL for name in (measure.name, *measure.scraped_names())}
    for name in re.findall(r"`(calendar_[a-z_]+)`", OPERATION):
        assert name in shown, name
    events = {"process_died", "store_unavailable", "listening_broke", "grant_unopenable", "certificate_not_renewed"}
    for event in events | {"grant_refused"}:
        assert f"`{event}`" in OPERATION, event
        assert f'"{event}"' in SOURCE, event


def test_the_texts_that_it_explains_are_those_that_are_shown() -> None:
    for text in ("not the one that this database was written with", "was changed by a newer release"):
        assert f'"{text}"' in OPERATION
        assert text in SOURCE


def test_the_sums_are_made_of_the_numbers_of_the_code() -> None:
    config = Config()
    each = database.POSTGRES_CONNECTIONS + 2
    assert f"at most {database.POSTGRES_CONNECTIONS}, one more that listens and one that tells: {each}" in GROWING
    assert f"may use {5 * each}, and Postgres allows 100" in GROWING
    assert f"({each} for each process at most)" in OPERATION
    assert config.max_staleness_s * refreshing.AHEAD == 30, "twice a minute"
    assert "half of `CALENDAR_MAX_STALENESS_S` has passed: with 60" in GROWING
    assert config.used_s == 15 * 60
    assert "in the last 15 minutes (`CALENDAR_USED_S`)" in GROWING
    assert config.reconcile_s == 3600
    assert "Once an hour (`CALENDAR_RECONCILE_S`)" in GROWING
    assert f"refreshes {config.refresh_threads} connections at once" in GROWING
    assert f"pushes {config.push_threads} bookings at once" in GROWING
    assert f"takes {MAILBOX_REQUESTS} requests at a time" in GROWING
    assert f"keeps to {MAILBOX_REQUESTS // (config.processes + 1)} of them" in GROWING
    assert f'"database is busy" after {database.WAIT_S} seconds' in GROWING
    assert f"`CALENDAR_CACHE_CONNECTIONS` connections ({config.cache_connections:,})".replace(",", " ") in GROWING


def test_what_an_engine_must_have_is_what_the_code_asks_for() -> None:
    for words in ("FOR NO KEY UPDATE", "pg_advisory_xact_lock", "skip_locked", "LISTEN", "NOTIFY", 'COLLATE "C"'):
        assert words in SOURCE, words
    for method in (database.Database.locking, database.Database.serialize, Outbox.claim):
        assert f"`{method.__qualname__}`" in GROWING
    assert changes.CHANNEL


def test_a_revoked_key_ends_when_it_is_said_to() -> None:
    assert keys.BELIEVED_S <= 5
    for name in ("SECURITY.md", "operating.md"):
        assert "within 5 seconds" in " ".join(PAPERS[name].split())
