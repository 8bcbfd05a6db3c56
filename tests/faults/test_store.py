"""The object store slow, busy, lying and silent, at each thing that is asked of it."""

from __future__ import annotations

import pytest

from tests.faults.choosing import cases
from tests.faults.client import Tenant
from tests.faults.stack import Stack
from tests.faults.store_proxy import StoreFault

ASKED = {"context": ("GET", "context"), "weights": ("PUT", "safetensors"), "manifest": ("PUT", "manifest.json")}
READ_BACK = {"weights": ("GET", "safetensors"), "manifest": ("GET", "manifest.json"), "context": ("GET", "context")}


@pytest.mark.parametrize("fault", cases(["503", "slow", "late success"], "503", "late success"))
@pytest.mark.parametrize("what", cases(ASKED, "weights", "manifest"))
def test_a_store_that_is_slow_busy_or_silent_costs_no_memory(
    stack: Stack, tenant: Tenant, what: str, fault: StoreFault
) -> None:
    method, part = ASKED[what]
    _fails_well(stack, tenant, fault, method, part)


@pytest.mark.parametrize("fault", ["truncated", "corrupted"])
@pytest.mark.parametrize("what", cases(READ_BACK, "weights"))
def test_bytes_that_come_back_otherwise_are_never_taken(
    stack: Stack, tenant: Tenant, what: str, fault: StoreFault
) -> None:
    method, part = READ_BACK[what]
    _fails_well(stack, tenant, fault, method, part)


@pytest.mark.parametrize("fault", ["503", "late success", "away"])
def test_a_context_that_the_store_did_not_take_well_is_taken_once(
    stack: Stack, tenant: Tenant, fault: StoreFault
) -> None:
    stack.stores["gateway"].fail(fault, method="PUT", part="context", times=3)
    tenant.ended(tenant.remember("train")[1])


def test_a_store_that_is_away_for_a_while_poisons_no_job(stack: Stack, tenant: Tenant) -> None:
    """Longer than all attempts of a job together would take to fail."""
    workers = [name for name, process in stack.processes.items() if process.part == "distillation"]
    stack.orders.give("claim: committed", "sleep", seconds=0.5, times=len(workers))
    made = [tenant.remember("train")[1] for _ in range(2)]
    stack.until(lambda: stack.orders.taken("claim: committed"), "a job is claimed")
    before = sum(stack.stores[name].injected["away"] for name in workers)
    for name in workers:
        stack.stores[name].fail("away", times=10**6)
    away = 120 * len(workers)
    stack.until(lambda: sum(stack.stores[name].injected["away"] for name in workers) > before + away, "much fails")
    for name in workers:
        stack.stores[name].heal()
    for job_id in made:
        tenant.ended(job_id)


def _fails_well(stack: Stack, tenant: Tenant, fault: StoreFault, method: str, part: str) -> None:
    stores = [stack.stores[name] for name, process in stack.processes.items() if process.part == "distillation"]
    before = sum(store.injected[fault] for store in stores)
    for store in stores:
        store.fail(fault, method=method, part=part, seconds=0.7)
    tenant.ended(tenant.remember("train")[1])
    assert sum(store.injected[fault] for store in stores) > before
