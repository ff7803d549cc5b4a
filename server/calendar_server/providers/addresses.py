"""Hosts, URLs and addresses: their one spelling, and which of them strangers may name. Pure: nothing is looked up here.

Vocabulary
    host     a name in its canonical form (lower case, A-labels of IDNA, no dot at its end) or an IP address
    public   an address that is globally reachable by the special-purpose registries of IANA (RFC 6890)
    allowed  named by an entry of the operator's allow-list, whether public or not
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

import idna

URL_BYTES_MAX = 2048
HOST_CHARACTERS_MAX = 253

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# https://www.iana.org/assignments/iana-ipv4-special-registry: what is not globally reachable, with multicast and
# reserved space. Written out because the verdict of the standard library differs between patch releases of Python.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network: Linux dials the own host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and the metadata address of one cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # looks public, but is the inner service address of every machine at Azure
        "169.254.0.0/16",  # link-local, with the metadata address of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation, as are 198.51.100.0/24 and 203.0.113.0/24
        "192.88.99.0/24",  # relays of 6to4, withdrawn by RFC 7526
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Only 2000::/3 is unicast that the internet routes (RFC 4291 §2.4). Outside of it lie loopback, v4-compatible (::/96),
# v4-mapped, SIIT (::ffff:0:0:0/96), local NAT64 (64:ff9b:1::/48), unique, site- and link-local addresses, multicast.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo, benchmarking and ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 leads to the IPv4 address inside, through whatever relay
        "3fff::/20",  # documentation (RFC 9637)
    )
)
# The well-known prefix of NAT64 (RFC 6052 §2.1): how networks without IPv4 reach IPv4 servers. The last 32 bits decide.
_NAT64 = IPv6Network("64:ff9b::/96")

# Suffixes that inner networks use for themselves: by RFC 6762 (local), RFC 8375 (home.arpa), ICANN's reservation
# (internal), and by custom, as RFC 6762 appendix G and the name collisions found by ICANN have it (corp, home, lan, …).
# Not those that no resolver knows by RFC 6761 (example, invalid, test): there is nothing to find out about them.
_INNER_SUFFIXES = (
    ".arpa",
    ".corp",
    ".home",
    ".internal",
    ".intranet",
    ".lan",
    ".local",
    ".localdomain",
    ".localhost",
    ".mail",
    ".private",
    ".svc",
)

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
# Also what the C library reads as an address in decimal, octal, hexadecimal or short form ends in such a label.
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?\Z"
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_address(text: str) -> Address:
    """Read an address; v4-mapped ones become IPv4, which is what they dial. A zone id, too, is a ``ValueError``."""
    if "%" in text:
        raise ValueError("An address with a zone id is of one machine only.")
    address = ipaddress.ip_address(text)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: Address) -> bool:
    """Whether the address is globally reachable. Forms that carry an IPv4 address are public only as public NAT64."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_V6)


def is_inner_name(host: str) -> bool:
    """Whether a canonical name can only be one of an inner network: a single label, or under a suffix of such."""
    return ":" not in host and ("." not in host or host.endswith(_INNER_SUFFIXES))


def canonical_host(host: str) -> str:
    """The one spelling of a host name or address, without brackets. Raises ``ValueError`` with a sentence.

    Names go through IDNA 2008 with the mapping of UTS 46 (which also turns full-width digits and ideographic full stops
    into plain ones). Numbers that only a lenient reader takes for an address (2130706433, 0x7f.1, 127.1, 0177.0.0.1)
    are refused; so are percent signs and zone ids. ``_`` stands because container networks have such names.
    """
    if host.startswith("[") or ":" in host:
        return _canonical_v6(host)
    if len(host) > HOST_CHARACTERS_MAX + 1:
        raise ValueError(f"The host must have at most {HOST_CHARACTERS_MAX} characters.")
    try:
        name = host.lower() if host.isascii() else idna.uts46_remap(host, std3_rules=False, transitional=False)
        name = name.removesuffix(".")
        if not name.isascii():
            name = idna.encode(name).decode("ascii")
    except UnicodeError:
        raise ValueError("The host is not a valid internationalized name.") from None
    if not name:
        raise ValueError("The host must not be empty.")
    labels = name.split(".")
    if _NUMBER.match(labels[-1]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise ValueError("The host must be a name, or an IPv4 address as four decimal numbers.") from None
    if len(name) > HOST_CHARACTERS_MAX or not all(_LABEL.match(label) for label in labels):
        raise ValueError("The host must be a name of letters, digits, hyphens and dots.")
    return name


def _canonical_v6(host: str) -> str:
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        if "%" in inner:
            raise ValueError
        return str(IPv6Address(inner))
    except ValueError:
        raise ValueError("The host must be a valid IPv6 address in brackets, without a zone.") from None


@dataclass(frozen=True, slots=True)
class UrlParts:
    """A validated URL. ``host`` is canonical (IPv6 without brackets), ``port`` explicit, path and query are ASCII."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    query: str | None = None

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port: what the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def target(self) -> str:
        """Path and query: what the request line says."""
        return self.path if self.query is None else f"{self.path}?{self.query}"

    @property
    def url(self) -> str:
        return self.origin + self.target


def parse_url(url: str, *, bytes_max: int = URL_BYTES_MAX) -> UrlParts:
    """Read an absolute http or https URL strictly. Raises ``ValueError`` with one sentence about the first fault.

    Spaces and characters beyond ASCII in path and query are percent-encoded as UTF-8 (RFC 3987 §3.1); nothing else is
    changed there. Readers of URLs differ about backslashes, control characters and user information, so these are
    refused: what is checked must be what is dialled.
    """
    try:
        size = len(url.encode("utf-8"))
    except UnicodeEncodeError:
        raise ValueError("The URL must be valid Unicode.") from None
    if size > bytes_max:
        raise ValueError(f"The URL must have at most {bytes_max} bytes.")
    if any(not character.isprintable() for character in url) or url != url.strip():
        raise ValueError("The URL must not contain control characters, line breaks or spaces around it.")
    if "\\" in url:
        raise ValueError("The URL must not contain backslashes.")
    if "#" in url:
        raise ValueError("The URL must not have a fragment.")
    match = _URL.match(url)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in _DEFAULT_PORTS:
        raise ValueError("The URL must begin with https:// (or http://) and a host.")
    if "@" in match["authority"]:
        raise ValueError("The URL must not contain a user name or password.")
    host, port = _split_port(match["authority"])
    query = match["query"]
    return UrlParts(
        scheme="https" if scheme == "https" else "http",
        host=canonical_host(host),
        port=_DEFAULT_PORTS[scheme] if port is None else port,
        path=_encoded(match["path"]) or "/",
        query=None if query is None else _encoded(query),
    )


def _split_port(authority: str) -> tuple[str, int | None]:
    host, colon, digits = authority, "", ""
    if authority.startswith("["):
        host, bracket, rest = authority.partition("]")
        host += bracket
        colon, digits = rest[:1], rest[1:]
        if rest and colon != ":":
            raise ValueError("The host must be a valid IPv6 address in brackets, without a zone.")
    elif ":" in authority:
        host, colon, digits = authority.partition(":")
    if not host:
        raise ValueError("The host must not be empty.")
    # RFC 3986 §3.2.3 allows a colon without a port.
    return host, _port(digits) if digits else None


def _port(digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= 65535):
        raise ValueError("The port must be a number from 1 to 65535.")
    return int(digits)


def _encoded(text: str) -> str:
    if text.isascii() and " " not in text:
        return text
    return "".join(
        character if character.isascii() and character != " " else "".join(f"%{b:02X}" for b in character.encode())
        for character in text
    )


@dataclass(frozen=True, slots=True)
class _Entry:
    """One destination: a host name or a network, at one port or (None) at any."""

    place: str | Network
    port: int | None


@dataclass(frozen=True, slots=True)
class AllowList:
    """The operator's exceptions: destinations that may be reached though they are not public, and over plain http.

    A host entry matches that exact name, whatever it resolves to. A network entry matches addresses, also those that a
    name resolves to. An entry with a port matches that port only.
    """

    entries: tuple[_Entry, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowList:
        """Read ``CIDR`` or ``host``, each with optional ``:port``, comma between. ``ValueError`` has a sentence.

        IPv6 with a port needs brackets: ``[fd00::1]:443``, ``[fd00::/8]:443``. A bare address is a network of one.
        """
        return cls(tuple(_entry(part.strip()) for part in text.split(",") if part.strip()))

    def has_host(self, host: str, port: int) -> bool:
        """Whether an entry names this canonical host."""
        return any(entry.place == host and entry.port in (None, port) for entry in self.entries)

    def has_address(self, address: Address, port: int) -> bool:
        """Whether a network entry contains the address."""
        return any(
            not isinstance(entry.place, str)
            and entry.place.version == address.version
            and address in entry.place
            and entry.port in (None, port)
            for entry in self.entries
        )

    @property
    def has_networks(self) -> bool:
        return any(not isinstance(entry.place, str) for entry in self.entries)


def _entry(text: str) -> _Entry:
    place, digits = text, ""
    if text.startswith("["):
        place, bracket, digits = text[1:].partition("]")
        if digits.startswith("/"):
            prefix, _, digits = digits.partition(":")
            place, digits = place + prefix, ":" + digits if digits else ""
        if not bracket or ":" not in place or (digits and not digits.startswith(":")):
            raise ValueError(f"`{text}` is neither a host nor a CIDR: write an IPv6 port as in [fd00::1]:443.")
        digits = digits[1:]
    elif text.count(":") == 1:
        place, _, digits = text.partition(":")
        if not digits:
            raise ValueError(f"`{text}` ends in a colon: name the port, or leave the colon out.")
    try:
        port = _port(digits) if digits else None
    except ValueError:
        raise ValueError(f"`{text}` has no valid port: it must be a number from 1 to 65535.") from None
    if "/" in place:
        return _Entry(_network(place, text), port)
    try:
        return _Entry(_network(str(parse_address(place)), text), port)
    except ValueError:
        pass
    try:
        return _Entry(canonical_host(place), port)
    except ValueError:
        raise ValueError(f"`{text}` is neither a host name nor a CIDR such as 10.0.0.0/8 or [fd00::/8]:443.") from None


def _network(place: str, text: str) -> Network:
    try:
        network = ipaddress.ip_network(place, strict=False)
    except ValueError:
        raise ValueError(f"`{text}` is not a CIDR such as 10.0.0.0/8, fd00::/8 or [fd00::/8]:443.") from None
    if ipaddress.ip_address(place.partition("/")[0]) != network.network_address:
        raise ValueError(f"`{text}` has bits set beyond its prefix: write {network}, or the address alone.")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None else IPv4Network((mapped, max(0, network.prefixlen - 96)))
