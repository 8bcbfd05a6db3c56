"""The reaper: takes jobs back whose worker was not heard of again, and forgets workers that are long gone."""

from __future__ import annotations

from core.logs import get_logger
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.truth import jobs, workers
from core.truth.database import Database
from core.truth.records import Job

_FORGET_WORKERS_SECONDS = 3600.0

_log = get_logger(__name__)


class Reaper:
    def __init__(self, database: Database, settings: JobSettings, metrics: OrchestratorMetrics) -> None:
        self._database = database
        self._settings = settings
        self._metrics = metrics

    def run_once(self) -> list[Job]:
        """The jobs that were taken back, as they are now."""
        with self._database.begin() as connection:
            reaped = jobs.reap(connection, self._settings.max_attempts)
            workers.forget_expired(connection, _FORGET_WORKERS_SECONDS)
        for job in reaped:
            self._metrics.reaped.labels(outcome=job.state).inc()
            _log.warning(
                "lease ran out", job_id=job.id, tenant_id=job.tenant_id, state=job.state, attempts=job.attempts
            )
        return reaped
