"""The outside world: one `Provider` protocol, an implementation per file, and `egress`, the one way out."""
