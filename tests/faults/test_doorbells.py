"""Doorbells lost, doubled, rung at once, and redelivered under a job that is still running."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.brokers import BROKERS, UNACKNOWLEDGED_SECONDS, Broker, ring
from tests.faults.client import Tenant
from tests.faults.process import BROKER_OPTIONS
from tests.faults.stack import Stack

pytestmark = pytest.mark.parametrize("broker_name", BROKERS, indirect=True)


def test_a_doorbell_that_never_rang_is_rung_again(stack: Stack, tenant: Tenant) -> None:
    stack.orders.give("dispatch: committed", "raise")
    _, job_id = tenant.remember("train")
    tenant.ended(job_id)
    assert stack.orders.taken("dispatch: committed")


def test_doorbells_rung_many_times_at_once_make_one_memory(broker: Broker, tenant: Tenant) -> None:
    made = [tenant.remember("last 1") for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda memory: ring(broker, memory[1], times=5), made * 2))
    for memory_id, job_id in made:
        tenant.ended(job_id)
        assert tenant.events(job_id).count("A worker has taken the job.") == 1
        assert tenant.memory(memory_id)["version"] == 1


def test_a_job_longer_than_the_broker_waits_for_its_doorbell_runs_once(stack: Stack, tenant: Tenant) -> None:
    """Redis hands the doorbell out again, RabbitMQ closes the worker's channel (celery#5935, `consumer_timeout`)."""
    stack.environment[BROKER_OPTIONS] = "1"
    workers = [name for name, process in stack.processes.items() if process.part == "distillation"]
    stack.restart(*workers)
    starts = {name: stack.processes[name].starts for name in workers}
    _, job_id = tenant.remember(f"last {UNACKNOWLEDGED_SECONDS * 4}")
    tenant.ended(job_id)
    assert tenant.events(job_id).count("A worker has taken the job.") == 1
    after = tenant.remember("train")[1]
    tenant.ended(after)
    assert {name: stack.processes[name].starts for name in workers} == starts, "no worker has ended"
    stack.environment.clear()
    stack.restart(*workers)
