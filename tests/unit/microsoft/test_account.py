"""Microsoft's provider against a Microsoft with a memory: accounts, what they may do, and which calendars they have."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from calendar_server.core.model import CalendarId
from calendar_server.errors import CalendarGone, CalendarReadOnly, NeedsReauth, NotFound, ProviderUnavailable
from calendar_server.providers.base import Secret
from calendar_server.providers.oauth import Tokens
from tests.fakes.entra import KNOWN_SCOPES, PERSONAL_TENANT, WORK_TENANT
from tests.fakes.mailbox import CUSTOM_ZONE
from tests.unit.microsoft.desk import WEEK, Desk, booking, local, soon


class TestTheAccount:
    def tokens(self, desk: Desk, tenant: str | None) -> Tokens:
        claims = {} if tenant is None else {"tid": tenant}
        return Tokens(desk.link.secret["access_token"], "r", 3600, None, claims)

    def test_a_work_account_is_its_graph_id_with_its_tenant(self, desk: Desk) -> None:
        account = desk.provider.account(self.tokens(desk, WORK_TENANT), soon())
        assert account.subject == f"{WORK_TENANT}:{desk.anna.user.id}"

    def test_the_e_mail_is_the_mail_where_there_is_one(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(mail="anna.alias@contoso.example")
        assert desk.provider.account(self.tokens(desk, WORK_TENANT), soon()).email == "anna.alias@contoso.example"

    def test_a_personal_account_without_mail_goes_by_its_principal_name(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(personal=True)
        assert desk.provider.account(self.tokens(desk, PERSONAL_TENANT), soon()).email == "anna@outlook.com"

    def test_the_default_calendar_is_the_first_choice_for_both(self, desk: Desk) -> None:
        desk.mailbox.add_calendar("Other")
        account = desk.provider.account(self.tokens(desk, WORK_TENANT), soon())
        default = CalendarId(desk.mailbox.default.id)
        assert (account.calendar_id, account.busy_calendar_ids) == (default, (default,))

    def test_an_account_that_cannot_be_asked_is_unavailable(self, desk: Desk) -> None:
        desk.microsoft.fail_next(500)
        with pytest.raises(ProviderUnavailable):
            desk.provider.account(self.tokens(desk, WORK_TENANT), soon())

    def test_an_account_without_an_id_is_unavailable(self, desk: Desk) -> None:
        desk.microsoft.fail_next(200, body=b'{"mail": "anna@contoso.example"}')
        with pytest.raises(ProviderUnavailable):
            desk.provider.account(self.tokens(desk, WORK_TENANT), soon())


class TestTheCalendars:
    def test_each_says_whether_it_is_the_default_one_and_can_be_written(self, desk: Desk) -> None:
        desk.mailbox.add_calendar("Holidays", can_edit=False)
        listed = desk.provider.list_calendars(desk.link, soon())
        assert [(c.name, c.primary, c.writable) for c in listed] == [
            ("Calendar", True, True),
            ("Holidays", False, False),
        ]

    def test_their_zone_is_the_mailboxs_by_its_iana_name(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk("W. Europe Standard Time")
        assert [c.time_zone for c in desk.provider.list_calendars(desk.link, soon())] == ["Europe/Berlin"]

    def test_a_zone_that_nobody_knows_is_no_zone(self, make_desk: Callable[..., Desk]) -> None:
        desk = make_desk(CUSTOM_ZONE)
        assert [c.time_zone for c in desk.provider.list_calendars(desk.link, soon())] == [""]

    def test_more_than_one_page_of_them_is_read(self, desk: Desk) -> None:
        desk.microsoft.page_most = 2
        for number in range(4):
            desk.mailbox.add_calendar(f"Calendar {number}")
        assert len(desk.provider.list_calendars(desk.link, soon())) == 5

    def test_a_color_is_told_in_small_letters_or_not_at_all(self, desk: Desk) -> None:
        desk.mailbox.add_calendar("Red", hex_color="#FF1A2B")
        assert [c.color for c in desk.provider.list_calendars(desk.link, soon())] == ["", "#ff1a2b"]


class TestTokens:
    def test_a_refused_token_is_renewed_once_and_the_request_repeated(self, desk: Desk) -> None:
        desk.mailbox.add(local(2, 9), local(2, 10))
        _ = desk.link
        desk.microsoft.entra.end_access_tokens()
        assert len(desk.busy()) == 1
        assert desk.renewals == 1

    def test_a_write_with_a_refused_token_is_repeated_and_made_once(self, desk: Desk) -> None:
        _ = desk.link
        desk.microsoft.entra.end_access_tokens()
        desk.put(booking())
        assert len(desk.mailbox.events) == 1

    def test_a_renewed_token_that_is_refused_is_no_reason_to_trouble_the_owner(self, desk: Desk) -> None:
        desk.microsoft.fail_next(401, times=2)
        with pytest.raises(ProviderUnavailable):
            desk.read()

    def test_a_renewal_that_needs_the_owner_says_so(self, desk: Desk) -> None:
        def refused(secret: Secret) -> Secret:
            raise NeedsReauth

        desk.microsoft.fail_next(401)
        link = dataclasses.replace(desk.link, renew=refused)
        with pytest.raises(NeedsReauth):
            desk.provider.read_calendar(link, CalendarId(desk.calendar.id), WEEK, soon())

    def test_nothing_is_asked_for_a_disconnected_account(self, desk: Desk) -> None:
        desk.live = False
        with pytest.raises(NotFound):
            desk.read()
        assert desk.microsoft.exchanges == []

    def test_nothing_is_repeated_for_an_account_that_was_disconnected_meanwhile(self, desk: Desk) -> None:
        def disconnect(method: str, path: str) -> None:
            desk.live = False

        desk.microsoft.on_request = disconnect
        desk.microsoft.fail_next(401)
        with pytest.raises(NotFound):
            desk.read()
        assert len(desk.microsoft.exchanges) == 1

    @pytest.mark.parametrize("scope", ["Calendars.ReadWrite", "MailboxSettings.Read"])
    def test_a_scope_that_was_taken_back_is_not_a_free_calendar(self, desk: Desk, scope: str) -> None:
        desk.mailbox.add(local(2), local(3), all_day=True)
        desk.scopes = KNOWN_SCOPES - {scope, "Calendars.Read"}
        with pytest.raises(CalendarGone):
            desk.read()

    def test_reading_alone_does_not_allow_to_write(self, desk: Desk) -> None:
        desk.scopes = KNOWN_SCOPES - {"Calendars.ReadWrite"}
        with pytest.raises(CalendarReadOnly):
            desk.put(booking())
