"""The broker restarted, emptied, cut off, half-open: doorbells are lost, jobs are not."""

from __future__ import annotations

import time

import pytest

from tests.faults.brokers import BROKERS, Broker
from tests.faults.choosing import cases
from tests.faults.client import Tenant
from tests.faults.proxy import Link
from tests.faults.stack import Stack

pytestmark = pytest.mark.parametrize("broker_name", BROKERS, indirect=True)


def test_a_broker_restarted_under_a_running_job_costs_nothing(stack: Stack, broker: Broker, tenant: Tenant) -> None:
    running = tenant.remember("last 3")[1]
    stack.until(lambda: tenant.job(running)["status"] == "running", "it runs")
    broker.restart()
    waiting = tenant.remember("train")[1]
    for job_id in (running, waiting):
        tenant.ended(job_id)
    assert tenant.events(running).count("A worker has taken the job.") == 1


def test_an_emptied_broker_is_filled_again(stack: Stack, broker: Broker, tenant: Tenant) -> None:
    busy = [tenant.remember("last 2")[1] for _ in range(3)]
    broker.flush()
    waiting = tenant.remember("train")[1]
    for job_id in (*busy, waiting):
        tenant.ended(job_id)
    broker.flush()
    tenant.ended(tenant.remember("train")[1])


@pytest.mark.parametrize("part", ["orchestrator", "distillation"])
@pytest.mark.parametrize("fault", cases(["cut", "half-open"], "half-open"))
def test_who_is_cut_off_from_the_broker_comes_back(stack: Stack, tenant: Tenant, part: str, fault: str) -> None:
    links: list[Link] = stack.links_of("broker", part)  # type: ignore[arg-type]
    for link in links:
        link.cut() if fault == "cut" else link.swallow()
    job_id = tenant.remember("train")[1]
    time.sleep(3)  # how long it lasts, not what is waited for
    for link in links:
        link.heal()
    tenant.ended(job_id)


@pytest.mark.parametrize("fault", cases(["cut", "half-open"], "half-open"))
def test_a_worker_that_went_deaf_is_not_left_alone_with_the_jobs(stack: Stack, tenant: Tenant, fault: str) -> None:
    """A client of the broker may never notice that its connection is gone; there is no other worker to hear."""
    others = [name for name, p in stack.processes.items() if p.part == "distillation"][1:]
    for name in others:
        stack.processes[name].stop()
    try:
        tenant.ended(tenant.remember("train")[1])
        (link,) = stack.links_of("broker", "distillation")[:1]
        for _ in range(3):
            job_id = tenant.remember("last 1")[1]
            stack.until(lambda job_id=job_id: tenant.job(job_id)["status"] == "running", "it runs")
            link.cut() if fault == "cut" else link.swallow()
            time.sleep(2.5)  # how long it lasts: past the end of the job, whose acknowledgement is lost
            link.heal()
            tenant.ended(job_id)
            tenant.ended(tenant.remember("train")[1])
    finally:
        for name in others:
            stack.start(name, "distillation")
