"""Entra's OAuth endpoints with a memory: consent, codes, tokens that end, refresh tokens that rotate. No HTTP here.

Codes and their errors: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow. A refresh token
changes at every use, and the old one stays valid.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode, urlsplit

PERSONAL_TENANT = "9188040d-6c67-4c5b-b112-36a304b66dad"
"""The tenant of all personal accounts (https://learn.microsoft.com/entra/identity-platform/id-token-claims-reference)."""
WORK_TENANT = "3f6c1a52-1f0e-4f0c-8d3a-2b7c5d9e0f11"

_UNANSWERED = frozenset({"offline_access"})
GRAPH_SCOPES = frozenset({"User.Read", "Calendars.Read", "Calendars.ReadWrite", "MailboxSettings.Read"})
KNOWN_SCOPES = GRAPH_SCOPES | {"openid", "email", "profile", "offline_access"}


@dataclass(frozen=True, slots=True)
class User:
    """One account. Personal ones often have no ``mail``."""

    name: str
    id: str
    mail: str | None
    principal_name: str
    tenant: str

    @property
    def personal(self) -> bool:
        return self.tenant == PERSONAL_TENANT


@dataclass(frozen=True, slots=True)
class OAuthAnswer:
    """What an endpoint answers; ``location`` is where the browser goes."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Code:
    user: User
    tenant: str
    redirect_uri: str
    scopes: frozenset[str]
    challenge: str
    used: bool = False


@dataclass
class _Access:
    user: User
    scopes: frozenset[str]
    ends_at: float
    refused: bool = False


@dataclass
class _Refresh:
    user: User
    scopes: frozenset[str]
    revoked: bool = False
    uses: int = 0


Change = Callable[[dict[str, object]], object]


class Entra:
    """One app, its users, and all that was ever given out."""

    def __init__(self) -> None:
        self.client_id = "11111111-2222-3333-4444-555555555555"
        self.client_secret = "entra-secret~" + secrets.token_urlsafe(12)
        self.redirect_uris: set[str] = set()
        self.users: dict[str, User] = {}
        self.lifetime_s = 3600
        self.prefixed_scopes = False
        self.rotates = True
        self.old_tokens_end = False
        self.needs_admin: set[str] = set()
        """Users whose administrator has to consent first."""
        self.withheld: set[str] = set()
        """Scopes that are not given, whatever is asked and consented to."""
        self.token_requests: list[dict[str, str]] = []
        self.answers: list[OAuthAnswer] = []
        """What the token endpoint answers next, instead of its own words."""
        self.changes: list[Change] = []
        """What is done to the next good token answers, one each."""
        self.code_changes: list[Change] = []
        """The same for codes alone: a service that renews other grants meanwhile takes none of them."""
        self.down: OAuthAnswer | None = None
        """What the token endpoint answers to everybody, as long as it is set."""
        self.before_token: Callable[[], None] = lambda: None
        """Runs before a token request is answered: a slow endpoint, or a race that a test makes."""
        self._lock = threading.RLock()
        self._codes: dict[str, _Code] = {}
        self._access: dict[str, _Access] = {}
        self._refresh: dict[str, _Refresh] = {}
        self._ids = itertools.count(1)

    def add_user(self, name: str, *, personal: bool = False, mail: str | None = "", tenant: str = WORK_TENANT) -> User:
        """A new account. ``mail`` empty: one is made up; None: it has none."""
        number = next(self._ids)
        domain = "outlook.com" if personal else "contoso.example"
        principal = f"{name}@{domain}"
        user = User(
            name=name,
            id=f"{number:016x}" if personal else f"00000000-0000-4000-8000-{number:012d}",
            mail=(None if personal else principal) if mail == "" else mail,
            principal_name=principal,
            tenant=PERSONAL_TENANT if personal else tenant,
        )
        self.users[name] = user
        return user

    def consent_page(self, tenant: str, query: str) -> OAuthAnswer:
        """The page that asks a person, or says why it cannot."""
        asked = _single(query)
        problem = self._authorize_problem(tenant, asked)
        if problem:
            return _page(400, f"<h1>Sorry, but we’re having trouble signing you in.</h1><p>{html.escape(problem)}</p>")
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in asked.items()
        )
        people = "".join(
            f'<option value="{html.escape(user.name)}">{html.escape(user.principal_name)}</option>'
            for user in self.users.values()
            if _admits(tenant, user)
        )
        wanted = "".join(f"<li>{html.escape(scope)}</li>" for scope in asked["scope"].split())
        return _page(
            200,
            f'<h1>Permissions requested</h1><ul>{wanted}</ul><form method="post" action="consent">{hidden}'
            f'<label>Account <select name="user">{people}</select></label>'
            '<button name="decision" value="deny">Cancel</button>'
            '<button name="decision" value="approve">Accept</button></form>',
        )

    def decide(self, tenant: str, form: str) -> OAuthAnswer:
        """A person pressed a button of the page: the browser goes back to the app."""
        asked = _single(form)
        decision, name = asked.pop("decision", ""), asked.pop("user", "")
        problem = self._authorize_problem(tenant, asked)
        user = self.users.get(name)
        if problem or user is None or not _admits(tenant, user):
            return _page(400, f"<p>{html.escape(problem or 'AADSTS50020: no such user in this tenant')}</p>")
        if decision == "approve" and name in self.needs_admin:
            back = {
                "error": "access_denied",
                "error_description": "AADSTS90094: An administrator must grant the permissions that the app asks for.",
                "error_uri": "https://login.microsoftonline.com/error?code=90094",
            }
        elif decision == "approve":
            back = {"code": self._new_code(user, tenant, asked), "session_state": secrets.token_hex(8)}
        else:
            back = {
                "error": "access_denied",
                "error_subcode": "cancel",
                "error_description": "AADSTS65004: User declined to consent to access the app.",
            }
        if "state" in asked:
            back["state"] = asked["state"]
        joint = "&" if urlsplit(asked["redirect_uri"]).query else "?"
        return OAuthAnswer(302, headers={"Location": f"{asked['redirect_uri']}{joint}{urlencode(back)}"})

    def consent(self, authorization_url: str, user: str, *, approve: bool = True) -> str:
        """What a person does, without a browser: answers the address that the browser is sent to."""
        parts = urlsplit(authorization_url)
        tenant = parts.path.strip("/").split("/")[0]
        choice = urlencode({"user": user, "decision": "approve" if approve else "deny"})
        answer = self.decide(tenant, f"{parts.query}&{choice}")
        if answer.status != 302:
            raise AssertionError(answer.body.decode())
        return answer.headers["Location"]

    def token(self, tenant: str, body: str) -> OAuthAnswer:
        """The token endpoint."""
        form = _single(body)
        with self._lock:
            self.token_requests.append(form)
        self.before_token()
        with self._lock:
            if self.down is not None:
                return self.down
            if self.answers:
                return self.answers.pop(0)
            if form.get("client_id") != self.client_id:
                return _refusal(400, "unauthorized_client", "AADSTS700016: Application was not found.")
            if form.get("client_secret") != self.client_secret:
                return _refusal(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
            grant_type = form.get("grant_type")
            if grant_type == "authorization_code":
                return self._by_code(tenant, form)
            if grant_type == "refresh_token":
                return self._by_refresh_token(tenant, form)
            return _refusal(400, "unsupported_grant_type", "AADSTS70003: The grant type is not supported.")

    def issue(self, user: User, scopes: frozenset[str] = KNOWN_SCOPES) -> dict[str, object]:
        """Tokens of a user, as after a consent."""
        with self._lock:
            return self._tokens(user, scopes)

    def bearer(self, authorization: str) -> tuple[User, frozenset[str]] | None:
        """Whose access token this is, and what it is good for; None when it is none, or over."""
        kind, _, token = authorization.partition(" ")
        with self._lock:
            access = self._access.get(token)
            if kind != "Bearer" or access is None or access.refused or access.ends_at <= time.monotonic():
                return None
            return access.user, access.scopes

    def end_access_tokens(self) -> None:
        """Every access token that was given out is over."""
        with self._lock:
            for access in self._access.values():
                access.refused = True

    def revoke(self, user: User) -> None:
        """The user took the consent back, or changed the password: no refresh token of theirs is good any more."""
        with self._lock:
            for refresh in self._refresh.values():
                refresh.revoked = refresh.revoked or refresh.user == user

    def revoke_refresh_token(self, token: str) -> None:
        with self._lock:
            self._refresh[token].revoked = True

    @property
    def refreshes(self) -> int:
        """Token requests that were made with a refresh token."""
        with self._lock:
            return sum(1 for form in self.token_requests if form.get("grant_type") == "refresh_token")

    def _authorize_problem(self, tenant: str, asked: Mapping[str, str]) -> str:
        unknown = set(asked.get("scope", "").split()) - KNOWN_SCOPES
        if tenant not in ("common", "organizations", "consumers", WORK_TENANT, PERSONAL_TENANT):
            return "AADSTS90002: Tenant not found."
        if asked.get("client_id") != self.client_id:
            return "AADSTS700016: Application was not found in the directory."
        if asked.get("redirect_uri") not in self.redirect_uris:
            return "AADSTS50011: The redirect URI does not match the ones configured for the application."
        if asked.get("response_type") != "code":
            return "AADSTS900144: response_type must be code."
        if unknown or not asked.get("scope"):
            return f"AADSTS650053: The application asked for scope '{' '.join(sorted(unknown))}' that doesn't exist."
        if asked.get("code_challenge_method") != "S256" or len(asked.get("code_challenge", "")) != 43:
            return "AADSTS501491: Invalid size of Code_Challenge parameter."
        return ""

    def _new_code(self, user: User, tenant: str, asked: Mapping[str, str]) -> str:
        code = "0.A" + secrets.token_urlsafe(600)
        with self._lock:
            self._codes[code] = _Code(
                user,
                tenant,
                asked["redirect_uri"],
                frozenset(asked["scope"].split()) - self.withheld,
                asked["code_challenge"],
            )
        return code

    def _by_code(self, tenant: str, form: Mapping[str, str]) -> OAuthAnswer:
        code = self._codes.get(form.get("code", ""))
        if code is None:
            return _refusal(400, "invalid_grant", "AADSTS9002313: Invalid request. Request is malformed or invalid.")
        if code.used:
            return _refusal(400, "invalid_grant", "AADSTS54005: OAuth2 Authorization code was already redeemed.")
        code.used = True
        if form.get("redirect_uri") != code.redirect_uri or tenant != code.tenant:
            return _refusal(400, "invalid_grant", "AADSTS500112: The reply address does not match.")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != code.challenge:
            return _refusal(400, "invalid_grant", "AADSTS50148: The code_verifier does not match the code_challenge.")
        if code.user.name in self.needs_admin:
            return _refusal(400, "invalid_grant", "AADSTS65001: The user or administrator has not consented.")
        values = self._tokens(code.user, code.scopes)
        if self.code_changes:
            self.code_changes.pop(0)(values)
        return self._granted(values)

    def _by_refresh_token(self, tenant: str, form: Mapping[str, str]) -> OAuthAnswer:
        refresh = self._refresh.get(form.get("refresh_token", ""))
        if refresh is None or refresh.revoked or not _admits(tenant, refresh.user):
            return _refusal(
                400, "invalid_grant", "AADSTS50173: The provided grant has expired due to it being revoked."
            )
        refresh.uses += 1
        if self.old_tokens_end and self.rotates:
            refresh.revoked = True
        return self._granted(self._tokens(refresh.user, refresh.scopes, rotate=self.rotates))

    def _granted(self, values: dict[str, object]) -> OAuthAnswer:
        if self.changes:
            self.changes.pop(0)(values)
        return OAuthAnswer(200, json.dumps(values).encode())

    def _tokens(self, user: User, scopes: frozenset[str], *, rotate: bool = True) -> dict[str, object]:
        access_token = "EwB" + secrets.token_urlsafe(40)
        self._access[access_token] = _Access(user, scopes, time.monotonic() + self.lifetime_s)
        told = sorted(scopes - _UNANSWERED)
        if self.prefixed_scopes:
            told = [f"https://graph.microsoft.com/{scope}" if scope in GRAPH_SCOPES else scope for scope in told]
        values: dict[str, object] = {
            "token_type": "Bearer",
            "scope": " ".join(told),
            "expires_in": self.lifetime_s,
            "ext_expires_in": self.lifetime_s,
            "access_token": access_token,
        }
        if "offline_access" in scopes and rotate:
            refresh_token = "0.AR" + secrets.token_urlsafe(60)
            self._refresh[refresh_token] = _Refresh(user, scopes)
            values["refresh_token"] = refresh_token
        if "openid" in scopes:
            values["id_token"] = self._id_token(user)
        return values

    def _id_token(self, user: User) -> str:
        now = int(time.time())
        claims = {
            "aud": self.client_id,
            "iss": f"https://login.microsoftonline.com/{user.tenant}/v2.0",
            "iat": now,
            "exp": now + 3600,
            "oid": user.id,
            "sub": hashlib.sha256(f"{self.client_id}{user.id}".encode()).hexdigest(),
            "tid": user.tenant,
            "preferred_username": user.principal_name,
            "ver": "2.0",
        }
        parts = ({"typ": "JWT", "alg": "RS256", "kid": "fake"}, claims)
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join((*encoded, "c2lnbmF0dXJl"))


def _admits(tenant: str, user: User) -> bool:
    if tenant == "common":
        return True
    if tenant in ("organizations", "consumers"):
        return user.personal == (tenant == "consumers")
    return user.tenant == tenant


def _single(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items() if len(values) == 1}


def _refusal(status: int, error: str, description: str) -> OAuthAnswer:
    number = int(description[6:].partition(":")[0])
    body = {
        "error": error,
        "error_description": f"{description} Trace ID: 0 Correlation ID: 0",
        "error_codes": [number],
        "error_uri": f"https://login.microsoftonline.com/error?code={number}",
    }
    return OAuthAnswer(status, json.dumps(body).encode())


def _page(status: int, content: str) -> OAuthAnswer:
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Sign in</title><body>{content}</body></html>"
    return OAuthAnswer(status, page.encode(), "text/html; charset=utf-8")
