"""A gRPC server for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.rpc.world import World, running


@pytest.fixture
def world() -> Iterator[World]:
    with running() as started:
        yield started
