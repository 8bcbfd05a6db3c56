"""Which jobs go next: weighted deficit round-robin over tenants, in its surplus form. Pure.

A tenant's deficit is what it has spent of its share, in device-seconds: never above zero, and a job may overdraw it, so
that what a job is thought to cost never decides whether its tenant may begin (surplus round-robin: Adiseshu, Parulkar
and Varghese, SIGCOMM 1996; DRR itself: Shreedhar and Varghese, SIGCOMM 1995). Only time that was really used is
written into it, when a job ends; while jobs are in flight they count by their estimates. Rounds are as short as they
can be: the next job is the one of the tenant with the least spent per weight, and whoever of equals has waited longest.

Before a choice everyone is granted, by weight, what brings the best of those who may begin a job to zero. So somebody
who comes back is level with the best of the others, but for a second, and idle time can't be saved up. While a tenant
has nothing waiting, its debts fade (`decayed`). State lives in the database, so that any orchestrator can go on.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_GRANT_SECONDS = 1.0
"""Less is not worth the write of everybody's share."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job in the backlog; `cost` in estimated device-seconds."""

    job_id: str
    cost: float


@dataclass(frozen=True, slots=True)
class Contender:
    """A tenant with jobs in the order in which it wants them; `room` is how many more it may have in flight.

    `in_flight` are the estimated device-seconds of those that it has, which its `deficit` does not show yet.
    """

    tenant_id: str
    weight: float
    deficit: float
    in_flight: float
    turn: int
    room: int
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs to dispatch, in order, and each contender's deficit and turn after it."""

    picked: tuple[Waiting, ...]
    deficits: dict[str, float]
    turns: dict[str, int]


def decayed(deficit: float, idle_seconds: float, half_life_seconds: float) -> float:
    """What is left of a debt after a time without waiting jobs: nobody pays for ever for what it once used."""
    return float(deficit * 0.5 ** (max(0.0, idle_seconds) / half_life_seconds))


def select(contenders: Sequence[Contender], capacity: int) -> Selection:
    """Up to `capacity` jobs. Never picks nothing while there are capacity and a contender with room and jobs.

    Among tenants that always have jobs waiting and room, the device-seconds per weight of any two differ by no more
    than the dearest job of the one that is ahead, per its weight, however often and with whatever capacity this is
    called; by as much more as the estimates of what is in flight are wrong.
    """
    tenants = {tenant.tenant_id: _Ledger(tenant) for tenant in contenders}
    order = [(*ledger.place, ledger) for ledger in tenants.values() if ledger.wants]
    heapq.heapify(order)
    last_turn = max((ledger.turn for ledger in tenants.values()), default=0)
    picked: list[Waiting] = []
    while order and len(picked) < capacity:
        ledger = heapq.heappop(order)[-1]
        last_turn += 1
        picked.append(ledger.take(last_turn))
        if ledger.wants:
            heapq.heappush(order, (*ledger.place, ledger))
    granted = _grant(contenders) if picked else 0.0
    return Selection(
        tuple(picked),
        {t.tenant_id: min(0.0, t.deficit + granted * t.weight) for t in contenders},
        {tenant_id: ledger.turn for tenant_id, ledger in tenants.items()},
    )


def _grant(contenders: Sequence[Contender]) -> float:
    """Seconds per weight; the same for all, so that it changes nobody's place among those who contend."""
    seconds = -max(t.deficit / t.weight for t in contenders if t.waiting and t.room > 0)
    return seconds if seconds >= LEAST_GRANT_SECONDS else 0.0


class _Ledger:
    """A contender while jobs are picked."""

    def __init__(self, tenant: Contender) -> None:
        self._tenant = tenant
        self._in_flight = tenant.in_flight
        self._taken = 0
        self.turn = tenant.turn

    @property
    def place(self) -> tuple[float, int, str]:
        """The least goes first."""
        spent = self._in_flight - self._tenant.deficit
        return spent / self._tenant.weight, self.turn, self._tenant.tenant_id

    @property
    def wants(self) -> bool:
        return self._taken < min(len(self._tenant.waiting), self._tenant.room)

    def take(self, turn: int) -> Waiting:
        job = self._tenant.waiting[self._taken]
        self._in_flight += job.cost
        self._taken += 1
        self.turn = turn
        return job
