"""Google, with Anna's account."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.google import GoogleProvider
from tests.fakes.google import GoogleFake
from tests.unit.google.desk import Desk


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=200_000)
    yield out
    out.close()


@pytest.fixture
def google() -> Iterator[GoogleFake]:
    with GoogleFake() as fake:
        yield fake
        fake.assert_clean()


@pytest.fixture
def make_desk(egress: Egress, google: GoogleFake) -> Callable[..., Desk]:
    provider = GoogleProvider(
        egress,
        api_url=google.api_url,
        userinfo_url=google.userinfo_url,
        revoke_url=google.revoke_url,
        calendar_events=500,
    )

    def make(**more: str) -> Desk:
        return Desk(google, provider, google.add_user("anna", **more))

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()
