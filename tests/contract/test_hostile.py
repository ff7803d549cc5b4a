"""CalDAV over a server that attacks: every call ends within its bounds, in a documented way, and nothing is lost.

The real provider, way out and expander, against each mode of ``tests/fakes/hostile_dav.py`` at each stage where it makes
sense. Whatever the server does
    the call ends by its deadline, and memory stays within bounds;
    an error is one of those that the verb may raise, in one sentence without addresses;
    a time that is busy is never free: it is read, or the event is named, or the whole read fails;
    nobody else hears of the password, and it is not tried more than twice.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from calendar_server.core.model import Preset
from calendar_server.errors import (
    CalendarError,
    CalendarGone,
    CalendarReadOnly,
    ForbiddenDestination,
    NeedsReauth,
    PreconditionFailed,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.caldav_address import Origin, Reach
from calendar_server.providers.caldav_protocol import ELEMENTS_MOST, LARGE, multistatus, turn
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import PATH, UID, StrangeAccount, event
from tests.contract.worlds import at, soon
from tests.fakes.hostile_dav import BOMB, MODES, STAGES, Ends, HostileDav, Stage, basic, hostile_dav
from tests.fakes.strange_dav import PASSWORD, WORK

EXCHANGE_S = 0.25
CALL_S = 20.0
"""What ``soon()`` gives a call."""
SLACK_S = 3.0
"""How much later than its time a call may end on a busy machine."""
GROWTH_MOST = 100
"""Megabytes, those of the server in the same process included."""
HONEST = (at(2, 9), at(2, 10))

READING = (NeedsReauth, ProviderUnavailable, CalendarGone)
KINDS: dict[str, tuple[type[CalendarError], ...]] = {
    "connect": (ProviderRefused, ProviderUnavailable),
    "list": READING,
    "read": READING,
    "put": (*READING, CalendarReadOnly, ProviderRefused, PreconditionFailed),
}
"""What each verb may raise (``providers/base.py``)."""


def attacks(*ends: Ends) -> list[object]:
    return [
        pytest.param(mode.name, stage, id=f"{stage}: {mode.name}")
        for mode in MODES.values()
        for stage in mode.stages
        if mode.ends in ends
    ]


@pytest.fixture(scope="module")
def children() -> Iterator[Expander]:
    made = Expander(processes=1, event_s=0.3, calendar_s=10.0, address_space_bytes=512_000_000)
    made.warm()
    yield made
    made.close()


@contextlib.contextmanager
def provider(children: Expander, exchange_s: float) -> Iterator[CaldavProvider]:
    egress = Egress(allow=AllowList.parse("127.0.0.0/8"), exchange_s=exchange_s, answer_bytes=8_000_000)
    yield CaldavProvider(egress, children, redirects=5, calendar_events=20_000)
    egress.close()


@pytest.fixture(scope="module")
def patient(children: Expander) -> Iterator[CaldavProvider]:
    with provider(children, 10) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(children: Expander) -> Iterator[CaldavProvider]:
    """Ends each exchange after a moment."""
    with provider(children, EXCHANGE_S) as made:
        yield made


@pytest.fixture
def hostile() -> Iterator[HostileDav]:
    with hostile_dav() as dav:
        dav.account.put(f"{WORK}e.ics", event("e"))
        yield dav


@pytest.fixture
def account(hostile: HostileDav, patient: CaldavProvider) -> StrangeAccount:
    """An account that was connected while the server was honest."""
    made = StrangeAccount(hostile.account, patient)
    made.connect("/dav/")
    return made


def verbs(account: StrangeAccount, stage: Stage) -> dict[str, Callable[[], object]]:
    """The verbs that come to this stage."""
    connect = {"connect": lambda: account.provider.connect(**entered(account), deadline=soon())}
    told: dict[Stage, dict[str, Callable[[], object]]] = {
        "discovery": connect,
        "list": {"list": lambda: account.provider.list_calendars(account.link, soon()), **connect},
        "report": {"read": account.read},
        "put": {"put": account.put},
    }
    return told[stage]


def entered(account: StrangeAccount) -> dict[str, object]:
    return {
        "preset": Preset.CUSTOM,
        "username": "anna",
        "password": PASSWORD,
        "server_url": f"{account.dav.url}/dav/",
    }


@contextlib.contextmanager
def bounds(within_s: float = CALL_S) -> Iterator[None]:
    """What happens inside ends in time and takes a bounded amount of memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from now on
    before, begun = _megabytes("VmRSS"), time.monotonic()
    yield
    assert time.monotonic() - begun < within_s + SLACK_S
    assert _megabytes("VmHWM") - before < GROWTH_MOST


def _megabytes(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{name}:"))


def assert_fit_to_tell(error: CalendarError, verb: str) -> None:
    assert isinstance(error, KINDS[verb]), repr(error)
    assert not isinstance(error, ForbiddenDestination)
    message = error.message.replace("https://dav.example.com/", "")  # named by the server, and not an inner one
    for secret in ("127.0.0", "169.254", "://", PASSWORD, basic(), "root:"):
        assert secret not in message
    assert len(error.message) < 300
    assert error.message.isprintable()


@pytest.mark.parametrize(("mode", "stage"), attacks("error"))
def test_an_attack_fails_the_call(hostile: HostileDav, account: StrangeAccount, mode: str, stage: Stage) -> None:
    for name, verb in verbs(account, stage).items():
        hostile.attack(mode, stage)
        with bounds(), pytest.raises(CalendarError) as failed:
            verb()
        assert hostile.struck
        assert_fit_to_tell(failed.value, name)
    assert hostile.caught == 0
    assert hostile.account.text(PATH) is None or stage == "put"


@pytest.mark.parametrize(("mode", "stage"), attacks("slow"))
def test_a_slow_server_costs_no_more_than_an_exchange_may(
    hostile: HostileDav, account: StrangeAccount, hasty: CaldavProvider, mode: str, stage: Stage
) -> None:
    account.provider = hasty
    for name, verb in verbs(account, stage).items():
        hostile.attack(mode, stage)
        # Some honest exchanges may come before, and each may take as long.
        with bounds(10 * EXCHANGE_S), pytest.raises(ProviderUnavailable) as failed:
            verb()
        assert_fit_to_tell(failed.value, name)


@pytest.mark.parametrize(("mode", "stage"), attacks("login"))
def test_a_log_in_loop_ends_after_two_refusals(
    hostile: HostileDav, account: StrangeAccount, mode: str, stage: Stage
) -> None:
    for name, verb in verbs(account, stage).items():
        hostile.attack(mode, stage)
        with bounds(), pytest.raises(CalendarError) as failed:
            verb()
        assert_fit_to_tell(failed.value, name)
        # An answer that calls the nonce too old says that the password was right: it is believed a few times.
        assert 1 <= hostile.passwords <= (5 if "stale" in mode else 2)


@pytest.mark.parametrize(("mode", "stage"), attacks("exact"))
def test_a_lie_that_matters_not_changes_nothing(
    hostile: HostileDav, account: StrangeAccount, mode: str, stage: Stage
) -> None:
    honest = account.connect("/dav/")
    hostile.attack(mode, stage)
    with bounds():
        if stage == "discovery":
            found = account.connect("/dav/")
            assert (found.subject, found.busy_calendar_ids) == (honest.subject, honest.busy_calendar_ids)
            assert sum(map(len, found.settings.values())) < 50_000
        elif stage == "list":
            calendars = account.provider.list_calendars(account.link, soon())
            assert [calendar.id for calendar in calendars] == [WORK]
            assert all(len(calendar.name) < 2000 for calendar in calendars)
            assert account.connect("/dav/").busy_calendar_ids == honest.busy_calendar_ids
        elif stage == "report":
            read = account.read()
            blocking = [found for found in read.events if found.reason.blocks]
            assert HONEST in [(found.start, found.end) for found in blocking]
            if mode.startswith("an event of"):
                named = {found.event_id for found in read.unreadable} | {found.event_id for found in blocking}
                assert BOMB in named
        else:
            account.put()
            assert f"UID:{UID}" in (hostile.account.text(PATH) or "")
    assert hostile.struck
    assert hostile.caught == 0


def test_every_stage_has_at_least_forty_attacks() -> None:
    assert all(sum(stage in mode.stages for mode in MODES.values()) >= 40 for stage in STAGES)


def test_the_honest_server_is_read_and_written(hostile: HostileDav, account: StrangeAccount) -> None:
    """So that an attack that fails a call is what fails it."""
    assert account.busy() == [HONEST]
    assert account.put().revision == 1
    assert f"UID:{UID}" in (hostile.account.text(PATH) or "")


def test_an_account_is_well_again_when_the_attack_is_over(
    hostile: HostileDav, account: StrangeAccount, hasty: CaldavProvider, patient: CaldavProvider
) -> None:
    for mode in ("a reset", "silence", "junk after the answer", "a body without end", "a stray 401"):
        hostile.attack(mode, "report")
        account.provider = hasty if mode == "silence" else patient
        with contextlib.suppress(CalendarError):
            account.read()
        account.provider = patient
        hostile.calm_down()
        assert account.busy() == [HONEST], mode


class TestNamesThatChange:
    """Each dialling looks the name up and judges all of what it finds; nothing is dialled but what was judged."""

    @pytest.fixture
    def turning(self, hostile: HostileDav, children: Expander) -> Iterator[Callable[[int], CaldavProvider]]:
        """Makes a provider for which the server's name leads to the trap's address after so many look-ups."""
        made: list[Egress] = []

        def turning(after: int) -> CaldavProvider:
            answers = iter([["127.0.0.1"]] * after)
            made.append(
                Egress(
                    allow=AllowList.parse("127.0.0.1"),
                    exchange_s=10,
                    answer_bytes=10**6,
                    resolver=lambda host, port: next(answers, ["127.0.0.2"]),
                )
            )
            return CaldavProvider(made[-1], children, redirects=5, calendar_events=100)

        yield turning
        for egress in made:
            egress.close()

    @pytest.mark.parametrize("stage", ["discovery", "list"])
    def test_met_later_while_connecting_it_is_refused(
        self, hostile: HostileDav, account: StrangeAccount, turning: Callable[[int], CaldavProvider], stage: Stage
    ) -> None:
        hostile.attack("a line for each answer", stage)
        account.provider = turning(1)
        with pytest.raises(ProviderRefused) as refused:
            account.connect(url=f"http://dav.example.com:{hostile.server.port}/dav/")
        assert refused.value.cause is None
        assert refused.value.message == ForbiddenDestination().message
        assert hostile.caught == 0

    def test_as_the_address_that_was_entered_it_is_forbidden(
        self, hostile: HostileDav, account: StrangeAccount, turning: Callable[[int], CaldavProvider]
    ) -> None:
        account.provider = turning(0)
        with pytest.raises(ForbiddenDestination):
            account.connect(url=f"http://dav.example.com:{hostile.server.port}/dav/")
        assert hostile.caught == 0

    def test_after_connecting_it_is_unavailable(
        self, hostile: HostileDav, account: StrangeAccount, turning: Callable[[int], CaldavProvider]
    ) -> None:
        account.provider = turning(1)
        account.connect(url=f"http://dav.example.com:{hostile.server.port}/dav/")
        account.provider = turning(0)
        for verb in (account.read, account.put, lambda: account.provider.list_calendars(account.link, soon())):
            with pytest.raises(ProviderUnavailable) as failed:
                verb()
            assert not isinstance(failed.value, ForbiddenDestination)
        assert hostile.caught == 0


class TestPasswordsGoNowhereElse:
    """A redirect and an href lead to the account's own scheme, host and port, or nowhere."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("stage", STAGES)
    def test_every_kind_of_redirect_stays_at_home(
        self, hostile: HostileDav, account: StrangeAccount, stage: Stage, status: int
    ) -> None:
        paths = ("/dav/", "/dav/home/", "/dav/principals/anna/", WORK, PATH)
        for path in paths:
            hostile.account.redirects[path] = (status, f"{hostile.trap.url}{path}")
        for verb in verbs(account, stage).values():
            with pytest.raises(CalendarError):
                verb()
        assert hostile.caught == 0

    @pytest.mark.parametrize(
        "elsewhere",
        [
            "http://dav.example.com/",
            "https://dav.example.com:8443/",
            "https://www.dav.example.com/",
            "https://example.com/",
            "https://dav.example.com.evil.example/",
            "https://p42-caldav.icloud.com/",
        ],
    )
    @pytest.mark.parametrize("preset", [Preset.CUSTOM, Preset.NEXTCLOUD, Preset.FASTMAIL])
    def test_a_password_is_for_one_scheme_host_and_port(self, preset: Preset, elsewhere: str) -> None:
        reach = Reach(Origin.of("https://dav.example.com/"), preset)
        assert reach.allows(Origin.of("https://DAV.example.com:443/other/"))
        assert not reach.allows(Origin.of(elsewhere))

    @pytest.mark.parametrize("redirects", [0, 5])
    def test_so_many_redirects_are_followed_and_no_more(
        self, hostile: HostileDav, account: StrangeAccount, children: Expander, redirects: int
    ) -> None:
        egress = Egress(allow=AllowList.parse("127.0.0.0/8"), exchange_s=10, answer_bytes=10**6)
        account.provider = CaldavProvider(egress, children, redirects=redirects, calendar_events=100)
        try:
            for length in (redirects, redirects + 1):
                steps = [WORK, *(f"{WORK}{step}/" for step in range(length - 1)), "/moved/"] if length else [WORK]
                hostile.account.redirects = {one: (307, other) for one, other in itertools.pairwise(steps)}
                hostile.account.shelves["/moved/"] = hostile.account.shelves[WORK]
                if length <= redirects:
                    assert account.busy() == [HONEST]
                else:
                    with pytest.raises(ProviderUnavailable, match="redirects again and again"):
                        account.read()
        finally:
            egress.close()


def test_large_answers_are_taken_in_one_at_a_time_and_small_ones_at_once() -> None:
    """A tree takes many times the memory of its answer."""
    small = b'<D:multistatus xmlns:D="DAV:"/>'
    large = small + b" " * LARGE
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(multistatus(large, 207)))
    with ExitStack() as one:
        one.enter_context(turn(large))
        assert multistatus(small, 207) == ()
        waiting.start()
        assert found == []
        with pytest.raises(ProviderUnavailable, match="Too many"), turn(large, wait_s=0.05):
            pytest.fail("it was its turn")
        one.close()
        waiting.join(20)
        assert found == [()]


MEMBER = (
    "<D:response><D:href>/e.ics</D:href><D:propstat><D:prop>"
    "<D:displayname>{}</D:displayname></D:prop></D:propstat></D:response>"
)


def listing(inside: str) -> bytes:
    return f'<D:multistatus xmlns:D="DAV:">{inside}</D:multistatus>'.encode()


@pytest.mark.parametrize(
    "around",
    ["{}", "<!-- <![CDATA[ -->{}<!-- ]]> -->", "<?x <![CDATA[ ?>{}<?x ]]> ?>", "<![CDATA[<]]>{}"],
    ids=["openly", "between comments", "between instructions", "after a section"],
)
def test_elements_are_counted_wherever_they_hide(around: str) -> None:
    """As many as would take a gigabyte, behind what only looks like text."""
    with pytest.raises(ProviderUnavailable, match="too deep or too long"):
        multistatus(listing(around.format("<a/>" * (ELEMENTS_MOST + 10))), 207)


def test_what_looks_like_elements_inside_of_text_counts_for_nothing() -> None:
    text = "<a/>" * (ELEMENTS_MOST + 10)
    (member,) = multistatus(listing(MEMBER.format(f"<![CDATA[{text}]]>")), 207)
    assert member.text("{DAV:}displayname") == text


def test_a_list_of_far_more_than_is_read_is_refused_before_anything_is_made_of_it() -> None:
    assert len(multistatus(listing(MEMBER.format("") * 5), 207, most=5)) == 5
    with pytest.raises(ProviderUnavailable, match="too deep or too long"):
        multistatus(listing(MEMBER.format("") * 50), 207, most=5)


def test_after_a_large_answer_others_have_the_interpreter_for_as_long_as_it_took() -> None:
    large, took_s = b" " * LARGE, 0.2
    with turn(large):
        end_s = time.thread_time() + took_s
        while time.thread_time() < end_s:
            pass
    began = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="Too many"), turn(large, wait_s=took_s / 4):
        pytest.fail("the rest was not kept")
    with turn(large):
        assert time.monotonic() - began > took_s / 2
