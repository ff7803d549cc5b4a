"""OAuth connections: begun by a caller, consented to by a person in a browser, finished by the provider's redirect."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote, urlencode, urlsplit

from calendar_server.core.model import SECOND, Connection, ConnectionId, OrganizationId, ProviderName
from calendar_server.errors import (
    AccountMismatch,
    AdminConsentRequired,
    CalendarError,
    Conflict,
    NotConfigured,
    NotFound,
    ProviderError,
    ScopeMissing,
    ValidationError,
    Violation,
)
from calendar_server.providers.base import Account, Deadline, Secret
from calendar_server.providers.oauth import OAuthClient, Tokens, refusal
from calendar_server.store.oauth import OAuthStateRow
from calendar_server.store.store import Store
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import AuthorizationUrl, ConnectCommand, OAuthAccount
from calendar_server.vault import Vault, VaultError

_log = logging.getLogger(__name__)

EARLY_S = 60
"""Seconds before its end that an access token is renewed; one that lives shorter, at three quarters of its life."""
STATE_S = 600
"""Seconds a person has from Connect to the callback."""

_WORDS: dict[type[CalendarError], str] = {
    ScopeMissing: "scope_missing",
    AdminConsentRequired: "admin_consent_required",
    Conflict: "conflict",
    AccountMismatch: "account_mismatch",
    NotFound: "not_found",
    ProviderError: "provider_error",
}
"""What `error` says at the caller's `redirect_uri`; the first class that fits."""

_NOT_GRANTED_BY_NAME = frozenset({"openid", "email", "profile", "offline_access"})
"""Scopes that providers answer under other names, or not at all."""

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,127}")


class ReadsAccount(Protocol):
    """The part of an OAuth provider that says whose tokens these are."""

    def account(self, tokens: Tokens, deadline: Deadline) -> Account: ...


class Settles(Protocol):
    """Stores a proved account: a new connection or a renewal (``Connections.settle``)."""

    def settle(
        self,
        organization_id: OrganizationId,
        provider: ProviderName,
        account: Account,
        secret: Secret,
        *,
        owner: str,
        connection_id: ConnectionId,
    ) -> Connection: ...


@dataclass(frozen=True, slots=True)
class OAuthProvider:
    """What connecting at one OAuth provider takes."""

    client: OAuthClient
    accounts: ReadsAccount


class Authorizations:
    """Begins and finishes OAuth connections."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        providers: Mapping[ProviderName, OAuthProvider],
        *,
        redirect_uris: Sequence[str],
        public_url: str,
        call_s: float,
    ):
        self._store = store
        self._vault = vault
        self._providers = providers
        self._allowed = frozenset(_place(uri) for uri in redirect_uris)
        self._public_url = public_url.rstrip("/")
        self._call_s = call_s

    def begin(self, caller: Caller, command: ConnectCommand, account: OAuthAccount) -> AuthorizationUrl:
        """The provider's page for the person's browser. Its state is stored hashed, for ten minutes and one use."""
        name = account.provider
        field = f"{name}.redirect_uri"
        problem = redirect_problem(account.redirect_uri)
        if problem:
            raise ValidationError([Violation(field, problem)])
        if account.tenant and not _TENANT.fullmatch(account.tenant):
            raise ValidationError([Violation(f"{name}.tenant", "must be a tenant's id or domain, or empty")])
        if self._allowed and _place(account.redirect_uri) not in self._allowed:
            raise ValidationError(
                [Violation(field, "is not on the service's allow-list (its operator's CALENDAR_REDIRECT_URIS)")]
            )
        provider = self._providers.get(name)
        if provider is None:
            setting = f"CALENDAR_{name.upper()}_CLIENT_ID"
            raise NotConfigured(
                setting, f"{name.capitalize()} is not configured in this service. Its operator must set {setting}."
            )
        if not self._allowed:
            raise NotConfigured(
                "CALENDAR_REDIRECT_URIS",
                "No redirect_uri is allowed in this service. Its operator must list them in CALENDAR_REDIRECT_URIS.",
            )
        state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        tenant = account.tenant or "common"
        hashed = _hash(state)
        row = OAuthStateRow(
            state_sha256=hashed,
            organization_id=caller.organization_id,
            owner=command.owner,
            provider=ProviderName(name),
            tenant=tenant,
            redirect_uri=account.redirect_uri,
            client_state=command.client_state,
            connection_id=command.connection_id,
            sealed_verifier=self._vault.seal(verifier, table="oauth_states", row=hashed, column="sealed_verifier"),
            expires_at=self._store.now() + STATE_S * SECOND,
        )
        with self._store.transaction():
            self._store.oauth_states.add(row)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        url = provider.client.authorization_url(
            callback=self._callback(name), state=state, challenge=challenge, tenant=tenant
        )
        return AuthorizationUrl(url)

    def finish(self, name: ProviderName, query: Sequence[tuple[str, str]], settles: Settles) -> str | None:
        """The provider's redirect came: answers where the browser goes next, always at the caller's `redirect_uri`.

        None when the state is none of ours (missing, doubled, unknown, another provider's, used): nothing can be
        believed of such a request, and there is nowhere to send it.
        """
        state = _only(query, "state")
        row = self._store.oauth_states.take(_hash(state), name) if state else None
        if row is None:
            return None
        if row.expires_at <= self._store.now():
            return _destination(row, error="expired")
        try:
            connection = self._connect(name, row, query, settles)
        except _Denied:
            return _destination(row, error="access_denied")
        except CalendarError as error:
            word = next((word for kind, word in _WORDS.items() if isinstance(error, kind)), "internal")
            _log.warning("connect_failed", extra={"provider": name, "reason": error.reason})
            link = self._admin_consent_url(row) if isinstance(error, AdminConsentRequired) else ""
            return _destination(row, error=word, admin_consent_url=link)
        except Exception:
            _log.exception("connect_broke", extra={"provider": name})
            return _destination(row, error="internal")
        return _destination(row, connection_id=connection.id)

    def _connect(
        self, name: ProviderName, row: OAuthStateRow, query: Sequence[tuple[str, str]], settles: Settles
    ) -> Connection:
        provider = self._providers.get(name)
        if provider is None:
            raise NotConfigured(f"CALENDAR_{name.upper()}_CLIENT_ID", f"{name} is not configured any more.")
        deadline = Deadline.after(self._call_s)
        code, refused = _only(query, "code"), [value for key, value in query if key == "error"]
        if refused:
            description = " ".join(value for key, value in query if key == "error_description")
            error = refusal(refused[0], description)
            if refused[0] == "access_denied" and not isinstance(error, AdminConsentRequired):
                raise _Denied
            raise error
        if not code:
            raise refusal("invalid_request", "")
        verifier = self._verifier(row)
        tokens = provider.client.exchange(
            code=code, callback=self._callback(name), verifier=verifier, tenant=row.tenant, deadline=deadline
        )
        if missing_scopes(provider.client.scopes, tokens.scopes):
            raise ScopeMissing("Not all that is needed was granted. Connect again and leave every box ticked.")
        if not tokens.refresh_token:
            raise refusal("no_refresh_token", "")
        account = provider.accounts.account(tokens, deadline)
        return settles.settle(
            row.organization_id,
            name,
            account,
            secret_of(tokens, tenant=row.tenant, now=self._store.now()),
            owner=row.owner,
            connection_id=row.connection_id,
        )

    def _admin_consent_url(self, row: OAuthStateRow) -> str:
        provider = self._providers[row.provider]
        return provider.client.admin_consent_url(callback=self._callback(row.provider), tenant=row.tenant)

    def _verifier(self, row: OAuthStateRow) -> str:
        try:
            return self._vault.open(
                row.sealed_verifier, table="oauth_states", row=row.state_sha256, column="sealed_verifier"
            )
        except VaultError as error:
            raise refusal("unopenable", "") from error

    def _callback(self, name: str) -> str:
        return f"{self._public_url}/oauth/{name}/callback"


class _Denied(Exception):
    """The person said no."""


def secret_of(tokens: Tokens, *, tenant: str, now: int, before: Secret | None = None) -> Secret:
    """Tokens as they are sealed. A refresh token that was not rotated stays as it was ``before``."""
    early_s = min(EARLY_S, tokens.expires_in_s // 4)
    return Secret(
        {
            "access_token": tokens.access_token,
            "refresh_token": tokens.refresh_token or (before["refresh_token"] if before else ""),
            "renew_at": str(now + (tokens.expires_in_s - early_s) * SECOND),
            "tenant": tenant,
        }
    )


def missing_scopes(wanted: Sequence[str], granted: frozenset[str] | None) -> frozenset[str]:
    """The wanted scopes that were not granted.

    Compared in lower case; a scope of Graph counts with and without the URL before its name. None: the provider did not
    say, which means that all were granted (RFC 6749 section 5.1).
    """
    if granted is None:
        return frozenset()
    told = {scope.lower() for scope in granted}
    told |= {scope.rpartition("/")[2] for scope in told if not scope.startswith("https://www.googleapis.com/")}
    return frozenset(scope for scope in wanted if scope not in _NOT_GRANTED_BY_NAME and scope.lower() not in told)


def redirect_problem(uri: str) -> str:
    """What is wrong with the form of a `redirect_uri`; empty when nothing is."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return "must be a URL"
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return "must be an http or https URL with a host"
    if parts.username is not None or parts.password is not None:
        return "must not hold a user name or password"
    if "#" in uri:
        return "must not have a fragment"
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in uri):
        return "must not hold spaces, control characters or backslashes"
    return ""


def _place(uri: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path: what has to equal an entry of the allow-list. The query is free."""
    parts = urlsplit(uri.strip())
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or (443 if scheme == "https" else 80), parts.path or "/"


def _destination(row: OAuthStateRow, *, error: str = "", connection_id: str = "", admin_consent_url: str = "") -> str:
    """The caller's `redirect_uri` with its own query kept and the outcome added.

    Beside `error=admin_consent_required` stands `admin_consent_url`, the page to send an administrator to.
    """
    added = {"connected": "false" if error else "true", "provider": str(row.provider)}
    if error:
        added["error"] = error
    else:
        added["connection_id"] = connection_id
    if admin_consent_url:
        added["admin_consent_url"] = admin_consent_url
    if row.client_state:
        added["client_state"] = row.client_state
    joint = "&" if "?" in row.redirect_uri else "?"
    return f"{row.redirect_uri}{joint}{urlencode(added, quote_via=quote)}"


def _only(query: Sequence[tuple[str, str]], name: str) -> str:
    """The value of a parameter that stands there once; empty otherwise."""
    values = [value for key, value in query if key == name]
    return values[0] if len(values) == 1 and 0 < len(values[0]) <= 4096 else ""


def _hash(state: str) -> str:
    return hashlib.sha256(state.encode(errors="surrogatepass")).hexdigest()
