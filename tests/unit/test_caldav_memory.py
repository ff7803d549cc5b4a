"""What is remembered of a CalDAV calendar comes back as it was, whoever wrote it."""

from __future__ import annotations

import zlib

import pytest

from calendar_server.core.model import EventId
from calendar_server.providers.caldav_memory import (
    PLAIN_MOST,
    Known,
    Signals,
    fingerprint,
    pack,
    pack_known,
    unpack_known,
    unpack_signals,
)

SIGNALS = Signals(
    "basis", "itself", "ctag", "token", settled=False, zoneless=False, agreed_at=7, digest="d", by_name=True
)
HEAD = len(b"caldav1\n") + 4


def known(events: int) -> Known:
    return Known("UTC", {EventId(f"/work/{number}.ics"): fingerprint(str(number)) for number in range(events)})


@pytest.mark.parametrize("events", [0, 1, 5, 50, 2000])
def test_it_comes_back(events: int) -> None:
    memory = pack(SIGNALS, known(events))
    found = unpack_signals(memory)
    assert found == SIGNALS
    assert found is not None
    assert (found.zoneless, found.agreed_at, found.digest, found.by_name) == (False, 7, "d", True)
    assert unpack_known(memory) == known(events)


def test_only_what_is_long_is_compressed() -> None:
    assert pack_known(known(1)).startswith(b"[")
    assert len(pack_known(known(1))) <= PLAIN_MOST
    assert len(pack_known(known(50))) < 50 * len("/work/10.ics0123456789abcdef")


def test_short_parts_that_were_compressed_by_an_earlier_release_are_read() -> None:
    memory = pack(SIGNALS, known(1))
    size = int.from_bytes(memory[HEAD - 4 : HEAD], "big")
    head, rest = (zlib.compress(part) for part in (memory[HEAD : HEAD + size], memory[HEAD + size :]))
    earlier = b"".join((memory[: HEAD - 4], len(head).to_bytes(4, "big"), head, rest))
    assert unpack_signals(earlier) == SIGNALS
    assert unpack_known(earlier) == known(1)


@pytest.mark.parametrize("cut", [0, 5, HEAD, HEAD + 10, -1])
def test_what_was_cut_or_is_something_else_is_no_memory(cut: int) -> None:
    for events in (1, 50):
        memory = pack(SIGNALS, known(events))
        assert unpack_known(memory[:cut]) is None
        assert unpack_known(memory[:cut] + b"\x00" * 5) is None
    assert unpack_signals(pack(SIGNALS, known(1))[: HEAD + 10]) is None
    assert unpack_signals(b"caldav1\n\x00\x00\x00\x02[]") is None
