"""Memories: remember, remember anew, list, look at, forget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from core.errors import InvalidRequest, LatentBankError, TooMany
from core.logs import bind
from core.truth.audit import Actor
from core.truth.jobs import newest_jobs
from core.truth.memories import delete_memory, get_memory, list_memories
from core.truth.records import Tenant
from gateway.auth import AdminTenant, IngestTenant, ReadTenant, actor_of
from gateway.bodies import read_json
from gateway.bulk import BulkIntake, Outcome
from gateway.intake import Admission, check_context, take_in
from gateway.openapi import errors, takes
from gateway.revising import revise_memory
from gateway.routes.parameters import AfterMemory, Limit, known_id
from gateway.schemas import (
    IDEMPOTENCY_KEY,
    MemoryBatch,
    MemoryDeleted,
    MemoryObject,
    MemoryUpdate,
    NewMemories,
    NewMemory,
    Page,
)
from gateway.services import Parts, Services
from gateway.views import memory_batch, memory_deleted, memory_object, page

REPLAYED_HEADER = "Idempotency-Replayed"

router = APIRouter(tags=["memories"])
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=IDEMPOTENCY_KEY,
        description="Makes a retry safe: the same key with the same body gives the first answer again, with another "
        "body a 409. 1 to 255 visible ASCII characters.",
    ),
]
OfCollection = Annotated[str | None, Query(max_length=128)]


@router.post(
    "/v1/memories",
    status_code=202,
    response_model=MemoryObject,
    responses=errors(400, 401, 403, 409, 413, 429, 503),
    openapi_extra=takes(NewMemory),
)
async def remember(
    request: Request, response: Response, parts: Parts, tenant: IngestTenant, idempotency_key: IdempotencyKey = None
) -> MemoryObject:
    """Takes a context in; a job distils it. The answer names both."""
    with _counted(parts):
        offer, _ = await read_json(request, NewMemory, parts.settings.limits.body_bytes)
        # One thread from the checks to the commit: a client that leaves can't leave half of it behind.
        admission = await run_in_threadpool(_take_in, parts, tenant, actor_of(request), offer, idempotency_key)
    return _answer(parts, admission, response)


@router.post(
    "/v1/memories/batch",
    response_model=MemoryBatch,
    responses=errors(400, 401, 403, 413, 503),
    openapi_extra=takes(NewMemories),
)
async def remember_many(request: Request, response: Response, parts: Parts, tenant: IngestTenant) -> MemoryBatch:
    """Takes many contexts in, each with an outcome of its own, in the order in which they were sent.

    The answer is a 200 also where some, or all, were refused; `Retry-After` says when those may be sent again that only
    have to wait. Sent again with the same idempotency keys, it makes nothing twice.
    """
    limits = parts.settings.limits
    with _counted(parts):
        offered, _ = await read_json(request, NewMemories, limits.batch_bytes)
        if len(offered.memories) > limits.batch_memories:
            raise InvalidRequest(f"Send at most {limits.batch_memories} memories at once.", param="memories")
        outcomes = await run_in_threadpool(_take_in_many, parts, tenant, actor_of(request), offered.memories)
    answer = memory_batch(outcomes)
    for one in answer.data:
        parts.metrics.admitted.labels(outcome=one.status if one.error is None else one.error.code).inc()
    waits = [problem.retry_after_seconds for problem in outcomes if isinstance(problem, TooMany)]
    if waits:
        response.headers["Retry-After"] = str(max(waits))
    return answer


@router.put(
    "/v1/memories/{memory_id}",
    status_code=202,
    response_model=MemoryObject,
    responses=errors(400, 401, 403, 404, 409, 413, 429, 503),
    openapi_extra=takes(MemoryUpdate),
)
async def remember_anew(
    memory_id: str,
    request: Request,
    response: Response,
    parts: Parts,
    tenant: IngestTenant,
    idempotency_key: IdempotencyKey = None,
) -> MemoryObject:
    """Takes a new version of a memory's context in; the old version serves until the new one is ready.

    A 409 where the memory is deleted, or a job of it has not ended yet.
    """
    with _counted(parts):
        update, _ = await read_json(request, MemoryUpdate, parts.settings.limits.body_bytes)
        known = known_id("mem", memory_id)
        admission = await run_in_threadpool(_revise, parts, tenant, actor_of(request), known, update, idempotency_key)
    return _answer(parts, admission, response)


@router.get("/v1/memories", responses=errors(400, 401, 403, 503))
def memories(
    parts: Parts,
    tenant: ReadTenant,
    after: AfterMemory = None,
    limit: Limit = 20,
    collection: OfCollection = None,
    include_deleted: bool = False,
) -> Page[MemoryObject]:
    """The tenant's memories, newest first."""
    with parts.database.read() as connection:
        found = list_memories(
            connection,
            tenant.id,
            collection=collection,
            after=after,
            limit=limit + 1,
            include_deleted=include_deleted,
        )
        job_ids = newest_jobs(connection, [memory.id for memory in found])
    return page(found, limit, lambda memory: memory_object(memory, job_ids.get(memory.id)))


@router.get("/v1/memories/{memory_id}", responses=errors(401, 403, 404, 503))
def memory(memory_id: str, parts: Parts, tenant: ReadTenant) -> MemoryObject:
    """One memory, also a deleted one, which says when it was deleted and when its last object was removed."""
    with parts.database.read() as connection:
        found = get_memory(connection, tenant.id, known_id("mem", memory_id))
        job_ids = newest_jobs(connection, [found.id])
    return memory_object(found, job_ids.get(found.id))


@router.delete("/v1/memories/{memory_id}", responses=errors(401, 403, 404, 503))
def forget(memory_id: str, request: Request, parts: Parts, tenant: AdminTenant) -> MemoryDeleted:
    """From this answer on the memory serves nothing; the garbage collector removes its objects (`purged_at`)."""
    with parts.database.begin() as connection:
        known = known_id("mem", memory_id)
        return memory_deleted(delete_memory(connection, tenant.id, known, by=actor_of(request)))


@contextmanager
def _counted(parts: Services) -> Iterator[None]:
    try:
        yield
    except LatentBankError as problem:
        parts.metrics.admitted.labels(outcome=problem.code).inc()
        raise


def _answer(parts: Services, admission: Admission, response: Response) -> MemoryObject:
    parts.metrics.admitted.labels(outcome="accepted" if admission.created else "replayed").inc()
    if not admission.created:
        response.headers[REPLAYED_HEADER] = "true"
    return memory_object(admission.memory, admission.job.id)


def _take_in(parts: Services, tenant: Tenant, actor: Actor, offer: NewMemory, idempotency_key: str | None) -> Admission:
    limits = parts.settings.limits
    context = check_context(offer, limits, parts.base.base)
    with bind(tenant_id=tenant.id):
        return take_in(
            tenant.id,
            context,
            idempotency_key,
            database=parts.database,
            store=parts.store,
            limits=limits,
            recipe=parts.settings.recipe,
            by=actor,
        )


def _take_in_many(parts: Services, tenant: Tenant, actor: Actor, items: Sequence[Any]) -> list[Outcome]:
    settings = parts.settings
    intake = BulkIntake(parts.database, parts.store, parts.base.base, settings.limits, settings.recipe, actor)
    with bind(tenant_id=tenant.id):
        return intake.take_in(tenant.id, items)


def _revise(
    parts: Services, tenant: Tenant, actor: Actor, memory_id: str, update: MemoryUpdate, idempotency_key: str | None
) -> Admission:
    with bind(tenant_id=tenant.id):
        return revise_memory(
            tenant.id,
            memory_id,
            update,
            idempotency_key,
            database=parts.database,
            store=parts.store,
            base=parts.base.base,
            limits=parts.settings.limits,
            recipe=parts.settings.recipe,
            by=actor,
        )
