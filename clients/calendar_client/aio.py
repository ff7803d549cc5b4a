"""The client for asyncio: the calls of ``client.py``, to be awaited.

Made by ``generate_aio.py`` from ``client.py``; change that one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from datetime import datetime, timedelta
from types import TracebackType
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from calendar_client import requests, watching, watching_aio
from calendar_client.channel import DEFAULT_ADDRESS, SERVICE, Target, TlsOptions
from calendar_client.errors import Details, NoConnections, from_rpc_error
from calendars.v1 import calendar_service_pb2, connection_pb2

AnswerT = TypeVar("AnswerT", bound=Message)


class CalendarClient:
    """A connection to the service. For one event loop; use it as a context manager, or ``close()`` it.

    ::

        async with CalendarClient("127.0.0.1:50051", api_key=key) as client:
            async for connection in client.list():
                print(connection.id, connection.account_email)

    Methods take Python values and answer the generated messages of ``calendars.v1``. Instants are ``datetime`` with a
    time zone (one without raises ``ValueError``), lengths of time ``timedelta``, enums lower-case words such as
    ``"caldav"`` or the generated values. Lists of ids and ``owner`` go together as the service says: one or the other,
    or neither for the connections without owner.

    Every method raises ``CalendarServiceError`` and its subclasses (see ``calendar_client.errors``), and takes
    ``timeout_s``, the deadline in seconds for all attempts together. By default it is 10 s for ``list``, ``list_page``
    (each page), ``disconnect`` and ``get_booking``; 20 s for ``connect_…``, ``get_busy``, ``list_calendars`` and
    ``update_connection``; the wait + 5 s for ``sync_booking``, 15 s more with ``require_free``.
    UNAVAILABLE is tried three times in that time, but for ``connect_…``.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        api_key: str = "",
        *,
        tls: TlsOptions | None = None,
        plaintext: bool = False,
        timeout_s: float | None = None,
    ):
        """Nothing is sent before the first call.

        ``api_key`` empty: calls go without one, and all but health and reflection will be refused. ``tls`` None is for
        this machine only: to any other address it raises ``ValueError``, for the key would travel readable;
        ``plaintext`` allows that, say inside a network that encrypts by itself. ``timeout_s`` replaces the default
        deadlines.
        """
        target = Target.of(address, api_key, tls, plaintext)
        self.address = address
        self._timeout_s = timeout_s
        self._metadata = target.metadata
        if target.credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=target.options)
        else:
            self._channel = grpc.aio.secure_channel(address, target.credentials, options=target.options)

    def __repr__(self) -> str:
        return f"CalendarClient({self.address!r})"

    async def __aenter__(self) -> CalendarClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; calls in progress end with an error. A repeat does nothing."""
        await self._channel.close()

    # Connections

    async def connect_caldav(
        self,
        *,
        preset: str | int,
        username: str,
        password: str,
        server_url: str = "",
        owner: str = "",
        connection_id: str = "",
        timeout_s: float | None = None,
    ) -> connection_pb2.Connection:
        """Connect an account on a CalDAV server. The credentials are proved before the answer.

        ``preset`` is apple, fastmail, nextcloud or custom; the last two need ``server_url``, the first two refuse one.
        ``connection_id`` renews that connection. Raises ``Conflict`` when the account is connected and active,
        ``ProviderRefused`` with its ``cause`` when the server refuses.
        """
        request = requests.connect_caldav(
            preset=preset,
            username=username,
            password=password,
            server_url=server_url,
            owner=owner,
            connection_id=connection_id,
        )
        return (await self._connect(request, timeout_s)).connection

    async def connect_google(
        self,
        *,
        redirect_uri: str,
        owner: str = "",
        connection_id: str = "",
        client_state: str = "",
        timeout_s: float | None = None,
    ) -> str:
        """Begin to connect a Google account: the answer is the page to open in the person's browser, within 10 minutes.

        The browser ends at ``redirect_uri``, with ``client_state``. Confirm with ``list(ids=…)``.
        """
        request = requests.connect_google(
            redirect_uri=redirect_uri, owner=owner, connection_id=connection_id, client_state=client_state
        )
        return (await self._connect(request, timeout_s)).authorization_url

    async def connect_microsoft(
        self,
        *,
        redirect_uri: str,
        tenant: str = "",
        owner: str = "",
        connection_id: str = "",
        client_state: str = "",
        timeout_s: float | None = None,
    ) -> str:
        """Begin to connect a Microsoft account, like ``connect_google``. ``tenant`` empty: ``common``."""
        request = requests.connect_microsoft(
            redirect_uri=redirect_uri,
            tenant=tenant,
            owner=owner,
            connection_id=connection_id,
            client_state=client_state,
        )
        return (await self._connect(request, timeout_s)).authorization_url

    async def _connect(
        self, request: calendar_service_pb2.ConnectRequest, timeout_s: float | None
    ) -> calendar_service_pb2.ConnectResponse:
        return await self._call(
            "Connect", request, calendar_service_pb2.ConnectResponse, timeout_s, requests.PROVIDER_S
        )

    async def list_page(
        self,
        *,
        page_size: int = 0,
        page_token: str = "",
        ids: Iterable[str] = (),
        owner: str | None = None,
        provider: str | int | None = None,
        status: str | int | None = None,
        timeout_s: float | None = None,
    ) -> calendar_service_pb2.ListResponse:
        """One page of connections, newest first. ``page_size`` 0: 50; ``owner`` empty: those without one, None: any."""
        request = requests.list_connections(
            page_size=page_size, page_token=page_token, ids=ids, owner=owner, provider=provider, status=status
        )
        return await self._call("List", request, calendar_service_pb2.ListResponse, timeout_s, requests.STORED_S)

    async def list(
        self,
        *,
        page_size: int = 0,
        ids: Iterable[str] = (),
        owner: str | None = None,
        provider: str | int | None = None,
        status: str | int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[connection_pb2.Connection]:
        """All connections, newest first; filters as in ``list_page``. Pages are asked for as they are needed."""
        ids = requests.several(ids, "ids")
        token = ""
        while True:
            page = await self.list_page(
                page_size=page_size,
                page_token=token,
                ids=ids,
                owner=owner,
                provider=provider,
                status=status,
                timeout_s=timeout_s,
            )
            for each in page.data:
                yield each
            token = page.next_page_token
            if not token:
                return

    async def disconnect(self, id: str, *, timeout_s: float | None = None) -> calendar_service_pb2.DisconnectResponse:
        """End a connection and forget its secrets. Events already written stay. A repeat answers the same."""
        request = calendar_service_pb2.DisconnectRequest(id=id)
        return await self._call(
            "Disconnect", request, calendar_service_pb2.DisconnectResponse, timeout_s, requests.STORED_S
        )

    async def list_calendars(
        self, connection_id: str, *, timeout_s: float | None = None
    ) -> calendar_service_pb2.ListCalendarsResponse:
        """The calendars inside one connection, read from the provider now."""
        request = calendar_service_pb2.ListCalendarsRequest(connection_id=connection_id)
        return await self._call(
            "ListCalendars", request, calendar_service_pb2.ListCalendarsResponse, timeout_s, requests.PROVIDER_S
        )

    async def update_connection(
        self,
        id: str,
        *,
        calendar_id: str | None = None,
        busy_calendar_ids: Iterable[str] | None = None,
        timeout_s: float | None = None,
    ) -> connection_pb2.Connection:
        """Choose the calendar that receives bookings and those that block. None leaves a choice as it is.

        An empty ``busy_calendar_ids`` means that none blocks. Raises ``ValueError`` when there is nothing to change.
        """
        request = requests.update_connection(id=id, calendar_id=calendar_id, busy_calendar_ids=busy_calendar_ids)
        return await self._call("UpdateConnection", request, connection_pb2.Connection, timeout_s, requests.PROVIDER_S)

    # Availability

    async def get_busy(
        self,
        connection_ids: Iterable[str] | None = None,
        owner: str | None = None,
        *,
        start: datetime,
        end: datetime,
        max_staleness: timedelta | None = None,
        exclude_booking_ids: Iterable[str] = (),
        ignore_tentative: bool = False,
        allow_partial: bool = False,
        view: str | int = "merged",
        allow_empty: bool = False,
        timeout_s: float | None = None,
    ) -> calendar_service_pb2.GetBusyResponse:
        """When the connections are busy between ``start`` (inclusive) and ``end`` (exclusive).

        ``view`` is merged, per_calendar or explained. A calendar that cannot be read fails the call, with all of them
        in ``busy_failures``; with ``allow_partial`` look at ``complete`` and at each calendar's state. Raises
        ``NoConnections`` when no calendar was asked (no connection, or none that blocks), unless ``allow_empty``:
        nothing known is not the same as free.
        """
        request = requests.get_busy(
            connection_ids=connection_ids,
            owner=owner,
            start=start,
            end=end,
            max_staleness=max_staleness,
            exclude_booking_ids=exclude_booking_ids,
            ignore_tentative=ignore_tentative,
            allow_partial=allow_partial,
            view=view,
        )
        answer = await self._call(
            "GetBusy", request, calendar_service_pb2.GetBusyResponse, timeout_s, requests.PROVIDER_S
        )
        return answer if allow_empty else _asked(answer)

    def watch_busy(
        self,
        connection_ids: Iterable[str] | None = None,
        owner: str | None = None,
        *,
        start: datetime,
        end: datetime,
        max_staleness: timedelta | None = None,
        exclude_booking_ids: Iterable[str] = (),
        ignore_tentative: bool = False,
        allow_partial: bool = False,
        view: str | int = "merged",
        allow_empty: bool = False,
        for_s: float | None = None,
        silence_s: float = watching.SILENCE_S,
        reconnect_s: float = watching.RECONNECT_S,
    ) -> AsyncGenerator[calendar_service_pb2.GetBusyResponse]:
        """``get_busy`` that goes on: the present answer at once, then the newest one whenever it changes.

        ::

            async for answer in client.watch_busy(start=start, end=end):
                draw(answer)

        Each answer is whole. Unchanged ones come again about every 15 s, with a newer ``as_of``. An answer that is not
        taken before the next one comes is replaced by it, so that a slow loop always sees the newest. Leaving the loop
        (or ``aclose()`` of the generator) ends the stream; ``for_s`` ends it after so many seconds (None: never).

        It raises what ``get_busy`` raises, at any time, and then the last answer counts no more: unknown is not free.
        A line that is lost (``ServiceUnreachable``, ``ServiceStopping``, ``StoreUnavailable``) is taken up again quietly,
        but only until ``reconnect_s`` seconds after the last answer, and never before the first; then that error is
        raised. Nothing heard for ``silence_s`` seconds is a lost line too. All other errors come at once.
        There is no other deadline: the client's ``timeout_s`` is not for streams.
        """
        request = requests.get_busy(
            connection_ids=connection_ids,
            owner=owner,
            start=start,
            end=end,
            max_staleness=max_staleness,
            exclude_booking_ids=exclude_booking_ids,
            ignore_tentative=ignore_tentative,
            allow_partial=allow_partial,
            view=view,
        )
        send = self._channel.unary_stream(
            f"/{SERVICE}/WatchBusy",
            request_serializer=calendar_service_pb2.GetBusyRequest.SerializeToString,
            response_deserializer=calendar_service_pb2.GetBusyResponse.FromString,
        )

        def begin(deadline_s: float | None) -> watching_aio.Call[calendar_service_pb2.GetBusyResponse]:
            call: watching_aio.Call[calendar_service_pb2.GetBusyResponse]
            call = send(request, timeout=deadline_s, metadata=self._metadata)
            return call

        answers = watching_aio.follow(begin, for_s=for_s, silence_s=silence_s, reconnect_s=reconnect_s)
        return answers if allow_empty else _each_asked(answers)

    # Bookings

    async def sync_booking(
        self,
        id: str,
        revision: int,
        *,
        status: str | int = "confirmed",
        title: str = "",
        description: str = "",
        location: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        time_zone: str = "",
        attendees: Iterable[requests.AttendeeLike] = (),
        url: str = "",
        connection_ids: Iterable[str] | None = None,
        owner: str | None = None,
        require_free: bool = False,
        wait: timedelta | None = None,
        timeout_s: float | None = None,
    ) -> calendar_service_pb2.SyncBookingResponse:
        """Make the calendars show the wanted state of a booking. An answer means that it is on disk and will be done.

        ``status`` is confirmed (needs ``start`` and ``end``, whole seconds) or cancelled (the rest may be left out and
        is kept). ``revision`` grows with each change. ``attendees`` are text for the calendar's owner: e-mail
        addresses, ``(address, name)`` or messages; nobody is invited. ``wait`` None: up to 5 s until no event is
        PENDING. Raises ``SlotTaken`` when the span is ``require_free`` and is not. A repeat is harmless.
        """
        request = requests.sync_booking(
            id=id,
            revision=revision,
            status=status,
            title=title,
            description=description,
            location=location,
            start=start,
            end=end,
            time_zone=time_zone,
            attendees=attendees,
            url=url,
            connection_ids=connection_ids,
            owner=owner,
            require_free=require_free,
            wait=wait,
        )
        default_s = requests.sync_booking_s(wait, require_free)
        return await self._call("SyncBooking", request, calendar_service_pb2.SyncBookingResponse, timeout_s, default_s)

    async def get_booking(self, id: str, *, timeout_s: float | None = None) -> calendar_service_pb2.GetBookingResponse:
        """The newest revision of a booking, and where it stands in each calendar."""
        request = calendar_service_pb2.GetBookingRequest(id=id)
        return await self._call(
            "GetBooking", request, calendar_service_pb2.GetBookingResponse, timeout_s, requests.STORED_S
        )

    async def _call(
        self, rpc: str, request: Message, answer: type[AnswerT], timeout_s: float | None, default_s: float
    ) -> AnswerT:
        """Send one request. The deadline is the call's, else the client's, else the default."""
        deadline_s = next(each for each in (timeout_s, self._timeout_s, default_s) if each is not None)
        send = self._channel.unary_unary(
            f"/{SERVICE}/{rpc}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            received: AnswerT = await send(request, timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        return received


async def _each_asked(
    answers: AsyncGenerator[calendar_service_pb2.GetBusyResponse],
) -> AsyncGenerator[calendar_service_pb2.GetBusyResponse]:
    async with aclosing(answers):
        async for answer in answers:
            yield _asked(answer)


def _asked(answer: calendar_service_pb2.GetBusyResponse) -> calendar_service_pb2.GetBusyResponse:
    """The answer, if any calendar was asked. Raises ``NoConnections``: nothing known is not the same as free."""
    if answer.calendars:
        return answer
    raise NoConnections(
        "No calendar was asked: there is no such connection, or none of its calendars blocks.",
        Details(code=grpc.StatusCode.OK),
    )
