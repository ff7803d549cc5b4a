"""The text of the events that we write over CalDAV, and what is read back of it."""

from __future__ import annotations

import icalendar
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.core.model import SECOND, Attendee
from calendar_server.providers.caldav_events import Standing, standing, time_zone_name, written
from calendar_server.providers.wording import event_text, event_title, when
from tests.contract.worlds import at, booking

NOW = at(1) // SECOND


def parsed(text: bytes) -> icalendar.Event:
    (event,) = icalendar.Calendar.from_ical(text).walk("VEVENT")
    return event


class TestWritten:
    FULL = booking(
        7,
        title="Interview, second; round\nwith Ümit",
        description="Bring your CV.",
        location="Room 1; upstairs",
        attendees=(Attendee("bob@example.com", "Bob"), Attendee("eve@example.com")),
        url="https://example.com/b/1?x=1,2;3",
    )

    def test_everything_that_servers_demand_is_there(self) -> None:
        text = written("uid1", self.FULL, sequence=3, now=NOW)
        event, calendar = parsed(text), icalendar.Calendar.from_ical(text)
        assert (calendar["VERSION"], bool(calendar["PRODID"])) == ("2.0", True)
        assert (event["UID"], event["SEQUENCE"], event["STATUS"], event["TRANSP"]) == ("uid1", 3, "CONFIRMED", "OPAQUE")
        assert event["SUMMARY"] == self.FULL.title
        assert {"DTSTAMP", "CREATED", "LAST-MODIFIED"} <= set(event)

    def test_times_are_in_utc(self) -> None:
        text = written("uid1", self.FULL, sequence=0, now=NOW)
        assert b"DTSTART:20261202T100000Z\r\nDTEND:20261202T110000Z\r\n" in text

    def test_nobody_is_invited_or_mailed(self) -> None:
        text = written("uid1", self.FULL, sequence=0, now=NOW).decode().upper()
        lines = text.replace("\r\n ", "").split("\r\n")
        names = {line.partition(":")[0].partition(";")[0] for line in lines}
        assert not names & {"ATTENDEE", "ORGANIZER", "METHOD", "BEGIN:VALARM"}
        assert "BEGIN:VALARM" not in lines

    def test_guests_place_and_link_can_be_read_by_the_owner(self) -> None:
        event = parsed(written("uid1", self.FULL, sequence=0, now=NOW))
        assert event["LOCATION"] == "Room 1; upstairs"
        assert event["URL"] == "https://example.com/b/1?x=1,2;3"
        for word in ("Bring your CV.", "Bob <bob@example.com>", "eve@example.com", "11:00 – 12:00 (Europe/Berlin)"):
            assert word in event["DESCRIPTION"]

    def test_a_booking_without_a_title_has_one_in_the_calendar(self) -> None:
        assert parsed(written("uid1", booking(title=" "), sequence=0, now=NOW))["SUMMARY"] == "Busy"

    @pytest.mark.parametrize("url", ["not a link", "javascript:alert(1)", "https://x\r\nATTENDEE:mailto:a@b"])
    def test_only_a_link_is_written_as_one(self, url: str) -> None:
        assert "URL" not in parsed(written("uid1", booking(url=url), sequence=0, now=NOW))

    def test_lines_are_folded_at_75_bytes(self) -> None:
        text = written("uid1", booking(description="ü" * 4000), sequence=0, now=NOW)
        assert max(map(len, text.split(b"\r\n"))) <= 75

    @given(st.text(max_size=200), st.text(max_size=200))
    @settings(max_examples=40, deadline=None)
    def test_no_text_breaks_out_of_its_property(self, title: str, description: str) -> None:
        text = written("uid1", booking(4, title=title, description=description), sequence=2, now=NOW)
        told = standing(text.decode())
        assert told is not None
        assert (told.uid, told.revision, told.sequence, told.kept) == ("uid1", 4, 2, ())

    @given(st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\n\t"), max_size=200))
    @settings(max_examples=100, deadline=None)
    def test_a_text_is_read_by_others_as_it_was_meant(self, text: str) -> None:
        told = booking(4, title=text, description=text, location=text)
        event = parsed(written("uid1", told, sequence=2, now=NOW))
        assert event["SUMMARY"] == event_title(told)
        assert event["DESCRIPTION"] == event_text(told)
        assert event.get("LOCATION", "") == text.strip()
        assert event.decoded("DTSTART").timestamp() * SECOND == told.start
        assert event.decoded("DTEND").timestamp() * SECOND == told.end


class TestStanding:
    def test_what_was_written_is_read_back(self) -> None:
        text = written("uid1", booking(9), sequence=5, now=NOW).decode()
        assert standing(text) == Standing("uid1", 9, 5, "20261201T000000Z", ())

    @pytest.mark.parametrize("text", ["", "<html></html>", "BEGIN:VCALENDAR\nEND:VCALENDAR", "BEGIN:VEVENT\nUID:x"])
    def test_what_is_no_event_is_none(self, text: str) -> None:
        assert standing(text) is None

    @pytest.mark.parametrize("value", ["", "x", "-1", "1" * 50, "²", "1.5"])
    def test_numbers_that_are_none_count_as_zero(self, value: str) -> None:
        told = standing(f"BEGIN:VCALENDAR\nBEGIN:VEVENT\nUID:u\nSEQUENCE:{value}\nEND:VEVENT\nEND:VCALENDAR")
        assert told is not None
        assert told.sequence == 0

    def test_overrides_that_the_owner_made_do_not_count(self) -> None:
        master = written("uid1", booking(2), sequence=1, now=NOW).decode()
        override = "BEGIN:VEVENT\r\nUID:uid1\r\nSEQUENCE:9\r\nX-CALENDARS-REVISION:8\r\nEND:VEVENT\r\n"
        told = standing(master.replace("END:VCALENDAR", f"{override}END:VCALENDAR"))
        assert told is not None
        assert (told.revision, told.sequence) == (2, 1)


class TestKept:
    def changed(self, added: str) -> str:
        text = written("uid1", booking(1), sequence=0, now=NOW).decode()
        before = standing(text.replace("END:VEVENT", f"{added}END:VEVENT"))
        return written("uid1", booking(2), sequence=1, now=NOW + 60, before=before).decode()

    @pytest.mark.parametrize(
        "own",
        [
            "CATEGORIES:work,travel\r\n",
            "COLOR:turquoise\r\n",
            "BEGIN:VALARM\r\nACTION:DISPLAY\r\nTRIGGER;RELATED=START:-PT15M\r\nDESCRIPTION:x\r\nEND:VALARM\r\n",
            "BEGIN:VALARM\r\nACTION:AUDIO\r\nTRIGGER:-PT5M\r\nEND:VALARM\r\n",
        ],
    )
    def test_reminders_and_marks_of_the_owner_stay(self, own: str) -> None:
        assert own in self.changed(own)

    @pytest.mark.parametrize(
        "own",
        [
            "BEGIN:VALARM\r\nACTION:EMAIL\r\nTRIGGER:-PT15M\r\nATTENDEE:mailto:a@example.com\r\nEND:VALARM\r\n",
            "BEGIN:VALARM\r\nACTION:DISPLAY\r\nTRIGGER:-PT15M\r\nATTENDEE:mailto:a@example.com\r\nEND:VALARM\r\n",
            "BEGIN:VALARM\r\nACTION:DISPLAY\r\nEND:VALARM\r\n",
            "BEGIN:VALARM\r\nACTION:PROCEDURE\r\nTRIGGER:-PT15M\r\nATTACH:x\r\nEND:VALARM\r\n",
            "ATTENDEE:mailto:guest@example.com\r\n",
            "ORGANIZER:mailto:anna@example.com\r\n",
            "RRULE:FREQ=DAILY\r\n",
            "TRANSP:TRANSPARENT\r\n",
            f"CATEGORIES:{'x' * 20_000}\r\n",
        ],
    )
    def test_what_mails_somebody_or_changes_the_appointment_does_not(self, own: str) -> None:
        text = self.changed(own)
        assert own.replace("\r\n", "")[:40] not in text.replace("\r\n", "")
        assert text.count("TRANSP:OPAQUE") == 1

    def test_the_time_of_creation_stays(self) -> None:
        assert "CREATED:20261201T000000Z" in self.changed("")


class TestWording:
    def test_the_time_is_told_in_the_zone_of_the_booking(self) -> None:
        assert when(booking(time_zone="America/New_York")) == "Wed 2 Dec 2026, 05:00 – 06:00 (America/New_York)"

    def test_a_time_over_midnight_names_both_days(self) -> None:
        told = when(booking(start=at(2, 22), end=at(3, 1), time_zone="UTC"))
        assert told == "Wed 2 Dec 2026, 22:00 – Thu 3 Dec 2026, 01:00 (UTC)"

    @pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "/etc/localtime"])
    def test_a_zone_that_is_not_known_is_utc(self, zone: str) -> None:
        assert when(booking(time_zone=zone)).endswith("10:00 – 11:00 (UTC)")

    def test_the_title_is_never_empty(self) -> None:
        assert event_title(booking(title="")) == "Busy"

    def test_the_text_has_only_what_there_is(self) -> None:
        assert event_text(booking()) == "When: Wed 2 Dec 2026, 11:00 – 12:00 (Europe/Berlin)"


def test_the_name_of_a_zone_is_found_in_its_text() -> None:
    assert time_zone_name("BEGIN:VCALENDAR\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/\r\n Berlin\r\n") == "Europe/Berlin"
    assert time_zone_name("nothing") == ""
