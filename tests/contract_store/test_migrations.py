"""Migrations: once, at once, from older states with data, and never backwards."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from calendar_server.core.model import Connection
from calendar_server.store import migrations
from calendar_server.store.database import Database
from calendar_server.store.store import Store, StoreError
from calendar_server.store.tables import CONNECTIONS
from tests.contract_store.conftest import TABLES
from tests.contract_store.examples import SEALED, connection

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(empty_url: str) -> Iterator[Database]:
    database = Database.open(empty_url)
    yield database
    database.close()


@pytest.fixture
def broken() -> Iterator[str]:
    """A step that breaks half-way."""
    module = types.ModuleType("999_broken")
    module.STATEMENTS = ("CREATE TABLE half (id {id} PRIMARY KEY)", "CREATE TABLE half (id {id} PRIMARY KEY)")  # type: ignore[attr-defined]
    sys.modules[f"{migrations.__name__}.999_broken"] = module
    yield "999_broken"
    del sys.modules[f"{migrations.__name__}.999_broken"]


def tables(database: Database) -> set[str]:
    sql = (
        "SELECT group_concat(name) FROM sqlite_master WHERE type = 'table'"
        if database.is_sqlite
        else "SELECT string_agg(tablename, ',') FROM pg_tables WHERE schemaname = 'public'"
    )
    return set((database.value(sql) or "").split(","))


def test_a_new_database_gets_every_step(empty_url: str) -> None:
    store = Store.open(empty_url)
    assert store.pending_migrations() == list(migrations.NAMES)
    assert store.migrate() == list(migrations.NAMES)
    assert store.pending_migrations() == []
    store.close()


def test_a_second_time_changes_nothing(empty_url: str) -> None:
    store = Store.open(empty_url)
    store.migrate()
    organization = store.organizations.ensure("Alpha")
    assert store.migrate() == []
    assert store.organizations.get_by_name("Alpha") == organization
    store.close()


def test_looking_what_is_pending_changes_nothing(database: Database) -> None:
    migrations.pending(database)
    assert tables(database) <= {""}


def test_processes_that_migrate_at_once_apply_each_step_once(empty_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, empty_url],
            env={"PYTHONPATH": str(ROOT / "server"), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    # All are loaded and wait for this word.
    told = [process.communicate("go\n", timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted("".join(told).split()) == sorted(migrations.NAMES)


MIGRATE = """
import sys
from calendar_server.store.store import Store
print("ready", flush=True)
sys.stdin.readline()
store = Store.open(sys.argv[1])
print(*store.migrate(), sep="\\n")
store.close()
"""


def test_who_comes_second_waits_for_the_first(database: Database, empty_url: str) -> None:
    second, applied = Store.open(empty_url), []
    thread = threading.Thread(target=lambda: applied.append(second.migrate()))
    with database.transaction():
        database.serialize(migrations.LOCK)
        thread.start()
        thread.join(0.2)
        assert applied == []
    thread.join(30)
    assert applied == [list(migrations.NAMES)]
    second.close()


def test_an_older_state_keeps_its_data(database: Database) -> None:
    assert migrations.migrate(database, migrations.NAMES[:1]) == [migrations.NAMES[0]]
    older = Store(database)
    organization = older.organizations.ensure("Alpha")
    older.api_keys.add("k", organization, b"x" * 32, 7)
    older.vault_keys.put("k1", SEALED)
    added = connection(organization)
    database.change(CONNECTIONS.insert(as_the_first_release_did(added)))

    assert migrations.migrate(database) == list(migrations.NAMES[1:])
    newer = Store(database)
    assert newer.organizations.get_by_name("Alpha") == organization
    key = newer.api_keys.get("k")
    assert key is not None
    assert key.secret_sha256 == b"x" * 32
    assert newer.vault_keys.all() == {"k1": SEALED}
    assert newer.connections.get(organization, added.id) == added


def as_the_first_release_did(added: Connection) -> dict[str, object]:
    """A row of the table as its first form had it."""
    values: dict[str, object] = {name: getattr(added, name) for name in CONNECTIONS._columns if hasattr(added, name)}
    values["busy_calendar_ids"] = json.dumps(added.busy_calendar_ids)
    values["settings"] = json.dumps(dict(added.settings))
    for name in ("provider", "status", "sync_status"):
        values[name] = str(values[name])
    return {**values, "sealed_grant": SEALED, "disconnected_at": None}


def test_the_previous_release_goes_on_over_a_newer_form(database: Database) -> None:
    migrations.migrate(database, migrations.NAMES[:1])
    previous = Store(database)
    organization = previous.organizations.ensure("Alpha")
    migrations.migrate(database)
    added = connection(organization)
    previous.connections.add(added, SEALED)
    assert previous.connections.get(organization, added.id) == added


@pytest.mark.parametrize("what", ["migrate", "pending_migrations"])
def test_a_database_of_a_newer_release_is_refused(database: Database, what: str) -> None:
    migrations.migrate(database)
    database.run("INSERT INTO schema_migrations VALUES ('003_future', 1)")
    with pytest.raises(StoreError, match=r"newer release \(003_future\)"):
        getattr(Store(database), what)()


def test_a_step_that_breaks_leaves_nothing_of_itself(database: Database, broken: str) -> None:
    names = (*migrations.NAMES, broken)
    with pytest.raises(StoreError):
        migrations.migrate(database, names)
    assert "half" not in tables(database)
    assert migrations.pending(database, names) == [broken]


def test_this_suite_empties_every_table_between_tests(database: Database) -> None:
    migrations.migrate(database)
    assert tables(database) == {*TABLES, "schema_migrations"}


def test_steps_are_numbered_without_a_gap() -> None:
    assert [name[:3] for name in migrations.NAMES] == [f"{number:03}" for number in range(1, len(migrations.NAMES) + 1)]
    folder = Path(migrations.__file__).parent
    assert sorted(path.stem for path in folder.glob("[0-9]*.py")) == list(migrations.NAMES)
