"""Which inference worker answers a tenant: pure policy.

First come workers that hold the tenant's bank: of those that hold about as much of it, the least loaded, so that a
busy tenant leaves room on its workers for the others that live there. Where nobody holds any of it, or all who do are
lost, full or above their share of the load, rendezvous hashing decides (Thaler and Ravishankar, 1998), which moves few
tenants when workers come and go. The bound on each worker's load (Mirrokni et al., arXiv:1608.01350) lets a busy tenant
spill over to its next worker, which then holds its bank too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from core.truth.records import WorkerRecord

LOAD_BOUND = 1.25
ALIKE = 0.5
"""Who holds this much of what the best holder does is as good: what is missing is loaded once and then there."""


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
    bound = load_bound(sum(in_flight.values()), len(workers.keys() - known.lost))

    def hindrance(worker_id: str) -> tuple[bool, bool, bool]:
        return worker_id in known.lost, in_flight.get(worker_id, 0) >= bound, worker_id in known.full

    def order(worker_id: str) -> tuple[tuple[bool, bool, bool], float, bytes]:
        return hindrance(worker_id), -known.coverage.get(worker_id, 0.0), _draw(tenant_id, worker_id)

    free = {id_: held for id_, held in known.coverage.items() if id_ in workers and not any(hindrance(id_))}
    enough = ALIKE * max(free.values(), default=0.0)
    alike = [id_ for id_, held in free.items() if held >= enough]
    for worker_id in sorted(alike, key=lambda id_: (in_flight.get(id_, 0), -free[id_], _draw(tenant_id, id_))):
        yield workers[worker_id]
    for worker_id in sorted(workers.keys() - set(alike), key=order):
        yield workers[worker_id]


def load_bound(load: int, workers: int) -> int:
    """With so many requests under way a worker is sent no more: `LOAD_BOUND` times the mean, this request included."""
    return max(2, math.ceil(LOAD_BOUND * (load + 1) / max(1, workers)))


def _draw(tenant_id: str, worker_id: str) -> bytes:
    """The lowest is the tenant's first."""
    return hashlib.sha256(f"{tenant_id}\0{worker_id}".encode()).digest()
