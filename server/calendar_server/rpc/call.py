"""The call that a thread works for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from calendar_server.usecases.caller import Caller

_caller: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Who calls. Raises ``LookupError`` outside a call."""
    return _caller.get()


@contextmanager
def called_by(who: Caller) -> Iterator[None]:
    """Work for this caller inside the block."""
    token = _caller.set(who)
    try:
        yield
    finally:
        _caller.reset(token)
