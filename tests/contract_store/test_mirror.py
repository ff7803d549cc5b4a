"""Named queries about what was read of calendars."""

from __future__ import annotations

import random

import pytest

from calendar_server.core.model import CalendarId, ConnectionId, Interval, OrganizationId
from calendar_server.store.mirror import SMALL_BYTES, SMALL_MOST, Learned
from calendar_server.store.store import Store
from tests.contract_store.examples import add_connection

WORK, HOME = CalendarId("/work/"), CalendarId("/home/")


def learn(store: Store, connection_id: ConnectionId, calendar_id: CalendarId, events: bytes, memory: bytes) -> None:
    learned = Learned(connection_id, calendar_id, 5, Interval(1, 9), full=True, content=events, memory=memory)
    with store.transaction():
        store.mirror.learn([learned])


@pytest.mark.parametrize("more", [0, 1], ids=["small", "large"])
def test_small_contents_are_those_that_are_asked_for_one_by_one(
    store: Store, organization: OrganizationId, more: int
) -> None:
    ids = [add_connection(store, organization, number).id for number in range(3)]
    learn(store, ids[0], WORK, random.randbytes(SMALL_BYTES - 100 + more), b"\x00" * 100)
    learn(store, ids[0], HOME, b"", b"")
    learn(store, ids[1], WORK, b"events", b"memory")
    learn(store, ids[2], WORK, b"not asked for", b"")
    found = store.mirror.small_contents([ids[0], ids[1], ConnectionId("cal_none")])
    expected = {(ids[0], WORK), (ids[0], HOME), (ids[1], WORK)} - ({(ids[0], WORK)} if more else set())
    assert found == {key: store.mirror.content(*key) for key in expected}
    assert None not in found.values()


def test_of_very_many_calendars_not_all_are_read_at_once(store: Store, organization: OrganizationId) -> None:
    connection = add_connection(store, organization)
    learned = [
        Learned(connection.id, CalendarId(f"/{number}/"), 5, Interval(1, 9), full=True, content=b"e", memory=b"m")
        for number in range(SMALL_MOST + 5)
    ]
    with store.transaction():
        store.mirror.learn(learned)
    assert len(store.mirror.small_contents([connection.id])) == SMALL_MOST


def test_without_connections_there_is_nothing(store: Store) -> None:
    assert store.mirror.small_contents([]) == {}
