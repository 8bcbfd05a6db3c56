"""What is being forgotten, step by step, each step with its time: the record that attests it in the end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, Row, func, insert, select, update

from core.errors import NotFound
from core.ids import new_id
from core.truth.clock import now
from core.truth.pages import older_than
from core.truth.records import Deletion, DeletionKind
from core.truth.tables import deletions


def begin(
    connection: Connection,
    tenant_id: str,
    kind: DeletionKind,
    target: str,
    *,
    collection: str | None = None,
    tombstoned: bool = False,
    memories: int = 0,
) -> str:
    """A new deletion's id. `collection` is the name while its memories are still looked for."""
    deletion_id = new_id("del")
    connection.execute(
        insert(deletions).values(
            id=deletion_id,
            tenant_id=tenant_id,
            kind=kind,
            target=target,
            collection=collection,
            memories=memories,
            deleted_at=now(),
            tombstoned_at=now() if tombstoned else None,
        )
    )
    return deletion_id


def get_deletion(connection: Connection, tenant_id: str, deletion_id: str) -> Deletion:
    """Another tenant's is `NotFound`."""
    mine = (deletions.c.id == deletion_id) & (deletions.c.tenant_id == tenant_id)
    row = connection.execute(select(deletions).where(mine)).one_or_none()
    if row is None:
        raise NotFound(f"There is no deletion '{deletion_id}'.")
    return deletion_of(row)


def of_tenant(connection: Connection, tenant_id: str) -> Deletion:
    """The deletion of the tenant itself. Raises `NotFound` where it is not deleted."""
    itself = (deletions.c.tenant_id == tenant_id) & (deletions.c.kind == "tenant")
    row = connection.execute(select(deletions).where(itself)).one_or_none()
    if row is None:
        raise NotFound(f"There is no deletion of a tenant '{tenant_id}'.")
    return deletion_of(row)


def list_deletions(
    connection: Connection, tenant_id: str, *, after: str | None = None, limit: int = 20
) -> list[Deletion]:
    """Newest first; `after` is the id of the last one seen."""
    query = select(deletions).where(deletions.c.tenant_id == tenant_id)
    if after is not None:
        query = query.where(older_than(connection, deletions, tenant_id, after, deletions.c.deleted_at))
    rows = connection.execute(query.order_by(deletions.c.deleted_at.desc(), deletions.c.id.desc()).limit(limit))
    return [deletion_of(row) for row in rows]


def not_attested(connection: Connection, after: Deletion | None, limit: int) -> list[Deletion]:
    """Deletions on their way, the oldest first, those after `after`."""
    query = select(deletions).where(deletions.c.attested_at.is_(None))
    if after is not None:
        same = (deletions.c.deleted_at == after.deleted_at) & (deletions.c.id > after.id)
        query = query.where((deletions.c.deleted_at > after.deleted_at) | same)
    rows = connection.execute(query.order_by(deletions.c.deleted_at, deletions.c.id).limit(limit))
    return [deletion_of(row) for row in rows]


def oldest_seconds(connection: Connection) -> float:
    """The age of the oldest deletion that is not attested; 0 where all are."""
    oldest = select(func.min(deletions.c.deleted_at)).where(deletions.c.attested_at.is_(None)).scalar_subquery()
    row = connection.execute(select(oldest.label("oldest"), now().label("now"))).one()
    return 0.0 if row.oldest is None else max(0.0, (row.now - row.oldest).total_seconds())


def add_memories(connection: Connection, deletion_id: str, count: int) -> None:
    connection.execute(
        update(deletions).where(deletions.c.id == deletion_id).values(memories=deletions.c.memories + count)
    )


def mark_tombstoned(connection: Connection, deletion_id: str) -> None:
    """None of its memories can be served from here on; what the collection was called is needed no more."""
    _step(connection, deletion_id, "tombstoned_at", collection=None)


def mark_draining(connection: Connection) -> None:
    """From now on workers that follow the truth learn of every deletion that is tombstoned.

    The time is read after those deletions were committed; their own times are from before.
    """
    due = deletions.c.tombstoned_at.is_not(None) & deletions.c.draining_at.is_(None)
    connection.execute(update(deletions).where(due).values(draining_at=now()))


def mark_drained(connection: Connection, deletion_id: str) -> None:
    """Nothing of it is in any worker that was heard of."""
    _step(connection, deletion_id, "drained_at")


def mark_purged(connection: Connection, deletion_id: str) -> bool:
    """Neither an object nor a text in a row is left; whether that was not known before."""
    return _step(connection, deletion_id, "purged_at")


def mark_attested(connection: Connection) -> None:
    """All that are purged and drained."""
    done = deletions.c.purged_at.is_not(None) & deletions.c.drained_at.is_not(None)
    connection.execute(update(deletions).where(done, deletions.c.attested_at.is_(None)).values(attested_at=now()))


def deletion_of(row: Row[tuple[object, ...]]) -> Deletion:
    return Deletion(**{name: row._mapping[name] for name in Deletion.__slots__})


def passed(deletion: Deletion, followed: datetime | None) -> bool:
    """Whether a worker that has followed the truth up to `followed` holds nothing of it."""
    return deletion.draining_at is not None and followed is not None and followed > deletion.draining_at


def _step(connection: Connection, deletion_id: str, column: str, **values: object) -> bool:
    fresh = (deletions.c.id == deletion_id) & deletions.c[column].is_(None)
    return connection.execute(update(deletions).where(fresh).values({column: now(), **values})).rowcount == 1
