"""``calendarctl connect google`` and ``… microsoft``: the browser goes, comes back, and what is said then."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import grpc
import httpx
import pytest
from click.testing import CliRunner

from calendar_client.cli import cli
from calendar_client.cli_browser import DEFAULT_REDIRECT_URI, ENDINGS, Landing
from calendars.v1 import connection_pb2
from deploy.local import free_port
from tests.fakes.fake_service import API_KEY, Failure, FakeService, running

WAIT_S = 30.0
API_MD = """access_denied scope_missing admin_consent_required conflict account_mismatch not_found expired provider_error
internal"""


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        yield service


def environment(service: FakeService, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "PYTHONIOENCODING": "utf-8",
        "CALENDAR_ADDRESS": service.address,
        "CALENDAR_API_KEY": API_KEY,
        **more,
    }


class Run:
    """The command runs and waits for the browser at ``landing``."""

    def __init__(self, service: FakeService, landing: str, process: subprocess.Popen[str]):
        self.service, self.landing, self.process = service, landing, process

    def page(self) -> str:
        """The address that was printed, as soon as it is there."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    @property
    def state(self) -> str:
        sent = self.service.received["Connect"]
        return sent.client_state  # type: ignore[attr-defined,no-any-return]

    def come_back(self, **told: str) -> httpx.Response:
        """What the browser does at the end."""
        query = urlencode({"client_state": self.state, **told})
        return httpx.get(f"{self.landing}?{query}", trust_env=False)

    def end(self) -> tuple[int, str, str]:
        """How it ended: exit code, and what else was printed."""
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err


@contextmanager
def connecting(service: FakeService, *more: str, provider: str = "google", **env: str) -> Iterator[Run]:
    landing = f"http://127.0.0.1:{free_port()}/connected"
    command = [sys.executable, "-m", "calendar_client.cli", "connect", provider, "--redirect-uri", landing, *more]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(service, **env)
    ) as process:
        yield Run(service, landing, process)
        process.kill()


@pytest.mark.parametrize("provider", ["google", "microsoft"])
def test_a_sign_in_ends_with_the_connection_that_the_service_has(provider: str, service: FakeService) -> None:
    with connecting(service, "--no-browser", provider=provider) as run:
        assert run.page().endswith(run.landing)
        service.add_connection("cal_9", provider=getattr(connection_pb2, f"PROVIDER_{provider.upper()}"))
        shown = run.come_back(connected="true", provider=provider, connection_id="cal_9")
        assert (shown.status_code, "go back to the terminal" in shown.text) == (200, True)
        code, out, err = run.end()
    assert code == 0, err
    assert "Connected." in out
    assert "cal_9" in out


def test_a_redirect_that_the_service_does_not_know_of_connects_nothing(service: FakeService) -> None:
    with connecting(service, "--no-browser") as run:
        run.page()
        run.come_back(connected="true", provider="google", connection_id="cal_invented")
        code, out, _ = run.end()
    assert code == 1
    assert "Connected." not in out


def test_only_the_browser_of_this_sign_in_counts(service: FakeService) -> None:
    with connecting(service, "--no-browser") as run:
        run.page()
        assert len(run.state) >= 32
        assert run.come_back(client_state="another", connected="false", error="access_denied").status_code == 404
        other = run.landing.replace("/connected", "/favicon.ico")
        assert httpx.get(f"{other}?client_state={run.state}", trust_env=False).status_code == 404
        service.add_connection("cal_9")
        run.come_back(connected="true", connection_id="cal_9")
        assert run.end()[0] == 0


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("access_denied", 5),
        ("scope_missing", 5),
        ("admin_consent_required", 5),
        ("conflict", 8),
        ("account_mismatch", 5),
        ("not_found", 3),
        ("expired", 6),
        ("provider_error", 6),
        ("internal", 1),
        ("a_word_of_tomorrow", 1),
    ],
)
def test_every_other_end_says_what_happened_and_what_to_do(word: str, code: int, service: FakeService) -> None:
    with connecting(service, "--no-browser") as run:
        run.page()
        shown = run.come_back(connected="false", provider="google", error=word)
        assert "Not connected" in shown.text
        ended, out, err = run.end()
    assert ended == code
    assert out == ""
    assert err.count("Error: ") == 1
    assert "→ " in err
    if word in ENDINGS:
        assert ENDINGS[word].message in err


def test_every_error_word_of_the_contract_has_its_words() -> None:
    assert set(ENDINGS) == set(API_MD.split())


def test_the_page_for_the_administrator_is_told(service: FakeService) -> None:
    with connecting(service, "--no-browser") as run:
        run.page()
        page = "https://login.example.com/adminconsent?client_id=1"
        run.come_back(connected="false", error="admin_consent_required", admin_consent_url=page)
        assert page in run.end()[2]


def test_scripts_get_the_connection_as_json(service: FakeService) -> None:
    with connecting(service, "--no-browser", "--json") as run:
        assert run.process.stderr is not None
        assert "Open this page" in run.process.stderr.readline()
        run.process.stderr.readline()
        service.add_connection("cal_9")
        run.come_back(connected="true", connection_id="cal_9")
        code, out, _ = run.end()
    assert code == 0
    assert json.loads(out)["connection"]["id"] == "cal_9"


def test_scripts_get_the_error_word_as_json(service: FakeService) -> None:
    with connecting(service, "--json", "--no-browser") as run:
        assert run.process.stderr is not None
        lines = [run.process.stderr.readline() for _ in range(2)]
        assert lines
        run.come_back(connected="false", error="access_denied")
        _, _, err = run.end()
    assert json.loads(err)["error"]["reason"] == "access_denied"


def test_the_page_is_opened_in_the_persons_browser(service: FakeService, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    script = f"import sys; open({str(opened)!r}, 'w').write(sys.argv[1])"
    browser = f"{sys.executable} -c {shlex.quote(script)} %s"
    with connecting(service, BROWSER=browser) as run:
        assert run.process.stderr is not None
        assert "Sign in in your browser" in run.process.stderr.readline()
        assert run.process.stderr.readline().strip() == opened.read_text()
        service.add_connection("cal_9")
        run.come_back(connected="true", connection_id="cal_9")
        assert run.end()[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a screen")
def test_without_a_screen_the_page_is_only_printed(service: FakeService) -> None:
    with connecting(service) as run:
        assert run.process.stderr is not None
        assert "Open this page" in run.process.stderr.readline()
        assert run.process.stderr.readline().strip().endswith(run.landing)


def test_no_wait_prints_the_page_alone_and_ends(service: FakeService) -> None:
    with connecting(service, "--no-wait", "--client-state", "mine") as run:
        code, out, err = run.end()
    assert code == 0
    assert out.strip().endswith(run.landing)
    assert "ten minutes" in err
    assert run.state == "mine"


def test_ctrl_c_says_that_the_page_still_works(service: FakeService) -> None:
    with connecting(service, "--no-browser") as run:
        run.page()
        run.process.send_signal(signal.SIGINT)
        code, _, err = run.end()
    assert code == 130
    assert "`calendarctl list` shows who signed in" in err
    assert err.endswith("Stopped.\n")
    assert "Traceback" not in err


def test_a_taken_port_is_told_before_anything_is_begun(service: FakeService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/connected"
        env = environment(service)
        done = CliRunner().invoke(cli, ["connect", "google", "--redirect-uri", uri], env=env)
    assert done.exit_code == 2
    assert "--redirect-uri" in done.stderr
    assert "Connect" not in service.received


@pytest.mark.parametrize(
    "failure",
    [
        Failure(
            grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_ERROR", violations=(("google.redirect_uri", "is not listed"),)
        ),
        Failure(
            grpc.StatusCode.FAILED_PRECONDITION, "NOT_CONFIGURED", metadata=(("setting", "CALENDAR_REDIRECT_URIS"),)
        ),
    ],
)
def test_an_uri_that_is_not_allowed_says_what_the_operator_adds(failure: Failure, service: FakeService) -> None:
    service.fail("Connect", failure)
    with connecting(service) as run:
        _, _, err = run.end()
    assert f"add {run.landing} to CALENDAR_REDIRECT_URIS" in err


def test_a_terminal_shows_that_it_waits(service: FakeService) -> None:
    parent, child = pty.openpty()
    landing = f"http://127.0.0.1:{free_port()}/connected"
    command = [sys.executable, "-m", "calendar_client.cli", "connect", "google", "--redirect-uri", landing]
    with subprocess.Popen(
        command, stdin=child, stdout=child, stderr=child, env=environment(service, TERM="xterm"), start_new_session=True
    ) as process:
        os.close(child)
        shown = b""
        while b"Waiting for the browser" not in shown:
            shown += os.read(parent, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
    os.close(parent)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (DEFAULT_REDIRECT_URI, Landing("127.0.0.1", 8085, "/connected")),
        ("http://localhost:9000", Landing("127.0.0.1", 9000, "/")),
        ("https://127.0.0.1:9000/", None),
        ("http://app.example.org:9000/", None),
        ("http://127.0.0.1/", None),
        ("http://127.0.0.1:99999/", None),
    ],
)
def test_only_plain_http_on_this_machine_is_waited_for(uri: str, expected: Landing | None) -> None:
    assert Landing.of(uri) == expected


def test_make_run_allows_what_is_the_default() -> None:
    allowed = (Path(__file__).parents[2] / "deploy" / "run.py").read_text()
    assert DEFAULT_REDIRECT_URI in allowed
    assert urlsplit(DEFAULT_REDIRECT_URI).hostname == "127.0.0.1"


def test_a_browser_that_cannot_be_started_is_none() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from calendar_client.cli_browser import open_page; print(open_page('https://a.example/'))",
        ],
        env={"PATH": "", "BROWSER": "/nowhere/browser %s", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
