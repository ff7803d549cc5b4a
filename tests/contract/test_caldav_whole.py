"""The usual answer is read as a whole by a child and comes to what its parts come to; all else is read by its parts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from calendar_server.core.busy import Reading
from calendar_server.core.model import CalendarId, CalendarRead
from calendar_server.core.packing import PackedRead, opened
from calendar_server.errors import ProviderUnavailable
from calendar_server.providers.base import Deadline, Refreshed
from calendar_server.providers.caldav import CaldavProvider
from calendar_server.providers.caldav_memory import Known, Signals, unpack_known, unpack_signals
from calendar_server.providers.caldav_whole import BODY_MOST
from calendar_server.providers.egress import Egress
from calendar_server.providers.expander import Expander
from tests.contract.accounts import StrangeAccount, event
from tests.contract.worlds import WINDOW, soon
from tests.fakes.strange_dav import WORK


class Counting(Expander):
    """Knows how often a child was asked. ``off``: nothing is attempted as a whole."""

    def __init__(self, *, off: bool = False):
        super().__init__(processes=1, event_s=0.3, calendar_s=10.0, address_space_bytes=512_000_000)
        self.off = off
        self.asked = 0

    def attempt(self, name, function, arguments, reading: Reading, deadline: Deadline):
        return None if self.off else super().attempt(name, function, arguments, reading, deadline)

    def _ask(self, call, deadline, function, arguments):
        self.asked += 1
        return super()._ask(call, deadline, function, arguments)


@pytest.fixture
def expander() -> Iterator[Counting]:
    """One for each test: what was attempted in vain is remembered by the address, and servers get ports anew."""
    made = Counting()
    yield made
    made.close()


@pytest.fixture(scope="module")
def parts(egress: Egress) -> Iterator[CaldavProvider]:
    made = Counting(off=True)
    yield CaldavProvider(egress, made, redirects=5, calendar_events=1000)
    made.close()


def first_read(account: StrangeAccount, provider: CaldavProvider | None = None) -> Refreshed:
    return (provider or account.provider).refresh_calendar(account.link, CalendarId(WORK), WINDOW, None, soon())


def found_in(refreshed: Refreshed) -> CalendarRead:
    assert refreshed.read is not None
    return opened(refreshed.read)


def assert_same(account: StrangeAccount, parts: CaldavProvider, *, as_whole: bool = True) -> CalendarRead:
    """The same answer, read once as the provider does and once by its parts, comes to the same."""
    one, other = first_read(account), first_read(account, parts)
    assert isinstance(one.read, PackedRead) is as_whole
    assert isinstance(other.read, CalendarRead)
    assert found_in(one) == found_in(other)
    assert memory_of(one) == memory_of(other)
    return found_in(one)


def memory_of(refreshed: Refreshed) -> tuple[Signals | None, Known | None]:
    """What the next refresh will know."""
    known = unpack_known(refreshed.memory)
    assert known is not None
    return unpack_signals(refreshed.memory), known


def other_start(text: str, line: str) -> str:
    """An event with this instead of its start and its end."""
    kept = [each for each in text.split("\r\n") if not each.startswith(("DTSTART", "DTEND"))]
    kept[kept.index("END:VEVENT") : kept.index("END:VEVENT")] = [line]
    return "\r\n".join(kept)


def endless() -> str:
    """Takes seconds of CPU time to read, a quarter for each of its series."""
    months = "BYMONTH=1,2,3,4,5,6,7,8,9,10,11,12"
    series = f"DTSTART:16000101T090000Z\r\nDURATION:PT1H\r\nRRULE:FREQ=DAILY;{months};COUNT=99999999"
    events = (f"BEGIN:VEVENT\r\nUID:{number}\r\n{series}\r\nEND:VEVENT\r\n" for number in range(10))
    return f"BEGIN:VCALENDAR\r\n{''.join(events)}END:VCALENDAR\r\n"


@pytest.mark.parametrize(
    "quirk", ["", "no_etags", "weak_etags", "no_ctag", "no_sync", "hashed_signals", "clock_signals"]
)
def test_it_comes_to_what_its_parts_come_to(account: StrangeAccount, parts: CaldavProvider, quirk: str) -> None:
    account.dav.quirks.add(quirk)
    for number in range(1, 6):
        account.dav.put(f"{WORK}e{number}.ics", event(f"e{number}", number))
    account.dav.put(
        f"{WORK}series.ics", other_start(event("s"), "DTSTART:20261201T200000Z\r\nRRULE:FREQ=DAILY;COUNT=3")
    )
    account.dav.put(f"{WORK}broken.ics", other_start(event("broken"), "DTSTART:garbage"))
    account.dav.put(f"{WORK}todo.ics", event("todo", 3, component="VTODO"))
    found = assert_same(account, parts)
    assert len(found.events) == 8
    assert [each.event_id for each in found.unreadable] == [f"{WORK}broken.ics"]


@pytest.mark.parametrize("zone", ["", "Asia/Tokyo"])
def test_dates_and_floating_times_are_where_the_calendar_has_them(
    account: StrangeAccount, parts: CaldavProvider, zone: str
) -> None:
    if zone:
        account.dav.shelves[WORK].properties["urn:ietf:params:xml:ns:caldav:calendar-timezone-id"] = zone
    for name, start in (
        ("day", "DTSTART;VALUE=DATE:20261203"),
        ("floating", "DTSTART:20261204T090000\r\nDURATION:PT1H"),
        ("vote", "DTSTART;TZID=America/New_York:20261205T090000\r\nDURATION:PT1H"),
    ):
        account.dav.put(f"{WORK}{name}.ics", other_start(event(name), start))
    assert len(assert_same(account, parts).events) == 3


def test_an_empty_calendar_is_one(account: StrangeAccount, parts: CaldavProvider) -> None:
    assert assert_same(account, parts) == CalendarRead((), (), frozenset())


@pytest.mark.parametrize("quirk", ["query_without_data", "lists_folder"])
def test_an_answer_that_leaves_texts_out_is_read_by_its_parts(
    account: StrangeAccount, parts: CaldavProvider, expander: Counting, quirk: str
) -> None:
    account.dav.quirks.add(quirk)
    account.dav.put(f"{WORK}e.ics", event("e"))
    assert len(assert_same(account, parts, as_whole=False).events) == 1
    first_read(account)
    assert expander.asked == 1, "it is not attempted again for a while"


def test_an_event_that_is_too_much_is_named_and_the_others_are_told(
    account: StrangeAccount, parts: CaldavProvider, expander: Counting
) -> None:
    account.dav.put(f"{WORK}e.ics", event("e"))
    account.dav.put(f"{WORK}endless.ics", endless())
    found = found_in(first_read(account))
    assert [each.event_id for each in found.events] == [f"{WORK}e.ics"]
    assert [each.event_id for each in found.unreadable] == [f"{WORK}endless.ics"]
    first_read(account)
    assert expander.asked == 1


def test_what_is_no_list_is_an_error_as_ever(account: StrangeAccount, expander: Counting) -> None:
    account.dav.put(f"{WORK}e.ics", event("e"))
    account.dav.fail("REPORT", 207, b"<D:multistatus xmlns:D='DAV:'><D:response>", contains="calendar-query")
    with pytest.raises(ProviderUnavailable, match="cut short or not XML"):
        first_read(account)
    assert expander.asked == 1


def test_a_large_answer_is_left_to_several_children(account: StrangeAccount, parts: CaldavProvider) -> None:
    for number in range(2):
        text = event(f"e{number}").replace("Something", "x" * (BODY_MOST // 2))
        account.dav.put(f"{WORK}e{number}.ics", text)
    assert len(assert_same(account, parts, as_whole=False).events) == 2
