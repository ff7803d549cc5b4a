"""Who calls, and until when."""

from __future__ import annotations

from dataclasses import dataclass

from calendar_server.core.model import OrganizationId
from calendar_server.providers.base import Deadline


@dataclass(frozen=True, slots=True)
class Caller:
    """The organization behind the API key, the call's deadline (None: the caller set none) and its request id."""

    organization_id: OrganizationId
    deadline: Deadline | None = None
    request_id: str = ""
