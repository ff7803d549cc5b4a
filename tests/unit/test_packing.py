"""What is packed comes back as it was, little and much of it."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calendar_server.core.model import BlockReason, BusyEvent, CalendarRead, EventId, Interval, UnreadableEvent
from calendar_server.core.packing import Unpackable, pack_content, squeezed, unpack_content

moments = st.integers(-(2**50), 2**50)
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=20).map(EventId)
events = st.builds(BusyEvent, moments, moments, st.sampled_from(BlockReason), names, st.booleans())
unreadable = st.builds(UnreadableEvent, names, st.text(max_size=30), st.none() | st.builds(Interval, moments, moments))
reads = st.builds(CalendarRead, st.lists(events, max_size=80).map(tuple), st.lists(unreadable, max_size=3).map(tuple))


@given(reads)
def test_a_read_comes_back(read: CalendarRead) -> None:
    assert unpack_content(pack_content(read)) == read


@given(reads, st.data())
def test_a_part_of_one_is_not_taken_for_it(read: CalendarRead, data: st.DataObject) -> None:
    packed = pack_content(read)
    with pytest.raises(Unpackable):
        unpack_content(packed[: data.draw(st.integers(0, len(packed) - 1))])


@pytest.mark.parametrize("size", [0, 1, 300, 4095, 4096, 4097, 100_000])
def test_little_and_much_are_squeezed_alike(size: int) -> None:
    data = b"".join(b"%d:busy," % number for number in range(size // 4))[:size]
    small = squeezed(data, 3)
    assert zlib.decompress(small) == data
    assert len(small) <= len(zlib.compress(data, 3)) * 1.1 + 8
