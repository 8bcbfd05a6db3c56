from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from core.errors import StorageError
from core.metrics import OrchestratorMetrics
from core.storage.memory import MemoryStore
from core.truth import jobs
from core.truth.database import Database
from orchestrator.telemetry import StoreProbe, Telemetry
from tests.fixtures.truth import add_tenant, admit, claim


def test_jobs_that_lost_every_attempt_are_counted_for_a_day(truth: Database) -> None:
    registry = CollectorRegistry()
    telemetry = Telemetry(truth, OrchestratorMetrics(registry))
    tenant = add_tenant(truth)
    for attempts in (1, 5):
        _, job = admit(truth, tenant)
        lost = claim(truth, job)
        with truth.begin() as connection:
            jobs.give_up(connection, lost, attempts, "trainer_lost", "It died.")
    telemetry.run_once()
    assert b"latentbank_jobs_poisoned 1.0" in generate_latest(registry)
    with truth.read() as connection:
        assert jobs.count_poisoned(connection, 0) == 0


def test_a_store_that_does_not_answer_is_seen() -> None:
    class Away(MemoryStore):
        away = True

        def check(self) -> None:
            if self.away:
                raise StorageError("Away.")

    registry, store = CollectorRegistry(), Away()
    probe = StoreProbe(store, OrchestratorMetrics(registry))
    assert not probe.run_once()
    assert b"latentbank_object_store_up 0.0" in generate_latest(registry)
    store.away = False
    assert probe.run_once()
    assert b"latentbank_object_store_up 1.0" in generate_latest(registry)
