"""Which inference worker answers a tenant: pure policy.

Rendezvous hashing (Thaler and Ravishankar, 1998) keeps a tenant on the worker that already holds its bank and moves
few tenants when workers come and go; a bound on each worker's load (Mirrokni et al., arXiv:1608.01350) lets a busy
tenant spill over to its next worker.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from core.truth.records import WorkerRecord

LOAD_BOUND = 1.25


def preferred(tenant_id: str, workers: Sequence[WorkerRecord], in_flight: Mapping[str, int]) -> list[WorkerRecord]:
    """`workers`, best first; those with more than `LOAD_BOUND` times the mean load come after all others.

    `in_flight` is the number of requests by worker id that are under way.
    """
    ordered = sorted(workers, key=lambda worker: _draw(tenant_id, worker.id), reverse=True)
    if not ordered:
        return []
    load = sum(in_flight.get(worker.id, 0) for worker in ordered)
    bound = max(2, math.ceil(LOAD_BOUND * (load + 1) / len(ordered)))
    return sorted(ordered, key=lambda worker: in_flight.get(worker.id, 0) >= bound)


def _draw(tenant_id: str, worker_id: str) -> bytes:
    return hashlib.sha256(f"{tenant_id}\0{worker_id}".encode()).digest()
