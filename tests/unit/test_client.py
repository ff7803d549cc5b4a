"""The client library against a service with memory on a loopback port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import grpc
import pytest

import calendar_client
from calendar_client import CalendarClient, TlsOptions, errors
from calendar_client.channel import is_local
from calendars.v1 import availability_pb2, booking_pb2, calendar_service_pb2, connection_pb2, errors_pb2
from tests.fakes.blocking import blocking
from tests.fakes.fake_service import API_KEY, PASSWORD, Event, Failure, FakeService, running

NINE = datetime(2026, 3, 16, 9, tzinfo=UTC)
WEEK = {"start": NINE, "end": NINE + timedelta(days=7)}


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        yield service


@pytest.fixture(params=["threads", "asyncio"])
def client(request: pytest.FixtureRequest, service: FakeService) -> Iterator[CalendarClient]:
    """Both clients: each test holds for either."""
    made = CalendarClient if request.param == "threads" else blocking
    with made(service.address, API_KEY) as client:
        yield client


def failing(client: CalendarClient, service: FakeService, failure: Failure) -> errors.CalendarServiceError:
    """How GetBooking fails when the service answers so."""
    service.fail("GetBooking", failure)
    with pytest.raises(errors.CalendarServiceError) as caught:
        client.get_booking("b")
    return caught.value


class TestCalls:
    def test_connecting_caldav_answers_the_connection(self, client: CalendarClient, service: FakeService) -> None:
        connection = client.connect_caldav(
            preset="nextcloud",
            username="anna@example.org",
            password=PASSWORD,
            server_url="https://cloud.example.org",
            owner="u1",
        )
        assert service.connections[connection.id].owner == "u1"
        sent = service.received["Connect"]
        assert isinstance(sent, calendar_service_pb2.ConnectRequest)
        assert sent.caldav.preset == connection_pb2.CALDAV_PRESET_NEXTCLOUD
        assert sent.caldav.server_url == "https://cloud.example.org"

    def test_connecting_google_answers_the_page_to_open(self, client: CalendarClient) -> None:
        assert client.connect_google(redirect_uri="https://app.example/cb").startswith("https://accounts.example.com/")

    def test_connecting_microsoft_sends_tenant_and_state(self, client: CalendarClient, service: FakeService) -> None:
        client.connect_microsoft(redirect_uri="https://app.example/cb", tenant="contoso", client_state="s")
        sent = service.received["Connect"]
        assert isinstance(sent, calendar_service_pb2.ConnectRequest)
        assert (sent.microsoft.tenant, sent.client_state) == ("contoso", "s")

    def test_listing_runs_over_all_pages(self, client: CalendarClient, service: FakeService) -> None:
        for number in range(5):
            service.add_connection(f"cal_{number}")
        assert [each.id for each in client.list(page_size=2)] == ["cal_4", "cal_3", "cal_2", "cal_1", "cal_0"]
        assert service.arrivals["List"] == 3

    def test_listing_asks_for_no_page_before_it_is_needed(self, client: CalendarClient, service: FakeService) -> None:
        for number in range(5):
            service.add_connection(f"cal_{number}")
        assert len(list(islice(client.list(page_size=2), 2))) == 2
        assert service.arrivals["List"] == 1

    def test_an_empty_owner_lists_those_without_one(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1")
        service.add_connection("cal_2", owner="u1")
        assert [each.id for each in client.list(owner="")] == ["cal_1"]
        assert len(list(client.list())) == 2

    def test_filters_are_words(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1", provider=connection_pb2.PROVIDER_GOOGLE)
        service.add_connection("cal_2", status=connection_pb2.CONNECTION_STATUS_NEEDS_REAUTH)
        assert [each.id for each in client.list(provider="google")] == ["cal_1"]
        assert [each.id for each in client.list(status="needs_reauth")] == ["cal_2"]
        assert [each.id for each in client.list(provider=connection_pb2.PROVIDER_CALDAV)] == ["cal_2"]

    def test_disconnecting_twice_answers_the_same(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1")
        assert client.disconnect("cal_1") == client.disconnect("cal_1")
        assert service.connections == {}

    def test_updating_changes_only_what_is_given(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1", calendars=("/a/", "/b/"))
        assert client.update_connection("cal_1", calendar_id="/b/").busy_calendar_ids == ["/a/", "/b/"]
        changed = client.update_connection("cal_1", busy_calendar_ids=[])
        assert (changed.calendar_id, list(changed.busy_calendar_ids)) == ("/b/", [])

    def test_calendars_are_listed(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1", calendars=("/a/work/", "/a/home/"), blocks=("/a/work/",))
        assert [each.blocks for each in client.list_calendars("cal_1").calendars] == [True, False]

    def test_busy_intervals_come_in_the_asked_view(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1")
        service.events["cal_1", "/dav/anna/work/"] = [Event(NINE, NINE + timedelta(hours=1))]
        merged = client.get_busy(**WEEK)
        explained = client.get_busy(["cal_1"], view="explained", **WEEK)
        assert merged.busy[0].start_time.ToDatetime(UTC) == NINE
        assert not merged.calendars[0].events
        assert explained.calendars[0].events[0].reason == availability_pb2.BLOCK_REASON_BUSY

    def test_a_staleness_of_zero_is_sent_and_none_is_not(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection()
        for given, sent in ((timedelta(), True), (None, False)):
            client.get_busy(max_staleness=given, **WEEK)
            request = service.received["GetBusy"]
            assert isinstance(request, calendar_service_pb2.GetBusyRequest)
            assert request.HasField("max_staleness") is sent

    def test_a_booking_arrives_as_it_was_given(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection()
        berlin = datetime(2026, 3, 17, 10, tzinfo=ZoneInfo("Europe/Berlin"))
        answer = client.sync_booking(
            "b1",
            3,
            title="Interview",
            start=berlin,
            end=berlin + timedelta(minutes=30),
            time_zone="Europe/Berlin",
            attendees=["a@b.c", ("d@e.f", "Dora"), booking_pb2.Attendee(email="g@h.i")],
        )
        assert answer.booking == service.bookings["b1"] == client.get_booking("b1").booking
        assert answer.booking.start_time.ToDatetime(UTC) == datetime(2026, 3, 17, 9, tzinfo=UTC)
        assert [each.email for each in answer.booking.attendees] == ["a@b.c", "d@e.f", "g@h.i"]
        assert answer.events[0].state == booking_pb2.BOOKING_EVENT_STATE_SYNCED

    def test_cancelling_needs_only_id_and_revision(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection()
        client.sync_booking("b1", 1, title="T", start=NINE, end=NINE + timedelta(hours=1))
        cancelled = client.sync_booking("b1", 2, status="cancelled")
        assert (cancelled.booking.title, cancelled.booking.status) == ("T", booking_pb2.BOOKING_STATUS_CANCELLED)


class TestArguments:
    def test_a_time_without_zone_is_refused(self, client: CalendarClient) -> None:
        with pytest.raises(ValueError, match="start has no time zone"):
            client.get_busy(start=datetime(2026, 3, 16), end=NINE)

    @pytest.mark.parametrize(
        "attendees",
        ["a@b.c", [{"email": "a@b.c", "name": "Anna"}], [("a@b.c",)], [("a@b.c", "Anna", "x")], [("a@b.c", None)]],
    )
    def test_what_is_no_attendee_is_refused(self, client: CalendarClient, attendees: Any) -> None:
        with pytest.raises(ValueError, match="ttendee"):
            client.sync_booking("b1", 1, title="T", start=NINE, end=NINE + timedelta(hours=1), attendees=attendees)

    def test_an_unknown_word_is_refused_with_the_words_there_are(self, client: CalendarClient) -> None:
        with pytest.raises(ValueError, match="apple, fastmail, nextcloud, custom"):
            client.connect_caldav(preset="yahoo", username="u", password="p")

    def test_unspecified_is_not_a_word(self, client: CalendarClient) -> None:
        with pytest.raises(ValueError, match="is not a BusyView"):
            client.get_busy(view="unspecified", **WEEK)

    def test_a_bare_string_is_not_a_list_of_ids(self, client: CalendarClient) -> None:
        with pytest.raises(ValueError, match="takes a list"):
            client.get_busy("cal_1", **WEEK)

    def test_an_update_of_nothing_is_refused(self, client: CalendarClient) -> None:
        with pytest.raises(ValueError, match="Nothing to change"):
            client.update_connection("cal_1")

    def test_a_key_with_a_line_end_is_refused_and_not_shown(self) -> None:
        with pytest.raises(ValueError, match="API key") as caught:
            CalendarClient(api_key="calkey_1_secret\n")
        assert "secret" not in str(caught.value)

    def test_the_key_never_travels_readable_to_another_machine(self) -> None:
        with pytest.raises(ValueError, match="without TLS"):
            CalendarClient("calendar.example.org:50051", API_KEY)
        CalendarClient("calendar.example.org:50051", API_KEY, tls=TlsOptions()).close()
        CalendarClient("calendar.example.org:50051", API_KEY, plaintext=True).close()

    @pytest.mark.parametrize(
        ("address", "local"),
        [
            ("127.0.0.1:50051", True),
            ("localhost:50051", True),
            ("[::1]:50051", True),
            ("unix:/run/calendar.sock", True),
            ("dns:///127.0.0.1:1", True),
            ("0.0.0.0:50051", False),
            ("localhost.example.org:50051", False),
            ("dns://9.9.9.9/localhost:50051", False),
            ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ],
    )
    def test_only_loopback_and_sockets_are_this_machine(self, address: str, local: bool) -> None:
        assert is_local(address) is local

    def test_a_certificate_without_its_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match="go together"):
            TlsOptions(certificate_chain=b"pem")

    def test_nothing_secret_is_in_a_repr(self) -> None:
        with CalendarClient(api_key=API_KEY) as client:
            assert "secret" not in repr(client)
        assert "pem" not in repr(TlsOptions(certificate_chain=b"pem", private_key=b"pem"))


class TestErrors:
    @pytest.mark.parametrize("number", [number for number in errors_pb2.ErrorReason.values() if number])
    def test_every_reason_has_a_class_of_its_own(
        self, number: int, client: CalendarClient, service: FakeService
    ) -> None:
        reason = errors_pb2.ErrorReason.Name(number).removeprefix("ERROR_REASON_")
        error = failing(client, service, Failure(grpc.StatusCode.FAILED_PRECONDITION, reason, "Why."))
        assert type(error) is errors.BY_REASON[reason]
        assert type(error) is not errors.CalendarServiceError
        assert (error.reason, error.message, str(error)) == (reason, "Why.", "Why.")
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION

    def test_all_details_are_read(self, client: CalendarClient, service: FakeService) -> None:
        calendar = availability_pb2.CalendarBusy(connection_id="cal_1", state=availability_pb2.BUSY_STATE_UNKNOWN)
        error = failing(
            client,
            service,
            Failure(
                grpc.StatusCode.FAILED_PRECONDITION,
                "NEEDS_REAUTH",
                metadata=(("connectionId", "cal_1"),),
                retry_after_s=7.5,
                violations=(("booking.title", "is too long."),),
                calendars=(calendar,),
                request_id="r-1",
            ),
        )
        assert error.metadata == {"connectionId": "cal_1"}
        assert error.retry_after_s == 7.5
        assert error.violations == (errors.Violation("booking.title", "is too long."),)
        assert error.busy_failures == (calendar,)
        assert error.request_id == "r-1"
        assert isinstance(error.__cause__, grpc.RpcError)

    def test_details_larger_than_the_usual_limit_arrive(self, client: CalendarClient, service: FakeService) -> None:
        violations = tuple((f"booking.attendees[{n}].email", "is not an e-mail address.") for n in range(300))
        error = failing(
            client, service, Failure(grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", violations=violations)
        )
        assert len(error.violations) == 300

    def test_the_conflict_names_the_connection(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_9")
        with pytest.raises(errors.Conflict) as caught:
            client.connect_caldav(preset="apple", username="anna@example.org", password=PASSWORD)
        assert caught.value.connection_id == "cal_9"

    def test_a_refusal_tells_its_cause(self, client: CalendarClient) -> None:
        with pytest.raises(errors.ProviderRefused) as caught:
            client.connect_caldav(preset="apple", username="u", password="wrong")
        assert caught.value.cause == "credentials"

    @pytest.mark.parametrize(
        ("code", "cls"),
        [
            (grpc.StatusCode.UNAVAILABLE, errors.ServiceUnreachable),
            (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
            (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.LimitExceeded),
            (grpc.StatusCode.DATA_LOSS, errors.CalendarServiceError),
        ],
    )
    def test_a_status_without_details_is_told_by_its_code(
        self,
        code: grpc.StatusCode,
        cls: type[errors.CalendarServiceError],
        client: CalendarClient,
        service: FakeService,
    ) -> None:
        assert type(failing(client, service, Failure(code))) is cls

    def test_a_reason_newer_than_the_library_keeps_its_name(self, client: CalendarClient, service: FakeService) -> None:
        error = failing(client, service, Failure(grpc.StatusCode.FAILED_PRECONDITION, "MOON_PHASE"))
        assert type(error) is errors.CalendarServiceError
        assert error.reason == "MOON_PHASE"

    def test_a_reason_of_another_domain_is_not_taken_for_ours(
        self, client: CalendarClient, service: FakeService
    ) -> None:
        failure = Failure(grpc.StatusCode.UNIMPLEMENTED, "NOT_FOUND", domain="proxy.example.org")
        error = failing(client, service, failure)
        assert type(error) is errors.Unimplemented

    def test_details_that_cannot_be_read_do_not_hide_the_error(
        self, client: CalendarClient, service: FakeService
    ) -> None:
        failure = Failure(grpc.StatusCode.NOT_FOUND, raw_details=b"\xff\xff\xff")
        assert type(failing(client, service, failure)) is errors.NotFound

    def test_a_wrong_key_is_unauthorized(self, service: FakeService) -> None:
        for key in ("", "calkey_2_other"):
            with CalendarClient(service.address, key) as client, pytest.raises(errors.Unauthorized):
                next(client.list())

    def test_nobody_at_the_address_is_unreachable(self) -> None:
        with running() as service:
            address = service.address
        with CalendarClient(address, API_KEY) as client, pytest.raises(errors.ServiceUnreachable):
            client.get_booking("b")


class TestNoConnections:
    def test_nothing_to_ask_is_an_error_and_not_free(self, client: CalendarClient) -> None:
        with pytest.raises(errors.NoConnections):
            client.get_busy(**WEEK)

    def test_connections_that_block_nothing_are_nothing_to_ask(
        self, client: CalendarClient, service: FakeService
    ) -> None:
        service.add_connection(blocks=())
        with pytest.raises(errors.NoConnections):
            client.get_busy(**WEEK)

    def test_it_is_an_answer_for_those_who_say_so(self, client: CalendarClient) -> None:
        assert client.get_busy(allow_empty=True, **WEEK).complete


class TestDeadlines:
    @pytest.mark.parametrize(
        ("rpc", "call", "seconds"),
        [
            ("List", lambda client: next(client.list()), 10),
            ("GetBooking", lambda client: client.get_booking("b"), 10),
            ("Disconnect", lambda client: client.disconnect("cal_1"), 10),
            ("GetBusy", lambda client: client.get_busy(**WEEK), 20),
            ("ListCalendars", lambda client: client.list_calendars("cal_1"), 20),
            ("UpdateConnection", lambda client: client.update_connection("cal_1", calendar_id="/a/"), 20),
            ("Connect", lambda client: client.connect_google(redirect_uri="https://a/b"), 20),
            ("SyncBooking", lambda client: client.sync_booking("b", 1, start=NINE, end=NINE), 10),
            (
                "SyncBooking",
                lambda client: client.sync_booking(
                    "b", 1, start=NINE, end=NINE, wait=timedelta(seconds=20), require_free=True
                ),
                40,
            ),
        ],
    )
    def test_every_call_has_one(self, rpc, call, seconds, client: CalendarClient, service: FakeService) -> None:  # type: ignore[no-untyped-def]
        service.add_connection("cal_1")
        service.bookings["b"] = booking_pb2.Booking(id="b")
        call(client)
        assert seconds - 3 < service.deadlines_s[rpc] < seconds + 0.5

    def test_the_call_s_own_stands_above_the_client_s(self, service: FakeService) -> None:
        service.add_connection()
        with CalendarClient(service.address, API_KEY, timeout_s=100) as client:
            next(client.list())
            assert service.deadlines_s["List"] > 90
            next(client.list(timeout_s=5))
            assert service.deadlines_s["List"] < 5.5

    def test_it_ends_a_call_that_is_never_answered(self, client: CalendarClient, service: FakeService) -> None:
        service.stall("GetBooking")
        with pytest.raises(errors.DeadlineExceeded):
            client.get_booking("b", timeout_s=0.2)


class TestRetries:
    def test_what_is_unavailable_is_tried_again(self, client: CalendarClient, service: FakeService) -> None:
        service.add_connection("cal_1")
        service.fail("List", Failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"), times=2)
        assert next(client.list()).id == "cal_1"

    def test_what_a_server_that_ends_had_not_begun_is_tried_again(
        self, client: CalendarClient, service: FakeService
    ) -> None:
        service.add_connection("cal_1")
        service.fail("List", Failure(grpc.StatusCode.CANCELLED), times=1)
        assert next(client.list()).id == "cal_1"

    def test_trying_is_bounded_and_the_error_is_the_service_s(
        self, client: CalendarClient, service: FakeService
    ) -> None:
        service.fail("List", Failure(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", retry_after_s=2))
        with pytest.raises(errors.StoreUnavailable) as caught:
            next(client.list())
        assert service.arrivals["List"] == 3
        assert caught.value.retry_after_s == 2

    def test_a_password_is_tried_once(self, client: CalendarClient, service: FakeService) -> None:
        service.fail("Connect", Failure(grpc.StatusCode.UNAVAILABLE, "PROVIDER_UNAVAILABLE"), times=1)
        with pytest.raises(errors.ProviderUnavailable):
            client.connect_caldav(preset="apple", username="u", password=PASSWORD)
        assert service.arrivals["Connect"] == 1

    @pytest.mark.parametrize("code", [grpc.StatusCode.ABORTED, grpc.StatusCode.FAILED_PRECONDITION])
    def test_nothing_else_is_tried_again(
        self, code: grpc.StatusCode, client: CalendarClient, service: FakeService
    ) -> None:
        failing(client, service, Failure(code, "SLOT_TAKEN"))
        assert service.arrivals["GetBooking"] == 1


class TestPackage:
    def test_the_library_needs_neither_the_server_nor_what_the_command_line_needs(self) -> None:
        script = (
            "import sys, calendar_client\n"
            "print([each for each in ('calendar_server', 'click', 'rich', 'grpc_status') if each in sys.modules])"
        )
        paths = [path for path in sys.path if path]
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "[]"

    def test_all_public_names_are_there(self) -> None:
        tree = {
            name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
        }
        tree -= {"DecodeError"}
        assert tree <= set(calendar_client.__all__)
        assert all(hasattr(calendar_client, name) for name in calendar_client.__all__)
