"""The fake of Google keeps its promises, and the description that it is held against finds what is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from urllib.parse import parse_qs, quote, urlencode, urlsplit
from zoneinfo import ZoneInfo

import httpx
import pytest

from tests.fakes.google import GoogleFake, GoogleUser
from tests.fakes.google_accounts import ALL_SCOPES, AUTH, CALENDAR_SCOPES
from tests.fakes.google_calendars import GoogleCalendar
from tests.fakes.google_description import GoogleDescription, read_fields, select

CALLBACK = "http://127.0.0.1:8080/oauth/google/callback"
START, END = datetime(2026, 12, 2, 10, tzinfo=UTC), datetime(2026, 12, 2, 11, tzinfo=UTC)
WEEK = {"timeMin": "2026-12-01T00:00:00Z", "timeMax": "2026-12-08T00:00:00Z", "singleEvents": "true"}
CONTENT: dict[str, object] = {
    "summary": "Meeting",
    "start": {"dateTime": "2026-12-02T10:00:00Z"},
    "end": {"dateTime": "2026-12-02T11:00:00Z"},
}
EVENTS = "calendars/primary/events"


@dataclass
class Caller:
    """Somebody who talks to the fake by HTTP."""

    google: GoogleFake
    anna: GoogleUser
    http: httpx.Client
    token: str = ""

    @property
    def primary(self) -> GoogleCalendar:
        return self.anna.primary

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: object = None,
        if_match: str = "",
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **({"If-Match": if_match} if if_match else {})}
        body = None if content is None else json.dumps(content)
        return self.http.request(method, f"{self.google.api_url}/{path}", params=params, headers=headers, content=body)

    def events(self, **params: str) -> list[dict[str, object]]:
        answer = self.ask("GET", EVENTS, params={**WEEK, **params})
        assert answer.status_code == 200, answer.text
        items: list[dict[str, object]] = answer.json().get("items", [])
        return items

    def post(self, **more: object) -> httpx.Response:
        return self.ask("POST", EVENTS, content={**CONTENT, **more})


def reason(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["errors"][0]["reason"]


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    with GoogleFake() as fake:
        fake.accounts.redirect_uris.add(CALLBACK)
        yield fake


@pytest.fixture
def caller(google: GoogleFake) -> Iterator[Caller]:
    anna = google.add_user("anna", time_zone="Europe/Berlin")
    with httpx.Client(trust_env=False) as http:
        yield Caller(google, anna, http, str(google.token_of(anna)["access_token"]))


class TestReading:
    def test_a_series_is_expanded_with_its_exceptions(self, caller: Caller) -> None:
        series = caller.primary.add(START, END, recurrence=["RRULE:FREQ=DAILY;COUNT=4", "EXDATE:20261205T100000Z"])
        caller.primary.make_exception(series, START + timedelta(days=1), status="cancelled")
        caller.primary.make_exception(series, START + timedelta(days=2), summary="Other")
        assert sorted(str(item["id"]) for item in caller.events()) == [
            f"{series}_20261202T100000Z",
            f"{series}_20261204T100000Z",
        ]

    def test_times_are_told_in_the_calendars_zone(self, caller: Caller) -> None:
        caller.primary.add(START, END)
        assert caller.events()[0]["start"] == {"dateTime": "2026-12-02T11:00:00+01:00", "timeZone": "Europe/Berlin"}

    def test_dates_stay_dates(self, caller: Caller) -> None:
        caller.primary.add(date(2026, 12, 2), date(2026, 12, 3))
        assert caller.events()[0]["start"] == {"date": "2026-12-02"}

    def test_a_series_repeats_on_its_own_clock(self, caller: Caller) -> None:
        start = datetime(2026, 10, 24, 10, tzinfo=ZoneInfo("Europe/Berlin"))
        caller.primary.add(start, start + timedelta(hours=1), recurrence=["RRULE:FREQ=DAILY;COUNT=2"])
        window = {"timeMin": "2026-10-20T00:00:00Z", "timeMax": "2026-11-01T00:00:00Z"}
        assert [str(item["start"])[14:39] for item in caller.events(**window)] == [
            "2026-10-24T10:00:00+02:00",
            "2026-10-25T10:00:00+01:00",
        ]

    def test_bounds_are_exclusive(self, caller: Caller) -> None:
        caller.primary.add(START, END)
        assert caller.events(timeMin="2026-12-02T11:00:00Z") == []
        assert caller.events(timeMax="2026-12-02T10:00:00Z") == []

    def test_empty_arrays_are_left_out(self, caller: Caller) -> None:
        assert "items" not in caller.ask("GET", EVENTS, params=WEEK).json()

    def test_only_the_fields_that_were_asked_for_are_told(self, caller: Caller) -> None:
        caller.primary.add(START, END, attendees=[{"email": "a@b.example", "self": True}])
        answer = caller.ask("GET", EVENTS, params={**WEEK, "fields": "timeZone,items(id,attendees/self)"}).json()
        assert (answer.keys(), answer["items"][0].keys()) == ({"timeZone", "items"}, {"id", "attendees"})
        assert answer["items"][0]["attendees"] == [{"self": True}]

    def test_the_next_page_comes_by_its_token(self, caller: Caller) -> None:
        for _ in range(3):
            caller.primary.add(START, END)
        first = caller.ask("GET", EVENTS, params={**WEEK, "maxResults": "2"}).json()
        second = caller.ask(
            "GET", EVENTS, params={**WEEK, "maxResults": "2", "pageToken": first["nextPageToken"]}
        ).json()
        assert (len(first["items"]), len(second["items"]), "nextPageToken" in second) == (2, 1, False)

    def test_a_token_is_good_for_its_own_request_alone(self, caller: Caller) -> None:
        for _ in range(3):
            caller.primary.add(START, END)
        first = caller.ask("GET", EVENTS, params={**WEEK, "maxResults": "2"}).json()
        token = {"pageToken": first["nextPageToken"]}
        assert caller.ask("GET", EVENTS, params={**WEEK, "maxResults": "1", **token}).status_code == 400

    def test_the_default_calendar_has_two_names(self, caller: Caller) -> None:
        made = caller.post().json()
        path = f"calendars/{quote(caller.anna.email, safe='')}/events/{made['id']}"
        assert caller.ask("GET", path).json()["etag"] == made["etag"]

    def test_a_calendar_of_others_is_not_there(self, caller: Caller) -> None:
        caller.google.add_user("ben")
        assert reason(caller.ask("GET", "calendars/ben@gmail.example/events", params=WEEK)) == (404, "notFound")


class TestChangesSince:
    SINGLE: Mapping[str, str] = {"singleEvents": "true"}

    def token(self, caller: Caller) -> str:
        token: str = caller.ask("GET", EVENTS, params=WEEK).json()["nextSyncToken"]
        return token

    def since(self, caller: Caller, token: str, **more: str) -> httpx.Response:
        return caller.ask("GET", EVENTS, params={**self.SINGLE, "syncToken": token, **more})

    def ids(self, answer: httpx.Response) -> set[str]:
        return {item["id"] for item in answer.json().get("items", [])}

    def test_nothing_is_told_where_nothing_changed_and_a_new_token_comes_along(self, caller: Caller) -> None:
        caller.primary.add(START, END)
        first = self.since(caller, self.token(caller)).json()
        assert "items" not in first
        assert "items" not in self.since(caller, first["nextSyncToken"]).json()

    def test_what_changed_is_told_wherever_it_takes_place(self, caller: Caller) -> None:
        deleted, kept = caller.primary.add(START, END), caller.primary.add(START, END)
        token = self.token(caller)
        caller.primary.delete(deleted)
        later = caller.primary.add(START + timedelta(days=900), END + timedelta(days=900))
        answer = self.since(caller, token)
        assert self.ids(answer) == {deleted, later}
        assert kept not in answer.text
        assert next(item for item in answer.json()["items"] if item["id"] == deleted)["status"] == "cancelled"

    def test_a_touched_series_brings_its_instances_years_ahead(self, caller: Caller) -> None:
        series = caller.primary.add(START, END, recurrence=["RRULE:FREQ=WEEKLY"])
        token = self.token(caller)
        caller.primary.change(series, summary="Touched")
        answer = self.since(caller, token, maxResults="2500")
        assert len(self.ids(answer)) > 600
        assert f"{series}_20391228T100000Z" in self.ids(answer)

    def test_one_changed_instance_comes_alone(self, caller: Caller) -> None:
        series = caller.primary.add(START, END, recurrence=["RRULE:FREQ=DAILY;COUNT=5"])
        token = self.token(caller)
        changed = caller.primary.make_exception(series, START + timedelta(days=1), status="cancelled")
        assert self.ids(self.since(caller, token)) == {changed}

    def test_what_changes_while_pages_are_read_is_not_missed(self, caller: Caller) -> None:
        events = [caller.primary.add(START, END) for _ in range(2)]
        paged = {**WEEK, "maxResults": "1"}
        first = caller.ask("GET", EVENTS, params=paged).json()
        caller.primary.change(events[0], summary="Changed")
        last = caller.ask("GET", EVENTS, params={**paged, "pageToken": first["nextPageToken"]}).json()
        assert self.ids(self.since(caller, last["nextSyncToken"], maxResults="1")) == {events[0]}

    def test_an_old_token_is_gone(self, caller: Caller) -> None:
        token = self.token(caller)
        caller.google.expire_sync_tokens()
        assert reason(self.since(caller, token)) == (410, "fullSyncRequired")

    def test_the_token_of_another_calendar_is_none(self, caller: Caller) -> None:
        second = caller.google.calendars.add_calendar(caller.anna.email, "second")
        answer = caller.ask("GET", f"calendars/{quote(second.id)}/events", params={"syncToken": self.token(caller)})
        assert reason(answer) == (400, "invalid")

    def test_a_lie_is_told_on_demand(self, caller: Caller) -> None:
        caller.google.sync_tokens_lie = True
        answer = self.since(caller, "none")
        assert (answer.status_code, "items" in answer.json()) == (200, False)

    def test_asking_otherwise_than_before_is_not_clean(self, caller: Caller) -> None:
        self.since(caller, self.token(caller), maxResults="1")
        assert "asked otherwise" in caller.google.problems[0]

    @pytest.mark.parametrize("more", [{"timeMin": WEEK["timeMin"]}, {"q": "a"}, {"showDeleted": "false"}])
    def test_what_does_not_go_with_a_token_is_refused_and_not_clean(self, caller: Caller, more: dict[str, str]) -> None:
        assert self.since(caller, self.token(caller), **more).status_code == 400
        assert "does not go with syncToken" in caller.google.problems[0]


class TestFreeBusy:
    def ask(self, caller: Caller, *ids: str, until: str = "2026-12-08T00:00:00Z") -> httpx.Response:
        items = [{"id": calendar_id} for calendar_id in ids]
        content = {"timeMin": WEEK["timeMin"], "timeMax": until, "items": items}
        return caller.ask("POST", "freeBusy", content=content)

    def test_it_tells_times_and_no_names(self, caller: Caller) -> None:
        caller.primary.add(START, END)
        caller.primary.add(START + timedelta(minutes=30), END + timedelta(minutes=30))
        caller.primary.add(START + timedelta(days=1), END + timedelta(days=1), transparency="transparent")
        assert self.ask(caller, "primary").json()["calendars"] == {
            "primary": {"busy": [{"start": "2026-12-02T10:00:00Z", "end": "2026-12-02T11:30:00Z"}]}
        }

    def test_an_unknown_calendar_is_an_error_inside(self, caller: Caller) -> None:
        answer = self.ask(caller, "primary", "nobody@gmail.example")
        assert answer.json()["calendars"] == {
            "primary": {},
            "nobody@gmail.example": {"errors": [{"domain": "global", "reason": "notFound"}]},
        }

    def test_a_long_span_is_refused(self, caller: Caller) -> None:
        assert reason(self.ask(caller, "primary", until="2027-03-02T00:00:00Z")) == (400, "timeRangeTooLong")

    def test_many_calendars_are_refused(self, caller: Caller) -> None:
        many = [f"c{number}" for number in range(51)]
        assert reason(self.ask(caller, *many)) == (400, "tooManyCalendarsRequested")


class TestWriting:
    def test_an_id_is_taken_once(self, caller: Caller) -> None:
        assert [caller.post(id="abcde").status_code for _ in range(2)] == [200, 409]

    def test_a_deleted_event_is_told_as_cancelled_and_its_id_stays_taken(self, caller: Caller) -> None:
        caller.post(id="abcde")
        assert caller.ask("DELETE", f"{EVENTS}/abcde").status_code == 204
        assert caller.ask("GET", f"{EVENTS}/abcde").json()["status"] == "cancelled"
        assert reason(caller.post(id="abcde")) == (409, "duplicate")
        assert (caller.events(), reason(caller.ask("DELETE", f"{EVENTS}/abcde"))) == ([], (410, "deleted"))

    def test_an_old_version_is_not_changed(self, caller: Caller) -> None:
        made = caller.post(id="abcde").json()
        path = f"{EVENTS}/abcde"
        assert caller.ask("PATCH", path, content={"summary": "A"}, if_match=made["etag"]).status_code == 200
        for method, content in (("PATCH", {"summary": "B"}), ("PUT", CONTENT), ("DELETE", None)):
            assert reason(caller.ask(method, path, content=content, if_match=made["etag"])) == (412, "conditionNotMet")

    def test_a_patch_joins_and_an_update_replaces(self, caller: Caller) -> None:
        caller.post(id="abcde", location="Here", colorId="3")
        patched = caller.ask("PATCH", f"{EVENTS}/abcde", content={"summary": "A"}).json()
        assert (patched["location"], patched["colorId"], patched["summary"]) == ("Here", "3", "A")
        updated = caller.ask("PUT", f"{EVENTS}/abcde", content=CONTENT).json()
        assert ("location" in updated, "colorId" in updated) == (False, False)

    def test_a_patch_clears_by_null(self, caller: Caller) -> None:
        caller.post(id="abcde", location="Here")
        assert "location" not in caller.ask("PATCH", f"{EVENTS}/abcde", content={"location": None}).json()

    def test_an_event_cannot_have_a_date_and_a_time(self, caller: Caller) -> None:
        caller.post(id="abcde", start={"date": "2026-12-02"}, end={"date": "2026-12-03"})
        change = {name: CONTENT[name] for name in ("start", "end")}
        assert caller.ask("PATCH", f"{EVENTS}/abcde", content=change).status_code == 400

    @pytest.mark.parametrize(("asked", "mails"), [("none", 0), ("all", 1), ("externalOnly", 1)])
    def test_guests_are_sent_mail_when_that_is_asked_for(self, caller: Caller, asked: str, mails: int) -> None:
        content = {**CONTENT, "attendees": [{"email": "guest@example.org"}]}
        caller.ask("POST", EVENTS, params={"sendUpdates": asked}, content=content)
        assert len(caller.google.mails) == mails

    def test_mail_that_was_sent_is_not_clean(self, caller: Caller) -> None:
        content = {**CONTENT, "attendees": [{"email": "guest@example.org"}]}
        caller.ask("POST", EVENTS, params={"sendUpdates": "all"}, content=content)
        with pytest.raises(AssertionError):
            caller.google.assert_clean()

    def test_a_reader_cannot_write(self, caller: Caller) -> None:
        shared = caller.google.calendars.add_calendar("ben@gmail.example", "Ben", roles={caller.anna.email: "reader"})
        answer = caller.ask("POST", f"calendars/{shared.id}/events", content=CONTENT)
        assert reason(answer) == (403, "requiredAccessLevel")


class TestFaults:
    def test_a_refused_request_changed_nothing(self, caller: Caller) -> None:
        caller.google.fail_next(503, retry_after="3")
        answer = caller.post()
        assert (answer.status_code, answer.headers["retry-after"], caller.primary.events) == (503, "3", {})

    def test_a_cut_answer_was_worked_for(self, caller: Caller) -> None:
        caller.google.cut_next("POST")
        with pytest.raises(httpx.TransportError):
            caller.post()
        assert len(caller.primary.events) == 1

    @pytest.mark.parametrize(
        ("scope", "method", "path"),
        [
            ("calendar.events", "GET", EVENTS),
            ("calendar.calendarlist.readonly", "GET", "users/me/calendarList"),
            ("calendar.freebusy", "POST", "freeBusy"),
        ],
    )
    def test_a_scope_that_was_not_granted_is_missed(self, caller: Caller, scope: str, method: str, path: str) -> None:
        caller.token = str(caller.google.token_of(caller.anna, ALL_SCOPES - {AUTH + scope})["access_token"])
        content: dict[str, object] | None = {"items": []} if method == "POST" else None
        assert reason(caller.ask(method, path, content=content)) == (403, "insufficientPermissions")

    def test_a_token_that_is_over_is_refused(self, caller: Caller) -> None:
        caller.google.accounts.end_access_tokens()
        assert reason(caller.ask("GET", "users/me/calendarList")) == (401, "authError")

    def test_what_the_description_does_not_know_is_refused_and_not_clean(self, caller: Caller) -> None:
        assert caller.post(colour="red").status_code == 400
        with pytest.raises(AssertionError):
            caller.google.assert_clean()

    def test_whatever_it_answers_is_as_described(self, caller: Caller) -> None:
        caller.primary.add(START, END, recurrence=["RRULE:FREQ=DAILY;COUNT=3"])
        caller.primary.add(date(2026, 12, 2), date(2026, 12, 3), eventType="outOfOffice")
        made = caller.post(id="abcde").json()
        caller.events()
        for path in ("users/me/calendarList", "users/me/calendarList/primary", f"{EVENTS}/abcde", f"{EVENTS}/nothere"):
            caller.ask("GET", path)
        content = {"timeMin": WEEK["timeMin"], "timeMax": WEEK["timeMax"], "items": [{"id": "primary"}, {"id": "no"}]}
        caller.ask("POST", "freeBusy", content=content)
        caller.ask("PATCH", f"{EVENTS}/abcde", content={"summary": "A"}, if_match=made["etag"])
        caller.ask("PUT", f"{EVENTS}/abcde", content=CONTENT)
        caller.ask("DELETE", f"{EVENTS}/abcde")
        caller.google.assert_clean()
        assert len(caller.google.exchanges) == 10


class TestSigningIn:
    SCOPE = " ".join(("openid", "email", *sorted(CALENDAR_SCOPES)))

    def url(self, google: GoogleFake, **changes: str) -> str:
        asked = {
            "client_id": google.accounts.client_id,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": self.SCOPE,
            "state": "s",
            "access_type": "offline",
            "prompt": "consent",
            "code_challenge": challenge("v" * 43),
            "code_challenge_method": "S256",
            **changes,
        }
        return f"{google.authorize_url}?{urlencode({name: value for name, value in asked.items() if value})}"

    def back(self, url: str) -> dict[str, list[str]]:
        return parse_qs(urlsplit(url).query)

    def tokens(
        self, caller: Caller, changes: Mapping[str, str] | None = None, *, verifier: str = "v" * 43, times: int = 1
    ) -> httpx.Response:
        """What a code is changed into."""
        url = self.url(caller.google, **(changes or {}))
        (code,) = self.back(caller.google.accounts.consent(url, "anna"))["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
        for _ in range(times):
            answer = self.token(caller, form)
        return answer

    def token(self, caller: Caller, form: dict[str, str], **changes: str) -> httpx.Response:
        accounts = caller.google.accounts
        client = {"client_id": accounts.client_id, "client_secret": accounts.client_secret}
        return caller.http.post(caller.google.token_url, data={**client, **form, **changes})

    def test_the_page_has_a_box_for_each_scope_that_may_be_refused(self, caller: Caller) -> None:
        page = caller.http.get(self.url(caller.google)).text
        assert (page.count('type="checkbox"'), caller.anna.email in page) == (3, True)

    def test_the_page_reflects_no_markup(self, caller: Caller) -> None:
        assert "<b>" not in caller.http.get(self.url(caller.google, state="<b>")).text

    @pytest.mark.parametrize(("decision", "named"), [("approve", "code"), ("deny", "error")])
    def test_a_button_sends_the_browser_back(self, caller: Caller, decision: str, named: str) -> None:
        url = self.url(caller.google)
        form = {**{name: value for name, (value,) in self.back(url).items()}, "user": "anna", "decision": decision}
        answer = caller.http.post(f"{caller.google.origin}/o/oauth2/v2/consent", data=form)
        back = self.back(answer.headers["location"])
        assert (answer.status_code, back["state"], named in back) == (302, ["s"], True)

    def test_a_box_that_was_unticked_is_a_scope_that_is_not_granted(self, caller: Caller) -> None:
        unticked = f"{AUTH}calendar.events"
        back = self.back(caller.google.accounts.consent(self.url(caller.google), "anna", unticked=[unticked]))
        assert set(back["scope"][0].split()) == ALL_SCOPES - {unticked}

    @pytest.mark.parametrize(
        "changes",
        [
            {"client_id": "x"},
            {"redirect_uri": CALLBACK + "/"},
            {"code_challenge_method": "plain"},
            {"code_challenge": ""},
            {"response_type": "token"},
        ],
    )
    def test_a_wrong_request_gets_a_page_and_no_redirect(self, caller: Caller, changes: dict[str, str]) -> None:
        answer = caller.http.get(self.url(caller.google, **changes))
        assert (answer.status_code, "location" in answer.headers) == (400, False)

    def test_a_scope_that_the_description_does_not_know_is_not_clean(self, caller: Caller) -> None:
        caller.http.get(self.url(caller.google, scope=f"{AUTH}calendar.everything"))
        with pytest.raises(AssertionError):
            caller.google.assert_clean()

    def test_a_code_is_good_for_tokens_and_an_identity(self, caller: Caller) -> None:
        given = self.tokens(caller).json()
        headers = {"Authorization": f"Bearer {given['access_token']}"}
        person = caller.http.get(caller.google.userinfo_url, headers=headers).json()
        assert (person["sub"], person["email"]) == (caller.anna.user.sub, caller.anna.email)
        assert frozenset(given["scope"].split()) == ALL_SCOPES
        assert "refresh_token" in given

    def test_a_code_is_good_for_one_time(self, caller: Caller) -> None:
        answer = self.tokens(caller, times=2)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")

    def test_a_code_needs_its_verifier(self, caller: Caller) -> None:
        assert self.tokens(caller, verifier="w" * 43).json()["error"] == "invalid_grant"

    @pytest.mark.parametrize(
        ("changes", "given"),
        [
            ({"prompt": "consent"}, True),
            ({"prompt": ""}, False),
            ({"access_type": "online"}, False),
        ],
    )
    def test_a_refresh_token_at_a_second_consent_takes_two_parameters(
        self, caller: Caller, changes: dict[str, str], given: bool
    ) -> None:
        self.tokens(caller)
        assert ("refresh_token" in self.tokens(caller, changes).json()) is given

    def test_the_client_has_to_prove_itself(self, caller: Caller) -> None:
        answer = self.token(caller, {"grant_type": "refresh_token"}, client_secret="x")
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")

    @pytest.mark.parametrize("rotates", [False, True])
    def test_a_refresh_token_stays_unless_it_rotates(self, caller: Caller, rotates: bool) -> None:
        caller.google.accounts.rotates = rotates
        first = self.tokens(caller).json()["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": first}
        assert ("refresh_token" in self.token(caller, form).json()) is rotates
        assert caller.google.accounts.refreshes == 1

    def test_one_refresh_token_too_many_kills_the_oldest(self, caller: Caller) -> None:
        first = self.tokens(caller).json()["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": first}
        for _ in range(99):
            caller.google.token_of(caller.anna)
        assert self.token(caller, form).status_code == 200
        caller.google.token_of(caller.anna)
        assert self.token(caller, form).json()["error"] == "invalid_grant"

    @pytest.mark.parametrize("which", ["access_token", "refresh_token"])
    def test_revoking_any_token_ends_the_whole_grant(self, caller: Caller, which: str) -> None:
        first, second = self.tokens(caller).json(), self.tokens(caller).json()
        assert caller.http.post(caller.google.revoke_url, data={"token": first[which]}).status_code == 200
        form = {"grant_type": "refresh_token", "refresh_token": second["refresh_token"]}
        assert self.token(caller, form).json()["error"] == "invalid_grant"
        assert caller.http.post(caller.google.revoke_url, data={"token": first[which]}).status_code == 400


def challenge(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


class TestTheDescription:
    description = GoogleDescription()

    @pytest.mark.parametrize(
        ("method", "target", "content", "problem"),
        [
            ("GET", "calendars/c/everything", None, "no such method"),
            ("PUT", EVENTS, CONTENT, "no such method"),
            ("GET", f"{EVENTS}?colour=red", None, "colour is no parameter"),
            ("GET", f"{EVENTS}?maxResults=many", None, "is no integer"),
            ("GET", f"{EVENTS}?maxResults=0", None, "less than the minimum"),
            ("GET", f"{EVENTS}?singleEvents=yes", None, "is no boolean"),
            ("GET", f"{EVENTS}?singleEvents=true&singleEvents=true", None, "is there twice"),
            ("GET", f"{EVENTS}?orderBy=colour", None, "is none of"),
            ("GET", f"{EVENTS}?timeMin=2026-12-01", None, "is no date-time"),
            ("GET", f"{EVENTS}?timeMin=2026-12-01T00:00:00", None, "has no offset"),
            ("GET", f"{EVENTS}?fields=items(colour)", None, "has no colour"),
            ("GET", f"{EVENTS}?fields=items/start/colour", None, "has no colour"),
            ("GET", f"{EVENTS}?fields=items(id", None, "a bracket is missing"),
            ("GET", f"{EVENTS}?fields=items(,id)", None, "a name is missing"),
            ("GET", f"{EVENTS}?fields=items)", None, "is no selection"),
            ("GET", f"{EVENTS}?syncToken=t&timeMax=2026-12-01T00:00:00Z", None, "timeMax does not go with syncToken"),
            ("GET", f"{EVENTS}?syncToken=t&showDeleted=false", None, "does not go with syncToken"),
            ("GET", EVENTS, CONTENT, "a body is not taken"),
            ("POST", "calendars/c/events/quickAdd", None, "text is missing"),
            ("POST", EVENTS, None, "is no JSON"),
            ("POST", EVENTS, [], "is no object"),
            ("POST", EVENTS, {**CONTENT, "colour": "red"}, "has no colour"),
            ("POST", EVENTS, {**CONTENT, "start": {"day": "2026-12-02"}}, "has no day"),
            ("POST", EVENTS, {**CONTENT, "start": {"date": "02.12.2026"}}, "is no date"),
            ("POST", EVENTS, {**CONTENT, "recurrence": "RRULE:FREQ=DAILY"}, "is no array"),
            ("POST", EVENTS, {**CONTENT, "sequence": True}, "is no integer"),
            ("POST", EVENTS, {**CONTENT, "location": None}, "is no string"),
            ("POST", EVENTS, {**CONTENT, "htmlLink": "https://a.example"}, "is read-only"),
            ("POST", EVENTS, {**CONTENT, "id": "UPPER"}, "cannot be an event's id"),
            ("POST", EVENTS, {**CONTENT, "id": "abcd"}, "cannot be an event's id"),
            ("POST", EVENTS, {**CONTENT, "extendedProperties": {"private": {"a": 1}}}, "is no string"),
            ("POST", EVENTS, {"start": CONTENT["start"]}, "end is missing"),
            ("PUT", f"{EVENTS}/abcde", {"summary": "A"}, "start is missing"),
        ],
    )
    def test_what_is_wrong_in_a_request_is_found(self, method: str, target: str, content: object, problem: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        found = self.description.request_problems(method, target, body)
        assert any(problem in text for text in found), found

    def test_a_right_request_has_nothing_wrong(self) -> None:
        assert self.description.request_problems("POST", EVENTS, json.dumps(CONTENT).encode()) == []

    def test_a_patch_needs_nothing_and_may_clear(self) -> None:
        body = b'{"location": null, "start": {"date": null}}'
        assert self.description.request_problems("PATCH", f"{EVENTS}/abcde", body) == []

    def test_a_token_without_the_scope_is_found(self) -> None:
        scopes = frozenset({f"{AUTH}calendar.freebusy"})
        assert self.description.request_problems("GET", EVENTS, scopes=scopes) != []

    def test_a_fixed_word_in_a_path_is_no_events_id(self) -> None:
        method = self.description.method("POST", "calendars/c/events/import")
        assert method is not None
        assert method.id == "calendar.events.import"

    @pytest.mark.parametrize(
        ("target", "status", "content", "problem"),
        [
            (EVENTS, 200, {"kind": "calendar#events", "colour": "red"}, "has no colour"),
            (EVENTS, 200, {"items": [{"start": {"dateTime": "tomorrow"}}]}, "is no date-time"),
            (EVENTS, 200, {"items": None}, "is no array"),
            (EVENTS, 200, {"nextPageToken": "a", "nextSyncToken": "b"}, "has both"),
            (EVENTS, 404, {"message": "no"}, "is no error"),
            (EVENTS, 404, {"error": {"code": 403, "message": "no", "errors": []}}, "its code"),
            (EVENTS, 404, {"error": {"code": 404, "message": "no"}}, "tells no reason"),
        ],
    )
    def test_what_is_wrong_in_an_answer_is_found(self, target: str, status: int, content: object, problem: str) -> None:
        found = self.description.answer_problems("GET", target, status, json.dumps(content).encode())
        assert any(problem in text for text in found), found

    def test_an_answer_that_should_be_empty_is_held_to_that(self) -> None:
        assert self.description.answer_problems("DELETE", f"{EVENTS}/abcde", 204, b"{}") != []

    def test_a_selection_is_read_as_it_is_written(self) -> None:
        assert read_fields("a,b(c,d/e),f/g(h)") == {"a": {}, "b": {"c": {}, "d": {"e": {}}}, "f": {"g": {"h": {}}}}

    def test_a_selection_leaves_what_it_names(self) -> None:
        value = {"a": 1, "b": [{"c": 2, "d": 3}], "e": {"f": 4}}
        assert select(value, read_fields("b(c),e")) == {"b": [{"c": 2}], "e": {"f": 4}}
