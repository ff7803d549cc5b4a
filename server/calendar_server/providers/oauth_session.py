"""The door of requests-oauthlib: its session, with all traffic through ``egress``.

Imported when first used: it brings requests and urllib3, a third of a second of the time in which a server starts.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping

import requests
from oauthlib.oauth2 import OAuth2Error
from oauthlib.oauth2.rfc6749.errors import InvalidGrantError
from requests.adapters import BaseAdapter
from requests_oauthlib import OAuth2Session

from calendar_server.errors import CalendarError, NeedsReauth, ProviderThrottled, ProviderUnavailable
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import Egress
from calendar_server.providers.oauth import OAuthSettings, Tokens, refusal

EXPIRES_S = 3600
"""Seconds an access token is taken to live when the provider does not say (RFC 6749 section 5.1)."""

RETRY_S_MOST = 3600.0
RETRY_S = 30.0
"""Seconds to wait when the provider asks for it and does not say how long."""

_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
"""What can stand behind `Bearer` (RFC 6750 section 2.1, and a little more); Entra's take some two thousand bytes."""


def authorization_url(settings: OAuthSettings, *, callback: str, state: str, challenge: str, tenant: str) -> str:
    """See ``OAuthClient``."""
    session = OAuth2Session(settings.client_id, redirect_uri=callback, scope=list(settings.scopes))
    url, _ = session.authorization_url(
        settings.authorize_url.replace("{tenant}", tenant),
        state=state,
        code_challenge=challenge,
        code_challenge_method="S256",
        **settings.extra,
    )
    return str(url)


def exchange(
    egress: Egress, settings: OAuthSettings, *, code: str, callback: str, verifier: str, tenant: str, deadline: Deadline
) -> Tokens:
    """See ``OAuthClient``."""
    session, check = _session(egress, settings, deadline, callback)
    try:
        token = session.fetch_token(
            settings.token_url.replace("{tenant}", tenant),
            code=code,
            code_verifier=verifier,
            client_secret=settings.client_secret,
            include_client_id=True,
        )
    except Exception as error:
        raise _translated(error) from error
    return check.tokens(token)


def refresh(egress: Egress, settings: OAuthSettings, *, refresh_token: str, tenant: str, deadline: Deadline) -> Tokens:
    """See ``OAuthClient``."""
    session, check = _session(egress, settings, deadline, "")
    try:
        token = session.refresh_token(
            settings.token_url.replace("{tenant}", tenant),
            refresh_token=refresh_token,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
        )
    except InvalidGrantError as error:
        raise NeedsReauth() from error
    except OAuth2Error as error:
        # Our own client is refused, say: the operator's to mend, and no reason to trouble the account's owner.
        raise ProviderUnavailable("The provider does not renew access at the moment.") from error
    except Exception as error:
        raise _translated(error) from error
    return check.tokens(token)


def _session(
    egress: Egress, settings: OAuthSettings, deadline: Deadline, callback: str
) -> tuple[OAuth2Session, _Answered]:
    session = OAuth2Session(settings.client_id, redirect_uri=callback or None)
    session.trust_env = False
    session.max_redirects = 0
    for prefix in list(session.adapters):
        del session.adapters[prefix]
    session.mount("", _EgressAdapter(egress, deadline))
    check = _Answered()
    session.register_compliance_hook("access_token_response", check)
    session.register_compliance_hook("refresh_token_response", check)
    return session, check


class _Answered:
    """Looks at a token answer before oauthlib, which lets an ``expires_in`` that is no number pass."""

    def __init__(self) -> None:
        self._expires_in_s = EXPIRES_S

    def __call__(self, response: requests.Response) -> requests.Response:
        try:
            values = json.loads(response.content)
        except (ValueError, RecursionError) as error:
            raise ProviderUnavailable("The provider's token answer could not be read.") from error
        if not isinstance(values, dict):
            raise ProviderUnavailable("The provider's token answer could not be read.")
        if response.status_code == 200 and "expires_in" in values:
            told = values["expires_in"]
            try:
                # Seconds as a number (RFC 6749 section 5.1), or as text, as older endpoints have it.
                self._expires_in_s = int(told) if isinstance(told, float) else int(str(told))
            except (ValueError, OverflowError):
                self._expires_in_s = 0
            if self._expires_in_s <= 0:
                raise ProviderUnavailable("The provider answered a token that is already over.")
        return response

    def tokens(self, token: Mapping[str, object]) -> Tokens:
        access_token, refresh_token = token.get("access_token"), token.get("refresh_token") or ""
        if (
            not isinstance(access_token, str)
            or not isinstance(refresh_token, str)
            or not _TOKEN.fullmatch(access_token)
        ):
            raise ProviderUnavailable("The provider's token answer could not be read.")
        scope = token.get("scope")
        scopes = None
        if isinstance(scope, (list, tuple)):
            scopes = frozenset(str(part) for part in scope)
        elif isinstance(scope, str):
            scopes = frozenset(scope.split())
        claims = _claims(token.get("id_token"))
        return Tokens(access_token, refresh_token, min(self._expires_in_s, 86_400), scopes, claims)


def _claims(id_token: object) -> Mapping[str, object]:
    """The payload of a JWT (RFC 7519 section 7.2); empty when there is none that can be read."""
    if not isinstance(id_token, str):
        return {}
    try:
        payload = id_token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


class _EgressAdapter(BaseAdapter):
    """Sends what requests prepared through ``egress``: one exchange, its deadline, its limits, no redirect."""

    def __init__(self, egress: Egress, deadline: Deadline):
        super().__init__()
        self._egress = egress
        self._deadline = deadline

    def send(self, request: requests.PreparedRequest, *args: object, **kwargs: object) -> requests.Response:
        body = request.body if isinstance(request.body, (str, bytes)) else b""
        answer = self._egress.exchange(
            request.method or "POST",
            request.url or "",
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
            },
            content=body.encode() if isinstance(body, str) else body,
            deadline=self._deadline,
            trusted=True,
        )
        retry_after = answer.headers.get("retry-after", "").strip()
        if answer.status == 429 or (answer.status == 503 and retry_after):
            told = retry_after.isascii() and retry_after.isdigit()
            seconds = min(float(retry_after[:9]), RETRY_S_MOST) if told else RETRY_S
            raise ProviderThrottled("The provider asks to slow down. Try again later.", retry_after_s=seconds)
        if answer.status >= 500 or 300 <= answer.status < 400:
            raise ProviderUnavailable("The provider's token endpoint did not answer as it should.")
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update(answer.headers)
        response._content = answer.body
        response.url = answer.url
        response.request = request
        return response

    def close(self) -> None:
        """Egress keeps the connections."""


def _translated(error: Exception) -> CalendarError:
    if isinstance(error, CalendarError):
        return error
    if isinstance(error, OAuth2Error):
        return refusal(error.error or "", error.description or "")
    return ProviderUnavailable("The provider's token answer could not be read.")
