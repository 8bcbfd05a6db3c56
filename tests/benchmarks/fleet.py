"""The gateway's routing among a thousand workers, by its own code, under traffic that a machine can't make.

    python -m tests.benchmarks.fleet [--small] [--json OUT]

Workers are caches (`fleet_model.py`); what is real is the policy and what feeds it: `gateway.placement`,
`gateway.holdings`, `gateway.fleet`, reports that are as old as the gateway's, and the order of a request's attempts.
`ideal` is the same traffic with each tenant always on one and the same worker, its first by hashing, whatever the load.
`hit_rate` is the share of wanted adapters that are on the node, in whichever tier, relative to the ideal's; that of RAM
alone stands beside it. Then a tenth of the workers dies at once.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from core.settings import GatewaySettings, Settings
from core.truth.records import WorkerRecord
from gateway.fleet import Fleet
from gateway.holdings import Holdings, Keys, keys_of
from gateway.inference_client import MAX_WORKERS_TRIED
from gateway.placement import LOAD_BOUND, preferred
from gateway.residency_poll import MISSED_POLLS
from tests.benchmarks.fleet_model import (
    FULL,
    MEAN_LOAD,
    NODE_CACHE,
    RAM,
    SERVICE_SECONDS,
    SMALL,
    Banks,
    Request,
    Size,
    Worker,
    banks,
    traffic,
)
from tests.benchmarks.telling import tell, write_report

POLL_SECONDS = GatewaySettings().residency_poll_seconds
TTL_SECONDS = Settings.model_fields["worker_ttl_seconds"].default
DYING = 0.1
RECOVERED = 0.99
TIERS = ("ram", "node")


@dataclass(slots=True)
class Hits:
    """Adapters that were wanted, and in which tiers they were."""

    wanted: int = 0
    ram: int = 0
    node: int = 0

    def add(self, found: Iterable[tuple[bool, bool]]) -> None:
        for ram, node in found:
            self.wanted += 1
            self.ram += ram
            self.node += node

    def rates(self) -> dict[str, float]:
        return {tier: getattr(self, tier) / max(1, self.wanted) for tier in TIERS}


@dataclass(slots=True)
class Phase:
    """What is counted between two moments; `area`: request-seconds by worker."""

    began: float
    ours: Hits = field(default_factory=Hits)
    ideal: Hits = field(default_factory=Hits)
    by_second: dict[int, Hits] = field(default_factory=dict)
    area: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    peak: int = 0
    retried: int = 0
    unanswered: int = 0


class Simulation:
    """One gateway before the whole fleet."""

    def __init__(self, size: Size, of: Banks) -> None:
        self.size = size
        self.tenants = [f"tenant_{number}" for number in range(size.tenants)]
        self.bank_keys: list[Keys] = [keys_of(of.of(tenant)) for tenant in range(size.tenants)]
        self.phase = Phase(0.0)
        self._digests = of.digests
        expires = datetime(2026, 1, 1, tzinfo=UTC)
        ids = [f"worker_{number}" for number in range(size.workers)]
        self._announced = {id_: WorkerRecord(id_, "inference", "", {}, expires) for id_ in ids}
        self._workers = {id_: Worker() for id_ in ids}
        self._ideal = {id_: Worker() for id_ in ids}
        self._fleet = Fleet(MISSED_POLLS * POLL_SECONDS)
        self._in_flight: Counter[str] = Counter()
        self._changed_at = dict.fromkeys(ids, 0.0)
        self._ends: list[tuple[float, str]] = []
        self._dead: frozenset[str] = frozenset()
        self._withdrawn_at = float("inf")
        self._next_poll = 0.0
        self._now = 0.0
        self._homes = [next(preferred(tenant, self._announced, {})).id for tenant in self.tenants]
        self._fill(of)

    def run(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._pass_time(request.at)
            wanted = [self._digests[memory] for memory in request.memories]
            ideal = self._ideal[self._homes[request.tenant]]
            self.phase.ideal.add([ideal.use(digest) for digest in wanted])
            worker_id = self._place(request.tenant)
            if worker_id is None:
                self.phase.unanswered += 1
                continue
            found = [self._workers[worker_id].use(digest) for digest in wanted]
            self.phase.ours.add(found)
            self.phase.by_second.setdefault(int(request.at - self.phase.began), Hits()).add(found)
            self._change(worker_id, 1)
            self.phase.peak = max(self.phase.peak, self._in_flight[worker_id])
            heapq.heappush(self._ends, (request.at + request.seconds, worker_id))

    def begin(self) -> Phase:
        """A new phase; the one before it."""
        for worker_id in self._workers:
            self._change(worker_id, 0)
        before, self.phase = self.phase, Phase(self._now)
        return before

    def kill(self, dead: Iterable[str]) -> int:
        """They answer nobody any more, and stay announced until that runs out; how many requests broke off."""
        self._dead = frozenset(dead)
        self._withdrawn_at = self._now + TTL_SECONDS
        broken = sum(self._in_flight[worker_id] for worker_id in self._dead)
        for worker_id in self._dead:
            self._change(worker_id, -self._in_flight[worker_id])
        self._ends = [end for end in self._ends if end[1] not in self._dead]
        heapq.heapify(self._ends)
        return broken

    def first_choices(self, without: frozenset[str] = frozenset()) -> list[str]:
        """Each tenant's worker where there is no load, as if those of `without` were gone."""
        workers = {id_: record for id_, record in self._announced.items() if id_ not in without}
        known = [self._fleet.known(keys, self._now) for keys in self.bank_keys]
        return [next(preferred(tenant, workers, {}, what)).id for tenant, what in zip(self.tenants, known, strict=True)]

    def _fill(self, of: Banks) -> None:
        """As after a long quiet time: everybody holds the most popular memories of those at home there."""
        at_home: dict[str, list[tuple[float, str]]] = {id_: [] for id_ in self._workers}
        for tenant, home in enumerate(self._homes):
            weight = 1.0 / (tenant + 1) / np.log(len(of.of(tenant)) + 1)
            at_home[home] += [(weight / rank, digest) for rank, digest in enumerate(of.of(tenant), 1)]
        for id_, wanted in at_home.items():
            for _, digest in reversed(heapq.nlargest(NODE_CACHE, wanted)):
                self._workers[id_].use(digest)
                self._ideal[id_].use(digest)

    def _pass_time(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._now, worker_id = heapq.heappop(self._ends)
            self._change(worker_id, -1)
        self._now = now
        if now >= self._withdrawn_at:
            self._announced = {id_: record for id_, record in self._announced.items() if id_ not in self._dead}
            self._withdrawn_at = float("inf")
        if now >= self._next_poll:
            self._poll()
            self._next_poll += POLL_SECONDS

    def _change(self, worker_id: str, by: int) -> None:
        under_way = self._in_flight[worker_id]
        self.phase.area[worker_id] += under_way * (self._now - self._changed_at[worker_id])
        self._changed_at[worker_id] = self._now
        self._in_flight[worker_id] = under_way + by

    def _poll(self) -> None:
        """A round of `gateway.residency_poll`."""
        self._fleet.keep(self._announced)
        for worker_id in self._announced:
            if worker_id in self._dead:
                self._fleet.lose(worker_id)
            else:
                report = self._workers[worker_id].report(self._in_flight[worker_id])
                self._fleet.hear(worker_id, report, self._now)
        self._fleet.holdings = Holdings(self._fleet.fresh(self._now))

    def _place(self, tenant: int) -> str | None:
        """Who answers, as `gateway.inference_client` finds out."""
        known = self._fleet.known(self.bank_keys[tenant], self._now)
        order = preferred(self.tenants[tenant], self._announced, self._in_flight, known)
        for worker in islice(order, MAX_WORKERS_TRIED):
            if worker.id not in self._dead:
                return worker.id
            self.phase.retried += 1
            self._fleet.lose(worker.id)
        return None


def simulate(size: Size, seed: int) -> dict[str, Any]:
    """The whole story, and its figures."""
    rng = np.random.default_rng(seed)
    of = banks(size, rng)
    requests = traffic(size, of, rng)
    simulation = Simulation(size, of)
    tell("the fleet is warmed up")
    simulation.run(islice(requests, size.warm))
    simulation.begin()
    tell("measured")
    simulation.run(islice(requests, size.measured))
    before = simulation.begin()
    seconds = simulation.phase.began - before.began
    dead = frozenset(rng.choice(list(simulation._announced), int(DYING * size.workers), replace=False).tolist())
    homes, moved_to = simulation.first_choices(), simulation.first_choices(dead)
    broken = simulation.kill(dead)
    tell("a tenth is dead")
    simulation.run(requests)
    after = simulation.begin()
    return {
        **_steady(before, seconds, size),
        "dying": {
            "share": DYING,
            "broken_off": broken,
            "retried": after.retried,
            "unanswered": after.unanswered,
            "tenants_moved": _share(homes, moved_to),
            "tenants_moved_needlessly": _share(homes, moved_to, but=dead),
            "tenants_moved_needlessly_at_the_end": _share(homes, simulation.first_choices(dead), but=dead),
            **_recovery(after, before.ours.rates()),
        },
    }


def _steady(phase: Phase, seconds: float, size: Size) -> dict[str, Any]:
    ours, ideal = phase.ours.rates(), phase.ideal.rates()
    of_ideal = {tier: round(ours[tier] / ideal[tier], 4) for tier in TIERS}
    mean = sum(phase.area.values()) / size.workers
    return {
        "hit_rate": of_ideal["node"],
        "imbalance": round(max(phase.area.values()) / mean, 4),
        "hit_rate_of_ideal": of_ideal,
        "hits": {tier: {"policy": round(ours[tier], 4), "ideal": round(ideal[tier], 4)} for tier in TIERS},
        "mean_load": round(mean / seconds, 2),
        "peak_over_mean": round(phase.peak * seconds / mean, 4),
        "measured_seconds": round(seconds, 1),
    }


def _recovery(after: Phase, usual: dict[str, float]) -> dict[str, Any]:
    """Hit rates of the first seconds after the deaths, and when each second's is back at its usual level."""
    seconds = sorted(after.by_second)[:-1]  # the last is not a whole one
    curves = {tier: [after.by_second[second].rates()[tier] / usual[tier] for second in seconds] for tier in TIERS}
    return {
        "hit_rate_right_after": {tier: round(curve[0], 4) for tier, curve in curves.items()},
        "recovery_seconds": {tier: _back(curve) for tier, curve in curves.items()},
        "hit_rate_by_second": {tier: [round(value, 4) for value in curve] for tier, curve in curves.items()},
    }


def _back(curve: Sequence[float]) -> int | None:
    """The first second from which on, for three in a row, the rate is as good as before; `None` if never."""
    return next((i for i in range(len(curve) - 2) if min(curve[i : i + 3]) >= RECOVERED), None)


def _share(before: Sequence[str], after: Sequence[str], but: frozenset[str] = frozenset()) -> float:
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if one not in but]
    return round(sum(one != other for one, other in pairs) / max(1, len(pairs)), 4)


def main() -> None:
    options = _options()
    size = SMALL if options.small else FULL
    began = time.perf_counter()
    report = {
        **simulate(size, options.seed),
        "load_bound": LOAD_BOUND,
        "poll_seconds": POLL_SECONDS,
        "service_seconds": SERVICE_SECONDS,
        "offered_load": MEAN_LOAD,
        "ram": RAM,
        "node_cache": NODE_CACHE,
        "size": asdict(size),
        "seed": options.seed,
        "took_seconds": round(time.perf_counter() - began, 1),
    }
    write_report(options.json, report)
    print(json.dumps({name: report[name] for name in ("hit_rate", "imbalance", "dying")}))  # noqa: T201


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.fleet")
    parser.add_argument("--small", action="store_true", help="forty workers instead of a thousand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("build/bench/fleet.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
