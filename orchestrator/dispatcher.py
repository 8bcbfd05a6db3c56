"""Dispatch: moves jobs from the backlog to the queue of doorbells, fairly, and only as fast as workers get free."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from core.errors import Unavailable
from core.logs import get_logger
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.truth import jobs, workers
from core.truth.database import Database, exclusive
from core.truth.records import WorkerRecord
from orchestrator.celery_app import Doorbells

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rung:
    """What one pass decided: jobs dispatched for the first time in this wait, and doorbells rung once more."""

    dispatched: tuple[str, ...]
    again: tuple[str, ...]


class Dispatcher:
    """Any number may run: a pass holds the dispatcher's lock, and everything it knows is in the database."""

    def __init__(
        self, database: Database, doorbells: Doorbells, settings: JobSettings, metrics: OrchestratorMetrics
    ) -> None:
        self._database = database
        self._doorbells = doorbells
        self._settings = settings
        self._metrics = metrics

    def run_once(self) -> Rung:
        """Decides and records in one transaction, then rings: a crash between the two is only a late doorbell."""
        with self._database.begin() as connection:
            exclusive(connection, "dispatch")
            rung, waits = self._decide(connection)
        for wait in waits:
            self._metrics.queue_wait_seconds.observe(wait)
        self._ring((*rung.again, *rung.dispatched))
        return rung

    def _decide(self, connection: Connection) -> tuple[Rung, list[float]]:
        flight = jobs.in_flight(connection)
        free_workers = idle(workers.alive(connection, "distillation"), flight.busy)
        again = jobs.ring_overdue(
            connection,
            timeout_seconds=self._settings.doorbell_timeout_seconds,
            limit=free_workers,  # a doorbell is only late if somebody was free to answer it
        )
        free = free_workers + self._settings.dispatch_buffer - flight.unanswered
        departures = self._dispatch(connection, flight, free) if free > 0 else []
        waits = [departure.seconds_since_admission for departure in departures if departure.first]
        return Rung(tuple(departure.job_id for departure in departures), tuple(again)), waits

    def _dispatch(self, connection: Connection, flight: jobs.InFlight, free: int) -> list[jobs.Departure]:
        return jobs.depart(
            connection,
            flight,
            free,
            lambda job_ids: jobs.mark_all_dispatched(connection, job_ids),
            in_flight_per_tenant=self._settings.in_flight_per_tenant,
        )

    def _ring(self, job_ids: Sequence[str]) -> None:
        """Stops at the first that the broker does not take; the rest are rung at the next pass."""
        for place, job_id in enumerate(job_ids):
            try:
                self._doorbells.ring(job_id)
            except Unavailable as problem:
                _log.warning("broker did not take a doorbell", job_id=job_id, error=problem.message)
                with self._database.begin() as connection:
                    jobs.unring(connection, job_ids[place:])
                return
            self._metrics.doorbells.inc()
            _log.info("doorbell rung", job_id=job_id)


def idle(alive: Sequence[WorkerRecord], busy: Collection[str]) -> int:
    """Workers that run nothing. Each is rung for one job; what else goes into its pack, it takes along by itself."""
    return sum(worker.id not in busy for worker in alive)
