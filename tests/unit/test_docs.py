"""README and docs/ are held against what is there: settings, commands, links, pages that are made."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import get_args
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest

from calendar_server import errors
from calendar_server.config import Config
from calendar_server.core.model import Preset
from calendar_server.errors import Cause
from calendar_server.rpc.status import CODES
from calendar_server.usecases.authorizations import _WORDS
from calendars.v1 import availability_pb2, booking_pb2, errors_pb2

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])

PROVIDERS = {
    "github.com",
    "developers.google.com",
    "console.cloud.google.com",
    "support.google.com",
    "myaccount.google.com",
    "entra.microsoft.com",
    "learn.microsoft.com",
    "account.live.com",
    "myapps.microsoft.com",
    "login.microsoftonline.com",
    "support.apple.com",
    "account.apple.com",
    "www.fastmail.help",
    "docs.nextcloud.com",
    "www.rfc-editor.org",
    "keepachangelog.com",
    "semver.org",
}
"""Whose pages may be linked to: the providers' own, and specifications. Others may be gone or changed tomorrow."""


def named(page: Path) -> str:
    """A page's path as a test's name shows it."""
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def headings(page: Path) -> list[str]:
    """The headings of a page, without their marks."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#+ +(.+?)\s*$", text, re.MULTILINE)


def anchor(heading: str) -> str:
    """What a heading is linked to by, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def targets(page: Path) -> list[str]:
    """Where the links and pictures of a page lead."""
    text = prose(page)
    return [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]


def test_the_page_of_settings_has_every_one_with_its_default() -> None:
    rows = re.findall(
        r"^\| `(CALENDAR_\w+)` \| (?:`(.*?)`)? \| (.+) \|$", (DOCS / "settings.md").read_text(), re.MULTILINE
    )
    shown = {True: "on", False: "off"}
    assert rows == [
        (
            field.metadata["name"],
            shown[field.default] if isinstance(field.default, bool) else str(field.default),
            field.metadata["help"],
        )
        for field in dataclasses.fields(Config)
    ]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    known = {field.metadata["name"] for field in dataclasses.fields(Config)}
    # The files that hold a setting's text, what calendarctl and the tests take, and reasons that begin alike.
    known |= {f"{name}_FILE" for name in known}
    known |= {
        "CALENDAR_API_KEY",
        "CALENDAR_ADDRESS",
        "CALENDAR_PROFILE",
        "CALENDAR_TEST_POSTGRES",
        "CALENDAR_CHAOS",
        "CALENDAR_CHAOS_SEED",
    }
    known |= {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    for name in set(re.findall(r"(?<![A-Z_])CALENDAR_[A-Z_]*", page.read_text())):
        # `CALENDAR_EXPAND_…` and such stand for several.
        assert name in known or (name.endswith("_") and any(each.startswith(name) for each in known)), name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    makefile = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    assert {*re.findall(r"`make ([a-z-]+)", text), *re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)} <= makefile


def test_every_folder_of_the_tree_is_there() -> None:
    tree = (DOCS / "how-it-works.md").read_text().split("## The tree")[1]
    for folder in re.findall(r"^([a-z]+)/ ", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
    for room in re.findall(r"^  ([a-z]+)/ ", tree, re.MULTILINE):
        assert (ROOT / "server" / "calendar_server" / room).is_dir(), room


def test_the_locks_name_no_host() -> None:
    for lock in ROOT.glob("requirements*.lock"):
        assert "://" not in lock.read_text(), lock.name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in targets(page):
        url = urlsplit(target)
        if url.scheme:
            assert url.scheme == "https", target
            assert url.hostname in PROVIDERS, target
            continue
        there = (page.parent / unquote(url.path)).resolve() if url.path else page
        assert there.is_relative_to(ROOT), target
        assert there.exists(), target
        if url.fragment:
            assert url.fragment in [anchor(heading) for heading in headings(there)], target


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_a_page_has_one_title_and_no_two_headings_alike(page: Path) -> None:
    assert page.read_text().startswith("# ")
    found = [anchor(heading) for heading in headings(page)]
    assert sorted(found) == sorted(set(found))


@pytest.mark.parametrize("picture", sorted(DOCS.rglob("*.svg")), ids=named)
def test_a_picture_says_what_it_shows_and_suits_a_dark_page(picture: Path) -> None:
    text = picture.read_text()
    kinds = {child.tag.rpartition("}")[2] for child in ElementTree.fromstring(text)}
    assert {"title", "desc"} <= kinds
    assert "prefers-color-scheme: dark" in text


def test_the_readme_leads_to_the_list_of_pages() -> None:
    assert "docs/README.md" in targets(ROOT / "README.md")


def test_every_page_is_listed() -> None:
    listed = {(DOCS / target).resolve() for target in targets(DOCS / "README.md")}
    assert {page.resolve() for page in DOCS.glob("*.md")} - {(DOCS / "README.md").resolve()} <= listed


def test_the_pages_that_are_made_are_as_they_would_be_made() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "protos" / "document.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", [name for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name if not name.endswith("UNSPECIFIED")]
)
def test_the_manual_has_the_code_of_every_reason_and_what_to_do(name: str) -> None:
    reason = name.removeprefix("ERROR_REASON_")
    section = (DOCS / "errors.md").read_text().split(f"\n### {reason}\n")[1].split("\n### ")[0]
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.CalendarError)
    ]
    [code] = {
        next((CODES[base].name for base in kind.__mro__ if base in CODES), "INTERNAL")
        for kind in kinds
        if kind.reason == reason
    }
    assert f"\n`{code}`\n" in section
    assert re.search(r"^\*\*What to do:\*\* \w+", section, re.MULTILINE)


@pytest.mark.parametrize(("page", "file"), [("busy.md", availability_pb2), ("bookings.md", booking_pb2)])
def test_a_page_has_every_word_of_the_enums_that_it_explains(page: str, file: ModuleType) -> None:
    text = (DOCS / page).read_text()
    for enum in file.DESCRIPTOR.enum_types_by_name.values():
        prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
        words = [value.name.removeprefix(prefix) for value in enum.values[1:]]
        assert [word for word in words if f"`{word}`" not in text] == []


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("caldav.md", [preset.value for preset in Preset]),
        ("caldav.md", list(get_args(Cause))),
        ("google.md", ["access_denied", "expired", "internal", *_WORDS.values()]),
    ],
    ids=["presets", "causes", "redirect"],
)
def test_a_page_has_every_word_of_what_it_explains(page: str, words: list[str]) -> None:
    text = (DOCS / page).read_text()
    assert [word for word in words if f"`{word}`" not in text] == []


@pytest.mark.parametrize(
    ("page", "told", "setting", "value"),
    [
        ("busy.md", "`CALENDAR_MAX_STALENESS_S`, 60 s", "max_staleness_s", 60),
        ("busy.md", "For 15 minutes after a question (`CALENDAR_USED_S`)", "used_s", 15 * 60),
        ("busy.md", "Once an hour (`CALENDAR_RECONCILE_S`)", "reconcile_s", 3600),
        ("busy.md", "`CALENDAR_HORIZON_DAYS` (400)", "horizon_days", 400),
        ("busy.md", "every 15 seconds (`CALENDAR_WATCH_HEARTBEAT_S`)", "watch_heartbeat_s", 15),
        ("bookings.md", "Seven days after the booking's end\n  (`CALENDAR_PUSH_KEEP_DAYS`)", "push_keep_days", 7),
        ("caldav.md", "5 redirects are followed (`CALENDAR_REDIRECTS`)", "redirects", 5),
        ("caldav.md", "20 000 events in a calendar (`CALENDAR_EVENTS`)", "calendar_events", 20_000),
        ("caldav.md", "8 MB in\none answer (`CALENDAR_ANSWER_BYTES`)", "answer_bytes", 8_000_000),
    ],
)
def test_a_default_that_a_page_tells_is_the_default(page: str, told: str, setting: str, value: float) -> None:
    assert told in (DOCS / page).read_text()
    assert getattr(Config(), setting) == value
