"""Google on loopback, with a memory: OAuth (`google_accounts.py`) and Calendar v3 (`google_calendars.py`) over HTTP.

    with GoogleFake() as google:
        anna = google.add_user("anna", time_zone="Europe/Berlin")
        anna.primary.add(datetime(2026, 12, 1, 10, tzinfo=UTC), datetime(2026, 12, 1, 11, tzinfo=UTC))
        ...google.api_url, google.authorize_url, google.token_url, google.userinfo_url, google.revoke_url...
        google.fail_next(403, "rateLimitExceeded")
        google.assert_clean()

Every request to the calendars and its answer is held against Google's description; what is found is kept in ``problems``.
Mails that Google would send are kept in the calendars. ``assert_clean`` wants none of either.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qsl, urlsplit

from tests.fakes.deliveries import Deliveries
from tests.fakes.google_accounts import ALL_SCOPES, GoogleAccounts, OAuthAnswer, User
from tests.fakes.google_calendars import (
    GoogleCalendar,
    GoogleCalendars,
    Json,
    Refused,
    at_least,
)
from tests.fakes.google_channels import GoogleChannels
from tests.fakes.google_description import GoogleDescription, Method, parameters_of, read_fields, select

FREE_BUSY_DAYS_MOST = 90
FREE_BUSY_CALENDARS_MOST = 50
_ROOT = "/calendar/v3/"
_EVENT_WRITES = frozenset(f"calendar.events.{verb}" for verb in ("insert", "patch", "update", "delete"))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to the calendars and what it got."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    status: int
    answer: bytes

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def content(self) -> Json:
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content


@dataclass(frozen=True, slots=True)
class GoogleUser:
    """An account and its default calendar."""

    user: User
    primary: GoogleCalendar

    @property
    def email(self) -> str:
        return self.user.email


@dataclass(slots=True)
class _Fault:
    """What becomes of the next request that fits: a refusal, whole bytes, or a cut line."""

    method: str
    within: str
    status: int
    reason: str
    retry_after: str | None
    body: bytes | None
    cut: bool
    times: int


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to the calendars, taken apart. ``ids`` are the path's parameters."""

    method: Method
    ids: list[str]
    target: str
    headers: Mapping[str, str]
    body: bytes
    email: str

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    @property
    def content(self) -> Json:
        content = json.loads(self.body)
        assert isinstance(content, dict)
        return content

    @property
    def send_updates(self) -> str:
        return self.query.get("sendUpdates", "none")


@dataclass(frozen=True, slots=True)
class _SyncToken:
    """Where a feed stands: after so many changes of a calendar. ``asked`` are the parameters that it was given for."""

    calendar: GoogleCalendar
    position: int
    asked: Mapping[str, str]


class GoogleFake:
    """See the module. Serves from the moment it is made."""

    def __init__(self) -> None:
        self.accounts = GoogleAccounts()
        self.calendars = GoogleCalendars()
        self.users: dict[str, GoogleUser] = {}
        self.exchanges: list[Exchange] = []
        self.problems: list[str] = []
        self.page_most = 2500
        """Items on one page, whatever is asked for."""
        self.without_details = 200
        """What `events.list` answers to somebody who may see free and busy only: 200, 403 or 404."""
        self.free_busy_errors: dict[str, str] = {}
        """Reasons by calendar that `freeBusy` gives instead of times, inside an answer that is fine otherwise."""
        self.sync_tokens_lie = False
        """Whether a sync token, also one that is none, is answered with "nothing has changed"."""
        self.gives_sync_tokens = True
        self.on_request: Callable[[str, str], None] = lambda method, target: None
        """Runs before a request to the calendars is answered: what happens in between."""
        self.description = GoogleDescription()
        self._lock = threading.RLock()
        self._faults: list[_Fault] = []
        self._next_pages: dict[str, tuple[str, list[Json], str]] = {}
        self._sync_tokens: dict[str, _SyncToken] = {}
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.deliveries = Deliveries()
        self.channels = GoogleChannels(self.origin, self.deliveries)

    @property
    def origin(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def api_url(self) -> str:
        return f"{self.origin}/calendar/v3"

    @property
    def authorize_url(self) -> str:
        return f"{self.origin}/o/oauth2/v2/auth"

    @property
    def token_url(self) -> str:
        return f"{self.origin}/token"

    @property
    def revoke_url(self) -> str:
        return f"{self.origin}/revoke"

    @property
    def userinfo_url(self) -> str:
        return f"{self.origin}/v1/userinfo"

    def add_user(self, name: str, *, time_zone: str = "UTC", email: str = "") -> GoogleUser:
        user = self.accounts.add_user(name, email=email)
        added = GoogleUser(user, self.calendars.add_person(user.email, time_zone))
        self.users[user.sub] = added
        return added

    def token_of(self, user: GoogleUser, scopes: Iterable[str] = ALL_SCOPES) -> dict[str, object]:
        """Tokens, as after a consent."""
        return self.accounts.issue(user.user, scopes)

    def fail_next(
        self,
        status: int,
        reason: str = "backendError",
        *,
        times: int = 1,
        method: str = "",
        within: str = "",
        retry_after: str | None = None,
        body: bytes | None = None,
    ) -> None:
        """The next ``times`` requests of this method whose target holds ``within`` are refused, and change nothing."""
        self._faults.append(_Fault(method, within, status, reason, retry_after, body, False, times))

    def expire_sync_tokens(self, *, all_but: int = 0) -> None:
        """Sync tokens that were given so far are too old, but so many of the newest."""
        with self._lock:
            old = list(self._sync_tokens)[: len(self._sync_tokens) - all_but]
            self._sync_tokens |= dict.fromkeys(old, _EXPIRED)

    def cut_next(self, method: str, *, within: str = "") -> None:
        """The next such request does what it should, and its answer is lost."""
        self._faults.append(_Fault(method, within, 0, "", None, None, True, 1))

    def forgive(self) -> None:
        """Nothing that was to fail fails any more."""
        with self._lock:
            self._faults.clear()

    def requests(self, method: str, within: str = "") -> list[Exchange]:
        """What was asked of the calendars, oldest first."""
        return [e for e in list(self.exchanges) if e.method == method and within in e.target]

    @property
    def mails(self) -> list[str]:
        return [mail for calendar in self.calendars.calendars.values() for mail in calendar.mails]

    def assert_clean(self) -> None:
        """Nothing was said that the description does not know, and nobody was sent mail."""
        assert self.problems + self.accounts.problems == []
        assert self.mails == []

    def close(self) -> None:
        self.deliveries.close()
        self._server.shutdown()
        self._server.end_lines()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> GoogleFake:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # One request.

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply | None:
        """None: the line is cut without a word. What the fake itself stumbles over is a problem too."""
        try:
            return self._answer(method, target, headers, body)
        except Exception as error:
            self.problems.append(f"{method} {target}: the fake broke: {error!r}")
            return _refusal(Refused(500, "backendError", "Internal Error"))

    def _answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply | None:
        parts = urlsplit(target)
        if parts.path.startswith(_ROOT):
            return self._calendar_api(method, target[len(_ROOT) :], headers, body)
        authorization = headers.get("authorization", "")
        fault = self._fault(method, target)
        if fault is not None:
            return None if fault.cut else _failed(fault)
        match method, parts.path:
            case "GET", "/o/oauth2/v2/auth":
                return _of(self.accounts.consent_page(parts.query))
            case "POST", "/o/oauth2/v2/consent":
                return _of(self.accounts.decide(body.decode()))
            case "POST", "/token":
                return _of(self.accounts.token(body.decode()))
            case "POST", "/revoke":
                return _of(self.accounts.revoke(body.decode()))
            case (("GET" | "POST"), "/v1/userinfo"):
                return _of(self.accounts.userinfo(authorization))
        return _Reply(404, b"Not found", content_type="text/plain")

    def _calendar_api(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> _Reply | None:
        bearer = self.accounts.bearer(headers.get("authorization", ""))
        wrong = self.description.request_problems(method, target, body)
        self.problems += wrong
        self.on_request(method, target)
        fault = self._fault(method, target)
        if fault is not None and not fault.cut:
            reply = _failed(fault)
        elif bearer is None:
            reply = _refusal(Refused(401, "authError", "Invalid Credentials"))
        elif wrong:
            reply = _refusal(Refused(400, "badRequest", wrong[0]))
        else:
            user, scopes = bearer
            reply = self._permitted(method, target, headers, body, self.users[user.sub].email, scopes)
        self.exchanges.append(Exchange(method, target, dict(headers), body, reply.status, reply.body))
        if not wrong and (fault is None or fault.cut):
            self.problems += self.description.answer_problems(method, target, reply.status, reply.body)
        return None if fault is not None and fault.cut else reply

    def _permitted(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, email: str, scopes: frozenset[str]
    ) -> _Reply:
        method = self.description.method(http_method, target)
        assert method is not None
        if not scopes & method.scopes:
            refusal = _refusal(
                Refused(403, "insufficientPermissions", "Request had insufficient authentication scopes."),
                status="PERMISSION_DENIED",
                details=[
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
                        "domain": "googleapis.com",
                    }
                ],
            )
            challenge = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="insufficient_scope"'}
            return _Reply(403, refusal.body, challenge)
        asked = _Asked(method, parameters_of(method, target), target, headers, body, email)
        try:
            with self._lock:
                content = self._called(asked)
                self._tell(asked)
        except Refused as refused:
            return _refusal(refused)
        if content is None:
            return _Reply(204)
        fields = asked.query.get("fields")
        return _Reply(200, json.dumps(select(content, read_fields(fields)) if fields else content).encode())

    def _called(self, asked: _Asked) -> Json | None:
        if_match = asked.headers.get("if-match")
        match asked.method.id:
            case "calendar.calendarList.list":
                return self._calendar_list(asked)
            case "calendar.calendarList.get":
                return self.calendars.show_entry(self.calendars.entry(asked.ids[0], asked.email), asked.email)
            case "calendar.freebusy.query":
                return self._free_busy(asked)
            case "calendar.events.list":
                return self._events(asked)
            case "calendar.events.get":
                return self._calendar(asked, "reader").get(asked.ids[1])
            case "calendar.events.insert":
                return self._calendar(asked, "writerWithoutPrivateAccess").insert(asked.content, asked.send_updates)
            case "calendar.events.patch":
                calendar = self._calendar(asked, "writerWithoutPrivateAccess")
                return calendar.patch(asked.ids[1], asked.content, if_match, asked.send_updates)
            case "calendar.events.update":
                calendar = self._calendar(asked, "writerWithoutPrivateAccess")
                return calendar.update(asked.ids[1], asked.content, if_match, asked.send_updates)
            case "calendar.events.delete":
                calendar = self._calendar(asked, "writerWithoutPrivateAccess")
                calendar.remove(asked.ids[1], if_match, asked.send_updates)
                return None
            case "calendar.events.watch":
                return self.channels.watch(self._calendar(asked, "reader").id, asked.email, asked.content)
            case "calendar.channels.stop":
                self.channels.stop(asked.email, asked.content)
                return None
        raise Refused(501, "notImplemented", f"The fake has no {asked.method.id}.")

    def _tell(self, asked: _Asked) -> None:
        """What was written is told to those who watch. What an owner does, a test tells: `channels.changed`."""
        if asked.method.id in _EVENT_WRITES:
            self.channels.changed(self.calendars.calendar(asked.ids[0], asked.email).id)

    def _calendar(self, asked: _Asked, needed: str) -> GoogleCalendar:
        calendar = self.calendars.calendar(asked.ids[0], asked.email)
        if not at_least(calendar.role_of(asked.email), needed):
            raise Refused(403, "requiredAccessLevel", f"You need to have {needed} access to this calendar.")
        return calendar

    def _calendar_list(self, asked: _Asked) -> Json:
        hidden = asked.query.get("showHidden") == "true"
        entries = [entry for entry in self.calendars.lists[asked.email] if hidden or not entry.hidden]
        # The API leaves deleted ones out; a test that keeps one in has it told, to see that it is not believed.
        items = [self.calendars.show_entry(entry, asked.email) for entry in entries]
        return {
            "kind": "calendar#calendarList",
            "etag": '"p1"',
            **self._page(asked, items, 100, 250, secrets.token_urlsafe(20) + "="),
        }

    def _events(self, asked: _Asked) -> Json:
        calendar = self.calendars.calendar(asked.ids[0], asked.email)
        role = calendar.role_of(asked.email)
        hides = role == "freeBusyReader"
        if hides and self.without_details != 200:
            reason = "forbidden" if self.without_details == 403 else "notFound"
            raise Refused(self.without_details, reason, reason)
        # A token stands for the moment when the first page is made; whoever hides events has no changes to tell.
        token = self._sync_token(_SyncToken(calendar, len(calendar.changes), _lasting(asked.query)))
        if "syncToken" in asked.query:
            items = self._changes(asked, calendar)
        else:
            start, end = (datetime.fromisoformat(asked.query[name]) for name in ("timeMin", "timeMax"))
            if end <= start:
                raise Refused(400, "timeRangeEmpty", "The specified time range is empty.")
            items = calendar.window(start, end, single_events=asked.query.get("singleEvents") == "true")
        return {
            "kind": "calendar#events",
            "etag": '"p1"',
            "summary": calendar.summary,
            "updated": "2026-11-25T00:00:00.000Z",
            "timeZone": calendar.time_zone,
            "accessRole": role,
            **self._page(asked, [] if hides else items, 250, 2500, token),
        }

    def _changes(self, asked: _Asked, calendar: GoogleCalendar) -> list[Json]:
        """What has changed since the sync token that is asked with."""
        if self.sync_tokens_lie:
            return []
        token = self._sync_tokens.get(asked.query["syncToken"])
        if token is None or (token is not _EXPIRED and token.calendar is not calendar):
            raise Refused(400, "invalid", "Invalid sync token value.")
        if token is _EXPIRED:
            raise Refused(410, "fullSyncRequired", "Sync token is no longer valid, a full sync is required.")
        if token.asked != _lasting(asked.query):
            self.problems.append(f"{asked.target}: asked otherwise than when the token was given: {token.asked}")
        return calendar.changed_since(token.position, single_events=asked.query.get("singleEvents") == "true")

    def _sync_token(self, stands_for: _SyncToken) -> str:
        token = secrets.token_urlsafe(20) + "="
        self._sync_tokens[token] = stands_for
        return token

    def _free_busy(self, asked: _Asked) -> Json:
        content = asked.content
        start, end = (datetime.fromisoformat(str(content.get(name))) for name in ("timeMin", "timeMax"))
        items = content.get("items", [])
        assert isinstance(items, list)
        if end <= start:
            raise Refused(400, "timeRangeEmpty", "The specified time range is empty.")
        if end - start > timedelta(days=FREE_BUSY_DAYS_MOST):
            raise Refused(400, "timeRangeTooLong", "The requested time range is too long.")
        if len(items) > FREE_BUSY_CALENDARS_MOST:
            raise Refused(400, "tooManyCalendarsRequested", "Too many calendars were requested.")
        told = {str(item["id"]): self._busy(str(item["id"]), asked.email, start, end) for item in items}
        return {
            "kind": "calendar#freeBusy",
            "timeMin": start.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "timeMax": end.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "calendars": told,
        }

    def _busy(self, calendar_id: str, email: str, start: datetime, end: datetime) -> Json:
        try:
            calendar = self.calendars.calendar(calendar_id, email)
        except Refused:
            return {"errors": [{"domain": "global", "reason": "notFound"}]}
        if calendar_id in self.free_busy_errors:
            return {"errors": [{"domain": "global", "reason": self.free_busy_errors[calendar_id]}]}
        spans = [
            {"start": since.strftime("%Y-%m-%dT%H:%M:%SZ"), "end": until.strftime("%Y-%m-%dT%H:%M:%SZ")}
            for since, until in calendar.busy(start, end)
        ]
        return {"busy": spans} if spans else {}

    def _page(self, asked: _Asked, items: list[Json], usual: int, most: int, sync_token: str) -> Json:
        """As many as are asked for. A token is good for the request that it was given to, and only for that."""
        query = dict(asked.query)
        token = query.pop("pageToken", None)
        same = json.dumps([asked.method.id, asked.ids, sorted(query.items())])
        if token is not None:
            before, items, sync_token = self._next_pages.get(token, ("", [], ""))
            if before != same:
                raise Refused(400, "invalid", "Invalid page token value.")
        size = min(int(query.get("maxResults", usual)), most, self.page_most)
        page: Json = {"items": items[:size]} if items else {}
        if len(items) > size:
            following = secrets.token_urlsafe(30) + "=="
            self._next_pages[following] = same, items[size:], sync_token
            return {**page, "nextPageToken": following}
        return {**page, "nextSyncToken": sync_token} if self.gives_sync_tokens else page

    def _fault(self, method: str, target: str) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method in ("", method) and fault.within in target:
                    fault.times -= 1
                    if fault.times <= 0:
                        self._faults.remove(fault)
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, fake: GoogleFake):
        self.fake = fake
        self.lines: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that was killed resets its line; everything else is told."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

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

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


_EXPIRED = _SyncToken(GoogleCalendar("", "", "UTC", ""), 0, {})


def _lasting(query: Mapping[str, str]) -> dict[str, str]:
    """Parameters that have to be the same whenever a sync token is used: all but where one is, and how much is told."""
    passing = ("pageToken", "syncToken", "fields", "timeMin", "timeMax")
    return {name: value for name, value in query.items() if name not in passing}


def _of(answer: OAuthAnswer) -> _Reply:
    return _Reply(answer.status, answer.body, answer.headers, answer.content_type)


def _failed(fault: _Fault) -> _Reply:
    headers = {} if fault.retry_after is None else {"Retry-After": fault.retry_after}
    if fault.body is not None:
        return _Reply(fault.status, fault.body, headers)
    return _Reply(fault.status, _refusal(Refused(fault.status, fault.reason, fault.reason)).body, headers)


def _refusal(refused: Refused, **more: object) -> _Reply:
    entry = {"domain": "global", "reason": refused.reason, "message": refused.message}
    error = {"code": refused.status, "message": refused.message, "errors": [entry], **more}
    return _Reply(refused.status, json.dumps({"error": error}).encode())
