"""Refreshing against real servers: after any history of edits, a refresh comes to what a fresh full read comes to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from calendar_server.core.model import CalendarId, Preset, ProviderName
from calendar_server.providers.base import Link
from calendar_server.providers.caldav import CaldavProvider
from tests.contract.conftest import OWN_SERVER, PASSWORD
from tests.contract.mirrors import Mirror, assert_same, picture
from tests.contract.worlds import link_of, soon
from tests.fakes.dav_servers import DavServer, OwnServer

_names = itertools.count(1)


@dataclass
class Place:
    """Where calendars are made at a server. ``requests`` counts what goes out, ``unchanged_most`` of them where nothing has
    changed: signals that are times are not relied on in the first seconds."""

    server: DavServer
    home: str
    provider: CaldavProvider
    link: Link
    requests: list[int] = field(default_factory=lambda: [0])
    unchanged_most: int = 1

    @classmethod
    def of(cls, server: DavServer, home: str, provider: CaldavProvider, username: str, password: str) -> Place:
        account, secret = provider.connect(
            preset=Preset.CUSTOM, username=username, password=password, server_url=server.url, deadline=soon()
        )
        requests = [0]

        def count() -> None:
            requests[0] += 1

        return cls(server, home, provider, link_of(account, secret, ProviderName.CALDAV, count), requests)

    def mirror(self) -> Mirror:
        """Of a new calendar."""
        path = self.server.make_calendar(f"{self.home}history{next(_names)}/")
        return Mirror(self.provider, self.link, CalendarId(path))

    def counted(self, call: Callable[[], object]) -> int:
        """How many requests a call takes."""
        before = self.requests[0]
        call()
        return self.requests[0] - before


@pytest.fixture(params=["radicale", "xandikos", *OWN_SERVER])
def place(request: pytest.FixtureRequest, caldav: CaldavProvider) -> Iterator[Place]:
    if request.param == "own_server":
        own: OwnServer = request.getfixturevalue("own_server")
        first = own.server.make_calendar(f"{own.home}first{next(_names)}/")
        yield replace(Place.of(own.server, own.home, caldav, own.username, own.password), unchanged_most=2)
        own.server.delete(first)
        return
    server: DavServer = request.getfixturevalue(request.param)
    if request.param == "radicale":
        user: str = request.getfixturevalue("username")
        server.make_calendar(f"/{user}/first/")  # nobody connects an account without calendars
        yield Place.of(server, f"/{user}/", caldav, user, PASSWORD)
    else:
        yield Place.of(server, "/user/calendars/", caldav, "anybody", "anything")


def text(uid: str, *events: tuple[str, ...], above: tuple[str, ...] = (), component: str = "VEVENT") -> str:
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//tests//EN", *above]
    for one in events:
        lines += [f"BEGIN:{component}", f"UID:{uid}", "DTSTAMP:20261101T000000Z", *one, f"END:{component}"]
    return "\r\n".join([*lines, "END:VCALENDAR", ""])


ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo")


@st.composite
def texts(draw: st.DrawFn) -> Callable[[str], str]:
    """The text of some event, for a uid."""
    day, hour = draw(st.integers(1, 28)), draw(st.integers(0, 23))
    clock = f"202612{day:02}T{hour:02}0000"
    zone = draw(st.sampled_from(ZONES))
    start = draw(
        st.sampled_from(
            [
                f"DTSTART:{clock}Z",
                f"DTSTART:{clock}",
                f"DTSTART;VALUE=DATE:202612{day:02}",
                f"DTSTART;TZID={zone}:{clock}",
                f"DTSTART;TZID={zone}:{clock}",
            ]
        )
    )
    length = "DURATION:P1D" if "VALUE=DATE" in start else f"DURATION:PT{draw(st.integers(1, 50))}H"
    state = draw(st.sampled_from(["STATUS:CONFIRMED", "STATUS:TENTATIVE", "STATUS:CANCELLED", "TRANSP:TRANSPARENT"]))
    above = draw(st.sampled_from([(), (), (), (), ("X-WR-TIMEZONE:America/New_York",)]))
    kind = draw(st.sampled_from(["single", "single", "series", "override", "todo"]))
    events: list[tuple[str, ...]] = [(start, length, state)]
    if kind in ("series", "override"):
        events = [(start, length, state, f"RRULE:FREQ=DAILY;COUNT={draw(st.integers(2, 40))}")]
    if kind == "override":
        events.append((start.replace("DTSTART", "RECURRENCE-ID"), f"DTSTART:202612{day:02}T111500Z", "DURATION:PT5M"))
    component = "VTODO" if kind == "todo" else "VEVENT"
    if kind == "todo":
        events = [(start, "SUMMARY:to do")]
    return lambda uid: text(uid, *events, above=above, component=component)


class History(RuleBasedStateMachine):
    """Somebody edits a calendar; now and then it is refreshed, and always comes out as a fresh read does."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.held = place.mirror()
        self.names: set[str] = set()
        self.held.refresh()

    def path(self, name: str) -> str:
        return f"{self.held.calendar_id}{name}.ics"

    @rule(name=st.sampled_from("abcdefg"), made=texts())
    def put(self, name: str, made: Callable[[str], str]) -> None:
        if name in self.names:
            # A server may refuse to make an event of a to-do with the same name.
            self.place.server.delete(self.path(name))
        self.place.server.put(self.path(name), made(f"uid-{name}"))
        self.names.add(name)

    @rule(name=st.sampled_from("abcdefg"), made=texts())
    def change_in_place(self, name: str, made: Callable[[str], str]) -> None:
        new = made(f"uid-{name}")
        old = self.place.server.get(self.path(name)) if name in self.names else None
        if old is not None and ("BEGIN:VTODO" in old) == ("BEGIN:VTODO" in new):
            self.place.server.put(self.path(name), new)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def take_out(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.names)))
        self.place.server.delete(self.path(name))
        self.names.remove(name)

    @rule()
    def refresh(self) -> None:
        assert_same(self.held)

    @rule()
    def refresh_twice(self) -> None:
        assert_same(self.held)
        assert self.place.counted(self.held.refresh) <= self.place.unchanged_most
        assert self.held.unchanged

    @rule()
    def refresh_in_full(self) -> None:
        assert picture(self.held.refresh_in_full()) == picture(self.held.fresh())

    @invariant()
    def the_picture_has_a_memory(self) -> None:
        assert self.held.remembered is not None
        assert self.held.remembered.memory

    def teardown(self) -> None:
        assert_same(self.held)
        self.place.server.delete(self.held.calendar_id)


def test_after_any_history_a_refresh_is_as_good_as_a_full_read(place: Place) -> None:
    run_state_machine_as_test(
        lambda: History(place),
        settings=settings(
            max_examples=8,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def filled(place: Place) -> Mirror:
    """Of a new calendar with fifteen events, not read yet."""
    mirror = place.mirror()
    for number in range(15):
        start = f"DTSTART:202612{1 + number % 7:02}T100000Z"
        place.server.put(f"{mirror.calendar_id}n{number}.ics", text(f"n{number}", (start, "DURATION:PT1H")))
    return mirror


def test_nothing_changed_is_one_request_and_one_change_is_three_and_then_two(place: Place) -> None:
    if place.unchanged_most > 1:
        pytest.skip("it is not known what the signals of this server are")
    mirror = filled(place)
    # The look, the texts, and the list that confirms them.
    assert place.counted(mirror.refresh) == 3
    assert place.counted(mirror.refresh) == 1
    assert mirror.unchanged
    place.server.put(f"{mirror.calendar_id}n3.ics", text("n3", ("DTSTART:20261205T120000Z", "DURATION:PT2H")))
    # The look, what changed, and its text.
    assert place.counted(mirror.refresh) == 3
    assert place.counted(mirror.refresh) == 1
    # What changed was told exactly, so from now on it is the look.
    place.server.put(f"{mirror.calendar_id}n3.ics", text("n3", ("DTSTART:20261205T130000Z", "DURATION:PT2H")))
    place.server.delete(f"{mirror.calendar_id}n4.ics")
    assert place.counted(mirror.refresh) == 2
    assert place.counted(mirror.refresh) == 1
    assert_same(mirror)


def test_a_full_read_of_what_is_as_it_was_finds_nothing_new(place: Place) -> None:
    if place.unchanged_most > 1:
        pytest.skip("it is not known whether this server says the same in the same words")
    mirror = filled(place)
    mirror.refresh()
    assert place.counted(mirror.refresh_in_full) == 2
    assert mirror.unchanged
    place.server.put(f"{mirror.calendar_id}n3.ics", text("n3", ("DTSTART:20261205T120000Z", "DURATION:PT2H")))
    mirror.refresh_in_full()
    assert not mirror.unchanged
    assert picture(mirror.refresh_in_full()) == picture(mirror.fresh())
    assert mirror.unchanged


def test_an_event_of_ours_is_seen_at_the_next_refresh(place: Place) -> None:
    mirror = place.mirror()
    mirror.refresh()
    place.server.put(f"{mirror.calendar_id}x.ics", text("x", ("DTSTART:20261205T120000Z", "DURATION:PT2H")))
    assert mirror.refresh().event_ids == {f"{mirror.calendar_id}x.ics"}
    place.server.delete(f"{mirror.calendar_id}x.ics")
    assert mirror.refresh().event_ids == frozenset()
    assert_same(mirror)
