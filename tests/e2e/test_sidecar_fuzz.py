"""Every path of the sidecar under requests that no browser sends: odd verbs, doubled values, long and binary ones, lies.

A whole service, its requests written byte by byte. `SIDECAR_FUZZ=5000` makes so many requests instead of a few; others
each time, and a failure prints how to repeat it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import h11
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calendar_server.sidecar.api import STATUSES
from calendar_server.sidecar.app import SECURITY_HEADERS
from calendar_server.sidecar.bindings import bindings
from calendars.v1 import calendar_service_pb2 as pb
from tests.e2e.conftest import Running, serving, sqlite_settings

LONG = "SIDECAR_FUZZ" in os.environ
REQUESTS = int(os.environ.get("SIDECAR_FUZZ", "250"))
"""Requests in all."""
ANSWER_S = 15.0
"""Seconds for an answer. The longest that the service waits for anything is ten."""
BODY_BYTES = 64 * 1024
LANDING = "https://app.example.org/connected"
MARK = "zq7Xw"
"""Stands in everything that is sent. Where it comes back, something was reflected."""
STATE = "{state}"
"""Stands for the state of an authorization that is waited for."""

BINDINGS = bindings(pb.DESCRIPTOR.services_by_name["CalendarService"])
API = sorted({each.path.replace("{id}", "cal_1").replace("{connection_id}", "cal_1") for each in BINDINGS})
PATHS = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/oauth/google/callback",
    "/oauth/microsoft/callback",
    "/webhooks/google",
    "/webhooks/microsoft",
    "/v1/openapi.json",
    *API,
    "/v1",
    "/v1/",
    "/",
    "*",
    f"/{MARK}",
    f"/v1/{MARK}",
]
BODIES_TAKEN = ["/webhooks/google", "/webhooks/microsoft", "/v1/busy", "/v1/bookings/cal_1", "/v1/calendars/cal_1"]
VERBS = {"POST", "PUT", "PATCH"}
ALWAYS = {400, 404, 405}
"""What any path may answer."""

ODD_VERBS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "Post"]
ODD = [
    MARK,
    f"<script>{MARK}</script>",
    f"%3Cscript%3E{MARK}%3C/script%3E",
    f"{MARK}%00{MARK}",
    f"{MARK}%0d%0aSet-Cookie:%20{MARK}=1",
    f"{MARK}%0d%0a%0d%0a<html>{MARK}",
    f"..%2f..%2fetc%2f{MARK}",
    f"../../{MARK}",
    f"%{MARK}",
    f"%ff%fe{MARK}",
    f"%c0%af{MARK}",
    f"%u2028{MARK}",
    f"{{{{{MARK}}}}}",
    f"' OR '{MARK}'='{MARK}",
    f"//{MARK}.example.org/",
    f"https://{MARK}.example.org/",
    f"javascript:alert('{MARK}')",
    MARK * 40,
    MARK * 900,
    MARK * 2500,
    "",
]
NAMES = [
    "code",
    "state",
    "error",
    "error_description",
    "admin_consent",
    "validationToken",
    "ids",
    "page_size",
    "status",
]
NAMES += ["redirect_uri", "client_state", "owner", "page_token", MARK, f"{MARK}[]", "%00"]
HEADER_NAMES = ["X-Request-Id", "Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Http-Method-Override", "Forwarded"]
HEADER_NAMES += ["Cookie", "Range", "If-None-Match", "Expect", "Upgrade", "Connection", "Accept-Encoding", "Origin"]
HEADER_NAMES += ["Content-Type", "Content-Encoding", "X-Goog-Channel-ID", "X-Goog-Channel-Token", "Referer", MARK]
HEADER_VALUES = [
    *ODD,
    "100-continue",
    "websocket",
    "Upgrade",
    "h2c",
    "close",
    "bytes=0-,-1",
    "gzip",
    "application/json",
]
HEADER_VALUES += ["text/html", f'application/json; charset="{MARK}"', f"for={MARK};host={MARK}"]

bounds = settings(
    max_examples=REQUESTS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    # The same requests each time in the short form.
    derandomize=not LONG,
    print_blob=True,
)


class Sent:
    """One request as it goes over the wire, told in short."""

    def __init__(self, verb: str, target: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), body: bytes = b""):
        self.verb = verb
        self.target = target
        self.headers = headers
        self.body = body

    @property
    def raw(self) -> bytes:
        head = b"".join(name + b": " + value + b"\r\n" for name, value in self.headers)
        return self.verb.encode() + b" " + self.target + b" HTTP/1.1\r\n" + head + b"\r\n" + self.body

    def __repr__(self) -> str:
        raw = self.raw
        return f"{raw[:600]!r}{'' if len(raw) <= 600 else f' … {len(raw)} bytes'}"


@dataclass(frozen=True)
class Answer:
    """What came back, read by the rules of HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_json(self) -> bool:
        return self.headers.get("content-type", "").startswith("application/json")


@dataclass
class Sidecar:
    """The service, and somebody with a key who writes requests by hand."""

    running: Running
    key: str

    @property
    def port(self) -> int:
        return int(self.running.http.rpartition(":")[2])

    def send(self, sent: Sent) -> Answer:
        """Send a request; what comes back must be one answer as HTTP has it, in time."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_S) as line:
            reader = h11.Connection(h11.CLIENT)
            # What HTTP makes of an answer depends on the verb.
            verb = sent.verb if sent.verb in ("HEAD", "CONNECT") else "GET"
            reader.send(h11.Request(method=verb, target="/", headers=[("host", "a")]))
            reader.send(h11.EndOfMessage())
            # Refused before it was whole, perhaps: the answer may be there already.
            with contextlib.suppress(OSError):
                line.sendall(sent.raw)
            return read(line, reader)

    def polite(self, path: str = "/healthz", **more: str) -> httpx.Response:
        return httpx.get(f"{self.running.http}{path}", trust_env=False, timeout=ANSWER_S, headers=more)

    def state(self) -> str:
        """A state that the callback of Google is waited for with."""
        answer = httpx.get(
            f"{self.running.http}/v1/calendars/google/connect",
            params={"redirect_uri": LANDING, "client_state": "mine"},
            headers={"authorization": f"Bearer {self.key}"},
            trust_env=False,
        )
        return parse_qs(urlsplit(answer.json()["authorization_url"]).query)["state"][0]

    def unforeseen(self) -> list[str]:
        """Lines of the log that tell of what should not happen."""
        lines = self.running.log.read_text().splitlines()
        return [line for line in lines if "Traceback" in line or '"level": "error"' in line or not line.startswith("{")]


def read(line: socket.socket, reader: h11.Connection) -> Answer:
    """The final answer on this line. Fails for a line that ends, or says what is not HTTP, before it is whole."""
    status, headers, body = 0, {}, b""
    while True:
        event = reader.next_event()
        if event is h11.NEED_DATA:
            reader.receive_data(line.recv(65536))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
            assert len(headers) == len(event.headers), event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status, headers, body)
        else:
            assert isinstance(event, h11.InformationalResponse), event


def documented(path: str) -> set[int]:
    """The statuses that a path may answer with. 500 is none of them."""
    if path.startswith("/oauth/"):
        return ALWAYS | {200, 303}
    if path.startswith("/webhooks/"):
        return ALWAYS | {200, 202, 408, 413, 415}
    if path.startswith("/v1"):
        known = {status for status, _ in STATUSES.values()} - {500, 503}
        return ALWAYS | known | {200, 201, 408, 413, 414, 415}
    return ALWAYS | {200, 413}


def check(sent: Sent, answer: Answer, path: str) -> None:
    """An answer of a documented kind, with the headers that are promised, and nothing of the request in it."""
    assert answer.status in documented(path), answer
    for name, value in SECURITY_HEADERS.items():
        told = answer.headers[name]
        # The pages for people allow their own style sheet.
        assert told == value or (name == "content-security-policy" and told.startswith("default-src 'none'; ")), answer
    assert "server" not in answer.headers
    assert b"Traceback" not in answer.body
    for name, value in answer.headers.items():
        ours = name == "x-request-id" and value.replace("-", "").replace(".", "").replace("_", "").isalnum()
        assert ours or MARK not in value, answer
    if MARK.encode() in answer.body:
        validated = path == "/webhooks/microsoft" and answer.status == 200
        assert validated or answer.is_json, answer
        assert not validated or answer.headers["content-type"] == "text/plain; charset=utf-8"
    if answer.is_json and answer.body:
        told = json.loads(answer.body)
        if answer.status >= 400:
            assert list(told) == ["error"]
            assert list(told["error"]) == ["code", "message", "details"]
    if answer.status == 303:
        assert answer.headers["location"].startswith(f"{LANDING}?"), answer


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    folder: Path = tmp_path_factory.mktemp("sidecar-fuzz")
    settings = sqlite_settings(
        folder,
        CALENDAR_HTTP_API="1",
        CALENDAR_GOOGLE_CLIENT_ID="client",
        CALENDAR_GOOGLE_CLIENT_SECRET="secret",
        CALENDAR_REDIRECT_URIS=LANDING,
        CALENDAR_REQUEST_BYTES=str(BODY_BYTES),
        CALENDAR_OAUTH_PER_MINUTE="1000000",
        CALENDAR_WEBHOOKS_PER_MINUTE="1000000",
    )
    with serving(settings, folder) as running:
        yield Sidecar(running, running.key())


# What is sent


def values() -> st.SearchStrategy[bytes]:
    """Something odd, in bytes that a request line may hold."""
    printable = st.binary(max_size=30).map(lambda raw: bytes(0x21 + each % 94 for each in raw))
    return st.sampled_from(ODD).map(lambda text: text.replace(" ", "%20").encode()) | printable


def targets(path: str) -> st.SearchStrategy[bytes]:
    """The path, as it is or beside what it should be, with a query."""
    pair = st.builds(
        lambda name, value: name.encode() + b"=" + value,
        st.sampled_from(NAMES),
        values() | st.just(STATE.encode()) | st.just(STATE.encode()),
    )
    # Two in three of the pairs come twice.
    pairs = st.lists(pair, max_size=4).flatmap(lambda few: st.sampled_from([few, few + few, few + few[::-1]]))
    plain = path.encode()
    places = st.sampled_from([plain] * 8) | st.sampled_from(
        [
            plain + b"/",
            b"/" + plain,
            plain.upper(),
            plain.replace(b"/", b"/./"),
            plain.replace(b"o", b"%6f"),
            b"http://" + MARK.encode() + b".example.org" + plain,
            b"http://127.0.0.1" + plain,
            plain.replace(b"cal_1", b"%00" + MARK.encode()),
            plain.replace(b"cal_1", b"%ff" + MARK.encode()),
            plain.replace(b"cal_1", MARK.encode() * 100),
            plain + b"/%2e%2e/" + MARK.encode(),
            plain + b";" + MARK.encode(),
        ]
    )
    return st.builds(lambda place, query: place + (b"?" + b"&".join(query) if query else b""), places, pairs)


def heads() -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Odd headers, some of them twice."""
    raw = st.binary(max_size=30).map(lambda value: value.replace(b"\r", b"r").replace(b"\n", b"n"))
    value = st.sampled_from(HEADER_VALUES).map(str.encode) | raw
    pair = st.tuples(st.sampled_from(HEADER_NAMES).map(str.encode), value)
    return st.lists(pair, max_size=4).flatmap(lambda few: st.sampled_from([few, few, few + few]))


def contents() -> st.SearchStrategy[bytes]:
    """Bodies: JSON that is nearly right, other JSON, other bytes, and too much."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.sampled_from(ODD)
    keys = st.sampled_from([*NAMES, "booking", "connection_ids", "start_time", "value", "clientState", "update_mask"])
    any_json = st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
    )
    return st.one_of(
        any_json.map(lambda told: json.dumps(told).encode()),
        st.binary(max_size=200),
        st.sampled_from([f'{{"{MARK}": 1, "{MARK}": 2}}'.encode(), b"[" * 5000, b'{"a":' * 3000, b'"\\ud800"', b""]),
        st.sampled_from([BODY_BYTES - 1, BODY_BYTES, BODY_BYTES + 1, 3 * BODY_BYTES]).map(lambda size: b" " * size),
    )


def chunked(body: bytes, size: int) -> bytes:
    pieces = (body[at : at + size] for at in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def framed(draw: st.DrawFn, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers that say how long a body is, rightly or not, and the bytes that follow. None leaves one waiting."""
    length, coded = b"%d" % len(body), chunked(body, draw(st.sampled_from([1000, 65536])))
    right, kind = (b"Content-Length", length), b"Transfer-Encoding"
    ways: list[tuple[list[tuple[bytes, bytes]], bytes]] = [
        ([right], body),
        ([right], body),
        ([right], body),
        ([right, right], body),
        ([right, (b"Content-Length", b"%d" % (len(body) + 1))], body),
        ([(b"Content-Length", length + b", " + length)], body),
        ([(b"Content-Length", b"-1")], body),
        ([(b"Content-Length", b"+" + length)], body),
        ([(b"Content-Length", b"0x10")], body),
        ([(b"Content-Length", b"9" * 30)], b"") if not body else ([(b"Content-Length", b"1 2")], body),
        ([(b"Content-Length", b"\xb2")], body),
        ([(kind, b"chunked")], coded),
        ([(kind, b"chunked")], coded),
        ([(kind, b"chunked"), (kind, b"chunked")], coded),
        ([(kind, b"chunked"), right], coded),
        ([(kind, b"gzip, chunked")], coded),
        ([(kind, MARK.encode())], body),
        ([(kind, b"chunked")], b"zz\r\n" + body),
        ([(kind, b"chunked")], b"-1\r\n" + body + b"\r\n0\r\n\r\n"),
        ([(kind, b"chunked")], b"5;" + MARK.encode() + b"\r\nabcdefghij\r\n0\r\n\r\n"),
        ([(kind, b"chunked")], b"f" * 30 + b"\r\n" + body),
        ([(kind, b"chunked")], b"0\r\n" + MARK.encode() + b": 1\r\n\r\n"),
        ([], body),
        ([], b""),
    ]
    # By number: bodies are long, and choices are told in full.
    return ways[draw(st.integers(0, len(ways) - 1))]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Sent]:
    """A path, and a request for it."""
    path = draw(st.sampled_from(PATHS))
    known = sorted({each.verb for each in BINDINGS if each.path.startswith(path.split("cal_1")[0])} | {"GET", "POST"})
    odd = st.sampled_from([*ODD_VERBS, MARK, "A" * 3000, "G-T", "G!T"])
    verb = draw(st.sampled_from(known) | st.sampled_from(known) | odd)
    headers = [(b"Host", b"127.0.0.1")] * draw(st.sampled_from([1] * 12 + [0, 2]))
    body = b""
    framing: list[tuple[bytes, bytes]] = []
    if verb in VERBS or not draw(st.integers(0, 3)):
        framing, body = framed(draw, draw(contents()))
        headers += [(b"Content-Type", b"application/json")] * draw(st.sampled_from([1, 1, 1, 0, 2]))
    return path, Sent(verb, draw(targets(path)), (*headers, *framing, *draw(heads())), body)


# What holds


def test_every_path_under_odd_requests(sidecar: Sidecar) -> None:
    seen: dict[str, set[int]] = defaultdict(set)
    key = (b"Authorization", b"Bearer " + sidecar.key.encode())

    @bounds
    @given(requests())
    def fuzz(made: tuple[str, Sent]) -> None:
        path, sent = made
        target = sent.target
        if STATE.encode() in target and path.startswith("/oauth/google"):
            target = target.replace(STATE.encode(), sidecar.state().encode())
        # Without a key the API says 401 and no more; who sends that often is slowed, which is tested elsewhere.
        headers = (*sent.headers, key) if "/v1" in path else sent.headers
        answer = sidecar.send(Sent(sent.verb, target, headers, sent.body))
        check(sent, answer, path)
        seen[path].add(answer.status)
        if path in BODIES_TAKEN and len(sent.body) > 2 * BODY_BYTES:
            assert answer.status >= 400, answer

    fuzz()
    assert sidecar.unforeseen() == []
    assert sidecar.polite().text == "ok\n"
    # It would prove little if every request were refused at the door.
    told = {status for statuses in seen.values() for status in statuses}
    assert {200, 400, 404, 405} <= told, seen
    assert 200 in seen["/metrics"] | seen["/healthz"] | seen["/readyz"]
    assert len(seen) >= len(PATHS) - 3


LIES = {
    "less than announced": ([(b"Content-Length", b"5000")], b"{"),
    "nothing of what was announced": ([(b"Content-Length", b"1")], b""),
    "a chunk that does not come": ([(b"Transfer-Encoding", b"chunked")], b"ff\r\n{"),
    "chunks without an end": ([(b"Transfer-Encoding", b"chunked")], b"1\r\n{\r\n"),
    "more than there can be": ([(b"Content-Length", b"999999999999")], b"{" * 100),
}


def test_what_never_comes_whole_is_answered_all_the_same(sidecar: Sidecar) -> None:
    """Of all paths at once. The API waits ten seconds for a body: that is for the long form."""
    asked = [
        (path, Sent(verb, path.encode(), (*head(sidecar), *framing), body))
        for path in PATHS
        for verb in ("POST", "GET")
        for framing, body in LIES.values()
        if LONG or not path.startswith("/v1") or verb == "GET"
    ]
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = list(threads.map(lambda made: sidecar.send(made[1]), asked))
    for (path, sent), answer in zip(asked, answers, strict=True):
        check(sent, answer, path)
    assert sidecar.polite().text == "ok\n"
    assert sidecar.unforeseen() == []


def head(sidecar: Sidecar) -> list[tuple[bytes, bytes]]:
    key = b"Bearer " + sidecar.key.encode()
    return [(b"Host", b"127.0.0.1"), (b"Content-Type", b"application/json"), (b"Authorization", key)]


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/v1/openapi.json", "/oauth/google/callback"])
def test_nonsense_after_the_answer_ends_the_line_and_nothing_else(sidecar: Sidecar, path: str) -> None:
    sent = Sent("GET", path.encode(), ((b"Host", b"a"), (b"Transfer-Encoding", b"chunked")))
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=ANSWER_S) as line:
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
        reader.send(h11.EndOfMessage())
        line.sendall(sent.raw)
        check(sent, read(line, reader), path)
        line.sendall(b"no chunk\r\n")
        assert line.recv(1) == b""
    assert sidecar.unforeseen() == []


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_goes_on_and_on_is_cut(sidecar: Sidecar, path: str) -> None:
    """Whether a path takes a body or not: what nobody reads is not taken off the line for ever."""
    sent = Sent("POST", path.encode(), (*head(sidecar), (b"Transfer-Encoding", b"chunked")))
    taken = 0
    with socket.create_connection(("127.0.0.1", sidecar.port), timeout=ANSWER_S) as line:
        line.sendall(sent.raw)
        with contextlib.suppress(OSError):
            while taken < 64 * 2**20:
                line.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
                taken += 65536
    assert taken < 64 * 2**20
    assert sidecar.polite().text == "ok\n"


@pytest.mark.parametrize(
    "authorization",
    [
        (),
        (b"Bearer calkey_" + MARK.encode(),),
        (b"Bearer calkey_\xff\xfe_" + MARK.encode(),),
        (b"Basic " + MARK.encode(),),
        (b"Bearer " + MARK.encode() * 2000,),
        (b"good", b"good"),
    ],
)
def test_a_key_that_is_none_is_one_and_the_same_401(sidecar: Sidecar, authorization: tuple[bytes, ...]) -> None:
    good = b"Bearer " + sidecar.key.encode()
    headers = [(b"Authorization", good if each == b"good" else each) for each in authorization]
    sent = Sent("GET", b"/v1/calendars?" + MARK.encode(), ((b"Host", b"a"), *headers))
    answer = sidecar.send(sent)
    check(sent, answer, "/v1/calendars")
    assert answer.status == 401
    none = cast("dict[str, object]", sidecar.polite("/v1/calendars").json())
    assert json.loads(answer.body) == none


def test_what_is_reflected_would_be_noticed() -> None:
    """The checks above can fail."""
    headers = {**SECURITY_HEADERS, "content-type": "text/html"}
    sent = Sent("GET", b"/healthz")
    check(sent, Answer(200, headers, b"fine"), "/healthz")
    for answer in (
        Answer(200, headers, MARK.encode()),
        Answer(200, {**headers, "x-other": MARK}, b""),
        Answer(200, {**headers, "x-request-id": f"{MARK}<"}, b""),
        Answer(500, headers, b""),
        Answer(303, {**headers, "location": "https://example.org/"}, b""),
    ):
        with pytest.raises(AssertionError):
            check(sent, answer, "/healthz")
    for name in SECURITY_HEADERS:
        with pytest.raises(KeyError):
            check(sent, Answer(200, {key: value for key, value in headers.items() if key != name}, b""), "/healthz")
