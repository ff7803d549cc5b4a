"""The text of the events that we write (RFC 5545), and the little that we read back of it.

A booking is mirrored one way: the wanted state replaces what stands in the event. Of what the owner added, reminders
(VALARM of action DISPLAY or AUDIO), CATEGORIES and COLOR are kept; they say nothing about the appointment. Written
events have no METHOD, ORGANIZER or ATTENDEE, and no reminder that sends mail, so that no server mails anybody for us.

Reading back is a scan over lines, bounded and without the library: the owner or the server may have put anything there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from calendar_server.core.model import SECOND, Booking
from calendar_server.providers.wording import event_text, event_title

PRODUCT = "-//calendar-server//calendars.v1//EN"
REVISION = "X-CALENDARS-REVISION"
ICS_TYPE = "text/calendar; charset=utf-8"

SCANNED_MOST = 1_000_000
"""Characters of an event that are looked through."""
KEPT_MOST = 16_000
"""Characters of what the owner added that are kept."""
SEQUENCE_MOST = 2_000_000_000

_STAMP = "%Y%m%dT%H%M%SZ"

NAME_MOST = 4_000
"""Characters of a line that may come before its value."""

_NAME = re.compile(r"([A-Za-z0-9-]+)((?:;(?:[^\":;]|\"[^\"]*\")*)*):")
_KEPT = frozenset({"CATEGORIES", "COLOR"})
_ACTIONS = frozenset({"DISPLAY", "AUDIO"})


@dataclass(frozen=True, slots=True)
class Standing:
    """What an event of ours says where it stands. ``kept``: lines of the owner's own, unfolded."""

    uid: str
    revision: int
    sequence: int
    created: str
    kept: tuple[str, ...]


def standing(text: str) -> Standing | None:
    """Scan the text of an event; None if it is no calendar text with an event in it."""
    uid, created, revision, sequence = "", "", 0, 0
    kept: list[str] = []
    alarms: list[str] = []
    alarm: list[str] = []
    path: list[str] = []
    seen = False
    for line in _unfolded(text[:SCANNED_MOST]):
        name, value = _split(line)
        if name == "BEGIN":
            path.append(value.upper())
            if path == ["VCALENDAR", "VEVENT"]:
                if seen:
                    break  # overrides come after what we wrote
                seen = True
        if path[:3] == ["VCALENDAR", "VEVENT", "VALARM"]:
            alarm.append(line)
        elif path == ["VCALENDAR", "VEVENT"]:
            if name == "UID":
                uid = value
            elif name == "CREATED":
                created = value
            elif name == "SEQUENCE":
                sequence = _number(value)
            elif name == REVISION:
                revision = _number(value)
            elif name in _KEPT:
                kept.append(line)
        if name == "END" and path and path[-1] == value.upper():
            if path == ["VCALENDAR", "VEVENT", "VALARM"]:
                if _is_quiet(alarm):
                    alarms.extend(alarm)
                alarm = []
            path.pop()
    if not seen:
        return None
    kept += alarms  # RFC 5545 section 3.6.1: properties come before components
    if sum(map(len, kept)) > KEPT_MOST:
        kept = []
    return Standing(uid, revision, sequence, created, tuple(kept))


def written(uid: str, booking: Booking, *, sequence: int, now: float, before: Standing | None = None) -> bytes:
    """The text of the event that shows ``booking``. ``now`` is seconds since 1970; ``before`` is what stood there."""
    # Written out: the library's objects take twenty times as long, for every push, and its import a third of a second.
    stamp = f"{datetime.fromtimestamp(int(now), UTC):{_STAMP}}"
    created = _created(before)
    lines = [
        "BEGIN:VCALENDAR",
        "VERSION:2.0",
        f"PRODID:{PRODUCT}",
        "BEGIN:VEVENT",
        f"SUMMARY:{_escaped(event_title(booking))}",
        f"DTSTART:{datetime.fromtimestamp(booking.start // SECOND, UTC):{_STAMP}}",
        f"DTEND:{datetime.fromtimestamp(booking.end // SECOND, UTC):{_STAMP}}",
        f"DTSTAMP:{stamp}",
        f"UID:{_escaped(uid)}",
        f"SEQUENCE:{min(sequence, SEQUENCE_MOST)}",
        f"CREATED:{f'{created:{_STAMP}}' if created else stamp}",
        f"DESCRIPTION:{_escaped(event_text(booking))}",
        f"LAST-MODIFIED:{stamp}",
        *([f"LOCATION:{_escaped(booking.location.strip())}"] if booking.location.strip() else []),
        "STATUS:CONFIRMED",
        "TRANSP:OPAQUE",
        *([f"URL:{booking.url}"] if _is_uri(booking.url) else []),
        f"{REVISION}:{booking.revision}",
        *(before.kept if before else ()),
        "END:VEVENT",
        "END:VCALENDAR",
    ]
    return "".join(f"{_folded(line)}\r\n" for line in lines).encode()


def time_zone_name(text: str) -> str:
    """The TZID in the text of a ``calendar-timezone``, empty if there is none."""
    for line in _unfolded(text[:SCANNED_MOST]):
        name, value = _split(line)
        if name == "TZID":
            return value.strip()
    return ""


def _escaped(text: str) -> str:
    """A value of type TEXT (RFC 5545 section 3.3.11)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,").replace("\n", "\\n")


def _created(before: Standing | None) -> datetime | None:
    if before is None:
        return None
    try:
        return datetime.strptime(before.created, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _is_quiet(alarm: list[str]) -> bool:
    """Whether a reminder is one that no server turns into mail."""
    told = [_split(line) for line in alarm]
    actions = [value.strip().upper() for name, value in told if name == "ACTION"]
    names = {name for name, _ in told}
    return len(actions) == 1 and actions[0] in _ACTIONS and "TRIGGER" in names and "ATTENDEE" not in names


def _is_uri(text: str) -> bool:
    return re.fullmatch(r"https?://[!-~]+", text) is not None


def _number(value: str) -> int:
    value = value.strip()
    return min(int(value), 2**62) if value.isascii() and value.isdigit() and len(value) < 20 else 0


def _split(line: str) -> tuple[str, str]:
    """The name of a property in upper case, and its value. Quoted parameters may hold colons (RFC 5545 section 3.1)."""
    # The end is given: a line of a megabyte without a colon would take a gigabyte to give up on.
    told = _NAME.match(line, 0, NAME_MOST)
    return (told[1].upper(), line[told.end() :]) if told else ("", "")


def _unfolded(text: str) -> Iterator[str]:
    """Lines of the text with folds undone (RFC 5545 section 3.1)."""
    line = ""
    for piece in re.split(r"\r\n|\n|\r", text):
        if piece[:1] in (" ", "\t"):
            line += piece[1:]
        else:
            if line:
                yield line
            line = piece
    if line:
        yield line


def _folded(line: str) -> str:
    """The line in pieces of at most 75 bytes of UTF-8."""
    if len(line) * 4 <= 75 or (line.isascii() and len(line) <= 75):
        return line
    pieces: list[str] = []
    piece, size = "", 0
    for letter in line:
        width = len(letter.encode())
        if size + width > 74:
            pieces.append(piece)
            piece, size = "", 0
        piece, size = piece + letter, size + width
    return "\r\n ".join((*pieces, piece))
