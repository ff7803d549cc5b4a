"""The OAuth client against Entra's endpoints with a memory: what is asked, what is believed, and what each refusal means."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import pytest

from calendar_server.errors import (
    AdminConsentRequired,
    NeedsReauth,
    ProviderRefused,
    ProviderThrottled,
    ProviderUnavailable,
)
from calendar_server.providers.base import Deadline
from calendar_server.providers.egress import AllowList, Egress
from calendar_server.providers.oauth import OAuthClient, OAuthSettings, Tokens
from calendar_server.usecases.authorizations import missing_scopes
from tests.fakes.entra import WORK_TENANT, OAuthAnswer
from tests.fakes.microsoft import MicrosoftFake
from tests.fakes.raw_server import RawConnection, RawRequest, RawServer

CALLBACK = "http://127.0.0.1:8080/oauth/microsoft/callback"
VERIFIER = "v" * 64
SCOPES = ("openid", "email", "offline_access", "User.Read", "Calendars.ReadWrite", "MailboxSettings.Read")


def soon() -> Deadline:
    return Deadline.after(10)


def challenge_of(verifier: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def egress() -> Iterator[Egress]:
    out = Egress(allow=AllowList.parse(""), exchange_s=10, answer_bytes=1_000_000)
    yield out
    out.close()


@pytest.fixture
def microsoft() -> Iterator[MicrosoftFake]:
    with MicrosoftFake() as fake:
        fake.entra.redirect_uris.add(CALLBACK)
        fake.add_user("anna")
        yield fake


def client_of(egress: Egress, microsoft: MicrosoftFake, secret: str = "", token_url: str = "") -> OAuthClient:
    return OAuthClient(
        egress,
        OAuthSettings(
            client_id=microsoft.entra.client_id,
            client_secret=secret or microsoft.entra.client_secret,
            authorize_url=microsoft.authorize_url,
            token_url=token_url or microsoft.token_url,
            scopes=SCOPES,
        ),
    )


@pytest.fixture
def client(egress: Egress, microsoft: MicrosoftFake) -> OAuthClient:
    return client_of(egress, microsoft)


@pytest.fixture
def connect(microsoft: MicrosoftFake, client: OAuthClient) -> Callable[..., Tokens]:
    """The whole way from the authorization URL to tokens."""

    def run(
        *,
        used: OAuthClient = client,
        verifier: str = VERIFIER,
        callback: str = CALLBACK,
        tenant: str = "common",
        redeemed_at: str = "common",
    ) -> Tokens:
        url = client.authorization_url(
            callback=CALLBACK, state="state", challenge=challenge_of(VERIFIER), tenant=tenant
        )
        (code,) = parse_qs(urlsplit(microsoft.entra.consent(url, "anna")).query)["code"]
        return used.exchange(code=code, callback=callback, verifier=verifier, tenant=redeemed_at, deadline=soon())

    return run


def query_of(url: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


class TestTheAuthorizationUrl:
    def test_it_asks_for_a_code_with_a_challenge(self, client: OAuthClient) -> None:
        url = client.authorization_url(callback=CALLBACK, state="s", challenge="c" * 43, tenant="common")
        asked = query_of(url)
        assert (asked["response_type"], asked["code_challenge"], asked["code_challenge_method"]) == (
            "code",
            "c" * 43,
            "S256",
        )

    def test_it_carries_state_callback_and_every_scope(self, client: OAuthClient) -> None:
        asked = query_of(client.authorization_url(callback=CALLBACK, state="s", challenge="c" * 43, tenant="common"))
        assert (asked["state"], asked["redirect_uri"], asked["scope"]) == ("s", CALLBACK, " ".join(SCOPES))

    def test_it_lies_in_the_tenant(self, client: OAuthClient) -> None:
        url = client.authorization_url(callback=CALLBACK, state="s", challenge="c" * 43, tenant=WORK_TENANT)
        assert urlsplit(url).path == f"/{WORK_TENANT}/oauth2/v2.0/authorize"

    def test_it_holds_no_secret(self, client: OAuthClient, microsoft: MicrosoftFake) -> None:
        url = client.authorization_url(callback=CALLBACK, state="s", challenge="c" * 43, tenant="common")
        assert microsoft.entra.client_secret not in url

    def test_further_parameters_of_a_provider_are_added(self, egress: Egress) -> None:
        settings = OAuthSettings(
            "id", "secret", "http://127.0.0.1/auth", "http://127.0.0.1/token", ("a",), {"access_type": "offline"}
        )
        url = OAuthClient(egress, settings).authorization_url(
            callback=CALLBACK, state="s", challenge="c" * 43, tenant=""
        )
        assert query_of(url)["access_type"] == "offline"

    def test_the_consent_page_takes_it(self, client: OAuthClient, microsoft: MicrosoftFake) -> None:
        url = client.authorization_url(callback=CALLBACK, state="s", challenge="c" * 43, tenant="common")
        parts = urlsplit(url)
        assert microsoft.entra.consent_page("common", parts.query).status == 200


class TestExchange:
    def test_a_code_becomes_tokens(self, connect: Callable[..., Tokens], microsoft: MicrosoftFake) -> None:
        bearer = microsoft.entra.bearer(f"Bearer {connect().access_token}")
        assert bearer is not None
        assert bearer[0].name == "anna"

    def test_the_client_proves_itself_in_the_body(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake
    ) -> None:
        connect()
        (form,) = microsoft.entra.token_requests
        assert (form["client_id"], form["client_secret"]) == (microsoft.entra.client_id, microsoft.entra.client_secret)

    def test_a_refresh_token_and_a_lifetime_come_along(self, connect: Callable[..., Tokens]) -> None:
        tokens = connect()
        assert (bool(tokens.refresh_token), tokens.expires_in_s) == (True, 3600)

    def test_the_id_token_is_read(self, connect: Callable[..., Tokens]) -> None:
        assert connect().claims["tid"] == WORK_TENANT

    def test_tokens_do_not_show_themselves(self, connect: Callable[..., Tokens]) -> None:
        tokens = connect()
        assert tokens.access_token not in repr(tokens)

    def test_another_verifier_is_refused(self, connect: Callable[..., Tokens]) -> None:
        with pytest.raises(ProviderRefused):
            connect(verifier="w" * 64)

    def test_another_callback_is_refused(self, connect: Callable[..., Tokens]) -> None:
        with pytest.raises(ProviderRefused):
            connect(callback=CALLBACK + "/")

    def test_another_tenant_is_refused(self, connect: Callable[..., Tokens]) -> None:
        with pytest.raises(ProviderRefused):
            connect(redeemed_at="consumers")

    def test_a_code_that_nobody_gave_is_refused(self, client: OAuthClient) -> None:
        with pytest.raises(ProviderRefused):
            client.exchange(code="made up", callback=CALLBACK, verifier=VERIFIER, tenant="common", deadline=soon())

    def test_a_wrong_client_secret_is_refused(
        self, egress: Egress, microsoft: MicrosoftFake, connect: Callable[..., Tokens]
    ) -> None:
        with pytest.raises(ProviderRefused):
            connect(used=client_of(egress, microsoft, secret="wrong"))

    def test_an_administrator_who_has_to_consent_is_named(self, client: OAuthClient, microsoft: MicrosoftFake) -> None:
        url = client.authorization_url(callback=CALLBACK, state="s", challenge=challenge_of(VERIFIER), tenant="common")
        code = query_of(microsoft.entra.consent(url, "anna"))["code"]
        microsoft.entra.needs_admin.add("anna")
        with pytest.raises(AdminConsentRequired):
            client.exchange(code=code, callback=CALLBACK, verifier=VERIFIER, tenant="common", deadline=soon())

    def test_no_refresh_token_is_told_as_none(self, connect: Callable[..., Tokens], microsoft: MicrosoftFake) -> None:
        microsoft.entra.changes.append(lambda values: values.pop("refresh_token"))
        assert connect().refresh_token == ""

    @pytest.mark.parametrize("prefixed", [False, True])
    def test_granted_scopes_count_short_and_prefixed(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake, prefixed: bool
    ) -> None:
        microsoft.entra.prefixed_scopes = prefixed
        assert missing_scopes(SCOPES, connect().scopes) == frozenset()

    def test_a_scope_that_was_not_granted_is_missing(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.withheld.add("Calendars.ReadWrite")
        assert missing_scopes(SCOPES, connect().scopes) == {"Calendars.ReadWrite"}

    def test_no_word_about_scopes_means_all_of_them(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.changes.append(lambda values: values.pop("scope"))
        assert connect().scopes is None

    @pytest.mark.parametrize("name", ["id_token", "ext_expires_in", "token_type"])
    def test_what_may_be_missing_may_be_missing(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake, name: str
    ) -> None:
        microsoft.entra.changes.append(lambda values: values.pop(name))
        assert connect().access_token

    @pytest.mark.parametrize(
        "id_token", ["", "a", "a.b", "a.!!!.c", "a.WzFd.c", "ä.ö.ü", 7, [], "a." + "W1tb" * 90_000]
    )
    def test_an_id_token_that_cannot_be_read_says_nothing(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake, id_token: object
    ) -> None:
        microsoft.entra.changes.append(lambda values: values.update(id_token=id_token))
        assert connect().claims == {}


class TestLifetimes:
    @pytest.mark.parametrize(("told", "seconds"), [("1800", 1800), (1800.0, 1800), (10**9, 86_400)])
    def test_a_lifetime_is_read_however_it_is_written(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake, told: object, seconds: int
    ) -> None:
        microsoft.entra.changes.append(lambda values: values.update(expires_in=told))
        assert connect().expires_in_s == seconds

    def test_a_lifetime_that_is_not_told_is_an_hour(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.changes.append(lambda values: values.pop("expires_in"))
        assert connect().expires_in_s == 3600

    @pytest.mark.parametrize("told", [0, -1, "0", "-5", "soon", "", None, [], True, float("inf"), float("nan")])
    def test_a_token_that_is_over_or_does_not_say_is_not_believed(
        self, connect: Callable[..., Tokens], microsoft: MicrosoftFake, told: object
    ) -> None:
        microsoft.entra.changes.append(lambda values: values.update(expires_in=told))
        with pytest.raises(ProviderUnavailable):
            connect()


class TestRefresh:
    @pytest.fixture
    def refresh(self, client: OAuthClient) -> Callable[..., Tokens]:
        def run(refresh_token: str, used: OAuthClient = client, tenant: str = "common") -> Tokens:
            return used.refresh(refresh_token=refresh_token, tenant=tenant, deadline=soon())

        return run

    @pytest.fixture
    def refresh_token(self, connect: Callable[..., Tokens]) -> str:
        return connect().refresh_token

    def test_a_refresh_token_gets_a_new_access_token(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.end_access_tokens()
        assert microsoft.entra.bearer(f"Bearer {refresh(refresh_token).access_token}") is not None

    def test_a_rotated_refresh_token_is_told(self, refresh: Callable[..., Tokens], refresh_token: str) -> None:
        assert refresh(refresh_token).refresh_token not in ("", refresh_token)

    def test_the_rotated_one_is_good_for_the_next_time(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.old_tokens_end = True
        assert refresh(refresh(refresh_token).refresh_token).access_token

    def test_the_old_one_stays_good_at_microsoft(self, refresh: Callable[..., Tokens], refresh_token: str) -> None:
        refresh(refresh_token)
        assert refresh(refresh_token).access_token

    def test_without_rotation_the_old_one_is_kept(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.rotates = False
        assert refresh(refresh_token).refresh_token in ("", refresh_token)

    def test_a_revoked_grant_needs_its_owner(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake
    ) -> None:
        microsoft.entra.revoke(microsoft.entra.users["anna"])
        with pytest.raises(NeedsReauth):
            refresh(refresh_token)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (401, "invalid_client"),
            (400, "unauthorized_client"),
            (400, "invalid_request"),
            (400, "invalid_scope"),
            (400, "interaction_required"),
            (400, "temporarily_unavailable"),
            (400, "something_new"),
        ],
    )
    def test_no_other_refusal_troubles_the_owner(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake, status: int, error: str
    ) -> None:
        body = json.dumps({"error": error, "error_description": "AADSTS1: invalid_grant"}).encode()
        microsoft.entra.answers.append(OAuthAnswer(status, body))
        with pytest.raises(ProviderUnavailable):
            refresh(refresh_token)

    def test_a_wrong_client_secret_does_not_trouble_the_owner(
        self, egress: Egress, microsoft: MicrosoftFake, refresh: Callable[..., Tokens], refresh_token: str
    ) -> None:
        with pytest.raises(ProviderUnavailable):
            refresh(refresh_token, client_of(egress, microsoft, secret="wrong"))

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_a_failing_endpoint_is_unavailable_whatever_it_says(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake, status: int
    ) -> None:
        microsoft.entra.answers.append(OAuthAnswer(status, b'{"error": "invalid_grant"}'))
        with pytest.raises(ProviderUnavailable):
            refresh(refresh_token)

    @pytest.mark.parametrize("status", [429, 503])
    def test_being_asked_to_slow_down_tells_for_how_long(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake, status: int
    ) -> None:
        microsoft.entra.answers.append(OAuthAnswer(status, b"", headers={"Retry-After": "9"}))
        with pytest.raises(ProviderThrottled) as caught:
            refresh(refresh_token)
        assert caught.value.retry_after_s == 9

    @pytest.mark.parametrize("status", [200, 400, 401, 404])
    @pytest.mark.parametrize("body", [b"", b"<html>invalid_grant</html>", b"[]", b"7", b'{"error":', b"[" * 100_000])
    def test_an_answer_that_is_no_object_is_unavailable(
        self,
        refresh: Callable[..., Tokens],
        refresh_token: str,
        microsoft: MicrosoftFake,
        status: int,
        body: bytes,
    ) -> None:
        microsoft.entra.answers.append(OAuthAnswer(status, body, "text/html"))
        with pytest.raises(ProviderUnavailable):
            refresh(refresh_token)

    @pytest.mark.parametrize(
        "values",
        [
            {},
            {"access_token": ""},
            {"access_token": 7},
            {"access_token": "bö"},
            {"access_token": "a\r\nb"},
            {"access_token": "a b"},
            {"access_token": "ok", "refresh_token": 7},
        ],
    )
    def test_tokens_that_are_none_are_unavailable(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake, values: dict[str, object]
    ) -> None:
        microsoft.entra.answers.append(OAuthAnswer(200, json.dumps({"expires_in": 3600, **values}).encode()))
        with pytest.raises(ProviderUnavailable):
            refresh(refresh_token)

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_a_redirect_gets_neither_secret_nor_token(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake, status: int
    ) -> None:
        with RawServer(lambda request, connection: None) as stranger:
            microsoft.entra.answers.append(OAuthAnswer(status, headers={"Location": f"{stranger.url}token"}))
            with pytest.raises(ProviderUnavailable):
                refresh(refresh_token)
            assert stranger.requests == []

    def test_a_line_that_is_cut_is_unavailable(self, egress: Egress, microsoft: MicrosoftFake) -> None:
        def cut(request: RawRequest, connection: RawConnection) -> None:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{")
            connection.close()

        with RawServer(cut) as server, pytest.raises(ProviderUnavailable):
            client_of(egress, microsoft, token_url=server.url).refresh(
                refresh_token="r", tenant="common", deadline=soon()
            )

    def test_an_endpoint_that_never_answers_ends_by_the_deadline(
        self, egress: Egress, microsoft: MicrosoftFake
    ) -> None:
        with (
            RawServer(lambda request, connection: connection.hang()) as server,
            pytest.raises(ProviderUnavailable),
        ):
            client_of(egress, microsoft, token_url=server.url).refresh(
                refresh_token="r", tenant="common", deadline=Deadline.after(0.3)
            )

    def test_no_error_shows_a_secret(
        self, refresh: Callable[..., Tokens], refresh_token: str, microsoft: MicrosoftFake
    ) -> None:
        body = json.dumps({"error": "invalid_grant", "error_description": refresh_token}).encode()
        microsoft.entra.answers.append(OAuthAnswer(400, body))
        with pytest.raises(NeedsReauth) as caught:
            refresh(refresh_token)
        assert refresh_token not in caught.value.message
