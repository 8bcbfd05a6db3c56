"""The gauges that every orchestrator reads from the truth."""

from __future__ import annotations

from core.metrics import OrchestratorMetrics
from core.truth import deletions, jobs, workers
from core.truth.database import Database


class Telemetry:
    def __init__(self, database: Database, metrics: OrchestratorMetrics) -> None:
        self._database = database
        self._metrics = metrics

    def run_once(self) -> None:
        with self._database.read() as connection:
            by_state = jobs.count_by_state(connection)
            pending = jobs.pending_device_seconds(connection)
            oldest_deletion = deletions.oldest_seconds(connection)
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
