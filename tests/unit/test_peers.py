"""Who is at the other end, and what each may do: counted per peer, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calendar_server.peers import Buckets, grpc_peer, peer_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_free_and_then_it_goes_by_the_minute() -> None:
    clock = Clock()
    buckets = Buckets(burst=3, per_minute=6, clock=clock)
    assert [buckets.take("a") for _ in range(3)] == [0, 0, 0]
    assert buckets.take("a") == 10
    clock.now += 9
    assert buckets.take("a") == 1
    clock.now += 1
    assert buckets.take("a") == 0
    assert buckets.take("a") == 10


def test_after_a_quiet_time_the_whole_burst_is_there_again_and_no_more() -> None:
    clock = Clock()
    buckets = Buckets(burst=3, per_minute=6, clock=clock)
    for _ in range(3):
        buckets.take("a")
    clock.now += 3600
    assert [buckets.take("a") > 0 for _ in range(4)] == [False, False, False, True]


def test_who_goes_on_over_the_limit_waits_longer_but_never_longer_than_the_debt() -> None:
    clock = Clock()
    buckets = Buckets(burst=2, per_minute=30, debt_s=5, clock=clock)
    assert [buckets.spend("a") for _ in range(8)] == [0, 0, 2, 4, 5, 5, 5, 5]
    clock.now += 60
    assert buckets.spend("a") == 0


def test_peers_are_counted_apart() -> None:
    buckets = Buckets(burst=1, per_minute=1, clock=Clock())
    assert buckets.take("a") == 0
    assert buckets.take("b") == 0
    assert buckets.take("a") > 0


def test_so_many_peers_are_remembered_and_the_quietest_is_forgotten_first() -> None:
    buckets = Buckets(burst=1, per_minute=1, peers_most=3, clock=Clock())
    for peer in ("a", "b", "a", "c", "d", "e"):
        buckets.take(peer)
    assert len(buckets) == 3
    assert buckets.take("c") > 0
    assert buckets.take("b") == 0


@given(st.lists(st.tuples(st.sampled_from(["take", "spend"]), st.floats(0, 30)), max_size=60))
def test_never_more_than_the_burst_and_the_rate_together(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    buckets = Buckets(burst=4, per_minute=20, debt_s=5, clock=clock)
    free = 0
    for verb, pause_s in steps:
        clock.now += pause_s
        free += getattr(buckets, verb)("a") == 0
    assert free <= 4 + (clock.now - 1000) / 3


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_a_peer_is_an_address_or_a_customers_network(address: str, peer: str) -> None:
    assert peer_of(address) == peer


@pytest.mark.parametrize(
    ("told", "peer"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:5000", "2001:db8::/64"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/run/calendar.sock", "unix"),
        ("", ""),
    ],
)
def test_grpcs_spelling_of_a_peer_is_read(told: str, peer: str) -> None:
    assert grpc_peer(told) == peer
