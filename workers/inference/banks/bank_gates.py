"""The gates of the banks that this worker serves: fitted again beside the questions whenever a bank changes.

The old gate goes on until the new one is there, and judges a new memory meanwhile: no feature depends on the bank.
Only a bank that had nothing to fit a gate to waits for its first one.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from core.gate.calibration import fit
from core.gate.decision import GateModel
from core.gate.prior import PRIOR
from core.gate.samples import Sample
from core.logs import get_logger
from core.metrics import InferenceMetrics

log = get_logger(__name__)


MOST_MEMORIES = 256
"""A gate is fitted to the samples of so many: more of them would move it by less than it is uncertain."""


def basis_of(memory_ids: Collection[str]) -> list[str]:
    """Whose samples a bank's gate is fitted to: all, in a large bank a choice that depends on the ids alone."""
    return sorted(heapq.nsmallest(MOST_MEMORIES, memory_ids, key=lambda one: one[::-1]))


@dataclass(frozen=True, slots=True)
class Basis:
    """What a gate is fitted to: the samples of each memory of a bank, and the promised rate of false activation."""

    memories: tuple[tuple[Sample, ...], ...]
    rate: float

    @property
    def empty(self) -> bool:
        return not any(self.memories)


class BankGates:
    """One gate for each bank. Thread-safe; gates are fitted by `executor`, by default one thread."""

    def __init__(self, metrics: InferenceMetrics, rate: float, executor: Executor | None = None) -> None:
        self._metrics = metrics
        self._rate = rate
        self._executor = executor or ThreadPoolExecutor(1, "calibrate")
        self._wanted: dict[str, Basis] = {}
        self._gates: dict[str, GateModel] = {}
        self._lock = threading.Lock()

    def current(self, tenant_id: str) -> GateModel:
        """The gate that judges this tenant's candidates now."""
        with self._lock:
            return self._gates.get(tenant_id, PRIOR)

    def follow(self, tenant_id: str, memories: Sequence[tuple[Sample, ...]], rate: float | None) -> None:
        """The tenant's bank is of `memories` from now on; `rate` is what it was promised, `None` the default."""
        basis = Basis(tuple(memories), self._rate if rate is None else rate)
        with self._lock:
            before = self._wanted.get(tenant_id)
            if basis == before:
                return
            self._wanted[tenant_id] = basis
        if before is None or before.empty:
            self._fit(tenant_id, basis)
        else:
            self._executor.submit(self._fit, tenant_id, basis)

    def drop(self, tenant_id: str) -> None:
        with self._lock:
            self._wanted.pop(tenant_id, None)
            self._gates.pop(tenant_id, None)

    def _fit(self, tenant_id: str, basis: Basis) -> None:
        if not self._still_wanted(tenant_id, basis):
            return
        start = time.perf_counter()
        try:
            gate, report = fit(basis.memories, basis.rate)
        except Exception:
            # The boundary of the background: the old gate goes on.
            self._metrics.gate_calibrations.labels("failed").inc()
            log.exception("a bank's gate could not be fitted", tenant_id=tenant_id)
            return
        seconds = time.perf_counter() - start
        with self._lock:
            if self._wanted.get(tenant_id) is not basis:
                return
            self._gates[tenant_id] = gate
        self._metrics.gate_calibrations.labels(report.rule).inc()
        self._metrics.gate_calibration_seconds.observe(seconds)
        log.info(
            "gate fitted",
            tenant_id=tenant_id,
            memories=report.memories,
            samples=report.counts,
            rule=report.rule,
            threshold=report.threshold,
            promised_rate=report.promised_rate,
            promise_supported=report.promise_supported,
            expected_rate=report.expected_rate,
            seconds=round(seconds, 3),
        )

    def _still_wanted(self, tenant_id: str, basis: Basis) -> bool:
        """False where the bank has changed again: the next fit is for that."""
        with self._lock:
            return self._wanted.get(tenant_id) is basis
