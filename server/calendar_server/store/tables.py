"""The tables as the queries see them: names and columns, no logic. The migrations are what makes them.

Enumerations and lists are text, instants are BIGINT microseconds. The columns are ``starts_at`` and ``ends_at`` because
``end`` is a word of SQL.
"""

from __future__ import annotations

from typing import Any

import peewee


def _table(name: str, *columns: str) -> Any:
    """A table of peewee's. Any: its columns are attributes that no type checker can see."""
    return peewee.Table(name, columns)


ORGANIZATIONS = _table("organizations", "id", "name", "created_at")

API_KEYS = _table("api_keys", "id", "organization_id", "secret_sha256", "created_at", "revoked_at")

VAULT_KEYS = _table("vault_keys", "kid", "check_sealed")

CONNECTIONS = _table(
    "connections",
    "id",
    "organization_id",
    "owner",
    "provider",
    "subject",
    "account_email",
    "calendar_id",
    "busy_calendar_ids",
    "status",
    "sync_status",
    "sync_error",
    "last_sync_at",
    "connected_at",
    "grant_version",
    "settings",
    "sealed_grant",
    "disconnected_at",
)

BOOKINGS = _table(
    "bookings",
    "organization_id",
    "id",
    "revision",
    "status",
    "starts_at",
    "ends_at",
    "sealed_content",
    "wanted_set",
    "updated_at",
)

OUTBOX = _table(
    "outbox",
    "id",
    "organization_id",
    "booking_id",
    "connection_id",
    "calendar_id",
    "generation",
    "uid",
    "event_id",
    "wanted",
    "wanted_revision",
    "pushed_revision",
    "state",
    "etag",
    "web_link",
    "attempts",
    "due_at",
    "problem_reason",
    "problem_message",
    "lease_token",
    "lease_until",
    "updated_at",
    "pushed_at",
    "drift",
    "drift_at",
    "request_id",
    "traceparent",
)

OAUTH_STATES = _table(
    "oauth_states",
    "state_sha256",
    "organization_id",
    "owner",
    "provider",
    "tenant",
    "redirect_uri",
    "client_state",
    "connection_id",
    "sealed_verifier",
    "expires_at",
    "used_at",
)

LEASES = _table("leases", "name", "token", "lease_until")

BUSY = _table(
    "busy",
    "connection_id",
    "calendar_id",
    "as_of",
    "full_at",
    "window_start",
    "window_end",
    "content_version",
    "intervals",
    "used_at",
    "changed_at",
    "failed_at",
    "failures",
    "retry_at",
    "problem_reason",
    "problem_message",
)

BUSY_CONTENT = _table(
    "busy_content", "connection_id", "calendar_id", "version", "events", "memory", "read_at", "read_version"
)

VERSIONS = _table("versions", "connection_id", "version")

WATCHES = _table(
    "watches",
    "id",
    "connection_id",
    "calendar_id",
    "address",
    "secret_sha256",
    "remote_id",
    "resource_id",
    "state",
    "expires_at",
    "due_at",
    "attempts",
    "created_at",
)

SCHEMA_MIGRATIONS = _table("schema_migrations", "name", "applied_at")
