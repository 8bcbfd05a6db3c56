"""Memories: admission, reading, deletion, and the bank that inference workers serve."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, insert, select, tuple_, update

from core.errors import IdempotencyConflict, InvalidRequest, NotFound
from core.ids import new_id
from core.jobs.states import OPEN, Accepted, JobState, Reason, transition
from core.truth import banks, usage
from core.truth.audit import UNNAMED, Actor, record
from core.truth.clock import now
from core.truth.records import NO_QUOTAS, BankEntry, ContextRecord, Job, Memory, NewMemory, Quotas, Tenant
from core.truth.tables import idempotency_keys, jobs, memories, tenants
from core.truth.transitions import bump_bank, cancel, job_of, memory_of, read_job, write_event


def find_idempotent(connection: Connection, tenant_id: str, key: str, body_sha256: str) -> tuple[Memory, Job] | None:
    """What an earlier request with this key made; raises `IdempotencyConflict` where its body was another."""
    row = connection.execute(
        select(idempotency_keys).where(idempotency_keys.c.tenant_id == tenant_id, idempotency_keys.c.key == key)
    ).one_or_none()
    if row is None:
        return None
    if row.body_sha256 != body_sha256:
        raise IdempotencyConflict
    return get_memory(connection, tenant_id, row.memory_id), job_of(read_job(connection, row.job_id))


def admit(
    connection: Connection,
    new: NewMemory,
    *,
    idempotency_key: str | None = None,
    body_sha256: str | None = None,
    backlog_limit: int,
    quotas: Quotas = NO_QUOTAS,
    by: Actor = UNNAMED,
) -> tuple[Memory, Job, bool]:
    """Writes memory, job (`queued`), first event and audit record; the last value says whether this call made them.

    A duplicate key, also a concurrent one, gets the first request's pair and False. Raises `BacklogFull` where the
    tenant already has `backlog_limit` jobs that wait, `QuotaExceeded` where its own quotas, or else `quotas`, leave no
    room, `IdempotencyConflict` as `find_idempotent`, `NotFound` without the tenant.
    """
    tenant = lock_tenant(connection, new.tenant_id)
    if idempotency_key is not None:
        if body_sha256 is None:
            raise ValueError("An idempotency key needs the body's digest.")
        earlier = find_idempotent(connection, new.tenant_id, idempotency_key, body_sha256)
        if earlier is not None:
            return *earlier, False
    size = new.context_bytes
    usage.charge(connection, tenant.id, memories=1, size=size, jobs=1, backlog_limit=backlog_limit, defaults=quotas)
    _insert_memory(connection, new)
    job_id, message = new_id("job"), "The memory is accepted; its job waits."
    insert_job(connection, job_id, new.tenant_id, new.id, message, new.cost_estimate_seconds, new.priority)
    record(connection, new.tenant_id, by, "memory.remembered", ("memory", new.id), {"job_id": job_id})
    if idempotency_key is not None:
        note_idempotency(connection, new.tenant_id, idempotency_key, body_sha256, new.id, job_id)
    if tenant.fallback == "text":
        # The memory serves from now on, if only from its text.
        bump_bank(connection, new.tenant_id, new.id)
    return get_memory(connection, new.tenant_id, new.id), job_of(read_job(connection, job_id)), True


def get_memory(connection: Connection, tenant_id: str, memory_id: str) -> Memory:
    """Also a deleted one, whose status says so. Another tenant's is `NotFound`."""
    row = connection.execute(
        select(memories).where(memories.c.id == memory_id, memories.c.tenant_id == tenant_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no memory '{memory_id}'.")
    return memory_of(row)


def list_memories(
    connection: Connection,
    tenant_id: str,
    *,
    collection: str | None = None,
    after: str | None = None,
    limit: int = 20,
    include_deleted: bool = False,
) -> list[Memory]:
    """Newest first; `after` is the id of the last one seen."""
    query = select(memories).where(memories.c.tenant_id == tenant_id)
    if collection is not None:
        query = query.where(memories.c.collection == collection)
    if not include_deleted:
        query = query.where(memories.c.status != "deleted")
    if after is not None:
        query = query.where(older_than(connection, memories, tenant_id, after))
    rows = connection.execute(query.order_by(memories.c.created_at.desc(), memories.c.id.desc()).limit(limit))
    return [memory_of(row) for row in rows]


def delete_memory(connection: Connection, tenant_id: str, memory_id: str, by: Actor = UNNAMED) -> Memory:
    """The memory is served no more from here on, and its open jobs are cancelled; a second time changes nothing."""
    row = connection.execute(
        select(memories).where(memories.c.id == memory_id, memories.c.tenant_id == tenant_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no memory '{memory_id}'.")
    if row.deleted_at is None:
        connection.execute(
            update(memories)
            .where(memories.c.id == memory_id)
            .values(status="deleted", deleted_at=now(), updated_at=now())
        )
        for job in _lock_open_jobs(connection, memory_id):
            cancel(connection, job, Reason.MEMORY_DELETED)
        banks.put_record(connection, memory_id, "", None)
        bump_bank(connection, tenant_id, memory_id)
        size = row.context_bytes + (row.adapter_bytes or 0)
        usage.add(connection, tenant_id, memories=-1, size=-size)
        record(connection, tenant_id, by, "memory.deleted", ("memory", memory_id))
    return get_memory(connection, tenant_id, memory_id)


def bank(connection: Connection, tenant_id: str) -> tuple[int, list[BankEntry]]:
    """The bank's revision and what it serves. The entries are never older than the revision."""
    revision = banks.bank_revision(connection, tenant_id)
    columns = [memories.c.id.label("memory_id"), *(memories.c[name] for name in BankEntry.__slots__[1:])]
    rows = connection.execute(
        select(*columns)
        .where(memories.c.tenant_id == tenant_id, memories.c.status == "ready")
        .order_by(memories.c.created_at, memories.c.id)
    )
    return revision, [BankEntry(**row._mapping) for row in rows]


def without_adapter(connection: Connection, tenant_id: str, most: int) -> list[ContextRecord]:
    """Memories that wait for their first adapter or came to none, the newest first, at most `most`."""
    return _contexts(connection, tenant_id, memories.c.status.in_(("pending", "failed")), most)


def contexts(connection: Connection, tenant_id: str, memory_ids: Collection[str]) -> dict[str, ContextRecord]:
    """The tenant's memories among the ids that are not deleted, by id."""
    there = memories.c.id.in_(sorted(memory_ids)) & (memories.c.status != "deleted")
    found = _contexts(connection, tenant_id, there, len(memory_ids)) if memory_ids else []
    return {record.memory_id: record for record in found}


def _contexts(connection: Connection, tenant_id: str, which: ColumnElement[bool], most: int) -> list[ContextRecord]:
    columns = [memories.c.id.label("memory_id"), *(memories.c[name] for name in ContextRecord.__slots__[1:])]
    rows = connection.execute(
        select(*columns)
        .where(memories.c.tenant_id == tenant_id, which)
        .order_by(memories.c.created_at.desc(), memories.c.id.desc())
        .limit(most)
    )
    return [ContextRecord(**row._mapping) for row in rows]


def ready_digests(connection: Connection, tenant_id: str, most: int) -> list[str]:
    """The adapters that the bank serves, the newest memories' first, at most `most`."""
    rows = connection.execute(
        select(memories.c.adapter_digest)
        .where(memories.c.tenant_id == tenant_id, memories.c.status == "ready")
        .order_by(memories.c.created_at.desc(), memories.c.id.desc())
        .limit(most)
    )
    return [row.adapter_digest for row in rows]


def live_digests(connection: Connection, digests: Collection[str]) -> set[str]:
    """Those of `digests` that are the current adapter of a memory, of any tenant, that is not deleted."""
    rows = connection.execute(
        select(memories.c.adapter_digest).where(
            memories.c.adapter_digest.in_(sorted(digests)), memories.c.deleted_at.is_(None)
        )
    )
    return {row.adapter_digest for row in rows}


def deleted_unpurged(connection: Connection, limit: int) -> list[Memory]:
    """Deleted memories whose objects may still be there, and that no job can still write objects for; oldest first."""
    still_open = select(jobs.c.id).where(jobs.c.memory_id == memories.c.id, jobs.c.state.in_(OPEN)).exists()
    rows = connection.execute(
        select(memories)
        .where(memories.c.status == "deleted", memories.c.purged_at.is_(None), ~still_open)
        .order_by(memories.c.deleted_at)
        .limit(limit)
    )
    return [memory_of(row) for row in rows]


def mark_purged(connection: Connection, memory_id: str) -> None:
    """No object of the deleted memory is left."""
    connection.execute(
        update(memories)
        .where(memories.c.id == memory_id, memories.c.status == "deleted", memories.c.purged_at.is_(None))
        .values(purged_at=now())
    )


def by_ids(connection: Connection, memory_ids: Iterable[str]) -> Mapping[str, tuple[Memory, bool]]:
    """The known ones among the ids, of any tenant, each with whether a job of it is open; for the garbage collector."""
    has_open = select(jobs.c.id).where(jobs.c.memory_id == memories.c.id, jobs.c.state.in_(OPEN)).exists()
    rows = connection.execute(
        select(memories, has_open.label("has_open_job")).where(memories.c.id.in_(sorted(set(memory_ids))))
    )
    return {row.id: (memory_of(row), bool(row.has_open_job)) for row in rows}


def older_than(connection: Connection, table: Table, tenant_id: str, after: str) -> ColumnElement[bool]:
    """The rows after `after` in a list that starts with the newest; raises `InvalidRequest` for an unknown id."""
    last = connection.execute(
        select(table.c.created_at, table.c.id).where(table.c.id == after, table.c.tenant_id == tenant_id)
    ).one_or_none()
    if last is None:
        raise InvalidRequest(f"There is nothing with the id '{after}' to list after.", param="after")
    return tuple_(table.c.created_at, table.c.id) < tuple_(last.created_at, last.id)


def lock_tenant(connection: Connection, tenant_id: str) -> Tenant:
    """Admissions of one tenant go one after the other: that makes its limits and its idempotency keys exact."""
    query = select(tenants).where(tenants.c.id == tenant_id).with_for_update(key_share=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no tenant '{tenant_id}'.")
    return Tenant(**row._mapping)


def _insert_memory(connection: Connection, new: NewMemory) -> None:
    connection.execute(
        insert(memories).values(
            id=new.id,
            tenant_id=new.tenant_id,
            collection=new.collection,
            title=new.title,
            metadata=new.metadata,
            kind=new.kind,
            status="pending",
            context_key=new.context_key,
            context_sha256=new.context_sha256,
            context_bytes=new.context_bytes,
            context_tokens=new.context_tokens,
            base_digest=new.base_digest,
            created_at=now(),
            updated_at=now(),
        )
    )


def insert_job(
    connection: Connection,
    job_id: str,
    tenant_id: str,
    memory_id: str,
    message: str,
    cost_estimate_seconds: float,
    priority: int = 0,
) -> None:
    """A job that waits, and its first event."""
    queued = transition(JobState(), Accepted())
    connection.execute(
        insert(jobs).values(
            id=job_id,
            tenant_id=tenant_id,
            memory_id=memory_id,
            state=queued.state.value,
            progress=queued.progress,
            epoch=queued.epoch,
            attempts=queued.attempts,
            cancel_requested=queued.cancel_requested,
            priority=priority,
            cost_estimate_seconds=cost_estimate_seconds,
            charged_seconds=0.0,
            created_at=now(),
        )
    )
    write_event(connection, job_id, "state", message, data={"state": queued.state.value, "progress": 0.0})


def note_idempotency(
    connection: Connection, tenant_id: str, key: str, body_sha256: str | None, memory_id: str, job_id: str
) -> None:
    connection.execute(
        insert(idempotency_keys).values(
            tenant_id=tenant_id,
            key=key,
            body_sha256=body_sha256,
            memory_id=memory_id,
            job_id=job_id,
            created_at=now(),
        )
    )


def _lock_open_jobs(connection: Connection, memory_id: str) -> list[Row[Any]]:
    query = select(jobs).where(jobs.c.memory_id == memory_id, jobs.c.state.in_(OPEN)).order_by(jobs.c.id)
    return list(connection.execute(query.with_for_update()))
