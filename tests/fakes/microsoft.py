"""Microsoft on loopback, with a memory: Entra's OAuth endpoints (`entra.py`) and Graph's calendars (`mailbox.py`) over HTTP.

    with MicrosoftFake() as microsoft:
        anna = microsoft.add_user("anna", zone="W. Europe Standard Time")
        anna.mailbox.add(datetime(2026, 12, 1, 10), datetime(2026, 12, 1, 11))
        ...microsoft.graph_url, microsoft.authorize_url, microsoft.token_url...
        microsoft.fail_next(429, retry_after="7")

Graph's part holds every request and its answer against Microsoft's description and keeps what it finds in ``problems``,
which a test expects to be empty. It counts the requests that one mailbox has at a time, and refuses the fifth. Mails that
Exchange would send are kept in the mailbox.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.fakes.deliveries import Deliveries
from tests.fakes.entra import KNOWN_SCOPES, Entra, OAuthAnswer, User
from tests.fakes.graph_description import GraphDescription
from tests.fakes.graph_subscriptions import GraphSubscriptions, Invalid
from tests.fakes.mailbox import (
    Event,
    Mailbox,
    NotThere,
    OtherVersion,
    ReadOnly,
    TransactionTaken,
    iana,
)

MAILBOX_REQUESTS = 4
VIEW_DAYS_MOST = 1825
_ROOT = "/v1.0/"
_DEFAULT_PAGE = 10
_ANY = re.compile(r"singleValueExtendedProperties/Any\(ep: ep/id eq '([^']*)' and ep/value eq '([^']*)'\)")
_PAGE_ASKED = re.compile(r"odata\.maxpagesize=(\d+)")
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_ZONE_ASKED = re.compile(r'outlook\.timezone="([^"]*)"')

_SCOPES: dict[str, frozenset[str]] = {
    "profile": frozenset({"User.Read"}),
    "settings": frozenset({"MailboxSettings.Read"}),
    "read": frozenset({"Calendars.Read", "Calendars.ReadWrite"}),
    "write": frozenset({"Calendars.ReadWrite"}),
}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to Graph and what it got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int
    answer: bytes


@dataclass(frozen=True, slots=True)
class GraphUser:
    """An account and its mailbox."""

    user: User
    mailbox: Mailbox


@dataclass(slots=True)
class _Fault:
    """What becomes of the next request that fits: a status, whole bytes, or a cut line."""

    method: str
    within: str
    status: int
    code: str
    retry_after: str | None
    body: bytes | None
    cut: bool
    times: int


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json;odata.metadata=minimal"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to Graph, taken apart."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    who: GraphUser
    scopes: frozenset[str]

    @property
    def prefer(self) -> str:
        return self.headers.get("prefer", "")

    @property
    def zone(self) -> str:
        """Times are answered in UTC unless another zone is asked for."""
        match = _ZONE_ASKED.search(self.prefer)
        return match[1] if match else "UTC"

    @property
    def immutable(self) -> bool:
        return 'IdType="ImmutableId"' in self.prefer


@dataclass(frozen=True, slots=True)
class _Feed:
    """Where a feed over a window stands: in the middle of a round, with pages still to tell, or at the end of one."""

    mailbox: Mailbox
    calendar_id: str
    start: datetime
    end: datetime
    position: int
    ended: bool
    empty_pages: int = 0
    items: tuple[dict[str, object], ...] = ()
    expired: bool = False


class MicrosoftFake:
    """See the module. Serves from the moment it is made."""

    def __init__(self) -> None:
        self.entra = Entra()
        self.users: dict[str, GraphUser] = {}
        self.exchanges: list[Exchange] = []
        self.problems: list[str] = []
        self.page_most = 1000
        """Items on one page, whatever ``$top`` says."""
        self.next_links_to: str = ""
        """Another root that next pages are said to lie at."""
        self.at_once_most = 0
        """The most requests that one mailbox had at a time."""
        self.gate = threading.Event()
        """Closed (``clear``), requests to mailboxes wait here after they were counted."""
        self.gate.set()
        self.delta_lies = False
        """Whether a delta link, also one that is none, is answered with "nothing has changed"."""
        self.empty_delta_pages = 0
        """Pages without events before the others of each round of a feed."""
        self.endless_delta = False
        """Whether a round of a feed goes on for ever."""
        self.on_request: Callable[[str, str], None] = lambda method, path: None
        """Runs before a request to Graph is answered: what happens in between."""
        self._description = GraphDescription()
        self._changed = threading.Condition()
        self._at_once: dict[str, int] = {}
        self._faults: list[_Fault] = []
        self._next_pages: dict[str, list[dict[str, object]]] = {}
        self._feeds: dict[str, _Feed] = {}
        """By token, of both kinds."""
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.deliveries = Deliveries()
        self.subscriptions = GraphSubscriptions(self.deliveries)

    @property
    def origin(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def graph_url(self) -> str:
        return f"{self.origin}/v1.0"

    @property
    def authorize_url(self) -> str:
        return f"{self.origin}/{{tenant}}/oauth2/v2.0/authorize"

    @property
    def token_url(self) -> str:
        return f"{self.origin}/{{tenant}}/oauth2/v2.0/token"

    def add_user(self, name: str, *, zone: str = "UTC", personal: bool = False, mail: str | None = "") -> GraphUser:
        added = GraphUser(self.entra.add_user(name, personal=personal, mail=mail), Mailbox(zone))
        self.users[added.user.id] = added
        return added

    def token_of(self, user: GraphUser, scopes: frozenset[str] = KNOWN_SCOPES) -> dict[str, object]:
        """Tokens, as after a consent."""
        return self.entra.issue(user.user, scopes)

    def fail_next(
        self,
        status: int,
        *,
        times: int = 1,
        method: str = "",
        within: str = "",
        code: str = "",
        retry_after: str | None = None,
        body: bytes | None = None,
    ) -> None:
        """The next ``times`` requests of this method whose path holds ``within`` are answered so, and change nothing."""
        self._faults.append(_Fault(method, within, status, code, retry_after, body, False, times))

    def cut_next(self, method: str, *, within: str = "") -> None:
        """The next such request does what it should, and its answer is lost."""
        self._faults.append(_Fault(method, within, 0, "", None, None, True, 1))

    def forgive(self) -> None:
        """Nothing that was to fail fails any more."""
        with self._changed:
            self._faults.clear()

    def expire_delta_links(self, *, all_but: int = 0) -> None:
        """Links of feeds that were given so far are too old, but so many of the newest."""
        for token in list(self._feeds)[: len(self._feeds) - all_but]:
            self._feeds[token] = replace(self._feeds[token], expired=True)

    def wait_for_requests(self, number: int, timeout_s: float = 5) -> bool:
        """Until a mailbox has had so many requests at a time. False when the time is over."""
        with self._changed:
            return self._changed.wait_for(lambda: self.at_once_most >= number, timeout_s)

    def requests(self, method: str, within: str = "") -> list[Exchange]:
        """What was asked of Graph, oldest first."""
        return [e for e in list(self.exchanges) if e.method == method and within in e.path]

    def close(self) -> None:
        self.deliveries.close()
        self.gate.set()
        self._server.shutdown()
        self._server.end_lines()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> MicrosoftFake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # One request.

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply | None:
        """None: the line is cut without a word."""
        path = urlsplit(target).path
        if path.startswith(_ROOT):
            return self._graph(method, target, headers, body)
        tenant, _, rest = path.strip("/").partition("/")
        query = urlsplit(target).query
        if (method, rest) == ("GET", "oauth2/v2.0/authorize"):
            return _of(self.entra.consent_page(tenant, query))
        if (method, rest) == ("POST", "oauth2/v2.0/consent"):
            return _of(self.entra.decide(tenant, body.decode()))
        if (method, rest) == ("POST", "oauth2/v2.0/token"):
            return _of(self.entra.token(tenant, body.decode()))
        return _Reply(404, b"Not found", content_type="text/plain")

    def _graph(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply | None:
        told = target[len(_ROOT) :]
        first = target not in self._next_pages
        # Microsoft's description at hand has no subscriptions; their fake looks at what is sent by itself.
        described = not told.startswith("subscriptions")
        if first and described:
            self.problems += self._description.request_problems(method, told, body)
        self.on_request(method, told)
        fault = self._fault(method, target)
        refused = fault is not None and not fault.cut
        reply = _failed(fault) if fault and refused else self._authorized(method, target, headers, body)
        self.exchanges.append(Exchange(method, told, dict(headers), body, reply.status, reply.body))
        if fault is None and (described or reply.status >= 400):
            self.problems += self._description.answer_problems(method, told, reply.status, reply.body)
        return None if fault is not None and fault.cut else reply

    def _fault(self, method: str, target: str) -> _Fault | None:
        with self._changed:
            for fault in self._faults:
                if fault.method in ("", method) and fault.within in target:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                    return fault
        return None

    def _authorized(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply:
        bearer = self.entra.bearer(headers.get("authorization", ""))
        if bearer is None:
            reply = _error(401, "InvalidAuthenticationToken", "Lifetime validation failed, the token is expired.")
            return _Reply(reply.status, reply.body, {"WWW-Authenticate": 'Bearer realm=""'})
        user, scopes = bearer
        parts = urlsplit(target)
        asked = _Asked(
            method,
            parts.path[len(_ROOT) :],
            dict(parse_qsl(parts.query, keep_blank_values=True)),
            headers,
            body,
            self.users[user.id],
            scopes,
        )
        if asked.path == "me":
            return self._me(asked)
        with self._counted(user.id) as at_once:
            if at_once > MAILBOX_REQUESTS:
                return _error(429, "ApplicationThrottled", "Application is over its MailboxConcurrency limit.", "1")
            self.gate.wait(20)
            try:
                return self._routed(asked, target)
            except NotThere:
                return _error(404, "ErrorItemNotFound", "The specified object was not found in the store.")
            except OtherVersion:
                return _error(412, "ErrorIrresolvableConflict", "The change key does not match the current one.")
            except TransactionTaken:
                return _error(409, "ErrorDuplicateTransactionId", "The transaction id was used by another request.")
            except ReadOnly:
                return _error(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
            except ValueError as error:
                return _error(400, "ErrorInvalidParameter", str(error))

    @contextlib.contextmanager
    def _counted(self, mailbox: str) -> Iterator[int]:
        with self._changed:
            at_once = self._at_once[mailbox] = self._at_once.get(mailbox, 0) + 1
            self.at_once_most = max(self.at_once_most, at_once)
            self._changed.notify_all()
        try:
            yield at_once
        finally:
            with self._changed:
                self._at_once[mailbox] -= 1

    def _routed(self, asked: _Asked, target: str) -> _Reply:
        parts = asked.path.split("/")
        if parts[0] == "subscriptions":
            return self._subscriptions(asked, parts[1:])
        names = tuple("{id}" if number == 2 else part for number, part in enumerate(parts))
        need = "settings" if names[1:2] == ("mailboxSettings",) else "read" if asked.method == "GET" else "write"
        if not asked.scopes & _SCOPES[need]:
            return _error(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
        following = self._next_pages.get(target)
        if following is not None:
            return self._page(asked, following)
        one = unquote(parts[2]) if len(parts) > 2 else ""
        mailbox = asked.who.mailbox
        match asked.method, names:
            case "GET", ("me", "mailboxSettings"):
                return _json(200, _selected(asked, {"timeZone": mailbox.zone, "language": {"locale": "en-GB"}}))
            case "GET", ("me", "calendar"):
                return _json(200, _selected(asked, self._calendar(asked, mailbox.default.id)))
            case "GET", ("me", "calendars"):
                shown = [self._calendar(asked, calendar_id) for calendar_id in mailbox.calendars]
                return self._page(asked, [_selected(asked, item) for item in shown])
            case "GET", ("me", "calendars", "{id}"):
                return _json(200, _selected(asked, self._calendar(asked, one)))
            case "GET", ("me", "calendars", "{id}", "calendarView"):
                return self._view(asked, one)
            case "GET", ("me", "calendars", "{id}", "calendarView", "delta"):
                return self._delta(asked, one)
            case "GET", ("me", "calendars", "{id}", "events"):
                events = [event for event in mailbox.listed(one) if _fits(asked, event)]
                return self._page(asked, [self._event(asked, event) for event in events])
            case "POST", ("me", "calendars", "{id}", "events"):
                made = mailbox.create(one, self._content(asked))
                return _json(201, mailbox.show(made, asked.zone, immutable=asked.immutable))
            case "GET", ("me", "events", "{id}"):
                return _json(200, self._event(asked, mailbox.event(one)))
            case "PATCH", ("me", "events", "{id}"):
                patched = mailbox.patch(one, self._content(asked), asked.headers.get("if-match"))
                return _json(200, mailbox.show(patched, asked.zone, immutable=asked.immutable))
            case "DELETE", ("me", "events", "{id}"):
                mailbox.remove(one, asked.headers.get("if-match"))
                return _Reply(204)
        return _error(400, "BadRequest", "Resource not found for the segment.")

    def _subscriptions(self, asked: _Asked, rest: list[str]) -> _Reply:
        owner, id = asked.who.user.id, unquote(rest[0]) if rest else ""
        if not asked.scopes & _SCOPES["read"]:
            return _error(403, "ErrorAccessDenied", "Access is denied. Check credentials and try again.")
        try:
            match asked.method, len(rest):
                case "POST", 0:
                    calendars = asked.who.mailbox.calendars
                    return _json(201, self.subscriptions.create(owner, calendars, json.loads(asked.body)).show())
                case "PATCH", 1:
                    return _json(200, self.subscriptions.renew(owner, id, json.loads(asked.body)).show())
                case "DELETE", 1:
                    self.subscriptions.end(owner, id)
                    return _Reply(204)
        except Invalid as invalid:
            return _error(400, "InvalidRequest", str(invalid))
        except LookupError:
            return _error(404, "ResourceNotFound", "The object was not found.")
        return _error(400, "BadRequest", "Resource not found for the segment.")

    def _me(self, asked: _Asked) -> _Reply:
        if not asked.scopes & _SCOPES["profile"]:
            return _error(403, "Authorization_RequestDenied", "Insufficient privileges to complete the operation.")
        user = asked.who.user
        known = {"id": user.id, "mail": user.mail, "userPrincipalName": user.principal_name, "displayName": user.name}
        return _json(200, _selected(asked, known))

    def _calendar(self, asked: _Asked, calendar_id: str) -> dict[str, object]:
        calendar = asked.who.mailbox.calendar(calendar_id)
        return {
            "id": calendar.id,
            "name": calendar.name,
            "isDefaultCalendar": calendar.default,
            "canEdit": calendar.can_edit,
            "color": "auto",
            "hexColor": calendar.hex_color,
        }

    def _view(self, asked: _Asked, calendar_id: str) -> _Reply:
        start, end = (_when(asked.query.get(name)) for name in ("startDateTime", "endDateTime"))
        if end < start:
            raise ValueError("The end of the window lies before its start.")
        if end - start > timedelta(days=VIEW_DAYS_MOST):
            return _error(400, "ErrorCalendarViewRangeTooBig", f"At most {VIEW_DAYS_MOST} days may be asked for.")
        iana(asked.zone)
        shown = asked.who.mailbox.view(calendar_id, start, end, asked.zone, immutable=asked.immutable)
        return self._page(asked, [_selected(asked, item) for item in shown])

    def _delta(self, asked: _Asked, calendar_id: str) -> _Reply:
        """One page of a round. The window and the place in the feed are in its links."""
        mailbox = asked.who.mailbox
        mailbox.calendar(calendar_id)
        token = asked.query.get("$deltatoken", asked.query.get("$skiptoken"))
        if token is None:
            start, end = (_when(asked.query.get(name)) for name in ("startDateTime", "endDateTime"))
            feed = _Feed(mailbox, calendar_id, start, end, 0, ended=False, empty_pages=self.empty_delta_pages)
            items, position = mailbox.changed_since(
                None, calendar_id, start, end, asked.zone, immutable=asked.immutable
            )
            feed = replace(feed, items=tuple(items), position=position)
        elif token in self._feeds:
            feed = self._feeds[token]
        elif self.delta_lies:
            feed = _Feed(mailbox, calendar_id, _LONG_AGO, _LONG_AGO, 0, ended=True)
        else:
            return _error(400, "InvalidDeltaToken", "The value of parameter '$deltaToken' is invalid.")
        if (feed.mailbox, feed.calendar_id) != (mailbox, calendar_id):
            return _error(400, "InvalidDeltaToken", "The value of parameter '$deltaToken' is invalid.")
        if feed.expired and not self.delta_lies:
            return _error(410, "SyncStateNotFound", "The sync state generation is not found.")
        if feed.ended:
            position = len(mailbox.changes) if self.delta_lies else feed.position
            items, position = mailbox.changed_since(
                position, calendar_id, feed.start, feed.end, asked.zone, immutable=asked.immutable
            )
            feed = replace(feed, items=tuple(items), position=position, ended=False, empty_pages=self.empty_delta_pages)
        return self._delta_page(asked, feed)

    def _delta_page(self, asked: _Asked, feed: _Feed) -> _Reply:
        match = _PAGE_ASKED.search(asked.prefer)
        size = 0 if feed.empty_pages else min(int(match[1]) if match else _DEFAULT_PAGE, self.page_most)
        rest = replace(feed, items=feed.items[size:], empty_pages=max(feed.empty_pages - 1, 0))
        more = bool(rest.items) or bool(feed.empty_pages) or self.endless_delta
        token = secrets.token_urlsafe(30)
        self._feeds[token] = replace(rest, ended=not more)
        link = f"{self.next_links_to or self.origin}{_ROOT}{asked.path}?${'skip' if more else 'delta'}token={token}"
        page: dict[str, object] = {
            "@odata.context": f"{self.graph_url}/$metadata#Collection(event)",
            f"@odata.{'next' if more else 'delta'}Link": link,
            "value": [{"@odata.type": "#microsoft.graph.event", **item} for item in feed.items[:size]],
        }
        return _json(200, page)

    def _event(self, asked: _Asked, event: Event) -> dict[str, object]:
        shown = _selected(asked, asked.who.mailbox.show(event, asked.zone, immutable=asked.immutable))
        expand = asked.query.get("$expand", "")
        # A property that is not there is left out, and the whole member where none is.
        found = [{"id": name, "value": value} for name, value in event.properties.items() if f"'{name}'" in expand]
        return {**shown, "singleValueExtendedProperties": found} if found else shown

    def _content(self, asked: _Asked) -> dict[str, object]:
        content = json.loads(asked.body)
        problems = self._description.value_problems("Event", content, annotations=False)
        if problems:
            raise ValueError(problems[0])
        assert isinstance(content, dict)
        return content

    def _page(self, asked: _Asked, items: list[dict[str, object]]) -> _Reply:
        """As many as are asked for; the rest lies at an address that is good for nothing else."""
        size = min(int(asked.query.get("$top", _DEFAULT_PAGE)), self.page_most)
        page: dict[str, object] = {"@odata.context": f"{self.graph_url}/$metadata#page", "value": items[:size]}
        if len(items) > size:
            path = f"{_ROOT}{asked.path}?$top={size}&$skiptoken={secrets.token_urlsafe(30)}%3D%3D"
            self._next_pages[path] = items[size:]
            page["@odata.nextLink"] = f"{self.next_links_to or self.origin}{path}"
        return _json(200, page)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, fake: MicrosoftFake):
        self.fake = fake
        self.lines: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def end_lines(self) -> None:
        for line in list(self.lines):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    """Head and body leave in one piece: two small ones would wait for each other's acknowledgement."""
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.lines.add(self.connection)

    def finish(self) -> None:
        self.server.lines.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.fake.answer(self.command, self.path, headers, body)
        if reply is None:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
        with contextlib.suppress(OSError):
            self.end_headers()
            self.wfile.write(reply.body)

    do_POST = do_PATCH = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _of(answer: OAuthAnswer) -> _Reply:
    headers = {"Cache-Control": "no-store, no-cache", **answer.headers}
    return _Reply(answer.status, answer.body, headers, answer.content_type)


def _json(status: int, content: Mapping[str, object]) -> _Reply:
    return _Reply(status, json.dumps(content).encode())


def _error(status: int, code: str, message: str, retry_after: str | None = None) -> _Reply:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    return _Reply(status, body, {} if retry_after is None else {"Retry-After": retry_after})


_CODES = {
    400: "ErrorInvalidRequest",
    401: "InvalidAuthenticationToken",
    403: "ErrorAccessDenied",
    404: "ErrorItemNotFound",
    409: "ErrorIrresolvableConflict",
    410: "ResyncRequired",
    412: "ErrorIrresolvableConflict",
    413: "ErrorMessageSizeExceeded",
    429: "ApplicationThrottled",
    503: "ServiceUnavailable",
    507: "ErrorQuotaExceeded",
}


def _failed(fault: _Fault) -> _Reply:
    code = fault.code or _CODES.get(fault.status, "ErrorInternalServerError")
    reply = _error(fault.status, code, "This was asked for.", fault.retry_after)
    if fault.body is None:
        return reply
    return _Reply(fault.status, fault.body, reply.headers, "text/html")


def _selected(asked: _Asked, item: Mapping[str, object]) -> dict[str, object]:
    """What ``$select`` asks for. Outlook's items keep their id and annotations besides."""
    select = asked.query.get("$select")
    if select is None:
        return dict(item)
    kept = {"id", *select.split(",")}
    return {name: value for name, value in item.items() if name in kept or name.startswith("@odata.")}


def _fits(asked: _Asked, event: Event) -> bool:
    condition = asked.query.get("$filter")
    if condition is None:
        return True
    match = _ANY.fullmatch(condition)
    if match is None:
        raise ValueError("The query filter is not supported.")
    return event.properties.get(match[1]) == match[2]


def _when(text: str | None) -> datetime:
    """A bound of a window: with an offset, or in UTC."""
    if text is None:
        raise ValueError("This request requires a time window specified by startDateTime and endDateTime.")
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
