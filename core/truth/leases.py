"""The right to run a job: claim, renew, advance, publish, finish, give back, and reap what was let go.

Every write is a compare-and-swap on the claim's epoch and token, and on a lease that the database's clock still finds
valid. Whoever lost the lease changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, select, update

from core.errors import LeaseLost
from core.jobs.states import (
    ENDS,
    Advanced,
    AttemptLost,
    Claimed,
    Ended,
    Event,
    Phase,
    Published,
    Reason,
    Released,
    State,
    transition,
)
from core.truth import banks
from core.truth.clock import from_now, now
from core.truth.database import exclusive
from core.truth.records import Claim, Job, Publication, Renewal
from core.truth.revisions import revised, revised_fields
from core.truth.tables import jobs, memories
from core.truth.transitions import apply, bump_bank, job_of, lock_job, memory_of, state_of, write_event


def claim(
    connection: Connection, job_id: str, worker_id: str, lease_seconds: float, *, skip_locked: bool = False
) -> Claim | None:
    """Takes a waiting job: epoch + 1, a fresh token, a lease from now; `None` where there is nothing to take.

    With `skip_locked` also where another transaction is just changing the job.
    """
    row = lock_job(connection, job_id, skip_locked=skip_locked)
    if row is None or State(row.state) is not State.QUEUED:
        return None
    token = secrets.token_hex(8)
    changed = apply(
        connection,
        row,
        Claimed(),
        message="A worker has taken the job.",
        data={"worker_id": worker_id},
        worker_id=worker_id,
        token=token,
        lease_until=from_now(lease_seconds),
        started_at=now(),
        pack_jobs=1,
    )
    if changed is None:
        return None
    memory = connection.execute(select(memories).where(memories.c.id == row.memory_id)).one()
    to_make = revised(connection, memory_of(memory), row.id)
    return Claim(job_of(changed), to_make, changed.epoch, token, changed.lease_until)


def renew(connection: Connection, claim: Claim, lease_seconds: float) -> Renewal:
    """The heartbeat. A lease that has run out can't be renewed, even if nobody took the job yet."""
    row = connection.execute(
        update(jobs)
        .where(_held(claim))
        .values(lease_until=from_now(lease_seconds))
        .returning(jobs.c.cancel_requested, jobs.c.lease_until)
    ).one_or_none()
    if row is None:
        return Renewal(held=False, cancel_requested=False)
    return Renewal(True, row.cancel_requested, row.lease_until)


def advance(
    connection: Connection,
    claim: Claim,
    phase: str,
    progress: float,
    message: str,
    data: dict[str, Any] | None = None,
    *,
    level: str = "info",
) -> Job:
    """Reports phase and progress (0 to 1 over the whole job) as an event. Raises `LeaseLost`."""
    return _held_transition(
        connection, claim, Advanced(Phase(phase), progress), message=message, data=data, level=level
    )


def run_together(connection: Connection, claims: Sequence[Claim]) -> None:
    """The claims' jobs share one run from here on, and the device with it: each is settled for its part."""
    for claim in sorted(claims, key=lambda claim: claim.job.id):
        connection.execute(update(jobs).where(_held(claim)).values(pack_jobs=len(claims)))


def tell(connection: Connection, claim: Claim, message: str) -> None:
    """A warning among the job's events; it changes nothing, and a lost lease tells nothing."""
    row = lock_job(connection, claim.job.id)
    if row is not None and row.epoch == claim.epoch and row.token == claim.token:
        write_event(connection, row.id, "message", message, level="warning")


def publish(connection: Connection, claim: Claim, publication: Publication) -> bool:
    """THE commit point. True: the publication is the memory's current version; False: nothing has changed.

    Guarded by epoch, token, lease, running, not cancelled, memory not deleted, version newer. Asked again after a reply
    that got lost, it is True again.
    """
    row = lock_job(connection, claim.job.id)
    if row is None:
        return False
    if State(row.state) is State.SUCCEEDED:
        return _is_current(connection, claim, row, publication)
    if State(row.state) is not State.RUNNING or row.cancel_requested:
        return False
    servable = select(memories.c.id).where(
        memories.c.id == row.memory_id,
        memories.c.deleted_at.is_(None),
        memories.c.version.is_(None) | (memories.c.version < publication.version),
    )
    message, data = "The memory is ready.", {"version": publication.version, "digest": publication.adapter_digest}
    if apply(connection, row, Published(), _held(claim), servable.exists(), message=message, data=data) is None:
        return False
    connection.execute(
        update(memories)
        .where(memories.c.id == row.memory_id)
        .values(
            status="ready",
            version=publication.version,
            adapter_digest=publication.adapter_digest,
            manifest_key=publication.manifest_key,
            adapter_bytes=publication.adapter_bytes,
            updated_at=now(),
            **(revised_fields(connection, row.id) | {"base_digest": publication.base_digest}),
        )
    )
    banks.put_record(connection, row.memory_id, publication.adapter_digest, publication.retrieval)
    bump_bank(connection, row.tenant_id, row.memory_id)
    return True


def finish(
    connection: Connection,
    claim: Claim,
    state: str,
    reason: str,
    error_code: str | None = None,
    error_message: str | None = None,
) -> Job:
    """Ends the job without an adapter: failed, rejected or cancelled, as its `Reason` says. Raises `LeaseLost`."""
    why = Reason(reason)
    if ENDS[why] is not State(state):
        raise ValueError(f"'{why}' is a reason for '{ENDS[why]}', not for '{state}'.")
    return _held_transition(
        connection,
        claim,
        Ended(why),
        message=error_message or f"The job is {state}: {reason}.",
        level="warning" if ENDS[why] is State.CANCELLED else "error",
        data={"error_code": error_code},
        error_code=error_code,
        error_message=error_message,
    )


def release(connection: Connection, claim: Claim, message: str = "The worker shuts down; the job waits again.") -> Job:
    """Given back through no fault of the job: it waits again, the attempt does not count. Raises `LeaseLost`."""
    return _held_transition(connection, claim, Released(), message=message)


def give_up(
    connection: Connection, claim: Claim, max_attempts: int, error_code: str | None, error_message: str | None
) -> Job:
    """The attempt failed, another may not: the job waits again, at the cap it fails as `poison`. Raises `LeaseLost`."""
    message = error_message or "The attempt failed."
    return _lost_attempt(connection, claim.job.id, max_attempts, (_held(claim),), message, error_code, error_message)


def reap(connection: Connection, max_attempts: int, limit: int = 100) -> list[Job]:
    """Takes back jobs whose lease ran out: they wait again, are cancelled if that was asked for, or fail as `poison`.

    One reaper at a time, and it skips what another transaction is just working on, so that it blocks no worker.
    """
    expired = and_(jobs.c.state == State.RUNNING, jobs.c.lease_until <= now())
    exclusive(connection, "reap")
    ids = connection.execute(select(jobs.c.id).where(expired).order_by(jobs.c.lease_until).limit(limit)).scalars().all()
    reaped = []
    for job_id in ids:
        row = lock_job(connection, job_id, skip_locked=True)
        if row is None or State(row.state) is not State.RUNNING:
            continue
        changed = _lose(
            connection, row, max_attempts, (expired,), "The worker was not heard of again.", "lease_expired", None
        )
        if changed is not None:
            reaped.append(job_of(changed))
    return reaped


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == claim.job.id,
        jobs.c.state == State.RUNNING,
        jobs.c.epoch == claim.epoch,
        jobs.c.token == claim.token,
        jobs.c.lease_until > now(),
    )


def _held_transition(connection: Connection, claim: Claim, event: Event, **values: Any) -> Job:
    """Raises `LeaseLost` before the state machine is asked: a job that others took over is not ours to judge."""
    row = lock_job(connection, claim.job.id)
    if row is None or row.epoch != claim.epoch or row.token != claim.token or State(row.state) is not State.RUNNING:
        raise LeaseLost
    changed = apply(connection, row, event, _held(claim), **values)
    if changed is None:
        raise LeaseLost
    return job_of(changed)


def _lost_attempt(
    connection: Connection,
    job_id: str,
    max_attempts: int,
    guards: tuple[ColumnElement[bool], ...],
    message: str,
    error_code: str | None,
    error_message: str | None,
) -> Job:
    row = lock_job(connection, job_id)
    if row is None or State(row.state) is not State.RUNNING:
        raise LeaseLost
    changed = _lose(connection, row, max_attempts, guards, message, error_code, error_message)
    if changed is None:
        raise LeaseLost
    return job_of(changed)


def _lose(
    connection: Connection,
    row: Row[Any],
    max_attempts: int,
    guards: tuple[ColumnElement[bool], ...],
    message: str,
    error_code: str | None,
    error_message: str | None,
) -> Row[Any] | None:
    """One attempt less; the error stays on the job only where it is the end."""
    event = AttemptLost(max_attempts)
    after = transition(state_of(row), event).state
    data = {"error_code": error_code, "attempt": row.attempts}
    if after is not State.FAILED:
        return apply(connection, row, event, *guards, message=message, level="warning", data=data)
    error = error_message or f"Given up after {row.attempts} attempts: {message}"
    return apply(
        connection,
        row,
        event,
        *guards,
        message=error,
        level="error",
        data=data,
        error_code=error_code,
        error_message=error,
    )


def _is_current(connection: Connection, claim: Claim, row: Row[Any], publication: Publication) -> bool:
    """Whether this very publication was committed by this very claim."""
    if row.epoch != claim.epoch or row.token != claim.token:
        return False
    key = connection.execute(select(memories.c.manifest_key).where(memories.c.id == row.memory_id)).scalar_one()
    return bool(key == publication.manifest_key)
