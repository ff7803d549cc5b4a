"""The call that a thread works for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import grpc

from calendar_server.core.model import OrganizationId
from calendar_server.usecases.caller import Caller

_caller: ContextVar[Caller] = ContextVar("caller")


class Authenticator(Protocol):
    """Believes API keys, or does not."""

    def authenticate(self, key: str, /) -> OrganizationId:
        """The organization behind a key. Raises ``Unauthorized`` for keys unknown or revoked."""
        ...


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


def ended(context: grpc.ServicerContext) -> threading.Event:
    """An event that is set when the call is over: cancelled, past its deadline, its line lost, or ended by us."""
    over = threading.Event()
    if not context.add_callback(over.set):
        over.set()
    return over
