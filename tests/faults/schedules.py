"""Random schedules: what tenants do and what breaks meanwhile, drawn from a seed, played on a stack that stays up."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.brokers import Broker, ring
from tests.faults.client import Tenant, new_tenant
from tests.faults.invariants import broken
from tests.faults.points import POINTS, Action
from tests.faults.processes import children, stopped
from tests.faults.stack import LEASE_SECONDS, Stack
from tests.faults.store_proxy import StoreFault

SECONDS = 3.0
"""How long a schedule goes on; then everything is healed, and has to settle."""

STORE_FAULTS: tuple[StoreFault, ...] = ("503", "slow", "truncated", "corrupted", "late success", "away")
TEXTS = ("train", "train", "last 0.5", "last 2", "nan", "empty", "zero", "foreign", "refuse")
TENANTS = 2
MOST_ATTEMPTS_LOST = 3
"""Fewer faults of a schedule cost an attempt than a job has: what ends as poison then is a bug."""

Kind = Literal["wish", "order", "kill", "link", "store", "broker", "bells"]


@dataclass(frozen=True, slots=True)
class Step:
    """`at` seconds after the schedule's beginning."""

    at: float
    kind: Kind
    what: str
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    seed: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        lines = (f"  {s.at:4.1f} s  {s.kind} {s.what} {s.detail} {s.seconds or ''}".rstrip() for s in self.steps)
        return f"SEED={self.seed}\n" + "\n".join(lines)


def drawn(seed: int) -> Schedule:
    """The schedule of a seed, always the same one."""
    chance = random.Random(seed)
    wishes = [_wish(chance) for _ in range(chance.randint(4, 8))]
    faults = [_fault(chance) for _ in range(chance.randint(1, 4))]
    spared = _spare_attempts(faults)
    return Schedule(seed, tuple(sorted([*wishes, *spared], key=lambda step: step.at)))


def _wish(chance: random.Random) -> Step:
    what = chance.choices(("remember", "revise", "cancel", "delete"), (10, 3, 2, 2))[0]
    return Step(chance.uniform(0, SECONDS * 0.8), "wish", what, chance.choice(TEXTS))


def _fault(chance: random.Random) -> Step:
    at = chance.uniform(0, SECONDS)
    kind = chance.choices(("order", "kill", "link", "store", "broker", "bells"), (8, 3, 3, 4, 1, 1))[0]
    if kind == "order":
        points = [name for name, point in POINTS.items() if point.part != "inference"]
        action: Action = chance.choices(("kill", "stop", "sleep", "raise"), (5, 2, 2, 2))[0]
        return Step(
            chance.uniform(0, 1), "order", chance.choice(points), action, chance.uniform(0.2, LEASE_SECONDS + 1)
        )
    if kind == "kill":
        return Step(at, "kill", chance.choice(("gateway", "orchestrator", "distil-1", "distil-2", "pool", "group")))
    if kind == "link":
        name = chance.choice(("gateway", "orchestrator", "distil-1", "distil-2"))
        server = "postgres" if name == "gateway" else chance.choice(("postgres", "broker"))
        fault = chance.choice(("cut", "half-open", "delay", "reply dropped"))
        return Step(at, "link", f"{server}:{name}", fault, chance.uniform(0.3, LEASE_SECONDS + 1))
    if kind == "store":
        name = chance.choice(("gateway", "orchestrator", "distil-1", "distil-2"))
        return Step(at, "store", name, chance.choice(STORE_FAULTS), chance.uniform(0.2, 1.5))
    if kind == "broker":
        return Step(at, "broker", chance.choice(("restart", "flush")))
    return Step(at, "bells", str(chance.randint(1, 10)))


def _spare_attempts(faults: Sequence[Step]) -> list[Step]:
    """Without those that could cost one job more attempts than it has."""
    kept: list[Step] = []
    costs = 0
    for fault in faults:
        costs += fault.kind in ("order", "kill", "link", "store")
        if costs <= MOST_ATTEMPTS_LOST:
            kept.append(fault)
    return kept


@dataclass
class Player:
    """Plays schedules on one stack, and counts what was injected."""

    stack: Stack
    broker: Broker
    injected: Counter[str] = field(default_factory=Counter)

    def play(self, schedule: Schedule) -> list[str]:
        """Plays it to its end; the violations of what must hold."""
        self.stack.orders.clear()
        before = self._counted()
        tenants = [new_tenant(self.stack, f"tenant {i}") for i in range(TENANTS)]
        began = time.monotonic()
        chance = random.Random(schedule.seed)
        with ThreadPoolExecutor(8) as pool:
            wishes = []
            for step in schedule.steps:
                time.sleep(max(0.0, began + step.at - time.monotonic()))
                self.stack.tend()
                if step.kind == "wish":
                    wishes.append(pool.submit(_wished, step, chance.choice(tenants), chance.random()))
                else:
                    self._break(step, tenants, pool)
            time.sleep(max(0.0, began + SECONDS - time.monotonic()))
            if stopped(self.stack.mark):
                time.sleep(LEASE_SECONDS)  # past the lease, so that it is a zombie that wakes
            self.stack.heal()
            for wish in wishes:
                wish.result()
            taken = {name: len(self.stack.orders.taken(name)) for name in POINTS}
        found = broken(self.stack, tenants)
        for step in schedule.steps:
            if step.kind == "order" and taken[step.what]:
                self.injected[f"{step.detail} at {step.what}"] += 1
        for name, count in (self._counted() - before).items():
            self.injected[name] += count
        return found

    def _break(self, step: Step, tenants: Sequence[Tenant], pool: ThreadPoolExecutor) -> None:
        stack = self.stack
        if step.kind == "order":
            stack.orders.give(step.what, step.detail, seconds=step.seconds)  # type: ignore[arg-type]
        elif step.kind == "kill":
            self._kill(step.what)
        elif step.kind == "link":
            pool.submit(self._link, step)
        elif step.kind == "store":
            stack.stores[step.what].fail(step.detail, times=3, seconds=step.seconds)  # type: ignore[arg-type]
        elif step.kind == "broker":
            self.injected[f"broker: {step.what}"] += 1
            pool.submit(self.broker.restart if step.what == "restart" else self.broker.flush)
        else:
            jobs = [job_id for tenant in tenants for made in tenant.acknowledged.values() for _, job_id in made]
            for job_id in jobs:
                pool.submit(_quietly, lambda job_id=job_id: ring(self.broker, job_id, int(step.what)))
                self.injected["doorbells rung beside the dispatcher's"] += int(step.what)

    def _kill(self, what: str) -> None:
        """`pool` is a worker's pool process, `group` its trainer's guard."""
        self.injected[f"kill: {what}"] += 1
        if what not in ("pool", "group"):
            self.stack.processes[what].kill()
            return
        victims = children(self.stack.processes["distil-1"].pid)
        if what == "group":
            victims = [grandchild for child in victims for grandchild in children(child)]
        for pid in victims:
            _quietly(lambda pid=pid: os.kill(pid, signal.SIGKILL))

    def _link(self, step: Step) -> None:
        link = self.stack.network.links[step.what]
        if step.detail == "cut":
            link.cut()
        elif step.detail == "half-open":
            link.swallow()
        elif step.detail == "delay":
            link.delay(step.seconds / 10)
        else:
            link.drop_reply(b"COMMIT" if step.what.startswith("postgres") else b"distil")
        time.sleep(step.seconds)
        link.heal()

    def _counted(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for name, link in self.stack.network.links.items():
            found.update({f"{name.partition(':')[0]}: {fault}": count for fault, count in link.injected.items()})
        for store in self.stack.stores.values():
            found.update({f"store: {fault}": count for fault, count in store.injected.items()})
        return found


def _wished(step: Step, tenant: Tenant, chance: float) -> None:
    made = list(tenant.acknowledged)
    if step.what == "remember" or not made:
        tenant.remember(step.detail)
        return
    memory_id = made[int(chance * len(made))]
    if step.what == "revise":
        tenant.revise(memory_id, step.detail)
    elif step.what == "cancel":
        tenant.cancel(tenant.acknowledged[memory_id][-1][1])
    else:
        tenant.delete(memory_id)


def _quietly(act: Callable[[], object]) -> None:
    """A victim may be gone already, a broker away: that is no fault of the schedule."""
    try:
        act()
    except OSError:
        return
    except Exception as problem:  # noqa: BLE001 - kombu and redis have errors of their own
        print(f"not done: {problem!r}")  # noqa: T201
