"""What is remembered of a calendar between two refreshes, and how it is kept as bytes.

Vocabulary
    signals   what the server says about the calendar as a whole; taken before the read, so that a change during the
              read shows at the next look.
    etag      of one resource, as a fingerprint; empty: the resource is read again whenever anything has changed.
    others    resources in the calendar that hold no event.

The bytes are two parts, each compressed unless it is short: the signals alone decide whether anything changed, so the list
of resources is only unpacked when something did.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from calendar_server.core.busy import Vote
from calendar_server.core.model import EventId, UnreadableEvent
from calendar_server.core.packing import squeezed
from calendar_server.providers.base import MEMORY_BYTES
from calendar_server.providers.caldav_members import Texts
from calendar_server.providers.expander import Expanded

_VERSION = b"caldav1\n"
_UNPACKED_MOST = 16 * MEMORY_BYTES
PLAIN_MOST = 512
"""Bytes that are not compressed: it would take longer than all else that is done with them."""
TOKEN_MOST = 4_000
"""Characters of a sync token. A longer one is not kept."""


@dataclass(frozen=True, slots=True)
class Signals:
    """``basis`` is what the reading depends on besides the calendar itself; ``itself`` is what that says of its zone, and of
    what it does not show. All but ``sync_token`` are fingerprints.

    Not ``settled``: that they stay the same does not say that nothing has changed. The server handed out no text for some
    event, and may do so soon; or they may not be those of what was read (see `caldav_refresh`).

    ``zoneless``: some of what was read lies in the calendar's own zone. ``agreed_at``: when a look last told the very token
    that stands for what was read, in seconds since 1970; 0 where it may stand for something else, or is not all that counts.

    ``digest``: of the answer that all of what was read came from (see `caldav_same`); empty where it was not one answer, or
    where that might come to something else another time.

    ``by_name``: the server leaves events out of what it answers when all are asked for at once.
    """

    basis: str
    itself: str
    ctag: str = ""
    sync_token: str = ""
    settled: bool = True
    zoneless: bool = field(default=True, compare=False)
    agreed_at: int = field(default=0, compare=False)
    digest: str = field(default="", compare=False)
    by_name: bool = field(default=False, compare=False)

    @property
    def tell(self) -> bool:
        """Whether the server has any signal at all."""
        return bool(self.ctag or self.sync_token)

    def same_reading(self, other: Signals) -> bool:
        """Whether an event that is the same means the same."""
        return self.basis == other.basis and self.itself == other.itself


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a calendar's resources. ``floating`` is the zone of floating times that was used.

    ``votes`` are by event, those that say something, where the zone is a matter of votes, else None.
    """

    floating: str
    etags: Mapping[EventId, str] = field(default_factory=dict)
    others: Mapping[EventId, str] = field(default_factory=dict)
    votes: Mapping[EventId, Vote] | None = None


def fingerprint(*parts: str) -> str:
    """Sixteen characters that stand for the parts; empty for nothing but empty ones."""
    if not any(parts):
        return ""
    told = b"".join(
        [b"%d:%s" % (len(part), part) for part in [each.encode("utf-8", "surrogateescape") for each in parts]]
    )
    return binascii.b2a_base64(hashlib.blake2b(told, digest_size=12).digest(), newline=False).decode()


def signals_of(
    basis: Iterable[str], zone: str, untold: Iterable[UnreadableEvent], ctag: str, sync_token: str
) -> Signals:
    """The signals as they are remembered, with the calendar's ``zone`` and what the server does not show of it."""
    token = sync_token if len(sync_token) <= TOKEN_MOST else ""
    itself = fingerprint(zone, *(str(each.interval) for each in untold))
    return Signals(fingerprint(*basis), itself, fingerprint(ctag), token)


def known_after(texts: Texts, expanded: Expanded, kept: Known) -> Known:
    """What is known after a read, beside what is ``kept`` from before."""
    etags = dict(kept.etags)
    for event_id in texts.event_ids:
        # What could not be read now, by the server or by us, may be at another time.
        settled = event_id in texts.found and event_id not in expanded.given_up
        etags[event_id] = fingerprint(texts.etags[event_id]) if settled else ""
    others = {**kept.others, **{each: fingerprint(texts.etags[each]) for each in texts.others}}
    if expanded.votes is None and kept.votes is None:
        return Known(expanded.floating, etags, others)
    votes = {each: vote for each, vote in (kept.votes or {}).items() if each in kept.etags}
    for resource, vote in zip(texts.resources(), expanded.votes or (), strict=False):
        if any(vote):
            votes[resource.event_id] = vote
    # Where one resource has two texts, and so two votes, the next change reads everything again.
    exact = all(len(each) == 1 for each in texts.found.values())
    return Known(expanded.floating if exact else "", etags, others, votes)


def pack(signals: Signals, known: Known) -> bytes:
    """The memory; empty where it would be larger than is kept."""
    return joined(signals, pack_known(known))


def pack_known(known: Known) -> bytes:
    """The part of the memory that ``joined`` joins with the signals."""
    return _packed(_told(known))


def with_signals(memory: bytes, signals: Signals) -> bytes:
    """The memory with newer signals."""
    return joined(signals, _parts(memory)[1])


def read_by_name(memory: bytes) -> bytes:
    """The memory of a calendar that is to be read by name from now on (``Signals.by_name``)."""
    signals = unpack_signals(memory)
    return memory if signals is None else with_signals(memory, replace(signals, by_name=True))


def unpack_signals(memory: bytes) -> Signals | None:
    """The signals; None for what is not a memory of this version."""
    try:
        return Signals(*_text(_parts(memory)[0]))
    except (ValueError, TypeError, zlib.error):
        return None


def unpack_known(memory: bytes) -> Known | None:
    """The resources; None for what is not a memory of this version."""
    try:
        return known_in(_parts(memory)[1])
    except ValueError:
        return None


def known_in(resources: bytes) -> Known | None:
    """What ``pack_known`` packed; None for what it did not."""
    try:
        floating, names, etags, others, kinds, cast = _text(resources)
        ids = [EventId(name) for name in names]
        votes = None
        if kinds is not None:
            known_votes: list[Vote] = [(told, start) for told, start in kinds]
            votes = {one: known_votes[kind] for one, kind in zip(ids, cast, strict=True) if kind >= 0}
        return Known(floating, dict(zip(ids, etags, strict=True)), others, votes)
    except (ValueError, TypeError, IndexError, zlib.error):
        return None


def ids_in(memory: bytes) -> frozenset[EventId] | None:
    """The events of the calendar, within the window or not; None for what is not a memory of this version."""
    known = unpack_known(memory)
    return None if known is None else frozenset(known.etags)


def _told(known: Known) -> object:
    kinds: dict[Vote, int] = {}
    cast: list[int] = []
    if known.votes is not None:
        for event_id in known.etags:
            vote = known.votes.get(event_id)
            cast.append(kinds.setdefault(vote, len(kinds)) if vote else -1)
    return (
        known.floating,
        list(known.etags),
        list(known.etags.values()),
        dict(known.others),
        None if known.votes is None else list(kinds),
        cast,
    )


def joined(signals: Signals, resources: bytes) -> bytes:
    """The memory from its two parts; empty where it would be larger than is kept."""
    head = _packed(
        (
            signals.basis,
            signals.itself,
            signals.ctag,
            signals.sync_token,
            signals.settled,
            signals.zoneless,
            signals.agreed_at,
            signals.digest,
            signals.by_name,
        )
    )
    memory = b"".join((_VERSION, len(head).to_bytes(4, "big"), head, resources))
    return memory if len(memory) <= MEMORY_BYTES else b""


def _parts(memory: bytes) -> tuple[bytes, bytes]:
    at = len(_VERSION)
    if memory[:at] != _VERSION:
        raise ValueError("It is not a memory of this version.")
    end = at + 4 + int.from_bytes(memory[at : at + 4], "big")
    return memory[at + 4 : end], memory[end:]


def _packed(value: object) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode("ascii")
    return text if len(text) <= PLAIN_MOST else squeezed(text, 1)


def _text(part: bytes) -> Any:
    if part[:1] == b"[":
        return json.loads(part)
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(part, _UNPACKED_MOST)
    if not unpacking.eof:
        raise ValueError("The memory is not whole.")
    return json.loads(text)
