"""The door to the package ``caldav``: bodies of requests, and what multistatus answers (RFC 4918 section 13) say.

Its elements are used, its clients are not: they open connections of their own, follow redirects and hrefs wherever they
lead, and change the spelling of hrefs. Nothing here touches the network.

An answer is looked through before it is parsed: no document type, no entities, bounded depth and size, well-formed to
its last byte. Whatever is not a whole multistatus raises ``ProviderUnavailable``; it is never taken for an empty one.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar, NamedTuple
from xml.parsers import expat

from caldav.elements import cdav, dav
from caldav.elements.base import BaseElement
from lxml import etree

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.egress_share import too_many_large

# The package would write what passes through it to the log.
logging.getLogger("caldav").setLevel(logging.CRITICAL)

DEPTH_MOST = 60
"""Levels of XML in an answer."""
ELEMENTS_MOST = 300_000
"""Elements, attributes, comments and instructions in an answer. Each costs memory many times its length."""
BESIDE_MEMBERS = 20
"""Elements of a multistatus that need not be members: the collection itself, a token, words for people."""
HREF_MOST = 4_000
"""Characters of the place that a response is about."""
TAG_MOST = 500_000
"""Bytes between two things that a parser tells: of a tag with all its attributes, or a comment."""
_PIECE = 64 * 1024
LARGE = 500_000
"""Bytes from which on an answer is a large one: its tree may take twenty times its length."""
LARGE_WAIT_S = 10.0
"""Seconds that a large answer waits for its turn."""
XML_TYPE = "application/xml; charset=utf-8"

DAV = "{DAV:}"
CALDAV = "{urn:ietf:params:xml:ns:caldav}"
APPLE = "{http://apple.com/ns/ical/}"
CALENDARSERVER = "{http://calendarserver.org/ns/}"
NEXTCLOUD = "{http://nextcloud.com/ns}"


class _PrincipalUrl(BaseElement):
    tag: ClassVar[str] = DAV + "principal-URL"


class _CTag(BaseElement):
    tag: ClassVar[str] = CALENDARSERVER + "getctag"


class _ContentType(BaseElement):
    tag: ClassVar[str] = DAV + "getcontenttype"


class _DefaultCalendarUrl(BaseElement):
    tag: ClassVar[str] = CALDAV + "schedule-default-calendar-URL"


class _Transparency(BaseElement):
    tag: ClassVar[str] = CALDAV + "schedule-calendar-transp"


class _MinDateTime(BaseElement):
    tag: ClassVar[str] = CALDAV + "min-date-time"


class _MaxDateTime(BaseElement):
    tag: ClassVar[str] = CALDAV + "max-date-time"


class _TimeZoneId(BaseElement):
    tag: ClassVar[str] = CALDAV + "calendar-timezone-id"


class _Color(BaseElement):
    tag: ClassVar[str] = APPLE + "calendar-color"


_ELEMENTS: dict[str, type[BaseElement]] = {
    element.tag: element
    for element in (
        dav.CurrentUserPrincipal,
        dav.CurrentUserPrivilegeSet,
        dav.DisplayName,
        dav.GetEtag,
        dav.Owner,
        dav.ResourceType,
        dav.SyncToken,
        cdav.CalendarData,
        cdav.CalendarHomeSet,
        cdav.CalendarTimeZone,
        cdav.CalendarUserAddressSet,
        cdav.ScheduleInboxURL,
        cdav.SupportedCalendarComponentSet,
        _CTag,
        _Color,
        _ContentType,
        _DefaultCalendarUrl,
        _MaxDateTime,
        _MinDateTime,
        _PrincipalUrl,
        _TimeZoneId,
        _Transparency,
    )
}

PRINCIPAL = dav.CurrentUserPrincipal.tag
PRIVILEGES = dav.CurrentUserPrivilegeSet.tag
NAME = dav.DisplayName.tag
ETAG = dav.GetEtag.tag
OWNER = dav.Owner.tag
RESOURCE_TYPE = dav.ResourceType.tag
DATA = cdav.CalendarData.tag
HOME_SET = cdav.CalendarHomeSet.tag
TIME_ZONE = cdav.CalendarTimeZone.tag
ADDRESSES = cdav.CalendarUserAddressSet.tag
INBOX = cdav.ScheduleInboxURL.tag
COMPONENTS = cdav.SupportedCalendarComponentSet.tag
COLOR = _Color.tag
CONTENT_TYPE = _ContentType.tag
CTAG = _CTag.tag
DEFAULT_CALENDAR = _DefaultCalendarUrl.tag
PRINCIPAL_URL = _PrincipalUrl.tag
MIN_TIME = _MinDateTime.tag
MAX_TIME = _MaxDateTime.tag
SYNC_TOKEN = dav.SyncToken.tag
TIME_ZONE_ID = _TimeZoneId.tag
TRANSPARENCY = _Transparency.tag
SIGNALS = (CTAG, SYNC_TOKEN)
"""Properties that change with every change in a calendar."""

HREF = dav.Href.tag
_PROPSTAT, _PROP, _STATUS, _ERROR = dav.PropStat.tag, dav.Prop.tag, dav.Status.tag, DAV + "error"
UNAUTHENTICATED = DAV + "unauthenticated"
COLLECTION = dav.Collection.tag
CALENDAR = cdav.Calendar.tag


# Bodies of requests


def propfind(properties: Iterable[str]) -> bytes:
    """PROPFIND (RFC 4918 section 9.1) of these properties."""
    return _propfind(tuple(properties))


@lru_cache(maxsize=64)
def _propfind(properties: tuple[str, ...]) -> bytes:
    # Few differ, and to build one costs more than to send it.
    return _bytes(_with(dav.Propfind(), _prop(properties)))


@lru_cache(maxsize=64)
def calendar_query(uid: str = "") -> bytes:
    """REPORT calendar-query (RFC 4791 section 7.8) of all events with their text, or of those with a UID.

    Never with a time range, which misses series at several servers, and never with ``expand``.
    """
    carries = [_with(cdav.PropFilter("UID"), cdav.TextMatch(uid))] if uid else []
    event = _with(cdav.CompFilter("VEVENT"), *carries)
    condition = _with(cdav.Filter(), _with(cdav.CompFilter("VCALENDAR"), event))
    return _bytes(_with(cdav.CalendarQuery(), _prop((ETAG, DATA)), condition))


def calendar_multiget(hrefs: Iterable[str]) -> bytes:
    """REPORT calendar-multiget (RFC 4791 section 7.9) of these resources with their text."""
    wanted: list[BaseElement] = []
    for href in hrefs:
        element = dav.Href()
        element.value = href
        wanted.append(element)
    return _bytes(_with(cdav.CalendarMultiGet(), _prop((ETAG, DATA)), *wanted))


def sync_collection(token: str) -> bytes:
    """REPORT sync-collection (RFC 6578 section 3.2): what has changed since ``token``.

    Never with a limit: some servers cut at it without saying so.
    """
    since, level = dav.SyncToken(), dav.SyncLevel()
    since.value, level.value = token, "1"
    return _bytes(_with(dav.SyncCollection(), since, level, _prop((ETAG, RESOURCE_TYPE, CONTENT_TYPE))))


def _prop(tags: Iterable[str]) -> BaseElement:
    return _with(dav.Prop(), *(_ELEMENTS[tag]() for tag in tags))


def _with(parent: BaseElement, *children: BaseElement) -> BaseElement:
    return parent + children


def _bytes(element: BaseElement) -> bytes:
    text: bytes = etree.tostring(element.xmlelement(), encoding="utf-8", xml_declaration=True)
    return text


# Answers


class Property(NamedTuple):
    """One property of a resource, as flat as we ever need it. A tuple: an answer has thousands."""

    text: str
    """The text of the element itself."""
    hrefs: tuple[str, ...] = ()
    """The texts of all ``DAV:href`` in it."""
    tags: frozenset[str] = frozenset()
    """The names of all elements in it."""
    names: tuple[str, ...] = ()
    """The ``name`` attributes of all elements in it."""


class Member(NamedTuple):
    """What a multistatus says of one resource.

    ``status`` is the one of the resource as a whole, None where its properties have their own. ``found`` are the
    properties that came with 2xx, ``failed`` the status of the others. ``errors`` names elements of ``DAV:error``.
    """

    href: str
    status: int | None
    found: Mapping[str, Property] = MappingProxyType({})
    failed: Mapping[str, int] = MappingProxyType({})
    errors: frozenset[str] = frozenset()

    @property
    def gone(self) -> bool:
        """Whether the server says that it is not there."""
        return self.status in (404, 410)

    @property
    def broken(self) -> bool:
        """Whether the server says that it could not or would not answer for the resource as a whole."""
        return self.status is not None and not 200 <= self.status < 300 and not self.gone

    def text(self, tag: str) -> str:
        """The trimmed text of a property, empty if it is not there."""
        return self.found[tag].text.strip() if tag in self.found else ""

    def hrefs(self, tag: str) -> tuple[str, ...]:
        """The hrefs in a property."""
        return self.found[tag].hrefs if tag in self.found else ()


def multistatus(body: bytes, status: int, most: int = ELEMENTS_MOST) -> tuple[Member, ...]:
    """The members of a multistatus answer, in its order.

    Raises ``ProviderUnavailable`` if it is not a whole one, or tells of far more than ``most``.
    """
    return synced(body, status, most)[0]


def synced(body: bytes, status: int, most: int = ELEMENTS_MOST) -> tuple[tuple[Member, ...], str]:
    """As ``multistatus``, and the sync token that stands in it (RFC 6578 section 6.3); empty if there is none."""
    if status not in (200, 207):
        raise ProviderUnavailable(f"The server answered with status {status} where a list was asked for.")
    with turn(body):
        tree = _tree(body)
        if tree.tag != dav.MultiStatus.tag:
            raise ProviderUnavailable("The server's answer is not the list that was asked for.")
        if len(tree) > most + BESIDE_MEMBERS:
            # Before anything is made of them.
            raise _too_long()
        members = tuple(_member(element) for element in tree if element.tag == dav.Response.tag)
        return members, (tree.findtext(SYNC_TOKEN) or "").strip()


def error_names(body: bytes) -> tuple[frozenset[str], tuple[str, ...]]:
    """What preconditions a ``DAV:error`` body names (RFC 4918 section 16), and the hrefs in it; empty if it is none."""
    try:
        with turn(body):
            tree = _tree(body)
    except ProviderUnavailable:
        return frozenset(), ()
    if tree.tag != _ERROR:
        return frozenset(), ()
    flat = _property(tree)
    return flat.tags, flat.hrefs


class _Turns:
    """Large answers are taken in one after the other, and each is followed by a rest as long as it took.

    More at once would not be quicker, for the interpreter runs one thread at a time, but take memory without a bound;
    without the rest servers that send one after the other would have the interpreter for themselves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rests_until = 0.0

    @contextmanager
    def turn(self, wait_s: float) -> Iterator[None]:
        end = time.monotonic() + wait_s
        if not self._lock.acquire(timeout=wait_s):
            raise too_many_large()
        try:
            rest_s = self._rests_until - time.monotonic()
            if rest_s > end - time.monotonic():
                raise too_many_large()
            if rest_s > 0:
                time.sleep(rest_s)
            began = time.thread_time()
            try:
                yield
            finally:
                self._rests_until = time.monotonic() + time.thread_time() - began
        finally:
            self._lock.release()


_turns = _Turns()


def turn(body: bytes, wait_s: float = LARGE_WAIT_S) -> AbstractContextManager[None]:
    """Around taking in an answer: large ones wait for each other. ``ProviderUnavailable`` if that takes too long."""
    return nullcontext() if len(body) < LARGE else _turns.turn(wait_s)


def _tree(body: bytes) -> etree._Element:
    body = body.removeprefix(_UTF8_MARK).lstrip(b" \t\r\n")
    if not body:
        raise ProviderUnavailable("The server's answer is empty.")
    plain = _is_plain(body)
    tree = _parsed(body) if plain else None
    if tree is None:
        # What XML forbids but servers pass on is rare. To look for it first, in all answers, would cost as much as parsing.
        cleaned = _cleaned(body)
        if not plain:
            _look_through(cleaned)
        tree = _parsed(cleaned)
    if tree is None:
        raise ProviderUnavailable("The server's answer is cut short or not XML.")
    if plain and _too_deep(tree):
        raise _too_long()
    return tree


_too_deep = etree.XPath(f"boolean({'/*' * (DEPTH_MOST + 1)})")


def _parsed(body: bytes) -> etree._Element | None:
    """The tree, by libxml2 and beside other threads; None for what is not well-formed."""
    parser = etree.XMLParser(remove_blank_text=True, resolve_entities=False, no_network=True)
    try:
        return etree.fromstring(body, parser)
    except etree.XMLSyntaxError:
        return None


def _is_plain(body: bytes) -> bool:
    """Whether a document can be none of those that have to be refused before a tree is made of it, but for its depth:
    it has few elements, nothing that begins as a document type does, and is UTF-8.

    Nearly all are. To look through one costs as much as all else about it; the parser itself then tells whether it is
    well-formed to its last byte. Raises ``ProviderUnavailable`` for what has too many elements for any way of reading it.
    """
    declared = _DECLARATION.match(body)
    if body[:2] in _UTF16_MARKS or not (
        # Another declaration than these may name any encoding.
        declared[1].lower() in _UTF8_NAMES if declared else not body.startswith(b"<?xml") or _NO_ENCODING.match(body)
    ):
        return False
    bare = _without_cdata(body)
    marks = _count(bare, b"<", 2 * ELEMENTS_MOST)
    if marks > ELEMENTS_MOST and marks - _count(bare, b"</") > ELEMENTS_MOST:
        # No element ends more often than once.
        raise _too_long()
    # Comments may hold what only looks like an element; they, and instructions, what only looks like a CDATA section.
    hides = b"<!" in bare or (bare is not body and bare.count(b"<?") > bare.startswith(b"<?xml"))
    return not hides and marks + _count(bare, b"=") <= ELEMENTS_MOST


def _count(body: bytes, mark: bytes, most: int = sys.maxsize) -> int:
    """How often the mark is there, by and by: other threads wait while one goes through megabytes. Ends beyond ``most``."""
    found = 0
    for start in range(0, len(body), _PIECE):
        # A mark of two bytes may lie across two pieces, and in one of them only then.
        found += body.count(mark, start, start + _PIECE + len(mark) - 1)
        if found > most:
            break
    return found


def _without_cdata(body: bytes) -> bytes:
    """The document without its CDATA sections, in which marks of elements are none; the last may be open."""
    at = body.find(b"<![CDATA[")
    if at < 0:
        return body
    kept, end = [], 0
    while at >= 0:
        kept.append(body[end:at])
        closed = body.find(b"]]>", at)
        if closed < 0:
            return b"".join(kept)
        end = closed + 3
        at = body.find(b"<![CDATA[", end)
    kept.append(body[end:])
    return b"".join(kept)


_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_UTF8_NAMES = (b"utf-8", b"utf8", b"us-ascii")
_UTF8_MARK = b"\xef\xbb\xbf"
_DECLARATION = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"'][^>]{0,200}?\?>")
_NO_ENCODING = re.compile(rb"<\?xml version=[\"']1\.0[\"'] ?\?>")
_CONTROLS = bytes(set(range(0x20)) - {0x09, 0x0A, 0x0D})
_TO_SPACES = bytes.maketrans(_CONTROLS, b" " * len(_CONTROLS))
_CONTROL_REFERENCE = re.compile(rb"&#(?:0*(?:[0-8]|1[124-9]|2[0-9]|3[01])|[xX]0*(?:[0-8bceBCEfF]|1[0-9a-fA-F]));")


def _cleaned(body: bytes) -> bytes:
    """The document without what XML forbids but servers pass on from the text of one event, which is no reason to lose
    all: control characters, and bytes that are not the UTF-8 they claim to be."""
    body = body.removeprefix(_UTF8_MARK).lstrip(b" \t\r\n")
    declared = _DECLARATION.match(body)
    if body[:2] in _UTF16_MARKS or (declared and declared[1].lower() not in _UTF8_NAMES):
        return body
    body = _CONTROL_REFERENCE.sub(b" ", body.translate(_TO_SPACES))
    try:
        body.decode()
    except UnicodeDecodeError:
        body = body.decode("utf-8", "replace").encode()
    return body


def _look_through(body: bytes) -> None:
    """Refuse documents that are not well-formed, have a type or entities of their own, or are too deep or too many."""
    depth = elements = 0

    def open_element(name: str, attributes: list[str]) -> None:
        nonlocal depth
        depth += 1
        count(1 + len(attributes) // 2)

    def count(more: int) -> None:
        nonlocal elements
        elements += more
        if depth > DEPTH_MOST or elements > ELEMENTS_MOST:
            raise _too_long()

    def close_element(name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*told: object) -> None:
        raise ProviderUnavailable("The server's answer has a document type, which is not accepted.")

    parser = expat.ParserCreate()
    parser.ordered_attributes = True
    parser.CommentHandler = lambda text: count(1)
    parser.ProcessingInstructionHandler = lambda target, text: count(1)
    parser.StartElementHandler = open_element
    parser.EndElementHandler = close_element
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        for position in range(0, len(body), _PIECE):
            parser.Parse(body[position : position + _PIECE], False)
            if position - max(parser.CurrentByteIndex, 0) > TAG_MOST:
                # All attributes of a tag are taken in before anything is told of it.
                raise _too_long()
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ProviderUnavailable("The server's answer is cut short or not XML.") from error


def _too_long() -> ProviderUnavailable:
    return ProviderUnavailable("The server's answer is too deep or too long to be read.")


def _member(response: etree._Element) -> Member:
    # Child by child: to search for each thing by its name costs several times as much.
    href = status = errors = None
    propstats: list[etree._Element] = []
    for child in response:
        tag = child.tag
        if tag == _PROPSTAT:
            propstats.append(child)
        elif tag == HREF and href is None:
            href = child.text or ""
        elif tag == _STATUS and status is None:
            status = child.text or ""
        elif tag == _ERROR and errors is None:
            errors = child
    href = (href or "").strip()
    if not href:
        raise ProviderUnavailable("The server's answer leaves out what it is about.")
    if len(href) > HREF_MOST:
        raise ProviderUnavailable("The server's names for its things are longer than this service reads.")
    found: dict[str, Property] = {}
    failed: dict[str, int] = {}
    for propstat in propstats:
        _take_propstat(propstat, found, failed)
    return Member(
        href,
        _status(status),
        found,
        {tag: code for tag, code in failed.items() if tag not in found} if failed else failed,
        _property(errors).tags if errors is not None else frozenset(),
    )


def _take_propstat(propstat: etree._Element, found: dict[str, Property], failed: dict[str, int]) -> None:
    told = None
    props: list[etree._Element] = []
    for child in propstat:
        tag = child.tag
        if tag == _PROP:
            props.append(child)
        elif tag == _STATUS and told is None:
            told = child.text or ""
    status = _status(told)
    for prop in props:
        for element in prop:
            tag = element.tag
            if not isinstance(tag, str):
                continue  # a comment or an instruction
            # Some servers leave the status out where all is well.
            if status is None or 200 <= status < 300:
                found[tag] = _property(element)
            else:
                failed[tag] = status


def _status(text: str | None) -> int | None:
    """The code of a status line; 500 for one that cannot be read."""
    if text is None:
        return None
    if text == "HTTP/1.1 200 OK":
        return 200  # nearly always
    told = re.fullmatch(r"\s*HTTP/\S+\s+([1-5][0-9][0-9])(\s.*)?", text, re.DOTALL)
    return int(told[1]) if told else 500


def _plain(text: str) -> Property:
    """A property that is nothing but a text, made in half the time that its own way takes."""
    return _tuple(Property, (text, (), frozenset(), ()))


_tuple: Callable[[type[Property], tuple[str, tuple[str, ...], frozenset[str], tuple[str, ...]]], Property] = (
    tuple.__new__
)


def _property(element: etree._Element) -> Property:
    if not len(element):
        # Most are plain texts.
        return _plain(element.text or "")
    inner = list(_elements(element, deep=True))
    own = (element.text or "") + "".join(child.tail or "" for child in element)
    return Property(
        text=own,
        hrefs=tuple((child.text or "").strip() for child in inner if child.tag == HREF and (child.text or "").strip()),
        tags=frozenset(child.tag for child in inner),
        names=tuple(name for child in inner if (name := child.get("name"))),
    )


def _elements(element: etree._Element, *, deep: bool = False) -> Iterator[etree._Element]:
    """The elements in an element, without comments and processing instructions."""
    for child in element.iterdescendants() if deep else element:
        if isinstance(child.tag, str):
            yield child
