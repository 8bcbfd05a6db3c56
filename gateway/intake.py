"""From a checked body to an admitted memory; whatever goes wrong on the way, nothing is left behind."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import (
    ContextTooLong,
    EmptyContext,
    InvalidRequest,
    LatentBankError,
    NotFound,
    StorageError,
)
from core.ids import new_id
from core.logs import get_logger
from core.settings import LimitSettings, RecipeSettings
from core.storage.keys import context_key
from core.storage.object_store import JSON, ObjectStore
from core.truth.audit import Actor
from core.truth.database import Database
from core.truth.jobs import list_jobs
from core.truth.memories import admit, find_idempotent, get_memory
from core.truth.records import Job, Memory, Quotas
from core.truth.records import NewMemory as NewRecord
from gateway.base_model import BaseModel
from gateway.schemas import NewMemory

# No tokenizer makes so few tokens of what a person would call a text; longer input need not be counted.
CHARS_PER_TOKEN_AT_MOST = 64
TOKENS_PER_MESSAGE = 8
"""What a chat template adds around each message, rounded up."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """A context that passed all checks: `payload` is its object, `tokens` its length in tokens of the base."""

    title: str
    collection: str
    metadata: dict[str, Any]
    kind: Literal["text", "chat"]
    payload: bytes
    tokens: int
    base_digest: str

    @property
    def body_sha256(self) -> str:
        """One hash for all spellings of the same request."""
        fields = [self.collection, self.metadata, hashlib.sha256(self.payload).hexdigest()]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Admission:
    memory: Memory
    job: Job
    created: bool


def check_context(offer: NewMemory, limits: LimitSettings, base: BaseModel) -> Context:
    """Raises `InvalidRequest` (title, metadata), `EmptyContext` or `ContextTooLong`."""
    _check_title(offer.title, limits)
    _check_metadata(offer.metadata, limits)
    kind: Literal["text", "chat"] = "chat" if offer.messages is not None else "text"
    source = _source(offer)
    return Context(
        title=offer.title,
        collection=offer.collection,
        metadata=offer.metadata,
        kind=kind,
        payload=json.dumps({"kind": kind, "title": offer.title, **source}, ensure_ascii=False, sort_keys=True).encode(),
        tokens=_check_length(_texts(offer), len(offer.messages or ()), longest_context(limits, base), base),
        base_digest=base.description.digest,
    )


def longest_context(limits: LimitSettings, base: BaseModel) -> int:
    """Tokens of the longest context: the setting, or the base's window less room for a question and its answer."""
    return min(limits.context_tokens, base.description.context_tokens - limits.context_token_margin)


def take_in(
    tenant_id: str,
    context: Context,
    idempotency_key: str | None,
    *,
    database: Database,
    store: ObjectStore,
    limits: LimitSettings,
    recipe: RecipeSettings,
    by: Actor,
) -> Admission:
    """Stores the context, then admits memory, job and first event in one transaction.

    An `idempotency_key` used before with the same body gives the first admission again. Raises
    `IdempotencyConflict`, `BacklogFull`, `QuotaExceeded`, `StorageError`; blocking, for a thread.
    """
    if idempotency_key is not None:
        with database.read() as connection:
            known = find_idempotent(connection, tenant_id, idempotency_key, context.body_sha256)
        if known is not None:
            return Admission(*known, created=False)
    record = record_of(tenant_id, context, recipe)

    def commit() -> Admission:
        with database.begin() as connection:
            return Admission(
                *admit(
                    connection,
                    record,
                    idempotency_key=idempotency_key,
                    body_sha256=context.body_sha256,
                    backlog_limit=limits.backlog_per_tenant,
                    quotas=default_quotas(limits),
                    by=by,
                )
            )

    return commit_beside(store, record.context_key, context.payload, commit, lambda: _look_again(database, record))


def default_quotas(limits: LimitSettings) -> Quotas:
    """Of what is taken in, for tenants that have none of their own."""
    return Quotas(memories=limits.memories_per_tenant, bytes=limits.bytes_per_tenant)


def commit_beside(
    store: ObjectStore,
    key: str,
    payload: bytes,
    commit: Callable[[], Admission],
    look_again: Callable[[], Admission | None],
) -> Admission:
    """Stores the context, then commits; the object stays only where the commit did.

    `look_again` is asked where the commit may have happened although its reply was lost: only the database knows.
    """
    store_object(store, key, payload)
    try:
        admission = commit()
    except LatentBankError:
        remove_object(store, key)
        raise
    except Exception:
        committed = look_again()
        if committed is None:
            remove_object(store, key)
            raise
        return committed
    if not admission.created:
        remove_object(store, key)
    return admission


def estimated_seconds(tokens: int, recipe: RecipeSettings) -> float:
    """Device-seconds that a context should cost, from the runs in design/algorithm.md; corrected by what it does."""
    return 30.0 + recipe.steps * (1.0 + tokens / 500.0)


def _check_title(title: str, limits: LimitSettings) -> None:
    if not title.strip():
        raise InvalidRequest("A memory needs a title.", param="title")
    if len(title) > limits.title_chars:
        raise InvalidRequest(f"The title is longer than {limits.title_chars} characters.", param="title")


def _check_metadata(metadata: dict[str, Any], limits: LimitSettings) -> None:
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:
        # Infinities, and integers of thousands of digits: no database keeps them as JSON.
        raise InvalidRequest("A number in the metadata is out of range.", param="metadata") from None
    if size > limits.metadata_bytes:
        raise InvalidRequest(f"The metadata is larger than {limits.metadata_bytes} bytes.", param="metadata")
    if _has_nul(metadata):
        raise InvalidRequest("The metadata has a NUL character, which no database keeps.", param="metadata")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_nul, value))


def _source(offer: NewMemory) -> dict[str, Any]:
    if offer.messages is not None:
        return {"messages": [message.model_dump() for message in offer.messages]}
    return {"text": offer.text}


def _texts(offer: NewMemory) -> list[str]:
    return [message.content for message in offer.messages] if offer.messages is not None else [offer.text or ""]


def _check_length(texts: list[str], messages: int, longest: int, base: BaseModel) -> int:
    if any("\0" in text for text in texts):
        raise InvalidRequest("The context has NUL characters; it looks like a binary file.")
    if not any(character.isalnum() for text in texts for character in text):
        raise EmptyContext
    chars = sum(map(len, texts))
    if chars > longest * CHARS_PER_TOKEN_AT_MOST:
        raise ContextTooLong(
            f"The context has {chars} characters; the base model can learn at most {longest} tokens at once. "
            "Split it into several memories."
        )
    tokens = base.count_tokens(texts) + messages * TOKENS_PER_MESSAGE
    if tokens > longest:
        raise ContextTooLong(
            f"The context has {tokens} tokens; the base model can learn at most {longest} at once. "
            "Split it into several memories."
        )
    return tokens


def record_of(tenant_id: str, context: Context, recipe: RecipeSettings) -> NewRecord:
    """The row of a memory with a fresh id."""
    memory_id = new_id("mem")
    return NewRecord(
        id=memory_id,
        tenant_id=tenant_id,
        collection=context.collection,
        title=context.title,
        metadata=context.metadata,
        kind=context.kind,
        context_key=context_key(tenant_id, memory_id),
        context_sha256=hashlib.sha256(context.payload).hexdigest(),
        context_bytes=len(context.payload),
        context_tokens=context.tokens,
        base_digest=context.base_digest,
        cost_estimate_seconds=estimated_seconds(context.tokens, recipe),
    )


def store_object(store: ObjectStore, key: str, payload: bytes) -> None:
    """Raises `StorageError`, and then leaves nothing that can be removed."""
    try:
        store.put(key, payload, JSON)
    except StorageError:
        # A put that timed out may have happened.
        remove_object(store, key)
        raise


def remove_object(store: ObjectStore, key: str) -> None:
    """What can't be removed is left to the garbage collector."""
    try:
        store.delete(key)
    except StorageError as problem:
        # Nothing names it, so that the garbage collector takes it later.
        _log.warning("context object left for the garbage collector", key=key, reason=problem.message)


def _look_again(database: Database, record: NewRecord) -> Admission | None:
    """The admission if it was committed after all; raises where the database can't say, and then the object stays."""
    with database.read() as connection:
        try:
            memory = get_memory(connection, record.tenant_id, record.id)
        except NotFound:
            return None
        job = list_jobs(connection, record.tenant_id, memory_id=record.id, after=None, limit=1)[0]
        return Admission(memory, job, created=True)
