"""A small CalDAV server with memory, in a thread of the test process, that is strange on demand.

It keeps one account (``anna``) with calendars under ``/dav/home/``. Without quirks it is a plain and correct server. A
quirk is switched on by its name (``server.quirks.add("no_put_etag")``) and off again; what each does stands in
``QUIRKS``. ``server.fail("REPORT", 503, …)`` gives whole answers instead. ``server.log`` is what was asked, in order.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import re
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from xml.etree import ElementTree
from xml.sax.saxutils import escape

D = "{DAV:}"
C = "{urn:ietf:params:xml:ns:caldav}"
ElementTree.register_namespace("D", "DAV:")

QUIRKS = {
    # preconditions and versions
    "ignores_preconditions": "If-Match and If-None-Match have no effect",
    "if_match_star_backwards": "If-Match: * fails when the resource is there",
    "demands_if_match": "a change without If-Match is 412",
    "fences_nothing": "If-Match for a DELETE of what is not there is 412, not 404",
    "forbids_the_missing": "a GET or DELETE of what is not there is 403",
    "forbids_the_unknown": "a PUT into a calendar that is not there is 403",
    "no_put_etag": "the answer to a PUT has no ETag",
    "no_get_etag": "the answer to a GET has no ETag",
    "weak_etags": "every ETag is weak and compared by letters",
    "weakening_proxy": "ETags are weakened on the way out, and strong ones expected",
    "incomparable_etags": "every ETag is weak and never matches, as RFC 9110 says",
    "unquoted_etags": "ETags have no quotation marks",
    "no_etags": "there are no ETags at all",
    "rewrites_events": "a PUT keeps something else than was sent, and gives no ETag",
    "strips_x_properties": "a PUT loses properties that begin with X-",
    "renames_events": "a PUT of a new event puts it under another name, and says where",
    "renames_silently": "a PUT of a new event puts it under another name, and does not say so",
    "swallows_events": "a PUT is answered with 201 and forgotten",
    "html_after_put": "a PUT is answered with 200 and a page, and forgotten",
    "one_uid_per_account": "a uid that stands in any other place is refused with no-uid-conflict and its place",
    "uid_conflict_of_cards": "as one_uid_per_account, by the name that it has for address books, without the place",
    "uid_conflict_without_place": "as one_uid_per_account, without the place",
    "uid_conflict_at_its_place": "a PUT of a new event where it stands is 412 with no-uid-conflict and the place as a text",
    "uid_conflict_is_400": "as one_uid_per_account, within the calendar, with a bare 400",
    # discovery
    "no_principal": "there is no current-user-principal",
    "no_home": "the principal has no calendar-home-set",
    "anonymous": "wrong credentials are taken for nobody's: DAV:unauthenticated",
    "no_inbox": "the principal has no inbox",
    "no_root": "nothing but the well-known place, the principal and below answers",
    "no_addresses": "calendar-user-address-set is there and empty",
    "two_homes": "a second home at /more/",
    "lost_home": "a further home that answers 404",
    "not_caldav": "plain WebDAV: no calendars, no such properties",
    # hrefs
    "full_urls": "hrefs are full URLs",
    "wrong_outer_name": "hrefs are full URLs with another scheme and port",
    "other_escapes": "hrefs are percent-encoded more than needed in reports",
    "no_final_slashes": "hrefs of collections have no final slash",
    "double_slashes": "hrefs have empty segments",
    # properties
    "no_components": "supported-calendar-component-set is not known",
    "no_privileges": "current-user-privilege-set is not known",
    "time_zone_at_depth_0": "calendar-timezone is 404 at depth 1",
    "failing_property": "calendar-timezone is 500",
    "failing_bounds": "min-date-time and max-date-time are 500",
    "token_at_depth_0": "sync-token is 500 at depth 1",
    # reading
    "no_calendar_query": "calendar-query is refused with 403 supported-report",
    "search_finds_nothing": "calendar-query for a uid answers nothing",
    "query_without_data": "calendar-query leaves calendar-data out",
    "query_answers_nothing": "calendar-query answers no resource, and says that it went well",
    "query_answers_all": "calendar-query answers every resource, todos too",
    "multiget_forgets": "calendar-multiget leaves the last one out",
    "multiget_404": "calendar-multiget says 404 of every resource whose name begins with gone",
    "list_is_cut": "the calendar's list leaves the last out, and says at its end 507 of the calendar itself",
    "lists_folder": "the calendar has a collection in it",
    "no_multiget": "calendar-multiget is refused with 403 supported-report",
    # what has changed
    "no_ctag": "there is no getctag",
    "no_sync": "there is no sync-token, and no report sync-collection",
    "hashed_signals": "ctag and sync-token are made of what is there: equal states have equal ones, whatever was between",
    "frozen_signals": "ctag and sync-token stay the same whatever happens",
    "clock_signals": "ctag and sync-token are the second of the last change, as put and note tell it",
    "any_token_is_newest": "sync-collection knows of no change since any token",
    "tokens_expire": "sync-collection refuses every token with valid-sync-token",
    "sync_is_cut": "sync-collection tells the first change, and 507 of the calendar itself",
    "sync_without_token": "sync-collection tells the first change, and gives no new token",
    "sync_same_token": "sync-collection tells the first change, and gives the token back that was sent",
    "sync_without_etags": "sync-collection tells no ETags",
    "sync_tells_calendar": "sync-collection tells of the calendar itself too",
    "short_etags": "the ETag is the length of the text",
    # text on the way
    "control_characters": "calendar-data has a control character in it",
    "latin_1_bytes": "calendar-data has a byte in it that is not UTF-8",
    "leading_newline": "answers begin with a line feed",
    # login
    "two_challenges": "401 has two challenges in one header",
    "two_challenge_headers": "401 has two challenges in two headers",
    "no_challenge": "401 has no challenge",
    "digest_only": "Digest instead of Basic",
    "digest_sha256": "Digest with SHA-256",
    "digest_sess": "Digest with MD5-sess",
    "digest_old": "Digest without qop (RFC 2069)",
    "open_to_all": "requests without credentials are answered too",
    "one_use_nonces": "a nonce is good for one request, then stale",
    "replayed_counts_refused": "a nonce count must grow",
}

WORK, HOME, PRINCIPAL, INBOX = "/dav/home/work/", "/dav/home/", "/dav/principals/anna/", "/dav/inbox/"
USERNAME, PASSWORD = "anna", "correct horse"
WRITE = ("read", "write", "write-content", "bind", "unbind")


@dataclass
class Shelf:
    """One calendar. ``properties`` are further ones by name, as XML."""

    name: str = "Work"
    components: tuple[str, ...] = ("VEVENT", "VTODO")
    privileges: tuple[str, ...] = WRITE
    owner: str = PRINCIPAL
    transparent: bool = False
    types: str = ""
    properties: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    """Resources that reports answer with a status of their own."""
    data_statuses: dict[str, int] = field(default_factory=dict)
    """Resources whose calendar-data comes with a status of its own."""
    hidden: set[str] = field(default_factory=set)
    """Resources that calendar-query leaves out."""
    unlisted: set[str] = field(default_factory=set)
    """Resources that the calendar's list leaves out."""
    without_etag: set[str] = field(default_factory=set)
    """Resources that have no ETag."""
    kinds: dict[str, str] = field(default_factory=dict)
    """Resources with a content type of their own."""
    own_status: int = 0
    """The status of the collection itself in reports and lists."""


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: str


@dataclass
class _Whole:
    """A whole answer: status, headers, body; None for a body means to hang up without any answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes | None
    cut: bool = False
    stall: bool = False


class StrangeDav:
    """See the module."""

    def __init__(self) -> None:
        self.quirks: set[str] = set()
        self.log: list[Asked] = []
        self.shelves: dict[str, Shelf] = {WORK: Shelf()}
        self.addresses = ["mailto:anna@example.com", PRINCIPAL]
        self.default_calendar = ""
        self.password = PASSWORD
        self.redirects: dict[str, tuple[int, str]] = {}
        self.refused_logins = 0
        self.clock_ahead_s = 0
        self.port = 0
        self.lock = threading.RLock()
        self.ended = threading.Event()
        self._faults: list[tuple[Callable[[Asked], bool], _Whole, int]] = []
        self._nonces: dict[str, int] = {}
        self._states: dict[str, list[dict[str, str]]] = {}
        self._seconds: dict[str, list[int]] = {}
        """When they came to be."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, path: str, text: str) -> None:
        """Put a resource behind everybody's back."""
        shelf, _, name = path.rpartition("/")
        with self.lock:
            self.shelves[f"{shelf}/"].resources[name] = text
            self.note(path)

    def note(self, path: str) -> None:
        """The calendar of this resource has changed: what it is now is a state of its own, however short it lasts."""
        with self.lock:
            self._state(f"{path.rpartition('/')[0]}/")

    def text(self, path: str) -> str | None:
        """The text of a resource, None if it is not there."""
        shelf, _, name = path.rpartition("/")
        return self.shelves[f"{shelf}/"].resources.get(name)

    def asked(self, method: str) -> list[Asked]:
        """What was asked by this method."""
        return [one for one in self.log if one.method == method]

    def fail(
        self,
        method: str,
        status: int,
        body: bytes | None = b"",
        *,
        path: str = "",
        contains: str = "",
        times: int = 1000,
        headers: tuple[tuple[str, str], ...] = (),
        cut: bool = False,
        stall: bool = False,
    ) -> None:
        """Answer so, to this method on this path (any) with this in its body, the next ``times`` times.

        ``body`` None: hang up. ``cut``: hang up in the middle of the body. ``stall``: say nothing until the server ends.
        """

        def meant(asked: Asked) -> bool:
            return asked.method == method and (not path or asked.path == path) and contains in asked.body

        self._faults.append((meant, _Whole(status, list(headers), body, cut, stall), times))

    def recover(self) -> None:
        """No more of what ``fail`` ordered."""
        self._faults.clear()

    def answer(self, asked: Asked) -> _Whole:
        """What the server says."""
        with self.lock:
            self.log.append(asked)
            for position, (meant, whole, times) in enumerate(self._faults):
                if meant(asked):
                    if times <= 1:
                        del self._faults[position]
                    else:
                        self._faults[position] = (meant, whole, times - 1)
                    return whole
            if asked.path in self.redirects:
                status, location = self.redirects[asked.path]
                return _Whole(status, [("Location", location)] if location else [], b"moved")
            refusal = self._login(asked)
            if refusal:
                return refusal
            verb: Callable[[Asked], _Whole] | None = getattr(self, f"_{asked.method.lower()}", None)
            return verb(asked) if verb else _Whole(405, [], b"")

    # Logging in

    def _login(self, asked: Asked) -> _Whole | None:
        told = asked.headers.get("authorization", "")
        if not told and "open_to_all" in self.quirks:
            return None
        digest = self.quirks & {"digest_only", "digest_sha256", "digest_sess", "digest_old"}
        stale = False
        if digest:
            verdict = self._digest_verdict(asked, told)
            if verdict == "good":
                return None
            stale = verdict == "stale"
        elif told == "Basic " + base64.b64encode(f"{USERNAME}:{self.password}".encode()).decode():
            return None
        elif "anonymous" in self.quirks:
            if asked.method == "PROPFIND":
                prop = "<D:current-user-principal><D:unauthenticated/></D:current-user-principal>"
                return _xml(_multistatus(_response(asked.path, prop)))
            return _Whole(403, [], b"")
        if told and not stale:
            self.refused_logins += 1
        return _Whole(401, self._challenges(stale), b"<html>log in</html>")

    def _challenges(self, stale: bool) -> list[tuple[str, str]]:
        if self.quirks & {"digest_only", "digest_sha256", "digest_sess", "digest_old"}:
            nonce = secrets.token_hex(8)
            self._nonces[nonce] = 0
            algorithm = self._algorithm()
            told = f'Digest realm="strange \\"dav\\"", nonce="{nonce}", opaque="abc", algorithm={algorithm}'
            told += "" if "digest_old" in self.quirks else ', qop="auth,auth-int"'
            return [("WWW-Authenticate", told + (", stale=TRUE" if stale else ""))]
        if "no_challenge" in self.quirks:
            return []
        token, basic = 'X-Token realm="one, two", version=3', 'Basic realm="strange"'
        if "two_challenges" in self.quirks:
            return [("WWW-Authenticate", f"{token}, {basic}")]
        if "two_challenge_headers" in self.quirks:
            return [("WWW-Authenticate", token), ("WWW-Authenticate", basic)]
        return [("WWW-Authenticate", basic)]

    def _algorithm(self) -> str:
        return "SHA-256" if "digest_sha256" in self.quirks else "MD5-sess" if "digest_sess" in self.quirks else "MD5"

    def _digest_verdict(self, asked: Asked, told: str) -> str:
        if not told.startswith("Digest "):
            return "none"
        fields = {
            name: quoted.replace('\\"', '"') or plain
            for name, quoted, plain in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', told)
        }
        nonce = fields.get("nonce", "")
        if nonce not in self._nonces:
            return "stale"
        count = int(fields.get("nc", "1"), 16)
        if "nc" in fields and "replayed_counts_refused" in self.quirks and count <= self._nonces[nonce]:
            return "wrong"
        hashed = hashlib.sha256 if "digest_sha256" in self.quirks else hashlib.md5

        def digest(text: str) -> str:
            return hashed(text.encode()).hexdigest()

        secret = digest(f'{USERNAME}:strange "dav":{self.password}')
        if "digest_sess" in self.quirks:
            secret = digest(f"{secret}:{nonce}:{fields['cnonce']}")
        request = digest(f"{asked.method}:{fields['uri']}")
        if "digest_old" in self.quirks:
            wanted = digest(f"{secret}:{nonce}:{request}")
        else:
            wanted = digest(f"{secret}:{nonce}:{fields['nc']}:{fields['cnonce']}:auth:{request}")
        if fields["response"] != wanted or fields["uri"] != asked.path or fields.get("opaque") != "abc":
            return "wrong"
        self._nonces[nonce] = count
        if "one_use_nonces" in self.quirks:
            del self._nonces[nonce]
        return "good"

    # Verbs

    def _options(self, asked: Asked) -> _Whole:
        return _Whole(200, [("DAV", "1, 2" if "not_caldav" in self.quirks else "1, 2, calendar-access")], b"")

    def _propfind(self, asked: Asked) -> _Whole:
        path = _plain(asked.path)
        path = path if path.endswith("/") or "." in path.rpartition("/")[2] else path + "/"
        wanted = [element.tag for element in ElementTree.fromstring(asked.body).find(f"{D}prop") or []]
        deep = asked.headers.get("depth") == "1"
        known = {"/", "/dav/", PRINCIPAL, INBOX, HOME, "/more/"} | set(self.shelves)
        folder, _, name = path.rpartition("/")
        if path.endswith("/folder/") and "lists_folder" in self.quirks:
            return _xml(_multistatus(self._told(path, wanted, {f"{D}resourcetype": "<D:collection/>"}, 0)))
        if f"{folder}/" in self.shelves and name:
            shelf = self.shelves[f"{folder}/"]
            if name not in shelf.resources:
                return _Whole(404, [], b"")
            return _xml(_multistatus(self._told(path, wanted, self._of_resource(path), 0)))
        if path not in known or ("no_root" in self.quirks and path in ("/", "/dav/")):
            return _Whole(404, [], b"")
        if path == "/more/" and "two_homes" not in self.quirks:
            return _Whole(404, [], b"")
        responses = [self._told(path, wanted, self._of_collection(path), 1 if deep else 0)]
        if deep:
            for place in self.shelves:
                if place != path and place.startswith(path) and place.count("/") == path.count("/") + 1:
                    responses.append(self._told(place, wanted, self._of_collection(place), 1))
            if path in self.shelves:
                unlisted = self.shelves[path].unlisted
                for resource in [each for each in self.shelves[path].resources if each not in unlisted]:
                    responses.append(self._told(path + resource, wanted, self._of_resource(path + resource), 1))
                if "list_is_cut" in self.quirks:
                    responses = [*responses[:-1], _response(self._href(path), status=507)]
                if "lists_folder" in self.quirks:
                    responses.append(self._told(f"{path}folder/", wanted, {f"{D}resourcetype": "<D:collection/>"}, 1))
        return _xml(_multistatus(*responses))

    def _of_collection(self, path: str) -> dict[str, str]:
        quirks = self.quirks
        found = {f"{D}resourcetype": "<D:collection/>"}
        if "not_caldav" in quirks:
            found[f"{D}current-user-principal"] = f"<D:href>{PRINCIPAL}</D:href>"
            return found
        if "no_principal" not in quirks:
            found[f"{D}current-user-principal"] = f"<D:href>{self._href(PRINCIPAL)}</D:href>"
        if path == PRINCIPAL:
            found[f"{D}resourcetype"] = "<D:principal/>"
            homes = [self._href(HOME)]
            homes += [self._href("/more/")] if "two_homes" in quirks else []
            homes += [self._href("/lost/")] if "lost_home" in quirks else []
            if "no_home" not in quirks:
                found[f"{C}calendar-home-set"] = "".join(f"<D:href>{home}</D:href>" for home in homes)
            addresses = [] if "no_addresses" in quirks else self.addresses
            found[f"{C}calendar-user-address-set"] = "".join(f"<D:href>{address}</D:href>" for address in addresses)
            if "no_inbox" not in quirks:
                found[f"{C}schedule-inbox-URL"] = f"<D:href>{self._href(INBOX)}</D:href>"
        if path == INBOX:
            found[f"{D}resourcetype"] = "<D:collection/><C:schedule-inbox/>"
            if self.default_calendar:
                found[f"{C}schedule-default-calendar-URL"] = f"<D:href>{self._href(self.default_calendar)}</D:href>"
        if path in self.shelves:
            shelf = self.shelves[path]
            found[f"{D}resourcetype"] = f"<D:collection/><C:calendar/>{shelf.types}"
            found[f"{D}displayname"] = escape(shelf.name)
            found[f"{D}owner"] = f"<D:href>{self._href(shelf.owner)}</D:href>" if shelf.owner else ""
            if "no_components" not in quirks:
                told = "".join(f'<C:comp name="{name}"/>' for name in shelf.components)
                found[f"{C}supported-calendar-component-set"] = told
            if "no_privileges" not in quirks:
                told = "".join(f"<D:privilege><D:{name}/></D:privilege>" for name in shelf.privileges)
                found[f"{D}current-user-privilege-set"] = told
            found[f"{C}schedule-calendar-transp"] = "<C:transparent/>" if shelf.transparent else "<C:opaque/>"
            if "no_ctag" not in quirks:
                found["{http://calendarserver.org/ns/}getctag"] = f"ctag {self._signal(path)}"
            if "no_sync" not in quirks:
                found[f"{D}sync-token"] = f"http://strange/{self._signal(path)}"
            found.update(shelf.properties)
        return found

    def _of_resource(self, path: str) -> dict[str, str]:
        folder, _, name = path.rpartition("/")
        text = self.shelves[f"{folder}/"].resources[name]
        kind = "VTODO" if "BEGIN:VTODO" in text else "VEVENT"
        told = self.shelves[f"{folder}/"].kinds.get(name, f"text/calendar; charset=utf-8; component={kind}")
        found = {f"{D}resourcetype": "", f"{D}getcontenttype": told}
        if "no_etags" not in self.quirks and name not in self.shelves[f"{folder}/"].without_etag:
            found[f"{D}getetag"] = escape(self._etag(text))
        return found

    def _told(self, path: str, wanted: list[str], found: dict[str, str], depth: int) -> str:
        if path in self.shelves and self.shelves[path].own_status:
            return _response(self._href(path), status=self.shelves[path].own_status)
        good, bad, broken = "", "", ""
        for tag in wanted:
            hidden = tag == f"{C}calendar-timezone" and "time_zone_at_depth_0" in self.quirks and depth == 1
            fails = tag == f"{C}calendar-timezone" and "failing_property" in self.quirks
            fails = fails or (tag.endswith("-date-time") and "failing_bounds" in self.quirks)
            fails = fails or (tag == f"{D}sync-token" and "token_at_depth_0" in self.quirks and depth == 1)
            if fails and path in self.shelves:
                broken += _element(tag, "")
            elif tag in found and not hidden:
                good += _element(tag, found[tag])
            else:
                bad += _element(tag, "")
        return _response(self._href(path), good, bad, broken)

    def _report(self, asked: Asked) -> _Whole:
        path = _plain(asked.path if asked.path.endswith("/") else asked.path + "/")
        if path not in self.shelves:
            return _Whole(404, [], b"")
        shelf = self.shelves[path]
        tree = ElementTree.fromstring(asked.body)
        assert "expand" not in asked.body
        assert "time-range" not in asked.body
        if tree.tag == f"{C}calendar-query":
            if "no_calendar_query" in self.quirks:
                return _error(403, "<D:supported-report/>")
            names = [name for name in shelf.resources if name not in shelf.hidden]
            searched = tree.find(f".//{C}text-match") is not None and "search_finds_nothing" in self.quirks
            if searched or "query_answers_nothing" in self.quirks:
                names = []
            if "query_answers_all" not in self.quirks:
                names = [name for name in names if "BEGIN:VTODO" not in shelf.resources[name]]
                uid = tree.findtext(f".//{C}text-match")
                names = [name for name in names if not uid or f"UID:{uid}" in shelf.resources[name]]
            responses = [self._told_text(path, name, "query_without_data" not in self.quirks) for name in names]
            if "lists_folder" in self.quirks:
                responses.append(_response(f"{path}folder/", "", "<C:calendar-data/><D:getetag/>"))
        elif tree.tag == f"{D}sync-collection" and "no_sync" not in self.quirks:
            return self._sync(path, tree)
        elif tree.tag == f"{C}calendar-multiget" and "no_multiget" not in self.quirks:
            hrefs = [urllib.parse.urlsplit(element.text or "").path for element in tree.findall(f"{D}href")]
            names = [urllib.parse.unquote(href.rpartition("/")[2]) for href in hrefs]
            if "multiget_forgets" in self.quirks and len(names) > 1:
                names = names[:-1]
            responses = []
            for name in names:
                missing = name not in shelf.resources or ("multiget_404" in self.quirks and name.startswith("gone"))
                told = _response(self._report_href(path + name), status=404)
                responses.append(told if missing else self._told_text(path, name, True))
        else:
            return _error(403, "<D:supported-report/>")
        if shelf.own_status:
            responses.append(_response(self._href(path), status=shelf.own_status))
        return _xml(self._spoiled(_multistatus(*responses)))

    def _told_text(self, path: str, name: str, with_data: bool) -> str:
        shelf = self.shelves[path]
        href = self._report_href(path + name)
        if name in shelf.statuses:
            return _response(href, status=shelf.statuses[name])
        text = shelf.resources[name]
        bare = "no_etags" in self.quirks or name in shelf.without_etag
        etag = "" if bare else f"<D:getetag>{escape(self._etag(text))}</D:getetag>"
        if name in shelf.data_statuses:
            return _response(href, etag, other=("<C:calendar-data/>", shelf.data_statuses[name]))
        return _response(href, etag + (f"<C:calendar-data>{escape(text)}</C:calendar-data>" if with_data else ""))

    def _state(self, path: str) -> int:
        """The number of the calendar's present state; equal states have equal numbers only when nothing was between, or
        where signals are hashes."""
        states, now = self._states.setdefault(path, []), dict(self.shelves[path].resources)
        if "hashed_signals" in self.quirks and now in states:
            return states.index(now) + 1
        if not states or (states[-1] != now and "frozen_signals" not in self.quirks):
            states.append(now)
            self._seconds.setdefault(path, []).append(int(time.time() + self.clock_ahead_s))
        return len(states)

    def _signal(self, path: str) -> int:
        """What changes with the calendar."""
        number = self._state(path)
        return self._seconds[path][-1] if "clock_signals" in self.quirks else number

    def _sync(self, path: str, tree: ElementTree.Element) -> _Whole:
        """sync-collection (RFC 6578)."""
        quirks, number = self.quirks, self._state(path)
        sent = tree.findtext(f"{D}sync-token") or ""
        assert tree.find(f"{D}limit") is None
        since = int(sent.rpartition("/")[2] or 0) if sent.startswith("http://strange/") else len(self._states[path]) + 1
        if "clock_signals" in quirks and since:
            # The last state of that second, whichever of them the token was given out with.
            since = sum(1 for second in self._seconds[path] if second <= since) or number + 1
        if "tokens_expire" in quirks or since > number:
            return _error(403, "<D:valid-sync-token/>")
        before = self._states[path][since - 1] if since else {}
        now = self.shelves[path].resources
        wanted = [element.tag for element in tree.find(f"{D}prop") or []]
        wanted = [tag for tag in wanted if tag != f"{D}getetag" or "sync_without_etags" not in quirks]
        responses = [
            self._told(path + name, wanted, self._of_resource(path + name), 1)
            for name, text in now.items()
            if before.get(name) != text
        ]
        responses += [_response(self._href(path + name), status=404) for name in before if name not in now]
        if "any_token_is_newest" in quirks:
            responses = []
        if "sync_is_cut" in quirks:
            responses = [*responses[:1], _response(self._href(path), status=507)]
        if "sync_tells_calendar" in quirks:
            responses.append(self._told(path, wanted, self._of_collection(path), 0))
        if quirks & {"sync_without_token", "sync_same_token"}:
            responses = responses[:1]
        token = sent if "sync_same_token" in quirks else f"http://strange/{self._signal(path)}"
        ending = "" if "sync_without_token" in quirks else f"<D:sync-token>{token}</D:sync-token>"
        return _xml(_multistatus(*responses, ending))

    def _spoiled(self, body: str) -> str | bytes:
        if "control_characters" in self.quirks:
            body = body.replace("SUMMARY:", "SUMMARY:\x0b\x00&#x8;")
        if "latin_1_bytes" in self.quirks:
            return body.encode().replace(b"SUMMARY:", b"SUMMARY:\xfc")
        return body

    def _get(self, asked: Asked) -> _Whole:
        path = _plain(asked.path)
        folder, _, name = path.rpartition("/")
        text = self.shelves[f"{folder}/"].resources.get(name) if f"{folder}/" in self.shelves else None
        if text is None:
            return _Whole(403 if "forbids_the_missing" in self.quirks else 404, [], b"<html>nothing here</html>")
        headers = [("Content-Type", "text/calendar; charset=utf-8")]
        if not self.quirks & {"no_get_etag", "no_etags"}:
            headers.append(("ETag", self._etag(text)))
        return _Whole(200, headers, text.encode())

    def _put(self, asked: Asked) -> _Whole:
        path = _plain(asked.path)
        folder, _, name = path.rpartition("/")
        if f"{folder}/" not in self.shelves:
            return _Whole(403 if "forbids_the_unknown" in self.quirks else 409, [], b"")
        shelf = self.shelves[f"{folder}/"]
        if "write" not in shelf.privileges:
            return _error(403, "<D:need-privileges/>")
        refusal = self._precondition(asked, shelf.resources.get(name))
        if refusal:
            return refusal
        uid = re.search(r"^UID:(.*)$", asked.body, re.MULTILINE)
        for place, other in self.shelves.items():
            for resource, text in other.resources.items():
                if uid and f"UID:{uid[1].strip()}" in text and (place, resource) != (f"{folder}/", name):
                    if "one_uid_per_account" in self.quirks:
                        return _error(403, f"<C:no-uid-conflict><D:href>{place}{resource}</D:href></C:no-uid-conflict>")
                    if "uid_conflict_of_cards" in self.quirks:
                        return _error(403, '<no-uid-conflict xmlns="urn:ietf:params:xml:ns:carddav"/>')
                    if "uid_conflict_is_400" in self.quirks and place == f"{folder}/":
                        return _Whole(400, [], b"uid exists")
                    if "uid_conflict_without_place" in self.quirks:
                        return _error(409, "<C:no-uid-conflict/>")
        if "swallows_events" in self.quirks:
            return _Whole(201, [], b"")
        if "html_after_put" in self.quirks:
            return _Whole(200, [("Content-Type", "text/html")], b"<html>welcome</html>")
        new = name not in shelf.resources
        text = asked.body
        if "rewrites_events" in self.quirks:
            text = text.replace("SUMMARY:", "SUMMARY:[x] ")
        if "strips_x_properties" in self.quirks:
            text = re.sub(r"^X-.*\r\n", "", text, flags=re.MULTILINE)
        headers = []
        if new and self.quirks & {"renames_events", "renames_silently"}:
            name = f"renamed-{name}"
            if "renames_events" in self.quirks:
                headers.append(("Location", f"{folder}/{name}"))
        shelf.resources[name] = text
        self.note(path)
        if not self.quirks & {"no_put_etag", "no_etags", "rewrites_events", "strips_x_properties"}:
            headers.append(("ETag", self._etag(text)))
        return _Whole(201 if new else 204, headers, b"")

    def _delete(self, asked: Asked) -> _Whole:
        path = _plain(asked.path)
        folder, _, name = path.rpartition("/")
        if f"{folder}/" not in self.shelves or name not in self.shelves[f"{folder}/"].resources:
            fenced = "if-match" in asked.headers and "fences_nothing" in self.quirks
            return _Whole(412 if fenced else 403 if "forbids_the_missing" in self.quirks else 404, [], b"")
        shelf = self.shelves[f"{folder}/"]
        if "write" not in shelf.privileges:
            return _Whole(403, [], b"")
        refusal = self._precondition(asked, shelf.resources[name])
        if refusal:
            return refusal
        del shelf.resources[name]
        self.note(path)
        return _Whole(204, [], b"")

    def _precondition(self, asked: Asked, current: str | None) -> _Whole | None:
        quirks = self.quirks
        if "ignores_preconditions" in quirks:
            return None
        match, none_match = asked.headers.get("if-match"), asked.headers.get("if-none-match")
        if current is not None and match is None and none_match is None and "demands_if_match" in quirks:
            return _Whole(412, [], b"")
        if none_match == "*" and current is not None:
            if "uid_conflict_at_its_place" in quirks:
                return _error(412, f"<C:no-uid-conflict>{asked.path}</C:no-uid-conflict>")
            return _Whole(412, [], b"")
        if match == "*":
            holds = (current is not None) != ("if_match_star_backwards" in quirks)
            return None if holds else _Whole(412, [], b"")
        if match is not None:
            if current is None:
                return _Whole(412, [], b"")
            shown = self._etag(current)
            wanted = shown.removeprefix("W/") if "weakening_proxy" in quirks else shown
            if match != wanted or "incomparable_etags" in quirks:
                return _Whole(412, [], b"")
        return None

    def _etag(self, text: str) -> str:
        told = hashlib.sha1(text.encode()).hexdigest()[:12]
        if "short_etags" in self.quirks:
            told = str(len(text))
        if "unquoted_etags" in self.quirks:
            return told
        weak = self.quirks & {"weak_etags", "weakening_proxy", "incomparable_etags"}
        return f'W/"{told}"' if weak else f'"{told}"'

    def _href(self, path: str) -> str:
        if "no_final_slashes" in self.quirks and path.count("/") > 2:
            path = path.rstrip("/")
        if "double_slashes" in self.quirks:
            path = path.replace("/home/", "//home/")
        path = urllib.parse.quote(path)
        if "wrong_outer_name" in self.quirks:
            return f"https://127.0.0.1:4443{path}"
        return f"{self.url}{path}" if "full_urls" in self.quirks else path

    def _report_href(self, path: str) -> str:
        href = self._href(path)
        if "other_escapes" in self.quirks:
            href = href.replace("home", "%68ome").replace("work", "w%6Frk").replace(".ics", "%2eics")
        return href


def _plain(path: str) -> str:
    return re.sub("//+", "/", urllib.parse.unquote(path))


def _element(tag: str, inner: str) -> str:
    namespace, _, name = tag[1:].partition("}")
    return f'<x:{name} xmlns:x="{namespace}">{inner}</x:{name}>'


def _response(
    href: str, good: str = "", bad: str = "", broken: str = "", *, status: int = 0, other: tuple[str, int] | None = None
) -> str:
    told = f"<D:href>{escape(href)}</D:href>"
    if status:
        return f"<D:response>{told}<D:status>HTTP/1.1 {status} Told</D:status></D:response>"
    parts = [(good, 200), (bad, 404), (broken, 500)] + ([other] if other else [])
    for inner, code in parts:
        if inner or (code == 200 and not any(part for part, _ in parts)):
            told += f"<D:propstat><D:prop>{inner}</D:prop><D:status>HTTP/1.1 {code} Told</D:status></D:propstat>"
    return f"<D:response>{told}</D:response>"


def _multistatus(*responses: str) -> str:
    inner = "".join(responses)
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f'<D:multistatus xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav">{inner}</D:multistatus>'
    )


def _xml(body: str | bytes) -> _Whole:
    return _Whole(207, [("Content-Type", "application/xml")], body.encode() if isinstance(body, str) else body)


def _error(status: int, inner: str) -> _Whole:
    body = f'<?xml version="1.0"?><D:error xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav">{inner}</D:error>'
    return _Whole(status, [("Content-Type", "application/xml")], body.encode())


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536  # head and body in one packet: two small ones cost 40 ms
    server: _Server

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        whole = self.server.dav.answer(Asked(self.command, self.path, headers, body))
        if whole.stall:
            self.server.dav.ended.wait(60)
        if whole.body is None:
            self.close_connection = True
            return
        content = whole.body
        if "leading_newline" in self.server.dav.quirks and whole.status == 207:
            content = b"\n" + content
        self.send_response(whole.status)
        for name, value in whole.headers:
            self.send_header(name, value)
        if whole.status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if whole.cut:
            content = content[: len(content) // 2]
            self.close_connection = True
        if whole.status != 204:
            self.wfile.write(content)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(
            (time.time() if timestamp is None else timestamp) + self.server.dav.clock_ahead_s
        )

    def log_message(self, format: str, *args: object) -> None:
        return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    dav: StrangeDav

    def handle_error(self, request: object, client_address: object) -> None:
        """The other side hung up, as some tests want it to."""


@contextmanager
def strange_dav() -> Iterator[StrangeDav]:
    """A server without quirks, on a free port of loopback."""
    dav = StrangeDav()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.dav = dav
    dav.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield dav
    finally:
        dav.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
