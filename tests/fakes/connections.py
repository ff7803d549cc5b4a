"""Connections as the store would hand them out, for tests that have no store."""

from __future__ import annotations

from calendar_server.core.model import (
    CalendarId,
    Connection,
    ConnectionId,
    ConnectionStatus,
    OrganizationId,
    ProviderName,
    SyncStatus,
)


def connection_of(provider: ProviderName, subject: str, email: str, calendar_id: CalendarId) -> Connection:
    """An account's connection that nothing is wrong with: one calendar is written to, and blocks."""
    return Connection(
        id=ConnectionId("cal_1"),
        organization_id=OrganizationId("org_1"),
        owner="",
        provider=provider,
        subject=subject,
        account_email=email,
        calendar_id=calendar_id,
        busy_calendar_ids=(calendar_id,),
        status=ConnectionStatus.ACTIVE,
        sync_status=SyncStatus.CONNECTED,
        sync_error=None,
        last_sync_at=None,
        connected_at=0,
        grant_version=1,
    )
