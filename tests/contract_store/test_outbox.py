"""Named queries about the outbox: claims, leases, and what ends them."""

from __future__ import annotations

import dataclasses
import threading
from collections import Counter

import pytest

from calendar_server.core.model import (
    DAY,
    HOUR,
    SECOND,
    BookingId,
    BookingStatus,
    Connection,
    ConnectionId,
    ConnectionStatus,
    EventId,
    EventState,
    OrganizationId,
)
from calendar_server.store.claims import CLAIMS
from calendar_server.store.outbox import NOW
from calendar_server.store.rows import OursRow, OutboxRow
from calendar_server.store.store import Store, StoreError
from tests.contract_store.examples import add_connection, add_push, at_once, booking, outbox_row


@pytest.fixture
def account(store: Store, organization: OrganizationId) -> Connection:
    return add_connection(store, organization)


def claim(store: Store, limit: int = 10, lease_s: float = 60, mailbox_limit: int = 10) -> list[OutboxRow]:
    return store.outbox.claim(limit=limit, lease_s=lease_s, mailbox_limit=mailbox_limit)


def claimed(store: Store, of: Connection, **changes: object) -> OutboxRow:
    """A row under a lease of an hour."""
    add_push(store, of, **changes)
    (row,) = claim(store, lease_s=3600)
    return row


def current(store: Store, row: OutboxRow) -> OutboxRow:
    found = store.outbox.get(row.id)
    assert found is not None
    return found


def run_out(store: Store, row: OutboxRow) -> None:
    """Move the end of its lease into the past."""
    store.outbox.put(dataclasses.replace(current(store, row), lease_until=store.now() - SECOND))


class TestKeeping:
    def test_a_row_comes_back_as_it_was_put(self, store: Store, account: Connection) -> None:
        row = add_push(
            store,
            account,
            generation=3,
            wanted="absent",
            wanted_revision=2**62,
            pushed_revision=4,
            state=EventState.FAILED,
            etag='W/"é"',
            web_link="https://example.org/e",
            attempts=9,
            due_at=None,
            problem_reason="PROVIDER_REFUSED",
            problem_message="Nein.",
            lease_token="t",
            lease_until=77,
            pushed_at=8,
        )
        assert store.outbox.get(row.id) == row

    def test_an_unknown_one_is_none(self, store: Store) -> None:
        assert store.outbox.get("row") is None

    def test_a_booking_has_one_row_in_a_connection(self, store: Store, account: Connection) -> None:
        add_push(store, account)
        with pytest.raises(StoreError):
            add_push(store, account, id="another")

    def test_a_row_can_go_on_under_another_connection(
        self, store: Store, organization: OrganizationId, account: Connection
    ) -> None:
        row = add_push(store, account)
        moved = dataclasses.replace(row, connection_id=add_connection(store, organization, 2).id)
        store.outbox.put(moved)
        assert store.outbox.of_booking(organization, row.booking_id) == [moved]

    def test_a_bookings_rows_are_told_oldest_first(self, store: Store, organization: OrganizationId) -> None:
        for number, row_id in ((1, "c"), (2, "a"), (3, "B")):
            add_push(store, add_connection(store, organization, number), id=row_id)
        found = store.outbox.of_booking(organization, BookingId("b1"))
        assert [row.id for row in found] == ["B", "a", "c"]

    def test_another_organizations_rows_are_not_there(
        self, store: Store, account: Connection, stranger: OrganizationId
    ) -> None:
        add_push(store, account)
        assert store.outbox.of_booking(stranger, BookingId("b1")) == []

    def test_a_row_of_no_booking_is_refused(self, store: Store, account: Connection) -> None:
        with pytest.raises(StoreError):
            store.outbox.put(outbox_row(account))

    def test_nobody_finishes_a_row_that_a_transaction_is_replacing(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        outcome: list[bool] = []
        thread = threading.Thread(
            target=lambda: outcome.append(
                store.outbox.finish(row.id, row.lease_token, 1, "present", state=EventState.SYNCED)
            )
        )
        with store.transaction():
            (read,) = store.outbox.of_booking(row.organization_id, row.booking_id)
            thread.start()
            thread.join(0.2)
            store.outbox.put(dataclasses.replace(read, wanted_revision=2))
        thread.join(30)
        assert outcome == [False]

    def test_states_are_counted(self, store: Store, organization: OrganizationId) -> None:
        for number, state in enumerate((EventState.SYNCED, EventState.SYNCED, EventState.GONE)):
            add_push(store, add_connection(store, organization, number), state=state)
        assert store.outbox.counts() == {
            "pending": 0,
            "synced": 2,
            "failed": 0,
            "removed": 0,
            "gone": 1,
            "detached": 0,
        }


class TestOurs:
    def test_events_of_ours_are_told_with_whether_they_count(self, store: Store, account: Connection) -> None:
        row = add_push(store, account)
        expected = OursRow(account.id, account.calendar_id, row.event_id, row.booking_id, counts=True)
        assert store.outbox.ours([account.id]) == [expected]

    def test_an_event_without_an_id_is_not_recognised(self, store: Store, account: Connection) -> None:
        add_push(store, account, event_id="")
        assert store.outbox.ours([account.id]) == []

    def test_a_dropped_one_does_not_count(self, store: Store, account: Connection) -> None:
        add_push(store, account, wanted="absent", state=EventState.REMOVED)
        assert [row.counts for row in store.outbox.ours([account.id])] == [False]

    def test_a_cancelled_one_does_not_count(self, store: Store, account: Connection) -> None:
        store.bookings.put(booking(account.organization_id, status=BookingStatus.CANCELLED))
        add_push(store, account)
        assert [row.counts for row in store.outbox.ours([account.id])] == [False]

    def test_other_connections_events_are_not_told(
        self, store: Store, organization: OrganizationId, account: Connection
    ) -> None:
        add_push(store, account)
        assert store.outbox.ours([add_connection(store, organization, 2).id]) == []
        assert store.outbox.ours([]) == []


class TestClaiming:
    def test_a_due_row_is_leased_by_database_time(self, store: Store, account: Connection) -> None:
        row = add_push(store, account)
        before = store.now()
        (taken,) = claim(store, lease_s=60)
        assert before + 60 * SECOND <= taken.lease_until <= store.now() + 60 * SECOND
        assert len(taken.lease_token) >= 32
        assert current(store, row) == taken
        assert dataclasses.replace(taken, lease_token="", lease_until=0) == row

    @pytest.mark.parametrize(
        "changes",
        [
            {"due_at": None},
            {"due_at": 2**60},
            {"lease_token": "t", "lease_until": 2**60},
            {"state": EventState.SYNCED},
            {"state": EventState.FAILED},
            {"state": EventState.DETACHED},
        ],
        ids=["never", "later", "leased", "synced", "failed", "detached"],
    )
    def test_what_is_not_due_is_left(self, store: Store, account: Connection, changes: dict[str, object]) -> None:
        add_push(store, account, **changes)
        assert claim(store) == []

    def test_an_account_that_needs_its_owner_is_left(self, store: Store, account: Connection) -> None:
        add_push(store, account)
        store.connections.note_refusal(account.id, 1, "refused")
        assert claim(store) == []

    def test_a_disconnected_account_is_left(self, store: Store, account: Connection) -> None:
        add_push(store, account)
        store.connections.disconnect(account.organization_id, account.id, 1)
        assert claim(store) == []

    def test_the_longest_due_come_first(self, store: Store, organization: OrganizationId) -> None:
        for number, due_at in ((1, 30), (2, 10), (3, 20)):
            add_push(store, add_connection(store, organization, number), due_at=due_at)
        assert [row.connection_id for row in claim(store, limit=2)] == ["cal_0002", "cal_0003"]

    def test_a_lease_that_ran_out_can_be_claimed_anew(self, store: Store, account: Connection) -> None:
        first = claimed(store, account)
        assert claim(store) == []
        run_out(store, first)
        (second,) = claim(store)
        assert second.id == first.id
        assert second.lease_token != first.lease_token

    def test_a_lease_that_ran_out_counts_as_an_attempt(self, store: Store, account: Connection) -> None:
        first = claimed(store, account)
        run_out(store, first)
        (second,) = claim(store)
        assert (first.attempts, second.attempts, current(store, second).attempts) == (0, 1, 1)
        store.outbox.release(second.id, second.lease_token)
        assert claim(store)[0].attempts == 1

    def test_a_mailbox_has_no_more_leases_than_its_limit(self, store: Store, account: Connection) -> None:
        for number in range(5):
            add_push(store, account, f"b{number}", due_at=number)
        assert [row.booking_id for row in claim(store, mailbox_limit=2)] == ["b0", "b1"]
        assert claim(store, mailbox_limit=2) == []
        assert [row.booking_id for row in claim(store, mailbox_limit=3)] == ["b2"]

    def test_a_lease_that_ran_out_does_not_fill_a_mailbox(self, store: Store, account: Connection) -> None:
        first = claimed(store, account, due_at=5)
        run_out(store, first)
        add_push(store, account, "b2", due_at=1)
        assert [row.booking_id for row in claim(store, mailbox_limit=1)] == ["b2"]

    def test_a_full_mailbox_holds_up_no_other(self, store: Store, organization: OrganizationId) -> None:
        crowded, quiet = (add_connection(store, organization, number) for number in (1, 2))
        for number in range(50):
            add_push(store, crowded, f"b{number}", due_at=1)
        add_push(store, quiet, "last", due_at=9)
        taken = claim(store, limit=3, mailbox_limit=2)
        assert Counter(row.connection_id for row in taken) == {crowded.id: 2, quiet.id: 1}

    def test_few_among_many_that_are_not_due_are_found(self, store: Store, organization: OrganizationId) -> None:
        accounts = [add_connection(store, organization, number) for number in range(3)]
        for number in range(60):
            add_push(store, accounts[number % 3], f"later{number}", due_at=2**60)
        for number in range(3):
            add_push(store, accounts[number], f"now{number}", due_at=3 - number)
        assert [row.booking_id for row in claim(store, limit=2, mailbox_limit=2)] == ["now2", "now1"]
        assert [row.booking_id for row in claim(store, limit=2, mailbox_limit=2)] == ["now0"]

    def test_two_claimers_never_get_the_same_row(self, store: Store, organization: OrganizationId) -> None:
        accounts = [add_connection(store, organization, number) for number in range(4)]
        for number in range(40):
            add_push(store, accounts[number % 4], f"b{number}")

        def claimer() -> list[str]:
            mine: list[str] = []
            while rows := claim(store, limit=3, mailbox_limit=40):
                mine += [row.id for row in rows]
            return mine

        taken = Counter(row_id for mine in at_once([claimer] * 6) for row_id in mine)
        assert set(taken.values()) == {1}
        # A claimer may end early when others hold the rows that it looked at; nothing is lost by that.
        assert len(taken) + len(claim(store, limit=40, mailbox_limit=40)) == 40

    def test_claimers_at_once_keep_to_the_limit_of_a_mailbox(self, store: Store, account: Connection) -> None:
        for number in range(30):
            add_push(store, account, f"b{number}")
        outcomes = at_once([lambda: claim(store, limit=10, mailbox_limit=4)] * 8)
        assert sum(len(rows) for rows in outcomes) == 4

    def test_a_mailbox_that_fills_between_look_and_lease_is_left(self, store: Store, account: Connection) -> None:
        for number in range(4):
            add_push(store, account, f"b{number}", due_at=number + 10)
        outcome: list[list[OutboxRow]] = []
        thread = threading.Thread(target=lambda: outcome.append(claim(store, mailbox_limit=2)))
        with store.transaction():
            store._database.serialize(CLAIMS)
            thread.start()
            thread.join(0.2)
            for number in (7, 8):
                add_push(store, account, f"b{number}", lease_token="theirs", lease_until=2**60)
        thread.join(30)
        assert outcome == [[]]

    def test_nothing_due_takes_no_writer(self, store: Store, account: Connection) -> None:
        add_push(store, account, due_at=None)
        outcome: list[list[OutboxRow]] = []
        thread = threading.Thread(target=lambda: outcome.append(claim(store)))
        with store.transaction():
            thread.start()
            thread.join(10)
            assert outcome == [[]]

    def test_a_row_that_a_transaction_holds_is_passed_over(
        self, store: Store, organization: OrganizationId, account: Connection
    ) -> None:
        if store.is_sqlite:
            pytest.skip("a transaction of SQLite is the only writer")
        held = add_push(store, account, due_at=1)
        free = add_push(store, add_connection(store, organization, 2), "b2", due_at=2)
        outcome: list[list[OutboxRow]] = []
        thread = threading.Thread(target=lambda: outcome.append(claim(store)))
        with store.transaction():
            store.outbox.of_booking(organization, held.booking_id)
            thread.start()
            thread.join(10)
            assert [row.id for rows in outcome for row in rows] == [free.id]


class TestLeases:
    def test_finishing_stores_the_changes_and_ends_the_lease(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        done = store.outbox.finish(
            row.id, row.lease_token, 1, "present", state=EventState.SYNCED, due_at=None, pushed_revision=1, etag="e"
        )
        assert done is True
        assert current(store, row) == dataclasses.replace(
            row,
            state=EventState.SYNCED,
            due_at=None,
            pushed_revision=1,
            etag="e",
            lease_token="",
            lease_until=0,
        )

    def test_an_older_revision_cannot_be_finished(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        newer = dataclasses.replace(row, wanted_revision=2)
        store.outbox.put(newer)
        assert store.outbox.finish(row.id, row.lease_token, 1, "present", state=EventState.SYNCED) is False
        assert current(store, row) == newer

    def test_what_is_no_longer_wanted_cannot_be_finished(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        store.outbox.put(dataclasses.replace(row, wanted="absent"))
        assert store.outbox.finish(row.id, row.lease_token, 1, "present", state=EventState.SYNCED) is False

    def test_an_old_token_changes_nothing(self, store: Store, account: Connection) -> None:
        first = claimed(store, account)
        run_out(store, first)
        (second,) = claim(store)
        assert store.outbox.finish(first.id, first.lease_token, 1, "present", etag="e") is False
        assert store.outbox.hold(first.id, first.lease_token, etag="e") is False
        assert store.outbox.release(first.id, first.lease_token, etag="e") is False
        assert current(store, first) == second

    def test_the_empty_token_is_nobodys(self, store: Store, account: Connection) -> None:
        row = add_push(store, account)
        assert store.outbox.finish(row.id, "", 1, "present", etag="e") is False
        assert store.outbox.release(row.id, "", etag="e") is False
        assert current(store, row) == row

    def test_a_finish_makes_kept_answers_old_and_one_that_fails_does_not(
        self, store: Store, account: Connection
    ) -> None:
        def version() -> int:
            return store.mirror.heads(account.organization_id, [account.id], "")[0][0].version

        row, told, seen = claimed(store, account), [], version()
        store._database.told.append(told.append)
        assert not store.outbox.finish(row.id, "other", 1, "present", state=EventState.SYNCED)
        assert (version(), told) == (seen, [])
        assert store.outbox.finish(row.id, row.lease_token, 1, "present", state=EventState.SYNCED)
        assert (version(), told) == (seen + 1, [{account.id}])

    def test_now_is_the_databases_time(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        before = store.now()
        assert store.outbox.finish(row.id, row.lease_token, 1, "present", updated_at=NOW, pushed_at=NOW)
        found = current(store, row)
        assert before <= found.updated_at <= store.now()
        assert before <= found.pushed_at <= store.now()

    def test_a_lease_stands_until_it_ends_or_something_newer_is_wanted(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        assert store.outbox.stands(row, account.id) == (True, True)
        assert store.outbox.stands(dataclasses.replace(row, lease_token="other"), account.id)[0] is False
        assert store.outbox.stands(dataclasses.replace(row, lease_token=""), account.id)[0] is False
        assert store.outbox.stands(dataclasses.replace(row, id="none"), account.id)[0] is False
        assert store.outbox.stands(dataclasses.replace(row, wanted_revision=2), account.id)[0] is False
        run_out(store, row)
        assert store.outbox.stands(row, account.id) == (False, True)
        store.connections.disconnect(account.organization_id, account.id, 1)
        assert store.outbox.stands(row, account.id)[1] is False

    def test_what_a_push_begins_with_is_read_at_once(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        load = store.loads.of([row])[row.id]
        assert load.connection == store.connections.get(account.organization_id, account.id)
        assert load.grant == store.connections.grant(account.id)
        assert load.booking == store.bookings.get(row.organization_id, row.booking_id)
        assert abs(load.now - store.now()) < SECOND
        assert store.loads.of([dataclasses.replace(row, connection_id=ConnectionId("other"))]) == {}
        store.connections.disconnect(account.organization_id, account.id, 1)
        assert store.loads.of([row]) == {}

    def test_a_finish_works_once(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        outcomes = at_once([lambda: store.outbox.finish(row.id, row.lease_token, 1, "present")] * 4)
        assert sorted(outcomes) == [False, False, False, True]

    def test_a_lease_that_ran_out_unclaimed_can_still_be_finished(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        run_out(store, row)
        assert store.outbox.finish(row.id, row.lease_token, 1, "present", etag="e") is True

    def test_holding_keeps_the_lease(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        assert store.outbox.hold(row.id, row.lease_token, generation=2, event_id="e2") is True
        assert current(store, row) == dataclasses.replace(row, generation=2, event_id=EventId("e2"))

    def test_a_lease_that_ran_out_cannot_be_held(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        run_out(store, row)
        assert store.outbox.hold(row.id, row.lease_token, generation=2) is False
        assert current(store, row).generation == 1

    def test_a_lease_can_be_released_whatever_is_wanted_now(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        newer = dataclasses.replace(row, wanted="absent", wanted_revision=2)
        store.outbox.put(newer)
        assert store.outbox.release(row.id, row.lease_token, etag="e") is True
        assert current(store, row) == dataclasses.replace(newer, etag="e", lease_token="", lease_until=0)

    @pytest.mark.parametrize("column", ["lease_token", "lease_until", "id", "colour"])
    def test_only_columns_that_may_change_can_be_named(self, store: Store, account: Connection, column: str) -> None:
        row = claimed(store, account)
        with pytest.raises(TypeError, match=column):
            store.outbox.hold(row.id, row.lease_token, **{column: "x"})


class TestDetaching:
    def test_late_finishes_fail(self, store: Store, account: Connection) -> None:
        row = claimed(store, account)
        assert store.outbox.detach(account.id, 9) == 1
        assert store.outbox.finish(row.id, row.lease_token, 1, "present", state=EventState.SYNCED) is False
        assert store.outbox.hold(row.id, row.lease_token, generation=2) is False
        assert store.outbox.release(row.id, row.lease_token) is False
        assert current(store, row) == dataclasses.replace(
            row, state=EventState.DETACHED, due_at=None, lease_token="", lease_until=0, updated_at=9
        )

    def test_removed_ones_stay_removed(self, store: Store, account: Connection) -> None:
        row = add_push(store, account, state=EventState.REMOVED)
        assert store.outbox.detach(account.id, 9) == 0
        assert current(store, row) == row

    def test_other_connections_are_left(self, store: Store, organization: OrganizationId, account: Connection) -> None:
        row = add_push(store, add_connection(store, organization, 2))
        store.outbox.detach(account.id, 9)
        assert current(store, row) == row


class TestWhenNext:
    def test_nothing_waits_in_an_empty_outbox(self, store: Store) -> None:
        assert store.outbox.next_due() is None

    def test_the_earliest_is_told(self, store: Store, organization: OrganizationId) -> None:
        for number, due_at in ((1, 30), (2, 20), (3, None)):
            add_push(store, add_connection(store, organization, number), due_at=due_at)
        assert store.outbox.next_due() == 20

    def test_a_leased_one_waits_for_the_end_of_its_lease(self, store: Store, account: Connection) -> None:
        add_push(store, account, due_at=20, lease_token="t", lease_until=70)
        assert store.outbox.next_due() == 70

    def test_what_cannot_be_claimed_is_not_waited_for(self, store: Store, organization: OrganizationId) -> None:
        for number in (1, 2, 3):
            add_push(store, add_connection(store, organization, number))
        store.connections.note_refusal(ConnectionId("cal_0001"), 1, "refused")
        store.connections.disconnect(organization, ConnectionId("cal_0002"), 1)
        store.outbox.detach(ConnectionId("cal_0003"), 1)
        assert store.outbox.next_due() is None

    def test_pending_rows_are_made_due_as_if_new(self, store: Store, account: Connection) -> None:
        row = add_push(store, account, due_at=None, attempts=7)
        done = add_push(store, account, "b2", state=EventState.SYNCED, due_at=None)
        assert store.outbox.make_due(account.id, 44) == 1
        assert current(store, row) == dataclasses.replace(row, due_at=44, attempts=0)
        assert current(store, done) == done

    def test_an_attempt_that_may_have_made_an_event_is_not_forgotten(self, store: Store, account: Connection) -> None:
        unknown = add_push(store, account, "b1", due_at=None, attempts=7, event_id=EventId(""))
        untried = add_push(store, account, "b2", due_at=None, attempts=0, event_id=EventId(""))
        written = add_push(store, account, "b3", due_at=None, attempts=7, event_id=EventId(""), pushed_revision=1)
        store.outbox.make_due(account.id, 44)
        assert [current(store, row).attempts for row in (unknown, untried, written)] == [1, 0, 0]

    def test_nor_is_one_when_another_connection_takes_the_event_out(
        self, store: Store, organization: OrganizationId
    ) -> None:
        former = add_connection(store, organization, 1, subject="s")
        gone = {"state": EventState.DETACHED, "due_at": None, "attempts": 3}
        for booking_id in ("b1", "b2"):
            store.bookings.put(booking(organization, booking_id, status=BookingStatus.CANCELLED))
        unknown = add_push(store, former, "b1", **gone, event_id=EventId(""))
        written = add_push(store, former, "b2", **gone, pushed_revision=1)
        store.connections.disconnect(organization, former.id, 9)
        heir = add_connection(store, organization, 2, subject="s")
        assert store.outbox.take_over_cancelled(heir.id, 44) == 2
        assert [current(store, row).attempts for row in (unknown, written)] == [1, 0]


class TestGone:
    def test_a_pushed_event_is_gone(self, store: Store, account: Connection) -> None:
        row = add_push(store, account, state=EventState.SYNCED, due_at=None, pushed_revision=1, pushed_at=50)
        assert store.outbox.mark_gone(row.id, pushed_revision=1, before=51, at=60) is True
        assert current(store, row) == dataclasses.replace(row, state=EventState.GONE, updated_at=60)

    def test_a_missing_event_is_gone(self, store: Store, account: Connection) -> None:
        row = add_push(store, account, state=EventState.SYNCED, due_at=None, pushed_revision=1, pushed_at=50)
        assert store.outbox.note_missing(account.id, row.event_id, before=51, at=60) is True
        assert current(store, row) == dataclasses.replace(row, state=EventState.GONE, updated_at=60)

    @pytest.mark.parametrize(
        "changes",
        [
            {"state": EventState.PENDING},
            {"state": EventState.DETACHED},
            {"wanted": "absent"},
            {"wanted_revision": 2},
            {"pushed_at": 51},
        ],
        ids=["pending", "detached", "unwanted", "newer revision", "written after the read began"],
    )
    def test_anything_else_stays(self, store: Store, account: Connection, changes: dict[str, object]) -> None:
        pushed = {"state": EventState.SYNCED, "due_at": None, "pushed_revision": 1, "pushed_at": 50}
        row = add_push(store, account, **{**pushed, **changes})
        assert store.outbox.mark_gone(row.id, pushed_revision=1, before=51, at=60) is False
        assert store.outbox.note_missing(account.id, row.event_id, before=51, at=60) is False
        assert current(store, row) == row

    def test_a_read_of_an_older_revision_says_nothing(self, store: Store, account: Connection) -> None:
        row = add_push(
            store, account, state=EventState.SYNCED, wanted_revision=2, pushed_revision=2, due_at=None, pushed_at=50
        )
        assert store.outbox.mark_gone(row.id, pushed_revision=1, before=51, at=60) is False

    def test_an_event_without_an_id_is_never_missing(self, store: Store, account: Connection) -> None:
        add_push(store, account, event_id="", state=EventState.SYNCED, pushed_revision=1)
        assert store.outbox.note_missing(account.id, EventId(""), before=51, at=60) is False

    def test_the_same_id_in_another_account_stays(
        self, store: Store, organization: OrganizationId, account: Connection
    ) -> None:
        other = add_connection(store, organization, 2)
        row = add_push(store, other, event_id="e", state=EventState.SYNCED, pushed_revision=1)
        assert store.outbox.note_missing(account.id, EventId("e"), before=51, at=60) is False
        assert current(store, row) == row


class TestExpiring:
    NOW = 100 * DAY

    def refused(self, store: Store, account: Connection, end: int, **changes: object) -> OutboxRow:
        store.bookings.put(booking(account.organization_id, start=end - HOUR, end=end))
        row = add_push(store, account, due_at=None, **changes)
        store.connections.note_refusal(account.id, 1, "refused")
        return row

    def test_a_row_that_waited_too_long_for_its_owner_fails(self, store: Store, account: Connection) -> None:
        row = self.refused(store, account, self.NOW - 7 * DAY - 1)
        assert store.outbox.expire(self.NOW, 7 * DAY) == 1
        found = current(store, row)
        assert (found.state, found.due_at, found.problem_reason) == (EventState.FAILED, None, "NEEDS_REAUTH")
        assert found.problem_message

    def test_it_waits_until_then(self, store: Store, account: Connection) -> None:
        row = self.refused(store, account, self.NOW - 7 * DAY)
        assert store.outbox.expire(self.NOW, 7 * DAY) == 0
        assert current(store, row) == row

    def test_a_row_of_an_active_account_is_tried_on(self, store: Store, account: Connection) -> None:
        add_push(store, account)
        assert store.outbox.expire(self.NOW, 7 * DAY) == 0

    @pytest.mark.parametrize(
        "changes",
        [{"state": EventState.SYNCED}, {"lease_token": "t", "lease_until": 2**60}],
        ids=["pushed", "leased"],
    )
    def test_what_does_not_wait_is_left(self, store: Store, account: Connection, changes: dict[str, object]) -> None:
        row = self.refused(store, account, HOUR, **changes)
        assert store.outbox.expire(self.NOW, 7 * DAY) == 0
        assert current(store, row) == row

    def test_an_equal_id_of_another_organization_does_not_expire(
        self, store: Store, account: Connection, stranger: OrganizationId
    ) -> None:
        store.bookings.put(booking(stranger, start=1, end=2))
        row = self.refused(store, account, self.NOW)
        assert store.outbox.expire(self.NOW, 7 * DAY) == 0
        assert current(store, row) == row

    def test_the_state_of_the_account_counts_not_its_history(self, store: Store, account: Connection) -> None:
        self.refused(store, account, HOUR)
        store.connections.renew(account.id, sealed_grant="new", account_email="a", settings={})
        found = store.connections.get(account.organization_id, account.id)
        assert found is not None
        assert found.status is ConnectionStatus.ACTIVE
        assert store.outbox.expire(self.NOW, 7 * DAY) == 0


class TestOwners:
    def test_a_lease_that_stands_is_extended_and_one_that_ended_is_not(
        self, store: Store, organization: OrganizationId
    ) -> None:
        for number in (1, 2):
            add_push(store, add_connection(store, organization, number), id=f"row{number}")
        rows = claim(store, lease_s=60)
        run_out(store, rows[1])
        assert store.outbox.extend(rows, 3600) == 1
        first, second = (current(store, row).lease_until for row in rows)
        assert first > store.now() + 3000 * SECOND
        assert second < store.now()

    def test_a_lease_that_is_somebody_elses_by_now_is_not_extended(self, store: Store, account: Connection) -> None:
        old = claimed(store, account)
        run_out(store, old)
        (new,) = claim(store, lease_s=60)
        assert store.outbox.extend([old], 3600) == 0
        assert current(store, new).lease_until == new.lease_until

    def test_an_owners_leases_are_freed_and_nobody_elses(self, store: Store, organization: OrganizationId) -> None:
        for number, owner in enumerate(("me", "mee", "Me", ""), start=1):
            add_push(store, add_connection(store, organization, number), id=f"row{number}")
            assert len(store.outbox.claim(limit=1, lease_s=60, mailbox_limit=1, owner=owner)) == 1
        assert store.outbox.free("me") == 1
        # What came of it is not known, so it was an attempt.
        assert [(row.id, row.attempts) for row in claim(store)] == [("row1", 1)]
