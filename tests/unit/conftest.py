"""What several unit tests need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calendar_server.providers.egress import Egress
from tests.unit.ways_out import way_out


@pytest.fixture
def egress() -> Iterator[Egress]:
    """A way out to 127.0.0.0/8."""
    with way_out() as egress:
        yield egress
