"""The truth's records as API objects; pure functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from core.errors import LatentBankError
from core.truth.records import ApiKey, AuditRecord, Job, JobEvent, Memory, Tenant
from gateway.errors import told
from gateway.intake import Admission
from gateway.schemas import (
    AuditObject,
    AuditSubject,
    BatchError,
    BatchOutcome,
    Item,
    JobError,
    JobEventObject,
    JobObject,
    KeyObject,
    MemoryBatch,
    MemoryDeleted,
    MemoryObject,
    Page,
    TenantObject,
)

Record = TypeVar("Record")

_EXTRAPOLATE_FROM = 0.05


def memory_object(memory: Memory, job_id: str | None) -> MemoryObject:
    gone = memory.status == "deleted"
    return MemoryObject(
        id=memory.id,
        title="" if gone else memory.title,
        collection=memory.collection,
        metadata={} if gone else memory.metadata,
        kind=memory.kind,
        status=memory.status,
        version=memory.version,
        digest=memory.adapter_digest,
        bytes=memory.adapter_bytes,
        context_tokens=memory.context_tokens,
        created_at=seconds(memory.created_at),
        updated_at=seconds(memory.updated_at),
        deleted_at=_seconds_or_none(memory.deleted_at),
        purged_at=_seconds_or_none(memory.purged_at),
        job_id=job_id,
    )


def memory_batch(outcomes: Sequence[Admission | LatentBankError]) -> MemoryBatch:
    data = [_batch_outcome(index, outcome) for index, outcome in enumerate(outcomes)]
    counted = Counter(one.status for one in data)
    return MemoryBatch(
        data=data, accepted=counted["accepted"], replayed=counted["replayed"], refused=counted["refused"]
    )


def memory_deleted(memory: Memory) -> MemoryDeleted:
    return MemoryDeleted(
        id=memory.id,
        deleted_at=seconds(memory.deleted_at or memory.updated_at),
        purged_at=_seconds_or_none(memory.purged_at),
    )


def job_object(job: Job, now: datetime) -> JobObject:
    failed = job.error_code is not None
    return JobObject(
        id=job.id,
        memory_id=job.memory_id,
        status=job.state,
        phase=job.phase,
        progress=job.progress,
        created_at=seconds(job.created_at),
        started_at=_seconds_or_none(job.started_at),
        finished_at=_seconds_or_none(job.finished_at),
        estimated_finish=estimated_finish(job, now),
        error=JobError(code=job.error_code or "", message=job.error_message or "") if failed else None,
        reason=job.reason,
        attempts=job.attempts,
        cancel_requested=job.cancel_requested,
    )


def estimated_finish(job: Job, now: datetime) -> int | None:
    """Unix seconds at which a running job should be done: from its own pace once it has one, else from its estimate."""
    if job.state != "running" or job.started_at is None:
        return None
    spent = (now - job.started_at).total_seconds()
    whole = spent / job.progress if job.progress >= _EXTRAPOLATE_FROM else job.cost_estimate_seconds
    return max(seconds(job.started_at) + round(whole), seconds(now))


def event_object(event: JobEvent) -> JobEventObject:
    return JobEventObject(
        id=event.id,
        job_id=event.job_id,
        created_at=seconds(event.at),
        level=event.level,
        type=event.type,
        message=event.message,
        data=event.data,
    )


def key_object(key: ApiKey, now: datetime) -> KeyObject:
    return KeyObject(
        id=key.id,
        tenant_id=key.tenant_id,
        name=key.name,
        scopes=list(key.scopes),
        active=all(end is None or end > now for end in (key.expires_at, key.revoked_at)),
        created_at=seconds(key.created_at),
        last_used_at=_seconds_or_none(key.last_used_at),
        expires_at=_seconds_or_none(key.expires_at),
        revoked_at=_seconds_or_none(key.revoked_at),
    )


def audit_object(record: AuditRecord) -> AuditObject:
    return AuditObject(
        id=record.id,
        tenant_id=record.tenant_id,
        created_at=seconds(record.at),
        actor=record.actor,
        action=record.action,
        subject=AuditSubject(kind=record.subject_kind, id=record.subject_id),
        data=record.data,
        request_id=record.request_id,
    )


def tenant_object(tenant: Tenant) -> TenantObject:
    return TenantObject(
        id=tenant.id,
        name=tenant.name,
        weight=tenant.weight,
        false_activation=tenant.false_activation,
        fallback=tenant.fallback,
        created_at=seconds(tenant.created_at),
    )


def page(records: Sequence[Record], limit: int, as_item: Callable[[Record], Item]) -> Page[Item]:
    """A page of at most `limit` from up to `limit + 1` records; the one too many only says that there are more."""
    items = [as_item(record) for record in records[:limit]]
    ids = [getattr(item, "id") for item in items]  # noqa: B009 - every item of a list has an id, pydantic's base none
    return Page(
        data=items,
        has_more=len(records) > limit,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
    )


def seconds(at: datetime) -> int:
    return int(at.timestamp())


def _batch_outcome(index: int, outcome: Admission | LatentBankError) -> BatchOutcome:
    if isinstance(outcome, LatentBankError):
        error = BatchError(code=outcome.code, message=told(outcome), param=outcome.param)
        return BatchOutcome(index=index, status="refused", memory=None, error=error)
    return BatchOutcome(
        index=index,
        status="accepted" if outcome.created else "replayed",
        memory=memory_object(outcome.memory, outcome.job.id),
        error=None,
    )


def _seconds_or_none(at: datetime | None) -> int | None:
    return None if at is None else seconds(at)
