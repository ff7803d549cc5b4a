"""The HTTP API of a whole service, called as curl would."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import Person, Running, at, ical, serving, span, sqlite_settings

PAGE = "https://app.example.org/done"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with the HTTP API, an OAuth client at Google and none at Microsoft."""
    folder = tmp_path_factory.mktemp("http-api")
    settings = sqlite_settings(
        folder,
        CALENDAR_HTTP_API="1",
        CALENDAR_GOOGLE_CLIENT_ID="client",
        CALENDAR_GOOGLE_CLIENT_SECRET="secret",
        CALENDAR_REDIRECT_URIS=PAGE,
        CALENDAR_REQUEST_BYTES="20000",
    )
    with serving(settings, folder) as running:
        yield running


@pytest.fixture(scope="module")
def key(service: Running) -> str:
    return service.key()


@pytest.fixture(scope="module")
def caller(service: Running, key: str) -> Iterator[httpx.Client]:
    """A caller of the organization `acme`."""
    with client(service, key) as made:
        yield made


@pytest.fixture(scope="module")
def stranger(service: Running) -> Iterator[httpx.Client]:
    """A caller of another organization."""
    with client(service, service.key("other")) as made:
        yield made


def client(service: Running, key: str) -> httpx.Client:
    return httpx.Client(base_url=service.http, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=40)


def rfc3339(moment: datetime.datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def account(person: Person, **changes: str) -> dict[str, str]:
    return {
        "preset": "custom",
        "server_url": person.url,
        "username": person.name,
        "password": person.password,
        **changes,
    }


def connect(caller: httpx.Client, person: Person) -> dict[str, object]:
    """Connect a person's account."""
    answer = caller.post("/v1/calendars/caldav/connect", json=account(person))
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


def window(*ids: object, **more: object) -> dict[str, object]:
    return {"connection_ids": ids, "start_time": rfc3339(at(0)), "end_time": rfc3339(at(24)), **more}


def booking(revision: int, status: str = "confirmed", **more: object) -> dict[str, object]:
    return {
        "revision": revision,
        "status": status,
        "start_time": rfc3339(at(10)),
        "end_time": rfc3339(at(11)),
        **more,
    }


def error(answer: httpx.Response) -> tuple[int, str]:
    """How a call failed: status and code. The form is always the same."""
    told = answer.json()
    assert list(told) == ["error"]
    assert list(told["error"]) == ["code", "message", "details"]
    return answer.status_code, told["error"]["code"]


def test_the_whole_journey(caller: httpx.Client, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "dentist", span(at(8), at(9)))

    connected = caller.post("/v1/calendars/caldav/connect", json=account(person))
    assert connected.status_code == 201
    connection = connected.json()
    identity = connection.pop("id")
    assert identity.startswith("cal_")
    moment = datetime.datetime.fromisoformat(connection.pop("connected_at"))
    assert abs(moment - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=5)
    assert connection.pop("last_sync_at") is not None
    assert connection == {
        "provider": "caldav",
        "calendar_id": calendar,
        "account_email": person.name,
        "status": "active",
        "sync_status": "connected",
        "sync_error": None,
        "owner": "",
        "busy_calendar_ids": [calendar],
    }

    listed = caller.get("/v1/calendars", params={"ids": [identity, "cal_nobody"], "provider": "caldav"}).json()
    assert [each["id"] for each in listed["data"]] == [identity]
    assert (listed["has_more"], listed["next_page_token"]) == (False, "")

    inside = caller.get(f"/v1/calendars/{identity}/calendars").json()
    assert [(each["id"], each["writable"], each["blocks"]) for each in inside["calendars"]] == [(calendar, True, True)]

    busy = caller.post("/v1/busy", json=window(identity)).json()
    assert busy["busy"] == [{"start_time": rfc3339(at(8)), "end_time": rfc3339(at(9))}]
    assert busy["complete"] is True
    assert [each["state"] for each in busy["calendars"]] == ["fresh"]

    name = f"interview/{identity} 1"
    path = f"/v1/bookings/{name.replace('/', '%2F').replace(' ', '%20')}"
    written = caller.put(path, json={"booking": booking(1, title="Interview"), "connection_ids": [identity]})
    assert written.status_code == 200, written.text
    [event] = written.json()["events"]
    assert (event["state"], event["synced_revision"], event["problem"]) == ("synced", 1, None)
    assert f"DTSTART:{ical(at(10))}" in str(person.get(event["event_id"]))

    known = caller.get(path).json()
    assert (known["booking"]["id"], known["booking"]["status"]) == (name, "confirmed")
    assert known["booking"]["revision"] == 1

    cancelled = caller.put(path, json={"booking": {"revision": 2, "status": "cancelled"}}).json()
    assert [event["state"] for event in cancelled["events"]] == ["removed"]
    assert person.get(event["event_id"]) is None

    for _ in range(2):
        ended = caller.delete(f"/v1/calendars/{identity}")
        assert (ended.status_code, ended.json()) == (200, {"id": identity, "deleted": True})
    assert caller.get("/v1/calendars", params={"ids": identity}).json()["data"] == []
