"""Fair shares among 10^4 tenants with heavy-tailed arrivals and costs, simulated with the real choice.

    python -m tests.benchmarks.fairness [--small] [--seed 0] --json OUT

The same jobs go through the real shares, once with estimates that are right and once with wrong ones that are settled;
first come, first served; and through the shares without the tenants that flood. `light` are tenants that ask for no
more than an equal share of the capacity; a job that never began counts as having waited until the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core.jobs.fairness import Contender, Waiting, select
from core.truth.dispatch import HALF_LIFE_SECONDS
from tests.benchmarks.fairness_model import (
    CAP,
    FULL,
    LIGHT_LOAD,
    SMALL,
    FairShares,
    FirstComeFirstServed,
    SimJob,
    Size,
    run,
    traffic,
)
from tests.benchmarks.telling import tell, write_report

ERROR = 0.5
"""The deviation of the logarithm of estimates: two thirds are between 0.6 and 1.65 times the cost."""

DECISION_SIZES = (100, 1_000, 10_000)
_FREE = 8


def simulate(size: Size, seed: int) -> dict[str, Any]:
    of = traffic(size, ERROR, seed)
    right = FairShares(of.weights)
    run(right, traffic(size, 0.0, seed).jobs, size.workers, size.seconds)
    tell("with right estimates")
    ours = FairShares(of.weights)
    fair = run(ours, of.jobs, size.workers, size.seconds)
    tell("with wrong estimates")
    fifo = run(FirstComeFirstServed(), of.jobs, size.workers, size.seconds)
    alone = run(FairShares(of.weights), of.without_heavy(), size.workers, size.seconds)
    tell("first come, first served; and without the heavy ones")
    asked = [job for job in of.jobs if job.tenant in of.light]
    waits = {
        name: _waits(asked, began, size.seconds)
        for name, began in (("fair", fair), ("fifo", fifo), ("without_heavy", alone))
    }
    return {
        **_shares(ours),
        "with_right_estimates": _shares(right),
        "light_tenants": len(of.light),
        "light_jobs": len(asked),
        "light_mean_cost_seconds": round(statistics.fmean(job.cost for job in asked), 1),
        "light_wait_seconds": waits,
        "light_wait_over_fifo": {p: round(waits["fair"][p] / waits["fifo"][p], 4) for p in ("p50", "p99")},
        "jobs": len(of.jobs),
        "begun": {"fair": len(fair), "fifo": len(fifo)},
        "most_contenders": ours.most_contenders,
    }


def _shares(queue: FairShares) -> dict[str, Any]:
    """Among the tenants that had jobs waiting all the time: how equal their seconds per weight are.

    The deviation is the largest between any two at any sample; the promise is the dearest job of the one ahead, per
    its weight.
    """
    places = sorted(queue.always)
    if len(places) < 2:
        raise ValueError("Too few tenants were backlogged all the time: the floods are too small.")
    weights = np.array([queue.tenants[place].weight for place in places])
    largest, of_promise = 0.0, 0.0
    for sample in queue.samples:
        served, longest = (np.array([sample[place][n] for place in places]) / weights for n in (0, 1))
        apart = served[:, None] - served[None, :]
        largest = max(largest, float(apart.max()))
        of_promise = max(of_promise, float((apart / longest[:, None]).max()))
    return {
        "jain": round(float(served.sum() ** 2 / (len(served) * (served**2).sum())), 5),
        "largest_deviation_seconds": round(largest, 1),
        "largest_deviation_of_promise": round(of_promise, 3),
        "always_backlogged": len(places),
        "mean_seconds_per_weight": round(float(served.mean()), 1),
    }


def _waits(asked: Sequence[SimJob], began: Mapping[int, float], end: float) -> dict[str, float]:
    waits = [began.get(job.number, end) - job.at for job in asked]
    p50, p99 = np.percentile(waits, (50, 99))
    never = sum(job.number not in began for job in asked)
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1), "never_began": never}


def decision_seconds(sizes: Sequence[int], seed: int, passes: int = 15) -> dict[str, float]:
    """Median processor seconds of `select` by the number of contenders; each decision's shares are the next one's."""
    rng = np.random.default_rng(seed)
    measured = {}
    for size in sizes:
        costs = 20.0 * (1.0 + rng.pareto(1.5, (size, _FREE)))
        waiting = [
            tuple(Waiting(f"{place}:{n}", float(cost)) for n, cost in enumerate(row)) for place, row in enumerate(costs)
        ]
        shares = [(0.0, 0)] * size
        took = []
        for _ in range(passes):
            contenders = [
                Contender(f"{place:06d}", 1.0, deficit, 0.0, turn, CAP, waiting[place])
                for place, (deficit, turn) in enumerate(shares)
            ]
            started = time.thread_time()
            selection = select(contenders, _FREE)
            took.append(time.thread_time() - started)
            shares = [(selection.deficits[c.tenant_id], selection.turns[c.tenant_id]) for c in contenders]
        measured[str(size)] = round(statistics.median(took), 6)
    return measured


def main() -> None:
    options = _options()
    size = SMALL if options.small else FULL
    began = time.perf_counter()
    decisions = decision_seconds(DECISION_SIZES, options.seed)
    tell("decisions")
    report = {
        **simulate(size, options.seed),
        "seconds_per_decision": decisions[str(DECISION_SIZES[-1])],
        "seconds_per_decision_by_contenders": decisions,
        "half_life_seconds": HALF_LIFE_SECONDS,
        "in_flight_per_tenant": CAP,
        "light_load": LIGHT_LOAD,
        "estimate_error": ERROR,
        "size": asdict(size),
        "seed": options.seed,
        "took_seconds": round(time.perf_counter() - began, 1),
    }
    write_report(options.json, report)
    print(json.dumps(report))  # noqa: T201


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fairness")
    parser.add_argument("--small", action="store_true", help="three hundred tenants instead of ten thousand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("build/bench/fairness.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
