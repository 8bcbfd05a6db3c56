"""Jobs as tenants see them: reading, listing, events, cancelling. Leases and dispatch are re-exported from here."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from core.errors import NotFound
from core.jobs.states import ENDED, Reason, State
from core.truth.audit import UNNAMED, Actor, record
from core.truth.clock import from_now
from core.truth.dispatch import (
    Departure,
    InFlight,
    depart,
    dispatchable,
    in_flight,
    mark_all_dispatched,
    mark_dispatched,
    ring_overdue,
    rings_unheard,
    unring,
)
from core.truth.leases import (
    Advance,
    advance,
    advance_all,
    claim,
    finish,
    give_up,
    publish,
    publish_all,
    reap,
    release,
    renew,
    run_together,
    tell,
)
from core.truth.packing import PackLimits, claim_mates, claim_next
from core.truth.pages import older_than
from core.truth.records import Job, JobEvent
from core.truth.tables import job_events, jobs
from core.truth.transitions import cancel, job_of, lock_job

__all__ = [
    "Advance",
    "Departure",
    "InFlight",
    "PackLimits",
    "advance",
    "advance_all",
    "claim",
    "claim_mates",
    "claim_next",
    "count_by_state",
    "count_poisoned",
    "depart",
    "dispatchable",
    "finish",
    "get_job",
    "give_up",
    "in_flight",
    "list_events",
    "list_jobs",
    "mark_all_dispatched",
    "mark_dispatched",
    "newest_jobs",
    "pending_device_seconds",
    "publish",
    "publish_all",
    "reap",
    "release",
    "renew",
    "request_cancel",
    "ring_overdue",
    "rings_unheard",
    "run_together",
    "tell",
    "unring",
]


def get_job(connection: Connection, tenant_id: str, job_id: str) -> Job:
    """Another tenant's job is `NotFound`."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id, jobs.c.tenant_id == tenant_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job '{job_id}'.")
    return job_of(row)


def list_jobs(
    connection: Connection,
    tenant_id: str,
    *,
    after: str | None = None,
    limit: int = 20,
    state: str | None = None,
    memory_id: str | None = None,
) -> list[Job]:
    """Newest first; `after` is the id of the last one seen."""
    query = select(jobs).where(jobs.c.tenant_id == tenant_id)
    if state is not None:
        query = query.where(jobs.c.state == state)
    if memory_id is not None:
        query = query.where(jobs.c.memory_id == memory_id)
    if after is not None:
        query = query.where(older_than(connection, jobs, tenant_id, after))
    rows = connection.execute(query.order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit))
    return [job_of(row) for row in rows]


def newest_jobs(connection: Connection, memory_ids: Iterable[str]) -> dict[str, str]:
    """The id of the newest job of each memory, by the memory's id."""
    rows = connection.execute(
        select(jobs.c.memory_id, jobs.c.id)
        .where(jobs.c.memory_id.in_(sorted(set(memory_ids))))
        .order_by(jobs.c.created_at, jobs.c.id)
    )
    return {memory_id: job_id for memory_id, job_id in rows}


def list_events(
    connection: Connection, tenant_id: str, job_id: str, *, after: int = 0, limit: int = 100
) -> list[JobEvent]:
    """Oldest first, those with an id above `after`. A reader that follows the ids misses none."""
    get_job(connection, tenant_id, job_id)
    rows = connection.execute(
        select(job_events)
        .where(job_events.c.job_id == job_id, job_events.c.id > after)
        .order_by(job_events.c.id)
        .limit(limit)
    )
    return [JobEvent(**row._mapping) for row in rows]


def request_cancel(connection: Connection, tenant_id: str, job_id: str, by: Actor = UNNAMED) -> Job:
    """A waiting job is cancelled at once, a running one at its next heartbeat; one that has ended stays as it is."""
    get_job(connection, tenant_id, job_id)
    row = lock_job(connection, job_id)
    if row is None:
        raise NotFound(f"There is no job '{job_id}'.")
    if State(row.state) not in ENDED and not row.cancel_requested:
        record(connection, tenant_id, by, "job.cancelled", ("job", job_id), {"memory_id": row.memory_id})
    return job_of(cancel(connection, row, Reason.CANCEL_REQUESTED))


def count_by_state(connection: Connection) -> dict[str, int]:
    """All states, also those that no job is in."""
    rows = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state))
    return {state.value: 0 for state in State} | {state: count for state, count in rows}


def count_poisoned(connection: Connection, seconds: float) -> int:
    """Jobs that failed as poison in the last `seconds`."""
    ended = (
        (jobs.c.state == State.FAILED) & (jobs.c.reason == Reason.POISON) & (jobs.c.finished_at > from_now(-seconds))
    )
    return int(connection.execute(select(func.count()).select_from(jobs).where(ended)).scalar_one())


def pending_device_seconds(connection: Connection) -> float:
    """The work ahead: estimates of what waits, and of what is left of what runs."""
    ahead = func.sum(jobs.c.cost_estimate_seconds * (1.0 - jobs.c.progress))
    total = connection.execute(select(ahead).where(jobs.c.state.in_([State.QUEUED, State.RUNNING]))).scalar_one()
    return float(total or 0.0)
