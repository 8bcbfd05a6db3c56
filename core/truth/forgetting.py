"""Forgetting: tombstones for whole collections and tenants, and rows that keep ids and times alone.

Every transaction here is short, however much is deleted; whoever dies in the middle leaves what the next one goes on
with. A memory with an open job is deleted by itself, so that no transaction ever holds several jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Select, delete, exists, or_, select, tuple_, update

from core.errors import NotFound
from core.jobs.states import OPEN, State
from core.truth import deletions, tenant_keys, workers
from core.truth.audit import Actor, fingerprint, record
from core.truth.clock import now
from core.truth.database import Database
from core.truth.memories import delete_memory
from core.truth.records import Deletion
from core.truth.tables import (
    api_keys,
    idempotency_keys,
    job_events,
    jobs,
    memories,
    retrieval_records,
    revisions,
    tenants,
)

BATCH = 500
Place = tuple[datetime, str]


def delete_collection(connection: Connection, tenant_id: str, collection: str, by: Actor) -> Deletion:
    """The wish to forget the collection's memories that there are now; `tombstone_all` does it."""
    named = fingerprint(collection)
    deletion_id = deletions.begin(connection, tenant_id, "collection", named, collection=collection)
    record(connection, tenant_id, by, "collection.deleted", ("collection", named), {"deletion_id": deletion_id})
    return deletions.get_deletion(connection, tenant_id, deletion_id)


def delete_tenant(connection: Connection, tenant_id: str, by: Actor) -> Deletion:
    """No key of the tenant opens anything from here on, and nothing that was stored for it can be read again.

    Its data keys are destroyed with the tombstone. A second time gives the same deletion; raises `NotFound`.
    """
    if connection.execute(select(tenants.c.id).where(tenants.c.id == tenant_id)).one_or_none() is None:
        raise NotFound(f"There is no tenant '{tenant_id}'.")
    ends_later = api_keys.c.revoked_at.is_(None) | (api_keys.c.revoked_at > now())
    connection.execute(update(api_keys).where(api_keys.c.tenant_id == tenant_id, ends_later).values(revoked_at=now()))
    gone = {"deleted_at": now(), "name": "", "settings": {}, "bank_revision": tenants.c.bank_revision + 1}
    alive = (tenants.c.id == tenant_id) & tenants.c.deleted_at.is_(None)
    if connection.execute(update(tenants).where(alive).values(gone)).rowcount == 0:
        return deletions.of_tenant(connection, tenant_id)
    tenant_keys.destroy(connection, tenant_id)
    deletion_id = deletions.begin(connection, tenant_id, "tenant", tenant_id)
    record(connection, tenant_id, by, "tenant.deleted", ("tenant", tenant_id), {"deletion_id": deletion_id})
    return deletions.get_deletion(connection, tenant_id, deletion_id)


def tombstone_all(database: Database, deletion: Deletion, go_on: Callable[[], bool]) -> bool:
    """Deletes all memories of a collection or a tenant, in batches, while `go_on` says so; whether all are.

    Any number of processes may do it at once, and begin anew where one has died.
    """
    last: Place | None = None
    while go_on():
        with database.begin() as connection:
            last = _tombstone_idle(connection, deletion, last)
        if last is not None:
            continue
        with database.read() as connection:
            memory_ids = [row.id for row in connection.execute(_page(deletion, None))]
        if not memory_ids:
            with database.begin() as connection:
                deletions.mark_tombstoned(connection, deletion.id)
            return True
        for memory_id in memory_ids:
            with database.begin() as connection:
                delete_memory(connection, deletion.tenant_id, memory_id, deletion_id=deletion.id)
    return False


def purge_rows(connection: Connection, memory_ids: Collection[str]) -> None:
    """No object of these deleted memories is left; what their rows say beyond ids, numbers and times goes too."""
    which = sorted(memory_ids)
    blank = {"title": "", "metadata": {}, "context_sha256": ""}
    fresh = memories.c.id.in_(which) & (memories.c.status == "deleted") & memories.c.purged_at.is_(None)
    connection.execute(update(memories).where(fresh).values(purged_at=now(), collection="", **blank))
    of_them = jobs.c.memory_id.in_(which)
    connection.execute(update(jobs).where(of_them, jobs.c.error_message.is_not(None)).values(error_message=None))
    job_ids = select(jobs.c.id).where(of_them)
    connection.execute(update(revisions).where(revisions.c.job_id.in_(job_ids)).values(**blank))
    events = job_events.c.job_id.in_(job_ids)
    # The data of states is made of our own words; what a trainer reported may not be.
    connection.execute(update(job_events).where(events, job_events.c.type == "state").values(message=""))
    connection.execute(update(job_events).where(events, job_events.c.type != "state").values(message="", data={}))


def purge_tenant_rows(connection: Connection, tenant_id: str) -> bool:
    """Removes a batch of what is left of a deleted tenant beside its memories; whether there was nothing."""
    mine = select(idempotency_keys.c.key).where(idempotency_keys.c.tenant_id == tenant_id).limit(BATCH)
    keys = list(connection.execute(mine).scalars())
    if keys:
        gone = (idempotency_keys.c.tenant_id == tenant_id) & idempotency_keys.c.key.in_(keys)
        connection.execute(delete(idempotency_keys).where(gone))
        return False
    return connection.execute(delete(api_keys).where(api_keys.c.tenant_id == tenant_id)).rowcount == 0


def unpurged(connection: Connection, deletion: Deletion) -> bool:
    """Whether a memory of the deletion, or of the tenant, still has objects or texts in rows."""
    scope = memories.c.tenant_id == deletion.tenant_id
    if deletion.kind != "tenant":
        scope = memories.c.deletion_id == deletion.id
    left = select(memories.c.id).where(scope, memories.c.purged_at.is_(None)).limit(1)
    return connection.execute(left).one_or_none() is not None


def in_training(connection: Connection, deletion: Deletion) -> bool:
    """Whether a distillation worker still runs a pack that one of the deletion's memories was in."""
    running = jobs.alias("running")
    same_pack = exists(
        select(running.c.id).where(
            running.c.worker_id == jobs.c.worker_id,
            running.c.state == State.RUNNING,
            running.c.started_at <= jobs.c.finished_at,
        )
    )
    query = (
        select(jobs.c.id)
        .join(memories, memories.c.id == jobs.c.memory_id)
        .where(memories.c.deletion_id == deletion.id, or_(jobs.c.state.in_(OPEN), same_pack))
        .limit(1)
    )
    return connection.execute(query).one_or_none() is not None


def followed(connection: Connection) -> datetime | None:
    """Up to when every inference worker that was heard of has followed the truth; `None` where one does not say.

    Without any worker that is now: nothing is held by nobody.
    """
    instants = [worker.info.get("followed") for worker in workers.alive(connection, "inference")]
    if any(instant is None for instant in instants):
        return None
    present: datetime = connection.execute(select(now())).scalar_one()
    return min((datetime.fromisoformat(str(instant)) for instant in instants), default=present)


def _tombstone_idle(connection: Connection, deletion: Deletion, after: Place | None) -> Place | None:
    """The next batch of memories, but for those with open jobs; where it ended, `None` where there was none."""
    page = connection.execute(_page(deletion, after).with_for_update()).all()
    if not page:
        return None
    locked = sorted(row.id for row in page)
    # Asked under the locks: from here on no new version is taken in.
    opened = select(jobs.c.memory_id).where(jobs.c.memory_id.in_(locked), jobs.c.state.in_(OPEN))
    memory_ids = sorted(set(locked).difference(connection.execute(opened).scalars()))
    if memory_ids:
        connection.execute(delete(retrieval_records).where(retrieval_records.c.memory_id.in_(memory_ids)))
        revision = connection.execute(
            update(tenants)
            .where(tenants.c.id == deletion.tenant_id)
            .values(bank_revision=tenants.c.bank_revision + 1)
            .returning(tenants.c.bank_revision)
        ).scalar_one()
        gone = {"status": "deleted", "deleted_at": now(), "updated_at": now(), "deletion_id": deletion.id}
        connection.execute(
            update(memories).where(memories.c.id.in_(memory_ids)).values(gone | {"bank_revision": revision})
        )
        deletions.add_memories(connection, deletion.id, len(memory_ids))
    return page[-1].created_at, page[-1].id


def _page(deletion: Deletion, after: Place | None) -> Select[tuple[str, datetime]]:
    """A batch of the memories that are still to be deleted, in the order of the tenant's index."""
    query = select(memories.c.id, memories.c.created_at).where(_left(deletion))
    if after is not None:
        query = query.where(tuple_(memories.c.created_at, memories.c.id) > tuple_(*after))
    return query.order_by(memories.c.created_at, memories.c.id).limit(BATCH)


def _left(deletion: Deletion) -> ColumnElement[bool]:
    """The memories that are still to be deleted; of a collection those that there were when it was wished."""
    there = (memories.c.tenant_id == deletion.tenant_id) & (memories.c.status != "deleted")
    if deletion.kind == "tenant":
        return there
    return there & (memories.c.collection == deletion.collection) & (memories.c.created_at <= deletion.deleted_at)
