"""The tables of the truth. `migrations/` creates them; a test holds the two equal.

Locks are always taken in the order memory, job, API key, fair share, tenant, deletion, usage of a tenant, so that no
two transactions wait for each other; who deletes several memories at once holds no job, and the reaper and the
dispatcher, who hold shares first, take of jobs only what nobody else holds. A job's row is locked before an
event of it is written, so that the ids of one job's events grow in the order of commit. A record of the audit log locks
nothing that another transaction may wait for, and can be written at any point.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from core.truth.clock import Instant

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Document = JSON().with_variant(JSONB(), "postgresql")
Identifier = String(64)
_WAITING = "state = 'queued' AND dispatched_at IS NULL"
_DISPATCHED = "state = 'queued' AND dispatched_at IS NOT NULL"
Counter = BigInteger().with_variant(Integer(), "sqlite")

tenants = Table(
    "tenants",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("name", Text, nullable=False),
    Column("weight", Float, nullable=False),
    Column("settings", Document, nullable=False),
    Column("bank_revision", Counter, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("deleted_at", Instant),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_sha256", String(64), primary_key=True),
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), nullable=False, index=True),
    Column("created_at", Instant, nullable=False),
    Column("revoked_at", Instant),
    Column("name", Text),
    Column("scopes", Document),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),
)

fair_shares = Table(
    "fair_shares",
    metadata,
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), primary_key=True),
    Column("deficit_seconds", Float, nullable=False),
    Column("turn", Counter, nullable=False),
    Column("updated_at", Instant, nullable=False),
)

tenant_usage = Table(
    "tenant_usage",
    metadata,
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), primary_key=True),
    Column("memories", Counter, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("jobs_at_most", Counter, nullable=False),
    Column("counted_at", Instant, index=True),
)

memories = Table(
    "memories",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), nullable=False),
    Column("collection", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("metadata", Document, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("context_key", Text, nullable=False),
    Column("context_sha256", String(64), nullable=False),
    Column("context_bytes", BigInteger, nullable=False),
    Column("context_tokens", Integer, nullable=False),
    Column("base_digest", Text, nullable=False),
    Column("version", Integer),
    Column("adapter_digest", Text),
    Column("manifest_key", Text),
    Column("adapter_bytes", BigInteger),
    Column("bank_revision", Counter),
    Column("created_at", Instant, nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("deleted_at", Instant),
    Column("purged_at", Instant),
    Column("deletion_id", Identifier),
    Index(None, "tenant_id", "created_at", "id"),
    Index(None, "tenant_id", "bank_revision"),
    Index(None, "deletion_id", "purged_at"),
    Index(None, "status", "purged_at", "id"),
    Index(None, "adapter_digest"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), nullable=False),
    Column("memory_id", Identifier, ForeignKey("memories.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("phase", String(16)),
    Column("reason", String(32)),
    Column("error_code", Text),
    Column("error_message", Text),
    Column("progress", Float, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("worker_id", Text),
    Column("token", String(64)),
    Column("lease_until", Instant),
    Column("cost_estimate_seconds", Float, nullable=False),
    Column("charged_seconds", Float, nullable=False),
    Column("pack_jobs", Integer),
    Column("created_at", Instant, nullable=False),
    Column("dispatched_at", Instant),
    Column("rung_at", Instant),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Index(None, "tenant_id", "created_at", "id"),
    Index(None, "state", "tenant_id", "priority", "created_at"),
)

# What dispatch asks for again and again; each holds only the jobs that it is about, however many there are.
for _name, _columns, _which in (
    ("waiting", (jobs.c.tenant_id, jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id), _WAITING),
    ("dispatched", (jobs.c.dispatched_at, jobs.c.created_at, jobs.c.id), _DISPATCHED),
    ("running", (jobs.c.lease_until,), "state = 'running'"),
):
    Index(f"ix_jobs_{_name}", *_columns, postgresql_where=text(_which), sqlite_where=text(_which))
tenant_keys = Table(
    "tenant_keys",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), nullable=False, index=True),
    Column("master_id", String(16), nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("destroyed_at", Instant),
)

deletions = Table(
    "deletions",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("target", String(128), nullable=False),
    Column("collection", Text),
    Column("memories", Integer, nullable=False),
    Column("deleted_at", Instant, nullable=False),
    Column("tombstoned_at", Instant),
    Column("draining_at", Instant),
    Column("drained_at", Instant),
    Column("purged_at", Instant),
    Column("attested_at", Instant),
    Index(None, "tenant_id", "deleted_at", "id"),
    Index(None, "attested_at", "deleted_at", "id"),
)

retrieval_records = Table(
    "retrieval_records",
    metadata,
    Column("memory_id", Identifier, ForeignKey("memories.id"), primary_key=True),
    Column("adapter_digest", Text, nullable=False),
    Column("encoder", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("vectors", LargeBinary, nullable=False),
    Column("terms", LargeBinary, nullable=False),
    Column("samples", LargeBinary, nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("job_id", Identifier, ForeignKey("jobs.id"), primary_key=True),
    Column("title", Text, nullable=False),
    Column("metadata", Document, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("context_key", Text, nullable=False),
    Column("context_sha256", String(64), nullable=False),
    Column("context_bytes", BigInteger, nullable=False),
    Column("context_tokens", Integer, nullable=False),
    Column("base_digest", Text, nullable=False),
)

job_events = Table(
    "job_events",
    metadata,
    Column("id", Counter, primary_key=True, autoincrement=True),
    Column("job_id", Identifier, ForeignKey("jobs.id"), nullable=False),
    Column("at", Instant, nullable=False),
    Column("level", String(16), nullable=False),
    Column("type", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Document, nullable=False),
    Index(None, "job_id", "id"),
    sqlite_autoincrement=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant_id", Identifier, ForeignKey("tenants.id"), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("memory_id", Identifier, ForeignKey("memories.id"), nullable=False),
    Column("job_id", Identifier, ForeignKey("jobs.id"), nullable=False),
    Column("created_at", Instant, nullable=False),
)

identity = Table(
    "identity",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("created_at", Instant, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("url", Text, nullable=False),
    Column("info", Document, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Index(None, "kind", "expires_at"),
)

# No foreign key: the log stays when the tenant is deleted. Triggers of its migration refuse all but an insert.
audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Counter, primary_key=True, autoincrement=True),
    Column("tenant_id", Identifier, nullable=False),
    Column("at", Instant, nullable=False),
    Column("actor", String(255), nullable=False),
    Column("action", String(32), nullable=False),
    Column("subject_kind", String(16), nullable=False),
    Column("subject_id", String(128), nullable=False),
    Column("data", Document, nullable=False),
    Column("request_id", String(128)),
    Index(None, "tenant_id", "id"),
    Index(None, "tenant_id", "subject_id"),
    sqlite_autoincrement=True,
)
