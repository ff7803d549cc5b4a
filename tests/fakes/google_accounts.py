"""Google's OAuth endpoints with a memory: consent with a box for each scope, codes, tokens that end, revocation. No HTTP.

https://developers.google.com/identity/protocols/oauth2/web-server. A refresh token is given with `access_type=offline`
at the first consent, and at every one with `prompt=consent`; it stays the same for ever unless ``rotates``. The account
keeps a hundred of them for one client: one more silently kills the oldest. Revoking any token ends the whole grant.
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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

from tests.fakes.google_description import GoogleDescription

AUTH = "https://www.googleapis.com/auth/"
CALENDAR_SCOPES = frozenset(
    {f"{AUTH}calendar.events", f"{AUTH}calendar.calendarlist.readonly", f"{AUTH}calendar.freebusy"}
)
SIGN_IN_SCOPES = {"openid": "openid", "email": f"{AUTH}userinfo.email", "profile": f"{AUTH}userinfo.profile"}
"""Scopes by the name that they are asked for, and the one that they are answered by."""
ALL_SCOPES = CALENDAR_SCOPES | {"openid", SIGN_IN_SCOPES["email"]}
REFRESH_TOKENS_MOST = 100


@dataclass(frozen=True, slots=True)
class User:
    """One account."""

    name: str
    sub: str
    email: str


@dataclass(frozen=True, slots=True)
class OAuthAnswer:
    """What an endpoint answers."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Code:
    user: User
    redirect_uri: str
    scopes: frozenset[str]
    challenge: str
    offline: bool
    used: bool = False


@dataclass
class _Access:
    user: User
    scopes: frozenset[str]
    ends_at: float


@dataclass
class _Refresh:
    user: User
    scopes: frozenset[str]


class GoogleAccounts:
    """One OAuth client, its users, and all that was ever given out."""

    def __init__(self) -> None:
        self.client_id = "1234567890-abcdef.apps.googleusercontent.com"
        self.client_secret = "GOCSPX-" + secrets.token_urlsafe(20)
        self.redirect_uris: set[str] = set()
        self.users: dict[str, User] = {}
        self.lifetime_s = 3599
        self.rotates = False
        self.problems: list[str] = []
        """Scopes that were asked for and that Google's description does not know."""
        self.token_requests: list[dict[str, str]] = []
        self.revoked: list[str] = []
        """Tokens that were sent to be revoked."""
        self.answers: list[OAuthAnswer] = []
        """What the token endpoint answers next, instead of its own words."""
        self.changes: list[Callable[[dict[str, object]], None]] = []
        """What is done to the next good token answers, one each."""
        self.before_token: Callable[[], None] = lambda: None
        """Runs before a token request is answered: a slow endpoint, or a race that a test makes."""
        self._known = GoogleDescription().scopes | SIGN_IN_SCOPES.keys()
        self._lock = threading.RLock()
        self._codes: dict[str, _Code] = {}
        self._access: dict[str, _Access] = {}
        self._refresh: dict[str, _Refresh] = {}
        self._consented: set[str] = set()
        self._numbers = itertools.count(100_000_000_000_000_000_001)

    def add_user(self, name: str, *, email: str = "") -> User:
        user = User(name, str(next(self._numbers)), email or f"{name}@gmail.example")
        self.users[name] = user
        return user

    # What browsers see.

    def consent_page(self, query: str) -> OAuthAnswer:
        """The page that asks a person, with a box for each scope that may be refused; or says why it cannot."""
        asked = _single(query)
        problem = self._authorize_problem(asked)
        if problem:
            return _page(400, f"<h1>Access blocked</h1><p>Error 400: {html.escape(problem)}</p>")
        hidden = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in asked.items()
        )
        people = "".join(
            f'<option value="{html.escape(user.name)}">{html.escape(user.email)}</option>'
            for user in self.users.values()
        )
        boxes = "".join(
            f'<li><label><input type="checkbox" name="granted" value="{html.escape(scope)}" checked> '
            f"{html.escape(scope.removeprefix(AUTH))}</label></li>"
            for scope in asked["scope"].split()
            if scope not in SIGN_IN_SCOPES
        )
        return _page(
            200,
            '<h1>Calendar service wants access to your Google Account</h1><form method="post" action="consent">'
            f'{hidden}<p><label>Account <select name="user">{people}</select></label></p><ul>{boxes}</ul>'
            '<button name="decision" value="deny">Cancel</button> '
            '<button name="decision" value="approve">Continue</button></form>',
        )

    def decide(self, form: str) -> OAuthAnswer:
        """A person pressed a button of the page: the browser goes back to the app."""
        ticked = frozenset(value for name, value in parse_qsl(form) if name == "granted")
        asked = {name: value for name, value in _single(form).items() if name != "granted"}
        decision, user = asked.pop("decision", ""), self.users.get(asked.pop("user", ""))
        problem = self._authorize_problem(asked)
        if problem or user is None:
            return _page(400, f"<p>{html.escape(problem or 'no such account')}</p>")
        if decision == "approve":
            wanted = frozenset(asked["scope"].split())
            granted = frozenset(s for s in wanted if s in SIGN_IN_SCOPES or s in ticked)
            told = {SIGN_IN_SCOPES.get(scope, scope) for scope in granted}
            back = {"code": self._new_code(user, asked, granted), "scope": " ".join(sorted(told)), "authuser": "0"}
        else:
            back = {"error": "access_denied"}
        if "state" in asked:
            back["state"] = asked["state"]
        joint = "&" if urlsplit(asked["redirect_uri"]).query else "?"
        return OAuthAnswer(302, headers={"Location": f"{asked['redirect_uri']}{joint}{urlencode(back)}"})

    def consent(self, authorization_url: str, user: str, *, approve: bool = True, unticked: Iterable[str] = ()) -> str:
        """What a person does, without a browser: answers the address that the browser is sent to."""
        query = urlsplit(authorization_url).query
        ticked = [scope for scope in _single(query).get("scope", "").split() if scope not in set(unticked)]
        choice = [("user", user), ("decision", "approve" if approve else "deny"), *(("granted", s) for s in ticked)]
        answer = self.decide(f"{query}&{urlencode(choice)}")
        if answer.status != 302:
            raise AssertionError(answer.body.decode())
        return answer.headers["Location"]

    # What clients call.

    def token(self, body: str) -> OAuthAnswer:
        """The token endpoint."""
        form = _single(body)
        with self._lock:
            self.token_requests.append(form)
        self.before_token()
        with self._lock:
            if self.answers:
                return self.answers.pop(0)
            if form.get("client_id") != self.client_id:
                return _refusal(401, "invalid_client", "The OAuth client was not found.")
            if form.get("client_secret") != self.client_secret:
                return _refusal(401, "invalid_client", "The provided client secret is invalid.")
            if form.get("grant_type") == "authorization_code":
                return self._by_code(form)
            if form.get("grant_type") == "refresh_token":
                refresh = self._refresh.get(form.get("refresh_token", ""))
                if refresh is None:
                    return _refusal(400, "invalid_grant", "Token has been expired or revoked.")
                return self._granted(self._tokens(refresh.user, refresh.scopes, refreshable=self.rotates))
            return _refusal(400, "unsupported_grant_type", f"Invalid grant_type: {form.get('grant_type')}")

    def revoke(self, body: str) -> OAuthAnswer:
        """The revocation endpoint: any token ends the grant, all of it."""
        token = _single(body).get("token", "")
        with self._lock:
            self.revoked.append(token)
            given = self._refresh.get(token) or self._access.get(token)
            if given is None:
                return _refusal(400, "invalid_token", "Token expired or revoked")
            self.end_grant(given.user)
        return OAuthAnswer(200, b"{}")

    def userinfo(self, authorization: str) -> OAuthAnswer:
        """OpenID Connect's userinfo endpoint."""
        bearer = self.bearer(authorization)
        if bearer is None or "openid" not in bearer[1]:
            refused = _refusal(401, "invalid_request", "Invalid Credentials")
            return OAuthAnswer(401, refused.body, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        user, scopes = bearer
        person: dict[str, object] = {"sub": user.sub, "picture": "https://lh3.googleusercontent.com/a/default"}
        if SIGN_IN_SCOPES["email"] in scopes:
            person |= {"email": user.email, "email_verified": True}
        return OAuthAnswer(200, json.dumps(person).encode())

    # What tests do.

    def issue(self, user: User, scopes: Iterable[str] = ALL_SCOPES) -> dict[str, object]:
        """Tokens of a user, as after a consent."""
        with self._lock:
            return self._tokens(user, frozenset(scopes), refreshable=True)

    def bearer(self, authorization: str) -> tuple[User, frozenset[str]] | None:
        """Whose access token this is, and what it is good for; None when it is none, or over."""
        kind, _, token = authorization.partition(" ")
        with self._lock:
            access = self._access.get(token)
            if kind != "Bearer" or access is None or access.ends_at <= time.monotonic():
                return None
            return access.user, access.scopes

    def end_access_tokens(self) -> None:
        """Every access token that was given out is over."""
        with self._lock:
            self._access.clear()

    def end_grant(self, user: User) -> None:
        """The user took the consent back, or somebody revoked a token: nothing that was given out is good any more."""
        with self._lock:
            self._access = {token: access for token, access in self._access.items() if access.user != user}
            self._refresh = {token: refresh for token, refresh in self._refresh.items() if refresh.user != user}
            self._consented.discard(user.sub)

    @property
    def refreshes(self) -> int:
        """Token requests that were made with a refresh token."""
        with self._lock:
            return sum(1 for form in self.token_requests if form.get("grant_type") == "refresh_token")

    def _authorize_problem(self, asked: Mapping[str, str]) -> str:
        unknown = sorted(set(asked.get("scope", "").split()) - self._known)
        self.problems += [f"{scope} is no scope" for scope in unknown]
        if asked.get("client_id") != self.client_id:
            return "invalid_client"
        if asked.get("redirect_uri") not in self.redirect_uris:
            return "redirect_uri_mismatch"
        if asked.get("response_type") != "code":
            return "unsupported_response_type"
        if unknown or not asked.get("scope"):
            return "invalid_scope"
        if asked.get("code_challenge_method") != "S256" or len(asked.get("code_challenge", "")) != 43:
            return "invalid_request: code_challenge"
        return ""

    def _new_code(self, user: User, asked: Mapping[str, str], granted: frozenset[str]) -> str:
        code = "4/0A" + secrets.token_urlsafe(50)
        with self._lock:
            first = user.sub not in self._consented
            offline = asked.get("access_type") == "offline" and (first or "consent" in asked.get("prompt", "").split())
            self._consented.add(user.sub)
            scopes = frozenset(SIGN_IN_SCOPES.get(scope, scope) for scope in granted)
            self._codes[code] = _Code(user, asked["redirect_uri"], scopes, asked["code_challenge"], offline)
        return code

    def _by_code(self, form: Mapping[str, str]) -> OAuthAnswer:
        code = self._codes.get(form.get("code", ""))
        if code is None or code.used:
            return _refusal(400, "invalid_grant", "Malformed auth code.")
        code.used = True
        if form.get("redirect_uri") != code.redirect_uri:
            return _refusal(400, "redirect_uri_mismatch", "Bad Request")
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).decode().rstrip("=") != code.challenge:
            return _refusal(400, "invalid_grant", "Invalid code verifier.")
        return self._granted(self._tokens(code.user, code.scopes, refreshable=code.offline))

    def _granted(self, values: dict[str, object]) -> OAuthAnswer:
        if self.changes:
            self.changes.pop(0)(values)
        return OAuthAnswer(200, json.dumps(values).encode(), headers={"Cache-Control": "no-store"})

    def _tokens(self, user: User, scopes: frozenset[str], *, refreshable: bool) -> dict[str, object]:
        access_token = "ya29.a0" + secrets.token_urlsafe(60)
        self._access[access_token] = _Access(user, scopes, time.monotonic() + self.lifetime_s)
        values: dict[str, object] = {
            "access_token": access_token,
            "expires_in": self.lifetime_s,
            "scope": " ".join(sorted(scopes)),
            "token_type": "Bearer",
        }
        if refreshable:
            refresh_token = "1//0" + secrets.token_urlsafe(60)
            self._refresh[refresh_token] = _Refresh(user, scopes)
            theirs = [token for token, refresh in self._refresh.items() if refresh.user == user]
            for oldest in theirs[:-REFRESH_TOKENS_MOST]:
                del self._refresh[oldest]
            values["refresh_token"] = refresh_token
        if "openid" in scopes:
            values["id_token"] = self._id_token(user)
        return values

    def _id_token(self, user: User) -> str:
        now = int(time.time())
        claims = {
            "iss": "https://accounts.google.com",
            "azp": self.client_id,
            "aud": self.client_id,
            "sub": user.sub,
            "email": user.email,
            "email_verified": True,
            "iat": now,
            "exp": now + 3600,
        }
        parts = ({"alg": "RS256", "kid": "fake", "typ": "JWT"}, claims)
        encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
        return ".".join((*encoded, "c2lnbmF0dXJl"))


def _single(text: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True).items() if len(values) == 1}


def _refusal(status: int, error: str, description: str) -> OAuthAnswer:
    return OAuthAnswer(status, json.dumps({"error": error, "error_description": description}).encode())


def _page(status: int, content: str) -> OAuthAnswer:
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>Sign in</title><body>{content}</body></html>"
    return OAuthAnswer(status, page.encode(), "text/html; charset=utf-8")
