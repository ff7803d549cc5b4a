"""The mirror of what calendars hold, and a version of every connection's answer."""

STATEMENTS = (
    # What GetBusy reads: small, and rewritten whenever a calendar was looked at.
    """
    CREATE TABLE busy (
        connection_id {id} NOT NULL REFERENCES connections (id),
        calendar_id {id} NOT NULL,
        as_of BIGINT NOT NULL,
        full_at BIGINT NOT NULL,
        window_start BIGINT NOT NULL,
        window_end BIGINT NOT NULL,
        content_version BIGINT NOT NULL,
        intervals {bytes} NOT NULL,
        used_at BIGINT NOT NULL,
        changed_at BIGINT NOT NULL,
        failed_at BIGINT NOT NULL,
        failures INTEGER NOT NULL,
        retry_at BIGINT NOT NULL,
        problem_reason TEXT NOT NULL,
        problem_message TEXT NOT NULL,
        PRIMARY KEY (connection_id, calendar_id)
    )
    """,
    "CREATE INDEX busy_in_use ON busy (used_at)",
    # What the busy row was made of: larger, and rewritten only when something in the calendar has changed.
    """
    CREATE TABLE busy_content (
        connection_id {id} NOT NULL,
        calendar_id {id} NOT NULL,
        version BIGINT NOT NULL,
        events {bytes} NOT NULL,
        memory {bytes} NOT NULL,
        PRIMARY KEY (connection_id, calendar_id)
    )
    """,
    # Which events of a calendar are ours.
    "CREATE INDEX outbox_events ON outbox (connection_id, event_id)",
    # One row for a connection, the last that any transaction locks: whoever keeps an answer looks here first.
    "CREATE TABLE versions (connection_id {id} PRIMARY KEY, version BIGINT NOT NULL)",
)
