"""One conversation with one CalDAV account: logging in, redirects, and what refusals mean.

A session lives as long as one call. It sends the password to no other place than its ``Reach`` allows, follows at most
``redirects`` redirects, and gives up after two refused log-ins, so that it locks no account. Sessions of one account
share its ``Standing``, so that not each of them tries a password that was refused.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from calendar_server.errors import (
    ForbiddenDestination,
    NeedsReauth,
    ProviderError,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline
from calendar_server.providers.caldav_address import BadHref, Origin, Reach
from calendar_server.providers.caldav_digest import Challenge, Digest, basic, challenges, pick_digest
from calendar_server.providers.caldav_logins import Standing
from calendar_server.providers.caldav_protocol import XML_TYPE, propfind
from calendar_server.providers.egress import Answer, Egress

AuthScheme = Literal["basic", "digest"]

REFUSALS_MOST = 2
"""Refused log-ins in one session."""
STALE_MOST = 3
"""New nonces taken for one request."""
RETRY_AFTER_MOST_S = 3600.0
THROTTLE_S = 60.0
"""Seconds to wait after a 429 that does not say how long."""

# 300 and 304 are no redirects that could be followed; 303 would ask for a GET, which tells a CalDAV client nothing.
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGENT = "calendar-server (CalDAV client)"


class LeadsElsewhere(ProviderRefused):
    """The server sends us to a place where the password must not go."""

    def __init__(self, origin: Origin | None = None):
        name = origin.public_name if origin else ""
        super().__init__(
            f"The server sends us on to {name or 'another server'}, where your password must not be sent unasked. "
            "If you trust it, enter that server's address as server_url."
        )


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in, and the scheme that worked last."""

    username: str
    password: str
    scheme: AuthScheme = "basic"

    def __repr__(self) -> str:
        return "Login(***)"


class Session:
    """See the module. Not thread-safe: one call, one thread.

    ``connecting``: credentials are being proved, so a refused log-in and a redirect to a foreign or forbidden place are
    ``ProviderRefused``; later they are ``NeedsReauth`` and ``ProviderUnavailable``.
    """

    def __init__(
        self,
        egress: Egress,
        reach: Reach,
        login: Login,
        *,
        redirects: int,
        deadline: Deadline,
        check: Callable[[], None] = lambda: None,
        connecting: bool = False,
        standing: Standing | None = None,
    ):
        self.reach = reach
        self._egress = egress
        self._login = login
        self._scheme: AuthScheme = login.scheme
        self._digest: Digest | None = None
        self._redirects = redirects
        self._deadline = deadline
        self._check = check
        self._connecting = connecting
        self._standing = standing or Standing()
        self._refusals = 0
        self._exchanges = 0

    @property
    def scheme(self) -> AuthScheme:
        """The scheme in use by now."""
        return self._scheme

    @property
    def deadline(self) -> Deadline:
        return self._deadline

    def hurried(self, seconds: float) -> Session:
        """The same conversation, for something that may not take longer than so many seconds."""
        other = copy.copy(self)
        other._deadline = self._deadline.sooner(seconds)
        return other

    def propfind(self, url: str, properties: Iterable[str], depth: Literal[0, 1]) -> Answer:
        """Ask for properties of a resource, and with depth 1 of its members."""
        return self.exchange("PROPFIND", url, {"depth": str(depth), "content-type": XML_TYPE}, propfind(properties))

    def report(self, url: str, body: bytes) -> Answer:
        """Run a REPORT on a collection."""
        return self.exchange("REPORT", url, {"depth": "1", "content-type": XML_TYPE}, body)

    def exchange(self, method: str, url: str, headers: Mapping[str, str], content: bytes = b"") -> Answer:
        """Send a request and answer what came, logged in and redirected as far as that is allowed.

        The method stays through every redirect: servers send 301 and 302 for well-known places and mean 308. Any status
        but 401 and redirects is the caller's to judge; ``Answer.url`` is where it came from in the end.
        """
        for _ in range(self._redirects + 1):
            answer = self._logged_in(method, url, headers, content)
            if answer.status not in _REDIRECTS:
                return answer
            url = self._next(answer)
        raise self._lost("The server redirects again and again.")

    def _next(self, answer: Answer) -> str:
        location = answer.headers.get("location", "")
        if not location:
            raise self._lost("The server redirects, but does not say where to.")
        try:
            url = self.reach.locate_strictly(location, answer.url)
            origin = Origin.of(url)
        except BadHref:
            raise self._elsewhere(None) from None
        if not self.reach.allows(origin):
            raise self._elsewhere(origin)
        return url

    def _logged_in(self, method: str, url: str, headers: Mapping[str, str], content: bytes) -> Answer:
        with self._standing.turn() as wait:
            return self._tried(wait, method, url, headers, content)

    def _tried(
        self, wait: Callable[[Deadline], None], method: str, url: str, headers: Mapping[str, str], content: bytes
    ) -> Answer:
        """The request with the password, again after a refusal. ``wait`` until each may go."""
        stale = 0
        while True:
            wait(self._deadline)
            if self._standing.dead:
                raise self._not_accepted()
            if self._scheme == "digest" and self._digest is None:
                elsewhere = self._take_challenge(url)
                if elsewhere:
                    return elsewhere
            authorized = {**headers, "authorization": self._authorization(method, url)}
            try:
                answer = self._send(method, url, authorized, content)
            except ProviderUnavailable:
                self._standing.answered()  # by silence: nothing is known against the password
                raise
            if answer.status != 401:
                if answer.status not in _REDIRECTS:
                    self._standing.answered()
                return answer
            offered = challenges(value for name, value in answer.header_list if name.lower() == "www-authenticate")
            digest = pick_digest(offered)
            if digest and self._digest and digest.parameters.get("stale", "").lower() == "true" and stale < STALE_MOST:
                # RFC 7616 section 3.3: the password was right, the nonce was too old.
                stale += 1
                self._digest = self._answering(digest)
                continue
            self._refused(offered, digest)

    def _refused(self, offered: list[Challenge], digest: Challenge | None) -> None:
        """Count a refused log-in; decide whether, and how, to try once more."""
        self._refusals += 1
        self._standing.refused()
        offers_basic = any(challenge.scheme == "basic" for challenge in offered)
        before = self._scheme
        if digest and (before == "digest" or not offers_basic):
            self._scheme, self._digest = "digest", self._answering(digest)
        elif before == "digest" and offers_basic:
            self._scheme, self._digest = "basic", None
        if self._refusals >= REFUSALS_MOST or (self._connecting and self._scheme == before):
            self._standing.bury()
            raise self._not_accepted()

    def _not_accepted(self) -> ProviderError:
        if self._connecting:
            return credentials_refused()
        return NeedsReauth("The server no longer accepts the stored password. Connect the account again.")

    def _take_challenge(self, url: str) -> Answer | None:
        """Get a nonce for Digest. Answers a redirect that stands in the way, if there is one.

        A request without credentials must be refused: an answer to it would be one to anybody, perhaps with nothing but
        public events in it.
        """
        answer = self._send(
            "PROPFIND", url, {"depth": "0", "content-type": XML_TYPE}, propfind(("{DAV:}resourcetype",))
        )
        if answer.status in _REDIRECTS:
            return answer
        if answer.status != 401:
            raise failure(answer, "The server did not ask for the password.")
        offered = challenges(value for name, value in answer.header_list if name.lower() == "www-authenticate")
        digest = pick_digest(offered)
        if digest:
            self._digest = self._answering(digest)
        else:
            self._scheme = "basic"
        return None

    def _answering(self, challenge: Challenge) -> Digest:
        return Digest(challenge, self._login.username, self._login.password)

    def _authorization(self, method: str, url: str) -> str:
        if self._digest:
            return self._digest.authorization(method, url)
        return basic(self._login.username, self._login.password)

    def _send(self, method: str, url: str, headers: Mapping[str, str], content: bytes) -> Answer:
        if not self.reach.allows(Origin.of(url)):
            raise self._elsewhere(Origin.of(url))
        self._deadline.check()
        self._check()
        first, self._exchanges = self._exchanges == 0, self._exchanges + 1
        try:
            return self._egress.exchange(
                method, url, headers={"user-agent": _AGENT, **headers}, content=content, deadline=self._deadline
            )
        except ForbiddenDestination:
            if first and self._connecting:
                raise  # the address that was entered
            raise self._forbidden() from None

    def visitable(self, url: str) -> str:
        """The URL, if the password may go there; raises as for a redirect to it otherwise."""
        origin = Origin.of(url)
        if not self.reach.allows(origin):
            raise self._elsewhere(origin)
        return url

    def _elsewhere(self, origin: Origin | None) -> ProviderError:
        if self._connecting:
            return LeadsElsewhere(origin)
        return ProviderUnavailable(
            "The server sends us on to another server. If it has moved, connect the account again."
        )

    def _forbidden(self) -> ProviderError:
        told = ForbiddenDestination()
        return ProviderRefused(told.message) if self._connecting else ProviderUnavailable(told.message)

    def _lost(self, message: str) -> ProviderError:
        return ProviderRefused(message, cause="not_caldav") if self._connecting else ProviderUnavailable(message)


def credentials_refused() -> ProviderRefused:
    """What connect says of a wrong user name or password."""
    return ProviderRefused(
        "The server does not accept this user name and password. Some providers want an app password instead.",
        cause="credentials",
    )


def failure(answer: Answer, message: str = "") -> ProviderUnavailable:
    """What an answer with an unexpected status means where nothing more special applies.

    429, and 503 that says when to come back, are ``ProviderThrottled``.
    """
    waits = retry_after_s(answer.headers.get("retry-after", ""), time.time())
    if answer.status == 429 or (answer.status == 503 and waits is not None):
        return ProviderThrottled(
            "The server asks us to slow down.", retry_after_s=THROTTLE_S if waits is None else waits
        )
    if message and answer.status < 500:
        return ProviderUnavailable(message, retry_after_s=waits)
    return ProviderUnavailable(f"The server answered with status {answer.status}.", retry_after_s=waits)


def retry_after_s(value: str, now: float) -> float | None:
    """Seconds that ``Retry-After`` asks for (RFC 9110 section 10.2.3), from 1 to 3600; None if it does not say."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(max(float(value[:9]), 1.0), RETRY_AFTER_MOST_S)
    try:
        seconds = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(seconds, 1.0), RETRY_AFTER_MOST_S)
