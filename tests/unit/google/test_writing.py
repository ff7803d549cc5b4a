"""Bookings as Google's events: made, changed, taken out, and refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from calendar_server.core.model import Attendee, BlockReason, EventId
from calendar_server.errors import (
    CalendarGone,
    CalendarReadOnly,
    PreconditionFailed,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
    ScopeMissing,
)
from calendar_server.providers.base import EventRef, RemoteEvent
from tests.fakes.google_accounts import ALL_SCOPES, AUTH
from tests.fakes.google_calendars import Json
from tests.unit.google.desk import UID, Desk, at, booking, soon


class TestWriting:
    def test_the_id_is_the_uid(self, desk: Desk) -> None:
        assert desk.put(booking()).event_id == UID
        assert list(desk.primary.events) == [UID]

    def test_the_event_shows_the_booking(self, desk: Desk) -> None:
        desk.put(booking(url="https://app.example.org/b/1?x=1&y=2"))
        assert desk.event["summary"] == "Meeting"
        assert desk.event["location"] == "Room 1"
        assert str(desk.event["description"]).startswith("About the plan.")
        assert desk.event["source"] == {"title": "Meeting", "url": "https://app.example.org/b/1?x=1&y=2"}
        assert desk.event["start"] == {"dateTime": "2026-12-02T10:00:00Z", "timeZone": "Europe/Berlin"}

    def test_a_booking_without_a_title_is_busy(self, desk: Desk) -> None:
        desk.put(booking(title=""))
        assert desk.event["summary"] == "Busy"

    def test_guests_are_text_and_nobody_is_invited(self, desk: Desk) -> None:
        desk.put(booking(attendees=(Attendee("guest@example.org", "Guest"),)))
        assert "attendees" not in desk.event
        assert "guest@example.org" in str(desk.event["description"])

    def test_every_write_asks_for_no_mail(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.delete(desk.put(booking(2), written))
        writes = [exchange for exchange in desk.google.exchanges if exchange.method != "GET"]
        assert [(w.method, w.query["sendUpdates"]) for w in writes] == [
            ("POST", "none"),
            ("PATCH", "none"),
            ("DELETE", "none"),
        ]

    @pytest.mark.parametrize(
        "url", ["", "javascript:alert(1)", "mailto:a@b.example", "http://", "http://[", "ftp://a.example/"]
    )
    def test_a_page_that_is_none_is_no_source(self, desk: Desk, url: str) -> None:
        desk.put(booking(url=url))
        assert "source" not in desk.event

    def test_it_blocks_and_is_found_with_its_revision(self, desk: Desk) -> None:
        written = desk.put(booking(3))
        assert desk.busy() == [(at(2, 10), at(2, 11), BlockReason.BUSY)]
        assert desk.find() == written
        assert written.revision == 3

    def test_its_link_leads_to_it(self, desk: Desk) -> None:
        assert desk.put(booking()).web_link == desk.event["htmlLink"]

    def test_what_was_never_written_is_not_there(self, desk: Desk) -> None:
        assert desk.find() is None

    def test_a_repeated_insert_makes_no_second_event(self, desk: Desk) -> None:
        desk.put(booking())
        with pytest.raises(PreconditionFailed):
            desk.put(booking())
        assert len(desk.primary.events) == 1

    def test_an_insert_whose_answer_was_lost_is_found(self, desk: Desk) -> None:
        desk.google.cut_next("POST")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())
        assert desk.found().revision == 1

    def test_an_update_whose_answer_was_lost_is_found(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.google.cut_next("PATCH")
        with pytest.raises(ProviderUnavailable):
            desk.put(booking(2), written)
        assert desk.found().revision == 2

    def test_a_token_that_is_over_does_not_write_twice(self, desk: Desk) -> None:
        _ = desk.link
        desk.google.accounts.end_access_tokens()
        desk.put(booking())
        assert (len(desk.primary.events), desk.renewals) == (1, 1)

    def test_an_event_of_a_calendar_with_a_strange_id_is_written_there(self, desk: Desk) -> None:
        shared = desk.shared("writer")
        desk.put(booking())
        assert list(shared.events) == [UID]


class TestUpdating:
    def test_it_moves_in_place(self, desk: Desk) -> None:
        written = desk.put(booking())
        moved = desk.put(booking(2, start=at(3, 14), end=at(3, 15), title="Moved"), written)
        assert desk.busy() == [(at(3, 14), at(3, 15), BlockReason.BUSY)]
        assert (moved.event_id, moved.revision, moved.etag != written.etag) == (UID, 2, True)

    def test_what_its_owner_added_stays(self, desk: Desk) -> None:
        desk.put(booking())
        reminders = {"useDefault": False, "overrides": [{"method": "popup", "minutes": 7}]}
        desk.primary.change(UID, colorId="11", reminders=reminders, visibility="private")
        desk.put(booking(2, title="Other"), desk.found())
        kept = {name: desk.event[name] for name in ("colorId", "reminders", "visibility", "summary")}
        assert kept == {"colorId": "11", "reminders": reminders, "visibility": "private", "summary": "Other"}

    def test_guests_whom_its_owner_invited_are_neither_dropped_nor_sent_mail(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, attendees=[{"email": "ben@gmail.example", "responseStatus": "accepted"}])
        desk.put(booking(2), desk.found())
        assert (len(desk.event["attendees"]), desk.google.mails) == (1, [])  # type: ignore[arg-type]

    def test_properties_of_others_stay(self, desk: Desk) -> None:
        desk.put(booking())
        own = desk.event["extendedProperties"]
        assert isinstance(own, dict)
        own["private"]["other"] = "kept"
        desk.put(booking(2), desk.found())
        assert desk.event["extendedProperties"]["private"]["other"] == "kept"  # type: ignore[index]

    def test_what_the_booking_no_longer_has_is_taken_out(self, desk: Desk) -> None:
        written = desk.put(booking(url="https://app.example.org/b/1"))
        desk.put(booking(2, location="", description="", url=""), written)
        assert ("location" in desk.event, "source" in desk.event) == (False, False)

    def test_an_event_that_its_owner_made_all_day_has_a_time_again(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, start={"date": "2026-12-02"}, end={"date": "2026-12-03"})
        desk.put(booking(2), desk.found())
        assert desk.busy() == [(at(2, 10), at(2, 11), BlockReason.BUSY)]

    def test_an_event_that_its_owner_made_a_series_is_one_event_again(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, recurrence=["RRULE:FREQ=DAILY;COUNT=3"])
        assert len(desk.busy()) == 3
        desk.put(booking(2), desk.found())
        assert len(desk.busy()) == 1

    def test_an_event_that_its_owner_marked_free_blocks_again(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.change(UID, transparency="transparent", status="tentative")
        desk.put(booking(2), desk.found())
        assert desk.busy() == [(at(2, 10), at(2, 11), BlockReason.BUSY)]

    def test_an_event_known_from_elsewhere_is_cleared_of_everything(self, desk: Desk) -> None:
        desk.put(booking(url="https://app.example.org/b/1"))
        desk.primary.change(UID, start={"date": "2026-12-02"}, end={"date": "2026-12-03"})
        found = desk.found()
        desk.put(booking(2), RemoteEvent(found.event_id, found.etag))
        assert ("source" in desk.event, desk.busy()) == (False, [(at(2, 10), at(2, 11), BlockReason.BUSY)])

    def test_an_event_that_was_changed_meanwhile_is_left_alone(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.primary.change(UID, summary="Its owner's")
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), written)
        assert desk.event["summary"] == "Its owner's"

    def test_an_event_that_was_deleted_meanwhile_is_looked_for_again(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.primary.delete(UID)
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2), written)

    @pytest.mark.parametrize("revision", ["", "x", "-1", "9" * 30, "²"])
    def test_a_revision_that_is_no_number_is_none(self, desk: Desk, revision: str) -> None:
        desk.put(booking())
        desk.primary.change(UID, extendedProperties={"private": {"calendarsRevision": revision}})
        assert desk.found().revision == 0


class TestTombstones:
    def bury(self, desk: Desk) -> None:
        desk.put(booking())
        desk.primary.delete(UID)

    def test_a_tombstone_is_no_event(self, desk: Desk) -> None:
        self.bury(desk)
        assert desk.find() is None

    def test_it_is_brought_back_to_life(self, desk: Desk) -> None:
        self.bury(desk)
        written = desk.put(booking(2, start=at(3, 10), end=at(3, 11)))
        assert (desk.find(), written.revision) == (written, 2)
        assert desk.busy() == [(at(3, 10), at(3, 11), BlockReason.BUSY)]

    def test_one_that_stays_dead_has_its_id_spent(self, desk: Desk) -> None:
        self.bury(desk)
        desk.primary.revives = False
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))
        assert desk.find() is None

    def test_one_that_nobody_can_see_any_more_has_its_id_spent(self, desk: Desk) -> None:
        self.bury(desk)
        desk.primary.forget(UID)
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))

    def test_a_new_generation_of_the_id_always_works(self, desk: Desk) -> None:
        self.bury(desk)
        desk.primary.forget(UID)
        other = EventRef(desk.calendar_id, UID[::-1], EventId(UID[::-1]))
        written = desk.provider.put_event(desk.link, other, booking(2), None, soon())
        assert written.event_id == UID[::-1]

    def test_one_that_others_revive_at_the_same_moment_is_left_to_them(self, desk: Desk) -> None:
        self.bury(desk)

        def others(method: str, target: str) -> None:
            if method == "PUT":
                desk.primary.change(UID, status="confirmed", summary="Theirs")

        desk.google.on_request = others
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))
        assert desk.event["summary"] == "Theirs"

    def test_an_update_that_is_said_to_work_and_does_not_has_its_id_spent(self, desk: Desk) -> None:
        self.bury(desk)
        desk.google.fail_next(200, method="PUT", body=json.dumps({**desk.event, "status": "cancelled"}).encode())
        with pytest.raises(PreconditionFailed):
            desk.put(booking(2))

    def test_a_revival_that_is_throttled_is_throttling(self, desk: Desk) -> None:
        self.bury(desk)
        desk.google.fail_next(403, "rateLimitExceeded", method="PUT")
        with pytest.raises(ProviderThrottled):
            desk.put(booking(2))


class TestDeleting:
    def test_it_is_gone(self, desk: Desk) -> None:
        desk.delete(desk.put(booking()))
        assert (desk.find(), desk.busy()) == (None, [])

    @pytest.mark.parametrize("how", ["delete", "forget"])
    def test_what_is_gone_already_is_a_success(self, desk: Desk, how: str) -> None:
        written = desk.put(booking())
        desk.primary.delete(UID)
        known = dataclasses.replace(written, etag=str(desk.event["etag"]))
        if how == "forget":
            desk.primary.forget(UID)
        desk.delete(known)

    def test_once_more_after_a_lost_answer_is_a_success(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.google.cut_next("DELETE")
        with pytest.raises(ProviderUnavailable):
            desk.delete(written)
        desk.delete(written)
        assert desk.find() is None

    def test_what_was_changed_meanwhile_is_left_alone(self, desk: Desk) -> None:
        written = desk.put(booking())
        desk.primary.change(UID, summary="Its owner's")
        with pytest.raises(PreconditionFailed):
            desk.delete(written)
        assert desk.event["status"] == "confirmed"

    def test_in_a_calendar_that_is_gone_there_is_nothing_to_delete(self, desk: Desk) -> None:
        shared = desk.shared("writer")
        written = desk.put(booking())
        desk.google.calendars.drop(shared)
        assert desk.find() is None
        desk.delete(written)


class TestRefusedWrites:
    @pytest.mark.parametrize("role", ["reader", "freeBusyReader"])
    def test_a_calendar_that_may_only_be_read_is_read_only(self, desk: Desk, role: str) -> None:
        desk.shared(role)
        with pytest.raises(CalendarReadOnly):
            desk.put(booking())

    def test_writing_to_a_calendar_that_is_gone_says_so(self, desk: Desk) -> None:
        desk.google.calendars.drop(desk.shared("writer"))
        with pytest.raises(CalendarGone):
            desk.put(booking())

    @pytest.mark.parametrize("status", [400, 413, 415, 422, 507])
    def test_an_event_that_is_refused_as_such_is_refused(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status, "invalid", method="POST")
        with pytest.raises(ProviderRefused):
            desk.put(booking())

    def test_a_zone_that_google_does_not_know_is_refused(self, desk: Desk) -> None:
        with pytest.raises(ProviderRefused):
            desk.put(booking(time_zone="Moon/Base"))

    @pytest.mark.parametrize("reason", ["rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"])
    def test_throttling_is_never_taken_for_read_only(self, desk: Desk, reason: str) -> None:
        desk.google.fail_next(403, reason)
        with pytest.raises(ProviderThrottled):
            desk.put(booking())

    def test_lost_consent_is_never_taken_for_read_only(self, desk: Desk) -> None:
        desk.scopes = ALL_SCOPES - {f"{AUTH}calendar.events"}
        with pytest.raises(ScopeMissing):
            desk.put(booking())

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 402, 405])
    def test_all_else_is_unavailable(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.put(booking())

    @pytest.mark.parametrize("status", [400, 500, 503])
    def test_what_cannot_be_looked_for_is_not_absent(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status)
        with pytest.raises(ProviderUnavailable):
            desk.find()

    @pytest.mark.parametrize(
        "change",
        [{"etag": None}, {"etag": ""}, {"etag": 'a"\r\nX: y'}, {"id": "another"}, {"kind": "calendar#calendar"}],
    )
    def test_an_answer_about_another_event_or_without_an_etag_is_unavailable(self, desk: Desk, change: Json) -> None:
        desk.put(booking())
        desk.google.fail_next(200, body=json.dumps({**desk.event, **change}).encode())
        with pytest.raises(ProviderUnavailable):
            desk.find()
