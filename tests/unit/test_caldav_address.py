"""Spellings of one path: the quick ways for what nearly all of them are come to the same as the long way."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from calendar_server.core.model import Preset
from calendar_server.providers.caldav_address import Origin, Reach, canonical, member_id

paths = st.text(alphabet="abZ9._~@-/", max_size=12).map(lambda text: f"/{text}")
names = st.text(alphabet="abZ9._~-", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))


def escaped(path: str) -> str:
    """The same path with every letter escaped."""
    return re.sub(r"[^/]", lambda letter: f"%{ord(letter[0]):02X}", path)


@given(paths)
def test_a_plain_path_has_the_canonical_form_of_its_escaped_spelling(path: str) -> None:
    assert canonical(path) == canonical(escaped(path))


@given(paths, names)
def test_a_member_has_one_id_however_its_calendar_is_spelled(calendar: str, name: str) -> None:
    calendar = f"{calendar}/"
    plain = member_id(calendar, f"{calendar}{name}")
    assert plain == f"{calendar}{name}"
    assert member_id(calendar, f"{escaped(calendar)}{name}") == plain
    assert member_id(calendar, f"{calendar}{escaped(name)}") == plain


@given(paths, paths)
def test_what_is_no_member_keeps_its_id(calendar: str, found: str) -> None:
    calendar = f"{calendar}/"
    if canonical(found).rpartition("/")[0] != canonical(calendar).rstrip("/"):
        assert member_id(calendar, found) == found


# What begins with two slashes may name a host.
@given(st.text(alphabet="aZ9._~@-/%!$&'()*+,:=", max_size=12).map(lambda text: f"/{text.lstrip('/')}"))
def test_a_path_leads_where_it_says_and_is_called_as_it_is_spelled(path: str) -> None:
    reach = Reach(Origin.of("http://localhost:8080/"), Preset.CUSTOM)
    assert reach.url_of(path) == reach.locate(path, "http://localhost:8080/")
    assert reach.id_in(path, "http://localhost:8080/dav/") == reach.id_of(reach.url_of(path), path)
