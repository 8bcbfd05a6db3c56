"""Packs: further jobs for a worker that has just claimed one, to be distilled together in one run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, select, true

from core.truth import workers
from core.truth.database import exclusive
from core.truth.dispatch import DISPATCHED, QUEUED, InFlight, depart, first_of, in_flight
from core.truth.leases import claim_all
from core.truth.records import Claim
from core.truth.revisions import context_of_job
from core.truth.tables import jobs

_LOOK_AHEAD = 4
"""Dispatched jobs looked at for each place in the pack, so that a few long contexts don't hide the short ones."""


@dataclass(frozen=True, slots=True)
class PackLimits:
    """How large a pack may become; the first job is in it whatever its size."""

    jobs: int
    context_bytes: int
    in_flight_per_tenant: int


def claim_next(
    connection: Connection, worker_id: str, base_digest: str, lease_seconds: float, limits: PackLimits
) -> Claim | None:
    """What a worker that is free and awake begins next, without a doorbell of its own; `None` if there is nothing.

    First the dispatched job that waits longest for an answer to its doorbell, as if that had rung here; then the first
    of the backlog by fair shares, of the worker's base and not attempted yet: others go by a doorbell.
    """
    exclusive(connection, "dispatch")
    flight = in_flight(connection)
    for job_id in _dispatched(connection, true(), _LOOK_AHEAD) if flight.unanswered else []:
        if claimed := claim_all(connection, [job_id], worker_id, lease_seconds, skip_locked=True):
            return claimed[0]
    mates = _Mates(connection, worker_id, lease_seconds, sys.maxsize)
    return next(iter(_depart(connection, flight, 1, mates, base_digest, limits)), None)


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
    candidates = _dispatched(connection, _untried(base_digest), room * _LOOK_AHEAD) if flight.unanswered else []
    taken = list(mates.take(candidates, room).values())
    if len(taken) >= room:
        return taken
    return [*taken, *_depart(connection, flight, room - len(taken), mates, base_digest, limits)]


def _depart(
    connection: Connection, flight: InFlight, free: int, mates: _Mates, base_digest: str, limits: PackLimits
) -> list[Claim]:
    """By fair shares, what waits for a worker with this base."""
    return depart(
        connection,
        flight,
        free,
        mates.take_from_backlog,
        in_flight_per_tenant=limits.in_flight_per_tenant,
        among=_untried(base_digest),
    )


class _Mates:
    """Takes jobs while their contexts fit into `bytes_left`."""

    def __init__(self, connection: Connection, worker_id: str, lease_seconds: float, bytes_left: int) -> None:
        self._connection = connection
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._bytes_left = bytes_left

    def take(self, job_ids: Sequence[str], most: int) -> dict[str, Claim]:
        """Up to `most` dispatched jobs, by id; what another transaction holds makes room for the next ones."""
        taken: dict[str, Claim] = {}
        left = list(job_ids)
        while left and len(taken) < most:
            fitting = self._fitting(left, most - len(taken))
            taken |= self._claim(fitting, from_backlog=False)
            # What did not fit before those that did will not fit after them either.
            left = left[left.index(fitting[-1]) + 1 :] if fitting else []
        return taken

    def take_from_backlog(self, job_ids: Sequence[str]) -> dict[str, Claim]:
        """Claimed as they leave: a job that had left and was not claimed would have no doorbell."""
        return self._claim(self._fitting(job_ids, len(job_ids)), from_backlog=True)

    def _claim(self, job_ids: Sequence[str], *, from_backlog: bool) -> dict[str, Claim]:
        if not job_ids:
            return {}
        claims = claim_all(
            self._connection,
            job_ids,
            self._worker_id,
            self._lease_seconds,
            skip_locked=True,
            from_backlog=from_backlog,
        )
        self._bytes_left -= sum(map(_size, claims))
        return {claim.job.id: claim for claim in claims}

    def _fitting(self, job_ids: Sequence[str], most: int) -> list[str]:
        """The first `most` jobs whose contexts fit together, leaving out those that are too long."""
        sizes = select(jobs.c.id, context_of_job("context_bytes").label("bytes")).where(jobs.c.id.in_(job_ids))
        by_id = {row.id: int(row.bytes) for row in self._connection.execute(sizes)}
        fitting: list[str] = []
        bytes_left = self._bytes_left
        for job_id in job_ids:
            if len(fitting) < most and by_id.get(job_id, bytes_left + 1) <= bytes_left:
                bytes_left -= by_id[job_id]
                fitting.append(job_id)
        return fitting


def _room(
    connection: Connection, packed: int, worker_id: str, base_digest: str, flight: InFlight, limits: PackLimits
) -> int:
    """Places to fill: what is due, in equal parts for this worker and those that idle, and no more than the limit."""
    idle: int = sum(
        worker.id != worker_id and worker.id not in flight.busy and worker.info.get("base_digest") == base_digest
        for worker in workers.alive(connection, "distillation")
    )
    due = first_of(select(jobs.c.id).where(QUEUED), _untried(base_digest), limits.jobs * (idle + 1))
    waiting = int(connection.execute(select(func.count()).select_from(due.subquery())).scalar_one())
    part = -(-(waiting + packed) // (idle + 1))
    return max(0, min(limits.jobs, part) - packed)


def _dispatched(connection: Connection, which: ColumnElement[bool], most: int) -> list[str]:
    query = (
        select(jobs.c.id)
        .where(DISPATCHED, which)
        .order_by(jobs.c.dispatched_at, jobs.c.created_at, jobs.c.id)
        .limit(most)
    )
    return list(connection.execute(query).scalars())


def _untried(base_digest: str) -> ColumnElement[bool]:
    """A job that has lost an attempt may be what took the others of its pack along: it goes alone from then on."""
    return and_(jobs.c.attempts == 0, context_of_job("base_digest") == base_digest)


def _size(mate: Claim) -> int:
    return mate.memory.context_bytes
