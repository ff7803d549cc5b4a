"""Which call made an event due, so that what a push does can be found by what its caller knows."""

STATEMENTS = (
    "ALTER TABLE outbox ADD COLUMN request_id TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE outbox ADD COLUMN traceparent TEXT NOT NULL DEFAULT ''",
)
