"""What reads have shown of our events: how they differ from what was written, and when the read began that says so."""

STATEMENTS = (
    "ALTER TABLE outbox ADD COLUMN drift TEXT NOT NULL DEFAULT 'none'",
    "ALTER TABLE outbox ADD COLUMN drift_at BIGINT NOT NULL DEFAULT 0",
)
