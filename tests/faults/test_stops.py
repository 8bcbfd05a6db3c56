"""SIGSTOP past the lease, then SIGCONT: somebody else does the work meanwhile, and who wakes changes nothing."""

from __future__ import annotations

import pytest

from tests.faults.choosing import cases
from tests.faults.client import Tenant
from tests.faults.processes import await_state, parent, resume
from tests.faults.stack import Stack

OF_A_WORKER = (
    "claim: before commit",
    "run: heartbeat before commit",
    "run: outcome heard",
    "upload: a file stored",
    "upload: manifest stored",
    "publish: before commit",
)


@pytest.mark.parametrize("point", cases(OF_A_WORKER, "upload: manifest stored", "publish: before commit"))
def test_who_sleeps_past_the_lease_is_replaced_and_changes_nothing_when_it_wakes(
    stack: Stack, tenant: Tenant, point: str
) -> None:
    stack.orders.give(point, "stop")
    memory_id, job_id = tenant.remember("last 2")
    stack.until(lambda: stack.orders.taken(point), "the worker sleeps")
    (pid,) = stack.orders.taken(point)
    await_state(pid, "T")
    tenant.ended(job_id)
    digest = tenant.memory(memory_id)["digest"]
    resume(pid)
    later = tenant.remember("train")[1]
    tenant.ended(later)
    assert (tenant.memory(memory_id)["version"], tenant.memory(memory_id)["digest"]) == (1, digest)
    assert parent(pid), "it lives on"


@pytest.mark.parametrize("point", cases(["dispatch: before commit", "reap: before commit"], "dispatch: before commit"))
def test_an_orchestrator_that_sleeps_holds_up_no_other(stack: Stack, tenant: Tenant, point: str) -> None:
    stack.orders.give(point, "stop")
    _, job_id = tenant.remember("train")
    stack.until(lambda: stack.orders.taken(point), "the orchestrator sleeps")
    await_state(stack.orders.taken(point)[0], "T")
    stack.start("orchestrator-2", "orchestrator")
    try:
        tenant.ended(job_id)
    finally:
        resume(*stack.orders.taken(point))
        stack.processes.pop("orchestrator-2").stop()
