from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

from core.errors import Unavailable
from core.metrics import OrchestratorMetrics
from core.settings import JobSettings
from core.truth import jobs, workers
from core.truth.database import Database
from core.truth.records import Tenant
from orchestrator.dispatcher import Dispatcher
from orchestrator.reaper import Reaper
from orchestrator.telemetry import Telemetry
from tests.fixtures.truth import add_tenant, admit, claim


class Bells:
    """The in-memory double of the doorbells; `away` makes it a broker that is not there."""

    def __init__(self) -> None:
        self.rung: list[str] = []
        self.away = False

    def ring(self, job_id: str) -> None:
        if self.away:
            raise Unavailable("the broker is away")
        self.rung.append(job_id)


@pytest.fixture
def bells() -> Bells:
    return Bells()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> OrchestratorMetrics:
    return OrchestratorMetrics(registry)


def announce(database: Database, *names: str, ttl: float = 60.0) -> None:
    with database.begin() as connection:
        for name in names:
            workers.announce(connection, name, "distillation", "", {}, ttl)


def admit_many(database: Database, tenant: Tenant, count: int) -> list[str]:
    return [admit(database, tenant)[1].id for _ in range(count)]


def test_a_bell_rings_for_each_idle_worker_and_a_small_buffer_only(
    truth: Database, bells: Bells, metrics: OrchestratorMetrics
) -> None:
    tenant = add_tenant(truth)
    made = admit_many(truth, tenant, 6)
    dispatcher = Dispatcher(truth, bells, JobSettings(dispatch_buffer=1), metrics)
    announce(truth, "one", "two", "three")
    announce(truth, "gone", ttl=-1)
    assert dispatcher.run_once().dispatched == tuple(made[:4])
    assert dispatcher.run_once().dispatched == ()
    with truth.begin() as connection:
        claimed = jobs.claim(connection, made[0], "one", 60)
        assert claimed is not None
    assert dispatcher.run_once().dispatched == (), "it was counted as unanswered, now it runs"
    with truth.begin() as connection:
        jobs.finish(connection, claimed, "failed", "training_failed")
    assert dispatcher.run_once().dispatched == (made[4],)
    assert bells.rung == made[:5]


def test_a_worker_that_runs_a_pack_has_no_room_until_the_pack_ends(
    truth: Database, bells: Bells, metrics: OrchestratorMetrics
) -> None:
    made = admit_many(truth, add_tenant(truth), 9)
    announce(truth, "worker")
    settings = JobSettings(dispatch_buffer=1, in_flight_per_tenant=16, doorbell_timeout_seconds=-1)
    dispatcher = Dispatcher(truth, bells, settings, metrics)
    assert dispatcher.run_once().dispatched == tuple(made[:2]), "the rest of its pack it takes along"
    with truth.begin() as connection:
        assert jobs.claim(connection, made[0], "worker", 60) is not None
    rung = dispatcher.run_once()
    assert (rung.dispatched, rung.again) == ((), ()), "it begins no other before its pack has ended"


def test_without_workers_only_the_buffer_rings(truth: Database, bells: Bells, metrics: OrchestratorMetrics) -> None:
    tenant = add_tenant(truth)
    made = admit_many(truth, tenant, 3)
    dispatcher = Dispatcher(truth, bells, JobSettings(dispatch_buffer=1, doorbell_timeout_seconds=-1), metrics)
    for _ in range(3):
        dispatcher.run_once()
    assert bells.rung == [made[0]], "and nobody was there to answer, so it is not rung again"


def test_a_flood_does_not_hold_up_a_small_tenant(truth: Database, bells: Bells, metrics: OrchestratorMetrics) -> None:
    flood, small = add_tenant(truth, "flood"), add_tenant(truth, "small")
    admit_many(truth, flood, 20)
    announce(truth, "worker")
    dispatcher = Dispatcher(truth, bells, JobSettings(dispatch_buffer=0), metrics)
    (first,) = dispatcher.run_once().dispatched
    (mine,) = admit_many(truth, small, 1)
    order = []
    for job_id in (first, None):
        running = job_id or order[-1]
        with truth.begin() as connection:
            claimed = jobs.claim(connection, running, "worker", 60)
            assert claimed is not None
            jobs.finish(connection, claimed, "failed", "training_failed")
        order += dispatcher.run_once().dispatched
    assert mine in order


def test_a_tenant_has_a_cap_on_jobs_in_flight(truth: Database, bells: Bells, metrics: OrchestratorMetrics) -> None:
    greedy = add_tenant(truth)
    made = admit_many(truth, greedy, 5)
    announce(truth, *(f"worker {number}" for number in range(10)))
    dispatcher = Dispatcher(truth, bells, JobSettings(in_flight_per_tenant=2), metrics)
    dispatcher.run_once()
    dispatcher.run_once()
    assert bells.rung == made[:2]


def test_an_unanswered_bell_rings_again_while_somebody_is_free(
    truth: Database, bells: Bells, metrics: OrchestratorMetrics
) -> None:
    tenant = add_tenant(truth)
    made = admit_many(truth, tenant, 2)
    announce(truth, "worker")
    patient = Dispatcher(truth, bells, JobSettings(doorbell_timeout_seconds=60), metrics)
    hasty = Dispatcher(truth, bells, JobSettings(doorbell_timeout_seconds=-1), metrics)
    assert patient.run_once().dispatched == tuple(made)
    assert patient.run_once().again == ()
    assert hasty.run_once().again == (made[0],), "one worker is free, so one bell rings again"
    with truth.begin() as connection:
        jobs.claim(connection, made[0], "worker", 60)
    assert hasty.run_once().again == (), "nobody is free to answer the other"
    assert bells.rung == [*made, made[0]]


def test_a_broker_that_is_away_costs_no_job_and_no_time(
    truth: Database, bells: Bells, metrics: OrchestratorMetrics
) -> None:
    tenant = add_tenant(truth)
    made = admit_many(truth, tenant, 2)
    announce(truth, "one", "two")
    dispatcher = Dispatcher(truth, bells, JobSettings(), metrics)
    bells.away = True
    dispatcher.run_once()
    dispatcher.run_once()
    bells.away = False
    assert dispatcher.run_once().again == tuple(made)
    assert bells.rung == made


def test_many_dispatchers_ring_each_bell_once(truth: Database, bells: Bells, metrics: OrchestratorMetrics) -> None:
    for _ in range(4):
        admit_many(truth, add_tenant(truth), 5)
    announce(truth, *(f"worker {number}" for number in range(12)))
    dispatchers = [Dispatcher(truth, bells, JobSettings(dispatch_buffer=0), metrics) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Dispatcher.run_once, dispatchers))
    assert len(bells.rung) == len(set(bells.rung)) == 12


def test_a_lost_job_is_reaped_and_dispatched_again(
    truth: Database, bells: Bells, metrics: OrchestratorMetrics, registry: CollectorRegistry
) -> None:
    tenant = add_tenant(truth)
    _, job = admit(truth, tenant)
    announce(truth, "worker")
    settings = JobSettings(max_attempts=2)
    dispatcher, reaper = Dispatcher(truth, bells, settings, metrics), Reaper(truth, settings, metrics)
    for _ in range(2):
        dispatcher.run_once()
        claim(truth, job, lease_seconds=-0.01)
        reaper.run_once()
    assert dispatcher.run_once().dispatched == ()
    assert bells.rung == [job.id, job.id]
    assert registry.get_sample_value("latentbank_jobs_reaped_total", {"outcome": "queued"}) == 1
    assert registry.get_sample_value("latentbank_jobs_reaped_total", {"outcome": "failed"}) == 1
    assert registry.get_sample_value("latentbank_doorbells_total") == 2
    assert registry.get_sample_value("latentbank_job_queue_wait_seconds_count") == 1


def test_gauges_show_what_the_truth_holds(
    truth: Database, metrics: OrchestratorMetrics, registry: CollectorRegistry
) -> None:
    tenant = add_tenant(truth)
    admit_many(truth, tenant, 2)
    claim(truth, admit(truth, tenant)[1])
    announce(truth, "worker")
    Telemetry(truth, metrics).run_once()
    assert registry.get_sample_value("latentbank_jobs", {"state": "queued"}) == 2
    assert registry.get_sample_value("latentbank_jobs", {"state": "running"}) == 1
    assert registry.get_sample_value("latentbank_jobs", {"state": "failed"}) == 0
    assert registry.get_sample_value("latentbank_workers", {"kind": "distillation"}) == 1
    assert registry.get_sample_value("latentbank_workers", {"kind": "inference"}) == 0
    assert registry.get_sample_value("latentbank_pending_device_seconds") == pytest.approx(180.0)
