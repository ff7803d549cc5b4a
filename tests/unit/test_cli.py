"""``calendarctl`` against a service with memory: what it prints, what it sends, how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from calendar_client.cli import cli
from calendar_client.cli_errors import EXIT_CODES, exit_code, next_steps
from calendar_client.cli_json import as_json
from calendar_client.cli_session import Session, clean
from calendar_client.errors import BY_REASON, Details
from calendars.v1 import availability_pb2, booking_pb2, calendar_service_pb2, connection_pb2
from tests.fakes.fake_service import API_KEY, PASSWORD, Event, Failure, FakeService, running

WORK, FAMILY = "/dav/anna/work/", "/dav/anna/family/"


def utc(hour: int, minute: int = 0, day: int = 16) -> datetime:
    return datetime(2026, 3, day, hour, minute, tzinfo=UTC)


@dataclass
class Terminal:
    """Runs ``calendarctl`` as a script would, in Berlin and with 80 columns."""

    service: FakeService

    def __call__(self, *arguments: str, input: str = "", **environment: str | None) -> Result:
        env = {
            "CALENDAR_ADDRESS": self.service.address,
            "CALENDAR_API_KEY": API_KEY,
            "TZ": "Europe/Berlin",
            "COLUMNS": "80",
            "XDG_CONFIG_HOME": "/nowhere",
            **environment,
        }
        return CliRunner().invoke(cli, list(arguments), input=input, env=env)

    def json(self, *arguments: str) -> dict[str, object]:
        done = self(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        read: dict[str, object] = json.loads(done.stdout)
        return read


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        yield service


@pytest.fixture
def ctl(service: FakeService) -> Terminal:
    return Terminal(service)


def busy(ctl: Terminal, *more: str) -> Result:
    return ctl("busy", "--start", "2026-03-16", "--days", "2", *more)


class TestConnect:
    CALDAV = ("connect", "caldav", "--username", "anna@example.org", "--password-stdin")

    def test_the_password_comes_from_standard_input(self, ctl: Terminal, service: FakeService) -> None:
        done = ctl(*self.CALDAV, "--preset", "fastmail", "--owner", "u1", input=f"{PASSWORD}\n")
        assert done.exit_code == 0, done.stderr
        assert service.connections["cal_1"].owner == "u1"
        assert "Connected." in done.stdout
        assert "cal_1" in done.stdout
        assert PASSWORD not in done.output

    def test_no_command_takes_a_password_or_a_key_as_an_argument(self) -> None:
        def options(command: object) -> Iterator[str]:
            for parameter in getattr(command, "params", []):
                yield from parameter.opts
            for each in getattr(command, "commands", {}).values():
                yield from options(each)

        assert {each for each in options(cli) if "pass" in each or "key" in each} == {
            "--password-stdin",
            "--api-key-file",
            "--tls-key",
        }

    def test_a_refused_password_names_the_page_for_app_passwords(self, ctl: Terminal) -> None:
        done = ctl(*self.CALDAV, "--preset", "apple", input="wrong\n")
        assert done.exit_code == 5
        assert "account.apple.com" in done.stderr
        assert "wrong" not in done.stderr

    def test_a_connected_account_is_a_conflict_with_a_way_on(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_7")
        done = ctl(*self.CALDAV, "--preset", "apple", input=f"{PASSWORD}\n")
        assert done.exit_code == 8
        assert "--connection cal_7" in done.stderr

    def test_a_connection_is_renewed_in_place(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_7")
        done = ctl(*self.CALDAV, "--preset", "apple", "--connection", "cal_7", input=f"{PASSWORD}\n")
        assert "Renewed." in done.stdout
        assert list(service.connections) == ["cal_7"]

    @pytest.mark.parametrize(
        ("arguments", "missing"),
        [
            (["--username", "u", "--password-stdin"], "--preset"),
            (["--preset", "apple", "--password-stdin"], "--username"),
            (["--preset", "custom", "--username", "u", "--password-stdin"], "--server-url"),
            (["--preset", "apple", "--username", "u"], "--password-stdin"),
        ],
    )
    def test_a_script_is_told_what_is_missing(self, arguments: list[str], missing: str, ctl: Terminal) -> None:
        done = ctl("connect", "caldav", *arguments, input="p\n")
        assert done.exit_code == 2
        assert missing in done.stderr

    def test_a_person_is_asked_and_the_password_is_not_shown(self, service: FakeService) -> None:
        shown, code = on_a_terminal(
            service, ["connect", "caldav"], [b"apple\n", b"bo@example.org\n", PASSWORD.encode() + b"\n"]
        )
        assert code == 0, shown
        assert "app-specific password" in shown
        assert PASSWORD not in shown
        assert service.connections["cal_1"].account_email == "bo@example.org"

    @pytest.mark.parametrize("provider", ["google", "microsoft"])
    def test_the_page_to_open_stands_alone_on_standard_output(self, provider: str, ctl: Terminal) -> None:
        uri = "https://app.example.org/" + "long/" * 40
        done = ctl("connect", provider, "--redirect-uri", uri)
        assert done.stdout.strip().endswith(uri)
        assert len(done.stdout.splitlines()) == 1
        assert "ten minutes" in done.stderr


def on_a_terminal(service: FakeService, arguments: list[str], answers: list[bytes]) -> tuple[str, int]:
    """Run the command on a terminal of its own; after each question (a colon and a blank) type the next answer."""
    parent, child = pty.openpty()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "CALENDAR_ADDRESS": service.address,
        "CALENDAR_API_KEY": API_KEY,
        "TERM": "dumb",
    }
    command = [sys.executable, "-m", "calendar_client.cli", *arguments]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=env, start_new_session=True
    ) as running_:
        os.close(child)
        shown, left = b"", list(answers)
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if left and shown.endswith(b": "):
                os.write(parent, left.pop(0))
        code = running_.wait(timeout=30)
    os.close(parent)
    return shown.decode(), code


class TestList:
    def test_every_connection_is_shown_with_its_id(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_aaaaaaaaaaaaaaaaaaaaaaaa", calendars=(WORK, FAMILY))
        shown = ctl("list").stdout
        assert "anna@example.org" in shown
        assert "cal_aaaaaaaaaaaaaaaaaaaaaaaa" in shown
        assert "bookings go to work" in shown
        assert "work and family block" in shown

    def test_a_dead_grant_says_what_to_do(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(
            "cal_1",
            status=connection_pb2.CONNECTION_STATUS_NEEDS_REAUTH,
            sync_status=connection_pb2.SYNC_STATUS_EXPIRED,
            sync_error="The provider no longer accepts our access.",
        )
        shown = ctl("list").stdout
        assert "must be connected again" in shown
        assert "calendarctl connect caldav --connection cal_1" in shown

    def test_a_failed_conversation_is_told(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(sync_status=connection_pb2.SYNC_STATUS_ERROR, sync_error="The server answered 503.")
        assert "The server answered 503." in ctl("list").stdout

    def test_json_is_the_documented_one(self, ctl: Terminal, service: FakeService) -> None:
        connection = service.add_connection("cal_1")
        connection.ClearField("last_sync_at")
        assert ctl.json("list") == {
            "data": [
                {
                    "id": "cal_1",
                    "provider": "caldav",
                    "calendar_id": WORK,
                    "account_email": "anna@example.org",
                    "connected_at": "2026-03-01T10:00:00Z",
                    "status": "active",
                    "last_sync_at": None,
                    "sync_status": "connected",
                    "sync_error": None,
                    "owner": "",
                    "busy_calendar_ids": [WORK],
                }
            ],
            "has_more": False,
        }

    def test_a_limit_says_that_there_is_more(self, ctl: Terminal, service: FakeService) -> None:
        for number in range(3):
            service.add_connection(f"cal_{number}")
        assert ctl.json("list", "--limit", "2")["has_more"] is True
        assert ctl.json("list", "--limit", "3")["has_more"] is False

    def test_filters_are_passed_on(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1", owner="u1")
        service.add_connection("cal_2")
        assert "cal_2" not in ctl("list", "--owner", "u1").stdout
        assert "cal_1" not in ctl("list", "--owner", "").stdout

    def test_nothing_connected_says_how_to_begin(self, ctl: Terminal) -> None:
        assert "calendarctl connect caldav" in ctl("list").stdout

    def test_texts_from_elsewhere_cannot_move_the_cursor(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(account_email="\x1b[2J\u202eevil[bold]@example.org")
        shown = ctl("list").stdout
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "evil[bold]@example.org" in shown


class TestCalendars:
    def test_what_blocks_and_what_receives_is_shown(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1", calendars=(WORK, FAMILY), blocks=(WORK,))
        shown = ctl("calendars", "cal_1").stdout
        assert "Work   blocks · receives bookings" in shown
        assert "Family   does not block · read only" in shown
        assert FAMILY in shown

    def test_choosing_changes_only_what_was_said(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1", calendars=(WORK, FAMILY))
        assert ctl("choose", "cal_1", "--blocks", FAMILY).exit_code == 0
        assert list(service.connections["cal_1"].busy_calendar_ids) == [FAMILY]
        assert service.connections["cal_1"].calendar_id == WORK
        ctl("choose", "cal_1", "--bookings", FAMILY, "--blocks-none")
        assert list(service.connections["cal_1"].busy_calendar_ids) == []
        assert service.connections["cal_1"].calendar_id == FAMILY

    def test_choosing_nothing_is_refused(self, ctl: Terminal) -> None:
        assert ctl("choose", "cal_1").exit_code == 2


class TestDisconnect:
    def test_one_is_ended_and_the_rest_stays(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1")
        service.add_connection("cal_2")
        assert ctl.json("disconnect", "cal_1") == {"id": "cal_1", "deleted": True}
        assert list(service.connections) == ["cal_2"]

    def test_a_repeat_succeeds(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1")
        assert [ctl("disconnect", "cal_1").exit_code for _ in range(2)] == [0, 0]

    def test_all_needs_a_yes(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1")
        assert ctl("disconnect", "--all").exit_code == 2
        assert list(service.connections) == ["cal_1"]
        assert ctl("disconnect", "--all", "--yes").exit_code == 0
        assert service.connections == {}

    def test_a_person_who_says_no_keeps_it(self, service: FakeService) -> None:
        service.add_connection("cal_1")
        _, code = on_a_terminal(service, ["disconnect", "cal_1"], [b"n\n"])
        assert code == 1
        assert list(service.connections) == ["cal_1"]


class TestBusy:
    def test_the_week_is_drawn_in_the_local_zone(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        service.events["cal_1", WORK] = [Event(utc(8), utc(9, 30))]
        shown = busy(ctl).stdout
        assert "16 – 17 March 2026   Europe/Berlin (CET, UTC+1)" in shown
        assert "Mon 16 Mar · · · · · · ┊ · · ███ · ┊" in shown
        assert "09:00 – 10:30  1 h 30 min" in shown
        assert "1 calendar, read at" in shown
        assert "INCOMPLETE" not in shown

    def test_a_month_is_a_page_of_a_calendar(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(calendars=(WORK, FAMILY))
        service.events["cal_1", WORK] = [Event(utc(8), utc(9, 30))]
        service.events["cal_1", FAMILY] = [Event(utc(12, day=31), utc(14, day=31))]
        shown = ctl("busy", "--start", "2026-03-16", "--month").stdout
        assert "1 – 31 March 2026" in shown
        assert "16 1h30" in shown
        assert "31 2h" in shown
        assert "work    1 h 30 min" in shown
        assert "family         2 h" in shown
        sent = service.received["GetBusy"]
        assert isinstance(sent, calendar_service_pb2.GetBusyRequest)
        # Clocks go forward on the 29th.
        assert sent.start_time.ToJsonString() == "2026-02-28T23:00:00Z"
        assert sent.end_time.ToJsonString() == "2026-03-31T22:00:00Z"

    def test_a_month_and_a_number_of_days_exclude_each_other(self, ctl: Terminal) -> None:
        assert ctl("busy", "--month", "--days", "3").exit_code == 2

    def test_another_zone_moves_it(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        service.events["cal_1", WORK] = [Event(utc(8), utc(9, 30))]
        shown = busy(ctl, "--zone", "Asia/Tokyo").stdout
        assert "17:00 – 18:30" in shown
        sent = service.received["GetBusy"]
        assert isinstance(sent, calendar_service_pb2.GetBusyRequest)
        assert sent.start_time.ToJsonString() == "2026-03-15T15:00:00Z"

    def test_several_calendars_are_told_apart(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(calendars=(WORK, FAMILY))
        service.events["cal_1", WORK] = [Event(utc(8), utc(9))]
        service.events["cal_1", FAMILY] = [Event(utc(12), utc(13))]
        lines = busy(ctl).stdout.splitlines()
        assert next(line for line in lines if "09:00 – 10:00" in line).rstrip().endswith("work")
        assert next(line for line in lines if "13:00 – 14:00" in line).rstrip().endswith("family")

    def test_a_free_time_says_so(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        assert "Nothing blocks: all of it is free." in busy(ctl).stdout

    def test_a_calendar_that_cannot_be_read_fails_and_is_named(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(calendars=(WORK, FAMILY))
        service.unknown["cal_1", FAMILY] = (availability_pb2.BUSY_STATE_UNKNOWN, "The server answered 503.")
        done = busy(ctl)
        assert done.exit_code == 6
        assert done.stdout == ""
        assert FAMILY in done.stderr
        assert "--partial" in done.stderr
        assert "5 s" in done.stderr

    def test_unknown_is_loud_in_words_and_hatched(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection(calendars=(WORK, FAMILY))
        service.unknown["cal_1", FAMILY] = (availability_pb2.BUSY_STATE_UNKNOWN, "The server answered 503.")
        done = busy(ctl, "--partial")
        assert done.exit_code == 9
        assert "INCOMPLETE" in done.stdout
        assert "do not take it for free" in done.stdout
        assert "family: unknown. The server answered 503." in done.stdout
        assert "░" * 48 in done.stdout
        assert " free\n" not in done.stdout

    @pytest.mark.parametrize("state", [availability_pb2.BUSY_STATE_STALE, availability_pb2.BUSY_STATE_FRESH])
    def test_doubt_is_not_drawn_as_free(self, state: int, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        service.unknown["cal_1", WORK] = (state, "One event could not be read.")
        done = busy(ctl, "--partial")
        assert done.exit_code == 9
        assert "INCOMPLETE" in done.stdout
        assert "One event could not be read." in done.stdout
        assert "╌" * 48 in done.stdout

    def test_a_state_newer_than_the_client_is_unknown(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        service.unknown["cal_1", WORK] = (99, "New.")
        assert "░" * 48 in busy(ctl, "--partial").stdout

    def test_every_event_is_explained(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        reasons = availability_pb2.BlockReason
        service.events["cal_1", WORK] = [
            Event(utc(8), utc(9), reasons.Value("BLOCK_REASON_TENTATIVE")),
            Event(utc(10), utc(11), reasons.Value("BLOCK_REASON_DECLINED")),
            Event(utc(11), utc(12), reasons.Value("BLOCK_REASON_BOOKING"), booking_id="b1"),
            Event(utc(13), utc(13), reasons.Value("BLOCK_REASON_ZERO_LENGTH")),
            Event(None, None, reasons.Value("BLOCK_REASON_UNREADABLE"), event_id="/dav/anna/work/broken.ics"),
        ]
        shown = busy(ctl, "--explain").stdout
        assert "09:00 – 10:00  ■ blocks  tentative" in shown
        assert "11:00 – 12:00  □ free    declined by its owner" in shown
        assert "12:00 – 13:00  ■ blocks  booking b1" in shown
        assert "14:00          □ free    has no length" in shown
        assert "time not known" in shown
        assert "/dav/anna/work/broken.ics" in shown

    def test_every_reason_has_words(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        values = [value for value in availability_pb2.BlockReason.values() if value]
        service.events["cal_1", WORK] = [Event(utc(8), utc(9), value) for value in values]
        assert "_" not in busy(ctl, "--explain").stdout.replace("cal_", "")

    def test_options_reach_the_service(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1")
        busy(ctl, "--connection", "cal_1", "--exclude", "b1", "--exclude", "b2", "--ignore-tentative", "--fresh")
        sent = service.received["GetBusy"]
        assert isinstance(sent, calendar_service_pb2.GetBusyRequest)
        assert list(sent.connection_ids) == ["cal_1"]
        assert list(sent.exclude_booking_ids) == ["b1", "b2"]
        assert sent.ignore_tentative
        assert sent.HasField("max_staleness")

    def test_no_connection_is_not_free(self, ctl: Terminal) -> None:
        done = busy(ctl)
        assert done.exit_code == 3
        assert "not the same as free" in done.stderr

    def test_json_has_the_intervals_and_the_states(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        service.events["cal_1", WORK] = [Event(utc(8), utc(9))]
        answer = ctl.json("busy", "--start", "2026-03-16")
        assert answer["busy"] == [{"start_time": "2026-03-16T08:00:00Z", "end_time": "2026-03-16T09:00:00Z"}]
        assert answer["complete"] is True
        assert isinstance(answer["calendars"], list)
        assert answer["calendars"][0]["state"] == "fresh"

    def test_without_names_the_ids_are_shown(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection("cal_1", calendars=(WORK,))
        service.add_connection("cal_2", calendars=(WORK,))
        service.events["cal_1", WORK] = [Event(utc(8), utc(9))]
        service.fail("List", Failure(grpc.StatusCode.INTERNAL, "INTERNAL"))
        done = busy(ctl)
        assert done.exit_code == 0
        assert "cal_1" in done.stdout

    @pytest.mark.parametrize("arguments", [["--start", "soon"], ["--zone", "Mars/Olympus"], ["--days", "0"]])
    def test_wrong_values_are_usage_errors(self, arguments: list[str], ctl: Terminal) -> None:
        done = ctl("busy", *arguments)
        assert done.exit_code == 2
        assert "Error" in done.stderr


class TestColour:
    def shown(self, service: FakeService, **environment: str) -> str:
        service.add_connection()
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
            "CALENDAR_ADDRESS": service.address,
            "CALENDAR_API_KEY": API_KEY,
            **environment,
        }
        command = [sys.executable, "-m", "calendar_client.cli", "busy"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    def test_a_pipe_gets_none(self, service: FakeService) -> None:
        assert "\x1b" not in self.shown(service)

    def test_no_color_is_obeyed(self, service: FakeService) -> None:
        shown = self.shown(service, FORCE_COLOR="1", TERM="xterm-256color", NO_COLOR="1")
        assert "\x1b[36m" not in shown
        assert "\x1b[33m" not in shown

    def test_a_stream_without_unicode_gets_ascii(self, service: FakeService) -> None:
        shown = self.shown(service, PYTHONIOENCODING="ascii")
        assert ". . . . . . : . . . . . : . . . . . : . . . . ." in shown
        assert "?" not in shown
        assert shown.isascii()


class TestBook:
    BOOK = ("book", "b1", "--title", "Interview", "--start", "2026-03-17T10:00", "--minutes", "45")

    def test_it_is_written_in_the_local_zone_which_is_told(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        done = ctl(*self.BOOK, "--attendee", "Dora <d@e.f>")
        assert done.exit_code == 0, done.stderr
        booking = service.bookings["b1"]
        assert booking.start_time.ToDatetime(UTC) == utc(9, day=17)
        assert booking.end_time.ToDatetime(UTC) == utc(9, 45, day=17)
        assert (booking.time_zone, booking.revision) == ("Europe/Berlin", 1)
        assert booking.attendees[0] == booking_pb2.Attendee(email="d@e.f", name="Dora")
        assert "Tuesday, 17 March 2026, 10:00 – 10:45   45 min   Europe/Berlin (CET, UTC+1)" in done.stdout
        assert "✓ synced  anna@example.org · work  is in the calendar" in done.stdout

    @pytest.mark.parametrize(("drift", "text"), [("MOVED", "its owner moved it"), ("EDITED", "made it free")])
    def test_what_its_owner_did_to_it_is_told(self, ctl: Terminal, service: FakeService, drift: str, text: str) -> None:
        service.add_connection()
        ctl(*self.BOOK)
        service.booking_events["b1"][0].drift = getattr(booking_pb2, f"BOOKING_EVENT_DRIFT_{drift}")
        assert text in " ".join(ctl("booking", "b1").stdout.split())

    def test_a_repeat_is_harmless(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        assert [ctl(*self.BOOK).exit_code for _ in range(2)] == [0, 0]

    def test_an_id_that_is_used_says_so(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        ctl(*self.BOOK)
        done = ctl("book", "b1", "--title", "Other", "--start", "2026-03-17T12:00")
        assert done.exit_code == 2
        assert "calendarctl reschedule" in done.stderr

    def test_a_taken_time_has_its_own_exit_code(self, ctl: Terminal, service: FakeService) -> None:
        service.fail("SyncBooking", Failure(grpc.StatusCode.ABORTED, "SLOT_TAKEN", "Something else blocks it."))
        done = ctl(*self.BOOK, "--require-free")
        assert done.exit_code == 7
        assert "Something else blocks it." in done.stderr

    @pytest.mark.parametrize(
        ("state", "wait", "code", "text"),
        [
            (booking_pb2.BOOKING_EVENT_STATE_PENDING, "1", 9, "It is stored and will be done."),
            (booking_pb2.BOOKING_EVENT_STATE_PENDING, "0", 0, "Next attempt"),
            (booking_pb2.BOOKING_EVENT_STATE_FAILED, "1", 5, "The calendar cannot be written to."),
        ],
    )
    def test_what_is_not_there_yet_is_told(
        self, state: int, wait: str, code: int, text: str, ctl: Terminal, service: FakeService
    ) -> None:
        service.add_connection()
        service.push_state = state
        done = ctl(*self.BOOK, "--wait", wait)
        assert done.exit_code == code
        assert text in done.stdout

    def test_a_booking_that_no_calendar_shows_is_told(self, ctl: Terminal) -> None:
        done = ctl(*self.BOOK)
        assert done.exit_code == 9
        assert "No calendar shows it" in done.stdout

    def test_json_has_numbers_and_words(self, ctl: Terminal, service: FakeService) -> None:
        service.add_connection()
        answer = ctl.json(*self.BOOK)
        assert isinstance(answer["booking"], dict)
        assert answer["booking"]["revision"] == 1
        assert answer["booking"]["status"] == "confirmed"
        assert isinstance(answer["events"], list)
        assert answer["events"][0]["state"] == "synced"

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--start", "2026-03-29T02:30"],
            ["--start", "2026-03-17"],
            ["--start", "2026-03-17T10:00", "--end", "2026-03-17T11:00", "--minutes", "30"],
            ["--start", "2026-03-17T10:00", "--connection", "cal_1", "--owner", "u"],
            ["--start", "2026-03-17T10:00", "--attendee", ""],
        ],
    )
    def test_wrong_values_send_nothing(self, arguments: list[str], ctl: Terminal, service: FakeService) -> None:
        assert ctl("book", "b1", *arguments).exit_code == 2
        assert service.bookings == {}


class TestReschedule:
    @pytest.fixture
    def ctl(self, service: FakeService) -> Terminal:
        service.add_connection("cal_1")
        service.add_connection("cal_2", owner="u2")
        ctl = Terminal(service)
        ctl(*TestBook.BOOK, "--connection", "cal_2", "--location", "Room 2", "--url", "https://a.example/b")
        return ctl

    def test_moving_keeps_everything_else(self, ctl: Terminal, service: FakeService) -> None:
        done = ctl("reschedule", "b1", "--start", "2026-03-18T16:00")
        assert done.exit_code == 0, done.stderr
        booking = service.bookings["b1"]
        assert booking.revision == 2
        assert booking.start_time.ToDatetime(UTC) == utc(15, day=18)
        assert booking.end_time.ToDatetime(UTC) == utc(15, 45, day=18)
        assert (booking.title, booking.location, booking.url) == ("Interview", "Room 2", "https://a.example/b")
        assert booking.time_zone == "Europe/Berlin"

    def test_it_stays_in_the_calendars_that_show_it(self, ctl: Terminal, service: FakeService) -> None:
        ctl("reschedule", "b1", "--start", "2026-03-18T16:00")
        assert [each.connection_id for each in service.booking_events["b1"]] == ["cal_2"]

    def test_a_title_alone_keeps_the_time(self, ctl: Terminal, service: FakeService) -> None:
        before = service.bookings["b1"].end_time
        ctl("reschedule", "b1", "--title", "Second interview")
        assert service.bookings["b1"].title == "Second interview"
        assert service.bookings["b1"].end_time == before

    def test_without_a_calendar_it_asks_where(self, ctl: Terminal, service: FakeService) -> None:
        service.booking_events["b1"][0].state = booking_pb2.BOOKING_EVENT_STATE_DETACHED
        done = ctl("reschedule", "b1", "--start", "2026-03-18T16:00")
        assert done.exit_code == 2
        assert "--connection" in done.stderr
        assert service.bookings["b1"].revision == 1

    def test_a_cancelled_booking_does_not_come_back_by_accident(self, ctl: Terminal, service: FakeService) -> None:
        ctl("cancel", "b1")
        done = ctl("reschedule", "b1", "--start", "2026-03-18T16:00")
        assert done.exit_code == 2
        assert "--revision 3" in done.stderr
        assert service.bookings["b1"].status == booking_pb2.BOOKING_STATUS_CANCELLED

    def test_nothing_to_change_is_refused(self, ctl: Terminal) -> None:
        assert ctl("reschedule", "b1").exit_code == 2

    def test_cancelling_takes_it_out(self, ctl: Terminal, service: FakeService) -> None:
        done = ctl("cancel", "b1")
        assert done.exit_code == 0
        assert service.bookings["b1"].revision == 2
        assert service.bookings["b1"].status == booking_pb2.BOOKING_STATUS_CANCELLED
        assert "✓ removed" in done.stdout

    def test_cancelling_twice_succeeds(self, ctl: Terminal) -> None:
        assert [ctl("cancel", "b1").exit_code for _ in range(2)] == [0, 0]

    def test_a_booking_can_be_looked_at(self, ctl: Terminal) -> None:
        assert "Interview   b1 · revision 1" in ctl("booking", "b1").stdout

    def test_an_unknown_booking_is_not_found(self, ctl: Terminal) -> None:
        for command in (["booking", "b9"], ["cancel", "b9"], ["reschedule", "b9", "--title", "T"]):
            done = ctl(*command)
            assert done.exit_code == 3
            assert "calendarctl book" in done.stderr


class TestErrors:
    @pytest.mark.parametrize("reason", sorted(BY_REASON))
    def test_every_reason_says_what_to_do_next(self, reason: str) -> None:
        cause = {"PROVIDER_REFUSED": "credentials"}.get(reason, "")
        error = BY_REASON[reason]("Why.", Details(metadata={"cause": cause} if cause else {}))
        assert next_steps(error, Session(), "busy")
        assert exit_code(error) in EXIT_CODES

    def test_a_booking_that_cannot_be_opened_is_to_be_sent_anew(self) -> None:
        error = BY_REASON["EVENT_UNREADABLE"]("Why.", Details(metadata={"bookingId": "interview-3", "revision": "4"}))
        [step] = next_steps(error, Session(), "booking")
        assert "calendarctl book interview-3 --revision 5" in step

    @pytest.mark.parametrize(
        ("reason", "code"),
        [
            ("VALIDATION_ERROR", 2),
            ("NOT_FOUND", 3),
            ("UNAUTHORIZED", 4),
            ("NEEDS_REAUTH", 5),
            ("CALENDAR_READ_ONLY", 5),
            ("NOT_CONFIGURED", 5),
            ("PROVIDER_THROTTLED", 6),
            ("EVENT_UNREADABLE", 6),
            ("STORE_UNAVAILABLE", 6),
            ("SERVICE_STOPPING", 6),
            ("SLOT_TAKEN", 7),
            ("CONFLICT", 8),
            ("INTERNAL", 1),
        ],
    )
    def test_the_exit_code_tells_the_kind(self, reason: str, code: int) -> None:
        assert exit_code(BY_REASON[reason]("Why.")) == code

    def test_the_help_lists_the_exit_codes(self, ctl: Terminal) -> None:
        shown = ctl("--help").stdout
        assert all(f"{code}  {meaning}" in shown for code, meaning in EXIT_CODES.items())

        assert "130  stopped by Ctrl-C" in shown

    def test_errors_are_json_for_scripts(self, ctl: Terminal, service: FakeService) -> None:
        failure = Failure(
            grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", "No.", violations=(("page_size", "is negative."),)
        )
        service.fail("List", failure)
        done = ctl("list", "--json")
        assert done.exit_code == 2
        assert done.stdout == ""
        error = json.loads(done.stderr)["error"]
        assert (error["reason"], error["code"]) == ("validation_error", "invalid_argument")
        assert error["violations"] == [{"field": "page_size", "description": "is negative."}]

    def test_every_wrong_field_is_named(self, ctl: Terminal, service: FakeService) -> None:
        wrong = (("booking.title", "is too long."), ("booking.url", "is not a URL."))
        service.fail("SyncBooking", Failure(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", violations=wrong))
        done = ctl(*TestBook.BOOK)
        assert all(name in done.stderr and text in done.stderr for name, text in wrong)

    def test_a_missing_setting_is_named(self, ctl: Terminal, service: FakeService) -> None:
        setting = "CALENDAR_GOOGLE_CLIENT_ID"
        failure = Failure(grpc.StatusCode.FAILED_PRECONDITION, "NOT_CONFIGURED", metadata=(("setting", setting),))
        service.fail("Connect", failure)
        done = ctl("connect", "google", "--redirect-uri", "https://a.example/b")
        assert done.exit_code == 5
        assert setting in done.stderr
        assert "console.cloud.google.com" in done.stderr
        assert "/oauth/google/callback" in done.stderr

    def test_an_internal_error_names_the_request(self, ctl: Terminal, service: FakeService) -> None:
        failure = Failure(grpc.StatusCode.INTERNAL, "INTERNAL", metadata=(("requestId", "r-77"),))
        service.fail("List", failure)
        done = ctl("list")
        assert done.exit_code == 1
        assert "r-77" in done.stderr

    def test_no_service_says_where_it_looked(self, ctl: Terminal) -> None:
        done = ctl("list", "--address", "127.0.0.1:1")
        assert done.exit_code == 6
        assert "127.0.0.1:1" in done.stderr
        assert "calendar-server serve" in done.stderr

    def test_a_call_that_is_not_answered_ends(self, ctl: Terminal, service: FakeService) -> None:
        service.stall("List")
        done = ctl("list", "--timeout", "0.3")
        assert done.exit_code == 6
        assert "--timeout" in done.stderr


class TestKey:
    def test_a_file_serves_as_well_as_the_environment(self, ctl: Terminal, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text(API_KEY + "\n")
        assert ctl("list", "--api-key-file", str(path), CALENDAR_API_KEY=None).exit_code == 0
        assert ctl("--api-key-file", str(path), "list", CALENDAR_API_KEY=None).exit_code == 0

    def test_no_key_says_how_to_get_one(self, ctl: Terminal) -> None:
        done = ctl("list", CALENDAR_API_KEY=None)
        assert done.exit_code == 4
        assert "create-api-key" in done.stderr

    def test_a_wrong_key_is_unauthorized(self, ctl: Terminal) -> None:
        assert ctl("list", CALENDAR_API_KEY="calkey_9_other").exit_code == 4

    def test_a_file_that_is_not_there_is_named(self, ctl: Terminal) -> None:
        done = ctl("list", "--api-key-file", "/nowhere/key")
        assert done.exit_code == 2
        assert "/nowhere/key" in done.stderr

    def test_another_machine_needs_tls(self, ctl: Terminal) -> None:
        done = ctl("list", "--address", "calendar.example.org:50051")
        assert done.exit_code == 2
        assert "--tls" in done.stderr


class TestJson:
    def test_only_the_set_member_of_a_oneof_appears(self) -> None:
        answer = calendar_service_pb2.ConnectResponse(authorization_url="https://a.example/")
        assert as_json(answer) == {"authorization_url": "https://a.example/"}

    def test_an_enum_value_newer_than_the_client_is_kept(self) -> None:
        connection = connection_pb2.Connection.FromString(connection_pb2.Connection(provider=99).SerializeToString())
        assert as_json(connection)["provider"] == "unknown_99"

    def test_control_characters_are_made_visible(self) -> None:
        assert clean("a\x1bb\u2066c\nd") == "a�b�c�d"


def test_the_default_days_begin_today(ctl: Terminal, service: FakeService) -> None:
    service.add_connection()
    ctl("busy", "--zone", "UTC")
    sent = service.received["GetBusy"]
    assert isinstance(sent, calendar_service_pb2.GetBusyRequest)
    start, end = sent.start_time.ToDatetime(UTC), sent.end_time.ToDatetime(UTC)
    assert end - start == timedelta(days=7)
    assert datetime.now(UTC).date() - start.date() <= timedelta(days=1)
    assert isinstance(start.date(), date)
