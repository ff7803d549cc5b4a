"""Microsoft, with Anna's account."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.microsoft import MicrosoftProvider
from tests.fakes.microsoft import MicrosoftFake
from tests.unit.microsoft.desk import Desk


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=8_000_000)
    yield out
    out.close()


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    with MicrosoftFake() as fake:
        yield fake
    assert fake.problems == []
    assert [user.mailbox.mails for user in fake.users.values() if user.mailbox.mails] == []


@pytest.fixture
def provider(egress: Egress, microsoft: MicrosoftFake) -> MicrosoftProvider:
    return MicrosoftProvider(egress, graph_url=microsoft.graph_url, calendar_events=500)


@pytest.fixture
def make_desk(microsoft: MicrosoftFake, provider: MicrosoftProvider) -> Callable[..., Desk]:
    def make(zone: str = "UTC", **more: object) -> Desk:
        anna = microsoft.add_user("anna", zone=zone, **more)  # type: ignore[arg-type]
        return Desk(microsoft, provider, anna)

    return make


@pytest.fixture
def desk(make_desk: Callable[..., Desk]) -> Desk:
    return make_desk()
