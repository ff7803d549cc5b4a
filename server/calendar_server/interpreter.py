"""How the interpreter of a process that serves or works is set: whose turn it is, its garbage, its memory."""

from __future__ import annotations

import ctypes
import gc
import sys

TURN_S = 0.002
"""Seconds that a thread of the server may keep the interpreter while others wait for it, less than the usual 5 ms: the
slowest calls beside servers that attack were half as slow at worst, measured. With a quarter of it they were faster still,
but the median call beside an expansion took half as long again."""
GARBAGE_OBJECTS = 10_000
"""New objects that may hold others, until it is looked which of them nobody holds."""
LARGE_BYTES = 256 * 1024
"""What is larger goes back to the machine as soon as nobody holds it."""

_M_MMAP_THRESHOLD = -3
"""`mallopt(3)`."""


def set_turns() -> None:
    """Let threads take turns more often."""
    sys.setswitchinterval(TURN_S)


def give_large_back() -> None:
    """Let large pieces of memory, answers of providers most of all, have places of their own.

    The C library of most Linux systems moves the bound by itself, up to 32 MB: once a piece was freed, the next of its
    size are cut from memory that is kept, a piece for each thread. After 24 hostile servers at once a server held 500 MB
    that nothing was in; with a fixed bound it is a fifth of that, measured. Where there is no `mallopt` it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def keep_garbage_small() -> None:
    """Look for garbage only among what calls leave behind, and less often.

    The libraries are hundreds of thousands of objects that stay; to look through them all, again and again while calendars
    are read, took a seventh of the time of reading, measured. Rings of objects that nobody holds any more, which are all
    that is collected so, are few here: they may wait until there are ten thousand new objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, 10, 10)
