"""One suite over SQLite and a real Postgres: every test that asks for ``store`` or ``database_url`` runs on both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from calendar_server.core.model import OrganizationId
from calendar_server.store.store import Store
from tests.fakes.postgres import Postgres, find_postgres

TABLES = (
    "watches",
    "outbox",
    "bookings",
    "busy",
    "busy_content",
    "versions",
    "connections",
    "api_keys",
    "oauth_states",
    "leases",
    "vault_keys",
    "organizations",
)
"""Every table, those that refer to others first."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running server, started when the first test asks."""
    server = find_postgres()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def migrated_url(postgres: Postgres) -> Iterator[str]:
    """A database that is up to date, for one test after the other."""
    name = postgres.database()
    store = Store.open(postgres.url(name))
    store.migrate()
    store.close()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def postgres_url(migrated_url: str) -> str:
    """A database that is up to date, with no rows in it. Emptying one costs a hundredth of making one."""
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        for table in TABLES:
            connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
    return migrated_url


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    return tmp_path / "calendar.db"


@pytest.fixture
def sqlite_url(sqlite_path: Path) -> str:
    """A database that is up to date."""
    url = f"sqlite:///{sqlite_path}"
    store = Store.open(url)
    store.migrate()
    store.close()
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of this test's own, up to date, of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database of this test's own with nothing in it, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = server.database()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store.open(database_url)
    yield store
    store.close()


@pytest.fixture
def organization(store: Store) -> OrganizationId:
    return store.organizations.ensure("Alpha")


@pytest.fixture
def stranger(store: Store) -> OrganizationId:
    """Another organization."""
    return store.organizations.ensure("Beta")
