"""Log-ins are counted at the server: a refused password is tried twice in all, whoever asks and however many ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from calendar_server.errors import CalendarError, NeedsReauth, ProviderRefused, ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.caldav_digest import CHALLENGES_MOST, HEADER_MOST, PARAMETERS_MOST, challenges
from calendar_server.providers.caldav_logins import ACCEPTED_S, DEAD_S, STANDINGS_MOST, Logins, Standing
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import StrangeAccount, event
from tests.contract.worlds import soon
from tests.fakes.strange_dav import HOME, PRINCIPAL, WORK, Shelf

READERS = 8
# What a server may say of a wrong password, and what then tries it in all.
LOGINS = ["", "two_challenges", "two_challenge_headers", "no_challenge", "digest_only", "digest_sha256", "digest_sess"]


@pytest.fixture
def fresh(account: StrangeAccount, expander: Expander) -> Iterator[Callable[[], None]]:
    """Gives the account a provider that knows nothing yet, as a restarted service has."""
    made: list[Egress] = []

    def fresh() -> None:
        made.append(Egress(allow=AllowList.parse("127.0.0.0/8"), exchange_s=10, answer_bytes=10**6))
        account.provider = CaldavProvider(made[-1], expander, redirects=5, calendar_events=100)

    fresh()
    yield fresh
    for egress in made:
        egress.close()


def all_at_once(work: Callable[[], object], times: int = READERS) -> list[CalendarError | None]:
    """Run the work in so many threads; answers how each ended."""
    ends: list[CalendarError | None] = []
    start = threading.Barrier(times)

    def run() -> None:
        start.wait(20)
        try:
            work()
        except CalendarError as error:
            ends.append(error)
        else:
            ends.append(None)

    threads = [threading.Thread(target=run) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == times
    return ends


class TestAConnectedAccount:
    @pytest.fixture
    def changed(self, account: StrangeAccount, fresh: Callable[[], None]) -> StrangeAccount:
        """An account whose password was changed at the server."""
        account.connect()
        account.dav.password, account.dav.refused_logins = "another", 0
        account.dav.log.clear()
        return account

    def test_many_readers_at_once_try_a_refused_password_twice_in_all(self, changed: StrangeAccount) -> None:
        assert all(isinstance(end, NeedsReauth) for end in all_at_once(changed.read))
        assert changed.dav.refused_logins == 2

    def test_readers_and_writers_share_the_two_tries(self, changed: StrangeAccount) -> None:
        verbs = [changed.read, changed.put, lambda: changed.provider.list_calendars(changed.link, soon()), changed.find]
        turns = iter(verbs * 2)
        lock = threading.Lock()

        def next_verb() -> object:
            with lock:
                verb = next(turns)
            return verb()

        assert all(isinstance(end, NeedsReauth) for end in all_at_once(next_verb))
        assert changed.dav.refused_logins == 2

    def test_what_was_refused_is_not_sent_again(self, changed: StrangeAccount) -> None:
        for verb in (changed.read, changed.put, changed.find, changed.read):
            with pytest.raises(NeedsReauth):
                verb()
        assert len(changed.dav.log) == 2

    def test_an_account_that_was_good_a_moment_ago_costs_one_refusal_for_each_that_is_on_its_way(
        self, account: StrangeAccount, fresh: Callable[[], None]
    ) -> None:
        account.read()
        account.dav.password, account.dav.refused_logins = "another", 0
        assert all(isinstance(end, NeedsReauth) for end in all_at_once(account.read))
        assert account.dav.refused_logins <= READERS + 1

    def test_new_credentials_are_tried_at_once(self, changed: StrangeAccount) -> None:
        with pytest.raises(NeedsReauth):
            changed.read()
        changed.connect(password="another")
        changed.dav.put(f"{WORK}e.ics", event("e"))
        assert len(changed.busy()) == 1

    def test_the_same_password_is_tried_again_for_an_account_that_was_connected_again(self) -> None:
        logins = Logins()
        logins.of("https://a.example", "anna", "x", 1).bury()
        assert not logins.of("https://a.example", "anna", "x", 2).dead

    def test_many_readers_of_a_good_account_all_read(self, account: StrangeAccount, fresh: Callable[[], None]) -> None:
        account.connect()
        assert all_at_once(account.read) == [None] * READERS
        assert account.dav.refused_logins == 0

    def test_a_stray_401_ends_nothing_however_many_read(
        self, account: StrangeAccount, fresh: Callable[[], None]
    ) -> None:
        account.connect()
        account.dav.fail("PROPFIND", 401, times=1)
        assert all_at_once(account.read) == [None] * READERS

    def test_a_server_that_fails_makes_nobody_wait_for_a_turn(
        self, account: StrangeAccount, fresh: Callable[[], None]
    ) -> None:
        account.connect()
        account.dav.fail("PROPFIND", 503)
        ends = all_at_once(account.read)
        assert all(isinstance(end, ProviderUnavailable) and "503" in end.message for end in ends)


class TestConnecting:
    @pytest.mark.parametrize("quirk", LOGINS)
    @pytest.mark.parametrize("path", ["/", "/dav/", WORK, "/unknown/", "/.well-known/caldav"])
    def test_a_wrong_password_is_tried_twice_at_most(self, account: StrangeAccount, quirk: str, path: str) -> None:
        account.dav.quirks.add(quirk)
        refusal = account.refusal(path, password="wrong")
        assert isinstance(refusal, ProviderRefused)
        assert refusal.cause == "credentials"
        told = [one for one in account.dav.log if "authorization" in one.headers]
        assert 1 <= len(told) <= 2

    def test_redirects_do_not_add_tries(self, account: StrangeAccount) -> None:
        for number in range(3):
            account.dav.redirects["/" if number == 0 else f"/{number}/"] = (302, f"/{number + 1}/")
        account.dav.redirects["/3/"] = (308, "/dav/")
        account.refusal(password="wrong")
        assert account.dav.refused_logins == 1

    @pytest.mark.parametrize("place", [PRINCIPAL, HOME])
    def test_a_password_that_is_refused_half_way_is_tried_twice_at_most(
        self, account: StrangeAccount, place: str
    ) -> None:
        account.dav.fail("PROPFIND", 401, path=place)
        assert isinstance(account.refusal(), ProviderRefused)
        assert len([one for one in account.dav.log if one.path == place]) <= 2

    def test_many_calendars_do_not_add_tries(self, account: StrangeAccount) -> None:
        for number in range(20):
            account.dav.shelves[f"{HOME}{number}/"] = Shelf()
        account.dav.quirks.add("time_zone_at_depth_0")
        for number in range(20):
            account.dav.fail("PROPFIND", 401, path=f"{HOME}{number}/")
        account.refusal()
        assert len([one for one in account.dav.log if one.path != HOME and one.path.startswith(HOME)]) <= 3


class TestStanding:
    def test_a_turn_that_does_not_come_ends_by_the_deadline(self) -> None:
        standing = Standing()
        with standing.turn() as first, standing.turn() as second:
            first(Deadline.after(5))
            with pytest.raises(ProviderUnavailable, match="too long"):
                second(Deadline.after(0.05))

    def test_time_heals(self) -> None:
        now = [0.0]
        standing = Standing(lambda: now[0])
        standing.bury()
        assert standing.dead
        now[0] = DEAD_S
        assert not standing.dead

    def test_what_was_accepted_long_ago_lets_nobody_pass(self) -> None:
        now = [0.0]
        standing = Standing(lambda: now[0])
        standing.answered()
        with standing.turn() as first, standing.turn() as second:
            first(Deadline.after(5))
            second(Deadline.after(5))
            now[0] = ACCEPTED_S
            first(Deadline.after(5))
            with pytest.raises(ProviderUnavailable):
                second(Deadline.after(0))

    def test_the_memory_of_them_is_bounded_and_holds_no_password(self) -> None:
        logins = Logins()
        for number in range(STANDINGS_MOST + 10):
            logins.of("https://a.example", str(number), "secret", 1)
        assert len(logins._standings) == STANDINGS_MOST
        assert not any(b"secret" in key for key in logins._standings)


class TestChallenges:
    """Reading what a hostile server offers takes little time, and keeps little of it."""

    @pytest.mark.parametrize(
        "value",
        [
            "Digest a=b," + " " * 7_000 + '"',
            "Digest a" + " " * 7_000 + '"',
            "Digest a=" + " " * 7_000 + '"',
            " ," * 3_900 + '"',
            'Digest a="' + "\\\\" * 3_900,
            "Digest " + "a" * 7_900 + "=",
        ],
    )
    def test_blanks_and_letters_take_no_time(self, value: str) -> None:
        assert len(value) <= HEADER_MOST
        for _ in range(200):  # each would take a second if the time grew with the square of the length
            assert len(challenges([value])) <= 2

    def test_only_so_many_are_kept(self) -> None:
        assert len(challenges([", ".join(f"A{n} b=c" for n in range(100))])) == CHALLENGES_MOST
        many = challenges(["Digest " + ", ".join(f"a{n}=b" for n in range(100))])
        assert [len(one.parameters) for one in many] == [PARAMETERS_MOST]

    def test_one_that_is_too_long_hides_no_other(self) -> None:
        assert [one.scheme for one in challenges(["Digest a=" + "b" * HEADER_MOST, 'Basic realm="x"'])] == ["basic"]
