"""CalDAV accounts as a provider (RFC 4791), with the package ``caldav`` for protocol and objects.

The rooms behind it, from the wire upwards
    caldav_protocol   bodies of requests and multistatus answers: the door to the package ``caldav``
    caldav_address    origins, hrefs, ids
    caldav_digest     Basic and Digest
    caldav_logins     what servers said of log-ins a moment ago
    caldav_session    one conversation: logging in, redirects, what refusals mean
    caldav_discovery  from an address to calendars
    caldav_events     the text of our own events
    caldav_members    what answers say of the resources in a calendar
    caldav_reading    texts of a calendar, in full or of some events
    caldav_whole      the usual answer, read as a whole by a child
    caldav_memory     what is remembered of a calendar, as bytes
    caldav_same       whether an answer is the one that this came from
    caldav_refresh    what has changed since
    caldav_writing    look, write, look again

All traffic goes through ``egress``. Of the package only the elements are imported: its response class would bring the
icalendar library, its client an HTTP client.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from calendar_server.core.busy import Reading, elected
from calendar_server.core.model import (
    Booking,
    Calendar,
    CalendarId,
    CalendarRead,
    EventId,
    Interval,
    Preset,
    UnreadableEvent,
)
from calendar_server.core.packing import PackedRead, opened
from calendar_server.errors import (
    CalendarGone,
    ForbiddenDestination,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers.base import Account, Deadline, EventRef, Link, Refreshed, Remembered, RemoteEvent, Secret
from calendar_server.providers.caldav_address import BadHref, Origin, Reach, canonical
from calendar_server.providers.caldav_discovery import (
    BASES,
    Collection,
    Discovered,
    Place,
    base_url,
    collections,
    discover,
    speaks_caldav,
)
from calendar_server.providers.caldav_logins import Logins
from calendar_server.providers.caldav_members import Texts
from calendar_server.providers.caldav_memory import (
    TOKEN_MOST,
    Known,
    Signals,
    ids_in,
    joined,
    known_after,
    known_in,
    pack,
    read_by_name,
    signals_of,
    unpack_known,
    unpack_signals,
    with_signals,
)
from calendar_server.providers.caldav_reading import (
    NoMultiget,
    changed_since,
    fetch,
    list_members,
    look_at,
    query,
    read_all_texts,
    read_texts,
)
from calendar_server.providers.caldav_refresh import (
    Changes,
    Picture,
    Refresh,
    asked_for,
    find_changes,
    holds_any,
    left_out,
    loses,
    report_suffices,
    told_by,
)
from calendar_server.providers.caldav_same import digest_of
from calendar_server.providers.caldav_session import Login, Session
from calendar_server.providers.caldav_whole import Question, read_whole
from calendar_server.providers.caldav_writing import delete, find, put
from calendar_server.providers.egress import Answer, Egress
from calendar_server.providers.expander import Expanded, Expander


class CaldavProvider:
    """See ``Provider`` for what the verbs promise. Safe for any number of threads; its only state is what servers said of
    log-ins a moment ago.

    ``redirects``: followed in one exchange at most. ``calendar_events``: read of one calendar at most; a calendar with
    more is ``ProviderUnavailable``. ``clock``: seconds since 1970, by which looks at calendars age.
    """

    # An event is what stands at its address, and we choose that.
    makes_once = True

    def __init__(
        self,
        egress: Egress,
        expander: Expander,
        *,
        redirects: int,
        calendar_events: int,
        clock: Callable[[], float] = time.time,
    ):
        self._egress = egress
        self._expander = expander
        self._redirects = redirects
        self._calendar_events = calendar_events
        self._logins = Logins()
        self._clock = clock

    def connect(
        self, *, preset: Preset, username: str, password: str, server_url: str, deadline: Deadline
    ) -> tuple[Account, Secret]:
        """Prove the credentials by real requests and find out what the account has.

        ``server_url`` is empty for the presets apple and fastmail. Raises ``ProviderRefused`` with the cause
        ``credentials``, ``not_caldav`` or ``no_calendars``, or without one where the way leads to a place that the
        password must not go to; ``ForbiddenDestination`` for the address entered itself; ``ProviderUnavailable``.
        """
        url = base_url(preset, server_url)
        try:
            origin = Origin.of(url)
            url = Reach(origin, preset).locate_strictly(url, url)
        except BadHref as error:
            raise ProviderRefused(
                "This is not the address of a server. Check server_url.", cause="not_caldav"
            ) from error
        session = Session(
            self._egress,
            Reach(origin, preset),
            Login(username, password),
            redirects=self._redirects,
            deadline=deadline,
            connecting=True,
        )
        try:
            discovered = discover(session, url)
            found = self._calendars(session, discovered)
        except ForbiddenDestination as error:
            if preset in BASES:
                raise ProviderUnavailable("The provider's server cannot be reached.") from error
            raise
        account = _account(session, preset, username, discovered, found)
        return account, Secret({"username": username, "password": password})

    @staticmethod
    def _calendars(session: Session, discovered: Discovered) -> list[Collection]:
        try:
            found = collections(session, discovered.place)
        except CalendarGone:
            found = []
        if found:
            return found
        if not (discovered.place.principal and discovered.place.homes) and not speaks_caldav(session, discovered.place):
            raise ProviderRefused("The server at this address has no calendars. Check server_url.", cause="not_caldav")
        raise ProviderRefused(
            "No calendar was found in this account. Make one there, or enter its own address as server_url.",
            cause="no_calendars",
        )

    def list_calendars(self, link: Link, deadline: Deadline) -> list[Calendar]:
        """Read the account's calendars now."""
        return [one.calendar for one in collections(self._session(link, deadline), _place(link))]

    def read_calendar(self, link: Link, calendar_id: CalendarId, window: Interval, deadline: Deadline) -> CalendarRead:
        """Read the calendar in full, and expand what touches the window."""
        session = self._session(link, deadline)
        look = look_at(session, calendar_id)
        texts = read_all_texts(session, calendar_id, self._calendar_events)
        expanded = self._expand(texts, Reading(window, look.zone, _own_addresses(link)), deadline)
        unreadable = (*look.untold(window), *expanded.read.unreadable)
        return replace(expanded.read, unreadable=unreadable, event_ids=texts.event_ids)

    def _expand(
        self, texts: Texts, reading: Reading, deadline: Deadline, floating: str | None = None, voting: bool = False
    ) -> Expanded:
        """Read the texts. Events without one are named."""
        expanded = self._expander.expand_part(texts.resources(), reading, deadline, floating=floating, voting=voting)
        if texts.empty:
            empty = (
                UnreadableEvent(event_id, "The server hands out no text for this event.") for event_id in texts.empty
            )
            read = replace(expanded.read, unreadable=(*expanded.read.unreadable, *empty))
            expanded = replace(expanded, read=read)
        return expanded

    def refresh_calendar(
        self, link: Link, calendar_id: CalendarId, window: Interval, before: Remembered | None, deadline: Deadline
    ) -> Refreshed:
        """Look whether anything has changed, and read only that. See `caldav_refresh`."""
        session = self._session(link, deadline)
        addresses = _own_addresses(link)
        basis = (calendar_id, *sorted(addresses))
        now = int(self._clock())
        last = unpack_signals(before.memory) if before is not None and before.window == window else None
        # Where everything is to be read again, it is only there to compare with.
        remembered = None if before is None or before.full else last
        by_report = False
        if before is not None and remembered is not None and report_suffices(remembered, basis, now):
            by_report = True
            here = Refresh(session, calendar_id, Reading(window, "", addresses), remembered, False, now, alone=True)
            refreshed = self._by_report(here, before)
            if refreshed is not None:
                return refreshed
        look = look_at(session, calendar_id, asked_for(remembered))
        untold = look.untold(window)
        signals = signals_of(basis, look.zone, untold, look.ctag, look.sync_token)
        signals = replace(signals, by_name=last is not None and last.by_name)
        here = Refresh(session, calendar_id, Reading(window, look.zone, addresses), signals, look.young, now, untold)
        changes = Changes()
        if before is not None and remembered is not None and signals.same_reading(remembered):
            carried = replace(signals, zoneless=remembered.zoneless, digest=remembered.digest)
            here = replace(here, signals=carried)
            if signals.tell and signals == remembered:
                if not remembered.agreed_at:
                    return Refreshed(None, before.memory)
                # A report that was no use is not asked for again until another has been exact.
                agreed = replace(remembered, agreed_at=0 if by_report else now)
                return Refreshed(None, with_signals(before.memory, agreed))
            known = unpack_known(before.memory)
            if known is not None and (signals.tell or not known.etags or any(known.etags.values())):
                # A report tells what is different from what the token stands for, which need not be what we know. One
                # that was no use would be none now.
                token = remembered.sync_token if remembered.settled and not by_report else ""
                changes = find_changes(session, calendar_id, known, token, self._calendar_events)
                if not changes.doubtful and not changes.too_many(len(known.etags)):
                    same = signals == replace(remembered, settled=True)
                    refreshed = self._replace(here, before, known, changes, same)
                    if refreshed is not None:
                        return refreshed
        return self._read_all(here, changes, before, last)

    def _by_report(self, here: Refresh, before: Remembered) -> Refreshed | None:
        """Bring it up to date by a report alone. None: there has to be a look."""
        remembered = here.signals
        report = changed_since(here.session, here.calendar_id, remembered.sync_token, self._calendar_events)
        if report is None or len(report.token) > TOKEN_MOST:
            return None
        if report.token == remembered.sync_token:
            return None if report.found else Refreshed(None, before.memory)
        known = unpack_known(before.memory)
        if known is None or not all(known.etags.values()):
            return None
        changes = told_by(report, known)
        if not changes.tell or changes.doubtful or changes.too_many(len(known.etags)):
            return None
        newer = replace(here, signals=replace(remembered, sync_token=report.token), young=report.young)
        return self._replace(newer, before, known, changes, same=False)

    def _read_all(self, here: Refresh, changes: Changes, before: Remembered | None, last: Signals | None) -> Refreshed:
        """Read everything: as a whole where that can be, else by its parts. ``changes``: what is known of other things.

        ``last``: the signals in ``before``, if that is of this window.
        """
        session, calendar_id, first = here.session, here.calendar_id, before is None or before.full
        if here.signals.by_name:
            with suppress(NoMultiget):
                return self._read_parts(here, changes, None, first=first)
        answer = query(session, calendar_id)
        if answer is None:
            return self._read_parts(here, changes, None, first=first)
        digest = digest_of(answer)
        same = last is not None and here.stands_for(last) and last.digest == digest
        as_it_was = same and last is not None and not here.differs(last)
        if before is not None and before.full and last is not None and as_it_was and holds_any(before):
            return Refreshed(None, with_signals(before.memory, here.signals_as(last)), lambda: ids_in(before.memory))

        def doubtful(there: frozenset[EventId] | None) -> bool:
            # It is the first, or shows nothing at all, or nothing of what is different, or less than there was.
            return before is None or not there or same or loses(before, there, changes)

        if not changes.others:
            question = Question(
                answer.body,
                answer.status,
                answer.url,
                calendar_id,
                session.reach,
                self._calendar_events,
                here.reading,
                here.untold,
            )
            whole = read_whole(self._expander, question, session.deadline)
            if whole is not None:
                if doubtful(whole.read.event_ids):
                    signals = here.signals_told(whole.certain, whole.zoneless, digest)
                    return self._confirmed(here, whole.read, known_in(whole.known), signals)
                signals = here.signals_of_all(
                    first=first, certain=whole.certain, zoneless=whole.zoneless, digest=digest
                )
                return Refreshed(whole.read, joined(signals, whole.known))
        return self._read_parts(here, changes, answer, first=first, digest=digest, doubtful=doubtful)

    def _read_parts(
        self,
        here: Refresh,
        changes: Changes,
        answer: Answer | None,
        *,
        first: bool,
        digest: str = "",
        doubtful: Callable[[frozenset[EventId] | None], bool] = lambda _: False,
    ) -> Refreshed:
        """Read everything by its parts: what a query told, else by name. ``doubtful``: of what a query shows, by its ids."""
        session = here.session
        texts = read_texts(session, here.calendar_id, self._calendar_events, answer)
        expanded = self._expand(texts, here.reading, session.deadline)
        others = {each: etag for each, etag in changes.others.items() if each not in texts.event_ids}
        known = known_after(texts, expanded, Known(expanded.floating, others=others))
        unreadable = (*here.untold, *expanded.read.unreadable)
        read = replace(expanded.read, unreadable=unreadable, event_ids=texts.event_ids)
        certain, complete = all(known.etags.values()), not texts.empty
        digest = "" if texts.by_name else digest
        if answer is not None and doubtful(texts.event_ids):
            signals = here.signals_told(certain and complete, expanded.zoneless, digest)
            return self._confirmed(here, read, known, signals, complete=complete)
        signals = here.signals_of_all(
            first=first, certain=certain, zoneless=expanded.zoneless, digest=digest, complete=complete
        )
        return Refreshed(read, pack(signals, known))

    def _confirmed(
        self,
        here: Refresh,
        read: CalendarRead | PackedRead,
        known: Known | None,
        signals: Signals,
        *,
        complete: bool = True,
    ) -> Refreshed:
        """What a query told, with what it left out. ``known`` and ``signals``: of what it told."""
        if known is None:
            raise ProviderUnavailable("The calendar could not be read, for a reason inside this service.")
        listing = list_members(here.session, here.calendar_id, self._calendar_events, here.token_asked)
        held = here.held_in(listing)
        changes = left_out(listing, known)
        if held:
            # A list that lacks what was read just now is not whole.
            changes.gone = set()
        if not changes.tell:
            signals = replace(signals, settled=complete and held)
            return Refreshed(read, pack(signals, replace(known, others=changes.others)))
        told = Remembered(here.reading.window, opened(read), pack(signals, known))
        refreshed = self._replace(here, told, known, changes, same=False, singly=True)
        if refreshed is None:
            refreshed = self._read_parts(here, changes, None, first=True)
        there = refreshed.read.event_ids if refreshed.read else None
        if held and there and not there <= known.etags.keys():
            # Nothing has come in between: the query has left it out.
            return replace(refreshed, memory=read_by_name(refreshed.memory))
        return refreshed

    def _replace(
        self,
        here: Refresh,
        before: Remembered,
        known: Known,
        changes: Changes,
        same: bool,
        *,
        singly: bool = False,
    ) -> Refreshed | None:
        """Read what has changed, in the place of what is remembered of it. None: everything has to be read.

        ``same``: the signals are those that are remembered. ``singly``: see ``fetch``.
        """
        kept = {
            each: etag for each, etag in known.etags.items() if each not in changes.gone and each not in changes.fetch
        }
        if len(kept) == len(known.etags) and not changes.fetch:
            # What was read is what there is. The same signals, before that read and now, are its signals.
            signals = here.old_signals() if same else here.signals_after(changes, Texts())
            signals = replace(signals, digest=here.signals.digest)
            if changes.others != known.others:
                return Refreshed(None, pack(signals, replace(known, others=changes.others)))
            return Refreshed(None, with_signals(before.memory, signals))
        floating = known.floating or None
        if floating is None and (kept or here.alone):
            return None  # else what is fetched is all there is, and tells by itself where floating times belong
        texts = Texts()
        try:
            changed = list(changes.fetch.values())
            fetch(here.session, here.calendar_id, changed, texts, self._calendar_events, singly=singly)
        except NoMultiget:
            return None
        expanded = self._expand(texts, here.reading, here.session.deadline, floating, voting=known.votes is not None)
        if here.alone and expanded.zoneless:
            return None
        here = replace(here, signals=replace(here.signals, zoneless=here.signals.zoneless or expanded.zoneless))
        now = known_after(texts, expanded, replace(known, etags=kept, others=changes.others))
        if floating is not None and now.votes is not None and elected(now.votes.values()) != floating:
            return None
        picture = Picture(before.read.events, before.read.unreadable).replaced(
            kept.keys(), expanded.read.events, expanded.read.unreadable
        )
        read = CalendarRead(picture.events, picture.unreadable, frozenset(now.etags))
        return Refreshed(read, pack(here.signals_after(changes, texts), now))

    def event_id(self, calendar_id: CalendarId, uid: str) -> EventId:
        """We name the resources that we make."""
        return EventId(f"{calendar_id}{uid}.ics")

    def find_event(self, link: Link, ref: EventRef, deadline: Deadline) -> RemoteEvent | None:
        """Look for an event of ours at its place."""
        found = find(self._session(link, deadline), ref.event_id or self.event_id(ref.calendar_id, ref.uid))
        return found.event if found else None

    def put_event(
        self, link: Link, ref: EventRef, booking: Booking, known: RemoteEvent | None, deadline: Deadline
    ) -> RemoteEvent:
        """Create or replace. The answer's ``event_id`` is another than the one wanted where the server renamed it."""
        named = EventRef(ref.calendar_id, ref.uid, ref.event_id or self.event_id(ref.calendar_id, ref.uid))
        return put(self._session(link, deadline), named, booking, known)

    def delete_event(self, link: Link, ref: EventRef, known: RemoteEvent, deadline: Deadline) -> None:
        """Take out the known version."""
        delete(self._session(link, deadline), ref, known)

    def _session(self, link: Link, deadline: Deadline) -> Session:
        settings = link.connection.settings
        return Session(
            self._egress,
            Reach(Origin.of(settings["base"]), Preset(settings["preset"])),
            Login(
                link.secret["username"],
                link.secret["password"],
                "digest" if settings.get("auth") == "digest" else "basic",
            ),
            redirects=self._redirects,
            deadline=deadline,
            check=link.check,
            standing=self._logins.of(
                settings["base"], link.secret["username"], link.secret["password"], link.connection.grant_version
            ),
        )


def _own_addresses(link: Link) -> frozenset[str]:
    return frozenset(json.loads(link.connection.settings.get("addresses", "[]")))


def _account(
    session: Session, preset: Preset, username: str, discovered: Discovered, found: list[Collection]
) -> Account:
    place = discovered.place
    calendars = [one.calendar for one in found]
    selected = next((one for one in calendars if canonical(one.id) == canonical(place.selected)), None)
    if place.selected and selected is not None:
        writing = selected.id if selected.writable else CalendarId("")
        blocking: tuple[CalendarId, ...] = (selected.id,)
    else:
        writable = [one for one in calendars if one.writable]
        writing = next((one.id for one in writable if one.primary), writable[0].id if writable else CalendarId(""))
        blocking = _blocking(found, discovered.selves)
    return Account(
        subject=_subject(session.reach, place),
        email=_email(discovered.addresses, username),
        calendar_id=writing,
        busy_calendar_ids=blocking,
        settings={
            "preset": preset.value,
            "base": str(session.reach.origin),
            "auth": session.scheme,
            "principal": place.principal,
            "homes": json.dumps(place.homes),
            "inbox": place.inbox,
            "selected": place.selected,
            "addresses": json.dumps(_addresses(discovered.addresses, username)),
        },
    )


def _place(link: Link) -> Place:
    settings = link.connection.settings
    return Place(
        principal=settings.get("principal", ""),
        homes=tuple(json.loads(settings.get("homes", "[]"))),
        inbox=settings.get("inbox", ""),
        selected=settings.get("selected", ""),
    )


def _blocking(found: list[Collection], selves: frozenset[str]) -> tuple[CalendarId, ...]:
    """The first choice of calendars that block: not those of other people, not those marked transparent."""
    opaque = [one for one in found if not one.transparent]
    ours = [one for one in opaque if not one.owner or one.owner in selves]
    # A server that names every owner in a way of its own would leave nothing: rather too much blocks than nothing.
    return tuple(one.calendar.id for one in ours or opaque)


def _subject(reach: Reach, place: Place) -> str:
    """The account's identity: the principal's path with the server's host and port, or with the preset."""
    id = place.principal or place.selected or next(iter(place.homes), "/")
    server = reach.preset.value if reach.preset in BASES else reach.origin.authority
    return server + canonical(urlsplit(reach.url_of(id)).path)


def _addresses(told: tuple[str, ...], username: str) -> list[str]:
    """What the owner is called in the ATTENDEE lines of events: lower case, without ``mailto:``."""
    addresses = [address.lower().removeprefix("mailto:") for address in told]
    if not any(address.lower().startswith("mailto:") for address in told) and "@" in username:
        addresses.append(username.lower())
    return addresses


def _email(told: tuple[str, ...], username: str) -> str:
    emails = [address[len("mailto:") :] for address in told if address.lower().startswith("mailto:")]
    if not emails or username.lower() in (email.lower() for email in emails):
        return username
    return emails[0]
