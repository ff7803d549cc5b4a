"""Operators see pushes that failed or wait for long, and have them tried again while the service runs."""

from __future__ import annotations

import pytest

from calendar_server.core.model import BookingId, EventState
from calendar_server.errors import CalendarError, NotFound, ProviderRefused, ProviderUnavailable
from calendar_server.usecases.commands import SyncCommand, Target
from calendar_server.usecases.parked import ParkedPushes
from tests.usecases.conftest import WORK, World, booking


@pytest.fixture
def parked(world: World) -> ParkedPushes:
    return ParkedPushes(world.store)


def fail(world: World, booking_id: str = "b", error: CalendarError | None = None) -> None:
    """A booking whose push is refused for good, or as ``error`` says."""
    connection = world.connect(f"anna-{booking_id}")
    world.sync(booking(id=BookingId(booking_id)), connection)
    world.provider.fail_next(error or ProviderRefused("No."))
    world.push()


def listed(parked: ParkedPushes, waiting_s: float = 900, organization: str | None = None) -> list[tuple[str, str, str]]:
    return [
        (row.booking_id, str(row.state), row.reason)
        for row in parked.list(waiting_s=waiting_s, organization=organization)
    ]


def test_a_failed_push_is_listed_with_its_reason(world: World, parked: ParkedPushes) -> None:
    fail(world)
    (row,) = parked.list(waiting_s=900, organization=None)
    assert (row.organization, row.booking_id, row.state, row.reason, row.attempts, row.due_at) == (
        "acme",
        "b",
        EventState.FAILED,
        "PROVIDER_REFUSED",
        1,
        None,
    )


def test_what_is_synced_is_not_listed(world: World, parked: ParkedPushes) -> None:
    world.sync(booking(), world.connect())
    world.push()
    assert listed(parked, waiting_s=0) == []


def test_a_pending_push_is_listed_once_it_has_waited_for_long(world: World, parked: ParkedPushes) -> None:
    fail(world, error=ProviderUnavailable("Down."))
    assert listed(parked, waiting_s=900) == []
    assert listed(parked, waiting_s=0) == [("b", "pending", "PROVIDER_UNAVAILABLE")]


def test_only_one_organization_is_listed_when_asked(world: World, parked: ParkedPushes) -> None:
    fail(world)
    assert listed(parked, organization="acme") == [("b", "failed", "PROVIDER_REFUSED")]
    assert listed(parked, organization="other") == []
    with pytest.raises(NotFound):
        listed(parked, organization="nobody")


def test_more_than_a_page_is_listed_whole(world: World, parked: ParkedPushes) -> None:
    connection = world.connect()
    for number in range(205):
        world.sync(booking(id=BookingId(f"b{number}")), connection)
    assert len(set(listed(parked, waiting_s=0))) == 205


def test_a_retried_push_is_pushed_and_shows_in_the_calendar(world: World, parked: ParkedPushes) -> None:
    fail(world)
    assert parked.retry(BookingId("b"), organization=None) == 1
    assert world.push() == ["synced"]
    assert len(world.in_calendar(WORK)) == 1


def test_a_deferred_push_is_tried_now_not_later(world: World, parked: ParkedPushes) -> None:
    fail(world, error=ProviderUnavailable("Down.", retry_after_s=3600))
    assert world.push() == []
    assert parked.retry(BookingId("b"), organization=None) == 1
    assert world.push() == ["synced"]


def test_all_failed_ones_are_retried_and_no_others(world: World, parked: ParkedPushes) -> None:
    fail(world, "b")
    fail(world, "c")
    fail(world, "d", error=ProviderUnavailable("Down."))
    assert parked.retry_failed(organization="other") == 0
    assert parked.retry_failed(organization=None) == 2
    assert sorted(world.push()) == ["synced", "synced"]
    assert listed(parked, waiting_s=0) == [("d", "pending", "PROVIDER_UNAVAILABLE")]


def test_a_push_under_way_is_left_alone(world: World, parked: ParkedPushes) -> None:
    world.sync(booking(), world.connect())
    (row,) = world.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
    assert parked.retry(BookingId("b"), organization=None) == 0
    assert world.store.outbox.get(row.id) == row
    assert world.pushes.push(row) == "synced"


def test_without_a_grant_it_waits_for_the_renewal(world: World, parked: ParkedPushes) -> None:
    fail(world)
    (row,) = parked.list(waiting_s=0, organization=None)
    world.store.connections.note_refusal(row.connection_id, 1, "Refused.")
    assert parked.retry(BookingId("b"), organization=None) == 1
    assert world.push() == []
    (row,) = parked.list(waiting_s=0, organization=None)
    assert (row.state, row.due_at) == (EventState.PENDING, None)
    world.connect("anna-b")
    assert world.push() == ["synced"]


def test_an_unknown_booking_is_told(parked: ParkedPushes) -> None:
    with pytest.raises(NotFound):
        parked.retry(BookingId("nothing"), organization=None)


def test_an_id_of_two_organizations_needs_to_be_told_apart(world: World, parked: ParkedPushes) -> None:
    fail(world)
    world.bookings.sync(world.stranger, SyncCommand(booking(), Target(()), False, wait_s=0))
    with pytest.raises(CalendarError, match="--organization"):
        parked.retry(BookingId("b"), organization=None)
    assert parked.retry(BookingId("b"), organization="acme") == 1
