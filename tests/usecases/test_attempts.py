"""Wrong passwords are counted: nobody guesses them, or locks an account, through us."""

from __future__ import annotations

import threading

import pytest

from calendar_server.core.model import OrganizationId, Preset
from calendar_server.errors import LimitExceeded, ProviderRefused, ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.usecases.attempts import ACCOUNTS_MOST, PERIOD_S, REFUSALS_MOST, Attempts, attempt_key
from tests.usecases.conftest import World

KEY = (OrganizationId("org_1"), "dav.example.org:443", "anna")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attempts(clock: Clock) -> Attempts:
    return Attempts(clock)


def refuse(attempts: Attempts, key: tuple[OrganizationId, str, str] = KEY) -> None:
    with pytest.raises(ProviderRefused), attempts.counted(key, Deadline.after(5)):
        raise ProviderRefused("no", cause="credentials")


def succeed(attempts: Attempts, key: tuple[OrganizationId, str, str] = KEY) -> None:
    with attempts.counted(key, Deadline.after(5)):
        pass


def refuse_all(attempts: Attempts) -> None:
    for _ in range(REFUSALS_MOST):
        refuse(attempts)


def test_after_too_many_refused_passwords_no_more_are_tried(attempts: Attempts) -> None:
    refuse_all(attempts)
    with pytest.raises(LimitExceeded) as limited, attempts.counted(KEY, Deadline.after(5)):
        pytest.fail("it was tried")
    assert limited.value.retry_after_s == PERIOD_S


def test_the_wait_is_as_long_as_it_says(attempts: Attempts, clock: Clock) -> None:
    refuse(attempts)
    clock.now += 100
    for _ in range(REFUSALS_MOST - 1):
        refuse(attempts)
    with pytest.raises(LimitExceeded) as limited:
        succeed(attempts)
    clock.now += (limited.value.retry_after_s or 0) - 1
    with pytest.raises(LimitExceeded):
        succeed(attempts)
    clock.now += 1
    succeed(attempts)


@pytest.mark.parametrize(
    "other",
    [
        (OrganizationId("org_2"), "dav.example.org:443", "anna"),
        (OrganizationId("org_1"), "dav.example.com:443", "anna"),
        (OrganizationId("org_1"), "dav.example.org:443", "ben"),
    ],
)
def test_others_are_not_held_up(attempts: Attempts, other: tuple[OrganizationId, str, str]) -> None:
    refuse_all(attempts)
    succeed(attempts, other)


def test_the_right_password_clears_the_count(attempts: Attempts) -> None:
    for _ in range(3):
        for _ in range(REFUSALS_MOST - 1):
            refuse(attempts)
        succeed(attempts)


@pytest.mark.parametrize("error", [ProviderUnavailable("down"), ProviderRefused("no", cause="not_caldav")])
def test_other_failures_do_not_count(attempts: Attempts, error: Exception) -> None:
    for _ in range(REFUSALS_MOST + 1):
        with pytest.raises(type(error)), attempts.counted(KEY, Deadline.after(5)):
            raise error


def test_many_at_once_are_no_way_around(attempts: Attempts) -> None:
    begun, go = threading.Semaphore(0), threading.Event()
    tried: list[int] = []
    limited: list[int] = []

    def guess(number: int) -> None:
        try:
            with attempts.counted(KEY, Deadline.after(20)):
                tried.append(number)
                begun.release()
                go.wait(20)
                raise ProviderRefused("no", cause="credentials")
        except ProviderRefused:
            pass
        except LimitExceeded:
            limited.append(number)

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(REFUSALS_MOST * 2)]
    for thread in threads:
        thread.start()
    for _ in range(REFUSALS_MOST):
        assert begun.acquire(timeout=20)
    go.set()
    for thread in threads:
        thread.join()
    assert (len(tried), len(limited)) == (REFUSALS_MOST, REFUSALS_MOST)


def test_a_try_that_has_to_wait_ends_by_its_deadline(attempts: Attempts) -> None:
    def nested(depth: int) -> None:
        with attempts.counted(KEY, Deadline.after(0.05)):
            nested(depth + 1)

    with pytest.raises(ProviderUnavailable, match="too long"):
        nested(0)
    succeed(attempts)


def test_the_memory_of_it_is_bounded(attempts: Attempts) -> None:
    for number in range(ACCOUNTS_MOST + 10):
        succeed(attempts, (OrganizationId("org_1"), "dav.example.org:443", str(number)))
    assert len(attempts._counts) == ACCOUNTS_MOST


@pytest.mark.parametrize(
    ("server_url", "username"),
    [
        ("https://DAV.example.org", "anna"),
        ("https://dav.example.org.:443/dav/", "Anna"),
        ("https://dav.example.org/other", " anna "),
    ],
)
def test_spelling_makes_no_other_account(server_url: str, username: str) -> None:
    assert attempt_key(OrganizationId("org_1"), Preset.CUSTOM, server_url, username) == KEY


def test_presets_are_servers_of_their_own() -> None:
    keys = {attempt_key(OrganizationId("org_1"), preset, "", "anna") for preset in (Preset.APPLE, Preset.FASTMAIL)}
    assert len(keys) == 2


def test_connect_counts(world: World) -> None:
    for _ in range(REFUSALS_MOST):
        with pytest.raises(ProviderRefused):
            world.connect(password="wrong")
    for password in ("wrong", "right"):
        with pytest.raises(LimitExceeded):
            world.connect(password=password)
    assert world.connect("ben").id
