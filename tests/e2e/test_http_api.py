"""The HTTP API of a whole service, called as curl would."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import httpx
import pytest
import schemathesis

from calendar_server.sidecar.api import STATUSES
from calendar_server.sidecar.bindings import bindings
from calendar_server.sidecar.openapi import CODES, ERRORS
from calendars.v1 import calendar_service_pb2 as pb
from deploy import local
from tests.e2e.conftest import PASSWORD, Person, Running, Stub, at, ical, serving, span, sqlite_settings
from tests.fakes import strange_dav as strange_account
from tests.fakes.strange_dav import strange_dav

ROOT = Path(__file__).parents[2]
DESCRIBED = schemathesis.openapi.from_dict(json.loads((files("calendars.v1") / "openapi.json").read_text()))
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
    """A caller. Every answer that it gets is held against the description."""
    return httpx.Client(
        base_url=service.http,
        headers={"authorization": f"Bearer {key}"},
        trust_env=False,
        timeout=40,
        event_hooks={"response": [described]},
    )


def described(answer: httpx.Response) -> None:
    """Fails for an answer that is not as the description says."""
    answer.read()
    for binding in bindings(pb.DESCRIPTOR.services_by_name["CalendarService"]):
        segments = answer.request.url.raw_path.decode().partition("?")[0].removeprefix("/").split("/")
        if binding.verb == answer.request.method and binding.match(segments) is not None:
            DESCRIBED[binding.path][binding.verb].validate_response(answer)
            return


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


def test_an_account_is_connected_once(caller: httpx.Client, person: Person) -> None:
    person.make_calendar()
    identity = connect(caller, person)["id"]
    again = caller.post("/v1/calendars/caldav/connect", json=account(person))
    assert error(again) == (409, "conflict")
    assert again.json()["error"]["details"] == [
        {"reason": "conflict", "metadata": {"connectionId": identity}, "retry_at": None}
    ]
    renewed = caller.post(f"/v1/calendars/caldav/connect?connection_id={identity}", json=account(person))
    assert (renewed.status_code, renewed.json()["id"]) == (201, identity)


def test_a_wrong_password_is_the_providers_refusal_and_in_no_log(
    service: Running, caller: httpx.Client, person: Person
) -> None:
    answer = caller.post("/v1/calendars/caldav/connect", json=account(person, password="correct horse"))
    assert error(answer) == (502, "provider_error")
    [detail] = answer.json()["error"]["details"]
    assert (detail["reason"], detail["metadata"]) == ("provider_refused", {"cause": "credentials"})
    log = service.log.read_text()
    assert '"rpc": "Connect", "code": "FAILED_PRECONDITION"' in log
    assert "correct horse" not in log


def test_a_server_that_is_not_there_is_worth_trying_again(caller: httpx.Client, person: Person) -> None:
    nobody = f"http://127.0.0.1:{local.free_port()}/"
    answer = caller.post("/v1/calendars/caldav/connect", json=account(person, server_url=nobody))
    assert error(answer) == (502, "provider_error")
    [detail] = answer.json()["error"]["details"]
    assert detail["reason"] == "provider_unavailable"
    assert detail["retry_at"] is not None
    assert int(answer.headers["retry-after"]) >= 1


def test_wrong_fields_are_named_together(caller: httpx.Client) -> None:
    answer = caller.post("/v1/calendars/caldav/connect", json={"preset": "apple", "server_url": "https://a.example/"})
    assert error(answer) == (400, "validation_error")
    named = {detail["field"] for detail in answer.json()["error"]["details"]}
    assert named == {"server_url", "username", "password"}


def test_google_is_configured_and_microsoft_is_not(caller: httpx.Client) -> None:
    google = caller.get("/v1/calendars/google/connect", params={"redirect_uri": f"{PAGE}?x=1", "owner": "anna"})
    assert google.status_code == 200
    assert list(google.json()) == ["authorization_url"]
    assert google.json()["authorization_url"].startswith("https://accounts.google.com/o/oauth2/v2/auth?")
    microsoft = caller.get("/v1/calendars/microsoft/connect", params={"redirect_uri": PAGE})
    assert error(microsoft) == (501, "not_configured")
    assert microsoft.json()["error"]["details"][0]["metadata"] == {"setting": "CALENDAR_MICROSOFT_CLIENT_ID"}
    elsewhere = caller.get("/v1/calendars/google/connect", params={"redirect_uri": "https://evil.example/"})
    assert error(elsewhere) == (400, "validation_error")


def test_another_organization_sees_nothing(caller: httpx.Client, stranger: httpx.Client, person: Person) -> None:
    calendar = person.make_calendar()
    identity = connect(caller, person)["id"]
    name = f"private-{identity}"
    body = {"booking": booking(1), "connection_ids": [identity]}
    assert caller.put(f"/v1/bookings/{name}", json=body).status_code == 200
    for answer in (
        stranger.get(f"/v1/bookings/{name}"),
        stranger.get(f"/v1/calendars/{identity}/calendars"),
        stranger.patch(f"/v1/calendars/{identity}", json={"calendar_id": calendar}),
        stranger.delete(f"/v1/calendars/{identity}"),
        stranger.post("/v1/busy", json=window(identity)),
        stranger.put("/v1/bookings/mine", json=body),
    ):
        assert error(answer) == (404, "not_found")
    assert stranger.get("/v1/calendars", params={"ids": identity}).json()["data"] == []
    assert len(person.events(calendar)) == 1


def test_a_slot_that_is_taken(caller: httpx.Client, person: Person) -> None:
    calendar = person.make_calendar()
    person.put(calendar, "dentist", span(at(10), at(11)))
    identity = connect(caller, person)["id"]
    body = {"booking": booking(1), "connection_ids": [identity], "require_free": True}
    assert error(caller.put(f"/v1/bookings/taken-{identity}", json=body)) == (409, "slot_taken")
    assert error(caller.get(f"/v1/bookings/taken-{identity}")) == (404, "not_found")


def test_which_calendars_block_is_chosen_by_what_the_body_names(caller: httpx.Client, person: Person) -> None:
    work, home = person.make_calendar("work"), person.make_calendar("home")
    identity = connect(caller, person)["id"]
    path = f"/v1/calendars/{identity}"
    assert caller.patch(path, json={"calendar_id": home}).json()["calendar_id"] == home
    assert caller.patch(path, json={"busy_calendar_ids": [work]}).json()["busy_calendar_ids"] == [work]
    none = caller.patch(path, json={"busy_calendar_ids": []}).json()
    assert (none["calendar_id"], none["busy_calendar_ids"]) == (home, [])
    assert error(caller.patch(path, json={"calendar_id": "/nobody/"})) == (400, "validation_error")


def test_pages(service: Running, person: Person) -> None:
    person.make_calendar()
    with client(service, service.key("pages")) as caller:
        made = []
        for owner in ("anna", "ben", "carla"):
            answer = caller.post(f"/v1/calendars/caldav/connect?owner={owner}", json=account(person))
            made.append(answer.json()["id"])
        first = caller.get("/v1/calendars?page_size=2").json()
        assert ([each["id"] for each in first["data"]], first["has_more"]) == ([made[2], made[1]], True)
        token = {"page_size": 2, "page_token": first["next_page_token"]}
        second = caller.get("/v1/calendars", params=token).json()
        assert ([each["id"] for each in second["data"]], second["has_more"]) == ([made[0]], False)
        assert error(caller.get("/v1/calendars", params={**token, "owner": "anna"})) == (400, "validation_error")
        assert [each["id"] for each in caller.get("/v1/calendars?owner=ben").json()["data"]] == [made[1]]
        assert caller.get("/v1/calendars?owner=").json()["data"] == []


def test_a_body_over_the_setting_is_refused(caller: httpx.Client) -> None:
    body = {"booking": booking(1, description="x" * 30_000)}
    assert error(caller.put("/v1/bookings/large", json=body)) == (413, "limit_exceeded")


def test_what_both_doors_answer_is_one_thing(service: Running, key: str, caller: httpx.Client, person: Person) -> None:
    person.make_calendar()
    identity = connect(caller, person)["id"]
    stub = Stub(service.address, key)
    same = stub("List", pb.ListRequest(ids=[identity])).data[0]  # type: ignore[attr-defined]
    stub.close()
    assert same.id == identity
    assert 'calendar_calls_total{code="OK",rpc="List"}' in caller.get("/metrics").text


def test_a_key_that_is_revoked_is_dead(service: Running) -> None:
    with client(service, service.key("revoked")) as caller:
        assert caller.get("/v1/calendars").status_code == 200
        key_id = caller.headers["authorization"].split("_")[1]
        assert service.command("revoke-api-key", key_id).returncode == 0
        until = time.monotonic() + 30
        while (answer := caller.get("/v1/calendars")).status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert error(answer) == (401, "unauthorized")


def test_a_stop_lets_a_call_in_progress_finish(tmp_path: Path) -> None:
    settings = sqlite_settings(tmp_path, CALENDAR_HTTP_API="1")
    with strange_dav() as strange, serving(settings, tmp_path) as running, client(running, running.key()) as caller:
        account = {
            "preset": "custom",
            "server_url": f"{strange.url}/dav/",
            "username": strange_account.USERNAME,
            "password": strange_account.PASSWORD,
        }
        identity = caller.post("/v1/calendars/caldav/connect", json=account).json()["id"]
        strange.fail("PUT", 503)
        body = {"booking": booking(1), "connection_ids": [identity], "wait": "8s"}
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(caller.put, "/v1/bookings/slow", json=body)
            until = time.monotonic() + 30
            while caller.get("/v1/bookings/slow").status_code == 404:
                assert time.monotonic() < until
            running.process.send_signal(signal.SIGTERM)
            answer = waiting.result()
        assert (answer.status_code, answer.json()["events"][0]["state"]) == (200, "pending")
        assert running.process.wait(40) == 0


def test_a_calendar_that_cannot_be_read_is_named_and_never_free(caller: httpx.Client) -> None:
    with strange_dav() as strange:
        account = {
            "preset": "custom",
            "server_url": f"{strange.url}/dav/",
            "username": strange_account.USERNAME,
            "password": strange_account.PASSWORD,
        }
        identity = caller.post("/v1/calendars/caldav/connect", json=account).json()["id"]
        for method in ("REPORT", "PROPFIND", "GET"):
            strange.fail(method, 500)
        answer = caller.post("/v1/busy", json=window(identity, max_staleness="0s"))
        assert error(answer) == (502, "provider_error")
        [detail] = answer.json()["error"]["details"]
        assert detail["reason"] == "provider_unavailable"
        assert [each["connection_id"] for each in detail["calendars"]] == [identity]
        partial = caller.post("/v1/busy", json=window(identity, max_staleness="0s", allow_partial=True)).json()
        assert partial["complete"] is False
        assert [each["state"] for each in partial["calendars"]] == ["unknown"]


def test_off_by_default(tmp_path: Path) -> None:
    with serving(sqlite_settings(tmp_path), tmp_path) as running:
        for path in ("/v1/calendars", "/v1/openapi.json"):
            assert httpx.get(f"{running.http}{path}", trust_env=False).status_code == 404


# The page about it

BLOCKS = re.findall(r"```(console|json)\n(.*?)```", (ROOT / "docs" / "http-api.md").read_text(), re.DOTALL)


def test_the_lines_of_the_page(service: Running, key: str, person: Person, tmp_path: Path) -> None:
    person.make_calendar()
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "api-key").write_text(f"{key}\n")
    (_, setting), *blocks = BLOCKS
    setting = setting.split("\n", 1)[1].replace("http://127.0.0.1:8080", service.http)
    script = setting + "\n".join(text if kind == "console" else "echo =====" for kind, text in blocks)
    where = {"SERVER": person.url, "NAME": person.name, "PASSWORD": PASSWORD, "DAY": f"{at(0):%Y-%m-%d}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **where},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answered = [json.loads(part.strip().splitlines()[-1]) for part in done.stdout.split("=====")[:-1]]
    shown = [json.loads(text) for kind, text in blocks if kind == "json"]
    assert [list(answer) for answer in answered] == [list(example) for example in shown]
    assert list(answered[0]) == list(shown[0])
    assert person.events(f"/{person.name}/work/") == []


def test_the_page_has_every_path_and_every_status() -> None:
    page = (ROOT / "docs" / "http-api.md").read_text()
    for binding in bindings(pb.DESCRIPTOR.services_by_name["CalendarService"]):
        assert f"| `{binding.verb} {binding.path}" in page
    for reason, (status, code) in STATUSES.items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| {status} | `{code}` |")]
        assert f"`{reason.lower()}`" in row


def test_the_page_has_every_word_of_the_description() -> None:
    page = (ROOT / "docs" / "http-api.md").read_text()
    assert set(re.findall(r"^\| (\d{3}) \|", page, re.MULTILINE)) == {str(status) for status in {*ERRORS, 405}}
    assert set(re.findall(r"^\| \d{3} \| `(\w+)` \|", page, re.MULTILINE)) == set(CODES)
