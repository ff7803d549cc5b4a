"""What happens is counted under the words that docs/metrics.md gives it."""

from __future__ import annotations

import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from calendar_server.core.model import DAY, HOUR, SECOND, Booking, BookingId, BookingStatus, Interval
from calendar_server.errors import ProviderRefused
from calendar_server.store.errors import StoreError
from calendar_server.store.pool import Pool
from calendar_server.usecases.availability import BusyUnknown
from calendar_server.usecases.commands import BusyAnswer, BusyQuery, SyncCommand, Target
from tests.e2e.test_doctor import World, world

__all__ = ["world"]


def number(world: World, name: str, **labels: str) -> float:
    text = world.service.metrics.text().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def ask(world: World, connection_id: str, staleness_s: float = 0) -> BusyAnswer:
    now = time.time_ns() // 1000 // SECOND * SECOND
    query = BusyQuery(Target((connection_id,)), Interval(now, now + DAY), max_staleness_s=staleness_s)  # type: ignore[arg-type]
    return world.service.availability.get_busy(world.caller, query)


def test_a_read_is_a_miss_and_what_is_known_a_hit(world: World) -> None:
    connection = world.connect()
    ask(world, connection.id)
    ask(world, connection.id, staleness_s=3600)
    assert number(world, "calendar_mirror_questions_total", outcome="miss") == 1
    assert number(world, "calendar_mirror_questions_total", outcome="hit") == 1
    assert number(world, "calendar_busy_answers_total", state="fresh") == 2
    assert number(world, "calendar_busy_age_seconds_count") == 2
    assert number(world, "calendar_refreshes_total", provider="caldav", outcome="full", reason="OK") == 1


def test_a_calendar_that_cannot_be_read_is_counted_with_its_reason(world: World) -> None:
    connection = world.connect()
    world.dav.fail("REPORT", 500)
    with pytest.raises(BusyUnknown):
        ask(world, connection.id)
    unavailable = {"provider": "caldav", "reason": "PROVIDER_UNAVAILABLE"}
    assert number(world, "calendar_refreshes_total", outcome="failed", **unavailable) == 1
    assert number(world, "calendar_provider_conversations_total", verb="refresh", **unavailable) == 1
    assert number(world, "calendar_provider_conversation_seconds_count", verb="refresh") == 1


def test_a_push_is_counted_with_how_it_ended_and_why(world: World) -> None:
    connection = world.connect()
    world.dav.fail("PUT", 403, times=1)
    start = time.time_ns() // 1000 // SECOND * SECOND + DAY
    for name in ("refused", "written"):
        booking = Booking(BookingId(name), 1, BookingStatus.CONFIRMED, title="Talk", start=start, end=start + HOUR)
        world.service.bookings.sync(world.caller, SyncCommand(booking, Target((connection.id,)), False, wait_s=0))
        (row,) = world.service.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
        world.service.pushes.push(row)
    assert number(world, "calendar_pushes_total", outcome="failed", reason="CALENDAR_READ_ONLY") == 1
    assert number(world, "calendar_pushes_total", outcome="synced", reason="OK") == 1
    assert number(world, "calendar_push_wait_seconds_count") == 2
    assert number(world, "calendar_outbox_events", state="failed") == 1


def test_a_push_that_its_host_s_outage_keeps_back_is_put_off_and_no_first_attempt(world: World) -> None:
    connection = world.connect()
    world.dav.fail("PUT", 503, times=100)
    start = time.time_ns() // 1000 // SECOND * SECOND + DAY
    for name in ("a", "b", "c", "d"):
        booking = Booking(BookingId(name), 1, BookingStatus.CONFIRMED, title="T", start=start, end=start + HOUR)
        world.service.bookings.sync(world.caller, SyncCommand(booking, Target((connection.id,)), False, wait_s=0))
        (row,) = world.service.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
        assert world.service.pushes.push(row) == "deferred"
    assert number(world, "calendar_push_wait_seconds_count") == 4
    assert number(world, "calendar_push_hosts", state="closed") == 0
    world.service.store._database.execute("UPDATE outbox SET due_at = 0 WHERE booking_id = 'a'")
    (again,) = world.service.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
    assert world.service.pushes.push(again) == "deferred"
    assert number(world, "calendar_push_hosts", state="closed") == 1
    late = Booking(BookingId("late"), 1, BookingStatus.CONFIRMED, title="T", start=start, end=start + HOUR)
    world.service.bookings.sync(world.caller, SyncCommand(late, Target((connection.id,)), False, wait_s=0))
    (row,) = world.service.store.outbox.claim(limit=1, lease_s=60, mailbox_limit=4)
    assert world.service.pushes.push(row) == "deferred"
    assert number(world, "calendar_push_wait_seconds_count") == 4
    assert number(world, "calendar_pushes_total", outcome="deferred", reason="PROVIDER_UNAVAILABLE") == 6


def test_a_push_that_is_due_and_not_made_is_lag(world: World) -> None:
    connection = world.connect()
    assert number(world, "calendar_outbox_lag_seconds") == 0
    start = time.time_ns() // 1000 // SECOND * SECOND + DAY
    booking = Booking(BookingId("b"), 1, BookingStatus.CONFIRMED, title="Talk", start=start, end=start + HOUR)
    world.service.bookings.sync(world.caller, SyncCommand(booking, Target((connection.id,)), False, wait_s=0))
    world.service.store._database.execute("UPDATE outbox SET due_at = due_at - ?", 500 * SECOND)
    assert 500 <= number(world, "calendar_outbox_lag_seconds") < 600
    world.service.store.connections.note_refusal(connection.id, connection.grant_version, "Refused.")
    # It waits for a person, not for us.
    assert number(world, "calendar_outbox_lag_seconds") == 0
    assert number(world, "calendar_connections", status="needs_reauth") == 1


def test_a_forged_notification_is_counted_as_such(world: World) -> None:
    world.service.watches.notified_google({"x-goog-channel-id": "x", "x-goog-channel-token": "y"})
    world.service.watches.notified_microsoft({"value": [{"clientState": "a.b"}]})
    assert number(world, "calendar_notifications_total", provider="google", outcome="forged") == 1
    assert number(world, "calendar_notifications_total", provider="microsoft", outcome="forged") == 1


def test_a_wrong_password_at_connect_is_a_conversation_that_failed(world: World) -> None:
    world.dav.password = "other"
    with pytest.raises(ProviderRefused):
        world.connect()
    assert number(world, "calendar_provider_conversations_total", verb="connect", reason="PROVIDER_REFUSED") == 1


def test_a_wait_for_a_connection_of_the_database_is_noted_and_no_wait_is_not() -> None:
    waits: list[float] = []
    pool: Pool[object] = Pool(
        dial=object, usable=lambda raw, idle_s: True, shut=lambda raw: None, most=1, wait_s=0.05, waited=waits.append
    )
    raw = pool.take()
    assert waits == []
    with pytest.raises(StoreError):
        pool.take()
    assert len(waits) == 1
    assert waits[0] >= 0.05
    pool.give_back(raw)
    pool.take()
    assert len(waits) == 1


def test_a_wait_for_sqlite_s_writer_is_noted(world: World) -> None:
    store = world.service.store
    inside = threading.Event()

    def write() -> None:
        with store.transaction():
            inside.set()
            done.wait(10)

    done = threading.Event()
    first = threading.Thread(target=write)
    first.start()
    inside.wait(10)
    second = threading.Thread(target=store.organizations.ensure, args=("beta",))
    second.start()
    second.join(0.1)
    done.set()
    first.join(10)
    second.join(10)
    assert number(world, "calendar_store_wait_seconds_count", what="writer") == 1
