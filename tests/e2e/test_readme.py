"""The README's commands, run as they stand there: only where the service, the server and the password are is set."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import local
from tests.e2e.conftest import PASSWORD, Person, at, span

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(console|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
BIN = Path(sys.executable).parent


def block(word: str) -> str:
    """The block that this word stands in."""
    return next(text for _, text in BLOCKS if word in text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which `make run`'s program runs on another port, as a newcomer would have it."""
    folder = tmp_path_factory.mktemp("readme")
    port, http = local.free_port(), local.free_port()
    settings = {
        "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{port}",
        "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{http}",
        "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
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
    process.send_signal(signal.SIGINT)
    process.wait(40)
    log.close()


def run(script: str, folder: Path, person: Person | None = None, stdin: str = "") -> str:
    """Run commands in bash, each of which must succeed; answers what they printed."""
    address = (folder / "address").read_text()
    script = script.replace("127.0.0.1:50051", address).replace("$PWD/.venv/bin", str(BIN))
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


def test_the_lines_of_calendarctl(folder: Path, person: Person) -> None:
    person.make_calendar()
    script = block("calendarctl reschedule").replace('--username "$NAME"', '--username "$NAME" --password-stdin')
    script = script.replace("disconnect --all", "disconnect --all --yes")
    printed = run(script, folder, person, stdin=f"{PASSWORD}\n")
    assert "Interview" in printed
    assert person.events(f"/{person.name}/work/") == []


def test_the_first_busy_week_is_three_lines(folder: Path, person: Person) -> None:
    person.make_calendar()
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


def test_the_lines_of_grpcurl(folder: Path, person: Person) -> None:
    if not grpcurl():
        pytest.skip("grpcurl is not installed")
    person.make_calendar()
    printed = run(block("call SyncBooking"), folder, person)
    assert "BOOKING_EVENT_STATE_SYNCED" in printed
    assert '"deleted": true' in printed


def test_the_lines_of_python(folder: Path, person: Person) -> None:
    person.make_calendar()
    key = (folder / "var" / "api-key").read_text().strip()
    address = (folder / "address").read_text()
    run(
        f'export CALENDAR_API_KEY={key}\n"{BIN}/calendarctl" connect caldav --preset custom --server-url "$SERVER" '
        '--username "$NAME" --password-stdin',
        folder,
        person,
        stdin=f"{PASSWORD}\n",
    )
    code = f"api_key = {key!r}\n" + block("with CalendarClient").replace("127.0.0.1:50051", address)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def grpcurl() -> bool:
    """Whether the real grpcurl is there; where Go installs it counts too."""
    os.environ["PATH"] += os.pathsep + str(Path.home() / "go" / "bin")
    return shutil.which("grpcurl") is not None
