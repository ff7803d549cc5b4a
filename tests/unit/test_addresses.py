"""Hosts, URLs, addresses and the allow-list: one spelling each, and which addresses strangers may name."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calendar_server.providers.addresses import (
    AllowList,
    canonical_host,
    is_public,
    parse_address,
    parse_url,
)

INNER_V4 = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.0.1",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
]
INNER_V6 = [
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "::ffff:0:8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::8.8.8.8",
    "64:ff9b:1:a00:0:100::",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
    "2001:200::1",
]


@pytest.mark.parametrize("text", INNER_V4 + INNER_V6)
def test_an_address_that_the_internet_does_not_route_is_not_public(text: str) -> None:
    assert not is_public(parse_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_that_the_internet_routes_is_public(text: str) -> None:
    assert is_public(parse_address(text))


@given(st.ip_addresses(v=4))
@settings(max_examples=150)
def test_forms_that_carry_an_ipv4_address_are_never_more_public_than_it(address: ipaddress.IPv4Address) -> None:
    carried = [
        f"::ffff:{address}",
        f"64:ff9b::{address}",
        f"::{address}",
        f"::ffff:0:{address}",
        f"64:ff9b:1::{address}",
    ]
    carried.append(str(ipaddress.IPv6Address(0x2002 << 112 | int(address) << 80)))
    assert not any(is_public(parse_address(text)) and not is_public(address) for text in carried)


@given(st.ip_addresses())
@settings(max_examples=300)
def test_what_the_standard_library_calls_private_or_reserved_is_not_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    inner = address.is_private or address.is_link_local or address.is_multicast or address.is_loopback
    if address in ipaddress.ip_network("64:ff9b::/96") or (address.version == 6 and address.ipv4_mapped):
        return
    assert not (inner and is_public(address))


def test_an_address_with_a_zone_id_is_none() -> None:
    with pytest.raises(ValueError, match="zone"):
        parse_address("fe80::1%eth0")


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("Cloud.Example.COM", "cloud.example.com"),
        ("cloud.example.com.", "cloud.example.com"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("MÜNCHEN.example", "xn--mnchen-3ya.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("radicale_1", "radicale_1"),
        ("localhost", "localhost"),
        ("ＬＯＣＡＬＨＯＳＴ", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("１２７．０．０．１", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("①27.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[::FFFF:127.0.0.1]", "::ffff:7f00:1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_a_host_has_one_spelling(host: str, canonical: str) -> None:
    assert canonical_host(host) == canonical


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        "a..b",
        ".example.com",
        "example.com..",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0X7F.1",
        "017700000001",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "127.0.0.01",
        "1.2.3.4.5",
        "256.1.1.1",
        "example.1",
        "example.0x",
        "127.0.0.1%00",
        "%31%32%37.0.0.1",
        "127%2e0.0.1",
        "[::1",
        "[::1%25eth0]",
        "[fe80::1%eth0]",
        "[127.0.0.1]",
        "::1]",
        "[]",
        "-a.example",
        "a-.example",
        "a b.example",
        "a\x00.example",
        "a/b",
        "a@b",
        "exa\u200bmple.com\uffff",
        "a" * 64 + ".example",
        "a." * 127 + "aa",
        "ü" * 5000,
        "１２７.1",
        "例え／テスト",
        "٣.example.٣",
    ],
)
def test_what_only_a_lenient_reader_takes_for_a_host_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match=r"^The host .*\.$"):
        canonical_host(host)


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_canonical_form_of_any_text_is_stable_or_a_refusal(text: str) -> None:
    try:
        once = canonical_host(text)
    except ValueError:
        return
    assert canonical_host(once) == once
    assert once.isascii()


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("https://cloud.example.com", "https://cloud.example.com/"),
        ("HTTPS://Cloud.Example.com:443/Dav/", "https://cloud.example.com/Dav/"),
        ("http://[::1]:5232/a?b=c", "http://[::1]:5232/a?b=c"),
        ("https://example.com:/x", "https://example.com/x"),
        ("https://example.com/a b/ü", "https://example.com/a%20b/%C3%BC"),
        ("https://example.com/a%20b%zz", "https://example.com/a%20b%zz"),
        ("https://example.com?x=1", "https://example.com/?x=1"),
        ("https://example.com/?", "https://example.com/?"),
        ("https://example.com/../a//b/./c", "https://example.com/../a//b/./c"),
    ],
)
def test_a_url_has_one_spelling(url: str, canonical: str) -> None:
    assert parse_url(url).url == canonical


def test_the_port_is_that_of_the_scheme_unless_told() -> None:
    assert [parse_url(url).port for url in ("http://a.b", "https://a.b", "https://a.b:8443")] == [80, 443, 8443]


def test_the_authority_names_the_port_only_where_the_scheme_has_another() -> None:
    assert [parse_url(url).authority for url in ("http://a.b:443", "https://[::1]:443")] == ["a.b:443", "[::1]"]


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://user@example.com/", "user name"),
        ("https://user:password@example.com/", "user name"),
        ("https://example.com@127.0.0.1/", "user name"),
        ("https://@example.com/", "user name"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com#@127.0.0.1/", "fragment"),
        ("https://example.com\\@127.0.0.1/", "backslashes"),
        ("https:\\\\example.com/", "backslashes"),
        ("https://exam\nple.com/", "control"),
        ("https://example.com/\r\nHost: inner", "control"),
        ("https://example.com/\x00", "control"),
        ("https://example.com/\x7f", "control"),
        ("https://example.com/\u2028", "control"),
        (" https://example.com/", "control"),
        ("https://example.com/ ", "control"),
        ("https://exa\tmple.com/", "control"),
        ("https://example.com:0/", "port"),
        ("https://example.com:65536/", "port"),
        ("https://example.com:-1/", "port"),
        ("https://example.com:+443/", "port"),
        ("https://example.com:４４３/", "port"),
        ("https://example.com:4 43/", "port"),
        ("https://example.com:443:444/", "port"),
        ("https://[::1]443/", "brackets"),
        ("https:///path", "host"),
        ("https://:443/", "host"),
        ("https://", "host"),
        ("https://?x", "host"),
        ("https:example.com", "begin with"),
        ("//example.com/", "begin with"),
        ("example.com", "begin with"),
        ("", "begin with"),
        ("ftp://example.com/", "begin with"),
        ("file:///etc/passwd", "begin with"),
        ("gopher://example.com/", "begin with"),
        ("javascript://example.com/", "begin with"),
        ("https://2130706433/", "host"),
        ("https://example.com/" + "a" * 2048, "2048"),
        ("https://example.com/" + "ü" * 1100, "2048"),
        ("https://example.com/\ud800", "Unicode"),
    ],
)
def test_a_url_that_readers_disagree_about_is_refused_with_a_sentence(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refusal:
        parse_url(url)
    assert str(refusal.value).endswith(".")


@given(st.text(max_size=60))
@settings(max_examples=200)
def test_any_text_is_a_url_of_printable_ascii_or_a_refusal(text: str) -> None:
    try:
        parts = parse_url("https://example.com/" + text)
    except ValueError:
        return
    assert parts.host == "example.com"
    assert parts.url.isascii()
    assert all(character.isprintable() and character != " " for character in parts.url)


@pytest.mark.parametrize(
    ("entries", "host", "port", "has"),
    [
        ("radicale", "radicale", 5232, True),
        ("radicale:5232", "radicale", 5232, True),
        ("radicale:5232", "radicale", 80, False),
        ("Radicale.Intern.", "radicale.intern", 443, True),
        ("münchen.intern", "xn--mnchen-3ya.intern", 443, True),
        ("radicale", "radicale.example.com", 443, False),
        ("example.com", "a.example.com", 443, False),
        (" a , b:80 ,", "b", 80, True),
        ("", "a", 80, False),
        ("10.0.0.0/8", "10.0.0.1", 80, False),
    ],
)
def test_a_host_entry_names_exactly_that_host_and_port(entries: str, host: str, port: int, has: bool) -> None:
    assert AllowList.parse(entries).has_host(host, port) is has


@pytest.mark.parametrize(
    ("entries", "address", "port", "has"),
    [
        ("10.0.0.0/8", "10.1.2.3", 80, True),
        ("10.0.0.0/8", "11.0.0.1", 80, False),
        ("10.0.0.0/8:8443", "10.1.2.3", 8443, True),
        ("10.0.0.0/8:8443", "10.1.2.3", 80, False),
        ("127.0.0.1", "127.0.0.1", 1, True),
        ("127.0.0.1", "127.0.0.2", 1, False),
        ("127.0.0.1:5232", "127.0.0.1", 5232, True),
        ("127.0.0.1:5232", "127.0.0.1", 5233, False),
        ("::1", "::1", 443, True),
        ("[::1]", "::1", 443, True),
        ("[::1]:5232", "::1", 5232, True),
        ("[::1]:5232", "::1", 5233, False),
        ("fd00::/8", "fd12::1", 443, True),
        ("[fd00::/8]:443", "fd12::1", 443, True),
        ("[fd00::/8]:443", "fd12::1", 444, False),
        ("[fd00::]/8:443", "fd12::1", 443, True),
        ("10.0.0.0/8", "::ffff:10.0.0.1", 443, True),
        ("::ffff:10.0.0.1", "10.0.0.1", 443, True),
        ("::ffff:10.0.0.0/104", "10.0.0.1", 443, True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", 443, False),
        ("10.0.0.0/8", "64:ff9b::10.0.0.1", 443, False),
        ("0.0.0.0/0", "::1", 443, False),
        ("a,10.0.0.0/8,b", "10.0.0.1", 443, True),
    ],
)
def test_a_network_entry_contains_its_addresses_at_its_port(entries: str, address: str, port: int, has: bool) -> None:
    assert AllowList.parse(entries).has_address(parse_address(address), port) is has


@pytest.mark.parametrize(
    "entries",
    [
        "10.0.0.5/8",
        "10.0.0.0/33",
        "10.0.0.0/x",
        "*.example.com",
        "https://example.com",
        "example.com/",
        "example.com:",
        "example.com:0",
        "example.com:99999",
        "example.com:https",
        "[::1]x",
        "[::1",
        "[127.0.0.1]:80",
        "[fd00::1/8]",
        "fe80::1%eth0",
        "127.1",
        "a b",
        "radicale;127.0.0.1",
    ],
)
def test_an_entry_that_cannot_be_meant_is_refused_and_named(entries: str) -> None:
    with pytest.raises(ValueError, match=r"^`.*` .*\.") as refusal:
        AllowList.parse("good.example," + entries)
    assert entries in str(refusal.value)
