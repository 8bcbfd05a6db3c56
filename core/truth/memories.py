"""Memories: admission, reading, deletion, and the bank that inference workers serve."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, update

from core.errors import IdempotencyConflict, LatentBankError, NotFound
from core.ids import new_id
from core.jobs.states import OPEN, Accepted, JobState, Reason, transition
from core.truth import banks, deletions, usage
from core.truth.audit import UNNAMED, Actor, Deed, record, record_all
from core.truth.clock import now
from core.truth.many_rows import insert_returning, insert_rows
from core.truth.pages import older_than
from core.truth.records import (
    NO_QUOTAS,
    BankEntry,
    ContextRecord,
    Job,
    Memory,
    NewMemory,
    Offer,
    Quotas,
)
from core.truth.tables import idempotency_keys, jobs, memories
from core.truth.transitions import (
    NewEvent,
    bump_bank,
    bump_banks,
    cancel,
    job_of,
    memory_of,
    write_events,
)

_COPIED = tuple(name for name in NewMemory.__slots__ if name in memories.c and name != "tenant_id")
"""The fields of an offer that its memory's row takes as they are."""


def find_idempotent(connection: Connection, tenant_id: str, key: str, body_sha256: str) -> tuple[Memory, Job] | None:
    """What an earlier request with this key made; raises `IdempotencyConflict` where its body was another."""
    known = find_offered(connection, tenant_id, [key]).get(key)
    if known is None:
        return None
    first_sha256, memory, job = known
    if first_sha256 != body_sha256:
        raise IdempotencyConflict
    return memory, job


def find_offered(connection: Connection, tenant_id: str, keys: Collection[str]) -> dict[str, tuple[str, Memory, Job]]:
    """The digest of the body, the memory and the job of earlier requests with these keys, by the key."""
    known = _known_keys(connection, tenant_id, keys)
    pairs = _pairs(connection, {job_id for _, job_id in known.values()})
    return {key: (body_sha256, *pairs[job_id]) for key, (body_sha256, job_id) in known.items()}


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
    offer = Offer(new, idempotency_key, body_sha256)
    (outcome,) = admit_many(connection, new.tenant_id, [offer], backlog_limit=backlog_limit, quotas=quotas, by=by)
    if isinstance(outcome, LatentBankError):
        raise outcome
    return outcome


def admit_many(
    connection: Connection,
    tenant_id: str,
    offers: Sequence[Offer],
    *,
    backlog_limit: int,
    quotas: Quotas = NO_QUOTAS,
    by: Actor = UNNAMED,
) -> list[tuple[Memory, Job, bool] | LatentBankError]:
    """Each offer's outcome, in order, as `admit` would give it; in a few statements, however many there are.

    An error is an outcome and leaves nothing of its offer; the offers before it are taken all the same. Raises
    `NotFound` without the tenant.
    """
    tenant, room = usage.lock_room(
        connection, tenant_id, backlog_limit=backlog_limit, defaults=quotas, jobs=len(offers)
    )
    known = _known_keys(connection, tenant_id, [offer.idempotency_key for offer in offers if offer.idempotency_key])
    outcomes: list[tuple[Memory, Job, bool] | LatentBankError | str] = []
    taken: list[tuple[Offer, str]] = []
    for offer in offers:
        if (key := offer.idempotency_key) is not None:
            if offer.body_sha256 is None:
                raise ValueError("An idempotency key needs the body's digest.")
            if (first := known.get(key)) is not None:
                outcomes.append(first[1] if first[0] == offer.body_sha256 else IdempotencyConflict())
                continue
        if (refusal := room.refusal(offer.new.context_bytes)) is not None:
            outcomes.append(refusal)
            continue
        room = room.after(offer.new.context_bytes)
        job_id = new_id("job")
        taken.append((offer, job_id))
        outcomes.append(job_id)
        if key is not None and offer.body_sha256 is not None:
            known[key] = (offer.body_sha256, job_id)
    size = sum(offer.new.context_bytes for offer, _ in taken)
    usage.add(connection, tenant_id, memories=len(taken), size=size, jobs=len(taken))
    made = _insert(connection, tenant_id, taken, serves_now=tenant.fallback == "text")
    deeds: list[Deed] = [(("memory", offer.new.id), {"job_id": job_id}) for offer, job_id in taken]
    record_all(connection, tenant_id, by, "memory.remembered", deeds)
    made |= _pairs(connection, {outcome for outcome in outcomes if isinstance(outcome, str)} - set(made))
    ours = {job_id for _, job_id in taken}
    told: list[tuple[Memory, Job, bool] | LatentBankError] = []
    for outcome in outcomes:
        if not isinstance(outcome, str):
            told.append(outcome)
            continue
        told.append((*made[outcome], outcome in ours))
        ours.discard(outcome)
    return told


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


def delete_memory(
    connection: Connection, tenant_id: str, memory_id: str, by: Actor = UNNAMED, *, deletion_id: str | None = None
) -> Memory:
    """The memory is served no more from here on, and its open jobs are cancelled; a second time changes nothing.

    It is a deletion of its own, or part of the one given.
    """
    row = connection.execute(
        select(memories).where(memories.c.id == memory_id, memories.c.tenant_id == tenant_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"There is no memory '{memory_id}'.")
    if row.deleted_at is None:
        connection.execute(
            update(memories)
            .where(memories.c.id == memory_id)
            .values(
                status="deleted",
                deleted_at=now(),
                updated_at=now(),
                deletion_id=deletion_id
                or deletions.begin(connection, tenant_id, "memory", memory_id, tombstoned=True, memories=1),
            )
        )
        for job in _lock_open_jobs(connection, memory_id):
            cancel(connection, job, Reason.MEMORY_DELETED)
        banks.put_record(connection, memory_id, "", None)
        bump_bank(connection, tenant_id, memory_id)
        size = row.context_bytes + (row.adapter_bytes or 0)
        usage.add(connection, tenant_id, memories=-1, size=-size)
        if deletion_id is not None:
            deletions.add_memories(connection, deletion_id, 1)
        else:
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


def deleted_unpurged(connection: Connection, limit: int, after: str = "") -> list[Memory]:
    """Deleted memories whose objects may still be there, and that no job can still write objects for; by id."""
    still_open = select(jobs.c.id).where(jobs.c.memory_id == memories.c.id, jobs.c.state.in_(OPEN)).exists()
    rows = connection.execute(
        select(memories)
        .where(memories.c.status == "deleted", memories.c.purged_at.is_(None), memories.c.id > after, ~still_open)
        .order_by(memories.c.id)
        .limit(limit)
    )
    return [memory_of(row) for row in rows]


def by_ids(connection: Connection, memory_ids: Iterable[str]) -> Mapping[str, tuple[Memory, bool]]:
    """The known ones among the ids, of any tenant, each with whether a job of it is open; for the garbage collector."""
    has_open = select(jobs.c.id).where(jobs.c.memory_id == memories.c.id, jobs.c.state.in_(OPEN)).exists()
    rows = connection.execute(
        select(memories, has_open.label("has_open_job")).where(memories.c.id.in_(sorted(set(memory_ids))))
    )
    return {row.id: (memory_of(row), bool(row.has_open_job)) for row in rows}


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
    fields = {"id": job_id, "tenant_id": tenant_id, "memory_id": memory_id, "priority": priority}
    _insert_jobs(connection, [fields | {"cost_estimate_seconds": cost_estimate_seconds}], message)


def note_idempotency(
    connection: Connection, tenant_id: str, key: str, body_sha256: str | None, memory_id: str, job_id: str
) -> None:
    fields = {"tenant_id": tenant_id, "key": key, "body_sha256": body_sha256, "memory_id": memory_id, "job_id": job_id}
    insert_rows(connection, idempotency_keys, [fields], "created_at")


def _known_keys(connection: Connection, tenant_id: str, keys: Collection[str]) -> dict[str, tuple[str, str]]:
    """Digest of the body and id of the job that came of it, by the key."""
    if not keys:
        return {}
    of_them = idempotency_keys.c.tenant_id == tenant_id, idempotency_keys.c.key.in_(sorted(set(keys)))
    rows = connection.execute(select(idempotency_keys).where(*of_them))
    return {row.key: (row.body_sha256, row.job_id) for row in rows}


def _pairs(connection: Connection, job_ids: Collection[str]) -> dict[str, tuple[Memory, Job]]:
    """Jobs of earlier requests with their memories, by the job's id."""
    if not job_ids:
        return {}
    found = connection.execute(select(jobs).where(jobs.c.id.in_(sorted(job_ids)))).all()
    theirs = connection.execute(select(memories).where(memories.c.id.in_(sorted({row.memory_id for row in found}))))
    by_id = {row.id: memory_of(row) for row in theirs}
    return {row.id: (by_id[row.memory_id], job_of(row)) for row in found}


def _insert(
    connection: Connection, tenant_id: str, taken: Sequence[tuple[Offer, str]], *, serves_now: bool
) -> dict[str, tuple[Memory, Job]]:
    """Memories, jobs, events and idempotency keys of what is taken; the pairs by the job's id."""
    if not taken:
        return {}
    new_memories = [
        {name: getattr(offer.new, name) for name in _COPIED} | {"tenant_id": tenant_id, "status": "pending"}
        for offer, _ in taken
    ]
    new_jobs = [
        {
            "id": job_id,
            "tenant_id": tenant_id,
            "memory_id": offer.new.id,
            "priority": offer.new.priority,
            "cost_estimate_seconds": offer.new.cost_estimate_seconds,
        }
        for offer, job_id in taken
    ]
    rows = insert_returning(connection, memories, new_memories, "created_at", "updated_at")
    by_id = {row.id: memory_of(row) for row in rows}
    job_rows = _insert_jobs(connection, new_jobs, "The memory is accepted; its job waits.")
    keys = [
        {
            "tenant_id": tenant_id,
            "key": offer.idempotency_key,
            "body_sha256": offer.body_sha256,
            "memory_id": offer.new.id,
            "job_id": job_id,
        }
        for offer, job_id in taken
        if offer.idempotency_key is not None
    ]
    insert_rows(connection, idempotency_keys, keys, "created_at")
    if serves_now:
        # The memory serves from now on, if only from its text.
        bump_banks(connection, [(tenant_id, memory_id) for memory_id in by_id])
    return {job.id: (by_id[job.memory_id], job) for job in job_rows}


def _insert_jobs(connection: Connection, new_jobs: Sequence[Mapping[str, Any]], message: str) -> list[Job]:
    queued = transition(JobState(), Accepted())
    state = {
        "state": queued.state.value,
        "progress": queued.progress,
        "epoch": queued.epoch,
        "attempts": queued.attempts,
        "cancel_requested": queued.cancel_requested,
        "charged_seconds": 0.0,
    }
    rows = insert_returning(connection, jobs, [{**new, **state} for new in new_jobs], "created_at")
    data = {"state": queued.state.value, "progress": 0.0}
    write_events(connection, [NewEvent(row.id, "state", message, data=data) for row in rows])
    return [job_of(row) for row in rows]


def _lock_open_jobs(connection: Connection, memory_id: str) -> list[Row[Any]]:
    query = select(jobs).where(jobs.c.memory_id == memory_id, jobs.c.state.in_(OPEN)).order_by(jobs.c.id)
    return list(connection.execute(query.with_for_update()))
