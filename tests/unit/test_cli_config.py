"""Profiles and shell completion of ``calendarctl``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from calendar_client.cli import cli
from calendar_client.cli_config import Config, ConfigError, Profile, config_path
from tests.fakes.fake_service import API_KEY, FakeService, running

BIN = Path(sys.executable).parent


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        service.add_connection("cal_1")
        yield service


class Home:
    """A folder of configuration, and calendarctl that reads it."""

    def __init__(self, folder: Path, service: FakeService):
        self.folder, self.service = folder / "calendarctl", service
        self.folder.mkdir()
        (self.folder / "right.key").write_text(API_KEY + "\n")
        (self.folder / "wrong.key").write_text("calkey_9_wrong\n")

    def write(self, text: str) -> None:
        (self.folder / "config.toml").write_text(text.replace("ADDRESS", self.service.address))

    def __call__(self, *arguments: str, **environment: str | None) -> Result:
        kept = {"CALENDAR_ADDRESS": None, "CALENDAR_API_KEY": None, "CALENDAR_PROFILE": None}
        env = {**kept, "XDG_CONFIG_HOME": str(self.folder.parent), "TZ": "UTC", **environment}
        return CliRunner().invoke(cli, list(arguments), env=env)


@pytest.fixture
def home(tmp_path: Path, service: FakeService) -> Home:
    home = Home(tmp_path, service)
    home.write(
        'default = "right"\n'
        '[profiles.right]\naddress = "ADDRESS"\napi-key-file = "right.key"\nzone = "Asia/Tokyo"\n'
        '[profiles.wrong]\naddress = "ADDRESS"\napi-key-file = "wrong.key"\n'
        '[profiles.far]\naddress = "calendars.example.org:443"\napi-key-file = "right.key"\n'
    )
    return home


class TestProfiles:
    def test_the_default_one_is_used(self, home: Home) -> None:
        done = home("list")
        assert done.exit_code == 0, done.stderr
        assert "cal_1" in done.stdout

    def test_its_zone_is_the_one_that_is_shown(self, home: Home) -> None:
        assert "Asia/Tokyo" in home("busy").stdout
        assert "Europe/Rome" in home("busy", "--zone", "Europe/Rome").stdout

    def test_a_named_one_stands_above_the_environment(self, home: Home) -> None:
        assert home("list", "--profile", "wrong", CALENDAR_API_KEY=API_KEY).exit_code == 4
        assert home("list", CALENDAR_PROFILE="wrong", CALENDAR_API_KEY=API_KEY).exit_code == 4
        assert home("--profile", "wrong", "list", CALENDAR_API_KEY=API_KEY).exit_code == 4

    def test_the_environment_stands_above_the_default(self, home: Home) -> None:
        assert home("list", CALENDAR_API_KEY="calkey_9_other").exit_code == 4
        assert home("list", CALENDAR_ADDRESS="127.0.0.1:1", CALENDAR_API_KEY=API_KEY).exit_code == 6

    def test_options_stand_above_everything(self, home: Home) -> None:
        key = str(home.folder / "right.key")
        assert home("list", "--profile", "wrong", "--api-key-file", key).exit_code == 0
        assert home("list", "--profile", "far", "--address", home.service.address).exit_code == 0

    def test_the_key_of_the_default_is_not_sent_to_another_address(self, home: Home) -> None:
        done = home("list", "--address", "127.0.0.1:1")
        assert done.exit_code == 4
        assert "no API key" in done.stderr

    def test_a_service_elsewhere_wants_tls_as_ever(self, home: Home) -> None:
        done = home("list", "--profile", "far")
        assert done.exit_code == 2
        assert "--tls" in done.stderr

    def test_an_unknown_name_says_which_there_are(self, home: Home) -> None:
        done = home("list", "--profile", "none")
        assert done.exit_code == 2
        assert "right, wrong, far" in done.stderr

    def test_they_are_listed(self, home: Home) -> None:
        shown = home("profiles").stdout
        assert f"● right   {home.service.address}" in shown
        assert "far   calendars.example.org:443" in shown
        assert API_KEY not in shown
        told = json.loads(home("profiles", "--json").stdout)
        assert [(each["name"], each["default"]) for each in told["profiles"]] == [
            ("right", True),
            ("wrong", False),
            ("far", False),
        ]

    def test_none_says_how_to_write_one(self, home: Home) -> None:
        (home.folder / "config.toml").unlink()
        assert "config.toml" in home("profiles").stdout
        assert "[profiles.work]" in home("profiles", "--help").stdout
        assert home("list", CALENDAR_ADDRESS=home.service.address, CALENDAR_API_KEY=API_KEY).exit_code == 0

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("profiles = ", "is not TOML"),
            ('colour = "red"', "'colour' is not known"),
            ("[profiles.a]\nadress = 'x'", "profiles.a.adress is not known"),
            ("[profiles.a]\ntls = 'yes'", "profiles.a.tls must be true or false"),
            ("[profiles.a]\naddress = 1", "profiles.a.address must be a text"),
            ("[profiles.a]\napi-key = 'calkey_1_x'", "Put it into a file"),
            ("profiles = 1", "[profiles.NAME]"),
            ("profiles.a = 1", "[profiles.a]"),
            ("default = 'b'\n[profiles.a]", "There is no profile 'b'"),
            ("#" * 100_001, "larger than"),
        ],
    )
    def test_a_wrong_file_is_told_with_its_place(self, text: str, told: str, home: Home) -> None:
        home.write(text)
        done = home("list")
        assert done.exit_code == 2
        assert told in done.stderr
        assert "config.toml" in done.stderr
        assert "calkey_1_x" not in done.stderr

    def test_paths_are_relative_to_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "config.toml"
        path.write_text('[profiles.a]\ntls-ca = "ca.pem"\ntls-key = "/etc/key.pem"\ntls = true\n')
        assert Config.read(path).profile("a") == Profile(
            "a", tls=True, tls_ca=str(tmp_path / "ca.pem"), tls_key="/etc/key.pem"
        )

    def test_a_file_that_cannot_be_read_is_not_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError):
            Config.read(tmp_path)

    def test_the_file_is_where_xdg_says(self) -> None:
        script = "from calendar_client.cli_config import config_path; print(config_path())"
        path = os.pathsep.join(each for each in sys.path if each)
        for base, expected in (("/a/b", "/a/b"), ("relative", "/home/x/.config"), ("", "/home/x/.config")):
            env = {"PYTHONPATH": path, "HOME": "/home/x", "XDG_CONFIG_HOME": base}
            done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
            assert done.stdout.strip() == f"{expected}/calendarctl/config.toml"
        assert config_path().name == "config.toml"


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_a_script_is_printed_that_the_shell_accepts(self, shell: str, home: Home) -> None:
        if shutil.which(shell) is None and shell == "bash":
            pytest.skip("bash is not installed")
        script = home("completion", shell).stdout
        assert "_CALENDARCTL_COMPLETE" in script
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed, so its script was printed only")
        subprocess.run([shell, "-n", "/dev/stdin"], input=script, text=True, check=True)

    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
    @pytest.mark.parametrize(
        ("typed", "expected"),
        [
            ("calendarctl resch", ["reschedule"]),
            ("calendarctl connect g", ["google"]),
            ("calendarctl busy --expl", ["--explain"]),
            ("calendarctl connect caldav --preset f", ["fastmail"]),
            ("calendarctl calendars c", ["cal_1"]),
            ("calendarctl busy --connection cal", ["cal_1"]),
            ("calendarctl --profile wrong calendars c", []),
            ("calendarctl list --profile w", ["wrong"]),
        ],
    )
    def test_a_real_bash_completes(self, typed: str, expected: list[str], home: Home) -> None:
        words = typed.split()
        script = (
            'eval "$(calendarctl completion bash)"\n'
            f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}\n"
            f"_calendarctl_completion calendarctl {words[-1]} {words[-2]}\n"
            'printf "%s\\n" "${COMPREPLY[@]}"\n'
        )
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CALENDAR_")},
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(home.folder.parent),
        }
        done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr == ""
        assert done.stdout.split() == expected


def test_the_version_is_told(home: Home) -> None:
    assert home("--version").stdout.startswith("calendarctl, version ")
