"""The backlog, and how jobs leave it for the queue of doorbells."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Select,
    and_,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)

from core.jobs import fairness
from core.jobs.fairness import Contender, Waiting, decayed
from core.jobs.states import State
from core.truth.clock import from_now, now
from core.truth.many_rows import RowUpdate
from core.truth.records import quotas_in
from core.truth.tables import fair_shares, jobs, tenants

HALF_LIFE_SECONDS = 3600.0
"""Of the debts of a tenant that has nothing waiting."""

# The states are literals, as in the partial indexes that serve these: a parameter would hide them from the planner.
QUEUED: ColumnElement[bool] = jobs.c.state == literal_column(f"'{State.QUEUED}'")
RUNNING: ColumnElement[bool] = jobs.c.state == literal_column(f"'{State.RUNNING}'")
WAITING: ColumnElement[bool] = and_(QUEUED, jobs.c.dispatched_at.is_(None))
DISPATCHED: ColumnElement[bool] = and_(QUEUED, jobs.c.dispatched_at.is_not(None))
_SHARES = RowUpdate(
    fair_shares,
    "tenant_id",
    {"deficit": Float(), "place": BigInteger()},
    lambda given: {"deficit_seconds": given["deficit"], "turn": given["place"], "updated_at": now()},
)

_FIRST_LOOK = 4
"""Jobs that are read of every tenant at first; most choices take fewer of each."""

_PLACE = (jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
"""The order in which a tenant's jobs leave the backlog."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class InFlight:
    """Jobs that have left the backlog: how many run, how many wait for a worker to answer their doorbell.

    `charged` are their estimated device-seconds by tenant; `busy` are the workers that run any.
    """

    running: int
    unanswered: int
    by_tenant: dict[str, int]
    charged: dict[str, float]
    busy: frozenset[str]


def in_flight(connection: Connection) -> InFlight:
    running = connection.execute(
        select(jobs.c.tenant_id, jobs.c.worker_id, func.count(), func.sum(jobs.c.charged_seconds))
        .where(RUNNING)
        .group_by(jobs.c.tenant_id, jobs.c.worker_id)
    ).all()
    unanswered = connection.execute(
        select(jobs.c.tenant_id, func.count(), func.sum(jobs.c.charged_seconds))
        .where(DISPATCHED)
        .group_by(jobs.c.tenant_id)
    ).all()
    by_tenant: Counter[str] = Counter()
    charged: defaultdict[str, float] = defaultdict(float)
    for tenant_id, *_, count, seconds in (*running, *unanswered):
        by_tenant[tenant_id] += count
        charged[tenant_id] += seconds
    return InFlight(
        running=sum(count for *_, count, _ in running),
        unanswered=sum(count for *_, count, _ in unanswered),
        by_tenant=dict(by_tenant),
        charged=dict(charged),
        busy=frozenset(worker for _, worker, *_ in running),
    )


def dispatchable(
    connection: Connection,
    flight: InFlight,
    *,
    in_flight_per_tenant: int,
    heads: int,
    among: ColumnElement[bool] | None = None,
    only: Collection[str] | None = None,
) -> tuple[Contender, ...]:
    """The first `heads` waiting jobs of every tenant, by priority and then age, with the tenants' shares.

    A tenant's own quota of jobs in flight goes before `in_flight_per_tenant`.

    `among` narrows the jobs down, `only` the tenants. Locks the shares; until its end the transaction may wait for no
    other lock: who has locked some asks again for `only` these.
    """
    waiting = _heads(connection, heads, true() if among is None else among)
    if only is not None:
        waiting = {tenant_id: theirs for tenant_id, theirs in waiting.items() if tenant_id in only}
    share = fair_shares.c
    rows = connection.execute(
        select(
            tenants.c.id,
            tenants.c.weight,
            tenants.c.settings,
            share.deficit_seconds,
            share.turn,
            share.updated_at,
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
            deficit=decayed(
                row.deficit_seconds, (waiting[row.id].since - row.updated_at).total_seconds(), HALF_LIFE_SECONDS
            ),
            in_flight=flight.charged.get(row.id, 0.0),
            turn=row.turn,
            room=_room(row.settings, flight.by_tenant.get(row.id, 0), in_flight_per_tenant),
            waiting=tuple(waiting[row.id].jobs),
        )
        for row in rows
    )


def _room(settings: Mapping[str, Any], in_flight: int, default: int) -> int:
    own = quotas_in(settings).jobs_in_flight
    return max(0, (default if own is None else own) - in_flight)


def depart(
    connection: Connection,
    flight: InFlight,
    free: int,
    take: Callable[[Sequence[str]], Mapping[str, T]],
    *,
    in_flight_per_tenant: int,
    among: ColumnElement[bool] | None = None,
) -> list[T]:
    """Picks up to `free` jobs of the backlog fairly, has them taken by `take`, and writes the shares.

    `take` gives what it took by the job's id, and has it charged with its estimate. As `dispatchable`, which it asks
    for more jobs of each tenant as long as a choice among them all might have picked more of one.
    """
    heads = min(free, _FIRST_LOOK)
    locked: set[str] | None = None
    while True:
        contenders = dispatchable(
            connection, flight, in_flight_per_tenant=in_flight_per_tenant, heads=heads, among=among, only=locked
        )
        locked = {tenant.tenant_id for tenant in contenders}
        selection = fairness.select(contenders, free)
        if heads >= free or not _seen_through(contenders, selection, heads):
            break
        heads = min(free, heads * _FIRST_LOOK)
    if not selection.picked:
        return []
    taken = take([job.job_id for job in selection.picked])
    before = {tenant.tenant_id: (tenant.deficit, tenant.turn) for tenant in contenders}
    changed = {id_: d for id_, d in selection.deficits.items() if (d, selection.turns[id_]) != before[id_]}
    shares = [{"tenant_id": id_, "deficit": d, "place": selection.turns[id_]} for id_, d in changed.items()]
    _SHARES.run(connection, shares)
    return [taken[job.job_id] for job in selection.picked if job.job_id in taken]


def _seen_through(contenders: Sequence[Contender], selection: fairness.Selection, heads: int) -> bool:
    """Whether all of somebody's shown jobs were picked, and there may be more."""
    picked = {job.job_id for job in selection.picked}
    return any(
        len(tenant.waiting) == heads < tenant.room and tenant.waiting[-1].job_id in picked for tenant in contenders
    )


@dataclass(frozen=True, slots=True)
class Departure:
    """A job that left the backlog: for the first time, or again after a lost attempt; seconds since its admission."""

    job_id: str
    first: bool
    seconds_since_admission: float


def mark_dispatched(connection: Connection, job_id: str) -> Departure | None:
    """As `mark_all_dispatched`, of one job; `None` where it can't leave."""
    return mark_all_dispatched(connection, [job_id]).get(job_id)


def mark_all_dispatched(connection: Connection, job_ids: Sequence[str]) -> dict[str, Departure]:
    """The jobs leave the backlog, charged with their estimates; by id.

    Left out is what does not wait any more, and what somebody is just changing.
    """
    mine = select(jobs.c.id).where(jobs.c.id.in_(sorted(job_ids)), WAITING).order_by(jobs.c.id)
    locked = connection.execute(mine.with_for_update(skip_locked=True)).scalars().all()
    if not locked:
        return {}
    rows = connection.execute(
        update(jobs)
        .where(jobs.c.id.in_(locked))
        .values(dispatched_at=now(), rung_at=now(), charged_seconds=jobs.c.cost_estimate_seconds)
        .returning(jobs.c.id, jobs.c.dispatched_at, jobs.c.created_at, jobs.c.epoch)
    )
    return {
        row.id: Departure(row.id, row.epoch == 0, max(0.0, (row.dispatched_at - row.created_at).total_seconds()))
        for row in rows
    }


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


def rings_unheard(connection: Connection, seconds: float) -> bool:
    """Whether a job that left the backlog so long ago still waits, although its doorbell was rung."""
    late = and_(DISPATCHED, jobs.c.rung_at.is_not(None), jobs.c.dispatched_at <= from_now(-seconds))
    return connection.execute(select(jobs.c.id).where(late).limit(1)).one_or_none() is not None


def unring(connection: Connection, job_ids: Iterable[str]) -> None:
    """The broker did not take their bells; they are overdue at once."""
    for job_id in sorted(job_ids):
        connection.execute(update(jobs).where(jobs.c.id == job_id, jobs.c.state == State.QUEUED).values(rung_at=None))


@dataclass(slots=True)
class _Heads:
    """A tenant's first jobs; `since` is when the oldest of them came."""

    since: datetime
    jobs: list[Waiting] = field(default_factory=list)


def _heads(connection: Connection, heads: int, among: ColumnElement[bool]) -> dict[str, _Heads]:
    """Reads as many rows as it returns, however many wait, and asks only for tenants that have any."""
    columns = jobs.c.id, jobs.c.tenant_id, jobs.c.cost_estimate_seconds, jobs.c.created_at
    queue = select(*columns).where(WAITING).order_by(*_PLACE)
    if connection.dialect.name == "postgresql":
        tenant = _waiting_tenants().subquery()
        of_tenant = first_of(
            queue.where(jobs.c.tenant_id == tenant.c.tenant_id).correlate(tenant), among, heads
        ).lateral()
        rows = connection.execute(select(of_tenant).select_from(tenant.join(of_tenant, true()))).all()
    else:
        # SQLite has no LATERAL, and no server to go and come back from for each tenant.
        tenant_ids = connection.execute(_waiting_tenants()).scalars().all()
        queues = (first_of(queue.where(jobs.c.tenant_id == id_), among, heads) for id_ in tenant_ids)
        rows = [row for first in queues for row in connection.execute(first)]
    waiting: dict[str, _Heads] = {}
    for row in rows:
        first = waiting.setdefault(row.tenant_id, _Heads(row.created_at))
        first.since = min(first.since, row.created_at)
        first.jobs.append(Waiting(row.id, float(row.cost_estimate_seconds)))
    return waiting


def first_of(queue: Select[Any], which: ColumnElement[bool], most: int) -> Select[Any]:
    """The first `most` rows of `queue` for which `which` holds, read in the order of the queue until there are so many.

    Told of `which` as a condition, PostgreSQL takes it for one that hardly a row meets, and sorts all of them.
    """
    looked_at = queue.add_columns(which.label("holds")).offset(literal_column("0")).subquery("looked_at")
    columns = [column for column in looked_at.c if column.key != "holds"]
    return select(*columns).where(looked_at.c.holds).limit(most)


def _waiting_tenants() -> Select[tuple[str]]:
    """Tenants with waiting jobs, by jumping from one to the next in the index of waiting jobs."""
    first = select(func.min(jobs.c.tenant_id).label("tenant_id")).where(WAITING).cte("waiting_tenants", recursive=True)
    after = select(func.min(jobs.c.tenant_id)).where(WAITING, jobs.c.tenant_id > first.c.tenant_id)
    every = first.union_all(select(after.correlate(first).scalar_subquery()).where(first.c.tenant_id.is_not(None)))
    return select(every.c.tenant_id).where(every.c.tenant_id.is_not(None))
