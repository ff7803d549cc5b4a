"""What is due, oldest first: a claim need not look at all that waits to find it."""

STATEMENTS = ("CREATE INDEX outbox_oldest ON outbox (due_at, id) WHERE state = 'pending'",)
