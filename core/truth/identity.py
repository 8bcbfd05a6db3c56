"""Which truth a database holds: an id of its own, which a backup carries along, whatever server it is restored to."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from core.ids import new_id
from core.truth.clock import now
from core.truth.database import exclusive
from core.truth.tables import identity


def identity_of(connection: Connection) -> str:
    """The truth's id, made when it is first asked for; in a transaction that may write."""
    exclusive(connection, "identity")
    found = connection.execute(select(identity.c.id).order_by(identity.c.created_at).limit(1)).scalar_one_or_none()
    if found is not None:
        return str(found)
    made = new_id("truth")
    connection.execute(insert(identity).values(id=made, created_at=now()))
    return made
