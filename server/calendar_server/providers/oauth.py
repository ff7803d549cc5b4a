"""OAuth 2.0 with Google and Microsoft, spoken by requests-oauthlib (``oauth_session``).

Authorization code with PKCE S256 (RFC 6749 section 4.1, RFC 7636), client authentication by ``client_secret_post``. All
URLs are settings of the operator's, who may use plain http on loopback; oauthlib is told so where one is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from calendar_server.errors import (
    AdminConsentRequired,
    CalendarError,
    ProviderRefused,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import Egress

_ADMIN_CONSENT = re.compile(r"AADSTS(65001|90094|900941)\b")
"""An administrator must consent (https://learn.microsoft.com/entra/identity-platform/reference-error-codes)."""


@dataclass(frozen=True, slots=True)
class OAuthSettings:
    """One provider's endpoints, client and scopes. Microsoft's URLs hold ``{tenant}``."""

    client_id: str
    client_secret: str = field(repr=False)
    authorize_url: str
    token_url: str
    scopes: tuple[str, ...]
    extra: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of the authorization URL."""
    admin_consent_url: str = ""
    """Where an administrator consents for all of a tenant, with ``{tenant}``; empty where there is no such thing."""


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """What the token endpoint answered. ``expires_in_s`` counts from now; ``refresh_token`` empty: keep the old one."""

    access_token: str
    refresh_token: str
    expires_in_s: int
    scopes: frozenset[str] | None
    """Granted scopes as the provider spells them; None when it does not say, which means all (RFC 6749 5.1)."""
    claims: Mapping[str, object] = field(default_factory=dict)
    """What the ID token says. It came straight from the token endpoint, so its signature need not be checked (OpenID
    Connect Core 3.1.3.7)."""

    def __repr__(self) -> str:
        return "Tokens(***)"


class OAuthClient:
    """Our client at one provider."""

    def __init__(self, egress: Egress, settings: OAuthSettings):
        self._egress = egress
        self._settings = settings
        if "http://" in (settings.authorize_url[:7], settings.token_url[:7]):
            # The operator chose plain http, for a provider on this machine; oauthlib knows no other way to be told.
            os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes that we ask for."""
        return self._settings.scopes

    def admin_consent_url(self, *, callback: str, tenant: str) -> str:
        """The page to send an administrator to; empty where there is none.

        `common` also stands for personal accounts, which have no administrator
        (https://learn.microsoft.com/entra/identity-platform/v2-admin-consent).
        """
        if not self._settings.admin_consent_url:
            return ""
        page = self._settings.admin_consent_url.replace("{tenant}", "organizations" if tenant == "common" else tenant)
        return f"{page}?{urlencode({'client_id': self._settings.client_id, 'redirect_uri': callback})}"

    def authorization_url(self, *, callback: str, state: str, challenge: str, tenant: str) -> str:
        """The provider's page for the person's browser. ``challenge`` is the S256 of the verifier."""
        from calendar_server.providers import oauth_session

        return oauth_session.authorization_url(
            self._settings, callback=callback, state=state, challenge=challenge, tenant=tenant
        )

    def exchange(self, *, code: str, callback: str, verifier: str, tenant: str, deadline: Deadline) -> Tokens:
        """Change a code into tokens. A refused code is ``ProviderRefused``."""
        from calendar_server.providers import oauth_session

        return oauth_session.exchange(
            self._egress,
            self._settings,
            code=code,
            callback=callback,
            verifier=verifier,
            tenant=tenant,
            deadline=deadline,
        )

    def refresh(self, *, refresh_token: str, tenant: str, deadline: Deadline) -> Tokens:
        """Get a new access token. Raises ``NeedsReauth`` for ``invalid_grant``, and for nothing else."""
        from calendar_server.providers import oauth_session

        return oauth_session.refresh(
            self._egress, self._settings, refresh_token=refresh_token, tenant=tenant, deadline=deadline
        )


def refusal(code: str, description: str) -> CalendarError:
    """What an OAuth error means (RFC 6749 sections 4.1.2.1 and 5.2, Entra's AADSTS codes)."""
    if _ADMIN_CONSENT.search(description) or code == "admin_consent_required":
        return AdminConsentRequired("An administrator of the account's organization must consent first.")
    if code in ("temporarily_unavailable", "server_error"):
        return ProviderUnavailable("The provider could not answer at the moment. Try again.")
    return ProviderRefused("The provider refused to connect the account. Start again.")
