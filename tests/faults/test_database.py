"""The database away at heartbeat and at commit, and commits that were done but whose reply was lost."""

from __future__ import annotations

import time

import pytest

from tests.faults.choosing import cases
from tests.faults.client import Tenant
from tests.faults.stack import LEASE_SECONDS, Stack

REPLIES = {
    "claim": b"A worker has taken the job.",
    "publish": b"The memory is ready.",
}
"""What a transaction writes that no other does."""


def test_a_database_away_for_less_than_the_lease_costs_nothing(stack: Stack, tenant: Tenant) -> None:
    job_id = tenant.remember("last 3")[1]
    stack.until(lambda: tenant.job(job_id)["status"] == "running", "it runs")
    _cut_workers(stack, LEASE_SECONDS / 3)
    tenant.ended(job_id)
    assert tenant.events(job_id).count("A worker has taken the job.") == 1


@pytest.mark.parametrize("fault", cases(["cut", "half-open"], "half-open"))
def test_who_cannot_renew_discards_its_work_and_another_does_it(stack: Stack, tenant: Tenant, fault: str) -> None:
    memory_id, job_id = tenant.remember("last 4")
    stack.until(lambda: tenant.job(job_id)["status"] == "running", "it runs")
    holder = _holder(stack, job_id)
    link = stack.link("postgres", holder)
    link.cut() if fault == "cut" else link.swallow()
    tenant.ended(job_id)
    link.heal()
    assert tenant.events(job_id).count("A worker has taken the job.") >= 2
    assert tenant.memory(memory_id)["version"] == 1
    other = next(name for name, p in stack.processes.items() if p.part == "distillation" and name != holder)
    stack.processes[other].stop()
    try:
        tenant.ended(tenant.remember("train")[1])  # by the one that was cut off
    finally:
        stack.start(other, "distillation")


@pytest.mark.parametrize("seconds", cases([1.0, LEASE_SECONDS + 2], 1.0))
def test_a_database_away_at_the_commit_loses_no_memory(stack: Stack, tenant: Tenant, seconds: float) -> None:
    stack.orders.give("upload: manifest stored", "sleep", seconds=0.5)
    memory_id, job_id = tenant.remember("train")
    stack.until(lambda: stack.orders.taken("upload: manifest stored"), "the manifest is there")
    _cut_workers(stack, seconds)
    tenant.ended(job_id)
    assert tenant.memory(memory_id)["version"] == 1


@pytest.mark.parametrize("what", REPLIES)
def test_a_commit_whose_reply_was_lost_counts_once(stack: Stack, tenant: Tenant, what: str) -> None:
    links = stack.links_of("postgres", "distillation")
    before = sum(link.injected["reply dropped"] for link in links)
    for link in links:
        link.drop_reply(b"COMMIT", marker=REPLIES[what])
    memory_id, job_id = tenant.remember("train")
    tenant.ended(job_id)
    assert sum(link.injected["reply dropped"] for link in links) > before
    assert tenant.memory(memory_id)["version"] == 1


def test_an_admission_whose_reply_was_lost_is_one_memory(stack: Stack, tenant: Tenant) -> None:
    link = stack.link("postgres", "gateway")
    before = link.injected["reply dropped"]
    link.drop_reply(b"COMMIT", marker=b"The memory is accepted; its job waits.")
    tenant.ended(tenant.remember("train")[1])
    assert link.injected["reply dropped"] == before + 1


@pytest.mark.parametrize("part", ["gateway", "orchestrator"])
@pytest.mark.parametrize("fault", cases(["cut", "half-open"], "half-open"))
def test_who_is_cut_off_from_the_database_comes_back(stack: Stack, tenant: Tenant, part: str, fault: str) -> None:
    link = stack.link("postgres", part)
    link.cut() if fault == "cut" else link.swallow()
    time.sleep(2)  # how long it lasts, not what is waited for
    link.heal()
    tenant.ended(tenant.remember("train")[1])


def _cut_workers(stack: Stack, seconds: float) -> None:
    links = stack.links_of("postgres", "distillation")
    for link in links:
        link.cut()
    time.sleep(seconds)
    for link in links:
        link.heal()


def _holder(stack: Stack, job_id: str) -> str:
    """The name of the process that runs the job: the one whose log says that it claimed it."""
    stack.until(lambda: _claimants(stack, job_id), "somebody says that it claimed the job")
    return _claimants(stack, job_id)[-1]


def _claimants(stack: Stack, job_id: str) -> list[str]:
    return [
        process.name
        for process in stack.processes.values()
        if process.part == "distillation" and job_id in process.log.read_text(errors="replace")
    ]
