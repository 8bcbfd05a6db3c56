"""SIGKILL at every boundary between two steps: the job still ends as it would have, once."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.choosing import cases
from tests.faults.client import Tenant
from tests.faults.points import POINTS
from tests.faults.processes import children, marked
from tests.faults.stack import Stack

WAY = ("gateway: context", "gateway: admission", "dispatch", "claim", "mates", "run", "upload", "publish")
ON_THE_WAY = [name for name in POINTS if name.startswith(WAY)]
"""Every point that a job comes by on its way to success."""
IN_EVERY_RUN = (
    "gateway: admission committed",
    "dispatch: committed",
    "claim: committed",
    "run: progress before commit",
    "upload: manifest stored",
    "publish: before commit",
    "publish: committed",
)


@pytest.mark.parametrize("point", cases(ON_THE_WAY, *IN_EVERY_RUN))
def test_a_process_killed_at_any_step_costs_an_attempt_and_no_memory(stack: Stack, tenant: Tenant, point: str) -> None:
    stack.orders.give(point, "kill")
    _, job_id = tenant.remember("train")
    tenant.ended(job_id)
    assert len(stack.orders.taken(point)) == 1


def test_a_pool_process_killed_together_with_its_guard_leaves_no_process(stack: Stack, tenant: Tenant) -> None:
    """Stopped first, so that it does not see that the guard is gone."""
    job_id = tenant.remember("last 2")[1]
    stack.until(lambda: tenant.job(job_id)["status"] == "running", "it runs")
    pools = [
        pid for process in stack.processes.values() if process.part == "distillation" for pid in children(process.pid)
    ]
    guards = [pid for pool in pools for pid in children(pool)]
    assert guards
    left = set(marked(stack.mark))
    for number, pids in ((signal.SIGSTOP, pools), (signal.SIGKILL, guards), (signal.SIGKILL, pools)):
        for pid in pids:
            os.kill(pid, number)
    tenant.ended(job_id)
    of_groups = left - {process.pid for process in stack.processes.values()}
    stack.until(lambda: not of_groups & set(marked(stack.mark)), "nothing of the groups is left")


def test_a_process_killed_while_it_takes_jobs_from_the_backlog_loses_none(stack: Stack, tenant: Tenant) -> None:
    stack.orders.give("backlog: claimed before commit", "kill")
    made = [tenant.remember("last 0.5")[1] for _ in range(6)]
    for job_id in made:
        tenant.ended(job_id)
    assert len(stack.orders.taken("backlog: claimed before commit")) == 1
