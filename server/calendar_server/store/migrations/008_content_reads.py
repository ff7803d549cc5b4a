"""When the read began that a content is of. Its busy row may since have been confirmed by a feed, which is less: feeds lie.

The former release, which may still run, changes contents without these columns. ``read_version`` tells: where it is not
the content's own, ``read_at`` is of an earlier one.
"""

STATEMENTS = (
    "ALTER TABLE busy_content ADD COLUMN read_at BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE busy_content ADD COLUMN read_version BIGINT NOT NULL DEFAULT 0",
)
