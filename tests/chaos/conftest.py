"""Seeds and servers of the chaos tests. `make chaos` runs the long form; `make test` a short one of each."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import world
from tests.fakes.postgres import OwnPostgres, start_postgres

# In the environment, so that the processes among which the tests are divided have the seed that is printed.
SEED = int(os.environ.get("CALENDAR_CHAOS_SEED") or secrets.randbelow(2**32))
os.environ["CALENDAR_CHAOS_SEED"] = str(SEED)


def pytest_report_header() -> str:
    return f"chaos: seed {SEED} ({'long' if world.long_form() else 'short'} form; CALENDAR_CHAOS_SEED repeats it)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if world.long_form():
        for item in items:
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Chance, the same for the same seed."""
    print(f"seed {SEED}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="session")
def postgres() -> Iterator[OwnPostgres]:
    """A durable server of our own that may be stopped."""
    server = start_postgres(durable=True)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def radicale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[world.Radicale]:
    with world.radicale(tmp_path_factory.mktemp("radicale")) as running:
        yield running


@pytest.fixture(scope="session")
def people() -> Iterator[str]:
    """Names of people who have no calendar yet."""
    return iter(world.PEOPLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path
