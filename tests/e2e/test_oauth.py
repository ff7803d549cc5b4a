"""Microsoft from consent to calendar through real ports: Connect, callback, reading, writing, needs_reauth and back."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import grpc
import httpx
import pytest

from calendars.v1 import booking_pb2, connection_pb2
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.conftest import (
    Person,
    Running,
    Stub,
    at,
    busy_request,
    error_info,
    intervals,
    serving,
    span,
    sqlite_settings,
    stamp,
)
from tests.fakes.entra import OAuthAnswer
from tests.fakes.microsoft import GraphUser, MicrosoftFake

LANDING = "https://app.example.org/connected"


@dataclass
class Journey:
    """A service whose Microsoft is the fake on this machine, and a caller of it."""

    service: Running
    stub: Stub
    microsoft: MicrosoftFake
    people: dict[str, GraphUser] = field(default_factory=dict)

    def user(self, **more: str | None) -> str:
        """Somebody new at Microsoft."""
        name = f"person{len(self.people)}"
        self.people[name] = self.microsoft.add_user(name, **more)  # type: ignore[arg-type]
        return name

    def begin(self, **more: str) -> str:
        """The provider's page to open."""
        account = connection_pb2.MicrosoftAccount(redirect_uri=more.pop("redirect_uri", f"{LANDING}?tab=calendar"))
        answer = self.stub("Connect", pb.ConnectRequest(microsoft=account, **more))
        return answer.authorization_url  # type: ignore[attr-defined,no-any-return]

    def callback(self, url: str) -> httpx.Response:
        """The browser follows the provider's redirect to our sidecar, and no further."""
        return httpx.get(url, trust_env=False, follow_redirects=False)

    def consent(self, authorization_url: str, user: str, *, approve: bool = True) -> httpx.Response:
        return self.callback(self.microsoft.entra.consent(authorization_url, user, approve=approve))

    def connect(self, user: str, **more: str) -> dict[str, str]:
        """The whole journey; answers what the caller's page is told."""
        return told(self.consent(self.begin(**more), user))


def told(answer: httpx.Response) -> dict[str, str]:
    """The query at the caller's own page."""
    assert answer.status_code == 303
    location = answer.headers["location"]
    assert location.startswith(LANDING)
    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("oauth")
    with MicrosoftFake() as microsoft:
        settings = sqlite_settings(
            folder,
            CALENDAR_MICROSOFT_CLIENT_ID=microsoft.entra.client_id,
            CALENDAR_MICROSOFT_CLIENT_SECRET=microsoft.entra.client_secret,
            CALENDAR_MICROSOFT_AUTHORIZE_URL=microsoft.authorize_url,
            CALENDAR_MICROSOFT_TOKEN_URL=microsoft.token_url,
            CALENDAR_MICROSOFT_GRAPH_URL=microsoft.graph_url,
            CALENDAR_REDIRECT_URIS=LANDING,
        )
        settings["CALENDAR_PUBLIC_URL"] = f"http://{settings['CALENDAR_HTTP_ADDRESS']}"
        microsoft.entra.redirect_uris.add(f"{settings['CALENDAR_PUBLIC_URL']}/oauth/microsoft/callback")
        with serving(settings, folder) as running:
            stub = Stub(running.address, running.key())
            yield Journey(running, stub, microsoft)
            stub.close()
        assert not microsoft.problems


def test_consent_connects_and_the_callers_query_stays(journey: Journey) -> None:
    outcome = journey.connect(journey.user(), client_state="abc&x=1")
    assert (outcome["connected"], outcome["provider"], outcome["tab"], outcome["client_state"]) == (
        "true",
        "microsoft",
        "calendar",
        "abc&x=1",
    )
    listed = journey.stub("List", pb.ListRequest(ids=[outcome["connection_id"]])).data[0]
    assert (listed.provider, listed.status) == (
        connection_pb2.PROVIDER_MICROSOFT,
        connection_pb2.CONNECTION_STATUS_ACTIVE,
    )
    assert listed.calendar_id
    assert list(listed.busy_calendar_ids) == [listed.calendar_id]


def test_a_booking_is_written_moved_and_cancelled_without_mail(journey: Journey) -> None:
    name = journey.user()
    mailbox = journey.people[name].mailbox
    mailbox.add(at(9).replace(tzinfo=None), at(10).replace(tzinfo=None))
    connection_id = journey.connect(name)["connection_id"]
    assert intervals(journey.stub("GetBusy", busy_request(connection_id)).busy) == [(at(9), at(10))]
    for revision, hour in ((1, 11), (2, 14)):
        answer = journey.stub(
            "SyncBooking",
            pb.SyncBookingRequest(
                booking=booking_pb2.Booking(
                    id=f"b-{connection_id}",
                    revision=revision,
                    status=booking_pb2.BOOKING_STATUS_CONFIRMED,
                    title="Interview",
                    start_time=stamp(at(hour)),
                    end_time=stamp(at(hour + 1)),
                    attendees=[booking_pb2.Attendee(email="guest@example.org")],
                ),
                connection_ids=[connection_id],
            ),
        )
        assert [event.state for event in answer.events] == [booking_pb2.BOOKING_EVENT_STATE_SYNCED]
        busy = journey.stub("GetBusy", busy_request(connection_id))
        assert intervals(busy.busy) == [(at(9), at(10)), (at(hour), at(hour + 1))]
    cancelled = booking_pb2.Booking(id=f"b-{connection_id}", revision=3, status=booking_pb2.BOOKING_STATUS_CANCELLED)
    journey.stub("SyncBooking", pb.SyncBookingRequest(booking=cancelled))
    assert intervals(journey.stub("GetBusy", busy_request(connection_id)).busy) == [(at(9), at(10))]
    assert not mailbox.mails


def test_one_call_reads_and_writes_over_mixed_providers(journey: Journey, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "a", span(at(15), at(16)))
    dav = journey.stub.connect(person)
    name = journey.user()
    journey.people[name].mailbox.add(at(9).replace(tzinfo=None), at(10).replace(tzinfo=None))
    graph = journey.connect(name)["connection_id"]
    answer = journey.stub("GetBusy", busy_request(dav.id, graph))
    assert intervals(answer.busy) == [(at(9), at(10)), (at(15), at(16))]
    booking = booking_pb2.Booking(
        id=f"mixed-{graph}",
        revision=1,
        status=booking_pb2.BOOKING_STATUS_CONFIRMED,
        start_time=stamp(at(12)),
        end_time=stamp(at(13)),
    )
    synced = journey.stub("SyncBooking", pb.SyncBookingRequest(booking=booking, connection_ids=[dav.id, graph]))
    assert {event.state for event in synced.events} == {booking_pb2.BOOKING_EVENT_STATE_SYNCED}


def test_denial_is_told_and_stores_nothing(journey: Journey) -> None:
    outcome = told(journey.consent(journey.begin(owner="denied"), journey.user(), approve=False))
    assert (outcome["connected"], outcome["error"]) == ("false", "access_denied")
    assert not journey.stub("List", pb.ListRequest(owner="denied")).data


def test_the_second_of_two_consents_is_a_conflict(journey: Journey) -> None:
    name = journey.user()
    first, second = journey.begin(), journey.begin()
    assert told(journey.consent(first, name))["connected"] == "true"
    assert told(journey.consent(second, name))["error"] == "conflict"


def test_another_account_cannot_renew_a_connection(journey: Journey) -> None:
    connection_id = journey.connect(journey.user())["connection_id"]
    outcome = journey.connect(journey.user(), connection_id=connection_id)
    assert outcome["error"] == "account_mismatch"


def test_a_refused_grant_needs_consent_again_and_goes_on_with_it(journey: Journey) -> None:
    name = journey.user()
    connection_id = journey.connect(name)["connection_id"]
    journey.microsoft.entra.revoke(journey.people[name].user)
    journey.microsoft.entra.end_access_tokens()
    with pytest.raises(grpc.RpcError) as failed:
        journey.stub("GetBusy", busy_request(connection_id))
    assert error_info(failed.value).reason == "NEEDS_REAUTH"
    assert journey.connect(name)["connection_id"] == connection_id
    assert journey.stub("GetBusy", busy_request(connection_id)).complete


def test_a_token_endpoint_that_is_down_does_not_need_consent_again(journey: Journey) -> None:
    name = journey.user()
    connection_id = journey.connect(name)["connection_id"]
    journey.microsoft.entra.end_access_tokens()
    journey.microsoft.entra.down = OAuthAnswer(503)
    try:
        with pytest.raises(grpc.RpcError) as failed:
            journey.stub("GetBusy", busy_request(connection_id))
    finally:
        journey.microsoft.entra.down = None
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    listed = journey.stub("List", pb.ListRequest(ids=[connection_id])).data[0]
    assert listed.status == connection_pb2.CONNECTION_STATUS_ACTIVE


def without_refresh_token(answer: dict[str, object]) -> None:
    answer.pop("refresh_token")


@pytest.mark.parametrize(
    "change",
    [
        without_refresh_token,
        lambda answer: answer.update(expires_in=0),
        lambda answer: answer.update(expires_in=-5),
        lambda answer: answer.update(expires_in="soon"),
        lambda answer: answer.pop("access_token"),
    ],
    ids=["no refresh token", "over at once", "over already", "a word", "no access token"],
)
def test_tokens_that_cannot_be_used_are_told_and_nothing_is_stored(
    journey: Journey, change: Callable[[dict[str, object]], None]
) -> None:
    journey.microsoft.entra.code_changes.append(change)
    outcome = journey.connect(journey.user(), owner="half-way")
    assert (outcome["connected"], outcome["error"]) == ("false", "provider_error")
    assert not journey.stub("List", pb.ListRequest(owner="half-way")).data


def test_a_scope_that_was_not_given_is_told(journey: Journey) -> None:
    journey.microsoft.entra.withheld.add("Calendars.ReadWrite")
    outcome = journey.connect(journey.user())
    journey.microsoft.entra.withheld.clear()
    assert outcome["error"] == "scope_missing"


def test_scopes_that_come_prefixed_are_the_same_scopes(journey: Journey) -> None:
    journey.microsoft.entra.prefixed_scopes = True
    outcome = journey.connect(journey.user())
    journey.microsoft.entra.prefixed_scopes = False
    assert outcome["connected"] == "true"


def test_an_account_without_mail_has_its_principal_name(journey: Journey) -> None:
    name = journey.user(mail=None)
    connection_id = journey.connect(name)["connection_id"]
    listed = journey.stub("List", pb.ListRequest(ids=[connection_id])).data[0]
    assert listed.account_email == journey.people[name].user.principal_name


class TestStates:
    def redirect(self, journey: Journey) -> str:
        return journey.microsoft.entra.consent(journey.begin(), journey.user())

    def test_a_used_state_ends_at_a_page_that_a_person_understands(self, journey: Journey) -> None:
        url = self.redirect(journey)
        assert told(journey.callback(url))["connected"] == "true"
        answer = journey.callback(url)
        assert answer.status_code == 400
        assert "not valid any more" in answer.text

    @pytest.mark.parametrize("state", ["", "made-up", "<script>alert(1)</script>", "a" * 5000])
    def test_an_unknown_state_ends_there_too_and_nothing_is_shown_of_it(self, journey: Journey, state: str) -> None:
        query = urlencode({"code": "c0de", "state": state, "error_description": "<b>markup</b>"})
        answer = journey.callback(f"{journey.service.http}/oauth/microsoft/callback?{query}")
        assert answer.status_code == 400
        assert "<script>" not in answer.text
        assert "markup" not in answer.text
        assert "location" not in answer.headers

    def test_a_doubled_state_ends_there_too(self, journey: Journey) -> None:
        url = self.redirect(journey)
        state = parse_qs(urlsplit(url).query)["state"][0]
        assert journey.callback(f"{url}&state={state}").status_code == 400

    def test_a_state_of_the_other_provider_ends_there_too(self, journey: Journey) -> None:
        url = self.redirect(journey).replace("/microsoft/", "/google/")
        assert journey.callback(url).status_code == 400

    def test_a_missing_code_is_told(self, journey: Journey) -> None:
        parts = urlsplit(self.redirect(journey))
        query = urlencode([(name, value) for name, value in parse_qsl(parts.query) if name != "code"])
        assert told(journey.callback(parts._replace(query=query).geturl()))["error"] == "provider_error"

    def test_a_refused_code_is_told(self, journey: Journey) -> None:
        parts = urlsplit(self.redirect(journey))
        query = urlencode([(n, "wrong" if n == "code" else value) for n, value in parse_qsl(parts.query)])
        assert told(journey.callback(parts._replace(query=query).geturl()))["error"] == "provider_error"

    def test_an_administrators_consent_has_its_own_word(self, journey: Journey) -> None:
        state = parse_qs(urlsplit(journey.begin()).query)["state"][0]
        query = urlencode({"error": "access_denied", "error_description": "AADSTS90094: …", "state": state})
        answer = journey.callback(f"{journey.service.http}/oauth/microsoft/callback?{query}")
        outcome = told(answer)
        assert outcome["error"] == "admin_consent_required"
        link = urlsplit(outcome["admin_consent_url"])
        assert link.path == "/organizations/adminconsent"
        assert parse_qs(link.query)["client_id"] == [journey.microsoft.entra.client_id]
        back = parse_qs(link.query)["redirect_uri"][0]
        thanks = journey.callback(f"{back}?admin_consent=True&tenant=t")
        assert thanks.status_code == 200
        assert "connect the calendar again" in thanks.text

    def test_every_answer_has_the_headers_that_keep_codes_to_themselves(self, journey: Journey) -> None:
        for answer in (
            journey.callback(self.redirect(journey)),
            journey.callback(f"{journey.service.http}/oauth/microsoft/callback"),
            journey.callback(f"{journey.service.http}/nothing"),
        ):
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "script" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "https://app.example.org/connected2",
        "https://app.example.org./connected",
        "http://app.example.org/connected",
        "https://user@app.example.org/connected",
        "https://app.example.org/connected#x",
        "https://app.example.org:444/connected",
        "https://app.example.org/connected/",
        "https://app.example.org\\@evil.example/connected",
        "javascript:alert(1)",
        "",
    ],
)
def test_a_redirect_uri_that_is_a_character_off_is_refused_at_connect(journey: Journey, redirect_uri: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        journey.begin(redirect_uri=redirect_uri)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "microsoft.redirect_uri" in refused.value.details()


def test_codes_states_and_tokens_are_in_no_log(journey: Journey, tmp_path: Path) -> None:
    name = journey.user()
    url = journey.microsoft.entra.consent(journey.begin(), name)
    journey.callback(url)
    query = parse_qs(urlsplit(url).query)
    log = journey.service.log.read_text()
    for secret in (query["state"][0], query["code"][0]):
        assert secret not in log
    for file in Path(journey.service.settings["CALENDAR_DATABASE_URL"].removeprefix("sqlite:///")).parent.glob(
        "calendar.db*"
    ):
        content = file.read_bytes()
        for secret in (query["state"][0], query["code"][0]):
            assert secret.encode() not in content


def test_a_day_of_a_mailbox_is_its_own_day(journey: Journey) -> None:
    name = journey.user(zone="Tokyo Standard Time")
    day = at(0, day=1).replace(tzinfo=None)
    journey.people[name].mailbox.add(day, day + datetime.timedelta(days=1), all_day=True)
    connection_id = journey.connect(name)["connection_id"]
    answer = journey.stub("GetBusy", busy_request(connection_id, days=3))
    assert intervals(answer.busy) == [(at(15), at(15, day=1))]
