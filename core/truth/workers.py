"""Which workers are alive: each announces itself again and again, and is gone when its announcement runs out."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from core.truth.clock import from_now, now
from core.truth.records import WorkerRecord
from core.truth.tables import workers

Kind = Literal["distillation", "inference"]


def announce(
    connection: Connection, worker_id: str, kind: Kind, url: str, info: dict[str, Any], ttl_seconds: float
) -> None:
    """Alive for `ttl_seconds` from now by the database's clock; `info` is for whoever looks for a worker."""
    values = {"id": worker_id, "kind": kind, "url": url, "info": info, "expires_at": from_now(ttl_seconds)}
    changes = {name: value for name, value in values.items() if name != "id"}
    if connection.dialect.name == "postgresql":
        connection.execute(
            postgresql.insert(workers).values(values).on_conflict_do_update(index_elements=["id"], set_=changes)
        )
    else:
        connection.execute(
            sqlite.insert(workers).values(values).on_conflict_do_update(index_elements=["id"], set_=changes)
        )


def withdraw(connection: Connection, worker_id: str) -> None:
    """A planned goodbye; of an unknown worker nothing happens."""
    connection.execute(delete(workers).where(workers.c.id == worker_id))


def alive(connection: Connection, kind: Kind) -> list[WorkerRecord]:
    rows = connection.execute(
        select(workers).where(workers.c.kind == kind, workers.c.expires_at > now()).order_by(workers.c.id)
    )
    return [WorkerRecord(**row._mapping) for row in rows]


def forget_expired(connection: Connection, older_than_seconds: float) -> int:
    """Removes the rows of workers that have been gone for so long; returns how many."""
    return connection.execute(delete(workers).where(workers.c.expires_at < from_now(-older_than_seconds))).rowcount
