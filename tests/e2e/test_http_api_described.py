"""The OpenAPI description held against the running service: what it generates is sent, what comes back must be in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from deploy import local
from tests.e2e.conftest import Running, serving, sqlite_settings

DOCUMENT = json.loads((files("calendars.v1") / "openapi.json").read_text())
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
NOWHERE = f"http://127.0.0.1:{local.free_port()}/"
"""Where nobody listens: whatever is generated, no call may leave this machine."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("described")
    settings = sqlite_settings(
        folder,
        CALENDAR_HTTP_API="1",
        CALENDAR_GOOGLE_CLIENT_ID="client",
        CALENDAR_GOOGLE_CLIENT_SECRET="secret",
        CALENDAR_REDIRECT_URIS="https://app.example.org/done",
    )
    with serving(settings, folder) as running:
        yield running


class Wire(requests.adapters.BaseAdapter):
    """Sends for requests. Its own adapter is not looked into: schemathesis counts in there what our urllib3 has not."""

    def __init__(self) -> None:
        super().__init__()
        self._http = requests.adapters.HTTPAdapter()

    def send(self, request: requests.PreparedRequest, **more: Any) -> requests.Response:
        return self._http.send(request, **more)

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        made.mount("http://127.0.0.1", Wire())
        del made.adapters["http://"], made.adapters["https://"]
        yield made


@pytest.fixture(scope="module")
def headers(service: Running) -> dict[str, str]:
    return {"authorization": f"Bearer {service.key()}"}


def kept_here(body: Any) -> Any:
    """The body, with the address of a server of this machine where it names a server."""
    if isinstance(body, dict) and isinstance(body.get("preset"), str):
        body = {**body, "preset": "custom"}
    if isinstance(body, dict) and isinstance(body.get("server_url"), str):
        body = {**body, "server_url": NOWHERE}
    return body


@SCHEMA.parametrize()
@settings(max_examples=6, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_the_service_does_what_its_description_says(
    case: schemathesis.Case, service: Running, session: requests.Session, headers: dict[str, str]
) -> None:
    if case.operation.label == "POST /v1/calendars/caldav/connect":
        case.body = kept_here(case.body)
    answer = case.call_and_validate(
        base_url=service.http,
        session=session,
        headers={**headers},
        excluded_checks=[
            # The description knows no bounds: much of what it allows is refused.
            positive_data_acceptance,
            # A provider that fails is a 502.
            not_a_server_error,
            # It does not send by our session; test_http_api.py asks every path without a key.
            ignored_auth,
        ],
    )
    assert answer.status_code != 500


def test_the_description_is_served_to_everybody(service: Running) -> None:
    answer = httpx.get(f"{service.http}/v1/openapi.json", trust_env=False)
    assert (answer.status_code, answer.json()) == (200, DOCUMENT)
