"""What operators do about pushes that failed or wait for long. Safe while the service runs."""

from __future__ import annotations

from collections.abc import Iterator

from calendar_server.core.model import SECOND, BookingId, OrganizationId
from calendar_server.errors import CalendarError, NotFound
from calendar_server.store.parked import ParkedRow
from calendar_server.store.store import Store

PAGE = 200


class ParkedPushes:
    """``bookings`` and ``retry`` of the command line."""

    def __init__(self, store: Store):
        self._store = store

    def list(self, *, waiting_s: float, organization: str | None) -> Iterator[ParkedRow]:
        """Failed pushes, and those pending whose revision was accepted more than ``waiting_s`` seconds ago. Oldest first.

        Raises ``NotFound`` for an organization that there is not.
        """
        before = self._store.now() - round(waiting_s * SECOND)
        organization_id = self._organization(organization)
        after = ""
        while True:
            page = self._store.parked.page(
                accepted_before=before, organization_id=organization_id, after=after, limit=PAGE
            )
            yield from page
            if len(page) < PAGE:
                return
            after = page[-1].id

    def retry(self, booking_id: BookingId, *, organization: str | None) -> int:
        """Have a booking's failed and pending pushes tried again now; answers how many there were.

        Raises ``NotFound``, and ``CalendarError`` when several organizations have a booking with this id.
        """
        wanted = self._organization(organization)
        found = [each for each in self._store.parked.organizations_of(booking_id) if wanted in (None, each)]
        if not found:
            raise NotFound("There is no such booking. `calendar-server bookings --parked` lists those to retry.")
        if len(found) > 1:
            raise CalendarError("Several organizations have a booking with this id; say which by --organization NAME.")
        ids = self._store.parked.of_booking(found[0], booking_id)
        return self._store.parked.make_due(ids, self._store.now())

    def retry_failed(self, *, organization: str | None) -> int:
        """Have all failed pushes tried again now; answers how many there were."""
        ids = self._store.parked.failed(self._organization(organization))
        return self._store.parked.make_due(ids, self._store.now())

    def _organization(self, name: str | None) -> OrganizationId | None:
        if name is None:
            return None
        organization_id = self._store.organizations.get_by_name(name)
        if organization_id is None:
            raise NotFound("There is no organization of this name.")
        return organization_id
