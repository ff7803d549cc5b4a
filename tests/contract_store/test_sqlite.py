"""What holds for SQLite alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from calendar_server.core.model import OrganizationId
from calendar_server.store.database import SQLITE_CONNECTIONS, Database
from calendar_server.store.store import Store, StoreError
from tests.contract_store.examples import at_once, booking, connection


@pytest.fixture
def organization(sqlite_url: str) -> OrganizationId:
    store = Store.open(sqlite_url)
    organization_id = store.organizations.ensure("Alpha")
    store.close()
    return organization_id


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),  # FULL
        ("foreign_keys", 1),
        ("busy_timeout", 10_000),
        ("secure_delete", 1),
    ],
)
def test_every_connection_of_the_pool_has_our_settings(sqlite_url: str, pragma: str, value: object) -> None:
    database = Database.open(sqlite_url)
    lent = [database._pool.take() for _ in range(5)]
    assert [raw.execute(f"PRAGMA {pragma}").fetchone()[0] for raw in lent] == [value] * 5
    for raw in lent:
        database._pool.give_back(raw)
    database.close()


def test_a_transaction_is_the_only_writer_from_its_beginning(sqlite_url: str) -> None:
    database = Database.open(sqlite_url)
    other = Database.open(sqlite_url)
    raw = other._pool.take()
    raw.execute("PRAGMA busy_timeout = 0")
    with database.transaction(), pytest.raises(Exception, match="locked"):
        raw.execute("BEGIN IMMEDIATE")
    other._pool.give_back(raw)
    other.close()
    database.close()


def test_the_file_is_its_owners_alone(sqlite_path: Path, sqlite_url: str, organization: OrganizationId) -> None:
    store = Store.open(sqlite_url)
    store.bookings.put(booking(organization))
    files = sorted(path for path in sqlite_path.parent.iterdir() if path.name.startswith(sqlite_path.name))
    assert [path.name for path in files] == ["calendar.db", "calendar.db-shm", "calendar.db-wal"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    store.close()


def test_a_relative_path_is_from_here_and_its_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.open("sqlite:///var/deep/calendar.db")
    assert store.path == tmp_path / "var" / "deep" / "calendar.db"
    # Later connections find it wherever the process has gone meanwhile.
    monkeypatch.chdir("/")
    store.migrate()
    store.close()
    assert (tmp_path / "var" / "deep" / "calendar.db").stat().st_size > 0


def test_four_slashes_are_an_absolute_path(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/calendar.db")
    assert store.is_sqlite
    assert store.path == tmp_path / "calendar.db"
    store.close()


@pytest.mark.parametrize("path", ["", "nul\0", "{folder}", "{file}/calendar.db"])
def test_a_path_that_cannot_be_a_database_is_a_store_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="CALENDAR_DATABASE_URL"):
        Store.open("sqlite:///" + path.format(folder=tmp_path, file=tmp_path / "file"))


def test_a_file_that_is_no_database_is_a_store_error_and_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "calendar.db"
    path.write_bytes(b"This is a letter to my aunt. " * 100)
    store = Store.open(f"sqlite:///{path}")
    with pytest.raises(StoreError, match="is not one"):
        store.migrate()
    store.close()
    assert path.read_bytes() == b"This is a letter to my aunt. " * 100


def test_threads_that_ended_leave_no_files_open(sqlite_path: Path, sqlite_url: str) -> None:
    store = Store.open(sqlite_url)

    def open_files() -> int:
        return sum(os.path.realpath(entry.path) == str(sqlite_path) for entry in os.scandir("/proc/self/fd"))

    for _ in range(10):
        at_once([store.ping] * 40)
    assert open_files() <= SQLITE_CONNECTIONS
    store.close()
    assert open_files() == 0


def test_a_wiped_grant_is_not_in_the_file(sqlite_path: Path, sqlite_url: str, organization: OrganizationId) -> None:
    secret = "v1|k1|nonce|" + "secret" * 20
    store = Store.open(sqlite_url)
    added = connection(organization)
    store.connections.add(added, secret)
    store.connections.disconnect(organization, added.id, 9)
    # Closing the last connection folds the journal into the file.
    store.close()
    assert b"secretsecret" not in sqlite_path.read_bytes()
