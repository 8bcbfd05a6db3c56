"""Cancel and delete racing publish, in both orders, and the collector racing a publisher."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.client import Tenant
from tests.faults.processes import await_state, resume
from tests.faults.stack import Stack

BEFORE, AFTER = "upload: manifest stored", "publish: before commit"
"""Of the commit point: a rival's wish at the first wins over publishing, one at the second has to wait for it."""


@pytest.mark.parametrize("rival", ["cancel", "delete"])
def test_a_rival_before_the_commit_wins(stack: Stack, tenant: Tenant, rival: str) -> None:
    stack.orders.give(BEFORE, "sleep", seconds=1.5)
    memory_id, job_id = tenant.remember("train")
    stack.until(lambda: stack.orders.taken(BEFORE), "the manifest is stored")
    tenant.cancel(job_id) if rival == "cancel" else tenant.delete(memory_id)
    tenant.ended(job_id, "cancelled")
    assert tenant.memory(memory_id)["version"] is None


@pytest.mark.parametrize("rival", ["cancel", "delete"])
def test_a_rival_after_the_commit_comes_too_late_for_it(stack: Stack, tenant: Tenant, rival: str) -> None:
    stack.orders.give(AFTER, "sleep", seconds=1.5)
    memory_id, job_id = tenant.remember("train")
    stack.until(lambda: stack.orders.taken(AFTER), "publishing holds its locks")
    tenant.cancel(job_id) if rival == "cancel" else tenant.delete(memory_id)
    tenant.ended(job_id)
    assert tenant.memory(memory_id)["status"] == ("ready" if rival == "cancel" else "deleted")


@pytest.mark.parametrize("point", ["gateway: cancel before commit", "gateway: deletion before commit"])
def test_a_publisher_waits_for_a_rival_that_was_first(stack: Stack, tenant: Tenant, point: str) -> None:
    stack.orders.give(point, "sleep", seconds=1.5)
    memory_id, job_id = tenant.remember("wait go")
    stack.until(lambda: tenant.job(job_id)["status"] == "running", "it runs")
    with ThreadPoolExecutor(1) as pool:
        wish = pool.submit(lambda: tenant.cancel(job_id) if "cancel" in point else tenant.delete(memory_id))
        stack.until(lambda: stack.orders.taken(point), "the rival holds its locks")
        (stack.directory / "go").touch()
        wish.result()
    (stack.directory / "go").unlink()
    tenant.ended(job_id, "cancelled")


def test_a_deleted_memory_is_purged_although_its_publisher_wakes_later(stack: Stack, tenant: Tenant) -> None:
    stack.orders.give("upload: a file stored", "stop")
    memory_id, job_id = tenant.remember("train")
    stack.until(lambda: stack.orders.taken("upload: a file stored"), "the publisher sleeps")
    (pid,) = stack.orders.taken("upload: a file stored")
    await_state(pid, "T")
    tenant.delete(memory_id)
    tenant.ended(job_id, "cancelled")
    stack.until(lambda: tenant.memory(memory_id)["purged_at"] is not None, "it is purged")
    resume(pid)


def test_the_collector_takes_nothing_from_a_publisher(stack: Stack, tenant: Tenant) -> None:
    """With a margin of no time, and stopped between asking the rows and deleting."""
    memory_id, first = tenant.remember("train")
    tenant.ended(first)
    second = tenant.revise(memory_id, "train anew")
    assert second is not None
    tenant.ended(second)
    stack.orders.give("collect: before delete", "stop")
    stack.environment["LATENTBANK_JOBS__GARBAGE_MARGIN_SECONDS"] = "0"
    stack.restart("orchestrator")
    stack.environment.clear()
    stack.until(lambda: stack.orders.taken("collect: before delete"), "the collector sleeps")
    (pid,) = stack.orders.taken("collect: before delete")
    await_state(pid, "T")
    stack.start("orchestrator-2", "orchestrator")
    third = tenant.revise(memory_id, "train again")
    assert third is not None
    tenant.ended(third)
    resume(pid)
    stack.restart("orchestrator")
    stack.processes.pop("orchestrator-2").stop()
    assert tenant.memory(memory_id)["version"] == 3
