"""A dispatcher of simulated time around the real choice: tenants' queues, shares, workers that are busy for a while.

Real are `core.jobs.fairness`, its half-life, the cap on jobs in flight, and when shares are written and
settled, as `core.truth.dispatch.depart` and `core.truth.transitions` do it. A worker takes one job at a time.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import numpy as np

from core.jobs.fairness import Contender, Waiting, decayed, select
from core.settings import JobSettings
from core.truth.dispatch import HALF_LIFE_SECONDS

CAP = JobSettings().in_flight_per_tenant
TICK_SECONDS = JobSettings().dispatch_interval_seconds
LIGHT_LOAD = 0.5
"""What the tenants without a flood ask for together, of the capacity."""

_MEAN_COST = 60.0
_LEAST_COST, _COST_SHAPE, _LONGEST_COST = 20.0, 1.5, 1800.0
_RATE_SHAPE, _BATCH_SHAPE, _LARGEST_BATCH = 1.1, 1.5, 100
_WEIGHTS, _OF_WEIGHT = (1.0, 2.0, 4.0), (0.8, 0.15, 0.05)


@dataclass(frozen=True, slots=True)
class Size:
    """`heavy` of the tenants bring floods that last all the time."""

    tenants: int
    heavy: int
    workers: int
    seconds: float


FULL = Size(10_000, 100, 200, 7200.0)
SMALL = Size(300, 10, 20, 7200.0)


@dataclass(frozen=True, slots=True)
class SimJob:
    """Seconds: when it comes, what it is thought to cost, what it costs."""

    number: int
    tenant: int
    at: float
    estimate: float
    cost: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """Jobs in order of time; `light` are the tenants that ask for no more than an equal share of the capacity."""

    weights: tuple[float, ...]
    heavy: frozenset[int]
    light: frozenset[int]
    jobs: tuple[SimJob, ...]

    def without_heavy(self) -> tuple[SimJob, ...]:
        return tuple(job for job in self.jobs if job.tenant not in self.heavy)


def traffic(size: Size, error: float, seed: int) -> Traffic:
    """Rates, batches and costs of a Pareto distribution; estimates that are off by `error`, the deviation of a log."""
    rng = np.random.default_rng(seed)
    rates = 1.0 + rng.pareto(_RATE_SHAPE, size.tenants)
    weights = rng.choice(_WEIGHTS, size.tenants, p=_OF_WEIGHT)
    heavy = np.argsort(rates)[-size.heavy :]
    owners: list[int] = []
    times: list[float] = []
    enough = 2.0 * size.workers * size.seconds / size.heavy / _MEAN_COST
    for tenant in heavy:
        flood = int(enough * weights[tenant] * min(4.0, 1.0 + rng.pareto(_BATCH_SHAPE)))
        owners += [int(tenant)] * flood
        times += [0.0] * flood
    rates[heavy] = 0.0
    wanted = LIGHT_LOAD * size.workers * size.seconds / _MEAN_COST
    of_light = rates / rates.sum()
    count = 0
    while count < wanted:
        batch = min(_LARGEST_BATCH, int(1.0 + rng.pareto(_BATCH_SHAPE)))
        owners += [int(rng.choice(size.tenants, p=of_light))] * batch
        times += [float(rng.uniform(0.0, size.seconds))] * batch
        count += batch
    costs = np.minimum(_LONGEST_COST, _LEAST_COST * (1.0 + rng.pareto(_COST_SHAPE, len(owners))))
    estimates = costs * np.exp(rng.normal(0.0, error, len(owners)))
    asked = np.bincount(owners, weights=costs, minlength=size.tenants)
    light = frozenset(np.flatnonzero((asked > 0) & (asked <= size.workers * size.seconds / size.tenants)).tolist())
    order = np.argsort(times, kind="stable")
    jobs = [SimJob(n, owners[i], times[i], float(estimates[i]), float(costs[i])) for n, i in enumerate(order)]
    return Traffic(tuple(weights.tolist()), frozenset(heavy.tolist()), light, tuple(jobs))


class Backlog(Protocol):
    """Where jobs wait."""

    def arrive(self, job: SimJob) -> None: ...

    def pick(self, free: int, now: float) -> list[SimJob]: ...

    def end(self, job: SimJob, now: float) -> None: ...


class FirstComeFirstServed:
    """What there would be without shares."""

    def __init__(self) -> None:
        self._queue: deque[SimJob] = deque()

    def arrive(self, job: SimJob) -> None:
        self._queue.append(job)

    def pick(self, free: int, now: float) -> list[SimJob]:
        return [self._queue.popleft() for _ in range(min(free, len(self._queue)))]

    def end(self, job: SimJob, now: float) -> None:
        return


@dataclass(slots=True)
class Tenant:
    """Device-seconds `served`: of what has ended as it was, of the rest as thought; `longest`: the dearest job."""

    weight: float
    queue: deque[SimJob] = field(default_factory=deque)
    deficit: float = 0.0
    turn: int = 0
    updated_at: float = 0.0
    in_flight: int = 0
    charged: float = 0.0
    served: float = 0.0
    longest: float = 0.0

    def contender(self, place: int, heads: int) -> Contender:
        return Contender(
            tenant_id=f"{place:06d}",
            weight=self.weight,
            deficit=decayed(self.deficit, self.queue[0].at - self.updated_at, HALF_LIFE_SECONDS),
            in_flight=self.charged,
            turn=self.turn,
            room=max(0, CAP - self.in_flight),
            waiting=tuple(Waiting(f"{place:06d}", job.estimate) for job in islice(self.queue, heads)),
        )


class FairShares:
    """The real choice over tenants' queues."""

    def __init__(self, weights: Sequence[float], sample_seconds: float = 60.0) -> None:
        self.tenants = [Tenant(weight) for weight in weights]
        self.always: set[int] = set()
        """Tenants that have had jobs waiting ever since the first decision."""
        self.samples: list[dict[int, tuple[float, float]]] = []
        """Served and longest of the tenants that have always been backlogged until then."""
        self.most_contenders = 0
        self._sample_seconds = sample_seconds
        self._backlogged: set[int] = set()
        self._began = False

    def arrive(self, job: SimJob) -> None:
        self.tenants[job.tenant].queue.append(job)
        self._backlogged.add(job.tenant)

    def pick(self, free: int, now: float) -> list[SimJob]:
        if not self._began:
            self._began, self.always = True, set(self._backlogged)
        heads = min(free, CAP)
        contenders = [self.tenants[place].contender(place, heads) for place in sorted(self._backlogged)]
        self.most_contenders = max(self.most_contenders, len(contenders))
        selection = select(contenders, free)
        for before in contenders:
            after = selection.deficits[before.tenant_id], selection.turns[before.tenant_id]
            if after != (before.deficit, before.turn):
                tenant = self.tenants[int(before.tenant_id)]
                (tenant.deficit, tenant.turn), tenant.updated_at = after, now
        picked = [self._leave(int(job.job_id)) for job in selection.picked]
        self.always &= self._backlogged
        if now >= self._sample_seconds * (len(self.samples) + 1):
            self.samples.append({p: (self.tenants[p].served, self.tenants[p].longest) for p in self.always})
        return picked

    def end(self, job: SimJob, now: float) -> None:
        tenant = self.tenants[job.tenant]
        tenant.in_flight -= 1
        tenant.charged -= job.estimate
        tenant.deficit -= job.cost
        tenant.updated_at = now
        tenant.served += job.cost - job.estimate

    def _leave(self, place: int) -> SimJob:
        tenant = self.tenants[place]
        job = tenant.queue.popleft()
        tenant.in_flight += 1
        tenant.charged += job.estimate
        tenant.served += job.estimate
        tenant.longest = max(tenant.longest, job.estimate, job.cost)
        if not tenant.queue:
            self._backlogged.discard(place)
        return job


def run(backlog: Backlog, jobs: Sequence[SimJob], workers: int, seconds: float) -> dict[int, float]:
    """When jobs began, by their number. Every tick what has ended leaves, and what is free is filled."""
    began: dict[int, float] = {}
    running: list[tuple[float, int, SimJob]] = []
    place, now = 0, 0.0
    while now < seconds:
        now += TICK_SECONDS
        while place < len(jobs) and jobs[place].at <= now:
            backlog.arrive(jobs[place])
            place += 1
        while running and running[0][0] <= now:
            backlog.end(heapq.heappop(running)[2], now)
        if len(running) < workers:
            for job in backlog.pick(workers - len(running), now):
                began[job.number] = now
                heapq.heappush(running, (now + job.cost, job.number, job))
    return began
