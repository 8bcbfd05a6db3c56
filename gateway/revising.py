"""From a checked body to a new version of a memory that waits for its job; the old version goes on serving."""

from __future__ import annotations

import hashlib
import json

from core.errors import NotFound
from core.ids import new_id
from core.settings import LimitSettings, RecipeSettings
from core.storage.keys import revised_context_key
from core.storage.object_store import ObjectStore
from core.truth.audit import Actor
from core.truth.database import Database
from core.truth.jobs import get_job
from core.truth.memories import find_idempotent, get_memory
from core.truth.records import Memory, NewRevision
from core.truth.revisions import refuse_contradiction, revise
from gateway.base_model import BaseModel
from gateway.intake import Admission, Context, check_context, commit_beside, default_quotas, estimated_seconds
from gateway.schemas import MemoryUpdate, NewMemory


def revise_memory(
    tenant_id: str,
    memory_id: str,
    update: MemoryUpdate,
    idempotency_key: str | None,
    *,
    database: Database,
    store: ObjectStore,
    base: BaseModel,
    limits: LimitSettings,
    recipe: RecipeSettings,
    by: Actor,
) -> Admission:
    """Stores the new context, then admits revision, job and first event in one transaction.

    Title and metadata stay where the update has none. Raises what `check_context` and `take_in` raise, `NotFound`, and
    `Conflict` where the memory is in work or deleted; blocking, for a thread.
    """
    body_sha256 = _body_sha256(memory_id, update)
    with database.read() as connection:
        memory = get_memory(connection, tenant_id, memory_id)
        known = idempotency_key and find_idempotent(connection, tenant_id, idempotency_key, body_sha256)
        if not known:
            # Before the offer is looked at: a deleted memory has no title to go on with.
            refuse_contradiction(connection, memory)
    if known:
        return Admission(*known, created=False)
    context = check_context(_offer(memory, update), limits, base)
    new = _revision(memory, context, recipe)

    def commit() -> Admission:
        with database.begin() as connection:
            return Admission(
                *revise(
                    connection,
                    new,
                    idempotency_key=idempotency_key,
                    body_sha256=body_sha256,
                    backlog_limit=limits.backlog_per_tenant,
                    quotas=default_quotas(limits),
                    by=by,
                )
            )

    def look_again() -> Admission | None:
        with database.read() as connection:
            try:
                job = get_job(connection, tenant_id, new.job_id)
            except NotFound:
                return None
            return Admission(get_memory(connection, tenant_id, memory_id), job, created=True)

    return commit_beside(store, new.context_key, context.payload, commit, look_again)


def _body_sha256(memory_id: str, update: MemoryUpdate) -> str:
    """Of what was sent and for which memory, not of what the memory makes of it: that may have changed meanwhile."""
    fields = [memory_id, update.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _offer(memory: Memory, update: MemoryUpdate) -> NewMemory:
    return NewMemory.model_construct(
        title=memory.title if update.title is None else update.title,
        text=update.text,
        messages=update.messages,
        collection=memory.collection,
        metadata=memory.metadata if update.metadata is None else update.metadata,
    )


def _revision(memory: Memory, context: Context, recipe: RecipeSettings) -> NewRevision:
    job_id = new_id("job")
    return NewRevision(
        job_id=job_id,
        memory_id=memory.id,
        tenant_id=memory.tenant_id,
        title=context.title,
        metadata=context.metadata,
        kind=context.kind,
        replaces=memory.version,
        context_key=revised_context_key(memory.tenant_id, memory.id, job_id),
        context_sha256=hashlib.sha256(context.payload).hexdigest(),
        context_bytes=len(context.payload),
        context_tokens=context.tokens,
        base_digest=context.base_digest,
        cost_estimate_seconds=estimated_seconds(context.tokens, recipe),
    )
