"""How long the dispatcher's pass and the claim of a pack take, by how many jobs wait. On PostgreSQL."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.truth import jobs, tenants, workers
from core.truth.database import Database
from orchestrator.dispatcher import Dispatcher

BASE = "sha256:backlog"
_WORKERS = 2
_TTL_SECONDS = 3600.0
_MEMORIES = text(
    """INSERT INTO memories (id, tenant_id, collection, title, metadata, kind, status, context_key, context_sha256,
        context_bytes, context_tokens, base_digest, created_at, updated_at)
    SELECT 'mem_' || lpad(n::text, 26, '0'), (CAST(:tenants AS text[]))[1 + n % CAST(:count AS int)], 'default',
        'A title', '{}', 'text', 'pending', 'key', repeat('0', 64), 700, 150, :base, at, at
    FROM generate_series(1, CAST(:jobs AS int)) n,
        LATERAL (SELECT clock_timestamp() - make_interval(secs => CAST(:jobs AS int) - n) AS at) t"""
)
_JOBS = text(
    """INSERT INTO jobs (id, tenant_id, memory_id, state, progress, epoch, attempts, cancel_requested, priority,
        cost_estimate_seconds, charged_seconds, created_at)
    SELECT replace(id, 'mem_', 'job_'), tenant_id, id, 'queued', 0, 0, 0, false, 0, 60, 0, created_at FROM memories"""
)


class Silent:
    """Doorbells that nobody hears; what is measured is the decision."""

    def ring(self, job_id: str) -> None:
        return


def backlog_figures(
    postgres_url: str, sizes: Sequence[int], *, tenant_count: int, passes: int, pack: int
) -> dict[str, Any]:
    """Milliseconds of a pass and of a pack's claim at each size, the sizes taking turns; the last over the first."""
    databases = {size: _filled(postgres_url, size, tenant_count) for size in sizes}
    dispatch: dict[int, list[float]] = {size: [] for size in sizes}
    claims: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(passes):
        for size, database in databases.items():
            metrics = OrchestratorMetrics(CollectorRegistry())
            dispatcher = Dispatcher(database, Silent(), JobSettings(), metrics)
            dispatch[size].append(_milliseconds(dispatcher.run_once))
            claims[size].append(_milliseconds(partial(_claim_pack, database, pack)))
            _wait_again(database)
    for database in databases.values():
        database.dispose()
    return {"dispatch_ms": _figure(dispatch), "claim_pack_ms": _figure(claims), "pack": pack}


def _filled(postgres_url: str, size: int, tenant_count: int) -> Database:
    name = f"backlog_{size}"
    server = Database(postgres_url)
    with server._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    server.dispose()
    database = Database(make_url(postgres_url).set(database=name).render_as_string(hide_password=False))
    database.migrate()
    with database.begin() as connection:
        ids = [tenants.create_tenant(connection, f"tenant {number}").id for number in range(tenant_count)]
        connection.execute(_MEMORIES, {"tenants": ids, "count": tenant_count, "jobs": size, "base": BASE})
        connection.execute(_JOBS)
        for number in range(_WORKERS):
            info = {"base_digest": BASE}
            workers.announce(connection, f"worker_{number}", "distillation", "", info, _TTL_SECONDS)
        connection.execute(text("ANALYZE"))
    return database


def _claim_pack(database: Database, pack: int) -> None:
    limits = jobs.PackLimits(pack, 1 << 20, 32)
    with database.begin() as connection:
        dispatched = text("SELECT id FROM jobs WHERE state = 'queued' AND dispatched_at IS NOT NULL LIMIT 1")
        (first,) = connection.execute(dispatched).scalars()
        claim = jobs.claim(connection, first, "worker_0", 60.0)
        assert claim is not None
        jobs.claim_mates(connection, [claim], "worker_0", 60.0, limits)


def _wait_again(database: Database) -> None:
    """Everything that left the backlog is back in it, at the place where it was."""
    with database.begin() as connection:
        _run(connection, "DELETE FROM job_events")
        _run(
            connection,
            """UPDATE jobs SET state = 'queued', dispatched_at = NULL, rung_at = NULL, worker_id = NULL, epoch = 0,
            attempts = 0, lease_until = NULL, charged_seconds = 0
            WHERE dispatched_at IS NOT NULL OR state = 'running'""",
        )


def _run(connection: Connection, statement: str) -> None:
    connection.execute(text(statement))


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _figure(by_size: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    medians = {size: statistics.median(values) for size, values in by_size.items()}
    first, *_, last = medians.values()
    return {
        "median": {str(size): round(value, 2) for size, value in medians.items()},
        "lowest": {str(size): round(min(values), 2) for size, values in by_size.items()},
        "ratio": round(last / first, 3),
    }
