"""Bookings, and the outbox: one row for each booking and connection."""

STATEMENTS = (
    """
    CREATE TABLE bookings (
        organization_id {id} NOT NULL REFERENCES organizations (id),
        id {id} NOT NULL,
        revision BIGINT NOT NULL,
        status TEXT NOT NULL,
        starts_at BIGINT NOT NULL,
        ends_at BIGINT NOT NULL,
        sealed_content TEXT NOT NULL,
        wanted_set TEXT NOT NULL,
        updated_at BIGINT NOT NULL,
        PRIMARY KEY (organization_id, id)
    )
    """,
    """
    CREATE TABLE outbox (
        id {id} PRIMARY KEY,
        organization_id {id} NOT NULL,
        booking_id {id} NOT NULL,
        connection_id {id} NOT NULL REFERENCES connections (id),
        calendar_id TEXT NOT NULL,
        generation BIGINT NOT NULL,
        uid TEXT NOT NULL,
        event_id TEXT NOT NULL,
        wanted TEXT NOT NULL,
        wanted_revision BIGINT NOT NULL,
        pushed_revision BIGINT NOT NULL,
        state TEXT NOT NULL,
        etag TEXT NOT NULL,
        web_link TEXT NOT NULL,
        attempts BIGINT NOT NULL,
        due_at BIGINT,
        problem_reason TEXT NOT NULL,
        problem_message TEXT NOT NULL,
        lease_token TEXT NOT NULL,
        lease_until BIGINT NOT NULL,
        updated_at BIGINT NOT NULL,
        pushed_at BIGINT NOT NULL,
        UNIQUE (organization_id, booking_id, connection_id),
        FOREIGN KEY (organization_id, booking_id) REFERENCES bookings (organization_id, id)
    )
    """,
    "CREATE INDEX outbox_of_connection ON outbox (connection_id, state)",
    # What a claim looks at, mailbox by mailbox. Both are small: few rows are pending, fewer are leased.
    "CREATE INDEX outbox_due ON outbox (connection_id, due_at, id) WHERE state = 'pending'",
    "CREATE INDEX outbox_leased ON outbox (connection_id, lease_until) WHERE lease_token <> ''",
)
