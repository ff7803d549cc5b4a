"""What a multistatus says of each resource, in whatever shape servers write it (RFC 4918 section 14.16)."""

from __future__ import annotations

import pytest

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.caldav_protocol import ETAG, HREF_MOST, RESOURCE_TYPE, Member, multistatus

HREF = "<d:href>/a/b.ics</d:href>"
OK = "<d:status>HTTP/1.1 200 OK</d:status>"
MISSING = "<d:status>HTTP/1.1 404 Not Found</d:status>"
PROP = '<d:prop><d:getetag>"1"</d:getetag></d:prop>'


def members(*responses: str) -> tuple[Member, ...]:
    inner = "".join(f"<d:response>{each}</d:response>" for each in responses)
    return multistatus(f'<d:multistatus xmlns:d="DAV:">{inner}</d:multistatus>'.encode(), 207)


@pytest.mark.parametrize(
    "response",
    [
        f"{HREF}<d:propstat>{PROP}{OK}</d:propstat>",
        f"{HREF}<d:propstat>{OK}{PROP}</d:propstat>",
        f"<d:propstat>{PROP}{OK}</d:propstat>{HREF}",
        f"{HREF}<d:propstat>{PROP}</d:propstat>",
        f"{HREF}<d:propstat>{PROP}<d:status>HTTP/1.1 200 Fine</d:status></d:propstat>",
        f"{HREF}<d:propstat>{PROP}{OK}<d:responsedescription>well</d:responsedescription></d:propstat>",
        f"{HREF}<d:propstat>{PROP.replace('<d:prop>', '<d:prop><!-- its version -->')}{OK}</d:propstat>",
        f" <d:href> /a/b.ics\n</d:href> <d:propstat> {PROP} {OK} </d:propstat> ",
    ],
)
def test_a_property_that_is_there(response: str) -> None:
    [member] = members(response)
    assert (member.href, member.status, member.text(ETAG)) == ("/a/b.ics", None, '"1"')
    assert list(member.found) == [ETAG]
    assert not member.failed


@pytest.mark.parametrize(
    ("propstat", "status"),
    [
        (f"{PROP}{MISSING}", 404),
        (f"{MISSING}{PROP}", 404),
        (f"{PROP}<d:status>HTTP/1.1 500 Oops</d:status>", 500),
        (f"{PROP}<d:status>nonsense</d:status>", 500),
    ],
)
def test_a_property_that_is_not(propstat: str, status: int) -> None:
    [member] = members(f"{HREF}<d:propstat>{propstat}</d:propstat>")
    assert not member.found
    assert member.failed == {ETAG: status}


def test_some_are_there_and_some_are_not() -> None:
    found = f"<d:propstat>{PROP}{OK}</d:propstat>"
    lost = f"<d:propstat><d:prop><d:resourcetype/><d:getetag/></d:prop>{MISSING}</d:propstat>"
    for both in (found + lost, lost + found):
        [member] = members(HREF + both)
        assert member.text(ETAG) == '"1"'
        assert member.failed == {RESOURCE_TYPE: 404}


def test_a_resource_that_is_gone_or_broken_as_a_whole() -> None:
    gone, broken = members(HREF + MISSING, f"{HREF}<d:status>HTTP/1.1 507 Full</d:status>")
    assert (gone.gone, gone.broken) == (True, False)
    assert (broken.gone, broken.broken) == (False, True)


def test_what_is_inside_a_property() -> None:
    inner = "<d:resourcetype><d:collection/><d:principal><d:href> /p/ </d:href></d:principal></d:resourcetype>"
    [member] = members(f"{HREF}<d:propstat><d:prop>{inner}</d:prop>{OK}</d:propstat>")
    assert member.found[RESOURCE_TYPE].tags == {"{DAV:}collection", "{DAV:}principal", "{DAV:}href"}
    assert member.hrefs(RESOURCE_TYPE) == ("/p/",)


@pytest.mark.parametrize("name", ["", "<d:href/>", "<d:href>  </d:href>", f"<d:href>{'x' * (HREF_MOST + 1)}</d:href>"])
@pytest.mark.parametrize("more", ["", "<d:responsedescription/>"])
def test_a_response_about_nothing_is_no_answer(name: str, more: str) -> None:
    with pytest.raises(ProviderUnavailable):
        members(f"{name}<d:propstat>{PROP}{OK}</d:propstat>{more}")


def test_something_else_than_a_name_in_front_is_no_name() -> None:
    with pytest.raises(ProviderUnavailable):
        members(f"<d:location>/a/b.ics</d:location><d:propstat>{PROP}{OK}</d:propstat>")


@pytest.mark.parametrize(
    "response",
    [
        f"{HREF}<d:other>{PROP}{OK}</d:other>",
        f"{HREF}<d:propstat>{PROP.replace('d:prop>', 'd:other>')}{OK}</d:propstat>",
        f"{HREF}<d:propstat>{PROP}{PROP}</d:propstat><d:propstat>{OK}{OK}</d:propstat>",
    ],
)
def test_elements_that_only_look_like_the_usual_ones_say_nothing_else(response: str) -> None:
    [member] = members(response)
    assert list(member.found) == ([ETAG] if response.count(PROP) == 2 else [])
    assert not member.failed
