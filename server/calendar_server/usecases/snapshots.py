"""What is known of connections, kept in memory as long as the database says that it still holds.

A snapshot of a connection is all that an answer about it is made of: which calendars block, what each held when it was
last read, which of its events are ours, which bookings are committed. It is kept under the connection's version, and the
version is looked at before every use: on SQLite by the file's own counter, on Postgres by the query that finds the
connections. So no answer rests on anything older than the commits of the moment it was asked for, on whatever machine they
were made.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_

from calendar_server.core.availability import Ours, Overlay
from calendar_server.core.intervals import merge
from calendar_server.core.model import (
    DAY,
    SECOND,
    BusyEvent,
    BusyState,
    CalendarId,
    CalendarRead,
    Connection,
    ConnectionId,
    EventId,
    Instant,
    Interval,
    OrganizationId,
)
from calendar_server.core.packing import Track, Unpackable, unpack_content, unpack_track
from calendar_server.errors import NotFound
from calendar_server.store.mirror import BusyRow, Head
from calendar_server.store.rows import OverlayRow
from calendar_server.store.store import Store
from calendar_server.usecases.commands import CalendarBusy, Target
from calendar_server.usecases.landing import Landing, Turn
from calendar_server.usecases.refresh import Unsaved

TARGETS_MOST = 4096
CONNECTIONS_MOST = 64
"""Sets of connections that providers were just asked about. Good only until the next commit, so few are worth it."""
OVERLAY_BEFORE = 2 * DAY
"""Bookings that ended longer ago are not kept in snapshots, but asked for when a window reaches back to them."""
FOR_EVER = 2**62


@dataclass(slots=True)
class Held:
    """One calendar as it was last read. ``row`` has its packed bytes no more.

    ``plain``: when others' events block, merged. ``special``: events of ours, and what could not be read; they are judged
    anew for each answer.
    """

    row: BusyRow
    plain: Track
    special: CalendarRead
    ours: Mapping[EventId, Ours]
    told: CalendarBusy
    """How an answer of the merged view tells of it where it is fresh."""
    whole: CalendarRead | None = None
    firm: Track | None = None
    """``plain`` without tentative events, once it was asked for."""

    @property
    def judged(self) -> bool:
        """Whether there is anything that each answer has to judge anew."""
        return bool(self.special.events or self.special.unreadable)

    def covers(self, window: Interval) -> bool:
        """Whether the read was of a window that has this one in it."""
        return self.row.as_of > 0 and self.row.window.start <= window.start and window.end <= self.row.window.end

    def fresh(self, window: Interval, not_before: Instant) -> bool:
        """Whether an answer may rest on it: read late enough, and nothing is known to have changed since."""
        row = self.row
        return row.as_of >= not_before and row.changed_at < row.as_of and self.covers(window)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that an answer about one connection is made of. ``overlay_from``: bookings that ended before are not in it."""

    organization_id: OrganizationId
    head: Head
    held: Mapping[CalendarId, Held]
    overlays: Mapping[CalendarId, Sequence[Overlay]]
    overlay_from: Instant


@dataclass(slots=True, eq=False)
class Group:
    """The snapshots of one target, and what is worth keeping of all of them together.

    ``plain``: when others' events block in any of their blocking calendars; made when first asked for.
    """

    snapshots: Sequence[Snapshot]
    plain: Track | None = None

    def joined(self) -> Track:
        """``plain``."""
        if self.plain is None:
            self.plain = Track.joined(
                held.plain
                for snapshot in self.snapshots
                for calendar_id in snapshot.head.busy_calendar_ids
                if (held := snapshot.held.get(calendar_id)) is not None
            )
        return self.plain


@dataclass(slots=True, eq=False)
class _Known:
    """What was last found for a target. ``seen``: the database's version, if it has one, before a look that began at
    ``looked_at`` (``time.monotonic``)."""

    group: Group
    seen: int | None
    looked_at: float
    now: Instant
    """The database's time of the look that found the group."""


@dataclass(slots=True, eq=False)
class _Asked:
    """Connections that providers are asked about; ``seen`` and ``looked_at`` as in ``_Known``."""

    connections: Sequence[Connection]
    seen: int | None
    looked_at: float


@dataclass(slots=True, eq=False)
class _Look:
    """One look at the database for a target, shared by those for whom it begins late enough."""

    began_at: float = math.inf
    """``time.monotonic``; it has not begun as long as it is infinite."""
    done: Landing = field(default_factory=Landing)
    found: tuple[Group, Instant] | None = None
    """None until it is done, or when it failed."""


class Outdated(Exception):
    """The snapshot has been replaced while it was used. Take another."""


class Snapshots:
    """Snapshots of connections, at most ``entries`` of them in memory. Safe for any number of threads.

    ``patience_s``: who has waited so long for another's look at the database looks for itself.
    """

    def __init__(self, store: Store, *, entries: int, patience_s: float = 5.0):
        self._store = store
        self._entries = entries
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._kept: OrderedDict[ConnectionId, Snapshot] = OrderedDict()
        self._targets: dict[tuple[OrganizationId, Target], _Known] = {}
        self._connections: dict[tuple[OrganizationId, tuple[ConnectionId, ...]], _Asked] = {}
        self._looks: dict[tuple[OrganizationId, Target], _Look] = {}

    def of(
        self, organization_id: OrganizationId, target: Target, since: float, *, crowded: bool = False
    ) -> tuple[Group, Instant]:
        """Snapshots of a target's live connections, in the order given, an owner's oldest first; and the time now.

        They hold what was committed before ``since`` (``time.monotonic``), and may hold what was committed after it. So of
        many who ask for the same at once one looks. On Postgres, where each look asks the database, that is done for those
        who are ``crowded`` only, say by having waited for one read: others would wait for two looks instead of one.

        Raises ``NotFound`` for the whole call when an id is unknown, disconnected or another organization's.
        """
        key = (organization_id, target)
        known = self._targets.get(key)
        by_counter = self._store.is_sqlite
        if not by_counter and not crowded:
            return self._looked_up(key, None, time.monotonic(), known)
        if known is not None and known.looked_at >= since:
            return known.group, self._store.now() if by_counter else known.now
        if by_counter and known is not None and key not in self._looks:
            began_at = time.monotonic()
            if self._store.data_version() == known.seen:
                known.looked_at = began_at
                return known.group, self._store.now()
        return self._looked_up_together(key, since)

    def last_known(self, organization_id: OrganizationId, target: Target) -> tuple[Group, Instant] | None:
        """What was last found for a target, and about what time it is now. Asks nobody: it may be outdated."""
        known = self._targets.get((organization_id, target))
        if known is None:
            return None
        if self._store.is_sqlite:
            return known.group, self._store.now()
        return known.group, known.now + round((time.monotonic() - known.looked_at) * SECOND)

    def connections(
        self, organization_id: OrganizationId, connection_ids: Sequence[ConnectionId], since: float
    ) -> Sequence[Connection]:
        """The live connections with these ids, as they were at ``since`` (``time.monotonic``) or later."""
        key = (organization_id, tuple(connection_ids))
        known = self._connections.get(key)
        if known is not None and known.looked_at >= since:
            return known.connections
        looked_at = time.monotonic()
        seen = self._store.data_version()
        if known is not None and seen is not None and known.seen == seen:
            known.looked_at = looked_at
            return known.connections
        found = self._store.connections.get_many(organization_id, connection_ids)
        if self._entries:
            with self._lock:
                if len(self._connections) >= CONNECTIONS_MOST:
                    self._connections.clear()
                self._connections[key] = _Asked(found, seen, looked_at)
        return found

    def _looked_up_together(self, key: tuple[OrganizationId, Target], since: float) -> tuple[Group, Instant]:
        """``_looked_up``, one look at a time for each target. Who comes too late for the one under way shares the next."""
        before: _Look | None = None
        with self._lock:
            look = self._looks.get(key)
            mine = look is None or look.began_at < since
            if look is None or mine:
                before, look = look, _Look()
                self._looks[key] = look
        if not mine:
            with Turn() as turn:
                turn.wait(look.done, self._patience_s)
            if look.found is not None:
                return look.found
            # It takes too long, or has failed: an error is one caller's own.
            began_at = time.monotonic()
            return self._looked_up(key, self._store.data_version(), began_at, None)
        try:
            if before is not None:
                with Turn() as turn:
                    turn.wait(before.done, self._patience_s)
            with self._lock:
                began_at = look.began_at = time.monotonic()
            seen = self._store.data_version()
            known = self._targets.get(key)
            if known is not None and seen is not None and known.seen == seen:
                known.looked_at = began_at
                look.found = known.group, self._store.now()
            else:
                look.found = self._looked_up(key, seen, began_at, known)
            return look.found
        finally:
            with self._lock:
                if self._looks.get(key) is look:
                    del self._looks[key]
            look.done.land()

    def _looked_up(
        self, key: tuple[OrganizationId, Target], seen: int | None, began_at: float, known: _Known | None
    ) -> tuple[Group, Instant]:
        """What ``of`` answers, by the database. ``seen`` is its version before that, at ``began_at`` or later."""
        organization_id, target = key
        heads, now = self._store.mirror.heads(organization_id, list(dict.fromkeys(target.connection_ids)), target.owner)
        if target.connection_ids:
            by_id = {head.id: head for head in heads}
            for connection_id in target.connection_ids:
                if connection_id not in by_id:
                    raise NotFound(f"There is no connection {connection_id}. List shows the ones there are.")
            heads = [by_id[connection_id] for connection_id in dict.fromkeys(target.connection_ids)]
        kept = self._kept
        found = {head.id: kept.get(head.id) for head in heads}
        stale = [head for head in heads if (have := found[head.id]) is None or have.head.version != head.version]
        fresh = self._load(organization_id, stale, now) if stale else {}
        snapshots = [fresh.get(head.id) or found[head.id] or _none() for head in heads]
        group = known.group if known is not None and _same(known.group.snapshots, snapshots) else Group(snapshots)
        if self._entries:
            with self._lock:
                for snapshot in snapshots:
                    kept[snapshot.head.id] = snapshot
                    kept.move_to_end(snapshot.head.id)
                while len(kept) > self._entries:
                    kept.popitem(last=False)
                if len(self._targets) >= TARGETS_MOST:
                    self._targets.clear()
                self._targets[key] = _Known(group, seen, began_at, now)
        return group, now

    def with_unsaved(
        self, group: Group, unsaved: Mapping[tuple[ConnectionId, CalendarId], Unsaved], now: Instant
    ) -> Group:
        """The group with reads that the database could not take laid over it, where they are newer than what it has."""
        snapshots: list[Snapshot] = []
        for snapshot in group.snapshots:
            head = snapshot.head
            newer = {
                each: found
                for (connection_id, each), found in unsaved.items()
                if connection_id == head.id
                and ((held := snapshot.held.get(each)) is None or held.row.as_of < found.row.as_of)
            }
            if newer:
                rows = [row for row in self._store.mirror.busy([head.id]) if row.calendar_id not in newer]
                rows += [found.row for found in newer.values()]
                reads = {each: found.read for each, found in newer.items()}
                snapshot = self._snapshot(snapshot.organization_id, head, rows, now, reads)
            snapshots.append(snapshot)
        return Group(snapshots)

    def whole(self, snapshot: Snapshot, held: Held) -> CalendarRead:
        """Every event of a calendar as last read. Raises ``Outdated`` when it was read again meanwhile."""
        if held.whole is None:
            held.whole, _ = self._content(snapshot.head.id, held.row)
        return held.whole

    def firm(self, snapshot: Snapshot, held: Held) -> Track:
        """When others' events that are not tentative block. Raises ``Outdated``."""
        if held.firm is None:
            events = self.whole(snapshot, held).events
            held.firm = _track(event for event in events if event.event_id not in held.ours and not event.tentative)
        return held.firm

    def overlays(self, snapshot: Snapshot, window: Interval) -> Mapping[CalendarId, Sequence[Overlay]]:
        """The committed bookings of a connection, those that touch the window among them."""
        if window.start >= snapshot.overlay_from or not snapshot.head.written:
            return snapshot.overlays
        return _by_calendar(self._store.mirror.overlay(snapshot.head.id, window))

    def _load(
        self, organization_id: OrganizationId, heads: Sequence[Head], now: Instant
    ) -> Mapping[ConnectionId, Snapshot]:
        # In this order: what is ours, and what is committed, is at least as new as what was read of the calendars.
        rows: dict[ConnectionId, list[BusyRow]] = defaultdict(list)
        for row in self._store.mirror.busy([head.id for head in heads]):
            rows[row.connection_id].append(row)
        return {head.id: self._snapshot(organization_id, head, rows[head.id], now) for head in heads}

    def _snapshot(
        self,
        organization_id: OrganizationId,
        head: Head,
        rows: Sequence[BusyRow],
        now: Instant,
        unsaved: Mapping[CalendarId, CalendarRead] | None = None,
    ) -> Snapshot:
        tracks: dict[CalendarId, Track] = {}
        contents: dict[CalendarId, CalendarRead] = {}
        read_at: dict[CalendarId, Instant] = {}
        for row in rows:
            try:
                track = unpack_track(row.intervals) if row.as_of else Track((), ())
                if unsaved and row.calendar_id in unsaved:
                    contents[row.calendar_id], read_at[row.calendar_id] = unsaved[row.calendar_id], row.as_of
                elif row.as_of and (head.written or track.doubt):
                    contents[row.calendar_id], read_at[row.calendar_id] = self._content(head.id, row)
            except (Unpackable, Outdated):
                # Of another release, or read again at this moment: as if it had never been read.
                continue
            tracks[row.calendar_id] = track
        ours: dict[CalendarId, dict[EventId, Ours]] = defaultdict(dict)
        overlay_from = now - OVERLAY_BEFORE
        overlays: Mapping[CalendarId, Sequence[Overlay]] = {}
        if head.written:
            ids = {event.event_id for read in contents.values() for event in read.events}
            ids |= {event.event_id for read in contents.values() for event in read.unreadable}
            for mine in self._store.mirror.ours(head.id, ids):
                # By its own read: a feed that lies confirms a place that we have since written over.
                current = mine.shown_at is not None and mine.shown_at < read_at.get(mine.calendar_id, 0)
                ours[mine.calendar_id][mine.event_id] = Ours(mine.booking_id, mine.counts, current)
            overlays = _by_calendar(self._store.mirror.overlay(head.id, Interval(overlay_from, FOR_EVER)))
        held = {
            row.calendar_id: _held(
                row, tracks[row.calendar_id], contents.get(row.calendar_id), ours.get(row.calendar_id, {})
            )
            for row in rows
            if row.calendar_id in tracks
        }
        return Snapshot(organization_id, head, held, overlays, overlay_from if head.written else 0)

    def _content(self, connection_id: ConnectionId, row: BusyRow) -> tuple[CalendarRead, Instant]:
        """What a row was made of, and when the read of it began."""
        content = self._store.mirror.content(connection_id, row.calendar_id)
        if content is None or content.version != row.content_version:
            raise Outdated
        return unpack_content(content.events), row.as_of if content.read_at is None else content.read_at


def _held(row: BusyRow, track: Track, whole: CalendarRead | None, ours: Mapping[EventId, Ours]) -> Held:
    row = replace(row, intervals=b"")
    told = CalendarBusy(row.connection_id, row.calendar_id, BusyState.FRESH, row.as_of)
    if whole is None:
        return Held(row, track, CalendarRead(()), ours, told)
    special = CalendarRead(tuple(event for event in whole.events if event.event_id in ours), whole.unreadable)
    if special.events:
        track = _track(event for event in whole.events if event.event_id not in ours)
    return Held(row, track, special, ours, told, whole)


def _track(events: Iterable[BusyEvent]) -> Track:
    return Track.of(merge(Interval(event.start, event.end) for event in events if event.reason.blocks))


def _by_calendar(rows: Sequence[OverlayRow]) -> Mapping[CalendarId, Sequence[Overlay]]:
    found: dict[CalendarId, list[Overlay]] = defaultdict(list)
    for row in rows:
        found[row.calendar_id].append(Overlay(row.booking_id, Interval(row.start, row.end), row.event_id))
    return found


def _same(one: Sequence[Snapshot], other: Sequence[Snapshot]) -> bool:
    return len(one) == len(other) and all(map(is_, one, other))


def _none() -> Snapshot:
    raise Outdated
