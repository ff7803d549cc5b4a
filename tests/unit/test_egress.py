"""The way out: where it goes, how long it takes, how much it reads, and what it makes of servers that lie."""

from __future__ import annotations

import contextlib
import gzip
import logging
import socket
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from calendar_server.errors import CalendarError, ForbiddenDestination, ProviderUnavailable
from calendar_server.providers.addresses import parse_url
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import AllowList, AnswerTooLarge, Egress
from calendar_server.providers.egress_gate import Gate
from calendar_server.providers.egress_http import PIECE_BYTES, PIECES_MAX
from calendar_server.providers.egress_share import FREE_BYTES, STEP_BYTES
from tests.fakes.raw_server import Handler, RawConnection, RawRequest, RawServer, answer
from tests.unit.ways_out import (
    ANSWER_BYTES,
    CHUNKED,
    EXCHANGE_S,
    HEAD,
    PUBLIC,
    SLACK_S,
    Names,
    floods,
    get,
    hello,
    sends,
    way_out,
)

# The exchange


def test_an_answer_comes_back_whole(egress: Egress) -> None:
    with RawServer(sends(answer(207, b"<x/>", [("ETag", '"1"'), ("X-A", "1"), ("x-a", "2")]))) as server:
        found = get(egress, server.url + "/a")
    assert (found.status, found.body, found.url) == (207, b"<x/>", server.url + "/a")
    assert found.headers == {"etag": '"1"', "x-a": "1, 2", "content-length": "4"}


@pytest.mark.parametrize("status", [200, 204, 301, 304, 401, 404, 412, 500, 503, 599])
def test_whatever_status_a_server_sends_is_an_answer(egress: Egress, status: int) -> None:
    with RawServer(sends(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())) as server:
        assert get(egress, server.url).status == status


def test_redirects_are_not_followed(egress: Egress) -> None:
    with RawServer(hello) as other, RawServer(sends(answer(302, b"", [("Location", other.url)]))) as server:
        assert get(egress, server.url).status == 302
        assert other.connections == []


def test_several_challenges_stay_apart(egress: Egress) -> None:
    challenges = [("WWW-Authenticate", 'Basic realm="a, b"'), ("WWW-Authenticate", "Digest x=1")]
    with RawServer(sends(answer(401, b"", challenges))) as server:
        found = get(egress, server.url)
    assert [value for name, value in found.header_list if name == "www-authenticate"] == [
        'Basic realm="a, b"',
        "Digest x=1",
    ]


def test_conversations_hold_only_so_much_together() -> None:
    large = answer(200, b"x" * (FREE_BYTES + 1000))
    with way_out(answer_bytes=10**6, held_bytes=STEP_BYTES) as egress, RawServer(sends(large)) as server:
        with ThreadPoolExecutor(2) as threads, threads_hold(egress, server.url, threads, 2):
            # One that fits, and one beyond.
            with pytest.raises(ProviderUnavailable, match="Too many large"):
                get(egress, server.url, within_s=0.3)
            with RawServer(hello) as other:
                assert get(egress, other.url).body == b"hello"
        assert len(get(egress, server.url).body) == FREE_BYTES + 1000


@contextlib.contextmanager
def threads_hold(egress: Egress, url: str, threads: ThreadPoolExecutor, count: int) -> Iterator[None]:
    """So many conversations that go on after they were answered."""
    ends, answered = threading.Event(), threading.Semaphore(0)

    def converse() -> None:
        with egress.conversation():
            get(egress, url)
            answered.release()
            ends.wait(20)

    conversations = [threads.submit(converse) for _ in range(count)]
    try:
        assert all(answered.acquire(timeout=20) for _ in conversations)
        yield
    finally:
        ends.set()
    for each in conversations:
        each.result(20)


def test_a_request_arrives_as_it_was_meant(egress: Egress) -> None:
    with RawServer(hello) as server:
        egress.exchange(
            "REPORT",
            server.url + "/dav/ü x?a=b#part",
            headers={"Depth": "1", "If-Match": '"é"'},
            content=b"<query/>",
            deadline=Deadline.after(5),
        )
    request = server.requests[0]
    assert (request.method, request.path, request.body) == ("REPORT", "/dav/%C3%BC%20x?a=b", b"<query/>")
    assert request.headers["depth"] == "1"
    assert request.headers["if-match"] == '"é"'
    assert request.headers["host"] == f"127.0.0.1:{server.port}"


def test_a_long_request_arrives_whole_though_it_is_read_late(egress: Egress) -> None:
    content = bytes(range(256)) * 40_000
    with RawServer(hello, on_connect=lambda connection: time.sleep(0.3)) as server:
        egress.exchange("PUT", server.url + "/a", headers={}, content=content, deadline=Deadline.after(10))
    assert server.requests[0].body == content


def test_headers_that_the_way_out_answers_for_cannot_be_overridden(egress: Egress) -> None:
    ours = {"host": "inner", "Accept-Encoding": "gzip", "Content-Length": "99", "Transfer-Encoding": "chunked"}
    with RawServer(hello) as server:
        egress.exchange("PUT", server.url, headers=ours, content=b"abc", deadline=Deadline.after(5))
    request = server.requests[0]
    assert request.body == b"abc"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["accept-encoding"] == "identity"
    assert "transfer-encoding" not in request.headers


@pytest.mark.parametrize(("method", "length"), [("GET", None), ("DELETE", None), ("PROPFIND", "0"), ("PUT", "0")])
def test_only_methods_that_may_have_a_body_tell_the_length_of_an_empty_one(
    egress: Egress, method: str, length: str | None
) -> None:
    with RawServer(hello) as server:
        egress.exchange(method, server.url, headers={}, deadline=Deadline.after(5))
    assert server.requests[0].headers.get("content-length") == length


def test_a_line_break_in_a_header_does_not_make_another_header(egress: Egress) -> None:
    with RawServer(hello) as server, pytest.raises(ProviderUnavailable):
        egress.exchange("GET", server.url, headers={"x": "a\r\nevil: 1"}, deadline=Deadline.after(5))
    assert server.requests == []


def test_cookies_are_not_kept(egress: Egress) -> None:
    with RawServer(sends(answer(200, b"", [("Set-Cookie", "a=b; Path=/")]), close=False)) as server:
        get(egress, server.url)
        get(egress, server.url)
    assert "cookie" not in server.requests[1].headers


def test_proxies_of_the_environment_are_not_used(egress: Egress, monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(hello) as proxy, RawServer(hello) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with way_out() as fresh:
            get(fresh, server.url)
        assert proxy.connections == []


def test_interim_answers_are_passed_over(egress: Egress) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    with RawServer(sends(interim, answer(200, b"hello"))) as server:
        assert get(egress, server.url).body == b"hello"


def test_an_answer_that_ends_with_the_connection_is_whole(egress: Egress) -> None:
    with RawServer(sends(HEAD + b"\r\nhello")) as server:
        assert get(egress, server.url).body == b"hello"


def test_a_chunked_answer_is_put_together(egress: Egress) -> None:
    with RawServer(sends(CHUNKED + b"3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n")) as server:
        assert get(egress, server.url).body == b"abcde"


def test_a_server_that_answers_before_it_has_read_the_request_is_heard(egress: Egress) -> None:
    def refuse(connection: RawConnection) -> None:
        connection.send(answer(413, b"too large", [("Connection", "close")]))
        connection.socket.shutdown(socket.SHUT_WR)

    with RawServer(hello, on_connect=refuse) as server:
        found = egress.exchange("PUT", server.url, headers={}, content=b"x" * 1_000_000, deadline=Deadline.after(5))
    assert found.status == 413


# Destinations

FORBIDDEN = [
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "https://localhost:{port}/",
    "https://LOCALHOST.:{port}/",
    "https://a.localhost:{port}/",
    "https://2130706433:{port}/",
    "https://0x7f000001:{port}/",
    "https://0177.0.0.1:{port}/",
    "https://127.1:{port}/",
    "https://127.0.0.1.:{port}/",
    "https://①②⑦.⓪.⓪.①:{port}/",
    "https://127。0。0。1:{port}/",
    "https://%31%32%37.0.0.1:{port}/",
    "https://0.0.0.0:{port}/",
    "https://0:{port}/",
    "https://[::]:{port}/",
    "https://[::1]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[::127.0.0.1]:{port}/",
    "https://[64:ff9b::127.0.0.1]:{port}/",
    "https://[::ffff:0:127.0.0.1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[fe80::1%25lo]:{port}/",
    "https://[fd00:ec2::254]/",
    "https://169.254.169.254/latest/meta-data/",
    "https://user:password@127.0.0.1:{port}/",
    "https://public.example\\@127.0.0.1:{port}/",
    "https://inner.example:{port}/",
    "https://INNER.example.:{port}/",
    "https://mixed.example:{port}/",
    "https://mapped.example:{port}/",
    "https://garbage.example:{port}/",
    "http://public.example:{port}/",
    "ftp://public.example:{port}/",
    "file:///etc/passwd",
    "https:///",
    "",
]


def inner_names() -> Names:
    return Names(
        inner_example=[["127.0.0.1"]],
        mixed_example=[[PUBLIC, "127.0.0.1"]],
        mapped_example=[["::ffff:127.0.0.1"]],
        garbage_example=[["fe80::1%2"]],
        public_example=[[PUBLIC]],
    )


@pytest.mark.parametrize("url", FORBIDDEN)
def test_a_forbidden_destination_is_refused_in_one_text_and_nothing_is_dialled(url: str) -> None:
    with RawServer(hello) as server, way_out("", inner_names()) as egress:
        with pytest.raises(ForbiddenDestination) as refusal:
            get(egress, url.format(port=server.port))
        assert str(refusal.value) == str(ForbiddenDestination())
        assert refusal.value.metadata == {}
        assert server.connections == []


@pytest.mark.parametrize("url", FORBIDDEN)
def test_a_forbidden_destination_does_not_pass_the_check(url: str) -> None:
    with way_out("", inner_names()) as egress, pytest.raises(ForbiddenDestination):
        egress.check(url.format(port=443))


@pytest.mark.parametrize("url", ["https://public.example/", "https://public.example:8443/", f"https://{PUBLIC}/"])
def test_a_public_destination_passes_the_check_over_https(url: str) -> None:
    with way_out("", inner_names()) as egress:
        egress.check(url)


def test_a_name_that_does_not_resolve_is_unavailable_and_not_forbidden() -> None:
    with way_out("") as egress, pytest.raises(ProviderUnavailable) as failure:
        egress.check("https://unknown.example/")
    assert not isinstance(failure.value, ForbiddenDestination)


def test_an_answer_without_addresses_is_a_name_that_does_not_resolve() -> None:
    with way_out("", Names(empty_example=[[]])) as egress, pytest.raises(ProviderUnavailable, match="not known"):
        egress.check("https://empty.example/")


def test_a_name_that_changes_its_address_after_the_check_is_refused_at_use() -> None:
    names = Names(rebound_example=[["127.0.0.1"], ["127.0.0.2"]])
    with RawServer(hello, host="127.0.0.2") as inner, way_out("127.0.0.1", names) as egress:
        url = f"http://rebound.example:{inner.port}/"
        egress.check(url)
        with pytest.raises(ForbiddenDestination):
            get(egress, url)
        assert inner.connections == []


def test_the_address_that_was_judged_is_the_one_dialled() -> None:
    names = Names(rebound_example=[["127.0.0.1"], ["127.0.0.2"]])
    with RawServer(hello) as server, way_out("127.0.0.1", names) as egress:
        assert get(egress, f"http://rebound.example:{server.port}/").status == 200
    assert names.asked == ["rebound.example"]


def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    names = Names(two_example=[["127.0.0.9", "127.0.0.1"]])
    with RawServer(hello) as server, way_out(names=names) as egress:
        assert get(egress, f"http://two.example:{server.port}/").status == 200


def test_a_server_that_refuses_the_connection_is_unavailable(egress: Egress) -> None:
    with RawServer(hello) as server:
        url = server.url
    with pytest.raises(ProviderUnavailable, match="cannot be reached"):
        get(egress, url)


def test_the_host_header_keeps_the_name() -> None:
    with RawServer(hello) as server, way_out(names=Names(cloud_example=[["127.0.0.1"]])) as egress:
        get(egress, f"http://Cloud.Example.:{server.port}/")
    assert server.requests[0].headers["host"] == f"cloud.example:{server.port}"


def test_localhost_reaches_the_loopback_address_that_is_allowed() -> None:
    with RawServer(hello) as server, way_out("127.0.0.1") as egress:
        assert get(egress, f"http://localhost:{server.port}/").status == 200


def test_an_ipv6_literal_is_dialled() -> None:
    try:
        server = RawServer(hello, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server, way_out("[::1]") as egress:
        assert get(egress, server.url).status == 200
    assert server.requests[0].headers["host"] == f"[::1]:{server.port}"


@pytest.mark.parametrize(
    ("allow", "passes"),
    [
        ("inner.example", True),
        ("inner.example:{port}", True),
        ("inner.example:1", False),
        ("127.0.0.0/8", True),
        ("127.0.0.1:{port}", True),
        ("127.0.0.1:1", False),
        ("127.0.0.2", False),
        ("other.example", False),
    ],
)
def test_the_allow_list_opens_exactly_what_it_names(allow: str, passes: bool) -> None:
    with RawServer(hello) as server, way_out(allow.format(port=server.port), inner_names()) as egress:
        url = f"http://inner.example:{server.port}/"
        assert egress.plain_allowed(url) is passes
        with contextlib.nullcontext() if passes else pytest.raises(ForbiddenDestination):
            get(egress, url)
        assert len(server.connections) == int(passes)


@pytest.mark.parametrize("url", ["http://mixed.example/", "http://unknown.example/", f"http://{PUBLIC}/", "nonsense"])
def test_plain_http_is_not_for_hosts_beside_the_allow_list(url: str) -> None:
    with way_out("127.0.0.0/8", inner_names()) as egress:
        assert not egress.plain_allowed(url)


def test_an_allow_list_of_networks_does_not_open_plain_http_to_public_addresses() -> None:
    with way_out("127.0.0.0/8", inner_names()) as egress, pytest.raises(ForbiddenDestination):
        egress.check("http://public.example/")


def test_a_trusted_url_is_not_judged() -> None:
    with RawServer(hello) as server, way_out("", inner_names()) as egress:
        assert get(egress, f"http://inner.example:{server.port}/", trusted=True).status == 200


def test_a_line_of_a_trusted_exchange_is_not_lent_to_others() -> None:
    with RawServer(hello) as server, way_out("", inner_names()) as egress:
        get(egress, f"http://inner.example:{server.port}/", trusted=True)
        with pytest.raises(ForbiddenDestination):
            get(egress, f"http://inner.example:{server.port}/")
    assert len(server.requests) == 1


def test_looking_up_more_names_than_there_is_room_for_fails_at_once() -> None:
    silent = threading.Event()

    def never(host: str, port: int) -> list[str]:
        silent.wait(20)
        return []

    gate = Gate(AllowList(), never, lookups_max=2)
    parts = parse_url("https://slow.example/")
    try:
        for _ in range(2):
            with pytest.raises(ProviderUnavailable, match="in time"):
                gate.addresses(parts, Deadline.after(0.01))
        with pytest.raises(ProviderUnavailable, match="Too many"):
            gate.addresses(parts, Deadline.after(20))
    finally:
        silent.set()


# Time


def never_reads(connection: RawConnection) -> None:
    connection.hang()


def drip_interim(request: RawRequest, connection: RawConnection) -> None:
    connection.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, every_s=0.002)


SLOW: dict[str, Handler] = {
    "nothing comes": lambda request, connection: connection.hang(),
    "the head is dripped": lambda request, connection: connection.drip(HEAD + b"x: " + b"x" * 999),
    "the body comes in bytes without a pause": lambda request, connection: connection.drip(
        answer(200, bytes(ANSWER_BYTES - 1000)), every_s=0
    ),
    "the body is dripped": lambda request, connection: connection.drip(answer(200, b"x" * 999)),
    "chunks are dripped": lambda request, connection: connection.drip(CHUNKED + b"1\r\nx\r\n" * 999),
    "the end is dripped": lambda request, connection: connection.drip(HEAD + b"\r\n" + b"x" * 999),
    "interim answers never end": drip_interim,
    "the body stops": sends(answer(200, b"x", length=2), close=False),
}


@pytest.mark.parametrize("handler", SLOW.values(), ids=SLOW.keys())
def test_an_exchange_ends_by_its_time(handler: Handler) -> None:
    with RawServer(handler) as server, way_out(exchange_s=EXCHANGE_S) as egress:
        begun = time.monotonic()
        with pytest.raises(ProviderUnavailable, match="too long"):
            get(egress, server.url)
        assert time.monotonic() - begun < EXCHANGE_S + SLACK_S


def test_the_callers_deadline_ends_an_exchange_sooner() -> None:
    with RawServer(SLOW["nothing comes"]) as server, way_out(exchange_s=60) as egress:
        begun = time.monotonic()
        with pytest.raises(ProviderUnavailable, match="too long"):
            get(egress, server.url, within_s=EXCHANGE_S)
        assert time.monotonic() - begun < EXCHANGE_S + SLACK_S


def test_nothing_is_dialled_when_the_time_is_over(egress: Egress) -> None:
    with RawServer(hello) as server:
        with pytest.raises(ProviderUnavailable, match="too long"):
            get(egress, server.url, within_s=0)
        assert server.connections == []


def test_an_exchange_without_time_costs_no_kept_line(egress: Egress) -> None:
    with RawServer(hello) as server:
        get(egress, server.url)
        with pytest.raises(ProviderUnavailable):
            get(egress, server.url, within_s=0)
        get(egress, server.url)
        assert len(server.connections) == 1


def test_a_request_that_nobody_reads_ends_by_its_time() -> None:
    with RawServer(hello, on_connect=never_reads) as server, way_out(exchange_s=EXCHANGE_S) as egress:
        begun = time.monotonic()
        with pytest.raises(ProviderUnavailable, match="too long"):
            egress.exchange("PUT", server.url, headers={}, content=bytes(30_000_000), deadline=Deadline.after(60))
        assert time.monotonic() - begun < EXCHANGE_S + SLACK_S


@pytest.mark.parametrize(
    "hook", [never_reads, lambda connection: connection.drip(b"\x16\x03\x03\x40\x00" + bytes(999))]
)
def test_a_tls_handshake_that_hangs_or_is_dripped_ends_by_its_time(hook: Callable[[RawConnection], None]) -> None:
    with RawServer(hello, on_connect=hook) as server, way_out(exchange_s=EXCHANGE_S) as egress:
        begun = time.monotonic()
        with pytest.raises(ProviderUnavailable):
            get(egress, f"https://127.0.0.1:{server.port}/")
        assert time.monotonic() - begun < EXCHANGE_S + SLACK_S


INNER = [
    "https://nas/",
    "https://postgres:5432/",
    "https://NAS./",
    "https://vault.internal/",
    "https://metadata.google.internal./",
    "https://git.corp/",
    "https://router.lan/",
    "https://router.home.arpa/",
    "https://printer.local/",
    "https://api.default.svc/",
    "https://api.default.svc.cluster.local/",
]


@pytest.mark.parametrize("url", INNER)
@pytest.mark.parametrize("there", [True, False])
def test_whether_an_inner_name_is_there_is_not_told_and_not_even_asked(url: str, there: bool) -> None:
    asked: list[str] = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        if not there:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return ["10.0.0.1"]

    for allow in ("", "other.internal", "192.168.0.0/24"):
        gate = Gate(AllowList.parse(allow), resolver)
        with pytest.raises(ForbiddenDestination) as refusal:
            gate.addresses(parse_url(url), Deadline.after(5))
        assert str(refusal.value) == str(ForbiddenDestination())
        assert not asked or "/" in allow  # only where a network is allowed, the name may lead into it
        asked.clear()


@pytest.mark.parametrize("allow", ["nas", "nas:443", "127.0.0.0/8", "127.0.0.1:443"])
def test_an_inner_name_that_is_allowed_is_looked_up(allow: str) -> None:
    gate = Gate(AllowList.parse(allow), Names(nas=[["127.0.0.1"]]))
    assert [str(address) for address in gate.addresses(parse_url("https://nas/"), Deadline.after(5))] == ["127.0.0.1"]


def test_an_inner_name_that_is_allowed_and_does_not_resolve_is_unavailable() -> None:
    with pytest.raises(ProviderUnavailable, match="not known"):
        Gate(AllowList.parse("nas"), Names()).addresses(parse_url("https://nas/"), Deadline.after(5))


def test_a_name_that_only_a_stranger_named_is_not_searched_for_in_our_own_domains() -> None:
    ours, absolute = Names(named_example=[["10.0.0.1"]]), Names(public_example=[[PUBLIC]])
    url = parse_url("https://public.example/")
    Gate(AllowList.parse("named.example"), ours, absolute=absolute).addresses(url, Deadline.after(5))
    assert (ours.asked, absolute.asked) == ([], ["public.example"])
    named = parse_url("https://named.example/")
    Gate(AllowList.parse("named.example"), ours, absolute=absolute).addresses(named, Deadline.after(5))
    Gate(AllowList(), ours, absolute=absolute).addresses(named, Deadline.after(5), trusted=True)
    with pytest.raises(ForbiddenDestination):
        Gate(AllowList.parse("192.168.0.0/24"), ours, absolute=absolute).addresses(named, Deadline.after(5))
    assert (ours.asked, absolute.asked) == (["named.example"] * 3, ["public.example"])


def test_a_mixed_answer_forbids_the_name_whatever_its_order() -> None:
    for addresses in ([PUBLIC, "127.0.0.1"], ["127.0.0.1", PUBLIC], [PUBLIC, "fd00::1"], [PUBLIC, "::ffff:10.0.0.1"]):
        gate = Gate(AllowList(), Names(mixed_example=[addresses]))
        with pytest.raises(ForbiddenDestination):
            gate.addresses(parse_url("https://mixed.example/"), Deadline.after(5))


def test_a_slow_look_up_ends_by_its_time() -> None:
    silent = threading.Event()

    def slow(host: str, port: int) -> list[str]:
        silent.wait(20)
        return ["127.0.0.1"]

    egress = Egress(allow=AllowList(), exchange_s=EXCHANGE_S, answer_bytes=ANSWER_BYTES, resolver=slow)
    begun = time.monotonic()
    try:
        with pytest.raises(ProviderUnavailable, match="in time"):
            get(egress, "https://slow.example/")
        assert time.monotonic() - begun < EXCHANGE_S + SLACK_S
    finally:
        silent.set()


# Bytes


NESTED = gzip.compress(gzip.compress(bytes(30_000_000)))
ENDLESS: dict[str, Handler] = {
    "a body without end": floods(HEAD + b"\r\n", bytes(60_000)),
    "a body as long as told": floods(HEAD + b"Content-Length: 9000000000\r\n\r\n", bytes(60_000)),
    "chunks without end": floods(CHUNKED, b"8000\r\n" + bytes(0x8000) + b"\r\n"),
    "one chunk without end": floods(CHUNKED + b"ffffffffff\r\n", bytes(60_000)),
    "tiny chunks": floods(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "a chunk extension without end": floods(CHUNKED + b"1;", b"x" * 60_000),
    "trailers without end": floods(CHUNKED + b"0\r\n", b"x: y\r\n" * 10_000),
    "a hundred thousand headers": sends(HEAD, b"a: b\r\n" * 100_000, b"\r\n"),
    "a header without end": floods(HEAD + b"a: ", b"x" * 60_000),
    "a folded header without end": floods(HEAD + b"a: b\r\n", b" x\r\n" * 10_000),
    "a status line without end": floods(b"HTTP/1.1 200 ", b"x" * 60_000),
    "interim answers without end": floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 3_000),
    "empty lines without end": floods(b"", b"\r\n" * 30_000),
    "spaces in a header": sends(HEAD + b"a: x" + b" " * 90_000 + b"\0\r\n\r\n"),
    "nested gzip": sends(answer(200, NESTED, [("Content-Encoding", "gzip")])),
}


@pytest.mark.parametrize("handler", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_answer_over_the_limits_fails_in_little_time_and_memory(handler: Handler) -> None:
    with RawServer(handler) as server, way_out(exchange_s=60) as egress:
        begun = time.thread_time()  # what it costs, however busy the machine is
        tracemalloc.start()
        try:
            with pytest.raises(ProviderUnavailable) as failure:
                get(egress, server.url, within_s=60)
            grown = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert "too long" not in str(failure.value)
        assert time.thread_time() - begun < 6
        # The server's thread is measured too: its pieces, and what it holds of them.
        assert grown < 12 * ANSWER_BYTES


@pytest.mark.parametrize(
    "pieces",
    [
        [answer(200, bytes(ANSWER_BYTES))],
        [HEAD + b"\r\n", bytes(ANSWER_BYTES)],
        [CHUNKED + b"%x\r\n" % ANSWER_BYTES, bytes(ANSWER_BYTES), b"\r\n0\r\n\r\n"],
    ],
    ids=["with a length", "until the end", "chunked"],
)
def test_head_and_body_together_are_held_to_the_limit(egress: Egress, pieces: list[bytes]) -> None:
    with RawServer(sends(*pieces)) as server, pytest.raises(AnswerTooLarge):
        get(egress, server.url)


def test_interim_answers_count_as_a_part_of_the_head(egress: Egress) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n" * 6_000
    with RawServer(sends(interim, answer(200))) as server, pytest.raises(ProviderUnavailable, match="head"):
        get(egress, server.url)


def test_the_number_of_tiny_chunks_is_bounded() -> None:
    whole = CHUNKED + b"1\r\nx\r\n" * (PIECES_MAX + PIECES_MAX // PIECE_BYTES + 1000) + b"0\r\n\r\n"
    with (
        RawServer(sends(whole)) as server,
        way_out(answer_bytes=2 * len(whole), exchange_s=30) as egress,
        pytest.raises(ProviderUnavailable, match="tiny pieces"),
    ):
        get(egress, server.url, within_s=30)


def test_chunks_that_hold_something_may_be_many() -> None:
    chunk = b"%x\r\n%s\r\n" % (PIECE_BYTES, bytes(PIECE_BYTES))
    whole = CHUNKED + chunk * (2 * PIECES_MAX) + b"0\r\n\r\n"
    with RawServer(sends(whole)) as server, way_out(answer_bytes=2 * len(whole), exchange_s=60) as egress:
        assert len(get(egress, server.url, within_s=60).body) == 2 * PIECES_MAX * PIECE_BYTES


def test_an_answer_within_the_limit_is_read(egress: Egress) -> None:
    body = bytes(ANSWER_BYTES - 1000)
    with RawServer(sends(answer(200, body))) as server:
        assert get(egress, server.url).body == body


def test_an_answer_that_tells_a_length_over_the_limit_is_not_read(egress: Egress) -> None:
    with RawServer(sends(answer(200, length=ANSWER_BYTES + 1), close=False)) as server, pytest.raises(AnswerTooLarge):
        get(egress, server.url)


@pytest.mark.parametrize(
    "encoding", ["gzip", "deflate", "br", "zstd", "x-gzip", "GZIP", "identity, gzip", "unheard-of"]
)
def test_an_encoded_answer_is_refused_unread(egress: Egress, encoding: str) -> None:
    coded = answer(200, headers=[("Content-Encoding", encoding)], length=100)
    with RawServer(sends(coded, close=False)) as server, pytest.raises(ProviderUnavailable, match="compressed"):
        get(egress, server.url)


def test_an_answer_that_is_called_plain_is_read(egress: Egress) -> None:
    with RawServer(sends(answer(200, b"hello", [("Content-Encoding", "identity")]))) as server:
        assert get(egress, server.url).body == b"hello"


def test_an_answer_without_a_body_may_be_called_compressed(egress: Egress) -> None:
    with RawServer(sends(HEAD.replace(b"200", b"204") + b"Content-Encoding: gzip\r\n\r\n")) as server:
        assert get(egress, server.url).status == 204


# Cut and malformed answers

CUT: dict[str, Handler] = {
    "nothing": sends(),
    "a reset": lambda request, connection: connection.reset(),
    "half a status line": sends(b"HTTP/1.1 2"),
    "half a head": sends(HEAD + b"Content-Length: 0\r\n"),
    "a body shorter than told": sends(answer(200, b"abc", length=4)),
    "no last chunk": sends(CHUNKED + b"3\r\nabc\r\n"),
    "half a chunk": sends(CHUNKED + b"5\r\nabc"),
    "no end of trailers": sends(CHUNKED + b"0\r\n"),
    "a wrong chunk size": sends(CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n"),
    "a chunk longer than told": sends(CHUNKED + b"2\r\nabc\r\n0\r\n\r\n"),
    "two lengths": sends(HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "a negative length": sends(HEAD + b"Content-Length: -1\r\n\r\nabc"),
    "a length that is no number": sends(HEAD + b"Content-Length: 3x\r\n\r\nabc"),
    "a length of thousands of digits": sends(HEAD + b"Content-Length: " + b"9" * 9000 + b"\r\n\r\nabc"),
    "an unknown transfer encoding": sends(HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "a switch of protocols": sends(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "a header without a name": sends(HEAD + b": x\r\n\r\n"),
    "a header with a NUL": sends(HEAD + b"x: a\0b\r\n\r\n"),
    "no HTTP": sends(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "a body alone": sends(b"<html>hello</html>"),
    "TLS": sends(b"\x15\x03\x01\x00\x02\x02\x46"),
}


@pytest.mark.parametrize("handler", CUT.values(), ids=CUT.keys())
def test_a_cut_or_malformed_answer_is_none(egress: Egress, handler: Handler) -> None:
    with RawServer(handler) as server, pytest.raises(ProviderUnavailable) as failure:
        get(egress, server.url)
    assert not isinstance(failure.value, ForbiddenDestination)


# Secrecy

CANARY = "canary-7f3a"


@pytest.mark.parametrize(
    "handler",
    [
        sends(answer(200, CANARY.encode(), [("X-Secret", CANARY), ("Set-Cookie", CANARY)])),
        sends(HEAD + CANARY.encode() + b" broken header\r\n\r\n"),
        sends(CHUNKED + CANARY.encode() + b"\r\n"),
        sends(answer(200, CANARY.encode(), length=ANSWER_BYTES + 1)),
        lambda request, connection: connection.reset(),
    ],
)
def test_no_log_line_and_no_error_holds_what_went_out_or_came_in(
    egress: Egress, handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    told = ""
    with RawServer(handler) as server:
        try:
            found = egress.exchange(
                "PUT",
                f"{server.url}/{CANARY}?{CANARY}",
                headers={"Authorization": f"Basic {CANARY}"},
                content=CANARY.encode(),
                deadline=Deadline.after(5),
            )
            told = repr(found)
        except CalendarError as error:
            told = "".join(traceback.format_exception(error)) + repr(error.metadata)
    assert CANARY not in told
    assert CANARY not in caplog.text
