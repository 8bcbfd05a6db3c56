"""New versions of memories: what a job will make of a memory that stays as it is until the job has published.

A memory has one open job at most. So each version starts from the one before it, and a later wish never overtakes an
earlier one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, ScalarSelect, func, insert, select, update

from core.errors import Conflict, NotFound
from core.jobs.states import OPEN
from core.truth import usage
from core.truth.audit import UNNAMED, Actor, record
from core.truth.clock import now
from core.truth.memories import (
    find_idempotent,
    get_memory,
    insert_job,
    note_idempotency,
)
from core.truth.records import NO_QUOTAS, Job, Memory, NewRevision, Quotas
from core.truth.tables import jobs, memories, revisions
from core.truth.transitions import bump_bank, job_of, read_job

FIELDS = (
    "title",
    "metadata",
    "kind",
    "context_key",
    "context_sha256",
    "context_bytes",
    "context_tokens",
    "base_digest",
)
"""The columns of a memory that a revision replaces."""


def revise(
    connection: Connection,
    new: NewRevision,
    *,
    idempotency_key: str | None = None,
    body_sha256: str | None = None,
    backlog_limit: int,
    quotas: Quotas = NO_QUOTAS,
    by: Actor = UNNAMED,
) -> tuple[Memory, Job, bool]:
    """Writes revision, job (`queued`), first event and audit record; the last value says whether this call made them.

    The memory goes on as it is. Raises `Conflict` where a job of it is open or it is deleted, `NotFound` without the
    memory, and `BacklogFull`, `QuotaExceeded` and `IdempotencyConflict` as `admit`. What the new context is larger
    than the old one has to fit; it is charged when it takes the old one's place.
    """
    query = select(memories).where(memories.c.id == new.memory_id, memories.c.tenant_id == new.tenant_id)
    memory = connection.execute(query.with_for_update()).one_or_none()
    if memory is None:
        raise NotFound(f"There is no memory '{new.memory_id}'.")
    _, room = usage.lock_room(connection, new.tenant_id, backlog_limit=backlog_limit, defaults=quotas)
    if idempotency_key is not None and body_sha256 is not None:
        earlier = find_idempotent(connection, new.tenant_id, idempotency_key, body_sha256)
        if earlier is not None:
            return *earlier, False
    refuse_contradiction(connection, memory)
    if memory.version != new.replaces:
        raise Conflict("Another version of this memory was published meanwhile; send the update again.")
    grown = new.context_bytes - memory.context_bytes
    refusal = room.refusal(grown, memories=0)
    if refusal is not None:
        raise refusal
    usage.add(connection, new.tenant_id, size=0 if memory.version else grown, jobs=1)
    message = "The new version is accepted; its job waits."
    insert_job(connection, new.job_id, new.tenant_id, new.memory_id, message, new.cost_estimate_seconds)
    connection.execute(insert(revisions).values(job_id=new.job_id, **{name: getattr(new, name) for name in FIELDS}))
    record(connection, new.tenant_id, by, "memory.revised", ("memory", new.memory_id), {"job_id": new.job_id})
    if idempotency_key is not None:
        note_idempotency(connection, new.tenant_id, idempotency_key, body_sha256, new.memory_id, new.job_id)
    if memory.version is None:
        # No adapter serves: it waits like a new one, and where texts serve, it is the new text from now on.
        fields = {name: getattr(new, name) for name in FIELDS}
        connection.execute(update(memories).where(memories.c.id == memory.id).values(status="pending", **fields))
        bump_bank(connection, new.tenant_id, new.memory_id)
    connection.execute(update(memories).where(memories.c.id == memory.id).values(updated_at=now()))
    return get_memory(connection, new.tenant_id, new.memory_id), job_of(read_job(connection, new.job_id)), True


def revised_fields(connection: Connection, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each job will replace of its memory, by the job's id; nothing of those that make a first version."""
    rows = connection.execute(select(revisions).where(revisions.c.job_id.in_(job_ids)))
    return {row.job_id: {name: row._mapping[name] for name in FIELDS} for row in rows}


def context_of_job(column: str) -> ScalarSelect[Any]:
    """A column of the context that a row of `jobs` is about: of its revision, or of its memory."""
    return (
        select(func.coalesce(revisions.c[column], memories.c[column]))
        .select_from(memories.outerjoin(revisions, revisions.c.job_id == jobs.c.id))
        .where(memories.c.id == jobs.c.memory_id)
        .correlate(jobs)
        .scalar_subquery()
    )


def refuse_contradiction(connection: Connection, memory: Memory | Row[Any]) -> None:
    """Raises `Conflict` where a memory is deleted or in work; for good where its row is locked."""
    if memory.deleted_at is not None:
        raise Conflict("The memory is deleted; send the context as a new one.")
    unfinished = select(jobs.c.id).where(jobs.c.memory_id == memory.id, jobs.c.state.in_(OPEN)).limit(1)
    job_id = connection.execute(unfinished).scalar_one_or_none()
    if job_id is not None:
        raise Conflict(f"The memory is in work (job '{job_id}'); wait for its end, or cancel it, and send this again.")
