"""OAuth redirects under way, and leases by name."""

STATEMENTS = (
    """
    CREATE TABLE oauth_states (
        state_sha256 {id} PRIMARY KEY,
        organization_id {id} NOT NULL REFERENCES organizations (id),
        owner {id} NOT NULL,
        provider TEXT NOT NULL,
        tenant TEXT NOT NULL,
        redirect_uri TEXT NOT NULL,
        client_state TEXT NOT NULL,
        connection_id {id} NOT NULL,
        sealed_verifier TEXT NOT NULL,
        expires_at BIGINT NOT NULL,
        used_at BIGINT
    )
    """,
    "CREATE INDEX oauth_states_expiry ON oauth_states (expires_at)",
    "CREATE TABLE leases (name {id} PRIMARY KEY, token TEXT NOT NULL, lease_until BIGINT NOT NULL)",
)
