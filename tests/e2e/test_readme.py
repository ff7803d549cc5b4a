"""What README and docs/ tell to type, run as it stands there: only where service and server are, and whose, is set here.

In the pages of docs/ a block of `console` or `python` says after its language what it is:

    run   it is run here, with the others of its page, from top to bottom
    set   the reader's own values; here they are those of a server that the test started
    show  not run: it needs what a test has not

A page with one such word has one at each of its blocks; pages without any have tests of their own.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import local
from tests.e2e.conftest import PASSWORD, Person, at, span

ROOT = Path(__file__).parents[2]
README = re.findall(r"^```(console|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
PAGES = {
    page.name: re.findall(r"^ *```(console|python)(?: (\w+))?\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    for page in sorted((ROOT / "docs").glob("*.md"))
}
"""Language, word and text of every block of each page."""
RUN = [name for name, blocks in PAGES.items() if any(word for _, word, _ in blocks)]
DONE = "https://app.example.org/done"
BIN = Path(sys.executable).parent


def block(word: str) -> str:
    """The block that this word stands in."""
    return next(text for _, text in README if word in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which `make run`'s program runs on another port, as a newcomer would have it."""
    folder = tmp_path_factory.mktemp("readme")
    port, http = local.free_port(), local.free_port()
    settings = {
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{port}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{http}",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
        "CALENDAR_GOOGLE_CLIENT_ID": "google-client",
        "CALENDAR_GOOGLE_CLIENT_SECRET": "secret",
        "CALENDAR_MICROSOFT_CLIENT_ID": "microsoft-client",
        "CALENDAR_MICROSOFT_CLIENT_SECRET": "secret",
        "CALENDAR_REDIRECT_URIS": DONE,
    }
    log = (folder / "run.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "deploy" / "run.py")], cwd=folder, env=local.environment(settings), stdout=log
    )
    until = time.monotonic() + 60
    while "Ctrl-C stops" not in (folder / "run.log").read_text():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    (folder / "address").write_text(settings["CALENDAR_GRPC_ADDRESS"])
    yield folder
    # As Ctrl-C, but it comes to this process alone: the server must not stay behind.
    process.send_signal(signal.SIGTERM)
    process.wait(40)
    log.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


SIGNED_IN = "export CALENDAR_API_KEY=$(cat var/api-key) PATH=$PWD/.venv/bin:$PATH"
CONNECT = (
    f'{SIGNED_IN}\ncalendarctl connect caldav --preset custom --server-url "$SERVER" '
    '--username "$NAME" --password-stdin <<<"$PASSWORD"'
)


def as_console(language: str, text: str) -> str:
    """A block as the terminal takes it."""
    return f"'{sys.executable}' - <<'END'\n{text}END" if language == "python" else text


def run(script: str, folder: Path, person: Person | None = None, stdin: str = "") -> str:
    """Run commands in bash, each of which must succeed; answers what they printed."""
    address = (folder / "address").read_text()
    script = script.replace("127.0.0.1:50051", address).replace("$PWD/.venv/bin", str(BIN))
    script = script.replace("127.0.0.1:5232", f"127.0.0.1:{local.free_port()}")
    # What a page starts in the background ends with it, also when a line fails.
    script = f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}"
    env = {**os.environ, "CALENDAR_ADDRESS": address, "PASSWORD": PASSWORD}
    if person is not None:
        env |= {"SERVER": person.url, "NAME": person.name, "DAY": f"{at(0):%Y-%m-%d}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_make_run_prints_can_be_pasted(folder: Path) -> None:
    printed = (folder / "run.log").read_text()
    key = (folder / "var" / "api-key").read_text().strip()
    assert printed.count(key) == 1
    lines = [line.strip() for line in printed.splitlines() if line.strip().startswith("grpcurl ")]
    assert len(lines) == 3
    if not grpcurl():
        pytest.skip("grpcurl is not installed")
    run("\n".join(lines), folder)


def test_what_make_run_prints_for_curl_can_be_pasted(folder: Path) -> None:
    printed = (folder / "run.log").read_text()
    [line] = [line.strip() for line in printed.splitlines() if line.strip().startswith("curl ")]
    assert '"has_more": false' in run(line, folder)


@pytest.fixture
def newcomer(folder: Path, person: Person) -> Iterator[Person]:
    """Somebody with a calendar, not connected yet; at the end nobody is."""
    person.make_calendar()
    yield person
    run(f"{SIGNED_IN}\ncalendarctl disconnect --all --yes || [ $? = 3 ]", folder)


def test_the_lines_of_calendarctl(folder: Path, newcomer: Person) -> None:
    script = block("calendarctl reschedule").replace('--username "$NAME"', '--username "$NAME" --password-stdin')
    printed = run(script, folder, newcomer, stdin=f"{PASSWORD}\n")
    assert "Interview" in printed
    assert newcomer.events(f"/{newcomer.name}/work/") == []


def test_the_first_busy_week_is_three_lines(folder: Path, newcomer: Person) -> None:
    person = newcomer
    person.put(f"/{person.name}/work/", "nine", span(at(9), at(10)))
    answers = f'--preset custom --server-url "{person.url}" --username {person.name} --password-stdin'
    script = block("asks for apple").replace("connect caldav ", f"connect caldav {answers} ")
    printed = run(script + "calendarctl disconnect --all --yes\n", folder, person, stdin=f"{PASSWORD}\n")
    assert "Connected." in printed
    assert "Nothing is missing." in printed
    assert "1 h" in printed


def test_what_make_run_prints_for_calendarctl_is_the_same(folder: Path) -> None:
    printed = (folder / "run.log").read_text()
    address = (folder / "address").read_text()
    lines = [line.split("#")[0].strip() for line in block("asks for apple").splitlines()]
    lines[0] += f" CALENDAR_ADDRESS={address}"
    assert [line for line in lines if line not in printed] == []


def test_the_lines_of_grpcurl(folder: Path, newcomer: Person) -> None:
    if not grpcurl():
        pytest.skip("grpcurl is not installed")
    run(CONNECT, folder, newcomer)
    printed = run(block("call SyncBooking"), folder, newcomer)
    assert "BOOKING_EVENT_STATE_SYNCED" in printed
    assert '"deleted": true' in printed


def test_the_lines_of_python(folder: Path, newcomer: Person) -> None:
    newcomer.put(f"/{newcomer.name}/work/", "dentist", f"DTSTART:{at(2):%Y%m%dT%H%M%SZ}\nDTEND:{at(3):%Y%m%dT%H%M%SZ}")
    run(CONNECT, folder, newcomer)
    printed = run(as_console("python", block("with CalendarClient")), folder)
    assert printed.count(":00") >= 2


@pytest.mark.parametrize("name", RUN)
def test_the_lines_of_a_page(name: str, folder: Path, newcomer: Person) -> None:
    blocks = [as_console(language, text) for language, word, text in PAGES[name] if word == "run"]
    if "call()" in "".join(blocks) and not grpcurl():
        pytest.skip("grpcurl is not installed")
    if not any(re.search(r"calendarctl connect|call Connect", text) for text in blocks):
        blocks.insert(0, CONNECT)
    run("\n".join([SIGNED_IN, *blocks]), folder, newcomer)


@pytest.mark.parametrize("name", RUN)
def test_every_block_of_a_page_says_whether_it_is_run(name: str) -> None:
    assert {word for _, word, _ in PAGES[name]} <= {"run", "set", "show"}


@pytest.mark.parametrize("provider", ["google", "microsoft"])
def test_the_page_of_a_provider_has_what_the_service_asks_for(provider: str, folder: Path) -> None:
    page = (ROOT / "docs" / f"{provider}.md").read_text()
    printed = run(f"{SIGNED_IN}\ncalendarctl connect {provider} --redirect-uri {DONE} --json", folder)
    [url] = re.findall(r'"(https://[^"]+)"', printed)
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
    for scope in asked["scope"][0].split():
        assert f"`{scope}`" in page
    assert f"https://calendar.example.org{urllib.parse.urlsplit(asked['redirect_uri'][0]).path}\n" in page


def grpcurl() -> bool:
    """Whether the real grpcurl is there; where Go installs it counts too."""
    os.environ["PATH"] += os.pathsep + str(Path.home() / "go" / "bin")
    return shutil.which("grpcurl") is not None
