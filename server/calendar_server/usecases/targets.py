"""Which connections a call is about."""

from __future__ import annotations

from calendar_server.core.model import Connection, OrganizationId
from calendar_server.errors import NotFound
from calendar_server.store.store import Store
from calendar_server.usecases.commands import Target


def resolve(store: Store, organization_id: OrganizationId, target: Target) -> list[Connection]:
    """The live connections of a target, in the order given; those of an owner oldest first.

    Raises ``NotFound`` for the whole call when an id is unknown, disconnected or another organization's.
    """
    if not target.connection_ids:
        return store.connections.of_owner(organization_id, target.owner)
    found = {
        connection.id: connection for connection in store.connections.get_many(organization_id, target.connection_ids)
    }
    missing = [connection_id for connection_id in target.connection_ids if connection_id not in found]
    if missing:
        raise NotFound(f"There is no connection {missing[0]}. List shows the ones there are.")
    return [found[connection_id] for connection_id in dict.fromkeys(target.connection_ids)]
