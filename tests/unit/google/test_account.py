"""Google's provider against a Google with a memory: accounts, what they may do, and which calendars they have."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest

from calendar_server.core.model import Calendar, CalendarId
from calendar_server.errors import NeedsReauth, ProviderUnavailable, ScopeMissing
from calendar_server.providers.base import Account, Secret
from calendar_server.providers.google import calendar_key
from calendar_server.providers.oauth import Tokens
from tests.fakes.google_accounts import ALL_SCOPES, AUTH
from tests.unit.google.desk import WEEK, Desk, clock, soon


class TestTheAccount:
    def account(self, desk: Desk) -> Account:
        return desk.provider.account(Tokens(desk.link.secret["access_token"], "r", 3600, None), soon())

    def test_its_subject_is_googles_own_and_not_the_e_mail(self, desk: Desk) -> None:
        account = self.account(desk)
        assert (account.subject, account.email) == (desk.anna.user.sub, desk.anna.email)

    def test_the_default_calendar_is_the_first_choice_for_both(self, desk: Desk) -> None:
        account = self.account(desk)
        assert (account.calendar_id, account.busy_calendar_ids) == ("primary", ("primary",))

    @pytest.mark.parametrize(
        "body", [b"", b"<html>", b"[]", b'{"email": "a@b.example"}', b'{"sub": 7}', b'{"sub": ""}', b'"sub"']
    )
    def test_an_answer_without_a_subject_is_unavailable(self, desk: Desk, body: bytes) -> None:
        desk.google.fail_next(200, within="/v1/userinfo", body=body)
        with pytest.raises(ProviderUnavailable):
            self.account(desk)

    @pytest.mark.parametrize("status", [401, 404, 500, 503])
    def test_an_account_that_cannot_be_asked_is_unavailable(self, desk: Desk, status: int) -> None:
        desk.google.fail_next(status, within="/v1/userinfo")
        with pytest.raises(ProviderUnavailable):
            self.account(desk)


class TestRevoking:
    def secret(self, desk: Desk) -> Secret:
        given = desk.google.token_of(desk.anna)
        return Secret({name: str(given[name]) for name in ("access_token", "refresh_token")})

    def test_the_whole_grant_is_over(self, desk: Desk) -> None:
        secret = self.secret(desk)
        desk.provider.revoke(secret, soon())
        assert desk.google.accounts.bearer(f"Bearer {secret['access_token']}") is None

    def test_a_grant_that_is_over_already_is_no_error(self, desk: Desk) -> None:
        secret = self.secret(desk)
        desk.google.accounts.end_grant(desk.anna.user)
        desk.provider.revoke(secret, soon())

    def test_an_access_token_that_is_over_does_not_stand_in_the_way(self, desk: Desk) -> None:
        secret = self.secret(desk)
        desk.google.accounts.end_access_tokens()
        desk.provider.revoke(secret, soon())
        assert desk.google.accounts.revoked == [secret["refresh_token"]]

    def test_a_google_that_is_down_is_told(self, desk: Desk) -> None:
        desk.google.fail_next(503, within="/revoke")
        with pytest.raises(ProviderUnavailable):
            desk.provider.revoke(self.secret(desk), soon())


class TestTheCalendars:
    def test_the_default_calendar_goes_by_one_name(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(time_zone="Europe/Berlin")
        assert desk.calendars() == [
            Calendar(CalendarId("primary"), desk.anna.email, "Europe/Berlin", True, True, "#0088aa")
        ]

    @pytest.mark.parametrize("spelling", ["anna@gmail.example", "Anna@Gmail.example", "primary"])
    def test_the_e_mail_form_is_the_same_id(self, spelling: str) -> None:
        assert calendar_key(CalendarId(spelling), "anna@gmail.example") == "primary"

    def test_another_calendar_keeps_its_id(self) -> None:
        assert calendar_key(CalendarId("c_1@group.calendar.google.com"), "anna@gmail.example").startswith("c_1@")

    @pytest.mark.parametrize(
        ("role", "writable"),
        [
            ("owner", True),
            ("writer", True),
            ("writerWithoutPrivateAccess", True),
            ("reader", False),
            ("freeBusyReader", False),
        ],
    )
    def test_what_may_be_done_depends_on_the_role(self, desk: Desk, role: str, writable: bool) -> None:
        shared = desk.shared(role)
        assert [(c.id, c.writable) for c in desk.calendars()[1:]] == [(shared.id, writable)]

    def test_its_owners_own_name_for_it_goes_first(self, desk: Desk) -> None:
        desk.google.calendars.lists[desk.anna.email][0].override = "Mine"
        assert [calendar.name for calendar in desk.calendars()] == ["Mine"]

    def test_a_hidden_one_is_listed(self, desk: Desk) -> None:
        desk.google.calendars.lists[desk.anna.email][0].hidden = True
        assert len(desk.calendars()) == 1

    def test_a_deleted_one_is_not(self, desk: Desk) -> None:
        desk.google.calendars.lists[desk.anna.email][0].deleted = True
        assert desk.calendars() == []

    def test_all_pages_are_read(self, desk: Desk) -> None:
        for number in range(6):
            desk.google.calendars.add_calendar(desk.anna.email, f"Calendar {number}")
        desk.google.page_most = 3
        assert len(desk.calendars()) == 7

    def test_a_second_page_that_fails_fails_the_whole(self, desk: Desk) -> None:
        desk.google.calendars.add_calendar(desk.anna.email, "Other")
        desk.google.page_most = 1
        desk.google.fail_next(500, within="pageToken")
        with pytest.raises(ProviderUnavailable):
            desk.calendars()

    @pytest.mark.parametrize("item", [{"summary": "A"}, {"id": ""}, {"id": 7}, "primary", None])
    def test_an_entry_without_an_id_fails_the_whole(self, desk: Desk, item: object) -> None:
        body = json.dumps({"kind": "calendar#calendarList", "items": [item]}).encode()
        desk.google.fail_next(200, body=body)
        with pytest.raises(ProviderUnavailable):
            desk.calendars()

    def test_what_is_no_color_and_no_zone_is_left_out(self, desk: Desk) -> None:
        item = {
            "id": "c",
            "accessRole": "owner",
            "backgroundColor": "red",
            "timeZone": "Moon/Base",
            "summary": "\ud800",
        }
        body = json.dumps({"kind": "calendar#calendarList", "items": [item]}).encode()
        desk.google.fail_next(200, body=body)
        assert desk.calendars() == [Calendar(CalendarId("c"), "\N{REPLACEMENT CHARACTER}", writable=True)]

    def test_a_missing_scope_is_told(self, desk: Desk) -> None:
        desk.scopes = ALL_SCOPES - {f"{AUTH}calendar.calendarlist.readonly"}
        with pytest.raises(ScopeMissing):
            desk.calendars()


class TestTokens:
    def test_a_refused_token_is_renewed_once_and_the_request_repeated(self, desk: Desk) -> None:
        desk.primary.add(clock(2, 10), clock(2, 11))
        _ = desk.link
        desk.google.accounts.end_access_tokens()
        assert (len(desk.busy()), desk.renewals) == (1, 1)

    def test_the_renewed_token_is_kept_for_the_pages_that_follow(self, desk: Desk) -> None:
        for number in range(4):
            desk.primary.add(clock(2, number), clock(2, number + 1))
        desk.google.page_most = 1
        _ = desk.link
        desk.google.accounts.end_access_tokens()
        assert (len(desk.busy()), desk.renewals, len(desk.google.exchanges)) == (4, 1, 5)

    def test_a_second_refusal_is_unavailable_and_not_needs_reauth(self, desk: Desk) -> None:
        desk.access_token, desk.good_renewals = "refused", False
        with pytest.raises(ProviderUnavailable):
            desk.read()
        assert desk.renewals == 1

    def test_a_dead_grant_is_told_by_its_renewal(self, desk: Desk) -> None:
        def dead(refused: Secret) -> Secret:
            raise NeedsReauth

        link = dataclasses.replace(desk.link, secret=Secret({"access_token": "over"}), renew=dead)
        with pytest.raises(NeedsReauth):
            desk.provider.read_calendar(link, desk.calendar_id, WEEK, soon())
