"""docs/calendarctl.md: its lines run in this order against a service with memory, and its tables are true."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from calendar_client.cli import INTERRUPTED, cli
from calendar_client.cli_browser import DEFAULT_REDIRECT_URI
from calendar_client.cli_config import Config
from calendar_client.cli_errors import EXIT_CODES
from tests.fakes.fake_service import API_KEY, PASSWORD, FakeService, running

PAGE = (Path(__file__).parents[2] / "docs" / "calendarctl.md").read_text()
LINES = [line for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def service() -> Iterator[FakeService]:
    with running() as service:
        yield service


def test_every_line_runs_as_it_stands_there(service: FakeService) -> None:
    env = {"CALENDAR_ADDRESS": service.address, "CALENDAR_API_KEY": API_KEY, "XDG_CONFIG_HOME": "/nowhere"}
    assert len(LINES) > 15
    for line in LINES:
        program, *arguments = shlex.split(line)
        assert program == "calendarctl"
        asks = [] if "caldav" not in arguments else ["--password-stdin"]
        if "--json" in arguments:
            # The lines before have disconnected everything.
            service.add_connection("cal_9")
        done = CliRunner().invoke(cli, [*arguments, *asks], input=f"{PASSWORD}\n", env=env)
        assert done.exit_code == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert "cal_1" in service.disconnected


def test_every_command_is_on_the_page() -> None:
    for name in cli.commands:
        assert f"calendarctl {name}" in PAGE or f"`{name}`" in PAGE, name


def test_every_option_on_the_page_is_there() -> None:
    def options(command: click.Command) -> Iterator[str]:
        for parameter in command.params:
            yield from parameter.opts
        for each in command.commands.values() if isinstance(command, click.Group) else ():
            yield from options(each)

    known = set(options(cli)) | {"--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known


def test_the_exit_codes_are_those_of_the_command() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE))
    assert table == {str(code): text for code, text in EXIT_CODES.items()} | {str(INTERRUPTED): "stopped by Ctrl-C"}


def test_the_configuration_is_one_that_is_read(tmp_path: Path) -> None:
    [text] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(text)
    config = Config.read(path)
    assert config.default == "here"
    assert config.profile("work").tls
    assert config.profile("work").api_key_file == str(tmp_path / "work.key")


def test_the_place_where_the_browser_ends_is_the_default() -> None:
    assert PAGE.count(DEFAULT_REDIRECT_URI) == 2
