"""How a transition reaches the database: the pure state machine decides, one guarded update and its event record it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, select, update

from core.errors import NotFound
from core.jobs.states import ENDED, CancelRequested, Event, JobState, Phase, Reason, State, transition
from core.truth.clock import now
from core.truth.records import Job, Memory
from core.truth.tables import fair_shares, job_events, jobs, memories, tenants

# What it returns makes many rows one statement.
_NEW_EVENTS = insert(job_events).values(at=now()).returning(job_events.c.id)


def job_of(row: Row[Any]) -> Job:
    """SQLite returns a whole number for a whole float."""
    fields = {name: row._mapping[name] for name in Job.__slots__}
    fields["progress"], fields["cost_estimate_seconds"] = float(row.progress), float(row.cost_estimate_seconds)
    return Job(**fields)


def memory_of(row: Row[Any]) -> Memory:
    """Of a row that has all columns of a memory, and perhaps more."""
    return Memory(**{name: row._mapping[name] for name in Memory.__slots__})


def state_of(row: Row[Any]) -> JobState:
    """The part of a job's row that the state machine knows."""
    fields = row._mapping
    return JobState(
        state=State(fields["state"]),
        phase=Phase(fields["phase"]) if fields["phase"] else None,
        reason=Reason(fields["reason"]) if fields["reason"] else None,
        epoch=fields["epoch"],
        attempts=fields["attempts"],
        progress=fields["progress"],
        cancel_requested=fields["cancel_requested"],
    )


def read_job(connection: Connection, job_id: str) -> Row[Any]:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job '{job_id}'.")
    return row


def lock_job(connection: Connection, job_id: str, *, skip_locked: bool = False) -> Row[Any] | None:
    """The job's row, locked after its memory's; `None` where it is unknown, or locked by another that we skip."""
    memory_id = select(jobs.c.memory_id).where(jobs.c.id == job_id).scalar_subquery()
    memory = select(memories.c.id).where(memories.c.id == memory_id).with_for_update(skip_locked=skip_locked)
    if connection.execute(memory).one_or_none() is None:
        return None
    job = select(jobs).where(jobs.c.id == job_id).with_for_update(skip_locked=skip_locked)
    return connection.execute(job).one_or_none()


def apply(
    connection: Connection,
    row: Row[Any],
    event: Event,
    *guards: ColumnElement[bool],
    message: str,
    level: str = "info",
    data: dict[str, Any] | None = None,
    **values: Any,
) -> Row[Any] | None:
    """Moves the job of `row` by `event`, writes the event, and settles what an end means for others.

    The update only hits where the row is still in the state and epoch that was read, and every guard holds; `None`, and
    nothing changed, where it did not. Raises `IllegalTransition` where the state machine does.
    """
    before = state_of(row)
    after = transition(before, event)
    leaves = before.state is State.RUNNING and after.state is not State.RUNNING
    if leaves:
        values |= {"lease_until": None, "charged_seconds": 0.0}
    if after.state is State.QUEUED:
        values |= {"dispatched_at": None, "rung_at": None, "worker_id": None, "charged_seconds": 0.0}
    if after.state in ENDED:
        values |= {"finished_at": now(), "charged_seconds": 0.0}
    statement = (
        update(jobs)
        .where(jobs.c.id == row.id, jobs.c.state == before.state, jobs.c.epoch == before.epoch, *guards)
        .values(
            state=after.state.value,
            phase=after.phase,
            reason=after.reason,
            epoch=after.epoch,
            attempts=after.attempts,
            progress=after.progress,
            cancel_requested=after.cancel_requested,
            **values,
        )
        .returning(*jobs.c)
    )
    changed = connection.execute(statement).one_or_none()
    if changed is None:
        return None
    told = _event_data(after) | (data or {})
    write_event(connection, NewEvent(row.id, _event_type(before, after), message, level, told))
    if leaves or after.state in ENDED:
        _settle(connection, row)
    if after.state in ENDED and after.state is not State.SUCCEEDED:
        _fail_memory(connection, row.memory_id)
    return changed


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What happened to a job."""

    job_id: str
    type: str
    message: str
    level: str = "info"
    data: Mapping[str, Any] = field(default_factory=dict)


def write_event(connection: Connection, event: NewEvent) -> None:
    """As `write_events`, of one."""
    write_events(connection, [event])


def write_events(connection: Connection, events: Sequence[NewEvent]) -> None:
    """Only for jobs whose rows this transaction has locked, by inserting or updating them; in one statement."""
    rows = [
        {"job_id": event.job_id, "level": event.level, "type": event.type, "message": event.message, "data": event.data}
        for event in events
    ]
    if rows:
        connection.execute(_NEW_EVENTS, rows)


def cancel(connection: Connection, row: Row[Any], reason: Reason) -> Row[Any]:
    """Cancels a locked job at once if it only waits; if it runs, its holder stops at its next heartbeat."""
    if State(row.state) in ENDED or row.cancel_requested:
        return row
    waiting = State(row.state) is not State.RUNNING
    changed = apply(
        connection,
        row,
        CancelRequested(reason),
        message="The job is cancelled." if waiting else "The worker is told to stop.",
        level="warning",
    )
    assert changed is not None, "the row is locked"
    return changed


def bump_bank(connection: Connection, tenant_id: str, memory_id: str) -> None:
    """Tells the inference workers that what the bank serves has changed, and that it is this memory that did.

    The tenant's row stays locked until the commit, so that a bank's revisions are committed in their order.
    """
    revision = connection.execute(
        update(tenants)
        .where(tenants.c.id == tenant_id)
        .values(bank_revision=tenants.c.bank_revision + 1)
        .returning(tenants.c.bank_revision)
    ).scalar_one()
    connection.execute(update(memories).where(memories.c.id == memory_id).values(bank_revision=revision))


def _event_type(before: JobState, after: JobState) -> str:
    if before.state is not after.state:
        return "state"
    if before.phase is not after.phase:
        return "phase"
    return "message" if before.cancel_requested is not after.cancel_requested else "progress"


def _event_data(after: JobState) -> dict[str, Any]:
    return {
        "state": after.state.value,
        "phase": after.phase and after.phase.value,
        "progress": round(after.progress, 4),
        "reason": after.reason and after.reason.value,
        "epoch": after.epoch,
        "attempts": after.attempts,
    }


def _settle(connection: Connection, row: Row[Any]) -> None:
    """Corrects what the tenant was charged at dispatch by what the claim really took: its part of a shared run."""
    used = 0.0
    if State(row.state) is State.RUNNING and row.started_at is not None:
        seconds = (connection.execute(select(now())).scalar_one() - row.started_at).total_seconds()
        used = max(0.0, seconds) / (row.pack_jobs or 1)
    if used == row.charged_seconds:
        return
    connection.execute(
        update(fair_shares)
        .where(fair_shares.c.tenant_id == row.tenant_id)
        .values(deficit_seconds=fair_shares.c.deficit_seconds + row.charged_seconds - used)
    )


def _fail_memory(connection: Connection, memory_id: str) -> None:
    """A memory whose job came to nothing; one with an earlier version keeps serving that."""
    connection.execute(
        update(memories)
        .where(memories.c.id == memory_id, memories.c.status == "pending")
        .values(status="failed", updated_at=now())
    )
