# mypy: disable-error-code="type-arg"
import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Provider(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROVIDER_UNSPECIFIED: _ClassVar[Provider]
    PROVIDER_GOOGLE: _ClassVar[Provider]
    PROVIDER_MICROSOFT: _ClassVar[Provider]
    PROVIDER_CALDAV: _ClassVar[Provider]

class CaldavPreset(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CALDAV_PRESET_UNSPECIFIED: _ClassVar[CaldavPreset]
    CALDAV_PRESET_APPLE: _ClassVar[CaldavPreset]
    CALDAV_PRESET_FASTMAIL: _ClassVar[CaldavPreset]
    CALDAV_PRESET_NEXTCLOUD: _ClassVar[CaldavPreset]
    CALDAV_PRESET_CUSTOM: _ClassVar[CaldavPreset]

class ConnectionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONNECTION_STATUS_UNSPECIFIED: _ClassVar[ConnectionStatus]
    CONNECTION_STATUS_ACTIVE: _ClassVar[ConnectionStatus]
    CONNECTION_STATUS_NEEDS_REAUTH: _ClassVar[ConnectionStatus]

class SyncStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SYNC_STATUS_UNSPECIFIED: _ClassVar[SyncStatus]
    SYNC_STATUS_CONNECTED: _ClassVar[SyncStatus]
    SYNC_STATUS_EXPIRED: _ClassVar[SyncStatus]
    SYNC_STATUS_ERROR: _ClassVar[SyncStatus]
PROVIDER_UNSPECIFIED: Provider
PROVIDER_GOOGLE: Provider
PROVIDER_MICROSOFT: Provider
PROVIDER_CALDAV: Provider
CALDAV_PRESET_UNSPECIFIED: CaldavPreset
CALDAV_PRESET_APPLE: CaldavPreset
CALDAV_PRESET_FASTMAIL: CaldavPreset
CALDAV_PRESET_NEXTCLOUD: CaldavPreset
CALDAV_PRESET_CUSTOM: CaldavPreset
CONNECTION_STATUS_UNSPECIFIED: ConnectionStatus
CONNECTION_STATUS_ACTIVE: ConnectionStatus
CONNECTION_STATUS_NEEDS_REAUTH: ConnectionStatus
SYNC_STATUS_UNSPECIFIED: SyncStatus
SYNC_STATUS_CONNECTED: SyncStatus
SYNC_STATUS_EXPIRED: SyncStatus
SYNC_STATUS_ERROR: SyncStatus

class GoogleAccount(_message.Message):
    __slots__ = ("redirect_uri",)
    REDIRECT_URI_FIELD_NUMBER: _ClassVar[int]
    redirect_uri: str
    def __init__(self, redirect_uri: _Optional[str] = ...) -> None: ...

class MicrosoftAccount(_message.Message):
    __slots__ = ("redirect_uri", "tenant")
    REDIRECT_URI_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    redirect_uri: str
    tenant: str
    def __init__(self, redirect_uri: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class CaldavAccount(_message.Message):
    __slots__ = ("preset", "username", "password", "server_url")
    PRESET_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    PASSWORD_FIELD_NUMBER: _ClassVar[int]
    SERVER_URL_FIELD_NUMBER: _ClassVar[int]
    preset: CaldavPreset
    username: str
    password: str
    server_url: str
    def __init__(self, preset: _Optional[_Union[CaldavPreset, str]] = ..., username: _Optional[str] = ..., password: _Optional[str] = ..., server_url: _Optional[str] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ("id", "provider", "calendar_id", "account_email", "connected_at", "status", "last_sync_at", "sync_status", "sync_error", "owner", "busy_calendar_ids")
    ID_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    CALENDAR_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_EMAIL_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_AT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LAST_SYNC_AT_FIELD_NUMBER: _ClassVar[int]
    SYNC_STATUS_FIELD_NUMBER: _ClassVar[int]
    SYNC_ERROR_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    BUSY_CALENDAR_IDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    provider: Provider
    calendar_id: str
    account_email: str
    connected_at: _timestamp_pb2.Timestamp
    status: ConnectionStatus
    last_sync_at: _timestamp_pb2.Timestamp
    sync_status: SyncStatus
    sync_error: str
    owner: str
    busy_calendar_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., provider: _Optional[_Union[Provider, str]] = ..., calendar_id: _Optional[str] = ..., account_email: _Optional[str] = ..., connected_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., status: _Optional[_Union[ConnectionStatus, str]] = ..., last_sync_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sync_status: _Optional[_Union[SyncStatus, str]] = ..., sync_error: _Optional[str] = ..., owner: _Optional[str] = ..., busy_calendar_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Calendar(_message.Message):
    __slots__ = ("id", "name", "time_zone", "primary", "writable", "blocks", "color")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_ZONE_FIELD_NUMBER: _ClassVar[int]
    PRIMARY_FIELD_NUMBER: _ClassVar[int]
    WRITABLE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    COLOR_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    time_zone: str
    primary: bool
    writable: bool
    blocks: bool
    color: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., time_zone: _Optional[str] = ..., primary: _Optional[bool] = ..., writable: _Optional[bool] = ..., blocks: _Optional[bool] = ..., color: _Optional[str] = ...) -> None: ...
