"""Which jobs go next: weighted deficit round-robin over tenants (Shreedhar and Varghese, SIGCOMM 1995). Pure.

A tenant's deficit is the device-seconds it may still spend, its turn a place in the round. A tenant at the head of the
round that can't afford its next job is granted `quantum × weight`; if it still can't, the round goes on. Its deficit
falls by a job's estimated cost when the job is picked; what the estimate missed is settled when the job ends, so a
deficit may also be below zero. Old debts fade (`decayed`). State lives in the database, so that any
orchestrator can go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the backlog; `cost` in estimated device-seconds."""

    job_id: str
    cost: float


@dataclass(frozen=True, slots=True)
class Contender:
    """A tenant with jobs in the order in which it wants them; `room` is how many more it may have in flight.

    `waiting` holds one job more than could be picked, if there is one: a tenant whose last job is picked has none left.
    """

    tenant_id: str
    weight: float
    deficit: float
    turn: int
    room: int
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs to dispatch, in order, and each contender's deficit and turn after it."""

    picked: tuple[Waiting, ...]
    deficits: dict[str, float]
    turns: dict[str, int]


def decayed(deficit: float, elapsed_seconds: float, half_life_seconds: float) -> float:
    """What is left of a debt after a time: nobody pays for ever for a wrong estimate.

    A credit stays: it is what a tenant saves up for a job that costs many quanta, and would starve without.
    """
    if deficit >= 0.0:
        return deficit
    return float(deficit * 0.5 ** (max(0.0, elapsed_seconds) / half_life_seconds))


def select(contenders: Sequence[Contender], capacity: int, quantum: float) -> Selection:
    """Up to `capacity` jobs. Never picks nothing while there are capacity and a contender with room and jobs.

    Among tenants that always have jobs waiting, the device-seconds per weight of any two differ by no more than a
    quantum and each one's largest cost per weight, however often and with whatever capacity this is called.
    """
    tenants = {tenant.tenant_id: _Ledger(tenant) for tenant in contenders}
    order = deque(sorted((t for t in tenants.values() if t.wants), key=lambda t: (t.turn, t.tenant.tenant_id)))
    last_turn = max((t.turn for t in tenants.values()), default=0)
    picked: list[Waiting] = []
    refused = 0
    while order and len(picked) < capacity:
        head = order[0]
        if not head.affords():
            head.deficit += quantum * head.tenant.weight
        if not head.affords():
            refused += 1
            last_turn = _to_the_end(order, last_turn)
            if refused == len(order):
                _skip_idle_rounds(order, quantum)
                refused = 0
            continue
        refused = 0
        while head.wants and head.affords() and len(picked) < capacity:
            picked.append(head.take())
        if not head.wants:
            order.popleft()
            last_turn += 1
            head.turn = last_turn
        elif not head.affords():
            last_turn = _to_the_end(order, last_turn)
    return Selection(
        tuple(picked),
        {t.tenant.tenant_id: t.final_deficit for t in tenants.values()},
        {t.tenant.tenant_id: t.turn for t in tenants.values()},
    )


class _Ledger:
    """A contender while jobs are picked."""

    def __init__(self, tenant: Contender) -> None:
        self.tenant = tenant
        self.deficit = tenant.deficit
        self.turn = tenant.turn
        self.taken = 0

    @property
    def wants(self) -> bool:
        return self.taken < min(len(self.tenant.waiting), self.tenant.room)

    @property
    def cost(self) -> float:
        return self.tenant.waiting[self.taken].cost

    def affords(self) -> bool:
        return self.cost <= self.deficit

    @property
    def final_deficit(self) -> float:
        """Whoever has nothing left to run keeps no credit: idle time can't be saved up."""
        return min(self.deficit, 0.0) if self.taken >= len(self.tenant.waiting) else self.deficit

    def take(self) -> Waiting:
        job = self.tenant.waiting[self.taken]
        self.deficit -= job.cost
        self.taken += 1
        return job


def _to_the_end(order: deque[_Ledger], last_turn: int) -> int:
    head = order.popleft()
    head.turn = last_turn + 1
    order.append(head)
    return head.turn


def _skip_idle_rounds(order: deque[_Ledger], quantum: float) -> None:
    """Grants at once the rounds in which nobody could afford a job, except the one in which somebody can."""
    rounds = min(math.ceil((t.cost - t.deficit) / (quantum * t.tenant.weight)) for t in order) - 1
    for ledger in order:
        ledger.deficit += max(0, rounds) * quantum * ledger.tenant.weight
