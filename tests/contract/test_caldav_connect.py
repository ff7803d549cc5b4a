"""Connecting over CalDAV: discovery, credentials, where the password may go, what an account is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from calendar_server.core.model import Preset
from calendar_server.errors import (
    CalendarError,
    ForbiddenDestination,
    NeedsReauth,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.caldav_address import Origin, Reach
from calendar_server.providers.caldav_discovery import base_url
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import StrangeAccount, event
from tests.contract.conftest import PASSWORD
from tests.contract.worlds import at, soon
from tests.fakes.dav_servers import DavServer
from tests.fakes.strange_dav import HOME, PRINCIPAL, WORK, Shelf, StrangeDav, strange_dav


def cause(error: CalendarError) -> str | None:
    assert isinstance(error, ProviderRefused)
    return error.cause


class TestRadicale:
    @pytest.fixture
    def work(self, radicale: DavServer, username: str) -> str:
        radicale.make_calendar(f"/{username}/other/")
        return radicale.make_calendar(f"/{username}/work/")

    def connect(self, caldav: CaldavProvider, url: str, username: str, password: str = PASSWORD) -> object:
        return caldav.connect(
            preset=Preset.CUSTOM, username=username, password=password, server_url=url, deadline=soon()
        )[0]

    def test_base_principal_and_unknown_paths_lead_to_the_same_account(
        self, caldav: CaldavProvider, radicale: DavServer, username: str, work: str
    ) -> None:
        at_base = self.connect(caldav, radicale.url, username)
        assert at_base == self.connect(caldav, f"{radicale.url}{username}/", username)
        assert at_base == self.connect(caldav, f"{radicale.url}no/such/place/", username)

    def test_the_address_of_a_calendar_selects_it_for_both(
        self, caldav: CaldavProvider, radicale: DavServer, username: str, work: str
    ) -> None:
        account, _ = caldav.connect(
            preset=Preset.CUSTOM,
            username=username,
            password=PASSWORD,
            server_url=f"{radicale.url.rstrip('/')}{work}",
            deadline=soon(),
        )
        assert (account.calendar_id, account.busy_calendar_ids) == (work, (work,))

    def test_a_wrong_password_is_told_as_such(
        self, caldav: CaldavProvider, radicale: DavServer, username: str, work: str
    ) -> None:
        with pytest.raises(ProviderRefused) as refused:
            self.connect(caldav, radicale.url, username, "wrong")
        assert refused.value.cause == "credentials"

    def test_an_account_without_calendars_is_told_as_such(
        self, caldav: CaldavProvider, radicale: DavServer, username: str
    ) -> None:
        with pytest.raises(ProviderRefused) as refused:
            self.connect(caldav, radicale.url, username)
        assert refused.value.cause == "no_calendars"


class TestDiscovery:
    @pytest.mark.parametrize("path", ["", "/", "/dav/", PRINCIPAL, HOME, "/dav/home", "/no/such/place"])
    def test_every_entrance_leads_to_the_account(self, account: StrangeAccount, path: str) -> None:
        connected = account.connect(path)
        assert (connected.calendar_id, connected.subject) == (WORK, f"127.0.0.1:{account.dav.port}{PRINCIPAL[:-1]}")

    @pytest.mark.parametrize("path", [WORK, WORK.rstrip("/")])
    def test_the_address_of_a_calendar_selects_it_for_both(self, account: StrangeAccount, path: str) -> None:
        account.dav.shelves["/dav/home/aaa/"] = Shelf("Aaa")
        connected = account.connect(path)
        assert (connected.calendar_id, connected.busy_calendar_ids) == (WORK, (WORK,))

    def test_a_calendar_outside_the_home_can_be_entered(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/shared/team/"] = Shelf("Team")
        assert account.connect("/dav/shared/team/").calendar_id == "/dav/shared/team/"
        listed = {one.id for one in account.provider.list_calendars(account.link, soon())}
        assert listed == {WORK, "/dav/shared/team/"}

    def test_a_calendar_can_be_entered_where_there_are_no_principals(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("no_principal")
        assert account.connect(WORK).busy_calendar_ids == (WORK,)

    def test_a_home_can_be_entered_where_there_are_no_principals(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("no_principal")
        assert account.connect(HOME).busy_calendar_ids == (WORK,)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("absolute", [True, False])
    def test_a_redirect_from_the_well_known_place_keeps_the_method(
        self, account: StrangeAccount, status: int, absolute: bool
    ) -> None:
        account.dav.quirks.add("no_root")
        target = f"{account.dav.url}{PRINCIPAL}" if absolute else PRINCIPAL
        account.dav.redirects["/.well-known/caldav"] = (status, target)
        assert account.connect("/").calendar_id == WORK

    def test_a_redirect_from_the_address_entered_is_followed(self, account: StrangeAccount) -> None:
        account.dav.redirects["/"] = (301, "dav/")
        account.dav.redirects["/dav/"] = (302, PRINCIPAL)
        assert account.connect("/").calendar_id == WORK

    @pytest.mark.parametrize("location", ["/", ""])
    def test_redirects_without_end_or_aim_are_no_caldav(self, account: StrangeAccount, location: str) -> None:
        account.dav.redirects["/"] = (302, location)
        assert cause(account.refusal("/")) == "not_caldav"

    def test_two_homes_are_both_read(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("two_homes")
        account.dav.shelves["/more/x/"] = Shelf("More")
        assert account.connect().busy_calendar_ids == (WORK, "/more/x/")

    def test_a_home_that_is_not_there_does_not_hide_the_other(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("lost_home")
        assert account.connect().busy_calendar_ids == (WORK,)

    @pytest.mark.parametrize("quirk", ["full_urls", "wrong_outer_name", "no_final_slashes", "double_slashes"])
    def test_hrefs_in_any_spelling_lead_to_the_account(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.put(f"{WORK}e.ics", event("e"))
        account.dav.quirks.add(quirk)
        account.connect()
        assert len(account.busy()) == 1
        assert account.put().revision == 1

    def test_nothing_but_web_pages_is_no_caldav(self, account: StrangeAccount) -> None:
        for method in ("PROPFIND", "OPTIONS"):
            account.dav.fail(method, 200, b"<html><body>Welcome</body></html>")
        assert cause(account.refusal()) == "not_caldav"

    @pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
    def test_a_server_without_propfind_is_no_caldav(self, account: StrangeAccount, status: int) -> None:
        account.dav.fail("PROPFIND", status)
        assert cause(account.refusal()) == "not_caldav"

    def test_a_server_for_files_only_is_no_caldav(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("not_caldav")
        assert cause(account.refusal()) == "not_caldav"

    def test_a_principal_without_a_home_has_no_calendars(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("no_home")
        assert cause(account.refusal()) == "no_calendars"

    def test_an_empty_home_has_no_calendars(self, account: StrangeAccount) -> None:
        account.dav.shelves.clear()
        assert cause(account.refusal()) == "no_calendars"

    def test_calendars_that_take_no_events_do_not_count(self, account: StrangeAccount) -> None:
        account.dav.shelves[WORK].components = ("VTODO",)
        assert cause(account.refusal()) == "no_calendars"

    @pytest.mark.parametrize("status", [500, 502, 503])
    def test_a_server_that_is_down_is_unavailable(self, account: StrangeAccount, status: int) -> None:
        account.dav.fail("PROPFIND", status)
        assert type(account.refusal()) is ProviderUnavailable

    def test_a_server_that_asks_to_wait_is_throttling(self, account: StrangeAccount) -> None:
        account.dav.fail("PROPFIND", 503, headers=(("Retry-After", "7"),))
        refusal = account.refusal()
        assert (type(refusal), refusal.retry_after_s) == (ProviderThrottled, 7)

    def test_a_server_that_hangs_up_is_unavailable(self, account: StrangeAccount) -> None:
        account.dav.fail("PROPFIND", 0, None)
        assert type(account.refusal()) is ProviderUnavailable

    @pytest.mark.parametrize("body", [b"", b"<html/>", b"<multistatus/>", b'<D:multistatus xmlns:D="DAV:"><D:resp'])
    def test_a_broken_list_is_unavailable(self, account: StrangeAccount, body: bytes) -> None:
        account.dav.fail("PROPFIND", 207, body)
        assert type(account.refusal()) is ProviderUnavailable

    def test_one_calendar_that_the_server_fails_to_tell_about_is_unavailable(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/sick/"] = Shelf("Sick", own_status=507)
        assert type(account.refusal()) is ProviderUnavailable


class TestManyCalendars:
    def test_a_server_that_knows_no_more_is_not_asked_for_each_of_many_calendars(self, account: StrangeAccount) -> None:
        for number in range(40):
            account.dav.shelves[f"/dav/home/c{number}/"] = Shelf(f"C{number}")
        assert len(account.connect().busy_calendar_ids) == 41
        assert len(account.dav.log) < 15

    def test_what_only_the_calendar_itself_tells_is_asked_of_each(self, account: StrangeAccount) -> None:
        zone = {"{urn:ietf:params:xml:ns:caldav}calendar-timezone": "BEGIN:VTIMEZONE\nTZID:Europe/Paris\n"}
        for number in range(20):
            account.dav.shelves[f"/dav/home/c{number}/"] = Shelf(f"C{number}", properties=zone)
        account.dav.quirks.add("time_zone_at_depth_0")
        account.connect()
        told = account.provider.list_calendars(account.link, soon())
        assert [one.time_zone for one in told] == ["", *["Europe/Paris"] * 20]


class TestChoice:
    def test_every_own_calendar_blocks_at_first(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/home/"] = Shelf("Home")
        assert account.connect().busy_calendar_ids == (WORK, "/dav/home/home/")

    def test_a_calendar_of_somebody_else_does_not_block_at_first(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/bob/"] = Shelf("Bob", owner="/dav/principals/bob/")
        assert account.connect().busy_calendar_ids == (WORK,)

    def test_an_owner_spelled_otherwise_is_still_the_same(self, account: StrangeAccount) -> None:
        account.dav.shelves[WORK].owner = "/dav//principals/./anna"
        account.dav.shelves["/dav/home/bob/"] = Shelf("Bob", owner="/dav/principals/bob/")
        assert account.connect().busy_calendar_ids == (WORK,)

    def test_a_server_that_names_no_owner_rightly_blocks_too_much_rather_than_nothing(
        self, account: StrangeAccount
    ) -> None:
        account.dav.shelves[WORK].owner = "/users/1234"
        assert account.connect().busy_calendar_ids == (WORK,)

    def test_a_calendar_marked_transparent_does_not_block_at_first(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/fun/"] = Shelf("Fun", transparent=True)
        assert account.connect().busy_calendar_ids == (WORK,)

    def test_bookings_go_to_the_default_calendar(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/main/"] = Shelf("Main")
        account.dav.default_calendar = "/dav/home/main/"
        assert account.connect().calendar_id == "/dav/home/main/"
        primary = {one.id: one.primary for one in account.provider.list_calendars(account.link, soon())}
        assert primary == {WORK: False, "/dav/home/main/": True}

    def test_bookings_go_to_the_first_calendar_that_can_be_written_to(self, account: StrangeAccount) -> None:
        account.dav.shelves[WORK].privileges = ("read",)
        account.dav.shelves["/dav/home/main/"] = Shelf("Main")
        assert account.connect().calendar_id == "/dav/home/main/"

    def test_without_a_calendar_to_write_to_there_is_none_for_bookings(self, account: StrangeAccount) -> None:
        account.dav.shelves[WORK].privileges = ("read", "read-free-busy")
        connected = account.connect()
        assert (connected.calendar_id, connected.busy_calendar_ids) == ("", (WORK,))

    @pytest.mark.parametrize("privilege", ["all", "write", "write-content", "bind"])
    def test_any_privilege_to_write_makes_a_calendar_writable(self, account: StrangeAccount, privilege: str) -> None:
        account.dav.shelves[WORK].privileges = ("read", privilege)
        assert account.connect().calendar_id == WORK

    def test_a_subscription_is_read_only(self, account: StrangeAccount) -> None:
        account.dav.shelves[WORK].types = '<x:subscribed xmlns:x="http://calendarserver.org/ns/"/>'
        assert account.connect().calendar_id == ""

    @pytest.mark.parametrize("quirk", ["no_components", "no_privileges"])
    def test_a_server_that_does_not_know_the_property_lets_all_in(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.quirks.add(quirk)
        assert account.connect().calendar_id == WORK

    def test_inboxes_and_deleted_calendars_are_left_out(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/in/"] = Shelf("In", types="<C:schedule-inbox/>")
        deleted = '<x:deleted-calendar xmlns:x="http://nextcloud.com/ns"/>'
        account.dav.shelves["/dav/home/bin/"] = Shelf("Bin", types=deleted)
        assert account.connect().busy_calendar_ids == (WORK,)

    def test_a_calendar_that_is_an_outbox_besides_blocks(self, account: StrangeAccount) -> None:
        """As is the main one at SOGo, and also the one where invitations go."""
        main = "/dav/home/personal/"
        account.dav.shelves[main] = Shelf("Personal", types="<C:schedule-outbox/>")
        account.dav.default_calendar = main
        assert account.connect().busy_calendar_ids == (WORK, main)
        assert account.connect().calendar_id == main
        assert account.connect(main).busy_calendar_ids == (main,)

    def test_name_zone_and_color_are_told(self, account: StrangeAccount) -> None:
        account.dav.shelves[WORK].name = "Arbeit & Büro"
        zone = "BEGIN:VCALENDAR\r\nBEGIN:VTIMEZONE\r\nTZID:Europe/Berlin\r\nEND:VTIMEZONE\r\nEND:VCALENDAR"
        account.dav.shelves[WORK].properties = {
            "{http://apple.com/ns/ical/}calendar-color": "#FF8800FF",
            "{urn:ietf:params:xml:ns:caldav}calendar-timezone": zone,
        }
        account.dav.quirks.add("time_zone_at_depth_0")
        account.connect()
        (told,) = account.provider.list_calendars(account.link, soon())
        assert (told.name, told.time_zone, told.color) == ("Arbeit & Büro", "Europe/Berlin", "#ff8800")

    def test_the_id_of_a_calendar_is_spelled_as_the_server_spells_it(self, account: StrangeAccount) -> None:
        account.dav.shelves["/dav/home/Büro 2/"] = account.dav.shelves.pop(WORK)
        assert account.connect().calendar_id == "/dav/home/B%C3%BCro%202/"
        account.dav.put("/dav/home/Büro 2/e.ics", event("e"))
        assert account.busy() == [(at(2, 9), at(2, 10))]


class TestIdentity:
    def test_the_subject_is_the_principal_at_this_host_and_port(self, account: StrangeAccount) -> None:
        assert account.connect("/dav/").subject == f"127.0.0.1:{account.dav.port}/dav/principals/anna"

    def test_the_subject_does_not_depend_on_how_the_principal_is_spelled(self, account: StrangeAccount) -> None:
        before = account.connect().subject
        account.dav.quirks.add("no_final_slashes")
        assert account.connect().subject == before

    def test_the_e_mail_comes_from_the_accounts_own_addresses(self, account: StrangeAccount) -> None:
        assert account.connect().email == "anna@example.com"

    def test_the_e_mail_is_the_user_name_where_there_are_no_addresses(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("no_addresses")
        assert account.connect().email == "anna"

    def test_nothing_secret_is_in_the_settings(self, account: StrangeAccount) -> None:
        assert account.dav.password not in json.dumps(dict(account.connect().settings))

    def test_the_secret_does_not_show_itself(self, account: StrangeAccount) -> None:
        account.connect()
        assert account.dav.password not in repr(account.connected)


class TestPassword:
    @pytest.mark.parametrize("quirk", ["", "two_challenges", "two_challenge_headers", "no_challenge", "anonymous"])
    def test_a_wrong_password_is_told_as_such(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.quirks.add(quirk)
        assert cause(account.refusal(password="wrong")) == "credentials"

    @pytest.mark.parametrize("quirk", ["digest_only", "digest_sha256", "digest_sess", "digest_old"])
    def test_digest_is_spoken_where_it_is_asked_for(self, account: StrangeAccount, quirk: str) -> None:
        account.dav.quirks |= {quirk, "replayed_counts_refused"}
        assert account.connect().settings["auth"] == "digest"
        assert account.put().revision == 1

    def test_digest_is_never_begun_with_the_password_in_clear_once_it_is_known(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("digest_only")
        account.connect()
        account.dav.log.clear()
        account.read()
        assert not [one for one in account.dav.log if one.headers.get("authorization", "").startswith("Basic")]

    def test_an_answer_to_anybody_is_not_taken_for_the_accounts(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("digest_only")
        account.connect()
        account.dav.quirks.add("open_to_all")
        with pytest.raises(ProviderUnavailable):
            account.read()

    def test_a_nonce_that_is_stale_costs_a_repetition_and_nothing_else(self, account: StrangeAccount) -> None:
        account.dav.quirks |= {"digest_only", "one_use_nonces"}
        account.connect()
        account.dav.refused_logins = 0
        assert account.busy() == []
        assert account.dav.refused_logins == 0

    def test_a_wrong_digest_password_is_told_as_such(self, account: StrangeAccount) -> None:
        account.dav.quirks.add("digest_only")
        assert cause(account.refusal(password="wrong")) == "credentials"

    def test_connecting_with_a_wrong_password_is_one_refused_login(self, account: StrangeAccount) -> None:
        account.refusal(password="wrong")
        assert account.dav.refused_logins == 1

    @pytest.mark.parametrize("quirk", ["", "digest_only"])
    def test_a_password_that_is_no_longer_good_is_tried_twice_in_one_call(
        self, account: StrangeAccount, quirk: str
    ) -> None:
        account.dav.quirks.add(quirk)
        account.connect()
        account.dav.password, account.dav.refused_logins = "another", 0
        with pytest.raises(NeedsReauth):
            account.read()
        assert account.dav.refused_logins == 2

    def test_a_single_401_does_not_end_the_connection(self, account: StrangeAccount) -> None:
        account.connect()
        account.dav.put(f"{WORK}e.ics", event("e"))
        account.dav.fail("REPORT", 401, times=1)
        assert len(account.busy()) == 1

    @pytest.mark.parametrize("status", [403, 500, 503])
    def test_no_other_status_is_a_refused_password(self, account: StrangeAccount, status: int) -> None:
        account.connect()
        account.dav.fail("PROPFIND", status)
        with pytest.raises(CalendarError) as error:
            account.read()
        assert not isinstance(error.value, NeedsReauth)

    def test_the_server_that_moved_from_basic_to_digest_is_followed(self, account: StrangeAccount) -> None:
        account.connect()
        account.dav.quirks.add("digest_only")
        assert account.busy() == []


class TestForeignPlaces:
    @pytest.fixture
    def other(self) -> object:
        with strange_dav() as server:
            yield server

    def test_a_redirect_to_another_port_does_not_get_the_password(
        self, account: StrangeAccount, other: StrangeDav
    ) -> None:
        account.dav.redirects["/"] = (301, f"{other.url}/")
        refusal = account.refusal()
        assert isinstance(refusal, ProviderRefused)
        assert other.log == []

    def test_a_redirect_to_another_host_does_not_get_the_password(
        self, account: StrangeAccount, other: StrangeDav
    ) -> None:
        account.dav.redirects["/"] = (301, f"http://localhost:{account.dav.port}/dav/")
        account.dav.redirects["/dav/"] = (200, "")
        assert isinstance(account.refusal(), ProviderRefused)
        assert {one.headers["host"] for one in account.dav.log} == {f"127.0.0.1:{account.dav.port}"}

    def test_a_home_page_that_leads_elsewhere_does_not_hide_the_well_known_place(self, account: StrangeAccount) -> None:
        account.dav.redirects["/"] = (301, "https://www.example.com/")
        account.dav.redirects["/.well-known/caldav"] = (301, "/dav/")
        assert account.connect().calendar_id == WORK

    def test_the_person_is_told_to_enter_the_other_address(self, account: StrangeAccount) -> None:
        account.dav.redirects["/"] = (301, "https://dav.example.com/x")
        assert "https://dav.example.com/ " in account.refusal().message.replace(",", " ")

    @pytest.mark.parametrize("inner", ["http://10.1.2.3/x", "https://10.1.2.3/", "https://wiki.corp/x", "https://nas/"])
    def test_no_address_of_the_inner_network_is_told(self, account: StrangeAccount, inner: str) -> None:
        account.dav.redirects["/"] = (301, inner)
        assert "//" not in account.refusal().message

    def test_a_home_on_another_host_does_not_get_the_password(self, account: StrangeAccount, other: StrangeDav) -> None:
        body = (
            '<D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:response>'
            f"<D:href>{PRINCIPAL}</D:href><D:propstat><D:prop><C:calendar-home-set>"
            f"<D:href>http://localhost:{other.port}/dav/home/</D:href></C:calendar-home-set></D:prop>"
            "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"
        )
        account.dav.fail("PROPFIND", 207, body.encode(), path=PRINCIPAL)
        assert isinstance(account.refusal(), ProviderRefused)
        assert other.log == []

    def test_a_redirect_after_connecting_does_not_get_the_password(
        self, account: StrangeAccount, other: StrangeDav
    ) -> None:
        account.connect()
        account.dav.redirects[WORK] = (307, f"{other.url}{WORK}")
        with pytest.raises(ProviderUnavailable):
            account.read()
        assert other.log == []

    def test_a_forbidden_address_is_told_as_such(self, account: StrangeAccount) -> None:
        assert isinstance(account.refusal(url="http://10.0.0.1/"), ForbiddenDestination)

    @pytest.mark.parametrize("url", ["http://93.184.215.14/", "ftp://example.com/", "https://[::1]/"])
    def test_plain_http_and_inner_addresses_are_not_reached(self, account: StrangeAccount, url: str) -> None:
        assert isinstance(account.refusal(url=url), (ForbiddenDestination, ProviderRefused))


class TestNames:
    @pytest.fixture
    def addresses(self) -> dict[str, list[str]]:
        """What the resolver answers."""
        return {"dav.example.com": ["127.0.0.1"]}

    @pytest.fixture
    def fresh(self, account: StrangeAccount, expander: Expander, addresses: dict[str, list[str]]) -> Iterator[object]:
        """Gives the account a provider that has no lines yet."""
        made: list[Egress] = []

        def fresh() -> None:
            allow = AllowList.parse("127.0.0.0/8")
            made.append(
                Egress(allow=allow, exchange_s=5, answer_bytes=10**6, resolver=lambda host, port: addresses[host])
            )
            account.provider = CaldavProvider(made[-1], expander, redirects=5, calendar_events=100)

        yield fresh
        for egress in made:
            egress.close()

    def test_a_name_that_leads_inward_later_is_unavailable(
        self, account: StrangeAccount, fresh: Callable[[], None], addresses: dict[str, list[str]]
    ) -> None:
        fresh()
        account.connect(url=f"http://dav.example.com:{account.dav.port}/")
        addresses["dav.example.com"] = ["10.0.0.1"]
        fresh()
        with pytest.raises(ProviderUnavailable) as error:
            account.read()
        assert not isinstance(error.value, ForbiddenDestination)

    def test_the_spelling_of_the_host_does_not_make_another_account(
        self, account: StrangeAccount, fresh: Callable[[], None]
    ) -> None:
        fresh()
        subjects = {
            account.connect(url=f"http://{host}:{account.dav.port}/").subject
            for host in ("dav.example.com", "DAV.Example.COM", "dav.example.com.")
        }
        assert subjects == {f"dav.example.com:{account.dav.port}/dav/principals/anna"}

    def test_a_preset_that_cannot_be_reached_is_unavailable(
        self, account: StrangeAccount, fresh: Callable[[], None], addresses: dict[str, list[str]]
    ) -> None:
        addresses["caldav.icloud.com"] = ["10.0.0.1"]
        fresh()
        with pytest.raises(ProviderUnavailable) as error:
            account.provider.connect(preset=Preset.APPLE, username="a", password="b", server_url="", deadline=soon())
        assert not isinstance(error.value, ForbiddenDestination)


class TestPresets:
    def test_nextcloud_gets_its_path_once(self, account: StrangeAccount) -> None:
        account.connect("/cloud", preset=Preset.NEXTCLOUD)
        account.connect("/cloud/remote.php/dav/", preset=Preset.NEXTCLOUD)
        asked = [one.path for one in account.dav.log if one.path.startswith("/cloud")]
        assert asked == ["/cloud/remote.php/dav/"] * 2

    @pytest.mark.parametrize("preset", [Preset.APPLE, Preset.FASTMAIL])
    def test_presets_with_an_address_of_their_own_begin_there(self, preset: Preset) -> None:
        assert base_url(preset, "").startswith("https://caldav.")

    @pytest.mark.parametrize(
        ("url", "allowed"),
        [
            ("https://caldav.icloud.com/", True),
            ("https://p42-caldav.icloud.com:443/123/", True),
            ("http://p42-caldav.icloud.com/", False),
            ("https://p42-caldav.icloud.com:8443/", False),
            ("https://evilicloud.com/", False),
            ("https://icloud.com.evil.example/", False),
            ("https://caldav.icloud.com@evil.example.com/", None),
        ],
    )
    def test_apple_spreads_accounts_over_hosts_of_its_own_only(self, url: str, allowed: bool | None) -> None:
        reach = Reach(Origin.of(base_url(Preset.APPLE, "")), Preset.APPLE)
        if allowed is None:
            with pytest.raises(ProviderUnavailable):
                Origin.of(url)
        else:
            assert reach.allows(Origin.of(url)) is allowed

    def test_a_calendar_on_another_host_of_the_preset_has_a_full_url_for_its_id(self) -> None:
        reach = Reach(Origin.of(base_url(Preset.APPLE, "")), Preset.APPLE)
        url = reach.locate("/123/calendars/home/", "https://p42-caldav.icloud.com:443/123/calendars/")
        assert reach.id_of(url) == "https://p42-caldav.icloud.com/123/calendars/home/"
        assert reach.url_of(reach.id_of(url)) == url
