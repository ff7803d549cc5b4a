"""Where things are at a CalDAV server: origins, paths, and the ids that we make of hrefs.

Vocabulary
    href    what a server writes: an absolute path, a relative one, or a full URL, percent-encoded as it likes.
    origin  scheme, host and port: where a password may go.
    id      what we store: the path as the server spells it; a full URL only on another origin than the account's.

Two spellings of one path name one resource; ``canonical`` makes them equal, and is only ever used to compare.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote, urljoin, urlsplit

from calendar_server.core.model import Preset
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.addresses import is_inner_name, parse_url

_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]+")
_PLAIN_PATH = re.compile(r"/(?:(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)")
_CANONICAL_PATH = re.compile(r"/|(?:/[A-Za-z0-9_~@-][A-Za-z0-9._~@-]*)+/?")
_DNS_NAME = re.compile(r"(?=.{4,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")

URL_BYTES_MOST = 2048
"""Of what a server names, too. Ids are made of it, which are stored, compared, and told in errors."""
APPLE_SUFFIX = ".icloud.com"


class BadHref(ProviderUnavailable):
    """Something that is not an http(s) address, or carries a user name. Nothing that a server names so is visited."""

    def __init__(self) -> None:
        super().__init__("The server names an address that cannot be visited.")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, lower-case host (IPv6 without brackets) and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an absolute URL. Raises ``BadHref``."""
        return _origin(url)

    @property
    def authority(self) -> str:
        """``host:port``, always with the port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}")

    @property
    def public_name(self) -> str:
        """The URL of this origin if that says nothing about an inner network; else empty."""
        told = self.scheme == "https" and _DNS_NAME.fullmatch(self.host) and not is_inner_name(self.host)
        return f"{self}/" if told else ""


@lru_cache(maxsize=512)
def _origin(url: str) -> Origin:
    try:
        parts = parse_url(url.partition("#")[0], bytes_max=URL_BYTES_MOST)
    except ValueError as error:
        raise BadHref from error
    return Origin(parts.scheme, parts.host, parts.port)


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the password of an account may go: its own origin, and what its preset names besides."""

    origin: Origin
    preset: Preset

    def allows(self, origin: Origin) -> bool:
        """Whether the password may go there."""
        if origin == self.origin:
            return True
        # Apple spreads accounts over pNN-caldav.icloud.com.
        return (
            self.preset is Preset.APPLE
            and origin.scheme == "https"
            and origin.port == 443
            and origin.host.endswith(APPLE_SUFFIX)
        )

    def locate(self, href: str, at: str) -> str:
        """The absolute URL that ``href`` means in an answer from the URL ``at``. Raises ``BadHref``.

        A full URL with the same host name but another scheme or port is what servers behind a proxy write who do not
        know their outer address: its path is taken at the origin that we talk to.
        """
        url = self.locate_strictly(href, at)
        origin, here = Origin.of(url), Origin.of(at)
        return f"{here}{url[len(str(origin)) :]}" if origin.host == here.host else url

    def locate_strictly(self, location: str, at: str) -> str:
        """As ``locate``, for redirects: another scheme or port is another place, as it says. Raises ``BadHref``."""
        if len(location) > URL_BYTES_MOST:
            # Dot segments would make it shorter, at a cost.
            raise BadHref
        # Spaces and letters outside ASCII have no place in a URL, but some servers write them.
        location = quote(location.strip(), safe="%/:?#[]@!$&'()*+,;=~-._")
        at_host = urlsplit(at).netloc
        if (
            location.startswith("//")
            and urlsplit(location).netloc.lower() != at_host.lower()
            and "." not in (urlsplit(location).netloc)
        ):
            # Not a network path (RFC 3986 section 4.2) but a path whose first segment is empty, as sloppy servers join.
            location = "/" + location.lstrip("/")
        try:
            url = urljoin(at, location)
        except ValueError as error:
            raise BadHref from error
        parts = urlsplit(url)
        return f"{Origin.of(url)}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")

    def id_of(self, url: str, href: str = "") -> str:
        """The id of what is at an absolute URL: the path, spelled as in ``href`` where that is given."""
        path = _path_as_spelled(href) or urlsplit(url).path
        if urlsplit(url).query:
            path += f"?{urlsplit(url).query}"
        origin = Origin.of(url)
        return path if origin == self.origin else f"{origin}{path}"

    def id_in(self, href: str, at: str) -> str:
        """The id of an href in an answer from the URL ``at``. What cannot be visited keeps its spelling: such an id is
        only ever compared. One over ``URL_BYTES_MOST`` is cut, and not found anywhere."""
        href = href[: URL_BYTES_MOST + 1]
        if _is_plain(href) and Origin.of(at) == self.origin:
            return href
        try:
            return self.id_of(self.locate(href, at), href)
        except BadHref:
            return href

    def url_of(self, id: str) -> str:
        """The absolute URL behind an id."""
        return f"{self.origin}{id}" if _is_plain(id) else self.locate(id, f"{self.origin}/")


def _is_plain(href: str) -> bool:
    """Whether it is a path that means just what it says, which nearly all are."""
    return len(href) <= URL_BYTES_MOST and _PLAIN_PATH.fullmatch(href) is not None and "/." not in href


def _path_as_spelled(href: str) -> str:
    """The absolute path in an href, letter by letter; empty if it has none."""
    href = href.strip()
    if href.startswith("/"):
        path = "/" + href.lstrip("/")
    elif re.match(r"https?://[^/?#]+/", href, re.IGNORECASE):
        path = "/" + href.split("/", 3)[3]
    else:
        return ""
    return re.split(r"[?#]", path, maxsplit=1)[0]


def canonical(path_or_url: str) -> str:
    """One spelling for all spellings of a path: percent-decoded, no dot segments, no final slash, no empty segments.

    A full URL keeps its origin in front.
    """
    if _CANONICAL_PATH.fullmatch(path_or_url):
        return path_or_url.removesuffix("/") or "/"  # what nearly all of them are
    front = ""
    if re.match(r"https?://", path_or_url, re.IGNORECASE):
        front, path_or_url = str(Origin.of(path_or_url)), urlsplit(path_or_url).path
    segments: list[str] = []
    for escaped in path_or_url.split("/"):
        segment = unquote(escaped).replace("/", "%2F")  # an escaped slash is a letter of its segment
        if segment in ("", "."):
            continue
        if segment == "..":
            del segments[-1:]
            continue
        segments.append(segment)
    return front + "/" + "/".join(segments)


def collection_id(id: str) -> str:
    """The id of a collection ends with a slash, whether or not the server wrote it."""
    return id if id.endswith("/") else id + "/"


def member_id(calendar_id: str, found_id: str) -> str:
    """The id of a member of a calendar, one and the same however the server spells the path before its last segment."""
    if found_id.startswith(calendar_id) and calendar_id.endswith("/"):
        plain = found_id[len(calendar_id) :]
        if _UNRESERVED.fullmatch(plain) and plain not in (".", ".."):
            return found_id  # what nearly all of them are
    here, there = canonical(calendar_id), canonical(found_id)
    parent, _, name = there.rpartition("/")
    if parent != here.rstrip("/") or not name:
        return found_id
    spelled = found_id.rstrip("/").rpartition("/")[2]
    # RFC 3986 section 6.2.2.2: escapes of unreserved characters mean the characters themselves.
    if _UNRESERVED.fullmatch(name) or unquote(spelled) != name:
        spelled = quote(name, safe="~@:!$&'()*+,;=") if not _UNRESERVED.fullmatch(name) else name
    return calendar_id + spelled
