"""Bookings as Microsoft's events: made, changed, taken out, and refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from calendar_server.core.model import Attendee
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    PreconditionFailed,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers.base import RemoteEvent
from calendar_server.providers.microsoft_events import UID_PROPERTY
from tests.fakes.mailbox import Occurrence
from tests.unit.microsoft.desk import UID, Desk, at, booking, local


class TestWriting:
    def test_an_event_shows_what_the_booking_says(self, desk: Desk) -> None:
        desk.put(booking())
        event = desk.only()
        assert (event.members["subject"], event.members["location"]) == ("Meeting", {"displayName": "Room 1"})
        assert (event.when, event.zone) == (Occurrence(local(2, 10), local(2, 11)), "UTC")

    def test_guests_are_text_and_nobody_is_sent_mail(self, desk: Desk) -> None:
        desk.put(booking(attendees=(Attendee("guest@example.org", "A Guest"),)))
        event = desk.only()
        assert event.members["attendees"] == []
        assert "guest@example.org" in str(event.members["body"])
        assert desk.mailbox.mails == []

    def test_a_booking_without_a_title_is_shown_as_busy(self, desk: Desk) -> None:
        desk.put(booking(title=""))
        assert desk.only().members["subject"] == "Busy"

    def test_what_was_written_is_found_by_its_uid(self, desk: Desk) -> None:
        written = desk.put(booking(3))
        found = desk.find()
        assert found is not None
        assert (found.event_id, found.revision, found.etag) == (written.event_id, 3, written.etag)

    def test_what_was_written_is_found_by_its_id(self, desk: Desk) -> None:
        written = desk.put(booking())
        assert desk.find(written.event_id) == desk.find()

    def test_the_web_link_is_told(self, desk: Desk) -> None:
        assert desk.put(booking()).web_link.startswith("https://outlook.office365.com/")

    def test_nothing_is_found_before_it_is_written(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 10), local(2, 11))
        assert desk.find() is None

    def test_an_event_with_another_uid_is_not_ours(self, desk: Desk) -> None:
        event = desk.mailbox.add(local(2, 10), local(2, 11))
        event.properties[UID_PROPERTY] = UID[::-1]
        assert desk.find() is None

    def test_a_change_is_made_in_place(self, desk: Desk) -> None:
        first = desk.put(booking())
        second = desk.put(booking(2, start=at(3, 10), end=at(3, 11)), first)
        assert second.event_id == first.event_id
        assert desk.only().when == Occurrence(local(3, 10), local(3, 11))

    def test_a_change_leaves_guests_alone_that_the_owner_invited(self, desk: Desk) -> None:
        first = desk.put(booking())
        guests = [{"emailAddress": {"address": "friend@example.org"}, "type": "required"}]
        desk.only().members["attendees"] = guests
        desk.put(booking(2), first)
        assert desk.only().members.pop("attendees") == guests
        desk.mailbox.mails.clear()

    def test_a_change_of_another_version_is_refused(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.change(known.event_id, subject="Mine")
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), known)
        assert desk.only().members["subject"] == "Mine"

    def test_a_change_of_what_was_deleted_means_to_look_again(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.delete(known.event_id)
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), known)

    def test_an_equal_repetition_makes_no_second_event(self, desk: Desk) -> None:
        assert desk.put(booking()).event_id == desk.put(booking()).event_id
        assert len(desk.mailbox.events) == 1

    def test_an_event_whose_answer_was_lost_is_found_again(self, desk: Desk) -> None:
        desk.microsoft.cut_next("POST")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())
        desk.mailbox.forget_transactions()
        found = desk.find()
        assert found is not None
        desk.put(booking(), found)
        assert len(desk.mailbox.events) == 1

    def test_a_uid_that_is_taken_means_to_look_again(self, desk: Desk) -> None:
        desk.put(booking())
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))

    def test_an_answer_with_the_times_of_an_earlier_revision_means_to_look_again(self, desk: Desk) -> None:
        earlier = (
            b'{"id": "e", "@odata.etag": "W/1", "start": {"dateTime": "2026-12-01T10:00:00.0000000", "timeZone": "UTC"},'
            b' "end": {"dateTime": "2026-12-01T11:00:00.0000000", "timeZone": "UTC"}}'
        )
        desk.microsoft.fail_next(201, body=earlier, method="POST")
        with pytest.raises(PreconditionFailed):
            desk.put(booking())

    def test_an_event_that_its_owner_moved_to_another_calendar_is_found_by_its_id(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.mailbox.move(written.event_id, desk.mailbox.add_calendar("Other"))
        found = desk.find(written.event_id)
        assert found is not None
        assert found.event_id == written.event_id

    def test_of_an_event_and_its_copy_the_older_one_is_ours(self, desk: Desk) -> None:
        written = desk.put(booking())
        copied = desk.mailbox.copy(written.event_id)
        copied.id = "A" + copied.id
        found = desk.find()
        assert found is not None
        assert found.event_id == written.event_id

    def test_an_id_that_is_not_known_any_more_leaves_the_uid_to_look_by(self, desk: Desk) -> None:
        written = desk.put(booking())
        found = desk.find("AAkALgAAanother")
        assert found is not None
        assert found.event_id == written.event_id

    def test_an_event_is_taken_out(self, desk: Desk) -> None:
        desk.delete(desk.put(booking()))
        assert desk.mailbox.events == {}

    def test_taking_out_what_is_gone_succeeds(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.delete(known.event_id)
        desk.delete(known)
        assert desk.mailbox.events == {}

    def test_another_version_is_not_taken_out(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.mailbox.change(known.event_id, subject="Mine")
        with pytest.raises(PreconditionFailed):
            desk.delete(known)
        assert len(desk.mailbox.events) == 1

    def test_taking_out_whose_answer_was_lost_can_be_repeated(self, desk: Desk) -> None:
        known = desk.put(booking())
        desk.microsoft.cut_next("DELETE")
        with pytest.raises(ProviderUnavailable):
            desk.delete(known)
        desk.delete(known)
        assert desk.mailbox.events == {}

    def test_a_calendar_that_can_only_be_read_says_so(self, desk: Desk) -> None:
        desk.calendar = desk.mailbox.add_calendar("Holidays", can_edit=False)
        with pytest.raises(CalendarReadOnly):
            desk.put(booking())

    def test_a_calendar_that_was_deleted_is_gone(self, desk: Desk) -> None:
        del desk.mailbox.calendars[desk.calendar.id]
        with pytest.raises(CalendarGone):
            desk.put(booking())
        with pytest.raises(CalendarGone):
            desk.find()

    @pytest.mark.parametrize("status", [400, 413, 415, 422, 507])
    def test_an_event_that_is_refused_as_it_is_says_so(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status, method="POST")
        with pytest.raises(ProviderRefused):
            desk.put(booking())

    @pytest.mark.parametrize("status", [400, 500, 502, 504])
    def test_looking_that_fails_is_not_the_events_fault(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.find()

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_a_write_that_fails_may_be_tried_again(self, desk: Desk, status: int) -> None:
        desk.microsoft.fail_next(status, method="POST")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())
        desk.put(booking())
        assert len(desk.mailbox.events) == 1

    @pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"id": 7}'])
    def test_a_write_whose_answer_cannot_be_read_is_unavailable(self, desk: Desk, body: bytes) -> None:
        desk.microsoft.fail_next(201, method="POST", body=body)
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())

    def test_two_writers_of_one_booking_make_one_event(self, desk: Desk) -> None:
        _ = desk.link
        together = threading.Barrier(2)

        def write() -> RemoteEvent:
            together.wait(5)
            return desk.put(booking())

        with ThreadPoolExecutor(2) as pool:
            written = [future.result() for future in [pool.submit(write) for _ in range(2)]]
        assert written[0].event_id == written[1].event_id == desk.only().id
