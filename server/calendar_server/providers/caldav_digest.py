"""Proving a password over HTTP: Basic (RFC 7617) and Digest (RFC 7616), as values, without any network."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from calendar_server.errors import ProviderUnavailable

# Of all challenges in one answer. What goes beyond is not looked at: reading them costs time, and answering one with a
# realm or nonce of that size would send it back with every request.
CHALLENGES_MOST = 10
PARAMETERS_MOST = 20
HEADER_MOST = 8_000
"""Characters of one header of challenges that are read."""

# Nothing here may begin with blanks: two kinds of blanks in a row, each of any length, take quadratic time to give up.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105 (a pattern of RFC 9110 section 5.6.2)
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t]*+(?:$|,)|[ \t]++[^\s=,])")
_PARAMETER = re.compile(rf"({_TOKEN})[ \t]*+=[ \t]*+(?:\"((?:[^\"\\]|\\.)*+)\"|([^\s,\"]*+))")
_BETWEEN = " \t\r\n,"

_HASHES: dict[str, Callable[[bytes], str]] = {
    # MD5 is what servers without SHA-256 speak; it protects no secret of ours here, TLS does.
    "md5": lambda text: hashlib.md5(text, usedforsecurity=False).hexdigest(),
    "sha-256": lambda text: hashlib.sha256(text).hexdigest(),
}
_STRENGTH = ("sha-256", "sha-256-sess", "md5", "md5-sess")


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in that a server offers (RFC 9110 section 11.3). Names are in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


def challenges(values: Iterable[str]) -> list[Challenge]:
    """The challenges in the values of the ``WWW-Authenticate`` headers, several in one value or not.

    At most ``CHALLENGES_MOST`` of them, each with at most ``PARAMETERS_MOST`` parameters; a header that is longer than
    ``HEADER_MOST`` is passed over.
    """
    found: list[Challenge] = []
    for value in values:
        rest = value.lstrip(_BETWEEN) if len(value) <= HEADER_MOST else ""
        while rest:
            scheme = _SCHEME.match(rest)
            parameter = None if scheme or not found else _PARAMETER.match(rest)
            if scheme and len(found) < CHALLENGES_MOST:
                found.append(Challenge(scheme[1].lower()))
                rest = rest[scheme.end() :].lstrip(_BETWEEN)
            elif parameter and len(found[-1].parameters) < PARAMETERS_MOST:
                name, quoted, plain = parameter.groups()
                text = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                found[-1] = Challenge(found[-1].scheme, {**found[-1].parameters, name.lower(): text})
                rest = rest[parameter.end() :].lstrip(_BETWEEN)
            else:
                break
    return found


def basic(username: str, password: str) -> str:
    """The value of ``Authorization`` for Basic."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def pick_digest(offered: Iterable[Challenge]) -> Challenge | None:
    """The strongest Digest challenge that we can answer."""
    usable = [
        challenge
        for challenge in offered
        if challenge.scheme == "digest"
        and challenge.parameters.get("nonce")
        and _algorithm(challenge) in _STRENGTH
        # Integrity of the body (auth-int) alone is something that no calendar server asks for.
        and ("qop" not in challenge.parameters or "auth" in _words(challenge.parameters["qop"]))
    ]
    return min(usable, key=lambda challenge: _STRENGTH.index(_algorithm(challenge)), default=None)


class Digest:
    """Answers one Digest challenge for any number of requests, counting them as the nonce demands. Not thread-safe."""

    def __init__(self, challenge: Challenge, username: str, password: str):
        self._parameters = challenge.parameters
        self._algorithm = _algorithm(challenge)
        self._username = username
        self._password = password
        self._count = 0
        self._session_nonce = ""

    def authorization(self, method: str, url: str) -> str:
        """The value of ``Authorization`` for one request."""
        told = self._parameters
        realm, nonce = told.get("realm", ""), told["nonce"]
        parts = urlsplit(url)
        uri = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._count += 1
        count, client_nonce = f"{self._count:08x}", secrets.token_hex(16)
        digest = _HASHES[self._algorithm.removesuffix("-sess")]
        secret = digest(f"{self._username}:{realm}:{self._password}".encode())
        if self._algorithm.endswith("-sess"):
            # RFC 7616 section 3.4.2: the session key is made with the first client nonce, which then stays.
            self._session_nonce = self._session_nonce or client_nonce
            client_nonce = self._session_nonce
            secret = digest(f"{secret}:{nonce}:{client_nonce}".encode())
        request = digest(f"{method}:{uri}".encode())
        fields = [f"username={_quoted(self._username)}", f"realm={_quoted(realm)}", f"nonce={_quoted(nonce)}"]
        if not self._username.isascii():
            fields[0] = f"username*=UTF-8''{quote(self._username, safe='')}"
        fields.append(f"uri={_quoted(uri)}")
        if "algorithm" in told:
            fields.append(f"algorithm={told['algorithm']}")
        if "qop" in told:
            response = digest(f"{secret}:{nonce}:{count}:{client_nonce}:auth:{request}".encode())
            fields += ["qop=auth", f"nc={count}", f"cnonce={_quoted(client_nonce)}"]
        else:
            response = digest(f"{secret}:{nonce}:{request}".encode())
        fields.append(f"response={_quoted(response)}")
        if "opaque" in told:
            fields.append(f"opaque={_quoted(told['opaque'])}")
        value = "Digest " + ", ".join(fields)
        if not value.isprintable() or not value.isascii():
            raise ProviderUnavailable("The server asks for the password in a form that is not understood.")
        return value


def _algorithm(challenge: Challenge) -> str:
    return challenge.parameters.get("algorithm", "MD5").lower()


def _words(text: str) -> list[str]:
    return [word.strip().lower() for word in text.split(",")]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
