"""Named queries about bookings."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from calendar_server.core.model import BookingId, BookingStatus, EventState, Interval, OrganizationId
from calendar_server.store.rows import OverlayRow
from calendar_server.store.store import Store, StoreError
from tests.contract_store.examples import SEALED, add_connection, add_push, at_once, booking

WINDOW = Interval(1000, 2000)
B1 = BookingId("b1")


class TestKeeping:
    def test_a_booking_comes_back_as_it_was_put(self, store: Store, organization: OrganizationId) -> None:
        row = booking(organization, "Bücher/🙂", revision=2**63 - 1, wanted_set='[["a"], ""]')
        store.bookings.put(row)
        assert store.bookings.get(organization, BookingId("Bücher/🙂")) == row

    def test_putting_it_again_replaces_it(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization))
        second = booking(
            organization,
            revision=2,
            status=BookingStatus.CANCELLED,
            start=0,
            end=0,
            sealed_content="new",
            wanted_set="",
            updated_at=9,
        )
        store.bookings.put(second)
        assert store.bookings.get(organization, B1) == second

    def test_a_booking_with_pushes_can_be_replaced(self, store: Store, organization: OrganizationId) -> None:
        row = add_push(store, add_connection(store, organization))
        store.bookings.put(booking(organization, revision=2))
        assert store.outbox.get(row.id) == row

    def test_organizations_may_use_the_same_id(
        self, store: Store, organization: OrganizationId, stranger: OrganizationId
    ) -> None:
        store.bookings.put(booking(organization, revision=1))
        store.bookings.put(booking(stranger, revision=7))
        assert store.bookings.get(organization, B1) == booking(organization, revision=1)

    def test_another_organizations_booking_is_not_there(
        self, store: Store, organization: OrganizationId, stranger: OrganizationId
    ) -> None:
        store.bookings.put(booking(stranger))
        assert store.bookings.get(organization, B1) is None
        assert store.bookings.get_for_update(organization, B1) is None
        assert store.bookings.reseal(organization, B1, SEALED, "new") is False

    def test_ids_differ_by_case_and_space(self, store: Store, organization: OrganizationId) -> None:
        for booking_id in ("b", "B", "b ", " b", "b\u0301"):
            store.bookings.put(booking(organization, booking_id))
        assert len(list(store.bookings.sealed_contents())) == 5

    def test_a_nul_is_refused_or_kept_but_never_cut(self, store: Store, organization: OrganizationId) -> None:
        row = booking(organization, "a\0b")
        try:
            store.bookings.put(row)
        except StoreError:
            assert store.bookings.get(organization, BookingId("a")) is None
        else:
            assert store.bookings.get(organization, BookingId("a\0b")) == row

    @pytest.mark.parametrize("change", [{"revision": 2**63}, {"sealed_content": "\ud800"}])
    def test_what_no_column_can_hold_is_a_store_error(
        self, store: Store, organization: OrganizationId, change: dict[str, object]
    ) -> None:
        with pytest.raises(StoreError):
            store.bookings.put(booking(organization, **change))
        assert store.bookings.get(organization, B1) is None


class TestForUpdate:
    @pytest.mark.parametrize("there", [True, False], ids=["there", "not there yet"])
    def test_a_second_transaction_waits_for_the_first(
        self, store: Store, organization: OrganizationId, there: bool
    ) -> None:
        if there:
            store.bookings.put(booking(organization))
        seen: list[object] = []

        def second() -> None:
            with store.transaction():
                seen.append(store.bookings.get_for_update(organization, B1))

        thread = threading.Thread(target=second)
        with store.transaction():
            store.bookings.get_for_update(organization, B1)
            thread.start()
            store.bookings.put(booking(organization, revision=2))
            thread.join(0.2)
            assert seen == []
        thread.join(30)
        assert seen == [booking(organization, revision=2)]

    def test_no_change_is_lost_between_many_that_read_and_write(
        self, store: Store, organization: OrganizationId
    ) -> None:
        def grow() -> None:
            for _ in range(10):
                with store.transaction():
                    row = store.bookings.get_for_update(organization, B1)
                    revision = row.revision + 1 if row else 1
                    store.bookings.put(booking(organization, revision=revision))

        assert at_once([grow] * 8) == [None] * 8
        row = store.bookings.get(organization, B1)
        assert row is not None
        assert row.revision == 80


class TestOverlay:
    @pytest.mark.parametrize(
        ("start", "end", "touches"),
        [
            (0, 1000, False),
            (0, 1001, True),
            (1500, 1600, True),
            (0, 9999, True),
            (1999, 3000, True),
            (2000, 3000, False),
        ],
    )
    def test_what_touches_the_half_open_window_is_laid_over(
        self, store: Store, organization: OrganizationId, start: int, end: int, touches: bool
    ) -> None:
        store.bookings.put(booking(organization, start=start, end=end))
        row = add_push(store, add_connection(store, organization))
        expected = [OverlayRow(row.connection_id, row.calendar_id, B1, start, end, row.event_id)] if touches else []
        assert store.bookings.overlay([row.connection_id], WINDOW) == expected

    @pytest.mark.parametrize("state", list(EventState))
    def test_every_state_blocks_but_detached(
        self, store: Store, organization: OrganizationId, state: EventState
    ) -> None:
        store.bookings.put(booking(organization, start=1100, end=1200))
        row = add_push(store, add_connection(store, organization), state=state, event_id="")
        found = store.bookings.overlay([row.connection_id], WINDOW)
        assert bool(found) == (state is not EventState.DETACHED)

    def test_a_cancelled_booking_does_not_block(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization, start=1100, end=1200, status=BookingStatus.CANCELLED))
        row = add_push(store, add_connection(store, organization))
        assert store.bookings.overlay([row.connection_id], WINDOW) == []

    def test_a_dropped_connection_is_not_blocked(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization, start=1100, end=1200))
        row = add_push(store, add_connection(store, organization), wanted="absent")
        assert store.bookings.overlay([row.connection_id], WINDOW) == []

    def test_only_the_asked_connections_are_looked_at(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization, start=1100, end=1200))
        first, second = (add_connection(store, organization, number) for number in (1, 2))
        add_push(store, first)
        add_push(store, second)
        assert [row.connection_id for row in store.bookings.overlay([second.id], WINDOW)] == [second.id]
        assert store.bookings.overlay([], WINDOW) == []

    def test_an_equal_id_of_another_organization_lends_no_time(
        self, store: Store, organization: OrganizationId, stranger: OrganizationId
    ) -> None:
        store.bookings.put(booking(organization, start=1100, end=1200))
        store.bookings.put(booking(stranger, start=5000, end=6000))
        row = add_push(store, add_connection(store, stranger))
        assert store.bookings.overlay([row.connection_id], WINDOW) == []


class TestSealedContents:
    def test_all_are_told_across_organizations(
        self, store: Store, organization: OrganizationId, stranger: OrganizationId
    ) -> None:
        for number in range(230):
            store.bookings.put(booking(organization, f"b{number:03}"))
            store.bookings.put(booking(stranger, f"b{number:03}"))
        found = list(store.bookings.sealed_contents())
        assert len(found) == len(set(found)) == 460

    def test_resealing_loses_to_a_new_revision(self, store: Store, organization: OrganizationId) -> None:
        store.bookings.put(booking(organization))
        newer = booking(organization, revision=2, sealed_content="newer")
        store.bookings.put(newer)
        assert store.bookings.reseal(organization, B1, SEALED, "new") is False
        assert store.bookings.get(organization, B1) == newer

    def test_resealing_changes_the_content_alone(self, store: Store, organization: OrganizationId) -> None:
        row = booking(organization)
        store.bookings.put(row)
        assert store.bookings.reseal(organization, B1, SEALED, "new") is True
        assert store.bookings.get(organization, B1) == dataclasses.replace(row, sealed_content="new")
