"""What the truth's functions take and return: frozen records, times aware and in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

Fallback = Literal["none", "text"]


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a tenant may have, and ask for; `None`: as the settings of the process say, where it is a tenant's own."""

    memories: int | None = None
    bytes: int | None = None
    """Of contexts and adapters together."""
    jobs_in_flight: int | None = None
    requests_per_minute: int | None = None

    def over(self, defaults: Quotas) -> Quotas:
        """These where they say something, else the defaults."""
        own = {name: getattr(self, name) for name in self.__slots__}
        return replace(defaults, **{name: value for name, value in own.items() if value is not None})


NO_QUOTAS = Quotas()


def quotas_in(settings: Mapping[str, Any]) -> Quotas:
    """The quotas in a tenant's settings."""
    own = settings.get("quotas") or {}
    return Quotas(**{name: own.get(name) for name in Quotas.__slots__})


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tenant has: memories that are not deleted, bytes of their contexts and published adapters."""

    memories: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Tenant:
    """`weight` is the tenant's share of the devices; `bank_revision` grows with every change of what is served."""

    id: str
    name: str
    weight: float
    settings: dict[str, Any]
    bank_revision: int
    created_at: datetime

    @property
    def false_activation(self) -> float | None:
        """The rate that the tenant's gate was promised to keep, or `None` for the worker's default."""
        rate = self.settings.get("false_activation")
        return None if rate is None else float(rate)

    @property
    def fallback(self) -> Fallback:
        """Whether a memory without an adapter, or in the gate's zone of doubt, may serve from its text."""
        return "text" if self.settings.get("fallback") == "text" else "none"

    @property
    def quotas(self) -> Quotas:
        """The tenant's own, set by the admin."""
        return quotas_in(self.settings)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key but for its digest. It opens until the first of `expires_at` and `revoked_at`.

    `last_used_at` may be an hour behind.
    """

    id: str
    tenant_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory to admit; its context object is already stored under `context_key`."""

    id: str
    tenant_id: str
    collection: str
    title: str
    metadata: dict[str, Any]
    kind: Literal["text", "chat"]
    context_key: str
    context_sha256: str
    context_bytes: int
    context_tokens: int
    base_digest: str
    cost_estimate_seconds: float
    priority: int = 0
    """Only orders the jobs of one tenant; higher goes first."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A memory to admit, and the key that makes a repeated offer safe; with a key comes its body's digest."""

    new: NewMemory
    idempotency_key: str | None = None
    body_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class NewRevision:
    """A new version of a memory to admit; its context object is already stored under `context_key`.

    `replaces` is the published version that it was made after, if there was one: what it leaves as it is stems from
    there.
    """

    job_id: str
    memory_id: str
    tenant_id: str
    title: str
    metadata: dict[str, Any]
    kind: Literal["text", "chat"]
    context_key: str
    context_sha256: str
    context_bytes: int
    context_tokens: int
    base_digest: str
    cost_estimate_seconds: float
    replaces: int | None


@dataclass(frozen=True, slots=True)
class Memory:
    id: str
    tenant_id: str
    collection: str
    title: str
    metadata: dict[str, Any]
    kind: Literal["text", "chat"]
    status: Literal["pending", "ready", "failed", "deleted"]
    context_key: str
    context_sha256: str
    context_bytes: int
    context_tokens: int
    base_digest: str
    version: int | None
    adapter_digest: str | None
    manifest_key: str | None
    adapter_bytes: int | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    purged_at: datetime | None


@dataclass(frozen=True, slots=True)
class Job:
    """`dispatched_at` is when it left the backlog for the queue of doorbells, `rung_at` when its bell last rang."""

    id: str
    tenant_id: str
    memory_id: str
    state: str
    phase: str | None
    reason: str | None
    error_code: str | None
    error_message: str | None
    progress: float
    epoch: int
    attempts: int
    cancel_requested: bool
    priority: int
    worker_id: str | None
    lease_until: datetime | None
    cost_estimate_seconds: float
    created_at: datetime
    dispatched_at: datetime | None
    rung_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobEvent:
    id: int
    job_id: str
    at: datetime
    level: Literal["info", "warning", "error"]
    type: Literal["state", "phase", "progress", "message"]
    message: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a job until `lease_until`, as long as the job's row still has this epoch and token.

    `memory` is as the job is to make it: with the context to distil, and what is published so far.
    """

    job: Job
    memory: Memory
    epoch: int
    token: str = field(repr=False)
    lease_until: datetime


@dataclass(frozen=True, slots=True)
class Renewal:
    """`held` false: the lease is lost, stop and discard. `cancel_requested`: stop and finish as cancelled."""

    held: bool
    cancel_requested: bool
    lease_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class RetrievalRecord:
    """How a version is found, in a few kilobytes: `core.retrieval.compact` reads and writes it.

    `vectors` are bytes `[n, dimension]`, those that stand for most first; `samples` what the bank's gate is fitted to.
    """

    encoder: str
    dimension: int
    vectors: bytes = field(repr=False)
    terms: bytes = field(repr=False)
    samples: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Publication:
    """What the commit point names: a manifest that is uploaded and verified."""

    manifest_key: str
    adapter_digest: str
    adapter_bytes: int
    base_digest: str
    version: int
    retrieval: RetrievalRecord | None = None


@dataclass(frozen=True, slots=True)
class BankEntry:
    memory_id: str
    collection: str
    title: str
    version: int
    adapter_digest: str
    manifest_key: str
    base_digest: str


@dataclass(frozen=True, slots=True)
class ContextRecord:
    """Where the text of a memory is, as it serves or is to be learnt first."""

    memory_id: str
    tenant_id: str
    collection: str
    title: str
    context_key: str
    context_sha256: str
    context_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """A served memory with its record but for its samples; `record` is None for a version from before records."""

    entry: BankEntry
    created_at: datetime
    record: RetrievalRecord | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes of a bank at an earlier revision the one at `revision`: served anew or otherwise, and no more."""

    revision: int
    served: tuple[Found, ...]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TenantKey:
    """A tenant's data key as the truth keeps it: wrapped by the master key `master_id`."""

    id: str
    tenant_id: str
    master_id: str
    wrapped: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    id: str
    kind: Literal["distillation", "inference"]
    url: str
    info: dict[str, Any]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One deed; `id` grows in the order of writing, over all tenants."""

    id: int
    tenant_id: str
    at: datetime
    actor: str
    action: str
    subject_kind: str
    subject_id: str
    data: dict[str, Any]
    request_id: str | None
