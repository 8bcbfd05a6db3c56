"""The right to run a job: claim, renew, advance, publish, finish, give back, and reap what was let go.

Every write is a compare-and-swap on the claim's epoch and token, and on a lease that the database's clock still finds
valid. Whoever lost the lease changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
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
from core.truth import banks, usage
from core.truth.clock import from_now, now
from core.truth.database import exclusive
from core.truth.dispatch import RUNNING
from core.truth.many_rows import RowUpdate
from core.truth.records import Claim, Job, Publication, Renewal
from core.truth.revisions import revised_fields
from core.truth.tables import jobs, memories
from core.truth.transitions import (
    Move,
    NewEvent,
    apply,
    apply_all,
    bump_banks,
    job_of,
    lock_job,
    lock_jobs,
    lock_shares,
    memory_of,
    state_of,
    write_event,
)
from core.truth.usage import SIZE


def claim(
    connection: Connection, job_id: str, worker_id: str, lease_seconds: float, *, skip_locked: bool = False
) -> Claim | None:
    """Takes a waiting job: epoch + 1, a fresh token, a lease from now; `None` where there is nothing to take.

    With `skip_locked` also where another transaction is just changing the job.
    """
    taken = claim_all(connection, [job_id], worker_id, lease_seconds, skip_locked=skip_locked)
    return next(iter(taken), None)


def claim_all(
    connection: Connection,
    job_ids: Sequence[str],
    worker_id: str,
    lease_seconds: float,
    *,
    skip_locked: bool = False,
    from_backlog: bool = False,
) -> list[Claim]:
    """As `claim`, those of the jobs that can be taken, in the order given; they share one fresh token.

    `from_backlog` takes jobs that were not dispatched, and charges their tenants as dispatch does.
    """
    rows = [row for row in lock_jobs(connection, job_ids, skip_locked=skip_locked) if _waits(row, from_backlog)]
    if not rows:
        return []
    token = secrets.token_hex(8)
    told = {"worker_id": worker_id}
    values: dict[str, Any] = {"pack_jobs": 1, "started_at": now(), "lease_until": from_now(lease_seconds)}
    if from_backlog:
        values |= {"dispatched_at": now(), "rung_at": now(), "charged_seconds": jobs.c.cost_estimate_seconds}
    changed = apply_all(
        connection,
        [Move(row, Claimed(), "A worker has taken the job.", data=told) for row in rows],
        worker_id=worker_id,
        token=token,
        **values,
    )
    found = select(memories).where(memories.c.id.in_([row.memory_id for row in changed.values()]))
    to_make = {row.id: memory_of(row) for row in connection.execute(found)}
    replaced = revised_fields(connection, list(changed))
    order = {job_id: place for place, job_id in enumerate(job_ids)}
    return [
        Claim(
            job_of(row), replace(to_make[row.memory_id], **replaced.get(row.id, {})), row.epoch, token, row.lease_until
        )
        for row in sorted(changed.values(), key=lambda row: order[row.id])
    ]


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


@dataclass(frozen=True, slots=True)
class Advance:
    """How far a claim's job is: phase and progress, 0 to 1 over the whole job, as an event."""

    claim: Claim
    phase: str
    progress: float
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)
    level: str = "info"


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
    moved = advance_all(connection, [Advance(claim, phase, progress, message, data or {}, level)])
    if claim.job.id not in moved:
        raise LeaseLost
    return moved[claim.job.id]


def advance_all(connection: Connection, advances: Sequence[Advance]) -> dict[str, Job]:
    """Reports many, in order, several of one job too; the jobs by id, without those whose lease is lost."""
    claims = {one.claim.job.id: one.claim for one in advances}
    rows = {row.id: row for row in lock_jobs(connection, list(claims)) if _is_held(row, claims[row.id])}
    moves = [
        Move(rows[one.claim.job.id], Advanced(Phase(one.phase), one.progress), one.message, one.level, one.data)
        for one in advances
        if one.claim.job.id in rows
    ]
    moved = apply_all(connection, moves, jobs.c.lease_until > now())
    return {id_: job_of(row) for id_, row in moved.items()}


def run_together(connection: Connection, claims: Sequence[Claim]) -> None:
    """The claims' jobs share one run from here on, and the device with it: each is settled for its part."""
    by_job = {claim.job.id: claim for claim in claims}
    by_id = select(jobs).where(jobs.c.id.in_(sorted(by_job))).order_by(jobs.c.id).with_for_update()
    held = [row.id for row in connection.execute(by_id) if _is_held(row, by_job[row.id])]
    mine = and_(jobs.c.id.in_(held), jobs.c.lease_until > now())
    connection.execute(update(jobs).where(mine).values(pack_jobs=len(claims)))


def tell(connection: Connection, claim: Claim, message: str) -> None:
    """A warning among the job's events; it changes nothing, and a lost lease tells nothing."""
    row = lock_job(connection, claim.job.id)
    if row is not None and row.epoch == claim.epoch and row.token == claim.token:
        write_event(connection, NewEvent(row.id, "message", message, level="warning"))


def publish(connection: Connection, claim: Claim, publication: Publication) -> bool:
    """THE commit point. True: the publication is the memory's current version; False: nothing has changed.

    Guarded by epoch, token, lease, running, not cancelled, memory not deleted, version newer. Asked again after a reply
    that got lost, it is True again.
    """
    return publish_all(connection, [(claim, publication)])[0]


def publish_all(connection: Connection, publications: Sequence[tuple[Claim, Publication]]) -> list[bool]:
    """As `publish`, each of different jobs for itself, in one transaction."""
    rows = {row.id: row for row in lock_jobs(connection, [claim.job.id for claim, _ in publications])}
    told: dict[str, bool] = {}
    by_version: dict[int, list[tuple[Row[Any], Publication]]] = {}
    for claim, publication in publications:
        row = rows.get(claim.job.id)
        if row is not None and State(row.state) is State.SUCCEEDED:
            told[row.id] = _is_current(connection, claim, row, publication)
        elif row is not None and _is_held(row, claim) and not row.cancel_requested:
            by_version.setdefault(publication.version, []).append((row, publication))
    if len(by_version) > 1:
        lock_shares(connection, {row.tenant_id for wanted in by_version.values() for row, _ in wanted})
    published: list[tuple[Row[Any], Publication]] = []
    for version, wanted in by_version.items():
        servable = select(memories.c.id).where(
            memories.c.id == jobs.c.memory_id,
            memories.c.deleted_at.is_(None),
            memories.c.version.is_(None) | (memories.c.version < version),
        )
        moves = [
            Move(row, Published(), "The memory is ready.", data={"version": version, "digest": made.adapter_digest})
            for row, made in wanted
        ]
        changed = apply_all(connection, moves, jobs.c.lease_until > now(), servable.exists())
        published += [(row, made) for row, made in wanted if row.id in changed]
    _make_current(connection, published)
    told |= {row.id: True for row, _ in published}
    return [told.get(claim.job.id, False) for claim, _ in publications]


@cache
def _current(names: tuple[str, ...]) -> RowUpdate:
    """Of memories that get new values in these columns, the first of which is their id."""
    _, *changed = names
    types = {name: memories.c[name].type for name in changed}
    return RowUpdate(memories, "id", types, lambda given: {"status": "ready", "updated_at": now(), **given})


def _make_current(connection: Connection, published: Sequence[tuple[Row[Any], Publication]]) -> None:
    """Writes what the memories, which are locked, are from now on, and tells their banks."""
    if not published:
        return
    sizes = select(memories.c.id, SIZE.label("size")).where(memories.c.id.in_([row.memory_id for row, _ in published]))
    before = {row.id: row.size for row in connection.execute(sizes)}
    replaced = revised_fields(connection, [row.id for row, _ in published])
    new = [
        {
            "id": row.memory_id,
            **replaced.get(row.id, {}),
            "version": made.version,
            "adapter_digest": made.adapter_digest,
            "manifest_key": made.manifest_key,
            "adapter_bytes": made.adapter_bytes,
            "base_digest": made.base_digest,
        }
        for row, made in published
    ]
    # New versions replace what the memory is made of too, first ones do not: two kinds of statement.
    for names in {tuple(fields) for fields in new}:
        _current(names).run(connection, [fields for fields in new if tuple(fields) == names])
    banks.put_records(connection, [(row.memory_id, made.adapter_digest, made.retrieval) for row, made in published])
    bump_banks(connection, [(row.tenant_id, row.memory_id) for row, _ in published])
    after = {row.id: row.size for row in connection.execute(sizes)}
    grown: dict[str, int] = {}
    for row, _ in published:
        grown[row.tenant_id] = grown.get(row.tenant_id, 0) + after[row.memory_id] - before[row.memory_id]
    usage.add_sizes(connection, grown)


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
    expired = and_(RUNNING, jobs.c.lease_until <= now())
    exclusive(connection, "reap")
    query = select(jobs.c.id, jobs.c.tenant_id).where(expired).order_by(jobs.c.lease_until).limit(limit)
    found = connection.execute(query).all()
    if found:
        # Before the jobs, which it does not wait for: their ends are settled one after the other.
        lock_shares(connection, {tenant_id for _, tenant_id in found})
    reaped = []
    for job_id, _ in found:
        row = lock_job(connection, job_id, skip_locked=True)
        if row is None or State(row.state) is not State.RUNNING:
            continue
        changed = _lose(
            connection, row, max_attempts, (expired,), "The worker was not heard of again.", "lease_expired", None
        )
        if changed is not None:
            reaped.append(job_of(changed))
    return reaped


def _waits(row: Row[Any], in_backlog: bool) -> bool:
    return State(row.state) is State.QUEUED and not (in_backlog and row.dispatched_at is not None)


def _is_held(row: Row[Any], claim: Claim) -> bool:
    """Whether the claim is the row's; whether its lease still holds only the database's clock can say."""
    return State(row.state) is State.RUNNING and (row.epoch, row.token) == (claim.epoch, claim.token)


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(
        jobs.c.id == claim.job.id,
        jobs.c.state == State.RUNNING,
        jobs.c.epoch == claim.epoch,
        jobs.c.token == claim.token,
        jobs.c.lease_until > now(),
    )


def _held_transition(
    connection: Connection,
    claim: Claim,
    event: Event,
    *,
    message: str,
    level: str = "info",
    data: Mapping[str, Any] | None = None,
    **values: Any,
) -> Job:
    """Raises `LeaseLost` before the state machine is asked: a job that others took over is not ours to judge."""
    row = lock_job(connection, claim.job.id)
    if row is None or not _is_held(row, claim):
        raise LeaseLost
    changed = apply(connection, Move(row, event, message, level, data or {}), _held(claim), **values)
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
        return apply(connection, Move(row, event, message, "warning", data), *guards)
    error = error_message or f"Given up after {row.attempts} attempts: {message}"
    move = Move(row, event, error, "error", data)
    return apply(connection, move, *guards, error_code=error_code, error_message=error)


def _is_current(connection: Connection, claim: Claim, row: Row[Any], publication: Publication) -> bool:
    """Whether this very publication was committed by this very claim."""
    if row.epoch != claim.epoch or row.token != claim.token:
        return False
    key = connection.execute(select(memories.c.manifest_key).where(memories.c.id == row.memory_id)).scalar_one()
    return bool(key == publication.manifest_key)
