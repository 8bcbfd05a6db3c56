"""The backlog, and how jobs leave it for the queue of doorbells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, update

from core.jobs.fairness import Contender, Waiting, decayed
from core.jobs.states import State
from core.truth.clock import from_now, now
from core.truth.tables import fair_shares, jobs, tenants

_HALF_LIFE_SECONDS = 3600.0
_WAITING: ColumnElement[bool] = and_(jobs.c.state == State.QUEUED, jobs.c.dispatched_at.is_(None))
_IN_FLIGHT: ColumnElement[bool] = or_(
    jobs.c.state == State.RUNNING, and_(jobs.c.state == State.QUEUED, jobs.c.dispatched_at.is_not(None))
)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the dispatcher decides on: who contends, how many jobs run, how many doorbells are unanswered."""

    contenders: tuple[Contender, ...]
    running: int
    unanswered: int


def dispatchable(connection: Connection, *, in_flight_per_tenant: int, heads: int) -> Backlog:
    """The first `heads` waiting jobs of every tenant, by priority and then age, with the tenants' shares."""
    running, unanswered = (
        connection.execute(select(func.count()).select_from(jobs).where(condition)).scalar_one()
        for condition in (
            jobs.c.state == State.RUNNING,
            and_(jobs.c.state == State.QUEUED, jobs.c.dispatched_at.is_not(None)),
        )
    )
    waiting = _heads(connection, heads)
    if not waiting:
        return Backlog((), running, unanswered)
    in_flight = _in_flight(connection)
    share = fair_shares.c
    rows = connection.execute(
        select(tenants.c.id, tenants.c.weight, share.deficit_seconds, share.turn, share.updated_at, now().label("now"))
        .join(fair_shares, share.tenant_id == tenants.c.id)
        .where(tenants.c.id.in_(sorted(waiting)))
    )
    contenders = tuple(
        Contender(
            tenant_id=row.id,
            weight=row.weight,
            deficit=decayed(row.deficit_seconds, (row.now - row.updated_at).total_seconds(), _HALF_LIFE_SECONDS),
            turn=row.turn,
            room=max(0, in_flight_per_tenant - in_flight.get(row.id, 0)),
            waiting=tuple(waiting[row.id]),
        )
        for row in rows
    )
    return Backlog(contenders, running, unanswered)


def mark_dispatched(connection: Connection, job_id: str) -> float | None:
    """The job leaves the backlog, charged with its estimate: returns how long it waited there, in seconds.

    `None` where it does not wait any more, or somebody is just changing it.
    """
    mine = connection.execute(
        select(jobs.c.id).where(jobs.c.id == job_id, _WAITING).with_for_update(skip_locked=True)
    ).one_or_none()
    if mine is None:
        return None
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, _WAITING)
        .values(dispatched_at=now(), rung_at=now(), charged_seconds=jobs.c.cost_estimate_seconds)
        .returning(jobs.c.dispatched_at, jobs.c.created_at)
    ).one()
    return float(max(0.0, (row.dispatched_at - row.created_at).total_seconds()))


def charge(connection: Connection, deficits: Mapping[str, float], turns: Mapping[str, int]) -> None:
    """Writes the shares after a selection; the transaction has held the dispatcher's lock since it read them."""
    for tenant_id in sorted(deficits):
        connection.execute(
            update(fair_shares)
            .where(fair_shares.c.tenant_id == tenant_id)
            .values(deficit_seconds=deficits[tenant_id], turn=turns[tenant_id], updated_at=now())
        )


def overdue(connection: Connection, *, timeout_seconds: float, limit: int) -> list[str]:
    """Dispatched jobs whose doorbell nobody answered in time, or never rang; the longest overdue first."""
    late = or_(jobs.c.rung_at.is_(None), jobs.c.rung_at <= from_now(-timeout_seconds))
    return list(
        connection.execute(
            select(jobs.c.id)
            .where(jobs.c.state == State.QUEUED, jobs.c.dispatched_at.is_not(None), late)
            .order_by(jobs.c.dispatched_at, jobs.c.id)
            .limit(max(0, limit))
        ).scalars()
    )


def mark_rung(connection: Connection, job_ids: Iterable[str]) -> None:
    """Their bells are about to ring again."""
    connection.execute(
        update(jobs).where(jobs.c.id.in_(list(job_ids)), jobs.c.state == State.QUEUED).values(rung_at=now())
    )


def unring(connection: Connection, job_ids: Iterable[str]) -> None:
    """The broker did not take their bells; they are overdue at once."""
    connection.execute(
        update(jobs).where(jobs.c.id.in_(list(job_ids)), jobs.c.state == State.QUEUED).values(rung_at=None)
    )


def _heads(connection: Connection, heads: int) -> dict[str, list[Waiting]]:
    place = func.row_number().over(
        partition_by=jobs.c.tenant_id, order_by=(jobs.c.priority.desc(), jobs.c.created_at, jobs.c.id)
    )
    ranked = select(jobs.c.id, jobs.c.tenant_id, jobs.c.cost_estimate_seconds, place.label("place")).where(_WAITING)
    queue = ranked.subquery()
    rows = connection.execute(select(queue).where(queue.c.place <= heads).order_by(queue.c.tenant_id, queue.c.place))
    waiting: dict[str, list[Waiting]] = {}
    for row in rows:
        waiting.setdefault(row.tenant_id, []).append(Waiting(row.id, row.cost_estimate_seconds))
    return waiting


def _in_flight(connection: Connection) -> dict[str, int]:
    rows = connection.execute(select(jobs.c.tenant_id, func.count()).where(_IN_FLIGHT).group_by(jobs.c.tenant_id))
    return {tenant_id: count for tenant_id, count in rows}
