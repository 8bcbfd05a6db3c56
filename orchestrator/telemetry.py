"""The gauges that every orchestrator reads from the truth, and whether the object store answers."""

from __future__ import annotations

from core.errors import LatentBankError
from core.logs import get_logger
from core.metrics import OrchestratorMetrics
from core.storage.object_store import ObjectStore
from core.truth import deletions, jobs, workers
from core.truth.database import Database

_POISON_SECONDS = 24 * 3600.0

_log = get_logger(__name__)


class Telemetry:
    def __init__(self, database: Database, metrics: OrchestratorMetrics) -> None:
        self._database = database
        self._metrics = metrics

    def run_once(self) -> None:
        with self._database.read() as connection:
            by_state = jobs.count_by_state(connection)
            pending = jobs.pending_device_seconds(connection)
            oldest_deletion = deletions.oldest_seconds(connection)
            poisoned = jobs.count_poisoned(connection, _POISON_SECONDS)
            alive = {
                "distillation": len(workers.alive(connection, "distillation")),
                "inference": len(workers.alive(connection, "inference")),
            }
        for state, count in by_state.items():
            self._metrics.jobs.labels(state=state).set(count)
        for kind, count in alive.items():
            self._metrics.workers_alive.labels(kind=kind).set(count)
        self._metrics.pending_device_seconds.set(pending)
        self._metrics.deletion_oldest_seconds.set(oldest_deletion)
        self._metrics.poisoned.set(poisoned)


class StoreProbe:
    """Asks the store beside all other duties, each of which would wait for one that is slow."""

    def __init__(self, store: ObjectStore, metrics: OrchestratorMetrics) -> None:
        self._store = store
        self._metrics = metrics

    def run_once(self) -> bool:
        """Whether it answered."""
        try:
            self._store.check()
        except LatentBankError as problem:
            _log.warning("the object store does not answer", problem=problem.message)
            self._metrics.store_up.set(0)
            return False
        self._metrics.store_up.set(1)
        return True
