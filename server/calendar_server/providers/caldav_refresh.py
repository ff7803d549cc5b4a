"""Bringing what is remembered of a calendar up to date: one small request when nothing has changed.

    1. Look     PROPFIND of the calendar itself: its ctag, sync token and zone. All as before: nothing has changed.
    2. Find     what changed. ``sync-collection`` is asked first, but only to save time: servers take invalid tokens for
                the newest, so it counts only if it tells something new. The list of all etags is the truth.
    3. Fetch    the changed ones by name, read them alone, and put them in the place of what was remembered of them.

Each resource stands alone (`core.busy`), but for one thing: where dates and floating times belong. If the calendar's own
zone changes, everything is read again. If it has none, its events vote; their votes are remembered one by one, so that
the zone elected is that of a full read, and another outcome reads everything again.

Some servers' signals are the second of the last change (SOGo's): what changes later in the same second does not show. So a
signal that is the time of about now is never relied on; the next refresh compares with the list of all etags.

Some servers make their signals of what is there (Radicale's are a hash of it), so that what is taken out and put back shows
the same ones again. Were it away just when it was read, it would never show. So signals count only if they are the same
before and after a read: after a refresh that found something new they are asked for again. Two are spared that: a read of
everything, as the next refresh compares it with the list of all etags; and a refresh that is exact, by a report up to the
very token of the look, of which every text came with the etag that the report tells. That also shows that the token is what
it should be, so until a full read finds something else it alone is asked for (RFC 6578 section 4): for ctag and token some
servers go through the whole calendar twice.

Some servers leave events out of what they answer when all are asked for at once: those that began long ago (Yahoo), or every
one of them (Stalwart 0.15). So the first read of a window is held against the list, which tells the signals as well; and so
is a later one that shows nothing, or less than was there, or the same although the signals tell of a change. What is only in
the list is read by name. Where the signals say that nothing has come in between, the query is not relied on again in this
window, which moves once a day.

And where nothing lies in the calendar's own zone, the report itself is the look from then on, for ``LOOK_EVERY_S`` seconds
after each real one: with the same token and without a member it says that nothing has changed, else what has. It is one
request less after every change. Whatever else it says, a look comes after all.

What is not to be relied on ends in a list instead of a report, or in a full read instead of a list; never in a guess.
What lies to us outright (an etag or a ctag that stays while the event changes) only shows in a full read. A full read whose
answer is, byte for byte, that of the last one comes to the same (`caldav_same`).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from calendar_server.core.busy import Reading
from calendar_server.core.model import UNTOLD, BusyEvent, CalendarId, EventId, UnreadableEvent
from calendar_server.errors import ProviderError
from calendar_server.providers.base import Remembered
from calendar_server.providers.caldav_members import Kind, Listed, Texts, is_folder, kind_of
from calendar_server.providers.caldav_memory import Known, Signals, fingerprint, ids_in, signals_of
from calendar_server.providers.caldav_protocol import CTAG, SIGNALS, SYNC_TOKEN, Member
from calendar_server.providers.caldav_reading import BATCH, Listing, Report, changed_since, list_members, look_at
from calendar_server.providers.caldav_session import Session

LOOK_AGAIN_S = 2.0
"""Seconds for the look after a read. What was read is good without it, only less cheap to confirm."""
LOOK_EVERY_S = 120
"""Seconds after a look in which reports are asked for without one: as long a server that begins to lie is believed."""
MULTIGETS_MOST = 5
"""With more requests than this for what changed, everything is read again: that is one request, as a rule."""


@dataclass(slots=True)
class Changes:
    """What is different in a calendar from what is known of it. ``fetch`` are new, changed, or not told from changed.

    ``others`` are resources without an event, as they are now.
    """

    fetch: dict[EventId, Listed] = field(default_factory=dict)
    gone: set[EventId] = field(default_factory=set)
    others: dict[EventId, str] = field(default_factory=dict)
    doubtful: bool = False
    """Something is there of which only a full read can tell whether it is an event."""
    token: str = ""
    """The sync token of what they lead to, where a report told them."""

    @property
    def tell(self) -> bool:
        """Whether any event is different, or may be."""
        return bool(self.fetch or self.gone or self.doubtful)

    def too_many(self, known: int) -> bool:
        """Whether reading everything again is less work."""
        return len(self.fetch) > MULTIGETS_MOST * BATCH or len(self.fetch) > max(BATCH // 2, known // 2)


def find_changes(session: Session, calendar_id: CalendarId, known: Known, token: str, events_most: int) -> Changes:
    """What has changed. ``token`` is the sync token that was remembered, empty without one. Raises ``CalendarGone``."""
    if token and all(known.etags.values()):
        report = changed_since(session, calendar_id, token, events_most)
        if report is not None and report.token != token:
            changes = told_by(report, known)
            if changes.tell:
                return changes
    changes = Changes()
    there = set()
    for listed, member in list_members(session, calendar_id, events_most).members:
        if not member.gone:
            there.add(listed.event_id)
            _compare(listed, member, known, changes)
    changes.gone = known.etags.keys() - there
    return changes


def left_out(listing: Listing, known: Known) -> Changes:
    """What is in a list and not in what was read of everything a moment ago, or the other way round.

    Etags are not compared: what has changed meanwhile is the next refresh's. What is no calendar text was asked for together
    with the events, and is none.
    """
    changes, there = Changes(others=dict(known.others)), set()
    for listed, member in listing.members:
        if not member.gone:
            there.add(listed.event_id)
            if listed.event_id not in known.etags:
                _compare(listed, member, known, changes)
    changes.gone = known.etags.keys() - there
    changes.doubtful = False
    return changes


def told_by(report: Report, known: Known) -> Changes:
    """What a report says is different from what is known. All of that has etags."""
    changes = Changes(others=dict(known.others), token=report.token)
    for listed, member in report.found:
        if member.gone:
            changes.others.pop(listed.event_id, None)
            if listed.event_id in known.etags:
                changes.gone.add(listed.event_id)
        else:
            _compare(listed, member, known, changes)
    changes.gone.difference_update(changes.fetch)
    return changes


def _compare(listed: Listed, member: Member, known: Known, changes: Changes) -> None:
    """Compare a resource that is there with what is known."""
    event_id, etag = listed.event_id, fingerprint(listed.etag)
    if event_id in changes.fetch:
        # Told twice, so it is not clear which of both etags is the text's.
        changes.fetch[event_id] = Listed(event_id, listed.href)
        return
    before = known.etags.get(event_id)
    if before is None:
        if is_folder(member):
            return
        if etag and known.others.get(event_id) == etag:
            changes.others[event_id] = etag
            return
        changes.others.pop(event_id, None)
        kind = kind_of(member)
        if kind is Kind.OTHER:
            return
        if kind is Kind.FOREIGN:
            changes.doubtful = True
            changes.others[event_id] = etag
            return
    elif etag and before == etag:
        return
    changes.fetch[event_id] = listed


@dataclass(frozen=True, slots=True)
class Refresh:
    """One refresh of a calendar, and what its look has told at ``now`` (seconds since 1970). For the rest see ``Look``.

    ``alone``: there was no look, but for an earlier one. What it would tell is as then, and in ``reading`` there is no zone.
    """

    session: Session
    calendar_id: CalendarId
    reading: Reading
    signals: Signals
    young: bool
    now: int
    untold: tuple[UnreadableEvent, ...] = ()
    alone: bool = False

    def old_signals(self) -> Signals:
        """What is remembered of signals that stood before an earlier read and still do."""
        return replace(self.signals, settled=not self.young)

    @property
    def token_asked(self) -> tuple[str, ...]:
        """The signal that tells whether anything has changed since the look; none where there is none."""
        return (SYNC_TOKEN,) if self.signals.sync_token else (CTAG,) if self.signals.ctag else ()

    def held_in(self, listing: Listing) -> bool:
        """Whether nothing has changed between the look and this list, as far as there are signals."""
        if self.young:
            return False
        if self.signals.sync_token:
            return listing.sync_token == self.signals.sync_token
        return fingerprint(listing.ctag) == self.signals.ctag

    def differs(self, last: Signals) -> bool:
        """Whether something has changed since."""
        return (self.signals.ctag, self.signals.sync_token) != (last.ctag, last.sync_token)

    def signals_told(self, certain: bool, zoneless: bool, digest: str) -> Signals:
        """What is remembered of them after a read of everything that is still to be confirmed."""
        return replace(self.signals, zoneless=zoneless, digest=digest if certain else "", settled=False)

    def stands_for(self, last: Signals) -> bool:
        """Whether an answer that is the same as then comes to the same as then."""
        return bool(last.digest) and self.signals.same_reading(last)

    def signals_as(self, last: Signals) -> Signals:
        """What is remembered of them after a read of everything that came to the very answer of the ``last`` one."""
        if self.signals == replace(last, settled=True):
            # They stood before both reads, and both brought the same: they are its signals.
            return replace(last, settled=not self.young)
        return self.signals_of_all(first=True, certain=True, zoneless=last.zoneless, digest=last.digest)

    def signals_after(self, changes: Changes, texts: Texts) -> Signals:
        """What is remembered of them after a read of what has changed."""
        exact = changes.token and changes.token == self.signals.sync_token and changes.fetch.keys() <= texts.as_listed
        if exact and not texts.empty and not self.young:
            agreed_at = self.signals.agreed_at if self.alone else 0 if self.signals.zoneless else self.now
            return replace(self.signals, ctag="", settled=True, agreed_at=agreed_at, digest="")
        return replace(self.signals, settled=not texts.empty and self.signals_hold(), agreed_at=0, digest="")

    def signals_of_all(
        self, *, first: bool, certain: bool, zoneless: bool, digest: str = "", complete: bool = True
    ) -> Signals:
        """What is remembered of them after a read of everything, the ``first`` one or not.

        ``certain``: all of it has etags. ``complete``: no text was missing. ``digest``: of the answer, if it came from one.
        """
        # What is not certain might come to something else with another try.
        signals = replace(self.signals, zoneless=zoneless, digest=digest if certain and complete else "")
        if first and certain:
            # The next refresh compares it with the list of all etags.
            return replace(signals, settled=not signals.tell)
        return replace(signals, settled=complete and self.signals_hold())

    def signals_hold(self) -> bool:
        """Whether the signals from before a read still hold after it. If that cannot be learned soon, they do not."""
        if not self.signals.tell:
            return True  # there are none that could mislead
        if self.young:
            return False
        try:
            look = look_at(self.session.hurried(LOOK_AGAIN_S), self.calendar_id, asked_for(self.signals))
        except ProviderError:
            return False
        basis = (self.calendar_id, *sorted(self.reading.addresses))
        return self.signals == signals_of(
            basis, look.zone, look.untold(self.reading.window), look.ctag, look.sync_token
        )


def holds_any(before: Remembered) -> bool:
    """Whether anything is remembered of it, within the window or not."""
    return bool(before.read.events or _read_in_vain(before) or ids_in(before.memory))


def loses(before: Remembered, event_ids: frozenset[EventId] | None, changes: Changes) -> bool:
    """Whether a read of everything shows less than was there, but for what is known to be gone."""
    there = event_ids or frozenset()
    were = {event.event_id for event in before.read.events} | _read_in_vain(before)
    return not were <= there | changes.gone


def _read_in_vain(before: Remembered) -> set[EventId]:
    return {each.event_id for each in before.read.unreadable if each.event_id != UNTOLD}


def report_suffices(remembered: Signals, basis: Sequence[str], now: int) -> bool:
    """Whether a report alone tells if anything is different from what is remembered, read with this ``basis``."""
    return remembered.basis == fingerprint(*basis) and 0 <= now - remembered.agreed_at < LOOK_EVERY_S


def asked_for(remembered: Signals | None) -> tuple[str, ...]:
    """The signals that tell whether anything is different from what is remembered."""
    return SIGNALS if remembered is None or remembered.ctag or not remembered.sync_token else (SYNC_TOKEN,)


@dataclass(frozen=True, slots=True)
class Picture:
    """Events and unreadable events of a calendar in a window."""

    events: tuple[BusyEvent, ...]
    unreadable: tuple[UnreadableEvent, ...]

    def replaced(
        self,
        kept: Container[EventId],
        events: Sequence[BusyEvent],
        unreadable: Iterable[UnreadableEvent],
    ) -> Picture:
        """What of it belongs to the ids that are ``kept``, and these besides. Events come by start. What the server does
        not show stays."""
        together = [event for event in self.events if event.event_id in kept]
        together += events
        together.sort(key=by_start)
        return Picture(
            tuple(together),
            (*(one for one in self.unreadable if one.event_id in kept or one.event_id == UNTOLD), *unreadable),
        )


def by_start(event: BusyEvent) -> tuple[int, int]:
    return event.start, event.end
