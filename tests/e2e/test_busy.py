"""GetBusy against a real CalDAV server: unknown is never free."""

from __future__ import annotations

import grpc
import pytest

from calendars.v1 import availability_pb2 as availability
from tests.e2e.conftest import Person, Stub, at, busy_request, error_info, intervals, span


def test_a_week_is_read_merged_and_sorted(stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "b", span(at(11), at(12)))
    person.put(calendar, "a", span(at(9), at(10)))
    person.put(calendar, "c", span(at(11.5), at(13)))
    connection = stub.connect(person)
    answer = stub("GetBusy", busy_request(connection.id))
    assert intervals(answer.busy) == [(at(9), at(10)), (at(11), at(13))]
    assert answer.complete
    assert [(c.calendar_id, c.state) for c in answer.calendars] == [(calendar, availability.BUSY_STATE_FRESH)]


def test_explained_names_every_event_and_why(stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "free", span(at(9), at(10)) + "\nTRANSP:TRANSPARENT")
    person.put(calendar, "maybe", span(at(10), at(11)) + "\nSTATUS:TENTATIVE")
    connection = stub.connect(person)
    answer = stub("GetBusy", busy_request(connection.id, view=availability.BUSY_VIEW_EXPLAINED))
    told = [(event.blocks, event.reason) for event in answer.calendars[0].events]
    assert told == [(False, availability.BLOCK_REASON_FREE), (True, availability.BLOCK_REASON_TENTATIVE)]
    ignoring = stub("GetBusy", busy_request(connection.id, ignore_tentative=True))
    assert not ignoring.busy
    assert ignoring.complete


def test_an_endless_rule_costs_its_connection_an_error_and_nobody_else_anything(stub: Stub, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "good", span(at(9), at(10)))
    person.put(calendar, "bomb", "DTSTART:19700101T000000Z\nDTEND:19700101T000001Z\nRRULE:FREQ=SECONDLY;BYSECOND=1,3,5")
    connection = stub.connect(person)
    with pytest.raises(grpc.RpcError) as refused:
        stub("GetBusy", busy_request(connection.id, days=60), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    info = error_info(refused.value)
    assert info.reason == "EVENT_UNREADABLE"
    assert info.metadata["connectionId"] == connection.id
    assert info.metadata["eventId"].endswith("bomb.ics")
    partial = stub("GetBusy", busy_request(connection.id, days=60, allow_partial=True))
    assert intervals(partial.busy) == [(at(9), at(10))]
    assert not partial.complete
    assert partial.calendars[0].state == availability.BUSY_STATE_FRESH


def test_no_connection_is_complete_and_empty(stub: Stub) -> None:
    answer = stub("GetBusy", busy_request(owner="nobody"))
    assert answer.complete
    assert not answer.calendars
    assert not answer.busy
