"""Connections: made, renewed, listed, chosen, ended."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from calendar_server.core.model import (
    Calendar,
    Connection,
    ConnectionId,
    ConnectionStatus,
    Instant,
    OrganizationId,
    Preset,
    ProviderName,
    SyncStatus,
)
from calendar_server.errors import (
    AccountMismatch,
    CalendarError,
    CalendarReadOnly,
    Conflict,
    ForbiddenDestination,
    NotFound,
    ProviderUnavailable,
    ValidationError,
    Violation,
)
from calendar_server.providers.base import Account, Deadline, Provider, Secret
from calendar_server.providers.google import calendar_key
from calendar_server.store.store import AlreadyThere, Store
from calendar_server.usecases.attempts import Attempts, attempt_key
from calendar_server.usecases.caller import Caller
from calendar_server.usecases.commands import (
    AuthorizationUrl,
    CaldavAccount,
    ConnectCommand,
    ConnectionPage,
    ListedCalendar,
    ListQuery,
    OAuthAccount,
    UpdateCommand,
)
from calendar_server.usecases.grants import Grants, disconnected
from calendar_server.vault import Vault, VaultError

_log = logging.getLogger(__name__)

ANSWER_S = 0.2
"""Seconds of the caller's deadline that are kept for storing and answering."""
SETTLES_MOST = 5
"""Times an account is looked up anew when others connect and disconnect it at the same moment."""
REVOKE_S = 5.0
"""Seconds that Disconnect waits for a provider to revoke a grant."""


class ConnectsCaldav(Protocol):
    """The part of the CalDAV provider that makes accounts of credentials."""

    def connect(
        self, *, preset: Preset, username: str, password: str, server_url: str, deadline: Deadline
    ) -> tuple[Account, Secret]: ...


class Begins(Protocol):
    """Begins OAuth connections (``Authorizations``)."""

    def begin(self, caller: Caller, command: ConnectCommand, account: OAuthAccount) -> AuthorizationUrl: ...


class Revokes(Protocol):
    """Ends a grant at its provider."""

    def revoke(self, secret: Secret, deadline: Deadline) -> None: ...


class Ends(Protocol):
    """Ends what providers tell us of a connection (``Watches``)."""

    def end(self, connection: Connection) -> None: ...


class Connections:
    """What callers do with connections. ``wake`` tells the worker that pushes have become due."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        grants: Grants,
        providers: Mapping[ProviderName, Provider],
        caldav: ConnectsCaldav,
        authorizations: Begins,
        revokers: Mapping[ProviderName, Revokes],
        watches: Ends,
        *,
        call_s: float,
        wake: Callable[[], None],
        attempts: Attempts | None = None,
    ):
        self._store = store
        self._vault = vault
        self._grants = grants
        self._providers = providers
        self._caldav = caldav
        self._authorizations = authorizations
        self._revokers = revokers
        self._watches = watches
        self._call_s = call_s
        self._wake = wake
        self._attempts = attempts or Attempts()

    def connect(self, caller: Caller, command: ConnectCommand) -> Connection | AuthorizationUrl:
        """Connect CalDAV at once, or begin an OAuth connection. Nothing is stored before the credentials are proved."""
        if command.connection_id:
            self._check_renewable(caller.organization_id, command)
        if isinstance(command.account, OAuthAccount):
            return self._authorizations.begin(caller, command, command.account)
        return self._connect_caldav(caller, command, command.account)

    def _check_renewable(self, organization_id: OrganizationId, command: ConnectCommand) -> None:
        """What can be said of a renewal before its credentials are proved; whose account it is comes after that."""
        connection = self._get(organization_id, command.connection_id)
        if command.owner and command.owner != connection.owner:
            raise ValidationError(
                [Violation("owner", "must be empty or the connection's own when `connection_id` is given")]
            )
        if isinstance(command.account, OAuthAccount) and connection.provider is not command.account.provider:
            # Known before the person is sent to a consent page that cannot help.
            raise AccountMismatch(
                f"The connection {connection.id} is not one of {command.account.provider}. "
                "Renew it with its own provider."
            )

    def _connect_caldav(self, caller: Caller, command: ConnectCommand, caldav: CaldavAccount) -> Connection:
        deadline = self._deadline(caller)
        key = attempt_key(caller.organization_id, caldav.preset, caldav.server_url, caldav.username)
        try:
            with self._attempts.counted(key, deadline):
                account, secret = self._caldav.connect(
                    preset=caldav.preset,
                    username=caldav.username,
                    password=caldav.password,
                    server_url=caldav.server_url,
                    deadline=deadline,
                )
        except ForbiddenDestination as error:
            raise ValidationError([Violation("caldav.server_url", error.message)]) from error
        return self.settle(
            caller.organization_id,
            ProviderName.CALDAV,
            account,
            secret,
            owner=command.owner,
            connection_id=command.connection_id,
        )

    def settle(
        self,
        organization_id: OrganizationId,
        provider: ProviderName,
        account: Account,
        secret: Secret,
        *,
        owner: str,
        connection_id: ConnectionId,
    ) -> Connection:
        """Store a proved account: a new connection, or the renewal of the one that it already has.

        Raises ``Conflict`` when it is connected and active, ``AccountMismatch`` when ``connection_id`` (empty: none) is
        another account's, ``NotFound`` when that is not there any more.
        """
        if connection_id:
            owner = self._get(organization_id, connection_id).owner
        for _ in range(SETTLES_MOST):
            try:
                with self._store.transaction():
                    connection = self._store_account(organization_id, owner, connection_id, provider, account, secret)
            except AlreadyThere:
                # An equal Connect won the race between our look and our insert. Look again.
                continue
            self._wake()
            return connection
        raise ProviderUnavailable("This account is connected and disconnected at the moment. Try again.")

    def _store_account(
        self,
        organization_id: OrganizationId,
        owner: str,
        connection_id: ConnectionId,
        provider: ProviderName,
        account: Account,
        secret: Secret,
    ) -> Connection:
        connections = self._store.connections
        if connection_id:
            target = connections.get_for_update(organization_id, connection_id)
            if target is None:
                raise disconnected()
            if target.provider is not provider or target.subject != account.subject:
                raise AccountMismatch(
                    f"Another account signed in than that of the connection {target.id}. "
                    "Use that account's, or connect this one without `connection_id`."
                )
            return self._renew(target, account, secret)
        holder = connections.by_subject(organization_id, owner, provider, account.subject)
        if holder is not None:
            # Locked, then looked at: of two renewals at once the second finds it active.
            holder = connections.get_for_update(organization_id, holder.id)
        if holder is not None:
            if holder.status is ConnectionStatus.ACTIVE:
                raise Conflict(holder.id)
            return self._renew(holder, account, secret)
        now = self._store.now()
        connection = Connection(
            id=ConnectionId(f"cal_{secrets.token_hex(12)}"),
            organization_id=organization_id,
            owner=owner,
            provider=provider,
            subject=account.subject,
            account_email=account.email,
            calendar_id=account.calendar_id,
            busy_calendar_ids=account.busy_calendar_ids,
            status=ConnectionStatus.ACTIVE,
            sync_status=SyncStatus.CONNECTED,
            sync_error=None,
            last_sync_at=now,
            connected_at=now,
            grant_version=1,
            settings=account.settings,
        )
        connections.add(connection, self._grants.seal(connection.id, secret))
        # What was cancelled while the account was disconnected can be taken out of its calendars now.
        self._store.outbox.take_over_cancelled(connection.id, now)
        return connection

    def _renew(self, connection: Connection, account: Account, secret: Secret) -> Connection:
        """New credentials for the same account. Id, ``connected_at`` and the choice of calendars stay."""
        now = self._store.now()
        self._store.connections.renew(
            connection.id,
            sealed_grant=self._grants.seal(connection.id, secret),
            account_email=account.email,
            settings=account.settings,
        )
        self._store.connections.note_success(connection.id, now, connection.grant_version + 1)
        self._store.outbox.make_due(connection.id, now)
        return self._get(connection.organization_id, connection.id)

    def list(self, caller: Caller, query: ListQuery) -> ConnectionPage:
        """A page of the organization's connections, newest first."""
        row, column = caller.organization_id, _filters(query)
        before = self._open_token(query.page_token, row, column) if query.page_token else None
        found = self._store.connections.page(
            caller.organization_id,
            ids=query.ids,
            owner=query.owner,
            provider=query.provider,
            status=query.status,
            before=before,
            limit=query.page_size + 1,
        )
        page, token = found[: query.page_size], ""
        if len(found) > query.page_size:
            last = json.dumps([page[-1].connected_at, page[-1].id])
            sealed = self._vault.seal(last, table="page_token", row=row, column=column)
            token = base64.urlsafe_b64encode(sealed.encode()).decode().rstrip("=")
        return ConnectionPage(tuple(page), token)

    def _open_token(self, token: str, row: str, column: str) -> tuple[Instant, str]:
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
            connected_at, connection_id = json.loads(
                self._vault.open(sealed, table="page_token", row=row, column=column)
            )
        except (VaultError, ValueError, binascii.Error) as error:
            raise ValidationError(
                [
                    Violation(
                        "page_token", "must be the `next_page_token` of a page that was asked for with the same filters"
                    )
                ]
            ) from error
        return connected_at, connection_id

    def disconnect(self, caller: Caller, connection_id: ConnectionId) -> None:
        """End a connection and forget its secrets. Raises ``NotFound`` when there never was one with this id.

        Its watches are stopped first, while there is a grant to do it with. Then the grant is revoked at the provider,
        where it has such a thing and no other live connection of this installation has the same account: revoking ends
        the whole grant. Whether that works or not, from the end of this no call to the provider begins.
        """
        if not self._store.connections.exists(caller.organization_id, connection_id):
            raise disconnected()
        connection = self._store.connections.get(caller.organization_id, connection_id)
        if connection is not None:
            self._watches.end(connection)
            self._revoke(connection)
        with self._store.transaction():
            now = self._store.now()
            if self._store.connections.disconnect(caller.organization_id, connection_id, now):
                self._store.outbox.detach(connection_id, now)
                self._store.mirror.keep_only(connection_id, ())
                self._store.watches.remove_connection(connection_id)

    def _revoke(self, connection: Connection) -> None:
        revoker = self._revokers.get(connection.provider)
        if revoker is None or self._store.connections.shared(connection.id):
            return
        try:
            revoker.revoke(self._grants.opened(connection), Deadline.after(REVOKE_S))
        except CalendarError as error:
            # The person can still end it in their account; we forget the secret all the same.
            _log.warning("revoke_failed", extra={"connection": connection.id, "reason": error.reason})

    def list_calendars(self, caller: Caller, connection_id: ConnectionId) -> tuple[ListedCalendar, ...]:
        """The calendars inside a connection, read from the provider now."""
        connection = self._get(caller.organization_id, connection_id)
        calendars = self._read_calendars(caller, connection)
        return tuple(ListedCalendar(calendar, calendar.id in connection.busy_calendar_ids) for calendar in calendars)

    def update(self, caller: Caller, command: UpdateCommand) -> Connection:
        """Change the choice of calendars, checked against the provider. All of it or nothing."""
        connection = self._get(caller.organization_id, command.id)
        if command.calendar_id is None and command.busy_calendar_ids is None:
            return connection
        if connection.provider is ProviderName.GOOGLE:
            command = _with_one_id_each(command, connection.account_email)
        calendars = {calendar.id: calendar for calendar in self._read_calendars(caller, connection)}
        violations = []
        if command.calendar_id is not None and command.calendar_id not in calendars:
            violations.append(Violation("calendar_id", "is not a calendar of this connection; see ListCalendars"))
        for position, busy_id in enumerate(command.busy_calendar_ids or ()):
            if busy_id not in calendars:
                violations.append(
                    Violation(
                        f"busy_calendar_ids[{position}]", "is not a calendar of this connection; see ListCalendars"
                    )
                )
        if violations:
            raise ValidationError(violations)
        if command.calendar_id is not None and not calendars[command.calendar_id].writable:
            raise CalendarReadOnly(
                "This calendar cannot be written to. Choose one that ListCalendars shows as writable.",
                metadata={"connectionId": connection.id, "calendarId": command.calendar_id},
            )
        with self._store.transaction():
            current = self._store.connections.get_for_update(caller.organization_id, command.id)
            if current is None:
                raise disconnected()
            chosen = dataclasses.replace(
                current,
                calendar_id=current.calendar_id if command.calendar_id is None else command.calendar_id,
                busy_calendar_ids=(
                    current.busy_calendar_ids if command.busy_calendar_ids is None else command.busy_calendar_ids
                ),
            )
            self._store.connections.choose(
                chosen.id, calendar_id=chosen.calendar_id, busy_calendar_ids=chosen.busy_calendar_ids
            )
            self._store.mirror.keep_only(chosen.id, chosen.busy_calendar_ids)
            self._store.watches.look_at(chosen.id, self._store.now())
        return self._get(caller.organization_id, command.id)

    def _read_calendars(self, caller: Caller, connection: Connection) -> Sequence[Calendar]:
        deadline = self._deadline(caller)
        with self._grants.use(connection) as link:
            calendars = self._providers[connection.provider].list_calendars(link, deadline)
        self._grants.went_well([connection])
        return calendars

    def _get(self, organization_id: OrganizationId, connection_id: ConnectionId) -> Connection:
        connection = self._store.connections.get(organization_id, connection_id)
        if connection is None:
            raise NotFound("There is no such connection. List shows the ones there are.")
        return connection

    def _deadline(self, caller: Caller) -> Deadline:
        if caller.deadline is None:
            return Deadline.after(self._call_s)
        return Deadline(caller.deadline.at - ANSWER_S).sooner(self._call_s)


def _with_one_id_each(command: UpdateCommand, account_email: str) -> UpdateCommand:
    """The command with Google's default calendar as `primary`, whichever of its two ids the caller used."""
    chosen, busy = command.calendar_id, command.busy_calendar_ids
    return dataclasses.replace(
        command,
        calendar_id=None if chosen is None else calendar_key(chosen, account_email),
        busy_calendar_ids=(
            None if busy is None else tuple(dict.fromkeys(calendar_key(each, account_email) for each in busy))
        ),
    )


def _filters(query: ListQuery) -> str:
    """The filters as a short text that a page token is bound to. The page size may change from page to page."""
    told = json.dumps([sorted(query.ids), query.owner, query.provider, query.status])
    return hashlib.sha256(told.encode()).hexdigest()
