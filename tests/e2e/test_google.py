"""Google from consent to calendar through real ports, against the fake that Google's own description holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import grpc
import httpx
import pytest

from calendars.v1 import booking_pb2, connection_pb2
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.conftest import Stub, at, busy_request, error_info, intervals, serving, sqlite_settings, stamp
from tests.fakes.google import GoogleFake, GoogleUser

LANDING = "https://app.example.org/connected"


@dataclass
class Journey:
    """A service whose Google is the fake on this machine, and a caller of it."""

    stub: Stub
    google: GoogleFake
    people: dict[str, GoogleUser] = field(default_factory=dict)

    def user(self, **more: str) -> str:
        name = f"person{len(self.people)}"
        self.people[name] = self.google.add_user(name, **more)
        return name

    def connect(
        self, user: str, *, approve: bool = True, unticked: tuple[str, ...] = (), owner: str = ""
    ) -> dict[str, str]:
        """The whole journey; answers what the caller's page is told."""
        account = connection_pb2.GoogleAccount(redirect_uri=LANDING)
        url = self.stub("Connect", pb.ConnectRequest(google=account, owner=owner)).authorization_url  # type: ignore[attr-defined]
        back = self.google.accounts.consent(url, user, approve=approve, unticked=unticked)
        answer = httpx.get(back, trust_env=False, follow_redirects=False)
        assert answer.status_code == 303
        return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    folder = tmp_path_factory.mktemp("google")
    with GoogleFake() as google:
        settings = sqlite_settings(
            folder,
            CALENDAR_GOOGLE_CLIENT_ID=google.accounts.client_id,
            CALENDAR_GOOGLE_CLIENT_SECRET=google.accounts.client_secret,
            CALENDAR_GOOGLE_AUTHORIZE_URL=google.authorize_url,
            CALENDAR_GOOGLE_TOKEN_URL=google.token_url,
            CALENDAR_GOOGLE_REVOKE_URL=google.revoke_url,
            CALENDAR_GOOGLE_USERINFO_URL=google.userinfo_url,
            CALENDAR_GOOGLE_API_URL=google.api_url,
            CALENDAR_REDIRECT_URIS=LANDING,
        )
        settings["CALENDAR_PUBLIC_URL"] = f"http://{settings['CALENDAR_HTTP_ADDRESS']}"
        google.accounts.redirect_uris.add(f"{settings['CALENDAR_PUBLIC_URL']}/oauth/google/callback")
        with serving(settings, folder) as running:
            stub = Stub(running.address, running.key())
            yield Journey(stub, google)
            stub.close()
        google.assert_clean()


def test_a_booking_is_written_moved_cancelled_and_made_again_without_mail(journey: Journey) -> None:
    name = journey.user(time_zone="Europe/Berlin")
    journey.people[name].primary.add(at(9), at(10))
    outcome = journey.connect(name)
    assert (outcome["connected"], outcome["provider"]) == ("true", "google")
    connection_id = outcome["connection_id"]
    listed = journey.stub("List", pb.ListRequest(ids=[connection_id])).data[0]
    assert (listed.calendar_id, listed.account_email) == ("primary", journey.people[name].email)
    for revision, hour in ((1, 11), (2, 14), (3, 0), (4, 16)):
        status = booking_pb2.BOOKING_STATUS_CONFIRMED if hour else booking_pb2.BOOKING_STATUS_CANCELLED
        booking = booking_pb2.Booking(id=f"b-{connection_id}", revision=revision, status=status, title="Interview")
        if hour:
            booking.start_time.CopyFrom(stamp(at(hour)))
            booking.end_time.CopyFrom(stamp(at(hour + 1)))
            booking.attendees.add(email="guest@example.org")
        answer = journey.stub("SyncBooking", pb.SyncBookingRequest(booking=booking, connection_ids=[connection_id]))
        wanted = booking_pb2.BOOKING_EVENT_STATE_SYNCED if hour else booking_pb2.BOOKING_EVENT_STATE_REMOVED
        assert [event.state for event in answer.events] == [wanted]
        busy = intervals(journey.stub("GetBusy", busy_request(connection_id)).busy)
        assert busy == [(at(9), at(10)), *([(at(hour), at(hour + 1))] if hour else [])]
    assert not journey.google.mails


def test_an_unticked_box_is_told_and_stores_nothing(journey: Journey) -> None:
    before = len(journey.stub("List", pb.ListRequest()).data)
    outcome = journey.connect(journey.user(), unticked=("https://www.googleapis.com/auth/calendar.events",))
    assert (outcome["connected"], outcome["error"]) == ("false", "scope_missing")
    assert len(journey.stub("List", pb.ListRequest()).data) == before


def test_denial_is_told(journey: Journey) -> None:
    assert journey.connect(journey.user(), approve=False)["error"] == "access_denied"


def test_disconnect_ends_the_grant_at_google(journey: Journey) -> None:
    name = journey.user()
    connection_id = journey.connect(name)["connection_id"]
    revoked = len(journey.google.accounts.revoked)
    journey.stub("Disconnect", pb.DisconnectRequest(id=connection_id))
    assert len(journey.google.accounts.revoked) == revoked + 1


def test_a_grant_that_another_connection_uses_is_not_ended(journey: Journey) -> None:
    name = journey.user()
    first, second = (journey.connect(name, owner=owner)["connection_id"] for owner in ("team a", "team b"))
    revoked = len(journey.google.accounts.revoked)
    journey.stub("Disconnect", pb.DisconnectRequest(id=first))
    assert len(journey.google.accounts.revoked) == revoked
    assert journey.stub("GetBusy", busy_request(second)).complete
    journey.stub("Disconnect", pb.DisconnectRequest(id=second))
    assert len(journey.google.accounts.revoked) == revoked + 1


def test_throttling_is_not_a_lost_grant(journey: Journey) -> None:
    connection_id = journey.connect(journey.user())["connection_id"]
    journey.google.fail_next(403, "rateLimitExceeded", within="/events")
    with pytest.raises(grpc.RpcError) as failed:
        journey.stub("GetBusy", busy_request(connection_id))
    assert error_info(failed.value).reason == "PROVIDER_THROTTLED"
    assert journey.stub("GetBusy", busy_request(connection_id)).complete


def test_a_failing_second_page_is_not_a_free_afternoon(journey: Journey) -> None:
    name = journey.user()
    for hour in (9, 11, 13, 15):
        journey.people[name].primary.add(at(hour), at(hour + 1))
    connection_id = journey.connect(name)["connection_id"]
    journey.google.page_most = 2
    journey.google.fail_next(500, "backendError", within="pageToken", times=5)
    with pytest.raises(grpc.RpcError) as failed:
        journey.stub("GetBusy", busy_request(connection_id))
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    journey.google.page_most = 2500


def test_a_revoked_grant_needs_consent_again_and_goes_on_with_it(journey: Journey) -> None:
    name = journey.user()
    connection_id = journey.connect(name)["connection_id"]
    journey.google.accounts.end_grant(journey.people[name].user)
    journey.google.accounts.end_access_tokens()
    with pytest.raises(grpc.RpcError) as failed:
        journey.stub("GetBusy", busy_request(connection_id))
    assert error_info(failed.value).reason == "NEEDS_REAUTH"
    assert journey.connect(name)["connection_id"] == connection_id
    assert journey.stub("GetBusy", busy_request(connection_id)).complete


def test_the_default_calendar_is_one_calendar_by_either_of_its_ids(journey: Journey) -> None:
    name = journey.user()
    connection_id = journey.connect(name)["connection_id"]
    email = journey.people[name].email
    changed = journey.stub(
        "UpdateConnection",
        pb.UpdateConnectionRequest(id=connection_id, calendar_id=email, busy_calendar_ids=[email, "primary"]),
    )
    assert (changed.calendar_id, list(changed.busy_calendar_ids)) == ("primary", ["primary"])
