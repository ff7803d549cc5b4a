"""Organizations, their API keys, the check texts of master keys, and connections."""

STATEMENTS = (
    "CREATE TABLE organizations (id {id} PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_at BIGINT NOT NULL)",
    """
    CREATE TABLE api_keys (
        id {id} PRIMARY KEY,
        organization_id {id} NOT NULL REFERENCES organizations (id),
        secret_sha256 {bytes} NOT NULL,
        created_at BIGINT NOT NULL,
        revoked_at BIGINT
    )
    """,
    "CREATE TABLE vault_keys (kid {id} PRIMARY KEY, check_sealed TEXT NOT NULL)",
    # The sealed grant is NULL once a connection is disconnected. Lists and settings are JSON.
    """
    CREATE TABLE connections (
        id {id} PRIMARY KEY,
        organization_id {id} NOT NULL REFERENCES organizations (id),
        owner {id} NOT NULL,
        provider TEXT NOT NULL,
        subject {id} NOT NULL,
        account_email TEXT NOT NULL,
        calendar_id TEXT NOT NULL,
        busy_calendar_ids TEXT NOT NULL,
        status TEXT NOT NULL,
        sync_status TEXT NOT NULL,
        sync_error TEXT,
        last_sync_at BIGINT,
        connected_at BIGINT NOT NULL,
        grant_version BIGINT NOT NULL,
        settings TEXT NOT NULL,
        sealed_grant TEXT,
        disconnected_at BIGINT
    )
    """,
    # One live connection for an account and an owner; ended ones stay, for bookings refer to them.
    """
    CREATE UNIQUE INDEX connections_live_account ON connections (organization_id, owner, provider, subject)
        WHERE disconnected_at IS NULL
    """,
    """
    CREATE INDEX connections_live_newest ON connections (organization_id, connected_at, id)
        WHERE disconnected_at IS NULL
    """,
)
