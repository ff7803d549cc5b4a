"""What a request's fields must look like. A ``Form`` is asked about every field, then tells all that are wrong at once.

Texts say what would be right and never quote what was sent.
"""

from __future__ import annotations

import functools
import re
import zoneinfo
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, urlsplit

from calendar_server.errors import ForbiddenDestination, ValidationError, Violation
from calendar_server.providers.egress import parse_url

NANOS = 1_000_000_000

ID_BYTES = 256
"""Bytes of a connection's, a booking's or an owner's id."""
CALENDAR_ID_BYTES = 2048
URL_BYTES = 2048
LIST_MOST = 100
"""Entries of a list of ids."""

# C0, DEL and C1 (Unicode's category Cc).
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_BUT_TAB_AND_LF = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EMAIL = re.compile(r"[^\s@]\S*@\S*[^\s@]")
# What google.protobuf.Timestamp and Duration allow: years 1 to 9999, and as much in either direction.
_TIMESTAMP_FIRST, _TIMESTAMP_LAST = -62_135_596_800, 253_402_300_799
_DURATION_MOST = 315_576_000_000
# Zone names that the database knows besides the IANA ones, and that mean something else on every machine.
_NOT_ZONES = frozenset({"localtime", "Factory", "posixrules"})

Member = TypeVar("Member")


class Moment(Protocol):
    """A ``Timestamp`` or a ``Duration``."""

    seconds: int
    nanos: int


class Form:
    """Collects violations; ``check`` raises them. Where a field is wrong the answer is a harmless value."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note that a field is wrong. ``description`` completes "<field>: …" and says what would be right."""
        self._violations.append(Violation(field, description))

    def check(self) -> None:
        """Raise ``ValidationError`` with everything that is wrong, if anything is."""
        if self._violations:
            raise ValidationError(self._violations)

    def text(self, field: str, value: str, bytes_most: int, *, required: bool = False, lines: bool = False) -> str:
        """A string of at most ``bytes_most`` bytes of UTF-8 without control characters. ``lines``: but tab and LF."""
        if required and not value:
            self.wrong(field, "is required")
            return ""
        # A character is one byte at least, so that an enormous string is not encoded to be measured.
        if len(value) > bytes_most or len(value.encode()) > bytes_most:
            self.wrong(field, f"must be at most {bytes_most} bytes of UTF-8")
            return ""
        if (_CONTROL_BUT_TAB_AND_LF if lines else _CONTROL).search(value):
            allowed = " other than tab and line feed" if lines else ""
            self.wrong(field, f"must not contain NUL or control characters{allowed}")
            return ""
        return value

    def ids(self, field: str, values: Collection[str], *, bytes_most: int = ID_BYTES) -> tuple[str, ...]:
        """A list of at most 100 ids, none empty. Doubles are folded, the order stays."""
        if len(values) > LIST_MOST:
            self.wrong(field, f"must have at most {LIST_MOST} entries")
            return ()
        for position, value in enumerate(values):
            # Nearly every id, and quick: what is printable ASCII has no control characters and a byte a character.
            if 0 < len(value) <= bytes_most and value.isascii() and value.isprintable():
                continue
            place = f"{field}[{position}]"
            if value:
                self.text(place, value, bytes_most)
            else:
                self.wrong(place, "must not be empty")
        return tuple(dict.fromkeys(values))

    def member(
        self, field: str, number: int, members: Mapping[int, Member], *, required: bool = False
    ) -> Member | None:
        """The value of an enum; None when unspecified. Numbers that this release does not know are wrong."""
        if number == 0:
            if required:
                self.wrong(field, "is required")
            return None
        if number not in members:
            self.wrong(field, "is not a value that this service knows")
            return None
        return members[number]

    def nanoseconds(self, field: str, moment: Moment | None) -> int | None:
        """A required ``Timestamp`` as nanoseconds since 1970; None when it is absent or not valid."""
        if moment is None:
            self.wrong(field, "is required")
            return None
        if not _TIMESTAMP_FIRST <= moment.seconds <= _TIMESTAMP_LAST or not 0 <= moment.nanos < NANOS:
            self.wrong(field, "must be a valid timestamp, in the years 1 to 9999 with nanos from 0 to 999999999")
            return None
        return moment.seconds * NANOS + moment.nanos

    def duration_s(self, field: str, duration: Moment, most_s: float) -> float:
        """A ``Duration`` in seconds, lowered to ``most_s``; negative and not valid ones are wrong."""
        seconds, nanos = duration.seconds, duration.nanos
        if abs(seconds) > _DURATION_MOST or abs(nanos) >= NANOS:
            self.wrong(field, "must be a valid duration: at most 10000 years, with nanos within ±999999999")
            return 0.0
        if seconds < 0 or nanos < 0:
            # Nanos of the other sign are not valid either, so nothing that is good has a sign.
            self.wrong(field, "must not be negative")
            return 0.0
        return min(seconds + nanos / NANOS, most_s)

    def time_zone(self, field: str, name: str) -> str:
        """An IANA zone name, or empty."""
        name = self.text(field, name, ID_BYTES)
        if name and name not in _zones():
            self.wrong(field, "must be the name of an IANA time zone, such as Europe/Paris")
        return name

    def email(self, field: str, address: str) -> str:
        """Something with an @ in it and no white space; no more is known of an address before a mail arrives."""
        address = self.text(field, address, 320, required=True)
        if address and not _EMAIL.fullmatch(address):
            self.wrong(field, "must be an e-mail address")
        return address

    def page(self, field: str, url: str, *, required: bool = False, fragment: bool = True) -> str:
        """An absolute http or https address."""
        url = self.text(field, url, URL_BYTES, required=required)
        if not url:
            return ""
        parts = split_url(url)
        if parts is None or parts.scheme not in ("http", "https"):
            self.wrong(field, "must be an absolute http or https address")
        elif not fragment and "#" in url:
            self.wrong(field, "must not have a fragment")
        return url

    def server_url(self, field: str, url: str) -> str:
        """The address of a CalDAV server: http or https; no credentials, query or fragment."""
        url = self.text(field, url, URL_BYTES)
        if not url:
            return ""
        parts = split_url(url)
        if parts is not None and "@" in parts.netloc:
            self.wrong(field, "must not hold a user name or password; they have fields of their own")
        elif "?" in url:
            self.wrong(field, "must not have a query")
        elif "#" in url:
            self.wrong(field, "must not have a fragment")
        else:
            try:
                parse_url(url)
            except ValueError:
                # The same text as for an address that is not dialled: it says nothing about what is there.
                self.wrong(field, ForbiddenDestination().message)
        return url


def split_url(url: str) -> SplitResult | None:
    """The parts of an absolute URL with a host; None when it is not one."""
    # RFC 3986 §2 knows none of these; urlsplit would drop or keep them where other readers do the opposite.
    if any(character.isspace() or character in '\\<>"' for character in url):
        return None
    try:
        parts = urlsplit(url)
        # Reading the port raises for one that is not a number up to 65535.
        reachable = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if reachable else None


def years_from(now: int, years: int) -> int:
    """The instant with this many years added to the calendar date of ``now``, in microseconds."""
    moment = datetime.fromtimestamp(now // 1_000_000, UTC)
    try:
        moved = moment.replace(year=moment.year + years)
    except ValueError:
        # 29 February, in a year that has none.
        moved = moment.replace(year=moment.year + years, month=3, day=1)
    return int(moved.timestamp()) * 1_000_000


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones()) - _NOT_ZONES
