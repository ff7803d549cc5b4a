"""Watches: standing requests to providers to be told of changes."""

STATEMENTS = (
    # The id is ours and in every notification. The secret itself is nowhere; due_at is when somebody must look again.
    """
    CREATE TABLE watches (
        id {id} PRIMARY KEY,
        connection_id {id} NOT NULL REFERENCES connections (id),
        calendar_id {id} NOT NULL,
        address TEXT NOT NULL,
        secret_sha256 {bytes} NOT NULL,
        remote_id TEXT NOT NULL,
        resource_id TEXT NOT NULL,
        state TEXT NOT NULL,
        expires_at BIGINT NOT NULL,
        due_at BIGINT NOT NULL,
        attempts BIGINT NOT NULL,
        created_at BIGINT NOT NULL
    )
    """,
    "CREATE INDEX watches_of_calendar ON watches (connection_id, calendar_id)",
    "CREATE INDEX watches_due ON watches (due_at)",
)
