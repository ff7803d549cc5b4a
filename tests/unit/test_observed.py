"""Conversations with providers, observed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from calendar_server.core.model import ProviderName
from calendar_server.errors import ProviderUnavailable
from calendar_server.metrics import Metrics
from calendar_server.observed import conversations
from calendar_server.tracing import NO_TRACER


def test_a_conversation_takes_place_within_what_it_is_told() -> None:
    seen: list[str] = []

    @contextmanager
    def within() -> Iterator[None]:
        seen.append("in")
        try:
            yield
        finally:
            seen.append("out")

    def converse() -> None:
        with conversations(Metrics(), NO_TRACER, within=within)(ProviderName.CALDAV, "read"):
            seen.append("reads")
            raise ProviderUnavailable("down")

    with pytest.raises(ProviderUnavailable):
        converse()
    assert seen == ["in", "reads", "out"]
