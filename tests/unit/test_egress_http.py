"""Answers as they come in on a line: however they are cut, and whatever is in them, they are read as h11 reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.addresses import parse_url
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress_http import (
    CHUNK_LINE_BYTES,
    INTERIM_MAX,
    LINES_MAX,
    Incoming,
    Malformed,
    Question,
    spelled,
)
from calendar_server.providers.egress_wire import Allowance

BODY_MAX = 10_000
Seen = tuple[int, tuple[tuple[str, str], ...], bytes]


class Parts:
    """A line on which these pieces come in, and then its end."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces = [piece for piece in pieces if piece]

    def receive(self, bytes_max: int, allowance: Allowance) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > bytes_max:
            self._pieces.insert(0, piece[bytes_max:])
        return piece[:bytes_max]

    def send(self, data: bytes, allowance: Allowance) -> None:
        raise AssertionError("An answer is read; nothing is sent.")

    def stirs(self) -> bool:
        return bool(self._pieces)

    def close(self) -> None:
        self._pieces.clear()


def read(pieces: Iterable[bytes], method: str = "GET") -> tuple[Seen, bool]:
    """The answer in these pieces, and whether another may follow it on the line."""
    allowance = Allowance(Deadline.after(60), 100_000, 1_000_000)
    incoming = Incoming(Parts(pieces), allowance)
    head = incoming.head()
    body = incoming.body(method, head, BODY_MAX)
    return (head.status, head.fields, body), head.persists and incoming.ended


def by_h11(raw: bytes, method: str = "GET") -> Seen | None:
    """What h11 makes of the same; None for what it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=100_000)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    ended = False
    status, fields, body = 0, (), b""
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if ended:
                    return None
                connection.receive_data(b"")
                ended = True
            elif isinstance(event, h11.Response):
                status = event.status_code
                fields = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)):
                return (status, fields, body) if isinstance(event, h11.EndOfMessage) else None
    except h11.RemoteProtocolError:
        return None


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


def chunked(pieces: Sequence[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    chunks = b"".join(b"%X%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces if piece)
    return chunks + b"0\r\n" + trailers + b"\r\n"


names = st.sampled_from(["X-A", "ETag", "dav", "Server", "Www-Authenticate"])
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=12)
bodies = st.binary(max_size=60)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Honest answers of every framing."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" * draw(st.integers(0, 3))
    status = draw(st.sampled_from([200, 204, 207, 301, 304, 401, 404, 500]))
    fields = "".join(
        f"{name}: {value.strip()}\r\n" for name, value in draw(st.lists(st.tuples(names, values), max_size=5))
    )
    body = draw(bodies)
    framing = draw(st.sampled_from(["length", "chunked", "end", "both"]))
    if status in (204, 304):
        rest = b"\r\n"
    elif framing == "length":
        rest = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    elif framing == "end":
        rest = b"Connection: close\r\n\r\n" + body
    else:
        pieces = draw(st.lists(bodies, max_size=4))
        extension, trailers = draw(st.sampled_from([b"", b";a=b"])), draw(st.sampled_from([b"", b"X-End: 1\r\n"]))
        length = b"Content-Length: 3\r\n" if framing == "both" else b""
        rest = length + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces, extension, trailers)
    return interim + f"HTTP/1.1 {status} Some Reason\r\n{fields}".encode("latin-1") + rest


@settings(max_examples=400)
@given(answers(), st.lists(st.integers(0, 500), max_size=30))
def test_an_honest_answer_is_read_as_h11_reads_it_however_it_is_cut(raw: bytes, places: list[int]) -> None:
    expected = by_h11(raw)
    assert expected is not None
    assert read(cut(raw, places))[0] == expected


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Answers in which bytes were changed, taken out, doubled or put in."""
    raw = draw(answers())
    for _ in range(draw(st.integers(1, 3))):
        place, length = draw(st.integers(0, len(raw))), draw(st.integers(0, 3))
        put_in = draw(
            st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\x00", b":", b",", b"0", b"f", b";", b"\xff"])
            | st.just(raw[place : place + length] * 2)
        )
        raw = raw[:place] + put_in + raw[place + length :]
    return raw


@settings(max_examples=1500)
@given(spoiled())
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3 ;a=b\r\nabc\r\n0\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\n a: b\r\n\r\n")
def test_nothing_is_read_that_h11_refuses_or_reads_otherwise(raw: bytes) -> None:
    try:
        seen, _ = read([raw])
    except (Malformed, ProviderUnavailable):
        return
    assert seen == by_h11(raw)


@pytest.mark.parametrize(
    ("raw", "follows"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: x, Close\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", True),
    ],
)
def test_a_line_is_used_again_only_after_an_answer_that_ended_by_itself(raw: bytes, follows: bool) -> None:
    assert read([raw])[1] is follows


def test_the_answer_to_head_has_no_body() -> None:
    (_, _, body), follows = read([b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"], "HEAD")
    assert (body, follows) == (b"", True)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * (INTERIM_MAX + 1) + b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n" + b"a: b\r\n" * LINES_MAX + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;" + b"a" * CHUNK_LINE_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * LINES_MAX + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 21 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_what_only_costs_time_is_refused(raw: bytes) -> None:
    with pytest.raises((Malformed, ProviderUnavailable)):
        read([raw])


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\x00b"])
@pytest.mark.parametrize("in_name", [False, True])
def test_no_header_breaks_out_of_its_line(value: str, in_name: bool) -> None:
    headers = {value: "a"} if in_name else {"a": value}
    with pytest.raises(ValueError, match="end of a line"):
        spelled(Question("GET", parse_url("https://example.org/"), headers, b""))
