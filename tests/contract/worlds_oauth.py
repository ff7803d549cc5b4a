"""Accounts at Google and at Microsoft, and what their owners do there, as the contract suite sees them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

from calendar_server.core.model import SECOND, CalendarId, EventId, Instant, ProviderName
from calendar_server.providers.base import Provider, Secret
from calendar_server.providers.egress import Egress
from calendar_server.providers.google import GoogleProvider
from calendar_server.providers.microsoft import MicrosoftProvider
from calendar_server.providers.oauth import Tokens
from tests.contract.worlds import Series, Switch, at, link_of, soon
from tests.fakes import mailbox
from tests.fakes.entra import WORK_TENANT
from tests.fakes.google import GoogleFake
from tests.fakes.google_calendars import GoogleCalendar
from tests.fakes.mailbox import CUSTOM_ZONE, Occurrence
from tests.fakes.microsoft import MicrosoftFake

CALENDAR_EVENTS = 1000


class GoogleWorld:
    """Anna's account at Google, with two further calendars of hers and one of Ben's that she may read."""

    names_all_events = False
    knows_ids_ahead = True
    counts_changes = True

    def __init__(self, egress: Egress, google: GoogleFake, switch: Switch):
        self.google = google
        anna = google.add_user("anna")
        shared = google.calendars.add_calendar("ben@gmail.example", "locked", roles={anna.email: "reader"})
        self.work = CalendarId(google.calendars.add_calendar(anna.email, "work").id)
        self.second = CalendarId(google.calendars.add_calendar(anna.email, "second").id)
        self.read_only: CalendarId | None = CalendarId(shared.id)
        provider = GoogleProvider(
            egress,
            api_url=google.api_url,
            userinfo_url=google.userinfo_url,
            revoke_url=google.revoke_url,
            calendar_events=CALENDAR_EVENTS,
        )
        self.provider: Provider = provider
        tokens = Tokens(str(google.token_of(anna)["access_token"]), "", 3600, None)
        self.link = link_of(provider.account(tokens, soon()), _secret(tokens), ProviderName.GOOGLE, switch.check)

    def add(self, calendar_id: CalendarId, start: Instant, end: Instant, *, free: bool = False) -> EventId:
        shown = {"transparency": "transparent"} if free else {}
        return EventId(self._calendar(calendar_id).add(_utc(start), _utc(end), **shown))

    def add_cancelled(self, calendar_id: CalendarId, start: Instant, end: Instant) -> EventId:
        event_id = self.add(calendar_id, start, end)
        self._calendar(calendar_id).delete(event_id)
        return event_id

    def add_all_day(self, calendar_id: CalendarId, first: date, end: date) -> EventId:
        return EventId(self._calendar(calendar_id).add(first, end))

    def add_series(self, calendar_id: CalendarId, series: Series) -> EventId:
        calendar = self._calendar(calendar_id)
        start = _utc(series.start)
        event_id = calendar.add(start, _utc(series.end), recurrence=[f"RRULE:FREQ=DAILY;COUNT={series.count}"])
        if series.removed is not None:
            calendar.make_exception(event_id, start + timedelta(days=series.removed), status="cancelled")
        if series.moved:
            number, since, until = series.moved
            calendar.make_exception(event_id, start + timedelta(days=number), start=_utc(since), end=_utc(until))
        return EventId(event_id)

    def add_garbage(self, calendar_id: CalendarId) -> EventId | None:
        """What ends before it starts: nobody can make that at Google, and an answer may tell it all the same."""
        calendar = self._calendar(calendar_id)
        event_id = calendar.add(_utc(at(3, 10)), _utc(at(3, 11)))
        calendar.change(event_id, end={"dateTime": _utc(at(3, 9)).isoformat()})
        return EventId(event_id)

    def change(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self._calendar(calendar_id).change(event_id, summary="changed")

    def take_out(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self._calendar(calendar_id).delete(event_id)

    def drop(self, calendar_id: CalendarId) -> None:
        self.google.calendars.drop(self._calendar(calendar_id))

    def _calendar(self, calendar_id: CalendarId) -> GoogleCalendar:
        return self.google.calendars.calendars[calendar_id]


class MicrosoftWorld:
    """Anna's mailbox at work, with two further calendars of hers and one that she cannot edit."""

    names_all_events = False
    knows_ids_ahead = False
    counts_changes = False

    def __init__(self, egress: Egress, microsoft: MicrosoftFake, switch: Switch):
        anna = microsoft.add_user("anna")
        self.mailbox = anna.mailbox
        self.work = CalendarId(self.mailbox.add_calendar("work").id)
        self.second = CalendarId(self.mailbox.add_calendar("second").id)
        self.read_only: CalendarId | None = CalendarId(self.mailbox.add_calendar("locked", can_edit=False).id)
        provider = MicrosoftProvider(egress, graph_url=microsoft.graph_url, calendar_events=CALENDAR_EVENTS)
        self.provider: Provider = provider
        tokens = Tokens(str(microsoft.token_of(anna)["access_token"]), "", 3600, None, {"tid": WORK_TENANT})
        self.link = link_of(provider.account(tokens, soon()), _secret(tokens), ProviderName.MICROSOFT, switch.check)

    def add(self, calendar_id: CalendarId, start: Instant, end: Instant, *, free: bool = False) -> EventId:
        return self._add(calendar_id, start, end, show_as="free" if free else "busy")

    def add_cancelled(self, calendar_id: CalendarId, start: Instant, end: Instant) -> EventId:
        return self._add(calendar_id, start, end, cancelled=True)

    def add_all_day(self, calendar_id: CalendarId, first: date, end: date) -> EventId:
        since, until = datetime.combine(first, time()), datetime.combine(end, time())
        event = self.mailbox.add(since, until, calendar=self.mailbox.calendar(calendar_id), all_day=True)
        return EventId(event.id)

    def add_series(self, calendar_id: CalendarId, series: Series) -> EventId:
        repeated = mailbox.Series(series.count)
        if series.removed is not None:
            repeated.removed.add(series.removed)
        if series.moved:
            number, since, until = series.moved
            repeated.moved[number] = Occurrence(_clock(since), _clock(until))
        event = self.mailbox.add(
            _clock(series.start), _clock(series.end), calendar=self.mailbox.calendar(calendar_id), series=repeated
        )
        return EventId(event.id)

    def add_garbage(self, calendar_id: CalendarId) -> EventId | None:
        """Days in a mailbox whose owner made up a zone: nobody else can tell when they begin."""
        self.mailbox.zone = CUSTOM_ZONE
        return self.add_all_day(calendar_id, date(2026, 12, 3), date(2026, 12, 4))

    def change(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self.mailbox.change(event_id, subject="changed")

    def take_out(self, calendar_id: CalendarId, event_id: EventId) -> None:
        self.mailbox.delete(event_id)

    def drop(self, calendar_id: CalendarId) -> None:
        for event in self.mailbox.listed(calendar_id):
            self.mailbox.delete(event.id)
        del self.mailbox.calendars[calendar_id]

    def _add(
        self,
        calendar_id: CalendarId,
        start: Instant,
        end: Instant,
        *,
        show_as: str = "busy",
        cancelled: bool = False,
    ) -> EventId:
        calendar = self.mailbox.calendar(calendar_id)
        event = self.mailbox.add(_clock(start), _clock(end), calendar=calendar, showAs=show_as, isCancelled=cancelled)
        return EventId(event.id)


def _utc(instant: Instant) -> datetime:
    return datetime.fromtimestamp(instant // SECOND, UTC)


def _clock(instant: Instant) -> datetime:
    """What a clock in UTC shows."""
    return _utc(instant).replace(tzinfo=None)


def _secret(tokens: Tokens) -> Secret:
    return Secret({"access_token": tokens.access_token})
