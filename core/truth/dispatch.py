"""The backlog, and how jobs leave it for the queue of doorbells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, or_, select, true, update

from core.jobs import fairness
from core.jobs.fairness import Contender, Waiting, decayed
from core.jobs.states import State
from core.truth.clock import from_now, now
from core.truth.records import quotas_in
from core.truth.tables import fair_shares, jobs, tenants

QUANTUM_SECONDS = 30.0
"""Device-seconds that a tenant of weight 1 is granted per round."""

HALF_LIFE_SECONDS = 3600.0
WAITING: ColumnElement[bool] = and_(jobs.c.state == State.QUEUED, jobs.c.dispatched_at.is_(None))
DISPATCHED: ColumnElement[bool] = and_(jobs.c.state == State.QUEUED, jobs.c.dispatched_at.is_not(None))

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InFlight:
    """Jobs that have left the backlog: how many run, how many wait for a worker to answer their doorbell.

    `busy` are the workers that run any.
    """

    running: int
    unanswered: int
    by_tenant: dict[str, int]
    busy: frozenset[str]


def in_flight(connection: Connection) -> InFlight:
    rows = connection.execute(
        select(jobs.c.tenant_id, jobs.c.state, jobs.c.worker_id, func.count())
        .where(or_(jobs.c.state == State.RUNNING, DISPATCHED))
        .group_by(jobs.c.tenant_id, jobs.c.state, jobs.c.worker_id)
    ).all()
    by_tenant: dict[str, int] = {}
    for tenant_id, _, _, count in rows:
        by_tenant[tenant_id] = by_tenant.get(tenant_id, 0) + count
    running = sum(count for _, state, _, count in rows if state == State.RUNNING)
    busy = frozenset(worker for _, state, worker, _ in rows if state == State.RUNNING)
    return InFlight(running, sum(by_tenant.values()) - running, by_tenant, busy)


def dispatchable(
    connection: Connection,
    flight: InFlight,
    *,
    in_flight_per_tenant: int,
    heads: int,
    among: ColumnElement[bool] | None = None,
) -> tuple[Contender, ...]:
    """The first `heads` waiting jobs of every tenant, by priority and then age, with the tenants' shares.

    A tenant's own quota of jobs in flight goes before `in_flight_per_tenant`.

    `among` narrows the jobs down. Locks the shares; until its end the transaction may wait for no other lock.
    """
    waiting = _heads(connection, heads, true() if among is None else among)
    share = fair_shares.c
    rows = connection.execute(
        select(
            tenants.c.id,
            tenants.c.weight,
            tenants.c.settings,
            share.deficit_seconds,
            share.turn,
            share.updated_at,
            now().label("now"),
        )
        .join(fair_shares, share.tenant_id == tenants.c.id)
        .where(share.tenant_id.in_(sorted(waiting)))
        .order_by(share.tenant_id)
        .with_for_update(of=fair_shares)
    )
    return tuple(
        Contender(
            tenant_id=row.id,
            weight=row.weight,
            deficit=decayed(row.deficit_seconds, (row.now - row.updated_at).total_seconds(), HALF_LIFE_SECONDS),
            turn=row.turn,
            room=_room(row.settings, flight.by_tenant.get(row.id, 0), in_flight_per_tenant, heads),
            waiting=tuple(waiting[row.id]),
        )
        for row in rows
    )


def _room(settings: Mapping[str, Any], in_flight: int, default: int, heads: int) -> int:
    """Under a quota above the default, no more than the heads show and one: whether others wait has to be known."""
    own = quotas_in(settings).jobs_in_flight
    room = max(0, (default if own is None else own) - in_flight)
    return min(room, heads - 1) if own is not None and own > default else room


def depart(
    connection: Connection, contenders: Sequence[Contender], free: int, take: Callable[[str], T | None]
) -> list[T]:
    """Picks up to `free` jobs fairly, has each taken by `take`, and writes the shares, in the contenders' transaction.

    `take` answers `None` for a job that can't leave after all; its tenant does not pay for it.
    """
    selection = fairness.select(contenders, free, QUANTUM_SECONDS)
    owners = {job.job_id: tenant.tenant_id for tenant in contenders for job in tenant.waiting}
    deficits = dict(selection.deficits)
    taken = []
    for job in selection.picked:
        what = take(job.job_id)
        if what is None:
            deficits[owners[job.job_id]] += job.cost
        else:
            taken.append(what)
    before = {tenant.tenant_id: (tenant.deficit, tenant.turn) for tenant in contenders}
    changed = {id_: d for id_, d in deficits.items() if (d, selection.turns[id_]) != before[id_]}
    charge(connection, changed, selection.turns)
    return taken


@dataclass(frozen=True, slots=True)
class Departure:
    """A job that left the backlog: for the first time, or again after a lost attempt; seconds since its admission."""

    job_id: str
    first: bool
    seconds_since_admission: float


def mark_dispatched(connection: Connection, job_id: str) -> Departure | None:
    """The job leaves the backlog, charged with its estimate.

    `None` where it does not wait any more, or somebody is just changing it.
    """
    mine = select(jobs.c.id).where(jobs.c.id == job_id, WAITING).with_for_update(skip_locked=True)
    if connection.execute(mine).one_or_none() is None:
        return None
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(dispatched_at=now(), rung_at=now(), charged_seconds=jobs.c.cost_estimate_seconds)
        .returning(jobs.c.dispatched_at, jobs.c.created_at, jobs.c.epoch)
    ).one()
    return Departure(job_id, row.epoch == 0, max(0.0, (row.dispatched_at - row.created_at).total_seconds()))


def charge(connection: Connection, deficits: Mapping[str, float], turns: Mapping[str, int]) -> None:
    """Writes the shares after a selection, in the transaction that locked them by `dispatchable`."""
    if not deficits:
        return
    statement = (
        update(fair_shares)
        .where(fair_shares.c.tenant_id == bindparam("tenant"))
        .values(deficit_seconds=bindparam("deficit"), turn=bindparam("place"), updated_at=now())
    )
    shares = [{"tenant": t, "deficit": deficits[t], "place": turns[t]} for t in sorted(deficits)]
    connection.execute(statement, shares)


def ring_overdue(connection: Connection, *, timeout_seconds: float, limit: int) -> list[str]:
    """Dispatched jobs whose doorbell nobody answered in time, or never rang: longest overdue first, then the oldest.

    They are marked as rung now, for the caller to do it. Skips jobs that another transaction is just changing.
    """
    late = or_(jobs.c.rung_at.is_(None), jobs.c.rung_at <= from_now(-timeout_seconds))
    job_ids = list(
        connection.execute(
            select(jobs.c.id)
            .where(DISPATCHED, late)
            .order_by(jobs.c.dispatched_at, jobs.c.created_at, jobs.c.id)
            .limit(max(0, limit))
            .with_for_update(skip_locked=True)
        ).scalars()
    )
    if job_ids:
        connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(rung_at=now()))
    return job_ids


def unring(connection: Connection, job_ids: Iterable[str]) -> None:
    """The broker did not take their bells; they are overdue at once."""
    for job_id in sorted(job_ids):
        connection.execute(update(jobs).where(jobs.c.id == job_id, jobs.c.state == State.QUEUED).values(rung_at=None))


def _heads(connection: Connection, heads: int, among: ColumnElement[bool]) -> dict[str, list[Waiting]]:
    place = func.row_number().over(
        partition_by=jobs.c.tenant_id, order_by=(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    )
    columns = (jobs.c.id, jobs.c.tenant_id, jobs.c.cost_estimate_seconds, place.label("place"))
    queue = select(*columns).where(WAITING, among).subquery()
    rows = connection.execute(select(queue).where(queue.c.place <= heads).order_by(queue.c.tenant_id, queue.c.place))
    waiting: dict[str, list[Waiting]] = {}
    for row in rows:
        waiting.setdefault(row.tenant_id, []).append(Waiting(row.id, float(row.cost_estimate_seconds)))
    return waiting
