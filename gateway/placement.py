"""Which inference worker answers a tenant: pure policy.

In this order: a worker that answers, that is within its share of the load, that makes nobody wait, that holds most of
the tenant's bank; and where these are equal, the tenant's first worker by rendezvous hashing (Thaler and Ravishankar,
1998), which moves few tenants when workers come and go. The bound on each worker's load (Mirrokni et al.,
arXiv:1608.01350) lets a busy tenant spill over to its next worker, which then holds its bank too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from core.truth.records import WorkerRecord

LOAD_BOUND = 1.25


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the workers beside that they are announced, by worker id.

    `coverage`: how much of the tenant's bank is held there, 0 to 1; `full`: who makes requests wait; `lost`: who did
    not answer when last asked.
    """

    coverage: Mapping[str, float]
    full: Set[str]
    lost: Set[str]


NOTHING = Known({}, frozenset(), frozenset())


def preferred(
    tenant_id: str, workers: Mapping[str, WorkerRecord], in_flight: Mapping[str, int], known: Known = NOTHING
) -> Iterator[WorkerRecord]:
    """All `workers` (by id), best first. `in_flight` is the number of requests by worker id that are under way.

    Lazy, because mostly the first is enough, and one of the few that hold the bank: ordering all of a large fleet takes
    a hundred times as long.
    """
    bound = load_bound(sum(in_flight.values()), len(workers))

    def hindrance(worker_id: str) -> tuple[bool, bool, bool]:
        return worker_id in known.lost, in_flight.get(worker_id, 0) >= bound, worker_id in known.full

    def order(worker_id: str) -> tuple[tuple[bool, bool, bool], float, bytes]:
        return hindrance(worker_id), -known.coverage.get(worker_id, 0.0), _draw(tenant_id, worker_id)

    holders = [one for one in known.coverage if one in workers and not any(hindrance(one))]
    for worker_id in sorted(holders, key=order):
        yield workers[worker_id]
    for worker_id in sorted(workers.keys() - set(holders), key=order):
        yield workers[worker_id]


def load_bound(load: int, workers: int) -> int:
    """With so many requests under way a worker is sent no more: `LOAD_BOUND` times the mean, this request included."""
    return max(2, math.ceil(LOAD_BOUND * (load + 1) / max(1, workers)))


def _draw(tenant_id: str, worker_id: str) -> bytes:
    """The lowest is the tenant's first."""
    return hashlib.sha256(f"{tenant_id}\0{worker_id}".encode()).digest()
