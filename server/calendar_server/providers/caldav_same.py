"""Whether a server's answer is, byte for byte, the one that the last read of everything came from.

Then it comes to the same, and nothing of it has to be read, let alone expanded: for a calendar in use that is nearly every
full read. It says more than any etag, which may stay while its event changes.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import importlib.resources
import sys
import threading
import zoneinfo
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from calendar_server.providers.egress import Answer

_ROOMS = ("core", "providers")
_PACKAGES = ("caldav", "icalendar", "lxml", "tzdata")


def digest_of(answer: Answer, code: bytes | None = None) -> str:
    """What stands for an answer, and for the code that reads it: this release's, if no other is named."""
    told = hashlib.blake2b(key=reading_code() if code is None else code, digest_size=18)
    told.update(f"{answer.status} {len(answer.url)} {answer.url} ".encode("utf-8", "surrogateescape"))
    told.update(answer.body)
    return base64.b64encode(told.digest()).decode()


def reading_code() -> bytes:
    """What stands for the code that reads, 16 bytes. A release that reads better is not held to what an older one found.

    It is worked out once, which takes some 10 ms: fifty threads that each did so at the first call took half a second.
    """
    with _working_out:
        return worked_out()


_working_out = threading.Lock()


@functools.cache
def worked_out() -> bytes:
    """``reading_code`` without waiting for whoever is at it."""
    told = hashlib.blake2b(digest_size=16)
    for part in _parts_of_code():
        told.update(len(part).to_bytes(8, "big"))
        told.update(part)
    return told.digest()


def _parts_of_code() -> Iterator[bytes]:
    yield sys.version.encode()
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{package} {importlib.metadata.version(package)}".encode()
    for folder in zoneinfo.TZPATH:
        rules = Path(folder, "tzdata.zi")
        if rules.is_file():
            yield rules.read_bytes()
    here = importlib.resources.files("calendar_server")
    for room in _ROOMS:
        for file in sorted(here.joinpath(room).iterdir(), key=lambda each: each.name):
            if file.name.endswith(".py"):
                yield file.read_bytes()
