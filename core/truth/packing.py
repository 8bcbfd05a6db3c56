"""Packs: further jobs for a worker that has just claimed one, to be distilled together in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, select

from core.jobs.states import State
from core.truth import workers
from core.truth.database import exclusive
from core.truth.dispatch import DISPATCHED, InFlight, depart, dispatchable, in_flight, mark_dispatched
from core.truth.leases import claim
from core.truth.records import Claim
from core.truth.revisions import context_of_job
from core.truth.tables import jobs
from core.truth.transitions import lock_job

_LOOK_AHEAD = 4
"""Dispatched jobs looked at for each place in the pack, so that a few long contexts don't hide the short ones."""


@dataclass(frozen=True, slots=True)
class PackLimits:
    """How large a pack may become; the first job is in it whatever its size."""

    jobs: int
    context_bytes: int
    in_flight_per_tenant: int


def claim_mates(
    connection: Connection, pack: Sequence[Claim], worker_id: str, lease_seconds: float, limits: PackLimits
) -> list[Claim]:
    """Claims what still fits into `pack`: jobs of the same base that nobody has attempted yet.

    Dispatched jobs come first, oldest first, their tenants have paid already; then jobs of the backlog by fair shares,
    under the caps that the dispatcher keeps. Other idle workers of the same base are left their part. The transaction
    waits for the dispatchers' lock and for shares that are just settled, never for a memory or a job: what another
    transaction is just changing is left alone.
    """
    exclusive(connection, "dispatch")
    base_digest = pack[0].memory.base_digest
    flight = in_flight(connection)
    room = _room(connection, len(pack), worker_id, base_digest, flight, limits)
    mates = _Mates(connection, worker_id, lease_seconds, limits.context_bytes - sum(_size(mate) for mate in pack))
    taken: list[Claim] = []
    for job_id in _dispatched(connection, base_digest, room):
        if len(taken) < room and (mate := mates.take(job_id)) is not None:
            taken.append(mate)
    if len(taken) >= room:
        return taken
    cap = limits.in_flight_per_tenant
    contenders = dispatchable(
        connection, flight, in_flight_per_tenant=cap, heads=min(room, cap) + 1, among=_untried(base_digest)
    )
    return [*taken, *depart(connection, contenders, room - len(taken), mates.take_from_backlog)]


class _Mates:
    """Takes jobs while their contexts fit into `bytes_left`."""

    def __init__(self, connection: Connection, worker_id: str, lease_seconds: float, bytes_left: int) -> None:
        self._connection = connection
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._bytes_left = bytes_left

    def take(self, job_id: str) -> Claim | None:
        if not self._fits(job_id):
            return None
        mate = claim(self._connection, job_id, self._worker_id, self._lease_seconds, skip_locked=True)
        if mate is not None:
            self._bytes_left -= _size(mate)
        return mate

    def take_from_backlog(self, job_id: str) -> Claim | None:
        """Locked before it is marked: a job that was marked and not claimed would have no doorbell."""
        if not self._fits(job_id) or lock_job(self._connection, job_id, skip_locked=True) is None:
            return None
        return None if mark_dispatched(self._connection, job_id) is None else self.take(job_id)

    def _fits(self, job_id: str) -> bool:
        size = select(context_of_job("context_bytes")).where(jobs.c.id == job_id)
        return int(self._connection.execute(size).scalar_one()) <= self._bytes_left


def _room(
    connection: Connection, packed: int, worker_id: str, base_digest: str, flight: InFlight, limits: PackLimits
) -> int:
    """Places to fill: what is due, in equal parts for this worker and those that idle, and no more than the limit."""
    idle: int = sum(
        worker.id != worker_id and worker.id not in flight.busy and worker.info.get("base_digest") == base_digest
        for worker in workers.alive(connection, "distillation")
    )
    due = select(jobs.c.id).where(jobs.c.state == State.QUEUED, _untried(base_digest)).limit(limits.jobs * (idle + 1))
    waiting = int(connection.execute(select(func.count()).select_from(due.subquery())).scalar_one())
    part = -(-(waiting + packed) // (idle + 1))
    return max(0, min(limits.jobs, part) - packed)


def _dispatched(connection: Connection, base_digest: str, room: int) -> list[str]:
    query = (
        select(jobs.c.id)
        .where(DISPATCHED, _untried(base_digest))
        .order_by(jobs.c.dispatched_at, jobs.c.created_at, jobs.c.id)
        .limit(room * _LOOK_AHEAD)
    )
    return list(connection.execute(query).scalars())


def _untried(base_digest: str) -> ColumnElement[bool]:
    """A job that has lost an attempt may be what took the others of its pack along: it goes alone from then on."""
    return and_(jobs.c.attempts == 0, context_of_job("base_digest") == base_digest)


def _size(mate: Claim) -> int:
    return mate.memory.context_bytes
