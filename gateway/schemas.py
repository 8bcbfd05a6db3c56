"""What goes over HTTP, in and out; the OpenAPI document is made from these models."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from core.truth.api_keys import SCOPES, Scope
from core.truth.records import DeletionKind, DeletionState, Fallback
from core.truth.tenants import QUOTA_AT_MOST, WEIGHT_AT_LEAST, WEIGHT_AT_MOST

# No control characters, and something that is no space.
Printable = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*$")]
Collection = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
Weight = Annotated[float, Field(ge=WEIGHT_AT_LEAST, le=WEIGHT_AT_MOST, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
MOST_KEY_SECONDS = 10 * 365 * 86400
MOST_GRACE_SECONDS = 90 * 86400
MemoryStatus = Literal["pending", "ready", "failed", "deleted"]
JobStatus = Literal["validating", "queued", "running", "succeeded", "failed", "rejected", "cancelled"]


IDEMPOTENCY_KEY = r"^[\x21-\x7e]{1,255}$"


class Input(BaseModel):
    """A body that is taken literally: no unknown fields, no coercion of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Message(Input):
    role: Literal["system", "user", "assistant"]
    content: str


def _one_source_in_schema(schema: dict[str, Any]) -> None:
    """Says in JSON Schema what `NewMemory._one_source` checks; a null stands for a field that is not there."""
    for name in ("text", "messages"):
        (schema["properties"][name],) = [
            part for part in schema["properties"][name]["anyOf"] if part != {"type": "null"}
        ]
    schema["properties"]["text"]["minLength"] = schema["properties"]["messages"]["minItems"] = 1
    schema["oneOf"] = [{"required": ["text"]}, {"required": ["messages"]}]


class NewMemory(Input):
    """A context to remember: a title, and either a text or the messages of a chat."""

    model_config = ConfigDict(json_schema_extra=_one_source_in_schema)

    title: Printable
    text: str | None = None
    messages: list[Message] | None = None
    collection: Collection = "default"
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> NewMemory:
        if (self.text is None) == (self.messages is None):
            raise ValueError("Send either 'text' or 'messages'")
        return self


class BatchMemory(NewMemory):
    """One context of many, and the key that makes sending it again safe: as the header `Idempotency-Key` of one."""

    idempotency_key: str | None = Field(None, pattern=IDEMPOTENCY_KEY)


class NewMemories(Input):
    """Contexts to remember. One that can't be taken is no reason to refuse the others, whatever is wrong with it."""

    memories: list[Any] = Field(min_length=1)


class MemoryUpdate(Input):
    """A new version of a memory's context: a text or the messages of a chat. Title and metadata stay if not given."""

    model_config = ConfigDict(json_schema_extra=_one_source_in_schema)

    title: Printable | None = None
    text: str | None = None
    messages: list[Message] | None = None
    metadata: dict[str, JsonValue] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> MemoryUpdate:
        if (self.text is None) == (self.messages is None):
            raise ValueError("Send either 'text' or 'messages'")
        return self


class QuotaChange(Input):
    """A tenant's quotas; what is left out stays, null goes back to the default of the processes' settings."""

    memories: int | None = Field(None, ge=0, le=QUOTA_AT_MOST)
    bytes: int | None = Field(None, ge=0, le=QUOTA_AT_MOST)
    """Contexts and adapters together."""
    jobs_in_flight: int | None = Field(None, ge=1, le=QUOTA_AT_MOST)
    """Jobs that have left the backlog and have not ended."""
    requests_per_minute: int | None = Field(None, ge=1, le=QUOTA_AT_MOST)


class NewTenant(Input):
    name: Printable = Field(max_length=200)
    weight: Weight = 1.0
    """Share of the distillation workers' time against other tenants."""
    false_activation: Rate | None = None
    """How often the gate may let a memory speak that should not; null: the workers' default."""
    fallback: Fallback = "none"
    """With `text`, a memory without an adapter, or in the gate's zone of doubt, may serve from its text."""
    quotas: QuotaChange = Field(default_factory=QuotaChange)


def _without_default(schema: dict[str, Any]) -> None:
    """What is left out stays as it is."""
    schema.pop("default", None)


class TenantChange(Input):
    """What may change of a tenant; what is left out stays."""

    weight: Annotated[Weight, Field(json_schema_extra=_without_default)] = 1.0
    """Share of the distillation workers' time against other tenants."""
    false_activation: Rate | None = None
    """How often the gate may let a memory speak that should not; null: the workers' default."""
    fallback: Annotated[Fallback, Field(json_schema_extra=_without_default)] = "none"
    """With `text`, a memory without an adapter, or in the gate's zone of doubt, may serve from its text."""
    quotas: QuotaChange = Field(default_factory=QuotaChange)

    @model_validator(mode="after")
    def _something(self) -> TenantChange:
        if not self.model_fields_set:
            raise ValueError("Send 'weight', 'false_activation', 'fallback' or 'quotas'")
        return self


class OwnSettings(Input):
    """What a tenant may change of itself; what is left out stays. Its share and its limits are the operator's."""

    false_activation: Rate | None = None
    """How often the gate may let a memory speak that should not; null: the workers' default."""
    fallback: Fallback | None = None
    """With `text`, a memory without an adapter, or in the gate's zone of doubt, may serve from its text."""

    @model_validator(mode="after")
    def _something(self) -> OwnSettings:
        if not self.model_fields_set:
            raise ValueError("Send 'false_activation' or 'fallback'")
        return self


class NewKey(Input):
    """A key to issue. Without an end it opens until it is rotated or revoked."""

    name: Printable = Field(max_length=200)
    scopes: list[Scope] = Field(list(SCOPES), min_length=1)
    """`ingest` takes contexts in and cancels jobs, `query` asks, `read` looks at memories and jobs, `admin` deletes,
    and manages the tenant's keys and settings."""
    expires_in_seconds: int | None = Field(None, ge=1, le=MOST_KEY_SECONDS)


class KeyRotation(Input):
    """How a key gives way to its successor."""

    grace_seconds: int = Field(24 * 3600, ge=0, le=MOST_GRACE_SECONDS)
    """How long the old key opens beside its successor; 0: not a moment."""
    expires_in_seconds: int | None = Field(None, ge=1, le=MOST_KEY_SECONDS)
    """Of the successor; null: as long from now as the old one was to live."""


class MemorySelection(Input):
    """Which memories a question may be answered from, and how it is decided."""

    ids: list[str] | None = Field(None, min_length=1, max_length=64)
    collection: str | None = None
    top_k: int | None = Field(None, ge=1, le=16)
    mode: Literal["auto", "off", "force"] = "auto"
    threshold: float | None = Field(None, ge=0, le=1)
    """Replaces the gate's threshold for this question."""
    fallback: Fallback | None = None
    """`none` keeps this question from being served from a text; null: as the tenant's setting says."""
    max_active: int | None = Field(None, ge=1, le=3)
    """How many memories that pass the gate may answer together."""
    explain: bool = False
    """Asks for what the gate saw of each candidate: its `signals`."""


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class QuestionMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]


class Question(BaseModel):
    """The fields of OpenAI's requests that an inference worker takes; it refuses those that it can't honour."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str
    """The base model's name (the gate chooses a memory, or none), or a memory's id (that memory, no gate)."""
    stream: bool | None = False
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    memory: MemorySelection | None = None


class ChatQuestion(Question):
    messages: list[QuestionMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)


class CompletionQuestion(Question):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    error: ErrorDetail


class MemoryObject(BaseModel):
    """A memory. `digest` and `bytes` are of its current adapter; times are Unix seconds.

    `job_id` is its newest job. While that makes a new version, or if it failed, everything else is of the version that
    serves. Of a deleted memory only ids and times are shown; `purged_at` is when its last object was removed.
    """

    id: str
    object: Literal["memory"] = "memory"
    title: str
    collection: str
    metadata: dict[str, Any]
    kind: Literal["text", "chat"]
    status: MemoryStatus
    version: int | None
    digest: str | None
    bytes: int | None
    context_tokens: int
    created_at: int
    updated_at: int
    deleted_at: int | None
    purged_at: int | None
    deletion_id: str | None
    job_id: str | None


class BatchError(BaseModel):
    """Why a context was refused, in the words of the error that it would have got alone."""

    code: str
    message: str
    param: str | None


class BatchOutcome(BaseModel):
    """What became of the context at `index`: a memory, made now or by an earlier request (`replayed`), or an error."""

    index: int
    status: Literal["accepted", "replayed", "refused"]
    memory: MemoryObject | None
    error: BatchError | None


class MemoryBatch(BaseModel):
    """The outcomes in the order of the contexts, and how many there are of each kind."""

    object: Literal["memory.batch"] = "memory.batch"
    data: list[BatchOutcome]
    accepted: int
    replayed: int
    refused: int


class MemoryDeleted(BaseModel):
    id: str
    object: Literal["memory.deleted"] = "memory.deleted"
    deleted: Literal[True] = True
    deleted_at: int
    purged_at: int | None
    deletion_id: str | None
    """Says how far the memory is forgotten; null for one that an earlier release deleted."""


class DeletionObject(BaseModel):
    """How far a memory, a collection or a tenant is forgotten; each step has its time, in Unix seconds.

    `tombstoned_at`: no query sees any of it from then on. `drained_at`: no worker that was heard of holds any of it,
    and the requests that used it have ended. `purged_at`: no object and no text in a row is left. `attested_at`: all of
    that.
    """

    id: str
    object: Literal["deletion"] = "deletion"
    kind: DeletionKind
    target: str
    """The memory's id, `sha256:` and the digest of the collection's name, or the tenant's id."""
    state: DeletionState
    memories: int
    """How many it has taken so far."""
    deleted_at: int
    tombstoned_at: int | None
    drained_at: int | None
    purged_at: int | None
    attested_at: int | None


class JobError(BaseModel):
    code: str
    message: str


class JobObject(BaseModel):
    """A distillation job, in the words of OpenAI's fine-tuning jobs; times are Unix seconds, `progress` 0 to 1."""

    id: str
    object: Literal["job"] = "job"
    memory_id: str
    status: JobStatus
    phase: str | None
    progress: float
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    error: JobError | None
    reason: str | None
    attempts: int
    cancel_requested: bool


class JobEventObject(BaseModel):
    """One event of a job; ids grow, so that a reader can go on after the last one it saw."""

    id: int
    object: Literal["job.event"] = "job.event"
    job_id: str
    created_at: int
    level: Literal["info", "warning", "error"]
    type: Literal["state", "phase", "progress", "message"]
    message: str
    data: dict[str, Any]


class AuditSubject(BaseModel):
    kind: str
    """`memory`, `collection`, `job`, `tenant` or `key`."""
    id: str
    """A collection has none: it is named by `sha256:` and the digest of its name."""


class AuditObject(BaseModel):
    """One deed: who did what to what, and when. Ids grow over all tenants, so that they have gaps.

    `actor` is `key:<key id>`, `admin` or `orchestrator`; `data` has ids and numbers, never a text.
    """

    id: int
    object: Literal["audit.record"] = "audit.record"
    tenant_id: str
    created_at: int
    actor: str
    action: str
    """As the filter `action` has them; a newer version of us may have written others."""
    subject: AuditSubject
    data: dict[str, Any]
    request_id: str | None


class QuotasObject(BaseModel):
    """A tenant's own quotas; null: the default of the processes' settings."""

    memories: int | None
    bytes: int | None
    jobs_in_flight: int | None
    requests_per_minute: int | None


class Used(BaseModel):
    """How much there is, and the most that may be; null: no limit."""

    used: int
    limit: int | None


class RateLimit(BaseModel):
    limit: int | None


class UsageObject(BaseModel):
    """What a tenant uses and may use: `bytes` are of contexts and adapters, `jobs_waiting` the backlog."""

    object: Literal["usage"] = "usage"
    memories: Used
    bytes: Used
    jobs_waiting: Used
    jobs_in_flight: Used
    requests_per_minute: RateLimit


class TenantObject(BaseModel):
    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    weight: float
    false_activation: float | None
    fallback: Fallback
    quotas: QuotasObject
    created_at: int


class TenantDetails(TenantObject):
    usage: UsageObject


class NewTenantObject(TenantObject):
    api_key: str
    """Shown this once; only its hash is kept. It has all scopes and no end."""
    api_key_id: str


class KeyObject(BaseModel):
    """What is kept of an API key; times are Unix seconds. `last_used_at` may be an hour behind.

    `active`: it opens now. Neither `expires_at` nor `revoked_at` has come; of a rotated key the latter may lie ahead.
    """

    id: str
    object: Literal["api_key"] = "api_key"
    tenant_id: str
    name: str
    scopes: list[str]
    active: bool
    created_at: int
    last_used_at: int | None
    expires_at: int | None
    revoked_at: int | None


class NewKeyObject(KeyObject):
    api_key: str
    """Shown this once; only its hash is kept."""


Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """A part of a list; ask again with `after=last_id` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | int | None
    last_id: str | int | None


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Check(BaseModel):
    ok: bool
    message: str | None = None


class Readiness(BaseModel):
    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]


class NotReady(Readiness, ErrorAnswer):
    """A 503 of `/ready`: what is missing, with an error beside it."""
