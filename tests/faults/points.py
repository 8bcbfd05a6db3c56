"""The named points at which a fault may be ordered: before or after a function of the product, as it is looked up.

The product knows nothing of them: `process.py` wraps the functions in the processes of a test. "Before commit" is
inside the transaction, so that the fault takes it back; "committed" is after it, before anybody else was told.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Part = Literal["gateway", "orchestrator", "distillation", "inference"]
When = Literal["before", "after"]
Action = Literal["kill", "stop", "sleep", "raise"]


@dataclass(frozen=True, slots=True)
class Point:
    """`before` or `after` a call of `module:name`."""

    part: Part
    module: str
    name: str
    when: When


POINTS: dict[str, Point] = {
    "gateway: context stored": Point("gateway", "gateway.intake", "store_object", "after"),
    "gateway: admission before commit": Point("gateway", "gateway.intake", "admit", "after"),
    "gateway: admission committed": Point("gateway", "gateway.routes.memories", "_answer", "before"),
    "gateway: revision before commit": Point("gateway", "gateway.revising", "revise", "after"),
    "gateway: deletion before commit": Point("gateway", "gateway.routes.memories", "delete_memory", "after"),
    "gateway: cancel before commit": Point("gateway", "gateway.routes.jobs", "request_cancel", "after"),
    "dispatch: before commit": Point("orchestrator", "core.truth.jobs", "mark_all_dispatched", "after"),
    "dispatch: committed": Point("orchestrator", "orchestrator.celery_app", "CeleryDoorbells.ring", "before"),
    "dispatch: bell rung": Point("orchestrator", "orchestrator.celery_app", "CeleryDoorbells.ring", "after"),
    "reap: before commit": Point("orchestrator", "core.truth.jobs", "reap", "after"),
    "collect: rows asked": Point("orchestrator", "orchestrator.garbage", "GarbageCollector._unnamed", "after"),
    "collect: before delete": Point("orchestrator", "orchestrator.garbage", "GarbageCollector._delete", "before"),
    "purge: before mark": Point("orchestrator", "core.truth.forgetting", "purge_rows", "before"),
    "claim: doorbell heard": Point("distillation", "workers.distillation.pool", "perform", "before"),
    "claim: before commit": Point("distillation", "core.truth.jobs", "claim", "after"),
    "claim: committed": Point("distillation", "workers.distillation.task", "_Gathering.take", "before"),
    "mates: before commit": Point("distillation", "core.truth.jobs", "claim_mates", "after"),
    "backlog: claimed before commit": Point("distillation", "core.truth.packing", "claim_all", "after"),
    "run: context read": Point("distillation", "workers.distillation.attempt", "Attempt._context", "after"),
    "run: requested": Point("distillation", "workers.distillation.group", "place", "after"),
    "run: progress before commit": Point("distillation", "core.truth.jobs", "advance_all", "after"),
    "run: heartbeat before commit": Point("distillation", "core.truth.jobs", "renew", "after"),
    "run: outcome heard": Point("distillation", "workers.distillation.attempt", "Attempt.accept", "before"),
    "upload: begins": Point("distillation", "workers.distillation.exports", "Exports.upload", "before"),
    "upload: a file stored": Point("distillation", "core.storage.publication", "_put_verified", "after"),
    "upload: before the manifest": Point("distillation", "core.storage.publication", "manifest_key", "before"),
    "upload: manifest stored": Point("distillation", "workers.distillation.exports", "Exports.upload", "after"),
    "publish: before commit": Point("distillation", "core.truth.leases", "_make_current", "after"),
    "publish: committed": Point("distillation", "workers.distillation.attempt", "Attempt._end", "before"),
    "adopt: found": Point("distillation", "workers.distillation.exports", "Exports.adopt", "after"),
    "end: before commit": Point("distillation", "core.truth.jobs", "finish", "after"),
    "give up: before commit": Point("distillation", "core.truth.jobs", "give_up", "after"),
    "run: ended": Point("distillation", "workers.distillation.pack", "Pack.run", "after"),
    "load: before fetch": Point("inference", "core.storage.node_cache", "NodeCache._download", "before"),
    "load: fetched": Point("inference", "core.storage.node_cache", "NodeCache._download", "after"),
}


class Ordered(Exception):
    """The fault `raise`: a bug of ours, as far as the product can tell."""


@dataclass(frozen=True, slots=True)
class Orders:
    """A directory in which a test leaves orders and processes tell what they did.

    `<slug>.<number>.order` holds action and seconds; who reaches the point first takes it, by a rename that only one
    can do, to `<slug>.<number>.taken.<pid>`.
    """

    directory: Path

    def give(self, point: str, action: Action, *, seconds: float = 0.0, times: int = 1) -> None:
        assert point in POINTS, point
        for _ in range(times):
            name = f"{slug(point)}.{time.monotonic_ns()}"
            partial = self.directory / f"{name}.partial"
            partial.write_text(f"{action} {seconds}")
            partial.rename(self.directory / f"{name}.order")

    def taken(self, point: str) -> list[int]:
        """The ids of the processes that carried an order for this point out."""
        return [int(path.suffix[1:]) for path in sorted(self.directory.glob(f"{slug(point)}.*.taken.*"))]

    def clear(self) -> None:
        """Takes orders back that nobody has come across, and forgets those that were carried out."""
        for path in self.directory.iterdir():
            path.unlink(missing_ok=True)

    def take(self, point: str) -> tuple[str, float] | None:
        for path in sorted(self.directory.glob(f"{slug(point)}.*.order")):
            with contextlib.suppress(FileNotFoundError):
                taken = path.rename(path.with_suffix(f".taken.{os.getpid()}"))
                action, seconds = taken.read_text().split()
                return action, float(seconds)
        return None


def slug(point: str) -> str:
    return point.replace(": ", "-").replace(" ", "_")


def install(part: str, orders: Orders) -> None:
    """Wraps the functions of this part's points; to be called before the part's own code runs."""
    for name, point in POINTS.items():
        if point.part == part:
            owner, attribute = resolve(point)
            setattr(owner, attribute, _wrapped(getattr(owner, attribute), name, point.when, orders))


def resolve(point: Point) -> tuple[Any, str]:
    """The module or class that has the function, and the function's name in it."""
    owner: Any = importlib.import_module(point.module)
    *path, attribute = point.name.split(".")
    for step in path:
        owner = getattr(owner, step)
    assert callable(getattr(owner, attribute))
    return owner, attribute


def _wrapped(function: Callable[..., Any], name: str, when: When, orders: Orders) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            _reach(name, orders)
        result = function(*args, **kwargs)
        if when == "after":
            _reach(name, orders)
        return result

    return call


def _reach(name: str, orders: Orders) -> None:
    order = orders.take(name)
    if order is None:
        return
    action, seconds = order
    if action in ("kill", "stop"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
        threading.Event().wait(0.5)  # the signal reaches some thread of the process, perhaps not this one first
    elif action == "sleep":
        time.sleep(seconds)
    elif action == "raise":
        raise Ordered(name)


def of_part(part: str) -> Iterator[str]:
    return (name for name, point in POINTS.items() if point.part == part)
