"""Providers that are watched while they converse: how long it took and how it went, for metrics and traces."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from calendar_server.core.model import (
    Booking,
    Calendar,
    CalendarId,
    CalendarRead,
    EventId,
    Interval,
    Preset,
    ProviderName,
)
from calendar_server.errors import CalendarError, PreconditionFailed
from calendar_server.metrics import Metrics
from calendar_server.providers.base import (
    Account,
    Deadline,
    EventRef,
    Link,
    Provider,
    Refreshed,
    Remembered,
    RemoteEvent,
    Secret,
    Watch,
    Watcher,
)
from calendar_server.tracing import Tracer

Conversation = Callable[[ProviderName, str], AbstractContextManager[None]]
"""Around one conversation with a provider, by its verb."""


def conversations(
    metrics: Metrics, tracer: Tracer, within: Callable[[], AbstractContextManager[object]]
) -> Conversation:
    """Tell these of each conversation, which takes place ``within`` that."""

    @contextmanager
    def conversation(provider: ProviderName, verb: str) -> Iterator[None]:
        began = time.perf_counter()
        reason = "OK"
        with tracer.span(f"provider {verb}", kind="client", provider=str(provider), verb=verb) as span:
            try:
                with within():
                    yield
            except BaseException as error:
                reason = reason_of(error)
                raise
            finally:
                span.set(reason=reason)
                metrics.conversation_ended(str(provider), verb, reason, time.perf_counter() - began)

    return conversation


def reason_of(error: BaseException) -> str:
    """An exception as the value of a label."""
    if isinstance(error, PreconditionFailed):
        return "CHANGED"
    return error.reason if isinstance(error, CalendarError) else "INTERNAL"


class ObservedProvider:
    """A provider as it is, observed. See ``Provider``."""

    def __init__(self, name: ProviderName, provider: Provider, conversation: Conversation):
        self._name = name
        self._provider = provider
        self.makes_once = provider.makes_once
        self._conversation = conversation

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        with self._conversation(self._name, "list"):
            return self._provider.list_calendars(link, deadline)

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        with self._conversation(self._name, "read"):
            return self._provider.read_calendar(link, calendar_id, window, deadline)

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        with self._conversation(self._name, "refresh"):
            return self._provider.refresh_calendar(link, calendar_id, window, before, deadline)

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        return self._provider.event_id(calendar_id, uid)

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        with self._conversation(self._name, "find"):
            return self._provider.find_event(link, ref, deadline)

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        with self._conversation(self._name, "put"):
            return self._provider.put_event(link, ref, booking, known, deadline)

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        with self._conversation(self._name, "delete"):
            self._provider.delete_event(link, ref, known, deadline)


class ObservedWatcher:
    """A watcher as it is, observed. See ``Watcher``."""

    def __init__(self, name: ProviderName, watcher: Watcher, conversation: Conversation):
        self._name = name
        self._watcher = watcher
        self._conversation = conversation

    def watch(
        self, link: Link, calendar_id: CalendarId, *, address: str, id: str, secret: str, deadline: Deadline
    ) -> Watch:
        with self._conversation(self._name, "watch"):
            return self._watcher.watch(link, calendar_id, address=address, id=id, secret=secret, deadline=deadline)

    def extend(self, link: Link, watch: Watch, deadline: Deadline) -> Watch | None:
        with self._conversation(self._name, "extend"):
            return self._watcher.extend(link, watch, deadline)

    def unwatch(self, link: Link, watch: Watch, deadline: Deadline) -> None:
        with self._conversation(self._name, "unwatch"):
            self._watcher.unwatch(link, watch, deadline)


class ConnectsCaldav(Protocol):
    """The part of the CalDAV provider that makes accounts of credentials."""

    def connect(
        self, *, preset: Preset, username: str, password: str, server_url: str, deadline: Deadline
    ) -> tuple[Account, Secret]: ...


class ObservedConnects:
    """What makes accounts of credentials as it is, observed."""

    def __init__(self, accounts: ConnectsCaldav, conversation: Conversation):
        self._accounts = accounts
        self._conversation = conversation

    def connect(
        self, *, preset: Preset, username: str, password: str, server_url: str, deadline: Deadline
    ) -> tuple[Account, Secret]:
        with self._conversation(ProviderName.CALDAV, "connect"):
            return self._accounts.connect(
                preset=preset, username=username, password=password, server_url=server_url, deadline=deadline
            )
