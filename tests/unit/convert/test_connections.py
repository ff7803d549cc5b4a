"""Requests about connections are read strictly, and everything that is wrong is named at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from calendar_server.core.model import CalendarId, ConnectionId, ConnectionStatus, Preset, ProviderName
from calendar_server.errors import ValidationError
from calendar_server.rpc import convert
from calendar_server.usecases.commands import CaldavAccount, ConnectCommand, ListQuery, OAuthAccount, UpdateCommand
from calendars.v1 import calendar_service_pb2 as pb
from tests.unit.convert.calls import wrong

# Connect


def caldav(**fields: object) -> pb.ConnectRequest:
    account = {
        "preset": "CALDAV_PRESET_CUSTOM",
        "username": "anna",
        "password": "pw",
        "server_url": "https://dav.example",
    }
    return pb.ConnectRequest(caldav={**account, **fields})


def wrong_connect(request: pb.ConnectRequest) -> set[str]:
    return wrong(lambda: convert.connect_command(request))


def test_a_caldav_account_is_read() -> None:
    request = pb.ConnectRequest(
        caldav={
            "preset": "CALDAV_PRESET_NEXTCLOUD",
            "username": "ä",
            "password": "p",
            "server_url": "https://c.example/x",
        },
        owner="o",
        connection_id="cal_1",
        client_state="s",
    )
    account = CaldavAccount(Preset.NEXTCLOUD, "ä", "p", "https://c.example/x")
    assert convert.connect_command(request) == ConnectCommand(account, "o", ConnectionId("cal_1"), "s")


def test_a_google_account_is_read() -> None:
    request = pb.ConnectRequest(google={"redirect_uri": "https://app.example/done?x=1"})
    account = OAuthAccount(ProviderName.GOOGLE, "https://app.example/done?x=1")
    assert convert.connect_command(request) == ConnectCommand(account)


@pytest.mark.parametrize(("told", "read"), [("", "common"), ("contoso.com", "contoso.com")])
def test_a_microsoft_account_is_read(told: str, read: str) -> None:
    request = pb.ConnectRequest(microsoft={"redirect_uri": "https://app.example/done", "tenant": told})
    account = OAuthAccount(ProviderName.MICROSOFT, "https://app.example/done", read)
    assert convert.connect_command(request) == ConnectCommand(account)


def test_no_account_is_named() -> None:
    assert wrong_connect(pb.ConnectRequest(owner="o")) == {"account"}


def test_an_empty_caldav_account_is_named_field_by_field() -> None:
    assert wrong_connect(pb.ConnectRequest(caldav={})) == {"caldav.preset", "caldav.username", "caldav.password"}


def test_everything_wrong_with_a_connect_is_named_at_once() -> None:
    request = pb.ConnectRequest(
        caldav={"preset": 77, "username": "\x00", "password": "p" * 1025, "server_url": "ftp://x"},
        owner="o" * 257,
        connection_id="\n",
        client_state="s" * 513,
    )
    assert wrong_connect(request) == {
        "caldav.preset",
        "caldav.username",
        "caldav.password",
        "caldav.server_url",
        "owner",
        "connection_id",
        "client_state",
    }


@pytest.mark.parametrize("preset", ["NEXTCLOUD", "CUSTOM"])
def test_a_preset_without_an_address_of_its_own_needs_one(preset: str) -> None:
    assert wrong_connect(caldav(preset=f"CALDAV_PRESET_{preset}", server_url="")) == {"caldav.server_url"}


@pytest.mark.parametrize("preset", ["APPLE", "FASTMAIL"])
def test_a_preset_with_an_address_of_its_own_takes_no_other(preset: str) -> None:
    assert wrong_connect(caldav(preset=f"CALDAV_PRESET_{preset}")) == {"caldav.server_url"}


@pytest.mark.parametrize("preset", ["APPLE", "FASTMAIL"])
def test_a_preset_with_an_address_of_its_own_needs_none(preset: str) -> None:
    assert wrong_connect(caldav(preset=f"CALDAV_PRESET_{preset}", server_url="")) == set()


@pytest.mark.parametrize(
    "url",
    [
        "https://dav.example.com",
        "https://dav.example.com:8443/remote.php/dav/",
        "http://127.0.0.1:5232/",
        "http://[::1]:5232/anna/work/",
        "HTTPS://DAV.EXAMPLE.COM/",
        "https://dav.example.com/a%20b/",
    ],
)
def test_a_server_url_is_taken(url: str) -> None:
    assert wrong_connect(caldav(server_url=url)) == set()


@pytest.mark.parametrize(
    "url",
    [
        "dav.example.com",
        "//dav.example.com/",
        "https://",
        "https:///dav",
        "ftp://dav.example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://anna:pw@dav.example.com/",
        "https://anna@dav.example.com/",
        "https://@dav.example.com/",
        "https://dav.example.com/?a=b",
        "https://dav.example.com/?",
        "https://dav.example.com/#work",
        "https://dav.example.com/#",
        "https://dav.example.com:99999/",
        "https://dav.example.com:port/",
        "https://dav.example.com\\@evil.example/",
        "https://dav.exa\nmple.com/",
        "https://dav.example.com/\x00",
        " https://dav.example.com/",
        "https://dav.example.com/" + "x" * 2048,
    ],
)
def test_a_server_url_that_could_mislead_is_refused(url: str) -> None:
    assert wrong_connect(caldav(server_url=url)) == {"caldav.server_url"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://anna:pw@dav.example.com/", "user name or password"),
        ("https://dav.example.com/?a=b", "query"),
        ("https://dav.example.com/#work", "fragment"),
        ("https://dav.example.com/\x00", "control characters"),
    ],
)
def test_a_wrong_server_url_is_told_what_is_wrong_with_it(url: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        convert.connect_command(caldav(server_url=url))


def test_a_forbidden_scheme_has_the_text_of_a_forbidden_address() -> None:
    with pytest.raises(ValidationError) as raised:
        convert.connect_command(caldav(server_url="gopher://dav.example.com/"))
    assert [violation.description for violation in raised.value.violations] == [
        "The server's address is not one that this service may reach."
    ]


@pytest.mark.parametrize(
    "uri", ["", "app.example/done", "javascript:alert(1)", "https://app.example/#x", "https:///x", "https://a b/"]
)
def test_a_redirect_uri_is_an_absolute_address_without_fragment(uri: str) -> None:
    assert wrong_connect(pb.ConnectRequest(google={"redirect_uri": uri})) == {"google.redirect_uri"}


@pytest.mark.parametrize("tenant", ["../common", "a/b", "a b", "-x", "ü"])
def test_a_tenant_cannot_leave_its_place_in_the_path(tenant: str) -> None:
    request = pb.ConnectRequest(microsoft={"redirect_uri": "https://app.example/", "tenant": tenant})
    assert wrong_connect(request) == {"microsoft.tenant"}


# List


def test_an_empty_list_request_asks_for_the_first_page_of_all() -> None:
    assert convert.list_query(pb.ListRequest()) == ListQuery(page_size=50)


@pytest.mark.parametrize(("told", "read"), [(0, 50), (1, 1), (200, 200), (201, 200), (2**31 - 1, 200)])
def test_a_page_size_that_is_too_large_is_lowered(told: int, read: int) -> None:
    assert convert.list_query(pb.ListRequest(page_size=told)).page_size == read


def test_a_negative_page_size_is_refused() -> None:
    assert wrong(lambda: convert.list_query(pb.ListRequest(page_size=-1))) == {"page_size"}


def test_an_owner_that_is_present_and_empty_is_not_any_owner() -> None:
    assert (convert.list_query(pb.ListRequest(owner="")).owner, convert.list_query(pb.ListRequest()).owner) == (
        "",
        None,
    )


def test_filters_are_read() -> None:
    request = pb.ListRequest(
        ids=["b", "a", "b"],
        owner="o",
        provider="PROVIDER_CALDAV",
        status="CONNECTION_STATUS_NEEDS_REAUTH",
        page_token="t",
    )
    assert convert.list_query(request) == ListQuery(
        50, "t", (ConnectionId("b"), ConnectionId("a")), "o", ProviderName.CALDAV, ConnectionStatus.NEEDS_REAUTH
    )


def test_everything_wrong_with_a_list_is_named_at_once() -> None:
    request = pb.ListRequest(
        page_size=-5, page_token="\x00", ids=["a", "", "c" * 257], owner="\x07", provider=99, status=-1
    )
    assert wrong(lambda: convert.list_query(request)) == {
        "page_size",
        "page_token",
        "ids[1]",
        "ids[2]",
        "owner",
        "provider",
        "status",
    }


def test_a_list_that_is_too_long_is_named_itself() -> None:
    assert wrong(lambda: convert.list_query(pb.ListRequest(ids=[""] * 101))) == {"ids"}


# Ids


@pytest.mark.parametrize(
    ("read", "field"),
    [
        (lambda text: convert.disconnect_id(pb.DisconnectRequest(id=text)), "id"),
        (lambda text: convert.list_calendars_id(pb.ListCalendarsRequest(connection_id=text)), "connection_id"),
        (lambda text: convert.get_booking_id(pb.GetBookingRequest(id=text)), "id"),
        (lambda text: convert.update_command(pb.UpdateConnectionRequest(id=text)), "id"),
    ],
)
@pytest.mark.parametrize("text", ["", "x" * 257, "a\x00", "a\n"])
def test_an_id_is_required_and_bounded(read: Callable[[str], object], field: str, text: str) -> None:
    assert wrong(lambda: read(text)) == {field}


def test_an_id_of_no_known_form_is_left_to_be_unknown() -> None:
    assert convert.disconnect_id(pb.DisconnectRequest(id="../../日本")) == "../../日本"


# UpdateConnection


def update(**fields: object) -> UpdateCommand:
    return convert.update_command(pb.UpdateConnectionRequest(**{"id": "cal_1", **fields}))  # type: ignore[arg-type]


def test_without_a_mask_the_populated_fields_are_meant() -> None:
    assert update(calendar_id="c") == UpdateCommand(ConnectionId("cal_1"), CalendarId("c"), None)


def test_with_a_mask_only_its_fields_are_meant() -> None:
    command = update(calendar_id="c", busy_calendar_ids=["d"], update_mask=FieldMask(paths=["busy_calendar_ids"]))
    assert command == UpdateCommand(ConnectionId("cal_1"), None, (CalendarId("d"),))


def test_an_empty_choice_under_the_mask_means_that_none_blocks() -> None:
    assert update(update_mask=FieldMask(paths=["busy_calendar_ids"])).busy_calendar_ids == ()


def test_an_empty_mask_is_no_mask() -> None:
    assert update(busy_calendar_ids=["d", "d"], update_mask=FieldMask()).busy_calendar_ids == ("d",)


def test_nothing_to_change_is_no_error() -> None:
    assert update() == UpdateCommand(ConnectionId("cal_1"))


def test_a_connection_cannot_be_left_without_a_target() -> None:
    assert wrong(lambda: update(update_mask=FieldMask(paths=["calendar_id"]))) == {"calendar_id"}


@pytest.mark.parametrize("path", ["*", "owner", "calendarId", "id", ""])
def test_a_mask_names_only_what_can_change(path: str) -> None:
    assert wrong(lambda: update(update_mask=FieldMask(paths=["busy_calendar_ids", path]))) == {"update_mask.paths[1]"}


def test_the_calendars_that_block_are_bounded() -> None:
    assert wrong(lambda: update(busy_calendar_ids=[str(n) for n in range(101)])) == {"busy_calendar_ids"}
