"""How a transition reaches the database: the pure state machine decides, one guarded update and its event record it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Float, Integer, Row, select, update

from core.errors import NotFound
from core.jobs.states import ENDED, CancelRequested, Event, JobState, Phase, Reason, State, transition
from core.truth.clock import now
from core.truth.many_rows import RowUpdate, insert_rows
from core.truth.records import Job, Memory
from core.truth.tables import fair_shares, job_events, jobs, memories, tenants

_SHARES = RowUpdate(
    fair_shares,
    "tenant_id",
    {"used": Float()},
    lambda given: {"deficit_seconds": fair_shares.c.deficit_seconds - given["used"], "updated_at": now()},
)
_BANKS = RowUpdate(
    tenants, "id", {"by": Integer()}, lambda given: {"bank_revision": tenants.c.bank_revision + given["by"]}
)
_IN_BANKS = RowUpdate(memories, "id", {"revision": BigInteger()}, lambda given: {"bank_revision": given["revision"]})


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
    return next(iter(lock_jobs(connection, [job_id], skip_locked=skip_locked)), None)


def lock_jobs(connection: Connection, job_ids: Collection[str], *, skip_locked: bool = False) -> list[Row[Any]]:
    """The jobs' rows, locked after their memories', each in the order of the ids, as everybody does who locks many."""
    wanted = jobs.c.id.in_(sorted(job_ids))
    theirs = memories.c.id.in_(select(jobs.c.memory_id).where(wanted))
    by_memory = select(memories.c.id).where(theirs).order_by(memories.c.id)
    locked = connection.execute(by_memory.with_for_update(skip_locked=skip_locked)).scalars().all()
    if not locked:
        return []
    by_id = select(jobs).where(wanted, jobs.c.memory_id.in_(locked)).order_by(jobs.c.id)
    return list(connection.execute(by_id.with_for_update(skip_locked=skip_locked)))


@dataclass(frozen=True, slots=True)
class Move:
    """An event for the job of `row`, which is locked, and what its owner is told of it."""

    row: Row[Any]
    event: Event
    message: str
    level: str = "info"
    data: Mapping[str, Any] = field(default_factory=dict)


def apply(connection: Connection, move: Move, *guards: ColumnElement[bool], **values: Any) -> Row[Any] | None:
    """As `apply_all`, of one job; `None` where its row was not hit."""
    return apply_all(connection, [move], *guards, **values).get(move.row.id)


def apply_all(
    connection: Connection, moves: Sequence[Move], *guards: ColumnElement[bool], **values: Any
) -> dict[str, Row[Any]]:
    """Moves jobs, one by several moves in their order, and settles what ends mean for others; the new rows by id.

    An update only hits where the row is still in the state and epoch that was read, and every guard holds; of a job
    that it does not hit nothing changes, and it is not in the answer. Jobs that come from one state to one other go in
    one statement. Raises `IllegalTransition` where the state machine does, before anything is written.
    """
    ways: dict[str, _Way] = {}
    for move in moves:
        ways.setdefault(move.row.id, _Way(move.row)).go(move)
    alike: dict[tuple[JobState, JobState], list[str]] = {}
    for job_id, way in ways.items():
        alike.setdefault((way.states[0], way.states[-1]), []).append(job_id)
    changed: dict[str, Row[Any]] = {}
    for (before, after), job_ids in alike.items():
        statement = (
            update(jobs)
            .where(jobs.c.id.in_(job_ids), jobs.c.state == before.state, jobs.c.epoch == before.epoch, *guards)
            .values(**(values | _columns(before, after)))
            .returning(*jobs.c)
        )
        changed |= {row.id: row for row in connection.execute(statement)}
    gone = [way for job_id, way in ways.items() if job_id in changed]
    write_events(connection, [event for way in gone for event in way.events()])
    _settle(connection, [way.row for way in gone if way.ends or _leaves(way.states[0], way.states[-1])])
    _fail_memories(connection, [way.row.memory_id for way in gone if way.ends and not way.succeeds])
    return changed


@dataclass(slots=True)
class _Way:
    """A job's states, from that of its row on, and the moves that lead from each to the next."""

    row: Row[Any]
    states: list[JobState] = field(init=False)
    moves: list[Move] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.states = [state_of(self.row)]

    def go(self, move: Move) -> None:
        self.states.append(transition(self.states[-1], move.event))
        self.moves.append(move)

    @property
    def ends(self) -> bool:
        return self.states[-1].state in ENDED

    @property
    def succeeds(self) -> bool:
        return self.states[-1].state is State.SUCCEEDED

    def events(self) -> Iterator[NewEvent]:
        for move, before, after in zip(self.moves, self.states, self.states[1:], strict=False):
            told = {**_event_data(after), **move.data}
            yield NewEvent(self.row.id, _event_type(before, after), move.message, move.level, told)


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
    insert_rows(connection, job_events, rows, "at")


def cancel(connection: Connection, row: Row[Any], reason: Reason) -> Row[Any]:
    """Cancels a locked job at once if it only waits; if it runs, its holder stops at its next heartbeat."""
    if State(row.state) in ENDED or row.cancel_requested:
        return row
    waiting = State(row.state) is not State.RUNNING
    message = "The job is cancelled." if waiting else "The worker is told to stop."
    changed = apply(connection, Move(row, CancelRequested(reason), message, "warning"))
    assert changed is not None, "the row is locked"
    return changed


def bump_bank(connection: Connection, tenant_id: str, memory_id: str) -> None:
    """As `bump_banks`, of one memory."""
    bump_banks(connection, [(tenant_id, memory_id)])


def bump_banks(connection: Connection, changed: Collection[tuple[str, str]]) -> None:
    """Tells the inference workers that what banks serve has changed, and which memories, by tenant and id, did.

    A tenant's row stays locked until the commit, so that a bank's revisions are committed in their order.
    """
    by_tenant: dict[str, list[str]] = {}
    for tenant_id, memory_id in changed:
        by_tenant.setdefault(tenant_id, []).append(memory_id)
    if not by_tenant:
        return
    rows = connection.execute(
        select(tenants.c.id, tenants.c.bank_revision)
        .where(tenants.c.id.in_(sorted(by_tenant)))
        .order_by(tenants.c.id)
        .with_for_update(key_share=True)
    ).all()
    revisions = [
        {"id": memory_id, "revision": row.bank_revision + place}
        for row in rows
        for place, memory_id in enumerate(by_tenant[row.id], 1)
    ]
    _BANKS.run(connection, [{"id": row.id, "by": len(by_tenant[row.id])} for row in rows])
    _IN_BANKS.run(connection, revisions)


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


def _leaves(before: JobState, after: JobState) -> bool:
    return before.state is State.RUNNING and after.state is not State.RUNNING


def _columns(before: JobState, after: JobState) -> dict[str, Any]:
    """What a transition writes into the job's row."""
    columns: dict[str, Any] = {
        "state": after.state.value,
        "phase": after.phase,
        "reason": after.reason,
        "epoch": after.epoch,
        "attempts": after.attempts,
        "progress": after.progress,
        "cancel_requested": after.cancel_requested,
    }
    if _leaves(before, after):
        columns |= {"lease_until": None, "charged_seconds": 0.0}
    if after.state is State.QUEUED:
        columns |= {"dispatched_at": None, "rung_at": None, "worker_id": None, "charged_seconds": 0.0}
    if after.state in ENDED:
        columns |= {"finished_at": now(), "charged_seconds": 0.0}
    return columns


def _settle(connection: Connection, rows: Sequence[Row[Any]]) -> None:
    """Has tenants pay what claims really took, each its part of a shared run, in place of the estimates."""
    ran = [row for row in rows if State(row.state) is State.RUNNING and row.started_at is not None]
    if not ran:
        return
    used = dict.fromkeys((row.tenant_id for row in ran), 0.0)
    clock = lock_shares(connection, used)
    for row in ran:
        used[row.tenant_id] += max(0.0, (clock - row.started_at).total_seconds()) / (row.pack_jobs or 1)
    _SHARES.run(connection, [{"tenant_id": tenant_id, "used": seconds} for tenant_id, seconds in used.items()])


def lock_shares(connection: Connection, tenant_ids: Collection[str]) -> datetime:
    """Locks the tenants' fair shares, in the order of the ids; the database's time.

    Who settles several times in one transaction locks all that it will touch before the first.
    """
    owners = fair_shares.c.tenant_id
    ours = select(owners, now().label("now")).where(owners.in_(sorted(tenant_ids)))
    clock: datetime = connection.execute(ours.order_by(owners).with_for_update()).all()[0].now
    return clock


def _fail_memories(connection: Connection, memory_ids: Sequence[str]) -> None:
    """Memories whose job came to nothing; one with an earlier version keeps serving that."""
    if memory_ids:
        connection.execute(
            update(memories)
            .where(memories.c.id.in_(memory_ids), memories.c.status == "pending")
            .values(status="failed", updated_at=now())
        )
