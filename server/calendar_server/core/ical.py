"""Content lines and components of iCalendar (RFC 5545 section 3.1), as far as busy times need them.

Vocabulary
    content line  ``NAME;PARAMETER=value:value``, after unfolding.
    component     what stands between ``BEGIN:X`` and ``END:X``.
    damage        what is wrong with the shape of a component or of the whole text. Something may be missing from what is
                  damaged, so it is not to be relied on.

The reader is lenient where leniency cannot hide an event, and notes damage where it could.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

DEPTH_MAX = 16
"""Components inside components. RFC 5545 needs three."""

_DATES = frozenset({"DTSTART", "DTEND", "DURATION", "RECURRENCE-ID", "RDATE", "EXDATE", "DTSTAMP"})
"""Their values hold no colon, so the value begins after the last one: some producers write
``TZID=(UTC+01:00) Amsterdam`` without the quotes that RFC 5545 section 3.2 asks for."""

_KEPT = _DATES | {
    "ATTENDEE",
    "EXRULE",
    "METHOD",
    "RRULE",
    "SEQUENCE",
    "STATUS",
    "TRANSP",
    "TZID",
    "TZOFFSETFROM",
    "TZOFFSETTO",
    "UID",
    "X-APPLE-TRAVEL-DURATION",
    "X-LIC-LOCATION",
    "X-MICROSOFT-CDO-BUSYSTATUS",
    "X-MICROSOFT-MSNCALENDAR-BUSYSTATUS",
    "X-WR-TIMEZONE",
}
_READ_INSIDE = frozenset({"VCALENDAR", "VEVENT", "VTIMEZONE", "STANDARD", "DAYLIGHT"})
"""Of other components (alarms above all) nothing is kept: an alarm's DURATION is not its event's."""

_LINE = re.compile(
    r"\n([^\S\n]*+(?:(?:[A-Za-z0-9_-]++\.)?+((?ai:BEGIN|END|" + "|".join(sorted(_KEPT)) + r"))[^\S\n]*[;:]"
    r"|(?:DTSTART|DTEND|RRULE|RDATE|RECURRENCE-ID)(?![A-Za-z0-9-]|[^\S\n]*[;:]))([^\n]*))"
)
"""A content line that is kept, after the end of the one before; or, without a name, one that lacks its value and should
not. It begins with a letter that is always the same, which is what makes the search fast."""
_FOLD = re.compile(r"(?<!\n)\n++[ \t]")
_VALUE_IN_HEAD = re.compile(r":[^\S\n]*\d{8}", re.ASCII)
_QUOTED_HEAD = re.compile(r'((?:"[^"]*"|[^":])*):')
_PARAMETER = re.compile(r';\s*([A-Za-z0-9-]+)\s*=((?:"[^"]*"|[^;"])*)')


def _parameter(head: str, name: str) -> str:
    for found, value in _PARAMETER.findall(head):
        if found.upper() == name:
            return str(value).strip().strip('"').strip()
    return ""


_known_parameter = lru_cache(maxsize=1024)(_parameter)


class NotACalendar(ValueError):
    """The text is not iCalendar."""


class Property(NamedTuple):
    """One content line. ``head`` is all before the value's colon."""

    name: str
    head: str
    value: str

    def parameter(self, name: str) -> str:
        """The parameter's value without quotes, empty when it is absent. ``name`` is in capitals; the text has any case."""
        if name not in self.head.upper():
            return ""
        # Most events of a calendar write the same few zones.
        return _known_parameter(self.head, name) if len(self.head) < 100 else _parameter(self.head, name)


@dataclass(slots=True, init=False)
class Component:
    """One component with the properties that matter here. Names are upper case.

    ``properties`` are whole content lines. They are taken apart when somebody asks for one, as few are asked for.
    """

    name: str
    properties: dict[str, list[str]]
    components: list[Component]
    damage: str
    _apart: dict[str, list[Property]] = field(compare=False, repr=False)

    def __init__(self, name: str):
        self.name = name
        self.properties = {}
        self.components = []
        self.damage = ""
        self._apart = {}

    def all(self, name: str) -> list[Property]:
        found = self._apart.get(name)
        if found is None:
            if name not in self.properties:
                return []
            found = self._apart[name] = [_property(name, line) for line in self.properties[name]]
        return found

    def first(self, name: str) -> Property | None:
        found = self.all(name)
        return found[0] if found else None

    def text(self, name: str) -> str:
        """The first property's value, stripped; empty when it is absent."""
        found = self.all(name)
        return found[0].value.strip() if found else ""


@dataclass(frozen=True, slots=True)
class Document:
    """The calendars of one text. ``damage`` is set when the text ends early or has events outside every calendar, or
    pieces of events outside every event."""

    calendars: tuple[Component, ...]
    damage: str = ""


def unfolded(text: str) -> str:
    """The content lines of a text, one a line: line ends may be CRLF, LF or CR; empty lines may be left.

    Folding inside a UTF-8 sequence does no harm when the bytes were decoded with ``surrogateescape``: the halves meet
    again here, in values that are not shown.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\n\n" in text:
        return _FOLD.sub("", text)
    return text.replace("\n ", "").replace("\n\t", "")


def parse(text: str) -> Document:
    """Read a text. Raises ``NotACalendar`` when there is no ``BEGIN:VCALENDAR`` in it, or it is nested too deep."""
    reader = _Reader()
    whole = "\n" + unfolded(text.lstrip("\ufeff\x00 \t\r\n"))
    at = 0
    while (begin := whole.find(_ZONE_BEGIN, at)) >= 0:
        end = whole.find(_ZONE_END, begin)
        if end < 0:
            break
        end += len(_ZONE_END) - 1  # its line feed belongs to the next line
        reader.read(whole, at, begin)
        # Every event of a calendar brings the same few definitions along, each longer than the event itself.
        zone = _zone(whole[begin:end]) if reader.in_calendar and end - begin < _ZONE_MAX else None
        if zone is not None:
            reader.stack[0].components.append(zone)
        else:
            reader.read(whole, begin, end)
        at = end
    reader.read(whole, at, len(whole))
    return reader.document()


_ZONE_BEGIN, _ZONE_END = "\nBEGIN:VTIMEZONE\n", "\nEND:VTIMEZONE\n"
_ZONE_MAX = 20_000


@lru_cache(maxsize=256)
def _zone(text: str) -> Component | None:
    """The VTIMEZONE of a text that is one and nothing else; None for any other. Nobody changes it afterwards."""
    reader = _Reader()
    try:
        reader.read(f"\nBEGIN:VCALENDAR{text}\nEND:VCALENDAR")
        document = reader.document()
    except NotACalendar:
        return None
    if document.damage or len(document.calendars) != 1:
        return None
    calendar = document.calendars[0]
    whole = not calendar.damage and len(calendar.components) == 1 and not calendar.properties
    return calendar.components[0] if whole and not calendar.components[0].damage else None


def _lines(text: str, at: int, end: int) -> Iterable[tuple[str, str, str]]:
    """The lines that are kept of a part of the text, and their names and rests, empty for one that lacks its value."""
    if min(end, len(text)) - at <= _PIECE:
        # All at once, in four fifths of the time.
        return _LINE.findall(text, at, end)
    return ((found[1], found[2] or "", found[3]) for found in _LINE.finditer(text, at, end))


_PIECE = 64 * 1024
"""Characters of which all lines may be held at once."""


class _Reader:
    """Puts lines together to components."""

    __slots__ = ("calendars", "damage", "stack")

    def __init__(self) -> None:
        self.calendars: list[Component] = []
        self.stack: list[Component] = []
        self.damage = ""

    @property
    def in_calendar(self) -> bool:
        """Whether nothing is open but one calendar."""
        return len(self.stack) == 1 and self.stack[0].name == "VCALENDAR"

    def read(self, text: str, at: int = 0, end: int = sys.maxsize) -> None:
        """Read the lines of a part of the text, each of them after its ``\\n``."""
        stack = self.stack
        kept = stack[-1].properties if stack and stack[-1].name in _READ_INSIDE else None
        for line, found, rest in _lines(text, at, end):
            name = found.upper()
            if name == "BEGIN" or name == "END":
                if name == "BEGIN":
                    self.damage = _begin(rest.strip().upper(), stack, self.calendars) or self.damage
                else:
                    self.damage = _end(rest.strip().upper(), stack) or self.damage
                kept = stack[-1].properties if stack and stack[-1].name in _READ_INSIDE else None
            elif not name:
                if stack:
                    stack[-1].damage = "a line without a value"
            elif kept is not None:
                same = kept.get(name)
                if same is None:
                    kept[name] = [line]
                else:
                    same.append(line)

    def document(self) -> Document:
        """What was read. Raises ``NotACalendar``."""
        damage = self.damage
        if not self.calendars:
            raise NotACalendar("The text is not a calendar.")
        if self.stack:
            damage = "The text ends early."
            for component in self.stack:
                component.damage = component.damage or "END is missing"
        return Document(tuple(self.calendars), damage)


def _begin(name: str, stack: list[Component], calendars: list[Component]) -> str:
    """Open a component; say what damage that shows for the whole text."""
    component = Component(name)
    if name == "VCALENDAR":
        damage = "A calendar begins inside another." if stack else ""
        for open_component in stack:
            open_component.damage = "END is missing"
        stack[:] = [component]
        calendars.append(component)
        return damage
    if name == "VEVENT" and len(stack) > 1:
        # Events stand directly inside a calendar (RFC 5545 section 3.6): whatever is open has lost its end.
        for open_component in stack[1:]:
            open_component.damage = "END is missing"
        del stack[1:]
    if not stack:
        # Or a calendar whose own name was cut.
        return (
            "An event stands outside of the calendar." if name == "VEVENT" else "The text goes on after its calendar."
        )
    if len(stack) >= DEPTH_MAX:
        raise NotACalendar("Components are nested too deep.")
    stack[-1].components.append(component)
    stack.append(component)
    return ""


def _end(name: str, stack: list[Component]) -> str:
    """Close a component; say what damage that shows for the whole text."""
    if stack and stack[-1].name == name:
        stack.pop()
        return ""
    names = [component.name for component in stack]
    if name not in names:
        if stack:
            stack[-1].damage = f"END:{name[:40]} without its BEGIN"
        # There was an event, whose lines are anywhere but in one.
        return "An event ends that has not begun." if name == "VEVENT" else ""
    # Ends are missing in between. What followed may belong to any of the components that were open.
    opened = len(names) - 1 - names[::-1].index(name)
    for component in stack[opened:]:
        if component.name != "VCALENDAR":
            component.damage = "END is missing"
    del stack[opened:]
    return ""


def _property(name: str, line: str) -> Property:
    if name in _DATES:
        head, _, value = line.rpartition(":")
        if ":" in head and (not value.strip() or _VALUE_IN_HEAD.search(head)):
            # A value with another line behind, whose end was lost, or with something else: not to be read as either.
            head, _, value = line.partition(":")
    elif '"' in line and (quoted := _QUOTED_HEAD.match(line)) is not None:
        head, value = quoted[1], line[quoted.end() :]
    else:
        head, _, value = line.partition(":")
    return _tuple(Property, (name, head, value))


_tuple: Callable[[type[Property], tuple[str, str, str]], Property] = tuple.__new__
"""Makes a property in half the time that its own way takes."""
