"""The fake of Microsoft keeps its promises, and the description that it is held against finds what is wrong."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx
import pytest

from tests.fakes.entra import KNOWN_SCOPES, PERSONAL_TENANT
from tests.fakes.graph_description import GraphDescription
from tests.fakes.mailbox import Mailbox, Occurrence, Series
from tests.fakes.microsoft import GraphUser, MicrosoftFake

CALLBACK = "http://127.0.0.1:8080/oauth/microsoft/callback"
START, END = datetime(2026, 12, 2, 10), datetime(2026, 12, 2, 11)
WEEK = {"startDateTime": "2026-12-01T00:00:00Z", "endDateTime": "2026-12-08T00:00:00Z"}
UID = "String {6b1d4d6e-3f0a-4c1e-9d4b-5f0c8b6f6a51} Name Uid"
CONTENT: dict[str, object] = {
    "subject": "Meeting",
    "start": {"dateTime": "2026-12-02T10:00:00", "timeZone": "UTC"},
    "end": {"dateTime": "2026-12-02T11:00:00", "timeZone": "UTC"},
    "singleValueExtendedProperties": [{"id": UID, "value": "u1"}],
}


@dataclass
class Caller:
    """Somebody who talks to the fake by HTTP."""

    microsoft: MicrosoftFake
    anna: GraphUser
    http: httpx.Client

    @property
    def mailbox(self) -> Mailbox:
        return self.anna.mailbox

    @property
    def calendar(self) -> str:
        return f"me/calendars/{quote(self.mailbox.default.id, safe='')}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: object = None,
        prefer: str = "",
        if_match: str = "",
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        if prefer:
            headers["Prefer"] = prefer
        if if_match:
            headers["If-Match"] = if_match
        url = path if "://" in path else f"{self.microsoft.graph_url}/{path}"
        return self.http.request(
            method, url, params=params, headers=headers, content=None if content is None else json.dumps(content)
        )

    def view(self, *, prefer: str = "", **params: str) -> list[dict[str, object]]:
        answer = self.ask("GET", f"{self.calendar}/calendarView", params={**WEEK, **params}, prefer=prefer)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, object]] = answer.json()["value"]
        return items

    def post(self, **more: object) -> httpx.Response:
        return self.ask("POST", f"{self.calendar}/events", content={**CONTENT, **more})

    token: str = ""


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    with MicrosoftFake() as fake:
        fake.entra.redirect_uris.add(CALLBACK)
        yield fake


@pytest.fixture
def caller(microsoft: MicrosoftFake) -> Iterator[Caller]:
    anna = microsoft.add_user("anna")
    with httpx.Client(trust_env=False) as http:
        yield Caller(microsoft, anna, http, str(microsoft.token_of(anna)["access_token"]))


class TestGraph:
    def test_a_series_is_expanded_with_its_exceptions(self, caller: Caller) -> None:
        moved = {1: Occurrence(datetime(2026, 12, 5, 8), datetime(2026, 12, 5, 9))}
        caller.mailbox.add(START, END, series=Series(count=4, moved=moved, removed={2}))
        assert [(item["type"], str(item["start"])[14:24]) for item in caller.view()] == [
            ("occurrence", "2026-12-02"),
            ("exception", "2026-12-05"),
            ("occurrence", "2026-12-05"),
        ]

    def test_times_have_no_zone_and_seven_decimals(self, caller: Caller) -> None:
        caller.mailbox.add(START, END)
        assert caller.view()[0]["start"] == {"dateTime": "2026-12-02T10:00:00.0000000", "timeZone": "UTC"}

    def test_another_zone_may_be_asked_for(self, caller: Caller) -> None:
        caller.mailbox.add(START, END)
        (item,) = caller.view(prefer='outlook.timezone="Tokyo Standard Time"')
        assert item["start"] == {"dateTime": "2026-12-02T19:00:00.0000000", "timeZone": "Tokyo Standard Time"}

    def test_an_all_day_event_stays_at_midnight_in_every_zone(self, caller: Caller) -> None:
        caller.mailbox.add(datetime(2026, 12, 2), datetime(2026, 12, 3), all_day=True)
        (item,) = caller.view(prefer='outlook.timezone="Tokyo Standard Time"')
        assert item["start"] == {"dateTime": "2026-12-02T00:00:00.0000000", "timeZone": "Tokyo Standard Time"}

    def test_pages_hold_ten_unless_more_are_asked_for(self, caller: Caller) -> None:
        for _ in range(11):
            caller.mailbox.add(START, END)
        assert (len(caller.view()), len(caller.view(**{"$top": "1000"}))) == (10, 11)

    def test_the_next_page_is_where_its_link_says(self, caller: Caller) -> None:
        for _ in range(11):
            caller.mailbox.add(START, END)
        first = caller.ask("GET", f"{caller.calendar}/calendarView", params=WEEK).json()
        second = caller.ask("GET", first["@odata.nextLink"]).json()
        assert (len(second["value"]), "@odata.nextLink" in second) == (1, False)

    def test_a_window_is_needed(self, caller: Caller) -> None:
        assert caller.ask("GET", f"{caller.calendar}/calendarView").status_code == 400

    def test_only_what_is_selected_is_told(self, caller: Caller) -> None:
        caller.mailbox.add(START, END)
        assert caller.view(**{"$select": "showAs"})[0].keys() == {"@odata.etag", "id", "showAs"}

    def test_immutable_ids_outlive_a_move(self, caller: Caller) -> None:
        event = caller.mailbox.add(START, END)
        caller.mailbox.move(event.id, caller.mailbox.add_calendar("Other"))
        path = f"me/events/{quote(event.id, safe='')}"
        assert caller.ask("GET", path, prefer='IdType="ImmutableId"').json()["id"] == event.id

    def test_other_ids_do_not(self, caller: Caller) -> None:
        event = caller.mailbox.add(START, END)
        before = caller.view()[0]["id"]
        caller.mailbox.move(event.id, caller.mailbox.add_calendar("Other"))
        assert caller.ask("GET", f"me/events/{quote(str(before), safe='')}").status_code == 404

    def test_an_equal_post_answers_the_first_event(self, caller: Caller) -> None:
        first, second = (caller.post(transactionId="t") for _ in range(2))
        assert (first.json()["id"], first.status_code, second.status_code) == (second.json()["id"], 201, 201)

    def test_another_post_under_the_same_transaction_is_refused(self, caller: Caller) -> None:
        caller.post(transactionId="t")
        assert caller.post(transactionId="t", subject="Other").status_code == 409

    def test_an_event_is_found_by_an_extended_property(self, caller: Caller) -> None:
        made = caller.post().json()
        caller.post(singleValueExtendedProperties=[{"id": UID, "value": "u2"}])
        condition = f"singleValueExtendedProperties/Any(ep: ep/id eq '{UID}' and ep/value eq 'u1')"
        found = caller.ask("GET", f"{caller.calendar}/events", params={"$filter": condition}).json()["value"]
        assert [item["id"] for item in found] == [made["id"]]

    def test_extended_properties_are_told_when_they_are_asked_for(self, caller: Caller) -> None:
        path = f"me/events/{quote(caller.post().json()['id'], safe='')}"
        expand = {"$expand": f"singleValueExtendedProperties($filter=id eq '{UID}')"}
        assert caller.ask("GET", path, params=expand).json()["singleValueExtendedProperties"] == [
            {"id": UID, "value": "u1"}
        ]
        assert "singleValueExtendedProperties" not in caller.ask("GET", path).json()

    def test_an_old_version_is_not_changed(self, caller: Caller) -> None:
        made = caller.post().json()
        path = f"me/events/{quote(made['id'], safe='')}"
        assert caller.ask("PATCH", path, content={"subject": "A"}, if_match=made["@odata.etag"]).status_code == 200
        assert caller.ask("PATCH", path, content={"subject": "B"}, if_match=made["@odata.etag"]).status_code == 412
        assert caller.ask("DELETE", path, if_match=made["@odata.etag"]).status_code == 412

    def test_an_attendee_is_sent_mail(self, caller: Caller) -> None:
        caller.post(attendees=[{"emailAddress": {"address": "guest@example.org"}, "type": "required"}])
        assert caller.mailbox.mails == ["guest@example.org"]

    def test_an_unknown_member_is_refused(self, caller: Caller) -> None:
        assert caller.post(colour="red").status_code == 400

    def test_a_cut_answer_was_worked_for(self, caller: Caller) -> None:
        caller.microsoft.cut_next("POST")
        with pytest.raises(httpx.TransportError):
            caller.post()
        assert len(caller.mailbox.events) == 1

    def test_a_failed_answer_was_not(self, caller: Caller) -> None:
        caller.microsoft.fail_next(503, retry_after="3")
        answer = caller.post()
        assert (answer.status_code, answer.headers["retry-after"], caller.mailbox.events) == (503, "3", {})

    @pytest.mark.parametrize(("scope", "path"), [("User.Read", "me"), ("MailboxSettings.Read", "me/mailboxSettings")])
    def test_a_scope_that_was_not_granted_is_missed(self, caller: Caller, scope: str, path: str) -> None:
        caller.token = str(caller.microsoft.token_of(caller.anna, KNOWN_SCOPES - {scope})["access_token"])
        assert caller.ask("GET", path).status_code == 403

    def test_a_token_that_is_over_is_refused(self, caller: Caller) -> None:
        caller.microsoft.entra.end_access_tokens()
        assert caller.ask("GET", "me").status_code == 401

    def test_a_token_of_nobodys_is_refused(self, caller: Caller) -> None:
        caller.token = "made-up"
        assert caller.ask("GET", "me").status_code == 401

    def test_whatever_it_answers_is_as_described(self, caller: Caller) -> None:
        caller.mailbox.add(START, END, series=Series(count=3))
        caller.mailbox.add(START, END, showAs="tentative", all_day=False)
        made = caller.post(transactionId="t").json()
        path = f"me/events/{quote(made['id'], safe='')}"
        caller.view()
        for asked in ("me", "me/calendar", "me/calendars", "me/mailboxSettings", path, f"{caller.calendar}/events"):
            assert caller.ask("GET", asked).status_code == 200
        caller.ask("PATCH", path, content={"showAs": "free"})
        caller.ask("DELETE", path)
        caller.ask("GET", path)
        assert caller.microsoft.problems == []


class TestChangesSince:
    LATER = datetime(2027, 6, 1, 10), datetime(2027, 6, 1, 11)

    def round(self, caller: Caller, link: str = "") -> tuple[list[dict[str, object]], str]:
        """The items of a round, and the link to the next one."""
        items: list[dict[str, object]] = []
        params: Mapping[str, str] | None = None if link else WEEK
        link = link or f"{caller.calendar}/calendarView/delta"
        while True:
            answer = caller.ask("GET", link, params=params, prefer='IdType="ImmutableId", odata.maxpagesize=2')
            assert answer.status_code == 200, answer.text
            items += answer.json()["value"]
            link, params = answer.json().get("@odata.nextLink", ""), None
            if not link:
                return items, answer.json()["@odata.deltaLink"]

    def test_a_first_round_tells_everything_in_the_window_in_pages(self, caller: Caller) -> None:
        for _ in range(3):
            caller.mailbox.add(START, END)
        caller.mailbox.add(*self.LATER)
        items, link = self.round(caller)
        assert (len(items), "subject" in items[0], "$deltatoken" in link) == (3, True, True)
        assert caller.microsoft.problems == []

    def test_occurrences_are_stubs_that_do_not_say_whether_they_block(self, caller: Caller) -> None:
        caller.mailbox.add(START, END, series=Series(count=3, shown={1: {"showAs": "free"}}))
        items, _ = self.round(caller)
        assert [(item["type"], "showAs" in item) for item in items] == [
            ("seriesMaster", True),
            ("occurrence", False),
            ("exception", True),
            ("occurrence", False),
        ]
        assert caller.microsoft.problems == []

    def test_nothing_is_told_where_nothing_changed(self, caller: Caller) -> None:
        caller.mailbox.add(START, END)
        items, link = self.round(caller, self.round(caller)[1])
        assert items == self.round(caller, link)[0] == []

    def test_what_was_deleted_moved_out_or_made_outside_is_told_as_removed(self, caller: Caller) -> None:
        deleted, moved = caller.mailbox.add(START, END), caller.mailbox.add(START, END)
        _, link = self.round(caller)
        caller.mailbox.delete(deleted.id)
        caller.mailbox.move(moved.id, caller.mailbox.add_calendar("second"))
        outside = caller.mailbox.add(*self.LATER)
        items, _ = self.round(caller, link)
        assert {item["id"] for item in items} == {deleted.id, moved.id, outside.id}
        assert [item["@removed"] for item in items] == [{"reason": "deleted"}] * 3
        assert caller.microsoft.problems == []

    def test_a_removed_occurrence_is_told_by_its_series_alone(self, caller: Caller) -> None:
        series = caller.mailbox.add(START, END, series=Series(count=3))
        _, link = self.round(caller)
        caller.mailbox.change_occurrence(series.id, 1, removed=True)
        items, _ = self.round(caller, link)
        assert [item["id"] for item in items] == [series.id, f"{series.id}.0", f"{series.id}.2"]

    def test_another_calendars_changes_are_not_told(self, caller: Caller) -> None:
        _, link = self.round(caller)
        caller.mailbox.add(START, END, calendar=caller.mailbox.add_calendar("second"))
        assert self.round(caller, link)[0] == []

    def test_what_changes_while_pages_are_read_is_told_in_the_next_round(self, caller: Caller) -> None:
        first = caller.mailbox.add(START, END)
        for _ in range(3):
            caller.mailbox.add(START, END)

        def change(method: str, path: str) -> None:
            if "skiptoken" in path:
                caller.microsoft.on_request = lambda method, path: None
                caller.mailbox.change(first.id, showAs="free")

        caller.microsoft.on_request = change
        _, link = self.round(caller)
        assert [item["id"] for item in self.round(caller, link)[0]] == [first.id]

    def test_an_old_link_is_gone(self, caller: Caller) -> None:
        _, link = self.round(caller)
        caller.microsoft.expire_delta_links()
        answer = caller.ask("GET", link)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "SyncStateNotFound")

    def test_an_unknown_link_is_none_and_a_lie_is_told_on_demand(self, caller: Caller) -> None:
        link = f"{caller.calendar}/calendarView/delta?$deltatoken=none"
        assert caller.ask("GET", link).status_code == 400
        caller.microsoft.delta_lies = True
        assert caller.ask("GET", link).json()["value"] == []


class TestSigningIn:
    def url(self, microsoft: MicrosoftFake, tenant: str = "common", **changes: str) -> str:
        asked = {
            "client_id": microsoft.entra.client_id,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid offline_access Calendars.ReadWrite",
            "state": "s",
            "code_challenge": "c" * 43,
            "code_challenge_method": "S256",
            **changes,
        }
        return f"{microsoft.authorize_url.replace('{tenant}', tenant)}?{urlencode(asked)}"

    def test_the_page_shows_who_may_sign_in(self, caller: Caller) -> None:
        caller.microsoft.add_user("ben", personal=True)
        page = caller.http.get(self.url(caller.microsoft, "consumers")).text
        assert ("ben@outlook.com" in page, "anna@contoso.example" in page) == (True, False)

    @pytest.mark.parametrize(("decision", "named"), [("approve", "code"), ("deny", "error")])
    def test_a_button_sends_the_browser_back(self, caller: Caller, decision: str, named: str) -> None:
        url = self.url(caller.microsoft)
        form = {**{name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}, "user": "anna"}
        action = url.partition("?")[0].replace("/authorize", "/consent")
        answer = caller.http.post(action, data={**form, "decision": decision})
        back = parse_qs(urlsplit(answer.headers["location"]).query)
        assert (answer.status_code, back["state"], named in back) == (302, ["s"], True)

    @pytest.mark.parametrize(
        "changes",
        [
            {"client_id": "x"},
            {"redirect_uri": CALLBACK + "/"},
            {"scope": "Calendars.Everything"},
            {"code_challenge_method": "plain"},
            {"response_type": "token"},
        ],
    )
    def test_a_wrong_request_gets_a_page_and_no_redirect(self, caller: Caller, changes: dict[str, str]) -> None:
        answer = caller.http.get(self.url(caller.microsoft, **changes))
        assert (answer.status_code, "location" in answer.headers) == (400, False)

    def test_an_administrator_may_have_to_consent_first(self, caller: Caller) -> None:
        caller.microsoft.entra.needs_admin.add("anna")
        back = parse_qs(urlsplit(caller.microsoft.entra.consent(self.url(caller.microsoft), "anna")).query)
        assert back["error_description"][0].startswith("AADSTS90094")

    def test_a_personal_account_belongs_to_the_tenant_of_all_of_them(self, microsoft: MicrosoftFake) -> None:
        assert microsoft.add_user("ben", personal=True).user.tenant == PERSONAL_TENANT

    def test_a_code_is_good_for_one_time(self, caller: Caller) -> None:
        verifier = "v" * 43
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        url = self.url(caller.microsoft, code_challenge=challenge)
        (code,) = parse_qs(urlsplit(caller.microsoft.entra.consent(url, "anna")).query)["code"]
        form = {
            "grant_type": "authorization_code",
            "client_id": caller.microsoft.entra.client_id,
            "client_secret": caller.microsoft.entra.client_secret,
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
        }
        token_url = caller.microsoft.token_url.replace("{tenant}", "common")
        first, second = (caller.http.post(token_url, data=form) for _ in range(2))
        assert (first.status_code, second.status_code, second.json()["error"]) == (200, 400, "invalid_grant")


class TestTheDescription:
    description = GraphDescription()

    @pytest.mark.parametrize(
        ("method", "path", "content", "problem"),
        [
            ("GET", "me/calendars/c/getSchedule", None, "no such endpoint"),
            ("GET", "me/events/e?$select=colour", None, "Event has no colour"),
            ("GET", "me/events/e?$expand=colour", None, "Event has no colour"),
            ("GET", "me/events/e?colour=red", None, "colour is no parameter"),
            ("GET", "me/calendars?$top=2000", None, "$top is 2000"),
            ("GET", "me/calendars/c/calendarView", None, "startDateTime is missing"),
            ("GET", "me/calendars/c/calendarView/delta", None, "startDateTime is missing"),
            ("GET", "me/calendars/c/calendarView/delta?$select=id", None, "$select is no parameter"),
            ("GET", "me/calendars/c/calendarView/delta?$deltatoken=t&$top=1", None, "followed as it is given"),
            ("GET", "me/calendars/c/events?$filter=subject", None, "is not understood"),
            ("POST", "me/calendars/c/events", {**CONTENT, "colour": "red"}, "has no colour"),
            ("POST", "me/calendars/c/events", {**CONTENT, "showAs": "asleep"}, "is none of"),
            ("POST", "me/calendars/c/events", {**CONTENT, "isAllDay": "no"}, "is not"),
            ("POST", "me/calendars/c/events", {**CONTENT, "id": "e"}, "set by the server alone"),
            ("POST", "me/calendars/c/events", {"subject": "A"}, "start or end is missing"),
            ("POST", "me/calendars/c/events", {**CONTENT, "start": {"dateTime": "2026-12-02T10:00:00Z"}}, "no local"),
            (
                "POST",
                "me/calendars/c/events",
                {**CONTENT, "singleValueExtendedProperties": [{"id": "Uid", "value": "1"}]},
                "names no extended property",
            ),
            ("PATCH", "me/events/e", {"transactionId": "t"}, "cannot be changed"),
        ],
    )
    def test_what_is_wrong_in_a_request_is_found(self, method: str, path: str, content: object, problem: str) -> None:
        body = b"" if content is None else json.dumps(content).encode()
        assert any(problem in found for found in self.description.request_problems(method, path, body))

    def test_a_right_request_has_nothing_wrong(self) -> None:
        body = json.dumps(CONTENT).encode()
        assert self.description.request_problems("POST", "me/calendars/c/events", body) == []

    @pytest.mark.parametrize(
        ("item", "problem"),
        [
            ({"@odata.etag": "e", "colour": "red"}, "has no colour"),
            ({"id": "e"}, "has no @odata.etag"),
            ({"@odata.etag": "e", "start": {"dateTime": "2026-12-02T10:00:00Z", "timeZone": "UTC"}}, "no local time"),
            ({"@odata.etag": "e", "start": {"dateTime": "2026-12-02T10:00:00", "timeZone": "UTC"}}, "seven decimals"),
            ({"@odata.etag": "e", "createdDateTime": "2026-12-02"}, "is no moment"),
        ],
    )
    def test_what_is_wrong_in_an_answer_is_found(self, item: dict[str, object], problem: str) -> None:
        found = self.description.answer_problems(
            "GET", "me/calendars/c/events", 200, json.dumps({"value": [item]}).encode()
        )
        assert any(problem in text for text in found)

    @pytest.mark.parametrize(
        ("page", "problem"),
        [
            ({"value": []}, "has not one link onward"),
            ({"value": [], "@odata.deltaLink": "a", "@odata.nextLink": "b"}, "has not one link onward"),
            ({"value": [{"id": "e", "@removed": {}}], "@odata.deltaLink": "a"}, "does not say what was removed"),
            ({"value": [{"id": "e", "@removed": {"reason": "deleted"}, "subject": ""}]}, "has no subject"),
        ],
    )
    def test_what_is_wrong_in_a_page_of_a_feed_is_found(self, page: dict[str, object], problem: str) -> None:
        target = "me/calendars/c/calendarView/delta?$deltatoken=t"
        found = self.description.answer_problems("GET", target, 200, json.dumps(page).encode())
        assert any(problem in text for text in found)

    def test_an_error_has_a_form_too(self) -> None:
        assert self.description.answer_problems("GET", "me", 404, b'{"error": {"colour": "red"}}') != []
